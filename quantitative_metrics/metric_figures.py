"""Figures of the metrics: backbones, ordered distances, co-ranking matrices, local quality.

Every function takes arrays or plain objects and a path, one panel per projection, in the style of
`util.helpers`: PNG of 150 dpi, the same input gives the same bytes.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from quantitative_metrics.backbone_metric import BackboneScore
from util.errors import UserError
from util.helpers import projection_panel, turn_to
from util.metadata import ordered_classes
from util.style import (
    LINE_PALETTE,
    LINE_STYLES,
    MARKERS,
    OKABE_ITO,
    Roles,
    colour_column,
    house_style,
    one_line,
    save_figure,
    spread,
    thinning_stride,
)

ONE_COLOUR = OKABE_ITO[0]  # of a continuum without branches
INK = "#222222"
LINE_WIDTH = 2.0
CENTRE_EDGE = {"markeredgecolor": INK, "markeredgewidth": 1.6}
CENTRE_MARKERS = ["o", "s", "D", "^", "v", "P"]  # one for each initial state, begun again
ROLLING_SHARE = 0.05  # window of the rolling mean, of the cells of a branch
GRID_POINTS = 512  # of a density


@dataclass(frozen=True)
class BranchLook:
    """Colour of a branch and shape of its cells and knots (a key of `style.MARKERS`)."""

    colour: str
    shape: str = "circle"

    @property
    def line(self) -> dict[str, Any]:
        """matplotlib's properties of its line."""
        dashes = LINE_STYLES[list(MARKERS).index(self.shape)]
        return {"color": self.colour, "linewidth": LINE_WIDTH, "linestyle": dashes}

    @property
    def knot(self) -> dict[str, Any]:
        """matplotlib's properties of its marker in a legend; circles are understood."""
        return {} if self.shape == "circle" else {"marker": MARKERS[self.shape], "markersize": 5}


def plot_backbone(
    codes: Mapping[str, np.ndarray],
    backbones: Mapping[str, BackboneScore],
    path: Path,
    colour_by: str = "branch",
    names: tuple[str, str, str] = ("branch", "progress", "start"),
    order: Sequence[str] = (),
) -> Path:
    """The projections side by side: cells faint, the broken lines and their centres on top.

    Of more than three dimensions the first three principal components are drawn, and the panel says
    so. Cells left out of the score are not drawn.

    Args:
        codes: name -> (N, d) codes.
        backbones: name -> backbone of these codes.
        path: PNG to write.
        colour_by: "branch", or "progress" for a colour scale; without branches always the latter.
        names: what the branch, the progress and the initial state are called in the figure.
        order: branches and initial states in the order in which they are shown.

    Raises:
        UserError: names or lengths of codes and backbones that differ, or another `colour_by`.
    """
    check_pairs(codes, latent_distances(backbones), "backbones")
    if colour_by not in ("branch", "progress"):
        raise UserError(f"colour_by = {colour_by!r}: branch or progress")
    looks = branch_looks(backbones, order)
    by_progress = colour_by == "progress" or list(looks) == [""]
    scale = _scale([backbone.progress for backbone in backbones.values()], 1, 99)
    markers = _centre_markers(backbones, order)
    with house_style():
        figure, positions = _new_figure(len(codes), legend=len(looks) + len(markers) + 2)
        panels = []
        for position, name in zip(positions, codes, strict=True):
            backbone = backbones[name]
            view = backbone_view(codes[name], backbone)
            panel = projection_panel(figure, position, view.cells.shape[1])
            if by_progress:
                shades = mpl.colormaps["viridis"](scale(backbone.progress[view.rows]))
                _draw_cells(panel, view.cells, shades)
            else:
                _draw_branches(panel, view.cells, backbone.branch[view.rows], looks)
            shown = {} if by_progress else looks
            _draw_lines(panel=panel, view=view, backbone=backbone, looks=shown, markers=markers)
            _label_panel(panel, _correlation_title(name, backbone), view)
            panels.append(panel)
        if by_progress:
            _add_colour_bar(
                figure=figure, panels=panels, scale=scale, colours="viridis", label=names[1]
            )
        _add_backbone_legend(figure, {} if by_progress else looks, markers, names)
        figure.suptitle("Backbones through cells of known progress")
        return save_figure(figure, path)


