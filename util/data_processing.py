"""From a folder or an array file to cells, from cells to batches on the device.

    source --load_cells--> Cells (images uint8|uint16 (N, C, S, S), table)
           --splitting.split_cells--> train / valid
           --CellBatches--> float batches (B, C, S, S) in 0..1, scaled, augmented, on the device

Images stay integers, with their own range, until they reach the device. What reading and resizing
give is cached beside the source, or in the user's cache folder if the source is read-only, and made
again when a file, its size, its time or the input size changes.
"""

import contextlib
import dataclasses
import hashlib
import math
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from tqdm import tqdm

from util.augmentation import augment
from util.cell_cache import CacheWriter, CellCache, cache_folder, cache_name, fingerprint
from util.crops import Crops, CropWriter, Fit
from util.devices import select_rows, tensor_type
from util.errors import UserError
from util.fitting import INPUT_SIZES, LOOK_AT, choose_padding, choose_scaling, scaling_rule
from util.image_checks import ImageChecks, Seen, look_at
from util.image_files import Meaning, Projection, image_shape, read_array, try_read
from util.image_folders import class_folders, list_images, paths_below
from util.latents import rename_reserved
from util.metadata import count_and_name, join_array, join_metadata, read_array_metadata
from util.pixel_numbers import Numbers, choose_numbers, kind_of, refuse_not_finite
from util.splitting import choose_part

CACHE_VERSION = 3  # raise it when the pixels that load_cells makes change
SIMULATED = Path("DataSets") / "simulated"  # caches of simulated cells
CHUNK = 512  # images read and resized at a time

Fitted = tuple[np.ndarray, np.ndarray | None]  # a crop, and padded to the input where it fits


@dataclass
class Cells:
    """All cells of a data set, at the input size.

    Attributes:
        images: (N, C, S, S) uint8 or uint16, in memory or a read-only memory map.
        table: N rows; `Unique_ID` first, then `class` where the source has class folders, then the
            metadata.
        name: name of the data set, for the run folder.
        masked: whether crops are zero outside the cell (else they are windows of the field).
        padding: (C,) value around an image smaller than the input: 0, or the channel's border
            median.
        low, high: (C,) raw values that become 0 and 1; values beyond are clipped.
        channels: C names.
        notes: what was left out or decided (unreadable files, ids without partner), a line each;
            the warnings come first.
        warnings: what is odd about the images (`image_checks`), a line each, to be read before any
            number.
        originals: the N crops at their own size, where some are larger than the input; features are
            measured on them. None where `images` hold every pixel.
        fingerprint: changes when a pixel does.
        cache: folder for what is derived from the images; None where nothing can be written.
    """

    images: np.ndarray
    table: pd.DataFrame
    name: str
    masked: bool
    padding: np.ndarray
    low: np.ndarray
    high: np.ndarray
    channels: list[str]
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    originals: Crops | None = None
    fingerprint: str = ""
    cache: Path | None = None

    def subset(self, places: np.ndarray) -> "Cells":
        """Some of the cells, in the given order of their row numbers."""
        images = np.asarray(self.images[places])
        table = self.table.iloc[places].reset_index(drop=True)
        return dataclasses.replace(
            self,
            images=images,
            table=table,
            originals=self.originals and self.originals.subset(places),
            fingerprint=fingerprint(images),
        )

    def reference_space(self) -> np.ndarray:
        """(N, C, S, S) pixels as a space whose neighbourhoods a projection should keep.

        8-bit pixels as they are; 16-bit channels scaled to the range that the network sees, float32
        in 0..1, so that no channel dominates.
        """
        if self.images.dtype == np.uint8:
            return self.images
        low, high = (v.astype(np.float32)[:, None, None] for v in (self.low, self.high))
        return np.clip((self.images - low) / (high - low), 0, 1)

    def scaled(self, rows: np.ndarray | slice) -> torch.Tensor:
        """(n, C, S, S) float32 in 0..1 of some cells, in memory."""
        low, high = (
            torch.tensor(v, dtype=torch.float32)[:, None, None] for v in (self.low, self.high)
        )
        return scale_pixels(torch.from_numpy(np.array(self.images[rows])), low, high - low)

    def scaled_padding(self) -> torch.Tensor | None:
        """(C,) padding as the network sees it, 0..1; None if it is 0 throughout."""
        scaled = ((self.padding - self.low) / (self.high - self.low)).clip(0, 1)
        return torch.tensor(scaled, dtype=torch.float32) if scaled.any() else None

    def describe(self) -> dict:
        """What settings.json and the checkpoint remember of the data."""
        return {
            "name": self.name,
            "cells": len(self.table),
            "shape": list(self.images.shape[1:]),
            "dtype": str(self.images.dtype),
            "channels": self.channels,
            "padding": "zero" if self.masked else "border median of each channel",
            "padding_values": self.padding.tolist(),
            "scaling": {
                "rule": scaling_rule(self.images.dtype, self.masked),
                "low": self.low.tolist(),
                "high": self.high.tolist(),
            },
            "fingerprint": self.fingerprint,
        }


