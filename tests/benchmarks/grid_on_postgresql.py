"""Two workers on one PostgreSQL, one of them killed in the middle: the alpha-beta grid, in full.

    python tests/benchmarks/grid_on_postgresql.py                         # 6 x 6, about 30 minutes
    python tests/benchmarks/grid_on_postgresql.py --alphas 0 20 --betas 1 5 --epochs 2

Starts Debian's PostgreSQL (apt install postgresql) in a temporary folder on a free loopback port,
then the same command twice with its URL, kills the first after `KILL_AFTER` trials, and prints how
many trials each worker trained. Further options go to the grid's script. Results stay in the folder
`results` of the current directory.
"""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from postgresql import found_postgresql, running_database

SCRIPT = Path(__file__).parents[2] / "optimization" / "hyper_optimization_bs_fixed.py"
REDUCED = ["--simulated-cells", "1500", "--base", "8", "--epochs", "5", "--learning-rate", "1e-3"]
KILL_AFTER = 3  # trials trained by either worker


def trained(results: Path) -> list[dict]:
    """trial.json of every trial that has been trained."""
    return [json.loads(path.read_text()) for path in results.glob("*-alpha-beta/*/trial.json")]


def main() -> None:
    """Run the demonstration."""
    if not found_postgresql():
        sys.exit("PostgreSQL is not installed: apt install postgresql")
    results = Path("results").resolve()
    with running_database() as url:
        command = [sys.executable, str(SCRIPT), *REDUCED, *sys.argv[1:], "--storage", url]
        began, before = time.perf_counter(), len(trained(results))
        workers = [subprocess.Popen(command) for _ in range(2)]
        while len(trained(results)) < before + KILL_AFTER and workers[0].poll() is None:
            time.sleep(0.2)
        workers[0].send_signal(signal.SIGKILL)
        print(f"killed worker {workers[0].pid} after {time.perf_counter() - began:.0f} s")
        code = workers[1].wait()
    trials = trained(results)
    print(f"{time.perf_counter() - began:.0f} s, exit code {code}; trials by worker:")
    print(dict(Counter(trial["worker"] for trial in trials)))


if __name__ == "__main__":
    main()
