"""Figures and tables of a run: losses, projections, reconstructions, scores.

Every function takes arrays or tables and a path; nothing here reads a run folder, trains or scores.
The figures are PNG files of 150 dpi for print, drawn without a display, and the same input gives
the same bytes. Colours and fonts are those of `util.style`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from util.errors import UserError
from util.latents import coordinates_of
from util.style import (
    CLASS_PALETTE,
    LINE_STYLES,
    MISSING_COLOUR,
    OKABE_ITO,
    ClassColours,
    NumberColours,
    colour_column,
    house_style,
    one_line,
    save_figure,
    spread,
    thinning_stride,
)

MAX_CLASS_BARS = 40
TILE_GAP = 2  # pixels


RED, GREEN, BLUE, GREY = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.6, 0.6, 0.6)
CYAN, MAGENTA, YELLOW = (0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0)
CHANNEL_COLOURS = [RED, GREEN, BLUE, GREY, CYAN, MAGENTA, YELLOW]

LATER_METRICS = [  # in the table, not in the figure
    "knn_accuracy",
    "logistic_accuracy",
    "backbone_spearman",
    "backbone_kendall",
    "mutual_information",
    "analytic_information",
]
RANK_METRICS = ["trustworthiness", "continuity", "lcmc"]
OVERALL_METRICS = ["accuracy", "balanced_accuracy", "m1", "m2", "m3"]
METRIC_TITLES = {
    "trustworthiness": "Trustworthiness",
    "continuity": "Continuity",
    "lcmc": "LCMC",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced\naccuracy",
}
METRIC_AXES = {
    "trustworthiness": "trustworthiness (1 is perfect)",
    "continuity": "continuity (1 is perfect)",
    "lcmc": "LCMC (0 is chance)",
}
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
            _draw_term(panel, name, epochs, curves, best)
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
    latents: pd.DataFrame, projections: Mapping[str, Sequence[str]], column: str, path: Path
) -> Path:
    """The projections side by side, each cell a point coloured by a column of the table.

    Cells without coordinates in a projection are left out there and counted in its title. Above
    20,000 cells every n-th is drawn and the title says so; the legend still counts all.

    Args:
        latents: one row per cell with the coordinates and `column`.
        projections: name -> coordinate columns, one to three dimensions drawn (of more, the first
            three).
        column: shown as classes or as numbers, see `colour_column`.
        path: PNG to write.

    Raises:
        UserError: if a column is not in the table or there is no cell or no projection.
    """
    if column not in latents:
        raise UserError(
            f"no column {column} to colour by; the table has {', '.join(latents.columns)}"
        )
    if latents.empty or not projections:
        raise UserError("nothing to draw: expected at least 1 cell and 1 projection")
    colouring = colour_column(latents[column])
    stride = thinning_stride(len(latents))
    columns = min(len(projections), 3)
    rows = math.ceil(len(projections) / columns)
    with house_style():
        size = (4.1 * columns + 1.9, 4.1 * rows + 0.5)
        figure = Figure(figsize=size, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06, wspace=0.04)
        panels = []
        for i, (name, axis_names) in enumerate(projections.items()):
            panel = _projection_panel(figure, (rows, columns, i + 1), len(axis_names))
            points = coordinates_of(latents, axis_names)
            _draw_points(panel, points[::stride], _point_colours(colouring)[::stride])
            _title_projection(panel, name, list(axis_names), points)
            panels.append(panel)
        _add_key(figure, panels, colouring, column)
        heading = f"Cells coloured by {one_line(column)}"
        if stride > 1:
            heading += f" (1 of every {stride} of {len(latents):,} cells drawn)"
        figure.suptitle(heading)
        return save_figure(figure, path)


def _projection_panel(figure: Figure, position: tuple[int, int, int], dimensions: int) -> Axes:
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


def _draw_points(panel: Axes, points: np.ndarray, colours: np.ndarray) -> None:
    """Scatter (n, d) points in the colours (n, 4); gaps are left out, rare colours drawn last."""
    known = np.isfinite(points).all(axis=1)
    n, dimensions = int(known.sum()), points.shape[1]
    if n == 0:
        write = panel.text2D if dimensions == 3 else panel.text
        write(0.5, 0.5, "no coordinates", transform=panel.transAxes, ha="center")
        return
    order = _rare_last(colours[known])
    drawn = points[known][order]
    if dimensions == 1:
        drawn = np.column_stack([drawn, spread(len(points))[known][order]])
    style = {
        "c": colours[known][order],
        "s": float(np.clip(24_000 / n, 3, 28)),
        "alpha": float(np.clip(4_000 / n, 0.35, 0.85)),
        "linewidths": 0,
    }
    if dimensions == 3:
        style["depthshade"] = False  # would fade the colours that the legend names
    panel.scatter(*drawn.T, **style)


def _rare_last(colours: np.ndarray) -> np.ndarray:
    """Order that draws points of a frequent colour first, so that rare classes lie on top."""
    _, group, count = np.unique(colours, axis=0, return_inverse=True, return_counts=True)
    return np.argsort(-count[group.ravel()], kind="stable")


def _point_colours(colouring: ClassColours | NumberColours) -> np.ndarray:
    """(N, 4) RGBA of each cell."""
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


def _add_key(
    figure: Figure, panels: list[Axes], colouring: ClassColours | NumberColours, column: str
) -> None:
    """A legend with counts for classes, a colour bar for numbers, to the right of the panels."""
    if isinstance(colouring, ClassColours):
        handles = [Line2D([], [], linestyle="", marker="o", color=c) for c in colouring.colours]
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


def _numbers(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores with numeric k and "" for no reference; several seeds become their mean."""
    wanted = ["projection", "reference", "metric", "k", "value", "std", "n_cells"]
    absent = [name for name in wanted if name not in scores]
    if absent:
        raise UserError(f"scores without the column {', '.join(absent)}")
    tidy = scores[wanted].copy()
    for name in ("k", "value", "std", "n_cells"):
        tidy[name] = pd.to_numeric(tidy[name], errors="coerce")
    tidy["reference"] = tidy["reference"].fillna("").astype(str)
    keys = ["projection", "reference", "metric", "k"]
    return tidy.groupby(keys, sort=False, dropna=False, as_index=False).mean()


