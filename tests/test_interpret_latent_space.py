"""Interpretation: measures against closed forms and libraries, words, the script on tiny runs."""

import contextlib
import dataclasses
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import rankdata, spearmanr
from torch import nn
from torch.distributions import Normal, kl_divergence

import InfoMAX_VAE_framework
import VAE_framework
from human_guidance import interpret_latent_space, interpretation_figures, latent_space
from human_guidance.interpret_latent_space import SETTINGS, OnAllPixels, decoded_plane, main
from human_guidance.interpretation_figures import plot_correlations
from human_guidance.interpretation_measures import (
    concept_of,
    correlate,
    directions,
    information_per_axis,
    name_axes,
    name_concepts,
    nearest_cells,
    sensitivity_by_region,
    short_names,
    smooth_gradients,
    without_overlap,
    without_repeats,
)
from human_guidance.latent_space import LatentSpace
from util.errors import UserError
from util.runs import read_json, write_json
from VAE_framework import load_again, open_finished_run

N = 96
SCRIPT = "human_guidance/interpret_latent_space.py"
RGB = ["Red", "Green", "Blue"]
TINY = {
    "image_size": 32, "base": 2, "epochs": 2, "learning_rate": 3e-3, "batch_size": 16,
    "metrics": ("axes",), "device": "cpu",
}  # fmt: skip


class Quadratic(nn.Module):
    """An encoder whose gradient is known: mean_k = sum of w_k x + v_k x^2 over all pixels."""

    def __init__(self, w, v):
        super().__init__()
        self.w, self.v = w, v  # (d, C, S, S)

    def encode(self, x):
        mean = torch.einsum("bcij,dcij->bd", x, self.w) + torch.einsum(
            "bcij,dcij->bd", x**2, self.v
        )
        return mean, torch.zeros_like(mean)


@pytest.fixture
def quadratic():
    rng = torch.Generator().manual_seed(0)
    w, v = torch.randn(2, 3, 2, 8, 8, generator=rng)
    images = torch.rand(5, 2, 8, 8, generator=rng)
    masks = (torch.rand(5, 8, 8, generator=rng) > 0.4).numpy()
    return Quadratic(w, v), images, masks


@pytest.mark.parametrize("batch", [2, 8])
def test_gradients_of_a_quadratic_encoder(quadratic, batch):
    model, x, masks = quadratic
    found = smooth_gradients(model, x, masks, [2, 0], 1, 0.0, 0, batch)
    exact = (model.w + 2 * model.v * x[:, None])[:, [2, 0]].numpy()  # (n, a, C, S, S)
    np.testing.assert_allclose(found.size, np.abs(exact).sum(2), rtol=1e-5)
    np.testing.assert_allclose(found.signed, exact.mean(0), rtol=1e-4, atol=1e-6)
    effect = [[sum((exact[i, a, c] * masks[i]).sum() for i in range(5)) / 5 for c in range(2)]
              for a in range(2)]  # fmt: skip
    np.testing.assert_allclose(found.effect, effect, rtol=1e-4, atol=1e-4)


def test_noise_averages_out_and_follows_the_seed(quadratic):
    model, x, masks = quadratic
    exact = smooth_gradients(model, x, masks, [0], 1, 0.0, 0).signed
    few, many = (smooth_gradients(model, x, masks, [0], n, 0.5, 1).signed for n in (4, 400))
    errors = [np.abs(found - exact).mean() for found in (few, many)]
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.4)  # 1 / sqrt(100)
    again = smooth_gradients(model, x, masks, [0], 4, 0.5, 1)
    np.testing.assert_array_equal(again.signed, few)
    assert (smooth_gradients(model, x, masks, [0], 4, 0.5, 2).signed != few).any()


def test_regions_of_a_square_cell():
    masks = np.zeros((2, 20, 20), bool)
    masks[:, 5:15, 5:15] = True
    size = np.ones((2, 3, 20, 20))
    size[:, 1, 8:12, 8:12] = 11.0  # only inside
    size[:, 2] = 0  # a dead axis
    table = sensitivity_by_region(size, masks)
    np.testing.assert_allclose(table.iloc[0], 1)
    mean = size[0, 1].mean()
    inside = (16 * 11 + 20) / 36  # the cell less 2 pixels on each side is 6 x 6
    np.testing.assert_allclose(table.iloc[1], [inside / mean, 1 / mean, 1 / mean])
    np.testing.assert_array_equal(table.iloc[2], 0)
    assert np.isnan(sensitivity_by_region(size, np.ones_like(masks))["outside"]).all()


