"""Figures, tables and report of a comparison: methods on data sets, by every score, over seeds."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.stats import t as student

from optimization.grid import Grid
from quantitative_metrics.catalogue import counts_by_size, goodness, split_name, title_of
from quantitative_metrics.score_table import headline, mark_best, score_names
from util.pages.report import write_report
from util.runs import file_names, read_json, write_table
from util.settings import notes_for_user
from util.style import LINE_PALETTE, house_style, save_figure

CONFIDENCE = 0.95
LEAST_SEEDS = 3  # for an interval
INK = "#222222"


def intervals(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean over the seeds and half the width of its 95 % interval (Student's t).

    Args:
        scores: a row per data set, method, seed and score: `data_set`, `method`, `score`, `value`.

    Returns:
        A row per data set, method and score: mean, half_width, n_seeds. half_width is NaN for fewer
        than three seeds: Student's interval of two is thirteen times as wide as their difference.
    """
    groups = scores.groupby(["data_set", "method", "score"], sort=False)["value"]
    found = groups.agg(mean="mean", deviation="std", n_seeds="count").reset_index()
    n = found["n_seeds"].to_numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        reach = student.ppf((1 + CONFIDENCE) / 2, n - 1) / np.sqrt(n)
    found["half_width"] = np.where(n >= LEAST_SEEDS, reach * found["deviation"], np.nan)
    return found.drop(columns="deviation")


