import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import median_abs_deviation
from skimage.measure import label

from util import cell_features
from util.cell_features import (
    clean_features,
    features_of,
    is_metadata,
    measure_features,
    read_cellprofiler_table,
)
from util.errors import UserError
from util.features.cell_blocks import measure_block
from util.features.cell_masks import find_masks

DATA = Path(__file__).parents[2] / "shared" / "data"
JURKAT = DATA / "jurkat_cell_cycle" / "cells_40x40x3_uint16.npz"
SIZE = 40


def ellipse(a, b, angle, y=19.3, x=20.6, size=SIZE):
    rows, columns = np.indices((size, size))
    u = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
    v = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
    return (u / a) ** 2 + (v / b) ** 2 <= 1


def masked_cells(n, dtype=np.uint8, channels=2, seed=0):
    """Noisy ellipses of different size: (n, channels, 40, 40), and their outlines (n, 40, 40)."""
    rng = np.random.default_rng(seed)
    outlines = np.stack(
        [ellipse(rng.uniform(8, 15), rng.uniform(5, 8), rng.uniform(0, 3)) for _ in range(n)]
    )
    noise = rng.integers(1, 250, (n, channels, SIZE, SIZE))
    return (noise * outlines[:, None]).astype(dtype), outlines


def table_equal(a, b):
    pd.testing.assert_frame_equal(a, b, rtol=1e-9, atol=1e-12)


# --- masks ------------------------------------------------------------------------------------


def test_masked_crop_is_the_largest_component_with_its_holes_filled():
    outline = ellipse(12, 9, 0.3)
    image = np.where(outline, 80, 0).astype(np.uint8)
    image[17:21, 18:22] = 0  # a hole
    image[1:4, 1:4] = 200  # a brighter speck
    images = np.stack([np.zeros_like(image), image])[None]
    masks, found = find_masks(images, masked=True)
    np.testing.assert_array_equal(masks[0], outline)
    assert found.all()


def test_diagonal_pixels_belong_to_the_cell_and_do_not_leak():
    ring = np.zeros((7, 7), np.uint8)
    for y, x in ((1, 3), (2, 2), (3, 1), (4, 2), (5, 3), (4, 4), (3, 5), (2, 4)):
        ring[y, x] = 9
    masks, _ = find_masks(ring[None, None], masked=True)
    assert masks[0].sum() == 13  # the diamond |y| + |x| <= 2


def test_cells_of_a_block_do_not_touch_each_other():
    image = np.zeros((3, 1, 8, 8), np.uint8)
    image[:, :, 2:5, 2:6] = 5
    image[1, :, :, :] = 0
    image[1, :, 7, 0:2] = 5
    masks, _ = find_masks(image, masked=True)
    np.testing.assert_array_equal(masks, image[:, 0] > 0)


@pytest.mark.parametrize("masked", [True, False])
def test_an_empty_image_gets_a_central_disc(masked):
    images, _ = masked_cells(3)
    images[1] = 0
    masks, found = find_masks(images, masked)
    rows, columns = np.nonzero(masks[1])
    assert found[[0, 2]].all() and not found[1]
    assert masks[1].sum() == pytest.approx(np.pi * 10**2, rel=0.03)
    assert rows.mean() == columns.mean() == (SIZE - 1) / 2


def windows(n, seed=0):
    """Cells that shine in one channel and absorb in the other, another cell in a corner."""
    rng = np.random.default_rng(seed)
    outlines = np.stack([ellipse(rng.uniform(8, 11), 7.5, rng.uniform(0, 3)) for _ in range(n)])
    corner = ellipse(6, 6, 0, y=1, x=1)
    bright = 100 + 300 * outlines + 500 * corner + rng.normal(0, 5, (n, SIZE, SIZE))
    dark = 900 - 60 * outlines - 60 * corner + rng.normal(0, 8, (n, SIZE, SIZE))
    return np.stack([bright, dark], axis=1).astype(np.uint16), outlines


