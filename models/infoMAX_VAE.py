"""The InfoMax VAE: an ELBO that also rewards mutual information between image and code.

Rezaabad and Vishwanath 2019, "Learning representations by maximizing mutual information in
variational autoencoders", arXiv:1912.13361. I(x; z) is intractable; a lower bound with a trained
critic replaces it (util/mutual_information.py).

With a `View` the critic sees another view v of the cell than the encoder: x rotated, flipped or
cropped at random, independently of z. Then z - x - v is a Markov chain, and by the data processing
inequality

    bound <= I(v; z) <= I(x; z).

So the bound on I(v; z) also bounds I(x; z), but rewards only what a view preserves. Orientation,
position and the texture that differs between parts of a cell are not preserved, so the limited
information of a three-dimensional code is not spent on them. This is the idea of contrastive
learning (van den Oord et al. 2018; Chen et al. 2020, SimCLR), with the encoder h(z) of the code and
the encoder g(v) of the view as its two branches, and of Tian et al. 2020 ("What makes for good
views for contrastive learning"): good views share the phenotype and nothing else. Which changes
preserve the phenotype is knowledge about the data. Views never change intensity.

A perceptron on the pixels of v, as in the thesis, has to learn how rotations and crops change the
pixels, and its 13 million weights take most of the time of a step. The encoder knows already: with
w, the code of v, the chain z - x - v - w gives

    bound <= I(w; z) <= I(v; z) <= I(x; z),

so a critic of two codes (`critic_input="code"`) bounds the same information from below, and the
gradient reaches the encoder through both codes, as in SimCLR.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from torch import Tensor, nn

from models.losses import ELBOObjective, Likelihood, reconstruction_loss
from util.augmentation import Target, View
from util.mutual_information import InformationEstimator

CriticInput = Literal["pixels", "code"]


class InfoMaxObjective(ELBOObjective):
    """reconstruction + beta KL - alpha I(x; z), with I bounded from below.

    One backward pass trains both the VAE and the critic. The VAE's parameters get the gradient of
    the whole loss, in which the bound has weight alpha. The critic's parameters get the gradient of
    -I alone, with weight 1 for any alpha: the critic seeks the tightest bound, and learns even with
    alpha 0, so that the logged information is meaningful.

    Args:
        estimator: bounds the information between images and codes; its critic is trained too.
        alpha: weight of the information.
        beta: weight of the KL term.
        critic_learning_rate: Adam's, for the estimator's own group.
        view: makes the critic's view of a cell (module docstring); None for the encoder's image.
        critic_input: input of the estimator, the `pixels` of the view or its `code`.
        target_view, fill, likelihood, free_bits: as in `ELBOObjective`.
    """

    def __init__(
        self,
        estimator: InformationEstimator,
        *,
        alpha: float,
        beta: float,
        critic_learning_rate: float,
        view: View | None = None,
        target_view: Target | None = None,
        fill: Tensor | None = None,
        critic_input: CriticInput = "pixels",
        likelihood: Likelihood = reconstruction_loss,
        free_bits: float = 0.0,
    ):
        super().__init__(
            beta,
            target_view=target_view,
            fill=fill,
            likelihood=likelihood,
            free_bits=free_bits,
        )
        self.estimator = estimator
        self.alpha = alpha
        self.critic_learning_rate = critic_learning_rate
        self.view = view
        self.critic_input = critic_input

    def forward(self, model: nn.Module, x: Tensor) -> dict[str, Tensor]:
        """Terms `loss`, `reconstruction`, `kl`, `mutual_information` of x (B, C, S, S) in 0..1.

        The code z is sampled in training and the posterior mean in evaluation.
        """
        terms, z = self.elbo(model, x)
        seen = x if self.view is None else self.view(x, self.fill)
        if self.critic_input == "code":
            with unchanged_statistics(model):
                seen = model.reparameterize(*model.encode(seen))
            seen = scale_gradient(seen, self.alpha)
        # Backward through z multiplies by alpha; the critic's own gradient stays at weight 1.
        information = self.estimator(seen, scale_gradient(z, self.alpha))
        value_shift = ((1 - self.alpha) * information).detach()
        return {
            **terms,
            "loss": terms["loss"] - information + value_shift,
            "mutual_information": information,
        }

    def parameter_groups(self, model: nn.Module, learning_rate: float) -> list[dict]:
        """The VAE's group and the estimator's."""
        own = {"params": list(self.estimator.parameters()), "lr": self.critic_learning_rate}
        return [*super().parameter_groups(model, learning_rate), own]


@contextmanager
def unchanged_statistics(model: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch norm as they are; batches are normalised as usual.

    The statistics stay those of plain images, which the model embeds after the training.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum


def scale_gradient(z: Tensor, factor: float) -> Tensor:
    """The identity forward; backward multiplies the gradient by `factor`."""
    return z.detach() + factor * (z - z.detach())
