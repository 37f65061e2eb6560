"""Finding cells in a field: thresholds, touching objects parted, cells grown from their nuclei.

The classical route of image-based profiling, as in CellProfiler's IdentifyPrimaryObjects and
IdentifySecondaryObjects (Carpenter et al. 2006, Genome Biology 7:R100), on scikit-image. Labels are
int32 (H, W): 0 background, then 1..N.
"""

import numpy as np
import pandas as pd
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import gaussian, threshold_li
from skimage.measure import label, regionprops_table
from skimage.morphology import remove_small_holes
from skimage.segmentation import relabel_sequential, watershed

EIGHT = np.ones((3, 3), dtype=bool)  # neighbours of a pixel, diagonal ones included


def foreground(
    channel: np.ndarray, threshold: float | None = None, smoothing: float = 1.0
) -> np.ndarray:
    """Pixels above a threshold.

    Args:
        channel: (H, W).
        threshold: in grey levels; None takes the minimum cross-entropy (Li and Tam 1998), which
            also finds few or dim cells on a large background, where Otsu's fails.
        smoothing: sigma of a Gaussian in px that takes away the noise first; 0 for none.

    Returns:
        (H, W) bool; all False in a flat image.
    """
    if channel.min() == channel.max():
        return np.zeros(channel.shape, bool)
    smooth = gaussian(channel, smoothing, preserve_range=True) if smoothing else channel
    return smooth > (threshold_li(smooth) if threshold is None else threshold)


def split_touching(mask: np.ndarray, diameter: float, min_area: int) -> np.ndarray:
    """Label round objects; touching objects are split at their narrow parts.

    The watershed of the distance to the background (Beucher and Lantuéjoul 1979), smoothed so that
    a ragged outline does not split an object. Holes are filled and small objects left out.

    Args:
        mask: (H, W) bool.
        diameter: typical diameter of an object in px; two centres are at least half of it apart.
        min_area: smallest object in px.

    Returns:
        (H, W) int32 labels.
    """
    mask = remove_small_holes(mask, max_size=max(1, int(0.25 * diameter**2)))
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), 0.05 * diameter)
    parts = label(mask, connectivity=2)
    peaks = peak_local_max(
        depth, min_distance=max(1, round(diameter / 2)), labels=parts, exclude_border=False
    )
    seeds = np.zeros(mask.shape, np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return drop_small(watershed(-depth, seeds, mask=mask, connectivity=2), min_area)


def grow_cells(seeds: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Grow cells from their nuclei up to the background, or half-way to the next cell.

    The watershed of the distance to the nearest nucleus. The stain is not used: its bright lines
    are borders of epithelial cells, but centres of spread cells.

    Args:
        seeds: (H, W) labels of the nuclei; each keeps its number.
        mask: (H, W) bool, where cells are; the nuclei always belong to theirs.

    Returns:
        (H, W) int32 labels. What is not connected to a nucleus is background.
    """
    distance = ndimage.distance_transform_edt(seeds == 0)
    return watershed(distance, seeds, mask=mask | (seeds > 0), connectivity=EIGHT).astype(np.int32)


def seeds_at(x: np.ndarray, y: np.ndarray, shape: tuple[int, int], radius: float) -> np.ndarray:
    """Discs around given centres as seeds, numbered 1..N in their order.

    Where two discs overlap, each pixel goes to the nearer centre.

    Args:
        x: (N,) column in px, zero-based.
        y: (N,) row.
        shape: (H, W) of the field.
        radius: of the discs in px.

    Returns:
        (H, W) int32 labels; every centre within the field has a seed.
    """
    points = np.zeros(shape, np.int32)
    row, column = np.rint(y).astype(int), np.rint(x).astype(int)
    inside = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
    points[row[inside], column[inside]] = np.flatnonzero(inside) + 1
    distance, nearest = ndimage.distance_transform_edt(points == 0, return_indices=True)
    return np.where(distance <= radius, points[tuple(nearest)], 0).astype(np.int32)


def drop_small(labels: np.ndarray, min_area: int, keep_numbers: bool = False) -> np.ndarray:
    """Labels without objects below `min_area` px, numbered 1..N again unless kept."""
    areas = np.bincount(labels.ravel())
    labels = np.where(areas[labels] >= min_area, labels, 0)
    return (labels if keep_numbers else relabel_sequential(labels)[0]).astype(np.int32)


def object_table(labels: np.ndarray) -> pd.DataFrame:
    """Number, centre, area and bounding box of each object, ascending by number.

    Returns:
        `number`, `x`, `y` (centroid in px, zero-based, x = column), `area` in px, and `top`,
        `left`, `bottom`, `right` (half-open).
    """
    names = {
        "label": "number",
        "centroid-0": "y",
        "centroid-1": "x",
        "area": "area",
        "bbox-0": "top",
        "bbox-1": "left",
        "bbox-2": "bottom",
        "bbox-3": "right",
    }
    table = pd.DataFrame(
        regionprops_table(labels, properties=("label", "centroid", "area", "bbox"))
    )
    return table.rename(columns=names)[list(names.values())].astype({"area": int})


def cut_off(labels: np.ndarray) -> np.ndarray:
    """Numbers of the objects that touch the edge of the field, ascending."""
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    return np.unique(edge[edge > 0])


def masked_crop(field: np.ndarray, labels: np.ndarray, row: dict) -> np.ndarray:
    """The bounding box of an object, 0 outside of it: (H, W, C) field -> (h, w, C).

    Args:
        field: (H, W, C).
        labels: (H, W).
        row: of `object_table`.
    """
    box = np.s_[int(row["top"]) : int(row["bottom"]), int(row["left"]) : int(row["right"])]
    return np.where((labels[box] == row["number"])[..., None], field[box], 0)


def window(field: np.ndarray, x: float, y: float, size: int) -> np.ndarray | None:
    """A square of the field around a centre: (H, W, C) -> (size, size, C); None beyond the edge."""
    top, left = round(y - size / 2), round(x - size / 2)
    if top < 0 or left < 0 or top + size > field.shape[0] or left + size > field.shape[1]:
        return None
    return field[top : top + size, left : left + size]
