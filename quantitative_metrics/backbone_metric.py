"""Backbone of a known continuum in a projection, and how well the cells keep their order along it.

The metric of the thesis. The cells of a continuous process (a simulated morph, a dose, a cell
cycle) should line up in a projection as they do in truth. For every branch and initial state a
broken line is drawn through mean codes of cells whose true progress is known:

    start    mean of the 20 cells of that initial state with the lowest progress, all branches
    knots    mean of the 15 cells of that branch and state nearest to progress 0.25, 0.5, 0.75
    end      mean of the 15 cells of that branch with the highest progress, all states

The latent distance of a cell is how far along its line it lies. The score is the rank correlation,
Spearman's rho and Kendall's tau-b, between latent distance and true progress; the bootstrap
intervals are percentile intervals (Efron 1979; Efron and Tibshirani 1993, chapter 13).

Two things go beyond the thesis. Where progress is not a fraction of the way (a dose, a DNA content)
the knots stand at the quartiles of the cells of a line instead: evenly spaced values would put them
into the empty stretch of a heavy tail, and quartiles depend, like the score, on the order only. And
of few cells a mean takes at most a fifth, so that the five means of a line differ; cells that tie
with the last one taken are taken too, so that the order of the table does not matter.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import scipy

from util.errors import UserError
from util.latents import finite_matrix, to_unit_scale
from util.metadata import class_name, column_in, count_and_name, numbers_in, refuse_missing_column
from util.splitting import group_codes

CENTRE_CELLS = 20  # in the mean code at the start of a line
KNOT_CELLS = 15  # in every other knot
KNOT_FRACTIONS = (0.25, 0.5, 0.75)
FEWEST_CELLS = 3  # of a line: a start, an end and something to order between them
CONFIDENCE = 0.95

_KENDALL_PAIRS = 2500  # cells up to which all pairs are compared once for all resamples
_KENDALL_WORK = 20_000_000  # resamples x cells beyond: about 5 s, most of a bootstrap's time
_ROUNDING = 1e-12  # of the extent of the codes: a line that short has no direction


@dataclass(frozen=True)
class Continuum:
    """Columns of a table that say where each cell stands on a known continuum.

    progress: column of the true progress, numeric, increasing from the start.
    branch: column of the process or treatment; None for a single line.
    initial: column of the initial state; lines of one state start at one centre. None for one
        start, shared by all branches.
    ignore: branches left out.
    fraction: progress runs from 0 at the start to 1 at the end of a branch, so that the knots stand
        at 0.25, 0.5 and 0.75; otherwise at the quartiles of the cells of a line.
    centre_column, centre_ranges: initial state -> (low, high): only cells with low <
        centre_column < high may be part of its centre.
    """

    progress: str
    branch: str | None = None
    initial: str | None = None
    ignore: tuple[str, ...] = ()
    fraction: bool = False
    centre_column: str | None = None
    centre_ranges: dict[str, tuple[float, float]] = field(default_factory=dict)


BBBC031_CONTINUUM = Continuum(
    progress="GT_dist_toInit_state",
    branch="GT_label",
    initial="GT_initial_state",
    ignore=("7",),  # the process without a direction
    fraction=True,
    centre_column="GT_Shape",
    centre_ranges={"green": (0.35, np.inf), "red": (-np.inf, 0.15)},
)


@dataclass(frozen=True)
class Estimate:
    """A coefficient in [-1, 1], its 95 % bootstrap interval and standard error.

    All NaN where it is not defined; low, high and std also where nothing was resampled.
    """

    value: float
    low: float
    high: float
    std: float


@dataclass(frozen=True)
class BranchScore:
    """Spearman's rho and Kendall's tau-b within one branch."""

    spearman: Estimate
    kendall: Estimate
    n_cells: int


@dataclass(frozen=True)
class BackboneLine:
    """Broken line of one branch and initial state, "" where the continuum has no such column.

    knots: (m, d) from the start to the end.
    """

    branch: str
    initial: str
    knots: np.ndarray


@dataclass(frozen=True)
class BackboneScore:
    """How well a projection keeps a continuum in order.

    spearman, kendall: over all scored cells, in [-1, 1], higher is better; about 0 for codes that
        know nothing of the progress. Cells before the start of their line count their distance to
        it, so that even cells in perfect order score a little below 1.
    branches: branch -> score of its cells alone; empty without a column of branches.
    latent_distance: (N,) place along the line of the cell, in units of the length of the line: 0 at
        the start, 1 at the end; a cell before the start counts its distance to it, one past the end
        1 plus its distance. NaN where left out.
    progress: (N,) true progress; NaN where left out.
    branch: (N,) name of the branch, "" where left out or where there is no such column.
    lines: the broken lines, to draw them.
    n_cells: scored cells.
    n_resamples: of the bootstrap, (Spearman's, Kendall's).
    report: what was left out or is not defined, a line each.
    """

    spearman: Estimate
    kendall: Estimate
    branches: dict[str, BranchScore]
    latent_distance: np.ndarray = field(repr=False)
    progress: np.ndarray = field(repr=False)
    branch: np.ndarray = field(repr=False)
    lines: tuple[BackboneLine, ...] = field(repr=False)
    n_cells: int
    n_resamples: tuple[int, int]
    report: tuple[str, ...] = ()


def backbone_scores(
    codes: np.ndarray,
    table: pd.DataFrame,
    continuum: Continuum = BBBC031_CONTINUUM,
    *,
    seed: int = 0,
    n_bootstrap: int = 1000,
    groups: Sequence | None = None,
) -> BackboneScore:
    """Rank correlation between the true progress of the cells and their place along the backbone.

    The bootstrap resamples cells and keeps the lines, so its intervals say how well the coefficient
    of these lines is known. Kendall's tau takes fewer resamples above 20,000 cells, never below
    100; `n_resamples` says how many.

    Args:
        codes: (N, d) codes of any dimension, finite.
        table: N rows in the same order, with the columns that the continuum names.
        continuum: what is known of the cells.
        seed: of the bootstrap.
        n_bootstrap: resamples; 0 for no intervals.
        groups: N labels (well, donor); whole groups are resampled, since their cells are no
            independent evidence. One group has no interval. None resamples cells.

    Raises:
        UserError: codes that are not finite numbers of shape (N, d), lengths that differ, a column
            that is missing or not numeric, progress outside 0..1 where it is a fraction, or fewer
            than 3 cells.

    """
    if n_bootstrap < 0:
        raise UserError(f"n_bootstrap = {n_bootstrap}: must be 0 (no intervals) or more")
    cells, report = _select(codes, table, continuum)
    lines, along, line_report = _lines(cells, continuum)
    scored = np.isfinite(along)
    report += line_report
    if not scored.any() or np.ptp(cells.progress[scored]) == 0 or np.ptp(along[scored]) == 0:
        report.append(
            "no rank correlation: all scored cells have the same progress or the same code"
        )

    rng = np.random.default_rng(seed)
    known = None if groups is None else group_codes(groups)[cells.rows]

    def correlate(chosen: np.ndarray) -> tuple[Estimate, Estimate, tuple[int, int]]:
        own = None if known is None else known[chosen]
        return _correlations(cells.progress[chosen], along[chosen], n_bootstrap, rng, own)

    spearman, kendall, n_resamples = correlate(scored)
    branches = {}
    for name in _in_order(cells.branch) if continuum.branch else []:
        chosen = scored & (cells.branch == name)
        branches[name] = BranchScore(*correlate(chosen)[:2], n_cells=int(chosen.sum()))
    return BackboneScore(
        spearman=spearman,
        kendall=kendall,
        branches=branches,
        **_in_table(cells, along, len(table)),
        lines=tuple(lines),
        n_cells=int(scored.sum()),
        n_resamples=n_resamples,
        report=tuple(report),
    )


def _in_table(cells: "_Cells", along: np.ndarray, n_rows: int) -> dict[str, np.ndarray]:
    """(N,) latent distance, progress and branch of the scored cells in the rows of the table."""
    scored, full = np.isfinite(along), {}
    for name, values, left_out in (
        ("latent_distance", along, np.nan),
        ("progress", cells.progress, np.nan),
        ("branch", cells.branch, ""),
    ):
        full[name] = np.full(n_rows, left_out, dtype=values.dtype)
        full[name][cells.rows[scored]] = values[scored]
    return full


def distance_along(points: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Place of points along a broken line, in units of its length.

    A point belongs to the nearest segment. Its place is that of its foot on the segment; before the
    start of the line it is the distance to the start, past the end 1 plus the distance to the end.

    Args:
        points: (n, d).
        knots: (m, d) from start to end; repeated knots are skipped.

    Returns:
        (n,) 0 or more; NaN for a line without length.

    Examples:
        >>> corner = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0]])
        >>> distance_along(np.array([[1.0, 0.5], [2.0, 1.0], [2.0, 3.0]]), corner).tolist()
        [0.25, 0.75, 1.25]
    """
    knots = knots[np.append(True, (np.diff(knots, axis=0) != 0).any(axis=1))]
    if len(knots) < 2:
        return np.full(len(points), np.nan)
    scaled = to_unit_scale(np.concatenate([knots, points]))  # the place has no unit
    knots, points = scaled[: len(knots)], scaled[len(knots) :]
    steps = np.diff(knots, axis=0)  # (m - 1, d)
    lengths = np.linalg.norm(steps, axis=1)
    passed = np.append(0, lengths.cumsum())  # length of the line up to each knot
    total = passed[-1]
    place, gap = np.empty((2, len(lengths), len(points)))
    for i, (start, step, length) in enumerate(zip(knots[:-1], steps, lengths, strict=True)):
        offset = points - start  # (n, d)
        foot = (offset * step).sum(axis=1) / length**2  # 0..1 from start to end of the segment
        inside = foot.clip(0, 1)
        gap[i] = np.linalg.norm(offset - inside[:, None] * step, axis=1)
        place[i] = passed[i] + inside * length
        if i == 0:
            place[i] = np.where(foot < 0, gap[i], place[i])
        if i == len(lengths) - 1:
            place[i] = np.where(foot > 1, total + gap[i], place[i])
    nearest = gap.argmin(axis=0)  # (n,)
    return place[nearest, np.arange(len(points))] / total


