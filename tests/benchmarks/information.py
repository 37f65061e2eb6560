"""Mutual information of Gaussians whose truth is known, and the time on images of cells.

Pairs of d-dimensional Gaussians, correlated column by column, have I = -d/2 log(1 - rho^2). The
table shows for each I what `quantitative_metrics/MINE_metric.py` finds: mean over the repeats, its
error in percent, the distance to the truth in standard errors, the cap, and the time taken; with
`--plain` also what one critic at a time finds, as the work first had it, and how long that takes.

    python tests/benchmarks/information.py
    python tests/benchmarks/information.py --bounds infonce nwj interpolated --dims 3
    python tests/benchmarks/information.py --nats --images 7387
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from common import machine_line
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

sys.path.insert(0, str(Path(__file__).parents[2]))

from quantitative_metrics.critics import CHECK_EVERY, COMPARED_AT_ONCE, InformationSettings  # noqa: E402
from quantitative_metrics.MINE_metric import InformationScore, mutual_information  # noqa: E402
from util.data_processing import CellSource, load_cells  # noqa: E402
from util.mutual_information import InformationEstimator  # noqa: E402


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nats", nargs="*", type=float, default=[1, 2, 4, 6], help="true I")
    parser.add_argument("--dims", nargs="+", type=int, default=[3, 20], help="columns of x and z")
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--bounds", nargs="+", default=["infonce"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=0, help="also time so many simulated cells")
    parser.add_argument("--plain", action="store_true", help="also one critic at a time")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def gaussian_pairs(nats: float, dim: int, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """n pairs (n, d), (n, d) of standard Gaussians with the mutual information `nats`."""
    rng = np.random.default_rng(seed)
    x, noise = rng.standard_normal((2, n, dim))
    rho = math.sqrt(1 - math.exp(-2 * nats / dim))
    return x, rho * x + math.sqrt(1 - rho**2) * noise


AS_FIRST_WRITTEN = InformationSettings(
    components=None, hidden=256, batch=256, patience=200, learning_rate=4e-3
)


def one_at_a_time(
    x: np.ndarray,
    z: np.ndarray,
    settings: InformationSettings = AS_FIRST_WRITTEN,
    seed: int = 0,
) -> SimpleNamespace:
    """The value, spread and epochs of InfoNCE on held-out pairs, critic by critic.

    Args:
        x: (N, D) vectors, or (N, C, H, W) pixels in 0..1, small.
        z: (N, d) codes.
        settings: how to train.
        seed: of parts and initial weights.
    """
    order = np.random.default_rng(seed).permutation(len(x))
    values, epochs = [], []
    for repeat in range(settings.repeats):
        torch.manual_seed(seed + repeat)
        rolled = np.roll(order, -repeat * (len(order) // 5))
        train, stop, report = np.split(rolled, [int(0.6 * len(x)), int(0.8 * len(x))])
        images = x.reshape(len(x), -1) if x.ndim == 4 else standardised(x, train)
        value, steps = _plainly(
            torch.from_numpy(images).float(),
            torch.from_numpy(standardised(z, train)).float(),
            *(train, stop, report, settings),
        )
        values.append(value)
        epochs.append(steps * settings.batch / len(train))
    return SimpleNamespace(value=np.mean(values), spread=np.std(values, ddof=1), epochs=epochs)


def standardised(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and standard deviation 1 in these rows."""
    return (values - values[rows].mean(0)) / values[rows].std(0)


