"""Replicate retrieval against copairs, a slow obvious reference, and known truths."""

import numpy as np
import pandas as pd
import pytest

from quantitative_metrics.replicate_retrieval import (
    DRAWS,
    expected_precision,
    mean_codes,
    profile_retrieval,
    replicate_retrieval,
)
from util.errors import UserError


def wells(n_wells, cells, strength, seed=0, n_plates=1, plate_effect=0.0, d=3):
    """Codes of cells in wells; the same well position on every plate shares a place."""
    rng = np.random.default_rng(seed)
    table = pd.MultiIndex.from_product(
        [range(n_plates), range(n_wells), range(cells)], names=["plate", "well", "cell"]
    ).to_frame(index=False)
    codes = rng.normal(size=(len(table), d))
    codes += strength * rng.normal(size=(n_wells, d))[table["well"]]
    codes += plate_effect * rng.normal(size=(n_plates, d))[table["plate"]]
    mixed = rng.permutation(len(table))
    return codes[mixed], table.iloc[mixed].reset_index(drop=True)


def by_hand(codes, replicates, plates, k, scope):
    """Share and average precision of each cell, one at a time."""
    shares, precisions = [], []
    for i in range(len(codes)):
        others = np.argsort(np.linalg.norm(codes - codes[i], axis=1), kind="stable")
        others = others[others != i]
        if scope == "within":
            others = others[plates[others] == plates[i]]
        elif scope == "across":
            others = others[plates[others] != plates[i]]
        hits = replicates[others] == replicates[i]
        if hits.any():
            shares.append(hits[: min(k, hits.sum())].mean())
            ranks = np.flatnonzero(hits) + 1
            precisions.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
    return np.mean(shares), np.mean(precisions), len(shares)


@pytest.mark.parametrize("seed, cells, k", [(0, 8, 5), (1, 3, 15), (2, 20, 15)])
def test_every_scope_agrees_with_a_loop_over_cells(seed, cells, k):
    codes, table = wells(6, cells, 1.0, seed, n_plates=3, plate_effect=0.5)
    found = replicate_retrieval(codes, table["well"], table["plate"], k=k)
    assert set(found.scopes) == {"all", "within", "across"}
    for scope, retrieval in found.scopes.items():
        expected = by_hand(codes, *(table[c].to_numpy() for c in ("well", "plate")), k, scope)
        assert (retrieval.share, retrieval.precision) == pytest.approx(expected[:2])
        assert retrieval.n_cells == expected[2]
        assert retrieval.share_error == retrieval.precision_error == 0


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("d", [3, 20])
def test_precisions_and_p_values_are_those_of_copairs(across, d, tmp_path):
    copairs = pytest.importorskip("copairs.map", reason="copairs is among the test requirements")
    codes, meta = wells(9, 4, 0.7, n_plates=2, plate_effect=0.3, d=d)
    meta = meta.astype(str)
    ap = copairs.average_precision(
        meta,
        codes,
        pos_sameby=["well"],
        pos_diffby=["plate"] if across else [],
        neg_sameby=[],
        neg_diffby=["well", "plate"] if across else ["well"],
        distance="euclidean",
        progress_bar=False,
    )
    plates = meta["plate"] if across else None
    cells = replicate_retrieval(codes, meta["well"], meta["plate"]).scopes
    ours = cells["across" if across else "all"]
    assert ours.precision == pytest.approx(ap["average_precision"].mean(), abs=1e-5)
    theirs = copairs.mean_average_precision(
        ap, ["well"], null_size=20_000, threshold=0.05, seed=0, progress_bar=False,
        cache_dir=tmp_path,
    ).set_index("well")  # fmt: skip
    found = profile_retrieval(codes, meta["well"], plates).classes.set_index("class")
    found, theirs = found.sort_index(), theirs.sort_index()
    assert list(found.index) == list(theirs.index)
    np.testing.assert_allclose(found["precision"], theirs["mean_average_precision"], atol=1e-5)
    p, known = found["p_value"], theirs["p_value"]
    assert (abs(p - known) < 4 * np.sqrt(known * (1 - known) / DRAWS) + 3 / DRAWS).all()
    np.testing.assert_allclose(
        found["corrected_p_value"], theirs["corrected_p_value"], atol=0.03, rtol=0.3
    )


@pytest.mark.parametrize("m, n", [(1, 1), (1, 5), (3, 9), (40, 40), (7, 200)])
def test_the_expected_precision_of_a_random_order(m, n):
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(4000):
        places = np.sort(rng.permutation(n)[:m]) + 1
        drawn.append(np.mean(np.arange(1, m + 1) / places))
    error = np.std(drawn) / np.sqrt(4000)
    assert expected_precision(np.array([m]), np.array([n]))[0] == pytest.approx(
        np.mean(drawn), abs=4 * error + 1e-9
    )


def test_codes_that_know_nothing_are_at_chance_and_known_wells_are_found():
    codes, table = wells(10, 30, 0.0)
    found = replicate_retrieval(codes, table["well"]).scopes["all"]
    assert found.chance_share == pytest.approx(29 / 299)
    assert found.share == pytest.approx(found.chance_share, abs=0.02)
    assert found.precision == pytest.approx(found.chance_precision, abs=0.02)
    codes, table = wells(10, 30, 30.0)
    found = replicate_retrieval(codes, table["well"]).scopes["all"]
    assert found.share > 0.99 and found.precision > 0.99


