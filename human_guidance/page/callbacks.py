"""Callbacks of the guidance page: what happens after a lasso, a click or typing."""

import base64
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from dash import ALL, ClientsideFunction, Dash, Input, Output, State, ctx, dcc, no_update
from dash.exceptions import PreventUpdate
from flask import Response, abort, jsonify, request

from human_guidance.page import layout as pieces
from human_guidance.page.feedback import ListChanged, name_for
from human_guidance.page.figures import (
    axis_ranges,
    cell_traces,
    compare_panels,
    flag_annotations,
    flag_traces,
    heading,
    layout_of,
)
from human_guidance.page.selection import HOW, MOST_STROKES, class_shares, spread_out
from human_guidance.page.space import Space, flags_of
from human_guidance.page.state import PageState
from quantitative_metrics.catalogue import better_when, counts_by_size
from quantitative_metrics.score_table import scores_table
from util.errors import UserError
from util.tables import read_table

MESSAGE = "message shown"  # class of the element
FARTHEST = 1e6  # latent units; points beyond are ignored


def connect(app: Dash, state: PageState) -> None:
    """Give the page its routes and callbacks."""
    serve_cells(app, state)
    connect_steps(app)
    connect_selection(app, state)
    connect_cross(app, state)
    connect_space(app, state)
    connect_feedback(app, state)
    connect_list(app, state)
    connect_training(app, state)
    connect_comparison(app, state)


def serve_cells(app: Dash, state: PageState) -> None:
    """Serve pictures and descriptions of cells by row number; requests never name files."""

    @app.server.get("/cells/<int:row>.png")
    def picture(row: int) -> Response:
        if row >= len(state.run.ids):
            abort(404)
        answer = Response(state.run.picture(row), mimetype="image/png")
        answer.headers["Cache-Control"] = "private, max-age=3600"
        return answer

    @app.server.get("/cells/<int:row>.json")
    def card(row: int) -> Response:
        if row >= len(state.run.ids):
            abort(404)
        return jsonify(state.run.describe(row, request.args.get("colour")))


def connect_steps(app: Dash) -> None:
    """Show the chosen step and view and note colour and tool, in the browser (guidance.js)."""
    for name, part, attribute in (
        ("colour", "page", "data-colour"),
        ("step", "panel", "className"),
        ("view", "page", "className"),
        ("tool", "page", "data-tool"),
    ):
        app.clientside_callback(
            ClientsideFunction("guidance", name),
            Output(part, attribute),
            Input(name, "value"),
            prevent_initial_call=name == "tool",
        )


def connect_selection(app: Dash, state: PageState) -> None:
    """Build the selection from outlines, classes, groups and single cells, and describe it."""

    @app.callback(
        Output("strokes", "data"),
        Input("stroke", "data"),
        Input("clear", "n_clicks"),
        Input({"type": "label", "name": ALL}, "n_clicks"),
        Input({"type": "show", "name": ALL}, "n_clicks"),
        State("strokes", "data"),
        State("how", "value"),
        prevent_initial_call=True,
    )
    def extend(stroke: Any, _clear: Any, _labels: Any, _shown: Any, strokes: Any, how: Any) -> Any:
        if not ctx.triggered[0]["value"]:  # a new button fires once without a click
            raise PreventUpdate
        cause = ctx.triggered_id
        if cause == "clear":
            return []
        how = how if how in HOW else "new"
        if cause == "stroke":
            new = {**stroke, "how": how}
        elif cause["type"] == "label":
            new = {"label": cause["name"], "how": how}
        else:
            new = {"group": cause["name"], "how": "new"}
        if new["how"] == "new" and "cell" not in new:
            return [new]
        return [*(strokes or []), new][-MOST_STROKES:]

    @app.callback(
        Output("selection-size", "children"),
        Output("place-size", "children"),
        Output("gallery", "children"),
        Output("differences", "children"),
        Input("strokes", "data"),
        Input("version", "data"),
    )
    def describe(strokes: Any, _version: Any) -> tuple[Any, ...]:
        run, selected = state.run, state.selection(strokes)
        rows = np.flatnonzero(selected)
        size = f"{len(rows):,} of {len(run.ids):,} cells selected"
        shares = class_shares(run.labels, selected) if run.labels is not None else None
        apart = state.differences.of(selected) if len(rows) else pd.DataFrame()
        shown = pieces.gallery(run, spread_out(rows, pieces.GALLERY))
        place = size if len(rows) else "No cell is selected. Go back to step 1."
        return size, place, shown, pieces.differences(apart, shares, run.label)


