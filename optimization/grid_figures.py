"""Figures of a grid: heat maps of its scores over two settings, and a page to explore them.

All are made from a table with a row per run: `run` (its folder), the settings that vary, `status`
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
from util.pages.plot_page import beside, json_for_page, write_page
from util.pages.report import VIRIDIS, write_report
from util.runs import file_names
from util.style import OKABE_ITO, house_style, save_figure

INK = "#222222"
PALE = "#f1f1f1"  # of a square without a value
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
    """Draw heat maps if there are two axes, explore.html and report.html.

    Args:
        folder: where the files go.
        runs: a row per run (see above).
        axes: the settings that vary; in heat maps that of the rows, then that of the columns.
        goal: the score by which the best run is named.
        run_folders: run -> its folder, whose report a click opens.
        scores: columns to draw; if empty, all scores except the correlations of single axes.
        described: settings.json of the grid, for the report.

    Returns:
        The report.

    Raises:
        UserError: a column is missing.
    """
    for column in (*axes, *scores):
        if column not in runs:
            raise UserError(f"no column {column!r} in the runs; there are {', '.join(runs)}")
    shown = list(scores) or score_columns(runs, axes)
    figures = _draw_heat_maps(folder, runs, axes, shown) if len(axes) == 2 and shown else []
    columns = score_columns(runs, axes, axes_too=True)
    write_explorer(
        runs=runs,
        axes=axes,
        scores=shown + [name for name in columns if name not in shown],
        path=folder / "explore.html",
        first=goal_column(goal),
        run_folders=run_folders,
    )
    return write_report(
        path=folder / "report.html",
        title=f"{folder.name}: {len(runs)} runs over {' and '.join(axes)}",
        summary_lines=_summary_lines(runs, axes, goal),
        settings={"command": described["command"]} | described["settings"] if described else {},
        tables=[("The best run by each score.", best_runs(runs, axes, shown))],
        figures=figures,
        notes=_failures(runs, axes),
        details=[("Every run.", runs.set_index("run").drop(columns="worker", errors="ignore"))],
    )


def _draw_heat_maps(
    folder: Path, runs: pd.DataFrame, axes: Sequence[str], scores: Sequence[str]
) -> list[tuple[str, Path]]:
    """Draw all scores in one figure and each in its own; caption and path of the former."""

    def draw(scores: Sequence[str], name: str) -> Path:
        return plot_heat_maps(
            runs=runs, row=axes[0], column=axes[1], scores=scores, path=folder / name
        )

    for score, file in file_names(scores).items():
        draw([score], f"heatmap_{file}.png")
    caption = "All scores; bright is good, and the best value of each score is framed"
    return [(caption, draw(scores, "heatmaps.png"))]


def score_columns(runs: pd.DataFrame, axes: Sequence[str], axes_too: bool = False) -> list[str]:
    """Columns of scores with a value for at least one run.

    Args:
        runs: a row per run.
        axes: the settings that vary.
        axes_too: also the correlations of single latent axes with known columns.
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
    """A row per score that has a direction: settings, value and name of its best run."""
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
        lines.append(f"Training took {runs['training_seconds'].sum():,.0f} s in total.")
    lines.append("explore.html beside this page shows the values of each run and links its report.")
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
    """One annotated heat map per score; bright is good, and the best value is framed.

    A square without a value says why. Runs with equal settings (seeds) are averaged. The colours
    span the values without outliers; outliers get the colours at the ends of the scale.

    Args:
        runs: a row per run.
        row, column: the settings of the rows and of the columns, each with any number of values.
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
            _draw_heat_map(
                figure=figure,
                panel=panel,
                runs=runs,
                names=(row, column),
                values=(rows, columns),
                score=score,
            )
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
    """Mean scores (rows, columns), NaN where there is none, and what to write there instead."""
    matrix = runs.pivot_table(score, *names, aggfunc="mean", dropna=False)
    matrix = matrix.reindex(index=values[0], columns=values[1]).to_numpy(float)
    status = runs.pivot_table("status", *names, aggfunc="last")
    status = status.reindex(index=values[0], columns=values[1])
    words = {"failed": "failed", "trained": "no score", "untried": "untried"}
    return matrix, status.map(lambda s: words.get(s, "missing")).to_numpy()


def colour_scale(values: np.ndarray) -> tuple[Normalize, str]:
    """Range of the colours, within Tukey's fences, and at which ends there are values beyond."""
    if not len(values):
        return Normalize(0, 1), "neither"
    first, third = np.percentile(values, [25, 75])
    reach = FENCE * (third - first)
    low, high = max(values.min(), first - reach), min(values.max(), third + reach)
    if low == high:  # most values are equal; take the others too
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
    """One panel per score: its values over one setting, with the best one marked.

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
    """As many decimals as tell the values apart."""
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
    """Write a page that opens offline: a heat map of any score, parallel coordinates of all.

    A click on a square of the heat map opens the report of its run.

    Args:
        runs: a row per run.
        axes: the settings that vary; the last is that of the columns of the heat map, and each row
            is a combination of the others.
        scores: columns to choose from.
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
            _run_of_page(row, axes, scores) | {"link": link}
            for (_, row), link in zip(runs.iterrows(), links, strict=True)
        ],
        "scores": [_score_of_page(runs[score]) for score in scores],
        "first": list(scores).index(first) if first in scores else 0,
        "viridis": VIRIDIS,
    }
    return write_page(
        path=path,
        title=f"Runs over {' and '.join(axes)}",
        body=beside(__file__, "explore.html"),
        style=beside(__file__, "explore.css"),
        script=beside(__file__, "explore.js"),
        data=json_for_page(data),
    )


def _score_of_page(values: pd.Series) -> dict[str, Any]:
    scale, _ = colour_scale(values.dropna().to_numpy(float))
    name = str(values.name)
    return {
        "name": name,
        "better": better_when(name),
        "sized": counts_by_size(name),
        "range": [float(scale.vmin), float(scale.vmax)],
    }


def _run_of_page(row: pd.Series, axes: Sequence[str], scores: Sequence[str]) -> dict[str, Any]:
    return {
        "name": str(row["run"]),
        "at": [_word(row[axis]) for axis in axes],
        "status": str(row["status"]),
        "reason": str(row.get("reason", "") if pd.notna(row.get("reason")) else ""),
        "values": [float(row[score]) if pd.notna(row[score]) else None for score in scores],
    }


def _link(run: Path | None, start: Path) -> str | None:
    """Relative path of a run's report, so that page and runs can be moved together."""
    if run is None or not (run / "report.html").is_file():
        return None
    return Path(os.path.relpath(run / "report.html", start)).as_posix()