def _table_k(curves: pd.DataFrame) -> int:
    """The k, among those every projection was scored at, nearest to 1 % of the cells."""
    scored = curves.groupby("k")["projection"].nunique()
    shared = scored.index[scored == scored.max()].to_numpy()
    return int(shared[np.argmin(np.abs(shared - 0.01 * curves["n_cells"].max()))])


def plot_scores(scores: pd.DataFrame, path: Path) -> Path | None:
    """Trustworthiness, continuity and LCMC over the neighbourhood size, a row per reference space.

    Args:
        scores: long table (projection, reference, metric, k, value, std, n_cells); a band of one
            standard error is drawn where std is given.
        path: PNG to write.

    Returns:
        The path, or None (and no file) when the table has no such curves.
    """
    tidy = _numbers(scores)
    curves = tidy[tidy["metric"].isin(RANK_METRICS) & tidy["k"].notna()].sort_values(
        "k", kind="stable"
    )
    if curves.empty:
        return None
    references = [name for name in tidy["reference"].unique() if name in set(curves["reference"])]
    styles = _projection_styles(tidy)
    with house_style():
        figure = Figure(figsize=(11.5, 3.1 * len(references) + 0.5), layout="constrained")
        panels = figure.subplots(len(references), 3, squeeze=False, sharex=True)
        for row, reference in zip(panels, references, strict=True):
            part = curves[curves["reference"] == reference]
            k_mark = _table_k(part)
            for panel, metric in zip(row, RANK_METRICS, strict=True):
                _draw_rank_curves(panel, part[part["metric"] == metric], styles)
                panel.axvline(k_mark, color="#777777", linewidth=1, linestyle=":")
                panel.set_title(f"{METRIC_TITLES[metric]} against {reference or 'the reference'}")
                panel.set_ylabel(METRIC_AXES[metric])
        for panel in panels[-1]:
            panel.set_xlabel("neighbourhood size k (cells)")
        handles = [Line2D([], [], label=f" {name}", **style) for name, style in styles.items()]
        mark = Line2D([], [], color="#777777", linewidth=1, linestyle=":", label="k of the table")
        figure.legend(handles=[*handles, mark], loc="outside lower center", ncols=len(handles) + 1)
        return save_figure(figure, path)


