"""T, C and LCMC against a slow reference, scikit-learn and cases whose value is known."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness

from quantitative_metrics import unsupervised_metric
from quantitative_metrics.unsupervised_metric import MEASURES, area_sizes, co_ranking
from util.errors import UserError
from util.latents import first_alike


def slow_ranks(data, places=None):
    """(N, N) ranks from 1, 0 on the diagonal, by one sort per cell; ties by index or places."""
    data = np.asarray(data, dtype=np.float64)
    ranks = np.zeros((len(data), len(data)), dtype=int)
    for i in range(len(data)):
        squares = ((data - data[i]) ** 2).sum(axis=1)
        behind = np.arange(len(data)) if places is None else (places - places[i]) % len(data)
        others = [j for j in np.lexsort((behind, squares)) if j != i]
        ranks[i, others] = np.arange(1, len(data))
    return ranks


def slow_measures(reference, projection, k, places=None):
    """T, C and LCMC at one k straight from their definitions."""
    rho, r = slow_ranks(reference, places), slow_ranks(projection, places)
    n = len(rho)
    off = ~np.eye(n, dtype=bool)
    scale = 2 / (n * k * (2 * n - 3 * k - 1))
    intruders, extruders = (r <= k) & (rho > k) & off, (rho <= k) & (r > k) & off
    overlap = ((r <= k) & (rho <= k) & off).sum()
    return (
        1 - scale * (rho - k)[intruders].sum(),
        1 - scale * (r - k)[extruders].sum(),
        overlap / (n * k) - k / (n - 1),
    )


def make_reference(kind, n=61, columns=40, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "bytes":
        return rng.integers(0, 256, (n, columns), dtype=np.uint8)
    if kind == "few grey values":  # nearly every distance has ties
        return rng.integers(0, 2, (n, columns), dtype=np.uint8)
    if kind == "16 bit":
        return rng.integers(0, 65536, (n, columns), dtype=np.uint16)
    if kind == "floats far from 0":
        return (rng.normal(size=(n, columns)) + 1e4).astype(np.float32)
    if kind == "few columns":
        return rng.normal(size=(n, 5))
    return rng.integers(0, 2, (n, columns)).astype(bool)


KINDS = ["bytes", "few grey values", "16 bit", "floats far from 0", "few columns", "masks"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [60, 61])
def test_every_k_equals_the_definition(kind, n):
    reference = make_reference(kind, n)
    reference[7] = reference[33]  # duplicates
    reference[8] = reference[33]
    rng = np.random.default_rng(1)
    projection = reference[:, :3] + rng.normal(size=(n, 3)) * 0.5 * reference[:, 0].std()
    result = co_ranking(reference, {"p": projection})["p"]
    assert result.k.tolist() == list(range(1, (n - 1) // 2 + 1))
    expected = np.array([slow_measures(reference, projection, k) for k in result.k])
    got = np.stack([result.trustworthiness, result.continuity, result.lcmc], axis=1)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks so small that a few cells need many of them, as a large data set does."""
    monkeypatch.setitem(unsupervised_metric._BLOCK_BYTES, "cpu", 1)  # 8 rows
    monkeypatch.setitem(unsupervised_metric._TILE_ROWS, "cpu", 13)
    monkeypatch.setitem(unsupervised_metric._RANK_ELEMENTS, "cpu", 1)  # 8 rows
    monkeypatch.setattr(unsupervised_metric, "_EXACT_COLUMNS", 7)


@pytest.mark.parametrize("held_bytes", [0, 2**29], ids=["rows one by one", "tiles mirrored"])
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_change_nothing(kind, held_bytes, small_blocks, monkeypatch):
    monkeypatch.setattr(unsupervised_metric, "_HELD_BYTES", held_bytes)
    reference = make_reference(kind)
    reference[40] = reference[2]
    projection = np.random.default_rng(2).normal(size=(61, 2))
    result = co_ranking(reference, {"p": projection})["p"]
    for k in (1, 7, 30):
        expected = slow_measures(reference, projection, k)
        assert list(result.at(k).values())[:3] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("integers", [True, False], ids=["integer matmul", "float32 parts"])
