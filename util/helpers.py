"""Figures of a run: cells, reconstructions, losses, projections.

Every function takes arrays or tables and a path; nothing here reads a run folder, trains or scores.
The figures are PNG files of 150 dpi for print, drawn without a display, and the same input gives
the same bytes. Colours and fonts are those of `util.style`.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from util.errors import UserError
from util.latents import coordinates_of
from util.style import (
    MARKERS,
    MISSING_COLOUR,
    OKABE_ITO,
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

TILE_GAP = 2  # pixels


RED, GREEN, BLUE, GREY = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.6, 0.6, 0.6)
CYAN, MAGENTA, YELLOW = (0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0)
CHANNEL_COLOURS = [RED, GREEN, BLUE, GREY, CYAN, MAGENTA, YELLOW]

TERM_TITLES = {
    "loss": "Loss",
    "reconstruction": "Reconstruction",
    "kl": "KL divergence",
    "mutual_information": "Mutual information",
}


class ChannelScaling(Protocol):
    """Linear scaling of each channel: `low` is shown black, `high` at full brightness."""

    low: np.ndarray  # (C,)
    high: np.ndarray  # (C,)


def mix_channels(images: np.ndarray) -> np.ndarray:
    """Add up the channels of an image, each in its colour.

    One channel is grey; two are magenta and green, which red-green-blind readers tell apart; three
    are red, green and blue; from four on the colours of `CHANNEL_COLOURS` (ImageJ's order of
    composite colours, begun again after seven) are added and clipped.

    Args:
        images: (N, C, S, S) float, 0..1 (values outside are clipped).

    Returns:
        (N, S, S, 3) uint8.
    """
    channels = images.shape[1]
    if channels == 1:
        colours = [(1.0, 1.0, 1.0)]
    elif channels == 2:
        colours = [MAGENTA, GREEN]
    else:
        colours = [CHANNEL_COLOURS[c % len(CHANNEL_COLOURS)] for c in range(channels)]
    bounded = np.clip(images, 0, 1).astype(np.float32, copy=False)
    rgb = np.zeros((len(images), 3, *images.shape[2:]), np.float32)
    for channel, colour in enumerate(colours):
        for part, weight in enumerate(colour):
            if weight > 0:
                rgb[:, part] += weight * bounded[:, channel]
    return np.moveaxis(np.rint(np.minimum(rgb, 1) * 255).astype(np.uint8), 1, -1)


def compose_rgb(images: np.ndarray, scaling: ChannelScaling, block: int = 512) -> np.ndarray:
    """Cells as colour pictures, see `mix_channels` for the colours.

    Args:
        images: (N, C, S, S) uint8 or uint16, an array or a memory map.
        scaling: `low` and `high` of each channel in the units of the pixels; a channel whose high
            is not above its low is black.
        block: cells converted at a time, which bounds the memory in float.

    Returns:
        (N, S, S, 3) uint8.

    Raises:
        UserError: if the images are not (N, C, S, S) or the scaling has another number of channels.
    """
    if images.ndim != 4:
        raise UserError(f"images of shape {images.shape}: expected (cells, channels, side, side)")
    low, high = np.asarray(scaling.low, np.float32), np.asarray(scaling.high, np.float32)
    channels = images.shape[1]
    if low.shape != (channels,) or high.shape != (channels,):
        raise UserError(f"scaling for {low.size} channels, but the images have {channels}")
    gain = np.where(high > low, 1 / np.where(high > low, high - low, 1), 0)
    low, gain = low[:, None, None], gain.astype(np.float32)[:, None, None]
    pictures = np.empty((len(images), *images.shape[2:], 3), np.uint8)
    for start in range(0, len(images), block):
        cells = images[start : start + block].astype(np.float32)
        pictures[start : start + block] = mix_channels((cells - low) * gain)
    return pictures


def _tile(pictures: np.ndarray, columns: int) -> np.ndarray:
    """Put (n, S, S, 3) pictures row by row on one white sheet, `TILE_GAP` pixels apart."""
    n, height, width, _ = pictures.shape
    gap = TILE_GAP
    rows = math.ceil(n / columns)
    sheet = np.full((rows * columns, height + gap, width + gap, 3), 255, np.uint8)
    sheet[:n, :height, :width] = pictures
    sheet = sheet.reshape(rows, columns, height + gap, width + gap, 3).swapaxes(1, 2)
    sheet = sheet.reshape(rows * (height + gap), columns * (width + gap), 3)
    return sheet[:-gap, :-gap]


def _tile_centres(n: int, side: int) -> np.ndarray:
    """Pixel in the middle of each of n tiles in a row."""
    return np.arange(n) * (side + TILE_GAP) + (side - 1) / 2


def draw_sheet(
    pictures: np.ndarray, columns: int, path: Path, rows: Sequence[str], title: str
) -> Path:
    """Pictures (n, S, S, 3) uint8 row by row, a name beside each row."""
    with house_style():
        size = (1.6 + columns * 0.8, 0.6 + len(rows) * 0.8)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        _show_sheet(axes, _tile(pictures, columns))
        axes.set_yticks(_tile_centres(len(rows), pictures.shape[1]), rows)
        axes.tick_params(length=0)
        figure.suptitle(title)
        return save_figure(figure, path)


def _show_sheet(axes: Axes, sheet: np.ndarray) -> None:
    axes.imshow(sheet, interpolation="nearest")
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def plot_reconstructions(
    originals: np.ndarray,
    reconstructions: np.ndarray,
    path: Path,
    labels: Sequence[object] | None = None,
    channels: Sequence[str] | None = None,
    title: str = "Validation cells and their reconstructions",
) -> Path:
    """Cells above what the decoder makes of their codes, at most 12 of them.

    With names of channels, every channel follows in grey, since a mixture of colours hides faint
    ones.

    Args:
        originals: (n, C, S, S) float, 0..1.
        reconstructions: the same shape, probabilities of the decoder.
        path: PNG to write.
        labels: a word for each cell, for example its class.
        channels: names of the C channels, to show each by itself too.
        title: heading of the figure.

    Raises:
        UserError: if the shapes differ, there is no cell or the names are not as many as the
            channels.
    """
    if originals.shape != reconstructions.shape or originals.ndim != 4 or len(originals) == 0:
        raise UserError(
            f"originals {originals.shape} and reconstructions {reconstructions.shape}: "
            "expected the same shape (cells, channels, side, side)"
        )
    if channels is not None and len(channels) != originals.shape[1]:
        raise UserError(
            f"{len(channels)} names of channels, but the images have {originals.shape[1]}"
        )
    n = min(len(originals), 12)
    pairs = [(originals[:n], reconstructions[:n])]
    names = ["input", "reconstruction"]
    if channels is not None and len(channels) > 1:
        single = [slice(c, c + 1) for c in range(len(channels))]
        pairs += [(originals[:n, c], reconstructions[:n, c]) for c in single]
        names += [f"{one_line(name, 16)}{row}" for name in channels for row in ("", " (rec.)")]
    pictures = np.concatenate([mix_channels(rows) for pair in pairs for rows in pair])
    with house_style():
        # one inch a cell, beside them the names of the rows, above them the title and the labels
        size = (
            1.0 + 0.075 * max(map(len, names)) + n,
            0.55 + 0.25 * (labels is not None) + len(names),
        )
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        _show_sheet(axes, _tile(pictures, columns=n))
        axes.set_yticks(_tile_centres(len(names), originals.shape[-2]), names)
        if labels is not None:
            words = [one_line(label, 12) for label in labels[:n]]
            axes.set_xticks(_tile_centres(n, originals.shape[-1]), words, fontsize=9)
            axes.xaxis.tick_top()
        axes.tick_params(length=0)
        figure.suptitle(title)
        return save_figure(figure, path)


def draw_pictures(
    folder: Path,
    originals: np.ndarray,
    reconstructions: np.ndarray,
    samples: np.ndarray,
    *,
    labels: Sequence[object] | None,
    channels: Sequence[str],
    aligned: bool,
) -> list[tuple[str, Path]]:
    """The pictures of a report with their captions: reconstructions, and cells drawn at random.

    Args:
        folder: reconstructions.png and samples.png go there.
        originals, reconstructions, labels: as for `plot_reconstructions`.
        samples: as for `plot_samples`.
        channels: C names; red, green and blue are not shown each by itself.
        aligned: whether the originals were aligned.
    """
    cells = f"Validation cells{', aligned,' if aligned else ''} and their reconstructions"
    decoded = plot_reconstructions(
        originals,
        reconstructions,
        folder / "reconstructions.png",
        labels=labels,
        channels=None if list(channels) == ["Red", "Green", "Blue"] else channels,
        title=cells,
    )
    drawn = "Cells decoded from draws of the prior"
    return [(cells, decoded), (drawn, plot_samples(samples, folder / "samples.png", drawn))]


def plot_samples(
    samples: np.ndarray, path: Path, title: str = "Cells decoded from draws of the prior"
) -> Path:
    """Generated cells in a near-square grid.

    Args:
        samples: (n, C, S, S) float, 0..1.
        path: PNG to write.
        title: heading of the figure.

    Raises:
        UserError: if there is no sample.
    """
    if samples.ndim != 4 or len(samples) == 0:
        raise UserError(f"samples of shape {samples.shape}: expected (cells, channels, side, side)")
    columns = math.ceil(math.sqrt(len(samples)))
    rows = math.ceil(len(samples) / columns)
    inches = min(1.0, 8 / columns)
    with house_style():
        size = (max(columns * inches, 4.0) + 0.3, rows * inches + 0.6)
        figure = Figure(figsize=size, layout="constrained")
        _show_sheet(figure.subplots(), _tile(mix_channels(samples), columns))
        figure.suptitle(title)
        return save_figure(figure, path)


def plot_losses(history: Sequence[Mapping], path: Path) -> Path:
    """The loss and each of its terms over the epochs, training and validation, best epoch marked.

    Args:
        history: one mapping per epoch: "epoch", and under "train" and "valid" the terms in nats per
            image ("loss", "reconstruction", "kl", ...). The best epoch has the lowest validation
            loss. An epoch may lack "valid".
        path: PNG to write.

    Raises:
        UserError: if the history is empty.
    """
    if not history:
        raise UserError("no epoch in the history: train for at least 1 epoch before drawing losses")
    epochs = np.array([entry["epoch"] for entry in history])
    names = list(dict.fromkeys(name for entry in history for name in entry["train"]))
    curves = {
        split: {name: _curve(history, split, name) for name in names}
        for split in ("train", "valid")
    }
    valid = curves["valid"].get("loss", np.full(len(epochs), np.nan))
    best = int(np.nanargmin(valid)) if np.isfinite(valid).any() else None
    columns = min(len(names), 4)
    rows = math.ceil(len(names) / columns)
    with house_style():
        figure = Figure(figsize=(max(3.4 * columns, 4.2), 3.0 * rows + 0.5), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel, name in zip(panels, names, strict=False):
            _draw_term(panel, name, epochs, curves, best=best)
        for panel in panels[len(names) :]:
            panel.set_visible(False)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(handles))
        return save_figure(figure, path)


def _curve(history: Sequence[Mapping], split: str, name: str) -> np.ndarray:
    """(epochs,) values of one term; nan where it was not logged or is not finite."""
    values = [(entry.get(split) or {}).get(name, math.nan) for entry in history]
    curve = np.array(values, float)
    curve[~np.isfinite(curve)] = np.nan
    return curve


def _draw_term(panel: Axes, name: str, epochs: np.ndarray, curves: dict, best: int | None) -> None:
    marker = "o" if len(epochs) == 1 else None  # a line through one point is invisible
    for split, label, colour, style in (
        ("train", "training", OKABE_ITO[0], "-"),
        ("valid", "validation", OKABE_ITO[3], "--"),
    ):
        curve = curves[split][name]
        if np.isfinite(curve).any():
            panel.plot(epochs, curve, style, color=colour, marker=marker, label=label)
    if best is not None:
        label = f"best epoch {epochs[best]} (validation loss {curves['valid']['loss'][best]:,.1f})"
        panel.axvline(epochs[best], color="#555555", linewidth=1, linestyle=":", label=label)
        panel.plot(epochs[best], curves["valid"][name][best], "o", color=OKABE_ITO[3], markersize=6)
    panel.set_title(TERM_TITLES.get(name, name.replace("_", " ")))
    panel.set_xlabel("epoch")
    panel.set_ylabel("nats per image")
    if len(epochs) == 1:
        panel.set_xlim(epochs[0] - 0.5, epochs[0] + 0.5)
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    panel.yaxis.set_major_locator(MaxNLocator(5))


def plot_projections(
    latents: pd.DataFrame,
    projections: Mapping[str, Sequence[str]],
    column: str,
    path: Path,
    roles: Roles = Roles(),  # noqa: B008  frozen
) -> Path:
    """The projections side by side, each cell a point coloured by a column of the table.

    Cells without coordinates in a projection are left out there and counted in its title. Above
    20,000 cells every n-th is drawn and the title says so; the legend still counts all.

    Every 3-D panel is turned by the same rule: to the side from which the means of the classes, or
    of the tenths of a number, lie furthest apart (`turn_to`).

    Args:
        latents: one row per cell with the coordinates and `column`.
        projections: name -> coordinate columns, one to three dimensions drawn (of more, the first
            three).
        column: shown as classes or as numbers, see `colour_column`.
        path: PNG to write.
        roles: which column is the label or the progress, and the order of the classes.

    Raises:
        UserError: if a column is not in the table or there is no cell or no projection.
    """
    if column not in latents:
        raise UserError(
            f"no column {column} to colour by; the table has {', '.join(latents.columns)}"
        )
    if latents.empty or not projections:
        raise UserError("nothing to draw: expected at least 1 cell and 1 projection")
    colouring = colour_column(latents[column], roles)
    stride = thinning_stride(len(latents))
    columns = min(len(projections), 3)
    rows = math.ceil(len(projections) / columns)
    with house_style():
        size = (4.1 * columns + 1.9, max(4.1 * rows + 0.5, key_height(colouring)))
        figure = Figure(figsize=size, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06, wspace=0.04)
        panels = []
        for i, (name, axis_names) in enumerate(projections.items()):
            panel = projection_panel(figure, (rows, columns, i + 1), len(axis_names))
            points = coordinates_of(latents, axis_names)
            draw_points(panel, points, colouring, stride)
            if points.shape[1] == 3:
                _turn_to_groups(panel, points, _groups(colouring))
            _title_projection(panel, name, list(axis_names), points)
            panels.append(panel)
        add_key(figure, panels, colouring, column)
        heading = f"Cells coloured by {one_line(column)}"
        if stride > 1:
            heading += f" (1 of every {stride} of {len(latents):,} cells drawn)"
        figure.suptitle(heading)
        return save_figure(figure, path)


def projection_panel(figure: Figure, position: tuple[int, int, int], dimensions: int) -> Axes:
    """An empty panel for points of one, two or three dimensions, the third in perspective."""
    if dimensions < 3:
        panel = figure.add_subplot(*position)
        panel.grid(True, axis="both" if dimensions == 2 else "x")
        panel.set_box_aspect(1)
        return panel
    panel = figure.add_subplot(*position, projection="3d")
    panel.view_init(elev=22, azim=-60)
    panel.set_box_aspect((1, 1, 1), zoom=0.97)
    panel.tick_params(labelsize=8, pad=-1)
    for axis in (panel.xaxis, panel.yaxis, panel.zaxis):
        axis.set_major_locator(MaxNLocator(4, prune="both"))  # ticks in a corner would collide
        axis.set_pane_color((1, 1, 1, 1))
    return panel


def turn_to(panel: Axes, knots: np.ndarray, cells: np.ndarray) -> None:
    """Turn a 3-D panel to the side from which some places lie furthest apart.

    Of the sides from which the labels of the axes do not meet, the one whose projection of the
    places has the largest area.

    Args:
        panel: in perspective.
        knots: (n, 3) places, such as the means of classes or the knots of a line.
        cells: (N, 3), what the panel shows.
    """
    extent = np.ptp(cells, axis=0)
    knots = (knots - knots.mean(axis=0)) / np.where(extent > 0, extent, 1)  # the panel is a cube
    elevation = math.radians(panel.elev)
    turns = np.arange(-75, -10, 5)
    turns = np.radians([*turns, *(turns + 180)])
    right = np.stack([-np.sin(turns), np.cos(turns), np.zeros_like(turns)])  # (3, turns)
    up = np.stack(
        [
            -math.sin(elevation) * np.cos(turns),
            -math.sin(elevation) * np.sin(turns),
            np.full_like(turns, math.cos(elevation)),
        ]
    )
    seen = np.stack([knots @ right, knots @ up])  # (2, knots, turns)
    spread_seen = np.einsum("akt,bkt->tab", seen, seen)
    # Two places have no area: then, and only then, their distance decides.
    area = np.linalg.det(spread_seen + 1e-9 * np.eye(2))
    panel.view_init(elev=panel.elev, azim=math.degrees(turns[area.argmax()]))


def _groups(colouring: ClassColours | NumberColours) -> np.ndarray:
    """(N,) group of each cell: its class, or its tenth of the numbers; -1 where it has none."""
    if isinstance(colouring, ClassColours):
        unnamed = [i for i, colour in enumerate(colouring.colours) if colour == MISSING_COLOUR]
        return np.where(np.isin(colouring.codes, unnamed), -1, colouring.codes)
    ranks = pd.Series(colouring.values).rank(pct=True).to_numpy()
    return np.nan_to_num(np.ceil(10 * ranks), nan=-1).astype(int)


def _turn_to_groups(panel: Axes, points: np.ndarray, groups: np.ndarray) -> None:
    known = np.isfinite(points).all(axis=1) & (groups >= 0)
    names = np.unique(groups[known])
    if len(names) > 1:
        knots = [points[known & (groups == name)].mean(axis=0) for name in names]
        turn_to(panel, np.array(knots), points[known])


def draw_points(
    panel: Axes,
    points: np.ndarray,
    colouring: ClassColours | NumberColours | None,
    stride: int = 1,
) -> None:
    """Scatter every stride-th of the points (N, d); gaps are left out, rare classes drawn last.

    Args:
        panel: of d dimensions.
        points: (N, d).
        colouring: of the N points; None draws all of them grey.
        stride: see `thinning_stride`.
    """
    points, colours = points[::stride], point_colours(colouring, len(points))[::stride]
    known = np.isfinite(points).all(axis=1)
    n, dimensions = int(known.sum()), points.shape[1]
    if n == 0:
        write = panel.text2D if dimensions == 3 else panel.text
        write(0.5, 0.5, "no coordinates", transform=panel.transAxes, ha="center")
        return
    order = np.flatnonzero(known)[_rare_last(colours[known])]
    if dimensions == 1:
        points = np.column_stack([points, spread(len(points))])
    style = {
        "s": float(np.clip(24_000 / n, 3, 28)),
        "alpha": float(np.clip(4_000 / n, 0.35, 0.85)),
        "linewidths": 0,
    }
    if dimensions == 3:
        style["depthshade"] = False  # would fade the colours that the legend names
    for marker, rows in _by_marker(colouring, order, stride):
        panel.scatter(*points[rows].T, c=colours[rows], marker=marker, **style)


def _by_marker(
    colouring: ClassColours | NumberColours | None, order: np.ndarray, stride: int
) -> list[tuple[str, np.ndarray]]:
    """Marker and rows to draw at once: matplotlib draws one marker at a time.

    Of several markers, each class is drawn by itself, so that rare classes stay on top.
    """
    if not isinstance(colouring, ClassColours) or len(set(colouring.shapes)) == 1:
        return [("o", order)]
    codes = colouring.codes[::stride][order]
    return [
        (MARKERS[colouring.shapes[code]], order[codes == code]) for code in dict.fromkeys(codes)
    ]


def _rare_last(colours: np.ndarray) -> np.ndarray:
    """Order that draws points of a frequent colour first, so that rare classes lie on top."""
    _, group, count = np.unique(colours, axis=0, return_inverse=True, return_counts=True)
    return np.argsort(-count[group.ravel()], kind="stable")


def point_colours(colouring: ClassColours | NumberColours | None, n_cells: int) -> np.ndarray:
    """(N, 4) RGBA of each cell; grey without a colouring."""
    if colouring is None:
        return np.tile(mpl.colors.to_rgba(MISSING_COLOUR), (n_cells, 1))
    if isinstance(colouring, ClassColours):
        return mpl.colors.to_rgba_array(colouring.colours)[colouring.codes]
    norm = mpl.colors.Normalize(colouring.low, colouring.high, clip=True)
    rgba = mpl.colormaps["viridis"](norm(np.nan_to_num(colouring.values, nan=colouring.low)))
    rgba[np.isnan(colouring.values)] = mpl.colors.to_rgba(MISSING_COLOUR)
    return rgba


def _title_projection(panel: Axes, name: str, axis_names: list[str], points: np.ndarray) -> None:
    title = one_line(name)
    if len(axis_names) > 3:
        title += f" (first 3 of {len(axis_names)} dimensions)"
    gaps = int(np.isnan(points[:, 0]).sum())
    if gaps:
        title += f"\n{gaps:,} of {len(points):,} cells without coordinates"
    three = len(axis_names) >= 3
    panel.set_title(title, y=0.97 if three else None)
    pad = {"labelpad": -1 if three else 4, "fontsize": 9}
    panel.set_xlabel(one_line(axis_names[0]), **pad)
    if len(axis_names) == 1:
        panel.set_ylabel("spread (no meaning)", **pad)
        panel.set_yticks([])
    else:
        panel.set_ylabel(one_line(axis_names[1]), **pad)
    if three:
        panel.set_zlabel(one_line(axis_names[2]), **pad)


def key_height(colouring: ClassColours | NumberColours | None) -> float:
    """Height in inches of a figure that holds the legend of `add_key`."""
    lines = len(colouring.names) + 1 if isinstance(colouring, ClassColours) else 0
    return 0.2 * lines + 0.2


def add_key(
    figure: Figure, panels: list[Axes], colouring: ClassColours | NumberColours, column: str
) -> None:
    """A legend with counts for classes, a colour bar for numbers, to the right of the panels."""
    if isinstance(colouring, ClassColours):
        handles = [
            Line2D([], [], linestyle="", marker=MARKERS[shape], color=colour)
            for colour, shape in zip(colouring.colours, colouring.shapes, strict=True)
        ]
        # the blank in front keeps a name that begins with "_" in the legend
        labels = [
            f" {one_line(name, 24)} ({count:,})"
            for name, count in zip(colouring.names, colouring.counts, strict=True)
        ]
        title = f"{one_line(column, 24)} (cells)"
        figure.legend(handles, labels, loc="outside right center", title=title, handletextpad=0.1)
        return
    scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(colouring.low, colouring.high), "viridis")
    values = colouring.values[~np.isnan(colouring.values)]
    below, above = (values < colouring.low).any(), (values > colouring.high).any()
    extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[below, above]
    bar = figure.colorbar(scale, ax=panels, extend=extend, shrink=0.7, aspect=25, pad=0.06)
    bar.outline.set_visible(False)
    label = one_line(column)
    missing = int(np.isnan(colouring.values).sum())
    bar.set_label(f"{label}\n(grey: {missing:,} cells without a value)" if missing else label)
