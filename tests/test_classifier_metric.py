"""The batched classifier against plain training one by one, known cases and the real codes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm
from torch import nn

from quantitative_metrics import classifier_metric
from quantitative_metrics.classifier_metric import (
    BBBC031_TASKS,
    ClassifierTask,
    accuracy_across_plates,
    classifier_accuracy,
    m_scores,
)
from util.errors import UserError

REAL_CODES = (
    Path(__file__).parents[2] / "shared" / "data" / "bbbc031" / "vae_latent_codes_7387_cells.csv"
)


def clusters(sizes, distance=6.0, seed=0):
    """Codes (N, 3) of one Gaussian cluster per class along a line, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return rng.normal(size=(len(labels), 3)) + distance * labels[:, None], labels


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "class weights"])
def test_batched_training_equals_training_one_by_one(weighted):
    rng = np.random.default_rng(0)
    repeats, n, n_classes = 3, 300, 4
    x = torch.from_numpy(rng.normal(size=(repeats, n, 2)))
    y = torch.from_numpy(rng.integers(0, n_classes, (repeats, n)))
    weight = torch.tensor([1.0, 0.5, 2.0, 0.1]).double() if weighted else torch.ones(4).double()
    parameters = [
        parameter.double().requires_grad_()
        for parameter in classifier_metric._initial_parameters(repeats, 2, n_classes, rng)
    ]
    initial = [parameter.detach().clone() for parameter in parameters]
    batches = list(classifier_metric._batches(repeats, n, 10, rng))
    assert [batch.shape[1] for batch in batches[:3]] == [128, 128, 44]
    classifier_metric._fit(parameters, x, y, weight.expand(repeats, -1), iter(batches))

    for repeat in range(repeats):
        model = nn.Sequential(nn.Linear(2, 200), nn.ReLU(), nn.Linear(200, n_classes)).double()
        weight1, bias1, weight2, bias2 = (tensor[repeat] for tensor in initial)
        state = {"0.weight": weight1.T, "0.bias": bias1[0]}
        model.load_state_dict(state | {"2.weight": weight2.T, "2.bias": bias2[0]})
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for batch in batches:
            logits = model(x[repeat, batch[repeat]])
            loss = nn.functional.cross_entropy(logits, y[repeat, batch[repeat]], weight=weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        batched = classifier_metric._logits(parameters, x)[repeat]
        torch.testing.assert_close(batched, model(x[repeat]), rtol=0, atol=1e-5)
        assert (weight1 - model[0].weight.T).abs().max() > 1e-3  # it did learn something


def test_initial_weights_are_those_of_a_linear_layer():
    parameters = classifier_metric._initial_parameters(50, 3, 6, np.random.default_rng(0))
    layers = [nn.Linear(3, 200), nn.Linear(200, 6)]
    expected = [tensor for layer in layers for tensor in (layer.weight, layer.bias)]
    for stacked, single in zip(parameters, expected, strict=True):
        assert stacked[0].numel() == single.numel()
        bound = 3**-0.5 if 200 in stacked.shape[1:] and 6 not in stacked.shape else 200**-0.5
        assert stacked.abs().max() <= bound
        assert stacked.std() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_halves_are_stratified_and_disjoint():
    targets = np.repeat([0, 1, 2, 3], [50, 31, 1, 8])
    np.random.default_rng(1).shuffle(targets)
    train, test = classifier_metric._halves(targets, 5, np.random.default_rng(0))
    for one, other in zip(train, test, strict=True):
        assert sorted([*one, *other]) == list(range(90))
        assert np.bincount(targets[one]).tolist() == [25, 16, 1, 4]
    assert (np.sort(train[0]) != np.sort(train[1])).any()


def test_separate_clusters_are_found_and_random_labels_are_chance():
    codes, labels = clusters([120, 120, 120])
    score = classifier_accuracy(codes, labels)
    assert score.accuracy > 0.99 and score.knn_accuracy > 0.99 and score.logistic_accuracy > 0.99
    chance = classifier_accuracy(codes, np.random.default_rng(0).permutation(labels))
    assert 0.23 < chance.accuracy < 0.43 and 0.23 < chance.balanced_accuracy < 0.43


def test_constant_codes_give_the_largest_class():
    labels = np.repeat(["a", "b"], [60, 20])
    score = classifier_accuracy(np.full((80, 3), 5.0), labels)
    assert score.accuracy == 0.75 and score.balanced_accuracy == 0.5
    assert score.per_class == {"a": 1, "b": 0}


def test_score_agrees_with_its_confusion_matrix():
    codes, labels = clusters([60, 90, 30], distance=1.5)
    score = classifier_accuracy(codes, labels, repeats=4, mode="thesis")
    assert score.confusion.sum(axis=1).tolist() == [4 * 30, 4 * 45, 4 * 15]
    found = np.diag(score.confusion) / score.confusion.sum(axis=1)
    assert list(score.per_class.values()) == pytest.approx(found)
    assert score.balanced_accuracy == pytest.approx(found.mean())
    assert score.accuracy == pytest.approx(np.trace(score.confusion) / score.confusion.sum())
    assert score.n_cells == 180 and score.accuracy_std > 0


def test_class_weights_help_the_rare_class():
    codes, labels = clusters([400, 40], distance=1.0)
    plain = classifier_accuracy(codes, labels, repeats=4)
    weighted = classifier_accuracy(codes, labels, repeats=4, class_weights=True)
    assert weighted.per_class["1"] > plain.per_class["1"] + 0.1
    assert weighted.balanced_accuracy > plain.balanced_accuracy


def test_converged_mode_does_not_depend_on_scale_and_thesis_mode_does():
    codes, labels = clusters([150, 150], distance=1.5)
    for mode, same in (("converged", True), ("thesis", False)):
        once, scaled = (
            classifier_accuracy(codes * factor, labels, mode=mode, repeats=2)
            for factor in (1, 1 / 1024)
        )
        assert (once.accuracy == scaled.accuracy) == same
        assert once.knn_accuracy == scaled.knn_accuracy  # the checks are always standardised


@pytest.mark.parametrize(("mode", "epochs"), [("thesis", 20), ("converged", 100)])
def test_epochs_of_both_modes(mode, epochs, monkeypatch):
    """Each shows every training cell so often: 150 of them in two batches per epoch."""
    trained, fit = [], classifier_metric._fit

    def watched(batches, **more):
        trained.extend(batches)
        fit(batches=iter(trained), **more)

    monkeypatch.setattr(classifier_metric, "_fit", watched)
    codes, labels = clusters([150, 150])
    classifier_accuracy(codes, labels, mode=mode, repeats=2)
    assert [batch.shape[1] for batch in trained] == [128, 22] * epochs
    for repeat in range(2):
        shown = torch.cat([batch[repeat] for batch in trained])
        assert torch.bincount(shown).tolist() == [epochs] * 150


def test_accuracy_reaches_that_of_the_best_classifier():
    """Two Gaussians at distance d are told apart with probability Phi(d / 2)."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 1000)
    codes = rng.normal(size=(2000, 3)) + [1.2, 0, 0] * labels[:, None]
    score = classifier_accuracy(codes, labels)
    best = norm.cdf(0.6)  # 0.726; 1,000 test cells know it to 0.014
    for found in (score.accuracy, score.knn_accuracy + 0.02, score.logistic_accuracy):
        assert found == pytest.approx(best, abs=0.03)


def test_tasks_of_bbbc031_choose_and_merge_as_in_the_thesis():
    """m1 all but process 7, m2 the strong ones of them, m3 these in pairs of processes."""
    table = pd.DataFrame({"GT_label": np.repeat(range(1, 8), 20)})
    table["GT_dist_toInit_state"] = np.tile([0.0, 0.49, 0.5, 1.0], 35)
    codes = np.random.default_rng(0).normal(size=(140, 2)) + 9 * table[["GT_label"]].to_numpy()
    scores = m_scores(codes, table, repeats=1)
    assert [s.n_cells for s in scores.values()] == [120, 60, 60]
    assert [s.classes for s in scores.values()] == [
        *(tuple("123456"),) * 2, ("1+2", "3+4", "5+6")
    ]  # fmt: skip


def test_a_seed_gives_the_same_score():
    codes, labels = clusters([50, 50], distance=1.0)
    threads = torch.get_num_threads()
    first, again, other = (
        classifier_accuracy(codes, labels, mode="thesis", seed=seed) for seed in (3, 3, 4)
    )
    assert torch.get_num_threads() == threads
    assert (first.confusion == again.confusion).all() and first.accuracy == again.accuracy
    assert first.logistic_accuracy != other.logistic_accuracy


def test_class_of_one_cell_is_trained_on_and_named():
    codes, labels = clusters([30, 30, 1])
    score = classifier_accuracy(codes, labels, repeats=2)
    assert np.isnan(score.per_class["2"]) and score.per_class["0"] > 0.9
    assert score.balanced_accuracy > 0.9
    assert score.report == (
        "class 2 has one cell, which is kept for training, so it is not tested",
    )


def test_three_cells_are_enough():
    score = classifier_accuracy(np.eye(3), ["a", "a", "b"], repeats=1)
    assert score.confusion.sum() == 1 and np.isnan(score.accuracy_std)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([10, 9, 10, 9], ("9", "10")),
        ([10.0, 9.0, 10.0, 9.0], ("9", "10")),
        (["10", "9", "10", "9"], ("9", "10")),
        (["b", "a", "b", "a"], ("a", "b")),
        (pd.Series([10, "x", 10, "x"], dtype=object), ("10", "x")),
    ],
)
def test_labels_may_be_numbers_or_words(labels, classes):
    assert classifier_accuracy(np.eye(4), labels, repeats=1, mode="thesis").classes == classes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [1, 1, 1, 1]}, "all 4 cells are of class 1"),
        ({"labels": []}, "labels of shape"),
        ({"labels": [1, 2, 3, 4]}, "each of the 4 classes has one cell"),
        ({"labels": [1, 1, np.nan, 2]}, "1 labels are missing"),
        ({"labels": [1, 1, 2]}, "labels of shape \\(3,\\) for 4 codes"),
        ({"codes": np.full((4, 2), np.nan)}, "codes: 4 rows with NaN"),
        ({"codes": np.zeros(4)}, "array of shape \\(4,\\)"),
        ({"codes": np.full((4, 2), "x")}, "codes: a <U1 array"),
        ({"mode": "best"}, "mode 'best'"),
        ({"repeats": 0}, "repeats = 0"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"codes": np.eye(4), "labels": [1, 1, 2, 2]} | change
    with pytest.raises(UserError, match=message):
        classifier_accuracy(arguments.pop("codes"), arguments.pop("labels"), **arguments)


@pytest.fixture
def table():
    return pd.DataFrame(
        {
            "dose": [1, 2, 3, 7] * 20,
            "strength": [0.2] * 40 + [0.5] * 38 + [np.nan, 0.9],
        }
    )


def test_task_selects_and_merges_by_columns(table):
    codes = np.column_stack([table["dose"], np.zeros(80)]) * 1.0
    codes[3] = np.nan  # a cell of the class that is left out anyway
    task = ClassifierTask(
        "strong",
        label_column="dose",
        ignore=("7",),
        strength_column="strength",
        strength_threshold=0.5,
        merge={"1": "low", "2": "low"},
    )
    score = m_scores(codes, table, [task], repeats=2)["strong"]
    assert score.n_cells == 29 and score.classes == ("3", "low")
    assert score.confusion.sum(axis=1).tolist() == [2 * 4, 2 * 10]  # of 9 and of 20 cells
    assert score.report == ("strong: 1 cells without strength, left out",)


def test_cells_without_label_are_left_out_and_counted(table):
    table.loc[:3, "dose"] = np.nan
    score = m_scores(np.eye(80), table, [ClassifierTask("all", "dose")], mode="thesis", repeats=1)
    assert score["all"].n_cells == 76 and score["all"].classes == ("1", "2", "3", "7")
    assert score["all"].report == ("all: 4 cells without dose, left out",)


def test_bad_tables_are_named(table):
    with pytest.raises(UserError, match="m1: there is no column 'GT_label'"):
        m_scores(np.zeros((80, 2)), table)
    with pytest.raises(UserError, match="79 codes for 80 rows"):
        m_scores(np.zeros((79, 2)), table)
    table["strength"] = "strong"
    task = ClassifierTask("m", label_column="dose", strength_column="strength")
    with pytest.raises(UserError, match="m: column 'strength' is not numeric"):
        m_scores(np.zeros((80, 2)), table, [task])
    with pytest.raises(UserError, match="m: all 80 cells are of class x"):
        merge = {name: "x" for name in "1237"}
        m_scores(np.zeros((80, 2)), table, [ClassifierTask("m", label_column="dose", merge=merge)])


@pytest.mark.skipif(not REAL_CODES.exists(), reason="needs the real codes")
@pytest.mark.parametrize(
    ("mode", "expected"),
    [("thesis", (48.5, 58.8, 95.2)), ("converged", (51.0, 61.6, 96.7))],
)
def test_real_codes_have_the_known_accuracies(mode, expected):
    table = pd.read_csv(REAL_CODES)
    codes = table[["VAE_x_coord", "VAE_y_coord", "VAE_z_coord"]].to_numpy()
    scores = m_scores(codes, table, mode=mode)
    assert [task.name for task in BBBC031_TASKS] == list(scores)
    assert [100 * score.accuracy for score in scores.values()] == pytest.approx(expected, abs=1.5)
    assert scores["m1"].n_cells == 7387 - 2216


def wells_without_biology(n_wells=40, cells=40, seed=0):
    """Cells that know their well and nothing else; each well has a class at random."""
    rng = np.random.default_rng(seed)
    well = np.repeat(np.arange(n_wells), cells)
    codes = (30 * rng.normal(size=(n_wells, 3)))[well] + 0.2 * rng.normal(size=(len(well), 3))
    return codes, rng.permutation(n_wells)[well] % 2, well


def test_groups_keep_the_wells_apart():
    codes, labels, well = wells_without_biology()
    by_cell = classifier_accuracy(codes, labels, repeats=4)
    assert by_cell.accuracy > 0.9 and by_cell.knn_accuracy > 0.95
    by_well = classifier_accuracy(codes, labels, repeats=4, groups=well)
    for accuracy in (by_well.accuracy, by_well.balanced_accuracy, by_well.knn_accuracy):
        assert accuracy < 0.7
    codes, labels = clusters([200, 200], distance=8.0)  # where there is biology, it is found
    assert classifier_accuracy(codes, labels, repeats=2, groups=np.arange(400) % 40).accuracy > 0.98


def test_halves_of_groups_are_disjoint_balanced_and_known():
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat(np.arange(30), rng.integers(5, 30, 30)))
    targets = groups % 3
    train, test = classifier_metric._halves_of_groups(targets, groups, 6, rng, "")
    for fitted, tested in zip(train, test, strict=True):
        assert not set(groups[fitted]) & set(groups[tested])
        assert len(set(fitted)) == len(fitted) and len(set(tested)) == len(tested)
        assert 0.35 < len(fitted) / len(groups) < 0.6 and len(tested) > 0.35 * len(groups)
        assert set(targets[tested]) <= set(targets[fitted])
        share = np.bincount(targets[tested]) / np.bincount(targets)
        assert (share > 0.25).all()


def test_a_class_of_one_group_is_trained_on_and_not_tested():
    codes, labels = clusters([100, 100, 30])
    groups = np.where(labels == 2, 99, np.arange(230) % 10 + 10 * labels)
    for weights in (False, True):
        found = classifier_accuracy(
            codes, labels, repeats=4, groups=groups, class_weights=weights, context="x: "
        )
        assert np.isnan(found.per_class["2"]) and found.per_class["0"] > 0.9
        assert found.report == (
            "x: class 2 has one group, which is kept for training, so it is not tested",
        )
    with pytest.raises(UserError, match="halves of whole groups leave nothing to test"):
        classifier_accuracy(codes, labels, groups=labels)
    with pytest.raises(UserError, match="`group`: all 230 cells are of one group"):
        classifier_accuracy(codes, labels, groups=["p"] * 230)


def test_groups_go_with_the_cells_of_a_task():
    codes, labels, well = wells_without_biology()
    table = pd.DataFrame({"drug": labels.astype(str)})
    table.loc[:99, "drug"] = None
    found = m_scores(codes, table, [ClassifierTask("a", "drug")], groups=well, repeats=2)["a"]
    assert found.accuracy < 0.75 and found.n_cells == 1500


def test_accuracy_across_plates_sees_no_cell_of_the_same_plate():
    """The class shifts with the plate: it is read within a plate, and not across."""
    rng = np.random.default_rng(0)
    plate, label = rng.integers(0, 4, 800), rng.integers(0, 2, 800)
    biology = rng.normal(size=(800, 2)) + 8 * np.column_stack([label, label])
    found, std, n_cells, report = accuracy_across_plates(biology, label, plate)
    assert found > 0.98 and n_cells == 800 and std < 0.02 and report == ()
    batch = np.column_stack([10 * (label ^ (plate % 2)), 10.0 * plate])
    batch += rng.normal(size=batch.shape)
    assert accuracy_across_plates(batch, label, plate)[0] < 0.6
    assert classifier_accuracy(batch, label, repeats=2).knn_accuracy > 0.95
    rare = np.where((plate == 2) & (label == 1), 2, label)  # a class of one plate
    found, _, n_cells, report = accuracy_across_plates(biology, rare, plate)
    assert n_cells == 800 - (rare == 2).sum() and "2 (1 plate)" in report[0]
    missing = pd.Series(label, dtype=object).where(plate != 3, None)
    assert accuracy_across_plates(biology, missing, plate)[2] == (plate != 3).sum()
    with pytest.raises(UserError, match="no class lies on two plates"):
        accuracy_across_plates(biology, plate, plate)
