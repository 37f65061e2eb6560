"""The layout of the guidance page, and the pieces that its callbacks fill in."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from dash import dcc, html

from human_guidance.page.feedback import Group
from human_guidance.page.run import GuidedRun
from human_guidance.page.training import STAGES, Progress
from util.pages.report import VIRIDIS
from util.style import MISSING_COLOUR, ClassColours, NumberColours

DEFAULT_DELTA = 1.28  # the thesis's weight per cell
DEFAULT_EPOCHS = 5
GALLERY = 24
NEAREST = 4
POLL = 3000  # milliseconds between two checks of the list on disk
TRAINING_POLL = 1000

STEPS = {"select": "1  Select", "place": "2  Place", "train": "3  Fine-tune"}
HOW = {"new": "select anew", "add": "add cells", "narrow": "narrow down", "remove": "remove"}
# Outlines are drawn as shapes: plotly's own lasso tests every point at every move.
LASSO = "drawclosedpath"
TOOLS = {LASSO: "lasso", "drawrect": "box", "pan": "move"}
GRAPH = {
    "displaylogo": False,
    "scrollZoom": True,
    "responsive": True,
    "doubleClick": "reset",
    "modeBarButtons": [["zoomIn2d", "zoomOut2d", "resetScale2d", "resetCameraDefault3d"]],
    "edits": {"annotationPosition": True},  # the cross; guidance.css keeps the anchors in place
}
STILL_GRAPH = {name: value for name, value in GRAPH.items() if name != "edits"}


def page(run: GuidedRun, figure: dict[str, Any], shown: dict[str, Any]) -> html.Div:
    """The whole page.

    Args:
        run: the run to guide.
        figure: the latent space as the page first shows it.
        shown: signature of that figure.
    """
    return html.Div(
        [
            *stores(shown),
            html.Div(
                "The server does not answer. Start it again with the same command: this page then "
                "continues where it was, and every group that you saved is on disk.",
                id="offline",
                className="offline",
                role="alert",
            ),
            header(run),
            html.Main(
                [
                    html.Section([toolbar(), legend_row(), graphs(figure)], className="space"),
                    html.Aside(panel(run), id="panel", className="panel show-select"),
                ]
            ),
            html.Div(id="message", role="status", className="message"),
            html.Div(id="cell-card", className="cell-card"),
        ],
        id="page",
        className="page view-explore",
    )


def stores(shown: dict[str, Any]) -> list[Any]:
    """What the browser stores; selection and cross survive a reload."""
    return [
        dcc.Store(id="strokes", storage_type="session"),
        dcc.Store(id="point", storage_type="session"),
        dcc.Store(id="version", data=None),
        dcc.Store(id="shown", data=shown),
        dcc.Store(id="stroke"),  # guidance.js fills this and the next two
        dcc.Store(id="click"),
        dcc.Store(id="drag"),
        dcc.Interval(id="poll", interval=POLL),
        dcc.Interval(id="training-poll", interval=TRAINING_POLL),
    ]


def header(run: GuidedRun) -> html.Header:
    """Name of the run, and menus of the view, the colours and the axes."""
    names = [{"label": f"latent {name}", "value": i} for i, name in enumerate(run.axes)]
    return html.Header(
        [
            html.Div(
                [
                    html.H1("Guide the latent space"),
                    html.Span(f"{run.folder.name} · {len(run.ids):,} cells", id="run-name"),
                ],
                className="title",
            ),
            dcc.RadioItems(
                id="view",
                options=[
                    {"label": "Explore", "value": "explore"},
                    {"label": "Before and after", "value": "compare"},
                ],
                value="explore",
                className="switch",
            ),
            html.Label(
                [
                    "Colour by",
                    dcc.Dropdown(
                        run.column_options,
                        run.first_column,
                        id="colour",
                        clearable=True,
                        maxHeight=420,
                        placeholder="nothing",
                        persistence=run.folder.name,
                        persistence_type="session",
                    ),
                ],
                className="field colour",
            ),
            html.Label(
                [
                    "Axes",
                    dcc.Dropdown(names, list(range(min(3, run.latent_dim))), id="axes", multi=True),
                ],
                className="field axes" if run.latent_dim > 3 else "hidden",
            ),
        ]
    )


def toolbar() -> html.Div:
    """What the mouse draws, and how the outline changes the selection."""
    return html.Div(
        [
            html.Div(
                [
                    html.Span("The mouse draws a"),
                    _switch("tool", TOOLS, LASSO),
                    html.Span("to"),
                    _switch("how", HOW, "new"),
                ],
                className="explore-only row",
            ),
            html.P(
                [
                    html.B("Click"),
                    " a place: the model decodes the cell there. ",
                    html.B("Shift-click"),
                    " a cell: add or remove it. ",
                    html.B("Wheel"),
                    ": zoom.",
                ],
                className="hint explore-only",
            ),
            html.P("The same cells before and after fine-tuning. ◆ marks the anchors.",
                   className="hint compare-only"),
        ],
        className="toolbar",
    )  # fmt: skip


def _switch(id_: str, options: dict[str, str], value: str) -> dcc.RadioItems:
    choices = [{"label": text, "value": name} for name, text in options.items()]
    return dcc.RadioItems(id=id_, options=choices, value=value, className="switch")


def legend_row() -> html.Div:
    """Place of the colour key."""
    return html.Div(id="legend", className="legend")


def graphs(figure: dict[str, Any]) -> html.Div:
    """The two views of the latent space."""
    return html.Div(
        [
            dcc.Graph(id="explore", figure=figure, config=GRAPH, className="graph explore-only"),
            html.Div(id="compare", className="graph compare-only"),
        ],
        className="graphs",
    )


def panel(run: GuidedRun) -> list[Any]:
    """The right-hand side: the decoded image and the three steps."""
    return [
        html.Div(id="probe", className="probe"),
        dcc.RadioItems(
            id="step",
            options=[{"label": text, "value": step} for step, text in STEPS.items()],
            value="select",
            className="switch steps",
            persistence=run.folder.name,
            persistence_type="session",
        ),
        html.Div(select_step(), className="step step-select"),
        html.Div(place_step(run), className="step step-place"),
        html.Div(train_step(), className="step step-train"),
    ]


def select_step() -> list[Any]:
    """Step 1: the selected cells and what distinguishes them."""
    return [
        html.Div(
            [html.H2(id="selection-size"), html.Button("Clear", id="clear", className="quiet")],
            className="row between",
        ),
        html.Div(id="gallery"),
        html.Div(id="differences"),
    ]


def place_step(run: GuidedRun) -> list[Any]:
    """Step 2: the anchor of the selected cells, and the list of groups."""
    return [
        html.P(
            ["Drag the ", html.Span("✚", className="cross"), " to where the selected cells belong, "
             "click the place in a plane, or type its coordinates."],
            className="hint",
        ),
        html.Div(id="place-size", className="lead"),
        html.Div(
            [_coordinate(axis, name) for axis, name in enumerate(run.axes)],
            className="row coordinates",
        ),
        html.Div(
            [
                html.Label(
                    ["Name of the group",
                     dcc.Input(id="name", type="text", maxLength=40, placeholder="group 1",
                               debounce=False)],
                    className="field grow",
                ),
                html.Label(
                    ["Weight", dcc.Input(id="delta", type="number", value=DEFAULT_DELTA, min=0,
                                         step="any")],
                    className="field narrow",
                    title="Pull of the anchor on its cells, in nats per squared latent unit",
                ),
                html.Button("Save group", id="save", className="main"),
            ],
            className="row bottom",
        ),
        html.P("A weight of 0.3 pulls gently, 1.28 is the default, 5 pulls strongly.",
               className="note"),
        html.Div(
            [html.H2("Your feedback"), html.Button("Undo", id="undo", className="quiet")],
            className="row between",
        ),
        html.Div(id="groups"),
    ]  # fmt: skip


def _coordinate(axis: int, name: str) -> html.Label:
    """Field for a coordinate of the cross."""
    id_ = {"type": "coordinate", "axis": axis}
    return html.Label(
        [name, dcc.Input(id=id_, type="number", step="any", debounce=True)], className="field"
    )


def train_step() -> list[Any]:
    """Step 3: fine-tuning and its result."""
    return [
        html.Div(id="train-size", className="lead"),
        html.Div(
            [
                html.Label(
                    ["Epochs", dcc.Input(id="epochs", type="number", value=DEFAULT_EPOCHS, min=1,
                                         step=1)],
                    className="field narrow",
                    title="Passes over all training cells",
                ),
                html.Button("Fine-tune", id="start", className="main"),
                html.Button("Cancel", id="cancel", className="quiet", disabled=True),
            ],
            className="row bottom",
        ),
        html.P("Training continues with your anchors in a new run; this run does not change.",
               className="note"),
        html.Div(id="progress"),
        html.Label(
            ["Compare this run with", dcc.Dropdown(id="other", placeholder="no fine-tuned run yet",
                                                   clearable=False)],
            className="field",
        ),
        html.Div(id="scores"),
    ]  # fmt: skip


def cell_image(row: int, title: str, side: int) -> html.Img:
    """Picture of a cell; pointing at it shows its card."""
    return html.Img(
        src=f"/cells/{row}.png",
        title=title,
        alt=title,
        width=side,
        height=side,
        className="cell",
        **{"data-row": row},
    )


def gallery(run: GuidedRun, rows: np.ndarray) -> list[Any]:
    """Pictures of the selected cells."""
    if not len(rows):
        return [
            html.P(
                "Nothing is selected. Draw around some cells in one of the planes, or click a "
                "class above. Their pictures and what distinguishes them appear here.",
                className="empty",
            )
        ]
    return [html.Div([cell_image(int(row), run.ids[row], 52) for row in rows], className="gallery")]


def differences(table: pd.DataFrame, shares: pd.DataFrame | None, label: str | None) -> list[Any]:
    """The classes of the selection, and the columns in which it differs most from the rest."""
    parts = []
    if shares is not None and len(shares):
        parts += [html.H3(f"Classes ({label})")]
        parts += [
            _share_row(str(row.label), row.share, f"{row.share:.0%} (rest {row.of_rest:.0%})")
            for row in shares.itertuples()
        ]
    if len(table):
        parts += [html.H3("What distinguishes them from the other cells")]
        parts += [_difference_row(str(row.column), float(row.larger)) for row in table.itertuples()]
        parts += [
            html.P(
                "Higher in 95% means: of 100 pairs of a selected cell and another cell, the "
                "selected cell has the larger value in 95. Chance level is 50.",
                className="note",
            )
        ]
    return parts


def _share_row(name: str, share: float, said: str) -> html.Div:
    bar = html.Div(style={"left": "0", "width": f"{share:.1%}"}, className="fill")
    return html.Div(
        [html.Span(name, title=name), html.Div(bar, className="bar"), html.Span(said)],
        className="bar-row",
    )


def _difference_row(name: str, larger: float) -> html.Div:
    """A bar from the middle, to the right if the selected cells have larger values."""
    reach = abs(larger - 0.5)
    start = 0.5 if larger >= 0.5 else 0.5 - reach
    bar = html.Div(
        style={"left": f"{start:.1%}", "width": f"{reach:.1%}"},
        className="fill up" if larger >= 0.5 else "fill down",
    )
    said = f"higher in {larger:.0%}" if larger >= 0.5 else f"lower in {1 - larger:.0%}"
    return html.Div(
        [
            html.Span(name.replace("_", "_\u200b"), title=name),
            html.Div([bar, html.Div(className="middle")], className="bar"),
            html.Span(said),
        ],
        className="bar-row",
    )


def probe(picture: str | None, where: str, run: GuidedRun, rows: Sequence[int]) -> list[Any]:
    """The image decoded at the cross, and the cells nearest to it."""
    if picture is None:
        return [
            html.Div("✚", className="no-picture"),
            html.P("Click anywhere in a plane: the model decodes the cell there.",
                   className="hint"),
        ]  # fmt: skip
    return [
        html.Img(src=picture, alt="decoded", className="decoded"),
        html.Div(
            [
                html.Div(["Decoded at ", html.Span("✚ ", className="cross"), where]),
                html.Div("The nearest real cells", className="note"),
                html.Div(
                    [cell_image(int(row), run.ids[row], 48) for row in rows], className="gallery"
                ),
            ]
        ),
    ]


def legend(
    title: str | None, colouring: ClassColours | NumberColours | None, clickable: bool
) -> list[Any]:
    """Key of the colours; a click on a class selects its cells."""
    if colouring is None:
        return [html.Span("One colour for all cells", className="note")]
    if isinstance(colouring, ClassColours):
        chips = []
        for name, colour, shape, count in zip(
            colouring.names, colouring.colours, colouring.shapes, colouring.counts, strict=True
        ):
            dot = html.I(style={"background": colour}, className=shape)
            inner = [dot, f"{name} ", html.Small(f"{count:,}")]
            chip = {"className": "chip"}
            if clickable:
                chip |= {"id": {"type": "label", "name": name}, "title": f"Select all of {name}"}
                chips.append(html.Button(inner, **chip))
            else:
                chips.append(html.Span(inner, **chip))
        return [html.B(title), *chips]
    ramp = html.Div(
        style={"background": f"linear-gradient(to right, {', '.join(c for _, c in VIRIDIS)})"},
        className="ramp",
    )
    numbers = [f"{bound:.3g}" for bound in (colouring.low, colouring.high)]
    key = [html.B(title), html.Span(numbers[0]), ramp, html.Span(numbers[1])]
    missing = int(np.isnan(colouring.values).sum())
    if missing:
        dot = html.I(style={"background": MISSING_COLOUR})
        key += [html.Span([dot, "missing ", html.Small(f"{missing:,}")], className="chip")]
    return key


def group_list(groups: Sequence[Group], file: str) -> list[Any]:
    """The table of groups, with buttons to show and remove each."""
    if not groups:
        return [html.P("No group yet. Every group that you save appears here.", className="empty")]
    rows = [
        html.Tr(
            [
                html.Td(group.name, className="name"),
                html.Td(f"{len(group.cells):,}"),
                html.Td(", ".join(f"{value:.2f}" for value in group.anchor)),
                html.Td(f"{group.delta:g}"),
                html.Td(
                    [
                        html.Button("Show", id={"type": "show", "name": group.name},
                                    className="quiet", title="Select its cells again"),
                        html.Button("✕", id={"type": "remove", "name": group.name},
                                    className="quiet", title="Remove it",
                                    **{"aria-label": f"remove {group.name}"}),
                    ]
                ),
            ]
        )
        for group in groups
    ]  # fmt: skip
    heads = html.Tr([html.Th(text) for text in ("Group", "Cells", "Anchor", "Weight", "")])
    return [
        html.Table([html.Thead(heads), html.Tbody(rows)], className="data"),
        html.P(["File: ", html.Code(file)], className="note"),
    ]


def progress_bar(progress: Progress | None) -> list[Any]:
    """Progress of fine-tuning."""
    if progress is None:
        return []
    said = STAGES.get(progress.stage, progress.stage)
    if progress.stage == "training" and progress.epochs:
        said += f": epoch {progress.epoch} of {progress.epochs}"
    if progress.stage == "done" and progress.folder is not None:
        said += f": {progress.folder.name}"
    if progress.message:
        said += f": {progress.message}"
    bar = html.Div(style={"width": f"{progress.share:.0%}"}, className="fill")
    shown = [html.Div(bar, className="bar wide")] if progress.running else []
    return [html.P(said, className=f"stage {progress.stage}"), *shown]


def change_table(table: pd.DataFrame, caption: str) -> list[Any]:
    """A table of values before and after; the better one is bold where a direction is known.

    Args:
        table: name, before, after and better: 1 if more is better, -1 if less is better, else 0.
        caption: above it.
    """
    if table.empty:
        return []
    rows = []
    for row in table.itertuples():
        gain = (row.after - row.before) * row.better
        marks = ["best" if round(-gain, 3) > 0 else "", "best" if round(gain, 3) > 0 else ""]
        rows.append(
            html.Tr(
                [
                    html.Th(str(row.name).replace("_", "_\u200b")),
                    html.Td(_short(row.before), className=marks[0]),
                    html.Td(_short(row.after), className=marks[1]),
                ]
            )
        )
    heads = html.Tr([html.Th(""), html.Th("before"), html.Th("after")])
    return [html.H3(caption), html.Table([html.Thead(heads), html.Tbody(rows)], className="data")]


def _short(value: float) -> str:
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3f}"


def nothing_to_compare() -> html.P:
    """Text in place of the comparison before the first fine-tuned run."""
    return html.P(
        "There is no fine-tuned run yet. Save a group in step 2 and fine-tune in step 3.",
        className="empty",
    )
