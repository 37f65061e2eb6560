"""The networks of the thesis: one VAE, and the encoders and decoders it is put together from.

Architecture and objective are independent choices: nothing here knows a loss. `build_vae` makes
every model of the work by name; the InfoMax VAE is any of them trained with
`models.infoMAX_VAE.InfoMaxObjective`.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.nn_modules import ConvDown, ConvUp, SkipDown, SkipIn, SkipUp, initialise
from util.devices import in_float32
from util.errors import UserError
from util.fitting import INPUT_SIZES

ARCHITECTURES = ("vanilla", "sc", "simple")
LOGVAR_RANGE = (-6.0, 2.0)  # of the thesis; keeps the code finite while the encoder is untrained


class VAE(nn.Module):
    """A variational autoencoder (Kingma and Welling 2014) around any encoder and decoder.

    Args:
        encoder: x (B, C, S, S) -> mean (B, d), logvar (B, d).
        decoder: z (B, d) -> logits (B, C, S, S).
        logvar_range: smallest and largest log-variance of a posterior. The smallest is the
            resolution of the code: -6 is a standard deviation of 0.05.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        logvar_range: tuple[float, float] = LOGVAR_RANGE,
    ):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.logvar_range = logvar_range

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior of a batch: x (B, C, S, S) in 0..1 -> mean (B, d), logvar (B, d), clamped."""
        mean, logvar = self.encoder(x)
        return mean, logvar.clamp(*self.logvar_range)

    def reparameterize(self, mean: Tensor, logvar: Tensor) -> Tensor:
        """A code (B, d): sampled from the posterior while training, its mean in evaluation."""
        if not self.training:
            return mean
        return mean + torch.randn_like(mean) * (0.5 * logvar).exp()

    def decode(self, z: Tensor) -> Tensor:
        """Codes (B, d) -> logits (B, C, S, S); their sigmoid is the image."""
        return self.decoder(z)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x (B, C, S, S) in 0..1 -> logits (B, C, S, S), mean (B, d), logvar (B, d), z (B, d)."""
        mean, logvar = self.encode(x)
        z = self.reparameterize(mean, logvar)
        return self.decode(z), mean, logvar, z


