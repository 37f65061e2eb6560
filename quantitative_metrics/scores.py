"""All scores of any number of projections, in one long table.

Each projection is judged against the neighbourhoods of one or more reference spaces (pixels,
features) and by the information it shares with them, by how well a small classifier reads the
classes from it, by how well it keeps the order of a known continuum, by how closely its axes follow
the numeric columns of the table, and by how well views, replicates and seeds agree. The ranks of a
reference space are computed once for all projections.

| column | content |
| --- | --- |
| projection | name of the projection, e.g. VAE, UMAP, TSNE |
| reference | space whose neighbourhoods are to be kept, e.g. pixels, features; else empty |
| metric | trustworthiness, mutual_information, accuracy, backbone_spearman, ... |
| k | neighbourhood size, else empty |
| value, std | the score; its spread over repeats, or its standard error for a sample of cells |
| n_cells | cells it was computed on |
| seed | of sampling, classifiers, critics and bootstrap |
"""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from quantitative_metrics.agreement import (
    RETRIEVED_UP_TO,
    Design,
    Found,
    Views,
    replicate_scores,
    seed_scores,
    view_scores,
)
from quantitative_metrics.axis_metric import best_axes, correlate_axes
from quantitative_metrics.backbone_metric import (
    BBBC031_CONTINUUM,
    BackboneScore,
    Continuum,
    backbone_scores,
)
from quantitative_metrics.catalogue import CATALOGUE, GROUPS, Score, Subject
from quantitative_metrics.classifier_metric import (
    BBBC031_TASKS,
    ClassifierScore,
    ClassifierTask,
    accuracy_across_plates,
    m_scores,
)
from quantitative_metrics.MINE_metric import (
    InformationScore,
    information_settings,
    mutual_information_of,
)
from quantitative_metrics.options import ScoringOptions
from quantitative_metrics.unsupervised_metric import CoRanking, co_ranking
from util.data_processing import Cells
from util.errors import UserError, is_out_of_memory
from util.latents import known_of, logvars_of
from util.metadata import (
    count_and_name,
    ordered_classes,
    plate_column,
    refuse_missing_column,
)
from util.settings import refuse_out_of_range
from util.splitting import splitting_note
from util.style import Roles

COLUMNS = ["projection", "reference", "metric", "k", "value", "std", "n_cells", "seed"]
EVERY_K_UP_TO = 5000  # neighbourhood sizes; of more, scores.csv holds a thousand
SPLITTING = {"information", "classifier", "backbone"}  # groups that split or resample the cells
ROWS_COMPARED = 512  # at a time, to see whether any cells differ


@dataclass(frozen=True)
class Plan(ScoringOptions):
    """What to score, and how.

    metrics: groups of scores; see `METRICS`.
    task: the classes; None scores nothing by class. m1, m2 and m3 are added where the table has
        BBBC031's columns and its GT_label is the class.
    continuum: what is known of the order of the cells; None takes BBBC031's where its columns are.
    order: classes in the order of tables and figures; the others follow in natural order.
    """

    metrics: tuple[str, ...] = GROUPS
    task: ClassifierTask | None = None
    continuum: Continuum | None = None
    order: tuple[str, ...] = ()
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self):
        odd = [name for name in self.metrics if name not in GROUPS]
        if odd:
            raise UserError(f"`metrics` {odd[0]}: choose from {', '.join(GROUPS)}")
        refuse_out_of_range(self, self.OPTION_RANGES)
        information_settings(**self.of_information())

    def sample_of(self, n_cells: int) -> int | None:
        """How many cells to rank; None for all."""
        return self.ranked_sample if n_cells > self.rank_all_up_to else None

    def design(self, table: pd.DataFrame) -> Design:
        """How the experiment was done, by the columns of this table."""
        plate = plate_column(table)
        return Design(
            replicate=self.replicate,
            plate=None if plate == self.replicate else plate,
            label=self.task and self.task.label_column,
            group=self.group,
        )


