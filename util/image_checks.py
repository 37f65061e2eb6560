"""What is odd about the images of a set: constant or identical ones, dead or saturated channels."""

import hashlib
from dataclasses import dataclass

import numpy as np

from util.metadata import count_and_name

DEAD = 0.9  # share of the cells within which a channel has one value, above which it shows nothing
SATURATED = 0.01  # share of the pixels of a channel at the highest number that is worth a warning


@dataclass(frozen=True)
class Seen:
    """What is remembered of an image (C, H, W).

    Attributes:
        low, high: (C,) least and highest number of each channel.
        at_top: (C,) pixels at the highest number of the type.
        grey: (C,) whether there is a number between 0 and that.
        pixels: H x W.
        digest: the same for identical images.
    """

    low: np.ndarray
    high: np.ndarray
    at_top: np.ndarray
    grey: np.ndarray
    pixels: int
    digest: bytes


def look_at(image: np.ndarray) -> Seen:
    """Look at an image (C, H, W), uint8 or uint16."""
    top = np.iinfo(image.dtype).max
    flat = np.ascontiguousarray(image.reshape(len(image), -1))
    low, high = flat.min(axis=1), flat.max(axis=1)
    at_top = np.zeros(len(flat), np.int64)
    grey = ((low > 0) & (low < top)) | ((high > 0) & (high < top))
    for channel in np.flatnonzero(high == top):  # few images: counting takes longest
        at_top[channel] = np.count_nonzero(flat[channel] == top)
        black = flat.shape[1] - np.count_nonzero(flat[channel])
        grey[channel] |= at_top[channel] + black < flat.shape[1]
    key = hashlib.blake2b(flat, digest_size=16)
    key.update(str(image.shape).encode())
    return Seen(low, high, at_top, grey, pixels=flat.shape[1], digest=key.digest())


class ImageChecks:
    """What the images of a set have in common; a few bytes are kept of each.

    Args:
        dtype: of the images, uint8 or uint16.
    """

    def __init__(self, dtype: np.dtype):
        self.top = np.iinfo(dtype).max
        self.n_images = self.pixels = 0
        self.at_top: np.ndarray | int = 0  # (C,) pixels at the highest number
        self.grey: np.ndarray | bool = False  # (C,) whether there is a number between 0 and that
        self.flat: np.ndarray | int = 0  # (C,) images in which a channel has one value
        self.constant: dict[str, None] = {}
        self.first: dict[bytes, str] = {}
        self.copies: list[tuple[str, str]] = []

    def add(self, name: str, seen: Seen) -> None:
        """Take in an image."""
        self.n_images += 1
        self.pixels += seen.pixels
        self.at_top = self.at_top + seen.at_top
        self.grey = self.grey | seen.grey
        flat = seen.low == seen.high
        self.flat = self.flat + flat
        if flat.all():
            self.constant[name] = None
        first = self.first.setdefault(seen.digest, name)
        if first is not name:
            self.copies.append((name, f"as {first}"))

    def warnings(self) -> list[tuple[int | None, str]]:
        """A line for each thing that is odd, and the channel whose name begins it, or None."""
        if self.n_images == 0:
            return []
        notes: list[tuple[int | None, str]] = []
        if self.constant:
            said = count_and_name("images are constant in every channel", [*self.constant])
            notes.append((None, said))
        most = DEAD * self.n_images
        for channel in np.flatnonzero((self.flat > most) & (len(self.constant) <= most)):
            said = f"is dead: it has one value within {self.flat[channel]} of {self.n_images} cells"
            notes.append((int(channel), said))
        shares = self.at_top / self.pixels
        for channel in np.flatnonzero(self.grey & (shares >= SATURATED)):
            said = f"is saturated: {shares[channel]:.1%} of its pixels are {self.top}"
            notes.append((int(channel), said))
        copies = [copy for copy in self.copies if copy[0] not in self.constant]
        if copies:
            notes.append((None, count_and_name("images are identical to another one", copies)))
        return notes
