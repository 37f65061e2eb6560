import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness

from optimization import compare_methods
from optimization.compare_figures import intervals, one_per_score, ranks
from util.errors import UserError

pytestmark = pytest.mark.usefixtures("only_own_garbage")


def settings_of(**changes):
    small = {
        "simulated_cells": 60,
        "image_size": 32,
        "base": 2,
        "epochs": 1,
        "metrics": ("neighbours", "axes"),
        "device": "cpu",
    }
    return dataclasses.replace(compare_methods.SETTINGS, **small | changes)


def test_intervals_are_students():
    values = [0.5, 0.7, 0.9]
    rows = [("s", "A", i, "accuracy", value, np.nan) for i, value in enumerate(values)]
    rows += [("s", "B", 0, "accuracy", 0.4, 0.1), ("s", "B", 1, "accuracy", 0.6, 0.1)]
    columns = ["data_set", "method", "seed", "score", "value", "std"]
    found = intervals(pd.DataFrame(rows, columns=columns)).set_index("method")
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert found.loc["A", "mean"] == pytest.approx(0.7)
    assert found.loc["A", "half_width"] == pytest.approx((high - low) / 2)
    assert found.loc["B", "mean"] == 0.5 and np.isnan(found.loc["B", "half_width"])


def test_ranks_begin_with_the_best():
    rows = [("accuracy", "A", 0.5), ("accuracy", "B", 0.7), ("accuracy", "C", 0.7)]
    rows += [("analytic_information", "A", 3.0)]
    means = pd.DataFrame(rows, columns=["score", "method", "mean"])
    found = ranks(means, ["A", "B", "C"])
    assert list(found.loc["accuracy"]) == [3, 1, 1]
    assert list(found.loc["mean rank"]) == [2, 1, 1]
    assert found.loc["analytic_information"].isna().tolist() == [False, True, True]


def test_specs_of_data_sets():
    name, own = compare_methods.read_set(
        "mine:dataset=a/b.npz,image-size=32,label=dose,beta=5", settings_of(image_size=64)
    )
    assert name == "mine"
    assert own == {"dataset": "a/b.npz", "image_size": 32, "label": "dose", "beta": 5.0}
    name, own = compare_methods.read_set("jurkat:dataset=here.npz", settings_of())
    assert (own["dataset"], own["label"]) == ("here.npz", "phase")
    _, own = compare_methods.read_set("old:shrink=2,evenness=0.5", settings_of())
    assert own == {"downsample": 2, "density_balance": 0.5}
    for spec, words in (
        ("unknown", "known are simulated, jurkat"),
        ("mine:colour=red", "'colour=red' is not setting=value"),
        ("mine:base=wide", "'base=wide' is no number"),
        ("mine:fit=squash", "'fit=squash' must be one of scale, squeeze"),
        ("mine:views=sideways", "'views=sideways' must be one of none, turns"),
    ):
        with pytest.raises(UserError, match=words):
            compare_methods.read_set(spec, settings_of())


def test_specs_of_methods():
    far = "Far:method=InfoMaxViews,alpha=9,views=free,freeze-norm-after=2,augment=False"
    asked = ("SC", "InfoMaxViews", far, "Vanilla", "Aligned", "Even")
    settings = settings_of(methods=asked, alpha=20.0)
    methods = compare_methods.read_methods(settings)
    assert list(methods) == ["SC", "InfoMaxViews", "Far", "Vanilla", "Aligned", "Even"]
    own = {"views": "turns", "beta": 3.0}
    data_set = compare_methods.DataSet(dataclasses.replace(settings, **own), own, None)
    found = {name: method.settings_on(data_set) for name, method in methods.items()}
    assert (found["SC"].architecture, found["SC"].views, found["SC"].alpha) == ("sc", "none", 20)
    views = found["InfoMaxViews"]
    assert (views.views, views.critic, views.alpha, views.beta) == ("turns", "code", 500, 3)
    assert (found["Far"].views, found["Far"].critic, found["Far"].alpha) == ("free", "code", 9)
    assert found["Far"].freeze_norm_after == 2 and found["Far"].augment is False
    assert (found["Vanilla"].architecture, found["Vanilla"].critic) == ("vanilla", "pixels")
    aligned = found["Aligned"]
    assert (aligned.target_view, aligned.likelihood) == ("aligned", "heteroscedastic")
    assert (aligned.views, aligned.beta) == ("none", 3)
    even = found["Even"]
    assert (even.density_balance, even.target_view, even.likelihood) == (1, "turns", "gaussian")
    assert found["Aligned"].density_balance == found["InfoMaxViews"].density_balance == 0
    assert (found["Vanilla"].target_view, found["Vanilla"].likelihood) == ("none", "bernoulli")
    for asked, words in (
        (("GAN",), "known are Vanilla, SC"),
        (("A:alpha=3",), "known are Vanilla, SC"),
        (("SC", "SC"), "SC is named twice"),
        (("A:method=SC,depth=3",), "'depth=3' is not setting=value"),
        (("A:method=SC,augment=no",), "'augment=no' must be True or False"),
    ):
        with pytest.raises(UserError, match=words):
            compare_methods.read_methods(settings_of(methods=asked))


