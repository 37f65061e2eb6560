"""The InfoMax objective against two backward passes written out, and what its critic sees."""

from functools import partial

import torch

from models.infoMAX_VAE import InfoMaxObjective, scale_gradient
from models.losses import ELBOObjective, kl_divergence, reconstruction_loss
from models.networks import build_vae
from util.augmentation import View
from util.mutual_information import InformationEstimator


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
        return InfoMaxObjective(estimator, alpha=alpha, beta=2.0, critic_learning_rate=1e-3)

    for alpha in (0.0, 20.0):
        terms, vae, critic = gradients(alpha, ours)
        _, expected_vae, expected_critic = gradients(alpha, Plain)
        torch.testing.assert_close(vae, expected_vae, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(critic, expected_critic, atol=1e-6, rtol=1e-4)
        assert critic.abs().sum() > 0  # also at alpha = 0
        value = terms["reconstruction"] + 2 * terms["kl"] - alpha * terms["mutual_information"]
        torch.testing.assert_close(terms["loss"], value, atol=1e-3, rtol=1e-6)


def test_the_critic_sees_the_view_and_the_encoder_the_image():
    model = build_vae(base=2, image_size=32).eval()
    estimator = InformationEstimator((3, 32, 32), 3, "infonce")
    x = torch.rand(6, 3, 32, 32)
    torch.manual_seed(4)
    terms = InfoMaxObjective(
        estimator, alpha=5.0, beta=1.0, critic_learning_rate=5e-4, view=View()
    )(model, x)
    torch.manual_seed(4)
    seen = View()(x, None)
    assert not torch.equal(seen, x)
    expected = estimator(seen, model.encode(x)[0])
    torch.testing.assert_close(terms["mutual_information"], expected)
    plain = ELBOObjective()(model, x)
    torch.testing.assert_close(terms["reconstruction"], plain["reconstruction"])
    torch.testing.assert_close(terms["loss"], plain["loss"] - 5 * expected)


def test_a_critic_of_codes_sees_the_code_of_the_view():
    torch.manual_seed(0)
    model = build_vae(base=2, image_size=32).eval()
    estimator = InformationEstimator((3,), 3, "infonce")
    objective = InfoMaxObjective(
        estimator, alpha=5.0, beta=1.0, critic_learning_rate=5e-4, view=View(), critic_input="code"
    )
    x = torch.rand(6, 3, 32, 32)
    torch.manual_seed(4)
    terms = objective(model, x)
    torch.manual_seed(4)
    view = View()(x, None)
    expected = estimator(model.encode(view)[0], model.encode(x)[0])
    torch.testing.assert_close(terms["mutual_information"], expected)
    plain = ELBOObjective()(model, x)
    torch.testing.assert_close(terms["loss"], plain["loss"] - 5 * expected)
    # The encoder gets 5 times the gradient of the bound, from both codes; the critic once.
    named = dict(model.encoder.named_parameters())
    grad = partial(torch.autograd.grad, materialize_grads=True)  # no use of log-variances here
    shares = grad(5 * expected, named.values(), retain_graph=True)
    whole = grad(plain["loss"], named.values())
    wanted = [one - other for one, other in zip(whole, shares, strict=True)]
    terms["loss"].backward()
    for (name, parameter), gradient in zip(named.items(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=2e-3, rtol=1e-3, msg=name)
    of_critic = torch.autograd.grad(expected, estimator.critic.h[0].weight)[0]
    torch.testing.assert_close(estimator.critic.h[0].weight.grad, -of_critic)


def test_views_leave_the_running_statistics_to_plain_images():
    torch.manual_seed(0)
    x = torch.rand(6, 3, 32, 32)
    norms = []
    for objective in (
        ELBOObjective(),
        InfoMaxObjective(
            InformationEstimator((3,), 3),
            alpha=5.0,
            beta=1.0,
            critic_learning_rate=5e-4,
            view=View(),
            critic_input="code",
        ),
    ):
        torch.manual_seed(1)
        model = build_vae(base=2, image_size=32)
        objective(model, x)
        norms.append([v for k, v in model.encoder.state_dict().items() if "running" in k])
        assert all(m.momentum == 0.1 for m in model.modules() if hasattr(m, "momentum"))
    for plain, beside_views in zip(*norms, strict=True):
        torch.testing.assert_close(plain, beside_views)


def test_scale_gradient():
    z = torch.tensor([1.0, -2.0], requires_grad=True)
    scaled = scale_gradient(z, 5.0)
    torch.testing.assert_close(scaled, z)
    scaled.square().sum().backward()
    torch.testing.assert_close(z.grad, 5 * 2 * z.detach())


def test_objectives_name_their_parameters():
    model = build_vae(base=4, image_size=32)
    objective = InfoMaxObjective(
        InformationEstimator((3, 32, 32), 3), alpha=1.0, beta=1.0, critic_learning_rate=5e-4
    )
    groups = objective.parameter_groups(model, 1e-4)
    assert [g["lr"] for g in groups] == [1e-4, 5e-4]
    assert len(groups[0]["params"]) == len(list(model.parameters()))
    assert len(groups[1]["params"]) == len(list(objective.estimator.parameters()))
