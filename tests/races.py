"""Several processes, containers, clocks, signals and databases: nothing is lost, nothing is mixed.

    python tests/races.py                          # all, 200 rounds of the caches; half an hour
    python tests/races.py --only 'cache|lost' --rounds 20

Each check prints a line. `tests/test_races.py` runs short forms of those that need no server.

- cache: four processes load two array files of one stem from one folder at once, without a cache.
- containers: two processes of the same number, each in a PID namespace of its own, do the same.
- lock: a run that is running is resumed.
- sigterm: training and grid end by SIGTERM to their first process, and go on.
- clock: a worker of a grid dies, and the clock is set back by an hour before the next one starts.
- restart: PostgreSQL restarts again and again under a grid; lost: it stops for good.
- output: stdout is full, or nobody reads it.
"""

import argparse
import hashlib
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from kills import Undisturbed, digests, finish, jobs, start, undisturbed, wait_until_gone
from postgresql import found_postgresql, running_database, stop_database
from starting import ROOT, environment

FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
SHAPE = (120, 32, 32, 3)


def write_two_sets(folder: Path, seed: int) -> dict[str, str]:
    """Two array files of one stem, of the same size and time; name -> digest of their pixels."""
    rng, expected = np.random.default_rng(seed), {}
    folder.mkdir(parents=True)
    for name in ("cells.npz", "cells.npy"):
        images = rng.integers(1, 255, SHAPE, dtype=np.uint8)
        path = folder / name
        np.savez(path, images) if name.endswith("npz") else np.save(path, images)
        os.utime(path, (1, 1))
        expected[name] = digest_of(np.moveaxis(images, -1, 1))
    return expected


def digest_of(images: np.ndarray) -> str:
    """SHA-256 of pixels."""
    return hashlib.sha256(np.ascontiguousarray(images)).hexdigest()


def load_digest(path: Path) -> str:
    """Digest of the images that a process gets."""
    from util.data_processing import load_cells

    return digest_of(load_cells(path, image_size=32, progress=False).images)


def _load_each_round(folder, name, rounds, barrier, found):
    for number in range(rounds):
        barrier.wait()
        found.put((number, name, load_digest(folder / f"{number}" / name)))
        barrier.wait()


def race_for_caches(folder: Path, rounds: int) -> str:
    """Four processes load two sets at once, with an empty cache each time."""
    expected = [write_two_sets(folder / f"{number}", number) for number in range(rounds)]
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(4), context.Queue()
    workers = [
        context.Process(target=_load_each_round, args=(folder, name, rounds, barrier, found))
        for name in ("cells.npz", "cells.npy") * 2
    ]
    for worker in workers:
        worker.start()
    got = [found.get(timeout=300) for _ in range(4 * rounds)]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    wrong = [entry for entry in got if expected[entry[0]][entry[1]] != entry[2]]
    assert not wrong, wrong[:3]
    assert not list(folder.rglob(".*.tmp")), "temporary folders are left"
    again = {name: load_digest(folder / "0" / name) for name in expected[0]}
    assert again == expected[0]
    return f"4 processes, {rounds} rounds, {len(got)} loads: all with the pixels of their file"


CONTAINER = """
import os, sys, time
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
from races import load_digest
folder, me, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for number in range(rounds):
    (folder / f"{{number}}" / f"ready.{{me}}").touch()
    while len(list((folder / f"{{number}}").glob("ready.*"))) < 2:
        time.sleep(0.001)
    print(os.getpid(), number, load_digest(folder / f"{{number}}" / "cells.npz"), flush=True)
"""


