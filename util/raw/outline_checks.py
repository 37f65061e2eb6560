"""Whether outlines follow a stain: then the area of a cell is no property of the cell.

A threshold per field moves with the stain. Where a treatment dims the cytoplasm, the outlines close
in on the nuclei, and cells seem to shrink that did not. So the stain is measured where it does not
depend on the outline, in a ring around the nucleus, and compared with the area of the mask.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

RING = (0.6, 1.2)  # nucleus diameters from the centre
LEAST_FIELDS, LEAST_CELLS = 4, 30
ACROSS, WITHIN = 0.7, 0.6  # Spearman correlation of area and stain from which a warning is due
FOLD = 1.25  # between the fields of the smallest and the largest cells
THIRDS = (
    1.5  # between the areas of the brightest and the dimmest third; cells that are truly larger
)
# reach further beyond the ring, which by itself makes the ring a little brighter
PREFIX = "stain beside the nucleus: "  # of the columns


def measure_stain(
    image: np.ndarray,
    labels: np.ndarray,
    objects: pd.DataFrame,
    channels: Sequence[int],
    diameter: float,
) -> np.ndarray:
    """Mean of some channels in a ring around each nucleus, above the background of the field.

    Args:
        image: (H, W, C).
        labels: (H, W) of the cells, 0 in the background.
        objects: N rows with x and y, the centres in px.
        channels: which ones.
        diameter: of a nucleus in px.

    Returns:
        (N, len(channels)).
    """
    stain = image[..., list(channels)].astype(np.float32)
    outside = stain[labels == 0] if (labels == 0).any() else stain.reshape(-1, len(channels))
    background = np.median(outside, axis=0)
    reach = int(np.ceil(RING[1] * diameter))
    height, width = labels.shape
    found = np.full((len(objects), len(channels)), np.nan)
    for i, (x, y) in enumerate(objects[["x", "y"]].to_numpy(float)):
        rows = np.arange(max(0, int(y) - reach), min(height, int(y) + reach + 1))
        columns = np.arange(max(0, int(x) - reach), min(width, int(x) + reach + 1))
        distance = np.hypot(rows[:, None] - y, columns - x) / diameter
        ring = (distance >= RING[0]) & (distance <= RING[1])
        if ring.any():
            found[i] = stain[np.ix_(rows, columns)][ring].mean(axis=0) - background
    return found


def outline_warnings(cells: pd.DataFrame, field: Sequence[str]) -> list[str]:
    """A line for each channel whose stain goes together with the area of the masks.

    Across fields by the medians of the fields, or within them by the ranks of their cells.

    Args:
        cells: a row per cell, with `area` in px and the columns of the stains (`PREFIX`).
        field: columns that name the field.
    """
    warnings = []
    for column in [name for name in cells if str(name).startswith(PREFIX)]:
        known = cells[[*field, "area", column]].dropna()
        groups = known.groupby(list(field) or np.zeros(len(known)))[["area", column]]
        medians, centred = groups.median(), known[["area", column]] / groups.transform("median")
        small, large = medians["area"].min(), medians["area"].max()
        across, within = _spearman(medians, column), _spearman(groups.rank(pct=True), column)
        order = np.argsort(centred[column].to_numpy())
        dim, *_, bright = np.array_split(centred["area"].to_numpy()[order], 3)
        said = []
        if len(medians) >= LEAST_FIELDS and large >= FOLD * small and across >= ACROSS:
            said.append(
                f"across {len(medians)} fields (Spearman {across:.2f}; median area {small:.0f} to "
                f"{large:.0f} px)"
            )
        if (
            len(known) >= LEAST_CELLS
            and within >= WITHIN
            and np.median(bright) >= THIRDS * np.median(dim)
        ):
            said.append(f"within fields (Spearman {within:.2f} over {len(known):,} cells)")
        if said:
            warnings.append(
                f"the outlines may follow the stain {column.removeprefix(PREFIX)}: area and "
                f"intensity go together {' and '.join(said)}, so the area may be no property of "
                "the cell; use --crop window, or outlines from --cell-masks"
            )
    return warnings


def _spearman(table: pd.DataFrame, column: str) -> float:
    """Rank correlation of the area with a column; 0 where one of them does not vary."""
    ranks = table[["area", column]].rank()
    return float(ranks["area"].corr(ranks[column])) if (ranks.nunique() > 1).all() else 0.0