@dataclass(frozen=True)
class _View:
    """What is drawn of one projection.

    rows: (n,) rows of the cells; cells: (n, 2 or 3); lines: the knots (m, 2 or 3) of each line.
    axes: their names; note: what the reader has to know, or "".
    """

    rows: np.ndarray
    cells: np.ndarray
    lines: list[np.ndarray]
    axes: list[str]
    note: str = ""


def _view_of(codes: np.ndarray, shown: np.ndarray, lines: Sequence[np.ndarray] = ()) -> _View:
    """Two or three coordinates of the cells shown (N,), thinned where they are many, and of lines.

    Principal components are a linear map, so straight segments stay straight.
    """
    shown = np.flatnonzero(shown & np.isfinite(codes).all(axis=1))
    rows = shown[:: thinning_stride(len(shown))]
    cells, lines = codes[rows].astype(float), list(lines)
    dimensions = codes.shape[1]
    notes = [f"{len(rows):,} of {len(shown):,} cells drawn"] if len(rows) < len(shown) else []
    axes = [f"axis {i + 1}" for i in range(dimensions)]
    if dimensions == 1:
        heights = (np.arange(len(lines)) + 0.5) / max(1, len(lines))
        cells = np.column_stack([cells, spread(len(cells))])
        lines = [
            np.column_stack([line, np.full(len(line), height)])
            for line, height in zip(lines, heights, strict=True)
        ]
        axes.append("spread (no meaning)")
    if dimensions > 3 and len(rows):
        centre = cells.mean(axis=0)
        _, sizes, components = np.linalg.svd(cells - centre, full_matrices=False)
        cells, *lines = [(part - centre) @ components[:3].T for part in (cells, *lines)]
        share = (sizes[:3] ** 2).sum() / max((sizes**2).sum(), np.finfo(float).tiny)
        axes = [f"PC {i + 1}" for i in range(3)]
        notes.append(f"3 of {dimensions} PCs, {share:.1%} of the variance")
    return _View(rows=rows, cells=cells, lines=lines, axes=axes[:3], note="; ".join(notes))


def backbone_view(codes: np.ndarray, backbone: BackboneScore) -> _View:
    """The scored cells of codes (N, d), and the lines, as they are drawn."""
    scored = np.isfinite(backbone.latent_distance)
    return _view_of(codes, scored, [np.asarray(line.knots, float) for line in backbone.lines])


def _draw_branches(
    panel: Axes,
    cells: np.ndarray,
    branch: np.ndarray,
    looks: Mapping[str, BranchLook],
    alpha: float = 0.3,
) -> None:
    """Scatter (n, 2 or 3) points in the colours and shapes of their branches (n,)."""
    shades = mpl.colors.to_rgba_array([looks[name].colour for name in branch])
    shapes = np.array([looks[name].shape for name in branch])
    for shape in dict.fromkeys(look.shape for look in looks.values()):
        own = shapes == shape
        _draw_cells(panel, cells[own], shades[own], alpha, MARKERS[shape])


def _draw_cells(
    panel: Axes, cells: np.ndarray, colours: np.ndarray, alpha: float = 0.3, marker: str = "o"
) -> None:
    """Scatter (n, 2 or 3) points in (n, 4) colours, in an order that favours no class."""
    order = np.random.default_rng(0).permutation(len(cells))
    style = {
        "c": colours[order],
        "marker": marker,
        "s": float(np.clip(16_000 / max(len(cells), 1), 2.5, 20)),
        "alpha": alpha,
        "linewidths": 0,
        "zorder": 1,
        "rasterized": True,
    }
    if cells.shape[1] == 3:
        style["depthshade"] = False  # would fade the colours that the legend names
        panel.computed_zorder = False  # lines lie on top of the cells, wherever they run
    panel.scatter(*cells[order].T, **style)


def _draw_lines(
    panel: Axes,
    view: _View,
    backbone: BackboneScore,
    looks: Mapping[str, BranchLook],
    markers: Mapping[str, str],
) -> None:
    """The broken lines in the colours of their branches, seen from where they spread most."""
    for line, knots in zip(backbone.lines, view.lines, strict=True):
        look = looks.get(line.branch, BranchLook(INK))
        _draw_line(panel, knots, look, markers[line.initial])
    if view.cells.shape[1] == 3 and len(view.rows):
        _turn_to_lines(panel, view)