@dataclass(frozen=True)
class CellSource:
    """Which cells, and at which size: the settings that scripts share.

    A script's settings inherit these fields, or write them out (`settings.take_fields`).
    """

    dataset: str = "simulated"
    """`simulated` (BBBC031 drawn from its published law), a folder of TIFF, PNG or JPEG images
    (flat or one subfolder per class), or an .npz/.npy file."""
    metadata: str | None = None
    """Table with a row per cell: CSV, Parquet or .h5ad; joined on Unique_ID, and for an array file
    without matching ids by row."""
    label: str | None = None
    """Column of the classes to score by; None takes GT_label, else the class folders."""
    order: tuple[str, ...] = ()
    """Classes in the order of tables, legends and colours, e.g. `DMSO "2 nM" "10 nM"`; the others
    follow in natural order."""
    array_key: str | None = None
    """Name of the images in an .npz; None takes the only array that can be images."""
    array_axes: str | None = None
    """Axes of that array, e.g. NHWC or NCHW; None finds the channel axis."""
    image_size: int | None = 64
    """Side of the square cell images in pixels: 32, 64, 128 or 256. Smaller cells are padded; see
    `fit` for larger ones. None takes the smallest that holds 19 of 20 cells."""
    fit: Fit | None = None
    """How cells larger than that are brought to it: `scale` rescales all cells by one factor, so
    that sizes and shapes stay comparable; `squeeze` brings each larger cell alone to the square,
    as in the thesis. None squeezes the `simulated` cells and scales all others. Features are
    measured on the original pixels."""
    image_axes: str | None = None
    """Axes of every TIFF, e.g. CYX, YXC or ZYX, where the files do not name them; None believes the
    files."""
    project_z: Projection | None = None
    """How focal planes become one image: `max` or `mean`; None refuses images of several planes."""
    channels: tuple[str, ...] = ()
    """Names of the channels in their order, e.g. `DNA Actin`; none takes those of the files."""
    subset: str | None = None
    """Part of the data set: a number of cells, shared out over the classes and always the same
    ones, or a table whose Unique_ID names the cells."""
    simulated_cells: int = 7387
    """Cells to draw when the data set is `simulated`; 7,387 is the size of the real matched set."""
    simulated_seed: int = 0
    """Seed of the simulator, apart from the seed of the run."""

    BEFORE: ClassVar = {"fit": "squeeze"}

    @property
    def fitting(self) -> Fit:
        """The `fit` that is done.

        Simulated cells are about as large as the input. One scale for all lowered m1 from .81 to
        .66 in one run of `--preset views`, so they stay squeezed.
        """
        return self.fit or ("squeeze" if self.dataset == "simulated" else "scale")