class ConvEncoder(nn.Module):
    """Convolutions down to 2 x 2, then two linear layers and the two heads.

    | layer (vanilla, 64 x 64, base 32) | output |
    | --- | --- |
    | 5 x ConvDown | 32 x 32 x 32, 64 x 16 x 16, 128 x 8 x 8, 256 x 4 x 4, 512 x 2 x 2 |
    | linear, batch norm, ReLU (twice) | 1024, 256 |
    | linear mean, linear log-variance | d, d |

    Args:
        channels: C of the image.
        widths: channels after each halving.
        hidden: widths of the two linear layers.
        latent_dim: d.
    """

    def __init__(self, channels: int, widths: list[int], hidden: tuple[int, int], latent_dim: int):
        super().__init__()
        pairs = zip([channels, *widths[:-1]], widths, strict=True)
        self.down = nn.Sequential(*[ConvDown(i, o) for i, o in pairs])
        self.linear = nn.Sequential(*_linear(4 * widths[-1], hidden[0]), *_linear(*hidden))
        self.mean = nn.Linear(hidden[1], latent_dim)
        self.logvar = nn.Linear(hidden[1], latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, S, S) -> mean (B, d), logvar (B, d)."""
        h = self.linear(torch.flatten(self.down(x), 1))  # (B, hidden[1])
        return in_float32(self.mean, h), in_float32(self.logvar, h)


class ConvDecoder(nn.Module):
    """Two linear layers to 2 x 2, then upsampling steps of a factor 2.

    | layer (vanilla, 64 x 64, base 32) | output |
    | --- | --- |
    | linear, batch norm, ReLU (twice) | 1024, 512 x 2 x 2 |
    | 4 x ConvUp | 256 x 4 x 4, 128 x 8 x 8, 64 x 16 x 16, 32 x 32 x 32 |
    | ConvUp, last | C x 64 x 64, logits |

    Args:
        latent_dim: d.
        hidden: width of the first linear layer.
        widths: channels at 2 x 2 and after each doubling but the last.
        channels: C of the image.
        fast: the fast exact form of the upsampling steps (models/upsampling.py).
    """

    def __init__(self, latent_dim: int, hidden: int, widths: list[int], channels: int, fast: bool):
        super().__init__()
        self.linear = nn.Sequential(*_linear(latent_dim, hidden), *_linear(hidden, 4 * widths[0]))
        pairs = zip(widths[:-1], widths[1:], strict=True)
        self.up = nn.Sequential(
            *[ConvUp(i, o, fast=fast) for i, o in pairs],
            ConvUp(widths[-1], channels, last=True, fast=fast),
        )

    def forward(self, z: Tensor) -> Tensor:
        """z (B, d) -> logits (B, C, S, S)."""
        h = self.linear[1:](in_float32(self.linear[0], z))  # (B, 4 widths[0])
        return self.up(h.unflatten(1, (-1, 2, 2)))  # (B, widths[0], 2, 2) -> (B, C, S, S)


class SkipEncoder(nn.Module):
    """Down blocks with skip connections to 1 x 1 (Zheng et al. 2018); no linear layers.

    | layer (64 x 64, base 32) | output |
    | --- | --- |
    | 5 x SkipDown | 32 x 32 x 32, 64 x 16 x 16, 128 x 8 x 8, 256 x 4 x 4, 512 x 2 x 2 |
    | SkipDown, last | 2 d x 1 x 1: log-variance, then mean |
    """

    def __init__(self, channels: int, widths: list[int], latent_dim: int, fast: bool):
        super().__init__()
        pairs = zip([channels, *widths[:-1]], widths, strict=True)
        self.down = nn.Sequential(
            *[SkipDown(i, o, fast=fast) for i, o in pairs],
            SkipDown(widths[-1], 2 * latent_dim, last=True, fast=fast),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, S, S) -> mean (B, d), logvar (B, d)."""
        heads = in_float32(self.down[-1], self.down[:-1](x))  # (B, 2 d, 1, 1)
        logvar, mean = torch.flatten(heads, 1).chunk(2, dim=1)
        return mean, logvar


class SkipDecoder(nn.Module):
    """A 1 x 1 block from the latent, then up blocks with skip connections (Zheng et al. 2018).

    | layer (64 x 64, base 32) | output |
    | --- | --- |
    | SkipIn | 512 x 1 x 1 |
    | 5 x SkipUp | 256 x 2 x 2, 128 x 4 x 4, 64 x 8 x 8, 32 x 16 x 16, 32 x 32 x 32 |
    | SkipUp, last | C x 64 x 64, logits |

    At 128 x 128 and 256 x 256, one and two more steps of the full width come first.
    """

    def __init__(self, latent_dim: int, widths: list[int], channels: int, fast: bool):
        super().__init__()
        self.first = SkipIn(latent_dim, widths[0])
        pairs = zip(widths[:-1], widths[1:], strict=True)
        self.up = nn.Sequential(
            *[SkipUp(i, o, fast=fast) for i, o in pairs],
            SkipUp(widths[-1], channels, last=True, fast=fast),
        )

    def forward(self, z: Tensor) -> Tensor:
        """z (B, d) -> logits (B, C, S, S)."""
        h = in_float32(self.first, z[:, :, None, None])  # (B, widths[0], 1, 1)
        return self.up(h)  # -> (B, C, S, S)


def _linear(n_in: int, n_out: int) -> list[nn.Module]:
    return [nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out), nn.ReLU()]


def input_side(image_size: int, downsample: int) -> int:
    """Side in pixels of a cell as the network sees it.

    Args:
        image_size: side of the cell image.
        downsample: factor by which it is downsampled.

    Raises:
        UserError: no network takes such an image.
    """
    size, odd = divmod(image_size, downsample)
    if downsample > 1 and (odd or size not in INPUT_SIZES):
        raise UserError(
            f"`downsample` {downsample} of `image_size` {image_size}: what is left must be one of "
            f"{', '.join(map(str, INPUT_SIZES))} pixels"
        )
    return size


