"""Time of a training step: the plain form of the upsampling against the fast exact form.

Both sides start from the same weights and see the same batch; forward, loss, backward and Adam of
the one and of the other alternate in one process, so a drift of the machine meets both. A matrix
product of 2048 x 2048 in float32 between them gives the machine's peak of the same minutes.

    python tests/benchmarks/training_step.py
    python tests/benchmarks/training_step.py --models vanilla:32 --profile
    python tests/benchmarks/training_step.py --device cuda --pairs 50
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from common import machine_line, spread, synchronize
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[2]))

from models.networks import build_vae  # noqa: E402  the repository root has to be on the path

PEAK_SIZE = 2048
SIDES = ("plain", "fast")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--models", nargs="+", default=["vanilla:32", "vanilla:16", "sc:32"], metavar="NAME:BASE"
    )
    parser.add_argument("--image-size", type=int, default=64, help="pixels")
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64, help="images per step")
    parser.add_argument("--pairs", type=int, default=15, help="timed steps of each side")
    parser.add_argument("--warm-up", type=int, default=3, help="steps of each side before")
    parser.add_argument("--threads", type=int, default=None, help="of the CPU; default: PyTorch's")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    parser.add_argument("--bf16", action="store_true", help="both sides under bfloat16 autocast")
    parser.add_argument(
        "--channels-last",
        action="store_true",
        help="the plain side in channels-last memory too (the fast side always is)",
    )
    parser.add_argument("--profile", action="store_true", help="where the time of each side goes")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def build_pair(name: str, base: int, args: argparse.Namespace) -> dict[str, nn.Module]:
    """The same network in both forms, with the same weights."""
    pair = {}
    for side in SIDES:
        torch.manual_seed(args.seed)
        pair[side] = build_vae(name, args.image_size, args.channels, base, fast=side == "fast")
    if args.channels_last:
        pair["plain"].to(memory_format=torch.channels_last)
    return {side: model.to(args.device) for side, model in pair.items()}


def training_step(model: nn.Module, images: Tensor, bf16: bool) -> Callable[[], Tensor]:
    """A function that makes one step of Adam on the negative ELBO and returns the loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=images.device.type != "mps")

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            logits, mean, logvar, _ = model(images)
        logits, mean, logvar = logits.float(), mean.float(), logvar.float()
        reconstruction = F.binary_cross_entropy_with_logits(logits, images, reduction="sum")
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum()
        loss = (reconstruction + kl) / len(images)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def timed(function: Callable[[], object], device: str) -> float:
    """Seconds of one call, with the device idle before and after."""
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def compare(name: str, base: int, args: argparse.Namespace) -> None:
    """Time one network in both forms and print a line for each, and the ratio."""
    torch.manual_seed(args.seed)
    shape = (args.batch, args.channels, args.image_size, args.image_size)
    images = torch.rand(shape, device=args.device)
    square = torch.randn(PEAK_SIZE, PEAK_SIZE, device=args.device)
    pair = build_pair(name, base, args)
    steps = {side: training_step(model, images, args.bf16) for side, model in pair.items()}

    losses, flops = {}, {}
    for side, step in steps.items():
        torch.manual_seed(args.seed)  # the same noise of the sampled codes
        with FlopCounterMode(display=False) as counter:
            losses[side] = step().item()
        flops[side] = counter.get_total_flops()
        for _ in range(args.warm_up):
            step()

    seconds: dict[str, list[float]] = {"peak": [], **{side: [] for side in SIDES}}
    for _ in range(args.pairs):
        seconds["peak"].append(timed(lambda: square @ square, args.device))
        for side, step in steps.items():
            seconds[side].append(timed(step, args.device))

    peak = 2 * PEAK_SIZE**3 / statistics.median(seconds["peak"])
    print(f"\n{name}, base {base}, batch {args.batch}, {args.channels} x {args.image_size} pixels")
    print(f"  matmul peak in float32: {peak / 1e9:.0f} GFLOP/s")
    for side in SIDES:
        rate = flops[side] / statistics.median(seconds[side])
        print(
            f"  {side}: {spread([1e3 * s for s in seconds[side]])} ms, {flops[side] / 1e9:.1f} "
            f"GFLOP, {100 * rate / peak:.0f} % of the peak, loss of the first step "
            f"{losses[side]:.4f}"
        )
    ratios = [p / f for p, f in zip(seconds["plain"], seconds["fast"], strict=True)]
    print(f"  speed of fast over plain: {spread(ratios, ' x', 2)}")
    if args.profile:
        for side, step in steps.items():
            print_profile(side, step, args.device)


def print_profile(side: str, step: Callable[[], Tensor], device: str, repeats: int = 5) -> None:
    """The operators that take most of a step."""
    activities = [ProfilerActivity.CPU]
    if device.startswith("cuda"):
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as recorded:
        for _ in range(repeats):
            step()
    key = "self_device_time_total" if len(activities) > 1 else "self_cpu_time_total"
    events = sorted(recorded.key_averages(), key=lambda event: -getattr(event, key))
    print(f"  {side}, ms per step in the operator itself:")
    for event in events[:15]:
        milliseconds = getattr(event, key) / repeats / 1e3
        print(f"    {milliseconds:8.2f}  {event.count // repeats:4d} x {event.key}")


def main() -> None:
    """Compare every model asked for."""
    args = parse_arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    print(machine_line(args.device))
    print("median (quartiles) of", args.pairs, "alternating pairs")
    for model in args.models:
        name, _, base = model.partition(":")
        compare(name, int(base or 32), args)


if __name__ == "__main__":
    main()