def load_cells(
    source: CellSource | str | Path,
    metadata: str | Path | None = None,
    image_size: int | None = CellSource.image_size,
    progress: bool = True,
    **more: Any,
) -> Cells:
    """Turn a source into cells at the input size.

    Args:
        source: which cells, or the path of a data set (`CellSource.dataset`). The label stays text,
            and shares out a `subset` over the classes.
        metadata, image_size, more: fields of `CellSource`, where a path is given.
        progress: show progress bars.

    Raises:
        UserError: a file or value is wrong.
    """
    if not isinstance(source, CellSource):
        metadata = None if metadata is None else str(metadata)
        source = CellSource(str(source), metadata=metadata, image_size=image_size, **more)
    if source.image_size is None:
        source = dataclasses.replace(source, image_size=_side_that_holds(source))
    cells = _load_all(source, progress)
    if source.channels:
        cells = dataclasses.replace(cells, channels=_named(cells.channels, source.channels))
    warnings = [
        text if channel is None else f"{cells.channels[channel]} {text}"
        for channel, text in cells.warnings
    ]
    cells = dataclasses.replace(cells, warnings=warnings, notes=warnings + cells.notes)
    if source.subset is None:
        return cells
    places, notes = choose_part(source.subset, cells.table, source.label)
    return dataclasses.replace(cells.subset(places), notes=cells.notes + notes)


def _named(channels: Sequence[str], names: Sequence[str]) -> list[str]:
    """The names that the user gives to the channels."""
    if len(set(names)) != len(names) or len(names) != len(channels):
        raise UserError(
            f"`channels` {' '.join(names)}: the images have {len(channels)} channels "
            f"({', '.join(channels)}); give one name for each, all different"
        )
    return list(names)


def _load_all(source: CellSource, progress: bool) -> Cells:
    """All cells of a source; its warnings are still pairs of a channel, or None, and a text."""
    dataset, metadata = source.dataset, source.metadata
    if metadata is not None and not Path(metadata).is_file():
        raise UserError(f"`metadata` {metadata}: there is no such file")
    if dataset == "simulated":
        if metadata is not None:
            raise UserError(
                "`metadata`: the simulated cells bring their own table; give `dataset` as well"
            )
        return _load_simulated(source)
    path = Path(dataset)
    if path.is_dir():
        return _load_folder(source, progress)
    if path.is_file() and path.suffix.lower() in (".npz", ".npy"):
        return _load_array(source)
    if path.is_file():
        raise UserError(f"`dataset` {path}: give a folder of images or an .npz/.npy file")
    raise UserError(f"`dataset` {path}: there is no such folder or file")


def _side_that_holds(source: CellSource) -> int:
    """The smallest of `INPUT_SIZES` that holds 19 of 20 cells, else the largest."""
    if source.dataset == "simulated":
        return CellSource.image_size
    path = Path(source.dataset)
    if path.is_dir():
        files = list_images(path)
        meaning = Meaning(source.image_axes, source.project_z)
        with ThreadPoolExecutor() as pool:
            looked_at = files[:: math.ceil(len(files) / LOOK_AT) or 1]
            found = pool.map(lambda file: image_shape(file, meaning), looked_at)
            sides = [max(shape) for shape in found if shape]
    elif path.is_file():
        sides = [max(read_array(path, source.array_key, source.array_axes)[0].shape[2:])]
    else:
        sides = []  # the reader says what is wrong
    holding = np.quantile(sides or [CellSource.image_size], 0.95)
    return next((side for side in INPUT_SIZES if side >= holding), INPUT_SIZES[-1])


