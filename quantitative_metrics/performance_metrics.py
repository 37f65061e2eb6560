"""Score projections of cells, whatever method they come from.

    python quantitative_metrics/performance_metrics.py my.csv --columns UMAP_X UMAP_Y UMAP_Z \
        --dataset DataSets/MySet

The table (CSV, Parquet or .h5ad) has a row per cell with the coordinates of one or more
projections, and whatever is known of the cells (class, dose, ground truth). With images
(`--dataset`) or features (`--features`) of the same cells the projections are also judged by the
neighbourhoods they keep and the information they share; without them, the report names these scores
as skipped. Results go to a new folder results/NNNN-<table>-scores/: scores.csv, local_quality.csv,
figures, report.html.

In Python, `compute_perf_metrics("my.csv", dataset=...)` returns the table.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import tyro

from quantitative_metrics.backbone_metric import Continuum, refuse_unknown_continuum
from quantitative_metrics.catalogue import GROUPS, GROUPS_HELP, Group
from quantitative_metrics.classifier_metric import ClassifierTask
from quantitative_metrics.options import ScoringOptions
from quantitative_metrics.score_figures import write_score_report
from quantitative_metrics.score_table import format_table, scores_table, write_scores
from quantitative_metrics.scores import (
    Plan,
    Scores,
    reference_spaces,
    score_latents,
)
from util.cell_features import hand_crafted_features
from util.data_processing import Cells, CellSource, load_cells
from util.devices import pick_device, scoring_device
from util.errors import UserError
from util.latents import find_projections
from util.metadata import (
    choose_labels,
    class_name,
    match_rows,
    numbers_in,
    refuse_duplicates,
    refuse_missing_column,
    text_columns,
)
from util.runs import create_run_folder, describe_run, write_json
from util.settings import (
    notes_for_user,
    parse_options,
    refuse_out_of_range,
    run_script,
    take_fields,
)
from util.tables import counts_rows, read_table


@dataclass(frozen=True)
class Settings(ScoringOptions, CellSource):
    """What to score, and how."""

    source: tyro.conf.Positional[str] = ""
    """Table with a row per cell (CSV, Parquet or .h5ad): coordinates, and what is known of it."""
    columns: tuple[str, ...] = ()
    """Coordinate columns of one projection, or NAME=COLUMN,COLUMN,... for each of several. None
    takes what is named like UMAP_X, UMAP_Y, ... or VAE_x_coord, ..."""
    dataset: str | None = None
    """Images of the same cells, as for VAE_framework.py: a folder, .npz, .npy, or `simulated`."""
    metadata: str | None = None
    """More columns of these cells, as for VAE_framework.py."""
    features: str = "none"
    """Hand-crafted features as another space to compare with: `none`, `measure` (on the images of
    the data set), or a table with Unique_ID."""
    metrics: Annotated[tuple[Group, ...], tyro.conf.arg(help=GROUPS_HELP)] = GROUPS

    ignore: tuple[str, ...] = ()
    """Classes that the classifier leaves out."""
    merge: tuple[str, ...] = ()
    """Classes to be merged, as OLD=NEW."""
    strength_column: str | None = None
    """The classifier sees only cells with at least `strength_threshold` in this column."""
    strength_threshold: float = 0.5
    """In the units of that column."""

    progress: str | None = None
    """Column of a continuum (dose, time, DNA content) for the backbone; None takes BBBC031's."""
    branch: str | None = None
    """Column of the branches of that continuum."""
    initial: str | None = None
    """Column of the states that the branches start from."""

    seed: int = 0
    """Of samples, classifiers, critics and bootstrap."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1."""
    results: str = "results"
    """Folder of the numbered result folders."""


SETTINGS = Settings()


