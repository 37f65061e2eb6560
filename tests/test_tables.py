"""Tables as spreadsheets and programs write them: the same values, whatever the dialect."""

import numpy as np
import pandas as pd
import pytest

from util.errors import UserError
from util.tables import ids_of, match_names, read_table


def test_the_separator_is_the_one_that_yields_the_ids(tmp_path):
    (tmp_path / "t.csv").write_text(
        "Unique_ID\ttreatment\tdose (uM, 24 h, pH 7, dark)\nc1\ta, b, c, d\t1\nc2\tb\t2\n"
    )
    table = read_table(tmp_path / "t.csv")
    assert table.columns.tolist() == ["Unique_ID", "treatment", "dose (uM, 24 h, pH 7, dark)"]
    assert table["treatment"].tolist() == ["a, b, c, d", "b"]


@pytest.mark.parametrize("kind", ["parquet", "categories"])
def test_parquet(tmp_path, kind):
    table = pd.DataFrame({"Unique_ID": [1, 2, 3], "phase": [1.0, 2.0, None], "dose": [0.5, 1, 7]})
    if kind == "categories":
        table["phase"] = pd.Categorical(["01", "1", "01"])
    table.to_parquet(tmp_path / "t.parquet")
    found = read_table(tmp_path / "t.parquet", ["phase"])
    assert found["Unique_ID"].tolist() == ["1", "2", "3"]
    assert found["dose"].tolist() == [0.5, 1, 7]
    wanted = ["1", "2", None] if kind == "parquet" else ["01", "1", "01"]
    assert found["phase"].where(found["phase"].notna(), None).tolist() == wanted


def test_anndata(tmp_path):
    anndata = pytest.importorskip("anndata")
    obs = pd.DataFrame({"leiden": pd.Categorical(["0", "1"])}, index=["c01.png", "c02.png"])
    data = anndata.AnnData(np.zeros((2, 3)), obs=obs, obsm={"X_umap": np.array([[1.0, 2], [3, 4]])})
    data.write_h5ad(tmp_path / "t.h5ad")
    table = read_table(tmp_path / "t.h5ad", ["leiden"])
    assert table["umap_2"].tolist() == [2, 4] and table["leiden"].tolist() == ["0", "1"]
    ids, notes = ids_of(table, ["c02.png", "c01.png"], "t.h5ad")
    assert ids.tolist() == ["c01.png", "c02.png"] and "'index'" in notes[0]


TYPED = {  # values -> what they are read as
    ("1", "2", "3"): [1, 2, 3],
    ("1.5", "-2", "3e-4", "1.5E+03"): [1.5, -2, 3e-4, 1500.0],
    ("1", "", "3"): [1, np.nan, 3],
    ("01", "1", "001"): ["01", "1", "001"],
    ("007", "008"): ["007", "008"],
    ("0.5", "0", "00.5"): [0.5, 0, 0.5],
    ("1E1", "10"): ["1E1", "10"],
    ("2e3", "5"): ["2e3", "5"],
    ("None", "Taxol", "NA", "null"): ["None", "Taxol", "NA", "null"],
    ("True", "False"): ["True", "False"],
    ("1,5", "2"): ["1,5", "2"],  # between commas it would have been quoted: no decimal sign
    ("2024-01-01", "2024-01-02"): ["2024-01-01", "2024-01-02"],
    ("12345678901234567890", "1"): ["12345678901234567890", "1"],
    ("1_000", "2"): ["1_000", "2"],
    ("0x10", "2"): ["0x10", "2"],
}


@pytest.mark.parametrize("values", TYPED, ids=lambda v: " ".join(v))
def test_text_stays_text_and_numbers_are_numbers(tmp_path, values):
    pd.DataFrame({"Unique_ID": range(len(values)), "x": values}).to_csv(
        tmp_path / "t.csv", index=False
    )
    found = read_table(tmp_path / "t.csv")["x"].tolist()
    for one, wanted in zip(found, TYPED[values], strict=True):
        assert type(one) is type(wanted) or not isinstance(wanted, str)
        np.testing.assert_equal(one, wanted)


def test_words_for_missing_are_told(tmp_path):
    (tmp_path / "t.csv").write_text("Unique_ID,drug,dose\n1,NA,1\n2,Taxol,nan\n3,None,3\n")
    table = read_table(tmp_path / "t.csv")
    assert table["drug"].tolist() == ["NA", "Taxol", "None"]
    np.testing.assert_equal(table["dose"].tolist(), [1, np.nan, 3])
    assert table.attrs["notes"] == [
        "t.csv: column 'drug': NA, None is text like any other, not missing",
        "t.csv: column 'dose': nan among numbers is missing",
    ]


def test_classes_keep_their_text(tmp_path):
    (tmp_path / "t.csv").write_text("Unique_ID,phase,clone\n01,1.0,1E2\n1,2.0,3E2\n001,,\n")
    table = read_table(tmp_path / "t.csv", ["phase", "clone"])
    assert table["Unique_ID"].tolist() == ["01", "1", "001"]
    assert table["phase"].tolist() == ["1", "2", None]  # as pandas writes whole numbers beside gaps
    assert table["clone"].tolist() == ["1E2", "3E2", None]


