import numpy as np
import pandas as pd
import pytest
from raw_sets import DATA

from util.errors import UserError
from util.raw.cellprofiler import (
    SEVERAL,
    feature_table,
    find_spreadsheet,
    index_crops,
    joined_features,
    read_objects,
    read_spreadsheet,
)

REAL = DATA / "cellprofiler_examplehuman"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the shared data are not here")


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_one_header_row(tmp_path):
    path = write(
        tmp_path / "Cells.csv",
        "ImageNumber,ObjectNumber,Metadata_Site,Metadata_Well,AreaShape_Area,Texture_X",
        "1,1,08,A03,10,nan",
        "1,2,08,A03,,2.5",
    )
    tables = read_spreadsheet(path, "Cells")
    assert list(tables) == ["Cells"]
    table = tables["Cells"]
    assert list(table["Metadata_Site"]) == ["08", "08"]  # as it stands there
    assert table["ObjectNumber"].dtype == np.int64
    assert table["AreaShape_Area"].isna().tolist() == [False, True]
    assert table["Texture_X"].isna().tolist() == [True, False]


def test_two_header_rows_and_metadata_twice(tmp_path):
    path = write(
        tmp_path / "All.csv",
        "Image,Nuclei,Image,Image,Nuclei,Nuclei,Cells,Cells",
        "ImageNumber,ObjectNumber,Metadata_Well,Metadata_Well,AreaShape_Area,A_B,AreaShape_Area,A_B",
        "1,1,A01,A01,10,1,100,7",
        "1,2,A01,A01,11,2,nan,nan",  # fewer cells than nuclei
    )
    tables = read_spreadsheet(path, "Nuclei")
    assert list(tables) == ["Nuclei", "Cells"]
    assert tables["Nuclei"]["AreaShape_Area"].tolist() == [10, 11]
    assert tables["Cells"]["AreaShape_Area"].tolist() == [100]
    assert list(tables["Cells"].columns) == [
        "ImageNumber", "ObjectNumber", "Metadata_Well", "AreaShape_Area", "A_B"
    ]  # fmt: skip
    features, _ = joined_features(path, "Nuclei")
    assert features.loc[(1, 1)].to_dict() == {
        "Nuclei_AreaShape_Area": 10,
        "Nuclei_A_B": 1,
        "Cells_AreaShape_Area": 100,
        "Cells_A_B": 7,
    }
    assert features.loc[(1, 2), "Cells_A_B"] != features.loc[(1, 2), "Cells_A_B"]


HEADER = "ImageNumber,ObjectNumber,Metadata_Well,AreaShape_Center_X,AreaShape_Center_Y"


@pytest.mark.parametrize(
    "lines, message",
    [
        ([], "is empty"),
        ([HEADER], "a header but no rows"),
        (["Image;Object;X", "1;2;3"], "no column ImageNumber"),
        (["ImageNumber,ObjectNumber,Metadata_Well,AreaShape_Center_X", "1,1,A,2"], "_Center_Y"),
        ([HEADER.replace("Metadata_Well", "A"), "1,1,2,3,4"], "no column Metadata_Well"),
        ([HEADER, "1,1,A01,5,x7"], "AreaShape_Center_Y holds 'x7'"),
        ([HEADER, "1,1,A01,5,5", "1,1,A01,6,6"], "object 1 of image 1 stands in two rows"),
        ([HEADER, "1,,A01,5,5"], "ObjectNumber is empty in 1 rows"),
        ([HEADER, "1,1,,5,5"], "Metadata_Well is empty in 1 rows"),
        ([f"{HEADER},Metadata_Well", "1,1,A01,5,5,A02"], "Metadata_Well stands there twice"),
    ],
)
def test_damaged_spreadsheets_are_named(tmp_path, lines, message):
    path = tmp_path / "Cells.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match=message) as error:
        read_objects(path, "Cells", columns=(), keys=["Metadata_Well"])
    assert "Cells.csv" in str(error.value) and "\n" not in str(error.value)


