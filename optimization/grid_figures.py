"""Figures of a grid: heat maps of its scores over two settings, and a page to explore them.

A table of runs comes in, a row per run: `run` (its folder), the settings that vary, `status`
(trained, failed, ...), `reason`, and a column per score.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

from quantitative_metrics.catalogue import (
    better_when,
    counts_by_size,
    goal_column,
    goodness,
    split_name,
    title_of,
)
from util.errors import UserError
from util.pages.plot_page import json_for_page, write_page
from util.pages.report import VIRIDIS, write_report
from util.runs import slug
from util.style import OKABE_ITO, house_style, save_figure

INK = "#222222"
PALE = "#f1f1f1"  # of a cell without a value
FENCE = 1.5  # interquartile ranges beyond which a value is an outlier (Tukey 1977)
PER_ROW = 3  # panels of the overview
NOT_SCORES = {"run", "status", "reason", "worker", "value"}


def draw_runs(
    folder: Path,
    runs: pd.DataFrame,
    axes: Sequence[str],
    goal: str,
    run_folders: Mapping[str, Path],
    scores: Sequence[str] = (),
    described: Mapping[str, Any] | None = None,
) -> Path:
    """Heat maps where there are two axes, explore.html and report.html.

    Args:
        folder: where they go.
        runs: a row per run (see above).
        axes: the settings that vary; heat maps have the first by row, the second by column.
        goal: the score that names the best run.
        run_folders: run -> its folder, whose report a click opens.
        scores: columns to draw; empty draws all scores but the correlations of single axes.
        described: settings.json of the grid, for the report.

    Returns:
        the report.

    Raises:
        UserError: a column is missing.
    """
    for column in (*axes, *scores):
        if column not in runs:
            raise UserError(f"no column {column!r} in the runs; there are {', '.join(runs)}")
    shown = list(scores) or score_columns(runs, axes)
    figures = []
    if len(axes) == 2 and shown:
        path = plot_heat_maps(runs, axes[0], axes[1], shown, folder / "heatmaps.png")
        figures.append(("All scores; bright is good, the best cell of each is framed", path))
        for score in shown:
            name = folder / f"heatmap_{slug(score)}.png"
            plot_heat_maps(runs, axes[0], axes[1], [score], name)
    columns = score_columns(runs, axes, axes_too=True)
    everything = shown + [name for name in columns if name not in shown]
    write_explorer(runs, axes, everything, folder / "explore.html", goal_column(goal), run_folders)
    settings = {"command": described["command"]} | described["settings"] if described else {}
    return write_report(
        folder / "report.html",
        f"{folder.name}: {len(runs)} runs over {' and '.join(axes)}",
        _summary_lines(runs, axes, goal),
        settings,
        [("The best run by each score.", best_runs(runs, axes, shown))],
        figures,
        _failures(runs, axes),
        details=[("Every run.", runs.set_index("run").drop(columns="worker", errors="ignore"))],
    )


def score_columns(runs: pd.DataFrame, axes: Sequence[str], axes_too: bool = False) -> list[str]:
    """Columns that are scores of which at least one run has a value.

    Args:
        runs: a row per run.
        axes: the settings that vary.
        axes_too: also the correlations of single axes with known columns.
    """
    numeric = runs.select_dtypes("number")
    return [
        name
        for name in numeric
        if name not in NOT_SCORES
        and name not in axes
        and numeric[name].notna().any()
        and (axes_too or not counts_by_size(str(name)))
        and ((score := split_name(str(name))[0]) is None or score.many)
    ]


def best_runs(runs: pd.DataFrame, axes: Sequence[str], scores: Sequence[str]) -> pd.DataFrame:
    """A row per score that has a better and a worse: settings and value of its best run."""
    rows = {}
    for score in scores:
        good = goodness(runs[score])
        if better_when(score) and good.notna().any():
            rows[score] = runs.loc[good.idxmax(), [*axes, score, "run"]].rename({score: "value"})
    table = pd.DataFrame(rows, index=[*axes, "value", "run"]).T
    for axis in axes:  # settings, not measurements: 20, not 20.000
        table[axis] = [f"{v:g}" if _is_number(v) else v for v in table[axis]]
    return table.rename_axis("score")


def _summary_lines(runs: pd.DataFrame, axes: Sequence[str], goal: str) -> list[str]:
    count = runs["status"].value_counts()
    lines = [", ".join(f"{number} {status}" for status, number in count.items()) + "."]
    column = goal_column(goal)
    if column in runs and runs[column].notna().any():
        best = runs.loc[goodness(runs[column]).idxmax()]
        where = ", ".join(f"{axis} {best[axis]:g}" if _is_number(best[axis]) else
                          f"{axis} {best[axis]}" for axis in axes)  # fmt: skip
        lines.append(f"Best by {goal}: {where} ({best[column]:.4g}; {best['run']}).")
    if "training_seconds" in runs:
        lines.append(f"Training took {runs['training_seconds'].sum():,.0f} s in all.")
    lines.append("explore.html beside this page shows each run's values and opens its report.")
    return lines


def _failures(runs: pd.DataFrame, axes: Sequence[str]) -> list[str]:
    if "reason" not in runs:
        return []
    failed = runs[runs["status"] == "failed"]
    return [
        f"{', '.join(f'{axis} {row[axis]}' for axis in axes)} failed: {row['reason']}"
        for _, row in failed.iterrows()
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number))


def plot_heat_maps(
    runs: pd.DataFrame, row: str, column: str, scores: Sequence[str], path: Path
) -> Path:
    """One annotated heat map per score; bright is good, the best cell is framed.

    Cells without a value say why. Runs of equal settings (seeds) are averaged. The colours span the
    values without outliers, which the ends of the scale then stand for.

    Args:
        runs: a row per run.
        row, column: the settings along the axes, of any number of values each.
        scores: columns to draw.
        path: PNG to write.
    """
    rows, columns = (_values_of(runs[name]) for name in (row, column))
    width = 1.7 + 0.62 * len(columns)
    height = 1.1 + 0.45 * len(rows)
    across = min(PER_ROW, len(scores))
    down = math.ceil(len(scores) / across)
    with house_style():
        size = (max(across * width, 3.6), max(down * height, 2.4))
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for panel, score in zip(panels, scores, strict=False):
            _draw_heat_map(figure, panel, runs, (row, column), (rows, columns), score)
        for panel in panels[len(scores) :]:
            panel.set_axis_off()
        return save_figure(figure, path)


def _draw_heat_map(
    figure: Figure,
    panel: Axes,
    runs: pd.DataFrame,
    names: tuple[str, str],
    values: tuple[list[Any], list[Any]],
    score: str,
) -> None:
    matrix, status = heat_matrix(runs, names, values, score)
    known = matrix[np.isfinite(matrix)]
    scale, ends = colour_scale(known)
    colours = colormaps["viridis" if better_when(score) >= 0 else "viridis_r"]
    for (i, j), value in np.ndenumerate(matrix):
        filled = np.isfinite(value)
        colour = colours(scale(value)) if filled else PALE
        hatch = "////" if status[i, j] == "failed" else None
        look = {"facecolor": colour, "edgecolor": "#c4c4c4" if hatch else "white", "hatch": hatch}
        panel.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, **look, linewidth=0.8))
        text = _annotation(value, known) if filled else status[i, j]
        dark = filled and np.dot(colour[:3], (0.299, 0.587, 0.114)) < 0.55
        style = {"color": "white" if dark else INK, "fontsize": 8 if filled else 7}
        panel.text(j, i, text, ha="center", va="center", **style)
    _frame_best(panel, matrix, score)
    panel.set_xlim(-0.5, len(values[1]) - 0.5)
    panel.set_ylim(-0.5, len(values[0]) - 0.5)
    panel.set_xticks(range(len(values[1])), [_word(value) for value in values[1]])
    panel.set_yticks(range(len(values[0])), [_word(value) for value in values[0]])
    panel.tick_params(length=0)
    panel.grid(False)
    panel.spines[:].set_visible(False)
    panel.set_xlabel(names[1])
    panel.set_ylabel(names[0])
    panel.set_title(title_of(score))
    if len(known):
        bar = figure.colorbar(
            ScalarMappable(scale, colours), ax=panel, extend=ends, pad=0.02, fraction=0.06
        )
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=7)


def heat_matrix(
    runs: pd.DataFrame, names: tuple[str, str], values: tuple[list[Any], list[Any]], score: str
) -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns) mean score, NaN without; and what to say of a cell that has none."""
    matrix = runs.pivot_table(score, *names, aggfunc="mean", dropna=False)
    matrix = matrix.reindex(index=values[0], columns=values[1]).to_numpy(float)
    status = runs.pivot_table("status", *names, aggfunc="last")
    status = status.reindex(index=values[0], columns=values[1])
    words = {"failed": "failed", "trained": "no score", "untried": "untried"}
    return matrix, status.map(lambda s: words.get(s, "missing")).to_numpy()


