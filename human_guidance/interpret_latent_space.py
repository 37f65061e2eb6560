"""Say what the latent space of a finished run means, in words, figures and tables.

    python human_guidance/interpret_latent_space.py --run results/0007-MyCells-VAE
    python human_guidance/interpret_latent_space.py --run 7 --from control --to treated
    python human_guidance/interpret_latent_space.py --run 7 --plane x z --points "x=2 y=-1" c5.png

A new folder results/NNNN-<run>-interpretation/ gets a report.html that names what each axis
follows, and beside it

| file | content |
| --- | --- |
| traversals.png, line.png | images decoded along each axis, and between two cells or classes |
| plane.png, gallery.png | decoded images, and real cells, over two axes |
| correlations.png, correlations.csv | Spearman correlation of axes with columns and features |
| directions.csv | the direction of the latent space along which each column is read best |
| nearest.png, nearest.csv | the cells nearest to chosen points |
| saliency.png, saliency.csv | the pixels and channels that each axis depends on |

The run folder stays as it is. Images are read a few at a time, so that memory does not grow with
their number.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import tyro

from human_guidance.interpretation_figures import (
    Walk,
    plot_correlations,
    plot_gallery,
    plot_nearest,
    plot_plane,
    plot_saliency,
    plot_walks,
)
from human_guidance.interpretation_measures import (
    correlate,
    directions,
    information_per_axis,
    name_axes,
    name_concepts,
    nearest_cells,
    sensitivity_by_region,
    short_names,
    smooth_gradients,
    without_overlap,
    without_repeats,
)
from models.finished_run import FinishedRun
from models.networks import VAE
from util.cell_features import features_of, read_cellprofiler_table
from util.devices import pick_device
from util.errors import UserError
from util.features.cell_masks import find_masks
from util.helpers import compose_rgb, mix_channels
from util.latents import axis_names, code_columns, logvar_columns
from util.metadata import choose_labels, gradations
from util.pages.report import write_report
from util.runs import create_run_folder, describe_run, find_finished_run, write_json, write_table
from util.settings import (
    ABOVE_0,
    AT_LEAST_1,
    Range,
    parse_options,
    refuse_out_of_range,
    run_script,
)
from VAE_framework import Loaded, load_again, open_finished_run


@dataclass(frozen=True)
class InterpretationSettings:
    """Which run to look into, and where."""

    run: str = "last"
    """Finished run: its folder, its number in `results`, or `last` for the newest one."""
    start: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """Where a line through the latent space starts: a Unique_ID or a class. Without both ends it
    joins the two classes whose means lie farthest apart."""
    end: Annotated[str | None, tyro.conf.arg(name="to")] = None
    """Where it ends: a Unique_ID or a class."""
    plane: tuple[str, str] | None = None
    """Two axes (x, y, z, 4, ...) for the plane of images; None takes those that carry the most
    information."""
    points: tuple[str, ...] = ()
    """Points to list the nearest cells of: a Unique_ID, a class (its mean), or coordinates such as
    "x=1.5 y=-2", where axes left out stay at their mean. None takes both sides of each axis."""
    neighbours: int = 8
    """Cells listed for each point."""
    span: float = 3.0
    """How far traversals reach to both sides of the mean, in standard deviations of the cells."""
    saliency_cells: int = 32
    """Cells over which the gradients of the code by the pixels are averaged."""
    saliency_samples: int = 16
    """Noisy copies of each over which its gradient is averaged (SmoothGrad); below 10 it is
    speckled."""
    saliency_noise: float = 0.1
    """Standard deviation of that noise, as a share of full scale; 0.1 to 0.2 in the paper."""
    seed: int = 0
    """Of the choice of those cells and of the noise."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    results: str = "results"
    """Folder of the numbered run folders."""

    RANGES: ClassVar = {
        "neighbours": AT_LEAST_1,
        "saliency_cells": AT_LEAST_1,
        "saliency_samples": AT_LEAST_1,
        "saliency_noise": Range(0, 1),
        "span": ABOVE_0,
    }


