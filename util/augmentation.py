"""Random orientation of cells: augmentation, and other views of the same cell.

How a cell lies under the microscope is chance. `augment` is the thesis's augmentation; a `View` is
a family of random changes that keep the cell the same, as `models.infoMAX_VAE` uses them; `align`
brings every cell into a standard position. All of them are one affine map per image and cost one
bilinear `grid_sample` per batch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

ViewName = Literal["none", "turns", "free", "strong"]
TargetName = Literal[ViewName, "aligned"]


@dataclass(frozen=True)
class View:
    """Random changes that keep a cell the same, drawn anew for each image.

    Flips of columns and rows have probability 1/2. Intensity never changes, since it may be the
    phenotype.

    Attributes:
        free_rotation: any angle; else quarter turns only, which move pixels without blurring them.
        smallest_part: the image is cropped to a window at a random place inside it, whose side is
            drawn uniformly between this share of the image and 1, and enlarged to the full size.
    """

    free_rotation: bool = False
    smallest_part: float = 1.0

    def __call__(
        self, images: Tensor, fill: Tensor | None, generator: torch.Generator | None = None
    ) -> Tensor:
        """One view of each image, (B, C, S, S) -> the same shape; `fill` as in `augment`.

        A generator of the CPU draws the same views on any device.
        """
        source = images.device if generator is None else generator.device
        chance = torch.rand(6, len(images), generator=generator, device=source).to(images.device)
        turns = 4 * chance[0] if self.free_rotation else (4 * chance[0]).floor()
        part = 1 - (1 - self.smallest_part) * chance[3]
        x_shift, y_shift = (1 - part) * (2 * chance[4:] - 1)
        return _resample(
            images,
            fill,
            radians=0.5 * math.pi * turns,
            flips=1.0 - 2.0 * (chance[1:3] < 0.5),
            part=part,
            shift=(x_shift, y_shift),
        )


VIEWS: dict[str, View | None] = {
    "none": None,
    "turns": View(),
    "free": View(free_rotation=True),
    "strong": View(free_rotation=True, smallest_part=0.45),
}


def align(images: Tensor, fill: Tensor | None) -> Tensor:
    """Each cell with its centre in the middle and its long axis along the rows.

    Centre and axes are those of the image moments (Hu 1962, "Visual pattern recognition by moment
    invariants"), of the distance of each pixel from `fill`, summed over the channels. Of the four
    ways to flip a cell along its axes, the one without a negative third moment is taken. So a cell
    gives the same image in any orientation, up to interpolation; for a round cell, noise decides.

    Args:
        images: (B, C, S, S) float in 0..1.
        fill: as in `augment`.

    Returns:
        (B, C, S, S). An empty image stays as it is.
    """
    mass = images if fill is None else (images - fill.to(images)[:, None, None]).abs()
    mass = mass.sum(1)  # (B, S, S)
    mass = mass / mass.sum((1, 2), keepdim=True).clamp_min(1e-12)
    at = _pixel_centres(images)
    x_centre, y_centre = (mass.sum(1) * at).sum(1), (mass.sum(2) * at).sum(1)  # (B,)
    x = at - x_centre[:, None, None]  # (B, 1, S)
    y = at[:, None] - y_centre[:, None, None]  # (B, S, 1)

    def moment(values: Tensor) -> Tensor:
        return (mass * values).sum((1, 2))

    radians = 0.5 * torch.atan2(2 * moment(x * y), moment(x * x) - moment(y * y))
    cos, sin = radians.cos()[:, None, None], radians.sin()[:, None, None]
    along, across = cos * x + sin * y, cos * y - sin * x  # (B, S, S)
    skew = torch.stack([moment(along**3), moment(across**3)])
    flips = 1.0 - 2.0 * (skew < 0)
    return _resample(images, fill, radians, flips, shift=(x_centre, y_centre))


# What the decoder reconstructs: the image that the encoder saw, another view, or the aligned cell.
Target = Callable[[Tensor, Tensor | None], Tensor]
TARGETS: dict[str, Target | None] = {**VIEWS, "aligned": align}


def augment(
    images: Tensor, fill: Tensor | None, generator: torch.Generator | None = None
) -> Tensor:
    """Random orientation for each image of a batch, as in the thesis.

    With probability 1/2 each: a quarter turn; a rotation by a random multiple of 5 degrees in
    5..85; a flip of the columns; a flip of the rows. Without the rotation, sampling points fall on
    pixel centres and the pixels stay as they are.

    Args:
        images: (B, C, S, S) float in 0..1.
        fill: (C,) value of pixels from beyond the image, the channel's padding; None for 0, as
            around masked crops.
        generator: of the device of the images.
    """
    chance = torch.rand(5, len(images), generator=generator, device=images.device)
    quarter, rotated = chance[:2] < 0.5
    steps = (17 * chance[4]).floor() + 1  # 1..17 times 5 degrees
    radians = (90.0 * quarter + 5.0 * steps * rotated) * (math.pi / 180)
    return _resample(images, fill, radians, flips=1.0 - 2.0 * (chance[2:4] < 0.5))


def jitter(
    images: Tensor, fill: Tensor | None, pixels: int, generator: torch.Generator | None = None
) -> Tensor:
    """Shift each image by up to `pixels` whole pixels along each axis, (B, C, S, S)."""
    count, device = len(images), images.device
    steps = torch.randint(-pixels, pixels + 1, (2, count), generator=generator, device=device)
    x_shift, y_shift = 2 * steps / images.shape[-1]
    still = torch.zeros(count, device=device), torch.ones(2, count, device=device)
    return _resample(images, fill, *still, shift=(x_shift, y_shift))


def _resample(
    images: Tensor,
    fill: Tensor | None,
    radians: Tensor,
    flips: Tensor,
    part: Tensor | None = None,
    shift: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Rotate, flip, crop and shift each image.

    Args:
        images: (B, C, S, S).
        fill: (C,) or None.
        radians: (B,) angle.
        flips: (2, B) 1 or -1, of x and y.
        part: (B,) side of the crop as a share of the image; None for the whole image.
        shift: x and y (B,) of its middle, in units of half an image.
    """
    cos, sin = radians.cos()[:, None, None], radians.sin()[:, None, None]
    centres = _pixel_centres(images)
    if part is not None:
        flips = flips * part
    x = flips[0, :, None, None] * centres  # (B, 1, S)
    y = flips[1, :, None, None] * centres[:, None]  # (B, S, 1)
    grid = torch.stack([cos * x - sin * y, sin * x + cos * y], 3)  # (B, S, S, 2)
    if shift is not None:
        grid += torch.stack(shift, 1)[:, None, None]
    if fill is None:
        turned = F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
    else:
        fill = fill.to(images)[:, None, None]
        turned = F.grid_sample(images - fill, grid, padding_mode="zeros", align_corners=False)
        turned += fill
    return turned.clamp_(0, 1)


def _pixel_centres(images: Tensor) -> Tensor:
    """Positions of the pixel centres of a row, (S,), in an image that spans -1 to 1."""
    size = images.shape[-1]
    return (2 * torch.arange(size, device=images.device) + 1) / size - 1
