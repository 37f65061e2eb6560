"""A grid of runs: every cell is trained exactly once, by any number of workers.

The state of a grid lives in an Optuna storage (Akiba et al. 2019, arXiv:1907.10902): a journal file
in the folder of the grid, or a database that many machines reach. All cells are enqueued when the
grid is made, since Optuna's own GridSampler may hand one cell to two workers. A worker takes a
waiting cell, trains it in the cell's folder and tells the storage. Three things see to it that no
cell is lost and none is trained twice:

- a worker that dies is noticed (in a database by its missing heartbeat, on one machine because the
  system releases the lock on its cell), and its cell waits again; the next worker goes on from the
  cell's last checkpoint;
- the lock on the cell's folder keeps a worker out that was only taken for dead;
- the file cell.json, written when a cell has been trained, ends the matter.

A cell that cannot be trained is recorded with the reason, and the others go on.
"""

import hashlib
import itertools
import json
import multiprocessing
import os
import random
import re
import socket
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import optuna
import torch
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState

from util import processes
from util.errors import (
    NO_SPACE,
    DiskFullError,
    UserError,
    explain_os_error,
    is_out_of_memory,
)
from util.runs import (
    create_run_folder,
    numbered_runs,
    read_json,
    slug,
    write_json,
)
from util.settings import AT_LEAST_1
from util.workers import end_with_parent

GRID_FILE = "grid.json"
CELL_FILE = "cell.json"
JOURNAL = "journal.log"
RETRIES = 3  # of a cell whose worker died; a cell that kills every worker must not go on for ever
GRACE = timedelta(seconds=20)  # between taking a cell and holding its lock
MISSED_BEATS = 4  # after so many a worker is taken for dead
OPENINGS = 10  # of a database whose tables others are making
LOCK_GRACE = 30  # s after which the journal's lock is taken from a worker that was killed with it
POLL_SECONDS = 1.0
READY_SECONDS = 60.0
REPEATS_OF_TPE = 10  # in a row, before a cell is drawn at random

Parameter = float | int | str
Train = Callable[["Cell"], dict[str, Any]]


@dataclass(frozen=True)
class GridOptions:
    """What every grid can be told."""

    workers: int = 1
    """Processes on this machine that train cells at the same time; they share its cores."""
    storage: str | None = None
    """Where the state of the grid is kept. None: a journal file in its folder, for one machine. For
    many machines the same URL of a database on each, e.g. postgresql://user@host/name."""
    sampler: Literal["grid", "tpe"] = "grid"
    """Every cell, or the promising ones by Optuna's TPE (Bergstra et al. 2011)."""
    trials: int = 20
    """Cells that TPE may train."""
    goal: str = "reconstruction"
    """What TPE looks for, and the best cell is named by: `reconstruction` (lowest, nats per image)
    or a score (highest), e.g. `accuracy` or `trustworthiness_area features`."""
    heartbeat: int = 15
    """Seconds between two signs of life in a database; after four missed ones a worker is dead."""
    reports: bool = True
    """Draw the figures and the report of each run; a few seconds a run."""
    retry_failed: bool = False
    """Try the failed cells of the grid again."""
    fresh: bool = False
    """Begin a new grid, even where an unfinished one of the same settings could be continued."""

    OPTION_RANGES: ClassVar = {
        "workers": AT_LEAST_1,
        "trials": AT_LEAST_1,
        "heartbeat": AT_LEAST_1,
    }


# What may differ between two commands that work on the same grid.
OPTION_NAMES = frozenset(GridOptions.__dataclass_fields__) - {"sampler", "trials", "goal"}


@dataclass(frozen=True)
class Cell:
    """One combination of values.

    Attributes:
        number: place in the grid, from 1.
        parameters: axis -> value.
        folder: of its run, inside that of the grid.
    """

    number: int
    parameters: dict[str, Parameter]
    folder: Path

    @property
    def name(self) -> str:
        """E.g. alpha-5-beta-20."""
        return self.folder.name.split("-", 1)[1]

    def __str__(self) -> str:
        """E.g. alpha 5, beta 20."""
        return ", ".join(f"{name} {_short(value)}" for name, value in self.parameters.items())