SETTINGS = InterpretationSettings()

STEPS = 13  # images of a traversal: every half standard deviation of three to both sides
PLANE = np.linspace(-2.5, 2.5, 11)  # standard deviations
PICTURES_ACROSS = 22  # of the gallery
BRIGHTER = 0.1  # of full scale: the change whose effect on the code is told
EXAMPLES = 4  # single cells in the figure of gradients
MOST_AXES = 8  # in a figure; those that carry the most information
AT_A_TIME = 256  # images decoded together
PROJECTIONS = ("VAE_", "UMAP_", "TSNE_")  # what a run computed is no property of a cell

Figures = list[tuple[str, Path]]


@dataclass(frozen=True)
class LatentSpace:
    """A run's cells in its latent space, and its model.

    Attributes:
        run: the finished run.
        loaded: its cells, classes and features.
        model: its best model, in evaluation mode.
        device: of the model.
    """

    run: FinishedRun
    loaded: Loaded
    model: VAE
    device: torch.device

    @cached_property
    def codes(self) -> np.ndarray:
        """(N, d) posterior means."""
        return self.run.codes()

    @cached_property
    def mean(self) -> np.ndarray:
        """(d,) mean code."""
        return self.codes.mean(0, dtype=float)

    @cached_property
    def deviation(self) -> np.ndarray:
        """(d,) standard deviation of the codes."""
        return self.codes.std(0, dtype=float)

    @cached_property
    def nats(self) -> np.ndarray:
        """(d,) information that each axis carries, nats per cell."""
        columns = logvar_columns(code_columns(len(self.axes)))
        absent = [name for name in columns if name not in self.run.latents]
        if absent:
            raise UserError(f"{self.run.folder / 'latents.csv'}: no column {absent[0]}")
        return information_per_axis(self.codes, self.run.latents[columns].to_numpy(float))

    @property
    def axes(self) -> list[str]:
        """Names of the d axes."""
        return axis_names(self.codes.shape[1])

    @cached_property
    def shown(self) -> list[int]:
        """Axes that figures show, at most 8, in their order."""
        return sorted(np.argsort(-self.nats, kind="stable")[:MOST_AXES].tolist())

    @cached_property
    def ids(self) -> pd.Index:
        """Unique_ID of the cells."""
        return pd.Index(self.run.latents["Unique_ID"].astype(str))

    @cached_property
    def classes(self) -> np.ndarray | None:
        """(N,) class of each cell as text, None where it has none; None without classes."""
        if self.loaded.label is None:
            return None
        return choose_labels(self.run.latents, self.loaded.label)[1].to_numpy(object)

    @cached_property
    def known(self) -> pd.DataFrame:
        """N rows: the columns of the metadata along which cells can be graded."""
        table = self.run.latents
        own = [name for name in table if not str(name).startswith(PROJECTIONS)]
        leave_out = [self.loaded.label] if self.loaded.label else []
        return table[gradations(table[own], leave_out)]

    @torch.no_grad()
    def decode(self, points: np.ndarray) -> np.ndarray:
        """Points (n, d) -> (n, S, S, 3) uint8, what the model sees there."""
        pictures = []
        for part in torch.from_numpy(np.asarray(points, np.float32)).split(AT_A_TIME):
            images = self.model.decode(part.to(self.device)).sigmoid()  # (b, C, S', S')
            pictures.append(mix_channels(images.float().cpu().numpy()))
        # as large as the cells beside them
        downsample = self.run.settings.downsample
        return np.concatenate(pictures).repeat(downsample, axis=1).repeat(downsample, axis=2)

    def pictures(self, rows: np.ndarray) -> np.ndarray:
        """(n, S, S, 3) uint8 of some cells."""
        rows = np.asarray(rows)
        order = np.argsort(rows, kind="stable")  # in the order of the file
        pictures = compose_rgb(np.asarray(self.loaded.cells.images[rows[order]]), self.loaded.cells)
        return pictures[np.argsort(order, kind="stable")]

    def scaled(self, rows: np.ndarray) -> torch.Tensor:
        """(n, C, S, S) float32 in 0..1 of some cells, as `OnAllPixels` takes them."""
        return self.loaded.cells.scaled(rows).to(self.device)

    def place(self, asked: str, option: str) -> np.ndarray:
        """(d,) the code of a cell, the mean code of a class, or coordinates that are written out.

        Raises:
            UserError: it is none of them.
        """
        if asked in self.ids:
            return self.codes[self.ids.get_loc(asked)].astype(float)
        if self.classes is not None and (self.classes == asked).any():
            return self.codes[self.classes == asked].mean(0, dtype=float)
        coordinates = re.findall(r"([^\s=,]+)=([^\s=,]+)", asked)
        if not coordinates or re.sub(r"[^\s=,]+=[^\s=,]+|[\s,]", "", asked):
            label = self.loaded.label or "class"
            raise UserError(
                f"{option} {asked}: no cell of that Unique_ID, no {label} of that name, and no "
                f'coordinates such as "{self.axes[0]}=1.5"'
            )
        point = self.mean.copy()
        for axis, value in coordinates:
            try:
                point[self.axes.index(axis)] = number = float(value)
            except ValueError as error:
                raise UserError(
                    f"{option} {asked}: {axis}={value} is not an axis ({', '.join(self.axes)}) "
                    "with a number"
                ) from error
            if not np.isfinite(number):
                raise UserError(f"{option} {asked}: {value} is not a finite number")
        return point


