"""Local quality of a projection, one score per cell, after Mokbel, Lueks, Gisbrecht and Hammer
2013.

A pair (i, j) counts for cell i if it is a near pair in at least one of the two spaces (rank <= ks)
and its two ranks agree (they differ by at most kt). The thesis used kt = 300 and ks = 500. The
ranks come from the pass of `unsupervised_metric.co_ranking`; this module holds the definition and
the counting.
"""

from dataclasses import dataclass

import numpy as np
import torch

from util.errors import UserError

THESIS_KT = 300
THESIS_KS = 500


@dataclass(frozen=True)
class LocalQuality:
    """Score of every ranked cell, higher is better.

    score: (n_ranked,) float64, (row sum + column sum) / (2 ks N) over the pairs that count (Mokbel
        et al. 2013, section 4). All cells of a perfect projection sum to 1, so their mean is 1 / N;
        `relative` rescales to a mean of 1. Never negative. A single score may pass 1 / N: a cell
        that is near to many others (a hub) has a large column sum, and a row sum can reach 2 ks
        where pairs straddle ks.
    cells: (n_ranked,) index of each scored cell among all N.
    from_rows_only: True when a sample of cells was ranked. The column sum needs the ranks around
        all cells, so each row sum is then counted twice.
    """

    score: np.ndarray
    cells: np.ndarray
    kt: int
    ks: int
    n_cells: int
    from_rows_only: bool

    @property
    def relative(self) -> np.ndarray:
        """(n_ranked,) score times N: the cells of a perfect projection have mean 1."""
        return self.score * self.n_cells


def neighbourhood(n_cells: int, kt: int | None = None, ks: int | None = None) -> tuple[int, int]:
    """Check (kt, ks) against the number of cells, or choose them where they are None.

    The choice is the thesis's 300 and 500; below 2,000 cells, where 500 would be no neighbourhood
    any more, ks is a quarter of the cells and kt keeps its share of 3/5.

    Raises:
        UserError: ks outside 1..N-1 or a negative kt.

    """
    if ks is None:
        ks = min(THESIS_KS, max(1, n_cells // 4))
    if kt is None:
        kt = ks * THESIS_KT // THESIS_KS
    if not 1 <= ks < n_cells:
        raise UserError(
            f"ks = {ks}: local quality of {n_cells} cells needs 1 <= ks <= {n_cells - 1}"
        )
    if kt < 0:
        raise UserError(f"kt = {kt}: the tolerated difference of ranks must be 0 or more")
    return kt, ks


class LocalQualityCounter:
    """Counts agreeing near pairs by row and by column while blocks of ranks pass by."""

    def __init__(self, n_cells: int, kt: int, ks: int, device: str | torch.device = "cpu"):
        self.kt, self.ks, self.n_cells = kt, ks, n_cells
        self.row_sum = torch.zeros(n_cells, dtype=torch.int64, device=device)
        self.column_sum = torch.zeros(n_cells, dtype=torch.int64, device=device)

    @property
    def reach(self) -> int:
        """Largest projection rank of a pair that can count: the other rank <= ks, and kt more."""
        return min(self.ks + self.kt, self.n_cells - 1)

    def add(
        self, cells: torch.Tensor, neighbours: torch.Tensor, reference_ranks: torch.Tensor
    ) -> None:
        """Count the pairs of some rows.

        Args:
            cells: (B,) index of the row cells.
            neighbours: (B, >= reach) their neighbours in the projection, nearest first, themselves
                left out.
            reference_ranks: same shape, rank (from 1) of each of these neighbours in the reference
                space.

        """
        neighbours = neighbours[:, : self.reach]
        reference_ranks = reference_ranks[:, : self.reach]
        projection_ranks = torch.arange(
            1, self.reach + 1, dtype=reference_ranks.dtype, device=reference_ranks.device
        )
        near = torch.minimum(reference_ranks, projection_ranks) <= self.ks
        counted = near & ((reference_ranks - projection_ranks).abs() <= self.kt)  # (B, reach)
        self.row_sum[cells] += counted.sum(dim=1)
        columns = torch.where(counted, neighbours, self.n_cells).flatten()
        self.column_sum += torch.bincount(columns, minlength=self.n_cells + 1)[:-1]

    def score(self, cells: torch.Tensor) -> LocalQuality:
        """Score the ranked cells; when they are not all cells, from their rows only."""
        from_rows_only = len(cells) < self.n_cells
        columns = self.row_sum if from_rows_only else self.column_sum
        pairs = (self.row_sum + columns)[cells].double() / (2 * self.ks * self.n_cells)
        return LocalQuality(
            score=pairs.cpu().numpy(),
            cells=cells.cpu().numpy(),
            kt=self.kt,
            ks=self.ks,
            n_cells=self.n_cells,
            from_rows_only=from_rows_only,
        )
