"""Granularity spectra (Ravkin and Temov 1988).

The opening is by reconstruction (Vincent 1993, IEEE Trans. Image Process. 2:176).
"""

import numpy as np

from util.features.block import Block, Features

BACKGROUND_RADIUS = 10  # pixels; of the opening that is subtracted as background
SPECTRUM_LENGTH = 8  # pixels


def granularity(block: Block) -> list[Features]:
    """Per channel the percentage of intensity that goes with each erosion by one pixel.

    At full resolution. The background, an opening by a disc, is subtracted first. What an erosion
    leaves is reconstructed under the image, so that only what it wiped out is missing.
    """
    channels, n = block.levels.shape[:2]
    rim = ((0, 0), (0, 0), (1, 1), (1, 1))
    levels = np.pad(block.levels, rim)  # (C, n, h + 2, w + 2)
    image = (levels - _disc_opening(levels, BACKGROUND_RADIUS)).reshape(-1, *levels.shape[2:])

    def means(planes: np.ndarray) -> np.ndarray:  # (C, n)
        return planes.sum(axis=(1, 2), dtype=np.int64).reshape(channels, n) / (
            block.area * block.full_scale
        )

    current = means(levels.reshape(image.shape))
    first = np.maximum(current, np.finfo(float).eps)
    features: list[Features] = [{} for _ in range(channels)]
    eroded = opened = image
    for radius in range(1, SPECTRUM_LENGTH + 1):
        eroded = _erode(eroded)
        # What a smaller erosion lost is lost to a larger one too.
        opened = _reconstruct(eroded, opened)
        before, current = current, means(opened)
        for channel, spectrum in enumerate(features):
            spectrum[f"Granularity_{radius}"] = (
                (before[channel] - current[channel]) * 100 / first[channel]
            )
    return features


def _disc_opening(image: np.ndarray, radius: int) -> np.ndarray:
    """Erosion, then dilation by the pixels within `radius`, 0 outside the image: (..., h, w)."""
    return _filter_disc(np.maximum, _filter_disc(np.minimum, image, radius), radius)


def _filter_disc(extreme: np.ufunc, image: np.ndarray, radius: int) -> np.ndarray:
    """Minimum or maximum over a disc, the union of the upright rectangles in it."""
    widths = [int(np.sqrt(radius**2 - height**2)) for height in range(radius + 1)] + [-1]
    rectangles = [(h, w) for h, w in enumerate(widths[:-1]) if widths[h + 1] < w]
    filtered = None
    for height, width in rectangles:
        part = _filter_line(extreme, _filter_line(extreme, image, width, -1), height, -2)
        filtered = part if filtered is None else extreme(filtered, part, out=filtered)
    return filtered


def _filter_line(extreme: np.ufunc, image: np.ndarray, reach: int, axis: int) -> np.ndarray:
    """Minimum or maximum over 2 reach + 1 pixels along an axis, 0 outside the image."""
    margin = [(0, 0)] * image.ndim
    margin[axis] = (reach, reach)
    values = np.moveaxis(np.pad(image, margin), axis, 0)
    length, span = 2 * reach + 1, 1
    while 2 * span <= length:
        values = extreme(values[:-span], values[span:])
        span *= 2
    if span < length:
        values = extreme(values[: span - length], values[length - span :])
    return np.moveaxis(values, 0, axis)


def _erode(planes: np.ndarray) -> np.ndarray:
    """Minimum over a pixel and its 4 neighbours in planes with a rim of zeros: (k, h, w)."""
    eroded = planes.copy()
    _extreme_of_neighbours(np.minimum, planes, eroded)
    return eroded


def _extreme_of_neighbours(extreme: np.ufunc, planes: np.ndarray, out: np.ndarray) -> None:
    """Minimum or maximum of each pixel and its 4 neighbours, rims taken across planes.

    One long row of pixels, since short ones cost more than the work on them.
    """
    source, target, row = planes.ravel(), out.ravel(), planes.shape[-1]
    middle = target[row:-row]
    extreme(source[row:-row], source[: -2 * row], out=middle)
    extreme(middle, source[2 * row :], out=middle)
    extreme(middle, source[row - 1 : -row - 1], out=middle)
    extreme(middle, source[row + 1 : len(source) - row + 1], out=middle)


def _reconstruct(marker: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Grow the marker under the mask, pixel by pixel, until nothing changes: (k, h, w).

    Planes that are done drop out. Some steps run between two looks, since a look costs as much.
    """
    grown, active = marker.copy(), np.arange(len(marker))
    current, following, limit = marker.copy(), np.zeros_like(marker), mask
    while len(active):
        for _ in range(_STEPS_BETWEEN_LOOKS):
            _extreme_of_neighbours(np.maximum, current, following)
            np.minimum(following, limit, out=following)
            current, following = following, current
        grown[active] = current
        changed = (current != following).any(axis=(1, 2))
        active, limit = active[changed], limit[changed]
        current, following = current[changed], following[changed]
    return grown


_STEPS_BETWEEN_LOOKS = 8
