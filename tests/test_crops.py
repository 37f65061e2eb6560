"""Crops larger than the input keep their shape, and features are measured on their own pixels."""

import numpy as np
import pandas as pd
import pytest
import tifffile

from util.cell_features import features_of, hand_crafted_features, measure_features
from util.crops import Crops, CropWriter
from util.data_processing import CellSource, load_cells
from util.errors import DiskFullError
from util.fitting import Fitter, choose_scale, outliers
from util.simulate_cells import simulate_bbbc031

ZERO = np.zeros(2)


def ellipse(a, b, channels=2, level=200):
    """An ellipse of half axes a (rows) and b in its bounding box: (C, H, W), 0 outside."""
    rows, columns = int(np.ceil(2 * a)) + 1, int(np.ceil(2 * b)) + 1
    y, x = np.mgrid[:rows, :columns]
    inside = ((y - (rows - 1) / 2) / a) ** 2 + ((x - (columns - 1) / 2) / b) ** 2 <= 1
    return np.where(inside, level, 0).astype(np.uint8)[None].repeat(channels, 0)


def fill(crops, size=32, fit="scale", folder=None, padding=ZERO):
    inputs = np.empty((len(crops), len(padding), size, size), crops[0].dtype)
    writer = CropWriter(inputs, padding, fit, folder)
    for crop in crops:
        writer.add(crop)
    return inputs, *writer.finish()


def extent(image):
    """Height and width of what is not 0, at a quarter of the largest value."""
    seen = image.max(axis=0) > image.max() / 4
    return np.array([np.ptp(np.flatnonzero(seen.any(axis=a))) + 1 for a in (1, 0)])


@pytest.mark.parametrize("size", [32, 64])
def test_one_factor_for_all_keeps_shapes_and_sizes(size):
    axes = [(40, 20), (20, 40), (12, 12), (8, 30)]
    inputs, originals, notes = fill([ellipse(*a) for a in axes], size)
    scale = size / 81
    for image, half in zip(inputs, axes, strict=True):
        np.testing.assert_allclose(extent(image), scale * (2 * np.array(half) + 1), atol=1.5)
    assert len(originals) == 4 and f"{scale:.3f}" in notes[0] and "81 pixels" in notes[0]


def test_squeeze_does_what_was_done_before():
    crops = [ellipse(40, 20), ellipse(10, 12)]
    inputs, _, notes = fill(crops, fit="squeeze")
    for image, crop in zip(inputs, crops, strict=True):
        np.testing.assert_array_equal(image, Fitter(32, ZERO)(crop))
    assert extent(inputs[0]).tolist() == [32, 32] and "squeezed" in notes[0]


@pytest.mark.parametrize("fit", ["scale", "squeeze"])
def test_crops_that_fit_stay_as_they_are(fit):
    whole = np.full((2, 32, 32), 9, np.uint8)  # as large as the input, and no larger
    crops = [ellipse(10, 12), ellipse(5, 15), whole]
    inputs, originals, notes = fill(crops, fit=fit)
    np.testing.assert_array_equal(inputs[2], whole)
    assert originals is None and notes == []
    np.testing.assert_array_equal(inputs[0], Fitter(32, ZERO)(crops[0]))


@pytest.mark.parametrize("first_larger", [0, 2, 5])
@pytest.mark.parametrize("on_disk", [True, False])
def test_originals_come_back_whatever_the_order(first_larger, on_disk, tmp_path):
    rng = np.random.default_rng(0)
    shapes = [(9, 14), (32, 32), (31, 8), (20, 21), (1, 3)]
    shapes.insert(first_larger, (50, 20))
    crops = [rng.integers(0, 65536, (2, *shape), dtype=np.uint16) for shape in shapes]
    _, originals, _ = fill(crops, folder=tmp_path if on_disk else None, padding=np.array([7, 9]))
    for crop, back in zip(crops, originals, strict=True):
        np.testing.assert_array_equal(back, crop)
    some = originals.subset(np.array([4, 1]))
    np.testing.assert_array_equal(some[0], crops[4])
    assert some.fingerprint() != originals.fingerprint() != ""
    padded = originals.padded([first_larger], 64)[0]
    assert padded[:, 0, 0].tolist() == [7, 9] and padded.shape == (2, 64, 64)


@pytest.mark.parametrize("n_cells", [2, 10, 100, 1000])
def test_one_huge_crop_does_not_make_all_others_small(n_cells):
    shapes = np.full((n_cells, 2), (40, 30))
    shapes[-1] = (900, 300)
    assert choose_scale(shapes, 64) == 1.0 and choose_scale(shapes, 32) == 32 / 40
    assert outliers(shapes).sum() == 1
    huge = Fitter(64, np.zeros(1), 1.0)(np.full((1, 900, 300), 9, np.uint8))
    assert extent(huge).tolist() == [64, 21]  # alone, but not squeezed


def test_the_huge_crop_is_counted():
    inputs, _, notes = fill([ellipse(10, 10)] * 9 + [ellipse(200, 90)])
    np.testing.assert_array_equal(inputs[0], Fitter(32, ZERO)(ellipse(10, 10)))
    assert len(notes) == 1 and "1 crops of up to 401 pixels" in notes[0]


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("util.crops.Path.open", full)
    with pytest.raises(DiskFullError, match="no space left"):
        fill([ellipse(40, 20)], folder=tmp_path)


