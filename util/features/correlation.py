"""Correlation and colocalisation of two channels.

Pearson; Manders et al. 1993, J. Microsc. 169:375; rank-weighted, Singan et al. 2011, BMC
Bioinformatics 12:407; Costes et al. 2004, Biophys. J. 86:3993.
"""

import numpy as np
import scipy

from util.features.block import Block, Features, codeviation, order_in_cells

THRESHOLD = 0.15  # of a channel's maximum in the cell, for Manders and rank-weighted
_ROUNDING = 1e-9  # a correlation below it has the sign of its rounding


def pearson(block: Block, first: int, second: int) -> Features:
    """Correlation of two channels and slope of the second on the first; NaN for a flat channel."""
    a, b = block.grey[first], block.grey[second]
    sum_a, sum_b = block.sums(a), block.sums(b)
    spread_a = codeviation(block.area, sum_a, sum_a, block.sums(a * a))
    spread_b = codeviation(block.area, sum_b, sum_b, block.sums(b * b))
    together = codeviation(block.area, sum_a, sum_b, block.sums(a * b))
    return {
        "Correlation_Pearson": together / np.sqrt(spread_a * spread_b),
        "Correlation_Slope": together / spread_a,
    }


def manders(block: Block, first: int, second: int) -> Features:
    """Share of each channel's bright intensity that lies where both are bright."""
    return _colocalised(block, first, second, "Correlation_Manders", np.ones(len(block.cell)))


def rank_weighted(block: Block, first: int, second: int) -> Features:
    """`manders` with weights that fall with the difference of the two ranks of a pixel."""
    ranks_a, ranks_b = block.ranks[first], block.ranks[second]
    levels = (np.maximum(block.maxima(ranks_a), block.maxima(ranks_b)) + 1)[block.cell]
    weights = (levels - np.abs(ranks_a - ranks_b)) / levels
    return _colocalised(block, first, second, "Correlation_RWC", weights)


def _colocalised(block: Block, first: int, second: int, name: str, weights: np.ndarray) -> Features:
    """Weighted sum over the pixels bright in both channels, over the sum of the bright ones."""
    values = block.values[first], block.values[second]
    bright = [v >= (THRESHOLD * block.maxima(v))[block.cell] for v in values]
    both = bright[0] & bright[1]
    empty = block.sums(both) == 0
    return {
        f"{name}_{i}": np.where(empty, 0, block.sums(v * (both * weights)) / block.sums(v * high))
        for i, (v, high) in enumerate(zip(values, bright, strict=True), 1)
    }


def costes(block: Block, first: int, second: int) -> Features:
    """Share of each channel's intensity above its threshold where both are above theirs.

    The two thresholds lie on the regression line of the channels, the first on a grey level. They
    fall until the pixels below either of them do not correlate (a search by bisection as in
    CellProfiler). NaN where line, search or share is undefined.
    """
    line = _regression_line(block, first, second)
    below = _Background(block, first, second, *line)
    level = _search_level(below, block.full_scale)
    lower = level / block.full_scale
    thresholds = lower, line[0] * lower + line[1]
    values = block.values[first], block.values[second]
    above = [v > t[block.cell] for v, t in zip(values, thresholds, strict=True)]
    both = above[0] & above[1]
    features = [
        (block.sums(v * both), block.sums(v * (v >= t[block.cell])))
        for v, t in zip(values, thresholds, strict=True)
    ]
    undefined = np.isnan(level) | (features[0][1] <= 0) | (features[1][1] <= 0)
    return {
        f"Correlation_Costes_{i}": np.where(undefined, np.nan, part / total)
        for i, (part, total) in enumerate(features, 1)
    }


def _regression_line(block: Block, first: int, second: int) -> tuple[np.ndarray, np.ndarray]:
    """Slope and intercept, (n,), of the orthogonal regression of pixels above 0 in a channel.

    NaN with fewer than three of them, a flat channel or no covariance.
    """
    lit = (block.grey[first] > 0) | (block.grey[second] > 0)
    count = block.sums(lit)
    cell = block.cell[lit]
    x, y = block.values[first][lit], block.values[second][lit]
    (mean_x, var_x), (mean_y, var_y), (_, var_sum) = (
        _mean_and_variance(v, cell, count) for v in (x, y, x + y)
    )
    covariance = 0.5 * (var_sum - (var_x + var_y))
    difference = var_y - var_x
    slope = (difference + np.sqrt(difference * difference + 4 * (covariance * covariance))) / (
        2 * covariance
    )
    flat = np.zeros(len(count), dtype=bool)
    for channel in (first, second):
        grey = block.grey[channel]
        highest = block.maxima(np.where(lit, grey, -1))
        lowest = -block.maxima(np.where(lit, -grey, -block.full_scale - 1))
        flat |= highest <= lowest
    uncorrelated = np.abs(covariance) <= 8 * np.finfo(float).eps * np.maximum(var_x, var_y)
    slope[(count < 3) | flat | uncorrelated] = np.nan
    return slope, mean_y - slope * mean_x


