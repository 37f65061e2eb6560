"""Scores without labels: do views, replicates, plates and seeds agree, as far as they are known?

Each part is computed where its input is there: codes of two views (`view_information`), a column of
replicates or plates (`replicate_retrieval`), projections named by their seed, as VAE_seed0 and
VAE_seed1 (`stability`).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from quantitative_metrics.replicate_retrieval import (
    mean_codes,
    profile_retrieval,
    replicate_retrieval,
)
from quantitative_metrics.stability import seed_stability
from quantitative_metrics.view_information import view_information
from util.errors import UserError

_OF_A_SEED = re.compile(r"(?P<method>.+?)[-_ ]?seed[-_ ]?\d+", re.IGNORECASE)

RETRIEVED_UP_TO = 5000  # cells: a few seconds a projection; of more, a sample looks among all

# projection, metric, value, std or None, cells
Found = tuple[str, str, float, float | None, int]


@dataclass(frozen=True)
class Views:
    """Codes of two views of cells that no model learnt from.

    Attributes:
        rows: (n,) of these cells in the table.
        codes: projection -> both codes, (n, d) each.
    """

    rows: np.ndarray
    codes: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(repr=False)


@dataclass(frozen=True)
class Design:
    """Columns of the table that say how the experiment was done; None where there is none.

    Attributes:
        replicate: of what cells share that should look alike (well, site, donor).
        plate: of the plates or batches.
        label: of the classes.
        group: of the cells that stay together in splits.
    """

    replicate: str | None = None
    plate: str | None = None
    label: str | None = None
    group: str | None = None

    def labels(self, table: pd.DataFrame, kind: str) -> pd.Series | None:
        """A column of the table by its kind, e.g. `plate`; None where there is none."""
        column = getattr(self, kind)
        return None if column is None else table[column]


def view_scores(
    views: Views | None, table: pd.DataFrame, design: Design, seed: int
) -> tuple[list[Found], list[str]]:
    """View information of each projection that has views, and notes.

    Args:
        views: of cells of the table, or None.
        table: N rows.
        design: whose groups stay together.
        seed: of the halves.
    """
    found, notes = [], []
    groups = design.labels(table, "group")
    for name, pair in (views.codes if views else {}).items():
        known = np.isfinite(np.hstack(pair)).all(axis=1)
        own = None if groups is None else groups.iloc[views.rows[known]]
        if own is not None and own.nunique(dropna=False) < 2:
            own = None
            notes.append(
                f"view information: the viewed cells are of one {design.group}, so they were "
                "halved one by one"
            )
        try:
            score = view_information(*(codes[known] for codes in pair), groups=own, seed=seed)
        except UserError as error:
            notes.append(f"view information of {name} skipped: {error}")
            continue
        found.append((name, "view_information", score.value, score.standard_error, score.n_cells))
    return found, list(dict.fromkeys(notes))


def replicate_scores(
    codes: Mapping[str, np.ndarray],
    table: pd.DataFrame,
    design: Design,
    *,
    sample: int | None,
    seed: int,
    device: str,
) -> tuple[list[Found], list[str]]:
    """Retrieval of replicates, per cell and by profile, and mixing of plates; and notes.

    Args:
        codes: projection -> (N, d).
        table: N rows.
        design: its replicates and plates.
        sample: cells to rank against all; None for all.
        seed, device: as for `replicate_retrieval`.
    """
    replicates, plates = (design.labels(table, kind) for kind in ("replicate", "plate"))
    notes = []
    if plates is not None:
        notes.append(f"the column {design.plate} names the plates: {plates.nunique()} of them")
    if replicates is None:
        notes.append(
            "replicate retrieval skipped: no replicates are known; name the column of wells, sites "
            "or donors as `replicate`"
        )
    if replicates is None and plates is None:
        return [], notes
    profiled = None
    if replicates is not None:
        try:
            profiled = _profiles(table, design)
        except UserError as error:
            notes.append(f"profiles skipped: {error}")
    if sample is not None:
        notes.append(
            f"replicates and plates: {sample:,} of {len(table):,} cells were ranked against all; "
            "std is the standard error of each score"
        )
    found: list[Found] = []
    for name, points in codes.items():
        looked = replicate_retrieval(
            points, replicates, plates, sample=sample, seed=seed, device=device
        )
        found += _retrieved(name, looked, sampled=sample is not None)
        if replicates is not None and "all" not in looked.scopes:
            notes.append(f"replicate retrieval skipped: no two cells share {design.replicate}")
        elif replicates is not None and plates is not None and "across" not in looked.scopes:
            notes.append(f"no {design.replicate} has cells on two plates: no score across plates")
        if profiled:
            found += _profile_scores(name, points, table, design, profiled, seed=seed)
    return found, list(dict.fromkeys(notes))


def _retrieved(name: str, looked, sampled: bool) -> Iterator[Found]:
    for scope, part in looked.scopes.items():
        end = "" if scope == "all" else f"_{scope}"
        for metric, value, error in (
            ("replicate_neighbours", part.share, part.share_error),
            ("replicate_precision", part.precision, part.precision_error),
        ):
            yield name, metric + end, value, error if sampled else None, part.n_cells
    if np.isfinite(looked.mixing):
        error = looked.mixing_error if sampled else None
        yield name, "plate_mixing", looked.mixing, error, looked.n_mixed


def _profiles(table: pd.DataFrame, design: Design) -> tuple[list[str], str, bool]:
    """Columns whose values make a profile, the one of what profiles look for, and whether they
    look on other plates only.

    Profiles look for their class where each has one, as wells of a treatment; else for their
    replicate on other plates.

    Raises:
        UserError: no profile has another one to find.
    """
    keys = [column for column in (design.replicate, design.plate) if column is not None]
    known, sought = table[keys].dropna().drop_duplicates(), design.replicate
    if design.label not in (None, *keys):
        classes = table[[*keys, design.label]].dropna().drop_duplicates()
        if len(classes) == len(classes[keys].drop_duplicates()):
            known, sought = classes, design.label
    if design.plate is not None and (known.groupby(sought)[design.plate].nunique() > 1).any():
        return list(known), sought, True
    if known[sought].value_counts().max() < 2:
        raise UserError(
            f"each {design.replicate} has one profile and nothing to find; name the treatment of "
            "the wells as `label`, or add a column `plate`"
        )
    return list(known), sought, False


def _profile_scores(
    name: str,
    codes: np.ndarray,
    table: pd.DataFrame,
    design: Design,
    profiled: tuple[list[str], str, bool],
    seed: int,
) -> Iterator[Found]:
    columns, sought, across = profiled
    profiles, labels = mean_codes(codes, table[columns])
    plates = labels[design.plate] if across else None
    score = profile_retrieval(profiles, labels[sought], plates, seed=seed)
    yield name, "profile_precision", score.precision, None, score.n_profiles
    yield name, "profile_retrieved", score.retrieved, None, score.n_profiles


def seed_scores(codes: Mapping[str, np.ndarray], seed: int) -> list[Found]:
    """Agreement of each projection with those of the same method from other seeds.

    Args:
        codes: projection -> (N, d); those named alike up to their seed are compared.
        seed: of the order of ties.
    """
    methods: dict[str, list[str]] = {}
    for name in codes:
        if match := _OF_A_SEED.fullmatch(name):
            methods.setdefault(match["method"], []).append(name)
    found = []
    for names in methods.values():
        if len(names) < 2:
            continue
        stability = seed_stability([codes[name] for name in names], seed=seed)
        for i, name in enumerate(names):
            for metric, estimate in zip(
                ("seed_overlap", "seed_distance"), stability.of(i), strict=True
            ):
                found.append((name, metric, *estimate, len(codes[name])))
    return found
