"""The backbone against loops that follow the text of the rule, closed forms and SciPy."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap, kendalltau, rankdata, spearmanr, special_ortho_group

import quantitative_metrics.backbone_metric as backbone_metric
from quantitative_metrics.backbone_metric import (
    Continuum,
    backbone_scores,
    distance_along,
    refuse_unknown_continuum,
)
from util.errors import UserError

REAL_CODES = (
    Path(__file__)
    .parents[2]
    .joinpath("shared", "data", "bbbc031", "vae_latent_codes_7387_cells.csv")
)
DOSE = Continuum(progress="dose")


def place_by_hand(point, knots):
    """Place along the line, one segment after the other, from the text of the rule."""
    lengths = [math.dist(a, b) for a, b in zip(knots[:-1], knots[1:], strict=True)]
    best = (math.inf, None)
    for i, length in enumerate(lengths):
        start, end = knots[i], knots[i + 1]
        along = sum((p - a) * (b - a) for p, a, b in zip(point, start, end, strict=True)) / length
        if along < 0:
            gap = math.dist(point, start)
            place = gap if i == 0 else sum(lengths[:i])
        elif along > length:
            gap = math.dist(point, end)
            place = sum(lengths[: i + 1]) + (gap if i == len(lengths) - 1 else 0)
        else:
            foot = [a + along / length * (b - a) for a, b in zip(start, end, strict=True)]
            gap = math.dist(point, foot)
            place = sum(lengths[:i]) + along
        if gap < best[0]:
            best = (gap, place)
    return best[1] / sum(lengths)


def latent_distance_by_hand(codes, table):
    """The thesis's rule for BBBC031, cell by cell; NaN for process 7."""
    progress = table["GT_dist_toInit_state"].to_numpy()
    used = [i for i in range(len(table)) if table["GT_label"].iloc[i] != 7]

    def mean_code(cells, key, n):
        return codes[sorted(cells, key=key)[:n]].mean(axis=0)

    shape = table["GT_Shape"].to_numpy()
    centres = {
        "green": mean_code([i for i in used if shape[i] > 0.35], lambda i: progress[i], 20),
        "red": mean_code([i for i in used if shape[i] < 0.15], lambda i: progress[i], 20),
    }
    result = np.full(len(table), np.nan)
    for process in range(1, 7):
        of_process = [i for i in used if table["GT_label"].iloc[i] == process]
        end = mean_code(of_process, lambda i: -progress[i], 15)
        for state, centre in centres.items():
            cells = [i for i in of_process if table["GT_initial_state"].iloc[i] == state]
            knots = [centre]
            for knot in (0.25, 0.5, 0.75):
                knots.append(mean_code(cells, lambda i, at=knot: abs(progress[i] - at), 15))
            for i in cells:
                result[i] = place_by_hand(codes[i], [*knots, end])
    return result


