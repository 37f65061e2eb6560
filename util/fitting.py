"""From images of any size to one input size and range: padding, scaling, resizing."""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import skimage

MASKED_BORDER = 0.1  # crops are masked from this share of border pixels 0 in every channel


LOOK_AT = 1000  # images looked at to choose padding and scaling


def choose_padding(images: Sequence[np.ndarray]) -> tuple[bool, np.ndarray]:
    """Zeros for crops masked by the cell's outline, the channel's border median for windows of the
    field.

    Crops count as masked if at least a tenth of all border pixels are 0 in every channel at once.

    Args:
        images: (C, H, W) each, any size.

    Returns:
        masked, and (C,) padding values.
    """
    rims = [
        np.concatenate([im[:, 0], im[:, -1], im[:, 1:-1, 0], im[:, 1:-1, -1]], axis=1)
        for im in images
    ]  # (C, pixels)
    rim = np.concatenate(rims, axis=1)
    masked = bool((rim == 0).all(axis=0).mean() >= MASKED_BORDER)
    padding = np.zeros(len(rim)) if masked else np.median(rim, axis=1)
    return masked, padding


def choose_scaling(images: np.ndarray, masked: bool) -> tuple[np.ndarray, np.ndarray]:
    """Raw values (C,), (C,) that become 0 and 1.

    8-bit images keep 0..255, as in the thesis. 16-bit ones run per channel to the 99.99 percentile
    of all pixels, so that hot pixels (up to one pixel in ten thousand) do not press the cells
    together; from 0 for masked crops, else from the 0.01 percentile. At most `LOOK_AT` images,
    evenly spaced, are looked at.
    """
    n_channels = images.shape[1]
    if images.dtype == np.uint8:
        return np.zeros(n_channels), np.full(n_channels, 255.0)
    some = images[:: math.ceil(len(images) / LOOK_AT)]
    low, high = np.empty(n_channels), np.empty(n_channels)
    for c in range(n_channels):
        pixels = np.sort(some[:, c], axis=None)
        if masked:
            pixels = pixels[np.searchsorted(pixels, 1) :]
        if len(pixels) == 0:
            pixels = np.zeros(1)
        low[c] = 0.0 if masked else np.quantile(pixels, 1e-4)
        high[c] = np.quantile(pixels, 1 - 1e-4)
    return low, np.maximum(high, low + 1)


def scaling_rule(dtype: np.dtype, masked: bool) -> str:
    """The rule of `choose_scaling` in words, for settings.json and the report."""
    if dtype == np.uint8:
        return "0..255 -> 0..1"
    low = "0" if masked else "0.01 percentile"
    return f"per channel, {low} to 99.99 percentile of the pixels -> 0..1"


@cache
def _resize_matrix(length: int, size: int) -> np.ndarray:
    """(size, length) matrix of scikit-image's anti-aliased linear resize along one axis.

    The resize is linear and separable, so what it does to the identity is all there is to know.
    """
    return skimage.transform.resize(
        np.eye(length),
        (size, length),
        order=1,
        anti_aliasing=True,
        mode="reflect",
        preserve_range=True,
        clip=False,
    ).astype(np.float32)


class Fitter:
    """Brings images to S x S: rescaled, whatever their aspect, if a side is larger, else padded to
    the centre.

    Args:
        size: S in pixels.
        padding: (C,) value around smaller images.
    """

    def __init__(self, size: int, padding: np.ndarray):
        self.size = size
        self.padding = np.asarray(padding)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """(..., C, H, W) integers -> (..., C, S, S) of the same type."""
        height, width = images.shape[-2:]
        size = self.size
        if height > size or width > size:
            rows, columns = _resize_matrix(height, size), _resize_matrix(width, size)
            scaled = rows @ images.astype(np.float32) @ columns.T  # (..., C, S, S)
            limit = np.iinfo(images.dtype).max
            return np.clip(np.round(scaled), 0, limit).astype(images.dtype)
        if (height, width) == (size, size):
            return images
        out = np.empty((*images.shape[:-2], size, size), images.dtype)
        out[...] = np.round(self.padding).astype(images.dtype)[:, None, None]
        top, left = round((size - height) / 2), round((size - width) / 2)
        out[..., top : top + height, left : left + width] = images
        return out