def test_distances_of_12288_bytes_are_exact(integers):
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (20, 12288), dtype=np.uint8)
    data[3], data[4] = 0, 255  # the largest distance there is
    space = unsupervised_metric._ByteSpace(data, torch.device("cpu"))
    if integers and not space.integer_matmul:
        pytest.skip("this processor has no fast integer matmul")
    space.integer_matmul = integers
    numbers = data.astype(np.int64)
    expected = ((numbers[:, None] - numbers[None]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(space.distances(torch.arange(20)).numpy(), expected)


def test_duplicates_of_float_rows_tie_exactly():
    rng = np.random.default_rng(0)
    data = rng.normal(size=(300, 700)).astype(np.float32)
    data[rng.integers(0, 300, 120)] = data[5]
    data[17] = 0.0
    data[290] = -0.0
    space = unsupervised_metric._FloatSpace(data, torch.device("cpu"))
    distances = space.distances(torch.arange(300)).numpy()
    same = np.flatnonzero((data == data[5]).all(axis=1))
    assert len(same) > 50
    assert (distances[:, same] == distances[:, same[:1]]).all()
    assert (distances[:, 17] == distances[:, 290]).all()


def test_digits_have_the_known_values_and_those_of_scikit_learn():
    digits = load_digits().data
    codes = PCA(3).fit_transform(digits)
    result = co_ranking(digits, {"pca": codes})["pca"]
    at_20 = result.at(20)
    assert at_20["trustworthiness"] == pytest.approx(0.91194, abs=1e-5)
    assert at_20["continuity"] == pytest.approx(0.97250, abs=1e-5)
    assert at_20["lcmc"] == pytest.approx(0.30347, abs=1e-5)
    # scikit-learn breaks the ties of whole-number pixels at random
    for k in (5, 800):
        at_k = result.at(k)
        assert at_k["trustworthiness"] == pytest.approx(
            trustworthiness(digits, codes, n_neighbors=k), abs=1e-4
        )
        assert at_k["continuity"] == pytest.approx(
            trustworthiness(codes, digits, n_neighbors=k), abs=1e-4
        )
    as_bytes = co_ranking(digits.astype(np.uint8), {"pca": codes})["pca"]
    for name in MEASURES:
        np.testing.assert_array_equal(getattr(as_bytes, name), getattr(result, name))


def test_several_projections_share_the_reference_and_keep_their_order():
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(80, 30))
    projections = {"b": rng.normal(size=(80, 2)), "a": reference[:, :3], "wide": reference[:, :20]}
    together = co_ranking(reference, projections)
    assert list(together) == list(projections)
    for name, codes in projections.items():
        alone = co_ranking(reference, {name: codes})[name]
        np.testing.assert_array_equal(together[name].lcmc, alone.lcmc)


@pytest.mark.parametrize("kind", KINDS)
def test_identical_copy_is_perfect(kind):
    reference = make_reference(kind, n=130)
    result = co_ranking(reference, {"copy": reference})["copy"]
    assert (result.trustworthiness == 1).all() and (result.continuity == 1).all()
    np.testing.assert_allclose(result.lcmc, 1 - result.k / 129, atol=1e-12)
    areas = result.areas()
    assert areas["trustworthiness"] == areas["continuity"] == 19
    assert areas["lcmc"] == pytest.approx(np.trapezoid(1 - area_sizes(130) / 129))
    assert areas["mean"] == pytest.approx((38 + areas["lcmc"]) / 3)
    np.testing.assert_array_equal(result.corner, 130 * np.eye(129, dtype=int))


def test_permuted_codes_are_chance():
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(600, 5))
    result = co_ranking(reference, {"p": rng.permutation(reference)})["p"]
    assert abs(result.lcmc).max() < 0.02
    # a random rank above k is (N - 1 - k) / (N - 1) of the neighbours and (N - k) / 2 above k on
    # average
    n, k = 600, result.k
    chance = 1 - 2 / (2 * n - 3 * k - 1) * (n - 1 - k) / (n - 1) * (n - k) / 2
    np.testing.assert_allclose(result.trustworthiness[9:], chance[9:], atol=0.02)
    np.testing.assert_allclose(result.continuity[9:], chance[9:], atol=0.02)


