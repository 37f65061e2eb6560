"""How well a latent space follows the feedback: measures and a figure, before and after.

All functions take codes and feedback as arrays; nothing is trained here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from mpl_toolkits.mplot3d.proj3d import proj_transform
from scipy.stats import spearmanr

from human_guidance.feedback_helpers import AxisHint, Feedback, PairFeedback
from util.helpers import add_key, draw_points, key_height, projection_panel
from util.latents import axis_names
from util.style import (
    ClassColours,
    NumberColours,
    Roles,
    colour_column,
    house_style,
    one_line,
    save_figure,
    spread,
    thinning_stride,
)

NEAR = 0.5  # latent units; a cell this close counts as at its anchor
MAX_GROUPS = 20  # with rows of their own in the table
MARKED = 100  # guided cells of a group that the figure marks
SMALLEST_SHARE = 1 / 3  # of a panel that the cells of a state must fill
DOMINATES = 0.9  # least share of one class in a group that is taken for that class
COLUMNS = ["term", "group", "cells", "n_cells", "measure"]
GUIDED, HELD_OUT = "guided", "held out"


@dataclass(frozen=True)
class Guidance:
    """All feedback on one run.

    Attributes:
        anchors: cells that training moves to their anchor; None for none.
        held_out: anchored cells that are judged, not trained on.
        pairs: cells that belong together or apart.
        hints: axes that should follow a column.
    """

    anchors: Feedback | None = None
    held_out: Feedback | None = None
    pairs: PairFeedback | None = None
    hints: list[AxisHint] = field(default_factory=list)

    def groups(self) -> dict[str, np.ndarray]:
        """Group -> its anchor (d,), the mean over its cells."""
        if self.anchors is None:
            return {}
        anchors, names = self.anchors.anchors, self.anchors.groups
        return {name: anchors[names == name].mean(0) for name in dict.fromkeys(names)}


def follow_up(
    guidance: Guidance,
    codes: Mapping[str, np.ndarray],
    latents: pd.DataFrame,
    label: str | None = None,
) -> pd.DataFrame:
    """Measure how closely latent spaces follow the feedback.

    Args:
        guidance: the feedback.
        codes: name of the state (before, after) -> (N, d) codes.
        latents: N rows with `split`, the columns of the hints and of the class.
        label: column of the classes; if a group consists of one class, the other cells of that
            class are judged too.

    Returns:
        term, group, cells (guided, held out, or others of a class), n_cells, measure, and a column
        of values per state.
    """
    rows = [
        *_anchor_rows(guidance, codes),
        *_kin_rows(guidance, codes, latents, label),
        *_pair_rows(guidance, codes),
        *_axis_rows(guidance, codes, latents),
    ]
    return pd.DataFrame(rows, columns=[*COLUMNS, *codes])


def _anchor_rows(guidance: Guidance, codes: Mapping[str, np.ndarray]) -> list[tuple]:
    centres = guidance.groups()
    rows = []
    for kind, feedback in ((GUIDED, guidance.anchors), (HELD_OUT, guidance.held_out)):
        if feedback is None or not len(feedback):
            continue
        names = list(dict.fromkeys(feedback.groups))
        several = ["all"] if len(names) > 1 else []
        for group in [*several, *names] if len(names) <= MAX_GROUPS else several:
            chosen = np.ones(len(feedback), bool) if group == "all" else feedback.groups == group
            cells, targets = feedback.cells[chosen], feedback.anchors[chosen]
            own = feedback.groups[chosen]
            rows += _distance_rows(
                codes, cells, targets, own=own, centres=centres, what=(group, kind)
            )
    return rows


def _distance_rows(
    codes: Mapping[str, np.ndarray],
    cells: np.ndarray,
    targets: np.ndarray,
    own: np.ndarray,
    centres: dict[str, np.ndarray],
    what: tuple[str, str],
) -> list[tuple]:
    """Measures of cells (n,) that belong at `targets` (n, d) or (d,), in the groups `own` (n,)."""
    distances = {name: np.linalg.norm(c[cells] - targets, axis=1) for name, c in codes.items()}
    measures = {
        "mean distance to the anchor": [d.mean() for d in distances.values()],
        f"share within {NEAR} of the anchor": [(d <= NEAR).mean() for d in distances.values()],
    }
    if 1 < len(centres) <= MAX_GROUPS:
        measures["share nearest to its own anchor"] = [
            _share_nearest(c[cells], own, centres) for c in codes.values()
        ]
    head = ("anchors", *what, len(cells))
    return [(*head, measure, *values) for measure, values in measures.items()]


def _share_nearest(points: np.ndarray, own: np.ndarray, centres: dict[str, np.ndarray]) -> float:
    """Share of points (n, d) that lie nearest to the centre of their own group."""
    names = np.array(list(centres), dtype=object)
    apart = points[:, None] - np.stack(list(centres.values()))  # (n, groups, d)
    return float((names[np.square(apart).sum(2).argmin(1)] == own).mean())


def _kin_rows(
    guidance: Guidance, codes: Mapping[str, np.ndarray], latents: pd.DataFrame, label: str | None
) -> list[tuple]:
    """Measures of cells without an anchor whose class is that of a group."""
    centres = guidance.groups()
    kin = kin_of(guidance, latents, label)
    rows = []
    for group, (name, cells) in kin.items():
        if len(cells):
            what = (group, f"others of {label} {name}")
            own = np.full(len(cells), group, dtype=object)
            rows += _distance_rows(
                codes, cells, centres[group], own=own, centres=centres, what=what
            )
    return rows


def kin_of(
    guidance: Guidance, latents: pd.DataFrame, label: str | None
) -> dict[str, tuple[str, np.ndarray]]:
    """Group -> its class, and the cells of that class without an anchor.

    A group has a class if at least 90 % of its cells belong to it and no other group has it.
    """
    if guidance.anchors is None or label is None or len(guidance.groups()) > MAX_GROUPS:
        return {}
    feedback = guidance.anchors
    classes = latents[label].astype(str).to_numpy()
    shares = pd.crosstab(feedback.groups, classes[feedback.cells], normalize="index")
    found = shares.idxmax(axis=1)[shares.max(axis=1) >= DOMINATES]
    found = found[~found.duplicated(keep=False)]
    free = np.ones(len(latents), bool)
    free[feedback.cells] = False
    if guidance.held_out is not None:
        free[guidance.held_out.cells] = False
    return {g: (name, np.flatnonzero(free & (classes == name))) for g, name in found.items()}


def _pair_rows(guidance: Guidance, codes: Mapping[str, np.ndarray]) -> list[tuple]:
    pairs, rows = guidance.pairs, []
    for relation, wanted in (("together", True), ("apart", False)):
        chosen = pairs.cells[pairs.together == wanted] if pairs is not None else []
        if len(chosen):
            apart = [
                np.linalg.norm(c[chosen[:, 0]] - c[chosen[:, 1]], axis=1) for c in codes.values()
            ]
            values = [d.mean() for d in apart]
            rows.append(
                ("pairs", relation, GUIDED, len(chosen), "mean distance of a pair", *values)
            )
    return rows


def _axis_rows(
    guidance: Guidance, codes: Mapping[str, np.ndarray], latents: pd.DataFrame
) -> list[tuple]:
    rows = []
    for hint in guidance.hints:
        values = latents[hint.column].to_numpy(float)
        name = f"{axis_names(hint.axis + 1)[-1]} follows {hint.column}"
        for kind, split in ((GUIDED, "train"), (HELD_OUT, "valid")):
            cells = np.flatnonzero(np.isfinite(values) & (latents["split"] == split).to_numpy())
            if len(cells) < 3:
                continue
            rho = [float(spearmanr(c[cells, hint.axis], values[cells])[0]) for c in codes.values()]
            rows.append(("axes", name, kind, len(cells), "Spearman correlation", *rho))
    return rows


def plot_guidance(
    codes: Mapping[str, np.ndarray],
    guidance: Guidance,
    latents: pd.DataFrame,
    roles: Roles,
    path: Path,
) -> Path:
    """The latent space in each state, side by side: cells, guided cells, anchors.

    All panels share their axes, unless the cells of one would then fill less than a third of it. At
    most `MARKED` guided cells of each group are marked.

    Args:
        codes: name of the state -> (N, d) codes; the first three dimensions are drawn.
        guidance: the feedback; held-out cells have their own mark.
        latents: N rows with the class.
        roles: the label to colour by, None for one colour, and the order of its classes.
        path: PNG to write.
    """
    states = {name: _drawable(values) for name, values in codes.items()}
    dimensions = next(iter(states.values())).shape[1]
    colouring = colour_column(latents[roles.label], roles) if roles.label else None
    height = max(5.0, key_height(colouring) + 0.4)  # below it the key of the marks
    with house_style():
        figure = Figure(figsize=(4.3 * len(states) + 2.0, height), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06, wspace=0.05)
        limits = _limits([*states.values()], _drawable(_all_anchors(guidance, codes)))
        panels = []
        for i, (name, points) in enumerate(states.items()):
            panel = projection_panel(figure, (1, len(states), i + 1), dimensions)
            if dimensions == 3:
                panel.computed_zorder = False  # marks are drawn above the cells
            _draw_state(panel, points, colouring, guidance)
            _label_state(panel, name, codes, limits[i])
            _mark_anchors(panel, guidance)
            panels.append(panel)
        if colouring is not None:
            add_key(figure, panels, colouring, roles.label)
        handles = _guidance_handles(guidance)
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        return save_figure(figure, path)


def _drawable(codes: np.ndarray) -> np.ndarray:
    """Codes (N, d) as (N, 2) or (N, 3); a single dimension is spread over a meaningless second."""
    if codes.shape[1] == 1:
        return np.column_stack([codes, spread(len(codes))])
    return codes[:, :3]


def _all_anchors(guidance: Guidance, codes: Mapping[str, np.ndarray]) -> np.ndarray:
    latent_dim = next(iter(codes.values())).shape[1]
    return np.stack(list(guidance.groups().values()) or [np.zeros(latent_dim)])


def _limits(states: list[np.ndarray], anchors: np.ndarray) -> np.ndarray:
    """Ranges (states, d, 2) with a margin around 99.6 % of the points and all anchors.

    All states share one range, if the points of each fill enough of it.
    """
    lows, highs = np.percentile(states, [0.2, 99.8], axis=1)  # (states, d)
    lows, highs = np.minimum(lows, anchors.min(0)), np.maximum(highs, anchors.max(0))
    low, high = lows.min(0), highs.max(0)
    if ((highs - lows) / np.maximum(high - low, 1e-6)).max(1).min() >= SMALLEST_SHARE:
        lows, highs = np.broadcast_to(low, lows.shape), np.broadcast_to(high, highs.shape)
    margin = 0.06 * np.maximum(highs - lows, 1e-6)
    return np.stack([lows - margin, highs + margin], axis=2)


def _draw_state(
    panel: Axes,
    points: np.ndarray,
    colouring: ClassColours | NumberColours | None,
    guidance: Guidance,
) -> None:
    draw_points(panel, points, colouring, thinning_stride(len(points)))
    flat = {} if points.shape[1] == 2 else {"depthshade": False}
    for feedback, style in ((guidance.anchors, _RING), (guidance.held_out, _DIAMOND)):
        if feedback is not None and len(feedback):
            shown = _some_of_each(feedback)
            panel.scatter(*points[shown].T, **_size(style, len(shown)), **flat, zorder=4)


def _some_of_each(feedback: Feedback) -> np.ndarray:
    """Up to `MARKED` random cells of each group, the same in every figure."""
    shuffled = pd.Series(feedback.cells, feedback.groups).sample(frac=1, random_state=0)
    return shuffled.groupby(level=0).head(MARKED).to_numpy()


def _mark_anchors(panel: Axes, guidance: Guidance) -> None:
    """Draw a star at each anchor and its name above; call it when the limits are final."""
    groups = guidance.groups()
    for name, anchor in groups.items() if len(groups) <= MAX_GROUPS else ():
        place = _drawable(anchor[None])[0]
        if len(place) == 3:
            panel.scatter(*place[:, None], **_STAR, depthshade=False, zorder=6)
            place = proj_transform(*place, panel.get_proj())[:2]
        else:
            panel.scatter(*place[:, None], **_STAR, zorder=6)
        panel.annotate(
            one_line(name, 22), place, xytext=(0, 11), textcoords="offset points",
            ha="center", fontsize=9, zorder=7, bbox=_LABEL_BOX,
        )  # fmt: skip


_RING = {"marker": "o", "facecolors": "none", "edgecolors": "black", "linewidths": 0.7, "s": 26}
_DIAMOND = {"marker": "D", "facecolors": "white", "edgecolors": "black", "linewidths": 1.2, "s": 34}
_STAR = {"marker": "*", "facecolors": "#ffd400", "edgecolors": "black", "linewidths": 1.0, "s": 160}
_LABEL_BOX = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0}


def _size(style: dict, n: int) -> dict:
    """The style, with smaller marks if there are many."""
    return style | ({"s": 0.5 * style["s"], "linewidths": 0.45} if n > 100 else {})


def _label_state(
    panel: Axes, name: str, codes: Mapping[str, np.ndarray], limits: np.ndarray
) -> None:
    latent_dim = next(iter(codes.values())).shape[1]
    names = [*axis_names(latent_dim), "spread (no meaning)"][: max(2, min(latent_dim, 3))]
    more = f" (first 3 of {latent_dim} dimensions)" if latent_dim > 3 else ""
    panel.set_title(name + more, y=0.97 if len(limits) == 3 else None)
    for axis, text, (low, high) in zip("xyz", names, limits, strict=False):
        getattr(panel, f"set_{axis}lim")(low, high)
        pad = {"labelpad": -1 if len(limits) == 3 else 4, "fontsize": 9}
        getattr(panel, f"set_{axis}label")(text, **pad)


def _guidance_handles(guidance: Guidance) -> list[Line2D]:
    handles = []
    for feedback, style, what in (
        (guidance.anchors, _RING, "guided cells"),
        (guidance.held_out, _DIAMOND, "held-out cells"),
        (guidance.anchors, _STAR, "anchors"),
    ):
        if feedback is not None and len(feedback):
            face = style["facecolors"]
            mark = {"marker": style["marker"], "markerfacecolor": face, "color": "black"}
            count = f" ({len(feedback):,})" if what != "anchors" else ""
            size = math.sqrt(style["s"]) * 0.8
            handles.append(
                Line2D([], [], linestyle="", markersize=size, label=what + count, **mark)
            )
    return handles
