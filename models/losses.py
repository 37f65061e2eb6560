"""Objectives: what a training step minimises, as modules over a VAE.

An objective maps `(model, x)` to a dict of terms, each the mean over the batch in nats per image;
`loss` is what is minimised. It owns whatever it trains besides the model and says which parameters
learn at which rate, so that the one training loop of `models/train_net.py` serves every model. The
loop logs whatever terms come back.

`AnchoredObjective` adds an expert's feedback to any of them: anchors, pairs, axes that follow a
column. Each is a term over a draw of the cells that the feedback is about.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from util.augmentation import Target
from util.devices import in_float32
from util.mutual_information import perceptron

LikelihoodName = Literal["bernoulli", "gaussian", "heteroscedastic"]
Likelihood = Callable[[Tensor, Tensor, Tensor], Tensor]
LEAST_VARIANCE = 1e-6  # of a decoded pixel in 0..1, so that an empty channel has a likelihood


def reconstruction_loss(logits: Tensor, x: Tensor, z: Tensor | None = None) -> Tensor:
    """Bernoulli negative log-likelihood, summed over pixels and channels, mean over the batch.

    Args:
        logits: (B, C, S, S), any real.
        x: (B, C, S, S) in 0..1.
        z: not used; every likelihood takes it.

    Returns:
        nats per image, (). For x strictly between 0 and 1 its floor is the entropy of x, above 0.
    """
    return F.binary_cross_entropy_with_logits(logits.to(x.dtype), x, reduction="sum") / len(x)


def gaussian_loss(logits: Tensor, x: Tensor, z: Tensor | None = None) -> Tensor:
    """Gaussian negative log-likelihood with the variance of each channel that fits the batch best.

    That variance is the channel's mean squared error (the optimal sigma-VAE of Rybkin, Daniilidis
    and Levine 2021, here per channel), so that no channel counts less for being faint.

    Args:
        logits: (B, C, S, S); the mean of a pixel is their sigmoid.
        x: (B, C, S, S) in 0..1.
        z: not used; every likelihood takes it.

    Returns:
        nats per image, (), of a density: below 0 where the error is small.
    """
    error = (logits.to(x.dtype).sigmoid() - x).square().mean((0, 2, 3))  # (C,)
    nats = 0.5 * (1 + math.log(2 * math.pi) + error.clamp_min(LEAST_VARIANCE).log())
    return nats.sum() * x[0, 0].numel()


class HeteroscedasticLoss(nn.Module):
    """Gaussian negative log-likelihood with a variance per channel of each cell, told by its code.

    The decoder of Kingma and Welling 2014, appendix C.2, with one variance for all pixels of a
    channel. Texture, such as vesicles, differs from pixel to pixel by chance and cannot be decoded,
    and where the variance is that of the batch a code gains little by telling how much of it there
    is. Here it gains: of two cells whose mean images are alike, one smooth and one spotted, each
    has its own variance.

    Args:
        channels: C.
        latent_dim: d.
    """

    FIRST_LOGVAR = -4.0  # before anything is learnt: a standard deviation of 0.14

    def __init__(self, channels: int, latent_dim: int):
        super().__init__()
        self.logvar = perceptron(latent_dim, 64, 64, channels)
        nn.init.zeros_(self.logvar[-1].weight)
        nn.init.constant_(self.logvar[-1].bias, self.FIRST_LOGVAR)

    def forward(self, logits: Tensor, x: Tensor, z: Tensor) -> Tensor:
        """Logits and images x (B, C, S, S) in 0..1, codes z (B, d) -> nats per image, ()."""
        logvar = in_float32(self.logvar, z).clamp(math.log(LEAST_VARIANCE), 0.0)  # (B, C)
        error = (logits.to(x.dtype).sigmoid() - x).square().mean((2, 3))  # (B, C)
        nats = 0.5 * (math.log(2 * math.pi) + logvar + error * (-logvar).exp())
        return nats.sum() / len(x) * x[0, 0].numel()


def build_likelihood(name: LikelihoodName, channels: int, latent_dim: int) -> Likelihood:
    """The loss of a reconstruction by name, for images of so many channels and codes (B, d)."""
    if name == "heteroscedastic":
        return HeteroscedasticLoss(channels, latent_dim)
    return {"bernoulli": reconstruction_loss, "gaussian": gaussian_loss}[name]


def kl_divergence(mean: Tensor, logvar: Tensor, free_bits: float = 0.0) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)), summed over latent dimensions, mean over the batch.

    Kingma and Welling 2014, appendix B.

    Args:
        mean, logvar: (B, d).
        free_bits: nats that each dimension may hold at no cost; one that holds fewer counts as
            holding so many (the free bits of Kingma et al. 2016, arXiv:1606.04934).

    Returns:
        nats per image, (), at least 0.

    Examples:
        >>> mean, logvar = torch.tensor([[2.0, 0.0]]), torch.zeros(1, 2)
        >>> kl_divergence(mean, logvar).item()
        2.0
        >>> kl_divergence(mean, logvar, free_bits=0.5).item()
        2.5
    """
    of_dimensions = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(0) / len(mean)
    return of_dimensions.clamp_min(free_bits).sum()


