"""Files of figures: small where nobody sees it, exact where there are images."""

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from util.style import (
    DPI,
    MARKERS,
    ClassColours,
    NumberColours,
    Roles,
    class_styles,
    colour_column,
    house_style,
    is_colourable,
    one_line,
    save_figure,
)

# Machado, Oliveira and Fernandes (2009), severity 1.0, in linear RGB
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                [-0.011820, 0.042940, 0.968881]]  # fmt: skip
PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
              [-0.003882, -0.048116, 1.051998]]  # fmt: skip


def saved(figure, path):
    """The pixels of a figure as they are drawn and as they are saved, and the number of bytes."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DPI, format="png")
    save_figure(figure, path)
    pixels = (np.asarray(Image.open(file).convert("RGB"), int) for file in (drawn, path))
    return *pixels, len(drawn.getvalue()), path.stat().st_size


def test_a_plot_is_small_and_looks_the_same(tmp_path):
    rng = np.random.default_rng(0)
    with house_style():
        figure = Figure(figsize=(6, 4))
        panel = figure.add_subplot()
        x, y, colour = rng.normal(size=(3, 300))
        figure.colorbar(panel.scatter(x, y, c=colour, alpha=0.5, linewidths=0))
        drawn, written, before, after = saved(figure, tmp_path / "plot.png")
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 1_000
    assert abs(written - drawn).max() < 20 and abs(written - drawn).mean() < 0.5
    assert (written[0, 0] == 255).all()
    assert after < 0.5 * before


def test_images_keep_their_colours(tmp_path):
    with house_style():
        figure = Figure(figsize=(2, 2))
        figure.add_subplot().imshow(np.random.default_rng(0).uniform(size=(40, 40, 3)))
        drawn, written, *_ = saved(figure, tmp_path / "images.png")
    assert (written == drawn).all()


def test_text_that_names_every_cell_has_no_colours():
    assert is_colourable(pd.Series(["a", "b", "a", "b"]))
    assert is_colourable(pd.Series([0.1, 0.2, 0.3, None]))
    assert not is_colourable(pd.Series(["a", "b", "c", None]))
    assert not is_colourable(pd.Series([None, None], dtype=object))


def test_long_names_that_begin_alike_stay_apart():
    names = [f"treatment with the inhibitor at {dose} nM" for dose in (1, 10, 100)]
    cut = [one_line(name) for name in names]
    assert len(set(cut)) == 3 and all(len(name) == 28 and "…" in name for name in cut)
    assert one_line("a\n b") == "a b" and one_line("x" * 28) == "x" * 28
    assert [len(one_line("y" * 50, width)) for width in (10, 11)] == [10, 11]


def seen_by(colours, matrix):
    """(n, 3) CIELAB of colours as a reader sees them to whom a matrix turns linear RGB."""
    rgb = np.array([to_rgb(colour) for colour in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(matrix).T, 0, 1)
    rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return rgb2lab(rgb)


@pytest.mark.parametrize("matrix", [np.eye(3), DEUTERANOPIA, PROTANOPIA])
@pytest.mark.parametrize("n", range(2, 25))
def test_classes_of_one_marker_stay_apart_for_the_colour_blind(n, matrix):
    looks = class_styles(n)
    assert len(set(looks)) == n and {shape for _, shape in looks} <= set(MARKERS)
    for shape in {shape for _, shape in looks}:
        lab = seen_by([colour for colour, own in looks if own == shape], matrix)
        distance = deltaE_ciede2000(lab[:, None], lab[None])
        assert distance[np.triu_indices(len(lab), 1)].min(initial=100) > 10


@pytest.mark.parametrize(
    "values",
    [[0, 1, 10], [0.0, 0.5, 2.0], [24, 48, 72], [0, 0.1, 0.3, 1, 3, 10, 30, 100]],
)
def test_doses_and_times_are_on_a_scale_however_few(values):
    dose = pd.Series(np.repeat(values, 5), name="dose")
    assert isinstance(colour_column(dose), NumberColours)
    assert isinstance(colour_column(dose, Roles("GT_label")), NumberColours)
    classes = colour_column(dose, Roles("dose"))
    assert isinstance(classes, ClassColours) and classes.names == [f"{v:g}" for v in values]
    assert isinstance(colour_column(dose, Roles("dose", "dose")), NumberColours)
    assert isinstance(colour_column(dose.map(str), Roles("dose", "dose")), NumberColours)
    assert isinstance(colour_column(dose.map(str), Roles("dose")), ClassColours)
    assert isinstance(colour_column(dose.rename("plate").astype(int)), ClassColours)


def test_the_order_of_classes_gives_their_colours():
    drugs = pd.Series(["10 nM", "2 nM", "DMSO", "2 nM"], name="drug")
    assert colour_column(drugs).names == ["2 nM", "10 nM", "DMSO"]
    ordered = colour_column(drugs, Roles("drug", order=["DMSO"]))
    assert ordered.names == ["DMSO", "2 nM", "10 nM"]
    np.testing.assert_array_equal(ordered.codes, [2, 1, 0, 1])
    assert ordered.counts == [1, 2, 1] and ordered.colours[0] == class_styles(1)[0][0]
    numbers = pd.Series([0, 1, 2, 1], name="phase")
    assert colour_column(numbers, Roles("phase", order=["2", "0"])).names == ["2", "0", "1"]
