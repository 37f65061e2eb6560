"""Mutual information against closed forms, known cases and slow references."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from quantitative_metrics import MINE_metric, critics
from quantitative_metrics.MINE_metric import (
    MODES,
    analytic_information,
    mutual_information,
    smaller_images,
)
from util.errors import UserError
from util.mutual_information import BOUNDS, EstimatorStack, InformationEstimator


def gaussian_pairs(nats, n, dim=3, seed=0):
    """Pairs of standard Gaussians (n, d) that share so many nats: I = -d/2 log(1 - rho^2)."""
    rng = np.random.default_rng(seed)
    x, noise = rng.standard_normal((2, n, dim))
    rho = math.sqrt(1 - math.exp(-2 * nats / dim))
    return x, rho * x + math.sqrt(1 - rho**2) * noise


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("nats", "tolerance", "steps"), [(2, 0.05, 240), (4, 0.1, 300)])
def test_information_of_gaussians(nats, tolerance, steps):
    # tests/benchmarks/information.py prints the whole table, up to 6 nats and 20 dimensions
    x, z = gaussian_pairs(nats, 20_000)
    score = mutual_information(x, z, repeats=1, steps=steps, pairs=None)
    assert score.value == pytest.approx(nats, rel=tolerance)
    assert score.value < nats + 3 * score.standard_error
    assert score.n_pairs == 20_000
    assert score.cap == pytest.approx(math.log(4000))


def test_same_seed_same_value_and_scale_free():
    x, z = gaussian_pairs(1, 500)
    settings = {"repeats": 2, "steps": 20}
    first = mutual_information(x, z, **settings)
    assert first == mutual_information(x, z, **settings)
    assert first.value != mutual_information(x, z, seed=1, **settings).value
    # columns are standardised, so scale and origin of a projection do not matter
    moved = mutual_information(4 * x, 8 * z - 2, **settings)
    assert moved.value == pytest.approx(first.value, abs=1e-3)
    raw = mutual_information(x, 8 * z - 2, standardise=False, **settings)
    assert raw.value != pytest.approx(first.value, abs=1e-3)


def test_identical_copy_is_near_the_cap():
    x = np.random.default_rng(0).normal(size=(1000, 2))
    score = mutual_information(x, x, repeats=1, steps=400)
    assert score.cap == pytest.approx(math.log(200))
    assert score.cap - 0.7 < score.value < score.cap
    assert any("close to the cap" in line for line in score.report)


def test_permuted_codes_tell_nothing():
    x, z = gaussian_pairs(4, 1000)
    permuted = np.random.default_rng(1).permutation(z)
    score = mutual_information(x, permuted, repeats=2, patience=100)
    assert abs(score.value) <= 3 * score.standard_error + 1e-9
    assert abs(score.value) < 0.02
    assert not any("cap" in line for line in score.report)
    thesis = mutual_information(x, permuted, mode="thesis", epochs=50, bound="infonce")
    assert thesis.value > 0.1  # what over-fitting makes of nothing
    assert any("over-fitting" in line for line in thesis.report)


def test_constant_codes_tell_nothing():
    images = np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
    score = mutual_information(images, np.full((60, 3), 7.5))
    assert (score.value, score.spread, score.standard_error) == (0, 0, 0)
    assert "no information" in score.report[0]
    assert mutual_information(images * 0, np.random.rand(60, 3)).value == 0


@pytest.mark.parametrize("copies", [2, 4])
def test_copies_of_cells_share_no_noise(copies):
    """Copies on both sides of a split would be recognised: 3 nats of noise with four of each."""
    rng = np.random.default_rng(0)
    images, codes = rng.random((100, 1, 8, 8)), rng.normal(size=(100, 3))
    order = rng.permutation(100 * copies)
    images, codes = images.repeat(copies, axis=0)[order], codes.repeat(copies, axis=0)[order]
    for x in (images, images.reshape(len(images), -1)):
        score = mutual_information(x, codes, steps=300)
        assert score.value <= max(score.spread, 0.02)
        assert score.cap == pytest.approx(math.log(20 * copies))


def test_too_few_kinds_of_cells_are_refused():
    kind = np.repeat(np.arange(49), 10)
    images = np.random.default_rng(0).random((49, 3, 8, 8))[kind]
    codes = np.random.default_rng(1).normal(size=(490, 3))
    with pytest.raises(UserError, match="UMAP: only 49 of 490 images or vectors are distinct"):
        MINE_metric.mutual_information_of(images, {"UMAP": codes})


def test_the_parts_are_disjoint_and_repeats_report_on_other_pairs():
    splits = critics.parts_of(np.arange(103), 5, np.random.default_rng(0))
    assert len(splits) == 5
    for parts in splits:
        assert sorted(torch.cat(parts).tolist()) == list(range(103))
        assert [len(part) for part in parts] == [62, 20, 21]
    assert len(set(torch.cat([parts[2][:20] for parts in splits]).tolist())) == 100


@pytest.mark.parametrize("sizes", [[4] * 60, [300, *[1] * 100], [2] * 30 + [1] * 41])
def test_copies_share_a_part(sizes):
    distinct = np.random.default_rng(1).permutation(np.repeat(np.arange(len(sizes)), sizes))
    splits = critics.parts_of(distinct, 3, np.random.default_rng(0))
    for parts in splits:
        images = [set(distinct[part].tolist()) for part in parts]
        assert not (images[0] & images[1] or images[0] & images[2] or images[1] & images[2])
        assert len(set(torch.cat(parts).tolist())) == sum(map(len, parts))
    lengths = {tuple(map(len, parts)) for parts in splits}
    assert len(lengths) == 1  # the critics of all repeats train in one batch
    assert min(min(lengths)) >= 0.19 * len(sizes)


@pytest.mark.parametrize("scale", [1e-160, 1e39, 1e200])
@pytest.mark.parametrize("offset", [0, 1e8])
def test_the_unit_of_codes_and_features_changes_nothing(scale, offset):
    x, z = gaussian_pairs(2, 200)
    settings = {"repeats": 2, "steps": 40}
    usual = mutual_information(x, z, **settings)
    assert usual.value > 0.1
    moved = mutual_information((x - offset) * scale, (z + offset) * scale, **settings)
    assert moved.value == pytest.approx(usual.value, abs=1e-3)
    assert moved.report == usual.report


def test_numbers_that_the_thesis_cannot_take_are_named():
    x, z = gaussian_pairs(2, 60)
    with pytest.raises(UserError, match="codes: 60 rows with numbers beyond float32"):
        mutual_information(x, z * 1e40, mode="thesis")


def test_columns_are_standardised_and_clipped():
    """Few cells far out neither reach beyond 3 nor push the others together."""
    rng = np.random.default_rng(0)
    values = rng.normal(5, 2, (1000, 3))
    values[:10, 0] = 1e4
    values[:, 1] = rng.standard_t(1, 1000)
    values[:, 2] = 7
    found = critics._standardised(torch.from_numpy(values), torch.arange(600)).numpy()
    assert found.dtype == np.float32 and np.abs(found).max() == 3
    assert (found[:10, 0] == 3).all() and (found[:, 2] == 0).all()
    assert 0.8 < found[10:, 0].std() < 1.05
    assert 0.5 < found[:, 1].std() < 1.5
    normal = rng.normal(5, 2, (600, 1))
    found = critics._standardised(torch.from_numpy(normal), torch.arange(600)).numpy()
    assert abs(found.mean()) < 0.01 and found.std() == pytest.approx(1, abs=0.01)


def test_negative_and_widely_spread_values_are_told():
    settings = MODES["held_out"]

    def remarks(*values):
        found = [critics.Result(v, error=0.1, epochs=1, curve=[v], compared=40) for v in values]
        return MINE_metric._remarks(found, settings)

    assert remarks(-0.3, -0.1, 0.1) == [
        "-0.1 nats is below 0, the least there can be: read it as 0"
    ]
    (wide,) = remarks(0.1, 0.2, 0.9)
    assert wide.startswith("the 3 repeats spread from 0.10 to 0.90 nats")
    assert remarks(1.0, 1.1, 1.3) == remarks(0.01, 0.02, 0.03) == remarks(2.0) == []


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [200, 500])
def test_heavy_tails_give_a_stable_value_below_the_truth(n, seed):
    """tests/benchmarks/few_cells.py has the table."""
    x, z = gaussian_pairs(2, n, seed=seed)
    share = scipy.stats.norm.cdf(x)
    score = mutual_information(scipy.stats.t.ppf(share, 1.5), z**3, seed=seed)
    assert 0.9 < score.value < 2 + score.spread
    assert score.spread < 0.35


@pytest.mark.parametrize("bound", BOUNDS)
def test_standard_error_is_the_spread_over_samples(bound):
    """With the best critic of Gaussians, known in closed form, instead of a trained one."""
    nats, dim = 1.0, 3
    rho = math.sqrt(1 - math.exp(-2 * nats / dim))

    class BestCritic(nn.Module):
        def forward(self, x, z):
            squares = z.square().sum(1)[:, None] + rho**2 * x.square().sum(1)[None]
            exponent = (squares - 2 * rho * z @ x.T) / (2 * (1 - rho**2))
            return nats - exponent + z.square().sum(1)[:, None] / 2 + (bound == "nwj")

    estimator = InformationEstimator((dim,), dim, bound, alpha=0.5)
    estimator.critic = BestCritic()
    if bound == "interpolated":
        nn.init.zeros_(estimator.baseline[-1].weight)
        nn.init.zeros_(estimator.baseline[-1].bias)  # log of the best baseline, which is 1
    x, z = (torch.from_numpy(v) for v in gaussian_pairs(nats, 150 * 300, dim))
    estimator.double()
    values, errors = [], []
    for rows in torch.arange(len(x)).split(300):
        values.append(critics._held_out_bound(estimator, x, z, [rows]))
        errors.append(critics._standard_error(estimator, x, z, [rows]))
    assert np.std(values) == pytest.approx(
        np.mean(errors), rel=0.17
    )  # 150 samples: 3 x 5.8 % by chance
    assert np.mean(values) < nats + 4 * np.std(values) / math.sqrt(150)


def test_thesis_mode_is_the_mean_of_the_last_epochs():
    x, z = gaussian_pairs(2, 300)
    score = mutual_information(x, z, mode="thesis", epochs=60, batch=100)
    assert len(score.curves[0]) == 60
    assert score.value == pytest.approx(np.mean(score.curves[0][-50:]))
    assert score.cap == pytest.approx(math.log(100 / 0.01))
    assert math.isnan(score.standard_error) and math.isnan(score.spread)
    expected = ("interpolated", 0.01, None, False, 5e-4, 200)
    thesis = MODES["thesis"]
    assert expected == (
        *(thesis.bound, thesis.alpha, thesis.image_size),
        *(thesis.standardise, thesis.learning_rate, thesis.epochs),
    )


def test_thesis_mode_trains_like_a_plain_loop():
    """Raw pixels and codes, Adam, the mean of each epoch's batches."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 1, 8, 8), dtype=np.uint8)
    codes = (3 * images.reshape(64, -1)[:, :2] / 255).astype(np.float32)
    settings = replace(MODES["thesis"], epochs=3, batch=16)
    x = torch.from_numpy(images / np.float32(255))
    z = torch.from_numpy(codes)
    rows = torch.arange(64)[None]
    pairs = critics._Pairs(
        x.flatten(1)[None], z[None], torch.tensor([0]), (rows, rows[:, :0], rows[:, :0])
    )
    torch.manual_seed(5)
    estimator = InformationEstimator((1, 8, 8), 2, "interpolated", 0.01)
    (result,) = critics._train_and_judge(pairs, [estimator], settings, [5])

    optimizer = torch.optim.Adam(estimator.parameters(), lr=5e-4)
    generator = torch.Generator().manual_seed(5)
    for value in result.curve:
        bounds = []
        for rows in torch.randperm(64, generator=generator).split(16):
            bound = estimator(x[rows], z[rows])
            optimizer.zero_grad()
            (-bound).backward()
            optimizer.step()
            bounds.append(bound.item())
        assert value == pytest.approx(np.mean(bounds), abs=1e-4)


