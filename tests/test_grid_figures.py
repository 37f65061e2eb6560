import json
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from optimization import grid_figures
from optimization.grid_figures import (
    best_runs,
    colour_scale,
    draw_runs,
    heat_matrix,
    plot_heat_maps,
    plot_sweep,
    score_columns,
    write_explorer,
)
from util.errors import UserError


@pytest.fixture
def runs():
    """3 x 2 trials: one failed, one missing, one far off."""
    table = pd.DataFrame(
        {
            "run": [f"000{i}-x" for i in range(1, 6)],
            "alpha": [0.0, 0, 5, 5, 20],
            "beta": [1.0, 500, 1, 500, 1],
            "status": ["trained", "trained", "failed", "trained", "trained"],
            "reason": [None, None, "</script><b>diverged", None, None],
            "accuracy": [0.6, 0.62, np.nan, 0.61, 0.59],
            "valid_reconstruction": [800.0, 810, np.nan, 790, 9000],
            "valid_kl": [1.0, 2, np.nan, 3, 4],
            "spearman[dose]": [0.1, -0.9, np.nan, 0.3, 0.2],
            "epochs": [5.0, 5, np.nan, 5, 5],
        }
    )
    return table


def test_matrix_of_the_trials(runs):
    matrix, words = heat_matrix(runs, ("alpha", "beta"), ([0, 5, 20], [1, 500]), "accuracy")
    np.testing.assert_array_equal(matrix, [[0.6, 0.62], [np.nan, 0.61], [0.59, np.nan]])
    assert words[1, 0] == "failed" and words[2, 1] == "missing"
    twice = pd.concat([runs, runs.assign(accuracy=runs["accuracy"] + 0.2)])
    means, _ = heat_matrix(twice, ("alpha", "beta"), ([0, 5, 20], [1, 500]), "accuracy")
    np.testing.assert_allclose(means, matrix + 0.1)


def test_colours_span_the_values_without_outliers():
    scale, ends = colour_scale(np.array([1.0, 2, 3, 4, 5]))
    assert (scale.vmin, scale.vmax, ends) == (1, 5, "neither")
    scale, ends = colour_scale(np.array([1.0, 2, 3, 4, 1000]))  # quartiles 2, 4; fence 4 + 3
    assert (scale.vmin, scale.vmax, ends) == (1, 7, "max")
    scale, ends = colour_scale(np.array([2.0, 2, 2]))
    assert scale.vmin < 2 < scale.vmax and ends == "neither"
    scale, ends = colour_scale(np.array([2.0, 2, 2, 2, 9]))
    assert (scale.vmin, scale.vmax) == (2, 9)


def test_the_best_run_by_each_score(runs):
    scores = ["accuracy", "valid_reconstruction", "valid_kl", "spearman[dose]"]
    best = best_runs(runs, ["alpha", "beta"], scores)
    assert list(best.index) == ["accuracy", "valid_reconstruction", "spearman[dose]"]
    assert list(best["run"]) == ["0002-x", "0004-x", "0002-x"]
    assert best.loc["valid_reconstruction", "value"] == 790
    assert list(best_runs(runs, ["alpha"], []).columns) == ["alpha", "value", "run"]


def test_what_is_a_score(runs):
    assert score_columns(runs, ["alpha", "beta"]) == [
        "accuracy", "valid_reconstruction", "valid_kl"
    ]  # fmt: skip
    assert "spearman[dose]" in score_columns(runs, ["alpha", "beta"], axes_too=True)


def red(path):
    """Pixels of the frame around the best value."""
    image = imread(path)[..., :3]
    return (np.abs(image - np.array([214, 39, 40]) / 255) < 0.02).all(axis=-1)


def test_heat_maps_frame_the_best_value(runs, tmp_path):
    path = plot_heat_maps(runs, "alpha", "beta", ["accuracy"], path=tmp_path / "one.png")
    rows, columns = np.nonzero(red(path))
    height, width = red(path).shape
    assert rows.mean() > height / 2 and columns.mean() > width / 3  # alpha 0 below, beta 500 right
    before = path.read_bytes()
    plot_heat_maps(runs, "alpha", "beta", ["accuracy"], path=path)
    assert path.read_bytes() == before
    assert not red(plot_heat_maps(runs, "alpha", "beta", ["valid_kl"], path=path)).any()


def test_curves_of_a_sweep_mark_the_best(runs, tmp_path):
    path = plot_sweep(runs.dropna(subset="accuracy"), "alpha", ["accuracy"], tmp_path / "s.png")
    assert red(path).any()


def data_of(path):
    """What the script of a page is given."""
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text()).group(1))


def test_axes_of_a_heat_map_are_named(runs, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(grid_figures, "save_figure", lambda figure, path: drawn.append(figure))
    plot_heat_maps(runs, "alpha", "beta", ["accuracy"], path=tmp_path / "one.png")
    panel = drawn[0].axes[0]
    assert (panel.get_ylabel(), panel.get_xlabel()) == ("alpha", "beta")
    assert [text.get_text() for text in panel.get_xticklabels()] == ["1", "500"]
    assert [text.get_text() for text in panel.get_yticklabels()] == ["0", "5", "20"]


def test_the_explorer_holds_every_run_and_no_foreign_markup(runs, tmp_path):
    run = tmp_path / "grid" / "0001-x"
    run.mkdir(parents=True)
    (run / "report.html").touch()
    path = tmp_path / "pages" / "explore.html"
    path.parent.mkdir()
    folders = {name: tmp_path / "grid" / name for name in runs["run"]}
    write_explorer(
        runs, ["alpha", "beta"], ["accuracy"], path, first="accuracy", run_folders=folders
    )
    assert data_of(path)["first"] == 0
    scores = ["valid_kl", "accuracy"]
    for first, place in (("accuracy", 1), ("valid_kl", 0), ("absent", 0)):
        other = tmp_path / "pages" / "other.html"
        write_explorer(runs, ["alpha", "beta"], scores, other, first=first, run_folders={})
        assert data_of(other)["first"] == place
    page = path.read_text()
    data = data_of(path)
    assert [one["link"] for one in data["runs"]] == ["../grid/0001-x/report.html"] + [None] * 4
    assert data["runs"][2]["reason"] == "</script><b>diverged" and "<b>diverged" not in page
    assert data["runs"][2]["values"] == [None]
    assert data["axes"][1] == {"name": "beta", "values": ["1", "500"]}


def test_everything_of_a_grid_is_drawn(runs, tmp_path):
    report = draw_runs(tmp_path, runs, ["alpha", "beta"], "accuracy", run_folders={})
    text = report.read_text()
    assert f"{tmp_path.name}: 5 runs over alpha and beta" in text
    assert "Best by accuracy: alpha 0, beta 500 (0.62; 0002-x)." in text
    assert "alpha 5.0, beta 1.0 failed: &lt;/script&gt;" in text
    assert (tmp_path / "heatmap_valid_reconstruction.png").stat().st_size > 0
    three = draw_runs(tmp_path, runs, ["alpha", "beta", "epochs"], "accuracy", run_folders={})
    assert three.is_file()  # no heat map over three settings, but the explorer
    with pytest.raises(UserError, match="no column 'gamma'"):
        draw_runs(tmp_path, runs, ["alpha", "gamma"], "accuracy", run_folders={})