def test_unmasked_window_finds_the_cell_in_the_centre():
    images, outlines = windows(30)
    masks, found = find_masks(images, masked=False)
    overlap = (masks & outlines).sum(axis=(1, 2)) / (masks | outlines).sum(axis=(1, 2))
    assert found.all()
    assert overlap.min() > 0.8


@pytest.mark.parametrize(("radius", "is_chosen"), [(2.0, False), (3.3, True)])
def test_a_speck_in_the_centre_of_a_window_is_no_cell(radius, is_chosen):
    """Of areas below a quarter of the largest none is chosen, whatever its place."""
    y, x = np.indices((48, 48)) - 23.5
    cell, speck = np.hypot(y + 12, x + 10) < 6, np.hypot(y, x) < radius
    assert (speck.sum() >= 0.25 * cell.sum()) == is_chosen
    image = 100 + 300 * (cell | speck) + np.random.default_rng(0).normal(0, 2, (48, 48))
    (mask,), _ = find_masks(image[None, None].astype(np.uint16), masked=False)
    chosen, other = (speck, cell) if is_chosen else (cell, speck)
    assert mask[chosen].all() and not mask[other].any()


def test_a_quarter_of_the_largest_area_is_enough():
    image = np.full((48, 48), 100, np.uint16)
    image[3:9, 3:9] = image[22:25, 22:25] = 400  # 36 and 9 pixels
    (mask,), _ = find_masks(image[None, None], masked=False)
    assert mask.sum() == 9 and mask[22:25, 22:25].all()


@pytest.mark.parametrize("padding", [0, 123])
def test_padding_of_a_window_changes_nothing(padding):
    images, _ = windows(8)
    padded = np.full((8, 2, 64, 64), padding, np.uint16)
    padded[:, :, 12:52, 12:52] = images
    expected, _ = find_masks(images, masked=False)
    masks, _ = find_masks(padded, masked=False)
    # smoothing mirrors a bare window at its edge: there alone a pixel may differ
    inner = np.s_[:, 3:-3, 3:-3]
    assert (masks[:, 12:52, 12:52][inner] == expected[inner]).mean() > 0.995


@pytest.mark.skipif(not JURKAT.exists(), reason="needs the Jurkat cells")
def test_real_windows_hold_the_dna():
    images = np.load(JURKAT)["images"][::40].transpose(0, 3, 1, 2)
    masks, found = find_masks(images, masked=False)
    dna = images[:, 1] - np.median(images[:, 1], axis=(1, 2), keepdims=True)
    inside = (dna * masks).sum(axis=(1, 2)) / dna.clip(0).sum(axis=(1, 2))
    assert found.all()
    assert np.median(inside) > 0.9
    assert all(label(mask, connectivity=2).max() == 1 for mask in masks)
    assert 0.15 < masks.mean() < 0.6


# --- measurements -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "factor", "full_scale"), [(np.uint8, 1, 255), (np.uint16, 14, 4095)]
)
def test_area_and_intensity_are_numpys(dtype, factor, full_scale):
    images, outlines = masked_cells(20, dtype)
    images *= dtype(factor)
    table, report = measure_features(
        images, True, channel_names=["DNA", "ER"], n_jobs=1, progress=False
    )
    assert report == []
    assert table.shape[0] == 20
    assert (table["AreaShape_Area"] == outlines.sum(axis=(1, 2))).all()
    for channel, name in enumerate(("DNA", "ER")):
        pixels = [
            image[channel][mask] / full_scale for image, mask in zip(images, outlines, strict=True)
        ]
        for statistic, feature in (
            (np.mean, "MeanIntensity"),
            (np.sum, "IntegratedIntensity"),
            (np.std, "StdIntensity"),
            (np.median, "MedianIntensity"),
            (np.max, "MaxIntensity"),
        ):
            expected = [statistic(values) for values in pixels]
            np.testing.assert_allclose(table[f"Intensity_{feature}_{name}"], expected, rtol=1e-9)
    correlation = [
        np.corrcoef(image[0][mask], image[1][mask])[0, 1]
        for image, mask in zip(images, outlines, strict=True)
    ]
    np.testing.assert_allclose(table["Correlation_Pearson_DNA_ER"], correlation, atol=1e-9)