@dataclass
class CellState:
    """Where a cell stands: `untried`, `waiting`, `running`, `trained` or `failed`."""

    status: str = "untried"
    reason: str = ""
    value: float | None = None


RANK = {"untried": 0, "failed": 1, "waiting": 2, "running": 3, "trained": 4}
STATUS = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "trained",
    TrialState.FAIL: "failed",
}


class Grid:
    """The cells of a grid, their folders and their state.

    Args:
        folder: of the grid.
        axes: name -> values; the cells are their product, the last axis running fastest.
        study: of Optuna.
        options: of the command.
    """

    def __init__(
        self,
        folder: Path,
        axes: Mapping[str, Sequence[Parameter]],
        study: optuna.Study,
        options: GridOptions,
    ):
        self.folder, self.study, self.options = folder, study, options
        self.axes = {name: tuple(values) for name, values in axes.items()}
        self.cells = [
            Cell(number, parameters, folder / f"{number:04d}-{cell_name(parameters)}")
            for number, parameters in enumerate(combinations(self.axes), start=1)
        ]
        self._by_values = {tuple(cell.parameters.values()): cell for cell in self.cells}
        self.full_disk: Exception | None = None  # what it stopped this worker with

    def cell(self, parameters: Mapping[str, Parameter]) -> Cell:
        """The cell of these values."""
        return self._by_values[tuple(parameters[name] for name in self.axes)]

    def lock(self, cell: Cell) -> FileLock:
        """Held while a cell is trained; the system releases it when its holder dies."""
        return self.named_lock(cell.folder.name)

    def named_lock(self, name: str) -> FileLock:
        """A lock in the folder of the grid."""
        locks = self.folder / ".locks"
        locks.mkdir(exist_ok=True)
        return FileLock(locks / f"{name}.lock")

    def states(self) -> list[CellState]:
        """Of each cell, in the order of the cells."""
        states = [CellState() for _ in self.cells]
        for trial in self.study.get_trials(deepcopy=False):
            cell = self._cell_of(trial)
            if cell is None or trial.state not in STATUS:
                continue
            state, status = states[cell.number - 1], STATUS[trial.state]
            if RANK[status] >= RANK[state.status]:
                state.status, state.value = status, trial.value
                state.reason = _reason(trial) if status == "failed" else ""
        return states

    def count(self) -> Counter[str]:
        """How many cells have which status."""
        return Counter(state.status for state in self.states())

    def _cell_of(self, trial: FrozenTrial) -> Cell | None:
        # Of an enqueued trial all are known, though they are suggested one after the other.
        parameters = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        complete = set(self.axes) <= set(parameters)
        return self.cell(parameters) if complete else None

    def enqueue(self, cell: Cell) -> None:
        """Let the cell wait for a worker."""
        self.study.enqueue_trial(cell.parameters)

    def work(self, train: Train) -> None:
        """Train waiting cells until none waits or runs.

        Args:
            train: trains one cell in its folder, going on from a checkpoint there; returns what is
                to be remembered of it, `value` among it.
        """
        while True:
            self.revive()
            if self._has_work():
                self._train_next(train)
            elif self.count()["running"]:  # perhaps in the hands of a worker that will die
                time.sleep(POLL_SECONDS)
            else:
                return

    def _has_work(self) -> bool:
        trials = self.study.get_trials(deepcopy=False)
        if any(trial.state == TrialState.WAITING for trial in trials):
            return True
        if self.options.sampler == "grid":
            return False
        count = self.count()
        begun = len(self.cells) - count["untried"]
        unknown = sum(
            trial.state == TrialState.RUNNING and self._cell_of(trial) is None for trial in trials
        )
        wanted = min(self.options.trials, len(self.cells))
        if begun + unknown >= wanted:
            return False
        self._vary(trials)
        return True

    def _vary(self, trials: Sequence[FrozenTrial]) -> None:
        """Draw an untried cell where TPE keeps suggesting what has been tried."""
        last = trials[-REPEATS_OF_TPE:]
        if len(last) == REPEATS_OF_TPE and all("copy_of" in trial.user_attrs for trial in last):
            states = self.states()
            untried = [c for c, s in zip(self.cells, states, strict=True) if s.status == "untried"]
            rng = np.random.default_rng(len(trials))
            self.enqueue(untried[rng.integers(len(untried))])

    def _train_next(self, train: Train) -> None:
        try:
            self.study.optimize(
                lambda trial: self._train_trial(trial, train),
                n_trials=1,
                catch=(Exception,),
                gc_after_trial=True,  # what a failed cell held, before the next one is built
            )
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            # This worker was taken for dead, so that the storage accepts nothing more from it. What
            # it trained is in the cell's folder, where the next worker finds it.
            print("the storage took this worker for dead meanwhile; its cell is kept")
        finally:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        if self.full_disk is not None:
            raise self.full_disk

    def _train_trial(self, trial: optuna.Trial, train: Train) -> float:
        parameters = {
            name: trial.suggest_categorical(name, values) for name, values in self.axes.items()
        }
        cell = self.cell(parameters)
        trial.set_user_attr("worker", worker_name())
        earlier = self._earlier(trial, cell)
        if earlier is not None:
            trial.set_user_attr("copy_of", earlier.number)
            if earlier.state != TrialState.COMPLETE:
                raise optuna.TrialPruned(f"trial {earlier.number} has this cell")
            return earlier.value
        with self.lock(cell):
            try:
                facts = self._train_cell(cell, train)
            except KeyboardInterrupt:
                self.enqueue(cell)
                raise
            except Exception as error:
                if isinstance(error, DiskFullError) or getattr(error, "errno", None) in NO_SPACE:
                    self.full_disk = error  # ends the grid: every other cell would fail as well
                    self.enqueue(cell)
                    raise
                trial.set_user_attr("reason", one_line_of(error))
                self._report(cell, f"failed: {one_line_of(error)}")
                raise
        trial.set_user_attr("facts", facts)
        return float(facts["value"])

    def _train_cell(self, cell: Cell, train: Train) -> dict[str, Any]:
        finished = cell.folder / CELL_FILE
        if finished.is_file():
            return read_json(finished)
        cell.folder.mkdir(exist_ok=True)
        began = time.perf_counter()
        facts = train(cell)
        said = facts.pop("said", "trained")
        facts |= {"worker": worker_name(), "wall_seconds": round(time.perf_counter() - began, 1)}
        write_json(finished, facts)
        self._report(cell, f"{said}, {facts['wall_seconds']:.0f} s")
        return facts

    def _earlier(self, trial: optuna.Trial, cell: Cell) -> FrozenTrial | None:
        """A trial that has the cell already: an idle worker may ask when nothing waits any more."""
        for other in self.study.get_trials(deepcopy=False):
            taken = other.state in (TrialState.RUNNING, TrialState.COMPLETE)
            if other.number < trial.number and taken and self._cell_of(other) == cell:
                return other
        return None

    def _report(self, cell: Cell, said: str) -> None:
        count = self.count()
        print(
            f"[{count['trained'] + count['failed'] + 1} of {len(self.cells)}] {cell}: {said}",
            flush=True,
        )

    def revive(self) -> None:
        """Let the cells of dead workers wait again."""
        with stable():
            optuna.storages.fail_stale_trials(self.study)  # does nothing for a journal
        if is_database(self.options.storage):
            return
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            cell = self._cell_of(trial)
            if cell is None or datetime.now() - trial.datetime_start < GRACE:
                continue
            try:
                with self.lock(cell).acquire(timeout=0):
                    self._revive_trial(trial.number)
            except Timeout:
                pass  # its worker lives

    def _revive_trial(self, number: int) -> None:
        trial = self.study.get_trials()[number]
        if trial.state == TrialState.RUNNING:
            self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
            retry_callback()(self.study, trial)


