"""The cells that an expert has selected, and what distinguishes them.

A selection is a list of strokes. A stroke is an outline in a plane of two latent axes, a class, a
single cell or a group of the feedback, and says how it changes the selection. The page stores only
the strokes; this module finds the cells, among all cells of the run and not only those drawn.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.path import Path as Outline
from scipy.stats import rankdata

from util.errors import UserError

HOW = ("new", "add", "narrow", "remove")
MOST_STROKES = 200
MOST_CORNERS = 5_000  # of an outline; a lasso drawn by hand has a few hundred


@dataclass(frozen=True)
class Stroke:
    """One step of a selection.

    Attributes:
        how: `new` starts a selection, `add` adds cells, `narrow` keeps only these, `remove` removes
            them.
        axes: the two latent axes, from 0, of an outline; None for other strokes.
        corners: (k, 2) corners of the outline, latent units.
        label: name of a class.
        group: name of a group of the feedback.
        cell: row of a single cell, which is added, or removed if it was selected.
    """

    how: str
    axes: tuple[int, int] | None = None
    corners: np.ndarray | None = None
    label: str | None = None
    group: str | None = None
    cell: int | None = None


def parse_strokes(raw: Any, n_cells: int, latent_dim: int) -> list[Stroke]:
    """Strokes from what a browser sent.

    Args:
        raw: a list of objects with `how`, and with `axes`, `x`, `y`, or `label`, `group`, `cell`.
        n_cells: N.
        latent_dim: d.

    Raises:
        UserError: it is anything else.
    """
    if raw is None:
        return []
    if not isinstance(raw, list) or len(raw) > MOST_STROKES:
        raise UserError(f"a selection has at most {MOST_STROKES} steps: start a new one")
    try:
        return [_parse_stroke(stroke, n_cells, latent_dim) for stroke in raw]
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise UserError(f"not a selection ({error}): clear it and select again") from error


def _parse_stroke(raw: Mapping[str, Any], n_cells: int, latent_dim: int) -> Stroke:
    how = raw["how"]
    if how not in HOW:
        raise ValueError(f"how is {how!r}")
    if "cell" in raw:
        cell = int(raw["cell"])
        if not 0 <= cell < n_cells:
            raise ValueError(f"no cell {cell}")
        return Stroke(how, cell=cell)
    if "label" in raw:
        return Stroke(how, label=str(raw["label"]))
    if "group" in raw:
        return Stroke(how, group=str(raw["group"]))
    axes = tuple(int(axis) for axis in raw["axes"])
    if len(axes) != 2 or not all(0 <= axis < latent_dim for axis in axes):
        raise ValueError(f"axes {axes}")
    corners = np.column_stack([np.asarray(raw[name], float) for name in ("x", "y")])
    if not 3 <= len(corners) <= MOST_CORNERS or not np.isfinite(corners).all():
        raise ValueError("an outline needs 3 finite corners or more")
    return Stroke(how, axes=axes, corners=corners)


def select(
    strokes: Sequence[Stroke],
    codes: np.ndarray,
    labels: np.ndarray | None = None,
    groups: Mapping[str, np.ndarray] | None = None,
) -> np.ndarray:
    """The cells that are selected after the last stroke.

    Args:
        strokes: in their order.
        codes: (N, d) latent coordinates.
        labels: (N,) class of each cell as text.
        groups: rows of the cells of each group of the feedback; a removed group has none.

    Returns:
        (N,) bool.
    """
    selected = np.zeros(len(codes), bool)
    for stroke in strokes:
        if stroke.cell is not None:
            selected = selected.copy()
            selected[stroke.cell] ^= True
            continue
        found = _found(stroke, codes, labels, groups or {})
        if stroke.how == "new":
            selected = found
        elif stroke.how == "add":
            selected = selected | found
        elif stroke.how == "narrow":
            selected = selected & found
        else:
            selected = selected & ~found
    return selected


def _found(
    stroke: Stroke,
    codes: np.ndarray,
    labels: np.ndarray | None,
    groups: Mapping[str, np.ndarray],
) -> np.ndarray:
    if stroke.corners is not None:
        return inside(codes[:, list(stroke.axes)], stroke.corners)
    found = np.zeros(len(codes), bool)
    if stroke.label is not None and labels is not None:
        found = labels == stroke.label
    elif stroke.group is not None:
        found[groups.get(stroke.group, [])] = True
    return found


def inside(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """(N,) bool: which points (N, 2) lie within the outline (k, 2), closed from last to first."""
    low, high = corners.min(axis=0), corners.max(axis=0)
    # The exact test is slow; only points in the box around the outline need it.
    found = ((points >= low) & (points <= high)).all(axis=1)
    outline = Outline(np.vstack([corners, corners[:1]]), closed=True)
    found[found] = outline.contains_points(points[found])
    return found


class Differences:
    """How a selection differs from the other cells, column by column.

    The measure is the probability that a selected cell has a larger value than another cell, where
    ties count half. This is the area under the ROC curve, U / (n m) of Mann and Whitney 1947, and
    does not depend on units or outliers. Ranks are computed once; a selection then costs one sum
    per column.

    Args:
        table: (N, F) numbers; a missing value ranks as the median of its column.
    """

    def __init__(self, table: pd.DataFrame):
        self.columns = [str(name) for name in table.columns]
        # (F, N) ranks minus their mean, in halves: exact in float32 up to 8 million cells
        self.ranks = np.empty((len(self.columns), len(table)), np.float32)
        for place, name in enumerate(table.columns):
            values = table[name].to_numpy(float, na_value=np.nan)
            known = np.isfinite(values)
            middle = np.median(values[known]) if known.any() else 0.0
            ranks = rankdata(np.where(known, values, middle))
            self.ranks[place] = ranks - (len(table) + 1) / 2

    def of(self, selected: np.ndarray, most: int = 8) -> pd.DataFrame:
        """The columns that separate the selected cells (N,) bool from the rest most.

        Returns:
            column and larger, the probability in 0..1; the farthest from 1/2 first. Empty if all
            cells or none are selected.
        """
        n, m = int(selected.sum()), int((~selected).sum())
        if n == 0 or m == 0 or not self.columns:
            return pd.DataFrame({"column": [], "larger": []})
        sums = (self.ranks @ selected.astype(np.float32)).astype(np.float64)  # (F,)
        larger = np.clip(0.5 + sums / n / m, 0, 1)
        order = np.argsort(-np.abs(larger - 0.5), kind="stable")[:most]
        return pd.DataFrame({"column": [self.columns[i] for i in order], "larger": larger[order]})


def class_shares(labels: np.ndarray, selected: np.ndarray, most: int = 4) -> pd.DataFrame:
    """Classes by their share of the selection.

    Args:
        labels: (N,) class of each cell as text.
        selected: (N,) bool.
        most: number of classes, the most frequent ones.

    Returns:
        label, share (of the selected cells) and of_rest (share of the other cells), 0..1.
    """
    names, codes = np.unique(labels, return_inverse=True)
    inside_counts = np.bincount(codes[selected], minlength=len(names))
    rest_counts = np.bincount(codes[~selected], minlength=len(names))
    order = np.argsort(-inside_counts, kind="stable")[:most]
    order = order[inside_counts[order] > 0]
    return pd.DataFrame(
        {
            "label": names[order],
            "share": inside_counts[order] / max(1, selected.sum()),
            "of_rest": rest_counts[order] / max(1, (~selected).sum()),
        }
    )


def spread_out(cells: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the cells, evenly spaced, so that a gallery shows all kinds."""
    step = max(1, math.ceil(len(cells) / most))
    return cells[::step]
