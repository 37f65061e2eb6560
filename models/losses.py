"""Objectives: what a training step minimises, as modules over a VAE.

An objective maps `(model, x)` to a dict of terms, each the mean over the batch in nats per image;
`loss` is what is minimised. It owns whatever it trains besides the model and says which parameters
learn at which rate, so that the one training loop of `models/train_net.py` serves every model. The
loop logs whatever terms come back.
"""

import math
from collections.abc import Callable
from typing import Literal

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
    """Gaussian negative log-likelihood, with the variance of each channel that fits the batch best.

    That variance is the channel's mean squared error (the optimal sigma-VAE of Rybkin, Daniilidis
    and Levine 2021, here per channel), so that a faint channel counts as much as a bright one.

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
    """Gaussian negative log-likelihood, with a variance per channel and cell, from the cell's code.

    The decoder of Kingma and Welling 2014, appendix C.2, with one variance for all pixels of a
    channel. Texture, such as vesicles, is random from pixel to pixel and cannot be reconstructed.
    With one variance for the batch, a code gains little by encoding the amount of texture. Here it
    gains: a smooth and a spotted cell with the same mean image have different variances.

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
    """The likelihood of this name, for images of C channels and codes of d dimensions."""
    if name == "heteroscedastic":
        return HeteroscedasticLoss(channels, latent_dim)
    return {"bernoulli": reconstruction_loss, "gaussian": gaussian_loss}[name]


def kl_divergence(mean: Tensor, logvar: Tensor, free_bits: float = 0.0) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)), summed over latent dimensions, mean over the batch.

    Kingma and Welling 2014, appendix B.

    Args:
        mean, logvar: (B, d).
        free_bits: nats that each dimension may hold at no cost; a dimension that holds fewer
            counts as holding this many (free bits of Kingma et al. 2016, arXiv:1606.04934).

    Returns:
        nats per image, (), at least 0.

    Examples:
        >>> import torch
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

    With a target view the decoder has to reconstruct another view of the cell than the encoder saw,
    drawn anew in each step. It cannot know which view, so the best it can do is the mean of the
    views, and the code gains nothing by encoding orientation: -log p(v | z) bounds I(v; z), not
    I(x; z). If the target is the aligned cell, orientation gains nothing either, and decoded cells
    are sharp.

    Args:
        beta: weight of the KL term; 1 is the VAE of Kingma and Welling 2014.
        target_view: makes the image to be reconstructed, a random view or the aligned cell; None
            for the image itself.
        fill: (C,) padding in 0..1 that appears where a view reaches beyond the image; None for 0.
        likelihood: of the pixels given the code: logits, images, codes -> nats per image; its
            parameters, if any, are trained with the VAE.
        free_bits: nats that each latent dimension may hold at no cost; the log shows the whole KL.
    """

    def __init__(
        self,
        beta: float = 1.0,
        *,
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
        """Groups for the optimizer; an objective adds the parameters that it owns here."""
        learns = isinstance(self.likelihood, nn.Module)
        own = list(self.likelihood.parameters()) if learns else []
        return [{"params": [*model.parameters(), *own], "lr": learning_rate}]
