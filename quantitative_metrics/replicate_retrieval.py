"""Replicate retrieval: do cells of the same well, site or donor find each other in a projection?

What replicates share is biology, or the place on the plate, or the batch. So each score comes over
all cells, among the cells of one plate (`within`), and among those of other plates (`across`), and
the mixing of the plates stands beside it. Two scores:

    share of neighbours     of the k nearest cells, how many are replicates
    average precision       of a cell's whole ranking of the others: the mean, over its replicates,
                            of the share of replicates up to there (mean average precision, mAP)

The second also on profiles, the mean codes of replicates, with p-values against random rankings
(Kalinin et al. 2025, "A versatile information retrieval framework for evaluating profile strength
and similarity", Nature Communications; copairs). Distances are Euclidean. Cells at equal distances
are ranked in a random order, so that a constant code scores as chance does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from quantitative_metrics.unsupervised_metric import neighbour_orders
from util.errors import UserError
from util.latents import finite_matrix

NEIGHBOURS = 15
DRAWS = 5000  # random rankings behind a p-value, which is at least 1 / 5001
SIGNIFICANT = 0.05  # expected share of false ones among the classes called retrieved
SCOPES = ("all", "within", "across")
_DRAWN_AT_ONCE = 2**22


@dataclass(frozen=True)
class Retrieval:
    """How well cells find their replicates among some of the others; 0..1, higher is better.

    share: of the min(k, replicates) nearest cells, those that are replicates; mean over the cells.
    precision: mean average precision.
    share_error, precision_error: standard errors from ranking a sample of cells; 0 where all were
        ranked.
    chance_share, chance_precision: what a random order of the cells gives on average.
    n_cells: cells ranked that have a replicate to find.
    """

    share: float
    precision: float
    share_error: float
    precision_error: float
    chance_share: float
    chance_precision: float
    n_cells: int


@dataclass(frozen=True)
class ReplicateRetrieval:
    """What `replicate_retrieval` found.

    scopes: `all`, and where there are plates `within` and `across` -> retrieval; without those
        in which no cell has a replicate.
    mixing, mixing_error: share of the k nearest cells from other plates, divided by that of a
        random order: 0 where plates lie apart, 1 where they are mixed as by chance; and its
        standard error. NaN without plates.
    n_mixed: cells that the mixing was looked at for.
    """

    scopes: dict[str, Retrieval]
    mixing: float
    mixing_error: float
    n_mixed: int


def replicate_retrieval(
    codes: np.ndarray,
    replicates: Sequence | None,
    plates: Sequence | None = None,
    *,
    k: int = NEIGHBOURS,
    sample: int | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> ReplicateRetrieval:
    """Rank all cells around each cell, and look where its replicates and other plates come.

    Args:
        codes: (N, d), finite.
        replicates: N labels; cells without one are ranked, but look for nothing. None for the
            mixing of the plates alone.
        plates: N labels; cells without one are left out of `within`, `across` and the mixing. None
            without plates, or where all are of one.
        k: number of neighbours, at least 1.
        sample: rank only this many cells, drawn at random, against all N; None ranks all.
        seed: of the sample and of the order of ties.
        device: torch device with float64.

    Raises:
        UserError: fewer than 3 cells, NaN, lengths that differ, or a bad k or sample.

    Examples:
        >>> codes = np.repeat([[0.0], [9.0]], 20, axis=0) + np.arange(40)[:, None] / 99
        >>> found = replicate_retrieval(codes, ["A1"] * 20 + ["A2"] * 20)
        >>> found.scopes["all"].share, found.scopes["all"].precision
        (1.0, 1.0)
    """
    codes = finite_matrix(codes, "codes")
    n_cells = len(codes)
    if n_cells < 3 or k < 1:
        raise UserError(f"replicates of {n_cells} cells with k = {k}: 3 cells and k = 1 are needed")
    order = np.random.default_rng(seed).permutation(n_cells)  # ties go by it
    same_kind, plate = (_numbers(labels, n_cells)[order] for labels in (replicates, plates))
    found: dict[str, list[np.ndarray]] = {}
    for rows, others in neighbour_orders(codes[order], sample=sample, seed=seed, device=device):
        partners = (same_kind[others] == same_kind[rows, None]) & (same_kind[rows, None] >= 0)
        for name, allowed in _scopes(plate, rows, others):
            found.setdefault(name, []).append(_look(partners, allowed, k))
        if plate.max() > 0:
            both = (plate[others] >= 0) & (plate[rows, None] >= 0)
            apart = both & (plate[others] != plate[rows, None])
            found.setdefault("mixing", []).append(_mixing(apart, both, k))
    looked = {name: np.concatenate(parts, axis=1) for name, parts in found.items()}
    mixing = _ratio(looked.pop("mixing", np.empty((2, 0))), n_cells)
    scopes = {name: _retrieval(values, n_cells) for name, values in looked.items()}
    return ReplicateRetrieval({name: s for name, s in scopes.items() if s.n_cells}, *mixing)


def _numbers(labels: Sequence | None, n_cells: int) -> np.ndarray:
    """(N,) number of each label, -1 where it is missing, and throughout where there are none."""
    if labels is None:
        return np.full(n_cells, -1)
    if len(labels) != n_cells:
        raise UserError(f"{len(labels)} labels for {n_cells} codes: they must match")
    return pd.factorize(pd.Series(labels, dtype=object).to_numpy())[0]


def _scopes(
    plate: np.ndarray, rows: np.ndarray, others: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and (B, N - 1) bool of the cells to look among."""
    yield "all", np.ones(others.shape, bool)
    if plate.max() > 0:
        known = (plate[others] >= 0) & (plate[rows, None] >= 0)
        same = plate[others] == plate[rows, None]
        yield "within", known & same
        yield "across", known & ~same


