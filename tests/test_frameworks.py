"""The two scripts, run as a user runs them."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch

import InfoMAX_VAE_framework
import VAE_framework
from util.data_processing import CellSource, load_cells
from util.devices import describe_device
from util.errors import UserError
from util.runs import describe_run, load_checkpoint

# Small enough for seconds, large enough for every stage.
SMALL = ["--simulated-cells", 80, "--image-size", 32, "--base", 4, "--learning-rate", 1e-3]
FAST_METRICS = ("neighbours", "classifier", "backbone", "axes")  # no critic to train


def small(**changes):
    """SMALL as settings, without features and critics, for runs within this process."""
    values = {"simulated_cells": 80, "image_size": 32, "base": 4, "features": "none", "epochs": 1}
    values |= {"metrics": FAST_METRICS, "device": "cpu"}
    return dataclasses.replace(VAE_framework.SETTINGS, **(values | changes))


def small_infomax(**changes):
    """The same for the InfoMax VAE."""
    return dataclasses.replace(
        InfoMAX_VAE_framework.SETTINGS, **(dataclasses.asdict(small()) | changes)
    )


def contents(folder):
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir()}


def test_whole_run_twice(run_script, tmp_path):
    options = [*SMALL, "--metrics", *FAST_METRICS, "--epochs", 2, "--device", "cpu"]
    first = run_script("VAE_framework.py", *options)
    folder = tmp_path / "results" / "0001-simulated-BBBC031-VAE"
    for name in (
        "settings.json log.jsonl checkpoint.pt best.pt latents.csv scores.csv local_quality.csv "
        "losses.png reconstructions.png samples.png scores.png accuracy.png latent_space.html "
        "report.html projections_GT_label.png backbones.png backbones.html co_ranking_pixels.png "
        "local_quality_features.png local_quality.png ordered_distance.png plotly.min.js"
    ).split():
        assert (folder / name).stat().st_size > 0, name
    assert str(folder.relative_to(tmp_path) / "report.html") in first.stdout
    assert "trustworthiness" in first.stdout and "Total params" in first.stdout

    latents = pd.read_csv(folder / "latents.csv")
    assert latents["Unique_ID"].nunique() == 80 and set(latents["split"]) == {"train", "valid"}
    for column in ("VAE_x_coord", "VAE_z_logvar", "UMAP_X", "TSNE_Z", "GT_Shape"):
        assert np.isfinite(latents[column]).all(), column
    scores = pd.read_csv(folder / "scores.csv")
    assert list(scores.columns) == "projection reference metric k value std n_cells seed".split()
    curves = scores[scores["metric"] == "trustworthiness"]
    assert curves.groupby(["projection", "reference"])["k"].max().eq(39).all()  # below N / 2
    assert set(curves["projection"]) == {"VAE", "UMAP", "TSNE"}
    assert set(curves["reference"]) == {"pixels", "features"}
    named = "accuracy balanced_accuracy m1 backbone_spearman spearman[GT_Shape]"
    assert set(named.split()) <= set(scores["metric"])
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["settings"]["simulated_cells"] == 80 and "torch" in settings["versions"]
    assert settings["data"]["padding"] == "zero"

    before = contents(folder)
    again = run_script("VAE_framework.py", "--from", 1, anew=True)  # settings.json says it all
    assert "not as in" not in again.stdout
    second = tmp_path / "results" / "0002-simulated-BBBC031-VAE"
    assert contents(folder) == before
    for name in ("latents.csv", "scores.csv"):
        assert (second / name).read_bytes() == (folder / name).read_bytes(), name


@pytest.mark.parametrize(
    "own", [{}, {"likelihood": "heteroscedastic", "target_view": "aligned"}], ids=["thesis", "own"]
)
def test_a_finished_run_can_be_lengthened(tmp_path, monkeypatch, blank_figures, own):
    monkeypatch.chdir(tmp_path)
    folder = VAE_framework.main(small(epochs=2, metrics=(), **own))
    VAE_framework.main(small(epochs=4, metrics=(), resume=str(folder), **own))
    lengthened = (folder / "latents.csv").read_bytes()
    whole = VAE_framework.main(small(epochs=4, metrics=(), **own))
    assert lengthened == (whole / "latents.csv").read_bytes()
    remembered = load_checkpoint(folder / "checkpoint.pt")["data"]["scaling"]
    assert remembered["high"] == [255.0] * 3


def test_a_run_keeps_its_arithmetic_on_another_device(tmp_path, monkeypatch, blank_figures):
    """Begun on a GPU, where `auto` is bfloat16, and resumed here."""
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as begun:
        begun.setattr(VAE_framework, "resolve_precision", lambda asked, device: "bfloat16")
        folder = VAE_framework.main(small(metrics=()))
    machine = json.loads((folder / "settings.json").read_text())["machine"]
    assert machine["precision"] == "bfloat16" and machine["device"] == "cpu"
    resumed = small(metrics=(), epochs=2, resume=str(folder))
    run = VAE_framework.prepare(resumed, VAE_framework.elbo_objective)
    assert VAE_framework.schedule_of(run.settings, run.precision).bfloat16
    machine = json.loads((folder / "settings.json").read_text())["machine"]
    assert machine["precision"] == "bfloat16"
    fresh = VAE_framework.prepare(small(metrics=()), VAE_framework.elbo_objective)
    assert fresh.precision == "float32"


def test_settings_name_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    known = describe_device(torch.device("cuda:1"))
    assert known == {"device": "cuda:1", "gpu": "NVIDIA H200", "cuda": "13.0"}
    described = describe_run(small(), known)
    assert described["machine"].items() >= known.items()


def test_a_finished_run_keeps_a_large_checkpoint_only_if_asked(
    tmp_path, monkeypatch, blank_figures
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("models.train_net.LARGEST_KEPT", 1000)
    folder = VAE_framework.main(small(metrics=()))
    assert not (folder / "checkpoint.pt").exists()
    before = json.loads((folder / "settings.json").read_text())
    with pytest.raises(UserError, match="kept no checkpoint.pt"):
        VAE_framework.main(small(metrics=(), epochs=2, resume=str(folder)))
    assert json.loads((folder / "settings.json").read_text()) == before
    latents = (folder / "latents.csv").read_bytes()
    VAE_framework.main(small(metrics=(), resume=str(folder)))  # its figures and tables anew
    assert (folder / "latents.csv").read_bytes() == latents
    kept = VAE_framework.main(small(metrics=(), keep_checkpoint=True))
    assert (kept / "checkpoint.pt").is_file()


def test_infomax_logs_the_information(tmp_path, monkeypatch, blank_figures):
    monkeypatch.chdir(tmp_path)
    folder = VAE_framework.main(small_infomax(), InfoMAX_VAE_framework.infomax_objective)
    line = json.loads((folder / "log.jsonl").read_text().splitlines()[0])
    assert "mutual_information" in line["train"] and "mutual_information" in line["valid"]


def test_thesis_numbers_stand_on_top():
    thesis = VAE_framework.SETTINGS
    assert (thesis.image_size, thesis.base, thesis.latent_dim, thesis.beta) == (64, 32, 3, 1.0)
    assert (thesis.epochs, thesis.batch_size, thesis.learning_rate) == (100, 64, 1e-4)
    assert (thesis.decay_every, thesis.decay, thesis.patience) == (40, 0.6, 30)
    assert thesis.valid_fraction == 0.15 and thesis.augment and thesis.simulated_cells == 7387
    infomax = InfoMAX_VAE_framework.SETTINGS
    assert (infomax.alpha, infomax.critic_learning_rate) == (20.0, 5e-4)
    assert infomax.bound == "interpolated"
    assert InfoMAX_VAE_framework.PRESETS["thesis"] == {"fit": "squeeze", "bound": "infonce"}
    laptop = VAE_framework.PRESETS["laptop"]
    assert laptop["simulated_cells"] >= 2000 and laptop["base"] >= 8 and laptop["epochs"] >= 10


@pytest.mark.parametrize("script", ["VAE_framework.py", "InfoMAX_VAE_framework.py"])
def test_help_explains_every_setting(run_script, script):
    text = " ".join(run_script(script, "--help").stdout.split())
    module = VAE_framework if script.startswith("VAE") else InfoMAX_VAE_framework
    for field in dataclasses.fields(module.SETTINGS):
        name = "from" if field.name == "original" else field.name.replace("_", "-")
        assert f"--{name}" in text
    assert "Weight of the KL term" in text


def test_a_mistake_is_one_line_and_code_2(run_script, tmp_path):
    """As seen from outside; `faults.py` has the others."""
    done = run_script("VAE_framework.py", "--dataset", "nowhere", check=False)
    assert done.returncode == 2 and not (tmp_path / "results").exists()
    assert done.stderr == "error: --dataset nowhere: there is no such folder or file\n"


@pytest.fixture
def folder_of_cells(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(40):
        target = tmp_path / "MySet" / ("A" if i % 2 else "B")
        target.mkdir(parents=True, exist_ok=True)
        image = np.zeros((30, 28, 2), np.uint16)
        image[5:25, 4:24] = rng.integers(1, 3000 if i % 2 else 30000, (20, 20, 2))
        tifffile.imwrite(target / f"{i}.tiff", image)
    return tmp_path / "MySet"


def test_own_folder_with_features_of_its_own(folder_of_cells, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ids = [p.name for p in sorted(folder_of_cells.rglob("*.tiff"))]
    rng = np.random.default_rng(1)
    table = pd.DataFrame(rng.normal(size=(39, 6)), columns=[f"AreaShape_{i}" for i in range(6)])
    table.insert(0, "Unique_ID", ids[:39])
    table.to_csv(tmp_path / "features.csv", index=False)
    settings = small(dataset=str(folder_of_cells), features=str(tmp_path / "features.csv"))
    folder = VAE_framework.main(settings)
    latents = pd.read_csv(folder / "latents.csv")
    assert len(latents) == 40 and latents["UMAP_X"].isna().sum() == 1  # no partner in the table
    notes = json.loads((folder / "settings.json").read_text())["notes"]
    assert any(ids[39] in note for note in notes)
    scores = pd.read_csv(folder / "scores.csv")
    assert scores[scores["metric"] == "trustworthiness"]["n_cells"].eq(39).all()


def test_a_label_with_gaps_rare_classes_and_one_class(folder_of_cells, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ids = [p.name for p in sorted(folder_of_cells.rglob("*.tiff"))]
    drug = ["x"] * 20 + ["y"] * 17 + ["rare"] + [None] * 2
    pd.DataFrame({"Unique_ID": ids, "drug": drug, "same": "all"}).to_csv("m.csv", index=False)
    folder = VAE_framework.main(small(dataset=str(folder_of_cells), metadata="m.csv", label="drug"))
    notes = " ".join(json.loads((folder / "settings.json").read_text())["notes"])
    assert "2 cells have no drug" in notes and "single cell" in notes
    accuracy = pd.read_csv(folder / "scores.csv").query("metric == 'accuracy'")
    assert accuracy["n_cells"].eq(38).all()
    folder = VAE_framework.main(small(dataset=str(folder_of_cells), metadata="m.csv", label="same"))
    assert "accuracy" not in set(pd.read_csv(folder / "scores.csv")["metric"])
    with pytest.raises(UserError, match="`label` dose: no such column"):
        VAE_framework.main(small(dataset=str(folder_of_cells), metadata="m.csv", label="dose"))


def test_resume_notices_that_the_data_changed(
    folder_of_cells, tmp_path, monkeypatch, blank_figures
):
    monkeypatch.chdir(tmp_path)
    folder = VAE_framework.main(small(dataset=str(folder_of_cells)))
    next(folder_of_cells.rglob("*.tiff")).unlink()
    with pytest.raises(UserError, match="no longer what"):
        VAE_framework.main(small(dataset=str(folder_of_cells), epochs=2, resume=str(folder)))


def test_other_latent_dimensions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for dim, last in ((1, "VAE_x_coord"), (5, "VAE_5_coord")):
        folder = VAE_framework.main(small(latent_dim=dim, metrics=()))
        assert last in pd.read_csv(folder / "latents.csv")


def test_reference_spaces_weigh_channels_alike(folder_of_cells):
    cells = load_cells(CellSource(str(folder_of_cells), image_size=32), progress=False)
    pixels = cells.reference_space()
    assert pixels.shape == (40, 2, 32, 32) and 0 <= pixels.min() and pixels.max() == 1


@pytest.fixture
def wells(tmp_path):
    """Cells of 12 wells on three plates, whose size follows the drug, as options of a run."""
    rng = np.random.default_rng(0)
    well = np.repeat(np.arange(12), 50)
    radius = rng.uniform(4, 6, 600) + 2.0 * (well % 4)
    at = np.arange(32) - 15.5
    inside = np.hypot(*np.meshgrid(at, at)) < radius[:, None, None]
    images = (inside * rng.integers(100, 250, (600, 1, 1))).astype(np.uint8)
    np.savez(tmp_path / "cells.npz", images=images[..., None])
    table = pd.DataFrame({"plate": well // 4, "drug": well % 4, "well": well})
    table["well"] = "w" + table["well"].astype(str)
    table["drug"] = "d" + table["drug"].astype(str)
    table.to_csv(tmp_path / "cells.csv", index=False)
    paths = {"dataset": str(tmp_path / "cells.npz"), "metadata": str(tmp_path / "cells.csv")}
    return paths | {"label": "drug", "image_size": 32}


def test_groups_are_held_out_as_a_whole(wells):
    loaded = VAE_framework.load(small(**wells, group="well", valid_fraction=0.25))
    well = loaded.cells.table["well"].to_numpy()
    train, valid = loaded.split
    assert len(valid) == 150 and not set(well[train]) & set(well[valid])
    assert any("cells of one well stay together" in note for note in loaded.notes)
    loaded = VAE_framework.load(small(**wells))
    assert set(well[loaded.split[0]]) == set(well[loaded.split[1]])
    assert any("cells were split one by one" in note for note in loaded.notes)
    for option in ("group", "replicate"):
        with pytest.raises(UserError, match=f"`{option}` wel: no such column; there are"):
            VAE_framework.load(small(**wells, **{option: "wel"}))


def test_a_run_scores_views_and_replicates_without_labels(wells, tmp_path):
    settings = small(
        **wells, group="well", replicate="drug", valid_fraction=0.25, metrics=("agreement",)
    )
    settings = dataclasses.replace(settings, results=str(tmp_path / "results"), learning_rate=1e-3)
    folder = VAE_framework.main(dataclasses.replace(settings, epochs=3))
    scores = pd.read_csv(folder / "scores.csv").set_index("metric")
    assert scores.at["view_information", "n_cells"] == 150
    assert scores.at["view_information", "value"] > 2 * scores.at["view_information", "std"]
    assert 0 < scores.at["replicate_neighbours_across", "value"] <= 1
    assert "view information" in (folder / "report.html").read_text(encoding="utf-8")
