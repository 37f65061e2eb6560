"""Scores of several projections in one table, and the script that scores anybody's CSV."""

import dataclasses
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy.stats import spearmanr
from sklearn.manifold import trustworthiness

from quantitative_metrics import scores as scores_module
from quantitative_metrics.backbone_metric import BBBC031_CONTINUUM, Continuum, backbone_scores
from quantitative_metrics.classifier_metric import (
    BBBC031_TASKS,
    ClassifierTask,
    classifier_accuracy,
    m_scores,
)
from quantitative_metrics.critics import InformationSettings
from quantitative_metrics.MINE_metric import mutual_information_of
from quantitative_metrics.options import ScoringOptions
from quantitative_metrics.performance_metrics import (
    SETTINGS,
    compute_perf_metrics,
    main,
    score_source,
)
from quantitative_metrics.scores import COLUMNS, Plan, has_variation, score_projections
from quantitative_metrics.unsupervised_metric import co_ranking
from util.errors import UserError
from util.settings import name_options, parse_options

SCRIPT = "quantitative_metrics/performance_metrics.py"
QUICK = ("neighbours", "classifier", "backbone", "axes")


def value(table, metric, projection, **where):
    rows = table[(table["metric"] == metric) & (table["projection"] == projection)]
    for column, wanted in where.items():
        rows = rows[rows[column] == wanted]
    assert len(rows) == 1, rows
    return rows["value"].item()


@pytest.fixture
def line():
    """120 cells along a line, of two classes; codes that keep it, and codes that know nothing."""
    rng = np.random.default_rng(0)
    dose = np.sort(rng.uniform(0, 1, 120))
    space = np.stack([dose, dose**2, 0.1 * np.sin(dose)], 1)
    table = pd.DataFrame({"Unique_ID": [f"cell{i}.png" for i in range(120)], "dose": dose})
    table["class"] = np.where(dose > 0.5, "high", "low")
    codes = {"kept": 3 * space + 1, "shuffled": rng.permutation(space)}
    return codes, space, table


def test_truth_and_chance(line):
    codes, space, table = line
    plan = Plan(
        QUICK,
        ClassifierTask("accuracy", "class"),
        continuum=Continuum("dose"),
        classifier_mode="thesis",
    )
    scores = score_projections(codes, {"features": space}, table, plan)
    assert list(scores.table.columns) == COLUMNS
    for metric in ("trustworthiness", "continuity"):
        assert value(scores.table, metric, "kept", k=10) == 1
        assert abs(value(scores.table, metric, "shuffled", k=10) - 0.5) < 0.1
    assert value(scores.table, "backbone_spearman", "kept") > 0.99
    assert abs(value(scores.table, "backbone_spearman", "shuffled")) < 0.3
    assert value(scores.table, "knn_accuracy", "kept") > 0.9
    assert value(scores.table, "knn_accuracy", "shuffled") < 0.7
    assert value(scores.table, "spearman[dose]", "kept") == pytest.approx(1)
    assert scores.local_quality["kept_features_local_Q_score"].mean() == pytest.approx(1)
    assert scores.corners["features"]["kept"].trace() == scores.corners["features"]["kept"].sum()


def lcmc(reference, codes, k):
    """Share of the k nearest neighbours that both spaces have in common, above chance."""
    near = []
    for space in (reference, codes):
        distances = ((space[:, None] - space[None]) ** 2).sum(2)
        np.fill_diagonal(distances, np.inf)
        near.append(np.argsort(distances, axis=1)[:, :k])
    shared = [len({*a} & {*b}) for a, b in zip(*near, strict=True)]
    return np.mean(shared) / k - k / (len(codes) - 1)


