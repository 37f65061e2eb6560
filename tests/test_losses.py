"""Objectives against closed forms and torch.distributions."""

import torch
from torch.distributions import Bernoulli, Normal
from torch.distributions import kl_divergence as exact_kl

from models.infoMAX_VAE import InfoMaxObjective, scale_gradient
from models.losses import ELBOObjective, kl_divergence, reconstruction_loss
from models.networks import build_vae
from util.mutual_information import InformationEstimator


def test_terms_agree_with_torch_distributions():
    torch.manual_seed(0)
    logits, x = torch.randn(5, 2, 8, 8), torch.rand(5, 2, 8, 8).round()
    expected = -Bernoulli(logits=logits).log_prob(x).sum((1, 2, 3)).mean()
    torch.testing.assert_close(reconstruction_loss(logits, x), expected)
    mean, logvar = torch.randn(5, 3), torch.randn(5, 3)
    expected = exact_kl(Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(kl_divergence(mean, logvar), expected)


def test_beta_weighs_the_kl_term():
    torch.manual_seed(0)
    model, x = build_vae(base=4, image_size=32).eval(), torch.rand(4, 3, 32, 32)
    terms = ELBOObjective(beta=7.0)(model, x)
    torch.testing.assert_close(terms["loss"], terms["reconstruction"] + 7 * terms["kl"])


def gradients(alpha, objective_of):
    torch.manual_seed(0)
    model = build_vae(base=4, image_size=32)
    estimator = InformationEstimator((3, 32, 32), 3)
    x = torch.rand(8, 3, 32, 32)
    torch.manual_seed(1)
    terms = objective_of(estimator, alpha)(model, x)
    terms["loss"].backward()
    vae = torch.cat([p.grad.flatten() for p in model.parameters()])
    return terms, vae, torch.cat([p.grad.flatten() for p in estimator.parameters()])


class Plain(torch.nn.Module):
    """The objective written out with two separate backward passes' worth of terms."""

    def __init__(self, estimator, alpha):
        super().__init__()
        self.estimator, self.alpha = estimator, alpha

    def forward(self, model, x):
        logits, mean, logvar, z = model(x)
        elbo = reconstruction_loss(logits, x) + 2.0 * kl_divergence(mean, logvar)
        frozen = InformationEstimator((3, 32, 32), 3)
        frozen.load_state_dict(self.estimator.state_dict())
        for p in frozen.parameters():
            p.requires_grad_(False)
        for_vae = frozen(x, z)
        for_critic = self.estimator(x, z.detach())
        return {"loss": elbo - self.alpha * for_vae - for_critic}


def test_one_backward_pass_gives_each_player_its_own_gradient():
    def ours(estimator, alpha):
        return InfoMaxObjective(estimator, alpha, beta=2.0, critic_learning_rate=1e-3)

    for alpha in (0.0, 20.0):
        terms, vae, critic = gradients(alpha, ours)
        _, expected_vae, expected_critic = gradients(alpha, Plain)
        torch.testing.assert_close(vae, expected_vae, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(critic, expected_critic, atol=1e-6, rtol=1e-4)
        assert critic.abs().sum() > 0  # also at alpha = 0
        value = terms["reconstruction"] + 2 * terms["kl"] - alpha * terms["mutual_information"]
        torch.testing.assert_close(terms["loss"], value, atol=1e-3, rtol=1e-6)


def test_scale_gradient():
    z = torch.tensor([1.0, -2.0], requires_grad=True)
    scaled = scale_gradient(z, 5.0)
    torch.testing.assert_close(scaled, z)
    scaled.square().sum().backward()
    torch.testing.assert_close(z.grad, 5 * 2 * z.detach())


def test_objectives_name_their_parameters():
    model = build_vae(base=4, image_size=32)
    objective = InfoMaxObjective(InformationEstimator((3, 32, 32), 3), 1.0, 1.0, 5e-4)
    groups = objective.parameter_groups(model, 1e-4)
    assert [g["lr"] for g in groups] == [1e-4, 5e-4]
    assert len(groups[0]["params"]) == len(list(model.parameters()))
    assert len(groups[1]["params"]) == len(list(objective.estimator.parameters()))
