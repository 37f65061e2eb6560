"""Interpret the latent space of a finished run: words, figures and tables.

    python human_guidance/interpret_latent_space.py --run results/0007-MyCells-VAE
    python human_guidance/interpret_latent_space.py --run 7 --from control --to treated
    python human_guidance/interpret_latent_space.py --run 7 --plane x z --points "x=2 y=-1" c5.png

The new folder results/NNNN-<run>-interpretation/ holds report.html, which says what each axis
follows, and

| file | content |
| --- | --- |
| traversals.png, line.png | images decoded along each axis, and between two cells or classes |
| plane.png, gallery.png | decoded images, and real cells, over two axes |
| correlations.png, correlations.csv | Spearman correlation of axes with columns and features |
| directions.csv | the latent direction that correlates most with each column |
| nearest.png, nearest.csv | the cells nearest to chosen points |
| saliency.png, saliency.csv | the pixels and channels that each axis depends on |

The run folder does not change. Images are read in small blocks, so memory does not grow with their
number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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
    name_axes,
    name_concepts,
    nearest_cells,
    sensitivity_by_region,
    short_names,
    smooth_gradients,
    without_overlap,
    without_repeats,
)
from human_guidance.latent_space import LatentSpace
from models.networks import VAE
from util.cell_features import features_of, read_cellprofiler_table
from util.devices import pick_device
from util.errors import UserError
from util.features.cell_masks import find_masks
from util.metadata import choose_labels, ordered_classes
from util.pages.report import write_report
from util.runs import create_run_folder, describe_run, find_finished_run, write_json, write_table
from util.settings import (
    ABOVE_0,
    AT_LEAST_1,
    Range,
    notes_for_user,
    parse_options,
    refuse_out_of_range,
    run_script,
)
from VAE_framework import load_again, open_finished_run


@dataclass(frozen=True)
class InterpretationSettings:
    """Which run to interpret, and at which places."""

    run: str = "last"
    """Finished run: its folder, its number in `results`, or `last` for the newest one."""
    start: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """Start of a line through the latent space: a Unique_ID or a class. Without --from and --to
    the line joins the two classes whose means lie farthest apart."""
    end: Annotated[str | None, tyro.conf.arg(name="to")] = None
    """End of the line: a Unique_ID or a class."""
    plane: tuple[str, str] | None = None
    """Two axes (x, y, z, 4, ...) for the planes of images; None takes the two that carry the most
    information."""
    points: tuple[str, ...] = ()
    """Points whose nearest cells are listed: a Unique_ID, a class (its mean), or coordinates such
    as "x=1.5 y=-2"; axes without a coordinate stay at their mean. By default the mean of all cells
    and two standard deviations to both sides of it on each axis."""
    neighbours: int = 8
    """Cells listed for each point."""
    span: float = 3.0
    """Reach of traversals to both sides of the mean, in standard deviations of the cells."""
    saliency_cells: int = 32
    """Cells over which saliency, the gradient of the latent code by the pixels, is averaged."""
    saliency_samples: int = 16
    """Noisy copies of each cell over which its gradient is averaged (SmoothGrad); maps from fewer
    than 10 are speckled."""
    saliency_noise: float = 0.1
    """Standard deviation of the noise, as a share of full scale; 0.1 to 0.2 in the paper."""
    seed: int = 0
    """Seed of the choice of cells for saliency and of the noise."""
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
BRIGHTER = 0.1  # of full scale: the change whose effect on the code is reported
EXAMPLES = 4  # single cells in the figure of saliency

Figures = list[tuple[str, Path]]


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
    correlations = correlate(
        space.codes, space.axes, space.known, features=features, channels=loaded.cells.channels
    )
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
    figures, seen = draw(
        space, asked, settings, correlations=correlations, said=said, folder=folder
    )
    print("\n".join(sentences))
    label_notes = choose_labels(run.latents, loaded.label, run.settings.order)[2]
    report = write_report(
        folder / "report.html",
        f"What the latent space of {run.folder.name} means",
        summary_lines=[*sentences, _about(space)],
        settings=described["settings"]
        | {"interpreted": str(run.folder), "command": described["command"]},
        tables=[],
        figures=figures,
        notes=notes_for_user([*loaded.cells.notes, *label_notes, *notes]),
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
        raise UserError("--from and --to: a line has two ends; give both or neither")


def _about(space: LatentSpace) -> str:
    settings = space.run.settings
    return (
        f"{settings.model_name} with {settings.latent_dim} latent dimensions; "
        f"{len(space.codes):,} cells of {space.loaded.cells.name}. An axis follows a column if "
        "their Spearman correlation is at least 0.7 in size, and partly from 0.4. The sign of an "
        "axis is arbitrary."
    )


def features_of_space(space: LatentSpace) -> tuple[pd.DataFrame | None, list[str]]:
    """All features (N, F) of the run's cells, redundant ones included, and notes; None if the run
    used no features.

    Projections need features without redundancy; a reader wants the familiar name of each family.
    """
    settings, cells = space.run.settings, space.loaded.cells
    ids = list(cells.table["Unique_ID"])
    if settings.features == "none":
        return None, ["the run used no hand-crafted features"]
    if settings.features == "measure":
        table, notes = features_of(
            cells.images,
            cells.masked,
            originals=cells.originals,
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
    """Names and (2, d) places of the ends of the line; None without --from and without classes."""
    if settings.start is not None and settings.end is not None:
        names = [settings.start, settings.end]
        places = np.stack(
            [space.place(n, option) for n, option in zip(names, ("--from", "--to"), strict=True)]
        )
        if np.allclose(*places):
            raise UserError(
                f"--from {names[0]} --to {names[1]}: both lie at the same place; give two"
            )
        return names, places
    if space.classes is None:
        return None
    means = pd.DataFrame(space.codes).groupby(space.classes).mean()
    means = means.reindex(ordered_classes(means.index, space.run.settings.order))
    if len(means) < 2:
        return None
    apart = means.to_numpy(float)[:, None] - means.to_numpy(float)  # (classes, classes, d)
    i, j = np.unravel_index(np.square(apart).sum(2).argmax(), apart.shape[:2])
    names = [f"{space.loaded.label} {means.index[k]}" for k in (i, j)]
    return names, means.to_numpy(float)[[i, j]]


def _plane(space: LatentSpace, settings: InterpretationSettings) -> tuple[int, int] | None:
    """The two axes of the planes of images; None in a space of one dimension."""
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
    """All figures with their captions, in the order of the report, and the table of saliency.

    Args:
        space: the latent space.
        asked: the places that the settings name.
        settings: reach of traversals, number of neighbours, saliency.
        correlations: from `correlate`.
        said: those from `without_repeats`, which name the axes.
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
    """Images decoded along each axis, the others at their mean."""
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
        "Images decoded along each axis, the other axes at their mean. Below each row, the "
        f"distribution of the cells along the axis{_left_out(space)}.",
        path,
    )


