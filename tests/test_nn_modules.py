import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from models.nn_modules import ConvDown, ConvUp, SkipDown, SkipIn, SkipUp, initialise
from models.upsampling import TrilinearResize, UpsampleConv2d

SIZES = [(1, 1), (2, 2), (4, 4), (8, 8), (16, 16), (32, 32), (64, 64)]
ODD_SIZES = [(1, 2), (3, 3), (2, 5), (7, 4)]
CHANNELS = [(6, 3), (3, 6), (4, 4), (5, 7), (8, 1)]


def twins(block, *args, **kwargs):
    """The plain and the fast form of a block in float64, with the same random parameters."""
    torch.manual_seed(1)
    plain = block(*args, **kwargs, fast=False).double()
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter)
    fast = block(*args, **kwargs, fast=True).double()
    fast.load_state_dict(plain.state_dict())
    return plain, fast


def output_and_gradients(block, x, weights):
    x = x.clone().requires_grad_()
    y = block(x)
    (y * weights).sum().backward()
    return {"output": y.detach(), "input": x.grad} | {
        name: parameter.grad for name, parameter in block.named_parameters()
    }


def assert_same(plain, fast, x, factor):
    shape = plain(x).shape
    assert shape[2:] == tuple(int(side * factor) for side in x.shape[2:])
    weights = torch.randn(shape, dtype=x.dtype)
    expected = output_and_gradients(plain, x, weights)
    got = output_and_gradients(fast, x, weights)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        # the gradient of a bias before a batch norm is 0, so only the rounding of its sum is left
        scale = max(value.abs().max().item(), weights.abs().sum().item() / 1e4)
        assert (got[name] - value).abs().max() < 1e-12 * scale, name


@pytest.mark.parametrize("size", SIZES + ODD_SIZES)
@pytest.mark.parametrize("channels", CHANNELS)
def test_folded_upsampling_equals_plain(size, channels):
    assert_same(*twins(UpsampleConv2d, *channels), torch.randn(2, channels[0], *size).double(), 2)


@pytest.mark.parametrize("size", [1, 2])
def test_folded_convolution_also_holds_where_the_matrix_product_is_used(size):
    plain, fast = twins(UpsampleConv2d, 4, 3)
    x = torch.randn(2, 4, size, size).double()
    folded = fast._as_folded_convolution(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(folded, plain(x), rtol=0, atol=1e-13)


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


def test_border_of_a_constant_image_by_hand():
    # an all-one image and kernel: every output counts the taps that fall on the image
    layer = UpsampleConv2d(1, 1).double()
    torch.nn.init.ones_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    for n in (1, 2, 3, 6):
        y = layer(torch.ones(1, 1, n, n, dtype=torch.float64))[0, 0]
        taps = torch.full((2 * n,), 4.0, dtype=torch.float64)
        taps[0] -= 1
        taps[-1] -= 1
        torch.testing.assert_close(y, torch.outer(taps, taps))


def bilinear_by_loops(image, factor):
    """Bilinear enlargement of a 2-D list, pixel by pixel, sampled at pixel centres."""
    height, width = len(image), len(image[0])

    def neighbours(i, n):
        position = max((i + 0.5) / factor - 0.5, 0.0)
        low = int(position)
        return (low, 1 - position + low), (min(low + 1, n - 1), position - low)

    return [
        [
            sum(
                wy * wx * image[y][x]
                for y, wy in neighbours(i, height)
                for x, wx in neighbours(j, width)
            )
            for j in range(factor * width)
        ]
        for i in range(factor * height)
    ]


def test_upsampling_against_loops_over_pixels():
    torch.manual_seed(2)
    layer = UpsampleConv2d(1, 1).double()
    x = torch.randn(1, 1, 3, 2, dtype=torch.float64)
    enlarged = bilinear_by_loops(x[0, 0].tolist(), 4)
    weight, bias = layer.weight[0, 0].tolist(), layer.bias.item()
    y = layer(x)[0, 0]
    for i, j in itertools.product(range(6), range(4)):
        expected = bias
        for u, v in itertools.product(range(4), range(4)):
            row, column = 2 * i - 1 + u, 2 * j - 1 + v
            if 0 <= row < 12 and 0 <= column < 8:
                expected += weight[u][v] * enlarged[row][column]
        assert y[i, j].item() == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("size", [(2, 2), (3, 4)])
def test_gradients_by_finite_differences(size):
    layer = UpsampleConv2d(2, 3).double()

    def function(x, weight, bias):
        parameters = {"weight": weight, "bias": bias}
        return torch.func.functional_call(layer, parameters, (x,))

    x = torch.randn(1, 2, *size, dtype=torch.float64, requires_grad=True)
    inputs = (x, *[p.detach().clone().requires_grad_() for p in layer.parameters()])
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("size", [((8, 6), (4, 3)), ((3, 5), (6, 10)), ((5, 4), (2, 2))])
def test_trilinear_resize_equals_a_volume(channels, size):
    resize = TrilinearResize(channels[1])
    x = torch.randn(2, channels[0], *size[0], dtype=torch.float64)
    shape = (channels[1], *size[1])
    expected = F.interpolate(x[:, None], size=shape, mode="trilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(resize(x, shape[1:]), expected, rtol=0, atol=1e-14)


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


def test_bfloat16_autocast_stays_near_float32():
    torch.manual_seed(6)
    layer = UpsampleConv2d(16, 8)
    for size in (2, 8):
        x = torch.randn(4, 16, size, size)
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        assert y.dtype == torch.bfloat16
        error = (y.float() - layer(x)).abs().max() / layer(x).abs().max()
        assert error < 2**-6


def test_compiles_without_graph_breaks():
    block = ConvUp(4, 3)
    x = torch.randn(2, 4, 4, 4)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), block(x))
