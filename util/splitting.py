"""Parts of a data set: the cells to train on and to validate, halves, or a subset to work on.

Cells of one well, plate or donor resemble each other, so a score on cells whose neighbours from the
same well were seen is too good. `groups` keeps them together: a label per cell; cells without one
form a group, too.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from util.errors import UserError
from util.metadata import choose_labels, match_rows, refuse_missing_column
from util.tables import read_table

SUBSET_SEED = 0  # the same cells for every seed of a run


def split_cells(
    labels: Sequence | None,
    n_cells: int,
    valid_fraction: float,
    seed: int,
    groups: Sequence | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Seeded, stratified split into (train, valid) indices, each ascending.

    Each class gives its share to the validation set, rounded so that the shares add up (largest
    remainder). A class too small for a share, or of one cell, stays in the training set. Whole
    groups come as near to the share of all cells and of each class as they can.

    Args:
        labels: class of each cell (None where missing), or None for no classes at all.
        n_cells: N.
        valid_fraction: share of the validation set, above 0 and below 1.
        seed: of the run.
        groups: N labels of cells that stay together; None splits cells one by one.

    Raises:
        UserError: a share outside 0..1, one that leaves fewer than 2 cells to train on, or a single
            group.
    """
    if not 0 < valid_fraction < 1:
        raise UserError(f"`valid_fraction` {valid_fraction}: must lie between 0 and 1, e.g. 0.15")
    n_valid = max(1, round(valid_fraction * n_cells))
    if n_cells - n_valid < 2:
        raise UserError(
            f"{n_cells} cells with `valid_fraction` {valid_fraction} leave {n_cells - n_valid} to "
            "train on: at least 2 are needed"
        )
    classes = pd.Series([None] * n_cells if labels is None else labels, dtype=object)
    codes = pd.factorize(classes)[0]  # -1 where missing: one more class
    rng = np.random.default_rng([seed, 1])
    if groups is not None:
        valid = np.flatnonzero(draw_groups(codes, group_numbers(groups), n_valid, rng))
        return np.setdiff1d(np.arange(n_cells), valid), valid
    classes = [rng.permutation(np.flatnonzero(codes == code)) for code in np.unique(codes)]
    shares = np.array([valid_fraction * len(cells) if len(cells) > 1 else 0.0 for cells in classes])
    counts = np.floor(shares).astype(int)
    by_remainder = np.argsort(counts - shares, kind="stable")
    with_room = [c for c in by_remainder if len(classes[c]) - counts[c] > 1]
    counts[with_room[: n_valid - counts.sum()]] += 1
    if counts.sum() == 0:  # only classes of one cell: any cell may validate
        classes, counts = [rng.permutation(n_cells)], np.array([n_valid])
    chosen = [cells[:count] for cells, count in zip(classes, counts, strict=True)]
    valid = np.sort(np.concatenate(chosen))
    return np.setdiff1d(np.arange(n_cells), valid), valid


def splitting_note(table: pd.DataFrame, group: str | None) -> str:
    """What a report says of how cells were split and resampled, by the column of the groups."""
    if group is None:
        return (
            "cells were split one by one, so cells of one well, plate or donor may be on both "
            "sides of a split; name their column as `group` to keep them together"
        )
    number, missing = table[group].nunique(), int(table[group].isna().sum())
    more = f"; {missing} cells without {group} form one more" if missing else ""
    return f"cells of one {group} stay together in every split and resample: {number} groups{more}"


def group_labels(table: pd.DataFrame, group: str | None) -> pd.Series | None:
    """The column of the groups; None splits cells one by one.

    Raises:
        UserError: there is no such column.
    """
    if group is None:
        return None
    refuse_missing_column(table, "group", group)
    return table[group]


def group_codes(groups: Sequence) -> np.ndarray:
    """(N,) numbers from 0 of the groups; cells without a group share one."""
    return pd.factorize(pd.Series(list(groups), dtype=object), use_na_sentinel=False)[0]


