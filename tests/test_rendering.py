"""Drawing primitives of the simulators, against scipy, scikit-image and closed forms."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.interpolate import CubicSpline, RegularGridInterpolator
from skimage import draw, measure

from util.simulators.rendering import (
    DARKEST,
    CellTiles,
    bounding_boxes,
    closed_spline,
    clouds,
    crop_cells,
    fill_outlines,
    in_one_piece,
    random_outlines,
)


def test_spline_is_the_periodic_spline_of_scipy():
    points = np.random.default_rng(0).normal(size=(5, 7, 2))
    sampled = closed_spline(points, 6)
    for polygon, curve in zip(points, sampled, strict=True):
        closed = np.vstack([polygon, polygon[:1]])
        knots = np.r_[0, np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1) ** 0.5)]
        at = (knots[:-1, None] + np.diff(knots)[:, None] * np.arange(6) / 6).ravel()
        expected = CubicSpline(knots, closed, bc_type="periodic")(at)
        np.testing.assert_allclose(curve, expected, atol=1e-10)


def test_outline_without_irregularity_is_a_circle():
    outline = random_outlines(np.zeros(2), np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.norm(outline, axis=2), 1, atol=2e-3)
    # The spline of 10 points is no exact circle; its area shows a wrong order or scale of them.
    y, x = outline[0].T
    area = 0.5 * np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))
    assert area == pytest.approx(np.pi, rel=0.005)


def test_polygons_are_filled_as_by_skimage():
    rng = np.random.default_rng(1)
    angles = np.sort(rng.uniform(0, 2 * np.pi, (20, 15)), axis=1)
    radii = rng.uniform(5, 30, (20, 15))  # some reach beyond the mask of 41 px
    polygons = radii[..., None] * np.stack([np.sin(angles), np.cos(angles)], axis=-1)
    filled = fill_outlines(polygons, 41)
    for polygon, mask in zip(polygons, filled, strict=True):
        np.testing.assert_array_equal(mask, draw.polygon2mask((41, 41), polygon + 20))


def test_a_curve_around_twice_leaves_no_hole():
    t = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    radius = 8 - 5 * np.cos(t)  # a limacon's two windings: radius 3..13
    curve = radius[:, None] * np.stack([np.sin(2 * t), np.cos(2 * t)], axis=1)
    mask = fill_outlines(curve[None], 31)[0]
    assert mask[15, 15]
    np.testing.assert_array_equal(mask, ndimage.binary_fill_holes(mask))
    even_odd = draw.polygon2mask((31, 31), curve + 15)
    assert mask.sum() > even_odd.sum()


def test_first_octave_of_a_cloud_is_bilinear():
    (cloud,) = clouds(1, octaves=4, persistence=0.0, size=25, rng=np.random.default_rng(2))
    nodes = np.arange(0, 25, 8)
    bilinear = RegularGridInterpolator((nodes, nodes), cloud[::8, ::8])
    grid = np.stack(np.meshgrid(np.arange(25), np.arange(25), indexing="ij"), axis=-1)
    np.testing.assert_allclose(cloud, bilinear(grid), atol=1e-5)


def test_clouds_span_their_range_and_fall_off_with_distance():
    cloud = clouds(50, octaves=6, persistence=0.9, size=97, rng=np.random.default_rng(3))
    assert cloud.shape == (50, 97, 97)
    np.testing.assert_allclose(cloud.min(axis=(1, 2)), DARKEST, atol=1e-6)
    np.testing.assert_allclose(cloud.max(axis=(1, 2)), 1, atol=1e-6)
    correlation = [
        np.mean([np.corrcoef(c[:, lag:].ravel(), c[:, :-lag].ravel())[0, 1] for c in cloud])
        for lag in (1, 2, 4, 8)
    ]
    assert np.all(np.diff(correlation) < -0.05)


def shapes(n=12, size=41, channels=3):
    """Random filled outlines with random pixels inside, the middle pixel always inside."""
    rng = np.random.default_rng(4)
    cell = fill_outlines(14 * random_outlines(np.linspace(0, 0.4, n), rng), size)
    cell[:, size // 2, size // 2] = True
    image = rng.integers(1, 1000, (n, size, size, channels)).astype(np.uint16) * cell[..., None]
    return CellTiles(image, cell, np.zeros_like(cell))


def test_bounding_boxes_are_those_of_regionprops():
    tiles = shapes()
    for box, mask in zip(bounding_boxes(tiles.cell), tiles.cell, strict=True):
        assert tuple(box) == measure.regionprops(mask.astype(np.uint8))[0].bbox


def test_one_piece_is_the_component_of_the_middle():
    tiles = shapes()
    tiles.cell[:, 1, 1:4] = True  # something apart
    tiles.image[:, 1, 1:4] = 7
    tiles.nucleus[:, 1, 1:4] = True
    whole = in_one_piece(tiles)
    for i, mask in enumerate(tiles.cell):
        labels = measure.label(mask, connectivity=2)
        expected = labels == labels[20, 20]
        np.testing.assert_array_equal(whole.cell[i], expected)
        np.testing.assert_array_equal(whole.image[i], tiles.image[i] * expected[..., None])
    assert not whole.nucleus.any()


def test_crops_keep_type_channels_and_every_pixel_of_the_cell():
    tiles = in_one_piece(shapes(channels=4))
    for crop, image, (top, left, bottom, right) in zip(
        crop_cells(tiles), tiles.image, bounding_boxes(tiles.cell), strict=True
    ):
        assert crop.dtype == np.uint16 and crop.shape == (bottom - top, right - left, 4)
        again = np.zeros_like(image)
        again[top:bottom, left:right] = crop
        np.testing.assert_array_equal(again, image)