def _load_simulated(source: CellSource) -> Cells:
    from util.simulate_cells import simulate_bbbc031

    crops, table = simulate_bbbc031(source.simulated_cells, source.simulated_seed)
    with contextlib.suppress(OSError):  # read-only here: the user's cache folder serves
        SIMULATED.mkdir(parents=True, exist_ok=True)
    images = np.empty((len(crops), 3, source.image_size, source.image_size), np.uint8)
    writer = CropWriter(images, np.zeros(3), source.fitting, folder=None)
    for crop in crops:
        writer.add(np.moveaxis(crop, -1, 0))
    originals, notes = writer.finish()
    return Cells(
        images=images,
        table=table.reset_index(drop=True),
        name="simulated-BBBC031",
        masked=True,
        padding=np.zeros(3),
        low=np.zeros(3),
        high=np.full(3, 255.0),
        channels=["Red", "Green", "Blue"],
        notes=notes,
        originals=originals,
        fingerprint=fingerprint(images),
        cache=cache_folder(SIMULATED, f"cells_{source.image_size}"),
    )


def _load_folder(source: CellSource, progress: bool) -> Cells:
    folder = Path(source.dataset)
    meaning = Meaning(source.image_axes, source.project_z)
    others: Counter[str] = Counter()
    files = list_images(folder, others)
    paths = paths_below(folder, files)
    names = [path.rpartition("/")[2] for path in paths]
    unique = len(set(names)) == len(names)
    table = pd.DataFrame({"Unique_ID": names if unique else paths})
    classes, notes = class_folders(folder, paths, joined=source.metadata is not None)
    if others:
        left_out = ", ".join(f"{n} {ending}" for ending, n in sorted(others.items()))
        notes.append(f"{left_out} files were left out: cells are TIFF, PNG or JPEG")
    if any(classes):
        table["class"] = classes
    if source.metadata is not None:  # before the images, which may take an hour to read
        table, join_notes = join_metadata(table, Path(source.metadata), source.label)
        notes += join_notes

    stamp = hashlib.sha256(
        f"{CACHE_VERSION} {source.image_size} {source.fitting} {meaning}".encode()
    )
    for file, path in zip(files, paths, strict=True):
        try:
            stat = file.stat()
        except FileNotFoundError:  # a link that leads nowhere
            stat = file.lstat()
        stamp.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    name = cache_name(
        source.image_size,
        source.image_axes,
        source.project_z,
        None if source.fitting == "scale" else source.fitting,
    )
    cached = CellCache(cache_folder(folder, name), stamp.hexdigest())
    if not cached.fresh():
        _build_folder_cache(
            cached, source, dict(zip(files, paths, strict=True)), meaning=meaning, progress=progress
        )
    images, facts, originals = cached.load()

    unreadable = dict(facts["unreadable"])
    kept = [i for i, path in enumerate(paths) if path not in unreadable]
    if unreadable:
        notes.append(
            count_and_name(
                "image files could not be read and were left out", list(unreadable.items())
            )
        )
    if not unique:
        notes.append("file names repeat between class folders: Unique_ID is class/file name")
    if facts["alpha_dropped"]:
        notes.append("the alpha channel of images was dropped")
    table = table.iloc[kept]
    return _assemble(
        images,
        table,
        facts,
        name=folder.resolve().name,
        notes=notes,
        originals=originals,
        cache=cached.folder,
    )


def _load_array(source: CellSource) -> Cells:
    path, metadata = Path(source.dataset), source.metadata
    rows = None
    if metadata is not None:  # before the images, which may take an hour to read
        rows = read_array_metadata(Path(metadata), source.label)
    stat = path.stat()
    stamp = hashlib.sha256(
        f"{CACHE_VERSION} {source.image_size} {source.fitting} {stat.st_size} {stat.st_mtime_ns} "
        f"{source.array_key} {source.array_axes}".encode()
    )
    name = cache_name(
        source.image_size,
        source.array_key,
        source.array_axes,
        None if source.fitting == "scale" else source.fitting,
        None if path.suffix == ".npz" else path.suffix,
    )
    cached = CellCache(cache_folder(path.parent, f"{path.stem}.{name}"), stamp.hexdigest())
    if not cached.fresh():
        _build_array_cache(cached, source)
    images, facts, originals = cached.load()
    table = pd.DataFrame({"Unique_ID": [f"cell_{row:06d}" for row in range(len(images))]})
    notes = []
    if rows is not None:
        table, notes = join_array(table, rows, metadata, str(path))
    return _assemble(
        images,
        table,
        facts,
        name=path.stem,
        notes=notes,
        originals=originals,
        cache=cached.folder,
    )


