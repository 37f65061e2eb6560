"""Drawing primitives of the simulators: outlines, filled shapes, cloud textures, crops.

They follow SIMCEP (Lehmussola et al. 2007, IEEE Trans. Med. Imaging 26:1010): an outline is a
closed cubic spline through the jittered points of a circle, a texture is a cloud of octaves of
interpolated noise. Everything is drawn for many cells at once, each alone on a square tile whose
middle pixel is the centre of its nucleus.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import ndimage

CONTROL_POINTS = 10  # of an outline, on the circle
POINTS_PER_SPAN = 24  # of the spline between two control points; below 3 px apart
COARSEST_NODES = 4  # of the lattice of a cloud's first octave, a side
DARKEST = 0.2  # a cloud spans DARKEST..1, so that no pixel of a cell is as black as the background


class CellTiles(NamedTuple):
    """Rendered cells, each alone on a tile of odd side whose middle pixel lies in its nucleus."""

    image: np.ndarray  # uint8 or uint16 (N, T, T, C), 0 outside the cell
    cell: np.ndarray  # bool (N, T, T), nucleus included
    nucleus: np.ndarray  # bool (N, T, T)


def in_one_piece(tiles: CellTiles) -> CellTiles:
    """The cells without the tips that lie apart: what is 8-connected to the middle of the tile."""
    within_tile = np.zeros((3, 3, 3), bool)
    within_tile[1] = True  # 8-connected in the plane, never from tile to tile
    parts, _ = ndimage.label(tiles.cell, within_tile)
    middle = tiles.cell.shape[1] // 2
    cell = parts == parts[:, middle, middle][:, None, None]
    return CellTiles(np.where(cell[..., None], tiles.image, 0), cell, tiles.nucleus & cell)


def bounding_boxes(masks: np.ndarray) -> np.ndarray:
    """First row, first column, and those after the last: (N, T, T) bool masks to (N, 4)."""
    size = masks.shape[1]
    rows, columns = masks.any(axis=2), masks.any(axis=1)  # (N, T) each
    top, left = rows.argmax(1), columns.argmax(1)
    bottom, right = size - rows[:, ::-1].argmax(1), size - columns[:, ::-1].argmax(1)
    return np.stack([top, left, bottom, right], axis=1)


def crop_cells(tiles: CellTiles) -> Iterator[np.ndarray]:
    """Tight bounding-box crops of the cells of a batch, as CellProfiler would save them.

    A crop holds what is 8-connected to the nucleus and is 0 elsewhere.

    Args:
        tiles: from a renderer.

    Yields:
        (H, W, C) of the tiles' type, in the order of the tiles.
    """
    whole = in_one_piece(tiles)
    for image, (top, left, bottom, right) in zip(
        whole.image, bounding_boxes(whole.cell), strict=True
    ):
        yield image[top:bottom, left:right].copy()


def random_outlines(irregularities: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Closed random curves around the origin, of unit size (Lehmussola et al. 2007).

    Control points lie at equal angles t on the unit circle. Each coordinate is jittered on its own,
    (cos(t + u) + v, sin(t + u') + v') with u, u', v, v' uniform in +- irregularity, and a periodic
    cubic spline with centripetal knots joins them. Near 0.5 neighbours change places, which gives
    the hooks and notches of the green cells.

    Args:
        irregularities: (N,) 0 for a circle; 0.5 is jagged.
        rng: source of the jitter.

    Returns:
        (N, P, 2) the points of the curves as (y, x), in order and not closed.
    """
    equal_angles = np.linspace(0, 2 * np.pi, CONTROL_POINTS, endpoint=False)[:, None]
    jitter = rng.uniform(-1, 1, (2, len(irregularities), CONTROL_POINTS, 2))
    angular, radial = jitter * np.asarray(irregularities)[:, None, None]
    quarter_turn = np.array([np.pi / 2, 0])  # y = sin(t) = cos(t - pi / 2)
    points = np.cos(equal_angles - quarter_turn + angular) + radial  # (N, control points, 2)
    return closed_spline(points, POINTS_PER_SPAN)


def closed_spline(points: np.ndarray, points_per_span: int) -> np.ndarray:
    """Periodic cubic splines with centripetal knots (Lee 1989) through many point sets at once.

    Args:
        points: (N, K, 2) the points to pass through, distinct from their neighbours.
        points_per_span: samples from one point up to, not including, the next.

    Returns:
        (N, K * points_per_span, 2) samples in order, the first at the first point.
    """
    following = np.roll(points, -1, axis=1)
    chord = following - points
    step = np.sqrt(np.linalg.norm(chord, axis=2, keepdims=True))  # knot spacing (N, K, 1)
    slope = chord / step
    step_before, slope_before = np.roll(step, 1, axis=1), np.roll(slope, 1, axis=1)

    # Equal second derivatives on both sides of every knot: a cyclic tridiagonal system per curve.
    k = np.arange(points.shape[1])
    system = np.zeros((*points.shape[:2], points.shape[1]))  # (N, K, K)
    system[:, k, k - 1] = step[..., 0]
    system[:, k, k] = 2 * (step_before + step)[..., 0]
    system[:, k, (k + 1) % len(k)] = step_before[..., 0]
    tangent = np.linalg.solve(system, 3 * (step * slope_before + step_before * slope))
    tangent_following = np.roll(tangent, -1, axis=1)

    t = np.linspace(0, 1, points_per_span, endpoint=False)[:, None]  # cubic Hermite basis
    curve = (
        (1 + 2 * t) * (1 - t) ** 2 * points[:, :, None]
        + t**2 * (3 - 2 * t) * following[:, :, None]
        + t * (1 - t) ** 2 * (step * tangent)[:, :, None]
        - t**2 * (1 - t) * (step * tangent_following)[:, :, None]
    )  # (N, K, points per span, 2)
    return curve.reshape(len(points), -1, 2)


