"""Hand-crafted features of single cells: measured here, or read from a CellProfiler table.

They are the classical description of a cell (size, shape, intensity, texture, ...) that a learned
representation is compared with. The measurements are CellProfiler's (Stirling et al. 2021, BMC
Bioinformatics 22:433): those of outlines are taken with cp_measure (Muñoz et al. 2025,
arXiv:2507.01163), those of pixels by `util.features`. The clean-up follows image-based profiling
practice (Caicedo et al. 2017, Nature Methods 14:849).

Functions that build a table return `(table, report)`: `report` is a list of lines for the user,
possibly empty.
"""

import hashlib
import json
import re
import zipfile
import zlib
from collections.abc import Collection, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy
from tqdm import tqdm

from util.cell_cache import fingerprint
from util.crops import Crops
from util.data_processing import Cells
from util.errors import UserError, explain_os_error
from util.features.cell_blocks import POSITION, Groups, measure_block
from util.files import write_atomically
from util.latents import OF_PROJECTIONS
from util.metadata import match_rows
from util.tables import counts_rows, read_table

CELLS_PER_BLOCK = 64  # larger blocks fall out of the CPU cache, smaller ones cost calls
SIDE_STEP = 16  # crops are padded to multiples of this many pixels, to be measured in blocks
CACHE_FORMAT = 2  # raise it when masks or measurements change, so that old caches are not read

# Book-keeping, positions, boxes, ids and counters, as CellProfiler, pycytominer, scikit-image's
# regionprops_table, squidpy, Fiji, QuPath and Harmony call them; also ground truth and projections.
# Whatever is no letter or digit is an underscore here.
_METADATA = re.compile(
    r"^(Unnamed|Metadata|Image|FileName|PathName|URL|GT|CP|PositionOnRegressionPlane|Group|"
    r"TrackObjects)(_|$)|^(FileName|PathName|PositionOnRegressionPlane)"
    r"|^(Image_?Number|Table_?Number|Plate|Well|Site|Class|Label|split|index|level_0|row|col|column|"
    r"field|fov|slice|plane|frame|series|roi|barcode|batch|leiden|louvain|cluster|time_?point|"
    r"(object|cell|image|nucleus|track|sample|parent)(_?(id|no|number|index|idx|label|name))?|"
    r"id|idx|number|counter|no)(_?\d+)?$"
    r"|(^|_)(Object_?Number|Number_Object_Number|cell_?id)$|(^|_)(Parent|Children|Number)_"
    r"|ClosestObjectNumber"
    r"|(^|_)Location_|BoundingBoxM(in|ax)imum|(^|_)bbox_\d"
    r"|(^|_)(Centroid|Center|Centre|Position|Pos|Coord|Coords|Spatial)(_[a-z]+)?_?([xyz]|\d)(_|$)"
    r"|^(c?[xyz]|[xy]m|b[xy]|feret[xy])(_(px|um|m|pixels?))?$"
    r"|^[xyz]_?(pos|position|centroid|cent|center|centre|coord|location|loc)(_|$)",
    re.IGNORECASE,
)
_OF_PROJECTIONS = re.compile(OF_PROJECTIONS, re.IGNORECASE)
# Names that only measurements have, so that a table may be both metadata and features.
_MEASURED = re.compile(
    r"(^|_)(AreaShape|Intensity|Texture|Granularity|RadialDistribution|Correlation|Neighbors)_"
)
# Angles: -90 degrees is next to 90, but far from it in Euclidean distance.
_CIRCULAR = re.compile(r"(^|_)orientation$|ZernikePhase_|^(Feret)?Angle$", re.IGNORECASE)


