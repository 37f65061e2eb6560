"""Figures against hand-made data: colours, counts, limits, and the same bytes twice."""

import copy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

import util.helpers
import util.pages.report
from util.errors import UserError
from util.helpers import (
    compose_rgb,
    mix_channels,
    plot_losses,
    plot_projections,
    plot_reconstructions,
    plot_samples,
)
from util.style import (
    LINE_PALETTE,
    ClassColours,
    NumberColours,
    Roles,
    colour_column,
    spread,
    thinning_stride,
)

XYZ = ["VAE_x_coord", "VAE_y_coord", "VAE_z_coord"]
UMAP = ["UMAP_X", "UMAP_Y", "UMAP_Z"]


def scaling(low, high):
    return SimpleNamespace(low=np.array(low, float), high=np.array(high, float))


def latent_table(n=60, seed=0):
    draw = np.random.default_rng(seed)
    table = pd.DataFrame(draw.normal(size=(n, 6)), columns=[*XYZ, *UMAP])
    table.insert(0, "Unique_ID", [f"cell_{i}.tiff" for i in range(n)])
    table["phase"] = draw.choice(["G1", "S", "G2"], n)
    table["dna"] = draw.normal(size=n)
    table["split"] = "train"
    table.loc[:4, UMAP] = np.nan
    return table


