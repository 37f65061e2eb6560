"""Which segmented object is which cell of the ground truth: the nearest centroid of the same image.

A cell takes its nearest object or none. Where two cells have the same nearest object, the nearer
cell takes it and the other gets none: the segmentation missed its object, and the second nearest
object belongs to another cell or is debris, so that the label would be wrong. (The original gave
such an object to both cells; this never happened among its 7,387 cells of BBBC031.)
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from util.errors import UserError

NO_IMAGE = "no object in this image"
TOO_FAR = "no object within {:g} px"
TAKEN = "nearest object taken by a nearer cell"
SUSPICIOUS = 0.5  # share of matched cells below which swapped columns are looked for


class Match(NamedTuple):
    """The object of each cell.

    Attributes:
        object: (N,) row of the object; -1 for none.
        distance: (N,) in px to the nearest object within reach; infinite for none.
        reason: (N,) why there is none; empty where there is one.
    """

    object: np.ndarray
    distance: np.ndarray
    reason: np.ndarray


def match_centroids(
    cells: pd.DataFrame, objects: pd.DataFrame, keys: Sequence[str], max_distance: float
) -> Match:
    """Match each cell to its nearest object of the same image, each object to one cell at most.

    One k-d tree searches all images: the image is a third coordinate, spaced so far apart that
    objects of another image are out of reach.

    Args:
        cells: (N rows) columns `x`, `y` in px and the keys.
        objects: (M rows) the same; rows without a centre match no cell.
        keys: columns that name the image, e.g. Well and Site, of the same type in both.
        max_distance: in px, the farthest an object may be.

    Raises:
        UserError: `max_distance` is not positive, or a cell has no position.

    Examples:
        The second cell is farther from the only object within reach of both:

        >>> cells = pd.DataFrame({"Well": "A01", "x": [10.0, 12.0], "y": [5.0, 5.0]})
        >>> objects = pd.DataFrame({"Well": "A01", "x": [10.5, 40.0], "y": [5.0, 5.0]})
        >>> match_centroids(cells, objects, ["Well"], max_distance=4).object.tolist()
        [0, -1]
    """
    if not max_distance > 0:
        raise UserError(f"max_distance = {max_distance:g}: a distance of more than 0 px is needed")
    lost = int(cells[["x", "y"]].isna().any(axis=1).sum())
    if lost:
        raise UserError(
            f"{lost} cells of the ground truth have no position: fill them or leave out"
        )
    n_cells = len(cells)
    keys = list(keys)
    image = pd.concat([cells[keys], objects[keys]]).groupby(keys, sort=False).ngroup().to_numpy()
    cell_image, object_image = image[:n_cells], image[n_cells:]
    there = np.flatnonzero(objects[["x", "y"]].notna().all(axis=1))
    apart = 4 * max_distance
    tree = cKDTree(
        np.column_stack([objects[["x", "y"]].to_numpy(float), object_image * apart])[there]
    )
    places = np.column_stack([cells[["x", "y"]].to_numpy(float), cell_image * apart])  # (N, 3)
    # The bound is exclusive.
    bound = np.nextafter(max_distance, np.inf)
    distance, nearest = tree.query(places, distance_upper_bound=bound)
    within = np.isfinite(distance)

    found = np.full(n_cells, -1)
    found[within] = there[nearest[within]]
    order = np.lexsort((np.arange(n_cells), distance))  # the nearer first, ties by row
    order = order[within[order]]
    winners = order[np.unique(found[order], return_index=True)[1]]
    taken = within.copy()
    taken[winners] = False
    found[taken] = -1

    reason = np.full(n_cells, "", dtype=object)
    reason[~within] = TOO_FAR.format(max_distance)
    reason[~np.isin(cell_image, object_image)] = NO_IMAGE
    reason[taken] = TAKEN
    return Match(found, distance, reason)


def refuse_nonsense(
    match: Match,
    cells: pd.DataFrame,
    objects: pd.DataFrame,
    keys: Sequence[str],
    max_distance: float,
    source: str,
) -> None:
    """Stop before anything is written if so few cells match that a table must be wrong.

    Args:
        match: of these cells and objects.
        cells: as in `match_centroids`.
        objects: as in `match_centroids`.
        keys: as in `match_centroids`.
        max_distance: as in `match_centroids`.
        source: the ground truth by name, with its columns of X and Y.

    Raises:
        UserError: X and Y are swapped (twice as many match when exchanged), or nothing matches.
    """
    matched = int((match.object >= 0).sum())
    if matched >= SUSPICIOUS * len(cells):
        return
    turned = cells.rename(columns={"x": "y", "y": "x"})
    otherwise = int((match_centroids(turned, objects, keys, max_distance).object >= 0).sum())
    if otherwise > 2 * matched:
        raise UserError(
            f"{source}: only {matched} of {len(cells)} cells have an object within "
            f"{max_distance:g} px, but {otherwise} have one with X and Y exchanged: "
            "these two columns are swapped"
        )
    if not matched:
        raise UserError(
            f"{source}: none of {len(cells)} cells has an object within {max_distance:g} px in its "
            "image: do ground truth and objects belong to the same images?"
        )


def link_objects(truth: pd.DataFrame, objects: pd.DataFrame, match: Match) -> pd.DataFrame:
    """The ground truth with the object of each cell, and why it has none.

    Args:
        truth: the cells matched; their `x` and `y` are left out.
        objects: ImageNumber, ObjectNumber, `x` and `y` of the objects.
        match: of the two.

    Returns:
        the cells with CP_ImagerNumber (spelt so in the thesis), CP_ObjectNumber, CP_x, CP_y, empty
        where there is no object, and `reason`, empty where there is one.
    """
    columns = {
        "ImageNumber": "CP_ImagerNumber",
        "ObjectNumber": "CP_ObjectNumber",
        "x": "CP_x",
        "y": "CP_y",
    }
    numbers = objects[list(columns)].rename(columns=columns)
    numbers = numbers.astype({"CP_ImagerNumber": "Int64", "CP_ObjectNumber": "Int64"})
    rows = numbers.reindex(match.object).reset_index(drop=True)  # no row is called -1
    linked = pd.concat([truth.drop(columns=["x", "y"]).reset_index(drop=True), rows], axis=1)
    return linked.assign(reason=match.reason)
