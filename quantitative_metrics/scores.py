"""All scores of any number of projections, in one long table.

Each projection is judged against the neighbourhoods of one or more reference spaces (pixels,
features), by how well a small classifier reads the classes from it, and by how closely its axes
follow the numeric columns that are known of the cells. The ranks of a reference space are computed
once for all projections.

| column | content |
| --- | --- |
| projection | name of the projection, e.g. VAE, UMAP, TSNE |
| reference | space whose neighbourhoods are to be kept, e.g. pixels, features; else empty |
| metric | trustworthiness, continuity, lcmc, their `_area`; accuracy, balanced_accuracy, ... |
| k | neighbourhood size, else empty |
| value, std | the score; its spread over repeats, or its standard error for a sample of cells |
| n_cells | cells it was computed on |
| seed | of sampling and of the classifiers |
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from quantitative_metrics.classifier_metric import (
    BBBC031_TASKS,
    ClassifierScore,
    classifier_accuracy,
    m_scores,
)
from quantitative_metrics.unsupervised_metric import CoRanking, co_ranking
from util.metadata import choose_labels, count_and_name, gradations
from util.runs import UserError

COLUMNS = ["projection", "reference", "metric", "k", "value", "std", "n_cells", "seed"]
CURVES = ("trustworthiness", "continuity", "lcmc")
EVERY_K_UP_TO = 5000  # neighbourhood sizes; of more, scores.csv holds a thousand


@dataclass(frozen=True)
class Scores:
    """What `score_projections` found.

    Attributes:
        table: the long table, columns `COLUMNS`.
        axes: Spearman correlation of each axis of each projection with each numeric column:
            projection, axis (from 1), column, spearman, n_cells.
        local_quality: N rows, a column `<projection>_<reference>_local_Q_score` each, relative to a
            perfect projection, whose mean is 1; NaN where a cell was not ranked.
        confusion: projection -> confusion matrix, rows the true class, in test cells of all
            repeats.
        notes: what was left out and why, a line each.
    """

    table: pd.DataFrame
    axes: pd.DataFrame
    local_quality: pd.DataFrame
    confusion: dict[str, pd.DataFrame] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def score_projections(
    projections: dict[str, np.ndarray],
    references: dict[str, np.ndarray],
    table: pd.DataFrame,
    label: str | None = None,
    sample: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Scores:
    """Score projections of the same cells by everything that can be said of them.

    Args:
        projections: name -> (N, d) coordinates, NaN where a cell has none: such cells are left out
            for all projections, so that all are judged on the same ones.
        references: name -> (N, D) reference spaces; may be empty.
        table: N rows with `Unique_ID` and what is known of the cells.
        label: column of the classes; None scores nothing by class.
        sample: rank only so many cells against all (`unsupervised_metric.co_ranking`).
        seed: of the sample and the classifiers.
        device: torch device of ranks and classifiers.

    Raises:
        UserError: fewer than 3 cells have coordinates in every projection.
    """
    complete = np.all([np.isfinite(codes).all(axis=1) for codes in projections.values()], axis=0)
    notes = []
    if not complete.all():
        ids = list(table["Unique_ID"][~complete])
        notes.append(count_and_name("cells have no coordinates in every projection: left out", ids))
    if complete.sum() < 3:
        raise UserError(
            f"{complete.sum()} cells have coordinates in every projection: 3 are needed"
        )
    codes = {name: np.asarray(array)[complete] for name, array in projections.items()}
    known = table[complete].reset_index(drop=True)
    rows, local = [], {}
    for reference, data in references.items():
        found = co_ranking(
            data if complete.all() else data[complete],
            codes,
            sample=sample,
            seed=seed,
            device=device,
        )
        for name, ranking in found.items():
            rows += _ranking_rows(name, reference, ranking)
            scores = np.full(len(table), np.nan)
            cells = np.flatnonzero(complete)[ranking.local_quality.cells]
            scores[cells] = ranking.local_quality.relative
            local[f"{name}_{reference}_local_Q_score"] = scores
    confusion = {}
    if label is not None:
        class_rows, confusion, class_notes = _score_classes(codes, known, label, seed, device)
        rows += class_rows
        notes += class_notes
    axes = correlate_axes(codes, known, [label] if label else [])
    rows += _best_axes(axes)
    long = pd.DataFrame(rows, columns=[c for c in COLUMNS if c != "seed"]).assign(seed=seed)
    return Scores(long, axes, pd.DataFrame(local, index=table.index), confusion, notes)


def _row(projection: str, metric: str, value: float, **more: Any) -> dict[str, Any]:
    return {
        "projection": projection,
        "reference": "",
        "metric": metric,
        "k": None,
        "value": value,
    } | more


def _ranking_rows(name: str, reference: str, ranking: CoRanking) -> list[dict[str, Any]]:
    """Curves at every stored k and areas, with standard errors where a sample was ranked."""
    common = {"reference": reference, "n_cells": ranking.n_cells}
    stored = ranking.k
    if len(stored) > EVERY_K_UP_TO:
        stored = np.unique(np.geomspace(1, len(stored), 1000).astype(int))
    rows = []
    for metric in CURVES:
        values = getattr(ranking, metric)[stored - 1]
        errors = ranking.standard_errors[metric][stored - 1]
        for k, value, error in zip(stored, values, errors, strict=True):
            std = error if ranking.sampled else None
            rows.append(_row(name, metric, value, k=int(k), std=std, **common))
    for metric, area in ranking.areas().items():
        std = ranking.area_errors[metric] if ranking.sampled else None
        rows.append(_row(name, f"{metric}_area", area, std=std, **common))
    return rows


def _score_classes(
    projections: dict[str, np.ndarray], table: pd.DataFrame, label: str, seed: int, device: str
) -> tuple[list[dict[str, Any]], dict[str, pd.DataFrame], list[str]]:
    """Accuracy of the small classifier by class, and m1 to m3 where the table is BBBC031's."""
    _, labels, _ = choose_labels(table, label)
    known = labels.notna().to_numpy()
    sizes = labels[known].value_counts()
    if len(sizes) < 2 or sizes.max() < 2:
        return (
            [],
            {},
            [f"not scored by class: {label} has no two classes, one of two cells or more"],
        )
    rows, confusion, notes = [], {}, []
    for name, codes in projections.items():
        score = classifier_accuracy(
            codes[known], labels[known].to_numpy(), seed=seed, device=device
        )
        confusion[name] = pd.DataFrame(score.confusion, score.classes, score.classes)
        rows += _class_rows(name, score)
        notes = [f"{label}: {line}" for line in score.report]
        for task, found in bbbc031_scores(codes, table, label, seed, device).items():
            std, n_cells = found.accuracy_std, found.n_cells
            rows.append(_row(name, task, found.accuracy, std=std, n_cells=n_cells))
    return rows, confusion, notes


