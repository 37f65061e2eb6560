"""The grid itself, with trials that are trained in a moment."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import optuna
import pytest
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState as AttemptState
from sqlalchemy import text

from optimization import grid as grid_module
from optimization import grid_storage
from optimization.grid import (
    Grid,
    GridOptions,
    attach,
    combinations,
    finish,
    open_grid,
    read_facts,
    read_grid,
    trial_name,
)
from optimization.grid_storage import Heartbeats, fail_and_retry, open_storage
from optimization.grid_workers import train_all
from util.errors import DiskFullError, UserError

pytestmark = pytest.mark.usefixtures("only_own_garbage")

AXES = {"alpha": (0.0, 5.0, 20.0), "beta": (1.0, 500.0)}


@dataclass(frozen=True)
class Options(GridOptions):
    seed: int = 0


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


def opened(results, identity=None, axes=AXES, resume=None, **options) -> Grid:
    return open_grid(
        results=results,
        name="set-grid",
        axes=axes,
        identity=identity or {},
        options=Options(**options),
        resume=resume,
    )


def record(trial):
    """Train a trial: leave a line in its folder, which shows how often that was done."""
    with (trial.folder / "trained").open("a") as file:
        file.write(f"{os.getpid()}\n")
    return {"value": trial.parameters["alpha"] + trial.parameters["beta"]}


def make_record():
    return record


def slow(trial):
    time.sleep(0.3)
    return record(trial)


def make_slow():
    return slow


def times_trained(grid):
    return [
        len((trial.folder / "trained").read_text().split())
        if (trial.folder / "trained").is_file()
        else 0
        for trial in grid.trials
    ]


def test_trials_are_the_product_in_order():
    assert list(combinations({"a": (1, 2), "b": ("x", "y")})) == [
        {"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}
    ]  # fmt: skip
    assert trial_name({"alpha": 5.0, "set": "my cells"}) == "alpha-5-set-my-cells"


def test_one_worker_starts_no_other_process(results, monkeypatch):
    def refuse(*args, **more):
        raise AssertionError("a process was started")

    monkeypatch.setattr("multiprocessing.context.SpawnContext.Process", refuse)
    grid = opened(results, workers=1)
    train_all(grid, record, make_record)
    assert times_trained(grid) == [1] * 6


def test_a_folder_left_by_an_interrupted_trial_is_used(results):
    grid = opened(results)
    grid.trials[2].folder.mkdir()
    grid.work(record)
    assert times_trained(grid) == [1] * 6


def test_one_worker_trains_every_trial_once(results):
    grid = opened(results)
    grid.work(record)
    assert times_trained(grid) == [1] * 6
    states = grid.states()
    assert [state.status for state in states] == ["trained"] * 6
    assert [state.value for state in states] == [1, 500, 6, 505, 21, 520]
    folders = [trial.folder.name for trial in grid.trials]
    assert folders[0] == "0001-alpha-0-beta-1" and folders[-1] == "0006-alpha-20-beta-500"


def test_two_processes_share_the_trials(results):
    grid = opened(results, workers=2)
    train_all(grid, slow, make_slow)
    assert times_trained(grid) == [1] * 6
    # The helper needs a moment to start, and may come too late on a busy machine.
    workers = {read_facts(trial.folder)["worker"] for trial in grid.trials}
    assert 1 <= len(workers) <= 2
    assert {trial["status"] for trial in read_grid(grid.folder)["trials"]} == {"trained"}


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from optimization.grid import attach
from test_grid import Options

def hang(trial):
    (trial.folder / "begun").touch()
    time.sleep(60)

attach(Path(sys.argv[1]), Options()).work(hang)
"""


def test_the_trial_of_a_killed_worker_is_trained_by_another(results, monkeypatch):
    grid = opened(results)
    code = KILLED.format(tests=str(Path(__file__).parent))
    worker = subprocess.Popen([sys.executable, "-c", code, str(grid.folder)])
    begun = grid.trials[0].folder / "begun"
    for _ in range(600):
        if begun.exists():
            break
        assert worker.poll() is None
        time.sleep(0.1)
    grid.revive()
    assert grid.count()["running"] == 1  # it lives, and holds the lock on its trial
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    grid.work(record)
    assert times_trained(grid) == [1] * 6
    ends = [attempt.state for attempt in grid.study.get_trials()]
    assert ends.count(AttemptState.FAIL) == 1
    assert ends.count(AttemptState.COMPLETE) == 6