def test_an_object_is_chosen_by_its_name(tmp_path):
    """Of two objects in one spreadsheet; its rows are numbered from 0, whatever was left out."""
    lines = [
        "Image,Image,Cells,Cells,Nuclei,Nuclei",
        "ImageNumber,ObjectNumber,AreaShape_Center_X,AreaShape_Center_Y,AreaShape_Center_X,"
        "AreaShape_Center_Y",
        "1,1,nan,nan,5,6",
        "1,2,7,8,9,10",
    ]
    path = write(tmp_path / "Both.csv", *lines)
    table = read_objects(path, "Cells")
    assert table.index.tolist() == [0] and "index" not in table
    assert table["AreaShape_Center_Y"].tolist() == [8]
    with pytest.raises(
        UserError, match="Both.csv holds .*Cells, Nuclei.*, no object called Bodies"
    ):
        read_objects(path, "Bodies")


def test_a_header_in_windows_letters_is_read(tmp_path):
    path = tmp_path / "Cells.csv"
    path.write_bytes(f"{HEADER},Metadata_größe\n1,1,A01,5,6,x\n".encode("cp1252"))
    assert read_objects(path, "Cells", columns=())["AreaShape_Center_Y"].tolist() == [6]


def test_semicolons_and_tabs(tmp_path):
    for separator in ";\t":
        lines = [line.replace(",", separator) for line in (HEADER, "1,2,A01,5,6")]
        path = write(tmp_path / "Cells.csv", *lines)
        assert read_objects(path, "Cells", ()).iloc[0]["AreaShape_Center_Y"] == 6
    with pytest.raises(UserError, match="no such spreadsheet"):
        read_spreadsheet(tmp_path / "gone.csv", "Cells")


def test_find_spreadsheet_by_any_prefix(tmp_path):
    for name in ("MyExpt_Cells.csv", "MyExpt_FilteredCells.csv", "200515_AnalysisSplitBodies.csv"):
        (tmp_path / name).touch()
    assert find_spreadsheet(tmp_path, "Cells").name == "MyExpt_Cells.csv"
    assert find_spreadsheet(tmp_path, "SplitBodies").name == "200515_AnalysisSplitBodies.csv"
    assert find_spreadsheet(tmp_path, "Nuclei") is None
    (tmp_path / "Other_Cells.csv").touch()
    with pytest.raises(UserError, match="MyExpt_Cells.csv and Other_Cells.csv"):
        find_spreadsheet(tmp_path, "Cells")
    (tmp_path / "Cells.csv").touch()
    assert find_spreadsheet(tmp_path, "Cells").name == "Cells.csv"


def test_old_and_new_names_of_crops(tmp_path):
    names = ["Cells_1.png", "plate_Cells_3_Cells_12.tiff", "field 7_Cells_2.TIF", "Nuclei_4.png"]
    names += ["a_Cells_5.png", "b_Cells_5.png", "Cells_6.txt", "SplitCells_7.png"]
    for name in names:
        (tmp_path / name).touch()
    crops = index_crops(tmp_path, "Cells")
    assert {n: p if p == SEVERAL else p.name for n, p in crops.items()} == {
        1: "Cells_1.png",
        12: "plate_Cells_3_Cells_12.tiff",
        2: "field 7_Cells_2.TIF",
        5: SEVERAL,
    }
    assert index_crops(tmp_path / "gone", "Cells") == {}


