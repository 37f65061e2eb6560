"""Figures that interpret a latent space; every function takes pictures, numbers and a path."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.ndimage import gaussian_filter

from util.helpers import _show_sheet, _tile, _tile_centres
from util.style import OKABE_ITO, house_style, one_line, save_figure

MOST_FEATURES = 24  # in the figure of correlations; the table has all
MOST_OF_A_CONCEPT = 8  # of them, else intensities would fill the figure
ALIKE = 0.05  # of features of one concept whose correlations differ by less, one is shown
LEAST = 0.2  # correlation at which a feature gets a row
SMOOTH = 1.5  # pixels, the blur of noisy gradients
MOST_CHANNELS = 4  # in the figure of gradients
FADED = 0.25  # contrast of a picture at a point without cells
TILE = 0.9  # inches


@dataclass(frozen=True)
class Walk:
    """Images decoded along a straight line through the latent space.

    Attributes:
        title: above the images.
        deviations: (n,) positions of the images, evenly spaced, in standard deviations of the cells
            along the line, from their mean.
        pictures: (n, S, S, 3) uint8.
        cells: (N,) positions of the cells on the same scale.
        marks: names and positions on that scale, drawn below the images.
    """

    title: str
    deviations: np.ndarray
    pictures: np.ndarray
    cells: np.ndarray
    marks: Sequence[tuple[str, float]] = ()


def plot_walks(walks: Sequence[Walk], title: str, path: Path) -> Path:
    """Images along lines, each above a histogram of the cells along the line."""
    n = max(len(walk.pictures) for walk in walks)
    with house_style():
        size = (n * TILE + 0.6, len(walks) * (TILE + 1.1) + 0.35)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(len(walks), 1, squeeze=False).ravel()
        for panel, walk in zip(panels, walks, strict=True):
            _draw_walk(panel, walk)
        panels[-1].set_xlabel("standard deviations of the cells from their mean")
        figure.suptitle(title)
        return save_figure(figure, path)


def _draw_walk(panel: Axes, walk: Walk) -> None:
    """A strip of images, and the histogram below it."""
    n, step = len(walk.pictures), walk.deviations[1] - walk.deviations[0]
    low, high = walk.deviations[0] - step / 2, walk.deviations[-1] + step / 2
    panel.grid(False)
    panel.imshow(
        _tile(walk.pictures, n), extent=(low, high, 0, step), interpolation="nearest", zorder=1
    )
    inside = walk.cells[(walk.cells >= low) & (walk.cells <= high)]
    counts, edges = np.histogram(inside, 4 * n, (low, high))
    height = 0.45 * step
    panel.stairs(
        counts / max(counts.max(), 1) * height - 1.1 * height, edges, baseline=-1.1 * height,
        fill=True, color=OKABE_ITO[4],
    )  # fmt: skip
    unit = 1 if high - low > 4 else 0.5
    ticks = np.arange(np.ceil(low / unit), np.floor(high / unit) + 1) * unit
    for tick in ticks:
        panel.plot([tick, tick], [-1.1 * height, 0], color="#555555", linewidth=0.8, linestyle=":")
    labels = ["mean" if tick == 0 else f"{tick:+g} SD" for tick in ticks]
    panel.set_xticks(ticks, labels, fontsize=9)
    for name, place in walk.marks:
        panel.plot([place, place], [-1.1 * height, 0], color=OKABE_ITO[3], linewidth=2)
        panel.annotate(
            one_line(name, 30), (place, -0.05 * height), ha="center", va="top", fontsize=9,
            color=OKABE_ITO[3], bbox={"facecolor": "white", "alpha": 0.8, "pad": 1, "lw": 0},
        )  # fmt: skip
    panel.set(xlim=(low, high), ylim=(-1.1 * height, step), yticks=[])
    panel.set_aspect("equal")
    panel.spines["left"].set_visible(False)
    panel.set_title(walk.title, loc="left")


def plot_plane(
    pictures: np.ndarray,
    deviations: np.ndarray,
    inhabited: np.ndarray,
    names: Sequence[str],
    title: str,
    path: Path,
) -> Path:
    """Decoded images over two axes; images at places without cells are faded.

    Args:
        pictures: (n, n, S, S, 3) uint8; row i has the i-th value of the second axis, column j the
            j-th value of the first.
        deviations: (n,) values on both axes, rising, in standard deviations from the mean.
        inhabited: (n, n) bool, whether there is a cell in that square.
        names: of the first and the second axis.
        title: heading.
        path: PNG to write.
    """
    n, side = len(deviations), pictures.shape[2]
    faded = np.where(inhabited[..., None, None, None], pictures, 255 + FADED * (pictures - 255.0))
    upwards = faded[::-1].reshape(n * n, *pictures.shape[2:])
    with house_style():
        figure = Figure(figsize=(n * 0.85 + 0.9, n * 0.85 + 0.9), layout="constrained")
        panel = figure.subplots()
        _show_sheet(panel, _tile(upwards.round().astype(np.uint8), n))
        labels = ["mean" if d == 0 else f"{d:+.2g} SD" for d in deviations]
        panel.set_xticks(_tile_centres(n, side), labels, fontsize=9)
        panel.set_yticks(_tile_centres(n, side), labels[::-1], fontsize=9)
        panel.tick_params(length=0)
        panel.set_xlabel(names[0])
        panel.set_ylabel(names[1])
        figure.suptitle(title)
        return save_figure(figure, path)


def plot_correlations(
    correlations: pd.DataFrame, axes: Sequence[str], meanings: Sequence[str], path: Path
) -> Path | None:
    """Heat map of the correlation of the axes with metadata columns and features.

    It shows the 24 metadata columns and the 24 features of the largest correlations, at most 8
    features of one concept and one of several with the same correlations. Hierarchical clustering
    puts similar rows side by side.

    Args:
        correlations: from `interpretation_measures.correlate`.
        axes: names of the axes to show.
        meanings: of each axis, from `short_names`.
        path: PNG to write.

    Returns:
        the path; None, and no file, if there is no correlation.
    """
    blocks = []
    for kind in ("known", "feature"):
        rows = correlations[correlations["kind"] == kind]
        if len(rows):
            wide = rows.pivot(index=["column", "concept"], columns="axis", values="spearman")
            wide = wide.reindex(columns=list(axes))
            blocks.append((kind, _clustered(_strongest(wide, kind == "feature"))))
    if not blocks:
        return None
    heights = [len(wide) for _, wide in blocks]
    with house_style():
        size = (4.6 + 1.3 * len(axes), 0.29 * sum(heights) + 0.5 * len(blocks) + 1.4)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(len(blocks), 1, height_ratios=heights, squeeze=False).ravel()
        for panel, (kind, wide) in zip(panels, blocks, strict=True):
            image = _draw_squares(panel, wide)
            panel.set_title("Metadata" if kind == "known" else "Hand-crafted features")
        labels = [
            "\n".join([f"axis {a}", *(_short(part) for part in m.split(", "))])
            for a, m in zip(axes, meanings, strict=True)
        ]
        panels[-1].set_xticks(range(len(axes)), labels, fontsize=9)
        bar = figure.colorbar(image, ax=panels, shrink=min(0.8, 12 / sum(heights)), aspect=18)
        bar.set_label("Spearman correlation")
        bar.outline.set_visible(False)
        return save_figure(figure, path)


def _short(concept: str) -> str:
    """A concept that fits below a column: the channel alone for its brightness or signal."""
    return one_line(concept.removeprefix("brightness of ").removeprefix("total signal of "), 15)


def _strongest(wide: pd.DataFrame, varied: bool) -> pd.DataFrame:
    """The rows of the largest correlations; if varied, without repeats and of several concepts."""
    order = np.argsort(-wide.abs().max(axis=1).to_numpy(), kind="stable")
    if not varied:
        return wide.iloc[order[:MOST_FEATURES]]
    order = order[: max(3, int((wide.abs().max(axis=1) >= LEAST).sum()))]
    values, concepts, kept = wide.fillna(0).to_numpy(), wide.index.get_level_values("concept"), []
    for i in order:
        same_kind = [j for j in kept if concepts[j] == concepts[i]]
        alike = any(np.abs(values[i] - values[j]).max() < ALIKE for j in same_kind)
        if not alike and len(same_kind) < MOST_OF_A_CONCEPT and len(kept) < MOST_FEATURES:
            kept.append(i)
    return wide.iloc[kept]


def _clustered(wide: pd.DataFrame) -> pd.DataFrame:
    if len(wide) < 3:
        return wide
    values = wide.fillna(0).to_numpy()
    return wide.iloc[leaves_list(linkage(values, "average", optimal_ordering=True))]


def _draw_squares(panel: Axes, wide: pd.DataFrame):
    values = wide.to_numpy(float)
    image = panel.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    for (i, j), rho in np.ndenumerate(values):
        text = "–" if np.isnan(rho) else f"{rho:+.2f}"
        colour = "white" if abs(rho) > 0.65 else "black"
        panel.text(j, i, text, ha="center", va="center", fontsize=9, color=colour)
    names = [
        one_line(column, 40) if column == concept else f"{one_line(column, 40)}  ({concept})"
        for column, concept in wide.index
    ]
    panel.set_yticks(range(len(names)), names, fontsize=9)
    panel.set_xticks([])
    panel.tick_params(length=0)
    panel.grid(False)
    for spine in panel.spines.values():
        spine.set_visible(False)
    return image


def plot_nearest(
    decoded: np.ndarray,
    cells: Sequence[np.ndarray],
    distances: Sequence[np.ndarray],
    names: Sequence[str],
    path: Path,
) -> Path:
    """Images decoded at chosen points, each beside the cells nearest to it.

    Args:
        decoded: (p, S, S, 3) uint8.
        cells: p pictures (n, S, S, 3) uint8 of cells, nearest first.
        distances: p distances (n,) from the point.
        names: of the points.
        path: PNG to write.
    """
    n = max(map(len, cells))
    width, height, left, top = 2.6 + TILE * (n + 1.3), 1.12 * len(cells) + 0.45, 1.9, 0.4  # inches
    with house_style():
        figure = Figure(figsize=(width, height))
        grid = figure.add_gridspec(
            len(cells), n + 2, width_ratios=[1, 0.2, *[1] * n], left=left / width, right=0.985,
            top=1 - top / height, bottom=0.25 / height, wspace=0.06, hspace=0.3,
        )  # fmt: skip
        for i, name in enumerate(names):
            first = figure.add_subplot(grid[i, 0])
            _show_sheet(first, decoded[i])
            first.set_ylabel(one_line(name, 26), rotation=0, ha="right", va="center")
            if i == 0:
                first.set_title("decoded")
            for j, (picture, distance) in enumerate(zip(cells[i], distances[i], strict=True)):
                panel = figure.add_subplot(grid[i, j + 2])
                _show_sheet(panel, picture)
                panel.set_xlabel(f"{distance:.2f}", fontsize=8, labelpad=1)
                if i == 0 and j == 0:
                    panel.set_title("nearest cells, distance in latent units", loc="left")
        return save_figure(figure, path)


def plot_saliency(
    pictures: np.ndarray,
    examples: np.ndarray,
    size: np.ndarray,
    signed: np.ndarray,
    effects: np.ndarray,
    names: Sequence[str],
    channels: Sequence[str],
    path: Path,
) -> Path:
    """Maps of saliency of each axis: over all cells, by channel, and for single cells.

    Args:
        pictures: (e, S, S, 3) uint8, example cells.
        examples: (e, a, S, S) absolute gradient of each axis for them.
        size: (a, S, S) the same, averaged over all cells.
        signed: (a, C, S, S) gradient averaged over all cells; drawn slightly blurred.
        effects: (a, C) shift in standard deviations, written below each channel.
        names: of the axes.
        channels: C names; at most four are drawn, those of the largest effects.
        path: PNG to write.
    """
    shown = np.sort(np.argsort(-np.abs(effects).max(0), kind="stable")[:MOST_CHANNELS])
    columns = 1 + len(shown) + len(pictures)
    with house_style():
        size_of_figure = (1.15 * columns + 1.7, 1.32 * (len(names) + 1) + 0.3)
        figure = Figure(figsize=size_of_figure, layout="constrained")
        panels = figure.subplots(len(names) + 1, columns, squeeze=False)
        for panel in panels[0, : 1 + len(shown)]:
            panel.set_visible(False)
        for panel, picture in zip(panels[0, 1 + len(shown) :], pictures, strict=True):
            _show_sheet(panel, picture)
        panels[0, 1 + len(shown)].set_title("single cells", loc="left")
        for k, (row, name) in enumerate(zip(panels[1:], names, strict=True)):
            row[0].set_ylabel(name, rotation=0, ha="right", va="center")
            _draw_map(row[0], size[k], np.percentile(size[k], 99.8))
            blurred = gaussian_filter(signed[k, shown], SMOOTH, axes=(1, 2))
            top = np.percentile(np.abs(blurred), 99.8)
            for panel, channel, values in zip(row[1:], shown, blurred, strict=False):
                _draw_map(panel, values, top, signed=True)
                panel.set_xlabel(f"{effects[k, channel]:+.2f} SD", fontsize=9, labelpad=2)
            for panel, example in zip(row[1 + len(shown) :], examples[:, k], strict=True):
                _draw_map(panel, example, np.percentile(examples[:, k], 99.5))
        panels[1, 0].set_title("all cells")
        for panel, channel in zip(panels[1, 1:], shown, strict=False):
            panel.set_title(one_line(channels[channel], 11))
        return save_figure(figure, path)


def _draw_map(panel: Axes, values: np.ndarray, top: float, signed: bool = False) -> None:
    _show_sheet(panel, values)
    top = max(float(top), 1e-12)
    panel.images[-1].set(cmap="RdBu_r" if signed else "inferno", clim=(-top if signed else 0, top))
    if signed:  # a frame, since the edges of the map are white
        for spine in panel.spines.values():
            spine.set(visible=True, color="#bbbbbb", linewidth=0.8)


def plot_gallery(
    places: np.ndarray,
    pictures: np.ndarray,
    side: float,
    limits: np.ndarray,
    names: Sequence[str],
    title: str,
    path: Path,
) -> Path:
    """Pictures of cells at their positions in a plane of the latent space.

    Args:
        places: (n, 2) in latent units.
        pictures: (n, S, S, 3) uint8.
        side: of a picture, in latent units.
        limits: (2, 2) lower and upper end of each axis.
        names: of the two axes.
        title: heading.
        path: PNG to write.
    """
    width, height = limits[:, 1] - limits[:, 0]
    scale = 9.5 / max(width, height)  # inches per latent unit
    with house_style():
        size = (width * scale + 1.0, height * scale + 1.0)
        figure = Figure(figsize=size, facecolor="white")
        panel = figure.add_axes((0.85 / size[0], 0.55 / size[1], width * scale / size[0],
                                 height * scale / size[1]))  # fmt: skip
        panel.set(xlim=limits[0], ylim=limits[1], xlabel=names[0], ylabel=names[1])
        panel.grid(True, axis="both")
        for place, picture in zip(places, pictures, strict=True):
            x, y = place - side / 2
            panel.imshow(picture, extent=(x, x + side, y, y + side), zorder=2)
        panel.set(xlim=limits[0], ylim=limits[1], aspect="auto")
        figure.suptitle(title, y=1 - 0.12 / size[1], va="top")
        return save_figure(figure, path)