def main(settings: InterpretationSettings) -> Path:
    """Interpret a run; returns the path of the report.

    Raises:
        UserError: it is no finished run, or a setting does not fit it.
    """
    _refuse_impossible(settings)
    space = open_space(settings)
    run, loaded = space.run, space.loaded
    asked = Asked(_ends(space, settings), _plane(space, settings), _points(space, settings))
    features, notes = features_of_space(space)
    values = space.known if features is None else pd.concat([space.known, features], axis=1)
    correlations = correlate(space.codes, space.axes, space.known, features, loaded.cells.channels)
    found = directions(space.codes, space.axes, values[correlations["column"].unique()])
    said = without_repeats(correlations)
    sentences = [*name_concepts(said, values, found), *name_axes(said, space.axes, space.nats)]

    name = f"{run.folder.resolve().name}-interpretation"
    folder = create_run_folder(Path(settings.results), name)
    data = loaded.cells.describe()
    described = describe_run(settings, interpreted=str(run.folder), data=data)
    write_json(folder / "settings.json", described)
    write_table(folder / "correlations.csv", correlations)
    write_table(folder / "directions.csv", found)
    figures, seen = draw(space, asked, settings, correlations, said, folder)
    print("\n".join(sentences))
    report = write_report(
        folder / "report.html",
        f"What the latent space of {run.folder.name} means",
        [*sentences, _about(space)],
        described["settings"] | {"interpreted": str(run.folder), "command": described["command"]},
        [],
        figures,
        [*loaded.cells.notes, *choose_labels(run.latents, loaded.label)[2], *notes],
        versions=described["versions"] | described["machine"],
        details=_tables(space, found, seen),
    )
    print(f"report: {report}")
    return report


def open_space(settings: InterpretationSettings) -> LatentSpace:
    """The run asked for, with its cells and its model."""
    run = open_finished_run(find_finished_run(settings.run, Path(settings.results)))
    device = pick_device(settings.device)
    loaded = load_again(run)
    return LatentSpace(run, loaded, run.model(loaded.cells, device), device)


def _refuse_impossible(settings: InterpretationSettings) -> None:
    refuse_out_of_range(settings, settings.RANGES)
    if (settings.start is None) != (settings.end is None):
        raise UserError("--from and --to: a line has two ends, give both or none")


