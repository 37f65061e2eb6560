"""dSprites: 737,280 binary images of a square, an ellipse and a heart, drawn on demand or read.

dSprites (Higgins et al. 2017, ICLR, beta-VAE; Matthey et al. 2017, Apache-2.0) takes every
combination of six independent factors:

    factor       values                        unit
    color        1                             white, the only one
    shape        1, 2, 3                       square, ellipse, heart
    scale        linspace(0.5, 1, 6)
    orientation  linspace(0, 2 pi, 40)         rad, anticlockwise; the last equals the first
    posX, posY   linspace(0, 1, 32)            of 32 px; the centre lies at 15.5 + 32 px * position

The last factor varies fastest. `load_dsprites` reads the published npz if it lies at
`DSPRITES_FILE`, and draws the images otherwise. Of 64 published squares 62 are drawn exactly and
two differ in 4 px; none of 64 ellipses and 192 hearts differs in more than 2 px
(`tests/test_dsprites.py`).
"""

import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from util.errors import UserError
from util.files import write_atomically
from util.simulators.common import check_seed, is_integer, new_folder

DSPRITES_FILE = (
    Path(__file__).parents[2] / "human_guidance" / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
)
FACTORS = ("color", "shape", "scale", "orientation", "posX", "posY")
FACTOR_SIZES = (1, 3, 6, 40, 32, 32)
N_IMAGES = int(np.prod(FACTOR_SIZES))  # 737,280
SIDE = 64  # px

FACTOR_VALUES = (
    np.ones(1),
    np.arange(1.0, 4.0),
    np.linspace(0.5, 1, 6),
    np.linspace(0, 2 * np.pi, 40),
    np.linspace(0, 1, 32),
    np.linspace(0, 1, 32),
)

SQUARE_HALF_SIDE = 9.6  # px at scale 1, as all that follows
ELLIPSE_HALF_AXES = 12.77, 7.21  # along x and y
# x = 16 a sin(t)^3, y = c - b (13 cos(t) - 5 cos(2t) - 2 cos(3t) - cos(4t)), y downwards
HEART_WIDTH, HEART_HEIGHT, HEART_SHIFT = 0.6, 0.662, -1.436  # a, b, c

WINDOW = 29  # px around a centre that hold any sprite: a square's half diagonal is 13.6 px
CHUNK = 512  # images drawn or read at once: 3 MB a coordinate, which stays in the cache


class DSprites(NamedTuple):
    """Some or all of the images, under the names of the published arrays."""

    imgs: np.ndarray  # uint8 (N, 64, 64), 0 or 1
    latents_classes: np.ndarray  # int64 (N, 6), index of each factor in the order of FACTORS
    latents_values: np.ndarray  # float64 (N, 6)


def load_dsprites(path: Path | None = None, rows: np.ndarray | None = None) -> DSprites:
    """Read the published images if they are present, else draw them.

    The archive's pickled `metadata` is never unpickled. The images are read in chunks, so that a
    part of them needs no more memory than that part.

    Args:
        path: npz of the published layout; None for `DSPRITES_FILE` if there is such a file.
        rows: (N,) which of the 737,280 images, in this order (`rows_of` finds them from factors);
            None means all of the file, or all that there are: 3 GB.

    Raises:
        UserError: the file is missing, damaged or of another layout, or lacks a requested row.
    """
    if rows is not None:
        rows = _checked_rows(rows)
    if path is None and not DSPRITES_FILE.is_file():
        classes = classes_of(np.arange(N_IMAGES) if rows is None else rows)
        return DSprites(render_dsprites(classes), classes, values_of(classes))
    path = DSPRITES_FILE if path is None else Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_archive(archive, path, rows)
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: there is no such file; leave it out to draw the images"
        ) from error
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged or no npz ({error}): download it again") from error


def save_dsprites(path: Path, rows: np.ndarray | None = None, progress: bool = False) -> None:
    """Draw images and write them as an npz of the published layout, without its `metadata`.

    Args:
        path: file to write; it appears whole or not at all.
        rows: (N,) which of the 737,280 images; None means all, which takes 19 MB on the disk
            and two minutes.
        progress: show a bar.
    """
    classes = classes_of(np.arange(N_IMAGES) if rows is None else _checked_rows(rows))
    with (
        write_atomically(Path(path)) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
    ):
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(classes), SIDE, SIDE)}
        with _member(archive, "imgs") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for part in tqdm(_chunks(len(classes)), "images", unit="chunk", disable=not progress):
                file.write(_draw(classes[part]).tobytes())
        for name, array in (("latents_classes", classes), ("latents_values", values_of(classes))):
            with _member(archive, name) as file:
                np.lib.format.write_array(file, array)


