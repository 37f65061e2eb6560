"""How the numbers of an image set become 8 or 16 bit: one rule for the whole set.

8-bit and 16-bit images keep their numbers. Other integers within 0..65535 do, too. Floats in 0..1
take all 16 bits, where a little beyond (interpolation overshoots) is clipped and counted. Whatever
else there is, floats or integers, is spread over 16 bits per channel, from the 0.01 to the 99.99
percentile of the set, as 16-bit channels are scaled for the network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from util.errors import UserError

TOP = 65_535
OVERSHOOT = 0.05  # beyond 0..1 that interpolation leaves
TAIL = 1e-4  # of the pixels, beyond which a number does not stretch the range


@dataclass(frozen=True)
class Numbers:
    """The rule of a set.

    Attributes:
        rule: `kept`, or `unit` for floats in 0..1, or `ranged` between `low` and `high`.
        dtype: of the result, uint8 or uint16.
        low, high: (C,) numbers of the files that become 0 and 65,535; of `ranged` alone.
    """

    rule: Literal["kept", "unit", "ranged"]
    dtype: np.dtype
    low: np.ndarray | None = None
    high: np.ndarray | None = None

    def convert(self, images: np.ndarray, name: str) -> tuple[np.ndarray, int]:
        """Images (..., C, H, W) in the type of the set, and how many pixels were clipped.

        Of a `ranged` set none are counted: a percentile is chosen to clip.

        Args:
            images: in the numbers of the file.
            name: of the file, for an error.

        Raises:
            UserError: a pixel is NaN or infinite.
        """
        if images.dtype == self.dtype:
            return images, 0
        if images.dtype == bool:
            return images * np.uint8(255), 0
        refuse_not_finite(images, name)
        top = np.iinfo(self.dtype).max
        if self.rule == "kept":
            clipped = np.count_nonzero((images < 0) | (images > top))
            return images.clip(0, top).astype(self.dtype), clipped
        if self.rule == "unit":
            clipped = np.count_nonzero((images < 0) | (images > 1))
            return np.round(images.astype(np.float64).clip(0, 1) * top).astype(self.dtype), clipped
        low, high = self.low[:, None, None], self.high[:, None, None]
        shares = (images.astype(np.float64) - low) / (high - low)
        return np.round(shares.clip(0, 1) * top).astype(self.dtype), 0

    def notes(self, clipped: int) -> list[str]:
        """What was done to the numbers, in at most one line for the user."""
        if self.rule == "ranged":
            ranges = "; ".join(
                f"{low:g} to {high:g}" for low, high in zip(self.low, self.high, strict=True)
            )
            return [f"pixels are neither 8 or 16 bit nor in 0..1: scaled per channel from {ranges}"]
        where = "0..1" if self.rule == "unit" else f"0..{np.iinfo(self.dtype).max}"
        return [f"{clipped:,} pixels outside of {where} were clipped"] if clipped else []


def kind_of(images: np.ndarray) -> str:
    """`8 bit`, `16 bit or whole numbers`, or `floats`: images of one set are of one kind."""
    if images.dtype in (np.uint8, bool):
        return "8 bit"
    return "floats" if images.dtype.kind == "f" else "16 bit or whole numbers"


def choose_numbers(images: Sequence[np.ndarray], masked: bool, name: str) -> Numbers:
    """The rule for a set.

    Args:
        images: (C, H, W) each, of one kind and finite; some of the set.
        masked: whether crops are 0 outside the cell, so that 0 stays 0.
        name: of the source, for an error.

    Raises:
        UserError: the pixels are no real numbers.
    """
    dtype = images[0].dtype
    if dtype.kind == "b":
        return Numbers("kept", np.dtype(np.uint8))
    if dtype in (np.uint8, np.uint16):
        return Numbers("kept", dtype)
    if dtype.kind not in "iuf":
        raise UserError(f"{name} has pixels of the type {dtype}: give integers or floats")
    least = min(float(image.min()) for image in images)
    most = max(float(image.max()) for image in images)
    if dtype.kind == "f" and -OVERSHOOT <= least and most <= 1 + OVERSHOOT:
        return Numbers("unit", np.dtype(np.uint16))
    if dtype.kind in "iu" and least >= 0 and most <= TOP:
        return Numbers("kept", np.dtype(np.uint16))
    channels = [
        np.concatenate([image[c].ravel() for image in images]).astype(np.float64)
        for c in range(len(images[0]))
    ]
    if masked and least >= 0:
        low = np.zeros(len(channels))
        channels = [pixels[pixels > 0] if (pixels > 0).any() else pixels for pixels in channels]
    else:
        low = np.array([np.quantile(pixels, TAIL) for pixels in channels])
    high = np.array([np.quantile(pixels, 1 - TAIL) for pixels in channels])
    return Numbers("ranged", np.dtype(np.uint16), low, np.where(high > low, high, low + 1))


def refuse_not_finite(images: np.ndarray, name: str) -> None:
    """Raise a UserError if a pixel is NaN or infinite."""
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        raise UserError(
            f"{name} holds NaN or infinite pixels: replace them, or leave these images out"
        )
