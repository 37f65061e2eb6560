"""The interactive page of the backbones: cells and lines of each projection."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from quantitative_metrics.backbone_metric import BackboneScore
from quantitative_metrics.metric_figures import (
    INK,
    BranchLook,
    backbone_view,
    branch_looks,
    check_pairs,
    coefficients,
    latent_distances,
)
from util.pages.plot_page import beside, json_for_page, write_page

PAGE_MARKERS = ["circle", "square", "diamond"]
SIGNIFICANT = 5  # digits of a coordinate in a page


def write_backbone_page(
    codes: Mapping[str, np.ndarray],
    backbones: Mapping[str, BackboneScore],
    path: Path,
    title: str = "Backbones",
    names: tuple[str, str, str] = ("branch", "progress", "start"),
    order: Sequence[str] = (),
) -> Path:
    """Write the page of the backbones, and plotly.js beside it.

    Args:
        codes: name -> (N, d) codes; of more than three dimensions the first three principal
            components are shown.
        backbones: name -> backbone of these codes.
        path: HTML to write.
        title: heading of the page.
        names: of the branch, the progress and the initial state.
        order: branches in the order in which they are shown.

    Raises:
        UserError: names or lengths of codes and backbones that differ.
    """
    check_pairs(codes, latent_distances(backbones), "backbones")
    looks = branch_looks(backbones, order)
    views = [
        _page_view(name, codes[name], backbones[name], looks=looks, names=names) for name in codes
    ]
    body = (
        f"<header><h1>{escape(title)}</h1>"
        '<label>Projection <select id="projection"></select></label><p id="note"></p></header>\n'
        '<div id="plot"></div>'
    )
    return write_page(
        path,
        title,
        body,
        style=beside(__file__, "backbone_page.css"),
        script=beside(__file__, "backbone_page.js"),
        data=json_for_page(views),
    )


def _page_view(
    name: str,
    codes: np.ndarray,
    backbone: BackboneScore,
    looks: Mapping[str, BranchLook],
    names: Sequence[str],
) -> dict[str, Any]:
    """Traces and axes of one projection, for plotly."""
    view = backbone_view(codes, backbone)
    size, width = (2.5, 7) if view.cells.shape[1] == 3 else (4, 3)  # plotly's units differ
    traces = []
    for branch, look in looks.items():
        chosen = backbone.branch[view.rows] == branch
        progress = backbone.progress[view.rows][chosen]
        label = f"{names[0]} {branch}" if branch else "cells"
        text = [f"{escape(names[1])} {value:.3g}" for value in progress]
        traces.append(
            _trace(view.cells[chosen], mode="markers", name=label, legendgroup=branch)
            | {"marker": _marker(look, size) | {"opacity": 0.5}}
            | {"text": text, "hoverinfo": "name+text"}
        )
    for line, knots in zip(backbone.lines, view.lines, strict=True):
        look = looks[line.branch]
        label = " ".join(filter(None, [line.branch, line.initial])) or "backbone"
        traces.append(
            _trace(knots, mode="lines+markers", name=f"line {label}", legendgroup=line.branch)
            | {"line": {"width": width, "color": look.colour}, "showlegend": False}
            | {"marker": _marker(look, size + 2), "hoverinfo": "name"}
        )
    centres = {
        line.initial: knots[:1] for line, knots in zip(backbone.lines, view.lines, strict=True)
    }
    for i, (state, centre) in enumerate(centres.items()):
        label = f"{names[2]} {state}".strip()
        look = {"size": 2 * size + 3, "color": "#ffffff", "line": {"width": 2, "color": INK}}
        look["symbol"] = PAGE_MARKERS[i % len(PAGE_MARKERS)]
        style = {"marker": look, "hoverinfo": "name"}
        traces.append(_trace(centre, mode="markers", name=label) | style)
    note = "; ".join(filter(None, [coefficients(backbone), view.note]))
    return {"name": name, "note": note, "axes": view.axes, "traces": traces}


def _marker(look: BranchLook, size: float) -> dict[str, Any]:
    return {"size": size, "color": look.colour, "symbol": look.shape}


def _trace(points: np.ndarray, name: str, **more: Any) -> dict[str, Any]:
    """A trace for plotly, its name escaped because plotly reads tags in names."""
    largest = np.abs(points).max(initial=0)
    decimals = SIGNIFICANT - math.ceil(math.log10(largest)) if largest > 0 else 0
    columns = np.round(points, decimals).T.tolist()
    kind = "scatter3d" if len(columns) == 3 else "scattergl"
    return {"type": kind, "name": escape(name), **dict(zip("xyz", columns, strict=False)), **more}