def write_dsprites_raw(
    out: Path, n_cells: int = N_IMAGES, seed: int = 0, progress: bool = False
) -> None:
    """Write a folder with an npz under the published name.

    Args:
        out: folder that holds nothing yet.
        n_cells: 1 to 737,280 images, drawn at random without replacement, in the published order.
        seed: of the choice.
        progress: show a bar.

    Raises:
        UserError: an argument is out of range, or `out` cannot be written.
    """
    check_seed(seed)
    if not is_integer(n_cells) or not 1 <= n_cells <= N_IMAGES:
        raise UserError(f"n_cells = {n_cells!r}: an integer of 1 to {N_IMAGES} is needed")
    rows = np.random.default_rng(seed).choice(N_IMAGES, n_cells, replace=False)
    with new_folder(out) as folder:
        save_dsprites(folder / DSPRITES_FILE.name, np.sort(rows), progress)


def classes_of(rows: np.ndarray) -> np.ndarray:
    """Factor indices of images: rows (N,) of the whole set to `latents_classes` (N, 6)."""
    return np.stack(np.unravel_index(_checked_rows(rows), FACTOR_SIZES), axis=-1)


def rows_of(classes: np.ndarray) -> np.ndarray:
    """Rows of the whole set: `latents_classes` (N, 6) to (N,).

    Raises:
        UserError: a factor index is out of range.
    """
    return np.ravel_multi_index(tuple(_checked_classes(classes).T), FACTOR_SIZES)


def values_of(classes: np.ndarray) -> np.ndarray:
    """Factor values, float64 (N, 6) in the units of the module, of `latents_classes` (N, 6)."""
    columns = zip(FACTOR_VALUES, _checked_classes(classes).T, strict=True)
    return np.stack([values[index] for values, index in columns], axis=-1)


def _checked_rows(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise UserError(
            f"dSprites rows: one list of integers is needed, not {rows.shape} {rows.dtype}"
        )
    wrong = rows[(rows < 0) | (rows >= N_IMAGES)]
    if len(wrong):
        raise UserError(f"dSprites row {wrong[0]}: rows are 0 to {N_IMAGES - 1}")
    return rows


def _checked_classes(classes: np.ndarray) -> np.ndarray:
    classes = np.asarray(classes)
    if classes.ndim != 2 or classes.shape[1] != len(FACTORS) or classes.dtype.kind not in "iu":
        raise UserError(
            f"dSprites classes: integers (N, {len(FACTORS)}) are needed, not {classes.shape} "
            f"{classes.dtype}"
        )
    for name, size, index in zip(FACTORS, FACTOR_SIZES, classes.T, strict=True):
        wrong = index[(index < 0) | (index >= size)]
        if len(wrong):
            raise UserError(f"dSprites {name} index {wrong[0]}: 0 to {size - 1} are possible")
    return classes


def render_dsprites(classes: np.ndarray) -> np.ndarray:
    """Draw the images of `latents_classes` (N, 6): uint8 (N, 64, 64), 0 or 1.

    A pixel is white where its centre lies inside of the sprite. About 20,000 images a second.

    Raises:
        UserError: a factor index is out of range.
    """
    classes = _checked_classes(classes)
    images = np.empty((len(classes), SIDE, SIDE), np.uint8)
    for part in _chunks(len(classes)):
        images[part] = _draw(classes[part])
    return images


def _draw(classes: np.ndarray) -> np.ndarray:
    """`render_dsprites` of one chunk; only a window around each sprite is looked at."""
    images = np.zeros((len(classes), SIDE, SIDE), np.uint8)
    _, shape, scale, angle, *position = values_of(classes).T  # (N,) each
    for number, inside in ((1, _in_square), (2, _in_ellipse), (3, _in_heart)):
        image = np.flatnonzero(shape == number)
        centre = 15.5 + 32 * np.stack([p[image] for p in position])  # (2, n): x, y
        first = np.ceil(centre - WINDOW / 2).astype(int)
        pixel = first[..., None] + np.arange(WINDOW)  # (2, n, WINDOW)
        x, y = (pixel - centre[..., None]) / scale[image, None]
        x, y = x[:, None, :], y[:, :, None]
        cos, sin = (f(angle[image])[:, None, None] for f in (np.cos, np.sin))
        # Back from the turned sprite to the upright one, (n, WINDOW, WINDOW).
        mask = inside(cos * x - sin * y, sin * x + cos * y)
        images[image[:, None, None], pixel[1][:, :, None], pixel[0][:, None, :]] = mask
    return images


def _in_square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) < SQUARE_HALF_SIDE