def colour_scale(values: np.ndarray) -> tuple[Normalize, str]:
    """Range of the colours, between Tukey's fences, and which ends have values beyond."""
    if not len(values):
        return Normalize(0, 1), "neither"
    first, third = np.percentile(values, [25, 75])
    reach = FENCE * (third - first)
    low, high = max(values.min(), first - reach), min(values.max(), third + reach)
    if low == high:  # most are equal: the others decide
        low, high = values.min(), values.max()
    below, above = values.min() < low, values.max() > high
    ends = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[below, above]
    margin = 0 if high > low else max(abs(low), 1) * 0.01
    return Normalize(low - margin, high + margin, clip=True), ends


def _frame_best(panel: Axes, matrix: np.ndarray, score: str) -> None:
    good = goodness(pd.Series(matrix.ravel(), name=score)).to_numpy().reshape(matrix.shape)
    if better_when(score) == 0 or np.unique(good[np.isfinite(good)]).size < 2:
        return
    i, j = np.unravel_index(np.nanargmax(good), good.shape)
    frame = {"fill": False, "zorder": 3, "clip_on": False}
    panel.add_patch(Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, ec="white", lw=3.6, **frame))
    panel.add_patch(Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, ec="#d62728", lw=2, **frame))


def plot_sweep(runs: pd.DataFrame, setting: str, scores: Sequence[str], path: Path) -> Path:
    """One panel per score: its value over one setting, the best value marked.

    Args:
        runs: a row per run.
        setting: column of numbers.
        scores: columns to draw.
        path: PNG to write.
    """
    ordered = runs.sort_values(setting)
    across = min(PER_ROW, len(scores))
    down = math.ceil(len(scores) / across)
    with house_style():
        figure = Figure(figsize=(3.6 * across, 2.3 * down), layout="constrained")
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for panel, score in zip(panels, scores, strict=False):
            x, y = ordered[setting].to_numpy(float), ordered[score]
            panel.plot(x, y, marker="o", markersize=4, color=OKABE_ITO[0])
            good = goodness(y)
            if better_when(score) and good.notna().any():
                best = ordered.loc[good.idxmax()]
                panel.plot(best[setting], best[score], "o", markersize=10, fillstyle="none",
                           color="#d62728", markeredgewidth=2)  # fmt: skip
            if (x > 0).all() and x.max() > 5 * x.min():
                panel.set_xscale("log")
            panel.set_xticks(x, [_word(value) for value in x])
            panel.xaxis.set_minor_locator(NullLocator())
            panel.margins(x=0.08, y=0.18)
            panel.set_title(title_of(score))
            panel.set_xlabel(setting)
        for panel in panels[len(scores) :]:
            panel.set_axis_off()
        return save_figure(figure, path)


