"""Files of figures: small where nobody sees it, exact where there are images."""

import io

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from util.style import DPI, house_style, is_colourable, one_line, save_figure


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