def _projection_styles(tidy: pd.DataFrame) -> dict[str, dict]:
    """Colour and dash of each projection, in the order of the table."""
    names = tidy["projection"].unique()
    return {
        str(name): {
            "color": CLASS_PALETTE[i % len(CLASS_PALETTE)],
            "linestyle": LINE_STYLES[i % len(LINE_STYLES)],
        }
        for i, name in enumerate(names)
    }


def _draw_rank_curves(panel: Axes, part: pd.DataFrame, styles: dict[str, dict]) -> None:
    for name, curve in part.groupby("projection", sort=False):
        style = styles[str(name)]
        marker = "o" if len(curve) == 1 else None
        panel.plot(curve["k"], curve["value"], marker=marker, **style)
        if curve["std"].gt(0).any():
            low, high = curve["value"] - curve["std"], curve["value"] + curve["std"]
            panel.fill_between(curve["k"], low, high, color=style["color"], alpha=0.2, linewidth=0)
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.yaxis.set_major_locator(MaxNLocator(5))


def plot_accuracy(scores: pd.DataFrame, path: Path) -> Path | None:
    """Accuracy of the classifier on each projection, overall and by class, as grouped bars.

    Args:
        scores: long table; the metrics accuracy, balanced_accuracy, m1, m2, m3 and
            accuracy[<class>] are drawn in per cent, whiskers are one standard deviation.
        path: PNG to write.

    Returns:
        The path, or None (and no file) when the table has no such scores.
    """
    tidy = _numbers(scores)
    metrics = list(tidy["metric"].unique())
    overall = {m: METRIC_TITLES.get(m, m) for m in OVERALL_METRICS if m in metrics}
    by_class = {
        m: m[len("accuracy[") : -1] for m in metrics if re.fullmatch(r"(?s)accuracy\[.*\]", m)
    }
    groups = [
        (title, names)
        for title, names in (("All cells", overall), ("Accuracy by class", by_class))
        if names
    ]
    if not groups:
        return None
    styles = _projection_styles(tidy)
    widths = [1.2 + 0.3 * len(styles) * min(len(names), MAX_CLASS_BARS) for _, names in groups]
    scale = min(1.0, 15 / sum(widths)) * max(1.0, 6.5 / sum(widths))
    with house_style():
        size = (sum(widths) * scale, 4.2)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(1, len(groups), width_ratios=widths, squeeze=False, sharey=True)[0]
        for panel, (title, names) in zip(panels, groups, strict=True):
            shown = dict(list(names.items())[:MAX_CLASS_BARS])
            if len(shown) < len(names):
                title += f" (first {len(shown)} of {len(names)})"
            _draw_bars(panel, tidy, shown, styles)
            panel.set_title(title)
        panels[0].set_ylabel("correctly classified (%)")
        handles = [Patch(color=s["color"], label=f" {name}") for name, s in styles.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6))
        return save_figure(figure, path)


