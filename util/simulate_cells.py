"""Synthetic cells with full ground truth: the population of BBBC031v1, drawn from its own law.

BBBC031v1 (Broad Bioimage Benchmark Collection, CC BY 3.0) holds 8,640 synthetic cells that change
continuously along six processes. Every cell is a point (x, y) of the unit square, the "regression
plane"; the point alone decides the colour of the cytoplasm and how jagged the outline is
(`bbbc031_appearance`), all else is chance. From the green, jagged extreme (0, 0) to the red, round
one (1, 1), process 1..6 runs along a broken line with its corner at (e, 1 - e); process 7 fills the
square.

The pictures follow SIMCEP (Lehmussola et al. 2007, IEEE Trans. Med. Imaging 26:1010): an outline is
a closed cubic spline through the jittered points of a circle, a texture is a cloud of octaves of
interpolated noise. The constants below were fitted to the 40 cells of one real field (well A03,
site 8), of which `tests/test_simulate_cells.py` keeps the figures.

The population (`draw_bbbc031_population`) and the renderer (`render_cells`) know nothing of each
other; `simulate_bbbc031` joins them into single-cell crops and their table.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import ndimage

from util.runs import UserError

# Cells of process 1..7 that CellProfiler found among the 8,640 of the real set.
BBBC031_CLASS_SIZES = {1: 1018, 2: 1204, 3: 796, 4: 987, 5: 734, 6: 432, 7: 2216}
# Process p of 1..6 turns at (e, 1 - e) of the regression plane.
BBBC031_CORNERS = {1: 0.05, 2: 0.15, 3: 0.45, 4: 0.55, 5: 0.85, 6: 0.95}

CELL_RADIUS = 30.0  # px, of the circle that is jittered
NUCLEUS_RADIUS = 10.0  # px
NUCLEUS_IRREGULARITY = 0.1  # what Shape is to the outline of the cell; areas 288-336 px
CONTROL_POINTS = 10  # on the circle
POINTS_PER_SPAN = 24  # of the spline between two control points; below 3 px apart

COARSEST_NODES = 4  # of the lattice of a cloud's first octave, a side
CELL_OCTAVES, CELL_PERSISTENCE = 6, 0.9
NUCLEUS_OCTAVES, NUCLEUS_PERSISTENCE, NUCLEUS_WINDOW = 5, 0.5, 31
DARKEST = 0.2  # a cloud spans DARKEST..1, so that no pixel of a cell is as black as the background

TILE = (COARSEST_NODES - 1) * 2 ** (CELL_OCTAVES - 1) + 1  # 97 px; its middle pixel is the nucleus
CELLS_PER_BATCH = 128  # about 40 MB of working memory


def simulate_bbbc031(
    n_cells: int = sum(BBBC031_CLASS_SIZES.values()),
    seed: int = 0,
    processes: Sequence[int] | None = None,
) -> tuple[list[np.ndarray], pd.DataFrame]:
    """Single-cell images of the BBBC031 population and their ground truth.

    Another `n_cells` draws other cells, not more of the same.

    Args:
        n_cells: how many cells, shared out in the proportions of the real set (`class_sizes`).
        seed: of all randomness; the same seed gives the same bytes.
        processes: which of the processes 1..7 to draw from; None means all.

    Returns:
        Tight bounding-box crops, uint8 (H, W, 3) RGB, exactly 0 outside the cell, about 60 px a
        side; and the table of `draw_bbbc031_population`, row i describing crop i.

    Raises:
        UserError: `n_cells`, `seed` or `processes` is out of range.
    """
    if not _is_integer(seed) or seed < 0:
        raise UserError(f"seed = {seed!r}: an integer of 0 or more is needed")
    rng = np.random.default_rng(seed)
    table = draw_bbbc031_population(class_sizes(n_cells, processes), rng)
    colours = table[["GT_colorR", "GT_colorG", "GT_colorB"]].to_numpy()
    irregularities = table["GT_Shape"].to_numpy()
    crops = []
    for start in range(0, n_cells, CELLS_PER_BATCH):
        batch = slice(start, start + CELLS_PER_BATCH)
        crops.extend(crop_cells(render_cells(colours[batch], irregularities[batch], rng)))
    return crops, table


# --------------------------------------------------------------------------------- population law


def class_sizes(n_cells: int, processes: Sequence[int] | None = None) -> dict[int, int]:
    """Cells of each process in the proportions of the real set, by largest remainder.

    A process that would get none takes one cell from the largest, as long as there are cells for
    all of them. Exact for the real 7,387.

    Args:
        n_cells: 1 or more.
        processes: distinct numbers of 1..7; None means all.

    Returns:
        process -> number of cells, which add up to `n_cells`.

    Raises:
        UserError: `n_cells` or `processes` is out of range.
    """
    if not _is_integer(n_cells) or n_cells < 1:
        raise UserError(f"n_cells = {n_cells!r}: an integer of 1 or more is needed")
    chosen = sorted(BBBC031_CLASS_SIZES if processes is None else processes)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(BBBC031_CLASS_SIZES):
        raise UserError(f"processes = {processes!r}: distinct numbers of 1 to 7 are needed")
    real = np.array([BBBC031_CLASS_SIZES[process] for process in chosen])
    quotas = n_cells * real / real.sum()
    sizes = np.floor(quotas).astype(int)
    most_short = np.argsort(sizes - quotas, kind="stable")[: n_cells - sizes.sum()]
    sizes[most_short] += 1
    if n_cells >= len(chosen):
        empty = sizes == 0
        sizes[np.argmax(sizes)] -= empty.sum()
        sizes[empty] = 1
    return dict(zip(chosen, sizes.tolist(), strict=True))


def draw_bbbc031_population(sizes: dict[int, int], rng: np.random.Generator) -> pd.DataFrame:
    """Ground truth of a random population, under the column names of the real set.

    The columns that place a cell in a field (Well, Site, GT_x, GT_y) are left out, as these cells
    lie in none, and so are those of CellProfiler and of the VAE of 2020.

    Args:
        sizes: process 1..7 -> number of cells.
        rng: source of the positions.

    Returns:
        A row per cell, ordered by process: GT_label (process), GT_Cell_id (from 1), Unique_ID (file
        name), GT_colorR, GT_colorG, GT_colorB (0..1), GT_Shape (0 round .. 0.5 jagged),
        GT_dist_toInit_state (0..1), GT_initial_state (green or red), PositionOnRegressionPlaneX and
        PositionOnRegressionPlaneY (0..1).
    """
    process = np.repeat(list(sizes), list(sizes.values()))
    cell_id = np.arange(1, len(process) + 1)
    x, y = bbbc031_positions(process, rng)
    colour, shape = bbbc031_appearance(x, y)
    distance, initial_state = distance_to_initial_state(x, y, process)
    return pd.DataFrame(
        {
            "GT_label": process,
            "GT_Cell_id": cell_id,
            "Unique_ID": [
                f"CellProcess_{p}_simulated_id{n}.tiff"
                for p, n in zip(process, cell_id, strict=True)
            ],
            "GT_colorR": colour[:, 0],
            "GT_colorG": colour[:, 1],
            "GT_colorB": colour[:, 2],
            "GT_Shape": shape,
            "GT_dist_toInit_state": distance,
            "GT_initial_state": initial_state,
            "PositionOnRegressionPlaneX": x,
            "PositionOnRegressionPlaneY": y,
        }
    )


def bbbc031_positions(
    process: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Random positions on the regression plane: uniform along the broken line of a process.

    So are the 7,387 real rows: Kolmogorov-Smirnov against the uniform law over arc length gives
    p = 0.42, 0.57, 0.33, 0.05, 0.01, 0.70 for processes 1 to 6, and 0.25 and 0.46 for x and y of
    process 7. Processes 4 and 5 lean a little to the red end (54 and 55 % of their cells), perhaps
    because CellProfiler loses more of the jagged cells; that is not simulated.

    Args:
        process: (N,) process 1..7 of each cell.
        rng: source of the positions.

    Returns:
        x and y, each (N,) in 0..1.
    """
    along, anywhere = rng.random((2, len(process)))  # both for every cell, used as needed
    corner = np.array([BBBC031_CORNERS.get(p, np.nan) for p in process])
    # The two legs are equally long, so half the arc lies on each.
    leg = np.minimum(2 * along, 1)  # done of the leg (0, 0) -> (corner, 1 - corner)
    rest = np.maximum(2 * along - 1, 0)  # done of the leg (corner, 1 - corner) -> (1, 1)
    x = np.where(process == 7, along, leg * corner + rest * (1 - corner))
    y = np.where(process == 7, anywhere, leg * (1 - corner) + rest * corner)
    return x, y


