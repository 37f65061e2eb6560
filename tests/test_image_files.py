"""What image files mean: written in many ways, read as the one array that was meant."""

import os
import unicodedata

import numpy as np
import pytest
import tifffile
from PIL import Image
from unusual import CHW, CHW8, GREY, GREY8, RNG, image_j, pillow, plain, said

from util.data_processing import CellSource, load_cells
from util.errors import UserError
from util.image_files import Meaning, read_image
from util.image_folders import list_images


def appended(path, pages):
    for page in pages:
        tifffile.imwrite(path, page, append=path.exists())


def palette(path):
    """64 colours by index; the colour of each is its index in red, twice that in green."""
    picture = Image.fromarray(GREY8 % 64)
    picture.putpalette([part for i in range(64) for part in (i, 2 * i, 7)])
    picture.save(path)
    index = GREY8 % 64
    return np.stack([index, 2 * index, np.full_like(index, 7)])


@pytest.mark.parametrize("ending", ["tif", "png"])
def test_palettes_become_colours(tmp_path, ending):
    meant = palette(tmp_path / f"cell.{ending}")
    np.testing.assert_array_equal(read_image(tmp_path / f"cell.{ending}")[0], meant)


def test_pngs(tmp_path):
    pillow(tmp_path / "grey16.png", GREY)
    np.testing.assert_array_equal(read_image(tmp_path / "grey16.png")[0], GREY[None])
    pillow(tmp_path / "rgba.png", np.dstack([*CHW8, GREY8]))
    image, alpha = read_image(tmp_path / "rgba.png")
    np.testing.assert_array_equal(image, CHW8)
    assert alpha
    pillow(tmp_path / "bit.png", GREY8 > 100)
    np.testing.assert_array_equal(read_image(tmp_path / "bit.png")[0], 255 * (GREY8 > 100)[None])


