"""Training, validation and subsets: stratified, seeded, and every class keeps a cell."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
import tifffile

from util.data_processing import CellSource, load_cells
from util.errors import UserError
from util.splitting import deal_out, group_numbers, split_cells


def load(dataset, metadata=None, **more):
    return load_cells(CellSource(str(dataset), metadata, **more), progress=False)


@pytest.fixture
def folder(tmp_path):
    """Eight cells of class A, four of class B, some larger than 64 pixels, and a CSV."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(12):
        target = tmp_path / "MySet" / ("A" if i < 8 else "B")
        target.mkdir(parents=True, exist_ok=True)
        image = rng.integers(1, 255, (50 + 3 * i, 60, 3), dtype=np.uint8)
        tifffile.imwrite(target / f"cell_{i}.tiff", image, photometric="rgb")
        rows.append({"Unique_ID": f"cell_{i}.tiff", "dose": i / 2})
    pd.DataFrame(rows).to_csv(tmp_path / "meta.csv", index=False)
    return tmp_path / "MySet"


def test_split_is_seeded_stratified_and_survives_rare_classes():
    labels = ["a"] * 100 + ["b"] * 20 + ["c"] * 2 + ["d"] + [None] * 7
    train, valid = split_cells(labels, len(labels), 0.15, 0)
    assert sorted([*train, *valid]) == list(range(130)) and len(valid) == round(0.15 * 130)
    counts = Counter(np.array(labels, object)[valid])
    assert counts["a"] in (15, 16) and counts["b"] == 3 and counts["d"] == 0
    np.testing.assert_array_equal(valid, split_cells(labels, len(labels), 0.15, 0)[1])
    assert not np.array_equal(valid, split_cells(labels, len(labels), 0.15, 1)[1])
    train, valid = split_cells([str(i) for i in range(10)], 10, 0.2, 0)  # only classes of one cell
    assert len(train) == 8 and len(valid) == 2
    with pytest.raises(UserError, match="at least 2"):
        split_cells(None, 2, 0.15, 0)


@pytest.mark.parametrize("number, of_a", [(6, 4), (9, 6), (3, 2), (11, 8), (12, 8)])
def test_a_subset_is_shared_out_over_the_classes(folder, number, of_a):
    cells = load(folder, subset=str(number))
    assert len(cells.table) == len(cells.images) == len(cells.originals) == number
    assert abs((cells.table["class"] == "A").sum() - of_a) <= 1
    again = load(folder, subset=str(number))
    assert again.fingerprint == cells.fingerprint
    everyone = load(folder)
    row = list(everyone.table["Unique_ID"]).index(cells.table["Unique_ID"][1])
    np.testing.assert_array_equal(cells.images[1], everyone.images[row])
    np.testing.assert_array_equal(cells.originals[1], everyone.originals[row])
    assert any(f"{number} of 12 cells" in note for note in cells.notes)


def test_a_subset_is_a_table_of_ids(folder, tmp_path):
    ids = tmp_path / "some.csv"
    first = load(folder).table["Unique_ID"][0]
    ids.write_text(f"Unique_ID\n{first}\ncell_5.tiff\n")
    assert load(folder, subset=str(ids)).table["Unique_ID"].tolist() == [first, "cell_5.tiff"]
    ids.write_text("Unique_ID\ncell_10.tiff\ncell_2.tiff\ncell_99.tiff\n")
    cells = load(folder, folder.parent / "meta.csv", subset=str(ids))
    assert set(cells.table["Unique_ID"]) == {"cell_10.tiff", "cell_2.tiff"}
    assert cells.table.set_index("Unique_ID").loc["cell_10.tiff", "dose"] == 5
    assert any("1 rows of" in note and "cell_99" in note for note in cells.notes)
    simulated = load("simulated", simulated_cells=30, subset="12")
    assert len(simulated.table) == 12


@pytest.mark.parametrize("subset", ["0", "13", "half", "none.csv", "-3"])
def test_a_subset_that_is_none_is_refused(folder, subset):
    with pytest.raises(UserError, match="`subset`"):
        load(folder, subset=subset)


def counts_of(groups, valid):
    inside = np.zeros(len(groups), bool)
    inside[valid] = True
    return [inside[groups == group].mean() for group in np.unique(groups)]


@pytest.mark.parametrize("sizes", [[20] * 30, list(range(5, 60, 3)), [300, 20, 20, 20, 20]])
def test_validation_draws_whole_groups_near_the_share(sizes):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    groups = np.random.default_rng(0).permutation(groups)
    for seed in range(5):
        train, valid = split_cells(None, len(groups), 0.15, seed, groups)
        assert sorted([*train, *valid]) == list(range(len(groups)))
        assert set(counts_of(groups, valid)) == {0.0, 1.0}
        assert abs(len(valid) - 0.15 * len(groups)) <= np.median(sizes) / 2
    again = split_cells(None, len(groups), 0.15, 4, groups)[1]
    np.testing.assert_array_equal(valid, again)
    draws = {tuple(split_cells(None, len(groups), 0.15, seed, groups)[1]) for seed in range(9)}
    assert len(draws) > 1


def test_groups_of_one_class_each_share_the_validation_set():
    wells = np.repeat(np.arange(40), 10)
    labels = [f"drug {well % 4}" for well in wells]
    _, valid = split_cells(labels, 400, 0.2, 0, wells)
    assert len(valid) == 80
    assert set(Counter(np.array(labels)[valid]).values()) == {20}


def test_large_groups_leave_one_on_each_side():
    for fraction in (0.05, 0.5, 0.95):
        train, valid = split_cells(None, 60, fraction, 0, ["p1"] * 30 + ["p2"] * 30)
        assert len(train) == len(valid) == 30
    with pytest.raises(UserError, match="`group`: all 9 cells are of one group"):
        split_cells(None, 9, 0.2, 0, ["p1"] * 9)


def test_cells_without_a_group_stay_together():
    groups = ["a", None, "b", np.nan, "a", None]
    assert list(group_numbers(groups)) == [0, 1, 2, 1, 0, 1]
    assert list(group_numbers([3, 3, 1])) == [0, 0, 1]


def test_parts_are_equal_and_hold_whole_groups():
    rng = np.random.default_rng(0)
    assert set(np.bincount(deal_out(None, 103, 4, rng))) == {25, 26}
    groups = np.repeat(np.arange(20), rng.integers(1, 40, 20))
    parts = deal_out(groups, len(groups), 4, rng)
    assert all(len(set(parts[groups == g])) == 1 for g in range(20))
    assert np.ptp(np.bincount(parts)) < 40
    assert len(set(deal_out(["a", "a", "b"], 3, 20, rng))) == 2
    halves = {tuple(deal_out(groups, len(groups), 2, rng)) for _ in range(10)}
    assert len(halves) > 5
