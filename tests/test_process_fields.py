"""A user's own fields: the script as a user runs it, on drawn fields and on the real ones."""

import json

import numpy as np
import pandas as pd
import pytest
import tifffile
from raw_sets import DATA, read_cells, run_in_process, snapshot
from skimage.draw import disk

from util.errors import UserError
from util.raw.file_patterns import match_files, pattern_to_regex

SCRIPT = "util/Process_Fields.py"
NUCLEI = [(40, 50), (42, 120), (110, 60), (100, 150)]  # y, x in the middle of their cells
SHAPE = (150, 200)


def draw_field(seed):
    """(H, W, 2) uint16: nuclei of radius 8 and cells of radius 20 around them; and its labels."""
    rng = np.random.default_rng(seed)
    field = rng.normal(200, 10, (*SHAPE, 2))
    cells, nuclei = np.zeros(SHAPE, np.uint16), np.zeros(SHAPE, np.uint16)
    for number, centre in enumerate(NUCLEI, start=1):
        inside, nucleus = disk(centre, 20.5, shape=SHAPE), disk(centre, 8.5, shape=SHAPE)
        cells[inside], nuclei[nucleus] = number, number
        field[(*inside, 1)] += 2000
        field[(*nucleus, 0)] += 3000
        field[(*nucleus, 1)] -= 1900  # a nucleus is dark in the stain of the cell
    return field.astype(np.uint16), cells, nuclei


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    for well, site in (("A1", 1), ("A1", 2), ("B2", 1)):
        field, cells, nuclei = draw_field(ord(well[0]) + site)
        for c, channel in enumerate(("DNA", "ER")):
            tifffile.imwrite(folder / f"{well}_s{site}_{channel}.tif", field[..., c])
        tifffile.imwrite(
            folder / f"{well}_s{site}_nuclei.tiff", (nuclei > 0).astype(np.uint8) * 255
        )
        tifffile.imwrite(folder / f"{well}_s{site}_labels.tiff", cells)
    return folder


@pytest.fixture
def process(capsys, monkeypatch, tmp_path):
    def run(*options, fields=tmp_path / "raw", out=tmp_path / "out", ok=True):
        before = snapshot(fields) if fields.is_dir() else None
        places = ("--fields", fields, "--out", out, "--name", "Mine")
        if "--image-pattern" not in options:
            places += ("--image-pattern", "{well}_s{site}_{channel}.tif")
        code, said, err = run_in_process(capsys, monkeypatch, SCRIPT, *places, *options)
        assert before is None or snapshot(fields) == before
        assert code == (0 if ok else 2), err
        return said if ok else err

    return run


def metadata_of(tmp_path, name="Mine_metadata.csv"):
    return pd.read_csv(tmp_path / "out" / name, keep_default_na=False, na_values=[""])


BARE = ("--nucleus-channel", "DNA", "--nucleus-diameter", "17")
MASKS = ("--nucleus-masks", "{well}_s{site}_nuclei.tiff")
LABELS = ("--cell-masks", "{well}_s{site}_labels.tiff")


@pytest.mark.parametrize("options", [BARE, MASKS, LABELS, (*MASKS, *LABELS), (*BARE, *LABELS)])
def test_every_source_of_cells_finds_them(raw, process, tmp_path, options):
    assert "12 cells written, 0 left out" in process(*options)
    table = metadata_of(tmp_path)
    images, _ = read_cells(tmp_path / "out" / "Mine")
    assert set(images) == set(table["Unique_ID"]) and images[table["Unique_ID"][0]].ndim == 3
    for (well, site), rows in table.groupby(["well", "site"]):
        field, cells, _ = draw_field(ord(well[0]) + site)
        found = rows[["y", "x"]].to_numpy()
        distance = np.hypot(*(found[:, None] - np.array(NUCLEI)).transpose(2, 0, 1))  # (4, 4)
        assert sorted(distance.argmin(axis=1)) == [0, 1, 2, 3] and distance.min(axis=1).max() < 1
        for name, number in zip(rows["Unique_ID"], distance.argmin(axis=1) + 1, strict=True):
            expected = (cells == number).sum()
            drawn = (images[name] > 0).any(axis=-1).sum()
            assert drawn == expected if options[-2:] == LABELS else abs(drawn - expected) < 180


def test_masked_crops_hold_the_pixels_of_the_cell_and_no_others(raw, process, tmp_path):
    process(*LABELS)
    images, _ = read_cells(tmp_path / "out" / "Mine")
    field, cells, _ = draw_field(ord("B") + 1)
    box = np.s_[20:61, 30:71]  # the first cell: centre (40, 50), radius 20
    expected = np.where((cells[box] == 1)[..., None], field[box], 0)
    np.testing.assert_array_equal(images["B2_1_0001.tiff"], expected)