def bbbc031_like(n=1800, seed=0):
    """A table of seven processes, two states each, and noisy 3-D codes that follow them."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "GT_label": rng.integers(1, 8, n),
            "GT_initial_state": rng.choice(["green", "red"], n),
            "GT_dist_toInit_state": rng.uniform(0, 1, n),
        }
    )
    side = np.where(table["GT_initial_state"] == "green", -1, 1)
    progress = table["GT_dist_toInit_state"]
    table["GT_Shape"] = 0.25 - side * 0.25 * (1 - progress) + rng.normal(0, 0.02, n)
    angle = table["GT_label"]
    ideal = np.column_stack([side * (1 - progress), progress * np.cos(angle), progress * angle / 7])
    return ideal + rng.normal(0, 0.15, ideal.shape), table


def on_a_line(n=200, dimensions=3, seed=0):
    """Codes exactly along a direction, in shuffled order, and their dose."""
    rng = np.random.default_rng(seed)
    dose = rng.permutation(np.linspace(2, 50, n))
    return dose[:, None] * rng.normal(size=dimensions) + 7, pd.DataFrame({"dose": dose})


@pytest.mark.parametrize("dimensions", [1, 2, 3, 5])
def test_place_on_a_broken_line_equals_the_loop(dimensions):
    rng = np.random.default_rng(dimensions)
    knots = rng.normal(size=(5, dimensions))
    if dimensions == 1:  # where a line comes back over itself the nearest segment is not one
        knots = np.sort(knots, axis=0)
    points = rng.normal(size=(400, dimensions)) * 2
    expected = [place_by_hand(point, knots) for point in points]
    np.testing.assert_allclose(distance_along(points, knots), expected, rtol=1e-12)


def test_place_on_a_right_angle():
    knots = np.array([[0.0, 0], [3, 0], [3, 1]])  # length 4
    points = np.array([[1.0, -0.2], [-3, 4], [3.1, 0.5], [3, 3], [0, 0], [4, -1]])
    expected = [1 / 4, 5 / 4, 3.5 / 4, 6 / 4, 0, 3 / 4]
    np.testing.assert_allclose(distance_along(points, knots), expected)


def test_repeated_knots_change_nothing():
    knots = np.array([[0.0, 0], [3, 0], [3, 1]])
    points = np.random.default_rng(0).normal(size=(100, 2)) * 3
    repeated = knots[[0, 0, 1, 1, 1, 2, 2]]
    np.testing.assert_array_equal(distance_along(points, repeated), distance_along(points, knots))
    assert np.isnan(distance_along(points, knots[[1, 1]])).all()


def check_against_the_loop(codes, table):
    expected = latent_distance_by_hand(codes, table)
    score = backbone_scores(codes, table, n_bootstrap=0)
    np.testing.assert_allclose(score.latent_distance, expected, rtol=1e-9)
    used = ~np.isnan(expected)
    progress = table["GT_dist_toInit_state"].to_numpy()
    assert score.spearman.value == pytest.approx(spearmanr(progress[used], expected[used])[0])
    assert score.kendall.value == pytest.approx(kendalltau(progress[used], expected[used])[0])
    assert score.n_cells == used.sum() and score.report == ()
    np.testing.assert_array_equal(score.progress, np.where(used, progress, np.nan))
    for process in range(1, 7):
        cells = (table["GT_label"] == process).to_numpy()
        branch = score.branches[str(process)]
        assert branch.n_cells == cells.sum()
        rho = spearmanr(progress[cells], expected[cells])[0]
        assert branch.spearman.value == pytest.approx(rho)
        assert (score.branch[cells] == str(process)).all()
    assert list(score.branches) == list("123456")
    assert {(line.branch, line.initial) for line in score.lines} == {
        (branch, state) for branch in "123456" for state in ("green", "red")
    }
    assert all(line.knots.shape == (5, codes.shape[1]) for line in score.lines)
    return score


@pytest.mark.parametrize("dimensions", [2, 3, 5])
def test_rule_of_the_thesis_equals_the_loop(dimensions):
    codes, table = bbbc031_like()
    turn = np.random.default_rng(1).normal(size=(3, dimensions))
    check_against_the_loop(codes @ turn, table)


def test_only_cells_of_the_right_shape_make_a_centre():
    """The cells nearest to the start are at the limits of the shape, which are not inside."""
    codes, table = bbbc031_like()
    used = table[table["GT_label"] != 7]
    for state, limit in (("green", 0.35), ("red", 0.15)):
        first = used[used["GT_initial_state"] == state].nsmallest(9, "GT_dist_toInit_state").index
        table.loc[first, "GT_Shape"] = limit
        codes[first] += 5  # so that the centre shows whether they were part of it
    check_against_the_loop(codes, table)


@pytest.mark.skipif(not REAL_CODES.is_file(), reason="real data not at hand")
def test_real_codes():
    table = pd.read_csv(REAL_CODES)
    codes = table[["VAE_x_coord", "VAE_y_coord", "VAE_z_coord"]].to_numpy()
    score = check_against_the_loop(codes, table)
    sizes = [branch.n_cells for branch in score.branches.values()]
    assert sizes == [1018, 1204, 796, 987, 734, 432]
    truth = table[["PositionOnRegressionPlaneX", "PositionOnRegressionPlaneY"]].to_numpy()
    best = backbone_scores(truth, table, n_bootstrap=0)
    assert 0.9 < score.spearman.value < best.spearman.value
    assert best.spearman.value > 0.999


@pytest.mark.parametrize("dimensions", [1, 2, 3, 5])
def test_codes_on_a_straight_line(dimensions):
    codes, table = on_a_line(dimensions=dimensions)
    score = backbone_scores(codes, table, DOSE, n_bootstrap=20)
    dose = np.sort(table["dose"])
    start, end = dose[:20].mean(), dose[-15:].mean()
    # the 10 cells before the start count their distance to it, so not even these score 1
    expected = np.abs(table["dose"] - start) / (end - start)
    np.testing.assert_allclose(score.latent_distance, expected, rtol=1e-9, atol=1e-12)
    assert score.spearman.value > 0.998 and score.spearman.high <= 1
    later = table["dose"] >= start
    assert kendalltau(table["dose"][later], score.latent_distance[later])[0] == pytest.approx(1)


@pytest.mark.parametrize("dimensions", [1, 2, 3, 5])
def test_levels_on_a_straight_line_are_in_perfect_order(dimensions):
    codes, table = on_a_line(12, dimensions)
    codes, table = codes.repeat(40, axis=0), table.loc[table.index.repeat(40)]
    score = backbone_scores(codes, table, DOSE, n_bootstrap=20)
    dose = table["dose"].to_numpy()
    np.testing.assert_allclose(score.latent_distance, (dose - 2) / 48, rtol=1e-9, atol=1e-12)
    values = [score.spearman.value, score.spearman.low, score.kendall.value, score.kendall.low]
    np.testing.assert_allclose(values, 1)


def test_knots_without_a_fraction_stand_at_the_quartiles_of_the_cells():
    n = 1000
    dose = np.random.default_rng(0).permutation(np.geomspace(1, 1e6, n))
    table = pd.DataFrame({"dose": dose})
    place = np.argsort(np.argsort(dose))
    codes = np.column_stack([place, np.ones(n)]).astype(float)
    knots = backbone_scores(codes, table, DOSE, n_bootstrap=0).lines[0].knots
    # the 15 or 16 cells around a quartile; means of 0..19 and of 985..999
    np.testing.assert_allclose(knots[:, 0], [9.5, 249.5, 499.5, 749.5, 992], atol=0.5)
    by_value = replace(DOSE, fraction=True)
    table["dose"] /= 1e6
    knots = backbone_scores(codes, table, by_value, n_bootstrap=0).lines[0].knots
    at = [place[np.argsort(np.abs(table["dose"] - x))[:15]].mean() for x in (0.25, 0.5, 0.75)]
    np.testing.assert_allclose(knots[1:4, 0], at)


def test_increasing_function_of_progress_changes_nothing():
    codes, table = on_a_line()
    codes += np.random.default_rng(1).normal(size=codes.shape) * 4
    curved = pd.DataFrame({"dose": np.exp(table["dose"] / 3)})
    scores = [backbone_scores(codes, t, DOSE, n_bootstrap=5) for t in (table, curved)]
    np.testing.assert_array_equal(scores[0].latent_distance, scores[1].latent_distance)
    assert scores[0].spearman == scores[1].spearman and scores[0].kendall == scores[1].kendall


def test_permuted_codes_score_about_nothing():
    codes, table = bbbc031_like()
    permuted = np.random.default_rng(2).permutation(codes)
    score = backbone_scores(permuted, table, n_bootstrap=0)
    assert abs(score.spearman.value) < 4 / np.sqrt(score.n_cells)
    assert backbone_scores(codes, table, n_bootstrap=0).spearman.value > 0.7


@pytest.mark.parametrize("dimensions", [2, 3, 5])
def test_turned_scaled_and_shifted_codes_score_the_same(dimensions):
    codes, table = bbbc031_like()
    codes = codes @ np.random.default_rng(1).normal(size=(3, dimensions))
    turn = special_ortho_group.rvs(dimensions, random_state=3)
    before = backbone_scores(codes, table, n_bootstrap=0)
    after = backbone_scores(codes @ turn * 30 - 1000, table, n_bootstrap=0)
    np.testing.assert_allclose(after.latent_distance, before.latent_distance, rtol=1e-8)
    assert after.kendall.value == pytest.approx(before.kendall.value, abs=1e-5)


def test_order_of_the_table_does_not_matter_even_with_ties():
    codes, table = bbbc031_like()
    table["GT_dist_toInit_state"] = table["GT_dist_toInit_state"].round(1)
    order = np.random.default_rng(3).permutation(len(table))
    before = backbone_scores(codes, table, n_bootstrap=0).latent_distance
    after = backbone_scores(codes[order], table.iloc[order], n_bootstrap=0).latent_distance
    np.testing.assert_allclose(after, before[order], rtol=1e-9)


def test_intervals_equal_those_of_scipy():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"dose": rng.uniform(size=60).round(2)})  # with ties
    codes = table[["dose"]].to_numpy() + rng.normal(0, 0.25, (60, 2))
    score = backbone_scores(codes, table, DOSE, n_bootstrap=3000)
    data = (table["dose"].to_numpy(), score.latent_distance)
    for found, statistic in ((score.spearman, spearmanr), (score.kendall, kendalltau)):
        expected = bootstrap(
            data,
            lambda x, y, statistic=statistic: statistic(x, y).statistic,
            paired=True,
            vectorized=False,
            n_resamples=3000,
            method="percentile",
            rng=np.random.default_rng(1),
        )
        limits = expected.confidence_interval
        assert found.high - found.low > 0.1
        np.testing.assert_allclose([found.low, found.high], limits, atol=0.02)
        assert found.std == pytest.approx(expected.standard_error, rel=0.06)
        assert found.low < found.value < found.high


def test_seed_decides_and_no_bootstrap_gives_no_interval():
    codes, table = bbbc031_like(500)
    first, same, other = (backbone_scores(codes, table, seed=s, n_bootstrap=30) for s in (1, 1, 2))
    assert first.spearman == same.spearman and first.branches == same.branches
    assert first.spearman.low != other.spearman.low
    assert first.n_resamples == (30, 30)
    none = backbone_scores(codes, table, n_bootstrap=0)
    assert none.spearman.value == first.spearman.value and np.isnan(none.spearman.low)


def test_kendall_of_many_resamples_is_that_of_each():
    rng = np.random.default_rng(0)
    x, y = rng.integers(1, 30, 200), rng.integers(1, 200, 200)  # with ties
    samples = [rng.integers(200, size=200) for _ in range(20)] + [np.full(200, 7)]
    counts = np.stack([np.bincount(s, minlength=200) for s in samples]).astype(np.float32)
    found = backbone_metric._kendall_of_resamples(x, y, counts)
    expected = [kendalltau(x[s], y[s]).statistic for s in samples]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert np.isnan(found[-1])


def test_all_pairs_or_each_resample_is_the_same(monkeypatch):
    codes, table = bbbc031_like(300)
    by_pairs = backbone_scores(codes, table, n_bootstrap=20)
    monkeypatch.setattr(backbone_metric, "_KENDALL_PAIRS", 0)
    each = backbone_scores(codes, table, n_bootstrap=20)
    assert by_pairs.kendall.low == pytest.approx(each.kendall.low, rel=1e-12)
    assert by_pairs.spearman == each.spearman


def test_many_cells_take_fewer_resamples_of_kendall(monkeypatch):
    monkeypatch.setattr(backbone_metric, "_KENDALL_WORK", 1000)
    codes, table = on_a_line(50)
    score = backbone_scores(codes, table, DOSE, n_bootstrap=120)
    assert score.n_resamples == (120, 100)


def test_three_cells():
    codes, table = np.array([[0.0, 0], [2, 1], [1, 1]]), pd.DataFrame({"dose": [1, 9, 3]})
    score = backbone_scores(codes, table, DOSE, n_bootstrap=50)
    assert score.spearman.value == pytest.approx(1) and score.n_cells == 3
    length = 1 + math.sqrt(2)
    np.testing.assert_allclose(score.latent_distance, [0, 1, math.sqrt(2) / length])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, 0.1, -1e6 / 3])
def test_constant_codes_have_no_correlation(value):
    _, table = bbbc031_like()
    score = backbone_scores(np.full((len(table), 3), value), table, n_bootstrap=10)
    assert np.isnan([score.spearman.value, score.kendall.value, score.spearman.low]).all()
    assert np.isnan(score.latent_distance).all() and score.n_cells == 0
    assert "12 lines have no length" in score.report[0]
    assert "no rank correlation" in score.report[-1]


def test_constant_progress_has_no_correlation():
    codes, table = on_a_line(60)
    score = backbone_scores(codes, table.assign(dose=3.0), DOSE, n_bootstrap=5)
    assert np.isnan(score.spearman.value) and "no rank correlation" in score.report[-1]


def test_duplicates_tie_and_keep_the_order():
    codes, table = on_a_line(100)
    score = backbone_scores(
        np.repeat(codes, 3, axis=0), table.loc[table.index.repeat(3)], DOSE, n_bootstrap=0
    )
    distances = score.latent_distance.reshape(100, 3)
    np.testing.assert_array_equal(distances, distances[:, :1].repeat(3, axis=1))
    assert score.kendall.value > 0.95


def test_doses_of_few_levels():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"dose": rng.choice([0, 1, 10, 100], 400)})
    codes = np.log10(table[["dose"]].to_numpy() + 1) * [1, 2] + rng.normal(0, 0.01, (400, 2))
    score = backbone_scores(codes, table, DOSE, n_bootstrap=0)
    start = codes[table["dose"] == 0].mean(axis=0)  # all that tie with the lowest
    np.testing.assert_allclose(score.lines[0].knots[0], start)
    assert score.spearman.value > 0.95


def test_branches_without_initial_state_share_one_centre():
    codes, table = bbbc031_like()
    continuum = Continuum("GT_dist_toInit_state", branch="GT_label", fraction=True)
    score = backbone_scores(codes, table, continuum, n_bootstrap=0)
    first = table["GT_dist_toInit_state"].nsmallest(20).index
    assert len(score.lines) == 7 and len(score.branches) == 7
    for line in score.lines:
        assert line.initial == ""
        np.testing.assert_allclose(line.knots[0], codes[first].mean(axis=0))


def test_one_branch_scores_like_the_whole():
    codes, table = on_a_line()
    codes += np.random.default_rng(0).normal(size=codes.shape) * 3
    table["drug"] = "taxol"
    score = backbone_scores(codes, table, replace(DOSE, branch="drug"), n_bootstrap=0)
    assert list(score.branches) == ["taxol"]
    assert score.branches["taxol"].spearman.value == score.spearman.value
    assert backbone_scores(codes, table, DOSE, n_bootstrap=0).branches == {}


def test_what_is_missing_is_left_out_and_said():
    codes, table = bbbc031_like()
    table = table.astype({"GT_label": float})
    table.loc[:9, "GT_dist_toInit_state"] = np.nan
    table.loc[10, "GT_dist_toInit_state"] = np.inf
    table.loc[20:22, "GT_initial_state"] = None
    table.loc[30:33, "GT_label"] = np.nan
    used = (table["GT_label"] != 7).to_numpy()
    score = backbone_scores(codes, table, n_bootstrap=0)
    assert np.isnan(score.latent_distance[[0, 10, 20, 30]]).all()
    assert score.report == (
        "4 cells without GT_label, left out",
        f"{used[20:23].sum()} cells without GT_initial_state, left out",
        f"{used[:11].sum()} cells without GT_dist_toInit_state, left out",
    )
    clean = table.dropna().query("GT_dist_toInit_state < inf")
    alone = backbone_scores(codes[clean.index], clean, n_bootstrap=0)
    np.testing.assert_array_equal(alone.latent_distance, score.latent_distance[clean.index])


def test_lines_without_length_are_left_out_and_named():
    codes, table = bbbc031_like()
    still = (table["GT_label"] == 3).to_numpy()
    codes[still] = 1.5
    table["GT_initial_state"] = "green"
    table.loc[still, "GT_Shape"] = table.loc[still, "GT_Shape"].clip(0.36, None)
    lone = table[still | (table["GT_label"] == 9)]
    score = backbone_scores(codes[lone.index], lone, n_bootstrap=0)
    assert score.n_cells == 0 and np.isnan(score.latent_distance).all()
    assert score.report[0] == (
        "1 lines have no length, since all their codes are equal, and were left out: "
        f"3 green ({still.sum()} cells)"
    )


def test_columns_of_a_continuum_are_checked_before_anything_is_computed():
    _, table = on_a_line(9)
    table["word"] = "much"
    refuse_unknown_continuum(table, "dose", None)
    refuse_unknown_continuum(table, None, None)
    for progress, branch, message in (
        ("word", None, "`progress`: column 'word' is not numeric"),
        ("time", None, "`progress` time: no such column; there are dose, word"),
        ("dose", "drug", "`branch` drug: no such column"),
        (None, "word", "`branch` word: a backbone needs `progress`"),
    ):
        with pytest.raises(UserError, match=message):
            refuse_unknown_continuum(table, progress, branch)


def test_lines_of_too_few_cells_are_left_out_and_named():
    codes, table = bbbc031_like()
    few = (table["GT_label"] == 3) & (table["GT_initial_state"] == "red")
    table = table[~few | (few.cumsum() <= 2)]
    score = backbone_scores(codes[table.index], table, n_bootstrap=0)
    assert len(score.lines) == 11
    (line,) = score.report
    assert line.endswith("3 red (2 cells)")
    table = table.assign(GT_Shape=table["GT_Shape"].clip(0.2, None))
    score = backbone_scores(codes[table.index], table, n_bootstrap=0)
    assert len(score.lines) == 6
    assert "no cell for its centre" in score.report[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": np.full((50, 2), np.nan)}, "codes: 50 rows with NaN"),
        ({"codes": np.zeros((49, 2))}, "49 codes for 50 rows"),
        ({"codes": np.zeros(50)}, r"not \(N, d\) numbers"),
        ({"codes": np.zeros((50, 2)).astype(str)}, "codes: a <U32 array"),
        ({"continuum": Continuum("time")}, "no column 'time'"),
        ({"continuum": Continuum("dose", branch="drug")}, "no column 'drug'"),
        ({"continuum": Continuum("word")}, "'word' is not numeric"),
        ({"continuum": Continuum("dose", fraction=True)}, "goes from 2 to 50"),
        ({"continuum": Continuum("empty")}, "0 cells with empty"),
        ({"n_bootstrap": -1}, "n_bootstrap = -1"),
    ],
)
def test_bad_input_is_refused_in_one_line(change, message):
    codes, table = on_a_line(50, 2)
    table["word"], table["empty"] = "much", np.nan
    arguments = {"codes": codes, "table": table, "continuum": DOSE, "n_bootstrap": 0} | change
    with pytest.raises(UserError, match=message) as caught:
        backbone_scores(**arguments)
    assert "\n" not in str(caught.value)


def grouped_line(n_groups=12, cells=25, seed=0):
    """Cells of one line whose place is off by group, more than within it."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(n_groups), cells)
    progress = rng.uniform(0, 1, len(group))
    codes = np.column_stack([progress, np.zeros(len(group))])
    codes[:, 0] += (0.4 * rng.normal(size=n_groups))[group]
    return codes, pd.DataFrame({"dose": progress}), group


