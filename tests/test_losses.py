"""Objectives against closed forms, torch.distributions and loops."""

import math
from functools import partial

import pytest
import torch
from torch.distributions import Bernoulli, Normal
from torch.distributions import kl_divergence as exact_kl

from models.guidance_losses import (
    AnchoredObjective,
    AnchorTerm,
    AxisTerm,
    PairTerm,
    anchor_loss,
    pair_loss,
    rank_loss,
)
from models.infoMAX_VAE import InfoMaxObjective, scale_gradient
from models.losses import (
    ELBOObjective,
    build_likelihood,
    gaussian_loss,
    kl_divergence,
    reconstruction_loss,
)
from models.networks import build_vae
from util.augmentation import View
from util.mutual_information import InformationEstimator


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


def test_the_decoder_is_asked_for_the_view():
    model = build_vae(base=2, image_size=32).eval()
    x = torch.rand(6, 3, 32, 32)
    fill = torch.tensor([0.1, 0.2, 0.3])
    torch.manual_seed(3)
    terms = ELBOObjective(2.0, View(free_rotation=True), fill)(model, x)
    torch.manual_seed(3)
    target = View(free_rotation=True)(x, fill)
    logits, mean, logvar, _ = model(x)
    expected = reconstruction_loss(logits, target)
    torch.testing.assert_close(terms["reconstruction"], expected)
    torch.testing.assert_close(terms["loss"], expected + 2 * kl_divergence(mean, logvar))


def test_the_critic_sees_the_view_and_the_encoder_the_image():
    model = build_vae(base=2, image_size=32).eval()
    estimator = InformationEstimator((3, 32, 32), 3, "infonce")
    x = torch.rand(6, 3, 32, 32)
    torch.manual_seed(4)
    terms = InfoMaxObjective(estimator, 5.0, 1.0, 5e-4, view=View())(model, x)
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
    objective = InfoMaxObjective(estimator, 5.0, 1.0, 5e-4, view=View(), critic_input="code")
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
            InformationEstimator((3,), 3), 5.0, 1.0, 5e-4, view=View(), critic_input="code"
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
    objective = InfoMaxObjective(InformationEstimator((3, 32, 32), 3), 1.0, 1.0, 5e-4)
    groups = objective.parameter_groups(model, 1e-4)
    assert [g["lr"] for g in groups] == [1e-4, 5e-4]
    assert len(groups[0]["params"]) == len(list(model.parameters()))
    assert len(groups[1]["params"]) == len(list(objective.estimator.parameters()))


def test_anchors_of_every_cell_are_the_sum_of_the_thesis():
    torch.manual_seed(0)
    mean, anchors = torch.randn(256, 2), torch.tensor([[-1.0, 0.0]]).repeat(256, 1)
    delta, one = 0.005, torch.zeros(256, dtype=torch.long)
    thesis = sum(delta * ((m - a) ** 2).sum() for m, a in zip(mean, anchors, strict=True))
    term = AnchorTerm(torch.arange(256), anchors, torch.full((256,), 256 * delta), one)
    rows, share = term.draw(256, None)
    torch.testing.assert_close(term(mean[rows], rows, share), thesis)
    losses = anchor_loss(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2), torch.tensor([2.0]))
    torch.testing.assert_close(losses, torch.tensor([50.0]))


def test_pairs():
    first = torch.zeros(4, 2, requires_grad=True)
    second = torch.tensor([[3.0, 4.0], [0.6, 0.8], [3.0, 4.0], [0.0, 0.0]])
    together = torch.tensor([True, False, False, False])
    losses = pair_loss(first, second, together, torch.tensor([2.0, 3.0, 9.0, 1.0]), margin=2.0)
    torch.testing.assert_close(losses, torch.tensor([50.0, 3.0, 0.0, 4.0]), atol=1e-5, rtol=1e-5)
    losses.sum().backward()
    assert first.grad.isfinite().all()  # also of two cells of one code
    torch.testing.assert_close(first.grad[0], 2 * 2.0 * -second[0])


def test_rank_loss_against_a_loop():
    torch.manual_seed(0)
    values, ranks = torch.randn(12), torch.randint(0, 5, (12,))
    slow = [
        math.log(1 + math.exp(-(values[i] - values[j])))
        for i in range(12)
        for j in range(12)
        if ranks[i] > ranks[j]
    ]
    assert rank_loss(values, ranks).item() == pytest.approx(sum(slow) / len(slow), rel=1e-5)
    torch.testing.assert_close(rank_loss(values, ranks), rank_loss(values, (3.0 * ranks).exp()))
    assert rank_loss(torch.zeros(12), ranks).item() == pytest.approx(math.log(2))
    assert rank_loss(50.0 * ranks, ranks) < 1e-6 < rank_loss(-50.0 * ranks, ranks)
    assert rank_loss(values, torch.ones(12)) == 0


def test_a_falling_axis_is_rewarded_for_falling():
    cells, column = torch.arange(6), torch.tensor([1.0, 5.0, 5.0, 9.0, 2.0, 3.0])
    codes = torch.stack([torch.zeros(6), -column], dim=1)
    losses = []
    for axis, direction in ((1, -1), (1, 1), (0, 1)):
        term = AxisTerm(cells, column, axis, weight=10.0, direction=direction, label="axis")
        losses.append(term(codes, *term.draw(64, None)).item())
    assert losses[0] < 1 < losses[2] < losses[1]
    assert losses[2] == pytest.approx(10 * math.log(2))