def test_a_clock_that_is_set_back_stalls_nothing(results):
    grid = opened(results, axes={"alpha": (1.0,), "beta": (2.0,)})
    future = datetime.now(UTC) + timedelta(hours=1)
    with patch("optuna.storages.journal._storage.datetime") as clock:
        clock.now.return_value = future
        attempt = grid.study.ask()  # and its worker dies
        for name, values in grid.axes.items():
            attempt.suggest_categorical(name, values)
    started = time.monotonic()
    grid.work(record)
    assert times_trained(grid) == [1] and time.monotonic() - started < 30


def test_heartbeats_that_do_not_change_tell_whatever_the_clock_of_the_database(tmp_path):
    storage = open_storage(f"sqlite:///{tmp_path}/grid.db", tmp_path, heartbeat=15)
    study = optuna.create_study(storage=storage)
    alive, dead = study.ask(), study.ask()
    beats, now = Heartbeats(), [0.0]

    def beat(attempt, when):
        with storage.engine.begin() as connection:
            connection.execute(
                text(
                    "INSERT OR REPLACE INTO trial_heartbeats (trial_id, heartbeat) VALUES (:t, :h)"
                ),
                {"t": attempt._trial_id, "h": when},
            )

    beat(dead, "2099-01-01 00:00:00")  # before the clock was set back
    with patch.object(grid_storage.time, "monotonic", lambda: now[0]):
        for second in range(0, 61, 15):
            now[0] = second
            beat(alive, f"2026-12-01 00:00:{second % 60:02}")
            assert beats.stopped(study, 15) == []
        now[0] = 61
        assert beats.stopped(study, 15) == [dead.number]
    fail_and_retry(study, dead.number)
    fail_and_retry(study, dead.number)  # another worker has seen it as well
    states = [attempt.state for attempt in study.get_trials()]
    assert states == [AttemptState.RUNNING, AttemptState.FAIL, AttemptState.WAITING]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@127.0.0.1:1/none",
        "postgresql://me:se%63ret@127.0.0.1:1/none",
        "postgresql://me:se@secret@127.0.0.1:1/none",
        "postgresql://me:a:secret@127.0.0.1:1/none",
        "postgresql://me:secret/x@127.0.0.1:1/none",
        "postgresql://127.0.0.1:1/none?user=me&password=secret",
        "postgresql://127.0.0.1:1/none?user=me&password=a@secret",
        "postgresql://me:secret",
        "postgresql+psycopg://me:secret@[bad/none",
        "nonsense+driver://me:secret@host/none",
    ],
)
def test_a_password_is_never_said(results, url):
    with pytest.raises(UserError) as error:
        opened(results, storage=url)
    said = str(error.value)
    assert "secret" not in said and "se%63ret" not in said and "***" in said and "\n" not in said
    written = (
        [p.read_bytes() for p in results.rglob("*") if p.is_file()] if results.exists() else []
    )
    assert not any(b"secret" in content for content in written)


def test_a_trial_that_kills_its_workers_ends_as_failed(results, monkeypatch):
    grid = opened(results, axes={"alpha": (1.0,), "beta": (2.0,)})
    for _ in range(grid_storage.RETRIES + 1):
        attempt = grid.study.ask()  # and its worker dies
        for name, values in grid.axes.items():
            attempt.suggest_categorical(name, values)
        assert grid.count()["running"] == 1
        grid.revive()
    state = grid.states()[0]
    assert state.status == "failed" and state.reason == "its worker died 4 times"


def test_a_worker_taken_for_dead_changes_nothing(results):
    grid = opened(results)

    def paused(trial):
        running = grid.study.get_trials(states=(AttemptState.RUNNING,))[0]
        if trial.number == 1:  # another worker fails its attempt meanwhile
            fail_and_retry(grid.study, running.number)
        return record(trial)

    grid.work(paused)
    assert times_trained(grid) == [1] * 6 and grid.count()["trained"] == 6


def test_a_worker_that_asks_when_nothing_waits_trains_nothing(results):
    grid = opened(results)
    grid.work(record)
    grid._train_next(record)
    assert times_trained(grid) == [1] * 6
    assert grid.study.get_trials()[-1].user_attrs["copy_of"] < 6