def fill_outlines(outlines: np.ndarray, size: int) -> np.ndarray:
    """Pixels inside closed polygons, whose origin is the middle pixel of the mask.

    A pixel is inside where the curve winds around its centre (non-zero rule), so a curve that
    crosses itself leaves no hole. All polygons are filled together: each edge marks the first pixel
    right of its crossing with a row, up or down, and a running sum along the rows gives the winding
    number. What lies outside of the mask is cut off.

    Args:
        outlines: (N, P, 2) vertices (y, x) in px.
        size: side of the masks in px, odd.

    Returns:
        bool (N, size, size).
    """
    start = outlines.reshape(-1, 2) + size // 2  # (N * P, 2)
    end = np.roll(outlines, -1, axis=1).reshape(-1, 2) + size // 2
    first_row, stop_row = np.ceil(np.sort([start[:, 0], end[:, 0]], axis=0)).astype(int)
    crossed = stop_row - first_row  # rows that an edge crosses; 0 for many
    edge = np.repeat(np.arange(len(start)), crossed)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(crossed) - crossed, crossed) + first_row[edge]

    (y0, x0), (y1, x1) = start[edge].T, end[edge].T
    crossing = x0 + (row - y0) * (x1 - x0) / (y1 - y0)
    column = np.clip(np.ceil(crossing), 0, size).astype(int)  # column `size`: right of the mask
    in_mask = (row >= 0) & (row < size)
    polygon = edge // outlines.shape[1]
    place = ((polygon * size + row) * (size + 1) + column)[in_mask]
    turns = np.bincount(
        place, weights=np.sign(y1 - y0)[in_mask], minlength=len(outlines) * size * (size + 1)
    )
    winding = np.cumsum(turns.astype(np.int8).reshape(-1, size, size + 1), axis=2, dtype=np.int8)
    return winding[:, :, :size] != 0


def clouds(
    n_clouds: int, octaves: int, persistence: float, size: int, rng: np.random.Generator
) -> np.ndarray:
    """Cloud textures: octaves of interpolated noise (Lehmussola et al. 2007).

    Octave i is Gaussian noise of standard deviation persistence ** i on a lattice of
    3 * 2 ** i + 1 nodes a side, the finest having a node per pixel, and is interpolated linearly in
    between. As the nodes are nested, one doubling of the sum so far replaces an interpolation of
    each octave.

    Args:
        n_clouds: how many.
        octaves: lattices, from coarse to fine.
        persistence: standard deviation of an octave over that of the coarser one before it.
        size: side in px, cut from the middle; at most 3 * 2 ** (octaves - 1) + 1.
        rng: source of the noise.

    Returns:
        float32 (n_clouds, size, size), each stretched to span DARKEST..1 exactly.
    """
    nodes = COARSEST_NODES
    cloud = rng.standard_normal((n_clouds, nodes, nodes), dtype=np.float32)
    for octave in range(1, octaves):
        nodes = 2 * nodes - 1
        cloud = _double(cloud)
        noise = rng.standard_normal((n_clouds, nodes, nodes), dtype=np.float32)
        cloud += np.float32(persistence**octave) * noise
    margin = (nodes - size) // 2
    cloud = cloud[:, margin : margin + size, margin : margin + size]
    darkest, brightest = cloud.min(axis=(1, 2)), cloud.max(axis=(1, 2))
    scale = (1 - DARKEST) / (brightest - darkest)
    return DARKEST + (cloud - darkest[:, None, None]) * scale[:, None, None]


def _double(lattice: np.ndarray) -> np.ndarray:
    """Put a node between each two neighbours, linearly: (N, n, n) -> (N, 2n - 1, 2n - 1)."""
    n_lattices, nodes, _ = lattice.shape
    fine = np.empty((n_lattices, 2 * nodes - 1, 2 * nodes - 1), lattice.dtype)
    fine[:, ::2, ::2] = lattice
    fine[:, ::2, 1::2] = (lattice[:, :, 1:] + lattice[:, :, :-1]) / 2
    fine[:, 1::2] = (fine[:, 2::2] + fine[:, :-2:2]) / 2
    return fine
