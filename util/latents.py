"""latents.csv, and the columns of coordinates in any table of cells.

latents.csv is what a run hands on: a row per cell, in the order of the data set.

| column | content |
| --- | --- |
| Unique_ID | name of the cell's image |
| GT_label, dose, ... | what is known of the cell |
| split | `train` or `valid` |
| VAE_x_coord, VAE_y_coord, VAE_z_coord, VAE_4_coord, ... | posterior mean of the cell |
| VAE_x_logvar, ... | log-variance of its posterior |
| UMAP_X, UMAP_Y, UMAP_Z, TSNE_X, ... | its place in the projections beside the VAE |

A run that was fine-tuned with feedback also holds the means before it, VAE_before_x_coord, ...
Tables from elsewhere name their coordinates UMAP_X, RTSNE_30_y, PC_30, X_umap-0, z_0 or umap1;
`find_projections` reads all of these.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from util.errors import UserError
from util.metadata import name_columns, text_columns
from util.tables import once_each, read_table

OWN = "VAE"  # name of the projection that a run has learnt
AXES = "xyz"  # more latent axes are called 4, 5, ...
LEAST_AXES = 2  # of a projection that is found by the names of its columns

METHODS = (
    "umap|r?t-?sne|pca?|ica?|nmf|mds|lda|lle|isomap|phate|pacmap|trimap|diffmap|dc|fa|factor|"
    "latent|lv|vae|scvi|embedding|emb|dim|component|comp|z"
)
# UMAP_X, RTSNE_30_y, PC_30, X_umap-0, umap1, VAE_z_coord, VAE_12_coord: name and axis
_COORDINATE = re.compile(
    rf"^(?P<name>.+?(?=[-_. ])|(X_)?({METHODS}))[-_. ]?"
    r"(?P<axis>(?<=[-_. ])[xyz]|0|[1-9]\d*)(?P<code>_coord)?$",
    re.IGNORECASE,
)
# Positions in the field of view, and features that are numbered.
_NO_PROJECTION = re.compile(
    r"^(GT|CP)(_|$)|loca|cent|pos|bound|bbox|moment|inertia|zernike|haralick"
    r"|^(AreaShape|Intensity|Texture|Granularity|RadialDistribution|Correlation|Metadata)_",
    re.IGNORECASE,
)
_SWEPT = re.compile(r"^(?P<method>UMAP|R?TSNE|PCA)_(?P<value>[\d.]+)$", re.IGNORECASE)
# Columns that a program like this one has written, as no feature of a cell.
OF_PROJECTIONS = (
    r"^(VAE|UMAP|R?TSNE|PCA)_|_(coord|logvar)$|^(X_)?(UMAP|R?T-?SNE|PCA?)[-_. ]?([xyz]|\d+)$"
    r"|_local_Q_score$|_backbone_distance$"
)
_RESERVED = re.compile(rf"^split$|{OF_PROJECTIONS}", re.IGNORECASE)


def axis_names(latent_dim: int) -> list[str]:
    """Names of the latent axes: x, y, z, 4, 5, ..."""
    return [AXES[i] if i < len(AXES) else str(i + 1) for i in range(latent_dim)]


def code_columns(latent_dim: int, name: str = OWN) -> list[str]:
    """Columns of posterior means: VAE_x_coord, VAE_y_coord, ..."""
    return [f"{name}_{axis}_coord" for axis in axis_names(latent_dim)]


def logvar_columns(codes: Sequence[str]) -> list[str]:
    """Columns of the log-variances that belong to columns of posterior means: VAE_x_logvar, ..."""
    return [re.sub("_coord$", "_logvar", column) for column in codes]


def map_columns(name: str, dimensions: int) -> list[str]:
    """Columns of any other projection: UMAP_X, UMAP_Y, UMAP_Z."""
    return [f"{name}_{axis.upper()}" for axis in axis_names(dimensions)]


def anchor_columns(latent_dim: int) -> list[str]:
    """Columns of the place that an expert gives a cell: x_anchor, y_anchor, z_anchor, 4_anchor."""
    return [f"{axis}_anchor" for axis in axis_names(latent_dim)]


def is_code_column(column: object) -> bool:
    """Whether a column holds the posterior means or log-variances of an encoder."""
    return str(column).endswith(("_coord", "_logvar"))


def find_code_columns(table: pd.DataFrame, name: str = OWN) -> list[str]:
    """The columns of posterior means that a table has under this name, in its order."""
    return [
        str(column)
        for column in table
        if (found := _COORDINATE.match(str(column))) and found["code"] and found["name"] == name
    ]


def find_projections(
    table: pd.DataFrame, asked: Sequence[str] = (), source: str = "the table"
) -> dict[str, list[str]]:
    """Name -> coordinate columns of every projection in a table.

    Args:
        table: a row per cell.
        asked: columns of one projection, or NAME=COLUMN,COLUMN for each; empty finds columns named
            like coordinates: at least two axes of one name, x, y, z or numbers that count from 0
            or 1 without a gap.
        source: what an error calls the table.

    Raises:
        UserError: a column is missing, none is asked for and none found, or two columns that are
            found are the same axis.

    Examples:
        >>> table = pd.DataFrame(columns="UMAP_X UMAP_Y GT_x GT_y dose".split(), dtype=float)
        >>> find_projections(table)
        {'UMAP': ['UMAP_X', 'UMAP_Y']}
        >>> find_projections(table, ["mine=dose,UMAP_X"])
        {'mine': ['dose', 'UMAP_X']}
    """
    there = name_columns(table)
    found = _asked_for(asked) if asked else _named_like_coordinates(table)
    if not asked:
        _refuse_an_axis_twice(found, source)
    if not found:
        raise UserError(
            f"{source} has no columns named like coordinates (UMAP_X, UMAP_Y, ...): name them with "
            f"`columns`; it has {there}"
        )
    for column in (column for columns in found.values() for column in columns):
        if column not in table:
            raise UserError(f"{source} has no column {column!r}; it has {there}")
    return found


def _asked_for(asked: Sequence[str]) -> dict[str, list[str]]:
    """Name -> columns, from COLUMN, ... or from NAME=COLUMN,COLUMN, ..."""
    if not any("=" in part for part in asked):
        return {_common_name(asked): list(asked)}
    found = {}
    for part in asked:
        name, _, columns = part.partition("=")
        if not name or not columns:
            raise UserError(f"`columns` {part}: give NAME=COLUMN,COLUMN for each projection")
        found[name] = columns.split(",")
    return found


def _common_name(columns: Sequence[str]) -> str:
    """UMAP of UMAP_X, UMAP_Y, UMAP_Z."""
    matches = [_COORDINATE.match(column) for column in columns]
    names = {match["name"] for match in matches if match}
    return names.pop() if len(names) == 1 and all(matches) else "projection"


def _named_like_coordinates(table: pd.DataFrame) -> dict[str, list[str]]:
    """Name -> columns in the order of their axes, of two axes or more without a gap."""
    found: dict[str, dict[str, int]] = {}
    for column in map(str, table.select_dtypes("number").columns):
        match = _COORDINATE.match(column)
        if match and not _NO_PROJECTION.search(match["name"]):
            found.setdefault(match["name"], {})[column] = _axis_number(match["axis"].lower())
    return {
        name: sorted(axes, key=axes.get)
        for name, axes in found.items()
        if len(axes) >= LEAST_AXES and _count_up(set(axes.values()))
    }


def _axis_number(axis: str) -> int:
    return AXES.index(axis) + 1 if axis in AXES else int(axis)


def _refuse_an_axis_twice(projections: Mapping[str, Sequence[str]], source: str) -> None:
    for name, columns in projections.items():
        first: dict[int, str] = {}
        for column in columns:
            axis = _axis_number(_COORDINATE.match(column)["axis"].lower())
            other = first.setdefault(axis, column)
            if other != column:
                raise UserError(
                    f"{source}: {other} and {column} are the same axis of {name}: name the columns "
                    "of each projection with `columns`"
                )


def _count_up(axes: set[int]) -> bool:
    """Whether axes are numbered from 0 or 1 without a gap; letters alone may leave one out."""
    return axes <= {1, 2, 3} or axes == set(range(min(axes), max(axes) + 1)) and min(axes) < 2


def rename_reserved(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Rename the user's columns that a run writes itself, such as `split` or UMAP_X; and a note.

    An earlier latents.csv, or coordinates of another program, would otherwise be taken for what the
    run has made.
    """
    names = {str(name): f"{name}_metadata" for name in table if _RESERVED.search(str(name))}
    if not names:
        return table, []
    table = table.rename(columns=names)
    table.columns = once_each(list(map(str, table.columns)))
    note = f"{len(names)} columns of the metadata have names that a run uses itself: renamed to "
    return table, [note + ", ".join(list(names.values())[:3]) + (", ..." if len(names) > 3 else "")]