def test_the_rows_of_neighbours_are_those_of_scikit_learn_and_of_a_loop():
    rng = np.random.default_rng(0)
    space = rng.normal(size=(120, 4))
    codes = {"A": space[:, :2] + 0.1 * rng.normal(size=(120, 2)), "B": rng.normal(size=(120, 3))}
    cells = pd.DataFrame({"Unique_ID": range(120)})
    table = score_projections(codes, {"features": space}, cells, Plan(("neighbours",))).table
    sizes = [max(int(share / 100 * 119), 1) for share in range(1, 21)]  # 1 % to 20 % of N - 1
    for name, code in codes.items():
        measures = {
            "trustworthiness": lambda k, c=code: trustworthiness(space, c, n_neighbors=k),
            "continuity": lambda k, c=code: trustworthiness(c, space, n_neighbors=k),
            "lcmc": lambda k, c=code: lcmc(space, c, k),
        }
        for metric, measure in measures.items():
            for k in (1, 7, 59):
                assert value(table, metric, name, k=k) == pytest.approx(measure(k), abs=1e-12)
            at = [measure(k) for k in sizes]
            area = sum((a + b) / 2 for a, b in zip(at[:-1], at[1:], strict=True))
            assert value(table, f"{metric}_area", name) == pytest.approx(area, abs=1e-9)
    assert table["std"].isna().all() and set(table["n_cells"]) == {120}
    assert set(table["reference"]) == {"features"}
    assert table["k"].max() == 59 and set(table["seed"]) == {0}


