import numpy as np
import pytest
from raw_sets import DATA
from skimage.draw import disk, ellipse

from util.raw.segmentation import (
    cut_off,
    drop_small,
    foreground,
    grow_cells,
    masked_crop,
    object_table,
    seeds_at,
    split_touching,
    window,
)


def discs(*places, radius=10, shape=(80, 100)):
    mask = np.zeros(shape, bool)
    for place in places:
        mask[disk(place, radius + 0.5, shape=shape)] = True
    return mask


def test_touching_discs_are_parted_and_no_others():
    mask = discs((20, 20), (20, 38), (60, 70))
    labels = split_touching(mask, diameter=20, min_area=50)
    assert labels.max() == 3
    assert labels[20, 20] != labels[20, 38]
    found = object_table(labels)
    assert sorted(np.round(found["y"]).astype(int)) == [20, 20, 60]
    long = np.zeros((60, 60), bool)
    long[ellipse(30, 30, 10, 17)] = True  # elongated, but one
    assert split_touching(long, diameter=24, min_area=50).max() == 1


def test_holes_are_filled_and_specks_dropped():
    mask = discs((20, 20), (60, 70))
    mask[20, 18:22] = False
    mask[5, 90:93] = True
    labels = split_touching(mask, diameter=20, min_area=50)
    assert labels.max() == 2 and labels[20, 20] > 0 and labels[5, 91] == 0


def test_cells_meet_half_way_and_stay_in_the_mask():
    seeds = np.zeros((20, 41), np.int32)
    seeds[10, 10], seeds[10, 30] = 7, 3
    mask = np.zeros(seeds.shape, bool)
    mask[5:16] = True
    labels = grow_cells(seeds, mask)
    assert (labels[5:16, :20] == 7).all() and (labels[5:16, 21:] == 3).all()
    assert (labels[~mask] == 0).all()


def test_seeds_keep_their_number_and_the_nearer_one_wins():
    labels = seeds_at(np.array([10.0, 14.4, 500]), np.array([5.0, 5, 5]), (12, 30), radius=4)
    assert labels[5, 10] == 1 and labels[5, 14] == 2 and labels.max() == 2
    assert labels[5, 11] == 1 and labels[5, 13] == 2 and labels[5, 6] == 1 and labels[5, 5] == 0


def test_threshold_parts_two_levels():
    image = np.where(discs((30, 30)), 200, 20) + np.random.default_rng(0).normal(0, 3, (80, 100))
    found = foreground(image)
    # Smoothing takes away the noise and moves the edge by a pixel or two.
    assert found[discs((30, 30), radius=9)].all() and not found[~discs((30, 30), radius=12)].any()
    assert not foreground(np.full((5, 5), 9)).any()
    np.testing.assert_array_equal(foreground(image, threshold=100, smoothing=0), image > 100)


def test_table_crop_window():
    labels = np.zeros((30, 40), np.int32)
    labels[3:6, 10:15] = 2
    labels[20:, 30:32] = 5
    labels[4, 12] = 0
    field = np.random.default_rng(0).integers(1, 99, (30, 40, 2))
    table = object_table(labels)
    row = table.iloc[0]
    assert table["number"].tolist() == [2, 5]
    assert (row["x"], row["y"], row["area"]) == (12, 4, 14)
    crop = masked_crop(field, labels, row)
    assert crop.shape == (3, 5, 2) and (crop[1, 2] == 0).all()
    np.testing.assert_array_equal(crop[0], field[3, 10:15])
    assert cut_off(labels).tolist() == [5]
    assert drop_small(labels, 15).max() == 1 and (drop_small(labels, 15) > 0).sum() == 20
    np.testing.assert_array_equal(window(field, 20, 15, 8), field[11:19, 16:24])
    assert window(field, 3.4, 15, 8) is None and window(field, 36.6, 15, 8) is None
    assert window(field, 4, 4, 8).shape == (8, 8, 2)


def test_cells_of_a_field_are_found_with_their_areas():
    """20 ellipses on black, each with a dark hole, a pair of them touching; and specks."""
    rng = np.random.default_rng(0)
    field, areas = np.zeros((400, 500), np.uint8), []
    y, x = np.indices(field.shape)
    for i in range(20):
        row, column = 45 + 100 * (i // 5), 45 + 100 * (i % 5)
        if i == 1:
            column -= 50  # beside the first one
        a, b = rng.uniform(22, 25), rng.uniform(22, 25)
        inside = ((y - row) / a) ** 2 + ((x - column) / b) ** 2 <= 1
        field[inside] = rng.integers(40, 255)
        field[row : row + 2, column : column + 2] = 0
        areas.append(inside.sum())
    field[1:6, 1:6] = field[392:397, 380:385] = 255
    labels = split_touching(foreground(field, 0, 0), diameter=50, min_area=500)
    assert labels.max() == 20
    found = np.sort(object_table(labels)["area"].to_numpy())
    assert np.abs(found - np.sort(areas)).max() <= 3


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")
def test_the_real_field_of_bbbc031_holds_40_cells():
    from scipy import ndimage
    from skimage.io import imread

    field = imread(DATA / "bbbc031" / "ProcessPlateSparse_wA03_s08_z1_t1_CELLMASK.png")
    labels = split_touching(foreground(field.max(axis=-1), 0, 0), diameter=60, min_area=500)
    assert labels.max() == 40
    parts, _ = ndimage.label(field.any(axis=-1), np.ones((3, 3)))
    areas = np.bincount(parts.ravel())[1:]
    # Holes of the outlines may be filled, nothing else may change.
    found = np.sort(object_table(labels)["area"].to_numpy())
    assert np.abs(found - np.sort(areas[areas > 500])).max() <= 3
