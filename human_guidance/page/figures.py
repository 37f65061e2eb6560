"""The latent space as figures for plotly.js: a 3-D panel to turn, and planes to select in.

Figures are plain dicts with packed arrays, a format that plotly.js reads. All panels of a view are
one figure, because a browser allows a page about 16 WebGL contexts and a figure takes three.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from util.pages.report import VIRIDIS
from util.style import MISSING_COLOUR, ClassColours, NumberColours, one_line

PLAIN_COLOUR = "#0072B2"
INK, GRID, ANCHOR = "#1f2428", "#e4e7e9", "#b3003b"
MISSING_SHARE = 0.02  # of the colour scale, below its first colour
FAINT = 0.12  # opacity of cells that are not selected
GAP = 0.055  # between panels, as a share of the figure
FONT = {"family": "system-ui, Liberation Sans, Arial, sans-serif", "size": 12, "color": INK}


@dataclass(frozen=True)
class Points:
    """Cells to draw.

    Attributes:
        rows: (n,) their rows in the run.
        codes: (n, d) their latent coordinates.
        colours: (n,) numbers on `scale`, or None for one colour.
        scale: plotly's colour scale, from 0 to 1.
        shapes: n of plotly's symbols, or None for circles.
    """

    rows: np.ndarray
    codes: np.ndarray
    colours: np.ndarray | None = None
    scale: list[list[Any]] | None = None
    shapes: list[str] | None = None


@dataclass(frozen=True)
class Flag:
    """The anchor (d,) of a named group of cells, latent units."""

    name: str
    anchor: np.ndarray


def packed(values: np.ndarray) -> dict[str, str]:
    """A vector in plotly.js's format of typed arrays: type, and bytes in base64."""
    kind = {"f": "f4", "i": "i4", "u": "i4"}[values.dtype.kind]
    data = np.ascontiguousarray(values, dtype=f"<{kind}").tobytes()
    return {"dtype": kind, "bdata": base64.b64encode(data).decode("ascii")}


def plain_text(text: object, length: int = 30) -> str:
    """Text for plotly.js, cut to length, with its tags and entities escaped."""
    return one_line(text, length).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def coloured_points(
    rows: np.ndarray, codes: np.ndarray, colouring: ClassColours | NumberColours | None
) -> Points:
    """The cells in `rows` of all codes (N, d), in the colours and shapes of a column."""
    shapes = None
    if isinstance(colouring, ClassColours) and len(set(colouring.shapes)) > 1:
        shapes = [colouring.shapes[code] for code in colouring.codes[rows]]
    return Points(rows, codes[rows], *colour_points(colouring, rows), shapes)


def colour_points(
    colouring: ClassColours | NumberColours | None, rows: np.ndarray
) -> tuple[np.ndarray | None, list[list[Any]] | None]:
    """Numbers (n,) in 0..1 for the cells in `rows`, and their colour scale."""
    if colouring is None:
        return None, None
    if isinstance(colouring, ClassColours):
        n = len(colouring.colours)
        edges = [[edge / n, colour] for i, colour in enumerate(colouring.colours)
                 for edge in (i, i + 1)]  # fmt: skip
        return ((colouring.codes[rows] + 0.5) / n).astype(np.float32), edges
    span = max(colouring.high - colouring.low, np.finfo(float).tiny)
    share = np.clip((colouring.values[rows] - colouring.low) / span, 0, 1)
    known = MISSING_SHARE + share * (1 - MISSING_SHARE)
    steps = np.linspace(MISSING_SHARE, 1, len(VIRIDIS))
    scale = [[0, MISSING_COLOUR], [MISSING_SHARE, MISSING_COLOUR]]
    scale += [[float(step), colour] for step, (_, colour) in zip(steps, VIRIDIS, strict=True)]
    return np.where(np.isnan(known), 0, known).astype(np.float32), scale


@dataclass(frozen=True)
class Panel:
    """A panel of a view: its two or three latent axes, its place, and its number."""

    axes: tuple[int, ...]
    x: tuple[float, float]
    y: tuple[float, float]
    number: int  # among the planes, or among the scenes, of the figure, from 1

    @property
    def solid(self) -> bool:
        """Whether the panel is in 3-D."""
        return len(self.axes) == 3

    def name(self, letter: str) -> str:
        """plotly's name of an axis (x, x2, ...) or of a scene."""
        return letter if self.number == 1 else f"{letter}{self.number}"