@dataclass(frozen=True)
class _Cells:
    """The cells that belong to the continuum.

    rows: (n,) row of each in the table.
    points: (n, d) codes relative to `origin` (d,), one of them: constant codes are exact zeros, and
        so are their means.
    progress: (n,); branch, initial: (n,) names, "" without such a column.
    central: (n,) whether a cell may be part of a centre.
    """

    rows: np.ndarray
    points: np.ndarray
    origin: np.ndarray
    progress: np.ndarray
    branch: np.ndarray
    initial: np.ndarray
    central: np.ndarray


def _select(
    codes: np.ndarray, table: pd.DataFrame, continuum: Continuum
) -> tuple[_Cells, list[str]]:
    """The cells of the continuum, and a report of those left out for a missing value."""
    codes = finite_matrix(codes, "codes", np.float64)
    if len(codes) != len(table):
        raise UserError(f"{len(codes)} codes for {len(table)} rows of the table: they must match")
    branch, no_branch = _names(table, continuum.branch)
    initial, no_initial = _names(table, continuum.initial)
    progress = numbers_in(table, continuum.progress, "backbone").to_numpy()
    kept = no_branch | ~np.isin(branch, continuum.ignore)
    report = []
    for column, missing in (
        (continuum.branch, no_branch),
        (continuum.initial, no_initial),
        (continuum.progress, ~np.isfinite(progress)),
    ):
        if n_missing := int((kept & missing).sum()):
            report.append(f"{n_missing} cells without {column}, left out")
            kept &= ~missing
    rows = np.flatnonzero(kept)
    if len(rows) < FEWEST_CELLS:
        raise UserError(
            f"{len(rows)} cells with {continuum.progress}: a backbone needs at least {FEWEST_CELLS}"
        )
    low, high = progress[rows].min(), progress[rows].max()
    if continuum.fraction and (low < 0 or high > 1):
        raise UserError(
            f"column {continuum.progress!r} goes from {low:g} to {high:g}: as a fraction of the way"
            " it must lie in 0..1"
        )
    origin = codes[rows[0]]
    cells = _Cells(
        rows=rows,
        points=codes[rows] - origin,
        origin=origin,
        progress=progress[rows],
        branch=branch[rows],
        initial=initial[rows],
        central=_central(table, initial, continuum)[rows],
    )
    return cells, report