class ELBOObjective(nn.Module):
    """Negative evidence lower bound with weight beta on the KL term (Higgins et al. 2017, eq. 4).

    With a target view the decoder has to make another view of the cell than the encoder saw, a
    new one each time. It cannot know which, so the best it can do is the mean of the views, and the
    code gains nothing by holding orientation: -log p(v | z) bounds I(v; z), not I(x; z). Asked for
    the cell aligned, it gains nothing by it either, and the decoded cell is sharp.

    Args:
        beta: weight of the KL term; 1 is the VAE of Kingma and Welling 2014.
        target_view: makes what is to be reconstructed, a view drawn anew or the cell aligned; None
            for the image itself.
        fill: (C,) padding in 0..1 that turns in from outside; None for 0.
        likelihood: of the pixels given the code: logits, images, codes -> nats per image; what it
            has to learn, it learns with the VAE.
        free_bits: nats of each latent dimension that cost nothing; logged they are all the same.
    """

    def __init__(
        self,
        beta: float = 1.0,
        target_view: Target | None = None,
        fill: Tensor | None = None,
        likelihood: Likelihood = reconstruction_loss,
        free_bits: float = 0.0,
    ):
        super().__init__()
        self.beta = beta
        self.target_view = target_view
        self.likelihood = likelihood
        self.free_bits = free_bits
        self.register_buffer("fill", fill, persistent=False)

    def forward(self, model: nn.Module, x: Tensor) -> dict[str, Tensor]:
        """Terms `loss`, `reconstruction` and `kl` of a batch x (B, C, S, S) in 0..1."""
        return self.elbo(model, x)[0]

    def elbo(self, model: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The terms of `forward`, and the codes (B, d) that they were computed with."""
        logits, mean, logvar, z = model(x)
        target = x if self.target_view is None else self.target_view(x, self.fill)
        reconstruction = self.likelihood(logits, target, z)
        kl = kl_divergence(mean, logvar)
        charged = kl_divergence(mean, logvar, self.free_bits) if self.free_bits else kl
        loss = reconstruction + self.beta * charged
        return {"loss": loss, "reconstruction": reconstruction, "kl": kl}, z

    def parameter_groups(self, model: nn.Module, learning_rate: float) -> list[dict]:
        """Groups for the optimizer; an objective that trains something of its own adds it here."""
        learns = isinstance(self.likelihood, nn.Module)
        own = list(self.likelihood.parameters()) if learns else []
        return [{"params": [*model.parameters(), *own], "lr": learning_rate}]


# ----------------------------------------------------------------------------------------- guidance


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
        nats, (): log 2 for constant values, towards 0 in the right order; 0 without any pair.
    """
    higher = ranks[:, None] > ranks
    losses = F.softplus(values - values[:, None])  # (B, B), row minus column is rewarded
    return (losses * higher).sum() / higher.sum().clamp_min(1)


class GuidanceTerm(nn.Module):
    """Feedback on n rows (cells or pairs), of which every step draws some.

    Each group has the same chance, however many rows it has, and so has each row within its group.
    A subclass says what a row costs.

    Args:
        cells: (n,) or (n, m) cells of each row, as their place in the data set.
        groups: (n,) integers; None puts all rows into one.
    """

    name: str  # what the log calls it

    def __init__(self, cells: Tensor, groups: Tensor | None = None):
        super().__init__()
        self.cells = cells.reshape(len(cells), -1)  # (n, m), on the CPU, where batches are indexed
        if groups is None:
            groups = torch.zeros(len(cells), dtype=torch.long)
        _, group, counts = groups.unique(return_inverse=True, return_counts=True)
        self.chance = 1.0 / (len(counts) * counts[group].double())  # (n,), adds up to 1

    def draw(self, n_cells: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Rows (k,) of about `n_cells` cells, and the share (k,) that each has in the term.

        All rows where they are no more than that, with their exact shares.
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
    """These cells belong there: `anchor_loss`.

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
    """These cells belong together, those apart: `pair_loss`.

    Args:
        cells: (n, 2).
        together: (n,) bool; both kinds have the same say.
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
        losses = pair_loss(first, second, together, weights, self.margin)
        return (share.to(means) * losses).sum()  # autocast would take a product to bfloat16


class AxisTerm(GuidanceTerm):
    """One axis follows a column: `rank_loss`.

    Args:
        cells: (n,) those with a value.
        values: (n,) of the column; only their order counts.
        axis: from 0.
        weight: nats per nat of rank loss.
        direction: 1 if the axis is to rise with the column, -1 if it is to fall.
        label: what the log calls it.
    """

    def __init__(
        self, cells: Tensor, values: Tensor, axis: int, weight: float, direction: int, label: str
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

    loss = base loss + the mean of delta_i |mean_i - anchor_i|^2 over the anchored cells, each group
    of them with the same say, and likewise for pairs and axes; in nats.

    The thesis added the *sum* over a batch of 256 of delta_i |mean_i - anchor_i|^2 to a loss that
    is a mean over the batch, so its delta of 0.005 is 0.005 x 256 = 1.28 per cell, and would mean
    something else in batches of another size. Here delta is that weight per cell: where every cell
    is anchored, 1.28 gives the thesis's loss in batches of any size. And where few are, the thesis
    met them as rarely as they are in the data, twenty cells of 2,000 in one batch out of several,
    and weighed them by it; here every batch meets a draw of them. They pass the encoder in one
    batch with the others, so that batch norm sees the usual mixture, and are left out of the base
    objective, which goes on learning from the data as it is.

    Args:
        base: the objective without feedback.
        terms: the feedback.
        look_up: cells (k,), as their place in the data set, and whether to augment them -> images
            (k, C, S, S) on the device.
        cells_per_step: how many cells a step draws, shared out among the terms.
        firmness: factor of the feedback in the first training steps. A trained code is held where
            it is by the reconstruction, which grows by 1 / (2 posterior variance) nats per squared
            unit; feedback that is weaker moves nothing, and once the code is rearranged, less will
            keep it there.
        firm_steps: how many steps those are.
    """

    def __init__(
        self,
        base: nn.Module,
        terms: Sequence[GuidanceTerm],
        look_up: Callable[[Tensor, bool], Tensor],
        cells_per_step: int = 64,
        firmness: float = 1.0,
        firm_steps: int = 0,
    ):
        super().__init__()
        self.base, self.terms = base, nn.ModuleList(terms)
        self.look_up, self.cells_per_step = look_up, cells_per_step
        self.firmness, self.firm_steps, self.steps = firmness, firm_steps, 0

    def forward(self, model: nn.Module, x: Tensor) -> dict[str, Tensor]:
        """Terms of the base objective on x (B, C, S, S), and one of each kind of feedback.

        While training the draw is random; in evaluation it is always the same, of cells as they
        are. The terms are logged without the firmness.
        """
        self.steps += self.training
        factor = self.firmness if self.training and self.steps <= self.firm_steps else 1.0
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
        """Those of the base objective; feedback has nothing to learn."""
        return self.base.parameter_groups(model, learning_rate)


class _GuidedModel:
    """The model as a base objective calls it; guided cells share the pass through the encoder."""

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
