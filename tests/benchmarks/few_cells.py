"""Held-out mutual information at few cells, on data whose information is known.

Three latent columns s are hidden in 40 features, mixed with 37 columns of noise by an orthogonal
matrix, and the code of a cell is z = rho s + noise, so that I = -3/2 log(1 - rho^2). For heavy
tails every feature becomes Student's t with 1.5 degrees of freedom, whose variance is infinite, and
every code is cubed: monotone changes of single columns, which leave the information as it is.

The table shows for each number of cells the mean over the seeds, its bias, the standard deviation
between seeds, the mean of the reported spread (between repeats), the lowest and the highest value,
and how many values lie above the truth by more than their own spread.

    python tests/benchmarks/few_cells.py
    python tests/benchmarks/few_cells.py --cells 200 --nats 2 --seeds 3
"""

import argparse
import math
import sys
import time
from pathlib import Path

import numpy as np
import scipy
import torch
from common import machine_line

sys.path.insert(0, str(Path(__file__).parents[2]))

from quantitative_metrics.MINE_metric import mutual_information  # noqa: E402

COLUMNS = 40  # features
LATENT = 3  # dimensions of the code
LOUDNESS = 3.0  # standard deviation of what the code follows, in that of the noise beside it
DEGREES = 1.5  # of freedom


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cells", nargs="+", type=int, default=[200, 300, 500, 1000, 2500])
    parser.add_argument("--nats", nargs="+", type=float, default=[0, 1, 2], help="true I")
    parser.add_argument("--tails", nargs="+", default=["light", "heavy"])
    parser.add_argument("--seeds", type=int, default=10)
    return parser.parse_args()


def cells_of_known_information(
    nats: float, n: int, heavy: bool, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(n, 40) features and (n, 3) codes that share so many nats."""
    rng = np.random.default_rng(seed)
    rho = math.sqrt(1 - math.exp(-2 * nats / LATENT))
    signal, noise = rng.standard_normal((2, n, LATENT))
    z = rho * signal + math.sqrt(1 - rho**2) * noise
    mix = scipy.stats.ortho_group.rvs(COLUMNS, random_state=0)
    mix[:LATENT] *= LOUDNESS
    x = np.hstack([signal, rng.standard_normal((n, COLUMNS - LATENT))]) @ mix
    if not heavy:
        return x, z
    shares = scipy.stats.norm.cdf(x / np.linalg.norm(mix, axis=0))
    return scipy.stats.t.ppf(shares, DEGREES), z**3


def main() -> None:
    """A row per number of cells, tails and information."""
    args = parse_arguments()
    torch.set_num_threads(1)
    print(machine_line("cpu"))
    print(f"{args.seeds} seeds; {COLUMNS} features, {LATENT} dimensions of the code; nats")
    print("cells  tails  true    mean    bias  between seeds  spread  lowest  highest  above  time")
    above_in_all = 0
    for n in args.cells:
        for tails in args.tails:
            for nats in args.nats:
                start, scores = time.perf_counter(), []
                for seed in range(args.seeds):
                    x, z = cells_of_known_information(nats, n, tails == "heavy", seed)
                    scores.append(mutual_information(x, z, seed=seed))
                seconds = (time.perf_counter() - start) / args.seeds
                values = np.array([score.value for score in scores])
                spreads = np.array([score.spread for score in scores])
                above = int((values > nats + spreads).sum())
                above_in_all += above
                print(
                    f"{n:5d}  {tails}  {nats:4.1f}  {values.mean():6.3f}  "
                    f"{values.mean() - nats:6.3f}  {values.std(ddof=1):13.3f}  "
                    f"{spreads.mean():6.3f}  {values.min():6.3f}  {values.max():7.3f}  {above:5d}"
                    f"  {seconds:.1f} s",
                    flush=True,
                )
    print(f"values above the truth by more than their spread: {above_in_all}")


if __name__ == "__main__":
    main()
