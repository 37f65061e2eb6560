"""The warning that outlines follow a stain: when it is due, and when not."""

import numpy as np
import pandas as pd
import pytest

from util.raw.outline_checks import AREA, PREFIX, measure_stain, outline_warnings

STAIN = f"{PREFIX}GFP"


def cells_of(area, stain, fields):
    return pd.DataFrame({"well": fields, AREA: area, STAIN: stain})


@pytest.mark.parametrize("seed", range(5))
def test_unrelated_cells_are_no_reason_to_warn(seed):
    rng = np.random.default_rng(seed)
    fields = np.repeat(list("ABCDEFGH"), 40)
    area, stain = rng.lognormal(7, 0.3, 320), rng.lognormal(6, 0.3, 320)
    assert outline_warnings(cells_of(area, stain, fields), ["well"]) == []
    bright = stain * np.repeat(np.linspace(1, 4, 8), 40)  # a dose response at the same area
    assert outline_warnings(cells_of(area, bright, fields), ["well"]) == []


def test_fields_whose_cells_shrink_with_the_stain():
    rng = np.random.default_rng(0)
    fields, dose = np.repeat(list("ABCDEFGH"), 10), np.repeat(np.linspace(1, 3, 8), 10)
    area, stain = 900 * dose * rng.lognormal(0, 0.1, 80), 300 * dose * rng.lognormal(0, 0.1, 80)
    [warning] = outline_warnings(cells_of(area, stain, fields), ["well"])
    assert "across 8 fields (Spearman" in warning and "the stain GFP" in warning
    assert outline_warnings(cells_of(area[::-1], stain, fields), ["well"]) == []  # they grow


def test_cells_of_one_field_that_differ_in_stain():
    level = np.random.default_rng(0).uniform(1, 3, 60)
    [warning] = outline_warnings(cells_of(500 * level, 300 * level, ["A"] * 60), ["well"])
    assert "within fields (Spearman 1.00 over 60 cells)" in warning
    assert outline_warnings(cells_of(500 * level, 300 * level, ["A"] * 60), []) != []


def test_too_few_cells_and_equal_ones_say_nothing():
    few = cells_of([100, 200, 300], [1, 2, 3], ["A", "B", "C"])
    assert outline_warnings(few, ["well"]) == []
    assert outline_warnings(cells_of([100] * 40, [5] * 40, ["A"] * 40), ["well"]) == []
    assert outline_warnings(few.drop(columns=STAIN), ["well"]) == []
    assert outline_warnings(few.iloc[:0], ["well"]) == []


def test_the_stain_is_measured_beside_the_nucleus_above_the_background():
    y, x = np.mgrid[:60, :80]
    away = np.hypot(y - 30, x - 40)
    image = np.full((60, 80, 2), 100.0)
    image[away < 16, 1] += 50  # the cell
    image[away < 5, 1] += 1000  # a bright nucleus does not count
    labels = (away < 16).astype(int)
    objects = pd.DataFrame({"x": [40, 0], "y": [30, 0]})
    found = measure_stain(image, labels, objects, [1], diameter=10)
    assert found[0, 0] == pytest.approx(50) and found[1, 0] == pytest.approx(0)
