"""Kill -9 at random moments: everything goes on, and ends as if nothing had happened.

    python tests/kills.py --times 50           # of training, processing, grid and guidance; an hour
    python tests/kills.py --times 5 --jobs training

A job is first run undisturbed. Then it is run again and again in a fresh folder, killed with all
its processes after a random part of that time, and taken up as its `--help` says. What it leaves
must be what the undisturbed run left, byte for byte. `tests/test_kills.py` does so a few times.
"""

import argparse
import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from faults import FEEDBACK, GRID, INFOMAX, SIMULATE, SIZE, make_sound
from starting import Started, environment, ready

BBBC031 = "util/Process_DataSet_1.py"
RESULTS = ("latents.csv", "scores.csv")
TINY = f"--simulated-cells 80 --image-size {SIZE} --base 2 --features none --device cpu"


@dataclass(frozen=True)
class Job:
    """Something that may be killed.

    Attributes:
        name: of the job.
        script, options: the command.
        prepare: makes what the command needs in the current folder.
        resume: the options with which it is taken up, from its folder; None if it had ended.
        left: what it leaves, name -> file, from its folder.
    """

    name: str
    script: str
    options: str
    prepare: Callable[[Path], None]
    resume: Callable[[Path], str | None]
    left: Callable[[Path], dict[str, Path]]


def _nothing(folder: Path) -> None:
    folder.mkdir(parents=True)


def _raw_cells(folder: Path) -> None:
    folder.mkdir(parents=True)
    options = "--dataset bbbc031 --out raw --cells 60 --no-progress"
    finish(folder, SIMULATE, options)


def _files(folder: Path, *patterns: str) -> dict[str, Path]:
    return {
        path.relative_to(folder).as_posix(): path
        for pattern in patterns
        for path in sorted(folder.glob(pattern))
        if path.is_file()
    }


def _published(folder: Path) -> bool:
    """Everything has its final name: the hidden folder of the conversion is gone."""
    sets = folder / "DataSets"
    return (sets / "Synthetic_Data_1").is_dir() and not (
        sets / ".Synthetic_Data_1.partial"
    ).exists()


def _of_grid(folder: Path) -> dict[str, Path]:
    """Codes and scores of the newest grid: after a finished one, the command starts another."""
    grids = sorted(folder.glob("results/*-alpha-beta"))
    return _files(grids[-1], "*/latents.csv", "*/scores.csv", "scores.csv") if grids else {}


def _of_guided(folder: Path) -> dict[str, Path]:
    """The newest guided run: one that was killed stays, and a new one is made; and its parent."""
    guided = sorted(folder.glob("results/*-guided"))[-1:]
    found = {name: run / name for run in guided for name in RESULTS if (run / name).is_file()}
    return found | _files(folder, "results/0001-cells-VAE/*.csv", "results/0001-cells-VAE/*.pt")


def jobs(workers: int, metrics: str) -> list[Job]:
    """All jobs; those that can spread over processes do so, those that score do it by `metrics`."""
    training = f"{TINY} --metrics {metrics} --epochs 12"
    grid = (
        f"{TINY} --metrics neighbours --alphas 0 5 --betas 1 --epochs 3 --no-reports "
        f"--workers {workers}"
    )
    processing = f"--raw raw --workers {workers} --no-progress"
    guidance = "--run 1 --feedback feedback.csv --epochs 8 --device cpu "
    guidance += f"--metrics {metrics}"
    return [
        Job(
            "training",
            INFOMAX,
            training,
            _nothing,
            lambda folder: "--resume" if list(folder.glob("results/*/settings.json")) else training,
            lambda folder: _files(folder, *(f"results/*/{name}" for name in RESULTS)),
        ),
        Job(
            "processing",
            BBBC031,
            processing,
            _raw_cells,
            lambda folder: None if _published(folder) else processing,
            # What it was removing when it was killed, .Synthetic_Data_1.over, is no part of it.
            lambda folder: _files(
                folder, "DataSets/[!.]*", "DataSets/[!.]*/**/*", "DataSets/.*.partial/**/*"
            ),
        ),
        Job("grid", GRID, grid, _nothing, lambda folder: grid, _of_grid),
        Job("guidance", FEEDBACK, guidance, make_sound, lambda folder: guidance, _of_guided),
    ]


