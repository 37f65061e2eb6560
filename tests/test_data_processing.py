"""Sources become cells, cells become batches; checked against scikit-image and by hand."""

import shutil

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from PIL import Image
from skimage.transform import resize

from util.cell_features import hand_crafted_features
from util.data_processing import CellBatches, Cells, CellSource, load_cells
from util.errors import UserError
from util.fitting import Fitter, choose_padding, choose_scaling
from util.image_files import read_image
from util.metadata import choose_labels

RNG = np.random.default_rng(0)


def masked_crop(height, width, channels=3, dtype=np.uint8, seed=0):
    """An ellipse of noise, 0 outside, (H, W, C)."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    top = np.iinfo(dtype).max
    values = np.random.default_rng(seed).integers(1, top, (height, width, channels), dtype=dtype)
    return np.where((x**2 + y**2 < 1)[..., None], values, 0).astype(dtype)


def load(dataset, metadata=None, **more):
    return load_cells(CellSource(str(dataset), metadata, **more), progress=False)


@pytest.fixture
def folder(tmp_path):
    """Two classes of TIFF crops of varying size, and a CSV."""
    root = tmp_path / "MySet"
    rows = []
    for i in range(12):
        name = f"cell_{i}.tiff"
        target = root / ("A" if i < 8 else "B")
        target.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(target / name, masked_crop(50 + 3 * i, 60, seed=i))
        rows.append({"Unique_ID": name, "dose": i / 2, "drug": "x" if i % 2 else "y"})
    pd.DataFrame(rows).to_csv(tmp_path / "meta.csv", index=False)
    return root


def test_folder_with_classes_and_metadata(folder):
    cells = load(folder, folder.parent / "meta.csv", fit="squeeze")
    assert cells.images.shape == (12, 3, 64, 64) and cells.images.dtype == np.uint8
    assert list(cells.table.columns) == ["Unique_ID", "class", "dose", "drug"]
    by_id = cells.table.set_index("Unique_ID")
    assert by_id.loc["cell_3.tiff", "dose"] == 1.5 and by_id.loc["cell_9.tiff", "class"] == "B"
    assert cells.masked
    [note] = cells.notes
    assert note.startswith("7 of 12 crops are larger than 64 pixels")
    row = list(cells.table["Unique_ID"]).index("cell_0.tiff")  # 50 x 60: padded
    expected = np.zeros((64, 64, 3), np.uint8)
    expected[7:57, 2:62] = masked_crop(50, 60, seed=0)
    np.testing.assert_array_equal(cells.images[row].transpose(1, 2, 0), expected)


def test_large_images_are_rescaled_like_scikit_image():
    image = masked_crop(79, 58, seed=3)
    ours = Fitter(64, np.zeros(3))(image.transpose(2, 0, 1)).transpose(1, 2, 0)
    theirs = resize(image, (64, 64), order=1, anti_aliasing=True, preserve_range=True)
    assert np.abs(ours - theirs).max() <= 0.5 + 1e-3  # rounding to integers


def test_sixteen_bit_keeps_its_range():
    image = masked_crop(90, 90, dtype=np.uint16, seed=4)
    fitted = Fitter(64, np.zeros(3))(image.transpose(2, 0, 1))
    assert fitted.dtype == np.uint16 and fitted.max() > 40000


def test_cache_is_used_and_rebuilt_when_a_file_changes(folder, monkeypatch):
    first = load(folder)
    monkeypatch.setattr("util.data_processing._build_folder_cache", None)  # a rebuild would fail
    again = load(folder)
    np.testing.assert_array_equal(first.images, again.images)
    monkeypatch.undo()
    tifffile.imwrite(folder / "A" / "cell_0.tiff", masked_crop(40, 40, seed=99))
    changed = load(folder)
    assert changed.fingerprint != first.fingerprint
    smaller = load(folder, image_size=32)
    assert smaller.images.shape[-1] == 32


def test_a_read_only_source_is_cached_elsewhere(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder.chmod(0o555)
    try:
        cells = load(folder)
        assert not [p for p in folder.iterdir() if p.name.startswith(".")]
        assert cells.cache.is_relative_to(tmp_path / "cache") and list(
            cells.cache.glob("*/facts.json")
        )
    finally:
        folder.chmod(0o755)


def test_a_cache_that_cannot_be_written_costs_only_time(folder, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("util.cell_cache._reserve", full)
    cells = load(folder)
    assert cells.cache is None and len(cells.images) == 12


def test_truncated_image_is_named_counted_and_left_out(folder):
    broken = folder / "B" / "cell_9.tiff"
    broken.write_bytes(broken.read_bytes()[:200])
    cells = load(folder, folder.parent / "meta.csv")
    assert len(cells.images) == 11 and "cell_9.tiff" not in set(cells.table["Unique_ID"])
    assert any(
        "1 image files could not be read" in note and "cell_9" in note for note in cells.notes
    )


def test_names_that_repeat_between_classes_become_paths(tmp_path):
    for group in "AB":
        (tmp_path / "s" / group).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(masked_crop(20, 20, seed=i)).save(tmp_path / "s" / group / f"{i}.png")
    cells = load(tmp_path / "s")
    assert "A/0.png" in set(cells.table["Unique_ID"]) and len(cells.images) == 6


@pytest.mark.parametrize(
    ("mode", "dtype", "channels"), [("L", np.uint8, 1), ("RGB", np.uint8, 3), ("RGBA", np.uint8, 3)]
)
def test_png_kinds(tmp_path, mode, dtype, channels):
    Image.fromarray(RNG.integers(0, 255, (9, 8, 3), dtype=np.uint8)).convert(mode).save(
        tmp_path / "a.png"
    )
    image, alpha = read_image(tmp_path / "a.png")
    assert image.shape == (channels, 9, 8) and image.dtype == dtype and alpha == (mode == "RGBA")


def test_sixteen_bit_png(tmp_path):
    grey = RNG.integers(0, 65535, (9, 8), dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png")[0][0], grey)


def test_channel_first_tiff(tmp_path):
    stack = RNG.integers(0, 65535, (5, 40, 30), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stack)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[0], stack)


def test_array_source_joins_by_row(tmp_path):
    images = RNG.integers(100, 4000, (20, 40, 40, 2), dtype=np.uint16)
    np.savez(tmp_path / "a.npz", images=images, channels=np.array(["DNA", "actin"]))
    pd.DataFrame({"phase": list("ab") * 10}).to_csv(tmp_path / "a.csv", index=False)
    cells = load(tmp_path / "a.npz", tmp_path / "a.csv")
    assert cells.channels == ["DNA", "actin"] and not cells.masked
    assert list(cells.table["Unique_ID"][:2]) == ["cell_000000", "cell_000001"]
    np.testing.assert_array_equal(cells.images[3, :, 12:52, 12:52], images[3].transpose(2, 0, 1))
    border = np.concatenate(
        [images[:, 0], images[:, -1], images[:, 1:-1, 0], images[:, 1:-1, -1]], 1
    )
    np.testing.assert_allclose(cells.padding, np.median(border, axis=(0, 1)))
    assert cells.images[0, 0, 0, 0] == round(cells.padding[0])


def test_names_of_channels_count_only_where_there_is_one_for_each(tmp_path):
    images = RNG.integers(1, 255, (6, 20, 20, 2), dtype=np.uint8)
    for names in (["DNA"], ["DNA", "actin", "ER"], [1, 2]):
        np.savez(tmp_path / "a.npz", images=images, channels=np.array(names))
        assert load(tmp_path / "a.npz").channels == ["channel_0", "channel_1"]


def test_images_beside_class_folders_are_of_no_class(tmp_path):
    for i, place in enumerate((".", "A", "A", "B", "B")):
        (tmp_path / "set" / place).mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(tmp_path / "set" / place / f"c{i}.tif", masked_crop(20, 20, seed=i))
    cells = load(tmp_path / "set")
    of = dict(zip(cells.table["Unique_ID"], cells.table["class"], strict=True))
    assert of["c1.tif"] == "A" and of["c4.tif"] == "B" and of["c0.tif"] not in ("A", "B")


def test_padding_follows_the_border():
    crops = [masked_crop(50, 60, seed=i).transpose(2, 0, 1) for i in range(5)]
    assert choose_padding(crops)[0]
    windows = [np.full((2, 30, 30), 600, np.uint16) for _ in range(3)]
    masked, padding = choose_padding(windows)
    assert not masked and list(padding) == [600, 600]


def test_scaling_is_robust_to_hot_pixels():
    images = RNG.integers(0, 1000, (50, 1, 64, 64)).astype(np.uint16)
    images[:, 0, 20:40, 20:40] = 2000
    images[::10, 0, 5, 5] = 65535
    low, high = choose_scaling(images, masked=True)
    assert low[0] == 0 and high[0] == 2000
    assert choose_scaling(images.astype(np.uint8), masked=True)[1][0] == 255


def test_unmasked_windows_are_scaled_between_two_percentiles_of_each_channel():
    """Both ends: the darkest and the brightest pixel in ten thousand lie outside."""
    images = RNG.normal((20_000, 600), (900, 40), (50, 64, 64, 2)).astype(np.uint16)
    images = images.transpose(0, 3, 1, 2)
    low, high = choose_scaling(images, masked=False)
    for c in range(2):
        pixels = np.sort(images[:, c].ravel())
        beyond = len(pixels) // 10_000
        assert pixels[beyond - 1] <= low[c] <= pixels[beyond + 1]
        assert pixels[-beyond - 2] <= high[c] <= pixels[-beyond]
    assert low[0] > 15_000 and low[1] > 400
    flat = np.full((3, 1, 8, 8), 700, np.uint16)
    assert [end[0] for end in choose_scaling(flat, masked=False)] == [700, 701]
    assert [end[0] for end in choose_scaling(0 * flat, masked=True)] == [0, 1]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: shutil.rmtree(f), "no such folder"),
        (lambda f: [p.unlink() for p in f.rglob("*.tiff")], "no TIFF, PNG or JPEG"),
        (
            lambda f: tifffile.imwrite(f / "A" / "odd.tiff", masked_crop(30, 30, 4)),
            "the same kind",
        ),
        (lambda f: [p.write_bytes(b"II*\0") for p in f.rglob("*.tiff")], "could be read"),
    ],
)
def test_a_damaged_folder_is_one_clear_line(folder, damage, words):
    damage(folder)
    with pytest.raises(UserError, match=words) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop(columns="Unique_ID"), "no column Unique_ID"),
        (lambda t: t.assign(Unique_ID=[f"x{i}" for i in range(len(t))]), "no Unique_ID matches"),
        (lambda t: pd.concat([t, t[:1]]), "more than one row"),
        (lambda t: t[:0], "no rows"),
    ],
)
def test_damaged_metadata_is_one_clear_line(folder, change, words):
    path = folder.parent / "meta.csv"
    change(pd.read_csv(path)).to_csv(path, index=False)
    with pytest.raises(UserError, match=words):
        load(folder, path)
    assert not list(folder.parent.rglob("facts.json")), "the images were read first"


def test_an_unreadable_image_takes_its_metadata_with_it(folder):
    next(folder.rglob("cell_3.tiff")).write_bytes(b"II*")
    rows = pd.read_csv(folder.parent / "meta.csv").set_index("Unique_ID")
    cells = load(folder, folder.parent / "meta.csv")
    assert len(cells.table) == len(cells.images) == 11
    assert "cell_3.tiff" not in set(cells.table["Unique_ID"])
    found = cells.table.set_index("Unique_ID")["dose"]
    assert found.equals(rows["dose"].loc[found.index])


def test_ids_without_partner_are_counted_and_named(folder):
    path = folder.parent / "meta.csv"
    table = pd.read_csv(path)[2:]
    table.loc[len(table) + 5] = ["ghost.tiff", 1.0, "x"]
    table.to_csv(path, index=False, sep=";", encoding="cp1252")
    cells = load(folder, path)
    assert len(cells.table) == 12 and cells.table["dose"].isna().sum() == 2
    assert any("2 images have no row" in note and "cell_0.tiff" in note for note in cells.notes)
    assert any(
        "1 rows of meta.csv have no image" in note and "ghost" in note for note in cells.notes
    )


def test_the_array_and_its_axes_are_those_that_were_named(tmp_path):
    images = RNG.integers(1, 255, (6, 20, 3, 16), dtype=np.uint8)  # no axis is surely the channel
    other = RNG.integers(1, 255, (6, 20, 20, 3), dtype=np.uint8)
    np.savez(tmp_path / "two.npz", other=other, cells=images)
    for axes, order in (("NHCW", (0, 2, 1, 3)), ("NWHC", (0, 3, 2, 1)), ("CHWN", (3, 0, 1, 2))):
        found = load(tmp_path / "two.npz", array_key="cells", array_axes=axes, image_size=20)
        wanted = images.transpose(order)
        assert found.images.shape == (*wanted.shape[:2], 20, 20)
        height, width = wanted.shape[2:]
        top, left = round((20 - height) / 2), round((20 - width) / 2)
        inside = found.images[..., top : top + height, left : left + width]
        np.testing.assert_array_equal(inside, wanted)
    assert load(tmp_path / "two.npz", array_key="other").images.shape[:2] == (6, 3)


def test_array_errors(tmp_path):
    images = RNG.integers(0, 255, (6, 20, 20, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images)
    pd.DataFrame({"x": range(5)}).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(UserError, match="5 rows, but .* 6 images"):
        load(tmp_path / "a.npz", tmp_path / "a.csv")
    with pytest.raises(UserError, match="`array_key` cells: .*a.npz holds images"):
        load(tmp_path / "a.npz", array_key="cells")
    with pytest.raises(UserError, match=r"`array_axes` NHW does not fit .* of .*a.npz"):
        load(tmp_path / "a.npz", array_axes="NHW")
    np.savez(tmp_path / "two.npz", a=images, b=images)
    with pytest.raises(UserError, match=r"two.npz holds a .*, b .*: .*`array_key`"):
        load(tmp_path / "two.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:500])
    with pytest.raises(UserError, match="cut.npz cannot be read .*is it complete"):
        load(tmp_path / "cut.npz")
    np.save(tmp_path / "nan.npy", np.full((4, 20, 20), np.nan))
    with pytest.raises(UserError, match="nan.npy holds NaN"):
        load(tmp_path / "nan.npy")
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object))
    with pytest.raises(UserError, match="pickled.npy .*more than numbers"):
        load(tmp_path / "pickled.npy")


def test_labels():
    table = pd.DataFrame(
        {"Unique_ID": list("abcd"), "GT_label": [1, 2, np.nan, 2], "x": list("ssts")}
    )
    name, labels, notes = choose_labels(table, None)
    assert name == "GT_label" and list(labels) == ["1", "2", None, "2"]
    assert any("1 cells have no GT_label" in n and "c" in n for n in notes)
    assert any("single cell" in n and "1" in n for n in notes)
    with pytest.raises(UserError, match="`label` y: no such column"):
        choose_labels(table, "y")
    assert choose_labels(table[["Unique_ID"]], None)[0] is None


def cells_of(images, padding=0.0, high=255.0):
    channels = images.shape[1]
    return Cells(
        images=images,
        table=pd.DataFrame({"Unique_ID": [str(i) for i in range(len(images))]}),
        name="test",
        masked=padding == 0,
        padding=np.full(channels, padding),
        low=np.zeros(channels),
        high=np.full(channels, high),
        channels=["c"] * channels,
    )


def test_batches_scale_and_cover_every_cell():
    images = RNG.integers(0, 65535, (70, 2, 32, 32), dtype=np.uint16)
    batches = CellBatches(cells_of(images, high=40000.0), torch.device("cpu"), 32, False)
    ordered = torch.cat(list(batches.in_order(np.arange(70))))
    np.testing.assert_allclose(ordered.numpy(), np.clip(images / 40000, 0, 1), atol=1e-6)
    epoch = list(batches.shuffled(np.arange(70)))
    assert [len(x) for x in epoch] == [32, 32]
    assert [len(x) for x in batches.shuffled(np.arange(20))] == [20]


@pytest.mark.parametrize("downsample", [2, 4])
def test_cells_are_downsampled_by_the_mean_of_squares(downsample):
    images = RNG.integers(0, 65535, (9, 2, 32, 32), dtype=np.uint16)
    batches = CellBatches(
        cells_of(images, high=40000.0), torch.device("cpu"), 4, False, downsample=downsample
    )
    scaled = np.clip(images / 40000, 0, 1)
    side = 32 // downsample
    expected = np.empty((9, 2, side, side))
    for row in range(side):
        for column in range(side):
            square = np.s_[:, :, row * downsample : (row + 1) * downsample,
                           column * downsample : (column + 1) * downsample]  # fmt: skip
            expected[:, :, row, column] = scaled[square].mean((2, 3))
    ordered = torch.cat(list(batches.in_order(np.arange(9))))
    np.testing.assert_allclose(ordered.numpy(), expected, atol=1e-6)
    assert next(batches.shuffled(np.arange(9))).shape == (4, 2, side, side)


def test_channels_get_the_names_of_the_user(folder):
    cells = load(folder, channels=("DNA", "Actin", "ER"))
    assert cells.channels == ["DNA", "Actin", "ER"]
    features, _ = hand_crafted_features("measure", cells, list(cells.table["Unique_ID"]))
    assert any(name.endswith("_Actin") for name in features)
    assert load(folder).channels != cells.channels  # the same cache, other names


def test_warnings_name_the_channel_as_the_user_does(tmp_path):
    images = np.zeros((9, 20, 20, 2), np.uint8)
    images[:, 5:15, 5:15, 1] = np.random.default_rng(0).integers(1, 250, (9, 10, 10))
    np.save(tmp_path / "set.npy", images)
    cells = load(tmp_path / "set.npy", channels=("DNA", "Actin"))
    assert cells.warnings == ["DNA is dead: it has one value within 9 of 9 cells"]
    assert cells.notes[0] == cells.warnings[0]
    assert load(tmp_path / "set.npy").warnings[0].startswith("channel_0 is dead")


@pytest.mark.parametrize("names", [("DNA",), ("a", "a", "b"), ("a", "b", "c", "d")])
def test_wrong_names_of_channels_are_refused(folder, names):
    with pytest.raises(UserError, match=r"`channels` .*3 channels"):
        load(folder, channels=names)


def test_a_path_stands_for_a_source(folder):
    from_path = load_cells(folder, None, 32, progress=False)
    from_source = load_cells(CellSource(str(folder), image_size=32), progress=False)
    assert from_path.fingerprint == from_source.fingerprint
    assert (
        load_cells(folder, image_size=32, channels=("a", "b", "c"), progress=False).channels[0]
        == "a"
    )