def _assemble(
    images: np.ndarray,
    table: pd.DataFrame,
    facts: dict,
    *,
    name: str,
    notes: list[str],
    originals: Crops | None,
    cache: Path | None,
) -> Cells:
    table, renamed = rename_reserved(table)
    first = ["Unique_ID", *(["class"] if "class" in table else [])]
    return Cells(
        images=images,
        table=table[first + [c for c in table.columns if c not in first]].reset_index(drop=True),
        name=name,
        masked=facts["masked"],
        padding=np.array(facts["padding"]),
        low=np.array(facts["low"]),
        high=np.array(facts["high"]),
        channels=facts["channels"],
        notes=facts["remarks"] + notes + renamed,
        warnings=facts["warnings"],
        originals=originals,
        fingerprint=facts["fingerprint"],
        cache=cache,
    )


def _build_folder_cache(
    cached: CellCache,
    source: CellSource,
    files: dict[Path, str],
    *,
    meaning: Meaning,
    progress: bool,
) -> None:
    folder = Path(source.dataset)
    looked = _look_at_some(folder, list(files), meaning)
    reference_file, reference = looked[0]
    numbers, masked, padding = _rules_of(
        [image for _, image in looked], [str(f) for f, _ in looked]
    )

    def prepare(file: Path) -> tuple[Fitted | None, Seen | str, bool, int]:
        image, reason, alpha = try_read(file, meaning)
        if image is None:
            return None, reason, alpha, 0
        _refuse_other_kind(file, image, reference_file, reference)
        image, clipped = numbers.convert(image, str(file))
        return (image, crops.padded(image)), look_at(image), alpha, clipped

    unreadable, alpha_dropped, n_clipped = [], False, 0
    checks = ImageChecks(numbers.dtype)
    shape = (len(files), len(reference), source.image_size, source.image_size)
    with cached.writing(shape, numbers.dtype) as cache:
        crops = CropWriter(cache.images, padding, source.fitting, cache.folder)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for chunk in _chunks(list(files), f"reading {folder.name}", progress):
                # A chunk at a time: a pool would run ahead and fill the memory.
                prepared = pool.map(prepare, chunk)
                for file, (images, seen, alpha, clipped) in zip(chunk, prepared, strict=True):
                    name = files[file]
                    if images is None:
                        unreadable.append((name, seen))
                        continue
                    checks.add(name, seen)
                    crops.add(*images)
                    alpha_dropped |= alpha
                    n_clipped += clipped
        coloured = len(reference) == 3 and reference_file.suffix.lower() not in (".tif", ".tiff")
        channels = ["Red", "Green", "Blue"] if coloured else channel_names(len(reference))
        _finish(
            cache,
            crops,
            masked,
            unreadable=unreadable,
            alpha_dropped=alpha_dropped,
            channels=channels,
            warnings=checks.warnings(),
            remarks=numbers.notes(n_clipped),
        )


def _finish(cache: CacheWriter, crops: CropWriter, masked: bool, **facts) -> None:
    """Bring all crops to the input size and put the cache in place."""
    originals, notes = crops.finish()
    rows = len(crops.shapes)
    low, high = choose_scaling(cache.images[:rows], masked)
    facts["remarks"] += notes
    facts |= {"masked": masked, "padding": crops.padding.tolist()}
    cache.finish(rows, facts | {"low": low.tolist(), "high": high.tolist()}, originals)


