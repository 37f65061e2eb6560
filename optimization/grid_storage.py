"""The Optuna storage of a grid: a journal file on one machine, or a database for several.

Optuna (Akiba et al. 2019, arXiv:1907.10902) keeps one study per grid. It calls each attempt at a
trial of the grid a trial as well; here, as in `grid`, its records are called attempts.

While a worker trains, it sends heartbeats to the database. An attempt whose heartbeats stop fails,
and its trial waits for another worker. A journal has no heartbeats; there the locks of `grid` tell
whether a worker is alive.
"""

import json
import random
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial as Attempt
from optuna.trial import TrialState as AttemptState

from util.errors import UserError

JOURNAL = "journal.log"
RETRIES = 3  # of a trial whose worker died; one that kills every worker must not go on for ever
MISSED_BEATS = 4  # after which a worker counts as dead
OPENINGS = 10  # of a database whose tables other workers are creating
LOCK_GRACE = 30  # s after which the journal's lock is taken from a worker that died with it
READY_SECONDS = 60.0


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
    from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError

    for _ in range(OPENINGS):
        try:
            with _stable():
                return optuna.storages.RDBStorage(
                    url,
                    engine_kwargs={"pool_pre_ping": True},  # a grid outlives connections
                    heartbeat_interval=heartbeat,
                    grace_period=MISSED_BEATS * heartbeat,
                    heartbeat_stale_trial_callback=_retry_callback(),
                )
        except DBAPIError as error:
            created = isinstance(error, (IntegrityError, ProgrammingError))
            if not created and "already exists" not in str(error):
                raise
            failure = error
            time.sleep(random.uniform(0.05, 0.5))
    raise failure


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
    if attempt.state == AttemptState.RUNNING:
        study.tell(number, state=AttemptState.FAIL, skip_if_finished=True)
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


@contextmanager
def explain_storage(url: str | None) -> Iterator[None]:
    """Turn an error of the storage into one line without the password.

    Raises:
        UserError: the storage cannot be used.
    """
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"--storage {masked(url)}: its driver is missing ({error}); "
            "pip install -e '.[postgresql]'"
        ) from error
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("sqlalchemy", "psycopg", "optuna"):
            raise
        reason = str(error).strip().splitlines()[0][:160]
        raise UserError(f"--storage {masked(url)}: cannot be used ({reason})") from error


def masked(url: str | None) -> str:
    """The storage without its password."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url or "journal file")
