"""Guidance: an expert's feedback as terms that are added to any objective.

An anchor says where a cell belongs, a pair which cells belong together or apart, an axis hint which
column a latent axis should follow. Each term is a mean over a random draw of the cells concerned.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def anchor_loss(mean: Tensor, anchors: Tensor, weights: Tensor) -> Tensor:
    """Weighted squared distance of each code to its anchor, delta_i |mean_i - anchor_i|^2.

    Args:
        mean, anchors: (B, d).
        weights: (B,), nats per squared latent unit.

    Returns:
        (B,) nats.
    """
    return weights * (mean - anchors).square().sum(1)


def pair_loss(
    first: Tensor, second: Tensor, together: Tensor, weights: Tensor, margin: float
) -> Tensor:
    """Contrastive loss of pairs (Hadsell, Chopra and LeCun 2006, eq. 4, without its halves).

    w D^2 for a pair that belongs together, w max(0, margin - D)^2 for one that belongs apart, with
    D the distance of their codes.

    Args:
        first, second: (B, d) codes.
        together: (B,) bool.
        weights: (B,), nats per squared latent unit.
        margin: distance beyond which a pair is apart, in latent units.

    Returns:
        (B,) nats.

    Examples:
        >>> first, second = torch.zeros(2, 1), torch.tensor([[3.0], [0.5]])
        >>> pair_loss(first, second, torch.tensor([True, False]), torch.ones(2), 2.0).tolist()
        [9.0, 2.25]
    """
    squared = (first - second).square().sum(1)
    distance = squared.clamp_min(1e-12).sqrt()  # the root has no gradient at 0
    return weights * torch.where(together, squared, (margin - distance).clamp_min(0).square())


def rank_loss(values: Tensor, ranks: Tensor) -> Tensor:
    """How far values are from the order of ranks: RankNet's loss (Burges et al. 2005, eq. 3).

    The mean of log(1 + exp(-(v_i - v_j))) over all pairs with rank_i > rank_j; pairs of equal rank
    say nothing. Only the order of the ranks matters.

    Args:
        values: (B,), in latent units.
        ranks: (B,), any numbers.

    Returns:
        nats, (): log 2 for constant values, near 0 in the right order; 0 without any pair.
    """
    higher = ranks[:, None] > ranks
    losses = F.softplus(values - values[:, None])  # (B, B), row minus column is rewarded
    return (losses * higher).sum() / higher.sum().clamp_min(1)


class GuidanceTerm(nn.Module):
    """Feedback on n rows (cells or pairs); every training step draws some of them.

    Each group has the same probability, whatever its number of rows, and so has each row within its
    group. A subclass defines the loss of a row.

    Args:
        cells: (n,) or (n, m) cells of each row, as indices into the data set.
        groups: (n,) integers; None puts all rows into one.
    """

    name: str  # in the log

    def __init__(self, cells: Tensor, groups: Tensor | None = None):
        super().__init__()
        self.cells = cells.reshape(len(cells), -1)  # (n, m), on the CPU, where batches are indexed
        if groups is None:
            groups = torch.zeros(len(cells), dtype=torch.long)
        _, group, counts = groups.unique(return_inverse=True, return_counts=True)
        self.chance = 1.0 / (len(counts) * counts[group].double())  # (n,), adds up to 1

    def draw(self, n_cells: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Rows (k,) of about `n_cells` cells, and the weight (k,) of each in the term.

        All rows with their exact weights, if there are no more than that.
        """
        size = max(n_cells // self.cells.shape[1], 1)
        if len(self.chance) <= size:
            return torch.arange(len(self.chance)), self.chance.float()
        rows = torch.multinomial(self.chance, size, replacement=True, generator=generator)
        return rows, torch.full((size,), 1.0 / size)

    def forward(self, means: Tensor, rows: Tensor, share: Tensor) -> Tensor:
        """The term, (), from the codes (k m, d) of the cells of the rows drawn."""
        raise NotImplementedError


class AnchorTerm(GuidanceTerm):
    """Cells that belong at given places: `anchor_loss`.

    Args:
        cells: (n,).
        anchors: (n, d).
        weights: (n,).
        groups: (n,) integers.
    """

    name = "anchors"

    def __init__(self, cells: Tensor, anchors: Tensor, weights: Tensor, groups: Tensor):
        super().__init__(cells, groups)
        self.anchors, self.weights = anchors.float(), weights.float()

    def forward(self, means: Tensor, rows: Tensor, share: Tensor) -> Tensor:
        """Mean of the anchor losses, ()."""
        anchors, weights = (part[rows].to(means) for part in (self.anchors, self.weights))
        return (share.to(means) * anchor_loss(means, anchors, weights)).sum()


class PairTerm(GuidanceTerm):
    """Pairs of cells that belong together or apart: `pair_loss`.

    Args:
        cells: (n, 2).
        together: (n,) bool; both kinds have the same weight.
        weights: (n,).
        margin: in latent units.
    """

    name = "pairs"

    def __init__(self, cells: Tensor, together: Tensor, weights: Tensor, margin: float):
        super().__init__(cells, together.long())
        self.together, self.weights, self.margin = together, weights.float(), margin

    def forward(self, means: Tensor, rows: Tensor, share: Tensor) -> Tensor:
        """Mean of the pair losses, ()."""
        first, second = means.unflatten(0, (-1, 2)).unbind(1)  # (k, d) each
        together, weights = self.together[rows].to(means.device), self.weights[rows].to(means)
        losses = pair_loss(first, second, together, weights, margin=self.margin)
        return (share.to(means) * losses).sum()  # autocast would take a product to bfloat16


class AxisTerm(GuidanceTerm):
    """A latent axis that should follow a column: `rank_loss`.

    Args:
        cells: (n,) the cells with a value.
        values: (n,) of the column; only their order counts.
        axis: index of the axis, from 0.
        weight: factor of the rank loss.
        direction: 1 if the axis is to rise with the column, -1 if it is to fall.
        label: name in the log.
    """

    def __init__(
        self, cells: Tensor, values: Tensor, *, axis: int, weight: float, direction: int, label: str
    ):
        super().__init__(cells)
        self.ranks = values.unique(return_inverse=True)[1]
        self.axis, self.weight, self.direction, self.name = axis, weight, direction, label

    def forward(self, means: Tensor, rows: Tensor, share: Tensor) -> Tensor:
        """The rank loss among the cells drawn, ()."""
        values = self.direction * means[:, self.axis]
        return self.weight * rank_loss(values, self.ranks[rows].to(means.device))


class AnchoredObjective(nn.Module):
    """Any objective with an expert's feedback added to its loss.

    loss = base loss + the mean of delta_i |mean_i - anchor_i|^2 over the anchored cells, all groups
    of cells weighted alike, and likewise for pairs and axes; in nats.

    The thesis added the *sum* over a batch of 256 of delta_i |mean_i - anchor_i|^2 to a loss that
    is a mean over the batch, so its delta of 0.005 is 0.005 x 256 = 1.28 per cell, and would mean
    something else in batches of another size. Here delta is that weight per cell: if every cell is
    anchored, 1.28 gives the thesis's loss in batches of any size. If few cells are anchored, the
    thesis met them as rarely as they are in the data (twenty cells of 2,000 in one batch out of
    several); here every batch includes a draw of them. They pass through the encoder together with
    the batch, so that batch norm sees the usual mixture, and are left out of the base objective,
    which keeps learning from the data as they are.

    Args:
        base: the objective without feedback.
        terms: the feedback.
        look_up: cells (k,), as indices into the data set, and whether to augment them -> images
            (k, C, S, S) on the device.
        cells_per_step: cells that a step draws, divided among the terms.
        anchor_warmup: factor of the feedback during the warm-up. The reconstruction loss holds a
            trained code in place: it grows by 1 / (2 posterior variance) nats per squared unit.
            Weaker feedback moves nothing; once the code is rearranged, less keeps it there.
        warmup_steps: training steps of the warm-up.
    """

    def __init__(
        self,
        base: nn.Module,
        terms: Sequence[GuidanceTerm],
        look_up: Callable[[Tensor, bool], Tensor],
        *,
        cells_per_step: int = 64,
        anchor_warmup: float = 1.0,
        warmup_steps: int = 0,
    ):
        super().__init__()
        self.base, self.terms = base, nn.ModuleList(terms)
        self.look_up, self.cells_per_step = look_up, cells_per_step
        self.anchor_warmup, self.warmup_steps, self.steps = anchor_warmup, warmup_steps, 0

    def forward(self, model: nn.Module, x: Tensor) -> dict[str, Tensor]:
        """Terms of the base objective on x (B, C, S, S), and one of each kind of feedback.

        In training the draw is random; in evaluation it is always the same, without augmentation.
        The terms are logged without the warm-up factor.
        """
        self.steps += self.training
        factor = self.anchor_warmup if self.training and self.steps <= self.warmup_steps else 1.0
        generator = None if self.training else torch.Generator().manual_seed(0)
        n_cells = self.cells_per_step // len(self.terms)
        draws = [term.draw(n_cells, generator) for term in self.terms]
        cells = [
            term.cells[rows].flatten() for term, (rows, _) in zip(self.terms, draws, strict=True)
        ]
        guided = _GuidedModel(model, self.look_up(torch.cat(cells), self.training))
        found = self.base(guided, x)
        means = guided.means.split([len(part) for part in cells])
        for term, drawn, mean in zip(self.terms, draws, means, strict=True):
            found[term.name] = term(mean, *drawn)
            found["loss"] = found["loss"] + factor * found[term.name]
        return found

    def parameter_groups(self, model: nn.Module, learning_rate: float) -> list[dict]:
        """Those of the base objective; feedback has no parameters."""
        return self.base.parameter_groups(model, learning_rate)


class _GuidedModel:
    """The model as the base objective calls it; guided cells share its pass through the encoder."""

    def __init__(self, model: nn.Module, images: Tensor):
        self.model, self.images = model, images
        self.means: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)  # views of the cells are encoded by the model alone

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What `model(x)` returns; the codes of the guided cells are kept in `means`."""
        mean, logvar = self.model.encode(torch.cat([x, self.images]))
        mean, self.means = mean.tensor_split([len(x)])
        logvar = logvar[: len(x)]
        z = self.model.reparameterize(mean, logvar)
        return self.model.decode(z), mean, logvar, z