def group_numbers(groups: Sequence) -> np.ndarray:
    """`group_codes`, where cells have to be split.

    Raises:
        UserError: all cells are of one group.
    """
    numbers = group_codes(groups)
    if numbers.max(initial=0) == 0:
        raise UserError(f"`group`: all {len(numbers)} cells are of one group; 2 are needed")
    return numbers


def draw_groups(
    classes: np.ndarray, groups: np.ndarray, wanted: int, rng: np.random.Generator
) -> np.ndarray:
    """(N,) bool: whole groups, drawn in random order while they bring the counts to their shares.

    Args:
        classes: (N,) numbers; each class, -1 too, should give its share, and all cells theirs.
        groups: (N,) of `group_numbers`.
        wanted: cells to draw, about; at least one group is drawn, and one left.
        rng: source of the chance.
    """
    table = pd.crosstab(groups, classes).to_numpy()  # (groups, classes) cells
    counts = np.column_stack([table, table.sum(1)]).astype(float)
    goal = counts.sum(0) * wanted / len(groups)
    order = rng.permutation(len(counts))
    drawn, missing = [], goal
    for group in order:
        left = missing - counts[group]
        nearer = np.abs(left).sum() < np.abs(missing).sum()
        if nearer and len(drawn) < len(counts) - 1:  # one is left to train on
            drawn, missing = [*drawn, group], left
    if not drawn:  # each alone is more than the share
        drawn = [order[counts[order, -1].argmin()]]
    return np.isin(groups, drawn)


def deal_out(
    groups: Sequence | None, n_cells: int, parts: int, rng: np.random.Generator
) -> np.ndarray:
    """(N,) number of the part, below `parts`, that each cell falls into at random.

    Parts are of equal size; whole groups, in random order, go to the smallest part so far. Fewer
    groups than parts leave parts empty.

    Args:
        groups: N labels of cells that stay together; None deals out cells one by one.
        n_cells: N.
        parts: their number.
        rng: source of the chance.

    Raises:
        UserError: a single group.
    """
    if groups is None:
        return rng.permutation(n_cells) % parts
    numbers = group_numbers(groups)
    sizes = np.bincount(numbers)
    part_of, filled = np.empty(len(sizes), int), np.zeros(parts)
    for group in rng.permutation(len(sizes)):
        part_of[group] = filled.argmin()
        filled[part_of[group]] += sizes[group]
    return part_of[numbers]


def choose_part(part: str, table: pd.DataFrame, label: str | None) -> tuple[np.ndarray, list[str]]:
    """Rows of a subset of the cells, ascending, and notes.

    Args:
        part: a number of cells, shared out over the classes with at least one of each, or a table
            whose Unique_ID names the cells.
        table: N rows with Unique_ID.
        label: column of the classes, as in `choose_labels`.

    Raises:
        UserError: it is neither, there are not so many cells, or no id has a cell.
    """
    n_cells = len(table)
    if part.isdecimal():
        places, notes = _share_out(int(part), table, label), []
    elif Path(part).is_file():
        rows = read_table(Path(part))
        found, notes = match_rows(rows, table["Unique_ID"], Path(part).name)
        places = np.sort(found[found >= 0])
    else:
        raise UserError(f"`subset` {part}: give a number of cells or a table with Unique_ID")
    return places, [f"a subset of {len(places):,} of {n_cells:,} cells is used", *notes]


def _share_out(number: int, table: pd.DataFrame, label: str | None) -> np.ndarray:
    """Rows of that many cells, stratified by class."""
    n_cells = len(table)
    labels = choose_labels(table, label)[1]
    least = max(3, 0 if labels is None else labels.nunique(dropna=False))
    if not least <= number <= n_cells:
        raise UserError(
            f"`subset` {number}: give {least} to {n_cells}, so that each class keeps a cell"
        )
    if number == n_cells:
        return np.arange(n_cells)
    return split_cells(labels, n_cells, 1 - number / n_cells, SUBSET_SEED)[0]
