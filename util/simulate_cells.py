"""Synthetic data sets with full ground truth, in the raw layouts of the real ones.

Edit SETTINGS below, or give them on the command line, and run

    python util/simulate_cells.py                                      # BBBC031, 8,640 cells
    python util/simulate_cells.py --dataset horvath --cells 3000 --out DataSets/raw/Horvath
    python util/simulate_cells.py --dataset chaffer
    python util/simulate_cells.py --dataset dsprites

The folder appears whole or not at all; its truth.csv, which no real set has, links each cell of the
ground truth with CellProfiler's object. util/simulators describes how the cells of the other sets
look; the BBBC031 population is here, drawn from its published law.

BBBC031v1 (Broad Bioimage Benchmark Collection, CC BY 3.0) holds 8,640 synthetic cells that change
continuously along six processes. Every cell is a point (x, y) of the unit square, the "regression
plane"; the point alone decides the colour of the cytoplasm and how jagged the outline is
(`bbbc031_appearance`); all else is random. From the green, jagged extreme (0, 0) to the red, round
one (1, 1), process 1..6 runs along a broken line with its corner at (e, 1 - e); process 7 fills the
square. The constants of the pictures were fitted to the 40 cells of one real field (well A03, site
8); `tests/test_simulate_cells.py` keeps their statistics.

The population (`draw_bbbc031_population`) and the renderer (`render_cells`) are independent;
`simulate_bbbc031` joins them into single-cell crops and their table, `write_bbbc031_raw`
into the fields, masks and tables of the download with CellProfiler's outputs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import tifffile
from tqdm import tqdm

from util.errors import UserError
from util.settings import parse_options, run_script
from util.simulators.chaffer import write_chaffer_raw
from util.simulators.common import (
    MISSED,
    CellProfilerOutputs,
    Field,
    check_seed,
    check_share,
    compose_field,
    is_integer,
    new_folder,
    save_png,
    share_out,
)
from util.simulators.dsprites import write_dsprites_raw
from util.simulators.horvath import write_horvath_raw
from util.simulators.rendering import (
    COARSEST_NODES,
    CellTiles,
    clouds,
    crop_cells,
    fill_outlines,
    random_outlines,
)


@dataclass(frozen=True)
class Settings:
    """What to simulate and how much of it."""

    dataset: Literal["bbbc031", "horvath", "chaffer", "dsprites"] = "bbbc031"
    """Real set to imitate."""
    out: Path | None = None
    """Folder to write, which must be new or empty; None for DataSets/raw/ with the name of the
    set."""
    cells: int | None = None
    """How many cells; None for 8,640 of BBBC031, 12,250 of Horvath, 5,400 of Chaffer, and all
    737,280 of dSprites. BBBC031 is rounded up to whole fields of 40."""
    seed: int = 0
    """Seed of all that is random."""
    missed: float = MISSED
    """Share of cells that CellProfiler does not find, 0 to 1, in BBBC031 and Horvath."""
    progress: bool = True
    """Show a progress bar."""


SETTINGS = Settings()
RAW_FOLDERS = {
    "bbbc031": "BBBC031",
    "horvath": "Horvath",
    "chaffer": "Chaffer",
    "dsprites": "dSprites",
}

# Cells of process 1..7 that CellProfiler found among the 8,640 of the real set.
BBBC031_CLASS_SIZES = {1: 1018, 2: 1204, 3: 796, 4: 987, 5: 734, 6: 432, 7: 2216}
# Process p of 1..6 turns at (e, 1 - e) of the regression plane.
BBBC031_CORNERS = {1: 0.05, 2: 0.15, 3: 0.45, 4: 0.55, 5: 0.85, 6: 0.95}

# A field holds one process in the main and three others beside it: main process first.
BBBC031_WELLS = dict(
    item.split(":")
    for item in (
        "A01:4356 A02:7135 A03:7135 A04:7245 A05:7123 A06:7134 B01:7345 B02:2145 "
        "B03:7234 B04:7235 B05:1456 B06:7145 C01:2136 C02:1346 C03:4126 C04:3456 "
        "C05:6134 C06:1256 D01:3245 D02:5134 D03:2146 D04:5124 D05:4236 D06:2456"
    ).split()
)
MAIN_SHARE = 0.8  # of the main process in a field
BBBC031_SITES = 9  # fields of a well
FIELD_SIDE, CELLS_PER_FIELD = 950, 40
SPREADSHEET = "200515_Horvath_Simple_AnalysisSplitCellBodies.csv"

CELL_RADIUS = 30.0  # px, of the circle that is jittered
NUCLEUS_RADIUS = 10.0  # px
NUCLEUS_IRREGULARITY = 0.1  # what Shape is to the outline of the cell; areas 288-336 px
CELL_OCTAVES, CELL_PERSISTENCE = 6, 0.9
NUCLEUS_OCTAVES, NUCLEUS_PERSISTENCE, NUCLEUS_WINDOW = 5, 0.5, 31
TILE = (COARSEST_NODES - 1) * 2 ** (CELL_OCTAVES - 1) + 1  # 97 px; its middle pixel is the nucleus
CELLS_PER_BATCH = 128  # about 40 MB of working memory


def simulate_bbbc031(
    n_cells: int = sum(BBBC031_CLASS_SIZES.values()),
    seed: int = 0,
    processes: Sequence[int] | None = None,
) -> tuple[list[np.ndarray], pd.DataFrame]:
    """Single-cell images of the BBBC031 population and their ground truth.

    Another `n_cells` draws other cells, not more of the same.

    Args:
        n_cells: how many cells, shared out in the proportions of the real set (`class_sizes`).
        seed: of all randomness; the same seed gives the same bytes.
        processes: which of the processes 1..7 to draw from; None means all.

    Returns:
        Tight bounding-box crops, uint8 (H, W, 3) RGB, exactly 0 outside the cell, about 60 px a
        side; and the table of `draw_bbbc031_population`, row i describing crop i.

    Raises:
        UserError: `n_cells`, `seed` or `processes` is out of range.
    """
    check_seed(seed)
    rng = np.random.default_rng(seed)
    table = draw_bbbc031_population(class_sizes(n_cells, processes), rng)
    colours = table[["GT_colorR", "GT_colorG", "GT_colorB"]].to_numpy()
    irregularities = table["GT_Shape"].to_numpy()
    crops = []
    for start in range(0, n_cells, CELLS_PER_BATCH):
        batch = slice(start, start + CELLS_PER_BATCH)
        crops.extend(crop_cells(render_cells(colours[batch], irregularities[batch], rng)))
    return crops, table


def class_sizes(n_cells: int, processes: Sequence[int] | None = None) -> dict[int, int]:
    """Cells of each process in the proportions of the real set, by largest remainder.

    A process that would get no cell takes one from the largest, if there are cells for all
    processes. Exact for the real 7,387.

    Args:
        n_cells: 1 or more.
        processes: distinct numbers of 1..7; None means all.

    Returns:
        process -> number of cells, which add up to `n_cells`.

    Raises:
        UserError: `n_cells` or `processes` is out of range.
    """
    chosen = sorted(BBBC031_CLASS_SIZES if processes is None else processes)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(BBBC031_CLASS_SIZES):
        raise UserError(f"processes = {processes!r}: distinct numbers of 1 to 7 are needed")
    return share_out(n_cells, {process: BBBC031_CLASS_SIZES[process] for process in chosen})


def draw_bbbc031_population(sizes: dict[int, int], rng: np.random.Generator) -> pd.DataFrame:
    """Ground truth of a random population, under the column names of the real set.

    The columns that place a cell in a field (Well, Site, GT_x, GT_y) are left out, as these cells
    lie in none, and so are those of CellProfiler and of the VAE of 2020.

    Args:
        sizes: process 1..7 -> number of cells.
        rng: source of the positions.

    Returns:
        A row per cell, ordered by process: GT_label (process), GT_Cell_id (from 1), Unique_ID (file
        name), GT_colorR, GT_colorG, GT_colorB (0..1), GT_Shape (0 round .. 0.5 jagged),
        GT_dist_toInit_state (0..1), GT_initial_state (green or red), PositionOnRegressionPlaneX and
        PositionOnRegressionPlaneY (0..1).
    """
    process = np.repeat(list(sizes), list(sizes.values()))
    cell_id = np.arange(1, len(process) + 1)
    x, y = bbbc031_positions(process, rng)
    colour, shape = bbbc031_appearance(x, y)
    distance, initial_state = distance_to_initial_state(x, y, process)
    return pd.DataFrame(
        {
            "GT_label": process,
            "GT_Cell_id": cell_id,
            "Unique_ID": [
                f"CellProcess_{p}_simulated_id{n}.tiff"
                for p, n in zip(process, cell_id, strict=True)
            ],
            "GT_colorR": colour[:, 0],
            "GT_colorG": colour[:, 1],
            "GT_colorB": colour[:, 2],
            "GT_Shape": shape,
            "GT_dist_toInit_state": distance,
            "GT_initial_state": initial_state,
            "PositionOnRegressionPlaneX": x,
            "PositionOnRegressionPlaneY": y,
        }
    )


def bbbc031_positions(
    process: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Random positions on the regression plane: uniform along the broken line of a process.

    So are the 7,387 real rows: Kolmogorov-Smirnov against the uniform law over arc length gives
    p = 0.42, 0.57, 0.33, 0.05, 0.01, 0.70 for processes 1 to 6, and 0.25 and 0.46 for x and y of
    process 7. Processes 4 and 5 lean a little to the red end (54 and 55 % of their cells), perhaps
    because CellProfiler loses more of the jagged cells; that is not simulated.

    Args:
        process: (N,) process 1..7 of each cell.
        rng: source of the positions.

    Returns:
        x and y, each (N,) in 0..1.
    """
    along, anywhere = rng.random((2, len(process)))  # both for every cell, used as needed
    corner = np.array([BBBC031_CORNERS.get(p, np.nan) for p in process])
    # The two legs are equally long, so half the arc lies on each.
    leg = np.minimum(2 * along, 1)  # done of the leg (0, 0) -> (corner, 1 - corner)
    rest = np.maximum(2 * along - 1, 0)  # done of the leg (corner, 1 - corner) -> (1, 1)
    x = np.where(process == 7, along, leg * corner + rest * (1 - corner))
    y = np.where(process == 7, anywhere, leg * (1 - corner) + rest * corner)
    return x, y