def bbbc031_appearance(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colour and shape of a cell at (x, y): the law behind BBBC031v1.

    It holds to 1e-6 on all 7,397 rows of the real ground truth at hand.

    Args:
        x: (N,) in 0..1, position on the regression plane.
        y: (N,) in 0..1.

    Returns:
        colour (N, 3), RGB in 0..1; shape (N,), from 0 (round) to 0.5 (jagged).
    """
    colour = np.stack([y, 1 - x, 1 - np.abs(x + y - 1)], axis=-1)
    return colour, 0.5 - (x + y) / 4


def distance_to_initial_state(
    x: np.ndarray, y: np.ndarray, process: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How far a cell has come from the extreme it started from, and which extreme that is.

    Args:
        x: (N,) in 0..1, position on the regression plane.
        y: (N,) in 0..1.
        process: (N,) process of each cell.

    Returns:
        distance (N,): to the nearer of (0, 0) and (1, 1), divided by the largest of the same
        process among these cells, so it reaches 1 in every process; initial state (N,): "red" where
        (1, 1) is nearer, else "green".
    """
    red = y > 1 - x
    distance = np.where(red, np.hypot(1 - x, 1 - y), np.hypot(x, y))
    farthest = pd.Series(distance).groupby(process).transform("max").to_numpy()
    return distance / farthest, np.where(red, "red", "green")


def _is_integer(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


# --------------------------------------------------------------------------------------- renderer


class CellTiles(NamedTuple):
    """Rendered cells, each alone on a tile whose middle pixel is the centre of its nucleus."""

    image: np.ndarray  # uint8 (N, TILE, TILE, 3), 0 outside the cell
    cell: np.ndarray  # bool (N, TILE, TILE), nucleus included
    nucleus: np.ndarray  # bool (N, TILE, TILE)


def render_cells(
    colours: np.ndarray, irregularities: np.ndarray, rng: np.random.Generator
) -> CellTiles:
    """Draw cells: a textured cytoplasm of one colour around a textured, pure blue nucleus.

    The thin tip of a protrusion may lie a pixel apart from its cell, as it does in the real fields.

    Args:
        colours: (N, 3) RGB of the cytoplasm, 0..1.
        irregularities: (N,) from 0 (a circle) to 0.5 (jagged): Shape of BBBC031.
        rng: source of outlines and textures.

    Returns:
        The cells and their masks on tiles of TILE x TILE px.
    """
    n_cells = len(irregularities)
    nucleus_irregularities = np.full(n_cells, NUCLEUS_IRREGULARITY)
    nucleus = fill_outlines(NUCLEUS_RADIUS * random_outlines(nucleus_irregularities, rng), TILE)
    cell = fill_outlines(CELL_RADIUS * random_outlines(irregularities, rng), TILE) | nucleus

    texture = clouds(n_cells, CELL_OCTAVES, CELL_PERSISTENCE, TILE, rng)
    cytoplasm = np.where(cell & ~nucleus, texture, 0)
    image = cytoplasm[..., None] * colours[:, None, None, :].astype(np.float32)  # (N, T, T, 3)

    margin = (TILE - NUCLEUS_WINDOW) // 2
    middle = np.s_[:, margin : margin + NUCLEUS_WINDOW, margin : margin + NUCLEUS_WINDOW]
    nucleus_texture = clouds(n_cells, NUCLEUS_OCTAVES, NUCLEUS_PERSISTENCE, NUCLEUS_WINDOW, rng)
    blue = image[..., 2]  # a view: the nucleus is written into the image
    blue[middle] = np.where(nucleus[middle], nucleus_texture, blue[middle])
    return CellTiles(np.rint(255 * image).astype(np.uint8), cell, nucleus)


def crop_cells(tiles: CellTiles) -> Iterator[np.ndarray]:
    """Tight bounding-box crops of the cells of a batch, as CellProfiler would save them.

    A crop holds what is 8-connected to the nucleus and is 0 elsewhere.

    Args:
        tiles: from `render_cells`.

    Yields:
        uint8 (H, W, 3), in the order of the tiles.
    """
    within_tile = np.zeros((3, 3, 3), bool)
    within_tile[1] = True  # 8-connected in the plane, never from tile to tile
    parts, _ = ndimage.label(tiles.cell, within_tile)
    middle = TILE // 2
    object_ = parts == parts[:, middle, middle][:, None, None]
    image = np.where(object_[..., None], tiles.image, 0)
    rows, columns = object_.any(axis=2), object_.any(axis=1)  # (N, TILE) each
    top, left = rows.argmax(1), columns.argmax(1)
    bottom, right = TILE - rows[:, ::-1].argmax(1), TILE - columns[:, ::-1].argmax(1)
    for i in range(len(image)):
        yield image[i, top[i] : bottom[i], left[i] : right[i]].copy()


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
