"""The figure of the latent space, and the changes that a browser needs."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np
from dash import Patch

from human_guidance.page.feedback import Group
from human_guidance.page.figures import (
    FAINT,
    Flag,
    axis_ranges,
    cell_traces,
    explore_panels,
    flag_annotations,
    flag_traces,
    full_opacity,
    layout_of,
    mark_annotations,
    mark_traces,
    selected_traces,
)
from human_guidance.page.state import PageState


class Space:
    """The figure of the latent space.

    Its traces are the cells of each panel, the selected cells of each panel, and anchors and cross
    in 3-D. Its annotations are the cross in each plane, which can be dragged, and the anchors.
    """

    def __init__(
        self,
        state: PageState,
        axes: Sequence[int],
        colour: str | None,
        strokes: Any,
        point: np.ndarray | None,
    ):
        self.state, self.axes, self.colour, self.point = state, axes, colour, point
        self.panels = explore_panels(axes)
        self.selected = state.selection(strokes)
        self.flags = flags_of(state.groups())

    def figure(self, tool: str) -> dict[str, Any]:
        """The whole figure; `tool` is plotly's dragmode in the planes."""
        run = self.state.run
        revision = f"{run.folder.name} {self.axes}"
        layout = layout_of(self.panels, run.axes, axis_ranges(run.codes), revision)
        layout["annotations"], layout["dragmode"] = self.annotations(), tool
        points = self.state.points(run.drawn, self.colour)
        cells = cell_traces(self.panels, points, bool(self.selected.any()))
        return {"data": cells + self.chosen() + self.marks(), "layout": layout}

    def signature(self) -> dict[str, Any]:
        """Identifies what a browser shows: colours, axes and selection."""
        bits = np.packbits(self.selected).tobytes()
        return {"frame": [self.colour, list(self.axes)], "selected": sha256(bits).hexdigest()[:16]}

    def changes(self, shown: Any, tool: str) -> dict[str, Any] | Patch:
        """Changes for a browser that shows a figure of the signature `shown`.

        Other colours or axes need the whole figure; otherwise the marks, and the selection if it
        differs.
        """
        own, patch, n = self.signature(), Patch(), len(self.panels)
        if not isinstance(shown, dict) or shown.get("frame") != own["frame"]:
            return self.figure(tool)
        if shown.get("selected") != own["selected"]:
            dimmed = bool(self.selected.any())
            for place, panel in enumerate(self.panels):
                opacity = FAINT if dimmed else full_opacity(panel)
                patch["data"][place]["marker"]["opacity"] = opacity
            for place, trace in enumerate(self.chosen(), start=n):
                patch["data"][place] = trace
        for place, trace in enumerate(self.marks(), start=2 * n):
            patch["data"][place] = trace
        patch["layout"]["annotations"] = self.annotations()
        return patch

    def chosen(self) -> list[dict[str, Any]]:
        """Traces of the selected cells."""
        rows = self.state.selected_rows(self.selected)
        return selected_traces(self.panels, self.state.points(rows, self.colour))

    def marks(self) -> list[dict[str, Any]]:
        """Traces of the anchors and of the cross, in 3-D."""
        dim = self.state.run.latent_dim
        return flag_traces(self.panels, self.flags, dim) + mark_traces(self.panels, self.point, dim)

    def annotations(self) -> list[dict[str, Any]]:
        """The cross and the anchors, in the planes."""
        return mark_annotations(self.panels, self.point) + flag_annotations(self.panels, self.flags)


def flags_of(groups: Sequence[Group]) -> list[Flag]:
    """The anchors of groups of the feedback."""
    return [Flag(group.name, group.anchor) for group in groups]


def first_space(state: PageState) -> Space:
    """The latent space as a new page shows it."""
    axes = list(range(min(3, state.run.latent_dim)))
    return Space(state, axes, colour=state.run.first_column, strokes=[], point=None)
