"""Synthetic plates with cells of six classes and two kinds of junk, in the layout of Horvath's.

The real set (Piccinini et al. 2017, Cell Systems 4:651) is synthetic too but not public. The
simulator keeps its layout, the imbalance of the classes, the rare junk that is not segmented
(classes 7 and 8), and an empty well. The classes differ in what microscopists look at:

    1 plain         round, evenly stained
    2 spindle       elongated, smooth
    3 flat          large and dim, rough outline, large nucleus
    4 multi-lobed   nucleus of three lobes
    5 mitotic       small, round, with a bright, condensed nucleus
    6 vesicular     bright red vesicles
    7 debris        a fragment with hardly any nucleus
    8 smear         large, ragged, dim

A cell shows its class more or less strongly. Its traits are drawn from a normal distribution
(`SPREAD`) around a point between the mean of the plain cells and that of its class (`CLASSES`), at
a strength drawn from `STRENGTH`. So the classes overlap: a random forest on the true traits is
right for 93 % of cells of six equally large classes. Blue is the nucleus, green the cytoplasm, red
the vesicles.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from util.errors import UserError
from util.simulators.common import (
    MISSED,
    CellProfilerOutputs,
    append_rows,
    blank_field,
    check_seed,
    check_share,
    compose_field,
    is_integer,
    new_folder,
    save_png,
    share_out,
)
from util.simulators.rendering import CellTiles, clouds, fill_outlines, random_outlines

# Of a set as large as is needed for the subsample of the thesis: 2,500, 2,500, 2,500, 850, 350, 210
CLASS_SIZES = {1: 4200, 2: 3600, 3: 2900, 4: 880, 5: 362, 6: 218, 7: 50, 8: 40}
UNSEGMENTED_JUNK = 0.7  # share of classes 7 and 8 that CellProfiler does not find
SPREADSHEET = "200602_Horvath_Complex_AnalysisSplitCellBodies.csv"

FIELD_SIDE, CELLS_PER_WELL = 800, 28  # px; the real plates hold 28 cells a well
WELLS = [f"{row}{column:02d}" for row in "ABCDEFGHIJKLMNOP" for column in range(2, 24)]
TILE = 97  # px

TRAITS = (
    "radius elongation irregularity nucleus_radius lobe_distance roughness green red blue vesicles"
).split()
CLASSES = pd.DataFrame.from_dict(
    {
        1: (23.0, 1.1, 0.08, 8.5, 0.00, 0.60, 0.60, 0.30, 0.60, 0.15),
        2: (22.0, 2.1, 0.08, 7.5, 0.00, 0.45, 0.65, 0.35, 0.60, 0.15),
        3: (31.0, 1.2, 0.22, 11.5, 0.00, 0.75, 0.40, 0.25, 0.45, 0.15),
        4: (25.0, 1.1, 0.10, 6.5, 0.85, 0.60, 0.55, 0.35, 0.65, 0.20),
        5: (15.5, 1.1, 0.04, 7.0, 0.00, 0.50, 0.80, 0.35, 0.95, 0.15),
        6: (25.0, 1.2, 0.15, 8.5, 0.00, 0.65, 0.40, 0.85, 0.55, 0.75),
        7: (9.0, 1.4, 0.30, 2.5, 0.00, 0.90, 0.50, 0.50, 0.30, 0.20),
        8: (29.0, 1.5, 0.45, 6.0, 0.30, 0.90, 0.22, 0.18, 0.25, 0.10),
    },
    orient="index",
    columns=TRAITS,
)
STRENGTH = (4.0, 1.5)  # of the beta law: 0.73 in the mean; junk is always fully junk
SPREAD = np.array([2.2, 0.18, 0.03, 1.0, 0.13, 0.08, 0.10, 0.08, 0.10, 0.10])
LOWEST = np.array([6.0, 1.0, 0.0, 2.0, 0.0, 0.3, 0.12, 0.1, 0.15, 0.0])
HIGHEST = np.array([36.0, 2.8, 0.5, 15.0, 1.2, 1.0, 1.0, 1.0, 1.0, 1.0])


def write_horvath_raw(
    out: Path,
    n_cells: int = sum(CLASS_SIZES.values()),
    seed: int = 0,
    missed: float = MISSED,
    n_plates: int = 3,
    progress: bool = False,
) -> None:
    """Write plates, ground truth and a CellProfiler run over them, and truth.csv.

    synthPlate001/anal1/synthPlate001_wA02.png is an RGB field of 800 x 800,
    synthPlate001/anal2/synthPlate001_wA02.class its ground truth: y, x of the nucleus in zero-based
    px and the class, without a header. The last well of the last plate is empty. The default takes
    210 MB and one to two minutes on one core.

    truth.csv has a row per cell: Unique_ID (its file name in the thesis), Plate, Well, row
    in the .class file, GT_pos_x, GT_pos_y, GT_label, ImageNumber, ObjectNumber,
    AreaShape_Center_X, AreaShape_Center_Y of CellProfiler's object (empty if it missed the cell),
    and the traits it was drawn with.

    Args:
        out: folder that holds nothing yet.
        n_cells: of all plates, shared out in the proportions of `CLASS_SIZES`.
        seed: of all randomness; the same seed gives the same bytes.
        missed: share of classes 1 to 6 that CellProfiler does not find, 0 to 1; it always misses
            most of the junk.
        n_plates: among which the wells are divided.
        progress: show a bar.

    Raises:
        UserError: an argument is out of range, or `out` cannot be written.
    """
    check_seed(seed)
    check_share("missed", missed)
    labels = np.repeat(*zip(*share_out(n_cells, CLASS_SIZES).items(), strict=True))
    np.random.default_rng(seed).shuffle(labels)
    wells = _plan_wells(labels, n_plates)
    with new_folder(out) as folder:
        cellprofiler = CellProfilerOutputs(folder / "CellProfiler_Outputs", SPREADSHEET)
        shown = tqdm(wells, "wells", unit="well", disable=not progress)
        for number, (plate, well, label) in enumerate(shown, start=1):
            rng = np.random.default_rng([seed, number])
            traits = draw_traits(label, rng)
            field = blank_field(FIELD_SIDE)
            if len(label):
                field = compose_field(render_horvath_cells(traits, rng), FIELD_SIDE, rng)
            y, x = field.centres.T
            truth = pd.DataFrame({"GT_pos_y": y, "GT_pos_x": x, "GT_label": label})
            _save_well(folder / f"synthPlate{plate:03d}", well, field.image, truth)
            lost = np.where(label > 6, np.maximum(missed, UNSEGMENTED_JUNK), missed)
            found = rng.random(len(label)) >= lost
            metadata = {"Plate": f"{plate:03d}", "Well": well}
            link = cellprofiler.add(field, found, number, f"{plate:03d}_{well}", metadata)
            append_rows(folder / "truth.csv", _truth_rows(plate, well, truth, link, traits))


def _plan_wells(labels: np.ndarray, n_plates: int) -> list[tuple[int, str, np.ndarray]]:
    """Plate, well and the classes of its cells; plates are filled alike, the last well is empty."""
    if not is_integer(n_plates) or n_plates < 1:
        raise UserError(f"n_plates = {n_plates!r}: an integer of 1 or more is needed")
    n_wells = -(-len(labels) // CELLS_PER_WELL)
    if n_wells >= n_plates * len(WELLS):
        raise UserError(
            f"n_plates = {n_plates}: {len(labels)} cells fill {n_wells} wells and one stays empty; "
            f"a plate has {len(WELLS)}"
        )
    plates = np.array_split(np.arange(n_wells + 1), n_plates)
    contents = [*np.array_split(labels, n_wells), labels[:0]]
    return [
        (plate, WELLS[place], contents[well])
        for plate, wells in enumerate(plates, start=1)
        for place, well in enumerate(wells)
    ]


def _save_well(plate: Path, well: str, image: np.ndarray, truth: pd.DataFrame) -> None:
    for folder in ("anal1", "anal2"):
        (plate / folder).mkdir(parents=True, exist_ok=True)
    save_png(plate / "anal1" / f"{plate.name}_w{well}.png", image)
    path = plate / "anal2" / f"{plate.name}_w{well}.class"
    truth.to_csv(path, header=False, index=False)


def _truth_rows(
    plate: int, well: str, truth: pd.DataFrame, link: pd.DataFrame, traits: np.ndarray
) -> pd.DataFrame:
    rows = truth.assign(Plate=plate, Well=well, row=np.arange(len(truth)))
    rows["Unique_ID"] = [
        f"CellClass_{label}_{plate}_{well}_id{row}.tiff"
        for row, label in enumerate(rows["GT_label"])
    ]
    first = ["Unique_ID", "Plate", "Well", "row", "GT_pos_x", "GT_pos_y", "GT_label"]
    drawn = pd.DataFrame(traits, columns=TRAITS).round(4)
    return pd.concat([rows[first], link, drawn], axis=1)


def draw_traits(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Traits of cells of these classes: (N,) of 1..8 to (N, 10), columns TRAITS.

    Radii are in px, elongation is the ratio of the axes, irregularity that of
    `rendering.random_outlines`, lobe_distance in radii of the nucleus, roughness the persistence of
    the texture, the rest are levels in 0..1.
    """
    labels = np.asarray(labels, int)
    plain, of_class = CLASSES.loc[1].to_numpy(), CLASSES.to_numpy()[labels - 1]
    strength = np.where(labels > 6, 1, rng.beta(*STRENGTH, len(labels)))[:, None]
    means = plain + strength * (of_class - plain)
    return np.clip(rng.normal(means, SPREAD), LOWEST, HIGHEST)