def test_columns_are_named_once_and_hold_no_position():
    images, _ = masked_cells(3, channels=3)
    table, _ = measure_features(images, True, channel_names=list("abc"), n_jobs=1, progress=False)
    assert table.columns.is_unique
    assert not [name for name in table if is_metadata(name)]
    assert all(dtype == np.float64 for dtype in table.dtypes)
    assert {name.split("_")[0] for name in table} == {"AreaShape", "Intensity", "Correlation"}


def measured(images, masked, full_scale):
    """The full table of two channels, taken in one block."""
    return pd.DataFrame(measure_block(images, masked, ["a", "b"], "full", full_scale)[0])


def test_worker_processes_start_without_pytorch():
    code = "import sys, util.features.cell_blocks; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0
    )


@pytest.mark.parametrize("masked", [True, False])
def test_a_block_measures_what_a_single_cell_does(masked):
    images = masked_cells(12)[0] if masked else windows(12)[0]
    block = measured(images, masked, 1023)
    single = pd.concat([measured(image[None], masked, 1023) for image in images], ignore_index=True)
    assert block.shape[1] > 350
    families = {name.split("_")[0] for name in block}
    assert families >= {"Texture", "Granularity", "RadialDistribution", "Correlation"}
    table_equal(block, single)


def test_position_in_the_crop_does_not_matter():
    images, _ = masked_cells(4)
    moved = np.zeros((4, 2, 60, 60), np.uint8)
    moved[:, :, 3:43, 17:57] = images
    table_equal(measured(images, True, 255), measured(moved, True, 255))


def test_many_blocks_and_processes_keep_the_order(tmp_path, monkeypatch):
    monkeypatch.setattr(cell_features, "CELLS_PER_BLOCK", 5)
    images, outlines = masked_cells(17)
    memmap = np.lib.format.open_memmap(tmp_path / "cells.npy", "w+", np.uint8, images.shape)
    memmap[:] = images
    one, _ = measure_features(images, True, n_jobs=1, progress=False)
    two, _ = measure_features(memmap, True, n_jobs=2, progress=False)
    assert (two["AreaShape_Area"] == outlines.sum(axis=(1, 2))).all()
    pd.testing.assert_frame_equal(one, two)


def test_ids_become_the_index_and_lost_cells_are_named():
    images, _ = masked_cells(3)
    images[1] = 0
    ids = ["x.tiff", "y.tiff", "z.tiff"]
    table, report = measure_features(images, True, ids=ids, n_jobs=1, progress=False)
    assert list(table.index) == ids
    assert len(report) == 1 and "1 (y.tiff)" in report[0]


def test_refuses_what_cannot_be_measured():
    images, _ = masked_cells(3)
    with pytest.raises(UserError, match="float32"):
        measure_features(images.astype(np.float32), True)
    with pytest.raises(UserError, match=r"\(3, 2, 40, 39\)"):
        measure_features(images[..., 1:], True)
    with pytest.raises(UserError, match="at least one cell"):
        measure_features(images[:0], True)
    with pytest.raises(UserError, match="2 different ones"):
        measure_features(images, True, channel_names=["a", "a"])
    with pytest.raises(UserError, match="2 different ids for 3 cells"):
        measure_features(images, True, ids=["a", "b", "b"])
    with pytest.raises(UserError, match="'all'"):
        measure_features(images, True, groups="all")


# --- cache ------------------------------------------------------------------------------------


@pytest.fixture
def cached(tmp_path):
    """Ask for the features of five cells, one of them empty, with a cache."""
    images, _ = masked_cells(5)
    images[3] = 0

    def ask(images=images, **options):
        return features_of(images, True, cache_dir=tmp_path / "new", progress=False, **options)

    ask.images = images
    ask.folder = tmp_path / "new"
    return ask