def test_training_stops_when_the_held_out_value_stalls(monkeypatch):
    """The best weights are kept; patience counts the steps since them, for each critic."""
    values = [1.0, 3.0, 2.0, 2.5, 4.0, 3.9, 3.8, 3.7]
    other = [2.0, 1.9, 1.8, 1.7]
    lookups, weights = iter([*zip(values, other, strict=False), *([v] for v in values[4:])]), []

    def stopping_bounds(averaged, *_):
        weights.append(averaged.h[0].detach().clone())
        return next(lookups)

    monkeypatch.setattr(critics, "_stopping_bounds", stopping_bounds)
    x, z = (torch.from_numpy(v).float() for v in gaussian_pairs(1, 100))
    settings = replace(MODES["held_out"], patience=60, batch=50)
    rows = torch.arange(100)[None]
    pairs = critics._Pairs(x[None], torch.stack([z, -z]), torch.tensor([0, 0]), (rows,) * 3)
    stack = EstimatorStack([InformationEstimator((3,), 3) for _ in range(2)])
    best, curves = critics._train_until_stalled(
        stack,
        torch.optim.Adam(stack.parameters()),
        pairs,
        settings,
        [torch.Generator().manual_seed(0)],
    )
    assert curves == [values, other]
    torch.testing.assert_close(best.h[0][0], weights[4][0])
    torch.testing.assert_close(best.h[0][1], weights[0][1])
    assert [len(each) for each in weights] == [2, 2, 2, 2, 1, 1, 1, 1]
    assert not torch.equal(weights[4], weights[5])