@pytest.mark.parametrize("kind", ["constant", "a few places", "two pairs"])
@pytest.mark.parametrize("seed", [0, 5])
def test_ties_of_codes_are_broken_at_random(kind, seed):
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(40, 3))
    codes = {
        "constant": np.zeros((40, 2)),
        "a few places": rng.integers(0, 3, (40, 2)).astype(float),
        "two pairs": rng.normal(size=(40, 2)),
    }[kind]
    if kind == "two pairs":
        codes[[1, 30]] = codes[[0, 31]]
    found = co_ranking(reference, {"p": codes}, seed=seed)["p"]
    assert found.n_tied == (4 if kind == "two pairs" else 40)
    places = np.random.default_rng(seed).permutation(40)
    for k in (1, 5, 19):
        expected = slow_measures(reference, codes, k, places)
        assert list(found.at(k).values())[:3] == pytest.approx(expected, abs=1e-12)


def test_all_alike_in_both_spaces_is_perfect():
    both = co_ranking(np.full((40, 30), 0.1), {"p": np.full((40, 3), 7)})["p"]
    assert (both.trustworthiness == 1).all()


@pytest.mark.parametrize("states", [1, 3, 12])
def test_a_sorted_table_gives_what_a_shuffled_one_does(states):
    """Codes that tie within their class: by index, a sorted table would look better or worse."""
    rng = np.random.default_rng(0)
    kind = np.repeat(np.arange(6), 50)
    reference = kind[:, None] + 0.7 * rng.normal(size=(300, 4))
    codes = rng.permutation(12)[:states][kind % states][:, None] * np.ones((1, 2))

    def areas(order, seed):
        found = co_ranking(reference[order], {"p": codes[order]}, seed=seed)["p"].areas()
        return [found[name] for name in MEASURES]

    shuffled = rng.permutation(300)
    by_seed = np.array([areas(np.arange(300), seed) for seed in range(8)])
    of_shuffled = np.array([areas(shuffled, seed) for seed in range(8)])
    difference = np.abs(by_seed.mean(0) - of_shuffled.mean(0))
    spread = np.hypot(by_seed.std(0, ddof=1), of_shuffled.std(0, ddof=1))
    assert (difference <= 3 * spread / np.sqrt(8)).all()
    assert (spread > 0).all() and (spread < 0.2).all()


def test_company_with_ties_changes_nothing():
    """The reference has ties of its own; only those of a tied projection are broken at random."""
    reference = make_reference("few grey values", n=80)
    rng = np.random.default_rng(2)
    codes = {"free": rng.normal(size=(80, 3)), "tied": rng.integers(0, 2, (80, 3)).astype(float)}
    together = co_ranking(reference, codes, seed=3)
    for name, values in codes.items():
        alone = co_ranking(reference, {name: values}, seed=3)[name]
        np.testing.assert_array_equal(together[name].lcmc, alone.lcmc)
        np.testing.assert_array_equal(together[name].local_quality.score, alone.local_quality.score)
    assert [found.n_tied for found in together.values()] == [0, 80]


@pytest.mark.parametrize("scale", [1e-160, 2.0**-1000, 1e39, 1e200, 1e307])
@pytest.mark.parametrize("columns", [3, 30])
def test_the_unit_of_reference_and_codes_changes_nothing(scale, columns):
    rng = np.random.default_rng(0)
    reference, codes = rng.normal(size=(90, columns)), rng.normal(size=(90, columns))
    usual = co_ranking(reference, {"p": codes})["p"]
    scaled = co_ranking(reference * scale, {"p": codes * scale})["p"]
    assert scaled.areas() == usual.areas()
    np.testing.assert_array_equal(scaled.local_quality.score, usual.local_quality.score)


