"""Figures of the metrics: what is drawn where, limits, bad input, and the same bytes twice."""

from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import gaussian_kde

import quantitative_metrics.metric_figures
from quantitative_metrics.backbone_metric import BackboneLine, BackboneScore, Estimate
from quantitative_metrics.metric_figures import (
    plot_backbone,
    plot_co_ranking,
    plot_local_quality,
    plot_local_quality_densities,
    plot_ordered_distance,
)
from util.errors import UserError
from util.style import LINE_PALETTE

EVIL = "</script><script>alert(1)</script>"


def estimate(value):
    return Estimate(value, low=np.nan, high=np.nan, std=np.nan)


def example(dimensions, n=90, branches=("1", "2", "10"), states=("green", "red"), seed=0):
    """Codes and a backbone: cells near their line, every seventh left out."""
    rng = np.random.default_rng(seed)
    ends = rng.normal(size=(len(branches), dimensions)) * 5
    which, progress = rng.integers(len(branches), size=n), rng.uniform(size=n)
    codes = ends[which] * progress[:, None] + rng.normal(0, 0.2, (n, dimensions))
    lines = tuple(
        BackboneLine(branch, state, np.linspace(i, end, 5))
        for branch, end in zip(branches, ends, strict=True)
        for i, state in enumerate(states)
    )
    left_out = np.arange(n) % 7 == 0
    return codes, BackboneScore(
        spearman=estimate(0.9),
        kendall=estimate(-0.75),
        branches={},
        n_cells=int((~left_out).sum()),
        n_resamples=(0, 0),
        lines=lines,
        branch=np.where(left_out, "", np.array(branches, object)[which]),
        progress=np.where(left_out, np.nan, progress),
        latent_distance=np.where(left_out, np.nan, progress + rng.normal(0, 0.1, n)),
    )


@pytest.fixture
def drawn(monkeypatch):
    """The figure that was saved last."""
    kept = []
    save = quantitative_metrics.metric_figures.save_figure
    monkeypatch.setattr(
        quantitative_metrics.metric_figures,
        "save_figure",
        lambda figure, path: kept.append(figure) or save(figure, path),
    )
    return lambda: kept[-1]