def _left_out(space: LatentSpace) -> str:
    rest = len(space.axes) - len(space.shown)
    return f". {rest} axes that carry less information are not shown" if rest else ""


def line(space: LatentSpace, ends: tuple[list[str], np.ndarray], folder: Path) -> tuple[str, Path]:
    """Images decoded between two places and a quarter of their distance beyond each."""
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
        marks=[(names[0], first), (names[1], last)],
    )
    path = plot_walks([walk], "Decoded images along a line", folder / "line.png")
    return (
        f"Images decoded along the line from {names[0]} to {names[1]} and beyond. Below, the "
        "distribution of all cells along the line.",
        path,
    )


def follow(
    space: LatentSpace, correlations: pd.DataFrame, meanings: Sequence[str], folder: Path
) -> Figures:
    """The figure of correlations, if there are any."""
    axes = [space.axes[k] for k in space.shown]
    shown = [meanings[k] for k in space.shown]
    path = plot_correlations(correlations, axes, shown, folder / "correlations.png")
    if path is None:
        return []
    return [
        (
            "Rank correlation of each axis with the columns of the metadata, and with the "
            "hand-crafted features of the largest correlations; correlations.csv has all features.",
            path,
        )
    ]


class OnAllPixels:
    """A model that takes images at their full size and downsamples them itself."""

    def __init__(self, model: VAE, downsample: int):
        self.model, self.downsample = model, downsample

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (B, C, S, S) in 0..1 -> mean and log-variance of the code, (B, d) each."""
        return self.model.encode(F.avg_pool2d(x, self.downsample))


def look(
    space: LatentSpace, settings: InterpretationSettings, folder: Path
) -> tuple[tuple[str, Path], pd.DataFrame]:
    """Which pixels the latent code depends on: the figure, and the table of saliency.csv."""
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
        n_samples=settings.saliency_samples,
        noise=settings.saliency_noise,
        seed=settings.seed,
    )
    spread = np.maximum(space.deviation[axes], np.finfo(float).tiny)
    effects = BRIGHTER * saliency.effect / spread[:, None]  # (axes shown, C)
    parts = [
        pd.DataFrame({"axis": [space.axes[k] for k in axes]}),
        pd.DataFrame(effects, columns=[f"effect of {name}" for name in cells.channels]),
        sensitivity_by_region(saliency.size, masks).add_prefix("sensitivity "),
    ]
    table = pd.concat(parts, axis=1)
    write_table(folder / "saliency.csv", table)
    # single cells from one end to the other of the axis that carries the most information
    order = np.argsort(space.codes[rows, int(space.nats.argmax())], kind="stable")
    examples = order[np.linspace(0, n - 1, min(EXAMPLES, n)).astype(int)]
    path = plot_saliency(
        space.pictures(rows[examples]),
        examples=saliency.size[examples],
        size=saliency.size.mean(0),
        signed=saliency.signed,
        effects=effects,
        names=[f"axis {space.axes[k]}" for k in axes],
        channels=cells.channels,
        path=folder / "saliency.png",
    )
    caption = (
        f"Gradient of each axis by the pixels (SmoothGrad, {settings.saliency_samples} noisy "
        f"copies of each of {n} cells). All cells: mean size of the gradient; a change of a bright "
        "pixel moves a cell most. Channels: mean gradient, blurred; more signal moves a cell up "
        "the axis where the map is red, and down where it is blue. The number below is the shift "
        f"of a cell whose pixels all become brighter by {100 * BRIGHTER:.0f} % of full scale, to "
        "first order. Right: size of the gradient for single cells."
    )
    return (caption, path), table


def decoded_plane(space: LatentSpace, plane: tuple[int, int], folder: Path) -> tuple[str, Path]:
    """Images decoded over two axes."""
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
        pictures.reshape(n, n, *pictures.shape[1:]),
        PLANE,
        counts > 0,
        names=names,
        title=f"Decoded images over {names[0]} and {names[1]}",
        path=folder / "plane.png",
    )
    return (
        f"Images decoded over {names[0]} and {names[1]}, the other axes at their mean. An image is "
        "faded if no cell has these values on the two axes.",
        path,
    )


def gallery(space: LatentSpace, plane: tuple[int, int], folder: Path) -> tuple[str, Path]:
    """Real cells at their places over two axes, as many as fit without overlap."""
    places = space.codes[:, list(plane)].astype(float)
    limits = np.percentile(places, [0.5, 99.5], axis=0).T  # (2, 2)
    side = max(np.ptp(limits, axis=1).max(), np.finfo(float).tiny) / (PICTURES_ACROSS - 1)
    inside = ((places >= limits[:, 0]) & (places <= limits[:, 1])).all(1)
    within = np.flatnonzero(inside)
    rows = within[without_overlap(places[within], side)]
    names = [f"axis {space.axes[k]}" for k in plane]
    limits = limits + side * np.array([-0.6, 0.6])
    path = plot_gallery(
        places[rows],
        space.pictures(rows),
        side,
        limits,
        names=[f"{name} (latent units)" for name in names],
        title=f"Cells at their place on {names[0]} and {names[1]}",
        path=folder / "gallery.png",
    )
    return (
        f"{len(rows):,} of the {len(places):,} cells at their place on {names[0]} and {names[1]}, "
        f"as many as fit without overlap; {len(places) - len(within):,} lie outside the frame.",
        path,
    )


def neighbourhoods(
    space: LatentSpace, points: tuple[list[str], np.ndarray], n: int, folder: Path
) -> tuple[str, Path]:
    """The cells nearest to chosen points: figure and table."""
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
        space.decode(places),
        cells=[space.pictures(rows) for rows, _ in found],
        distances=[distances for _, distances in found],
        names=names,
        path=folder / "nearest.png",
    )
    return "Images decoded at chosen points, and the cells with the nearest latent codes.", path


def _tables(
    space: LatentSpace, found: pd.DataFrame, seen: pd.DataFrame
) -> list[tuple[str, pd.DataFrame]]:
    """Tables of the report: the axes, the directions of known columns, saliency."""
    axes = pd.DataFrame(
        {"mean": space.mean, "standard deviation": space.deviation, "nats per cell": space.nats},
        index=pd.Index([f"axis {name}" for name in space.axes]),
    )
    tables = [("The axes.", axes)]
    known = found[found["column"].isin(space.known.columns)].set_index("column")
    if len(known):
        caption = (
            "The latent direction (a unit vector) that correlates most with each known column, and "
            "its Spearman correlation; directions.csv also has the features."
        )
        tables.append((caption, known))
    caption = (
        "What each axis depends on. Effect: the shift, in standard deviations, of a cell that "
        f"becomes brighter in a channel by {100 * BRIGHTER:.0f} % of full scale. Sensitivity: mean "
        "size of the gradient of a pixel inside the cell, at its rim and outside, relative to the "
        "whole image."
    )
    return [*tables, (caption, seen.set_index("axis"))]


if __name__ == "__main__":
    run_script(lambda: main(parse_options(SETTINGS)))
