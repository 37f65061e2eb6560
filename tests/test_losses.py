"""The ELBO and its likelihoods against closed forms and torch.distributions."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal
from torch.distributions import kl_divergence as exact_kl

from models.losses import (
    ELBOObjective,
    build_likelihood,
    gaussian_loss,
    kl_divergence,
    reconstruction_loss,
)
from models.networks import build_vae
from util.augmentation import View


def test_terms_agree_with_torch_distributions():
    torch.manual_seed(0)
    logits, x = torch.randn(5, 2, 8, 8), torch.rand(5, 2, 8, 8).round()
    expected = -Bernoulli(logits=logits).log_prob(x).sum((1, 2, 3)).mean()
    torch.testing.assert_close(reconstruction_loss(logits, x), expected)
    mean, logvar = torch.randn(5, 3), torch.randn(5, 3)
    expected = exact_kl(Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(kl_divergence(mean, logvar), expected)


def test_gaussian_likelihood_takes_the_variance_that_fits_each_channel_best():
    torch.manual_seed(0)
    x = torch.rand(6, 2, 8, 8) * torch.tensor([1.0, 0.05]).view(1, 2, 1, 1)  # one channel is faint
    logits = torch.randn(6, 2, 8, 8)
    mean = logits.sigmoid()
    sigma = (mean - x).square().mean((0, 2, 3)).sqrt().view(1, 2, 1, 1)
    expected = -Normal(mean, sigma).log_prob(x).sum((1, 2, 3)).mean()
    torch.testing.assert_close(gaussian_loss(logits, x), expected)
    for other in (0.9, 1.1):
        assert -Normal(mean, other * sigma).log_prob(x).sum((1, 2, 3)).mean() > expected
    assert torch.isfinite(gaussian_loss(torch.full_like(x, -200.0), torch.zeros_like(x)))


def test_heteroscedastic_likelihood_agrees_with_torch_distributions():
    torch.manual_seed(0)
    x, logits, z = torch.rand(6, 2, 8, 8), torch.randn(6, 2, 8, 8), torch.randn(6, 3)
    likelihood = build_likelihood("heteroscedastic", channels=2, latent_dim=3)
    torch.nn.init.normal_(likelihood.logvar[-1].weight, std=0.5)
    sigma = (0.5 * likelihood.logvar(z)).exp()[:, :, None, None]
    assert sigma.std() > 0.01
    expected = -Normal(logits.sigmoid(), sigma).log_prob(x).sum((1, 2, 3)).mean()
    torch.testing.assert_close(likelihood(logits, x, z), expected)
    exact = likelihood(torch.full_like(x, -200.0), torch.zeros_like(x), 1e4 * z)
    assert torch.isfinite(exact)


def test_heteroscedastic_likelihood_learns_with_the_vae_which_cells_are_noisy():
    """Cells of one mean image, smooth or spotted: only the variance can tell them apart."""
    torch.manual_seed(0)
    objective = ELBOObjective(likelihood=build_likelihood("heteroscedastic", 1, 1))
    model = build_vae(base=2, image_size=32, channels=1, latent_dim=1)
    own = set(objective.likelihood.parameters())
    assert own < set(objective.parameter_groups(model, 1e-3)[0]["params"])
    z = torch.tensor([[-1.0], [1.0]]).repeat(32, 1)
    sigma = torch.tensor([0.05, 0.2]).repeat(32)
    x = 0.5 + sigma[:, None, None, None] * torch.randn(64, 1, 16, 16)
    adam = torch.optim.Adam(objective.likelihood.parameters(), lr=1e-2)
    for _ in range(200):
        adam.zero_grad()
        objective.likelihood(torch.zeros_like(x), x, z).backward()
        adam.step()
    learnt = (0.5 * objective.likelihood.logvar(z[:2])).exp().flatten()
    torch.testing.assert_close(learnt, sigma[:2], rtol=0.03, atol=0)


def test_before_anything_is_learnt_the_standard_deviation_is_that_of_minus_two_nats():
    loss = build_likelihood("heteroscedastic", 2, 3)
    found = loss.logvar(100 * torch.randn(5, 3))
    torch.testing.assert_close((0.5 * found).exp(), torch.full((5, 2), math.exp(-2)))


def test_free_bits_cost_nothing_and_are_logged():
    mean = torch.tensor([[0.1, 3.0], [-0.1, -3.0]])
    logvar = torch.zeros(2, 2)  # dimensions of 0.005 and 4.5 nats
    assert kl_divergence(mean, logvar, 0.5).item() == pytest.approx(0.5 + 4.5)
    assert kl_divergence(mean, logvar, 5.0).item() == pytest.approx(10.0)
    model, x = build_vae(base=4, image_size=32).eval(), torch.rand(4, 3, 32, 32)
    terms = ELBOObjective(2.0, free_bits=100.0)(model, x)
    assert terms["loss"].item() == pytest.approx(terms["reconstruction"].item() + 2 * 3 * 100)
    assert terms["kl"] < 100


def test_beta_weighs_the_kl_term():
    torch.manual_seed(0)
    model, x = build_vae(base=4, image_size=32).eval(), torch.rand(4, 3, 32, 32)
    terms = ELBOObjective(beta=7.0)(model, x)
    torch.testing.assert_close(terms["loss"], terms["reconstruction"] + 7 * terms["kl"])


def test_the_decoder_is_asked_for_the_view():
    model = build_vae(base=2, image_size=32).eval()
    x = torch.rand(6, 3, 32, 32)
    fill = torch.tensor([0.1, 0.2, 0.3])
    torch.manual_seed(3)
    terms = ELBOObjective(2.0, target_view=View(free_rotation=True), fill=fill)(model, x)
    torch.manual_seed(3)
    target = View(free_rotation=True)(x, fill)
    logits, mean, logvar, _ = model(x)
    expected = reconstruction_loss(logits, target)
    torch.testing.assert_close(terms["reconstruction"], expected)
    torch.testing.assert_close(terms["loss"], expected + 2 * kl_divergence(mean, logvar))
