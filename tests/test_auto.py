"""`--preset auto` as a user runs it: on small cells, with few epochs."""

import json

import numpy as np
import pandas as pd
import pytest

import InfoMAX_VAE_framework as infomax
from util.errors import UserError

QUICK = ["--preset", "auto", "--simulated-cells", "350", "--base", "4", "--epochs", "2",
         "--features", "none", "--metrics", "classifier"]  # fmt: skip


def run(*argv):
    settings = infomax.parse_settings(
        infomax.SETTINGS, infomax.PRESETS, argv, changeable_on_resume=infomax.CHANGEABLE
    )
    return infomax.script_main(settings)


def read(folder, name):
    return (folder / name).read_bytes()


@pytest.fixture(scope="module", autouse=True)
def two_candidates():
    with pytest.MonkeyPatch.context() as patched:
        two = {name: infomax.CANDIDATES[name] for name in ("vanilla", "views")}
        patched.setattr(infomax, "CANDIDATES", two)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    results = str(tmp_path_factory.mktemp("results"))
    return run(*QUICK, "--results", results)


def test_the_run_says_what_it_chose_and_why(finished):
    described = json.loads((finished / "settings.json").read_text())
    table = pd.read_csv(finished / "choice.csv")
    ways, seeds = (table[table["stage"] == stage] for stage in ("ways", "seeds"))
    assert list(ways["name"]) == list(infomax.CANDIDATES)
    assert list(seeds["seed"]) == [0, 1, 2] and seeds["name"].nunique() == 1
    way = ways.loc[ways["chosen"] == 1, "name"].item()
    assert seeds["name"].iloc[0] == way
    assert described["settings"]["preset"] == "auto"
    assert described["settings"]["likelihood"] == infomax.CANDIDATES[way]["likelihood"]
    assert any(way in note for note in described["notes"])
    report = (finished / "report.html").read_text(encoding="utf-8")
    assert "Ways to learn" in report and not (finished / infomax.ATTEMPTS).exists()


def test_the_kept_seed_is_the_one_that_is_shown(finished):
    table = pd.read_csv(finished / "choice.csv")
    kept = table[(table["stage"] == "seeds") & (table["chosen"] == 1)].iloc[0]
    assert kept["view_information"] == table[table["stage"] == "seeds"]["view_information"].max()
    log = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert sum(entry["seconds"] for entry in log) == pytest.approx(kept["seconds"])


def test_it_looks_at_the_sizes_of_the_cells(finished):
    settings = json.loads((finished / "settings.json").read_text())["settings"]
    assert (settings["image_size"], settings["downsample"]) == (64, 2)


def test_stopped_and_resumed_it_chooses_the_same(finished, tmp_path, monkeypatch):
    trained = infomax.attempt
    calls = []

    def stopped(*args, **more):
        calls.append(args[1])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return trained(*args, **more)

    monkeypatch.setattr(infomax, "attempt", stopped)
    results = str(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(*QUICK, "--results", results)
    monkeypatch.setattr(infomax, "attempt", trained)
    folder = run("--resume", "--results", results)
    assert read(folder, "latents.csv") == read(finished, "latents.csv")


def test_a_finished_one_is_drawn_again_without_training(finished):
    before = read(finished, "latents.csv"), read(finished, "log.jsonl")
    assert run("--resume", str(finished)) == finished
    assert (read(finished, "latents.csv"), read(finished, "log.jsonl")) == before
    assert "Ways to learn" in (finished / "report.html").read_text(encoding="utf-8")


def test_options_win_over_the_candidates():
    settings = infomax.parse_settings(
        infomax.SETTINGS, infomax.PRESETS, ["--preset", "auto", "--likelihood", "gaussian"]
    )
    settings = infomax.replace(settings, image_size=64, downsample=2)
    cells = type("Cells", (), {"images": np.zeros((1, 3, 64, 64), np.uint8)})
    found = {n: infomax.as_candidate(settings, n, cells) for n in infomax.CANDIDATES}
    assert {candidate.likelihood for candidate in found.values()} == {"gaussian"}
    assert found["views"].alpha == pytest.approx(0.02 * 3 * 32 * 32)


def test_too_few_cells_are_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(UserError, match="45 validation cells are too few"):
        run("--preset", "auto", "--simulated-cells", "300", "--results", str(tmp_path))
