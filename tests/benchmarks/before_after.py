"""Time and memory of the same work in this checkout and in another one, in turn.

    git worktree add /tmp/before 60ce3b4
    python tests/benchmarks/before_after.py --before /tmp/before --pairs 5
    python tests/benchmarks/before_after.py --before /tmp/before --jobs features information

Each job runs in a Python of its own, in an empty folder with empty caches. A line per job and side:
median and quartiles of the seconds on the clock, of the seconds of CPU of all its processes, and
the memory of the largest of them; then the ratios of the pairs.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from common import machine_line, spread

HERE = Path(__file__).parents[2]

FEATURES = """
from util.cell_features import measure_features
from VAE_framework import Settings, load

images = load(Settings(simulated_cells=128, features="none")).cells.images
measure_features(images, True, groups="full", n_jobs=1, progress=False)
"""
INFORMATION = """
import numpy as np
from quantitative_metrics.scores import Plan, score_projections
from util.cell_features import hand_crafted_features
from VAE_framework import Settings, load

cells = load(Settings(simulated_cells=2500, features="none")).cells
known = cells.table
truth = known[["GT_colorR", "GT_colorG", "GT_Shape"]].to_numpy(float)
noise = np.random.default_rng(0).normal(size=(3, *truth.shape))
codes = {f"noise {s}": truth + s * n for s, n in zip((0.02, 0.1, 0.5), noise)}
references = {"pixels": cells.reference_space()}
references["features"] = np.concatenate([truth, truth**2, noise[0]], axis=1)
found = score_projections(codes, references, known, Plan(metrics=("information",))).table
print(found.pivot(index="projection", columns="reference", values="value").round(2))
"""
JOBS = {
    "run": ["{root}/InfoMAX_VAE_framework.py", "--preset", "views"],
    "features": ["-c", FEATURES],
    "information": ["-c", INFORMATION],
}
NEEDS = {
    "run": "make run: 2,500 simulated cells to the report",
    "features": "all features of 128 cells, one process",
    "information": "mutual information of 3 projections with 2 references, 2,500 cells",
}


def run(job: str, root: Path) -> dict[str, float]:
    """Seconds, CPU seconds and GiB of one job of a checkout; what it printed is kept."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        more = {"PYTHONPATH": str(root), "XDG_CACHE_HOME": f"{folder}/cache", "MPLBACKEND": "Agg"}
        command = [sys.executable, *(part.replace("{root}", str(root)) for part in JOBS[job])]
        started = time.perf_counter()
        done = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"} | more,
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{job} of {root} failed: {done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": seconds, "cpu": cpu, "GiB": after.ru_maxrss / 2**20, "said": done.stdout}


def main() -> None:
    """Measure and print every job."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--before", type=Path, required=True, help="the other checkout")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    print(machine_line("cpu"))
    for job in options.jobs:
        rows = []
        for pair in range(options.pairs):
            for side, root in (("before", options.before.resolve()), ("after", HERE)):
                rows.append({"side": side, "pair": pair} | run(job, root))
                print(f"  {job} {side} {rows[-1]['wall']:.1f} s", file=sys.stderr, flush=True)
        found = pd.DataFrame(rows).set_index(["side", "pair"])
        print(f"\n{job}: {NEEDS[job]}; {options.pairs} pairs")
        for side in ("before", "after"):
            part = found.loc[side]
            print(
                f"  {side:<7} wall {spread(list(part['wall']), ' s')}, CPU "
                f"{spread(list(part['cpu']), ' s')}, largest process {part['GiB'].max():.2f} GiB"
            )
        ratios = found.loc["before"][["wall", "cpu"]] / found.loc["after"][["wall", "cpu"]]
        wall, cpu = (spread(list(ratios[column]), " x", 2) for column in ("wall", "cpu"))
        print(f"  before / after: wall {wall}, CPU {cpu}", flush=True)
        for side in ("before", "after"):
            said = "\n".join(found.loc[side]["said"].iloc[-1].splitlines()[-30:])
            print(f"  what {side} printed last:\n{said}\n", flush=True)


if __name__ == "__main__":
    main()
