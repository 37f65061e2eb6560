"""View information against closed forms: Gaussian views, turns, monotone axes, nothing shared."""

import numpy as np
import pytest
from scipy.stats import special_ortho_group

from quantitative_metrics.view_information import view_information
from util.errors import UserError

RHO = np.array([0.97, 0.9, 0.6])
TRUTH = -0.5 * np.log(1 - RHO**2).sum()  # 2.47 nats


def gaussian(n, seed=0, rho=RHO):
    """Two views whose axes have known correlations."""
    rng = np.random.default_rng(seed)
    cell = np.sqrt(rho) * rng.normal(size=(n, len(rho)))
    return [cell + np.sqrt(1 - rho) * rng.normal(size=(n, len(rho))) for _ in range(2)]


@pytest.mark.parametrize("n, seed", [(400, 0), (2000, 1), (8000, 2)])
def test_gaussian_views_have_the_closed_form(n, seed):
    found = view_information(*gaussian(n, seed))
    assert abs(found.value - TRUTH) < 3 * found.standard_error + 0.03 and found.n_cells == n
    np.testing.assert_allclose(found.correlations, RHO, atol=3 / np.sqrt(n))


@pytest.mark.parametrize("rho", [[0.5], [0.9, 0.9, 0.9], [0.99, 0.0], [0.999, 0.8, 0.3, 0.0]])
def test_other_correlations_equal_ones_and_none(rho):
    rho = np.array(rho)
    truth = -0.5 * np.log(1 - rho**2).sum()
    assert abs(view_information(*gaussian(6000, 3, rho)).value - truth) < 0.06 * truth + 0.02


def test_the_standard_error_is_the_spread_over_draws_of_cells():
    found = [view_information(*gaussian(500, seed)) for seed in range(40)]
    spread = np.std([f.value for f in found], ddof=1)
    assert np.mean([f.standard_error for f in found]) == pytest.approx(spread, rel=0.4)


def test_turned_codes_and_other_dimensions_tell_the_same():
    a, b = gaussian(4000)
    turn, other = special_ortho_group(3, seed=0).rvs(2)
    assert view_information(a @ turn, b @ other).value == pytest.approx(TRUTH, abs=0.1)
    wide = np.column_stack([b, np.random.default_rng(1).normal(size=(4000, 2))])
    assert view_information(a, wide).value == pytest.approx(TRUTH, abs=0.1)
    repeated = np.column_stack([a, a[:, :2] * 3])  # axes that repeat each other count once
    assert view_information(repeated, b).value == pytest.approx(TRUTH, abs=0.1)


@pytest.mark.parametrize("stretch", [np.exp, lambda x: x**3, lambda x: 1e4 + np.tanh(x)])
def test_axes_may_be_stretched(stretch):
    a, b = gaussian(2000)
    assert view_information(stretch(a), b).value == pytest.approx(view_information(a, b).value)


def test_nothing_shared_is_zero_on_average():
    rng = np.random.default_rng(0)
    for draw in (rng.normal, lambda size: rng.standard_t(2, size)):
        found = [view_information(draw(size=(200, 3)), draw(size=(200, 3))) for _ in range(60)]
        values = np.array([f.value for f in found])
        assert abs(values.mean()) < 3 * values.std() / np.sqrt(60)
        assert values.min() < 0 < values.max() < 0.1


def test_few_outliers_do_not_decide():
    a, b = gaussian(1000)
    rng = np.random.default_rng(0)
    a[:10] += 30 * rng.normal(size=(10, 3))
    assert view_information(a, b).value == pytest.approx(TRUTH, abs=0.8)
    b[:10] = a[:10]
    assert view_information(a, b).value == pytest.approx(TRUTH, abs=0.25)


def test_clusters_tell_their_number():
    rng = np.random.default_rng(0)
    kind, centres = rng.integers(0, 4, 2000), 8 * rng.normal(size=(4, 3))
    a, b = (centres[kind] + rng.normal(size=(2000, 3)) for _ in range(2))
    assert view_information(a, b).value == pytest.approx(np.log(4), abs=0.5)


def test_a_collapsed_axis_counts_nothing():
    a, b = gaussian(4000)
    a[:, 2] = b[:, 2] = 0.7
    first_two = -0.5 * np.log(1 - RHO[:2] ** 2).sum()
    assert view_information(a, b).value == pytest.approx(first_two, abs=0.1)
    rounded = np.full(4000, 0.7) + 1e-8 * np.random.default_rng(0).normal(size=4000)
    a[:, 2] = b[:, 2] = rounded
    assert view_information(a, b).value == pytest.approx(first_two, abs=0.1)
    flat = view_information(np.ones((60, 3)), np.ones((60, 2)))
    assert flat.value == 0 and flat.standard_error == 0 and flat.correlations == ()


def test_ties_and_equal_views():
    a, b = gaussian(4000, rho=np.array([0.9]))
    coarse = view_information(np.round(a * 2), np.round(b * 2)).value
    assert 0.6 < coarse < -0.5 * np.log(1 - 0.81)
    same = view_information(a, a).value
    assert same == pytest.approx(-0.5 * np.log(1e-6))  # the ceiling of a direction


def test_groups_stay_together():
    """Views share the well and nothing else: only splits that cut wells find it."""
    rng = np.random.default_rng(0)
    well = np.repeat(np.arange(40), 20)
    a, b = (rng.normal(size=(40, 3))[well] for _ in range(2))
    a, b = a + 0.1 * rng.normal(size=(800, 3)), b + 0.1 * rng.normal(size=(800, 3))
    assert view_information(a, b).value > 0.1
    together = view_information(a, b, groups=well)
    assert together.value < 0.1 and together.standard_error > 0.03
    two = view_information(a, b, groups=well < 20)
    assert np.isfinite(two.value) and np.isnan(two.standard_error)
    with pytest.raises(UserError, match="one group"):
        view_information(a, b, groups=np.zeros(800))


def test_the_same_seed_gives_the_same_value():
    a, b = gaussian(300)
    assert view_information(a, b, seed=4) == view_information(a, b, seed=4)
    assert view_information(a, b, seed=4) != view_information(a, b, seed=5)


@pytest.mark.parametrize(
    "a, b, message",
    [
        ((49, 3), (49, 3), "49 cells: at least 50"),
        ((90, 24), (90, 3), "90 cells: at least 96"),
        ((60, 3), (61, 3), "60 codes of one view and 61"),
        ((60,), (60, 3), "`codes_a`: a float64 array of shape"),
    ],
)
def test_what_does_not_fit_is_refused(a, b, message):
    with pytest.raises(UserError, match=message):
        view_information(np.random.default_rng(0).normal(size=a), np.ones(b))


def test_undefined_codes_are_refused():
    a, b = gaussian(100)
    b[3, 1] = np.nan
    with pytest.raises(UserError, match="`codes_b`: 1 rows with NaN"):
        view_information(a, b)