def ranks(means: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Rank of each method by each score on one data set; 1 is best; the first row is `mean rank`.

    Args:
        means: a row per method and score, with `mean`.
        methods: columns of the result, in this order.
    """
    wide = means.pivot(index="score", columns="method", values="mean")
    wide = wide.reindex(index=means["score"].unique(), columns=list(methods))
    good = pd.DataFrame([goodness(row) for _, row in wide.iterrows()])
    good.index = wide.index
    compared = good.dropna(how="all").round(9).rank(axis=1, ascending=False, method="min")
    rows = [split_name(score)[0] for score in compared.index]
    own = [row is None or not row.derived for row in rows]
    top = compared[own].mean().to_frame("mean rank").T
    return pd.concat([top, compared]).rename_axis("score")


def plot_score(scores: pd.DataFrame, score: str, methods: Sequence[str], path: Path) -> Path:
    """One score: a panel per data set, a column per method.

    Small dots are seeds; the large dot is their mean, with its 95 % interval for three seeds or
    more. For a single seed, the whisker is the standard deviation of the score itself, if it has
    one.

    Args:
        scores: a row per data set, method, seed and score: `value`, `std`.
        score: to draw.
        methods: from left to right.
        path: PNG to write.
    """
    part = scores[scores["score"] == score]
    data_sets = list(part["data_set"].unique())
    with house_style():
        width = 1.1 + 0.62 * len(methods)
        size = (max(width * len(data_sets), 4.2), 3.3)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(1, len(data_sets), squeeze=False, sharey=True)[0]
        for panel, data_set in zip(panels, data_sets, strict=True):
            _draw_score(panel, part[part["data_set"] == data_set], methods)
            panel.set_title(data_set)
        panels[0].set_ylabel(title_of(score))
        figure.supxlabel(_whisker(part["seed"].nunique()), fontsize=9, color="#5c666f")
        return save_figure(figure, path)


def _whisker(n_seeds: int) -> str:
    """What dots and whiskers of a figure show."""
    if n_seeds == 1:
        return "one seed; whiskers: standard deviation of the score itself"
    interval = " with its 95 % interval" if n_seeds >= LEAST_SEEDS else ""
    return f"small dots: {n_seeds} seeds; large dots: their mean{interval}"


def _draw_score(panel: Axes, part: pd.DataFrame, methods: Sequence[str]) -> None:
    means = intervals(part).set_index("method")
    for i, method in enumerate(methods):
        rows = part[part["method"] == method]
        if not len(rows):
            continue
        colour = LINE_PALETTE[i % len(LINE_PALETTE)]
        mean, half = means.loc[method, "mean"], means.loc[method, "half_width"]
        reach = half if len(rows) > 1 else rows["std"].iloc[0]
        if np.isfinite(reach):
            panel.errorbar(i, mean, reach, color=colour, capsize=4, elinewidth=1.6)
        panel.plot(i, mean, "o", color=colour, markersize=7)
        if len(rows) > 1:
            spots = i + 0.22 + np.zeros(len(rows))
            panel.plot(spots, rows["value"], "o", color=colour, markersize=3, alpha=0.6)
    panel.set_xticks(range(len(methods)), methods, rotation=40, ha="right", rotation_mode="anchor")
    panel.tick_params(axis="x", length=0)
    panel.set_xlim(-0.6, len(methods) - 0.4)
    panel.margins(y=0.12)


def plot_standing(means: pd.DataFrame, methods: Sequence[str], data_set: str, path: Path) -> Path:
    """Methods by scores on one data set: each square shows the mean; the better, the darker.

    Args:
        means: a row per method and score of this data set, with `mean` and `half_width`.
        methods: columns, from left to right.
        data_set: its name, for the heading.
        path: PNG to write.
    """
    standing = ranks(means, methods)
    wide = means.pivot(index="score", columns="method", values="mean")
    best = _wide(means, methods).attrs["best"]
    rows = list(standing.index)
    with house_style():
        size = (3.6 + 0.85 * len(methods), 1.1 + 0.27 * len(rows))
        figure = Figure(figsize=size, layout="constrained")
        panel = figure.subplots()
        for (i, j), rank in np.ndenumerate(standing.to_numpy(float)):
            of_ranks = rows[i] == "mean rank"
            value = rank if of_ranks else wide.loc[rows[i], methods[j]]
            shade = _shade(rank, len(methods))
            panel.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fc=shade, ec="white"))
            leads = of_ranks and rank == standing.loc["mean rank"].min()
            bold = leads or (methods[j], title_of(rows[i])) in best
            text = "–" if not np.isfinite(value) else f"{value:.2f}" if of_ranks else _short(value)
            panel.text(j, i, text, ha="center", va="center", fontsize=8,
                       weight="bold" if bold else "normal", color=INK)  # fmt: skip
        panel.set_xlim(-0.5, len(methods) - 0.5)
        panel.set_ylim(len(rows) - 0.5, -0.5)
        panel.axhline(0.5, color=INK, linewidth=1)
        panel.set_xticks(range(len(methods)), methods)
        panel.set_yticks(range(len(rows)), [title_of(name) for name in rows])
        panel.xaxis.tick_top()
        panel.tick_params(length=0)
        panel.grid(False)
        panel.spines[:].set_visible(False)
        figure.suptitle(f"{data_set}: scores; darker is better, the best of a row is bold")
        return save_figure(figure, path)


def _shade(rank: float, n_methods: int) -> tuple[float, float, float]:
    """From a clear blue for the first rank to near white for the last."""
    if not math.isfinite(rank):
        return (0.96, 0.96, 0.96)
    share = (rank - 1) / max(n_methods - 1, 1)
    first, last = np.array([0.49, 0.69, 0.86]), np.array([0.98, 0.98, 0.98])
    return tuple(first + share * (last - first))


def _short(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"


def one_per_score(table: pd.DataFrame) -> pd.DataFrame:
    """The scores of a long table that are a single number.

    Curves, single classes and branches, and correlations of single latent axes are left out.

    Returns:
        Columns data_set, method, seed, cells, score, value, std.
    """
    keys = ["data_set", "method", "seed", "cells"]
    scored = table.assign(projection=table[keys].astype(str).agg("\t".join, axis=1))
    wide = headline(scored)
    wanted = [name for name in wide if not counts_by_size(name)]
    single = scored[scored["k"].isna()].assign(score=score_names(scored[scored["k"].isna()]))
    return single[single["score"].isin(wanted)][[*keys, "score", "value", "std"]]


def write_page(
    grid: Grid, methods: Sequence[str], table: pd.DataFrame, figures: list[tuple[str, Path]]
) -> Path:
    """Draw each score and the standing of the methods, and write report.html.

    Args:
        grid: of the comparison.
        methods: in the order of tables and figures.
        table: scores.csv.
        figures: caption and file of the figures of each data set, shown last.
    """
    single = one_per_score(table)
    methods = [name for name in methods if name in set(single["method"])]
    means = {of: intervals(part) for of, part in single.groupby("cells", sort=False)}
    listed = [part.assign(cells=of) for of, part in means.items()]
    write_table(grid.folder / "means.csv", pd.concat(listed, ignore_index=True))
    single = single[single["cells"] == "all"]
    tables, standings = [], []
    folders = file_names(grid.axes["data_set"])
    for data_set in single["data_set"].unique():
        own = {of: part[part["data_set"] == data_set] for of, part in means.items()}
        folder = grid.folder / folders[data_set]
        tables += _tables_of_set(folder, data_set, own, methods)
        path = folder / "standing.png"
        plot_standing(own["all"], methods, data_set, path)
        standings.append((f"{data_set}: every score of every method", path))
    files = file_names(single["score"])
    by_score = [
        (score, plot_score(single, score, methods, grid.folder / f"score_{files[score]}.png"))
        for score in single["score"].unique()
    ]
    described = read_json(grid.folder / "settings.json")
    count = grid.count()
    return write_report(
        path=grid.folder / "report.html",
        title=f"{grid.folder.name}: {len(methods)} methods",
        summary_lines=[
            f"{', '.join(methods)} on {', '.join(single['data_set'].unique())}; "
            f"seeds {', '.join(map(str, grid.axes['seed']))}.",
            f"{count['trained']} of {len(grid.trials)} trials are done, {count['failed']} failed.",
        ],
        settings={"command": described["command"]} | described["settings"],
        tables=tables,
        figures=[*standings, *by_score, *figures],
        notes=notes_for_user(
            f"{trial} failed: {state.reason}"
            for trial, state in zip(grid.trials, grid.states(), strict=True)
            if state.status == "failed"
        ),
        versions=described["versions"] | described["machine"],
    )


def _tables_of_set(
    folder: Path, data_set: str, means: Mapping[str, pd.DataFrame], methods: Sequence[str]
) -> list[tuple[str, pd.DataFrame]]:
    """Captions and tables of ranks and of means on one data set; writes ranks.csv.

    Args:
        folder: of the data set.
        data_set: its name.
        means: `all` or `validation` (cells) -> a row per method and score of this data set.
        methods: rows of the tables, in this order.
    """
    standing = ranks(means["all"], methods)
    write_table(folder / "ranks.csv", standing.reset_index())
    shown = standing.map("{:.3g}".format, na_action="ignore")
    return [
        (f"{data_set}: rank of each method; 1 is best.", shown),
        *(
            (_means_title(data_set, of, part), _wide(part, methods))
            for of, part in means.items()
            if len(part)
        ),
    ]


def _means_title(data_set: str, of: str, means: pd.DataFrame) -> str:
    over = f"mean over {means['n_seeds'].max()} seed(s)"
    if of == "all":
        return f"{data_set}: {over}."
    return (
        f"{data_set}, validation cells among themselves, held out from every model: {over}. UMAP "
        "and PCA place them in a map of the training cells; t-SNE cannot, and maps all cells."
    )


def _wide(means: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """A row per method, a column per score."""
    wide, reach = (
        means.pivot(index="method", columns="score", values=of).reindex(
            index=methods, columns=means["score"].unique()
        )
        for of in ("mean", "half_width")
    )
    return mark_best(wide, reach)
