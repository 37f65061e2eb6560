"""Synthetic four-channel cells of eight sub-populations, in the layout of Chaffer and Lock's data.

The real set is unpublished fluorescence of breast cancer cells: actin (phalloidin), DNA (DAPI), the
androgen receptor (AR) and the transcription factor Zeb1, 16 bit. The simulator keeps its layout,
the names and relative sizes of the 12 conditions, and a few cells whose channels differ in shape.

Sub-populations (cell type, treatment, CD44, CD104) differ in the size of cell and nucleus, in how
far actin is bundled into fibres, and in the levels of AR and Zeb1, all with overlap
(`SUB_POPULATIONS`). The effects have the direction known from biology: DHT, an androgen, draws AR
into the nucleus; Zeb1 goes with the mesenchymal state (CD44 high) and its actin fibres. Two clones
of one sub-population are alike.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from tqdm import tqdm

from util.errors import UserError
from util.simulators.common import (
    append_rows,
    check_seed,
    check_share,
    new_folder,
    save_png,
    share_out,
)
from util.simulators.rendering import (
    CellTiles,
    bounding_boxes,
    clouds,
    fill_outlines,
    in_one_piece,
    random_outlines,
)

CHANNEL_FOLDERS = (
    "Phalloidin_images_matched_to_subset_data",
    "DAPI_images_matched_to_subset_data",
    "AR_images_matched_to_subset_data",
    "Zeb1_images_mateched_to_subset_data",  # spelt so
)
GROUND_TRUTH = "Chaffer_subset_data_GroundTruth.csv"

# {cell type}_{CD44}_{CD104}_{treatment}_{clone} -> weight of the thesis's classifier, which is
# inverse to the size of the class
CONDITIONS = {
    "HCC38HI_NS_NS_DHT_NS": 0.27,
    "HCC38LO_NS_NS_DMSO_NS": 0.031,
    "HMLER_Primed_NS_DMSO_C2": 0.5,
    "HMLER_HIGH_Positive_DMSO_E3": 1.0,
    "HCC38LO_NS_NS_DHT_NS": 0.031,
    "HMLER_Primed_NS_DHT_C2": 0.41,
    "HMLER_HIGH_Positive_DHT_E3": 0.51,
    "HCC38HI_NS_NS_DMSO_NS": 0.51,
    "HMLER_Primed_NS_DMSO_C4": 0.27,
    "HMLER_HIGH_Positive_DMSO_F11": 0.27,
    "HMLER_Primed_NS_DHT_C4": 0.64,
    "HMLER_HIGH_Positive_DHT_F11": 0.28,
}
NOT_SPECIFIED = {"NS": "Not Specified"}

TRAITS = ("radius", "irregularity", "nucleus_radius", "fibres", "actin", "dna", "ar", "zeb1")
# Means; radii in px, the rest in 0..1
SUB_POPULATIONS = {
    ("HCC38HI", "NS", "NS", "DMSO"): (37.0, 0.22, 13.5, 0.65, 0.55, 0.50, 0.22, 0.60),
    ("HCC38HI", "NS", "NS", "DHT"): (38.0, 0.22, 13.5, 0.70, 0.60, 0.50, 0.52, 0.65),
    ("HCC38LO", "NS", "NS", "DMSO"): (32.0, 0.10, 11.5, 0.20, 0.45, 0.55, 0.25, 0.20),
    ("HCC38LO", "NS", "NS", "DHT"): (33.0, 0.10, 12.0, 0.25, 0.45, 0.50, 0.60, 0.22),
    ("HMLER", "Primed", "NS", "DMSO"): (34.0, 0.13, 14.5, 0.35, 0.65, 0.45, 0.15, 0.35),
    ("HMLER", "Primed", "NS", "DHT"): (35.0, 0.13, 15.0, 0.45, 0.65, 0.45, 0.42, 0.42),
    ("HMLER", "HIGH", "Positive", "DMSO"): (41.0, 0.28, 16.5, 0.80, 0.70, 0.40, 0.15, 0.72),
    ("HMLER", "HIGH", "Positive", "DHT"): (42.0, 0.28, 17.0, 0.85, 0.75, 0.40, 0.45, 0.80),
}
SPREAD = np.array([2.5, 0.05, 1.2, 0.13, 0.10, 0.08, 0.10, 0.11])
LOWEST = np.array([24.0, 0.02, 8.0, 0.0, 0.2, 0.2, 0.05, 0.05])
HIGHEST = np.array([46.0, 0.35, 20.0, 1.0, 1.0, 1.0, 1.0, 1.0])

TILE = 129  # px
CELLS_PER_BATCH = 64  # about 140 MB of working memory
BRIGHTEST = 40_000  # of 65,535: no channel saturates
FIBRE_WAVES, FIBRE_SPACING, FIBRE_SCATTER = 6, (4.0, 11.0), 0.14  # number, px, rad
CORTEX = 0.86  # size of the cell without its bright actin rim


def write_chaffer_raw(
    out: Path,
    n_cells: int = 5400,
    seed: int = 0,
    unequal: float = 0.01,
    progress: bool = False,
) -> None:
    """Write single-cell images, a folder per channel, the ground truth, and truth.csv.

    Images are 16-bit PNGs named {Unique_Cell_ID}.png, tight crops of 50 to 125 px, 0 outside the
    cell. The ground truth holds Unique_Cell_ID, Cell_Condition_status, Cell_Type_categ,
    Treatment_categ, CD44_Level_categ, CD104_Level_categ, and UMAP_*, RTSNE_* and PCA_*
    coordinates, which are cheap stand-ins made of the true traits (`projections`). truth.csv has
    for each cell Unique_ID (its file name in the thesis), the traits, and the name of the channel
    whose shape differs, if any. The default takes 180 MB and a minute on one core.

    Args:
        out: folder that holds nothing yet.
        n_cells: shared out in the proportions of the real conditions.
        seed: of all randomness; the same seed gives the same bytes.
        unequal: share of cells in which one channel has another shape, 0 to 1; at least one cell
            if it is not 0.
        progress: show a bar.

    Raises:
        UserError: an argument is out of range, or `out` cannot be written.
    """
    check_seed(seed)
    check_share("unequal", unequal)
    rng = np.random.default_rng(seed)
    table, traits = draw_chaffer_population(n_cells, rng)
    n_unequal = int(np.ceil(unequal * n_cells))
    odd_channel = np.full(n_cells, -1)
    odd_channel[rng.choice(n_cells, n_unequal, replace=False)] = rng.integers(0, 4, n_unequal)
    with new_folder(out) as folder:
        for name in CHANNEL_FOLDERS:
            (folder / name).mkdir()
        cells = zip(table["Unique_Cell_ID"], odd_channel, _crops(traits, rng), strict=True)
        for name, odd, crop in tqdm(cells, "cells", n_cells, unit="cell", disable=not progress):
            for c, channel in enumerate(CHANNEL_FOLDERS):
                image = crop[..., c] if c != odd else crop[:-2, :-1, c]
                save_png(folder / channel / f"{name}.png", np.ascontiguousarray(image))
        table.to_csv(folder / GROUND_TRUTH, index=False)
        drawn = pd.DataFrame(traits, columns=TRAITS).round(4)
        drawn.insert(0, "Unique_ID", table["Unique_Cell_ID"] + ".tiff")
        channels = np.array([*(name.split("_")[0] for name in CHANNEL_FOLDERS), ""])
        drawn["unequal_channel"] = channels[odd_channel]
        append_rows(folder / "truth.csv", drawn)


def draw_chaffer_population(
    n_cells: int, rng: np.random.Generator
) -> tuple[pd.DataFrame, np.ndarray]:
    """The ground truth of a random population, in random order, and its traits.

    Args:
        n_cells: 4 or more.
        rng: source of the order and the traits.

    Returns:
        the table of `write_chaffer_raw`; traits (N, 8), columns TRAITS.

    Raises:
        UserError: `n_cells` is out of range.
    """
    sizes = share_out(n_cells, {i: 1 / w for i, w in enumerate(CONDITIONS.values())})
    if n_cells < 4:
        raise UserError(f"n_cells = {n_cells!r}: 4 or more are needed for three coordinates")
    number = rng.permutation(np.repeat(list(sizes), list(sizes.values())))
    condition = np.array(list(CONDITIONS))[number]
    parts = [name.split("_") for name in CONDITIONS]
    means = np.array([SUB_POPULATIONS[tuple(p[:4])] for p in parts])
    traits = np.clip(rng.normal(means[number], SPREAD), LOWEST, HIGHEST)
    table = pd.DataFrame(
        {
            "Unique_Cell_ID": [f"Cell_{i:06d}" for i in range(1, n_cells + 1)],
            "Cell_Condition_status": condition,
        }
    )
    names = ("Cell_Type_categ", "CD44_Level_categ", "CD104_Level_categ", "Treatment_categ")
    for place, name in enumerate(names):
        table[name] = [NOT_SPECIFIED.get(parts[i][place], parts[i][place]) for i in number]
    sub_population = table[list(names)].agg("-".join, axis=1)
    return pd.concat([table, projections(traits, sub_population)], axis=1), traits


def projections(traits: np.ndarray, sub_population: pd.Series) -> pd.DataFrame:
    """Three coordinates per method that resemble its output, without running it.

    PCA_* are the principal components of the standardised traits, UMAP_* their linear discriminants
    between the sub-populations (separate groups), RTSNE_* the ranks of the principal components
    (even density).
    """
    standardised = (traits - traits.mean(axis=0)) / traits.std(axis=0)
    components = PCA(3).fit_transform(standardised)
    made = {"PCA": components, "RTSNE": 60 * (rankdata(components, axis=0) / len(traits) - 0.5)}
    if sub_population.nunique() > 3 and len(traits) > 2 * sub_population.nunique():
        discriminants = LinearDiscriminantAnalysis(n_components=3)
        made["UMAP"] = discriminants.fit_transform(standardised, sub_population)
    else:
        made["UMAP"] = components / components.std(axis=0)
    return pd.DataFrame(
        {
            f"{method}_{axis}": made[method][:, i].round(5)
            for method in ("UMAP", "RTSNE", "PCA")
            for i, axis in enumerate("XYZ")
        }
    )


def _crops(traits: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    for start in range(0, len(traits), CELLS_PER_BATCH):
        tiles = in_one_piece(render_chaffer_cells(traits[start : start + CELLS_PER_BATCH], rng))
        boxes = bounding_boxes(tiles.cell)
        for image, (top, left, bottom, right) in zip(tiles.image, boxes, strict=True):
            yield image[top:bottom, left:right]


def render_chaffer_cells(traits: np.ndarray, rng: np.random.Generator) -> CellTiles:
    """Draw cells with these traits (N, 8): uint16 on tiles of 129 x 129 px, in the channels' order.

    Actin is a bright cortex around grains or, with the trait `fibres`, parallel bundles; DNA fills
    the nucleus; AR and Zeb1 lie in the nucleus, a part of AR outside of it.
    """
    n_cells = len(traits)
    radius, irregularity, nucleus_radius = traits.T[:3]
    fibres, actin, dna, ar, zeb1 = traits.T[3:, :, None, None].astype(np.float32)
    outlines = radius[:, None, None] * random_outlines(irregularity, rng)
    nuclei = nucleus_radius[:, None, None] * random_outlines(np.full(n_cells, 0.1), rng)
    nucleus = fill_outlines(nuclei, TILE)
    cell = fill_outlines(outlines, TILE) | nucleus
    cortex = cell & ~fill_outlines(CORTEX * outlines, TILE)

    smooth, grain, chromatin = (
        clouds(n_cells, 7, persistence, TILE, rng) for persistence in (0.4, 0.9, 0.8)
    )
    bundles = _bundles(smooth, rng) * (0.3 + 0.7 * smooth)
    inside = 0.7 * (1 - fibres) * grain + fibres * bundles
    levels = (
        actin * np.where(cortex, np.maximum(inside, 0.9 * grain), 0.8 * inside),
        dna * np.where(nucleus, 0.4 + 0.6 * chromatin, 0.02),
        ar * np.where(nucleus, 0.5 + 0.5 * smooth, 0.35 * grain),
        zeb1 * np.where(nucleus, 0.5 + 0.5 * chromatin, 0.12 * grain),
    )
    image = BRIGHTEST * np.stack(levels, axis=-1)  # (N, T, T, 4)
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    image += np.sqrt(40 * image) * noise  # shot noise of 40 grey levels an electron
    # No pixel of a cell is as black as the background.
    image = np.where(cell[..., None], np.clip(np.rint(image), 1, 65_535), 0)
    return CellTiles(image.astype(np.uint16), cell, nucleus)


def _bundles(bend: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bundles of fibres along a random direction for each cell: (N, T, T) in 0..1.

    The crests of a sum of waves of nearly one direction and various widths, bent by a cloud.
    """
    shape = (FIBRE_WAVES, len(bend), 1, 1)
    direction = rng.uniform(0, 2 * np.pi, shape[1:]) + FIBRE_SCATTER * rng.standard_normal(shape)
    frequency = 2 * np.pi / rng.uniform(*FIBRE_SPACING, shape)
    phase = rng.uniform(0, 2 * np.pi, shape)
    place = np.arange(TILE, dtype=np.float32) - TILE // 2
    total = np.zeros_like(bend)
    for angle, k, shift in np.stack([direction, frequency, phase], axis=1).astype(np.float32):
        across = np.cos(angle) * place[:, None] + np.sin(angle) * place  # (N, T, T)
        total += np.cos(k * across + 3 * bend + shift)
    return np.clip(total / FIBRE_WAVES**0.5 + 0.3, 0, 1.8) / 1.8
