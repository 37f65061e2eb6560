"""Texture: 13 features of Haralick et al. 1973, IEEE Trans. Syst. Man Cybern. 3:610."""

import numpy as np

from util.features.block import Block, Features, codeviation, order_in_cells

TEXTURE_SCALE = 3  # pixels between the two pixels of a pair
TEXTURE_LEVELS = 256
_DIRECTIONS = ((0, 1), (1, 1), (1, 0), (1, -1))  # (row, column)
_HARALICK = (
    "AngularSecondMoment Contrast Correlation Variance InverseDifferenceMoment SumAverage "
    "SumVariance SumEntropy Entropy DifferenceVariance DifferenceEntropy InfoMeas1 InfoMeas2"
).split()


def texture(block: Block, channel: int) -> Features:
    """Haralick's 13 features in four directions, of pairs of pixels above 0 (8-bit grey levels).

    NaN for all features of a cell if one direction has no pair.
    """
    n, height, width = block.masks.shape
    margin = TEXTURE_SCALE
    # Pairs that would leave the cell's own tile end in its margin of zeros.
    grey = np.zeros((n, height + margin, width + margin), np.uint8)
    levels = np.rint(block.values[channel] * (TEXTURE_LEVELS - 1)).astype(np.uint8)
    grey[:, :height, :width][block.masks] = levels
    size, flat = grey[0].size, grey.ravel()
    per_direction = []
    for down, right in _DIRECTIONS:
        offset = margin * (down * (width + margin) + right)
        first, second = flat[:-offset], flat[offset:]
        pair = np.flatnonzero((first > 0) & (second > 0))
        counts = _PairCounts(n, pair // size, first[pair].astype(int), second[pair].astype(int))
        per_direction.append(counts.haralick(block.maxima(levels).astype(int)))
    undefined = np.isnan(per_direction).any(axis=(0, 1))
    return {
        f"Texture_{name}_{TEXTURE_SCALE}_{direction:02d}_{TEXTURE_LEVELS}": np.where(
            undefined, np.nan, values
        )
        for direction, features in enumerate(per_direction)
        for name, values in zip(_HARALICK, features, strict=True)
    }


class _PairCounts:
    """The symmetric co-occurrence matrices of n cells, kept as lists of the pairs that occur.

    Args:
        n: number of cells.
        cell: the cell of each pair, (Q,), ascending.
        first, second: its grey levels, (Q,), 1..255.
    """

    def __init__(self, n: int, cell: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
        self.pairs = np.bincount(cell, minlength=n)  # (n,)
        table = cell * TEXTURE_LEVELS
        shape = (n, TEXTURE_LEVELS)
        self.single = np.bincount(table + first, minlength=n * TEXTURE_LEVELS).reshape(shape)
        self.single += np.bincount(table + second, minlength=n * TEXTURE_LEVELS).reshape(shape)
        self.sum = np.bincount(
            2 * table + first + second, minlength=2 * n * TEXTURE_LEVELS
        ).reshape(n, -1)  # (n, 512)
        self.difference = np.bincount(
            table + np.abs(first - second), minlength=n * TEXTURE_LEVELS
        ).reshape(shape)
        # A pair and its mirror image are one entry here and two of the matrix.
        entry = np.minimum(first, second) * TEXTURE_LEVELS + np.maximum(first, second)
        entry = entry[order_in_cells(cell, entry)]
        new = np.diff(entry, prepend=-1) != 0
        new |= np.diff(cell, prepend=-1) != 0
        begin = np.flatnonzero(new)
        self.count = np.diff(begin, append=len(entry))  # (E,)
        self.cell = cell[begin]  # (E,)
        self.mirrored = entry[begin] // TEXTURE_LEVELS != entry[begin] % TEXTURE_LEVELS

    def haralick(self, brightest: np.ndarray) -> np.ndarray:
        """The features in the order of `_HARALICK`, (13, n), NaN for a cell without pairs.

        Args:
            brightest: the highest level of each cell, (n,): the matrix ends there, and the
                variance of the differences' probabilities counts its zeros.
        """
        pairs, level = self.pairs, np.arange(2 * TEXTURE_LEVELS)
        single = self.single / (2 * pairs[:, None])  # (n, 256)
        total = self.sum / pairs[:, None]  # (n, 512)
        difference = self.difference / pairs[:, None]  # (n, 256)
        # Sums over both pixels of all pairs, integers, so that a flat cell varies by exactly 0.
        mean = self.single @ level[:256]
        square, contrast = self.single @ level[:256] ** 2, self.difference @ level[:256] ** 2
        variance = codeviation(2 * pairs, mean, mean, square) / (2 * pairs)
        sum_variance = codeviation(pairs, mean, mean, self.sum @ level**2) / pairs
        # Var(x + y) = 2 Var x + 2 Cov, and E (x - y)² = 2 Var x - 2 Cov
        covariance = (sum_variance - contrast / pairs) / 4
        share = self.count / (pairs[self.cell] * (1 + self.mirrored))  # (E,)
        times = 1 + self.mirrored
        n = len(pairs)
        entropy = -np.bincount(self.cell, times * share * np.log2(share), minlength=n)
        marginal = _entropy(single)
        shared = entropy - 2 * marginal
        features = [
            np.bincount(self.cell, times * share**2, minlength=n),
            contrast / pairs,
            np.where(variance == 0, 1, covariance / variance),
            variance,
            difference @ (1 / (1 + level[:256] ** 2)),
            mean / pairs,
            sum_variance,
            _entropy(total),
            entropy,
            (difference**2).sum(axis=1) / (brightest + 1) - 1 / (brightest + 1) ** 2,
            _entropy(difference),
            np.where(marginal == 0, shared, shared / marginal),
            np.sqrt(np.maximum(0, 1 - np.exp(2 * shared))),
        ]
        return np.where(pairs > 0, features, np.nan)


def _entropy(shares: np.ndarray) -> np.ndarray:
    """Bits of each row of probabilities: (n, k) -> (n,)."""
    return -(shares * np.log2(np.where(shares > 0, shares, 1))).sum(axis=1)