def test_windows_around_the_nucleus(raw, process, tmp_path):
    said = process(*MASKS, "--crop", "window", "--window-size", "84")
    assert "6 cells written, 6 left out" in said and "reaches beyond the field" in said
    images, _ = read_cells(tmp_path / "out" / "Mine")
    table = metadata_of(tmp_path).set_index("Unique_ID")
    for name, image in images.items():
        y, x = table.loc[name, ["y", "x"]].astype(int)
        field, _, _ = draw_field(ord(name[0]) + int(name[3]))
        np.testing.assert_array_equal(image, field[y - 42 : y + 42, x - 42 : x + 42])


def test_metadata_by_well_become_class_folders(raw, process, tmp_path):
    path = tmp_path / "wells.csv"
    path.write_text("well;treatment\nA1;none\nB2;drug 5\n")
    process(*LABELS, "--metadata", path, "--class-column", "treatment")
    table = metadata_of(tmp_path)
    assert table["treatment"].tolist() == ["none"] * 8 + ["drug 5"] * 4
    _, folders = read_cells(tmp_path / "out" / "Mine")
    assert set(folders.values()) == {"none", "drug-5"}
    assert {folders[n] for n in table["Unique_ID"][table["well"] == "B2"]} == {"drug-5"}


@pytest.mark.parametrize(
    ("first", "second"), [("1.5", "1.50"), ("10", "2.5"), ("1", "1.0"), ("5", ".5"), ("2", "+2")]
)
def test_the_text_of_a_class_stays_as_it_is(raw, process, tmp_path, first, second):
    path = tmp_path / "wells.csv"
    path.write_text(f"well,dose\nA1,{first}\nB2,{second}\n")
    process(*LABELS, "--metadata", path, "--class-column", "dose")
    table = pd.read_csv(tmp_path / "out" / "Mine_metadata.csv", dtype=str)
    assert table["dose"].tolist() == [first] * 8 + [second] * 4
    _, folders = read_cells(tmp_path / "out" / "Mine")
    assert len(set(folders.values())) == 2


@pytest.mark.parametrize("well", ["Well", "Metadata_Well", "well_position"])
def test_a_plate_map_spells_wells_in_its_own_way(raw, process, tmp_path, well):
    path = tmp_path / "map.csv"
    path.write_text(f"{well},clone\nA01,1E1\nB02,10\n")
    process(*LABELS, "--metadata", path, "--class-column", "clone")
    assert pd.read_csv(tmp_path / "out" / "Mine_metadata.csv", dtype=str)["clone"].tolist() == [
        *["1E1"] * 8, *["10"] * 4
    ]  # fmt: skip
    _, folders = read_cells(tmp_path / "out" / "Mine")
    assert {name: folder for name, folder in folders.items() if name[0] == "B"} == {
        f"B2_1_{i:04d}.tiff": "10" for i in range(1, 5)
    }


@pytest.mark.parametrize("names", [("10%", "10"), ("dose a", "dose/a"), ("Drug", "drug")])
def test_classes_never_share_a_folder(raw, process, tmp_path, names):
    path = tmp_path / "map.csv"
    plate = pd.DataFrame({"well": ["A1", "B2"], "drug": names, "Unique_ID": "mine"})
    plate.to_csv(path, index=False)
    process(*LABELS, "--metadata", path, "--class-column", "drug")
    _, folders = read_cells(tmp_path / "out" / "Mine")
    table = metadata_of(tmp_path)
    assert table["Unique_ID_metadata"].eq("mine").all() and table["Unique_ID"].is_unique
    assert len({folder.casefold() for folder in folders.values()}) == 2
    for row in table.itertuples():
        assert (folders[row.Unique_ID] == folders["B2_1_0001.tiff"]) == (row.well == "B2")


def test_fields_without_a_row_in_the_plate_map_are_counted(raw, process, tmp_path):
    path = tmp_path / "map.csv"
    path.write_text("well,drug\nB2,a\nC3,b\n")
    said = process(*LABELS, "--metadata", path, "--class-column", "drug")
    assert f"note: WARNING: 2 of 3 fields have no row in {path}: A1 1, A1 2" in said


