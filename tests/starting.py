"""Scripts in processes of their own that need not import torch first.

Importing takes seconds, and the tests start some ninety scripts. The fork server of multiprocessing
imports once; each script is a fork of it, with a folder, an environment, a session and streams of
its own. What such a script cannot show, since it inherits them, is how it imports and that nothing
hangs on the seed of Python's hashes; a few tests start Python itself.

Environment variables: with TEST_DEVICE=cuda the processes see the GPUs of the machine, which are
hidden from them otherwise; with BLANK_FIGURES set, scripts write blank figures.
"""

import atexit
import contextlib
import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[1]
CONTEXT = multiprocessing.get_context("forkserver")
PRELOAD = "InfoMAX_VAE_framework optuna sklearn.neighbors torch._dynamo util.simulate_cells"
CONTEXT.set_forkserver_preload(PRELOAD.split())


def visible_gpus() -> dict[str, str]:
    """The variable that hides all GPUs from a process, unless TEST_DEVICE=cuda asks for them.

    It must be set before torch initialises CUDA.
    """
    return {} if os.environ.get("TEST_DEVICE") == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}


def environment(cache: Path) -> dict[str, str]:
    """This one, with a folder of its own for caches, without a display and without GPUs."""
    own = {"XDG_CACHE_HOME": str(cache), "MPLBACKEND": "Agg"}
    return os.environ | own | visible_gpus()


def save_blank(figure: Any, file: str | Path, **options: Any) -> None:
    """Stand in for `Figure.savefig`: layout and rendering are most of the time of a small run."""
    Image.new("L", (1, 1)).save(file, format="png")


def ready() -> None:
    """Wait until the fork server has imported what it imports."""
    process = CONTEXT.Process(target=int)
    process.start()
    process.join()


class Started:
    """A script that was started; a part of `subprocess.Popen`."""

    def __init__(
        self,
        script: str | Path,
        options: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        out: Path,
        err: Path,
    ):
        """Start a script of the project in a folder; what it says is added to two files."""
        self.args, self.out, self.err = [str(ROOT / script), *options], out, err
        self._read = {path: path.stat().st_size if path.exists() else 0 for path in (out, err)}
        waiting, begun = CONTEXT.Pipe(duplex=False)
        # A name that the script takes for that of the first process.
        self._process = CONTEXT.Process(
            name="MainProcess",
            target=_become,
            args=(self.args, str(folder), dict(environment), str(out), str(err), begun),
        )
        self._process.start()
        self.pid = self._process.pid
        begun.close()
        with contextlib.suppress(EOFError):
            waiting.recv()  # until it leads a group of its own, which can be killed

    @property
    def returncode(self) -> int | None:
        """As that of Popen: None while it runs, below 0 where a signal ended it."""
        return self._process.exitcode

    poll = returncode.fget

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; what it said on stdout and stderr."""
        self.wait(timeout)
        said = (path.read_bytes()[self._read[path] :].decode() for path in (self.out, self.err))
        return tuple(said)

    def send_signal(self, number: int) -> None:
        """To the process alone, not to those it started."""
        os.kill(self.pid, number)


def _become(
    args: list[str],
    folder: str,
    environment: dict[str, str],
    out: str,
    err: str,
    begun: Connection,
) -> None:
    os.setsid()
    begun.close()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for name, stream in ((out, 1), (err, 2)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.freeze()  # what was imported before the fork is no garbage
    if "OMP_NUM_THREADS" in environment:  # which torch reads when it is imported, before the fork
        import torch

        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    if "BLANK_FIGURES" in environment:
        from matplotlib.figure import Figure

        Figure.savefig = save_blank
    sys.argv, sys.path[0] = args, str(Path(args[0]).parent)
    try:
        runpy.run_path(args[0], run_name="__main__")
    finally:  # as the interpreter ends; multiprocessing would wait for children first
        threading._shutdown()
        atexit._run_exitfuncs()