def measured(cells):
    return features_of(
        cells.images,
        cells.masked,
        originals=cells.originals,
        channel_names=cells.channels,
        cache_dir=cells.cache,
        progress=False,
    )[0]


@pytest.fixture
def ellipses(tmp_path):
    """A folder of ellipses larger than 32 pixels, and their half axes in the order of the files."""
    half = [(20 + 3 * i, 60 - 4 * i) for i in range(10)] + [(14, 15)]
    (tmp_path / "set").mkdir()
    for i, (a, b) in enumerate(half):
        image = ellipse(a, b, 3, level=50 + i).transpose(1, 2, 0)
        tifffile.imwrite(tmp_path / "set" / f"c{i:02d}.tif", image, photometric="rgb")
    return tmp_path / "set", np.array(half)


@pytest.mark.parametrize("fit", ["scale", "squeeze"])
def test_features_of_larger_ellipses_are_true(ellipses, fit):
    folder, half = ellipses
    cells = load_cells(CellSource(str(folder), image_size=32, fit=fit), progress=False)
    table = measured(cells)
    np.testing.assert_allclose(table["AreaShape_Area"], np.pi * half.prod(axis=1), rtol=0.02)
    for name, axis in (
        ("MajorAxisLength", half.max(axis=1)),
        ("MinorAxisLength", half.min(axis=1)),
    ):
        np.testing.assert_allclose(table[f"AreaShape_{name}"], 2 * axis, rtol=0.02)
    total = [c[0].sum() / 255 for c in (tifffile.imread(f).T for f in sorted(folder.glob("*.tif")))]
    np.testing.assert_allclose(table[f"Intensity_IntegratedIntensity_{cells.channels[0]}"], total)


@pytest.mark.parametrize("fit", ["scale", "squeeze"])
def test_features_of_larger_simulated_cells_are_true(fit):
    crops, _ = simulate_bbbc031(60, seed=3)
    source = CellSource(simulated_cells=60, simulated_seed=3, image_size=32, fit=fit)
    cells = load_cells(source)
    table, _ = measure_features(
        cells.images, True, originals=cells.originals, channel_names=cells.channels, progress=False
    )
    sides = np.array([max(crop.shape[:2]) for crop in crops])
    assert (sides > 32).mean() > 0.9
    area = [(crop.max(axis=2) > 0).sum() for crop in crops]
    np.testing.assert_allclose(table["AreaShape_Area"], area, rtol=0.02)
    for c, channel in enumerate(cells.channels):
        total = [crop[..., c].sum() / 255 for crop in crops]
        name = f"Intensity_IntegratedIntensity_{channel}"
        np.testing.assert_allclose(table[name], total, rtol=0.02)
    box = [crop.shape[0] * crop.shape[1] for crop in crops]
    np.testing.assert_allclose(table["AreaShape_BoundingBoxArea"], box, rtol=0.02)


def test_a_feature_depends_on_the_cell_alone_and_follows_its_row():
    axes = [(40, 20), (10, 12), (25, 70), (16, 16), (30, 31)]
    crops = [ellipse(*a) for a in axes]
    inputs, originals, _ = fill(crops)
    all_of_them, _ = measure_features(inputs, True, originals=originals, progress=False, n_jobs=1)
    for row in range(len(crops)):
        alone = originals.subset(np.array([row]))
        one, _ = measure_features(inputs[:1], True, originals=alone, progress=False, n_jobs=1)
        pd.testing.assert_series_equal(one.iloc[0], all_of_them.iloc[row], check_names=False)


def test_windows_of_the_field_are_measured_at_their_own_size(tmp_path):
    rng = np.random.default_rng(0)
    windows, area = [], []
    for i in range(6):
        y, x = np.mgrid[:90, :70]
        inside = ((y - 45) / (20 + 2 * i)) ** 2 + ((x - 35) / 18) ** 2 <= 1
        windows.append(np.where(inside, 180, 20) + rng.integers(0, 6, (90, 70)))
        area.append(inside.sum())
    np.save(tmp_path / "windows.npy", np.array(windows, np.uint8)[..., None])
    cells = load_cells(CellSource(str(tmp_path / "windows.npy"), image_size=32), progress=False)
    assert not cells.masked and cells.images.shape[-1] == 32
    np.testing.assert_allclose(measured(cells)["AreaShape_Area"], area, rtol=0.03)
    again = load_cells(CellSource(str(tmp_path / "windows.npy"), image_size=32), progress=False)
    assert isinstance(again.originals, Crops) and again.originals.dtype == np.uint8
    features, _ = hand_crafted_features("measure", again, list(again.table["Unique_ID"]))
    assert len(features) == 6
    assert len(again.subset(np.array([2, 0])).originals) == 2


def test_a_damaged_file_of_crops_is_made_again(ellipses):
    folder, _ = ellipses
    first = load_cells(CellSource(str(folder), image_size=32), progress=False)
    (pixels,) = first.cache.glob("*/originals.bin")
    with pixels.open("r+b") as file:
        file.truncate(100)
    again = load_cells(CellSource(str(folder), image_size=32), progress=False)
    np.testing.assert_array_equal(again.originals[3], ellipse(29, 48, 3, level=53))