def open_grid(
    results: Path,
    name: str,
    axes: Mapping[str, Sequence[Parameter]],
    identity: Mapping[str, Any],
    options: GridOptions,
    resume: str | None = None,
) -> Grid:
    """The grid to work on: the one to resume, an unfinished one of the same identity, or a new one.

    Args:
        results: folder of the numbered result folders.
        name: of a new grid, `<data set>-<grid>`.
        axes: name -> values.
        identity: all that decides what the cells are; two commands of the same identity work on one
            grid.
        options: workers, storage, sampler.
        resume: folder of the grid to go on with; None looks for an unfinished one.

    Raises:
        UserError: an axis is empty or names a value twice, or the storage cannot be reached.
    """
    _check_axes(axes)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    digest = digest_of({"axes": axes, **identity})
    folder = Path(resume) if resume else None
    if folder is None and not options.fresh:
        folder = _unfinished(results, digest)
    if folder is not None:
        grid = attach(folder, options)
    else:
        # What is there is listed once: a study that another machine begins after that has the name
        # that this one would take, and the database accepts a name once.
        names = _studies(digest, options)
        grid = None if options.fresh else _join(results, axes, digest, options, names)
        grid = grid or _create(results, name, axes, digest, options, len(names) + 1)
    if options.retry_failed:
        _retry_failed(grid)
    count = grid.count()
    print(
        f"grid folder: {grid.folder} ({count['trained']} of {len(grid.cells)} cells are trained, "
        f"{count['failed']} failed)"
    )
    return grid