def _class_rows(name: str, score: ClassifierScore) -> list[dict[str, Any]]:
    n_cells = score.n_cells
    rows = [
        _row(name, "accuracy", score.accuracy, std=score.accuracy_std, n_cells=n_cells),
        _row(
            name,
            "balanced_accuracy",
            score.balanced_accuracy,
            std=score.balanced_accuracy_std,
            n_cells=n_cells,
        ),
        _row(name, "knn_accuracy", score.knn_accuracy, n_cells=n_cells),
        _row(name, "logistic_accuracy", score.logistic_accuracy, n_cells=n_cells),
    ]
    return rows + [
        _row(name, f"accuracy[{found}]", value, n_cells=n_cells)
        for found, value in score.per_class.items()
    ]


def bbbc031_scores(
    codes: np.ndarray, table: pd.DataFrame, label: str, seed: int, device: str
) -> dict[str, ClassifierScore]:
    """m1, m2 and m3 of the thesis, or nothing if the table is not that of BBBC031."""
    needed = {"GT_label", "GT_dist_toInit_state", "GT_initial_state"}
    if label != "GT_label" or not needed.issubset(table.columns):
        return {}
    return m_scores(codes, table, BBBC031_TASKS, seed=seed, device=device)


def correlate_axes(
    projections: dict[str, np.ndarray], table: pd.DataFrame, leave_out: Sequence[str] = ()
) -> pd.DataFrame:
    """Spearman rank correlation of each axis with each numeric column of the table.

    The columns are those of `util.metadata.gradations`. Cells without a value in one are left out
    for it.

    Args:
        projections: name -> (N, d), finite.
        table: N rows.
        leave_out: columns that are no gradation, e.g. the class.

    Returns:
        projection, axis (from 1), column, spearman (-1..1), n_cells; a row for each combination.
    """
    rows = []
    for column in gradations(table, leave_out):
        values = table[column].to_numpy(dtype=float)
        known = np.isfinite(values)
        for name, codes in projections.items():
            for axis in range(codes.shape[1]):
                rho = spearmanr(codes[known, axis], values[known]).statistic
                rows.append((name, axis + 1, column, rho, int(known.sum())))
    return pd.DataFrame(rows, columns=["projection", "axis", "column", "spearman", "n_cells"])


def _best_axes(axes: pd.DataFrame) -> list[dict[str, Any]]:
    """For each projection and column the axis of the largest correlation, sign kept."""
    rows = []
    for (name, column), group in axes.dropna().groupby(["projection", "column"], sort=False):
        best = group.loc[group["spearman"].abs().idxmax()]
        rows.append(
            _row(name, f"spearman[{column}]", best["spearman"], n_cells=int(best["n_cells"]))
        )
    return rows
