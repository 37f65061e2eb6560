"""Every score has a row, and the row is true: its range, its direction, where it shows."""

import numpy as np
import pandas as pd
import pytest

from quantitative_metrics import catalogue
from quantitative_metrics.agreement import Views
from quantitative_metrics.backbone_metric import Continuum
from quantitative_metrics.catalogue import (
    CATALOGUE,
    GROUPS,
    GROUPS_HELP,
    SPACES,
    Score,
    better_when,
    counts_by_size,
    goodness,
    is_whole,
    refuse_unknown_score,
    split_name,
    title_of,
)
from quantitative_metrics.classifier_metric import ClassifierTask
from quantitative_metrics.score_table import headline, scores_table
from quantitative_metrics.scores import Plan, score_projections
from util.errors import UserError

SCORED = [score for score in CATALOGUE if score.group != "training"]


@pytest.fixture(scope="module")
def scored():
    """A full scoring of codes that keep what is known of 240 cells, and of the same shuffled."""
    rng = np.random.default_rng(0)
    n = 240
    process, distance = rng.integers(1, 7, n), rng.uniform(0, 1, n)
    angle = process * np.pi / 3
    good = np.column_stack([distance * np.cos(angle), distance * np.sin(angle), distance])
    table = pd.DataFrame({"Unique_ID": [f"c{i}" for i in range(n)], "GT_label": process})
    table["GT_dist_toInit_state"], table["GT_initial_state"] = distance, "green"
    table["GT_Shape"] = 0.5
    spread = good @ rng.normal(size=(3, 8)) + rng.normal(0, 0.02, (n, 8))
    pixels = np.repeat(spread - spread.min(), 8, axis=1).reshape(n, 1, 8, 8)
    codes = {"good": good, "shuffled": rng.permutation(good)}
    # A well holds cells of a process on either plate; views and seeds differ a little.
    table["plate"], table["well"] = np.arange(n) % 2, (2 * process + (distance > 0.5)).astype(str)
    noisy = {name: [c + rng.normal(0, 0.05, c.shape) for _ in "ab"] for name, c in codes.items()}
    noisy["shuffled"][1] = rng.permutation(noisy["shuffled"][1])
    scored = score_projections(
        codes,
        {"pixels": pixels / pixels.max(), "features": spread},
        table,
        Plan(
            task=ClassifierTask("accuracy", "GT_label"),
            classifier_mode="thesis",
            replicate="well",
        ),
        {"good": np.full((n, 3), -6.0), "shuffled": np.full((n, 3), 3.0)},
        Views(np.arange(n), {name: tuple(pair) for name, pair in noisy.items()}),
    ).table
    seeds = {f"{name}_seed{i}": pair[i] for name, pair in noisy.items() for i in (0, 1)}
    seeds = score_projections(seeds, {}, table, Plan(("agreement",))).table
    seeds = seeds[seeds["projection"].str.endswith("seed0")]
    seeds = seeds[seeds["metric"].str.startswith("seed_")]
    seeds["projection"] = seeds["projection"].str.removesuffix("_seed0")
    return pd.concat([scored, seeds.astype(scored.dtypes)], ignore_index=True)


def test_every_score_of_a_full_scoring_has_a_row_and_every_row_is_scored(scored):
    found = {split_name(name)[0] for name in scored["metric"]}
    assert None not in found
    assert {score.name for score in found} == {score.name for score in SCORED}
    for score in SCORED:
        own = scored[scored["metric"].map(lambda name, s=score: split_name(name)[0] is s)]
        assert set(own["reference"]) == (set(SPACES) if score.compares else {""})
        assert own["k"].notna().all() == score.curve
        assert any(own["metric"].str.startswith(f"{score.name}[")) == bool(score.parts)
        assert any(own["metric"] == f"{score.name}_low") == score.interval


def test_ranges_hold(scored):
    for name, values in scored.groupby("metric"):
        score, _ = split_name(name)
        slack = 3 * values["std"].fillna(0)  # an estimate errs beyond the range of what it is of
        assert (values["value"] >= score.low - slack - 1e-9).all(), name
        assert (values["value"] <= score.high + slack + 1e-9).all(), name


@pytest.mark.parametrize("score", SCORED, ids=lambda score: score.name)
def test_codes_that_know_the_cells_are_better_than_shuffled_ones(scored, score):
    own = scored[scored["metric"].map(lambda name: split_name(name)[0] is score)]
    if score.curve:
        own = own[own["k"] == 10]
    elif score.parts != "column":
        own = own[own["metric"].map(is_whole)]
    for _, part in own.groupby(["metric", "reference"]):
        values = part.set_index("projection")["value"].rename(part["metric"].iloc[0])
        good = values if score.better == "neither" else goodness(values)
        assert score.better == "neither" or good["good"] > good["shuffled"]
        if isinstance(score.chance, float | int) and score.group != "information":
            reach = (score.high - score.low) / 8 if np.isfinite(score.high) else 1 / 8
            assert abs(good["shuffled"] - score.chance) < reach  # what knows nothing is near chance


