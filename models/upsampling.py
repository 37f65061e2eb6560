"""Upsampling: the exact fast form of "bilinear upsampling by 4, then a 4 x 4 convolution".

The convolution has stride 2 and padding 1. Both steps are linear, so together they are one linear
map that doubles the image. In one dimension, output 2 m + p (phase p = 0, 1) depends on the inputs
m - 1, m and m + 1, with weights that are linear in the kernel. In two dimensions that makes a 3 x 3
convolution to 4 x the channels, one set for each phase (p, q), on the small image with its edge
replicated; interleaving the phases gives the result. None of the 9 taps vanishes in any phase, so
3 x 3 is the smallest support.

The border needs a correction: the plain form pads the enlarged image with zeros, whereas the
replicated edge continues it. So the first output row also receives, through the top row of the
kernel, a copy of the first enlarged row; likewise the last row, the columns and, counted twice, the
corners. The excess is a 1-D case of the same map and is subtracted at the border alone. Images of
1 x 1 and 2 x 2 are nearly all border: there the whole map is one matrix product.

All maps on the kernel are derived from `F.interpolate` of unit impulses, and are multiples of 1/64,
so exact in float32. The fast form works in channels-last memory and returns it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from util.devices import in_float32

# Entries of a matrix that are made and used at a time: on a CPU what its cache holds (8 MB of
# float32), elsewhere as many as fit in memory, since every block costs kernel launches.
MATRIX_BLOCK = {"cpu": 2**21, "other": 2**26}


class UpsampleConv2d(nn.Conv2d):
    """Bilinear upsampling by 4, then a convolution 4 x 4 of stride 2 and padding 1: one layer.

    (B, C, H, W) -> (B, C', 2 H, 2 W). The parameters are those of the convolution, weight
    (C', C, 4, 4) and bias (C'); gradients reach them in both forms.

    Args:
        in_channels: C.
        out_channels: C'.
        fast: one linear map on the small image, else the two steps one after the other. Inputs of
            1 x 1 and 2 x 2 take one matrix product, larger ones the folded convolution: at 2 x 2
            (512 to 256 channels, batch 64, CPU) the product is 2.7 x, the convolution 0.45 x as
            fast as the plain form; at 4 x 4 the matrix would have 1024 entries per pair of
            channels, where the convolution with its border needs 676 products.
    """

    def __init__(self, in_channels: int, out_channels: int, fast: bool = True):
        super().__init__(in_channels, out_channels, 4, stride=2, padding=1)
        self.fast = fast
        self.register_buffer("fold", _fold_matrix(), persistent=False)  # (64, 16)
        for size in (1, 2):
            self.register_buffer(f"dense_{size}", _dense_matrix(size), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', 2 H, 2 W)."""
        if not self.fast:
            enlarged = F.interpolate(x, scale_factor=4, mode="bilinear")
            return super().forward(enlarged)
        x = x.permute(0, 2, 3, 1).contiguous()  # (B, H, W, C): free in channels-last memory
        height, width = x.shape[1:3]
        if height == width <= 2:
            return self._as_matrix_product(x)
        return self._as_folded_convolution(x).permute(0, 3, 1, 2)  # (B, C', 2 H, 2 W)

    def _as_matrix_product(self, x: Tensor) -> Tensor:
        """(B, n, n, C) -> (B, C', 2 n, 2 n) for n = 1, 2.

        In blocks of output channels (`MATRIX_BLOCK`).
        """
        size = x.shape[1]
        maps = getattr(self, f"dense_{size}")  # (4 n n outputs x n n inputs, 16)
        x = x.flatten(1)
        at_once = MATRIX_BLOCK["cpu" if x.device.type == "cpu" else "other"]
        block = max(1, at_once // (4 * size**2 * x.shape[1]))
        y = []
        for weight, bias in zip(self.weight.split(block), self.bias.split(block), strict=True):
            matrix = _map_kernels(weight, maps).reshape(-1, x.shape[1])
            y.append(F.linear(x, matrix, bias.repeat_interleave(4 * size**2)))
        y = torch.cat(y, dim=1).view(-1, self.out_channels, 2 * size, 2 * size)
        return y.contiguous(memory_format=torch.channels_last)

    def _as_folded_convolution(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, 2 H, 2 W, C')."""
        folded = _map_kernels(self.weight, self.fold)  # (C', 64, C)
        kernel, rows, columns, corners = folded.split((36, 12, 12, 4), dim=1)
        padded, row_edges, column_edges, corner_pixels = _ReplicatePad.apply(x)

        kernel = kernel.unflatten(1, (2, 2, 3, 3)).movedim(0, 2)  # (p, q, C', 3, 3, C)
        kernel = kernel.flatten(0, 2).permute(0, 3, 1, 2)  # (4 C', C, 3, 3), channels last
        y = F.conv2d(padded.permute(0, 3, 1, 2), kernel, self.bias.repeat(4))
        return _AddToBorder.apply(
            _interleave_phases(y),
            _convolve_edges(row_edges, rows),
            _convolve_edges(column_edges, columns),
            torch.matmul(corner_pixels, corners.permute(1, 2, 0).unflatten(0, (2, 2))),
        )


def _map_kernels(weight: Tensor, maps: Tensor) -> Tensor:
    """Linear maps (K, 16) of every kernel of (C', C, 4, 4): (C', K, C), always in float32."""
    return in_float32(torch.matmul, maps, weight.permute(0, 2, 3, 1).flatten(1, 2))


def _interleave_phases(y: Tensor) -> Tensor:
    """(B, (p, q, C), H, W) in channels-last memory -> (B, 2 H, 2 W, C).

    `F.pixel_shuffle` has the phases innermost and moves single numbers; this moves rows of C.
    """
    y = y.permute(0, 2, 3, 1).unflatten(3, (2, 2, -1))  # (B, H, W, p, q, C)
    return y.transpose(2, 3).flatten(3, 4).flatten(1, 2).contiguous()


def _convolve_edges(edges: Tensor, kernel: Tensor) -> Tensor:
    """Two opposite edges, each with its folded 1-D kernel.

    Args:
        edges: (2, B, n + 2, C), replicated at both ends.
        kernel: (C', (edge, phase, tap), C).

    Returns:
        (2, B, 2 n, C').
    """
    out_channels = kernel.shape[0]
    windows = torch.cat([edges[:, :, :-2], edges[:, :, 1:-1], edges[:, :, 2:]], dim=3)
    kernel = kernel.reshape(out_channels, 2, 2, -1).permute(1, 2, 0, 3).flatten(1, 2)
    y = torch.bmm(windows.flatten(1, 2), kernel.transpose(1, 2))  # (2, B n, (phase, C'))
    return y.view(2, edges.shape[1], -1, out_channels)


class _ReplicatePad(Function):
    """Replicate the border by one pixel, and return the new edges and corners too.

    x (B, H, W, C) -> padded (B, H + 2, W + 2, C), rows (2, B, W + 2, C), columns (2, B, H + 2, C),
    corners (2, 2, B, C). As slices of the padded image, each would need a whole image in backward.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        height, width = x.shape[1:3]
        # As a volume (H, W, C): padded as an image, CUDA would return it channels-first.
        padded = F.pad(x.unsqueeze(1), (0, 0, 1, 1, 1, 1), mode="replicate").squeeze(1)
        rows = padded[:, :: height + 1].transpose(0, 1)
        columns = padded[:, :, :: width + 1].permute(2, 0, 1, 3)
        corners = rows[:, :, :: width + 1].transpose(1, 2)
        return padded, rows.contiguous(), columns.contiguous(), corners.contiguous()

    @staticmethod
    def backward(ctx, padded: Tensor, rows: Tensor, columns: Tensor, corners: Tensor) -> Tensor:
        last_row, last_column = padded.shape[1] - 1, padded.shape[2] - 1
        rows = rows + padded[:, ::last_row].transpose(0, 1)
        rows[:, :, ::last_column] += corners.transpose(1, 2)
        columns = columns.clone()
        columns[:, :, 1:-1] += padded[:, 1:-1, ::last_column].permute(2, 0, 1, 3)
        rows, columns = _fold_ends(rows), _fold_ends(columns)
        x = padded[:, 1:-1, 1:-1].clone(memory_format=torch.contiguous_format)
        x[:, 0] += rows[0]
        x[:, -1] += rows[1]
        x[:, :, 0] += columns[0]
        x[:, :, -1] += columns[1]
        return x


def _fold_ends(edges: Tensor) -> Tensor:
    """Adjoint of replicating both ends: (2, B, n + 2, C) -> (2, B, n, C); overwrites its input."""
    edges[:, :, 1] += edges[:, :, 0]
    edges[:, :, -2] += edges[:, :, -1]
    return edges[:, :, 1:-1]


class _AddToBorder(Function):
    """Add rows (2, B, W, C), columns (2, B, H, C) and corners (2, 2, B, C) to y (B, H, W, C).

    In place: an ordinary sliced `+=` would copy the whole gradient for each of the three.
    """

    @staticmethod
    def forward(ctx, y: Tensor, rows: Tensor, columns: Tensor, corners: Tensor) -> Tensor:
        ctx.mark_dirty(y)
        for border, term in zip(_border(y), (rows, columns, corners), strict=True):
            border += term
        return y

    @staticmethod
    def backward(ctx, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return y, *_border(y)


def _border(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Views of y (B, H, W, C): rows (2, B, W, C), columns (2, B, H, C), corners (2, 2, B, C)."""
    rows = y[:, :: y.shape[1] - 1].transpose(0, 1)
    columns = y[:, :, :: y.shape[2] - 1].permute(2, 0, 1, 3)
    corners = rows[:, :, :: y.shape[2] - 1].transpose(1, 2)
    return rows, columns, corners


class TrilinearResize(nn.Module):
    """Trilinear interpolation over (channel, H, W), nothing learnt.

    (B, C, H, W) -> (B, C', H', W'), as `F.interpolate(..., align_corners=False)` of a volume.

    Args:
        out_channels: C'.
        fast: at a factor 1/2 or 2 in space, work along one axis after the other: average pooling or
            bilinear upsampling, and a constant (C', C) matrix where the image is smaller. Other
            factors always take the plain form.
    """

    def __init__(self, out_channels: int, fast: bool = True):
        super().__init__()
        self.out_channels = out_channels
        self.fast = fast

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        """x (B, C, H, W), size (H', W') -> (B, C', H', W')."""
        if self.fast and tuple(x.shape[2:]) == (2 * size[0], 2 * size[1]):
            return self._mix_channels(F.avg_pool2d(x, 2))
        if self.fast and (2 * x.shape[2], 2 * x.shape[3]) == tuple(size):
            return F.interpolate(self._mix_channels(x), scale_factor=2, mode="bilinear")
        shape = (self.out_channels, *size)
        return F.interpolate(x.unsqueeze(1), size=shape, mode="trilinear").squeeze(1)

    def _mix_channels(self, x: Tensor) -> Tensor:
        if x.shape[1] == self.out_channels:
            return x
        impulses = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).unsqueeze(1)  # (C, 1, C)
        matrix = F.interpolate(impulses, size=self.out_channels, mode="linear")  # (C, 1, C')
        return F.conv2d(x, matrix.permute(2, 0, 1).unsqueeze(3))


def _response(n: int) -> Tensor:
    """The map in one dimension, (2 n outputs, 4 taps, n inputs).

    Entry (i, k, j): how much input j contributes to output i through tap k of the kernel, when n
    inputs are enlarged by 4, padded with a zero on both sides and convolved with stride 2.
    """
    enlarged = F.interpolate(torch.eye(n).unsqueeze(1), scale_factor=4, mode="linear")  # (n, 1, 4n)
    return F.pad(enlarged.squeeze(1), (1, 1)).unfold(1, 4, 2).permute(1, 2, 0)


def _outer(vertical: Tensor, horizontal: Tensor) -> Tensor:
    """1-D maps (..., 4, j) and (..., 4, l) -> 2-D maps (vertical ..., horizontal ..., j, l, 16)."""
    return torch.einsum("iuj,kvl->ikjluv", vertical, horizontal).flatten(4)


def _fold_matrix() -> Tensor:
    """Maps of the 16 kernel weights (64, 16) for images of any size.

    36 rows for the interior (p, q, y tap, x tap); 12 to take away at the first and last row (edge,
    q, x tap); 12 at the first and last column (edge, p, y tap); 4 to give back at the corners.
    """
    phases = _response(3)[2:4]  # (phase, 4, 3): what lies around the middle pixel
    edges = torch.zeros(2, 4, 1)
    edges[0, 0] = edges[1, 3] = 1  # the weights that meet the padding at either end
    columns = _outer(phases, edges).transpose(0, 1)
    parts = (_outer(phases, phases), -_outer(edges, phases), -columns, _outer(edges, edges))
    return torch.cat([part.reshape(-1, 16) for part in parts])


def _dense_matrix(n: int) -> Tensor:
    """Maps of the 16 kernel weights for n x n images, (4 n n outputs x n n inputs, 16)."""
    return _outer(_response(n), _response(n)).reshape(-1, 16)