def explore_panels(axes: Sequence[int]) -> list[Panel]:
    """One plane for two axes; a 3-D panel and its three planes for three."""
    if len(axes) == 2:
        return [Panel(tuple(axes), (0.05, 0.99), (0.07, 0.98), 1)]
    left, right = (0.0, 0.5 - GAP / 2), (0.5 + GAP, 0.995)
    upper, lower = (0.5 + GAP, 0.99), (0.075, 0.5 - GAP / 2)
    planes = combinations(axes, 2)
    places = [(right, upper), ((0.055, left[1]), lower), (right, lower)]
    return [Panel(tuple(axes), left, (0.5, 1.0), 1)] + [
        Panel(plane, x, y, i + 1)
        for i, (plane, (x, y)) in enumerate(zip(planes, places, strict=True))
    ]


def compare_panels(axes: Sequence[int]) -> list[Panel]:
    """Before on the left, after on the right; for three axes 3-D panels above the first plane."""
    columns = [(0.055, 0.485), (0.565, 0.995)]
    if len(axes) == 2:
        return [Panel(tuple(axes), x, (0.07, 0.93), i + 1) for i, x in enumerate(columns)]
    solid = [Panel(tuple(axes), x, (0.47, 0.96), i + 1) for i, x in enumerate(columns)]
    plane = [Panel(tuple(axes[:2]), x, (0.075, 0.44), i + 1) for i, x in enumerate(columns)]
    return solid + plane


def _trace(panel: Panel, codes: np.ndarray, **more: Any) -> dict[str, Any]:
    """Points of a panel: codes (n, d)."""
    letters = "xyz"[: len(panel.axes)]
    where = {
        letter: packed(codes[:, axis]) for letter, axis in zip(letters, panel.axes, strict=True)
    }
    if panel.solid:
        kind = {"type": "scatter3d", "scene": panel.name("scene")}
    else:
        kind = {"type": "scattergl", "xaxis": panel.name("x"), "yaxis": panel.name("y")}
    return {**kind, **where, "mode": "markers", "showlegend": False, "hoverinfo": "none", **more}


def _marker(points: Points, size: float, opacity: float = 1.0) -> dict[str, Any]:
    marker: dict[str, Any] = {"size": size, "opacity": opacity, "line": {"width": 0}}
    if points.colours is None:
        return marker | {"color": PLAIN_COLOUR}
    scale = {"colorscale": points.scale, "cmin": 0, "cmax": 1, "showscale": False}
    shape = {} if points.shapes is None else {"symbol": points.shapes}
    return marker | {"color": packed(points.colours)} | scale | shape


def _point_size(n: int, solid: bool) -> float:
    size = 2.0 if n > 8000 else 2.8 if n > 1500 else 4.0
    return size if solid else size + 1.5


def cell_traces(
    panels: Sequence[Panel], points: Points, dimmed: bool = False
) -> list[dict[str, Any]]:
    """The cells in each panel, faint if there is a selection above them."""
    return [_cells(panel, points, FAINT if dimmed else full_opacity(panel)) for panel in panels]


def selected_traces(panels: Sequence[Panel], points: Points) -> list[dict[str, Any]]:
    """The selected cells in each panel, above the others and a little larger."""
    return [_cells(panel, points, 1.0, 0.8) for panel in panels]


def full_opacity(panel: Panel) -> float:
    """Opacity of cells without a selection; in 3-D only opaque points hide those behind."""
    return 1.0 if panel.solid else 0.75


def _cells(panel: Panel, points: Points, opacity: float, larger: float = 0.0) -> dict[str, Any]:
    size = _point_size(len(points.rows), panel.solid) + larger
    marker = _marker(points, size, opacity)
    return _trace(panel, points.codes, marker=marker, customdata=packed(points.rows))


def flag_traces(panels: Sequence[Panel], flags: Sequence[Flag], dim: int) -> list[dict[str, Any]]:
    """The anchors of the feedback with their names, in the 3-D panels."""
    anchors = np.array([flag.anchor for flag in flags]).reshape(-1, dim)
    look = {
        "mode": "markers+text",
        "marker": {"symbol": "diamond", "size": 6, "color": ANCHOR},
        "text": [plain_text(flag.name, 18) for flag in flags],
        "textposition": "top center",
        "textfont": {"color": ANCHOR, "size": 12},
        "hoverinfo": "skip",
    }
    return [_trace(panel, anchors, **look) for panel in panels if panel.solid]


def flag_annotations(panels: Sequence[Panel], flags: Sequence[Flag]) -> list[dict[str, Any]]:
    """The anchors in the planes, as annotations, which are drawn above the points."""
    look = {"font": {"size": 12, "color": ANCHOR}, "xanchor": "left", "xshift": -8}
    return [
        _annotation(panel, flag.anchor, f"◆ {plain_text(flag.name, 18)}", **look)
        for panel in panels
        if not panel.solid
        for flag in flags
    ]