def _in_ellipse(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    a, b = ELLIPSE_HALF_AXES
    return (x / a) ** 2 + (y / b) ** 2 < 1


def _in_heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Between the upper and the lower branch of the heart curve, whose parameter follows from x."""
    sin = np.cbrt(np.minimum(np.abs(x) / (16 * HEART_WIDTH), 1))
    cos = np.sqrt(1 - sin * sin)

    def branch(c: np.ndarray) -> np.ndarray:
        # 13 cos(t) - 5 cos(2t) - 2 cos(3t) - cos(4t), in powers of c = cos(t)
        return HEART_SHIFT - HEART_HEIGHT * (4 + c * (19 + c * (-2 + c * (-8 - 8 * c))))

    return (np.abs(x) < 16 * HEART_WIDTH) & (y > branch(cos)) & (y < branch(-cos))


def _chunks(n: int) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, n, CHUNK)]


def _member(archive: zipfile.ZipFile, name: str) -> BinaryIO:
    """A new array of an npz; of fixed date, so that the same images give the same file."""
    info = zipfile.ZipInfo(f"{name}.npy")
    info.compress_type = zipfile.ZIP_DEFLATED
    return archive.open(info, "w", force_zip64=True)


def _read_archive(archive: zipfile.ZipFile, path: Path, rows: np.ndarray | None) -> DSprites:
    """The images of these rows of the whole set, in their order; all of the file for None."""
    for name in DSprites._fields:
        if f"{name}.npy" not in archive.namelist():
            raise UserError(f"{path} has no array {name}: it is not dSprites")
    classes, values = (_read_latents(archive, path, name) for name in DSprites._fields[1:])
    if len(classes) != len(values):
        raise UserError(f"{path}: {len(classes)} latents_classes but {len(values)} latents_values")
    if rows is None:
        return DSprites(_read_images(archive, path, len(classes)), classes, values)
    there = rows_of(classes)
    order = np.argsort(there)
    place = np.searchsorted(there, rows, sorter=order)
    place = order[np.minimum(place, len(order) - 1)]  # line of the file of each row asked for
    missing = rows[there[place] != rows]
    if len(missing):
        raise UserError(
            f"{path} lacks {len(missing)} of the images asked for, the first is row {missing[0]}: "
            "give the whole set, or leave it out to draw them"
        )
    return DSprites(_read_images(archive, path, len(there), place), classes[place], values[place])


def _read_latents(archive: zipfile.ZipFile, path: Path, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    if array.ndim != 2 or array.shape[1] != len(FACTORS) or not len(array):
        raise UserError(f"{path}: {name} has shape {array.shape}, not (N, {len(FACTORS)})")
    return array


def _read_images(
    archive: zipfile.ZipFile, path: Path, n_images: int, place: np.ndarray | None = None
) -> np.ndarray:
    """These rows (n,) of `imgs`, in this order, without holding all of them; None for all."""
    place = np.arange(n_images) if place is None else place
    images = np.empty((len(place), SIDE, SIDE), np.uint8)
    order = np.argsort(place)
    with archive.open("imgs.npy") as file:
        _check_image_header(file, path, n_images)
        for part in _chunks(n_images):
            n = min(part.stop, n_images) - part.start
            raw = file.read(n * SIDE * SIDE)
            chunk = np.frombuffer(raw, np.uint8).reshape(n, SIDE, SIDE)
            within = slice(*np.searchsorted(place, [part.start, part.start + n], sorter=order))
            images[order[within]] = chunk[place[order[within]] - part.start]
    return images


def _check_image_header(file: BinaryIO, path: Path, n_images: int) -> None:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    shape, column_major, dtype = read[version](file)
    if shape != (n_images, SIDE, SIDE) or dtype != np.uint8 or column_major:
        raise UserError(
            f"{path}: imgs is {dtype} {shape}, not uint8 {(n_images, SIDE, SIDE)}: not dSprites"
        )
