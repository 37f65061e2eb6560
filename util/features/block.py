"""Cells of one image size as one block, on which all features of pixels are computed at once.

Measured cell by cell, these features dominate the cost of `cell_features`. Each follows its
definition, with CellProfiler's default settings except for granularity. The tests compare every
feature with cp_measure's (Muñoz et al. 2025, arXiv:2507.01163), which calls mahotas for texture.

Grey levels are summed as integers wherever the definition allows it. Such sums are exact; where
cp_measure divides one rounding error by another (the correlation of a flat channel), the value here
is NaN.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy

Features = dict[str, np.ndarray]  # name -> (n,) float64, NaN where undefined
RINGS = 4


@dataclass(frozen=True)
class Block:
    """Cells of one image size.

    Pixels are listed cell by cell, each cell in the order of reading: P of them.

    Attributes:
        masks: (n, h, w) bool, one 8-connected component each.
        levels: (C, n, h, w) uint8 or uint16, 0 outside the masks.
        full_scale: the grey level that counts as 1.
    """

    masks: np.ndarray
    levels: np.ndarray
    full_scale: int

    @cached_property
    def _indices(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.nonzero(self.masks)

    @cached_property
    def cell(self) -> np.ndarray:
        """The cell that a pixel belongs to, 0..n-1: (P,)."""
        return self._indices[0]

    @cached_property
    def row(self) -> np.ndarray:
        """Row of a pixel in the bounding box of its cell: (P,)."""
        return self._indices[1] - self.masks.any(axis=2).argmax(axis=1)[self.cell]

    @cached_property
    def column(self) -> np.ndarray:
        """Column of a pixel in the bounding box of its cell: (P,)."""
        return self._indices[2] - self.masks.any(axis=1).argmax(axis=1)[self.cell]

    @cached_property
    def area(self) -> np.ndarray:
        """Pixels of each cell: (n,)."""
        return np.bincount(self.cell)

    @cached_property
    def start(self) -> np.ndarray:
        """Where the pixels of each cell begin: (n,)."""
        return np.cumsum(self.area) - self.area

    @cached_property
    def grey(self) -> np.ndarray:
        """Grey levels: (C, P) int64."""
        return np.stack([plane[self.masks] for plane in self.levels]).astype(np.int64)

    @cached_property
    def values(self) -> np.ndarray:
        """Grey levels as fractions of full scale: (C, P) float64."""
        return self.grey / self.full_scale

    @cached_property
    def column_of_cells(self) -> np.ndarray:
        """Labels 1..n of the cells, one below the other, background around each: (Y, X).

        The foreground lists the pixels in the order of the block.
        """
        n, height, width = self.masks.shape
        labels = self.masks * np.arange(1, n + 1)[:, None, None]
        labels = np.pad(labels, ((0, 0), (1, 1), (1, 1)))
        return labels.reshape(n * (height + 2), width + 2)

    @cached_property
    def ranks(self) -> np.ndarray:
        """Rank of a pixel among the different grey levels of its cell, from 0: (C, P)."""
        return np.stack([_dense_ranks(self, grey) for grey in self.grey])

    @cached_property
    def rings(self) -> tuple[np.ndarray, np.ndarray]:
        """Ring and wedge of each pixel around the innermost one of its cell: (P,) and (P,)."""
        return _rings_and_wedges(self)

    @cached_property
    def _membership(self) -> "scipy.sparse.csr_array":
        pixels = len(self.cell)
        bounds = np.append(self.start, pixels)
        return scipy.sparse.csr_array(
            (np.ones(pixels), np.arange(pixels), bounds), shape=(len(self.area), pixels)
        )

    def sums(self, weights: np.ndarray) -> np.ndarray:
        """Sum over the pixels of each cell: (P,) -> (n,), exact for integers.

        Fractions are added in the order of the pixels, as by `np.bincount` in a fifth of its time.
        """
        if weights.dtype.kind in "iub":
            return np.add.reduceat(weights, self.start, dtype=np.int64)
        return self._membership @ weights

    def maxima(self, values: np.ndarray) -> np.ndarray:
        """Largest value of each cell: (P,) -> (n,)."""
        return np.maximum.reduceat(values, self.start)


def _dense_ranks(block: Block, grey: np.ndarray) -> np.ndarray:
    """`Block.ranks` of one channel."""
    levels = int(grey.max()) + 1
    place = block.cell * levels + grey
    occurs = np.zeros(len(block.area) * levels, dtype=bool)
    occurs[place] = True
    ranks = np.cumsum(occurs.reshape(-1, levels), axis=1, dtype=np.int32) - 1  # (n, levels)
    return ranks.ravel()[place]


def order_in_cells(cell: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Order by cell and, within it, by level, both 0..65535: (P,) and (P,) -> (P,).

    Two stable sorts of 16-bit numbers, radix sorts, take a tenth of one sort of joint keys.
    """
    order = np.argsort(level.astype(np.uint16), kind="stable")
    return order[np.argsort(cell[order].astype(np.uint16), kind="stable")]


def codeviation(
    count: np.ndarray, first: np.ndarray, second: np.ndarray, product: np.ndarray
) -> np.ndarray:
    """Σ (f - mean f) (s - mean s) from the integers Σ f, Σ s and Σ f s, without cancellation.

    The whole parts of the means are taken off in integers, only the remainders in float64.
    """
    count = np.maximum(count, 1)
    (mean_1, rest_1), (mean_2, rest_2) = np.divmod(first, count), np.divmod(second, count)
    whole = product - mean_1 * second - mean_2 * first + count * mean_1 * mean_2
    return whole - rest_1 * (rest_2 / count)


def _rings_and_wedges(block: Block) -> tuple[np.ndarray, np.ndarray]:
    """`Block.rings`."""
    from centrosome.propagate import propagate

    labels = block.column_of_cells
    inside = labels > 0
    to_edge = scipy.ndimage.distance_transform_edt(inside)[inside]  # (P,)
    innermost = np.flatnonzero(to_edge == block.maxima(to_edge)[block.cell])
    centre = innermost[np.unique(block.cell[innermost], return_index=True)[1]]  # (n,), the first
    seeds = np.zeros(labels.shape, int)
    seeds.flat[np.flatnonzero(inside)[centre]] = 1
    _, distances = propagate(np.zeros(labels.shape), seeds, inside, 1)
    from_centre = distances[inside]
    ring = (RINGS * from_centre / (from_centre + to_edge + 0.001)).astype(int)

    down = block.row - block.row[centre][block.cell]
    right = block.column - block.column[centre][block.cell]
    return ring, (down > 0) + 2 * (right > 0) + 4 * (np.abs(down) > np.abs(right))
