"""Blocks of the networks: plain and skip, down and up.

The skip blocks follow Zheng et al. 2018 ("Degeneration in VAE: in the light of Fisher information
loss"). Every block keeps the parameters of its plain form; `fast` only chooses how it is computed
(models/upsampling.py).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.upsampling import TrilinearResize, UpsampleConv2d

LEAKY_SLOPE = 0.01
XAVIER_GAIN = math.sqrt(2 / 1.01)
CONV_BIAS = 0.01


class ConvDown(nn.Module):
    """Convolution 4 x 4 of stride 2 and padding 1, batch norm, leaky ReLU.

    (B, C, H, W) -> (B, C', H / 2, W / 2).
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / 2, W / 2)."""
        x = x.contiguous(memory_format=torch.channels_last)  # batch norm is twice as fast in it
        return F.leaky_relu(self.norm(self.conv(x)), LEAKY_SLOPE, inplace=True)


class ConvUp(nn.Module):
    """Upsampling by 4, convolution 4 x 4 of stride 2 and padding 1, batch norm, leaky ReLU.

    (B, C, H, W) -> (B, C', 2 H, 2 W).

    Args:
        in_channels: C.
        out_channels: C'.
        last: neither norm nor activation.
        fast: the fast exact form, else the two steps one after the other.
    """

    def __init__(self, in_channels: int, out_channels: int, last: bool = False, fast: bool = True):
        super().__init__()
        self.conv = UpsampleConv2d(in_channels, out_channels, fast)
        self.norm = None if last else nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', 2 H, 2 W)."""
        y = self.conv(x)
        return y if self.norm is None else F.leaky_relu(self.norm(y), LEAKY_SLOPE, inplace=True)


class SkipDown(nn.Module):
    """leaky ReLU(batch norm(convolution 4 x 4 of stride 2 and padding 1) + x resized).

    (B, C, H, W) -> (B, C', H / 2, W / 2), the skip connection by `TrilinearResize`.

    Args:
        in_channels: C.
        out_channels: C'.
        last: convolution 2 x 2 without padding, (B, C, 2, 2) -> (B, C', 1, 1), plus x resized;
            neither norm nor activation.
        fast: the fast exact form of the resizing.
    """

    def __init__(self, in_channels: int, out_channels: int, last: bool = False, fast: bool = True):
        super().__init__()
        kernel, stride, padding = (2, 1, 0) if last else (4, 2, 1)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding)
        self.norm = None if last else nn.BatchNorm2d(out_channels)
        self.resize = TrilinearResize(out_channels, fast)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / 2, W / 2)."""
        x = x.contiguous(memory_format=torch.channels_last)
        y = self.conv(x)
        return _add_skip(y, self.norm, self.resize(x, y.shape[2:]))


class SkipUp(nn.Module):
    """leaky ReLU(batch norm(bilinear upsampling by 4, convolution 4 x 4 of stride 2) + x resized).

    (B, C, H, W) -> (B, C', 2 H, 2 W), the skip connection by `TrilinearResize`.

    Args:
        in_channels: C.
        out_channels: C'.
        last: neither norm nor activation.
        fast: the fast exact form of both branches.
    """

    def __init__(self, in_channels: int, out_channels: int, last: bool = False, fast: bool = True):
        super().__init__()
        self.conv = UpsampleConv2d(in_channels, out_channels, fast)
        self.norm = None if last else nn.BatchNorm2d(out_channels)
        self.resize = TrilinearResize(out_channels, fast)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', 2 H, 2 W)."""
        y = self.conv(x)
        return _add_skip(y, self.norm, self.resize(x, y.shape[2:]))


class SkipIn(nn.Module):
    """The first block of the SC decoder: leaky ReLU(batch norm(1 x 1 convolution) + x resized).

    (B, C, H, W) -> (B, C', H, W); channel c of the skip connection is channel floor(c C / C') of x
    (nearest neighbour).
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        y = self.conv(x)
        return _add_skip(y, self.norm, F.interpolate(x.unsqueeze(1), size=y.shape[1:]).squeeze(1))


def _add_skip(y: Tensor, norm: nn.Module | None, skip: Tensor) -> Tensor:
    if norm is None:
        return y + skip
    return F.leaky_relu(norm(y).add_(skip), LEAKY_SLOPE, inplace=True)


def initialise(module: nn.Module) -> None:
    """Draw the initial weights of the thesis for every convolution inside `module`, in place.

    Weights are Xavier-normal with gain sqrt(2 / 1.01), biases 0.01. Linear layers and batch norms
    keep the initial values of PyTorch (uniform in +-1 / sqrt(inputs); 1 and 0).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_normal_(layer.weight, gain=XAVIER_GAIN)
            nn.init.constant_(layer.bias, CONV_BIAS)