def _rules_of(
    images: Sequence[np.ndarray], names: Sequence[str]
) -> tuple[Numbers, bool, np.ndarray]:
    """What becomes of the numbers of a set, whether it is masked, and its padding (C,).

    Args:
        images: some of the set, (C, H, W) each.
        names: what an error calls each of them.
    """
    for image, name in zip(images, names, strict=True):
        refuse_not_finite(image, name)
    masked, padding = choose_padding(images)
    numbers = choose_numbers(images, masked, names[0])
    if numbers.dtype != images[0].dtype:  # the padding is in the numbers of the result
        converted = [numbers.convert(im, name)[0] for im, name in zip(images, names, strict=True)]
        masked, padding = choose_padding(converted)
    return numbers, masked, padding


def _look_at_some(
    folder: Path, files: list[Path], meaning: Meaning
) -> list[tuple[Path, np.ndarray]]:
    """Readable images, evenly spaced over the files, that agree in channels and kind."""
    reason, looked = "", []
    for file in files[:: math.ceil(len(files) / LOOK_AT) or 1]:
        image, why, _ = try_read(file, meaning)
        if image is None:
            reason = reason or f"{file.name}: {why}"
            continue
        looked.append((file, image))
        _refuse_other_kind(file, image, *looked[0])
    if not looked:
        raise UserError(f"no image of {folder} could be read; {reason}")
    return looked


def channel_names(n_channels: int) -> list[str]:
    """Names of channels that nothing names."""
    return [f"channel_{c}" for c in range(n_channels)]


def _refuse_other_kind(
    file: Path, image: np.ndarray, reference_file: Path, reference: np.ndarray
) -> None:
    kind, expected = kind_of(image), kind_of(reference)
    if (len(image), kind) != (len(reference), expected):
        raise UserError(
            f"{file} has {len(image)} channels of {kind}, but {reference_file} has "
            f"{len(reference)} of {expected}: all images of a data set need the same kind; "
            "convert the file or remove it"
        )


def _chunks(files: list[Path], what: str, progress: bool) -> Iterator[list[Path]]:
    with tqdm(total=len(files), desc=what, unit=" cells", disable=not progress) as bar:
        for start in range(0, len(files), CHUNK):
            chunk = files[start : start + CHUNK]
            yield chunk
            bar.update(len(chunk))