def mark_traces(
    panels: Sequence[Panel], point: np.ndarray | None, dim: int
) -> list[dict[str, Any]]:
    """The cross in the 3-D panels; `mark_annotations` has it in the planes."""
    places = np.empty((0, dim)) if point is None else point[None]  # (0 or 1, d)
    marker = {"symbol": "cross", "size": 8, "color": ANCHOR}
    return [
        _trace(panel, places, marker=marker, hoverinfo="skip") for panel in panels if panel.solid
    ]


def mark_annotations(panels: Sequence[Panel], point: np.ndarray | None) -> list[dict[str, Any]]:
    """The cross in the planes, where it can be dragged; hidden for None.

    Always three annotations: guidance.css makes only the first three draggable.
    """
    planes = [panel for panel in panels if not panel.solid]
    shown = np.zeros(1 + max(max(plane.axes) for plane in planes)) if point is None else point
    look = {"font": {"size": 22, "color": ANCHOR}, "visible": point is not None, "name": "cross"}
    crosses = [_annotation(plane, shown, "✚", **look) for plane in planes]
    return crosses + [{"visible": False}] * (3 - len(crosses))


def _annotation(panel: Panel, point: np.ndarray, text: str, **more: Any) -> dict[str, Any]:
    """A text at a latent point (d,) in a plane."""
    place = {"x": float(point[panel.axes[0]]), "y": float(point[panel.axes[1]])}
    axes = {"xref": panel.name("x"), "yref": panel.name("y")}
    return {**place, **axes, "showarrow": False, "borderpad": 0, "text": text, **more}


def layout_of(
    panels: Sequence[Panel],
    names: Sequence[str],
    ranges: Mapping[int, tuple[float, float]],
    revision: str,
) -> dict[str, Any]:
    """Axes and scenes of the panels.

    Args:
        panels: of the figure.
        names: of all latent axes.
        ranges: of each axis, before any zoom.
        revision: zoom and rotation are kept as long as it stays the same.
    """
    layout: dict[str, Any] = {
        "margin": {"l": 8, "r": 6, "t": 4, "b": 8},
        "font": FONT,
        "uirevision": revision,
        "hovermode": "closest",
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "newshape": {
            "line": {"color": ANCHOR, "width": 1.5},
            "fillcolor": ANCHOR,
            "opacity": 0.25,
            "drawdirection": "diagonal",
        },
        "meta": {"planes": {}},
    }
    for panel in panels:
        look = [
            {"gridcolor": GRID, "zeroline": False, "color": "#40474d", "range": list(ranges[axis])}
            | {"title": {"text": f"latent {names[axis]}"}}
            for axis in panel.axes
        ]
        if panel.solid:
            layout[panel.name("scene")] = _scene(panel, look)
            continue
        for axis in look:
            axis["title"]["standoff"] = 2
        x, y = panel.name("x"), panel.name("y")
        layout[f"xaxis{x[1:]}"] = look[0] | {"domain": list(panel.x), "anchor": y}
        layout[f"yaxis{y[1:]}"] = look[1] | {"domain": list(panel.y), "anchor": x}
        layout["meta"]["planes"][x + y] = list(panel.axes)
    return layout


def _scene(panel: Panel, look: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A 3-D panel with the look of its three axes."""
    more = {"showspikes": False, "tickfont": {"size": 10}, "nticks": 5}
    axes = {f"{letter}axis": axis | more for letter, axis in zip("xyz", look, strict=True)}
    return axes | {
        "domain": {"x": list(panel.x), "y": list(panel.y)},
        "aspectmode": "cube",
        "dragmode": "turntable",
        "camera": {
            "eye": {"x": 1.45, "y": -1.45, "z": 0.85},
            "center": {"x": 0, "y": 0, "z": -0.12},
        },
    }


def axis_ranges(*codes: np.ndarray) -> dict[int, tuple[float, float]]:
    """Range of each latent axis over all codes (N, d) given, with a margin."""
    low = np.min([part.min(axis=0) for part in codes], axis=0)
    high = np.max([part.max(axis=0) for part in codes], axis=0)
    margin = 0.06 * np.maximum(high - low, 1e-3)
    return {
        axis: (float(a), float(b))
        for axis, (a, b) in enumerate(zip(low - margin, high + margin, strict=True))
    }


def heading(text: str, panel: Panel) -> dict[str, Any]:
    """A title above a panel."""
    return {
        "text": f"<b>{plain_text(text, 48)}</b>",
        "x": (panel.x[0] + panel.x[1]) / 2,
        "xanchor": "center",
        "y": 1.0,
        "xref": "paper",
        "yref": "paper",
        "yanchor": "top",
        "showarrow": False,
        "font": {"size": 14},
    }