def attach(folder: Path, options: GridOptions, stream: int = 0) -> Grid:
    """The grid of an existing folder.

    Args:
        folder: of the grid.
        options: of the command.
        stream: of random numbers, another one for each worker.

    Raises:
        UserError: the folder holds no grid, or its storage cannot be reached.
    """
    if not (folder / GRID_FILE).is_file():
        raise UserError(f"{folder} holds no {GRID_FILE}: give the folder of a grid")
    known = read_json(folder / GRID_FILE)
    if known["database"] and not is_database(options.storage):
        raise UserError(f"the state of {folder} is in a database: give its URL with --storage")
    with explain_storage(options.storage):
        study = optuna.load_study(
            study_name=known["study"],
            storage=open_storage(options, folder),
            sampler=_sampler(options, stream),
        )
    return Grid(folder, known["axes"], study, options)


def read_grid(folder: Path) -> dict[str, Any]:
    """Content of grid.json, for scripts that need no storage.

    Raises:
        UserError: there is none.
    """
    path = folder / GRID_FILE
    if not path.is_file():
        raise UserError(f"{folder} holds no {GRID_FILE}: give the folder of a grid")
    return read_json(path)


def write_grid(grid: Grid, **more: Any) -> None:
    """Write grid.json: axes, where the state is kept, and what became of each cell."""
    path = grid.folder / GRID_FILE
    known = read_json(path) if path.is_file() else {}
    cells = [
        {"folder": cell.folder.name, **cell.parameters, "status": state.status}
        | ({"reason": state.reason} if state.reason else {})
        for cell, state in zip(grid.cells, grid.states(), strict=True)
    ]
    known |= {"axes": grid.axes, "study": grid.study.study_name}
    known |= {"database": is_database(grid.options.storage), "goal": grid.options.goal}
    write_json(path, known | more | {"cells": cells})


def finish(grid: Grid) -> None:
    """Mark the grid as done, so that the same command begins another one."""
    grid.study.set_user_attr("finished", True)
    write_grid(grid, finished=True)


def _unfinished(results: Path, digest: str) -> Path | None:
    for folder in reversed(numbered_runs(results)):
        if (folder / GRID_FILE).is_file():
            known = read_json(folder / GRID_FILE)
            if known["digest"] == digest and not known.get("finished"):
                print(f"continuing {folder}; --fresh begins another")
                return folder
    return None


def _studies(digest: str, options: GridOptions) -> list[str]:
    """Names of the studies of this identity in the database, the oldest first."""
    if not is_database(options.storage):
        return []
    with explain_storage(options.storage):
        names = optuna.get_all_study_names(open_storage(options, Path()))
    return sorted(name for name in names if re.search(rf"-{digest}-\d+$", name))


def _join(
    results: Path,
    axes: Mapping[str, Sequence[Parameter]],
    digest: str,
    options: GridOptions,
    names: Sequence[str],
) -> Grid | None:
    """The unfinished one of these studies, begun by another machine."""
    if not names:
        return None
    with explain_storage(options.storage):
        storage = open_storage(options, results)
        for name in reversed(names):
            study = optuna.load_study(study_name=name, storage=storage, sampler=_sampler(options))
            if study.user_attrs.get("finished"):
                continue
            folder = _local_folder(results, _wait_until_ready(study), digest)
            grid = Grid(folder, axes, study, options)
            write_grid(grid, digest=digest)
            print(f"joining {name} in the database; --fresh begins another")
            return grid
    return None


