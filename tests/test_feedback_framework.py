"""Fine-tuning with feedback, as a user runs it and as the page calls it; its measures, by hand."""

import contextlib
import dataclasses
import json
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

import InfoMAX_VAE_framework
import VAE_framework
from human_guidance import VAE_feedback_framework, guidance_report
from human_guidance.dsprites_study import dsprites_guidance
from human_guidance.feedback_helpers import AxisHint, Feedback, check_feedback, check_pairs
from human_guidance.guidance_report import Guidance, follow_up, kin_of, plot_guidance
from human_guidance.guidance_terms import image_source
from human_guidance.VAE_feedback_framework import (
    SETTINGS,
    fine_tune,
    hold_out,
    main,
    open_parent,
    parse,
    read_guidance,
)
from util.errors import UserError
from util.runs import load_checkpoint
from util.streaming import make_batches
from util.style import Roles

N = 96
TINY = {
    "dataset": "discs.npz", "metadata": "discs.csv", "label": "kind", "image_size": 32, "base": 2,
    "features": "none", "epochs": 2, "learning_rate": 3e-3, "batch_size": 16, "metrics": ("axes",),
    "augment": False, "device": "cpu",
}  # fmt: skip
SCRIPT = "human_guidance/VAE_feedback_framework.py"


def write_discs(folder):
    """A data set: discs that differ in size and in brightness."""
    rng = np.random.default_rng(0)
    radius, brightness = rng.uniform(4, 13, N), rng.uniform(0.3, 1, N)
    y, x = np.mgrid[:32, :32] - 15.5
    discs = (np.hypot(x, y) < radius[:, None, None]) * brightness[:, None, None] * 255
    np.savez(folder / "discs.npz", imgs=discs.astype(np.uint8))
    kinds = np.where(radius < 8.5, "small", "large")
    ids = [f"disc_{i}" for i in range(N)]
    table = pd.DataFrame({"Unique_ID": ids, "kind": kinds, "radius": radius})
    table.to_csv(folder / "discs.csv", index=False)


def contents(folder):
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the data set and a finished run, to be copied before use."""
    folder = tmp_path_factory.mktemp("trained")
    write_discs(folder)
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        without_figures(patch)
        VAE_framework.main(dataclasses.replace(VAE_framework.SETTINGS, **TINY))
    return folder


@pytest.fixture
def parent(trained, tmp_path, monkeypatch):
    """A finished run in the folder of this test."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return Path("results") / "0001-discs-VAE"


def without_figures(patch):
    """Most tests do without the report, which takes seconds and is tested elsewhere."""
    patch.setattr(VAE_framework, "draw", lambda run, *more, **named: run.folder / "report.html")
    patch.setattr(VAE_framework, "print_summary", lambda *more: None)


@pytest.fixture
def quick(monkeypatch):
    without_figures(monkeypatch)


def feedback_of(folder, n=10, delta=50.0, distance=1.5):
    """Anchors of the n smallest and the n largest discs, in the latent dimensions of the run."""
    latents = pd.read_csv(folder / "latents.csv")
    axes = [name[4] for name in latents if re.fullmatch("VAE_._coord", name)]
    order = latents["radius"].argsort().to_numpy()
    rows = []
    for name, places, side in (("small", order[:n], -1), ("large", order[-n:], 1)):
        rows += [(latents["Unique_ID"][i], delta, name, side * distance) for i in places]
    table = pd.DataFrame(rows, columns=["Unique_ID", "delta", "group", "x_anchor"])
    return table.assign(**{f"{axis}_anchor": 0.0 for axis in axes[1:]})


