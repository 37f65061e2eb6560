"""Blocks of the networks: both forms, gradients, parameters, initial weights."""

import math

import pytest
import torch
import torch.nn.functional as F
from both_forms import CHANNELS, SIZES, assert_same, twins

from models.nn_modules import ConvDown, ConvUp, SkipDown, SkipIn, SkipUp, initialise


@pytest.mark.parametrize("block", [ConvUp, SkipUp])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_up_blocks_are_the_same_in_both_forms(block, last, size):
    for channels in CHANNELS[:3]:
        plain, fast = twins(block, *channels, last=last)
        assert_same(plain, fast, torch.randn(3, channels[0], *size).double(), 2)


@pytest.mark.parametrize("size", SIZES[1:])
def test_skip_down_is_the_same_in_both_forms(size):
    for channels in CHANNELS:
        plain, fast = twins(SkipDown, *channels)
        assert_same(plain, fast, torch.randn(3, channels[0], *size).double(), 0.5)
    plain, fast = twins(SkipDown, 16, 6, last=True)
    assert_same(plain, fast, torch.randn(3, 16, 2, 2).double(), 0.5)


def test_skip_blocks_put_the_norm_before_the_sum_and_the_activation_after():
    x = torch.randn(4, 3, 8, 8)
    for block, size in ((SkipDown(3, 5), 4), (SkipUp(3, 5), 16), (SkipIn(3, 5), 8)):
        torch.nn.init.zeros_(block.norm.weight)  # the branch of the convolution is silent
        volume = {"mode": "nearest"} if isinstance(block, SkipIn) else {"mode": "trilinear"}
        skip = F.interpolate(x[:, None], size=(5, size, size), **volume)[:, 0]
        expected = torch.where(skip > 0, skip, 0.01 * skip)
        torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-6)


def test_first_skip_block_repeats_neighbouring_channels():
    block = SkipIn(3, 7)
    torch.nn.init.zeros_(block.norm.weight)
    x = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1).expand(2, 3, 1, 1)
    assert block(x)[0].flatten().tolist() == [1, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("block", "size"),
    [
        (ConvDown(3, 8), 8),
        (ConvUp(3, 8), 2),
        (ConvUp(3, 8), 4),
        (ConvUp(3, 8, last=True), 4),
        (ConvUp(3, 8, fast=False), 4),
        (SkipDown(3, 8), 8),
        (SkipDown(3, 8, last=True), 2),
        (SkipUp(3, 8), 1),
        (SkipUp(3, 8), 4),
        (SkipUp(3, 8, last=True), 4),
        (SkipIn(3, 8), 1),
    ],
)
def test_every_parameter_gets_a_gradient(block, size):
    torch.manual_seed(3)
    y = block(torch.randn(4, 3, size, size))
    (y * torch.randn_like(y)).sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("block", [ConvUp, SkipUp, SkipDown])
@pytest.mark.parametrize("last", [False, True])
def test_state_of_both_forms_is_that_of_the_plain_layers(block, last):
    expected = {"conv.weight": (5, 3, 4, 4), "conv.bias": (5,)}
    if block is SkipDown and last:
        expected["conv.weight"] = (5, 3, 2, 2)
    if not last:
        expected |= {f"norm.{n}": (5,) for n in ("weight", "bias", "running_mean", "running_var")}
        expected["norm.num_batches_tracked"] = ()
    states = [block(3, 5, last=last, fast=fast).state_dict() for fast in (False, True)]
    for state in states:
        assert {name: tuple(value.shape) for name, value in state.items()} == expected
    block(3, 5, last=last, fast=True).load_state_dict(states[0], strict=True)
    block(3, 5, last=last, fast=False).load_state_dict(states[1], strict=True)


def test_same_seed_same_initial_weights_in_both_forms():
    blocks = []
    for fast in (False, True):
        torch.manual_seed(4)
        blocks.append(ConvUp(3, 5, fast=fast))
        initialise(blocks[-1])
    for p, q in zip(blocks[0].parameters(), blocks[1].parameters(), strict=True):
        assert torch.equal(p, q)


def test_parameter_counts():
    def count(block):
        return sum(parameter.numel() for parameter in block.parameters())

    convolution = 16 * 32 * 64 + 64
    assert count(ConvDown(32, 64)) == count(SkipDown(32, 64)) == convolution + 2 * 64 == 32_960
    assert count(ConvUp(32, 64)) == count(SkipUp(32, 64)) == 32_960
    assert count(ConvUp(32, 3, last=True)) == count(SkipUp(32, 3, last=True)) == 1_539
    assert count(SkipDown(512, 6, last=True)) == 4 * 512 * 6 + 6 == 12_294
    assert count(SkipIn(3, 512)) == 3 * 512 + 512 + 2 * 512 == 3_072


def test_initialise():
    torch.manual_seed(5)
    block = torch.nn.Sequential(ConvUp(64, 48), SkipIn(48, 64), torch.nn.Linear(64, 8))
    linear = block[2].weight.clone()
    initialise(block)
    convolutions = ((block[0].conv.weight, 16 * (64 + 48)), (block[1].conv.weight, 48 + 64))
    for weight, fans in convolutions:
        std = math.sqrt(2 / 1.01) * math.sqrt(2 / fans)
        # the standard error of a standard deviation of n draws is 1 / sqrt(2 n)
        assert abs(weight.std().item() / std - 1) < 4 / math.sqrt(2 * weight.numel())
    assert (block[0].conv.bias == 0.01).all() and (block[1].conv.bias == 0.01).all()
    assert torch.equal(block[2].weight, linear)


def test_compiles_without_graph_breaks():
    block = ConvUp(4, 3)
    x = torch.randn(2, 4, 4, 4)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), block(x))