def swept_parameter(name: str) -> tuple[str, float] | None:
    """Method and value of a projection that a sweep has named, as (`UMAP`, 15.0) of UMAP_15."""
    match = _SWEPT.match(name)
    return match and (match["method"], float(match["value"]))


def known_of(table: pd.DataFrame, projections: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """What is known of the cells: the table without these and any other coordinates."""
    named = [*projections.values(), *_named_like_coordinates(table).values()]
    coordinates = {column for columns in named for column in columns}
    logvars = {column for column in table if str(column).endswith("_logvar")}
    return table.drop(columns=list(coordinates | logvars))


def logvars_of(
    table: pd.DataFrame, projections: Mapping[str, Sequence[str]]
) -> dict[str, np.ndarray]:
    """Name -> (N, d) log-variances, of the projections that have them beside their means."""
    beside = {name: logvar_columns(columns) for name, columns in projections.items()}
    return {
        name: table[columns].to_numpy(float)
        for name, columns in beside.items()
        if columns != list(projections[name]) and all(column in table for column in columns)
    }


def coordinates_of(latents: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """(N, 1 to 3) coordinates to draw: the first three axes; a row with any gap is all NaN.

    Raises:
        UserError: a column is missing.
    """
    absent = [column for column in columns if column not in latents]
    if absent or not columns:
        raise UserError(f"no column {', '.join(absent) or 'given'} in the latent table")
    points = latents[list(columns)].to_numpy(float, na_value=np.nan)
    points[~np.isfinite(points).all(axis=1)] = np.nan
    return points[:, : len(AXES)]


def table_of_run(
    cells: pd.DataFrame,
    valid: np.ndarray,
    mean: np.ndarray,
    logvar: np.ndarray,
    maps: Mapping[str, np.ndarray],
) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """What a run writes into latents.csv, and name -> coordinate columns of its projections.

    Args:
        cells: N rows, what is known of the cells.
        valid: indices of the validation cells.
        mean, logvar: (N, d) posteriors.
        maps: name -> (N, 1 to 3) coordinates of the projections beside the VAE.
    """
    projections = {OWN: code_columns(mean.shape[1])}
    columns = dict(zip(projections[OWN], mean.T, strict=True))
    columns |= dict(zip(logvar_columns(projections[OWN]), logvar.T, strict=True))
    for name, coordinates in maps.items():
        projections[name] = map_columns(name, coordinates.shape[1])
        columns |= dict(zip(projections[name], coordinates.T, strict=True))
    table = cells.assign(split="train")
    table.loc[valid, "split"] = "valid"
    return pd.concat([table, pd.DataFrame(columns, index=table.index)], axis=1), projections


def read_latents(folder: Path) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """latents.csv of a run, and name -> coordinate columns of its projections, the VAE first."""
    latents = read_table(folder / "latents.csv", text_columns())
    projections = find_projections(latents, source=str(folder / "latents.csv"))
    return latents, dict(sorted(projections.items(), key=lambda named: named[0] != OWN))


def read_codes(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means and log-variances of a run's cells, (N, d) float32 each.

    Raises:
        UserError: latents.csv lacks their columns.
    """
    latents = read_table(folder / "latents.csv")
    columns = find_code_columns(latents)
    absent = [column for column in logvar_columns(columns) if column not in latents]
    if not columns or absent:
        raise UserError(
            f"{folder / 'latents.csv'} has no column {(absent or code_columns(1))[0]}: give the "
            "folder of a run of VAE_framework.py or InfoMAX_VAE_framework.py"
        )
    logvars = latents[logvar_columns(columns)]
    return latents[columns].to_numpy(np.float32), logvars.to_numpy(np.float32)


def finite_matrix(values: np.ndarray, what: str, dtype: type | None = None) -> np.ndarray:
    """(N, d) finite numbers, copied only where they have to be.

    Args:
        values: an array of numbers.
        what: what an error calls them, e.g. `codes`.
        dtype: of the result; None keeps that of the values, in native byte order.

    Raises:
        UserError: another shape, no numbers, or NaN or infinite values.
    """
    values = np.asarray(values)
    if values.ndim != 2 or values.shape[1] == 0 or values.dtype.kind not in "buif":
        raise UserError(
            f"{what}: a {values.dtype} array of shape {values.shape}, not (N, d) numbers with a "
            "row for each cell"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # said below
        numbers = np.ascontiguousarray(values, dtype or values.dtype.newbyteorder("="))
        # A sum is finite only if all its terms are; infinities of both signs give NaN.
        sums = numbers.sum(1, np.float64) if numbers.dtype.kind == "f" else np.zeros(len(numbers))
    if not np.isfinite(sums).all() and not (finite := np.isfinite(numbers).all(axis=1)).all():
        too_large = np.isfinite(values[~finite]).all()
        what_is_wrong = f"numbers beyond {numbers.dtype}" if too_large else "NaN or infinite values"
        raise UserError(
            f"{what}: {(~finite).sum()} rows with {what_is_wrong} (first in row "
            f"{finite.argmin()}); {'rescale them' if too_large else 'leave them out'}"
        )
    return numbers


def to_unit_scale(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Float64 numbers whose squares neither overflow nor vanish, whatever their unit.

    They are multiplied by the power of two that brings the largest size to 0.5..1, which rounds
    nothing: distances keep their order, and standardised columns their values.

    Args:
        values: (N, d) finite numbers.
        axis: 0 scales each column by itself; None all by the same factor.
    """
    values = np.asarray(values, np.float64)
    _, exponents = np.frexp(np.abs(values).max(axis=axis, initial=0))
    return np.ldexp(values, -exponents)


def first_alike(data: np.ndarray) -> np.ndarray:
    """(N,) index of the first row of (N, D) numbers that equals each row; its own without copies.

    Rows are compared by a 64-bit hash, and those with the same hash number by number.
    """
    digits = np.random.default_rng(0).integers(2**64, size=data.shape[1], dtype=np.uint64)
    keys = []
    for start in range(0, len(data), 256):
        rows = data[start : start + 256].astype(np.float64) + 0.0  # -0.0 becomes 0.0
        words = rows.view(np.uint64)
        words ^= words >> np.uint64(32)  # whole numbers differ in their high bits only
        keys.append(words @ digits)  # wraps around, so the order of the sum is of no concern
    _, place, group = np.unique(np.concatenate(keys), return_index=True, return_inverse=True)
    first, own = place[group], np.arange(len(data))
    copies = np.flatnonzero(first != own)
    same = [np.array_equal(data[i], data[j]) for i, j in zip(copies, first[copies], strict=True)]
    chance = copies[~np.array(same, bool)]
    first[chance] = chance
    return first
