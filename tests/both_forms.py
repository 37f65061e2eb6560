"""The plain and the fast form of a layer, compared: outputs, and gradients of input and weights."""

import torch

SIZES = [(1, 1), (2, 2), (4, 4), (8, 8), (16, 16), (32, 32), (64, 64)]
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
