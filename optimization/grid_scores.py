"""Scores of many projections: one at a time, with the reference spaces ranked only once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed, parallel_config

from quantitative_metrics.MINE_metric import (
    InformationScore,
    information_settings,
    smaller_images,
)
from quantitative_metrics.scores import COLUMNS, Plan, Scores, score_projections
from util import processes
from util.workers import end_with_parent

RANKED = "neighbours"  # the group of metrics that ranks the reference spaces


def score_each(
    codes: Mapping[str, np.ndarray],
    references: Mapping[str, np.ndarray],
    table: pd.DataFrame,
    plan: Plan,
    logvars: Mapping[str, np.ndarray] | None = None,
    workers: int = 1,
) -> Iterator[tuple[str, Scores]]:
    """Name and scores of each projection, in order, as soon as they are computed.

    The neighbourhoods of all projections are compared with those of the references at once. The
    other metrics are computed projection by projection, in `workers` processes. The numbers equal
    those of `score_projections`, except for rounding in the training of the critics of mutual
    information.

    Args:
        codes: name -> (N, d); a cell with NaN in any projection is left out of all.
        references: name -> (N, ...) reference space.
        table: N rows of what is known of the cells.
        plan: what to score.
        logvars: name -> (N, d), for projections that are posterior means of a stochastic encoder.
        workers: number of processes; they share the cores.

    Raises:
        UserError: as `score_projections`.
    """
    codes, logvars = _same_cells(codes), logvars or {}
    ranked = None
    if RANKED in plan.metrics:
        ranked = score_projections(codes, references, table, replace(plan, metrics=(RANKED,)))
    others = replace(plan, metrics=tuple(m for m in plan.metrics if m != RANKED))
    side = information_settings(**plan.of_information()).image_size
    if side is not None:  # the critics see no larger images
        references = {
            name: smaller_images(data, side) if data.ndim == 4 else data
            for name, data in references.items()
        }
    threads = max(1, torch.get_num_threads() // workers)
    shared = {"references": references, "table": table, "plan": others, "threads": threads}
    with parallel_config("loky", inner_max_num_threads=threads):
        found = Parallel(n_jobs=workers, return_as="generator")(
            delayed(_score_one)(name, values, logvars.get(name), **shared)
            for name, values in codes.items()
        )
        for name, scores in zip(codes, found, strict=True):
            parts = [subset([ranked], {name: name})] if ranked else []
            yield name, _merged([*parts, scores])


def _score_one(
    name: str,
    codes: np.ndarray,
    logvar: np.ndarray | None,
    references: Mapping[str, np.ndarray],
    table: pd.DataFrame,
    plan: Plan,
    threads: int,
) -> Scores:
    """Scores of one projection that do not depend on the others."""
    end_with_parent()
    logvars = {} if logvar is None else {name: logvar}
    with processes.threads(threads):
        return score_projections(
            projections={name: codes},
            references=references,
            table=table,
            plan=plan,
            logvars=logvars,
        )


def _same_cells(codes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The codes, with NaN in all of them for a cell that has NaN in any."""
    absent = ~np.all([np.isfinite(values).all(axis=1) for values in codes.values()], axis=0)
    if not absent.any():
        return dict(codes)
    return {name: np.where(absent[:, None], np.nan, values) for name, values in codes.items()}


def subset(found: Sequence[Scores], names: Mapping[str, str]) -> Scores:
    """The scores of some projections, under new names.

    Args:
        found: scores on the same cells.
        names: name -> new name; names that were not scored are ignored.
    """
    return _merged([_renamed(scores, names) for scores in found])


def _renamed(scores: Scores, names: Mapping[str, str]) -> Scores:
    def chosen(table: pd.DataFrame) -> pd.DataFrame:
        rows = table[table["projection"].isin(names)]
        return rows.assign(projection=rows["projection"].map(names))

    suffix = "_local_Q_score"
    local = {
        f"{new}_{reference}{suffix}": scores.local_quality[f"{name}_{reference}{suffix}"]
        for name, new in names.items()
        for reference in scores.corners
        if f"{name}_{reference}{suffix}" in scores.local_quality
    }
    return replace(
        scores,
        table=chosen(scores.table),
        axes=chosen(scores.axes),
        local_quality=pd.DataFrame(local, index=scores.local_quality.index),
        corners={
            reference: {new: corners[name] for name, new in names.items() if name in corners}
            for reference, corners in scores.corners.items()
        },
        information={
            reference: {new: found[name] for name, new in names.items() if name in found}
            for reference, found in scores.information.items()
        },
        backbones={new: scores.backbones[n] for n, new in names.items() if n in scores.backbones},
        confusion={new: scores.confusion[n] for n, new in names.items() if n in scores.confusion},
    )


def _merged(parts: Sequence[Scores]) -> Scores:
    """Join scores of different projections or of different metrics."""
    corners: dict[str, dict[str, np.ndarray]] = {}
    information: dict[str, dict[str, InformationScore]] = {}
    for part in parts:
        for merged, own in ((corners, part.corners), (information, part.information)):
            for reference, found in own.items():
                merged.setdefault(reference, {}).update(found)
    numbers = {"k": float, "value": float, "std": float}  # a column of None alone has no type
    tables = [part.table.astype(numbers) for part in parts if len(part.table)]
    axes = [part.axes for part in parts if len(part.axes)]
    return Scores(
        table=pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS),
        axes=pd.concat(axes, ignore_index=True) if axes else parts[0].axes,
        local_quality=pd.concat([part.local_quality for part in parts], axis=1),
        corners=corners,
        information=information,
        backbones={name: b for part in parts for name, b in part.backbones.items()},
        continuum=next((part.continuum for part in parts if part.continuum), None),
        confusion={name: c for part in parts for name, c in part.confusion.items()},
        order=parts[0].order,
        notes=list(dict.fromkeys(note for part in parts for note in part.notes)),
    )