def test_compartments_are_joined_by_their_parents(tmp_path):
    """Cell 1 was grown around nucleus 2, cell 2 around nucleus 3; nucleus 1 has no cell."""
    write(tmp_path / "R_Nuclei.csv", "ImageNumber,ObjectNumber,F_a", "1,1,10", "1,2,20", "1,3,30")
    write(
        tmp_path / "R_Cells.csv",
        "ImageNumber,ObjectNumber,Parent_Nuclei,AreaShape_Center_X,F_a",
        "1,1,2,5,21",
        "1,2,3,6,31",
    )
    write(tmp_path / "R_Cytoplasm.csv", "ImageNumber,ObjectNumber,Parent_Cells,F_a", "1,1,2,32")
    features, notes = joined_features(tmp_path / "R_Cells.csv", "Cells")
    expected = pd.DataFrame(
        {"Cells_F_a": [21.0, 31], "Nuclei_F_a": [20.0, 30], "Cytoplasm_F_a": [np.nan, 32]},
        index=pd.MultiIndex.from_tuples([(1, 1), (1, 2)], names=["ImageNumber", "ObjectNumber"]),
    )
    pd.testing.assert_frame_equal(features, expected)
    assert notes == ["1 Cells have no Cytoplasm: these features are empty"]
    write(tmp_path / "R_Cytoplasm.csv", "ImageNumber,ObjectNumber,Parent_Cells,F_a", "1,1,1,42")
    first, _ = joined_features(tmp_path / "R_Cells.csv", "Cells")
    np.testing.assert_array_equal(first["Cytoplasm_F_a"], [42, np.nan])
    from_nuclei, _ = joined_features(tmp_path / "R_Nuclei.csv", "Nuclei")
    assert from_nuclei["Cells_F_a"].tolist()[1:] == [21, 31]
    assert np.isnan(from_nuclei["Cells_F_a"].iloc[0])


def test_no_usable_feature_costs_no_cells(tmp_path, capsys):
    path = write(tmp_path / "Cells.csv", "ImageNumber,ObjectNumber,Metadata_Well", "1,1,A01")
    cells = pd.DataFrame({"Unique_ID": ["a"], "CP_ImagerNumber": [1], "CP_ObjectNumber": [1]})
    assert feature_table(path, "Cells", cells) is None
    assert "no table of features is written" in capsys.readouterr().out


@needs_real
def test_the_real_run_is_joined_and_cleaned():
    """Against pandas' own merge of the three files of CellProfiler 4.0.6."""
    features, notes = joined_features(REAL / "Cells.csv", "Cells")
    assert features.shape[0] == 289 and notes == []
    raw = {name: pd.read_csv(REAL / f"{name}.csv") for name in ("Cells", "Nuclei", "Cytoplasm")}
    merged = raw["Cells"].merge(
        raw["Nuclei"], left_on="Parent_Nuclei", right_on="ObjectNumber", suffixes=("", "_nucleus")
    )
    merged = merged.merge(
        raw["Cytoplasm"], left_on="ObjectNumber", right_on="Parent_Cells", suffixes=("", "_plasm")
    ).sort_values("ObjectNumber")
    for ours, theirs in [
        ("Cells_AreaShape_Area", "AreaShape_Area"),
        ("Nuclei_AreaShape_Area", "AreaShape_Area_nucleus"),
        ("Cytoplasm_Intensity_MeanIntensity_PH3", "Intensity_MeanIntensity_PH3_plasm"),
    ]:
        np.testing.assert_array_equal(features[ours], merged[theirs])
    assert not [name for name in features if "Location" in name or "Center" in name]
    cells = pd.DataFrame(
        {
            "Unique_ID": [f"c{n}" for n in raw["Cells"]["ObjectNumber"]],
            "CP_ImagerNumber": 1,
            "CP_ObjectNumber": raw["Cells"]["ObjectNumber"],
        }
    )
    table = feature_table(REAL / "Cells.csv", "Cells", cells)
    values = table.drop(columns="Unique_ID")
    assert len(table) == 289 and 100 < values.shape[1] < 234
    assert np.abs(values).max().max() <= 10 and (values.std() > 0).all()
    correlation = np.corrcoef(features[values.columns].fillna(0).to_numpy(), rowvar=False)
    assert np.abs(correlation - np.eye(len(correlation))).max() < 0.96
