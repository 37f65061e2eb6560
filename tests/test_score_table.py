"""Tables of scores against hand-made ones: which scores, which k, which are the best."""

import numpy as np
import pandas as pd
import pytest
from long_scores import long_scores

from quantitative_metrics.backbone_metric import Continuum
from quantitative_metrics.classifier_metric import ClassifierTask
from quantitative_metrics.score_table import (
    detail_tables,
    format_table,
    headline,
    mark_best,
    scores_table,
    write_scores,
)
from quantitative_metrics.scores import Plan, score_projections
from util.errors import UserError


def test_the_short_table_holds_the_right_scores():
    table = scores_table(long_scores())
    assert list(table.index) == ["VAE", "UMAP"]
    assert list(table.columns) == [
        "trustworthiness pixels k=4",  # 1 % of 400 cells
        "continuity pixels k=4",
        "LCMC pixels k=4",
        "accuracy",
        "balanced accuracy",
        "Spearman[dna]",
    ]
    expected = [[0.904, 0.704, 0.446, 0.8, 0.5, 0.5], [0.804, 0.704, 0.396, 0.7, 0.5, -0.75]]
    np.testing.assert_allclose(table.to_numpy(), expected)


def test_the_best_of_a_column_and_none_among_equals():
    table = scores_table(long_scores())
    best = [[(row, column) in table.attrs["best"] for column in table] for row in table.index]
    assert best[0] == [True, False, True, True, False, False]
    assert best[1] == [False] * 5 + [True]  # 0.75 in size


def test_a_low_value_is_the_best_of_a_loss():
    runs = pd.DataFrame({"valid_reconstruction": [9.0, 4.0], "my_own": [1, 2], "epochs": [3, 4]})
    table = mark_best(runs)
    assert list(table) == ["validation reconstruction", "my own", "epochs"]
    assert table.attrs["best"] == {(1, "validation reconstruction"), (1, "my own")}


def test_several_seeds_become_their_mean_and_k_is_shared():
    scores = long_scores()
    again = scores.assign(seed=1, value=scores["value"] + 0.02)
    table = scores_table(pd.concat([scores, again]))
    assert table.loc["VAE", "accuracy"] == pytest.approx(0.81)
    only_one = scores[~((scores["projection"] == "UMAP") & (scores["k"] == 4))]
    assert "LCMC pixels k=3" in scores_table(only_one)
    assert not scores_table(only_one).isna().any(axis=None)


def test_the_table_as_text_is_aligned_and_marks_the_best():
    scores = long_scores()
    text = format_table(scores_table(scores[scores["reference"] == "pixels"]))
    assert text.split("\n") == [
        "                              VAE    UMAP",
        "trustworthiness pixels k=4  0.904*  0.804",
        "continuity pixels k=4       0.704   0.704",
        "LCMC pixels k=4             0.446*  0.396",
    ]
    incomplete = scores[~((scores["projection"] == "UMAP") & (scores["metric"] == "accuracy"))]
    assert "–" in format_table(scores_table(incomplete))


def test_scores_without_a_column_are_refused():
    with pytest.raises(UserError, match="metric"):
        scores_table(long_scores().drop(columns="metric"))


def test_headline_keeps_what_is_one_number():
    rows = [
        ("A", "pixels", "lcmc", 3, 0.5),
        ("A", "pixels", "lcmc_area", None, 9.0),
        ("A", "", "spearman[dose]", None, -0.9),
        ("A", "", "accuracy", None, 0.7),
        ("A", "", "accuracy[x]", None, 0.1),
        ("A", "", "backbone_spearman", None, 0.6),
        ("A", "", "backbone_spearman_low", None, 0.5),
        ("B", None, "accuracy", None, 0.8),
    ]
    table = pd.DataFrame(rows, columns=["projection", "reference", "metric", "k", "value"])
    wide = headline(table)
    expected = ["lcmc_area pixels", "accuracy", "backbone_spearman", "spearman[dose]"]
    assert list(wide.columns) == expected
    assert wide.loc["B", "accuracy"] == 0.8 and np.isnan(wide.loc["B", "lcmc_area pixels"])