def opened(path):
    """The picture as an array, checked to be a PNG of 150 dpi with something drawn on it."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.std() > 1
    return pixels


def history(epochs, valid=(9.0, 4.0, 6.0), extra=()):
    terms = ["loss", "reconstruction", "kl", *extra]
    return [
        {
            "epoch": i + 1,
            "train": {term: 10.0 - i for term in terms},
            "valid": {term: valid[i] for term in terms},
        }
        for i in range(epochs)
    ]


@pytest.fixture
def words_of(tmp_path, monkeypatch):
    """Draw a figure; gives every text on it."""
    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: (drawn.append(f), save(f, *a, **k)))

    def words(plot, *arguments):
        plot(*arguments, tmp_path / "figure.png")
        return [text.get_text() for text in drawn[-1].findobj(Text)]

    return words


def test_one_channel_is_grey():
    images = np.array([0, 50, 100, 200], np.uint8).reshape(1, 1, 2, 2)
    rgb = compose_rgb(images, scaling([0], [100]))
    assert rgb.dtype == np.uint8 and rgb.shape == (1, 2, 2, 3)
    grey = np.array([[0, 128], [255, 255]])  # 0.5 * 255 = 127.5, rounded to even
    np.testing.assert_array_equal(rgb[0], np.repeat(grey[..., None], 3, axis=2))


def test_two_channels_are_magenta_and_green():
    images = np.zeros((1, 2, 1, 3), np.uint16)
    images[0, 0, 0] = [1000, 0, 1000]
    images[0, 1, 0] = [0, 60_000, 60_000]
    rgb = compose_rgb(images, scaling([0, 0], [1000, 60_000]))
    np.testing.assert_array_equal(rgb[0, 0], [[255, 0, 255], [0, 255, 0], [255, 255, 255]])


def test_three_channels_keep_their_order_and_the_range_of_uint16():
    images = np.array([20_000, 40_000, 65_535], np.uint16).reshape(1, 3, 1, 1)
    rgb = compose_rgb(images, scaling([10_000, 40_000, 0], [60_000, 50_000, 65_535]))
    np.testing.assert_array_equal(rgb[0, 0, 0], [51, 0, 255])  # 255 / 5; below `low`; at `high`


def test_the_fourth_channel_is_added_as_grey_and_clipped():
    one_hot = np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)
    expected = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [153, 153, 153]]
    np.testing.assert_array_equal(mix_channels(one_hot)[:, 0, 0], expected)
    np.testing.assert_array_equal(mix_channels(np.ones((1, 4, 1, 1)))[0, 0, 0], [255, 255, 255])
    assert mix_channels(np.ones((1, 9, 2, 2))).shape == (1, 2, 2, 3)


def test_blocks_change_nothing_and_a_constant_channel_is_black():
    images = np.random.default_rng(0).integers(0, 65_536, (7, 3, 4, 4)).astype(np.uint16)
    rule = scaling([0, 5, 100], [65_535, 5, 60_000])
    whole = compose_rgb(images, rule)
    np.testing.assert_array_equal(whole, compose_rgb(images, rule, block=2))
    assert (whole[..., 1] == 0).all() and whole[..., 0].any()


def test_scaling_of_another_number_of_channels_is_refused():
    with pytest.raises(UserError, match="2 channels, but the images have 3"):
        compose_rgb(np.zeros((1, 3, 2, 2), np.uint8), scaling([0, 0], [1, 1]))


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_reconstructions_and_samples(tmp_path, channels):
    cells = np.random.default_rng(0).random((13, channels, 16, 16))
    names = [f"channel {c}" for c in range(channels)]
    plain = opened(
        plot_reconstructions(cells, cells, tmp_path / "a.png", labels=list("abcdefghijklm"))
    )
    split = opened(plot_reconstructions(cells, cells, tmp_path / "b.png", channels=names))
    assert 1200 < plain.shape[1] < 2400  # 12 of the 13 cells, an inch each
    assert (split.shape[0] > plain.shape[0] + 300 * channels - 100) == (channels > 1)
    opened(plot_samples(cells, tmp_path / "c.png"))
    opened(plot_samples(cells[:1], tmp_path / "d.png"))


def test_a_reconstruction_of_another_shape_is_refused(tmp_path):
    with pytest.raises(UserError, match="same shape"):
        plot_reconstructions(np.ones((2, 1, 4, 4)), np.ones((2, 1, 8, 8)), tmp_path / "a.png")
    with pytest.raises(UserError, match="2 names of channels"):
        plot_reconstructions(
            np.ones((2, 1, 4, 4)), np.ones((2, 1, 4, 4)), tmp_path / "a.png", channels=["a", "b"]
        )


@pytest.mark.parametrize("epochs", [1, 3])
def test_losses_of_one_epoch_and_of_several(tmp_path, epochs):
    path = tmp_path / "losses.png"
    assert plot_losses(history(epochs), path) == path
    assert opened(path).shape[1] > 900
    wide = opened(plot_losses(history(epochs, extra=["mutual_information"]), tmp_path / "w.png"))
    assert wide.shape[1] > opened(path).shape[1]


def test_the_best_epoch_has_the_lowest_validation_loss(tmp_path, words_of):
    assert "best epoch 2 (validation loss 4.0)" in words_of(plot_losses, history(3))
    later = words_of(plot_losses, history(3, valid=(9.0, 7.0, 6.5)))
    assert "best epoch 3 (validation loss 6.5)" in later
    assert {"Loss", "Reconstruction", "KL divergence", "epoch", "nats per image"} <= set(later)


def test_losses_without_validation_or_with_a_diverged_epoch(tmp_path):
    broken = copy.deepcopy(history(3))
    broken[1]["valid"] = {}
    broken[2]["train"]["loss"] = float("nan")
    broken[2]["valid"]["loss"] = float("inf")
    opened(plot_losses(broken, tmp_path / "a.png"))
    for entry in broken:
        entry["valid"] = None
    opened(plot_losses(broken, tmp_path / "b.png"))
    with pytest.raises(UserError, match="history"):
        plot_losses([], tmp_path / "c.png")


def test_text_and_few_whole_numbers_are_classes():
    text = colour_column(pd.Series(["p10", "p2", None, "p2"]))
    assert isinstance(text, ClassColours)
    assert text.names == ["p2", "p10", "missing"] and text.counts == [2, 1, 1]
    np.testing.assert_array_equal(text.codes, [1, 0, 2, 0])
    assert text.colours[:2] == LINE_PALETTE[:2]
    whole = colour_column(pd.Series([3.0, 1.0, np.nan, 3.0]))
    assert whole.names == ["1", "3", "missing"] and whole.counts == [1, 2, 1]
    assert colour_column(pd.Series([True, False])).names == ["False", "True"]
    phases = pd.Categorical(["S", "G1"], categories=["G1", "S", "M"], ordered=True)
    assert colour_column(pd.Series(phases)).names == ["G1", "S"]


def test_fractions_and_many_whole_numbers_are_numbers():
    fractions = colour_column(pd.Series([0.5, 1.5, np.nan, np.inf]))
    assert isinstance(fractions, NumberColours)
    np.testing.assert_array_equal(fractions.values, [0.5, 1.5, np.nan, np.nan])
    many = colour_column(pd.Series(range(101)))
    assert (many.low, many.high) == (1, 99)  # the 1st and the 99th percentile


def test_colours_of_eleven_and_of_thirty_classes():
    eleven = colour_column(pd.Series([f"c{i}" for i in range(11)]))
    assert len(set(zip(eleven.colours, eleven.shapes, strict=True))) == 11
    assert eleven.shapes == ["circle"] * 8 + ["square"] * 3
    rare_last = [f"c{i}" for i in range(30) for _ in range(60 - i)]
    thirty = colour_column(pd.Series(rare_last))
    assert thirty.names == [*(f"c{i}" for i in range(23)), "other (7 classes)"]
    assert thirty.counts[-1] == sum(60 - i for i in range(23, 30)) and thirty.shapes[-1] == "cross"
    assert sum(thirty.counts) == len(rare_last)


def test_thinning_and_spreading():
    assert [thinning_stride(n) for n in (1, 20_000, 20_001, 60_000, 60_001)] == [1, 1, 2, 3, 4]
    heights = np.sort(spread(1000))
    assert heights[0] >= 0 and heights[-1] < 1
    assert np.diff(heights).max() < 0.003  # even, unlike a random draw


@pytest.mark.parametrize("column", ["phase", "dna", "split"])
@pytest.mark.parametrize("dimensions", [1, 2, 3, 5])
def test_projections_of_any_dimension(tmp_path, dimensions, column):
    projections = {"VAE": [*XYZ, *UMAP][:dimensions], "UMAP": UMAP[: min(dimensions, 3)]}
    path = plot_projections(latent_table(), projections, column, tmp_path / "p.png")
    height, width, _ = opened(path).shape
    assert 1300 < width < 1700 and 600 < height < 800


def test_the_colours_of_the_classes_are_on_the_figure(tmp_path):
    table = latent_table()
    path = plot_projections(table, {"VAE": XYZ[:2]}, "phase", tmp_path / "p.png")
    seen = {tuple(pixel) for pixel in opened(path).reshape(-1, 3)}
    for colour in LINE_PALETTE[:3]:  # the legend shows them without transparency
        assert tuple(bytes.fromhex(colour[1:])) in seen


def test_a_figure_says_what_it_leaves_out(words_of):
    table = latent_table(20_001)
    table["phase"] = "G1"
    table.loc[:6, "phase"] = "S"
    words = words_of(plot_projections, table, {"five": [*XYZ, "dna", "dna"], "UMAP": UMAP}, "phase")
    assert "Cells coloured by phase (1 of every 2 of 20,001 cells drawn)" in words
    assert "five (first 3 of 5 dimensions)" in words
    assert "UMAP\n5 of 20,001 cells without coordinates" in words
    assert {" G1 (19,994)", " S (7)", "VAE_x_coord", "UMAP_Z"} <= set(words)


def test_odd_projections(tmp_path):
    table = latent_table(30)
    table[UMAP] = np.nan
    table["odd"] = ["$x^{", "_hidden", "a very long name of a class " * 3] * 10
    table["empty"] = np.nan
    four = {name: XYZ for name in "ABCD"}
    for column in ("odd", "empty"):
        opened(plot_projections(table, {"UMAP": UMAP, **four}, column, tmp_path / "p.png"))
    opened(plot_projections(table[:1], {"VAE": XYZ}, "dna", tmp_path / "one.png"))
    for bad in ("nothing", "VAE_q"):
        with pytest.raises(UserError, match=bad):
            plot_projections(table, {"VAE": XYZ}, bad, tmp_path / "p.png")


def test_many_cells_are_thinned(tmp_path):
    few = latent_table(20_001)
    thinned = opened(plot_projections(few, {"VAE": XYZ[:2]}, "phase", tmp_path / "a.png"))
    few.loc[1::2, XYZ] = 1e6  # would stretch the axes if it were drawn
    assert (
        thinned == opened(plot_projections(few, {"VAE": XYZ[:2]}, "phase", tmp_path / "b.png"))
    ).all()


def test_the_same_input_gives_the_same_bytes(tmp_path):
    table = latent_table()
    cells = np.random.default_rng(0).random((5, 3, 8, 8))
    files = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        plot_losses(history(3), folder / "losses.png")
        plot_projections(table, {"VAE": XYZ, "UMAP": UMAP}, "phase", folder / "phase.png")
        plot_projections(table, {"VAE": XYZ, "UMAP": UMAP}, "dna", folder / "dna.png")
        plot_reconstructions(cells, cells, folder / "reconstructions.png")
        plot_samples(cells, folder / "samples.png")
        files.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert len(files[0]) == 5 and files[0] == files[1]


def test_no_window_can_open():
    for module in (util.helpers, util.pages.report):
        assert "pyplot" not in Path(module.__file__).read_text(encoding="utf-8")


def figure_axes(monkeypatch, *arguments, **more):
    kept = []
    monkeypatch.setattr(
        util.helpers, "save_figure", lambda figure, path: kept.append(figure) or path
    )
    plot_projections(*arguments, Path("unused.png"), **more)
    return kept[0].axes


@pytest.mark.parametrize("by", ["class", "dose"])
@pytest.mark.parametrize("across", [20.0, 60.0, 110.0])
def test_a_3d_panel_is_seen_from_where_its_groups_lie_apart(monkeypatch, across, by):
    """Two groups apart along one horizontal direction: the eye looks across it."""
    rng = np.random.default_rng(0)
    side = np.repeat([-1.0, 1.0], 100)
    angle = np.radians(across)
    direction = np.array([np.cos(angle), np.sin(angle), 0])
    points = 5 * side[:, None] * direction + rng.normal(0, 0.3, (200, 3))
    table = pd.DataFrame(points, columns=list("abc"))
    table["class"], table["dose"] = np.where(side > 0, "x", "y"), side + rng.normal(0, 0.1, 200)
    panel = figure_axes(monkeypatch, table, {"VAE": list("abc")}, by)[0]
    x, y, _ = (2 * 5 * direction) / np.ptp(points, axis=0)  # the panel is a cube
    # of the sides from which the labels do not meet
    turns = np.radians([panel.azim, *range(-75, -10, 5)])
    seen = abs(np.sin(turns - np.arctan2(y, x)))
    assert seen[0] > 0.6 and seen[0] == pytest.approx(seen.max(), abs=0.05)


def test_few_doses_are_on_a_scale_unless_they_are_the_label(monkeypatch):
    table = pd.DataFrame({"a": [0.0, 1, 2, 3], "b": [0.0, 1, 0, 1], "dose": [0, 1, 10, 100]})
    drawn = {"VAE": ["a", "b"]}
    assert len(figure_axes(monkeypatch, table, drawn, "dose")) == 2  # a colour bar
    assert len(figure_axes(monkeypatch, table, drawn, "dose", roles=Roles("dose"))) == 1
    both = Roles("dose", progress="dose")
    as_text = table.assign(dose=["0", "1", "10", "100"])  # as labels are read
    assert len(figure_axes(monkeypatch, as_text, drawn, "dose", roles=both)) == 2
    names = table.assign(dose=list("wxyz"))
    assert len(figure_axes(monkeypatch, names, drawn, "dose")) == 1


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_more_than_eight_classes_have_several_markers(monkeypatch, dimensions):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(200, 3)), columns=list("abc"))
    table["class"] = [f"class {i % 17}" for i in range(200)]
    drawn = {"VAE": list("abc")[:dimensions]}
    panel, *_ = figure_axes(monkeypatch, table, drawn, "class", roles=Roles("class"))
    corners = {len(points.get_paths()[0].vertices) for points in panel.collections}
    assert len(panel.collections) == 17 and len(corners) >= 2
    assert sum(len(points.get_offsets()) for points in panel.collections) == 200
    key = panel.figure.legends[0].legend_handles
    assert [handle.get_marker() for handle in key] == ["o"] * 8 + ["s"] * 8 + ["D"]