@pytest.mark.parametrize(
    "content, message",
    [(b"", "cannot be read"), (b"a,b\n", "has no rows"), (b"PK\x03\x04abc", "save it as CSV"),
     (b"a\0b", "save it as CSV")],
)  # fmt: skip
def test_no_table(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_table(tmp_path / "t.csv")
    with pytest.raises(UserError, match="there is no such file"):
        read_table(tmp_path / "u.csv")


IMAGES = ["001.png", "002.png", "010.png", "sub/a.tif"]


@pytest.mark.parametrize(
    "asked, places",
    [
        (["001.png", "010.png"], [0, 2]),
        (["001", "010"], [0, 2]),
        (["1", "10", "2"], [0, 2, 1]),
        (["1.tiff"], [0]),
        (["sub\\a.tif", "a", "b"], [3, -1, -1]),
        (["a.png"], [3]),
        ([" 001.png "], [0]),
        (["1", "01"], [-1, -1]),  # which of them is 001?
        (["001", "1"], [0, -1]),
    ],
)
def test_names_find_their_images(asked, places):
    assert match_names(asked, IMAGES).tolist() == places


def test_names_that_zeros_would_confuse_stay_apart():
    assert match_names(["1", "01"], ["1.png", "01.png"]).tolist() == [0, 1]
    assert match_names(["001"], ["1.png", "01.png"]).tolist() == [-1]


def test_every_row_finds_its_image_without_its_ending():
    """The first row and the first image, too."""
    names = ["a.tif", "b.tif", "c.tif", "d.tif"]
    assert match_names(["a", "b", "c", "d"], names).tolist() == [0, 1, 2, 3]
    assert match_names(["d", "b.tif", "a", "c.png"], names).tolist() == [3, 1, 0, 2]


@pytest.mark.parametrize("name", ["", "index", "cell_id", "what_i_call_it"])
def test_the_ids_are_found_by_their_values(tmp_path, name):
    rows = "".join(f"c{i}.png,{i % 2},{i / 10}\n" for i in (3, 1, 2))
    (tmp_path / "t.csv").write_text(f"{name},leiden,UMAP_1\n{rows}")
    ids, notes = ids_of(read_table(tmp_path / "t.csv"), ["c1.png", "c2.png", "c3.png"], "t.csv")
    assert ids.tolist() == ["c3.png", "c1.png", "c2.png"]
    assert "says which image a row is" in notes[0]


def test_no_ids(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,4\n")
    with pytest.raises(UserError, match="no column Unique_ID .* its columns are a, b"):
        ids_of(read_table(tmp_path / "t.csv"), ["c1.png", "c2.png"], "t.csv")


def test_a_row_longer_than_the_header_is_refused(tmp_path):
    for text in ("a,b\n1,2,3\n3,4\n", "a,b\n1,2\n3,4,5\n"):
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(UserError, match="cannot be read as a table"):
            read_table(tmp_path / "t.csv")


def test_parquet_of_nullable_types_and_a_named_index(tmp_path):
    table = pd.DataFrame(
        {"n": pd.array([1, None], "Int64"), "text": pd.array(["01", None], "string"),
         "flag": pd.array([True, False], "boolean"), "day": pd.to_datetime(["2024-01-01", None]),
         " padded ": [1.5, 2.5]},
        index=pd.Index(["c1", "c2"], name="cell_id"),
    )  # fmt: skip
    table.to_parquet(tmp_path / "t.parquet")
    found = read_table(tmp_path / "t.parquet")
    wanted = {
        "cell_id": ["c1", "c2"], "n": [1, np.nan], "text": ["01", None], "flag": [True, False],
        "day": ["2024-01-01", None], "padded": [1.5, 2.5],
    }  # fmt: skip
    assert found.columns.tolist() == list(wanted)
    for column, values in wanted.items():
        np.testing.assert_equal(found[column].tolist(), values)
    ids, _ = ids_of(found, ["c2.png", "c1.png"], "t.parquet")
    assert ids.tolist() == ["c1", "c2"]


def test_anndata_as_features_brings_its_matrix(tmp_path):
    anndata = pytest.importorskip("anndata")
    obs = pd.DataFrame({"dose": [1.0, 2.0]}, index=["c1", "c2"])
    var = pd.DataFrame(index=["area", "mean"])
    spatial = {"spatial": np.array([[1.0, 2], [3, 4]])}
    data = anndata.AnnData(np.array([[5.0, 6], [7, 8]]), obs=obs, var=var, obsm=spatial)
    data.write_h5ad(tmp_path / "t.h5ad")
    assert read_table(tmp_path / "t.h5ad").columns.tolist() == [
        "index", "dose", "spatial_1", "spatial_2"
    ]  # fmt: skip
    assert read_table(tmp_path / "t.h5ad", matrix=True)["mean"].tolist() == [6, 8]


def test_a_column_of_small_numbers_is_no_id():
    table = pd.DataFrame({"count": [1, 2, 3], "leiden": ["1", "1", "2"]})
    with pytest.raises(UserError, match="no column Unique_ID"):
        ids_of(table, ["1.png", "2.png", "3.png"], "t.csv")
