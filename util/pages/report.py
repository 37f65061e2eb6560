"""The pages of a run: the interactive latent space and the report.

Both open from their folder without a network. Data and pictures are inside the page, plotly.js lies
beside it (`plot_page`). The thumbnails of all cells form one JPEG sheet, from which the browser
cuts single cells; the data form one block of JSON.

Every string of a user's table is hostile until escaped. Text of a page passes `html.escape`. Data
pass `json_for_page`, whose output holds no "<", ">" or "&" and cannot end its script element. The
script of the page writes with `textContent` only and escapes what plotly would read as markup.
"""

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex
from PIL import Image

from util.errors import UserError
from util.latents import coordinates_of
from util.metadata import WARNING
from util.pages.plot_page import beside, json_for_page, write_page
from util.style import (
    MAX_CLASSES,
    ClassColours,
    Roles,
    colour_column,
    is_colourable,
    spread,
    thinning_stride,
)

SHEET_BYTES = 5_000_000  # of JPEG; a third more as base64
THUMBNAILS = [(64, 88), (48, 85), (40, 80), (32, 80), (24, 75), (16, 70)]  # side in pixels, quality
SIGNIFICANT = 6  # digits of a number on the page

# A colour scale of plotly: share of the range and colour.
VIRIDIS = [[i / 16, to_hex(colormaps["viridis"](i / 16))] for i in range(17)]


@dataclass(frozen=True)
class LatentView:
    """The interactive latent space, as a part of a page.

    Attributes:
        data: JSON of cells, projections and columns, safe inside a script element.
        sheet: JPEG of the thumbnails of the cells shown.
        remarks: for the reader, for example that only some of the cells are drawn.
    """

    data: str
    sheet: bytes
    remarks: list[str]


def latent_view(
    latents: pd.DataFrame,
    projections: Mapping[str, Sequence[str]],
    thumbnails: np.ndarray,
    roles: Roles = Roles(),  # noqa: B008  frozen
) -> LatentView:
    """Prepare the interactive latent space.

    Of more than 20,000 cells every n-th is shown, and of more than three dimensions the first
    three. A projection leaves out the cells without coordinates.

    Args:
        latents: one row per cell: `Unique_ID`, metadata, coordinates.
        projections: name -> coordinate columns.
        thumbnails: (N, S, S, 3) uint8 pictures of the cells (`helpers.compose_rgb`), or of the
            cells shown only, `[:: style.thinning_stride(N)]`. They are made smaller if the page
            would become too large.
        roles: the label, which colours the cells at first (without one the first suitable column),
            the progress, and the order of the classes.

    Raises:
        UserError: the table and the pictures differ in length, or a column is missing.
    """
    stride = thinning_stride(len(latents))
    shown = latents.iloc[::stride]
    _refuse_mismatch(latents, len(thumbnails), len(shown), roles.label)
    axes = {name: coordinates_of(latents, columns) for name, columns in projections.items()}
    pictures = thumbnails if len(thumbnails) == len(shown) else thumbnails[::stride]
    sheet, side, per_row = thumbnail_sheet(pictures)
    metadata = _metadata_columns(latents, projections)
    columns = [_column_data(latents[name], stride, roles) for name in metadata]
    colourings = [i for i, column in enumerate(columns) if column["kind"] != "text"]
    first = metadata.index(roles.label) if roles.label in metadata else None
    data = {
        "ids": shown["Unique_ID"].astype(str).tolist(),
        "columns": columns,
        "first": first if first in colourings else (colourings[0] if colourings else None),
        "projections": [
            _projection_data(name, list(projections[name]), points[::stride])
            for name, points in axes.items()
        ],
        "tile": {"side": side, "columns": per_row},
        "viridis": VIRIDIS,
    }
    remarks = _remarks(len(latents), stride, projections, axes)
    return LatentView(json_for_page(data), sheet, remarks)


def _refuse_mismatch(
    latents: pd.DataFrame, n_pictures: int, n_shown: int, label: str | None
) -> None:
    if n_pictures not in (len(latents), n_shown) or latents.empty:
        raise UserError(
            f"{len(latents)} rows of the latent table and {n_pictures} pictures: "
            "expected one picture per row, and at least one"
        )
    for column in ["Unique_ID", *([label] if label else [])]:
        if column not in latents:
            raise UserError(f"no column {column} in the latent table")


