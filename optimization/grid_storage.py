"""The Optuna storage of a grid: a journal file on one machine, or a database for several.

Optuna (Akiba et al. 2019, arXiv:1907.10902) keeps one study per grid. It calls each attempt at a
trial of the grid a trial as well; here, as in `grid`, its records are called attempts.

While a worker trains, it sends heartbeats to the database. An attempt whose heartbeats stop fails,
and its trial waits for another worker. Optuna compares their times with the clock of the database;
as that clock may be set back, `Heartbeats` also watches whether they change at all. A journal has
no heartbeats; there the locks of `grid` tell whether a worker is alive.

A database that restarts is waited for. One that is lost ends a worker with one line; what it has
trained is in the folder of the trial, and the same command goes on.
"""

import json
import random
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial as Attempt
from optuna.trial import TrialState as AttemptState

from util.errors import UserError, first_line, passwords_of, without_password

JOURNAL = "journal.log"
RETRIES = 3  # of a trial whose worker died; one that kills every worker must not go on for ever
MISSED_BEATS = 4  # after which a worker counts as dead
OPENINGS = 10  # of a database whose tables other workers are creating
LOCK_GRACE = 30  # s after which the journal's lock is taken from a worker that died with it
READY_SECONDS = 60.0
RESTART_SECONDS = 60.0  # that a database may take to come back


def is_database(url: str | None) -> bool:
    """Whether a storage is the URL of a database; otherwise it is a journal file."""
    return url is not None and "://" in url


def open_storage(url: str | None, folder: Path, heartbeat: int) -> optuna.storages.BaseStorage:
    """Open the database or the journal file.

    Args:
        url: URL of a database, or path of a journal file; None takes the journal of the folder.
        folder: of the grid.
        heartbeat: seconds between two signs of life of a worker, in a database.

    Raises:
        UserError: the file is not a journal.
    """
    if is_database(url):
        return _open_database(url, heartbeat)
    path = Path(url) if url else folder / JOURNAL
    _refuse_other_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Absolute, because the lock is a symbolic link that Optuna follows to see how old it is. A
    # relative link would be dead in its own folder, and Optuna would wait for ever.
    journal = str(path.absolute())
    lock = optuna.storages.journal.JournalFileSymlinkLock(journal, LOCK_GRACE)
    backend = optuna.storages.journal.JournalFileBackend(journal, lock)
    return optuna.storages.JournalStorage(backend)


def _open_database(url: str, heartbeat: int) -> optuna.storages.RDBStorage:
    """Open a database and create its tables where they are missing.

    Optuna creates them without a lock (its issue 1092). If several workers open an empty database
    at once, one succeeds and the others fail because a table exists already; they try again.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError

    try:
        make_url(url)
    except ValueError:  # from None: it may quote the password
        raise UserError(
            f"--storage {without_password(url)}: no URL of a database, such as "
            "postgresql://user@host/name"
        ) from None
    for _ in range(OPENINGS):
        try:
            with _stable():
                storage = _database_class()(
                    url,
                    engine_kwargs={"pool_pre_ping": True},  # a grid outlives connections
                    heartbeat_interval=heartbeat,
                    grace_period=MISSED_BEATS * heartbeat,
                    heartbeat_stale_trial_callback=_retry_callback(),
                )
            _wait_for_restarts(storage.engine)
            return storage
        except DBAPIError as error:
            created = isinstance(error, (IntegrityError, ProgrammingError))
            if not created and "already exists" not in str(error):
                raise
            failure = error
            time.sleep(random.uniform(0.05, 0.5))
    raise failure


@cache
def _database_class() -> type[optuna.storages.RDBStorage]:
    from sqlalchemy.exc import SQLAlchemyError

    class Database(optuna.storages.RDBStorage):
        """A database in which a worker may miss a heartbeat and train on."""

        def record_heartbeat(self, trial_id: int) -> None:
            """Send a sign of life, if the database takes it."""
            with suppress(SQLAlchemyError, optuna.exceptions.StorageInternalError, KeyError):
                super().record_heartbeat(trial_id)

    return Database


def _wait_for_restarts(engine: Any) -> None:
    """From now on, try for a while to connect to a database that does not answer."""
    from sqlalchemy import event

    failing_since: list[float] = []  # empty while the database answers

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, _: Any, words: list, options: dict) -> Any:
        while True:
            try:
                connection = dialect.connect(*words, **options)
            except dialect.loaded_dbapi.OperationalError:
                failing_since.append(time.monotonic())
                if time.monotonic() - failing_since[0] > RESTART_SECONDS:
                    raise
                time.sleep(random.uniform(0.2, 1.0))
            else:
                failing_since.clear()
                return connection


class Heartbeats:
    """The heartbeats in a database, as one worker has seen them change, by its own clock."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[Any, float]] = {}  # attempt -> last heartbeat, when it was new

    def stopped(self, study: optuna.Study, heartbeat: int) -> list[int]:
        """Numbers of running attempts whose heartbeat has not changed for too long.

        Args:
            study: in a database.
            heartbeat: seconds between two heartbeats.
        """
        from sqlalchemy import text

        beats = text(
            "SELECT t.number, h.heartbeat FROM trials t JOIN trial_heartbeats h "
            "ON h.trial_id = t.trial_id WHERE t.study_id = :study AND t.state = 'RUNNING'"
        )
        with study._storage._backend.engine.connect() as connection:
            found = dict(connection.execute(beats, {"study": study._study_id}).fetchall())
        now = time.monotonic()
        self.seen = {
            number: self.seen[number] if self.seen.get(number, ())[:1] == (beat,) else (beat, now)
            for number, beat in found.items()
        }
        patience = MISSED_BEATS * heartbeat
        return [number for number, (_, since) in self.seen.items() if now - since > patience]


