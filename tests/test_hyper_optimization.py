"""The two grids and what scores and draws them afterwards, on tiny models."""

import dataclasses
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from test_grid import as_older_version

import VAE_framework
from InfoMAX_VAE_framework import InfoMaxSettings, infomax_objective
from optimization import (
    heatmap_optimization,
    hyper_optimization,
    hyper_optimization_bs_fixed,
    score_optimization,
)
from optimization.grid import attach, read_grid
from util.errors import UserError
from util.settings import parse_settings

pytestmark = pytest.mark.usefixtures("only_own_garbage")

TINY = {
    "simulated_cells": 60,
    "image_size": 32,
    "base": 2,
    "epochs": 2,
    "batch_size": 32,
    "learning_rate": 1e-3,
    "features": "none",
    "metrics": ("neighbours", "axes"),
    "device": "cpu",
}
GRID = {"alphas": (0.0, 20.0), "betas": (1.0, 500.0), "reports": False}


def settings_of(script, **changes):
    return dataclasses.replace(script.SETTINGS, **TINY | changes)


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """A finished alpha-beta grid of 2 x 2, without reports of its runs."""
    patch = pytest.MonkeyPatch()
    patch.chdir(tmp_path_factory.mktemp("grid"))
    folder = hyper_optimization_bs_fixed.main(settings_of(hyper_optimization_bs_fixed, **GRID))
    yield folder.resolve()
    patch.undo()


def test_a_trial_is_an_ordinary_run(tmp_path, monkeypatch, blank_figures):
    monkeypatch.chdir(tmp_path)
    alone = VAE_framework.main(InfoMaxSettings(**TINY, alpha=20.0, beta=500.0), infomax_objective)
    one = {"alphas": (20.0,), "betas": (500.0,), "reports": True}
    grid = hyper_optimization_bs_fixed.main(settings_of(hyper_optimization_bs_fixed, **one))
    trial = grid / "0001-alpha-20-beta-500"
    assert "0001-alpha-20-beta-500/report.html" in (grid / "explore.html").read_text()
    assert (trial / "latents.csv").read_bytes() == (alone / "latents.csv").read_bytes()
    mine, other = (pd.read_csv(folder / "scores.csv") for folder in (trial, alone))
    pd.testing.assert_frame_equal(mine, other, check_dtype=False)
    assert {p.name for p in alone.iterdir()} <= {p.name for p in trial.iterdir()}
    settings = json.loads((trial / "settings.json").read_text())
    assert settings["script"] == "InfoMAX_VAE_framework" and settings["settings"]["alpha"] == 20


def test_the_grid_says_what_became_of_it(grid):
    runs = pd.read_csv(grid / "runs.csv")
    assert list(runs["alpha"]) == [0, 0, 20, 20] and list(runs["beta"]) == [1, 500, 1, 500]
    assert (runs["status"] == "trained").all() and (runs["epochs"] == 2).all()
    for name in ("valid_reconstruction", "lcmc_area pixels", "spearman[GT_Shape]"):
        assert runs[name].notna().all(), name
    own = pd.read_csv(grid / "0003-alpha-20-beta-1" / "scores.csv")
    area = own[own["metric"] == "lcmc_area"]["value"].item()
    assert runs.loc[2, "lcmc_area pixels"] == pytest.approx(area)
    for name in ("heatmaps.png", "explore.html", "report.html", "scores.csv", "settings.json"):
        assert (grid / name).stat().st_size > 0, name
    assert read_grid(grid)["finished"]
    assert "0003-alpha-20-beta-1/report.html" not in (grid / "explore.html").read_text()
    assert [path.parent for path in grid.rglob("plotly.min.js")] == [grid]  # no reports of trials


def test_a_finished_grid_is_not_gone_through_again(grid):
    log = grid / "0001-alpha-0-beta-1" / "log.jsonl"
    before = log.stat().st_mtime_ns
    settings = settings_of(
        hyper_optimization_bs_fixed, **GRID, resume=str(grid), results=str(grid.parent)
    )
    assert hyper_optimization_bs_fixed.main(settings) == grid
    assert log.stat().st_mtime_ns == before