def test_every_group_has_the_same_say():
    groups = torch.tensor([0] * 5000 + [1] * 20)
    anchors = torch.zeros(5020, 1)
    term = AnchorTerm(torch.arange(5020), anchors, torch.ones(5020), groups)
    rows, share = term.draw(4000, torch.Generator().manual_seed(0))
    assert len(rows) == 4000 and share.sum().item() == pytest.approx(1)
    assert abs((rows >= 5000).float().mean() - 0.5) < 0.03  # 4 standard errors
    assert set(rows[rows >= 5000].tolist()) == set(range(5000, 5020))
    # Few enough to be taken whole: the mean of the means of the groups, without sampling.
    few = AnchorTerm(torch.arange(6), torch.zeros(6, 1), torch.ones(6), torch.tensor([7] * 5 + [3]))
    codes = torch.arange(6.0)[:, None]
    expected = (0 + 1 + 4 + 9 + 16) / 5 / 2 + 25 / 2
    assert few(codes, *few.draw(64, None)).item() == pytest.approx(expected)


def guided(base, n_cells=8):
    """An objective with all three kinds of feedback, and the images that it looks up."""
    torch.manual_seed(0)
    images = torch.rand(n_cells, 3, 32, 32)
    cells = torch.arange(n_cells)
    terms = [
        AnchorTerm(cells, torch.ones(n_cells, 3), torch.ones(n_cells), cells % 2),
        PairTerm(torch.tensor([[0, 1], [2, 3]]), torch.tensor([True, False]), torch.ones(2), 2.0),
        AxisTerm(cells, cells.float(), 2, 1.0, 1, "axis z ~ size"),
    ]
    return AnchoredObjective(base, terms, lambda cells, training: images[cells], 48), images


def bases():
    yield ELBOObjective(2.0)
    yield InfoMaxObjective(InformationEstimator((3, 32, 32), 3), 5.0, 1.0, 5e-4)
    # Of a constant view, as another one would be drawn for each of the objectives compared.
    yield InfoMaxObjective(
        InformationEstimator((3,), 3),
        5.0,
        1.0,
        5e-4,
        lambda x, fill: x.flip(3),
        critic_input="code",
    )


@pytest.mark.parametrize("base", list(bases()), ids=lambda base: type(base).__name__)
@pytest.mark.parametrize("architecture", ["vanilla", "sc", "simple"])
def test_feedback_is_added_to_any_objective(base, architecture):
    objective, images = guided(base)
    model = build_vae(architecture, 32, base=2).eval()
    x = torch.rand(5, 3, 32, 32)
    objective.eval()
    terms, alone = objective(model, x), base(model, x)
    for name, value in alone.items():
        if name != "loss":
            torch.testing.assert_close(terms[name], value, atol=1e-3, rtol=1e-5)
    mean = model.encode(images)[0]
    squared = (mean - 1).square().sum(1)
    anchors = (squared[::2].mean() + squared[1::2].mean()) / 2
    torch.testing.assert_close(terms["anchors"], anchors, atol=1e-4, rtol=1e-4)
    pairs = pair_loss(mean[[0, 2]], mean[[1, 3]], torch.tensor([True, False]), torch.ones(2), 2.0)
    torch.testing.assert_close(terms["pairs"], pairs.mean(), atol=1e-4, rtol=1e-4)
    ranks = rank_loss(mean[:, 2], torch.arange(8))
    torch.testing.assert_close(terms["axis z ~ size"], ranks, atol=1e-4, rtol=1e-4)
    total = alone["loss"] + anchors + pairs.mean() + ranks
    torch.testing.assert_close(terms["loss"], total, atol=1e-3, rtol=1e-5)
    assert len(objective.parameter_groups(model, 1e-4)) == len(base.parameter_groups(model, 1e-4))


def test_firm_feedback_weighs_more_in_the_first_training_steps_only():
    objective, _ = guided(ELBOObjective())
    objective.anchor_warmup, objective.warmup_steps = 5.0, 2
    model, x = build_vae("vanilla", 32, base=2).eval(), torch.rand(4, 3, 32, 32)
    factors = []
    for training in (True, False, True, True, True):
        objective.train(training)
        terms = objective(model, x)
        feedback = sum(terms[name] for name in ("anchors", "pairs", "axis z ~ size"))
        base = terms["reconstruction"] + terms["kl"]
        factors.append(((terms["loss"] - base) / feedback).item())
    assert factors == pytest.approx([5, 1, 5, 1, 1], rel=1e-3)


def test_guided_cells_share_the_batch_norm_of_the_batch_and_are_not_decoded():
    objective, images = guided(ELBOObjective())
    model, x = build_vae("vanilla", 32, base=2), torch.rand(5, 3, 32, 32)
    decoded = []
    model.decoder.register_forward_hook(lambda module, given, made: decoded.append(len(made)))
    objective(model, x)["loss"].backward()
    assert decoded == [5]
    first = model.encoder.down[0]
    norm = next(m for m in first.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert norm.num_batches_tracked == 1  # one pass, so one statistic, of both
    assert all(p.grad is not None for p in model.parameters())


def test_the_draw_of_the_validation_is_always_the_same():
    torch.manual_seed(3)
    objective, _ = guided(ELBOObjective(), n_cells=60)
    model, x = build_vae("vanilla", 32, base=2).eval(), torch.rand(4, 3, 32, 32)
    objective.eval()
    assert objective(model, x)["anchors"] == objective(model, x)["anchors"]
    objective.train()
    assert objective(model, x)["anchors"] != objective(model, x)["anchors"]