def _refuse_other_file(path: Path) -> None:
    """Optuna would append to any file."""
    try:
        first = path.open(encoding="utf-8").readline() if path.exists() else ""
        known = not first or "op_code" in json.loads(first)
    except (OSError, ValueError):
        known = False
    if not known:
        raise UserError(
            f"--storage {path}: not the journal of a grid; give a new file or a database URL"
        )


def study_names(storage: optuna.storages.BaseStorage, digest: str) -> list[str]:
    """Names of the studies of one identity, oldest first."""
    names = optuna.get_all_study_names(storage)
    return sorted(name for name in names if re.search(rf"-{digest}-\d+$", name))


def unfinished_study(
    storage: optuna.storages.BaseStorage,
    names: Sequence[str],
    sampler: optuna.samplers.BaseSampler,
) -> optuna.Study | None:
    """The newest of these studies whose grid is unfinished; None if there is none.

    Raises:
        UserError: the worker that created it has not enqueued its trials within a minute.
    """
    for name in reversed(names):
        study = optuna.load_study(study_name=name, storage=storage, sampler=sampler)
        if not study.user_attrs.get("finished"):
            _wait_until_ready(study)
            return study
    return None


def _wait_until_ready(study: optuna.Study) -> None:
    until = time.monotonic() + READY_SECONDS
    while "ready" not in study.user_attrs:
        if time.monotonic() > until:
            raise UserError(
                f"the study {study.study_name} in the database was created but never completed: "
                "start another with --fresh"
            )
        time.sleep(0.2)


def fail_silent_attempts(study: optuna.Study) -> None:
    """Fail attempts whose heartbeats have stopped; their trials wait again. Ignores a journal."""
    with _stable():
        optuna.storages.fail_stale_trials(study)


def fail_and_retry(study: optuna.Study, number: int) -> None:
    """Fail a running attempt whose worker died; its trial waits again, at most `RETRIES` times."""
    attempt = study.get_trials()[number]
    with suppress(optuna.exceptions.UpdateFinishedTrialError):  # another worker has failed it
        if study._storage.set_trial_state_values(attempt._trial_id, state=AttemptState.FAIL):
            _retry_callback()(study, attempt)


def _retry_callback() -> Callable[[optuna.Study, Attempt], None]:
    with _stable():
        return optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=RETRIES)


@contextmanager
def _stable() -> Iterator[None]:
    """Optuna warns that heartbeats are experimental; its version is pinned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def is_storage_error(error: Exception) -> bool:
    """Whether the database or its driver raised it."""
    of_driver = type(error).__module__.split(".")[0] in ("sqlalchemy", "psycopg")
    return of_driver or isinstance(error, optuna.exceptions.StorageInternalError)


@contextmanager
def explain_storage(url: str | None, grid: Path | None = None) -> Iterator[None]:
    """Turn an error of the storage into one line without the password.

    Args:
        url: of the storage.
        grid: folder of the grid whose state is read.

    Raises:
        UserError: the storage cannot be used, or has been lost.
    """
    shown = f"--storage {without_password(url or str(grid or 'journal file'))}"
    lost = "what is trained is in the folders of the trials, and --fresh starts another grid"
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"{shown}: its driver is missing ({error}); pip install -e '.[postgresql]'"
        ) from error
    except (KeyError, FileNotFoundError) as error:
        if isinstance(error, KeyError) and "Record does not exist" not in str(error):
            raise
        if isinstance(error, FileNotFoundError) and JOURNAL not in str(error.filename):
            raise
        raise UserError(f"{shown}: the state of the grid is no longer there; {lost}") from error
    except Exception as error:
        if not is_storage_error(error) and not isinstance(error, optuna.exceptions.OptunaError):
            raise
        reason = first_line(error.__cause__ or error, 160)  # Optuna only guesses at causes
        if any(word in reason for word in passwords_of(url or "")):
            reason = type(error).__name__
        raise UserError(f"{shown}: cannot be used ({reason})") from error
