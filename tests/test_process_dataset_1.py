"""BBBC031: the script as a user runs it, on tiny raw sets and on the one real field."""

import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from raw_sets import (
    DATA,
    contents,
    positions,
    read_cells,
    run_in_process,
    snapshot,
    write_bbbc031,
    write_png,
)

SCRIPT = "util/Process_DataSet_1.py"
NAMES = ["MetaData1_GT_link_CP.csv", "MetaData1_GT_link_CP_unmatched.csv", "Synthetic_Data_1"]
COLUMNS = (
    "Well,Site,GT_label,GT_Cell_id,Unique_ID,GT_x,GT_y,GT_colorR,GT_colorG,GT_colorB,GT_Shape,"
    "GT_dist_toInit_state,GT_initial_state,PositionOnRegressionPlaneX,PositionOnRegressionPlaneY,"
    "CP_ImagerNumber,CP_ObjectNumber,CP_x,CP_y"
).split(",")


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    write_bbbc031(folder)
    return folder


@pytest.fixture
def process(capsys, monkeypatch, tmp_path):
    """Run on tmp_path/raw into tmp_path/out; the raw data must be as they were, to the byte."""

    def run(*options, ok=True):
        before = snapshot(tmp_path / "raw")
        places = ("--raw", tmp_path / "raw", "--out", tmp_path / "out")
        code, out, err = run_in_process(capsys, monkeypatch, SCRIPT, *places, *options)
        assert snapshot(tmp_path / "raw") == before
        assert code == (0 if ok else 2), err
        if not ok:
            assert err.startswith("error: ") and err.count("\n") == 1
        return out if ok else err

    return run


def truth_of(raw):
    return raw / "BBBC031_v1_DatasetGroundTruth.csv"


def spreadsheet_of(raw):
    return next((raw / "CellProfiler_Outputs" / "Quantitative_Outputs").iterdir())


def change_table(path, change, separator=";"):
    table = pd.read_csv(path, sep=separator)
    change(table).to_csv(path, sep=separator, index=False)


def metadata_of(out, name=NAMES[0]):
    return pd.read_csv(out / name, float_precision="round_trip")


def test_metadata_and_cells_are_the_truth(raw, process, tmp_path):
    truth = pd.read_csv(truth_of(raw), sep=";")
    out = process()
    assert "32 cells written, 0 left out" in out
    table = metadata_of(tmp_path / "out")
    assert list(table.columns) == COLUMNS
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        [*NAMES, "Synthetic_Data_1_features.csv"]
    )
    merged = table.assign(
        ImageName=[f"ProcessPlateSparse_w{r.Well}_s{r.Site:02d}_z1_t1" for r in table.itertuples()]
    ).merge(truth, left_on=["ImageName", "GT_Cell_id"], right_on=["ImageName", "CellIdx"])
    assert len(merged) == 32
    for ours, theirs in [
        ("GT_x", "LocationX"),
        ("GT_y", "LocationY"),
        ("GT_label", "ProcessID"),
        ("GT_Shape", "ShapeParams"),
        ("GT_colorG", "ColorParamsG"),
        ("PositionOnRegressionPlaneX_x", "PositionOnRegressionPlaneX_y"),
    ]:
        np.testing.assert_allclose(merged[ours], merged[theirs], rtol=1e-14)
    assert (table["CP_ObjectNumber"] == 9 - table["GT_Cell_id"]).all()  # numbered backwards
    assert np.hypot(table["GT_x"] - 1 - table["CP_x"], table["GT_y"] - 1 - table["CP_y"]).max() < 8