def race_of_containers(folder: Path, rounds: int) -> str:
    """Two PID namespaces, in which both processes have the same number."""
    expected = [write_two_sets(folder / f"{number}", number) for number in range(rounds)]
    own = [] if os.geteuid() == 0 else ["--map-root-user"]
    code = CONTAINER.format(root=str(ROOT), tests=str(ROOT / "tests"))
    inside = [sys.executable, "-c", code, str(folder)]
    containers = [
        subprocess.Popen(
            ["unshare", *own, "--pid", "--fork", *inside, f"{me}", f"{rounds}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for me in range(2)
    ]
    lines = [container.communicate(timeout=600)[0].split("\n") for container in containers]
    said = [line.split() for out in lines for line in out if line]
    assert len(said) == 2 * rounds and len({pid for pid, *_ in said}) == 1, said[:4]
    wrong = [number for _, number, digest in said if digest != expected[int(number)]["cells.npz"]]
    assert not wrong, wrong
    return f"2 processes, both of number {said[0][0]}, {rounds} rounds: all with their pixels"


def resume_what_runs(known: Undisturbed, folder: Path) -> str:
    """`--resume` of a run that another process trains."""
    shutil.copytree(known.before, folder)
    running = start(folder, known.job.script, known.job.options)
    while not list(folder.glob("results/*/log.jsonl")):
        time.sleep(0.05)
        assert running.returncode is None
    log = folder.with_suffix(".second.txt")
    code = start(folder, known.job.script, "--resume", log).wait(timeout=120)
    lines = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    assert code == 2 and len(lines) == 1 and "is running" in lines[0], log.read_text()
    assert running.wait(timeout=600) == 0
    assert digests(known.job.left(folder)) == known.left
    return lines[0]


def end_by_sigterm(known: Undisturbed, folder: Path, share: float) -> str:
    """SIGTERM to the first process alone, after a share of the time; then it goes on."""
    shutil.copytree(known.before, folder)
    process, log = start(folder, known.job.script, known.job.options), folder / "log.txt"
    try:
        process.wait(timeout=share * known.seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
    code, said = process.wait(timeout=120), log.read_text()
    assert code in (0, 143), (code, said[-2000:])
    if code == 143:
        stopped = [line for line in re.split(r"[\r\n]+", said) if "stopped" in line]
        assert len(stopped) == 1 and "Traceback" not in said, said[-2000:]
    wait_until_gone(process.pid, 5.0)
    try:
        os.killpg(process.pid, 0)
        raise AssertionError("a child is left")
    except ProcessLookupError:
        pass
    options = known.job.resume(folder)
    if options is not None:
        finish(folder, known.job.script, options)
    assert digests(known.job.left(folder)) == known.left, "it ended otherwise than undisturbed"
    return f"exit code {code}"


def apart(folder: Path, options: str, script: str, **more: str) -> subprocess.Popen:
    """A script in a Python of its own, with more environment variables."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *options.split()],
        cwd=folder,
        env=environment(folder / ".cache") | more,
        stdout=(folder / "out.txt").open("a"),
        stderr=(folder / "err.txt").open("a"),
        text=True,
        start_new_session=True,
    )


def set_clock_back(known: Undisturbed, folder: Path, storage: str) -> str:
    """A worker dies an hour in the future; the next one must not wait for that hour."""
    shutil.copytree(known.before, folder)
    options = f"{known.job.options} --workers 1{storage}"
    future = {
        "LD_PRELOAD": str(FAKETIME[0]),
        "FAKETIME": "+1h",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    process = apart(folder, options, known.job.script, **future)
    while not list(folder.glob("results/*/*/log.jsonl")):
        assert process.poll() is None, (folder / "err.txt").read_text()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = time.perf_counter()
    assert apart(folder, options, known.job.script).wait(timeout=600) == 0, (
        folder / "err.txt"
    ).read_text()
    seconds = time.perf_counter() - before
    assert digests(known.job.left(folder)) == known.left
    return f"went on and ended after {seconds:.0f} s"


def error_lines(folder: Path) -> list[str]:
    """Lines of an error, on the stderr of a script; none may be a traceback."""
    said = (folder / "err.txt").read_text()
    assert "Traceback" not in said and "secret" not in said, said[-3000:]
    return [line for line in re.split(r"[\r\n]+", said) if line.startswith("error: ")]


def restart_database(known: Undisturbed, folder: Path, restarts: int) -> str:
    """PostgreSQL crashes and comes back while two workers train."""
    shutil.copytree(known.before, folder)
    with running_database() as url:
        options = f"{known.job.options} --workers 2 --heartbeat 1 --storage {url}"
        process, done = apart(folder, options, known.job.script), 0
        while not list(folder.glob("results/*/*/log.jsonl")):
            assert process.poll() is None, (folder / "err.txt").read_text()
            time.sleep(0.05)
        while process.poll() is None and done < restarts:
            stop_database(url)
            done += 1
            time.sleep(0.7)
        code = process.wait(timeout=600)
        if code == 2:  # lost in the middle of a transaction; the same command goes on
            assert len(error_lines(folder)) == 1
            code = apart(folder, options, known.job.script).wait(timeout=600)
        assert code == 0, (folder / "err.txt").read_text()[-3000:]
    assert digests(known.job.left(folder)) == known.left
    return f"{done} restarts, every trial as undisturbed"


def lose_database(known: Undisturbed, folder: Path) -> str:
    """PostgreSQL stops for good."""
    shutil.copytree(known.before, folder)
    with running_database() as url:
        secret = url.replace("grid@", "grid:se%40cret@")
        options = f"{known.job.options} --workers 1 --heartbeat 1 --storage {secret}"
        process = apart(folder, options, known.job.script)
        while not list(folder.glob("results/*/*/log.jsonl")):
            assert process.poll() is None, (folder / "err.txt").read_text()
            time.sleep(0.05)
        stop_database(url, again=False)
        code = process.wait(timeout=600)
    lines = error_lines(folder)
    assert code == 2 and len(lines) == 1, (code, (folder / "err.txt").read_text()[-3000:])
    written = [p for p in folder.rglob("*") if p.is_file() and b"se%40cret" in p.read_bytes()]
    assert not written, f"the password is in {written}"
    return lines[0]


def write_nowhere(folder: Path) -> Iterator[str]:
    """stdout that is full, or that nobody reads."""
    folder.mkdir(parents=True, exist_ok=True)
    scripts = ("VAE_framework.py", "util/simulate_cells.py", "optimization/hyper_optimization.py")
    for script in scripts:
        command = [sys.executable, str(ROOT / script), "--help"]
        pipes = {"stderr": subprocess.PIPE, "text": True, "cwd": folder}
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, stdout=full, **pipes)
        lines = done.stderr.splitlines()
        assert done.returncode == 2 and len(lines) == 1, (done.returncode, done.stderr)
        yield f"{script} --help > /dev/full: code 2, {lines[0]}"
        process = subprocess.Popen(command, stdout=subprocess.PIPE, **pipes)
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait() == 141 and said == "", (process.returncode, said)
        yield f"{script} --help | true: code 141, silent"


def checks(rounds: int, scratch: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Name and check, one after the other."""
    yield "cache", lambda: race_for_caches(scratch / "cache", rounds)
    yield "containers", lambda: race_of_containers(scratch / "containers", rounds // 2)
    yield "output", lambda: "; ".join(write_nowhere(scratch / "output"))
    known = {}

    def job(name: str) -> Undisturbed:
        if name not in known:
            chosen = {job.name: job for job in jobs(workers=2, metrics="neighbours axes")}
            known[name] = undisturbed(chosen[name], scratch / name)
        return known[name]

    yield "lock", lambda: resume_what_runs(job("training"), scratch / "lock")
    shares = np.random.default_rng(0).uniform(0.1, 0.95, max(2, rounds // 20))
    for name in ("training", "grid", "processing"):
        for number, share in enumerate(shares):
            folder = scratch / f"sigterm-{name}-{number}"
            yield (
                f"sigterm {name} at {share:.2f}",
                lambda name=name, folder=folder, share=share: end_by_sigterm(
                    job(name), folder, share
                ),
            )
    if FAKETIME:
        yield "clock, journal", lambda: set_clock_back(job("grid"), scratch / "journal", "")
        sqlite = " --heartbeat 1 --storage sqlite:///grid.db"
        yield "clock, SQLite", lambda: set_clock_back(job("grid"), scratch / "sqlite", sqlite)
    if found_postgresql():
        yield "restart", lambda: restart_database(job("grid"), scratch / "restart", 6)
        yield "lost", lambda: lose_database(job("grid"), scratch / "lost")


def main() -> int:
    """Run the checks, print a table; returns how many went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", default="", help="checks whose name this regular expression fits")
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        for name, check in checks(options.rounds, Path(scratch)):
            if not re.search(options.only, name):
                continue
            started = time.perf_counter()
            try:
                said, verdict = check(), "ok   "
            except (AssertionError, subprocess.SubprocessError) as error:
                said, verdict, wrong = str(error)[:3000], "WRONG", wrong + 1
            print(f"{verdict} {time.perf_counter() - started:6.1f} s  {name}: {said}", flush=True)
    print(f"{wrong} wrong")
    return wrong


if __name__ == "__main__":
    sys.exit(min(main(), 100))
