"""The Horvath-like set: layout, truth against pixels, classes that are distinct but overlap."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from skimage import io
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score

from util.errors import UserError
from util.simulators.common import measure_objects, share_out
from util.simulators.horvath import (
    CLASS_SIZES,
    CLASSES,
    draw_traits,
    render_horvath_cells,
    write_horvath_raw,
)
from util.simulators.rendering import in_one_piece


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Seven full wells and an empty one on two plates, a tenth of whose cells are missed."""
    out = tmp_path_factory.mktemp("raw") / "Horvath"
    write_horvath_raw(out, 7 * 28, seed=5, missed=0.1, n_plates=2)
    return out


@pytest.fixture(scope="module")
def classes():
    """60 cells of each class: features measured on their pictures, and the class."""
    rng = np.random.default_rng(1)
    label = np.repeat(np.arange(1, 9), 60)
    tiles = in_one_piece(render_horvath_cells(draw_traits(label, rng), rng))
    rows = [
        measure_objects(image, cell.astype(int)).assign(
            nucleus=nucleus.sum(),
            nucleus_solidity=measure_objects(image, nucleus.astype(int))["AreaShape_Solidity"],
        )
        for image, cell, nucleus in zip(*tiles, strict=True)
    ]
    return tiles, pd.concat(rows).assign(label=label)


def test_plates_lie_as_the_real_ones(raw):
    files = sorted(str(p.relative_to(raw)) for p in raw.glob("synthPlate*/*/*"))
    expected = [
        f"synthPlate00{plate}/{folder}/synthPlate00{plate}_wA0{column}.{suffix}"
        for plate in (1, 2)
        for folder, suffix in (("anal1", "png"), ("anal2", "class"))
        for column in (2, 3, 4, 5)
    ]
    assert files == expected
    crops = raw / "CellProfiler_Outputs" / "SingleWholeCellCroppedImages"
    folders = {str(path.relative_to(crops)) for path in crops.glob("*/*")}
    wells = [f"00{plate}_A0{column}" for plate in (1, 2) for column in (2, 3, 4, 5)]
    assert folders == {f"CroppedImages_{c}/{w}" for c in ("Red", "Green", "Blue") for w in wells}
    assert not list(crops.glob("*/002_A05/*"))  # the empty well


def test_class_files_give_y_first(raw):
    n_cells = 0
    for file in sorted(raw.glob("synthPlate*/anal2/*.class")):
        text = file.read_text()
        assert re.fullmatch(r"(\d+,\d+,[1-8]\n)*", text)
        image = io.imread(file.parents[1] / "anal1" / f"{file.stem}.png")
        assert image.shape == (800, 800, 3) and image.dtype == np.uint8
        labels, n = ndimage.label(image.any(axis=2), np.ones((3, 3)))
        rows = [line.split(",") for line in text.splitlines()]
        assert n == len(rows)
        if rows:
            y, x, _ = np.array(rows, int).T
            assert sorted(labels[y, x]) == list(range(1, n + 1))
            nucleus = image[y, x]
            assert (nucleus[:, 2] >= nucleus[:, 1]).mean() > 0.9  # blue
        n_cells += n
    assert n_cells == 7 * 28


def test_truth_repeats_the_class_files_and_finds_the_crops(raw):
    truth = pd.read_csv(raw / "truth.csv")
    assert truth["Unique_ID"].is_unique
    crops = raw / "CellProfiler_Outputs" / "SingleWholeCellCroppedImages"
    for (plate, well), cells in truth.groupby(["Plate", "Well"]):
        stem = f"synthPlate{plate:03d}_w{well}"
        file = raw / f"synthPlate{plate:03d}" / "anal2" / f"{stem}.class"
        listed = np.loadtxt(file, delimiter=",", dtype=int)
        assert (cells["row"] == np.arange(len(cells))).all()
        np.testing.assert_array_equal(cells[["GT_pos_y", "GT_pos_x", "GT_label"]], listed)
        image = io.imread(raw / f"synthPlate{plate:03d}" / "anal1" / f"{stem}.png")
        labels, _ = ndimage.label(image.any(axis=2), np.ones((3, 3)))
        boxes = ndimage.find_objects(labels)
        for row in cells.dropna().itertuples():
            name = f"CellClass_{row.GT_label}_{plate}_{well}_id{row.row}.tiff"
            assert row.Unique_ID == name
            label = labels[row.GT_pos_y, row.GT_pos_x]
            box = boxes[label - 1]
            expected = np.where(labels[box] == label, image[box][..., 1], 0)
            number = f"SplitCellBodies_{row.ObjectNumber:.0f}.png"
            crop = io.imread(crops / "CroppedImages_Green" / f"{plate:03d}_{well}" / number)
            np.testing.assert_array_equal(crop, expected)