def test_images_are_the_merged_crops_in_the_folder_of_their_process(raw, process, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    _, crops, _ = write_bbbc031(tmp_path / "elsewhere")
    process()
    images, folders = read_cells(tmp_path / "out" / "Synthetic_Data_1")
    assert set(images) == set(crops) == set(metadata_of(tmp_path / "out")["Unique_ID"])
    for name, image in images.items():
        np.testing.assert_array_equal(image, crops[name])
        assert folders[name] == f"Process_{name.split('_')[1]}"


def test_derived_truth_is_normalised_over_all_cells_also_lost_ones(raw, process, tmp_path):
    """By the definition, row by row; the farthest cell of process 2 has no object."""
    truth = pd.read_csv(truth_of(raw), sep=";")
    x, y = truth["PositionOnRegressionPlaneX"], truth["PositionOnRegressionPlaneY"]
    distance = np.minimum(np.hypot(x, y), np.hypot(1 - x, 1 - y))
    farthest = distance[truth["ProcessID"] == 2].idxmax()
    change_table(truth_of(raw), lambda t: move(t, farthest))
    process()
    table = metadata_of(tmp_path / "out")
    for row in table.itertuples():
        gx, gy = row.PositionOnRegressionPlaneX, row.PositionOnRegressionPlaneY
        own = min(np.hypot(gx, gy), np.hypot(1 - gx, 1 - gy))
        largest = distance[truth["ProcessID"] == row.GT_label].max()
        assert row.GT_dist_toInit_state == pytest.approx(own / largest, abs=1e-12)
        assert row.GT_initial_state == ("red" if gy > 1 - gx else "green")
    assert table["GT_dist_toInit_state"][table["GT_label"] == 2].max() < 1
    lost = metadata_of(tmp_path / "out", NAMES[1])
    assert lost["reason"].tolist() == ["no object within 35 px"]


def move(table, row):
    table.loc[row, ["LocationX", "LocationY"]] = 900
    return table


def test_features_are_written_for_the_framework(raw, process, tmp_path):
    from util.cell_features import read_cellprofiler_table

    process()
    ids = list(metadata_of(tmp_path / "out")["Unique_ID"])
    path = tmp_path / "out" / "Synthetic_Data_1_features.csv"
    table, notes = read_cellprofiler_table(path, ids)
    assert notes == [] and list(table) == [
        "Cells_AreaShape_Area", "Cells_Intensity_MeanIntensity_Blue"
    ]  # fmt: skip
    raw_area = pd.read_csv(spreadsheet_of(raw)).set_index(["ImageNumber", "ObjectNumber"])
    linked = metadata_of(tmp_path / "out").set_index("Unique_ID")
    keys = list(linked[["CP_ImagerNumber", "CP_ObjectNumber"]].itertuples(index=False, name=None))
    area = raw_area.loc[keys, "AreaShape_Area"].to_numpy()
    assert np.corrcoef(area, table["Cells_AreaShape_Area"])[0, 1] == pytest.approx(1)


def test_new_names_of_crops(raw, process, tmp_path):
    for path in list((raw / "CellProfiler_Outputs").rglob("SplitCellBodies_*.png")):
        path.rename(path.with_name(f"plate_A_{path.name}"))
    assert "32 cells written" in process()


def crop_path(raw, channel, place, number):
    root = raw / "CellProfiler_Outputs" / "SingleWholeCellCroppedImages"
    return root / f"CroppedImages_{channel}" / place / f"SplitCellBodies_{number}.png"


def test_damaged_crops_are_counted_and_the_rest_is_written(raw, process, tmp_path):
    crop_path(raw, "Green", "A01_01", 8).unlink()  # id 1
    whole = crop_path(raw, "Red", "A01_01", 7)  # id 2
    whole.write_bytes(whole.read_bytes()[:70])
    write_png(crop_path(raw, "Blue", "A01_01", 6), np.ones((4, 4), np.uint8))  # id 3
    for path in crop_path(raw, "Blue", "B02_02", 1).parent.iterdir():
        path.unlink()
    out = process()
    assert "21 cells written, 11 left out" in out
    lost = metadata_of(tmp_path / "out", NAMES[1]).set_index(["Well", "Site", "GT_Cell_id"])
    assert (
        lost.loc[("A01", 1, 1), "reason"] == "no crop of its object in CroppedImages_Green/A01_01"
    )
    assert "SplitCellBodies_7.png cannot be read" in lost.loc[("A01", 1, 2), "reason"]
    assert "channels of unequal shape (12 x" in lost.loc[("A01", 1, 3), "reason"]
    assert (lost.loc[("B02", 2), "reason"].str.endswith("CroppedImages_Blue/B02_02")).all()
    images, _ = read_cells(tmp_path / "out" / "Synthetic_Data_1")
    assert set(images) == set(metadata_of(tmp_path / "out")["Unique_ID"]) and len(images) == 21


def missing_channel(raw):
    folder = raw / "CellProfiler_Outputs" / "SingleWholeCellCroppedImages" / "CroppedImages_Red"
    folder.rename(folder.with_name("Red"))


def wrong_separator(raw):
    truth_of(raw).write_text(truth_of(raw).read_text().replace(";", "~"))


def odd_decimal_signs(raw):
    truth_of(raw).write_text(truth_of(raw).read_text().replace(".", "'"))


@pytest.mark.parametrize("old, new", [(".", ","), (";", "|"), (";", "\t")])
def test_other_separators_and_decimal_signs_give_the_same_table(raw, process, tmp_path, old, new):
    process()
    expected = (tmp_path / "out" / NAMES[0]).read_bytes()
    shutil.rmtree(tmp_path / "out")
    truth_of(raw).write_text(truth_of(raw).read_text().replace(old, new))
    process()
    assert (tmp_path / "out" / NAMES[0]).read_bytes() == expected


def swapped(raw):
    names = {"LocationX": "LocationY", "LocationY": "LocationX"}
    change_table(truth_of(raw), lambda t: t.rename(columns=names))


def duplicate_rows(raw):
    change_table(truth_of(raw), lambda t: pd.concat([t, t[3:5]]))


def empty_spreadsheet(raw):
    spreadsheet_of(raw).write_text("")


def unfinished_spreadsheet(raw):
    spreadsheet_of(raw).write_text(spreadsheet_of(raw).read_text().splitlines()[0])


def other_images(raw):
    change_table(truth_of(raw), lambda t: t.assign(LocationX=t["LocationX"] + 4000))


def wrong_name(raw):
    """Of the second row alone."""
    change_table(
        truth_of(raw),
        lambda t: t.assign(ImageName=t["ImageName"].where(t.index != 1, "field 1")),
    )


@pytest.mark.parametrize(
    "damage, message",
    [
        (missing_channel, "1 folders of a channel are missing"),
        (wrong_separator, "no column CellIdx; .* is the separator a comma, a semicolon or a tab"),
        (odd_decimal_signs, 'holds "0\'.*" where a number belongs'),
        (swapped, "LocationX, LocationY.*with X and Y exchanged: these two columns are swapped"),
        (duplicate_rows, "4 rows share their image and CellIdx: .*keep one row per cell"),
        (empty_spreadsheet, "SplitCellBodies.csv is empty"),
        (unfinished_spreadsheet, "has a header but no rows"),
        (other_images, "none of 32 cells has an object within 35 px"),
        (wrong_name, "ImageName 'field 1' is not like"),
    ],
)
def test_what_is_wrong_with_the_tables_is_said_before_anything_is_written(
    raw, process, tmp_path, damage, message
):
    damage(raw)
    assert re.search(message, process(ok=False))
    assert not (tmp_path / "out").exists()


def test_commas_between_the_columns_are_fine(raw, process):
    truth_of(raw).write_text(truth_of(raw).read_text().replace(";", ","))
    assert "32 cells written" in process()


def test_nothing_to_read(process, tmp_path):
    (tmp_path / "raw").mkdir()
    assert "there is no BBBC031_v1_DatasetGroundTruth.csv" in process(ok=False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk(raw, process, tmp_path):
    """The file of one cell lies on a device that is always full."""
    partial = tmp_path / "out" / ".Synthetic_Data_1.partial"
    file = partial / "cells" / "Process_3" / "CellProcess_3_A01_02_id3.tiff"
    file.parent.mkdir(parents=True)
    file.symlink_to("/dev/full")
    assert "no space left on the disk" in process(ok=False)
    assert [p.name for p in (tmp_path / "out").iterdir()] == [partial.name]
    file.unlink()
    assert "going on: 1 of 4" in process()
    assert len(read_cells(tmp_path / "out" / "Synthetic_Data_1")[0]) == 32


def test_killed_in_the_middle_it_goes_on(tmp_path, run_script, capsys, monkeypatch):
    """The real script with two workers, killed without mercy; then the same again, with one."""
    (tmp_path / "raw").mkdir()
    wells = [f"{row}{column:02d}" for row in "ABCD" for column in range(1, 7)]
    write_bbbc031(tmp_path / "raw", wells, cells=16)
    before = snapshot(tmp_path / "raw")
    options = ("--raw", tmp_path / "raw", "--no-progress", "--workers", "2", "--out")
    process = run_script(SCRIPT, *options, tmp_path / "out", wait=False)
    partial = tmp_path / "out" / ".Synthetic_Data_1.partial"
    deadline = time.monotonic() + 60
    while not any(partial.glob("done/[!.]*.csv")) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(0.5)  # its workers follow it
    done = len(list(partial.glob("done/[!.]*.csv")))
    assert 0 < done < 48
    assert [p.name for p in (tmp_path / "out").iterdir()] == [partial.name]

    def run(out):
        places = ("--raw", tmp_path / "raw", "--out", tmp_path / out)
        return run_in_process(capsys, monkeypatch, SCRIPT, *places)

    code, said, err = run("out")
    assert code == 0 and f"going on: {done} of 48" in said, err
    code, said, err = run("undisturbed")
    assert code == 0 and "768 cells written, 0 left out" in said, err
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")
    assert snapshot(tmp_path / "raw") == before
    code, _, err = run("out")
    assert code == 2 and "is there already" in err
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def write_fields(raw):
    """Fields of discs with a blue nucleus, and their masks, where the ground truth says."""
    images = raw / "BBBC031_v1_dataset" / "Images"
    masks = raw / "BBBC031_v1_dataset" / "Masks"
    masks.mkdir(parents=True)
    x, y = positions(8)
    rows, columns = np.indices((200, 400))
    distance = np.hypot(rows[..., None] - y, columns[..., None] - x)  # (H, W, 8)
    cell, nucleus = (distance < 22).any(-1), (distance < 8).any(-1)
    nearest = distance.argmin(-1)
    for well, site in ((w, s) for w in ("A01", "B02") for s in (1, 2)):
        colour = np.random.default_rng(ord(well[0]) + site).integers(60, 250, (8, 3))
        colour = np.where(nucleus[..., None], (0, 0, 200), colour[nearest])
        field = np.where(cell[..., None], colour, 0)
        stem = f"ProcessPlateSparse_w{well}_s{site:02d}_z1_t1"
        write_png(images / f"{stem}_CELLMASK.png", field.astype(np.uint8))
        for name, mask in (("CELLMASK", cell & ~nucleus), ("NUCLMASK", nucleus)):
            Image.fromarray(mask.astype(np.uint8) * 255).save(masks / f"{stem}_{name}.tiff")
    return cell


@pytest.mark.parametrize("source", ["masks", "fields"])
def test_without_cellprofiler(raw, process, tmp_path, source):
    cell = write_fields(raw)
    assert "32 cells written, 0 left out" in process("--cells-from", source)
    table = metadata_of(tmp_path / "out").set_index("Unique_ID")
    assert list(table.reset_index()[COLUMNS]) == COLUMNS
    np.testing.assert_allclose(table["CP_x"], table["GT_x"] - 1, atol=0.01)
    np.testing.assert_allclose(table["CP_y"], table["GT_y"] - 1, atol=0.01)
    assert not (tmp_path / "out" / "Synthetic_Data_1_features.csv").exists()
    images, _ = read_cells(tmp_path / "out" / "Synthetic_Data_1")
    for name, image in images.items():
        row = table.loc[name]
        stem = f"ProcessPlateSparse_w{row['Well']}_s{row['Site']:02d}_z1_t1_CELLMASK.png"
        field = np.asarray(Image.open(raw / "BBBC031_v1_dataset" / "Images" / stem))
        top, left = int(row["GT_y"]) - 1 - 21, int(row["GT_x"]) - 1 - 21
        window = np.s_[top : top + 43, left : left + 43]
        np.testing.assert_array_equal(image, np.where(cell[window][..., None], field[window], 0))


def test_damaged_fields_are_counted(raw, process, tmp_path):
    write_fields(raw)
    folder = raw / "BBBC031_v1_dataset"
    stem = "ProcessPlateSparse_w{}_z1_t1"
    field = folder / "Images" / f"{stem.format('A01_s01')}_CELLMASK.png"
    field.write_bytes(field.read_bytes()[:100])
    Image.new("L", (20, 20)).save(folder / "Masks" / f"{stem.format('A01_s02')}_NUCLMASK.tiff")
    (folder / "Masks" / f"{stem.format('B02_s01')}_CELLMASK.tiff").unlink()
    assert "8 cells written, 24 left out" in process("--cells-from", "masks")
    lost = metadata_of(tmp_path / "out", NAMES[1])
    reasons = lost.groupby(["Well", "Site"])["reason"].first()
    assert "cannot be read" in reasons["A01", 1] and "unequal shape" in reasons["A01", 2]
    assert reasons["B02", 1].startswith("no file Masks/")


def test_missing_masks_and_swapped_columns(raw, process, tmp_path):
    write_fields(raw)
    swapped(raw)
    assert "swapped" in process("--cells-from", "fields", ok=False)
    masks = raw / "BBBC031_v1_dataset" / "Masks"
    masks.rename(masks.with_name("M"))
    assert "run with --cells-from fields" in process("--cells-from", "masks", ok=False)


REAL = DATA / "bbbc031"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the shared data are not here")


def real_truth(folder):
    """The published ground truth of the 37 cells of A03 site 8 in the table of 7,387."""
    codes = pd.read_csv(REAL / "vae_latent_codes_7387_cells.csv")
    codes = codes[(codes["Well"] == "A03") & (codes["Site"] == 8)].sort_values("GT_Cell_id")
    assert set(range(1, 41)) - set(codes["GT_Cell_id"]) == {10, 31, 39}
    table = pd.DataFrame(
        {
            "ImageName": "ProcessPlateSparse_wA03_s08_z1_t1",
            "CellIdx": codes["GT_Cell_id"],
            "LocationX": codes["GT_x"],
            "LocationY": codes["GT_y"],
            "ColorParamsR": codes["GT_colorR"],
            "ColorParamsG": codes["GT_colorG"],
            "ColorParamsB": codes["GT_colorB"],
            "ShapeParams": codes["GT_Shape"],
            "ProcessID": codes["GT_label"],
            "PositionOnRegressionPlaneX": codes["PositionOnRegressionPlaneX"],
            "PositionOnRegressionPlaneY": codes["PositionOnRegressionPlaneY"],
        }
    )
    folder.mkdir()
    table.to_csv(folder / "BBBC031_v1_DatasetGroundTruth.csv", sep=";", index=False)
    return codes


@needs_real
def test_real_cellprofiler_style_outputs(process, tmp_path):
    codes = real_truth(tmp_path / "raw")
    assert "37 cells written, 0 left out" in process("--cellprofiler", REAL / "cellprofiler_style")
    table = metadata_of(tmp_path / "out").sort_values("GT_Cell_id")
    assert table["CP_ObjectNumber"].is_unique
    away = np.hypot(table["GT_x"] - 1 - table["CP_x"], table["GT_y"] - 1 - table["CP_y"])
    assert away.max() < 8
    assert table["Unique_ID"].tolist() == codes["Unique_ID"].tolist()
    assert table["GT_initial_state"].tolist() == codes["GT_initial_state"].tolist()
    _same_colours(table, tmp_path / "out")


@needs_real
def test_from_the_real_png_by_threshold(process, tmp_path):
    real_truth(tmp_path / "raw")
    out = process("--cells-from", "fields", "--images", REAL)
    assert "37 cells written, 0 left out" in out
    table = metadata_of(tmp_path / "out")
    assert table["CP_ObjectNumber"].is_unique and table["CP_ObjectNumber"].max() <= 40
    _same_colours(table, tmp_path / "out")
    # Both routes cut the same pixels out of the same field.
    process("--cellprofiler", REAL / "cellprofiler_style", "--out", tmp_path / "crops")
    cut, _ = read_cells(tmp_path / "out" / "Synthetic_Data_1")
    cropped, _ = read_cells(tmp_path / "crops" / "Synthetic_Data_1")
    for name, image in cut.items():
        np.testing.assert_array_equal(image, cropped[name])


def _same_colours(table, out):
    """Cytoplasm = texture x 255 x (R, G, B): the published colour up to one texture a cell."""
    images, _ = read_cells(out / "Synthetic_Data_1")
    for row in table.itertuples():
        pixels = images[row.Unique_ID].reshape(-1, 3).astype(float)
        cytoplasm = pixels[(pixels[:, :2] > 0).any(axis=1)]  # the nucleus is pure blue
        colour = np.array([row.GT_colorR, row.GT_colorG, row.GT_colorB])
        texture = cytoplasm.mean(axis=0) @ colour / (colour @ colour) / 255
        assert 0.5 < texture < 0.7
        np.testing.assert_allclose(cytoplasm.mean(axis=0) / 255 / texture, colour, atol=0.01)