def _metadata_columns(latents: pd.DataFrame, projections: Mapping[str, Sequence[str]]) -> list[str]:
    coordinates = {column for columns in projections.values() for column in columns}
    return [name for name in latents if name != "Unique_ID" and name not in coordinates]


def _remarks(
    n_cells: int,
    stride: int,
    projections: Mapping[str, Sequence[str]],
    axes: Mapping[str, np.ndarray],
) -> list[str]:
    remarks = []
    if stride > 1:
        remarks.append(f"1 of every {stride} of the {n_cells:,} cells is shown.")
    for name, points in axes.items():
        dimensions = len(projections[name])
        if dimensions > 3:
            remarks.append(f"{name}: the first 3 of {dimensions} dimensions are shown.")
        gaps = int(np.isnan(points[:, 0]).sum())
        if gaps:
            remarks.append(f"{name}: {gaps:,} of {n_cells:,} cells have no coordinates.")
    return remarks


def thumbnail_sheet(thumbnails: np.ndarray) -> tuple[bytes, int, int]:
    """All thumbnails on one sheet, row by row.

    Pictures are never enlarged. They are made smaller and compressed more until the sheet has at
    most 5 MB.

    Args:
        thumbnails: (N, S, S, 3) uint8.

    Returns:
        the JPEG, the side of a thumbnail in pixels, and the number of thumbnails per row.
    """
    n, height, width, _ = thumbnails.shape
    per_row = math.ceil(math.sqrt(n))
    rows = math.ceil(n / per_row)
    sheet = np.zeros((rows * per_row, height, width, 3), np.uint8)
    sheet[:n] = thumbnails
    sheet = sheet.reshape(rows, per_row, height, width, 3).swapaxes(1, 2)
    picture = Image.fromarray(sheet.reshape(rows * height, per_row * width, 3))
    # JPEG works on blocks of 8 pixels, so neighbours stay apart if the side is a multiple
    native = max(8, max(height, width) // 8 * 8)
    sizes = [(side, quality) for side, quality in THUMBNAILS if side <= native] or [(native, 85)]
    for side, quality in sizes:
        # a box filter takes nothing from neighbouring cells
        small = picture.resize((per_row * side, rows * side), Image.Resampling.BOX)
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=quality, subsampling=0)
        if buffer.tell() <= SHEET_BYTES:
            break
    return buffer.getvalue(), side, per_row


def _projection_data(name: str, axis_names: list[str], points: np.ndarray) -> dict[str, Any]:
    """Axis names and coordinates, rounded to 1e-5 of the range, null where missing."""
    largest = np.nanmax(np.abs(points), initial=0)
    decimals = 5 - math.ceil(math.log10(largest)) if largest > 0 else 0
    rounded = np.round(points, decimals)
    coordinates = [
        [None if gap else value for gap, value in zip(np.isnan(axis), axis.tolist(), strict=True)]
        for axis in rounded.T
    ]
    if len(coordinates) == 1:
        axis_names = [axis_names[0], "spread (no meaning)"]
        coordinates.append(np.round(spread(len(points)), 4).tolist())
    return {"name": str(name), "axes": axis_names[:3], "coordinates": coordinates}


def _column_data(values: pd.Series, stride: int, roles: Roles) -> dict[str, Any]:
    """A column of metadata: its kind (class, number, or text without colours) and its values.

    Colours and counts are those of all cells, values those of every stride-th cell.
    """
    name, shown = str(values.name), values.iloc[::stride]
    column = {"name": name, "kind": "text", "values": _plain_values(shown)}
    if not is_colourable(values):
        return column
    colouring = colour_column(values, roles)
    if isinstance(colouring, ClassColours):
        classes = {
            "kind": "class",
            "names": colouring.names,
            "colours": colouring.colours,
            "shapes": colouring.shapes,
            "counts": colouring.counts,
            "codes": colouring.codes[::stride].tolist(),
        }
        if values.nunique() <= MAX_CLASSES:
            del column["values"]  # the names of the classes are the values
        return column | classes
    low, high = (float(f"{bound:.{SIGNIFICANT}g}") for bound in (colouring.low, colouring.high))
    column["values"] = _plain_values(pd.Series(colouring.values[::stride]))
    return column | {"kind": "number", "low": low, "high": high}


