"""Masks as people export them: every kind gives the objects that were drawn."""

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage.draw import disk, ellipse

from util.errors import UserError
from util.raw.masks import read_mask


def drawn():
    """Labels (120, 160) of five cells, two of which touch, and one in two pieces."""
    labels = np.zeros((120, 160), np.int32)
    for number, place in enumerate([(25, 25), (25, 110), (80, 30), (80, 62)], start=1):
        labels[disk(place, 17)] = number
    labels[ellipse(85, 125, 18, 25)] = 5
    labels[83:88, 95:155] = 0  # an actin cable runs over it
    return labels


LABELS = drawn()
INSIDE = LABELS > 0
BITS = np.uint8(255) * INSIDE


def tiff(array, **how):
    return lambda path: tifffile.imwrite(path, array, photometric="minisblack", **how)


def picture(array, mode=None, **how):
    def write(path):
        image = Image.fromarray(array)
        if mode == "P":
            image.putpalette([int(part) for part in np.random.default_rng(1).integers(0, 255, 768)])
        image.save(path, **how)

    return write


IDS = np.where(INSIDE, LABELS + 1_000_000, 0)
LABELLED = {
    "uint8": (tiff(LABELS.astype(np.uint8)), ".tif"),
    "uint16 png": (picture(LABELS.astype(np.uint16)), ".png"),
    "int64": (tiff(LABELS.astype(np.int64)), ".tif"),
    "big-endian": (tiff(LABELS.astype(">i4"), byteorder=">"), ".tif"),
    "ids above 65,535": (tiff(IDS.astype(np.uint32)), ".tif"),
    "ids that no table could hold": (
        tiff(np.where(INSIDE, 2**32 - 10 + LABELS.astype(np.int64), 0).astype(np.uint32)),
        ".tif",
    ),
    "float": (tiff(LABELS.astype(np.float32)), ".tif"),
    "double": (tiff(LABELS.astype(np.float64)), ".tif"),
    "-1 for the background": (tiff(np.where(INSIDE, LABELS, -1).astype(np.int32)), ".tif"),
    "palette": (picture(LABELS.astype(np.uint8), "P"), ".png"),
    "palette bmp as png": (picture(LABELS.astype(np.uint8) + 3 * BITS // 255, "P"), ".png"),
    "equal RGB": (picture(np.dstack([LABELS.astype(np.uint8)] * 3)), ".png"),
    "equal RGBA": (picture(np.dstack([LABELS.astype(np.uint8)] * 3 + [np.full_like(BITS, 255)])),
                   ".png"),
    "every tenth number": (tiff(10 * LABELS.astype(np.uint16)), ".tif"),
    "a page of length 1": (tiff(LABELS.astype(np.uint16)[None, None], metadata={"axes": "TZYX"}),
                           ".tif"),
    "deflate": (tiff(LABELS.astype(np.uint16), compression="zlib"), ".tif"),
}  # fmt: skip


@pytest.mark.parametrize("name", LABELLED)
def test_labels_stay_labels(tmp_path, name):
    """The cell in two pieces is one, those that touch are two."""
    write, ending = LABELLED[name]
    write(tmp_path / f"mask{ending}")
    mask = read_mask(tmp_path / f"mask{ending}")
    assert mask.numbered and mask.labels.dtype == np.int32
    numbers = np.unique(mask.labels)
    assert numbers[0] == 0 and len(numbers) == 6
    for number, drawn_as in zip(numbers, range(6), strict=True):
        np.testing.assert_array_equal(mask.labels == number, LABELS == drawn_as)


SMOOTH = np.asarray(
    Image.fromarray(BITS).resize((320, 240), Image.BILINEAR).resize((160, 120), Image.BILINEAR)
)
BINARY = {
    "0 and 255": (picture(BITS), ".png", ""),
    "0 and 1": (tiff(INSIDE.astype(np.uint16)), ".tif", ""),
    "0 and 65,535": (tiff(INSIDE.astype(np.uint16) * np.uint16(65_535)), ".tif", ""),
    "0.0 and 1.0": (tiff(INSIDE.astype(np.float32)), ".tif", ""),
    "a bit": (picture(INSIDE), ".png", ""),
    "RGB": (picture(np.dstack([BITS] * 3)), ".png", ""),
    "RGBA, as opaque as it is white": (picture(np.dstack([BITS] * 4)), ".png", ""),
    "JPEG": (picture(BITS, quality=75), ".jpg", "JPEG keeps no labels"),
    "poor JPEG": (picture(BITS, quality=30), ".jpeg", "JPEG keeps no labels"),
    "smoothed": (picture(SMOOTH), ".png", "edges are smoothed"),
    "smoothed, 16 bit": (tiff(SMOOTH.astype(np.uint16) * np.uint16(257)), ".tif", "smoothed"),
    "probabilities": (tiff(SMOOTH.astype(np.float32) / 255), ".tif", "no whole numbers"),
}


@pytest.mark.parametrize("name", BINARY)
def test_binary_masks_are_cut_into_their_components(tmp_path, name):
    """Touching cells are one object there, a cell in two pieces two; edges move by a pixel."""
    write, ending, why = BINARY[name]
    write(tmp_path / f"mask{ending}")
    mask = read_mask(tmp_path / f"mask{ending}")
    assert not mask.numbered
    assert why in mask.note and bool(why) == bool(mask.note)
    areas = np.sort(np.bincount(mask.labels.ravel())[1:])
    pieces = [(LABELS == 5)[:84].sum(), (LABELS == 5)[84:].sum()]
    drawn_as = [*pieces, (LABELS == 1).sum(), (LABELS == 2).sum(), INSIDE[60:, :90].sum()]
    np.testing.assert_allclose(areas, np.sort(drawn_as), rtol=0 if not why else 0.06)


def test_one_cell_with_a_number_is_one_cell(tmp_path):
    """Whatever its pieces: 7 is a label, 1 and 255 are masks."""
    one = np.where(LABELS == 5, 7, 0).astype(np.uint16)
    tiff(one)(tmp_path / "one.tif")
    mask = read_mask(tmp_path / "one.tif")
    assert mask.numbered and np.unique(mask.labels).tolist() == [0, 7]


def test_an_empty_mask_has_no_object(tmp_path):
    tiff(np.zeros((20, 30), np.uint16))(tmp_path / "none.tif")
    assert read_mask(tmp_path / "none.tif").labels.max() == 0


@pytest.mark.parametrize(
    "write, ending, message",
    [
        (tiff(np.stack([LABELS, LABELS.T[:120, :].repeat(2, 1)[:, :160]]).astype(np.uint16)),
         ".tif", "several planes"),
        (picture(np.dstack([BITS, BITS // 2, BITS // 3])), ".png", "colour picture"),
        (tiff(np.where(INSIDE, 1.0, np.nan).astype(np.float32)), ".tif", "NaN"),
    ],
    ids=["cells and nuclei", "colours", "NaN"],
)  # fmt: skip
def test_what_is_no_mask_is_refused(tmp_path, write, ending, message):
    write(tmp_path / f"mask{ending}")
    with pytest.raises(UserError, match=message):
        read_mask(tmp_path / f"mask{ending}")