def _annotation(value: float, known: np.ndarray) -> str:
    """As many decimals as it takes to tell the values apart."""
    spread = np.percentile(known, 90) - np.percentile(known, 10)
    largest = np.abs(known).max()
    if spread <= 0:
        return f"{value:.3g}"
    decimals = int(np.clip(2 - math.floor(math.log10(spread)), 0, 5))
    whole = math.floor(math.log10(largest)) + 1 if largest >= 1 else 1
    return f"{value:.{max(0, min(decimals, 5 - whole))}f}"


def _values_of(column: pd.Series) -> list[Any]:
    return sorted(column.dropna().unique())


def _word(value: Any) -> str:
    return f"{value:g}" if _is_number(value) else str(value)


def write_explorer(
    runs: pd.DataFrame,
    axes: Sequence[str],
    scores: Sequence[str],
    path: Path,
    first: str,
    run_folders: Mapping[str, Path],
) -> Path:
    """A page that opens offline: heat map of any score, parallel coordinates of all of them.

    A click on a cell opens the report of its run.

    Args:
        runs: a row per run.
        axes: the settings that vary; with more than two, a run per row of the heat map.
        scores: columns to choose among.
        path: HTML to write.
        first: the score shown first.
        run_folders: run -> its folder.
    """
    links = [_link(run_folders.get(run), path.parent) for run in runs["run"]]
    data = {
        "axes": [
            {"name": axis, "values": [_word(value) for value in _values_of(runs[axis])]}
            for axis in axes
        ],
        "runs": [
            {
                "name": str(row["run"]),
                "at": [_word(row[axis]) for axis in axes],
                "status": str(row["status"]),
                "reason": str(row.get("reason", "") if pd.notna(row.get("reason")) else ""),
                "link": link,
                "values": [float(row[s]) if pd.notna(row[s]) else None for s in scores],
            }
            for (_, row), link in zip(runs.iterrows(), links, strict=True)
        ],
        "scores": [
            {
                "name": score,
                "better": better_when(score),
                "sized": counts_by_size(score),
                "range": _range_of(runs[score]),
            }
            for score in scores
        ],
        "first": list(scores).index(first) if first in scores else 0,
        "viridis": VIRIDIS,
    }
    title = f"Runs over {' and '.join(axes)}"
    return write_page(path, title, BODY, STYLE, SCRIPT, json_for_page(data))


