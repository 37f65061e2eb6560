import numpy as np
import pandas as pd
import pytest
import torch

from util.data_processing import Cells
from util.even_sampling import draw_cells, image_components, sampling_probabilities


def two_squares(rng, crowded=1900, sparse=100):
    """Cells spread over two squares of the same size, most of them in the first."""
    first = rng.random((crowded, 2))
    return np.concatenate([first, rng.random((sparse, 2)) + 5])


def test_equal_areas_get_equal_shares():
    """Closed form: drawn by density^-g, the share of an area goes as its cells^(1 - g)."""
    rng = np.random.default_rng(0)
    points = two_squares(rng)
    # The corners of a square look emptier than they are: 7 and 9 % of bias, and 3 % by chance.
    for balance, near in ((0.0, 1e-9), (0.5, 0.15), (1.0, 0.18)):
        share = sampling_probabilities(points, balance)[1900:].sum()
        right = 100 ** (1 - balance) / (100 ** (1 - balance) + 1900 ** (1 - balance))
        assert share == pytest.approx(right, rel=near), balance


def test_chances_follow_the_distance_to_the_15th_neighbour():
    rng = np.random.default_rng(1)
    points = rng.standard_normal((300, 3))
    distance = np.linalg.norm(points[:, None] - points, axis=2)
    radius = np.sort(distance, axis=1)[:, 15]  # 0 is the cell itself
    slow = np.clip(radius, *np.quantile(radius, [0.01, 0.99])) ** 3
    np.testing.assert_allclose(sampling_probabilities(points), slow / slow.sum(), rtol=1e-5)


def test_copies_of_a_cell_can_still_be_drawn():
    points = np.concatenate([np.zeros((50, 3)), np.random.default_rng(2).random((50, 3))])
    probabilities = sampling_probabilities(points)
    assert (probabilities > 0).all()
    assert probabilities.sum() == pytest.approx(1)
    assert sampling_probabilities(np.zeros((30, 3))) == pytest.approx(np.full(30, 1 / 30))
    assert sampling_probabilities(np.zeros((1, 3))) == pytest.approx([1])
    assert sampling_probabilities(np.zeros((4, 0))) == pytest.approx(
        np.full(4, 0.25)
    )  # images all alike


def test_each_cell_is_drawn_as_often_as_its_chance_says():
    cells, probabilities = np.array([7, 3, 9, 4]), np.array([0.5, 0.25, 0.05, 0.2])
    torch.manual_seed(0)
    drawn = [draw_cells(cells, probabilities) for _ in range(4000)]
    assert all(len(d) == 4 for d in drawn)
    counts = np.array([[(d == cell).sum() for cell in cells] for d in drawn])
    # systematic sampling: never further than one from the expectation
    assert (np.abs(counts - 4 * probabilities) < 1).all()
    np.testing.assert_allclose(counts.mean(0), 4 * probabilities, atol=0.03)


def test_the_draw_follows_torchs_seed():
    probabilities = sampling_probabilities(np.random.default_rng(3).random((200, 3)))
    cells = np.arange(200)
    torch.manual_seed(5)
    first = draw_cells(cells, probabilities)
    torch.manual_seed(5)
    assert (draw_cells(cells, probabilities) == first).all()
    assert (draw_cells(cells, probabilities) != first).any()


def test_components_are_those_of_the_images(cells_of_two_levels):
    """Bright and dark cells differ along the first component; a flat one is left out."""
    cells, bright = cells_of_two_levels
    points = image_components(cells)
    assert points.shape[1] == 1
    assert points.std() == pytest.approx(1, abs=1e-4)
    assert len(set(np.sign(points[bright, 0]))) == 1
    assert (np.sign(points[bright, 0]).mean()) == -np.sign(points[~bright, 0]).mean()


@pytest.fixture
def cells_of_two_levels():
    bright = np.arange(40) % 4 == 0
    images = np.where(bright, 30_000, 5_000).astype(np.uint16)
    images = np.broadcast_to(images[:, None, None, None], (40, 2, 32, 32)).copy()
    table = pd.DataFrame({"Unique_ID": [f"{i}.tiff" for i in range(40)]})
    zero, full = np.zeros(2), np.full(2, 40_000.0)
    return Cells(images, table, "levels", True, zero, zero, full, ["a", "b"]), bright