def three_projections(n=120):
    """Images of (n, 1, 8, 8), and codes that tell much, nothing, and something in two columns."""
    rng = np.random.default_rng(0)
    images = rng.random((n, 1, 8, 8))
    much = images[:, 0, :3, 0]
    nothing = rng.normal(size=(n, 3))
    return images, {"much": much, "nothing": nothing, "two": much[:, :2] ** 2}


@pytest.mark.parametrize("at_once", [1, 2, 12])
def test_a_score_does_not_depend_on_its_company(monkeypatch, at_once):
    """Also where critics stop at different steps, and where they do not fit into one batch."""
    settings = {"repeats": 2, "steps": 160, "patience": 40, "batch": 32, "components": 9}
    images, projections = three_projections()
    monkeypatch.setattr(critics, "_CRITICS_AT_ONCE", at_once)
    together = MINE_metric.mutual_information_of(images, projections, **settings)
    assert list(together) == ["much", "nothing", "two"]
    lengths = {len(curve) for score in together.values() for curve in score.curves}
    assert len(lengths) > 1
    for name, codes in projections.items():
        alone = mutual_information(images, codes, **settings)
        assert together[name].values == pytest.approx(alone.values, abs=2e-3)
        assert together[name].epochs == alone.epochs


def test_groups_are_bounded_in_critics_and_in_weights():
    many = [("", repeat) for repeat in range(30)]
    small = InformationEstimator((64,), 3, hidden=MODES["held_out"].hidden)
    groups = list(critics._groups(many, small))
    assert [critic for group in groups for critic in group] == many
    assert max(map(len, groups)) == critics._CRITICS_AT_ONCE
    thesis = InformationEstimator((3, 64, 64), 3, "interpolated")
    weights = sum(parameter.numel() for parameter in thesis.parameters())
    largest = max(map(len, critics._groups(many, thesis)))
    assert 1 <= largest and largest * weights <= critics._WEIGHTS_AT_ONCE


