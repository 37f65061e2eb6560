"""Windows or masked crops: whether outlines follow a stain, and whether cells touch.

A threshold per field moves with the stain. Where a treatment dims the cytoplasm, the outlines close
in on the nuclei, and cells seem to shrink that did not: their area is no property of the cell, and
a window of the field is the better choice. So the stain is measured where it does not depend on the
outline, in a ring around the nucleus, and compared with the area of the mask. Where outlines can be
trusted and cells touch, masked crops are better, since a window shows the neighbours as well.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from util.raw.segmentation import object_table

MOST_FIELDS = 48  # looked at, evenly spaced
RING = (0.6, 1.2)  # nucleus diameters from the centre
LEAST_FIELDS, LEAST_CELLS = 4, 30
ACROSS, WITHIN = 0.7, 0.6  # Spearman correlation of area and stain from which a warning is due
CHANCE = 0.05  # of such a correlation across so many fields, below which it is believed
FOLD = 1.25  # between the fields of the smallest and the largest cells
# Between the areas of the brightest and the dimmest third. Cells that are truly larger reach
# further beyond the ring, which by itself makes the ring a little brighter.
THIRDS = 1.5
CROWDED = 0.05  # share of a window's pixels that belong to other cells, from which it shows them
BOXES, MARGIN = 0.95, 1.2  # a window that is not asked for holds 95 % of the cells, with a margin
PREFIX = "outline check: "  # of the columns
AREA, NEIGHBOURS, SIDE = f"{PREFIX}area", f"{PREFIX}neighbours", f"{PREFIX}window"

Crop = Literal["masked", "window"]


@dataclass(frozen=True)
class Advice:
    """Which crops to cut, and why.

    Attributes:
        crop: recommended; None where both serve.
        reason: with its numbers.
        neighbours: median share of a window's pixels that belong to other cells, 0..1.
        window: side of these windows in px.
        cells: how many were looked at.
        area_and_stain: channel -> Spearman correlations of area and stain across and within fields.
    """

    crop: Crop | None
    reason: str
    neighbours: float
    window: int
    cells: int
    area_and_stain: dict[str, dict[str, float]]

    def line(self, chosen: Crop) -> str:
        """For the terminal."""
        if self.crop is None:
            return f"crops: --crop {chosen} serves: {self.reason}"
        instead = "" if self.crop == chosen else f" instead of {chosen}"
        return f"crops: --crop {self.crop} is recommended{instead}: {self.reason}"

    def describe(self, chosen: Crop) -> str:
        """For a file, as JSON."""
        return json.dumps({"chosen": chosen, "recommended": self.crop or "either",
                           **{k: v for k, v in asdict(self).items() if k != "crop"}},
                          indent=2)  # fmt: skip


def without_checks(table: pd.DataFrame) -> pd.DataFrame:
    """The table without the columns of these checks."""
    return table.drop(columns=[name for name in table if str(name).startswith(PREFIX)])


def measure_neighbours(
    outlines: np.ndarray, objects: pd.DataFrame, side: int | None
) -> pd.DataFrame:
    """The columns AREA, NEIGHBOURS and SIDE of the cells of a field.

    Args:
        outlines: (H, W) labels of the cells, 0 in the background.
        objects: N rows with `number`, the label, and x and y, the centre in px.
        side: of the windows around the centres in px; None takes one that holds 95 % of the cells
            with a margin of a tenth on each side.
    """
    if side is None:
        boxes = object_table(outlines)
        sides = np.maximum(boxes["bottom"] - boxes["top"], boxes["right"] - boxes["left"])
        side = int(np.ceil(MARGIN * sides.quantile(BOXES))) if len(sides) else 1
    numbers = objects["number"].to_numpy(int)
    areas = np.bincount(outlines.ravel(), minlength=numbers.max(initial=0) + 1)[numbers]
    shares = np.full(len(objects), np.nan)
    for i, (x, y) in enumerate(objects[["x", "y"]].to_numpy(float)):
        top, left = max(0, round(y - side / 2)), max(0, round(x - side / 2))
        seen = outlines[top : round(y + side / 2), left : round(x + side / 2)]
        if seen.size:
            shares[i] = ((seen > 0) & (seen != numbers[i])).mean()
    return objects.assign(**{AREA: np.where(areas, areas, np.nan), NEIGHBOURS: shares, SIDE: side})


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
    """A line for each channel whose stain goes together with the area of the outlines.

    Across fields by the medians of the fields, or within them by the ranks of their cells.

    Args:
        cells: a row per cell, with AREA and the columns of the stains (`PREFIX`).
        field: columns that name the field.
    """
    warnings = []
    for channel, (said, _) in _followed(cells, field).items():
        if said:
            warnings.append(
                f"the outlines may follow the stain {channel}: area and intensity go together "
                f"{said}, so the area may be no property of the cell; use --crop window, or "
                "outlines from --cell-masks"
            )
    return warnings


def advise(cells: pd.DataFrame, field: Sequence[str], masks: bool) -> Advice:
    """Which crops suit these cells.

    Windows where outlines follow a stain; masked crops where they do not and windows would show the
    neighbours; either where cells stand apart.

    Args:
        cells: a row per cell, with the columns of `measure_neighbours` and of the stains.
        field: columns that name the field.
        masks: whether the outlines were given, so that they depend on no threshold.
    """
    checked = cells.dropna(subset=NEIGHBOURS) if NEIGHBOURS in cells else cells[:0]
    followed = _followed(checked, field)
    share = float(checked[NEIGHBOURS].median()) if len(checked) else 0.0
    side = int(checked[SIDE].median()) if len(checked) else 0
    crowd = (
        f"other cells cover {100 * share:.0f} % of a window of {side} px around a cell (median of "
        f"{len(checked):,} cells)"
    )
    trust = "outlines come from masks" if masks else "outlines follow no stain"
    found = [f"{channel} {said}" for channel, (said, _) in followed.items() if said]
    known = masks or len(checked) >= LEAST_CELLS
    crop: Crop | None = None
    if found:
        crop, reason = "window", f"outlines follow the stain {'; '.join(found)}"
        if share >= CROWDED:
            reason += f"; but {crowd}: give --cell-masks to avoid that"
    elif share >= CROWDED and known:
        crop, reason = "masked", f"{crowd}, and {trust}"
    elif share >= CROWDED:
        reason = f"{crowd}, but these are too few to tell whether outlines follow a stain"
    else:
        reason = (
            f"{crowd}, so both show one cell; masked crops take its outline for granted, windows "
            "keep the surroundings"
        )
    numbers = {channel: numbers for channel, (_, numbers) in followed.items()}
    return Advice(crop, reason, neighbours=round(share, 4), window=side, cells=len(checked),
                  area_and_stain=numbers)  # fmt: skip


def _followed(cells: pd.DataFrame, field: Sequence[str]) -> dict[str, tuple[str, dict[str, float]]]:
    """Channel -> where its stain goes together with the area, "" for nowhere; correlations."""
    found = {}
    for column in [c for c in cells if c not in (AREA, NEIGHBOURS, SIDE)]:
        if not str(column).startswith(PREFIX):
            continue
        known = cells[[*field, AREA, column]].dropna()
        groups = known.groupby(list(field) or np.zeros(len(known)))[[AREA, column]]
        medians, centred = groups.median(), known[[AREA, column]] / groups.transform("median")
        small, large = medians[AREA].min(), medians[AREA].max()
        across, within = _spearman(medians, column), _spearman(groups.rank(pct=True), column)
        order = np.argsort(centred[column].to_numpy())
        dim, *_, bright = np.array_split(centred[AREA].to_numpy()[order], 3)
        said = []
        if (
            len(medians) >= LEAST_FIELDS
            and large >= FOLD * small
            and across >= ACROSS
            and spearmanr(medians[AREA], medians[column], alternative="greater").pvalue < CHANCE
        ):
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
        numbers = {"across": round(across, 3), "within": round(within, 3)}
        found[column.removeprefix(PREFIX)] = " and ".join(said), numbers
    return found


def _spearman(table: pd.DataFrame, column: str) -> float:
    """Rank correlation of the area with a column; 0 where one of them does not vary."""
    ranks = table[[AREA, column]].rank()
    return float(ranks[AREA].corr(ranks[column])) if (ranks.nunique() > 1).all() else 0.0
