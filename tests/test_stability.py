"""Agreement of seeds: 1 for turned copies, chance for strangers, between them for noise."""

import numpy as np
import pytest
from scipy.stats import special_ortho_group

from quantitative_metrics.stability import seed_stability
from util.errors import UserError


def cells(n=400, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 3))


def test_turned_mirrored_scaled_and_moved_copies_agree():
    code = cells()
    turned = 7 - 2.5 * code @ special_ortho_group(3, seed=0).rvs()
    found = seed_stability([code, turned, -code])
    assert found.overlap == pytest.approx((1, 0)) and found.distance == pytest.approx((0, 0))
    assert np.isnan(np.diag(found.overlaps)).all()


def test_strangers_agree_by_chance():
    found = seed_stability([cells(seed=s) for s in range(4)])
    assert found.overlap[0] == pytest.approx(15 / 399, abs=0.005) and found.distance[0] > 0.9
    assert found.overlap[1] < 0.01


@pytest.mark.parametrize("noise", [0.1, 0.3, 1.0])
def test_the_procrustes_distance_of_noise_has_a_closed_form(noise):
    """For isotropic codes and noise of variance s, 1 - 1 / (1 + s)."""
    code = cells(4000)
    noisy = code + noise * cells(4000, 1)
    found = seed_stability([code, noisy])
    assert found.distance[0] == pytest.approx(1 - 1 / (1 + noise**2), abs=0.03)


def test_overlap_agrees_with_a_loop():
    a, b = cells(60), cells(60) + 0.5 * cells(60, 1)
    shared = []
    for i in range(60):
        near = [
            set(np.argsort(np.linalg.norm(x - x[i], axis=1))[1:6]) for x in (a, b)
        ]  # the cell itself comes first
        shared.append(len(near[0] & near[1]) / 5)
    assert seed_stability([a, b], k=5).overlap[0] == pytest.approx(np.mean(shared))


def test_one_seed_that_differs_is_named_by_its_own_agreement():
    code = cells()
    found = seed_stability([code, code * 2, cells(seed=5)])
    (good, _), (near, _) = found.of(0)
    (odd, _), (far, _) = found.of(2)
    assert good > 0.5 > odd and near < 0.6 < far


def test_other_dimensions_collapsed_codes_and_ties():
    flat = np.column_stack([cells()[:, :2], np.zeros(400)])
    assert seed_stability([flat, flat[:, :2]]).distance[0] == pytest.approx(0, abs=1e-9)
    found = seed_stability([cells(), np.ones((400, 3))])
    assert found.distance[0] == 1 and found.overlap[0] < 0.1
    assert seed_stability([cells(5), cells(5)], k=15).overlap[0] == 1


def test_what_cannot_be_compared_is_refused():
    for arrays in ([cells()], [cells(), cells(399)], [cells(2), cells(2)]):
        with pytest.raises(UserError, match="two of the same cells"):
            seed_stability(arrays)