def test_scored_again_by_other_metrics(grid, tmp_path, monkeypatch, blank_figures):
    monkeypatch.chdir(tmp_path)
    (grid / "0001-alpha-0-beta-1" / "report.html").touch()  # to be linked to
    before = {p: p.stat().st_mtime_ns for p in grid.rglob("*") if p.is_file()}
    settings = dataclasses.replace(
        score_optimization.SETTINGS, sources=(str(grid),), metrics=("neighbours",), device="cpu"
    )
    folder = score_optimization.main(settings)
    runs, old = pd.read_csv(folder / "runs.csv"), pd.read_csv(grid / "runs.csv")
    assert list(runs["run"]) == list(old["run"]) and list(runs["beta"]) == list(old["beta"])
    same = ["lcmc_area pixels", "valid_reconstruction"]
    pd.testing.assert_frame_equal(runs[same], old[same])
    assert "spearman[GT_Shape]" not in runs
    assert {p: p.stat().st_mtime_ns for p in grid.rglob("*") if p.is_file()} == before
    drawn = heatmap_optimization.main(
        dataclasses.replace(
            heatmap_optimization.SETTINGS,
            source=str(grid),
            scores=("valid_kl",),
            x="alpha",
            y="beta",
        )
    )
    assert [p.name for p in drawn.glob("heatmap_*.png")] == ["heatmap_valid_kl.png"]
    assert "0001-alpha-0-beta-1/report.html" in (drawn / "explore.html").read_text()