def standardised_plainly(values, rows):
    """Columns in the deviations of their clipped numbers, clipped at 3."""
    columns = []
    for column in values.T:
        kept = column[rows]
        for _ in range(10):
            mean, deviation = kept.mean(), kept.std(ddof=1)
            kept = np.clip(kept, mean - 3 * deviation, mean + 3 * deviation)
        columns.append(np.clip((column - kept.mean()) / kept.std(ddof=1), -3, 3))
    return torch.from_numpy(np.stack(columns, axis=1)).float()


def test_held_out_critics_train_like_a_plain_loop():
    """One critic at a time, with PyTorch's own averaged model, judged on the reported part."""
    x, z = (values.astype(np.float32) for values in gaussian_pairs(1, 200))
    settings = {"repeats": 2, "steps": 40, "batch": 50, "learning_rate": 1e-3, "averaging": 0.9}
    both = {"z": z, "other": z[::-1]}
    found = MINE_metric.mutual_information_of(x, both, **settings)

    rng = np.random.default_rng(0)
    order, seeds = rng.permutation(200), rng.integers(2**62, size=2)
    for name, codes in both.items():
        for repeat, seed in enumerate(seeds.tolist()):
            train, stop, report = np.split(np.roll(order, -40 * repeat), [120, 160])
            a, b = (standardised_plainly(v.astype(float), train) for v in (x, codes))
            torch.manual_seed(seed)
            critic = InformationEstimator((3,), 3, hidden=MODES["held_out"].hidden)
            optimizer = torch.optim.Adam(critic.parameters(), lr=1e-3)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
            averaged = AveragedModel(critic, multi_avg_fn=get_ema_multi_avg_fn(0.9))
            generator, curve, reported = torch.Generator().manual_seed(seed), [], []
            for step in range(40):
                if step % 2 == 0:
                    epoch = torch.randperm(120, generator=generator)[:100].split(50)
                rows = train[epoch[step % 2]]
                optimizer.zero_grad()
                (-critic(a[rows], b[rows])).backward()
                optimizer.step()
                schedule.step()
                averaged.update_parameters(critic)
                if step % 20 == 19:
                    curve.append(averaged(a[stop], b[stop]).item())
                    reported.append(averaged(a[report], b[report]).item())
            assert found[name].curves[repeat] == pytest.approx(
                curve, abs=1e-3
            )  # rounding grows in training
            assert found[name].epochs[repeat] == 20  # 40 steps, two of 50 pairs in an epoch
            value = reported[np.argmax(curve)] if max(curve) > 0 else 0
            assert found[name].values[repeat] == pytest.approx(value, abs=1e-3)