def _about(space: LatentSpace) -> str:
    settings = space.run.settings
    return (
        f"{settings.model_name} with {settings.latent_dim} latent dimensions; "
        f"{len(space.codes):,} cells of {space.loaded.cells.name}. An axis follows a column from a "
        "Spearman correlation of 0.7 on, in part from 0.4 on; the sign of an axis is arbitrary."
    )


def features_of_space(space: LatentSpace) -> tuple[pd.DataFrame | None, list[str]]:
    """(N, F) features of the run's cells before any was left out as redundant, and notes.

    Projections need distinct features; a reader rather wants the familiar one of each family. None
    if the run did without.
    """
    settings, cells = space.run.settings, space.loaded.cells
    ids = list(cells.table["Unique_ID"])
    if settings.features == "none":
        return None, ["the run did without hand-crafted features"]
    if settings.features == "measure":
        table, notes = features_of(
            cells.images,
            cells.masked,
            channel_names=cells.channels,
            ids=ids,
            groups=settings.feature_groups,
            cache_dir=cells.cache,
        )
    else:
        table, notes = read_cellprofiler_table(settings.features, ids)
    table = table.loc[:, ~table.columns.isin(space.known.columns)]
    table = table.replace([np.inf, -np.inf], np.nan).set_axis(space.known.index, axis=0)
    return table, notes


@dataclass(frozen=True)
class Asked:
    """Places in the latent space that the settings name.

    Attributes:
        ends: names and (2, d) places of the ends of a line, or None.
        plane: two axes, from 0, or None.
        points: names and (p, d) places of points.
    """

    ends: tuple[list[str], np.ndarray] | None
    plane: tuple[int, int] | None
    points: tuple[list[str], np.ndarray]


def _ends(
    space: LatentSpace, settings: InterpretationSettings
) -> tuple[list[str], np.ndarray] | None:
    """Names and (2, d) places of the ends of the line; None where nothing is asked or classed."""
    if settings.start is not None and settings.end is not None:
        names = [settings.start, settings.end]
        places = np.stack(
            [space.place(n, option) for n, option in zip(names, ("--from", "--to"), strict=True)]
        )
        if np.allclose(*places):
            raise UserError(f"--from {names[0]} --to {names[1]}: both lie at the same place")
        return names, places
    if space.classes is None:
        return None
    means = pd.DataFrame(space.codes).groupby(space.classes).mean()
    if len(means) < 2:
        return None
    apart = means.to_numpy(float)[:, None] - means.to_numpy(float)  # (classes, classes, d)
    i, j = np.unravel_index(np.square(apart).sum(2).argmax(), apart.shape[:2])
    names = [f"{space.loaded.label} {means.index[k]}" for k in (i, j)]
    return names, means.to_numpy(float)[[i, j]]


def _plane(space: LatentSpace, settings: InterpretationSettings) -> tuple[int, int] | None:
    """The two axes of the plane; None in a space of one dimension."""
    if settings.plane is None:
        first = np.argsort(-space.nats, kind="stable")[:2].tolist()
        return tuple(sorted(first)) if len(first) == 2 else None
    for axis in settings.plane:
        if axis not in space.axes:
            raise UserError(f"--plane {axis}: the axes are {', '.join(space.axes)}")
    first, second = map(space.axes.index, settings.plane)
    if first == second:
        raise UserError(f"--plane {' '.join(settings.plane)}: give two different axes")
    return first, second


def _points(space: LatentSpace, settings: InterpretationSettings) -> tuple[list[str], np.ndarray]:
    """Names and (p, d) places of the points whose nearest cells are listed."""
    if settings.points:
        return list(settings.points), np.stack(
            [space.place(p, "--points") for p in settings.points]
        )
    names, places = ["mean of all cells"], [space.mean]
    for axis in space.shown:
        for deviations in (-2, 2):
            step = np.zeros(len(space.axes))
            step[axis] = deviations * space.deviation[axis]
            names.append(f"axis {space.axes[axis]} {deviations:+d} SD")
            places.append(space.mean + step)
    return names, np.stack(places)