def test_spreadsheet_has_plate_and_well(raw):
    name = "Quantitative_Outputs/200602_Horvath_Complex_AnalysisSplitCellBodies.csv"
    table = pd.read_csv(raw / "CellProfiler_Outputs" / name, dtype={"Metadata_Plate": str})
    truth = pd.read_csv(raw / "truth.csv").dropna()
    assert set(table["Metadata_Plate"]) == {"001", "002"}
    both = table.merge(truth, on=["ImageNumber", "ObjectNumber"], validate="one_to_one")
    assert len(both) == len(truth) == len(table)
    assert (both["Metadata_Plate"].astype(int) == both["Plate"]).all()
    assert (both["Metadata_Well"] == both["Well"]).all()


def test_a_share_of_the_cells_is_missed(raw):
    truth = pd.read_csv(raw / "truth.csv")
    lost = truth["ObjectNumber"].isna()
    assert 0.03 < lost[truth["GT_label"] < 7].mean() < 0.2


def test_imbalance_is_that_of_the_real_subsample():
    sizes = share_out(sum(CLASS_SIZES.values()), CLASS_SIZES)
    # What 3 % missed cells leave of each class, and at most 2,500 of that.
    kept = [min(2500, round(0.97 * sizes[label])) for label in range(1, 7)]
    np.testing.assert_allclose(kept, [2500, 2500, 2500, 850, 350, 210], rtol=0.02)
    assert max(sizes[7], sizes[8]) < sizes[6] / 2


def test_classes_look_as_they_are_described(classes):
    _, table = classes
    mean = table.groupby("label").mean()
    six = mean.loc[1:6]
    assert six["AreaShape_Eccentricity"].idxmax() == 2
    assert six["AreaShape_Area"].idxmax() == six["nucleus"].idxmax() == 3
    assert six["nucleus_solidity"].idxmin() == 4
    assert six["AreaShape_Area"].idxmin() == six["Intensity_MaxIntensity_Blue"].idxmax() == 5
    assert six["Intensity_StdIntensity_Red"].idxmax() == 6
    assert mean["AreaShape_Area"].idxmin() == 7
    assert mean["AreaShape_Solidity"].idxmin() == 8


def test_classes_are_distinct_but_overlap(classes):
    _, table = classes
    real = table[table["label"] < 7]
    forest = RandomForestClassifier(60, random_state=0)
    accuracy = cross_val_score(forest, real.drop(columns="label"), real["label"], cv=4).mean()
    assert 0.7 < accuracy < 0.97


def test_cells_fit_their_tiles(classes):
    (_, cell, nucleus), table = classes
    touching = np.any([cell[:, 0], cell[:, -1], cell[:, :, 0], cell[:, :, -1]], axis=(0, 2))
    assert touching[table["label"] < 7].mean() < 0.01
    assert (cell | ~nucleus).all() and nucleus[:, 48, 48].mean() > 0.97


def test_traits_stay_within_the_span_of_plain_and_class():
    rng = np.random.default_rng(0)
    for label in (1, 2, 6, 8):
        traits = draw_traits(np.full(4000, label), rng).mean(axis=0)
        share = 1.0 if label > 6 else 4.0 / 5.5  # mean of the beta law
        expected = CLASSES.loc[1] + share * (CLASSES.loc[label] - CLASSES.loc[1])
        # Some traits are cut off at their bounds, which moves their means a little.
        np.testing.assert_allclose(traits, expected, rtol=0.05, atol=0.08)


def test_same_seed_same_bytes(raw, tmp_path):
    again, other = tmp_path / "again", tmp_path / "other"
    write_horvath_raw(again, 7 * 28, seed=5, missed=0.1, n_plates=2)
    write_horvath_raw(other, 28, seed=6)
    files = [path for path in raw.rglob("*") if path.is_file()]
    for file in files:
        assert file.read_bytes() == (again / file.relative_to(raw)).read_bytes()
    name = "synthPlate001/anal1/synthPlate001_wA02.png"
    assert (other / name).read_bytes() != (raw / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"n_cells": 0}, "n_cells = 0"),
        ({"n_cells": 10_000, "n_plates": 1}, "n_plates = 1"),
        ({"n_cells": 10, "n_plates": 0}, "n_plates = 0: an integer of 1 or more"),
        ({"n_cells": 10, "n_plates": 1.5}, "n_plates = 1.5: an integer of 1 or more"),
        ({"n_cells": 10, "missed": 2}, "missed = 2"),
    ],
)
def test_bad_arguments_are_named(tmp_path, arguments, named):
    with pytest.raises(UserError, match=named):
        write_horvath_raw(tmp_path / "raw", **arguments)
    assert not list(tmp_path.iterdir())