def test_three_cells_are_enough_and_two_are_not():
    line = np.array([[0.0], [1.0], [3.0]])
    swapped = np.array([[0.0], [3.0], [1.0]])
    result = co_ranking(line, {"line": line, "swapped": swapped})
    assert result["line"].at(1)["trustworthiness"] == 1
    # neighbours: 0 -> 1, 1 -> 0, 2 -> 1; swapped 0 -> 2, 1 -> 2, 2 -> 0: every one is an intruder
    # by 1 rank
    expected = {"trustworthiness": 0, "continuity": 0, "lcmc": -0.5, "mean": -0.5 / 3}
    assert result["swapped"].at(1) == pytest.approx(expected)
    with pytest.raises(UserError, match="at least 3"):
        co_ranking(line[:2], {"line": line[:2]})


def test_corner_counts_pairs_by_both_ranks():
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(50, 20))
    projection = reference[:, :2]
    corner = co_ranking(reference, {"p": projection}, corner=12)["p"].corner
    rho, r = slow_ranks(reference), slow_ranks(projection)
    expected = [[((rho == a) & (r == b)).sum() for b in range(1, 13)] for a in range(1, 13)]
    np.testing.assert_array_equal(corner, expected)


def test_area_is_the_trapezoid_over_the_20_sizes_of_the_thesis():
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(400, 6))
    result = co_ranking(reference, {"p": reference[:, :2]})["p"]
    sizes = [int(share * 399) for share in np.linspace(0.01, 0.2, 20)]
    assert area_sizes(400).tolist() == sizes
    values = [result.at(size)["continuity"] for size in sizes]
    expected = sum((a + b) / 2 for a, b in zip(values, values[1:], strict=False))
    assert result.areas()["continuity"] == pytest.approx(expected)
    assert area_sizes(3).tolist() == [1] * 20


def test_sample_covers_the_exact_value_as_often_as_its_standard_error_says():
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(5000, 6)) * [3, 3, 1, 1, 1, 1]
    projection = {"p": reference[:, :2] + 0.3 * rng.normal(size=(5000, 2))}
    exact = co_ranking(reference, projection)["p"]
    assert not exact.sampled and not any(error.any() for error in exact.standard_errors.values())
    deviations = []
    for seed in range(5):
        sampled = co_ranking(reference, projection, sample=200, seed=seed)["p"]
        for k in (10, 100, 1000, 2499):
            at, errors, truth = sampled.at(k), sampled.errors_at(k), exact.at(k)
            deviations.append([(at[name] - truth[name]) / errors[name] for name in MEASURES])
        areas, truth = sampled.areas(), exact.areas()
        deviations.append(
            [(areas[name] - truth[name]) / sampled.area_errors[name] for name in MEASURES]
        )
    deviations = np.abs(deviations)
    assert deviations.max() < 4.5
    assert (deviations < 2).mean() > 0.85
    assert np.median(deviations) > 0.3  # errors that are far too large would cover everything


def test_standard_error_is_that_of_a_mean_over_cells():
    rng = np.random.default_rng(0)
    reference, projection = rng.normal(size=(90, 20)), rng.normal(size=(90, 2))
    result = co_ranking(reference, {"p": projection}, sample=30, seed=3)["p"]
    cells, k, n = result.local_quality.cells, 11, 90
    rho, r = slow_ranks(reference)[cells], slow_ranks(projection)[cells]
    others = np.arange(n) != cells[:, None]
    lost = np.where((r <= k) & (rho > k) & others, rho - k, 0).sum(axis=1)
    per_cell = 1 - 2 * lost / (k * (2 * n - 3 * k - 1))
    assert result.at(k)["trustworthiness"] == pytest.approx(per_cell.mean())
    expected = per_cell.std(ddof=1) / np.sqrt(30) * np.sqrt(1 - 30 / n)
    assert result.errors_at(k)["trustworthiness"] == pytest.approx(expected)


