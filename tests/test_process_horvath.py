"""Horvath's plates: the script as a user runs it, on a tiny raw set."""

import numpy as np
import pandas as pd
import pytest
from raw_sets import contents, crop_of, positions, read_cells, run_in_process, snapshot, write_crops

SCRIPT = "util/Process_Horvath_Dataset.py"
METADATA = "MetaData2_PeterHorvath_GT_link_CP"
COLUMNS = "Plate,Well,GT_label,Unique_ID,GT_x,GT_y,CP_ImagerNumber,CP_ObjectNumber,CP_x,CP_y"
CELLS = 16
WELLS = [(1, "A02"), (1, "B03"), (12, "A02")]


def class_of(cell):
    return cell % 8 + 1


@pytest.fixture
def raw(tmp_path):
    """Two plates; the object of one cell of class 3 is missing in each well."""
    folder, objects = tmp_path / "raw", []
    outputs = folder / "CellProfiler_Outputs"
    x, y = positions(CELLS)
    for image, (plate, well) in enumerate(WELLS, start=1):
        truth = folder / f"synthPlate{plate:03d}" / "anal2" / f"synthPlate{plate:03d}_w{well}.class"
        truth.parent.mkdir(parents=True, exist_ok=True)
        rows = [f"{y[i]},{x[i]},{class_of(i)}" for i in range(CELLS)]
        truth.write_text("\n".join(rows) + "\n")
        for cell in set(range(CELLS)) - {2}:
            number = CELLS - cell
            crop = crop_of(100 * image + cell)
            write_crops(outputs, "SplitCellBodies", f"{plate:03d}_{well}", number, crop)
            objects.append((image, number, f"{plate:03d}", well, x[cell] + 2.5, y[cell], cell, 1))
    empty = folder / "synthPlate012" / "anal2" / "synthPlate012_wM20.class"
    empty.touch()
    names = (
        "ImageNumber,ObjectNumber,Metadata_Plate,Metadata_Well,AreaShape_Center_X,"
        "AreaShape_Center_Y,AreaShape_Area,AreaShape_EulerNumber"
    ).split(",")
    spreadsheet = outputs / "Quantitative_Outputs"
    spreadsheet.mkdir()
    spreadsheet /= "200602_Horvath_Complex_AnalysisSplitCellBodies.csv"
    pd.DataFrame(objects, columns=names).to_csv(spreadsheet, index=False)
    return folder


@pytest.fixture
def process(raw, capsys, monkeypatch, tmp_path):
    """Run on the raw set; it must be as it was, to the byte and the name."""

    def run(*options, out=tmp_path / "out", ok=True):
        before = snapshot(raw)
        places = ("--raw", raw, "--out", out)
        code, said, err = run_in_process(capsys, monkeypatch, SCRIPT, *places, *options)
        assert snapshot(raw) == before
        assert code == (0 if ok else 2), err
        return said if ok else err

    return run


def test_cells_metadata_and_lay_out(process, tmp_path):
    said = process()
    assert "33 cells written, 3 left out" in said
    assert "class 7 is left out: 6 cells" in said and "class 8 is left out: 6 cells" in said
    assert "1 wells have no cells: synthPlate012_wM20" in said
    table = pd.read_csv(tmp_path / "out" / f"{METADATA}.csv")
    assert ",".join(table.columns) == COLUMNS
    images, folders = read_cells(tmp_path / "out" / "Peter_Horvath_Data")
    x, y = positions(CELLS)
    expected = {
        f"CellClass_{class_of(cell)}_{plate}_{well}_id{cell}.tiff": (image, cell)
        for image, (plate, well) in enumerate(WELLS, start=1)
        for cell in range(CELLS)
        if cell != 2 and class_of(cell) <= 6
    }
    assert set(images) == set(expected) == set(table["Unique_ID"])
    for row in table.itertuples():
        image, cell = expected[row.Unique_ID]
        assert (row.GT_x, row.GT_y, row.GT_label) == (x[cell], y[cell], class_of(cell))
        assert (row.CP_ImagerNumber, row.CP_ObjectNumber) == (image, CELLS - cell)
        assert (row.CP_x, row.CP_y) == (x[cell] + 2.5, y[cell])
        np.testing.assert_array_equal(images[row.Unique_ID], crop_of(100 * image + cell))
        assert folders[row.Unique_ID] == f"Class_{row.GT_label}"
    lost = pd.read_csv(tmp_path / "out" / f"{METADATA}_unmatched.csv")
    assert lost["GT_label"].tolist() == [3, 3, 3]
    assert set(lost["reason"]) == {"no object within 35 px"}
    features = pd.read_csv(tmp_path / "out" / "Peter_Horvath_Data_features.csv")
    assert list(features) == ["Unique_ID", "Cells_AreaShape_Area"]


def test_subsample_by_the_seed(process, tmp_path):
    for seed, out in ((0, "a"), (0, "b"), (1, "c")):
        process("--subsample", 4, "--seed", seed, out=tmp_path / out)
    name = f"{METADATA}_SUBSAMPLE.csv"
    some = pd.read_csv(tmp_path / "a" / name)
    assert some["GT_label"].value_counts().to_dict() == {1: 4, 2: 4, 3: 3, 4: 4, 5: 4, 6: 4}
    everything, _ = read_cells(tmp_path / "a" / "Peter_Horvath_Data")
    images, _ = read_cells(tmp_path / "a" / "Peter_Horvath_Subsample")
    assert set(images) == set(some["Unique_ID"])
    assert all((images[name] == everything[name]).all() for name in images)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert set(some["Unique_ID"]) != set(pd.read_csv(tmp_path / "c" / name)["Unique_ID"])


def classes(raw):
    return raw / "synthPlate001" / "anal2" / "synthPlate001_wA02.class"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda text: text.replace(",", ";"), "not a table of y,x,class with commas"),
        (lambda text: text.replace(",4\n", ",9\n"), "class 9 in the third column"),
        (lambda text: text.replace(",4\n", "\n"), "not a table of y,x,class"),
    ],
)
def test_damaged_class_files_are_named(raw, process, tmp_path, change, message):
    classes(raw).write_text(change(classes(raw).read_text()))
    error = process(ok=False)
    assert "synthPlate001_wA02.class" in error and message in error
    assert not (tmp_path / "out").exists()


def test_x_first_is_noticed(raw, process):
    for file in raw.rglob("*.class"):
        rows = [line.split(",") for line in file.read_text().splitlines()]
        file.write_text("\n".join(f"{x},{y},{c}" for y, x, c in rows))
    assert "swapped" in process(ok=False)


def test_bad_choices(process, raw):
    assert "--subsample must be 1" in process("--subsample", 0, ok=False)
    assert "numbers of 1 to 8" in process("--classes", 1, 9, ok=False)
    for file in raw.rglob("*.class"):
        file.rename(file.with_suffix(".txt"))
    assert "no synthPlate001/anal2/*.class" in process(ok=False)
