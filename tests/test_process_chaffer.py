"""Chaffer's cells: the script as a user runs it, on a tiny raw set."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from raw_sets import read_cells, run_in_process, snapshot

SCRIPT = "util/Process_Chaffer_Dataset.py"
FOLDERS = (
    "Phalloidin_images_mateched_to_subset_data",
    "DAPI_images_mateched_to_subset_data",
    "AR_images_mateched_to_subset_data",
    "Zeb1_images_mateched_to_subset_data",
)
# GT_label 1 to 12, as in the reference.
CONDITIONS = [
    "HCC38HI_NS_NS_DHT_NS",
    "HCC38LO_NS_NS_DMSO_NS",
    "HMLER_Primed_NS_DMSO_C2",
    "HMLER_HIGH_Positive_DMSO_E3",
    "HCC38LO_NS_NS_DHT_NS",
    "HMLER_Primed_NS_DHT_C2",
    "HMLER_HIGH_Positive_DHT_E3",
    "HCC38HI_NS_NS_DMSO_NS",
    "HMLER_Primed_NS_DMSO_C4",
    "HMLER_HIGH_Positive_DMSO_F11",
    "HMLER_Primed_NS_DHT_C4",
    "HMLER_HIGH_Positive_DHT_F11",
]
CELLS = 24


def pixels_of(cell):
    rng = np.random.default_rng(cell)
    return rng.integers(0, 65536, (20 + cell % 5, 22, 4)).astype(np.uint16)


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    for c, name in enumerate(FOLDERS):
        (folder / name).mkdir(parents=True)
        for cell in range(CELLS):
            Image.fromarray(pixels_of(cell)[..., c]).save(folder / name / f"Cell.{cell}.png")
    table = pd.DataFrame(
        {
            "Unique_Cell_ID": [f"Cell.{cell}" for cell in range(CELLS)],
            "Cell_Condition_status": [CONDITIONS[cell % 12] for cell in range(CELLS)],
            "Cell_Type_categ": "HMLER",
            "UMAP_1": np.arange(CELLS) / 7,
        }
    )
    table.to_csv(folder / "ground_truth.csv", index=False)
    return folder


@pytest.fixture
def process(raw, capsys, monkeypatch, tmp_path):
    def run(*options, ok=True):
        before = snapshot(raw)
        places = ("--raw", raw, "--out", tmp_path / "out")
        code, out, err = run_in_process(capsys, monkeypatch, SCRIPT, *places, *options)
        assert snapshot(raw) == before
        assert code == (0 if ok else 2), err
        return out if ok else err

    return run


def test_four_channels_become_one_image(process, tmp_path):
    assert "24 cells written, 0 left out" in process()
    table = pd.read_csv(tmp_path / "out" / "MetaData3_Chaffer_GT_link_CP.csv")
    images, folders = read_cells(tmp_path / "out" / "Chaffer_Data")
    assert set(images) == set(table["Unique_ID"])
    for row in table.itertuples():
        cell = int(row.Unique_Cell_ID.removeprefix("Cell."))
        assert row.Unique_ID == f"Cell.{cell}.tiff"
        assert row.GT_label == cell % 12 + 1 and folders[row.Unique_ID] == f"Class_{row.GT_label}"
        assert row.Cell_Condition_status == CONDITIONS[cell % 12]
        assert row.UMAP_1 == pytest.approx(cell / 7)
        np.testing.assert_array_equal(images[row.Unique_ID], pixels_of(cell))
    assert table["Sub_population"].nunique() == 8
    assert "HMLER-DHT-CD44_HIGH-CD104_Positive" in set(table["Sub_population"])
    assert set(table["GT_label"][table["Sub_population"] == "HMLER-DHT-CD44_Primed-CD104_NS"]) == {
        6, 11
    }  # fmt: skip


def test_cells_that_cannot_be_merged_are_counted(raw, process, tmp_path):
    (raw / FOLDERS[1] / "Cell.3.png").unlink()
    whole = raw / FOLDERS[2] / "Cell.4.png"
    whole.write_bytes(whole.read_bytes()[:200])
    Image.new("I;16", (9, 9)).save(raw / FOLDERS[3] / "Cell.5.png")
    assert "21 cells written, 3 left out" in process()
    lost = pd.read_csv(tmp_path / "out" / "MetaData3_Chaffer_GT_link_CP_unmatched.csv")
    reasons = dict(zip(lost["Unique_Cell_ID"], lost["reason"], strict=True))
    assert reasons["Cell.3"] == f"no file {FOLDERS[1]}/Cell.3.png"
    assert "Cell.4.png cannot be read" in reasons["Cell.4"]
    assert reasons["Cell.5"].startswith("channels of unequal shape (20 x 22")


def change(raw, function):
    path = raw / "ground_truth.csv"
    function(pd.read_csv(path)).to_csv(path, index=False)


def test_not_specified_may_be_spelt_out(raw, process, tmp_path):
    change(raw, lambda t: t.replace("NS", "Not Specified", regex=True))
    process()
    table = pd.read_csv(tmp_path / "out" / "MetaData3_Chaffer_GT_link_CP.csv")
    cells = table["Unique_Cell_ID"].str.removeprefix("Cell.").astype(int)
    assert list(table["GT_label"]) == list(cells % 12 + 1)
    assert table["Sub_population"].nunique() == 8
    assert "Not Specified" in table["Cell_Condition_status"][0]


def test_what_is_wrong_with_the_raw_data_is_said_first(raw, process, tmp_path):
    change(raw, lambda t: pd.concat([t, t[:2]]))
    assert "2 ids stand in more than one row: Cell.0, Cell.1" in process(ok=False)
    change(raw, lambda t: t[:CELLS].replace(CONDITIONS[0], "HeLa"))
    assert "Cell_Condition_status 'HeLa' is none of the 12" in process(ok=False)
    change(raw, lambda t: t.rename(columns={"Cell_Condition_status": "status"}))
    assert "no column Cell_Condition_status" in process(ok=False)
    (raw / "ground_truth.csv").write_text("")
    assert "one CSV with a column Unique_Cell_ID is needed, there is none" in process(ok=False)
    for name in ("one.csv", "two.csv"):
        (raw / name).write_text("Unique_Cell_ID,x\n")
    assert "is needed, there is one.csv, two.csv; name it with" in process(ok=False)
    (raw / FOLDERS[0]).rename(raw / "actin")
    assert "no folder called Phalloidin_..." in process(ok=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("cell", ["../../escaped", "/tmp/escaped", "a/b", "..\\x", ".hidden"])
def test_an_id_that_is_a_path_is_refused(raw, process, tmp_path, cell):
    change(raw, lambda t: t.replace("Cell.3", cell))
    assert "Unique_Cell_ID" in (said := process(ok=False)) and "cannot be a file name" in said
    assert said.count("error: ") == 1 and not (tmp_path / "out").exists()
    assert not list(tmp_path.rglob("*escaped*"))