def test_a_grid_of_an_older_version_is_scored_and_drawn(grid, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    older = tmp_path / "results" / grid.name
    shutil.copytree(grid, older)
    as_older_version(older)
    (older / "0001-alpha-0-beta-1" / "scored.json").unlink()
    described = {path: path.read_bytes() for path in older.glob("*/settings.json")}
    settings = settings_of(
        hyper_optimization_bs_fixed, **GRID | {"reports": True}, resume=str(older)
    )
    assert hyper_optimization_bs_fixed.main(settings) == older
    assert (older / "0001-alpha-0-beta-1" / "report.html").stat().st_size > 0
    assert {path: path.read_bytes() for path in described} == described
    for name in ("runs.csv", "scores.csv"):
        assert (older / name).read_bytes() == (grid / name).read_bytes(), name
    as_older_version(older)
    scored = score_optimization.main(
        dataclasses.replace(
            score_optimization.SETTINGS, sources=(str(older),), metrics=("axes",), device="cpu"
        )
    )
    assert len(pd.read_csv(scored / "runs.csv")) == 4
    drawn = heatmap_optimization.main(
        dataclasses.replace(heatmap_optimization.SETTINGS, source=str(older), scores=("valid_kl",))
    )
    assert (drawn / "heatmap_valid_kl.png").stat().st_size > 0


def test_runs_on_other_cells_are_not_scored_together(grid, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    trial = grid / "0001-alpha-0-beta-1"
    for name in ("latents.csv", "log.jsonl"):
        (other / name).write_bytes((trial / name).read_bytes())
    described = json.loads((trial / "settings.json").read_text())
    described["data"]["fingerprint"] = "of other cells"
    (other / "settings.json").write_text(json.dumps(described))
    settings = dataclasses.replace(score_optimization.SETTINGS, sources=(str(grid), str(other)))
    with pytest.raises(UserError, match="learned from different cells"):
        score_optimization.main(settings)
    assert not (tmp_path / "results").exists()


def test_memory_that_runs_out_halves_the_batch_or_fails_the_trial(
    tmp_path, monkeypatch, blank_figures
):
    """Encoders of 4 channels fit only in batches of 16, those of 8 in none."""
    monkeypatch.chdir(tmp_path)
    learn = VAE_framework.learn

    def short_of_memory(run, *arguments):
        limit = {4: 16, 8: 0}.get(run.settings.base, 1000)
        encode = run.model.encode

        def limited(x):
            if len(x) > limit and run.model.training:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return encode(x)

        run.model.encode = limited
        return learn(run, *arguments)

    monkeypatch.setattr(VAE_framework, "learn", short_of_memory)
    settings = settings_of(
        hyper_optimization, widths=(2, 4, 8), decoder_widths=(2,), epochs=1, reports=False
    )
    folder = hyper_optimization.main(settings)
    runs = pd.read_csv(folder / "runs.csv")
    assert list(runs["encoder"]) == [2, 4, 8] and list(runs["decoder"]) == [2, 2, 2]
    assert list(runs["status"]) == ["trained", "trained", "failed"]
    assert list(runs["batch_size"][:2]) == [32, 16]
    assert "too small for batches" in runs["reason"][2]
    assert "failed: the memory of cpu" in (folder / "report.html").read_text()
    grid = attach(folder, settings)
    assert [state.status for state in grid.states()] == list(runs["status"])


def test_a_grid_without_a_trained_trial_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = settings_of(hyper_optimization_bs_fixed, **GRID, learning_rate=1e30)
    with pytest.raises(UserError, match="no trial of .* was trained: the loss is not finite"):
        hyper_optimization_bs_fixed.main(settings)


def test_tpe_looks_for_a_score(tmp_path, monkeypatch, blank_figures):
    monkeypatch.chdir(tmp_path)
    goal = "lcmc_area pixels"
    settings = settings_of(hyper_optimization_bs_fixed, **GRID, sampler="tpe", trials=2, goal=goal)
    folder = hyper_optimization_bs_fixed.main(settings)
    runs = pd.read_csv(folder / "runs.csv")
    assert sorted(runs["status"]) == ["trained", "trained", "untried", "untried"]
    trained = runs[runs["status"] == "trained"]
    assert trained["value"].tolist() == pytest.approx(trained[goal].tolist())


def test_the_thesis_numbers_stand_on_top():
    alpha_beta, widths = hyper_optimization_bs_fixed, hyper_optimization
    assert alpha_beta.ALPHAS == (0, 5, 20, 100, 500, 1000)
    assert alpha_beta.BETAS == (0, 1, 5, 20, 100, 500)
    assert (alpha_beta.SETTINGS.batch_size, alpha_beta.SETTINGS.epochs) == (256, 150)
    assert widths.WIDTHS == (4, 8, 16, 32, 64, 128) and widths.SETTINGS.epochs == 200
    asked = parse_settings(
        alpha_beta.SETTINGS,
        {"default": {}},
        ["--alphas", "1", "2", "--beta", "3", "--workers", "2"],
    )
    assert asked.alphas == (1, 2) and asked.workers == 2 and asked.betas == alpha_beta.BETAS


@pytest.mark.parametrize(
    "script",
    ["hyper_optimization.py", "hyper_optimization_bs_fixed.py", "score_optimization.py"],
)
def test_scripts_run_by_path_and_explain_themselves(run_script, script):
    text = " ".join(run_script(f"optimization/{script}", "--help").stdout.split())
    assert "--metrics" in text and "--workers" in text


def test_passwords_are_not_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from optimization import grid_runs
    from optimization.grid import open_grid

    settings = settings_of(hyper_optimization_bs_fixed, **GRID)
    loaded = VAE_framework.load(settings)
    grid = open_grid(
        results=Path("results"), name="x", axes={"alpha": (1.0,)}, identity={}, options=settings
    )
    secret = "postgresql://me:secret@host/name"
    monkeypatch.setattr("sys.argv", ["x.py", "--storage", secret])
    changed = dataclasses.replace(settings, storage=secret)
    grid_runs.describe_grid(grid, changed, {"data": loaded})
    text = (grid.folder / "settings.json").read_text()
    assert "secret" not in text and "postgresql://me:***@host/name" in text
