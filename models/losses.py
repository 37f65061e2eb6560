"""Objectives: what a training step minimises, as modules over a VAE.

An objective maps `(model, x)` to a dict of terms, each the mean over the batch in nats per image;
`loss` is what is minimised. It owns whatever it trains besides the model and says which parameters
learn at which rate, so that the one training loop of `models/train_net.py` serves every model. The
loop logs whatever terms come back.
"""

import torch.nn.functional as F
from torch import Tensor, nn


def reconstruction_loss(logits: Tensor, x: Tensor) -> Tensor:
    """Bernoulli negative log-likelihood, summed over pixels and channels, mean over the batch.

    Args:
        logits: (B, C, S, S), any real.
        x: (B, C, S, S) in 0..1.

    Returns:
        nats per image, (). For x strictly between 0 and 1 its floor is the entropy of x, above 0.
    """
    return F.binary_cross_entropy_with_logits(logits.to(x.dtype), x, reduction="sum") / len(x)


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)), summed over latent dimensions, mean over the batch.

    Kingma and Welling 2014, appendix B.

    Args:
        mean, logvar: (B, d).

    Returns:
        nats per image, (), at least 0.
    """
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum() / len(mean)


class ELBOObjective(nn.Module):
    """Negative evidence lower bound with weight beta on the KL term (Higgins et al. 2017, eq. 4).

    Args:
        beta: weight of the KL term; 1 is the VAE of Kingma and Welling 2014.
    """

    def __init__(self, beta: float = 1.0):
        super().__init__()
        self.beta = beta

    def forward(self, model: nn.Module, x: Tensor) -> dict[str, Tensor]:
        """Terms `loss`, `reconstruction` and `kl` of a batch x (B, C, S, S) in 0..1."""
        logits, mean, logvar, _ = model(x)
        reconstruction, kl = reconstruction_loss(logits, x), kl_divergence(mean, logvar)
        return {"loss": reconstruction + self.beta * kl, "reconstruction": reconstruction, "kl": kl}

    def parameter_groups(self, model: nn.Module, learning_rate: float) -> list[dict]:
        """Groups for the optimizer; an objective that trains something of its own adds it here."""
        return [{"params": list(model.parameters()), "lr": learning_rate}]
