"""A run as other programs open it."""

import contextlib
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

import VAE_framework
from util.data_processing import CellSource, load_cells
from util.errors import UserError
from util.export import RawPixelEncoder, write_anndata
from util.runs import read_json


class MeanOfPixels(torch.nn.Module):
    """An encoder whose code is the mean of the pixels that it is shown."""

    def encode(self, x):
        return x.mean((2, 3)), x.amax((2, 3))


@pytest.mark.parametrize("downsample", [None, 2])
def test_the_encoder_of_raw_pixels_scales_them(downsample):
    more = {} if downsample is None else {"downsample": downsample}
    encoder = RawPixelEncoder(MeanOfPixels(), np.array([10.0, 0.0]), np.array([30.0, 8.0]), **more)
    pixels = torch.tensor([[10.0, 30.0], [50.0, 20.0]]).expand(1, 2, 2, 2)
    mean, largest = encoder(pixels)
    torch.testing.assert_close(mean, torch.tensor([[2.5 / 4, 1.0]]))  # 0, 1, 1 and 1/2
    torch.testing.assert_close(
        largest, torch.tensor([[1.0 if downsample is None else 2.5 / 4, 1.0]])
    )


@pytest.fixture(scope="module", autouse=True)
def elsewhere(tmp_path_factory):
    """An empty folder as the current one: what is cached beside the data set is of these tests."""
    with contextlib.chdir(tmp_path_factory.mktemp("elsewhere")):
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, blank):
    """Folder of a run that was exported in every form."""
    folder = tmp_path_factory.mktemp("export")
    settings = dataclasses.replace(
        VAE_framework.SETTINGS,
        simulated_cells=60,
        image_size=32,
        base=2,
        architecture="sc",
        epochs=1,
        device="cpu",
        metrics=("neighbours",),
        export=("h5ad", "parquet", "encoder"),
        results=str(folder),
    )
    with blank():
        return VAE_framework.main(settings)


@pytest.fixture(scope="module")
def small_run(tmp_path_factory, blank):
    """Folder of a run whose network saw the cells at half their size, drawn evenly."""
    settings = dataclasses.replace(
        VAE_framework.SETTINGS,
        simulated_cells=60,
        downsample=2,
        density_balance=1.0,
        base=2,
        epochs=1,
        device="cpu",
        features="none",
        metrics=("classifier",),
        export=("encoder",),
        results=str(tmp_path_factory.mktemp("small")),
    )
    with blank():
        return VAE_framework.main(settings)


@pytest.fixture(scope="module")
def latents(run):
    return pd.read_csv(run / "latents.csv")


def test_scanpy_opens_the_run(run, latents):
    import scanpy

    data = scanpy.read_h5ad(run / "run.h5ad")
    assert data.obs_names.tolist() == latents["Unique_ID"].tolist()
    names = {"X_vae": "VAE_{}_coord", "X_umap": "UMAP_{}", "X_tsne": "TSNE_{}"}
    for key, name in names.items():
        axes = "xyz" if "coord" in name else "XYZ"
        expected = latents[[name.format(axis) for axis in axes]]
        np.testing.assert_allclose(data.obsm[key], expected, rtol=1e-5, err_msg=key)
    np.testing.assert_allclose(data.obs["GT_Shape"], latents["GT_Shape"])  # CSV: last digit
    assert data.obs["split"].astype(str).tolist() == latents["split"].tolist()
    quality = pd.read_csv(run / "local_quality.csv")
    for column in quality.columns.drop("Unique_ID"):
        np.testing.assert_allclose(data.obs[column], quality[column], err_msg=column)
    assert data.shape[0] == 60 and len(set(data.var_names)) == data.shape[1] > 10
    assert len(data.uns["scores"]) == len(pd.read_csv(run / "scores.csv"))
    scanpy.pp.neighbors(data, use_rep="X_vae", n_neighbors=5)  # the usual next step
    assert data.obsp["distances"].shape == (60, 60)


def test_parquet_holds_what_the_csv_holds(run):
    for name in ("latents", "scores", "local_quality"):
        expected = pd.read_csv(run / f"{name}.csv")
        pd.testing.assert_frame_equal(pd.read_parquet(run / f"{name}.parquet"), expected)


@pytest.mark.parametrize("name, image_size", [("run", 32), ("small_run", 64)])
def test_the_encoder_alone_gives_the_same_codes(request, name, image_size):
    """It takes the pixels as they are, also where the network sees them smaller."""
    folder = request.getfixturevalue(name)
    latents = pd.read_csv(folder / "latents.csv")
    cells = load_cells(CellSource(image_size=image_size, simulated_cells=60))
    encoder = torch.export.load(folder / "encoder.pt2").module()
    for part in (slice(0, 60), slice(3, 4)):
        with torch.no_grad():
            mean, logvar = encoder(torch.from_numpy(cells.images[part]).float())
        for axis, column in enumerate("xyz"):
            expected = latents[f"VAE_{column}_coord"][part], latents[f"VAE_{column}_logvar"][part]
            np.testing.assert_allclose(mean[:, axis], expected[0], rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(logvar[:, axis], expected[1], rtol=1e-3, atol=1e-5)


def test_a_missing_package_is_named_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "anndata", None)
    settings = dataclasses.replace(
        VAE_framework.SETTINGS, export=("h5ad",), results=str(tmp_path / "results")
    )
    with pytest.raises(
        UserError, match=r"package anndata is missing; pip install -e '.\[export\]'"
    ):
        VAE_framework.main(settings)
    assert not (tmp_path / "results").exists()


def test_names_that_hdf5_would_take_apart(tmp_path):
    anndata = pytest.importorskip("anndata")
    latents = pd.DataFrame({"Unique_ID": ["a", "b"], "_index": [1, 2], "dose/ml": [0.5, 1.5],
                            "dose|ml": ["x", "y"], "P_X": [1.0, 2.0],
                            "P_Y": [3.0, 4.0]})  # fmt: skip
    path = write_anndata(
        tmp_path / "t.h5ad", latents, {"P/1": ["P_X", "P_Y"]}, features=None,
        local_quality=pd.DataFrame({"q/1": [1.0, 0.5]}), about={},
    )  # fmt: skip
    data = anndata.read_h5ad(path)
    assert data.obs.columns.tolist() == ["_index_", "dose|ml", "dose|ml.1", "q|1"]
    assert data.obs["dose|ml"].tolist() == [0.5, 1.5] and data.obs["_index_"].tolist() == [1, 2]
    assert data.obsm["X_p|1"].tolist() == [[1, 3], [2, 4]]


def test_what_was_measured_is_listed_in_the_run_folder(run):
    kept = read_json(run / "settings.json")["features"]
    assert kept and "AreaShape_Area" in kept and len(kept) == len(set(kept))