@dataclass(frozen=True)
class Scores:
    """What `score_projections` found.

    table: the long table, columns `COLUMNS`.
    axes: Spearman correlation of each axis of each projection with each numeric column: projection,
        axis (from 1), column, spearman, n_cells.
    local_quality: N rows, a column `<projection>_<reference>_local_Q_score` each, relative to a
        perfect projection, whose mean is 1; NaN where a cell was not ranked.
    corners: reference -> projection -> (c, c) co-ranking matrix of the first ranks.
    information: reference -> projection -> mutual information, with the curves of its training.
    backbones: projection -> backbone, its arrays in the N rows of the table.
    continuum: of the backbones; None without.
    confusion: projection -> confusion matrix, rows the true class, in test cells of all repeats.
    order: of the classes, as in the plan.
    notes: what was left out and why, a line each.
    """

    table: pd.DataFrame
    axes: pd.DataFrame
    local_quality: pd.DataFrame
    corners: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    information: dict[str, dict[str, InformationScore]] = field(default_factory=dict)
    backbones: dict[str, BackboneScore] = field(default_factory=dict)
    continuum: Continuum | None = None
    confusion: dict[str, pd.DataFrame] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    def roles(self, label: str | None) -> Roles:
        """What the columns mean to figures of these scores, whose classes are in column `label`."""
        return Roles(label, self.continuum and self.continuum.progress, self.order)


def reference_spaces(cells: Cells | None, features: pd.DataFrame | None) -> dict[str, np.ndarray]:
    """Name -> (N, ...) space whose neighbourhoods a projection should keep: pixels and features.

    Args:
        cells: N images, or None.
        features: (N, F) hand-crafted features, cleaned, or None.
    """
    spaces = {} if cells is None else {"pixels": cells.reference_space()}
    return spaces if features is None else spaces | {"features": features.to_numpy()}


def score_latents(
    latents: pd.DataFrame,
    projections: Mapping[str, Sequence[str]],
    references: Mapping[str, np.ndarray],
    plan: Plan,
    known: pd.DataFrame | None = None,
    views: Views | None = None,
) -> Scores:
    """Score projections that are columns of a table; their log-variances are taken from it too.

    Args:
        latents: N rows with the coordinates.
        projections: name -> coordinate columns.
        references: as in `score_projections`.
        plan: which scores, and their parameters.
        known: N rows of what is known of the cells; None takes the other columns of `latents`.
        views: codes of two views of some cells.

    Raises:
        UserError: as `score_projections`.
    """
    return score_projections(
        projections={
            name: latents[list(columns)].to_numpy(float) for name, columns in projections.items()
        },
        references=references,
        table=known_of(latents, projections) if known is None else known,
        plan=plan,
        logvars=logvars_of(latents, projections),
        views=views,
    )


def score_projections(
    projections: Mapping[str, np.ndarray],
    references: Mapping[str, np.ndarray],
    table: pd.DataFrame,
    plan: Plan = Plan(),  # noqa: B008  frozen
    logvars: Mapping[str, np.ndarray] | None = None,
    views: Views | None = None,
) -> Scores:
    """Score projections of the same cells by all groups of the plan.

    Args:
        projections: name -> (N, d) coordinates, NaN where a cell has none: such cells are left out
            for all projections, so that all are judged on the same ones.
        references: name -> (N, D) features or (N, C, H, W) images, uint8 or float in 0..1; NaN as
            above; may be empty.
        table: N rows with `Unique_ID` and what is known of the cells.
        plan: which scores, and their parameters.
        logvars: name -> (N, d) log-variances, for projections that are the means of a stochastic
            encoder.
        views: codes of two views of some cells of the table, none of which a model learnt from.

    Raises:
        UserError: fewer than 3 cells have coordinates in every projection, or a column of the plan
            is missing.
    """
    _refuse_missing_columns(plan, table)
    complete, notes = _complete(projections, references, table)
    codes = {name: np.asarray(array)[complete] for name, array in projections.items()}
    known = table[complete].reset_index(drop=True)
    spaces = {n: data if complete.all() else data[complete] for n, data in references.items()}
    posteriors = {name: np.asarray(array)[complete] for name, array in (logvars or {}).items()}

    scoring = _Scoring(
        codes=codes,
        references=spaces,
        table=known,
        logvars=posteriors,
        plan=plan,
        places=np.flatnonzero(complete),
        n_all=len(table),
        viewed=view_scores(views, table, plan.design(table), plan.seed),
    )
    for group in GROUPS:
        if group in plan.metrics:
            scoring.score(group)
    if SPLITTING.intersection(plan.metrics):
        scoring.notes.append(splitting_note(table, plan.group))
    return scoring.scores(table.index, notes)


def _refuse_missing_columns(plan: Plan, table: pd.DataFrame) -> None:
    """Make sure that a misspelt column shows before the hours of scoring, not after."""
    known = plan.continuum or Continuum("")
    asked = {"progress": known.progress, "branch": known.branch, "initial": known.initial}
    asked["strength_column"] = plan.task and plan.task.strength_column
    asked |= {"replicate": plan.replicate, "group": plan.group}
    for argument, column in asked.items():
        if column:
            refuse_missing_column(table, argument, column)