@pytest.fixture
def bbbc031():
    """300 cells with the columns of BBBC031 and codes that follow them; one class of one cell."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"Unique_ID": [f"c{i}" for i in range(300)]})
    table["GT_label"] = [8, *rng.integers(1, 8, 299)]
    table["GT_initial_state"] = rng.choice(["green", "red"], 300)
    table["GT_dist_toInit_state"] = rng.uniform(0, 1, 300)
    table["GT_Shape"] = np.where(table["GT_initial_state"] == "green", 0.4, 0.1)
    place = table["GT_dist_toInit_state"].to_numpy()[:, None]
    return place * rng.normal(size=(9, 3))[table["GT_label"]] + rng.normal(0, 0.1, (300, 3)), table


def test_the_rows_of_the_classifier_are_its_scores(bbbc031):
    """m1 to m3 report the accuracy, the task of the user every number that there is."""
    codes, table = bbbc031
    task = ClassifierTask("accuracy", "GT_label")
    plan = Plan(("classifier",), task, classifier_mode="thesis", class_weights=True, seed=3)
    found = score_projections({"A": codes}, {}, table, plan)
    how = {"mode": "thesis", "class_weights": True, "seed": 3}
    alone = classifier_accuracy(codes, table["GT_label"], context="accuracy: ", **how)
    expected = {
        "accuracy": (alone.accuracy, alone.accuracy_std),
        "balanced_accuracy": (alone.balanced_accuracy, alone.balanced_accuracy_std),
        "knn_accuracy": (alone.knn_accuracy, None),
        "logistic_accuracy": (alone.logistic_accuracy, None),
    }
    expected |= {f"accuracy[{name}]": (found, None) for name, found in alone.per_class.items()}
    of_thesis = m_scores(codes, table, BBBC031_TASKS, **how)
    expected |= {n: (score.accuracy, score.accuracy_std) for n, score in of_thesis.items()}
    rows = found.table.set_index("metric")
    assert set(rows.index) == expected.keys()
    for metric, (wanted, spread) in expected.items():
        wanted = pytest.approx([wanted, np.nan if spread is None else spread], nan_ok=True)
        assert rows.loc[metric, ["value", "std"]].astype(float).tolist() == wanted, metric
    assert of_thesis["m1"].accuracy != of_thesis["m1"].balanced_accuracy
    for name, score in of_thesis.items():
        assert rows.loc[name, "n_cells"] == score.n_cells < 300
    assert found.confusion["A"].to_numpy().tolist() == alone.confusion.tolist()
    assert list(found.confusion["A"].index) == list(alone.classes)
    assert alone.report and set(alone.report) <= set(found.notes)


def test_the_rows_of_the_backbone_are_its_scores(bbbc031):
    codes, table = bbbc031
    table.loc[5, "GT_dist_toInit_state"] = np.nan
    found = score_projections({"A": codes}, {}, table, Plan(("backbone",), seed=2))
    alone = backbone_scores(codes, table, BBBC031_CONTINUUM, seed=2)
    expected = {}
    for coefficient in ("spearman", "kendall"):
        estimate, name = getattr(alone, coefficient), f"backbone_{coefficient}"
        expected[name] = (estimate.value, estimate.std)
        expected[f"{name}_low"], expected[f"{name}_high"] = (estimate.low,), (estimate.high,)
        assert estimate.low < estimate.value < estimate.high
        for branch, part in alone.branches.items():
            of_branch = getattr(part, coefficient)
            expected[f"{name}[{branch}]"] = (of_branch.value, of_branch.std)
    rows = found.table.set_index("metric")
    for metric, (wanted, *spread) in expected.items():
        std = spread[0] if spread else np.nan
        wanted = pytest.approx([wanted, std], nan_ok=True)
        assert rows.loc[metric, ["value", "std"]].astype(float).tolist() == wanted, metric
    assert set(rows.index) == expected.keys()
    assert rows.loc["backbone_spearman", "n_cells"] == alone.n_cells
    assert rows.loc["backbone_kendall[1]", "n_cells"] == alone.branches["1"].n_cells
    assert alone.report and set(alone.report) <= set(found.notes)
    backbone = found.backbones["A"]
    for name in ("latent_distance", "progress", "branch"):
        np.testing.assert_array_equal(getattr(backbone, name), getattr(alone, name))


def test_the_rows_of_the_information_are_its_scores(line):
    codes, space, table = (part[:60] if name else part for name, part in enumerate(line))
    codes = {name: code[:60] for name, code in codes.items()}
    plan = Plan(("information",), information_mode="thesis", seed=1)
    found = score_projections(codes, {"features": space}, table, plan)
    how = {"mode": "thesis", "seed": 1, "context": "{}, features: "}
    alone = mutual_information_of(space, codes, **how)
    assert found.table["projection"].tolist() == [*codes]
    for row in found.table.itertuples():
        score = alone[row.projection]
        assert (row.metric, row.reference) == ("mutual_information", "features")
        assert row.value == score.value and np.isnan(row.std) and row.n_cells == 60
        assert score.report and set(score.report) <= set(found.notes)


def test_the_rows_of_the_axes_are_scipys():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"Unique_ID": range(60), "dose": rng.normal(size=60), "age": rng.permutation(60) / 7}
    )
    table.loc[:9, "age"] = np.nan
    codes = np.stack([-table["dose"] + rng.normal(size=60), rng.normal(size=60)], 1)
    found = score_projections({"A": codes}, {}, table, Plan(("axes",)))
    assert len(found.axes) == 4
    for row in found.axes.itertuples():
        known = table[row.column].notna()
        rho = spearmanr(codes[known, row.axis - 1], table[row.column][known]).statistic
        assert row.spearman == pytest.approx(rho) and row.n_cells == known.sum()
    for column, n_cells in (("dose", 60), ("age", 50)):
        of_column = found.axes[found.axes["column"] == column]["spearman"]
        row = found.table[found.table["metric"] == f"spearman[{column}]"].iloc[0]
        assert row["value"] == max(of_column, key=abs) and row["n_cells"] == n_cells


def test_cells_without_a_place_are_left_out_for_all(line):
    codes, space, table = line
    codes["kept"] = codes["kept"].copy()
    codes["kept"][3, 1] = np.nan
    space = space.copy()
    space[7] = np.inf
    plan = Plan(("neighbours", "backbone"), continuum=Continuum("dose"))
    scores = score_projections(codes, {"features": space}, table, plan)
    assert set(scores.table["n_cells"]) == {118}
    assert scores.local_quality.isna().all(axis=1).to_numpy().nonzero()[0].tolist() == [3, 7]
    distances = scores.backbones["shuffled"].latent_distance
    assert np.flatnonzero(np.isnan(distances)).tolist() == [3, 7]
    assert any("cell3.png" in note and "kept" in note for note in scores.notes)
    assert any("cell7.png" in note and "features" in note for note in scores.notes)


def test_what_cannot_be_scored_is_named(line):
    codes, _, table = line
    scores = score_projections(codes, {}, table.drop(columns="class"), Plan(QUICK))
    skipped = [note for note in scores.notes if "skipped" in note]
    assert [note.split()[0] for note in skipped] == ["neighbours", "classifier", "backbone"]
    assert set(scores.table["metric"]) == {"spearman[dose]"}


@pytest.mark.parametrize(
    "flat",
    [np.zeros((120, 2, 8, 8), np.uint8), np.full((120, 3), 7.5), np.tile([1.0, 2.0], (120, 1))],
    ids=["black", "constant", "equal rows"],
)
def test_a_space_in_which_all_cells_are_alike_gives_no_score(line, flat):
    codes, space, table = line
    plan = Plan(("neighbours", "information"), information_mode="thesis")
    scores = score_projections(codes, {"pixels": flat, "features": space}, table, plan)
    assert set(scores.table["reference"]) == {"features"}
    assert set(scores.corners) == {"features"}
    for group in plan.metrics:
        assert f"{group} skipped for pixels: all cells are alike" in scores.notes
    alone = score_projections(codes, {"pixels": flat}, table, plan)
    assert alone.table.empty and alone.local_quality.empty


def test_a_projection_in_which_all_cells_are_alike_gets_no_score(line):
    codes, space, table = line
    codes = {"kept": codes["kept"], "collapsed": np.ones((120, 3))}
    plan = Plan(("neighbours", "information"), information_mode="thesis")
    scores = score_projections(codes, {"features": space}, table, plan)
    assert set(scores.table["projection"]) == {"kept"}
    assert "neighbours skipped for collapsed: all cells are alike" in scores.notes
    only = score_projections({"collapsed": codes["collapsed"]}, {"features": space}, table, plan)
    assert only.table.empty


def test_one_cell_apart_is_variation(line):
    _, space, _ = line
    flat = np.zeros((2000, 3))
    assert not has_variation(flat)
    flat[1999, 2] = 1e-9
    assert has_variation(flat) and has_variation(space)


def test_a_sample_of_ranked_cells_is_said(line):
    codes, space, table = line
    for limit, said in ((120, False), (119, True)):
        plan = Plan(("neighbours",), rank_all_up_to=limit, ranked_sample=40)
        scores = score_projections(codes, {"features": space}, table, plan)
        assert any("40 of 120 cells were ranked" in note for note in scores.notes) == said
        assert scores.table["std"].notna().all() == said


def test_cells_that_share_a_code_are_counted(line):
    codes, space, table = line
    codes["kept"][5:8] = codes["kept"][4]
    scores = score_projections(codes, {"features": space}, table, Plan(("neighbours",)))
    (note,) = [note for note in scores.notes if "share their code" in note]
    assert note.startswith("kept: 4 of 120 cells share their code")


def test_every_option_reaches_its_metric(line):
    codes, space, table = line
    plan = Plan(
        ("neighbours", "information", "classifier"),
        ClassifierTask("accuracy", "class"),
        kt=2,
        ks=7,
        classifier_repeats=2,
        information_bound="nwj",
        information_repeats=2,
        information_steps=40,
        information_batch=16,
        information_pairs=0,
        information_components=0,
    )
    scores = score_projections(codes, {"features": space}, table, plan)
    found = scores.information["features"]["kept"]
    used = found.settings
    assert (used.bound, used.repeats, used.steps, used.batch) == ("nwj", 2, 40, 16)
    assert (used.pairs, used.components, used.alpha, used.hidden) == (None, None, 0.01, 160)
    assert max(map(len, found.curves)) <= 2 and math.isinf(found.cap)
    assert found.value == value(scores.table, "mutual_information", "kept")
    expected = co_ranking(space, {"kept": codes["kept"]}, kt=2, ks=7)["kept"].local_quality
    quality = scores.local_quality["kept_features_local_Q_score"]
    np.testing.assert_array_equal(quality, expected.relative)
    tested = (table["class"].value_counts() // 2).sum()
    assert scores.confusion["kept"].to_numpy().sum() == 2 * tested
    thesis = Plan(information_mode="thesis", information_epochs=3).of_information()
    assert thesis == {"mode": "thesis", "epochs": 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"information_alpha": 0.0}, "--information-alpha 0.0: must be above 0 and at most 1"),
        ({"information_pairs": -1}, "--information-pairs -1: must be at least 0"),
        ({"information_batch": 1}, "--information-batch 1: must be at least 2"),
        ({"ks": 0}, "--ks 0: must be at least 1"),
        ({"kt": -1}, "--kt -1: must be at least 0"),
        ({"classifier_repeats": 0}, "--classifier-repeats 0: must be at least 1"),
        ({"ranked_sample": 1}, "--ranked-sample 1: must be at least 2"),
    ],
)
def test_options_out_of_range_are_refused_before_anything_is_scored(options, message):
    with pytest.raises(UserError, match=message):
        Plan(**options)
    with pytest.raises(UserError, match=message):
        compute_perf_metrics(pd.DataFrame(), **options)


@pytest.mark.parametrize("options", [{"information_pairs": 10}, {"information_bound": "mine"}])
def test_options_of_information_are_refused_whole(options):
    with pytest.raises(UserError, match="pairs = 10: must be at least 50|bound 'mine': choose"):
        Plan(**options)


def test_what_mutual_information_can_be_told_is_an_option():
    told = {field.name for field in dataclasses.fields(InformationSettings)} - {"held_out"}
    options = {field.name for field in dataclasses.fields(ScoringOptions)}
    assert {f"information_{name}" for name in told} <= options


def test_the_rows_of_a_sample_have_the_errors_of_their_k(line, monkeypatch):
    """Also where there are too many sizes to keep each: then they are spread evenly in ratio."""
    monkeypatch.setattr(scores_module, "EVERY_K_UP_TO", 20)
    codes, space, table = line
    codes = {"shuffled": codes["shuffled"]}
    plan = Plan(("neighbours",), rank_all_up_to=119, ranked_sample=40, seed=4)
    found = score_projections(codes, {"features": space}, table, plan).table
    alone = co_ranking(space, codes, sample=40, seed=4)["shuffled"]
    sizes = np.unique(np.geomspace(1, 59, 1000).astype(int)).tolist()
    for metric in ("trustworthiness", "continuity", "lcmc"):
        rows = found[found["metric"] == metric]
        assert rows["k"].tolist() == sizes
        for row in rows.itertuples():
            assert (row.value, row.std) == (alone.at(row.k)[metric], alone.errors_at(row.k)[metric])
        (area,) = found[found["metric"] == f"{metric}_area"].to_dict("records")
        assert area["value"] == alone.areas()[metric] and area["std"] == alone.area_errors[metric]


def test_one_class_only_skips_the_classifier(line):
    codes, _, table = line
    table["class"] = "all"
    plan = Plan(("classifier",), ClassifierTask("accuracy", "class"))
    scores = score_projections(codes, {}, table, plan)
    assert scores.table.empty
    assert "two classes" in scores.notes[0]


def test_a_metric_that_does_not_exist():
    with pytest.raises(UserError, match="`metrics` trust: choose from neighbours"):
        Plan(("trust",))


def test_three_cells_and_fewer(line):
    codes, space, table = line
    few = {"kept": codes["kept"][:3]}
    scores = score_projections(few, {"features": space[:3]}, table[:3], Plan(("neighbours",)))
    assert value(scores.table, "trustworthiness", "kept", k=1) == 1
    with pytest.raises(UserError, match="2 cells have coordinates"):
        score_projections({"kept": codes["kept"][:2]}, {}, table[:2], Plan(("axes",)))


@pytest.fixture
def picture_set(tmp_path):
    """40 cells whose brightness is their dose, in a folder, and a CSV of their codes."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "set"
    folder.mkdir()
    dose = np.linspace(0.1, 1, 40)
    for i, brightness in enumerate(dose):
        noise = rng.uniform(0.8, 1, (32, 32))
        tifffile.imwrite(folder / f"c{i:02d}.tif", (255 * brightness * noise).astype(np.uint8))
    table = pd.DataFrame({"Unique_ID": [f"c{i:02d}.tif" for i in range(40)], "dose": dose})
    table["group"] = np.where(dose > 0.5, "high", "low")
    table["MINE_1"], table["MINE_2"] = dose, rng.normal(0, 0.01, 40)
    table.to_csv(tmp_path / "codes.csv", index=False)
    return folder, tmp_path / "codes.csv", table


