"""Plate maps and CellProfiler's objects find their fields, or are refused."""

from pathlib import Path

import pandas as pd
import pytest

from util.errors import UserError
from util.raw.field_tables import column_of, objects_of_fields, rows_of_fields


@pytest.mark.parametrize(
    "name",
    ["well", "Well", "Metadata_Well", "well_position", "WellPosition", "Well ID", "WELL",
     "Metadata_well_position", "well name"],
)  # fmt: skip
def test_the_column_of_a_part_in_any_spelling(name):
    assert column_of(pd.DataFrame(columns=["site", name]), "well") == name
    assert column_of(pd.DataFrame(columns=[name, "well"]), "well") == "well"
    assert column_of(pd.DataFrame(columns=["welling", "dwell"]), "well") is None


WELLS = {  # of the fields, of the table
    "leading zeros in the files": (["A01", "A02", "A10"], ["A1", "A2", "A10"]),
    "leading zeros in the table": (["A1", "A2", "A10"], ["A01", "A02", "A10"]),
    "small letters": (["A01", "A02", "A10"], ["a1", "a2", "a10"]),
    "plates of 1536 wells": (["AA01", "AB02", "A01"], ["AA1", "AB2", "A1"]),
    "numbers": (["001", "002", "010"], [1, 2, 10]),
    "numbers beside a gap": (["1", "2", "10"], [1.0, 2.0, 10.0]),
    "as they are, both kinds": (["1", "01", "001"], ["1", "01", "001"]),
}


@pytest.mark.parametrize("case", WELLS)
def test_each_field_gets_its_row(case):
    fields, wells = WELLS[case]
    table = pd.DataFrame({"Well": wells, "drug": ["a", "b", "c"]})[::-1]
    keys = [{"well": well, "site": site} for well in fields for site in ("1", "2")]
    rows, notes = rows_of_fields(table, keys, "map.csv")
    assert [row["drug"].tolist() for row in rows] == [["a"], ["a"], ["b"], ["b"], ["c"], ["c"]]
    assert notes == []


def test_one_row_is_that_of_all_fields_of_its_well():
    keys = [{"well": "A01", "site": site} for site in "12"]
    rows, notes = rows_of_fields(pd.DataFrame({"Well": ["A1"], "drug": ["a"]}), keys, "map.csv")
    assert [row["drug"].tolist() for row in rows] == [["a"], ["a"]] and notes == []


def test_fields_without_metadata_are_counted():
    keys = [{"well": f"A{i:02d}"} for i in range(1, 21)]
    table = pd.DataFrame({"well": [f"A{i}" for i in range(1, 20)]})
    assert rows_of_fields(table, keys, "m.csv")[1] == ["1 of 20 fields have no row in m.csv: A20"]
    (note,) = rows_of_fields(table[:10], keys, "m.csv")[1]
    assert note.startswith("WARNING: 10 of 20 fields have no row in m.csv: A11, A12, A13 and 7")
    with pytest.raises(UserError, match="all other rows are of none of the fields"):
        rows_of_fields(table.replace("A", "Q", regex=True), keys, "m.csv")
    with pytest.raises(UserError, match="a column called like a part of the pattern: well"):
        rows_of_fields(table.rename(columns={"well": "place"}), keys, "m.csv")


def run_of(tmp_path, folders, metadata=()):
    """Objects of two images called img.tif in these folders, and the fields that hold them."""
    files = [tmp_path / "plate1" / "img.tif", tmp_path / "plate2" / "img.tif"]
    images = pd.DataFrame({"ImageNumber": [1, 2], "FileName_DNA": "img.tif"})
    if folders:
        images["PathName_DNA"] = folders
    (tmp_path / "cp").mkdir()
    images.to_csv(tmp_path / "cp" / "Image.csv", index=False)
    objects = pd.DataFrame({"ImageNumber": [1, 1, 2], "ObjectNumber": [1, 2, 1]})
    for name, values in dict(metadata).items():
        objects[name] = values
    keys = [{"plate": "plate1"}, {"plate": "plate2"}]
    return objects, Path(tmp_path / "cp"), keys, [[file] for file in files]


@pytest.mark.parametrize(
    ("folders", "metadata"),
    [
        (["/data/plate1", "/data/plate2"], {}),
        (["D:\\x\\plate1\\", "D:\\x\\plate2\\"], {}),
        (["/data/raw", "/data/raw"], {"Metadata_Plate": ["plate1", "plate1", "plate2"]}),
        (None, {"Metadata_Plate": ["plate1", "plate1", "plate2"]}),
    ],
)
def test_one_file_name_in_two_folders_is_told_apart(tmp_path, folders, metadata):
    found = objects_of_fields(*run_of(tmp_path, folders, metadata))
    assert [rows["ObjectNumber"].tolist() for rows in found] == [[1, 2], [1]]


@pytest.mark.parametrize("folders", [None, ["/data/raw", "/data/raw"]])
def test_one_file_name_in_two_folders_is_refused(tmp_path, folders):
    with pytest.raises(UserError, match=r"img\.tif is the name of 2 images in Image\.csv"):
        objects_of_fields(*run_of(tmp_path, folders))


def test_a_folder_that_the_run_never_saw_gets_no_objects(tmp_path):
    objects, folder, keys, files = run_of(tmp_path, ["/data/plate1", "/data/plate2"])
    (folder / "Image.csv").write_text("ImageNumber,FileName_D,PathName_D\n1,img.tif,/d/plate1\n")
    found = objects_of_fields(objects, folder, keys, files)
    assert [len(rows) for rows in found] == [2, 0]
    (folder / "Image.csv").write_text("ImageNumber,FileName_DNA,PathName_DNA\n1,img.tif,/d/raw\n")
    with pytest.raises(UserError, match="PathName_ of Image.csv does not tell which one"):
        objects_of_fields(objects, folder, keys, files)


def test_objects_of_other_fields_are_refused(tmp_path):
    objects, folder, keys, _ = run_of(tmp_path, None)
    with pytest.raises(UserError, match="none of its objects is of these fields"):
        objects_of_fields(objects, folder, keys, [[Path("a.tif")], [Path("b.tif")]])