def refuse_unknown_continuum(
    table: pd.DataFrame, progress: str | None, branch: str | None, initial: str | None = None
) -> None:
    """Make sure that the columns of a continuum are there, before anything is computed.

    Raises:
        UserError: one is missing, progress is not numeric, or others are named without it.
    """
    named = {"progress": progress, "branch": branch, "initial": initial}
    if progress is None and (branch or initial):
        argument = "branch" if branch else "initial"
        raise UserError(
            f"`{argument}` {named[argument]}: a backbone needs `progress`, the column that says "
            "how far along a cell is"
        )
    for argument, column in named.items():
        if column:
            refuse_missing_column(table, argument, column)
    if progress:
        numbers_in(table, progress, "`progress`")


def _names(table: pd.DataFrame, column: str | None) -> tuple[np.ndarray, np.ndarray]:
    """(N,) names and (N,) whether they are missing; "" everywhere without a column."""
    if column is None:
        return np.full(len(table), "", dtype=object), np.zeros(len(table), dtype=bool)
    values = column_in(table, column, "backbone")
    return np.array([class_name(value) for value in values], dtype=object), values.isna().to_numpy()


def _central(table: pd.DataFrame, initial: np.ndarray, continuum: Continuum) -> np.ndarray:
    """(N,) whether a cell may be part of the centre of its initial state."""
    central = np.ones(len(table), dtype=bool)
    if continuum.centre_column is not None:
        values = numbers_in(table, continuum.centre_column, "backbone").to_numpy()
        for state, (low, high) in continuum.centre_ranges.items():
            central[initial == state] = ((low < values) & (values < high))[initial == state]
    return central


