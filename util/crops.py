"""Crops of cells at their own size, and their way to the size of the network's input.

The size of the largest crop is known only when all have been read. So crops that fit are padded
into the array of inputs at once; from the first larger one on, every crop is written one after
another into a file beside that array, from which the inputs are made when all are known. The file
stays: hand-crafted features are measured on original pixels.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from util.errors import explain_os_error
from util.fitting import Fitter, choose_scale, scale_notes

Fit = Literal["scale", "squeeze"]

PIXELS_FILE, SHAPES_FILE = "originals.bin", "shapes.npy"
AT_A_TIME = 512  # crops rescaled together


@dataclass(frozen=True)
class Crops:
    """N crops (C, H, W) of different sizes.

    Attributes:
        pixels: one after another, uint8 or uint16, an array or a memory map.
        starts: (N,) place of the first pixel of each.
        shapes: (N, 2) height and width.
        padding: (C,) value around a crop.
    """

    pixels: np.ndarray
    starts: np.ndarray
    shapes: np.ndarray
    padding: np.ndarray

    @classmethod
    def one_after_another(
        cls, pixels: np.ndarray, shapes: np.ndarray, padding: Sequence[float]
    ) -> "Crops":
        """Crops without gaps between them."""
        sizes = shapes.prod(axis=1, dtype=np.int64) * len(padding)
        return cls(pixels, np.cumsum(sizes) - sizes, shapes, np.asarray(padding))

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, row: int) -> np.ndarray:
        channels, (height, width), start = len(self.padding), self.shapes[row], self.starts[row]
        flat = self.pixels[start : start + channels * height * width]
        return flat.reshape(channels, height, width)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    @property
    def dtype(self) -> np.dtype:
        """Type of the pixels."""
        return self.pixels.dtype

    def subset(self, places: np.ndarray) -> "Crops":
        """Some of the crops, in the given order of their row numbers."""
        return replace(self, starts=self.starts[places], shapes=self.shapes[places])

    def padded(self, rows: Sequence[int], side: int) -> np.ndarray:
        """(n, C, side, side) of some crops that fit."""
        pad = Fitter(side, self.padding)
        return np.stack([pad(self[row]) for row in rows])

    def fingerprint(self) -> str:
        """SHA-256 of sizes, type and pixels."""
        digest = hashlib.sha256(f"{self.shapes.tolist()} {self.dtype}".encode())
        for crop in self:
            digest.update(np.ascontiguousarray(crop).data)
        return digest.hexdigest()


def read_crops(folder: Path, dtype: np.dtype, padding: Sequence[float]) -> Crops | None:
    """The crops that a `CropWriter` left in a folder; None where every crop fitted the input.

    Raises:
        ValueError: a file is damaged.
    """
    if not (folder / SHAPES_FILE).is_file():
        return None
    shapes = np.load(folder / SHAPES_FILE)
    pixels = np.memmap(folder / PIXELS_FILE, dtype, mode="r")
    if len(pixels) != shapes.prod(axis=1).sum() * len(padding):
        raise ValueError(f"{folder / PIXELS_FILE} has {len(pixels)} pixels")
    return Crops.one_after_another(pixels, shapes, padding)


class CropWriter:
    """Fills an array of inputs with crops that come one by one.

    Args:
        inputs: (N, C, S, S) to fill from its first row on.
        padding: (C,) value around smaller crops.
        fit: `scale` gives all crops one factor, so that sizes and shapes stay comparable; `squeeze`
            brings each larger crop alone to S x S, whatever its aspect.
        folder: where crops are kept at their own size once one is larger than the input; None for
            memory.
    """

    def __init__(self, inputs: np.ndarray, padding: np.ndarray, fit: Fit, folder: Path | None):
        self.inputs, self.padding, self.fit, self.folder = inputs, padding, fit, folder
        self.size = inputs.shape[-1]
        self.pad = Fitter(self.size, padding)
        self.shapes: list[tuple[int, int]] = []
        self.kept: list[np.ndarray] = []  # where there is no folder
        self.file: BinaryIO | None = None
        self.any_larger = False

    def padded(self, crop: np.ndarray) -> np.ndarray | None:
        """A crop padded to the input size, for `add`; None where it is larger. Safe in threads."""
        return self.pad(crop) if max(crop.shape[1:]) <= self.size else None

    def add(self, crop: np.ndarray, padded: np.ndarray | None = None) -> None:
        """Take in the next crop, (C, H, W) in the type of the inputs, perhaps padded already.

        Raises:
            DiskFullError: the crops do not fit on the disk.
        """
        if not self.any_larger and max(crop.shape[1:]) > self.size:
            self.any_larger = True
            for row in range(len(self.shapes)):
                self._keep(self._cut_out(row))
        if self.any_larger:
            self._keep(crop)
        else:
            self.inputs[len(self.shapes)] = self.pad(crop) if padded is None else padded
        self.shapes.append(crop.shape[1:])

    def _cut_out(self, row: int) -> np.ndarray:
        """A crop that has been padded, without its padding."""
        height, width = self.shapes[row]
        top, left = self.pad.corner(height, width)
        return self.inputs[row, :, top : top + height, left : left + width]

    def _keep(self, crop: np.ndarray) -> None:
        if self.folder is None:
            self.kept.append(crop.ravel())
            return
        with explain_os_error(self.folder):
            self.file = self.file or (self.folder / PIXELS_FILE).open("wb")
            self.file.write(np.ascontiguousarray(crop).data)

    def finish(self) -> tuple[Crops | None, list[str]]:
        """Fill the inputs to the last row; returns the crops, None if all fitted, and notes."""
        if not self.any_larger:
            return None, []
        crops = self._crops()
        scale = choose_scale(crops.shapes, self.size) if self.fit == "scale" else None
        fit = Fitter(self.size, self.padding, scale)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(crops), AT_A_TIME):
                rows = range(start, min(start + AT_A_TIME, len(crops)))
                fitted = pool.map(fit, map(crops.__getitem__, rows))
                for row, image in zip(rows, fitted, strict=True):
                    self.inputs[row] = image
        return crops, scale_notes(crops.shapes, self.size, scale)

    def _crops(self) -> Crops:
        shapes = np.array(self.shapes)
        if self.folder is None:
            return Crops.one_after_another(np.concatenate(self.kept), shapes, self.padding)
        with explain_os_error(self.folder):
            self.file.close()
            np.save(self.folder / SHAPES_FILE, shapes)
        return read_crops(self.folder, self.inputs.dtype, self.padding)