def _look(partners: np.ndarray, allowed: np.ndarray, k: int) -> np.ndarray:
    """(5, B) share, precision, their expectations, and whether there is anything to find."""
    partners = partners & allowed
    rank, hits = allowed.cumsum(1, dtype=np.int32), partners.cumsum(1, dtype=np.int32)
    n_ranked, n_partners = rank[:, -1], hits[:, -1]
    nearest = np.minimum(k, n_partners)
    with np.errstate(divide="ignore", invalid="ignore"):  # of cells that have nothing to find
        share = (partners & (rank <= nearest[:, None])).sum(1) / nearest
        precision = np.where(partners, hits / rank, 0).sum(1) / n_partners
        chance = n_partners / n_ranked
    expected = expected_precision(n_partners, n_ranked)
    return np.stack([share, precision, chance, expected, n_partners > 0])


def _mixing(apart: np.ndarray, known: np.ndarray, k: int) -> np.ndarray:
    """(2, B) share of the k nearest cells that are of other plates, and of all cells."""
    near = known & (known.cumsum(1, dtype=np.int32) <= k)
    with np.errstate(divide="ignore", invalid="ignore"):  # of a cell without a plate
        shares = [(apart & near).sum(1) / near.sum(1), apart.sum(1) / known.sum(1)]
    return np.stack(shares)


def _retrieval(values: np.ndarray, n_cells: int) -> Retrieval:
    """Means over the cells that have something to find, of (5, M) values of `_look`."""
    kept = values[:4, values[4] > 0]
    if not kept.size:
        return Retrieval(*[float("nan")] * 6, n_cells=0)
    errors = [_standard_error(row, values.shape[1], n_cells) for row in kept[:2]]
    share, precision, chance, expected = kept.mean(axis=1).tolist()
    return Retrieval(share, precision, *errors, chance, expected, n_cells=kept.shape[1])


def _ratio(values: np.ndarray, n_cells: int) -> tuple[float, float, int]:
    """Mean of the first row by that of the second, its standard error, and of how many cells."""
    kept = values[:, np.isfinite(values).all(axis=0)]
    if not kept.size or not kept[1].any():
        return float("nan"), float("nan"), 0
    expected = kept[1].mean()
    error = _standard_error(kept[0], values.shape[1], n_cells)
    return float(kept[0].mean() / expected), error / float(expected), kept.shape[1]


def _standard_error(values: np.ndarray, n_ranked: int, n_cells: int) -> float:
    """Of a mean over cells drawn without replacement; 0 where all were ranked."""
    left_out = 1 - n_ranked / n_cells
    return float(np.sqrt(values.var(ddof=1) / len(values) * left_out)) if len(values) > 1 else 0.0


def expected_precision(partners: np.ndarray, ranked: np.ndarray) -> np.ndarray:
    """Average precision of a random order: `partners` of them among `ranked` cells, both (N,).

    With m of n, (m - 1) / (n - 1) (1 - H / n) + H / n, where H is the sum of 1 / i up to n
    (Bestgen 2015, "Exact expected average precision of the random baseline").
    """
    m, n = np.maximum(partners, 1), np.maximum(ranked, 1)
    harmonic = np.cumsum(1 / np.arange(1, n.max(initial=1) + 1))[n - 1]
    return (m - 1) / np.maximum(n - 1, 1) * (1 - harmonic / n) + harmonic / n


@dataclass(frozen=True)
class ProfileRetrieval:
    """How well profiles find those of the same class; 0..1, higher is better.

    precision: mean average precision over the profiles.
    chance: what a random order gives on average.
    retrieved: share of the classes whose p-value, corrected for their number (Benjamini and
        Hochberg 1995), is below 0.05.
    classes: class, precision, p_value, corrected_p_value, n_profiles; a row per class.
    n_profiles: profiles that have another one to find.
    """

    precision: float
    chance: float
    retrieved: float
    classes: pd.DataFrame = field(repr=False)
    n_profiles: int