def _link(run: Path | None, start: Path) -> str | None:
    """The report of a run as the page names it, which can be moved together with the runs."""
    if run is None or not (run / "report.html").is_file():
        return None
    return Path(os.path.relpath(run / "report.html", start)).as_posix()


def _range_of(values: pd.Series) -> list[float]:
    scale, _ = colour_scale(values.dropna().to_numpy(float))
    return [float(scale.vmin), float(scale.vmax)]


BODY = """
<header><h1></h1><label>Score <select id="score"></select></label>
<p id="note">Click a cell to open the report of its run.</p></header>
<div id="heat"></div>
<h2>Parallel coordinates</h2>
<p class="soft">A line per trained run. Drag along an axis to keep a range, drag an axis to move it.
</p>
<div class="wide"><div id="lines"></div></div>
"""

STYLE = """
body { margin: 0; padding: 14px 22px; color: #1f2428; background: #ffffff;
  font: 15px/1.5 system-ui, "Liberation Sans", Arial, sans-serif; }
header { display: flex; flex-wrap: wrap; gap: 4px 26px; align-items: baseline; }
h1 { font-size: 20px; margin: 0; } h2 { font-size: 17px; margin: 22px 0 2px; }
p { margin: 0; } .soft, #note { color: #5c666f; }
select { font: inherit; padding: 3px 6px; max-width: 340px; }
.wide { overflow-x: auto; }
"""

