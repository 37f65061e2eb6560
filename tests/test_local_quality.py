"""Local quality against a double loop over pairs and cases whose value is known."""

import numpy as np
import pytest

from quantitative_metrics.local_quality import neighbourhood
from quantitative_metrics.unsupervised_metric import co_ranking
from util.errors import UserError


def slow_pairs(reference, projection, kt, ks):
    """(N, N) which pairs count, pair by pair from the definition."""
    n = len(reference)
    ranks = []
    for data in (reference, projection):
        squares = ((data[:, None].astype(float) - data[None]) ** 2).sum(axis=2)
        np.fill_diagonal(squares, -1)  # the cell itself has rank 0
        ranks.append(np.argsort(np.argsort(squares, axis=1, kind="stable"), axis=1))
    counted = np.zeros((n, n), dtype=bool)
    for i in range(n):
        for j in range(n):
            rho, r = ranks[0][i, j], ranks[1][i, j]
            counted[i, j] = i != j and min(rho, r) <= ks and abs(rho - r) <= kt
    return counted


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 256, (70, 30), dtype=np.uint8)
    reference[11] = reference[12] = reference[13]
    return reference, reference[:, :4] + rng.normal(size=(70, 4)) * 20


@pytest.mark.parametrize(("kt", "ks"), [(0, 5), (3, 5), (20, 8), (12, 20), (100, 60), (69, 69)])
def test_score_equals_the_definition(cells, kt, ks):
    pairs = slow_pairs(*cells, kt, ks)
    quality = co_ranking(cells[0], {"p": cells[1]}, kt=kt, ks=ks)["p"].local_quality
    expected = (pairs.sum(axis=1) + pairs.sum(axis=0)) / (2 * ks * 70)
    np.testing.assert_allclose(quality.score, expected, rtol=1e-12)
    np.testing.assert_allclose(quality.relative, 70 * expected, rtol=1e-12)
    assert (quality.kt, quality.ks) == (kt, ks) and not quality.from_rows_only


def test_sample_scores_its_cells_from_their_rows_counted_twice(cells):
    pairs = slow_pairs(*cells, 6, 10)
    quality = co_ranking(cells[0], {"p": cells[1]}, kt=6, ks=10, sample=25)["p"].local_quality
    assert quality.from_rows_only and len(quality.cells) == 25
    expected = 2 * pairs.sum(axis=1)[quality.cells] / (2 * 10 * 70)
    np.testing.assert_allclose(quality.score, expected, rtol=1e-12)


def test_all_cells_of_a_perfect_projection_sum_to_one():
    data = np.random.default_rng(0).normal(size=(90, 3))
    quality = co_ranking(data, {"p": data}, kt=0, ks=12)["p"].local_quality
    assert quality.score.sum() == pytest.approx(1)
    assert quality.relative.mean() == pytest.approx(1)


def test_random_codes_score_little_and_a_spoilt_cell_scores_least():
    rng = np.random.default_rng(0)
    data = rng.normal(size=(400, 3))
    spoilt = data.copy()
    spoilt[100] = spoilt[np.linalg.norm(data - data[100], axis=1).argmax()]
    results = co_ranking(data, {"random": rng.permutation(data), "spoilt": spoilt}, kt=10, ks=20)
    assert results["random"].local_quality.relative.mean() < 0.1
    assert results["spoilt"].local_quality.score.argmin() == 100
    assert results["spoilt"].local_quality.relative.mean() > 0.9


def test_three_cells():
    line = np.array([[0.0], [1.0], [3.0]])
    quality = co_ranking(line, {"p": line}, kt=0, ks=1)["p"].local_quality
    # nearest neighbours 0 -> 1, 1 -> 0, 2 -> 1: row sums 1, 1, 1; column sums 1, 2, 0
    np.testing.assert_allclose(quality.score, np.array([2, 3, 1]) / 6)


def test_constant_codes_are_equally_good():
    constant = np.zeros((30, 2))
    quality = co_ranking(constant, {"p": constant}, kt=0, ks=3)["p"].local_quality
    np.testing.assert_allclose(quality.relative, 1)


def test_neighbourhood_is_the_thesis_one_or_shrinks_with_few_cells():
    assert neighbourhood(7387) == (300, 500)
    assert neighbourhood(2000) == (300, 500)
    assert neighbourhood(200) == (30, 50)
    assert neighbourhood(3) == (0, 1)
    assert neighbourhood(7387, kt=2, ks=9) == (2, 9)
    assert neighbourhood(200, kt=0, ks=1) == (0, 1) and neighbourhood(200, ks=199)[1] == 199
    for ks in (0, 200):
        with pytest.raises(UserError, match=f"ks = {ks}: .* of 200 cells needs 1 <= ks <= 199"):
            neighbourhood(200, ks=ks)
    with pytest.raises(UserError, match="kt = -1"):
        neighbourhood(200, kt=-1)
