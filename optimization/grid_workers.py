"""The processes of this machine that train the trials of a grid."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import optuna
import torch

from optimization.grid import Grid, GridOptions, Train, attach, write_grid
from optimization.grid_storage import explain_storage
from util import processes
from util.errors import UserError, explain_os_error
from util.workers import end_with_parent


def train_all(grid: Grid, train: Train, make_train: Callable[[], Train]) -> None:
    """Train the trials with `options.workers` processes; this one is the first of them.

    Args:
        grid: whose trials are to be trained.
        train: trains one trial, in this process.
        make_train: builds the same in another process; must be picklable.
    """
    workers = max(1, min(grid.options.workers, len(grid.trials)))
    threads = max(1, torch.get_num_threads() // workers)
    context = multiprocessing.get_context("spawn")  # forked threads of torch would hang
    arguments = (grid.folder, grid.options, make_train, threads)
    helpers = [
        context.Process(target=_help, args=(*arguments, stream), daemon=True)
        for stream in range(1, workers)
    ]
    for helper in helpers:
        helper.start()
    try:
        with (
            processes.threads(threads),
            explain_storage(grid.options.storage, grid.folder),
            explain_os_error(grid.folder),
        ):
            grid.work(train)
    except KeyboardInterrupt:
        for helper in helpers:  # a terminal stops all of them, a scheduler perhaps this one alone
            helper.terminate()
        raise
    finally:
        for helper in helpers:
            helper.join()
    write_grid(grid)


def _help(
    folder: Path,
    options: GridOptions,
    make_train: Callable[[], Train],
    threads: int,
    stream: int,
) -> None:
    """Another worker: load what it needs, then train trials."""
    end_with_parent()
    torch.set_num_threads(threads)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with processes.stoppable(signal.SIGINT):
            with output_to(Path(os.devnull)):  # the first worker has said it all
                train = make_train()
            with explain_storage(options.storage, folder), explain_os_error(folder):
                attach(folder, options, stream).work(train)
    except KeyboardInterrupt:
        pass  # the command that started it says so
    except (UserError, OSError) as error:
        print(f"a worker gave up: {error}", file=sys.stderr)


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Append standard output and standard error to a file."""
    with (
        path.open("a", encoding="utf-8") as file,
        redirect_stdout(file),
        redirect_stderr(file),
    ):
        yield