JOBS = jobs(workers=2, metrics="neighbours axes")


def start(folder: Path, script: str, options: str, log: Path | None = None) -> Started:
    """Begin a job in a folder; what it says goes to `log`, or log.txt in the folder."""
    log = log or folder / "log.txt"
    return Started(script, options.split(), folder, environment(folder / ".cache"), log, log)


def finish(folder: Path, script: str, options: str, log: Path | None = None) -> None:
    """Run a job in a folder to its end."""
    process = start(folder, script, options, log)
    assert process.wait(timeout=600) == 0, (log or folder / "log.txt").read_text()[-3000:]


def digests(files: dict[str, Path]) -> dict[str, str]:
    """Name -> digest of the content."""
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


@dataclass(frozen=True)
class Undisturbed:
    """A job that was left alone: folders before and after, what it left, seconds it took."""

    job: Job
    before: Path
    whole: Path
    left: dict[str, str]
    seconds: float


def undisturbed(job: Job, folder: Path) -> Undisturbed:
    """Run a job without killing it."""
    before, whole = folder / "before", folder / "whole"
    job.prepare(before)
    shutil.copytree(before, whole)
    ready()
    started = time.perf_counter()
    finish(whole, job.script, job.options)
    left = digests(job.left(whole))
    assert left, f"{job.name} left nothing"
    return Undisturbed(job, before, whole, left, time.perf_counter() - started)


def running(group: int) -> list[int]:
    """Processes of a group that still run; not those that have ended and wait to be reaped."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, _, of_group = file.read_text().rpartition(")")[2].split()[:3]
            if int(of_group) == group and state not in "ZX":
                found.append(int(file.parent.name))
    return found


def wait_until_gone(group: int, seconds: float = 5.0) -> None:
    """Wait for the end of all processes of a group; workers look for their parent once a second.

    Raises:
        AssertionError: some still run after these seconds.
    """
    until = time.monotonic() + seconds
    while left := running(group):
        assert time.monotonic() < until, f"processes {left} are left"
        time.sleep(0.02)


def kill_once(known: Undisturbed, folder: Path, share: float) -> str:
    """Kill a job after a share of its time and take it up; what had become of it, in words.

    Raises:
        AssertionError: it does not go on, or ends otherwise than undisturbed.
    """
    job = known.job
    shutil.copytree(known.before, folder)
    process = start(folder, job.script, job.options)
    try:
        process.wait(timeout=share * known.seconds)
        fate = "had ended"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        fate = "killed"
    wait_until_gone(process.pid)
    options = job.resume(folder)
    if options is not None:
        finish(folder, job.script, options)
    left = digests(job.left(folder))
    assert left == known.left, sorted(left.items() ^ known.left.items())
    return fate


def main() -> int:
    """Kill each job so many times, print a table; returns how many went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--jobs", nargs="*", default=[job.name for job in JOBS])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, wrong = np.random.default_rng(options.seed), 0
    for job in JOBS:
        if job.name not in options.jobs:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            known = undisturbed(job, Path(scratch))
            fates = []
            for number, share in enumerate(rng.uniform(0.05, 1, options.times)):
                folder = Path(scratch) / f"{number}"
                try:
                    fates.append(kill_once(known, folder, share))
                except AssertionError as error:
                    fates.append("wrong")
                    print(f"{job.name} killed at {share:.2f} of its time: {error}", flush=True)
                shutil.rmtree(folder)
        wrong += fates.count("wrong")
        print(
            f"{job.name:<10} {known.seconds:5.1f} s undisturbed, {len(known.left)} files; "
            f"{fates.count('killed')} times killed and as if undisturbed, "
            f"{fates.count('had ended')} times too late, {fates.count('wrong')} times wrong",
            flush=True,
        )
    return wrong


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