SCRIPT = r"""
(function () {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  document.querySelector("h1").textContent = document.title;
  const select = document.getElementById("score");
  const heat = document.getElementById("heat"), lines = document.getElementById("lines");
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;")
    .replace(/>/g, "&gt;");
  const short = (value) => String(Number(value.toPrecision(5)));
  const font = {family: "Liberation Sans, Arial, sans-serif", size: 13};
  const config = {responsive: true, displaylogo: false, showSendToCloud: false};
  data.scores.forEach((score, i) => {
    const option = document.createElement("option");
    option.textContent = score.name;
    option.value = i;
    select.append(option);
  });
  select.value = data.first;

  // more than two settings: all but the last are told apart by row
  const columns = data.axes[data.axes.length - 1];
  const before = data.axes.slice(0, -1);
  const rowOf = (run) => run.at.slice(0, -1).join(", ");
  const rows = before.length === 1 ? before[0].values : [...new Set(data.runs.map(rowOf))];
  const place = (run) => [rows.indexOf(rowOf(run)), columns.values.indexOf(run.at.at(-1))];
  const empty = () => rows.map(() => columns.values.map(() => null));

  function said(run, score) {
    const value = run.values[score];
    return run.name + "<br>" + data.axes.map((axis, i) => plain(axis.name + " " + run.at[i]))
      .join(", ") + "<br>" + plain(data.scores[score].name) + ": " +
      (value === null ? "no value" : short(value)) +
      (run.status === "trained" ? "" : "<br>" + plain(run.status + " " + run.reason)
        .replace(/(.{60})/g, "$1<br>"));
  }

  function drawHeat(index) {
    const score = data.scores[index], z = empty(), hover = empty(), open = empty(), marks = [];
    let best = null;
    for (const run of data.runs) {
      const [r, c] = place(run), value = run.values[index];
      z[r][c] = value;
      hover[r][c] = said(run, index);
      open[r][c] = run.link;
      const good = value === null ? null : score.sized ? Math.abs(value) : score.better * value;
      if (score.better && good !== null && (best === null || good > best.good)) {
        best = {good: good, r: r, c: c};
      }
      marks.push({x: c, y: r, showarrow: false,
        text: value === null ? plain(run.status) : short(value),
        font: {size: 12, color: value === null ? "#5c666f" : shade(value, score)}});
    }
    const shapes = best === null ? [] : [{type: "rect", x0: best.c - 0.48, x1: best.c + 0.48,
      y0: best.r - 0.48, y1: best.r + 0.48, line: {color: "#d62728", width: 3}}];
    const trace = {type: "heatmap", z: z, customdata: open, text: hover, hoverinfo: "text",
      hoverongaps: true, xgap: 2, ygap: 2, colorscale: data.viridis,
      reversescale: score.better < 0, zmin: score.range[0], zmax: score.range[1],
      colorbar: {thickness: 14}};
    const ticks = (values) => ({tickvals: values.map((_, i) => i), ticktext: values.map(plain),
      zeroline: false, showgrid: false});
    const layout = {font: font, margin: {l: 110, r: 20, t: 12, b: 50},
      height: Math.min(720, 130 + 54 * rows.length), annotations: marks, shapes: shapes,
      plot_bgcolor: "#f1f1f1", hoverlabel: {align: "left"},
      xaxis: Object.assign({title: {text: plain(columns.name)}}, ticks(columns.values)),
      yaxis: Object.assign({title: {text: plain(before.map((a) => a.name).join(", "))},
        automargin: true}, ticks(rows))};
    Plotly.react(heat, [trace], layout, config);
  }

  function shade(value, score) {
    const [low, high] = score.range, share = (value - low) / (high - low || 1);
    return (score.better < 0 ? 1 - share : share) < 0.6 ? "#ffffff" : "#1f2428";
  }

  function drawLines(index) {
    const score = data.scores[index];
    const runs = data.runs.filter((run) => run.values.some((value) => value !== null));
    const settings = data.axes.map((axis, i) => ({label: plain(axis.name),
      values: runs.map((run) => axis.values.indexOf(run.at[i])),
      tickvals: axis.values.map((_, k) => k), ticktext: axis.values.map(plain),
      range: [-0.2, axis.values.length - 0.8]}));
    const shown = data.scores.map((other, i) => ({label: plain(other.name.length > 26 ?
      other.name.slice(0, 25) + "\u2026" : other.name), tickformat: ".5~g",
      values: runs.map((run) => run.values[i])}))
      .filter((dimension) => dimension.values.every((value) => value !== null));
    const trace = {type: "parcoords", dimensions: [...settings, ...shown],
      labelangle: -20, tickfont: {size: 10}, rangefont: {size: 1, color: "rgba(0,0,0,0)"},
      line: {color: runs.map((run) => run.values[index]), colorscale: data.viridis,
        reversescale: score.better < 0, cmin: score.range[0], cmax: score.range[1],
        showscale: true, colorbar: {thickness: 14, title: {text: plain(score.name)}}}};
    const width = Math.max(document.body.clientWidth - 44, 120 * (settings.length + shown.length));
    Plotly.react(lines, [trace], {font: font, width: width, height: 460,
      margin: {l: 70, r: 40, t: 110, b: 30}}, {displaylogo: false, showSendToCloud: false});
  }

  function draw() {
    drawHeat(Number(select.value));
    drawLines(Number(select.value));
  }
  draw();
  select.addEventListener("change", draw);
  heat.on("plotly_click", (event) => {
    const link = event.points[0].customdata;
    if (link) window.open(link, "_blank");
    else document.getElementById("note").textContent = "That run has no report.";
  });
})();
"""