def test_information_per_axis_is_the_divergence_from_the_prior():
    rng = np.random.default_rng(0)
    mean, logvar = rng.normal(size=(50, 3)), rng.normal(size=(50, 3))
    posterior = Normal(torch.from_numpy(mean), torch.from_numpy(logvar).div(2).exp())
    exact = kl_divergence(posterior, Normal(0.0, 1.0)).mean(0).numpy()
    np.testing.assert_allclose(information_per_axis(mean, logvar), exact)


def test_nearest_cells_by_brute_force():
    rng = np.random.default_rng(0)
    codes, point = rng.integers(-3, 4, (200, 3)).astype(np.float32), np.array([0.2, 0.1, -0.4])
    rows, distances = nearest_cells(codes, point, 30)
    exact = np.linalg.norm(codes - point, axis=1)
    np.testing.assert_allclose(distances, np.sort(exact)[:30], rtol=1e-5)
    np.testing.assert_allclose(exact[rows], distances, rtol=1e-5)
    assert len(set(rows)) == 30 and len(nearest_cells(codes, point, 500)[0]) == 200


def test_pictures_do_not_overlap_and_leave_no_room():
    rng = np.random.default_rng(0)
    places, side = rng.normal(size=(150, 2)), 0.6
    rows = without_overlap(places, side)

    def free(i, others):
        return all(max(abs(places[i] - places[j])) >= side for j in others if j != i)

    assert all(free(i, rows) for i in rows)
    assert len(rows) > 15
    per_square = pd.DataFrame(np.floor(places / side)).value_counts()
    if per_square.max() <= 8:  # then every cell was tried
        assert not any(free(i, rows) for i in set(range(150)) - set(rows))


def test_directions_between_the_axes():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(2000, 3)) * [1, 3, 0.5]
    unit = np.array([0.6, 0.0, -0.8])
    values = np.where(rng.random(2000) < 0.1, np.nan, np.tanh(codes @ unit))
    table = pd.DataFrame({"progress": values, "few": 1.0})
    found = directions(codes, ["x", "y", "z"], table)
    assert found["column"].tolist() == ["progress"]
    assert found["n_cells"][0] == np.isfinite(values).sum()
    np.testing.assert_allclose(found[["x", "y", "z"]].to_numpy()[0], unit, atol=0.02)
    assert found["spearman"][0] > 0.999


def law(n=800):
    """Columns of BBBC031 and features that follow them, from the published law."""
    rng = np.random.default_rng(0)
    x, y = rng.random((2, n))
    known = pd.DataFrame({
        "GT_colorR": y, "GT_colorG": 1 - x, "GT_Shape": 0.5 - (x + y) / 4,
        "PositionOnRegressionPlaneX": x, "GT_Cell_id": rng.permutation(n),
    })  # fmt: skip
    features = pd.DataFrame({
        "AreaShape_FormFactor": x + y + rng.normal(0, 0.1, n),
        "Intensity_MeanIntensity_Red": y + rng.normal(0, 0.01, n),
        "AreaShape_EulerNumber": 1.0,
    })  # fmt: skip
    return known, features


def test_correlations_are_those_of_scipy():
    known, features = law()
    known.loc[:9, "GT_Shape"] = np.nan
    codes = np.column_stack([known["GT_colorR"] ** 3, np.zeros(len(known))])
    found = correlate(codes, ["x", "y"], known, features, RGB)
    assert not found["column"].isin(["GT_Cell_id", "AreaShape_EulerNumber"]).any()
    assert (found["axis"] == "x").all()  # a constant axis has no correlation
    row = found[found["column"] == "GT_Shape"].iloc[0]
    exact = spearmanr(codes[10:, 0], known["GT_Shape"][10:]).statistic
    assert row["spearman"] == pytest.approx(exact) and row["n_cells"] == len(known) - 10
    assert row["concept"] == "shape" and row["kind"] == "known"


