"""Score projections of cells, whatever method they come from.

    python quantitative_metrics/performance_metrics.py my.csv --columns UMAP_X UMAP_Y UMAP_Z \
        --dataset DataSets/MySet

The CSV has a row per cell with the coordinates of one or more projections, and whatever is known of
the cells (class, dose, ground truth). With images (`--dataset`) or features (`--features`) of the
same cells the projections are also judged by the neighbourhoods they keep and the information they
share; without them, classifier and backbone run and the rest is named as skipped. Results go to a
new folder results/NNNN-<csv>-scores/: scores.csv, local_quality.csv, figures, report.html.

In Python, `compute_perf_metrics("my.csv", dataset=...)` returns the table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro

from quantitative_metrics.backbone_metric import Continuum, refuse_unknown_continuum
from quantitative_metrics.backbone_page import write_backbone_page
from quantitative_metrics.classifier_metric import ClassifierTask
from quantitative_metrics.metric_figures import (
    plot_backbone,
    plot_co_ranking,
    plot_local_quality,
    plot_local_quality_densities,
    plot_ordered_distance,
)
from quantitative_metrics.scores import (
    METRICS,
    RANK_ALL_UP_TO,
    RANKED_SAMPLE,
    Metric,
    Plan,
    Scores,
    score_projections,
)
from util.cell_features import hand_crafted_features
from util.data_processing import Cells, CellSource, load_cells
from util.devices import pick_device, scoring_device
from util.errors import UserError
from util.helpers import (
    compose_rgb,
    format_table,
    plot_accuracy,
    plot_projections,
    plot_scores,
    scores_table,
)
from util.latents import find_projections, known_of, logvars_of
from util.metadata import (
    choose_labels,
    class_name,
    count_and_name,
    gradations,
    match_ids,
    numbers_in,
    read_table,
    refuse_duplicates,
    refuse_missing_column,
)
from util.pages.report import write_latent_page, write_report
from util.runs import (
    create_run_folder,
    describe_run,
    slug,
    write_json,
    write_table,
)
from util.settings import parse_options, run_script
from util.style import thinning_stride

COLOURED = 6  # numeric columns that get a figure of their own; latent_space.html has all


@dataclass(frozen=True)
class Settings(CellSource):
    """What to score, and how."""

    source: tyro.conf.Positional[str] = ""
    """CSV with a row per cell: coordinates, and what is known of the cells."""
    columns: tuple[str, ...] = ()
    """Coordinate columns of one projection, or NAME=COLUMN,COLUMN,... for each of several. None
    takes what is named like UMAP_X, UMAP_Y, ... or VAE_x_coord, ..."""
    dataset: str | None = None
    """Images of the same cells, as for VAE_framework.py: a folder, .npz, .npy, or `simulated`."""
    metadata: str | None = None
    """More columns of these cells, as for VAE_framework.py."""
    features: str = "none"
    """Hand-crafted features as another space to compare with: `none`, `measure` (on the images of
    the data set), or a CSV with Unique_ID."""
    metrics: tuple[Metric, ...] = METRICS
    """Which scores: neighbours (trustworthiness, continuity, LCMC, local quality), information
    (mutual information), classifier (accuracy, m1-m3), backbone, axes."""

    ignore: tuple[str, ...] = ()
    """Classes that the classifier leaves out."""
    merge: tuple[str, ...] = ()
    """Classes to be merged, as OLD=NEW."""
    strength_column: str | None = None
    """The classifier sees only cells with at least `strength_threshold` in this column."""
    strength_threshold: float = 0.5
    """In the units of that column."""
    classifier_mode: str = "converged"
    """`converged` (standardised columns, 100 epochs) or `thesis` (raw columns, 20 epochs)."""
    class_weights: bool = False
    """Weigh each class by its inverse size."""

    progress: str | None = None
    """Column of a continuum (dose, time, DNA content) for the backbone; None takes BBBC031's."""
    branch: str | None = None
    """Column of the branches of that continuum."""
    initial: str | None = None
    """Column of the states that the branches start from."""

    information_mode: str = "held_out"
    """`held_out` (on pairs the critic has not seen) or `thesis` (on those it was trained on)."""
    rank_all_up_to: int = RANK_ALL_UP_TO
    """Cells up to which neighbourhood ranks are exact; above, a sample is ranked against all."""
    ranked_sample: int = RANKED_SAMPLE
    """Cells of that sample."""
    seed: int = 0
    """Of samples, classifiers, critics and bootstrap."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1."""
    results: str = "results"
    """Folder of the numbered result folders."""