def test_metadata_by_position(raw, process, tmp_path):
    rows = [("A1", s, x + 2, y - 3, f"k{s}{i}") for s in (1, 2) for i, (y, x) in enumerate(NUCLEI)]
    rows += [("A1", 2, 5, 5, "nobody")]
    path = tmp_path / "cells.csv"
    pd.DataFrame(rows, columns=["well", "site", "cx", "cy", "kind"]).to_csv(path, index=False)
    places = ("--metadata", path, "--metadata-x", "cx", "--metadata-y", "cy")
    said = process(*LABELS, *places, "--class-column", "kind")
    assert "12 cells written, 1 left out" in said
    table = metadata_of(tmp_path)
    for row in table.itertuples():
        i = int(row.number) - 1
        assert row.kind == f"k{row.site}{i}" if row.well == "A1" else pd.isna(row.kind)
    _, folders = read_cells(tmp_path / "out" / "Mine")
    assert folders["B2_1_0001.tiff"] == "unlisted" and folders["A1_2_0003.tiff"] == "k22"
    assert metadata_of(tmp_path, "Mine_unmatched.csv")["kind"].tolist() == ["nobody"]
    swapped = ("--metadata", path, "--metadata-x", "cy", "--metadata-y", "cx", "--max-distance", 5)
    assert "swapped" in process(*LABELS, *swapped, out=tmp_path / "other", ok=False)


def test_one_file_of_all_channels(raw, process, tmp_path):
    folder = tmp_path / "stacks"
    folder.mkdir()
    for well in ("A1", "B2"):
        field, _, nuclei = draw_field(ord(well[0]) + 1)
        tifffile.imwrite(folder / f"{well}.tif", field, planarconfig="contig")
    options = ("--image-pattern", "{well}.tif", "--channels", "DNA", "ER", *BARE)
    assert "8 cells written" in process(*options, fields=folder)
    more = ("--image-pattern", "{well}.tif", "--channels", "DNA", *BARE)
    error = process(*more, fields=folder, out=tmp_path / "other", ok=False)
    assert "1 names, but" in error and "has 2 channels" in error


def test_damaged_fields_are_counted(raw, process, tmp_path):
    (raw / "A1_s1_ER.tif").unlink()
    whole = raw / "A1_s2_DNA.tif"
    whole.write_bytes(whole.read_bytes()[:1000])
    said = process(*LABELS)
    assert "4 cells written, 2 left out" in said
    lost = metadata_of(tmp_path, "Mine_unmatched.csv")
    assert lost["reason"][0] == "no file of channel ER"
    assert "A1_s2_DNA.tif cannot be read" in lost["reason"][1]