def draw(
    space: LatentSpace,
    asked: Asked,
    settings: InterpretationSettings,
    correlations: pd.DataFrame,
    said: pd.DataFrame,
    folder: Path,
) -> tuple[Figures, pd.DataFrame]:
    """Every figure, with its caption, in the order of the report; and the table of the gradients.

    Args:
        space: what is drawn.
        asked: the places that the settings name.
        settings: how far and how finely.
        correlations: of `correlate`.
        said: those of them that the axes are named by.
        folder: where the figures go.
    """
    meanings = short_names(said, space.axes, space.nats)
    figures = [traversals(space, meanings, settings.span, folder)]
    if asked.ends:
        figures.append(line(space, asked.ends, folder))
    figures += follow(space, correlations, meanings, folder)
    saliency, seen = look(space, settings, folder)
    figures.append(saliency)
    if asked.plane:
        figures += [decoded_plane(space, asked.plane, folder), gallery(space, asked.plane, folder)]
    figures.append(neighbourhoods(space, asked.points, settings.neighbours, folder))
    return figures, seen


def traversals(
    space: LatentSpace, meanings: Sequence[str], span: float, folder: Path
) -> tuple[str, Path]:
    """What the model sees along each axis, the others at their mean."""
    steps, walks = np.linspace(-span, span, STEPS), []
    for axis in space.shown:
        points = np.tile(space.mean, (STEPS, 1))
        points[:, axis] += steps * space.deviation[axis]
        spread = max(space.deviation[axis], np.finfo(float).tiny)
        title = (
            f"axis {space.axes[axis]}: {meanings[axis]}   (mean {space.mean[axis]:+.2f}, "
            f"SD {space.deviation[axis]:.2f}, {space.nats[axis]:.1f} nats)"
        )
        cells = (space.codes[:, axis] - space.mean[axis]) / spread
        walks.append(Walk(title, steps, space.decode(points), cells))
    path = plot_walks(walks, "Decoded images along each axis", folder / "traversals.png")
    return (
        "Images decoded along each axis, the other axes at their mean. Below each, how many cells "
        f"lie where{_left_out(space)}.",
        path,
    )


def _left_out(space: LatentSpace) -> str:
    rest = len(space.axes) - len(space.shown)
    return f"; {rest} axes that carry less information are not shown" if rest else ""


def line(space: LatentSpace, ends: tuple[list[str], np.ndarray], folder: Path) -> tuple[str, Path]:
    """What the model sees on the way between two places, and a quarter of it beyond each."""
    names, (start, end) = ends
    length = np.linalg.norm(end - start)
    direction = (end - start) / length
    along = (space.codes - space.mean) @ direction
    spread = max(along.std(), np.finfo(float).tiny)
    ways = np.linspace(-0.25, 1.25, STEPS)
    first, last = ((place - space.mean) @ direction / spread for place in (start, end))
    walk = Walk(
        f"from {names[0]} to {names[1]}   (distance {length:.2f}, SD along it {spread:.2f})",
        first + ways * (last - first),
        space.decode(start + ways[:, None] * (end - start)),
        along / spread,
        [(names[0], first), (names[1], last)],
    )
    path = plot_walks([walk], "Decoded images along a line", folder / "line.png")
    return (
        f"Images decoded along the line from {names[0]} to {names[1]} and beyond. Below, all cells "
        "by their place along it.",
        path,
    )


