"""Scores of several projections in one table, and the script that scores anybody's CSV."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import tifffile

from quantitative_metrics.backbone_metric import Continuum
from quantitative_metrics.classifier_metric import ClassifierTask
from quantitative_metrics.critics import InformationSettings
from quantitative_metrics.options import ScoringOptions
from quantitative_metrics.performance_metrics import (
    SETTINGS,
    compute_perf_metrics,
    main,
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