def connect_cross(app: Dash, state: PageState) -> None:
    """Place the cross by click, drag or typing, and show the image decoded there."""
    coordinates = {"type": "coordinate", "axis": ALL}

    @app.callback(
        Output("point", "data"),
        Output(coordinates, "value"),
        Input("click", "data"),
        Input("drag", "data"),
        Input("strokes", "data"),
        Input(coordinates, "value"),
        State("point", "data"),
    )
    def place(click: Any, drag: Any, strokes: Any, typed: list[Any], point: Any) -> tuple[Any, Any]:
        causes = {name for name in ctx.triggered_prop_ids}
        dim = state.run.latent_dim
        before = np.array(point, float) if _is_point(point, dim) else None
        if "click.data" in causes or "drag.data" in causes:
            after = _moved(click if "click.data" in causes else drag, before, state.run.codes)
        elif "strokes.data" in causes and strokes and ctx.triggered[0]["value"]:
            after = _centre(state, strokes, before)
        elif causes and _is_point(typed, dim):
            after = np.array(typed, float)
        else:
            after = before
        if after is None:
            return None, [None] * dim
        rounded = [float(f"{value:.6g}") for value in after]
        if rounded == point == typed:
            raise PreventUpdate
        return rounded, rounded

    @app.callback(Output("probe", "children"), Input("point", "data"))
    def draw(point: Any) -> Any:
        run = state.run
        if not _is_point(point, run.latent_dim):
            return pieces.probe(None, "", run, [])
        code = np.array(point, float)
        picture = f"data:image/png;base64,{base64.b64encode(run.decode(code)).decode('ascii')}"
        where = f"({', '.join(f'{value:.2f}' for value in code)})"
        return pieces.probe(picture, where, run, run.nearest(code, pieces.NEAREST))


def _is_point(value: Any, dim: int) -> bool:
    """Whether a value from the browser is a latent point: d numbers within bounds."""
    if not isinstance(value, list) or len(value) != dim:
        return False
    return all(isinstance(v, (int, float)) and abs(v) <= FARTHEST for v in value)


def _moved(event: Any, before: np.ndarray | None, codes: np.ndarray) -> np.ndarray | None:
    """The cross after a click or drag in a plane; the other coordinates stay."""
    try:
        axes = [int(axis) for axis in event["axes"]]
        after = codes.mean(axis=0).astype(float) if before is None else before.copy()
        after[axes] = [float(event["x"]), float(event["y"])]
    except (TypeError, ValueError, KeyError, IndexError):
        return before
    return after if np.abs(after).max() <= FARTHEST else before


def _centre(state: PageState, strokes: Any, before: np.ndarray | None) -> np.ndarray | None:
    """Cross of a new selection: the anchor of a group, else the mean of the selected cells."""
    selected = state.selection(strokes)
    named = strokes[-1].get("group")
    for group in state.groups():
        if group.name == named:
            return group.anchor
    return state.run.codes[selected].mean(axis=0) if selected.any() else before


def connect_space(app: Dash, state: PageState) -> None:
    """Draw the latent space and the key of its colours."""

    @app.callback(
        Output("explore", "figure"),
        Output("shown", "data"),
        Input("colour", "value"),
        Input("axes", "value"),
        Input("strokes", "data"),
        Input("point", "data"),
        Input("version", "data"),
        State("shown", "data"),
        State("tool", "value"),
    )
    def draw(
        colour: Any, axes: Any, strokes: Any, point: Any, _version: Any, shown: Any, tool: Any
    ) -> tuple[Any, Any]:
        axes = _axes(axes, state.run.latent_dim)
        if axes is None:
            raise UserError("choose two or three axes")
        point = np.array(point, float) if _is_point(point, state.run.latent_dim) else None
        space = Space(state, axes, colour=colour, strokes=strokes, point=point)
        tool = tool if tool in pieces.TOOLS else pieces.LASSO
        return space.changes(shown, tool), space.signature()

    @app.callback(Output("legend", "children"), Input("colour", "value"))
    def key(colour: Any) -> Any:
        column = state.run.column(colour)
        clickable = column is not None and column.name == state.run.label
        return pieces.legend(
            None if column is None else str(column.name), state.run.colouring(colour), clickable
        )


def _axes(value: Any, dim: int) -> list[int] | None:
    """The two or three axes to show; None for any other value."""
    if not isinstance(value, list) or not all(isinstance(axis, int) for axis in value):
        return None
    good = len(set(value)) == len(value) in (2, 3) and all(0 <= axis < dim for axis in value)
    return value if good else None


