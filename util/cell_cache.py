"""The cache of a data set in one folder: images at the input size, facts about them, and the crops
at their own size where some are larger than the input.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np

from util.crops import Crops, read_crops
from util.errors import UserError, explain_os_error
from util.runs import read_json

BLOCK = 512  # images copied or hashed at a time


def cache_folder(beside: Path, name: str) -> Path | None:
    """A hidden folder beside the source, else in the user's cache; None if neither can be written.

    Permission bits count also for root, whom the system would let write into a read-only data
    folder.
    """
    owner = beside if beside.is_dir() else beside.parent
    if beside.is_dir() and owner.stat().st_mode & 0o222 and os.access(owner, os.W_OK):
        return beside / f".{name}"
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vae-cell-profiling"
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return home / f"{hashlib.sha256(str(beside.resolve()).encode()).hexdigest()[:12]}.{name}"


class CellCache:
    """`images.npy`, `facts.json` and perhaps crops in one folder, valid for one stamp of the
    source.
    """

    def __init__(self, folder: Path | None, stamp: str):
        self.folder = folder
        self.stamp = stamp
        self.in_memory: tuple[np.ndarray, dict, Crops | None] | None = None

    def fresh(self) -> bool:
        """Whether the folder holds the images of this stamp, undamaged as far as its facts tell."""
        if self.folder is None or not (self.folder / "facts.json").is_file():
            return False
        try:
            facts = read_json(self.folder / "facts.json")
            if facts.get("stamp") != self.stamp:
                return False
            images, _, _ = self.load()
        except (UserError, OSError, ValueError):
            return False
        return len(images) == facts.get("rows")

    def load(self) -> tuple[np.ndarray, dict, Crops | None]:
        """Images (N, C, S, S), a read-only memory map where on disk, the facts, and the crops at
        their own size, or None where all fit the input.
        """
        if self.in_memory is not None:
            return self.in_memory
        images = np.load(self.folder / "images.npy", mmap_mode="r")
        facts = read_json(self.folder / "facts.json")
        return images, facts, read_crops(self.folder, images.dtype, facts["padding"])

    def writing(self, shape: tuple[int, ...], dtype: np.dtype) -> "CacheWriter":
        """Context that gives a writer with `images` to fill; its `finish` is called when they are
        full.
        """
        return CacheWriter(self, shape, dtype)


class CacheWriter:
    """Context that fills a new cache in a temporary folder and puts it in place whole.

    Attributes:
        images: (N, C, S, S) to fill.
        folder: the temporary one; None where nothing can be written.
    """

    def __init__(self, cached: CellCache, shape: tuple[int, ...], dtype: np.dtype):
        self.cached, self.shape, self.dtype = cached, shape, dtype
        self.folder: Path | None = None

    def __enter__(self):
        target = self.cached.folder
        if target is not None:
            try:
                self.folder = target.with_name(f"{target.name}.{os.getpid()}.new")
                shutil.rmtree(self.folder, ignore_errors=True)
                self.folder.mkdir(parents=True)
                self.images = _reserve(self.folder / "images.npy", self.shape, self.dtype)
            except OSError:
                self._give_up()
        if self.folder is None:
            self.images = np.empty(self.shape, self.dtype)
        return self

    def _give_up(self) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder = self.cached.folder = None

    def finish(self, rows: int, facts: dict, originals: Crops | None) -> None:
        """Keep the first `rows` images with their facts and put the cache in place.

        Args:
            rows: images that are filled.
            facts: for `facts.json`.
            originals: the crops at their own size, already in `folder` where there is one.
        """
        facts = {
            **facts,
            "rows": rows,
            "stamp": self.cached.stamp,
            "fingerprint": fingerprint(self.images[:rows]),
        }
        if self.folder is None:
            self.cached.in_memory = (self.images[:rows], facts, originals)
            return
        if rows < len(self.images):
            with explain_os_error(self.folder):
                kept = _reserve(self.folder / "kept.npy", (rows, *self.shape[1:]), self.dtype)
            for start in range(0, rows, BLOCK):
                kept[start : start + BLOCK] = self.images[start : min(start + BLOCK, rows)]
            kept.flush()
            os.replace(self.folder / "kept.npy", self.folder / "images.npy")
        self.images.flush()
        (self.folder / "facts.json").write_text(
            json.dumps(facts, indent=2) + "\n", encoding="utf-8"
        )
        shutil.rmtree(self.cached.folder, ignore_errors=True)
        os.replace(self.folder, self.cached.folder)

    def __exit__(self, kind, value, trace) -> None:
        if self.folder is not None and kind is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def _reserve(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A new memory map whose space on the disk is taken now.

    A full disk is an OSError here, while a write into a map without space would end the process.
    """
    images = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return images


def fingerprint(images: np.ndarray) -> str:
    """SHA-256 of shape, type and pixels, read in blocks."""
    digest = hashlib.sha256(f"{images.shape} {images.dtype}".encode())
    for start in range(0, len(images), BLOCK):
        digest.update(np.ascontiguousarray(images[start : start + BLOCK]).data)
    return digest.hexdigest()