def _wait_until_ready(study: optuna.Study) -> str:
    """Name of the folder of a grid, once whoever created it has enqueued all its cells."""
    until = time.monotonic() + READY_SECONDS
    while "ready" not in (attributes := study.user_attrs):
        if time.monotonic() > until:
            raise UserError(
                f"the study {study.study_name} in the database was begun and never got ready: "
                "--fresh begins another"
            )
        time.sleep(0.2)
    return attributes["folder"]


def _local_folder(results: Path, name: str, digest: str) -> Path:
    """The folder of a grid, shared with its creator or on a disk of this machine."""
    folder = results / name
    if folder.is_dir():
        known = folder / GRID_FILE
        if not known.is_file() or read_json(known)["digest"] == digest:
            return folder
        return create_run_folder(results, name.split("-", 1)[1])
    folder.mkdir(parents=True)
    return folder


def _create(
    results: Path,
    name: str,
    axes: Mapping[str, Sequence[Parameter]],
    digest: str,
    options: GridOptions,
    number: int,
) -> Grid:
    """A new grid, the `number`-th of its identity."""
    folder = create_run_folder(results, name)
    with explain_storage(options.storage):
        storage = open_storage(options, folder)
        direction = "minimize" if options.goal == "reconstruction" else "maximize"
        try:
            study = optuna.create_study(
                study_name=f"{slug(name)}-{digest}-{number:03d}",
                storage=storage,
                sampler=_sampler(options),
                direction=direction,
            )
        except optuna.exceptions.DuplicatedStudyError:  # another machine was a second faster
            folder.rmdir()
            grid = _join(results, axes, digest, options, _studies(digest, options))
            if grid is None:
                raise
            return grid
        study.set_user_attr("folder", folder.name)
        grid = Grid(folder, axes, study, options)
        if options.sampler == "grid":
            for cell in grid.cells:
                grid.enqueue(cell)
        write_grid(grid, digest=digest)
        study.set_user_attr("ready", True)
    return grid


def _retry_failed(grid: Grid) -> None:
    for cell, state in zip(grid.cells, grid.states(), strict=True):
        if state.status == "failed":
            grid.enqueue(cell)


def _check_axes(axes: Mapping[str, Sequence[Parameter]]) -> None:
    for name, values in axes.items():
        if not values:
            raise UserError(f"--{name}: no value is given; the grid needs at least one")
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            raise UserError(f"--{name}: {_short(twice[0])} is given twice")


def is_database(storage: str | None) -> bool:
    """Whether the storage is the URL of a database; else it is a journal file."""
    return storage is not None and "://" in storage


def open_storage(options: GridOptions, folder: Path) -> optuna.storages.BaseStorage:
    """The database, or the journal file: the one asked for or that of the folder."""
    if not is_database(options.storage):
        path = Path(options.storage) if options.storage else folder / JOURNAL
        _refuse_other_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Absolute, since the lock is a link that Optuna looks through to see how old it is: a
        # relative one leads nowhere from its own folder, and Optuna would look again for ever.
        journal = str(path.absolute())
        lock = optuna.storages.journal.JournalFileSymlinkLock(journal, LOCK_GRACE)
        backend = optuna.storages.journal.JournalFileBackend(journal, lock)
        return optuna.storages.JournalStorage(backend)
    return _open_database(options)


def _open_database(options: GridOptions) -> optuna.storages.RDBStorage:
    """Open a database, with its tables made.

    Optuna makes them without a lock (its issue 1092): of workers that begin on an empty database at
    once, one succeeds and the others are told that a table is there already. They look again.
    """
    from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError

    for _ in range(OPENINGS):
        try:
            with stable():
                return optuna.storages.RDBStorage(
                    options.storage,
                    engine_kwargs={"pool_pre_ping": True},  # a grid outlives connections
                    heartbeat_interval=options.heartbeat,
                    grace_period=MISSED_BEATS * options.heartbeat,
                    heartbeat_stale_trial_callback=retry_callback(),
                )
        except DBAPIError as error:
            made = isinstance(error, (IntegrityError, ProgrammingError))
            if not made and "already exists" not in str(error):
                raise
            failure = error
            time.sleep(random.uniform(0.05, 0.5))
    raise failure