def test_components_are_those_of_the_pixels():
    """Against a singular value decomposition; nothing is learnt from rows to be judged on."""
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 12)) @ np.diag(np.arange(12)))
    rows = torch.arange(30)
    found = critics._components(x.float(), rows, 5)
    centre = x[rows].mean(0)
    _, spread, axes = torch.linalg.svd(x[rows] - centre, full_matrices=False)
    expected = (x - centre) @ axes[:5].T * (spread / spread[0])[:5]
    torch.testing.assert_close(found.flip(1).abs(), expected.abs().float(), rtol=1e-3, atol=1e-3)


def test_a_bad_projection_names_itself():
    x, z = gaussian_pairs(1, 60)
    bad = np.where(np.eye(60, 3), np.nan, z)
    with pytest.raises(UserError, match=r"^bad, pixels: codes: 3 rows with NaN"):
        MINE_metric.mutual_information_of(x, {"z": z, "bad": bad}, context="{}, pixels: ")


def test_smaller_images_average_pixels():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 2**16, (5, 2, 32, 64), dtype=np.uint16)
    expected = images.reshape(5, 2, 16, 2, 16, 4).mean(axis=(3, 5)) / 65535
    np.testing.assert_allclose(smaller_images(images), expected, atol=1e-6)
    small = rng.random((5, 1, 9, 12))
    np.testing.assert_allclose(smaller_images(small), small, atol=1e-6)
    low, high = np.array([100, 200]), np.array([1100, 60_000])
    expected = ((images - low[:, None, None]) / (high - low)[:, None, None]).clip(0, 1)
    np.testing.assert_allclose(smaller_images(images, 64, low, high), expected, atol=1e-6)


