"""What a mask file means: which pixels belong to which object.

Segmentations come as label images of any number type, as palettes, as grey pictures saved in three
equal planes, and as binary masks, some of them smoothed by a resize or by JPEG. A number besides 0
is the label of an object, also where it has two pieces; binary masks have an object for each
8-connected component. Numbers of classes (nucleus 1, cytoplasm 2) are no labels and are refused, as
is a background that is not 0.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage
from skimage.measure import label
from skimage.segmentation import relabel_sequential

from util.errors import UserError
from util.image_files import (
    orientation_of_picture,
    orientation_of_tiff,
    refuse_several,
    refuse_turned,
)

LARGEST_LABEL = 2**24  # above it objects are numbered anew, since tables by number would not fit
BINARY = (1, 255, 65_535, 2**31 - 1, 2**32 - 1)  # the one number of a binary mask
MOST_CLASSES = 8
SEVERAL = 4  # pieces of a number, on average, from which it is a class and no object
LEAST_PIECE = 10  # px; what is smaller is a splinter
FEW_INSIDE = 0.1  # share of the pixels between 0 and the highest number that have equal neighbours


@dataclass(frozen=True)
class Mask:
    """Objects of a field.

    Attributes:
        labels: (H, W) int32, 0 outside the objects.
        numbered: whether the file numbers the objects; else they are connected components.
        note: what was done to the file, "" for nothing.
    """

    labels: np.ndarray
    numbered: bool
    note: str = ""


def read_mask(path: Path) -> Mask:
    """Read a mask.

    Raises:
        UserError: the file holds several different planes or colours, or no whole numbers.
        Exception: whatever the reader raises on a damaged file.
    """
    plane = _one_plane(_read(path), path)
    if path.suffix.lower() in (".jpg", ".jpeg"):
        return _thresholded(plane, "JPEG keeps no labels")
    return mask_of(plane, str(path))


def mask_of(plane: np.ndarray, name: str = "the mask") -> Mask:
    """The objects of a plane of numbers (H, W).

    Raises:
        UserError: NaN or infinite numbers.
    """
    if plane.dtype.kind == "b":
        return _binary(plane)
    if plane.dtype.kind == "f":
        if not np.isfinite(plane).all():
            raise UserError(f"{name} holds NaN or infinite numbers: give labels or a binary mask")
        if (plane != np.round(plane)).any():
            return _thresholded(plane, "it holds no whole numbers")
        plane = plane.astype(np.int64)
    plane = np.where(plane > 0, plane, 0)  # a background below 0 is a background
    values = np.unique(plane[plane > 0])
    if len(values) == 0:
        return Mask(np.zeros(plane.shape, np.int32), False)
    if len(values) == 1:
        if values[0] in BINARY:
            return _binary(plane)
        if _pieces(plane, values) >= SEVERAL:
            return _components(plane > 0, f"{values[0]} in several pieces is a binary mask")
        return Mask((plane > 0) * np.int32(min(values[0], LARGEST_LABEL)), True)
    if _is_smoothed(plane, values):
        return _thresholded(plane, "its edges are smoothed")
    if around := _around(plane):
        raise UserError(
            f"{name} has {around[0]} along all four edges: is that the background? Make it 0"
        )
    if len(values) <= MOST_CLASSES and _pieces(plane, values) >= SEVERAL:
        raise UserError(
            f"{name} numbers classes ({', '.join(map(str, values))} in several pieces each), not "
            "objects: give labels, or a binary mask of one class"
        )
    if values[-1] > LARGEST_LABEL:
        plane, note = relabel_sequential(plane.astype(np.int64))[0], "its objects are numbered anew"
        return Mask(plane.astype(np.int32), True, note)
    return Mask(plane.astype(np.int32), True)


def _components(inside: np.ndarray, note: str = "") -> Mask:
    return Mask(label(inside, connectivity=2).astype(np.int32), False, note)


def _binary(plane: np.ndarray) -> Mask:
    reaches = "what is not 0 reaches all four edges: is that the background?"
    return _components(plane > 0, reaches if _around(plane) else "")


def _thresholded(plane: np.ndarray, why: str) -> Mask:
    low, high = float(plane.min()), float(plane.max())
    note = f"thresholded at half of its range, since {why}"
    return _components(plane > (low + high) / 2, note)


def _around(plane: np.ndarray) -> list[int]:
    """The numbers besides 0 that lie on all four edges of a plane, as a background does."""
    edges = (plane[0], plane[-1], plane[:, 0], plane[:, -1])
    return sorted(set.intersection(*(set(np.unique(edge[edge > 0]).tolist()) for edge in edges)))


def _pieces(plane: np.ndarray, values: np.ndarray) -> float:
    """How many connected pieces a number has on average, splinters aside."""
    pieces = label(plane, background=0, connectivity=2)
    return (np.bincount(pieces.ravel())[1:] >= LEAST_PIECE).sum() / len(values)


def _is_smoothed(plane: np.ndarray, values: np.ndarray) -> bool:
    """Whether the numbers between 0 and the highest are the edges of a binary mask.

    In a label image they fill objects, so that most of their pixels have equal neighbours. At an
    edge hardly any has.
    """
    top = float(values[-1])
    between = (plane > 0.1 * top) & (plane < 0.9 * top)
    if not between.any():  # all near 0 or near the highest number, as after a mild compression
        objects = label(plane > top / 2, connectivity=2)
        several = [len(np.unique(plane[objects == i])) > 2 for i in range(1, objects.max() + 1)]
        return bool(np.mean(several) > 0.5)
    cross = ndimage.generate_binary_structure(2, 1)
    least = ndimage.minimum_filter(plane, footprint=cross)
    most = ndimage.maximum_filter(plane, footprint=cross)
    return bool((least == most)[between].mean() < FEW_INSIDE)


def _read(path: Path) -> np.ndarray:
    """The numbers of the file as they are stored, a palette as its indices."""
    if path.suffix.lower() == ".npy":
        try:
            return np.load(path, allow_pickle=False)
        except ValueError as error:
            raise UserError(
                f"{path} holds more than numbers, which is never loaded: save the masks as PNG or "
                "TIFF (in Cellpose: File, Save masks)"
            ) from error
    if path.suffix.lower() in (".tif", ".tiff"):
        import tifffile

        with tifffile.TiffFile(path, _multifile=False) as opened:
            refuse_turned(path, orientation_of_tiff(opened))
            planes = [np.asarray(series.asarray()) for series in opened.series]
            turned = opened.pages[0].photometric.name == "MINISWHITE"
        if len({plane.shape for plane in planes}) > 1:
            raise UserError(f"{path} holds several images: save the mask alone")
        array = planes[0] if len(planes) == 1 else np.stack(planes)
        return ~array if turned and array.dtype.kind == "b" else array
    from PIL import Image

    with Image.open(path) as opened:
        refuse_several(path, opened)
        refuse_turned(path, orientation_of_picture(opened))
        return np.asarray(opened)


def _one_plane(array: np.ndarray, path: Path) -> np.ndarray:
    """(H, W) of what was read; planes or colours have to be equal, alpha does not count."""
    array = np.squeeze(array)
    if array.ndim == 2:
        return array
    if array.ndim == 3 and (array.shape[-1] <= 4 or array.shape[0] <= 4):
        last = array.shape[-1] <= 4
        planes = np.moveaxis(array, -1, 0) if last else array
        planes = planes[:-1] if len(planes) in (2, 4) and last else planes  # alpha
        if all(np.array_equal(plane, planes[0]) for plane in planes):
            return planes[0]
        if last:
            raise UserError(f"{path} is a colour picture: save the labels as one plane of numbers")
    raise UserError(f"{path} of shape {array.shape} holds several planes: save the mask alone")