def _refuse_other_file(path: Path) -> None:
    """Optuna would append to whatever is there."""
    try:
        first = path.open(encoding="utf-8").readline() if path.exists() else ""
        known = not first or "op_code" in json.loads(first)
    except (OSError, ValueError):
        known = False
    if not known:
        raise UserError(
            f"--storage {path}: no journal of a grid; give a new file, or the URL of a database"
        )


def retry_callback() -> Callable[[optuna.Study, FrozenTrial], None]:
    """Lets the cell of a dead worker wait again, a few times."""
    with stable():
        return optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=RETRIES)


@contextmanager
def stable() -> Iterator[None]:
    """Optuna calls heartbeats experimental; its version is pinned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


@contextmanager
def explain_storage(storage: str | None) -> Iterator[None]:
    """Turn what can go wrong with a storage into one line, without the password."""
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"--storage {masked(storage)}: its driver is missing ({error}); "
            "pip install -e '.[postgresql]'"
        ) from error
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("sqlalchemy", "psycopg", "optuna"):
            raise
        reason = str(error).strip().splitlines()[0][:160]
        raise UserError(f"--storage {masked(storage)}: cannot be used ({reason})") from error


def masked(storage: str | None) -> str:
    """The address without its password."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", storage or "journal file")


def _sampler(options: GridOptions, stream: int = 0) -> optuna.samplers.BaseSampler:
    """Of the trials that are not enqueued."""
    seed = int(np.random.SeedSequence([getattr(options, "seed", 0), stream]).generate_state(1)[0])
    if options.sampler == "tpe":  # its constant liar keeps workers from repeating each other
        return optuna.samplers.TPESampler(constant_liar=True, seed=seed)
    return optuna.samplers.RandomSampler(seed)


def train_all(grid: Grid, train: Train, make_train: Callable[[], Train]) -> None:
    """Train the cells with `options.workers` processes; this one is the first of them.

    Args:
        grid: whose cells are to be trained.
        train: trains one cell, in this process.
        make_train: builds the same in another process; must be picklable.
    """
    workers = max(1, min(grid.options.workers, len(grid.cells)))
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
            explain_storage(grid.options.storage),
            explain_os_error(grid.folder),
        ):
            grid.work(train)
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
    """A further worker: loads what it needs, then trains cells."""
    end_with_parent()
    torch.set_num_threads(threads)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with quiet():
            train = make_train()
        with explain_storage(options.storage), explain_os_error(folder):
            attach(folder, options, stream).work(train)
    except KeyboardInterrupt:
        pass  # the command that started it says so
    except UserError as error:
        print(f"a worker gave up: {error}", file=sys.stderr)


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing on the terminal: what several workers do is said once."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirected(nowhere):
        yield


@contextmanager
def redirected(stream: Any) -> Iterator[None]:
    """Standard output and error into a stream."""
    before = sys.stdout, sys.stderr
    sys.stdout = sys.stderr = stream
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def worker_name() -> str:
    """Machine and process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def combinations(axes: Mapping[str, Sequence[Parameter]]) -> Iterator[dict[str, Parameter]]:
    """All combinations of values, the last axis running fastest."""
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def cell_name(parameters: Mapping[str, Parameter]) -> str:
    """E.g. alpha-5-beta-20."""
    return slug("-".join(f"{name}-{_short(value)}" for name, value in parameters.items()))


def digest_of(identity: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits of whatever JSON can hold."""
    words = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(words.encode()).hexdigest()[:8]


def one_line_of(error: Exception) -> str:
    """What went wrong; of an error that is no user's mistake, also where."""
    text = " ".join(str(error).split())[:300]
    if isinstance(error, UserError) or is_out_of_memory(error):
        return text
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({Path(place.filename).name}:{place.lineno})"


def _reason(trial: FrozenTrial) -> str:
    if "reason" in trial.user_attrs:
        return trial.user_attrs["reason"]
    died = len(trial.system_attrs.get("retry_history", [])) + 1
    return f"its worker died {died} times"


def _short(value: Parameter) -> str:
    """Numbers without trailing zeros."""
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)