def opened(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.std() > 1
    return pixels


def panels(figure: Figure):
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def points(panel):
    """Coordinates of the scattered cells."""
    (scatter,) = panel.collections
    parts = getattr(scatter, "_offsets3d", None)
    return np.column_stack(parts) if parts is not None else np.asarray(scatter.get_offsets())


def line_data(line):
    return np.column_stack(line.get_data_3d() if hasattr(line, "get_data_3d") else line.get_data())


def rows_of(array):
    return {tuple(row) for row in np.round(array, 9)}


@pytest.mark.parametrize("dimensions", [2, 3])
def test_scored_cells_and_every_line_are_drawn(tmp_path, drawn, dimensions):
    codes, backbone = example(dimensions)
    path = plot_backbone({"VAE": codes}, {"VAE": backbone}, tmp_path / "b.png")
    opened(path)
    (panel,) = panels(drawn())
    scored = np.isfinite(backbone.latent_distance)
    assert rows_of(points(panel)) == rows_of(codes[scored])
    found = [line_data(line) for line in panel.lines]
    colours = dict(zip(("1", "2", "10"), LINE_PALETTE, strict=False))
    for line in backbone.lines:
        matches = [
            drawn_line.get_color()
            for drawn_line, data in zip(panel.lines, found, strict=True)
            if data.shape == line.knots.shape and np.allclose(data, line.knots)
        ]
        assert colours[line.branch] in matches
    assert "ρ = 0.900, τ = −0.750" in panel.get_title()
    (legend,) = drawn().legends
    words = [text.get_text().strip() for text in legend.get_texts()]
    assert words == ["branch", "1", "2", "10", "start", "green", "red"]


def test_more_than_three_dimensions_are_turned_with_their_lines(tmp_path, drawn):
    codes, backbone = example(5)
    plot_backbone({"VAE": codes}, {"VAE": backbone}, tmp_path / "b.png")
    (panel,) = panels(drawn())
    scored = codes[np.isfinite(backbone.latent_distance)]
    centre = scored.mean(axis=0)
    axes = np.linalg.svd(scored - centre)[2][:3]
    cells = np.abs((scored - centre) @ axes.T)
    assert rows_of(np.abs(points(panel))) == rows_of(cells)
    knots = np.abs((backbone.lines[0].knots - centre) @ axes.T)
    assert any(rows_of(np.abs(line_data(line))) == rows_of(knots) for line in panel.lines)
    share = scored.var(axis=0).sum()
    share = ((scored - centre) @ axes.T).var(axis=0).sum() / share
    assert f"3 of 5 PCs, {share:.1%} of the variance" in panel.get_title()


def test_one_dimension_gives_each_line_a_height_of_its_own(tmp_path, drawn):
    codes, backbone = example(1)
    plot_backbone({"VAE": codes}, {"VAE": backbone}, tmp_path / "b.png")
    (panel,) = panels(drawn())
    heights = {line.get_ydata()[0] for line in panel.lines if len(line.get_xdata()) == 5}
    assert len(heights) == 6 and 0 < min(heights) and max(heights) < 1
    assert panel.get_ylabel() == "spread (no meaning)"


@pytest.mark.parametrize("n_panels", [1, 2, 3, 4, 5, 6])
def test_one_to_six_panels_do_not_overlap(tmp_path, drawn, n_panels):
    made = {f"method {i}": example(2 + i % 2, seed=i) for i in range(n_panels)}
    codes = {name: codes for name, (codes, _) in made.items()}
    backbones = {name: backbone for name, (_, backbone) in made.items()}
    opened(plot_backbone(codes, backbones, tmp_path / "b.png"))
    figure = drawn()
    boxes = [panel.get_tightbbox() for panel in panels(figure)]
    boxes += [legend.get_window_extent() for legend in figure.legends]
    assert len(boxes) == n_panels + 1
    for i, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1
        for other in boxes[:i]:
            both = mpl.transforms.Bbox.intersection(box, other)
            assert both is None or both.width < 3 or both.height < 3


def test_progress_colours_the_cells_where_there_are_no_branches(tmp_path, drawn):
    codes, backbone = example(2, branches=("",), states=("",))
    plot_backbone({"VAE": codes}, {"VAE": backbone}, tmp_path / "b.png", names=("", "dose", "zero"))
    figure = drawn()
    (panel,) = panels(figure)
    assert len(np.unique(panel.collections[0].get_facecolor(), axis=0)) > 40
    (bar,) = [axes for axes in figure.axes if axes is not panel]
    assert bar.get_ylabel() == "dose"
    assert [text.get_text().strip() for text in figure.legends[0].get_texts()] == ["zero"]


def test_many_cells_are_thinned_and_the_panel_says_so(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr("util.style.MAX_POINTS", 40)
    codes, backbone = example(2, n=105)
    plot_backbone({"VAE": codes}, {"VAE": backbone}, tmp_path / "b.png")
    (panel,) = panels(drawn())
    assert len(points(panel)) == 30
    assert "30 of 90 cells drawn" in panel.get_title()


def test_nothing_scored_is_drawn_without_a_crash(tmp_path):
    codes, backbone = example(3)
    nothing = np.full(len(codes), np.nan)
    empty = replace(backbone, latent_distance=nothing, progress=nothing, spearman=estimate(np.nan))
    for colour_by in ("branch", "progress"):
        plot_backbone({"a": codes}, {"a": empty}, tmp_path / "b.png", colour_by=colour_by)
    plot_ordered_distance({"a": empty}, tmp_path / "o.png")
    constant = replace(
        backbone, lines=[replace(line, knots=np.zeros((5, 3))) for line in backbone.lines]
    )
    plot_backbone({"a": np.zeros_like(codes)}, {"a": constant}, tmp_path / "c.png")


def rolling(values, window):
    return [np.mean(values[i : i + window]) for i in range(len(values) - window + 1)]


@pytest.mark.parametrize("by", ["progress", "rank"])
def test_rolling_mean_of_every_branch(tmp_path, drawn, by):
    _, backbone = example(2, n=300)
    plot_ordered_distance({"VAE": backbone}, tmp_path / "o.png", by=by, window=0.1)
    (panel,) = panels(drawn())
    scored = np.isfinite(backbone.latent_distance)
    ranks = np.full(300, np.nan)
    ranks[scored] = np.argsort(np.argsort(backbone.progress[scored])) + 1
    x = backbone.progress if by == "progress" else ranks
    for branch, colour in zip(("1", "2", "10"), LINE_PALETTE, strict=False):
        cells = np.flatnonzero(backbone.branch == branch)
        cells = cells[np.argsort(backbone.progress[cells])]
        window = round(0.1 * len(cells))
        (line,) = [line for line in panel.lines if line.get_color() == colour]
        np.testing.assert_allclose(line.get_xdata(), rolling(x[cells], window))
        np.testing.assert_allclose(
            line.get_ydata(), rolling(backbone.latent_distance[cells], window)
        )
    assert "mean of 10% of the cells" in drawn().legends[0].get_title().get_text()


def test_few_cells_far_out_are_counted_and_do_not_flatten_the_rest(tmp_path, drawn):
    _, backbone = example(2, n=700)
    far = backbone.latent_distance.copy()
    far[[1, 2, 3]] = 50
    plot_ordered_distance({"VAE": replace(backbone, latent_distance=far)}, tmp_path / "o.png")
    (panel,) = panels(drawn())
    assert panel.get_ylim()[1] < 2
    top = panel.get_ylim()[1] / 1.03
    above = (far > top * (1 + 1e-9)).sum()
    assert above >= 3 and f"{above} cells above" in [text.get_text() for text in panel.texts]


def test_co_ranking_matrices_share_a_log_scale_from_1_to_the_most(tmp_path, drawn):
    perfect = np.eye(20, dtype=int) * 500
    mixed = np.random.default_rng(0).integers(0, 9, (20, 20))
    opened(plot_co_ranking({"perfect": perfect, "mixed": mixed}, tmp_path / "c.png"))
    for panel, block in zip(panels(drawn()), (perfect, mixed), strict=True):
        (image,) = panel.images
        assert (image.norm.vmin, image.norm.vmax) == (1, 500)
        assert isinstance(image.norm, mpl.colors.LogNorm)
        np.testing.assert_array_equal(image.get_array().filled(0), block)
        assert image.get_extent() == [0.5, 20.5, 20.5, 0.5]  # rank 1 at the top and at the left
        np.testing.assert_array_equal(*panel.lines[0].get_data())  # the diagonal


def test_local_quality_is_drawn_on_one_scale(tmp_path, drawn):
    rng = np.random.default_rng(0)
    codes = {"VAE": rng.normal(size=(200, 3)), "UMAP": rng.normal(size=(200, 2))}
    quality = {"VAE": rng.uniform(0, 1.2, 200), "UMAP": rng.uniform(0, 0.3, 200)}
    quality["VAE"][:50] = np.nan
    codes["UMAP"][:20] = np.nan
    opened(plot_local_quality(codes, quality, tmp_path / "q.png", "pixels"))
    vae, umap = panels(drawn())
    top = np.percentile(np.concatenate([quality["VAE"][50:], quality["UMAP"]]), 99)
    norm = mpl.colors.Normalize(0, top, clip=True)
    expected = mpl.colormaps["viridis"](norm(quality["UMAP"][20:]))
    expected = dict(zip(map(tuple, codes["UMAP"][20:]), expected[:, :3], strict=True))
    for place, colour in zip(points(umap), umap.collections[0].get_facecolor(), strict=True):
        np.testing.assert_allclose(colour[:3], expected[tuple(place)])
    assert len(points(vae)) == 150
    assert f"mean {quality['VAE'][50:].mean():.3f}" in vae.get_title()


def test_densities_are_those_of_scipy_and_hold_all_cells(tmp_path, drawn):
    rng = np.random.default_rng(0)
    quality = {
        "pixels": {"VAE": rng.normal(0.7, 0.1, 500), "random": rng.exponential(0.1, 500)},
        "features": {"VAE": np.append(rng.normal(0.5, 0.1, 500), np.nan), "same": np.ones(9)},
    }
    opened(plot_local_quality_densities(quality, tmp_path / "d.png"))
    pixels, features = panels(drawn())
    x, y = pixels.lines[0].get_data()
    np.testing.assert_allclose(y, gaussian_kde(quality["pixels"]["VAE"])(x), atol=1e-6)
    for line in pixels.lines:
        area = np.trapezoid(line.get_ydata(), line.get_xdata())
        assert area == pytest.approx(1, abs=0.02)  # also that of the scores close to 0
    assert list(features.lines[1].get_xdata()) == [1, 1]  # no density: a line at the one value
    same_method = [panel.lines[0].get_color() for panel in (pixels, features)]
    assert same_method[0] == same_method[1]
    assert [text.get_text() for text in drawn().legends[0].get_texts()] == [
        " VAE", " random", " same",
    ]  # fmt: skip


def draw_all(folder):
    folder.mkdir()
    codes, backbone = example(3)
    plot_backbone({"a": codes}, {"a": backbone}, folder / "backbone.png")
    plot_ordered_distance({"a": backbone}, folder / "ordered.png")
    plot_co_ranking({"a": np.eye(5)}, folder / "co_ranking.png")
    quality = {"a": np.abs(codes[:, 0])}
    plot_local_quality({"a": codes}, quality, folder / "quality.png")
    plot_local_quality_densities({"pixels": quality}, folder / "densities.png")


def test_same_input_gives_the_same_bytes(tmp_path):
    draw_all(tmp_path / "one")
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9}):  # a user's own settings
        draw_all(tmp_path / "two")
    files = sorted((tmp_path / "one").iterdir())
    assert len(files) == 5
    for file in files:
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_bad_input_is_refused_in_one_line(tmp_path):
    codes, backbone = example(2)
    path, nothing = tmp_path / "x.png", np.full(len(codes), np.nan)
    calls = [
        (lambda: plot_backbone({}, {}, path), "at least one"),
        (
            lambda: plot_backbone({"a": codes}, {"b": backbone}, path),
            "codes of a and backbones of b",
        ),
        (lambda: plot_backbone({"a": codes[1:]}, {"a": backbone}, path), "a: codes of shape"),
        (lambda: plot_backbone({"a": codes}, {"a": backbone}, path, "size"), "'size'"),
        (lambda: plot_ordered_distance({}, path), "no backbone"),
        (lambda: plot_ordered_distance({"a": backbone}, path, by="time"), "'time'"),
        (lambda: plot_ordered_distance({"a": backbone}, path, window=0), "window = 0"),
        (lambda: plot_co_ranking({}, path), "at least 1"),
        (lambda: plot_co_ranking({"a": np.ones((3, 4))}, path), r"a: .*\(3, 4\)"),
        (lambda: plot_co_ranking({"a": -np.ones((3, 3))}, path), "counts"),
        (lambda: plot_local_quality({"a": codes}, {"a": np.ones(3)}, path), "local quality of"),
        (lambda: plot_local_quality({"a": codes}, {"a": nothing}, path), "a: no cell"),
        (lambda: plot_local_quality_densities({}, path), "no local quality"),
        (lambda: plot_local_quality_densities({"a": {"b": np.full(3, np.nan)}}, path), "no local"),
    ]
    for call, message in calls:
        with pytest.raises(UserError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not path.exists()
