"""A grid of runs: workers share its trials, and each trial is trained exactly once.

A trial is one combination of settings. Optuna (Akiba et al. 2019, arXiv:1907.10902), which keeps
the state of a grid (`grid_storage`), calls each attempt at a trial a trial as well. Here Optuna's
records are called attempts: a trial has several if workers died while they trained it.

All trials are enqueued when the grid is created, because Optuna's own GridSampler may hand the same
one to two workers. A worker takes a waiting trial, trains it in the trial's folder and reports to
the storage. Three things ensure that no trial is lost and none is trained twice:

- A dead worker is detected: in a database by its missing heartbeats, on one machine because the
  system releases its lock. No clock that can be set decides alone. Its trial waits again, and the
  next worker continues from the last checkpoint.
- A worker locks the folder of its trial, so no other worker trains there, even if the storage
  mistakes the first one for dead.
- A trained trial has the file trial.json (cell.json in grids of older versions) and is not trained
  again.

A trial that fails is recorded with the reason, and the others continue.
"""

import hashlib
import itertools
import json
import os
import socket
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import optuna
import torch
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial as Attempt
from optuna.trial import TrialState as AttemptState

from optimization.grid_storage import (
    Heartbeats,
    explain_storage,
    fail_and_retry,
    fail_silent_attempts,
    is_database,
    is_storage_error,
    open_storage,
    study_names,
    unfinished_study,
)
from quantitative_metrics.catalogue import better_when, goal_column
from util.errors import (
    NO_SPACE,
    DiskFullError,
    UserError,
    is_out_of_memory,
)
from util.runs import create_run_folder, numbered_runs, read_json, slug, write_json
from util.settings import AT_LEAST_1

GRID_FILE = "grid.json"
TRIAL_FILE = "trial.json"
OLDER_TRIAL_FILE = "cell.json"
POLL_SECONDS = 1.0
REPEATS_OF_TPE = 10  # in a row, before a trial is drawn at random

Parameter = float | int | str
Train = Callable[["Trial"], dict[str, Any]]


@dataclass(frozen=True)
class GridOptions:
    """Options of every grid."""

    workers: int = 1
    """Processes on this machine that train at the same time; they share its cores."""
    storage: str | None = None
    """Where the state of the grid is kept. None: a journal file in its folder, for one machine. For
    several machines give each the URL of the same database, e.g. postgresql://user@host/name."""
    sampler: Literal["grid", "tpe"] = "grid"
    """`grid` trains every trial; `tpe` trains those that Optuna's TPE suggests (Bergstra et al.
    2011)."""
    trials: int = 20
    """At most so many trials are trained with `--sampler tpe`."""
    goal: str = "reconstruction"
    """Score that TPE optimises and that names the best run: `reconstruction` (lowest, nats per
    image) or a score (highest), e.g. `accuracy` or `trustworthiness_area features`."""
    heartbeat: int = 15
    """Seconds between two signs of life of a worker in a database; after four missed ones it counts
    as dead."""
    reports: bool = True
    """Draw the figures and the report of each run; takes a few seconds per run."""
    retry_failed: bool = False
    """Train the failed trials of the grid again."""
    fresh: bool = False
    """Start a new grid even if an unfinished one with the same settings could be continued."""

    OPTION_RANGES: ClassVar = {
        "workers": AT_LEAST_1,
        "trials": AT_LEAST_1,
        "heartbeat": AT_LEAST_1,
    }


# What may differ between two commands that work on the same grid.
OPTION_NAMES = frozenset(GridOptions.__dataclass_fields__) - {"sampler", "trials", "goal"}