def test_the_script_scores_a_csv_with_its_images(picture_set, run_script, tmp_path):
    folder, source, table = picture_set
    options = ("--dataset", folder, "--image-size", 32, "--label", "group", "--progress", "dose")
    done = run_script(SCRIPT, source, *options, "--metrics", *QUICK)
    result = tmp_path / "results" / "0001-codes-scores"
    names = {path.name for path in result.iterdir()}
    assert names >= {
        *("scores.csv", "axes.csv", "local_quality.csv", "confusion_MINE.csv", "settings.json"),
        *("report.html", "latent_space.html", "backbones.html", "plotly.min.js", "backbones.png"),
        *("co_ranking_pixels.png", "local_quality_pixels.png", "local_quality.png", "scores.png"),
        *("ordered_distance.png", "accuracy.png", "projections_group.png"),
    }
    scores = pd.read_csv(result / "scores.csv")
    assert value(scores, "trustworthiness", "MINE", k=5) > 0.9
    assert value(scores, "backbone_spearman", "MINE") > 0.95
    assert "trustworthiness" in done.stdout
    assert "report: results/0001-codes-scores/report.html" in done.stdout
    local = pd.read_csv(result / "local_quality.csv")
    assert local["Unique_ID"].tolist() == table["Unique_ID"].tolist()
    assert "MINE_pixels_local_Q_score" in local