def test_a_user_fine_tunes_a_run(run_script, parent, tmp_path):
    ids = pd.read_csv(parent / "latents.csv")["Unique_ID"]
    feedback_of(parent).to_csv("feedback.csv", index=False)
    pairs = pd.DataFrame(
        {"Unique_ID_a": ids[:6], "Unique_ID_b": ids[6:12].to_numpy(), "weight": 1.0}
    )
    pairs.assign(relation=["together", "apart"] * 3).to_csv("pairs.csv", index=False)
    (tmp_path / "hints.csv").write_text("axis,column,weight\ny,radius,5\n")
    before = contents(parent)
    done = run_script(
        SCRIPT, "--run", 1, "--feedback", "feedback.csv", "--pairs", "pairs.csv", "--axis-hints",
        "hints.csv", "--epochs", 6, "--control", "--progress-file", "progress.jsonl",
    )  # fmt: skip
    assert contents(parent) == before
    new = tmp_path / "results" / "0002-discs-VAE-guided"
    assert f"report: {new.relative_to(tmp_path)}/report.html" in done.stdout
    for name in "report.html guidance.png pairs.csv axis_hints.csv scores.csv best.pt".split():
        assert (new / name).stat().st_size > 0, name
    assert (
        len(pd.read_csv(new / "feedback.csv")) == 16 and len(pd.read_csv(new / "held_out.csv")) == 4
    )

    steps = [json.loads(line) for line in (tmp_path / "progress.jsonl").read_text().splitlines()]
    stages = ["loading", *["training"] * 7, "scoring", "drawing", "done"]
    assert [step["stage"] for step in steps] == stages
    assert [step["epoch"] for step in steps[1:8]] == list(range(7)) and steps[1]["epochs"] == 6
    assert steps[-1]["folder"] == str(new.relative_to(tmp_path))
    terms = {"loss", "reconstruction", "kl", "anchors", "pairs", "axis y ~ radius"}
    assert set(steps[2]["train"]) == set(steps[2]["valid"]) == terms

    old, latents = pd.read_csv(parent / "latents.csv"), pd.read_csv(new / "latents.csv")
    axes = ["VAE_x_coord", "VAE_y_coord", "VAE_z_coord"]
    kept = [c.replace("VAE_", "VAE_before_") for c in axes]
    np.testing.assert_allclose(latents[kept].to_numpy(), old[axes].to_numpy(), atol=1e-4)
    followed = pd.read_csv(new / "guidance.csv")
    anchors = followed[(followed["term"] == "anchors") & (followed["group"] == "all")]
    distance = anchors[anchors["measure"] == "mean distance to the anchor"].set_index("cells")
    used = pd.read_csv(new / "feedback.csv").set_index("Unique_ID")
    apart = latents.set_index("Unique_ID").loc[used.index, axes].to_numpy()
    apart = np.linalg.norm(apart - used[["x_anchor", "y_anchor", "z_anchor"]].to_numpy(), axis=1)
    assert distance.loc["guided", "after"] == pytest.approx(apart.mean(), rel=1e-4)
    assert distance.loc["guided", "after"] < 0.8 * distance.loc["guided", "without feedback"]
    assert distance.loc["held out", "n_cells"] == 4
    scores = pd.read_csv(new / "scores.csv")
    assert set(scores["projection"]) == {"VAE", "VAE_before", "VAE_without"}

    again = dataclasses.replace(open_parent(new).settings, resume=str(new))
    with pytest.raises(UserError, match="learnt from feedback"):
        VAE_framework.main(again)  # --resume would go on without it


