"""Lower bounds on mutual information, and the networks that make them tight.

Poole et al. 2019, "On variational bounds of mutual information", ICML (arXiv:1905.06922). Each
bound is a function of a (B, B) score matrix: `scores[i, j]` is f(x_j, z_i), so row i holds one code
against all images of the batch, and the diagonal the true pairs. Off the diagonal, code and image
are independent. Matrices of several critics, (K, B, B), give a bound each. Everything is in nats.

| bound | largest value | bias | variance | best critic f(x, z) |
| --- | --- | --- | --- | --- |
| InfoNCE | log B | large once I passes log B | small | log p(z given x) + any c(z) |
| NWJ | none | none | grows as exp(I) | 1 + log p(z given x) / p(z) |
| interpolated | log(B / alpha) | between | between | log p(z given x) / p(z), with baseline 1 |

The interpolated bound weighs by alpha: at alpha 1 it is InfoNCE, towards alpha 0 it turns into
NWJ's family. The guideline of the thesis: learn with InfoNCE, whose variance is small, and
estimate with a small alpha, whose bias is small.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from util.devices import in_float32

Bound = Literal["infonce", "nwj", "interpolated"]
BOUNDS: tuple[Bound, ...] = ("infonce", "nwj", "interpolated")
Reduction = Literal["mean", "none"]


def info_nce(scores: Tensor, reduction: Reduction = "mean") -> Tensor:
    """InfoNCE, mean_i [f_ii - log mean_j exp f_ij] (van den Oord 2018; Poole 2019, eq. 12).

    Args:
        scores: (..., B, B).
        reduction: `mean`, or `none` for one term per code, whose mean is the bound.

    Returns:
        a lower bound on I(x; z), (...); never above log B. Its terms, (..., B), for `none`.
    """
    # PyTorch's logsumexp is ten times slower where scores lie so far apart that exp underflows.
    terms = _joint(scores.log_softmax(dim=-1)) + math.log(scores.shape[-1])
    return _reduce(terms, reduction)


def nwj(scores: Tensor, reduction: Reduction = "mean") -> Tensor:
    """NWJ, E_joint[f] - E_independent[exp(f - 1)] (Nguyen 2010; Poole 2019, section 2.2).

    Args:
        scores: (..., B, B), B at least 2.
        reduction: as in `info_nce`.

    Returns:
        a lower bound on I(x; z), (...); without bias at the best critic, with a variance that grows
        as exp(I). Its terms, (..., B), for `none`.
    """
    independent = _off_diagonal(scores - 1).exp().mean(-1)  # (..., B)
    return _reduce(_joint(scores) - independent, reduction)


def interpolated(
    scores: Tensor, log_baseline: Tensor, alpha: float, reduction: Reduction = "mean"
) -> Tensor:
    """The bound I_alpha between InfoNCE and NWJ, with a learnt baseline (Poole 2019, section 2.4).

    With m(z) the mean of exp f over the images of the batch and q(z) the baseline,

        I >= 1 + E_joint[f - log(alpha m + (1 - alpha) q)]
               - E_independent[exp(f) / (alpha m + (1 - alpha) q)].

    In the first expectation m includes the true image; in the second only images independent of the
    code, as the derivation asks for.

    Args:
        scores: (..., B, B), B at least 2.
        log_baseline: (..., B) log q(z_i).
        alpha: weight of InfoNCE, above 0 up to 1: 1 is InfoNCE (little variance, at most log B),
            small values have little bias and more variance.
        reduction: as in `info_nce`.

    Returns:
        a lower bound on I(x; z), (...); never above log(B / alpha). Its terms, (..., B), for
        `none`.
    """
    others = _off_diagonal(scores)  # (..., B, B - 1)
    joint = _joint(scores) - _mix(_log_mean_exp(scores), log_baseline, alpha)
    independent = (others - _mix(_log_mean_exp(others), log_baseline, alpha)[..., None]).exp()
    return _reduce(1 + joint - independent.mean(-1), reduction)


def _reduce(terms: Tensor, reduction: Reduction) -> Tensor:
    return terms.mean(-1) if reduction == "mean" else terms


def _joint(scores: Tensor) -> Tensor:
    """(..., B, B) -> (..., B): scores of the true pairs."""
    return scores.diagonal(dim1=-2, dim2=-1)


def _mix(log_m: Tensor, log_q: Tensor, alpha: float) -> Tensor:
    """log(alpha m + (1 - alpha) q)."""
    if alpha == 1:
        return log_m
    return torch.logaddexp(math.log(alpha) + log_m, math.log1p(-alpha) + log_q)


def _log_mean_exp(scores: Tensor) -> Tensor:
    return scores.logsumexp(dim=-1) - math.log(scores.shape[-1])


def _off_diagonal(scores: Tensor) -> Tensor:
    """(..., B, B) -> (..., B, B - 1): each row without its diagonal entry."""
    size = scores.shape[-1]
    # Behind the first entry, a diagonal entry ends every run of size + 1.
    runs = scores.flatten(-2)[..., 1:].unflatten(-1, (size - 1, size + 1))
    return runs[..., :-1].flatten(-2).unflatten(-1, (size, size - 1))


def perceptron(*widths: int) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them."""
    layers: list[nn.Module] = []
    for wide, narrow in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class SeparableCritic(nn.Module):
    """f(x, z) = h(z) . g(x): two perceptrons, so that a batch costs 2 B evaluations, not B^2.

    | part | layers |
    | --- | --- |
    | g | pixels-1024-512-32 up to 64 x 64, pixels-256-512-32 for larger images (as in the thesis) |
    | g of vectors | D-256-256-32 |
    | h | latent-256-256-32 |

    Args:
        image_shape: (C, H, W), or (D,) for vectors.
        latent_dim: d.
        hidden: units of the layers that are of 256 above, those of h and of g of vectors.
    """

    def __init__(self, image_shape: tuple[int, ...], latent_dim: int, hidden: int = 256):
        super().__init__()
        if len(image_shape) == 1:
            widths = (hidden, hidden)
        else:
            widths = (1024 if max(image_shape[1:]) <= 64 else 256, 512)
        self.g = perceptron(math.prod(image_shape), *widths, 32)
        self.h = perceptron(latent_dim, hidden, hidden, 32)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x (B, C, H, W) or (B, D), z (B, d) -> scores (B, B), row i for code i."""
        # Codes, and scores, of which the bound takes the exponential, keep all their digits.
        g = self.g(torch.flatten(x, 1)) if x.ndim > 2 else in_float32(self.g, x)
        return in_float32(torch.matmul, in_float32(self.h, z), g.T)


class InformationEstimator(nn.Module):
    """A bound with the networks it needs: a critic, and for the interpolated bound a baseline.

    Args:
        image_shape: (C, H, W), or (D,) for vectors.
        latent_dim: d.
        bound: `infonce`, `nwj` or `interpolated`.
        alpha: of the interpolated bound; sigmoid(-4.6) = 0.01 in the thesis's figures.
        hidden: as in `SeparableCritic`, and of the baseline.
    """

    def __init__(
        self,
        image_shape: tuple[int, ...],
        latent_dim: int,
        bound: Bound = "infonce",
        alpha: float = 0.01,
        hidden: int = 256,
    ):
        super().__init__()
        self.bound, self.alpha = bound, alpha
        self.critic = SeparableCritic(image_shape, latent_dim, hidden)
        self.baseline = (
            perceptron(latent_dim, hidden, hidden, 1) if bound == "interpolated" else None
        )

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Images (B, C, H, W) and their codes (B, d) -> the bound in nats, ()."""
        return self.from_scores(self.critic(x, z), z)

    def from_scores(self, scores: Tensor, z: Tensor, reduction: Reduction = "mean") -> Tensor:
        """Scores (B, B) of codes (B, d) -> the bound in nats, (), or its terms, (B,)."""
        log_baseline = None if self.baseline is None else in_float32(self.baseline, z)[:, 0]
        return _bound(
            name=self.bound,
            alpha=self.alpha,
            scores=scores,
            log_baseline=log_baseline,
            reduction=reduction,
        )