@dataclass(frozen=True)
class Scored:
    """Projections of some cells, and their scores.

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
        source: path of a table, or its content.
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
    refuse_out_of_range(settings, settings.OPTION_RANGES)
    name = "the table" if isinstance(source, pd.DataFrame) else str(source)
    table = source if isinstance(source, pd.DataFrame) else _read_source(name, settings.label)
    notes, table = list(table.attrs.get("notes", [])), table.copy()
    projections = find_projections(table, settings.columns, name)
    for column in dict.fromkeys(c for columns in projections.values() for c in columns):
        table[column] = numbers_in(table, column, name)
    table, cells, features, more = _join(table, name, settings)
    label, classes, label_notes = choose_labels(table, settings.label, settings.order)
    refuse_unknown_continuum(table, settings.progress, settings.branch, settings.initial)
    _refuse_unknown_classes(settings, table, classes)
    scores = score_latents(
        table,
        projections,
        reference_spaces(cells, features),
        _plan(settings, label, scoring_device(pick_device(settings.device))),
    )
    notes += more + (label_notes if label else [])
    scores = replace(scores, notes=notes_for_user(notes + scores.notes))
    return Scored(latents=table, projections=projections, cells=cells, label=label, scores=scores)


def _read_source(path: str, label: str | None) -> pd.DataFrame:
    if not path:
        raise UserError("give the table to score: performance_metrics.py my.csv")
    return read_table(Path(path), text_columns(label))


def _join(
    table: pd.DataFrame, source: str, settings: Settings
) -> tuple[pd.DataFrame, Cells | None, pd.DataFrame | None, list[str]]:
    """Table, images and cleaned features of the same cells, in one order; and notes."""
    notes: list[str] = []
    if "Unique_ID" in table:
        table["Unique_ID"] = table["Unique_ID"].astype(str)
        refuse_duplicates(table["Unique_ID"], source)
    cells = None
    if settings.dataset is not None:
        cells = load_cells(settings)
        by_row = not Path(settings.dataset).is_dir()
        table, cells, notes = _join_cells(table, cells, source, by_row=by_row)
    elif settings.metadata is not None:
        raise UserError("`metadata` goes with `dataset`; the table itself may hold any column")
    if "Unique_ID" not in table and "index" in table and not counts_rows(table["index"]):
        table.insert(0, "Unique_ID", table["index"].astype(str))  # the names that pandas wrote
    if "Unique_ID" not in table:
        if settings.features not in ("none", "measure"):
            raise UserError(f"{source} has no column Unique_ID to join {settings.features} on")
        table.insert(0, "Unique_ID", [f"row_{i + 1}" for i in range(len(table))])
    if settings.features == "measure" and cells is None:
        raise UserError("`features` measure: needs the images; give them as `dataset`")
    features, feature_notes = hand_crafted_features(
        settings.features, cells, list(table["Unique_ID"])
    )
    return table, cells, features, notes + feature_notes


def _join_cells(
    table: pd.DataFrame, cells: Cells, source: str, by_row: bool
) -> tuple[pd.DataFrame, Cells, list[str]]:
    """The rows of the table that have an image, in the table's order, and their images.

    Args:
        table, source: the rows, and what to call them.
        cells: the images.
        by_row: whether rows without ids may be taken in the order of the images.
    """
    names = cells.table["Unique_ID"]
    try:
        places, notes = match_rows(table, names, source)
    except UserError:
        if "Unique_ID" in table or not by_row:
            raise
        if len(table) != len(names):
            raise UserError(
                f"{source} has no column Unique_ID and {len(table)} rows for {len(names)} images: "
                "name the image of each row in a column Unique_ID"
            ) from None
        places = np.arange(len(table))
        notes = [f"{source} has no column Unique_ID: its rows are taken in the order of the images"]
    kept = places >= 0
    cells = cells.subset(places[kept])
    table = table[kept].reset_index(drop=True)
    if "Unique_ID" not in table:
        table.insert(0, "Unique_ID", cells.table["Unique_ID"])
    more = cells.table.columns.difference(table.columns, sort=False)
    return pd.concat([table, cells.table[more]], axis=1), cells, cells.notes + notes


def _refuse_unknown_classes(
    settings: Settings, table: pd.DataFrame, classes: Sequence[object] | None
) -> None:
    """Make sure that the classes to ignore or merge, and the strength column, exist."""
    known = {class_name(value) for value in (() if classes is None else classes)}
    asked = {
        "ignore": settings.ignore,
        "merge": [m.split("=")[0] for m in settings.merge if "=" in m],
    }
    there = f"there are {', '.join(sorted(known))}" if known else "name their column as `label`"
    for argument, names in asked.items():
        if unknown := [name for name in names if name not in known]:
            raise UserError(f"`{argument}` {unknown[0]}: no such class; {there}")
    if settings.strength_column:
        refuse_missing_column(table, "strength_column", settings.strength_column)
        numbers_in(table, settings.strength_column, "`strength_column`")


def _plan(settings: Settings, label: str | None, device: str) -> Plan:
    merge = {}
    for part in settings.merge:
        old, _, new = part.partition("=")
        if not old or not new:
            raise UserError(f"`merge` {part}: give OLD=NEW for each class")
        merge[old] = new
    task = label and ClassifierTask(
        name="accuracy",
        label_column=label,
        ignore=tuple(settings.ignore),
        strength_column=settings.strength_column,
        strength_threshold=settings.strength_threshold,
        merge=merge,
    )
    continuum = settings.progress and Continuum(
        progress=settings.progress,
        branch=settings.branch,
        initial=settings.initial,
        ignore=tuple(settings.ignore),
    )
    return take_fields(
        Plan, settings, task=task or None, continuum=continuum or None, device=device
    )


def _listed(projection: tuple[str, Sequence[str]]) -> str:
    """UMAP (2 dimensions: UMAP_X, UMAP_Y)."""
    name, columns = projection
    shown = columns if len(columns) <= 4 else [*columns[:2], "...", columns[-1]]
    return f"{name} ({len(columns)} dimensions: {', '.join(shown)})"


def main(settings: Settings) -> Path:
    """Score a table and write a folder of results; returns the folder."""
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
    names = ", ".join(map(_listed, scored.projections.items()))
    print(f"projections: {names}")
    report = write_score_report(
        folder,
        scores,
        latents,
        scored.projections,
        cells=scored.cells,
        label=scored.label,
        described=described,
        titles=(f"{folder.name}: scores of {stem}", stem),
        summary=[f"{len(latents):,} cells of {settings.source}.", f"Projections: {names}."],
        notes=scores.notes,
    )
    print(format_table(scores_table(scores.table)))
    print(f"report: {report}")
    return folder


if __name__ == "__main__":
    run_script(lambda: main(parse_options(SETTINGS)))