def test_a_failed_trial_is_recorded_and_can_be_tried_again(results):
    def fail(trial):
        if trial.parameters == {"alpha": 5.0, "beta": 500.0}:
            raise UserError("the loss is not finite")
        if trial.parameters == {"alpha": 20.0, "beta": 1.0}:
            raise ZeroDivisionError("a mistake in the code")
        return record(trial)

    grid = opened(results)
    grid.work(fail)
    assert times_trained(grid) == [1, 1, 1, 0, 0, 1]
    reasons = [state.reason for state in grid.states()]
    assert reasons[3] == "the loss is not finite"
    assert reasons[4].startswith("ZeroDivisionError: a mistake in the code (test_grid.py:")
    again = opened(results, retry_failed=True)
    assert again.folder == grid.folder
    again.work(record)
    assert times_trained(again) == [1] * 6


@pytest.mark.parametrize(
    "error", [DiskFullError("no space left on the disk of runs"), OSError(errno.ENOSPC, "full")]
)
def test_a_full_disk_ends_the_grid_and_fails_no_trial(results, error):
    def fill(trial):
        if trial.parameters == {"alpha": 5.0, "beta": 1.0}:
            raise error
        return record(trial)

    grid = opened(results)
    with pytest.raises(DiskFullError, match="no space left on the disk of .*: free some|runs"):
        train_all(grid, fill, make_record)
    assert times_trained(grid) == [1, 1, 0, 0, 0, 0]
    assert grid.count()["failed"] == 0
    again = opened(results)
    again.work(record)
    assert times_trained(again) == [1] * 6


def test_ctrl_c_leaves_the_trial_waiting(results):
    grid = opened(results)

    def interrupt(trial):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grid.work(interrupt)
    again = opened(results)
    again.work(record)
    assert times_trained(again) == [1] * 6


def test_the_same_command_goes_on_until_the_grid_is_finished(results):
    grid = opened(results, {"epochs": 5})
    assert opened(results, {"epochs": 5}, workers=3).folder == grid.folder
    other = opened(results, {"epochs": 6})
    fresh = opened(results, {"epochs": 5}, fresh=True)
    assert len({grid.folder, other.folder, fresh.folder}) == 3
    assert opened(results, {"epochs": 5}).folder == fresh.folder  # the newest
    finish(fresh)
    assert opened(results, {"epochs": 5}).folder == grid.folder
    finish(grid)
    assert opened(results, {"epochs": 5}).folder not in (grid.folder, fresh.folder)
    assert opened(results, resume=str(grid.folder)).folder == grid.folder


def test_tpe_trains_some_trials_each_once(results):
    axes = {"alpha": tuple(map(float, range(6))), "beta": tuple(map(float, range(6)))}
    grid = opened(results, axes=axes, sampler="tpe", trials=9, goal="reconstruction")
    grid.work(record)
    assert sorted(times_trained(grid)) == [0] * 27 + [1] * 9
    everything = opened(results, {"x": 1}, axes=AXES, sampler="tpe", trials=50)
    everything.work(record)
    assert times_trained(everything) == [1] * 6


@pytest.mark.parametrize(
    ("goal", "direction"),
    [("reconstruction", "MINIMIZE"), ("accuracy", "MAXIMIZE"), ("trustworthiness", "MAXIMIZE")],
)
def test_tpe_looks_for_the_better_end_of_its_goal(results, goal, direction):
    """Also where a worker joins later: it draws as the first one does, but other numbers."""
    options = {"sampler": "tpe", "trials": 4, "goal": goal}
    grid = opened(results, **options)
    joined = attach(grid.folder, Options(**options), stream=1)
    for one in (grid, joined):
        assert one.study.direction.name == direction
        assert isinstance(one.study.sampler, TPESampler)
    draws = [
        one.study.sampler._rng.rng.random()
        for one in (grid, attach(grid.folder, Options(**options)), joined)
    ]
    assert draws[0] == draws[1] != draws[2]
    joined.work(record)
    assert sum(times_trained(joined)) == 4
    assert isinstance(attach(opened(results).folder, Options()).study.sampler, RandomSampler)


def test_the_same_seed_draws_the_same_trials(results):
    axes = {"alpha": tuple(map(float, range(6))), "beta": tuple(map(float, range(6)))}
    drawn = []
    for _ in range(2):
        grid = opened(results, axes=axes, sampler="tpe", trials=5, fresh=True)
        grid.work(record)
        drawn.append(times_trained(grid))
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("axes", "words"),
    [({"alphas": ()}, "--alphas: no value"), ({"alphas": (1.0, 5.0, 5.0)}, "5 is given twice")],
)
def test_refuses_axes_without_sense(results, axes, words):
    with pytest.raises(UserError, match=words):
        opened(results, axes=axes)
    assert not results.exists()