def _plain_values(values: pd.Series) -> list[Any]:
    """Values for JSON: integers, numbers of six digits, or text; None where missing."""
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        numbers = values.to_numpy(float, na_value=np.nan)
        return [
            None if not math.isfinite(x) else int(x) if x.is_integer() else _shorten(x)
            for x in numbers.tolist()
        ]
    return [None if missing else str(x) for x, missing in zip(values, values.isna(), strict=True)]


def _shorten(number: float) -> float:
    return float(f"{number:.{SIGNIFICANT}g}")


def write_latent_page(
    latents: pd.DataFrame,
    projections: Mapping[str, Sequence[str]],
    thumbnails: np.ndarray,
    path: Path,
    roles: Roles = Roles(),  # noqa: B008  frozen
    title: str = "Latent space",
) -> LatentView:
    """Write `latent_space.html`: projections to turn and colour, and the cell under the pointer.

    Args:
        latents: one row per cell: `Unique_ID`, metadata, coordinates.
        projections: name -> coordinate columns.
        thumbnails: (N, S, S, 3) uint8 pictures of the cells.
        path: HTML to write.
        roles: as in `latent_view`.
        title: of the page.

    Returns:
        the view, for `write_report`.

    Raises:
        UserError: see `latent_view`.
    """
    view = latent_view(latents, projections, thumbnails, roles)
    body = f'<main class="full"><h1>{escape(title)}</h1>{_view_html(view, wheel=True)}</main>'
    _write_page(path, title, body, view)
    return view


def _view_html(view: LatentView, wheel: bool) -> str:
    """HTML of the controls, the plot and the panel of one cell."""
    remarks = "".join(f"<li>{escape(remark)}</li>" for remark in view.remarks)
    sheet = base64.b64encode(view.sheet).decode("ascii")
    return f"""
<div class="view" id="latent-view">
  <div class="controls">
    <label>Projection <select id="view-projection"></select></label>
    <label>Colour <select id="view-colour"></select></label>
    <label><input type="checkbox" id="view-wheel"{" checked" if wheel else ""}> zoom with the wheel
    </label>
  </div>
  <div id="view-plot"></div>
  <aside class="cell">
    <canvas id="view-picture" width="192" height="192"></canvas>
    <p id="view-id">Point at a cell to see it. Click to keep it, click again to release it.</p>
    <table><tbody id="view-row"></tbody></table>
  </aside>
  <ul class="remarks">{remarks}</ul>
  <img id="view-sheet" alt="" hidden src="data:image/jpeg;base64,{sheet}">
</div>"""


def _write_page(path: Path, title: str, body: str, view: LatentView | None) -> None:
    page = {} if view is None else {"script": beside(__file__, "report.js"), "data": view.data}
    write_page(path, title, body, style=beside(__file__, "report.css"), **page)