def _in_order(names: Iterable[str]) -> list[str]:
    """The different names, numbers by size, others in the order of the alphabet."""
    found = sorted(set(names))
    try:
        return sorted(found, key=float)
    except ValueError:
        return found


def _lines(cells: _Cells, continuum: Continuum) -> tuple[list[BackboneLine], np.ndarray, list[str]]:
    """The broken lines, the (n,) latent distance of the cells on them, and what has none."""
    lines, along = [], np.full(len(cells.rows), np.nan)
    small, pointless = [], []
    shortest = _ROUNDING * np.abs(cells.points).max()
    for state in _in_order(cells.initial):
        of_state = cells.initial == state
        centre = _centre(cells, of_state)
        for branch in _in_order(cells.branch[of_state]):
            of_branch = cells.branch == branch
            of_line = of_branch & of_state
            name = " ".join(filter(None, [branch, state])) or "all cells"
            if centre is None or of_line.sum() < FEWEST_CELLS:
                why = "no cell for its centre" if centre is None else f"{of_line.sum()} cells"
                small.append((name, why))
                continue
            knots = np.stack([centre, *_knots(cells, of_line, of_branch, continuum.fraction)])
            lines.append(BackboneLine(branch, state, knots + cells.origin))
            if np.linalg.norm(np.diff(knots, axis=0), axis=1).sum() > shortest:
                along[of_line] = distance_along(cells.points[of_line], knots)
            else:
                pointless.append((name, f"{of_line.sum()} cells"))
    report = []
    if small:
        report.append(count_and_name("lines have too few cells and were left out", small))
    if pointless:
        what = "lines have no length, since all their codes are equal, and were left out"
        report.append(count_and_name(what, pointless))
    return lines, along, report


def _centre(cells: _Cells, of_state: np.ndarray) -> np.ndarray | None:
    """(d,) start of the lines of one initial state; None if no cell may be part of it."""
    eligible = of_state & cells.central
    if not eligible.any():
        return None
    n = _group_size(CENTRE_CELLS, of_state.sum())
    return _mean_of_lowest(cells.points[eligible], cells.progress[eligible], n)


def _knots(
    cells: _Cells, of_line: np.ndarray, of_branch: np.ndarray, fraction: bool
) -> Iterator[np.ndarray]:
    """The knots of a line behind its centre, each (d,)."""
    points, progress = cells.points[of_line], cells.progress[of_line]
    # of n cells the i-th has the middle of the i-th of n equal parts of 0..1
    place = progress if fraction else (scipy.stats.rankdata(progress) - 0.5) / len(progress)
    for knot in KNOT_FRACTIONS:
        n = _group_size(KNOT_CELLS, len(points))
        yield _mean_of_lowest(points, np.abs(place - knot), n)
    n = _group_size(KNOT_CELLS, of_branch.sum())
    yield _mean_of_lowest(cells.points[of_branch], -cells.progress[of_branch], n)