def test_images_give_the_same_reduced_before_or_inside():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (200, 3, 40, 24), dtype=np.uint8)
    codes = images[:, :, :20].mean(axis=(2, 3))
    settings = {"repeats": 1, "steps": 20}
    inside = mutual_information(images, codes, **settings)
    before = mutual_information(smaller_images(images), codes, **settings)
    assert (before.values, before.curves, before.cap) == (inside.values, inside.curves, inside.cap)
    wide = 3 * images.astype(np.uint16) + 50
    ranged = mutual_information(wide, codes, low=50, high=50 + 3 * 255, **settings)
    assert ranged.values == pytest.approx(inside.values, abs=1e-4)
    pixels = mutual_information(images, codes, image_size=None, **settings)
    assert pixels.value != inside.value


def test_a_sample_of_the_pairs_is_named():
    x, z = gaussian_pairs(1, 300)
    score = mutual_information(x, z, pairs=100, repeats=1, steps=20, context="VAE: ")
    assert score.n_pairs == 100
    assert score.report[0] == "VAE: 100 of 300 pairs, drawn at random"


IMAGES = np.zeros((60, 1, 4, 4), np.uint8)
CODES = np.ones((60, 2))


@pytest.mark.parametrize(
    ("images", "codes", "settings", "message"),
    [
        (IMAGES[:3], CODES[:3], {}, "3 pairs of image and code: at least 50"),
        (IMAGES, np.where(np.eye(60, 2), np.nan, CODES), {}, "2 rows with NaN .*first in row 0"),
        (IMAGES, CODES[:50], {}, "60 images for 50 codes"),
        (IMAGES, CODES[:, 0], {}, r"codes: a float64 array of shape \(60,\)"),
        (IMAGES[:, 0], CODES, {}, r"images are an array of shape \(60, 4, 4\)"),
        (IMAGES + 2.0, CODES, {}, "from 2 to 2, not 0..1: give low and high"),
        (IMAGES + np.nan, CODES, {"low": 0, "high": 1}, "NaN or infinite pixels"),
        (IMAGES, CODES, {"low": 0}, "give both or neither"),
        (IMAGES, CODES, {"low": 1, "high": 1}, "must be above low"),
        (IMAGES, CODES, {"low": [0, 0], "high": [1, 1]}, "values for 1 channels"),
        (IMAGES.astype(int), CODES, {}, "int64: give low and high"),
        (IMAGES, CODES, {"mode": "best"}, "choose one of held_out, thesis"),
        (IMAGES, CODES, {"bound": "mine"}, "choose one of infonce, nwj"),
        (IMAGES, CODES, {"depth": 3}, "'depth' is not a setting"),
        (IMAGES, CODES, {"repeats": 0}, "repeats = 0: must be at least 1"),
        (IMAGES, CODES, {"steps": 10}, "steps = 10: must be at least 20"),
        (IMAGES, CODES, {"alpha": 0.0}, "alpha = 0.0: must be above 0"),
        (IMAGES, CODES, {"alpha": 1.01}, "alpha = 1.01: must be above 0 and at most 1"),
        (IMAGES, CODES, {"pairs": 10}, "pairs = 10: must be at least 50"),
    ],
)
def test_mistakes_are_one_line(images, codes, settings, message):
    with pytest.raises(UserError, match=message) as error:
        mutual_information(images, codes, **settings)
    assert "\n" not in str(error.value)


def test_encoder_information_of_gaussians():
    """Means N(0, s^2), noise variance v: q(z) is N(0, s^2 + v), I = d/2 log(1 + s^2 / v)."""
    spread, variance = 1.3, 0.1
    mean = spread * np.random.default_rng(0).normal(size=(4000, 3))
    logvar = np.full(mean.shape, math.log(variance))
    truth = 1.5 * math.log(1 + spread**2 / variance)
    score = analytic_information(mean, logvar, sample=1000)
    # the mixture of 4,000 cells is about exp(I) / N below the population's
    assert score.value == pytest.approx(truth, abs=3 * score.standard_error)
    assert score.standard_error < 0.05
    whole = analytic_information(mean, logvar, sample=None, draws=4, seed=1)
    assert whole.standard_error < score.standard_error / 3
    assert score.value == pytest.approx(whole.value, abs=3 * score.standard_error)
    rate = (mean**2 + variance - 1 - logvar).sum(1).mean() / 2
    assert score.mean_kl == pytest.approx(rate)
    assert score.mean_kl - score.marginal_kl == pytest.approx(score.value)
    # blocks and the number of drawn cells change nothing but rounding
    small = analytic_information(mean, logvar, sample=50, block=10_000)
    assert small.value == pytest.approx(analytic_information(mean, logvar, sample=50).value)