def _draw_bars(
    panel: Axes, tidy: pd.DataFrame, names: dict[str, str], styles: dict[str, dict]
) -> None:
    """One group of bars per metric, one bar per projection, in per cent."""
    width = 0.8 / len(styles)
    part = (
        tidy[tidy["metric"].isin(names)].groupby(["projection", "metric"])[["value", "std"]].mean()
    )
    places = np.arange(len(names))
    for i, (projection, style) in enumerate(styles.items()):
        index = pd.MultiIndex.from_product([[projection], list(names)])
        rows = part.reindex(index) * 100
        x = places + (i - (len(styles) - 1) / 2) * width
        panel.bar(x, rows["value"], width * 0.92, color=style["color"])
        whiskers = rows["std"].fillna(0).to_numpy()
        panel.errorbar(x, rows["value"], np.where(whiskers > 0, whiskers, np.nan), fmt="none",
                       ecolor="#333333", elinewidth=1, capsize=2)  # fmt: skip
        if len(names) * len(styles) <= 45:
            _label_bars(panel, x, rows["value"].to_numpy() + whiskers, rows["value"].to_numpy())
    labels = [one_line(name, 18) if "\n" not in name else name for name in names.values()]
    crowded = len(names) > 5 and max(map(len, labels)) > 8
    turn = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    panel.set_xticks(places, labels, **turn)
    panel.tick_params(axis="x", length=0)
    panel.set_ylim(0, 112)
    panel.set_yticks(range(0, 101, 20))
    panel.set_xlim(-0.55, len(names) - 0.45)


def _label_bars(panel: Axes, x: np.ndarray, tops: np.ndarray, values: np.ndarray) -> None:
    for place, top, value in zip(x, tops, values, strict=True):
        if np.isfinite(value):
            panel.text(place, top + 1.2, f"{value:.0f}", ha="center", va="bottom", fontsize=7)


def scores_table(scores: pd.DataFrame) -> pd.DataFrame:
    """The short table of scores: a row per projection.

    Columns: trustworthiness, continuity and LCMC against each reference space at the neighbourhood
    size nearest to 1 % of the cells (`k=` in the name), accuracy, balanced accuracy, m1, m2, m3,
    accuracy of other classifiers, backbone, information in nats, and the rank correlations
    `spearman[<column>]`. Areas and the scores of single classes are left to `scores.csv`. All but a
    rank correlation are better when higher; of that the size counts. `attrs["scores"]` is True, for
    `best_scores` and the report.
    """
    tidy = _numbers(scores)
    projections = list(tidy["projection"].unique())
    table = pd.DataFrame(index=pd.Index(projections, name="projection"))
    curves = tidy[tidy["metric"].isin(RANK_METRICS) & tidy["k"].notna()]
    for reference in curves["reference"].unique():
        part = curves[curves["reference"] == reference]
        k = _table_k(part)
        at_k = part[part["k"] == k]
        for metric in RANK_METRICS:
            if (at_k["metric"] == metric).any():
                values = at_k[at_k["metric"] == metric].set_index("projection")["value"]
                table[" ".join(filter(None, [metric, reference, f"k={k}"]))] = values
    single = tidy[tidy["k"].isna()]
    correlations = [m for m in single["metric"].unique() if m.startswith("spearman[")]
    for metric in [*OVERALL_METRICS, *LATER_METRICS, *correlations]:
        title = metric if "[" in metric else metric.replace("_", " ")  # columns keep their names
        for reference, part in single[single["metric"] == metric].groupby("reference", sort=False):
            name = " ".join(filter(None, [title, reference]))
            table[name] = part.set_index("projection")["value"]
    table.attrs["scores"] = True
    return table


def best_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Which entries of a `scores_table` are the best of their column, as a table of booleans.

    A column with fewer than two different values has no best; of rank correlations the size counts.
    """
    best = pd.DataFrame(False, index=table.index, columns=table.columns)
    for column in table:
        values = table[column].abs() if column.startswith("spearman[") else table[column]
        shown = values.round(3)  # what looks equal is equally good
        if shown.nunique() > 1:
            best[column] = shown == shown.max()
    return best


def format_table(table: pd.DataFrame) -> str:
    """A score table as aligned text for the terminal: a line per score, the best marked by "*"."""
    best = best_scores(table)
    lines = [["", *(f"{one_line(name)} " for name in table.index)]]  # " " above the marks
    for name in table:
        values = [
            f"{'–' if pd.isna(value) else format(value, '.3f')}{'*' if mark else ' '}"
            for value, mark in zip(table[name], best[name], strict=True)
        ]
        lines.append([one_line(name, 60), *values])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in lines
    )