SETTINGS = Settings()


@dataclass(frozen=True)
class Scored:
    """Projections, the cells they are of, and what was found of them.

    latents: N rows: the table of the source that has a partner everywhere, and the columns of the
        data set.
    projections: name -> coordinate columns.
    cells: the images, in the order of the table; None without.
    """

    latents: pd.DataFrame
    projections: dict[str, list[str]]
    cells: Cells | None
    label: str | None
    scores: Scores


def compute_perf_metrics(source: str | Path | pd.DataFrame, **options: Any) -> pd.DataFrame:
    """All scores of the projections in a table.

    Args:
        source: CSV, or its content.
        options: fields of `Settings`, e.g. columns, dataset, features, metrics, label, seed.

    Returns:
        the long table: projection, reference, metric, k, value, std, n_cells, seed
        (`quantitative_metrics.scores`).

    Raises:
        UserError: a column is missing or not numeric, no id matches, or as the metrics.

    Examples:
        >>> cells = pd.DataFrame({"Unique_ID": range(40), "class": [0, 1] * 20})
        >>> cells["PCA_1"], cells["PCA_2"] = cells["class"] * 5.0, cells["Unique_ID"] / 40
        >>> table = compute_perf_metrics(cells, metrics=("classifier",))
        >>> float(table.set_index("metric").at["accuracy", "value"])
        1.0
    """
    return score_source(source, replace(SETTINGS, **options)).scores.table


def score_source(source: str | Path | pd.DataFrame, settings: Settings) -> Scored:
    """Read, join and score; writes nothing."""
    name = "the table" if isinstance(source, pd.DataFrame) else str(source)
    table = source.copy() if isinstance(source, pd.DataFrame) else _read_source(name)
    projections = find_projections(table, settings.columns, name)
    for column in dict.fromkeys(c for columns in projections.values() for c in columns):
        table[column] = numbers_in(table, column, name)
    table, cells, features, notes = _join(table, name, settings)
    label, classes, label_notes = choose_labels(table, settings.label)
    refuse_unknown_continuum(table, settings.progress, settings.branch, settings.initial)
    _refuse_unknown_classes(settings, table, classes)
    references = {} if cells is None else {"pixels": cells.reference_space()}
    if features is not None:
        references["features"] = features.to_numpy()
    scores = score_projections(
        {name: table[columns].to_numpy(float) for name, columns in projections.items()},
        references,
        known_of(table, projections),
        _plan(settings, label, scoring_device(pick_device(settings.device))),
        logvars_of(table, projections),
    )
    notes += label_notes if label else []
    scores = replace(scores, notes=notes + scores.notes)
    return Scored(table, projections, cells, label, scores)


def _read_source(path: str) -> pd.DataFrame:
    if not path:
        raise UserError("give the CSV to score: performance_metrics.py my.csv")
    if not Path(path).is_file():
        raise UserError(f"{path}: there is no such file")
    return read_table(Path(path))


def _join(
    table: pd.DataFrame, source: str, settings: Settings
) -> tuple[pd.DataFrame, Cells | None, pd.DataFrame | None, list[str]]:
    """Table, images and cleaned features of the same cells, in one order; and notes."""
    notes: list[str] = []
    if "Unique_ID" in table:
        table["Unique_ID"] = table["Unique_ID"].astype(str)
        refuse_duplicates(table, Path(source))
    cells = None
    if settings.dataset is not None:
        cells = load_cells(settings)
        table, cells, join_notes = _join_cells(table, cells, source)
        notes += join_notes
    elif settings.metadata is not None:
        raise UserError("--metadata goes with --dataset; the CSV itself may hold any column")
    if "Unique_ID" not in table:
        if settings.features not in ("none", "measure"):
            raise UserError(f"{source} has no column Unique_ID to join {settings.features} on")
        table.insert(0, "Unique_ID", [f"row_{i + 1}" for i in range(len(table))])
    if settings.features == "measure" and cells is None:
        raise UserError("--features measure: needs the images; give them with --dataset")
    features, feature_notes = hand_crafted_features(
        settings.features, cells, list(table["Unique_ID"])
    )
    return table, cells, features, notes + feature_notes


