"""Channels of one cell from their files, and the folders and tables of raw data."""

import numpy as np
import pytest
import tifffile

from util.errors import UserError
from util.raw.raw_data import find_in, read_channels, read_ground_truth

RNG = np.random.default_rng(0)
GREY, OTHER = RNG.integers(1, 255, (2, 9, 7), dtype=np.uint8)


def written(folder, *images):
    paths = [folder / f"c{i}.tif" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        tifffile.imwrite(path, image)
    return paths


def test_a_file_per_channel_becomes_one_image(tmp_path):
    image, reason = read_channels(written(tmp_path, GREY, OTHER))
    assert reason == "" and image.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(image, np.stack([GREY, OTHER], axis=-1))
    colours = RNG.integers(1, 255, (9, 7, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "rgb.tif", colours, photometric="rgb")
    np.testing.assert_array_equal(read_channels([tmp_path / "rgb.tif"])[0], colours)


def test_why_there_is_no_image(tmp_path):
    place = tmp_path.name
    assert read_channels([tmp_path / "no.tif"]) == (None, f"no file {place}/no.tif")
    (tmp_path / "cut.tif").write_bytes(b"II*\0")
    image, reason = read_channels([tmp_path / "cut.tif"])
    assert image is None and reason.startswith(f"{place}/cut.tif cannot be read (")
    colours = RNG.integers(1, 255, (9, 7, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "rgb.tif", colours, photometric="rgb")
    (grey,) = written(tmp_path, GREY)
    assert (
        read_channels([grey, tmp_path / "rgb.tif"])[1]
        == f"{place}/rgb.tif has more than one channel"
    )
    unequal = read_channels(written(tmp_path, GREY, OTHER[:5]))
    assert unequal == (None, "channels of unequal shape (9 x 7, 5 x 7)")
    mixed = read_channels(written(tmp_path, GREY, OTHER.astype(np.uint16)))
    assert mixed == (None, "channels of unequal type (uint8, uint16)")


def test_tables_of_the_truth(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("name,x,word,class\na,1,01,1.0\nb,2.5,2,\n")
    table = read_ground_truth(path, ["x"], ["word"], ["class"])
    assert table["x"].tolist() == [1, 2.5] and table["word"].tolist() == ["01", "2"]
    for columns, message in (
        (["y"], "t.csv has no column y; its columns are name, x, word, class: is the separator"),
        (["name"], "t.csv: name holds 'a' where a number belongs"),
        (["class"], "t.csv: class is empty in row 3"),
    ):
        with pytest.raises(UserError, match=message):
            read_ground_truth(path, columns)


def test_the_first_of_some_names(tmp_path):
    (tmp_path / "b").touch()
    assert find_in(tmp_path, "a", "b") == tmp_path / "b"
    (tmp_path / "a").touch()
    assert find_in(tmp_path, "a", "b") == tmp_path / "a"
    with pytest.raises(UserError, match=f"--raw {tmp_path}: there is no c or d in it"):
        find_in(tmp_path, "c", "d")
    with pytest.raises(UserError, match=f"--raw {tmp_path / 'e'}: there is no such folder"):
        find_in(tmp_path / "e", "c")
