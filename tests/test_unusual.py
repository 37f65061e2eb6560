"""Every sound but unusual input of `unusual.py` gives the value that is right."""

import numpy as np
import pandas as pd
import pytest
from unusual import (
    BINARY,
    DIALECTS,
    GREY8,
    HEADER,
    IMAGES,
    INSIDE,
    LABELLED,
    LABELS,
    NAMES,
    PARQUET,
    ROWS,
    TABLES,
    TYPED_TABLES,
    pillow,
)

from util.data_processing import CellSource, load_cells
from util.image_files import image_shape
from util.raw.masks import read_mask
from util.tables import read_table

SIDE = 64


def file_of(name, ending=".tif"):
    """`a pyramid .ome.tif` has its ending in its name."""
    return f"cell.{name.partition(' .')[2]}" if " ." in name else f"cell{ending}"


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_means_what_it_says(tmp_path, name):
    write, meant = IMAGES[name]
    path = tmp_path / file_of(name)
    write(path)
    assert image_shape(path) == meant.shape[1:]
    cells = load_cells(tmp_path, image_size=SIDE, progress=False)
    height, width = meant.shape[1:]
    top, left = round((SIDE - height) / 2), round((SIDE - width) / 2)
    found = cells.images[0, :, top : top + height, left : left + width]
    assert found.dtype == meant.dtype and found.dtype.isnative
    off = np.abs(found.astype(int) - meant.astype(int)).max()
    assert off <= (3 if "JPEG" in name else 0)


@pytest.mark.parametrize("name", LABELLED)
def test_labels_stay_labels(tmp_path, name):
    """The cell in two pieces is one, those that touch are two."""
    write, ending = LABELLED[name]
    write(tmp_path / f"mask{ending}")
    mask = read_mask(tmp_path / f"mask{ending}")
    assert mask.numbered and mask.labels.dtype == np.int32
    numbers = list(dict.fromkeys(mask.labels[LABELS == i][0] for i in range(6)))
    assert numbers[0] == 0 and len(numbers) == len(np.unique(mask.labels)) == 6
    for drawn_as, number in enumerate(numbers):
        np.testing.assert_array_equal(mask.labels == number, LABELS == drawn_as)


@pytest.mark.parametrize("name", BINARY)
def test_binary_masks_are_cut_into_their_components(tmp_path, name):
    """Touching cells are one object there, a cell in two pieces two; edges move by a pixel."""
    write, ending, why = BINARY[name]
    write(tmp_path / f"mask{ending}")
    mask = read_mask(tmp_path / f"mask{ending}")
    assert not mask.numbered
    assert why in mask.note and bool(why) == bool(mask.note)
    areas = np.sort(np.bincount(mask.labels.ravel())[1:])
    pieces = [(LABELS == 5)[:84].sum(), (LABELS == 5)[84:].sum()]
    drawn_as = [*pieces, (LABELS == 1).sum(), (LABELS == 2).sum(), INSIDE[60:, :90].sum()]
    np.testing.assert_allclose(areas, np.sort(drawn_as), rtol=0.06 if "thresh" in mask.note else 0)


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_gives_the_same_values(tmp_path, name):
    (tmp_path / "t.csv").write_bytes(DIALECTS[name])
    table = read_table(tmp_path / "t.csv", ["treatment"])
    assert table.columns.tolist() == list(HEADER)
    assert table["Unique_ID"].tolist() == [row[0] for row in ROWS]
    assert table["treatment"].tolist() == ["a", "b", None]
    assert table["dose"].tolist() == [0.5, 1.25, 7.0]
    assert table.attrs["notes"] == []


@pytest.mark.parametrize("name", TABLES)
def test_a_table_means_what_it_says(tmp_path, name):
    text, wanted = TABLES[name]
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    table = read_table(tmp_path / "t.csv")
    assert table.columns.tolist() == list(wanted)
    for column, values in wanted.items():
        np.testing.assert_equal(table[column].tolist(), values)


def same(found, wanted):
    """Equal, also in kind: True is not 1, text is no number; NaN and None are missing."""
    missing = [[pd.isna(value) for value in values] for values in (found, wanted)]
    kinds = [
        [
            (isinstance(v, bool), float(v) if isinstance(v, int | float) else v)
            for v in values
            if v == v
        ]
        for values in (found, wanted)
    ]
    return missing[0] == missing[1] and kinds[0] == kinds[1]


@pytest.mark.parametrize("name", PARQUET)
def test_parquet_means_what_it_says(tmp_path, name):
    table, wanted = PARQUET[name]
    table.to_parquet(tmp_path / "t.parquet")
    assert same(read_table(tmp_path / "t.parquet")["x"], wanted)


@pytest.mark.parametrize("name", TYPED_TABLES)
def test_h5ad_means_what_it_says(tmp_path, name):
    anndata, sparse = pytest.importorskip("anndata"), pytest.importorskip("scipy.sparse")
    table, wanted = TYPED_TABLES[name]
    data = anndata.AnnData(sparse.csr_matrix(np.eye(3)), obs=table.set_index("Unique_ID"))
    data.obsm["X_pca"] = sparse.csr_matrix(2 * np.eye(3))
    data.write_h5ad(tmp_path / "t.h5ad")
    found = read_table(tmp_path / "t.h5ad", matrix=True)
    assert same(found["x"], wanted) and found["Unique_ID"].tolist() == ["c1", "c2", "c3"]
    assert found["pca_2"].tolist() == [0, 2, 0] and found["1"].tolist() == [0, 1, 0]


@pytest.mark.parametrize("name", NAMES)
def test_names_find_their_images(tmp_path, name):
    """The rows stand in another order than the files, and their class finds the right image."""
    asked, files = NAMES[name]
    for shade, file in enumerate(files):
        pillow(tmp_path / file, GREY8 // 2 + shade)
    rows = pd.DataFrame({"Unique_ID": asked, "drug": files})[::-1]
    rows.to_csv(tmp_path / "t.csv", index=False)
    source = CellSource(str(tmp_path), metadata=str(tmp_path / "t.csv"), image_size=SIDE)
    cells = load_cells(source, progress=False)
    assert cells.table["drug"].tolist() == cells.table["Unique_ID"].tolist() == sorted(files)


def test_there_are_enough_of_them():
    tables = (IMAGES, LABELLED, BINARY, DIALECTS, TABLES, PARQUET, NAMES)
    assert sum(map(len, tables)) >= 130