def _group_size(wanted: int, n_cells: int) -> int:
    """Cells in one mean: of few cells a fifth, since a line is made of five means."""
    return min(wanted, max(1, n_cells // 5))


def _mean_of_lowest(points: np.ndarray, key: np.ndarray, n: int) -> np.ndarray:
    """(d,) mean of the n points of the lowest key, and of those that tie with the last of them."""
    n = min(n, len(key))
    return points[key <= np.partition(key, n - 1)[n - 1]].mean(axis=0)


def _correlations(
    progress: np.ndarray,
    along: np.ndarray,
    n_bootstrap: int,
    rng: np.random.Generator,
    groups: np.ndarray | None = None,
) -> tuple[Estimate, Estimate, tuple[int, int]]:
    """Spearman's rho and Kendall's tau-b with intervals, and the resamples that each took."""
    order = np.argsort(progress, kind="stable")  # sorted input makes Kendall's sorts cheap
    x, y = (
        scipy.stats.rankdata(values[order], "dense").astype(np.int64)
        for values in (progress, along)
    )
    n = len(x)
    members = None if groups is None else _members(groups[order])
    if members is not None and len(members) < 2:
        n_bootstrap = 0
    n_kendall = min(n_bootstrap, max(100, _KENDALL_WORK // max(n, 1)))
    by_pairs = n <= _KENDALL_PAIRS
    spearman, kendall = np.full(n_bootstrap, np.nan), np.full(n_kendall, np.nan)
    counts = np.zeros((n_kendall, n if by_pairs else 0), np.float32)  # of each cell in a resample
    for i in range(n_bootstrap if n else 0):
        sample = _resample(n, members, rng)
        spearman[i] = _spearman(x[sample], y[sample])
        if i < n_kendall and by_pairs:
            counts[i] = np.bincount(sample, minlength=n)
        elif i < n_kendall:
            kendall[i] = _kendall(x[sample], y[sample])
    if by_pairs:
        kendall = _kendall_of_resamples(x, y, counts)
    return (
        _estimate(_spearman(x, y), spearman),
        _estimate(_kendall(x, y), kendall),
        (n_bootstrap, n_kendall),
    )


def _members(groups: np.ndarray) -> list[np.ndarray]:
    """The places of the cells of each group."""
    return [np.flatnonzero(groups == group) for group in np.unique(groups)]


def _resample(n: int, members: list[np.ndarray] | None, rng: np.random.Generator) -> np.ndarray:
    """Ascending places of a bootstrap sample of n cells, or of as many groups as there are."""
    if members is None:
        return np.sort(rng.integers(n, size=n))
    drawn = rng.integers(len(members), size=len(members))
    return np.sort(np.concatenate([members[group] for group in drawn]))


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rho of whole numbers from 1, NaN if one of them never changes.

    Equal to `scipy.stats.spearmanr`, whose p-value would cost ten times as much.
    """
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    return float(np.corrcoef(_midranks(x), _midranks(y))[0, 1])


def _midranks(values: np.ndarray) -> np.ndarray:
    """Ranks of whole numbers from 0 up, ties at their mean, by counting."""
    counts = np.bincount(values)
    return (counts.cumsum() - (counts - 1) / 2)[values]


def _kendall(x: np.ndarray, y: np.ndarray) -> float:
    """Kendall's tau-b, NaN if x or y never changes."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    return float(scipy.stats.kendalltau(x, y).statistic)


def _kendall_of_resamples(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of resamples, from one comparison of all pairs of cells.

    Equal to `_kendall` of each; 100, 5 and 3 times faster for 80, 1,200 and 2,500 cells.

    Args:
        x, y: (n,) whole numbers from 1.
        counts: (b, n) float32, how often each resample holds each cell.

    Returns:
        (b,), NaN where x or y never changes.
    """
    x, y = x.astype(np.int32), y.astype(np.int32)
    agree = (np.sign(x[:, None] - x) * np.sign(y[:, None] - y)).astype(np.float32)  # (n, n)
    excess = np.einsum("bn,bn->b", counts @ agree, counts, dtype=np.float64)
    sizes = counts.sum(axis=1, dtype=np.float64)

    def untied(values: np.ndarray) -> np.ndarray:
        """(b,) ordered pairs of a resample that differ."""
        order = np.argsort(values)
        starts = np.flatnonzero(np.diff(values[order], prepend=0))
        ties = np.add.reduceat(counts[:, order], starts, axis=1)  # (b, distinct values)
        return sizes**2 - np.einsum("bv,bv->b", ties, ties, dtype=np.float64)

    with np.errstate(invalid="ignore"):
        return excess / np.sqrt(untied(x) * untied(y))


def _estimate(value: float, resampled: np.ndarray) -> Estimate:
    """Percentile interval and standard error; resamples in which nothing varies do not count."""
    known = resampled[np.isfinite(resampled)]
    if len(known) < 2 or not np.isfinite(value):
        return Estimate(value, np.nan, np.nan, np.nan)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known, [tail, 1 - tail]).tolist()
    return Estimate(value, low, high, float(known.std(ddof=1)))