def follow(
    space: LatentSpace, correlations: pd.DataFrame, meanings: Sequence[str], folder: Path
) -> Figures:
    """The correlations as a figure, where there are any."""
    axes = [space.axes[k] for k in space.shown]
    shown = [meanings[k] for k in space.shown]
    path = plot_correlations(correlations, axes, shown, folder / "correlations.png")
    if path is None:
        return []
    return [
        (
            "Rank correlation of each axis with what is known of the cells and with the "
            "hand-crafted features that follow an axis most; correlations.csv has all.",
            path,
        )
    ]


class OnAllPixels:
    """A model asked about images as they are, also where it sees them smaller."""

    def __init__(self, model: VAE, downsample: int):
        self.model, self.downsample = model, downsample

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (B, C, S, S) in 0..1 -> mean and log-variance of the code, (B, d) each."""
        return self.model.encode(F.avg_pool2d(x, self.downsample))


def look(
    space: LatentSpace, settings: InterpretationSettings, folder: Path
) -> tuple[tuple[str, Path], pd.DataFrame]:
    """Where on the image the code depends: the figure, and the table of saliency.csv."""
    rng = np.random.default_rng(settings.seed)
    n = min(settings.saliency_cells, len(space.codes))
    rows = np.sort(rng.choice(len(space.codes), n, replace=False))
    cells, axes = space.loaded.cells, space.shown
    masks, _ = find_masks(np.asarray(cells.images[rows]), cells.masked)
    saliency = smooth_gradients(
        OnAllPixels(space.model, space.run.settings.downsample),
        space.scaled(rows),
        masks,
        axes,
        settings.saliency_samples,
        settings.saliency_noise,
        settings.seed,
    )
    spread = np.maximum(space.deviation[axes], np.finfo(float).tiny)
    effects = BRIGHTER * saliency.effect / spread[:, None]  # (axes shown, C)
    table = pd.concat(
        [
            pd.DataFrame({"axis": [space.axes[k] for k in axes]}),
            pd.DataFrame(effects, columns=[f"effect of {name}" for name in cells.channels]),
            sensitivity_by_region(saliency.size, masks).add_prefix("sensitivity "),
        ],
        axis=1,
    )
    write_table(folder / "saliency.csv", table)
    # single cells from one end of the first axis to the other
    order = np.argsort(space.codes[rows, int(space.nats.argmax())], kind="stable")
    examples = order[np.linspace(0, n - 1, min(EXAMPLES, n)).astype(int)]
    path = plot_saliency(
        space.pictures(rows[examples]), saliency.size[examples], saliency.size.mean(0),
        saliency.signed, effects, [f"axis {space.axes[k]}" for k in axes], cells.channels,
        folder / "saliency.png",
    )  # fmt: skip
    caption = (
        f"Gradient of each axis by the pixels (SmoothGrad, {settings.saliency_samples} noisy "
        f"copies of each of {n} cells). All cells: mean size, bright is where a change moves "
        "a cell most. Channels: mean gradient, blurred, red where more signal moves a cell up the "
        "axis and blue where it moves it down; below, the shift of a cell that is brighter by "
        f"{100 * BRIGHTER:.0f} % of full scale all over, to first order. Right: size for single "
        "cells."
    )
    return (caption, path), table


def decoded_plane(space: LatentSpace, plane: tuple[int, int], folder: Path) -> tuple[str, Path]:
    """What the model sees over two axes."""
    n, axes = len(PLANE), list(plane)
    across, up = np.meshgrid(PLANE, PLANE)  # (n, n): the row is the second axis
    points = np.tile(space.mean, (n * n, 1))
    points[:, axes] += np.column_stack([across.ravel(), up.ravel()]) * space.deviation[axes]
    pictures = space.decode(points)
    edges = np.append(PLANE, PLANE[-1] + (PLANE[1] - PLANE[0])) - (PLANE[1] - PLANE[0]) / 2
    spread = np.maximum(space.deviation[axes], np.finfo(float).tiny)
    places = (space.codes[:, axes] - space.mean[axes]) / spread
    counts, _, _ = np.histogram2d(places[:, 1], places[:, 0], bins=(edges, edges))
    names = [f"axis {space.axes[k]}" for k in plane]
    path = plot_plane(
        pictures.reshape(n, n, *pictures.shape[1:]), PLANE, counts > 0, names,
        f"Decoded images over {names[0]} and {names[1]}", folder / "plane.png",
    )  # fmt: skip
    return (
        f"Images decoded over {names[0]} and {names[1]}, other axes at their mean; faded where no "
        "cell falls on the square, wherever it lies on the other axes.",
        path,
    )


def gallery(space: LatentSpace, plane: tuple[int, int], folder: Path) -> tuple[str, Path]:
    """Real cells at their places over two axes, as many as fit beside each other."""
    places = space.codes[:, list(plane)].astype(float)
    limits = np.percentile(places, [0.5, 99.5], axis=0).T  # (2, 2)
    side = max(np.ptp(limits, axis=1).max(), np.finfo(float).tiny) / (PICTURES_ACROSS - 1)
    inside = ((places >= limits[:, 0]) & (places <= limits[:, 1])).all(1)
    within = np.flatnonzero(inside)
    rows = within[without_overlap(places[within], side)]
    names = [f"axis {space.axes[k]}" for k in plane]
    limits = limits + side * np.array([-0.6, 0.6])
    path = plot_gallery(
        places[rows], space.pictures(rows), side, limits,
        [f"{name} (latent units)" for name in names],
        f"Cells at their place on {names[0]} and {names[1]}", folder / "gallery.png",
    )  # fmt: skip
    return (
        f"{len(rows):,} of the {len(places):,} cells at their place on {names[0]} and {names[1]}, "
        f"as many as fit without overlap; {len(places) - len(within):,} lie outside the frame.",
        path,
    )


def neighbourhoods(
    space: LatentSpace, points: tuple[list[str], np.ndarray], n: int, folder: Path
) -> tuple[str, Path]:
    """The cells nearest to chosen points, as pictures and as a table."""
    names, places = points
    found = [nearest_cells(space.codes, place, n) for place in places]
    tables = []
    for name, (rows, distances) in zip(names, found, strict=True):
        nearest = {"point": name, "rank": range(1, len(rows) + 1), "Unique_ID": space.ids[rows]}
        table = pd.DataFrame({**nearest, "distance": distances})
        if space.classes is not None:
            table[space.loaded.label] = space.classes[rows]
        tables.append(table)
    write_table(folder / "nearest.csv", pd.concat(tables))
    path = plot_nearest(
        space.decode(places), [space.pictures(rows) for rows, _ in found],
        [distances for _, distances in found], names, folder / "nearest.png",
    )  # fmt: skip
    return "What the model sees at chosen points, and the cells whose codes lie nearest.", path


def _tables(
    space: LatentSpace, found: pd.DataFrame, seen: pd.DataFrame
) -> list[tuple[str, pd.DataFrame]]:
    """Tables of the report: what each axis is, the directions of what is known, the gradients."""
    axes = pd.DataFrame(
        {"mean": space.mean, "standard deviation": space.deviation, "nats per cell": space.nats},
        index=pd.Index([f"axis {name}" for name in space.axes]),
    )
    tables = [("The axes.", axes)]
    known = found[found["column"].isin(space.known.columns)].set_index("column")
    if len(known):
        caption = (
            "The direction (a unit vector in latent units) along which each known column is read "
            "best, and the Spearman correlation along it; directions.csv has the features too."
        )
        tables.append((caption, known))
    caption = (
        "What each axis depends on: the shift, in standard deviations, of a cell that is brighter "
        f"in a channel by {100 * BRIGHTER:.0f} % of full scale; and how sensitive a pixel is "
        "inside the cell, at its rim and outside, relative to the mean of the image."
    )
    return [*tables, (caption, seen.set_index("axis"))]


if __name__ == "__main__":
    run_script(lambda: main(parse_options(SETTINGS)))