def connect_feedback(app: Dash, state: PageState) -> None:
    """Save, remove and undo groups."""

    @app.callback(
        Output("version", "data", allow_duplicate=True),
        Output("message", "children"),
        Output("message", "className"),
        Output("name", "value"),
        Output("delta", "value"),
        Input("save", "n_clicks"),
        Input("undo", "n_clicks"),
        Input({"type": "remove", "name": ALL}, "n_clicks"),
        Input({"type": "show", "name": ALL}, "n_clicks"),
        State("version", "data"),
        State("name", "value"),
        State("delta", "value"),
        State("point", "data"),
        State("strokes", "data"),
        prevent_initial_call=True,
    )
    def change(
        _save: Any, _undo: Any, _remove: Any, _show: Any,
        version: Any, name: Any, delta: Any, point: Any, strokes: Any,
    ) -> tuple[Any, ...]:  # fmt: skip
        cause = ctx.triggered_id
        if not ctx.triggered[0]["value"]:
            raise PreventUpdate
        if isinstance(cause, dict) and cause["type"] == "show":
            return (*[no_update] * 3, *_name_and_delta(state, cause["name"]))
        try:
            asked = {"name": name, "delta": delta, "point": point, "strokes": strokes}
            said = _change(state, cause, str(version or ""), **asked)
        except ListChanged as error:
            return state.feedback.version(), str(error), f"{MESSAGE} error", no_update, no_update
        emptied = "" if cause == "save" else no_update
        return state.feedback.version(), said, MESSAGE, emptied, no_update


def connect_list(app: Dash, state: PageState) -> None:
    """Show the list on disk, also when another page has changed it."""

    @app.callback(
        Output("version", "data"),
        Input("poll", "n_intervals"),
        State("version", "data"),
    )
    def look(_poll: Any, version: Any) -> Any:
        # Not in `change`: Dash drops the earlier answer of two calls of one callback.
        now = state.feedback.version()
        return no_update if now == version else now

    @app.callback(
        Output("groups", "children"),
        Output("undo", "disabled"),
        Output("name", "placeholder"),
        Output("train-size", "children"),
        Input("version", "data"),
    )
    def show(_version: Any) -> tuple[Any, ...]:
        try:
            groups, _ = state.feedback.read()
        except UserError as error:
            return [str(error)], not state.feedback.can_undo(), "", ""
        cells = sum(len(group.cells) for group in groups)
        size = "There is no feedback yet. Save a group in step 2."
        if groups:
            number = "1 group" if len(groups) == 1 else f"{len(groups)} groups"
            size = f"Feedback: {number} with {cells:,} cells."
        listed = pieces.group_list(groups, str(state.feedback.path))
        return listed, not state.feedback.can_undo(), name_for(groups), size


def _name_and_delta(state: PageState, name: Any) -> tuple[Any, Any]:
    """Name and weight of a group, for the form."""
    for group in state.groups():
        if group.name == name:
            return group.name, group.delta
    return no_update, no_update


def _change(
    state: PageState, cause: Any, version: str, name: Any, delta: Any, point: Any, strokes: Any
) -> str:
    """Save, remove or undo; returns the message."""
    feedback = state.feedback
    if cause == "undo":
        return feedback.undo(version)
    if isinstance(cause, dict):
        return feedback.remove_group(str(cause["name"]), version)
    if not _is_point(point, state.run.latent_dim):
        raise UserError("the cells have no anchor: click its place in a plane, or drag the cross")
    if not isinstance(delta, (int, float)):
        raise UserError("the weight must be a number above 0, for example 1.28")
    cells = np.flatnonzero(state.selection(strokes))
    name = name or name_for(feedback.read()[0])
    return feedback.save_group(
        name, cells, anchor=np.array(point, float), delta=float(delta), version=version
    )


def connect_training(app: Dash, state: PageState) -> None:
    """Start, follow and cancel fine-tuning; list the finished runs to compare with."""

    @app.callback(
        Output("progress", "children"),
        Output("start", "disabled"),
        Output("cancel", "disabled"),
        Output("training-poll", "disabled"),
        Output("other", "options"),
        Output("other", "value"),
        Output("view", "value"),
        Input("start", "n_clicks"),
        Input("cancel", "n_clicks"),
        Input("training-poll", "n_intervals"),
        State("epochs", "value"),
        State("start", "disabled"),
        State("other", "value"),
    )
    def follow(
        _start: Any, _cancel: Any, _poll: Any, epochs: Any, was_running: Any, other: Any
    ) -> tuple[Any, ...]:
        if ctx.triggered_id == "start":
            if not state.groups():
                raise UserError("there is no feedback yet: save a group in step 2 first")
            state.tuning.start(state.feedback.path, epochs)
        elif ctx.triggered_id == "cancel":
            state.tuning.cancel()
        progress = state.tuning.progress()
        running = progress is not None and progress.running
        if running and was_running and ctx.triggered_id == "training-poll":
            return (pieces.progress_bar(progress), *[no_update] * 6)
        others = state.others()
        finished = was_running and not running and progress.stage == "done"
        newest = next(iter(others), None)
        chosen = newest if finished or other not in others else no_update
        view = "compare" if finished else no_update
        bar = pieces.progress_bar(progress)
        return bar, running, not running, not running, list(others), chosen, view