def _draw_line(panel: Axes, knots: np.ndarray, look: BranchLook, marker: str) -> None:
    """A broken line, its knots, and the marker of its centre; the white edges lie below all."""
    panel.plot(*knots.T, color="white", linewidth=LINE_WIDTH + 2, zorder=3)
    panel.plot(*knots.T, **look.line, zorder=4)
    edge = {"markersize": 4, "markeredgecolor": "white", "markeredgewidth": 0.6}
    panel.plot(*knots[1:].T, MARKERS[look.shape], color=look.colour, zorder=5, **edge)
    panel.plot(*knots[:1].T, marker, color="white", markersize=9, zorder=6, **CENTRE_EDGE)


def _turn_to_lines(panel: Axes, view: _View) -> None:
    """Look at a 3-D panel from the side on which the knots spread most."""
    turn_to(panel, np.vstack([*view.lines, view.cells.mean(axis=0)]), view.cells)


def _label_panel(panel: Axes, title: str, view: _View) -> None:
    """Title with the note below it, and the names of the axes."""
    three = view.cells.shape[1] == 3
    panel.set_title(f"{title}\n{view.note}" if view.note else title, y=0.98 if three else None)
    style = {"labelpad": -1 if three else 4, "fontsize": 9}
    for axis, name in zip("xyz", view.axes, strict=False):
        getattr(panel, f"set_{axis}label")(name, **style)
        if three:  # else a short name lies across the numbers
            getattr(panel, f"{axis}axis").set_rotate_label(True)
    if view.axes[-1].startswith("spread"):
        panel.set_yticks([])


def _correlation_title(name: str, backbone: BackboneScore) -> str:
    return f"{one_line(name)}\n{coefficients(backbone)}"


def coefficients(backbone: BackboneScore) -> str:
    """Both rank correlations in words."""
    text = f"ρ = {backbone.spearman.value:.3f}, τ = {backbone.kendall.value:.3f}"
    return text.replace("-", "−").replace("nan", "not defined")


def _add_backbone_legend(
    figure: Figure,
    looks: Mapping[str, BranchLook],
    markers: Mapping[str, str],
    names: Sequence[str],
) -> None:
    """Branches, then initial states, to the right of the panels."""
    branches = [
        Line2D([], [], **look.line, **look.knot, label=f" {one_line(branch, 24)}")
        for branch, look in looks.items()
    ]
    style = {"linestyle": "", "color": "white", "markersize": 8, **CENTRE_EDGE}
    starts = [
        Line2D([], [], marker=marker, label=f" {one_line(state or names[2], 24)}", **style)
        for state, marker in markers.items()
    ]
    titles = [Line2D([], [], linestyle="", label=one_line(name, 24)) for name in names]
    handles = [titles[0], *branches] if branches else []
    handles += [titles[2], *starts] if any(markers) else starts
    figure.legend(handles=handles, loc="outside right center", handlelength=1.6)


def check_pairs(
    codes: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray], what: str
) -> None:
    """Raise a UserError unless codes (N, d) and values (N,) are of the same projections."""
    if not codes or set(codes) != set(values):
        raise UserError(
            f"codes of {', '.join(codes) or 'nothing'} and {what} of "
            f"{', '.join(values) or 'nothing'}: expected the same projections, at least one"
        )
    for name, array in codes.items():
        if array.ndim != 2 or values[name].shape != array.shape[:1]:
            raise UserError(f"{name}: codes of shape {array.shape}, {what} of {values[name].shape}")


def latent_distances(backbones: Mapping[str, BackboneScore]) -> dict[str, np.ndarray]:
    """Name of a projection -> (N,) latent distances of its cells."""
    return {name: backbone.latent_distance for name, backbone in backbones.items()}


def branch_looks(
    backbones: Mapping[str, BackboneScore], order: Sequence[str] = ()
) -> dict[str, BranchLook]:
    """Look of every branch in any of the backbones, in their order; {"": ...} without any."""
    found = [line.branch for backbone in backbones.values() for line in backbone.lines]
    if not any(found):
        return {"": BranchLook(ONE_COLOUR)}
    classes = colour_column(pd.Series(found, dtype=object), Roles(order=order))
    looks = [BranchLook(*pair) for pair in zip(classes.colours, classes.shapes, strict=True)]
    look_of = {name: looks[code] for name, code in zip(found, classes.codes, strict=True)}
    return {name: look_of[name] for name in ordered_classes(found, order)}


