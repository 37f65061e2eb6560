"""The page of the backbones: complete, escaped, refused in one line."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from test_metric_figures import EVIL, example

from quantitative_metrics.backbone_page import write_backbone_page
from util.errors import UserError


def page_views(path):
    html = path.read_text(encoding="utf-8")
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    assert len(found) == 1
    return html, json.loads(found[0])


def test_page_holds_cells_and_lines_of_every_projection(tmp_path):
    made = {"VAE": example(3), "UMAP": example(2), "wide": example(6), "line": example(1)}
    codes = {name: codes for name, (codes, _) in made.items()}
    backbones = {name: backbone for name, (_, backbone) in made.items()}
    path = write_backbone_page(codes, backbones, tmp_path / "b.html")
    html, views = page_views(path)
    assert [view["name"] for view in views] == list(codes)
    assert [len(view["axes"]) for view in views] == [3, 2, 3, 2]
    for view, backbone in zip(views, backbones.values(), strict=True):
        clouds, lines, centres = view["traces"][:3], view["traces"][3:9], view["traces"][9:]
        scored = np.isfinite(backbone.latent_distance).sum()
        assert sum(len(trace["x"]) for trace in clouds) == scored
        assert [len(trace["x"]) for trace in lines] == [5] * 6
        assert [trace["name"] for trace in centres] == ["start green", "start red"]
        kind = "scatter3d" if len(view["axes"]) == 3 else "scattergl"
        assert {trace["type"] for trace in view["traces"]} == {kind}
    first = backbones["VAE"].lines[0].knots
    trace = views[0]["traces"][3]
    np.testing.assert_allclose(np.column_stack([trace[a] for a in "xyz"]), first, atol=1e-3)
    assert "3 of 6 PCs" in views[2]["note"]
    assert "http" not in html.replace("http-equiv", "")  # nothing is loaded from elsewhere


def test_page_escapes_names(tmp_path):
    codes, backbone = example(3, branches=(EVIL, "<b>2", "3"), states=(EVIL,))
    path = write_backbone_page({EVIL: codes}, {EVIL: backbone}, tmp_path / "b.html", title=EVIL)
    html, views = page_views(path)
    assert "<script>alert" not in html
    assert views[0]["name"] == EVIL  # written by textContent
    assert all("<" not in trace["name"] for trace in views[0]["traces"])  # read by plotly


def test_nothing_scored_gives_a_page_without_points(tmp_path):
    codes, backbone = example(2)
    nothing = np.full(len(codes), np.nan)
    empty = replace(backbone, latent_distance=nothing, progress=nothing)
    _, views = page_views(write_backbone_page({"a": codes}, {"a": empty}, tmp_path / "b.html"))
    assert all(trace["x"] == [] for trace in views[0]["traces"][:3])


def test_the_same_input_gives_the_same_page(tmp_path):
    codes, backbone = example(3)
    one, two = (
        write_backbone_page({"a": codes}, {"a": backbone}, tmp_path / name) for name in "12"
    )
    assert one.read_bytes() == two.read_bytes()


def test_backbones_of_other_projections_are_refused(tmp_path):
    codes, _ = example(2)
    with pytest.raises(UserError, match="expected the same projections"):
        write_backbone_page({"a": codes}, {}, tmp_path / "b.html")
    assert list(tmp_path.iterdir()) == []
