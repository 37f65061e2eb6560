"""Stability: do several seeds of one method give the same projection of the same cells?

No label is needed. Two scores of a pair of projections:

    neighbour overlap    share of a cell's k nearest cells that are the same in both
    Procrustes distance  what is left when one is moved, turned, mirrored and scaled onto the other
                         (Gower 1975, "Generalized Procrustes analysis")

A stable projection may be stably wrong: the overlap of PCA is 1, whatever it misses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from util.errors import UserError
from util.latents import finite_matrix, to_unit_scale

NEIGHBOURS = 15


@dataclass(frozen=True)
class Stability:
    """Agreement of S projections of the same cells.

    overlaps: (S, S) share of common neighbours, 0..1, higher is better; by chance k / (N - 1).
    distances: (S, S) Procrustes distances, 0..1, lower is better; by chance near 1.

    The diagonals are NaN.
    """

    overlaps: np.ndarray
    distances: np.ndarray

    @property
    def overlap(self) -> tuple[float, float]:
        """Mean and standard deviation (n - 1; NaN for one pair) over all pairs."""
        return _spread(self.overlaps[np.triu_indices_from(self.overlaps, 1)])

    @property
    def distance(self) -> tuple[float, float]:
        """The same of the Procrustes distances."""
        return _spread(self.distances[np.triu_indices_from(self.distances, 1)])

    def of(self, which: int) -> tuple[tuple[float, float], tuple[float, float]]:
        """Overlap and distance, each mean and deviation, of one projection with the others."""
        others = np.arange(len(self.overlaps)) != which
        return _spread(self.overlaps[which, others]), _spread(self.distances[which, others])


def _spread(values: np.ndarray) -> tuple[float, float]:
    std = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return float(values.mean()), std


def seed_stability(
    projections: Sequence[np.ndarray], *, k: int = NEIGHBOURS, seed: int = 0
) -> Stability:
    """Compare every pair of projections of the same cells.

    Args:
        projections: at least two (N, d), finite; d may differ, missing axes are 0.
        k: number of neighbours; at most N - 1 is used.
        seed: of the order in which cells at equal distances count as near.

    Raises:
        UserError: fewer than two projections or 3 cells, NaN, or lengths that differ.

    Examples:
        >>> square = np.random.default_rng(0).normal(size=(50, 2))
        >>> found = seed_stability([square, 1 - 3 * square[:, ::-1]])
        >>> found.overlap[0], round(found.distance[0], 9)
        (1.0, 0.0)
    """
    arrays = [to_unit_scale(finite_matrix(codes, "codes")) for codes in projections]
    sizes = {len(codes) for codes in arrays}
    if len(arrays) < 2 or len(sizes) != 1 or min(sizes) < 3:
        raise UserError(
            f"stability of {len(arrays)} projections of {', '.join(map(str, sizes))} cells: two of "
            "the same cells, at least 3, are needed"
        )
    order = np.random.default_rng(seed).permutation(len(arrays[0]))
    arrays = [codes[order] for codes in arrays]
    near = [_nearest(codes, min(k, len(codes) - 1)) for codes in arrays]
    overlaps, distances = (np.full((len(arrays),) * 2, np.nan) for _ in range(2))
    for i, j in combinations(range(len(arrays)), 2):
        common = [len(np.intersect1d(a, b)) for a, b in zip(near[i], near[j], strict=True)]
        overlaps[i, j] = overlaps[j, i] = np.mean(common) / near[i].shape[1]
        distances[i, j] = distances[j, i] = _procrustes(arrays[i], arrays[j])
    return Stability(overlaps, distances)


def _nearest(codes: np.ndarray, k: int) -> np.ndarray:
    """(N, k) the nearest cells of each cell, without itself."""
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=k).fit(codes).kneighbors(return_distance=False)


def _procrustes(a: np.ndarray, b: np.ndarray) -> float:
    """Distance of two standardised shapes, 1 where one of them is a single point."""
    from scipy.spatial import procrustes

    if any((codes == codes[0]).all() for codes in (a, b)):
        return 1.0
    width = max(a.shape[1], b.shape[1])
    a, b = (np.pad(codes, ((0, 0), (0, width - codes.shape[1]))) for codes in (a, b))
    return float(procrustes(a, b)[2])