def render_horvath_cells(traits: np.ndarray, rng: np.random.Generator) -> CellTiles:
    """Draw cells with the traits of `draw_traits` (N, 10), on tiles of 97 x 97 px."""
    radius, elongation, irregularity, nucleus_radius, lobe_distance = traits.T[:5]
    roughness, green, red, blue, vesicles = traits.T[5:, :, None, None]
    nucleus = _lobed_nuclei(nucleus_radius, lobe_distance, rng)
    outline = radius[:, None, None] * random_outlines(irregularity, rng)
    cell = fill_outlines(_elongated(outline, elongation, rng), TILE) | nucleus

    n_cells = len(traits)
    smooth, fine, spots = (
        clouds(n_cells, 6, persistence, TILE, rng) for persistence in (0.4, 1.0, 1.4)
    )
    texture = (1 - roughness) * smooth + roughness * fine
    # Vesicles are the peaks of a cloud of their own.
    peaks = np.clip((spots - 0.66) / 0.08, 0, 1)
    levels = (
        red * ((1 - vesicles) * 0.6 * texture + vesicles * peaks),
        green * texture,
        0.15 * green * texture,
    )
    image = np.stack(levels, axis=-1) * (cell & ~nucleus)[..., None]  # (N, T, T, 3)
    image[..., 2] += nucleus * blue * (0.3 + 0.7 * fine)
    image[..., 1] += nucleus * 0.25 * green * texture
    # No pixel of a cell is as black as the background.
    image = np.where(cell[..., None], np.maximum(np.rint(255 * image), 1), 0)
    return CellTiles(image.astype(np.uint8), cell, nucleus)