def _complete(
    projections: Mapping[str, np.ndarray], references: Mapping[str, np.ndarray], table: pd.DataFrame
) -> tuple[np.ndarray, list[str]]:
    """(N,) cells that have a finite place in every space, and notes on the others."""
    complete, notes = np.ones(len(table), bool), []
    for what, spaces in (("coordinates", projections), ("place", references)):
        for name, space in spaces.items():
            if space.dtype.kind != "f":
                continue
            lost = ~np.isfinite(space).all(axis=tuple(range(1, space.ndim)))
            if lost.any():
                ids = list(table["Unique_ID"][lost])
                notes.append(count_and_name(f"cells have no {what} in {name}: left out", ids))
            complete &= ~lost
    if complete.sum() < 3:
        raise UserError(
            f"{complete.sum()} cells have coordinates in every projection: 3 are needed"
        )
    return complete, notes


class _Scoring:
    """The cells that have all coordinates, and their scores so far."""

    def __init__(
        self,
        codes: dict[str, np.ndarray],
        references: dict[str, np.ndarray],
        table: pd.DataFrame,
        logvars: dict[str, np.ndarray],
        plan: Plan,
        places: np.ndarray,
        n_all: int,
        viewed: tuple[list[Found], list[str]],
    ):
        self.codes, self.references, self.table = codes, references, table
        self.logvars, self.plan = logvars, plan
        self.places, self.n_all = places, n_all  # rows of the full table
        self.viewed, self.design = viewed, plan.design(table)
        self.groups = self.design.labels(table, "group")
        self.rows: list[dict[str, Any]] = []
        self.axes = correlate_axes({}, table)
        self.local: dict[str, np.ndarray] = {}
        self.corners: dict[str, dict[str, np.ndarray]] = {}
        self.information: dict[str, dict[str, InformationScore]] = {}
        self.backbones: dict[str, BackboneScore] = {}
        self.continuum = plan.continuum
        if plan.continuum is None and has_continuum(table):
            self.continuum = BBBC031_CONTINUUM
        self.confusion: dict[str, pd.DataFrame] = {}
        self.notes: list[str] = []

    def scores(self, index: pd.Index, notes: list[str]) -> Scores:
        """What has been found, in the rows of the full table, behind the notes so far."""
        columns = [column for column in COLUMNS if column != "seed"]
        return Scores(
            table=pd.DataFrame(self.rows, columns=columns).assign(seed=self.plan.seed),
            axes=self.axes,
            local_quality=pd.DataFrame(self.local, index=index),
            corners=self.corners,
            information=self.information,
            backbones=self.backbones,
            continuum=self.continuum,
            confusion=self.confusion,
            order=self.plan.order,
            notes=notes + list(dict.fromkeys(self.notes)),
        )

    def score(self, group: str) -> None:
        """Compute a group of scores, on the CPU where the device has no memory for it."""
        known = len(self.rows)
        try:
            self._score_group(group)
            return
        except Exception as error:
            of_device = is_out_of_memory(error) and not isinstance(error, MemoryError)
            if not of_device or self.plan.device == "cpu":
                raise
        # Behind the `except`, or the error would keep what filled the memory.
        del self.rows[known:]
        device, self.plan = self.plan.device, replace(self.plan, device="cpu")
        note = f"{group}: out of memory on {device}, scored on the CPU"
        print(note, flush=True)
        self.notes.append(note)
        gc.collect()
        torch.cuda.empty_cache()
        self._score_group(group)
        self.plan = replace(self.plan, device=device)

    def _score_group(self, group: str) -> None:
        """The scores that are computed together, then each that its row says how to compute."""
        getattr(self, f"score_{group}")()
        for score in CATALOGUE:
            if score.group == group and score.compute is not None:
                self._try(score.name, partial(self._add_computed, score))

    def _add_computed(self, score: Score) -> None:
        for name, codes in self.codes.items():
            subject = Subject(codes, self.table, self.logvars.get(name), self.plan.seed)
            found = score.compute(subject)
            if found is not None:
                value, std = found if isinstance(found, tuple) else (found, None)
                self._add(name, score.name, value, std=std, n_cells=len(codes))

    def score_neighbours(self) -> None:
        """Trustworthiness, continuity and LCMC at every k, local quality, per reference space."""
        references, codes = self._comparable("neighbours")
        sample = self.plan.sample_of(len(self.table))
        if sample is not None and references:
            self.notes.append(
                f"neighbours: {sample:,} of {len(self.table):,} cells were ranked against all, "
                f"since exact ranks of more than {self.plan.rank_all_up_to:,} take minutes; std is "
                "the standard error of each score"
            )
        for reference, data in references.items():
            found = co_ranking(
                data,
                codes,
                sample=sample,
                seed=self.plan.seed,
                kt=self.plan.kt,
                ks=self.plan.ks,
                device=self.plan.device,
            )
            self.corners[reference] = {name: ranking.corner for name, ranking in found.items()}
            for name, ranking in found.items():
                self.rows += _ranking_rows(name, reference, ranking)
                self._note_ties(name, ranking)
                quality = ranking.local_quality
                self.local[f"{name}_{reference}_local_Q_score"] = self._in_full_table(
                    quality.relative, quality.cells
                )

    def _note_ties(self, name: str, ranking: CoRanking) -> None:
        if ranking.n_tied:
            self.notes.append(
                f"{name}: {ranking.n_tied:,} of {ranking.n_cells:,} cells share their code with "
                "another cell; which of them is nearer is drawn at random, by the seed"
            )

    def score_information(self) -> None:
        """Mutual information with each reference space."""
        references, codes = self._comparable("information")
        for name, data in references.items():
            self._try("information", partial(self._add_information, name, data, codes))

    def _comparable(self, group: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The reference spaces and projections in which cells differ; the others are noted.

        Where all cells are alike, every order of the neighbours is as good as any other, and a
        score would only tell the order of the rows.
        """
        if not self.references:
            self.notes.append(
                f"{group} skipped: no images (`dataset`) and no features (`features`) to compare "
                "with"
            )
        varied = []
        for spaces in (self.references, self.codes):
            flat = [name for name, space in spaces.items() if not has_variation(space)]
            self.notes += [f"{group} skipped for {name}: all cells are alike" for name in flat]
            varied.append({name: space for name, space in spaces.items() if name not in flat})
        references, codes = varied
        return (references if codes else {}), codes

    def _add_information(
        self, reference: str, data: np.ndarray, codes: dict[str, np.ndarray]
    ) -> None:
        plan = self.plan
        found = mutual_information_of(
            data,
            codes,
            seed=plan.seed,
            device=plan.device,
            context=f"{{}}, {reference}: ",
            groups=self.groups,
            **plan.of_information(),
        )
        self.information[reference] = found
        for name, score in found.items():
            self._add(name, "mutual_information", score.value, reference=reference,
                      std=score.spread, n_cells=score.n_pairs)  # fmt: skip
            self.notes += score.report

    def score_classifier(self) -> None:
        """Accuracy of the small classifier by class, and m1 to m3 where the table is BBBC031's."""
        task = self.plan.task
        if task is None:
            self.notes.append("classifier skipped: no class column; name one as `label`")
            return
        tasks = (task, *(BBBC031_TASKS if _is_bbbc031(self.table, task.label_column) else ()))
        for each in tasks:
            self._try(
                "classifier" if each is task else each.name, lambda t=each: self._add_classes(t)
            )

        if self.design.plate is not None:
            self._try("accuracy across plates", self._add_accuracy_across_plates)

    def _add_accuracy_across_plates(self) -> None:
        labels, plates = (self.design.labels(self.table, kind) for kind in ("label", "plate"))
        for name, codes in self.codes.items():
            value, std, n_cells, report = accuracy_across_plates(codes, labels, plates)
            self._add(name, "accuracy_across_plates", value, std=std, n_cells=n_cells)
            self.notes += report

    def _add_classes(self, task: ClassifierTask) -> None:
        plan = self.plan
        for name, codes in self.codes.items():
            score = m_scores(
                codes,
                self.table,
                (task,),
                groups=self.groups,
                mode=plan.classifier_mode,
                repeats=plan.classifier_repeats,
                class_weights=plan.class_weights,
                seed=plan.seed,
                device=plan.device,
            )[task.name]
            self.notes += score.report
            if task is not self.plan.task:
                self._add(name, task.name, score.accuracy, std=score.accuracy_std,
                          n_cells=score.n_cells)  # fmt: skip
                continue
            score = _in_order(score, plan.order)
            self.rows += _class_rows(name, score)
            self.confusion[name] = pd.DataFrame(score.confusion, score.classes, score.classes)

    def score_backbone(self) -> None:
        """Rank correlation along the backbone of the continuum."""
        if self.continuum is None:
            self.notes.append(
                "backbone skipped: no continuum is known; name its column as `progress`"
            )
            return
        for name, codes in self.codes.items():
            found = backbone_scores(
                codes, self.table, self.continuum, seed=self.plan.seed, groups=self.groups
            )
            self._add_backbone(name, found)
            self.notes += found.report
            everyone = np.arange(len(codes))
            self.backbones[name] = replace(
                found,
                latent_distance=self._in_full_table(found.latent_distance, everyone),
                progress=self._in_full_table(found.progress, everyone),
                branch=self._in_full_table(found.branch, everyone, ""),
            )

    def _add_backbone(self, name: str, found: BackboneScore) -> None:
        branches = ordered_classes(found.branches, self.plan.order)
        parts = [("", found), *((f"[{name}]", found.branches[name]) for name in branches)]
        for coefficient in ("spearman", "kendall"):
            for suffix, part in parts:
                estimate = getattr(part, coefficient)
                metric = f"backbone_{coefficient}{suffix}"
                self._add(name, metric, estimate.value, std=estimate.std, n_cells=part.n_cells)
                for end in ("low", "high") if not suffix else ():
                    self._add(name, f"{metric}_{end}", getattr(estimate, end), n_cells=part.n_cells)

    def score_axes(self) -> None:
        """Spearman correlation of the axes with the numeric columns of the table."""
        label = self.plan.task.label_column if self.plan.task else None
        self.axes = correlate_axes(self.codes, self.table, [label] if label else [])
        for name, column, rho, n_cells in best_axes(self.axes):
            self._add(name, f"spearman[{column}]", rho, n_cells=n_cells)

    def score_agreement(self) -> None:
        """What needs no labels: agreement of views, replicates, plates and seeds."""
        plan, (found, notes) = self.plan, self.viewed
        exact = len(self.table) <= min(plan.rank_all_up_to, RETRIEVED_UP_TO)
        found = found + seed_scores(self.codes, plan.seed)
        more, more_notes = replicate_scores(
            self.codes,
            self.table,
            self.design,
            sample=None if exact else plan.ranked_sample,
            seed=plan.seed,
            device=plan.device,
        )
        self.notes += notes + more_notes
        for name, metric, value, std, n_cells in found + more:
            self._add(name, metric, value, std=std, n_cells=n_cells)

    def _add(self, projection: str, metric: str, value: float, **more: Any) -> None:
        self.rows.append(_row(projection, metric, value, **more))

    def _in_full_table(
        self, values: np.ndarray, cells: np.ndarray, absent: object = np.nan
    ) -> np.ndarray:
        """(N,) values of some of the scored cells in the rows of the full table."""
        full = np.full(self.n_all, absent, dtype=values.dtype)
        full[self.places[cells]] = values
        return full

    def _try(self, what: str, score: Callable[[], None]) -> None:
        """Compute a score; where the cells do not allow it, note why and go on."""
        try:
            score()
        except UserError as error:
            self.notes.append(f"{what} skipped: {error}")


def _in_order(score: ClassifierScore, order: Sequence[str]) -> ClassifierScore:
    """The score with its classes in the order in which they are shown."""
    names = ordered_classes(score.classes, order)
    places = [score.classes.index(name) for name in names]
    return replace(
        score,
        classes=tuple(names),
        per_class={name: score.per_class[name] for name in names},
        confusion=score.confusion[np.ix_(places, places)],
    )


def has_variation(space: np.ndarray) -> bool:
    """Whether any two rows of (N, ...) differ; stops at the first block of rows that do."""
    blocks = range(1, len(space), ROWS_COMPARED)
    return any((space[i : i + ROWS_COMPARED] != space[0]).any() for i in blocks)


def has_continuum(table: pd.DataFrame) -> bool:
    """Whether the table has the columns of BBBC031's continuum."""
    known = BBBC031_CONTINUUM
    needed = {known.progress, known.branch, known.initial, known.centre_column}
    return needed.issubset(table.columns)


def _is_bbbc031(table: pd.DataFrame, label: str) -> bool:
    needed = {"GT_dist_toInit_state", "GT_initial_state"}
    return label == "GT_label" and needed.issubset(table.columns)


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
    for metric in (score.name for score in CATALOGUE if score.curve):
        values = getattr(ranking, metric)[stored - 1]
        errors = ranking.standard_errors[metric][stored - 1]
        for k, value, error in zip(stored, values, errors, strict=True):
            std = error if ranking.sampled else None
            rows.append(_row(name, metric, value, k=int(k), std=std, **common))
    for metric, area in ranking.areas().items():
        std = ranking.area_errors[metric] if ranking.sampled else None
        rows.append(_row(name, f"{metric}_area", area, std=std, **common))
    return rows


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