def test_order_of_the_rows_does_not_matter(picture_set):
    folder, _, table = picture_set
    options = {"dataset": str(folder), "image_size": 32, "metrics": ("neighbours",)}
    first = compute_perf_metrics(table, **options)
    turned = table[::-1].reset_index(drop=True)
    turned["Unique_ID"] = turned["Unique_ID"].str.removesuffix(".tif")
    second = compute_perf_metrics(turned, **options)
    assert set(second["n_cells"]) == {40}
    pd.testing.assert_frame_equal(first, second)


def test_rows_and_images_without_partner(picture_set):
    folder, _, table = picture_set
    (folder / "c05.tif").unlink()
    options = {"dataset": str(folder), "image_size": 32, "metrics": ("neighbours",)}
    scores = compute_perf_metrics(table, **options)
    assert set(scores["n_cells"]) == {39}
    table["Unique_ID"] = "x" + table["Unique_ID"]
    with pytest.raises(UserError, match="no Unique_ID matches an image; it has 'xc00.tif'"):
        compute_perf_metrics(table, **options)


def test_rows_without_ids_are_taken_in_the_order_of_an_array(tmp_path):
    """Said in a note; the columns of the images' own table follow those of the projections."""
    rng = np.random.default_rng(0)
    images = rng.integers(1, 255, (30, 16, 16), dtype=np.uint8)
    np.save(tmp_path / "cells.npy", images)
    known = pd.DataFrame({"zeta": rng.normal(size=30), "alpha": rng.normal(size=30)})
    known.to_csv(tmp_path / "known.csv", index=False)
    table = pd.DataFrame(rng.normal(size=(30, 2)), columns=["UMAP_1", "UMAP_2"])
    where = {"dataset": str(tmp_path / "cells.npy"), "metadata": str(tmp_path / "known.csv")}
    settings = replace(SETTINGS, **where, image_size=16, metrics=("neighbours", "axes"))
    found = score_source(table, settings)
    ids = [f"cell_{i:06d}" for i in range(30)]
    assert found.latents["Unique_ID"].tolist() == ids
    assert list(found.latents) == ["Unique_ID", "UMAP_1", "UMAP_2", "zeta", "alpha"]
    said = "the table has no column Unique_ID: its rows are taken in the order of the images"
    assert said in found.scores.notes
    (rho,) = found.scores.axes.query("axis == 1 and column == 'zeta'")["spearman"]
    assert rho == pytest.approx(spearmanr(table["UMAP_1"], known["zeta"]).statistic)
    with pytest.raises(UserError, match="no column Unique_ID and 29 rows for 30 images"):
        score_source(table[:29], settings)
    found = score_source(table.assign(Unique_ID=ids[::-1]), settings)
    np.testing.assert_allclose(found.latents["zeta"], known["zeta"][::-1])


