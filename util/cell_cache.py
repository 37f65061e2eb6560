"""The cache of a data set in one folder: images at the input size, facts about them, and the crops
at their own size where some are larger than the input.
"""

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np

from util.crops import Crops, read_crops
from util.errors import UserError, explain_os_error
from util.files import OWNER, TEMPORARY, TemporaryFolder
from util.runs import read_json

BLOCK = 512  # images copied or hashed at a time
PIECE, PIECES = 2**20, 256  # bytes, and how many such pieces of a file are looked at on opening


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


def cache_name(size: int, *choices: object) -> str:
    """Name of the cache of one input size; what was chosen otherwise than usual is part of it.

    Args:
        size: side of the input in pixels.
        choices: each None where it is the usual one.
    """
    odd = hashlib.sha256(repr(choices).encode()).hexdigest()[:8]
    return f"cells_{size}" + ("" if set(choices) <= {None} else f"-{odd}")


class CellCache:
    """`images.npy`, `facts.json` and perhaps crops, valid for one stamp of the source.

    They lie in a folder named by the stamp, inside `folder`. That folder gets its name in one step,
    when it is complete, and never changes after. So processes that fill the cache at once cannot
    mix their images, and whoever has opened one stamp keeps it while another replaces it. What is
    computed from the images, under names of its own, lies in `folder` itself.
    """

    def __init__(self, folder: Path | None, stamp: str):
        self.folder = folder
        self.stamp, self.place = stamp, stamp[:16]
        self.opened: tuple[np.ndarray, dict, Crops | None] | None = None

    def fresh(self) -> bool:
        """Whether there are images of this stamp whose content is what was written; opens them."""
        if self.folder is None:
            return False
        for place in (
            self.folder / self.place,
            self.folder,
        ):  # the second: where older versions wrote
            with contextlib.suppress(UserError, OSError, ValueError, KeyError, TypeError):
                facts = read_json(place / "facts.json")
                if facts["stamp"] == self.stamp and _undamaged(place, facts):
                    self.opened = _open(place)
                    return True
        return False

    def load(self) -> tuple[np.ndarray, dict, Crops | None]:
        """Images (N, C, S, S), a read-only memory map where on disk, the facts, and the crops at
        their own size, or None where all fit the input. After `fresh` or a writer's `finish`.
        """
        return self.opened

    def writing(self, shape: tuple[int, ...], dtype: np.dtype) -> "CacheWriter":
        """Context that gives a writer with `images` to fill; its `finish` is called when they are
        full.
        """
        return CacheWriter(self, shape, dtype)


def _open(place: Path) -> tuple[np.ndarray, dict, Crops | None]:
    images = np.load(place / "images.npy", mmap_mode="r")
    facts = read_json(place / "facts.json")
    return images, facts, read_crops(place, images.dtype, facts["padding"])


def _undamaged(place: Path, facts: dict) -> bool:
    """Whether the files are those that were written; older versions knew the images alone."""
    if "digests" not in facts:
        return fingerprint(np.load(place / "images.npy", mmap_mode="r")) == facts["fingerprint"]
    return all(_digest(place / name) == digest for name, digest in facts["digests"].items())


def _digest(path: Path) -> str:
    """SHA-256 of the size of a file and of evenly spaced pieces of it, all of it up to 256 MiB."""
    size = path.stat().st_size
    digest, step = hashlib.sha256(str(size).encode()), max(PIECE, size // PIECES)
    with path.open("rb") as file:
        for start in range(0, size, step):
            file.seek(start)
            digest.update(file.read(PIECE))
    return digest.hexdigest()


class CacheWriter:
    """Context that fills a new cache in a temporary folder and puts it in place whole.

    Attributes:
        images: (N, C, S, S) to fill.
        folder: the temporary one; None where nothing can be written.
    """

    def __init__(self, cached: CellCache, shape: tuple[int, ...], dtype: np.dtype):
        self.cached, self.shape, self.dtype = cached, shape, dtype
        self.folder: Path | None = None
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        target = self.cached.folder
        if target is not None:
            try:
                target.mkdir(parents=True, exist_ok=True)
                self.temporary = TemporaryFolder(target / "images")
                self.folder = self.stack.enter_context(self.temporary)
                self.images = _reserve(self.folder / "images.npy", self.shape, self.dtype)
            except OSError:
                self.stack.close()
                self.folder = self.cached.folder = None
        if self.folder is None:
            self.images = np.empty(self.shape, self.dtype)
        return self

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
            self.cached.opened = (self.images[:rows], facts, originals)
            return
        if rows < len(self.images):
            with explain_os_error(self.folder):
                kept = _reserve(self.folder / "kept.npy", (rows, *self.shape[1:]), self.dtype)
            for start in range(0, rows, BLOCK):
                kept[start : start + BLOCK] = self.images[start : min(start + BLOCK, rows)]
            kept.flush()
            os.replace(self.folder / "kept.npy", self.folder / "images.npy")
        self.images.flush()
        names = [path.name for path in self.folder.iterdir() if path.name != OWNER]
        facts["digests"] = {name: _digest(self.folder / name) for name in names}
        (self.folder / "facts.json").write_text(
            json.dumps(facts, indent=2) + "\n", encoding="utf-8"
        )
        self.cached.opened = _open(self.folder)  # stays open, whatever becomes of the folder
        self._publish(self.cached.folder)
        with contextlib.suppress(OSError, UserError):  # another stamp may have replaced it
            # A map that is sent to another process is opened there by its name.
            self.cached.opened = _open(self.cached.folder / self.cached.place)

    def _publish(self, cache: Path) -> None:
        """Put the images in place, unless another process did; remove older ones."""
        place, standing = cache / self.cached.place, CellCache(cache, self.cached.stamp)
        if standing.fresh():
            return
        shutil.rmtree(place, ignore_errors=True)
        with contextlib.suppress(OSError):  # another process has put the same images there
            self.temporary.become(place)
        for path in cache.iterdir():
            if path == place or TEMPORARY.fullmatch(path.name):
                continue
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def __exit__(self, *_) -> None:
        self.stack.close()


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