def network_arguments(settings: Any, channels: int) -> dict[str, Any]:
    """Arguments of `build_vae`.

    Args:
        settings: of a run.
        channels: C of its cells.

    Raises:
        UserError: no network takes the downsampled image.
    """
    names = ("architecture", "base", "latent_dim", "decoder_base", "min_logvar")
    return {
        "image_size": input_side(settings.image_size, settings.downsample),
        "channels": channels,
        **{name: getattr(settings, name) for name in names},
    }


def _refuse_impossible(
    architecture: str, image_size: int, at_least_1: Mapping[str, int], min_logvar: float
) -> None:
    """Arguments of `build_vae`, those of `at_least_1` by their names."""
    if image_size not in INPUT_SIZES:
        raise UserError(
            f"`image_size` {image_size}: must be one of {', '.join(map(str, INPUT_SIZES))}"
        )
    if architecture not in ARCHITECTURES:
        raise UserError(f"`architecture` {architecture}: must be one of {', '.join(ARCHITECTURES)}")
    for name, value in at_least_1.items():
        if value < 1:
            raise UserError(f"`{name}` {value}: must be at least 1")
    if not -20 <= min_logvar < LOGVAR_RANGE[1]:  # exp(-20 / 2) is near the rounding of float32
        raise UserError(
            f"`min_logvar` {min_logvar:g}: must be at least -20 and below {LOGVAR_RANGE[1]:g}"
        )


def build_vae(
    architecture: str = "vanilla",
    image_size: int = 64,
    channels: int = 3,
    base: int = 32,
    latent_dim: int = 3,
    decoder_base: int | None = None,
    min_logvar: float = LOGVAR_RANGE[0],
    fast: bool = True,
) -> VAE:
    """A VAE of the thesis by name, with the thesis's initial weights.

    Args:
        architecture: `vanilla`, `sc` (skip connections) or `simple` (constant width, for dSprites).
        image_size: S in pixels: 32, 64, 128 or 256.
        channels: C of the image.
        base: channels of the first encoder block; the deeper ones have 2, 4, 8, 16 times as many.
        latent_dim: d.
        decoder_base: the same for the decoder; None for the encoder's.
        min_logvar: smallest log-variance of a posterior.
        fast: compute upsampling in its fast exact form; parameters and results stay the same.

    Raises:
        UserError: no network can be built from a value.
    """
    decoder_base = base if decoder_base is None else decoder_base
    _refuse_impossible(
        architecture,
        image_size,
        {"base": base, "latent_dim": latent_dim, "decoder_base": decoder_base},
        min_logvar,
    )
    logvar_range = (min_logvar, LOGVAR_RANGE[1])
    steps = int(math.log2(image_size)) - 1  # halvings down to 2 x 2
    factors = [min(2**i, 16) for i in range(steps)]
    encoder_widths = [base * f for f in factors]
    falling = [f for f in (8, 4, 2, 1) if f < factors[-1]]
    if architecture == "vanilla":
        up = [factors[-1], *falling, *[1] * (steps - 1 - len(falling))]
        vae = VAE(
            ConvEncoder(channels, encoder_widths, (1024, 256), latent_dim),
            ConvDecoder(latent_dim, 1024, [decoder_base * f for f in up], channels, fast=fast),
            logvar_range,
        )
    elif architecture == "sc":
        up = [*[factors[-1]] * (steps - len(falling)), *falling, 1]
        vae = VAE(
            SkipEncoder(channels, encoder_widths, latent_dim, fast),
            SkipDecoder(latent_dim, [decoder_base * f for f in up], channels, fast=fast),
            logvar_range,
        )
    else:
        vae = VAE(
            ConvEncoder(channels, [base] * steps, (512, 256), latent_dim),
            ConvDecoder(latent_dim, 512, [decoder_base] * steps, channels, fast=fast),
            logvar_range,
        )
    initialise(vae)
    # Kernels have the memory layout of the images; else every step would convert them twice.
    return vae.to(memory_format=torch.channels_last) if fast else vae
