"""Tables of scores: the short one of a run, one number per score of many runs, and the files.

The long table of `quantitative_metrics.scores` comes in; what a score is called and which way is
better, the catalogue knows. A table whose `attrs["best"]` holds (row, column) pairs shows these
entries as the best of their column.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from quantitative_metrics.catalogue import (
    CATALOGUE,
    counts_by_size,
    goodness,
    is_whole,
    split_name,
    title_of,
)
from quantitative_metrics.scores import Scores
from util.errors import UserError
from util.runs import file_names, write_table
from util.style import one_line

CURVES = [score.name for score in CATALOGUE if score.curve]
SHOWN_AT = 0.01  # of the cells: the neighbourhood size at which the short table shows a curve
DECIMALS = 3  # shown; entries that look equal are equally good


def tidy_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """The long table with numeric k and "" for no reference; several seeds become their mean.

    Raises:
        UserError: a column is missing.
    """
    wanted = ["projection", "reference", "metric", "k", "value", "std", "n_cells"]
    absent = [name for name in wanted if name not in scores]
    if absent:
        raise UserError(f"scores without the column {', '.join(absent)}")
    tidy = scores[wanted].copy()
    for name in ("k", "value", "std", "n_cells"):
        tidy[name] = pd.to_numeric(tidy[name], errors="coerce")
    tidy["reference"] = tidy["reference"].fillna("").astype(str)
    keys = ["projection", "reference", "metric", "k"]
    return tidy.groupby(keys, sort=False, dropna=False, as_index=False).mean()


def shown_k(curves: pd.DataFrame) -> int:
    """The k, among those that most projections were scored at, nearest to 1 % of the cells."""
    scored = curves.groupby("k")["projection"].nunique()
    shared = scored.index[scored == scored.max()].to_numpy()
    return int(min(shared, key=lambda k: abs(k - SHOWN_AT * curves["n_cells"].max())))


def scores_table(scores: pd.DataFrame) -> pd.DataFrame:
    """The short table of a run: a row per projection, the best of each score marked.

    Curves stand at the neighbourhood size nearest to 1 % of the cells (`k=` in the name); areas,
    bounds, and scores of single classes and branches are left to scores.csv.

    Args:
        scores: long table (projection, reference, metric, k, value, std, n_cells).

    Returns:
        a column per score and reference space, in the order of the catalogue.

    Raises:
        UserError: a column is missing.
    """
    tidy = tidy_scores(scores)
    columns = {}
    for reference, part in tidy[tidy["metric"].isin(CURVES)].groupby("reference", sort=False):
        k = shown_k(part)
        at_k = part[part["k"] == k]
        for name in CURVES:
            columns[f"{_column(name, reference)} k={k}"] = at_k[at_k["metric"] == name]
    single = tidy[tidy["k"].isna()]
    for name in sorted(filter(_is_brief, single["metric"].unique()), key=_place):
        for reference, part in single[single["metric"] == name].groupby("reference", sort=False):
            columns[_column(name, reference)] = part
    rows = pd.Index(tidy["projection"].unique(), name="projection")
    values, spreads = (
        pd.DataFrame({c: p.set_index("projection")[of] for c, p in columns.items()}, rows)
        for of in ("value", "std")
    )
    return mark_best(values, spreads)


def _column(name: str, reference: str) -> str:
    return f"{name} {reference}".strip()


def _is_brief(name: str) -> bool:
    """Whether the short table has a column for a score that is no curve."""
    score, _ = split_name(name)
    return score is not None and score.brief and (is_whole(name) or score.parts == "column")


def _place(name: str) -> int:
    return CATALOGUE.index(split_name(name)[0])


def mark_best(table: pd.DataFrame, spreads: pd.DataFrame | None = None) -> pd.DataFrame:
    """A table of scores, named as in a table of runs, with titles for people and its best marked.

    Args:
        table: a row per projection or method, a column per score.
        spreads: of the same shape, NaN where there is none; a difference within the larger spread
            of two entries means nothing.

    Returns:
        the same with the catalogue's titles; `attrs["best"]` holds the (row, column) pairs of the
        entries that no other is better than. A column in which this holds for all has none.
    """
    best = set()
    for name in table:
        good = goodness(table[name].round(DECIMALS)).dropna()
        behind = good.max() - good
        if spreads is not None and len(good):
            spread = spreads[name].reindex(good.index).fillna(0)
            behind = behind.where(behind > spread.clip(lower=spread[good.idxmax()]), 0)
        if (behind > 0).any():
            best |= {(row, title_of(name)) for row in good.index[behind == 0]}
    table = table.rename(columns=title_of)
    table.attrs["best"] = frozenset(best)
    return table


def format_table(table: pd.DataFrame) -> str:
    """A score table as aligned text for the terminal: a line per score, the best marked by "*"."""
    best = table.attrs["best"]
    lines = [["", *(f"{one_line(name)} " for name in table.index)]]  # " " above the marks
    for name in table:
        values = [
            ("–" if pd.isna(value) else f"{value:.{DECIMALS}f}")
            + ("*" if (row, name) in best else " ")
            for row, value in table[name].items()
        ]
        lines.append([one_line(name, 60), *values])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in lines
    )


def score_names(table: pd.DataFrame) -> pd.Series:
    """Name of the score in each row of a long table: `accuracy`, `lcmc_area features`."""
    references = table["reference"].fillna("").astype(str)
    return (table["metric"] + " " + references).str.strip()


def headline(table: pd.DataFrame) -> pd.DataFrame:
    """One number per projection and score: a row per projection, a column per score.

    Curves over k, single classes and branches, and bounds of intervals are left to the long table;
    the rank correlations of the axes come last.
    """
    single = table[table["k"].isna()]
    single = single.assign(score=score_names(single))
    whole = single["metric"].map(is_whole).astype(bool)
    by_size = single["metric"].map(counts_by_size).astype(bool)
    chosen = pd.concat([single[whole], single[by_size]])
    wide = chosen.pivot_table("value", "projection", "score", sort=False, dropna=False)
    return wide.reindex(columns=chosen["score"].unique())


def detail_tables(scores: Scores) -> list[tuple[str, pd.DataFrame]]:
    """Captions and tables behind the short one: by class, by branch, of the axes, confusion."""
    tables = []
    for score in CATALOGUE:
        rows = scores.table[scores.table["metric"].str.startswith(f"{score.name}[")]
        if score.parts in ("class", "branch") and len(rows):
            wide = rows.pivot(index="projection", columns="metric", values="value")
            wide.columns = [name[len(score.name) + 1 : -1] for name in wide.columns]
            tables.append((f"{score.heading} by {score.parts}", wide))
    if len(scores.axes):
        axes = scores.axes.assign(
            axis=scores.axes["projection"] + " " + scores.axes["axis"].map(str)
        )
        wide = axes.pivot(index="column", columns="axis", values="spearman")
        tables.append(("Spearman correlation of each axis with what is known of the cells", wide))
    for name, matrix in scores.confusion.items():
        caption = f"{name}: true class by row, predicted by column; held-out cells of all repeats"
        tables.append((caption, matrix.rename_axis("class")))
    return tables


def write_scores(scores: Scores, ids: Sequence[str], folder: Path) -> None:
    """scores.csv, and beside it what does not fit its long form."""
    write_table(folder / "scores.csv", scores.table)
    write_table(folder / "axes.csv", scores.axes)
    local = scores.local_quality.copy()
    local.insert(0, "Unique_ID", list(ids))
    for name, backbone in scores.backbones.items():
        local[f"{name}_backbone_distance"] = backbone.latent_distance
    write_table(folder / "local_quality.csv", local)
    files = file_names(scores.confusion)
    for name, matrix in scores.confusion.items():
        path = folder / f"confusion_{files[name]}.csv"
        write_table(path, matrix.rename_axis("true").reset_index())