@pytest.mark.parametrize("kind", ["infomax", "sc", "one dimension"])
def test_any_model_and_dimension(tmp_path, monkeypatch, quick, kind):
    monkeypatch.chdir(tmp_path)
    write_discs(tmp_path)
    if kind == "infomax":
        settings = dataclasses.replace(InfoMAX_VAE_framework.SETTINGS, **TINY, latent_dim=2)
        folder = VAE_framework.main(settings, InfoMAX_VAE_framework.infomax_objective)
    else:
        changes = {"architecture": "sc", "latent_dim": 4} if kind == "sc" else {"latent_dim": 1}
        folder = VAE_framework.main(dataclasses.replace(VAE_framework.SETTINGS, **TINY, **changes))
    feedback_of(folder).to_csv("feedback.csv", index=False)
    settings = dataclasses.replace(SETTINGS, run="1", feedback="feedback.csv", epochs=1)
    new = main(settings)
    terms = json.loads((new / "log.jsonl").read_text().splitlines()[0])["train"]
    assert "anchors" in terms and ("mutual_information" in terms) == (kind == "infomax")
    again = main(dataclasses.replace(settings, run="2"))  # a guided run can be guided further
    latents = [pd.read_csv(run / "latents.csv") for run in (new, again)]
    np.testing.assert_allclose(
        latents[1]["VAE_before_x_coord"], latents[0]["VAE_x_coord"], atol=1e-4
    )
    assert not latents[1].columns.duplicated().any()
    if kind == "infomax":  # the critic went on from where it was
        first, later = (
            load_checkpoint(run / "checkpoint.pt")["objective"] for run in (folder, new)
        )
        change = [(later[f"base.{k}"] - v).abs().max() for k, v in first.items() if v.dim() == 2]
        assert 0 < max(change) < 0.05


def test_the_same_feedback_gives_the_same_bytes(parent, quick):
    feedback_of(parent).to_csv("feedback.csv", index=False)
    settings = dataclasses.replace(SETTINGS, feedback="feedback.csv", epochs=2)
    runs = [fine_tune(parent, settings=settings) for _ in range(2)]
    for name in ("latents.csv", "guidance.csv", "feedback.csv", "guidance.png"):
        assert (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes(), name


def test_a_listener_that_raises_ends_the_work(parent, quick):
    class Stop(Exception):
        pass

    def listen(step):
        if step.get("epoch") == 1:
            raise Stop

    guidance = Guidance(
        check_feedback(feedback_of(parent), open_parent(parent).latents["Unique_ID"], 3)
    )
    before = contents(parent)
    with pytest.raises(Stop):
        fine_tune(parent, guidance, dataclasses.replace(SETTINGS, epochs=50), listen)
    assert contents(parent) == before
    assert not (parent.parent / "0002-discs-VAE-guided" / "guidance.csv").exists()


def test_cancelled_by_a_signal(run_script, parent, tmp_path):
    feedback_of(parent).to_csv("feedback.csv", index=False)
    before, progress = contents(parent), tmp_path / "p.jsonl"
    process = run_script(
        SCRIPT, "--run", parent, "--feedback", "feedback.csv", "--epochs", 5000,
        "--progress-file", progress, wait=False,
    )  # fmt: skip
    while not (progress.exists() and '"epoch": 1' in progress.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "cancelled" in said and "Traceback" not in said
    assert json.loads(progress.read_text().splitlines()[-1]) == {"stage": "cancelled"}
    assert contents(parent) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"feedback": None}, "no feedback: give --feedback, --pairs or --axis-hints"),
        ({"feedback": "absent.csv"}, "absent.csv: there is no such file"),
        ({"feedback": "unknown.csv"}, "unknown.csv: 1 ids are not in the run: nobody.tiff"),
        ({"run": "7"}, "`run` 7: no run of that number in results"),
        ({"run": "elsewhere"}, "no settings.json there; give the folder of a finished run"),
        ({"epochs": 0}, "--epochs 0: must be at least 1"),
        ({"hold_out": 1.0}, "--hold-out 1.0: must be at least 0 and below 1"),
        ({"learning_rate": float("nan")}, "--learning-rate nan: must be above 0"),
        ({"held_out": "feedback.csv"}, "is also in the feedback"),
    ],
)
def test_mistakes_are_said_before_anything_is_made(parent, tmp_path, change, said):
    feedback = feedback_of(parent)
    feedback.to_csv("feedback.csv", index=False)
    feedback.replace({"Unique_ID": {feedback["Unique_ID"][0]: "nobody.tiff"}}).to_csv(
        "unknown.csv", index=False
    )
    settings = dataclasses.replace(SETTINGS, run="1", feedback="feedback.csv", progress_file="p")
    with pytest.raises(UserError) as raised:
        main(dataclasses.replace(settings, **change))
    assert said in str(raised.value) and "\n" not in str(raised.value)
    assert [p.name for p in (tmp_path / "results").iterdir()] == [parent.name]
    last = json.loads((tmp_path / "p").read_text().splitlines()[-1])
    assert last == {"stage": "failed", "error": str(raised.value)}