@pytest.mark.parametrize("ordered", [True, False])
def test_a_constant_code_is_at_chance_whatever_the_order_of_the_rows(ordered):
    labels = np.repeat(np.arange(10), 30)
    labels = labels if ordered else np.random.default_rng(0).permutation(labels)
    found = replicate_retrieval(np.ones((300, 3)), labels, labels % 2).scopes["all"]
    assert found.share == pytest.approx(found.chance_share, abs=0.03)
    assert found.precision == pytest.approx(found.chance_precision, abs=0.03)


def test_plate_effects_help_within_and_over_all_but_not_across():
    """Wells that are no biology: only their plate tells them apart."""
    codes, table = wells(4, 40, 0.0, n_plates=4, plate_effect=5.0)
    name = table["plate"].astype(str) + table["well"].astype(str)  # a well lies on one plate
    found = replicate_retrieval(codes, name, table["plate"])
    assert "across" not in found.scopes  # no well has a replicate on another plate
    assert found.scopes["all"].share > 2 * found.scopes["all"].chance_share
    within = found.scopes["within"]
    assert within.share == pytest.approx(within.chance_share, abs=0.03)
    across = replicate_retrieval(codes, table["well"], table["plate"]).scopes["across"]
    assert across.share == pytest.approx(across.chance_share, abs=0.03)


def test_mixing_is_one_by_chance_and_zero_apart():
    for sizes in ([100, 100], [250, 30, 20]):
        plates = np.repeat(np.arange(len(sizes)), sizes)
        rng = np.random.default_rng(0)
        mixed = replicate_retrieval(rng.normal(size=(len(plates), 3)), None, plates)
        assert mixed.mixing == pytest.approx(1, abs=0.1) and mixed.scopes == {}
        apart = rng.normal(size=(len(plates), 3)) + 100 * plates[:, None]
        assert replicate_retrieval(apart, None, plates).mixing == 0
        flat = replicate_retrieval(np.zeros((len(plates), 3)), None, plates)
        assert flat.mixing == pytest.approx(1, abs=0.15)
    codes = np.random.default_rng(1).normal(size=(30, 2))
    assert np.isnan(replicate_retrieval(codes, None, ["p"] * 30).mixing)
    assert np.isnan(replicate_retrieval(codes, np.arange(30) % 3).mixing)


def test_a_sample_of_cells_estimates_all_and_its_error():
    codes, table = wells(12, 40, 1.0, n_plates=2, plate_effect=1.0)
    whole = replicate_retrieval(codes, table["well"], table["plate"])
    off = []
    for seed in range(20):
        some = replicate_retrieval(codes, table["well"], table["plate"], sample=150, seed=seed)
        for scope, found in some.scopes.items():
            off.append((found.share - whole.scopes[scope].share) / found.share_error)
            off.append((found.precision - whole.scopes[scope].precision) / found.precision_error)
        off.append((some.mixing - whole.mixing) / some.mixing_error)
    assert 0.7 < np.std(off) < 1.4 and abs(np.mean(off)) < 0.4


def test_cells_without_a_replicate_or_a_plate():
    codes, table = wells(5, 10, 2.0, n_plates=2)
    well = table["well"].astype(object).where(table["well"] != 4, None)
    found = replicate_retrieval(codes, well, table["plate"])
    assert found.scopes["all"].n_cells == 80
    plate = table["plate"].astype(float)
    plate[:7] = np.nan
    found = replicate_retrieval(codes, table["well"], plate)
    assert found.scopes["across"].n_cells <= 93 < found.scopes["all"].n_cells == 100
    alone = replicate_retrieval(codes, np.arange(100))  # no cell has a replicate
    assert alone.scopes == {}


def test_profiles_are_the_means_of_their_cells():
    codes = np.arange(12.0).reshape(6, 2)
    table = pd.DataFrame({"well": ["b", "a", "b", None, "a", "c"], "plate": [1, 1, 1, 1, 2, 1]})
    profiles, labels = mean_codes(codes, table)
    assert labels.to_dict("list") == {"well": ["b", "a", "a", "c"], "plate": [1, 1, 2, 1]}
    np.testing.assert_allclose(profiles, [codes[[0, 2]].mean(0), codes[1], codes[4], codes[5]])


def test_retrieved_classes_are_those_with_an_effect():
    rng = np.random.default_rng(0)
    drug = np.repeat(np.arange(20), 6)
    effect = np.where(drug < 8, 12.0, 0.0)[:, None] * rng.normal(size=(20, 5))[drug]
    found = profile_retrieval(effect + rng.normal(size=(120, 5)), drug)
    significant = set(found.classes.query("corrected_p_value < 0.05")["class"])
    assert {0, 1, 2, 3, 4, 5, 6, 7} <= significant and len(significant) <= 9
    assert found.retrieved == len(significant) / 20 and found.n_profiles == 120
    null = profile_retrieval(rng.normal(size=(120, 5)), drug)
    assert null.retrieved <= 0.1 and null.precision == pytest.approx(null.chance, abs=0.03)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: replicate_retrieval(np.ones((2, 2)), [1, 1]), "replicates of 2 cells"),
        (lambda: replicate_retrieval(np.ones((5, 2)), [1] * 5, k=0), "k = 0"),
        (lambda: replicate_retrieval(np.ones((5, 2)), [1] * 4), "4 labels for 5 codes"),
        (lambda: replicate_retrieval(np.full((5, 2), np.nan), [1] * 5), "NaN"),
        (lambda: profile_retrieval(np.ones((2, 2)), [1, 1]), "2 profiles: at least 3"),
        (lambda: profile_retrieval(np.eye(4), [1, 2, 3, 4]), "no profile has another"),
        (lambda: profile_retrieval(np.eye(4), [1, 1, 2, 2], ["p"] * 4), "no profile has another"),
    ],
)
def test_what_cannot_be_ranked_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()
