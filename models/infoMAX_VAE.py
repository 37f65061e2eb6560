"""The InfoMax VAE: an ELBO that also rewards mutual information between image and code.

Rezaabad and Vishwanath 2019, "Learning representations by maximizing mutual information in
variational autoencoders", arXiv:1912.13361. I(x; z) is intractable; a lower bound with a learnt
critic stands in for it (util/mutual_information.py).
"""

from torch import Tensor, nn

from models.losses import ELBOObjective, kl_divergence, reconstruction_loss
from util.mutual_information import InformationEstimator


class InfoMaxObjective(ELBOObjective):
    """reconstruction + beta KL - alpha I(x; z), with I bounded from below.

    One backward pass serves both players. The VAE's parameters get the gradient of the whole loss,
    in which the bound has weight alpha. The critic's parameters get the gradient of -I alone, with
    weight 1 whatever alpha is: the critic wants the tightest bound, and with alpha 0 it still
    learns, so that the logged information means something.

    Args:
        estimator: bounds the information between images and codes; learns along.
        alpha: weight of the information.
        beta: weight of the KL term.
        critic_learning_rate: Adam's, for the estimator's own group.
    """

    def __init__(
        self,
        estimator: InformationEstimator,
        alpha: float,
        beta: float,
        critic_learning_rate: float,
    ):
        super().__init__(beta)
        self.estimator = estimator
        self.alpha = alpha
        self.critic_learning_rate = critic_learning_rate

    def forward(self, model: nn.Module, x: Tensor) -> dict[str, Tensor]:
        """Terms `loss`, `reconstruction`, `kl`, `mutual_information` of x (B, C, S, S) in 0..1.

        The code z is the sampled one while training, the posterior mean in evaluation.
        """
        logits, mean, logvar, z = model(x)
        reconstruction, kl = reconstruction_loss(logits, x), kl_divergence(mean, logvar)
        # Backward through z multiplies by alpha; the critic's own gradient stays at weight 1.
        information = self.estimator(x, scale_gradient(z, self.alpha))
        elbo_loss = reconstruction + self.beta * kl
        value_shift = ((1 - self.alpha) * information).detach()
        return {
            "loss": elbo_loss - information + value_shift,
            "reconstruction": reconstruction,
            "kl": kl,
            "mutual_information": information,
        }

    def parameter_groups(self, model: nn.Module, learning_rate: float) -> list[dict]:
        """The VAE's group and the estimator's."""
        own = {"params": list(self.estimator.parameters()), "lr": self.critic_learning_rate}
        return [*super().parameter_groups(model, learning_rate), own]


def scale_gradient(z: Tensor, factor: float) -> Tensor:
    """The identity forward; backward multiplies the gradient by `factor`."""
    return z.detach() + factor * (z - z.detach())