def _mean_and_variance(
    values: np.ndarray, cell: np.ndarray, count: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and unbiased variance of each cell, to the last bit those of NumPy on one cell.

    A threshold that falls on a grey level decides by its last bit. NumPy adds pairwise, and so
    does `reduceat` behind the first element of a stretch: hence a 0 before each.
    """
    place = np.arange(len(values)) + cell + 1
    padded = np.zeros(len(values) + len(count))
    start = np.cumsum(count + 1) - (count + 1)

    def sums(values: np.ndarray) -> np.ndarray:
        padded[place] = values
        return np.add.reduceat(padded, start)

    mean = sums(values) / count
    return mean, sums((values - mean[cell]) ** 2) / (count - 1)


class _Background:
    """Correlation of the pixels below either threshold, for any grey level of the first one.

    A pixel is above both thresholds for a stretch of levels. Sorted by the ends of the stretches,
    running sums give the moments of the pixels above at any level, and so of those below.
    """

    def __init__(
        self, block: Block, first: int, second: int, slope: np.ndarray, intercept: np.ndarray
    ) -> None:
        self.block, self.slope, self.intercept = block, slope, intercept
        self.a, self.b = block.grey[first], block.grey[second]
        self.second = block.values[second]
        lowest, highest = self._stretch()
        self.moments = [np.ones_like(self.a), self.a, self.b]
        self.moments += [self.a * self.a, self.b * self.b, self.a * self.b]
        self.total = np.stack([block.sums(moment) for moment in self.moments])  # (6, n)
        self.enter = self._running_sums(np.minimum(lowest, highest + 1))
        self.leave = self._running_sums(highest + 1)

    def _stretch(self) -> tuple[np.ndarray, np.ndarray]:
        """First and last level at which a pixel is above both thresholds, (P,) and (P,)."""
        block, top = self.block, self.block.full_scale + 1
        slope, intercept = self.slope[block.cell], self.intercept[block.cell]

        def reaches(level: np.ndarray) -> np.ndarray:
            return ~(self.second < slope * (level / block.full_scale) + intercept)

        crossing = (self.second - intercept) / slope * block.full_scale
        crossing = np.floor(np.nan_to_num(np.clip(crossing, -1, top))).astype(np.int64)
        rising = ~np.signbit(slope)
        # Rounding may shift the level by one; the thresholds as computed decide.
        last = crossing - 1 + sum(reaches(crossing + step).astype(int) for step in (0, 1))
        start = crossing + 2 - sum(reaches(crossing + step).astype(int) for step in (0, 1))
        lowest = np.where(rising, 0, np.clip(start, 0, top))
        highest = np.where(rising, np.minimum(last, self.a), self.a)
        return lowest, np.maximum(highest, -1)

    def _running_sums(self, level: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sorted keys of cell and level, (P,), and the sums of the moments before each."""
        # No search goes as high as full scale: what happens above it may as well happen there.
        level = np.minimum(level, self.block.full_scale)
        order = order_in_cells(self.block.cell, level)
        sums = np.zeros((len(self.moments), len(order) + 1), np.int64)
        for moment, total in zip(self.moments, sums, strict=True):
            np.cumsum(moment[order], out=total[1:])
        return self._key(self.block.cell, level[order]), sums

    def _key(self, cell: np.ndarray, level: np.ndarray) -> np.ndarray:
        return cell * (self.block.full_scale + 1) + level

    def correlation(self, level: np.ndarray) -> np.ndarray:
        """At one level for each cell, (n,).

        NaN with fewer than three pixels, a flat channel or no regression line.
        """
        above = self._until(self.enter, level) - self._until(self.leave, level)
        count, a, b, aa, bb, ab = self.total - above
        spread_a, spread_b = codeviation(count, a, a, aa), codeviation(count, b, b, bb)
        spread = np.sqrt(spread_a * spread_b)
        undefined = (count < 3) | (spread == 0) | np.isnan(self.slope)
        found = np.where(undefined, np.nan, codeviation(count, a, b, ab) / spread)
        for cell in np.flatnonzero(np.abs(found) < _ROUNDING):
            found[cell] = self._rounded_correlation(cell, level[cell])
        return found

    def _until(self, events: tuple[np.ndarray, np.ndarray], level: np.ndarray) -> np.ndarray:
        """Sums of the moments of the pixels of each cell up to a level: (n,) -> (6, n)."""
        keys, sums = events
        wanted = self._key(np.arange(len(level)), level.astype(np.int64))
        return sums[:, np.searchsorted(keys, wanted, side="right")] - sums[:, self.block.start]

    def _rounded_correlation(self, cell: int, level: float) -> float:
        """As SciPy rounds it: no correlation, and yet a sign that decides where the search goes."""
        pixels = slice(self.block.start[cell], self.block.start[cell] + self.block.area[cell])
        threshold = level / self.block.full_scale
        first, second = self.a[pixels] / self.block.full_scale, self.second[pixels]
        below = first < threshold
        below |= second < self.slope[cell] * threshold + self.intercept[cell]
        return scipy.stats.pearsonr(first[below], second[below])[0]


def _search_level(below: _Background, full_scale: int) -> np.ndarray:
    """The first channel's threshold, a grey level, (n,); NaN where there is none.

    The window shrinks to the lowest level whose background correlates, trying a sixth below its
    upper end, since correlations at low levels waver.
    """
    n = len(below.slope)
    left, right = np.ones(n), np.full(n, float(full_scale))
    middle, last = (right - left) // 1.2 + left, np.zeros(n)
    found = np.full(n, np.nan)
    searching = np.isfinite(below.slope) & np.isfinite(below.intercept)
    for _ in range(_MOST_STEPS):
        searching &= middle != last
        if not searching.any():
            break
        correlation = below.correlation(middle)
        correlated = searching & (correlation >= 0)
        right[correlated] = middle[correlated] + 1
        found[correlated] = middle[correlated]
        lower = searching & ~correlated
        left[lower] = middle[lower] - 1
        last[searching] = middle[searching]
        divisor = np.where(right - left > 6, 1.2, 2)
        middle = np.where(searching, (right - left) // divisor + left, middle)
    found[searching & (middle != last)] = np.nan  # no end in sight
    level = found - 1
    undefined = np.isnan(below.correlation(np.nan_to_num(level)))
    return np.where(undefined, np.nan, level)


_MOST_STEPS = 256