def test_encoder_information_against_a_slow_mixture():
    rng = np.random.default_rng(0)
    mean, logvar = rng.normal(size=(2, 40, 2))
    score = analytic_information(mean, logvar, sample=None, seed=3)
    rng = np.random.default_rng(3)
    rows, noise = rng.choice(40, 40, replace=False), rng.standard_normal((40, 1, 2))[:, 0]
    total = 0.0
    for row, e in zip(rows, noise, strict=True):
        z = mean[row] + np.exp(logvar[row] / 2) * e
        density = np.exp(-((z - mean) ** 2) / np.exp(logvar) / 2 - logvar / 2).prod(1)
        total += math.log(density[row] / density.mean())
    assert score.value == pytest.approx(total / 40, rel=1e-5)


def test_encoder_information_at_its_ends():
    mean = np.full((500, 3), 5.0)
    same = analytic_information(mean, np.full((500, 3), -6.0))
    assert same.value == pytest.approx(0, abs=1e-12)
    assert same.marginal_kl == pytest.approx(same.mean_kl)
    apart = analytic_information(1e3 * np.arange(500)[:, None] + np.zeros(3), mean * 0)
    assert apart.value == pytest.approx(math.log(500)) == apart.cap
    assert apart.standard_error == pytest.approx(0, abs=1e-6)


def test_encoder_information_error_covers_its_spread():
    mean, logvar = np.random.default_rng(0).normal(size=(2, 600, 2))
    for settings in ({"sample": 100}, {"sample": 450, "draws": 2}):
        scores = [analytic_information(mean, logvar, seed=s, **settings) for s in range(40)]
        spread = np.std([score.value for score in scores], ddof=1)
        assert spread == pytest.approx(np.mean([s.standard_error for s in scores]), rel=0.3)


@pytest.mark.parametrize(
    ("mean", "logvar", "settings", "message"),
    [
        (CODES, CODES[:5], {}, r"mean .*\(60, 2\) and logvar .*\(5, 2\)"),
        (CODES, CODES * np.nan, {}, "logvar: 60 rows with NaN"),
        (CODES[:1], CODES[:1], {}, "cells = 1: at least 2"),
        (CODES, CODES, {"sample": 1}, "sample = 1: at least 2"),
        (CODES, CODES, {"draws": 0}, "draws = 0: at least 1"),
    ],
)
def test_mistakes_about_the_encoder(mean, logvar, settings, message):
    with pytest.raises(UserError, match=message):
        analytic_information(mean, logvar, **settings)


def test_a_critic_is_judged_on_groups_that_it_never_saw():
    """The code names the well, and so do the images: information of wells, not of cells."""
    rng = np.random.default_rng(0)
    well = np.repeat(np.arange(30), 20)
    images = 3 * rng.normal(size=(30, 4))[well] + 0.2 * rng.normal(size=(600, 4))
    codes = 3 * rng.normal(size=(30, 2))[well] + 0.2 * rng.normal(size=(600, 2))
    assert mutual_information(images, codes, seed=1).value > 1
    assert mutual_information(images, codes, seed=1, groups=well).value < 0.3
    biology = images[:, :2] + rng.normal(size=(600, 2))
    assert mutual_information(images, biology, groups=well).value > 0.5


def test_groups_that_share_a_copy_are_one():
    distinct, groups = np.array([0, 1, 2, 1, 3, 4, 5, 6]), np.array([0, 0, 1, 1, 2, 3, 4, 5])
    linked = MINE_metric._linked(distinct, groups)
    assert len(set(linked[:4])) == 1 and len(set(linked)) == 5
    with pytest.raises(UserError, match="`group`: 4 groups without a copy in common"):
        MINE_metric._linked(distinct[:7], groups[:7])
