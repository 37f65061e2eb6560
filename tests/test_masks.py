"""Masks: what is no label, and what is refused; `unusual.py` holds the kinds that are read."""

import numpy as np
import pytest
from unusual import BITS, INSIDE, LABELS, picture, tiff

from util.errors import UserError
from util.raw.masks import read_mask


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
