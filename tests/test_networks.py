"""Every architecture: shapes, parameter counts worked out by hand, gradients, saving."""

import pytest
import torch

from models.losses import ELBOObjective
from models.networks import ARCHITECTURES, build_vae
from util.errors import UserError
from util.fitting import INPUT_SIZES


def n_parameters(module):
    return sum(p.numel() for p in module.parameters())


def conv(i, o, k):
    return i * o * k * k + o


def linear(i, o):
    return i * o + o


def norm(c):
    return 2 * c


def by_hand_vanilla(channels, base, latent, factors, up_factors):
    widths, ups = [base * f for f in factors], [base * f for f in up_factors]
    down = sum(conv(i, o, 4) + norm(o) for i, o in zip([channels, *widths], widths, strict=False))
    heads = linear(4 * widths[-1], 1024) + norm(1024) + linear(1024, 256) + norm(256)
    heads += 2 * linear(256, latent)
    first = linear(latent, 1024) + norm(1024) + linear(1024, 4 * ups[0]) + norm(4 * ups[0])
    up = sum(conv(i, o, 4) + norm(o) for i, o in zip(ups, ups[1:], strict=False))
    return down + heads + first + up + conv(ups[-1], channels, 4)


def test_parameter_counts():
    thesis = by_hand_vanilla(3, 32, 3, (1, 2, 4, 8, 16), (16, 8, 4, 2, 1))
    assert n_parameters(build_vae()) == thesis == 10_052_169
    chaffer = by_hand_vanilla(4, 64, 3, (1, 2, 4, 8, 16, 16), (16, 8, 4, 2, 1, 1))
    assert n_parameters(build_vae(image_size=128, channels=4, base=64)) == chaffer == 47_819_850
    assert n_parameters(build_vae("simple", channels=1, latent_dim=2)) == 401_381
    # The original counts 18 more: batch norms of the two last blocks, which it never applies.
    assert n_parameters(build_vae("sc")) == 5_609_915 - norm(2 * 3) - norm(3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("size", INPUT_SIZES)
def test_shapes(architecture, size):
    model = build_vae(architecture, size, channels=2, base=4, latent_dim=5, decoder_base=6)
    logits, mean, logvar, z = model(torch.rand(3, 2, size, size))
    assert logits.shape == (3, 2, size, size)
    assert mean.shape == logvar.shape == z.shape == (3, 5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_parameter_gets_a_gradient(architecture):
    torch.manual_seed(0)
    model = build_vae(architecture, 32, channels=3, base=4)
    ELBOObjective()(model, torch.rand(8, 3, 32, 32))["loss"].backward()
    without = [
        n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ]
    # A bias before a batch norm is subtracted again: its gradient is zero but for rounding.
    assert not [name for name in without if "weight" in name]
    assert all(p.grad is not None for p in model.parameters())


def test_code_is_sampled_in_training_and_the_mean_in_evaluation():
    torch.manual_seed(0)
    model = build_vae(base=4, image_size=32)
    x = torch.rand(4, 3, 32, 32)
    _, mean, _, z = model(x)
    assert not torch.equal(mean, z)
    model.eval()
    _, mean, _, z = model(x)
    assert torch.equal(mean, z)


def test_sampled_code_has_the_posterior_moments():
    torch.manual_seed(0)
    model = build_vae(base=4, image_size=32)
    mean, logvar = torch.tensor([[1.0, -2.0]]), torch.tensor([[-1.0, 0.5]])
    z = model.reparameterize(mean.expand(200_000, 2), logvar.expand(200_000, 2))
    torch.testing.assert_close(z.mean(0), mean[0], atol=0.01, rtol=0)
    torch.testing.assert_close(z.var(0), logvar[0].exp(), atol=0.02, rtol=0)


def test_logvar_is_clamped():
    model = build_vae(base=4, image_size=32).eval()
    with torch.no_grad():
        model.encoder.logvar.bias.fill_(50.0)
        assert float(model.encode(torch.rand(2, 3, 32, 32))[1].max()) == 2.0
        model.encoder.logvar.bias.fill_(-50.0)
        assert float(model.encode(torch.rand(2, 3, 32, 32))[1].min()) == -6.0
        finer = build_vae(base=4, image_size=32, min_logvar=-12).eval()
        finer.encoder.logvar.bias.fill_(-50.0)
        assert float(finer.encode(torch.rand(2, 3, 32, 32))[1].min()) == -12.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 48},
        {"architecture": "resnet"},
        {"base": 0},
        {"latent_dim": 0},
        {"min_logvar": 2.0},
        {"min_logvar": -50.0},
    ],
)
def test_impossible_settings_are_one_line(wrong):
    with pytest.raises(UserError, match="`"):
        build_vae(**wrong)