def test_storages_that_cannot_be_used_are_one_line(results, tmp_path):
    with pytest.raises(UserError, match="holds no grid.json"):
        attach(tmp_path, Options())
    with pytest.raises(UserError, match=r"nobody:\*\*\*@127.0.0.1") as error:
        opened(results, storage="postgresql://nobody:secret@127.0.0.1:1/none")
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


def test_a_grid_of_a_database_says_so(results):
    grid = opened(results)
    known = read_grid(grid.folder) | {"database": True}
    (grid.folder / "grid.json").write_text(json.dumps(known))
    with pytest.raises(UserError, match="give its URL with --storage"):
        attach(grid.folder, Options())


def test_workers_open_an_empty_database_at_once(results, tmp_path):
    for number in range(5):
        url = f"sqlite:///{tmp_path / f'{number}.db'}"
        with ThreadPoolExecutor(4) as pool:
            opened_at_once = [pool.submit(open_storage, url, results, 15) for _ in range(4)]
        assert [one.result().get_all_studies() for one in opened_at_once] == [[]] * 4


def test_sqlite_is_a_database_too(results, tmp_path):
    storage = f"sqlite:///{tmp_path / 'grids.db'}"
    grid = opened(results, storage=storage)
    elsewhere = opened(tmp_path / "another_machine", storage=storage)  # no shared disk
    assert elsewhere.study.study_name == grid.study.study_name
    assert elsewhere.folder.parent.name == "another_machine"
    assert read_grid(elsewhere.folder)["digest"] == read_grid(grid.folder)["digest"]
    grid._train_next(record)
    elsewhere.work(record)
    assert times_trained(grid) == [1, 0, 0, 0, 0, 0]
    assert times_trained(elsewhere) == [0, 1, 1, 1, 1, 1]
    assert grid.count()["trained"] == 6
    finish(grid)
    assert opened(results, storage=storage).study.study_name != grid.study.study_name


def test_two_machines_that_begin_in_the_same_moment_share_a_grid(results, tmp_path, monkeypatch):
    storage = f"sqlite:///{tmp_path / 'grids.db'}"
    first = opened(results, storage=storage)
    listed = iter([[]])  # what the second one saw, before the first one's study was there
    names = grid_module.study_names
    monkeypatch.setattr(grid_module, "study_names", lambda *a: next(listed, names(*a)))
    (first.folder / "grid.json").rename(tmp_path / "not_written_yet")
    second = opened(results, storage=storage)
    assert second.study.study_name == first.study.study_name and second.folder == first.folder
    assert [path.name for path in results.iterdir()] == [first.folder.name]


def as_older_version(folder):
    """Give the files of a grid the names that they had when a trial was called a cell."""
    for file in folder.glob("*/trial.json"):
        file.rename(file.with_name("cell.json"))
    known = json.loads((folder / "grid.json").read_text())
    known["cells"] = known.pop("trials")
    (folder / "grid.json").write_text(json.dumps(known))


def test_a_grid_of_an_older_version_is_continued(results):
    grid = opened(results)
    grid._train_next(record)
    as_older_version(grid.folder)
    again = opened(results)
    assert again.folder == grid.folder and again.count()["trained"] == 1
    # The state alone does not decide: a trial that was trained is not trained again.
    again.enqueue(again.trials[0])
    again.work(record)
    assert times_trained(again) == [1] * 6
    finish(again)
    known = json.loads((grid.folder / "grid.json").read_text())
    assert [trial["status"] for trial in known["trials"]] == ["trained"] * 6
    assert "cells" not in known
    assert read_facts(grid.folder / "0001-alpha-0-beta-1")["value"] == 1


def test_options_do_not_change_which_grid_is_meant():
    changed = replace(Options(), workers=4, storage="x://y", fresh=True, heartbeat=3)
    names = {name for name, value in vars(changed).items() if value != vars(Options())[name]}
    assert names <= grid_module.OPTION_NAMES
    assert not {"sampler", "trials", "goal"} & grid_module.OPTION_NAMES


def test_a_worker_killed_with_the_lock_of_the_journal_holds_up_nobody(tmp_path, monkeypatch):
    """In a relative folder, as scripts name it: there Optuna would wait for ever."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(grid_storage, "LOCK_GRACE", 3)
    folder = opened(Path("results")).folder
    assert not folder.is_absolute()
    killed = open_storage(None, folder, 15)
    killed._backend._lock.acquire()
    assert (folder / "journal.log.lock").is_symlink()
    grid = opened(Path("results"))
    follower = threading.Thread(target=grid.work, args=(record,), daemon=True)
    follower.start()
    follower.join(60)
    assert times_trained(grid) == [1] * 6
