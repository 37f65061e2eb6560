"""The device that computes, its arithmetic, and what it cannot do.

In bfloat16 (autocast) convolutions and wide linear layers are fast and numbers keep 8 binary
digits. That is enough for activations, but not for a latent code, which may be 3 with a standard
deviation of 0.05, nor for a log-variance, whose rounding error counts once per pixel of an image.
Layers that read or write such numbers run `in_float32`.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from util import processes
from util.errors import UserError

Precision = Literal["float32", "bfloat16"]

# CUDA cannot index unsigned integers of more than 8 bits, but the same bits as signed integers.
_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


def pick_device(name: str) -> torch.device:
    """`auto` takes cuda, then mps, then cpu; each of many processes gets a GPU of its own.

    From then on this process computes float32 without TF32 (`switch_off_tf32`).

    Raises:
        UserError: the device is not there.
    """
    switch_off_tf32()
    if processes.world_size() > 1:
        name = _device_of_this_process(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu" and torch.backends.mps.is_available():
            name = "mps"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"`device` {name}: not usable here ({reason}); try `device` auto"
        ) from error
    return device


def _device_of_this_process(name: str) -> str:
    """The GPU of this process's number on its machine, or the CPU."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if name not in ("auto", "cuda"):
        raise UserError(
            f"`device` {name} with {processes.world_size()} processes: give cuda, so that each "
            "takes a GPU of its own, or cpu"
        )
    number, gpus = processes.local_rank(), torch.cuda.device_count()
    if number >= gpus:
        raise UserError(f"more processes than the {gpus} GPUs of this machine: start fewer")
    torch.cuda.set_device(number)
    return f"cuda:{number}"


def scoring_device(device: torch.device) -> str:
    """The device for scores of what another computed: the same if it knows float64, else cpu."""
    return "cpu" if device.type == "mps" else str(device)


def describe_device(device: torch.device) -> dict[str, str]:
    """What settings.json says of a device: its name and, of a GPU, model and CUDA version."""
    if device.type != "cuda":
        return {"device": str(device)}
    return {
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device),
        "cuda": str(torch.version.cuda),
    }


def resolve_precision(asked: str, device: torch.device) -> Precision:
    """What `auto` means: bfloat16 on CUDA, float32 elsewhere."""
    if asked == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    return asked


def autocast(device: torch.device, bfloat16: bool) -> AbstractContextManager:
    """Compute one forward pass in bfloat16 where that is safe, or as it is.

    Use one block per forward pass: autocast keeps the weights it has cast until the block ends, so
    in a longer block every step would use the weights of the first.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=bfloat16)


def in_float32(layer: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """`layer(*inputs)` in float32 (or in the inputs' own type outside autocast)."""
    kind = inputs[0].device.type
    if not torch.is_autocast_enabled(kind):
        return layer(*inputs)
    with torch.autocast(kind, enabled=False):
        return layer(*(x.float() for x in inputs))


def switch_off_tf32() -> None:
    """Compute float32 in full precision on NVIDIA GPUs, for this process.

    By default PyTorch lets convolutions round float32 inputs to 10 binary digits (TF32).
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def select_rows(values: Tensor, rows: Tensor | slice) -> Tensor:
    """`values[rows]` for numbers of any type, on any device."""
    signed = _SIGNED.get(values.dtype, values.dtype)
    return values.view(signed)[rows].view(values.dtype)


def tensor_type(dtype: np.dtype) -> torch.dtype:
    """Torch's name of a NumPy type."""
    return torch.from_numpy(np.empty(0, dtype)).dtype


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch compute on one CPU thread meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