def _join_cells(
    table: pd.DataFrame, cells: Cells, source: str
) -> tuple[pd.DataFrame, Cells, list[str]]:
    """The rows of the table that have an image, in the table's order, and their images."""
    if "Unique_ID" not in table:
        if len(table) != len(cells.table):
            raise UserError(
                f"{source} has no column Unique_ID and {len(table)} rows for "
                f"{len(cells.table)} images: name the image of each row in a column Unique_ID"
            )
        places = np.arange(len(table))
        notes = [f"{source} has no column Unique_ID: its rows are taken in the order of the images"]
    else:
        places, notes = match_ids(table["Unique_ID"], cells.table["Unique_ID"], source)
    kept = places >= 0
    if not kept.all():
        ids = list(table["Unique_ID"][~kept])
        notes.append(count_and_name(f"rows of {source} have no image: left out", ids))
    cells = cells.subset(places[kept])
    table = table[kept].reset_index(drop=True)
    more = cells.table.columns.difference(table.columns, sort=False)
    return pd.concat([table, cells.table[more]], axis=1), cells, cells.notes + notes


def _refuse_unknown_classes(
    settings: Settings, table: pd.DataFrame, classes: Sequence[object] | None
) -> None:
    """Make sure that what narrows the classes down is there."""
    known = {class_name(value) for value in (() if classes is None else classes)}
    asked = {
        "--ignore": settings.ignore,
        "--merge": [m.split("=")[0] for m in settings.merge if "=" in m],
    }
    for option, names in asked.items():
        if unknown := [name for name in names if name not in known]:
            there = f"there are {', '.join(sorted(known))}" if known else "name them by --label"
            raise UserError(f"{option} {unknown[0]}: no such class; {there}")
    if settings.strength_column:
        refuse_missing_column(table, "strength_column", settings.strength_column)
        numbers_in(table, settings.strength_column, "--strength-column")


def _plan(settings: Settings, label: str | None, device: str) -> Plan:
    merge = {}
    for part in settings.merge:
        old, _, new = part.partition("=")
        if not old or not new:
            raise UserError(f"--merge {part}: give OLD=NEW for each class")
        merge[old] = new
    task = label and ClassifierTask(
        "accuracy",
        label,
        tuple(settings.ignore),
        settings.strength_column,
        settings.strength_threshold,
        merge,
    )
    continuum = settings.progress and Continuum(
        settings.progress, settings.branch, settings.initial, tuple(settings.ignore)
    )
    return Plan(
        settings.metrics,
        task or None,
        settings.classifier_mode,
        settings.class_weights,
        continuum or None,
        settings.information_mode,
        settings.rank_all_up_to,
        settings.ranked_sample,
        settings.seed,
        device,
    )


def write_scores(scores: Scores, ids: Sequence[str], folder: Path) -> None:
    """scores.csv, and beside it what does not fit its long form."""
    write_table(folder / "scores.csv", scores.table)
    write_table(folder / "axes.csv", scores.axes)
    local = scores.local_quality.copy()
    local.insert(0, "Unique_ID", list(ids))
    for name, backbone in scores.backbones.items():
        local[f"{name}_backbone_distance"] = backbone.latent_distance
    write_table(folder / "local_quality.csv", local)
    for name, matrix in scores.confusion.items():
        path = folder / f"confusion_{slug(name)}.csv"
        write_table(path, matrix.rename_axis("true").reset_index())


def draw_scores(
    scores: Scores,
    latents: pd.DataFrame,
    projections: Mapping[str, Sequence[str]],
    folder: Path,
    label: str | None,
) -> list[tuple[str, Path]]:
    """Every figure of the scores, and backbones.html to turn.

    Args:
        scores: of the projections.
        latents: N rows: coordinates, and what is known of the cells.
        projections: name -> coordinate columns.
        folder: where the figures go.
        label: column of the classes.

    Returns:
        captions and PNG files in the order of a report.
    """
    figures = []
    for column in coloured_columns(known_of(latents, projections), label):
        path = folder / f"projections_{slug(column)}.png"
        plot_projections(latents, projections, column, path)
        figures.append((f"The projections, coloured by {column}", path))
    codes = {name: latents[list(columns)].to_numpy(float) for name, columns in projections.items()}
    curves = plot_scores(scores.table, folder / "scores.png")
    figures += [("Neighbourhoods kept, by their size", curves)] if curves else []
    figures += _draw_neighbours(scores, codes, folder)
    bars = plot_accuracy(scores.table, folder / "accuracy.png")
    figures += [("Classes read from the coordinates", bars)] if bars else []
    if scores.backbones:
        figures += _draw_backbones(scores, codes, folder)
    return figures


def coloured_columns(known: pd.DataFrame, label: str | None) -> list[str]:
    """The class and the first few gradations: what the figures are coloured by."""
    graded = gradations(known, [label] if label else [])
    return ([label] if label else []) + graded[:COLOURED]