def write_report(
    path: Path,
    title: str,
    summary_lines: Sequence[str],
    settings: Mapping[str, Any],
    tables: Sequence[tuple[str, pd.DataFrame]],
    figures: Sequence[tuple[str, Path]],
    notes: Sequence[str] = (),
    latent_page: LatentView | None = None,
    versions: Mapping[str, Any] | None = None,
    details: Sequence[tuple[str, pd.DataFrame]] = (),
    warnings: Sequence[str] = (),
) -> Path:
    """Write `report.html`: all results of a run on one page.

    Everything but the interactive latent space also shows if the page is copied away alone.

    Args:
        path: HTML to write.
        title: heading.
        summary_lines: on top of the page, the first line in large type.
        settings: name -> value; a mapping as value becomes rows name.key.
        tables: caption and table; one with `attrs["best"]`, (row, column) pairs, has its best
            entries in bold and a row per column, since scores are many.
        figures: caption and PNG file, in their order.
        notes: lines on cells that were left out, and other remarks; those that begin with WARNING
            also stand below the summary.
        latent_page: the view that `write_latent_page` returned, for this page too.
        versions: name -> version of the software, or a property of the machine.
        details: caption and table, shown below the figures.
        warnings: what to know before any number is read, a line each, under the title.

    Returns:
        the path.

    Raises:
        UserError: a figure is missing.
    """
    sections = [("Scores", "scores", "".join(_table_html(*entry) for entry in tables))]
    if latent_page is not None:
        sections.append(("Latent space", "latent-space", _view_html(latent_page, wheel=False)))
    images = "".join(_figure_html(i, *entry) for i, entry in enumerate(figures, start=1))
    sections.append(("Figures", "figures", images))
    sections.append(("Details", "details", "".join(_table_html(*entry) for entry in details)))
    sections.append(("Notes", "notes", _list_html(notes)))
    sections.append(("Settings", "settings", _pairs_html(settings)))
    sections.append(("Versions", "versions", _pairs_html(versions or {})))
    alarms = [note for note in notes if str(note).startswith(WARNING)]
    shown = [section for section in sections if section[2]]
    body = _report_html(title, [*warnings, *alarms], summary_lines, shown)
    _write_page(path, title, body, latent_page)
    return Path(path)


def _report_html(
    title: str,
    warnings: Sequence[str],
    summary_lines: Sequence[str],
    sections: Sequence[tuple[str, str, str]],
) -> str:
    """Contents, warnings, summary and sections, each with its name, anchor and HTML."""
    links = "".join(f'<li><a href="#{anchor}">{name}</a></li>' for name, anchor, _ in sections)
    content = "".join(
        f'<section id="{anchor}"><h2>{name}</h2>{html}</section>' for name, anchor, html in sections
    )
    lead, *more = [escape(str(line)) for line in summary_lines] or [""]
    summary = f'<p class="lead">{lead}</p>' + "".join(f"<p>{line}</p>" for line in more)
    return (
        f'<nav aria-label="Contents"><ul>{links}</ul></nav>'
        f"<main><h1>{escape(title)}</h1>{_list_html(warnings, 'warnings')}{summary}{content}</main>"
    )


def _list_html(lines: Sequence[str], kind: str = "notes") -> str:
    items = "".join(f"<li>{escape(str(line))}</li>" for line in lines)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def _table_html(caption: str, table: pd.DataFrame) -> str:
    """HTML of a table; a table of scores gets a row per score, since there are many scores."""
    best = table.attrs.get("best")  # (row, column) pairs
    table = table if best is None else table.T
    head = "".join(f"<th>{_breakable(str(name))}</th>" for name in ["", *table.columns])
    rows = []
    for name, values in zip(table.index, table.itertuples(index=False), strict=True):
        cells = "".join(
            f'<td class="best">{_cell(value)}</td>'
            if best and (column, name) in best
            else f"<td>{_cell(value)}</td>"
            for column, value in zip(table.columns, values, strict=True)
        )
        rows.append(f"<tr><th>{escape(str(name))}</th>{cells}</tr>")
    remark = " The best of each row is bold." if best else ""
    return (
        f'<div class="wide"><table class="data"><caption>{escape(caption)}{remark}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _breakable(name: str) -> str:
    """HTML of a name that may break after "_" and "["."""
    return re.sub(r"([_\[])", r"\1<wbr>", escape(name))


def _cell(value: Any) -> str:
    """HTML of an entry: three decimals for fractions, a dash if it is missing."""
    if value is None or value is pd.NA or value != value:
        return "–"
    if isinstance(value, (float, np.floating)):
        return f"{value:.3f}"
    return escape(str(value))


def _figure_html(number: int, caption: str, path: Path) -> str:
    if not Path(path).is_file():
        raise UserError(f"{path}: the figure for the report does not exist")
    png = base64.b64encode(Path(path).read_bytes()).decode("ascii")
    text = escape(caption)
    return (
        f'<figure><img alt="{text}" src="data:image/png;base64,{png}">'
        f"<figcaption>Figure {number}. {text}</figcaption></figure>"
    )


def _pairs_html(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
        for name, value in _flatten(values)
    )
    return f'<table class="pairs"><tbody>{rows}</tbody></table>' if rows else ""


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flatten(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", value))
    return rows
