"""Upsampling and resizing in their fast forms, against the plain ones and loops over pixels."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from both_forms import CHANNELS, SIZES, assert_same, twins

from models.upsampling import TrilinearResize, UpsampleConv2d

ODD_SIZES = [(1, 2), (3, 3), (2, 5), (7, 4)]


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
