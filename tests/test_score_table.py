"""Tables of scores against hand-made ones: which scores, which k, which are the best."""

import numpy as np
import pandas as pd
import pytest
from long_scores import long_scores

from quantitative_metrics.score_table import format_table, headline, mark_best, scores_table
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