@pytest.mark.parametrize(
    ("column", "channels", "concept"),
    [
        ("GT_colorB", [], "colour"),
        ("GT_Shape", [], "shape"),
        ("Intensity_MeanIntensity_Red", RGB, "colour"),
        ("Intensity_MeanIntensity_Red", ["Red", "DNA"], "brightness of Red"),
        ("Intensity_IntegratedIntensity_Red", RGB, "colour"),
        ("Intensity_IntegratedIntensity_DNA", ["DNA"], "total signal of DNA"),
        ("Nuclei_Intensity_MeanIntensity", ["DNA"], "brightness"),
        ("Correlation_Pearson_Red_Blue", RGB, "colour"),
        ("Correlation_Pearson_DNA_Actin", ["DNA", "Actin"], "overlap of the channels"),
        ("Intensity_MassDisplacement_Red", RGB, "place of the signal in the cell"),
        ("Nuclei_AreaShape_Area", [], "size"),
        ("AreaShape_PerimeterCrofton", [], "size"),
        ("AreaShape_MaxFeretDiameter", [], "size"),
        ("Cells_AreaShape_FormFactor", [], "shape"),
        ("AreaShape_Orientation", [], "orientation"),
        ("Texture_Entropy_DNA", [], "texture"),
        ("DNA content", [], "DNA content"),
    ],
)
def test_concepts(column, channels, concept):
    assert concept_of(column, channels) == concept


def name_all(codes, known, features, nats=None):
    axes = ["x", "y", "z"][: codes.shape[1]]
    nats = np.ones(len(axes)) if nats is None else nats
    correlations = without_repeats(correlate(codes, axes, known, features, RGB))
    values = pd.concat([known, features], axis=1)
    overall = name_concepts(correlations, values, directions(codes, axes, values))
    return (
        overall,
        name_axes(correlations, axes, nats),
        short_names(correlations, axes, nats),
    )


def test_the_axes_of_colour_and_of_shape_are_named():
    known, features = law()
    noise = np.random.default_rng(1).normal(size=(len(known), 2))
    shape_axis = -known["GT_Shape"] + 0.02 * noise[:, 0]
    colour_axis = known["GT_colorR"] + known["GT_colorG"]  # apart from the shape
    codes = np.column_stack([shape_axis, colour_axis, noise[:, 1]])
    overall, sentences, short = name_all(codes, known, features, np.array([2.0, 1.0, 0.001]))
    assert re.search(
        r"[Tt]he shape (is best followed )?by axis x \(-0\.9\d with GT_Shape\)", overall[0]
    )
    assert re.search(r"[Tt]he colour (is best followed )?by axis [xy] ", overall[0])
    assert sentences[0].startswith("Axis x follows the shape (Spearman -0.9")
    assert "with AreaShape_FormFactor" in sentences[0]
    assert (
        sentences[1].startswith("Axis y ") and "follows the colour (Spearman +0.7" in sentences[1]
    )
    assert sentences[2] == "The model does not use axis z (it carries 0.00 nats)."
    assert short[0].startswith("shape") and short[1:] == ["colour", "unused"]
    assert "PositionOnRegressionPlane" not in "".join(overall + sentences)  # it repeats a colour


def test_what_goes_together_and_what_lies_between_the_axes_is_said():
    known, features = law()
    y, x = known["GT_colorR"], 1 - known["GT_colorG"]
    codes = np.column_stack([x, y])  # the shape runs along the diagonal
    overall, _, _ = name_all(codes, known, features)
    text = " ".join(overall)
    assert re.search(r"the colour and the shape vary together|the shape and the colour vary", text)
    found = re.search(r"The direction ([-+.\d]+) x ([-+.\d]+) y follows the shape better", text)
    assert [float(part) for part in found.groups()] == pytest.approx([-0.71, -0.71], abs=0.02)


def test_nothing_to_follow_is_said():
    rng = np.random.default_rng(0)
    codes, empty = rng.normal(size=(300, 2)), pd.DataFrame(index=range(300))
    overall, sentences, short = name_all(codes, empty, None)
    assert overall == ["There is no metadata column and no feature to compare the axes with."]
    assert "has no name" in sentences[0] and short[0] == "nothing known"
    noise = pd.DataFrame({"dose": rng.normal(size=300)})
    overall, sentences, _ = name_all(codes, noise, None)
    assert overall[0].startswith("No axis follows") and "follows nothing known" in sentences[1]