def _plainly(
    x: torch.Tensor,
    z: torch.Tensor,
    train: np.ndarray,
    stop: np.ndarray,
    report: np.ndarray,
    settings: InformationSettings,
) -> tuple[float, int]:
    """The bound on the pairs to report by one critic, and the steps it was trained."""
    estimator = InformationEstimator((x.shape[1],), z.shape[1], hidden=settings.hidden)
    optimizer = torch.optim.Adam(estimator.parameters(), settings.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    averaged = AveragedModel(estimator, multi_avg_fn=get_ema_multi_avg_fn(settings.averaging))
    best, best_step, weights = -math.inf, 0, {}

    def held_out(rows: np.ndarray, at_once: int) -> float:
        with torch.no_grad():
            chunks = np.array_split(rows, math.ceil(len(rows) / at_once))
            return float(np.mean([averaged(x[chunk], z[chunk]).item() for chunk in chunks]))

    rows = torch.from_numpy(train)[:0]
    for step in range(1, settings.steps + 1):
        if len(rows) < settings.batch:
            rows = torch.from_numpy(np.random.default_rng(step).permutation(train))
        batch, rows = rows[: settings.batch], rows[settings.batch :]
        optimizer.zero_grad()
        bound = estimator(x[batch], z[batch])
        (-bound).backward()
        optimizer.step()
        schedule.step()
        averaged.update_parameters(estimator)
        if step % CHECK_EVERY == 0:
            value = held_out(stop, 1024)
            if value > best:
                best, best_step, weights = value, step, deepcopy(averaged.state_dict())
            if step - best_step >= settings.patience:
                break
    averaged.load_state_dict(weights)
    return held_out(report, COMPARED_AT_ONCE), step


def timed(function: Callable, *args, **kwargs) -> tuple[InformationScore, str]:
    """The score and the time it took, on the clock and of the processor, in seconds."""
    start, processor = time.perf_counter(), time.process_time()
    score = function(*args, **kwargs)
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    return score, f"{seconds:.0f} s ({processor:.0f} s of CPU)"


def passes(score: InformationScore) -> str:
    """The epochs of each repeat."""
    return ", ".join(f"{epochs:.0f}" for epochs in score.epochs)


def print_gaussians(args: argparse.Namespace) -> None:
    """A row per bound, dimension and information."""
    print(f"{args.pairs:,} pairs of Gaussians, {args.repeats} repeats")
    print(
        "bound         d  true   found  spread  st.err.   error  (found-true)/s.e.    cap  epochs"
    )
    for bound in args.bounds:
        for dim in args.dims:
            for nats in args.nats:
                x, z = gaussian_pairs(nats, dim, args.pairs, args.seed + 1)
                score, seconds = timed(
                    mutual_information,
                    x,
                    z,
                    bound=bound,
                    repeats=args.repeats,
                    seed=args.seed,
                    device=args.device,
                )
                error = score.value - nats
                print(
                    f"{bound:12} {dim:2d} {nats:5.1f} {score.value:7.3f} {score.spread:7.3f} "
                    f"{score.standard_error:8.3f} {100 * error / nats:6.1f} % "
                    f"{error / score.standard_error:17.1f} {score.cap:6.2f}  "
                    f"{passes(score)}  {seconds}",
                    flush=True,
                )
                if args.plain and bound == "infonce":
                    settings = replace(AS_FIRST_WRITTEN, repeats=args.repeats)
                    score, seconds = timed(one_at_a_time, x, z, settings, args.seed)
                    print(
                        f"  one at a time    {score.value:7.3f} {score.spread:7.3f} "
                        f"{passes(score):>48}  {seconds}",
                        flush=True,
                    )


def print_images(args: argparse.Namespace) -> None:
    """What the known state of simulated cells tells of their images, and the time."""
    cells = load_cells(CellSource(simulated_cells=args.images), progress=False)
    states = cells.table[["GT_colorR", "GT_colorG", "GT_Shape"]].to_numpy()
    print(f"\nimages {cells.images.shape} {cells.images.dtype}; codes are two colours and shape")
    score, seconds = timed(
        mutual_information,
        cells.images,
        states,
        repeats=args.repeats,
        seed=args.seed,
        device=args.device,
    )
    print(
        f"found {score.value:.3f} (spread {score.spread:.3f}, s.e. {score.standard_error:.3f}, cap "
        f"{score.cap:.2f}), epochs {passes(score)}, {seconds}"
    )


def main() -> None:
    """The table of the Gaussians, and the images where asked for."""
    args = parse_arguments()
    print(machine_line(args.device))
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    if args.nats:
        print_gaussians(args)
    if args.images:
        print_images(args)


if __name__ == "__main__":
    main()
