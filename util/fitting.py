"""From images of any size to one input size and range: padding, scaling, resizing."""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import skimage

MASKED_BORDER = 0.1  # crops are masked from this share of border pixels 0 in every channel
OUTLIER = 2.0  # times the 99th percentile of the sides
INPUT_SIZES = (32, 64, 128, 256)  # px, sides of the networks' input
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


def choose_scale(shapes: np.ndarray, size: int) -> float:
    """The one factor, at most 1, by which a set is rescaled so that its crops fit the input.

    The largest crop decides, but for outliers (`outliers`), which must not make all others small:
    a `Fitter` gives those a factor of their own.

    Args:
        shapes: (N, 2) height and width of the crops.
        size: side of the input in pixels.
    """
    usual = shapes.max(axis=1)[~outliers(shapes)]
    return min(1.0, size / usual.max())


def outliers(shapes: np.ndarray) -> np.ndarray:
    """(N,) crops (N, 2) whose larger side is more than twice the 99th percentile of the set."""
    sides = shapes.max(axis=1)
    return sides > OUTLIER * np.quantile(sides, 0.99, method="lower")


def scale_notes(shapes: np.ndarray, size: int, scale: float | None) -> list[str]:
    """What was done to a set with crops larger than the input, in lines for the user.

    Args:
        shapes: (N, 2) height and width of the crops.
        size: side of the input in pixels.
        scale: of all crops; None where larger ones were squeezed.
    """
    sides = shapes.max(axis=1)
    larger = f"{(sides > size).sum():,} of {len(sides):,} crops are larger than {size} pixels"
    if scale is None:
        return [f"{larger}: each was squeezed to {size} x {size} alone, so sizes and shapes differ"]
    notes = []
    if scale < 1:
        usual, median = sides[~outliers(shapes)].max(), np.median(sides)
        notes.append(
            f"{larger}: all were rescaled by {scale:.3f}, so that one of {usual} pixels fits (the "
            f"median crop has {median:.0f} pixels, and {scale * median:.0f} in the input); a "
            "larger `image_size` keeps more detail"
        )
    own = outliers(shapes) & (sides * scale > size)
    if own.any():
        notes.append(
            f"{own.sum():,} crops of up to {sides.max()} pixels are more than twice as large as "
            "99 % of the set: each was rescaled alone to fit"
        )
    return notes


class Fitter:
    """Brings images to S x S.

    Args:
        size: S in pixels.
        padding: (C,) value around smaller images.
        scale: factor of every image, at most 1, before it is padded; an image that is still larger
            gets the factor that makes it fit. None squeezes each larger image to S x S, whatever
            its aspect, and leaves the others at their size.
    """

    def __init__(self, size: int, padding: np.ndarray, scale: float | None = None):
        self.size = size
        self.padding = np.round(padding)
        self.scale = scale

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """(..., C, H, W) integers -> (..., C, S, S) of the same type."""
        shape = self._new_shape(*images.shape[-2:])
        if shape != images.shape[-2:]:
            images = _resize(images, shape)
        if shape == (self.size, self.size):
            return images
        out = np.empty((*images.shape[:-2], self.size, self.size), images.dtype)
        out[...] = self.padding[:, None, None]
        (height, width), (top, left) = shape, self.corner(*shape)
        out[..., top : top + height, left : left + width] = images
        return out

    def corner(self, height: int, width: int) -> tuple[int, int]:
        """Row and column at which an image of that size begins."""
        return round((self.size - height) / 2), round((self.size - width) / 2)

    def _new_shape(self, height: int, width: int) -> tuple[int, int]:
        largest = max(height, width)
        if self.scale is None:
            return (self.size, self.size) if largest > self.size else (height, width)
        factor = min(self.scale, self.size / largest)
        return tuple(max(1, round(factor * side)) for side in (height, width))


def _resize(images: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(..., H, W) integers -> (..., *shape), anti-aliased, of the same type."""
    rows, columns = map(_resize_matrix, images.shape[-2:], shape)
    scaled = rows @ images.astype(np.float32) @ columns.T
    return np.clip(np.round(scaled), 0, np.iinfo(images.dtype).max).astype(images.dtype)