def _centre_markers(backbones: Mapping[str, BackboneScore], order: Sequence[str]) -> dict[str, str]:
    """Marker of the centre of every initial state."""
    found = [line.initial for backbone in backbones.values() for line in backbone.lines]
    states = ordered_classes(found, order)
    return {state: CENTRE_MARKERS[i % len(CENTRE_MARKERS)] for i, state in enumerate(states)}


def _scale(arrays: Iterable[np.ndarray], low: float | None, high: float) -> Normalize:
    """Colour scale between two percentiles of the values, which one wild value cannot stretch.

    It starts at 0 where low is None.
    """
    values = np.concatenate(list(arrays))
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return Normalize(0, 1, clip=True)
    bottom = 0.0 if low is None else float(np.percentile(values, low))
    top = float(np.percentile(values, high))
    return Normalize(bottom, top if top > bottom else bottom + 1, clip=True)


def plot_ordered_distance(
    backbones: Mapping[str, BackboneScore],
    path: Path,
    by: str = "progress",
    window: float = ROLLING_SHARE,
    names: tuple[str, str] = ("branch", "progress"),
    order: Sequence[str] = (),
) -> Path:
    """Latent distance of the cells in the order of their true progress, with its rolling mean.

    A projection that keeps the continuum shows a rising band; a branch that it folds or cuts shows
    a plateau or a step.

    Args:
        backbones: name of the projection -> its backbone.
        path: PNG to write.
        by: "progress" to place the cells by it, "rank" by its rank among the cells drawn, for a
            progress with a heavy tail.
        window: of the rolling mean, as a share of the cells of a branch, above 0 up to 1.
        names: what the branch and the progress are called in the figure.
        order: branches in the order in which they are shown.

    Raises:
        UserError: no backbone, another `by`, or a window outside 0..1.
    """
    if by not in ("progress", "rank"):
        raise UserError(f"by = {by!r}: progress or rank")
    if not 0 < window <= 1:
        raise UserError(f"window = {window}: a share of the cells, above 0 and at most 1")
    if not backbones:
        raise UserError("no backbone to draw: expected at least 1 projection")
    looks = branch_looks(backbones, order)
    with house_style():
        figure, positions = _new_figure(len(backbones), height=3.3, legend=len(looks) + 2)
        for position, (name, backbone) in zip(positions, backbones.items(), strict=True):
            panel = figure.add_subplot(*position)
            _draw_ordered(panel=panel, backbone=backbone, looks=looks, by=by, window=window)
            panel.set_title(_correlation_title(name, backbone))
            progress = one_line(names[1])
            panel.set_xlabel(f"rank of {progress}" if by == "rank" else progress)
            panel.set_ylabel("latent distance")
        _add_branch_legend(figure, looks, names[0], f"mean of {100 * window:g}% of the cells")
        return save_figure(figure, path)


def _draw_ordered(
    panel: Axes, backbone: BackboneScore, looks: Mapping[str, BranchLook], by: str, window: float
) -> None:
    """Cells as faint points, a rolling mean per branch; a few cells far out are counted instead."""
    scored = np.flatnonzero(np.isfinite(backbone.latent_distance))
    order = scored[np.argsort(backbone.progress[scored], kind="stable")]
    x = np.arange(1.0, len(order) + 1) if by == "rank" else backbone.progress[order]
    y, branch = backbone.latent_distance[order], backbone.branch[order]
    if len(y) == 0:
        panel.text(0.5, 0.5, "no latent distance", transform=panel.transAxes, ha="center")
        return
    top = min(y.max(), max(1.2, 1.05 * np.percentile(y, 99)))
    drawn = slice(None, None, thinning_stride(len(order)))
    _draw_branches(panel, np.column_stack([x[drawn], y[drawn]]), branch[drawn], looks, alpha=0.25)
    for name, look in looks.items():
        chosen = branch == name
        if not chosen.any():
            continue
        means = _rolling_mean(np.column_stack([x[chosen], y[chosen]]), window)
        panel.plot(*means.T, color="white", linewidth=LINE_WIDTH + 1.6, zorder=3)
        panel.plot(*means.T, **look.line, zorder=4)
    panel.set_ylim(-0.03 * top, 1.03 * top)
    if n_above := int((y > top).sum()):
        panel.text(0.02, 0.98, f"{n_above} cells above", transform=panel.transAxes,
                   va="top", fontsize=8, color="#555555")  # fmt: skip