@dataclass(frozen=True)
class Trial:
    """One combination of settings.

    Attributes:
        number: position in the grid, from 1.
        parameters: axis -> value.
        folder: of its run, inside the folder of the grid.
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
class TrialState:
    """State of a trial.

    Attributes:
        status: `untried`, `waiting`, `running`, `trained` or `failed`.
        reason: why it failed.
        value: its score by the goal of the grid, once trained.
    """

    status: str = "untried"
    reason: str = ""
    value: float | None = None


STATUS = {
    AttemptState.WAITING: "waiting",
    AttemptState.RUNNING: "running",
    AttemptState.COMPLETE: "trained",
    AttemptState.FAIL: "failed",
}
RANK = ("untried", "failed", "waiting", "running", "trained")  # of several attempts the last counts


class Grid:
    """The trials of a grid, their folders and their states.

    Args:
        folder: of the grid.
        axes: name -> values; the trials are their product, and the last axis varies fastest.
        study: Optuna's.
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
        self.trials = [
            Trial(number, parameters, folder / f"{number:04d}-{trial_name(parameters)}")
            for number, parameters in enumerate(combinations(self.axes), start=1)
        ]
        self._by_values = {tuple(trial.parameters.values()): trial for trial in self.trials}
        self.full_disk: Exception | None = None  # the error that stopped this worker
        self.interrupted: Trial | None = None  # one whose result the storage did not take
        self.beats = Heartbeats()

    def trial(self, parameters: Mapping[str, Parameter]) -> Trial:
        """The trial with these values."""
        return self._by_values[tuple(parameters[name] for name in self.axes)]

    def lock(self, trial: Trial) -> FileLock:
        """Held while a trial is trained; the system releases it when its holder dies."""
        return self.named_lock(trial.folder.name)

    def named_lock(self, name: str) -> FileLock:
        """A lock in the folder of the grid."""
        locks = self.folder / ".locks"
        locks.mkdir(exist_ok=True)
        return FileLock(locks / f"{name}.lock")

    def states(self) -> list[TrialState]:
        """State of each trial, in the order of the trials."""
        states = [TrialState() for _ in self.trials]
        for attempt in self.study.get_trials(deepcopy=False):
            trial = self._trial_of(attempt)
            if trial is None or attempt.state not in STATUS:
                continue
            state, status = states[trial.number - 1], STATUS[attempt.state]
            if RANK.index(status) >= RANK.index(state.status):
                state.status, state.value = status, attempt.value
                state.reason = _reason(attempt) if status == "failed" else ""
        return states

    def count(self) -> Counter[str]:
        """Number of trials by status."""
        return Counter(state.status for state in self.states())

    def _trial_of(self, attempt: Attempt) -> Trial | None:
        # An enqueued attempt has all its values from the start, though Optuna suggests them one by
        # one.
        parameters = {**attempt.system_attrs.get("fixed_params", {}), **attempt.params}
        complete = set(self.axes) <= set(parameters)
        return self.trial(parameters) if complete else None

    def enqueue(self, trial: Trial) -> None:
        """Let a trial wait for a worker."""
        self.study.enqueue_trial(trial.parameters)

    def work(self, train: Train) -> None:
        """Train waiting trials until none is waiting or running.

        Args:
            train: trains one trial in its folder, from a checkpoint if there is one; returns the
                facts to remember, among them `value`.
        """
        while True:
            self.revive()
            if self._has_work():
                self._train_next(train)
            elif self.count()["running"]:  # perhaps its worker will die
                time.sleep(POLL_SECONDS)
            else:
                return

    def _has_work(self) -> bool:
        attempts = self.study.get_trials(deepcopy=False)
        if any(attempt.state == AttemptState.WAITING for attempt in attempts):
            return True
        if self.options.sampler == "grid":
            return False
        begun = len(self.trials) - self.count()["untried"]
        unknown = sum(
            attempt.state == AttemptState.RUNNING and self._trial_of(attempt) is None
            for attempt in attempts
        )
        if begun + unknown >= min(self.options.trials, len(self.trials)):
            return False
        self._vary(attempts)
        return True

    def _vary(self, attempts: Sequence[Attempt]) -> None:
        """Draw an untried trial if TPE keeps suggesting those that have been tried."""
        last = attempts[-REPEATS_OF_TPE:]
        if len(last) == REPEATS_OF_TPE and all("copy_of" in one.user_attrs for one in last):
            states = zip(self.trials, self.states(), strict=True)
            untried = [trial for trial, state in states if state.status == "untried"]
            rng = np.random.default_rng(len(attempts))
            self.enqueue(untried[rng.integers(len(untried))])

    def _taking(self) -> FileLock:
        """Held from taking an attempt, which begins to run, until the lock of its trial is held."""
        return self.named_lock("taking")

    def _train_next(self, train: Train) -> None:
        taking = self._taking()
        taking.acquire()
        try:
            self.study.optimize(
                lambda attempt: self._attempt_again(attempt, train, taking),
                n_trials=1,
                catch=(Exception,),
                gc_after_trial=True,  # frees a failed trial's memory before the next one is built
            )
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            # The storage mistook this worker for dead and accepts no result of this attempt. What
            # it trained is in the trial's folder, where the next worker finds it.
            print("the storage mistook this worker for dead; what it trained is kept")
        except UnboundLocalError as error:  # Optuna's own, when it could not tell the storage
            told = error.__context__ or error
            raise told from told.__cause__
        finally:
            taking.release()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        if self.interrupted is not None:
            self.enqueue(self.interrupted)
            self.interrupted = None
        if self.full_disk is not None:
            raise self.full_disk

    def _attempt_again(self, attempt: optuna.Trial, train: Train, taking: FileLock) -> float:
        """`_make_attempt`; if the storage fails, the trial waits again, for it has not."""
        try:
            return self._make_attempt(attempt, train, taking)
        except Exception as error:
            if is_storage_error(error):
                self.interrupted = self._trial_of(self.study.get_trials()[attempt.number])
            raise

    def _make_attempt(self, attempt: optuna.Trial, train: Train, taking: FileLock) -> float:
        """Train the trial that Optuna suggests; returns its value."""
        trial = self.trial(
            {name: attempt.suggest_categorical(name, values) for name, values in self.axes.items()}
        )
        attempt.set_user_attr("worker", worker_name())
        earlier = self._earlier(attempt, trial)
        if earlier is not None:
            attempt.set_user_attr("copy_of", earlier.number)
            if earlier.state != AttemptState.COMPLETE:
                raise optuna.TrialPruned(f"attempt {earlier.number} is at this trial")
            return earlier.value
        with self._locked(trial, taking):
            try:
                facts = self._train(trial, train)
            except KeyboardInterrupt:
                self.enqueue(trial)
                raise
            except Exception as error:
                if is_storage_error(error):
                    raise
                if isinstance(error, DiskFullError) or getattr(error, "errno", None) in NO_SPACE:
                    self.full_disk = error  # stops the worker: every other trial would fail as well
                    self.enqueue(trial)
                    raise
                attempt.set_user_attr("reason", one_line_of(error))
                self._report(trial, f"failed: {one_line_of(error)}")
                raise
        attempt.set_user_attr("facts", facts)
        return float(facts["value"])

    def _train(self, trial: Trial, train: Train) -> dict[str, Any]:
        facts = read_facts(trial.folder)
        if facts is not None:
            return facts
        trial.folder.mkdir(exist_ok=True)
        began = time.perf_counter()
        facts = train(trial)
        said = facts.pop("said", "trained")
        facts |= {"worker": worker_name(), "wall_seconds": round(time.perf_counter() - began, 1)}
        write_json(trial.folder / TRIAL_FILE, facts)
        self._report(trial, f"{said}, {facts['wall_seconds']:.0f} s")
        return facts

    def _earlier(self, attempt: optuna.Trial, trial: Trial) -> Attempt | None:
        """An earlier attempt at the trial, running or complete.

        There is one if TPE repeats itself, or if a worker asks when no trial waits any more.
        """
        for other in self.study.get_trials(deepcopy=False):
            taken = other.state in (AttemptState.RUNNING, AttemptState.COMPLETE)
            if other.number < attempt.number and taken and self._trial_of(other) == trial:
                return other
        return None

    def _report(self, trial: Trial, said: str) -> None:
        count = self.count()
        done = count["trained"] + count["failed"] + 1
        print(f"[{done} of {len(self.trials)}] {trial}: {said}", flush=True)

    @contextmanager
    def _locked(self, trial: Trial, taking: FileLock) -> Iterator[None]:
        """The lock of a trial, which a worker that the database mistook for dead may still hold."""
        if is_database(self.options.storage):
            taking.release()
        with self.lock(trial):
            taking.release()
            yield

    def revive(self) -> None:
        """Let the trials of dead workers wait again."""
        if is_database(self.options.storage):
            fail_silent_attempts(self.study)
            for number in self.beats.stopped(self.study, self.options.heartbeat):
                fail_and_retry(self.study, number)
            return
        with self._taking():  # so that every running attempt holds the lock of its trial
            for attempt in self.study.get_trials(deepcopy=False, states=(AttemptState.RUNNING,)):
                self._revive_dead(attempt)

    def _revive_dead(self, attempt: Attempt) -> None:
        trial = self._trial_of(attempt)
        if trial is None:  # its worker died before TPE had suggested all values
            self.study.tell(attempt.number, state=AttemptState.FAIL)
            return
        try:
            with self.lock(trial).acquire(timeout=0):
                fail_and_retry(self.study, attempt.number)
        except Timeout:
            pass  # its worker is alive


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
        identity: everything that decides what the trials compute; two commands of the same
            identity work on one grid.
        options: workers, storage, sampler.
        resume: folder of the grid to continue; None looks for an unfinished one.

    Raises:
        UserError: an axis is empty or names a value twice, or the storage cannot be used.
    """
    _check_axes(axes)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    digest = _digest_of({"axes": axes, **identity})
    folder = Path(resume) if resume else None
    if folder is None and not options.fresh:
        folder = _unfinished_folder(results, digest)
    if folder is not None:
        grid = attach(folder, options)
    else:
        with explain_storage(options.storage):
            asked = _Asked(results=results, name=name, axes=axes, digest=digest, options=options)
            grid = asked.join_or_create()
    if options.retry_failed:
        for trial, state in zip(grid.trials, grid.states(), strict=True):
            if state.status == "failed":
                grid.enqueue(trial)
    count = grid.count()
    print(
        f"grid folder: {grid.folder} ({count['trained']} of {len(grid.trials)} trials are trained, "
        f"{count['failed']} failed)"
    )
    return grid


def _unfinished_folder(results: Path, digest: str) -> Path | None:
    for folder in reversed(numbered_runs(results)):
        if (folder / GRID_FILE).is_file():
            known = read_grid(folder)
            if known["digest"] == digest and not known.get("finished"):
                print(f"continuing {folder}; --fresh starts another")
                return folder
    return None


@dataclass(frozen=True)
class _Asked:
    """The grid that a command asks for, where it has no unfinished folder on this disk."""

    results: Path
    name: str
    axes: Mapping[str, Sequence[Parameter]]
    digest: str
    options: GridOptions

    def join_or_create(self) -> Grid:
        """A grid that another machine has begun in the database, or a new one."""
        # The names are listed once. If another machine creates a study after that, the new one
        # here gets the same name, and the database accepts a name only once.
        names = self._study_names()
        joined = None if self.options.fresh else self._join(names)
        return joined or self._create(len(names) + 1)

    def _storage(self, folder: Path) -> optuna.storages.BaseStorage:
        return open_storage(self.options.storage, folder, self.options.heartbeat)

    def _study_names(self) -> list[str]:
        if not is_database(self.options.storage):
            return []
        return study_names(self._storage(self.results), self.digest)

    def _join(self, names: Sequence[str]) -> Grid | None:
        if not names:
            return None
        study = unfinished_study(self._storage(self.results), names, _sampler(self.options))
        if study is None:
            return None
        grid = Grid(self._folder_of(study), self.axes, study, self.options)
        write_grid(grid, digest=self.digest)
        print(f"joining {study.study_name} in the database; --fresh starts another")
        return grid

    def _folder_of(self, study: optuna.Study) -> Path:
        """The folder of a study, shared with its creator or on a disk of this machine."""
        folder = self.results / study.user_attrs["folder"]
        if not folder.is_dir():
            folder.mkdir(parents=True)
            return folder
        if (folder / GRID_FILE).is_file() and read_grid(folder)["digest"] != self.digest:
            return create_run_folder(self.results, self.name)
        return folder

    def _create(self, number: int) -> Grid:
        """A new grid, the `number`-th of its identity."""
        folder, goal = create_run_folder(self.results, self.name), self.options.goal
        try:
            study = optuna.create_study(
                study_name=f"{slug(self.name)}-{self.digest}-{number:03d}",
                storage=self._storage(folder),
                sampler=_sampler(self.options),
                direction="minimize" if better_when(goal_column(goal)) < 0 else "maximize",
            )
        except optuna.exceptions.DuplicatedStudyError:  # another machine was a second faster
            folder.rmdir()
            grid = self._join(self._study_names())
            if grid is None:
                raise
            return grid
        study.set_user_attr("folder", folder.name)
        grid = Grid(folder, self.axes, study, self.options)
        if self.options.sampler == "grid":
            for trial in grid.trials:
                grid.enqueue(trial)
        write_grid(grid, digest=self.digest)
        study.set_user_attr("ready", True)
        return grid


def attach(folder: Path, options: GridOptions, stream: int = 0) -> Grid:
    """The grid of an existing folder.

    Args:
        folder: of the grid.
        options: of the command.
        stream: of random numbers, a different one for each worker.

    Raises:
        UserError: the folder holds no grid, or its storage cannot be used.
    """
    known = read_grid(folder)
    if known["database"] and not is_database(options.storage):
        raise UserError(f"the state of {folder} is in a database: give its URL with --storage")
    with explain_storage(options.storage, folder):
        study = optuna.load_study(
            study_name=known["study"],
            storage=open_storage(options.storage, folder, options.heartbeat),
            sampler=_sampler(options, stream),
        )
    return Grid(folder, known["axes"], study, options)


def _check_axes(axes: Mapping[str, Sequence[Parameter]]) -> None:
    for name, values in axes.items():
        if not values:
            raise UserError(f"--{name}: no value is given; the grid needs at least one")
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            raise UserError(f"--{name}: {_short(twice[0])} is given twice")


def _sampler(options: GridOptions, stream: int = 0) -> optuna.samplers.BaseSampler:
    """Sampler of the trials that are not enqueued."""
    seed = int(np.random.SeedSequence([getattr(options, "seed", 0), stream]).generate_state(1)[0])
    if options.sampler == "tpe":  # its constant liar keeps workers from repeating each other
        return optuna.samplers.TPESampler(constant_liar=True, seed=seed)
    return optuna.samplers.RandomSampler(seed)


def read_grid(folder: Path) -> dict[str, Any]:
    """Content of grid.json; needs no storage.

    Raises:
        UserError: there is none.
    """
    path = folder / GRID_FILE
    if not path.is_file():
        raise UserError(f"{folder} holds no {GRID_FILE}: give the folder of a grid")
    known = read_json(path)
    if isinstance(known, dict) and "cells" in known:  # the name of the trials in older versions
        known["trials"] = known.pop("cells")
    _refuse_odd_grid(known, path)
    return known


def _refuse_odd_grid(known: Any, path: Path) -> None:
    """Refuse a grid.json that `write_grid` has not written."""
    kinds = {"axes": dict, "trials": list, "study": str, "database": bool}
    whole = isinstance(known, dict) and all(isinstance(known.get(n), k) for n, k in kinds.items())
    whole = whole and all(
        isinstance(values, list) and all(type(value) in (int, float, str) for value in values)
        for values in known["axes"].values()
    )
    if not whole or not all(isinstance(t, dict) and "folder" in t for t in known["trials"]):
        raise UserError(f"{path} is damaged: restore it, or start another grid")


def read_facts(folder: Path) -> dict[str, Any] | None:
    """The facts of a trained trial, from its folder; None if it is not trained."""
    for name in (TRIAL_FILE, OLDER_TRIAL_FILE):
        if (folder / name).is_file():
            facts = read_json(folder / name)
            if not isinstance(facts, dict) or type(facts.get("value")) not in (int, float):
                raise UserError(f"{folder / name} is damaged: delete it, and the run is read again")
            return facts
    return None


def write_grid(grid: Grid, **more: Any) -> None:
    """Write grid.json: the axes, where the state is kept, and the status of each trial."""
    known = read_grid(grid.folder) if (grid.folder / GRID_FILE).is_file() else {}
    trials = [
        {"folder": trial.folder.name, **trial.parameters, "status": state.status}
        | ({"reason": state.reason} if state.reason else {})
        for trial, state in zip(grid.trials, grid.states(), strict=True)
    ]
    known |= {"axes": grid.axes, "study": grid.study.study_name}
    known |= {"database": is_database(grid.options.storage), "goal": grid.options.goal}
    write_json(grid.folder / GRID_FILE, known | more | {"trials": trials})


def finish(grid: Grid) -> None:
    """Mark the grid as finished, so that the same command starts another one."""
    grid.study.set_user_attr("finished", True)
    write_grid(grid, finished=True)


def worker_name() -> str:
    """Machine and process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def combinations(axes: Mapping[str, Sequence[Parameter]]) -> Iterator[dict[str, Parameter]]:
    """All combinations of values; the last axis varies fastest."""
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def trial_name(parameters: Mapping[str, Parameter]) -> str:
    """E.g. alpha-5-beta-20."""
    return slug("-".join(f"{name}-{_short(value)}" for name, value in parameters.items()))


def _digest_of(identity: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits of anything that JSON can hold."""
    words = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(words.encode()).hexdigest()[:8]


def one_line_of(error: Exception) -> str:
    """What went wrong; for an error in the program also where."""
    text = " ".join(str(error).split())[:300]
    if isinstance(error, UserError) or is_out_of_memory(error):
        return text
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({Path(place.filename).name}:{place.lineno})"


def _reason(attempt: Attempt) -> str:
    if "reason" in attempt.user_attrs:
        return attempt.user_attrs["reason"]
    died = len(attempt.system_attrs.get("retry_history", [])) + 1
    return f"its worker died {died} times"


def _short(value: Parameter) -> str:
    """Numbers without trailing zeros."""
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)
