"""Sizes, classes, examples and channels of a data set; centroids over a field."""

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from util.errors import UserError
from util.file_size_distribution import (
    Settings,
    class_counts,
    main,
    rescaled_by_size,
    shapes_of,
    summarise_shapes,
)
from util.image_files import image_shape


@pytest.fixture
def folder(tmp_path):
    """Six cells of two classes, of known sizes, and one damaged file."""
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate([(20, 30), (40, 40), (70, 50), (64, 64), (65, 10)]):
        place = tmp_path / "set" / ("a" if number < 3 else "b")
        place.mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        tifffile.imwrite(place / f"cell{number}.tiff", image)
    Image.fromarray(np.full((33, 47), 9, np.uint8)).save(tmp_path / "set" / "b" / "grey.png")
    return tmp_path / "set"


def test_shapes_are_read_from_headers(folder):
    shapes = shapes_of(Settings(dataset=str(folder)), None).set_index("Unique_ID")
    assert shapes.loc["cell0.tiff"].tolist() == [20, 30]
    assert shapes.loc["cell4.tiff"].tolist() == [65, 10]
    assert shapes.loc["grey.png"].tolist() == [33, 47]


def test_a_damaged_file_has_no_shape(tmp_path):
    (tmp_path / "broken.tiff").write_bytes(b"II*\x00 no image")
    assert image_shape(tmp_path / "broken.tiff") is None


def test_shapes_of_channel_first_tiffs(tmp_path):
    image = np.zeros((4, 50, 60), np.uint16)
    tifffile.imwrite(tmp_path / "first.tiff", image, photometric="minisblack")
    assert image_shape(tmp_path / "first.tiff") == (50, 60)


def test_summary_and_what_each_size_rescales():
    shapes = pd.DataFrame({"height": [20, 40, 70, 64], "width": [30, 40, 50, 65]})
    summary = summarise_shapes(shapes)
    assert summary.loc["height", "median"] == 52
    assert summary.loc["aspect_ratio", "largest"] == 1.5
    assert summary.loc["longer_side", "smallest"] == 30
    assert rescaled_by_size(shapes)["rescaled"].to_dict() == {32: 3, 64: 2, 128: 0, 256: 0}
    assert rescaled_by_size(shapes).loc[64, "percent"] == 50


def test_class_counts_put_missing_labels_last():
    counts = class_counts(pd.Series(["10", "2", None, "2"]))
    assert counts["cells"].to_dict() == {"2": 2, "10": 1, "(none)": 1}
    assert counts["percent"].sum() == 100


def test_the_script_writes_all_it_names(folder, tmp_path, run_script):
    for path in folder.rglob("grey.png"):
        path.unlink()  # one channel among three
    done = run_script("util/file_size_distribution.py", "--dataset", folder)
    result = next((tmp_path / "results").iterdir())
    names = {path.name for path in result.iterdir()}
    assert names >= {"sizes.csv", "sizes.png", "classes.csv", "examples.png", "channels.png"}
    assert pd.read_csv(result / "classes.csv")["cells"].tolist() == [3, 2]
    assert "rescale" in done.stdout


def test_centroids_over_a_field(folder, tmp_path, monkeypatch):
    for path in folder.rglob("grey.png"):
        path.unlink()
    monkeypatch.chdir(tmp_path)
    ids = [f"cell{i}.tiff" for i in range(5)]
    table = pd.DataFrame({"Unique_ID": ids, "Well": "A01", "Site": [1, 1, 2, 2, 2]})
    table = table.assign(GT_x=range(5), GT_y=range(5), CP_x=range(1, 6), CP_y=range(5))
    table.to_csv("cells.csv", index=False)
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save("field.png")
    common = {"dataset": str(folder), "metadata": "cells.csv", "field": "field.png"}
    result = main(Settings(**common, field_rows=("Well=A01", "Site=2")))
    assert (result / "centroids.png").is_file()
    with pytest.raises(UserError, match="no such row"):
        main(Settings(**common, field_rows=("Site=7",)))
    with pytest.raises(UserError, match="no column 'Plate'"):
        main(Settings(**common, field_rows=("Plate=1",)))