def _lobed_nuclei(radius: np.ndarray, distance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Nuclei (N, T, T) of three lobes so many radii from the centre; 0 makes one round nucleus."""
    n_cells = len(radius)
    turn = rng.uniform(0, 2 * np.pi, (n_cells, 1)) + np.arange(3) * 2 * np.pi / 3  # (N, 3)
    shift = (radius * distance)[:, None, None] * np.stack([np.sin(turn), np.cos(turn)], axis=-1)
    outlines = random_outlines(np.full(3 * n_cells, 0.08), rng).reshape(n_cells, 3, -1, 2)
    outlines = radius[:, None, None, None] * outlines + shift[:, :, None]
    lobes = fill_outlines(outlines.reshape(3 * n_cells, -1, 2), TILE)
    return lobes.reshape(n_cells, 3, TILE, TILE).any(axis=1)


def _elongated(
    outlines: np.ndarray, elongation: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Outlines (N, P, 2) stretched along random directions, their area kept."""
    angle = rng.uniform(0, np.pi, len(outlines))
    along = np.stack([np.sin(angle), np.cos(angle)], axis=-1)[:, None]  # (N, 1, 2)
    across = np.stack([along[..., 1], -along[..., 0]], axis=-1)
    stretch = np.sqrt(elongation)[:, None, None]
    return sum(
        factor * (outlines * axis).sum(-1, keepdims=True) * axis
        for factor, axis in ((stretch, along), (1 / stretch, across))
    )