def measure_features(
    images: np.ndarray,
    masked: bool,
    *,
    originals: Crops | None = None,
    channel_names: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    groups: Groups = "fast",
    n_jobs: int | None = None,
    progress: bool = True,
) -> tuple[pd.DataFrame, list[str]]:
    """Measure CellProfiler's features of each cell.

    `fast`: size and shape, Feret diameters, intensity, correlation between channels (Pearson,
    Manders). `full` adds spatial moments, Zernike moments of shape and intensity, texture, radial
    distribution, granularity, rank-weighted and Costes colocalisation, at about 5 times the cost.

    Only the pixels of the mask (`cell_masks.find_masks`) count: all others are set to 0 first, so
    that a value depends on the cell alone. Intensities are fractions of full scale: 255
    for uint8, for uint16 the smallest 2^b - 1 (b >= 8) that no pixel of the set exceeds, since
    cameras of 10 or 12 bits write uint16 as well.

    Args:
        images: (N, C, S, S) uint8 or uint16, an array or a memory map.
        masked: whether the background is exactly 0 (see `cell_masks.find_masks`).
        originals: the cells at their own size, where `images` are rescaled; these are measured.
        channel_names: C different names, the suffix of columns that belong to a channel
            (`Intensity_MeanIntensity_DNA`) or a pair of them; `ch0`, `ch1`, ... by default.
        ids: N different names, the index of the table; 0..N-1 by default.
        groups: "fast" or "full".
        n_jobs: worker processes; by default one per CPU.
        progress: whether to show a progress bar.

    Returns:
        One row per cell in the order of `images`, float64 columns named as in CellProfiler; NaN
        where a feature is undefined for a cell. Positions are left out. And the report: cells
        that were not found, so that a central disc was measured instead.

    Raises:
        UserError: wrong shape or type of the images, names that do not fit, unknown group.
    """
    names = _check_request(images, channel_names, ids, groups)
    images = images if originals is None else originals
    table, found = _measure(images, masked, names, groups, n_jobs=n_jobs, progress=progress)
    return _with_ids(table, found, ids)


def features_of(
    images: np.ndarray,
    masked: bool,
    *,
    originals: Crops | None = None,
    channel_names: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    groups: Groups = "fast",
    cache_dir: Path | None = None,
    n_jobs: int | None = None,
    progress: bool = True,
) -> tuple[pd.DataFrame, list[str]]:
    """`measure_features`, kept in a file of `cache_dir` so that a second call is immediate.

    The file's name holds a SHA-256 fingerprint of pixels, shape, type, settings and cp_measure's
    version; `ids` are not part of it. A damaged file is measured again, and the report says so.
    Without `cache_dir` nothing is written.
    """
    names = _check_request(images, channel_names, ids, groups)
    if cache_dir is None:
        return measure_features(
            images,
            masked,
            originals=originals,
            channel_names=names,
            ids=ids,
            groups=groups,
            n_jobs=n_jobs,
            progress=progress,
        )
    images = images if originals is None else originals
    path = Path(cache_dir) / f"features-{groups}-{_fingerprint(images, masked, names, groups)}.npz"
    cached, report = _read_cache(path, len(images))
    if cached is None:
        cached = _measure(images, masked, names, groups, n_jobs=n_jobs, progress=progress)
        _write_cache(path, *cached)
    table, mask_report = _with_ids(*cached, ids)
    return table, report + mask_report


def hand_crafted_features(
    choice: str, cells: Cells | None, ids: Sequence[str], groups: Groups = "fast"
) -> tuple[pd.DataFrame | None, list[str]]:
    """Hand-crafted features of a data set, ready to compare cells by.

    Args:
        choice: `measure` on the images, `none`, or the path of a table with Unique_ID.
        cells: images to measure; they may be absent for the other choices.
        ids: N names of the cells.
        groups: what to measure (`measure_features`).

    Returns:
        (N, F) cleaned features, a row of NaN for a cell that has none, or None; and notes.

    Raises:
        UserError: as `read_cellprofiler_table` and `clean_features`.
    """
    if choice == "none":
        return None, []
    if choice == "measure":
        raw, notes = features_of(
            cells.images,
            cells.masked,
            originals=cells.originals,
            channel_names=cells.channels,
            ids=list(ids),
            groups=groups,
            cache_dir=cells.cache,
        )
    else:
        known = () if cells is None else cells.table.columns
        raw, notes = read_cellprofiler_table(choice, list(ids), known)
    clean, more = clean_features(raw)
    return clean, notes + more


def refuse_identical(images: np.ndarray) -> None:
    """Raise a UserError if all images (N, C, S, S) are the same, so that no feature varies."""
    starts = range(0, len(images), CELLS_PER_BLOCK)
    if all((images[i : i + CELLS_PER_BLOCK] == images[:1]).all() for i in starts):
        raise UserError(
            f"`features` measure: the {len(images)} cells have the same pixels "
            f"({images[0].min()} to {images[0].max()}), so no feature varies: check the images"
        )