def test_whole_groups_are_resampled():
    continuum = Continuum("dose")
    codes, table, group = grouped_line()
    by_cell = backbone_scores(codes, table, continuum).spearman
    by_group = backbone_scores(codes, table, continuum, groups=group)
    for one in (by_group.spearman, by_group.kendall):
        assert one.low < one.value < one.high
    assert by_group.spearman.value == by_cell.value
    assert by_group.spearman.std > 1.5 * by_cell.std
    alone = backbone_scores(codes, table, continuum, groups=np.arange(len(codes))).spearman
    assert alone.std == pytest.approx(by_cell.std, rel=0.2)  # groups of one cell are cells
    single = backbone_scores(codes, table, continuum, groups=["donor"] * len(codes)).spearman
    assert single.value == by_cell.value and np.isnan([single.low, single.high, single.std]).all()


def test_resampled_groups_have_the_kendall_of_their_cells():
    codes, table, group = grouped_line(5, 8)
    x, y = rankdata([table["dose"], codes[:, 0]], "dense", axis=1).astype(int)
    rng = np.random.default_rng(0)
    members = backbone_metric._members(group)
    samples = [backbone_metric._resample(len(x), members, rng) for _ in range(20)]
    samples.append(np.arange(17))  # of another size
    counts = np.stack([np.bincount(s, minlength=len(x)) for s in samples]).astype(np.float32)
    found = backbone_metric._kendall_of_resamples(x, y, counts)
    expected = [kendalltau(x[s], y[s]).statistic for s in samples]
    np.testing.assert_allclose(found, expected)