def _rolling_mean(values: np.ndarray, share: float) -> np.ndarray:
    """(n - window + 1, c) means of every window of consecutive rows of (n, c), a share of them.

    Both coordinates are averaged, so that the ends of the line are no estimate from half a window.
    """
    window = max(1, round(share * len(values)))
    sums = np.vstack([np.zeros(values.shape[1]), values.cumsum(axis=0)])
    return (sums[window:] - sums[:-window]) / window


def _add_branch_legend(
    figure: Figure, looks: Mapping[str, BranchLook], title: str, what: str
) -> None:
    labels = {name: f" {one_line(name, 24)}" if name else what for name in looks}
    handles = [
        Line2D([], [], **look.line, **look.knot, label=labels[name]) for name, look in looks.items()
    ]
    heading = f"{one_line(title, 24)}\n({what})" if list(looks) != [""] else None
    figure.legend(handles=handles, loc="outside right center", title=heading)


def plot_co_ranking(blocks: Mapping[str, np.ndarray], path: Path) -> Path:
    """Co-ranking matrices of the nearest neighbours (Lee and Verleysen 2009), one panel each.

    A perfect projection has all its pairs on the diagonal. Pairs below it are intrusions, nearer in
    the projection than in the reference space, those above it extrusions.

    Args:
        blocks: title of the panel -> (K, K) number of pairs with reference rank row + 1 and
            projection rank column + 1.
        path: PNG to write.

    Raises:
        UserError: no block, or one that is no square of counts.
    """
    if not blocks:
        raise UserError("no co-ranking matrix to draw: expected at least 1")
    for name, block in blocks.items():
        if block.ndim != 2 or block.shape[0] != block.shape[1] or not (block >= 0).all():
            raise UserError(
                f"{name}: a co-ranking matrix of shape {block.shape}, not (K, K) counts"
            )
    most = max(block.max() for block in blocks.values())
    scale = LogNorm(1, max(most, 2))
    with house_style():
        figure, positions = _new_figure(len(blocks), height=3.7)
        panels = []
        for position, (name, block) in zip(positions, blocks.items(), strict=True):
            panel = figure.add_subplot(*position)
            _draw_co_ranking(panel, block, scale)
            panel.set_title(one_line(name, 36))
            panels.append(panel)
        bar = _add_colour_bar(
            figure=figure,
            panels=panels,
            scale=scale,
            colours="viridis_r",
            label="pairs of cells (white: none)",
        )
        bar.ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        return save_figure(figure, path)


def _draw_co_ranking(panel: Axes, block: np.ndarray, scale: LogNorm) -> None:
    side = len(block)
    limits = (0.5, side + 0.5, side + 0.5, 0.5)
    counts = np.ma.masked_equal(block, 0)
    panel.imshow(counts, cmap="viridis_r", norm=scale, extent=limits, interpolation="nearest")
    panel.plot(limits[:2], limits[:2], linestyle=(0, (5, 5)), color=OKABE_ITO[3], linewidth=0.8)
    panel.set_xlim(limits[:2])
    panel.set_ylim(limits[2:])
    panel.grid(False)
    box = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 2}
    for x, y, word in ((0.03, 0.03, "intrusions"), (0.97, 0.97, "extrusions")):
        align = {"ha": "left", "va": "bottom"} if x < 0.5 else {"ha": "right", "va": "top"}
        panel.text(x, y, word, transform=panel.transAxes, fontsize=8, bbox=box, **align)
    panel.set_xlabel("rank in the projection")
    panel.set_ylabel("rank in the reference")
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))


