"""Two workers on a real PostgreSQL, one of them killed in the middle of a trial."""

import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
from optuna.trial import TrialState as AttemptState
from postgresql import found_postgresql, running_database

from optimization.grid import read_grid
from optimization.grid_storage import open_storage

EPOCHS = 24  # a second or two a trial, so that a worker can be killed within one


pytestmark = pytest.mark.skipif(not found_postgresql(), reason="PostgreSQL is not installed")
pytest.importorskip("psycopg")


@pytest.fixture
def database():
    with running_database() as url:
        yield url


def wait_for(what, processes, seconds=120):
    """The first true result of `what`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = what()
        if found:
            return found
        for process in processes:
            assert process.poll() in (None, 0), process.communicate()[1]
        time.sleep(0.1)
    raise AssertionError("waited in vain")


def test_every_trial_is_trained_once_though_a_worker_is_killed(database, run_script, tmp_path):
    options = ["--simulated-cells", 60, "--image-size", 32, "--features", "none"]
    options += ["--epochs", EPOCHS, "--patience", EPOCHS, "--widths", 2, 4]
    options += ["--metrics", "axes", "--no-reports", "--device", "cpu", "--batch-size", 16]
    options += ["--storage", database, "--heartbeat", 1]
    script = "optimization/hyper_optimization.py"
    workers = [run_script(script, *options, wait=False) for _ in range(2)]
    study = wait_for(lambda: load_study(database), workers)
    folder = tmp_path / "results" / study.user_attrs["folder"]

    def being_trained():
        """An attempt some epochs old, and its worker."""
        for attempt in study.get_trials(states=(AttemptState.RUNNING,)):
            log = folder / folder_of(attempt) / "log.jsonl"
            epochs = len(log.read_text().splitlines()) if log.exists() else 0
            if 2 <= epochs <= EPOCHS // 2:
                process = attempt.user_attrs["worker"].split(":")[1]
                return attempt, [w for w in workers if w.pid == int(process)][0]
        return None

    attempt, killed = wait_for(being_trained, workers)
    killed.send_signal(signal.SIGKILL)
    (survivor,) = set(workers) - {killed}
    out, err = survivor.communicate(timeout=240)
    assert survivor.returncode == 0, err
    assert f"{folder.name}/report.html" in out

    assert len(list((tmp_path / "results").glob("*/grid.json"))) == 1  # they shared one grid
    complete = [t for t in study.get_trials() if t.state == AttemptState.COMPLETE]
    trained = [t for t in complete if "copy_of" not in t.user_attrs]
    runs = sorted(folder.glob("0*-encoder-*"))
    assert sorted(map(folder_of, trained)) == [run.name for run in runs]
    assert len(trained) == 4
    assert study.trials[attempt.number].state == AttemptState.FAIL
    revived = [t for t in trained if t.system_attrs.get("failed_trial") == attempt.number]
    assert [folder_of(t) for t in revived] == [folder_of(attempt)]
    assert revived[0].user_attrs["worker"].endswith(f":{survivor.pid}")
    for run in runs:  # one line per epoch: continued, not begun again
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines] == list(range(1, EPOCHS + 1))
    output = (folder / folder_of(attempt) / "output.txt").read_text()
    assert output.count("Total params") == 1  # of a new run; the second worker resumed it
    assert output.count("run folder:") == 2
    assert (folder / "heatmaps.png").stat().st_size > 0
    assert [trial["status"] for trial in read_grid(folder)["trials"]] == ["trained"] * 4


def test_workers_open_an_empty_database_at_once(database, tmp_path):
    with ThreadPoolExecutor(8) as pool:
        opened_at_once = [pool.submit(open_storage, database, tmp_path, 15) for _ in range(8)]
    assert [one.result().get_all_studies() for one in opened_at_once] == [[]] * 8


def load_study(database):
    """The study, once it is there."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        storage = optuna.storages.RDBStorage(database)
        names = optuna.get_all_study_names(storage)
    except Exception:  # its tables are being made
        return None
    study = optuna.load_study(study_name=names[0], storage=storage) if names else None
    return study if study and "ready" in study.user_attrs else None


def folder_of(attempt):
    parameters = {**attempt.system_attrs.get("fixed_params", {}), **attempt.params}
    encoder, decoder = parameters["encoder"], parameters["decoder"]
    number = 1 + 2 * (encoder == 4) + (decoder == 4)
    return f"{number:04d}-encoder-{encoder}-decoder-{decoder}"