def write_discs(folder):
    """A set of discs that differ in size and brightness, and one of 16 bits and four channels."""
    rng = np.random.default_rng(0)
    radius, brightness = rng.uniform(4, 13, N), rng.uniform(0.3, 1, N)
    y, x = np.mgrid[:32, :32] - 15.5
    discs = (np.hypot(x, y) < radius[:, None, None]) * brightness[:, None, None]  # (N, S, S)
    colours = rng.uniform(0.2, 1, (N, 4))
    four = discs[..., None] * colours[:, None, None] * 40_000
    np.savez(folder / "discs.npz", imgs=(discs * 255).astype(np.uint8))
    np.savez(folder / "four.npz", imgs=four.astype(np.uint16))
    kinds = np.where(radius < 8.5, "small", "large")
    ids = [f"disc_{i}" for i in range(N)]
    pd.DataFrame({"Unique_ID": ids, "kind": kinds, "radius": radius}).to_csv(
        folder / "discs.csv", index=False
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two finished runs: one with classes and features, and an InfoMax SC-VAE without anything,
    which sees its cells at half their size.
    """
    folder = tmp_path_factory.mktemp("trained")
    write_discs(folder)
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(VAE_framework, "draw", lambda run, *more, **named: run.folder / "report.html")
        patch.setattr(VAE_framework, "print_summary", lambda *more: None)
        patch.setattr(VAE_framework, "project_features", lambda *more, **named: {})
        own = {"dataset": "discs.npz", "metadata": "discs.csv", "label": "kind", "latent_dim": 2}
        VAE_framework.main(dataclasses.replace(VAE_framework.SETTINGS, **TINY, **own))
        other = {"dataset": "four.npz", "latent_dim": 5, "features": "none", "architecture": "sc",
                 "image_size": 64, "downsample": 2}  # fmt: skip
        VAE_framework.main(
            dataclasses.replace(InfoMAX_VAE_framework.SETTINGS, **(TINY | other)),
            InfoMAX_VAE_framework.infomax_objective,
        )
    return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    """The folder of this test, with a copy of the runs in its results: without what only training
    needs, which is 60 of 68 MB.
    """
    monkeypatch.chdir(tmp_path)
    without = shutil.ignore_patterns("checkpoint.pt")
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True, ignore=without)
    return tmp_path / "results"


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_a_user_interprets_a_run(run_script, here):
    run = here / "0001-discs-VAE"
    before = contents(run)
    options = ["--from", "small", "--to", "disc_3", "--points", "x=0.5 y=-1", "disc_7", "large",
               "--neighbours", 4, "--saliency-cells", 6, "--saliency-samples", 2]  # fmt: skip
    done = run_script(SCRIPT, "--run", 1, *options)
    assert contents(run) == before
    folder = here / "0003-0001-discs-VAE-interpretation"
    assert f"report: results/{folder.name}/report.html" in done.stdout
    names = {p.name for p in folder.iterdir()}
    assert names == {"settings.json", "report.html"} | {
        f"{name}.png" for name in
        "traversals line plane gallery correlations nearest saliency".split()
    } | {f"{name}.csv" for name in "correlations directions nearest saliency".split()}  # fmt: skip

    page = (folder / "report.html").read_text()
    for sentence in done.stdout.splitlines()[:-1]:
        if sentence.startswith(("Axis", "The model")):
            assert sentence in page
    assert len(re.findall("<figcaption>", page)) == 7

    latents = pd.read_csv(run / "latents.csv")
    codes = latents[["VAE_x_coord", "VAE_y_coord"]].to_numpy()
    correlations = pd.read_csv(folder / "correlations.csv")
    row = correlations.query("column == 'radius' and axis == 'y'").iloc[0]
    assert row["spearman"] == pytest.approx(spearmanr(codes[:, 1], latents["radius"]).statistic)
    features = correlations[correlations["kind"] == "feature"]["column"]
    assert "AreaShape_Area" in set(features)

    nearest = pd.read_csv(folder / "nearest.csv")
    apart = np.linalg.norm(codes - [0.5, -1], axis=1)
    expected = latents["Unique_ID"][np.argsort(apart)[:4]].tolist()
    assert nearest[nearest["point"] == "x=0.5 y=-1"]["Unique_ID"].tolist() == expected
    assert nearest[nearest["point"] == "disc_7"]["Unique_ID"].iloc[0] == "disc_7"
    centre = codes[latents["kind"] == "large"].mean(0)
    assert nearest[nearest["point"] == "large"]["distance"].iloc[0] == pytest.approx(
        np.linalg.norm(codes - centre, axis=1).min(), abs=1e-5
    )

    main(
        dataclasses.replace(
            SETTINGS, run=str(run), start="small", end="disc_3", neighbours=4, saliency_cells=6,
            saliency_samples=2, points=("x=0.5 y=-1", "disc_7", "large"),
        )
    )  # fmt: skip
    again = contents(here / "0004-0001-discs-VAE-interpretation")
    different = {name for name, content in contents(folder).items() if again[name] != content}
    assert different <= {"settings.json", "report.html", "saliency.csv"}  # time and command
    tables = [pd.read_csv(path / "saliency.csv") for path in
              (folder, here / "0004-0001-discs-VAE-interpretation")]  # fmt: skip
    pd.testing.assert_frame_equal(*tables, rtol=1e-4)  # gradients depend on the number of threads


def quick(**values):
    return dataclasses.replace(SETTINGS, **{"saliency_cells": 3, "saliency_samples": 1} | values)


def test_any_model_channels_and_dimensions(here, monkeypatch):
    monkeypatch.setattr(latent_space, "MOST_AXES", 3)
    report = main(quick(run="2"))
    folder = report.parent
    assert not (folder / "line.png").exists() and not (folder / "correlations.png").exists()
    assert len(pd.read_csv(folder / "saliency.csv")) == 3  # axes shown, of five
    page = report.read_text()
    assert "There is no metadata column and no feature" in page
    assert "2 axes that carry less information are not shown" in page


def space_of(folder):
    run, loaded = open_finished_run(folder), None
    loaded = load_again(run)
    return LatentSpace(
        run, loaded, run.model(loaded.cells, torch.device("cpu")), torch.device("cpu")
    )


def test_the_model_that_was_scored_is_the_one_looked_at(here):
    for name in ("0001-discs-VAE", "0002-four-InfoMAX-SC-VAE"):
        space = space_of(here / name)
        with torch.no_grad():
            model = OnAllPixels(space.model, space.run.settings.downsample)
            codes = model.encode(space.scaled(np.arange(N)))[0].numpy()
            pictures = space.decode(codes[:2])
        np.testing.assert_allclose(codes, space.codes, atol=1e-4)
        assert pictures.shape == space.pictures(np.arange(2)).shape


def test_rows_of_the_plane_are_the_second_axis(here, monkeypatch):
    space, drawn = space_of(here / "0001-discs-VAE"), {}
    monkeypatch.setattr(
        interpret_latent_space, "plot_plane",
        lambda pictures, steps, inhabited, **more: drawn.update(pictures=pictures, cells=inhabited),
    )  # fmt: skip
    decoded_plane(space, (0, 1), here)
    steps = interpret_latent_space.PLANE
    point = space.mean + [steps[8] * space.deviation[0], steps[2] * space.deviation[1]]
    np.testing.assert_array_equal(drawn["pictures"][2, 8], space.decode(point[None])[0])
    places = (space.codes - space.mean) / space.deviation
    near = (np.abs(places - [steps[8], steps[2]]) < 0.25).all(1)
    assert drawn["cells"][2, 8] == near.any()


def test_pictures_come_in_the_order_asked(here):
    space = space_of(here / "0001-discs-VAE")
    rows = np.array([9, 2, 5])
    np.testing.assert_array_equal(
        space.pictures(rows), np.concatenate([space.pictures(rows[i : i + 1]) for i in range(3)])
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"run": "9"}, "`run` 9: no run of that number in results is finished"),
        ({"run": "last"}, "`run` last: no run in results is finished"),  # none has a report
        ({"run": "nowhere"}, "nowhere: no settings.json there; give the folder of a finished run"),
        ({"start": "small"}, "--from and --to: a line has two ends"),
        (
            {"start": "small", "end": "tiny"},
            "--to tiny: no cell of that Unique_ID, no kind of that",
        ),
        ({"start": "disc_1", "end": "disc_1"}, "both lie at the same place"),
        ({"plane": ("x", "z")}, "--plane z: the axes are x, y"),
        ({"plane": ("x", "x")}, "give two different axes"),
        ({"points": ("z=1",)}, "z=1 is not an axis"),
        ({"points": ("x=one",)}, "x=one is not an axis (x, y) with a number"),
        ({"points": ("x=nan",)}, "nan is not a finite number"),
        ({"points": ("x=1 y",)}, "no coordinates such as"),
        ({"neighbours": 0}, "--neighbours 0: must be at least 1"),
        ({"saliency_samples": 0}, "--saliency-samples 0: must be at least 1"),
        ({"saliency_noise": -1.0}, "--saliency-noise -1.0: must be at least 0 and at most 1"),
        ({"span": 0.0}, "--span 0.0: must be above 0"),
    ],
)
def test_mistakes_are_said_before_anything_is_written(here, values, message):
    with pytest.raises(UserError, match=re.escape(message)):
        main(quick(**{"run": "1"} | values))
    assert len(list(here.iterdir())) == 2


def test_damaged_and_foreign_run_folders_are_named(here):
    run = here / "0001-discs-VAE"

    def refused(message):
        with pytest.raises(UserError, match=message):
            space_of(run)

    described, latents = read_json(run / "settings.json"), (run / "latents.csv").read_text()
    best = (run / "best.pt").read_bytes()
    write_json(run / "settings.json", {"settings": {"dataset": "x"}})
    refused("trains no model here")
    write_json(run / "settings.json", described | {"data": {}})
    refused("does not say what data")
    newer = described["settings"] | {"gamma": 1}
    write_json(run / "settings.json", described | {"settings": newer})
    refused("another version: there is no setting 'gamma'")
    changed = json.loads(json.dumps(described))
    changed["data"]["fingerprint"] = "other"
    write_json(run / "settings.json", changed)
    refused("discs.npz is no longer what .*0001-discs-VAE learnt from")
    write_json(run / "settings.json", described | {"settings": described["settings"] | {"base": 4}})
    refused("best.pt does not fit this run")
    write_json(run / "settings.json", described)

    (run / "best.pt").write_bytes(best[:100])
    refused("best.pt is damaged")
    (run / "best.pt").write_bytes(best)
    (run / "latents.csv").write_text(latents.replace("VAE_x_coord", "other"))
    refused("latents.csv is damaged: expected Unique_ID and VAE_x_coord, VAE_y_coord")
    (run / "latents.csv").unlink()
    refused("no latents.csv there")


def test_figure_of_correlations_shows_features_that_differ(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(400, 2))
    twins = {
        f"AreaShape_Zernike_{i}_0": codes[:, 0] + 0.01 * rng.normal(size=400) for i in range(9)
    }
    features = pd.DataFrame(
        twins | {"Texture_Contrast": codes[:, 1], "AreaShape_Extent": codes[:, 1]}
    )
    features["AreaShape_Eccentricity"] = rng.normal(size=400)  # follows nothing
    known = pd.DataFrame({"dose": rankdata(codes[:, 0])})
    correlations = correlate(codes, ["x", "y"], known, features, RGB)
    shown, draw = [], interpretation_figures._draw_squares

    def note_and_draw(panel, wide):
        shown.append(wide.index.get_level_values("column").tolist())
        return draw(panel, wide)

    monkeypatch.setattr(interpretation_figures, "_draw_squares", note_and_draw)
    path = plot_correlations(correlations, ["x", "y"], ["shape", "texture"], tmp_path / "c.png")
    assert path.stat().st_size > 0
    assert shown[0] == ["dose"]
    assert {"Texture_Contrast", "AreaShape_Extent"} < set(shown[1]) and len(shown[1]) == 3
    assert plot_correlations(correlations[:0], ["x"], ["none"], tmp_path / "d.png") is None
