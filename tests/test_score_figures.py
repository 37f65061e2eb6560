"""Figures of scores: what is drawn of which table, and the same bytes twice."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from long_scores import long_scores
from PIL import Image

from quantitative_metrics import score_figures
from quantitative_metrics.MINE_metric import MODES, InformationScore
from quantitative_metrics.score_figures import (
    plot_accuracy,
    plot_information_curves,
    plot_scores,
)


def opened(path):
    """The picture as an array, checked to be a PNG of 150 dpi with something drawn on it."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.std() > 1
    return pixels


def test_figures_of_the_scores(tmp_path):
    scores = long_scores()
    both = pd.concat([scores, scores.assign(reference="features")])
    one = opened(plot_scores(scores, tmp_path / "one.png"))
    two = opened(plot_scores(both, tmp_path / "two.png"))
    assert two.shape[0] > one.shape[0] + 300 and two.shape[1] == one.shape[1]
    without_band = plot_scores(scores.assign(std=np.nan), tmp_path / "no_band.png")
    assert (opened(without_band) != one).any()
    opened(plot_accuracy(scores, tmp_path / "accuracy.png"))
    many = pd.concat(
        scores[scores["metric"] == "accuracy"].assign(metric=f"accuracy[well {i}]")
        for i in range(60)
    )
    assert opened(plot_accuracy(many, tmp_path / "many.png")).shape[1] < 2400


@pytest.mark.parametrize("mode", ["held_out", "thesis"])
def test_training_curves_of_the_critics(tmp_path, monkeypatch, mode):
    """A line per training over its steps, or epochs, and the value reported."""
    settings, panels = MODES[mode], []
    common = {"spread": 0.1, "standard_error": 0.1, "cap": 3.0, "epochs": (1.0,), "n_pairs": 60}
    score = InformationScore(
        value=0.4,
        values=(0.3, 0.5),
        curves=((0.1, 0.2, 0.5), (0.3, 0.4)),
        mode=mode,
        settings=settings,
        **common,
    )
    monkeypatch.setattr(
        score_figures, "save_figure", lambda figure, path: panels.extend(figure.axes) or path
    )
    both = {"pixels": {"VAE": score}, "features": {"VAE": score, "UMAP": score}}
    plot_information_curves(both, tmp_path / "curves.png")
    assert [panel.get_title() for panel in panels] == [
        "Mutual information with pixels",
        "Mutual information with features",
    ]
    assert [len(panel.lines) for panel in panels] == [3, 6]
    first, second, level = panels[0].lines
    step = 20 if mode == "held_out" else 1
    assert first.get_xydata().tolist() == [[step, 0.1], [2 * step, 0.2], [3 * step, 0.5]]
    assert second.get_ydata().tolist() == [0.3, 0.4] and set(level.get_ydata()) == {0.4}
    assert panels[0].get_xlabel() == ("training step" if mode == "held_out" else "epoch")
    monkeypatch.undo()
    opened(plot_information_curves(both, tmp_path / "curves.png"))


def test_scores_without_curves_or_classes_make_no_figure(tmp_path):
    scores = long_scores()
    assert plot_scores(scores[scores["k"].isna()], tmp_path / "a.png") is None
    assert plot_accuracy(scores[scores["k"].notna()], tmp_path / "b.png") is None
    assert list(tmp_path.iterdir()) == []


def test_the_same_input_gives_the_same_bytes(tmp_path):
    scores = long_scores()
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        plot_scores(scores, folder / "scores.png")
        plot_accuracy(scores, folder / "accuracy.png")
    for name in ("scores.png", "accuracy.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_no_window_can_open():
    assert "pyplot" not in Path(score_figures.__file__).read_text(encoding="utf-8")