class EstimatorStack(nn.Module):
    """K estimators of the same shape in one batch: each layer is one product for all of them.

    Args:
        estimators: where to start from; they keep weights of their own.
    """

    def __init__(self, estimators: Sequence[InformationEstimator]):
        super().__init__()
        self.bound, self.alpha = estimators[0].bound, estimators[0].alpha
        self.g = _stacked([estimator.critic.g for estimator in estimators])
        self.h = _stacked([estimator.critic.h for estimator in estimators])
        has_baseline = estimators[0].baseline is not None
        self.baseline = _stacked([e.baseline for e in estimators]) if has_baseline else None

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Flat images (K, B, D) and their codes (K, B, d) -> the bounds in nats, (K,)."""
        scores = torch.bmm(_through(self.h, z), _through(self.g, x).transpose(1, 2))  # (K, B, B)
        log_baseline = None if self.baseline is None else _through(self.baseline, z)[..., 0]
        return _bound(self.bound, self.alpha, scores, log_baseline)

    @torch.no_grad()
    def write(self, number: int, estimator: InformationEstimator) -> None:
        """Copy the weights of one estimator into a module of its own."""
        pairs = [(self.g, estimator.critic.g), (self.h, estimator.critic.h)]
        pairs += [(self.baseline, estimator.baseline)] if self.baseline is not None else []
        for layers, single_one in pairs:
            for stacked, single in zip(layers, single_one.parameters(), strict=True):
                single.copy_(stacked[number].T if single.ndim == 2 else stacked[number, 0])


def _stacked(perceptrons: Sequence[nn.Sequential]) -> nn.ParameterList:
    """Weights (K, in, out) and biases (K, 1, out) of each layer in turn."""
    same = zip(*(each.parameters() for each in perceptrons), strict=True)
    return nn.ParameterList(
        torch.stack([p.detach().T if p.ndim == 2 else p.detach()[None] for p in layer])
        for layer in same
    )


def _through(layers: nn.ParameterList, values: Tensor) -> Tensor:
    """(K, B, in) -> (K, B, out): each slice through the perceptron of its number."""
    for i in range(0, len(layers), 2):
        values = torch.baddbmm(layers[i + 1], values, layers[i])
        if i + 2 < len(layers):
            values = values.relu_()
    return values


def _bound(
    name: Bound,
    alpha: float,
    scores: Tensor,
    log_baseline: Tensor | None,
    reduction: Reduction = "mean",
) -> Tensor:
    """The bound of that name from scores (..., B, B), or its terms."""
    if name == "infonce" or scores.shape[-1] == 1:  # of a single pair every bound is 0
        return info_nce(scores, reduction)
    if name == "nwj":
        return nwj(scores, reduction)
    return interpolated(scores, log_baseline, alpha, reduction)
