"""Time and memory of the unsupervised metrics against scikit-learn's trustworthiness.

One pass gives trustworthiness, continuity and LCMC at every neighbourhood size and the local
quality of every cell; scikit-learn gives trustworthiness at one size. Both see the same pixels and
codes, in turn in one process. Memory is what the process holds at most above the data.

    python tests/benchmarks/ranking.py
    python tests/benchmarks/ranking.py --cells 2000 4000 8000 16000 --alone
    python tests/benchmarks/ranking.py --cells 310194 --columns 4096 --sample 2000 --alone
    python tests/benchmarks/ranking.py --cells 8000 310194 --device cuda --alone
"""

import argparse
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import machine_line, spread

sys.path.insert(0, str(Path(__file__).parents[2]))

from quantitative_metrics.unsupervised_metric import co_ranking  # noqa: E402  needs the root

SIZE = 100  # neighbourhood size of the comparison


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cells", type=int, nargs="+", default=[8000])
    parser.add_argument("--columns", type=int, default=12288, help="64 x 64 x 3 pixels")
    parser.add_argument("--dtype", nargs="+", default=["uint8", "float32"])
    parser.add_argument("--sample", type=int, default=None, help="rank so many cells against all")
    parser.add_argument("--rounds", type=int, default=3, help="turns of both sides, 2 or more")
    parser.add_argument("--alone", action="store_true", help="without scikit-learn")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def make_cells(n_cells: int, columns: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels on a noisy three-dimensional manifold, (N, columns), and its codes (N, 3)."""
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(n_cells, 3)).astype(np.float32)
    directions = rng.normal(size=(3, columns)).astype(np.float32)
    pixels = np.empty((n_cells, columns), dtype)
    for rows in np.array_split(np.arange(n_cells), -(-n_cells // 4096)):
        noise = rng.normal(size=(len(rows), columns)).astype(np.float32)
        values = np.clip(128 + 20 * (codes[rows] @ directions) + 20 * noise, 0, 255)
        pixels[rows] = values if dtype == "uint8" else values / 255
    return pixels, codes


def resident_mib() -> float:
    """Memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def measured(function: Callable[[], object]) -> tuple[float, float]:
    """Seconds of one call, and the MiB that the process grew by at most meanwhile."""
    before, peak, done = resident_mib(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, resident_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    function()
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    return seconds, max(0.0, peak - before)


def compare(n_cells: int, dtype: str, args: argparse.Namespace) -> None:
    """Print time and memory of both sides for one size."""
    from sklearn.manifold import trustworthiness

    pixels, codes = make_cells(n_cells, args.columns, dtype)
    found: dict = {}

    def ours() -> None:
        found.update(co_ranking(pixels, {"codes": codes}, sample=args.sample, device=args.device))

    sides = {"all sizes and local quality": ours}
    if not args.alone:
        sides["scikit-learn, one size"] = lambda: trustworthiness(pixels, codes, n_neighbors=SIZE)
    results: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for _ in range(1 if args.alone else args.rounds):
        for side, function in sides.items():
            results[side].append(measured(function))
    ranked = f", {args.sample:,} ranked" if args.sample else ""
    size = f"{n_cells:,} cells x {args.columns:,} {dtype}{ranked}"
    print(f"\n{size}, data {pixels.nbytes / 2**20:,.0f} MiB")
    for side, values in results.items():
        seconds, memory = zip(*values, strict=True)
        time_taken = spread(list(seconds), " s") if len(seconds) > 1 else f"{seconds[0]:,.1f} s"
        print(f"  {side}: {time_taken}, {max(memory):,.0f} MiB above the data")
    if not args.alone:
        ours_s, theirs = ([s for s, _ in values] for values in results.values())
        print(f"  speed: {spread([t / o for o, t in zip(ours_s, theirs, strict=True)], ' x', 2)}")
    ranking = found["codes"]
    size = min(SIZE, len(ranking.k))
    value, error = ranking.at(size)["trustworthiness"], ranking.errors_at(size)["trustworthiness"]
    print(f"  trustworthiness at {size}: {value:.5f}, standard error {error:.5f}")


def main() -> None:
    """Every size in every type."""
    args = parse_arguments()
    print(machine_line(args.device))
    for n_cells in args.cells:
        for dtype in args.dtype:
            compare(n_cells, dtype, args)


if __name__ == "__main__":
    main()
