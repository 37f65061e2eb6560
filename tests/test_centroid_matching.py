import time

import numpy as np
import pandas as pd
import pytest

from util.errors import UserError
from util.raw.centroid_matching import (
    NO_IMAGE,
    TAKEN,
    TOO_FAR,
    link_objects,
    match_centroids,
    refuse_nonsense,
)

KEYS = ["Well", "Site"]


def table(*rows):
    return pd.DataFrame(rows, columns=["Well", "Site", "x", "y"])


def slow_match(cells, objects, max_distance):
    """Pair by pair, as one would do it on paper."""
    nearest = {}
    for i, cell in cells.iterrows():
        same = objects[(objects["Well"] == cell["Well"]) & (objects["Site"] == cell["Site"])]
        distance = np.hypot(same["x"] - cell["x"], same["y"] - cell["y"])
        if len(same) and distance.min() <= max_distance:
            nearest[i] = (distance.min(), distance.idxmin())
    found = np.full(len(cells), -1)
    for i, (distance, j) in nearest.items():
        rivals = [k for k, (d, other) in nearest.items() if other == j and (d, k) < (distance, i)]
        found[i] = -1 if rivals else j
    return found


def random_tables(rng, n_cells, n_objects):
    def draw(n):
        return pd.DataFrame(
            {
                "Well": rng.choice(["A01", "A02", "B07"], n),
                "Site": rng.integers(1, 4, n),
                "x": rng.uniform(0, 300, n),
                "y": rng.uniform(0, 300, n),
            }
        )

    return draw(n_cells), draw(n_objects)


@pytest.mark.parametrize("seed", range(5))
def test_is_the_slow_match(seed):
    cells, objects = random_tables(np.random.default_rng(seed), 150, 120)
    match = match_centroids(cells, objects, KEYS, 35)
    expected = slow_match(cells, objects, 35)
    assert (match.object == expected).all()
    assert 20 < (match.object >= 0).sum() < 150  # both fates happen
    assert ((match.reason == "") == (expected >= 0)).all()
    used = match.object[match.object >= 0]
    assert len(set(used)) == len(used)


def test_reasons():
    cells = table(("A01", 1, 0, 0), ("A01", 1, 50, 0), ("A01", 1, 3, 0), ("A02", 1, 0, 0))
    objects = table(("A01", 1, 1, 0), ("A01", 2, 50, 0))
    match = match_centroids(cells, objects, KEYS, 35)
    assert list(match.reason) == ["", TOO_FAR.format(35), TAKEN, NO_IMAGE]
    assert list(match.object) == [0, -1, -1, -1]


def test_the_largest_distance_itself_is_near_enough():
    cells = table(("A01", 1, 0, 0), ("A01", 2, 0, 0))
    objects = table(("A01", 1, 21, 28), ("A01", 2, 21, 28.001))  # 35 and a little more
    assert list(match_centroids(cells, objects, KEYS, 35).object) == [0, -1]


def test_a_cell_does_not_take_the_second_nearest():
    cells = table(("A01", 1, 0, 0), ("A01", 1, 8, 0))
    objects = table(("A01", 1, 1, 0), ("A01", 1, 30, 0))
    assert list(match_centroids(cells, objects, KEYS, 35).object) == [0, -1]


def test_objects_without_a_centre_are_nobodys():
    cells, objects = table(("A01", 1, 0, 0)), table(("A01", 1, np.nan, 0), ("A01", 1, 9, 0))
    assert list(match_centroids(cells, objects, KEYS, 35).object) == [1]
    with pytest.raises(UserError, match="1 cells of the ground truth have no position"):
        match_centroids(objects[:1], objects, KEYS, 35)
    with pytest.raises(UserError, match="max_distance = 0"):
        match_centroids(cells, objects, KEYS, 0)


def test_swapped_columns_are_told_from_other_nonsense():
    rng = np.random.default_rng(0)
    objects = pd.DataFrame({"Well": "A01", "Site": 1, "x": rng.uniform(0, 900, 40)})
    objects["y"] = rng.uniform(0, 900, 40)
    swapped = objects.rename(columns={"x": "y", "y": "x"})
    match = match_centroids(swapped, objects, KEYS, 35)
    with pytest.raises(UserError, match=r"truth.csv: only \d+ of 40 .* but 40 .* swapped"):
        refuse_nonsense(match, swapped, objects, KEYS, 35, "truth.csv")
    elsewhere = objects.assign(x=objects["x"] + 5000)
    match = match_centroids(elsewhere, objects, KEYS, 35)
    with pytest.raises(UserError, match="none of 40 cells"):
        refuse_nonsense(match, elsewhere, objects, KEYS, 35, "truth.csv")
    refuse_nonsense(match_centroids(objects, objects, KEYS, 35), objects, objects, KEYS, 35, "")


def test_link_objects():
    cells = table(("A01", 1, 0, 0), ("A01", 1, 90, 90)).assign(name=["a", "b"])
    objects = table(("A01", 1, 5, 5), ("A01", 1, 1, 2)).assign(ImageNumber=7, ObjectNumber=[3, 4])
    linked = link_objects(cells, objects, match_centroids(cells, objects, KEYS, 35))
    first = linked.iloc[0]
    assert (first["CP_ImagerNumber"], first["CP_ObjectNumber"]) == (7, 4)
    assert (first["CP_x"], first["CP_y"], first["name"]) == (1, 2, "a")
    assert linked.iloc[1][["CP_ImagerNumber", "CP_ObjectNumber", "CP_x"]].isna().all()


def test_310000_cells_in_seconds():
    rng = np.random.default_rng(0)
    n_cells = 310_000
    cells = pd.DataFrame(
        {
            "Well": rng.choice([f"{row}{column:02d}" for row in "ABCDEFGH" for column in range(48)]
                               , n_cells),
            "Site": rng.integers(1, 33, n_cells),
            "x": rng.uniform(0, 1360, n_cells),
            "y": rng.uniform(0, 1024, n_cells),
        }
    )  # fmt: skip
    order = rng.permutation(n_cells)
    objects = cells.iloc[order].reset_index(drop=True)
    start = time.perf_counter()
    match = match_centroids(cells, objects, KEYS, 35)
    assert time.perf_counter() - start < 30  # about 1 s; the minute asked for is on two cores
    assert (order[match.object] == np.arange(n_cells)).all()