def test_unequal_masks_and_channels(raw, process, tmp_path):
    tifffile.imwrite(raw / "A1_s1_labels.tiff", np.zeros((10, 10), np.uint8))
    tifffile.imwrite(raw / "A1_s2_ER.tif", np.zeros((10, 12), np.uint16))
    (raw / "B2_s1_labels.tiff").unlink()
    error = process(*LABELS, ok=False)
    assert "no cell could be cut" in error and "no mask like" in error
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "options, message",
    [
        ((), "where are the cells?"),
        (("--nucleus-channel", "DAPI"), "channel DAPI: there is none; there are DNA, ER"),
        ((*BARE, "--channels", "DNA", "RFP"), "--channels RFP: no such files"),
        (("--nucleus-masks", "{well}.png"), "--nucleus-masks {well}.png: no file of"),
        (("--cell-masks", "{w}_{s}_labels.tiff"), "fit none of the images"),
        ((*BARE, "--image-pattern", "{well}_{channel.tif"), "names stand in braces"),
        ((*BARE, "--image-pattern", "{well}_{_}_{channel}.tif"), "are the same image"),
        ((*BARE, "--metadata-x", "a"), "go together"),
        ((*BARE, "--class-column", "a"), "--metadata is missing"),
        ((*BARE, "--cellprofiler", "."), "no spreadsheet of Nuclei"),
        ((*BARE, "--window-size", "2"), "8 px or more"),
    ],
)
def test_mistakes_are_told_in_one_line(raw, process, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    error = process(*options, ok=False)
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_metadata_that_belong_to_nothing(raw, process, tmp_path):
    path = tmp_path / "m.csv"
    for text, message in [
        ("plate,a\n1,2\n", "called like a part of the pattern: well, site"),
        ("well,a\nZ9,2\n", "are of none of the fields"),
        ("well,a\nA1,2\nA1,3\n", "2 rows for"),
        ("well,b\nA1,2\n", "no column a for --class-column"),
        ("", "cannot be read as a table"),
    ]:
        path.write_text(text)
        options = (*LABELS, "--metadata", path, "--class-column", "a")
        assert message in process(*options, ok=False)


def test_patterns(tmp_path):
    match = pattern_to_regex("{well}/{well}_{_}_s{site}.tif").fullmatch("A1/A1_x_s3.tif")
    assert match.groupdict() == {"well": "A1", "site": "3"}
    assert pattern_to_regex("{well}/{well}.tif").fullmatch("A1/A2.tif") is None
    with pytest.raises(UserError, match="the folder is empty"):
        match_files(tmp_path, "{well}.tif", "--image-pattern")


NF1 = DATA / "cellpainting_fields"
HUMAN = DATA / "cellprofiler_examplehuman"
needs_real = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")
NF1_IMAGES = ("--image-pattern", "{well}_01_{_}_{site}_{channel}_001.tif")
NF1_NUCLEI = ("--nucleus-masks", "{well}_01_{_}_{site}_{_}_001_MaskNuclei.tiff")
NF1_CELLS = ("--cell-masks", "{well}_01_{_}_{site}_{_}_001_MaskCells.tiff")
CENTRE = "Nuclei_AreaShape_Center_"
NF1_TABLE = (
    *("--metadata", NF1 / "nf1_cells.csv", "--class-column", "genotype"),
    *("--metadata-x", f"{CENTRE}X", "--metadata-y", f"{CENTRE}Y"),
)


@needs_real
def test_real_16_bit_fields_with_masks_become_128_x_128_x_3_cells(process, tmp_path):
    options = ("--channels", "DAPI", "GFP", "RFP", "--crop", "window", *NF1_NUCLEI, *NF1_TABLE)
    assert "117 cells written" in process(*NF1_IMAGES, *options, fields=NF1 / "nf1_fields")
    table = metadata_of(tmp_path)
    assert table["genotype"].value_counts().to_dict() == {"Null": 92, "WT": 25}
    # CellProfiler's own objects are 4-connected: a pixel at a corner may be missing in its areas.
    assert np.abs(table["area"] - table["nucleus_area"]).max() <= 3
    assert np.abs(table["x"] - table[f"{CENTRE}X"]).max() < 0.1
    images, folders = read_cells(tmp_path / "out" / "Mine")
    row = table.iloc[100]
    image = images[row["Unique_ID"]]
    assert image.shape == (128, 128, 3) and image.dtype == np.uint16
    assert folders[row["Unique_ID"]] == row["genotype"]
    gfp = next((NF1 / "nf1_fields").glob(f"{row['well']}_01_2_{row['site']}_GFP_001.tif"))
    top, left = round(row["y"] - 64), round(row["x"] - 64)
    expected = tifffile.imread(gfp)[top : top + 128, left : left + 128]
    np.testing.assert_array_equal(image[..., 1], expected)


@needs_real
def test_real_nuclei_by_threshold_are_those_of_cellprofiler(process, tmp_path):
    options = ("--nucleus-channel", "DAPI", "--nucleus-diameter", "70", "--min-area", "500")
    options += ("--crop", "window", "--max-distance", "10", *NF1_TABLE)
    process(*NF1_IMAGES, *options, fields=NF1 / "nf1_fields")
    table = metadata_of(tmp_path)
    assert table["genotype"].notna().sum() >= 110  # of 117


@needs_real
def test_the_real_cellprofiler_run_becomes_cells_with_features(process, tmp_path):
    options = ("--image-pattern", "AS_09125_050116030001_D03f00d{channel}.tif", "--edge-cells")
    options += ("--nucleus-channel", "0", "--cell-channels", "2", "--nucleus-diameter", "14")
    said = process(*options, "--cellprofiler", HUMAN, fields=HUMAN)
    assert "289 cells written, 0 left out" in said
    table = metadata_of(tmp_path).merge(
        pd.read_csv(HUMAN / "Cells.csv"), left_on="CP_ObjectNumber", right_on="ObjectNumber"
    )
    ratio = table["area"] / table["AreaShape_Area"]
    assert 0.9 < ratio.median() < 1.1  # its masks were not kept: ours are grown from its centres
    assert np.corrcoef(table["area"], table["AreaShape_Area"])[0, 1] > 0.8
    features = pd.read_csv(tmp_path / "out" / "Mine_features.csv")
    assert features["Unique_ID"].tolist() == metadata_of(tmp_path)["Unique_ID"].tolist()
    kinds = {name.split("_")[0] for name in features.columns[1:]}
    assert kinds == {"Nuclei", "Cells", "Cytoplasm"}


def draw_series(folder, translocates, seed=0):
    """Eight fields of a dose series, DNA and a stain; outlines and nuclei are those of all doses.

    The stain fades towards the edge of the cell. It moves into the nucleus with the dose, or else
    stays where it is.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir()
    grid = [(y, x) for y in range(40, 300, 70) for x in range(40, 380, 70)]
    y, x = np.mgrid[:320, :400]
    for dose in range(8):
        dna, stain = rng.normal(200, 10, (2, 320, 400))
        moved = dose / 7 if translocates else 0.0
        for cy, cx in grid:
            a, b = rng.uniform(20, 25, 2)
            away = np.hypot((y - cy) / a, (x - cx) / b)
            nucleus = np.hypot(y - cy, x - cx) <= 8
            level = rng.uniform(1500, 1900)
            inside = away < 1
            stain += np.where(inside, level * (1 - 0.85 * moved) * (1.2 - away), 0)
            stain += np.where(nucleus, level * 3 * moved, 0)
            dna += np.where(nucleus, 3000, 0)
        for name, plane in (("DNA", dna), ("NFkB", stain)):
            path = folder / f"A{dose + 1}_s1_{name}.tif"
            tifffile.imwrite(path, plane.clip(0).astype(np.uint16))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("translocates", [True, False])
def test_outlines_that_follow_the_stain_are_warned_of(process, tmp_path, translocates, seed):
    draw_series(tmp_path / "raw", translocates, seed)
    said = process(*BARE, "--cell-channels", "NFkB")
    table = metadata_of(tmp_path)
    area = table.groupby("well")["area"].median()
    assert not [name for name in table if "stain" in name]
    assert ("the outlines may follow the stain NFkB" in said) == translocates, said
    assert (area.max() > 1.5 * area.min()) == translocates
    recommended = advice_of(tmp_path)["recommended"]
    assert recommended == ("window" if translocates else "either")
    if translocates:
        assert "across 8 fields" in said
        assert "crops: --crop window is recommended instead of masked: outlines follow" in said
        windows = process(*BARE, "--cell-channels", "NFkB", "--crop", "window", out=tmp_path / "w")
        assert "crops: --crop window is recommended: outlines follow the stain NFkB" in windows


def advice_of(tmp_path, out="out"):
    """What <name>_crops.json says."""
    return json.loads((tmp_path / out / "Mine_crops.json").read_text())


def draw_crowd(folder, pitch):
    """Three fields of square cells, with label images: an epithelium at a pitch of 40 px."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for well in ("A1", "A2", "A3"):
        labels, nuclei = np.zeros((2, 320, 400), np.uint16)
        places = [(y, x) for y in range(40, 290, pitch) for x in range(40, 370, pitch)]
        for number, (y, x) in enumerate(places, start=1):
            labels[y - 19 : y + 20, x - 19 : x + 20] = number
            nuclei[disk((y, x), 7.5)] = number
        for name, plane in (("DNA", nuclei), ("ER", labels)):
            picture = 200 + 2000 * (plane > 0) + rng.normal(0, 10, plane.shape)
            tifffile.imwrite(folder / f"{well}_s1_{name}.tif", picture.astype(np.uint16))
        tifffile.imwrite(folder / f"{well}_s1_labels.tiff", labels)


@pytest.mark.parametrize(
    ("pitch", "chosen", "options", "recommended"),
    [
        (40, "masked", ("--cell-masks",), "masked"),
        (40, "window", ("--cell-masks",), "masked"),
        (40, "masked", (), "masked"),  # a threshold, but equal cells: area follows no stain
        (40, "window", (), "masked"),
        (100, "masked", ("--cell-masks",), "either"),
        (100, "window", ("--cell-masks",), "either"),
        (100, "window", (), "either"),
    ],
)
def test_the_crops_that_suit_are_recommended(
    process, tmp_path, pitch, chosen, options, recommended
):
    draw_crowd(tmp_path / "raw", pitch)
    masks = [*options, "{well}_s{site}_labels.tiff"] if options else []
    size = ("--crop", chosen, "--window-size", "60")
    said = process("--nucleus-channel", "DNA", *size, *masks)
    line = next(line for line in said.splitlines() if line.startswith("crops: "))
    advice = advice_of(tmp_path)
    assert advice["recommended"] == recommended and advice["chosen"] == chosen
    assert advice["reason"] in line and advice["cells"] == (189 if pitch == 40 else 36)
    if recommended == "either":
        assert f"--crop {chosen} serves" in line and advice["neighbours"] < 0.05
    else:
        instead = "instead of window: " if chosen == "window" else ": "
        assert f"--crop masked is recommended{' ' if chosen == 'window' else ''}{instead}" in line
        assert 0.05 < advice["neighbours"] < 0.6
        assert ("outlines come from masks" if options else "outlines follow no stain") in line
    assert not [c for c in metadata_of(tmp_path) if "outline check" in c]