def test_data_that_changed_are_refused(parent):
    described = json.loads((parent / "settings.json").read_text())
    described["data"]["fingerprint"] = "another"
    (parent / "settings.json").write_text(json.dumps(described))
    feedback_of(parent).to_csv("feedback.csv", index=False)
    with pytest.raises(UserError, match="has changed since .* was trained"):
        fine_tune(parent, settings=dataclasses.replace(SETTINGS, feedback="feedback.csv"))
    assert len(list(parent.parent.iterdir())) == 1


IDS = [f"c{i}" for i in range(40)]


def anchored(cells, groups, anchors):
    rows = {"Unique_ID": [IDS[i] for i in cells], "delta": 1.0, "group": groups}
    columns = dict(zip(("x_anchor", "y_anchor"), np.transpose(anchors), strict=True))
    return check_feedback(pd.DataFrame(rows | columns), IDS, 2)


def test_hold_out_takes_its_share_of_each_group():
    groups = ["a"] * 20 + ["b"] * 10 + ["c"] * 4
    guidance = Guidance(anchored(range(34), groups, np.zeros((34, 2))))
    parts = hold_out(guidance, 0.2, seed=3)
    counts = pd.Series(parts.held_out.groups).value_counts().to_dict()
    assert counts == {"a": 4, "b": 2} and len(parts.anchors) == 28
    assert not set(parts.anchors.cells) & set(parts.held_out.cells)
    same, other = (hold_out(guidance, 0.2, seed).held_out.ids for seed in (3, 4))
    assert same == parts.held_out.ids != other


def test_measures_against_loops():
    rng = np.random.default_rng(0)
    codes = {"before": rng.normal(size=(40, 2)), "after": rng.normal(size=(40, 2))}
    classes = ["x"] * 15 + ["y"] * 25
    latents = pd.DataFrame(
        {"Unique_ID": IDS, "kind": classes, "dose": rng.permutation(40.0 * np.arange(40)),
         "split": ["train"] * 30 + ["valid"] * 10}
    )  # fmt: skip
    latents.loc[3, "dose"] = np.nan
    centres = {"left": np.array([-1.0, 0]), "right": np.array([1.0, 0])}
    members = {"left": [0, 1, 2], "right": [20, 21, 22, 23]}
    cells = members["left"] + members["right"]
    groups = ["left"] * 3 + ["right"] * 4
    pairs = pd.DataFrame(
        {"Unique_ID_a": IDS[:3], "Unique_ID_b": IDS[5:8], "weight": 1.0,
         "relation": ["together", "apart", "apart"]}
    )  # fmt: skip
    guidance = Guidance(
        anchored(cells, groups, [centres[g] for g in groups]),
        anchored([10], ["left"], [centres["left"]]),
        check_pairs(pairs, IDS),
        [AxisHint(1, "dose", 1.0)],
    )
    found = follow_up(guidance, codes, latents, "kind")
    found = found.set_index(["term", "group", "cells", "measure"]).sort_index()
    for state, c in codes.items():
        for kind, expected in (
            (("left", "guided"), members["left"]),
            (("left", "held out"), [10]),
            (("left", "others of kind x"), [i for i in range(3, 15) if i != 10]),
            (("right", "others of kind y"), [*range(15, 20), *range(24, 40)]),
        ):
            own = kind[0]
            distances = [np.hypot(*(c[i] - centres[own])) for i in expected]
            other = [
                np.hypot(*(c[i] - centres["right" if own == "left" else "left"])) for i in expected
            ]
            row = found.loc[("anchors", *kind)]
            assert (row["n_cells"] == len(expected)).all()
            values = row[state]
            assert values["mean distance to the anchor"] == pytest.approx(np.mean(distances))
            near = np.mean([d <= 0.5 for d in distances])
            assert values["share within 0.5 of the anchor"] == pytest.approx(near)
            nearest = np.mean([d < o for d, o in zip(distances, other, strict=True)])
            assert values["share nearest to its own anchor"] == pytest.approx(nearest)
        apart = np.mean([np.hypot(*(c[i] - c[i + 5])) for i in (1, 2)])
        row = found.loc[("pairs", "apart", "guided", "mean distance of a pair")]
        assert row[state] == pytest.approx(apart)
        known = [i for i in range(30) if i != 3]
        rho = spearmanr(c[known, 1], latents["dose"][known])[0]
        row = found.loc[("axes", "y follows dose", "guided", "Spearman correlation")]
        assert row[state] == pytest.approx(rho) and row["n_cells"] == 29