def forbid_measuring(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("measured although a cache is there")

    monkeypatch.setattr(cell_features, "_measure", refuse)


def test_cache_gives_the_same_table_without_measuring(cached, monkeypatch):
    first, first_report = cached(ids=list("abcde"))
    forbid_measuring(monkeypatch)
    second, second_report = cached(ids=list("abcde"))
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert first_report == second_report and "1 (d)" in second_report[0]
    assert [path.suffix for path in cached.folder.iterdir()] == [".npz"]


def test_cache_is_not_used_for_anything_else(cached, monkeypatch):
    cached()
    forbid_measuring(monkeypatch)
    other = cached.images.copy()
    other[0, 0, 20, 20] ^= 1
    for options in (
        {"images": other},
        {"images": cached.images.astype(np.uint16)},
        {"images": cached.images[::-1]},
        {"channel_names": ["a", "b"]},
        {"groups": "full"},
    ):
        with pytest.raises(AssertionError, match="measured"):
            cached(**options)


@pytest.mark.parametrize("damage", [b"", b"not a zip", "cut", "flip"])
def test_a_damaged_cache_is_measured_again(cached, damage):
    expected, _ = cached()
    (path,) = cached.folder.iterdir()
    content = path.read_bytes()
    middle = len(content) // 2
    replacement = {"cut": content[:middle], "flip": content[:middle] + b"?" * 50 + content[-200:]}
    path.write_bytes(replacement.get(damage, damage))
    table, report = cached()
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    assert "damaged" in report[0] and path.name in report[0]
    assert cached()[1] == report[1:]


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    features_of(masked_cells(2)[0], True, progress=False)
    assert list(tmp_path.iterdir()) == []


# --- a table from elsewhere -------------------------------------------------------------------


@pytest.fixture
def csv(tmp_path):
    def write(text):
        path = tmp_path / "features.csv"
        path.write_text(text)
        return path

    return write


GOOD = """Unique_ID,ImageNumber,AreaShape_Area,AreaShape_Center_X,Note,Intensity_Mean,GT_x
b.tiff,1,20,5,x,0.2,1
c.tiff,1,30,5,y,nan,2
a.tiff,1,10,5,z,0.1,3
"""


def test_table_is_joined_in_the_order_asked_for(csv):
    table, report = read_cellprofiler_table(csv(GOOD), ["a.tiff", "lost.tiff", "b.tiff", "c.tiff"])
    assert list(table.columns) == ["AreaShape_Area", "Intensity_Mean"]
    assert list(table.index) == ["a.tiff", "lost.tiff", "b.tiff", "c.tiff"]
    expected = [[10, 0.1], [np.nan, np.nan], [20, 0.2], [30, np.nan]]
    np.testing.assert_array_equal(table.to_numpy(), expected)
    assert "nan among numbers" in report[0] and report[1].startswith("WARNING: only 75 % match")
    assert "1 (lost.tiff)" in report[2] and "1 (Note)" in report[3] and len(report) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("Unique_ID", "Name").replace("a.t", "d.t").replace("b.t", "e.t"),
         "no column Unique_ID"),
        (GOOD.replace("b.tiff", "a.tiff"), "1 ids occur in more than one row: a.tiff"),
        (GOOD.replace("a.tiff", "d.tiff").replace("b.tiff", "e.tiff"), "no Unique_ID matches"),
        ("Unique_ID,ImageNumber,Note\na.tiff,1,x\n", "no numeric feature"),
        ("", "cannot be read as a table"),
        ("Unique_ID,x\na.tiff,1,2,3\nb.tiff,1\nc,1,2,3,4,5\n", "cannot be read as a table"),
    ],
)  # fmt: skip
def test_table_errors_name_the_file(csv, text, message):
    path = csv(text)
    with pytest.raises(UserError, match=message) as error:
        read_cellprofiler_table(path, ["a.tiff", "b.tiff"])
    assert str(path) in str(error.value) and "\n" not in str(error.value).strip()


