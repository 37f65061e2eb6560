"""What the simulators share, against scipy, closed forms and slow references."""

import errno

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from skimage import io

from util.errors import UserError
from util.simulators.common import (
    CellProfilerOutputs,
    blank_field,
    compose_field,
    measure_objects,
    new_folder,
    share_out,
)
from util.simulators.rendering import CellTiles

SIDE = 160


def discs(n, radius=9, size=21):
    """Discs of random pixels with a nucleus of 3 x 3 px, each on a tile."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:size, :size] - size // 2
    cell = np.repeat([y**2 + x**2 <= radius**2], n, axis=0)
    nucleus = np.repeat([np.maximum(abs(y), abs(x)) <= 1], n, axis=0)
    image = rng.integers(1, 256, (n, size, size, 3)).astype(np.uint8) * cell[..., None]
    return CellTiles(image, cell, nucleus)


@pytest.fixture(scope="module")
def field():
    return compose_field(discs(15), SIDE, np.random.default_rng(2))


@pytest.mark.parametrize("n", [1, 2, 3, 10, 999])
def test_shares_add_up_and_are_proportional(n):
    weights = {4: 50.0, 7: 49.0, 9: 1.0}
    sizes = share_out(n, weights)
    assert list(sizes) == [4, 7, 9] and sum(sizes.values()) == n
    for key, weight in weights.items():
        assert abs(sizes[key] - n * weight / 100) < 2
        assert sizes[key] >= (n >= 3)


def test_cells_of_a_field_neither_touch_nor_lose_a_pixel(field):
    tiles = discs(15)
    parts, n = ndimage.label(field.labels > 0, np.ones((3, 3)))
    assert n == 15
    assert len(set(zip(parts[parts > 0], field.labels[parts > 0], strict=True))) == 15
    rim = np.ones((SIDE, SIDE), bool)
    rim[1:-1, 1:-1] = False
    assert not field.labels[rim].any()
    expected = np.zeros((SIDE, SIDE, 3), int)
    nuclei = np.zeros((SIDE, SIDE), int)
    for i, (row, column) in enumerate(field.centres):
        window = np.s_[row - 10 : row + 11, column - 10 : column + 11]
        expected[window] += tiles.image[i]
        nuclei[window] += tiles.nucleus[i]
        np.testing.assert_array_equal(field.labels[window] == i + 1, tiles.cell[i])
    np.testing.assert_array_equal(field.image, expected)
    np.testing.assert_array_equal(field.nuclei, nuclei)


def test_cells_of_crowded_fields_stay_a_pixel_apart():
    rng = np.random.default_rng(4)
    for _ in range(300):
        crowded = compose_field(discs(2), 68, rng)
        assert ndimage.label(crowded.labels > 0, np.ones((3, 3)))[1] == 2


def test_cells_lie_anywhere_in_the_field():
    rng = np.random.default_rng(3)
    centres = np.concatenate([compose_field(discs(1), 60, rng).centres for _ in range(400)])
    assert centres.min() == 10 and centres.max() == 49  # radius 9 and a pixel
    assert np.abs(centres.mean(axis=0) - 29.5).max() < 2.5


@pytest.mark.parametrize("side", [20, 60])
def test_cells_without_room_are_reported(side):
    with pytest.raises(UserError, match=f"{side} x {side} px has no room"):
        compose_field(discs(15), side, np.random.default_rng(0))


@pytest.fixture(scope="module")
def cellprofiler(field, tmp_path_factory):
    """The folder of a run over two fields, and the link of the first one."""
    folder = tmp_path_factory.mktemp("run")
    outputs = CellProfilerOutputs(folder, "MySplitCellBodies.csv")
    found = np.ones(15, bool)
    found[[3, 8]] = False
    link = outputs.add(field, found, 5, "A01_02", {"Well": "A01", "Site": 2})
    empty = outputs.add(
        blank_field(SIDE), np.zeros(0, bool), 6, "A02_02", {"Well": "A02", "Site": 2}
    )
    assert len(empty) == 0
    return folder, link


def test_objects_are_numbered_in_reading_order(cellprofiler, field):
    _, link = cellprofiler
    seen = np.where(np.isin(field.labels, [4, 9]), 0, field.labels)
    numbered, n = ndimage.label(seen)  # numbers parts by their first pixel, as CellProfiler does
    assert n == 13 and (link["ImageNumber"] == 5).all()
    assert list(np.flatnonzero(link["ObjectNumber"].isna())) == [3, 8]
    assert link.loc[[3, 8]].drop(columns="ImageNumber").isna().all(axis=None)
    for cell, row in link.dropna().iterrows():
        y, x = field.centres[cell]
        assert numbered[y, x] == row["ObjectNumber"]
        # A disc's centroid is its middle.
        assert (row["AreaShape_Center_Y"], row["AreaShape_Center_X"]) == pytest.approx((y, x))


def test_crops_hold_one_object_each(cellprofiler, field):
    folder, link = cellprofiler
    crops = folder / "SingleWholeCellCroppedImages"
    assert len(list(crops.rglob("*.png"))) == 3 * 13
    for cell, row in link.dropna().iterrows():
        y, x = field.centres[cell]
        box = np.s_[y - 9 : y + 10, x - 9 : x + 10]
        expected = field.image[box] * (field.labels[box] == cell + 1)[..., None]
        for c, name in enumerate(("Red", "Green", "Blue")):
            file = f"CroppedImages_{name}/A01_02/SplitCellBodies_{row['ObjectNumber']:.0f}.png"
            np.testing.assert_array_equal(io.imread(crops / file), expected[..., c])


def test_spreadsheet_has_a_row_per_object_and_metadata_before_the_features(cellprofiler):
    folder, _ = cellprofiler
    table = pd.read_csv(folder / "Quantitative_Outputs" / "MySplitCellBodies.csv")
    keys = ["ImageNumber", "ObjectNumber", "Metadata_Site", "Metadata_Well"]
    assert list(table.columns[:4]) == keys
    assert list(table["ObjectNumber"]) == list(range(1, 14))
    assert (table["Metadata_Well"] == "A01").all() and (table["Metadata_Site"] == 2).all()
    assert len(table.columns) > 40 and not table.isna().any(axis=None)


def test_features_are_those_of_known_shapes():
    objects = np.zeros((60, 90), int)
    objects[5:15, 10:50] = 2  # a bar
    y, x = np.mgrid[:60, :90]
    objects[(y - 37) ** 2 + (x - 60) ** 2 <= 20**2] = 1  # a disc
    image = np.random.default_rng(0).integers(1, 256, (60, 90, 3)).astype(np.uint8)
    table = measure_objects(image, objects).set_index("ObjectNumber")
    bar, disc = table.loc[2], table.loc[1]
    assert bar["AreaShape_Area"] == 400 and bar["AreaShape_Solidity"] == 1
    assert (bar["AreaShape_Center_X"], bar["AreaShape_Center_Y"]) == (29.5, 9.5)
    box = [
        bar[f"AreaShape_BoundingBox{end}_{axis}"] for end in ("Minimum", "Maximum") for axis in "XY"
    ]
    assert box == [10, 5, 50, 15]
    # The ellipse with the second moments of a rectangle of side a has the axis 4 a / sqrt(12).
    assert bar["AreaShape_MajorAxisLength"] == pytest.approx(4 * 40 / 12**0.5, rel=1e-3)
    assert bar["AreaShape_MinorAxisLength"] == pytest.approx(4 * 10 / 12**0.5, rel=1e-2)
    assert abs(bar["AreaShape_Orientation"]) == pytest.approx(90)
    assert disc["AreaShape_Eccentricity"] < 0.05
    assert disc["AreaShape_EquivalentDiameter"] == pytest.approx(40, rel=0.01)
    assert disc["AreaShape_FormFactor"] == pytest.approx(1, abs=0.12)
    for c, name in enumerate(("Red", "Green", "Blue")):
        values = image[..., c][objects == 1] / 255
        for feature, expected in (
            ("Mean", values.mean()),
            ("Std", values.std()),
            ("Max", values.max()),
            ("Integrated", values.sum()),
        ):
            assert disc[f"Intensity_{feature}Intensity_{name}"] == pytest.approx(expected)


def test_a_folder_appears_whole(tmp_path):
    out = tmp_path / "deep" / "raw"
    with new_folder(out) as folder:
        (folder / "a.txt").write_text("a")
        assert not out.exists()
    assert [path.name for path in out.parent.iterdir()] == ["raw"]
    assert (out / "a.txt").read_text() == "a"


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing(tmp_path, error):
    (tmp_path / "raw").mkdir()  # an empty folder may be there
    with pytest.raises(type(error)), new_folder(tmp_path / "raw") as folder:
        (folder / "a.txt").write_text("a")
        raise error
    assert [path.name for path in tmp_path.rglob("*")] == ["raw"]


def test_a_full_disk_is_one_line(tmp_path):
    with (
        pytest.raises(UserError, match="no space left.*nothing was kept"),
        new_folder(tmp_path / "r"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("taken", ["folder", "file"])
def test_what_is_there_stays(tmp_path, taken):
    out = tmp_path / "raw"
    if taken == "folder":
        out.mkdir()
    mine = out / "mine.txt" if taken == "folder" else out
    mine.write_text("mine")
    with pytest.raises(UserError, match="is there already"), new_folder(out):
        raise AssertionError("got in")
    assert mine.read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_what_comes_to_be_there_meanwhile_stays(tmp_path):
    out = tmp_path / "raw"
    with pytest.raises(UserError, match="is there already"), new_folder(out):
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    assert [path.name for path in tmp_path.rglob("*")] == ["raw", "mine.txt"]
