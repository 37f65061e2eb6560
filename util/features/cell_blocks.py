"""The measurements of a block of cells: what a worker process of `cell_features` does.

It starts in a third of the time because neither PyTorch nor pandas is imported here.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Literal

import numpy as np

from util.features.block import Block, Features
from util.features.cell_masks import find_masks
from util.features.correlation import costes, manders, pearson, rank_weighted
from util.features.distribution import radial_distribution, zernike_moments
from util.features.granularity import granularity
from util.features.intensity import intensity
from util.features.texture import texture
from util.workers import end_with_parent

Groups = Literal["fast", "full"]

# Not features of a cell: where it lies among the others (or in the field of view), and moments that
# are zero by definition and hold nothing but rounding, or undefined.
POSITION = re.compile(
    r"(^|_)(Location_|AreaShape_(Center|BoundingBoxM(in|ax)imum)_[XYZ]$|"
    r"AreaShape_(Central|Normalized)Moment_(0_1|1_0)$|AreaShape_NormalizedMoment_0_0$)"
)


def measure_block(
    images: np.ndarray, masked: bool, names: Sequence[str], groups: Groups, full_scale: int
) -> tuple[Features, np.ndarray]:
    """Measure the cells of one block.

    Args:
        images: (n, C, S, S) uint8 or uint16.
        masked: whether the background is exactly 0 (see `find_masks`).
        names: C names of the channels.
        groups: "fast" or "full".
        full_scale: the grey level that counts as 1.

    Returns:
        Columns of n values, without positions, and whether each cell was found, (n,) bool.
    """
    from threadpoolctl import threadpool_limits

    end_with_parent()
    masks, found = find_masks(images, masked)
    block = _cut_out(images, masks, full_scale)
    columns = {}
    # An undefined value (a constant channel, an empty ring) is NaN in the table, no reason to warn.
    # One thread: the matrices are so small that threads wait for each other.
    with warnings.catch_warnings(), np.errstate(all="ignore"), threadpool_limits(limits=1):
        warnings.simplefilter("ignore", RuntimeWarning)
        for name, values in _measurements(block, names, groups):
            if not POSITION.search(name):
                columns[name] = np.asarray(values, dtype=np.float64)  # (n,)
    return columns, found


def _cut_out(images: np.ndarray, masks: np.ndarray, full_scale: int) -> Block:
    """The cells, each in a tile, with all else set to 0.

    The tile is the smallest that holds the largest cell: empty margins cost time and say nothing.

    Args:
        images: (n, C, S, S) uint8 or uint16.
        masks: (n, S, S) bool, none empty.
        full_scale: the grey level that becomes 1.
    """
    size = images.shape[-1]
    rows, columns = masks.any(axis=2), masks.any(axis=1)  # (n, S)
    tile = max(_extent(rows).max(), _extent(columns).max())
    top = np.minimum(rows.argmax(axis=1), size - tile)[:, None] + np.arange(tile)  # (n, tile)
    left = np.minimum(columns.argmax(axis=1), size - tile)[:, None] + np.arange(tile)
    cell = np.arange(len(images))
    crop = (cell[:, None, None], top[:, :, None], left[:, None, :])  # (n, tile, tile)
    masks = masks[crop]
    levels = images.swapaxes(0, 1)[:, *crop] * masks  # (C, n, tile, tile)
    return Block(masks, levels, full_scale)


def _extent(occupied: np.ndarray) -> np.ndarray:
    """Distance from the first to the last True of each row, both included: (n, S) -> (n,)."""
    return occupied.shape[1] - occupied.argmax(axis=1) - occupied[:, ::-1].argmax(axis=1)


def _measurements(
    block: Block, names: Sequence[str], groups: Groups
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and (n,) values of every measurement of the cells of a block."""
    from cp_measure.core.measureobjectsizeshape import get_feret, get_sizeshape

    full = groups == "full"
    labels = block.column_of_cells
    shape = get_sizeshape(labels, None, calculate_advanced=full) | get_feret(labels, None)
    yield from ((f"AreaShape_{name}", values) for name, values in shape.items())
    if full:
        shape_moments, intensity_moments = zernike_moments(block)
        yield from ((f"AreaShape_{name}", values) for name, values in shape_moments.items())
        for channel, measured in zip(names, intensity_moments, strict=True):
            yield from ((f"{name}_{channel}", values) for name, values in measured.items())

    spectra = granularity(block) if full else []
    for index, channel in enumerate(names):
        measured = intensity(block, index)
        if full:
            measured |= texture(block, index)
            measured |= radial_distribution(block, index)
            measured |= spectra[index]
        yield from ((f"{name}_{channel}", values) for name, values in measured.items())

    for first, second in combinations(range(len(names)), 2):
        measured = pearson(block, first, second)
        measured |= manders(block, first, second)
        if full:
            measured |= rank_weighted(block, first, second)
            measured |= costes(block, first, second)
        pair = f"{names[first]}_{names[second]}"
        yield from ((f"{name}_{pair}", values) for name, values in measured.items())