@pytest.mark.parametrize(
    "text",
    [GOOD.replace("Unique_ID", "Name"), GOOD.replace("tiff", "png"), GOOD.replace(".tiff", ""),
     GOOD.replace(",", ";"), GOOD.replace(",", ";").replace("0.", "0,"),
     GOOD.replace("Unique_ID", "Metadata_Unique_ID"), GOOD.replace("Unique_ID", "")],
)  # fmt: skip
def test_the_same_features_in_any_dialect(csv, text):
    table, _ = read_cellprofiler_table(csv(text), ["a.tiff", "b.tiff"])
    assert list(table.columns) == ["AreaShape_Area", "Intensity_Mean"]
    np.testing.assert_array_equal(table.to_numpy(), [[10, 0.1], [20, 0.2]])


NO_FEATURES = """ImageNumber ObjectNumber Number_Object_Number Nuclei_Number_Object_Number
    Parent_Cells Children_Nuclei_Count Nuclei_Parent_Cells Location_Center_X
    Nuclei_Location_CenterMassIntensity_Y AreaShape_Center_X Cells_AreaShape_Center_Y
    AreaShape_BoundingBoxMinimum_X Metadata_Well
    Cells_AreaShape_BoundingBoxMaximum_Y Metadata_ImageNumber Image_Count_Cells
    Neighbors_FirstClosestObjectNumber_Adjacent label centroid-0 centroid_weighted-1 bbox-3
    centroid_local-0 cell_id fov x y cx center_x x_centroid CentroidX X XM BX Row Column
    object_id index UMAP_1 X_umap-0 split""".split() + [
    "Centroid X µm", "Position X [µm]", "Object No", "Unnamed: 0", "Cell ID", "Object ID",
]  # fmt: skip
FEATURES = """AreaShape_Area AreaShape_BoundingBoxArea Cells_AreaShape_EulerNumber area area_bbox
    Neighbors_NumberOfNeighbors_Adjacent eccentricity axis_major_length perimeter intensity_mean
    Intensity_MassDisplacement_DNA Texture_Contrast_DNA_3_00_256 Granularity_1_DNA moments_hu-0
    AreaShape_CentralMoment_2_0 RadialDistribution_FracAtD_DNA_1of4 feret_diameter_max mean_0
    Nuclei_Correlation_K_DNA_ER NumberOfSpots inertia_tensor-0-0""".split()


def test_what_is_no_feature_is_known_by_its_name_in_any_spelling():
    assert [name for name in NO_FEATURES if not is_metadata(name)] == []
    assert [name for name in FEATURES if is_metadata(name)] == []


def test_what_the_metadata_holds_and_what_counts_the_rows_is_no_feature(csv):
    path = csv("Unique_ID,dose,n,AreaShape_Area,mean\na,1,7,5,3.5\nb,2,8,9,1.5\nc,9,9,6,2.5\n")
    table, notes = read_cellprofiler_table(path, ["a", "b", "c"], ["dose", "AreaShape_Area"])
    assert table.columns.tolist() == ["AreaShape_Area", "mean"]
    assert "no features, as the metadata has them: 1 (dose)" in notes[0]


def test_table_that_is_not_there(tmp_path):
    for path in (tmp_path / "absent.csv", tmp_path):
        with pytest.raises(UserError, match=f"{path.name}: there is no such file"):
            read_cellprofiler_table(path, ["a"])


def test_a_cell_asked_for_twice(csv):
    with pytest.raises(UserError, match="a.tiff is asked for twice"):
        read_cellprofiler_table(csv(GOOD), ["a.tiff", "a.tiff"])


@pytest.mark.skipif(not DATA.exists(), reason="needs the CellProfiler example")
def test_real_cellprofiler_columns_are_told_apart():
    columns = pd.read_csv(DATA / "cellprofiler_examplehuman" / "Nuclei.csv", nrows=0).columns
    features = [name for name in columns if not is_metadata(name)]
    assert {name.split("_")[0] for name in features} == {"AreaShape", "Intensity"}
    assert len([name for name in features if name.startswith("AreaShape_Zernike")]) == 30
    assert "AreaShape_BoundingBoxArea" in features
    codes = pd.read_csv(DATA / "bbbc031" / "vae_latent_codes_7387_cells.csv", nrows=0).columns
    assert [name for name in codes if not is_metadata(name)] == ["Unique_ID"]


# --- clean-up ---------------------------------------------------------------------------------


