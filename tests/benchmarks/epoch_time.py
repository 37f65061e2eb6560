"""Time of training epochs on simulated BBBC031 cells, as the scripts train them.

For each model: seconds and images/s of an epoch with its validation, share of the machine's peak
(operations of the training steps), memory; against the plain form of the decoder in float32, epoch
by epoch in turn in one process. `--run` trains one model from beginning to end instead.

    python tests/benchmarks/epoch_time.py --device cuda
    python tests/benchmarks/epoch_time.py --device cuda --models infomax:32 --run --epochs 150
    python tests/benchmarks/epoch_time.py --cells 640 --epochs 3 --models vanilla:16
"""

import argparse
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[2]))

from models.infoMAX_VAE import InfoMaxObjective  # noqa: E402  the root has to be on the path
from models.losses import ELBOObjective  # noqa: E402
from models.networks import build_vae  # noqa: E402
from models.train_net import Schedule, train  # noqa: E402
from util.data_processing import CellBatches, CellSource, load_cells  # noqa: E402
from util.mutual_information import InformationEstimator  # noqa: E402
from util.runs import seed_everything  # noqa: E402
from util.splitting import split_cells  # noqa: E402

PEAK_SIZE = 4096


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--models",
        nargs="+",
        default=["vanilla:32", "sc:32", "infomax:32"],
        metavar="NAME:BASE",
        help="vanilla, sc, or infomax (the vanilla network with the InfoMax objective)",
    )
    parser.add_argument("--cells", type=int, default=7387)
    parser.add_argument("--batch", type=int, default=64, help="images per step")
    parser.add_argument("--epochs", type=int, default=5, help="timed epochs of each side")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--run", action="store_true", help="one whole training, not a comparison")
    return parser.parse_args()


def build(model: str, fast: bool, device: str) -> tuple[nn.Module, nn.Module]:
    """Network and objective by name, with the same initial weights in both forms."""
    name, _, base = model.partition(":")
    seed_everything(0)
    architecture = "vanilla" if name == "infomax" else name
    vae = build_vae(architecture, base=int(base or 32), fast=fast).to(device)
    if name != "infomax":
        return vae, ELBOObjective().to(device)
    estimator = InformationEstimator((3, 64, 64), 3)
    return vae, InfoMaxObjective(estimator, alpha=20.0, beta=1.0, critic_learning_rate=5e-4).to(
        device
    )


def timed_epochs(
    sides: dict[str, tuple[nn.Module, nn.Module, bool]],
    batches: CellBatches,
    split: tuple[np.ndarray, np.ndarray],
    epochs: int,
) -> dict[str, list[float]]:
    """Seconds of every epoch but the first of each side, the sides in turn."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        for epoch in range(1, epochs + 2):
            for side, (model, objective, low) in sides.items():
                own = Path(folder) / side
                own.mkdir(exist_ok=True)
                schedule = Schedule(epoch, 1e-4, bfloat16=low)
                history = train(
                    model, objective, batches, split, schedule=schedule, folder=own, progress=False
                )
                seconds[side].append(history[-1]["seconds"])
    return {side: values[1:] for side, values in seconds.items()}


def flops_of_a_step(model: nn.Module, objective: nn.Module, batches: CellBatches) -> int:
    """Floating-point operations of forward and backward of one training batch."""
    x = batches.take(torch.arange(batches.batch_size))
    with FlopCounterMode(display=False) as counter:
        objective.train()(model.train(), x)["loss"].backward()
    return counter.get_total_flops()


def matmul_peak(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product, the median of ten."""
    square = torch.randn(PEAK_SIZE, PEAK_SIZE, device=device, dtype=dtype)
    synchronize = getattr(torch, device.split(":")[0]).synchronize
    seconds = []
    for _ in range(12):
        synchronize()
        start = time.perf_counter()
        square @ square
        synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * PEAK_SIZE**3 / statistics.median(seconds[2:])


def memory(device: str) -> str:
    """Peak memory of the device, or of the process on the CPU."""
    if device.startswith("cuda"):
        return f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB on the device"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB of the process"


def compare(
    name: str, batches: CellBatches, split: tuple[np.ndarray, np.ndarray], args: argparse.Namespace
) -> None:
    """Epochs of one model as the scripts train it, against the plain form in float32."""
    low = args.precision == "bfloat16" or (args.precision, args.device[:4]) == ("auto", "cuda")
    sides = {
        "fast": (*build(name, True, args.device), low),
        "plain float32": (*build(name, False, args.device), False),
    }
    seconds = timed_epochs(sides, batches, split, args.epochs)
    peak = matmul_peak(args.device, torch.bfloat16 if low else torch.float32)
    print(f"\n{name}, {len(split[0])} training cells, batches of {batches.batch_size}")
    for side, (model, objective, is_low) in sides.items():
        middle = statistics.median(seconds[side])
        steps = len(split[0]) // batches.batch_size
        rate = steps * flops_of_a_step(model, objective, batches) / middle
        print(
            f"  {side} ({'bfloat16' if is_low else 'float32'}): epoch {middle:.3f} s "
            f"({min(seconds[side]):.3f}-{max(seconds[side]):.3f}), "
            f"{len(split[0]) / middle:,.0f} images/s, {100 * rate / peak:.1f} % of the matmul peak "
            f"({peak / 1e12:.2f} TFLOP/s in {'bfloat16' if low else 'float32'})"
        )
    ratios = [p / f for p, f in zip(seconds["plain float32"], seconds["fast"], strict=True)]
    middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
    print(f"  fast over plain: {middle:.2f} x ({low:.2f}-{high:.2f})")
    print(f"  peak memory so far: {memory(args.device)}")


def whole_run(
    name: str, batches: CellBatches, split: tuple[np.ndarray, np.ndarray], args: argparse.Namespace
) -> None:
    """Train one model from the first epoch to the last and say how long it took."""
    low = args.precision == "bfloat16" or (args.precision, args.device[:4]) == ("auto", "cuda")
    model, objective = build(name, True, args.device)
    schedule = Schedule(args.epochs, 1e-4, patience=args.epochs, bfloat16=low)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        history = train(model, objective, batches, split, schedule=schedule, folder=Path(folder))
    print(
        f"{name}: {len(history)} epochs of {len(split[0])} cells in "
        f"{time.perf_counter() - started:.1f} s, checkpoints and validation included"
    )


def main() -> None:
    """Time every model asked for."""
    args = parse_arguments()
    print(f"torch {torch.__version__}, {args.device}, {torch.get_num_threads()} threads")
    if args.device.startswith("cuda"):
        print(f"{torch.cuda.get_device_name()}; TF32 {torch.backends.cuda.matmul.allow_tf32}")
    cells = load_cells(CellSource(simulated_cells=args.cells))
    split = split_cells(cells.table["GT_label"], len(cells.table), 0.15, 0)
    batches = CellBatches(cells, torch.device(args.device), args.batch, augmentation=True)
    for name in args.models:
        (whole_run if args.run else compare)(name, batches, split, args)


if __name__ == "__main__":
    main()
