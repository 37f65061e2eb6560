"""Mutual information of Gaussians whose truth is known, and the time on images of cells.

Pairs of d-dimensional Gaussians, correlated column by column, have I = -d/2 log(1 - rho^2). The
table shows for each I what `quantitative_metrics/MINE_metric.py` finds: mean over the repeats, its
error in percent, the distance to the truth in standard errors, the cap, and the time taken.

    python tests/benchmarks/information.py
    python tests/benchmarks/information.py --bounds infonce nwj interpolated --dims 3
    python tests/benchmarks/information.py --nats --images 7387
"""

import argparse
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from common import machine_line

sys.path.insert(0, str(Path(__file__).parents[2]))

from quantitative_metrics.MINE_metric import (  # noqa: E402  the repository root has to be on the path
    InformationScore,
    mutual_information,
)
from util.data_processing import load_cells  # noqa: E402


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nats", nargs="*", type=float, default=[1, 2, 4, 6], help="true I")
    parser.add_argument("--dims", nargs="+", type=int, default=[3, 20], help="columns of x and z")
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--bounds", nargs="+", default=["infonce"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=0, help="also time so many simulated cells")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def gaussian_pairs(nats: float, dim: int, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """n pairs (n, d), (n, d) of standard Gaussians with the mutual information `nats`."""
    rng = np.random.default_rng(seed)
    x, noise = rng.standard_normal((2, n, dim))
    rho = math.sqrt(1 - math.exp(-2 * nats / dim))
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def timed(*args, **kwargs) -> tuple[InformationScore, str]:
    """The score and the time it took, on the clock and of the processor, in seconds."""
    start, processor = time.perf_counter(), time.process_time()
    score = mutual_information(*args, **kwargs)
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
                    x, z, bound=bound, repeats=args.repeats, seed=args.seed, device=args.device
                )
                error = score.value - nats
                print(
                    f"{bound:12} {dim:2d} {nats:5.1f} {score.value:7.3f} {score.spread:7.3f} "
                    f"{score.standard_error:8.3f} {100 * error / nats:6.1f} % "
                    f"{error / score.standard_error:17.1f} {score.cap:6.2f}  "
                    f"{passes(score)}  {seconds}",
                    flush=True,
                )


def print_images(args: argparse.Namespace) -> None:
    """What the known state of simulated cells tells of their images, and the time."""
    cells = load_cells("simulated", simulated_cells=args.images, progress=False)
    states = cells.table[["GT_colorR", "GT_colorG", "GT_Shape"]].to_numpy()
    print(f"\nimages {cells.images.shape} {cells.images.dtype}; codes are two colours and shape")
    score, seconds = timed(
        cells.images, states, repeats=args.repeats, seed=args.seed, device=args.device
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
    if args.nats:
        print_gaussians(args)
    if args.images:
        print_images(args)


if __name__ == "__main__":
    main()
