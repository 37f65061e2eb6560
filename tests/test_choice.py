"""Choosing between trained models without labels, on codes whose worth is known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from quantitative_metrics import choice
from quantitative_metrics.choice import Attempt, best_seed, best_way, compare

CELLS, SEEN = 600, 200


def attempt_of(name, codes, noise=0.1, seed=0):
    """An attempt whose views differ from each other by this much noise."""
    rng = np.random.default_rng(seed + 1)
    views = tuple(codes[:SEEN] + noise * rng.normal(size=codes[:SEEN].shape) for _ in range(2))
    return Attempt(name, seed, codes, views, steps=500, seconds=1.0, folder=Path(name))


@pytest.fixture(scope="module")
def features():
    return np.random.default_rng(0).normal(size=(CELLS, 3))


@pytest.fixture(scope="module")
def attempts(features):
    random = np.random.default_rng(1).normal(size=(CELLS, 3))
    half = np.column_stack([features[:, :2], random[:, 0]])
    return [
        attempt_of("random", random),
        attempt_of("half", half),
        attempt_of("all", features),
        attempt_of("by orientation", features, noise=30.0),
    ]


def test_criteria_of_known_codes(features, attempts):
    table = compare(attempts, features).set_index("name")
    kept = table["neighbours"]
    assert kept["all"] == pytest.approx(1 - 25 / (CELLS - 1))  # every neighbour, less chance
    assert abs(kept["random"]) < 0.02
    assert 0.05 < kept["half"] < 0.5 * kept["all"]
    information = table["view_information"]
    assert information["all"] == pytest.approx(3 * 0.5 * np.log(1 / (1 - (1 / 1.01) ** 2)), rel=0.1)
    assert abs(information["by orientation"]) < 0.2


def test_neighbours_decide_between_ways(features, attempts):
    table = compare(attempts[:3], features)
    assert table["name"][best_way(table)] == "all"
    assert table["name"][best_way(table[:2])] == "half"


def test_information_decides_between_seeds():
    table = pd.DataFrame({"view_information": [2.1, 2.4, 2.3], "neighbours": [0.3, 0.1, 0.5]})
    assert best_seed(table) == 1


def test_the_choice_is_written_and_read(tmp_path, features, attempts):
    ways, seeds = attempts[:3], [attempt_of("all", features, seed=s) for s in range(2)]
    tables = [compare(stage, features) for stage in (ways, seeds)]
    choice.write(tmp_path, [(tables[0], ways, ways[2]), (tables[1], seeds, seeds[1])], features)
    figures, shown = choice.read(tmp_path)
    assert figures[0][1].stat().st_size > 10_000
    of_ways, of_seeds = (table for _, table in shown)
    assert list(of_ways.index) == ["random", "half", "all"]
    assert list(of_ways["chosen"]) == ["", "", "★"] and list(of_seeds["chosen"]) == ["", "★"]
    assert of_ways["neighbours among features"]["all"] == round(tables[0]["neighbours"][2], 3)


def test_seeds_that_agree_are_said_to_agree(features):
    turned = features[:, [1, 2, 0]] * [1, -1, 1]
    seeds = [attempt_of("all", features), attempt_of("all", turned, seed=1)]
    _, said = choice.notes(seeds[0], seeds, seeds[0])
    assert "share 100%" in said and "distance 0.00" in said
