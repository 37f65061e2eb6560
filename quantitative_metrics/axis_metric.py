"""Axes of a projection against what is known of the cells: rank correlations (Spearman 1904)."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import scipy

from util.metadata import gradations


def correlate_axes(
    projections: dict[str, np.ndarray], table: pd.DataFrame, leave_out: Sequence[str] = ()
) -> pd.DataFrame:
    """Spearman rank correlation of each axis with each numeric column of the table.

    The columns are those of `util.metadata.gradations`. Cells without a value in one are left out
    for it.

    Args:
        projections: name -> (N, d), finite.
        table: N rows.
        leave_out: columns to skip, e.g. the class.

    Returns:
        projection, axis (from 1), column, spearman (-1..1), n_cells; a row for each combination.
    """
    rows = []
    for column in gradations(table, leave_out):
        values = table[column].to_numpy(dtype=float)
        known = np.isfinite(values)
        for name, codes in projections.items():
            for axis in range(codes.shape[1]):
                rho = scipy.stats.spearmanr(codes[known, axis], values[known]).statistic
                rows.append((name, axis + 1, column, rho, int(known.sum())))
    return pd.DataFrame(rows, columns=["projection", "axis", "column", "spearman", "n_cells"])


def best_axes(axes: pd.DataFrame) -> Iterator[tuple[str, str, float, int]]:
    """Projection, column, correlation of its largest size, sign kept, and number of cells.

    Args:
        axes: of `correlate_axes`.
    """
    for (name, column), group in axes.dropna().groupby(["projection", "column"], sort=False):
        best = group.loc[group["spearman"].abs().idxmax()]
        yield name, column, best["spearman"], int(best["n_cells"])