def test_a_mixed_group_has_no_kin():
    latents = pd.DataFrame({"kind": ["x"] * 20 + ["y"] * 20})
    mixed = Guidance(anchored(range(10, 30), ["a"] * 20, np.zeros((20, 2))))
    assert kin_of(mixed, latents, "kind") == {}
    twice = Guidance(anchored([0, 1, 2, 3], ["a", "a", "b", "b"], np.zeros((4, 2))))
    assert kin_of(twice, latents, "kind") == {}  # two groups of one class


@pytest.mark.parametrize(("dimensions", "label"), [(1, "kind"), (2, None), (5, "kind")])
def test_figure_of_any_dimension(tmp_path, dimensions, label):
    rng = np.random.default_rng(0)
    codes = {state: rng.normal(size=(40, dimensions)) for state in ("before", "after")}
    table = pd.DataFrame({"Unique_ID": IDS[:4], "delta": 1.0, "group": list("aabb")})
    names = ["x", "y", "z", "4", "5"][:dimensions]
    table = table.assign(**{f"{axis}_anchor": [1.0, 1.0, -1.0, -1.0] for axis in names})
    guidance = Guidance(check_feedback(table, IDS, dimensions))
    latents = pd.DataFrame({"kind": ["x"] * 20 + ["y"] * 20})
    path = plot_guidance(codes, guidance, latents, Roles(label), tmp_path / "g.png")
    assert path.stat().st_size > 10_000


@pytest.mark.parametrize(("shrunk", "alike"), [(2, True), (10, False)])
def test_panels_share_axes_unless_one_would_be_lost(shrunk, alike):
    square = np.random.default_rng(0).uniform(-8, 8, (1000, 2))
    before, after = guidance_report._limits([square, square / shrunk], np.array([[0.5, 0.0]]))
    assert before == pytest.approx(np.array([[-9, 9], [-9, 9]]), rel=0.05)
    assert (after == before).all() == alike
    own = np.array([[-9, 9], [-9, 9]]) / (1 if alike else shrunk)
    assert after == pytest.approx(own, rel=0.05)


def test_few_cells_of_every_group_are_marked():
    groups, cells = np.repeat(["large", "small"], [1000, 3]), np.arange(1003)
    feedback = Feedback([*map(str, cells)], cells, np.zeros((1003, 2)), np.ones(1003), groups)
    marked = guidance_report._some_of_each(feedback)
    assert {1000, 1001, 1002} < set(marked) and len(set(marked)) == len(marked) == 103
    assert 300 < np.mean(marked[marked < 1000]) < 700  # from all of the group, not its beginning


def test_the_study_anchors_what_the_thesis_did():
    grid = np.stack(np.meshgrid(range(6), range(32), range(32), indexing="ij"), -1).reshape(-1, 3)
    half = pd.DataFrame(grid, columns=["scale", "posX", "posY"])
    table = pd.concat([half.assign(shape=name) for name in ("square", "heart")], ignore_index=True)
    table["Unique_ID"] = [f"i{i}" for i in range(len(table))]
    first = dsprites_guidance(table, 1, 1.28)
    counts = pd.Series(first.anchors.groups).value_counts().to_dict()
    assert counts == {"square": 6144, "heart": 32} and len(first.held_out) == 8
    hearts = first.anchors.groups == "heart"
    assert set(map(tuple, first.anchors.anchors[hearts])) == {(-1.0, 0.0)}
    assert set(map(tuple, first.anchors.anchors[~hearts])) == {(1.0, 0.0)}
    rows = table.iloc[first.anchors.cells[hearts]]
    assert set(zip(rows["scale"], rows["posX"], rows["posY"], strict=True)) == {
        (s, x, y) for s in (3, 4) for x in (5, 10, 15, 25) for y in (5, 15, 20, 25)
    }
    second = dsprites_guidance(table, 2, 1.28)
    assert len(second.anchors) == 12288 and second.held_out is None