def test_a_table_of_features_is_a_reference_too(picture_set, tmp_path):
    _, _, table = picture_set
    features = pd.DataFrame({"Unique_ID": table["Unique_ID"], "brightness": table["dose"]})
    features["area"] = np.random.default_rng(1).normal(0, 1e-3, 40)
    features[1:].to_csv(tmp_path / "features.csv", index=False)
    scores = compute_perf_metrics(
        table, features=str(tmp_path / "features.csv"), metrics=("neighbours",)
    )
    assert set(scores["reference"]) == {"features"}
    assert set(scores["n_cells"]) == {39}


def test_other_classes_and_strength(picture_set):
    _, _, table = picture_set
    table["group"] = np.tile(["a", "b", "c", "junk"], 10)
    scores = compute_perf_metrics(
        table,
        label="group",
        ignore=("junk",),
        merge=("b=bc", "c=bc"),
        strength_column="dose",
        strength_threshold=0.5,
        classifier_mode="thesis",
        metrics=("classifier",),
    )
    kept = (table["group"] != "junk") & (table["dose"] >= 0.5)
    assert set(scores["n_cells"]) == {kept.sum()}
    assert {"accuracy[a]", "accuracy[bc]"} <= set(scores["metric"])


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (
            lambda t: t.assign(MINE_1="many"),
            ["--columns", "MINE_1", "MINE_2"],
            "'MINE_1' is not nu",
        ),
        (lambda t: t, ["--columns", "MINE_1", "MINE_3"], "no column 'MINE_3'"),
        (lambda t: t.assign(MINE_1=np.nan), ["--columns", "MINE_1", "MINE_2"], "0 cells have coo"),
        (lambda t: t.assign(Unique_ID="one"), [], "ids occur in more than one row"),
        (lambda t: t, ["--label", "kind"], "--label kind: no such column"),
        (lambda t: t, ["--progress", "age"], "age"),
        (lambda t: t, ["--features", "measure"], "needs the images"),
        (lambda t: t, ["--dataset", "nowhere"], "no such folder"),
        (lambda t: t, ["--merge", "a"], "give OLD=NEW"),
        (lambda t: t[:0], [], "has no rows"),
        (lambda t: t[:2], ["--metrics", "axes"], "2 cells have coordinates"),
    ],
)
def test_bad_input_is_one_line(picture_set, tmp_path, monkeypatch, spoil, options, message):
    _, source, table = picture_set
    spoil(table).to_csv(source, index=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        main(parse_options(SETTINGS, [str(source), *options]))
    said = name_options(str(error.value))  # as run_script prints it
    assert message in said and "\n" not in said
    assert not (tmp_path / "results").exists()