def bbbc031_appearance(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colour and shape of a cell at (x, y): the law behind BBBC031v1.

    It holds to 1e-6 on all 7,397 rows of the real ground truth at hand.

    Args:
        x: (N,) in 0..1, position on the regression plane.
        y: (N,) in 0..1.

    Returns:
        colour (N, 3), RGB in 0..1; shape (N,), from 0 (round) to 0.5 (jagged).
    """
    colour = np.stack([y, 1 - x, 1 - np.abs(x + y - 1)], axis=-1)
    return colour, 0.5 - (x + y) / 4


def distance_to_initial_state(
    x: np.ndarray, y: np.ndarray, process: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How far a cell has moved from the extreme where it started, and which extreme that is.

    Args:
        x: (N,) in 0..1, position on the regression plane.
        y: (N,) in 0..1.
        process: (N,) process of each cell.

    Returns:
        distance (N,): to the nearer of (0, 0) and (1, 1), divided by the largest of the same
        process among these cells, so it reaches 1 in every process; initial state (N,): "red" where
        (1, 1) is nearer, else "green".
    """
    red = y > 1 - x
    distance = np.where(red, np.hypot(1 - x, 1 - y), np.hypot(x, y))
    farthest = pd.Series(distance).groupby(process).transform("max").to_numpy()
    return distance / farthest, np.where(red, "red", "green")


def render_cells(
    colours: np.ndarray, irregularities: np.ndarray, rng: np.random.Generator
) -> CellTiles:
    """Draw cells: a textured cytoplasm of one colour around a textured, pure blue nucleus.

    The thin tip of a protrusion may lie a pixel apart from its cell, as it does in the real fields.

    Args:
        colours: (N, 3) RGB of the cytoplasm, 0..1.
        irregularities: (N,) from 0 (a circle) to 0.5 (jagged): Shape of BBBC031.
        rng: source of outlines and textures.

    Returns:
        the cells and their masks on tiles of TILE x TILE px.
    """
    n_cells = len(irregularities)
    nucleus_irregularities = np.full(n_cells, NUCLEUS_IRREGULARITY)
    nucleus = fill_outlines(NUCLEUS_RADIUS * random_outlines(nucleus_irregularities, rng), TILE)
    cell = fill_outlines(CELL_RADIUS * random_outlines(irregularities, rng), TILE) | nucleus

    texture = clouds(n_cells, CELL_OCTAVES, CELL_PERSISTENCE, size=TILE, rng=rng)
    cytoplasm = np.where(cell & ~nucleus, texture, 0)
    image = cytoplasm[..., None] * colours[:, None, None, :].astype(np.float32)  # (N, T, T, 3)

    margin = (TILE - NUCLEUS_WINDOW) // 2
    middle = np.s_[:, margin : margin + NUCLEUS_WINDOW, margin : margin + NUCLEUS_WINDOW]
    nucleus_texture = clouds(
        n_cells, NUCLEUS_OCTAVES, NUCLEUS_PERSISTENCE, size=NUCLEUS_WINDOW, rng=rng
    )
    blue = image[..., 2]  # a view: the nucleus is written into the image
    blue[middle] = np.where(nucleus[middle], nucleus_texture, blue[middle])
    return CellTiles(np.rint(255 * image).astype(np.uint8), cell, nucleus)


def write_bbbc031_raw(
    out: Path,
    n_fields: int = BBBC031_SITES * len(BBBC031_WELLS),
    seed: int = 0,
    missed: float = MISSED,
    progress: bool = False,
) -> None:
    """Write a BBBC031 download with a CellProfiler run over it, and truth.csv.

    Fields, masks, tables and their places are those of the real set; CellProfiler_Outputs holds
    what CellProfiler would write. Unlike in the real fields, no cell touches another or the border.
    Site 1 of all wells comes first, so that 24 fields hold all processes. A smaller set is the
    beginning of a larger one. The whole set takes 170 MB and one to two minutes on one core.

    truth.csv has the columns of the ground truth, Unique_ID (the cell's file name in the thesis),
    ImageNumber, and ObjectNumber, AreaShape_Center_X, AreaShape_Center_Y of CellProfiler's object,
    which are empty for a cell that it missed.

    Args:
        out: folder that holds nothing yet.
        n_fields: 1 to 216, of 40 cells each.
        seed: of all randomness; the same seed gives the same bytes.
        missed: share of the cells that CellProfiler does not find, 0 to 1.
        progress: show a bar.

    Raises:
        UserError: an argument is out of range, or `out` cannot be written.
    """
    fields = [
        (well, site) for site in range(1, BBBC031_SITES + 1) for well in BBBC031_WELLS
    ]  # CellProfiler's order of images in 2020
    if not is_integer(n_fields) or not 1 <= n_fields <= len(fields):
        raise UserError(f"n_fields = {n_fields!r}: an integer of 1 to {len(fields)} is needed")
    check_seed(seed)
    check_share("missed", missed)
    with new_folder(out) as folder:
        for name in ("Images", "Masks"):
            (folder / "BBBC031_v1_dataset" / name).mkdir(parents=True)
        cellprofiler = CellProfilerOutputs(folder / "CellProfiler_Outputs", SPREADSHEET)
        rows = []
        shown = tqdm(fields[:n_fields], "fields", unit="field", disable=not progress)
        for number, (well, site) in enumerate(shown, start=1):
            rng = np.random.default_rng([seed, number])
            truth, field = _draw_field(well, site, rng)
            _save_field(folder / "BBBC031_v1_dataset", truth["ImageName"].iloc[0], field)
            found = rng.random(len(truth)) >= missed
            metadata = {"Well": well, "Site": site}
            link = cellprofiler.add(
                field, found, number, name=f"{well}_{site:02d}", metadata=metadata
            )
            rows.append(pd.concat([truth, link], axis=1))
        _save_ground_truth(folder, pd.concat(rows).sort_values(["ImageName", "CellIdx"]))


def _draw_field(well: str, site: int, rng: np.random.Generator) -> tuple[pd.DataFrame, Field]:
    """The ground truth of a field, under the columns of the published CSV, and its picture."""
    main, *others = map(int, BBBC031_WELLS[well])
    shares = [MAIN_SHARE] + [(1 - MAIN_SHARE) / len(others)] * len(others)
    process = rng.choice([main, *others], CELLS_PER_FIELD, p=shares)
    x, y = bbbc031_positions(process, rng)
    # The CSV holds 6 decimals; the cells are drawn from these rounded values.
    x, y = x.round(6), y.round(6)
    colour, shape = bbbc031_appearance(x, y)
    field = compose_field(render_cells(colour, shape, rng), FIELD_SIDE, rng)
    row, column = field.centres.T
    truth = {
        "ImageName": f"ProcessPlateSparse_w{well}_s{site:02d}_z1_t1",
        "CellIdx": np.arange(1, CELLS_PER_FIELD + 1),
        "LocationX": column + 1,  # one-based
        "LocationY": row + 1,
        "ColorParamsR": colour[:, 0],
        "ColorParamsG": colour[:, 1],
        "ColorParamsB": colour[:, 2],
        "ShapeParams": shape,
        "ProcessID": process,
        "PositionOnRegressionPlaneX": x,
        "PositionOnRegressionPlaneY": y,
    }
    return pd.DataFrame(truth), field


def _save_field(folder: Path, name: str, field: Field) -> None:
    save_png(folder / "Images" / f"{name}_CELLMASK.png", field.image)
    cytoplasm = (field.labels > 0) & ~field.nuclei
    for kind, mask in (("CELLMASK", cytoplasm), ("NUCLMASK", field.nuclei)):
        path = folder / "Masks" / f"{name}_{kind}.tiff"
        tifffile.imwrite(path, np.uint8(255) * mask, compression="zlib", metadata=None)


def _save_ground_truth(folder: Path, table: pd.DataFrame) -> None:
    published = table.columns[: table.columns.get_loc("ImageNumber")]
    path = folder / "BBBC031_v1_DatasetGroundTruth.csv"
    table.to_csv(path, sep=";", columns=published, float_format="%.6f", index=False)
    place = table["ImageName"].str.extract(r"_w(\w{3})_s(\d\d)_")
    unique_id = (
        "CellProcess_" + table["ProcessID"].astype(str) + "_" + place[0] + "_" + place[1]
    ) + ("_id" + table["CellIdx"].astype(str) + ".tiff")
    table.insert(0, "Unique_ID", unique_id)
    table.to_csv(folder / "truth.csv", float_format="%.6f", index=False)


def main(settings: Settings = SETTINGS) -> Path:
    """Write the set asked for.

    Returns:
        its folder.

    Raises:
        UserError: a setting is out of range, or the folder cannot be written.
    """
    if settings.cells is not None and settings.cells < 1:
        raise UserError(f"--cells {settings.cells}: 1 or more are needed")
    out = settings.out or Path("DataSets") / "raw" / RAW_FOLDERS[settings.dataset]
    options = {"seed": settings.seed, "progress": settings.progress}
    if settings.cells is not None:
        options["n_cells"] = settings.cells
    if settings.dataset in ("bbbc031", "horvath"):
        options["missed"] = settings.missed
    WRITERS[settings.dataset](out, **options)
    print(f"{out} is written")
    return out


def _write_bbbc031_cells(out: Path, n_cells: int | None = None, **options: Any) -> None:
    """`write_bbbc031_raw` of as many whole fields as hold the cells."""
    if n_cells is not None:
        all_cells = BBBC031_SITES * len(BBBC031_WELLS) * CELLS_PER_FIELD
        if n_cells > all_cells:
            raise UserError(f"--cells {n_cells}: BBBC031 has {all_cells}, take so many or fewer")
        options["n_fields"] = math.ceil(n_cells / CELLS_PER_FIELD)
    write_bbbc031_raw(out, **options)


WRITERS = {
    "bbbc031": _write_bbbc031_cells,
    "horvath": write_horvath_raw,
    "chaffer": write_chaffer_raw,
    "dsprites": write_dsprites_raw,
}


if __name__ == "__main__":
    run_script(lambda: main(parse_options(SETTINGS)))