def test_the_cases_of_the_study_share_what_comes_before(tmp_path, monkeypatch, quick):
    monkeypatch.chdir(tmp_path)
    write_discs(tmp_path)
    discs = pd.read_csv("discs.csv")
    few = discs.assign(shape=np.where(discs["radius"] < 8.5, "square", "heart"), scale=3)
    few.assign(posX=np.where(discs.index % 2, 5, 17), posY=np.where(discs.index % 2, 5, 7)).to_csv(
        "discs.csv", index=False
    )
    monkeypatch.setattr(
        VAE_feedback_framework,
        "write_squares_and_hearts",
        lambda *_: (Path("discs.npz"), Path("discs.csv")),
    )
    asked = dataclasses.replace(SETTINGS, epochs=1, delta=1.0, metrics=("axes",), device="cpu")
    main(asked)
    before, first, second = sorted(Path("results").iterdir())
    anchored = [len(pd.read_csv(folder / "feedback.csv")) for folder in (first, second)]
    assert anchored[0] < anchored[1] == N
    left = [contents(folder / "control") for folder in (first, second)]
    assert {k: v[1] for k, v in left[0].items()} == {k: v[1] for k, v in left[1].items()}
    for folder in (first, second):
        assert json.loads((folder / "settings.json").read_text())["guidance"]["run"] == str(before)
        told = pd.read_csv(folder / "guidance.csv")
        assert np.isfinite(told[["before", "without feedback", "after"]].iloc[-1]).all()
    with pytest.raises(UserError, match="--cases"):
        main(dataclasses.replace(asked, cases=()))


def test_the_study_has_settings_of_its_own(monkeypatch):
    def parsed(*options):
        monkeypatch.setattr("sys.argv", ["VAE_feedback_framework.py", *options])
        return parse()

    study = parsed("--cases", "2", "--epochs", "3")
    assert (study.cases, study.epochs, study.shift, study.delta) == ((2,), 3, 4, 20)
    assert parsed("--run", "7") == dataclasses.replace(SETTINGS, run="7")


def test_guided_cells_are_shifted_while_training_only(parent):
    loaded = VAE_framework.load_again(VAE_framework.open_finished_run(parent))
    batches = make_batches(loaded.cells, torch.device("cpu"), 8, augmentation=False)
    cells = torch.arange(6)
    look_up = image_source(batches, shift=3)
    still = batches.take(cells)
    assert torch.equal(look_up(cells, False), still)
    shifted = look_up(cells, True)
    assert not torch.equal(shifted, still)
    middle = slice(8, -8)  # what is far from the border stays in the image
    for image, moved in zip(still, shifted, strict=True):
        part = image[:, middle, middle]
        found = [
            torch.allclose(moved.roll((y, x), (1, 2))[:, middle, middle], part, atol=1e-5)
            for y in range(-3, 4)
            for x in range(-3, 4)
        ]
        assert sum(found) >= 1


def test_hold_out_of_read_guidance_follows_the_seed_of_the_run(parent):
    feedback_of(parent).to_csv("feedback.csv", index=False)
    settings = dataclasses.replace(SETTINGS, feedback="feedback.csv", hold_out=0.5)
    found = read_guidance(settings, open_parent(parent))
    assert len(found.anchors) == len(found.held_out) == 10
    assert torch.from_numpy(found.anchors.cells).dtype == torch.int64