def _draw_neighbours(
    scores: Scores, codes: dict[str, np.ndarray], folder: Path
) -> list[tuple[str, Path]]:
    """Co-ranking matrices and local quality, per reference space."""
    figures, quality = [], {}
    for reference, corners in scores.corners.items():
        path = plot_co_ranking(corners, folder / f"co_ranking_{reference}.png")
        figures.append((f"Co-ranking with {reference}: pairs by both ranks", path))
        quality[reference] = {
            name: scores.local_quality[f"{name}_{reference}_local_Q_score"].to_numpy()
            for name in codes
        }
        path = folder / f"local_quality_{reference}.png"
        plot_local_quality(codes, quality[reference], path, reference)
        figures.append((f"Local quality of each cell against {reference}", path))
    if quality:
        path = plot_local_quality_densities(quality, folder / "local_quality.png")
        figures.append(("Local quality: how many cells have which", path))
    return figures


def _draw_backbones(
    scores: Scores, codes: dict[str, np.ndarray], folder: Path
) -> list[tuple[str, Path]]:
    known, backbones = scores.continuum, scores.backbones
    names = (known.branch or "branch", known.progress, known.initial or "start")
    write_backbone_page(codes, backbones, folder / "backbones.html", names=names)
    return [
        (
            "The backbone of the known continuum in each projection (backbones.html to turn)",
            plot_backbone(codes, backbones, folder / "backbones.png", names=names),
        ),
        (
            "Distance along the backbone against the true progress",
            plot_ordered_distance(backbones, folder / "ordered_distance.png", names=names[:2]),
        ),
    ]


def detail_tables(scores: Scores) -> list[tuple[str, pd.DataFrame]]:
    """Accuracy by class, backbone by branch, axes, confusion."""
    tables = []
    for part, caption in (
        ("accuracy", "Accuracy by class (fraction found)"),
        ("backbone_spearman", "Spearman along the backbone, by branch"),
        ("backbone_kendall", "Kendall along the backbone, by branch"),
    ):
        rows = scores.table[scores.table["metric"].str.startswith(f"{part}[")]
        if len(rows):
            wide = rows.pivot(index="projection", columns="metric", values="value")
            wide.columns = [name[len(part) + 1 : -1] for name in wide.columns]
            tables.append((caption, wide))
    if len(scores.axes):
        axes = scores.axes.assign(
            axis=scores.axes["projection"] + " " + scores.axes["axis"].map(str)
        )
        wide = axes.pivot(index="column", columns="axis", values="spearman")
        tables.append(("Spearman correlation of each axis with what is known of the cells", wide))
    for name, matrix in scores.confusion.items():
        caption = f"{name}: true class by row, predicted by column; test cells of all repeats"
        tables.append((caption, matrix.rename_axis("class")))
    return tables


def main(settings: Settings) -> Path:
    """Score a CSV and write a folder of results; returns the folder."""
    scored = score_source(settings.source, settings)
    scores, latents = scored.scores, scored.latents
    for note in scores.notes:
        print(f"note: {note}")
    stem = Path(settings.source).stem
    folder = create_run_folder(Path(settings.results), f"{stem}-scores")
    data = {} if scored.cells is None else {"data": scored.cells.describe()}
    described = describe_run(settings, **data, projections=scored.projections, notes=scores.notes)
    write_json(folder / "settings.json", described)
    write_scores(scores, latents["Unique_ID"], folder)
    figures = draw_scores(scores, latents, scored.projections, folder, scored.label)
    view = None
    if scored.cells is not None:
        shown = scored.cells.images[:: thinning_stride(len(latents))]
        view = write_latent_page(
            latents,
            scored.projections,
            compose_rgb(shown, scored.cells),
            folder / "latent_space.html",
            scored.label,
            stem,
        )
    names = ", ".join(
        f"{name} ({', '.join(columns)})" for name, columns in scored.projections.items()
    )
    report = write_report(
        folder / "report.html",
        f"{folder.name}: scores of {stem}",
        [f"{len(latents):,} cells of {settings.source}.", f"Projections: {names}."],
        described["settings"] | {"command": described["command"]} | data,
        [("Each projection by each score.", scores_table(scores.table))],
        figures,
        scores.notes,
        view,
        described["versions"] | described["machine"],
        detail_tables(scores),
    )
    print(format_table(scores_table(scores.table)))
    print(f"report: {report}")
    return folder


if __name__ == "__main__":
    run_script(lambda: main(parse_options(SETTINGS)))