REFUSED = {
    "focal planes": (lambda p: image_j(p, CHW, "ZYX"), "3 focal planes: .*`project_z`"),
    "time points": (lambda p: image_j(p, CHW, "TYX"), "3 time points"),
    "planes and channels": (
        lambda p: image_j(p, np.stack([CHW, CHW]), "ZCYX"),
        "2 focal planes",
    ),
    "positions": (lambda p: said(p, CHW, "PYX"), "3 entries along an axis P"),
    "appended pages": (lambda p: appended(p, CHW), "3 pages of one size.*`image_axes`"),
    "pages by Pillow": (
        lambda p: pillow(p, GREY8, save_all=True, append_images=[Image.fromarray(GREY8)]),
        "2 pages of one size",
    ),
    "pages of two sizes": (lambda p: appended(p, [GREY, GREY[:20]]), "several images"),
    "small, channels first or last": (
        lambda p: tifffile.imwrite(p, CHW[:, :12, :12], photometric="minisblack"),
        "the first axis or the last",
    ),
    "narrow, channels first or last": (
        lambda p: tifffile.imwrite(p, CHW[:, :, :14], photometric="minisblack"),
        "the first axis or the last",
    ),
    "no channels": (
        lambda p: tifffile.imwrite(p, np.zeros((20, 30, 40), np.uint8), photometric="minisblack"),
        "no axis can be channels",
    ),
    "CMYK": (
        lambda p: plain(p, np.zeros((20, 30, 4), np.uint8), photometric="separated"),
        "SEPARATED: convert it to RGB",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_tiff_does_not_say_is_refused(tmp_path, name):
    write, message = REFUSED[name]
    write(tmp_path / "cell.tif")
    with pytest.raises(UserError, match=message):
        read_image(tmp_path / "cell.tif")


def test_cmyk_jpeg_is_refused(tmp_path):
    Image.new("CMYK", (20, 20)).save(tmp_path / "cell.jpg")
    with pytest.raises(UserError, match="CMYK"):
        read_image(tmp_path / "cell.jpg")


@pytest.mark.parametrize(
    "write, axes, meant",
    [
        (lambda p: appended(p, CHW), "CYX", CHW),
        (lambda p: tifffile.imwrite(p, CHW[:, :12, :12], photometric="minisblack"), "cyx",
         CHW[:, :12, :12]),
        (lambda p: tifffile.imwrite(p, CHW[:, :12, :12], photometric="minisblack"), "YXC",
         np.moveaxis(CHW[:, :12, :12], -1, 0)),
        (lambda p: tifffile.imwrite(p, np.dstack([*CHW8, np.full((40, 30), 255, np.uint8)])),
         "YXC", np.stack([*CHW8, np.full((40, 30), 255, np.uint8)])),
        (lambda p: image_j(p, CHW, "ZYX"), "CYX", CHW),  # planes are what the stain was filed as
    ],
)  # fmt: skip
def test_the_user_says_what_the_axes_are(tmp_path, write, axes, meant):
    write(tmp_path / "cell.tif")
    found, _ = read_image(tmp_path / "cell.tif", Meaning(axes))
    np.testing.assert_array_equal(found, meant)


@pytest.mark.parametrize("axes", ["CYX", "YX", "CZTYX", "CCYX", "NYX"])
def test_axes_that_do_not_fit(tmp_path, axes):
    image_j(tmp_path / "cell.tif", np.stack([CHW, CHW]), "ZCYX")
    with pytest.raises(UserError, match=f"`image_axes` {axes}"):
        read_image(tmp_path / "cell.tif", Meaning(axes))


@pytest.mark.parametrize("how", ["max", "mean"])
def test_focal_planes_are_projected_where_asked(tmp_path, how):
    stack = RNG.integers(0, 1000, (5, 3, 40, 30)).astype(np.uint16)
    image_j(tmp_path / "cell.tif", stack, "ZCYX")
    found, _ = read_image(tmp_path / "cell.tif", Meaning(project_z=how))
    meant = stack.max(0) if how == "max" else np.rint(stack.astype(float).mean(0))
    np.testing.assert_array_equal(found, meant)
    assert found.dtype == np.uint16


def test_a_file_of_an_ome_set_gives_its_own_plane(tmp_path):
    """Two files, a channel each, of which each names both."""
    names = ["set_c0.ome.tif", "set_c1.ome.tif"]
    uuids = [f"urn:uuid:00000000-0000-0000-0000-00000000000{i}" for i in range(2)]
    planes = "".join(
        f'<TiffData FirstC="{i}" IFD="0" PlaneCount="1"><UUID FileName="{name}">{uuid}</UUID>'
        "</TiffData>"
        for i, (name, uuid) in enumerate(zip(names, uuids, strict=True))
    )
    for i, (name, uuid) in enumerate(zip(names, uuids, strict=True)):
        xml = (
            '<?xml version="1.0" encoding="UTF-8"?><OME '
            'xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="{uuid}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" '
            'Type="uint16" SizeX="30" SizeY="40" SizeC="2" SizeZ="1" SizeT="1">'
            f'<Channel ID="C:0"/><Channel ID="C:1"/>{planes}</Pixels></Image></OME>'
        )
        tifffile.imwrite(tmp_path / name, CHW[i], description=xml, metadata=None)
    for i, name in enumerate(names):
        np.testing.assert_array_equal(read_image(tmp_path / name)[0], CHW[i : i + 1])
    (tmp_path / names[1]).unlink()  # also where the others are not at hand
    np.testing.assert_array_equal(read_image(tmp_path / names[0])[0], CHW[:1])


def write_all(folder, arrays, **how):
    folder.mkdir(exist_ok=True)
    for i, array in enumerate(arrays):
        tifffile.imwrite(folder / f"c{i}.tif", array, **{"photometric": "minisblack"} | how)


def pixels_of(folder, **how):
    return load_cells(CellSource(str(folder), image_size=32, **how), progress=False)


UNIT = RNG.random((6, 32, 32))


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", ">f4"])
def test_floats_in_0_to_1_take_all_16_bits(tmp_path, kind):
    floats = UNIT.astype(kind)
    write_all(tmp_path / "set", floats)
    np.save(tmp_path / "set.npy", floats)
    meant = np.round(floats.astype(np.float64) * 65535)
    for source in (tmp_path / "set", tmp_path / "set.npy"):
        cells = pixels_of(source)
        np.testing.assert_array_equal(cells.images[:, 0], meant)
        assert not any("clipped" in note or "scaled" in note for note in cells.notes)


def test_overshoots_of_an_interpolation_are_clipped_and_counted(tmp_path):
    floats = UNIT.copy()
    floats[0, 0, :3], floats[5, 3, 3] = [1.02, -1e-7, 1.0], -0.01
    write_all(tmp_path / "set", floats.astype(np.float32))
    cells = pixels_of(tmp_path / "set")
    assert cells.notes[0] == "3 pixels outside of 0..1 were clipped"
    assert cells.images[0, 0, 0, :3].tolist() == [65535, 0, 65535]


@pytest.mark.parametrize(
    "kind, gain, offset",
    [("f4", 5000.0, 0.0), ("f4", 3.0, -1.5), ("i4", 2e6, 0), ("i2", 3000, -1000), ("u4", 4e9, 0),
     ("i8", 1e12, 5), ("f8", 1e-3, 7.0)],
)  # fmt: skip
def test_other_numbers_are_spread_over_16_bits_by_the_set(tmp_path, kind, gain, offset):
    """A bright and a dim cell keep their ratio, which a scale for each image would not."""
    numbers = (UNIT * [[[1.0]], [[0.1]], [[0.5]], [[1.0]], [[1.0]], [[1.0]]]) * gain + offset
    write_all(tmp_path / "set", numbers.astype(kind))
    cells = pixels_of(tmp_path / "set")
    assert cells.images.dtype == np.uint16 and "scaled per channel" in cells.notes[0]
    low, high = np.quantile(numbers, [1e-4, 1 - 1e-4])
    meant = ((numbers - low) / (high - low)).clip(0, 1)
    np.testing.assert_allclose(cells.images[:, 0] / 65535, meant, atol=2e-3)


@pytest.mark.parametrize("kind", ["i1", "i2", ">i2", "u2", ">u2", "i4", "u4", "i8", "u8"])
def test_whole_numbers_that_fit_are_kept(tmp_path, kind):
    numbers = RNG.integers(0, 120, (6, 32, 32)).astype(kind)
    np.save(tmp_path / "set.npy", numbers)
    np.testing.assert_array_equal(pixels_of(tmp_path / "set.npy").images[:, 0], numbers)


def test_bits_are_0_and_255(tmp_path):
    bits = UNIT > 0.5
    np.save(tmp_path / "set.npy", bits)
    np.testing.assert_array_equal(pixels_of(tmp_path / "set.npy").images[:, 0], bits * 255)


def test_masked_floats_keep_their_0(tmp_path):
    floats = UNIT * 900 + 100
    floats[:, :8] = floats[:, -8:] = floats[:, :, :8] = floats[:, :, -8:] = 0
    np.save(tmp_path / "set.npy", floats)
    cells = pixels_of(tmp_path / "set.npy")
    assert cells.masked and (cells.images[:, 0][floats == 0] == 0).all()
    assert cells.images[:, 0][floats > 0].min() > 0


def test_links_are_followed(tmp_path):
    write_all(tmp_path / "store", CHW8)
    (tmp_path / "set" / "control").mkdir(parents=True)
    os.symlink(tmp_path / "store", tmp_path / "set" / "drug")
    os.symlink(tmp_path / "store" / "c0.tif", tmp_path / "set" / "control" / "a.tif")
    os.symlink(tmp_path / "nowhere.tif", tmp_path / "set" / "control" / "broken.tif")
    os.symlink(tmp_path / "set", tmp_path / "set" / "control" / "loop")
    cells = pixels_of(tmp_path / "set")
    assert cells.table["class"].tolist() == ["control", "drug", "drug", "drug"]
    assert any("broken.tif" in note and "leads nowhere" in note for note in cells.notes)


def test_masks_beside_the_images_are_no_cells(tmp_path):
    write_all(tmp_path, CHW8)
    for name in ("c0_mask.tif", "c1_cp_masks.png", "c2_masks.tiff", ".c3.tif"):
        (tmp_path / name).write_bytes((tmp_path / "c0.tif").read_bytes())
    assert [path.name for path in list_images(tmp_path)] == ["c0.tif", "c1.tif", "c2.tif"]


def test_names_are_compared_as_composed(tmp_path):
    """macOS decomposes the names of files; the table was typed."""
    name = unicodedata.normalize("NFD", "Zürich_é.tif")
    tifffile.imwrite(tmp_path / name, GREY8)
    cells = pixels_of(tmp_path)
    assert cells.table["Unique_ID"].tolist() == [unicodedata.normalize("NFC", name)]


def test_splits_above_the_classes_are_refused(tmp_path):
    for split in ("train", "Test"):
        for name in ("mitosis", "interphase"):
            (tmp_path / split / name).mkdir(parents=True)
            write_all(tmp_path / split / name, CHW8[: 1 + (name == "mitosis")])
    with pytest.raises(UserError, match="Test/, train/ above the classes: give one of them"):
        pixels_of(tmp_path)
    assert set(pixels_of(tmp_path / "train").table["class"]) == {"mitosis", "interphase"}


def test_a_folder_per_channel_is_refused(tmp_path):
    for stain in ("DAPI", "GFP"):
        write_all(tmp_path / stain, CHW8)
    with pytest.raises(UserError, match="in DAPI/, GFP/: one folder per channel"):
        pixels_of(tmp_path)
    table = tmp_path / "cells.csv"  # says that they are classes
    table.write_text("Unique_ID\nDAPI/c0.tif\nGFP/c1.tif\n")
    assert len(pixels_of(tmp_path, metadata=str(table)).table) == 6


def test_nested_folders_are_told(tmp_path):
    for plate in ("p1", "p2"):
        (tmp_path / plate / "A01").mkdir(parents=True)
        write_all(tmp_path / plate / "A01", CHW8[: 1 + (plate == "p1")])
    cells = pixels_of(tmp_path)
    assert cells.table["class"].tolist() == ["p1", "p1", "p2"]
    assert any("2 folders deep: the class is the first folder (p1/, p2/)" in n for n in cells.notes)


@pytest.mark.parametrize(
    "names, channels",
    [(("ch0", "ch1"), True), (("405", "488nm"), True), (("w1 DAPI", "w2_Cy5"), True),
     (("actin", "nuclei", "mito"), True), (("control", "drug"), False), (("A", "B"), False),
     (("DAPI", "drug"), False), (("0", "1"), False)],
)  # fmt: skip
def test_which_folders_are_channels(tmp_path, names, channels):
    for name in names:
        write_all(tmp_path / name, CHW8)
    if channels:
        with pytest.raises(UserError, match="one folder per channel"):
            pixels_of(tmp_path)
    else:
        cells = pixels_of(tmp_path)
        assert len(cells.table) == 3 * len(names)
        assert any("taken for classes; if they are channels" in note for note in cells.notes)


@pytest.mark.parametrize("source", ["folder", "array"])
def test_odd_images_are_counted_and_named(tmp_path, source):
    cells = RNG.integers(1, 250, (8, 3, 32, 32)).astype(np.uint8)
    cells[:, 1] = 7
    cells[:, 2, :4] = 255
    cells[3] = cells[2]
    cells[5] = 9
    if source == "folder":
        write_all(tmp_path / "set", cells, metadata={"axes": "CYX"})
        names, place = [f"c{i}.tif" for i in range(8)], tmp_path / "set"
    else:
        np.save(tmp_path / "set.npy", cells)
        names, place = [f"cell_{i:06d}" for i in range(8)], tmp_path / "set.npy"
    for _ in range(2):  # from the files, and from the cache
        notes = pixels_of(place).notes
        assert notes[0] == f"1 images are constant in every channel: {names[5]}"
        assert notes[1] == "channel_1 is dead: it has one value within 8 of 8 cells"
        assert notes[2] == "channel_2 is saturated: 10.9% of its pixels are 255"
        assert notes[3] == f"1 images are identical to another one: {names[3]} (as {names[2]})"


def test_a_dead_channel_is_named(tmp_path):
    cells = RNG.integers(1, 250, (8, 2, 32, 32)).astype(np.uint8)
    cells[:, 1] = 0
    np.save(tmp_path / "set.npy", cells)
    notes = pixels_of(tmp_path / "set.npy").notes
    assert notes == ["channel_1 is dead: it has one value within 8 of 8 cells"]


@pytest.mark.parametrize(("bright", "is_told"), [(10, True), (9, False)])
def test_one_pixel_in_a_hundred_saturates_a_channel(tmp_path, bright, is_told):
    cells = RNG.integers(1, 250, (10, 10, 10)).astype(np.uint8)
    cells[:bright, 3, 3] = 255
    np.save(tmp_path / "set.npy", cells)
    notes = pixels_of(tmp_path / "set.npy").notes
    told = [note for note in notes if "saturated" in note]
    assert told == (["channel_0 is saturated: 1.0% of its pixels are 255"] if is_told else [])


def test_an_unreadable_codec_is_one_message(tmp_path, monkeypatch):
    write_all(tmp_path, CHW8)

    def refuse(path):
        raise ValueError("<COMPRESSION.LERC: 34887> requires the 'imagecodecs' package")

    monkeypatch.setattr("util.image_files._open_tiff", refuse)
    with pytest.raises(UserError, match="c0.tif is compressed in a way .* install imagecodecs"):
        pixels_of(tmp_path)