@pytest.mark.parametrize(
    ("values", "spreads", "best"),
    [
        ([1.0, 0.8, 0.2], [0.1, 0.1, 0.1], [True, False, False]),
        ([1.0, 0.8, 0.2], [0.3, 0.1, 0.1], [True, True, False]),  # the spread of the best
        ([1.0, 0.8, 0.2], [0.0, 0.3, 0.1], [True, True, False]),  # of the second
        ([1.0, 0.8, 0.2], [0.9, 0.1, 0.1], [False, False, False]),
        ([1.0, np.nan, 0.2], [np.nan, np.nan, 0.1], [True, False, False]),
        ([np.nan, np.nan, 0.2], [0.1, 0.1, 0.1], [False, False, False]),
        ([0.0, -0.02, -3.0], [0.0, 0.04, 5.0], [False, False, False]),
    ],
)
def test_a_difference_within_the_spread_is_no_difference(values, spreads, best):
    name = "mutual_information features"
    table = mark_best(pd.DataFrame({name: values}), pd.DataFrame({name: spreads}))
    assert [(row, *table.columns) in table.attrs["best"] for row in range(3)] == best


def test_the_short_table_knows_the_spread():
    scores = long_scores()
    wide = scores.assign(std=scores["std"].where(scores["metric"] != "accuracy", 0.2))
    assert ("VAE", "accuracy") in scores_table(scores).attrs["best"]
    assert ("VAE", "accuracy") not in scores_table(wide).attrs["best"]


@pytest.fixture(scope="module")
def scored():
    """Scores of two projections of 60 cells of two classes, two branches and two gradations."""
    rng = np.random.default_rng(0)
    codes = {name: rng.normal(size=(60, 2)) for name in ("A", "B/C")}
    table = pd.DataFrame({"Unique_ID": [f"c{i}" for i in range(60)], "kind": ["x", "y"] * 30})
    table["drug"], table["dose"] = ["p"] * 30 + ["q"] * 30, rng.uniform(size=60)
    plan = Plan(
        ("neighbours", "classifier", "backbone", "axes"),
        ClassifierTask("accuracy", "kind"),
        classifier_mode="thesis",
        continuum=Continuum("dose", branch="drug"),
    )
    return score_projections(codes, {"features": rng.normal(size=(60, 4))}, table, plan)


def test_tables_of_classes_branches_axes_and_confusion(scored):
    tables = dict(detail_tables(scored))
    assert list(tables) == [
        "Accuracy by class",
        "Backbone Spearman by branch",
        "Backbone Kendall by branch",
        "Spearman correlation of each axis with what is known of the cells",
        *(
            f"{name}: true class by row, predicted by column; held-out cells of all repeats"
            for name in ("A", "B/C")
        ),
    ]
    whole = scored.table[scored.table["k"].isna()]
    values = whole.set_index(whole["projection"] + " " + whole["metric"])["value"]
    by_class, by_branch, _, axes, confusion, _ = tables.values()
    assert by_class.loc["B/C", "y"] == values["B/C accuracy[y]"]
    assert by_branch.loc["A", "q"] == values["A backbone_spearman[q]"]
    for row in scored.axes.itertuples():
        assert axes.loc[row.column, f"{row.projection} {row.axis}"] == row.spearman
    assert confusion.to_numpy().tolist() == scored.confusion["A"].to_numpy().tolist()


def test_files_of_the_scores(scored, tmp_path):
    write_scores(scored, [f"c{i}" for i in range(60)], tmp_path)
    pd.testing.assert_frame_equal(
        pd.read_csv(
            tmp_path / "scores.csv", keep_default_na=False, na_values={"value": "", "std": ""}
        )[["projection", "metric", "value", "std"]],
        scored.table[["projection", "metric", "value", "std"]].astype({"std": float}),
    )
    axes = pd.read_csv(tmp_path / "axes.csv")
    np.testing.assert_allclose(axes["spearman"], scored.axes["spearman"])
    local = pd.read_csv(tmp_path / "local_quality.csv")
    assert local.columns[0] == "Unique_ID" and local["Unique_ID"][59] == "c59"
    for name in ("A", "B/C"):
        quality = scored.local_quality[f"{name}_features_local_Q_score"]
        np.testing.assert_allclose(local[f"{name}_features_local_Q_score"], quality)
        distance = scored.backbones[name].latent_distance
        np.testing.assert_allclose(local[f"{name}_backbone_distance"], distance)
    files = sorted(path.name for path in tmp_path.glob("confusion_*.csv"))
    assert len(files) == 2 and files[0] == "confusion_A.csv"
    confusion = pd.read_csv(tmp_path / "confusion_A.csv", index_col="true")
    assert confusion.to_numpy().tolist() == scored.confusion["A"].to_numpy().tolist()