def connect_comparison(app: Dash, state: PageState) -> None:
    """Show the latent space before and after fine-tuning, with the scores."""

    @app.callback(
        Output("compare", "children"),
        Output("scores", "children"),
        Input("other", "value"),
        Input("view", "value"),
        Input("colour", "value"),
        Input("axes", "value"),
    )
    def compare(other: Any, view: Any, colour: Any, axes: Any) -> tuple[Any, Any]:
        folder = state.others().get(other)  # a name from the browser never becomes a path
        if folder is None:
            return pieces.nothing_to_compare(), []
        tables = _score_tables(folder) if "other" in _causes() or not _causes() else no_update
        shown = _axes(axes, state.run.latent_dim)
        if view != "compare" or shown is None:
            return no_update, tables
        figure = _comparison(state, folder, shown, colour)
        return dcc.Graph(figure=figure, config=pieces.STILL_GRAPH, className="graph"), tables


def _causes() -> set[str]:
    return {name.split(".")[0] for name in ctx.triggered_prop_ids if name != "."}


def _comparison(
    state: PageState, folder: Path, axes: Sequence[int], colour: str | None
) -> dict[str, Any]:
    """The latent space of the run and of a fine-tuned run, with shared colours and ranges."""
    run, after = state.run, state.codes_after(folder)
    panels = compare_panels(axes)
    points = state.points(run.drawn, colour)
    flags, traces = flags_of(state.groups_used(folder)), []
    for side, codes in enumerate((run.codes, after)):
        own = [panel for panel in panels if panel.number == side + 1]
        moved = replace(points, codes=codes[points.rows])
        traces += cell_traces(own, moved) + flag_traces(own, flags, run.latent_dim)
    layout = layout_of(panels, run.axes, axis_ranges(run.codes, after), f"{folder.name} {axes}")
    titles = (f"Before: {run.folder.name}", f"After: {folder.name}")
    layout["annotations"] = [heading(*pair) for pair in zip(titles, panels, strict=False)]
    layout["annotations"] += flag_annotations(panels, flags)
    return {"data": traces, "layout": layout}


def _score_tables(folder: Path) -> list[Any]:
    """Tables of how well the codes follow the feedback, and of the scores."""
    guidance = read_table(folder / "guidance.csv")
    scores = scores_table(read_table(folder / "scores.csv"))
    return pieces.change_table(_followed(guidance), "How well the cells follow the feedback") + (
        pieces.change_table(_before_and_after(scores), "Scores of the latent space")
    )


def _followed(guidance: pd.DataFrame) -> pd.DataFrame:
    """guidance.csv as rows of `layout.change_table`."""
    words = guidance[["group", "cells", "measure"]].astype(object).fillna("").astype(str)
    who = (words["group"] + " " + words["cells"]).str.strip()
    is_cost = guidance["term"].isin(["reconstruction", "kl"])
    name = np.where(is_cost, guidance["term"] + ", " + who, who) + ": " + words["measure"]
    less = words["measure"].str.contains("distance") | guidance["term"].eq("reconstruction")
    more = words["measure"].str.contains("share")
    table = pd.DataFrame({"name": name, "before": guidance["before"], "after": guidance["after"]})
    return table.assign(better=more.astype(int) - less.astype(int)).dropna()


def _before_and_after(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores of VAE_before and VAE as rows of `layout.change_table`."""
    if not {"VAE", "VAE_before"} <= set(scores.index):
        return pd.DataFrame(columns=["name", "before", "after", "better"])
    pair = scores.loc[["VAE_before", "VAE"]].T.dropna()
    by_size = pair.index.map(counts_by_size).to_numpy(bool)
    pair[by_size] = pair[by_size].abs()
    names = [f"|{name}|" if size else name for name, size in zip(pair.index, by_size, strict=True)]
    better = [better_when(name) for name in pair.index]
    return pd.DataFrame(
        {"name": names, "before": pair["VAE_before"], "after": pair["VAE"], "better": better}
    )
