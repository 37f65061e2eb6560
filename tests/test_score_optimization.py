"""Every finished folder can be scored again, comparisons with their projections included."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from optimization import UMAP_TSNE_optimization, compare_methods, score_optimization
from util.errors import UserError

pytestmark = pytest.mark.usefixtures("only_own_garbage")


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """A comparison of a model and two projections on two data sets."""
    home = tmp_path_factory.mktemp("comparison")
    small = {"simulated_cells": 60, "image_size": 32, "base": 2, "epochs": 1, "device": "cpu"}
    asked = {
        "sets": ("simulated", "other:dataset=simulated,simulated-seed=5"),
        "methods": ("Vanilla", "PCA", "UMAP"),
        "metrics": ("neighbours",),
        "results": str(home / "results"),
    }
    return compare_methods.main(dataclasses.replace(compare_methods.SETTINGS, **small | asked))


def score(*sources):
    return score_optimization.main(
        dataclasses.replace(
            score_optimization.SETTINGS,
            sources=tuple(map(str, sources)),
            metrics=("neighbours",),
            device="cpu",
        )
    )


@pytest.mark.parametrize("data_set", ["simulated", "other"])
@pytest.mark.parametrize("methods", [("Vanilla", "PCA", "UMAP"), ("PCA", "UMAP"), ("UMAP",)])
def test_trials_of_a_comparison(
    comparison, tmp_path, monkeypatch, blank_figures, data_set, methods
):
    monkeypatch.chdir(tmp_path)
    trials = [next(comparison.glob(f"*{data_set}*{method}*/latents.csv")) for method in methods]
    folder = score(*(trial.parent for trial in trials))
    runs = pd.read_csv(folder / "runs.csv")
    known = pd.read_csv(comparison / "scores.csv")
    known = known[(known["data_set"] == data_set) & (known["metric"] == "lcmc_area")]
    for reference in ("pixels", "features"):
        before = known[known["reference"] == reference].set_index("method")["value"]
        found = runs[f"lcmc_area {reference}"].to_numpy()
        np.testing.assert_allclose(found, before[list(methods)], rtol=1e-5)
    assert ("valid_reconstruction" in runs) == ("Vanilla" in methods)
    assert (folder / "report.html").stat().st_size > 0


def test_data_sets_are_scored_apart(comparison, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="learned from different cells.*give folders of trials"):
        score(comparison)


def test_a_folder_that_is_no_trial_is_refused(comparison, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="give a finished run or a grid"):
        score(comparison / "simulated")


SWEEP = {"n_neighbors": (5,), "min_dists": (0.1,), "perplexities": (5.0,), "simulated_cells": 80,
         "image_size": 32, "device": "cpu"}  # fmt: skip


@pytest.mark.parametrize("more", [{}, {"leave_out_beyond": 2.5}, {"project": "pixels", "dim": 2}])
def test_a_sweep_is_scored_as_it_scored_itself(tmp_path, monkeypatch, blank_figures, more):
    monkeypatch.chdir(tmp_path)
    metrics = ("neighbours", "classifier", "axes")
    asked = dataclasses.replace(UMAP_TSNE_optimization.SETTINGS, **SWEEP, metrics=metrics, **more)
    sweep = UMAP_TSNE_optimization.main(asked)
    folder = score_optimization.main(
        dataclasses.replace(
            score_optimization.SETTINGS, sources=(str(sweep),), metrics=metrics, device="cpu"
        )
    )
    keys = ["projection", "reference", "metric", "k"]
    before, after = (
        pd.read_csv(one / "scores.csv").sort_values(keys).reset_index(drop=True)
        for one in (sweep, folder)
    )
    pd.testing.assert_frame_equal(before, after, check_exact=True)
    assert set(pd.read_csv(folder / "runs.csv")["run"]) == {"UMAP_5_0.1", "TSNE_5", "PCA"}
    assert (folder / "report.html").stat().st_size > 0
