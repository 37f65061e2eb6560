"""Joining tables to images: the right row for each image, and what is said of the others."""

import unicodedata

import numpy as np
import pandas as pd
import pytest

from util.errors import UserError
from util.latents import rename_reserved
from util.metadata import (
    choose_labels,
    join_array,
    join_metadata,
    match_rows,
    ordered_classes,
    read_array_metadata,
)
from util.settings import notes_for_user

IDS = [f"{i:03d}.png" for i in range(1, 13)]
DRUGS = ["a", "b", "c"] * 4


def images(ids=IDS):
    return pd.DataFrame({"Unique_ID": ids})


def write(path, ids, name="Unique_ID"):
    table = pd.DataFrame({name: ids, "drug": DRUGS[: len(ids)]})
    table.sample(frac=1, random_state=0).to_csv(path, index=False)  # in another order
    return path


SPELLINGS = {
    "as they are": IDS,
    "numbers": range(1, 13),
    "without ending": [name[:-4] for name in IDS],
    "another ending": [name.replace("png", "tiff") for name in IDS],
    "a folder in front": [f"C:\\plate\\{name}" for name in IDS],
    "dot slash": [f"./{name}" for name in IDS],
    "padded": [f" {name} " for name in IDS],
}


@pytest.mark.parametrize("ids", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize("name", ["Unique_ID", "unique_id", "Metadata_Unique_ID", "index"])
def test_every_image_gets_its_own_row(tmp_path, ids, name):
    joined, notes = join_metadata(images(), write(tmp_path / "t.csv", list(ids), name))
    assert joined["Unique_ID"].tolist() == IDS and joined["drug"].tolist() == DRUGS
    assert not any(note.startswith("WARNING") for note in notes)


def test_names_with_accents_are_the_same_composed_or_not(tmp_path):
    ids = ["zelle_ä.png", "zelle_é.png"]
    path = write(tmp_path / "t.csv", [unicodedata.normalize("NFD", name) for name in ids])
    assert join_metadata(images(ids), path)[0]["drug"].tolist() == ["a", "b"]


def test_a_poor_match_is_a_warning_with_examples_from_both_sides(tmp_path):
    path = write(tmp_path / "t.csv", [*IDS[:8], "x1", "x2", "x3", "x4"])
    joined, notes = join_metadata(images(), path)
    warning = notes_for_user(notes)[0]
    assert warning.startswith("WARNING: only 67 % match between 12 rows of t.csv and 12 images")
    assert warning.count("'x") == 3 and "'009.png', '010.png', '011.png'" in warning
    assert joined["drug"].isna().tolist() == [False] * 8 + [True] * 4
    assert any("4 images have no row in t.csv" in note for note in notes)
    assert any("4 rows of t.csv have no image" in note for note in notes)


def test_ninety_percent_is_no_warning(tmp_path):
    names = [f"{i}.png" for i in range(10)]
    rows = pd.DataFrame({"Unique_ID": names[:9]})
    _, notes = match_rows(rows, names, "t", all_images=True)
    assert notes == []
    assert "WARNING" in match_rows(rows[:8], names, "t", all_images=True)[1][0]
    assert match_rows(rows[:8], names, "t")[1] == []  # part of the images, as asked


def test_labels_keep_their_text(tmp_path):
    (tmp_path / "t.csv").write_text("Unique_ID,line,GT_label\n1,01,2\n2,1,10\n3,001,NA\n")
    joined, _ = join_metadata(images(IDS[:3]), tmp_path / "t.csv", "line")
    assert joined["line"].tolist() == ["01", "1", "001"]
    assert joined["GT_label"].tolist() == ["2", "10", "NA"]


def test_an_array_is_joined_by_its_ids_where_they_match_else_by_row(tmp_path):
    table = images([f"cell_{i:06d}" for i in range(3)])
    ids = ["cell_000002", "cell_000000", "cell_000001"]
    rows = read_array_metadata(write(tmp_path / "t.csv", ids))
    joined, notes = join_array(table, rows, "t.csv", "a.npz")
    assert joined["drug"].tolist() == ["b", "c", "a"] and notes == []
    (tmp_path / "u.csv").write_text(",drug\n0,a\n1,b\n2,c\n")
    joined, notes = join_array(table, read_array_metadata(tmp_path / "u.csv"), "u.csv", "a.npz")
    assert joined.columns.tolist() == ["Unique_ID", "drug"]
    assert joined["drug"].tolist() == ["a", "b", "c"] and "joined by row" in notes[0]
    with pytest.raises(UserError, match="3 rows, but a.npz holds 2 images"):
        join_array(table[:2], rows, "t.csv", "a.npz")


def test_what_a_run_writes_itself_is_renamed():
    table = pd.DataFrame(
        {"Unique_ID": ["a"], "split": "x", "Split": "y", "UMAP_X": 1.0, "VAE_x_coord": 2.0,
         "umap-1": 3, "tsne_2": 4, "PC_12": 5, "VAE_pixels_local_Q_score": 6, "dose": 7, "z": 8}
    )  # fmt: skip
    renamed, notes = rename_reserved(table)
    kept = ["Unique_ID", "dose", "z"]
    assert [name for name in renamed if not name.endswith("_metadata")] == kept
    assert renamed.columns.is_unique and "8 columns of the metadata" in notes[0]
    np.testing.assert_array_equal(renamed.to_numpy(), table.to_numpy())
    assert rename_reserved(table[kept])[1] == []
    for number, ends in ((3, "UMAP_X_metadata"), (4, "UMAP_X_metadata, ...")):
        (note,) = rename_reserved(table[list(table)[1 : number + 1]])[1]
        assert note.endswith(f"renamed to split_metadata, Split_metadata, {ends}")


def test_a_table_with_a_class_beside_class_folders(tmp_path):
    (tmp_path / "t.csv").write_text("Unique_ID,class,class_metadata\na,1,x\nb,2,y\n")
    table = images(["a", "b"]).assign(**{"class": ["p", "q"]})
    joined, _ = join_metadata(table, tmp_path / "t.csv")
    assert joined["class"].tolist() == ["p", "q"] and joined.columns.is_unique
    assert joined["class_metadata"].tolist() == ["1", "2"]


def test_classes_that_read_like_missing_ones_are_told():
    table = pd.DataFrame({"Unique_ID": list("abcd"), "drug": ["None", "NA", "Taxol", "Taxol"]})
    _, values, notes = choose_labels(table, "drug")
    assert values.tolist() == ["None", "NA", "Taxol", "Taxol"]
    assert notes[0] == "drug: None, NA is a class like any other, not missing"


@pytest.mark.parametrize(
    "names",
    [
        ["2 nM", "10 nM", "100 nM", "1 µM", "5.5 mM"],
        ["0.5", "1.25", "1.5", "2", "10"],
        ["-10", "-2", "0", "3"],
        ["30 min", "2 h", "36 h", "3 d"],
        ["Process_2", "Process_10", "process_11"],
        ["a", "B", "c"],
    ],
)
def test_classes_stand_in_natural_order(names):
    assert ordered_classes(names[::-1]) == names
    assert ordered_classes(names, order=names[::-1]) == names[::-1]
    assert ordered_classes(names, order=[names[-1]]) == [names[-1], *names[:-1]]


def test_an_order_names_classes_of_the_label():
    table = images().assign(drug=[1.0, 2.0, 10.0] * 4)
    assert choose_labels(table, "drug", ["10", "1", "2"])[2] == []
    notes = choose_labels(table, "drug", ["10"])[2]
    assert notes == ["2 classes are not in `order` and follow in natural order: 1, 2"]
    assert "not in --order" in notes_for_user(notes)[0]
    with pytest.raises(UserError, match="`order` 3: no such drug; there are 1, 2, 10"):
        choose_labels(table, "drug", ["1", "3"])
    with pytest.raises(UserError, match="`order` 1: named twice"):
        choose_labels(table, "drug", ["1", "2", "1"])
    with pytest.raises(UserError, match="`order` a: there are no classes"):
        choose_labels(images(), None, ["a"])