def read_cellprofiler_table(
    path: Path | str, ids: Sequence[str], known: Collection[str] = ()
) -> tuple[pd.DataFrame, list[str]]:
    """Read a table of features with a row per cell (`metadata.match_rows`), of X of an .h5ad too.

    Positions, boxes, numbers of objects and rows, metadata, ground truth (`GT_*`) and projections
    (`VAE_*`, `UMAP_*`, `TSNE_*`, `PCA_*`) are not features and are left out.

    Args:
        path: a table (`tables.read_table`); undefined values are empty or `nan`.
        ids: names of the cells wanted.
        known: columns of the metadata, which are no features.

    Returns:
        The numeric features, float64, one row per id in the order of `ids`; a row of NaN where
        the file has no such cell. And the report: ids without a partner, text columns left out.

    Raises:
        UserError: there is no such file, it is no table, no column holds the ids, one stands in two
            rows, there is no numeric feature, or no id in common.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"`features` {path}: there is no such file")
    table = read_table(path, matrix=True)
    names = pd.Series(list(ids), dtype=object).astype(str)
    if names.duplicated().any():
        raise UserError(f"cell {names[names.duplicated()].iloc[0]} is asked for twice")
    places, notes = match_rows(table, names, str(path), all_images=True)
    absent = names.drop(places[places >= 0])
    if len(absent):
        notes.append(f"{path}: no features for cells {_name_some(list(absent))}")
    candidates = table[[name for name in table if not is_metadata(str(name))]]
    of_metadata = [n for n in candidates if n in set(known) and not _MEASURED.search(n)]
    candidates = candidates.drop(columns=["Unique_ID", *of_metadata], errors="ignore")
    features = candidates.select_dtypes("number").astype(np.float64)
    texts = candidates.columns.difference(features.columns)
    features = features[[name for name in features if not counts_rows(features[name])]]
    if features.columns.empty:
        raise UserError(f"{path}: no numeric feature column besides metadata and positions")
    if of_metadata := [name for name in of_metadata if name != "Unique_ID"]:
        notes.append(f"{path}: no features, as the metadata has them: {_name_some(of_metadata)}")
    if len(texts):
        notes.append(f"{path}: left out as not numeric: columns {_name_some(texts)}")
    row_of_cell = np.full(len(names), -1)
    row_of_cell[places[places >= 0]] = np.flatnonzero(places >= 0)
    index = pd.Index(names, name="Unique_ID")
    return features.reindex(row_of_cell).set_axis(index, axis=0), table.attrs["notes"] + notes


def is_metadata(column: str) -> bool:
    """Whether a column is not a feature: book-keeping, a position, or rounding errors only."""
    plain = re.sub(r"[^A-Za-z0-9]+", "_", column).strip("_")
    return bool(
        _METADATA.search(plain) or POSITION.search(column) or _OF_PROJECTIONS.search(column)
    )


def clean_features(
    table: pd.DataFrame,
    max_missing: float = 0.05,
    max_correlation: float = 0.95,
    clip: float = 10.0,
) -> tuple[pd.DataFrame, list[str]]:
    """Select and normalise features, as profilers do (Caicedo et al. 2017; cf. pycytominer).

    In this order, columns are dropped: angles (orientation, Zernike phase: circular, so distances
    mislead); columns with more than `max_missing` of their values missing or infinite (in others
    the column's median replaces them); constant columns; and, from left to right, each column with
    an absolute Pearson correlation above `max_correlation` to a column already kept. The rest is
    z-scored robustly, (x - median) / (1.4826 MAD), with the standard deviation where the MAD is 0,
    and clipped to [-clip, clip]. Deterministic.

    Args:
        table: (N, F) numeric features.
        max_missing: largest fraction of missing values of a column, 0..1.
        max_correlation: largest absolute correlation of two columns kept, 0..1.
        clip: largest absolute z-score, in robust standard deviations.

    Returns:
        The matrix, N rows, float32. The row of a cell without any value (no partner in the user's
        table) stays NaN and is not used. And the report: the dropped columns, by reason.

    Raises:
        UserError: no cell or no column is left.
    """
    values = table.astype(np.float64).replace([np.inf, -np.inf], np.nan)
    dropped: dict[str, list[str]] = {}
    measured = values[values.notna().any(axis=1)]
    if measured.empty:
        raise UserError(f"no feature is left: none of the {len(table)} cells has any")

    def drop(reason: str, columns: Sequence[str]) -> None:
        nonlocal measured
        dropped[reason] = list(columns)
        measured = measured.drop(columns=dropped[reason])

    drop("angles", [name for name in measured if _CIRCULAR.search(str(name))])
    drop("missing values", measured.columns[measured.isna().mean() > max_missing])
    measured = measured.fillna(measured.median())
    drop("constant", measured.columns[_is_constant(measured.to_numpy())])
    drop("correlated", measured.columns[_is_redundant(measured.to_numpy(), max_correlation)])

    report = _cleaning_report(table.shape[1], dropped, len(table) - len(measured))
    if measured.empty:
        raise UserError(f"no feature is left to compare cells by: {'; '.join(report)}")
    scores = (measured - measured.median()) / _robust_scale(measured.to_numpy())
    matrix = scores.clip(-clip, clip).reindex(table.index).astype(np.float32)
    return matrix, report


def _check_request(
    images: np.ndarray, names: Sequence[str] | None, ids: Sequence[str] | None, groups: str
) -> list[str]:
    """Refuse what cannot be measured; return the channel names."""
    if images.ndim != 4 or images.shape[2] != images.shape[3] or 0 in images.shape:
        raise UserError(f"images of shape {images.shape}: (N, C, S, S) with at least one cell")
    if images.dtype not in (np.uint8, np.uint16):
        raise UserError(f"images of type {images.dtype}: features are measured on uint8 or uint16")
    if groups not in ("fast", "full"):
        raise UserError(f"feature groups {groups!r}: 'fast' or 'full'")
    channels = images.shape[1]
    names = [f"ch{c}" for c in range(channels)] if names is None else list(map(str, names))
    if len(names) != channels or len(set(names)) != channels:
        raise UserError(f"channel names {names}: {channels} different ones are needed")
    if ids is not None and (len(ids) != len(images) or len(set(ids)) != len(images)):
        raise UserError(
            f"{len(set(ids))} different ids for {len(images)} cells: one each is needed"
        )
    return names


def _measure(
    images: np.ndarray | Crops,
    masked: bool,
    names: Sequence[str],
    groups: Groups,
    *,
    n_jobs: int | None,
    progress: bool,
) -> tuple[pd.DataFrame, np.ndarray]:
    """The table of `measure_features` without ids, and whether each cell was found, (N,) bool."""
    from joblib import Parallel, cpu_count, delayed

    full_scale = _full_scale(images)
    blocks = _blocks(images)
    jobs = (
        delayed(measure_block)(_take(images, *block), masked, names, groups, full_scale=full_scale)
        for block in blocks
    )
    workers = min(n_jobs or cpu_count(), len(blocks))
    measured = Parallel(n_jobs=workers, return_as="generator")(jobs)
    with tqdm(total=len(images), desc="features", unit="cell", disable=not progress) as bar:
        tables, found = [], []
        for columns, block_found in measured:
            tables.append(pd.DataFrame(columns))
            found.append(block_found)
            bar.update(len(block_found))
    in_order = np.argsort(np.concatenate([rows for rows, _ in blocks]))
    return pd.concat(tables).iloc[in_order].reset_index(drop=True), np.concatenate(found)[in_order]


def _blocks(images: np.ndarray | Crops) -> list[tuple[np.ndarray, int]]:
    """Rows that are measured together, and the side they are padded to.

    The side of a crop depends on the crop alone, so that its features do, too.
    """
    if isinstance(images, Crops):
        sides = -(-images.shapes.max(axis=1) // SIDE_STEP) * SIDE_STEP
    else:
        sides = np.full(len(images), images.shape[-1])
    blocks = []
    for side in np.unique(sides):
        rows = np.flatnonzero(sides == side)
        starts = range(CELLS_PER_BLOCK, len(rows), CELLS_PER_BLOCK)
        blocks += [(block, int(side)) for block in np.split(rows, starts)]
    return blocks


def _take(images: np.ndarray | Crops, rows: np.ndarray, side: int) -> np.ndarray:
    """(n, C, side, side) of the cells of a block."""
    if isinstance(images, Crops):
        return images.padded(rows, side)
    return np.asarray(images[rows[0] : rows[-1] + 1])  # all rows are of one side


def _full_scale(images: np.ndarray | Crops) -> int:
    """The grey level that becomes 1: 255, or the smallest 2^b - 1 that no uint16 pixel exceeds."""
    if images.dtype == np.uint8:
        return 255
    pixels = images.pixels if isinstance(images, Crops) else images.reshape(-1)
    starts = range(0, len(pixels), 2**24)
    highest = max(int(pixels[i : i + 2**24].max()) for i in starts)
    return 2 ** max(highest.bit_length(), 8) - 1


def _with_ids(
    table: pd.DataFrame, found: np.ndarray, ids: Sequence[str] | None
) -> tuple[pd.DataFrame, list[str]]:
    """Put the ids on the rows, and name the cells that a disc replaced."""
    table = table.set_axis(range(len(table)) if ids is None else list(ids), axis=0)
    lost = table.index[~found]
    if lost.empty:
        return table, []
    return table, [f"no cell found in {_name_some(lost)}: a central disc was measured instead"]


def _name_some(names: Sequence[Any], most: int = 5) -> str:
    """Count the names and list the first ones: "7 (a, b, c, d, e, ...)"."""
    listed = ", ".join(map(str, names[:most])) + (", ..." if len(names) > most else "")
    return f"{len(names)} ({listed})"


def _fingerprint(
    images: np.ndarray | Crops, masked: bool, names: Sequence[str], groups: Groups
) -> str:
    """24 hexadecimal digits that change with the pixels, the settings or the measuring code."""
    settings = [bool(masked), list(names), groups]
    packages = ("cp_measure", "centrosome", "scikit-image")
    code = [CACHE_FORMAT, *map(version, packages)]
    pixels = images.fingerprint() if isinstance(images, Crops) else fingerprint(images)
    words = json.dumps([pixels, *settings, *code])
    return hashlib.sha256(words.encode()).hexdigest()[:24]


def _write_cache(path: Path, table: pd.DataFrame, found: np.ndarray) -> None:
    with explain_os_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as temporary:
        columns = table.columns.to_numpy(dtype=str)
        np.savez_compressed(temporary, columns=columns, values=table.to_numpy(), found=found)


def _read_cache(
    path: Path, n_cells: int
) -> tuple[tuple[pd.DataFrame, np.ndarray] | None, list[str]]:
    """Table and found flags, or None where there is no usable file; and what to tell the user."""
    if not path.exists():
        return None, []
    try:
        with np.load(path, allow_pickle=False) as stored:
            table = pd.DataFrame(stored["values"], columns=stored["columns"])
            found = stored["found"]
        if len(table) != n_cells or found.shape != (n_cells,):
            raise ValueError(f"{len(table)} rows for {n_cells} cells")
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        return None, [f"{path} is damaged ({error}): the features were measured again"]
    return (table, found), []


def _is_constant(values: np.ndarray) -> np.ndarray:
    """Columns whose range is within rounding of their largest value: (N, F) -> (F,) bool."""
    return np.ptp(values, axis=0) <= 1e-9 * np.abs(values).max(axis=0)


def _is_redundant(values: np.ndarray, limit: float) -> np.ndarray:
    """Columns correlated beyond `limit` with an earlier one that is kept: (N, F) -> (F,) bool."""
    too_close = np.abs(np.atleast_2d(np.corrcoef(values, rowvar=False))) > limit  # (F, F)
    redundant = np.zeros(values.shape[1], dtype=bool)
    for column in range(1, len(redundant)):
        redundant[column] = (too_close[column, :column] & ~redundant[:column]).any()
    return redundant


def _robust_scale(values: np.ndarray) -> np.ndarray:
    """1.4826 MAD of each column, its standard deviation where the MAD is 0: (N, F) -> (F,)."""
    spread = scipy.stats.median_abs_deviation(values, axis=0, scale="normal")
    # Not exactly 0 where most cells share a value up to rounding.
    negligible = spread <= 1e-9 * np.abs(values).max(axis=0)
    return np.where(negligible, values.std(axis=0), spread)


def _cleaning_report(n_columns: int, dropped: dict[str, list[str]], absent: int) -> list[str]:
    """What was left out, a line for each reason."""
    report = [f"{reason}: {_name_some(names)}" for reason, names in dropped.items() if names]
    kept = n_columns - sum(map(len, dropped.values()))
    report.insert(0, f"{kept} of {n_columns} features kept")
    if absent:
        report.append(f"{absent} cells have no features at all")
    return report
