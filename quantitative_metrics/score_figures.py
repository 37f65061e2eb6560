"""Figures of scores: curves over the neighbourhood size, accuracies, and a whole report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from quantitative_metrics.backbone_page import write_backbone_page
from quantitative_metrics.catalogue import CATALOGUE
from quantitative_metrics.critics import CHECK_EVERY
from quantitative_metrics.metric_figures import (
    plot_backbone,
    plot_co_ranking,
    plot_local_quality,
    plot_local_quality_densities,
    plot_ordered_distance,
)
from quantitative_metrics.MINE_metric import InformationScore
from quantitative_metrics.score_table import detail_tables, scores_table, shown_k, tidy_scores
from quantitative_metrics.scores import Scores
from util.data_processing import Cells
from util.helpers import compose_rgb, plot_projections
from util.latents import known_of
from util.metadata import gradations
from util.pages.report import write_latent_page, write_report
from util.runs import file_names
from util.style import (
    LINE_PALETTE,
    LINE_STYLES,
    house_style,
    one_line,
    save_figure,
    thinning_stride,
)

MAX_CLASS_BARS = 40
COLOURED = 6  # numeric columns that get a figure of their own; latent_space.html has all


def plot_scores(scores: pd.DataFrame, path: Path) -> Path | None:
    """Trustworthiness, continuity and LCMC over the neighbourhood size, a row per reference space.

    Args:
        scores: long table (projection, reference, metric, k, value, std, n_cells); a band of one
            standard error is drawn where std is given.
        path: PNG to write.

    Returns:
        The path, or None (and no file) when the table has no such curves.
    """
    tidy = tidy_scores(scores)
    shown = [score for score in CATALOGUE if score.curve]
    curves = tidy[tidy["metric"].isin([score.name for score in shown])]
    curves = curves.sort_values("k", kind="stable")
    if curves.empty:
        return None
    references = [name for name in tidy["reference"].unique() if name in set(curves["reference"])]
    styles = _projection_styles(tidy)
    with house_style():
        size = (11.5 / 3 * len(shown), 3.1 * len(references) + 0.5)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(len(references), len(shown), squeeze=False, sharex=True)
        for row, reference in zip(panels, references, strict=True):
            part = curves[curves["reference"] == reference]
            k_mark = shown_k(part)
            for panel, score in zip(row, shown, strict=True):
                _draw_curves(panel, part[part["metric"] == score.name], styles)
                panel.axvline(k_mark, color="#777777", linewidth=1, linestyle=":")
                panel.set_title(f"{score.heading} against {reference or 'the reference'}")
                panel.set_ylabel(f"{score.title} (chance {score.chance:g}, best {score.high:g})")
        for panel in panels[-1]:
            panel.set_xlabel("neighbourhood size k (cells)")
        handles = [Line2D([], [], label=f" {name}", **style) for name, style in styles.items()]
        mark = Line2D([], [], color="#777777", linewidth=1, linestyle=":", label="k of the table")
        figure.legend(handles=[*handles, mark], loc="outside lower center", ncols=len(handles) + 1)
        return save_figure(figure, path)


def _projection_styles(tidy: pd.DataFrame) -> dict[str, dict]:
    """Colour and dash of each projection, in the order of the table."""
    names = tidy["projection"].unique()
    return {
        str(name): {
            "color": LINE_PALETTE[i % len(LINE_PALETTE)],
            "linestyle": LINE_STYLES[i % len(LINE_STYLES)],
        }
        for i, name in enumerate(names)
    }


def _draw_curves(panel: Axes, part: pd.DataFrame, styles: dict[str, dict]) -> None:
    for name, curve in part.groupby("projection", sort=False):
        style = styles[str(name)]
        marker = "o" if len(curve) == 1 else None
        panel.plot(curve["k"], curve["value"], marker=marker, **style)
        if curve["std"].gt(0).any():
            low, high = curve["value"] - curve["std"], curve["value"] + curve["std"]
            panel.fill_between(curve["k"], low, high, color=style["color"], alpha=0.2, linewidth=0)
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.yaxis.set_major_locator(MaxNLocator(5))


def plot_accuracy(scores: pd.DataFrame, path: Path) -> Path | None:
    """Accuracy of the classifier on each projection, overall and by class, as grouped bars.

    Args:
        scores: long table; accuracies are drawn in per cent with one standard deviation.
        path: PNG to write.

    Returns:
        The path, or None (and no file) when the table has no such scores.
    """
    tidy = tidy_scores(scores)
    metrics = tidy["metric"].unique()
    shown = [score for score in CATALOGUE if score.bar]
    overall = {s.name: s.title.replace(" ", "\n") for s in shown if s.name in metrics}
    by_class = {
        metric: metric[len(score.name) + 1 : -1]
        for score in shown
        for metric in metrics
        if metric.startswith(f"{score.name}[")
    }
    groups = [
        (title, names)
        for title, names in (("All cells", overall), ("Accuracy by class", by_class))
        if names
    ]
    if not groups:
        return None
    styles = _projection_styles(tidy)
    widths = [1.2 + 0.3 * len(styles) * min(len(names), MAX_CLASS_BARS) for _, names in groups]
    scale = min(1.0, 15 / sum(widths)) * max(1.0, 6.5 / sum(widths))
    with house_style():
        size = (sum(widths) * scale, 4.2)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(1, len(groups), width_ratios=widths, squeeze=False, sharey=True)[0]
        for panel, (title, names) in zip(panels, groups, strict=True):
            shown = dict(list(names.items())[:MAX_CLASS_BARS])
            if len(shown) < len(names):
                title += f" (first {len(shown)} of {len(names)})"
            _draw_bars(panel, tidy, shown, styles)
            panel.set_title(title)
        panels[0].set_ylabel("correctly classified (%)")
        handles = [Patch(color=s["color"], label=f" {name}") for name, s in styles.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6))
        return save_figure(figure, path)


def _draw_bars(
    panel: Axes, tidy: pd.DataFrame, names: dict[str, str], styles: dict[str, dict]
) -> None:
    """One group of bars per metric, one bar per projection, in per cent."""
    width = 0.8 / len(styles)
    part = (
        tidy[tidy["metric"].isin(names)].groupby(["projection", "metric"])[["value", "std"]].mean()
    )
    places = np.arange(len(names))
    for i, (projection, style) in enumerate(styles.items()):
        index = pd.MultiIndex.from_product([[projection], list(names)])
        rows = part.reindex(index) * 100
        x = places + (i - (len(styles) - 1) / 2) * width
        panel.bar(x, rows["value"], width * 0.92, color=style["color"])
        whiskers = rows["std"].fillna(0).to_numpy()
        panel.errorbar(x, rows["value"], np.where(whiskers > 0, whiskers, np.nan), fmt="none",
                       ecolor="#333333", elinewidth=1, capsize=2)  # fmt: skip
        if len(names) * len(styles) <= 45:
            _label_bars(panel, x, rows["value"].to_numpy() + whiskers, rows["value"].to_numpy())
    labels = [one_line(name, 18) if "\n" not in name else name for name in names.values()]
    crowded = len(names) > 5 and max(map(len, labels)) > 8
    turn = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    panel.set_xticks(places, labels, **turn)
    panel.tick_params(axis="x", length=0)
    panel.set_ylim(0, 112)
    panel.set_yticks(range(0, 101, 20))
    panel.set_xlim(-0.55, len(names) - 0.45)


def _label_bars(panel: Axes, x: np.ndarray, tops: np.ndarray, values: np.ndarray) -> None:
    for place, top, value in zip(x, tops, values, strict=True):
        if np.isfinite(value):
            panel.text(place, top + 1.2, f"{value:.0f}", ha="center", va="bottom", fontsize=7)


def plot_information_curves(
    information: Mapping[str, Mapping[str, InformationScore]], path: Path
) -> Path:
    """What the critics of mutual information found while they were trained, a panel per reference.

    A line per training. In mode `held_out` the value on the pairs that stop the training; its
    best step reports on other pairs. In mode `thesis` the mean of each epoch on the training pairs,
    from whose last 50 epochs the thesis read its value.

    Args:
        information: reference -> projection -> score; at least one.
        path: PNG to write.
    """
    names = dict.fromkeys(name for found in information.values() for name in found)
    styles = _projection_styles(pd.DataFrame({"projection": list(names)}))
    with house_style():
        figure = Figure(figsize=(0.5 + 4.5 * len(information), 3.6), layout="constrained")
        panels = figure.subplots(1, len(information), squeeze=False)[0]
        for panel, (reference, found) in zip(panels, information.items(), strict=True):
            panel.set_title(f"Mutual information with {reference}")
            for name, score in found.items():
                step = CHECK_EVERY if score.settings.held_out else 1
                for curve in score.curves:
                    steps = step * np.arange(1, len(curve) + 1)
                    panel.plot(steps, curve, **styles[str(name)], linewidth=1, alpha=0.7)
                panel.axhline(score.value, color=styles[str(name)]["color"], alpha=0.35)
                panel.set_xlabel("training step" if score.settings.held_out else "epoch")
        panels[0].set_ylabel("information found (nats)")
        handles = [Line2D([], [], label=f" {name}", **style) for name, style in styles.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6))
        return save_figure(figure, path)


def write_score_report(
    folder: Path,
    scores: Scores,
    latents: pd.DataFrame,
    projections: Mapping[str, Sequence[str]],
    *,
    cells: Cells | None,
    label: str | None,
    described: Mapping[str, Any],
    titles: tuple[str, str],
    summary: Sequence[str],
    notes: Sequence[str],
    figures: Sequence[tuple[str, Path]] = (),
    tables: Sequence[tuple[str, pd.DataFrame]] = (),
) -> Path:
    """Draw the scores of some projections and write latent_space.html and report.html.

    Args:
        folder: where everything goes.
        scores: of the projections.
        latents: N rows: coordinates, and what is known of the cells.
        projections: name -> coordinate columns.
        cells: the images, in the order of the rows; None for no latent_space.html.
        label: column of the classes.
        described: settings.json.
        titles: of the report and of latent_space.html.
        summary: what was done, a sentence each.
        notes: what was left out or decided, a line each.
        figures, tables: more of them, with their captions, shown before those of the scores.

    Returns:
        the report.
    """
    drawn = draw_scores(scores, latents, projections, folder=folder, label=label)
    view = None
    if cells is not None:
        view = write_latent_page(
            latents=latents,
            projections=projections,
            thumbnails=compose_rgb(cells.images[:: thinning_stride(len(latents))], cells),
            path=folder / "latent_space.html",
            roles=scores.roles(label),
            title=titles[1],
        )
    about = {name: described[name] for name in ("data", "command") if name in described}
    return write_report(
        path=folder / "report.html",
        title=titles[0],
        summary_lines=summary,
        settings=described["settings"] | about,
        tables=[*tables, ("Each projection by each score.", scores_table(scores.table))],
        figures=[*figures, *drawn],
        notes=notes,
        warnings=[] if cells is None else cells.warnings,
        latent_page=view,
        versions=described["versions"] | described["machine"],
        details=detail_tables(scores),
    )


def draw_scores(
    scores: Scores,
    latents: pd.DataFrame,
    projections: Mapping[str, Sequence[str]],
    folder: Path,
    label: str | None,
) -> list[tuple[str, Path]]:
    """Every figure of the scores, and backbones.html to turn.

    Args:
        scores: of the projections.
        latents: N rows: coordinates, and what is known of the cells.
        projections: name -> coordinate columns.
        folder: where the figures go.
        label: column of the classes.

    Returns:
        captions and PNG files in the order of a report.
    """
    figures = []
    columns = coloured_columns(known_of(latents, projections), label)
    files = file_names(columns)
    for column in columns:
        path = folder / f"projections_{files[column]}.png"
        plot_projections(latents, projections, column, path, scores.roles(label))
        figures.append((f"The projections, coloured by {column}", path))
    codes = {name: latents[list(columns)].to_numpy(float) for name, columns in projections.items()}
    curves = plot_scores(scores.table, folder / "scores.png")
    figures += [("Neighbourhoods kept, by their size", curves)] if curves else []
    figures += _draw_neighbours(scores, codes, folder)
    if any(scores.information.values()):
        path = plot_information_curves(scores.information, folder / "information_curves.png")
        caption = (
            "Training of the critics that estimate mutual information; a horizontal line marks the "
            "value reported"
        )
        figures.append((caption, path))
    bars = plot_accuracy(scores.table, folder / "accuracy.png")
    figures += [("Classes read from the coordinates", bars)] if bars else []
    if scores.backbones:
        figures += _draw_backbones(scores, codes, folder)
    return figures


def coloured_columns(known: pd.DataFrame, label: str | None) -> list[str]:
    """The class and the first few gradations: what the figures are coloured by."""
    graded = gradations(known, [label] if label else [])
    return ([label] if label else []) + graded[:COLOURED]


def _draw_neighbours(
    scores: Scores, codes: dict[str, np.ndarray], folder: Path
) -> list[tuple[str, Path]]:
    """Co-ranking matrices and local quality, per reference space."""
    figures, quality = [], {}
    for reference, corners in scores.corners.items():
        path = plot_co_ranking(corners, folder / f"co_ranking_{reference}.png")
        figures.append((f"Co-ranking with {reference}: pairs by both ranks", path))
        quality[reference] = {
            name: scores.local_quality[f"{name}_{reference}_local_Q_score"].to_numpy()
            for name in corners
        }
        path = folder / f"local_quality_{reference}.png"
        ranked = {name: codes[name] for name in corners}
        plot_local_quality(ranked, quality[reference], path, reference)
        figures.append((f"Local quality of each cell against {reference}", path))
    if quality:
        path = plot_local_quality_densities(quality, folder / "local_quality.png")
        figures.append(("Local quality: how many cells have which", path))
    return figures


def _draw_backbones(
    scores: Scores, codes: dict[str, np.ndarray], folder: Path
) -> list[tuple[str, Path]]:
    known, backbones = scores.continuum, scores.backbones
    names = (known.branch or "branch", known.progress, known.initial or "start")
    write_backbone_page(
        codes, backbones, folder / "backbones.html", names=names, order=scores.order
    )
    return [
        (
            "The backbone of the known continuum in each projection (backbones.html to turn)",
            plot_backbone(
                codes, backbones, folder / "backbones.png", names=names, order=scores.order
            ),
        ),
        (
            "Distance along the backbone against the true progress",
            plot_ordered_distance(
                backbones, folder / "ordered_distance.png", names=names[:2], order=scores.order
            ),
        ),
    ]
