"""Bounds on mutual information against closed forms, and the critic."""

import math

import pytest
import torch

from util.mutual_information import (
    BOUNDS,
    EstimatorStack,
    InformationEstimator,
    SeparableCritic,
    info_nce,
    interpolated,
    nwj,
)

DIM, RHO, BATCH, REPEATS = 20, 0.7, 512, 400
TRUE = -DIM / 2 * math.log(1 - RHO**2)  # 6.733 nats


def log_density_ratio(generator):
    """Scores of one batch of correlated Gaussians by the best critic, log p(z | x) / p(z)."""
    x = torch.randn(BATCH, DIM, generator=generator)
    z = RHO * x + math.sqrt(1 - RHO**2) * torch.randn(BATCH, DIM, generator=generator)
    squares = z.square().sum(1)[:, None] + RHO**2 * x.square().sum(1)[None]
    quadratic = (squares - 2 * RHO * z @ x.T) / (2 * (1 - RHO**2))
    return TRUE - quadratic + z.square().sum(1)[:, None] / 2


@pytest.fixture(scope="module")
def estimates():
    """Mean of each bound over the batches; the diagonal's known mean is the control variate."""
    generator = torch.Generator().manual_seed(0)
    zero, sums = torch.zeros(BATCH), {}
    for _ in range(REPEATS):
        scores = log_density_ratio(generator)
        luck = scores.diagonal().mean() - TRUE
        for name, bound in {
            "infonce": info_nce(scores),
            "nwj": nwj(1 + scores),
            "alpha .5": interpolated(scores, zero, 0.5),
            "alpha .0067": interpolated(scores, zero, 0.0067),
            "alpha 1": interpolated(scores, zero, 1.0),
        }.items():
            sums[name] = sums.get(name, 0.0) + float(bound - luck) / REPEATS
    return sums


@pytest.mark.parametrize(
    ("name", "expected", "tolerance"),
    [
        ("infonce", 5.282, 0.007),
        ("nwj", 6.733, 0.08),
        ("alpha .5", 5.855, 0.007),
        ("alpha .0067", 6.648, 0.02),
    ],
)
def test_bounds_at_the_best_critic(estimates, name, expected, tolerance):
    assert estimates[name] == pytest.approx(expected, abs=tolerance)


def test_alpha_one_is_info_nce(estimates):
    assert estimates["alpha 1"] == pytest.approx(estimates["infonce"], abs=0.003)


def slow_interpolated(scores, log_baseline, alpha):
    size, total = len(scores), 0.0
    for i in range(size):
        m = sum(math.exp(scores[i, j]) for j in range(size)) / size
        total += float(scores[i, i]) - math.log(alpha * m + (1 - alpha) * math.exp(log_baseline[i]))
        m = sum(math.exp(scores[i, j]) for j in range(size) if j != i) / (size - 1)
        mixed = alpha * m + (1 - alpha) * math.exp(log_baseline[i])
        for j in range(size):
            total -= 0 if i == j else math.exp(scores[i, j]) / mixed / (size - 1)
    return 1 + total / size


def test_bounds_against_double_loops():
    torch.manual_seed(0)
    scores, baseline = torch.randn(6, 6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    for alpha in (0.01, 0.5, 1.0):
        expected = slow_interpolated(scores, baseline, alpha)
        assert float(interpolated(scores, baseline, alpha)) == pytest.approx(expected, rel=1e-9)
    others = [math.exp(scores[i, j] - 1) for i in range(6) for j in range(6) if i != j]
    expected = float(scores.diagonal().mean()) - sum(others) / 30
    assert float(nwj(scores)) == pytest.approx(expected, rel=1e-9)


def test_info_nce_of_known_scores():
    scores = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    rows = [2 - math.log(math.exp(2) + 1), 3 - math.log(math.exp(1) + math.exp(3))]
    torch.testing.assert_close(float(info_nce(scores)), sum(rows) / 2 + math.log(2))
    assert float(info_nce(100 * torch.eye(16))) <= math.log(16) + 1e-4
    torch.testing.assert_close(info_nce(torch.zeros(8, 8)), torch.tensor(0.0), atol=1e-6, rtol=0)


def test_critic_counts_of_the_thesis():
    def count(shape):
        return sum(p.numel() for p in SeparableCritic(shape, 3).parameters())

    assert count((3, 64, 64)) == 13_200_192
    assert count((4, 128, 128)) == 17_000_512


def test_separable_critic_scores_pairs():
    torch.manual_seed(0)
    critic = SeparableCritic((1, 8, 8), 2)
    x, z = torch.rand(5, 1, 8, 8), torch.randn(5, 2)
    scores = critic(x, z)
    for i in range(5):
        for j in range(5):
            torch.testing.assert_close(scores[i, j], critic.h(z[i]) @ critic.g(x[j].flatten()))


def test_vectors_and_codes_keep_all_their_digits_in_bfloat16():
    torch.manual_seed(0)
    critic, x, z = SeparableCritic((6,), 2), torch.randn(5, 6), torch.randn(5, 2)
    with torch.autocast("cpu", torch.bfloat16):
        low = critic(x, z)
    assert torch.equal(low, critic(x, z))


@pytest.mark.parametrize("bound", BOUNDS)
def test_every_network_of_a_bound_learns(bound):
    torch.manual_seed(0)
    estimator = InformationEstimator((1, 8, 8), 2, bound)
    x, z = torch.rand(16, 1, 8, 8), torch.randn(16, 2)
    estimator(x, z).backward()
    assert all(p.grad.abs().sum() > 0 for p in estimator.parameters())
    assert estimator(x[:1], z[:1]).item() == 0  # one pair says nothing


@pytest.mark.parametrize("bound", BOUNDS)
def test_stacked_estimators_give_what_each_gives(bound):
    torch.manual_seed(0)
    estimators = [InformationEstimator((6,), 2, bound, hidden=16) for _ in range(3)]
    stack, x, z = EstimatorStack(estimators), torch.randn(3, 9, 6), torch.randn(3, 9, 2)
    bounds = stack(x, z)
    bounds.sum().backward()
    for k, estimator in enumerate(estimators):
        alone = estimator(x[k], z[k])
        alone.backward()
        torch.testing.assert_close(bounds[k], alone)
        torch.testing.assert_close(stack.g[0].grad[k].T, estimator.critic.g[0].weight.grad)
        torch.testing.assert_close(stack.h[3].grad[k, 0], estimator.critic.h[2].bias.grad)
    stack.write(2, estimators[0])
    torch.testing.assert_close(estimators[0](x[2], z[2]), bounds[2])
