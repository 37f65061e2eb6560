"""Figures of scores: what is drawn of which table, and the same bytes twice."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from long_scores import long_scores
from PIL import Image

from quantitative_metrics import score_figures
from quantitative_metrics.score_figures import plot_accuracy, plot_scores


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