def _build_array_cache(cached: CellCache, source: CellSource) -> None:
    path = Path(source.dataset)
    array, channels = read_array(path, source.array_key, source.array_axes)
    channels = channels or channel_names(array.shape[1])
    some = array[:: max(1, len(array) // LOOK_AT)]
    numbers, masked, padding = _rules_of(list(some), [str(path)] * len(some))
    n_clipped, checks = 0, ImageChecks(numbers.dtype)
    shape = (len(array), array.shape[1], source.image_size, source.image_size)
    with cached.writing(shape, numbers.dtype) as cache:
        crops = CropWriter(cache.images, padding, source.fitting, cache.folder)
        for start in range(0, len(array), CHUNK):
            block, clipped = numbers.convert(array[start : start + CHUNK], str(path))
            n_clipped += clipped
            for row, image in enumerate(block, start):
                crops.add(image)
                checks.add(f"cell_{row:06d}", look_at(image))
        _finish(
            cache,
            crops,
            masked,
            channels=channels,
            warnings=checks.warnings(),
            remarks=numbers.notes(n_clipped),
        )


def scale_pixels(
    raw: torch.Tensor, low: torch.Tensor, span: torch.Tensor, downsample: int = 1
) -> torch.Tensor:
    """Images as the network sees them.

    Args:
        raw: (B, C, S, S) integers.
        low, span: (C, 1, 1) the value that becomes 0, and how far above it 1 lies.
        downsample: side of the squares of pixels that are averaged to one; divides S.

    Returns:
        (B, C, S / downsample, S / downsample) float32 in 0..1.
    """
    scaled = (raw.float() - low).div_(span).clamp_(0, 1)
    return scaled if downsample == 1 else F.avg_pool2d(scaled, downsample)


class Batches(ABC):
    """Batches of cells on a device: scaled to 0..1 and augmented there, from the raw integers.

    A subclass decides where the integers are: `_hold` puts them there once, and `_load` brings
    those of one batch to the device. `_read` and `_epoch_order` may be overridden if batches are
    better read in another way or order.

    Args:
        cells: images and scaling.
        device: where batches come out.
        batch_size: cells per batch; may be changed between epochs.
        augmentation: rotate and flip the training images.
        downsample: side of the squares of pixels that are averaged to one.
    """

    def __init__(
        self,
        cells: Cells,
        device: torch.device,
        batch_size: int,
        augmentation: bool,
        *,
        downsample: int = 1,
    ):
        self.device = device
        self.low = self._per_channel(cells.low)
        self.span = self._per_channel(cells.high - cells.low)
        fill = cells.scaled_padding()
        self.fill = None if fill is None else fill.to(device)
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.downsample = downsample
        self.images = self._hold(cells.images)  # (N, C, S, S)

    def _per_channel(self, values: np.ndarray) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device)[:, None, None]

    def _scale(self, raw: torch.Tensor) -> torch.Tensor:
        return scale_pixels(raw, self.low, self.span, self.downsample)

    @abstractmethod
    def _hold(self, images: np.ndarray) -> torch.Tensor | np.ndarray:
        """All integers (N, C, S, S), where they stay."""

    @abstractmethod
    def _load(self, index: torch.Tensor) -> torch.Tensor:
        """Cells (B,) -> integers (B, C, S, S) on the device."""

    def _read(self, order: torch.Tensor) -> Iterator[torch.Tensor]:
        """The integers of the cells (n,) in this order, batch by batch, on the device."""
        return map(self._load, order.split(self.batch_size))

    def _epoch_order(self, indices: torch.Tensor) -> torch.Tensor:
        """The cells of one epoch in a new random order."""
        return indices[torch.randperm(len(indices))]

    def take(self, index: torch.Tensor) -> torch.Tensor:
        """Cells (B,) -> (B, C, S', S') float32 in 0..1, S' = S / downsample."""
        return self._scale(self._load(index))

    def in_order(self, indices: np.ndarray) -> Iterator[torch.Tensor]:
        """Every cell of `indices` once, in order, not augmented; the last batch may be smaller."""
        yield from map(self._scale, self._read(torch.from_numpy(indices)))

    def shuffled(self, indices: np.ndarray) -> Iterator[torch.Tensor]:
        """One epoch: full batches in random order, augmented if `augmentation` is set.

        Cells that do not fill a batch are left out of this epoch, unless there are no others.
        Randomness follows torch's global generators, which the training loop seeds for each epoch.
        """
        order = self._epoch_order(torch.from_numpy(indices))
        n_full = max(len(order) // self.batch_size, 1) * self.batch_size
        for raw in self._read(order[:n_full]):
            images = self._scale(raw)
            yield augment(images, self.fill) if self.augmentation else images


class CellBatches(Batches):
    """Batches of cells whose integers all lie on the device.

    Args as for `Batches`.
    """

    def _hold(self, images: np.ndarray) -> torch.Tensor:
        held = torch.empty(images.shape, dtype=tensor_type(images.dtype), device=self.device)
        for start in range(0, len(images), CHUNK):  # a map is never in host memory as a whole
            rows = slice(start, start + CHUNK)
            held[rows] = torch.from_numpy(np.array(images[rows]))
        return held

    def _load(self, index: torch.Tensor) -> torch.Tensor:
        return select_rows(self.images, index.to(self.device))

    def _read(self, order: torch.Tensor) -> Iterator[torch.Tensor]:
        return super()._read(order.to(self.device))  # once: a copy per batch would stop the queue