def test_copies_of_earlier_cells_are_found():
    rows = np.random.default_rng(0).normal(size=(3, 20))
    rows[0, 0] = 0.0
    data = rows[[0, 1, 0, 2, 1, 0]]
    data[5, 0] = -0.0
    assert first_alike(data).tolist() == [0, 1, 0, 3, 1, 0]
    assert first_alike(rows).tolist() == [0, 1, 2]


def test_standard_errors_of_two_cells_are_half_their_difference():
    """The smallest sample: of a mean of two, with the correction for drawing from N cells."""
    reference = make_reference("bytes", n=40)
    projection = np.random.default_rng(1).normal(size=(40, 2))
    result = co_ranking(reference, {"p": projection}, sample=2, seed=5)["p"]
    rho, r = slow_ranks(reference), slow_ranks(projection)
    one, other = result.local_quality.cells
    for k in (1, 5, 19):
        scale = 2 / (k * (2 * 40 - 3 * k - 1))
        trust = [1 - scale * (rho[i] - k)[(r[i] <= k) & (rho[i] > k)].sum() for i in (one, other)]
        shared = [((r[i] <= k) & (rho[i] <= k)).sum() - 1 for i in (one, other)]
        lcmc = [n / k - k / 39 for n in shared]
        for name, values in (("trustworthiness", trust), ("lcmc", lcmc)):
            assert result.at(k)[name] == pytest.approx(np.mean(values))
            error = abs(values[0] - values[1]) / 2 * (1 - 2 / 40) ** 0.5
            assert result.errors_at(k)[name] == pytest.approx(error, abs=1e-9)
    sizes = area_sizes(40)
    assert sizes.tolist() == [max(int(share / 100 * 39), 1) for share in range(1, 21)]


def test_sample_of_every_cell_is_exact_and_a_seed_repeats():
    rng = np.random.default_rng(0)
    reference, projection = rng.normal(size=(70, 20)), {"p": rng.normal(size=(70, 2))}
    assert not co_ranking(reference, projection, sample=70)["p"].sampled
    first, again, other = (
        co_ranking(reference, projection, sample=20, seed=seed)["p"] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.lcmc, again.lcmc)
    assert (first.lcmc != other.lcmc).any()


def test_input_is_left_as_it_was():
    rng = np.random.default_rng(0)
    for reference in (rng.normal(size=(50, 20)), rng.integers(0, 256, (50, 20), dtype=np.uint8)):
        before = reference.copy()
        reference.flags.writeable = False
        co_ranking(reference, {"p": reference[:, :2]})
        np.testing.assert_array_equal(reference, before)


def test_images_are_flattened():
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 4, 4), dtype=np.uint8)
    codes = {"p": images[:, 0, 0, :2]}
    np.testing.assert_array_equal(
        co_ranking(images, codes)["p"].lcmc, co_ranking(images.reshape(40, -1), codes)["p"].lcmc
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"projections": {"umap": np.zeros((29, 2))}}, "projection umap: 29 rows"),
        ({"projections": {"umap": np.full((30, 2), np.nan)}}, "umap: 30 rows with NaN"),
        ({"projections": {"umap": np.full((30, 2), "a")}}, "umap: a <U1 array"),
        ({"projections": {"umap": np.zeros(30)}}, "shape \\(30,\\)"),
        ({"projections": {"umap": np.zeros((30, 0))}}, "umap: .*shape \\(30, 0\\)"),
        ({"reference": np.full((30, 20), np.inf)}, "reference space: 30 rows with NaN or inf"),
        ({"sample": 1}, "sample = 1"),
        ({"ks": 30}, "ks = 30"),
        ({"kt": -1}, "kt = -1"),
        ({"corner": 0}, "corner = 0"),
        ({"device": "mps"}, "float64"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"reference": np.zeros((30, 20)), "projections": {"umap": np.zeros((30, 2))}}
    with pytest.raises(UserError, match=message):
        co_ranking(**(arguments | change))


def test_k_must_be_below_half_of_the_cells():
    data = np.random.default_rng(0).normal(size=(20, 3))
    result = co_ranking(data, {"p": data})["p"]
    for k in (0, 10):
        with pytest.raises(UserError, match="go from 1 to 9"):
            result.at(k)