def plot_local_quality(
    codes: Mapping[str, np.ndarray],
    quality: Mapping[str, np.ndarray],
    path: Path,
    reference: str = "the reference",
) -> Path:
    """Local quality of every cell, drawn on each projection on one colour scale.

    Args:
        codes: name -> (N, d) codes; of more than three dimensions the first three principal
            components are drawn. Cells with NaN are left out.
        quality: name -> (N,) score relative to a perfect projection; NaN where a cell has none.
        path: PNG to write.
        reference: name of the space whose neighbourhoods were compared.

    Raises:
        UserError: names or lengths that differ, or a projection without a score.
    """
    check_pairs(codes, quality, "local quality")
    for name, scores in quality.items():
        if not np.isfinite(scores).any():
            raise UserError(f"{name}: no cell with a local quality to draw")
    scale = _scale(quality.values(), None, 99)
    with house_style():
        figure, positions = _new_figure(len(codes))
        panels = []
        for position, name in zip(positions, codes, strict=True):
            view = _view_of(codes[name], np.isfinite(quality[name]))
            panel = projection_panel(figure, position, view.cells.shape[1])
            shades = mpl.colormaps["viridis"](scale(quality[name][view.rows]))
            _draw_cells(panel, view.cells, shades, alpha=0.8)
            title = f"{one_line(name)} (mean {np.nanmean(quality[name]):.3f})"
            _label_panel(panel, title, view)
            panels.append(panel)
        label = "local quality (a perfect projection: mean 1)"
        _add_colour_bar(
            figure=figure, panels=panels, scale=scale, colours="viridis", label=label, extend="max"
        )
        figure.suptitle(f"Local quality against {one_line(reference)}")
        return save_figure(figure, path)


def plot_local_quality_densities(
    quality: Mapping[str, Mapping[str, np.ndarray]], path: Path
) -> Path:
    """Density of the local quality of the cells, a panel per reference space, a line per method.

    A Gaussian kernel of Scott's width, reflected at 0, since no score is negative.

    Args:
        quality: reference -> projection -> (N,) score relative to a perfect projection; NaN where a
            cell has none.
        path: PNG to write.

    Raises:
        UserError: nothing to draw.
    """
    curves = [array for methods in quality.values() for array in methods.values()]
    if not curves or not any(np.isfinite(array).any() for array in curves):
        raise UserError("no local quality to draw: expected a score of at least 1 cell")
    names = list(dict.fromkeys(name for methods in quality.values() for name in methods))
    styles = {
        name: {
            "color": LINE_PALETTE[i % len(LINE_PALETTE)],
            "linestyle": LINE_STYLES[i % len(LINE_STYLES)],
        }
        for i, name in enumerate(names)
    }
    end = 1.05 * max(np.nanmax(array, initial=0) for array in curves) or 1.0
    with house_style():
        figure, positions = _new_figure(len(quality), height=3.3)
        for position, (reference, methods) in zip(positions, quality.items(), strict=True):
            panel = figure.add_subplot(*position)
            for name, scores in methods.items():
                _draw_density(panel, scores[np.isfinite(scores)], end, styles[name])
            panel.set_title(f"Against {one_line(reference)}")
            panel.set_xlabel("local quality (a perfect projection: mean 1)")
            panel.set_ylabel("density of cells")
            panel.set_xlim(0, end)
            panel.set_ylim(0, None)
        handles = [Line2D([], [], label=f" {one_line(name)}", **styles[name]) for name in names]
        figure.legend(handles=handles, loc="outside right center")
        return save_figure(figure, path)


def _draw_density(panel: Axes, scores: np.ndarray, end: float, style: dict) -> None:
    """Density of scores on 0..end; a vertical line where they are all the same."""
    from scipy.stats import gaussian_kde

    if len(scores) == 0:
        return
    if np.ptp(scores) < 1e-9 * end:
        panel.axvline(scores[0], **style)
        return
    grid = np.linspace(0, end, GRID_POINTS)
    kernel = gaussian_kde(scores)
    panel.plot(grid, kernel(grid) + kernel(-grid), **style)


def _new_figure(
    n_panels: int, height: float = 4.1, legend: int = 0
) -> tuple[Figure, list[tuple[int, int, int]]]:
    """A figure with room for panels of 4.1 x `height` inches and a legend, and their places.

    `legend` is the number of its lines.
    """
    columns = 2 if n_panels == 4 else min(n_panels, 3)
    rows = math.ceil(n_panels / columns)
    tall = max(height * rows + 0.5, 0.2 * legend + 0.2)
    figure = Figure(figsize=(4.1 * columns + 1.9, tall), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06, wspace=0.04)
    return figure, [(rows, columns, i + 1) for i in range(n_panels)]


def _add_colour_bar(
    figure: Figure,
    panels: list[Axes],
    scale: Normalize,
    colours: str,
    label: str,
    extend: str = "neither",
) -> Colorbar:
    mappable = mpl.cm.ScalarMappable(scale, colours)
    bar = figure.colorbar(mappable, ax=panels, extend=extend, shrink=0.7, aspect=25, pad=0.06)
    bar.outline.set_visible(False)
    bar.set_label(label)
    return bar