def profile_retrieval(
    profiles: np.ndarray, classes: Sequence, plates: Sequence | None = None, *, seed: int = 0
) -> ProfileRetrieval:
    """Mean average precision of profiles, with a p-value for each class.

    A profile looks for those of its class among all others, or, where plates are given, among those
    of other plates. The p-value of a class is the share of random rankings with at least
    its precision. As in copairs, one random ranking stands for all profiles of the class that have
    as many to find: they rank each other, so they are no independent evidence.

    Args:
        profiles: (P, d), e.g. of `mean_codes`.
        classes: P labels.
        plates: P labels, or None.
        seed: of the random rankings and of the order of ties.

    Raises:
        UserError: fewer than 3 profiles, NaN, lengths that differ, or no profile has another one of
            its class to find.
    """
    profiles = finite_matrix(profiles, "profiles")
    if len(profiles) < 3:
        raise UserError(f"{len(profiles)} profiles: at least 3 are needed")
    order = np.random.default_rng(seed).permutation(len(profiles))
    kind, plate = (_numbers(labels, len(profiles))[order] for labels in (classes, plates))
    scope = "all" if plates is None else "across"
    parts, configurations = [], []
    for rows, others in neighbour_orders(profiles[order]):
        partners = (kind[others] == kind[rows, None]) & (kind[rows, None] >= 0)
        allowed = dict(_scopes(plate, rows, others)).get(scope, np.zeros(others.shape, bool))
        parts.append(np.vstack([_look(partners, allowed, 1), kind[rows]]))
        configurations.append([(partners & allowed).sum(1), allowed.sum(1)])
    looked, counts = np.hstack(parts), np.hstack(configurations)  # (6, P), (2, P)
    kept = looked[4] > 0
    if not kept.any():
        raise UserError("no profile has another one of its class to find")
    _, precision, _, expected, _, number = looked[:, kept]
    names = pd.Series(classes, dtype=object).dropna().unique()
    table = _by_class(precision, names[number.astype(int)], counts[:, kept].T, seed)
    return ProfileRetrieval(
        precision=float(precision.mean()),
        chance=float(expected.mean()),
        retrieved=float((table["corrected_p_value"] < SIGNIFICANT).mean()),
        classes=table,
        n_profiles=len(precision),
    )


def _by_class(
    precision: np.ndarray, names: np.ndarray, counts: np.ndarray, seed: int
) -> pd.DataFrame:
    """The table of `ProfileRetrieval`, from the P precisions and (P, 2) partners and ranked."""
    from scipy.stats import false_discovery_control

    settings, which = np.unique(counts, axis=0, return_inverse=True)
    rng = np.random.default_rng([seed, 1])
    random = np.stack([_random_precisions(int(m), int(n), rng) for m, n in settings])
    rows = []
    for name in pd.unique(names):
        own = names == name
        found, by_chance = precision[own].mean(), random[which[own]].mean(axis=0)
        at_least = (by_chance >= found - 1e-12).sum()
        rows.append((name, found, (at_least + 1) / (DRAWS + 1), own.sum()))
    table = pd.DataFrame(rows, columns=["class", "precision", "p_value", "n_profiles"])
    table.insert(3, "corrected_p_value", false_discovery_control(table["p_value"]))
    return table


def _random_precisions(partners: int, ranked: int, rng: np.random.Generator) -> np.ndarray:
    """(DRAWS,) average precisions of random rankings."""
    found = []
    step = max(1, _DRAWN_AT_ONCE // ranked)
    for start in range(0, DRAWS, step):
        keys = rng.random((min(step, DRAWS - start), ranked))
        places = np.sort(keys.argpartition(partners - 1, axis=1)[:, :partners], axis=1) + 1
        found.append((np.arange(1, partners + 1) / places).mean(axis=1))
    return np.concatenate(found)


def mean_codes(codes: np.ndarray, table: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Profiles: the mean code of the cells that agree in all columns of a table.

    Args:
        codes: (N, d).
        table: N rows of labels; cells that lack one are left out.

    Returns:
        (P, d) profiles, and P rows of their labels, in the order in which they first occur.
    """
    known = table.notna().all(axis=1).to_numpy()
    keys = list(table.columns)
    groups = table[known].groupby(keys, sort=False, observed=True)
    number = groups.ngroup().to_numpy()
    sums = np.zeros((groups.ngroups, codes.shape[1]))
    np.add.at(sums, number, codes[known])
    labels = table[known].drop_duplicates().reset_index(drop=True)
    return sums / np.bincount(number)[:, None], labels