def test_cleaning_by_hand():
    nan = np.nan
    table = pd.DataFrame(
        {
            "Area": [1.0, 2, 3, 4, 100],
            "Constant": [0.1 + 0.2, 0.3, 0.3, 0.3, 0.3],
            "AreaTwice": [-2.0, -4, -6, -8, -200],
            "Missing": [1.0, nan, 5, 2, np.inf],
            "AreaShape_Orientation": [5.0, -80, 3, 7, 1],
            "MostlyZero": [0.0, 0, 1, 0, 0],
        },
        index=list("abcde"),
    )
    matrix, report = clean_features(table, clip=20)
    # median 3, MAD 1: the outlier is cut at 20; the MAD of MostlyZero is 0, its sd 0.4
    expected = {
        "Area": np.array([-2, -1, 0, 1, 20 * 1.4826]) / 1.4826,
        "MostlyZero": np.array([0, 0, 1, 0, 0]) / 0.4,
    }
    assert list(matrix.columns) == list(expected)
    assert list(matrix.index) == list("abcde")
    np.testing.assert_allclose(matrix.to_numpy(), np.column_stack([*expected.values()]), rtol=1e-4)
    assert all(dtype == np.float32 for dtype in matrix.dtypes)
    assert report == [
        "2 of 6 features kept",
        "angles: 1 (AreaShape_Orientation)",
        "missing values: 1 (Missing)",
        "constant: 1 (Constant)",
        "correlated: 1 (AreaTwice)",
    ]


def random_table(n=300, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.lognormal(size=(n, 6)) * [1, 1e-6, 1e3, 5, 10, 1]
    return pd.DataFrame(values, columns=[f"f{i}" for i in range(6)])


def test_scores_are_scipys_robust_scores():
    table = random_table()
    matrix, _ = clean_features(table, clip=3)
    values = table.to_numpy()
    spread = median_abs_deviation(values, scale="normal")
    expected = ((values - np.median(values, axis=0)) / spread).clip(-3, 3)
    np.testing.assert_allclose(matrix, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(matrix.to_numpy()).max() == 3


def test_few_missing_values_become_the_median():
    table = random_table()
    table.iloc[:15, 2] = np.nan  # 5 %
    table.iloc[:16, 3] = np.nan  # more
    matrix, _ = clean_features(table)
    assert (matrix["f2"].iloc[:15] == 0).all()
    assert "f3" not in matrix and matrix.notna().all().all()


def test_correlation_is_judged_against_kept_columns_only():
    rng = np.random.default_rng(0)
    chain = np.cumsum(rng.normal(size=(5000, 3)) * [1, 0.28, 0.28], axis=1)
    table = pd.DataFrame(chain, columns=["first", "second", "third"])
    r = table.corr()
    assert r.loc["first", "second"] > 0.95 and r.loc["second", "third"] > 0.95
    assert r.loc["first", "third"] < 0.95
    assert list(clean_features(table)[0]) == ["first", "third"]
    assert list(clean_features(table[["third", "second", "first"]])[0]) == ["third", "first"]


def test_a_cell_without_features_stays_undefined_and_counts_nowhere():
    table = random_table()
    expected, _ = clean_features(table)
    absent = pd.DataFrame(np.nan, index=range(-40, 0), columns=table.columns)
    matrix, report = clean_features(pd.concat([absent, table]))
    assert matrix.iloc[:40].isna().all().all()
    pd.testing.assert_frame_equal(matrix.iloc[40:], expected, check_exact=True)
    assert report[-1] == "40 cells have no features at all"


def test_cleaning_is_deterministic():
    first, second = (clean_features(random_table())[0] for _ in range(2))
    assert first.to_numpy().tobytes() == second.to_numpy().tobytes()


def test_nothing_left_is_an_error():
    with pytest.raises(UserError, match="constant: 2"):
        clean_features(pd.DataFrame({"a": [1.0, 1, 1], "b": [2.0, 2, 2]}))
    with pytest.raises(UserError, match="no feature is left"):
        clean_features(pd.DataFrame({"a": [np.nan, np.nan]}))