def test_names_of_scores():
    assert split_name("accuracy[a_low [b]]")[0].name == "accuracy"
    assert split_name("accuracy_of_mine")[0] is None
    assert split_name("k-NN accuracy")[0].name == "knn_accuracy"
    assert split_name("mean area pixels")[0].name == "mean_area"
    assert split_name("backbone_spearman[x]_low")[0].name == "backbone_spearman"
    assert split_name("trustworthiness_area features")[0].name == "trustworthiness_area"
    whole = ["m1", "mean_area pixels", "lcmc_area", "my own", "analytic_information"]
    assert all(is_whole(name) for name in whole)
    parts = ["accuracy[G1]", "backbone_kendall_low", "spearman[dose]", "backbone_kendall[a]"]
    assert not any(is_whole(name) for name in parts)


def test_titles_for_people():
    assert title_of("mean_area pixels") == "mean area pixels"
    assert title_of("lcmc pixels k=4") == "LCMC pixels k=4"
    assert title_of("spearman[my_dose]") == "Spearman[my_dose]"
    assert title_of("backbone_kendall_low") == "backbone Kendall low"
    assert title_of("my_own_score") == "my own score"


def test_which_way_is_better():
    assert better_when("accuracy") == 1 and better_when("valid_reconstruction") == -1
    assert better_when("valid_kl") == 0 and better_when("training_seconds") == 0
    assert better_when("my_own") == 1 and counts_by_size("spearman[dose]")
    assert list(goodness(pd.Series([-0.9, 0.5], name="spearman[dose]"))) == [0.9, 0.5]
    assert list(goodness(pd.Series([3.0, 5.0], name="valid_loss"))) == [-3, -5]


def test_help_names_the_scores_of_each_group():
    assert GROUPS_HELP.startswith("Groups of scores to compute: neighbours (trustworthiness, conti")
    for group in GROUPS:
        listed = GROUPS_HELP.split(f"{group} (")[1].split(")")[0].split(", ")
        assert listed == [s.title for s in CATALOGUE if s.group == group and s.brief]
    assert "classifier (accuracy, balanced accuracy" in GROUPS_HELP


def test_the_bar_chart_shows_the_accuracies():
    shown = [score.name for score in CATALOGUE if score.bar]
    assert shown[:2] == ["accuracy", "balanced_accuracy"] and {"m1", "m2", "m3"} <= {*shown}
    assert {score.group for score in CATALOGUE if score.bar} == {"classifier"}


def test_rows_are_complete():
    names = [score.name for score in CATALOGUE]
    assert len(set(names)) == len(names)
    for score in CATALOGUE:
        assert score.question.endswith("?") and score.source and score.title
        assert score.low < score.high
        assert not isinstance(score.chance, float) or score.low <= score.chance < score.high
    assert {score.group for score in SCORED} == set(GROUPS)


def test_a_goal_that_no_run_can_have_is_refused():
    for known in ("reconstruction", "m1", "mean_area features", "spearman[dose]", None):
        refuse_unknown_score("goal", known)
    for unknown in ("acuracy", "mean_area", "trustworthiness pixels", "spearman", "epochs"):
        with pytest.raises(UserError, match=f"`goal` {unknown}: no such score; there are recon"):
            refuse_unknown_score("goal", unknown)


def test_a_row_is_all_that_a_new_score_needs(monkeypatch):
    row = Score(
        name="extent",
        group="axes",
        title="extent",
        question="How far do the coordinates reach?",
        low=0,
        high=np.inf,
        chance="",
        source="this test",
        compute=lambda subject: float(np.ptp(subject.codes)),
    )
    for module in ("catalogue", "scores", "score_table"):
        monkeypatch.setattr(f"quantitative_metrics.{module}.CATALOGUE", (*CATALOGUE, row))
    monkeypatch.setattr(catalogue, "_BY_NAME", [("extent", row), *catalogue._BY_NAME])
    codes = {"A": np.arange(8.0).reshape(4, 2), "B": np.zeros((4, 2))}
    table = pd.DataFrame({"Unique_ID": list("abcd"), "dose": [1.0, 2.0, 3.0, 5.0]})
    scores = score_projections(codes, {}, table, Plan(("axes",), continuum=Continuum("dose")))
    assert list(scores.table.query("metric == 'extent'")["value"]) == [7, 0]
    assert scores_table(scores.table)["extent"].tolist() == [7, 0]
    assert headline(scores.table)["extent"].tolist() == [7, 0]
