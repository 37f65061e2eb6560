"""What is read of a finished run, and which folders are none."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import VAE_framework
from models.finished_run import read_finished_run
from models.train_net import embed
from util.data_processing import CellBatches
from util.errors import UserError

SMALL = {"simulated_cells": 40, "image_size": 32, "base": 2, "epochs": 1, "latent_dim": 2}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, blank):
    with blank(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("finished"))
        bare = {"features": "none", "metrics": (), "device": "cpu"}
        folder = VAE_framework.main(replace(VAE_framework.SETTINGS, **SMALL, **bare))
        return folder.absolute()


def test_codes_are_those_of_the_best_model(finished):
    run = read_finished_run(finished, VAE_framework.Settings)
    assert run.folder == finished and run.settings.latent_dim == 2
    cells = VAE_framework.load_again(run).cells
    assert run.fingerprint == cells.fingerprint
    model = run.model(cells, CPU)
    assert not model.training
    mean, _ = embed(model, CellBatches(cells, CPU, 16, False), 40)
    np.testing.assert_allclose(run.codes(), mean, rtol=1e-4, atol=1e-5)


def drop(part, name):
    def change(folder):
        known = json.loads((folder / "settings.json").read_text())
        del (known[part] if part else known)[name]
        (folder / "settings.json").write_text(json.dumps(known))

    return change


def edit_latents(change):
    def write(folder):
        change(pd.read_csv(folder / "latents.csv")).to_csv(folder / "latents.csv", index=False)

    return write


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        *((lambda f, n=n: (f / n).unlink(), f"run: no {n} there; give the folder of a finished")
          for n in ("settings.json", "latents.csv", "best.pt")),
        (drop("settings", "latent_dim"), "`run` .*run: made by a script that trains no model"),
        (drop("settings", "dataset"), "`run` .*run: made by a script that trains no model"),
        (drop("data", "fingerprint"), "settings.json does not say what data it learnt from"),
        (edit_latents(lambda t: t.drop(columns="Unique_ID")), "latents.csv is damaged: expected U"),
        (edit_latents(lambda t: t.drop(columns="VAE_y_coord")), "Unique_ID and VAE_x_coord, VAE_y"),
        (edit_latents(lambda t: t.assign(VAE_x_coord=np.inf)), "with numbers for every cell"),
    ],
)  # fmt: skip
def test_what_is_no_finished_run_is_named(finished, tmp_path, damage, message):
    folder = shutil.copytree(finished, tmp_path / "run")
    damage(folder)
    with pytest.raises(UserError, match=message):
        read_finished_run(folder, VAE_framework.Settings)


def test_another_model_is_named(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    run = read_finished_run(folder, VAE_framework.Settings)
    cells = VAE_framework.load_again(run).cells
    with pytest.raises(UserError, match=r"best.pt does not fit this run"):
        replace(run, settings=replace(run.settings, base=4)).model(cells, CPU)
