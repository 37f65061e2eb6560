import contextlib
import dataclasses

import numpy as np
import pandas as pd
import pytest

import VAE_framework
from optimization import UMAP_TSNE_optimization as sweep
from util.errors import UserError

SMALL = {
    "simulated_cells": 60,
    "image_size": 32,
    "metrics": ("neighbours", "axes"),
    "device": "cpu",
}


def settings_of(**changes):
    return dataclasses.replace(sweep.SETTINGS, **SMALL | changes)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    with contextlib.chdir(tmp_path_factory.mktemp("loaded")):
        return VAE_framework.load(sweep.run_settings(settings_of(features="none")))


def test_the_lists_on_top_are_all_projected():
    requests, notes = sweep.requests_of(sweep.SETTINGS, n_cells=1000)
    names = [request.name for request in requests]
    assert len(names) == 9 + 4 + 1 and notes == []
    assert names[:3] == ["UMAP_5_0", "UMAP_5_0.1", "UMAP_5_0.5"]
    assert names[-2:] == ["TSNE_100", "PCA"]


@pytest.mark.parametrize(
    ("n_cells", "maps", "said"),
    [
        (12, ["UMAP_5", "UMAP_11", "TSNE_3.66667", "PCA"], 6),
        (31, ["UMAP_5", "UMAP_15", "UMAP_30", "TSNE_5", "TSNE_10", "PCA"], 4),
        (301, ["UMAP_5", "UMAP_15", "UMAP_50", *(f"TSNE_{p}" for p in (5, 30, 50, 100)), "PCA"], 0),
    ],
)
def test_parameters_too_large_for_few_cells_are_named_as_what_is_taken(n_cells, maps, said):
    settings = dataclasses.replace(sweep.SETTINGS, min_dists=(0.1,))
    requests, notes = sweep.requests_of(settings, n_cells)
    assert [request.name.removesuffix("_0.1") for request in requests] == maps
    assert len(notes) == said
    if n_cells == 12:
        assert "perplexity 30 is too large for 12 cells: 3.66667 is taken" in notes
        assert "n_neighbors 15 is too large for 12 cells: 11 is taken" in notes


@pytest.fixture
def table(loaded, tmp_path):
    """A CSV as the thesis had: shuffled rows, one cell absent, one foreign."""
    rng = np.random.default_rng(0)
    ids = loaded.cells.table["Unique_ID"]
    rows = pd.DataFrame({"Unique_ID": ids, "GT_other": rng.random(len(ids))})
    shape = loaded.cells.table["GT_Shape"].to_numpy()
    for value in (5, 15):
        for axis in "XYZ":
            rows[f"UMAP_{value}_{axis}"] = shape + value * rng.normal(size=len(ids))
    for axis in "XYZ":
        rows[f"RTSNE_30_{axis}"] = rng.normal(size=len(ids))
    rows = rows.iloc[1:]
    foreign = rows.iloc[:1].assign(Unique_ID="elsewhere.tiff")
    path = tmp_path / "thesis.csv"
    pd.concat([rows, foreign]).sample(frac=1, random_state=1).to_csv(path, index=False)
    return path


def test_columns_of_a_table_are_read_in_the_order_of_the_cells(loaded, table):
    requests, codes, notes = sweep.read_projections(str(table), loaded)
    assert list(codes) == ["UMAP_5", "UMAP_15", "RTSNE_30"]
    assert [(r.method, r.parameters["value"]) for r in requests] == [
        ("UMAP", 5), ("UMAP", 15), ("RTSNE", 30)
    ]  # fmt: skip
    rows = pd.read_csv(table).set_index("Unique_ID")
    for place, cell in enumerate(loaded.cells.table["Unique_ID"]):
        found = codes["UMAP_5"][place]
        if cell in rows.index:
            np.testing.assert_array_equal(found, rows.loc[cell, [f"UMAP_5_{a}" for a in "XYZ"]])
        else:
            assert np.isnan(found).all()
    assert any("elsewhere.tiff" in note for note in notes)


def test_a_table_is_scored_and_its_best_named(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = sweep.main(settings_of(features="none", projections=str(table)))
    runs = pd.read_csv(folder / "runs.csv").set_index("run")
    assert runs["mean_area pixels"].notna().all()
    umaps = runs[runs["method"] == "UMAP"]["mean_area pixels"]
    text = (folder / "report.html").read_text()
    assert f"The best UMAP by mean_area pixels is {umaps.idxmax()}" in text
    scores = pd.read_csv(folder / "scores.csv")
    assert scores.query("metric == 'lcmc_area'")["n_cells"].eq(59).all()
    assert (folder / "sweep_UMAP.png").stat().st_size > 0


def test_tables_that_do_not_fit_are_refused(loaded, tmp_path):
    path = tmp_path / "x.csv"
    ids = loaded.cells.table["Unique_ID"]
    with pytest.raises(UserError, match="no such file"):
        sweep.read_projections(str(path), loaded)
    pd.DataFrame({"UMAP_5_X": [1.0], "UMAP_5_Y": [1.0]}).to_csv(path, index=False)
    with pytest.raises(UserError, match="no column Unique_ID"):
        sweep.read_projections(str(path), loaded)
    pd.DataFrame({"Unique_ID": ids, "A_X": 1.0, "A_Y": 2.0}).to_csv(path, index=False)
    with pytest.raises(UserError, match="no columns UMAP_<value>_X"):
        sweep.read_projections(str(path), loaded)


def test_outlying_cells_are_left_out_and_counted(loaded):
    rng = np.random.default_rng(0)
    codes = {"A": rng.normal(size=(60, 3)), "B": rng.normal(size=(60, 3))}
    codes["A"][3, 0], codes["B"][4, 2] = 90, -90
    cleaned, notes = sweep.leave_out(codes, 4.0, loaded)
    assert list(np.flatnonzero(np.isnan(cleaned["A"]).any(axis=1))) == [3]
    assert notes[0].startswith("2 of 60 cells lie beyond 4 standard deviations")
    assert notes[0].endswith("(A 1, B 1)")


def test_a_sweep_projects_scores_and_names_the_best(tmp_path, monkeypatch, blank_figures):
    monkeypatch.chdir(tmp_path)
    settings = settings_of(
        n_neighbors=(5,), min_dists=(0.0, 0.5), perplexities=(5.0, 15.0), project="pixels",
        features="none", criterion="lcmc_area pixels",
    )  # fmt: skip
    folder = sweep.main(settings)
    runs = pd.read_csv(folder / "runs.csv")
    assert list(runs["run"]) == ["UMAP_5_0", "UMAP_5_0.5", "TSNE_5", "TSNE_15", "PCA"]
    projected = pd.read_csv(folder / "projections.csv")
    assert np.isfinite(projected[[f"TSNE_15_{axis}" for axis in "XYZ"]]).all(axis=None)
    best = runs.loc[runs["lcmc_area pixels"].idxmax(), "run"]
    assert f"by lcmc_area pixels is {best}" in (folder / "report.html").read_text()
    with pytest.raises(UserError, match="--criterion nothing: no such score"):
        sweep.criterion_of(dataclasses.replace(settings, criterion="nothing"), runs)


def test_features_are_needed_to_project_features(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="nothing to project"):
        sweep.main(settings_of(features="none"))
    assert not (tmp_path / "results").exists()