def test_a_comparison_from_cells_to_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = settings_of(methods=("Vanilla", "SC", "TSNE", "PCA"), seeds=(0, 1))
    folder = compare_methods.main(settings)
    plain = "views=none,target-view=none,critic=pixels"
    assert [line for line in capsys.readouterr().out.splitlines() if " keeps " in line] == [
        f"Vanilla on simulated keeps {plain}",
        f"SC on simulated keeps {plain},architecture=sc",
    ]
    table = pd.read_csv(folder / "scores.csv")
    assert list(table.columns[:3]) == ["data_set", "method", "seed"]
    assert set(table["method"]) == set(settings.methods) and set(table["seed"]) == {0, 1}
    assert set(table["cells"]) == {"all"}  # nine validation cells are too few to score
    single = one_per_score(table)
    assert len(single) == 8 * single["score"].nunique()
    found = single.set_index(["method", "seed", "score"])["value"]
    lcmc = table[(table["metric"] == "lcmc_area") & (table["reference"] == "pixels")]
    for row in lcmc.itertuples():
        assert found[row.method, row.seed, "lcmc_area pixels"] == row.value
    assert found["Vanilla", 0, "lcmc_area pixels"] != found["Vanilla", 1, "lcmc_area pixels"]
    assert found["PCA", 0, "lcmc_area pixels"] == found["PCA", 1, "lcmc_area pixels"]
    figures = "standing.png losses_SC.png projections_GT_label.png local_quality.png".split()
    for name in (*figures, "latent_space.html", "ranks.csv"):
        assert (folder / "simulated" / name).stat().st_size > 0, name
    page = (folder / "report.html").read_text()
    assert "rank of each method" in page and (folder / "score_lcmc_area-pixels.png").is_file()


def test_data_sets_whose_names_make_one_file_name_keep_apart(tmp_path, monkeypatch):
    """ "A b", "a-b" and "a b" are one name to a folder, at least where case does not count."""
    monkeypatch.chdir(tmp_path)
    names = ["A b", "a-b", "a b"]
    sets = tuple(f"{name}:simulated-seed={i}" for i, name in enumerate(names))
    folder = compare_methods.main(
        settings_of(sets=sets, methods=("PCA",), seeds=(0,), metrics=("neighbours",))
    )
    table = pd.read_csv(folder / "scores.csv")
    assert list(table["data_set"].unique()) == names
    own = [file.parent for file in folder.glob("*/figures.csv")]
    colours = {pd.read_csv(of_set / "latents.csv")["GT_colorR"].sum() for of_set in own}
    assert len(own) == len(colours) == len({of_set.name.casefold() for of_set in own}) == 3
    found = {pd.read_csv(of_set / "scores.csv")["data_set"].unique().item() for of_set in own}
    assert found == set(names)
    assert all((of_set / "standing.png").is_file() for of_set in own)


def test_validation_cells_are_scored_by_themselves(tmp_path, monkeypatch, blank_figures):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare_methods, "LEAST_HELD_OUT", 5)
    methods = ("Vanilla", "PCA", "Pixels:method=PCA,project=pixels")
    settings = settings_of(methods=methods, simulated_cells=80, valid_fraction=0.25)
    folder = compare_methods.main(settings)
    scores = pd.read_csv(folder / "scores.csv")
    scores = scores[(scores["cells"] == "validation") & (scores["metric"] == "trustworthiness")]
    found = scores.set_index(["method", "reference", "k"])["value"]
    data_set = compare_methods.load_sets(settings)["simulated"]
    valid, loaded = data_set.validation_cells(0), data_set.loaded
    assert valid.sum() == len(data_set.split_by(0).split[1])
    features = loaded.features.to_numpy()
    pixels = loaded.cells.reference_space().reshape(80, -1)
    vanilla = pd.read_csv(next(folder.glob("*Vanilla*/latents.csv")))
    maps = {
        "Vanilla": vanilla.filter(regex=r"VAE_\w+_coord$").to_numpy()[valid],
        "PCA": PCA(3).fit(features[~valid]).transform(features[valid]),
        "Pixels": PCA(3).fit_transform(PCA(50).fit_transform(pixels))[valid],
    }
    for method, codes in maps.items():
        for reference, space in (("pixels", pixels), ("features", features)):
            expected = trustworthiness(space[valid], codes, n_neighbors=4)
            # the components of the pixels are of all cells, only the map of them is not
            tolerance = 0.02 if method == "Pixels" else 1e-4
            assert found[method, reference, 4] == pytest.approx(expected, rel=tolerance)
    assert "validation cells among themselves" in (folder / "report.html").read_text()


def test_metrics_that_compare_nothing_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = settings_of(features="none", methods=("Vanilla",), epochs=1)
    with pytest.raises(UserError, match="--metrics axes: cannot rank methods"):
        compare_methods.main(dataclasses.replace(settings, metrics=("axes",)))
    assert not (tmp_path / "results").exists()
    np.save("cells.npy", np.random.default_rng(0).integers(0, 255, (40, 32, 32), np.uint8))
    unlabelled = {"metrics": ("classifier",), "sets": ("mine:dataset=cells.npy",)}
    with pytest.raises(UserError, match="no score of these data sets is a single number"):
        compare_methods.main(dataclasses.replace(settings, **unlabelled))


def test_an_empty_choice_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="--seed: no value"):
        compare_methods.main(settings_of(seeds=(), features="none", methods=("Vanilla",)))
    with pytest.raises(UserError, match="named twice"):
        compare_methods.load_sets(settings_of(sets=("simulated", "simulated"), features="none"))
