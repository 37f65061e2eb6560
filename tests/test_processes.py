"""Many processes end where one does, fail as one, and Ctrl-C loses nothing.

Started as a script, this file is one of the processes that its tests start.
"""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from starting import Started, environment
from torch import nn

from models.train_net import Schedule, train
from util import processes
from util.data_processing import CellBatches, Cells
from util.errors import UserError
from util.runs import seed_everything
from util.settings import run_script
from util.workers import Beside, apart

ROOT = Path(__file__).parents[1]
OPTIONS = "--simulated-cells 80 --image-size 32 --base 4 --features none --device cpu".split()
RUN = Path("results") / "0001-simulated-BBBC031-VAE"

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="torch was built without torch.distributed"
)


class Squares(nn.Module):
    """Squared distance of the code to a learnt point: no batch norm, no noise in the loss."""

    def __init__(self):
        super().__init__()
        self.target = nn.Parameter(torch.ones(2))
        self.draws = []

    def forward(self, model, x):
        if model.training and processes.world_size() > 1:
            self.draws.append(float(torch.rand(1)))
        return {"loss": (model(x) - self.target).square().sum(1).mean()}

    def parameter_groups(self, model, learning_rate):
        own = {"params": [self.target], "lr": 10 * learning_rate}
        return [{"params": list(model.parameters()), "lr": learning_rate}, own]


def train_tiny(folder, epochs, batch_size=15):
    """15 cells a batch make parts of 8 and 7, which must count by their size; the validation cells
    make two whole batches and one of 3.
    """
    folder.mkdir(exist_ok=True)
    images = np.random.default_rng(0).integers(0, 255, (93, 1, 8, 8), np.uint8)
    table = pd.DataFrame({"Unique_ID": range(93)})
    cells = Cells(images, table, "noise", True, np.zeros(1), np.zeros(1), np.full(1, 255.0), ["a"])
    seed_everything(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 2))
    objective = Squares()
    batches = CellBatches(cells, torch.device("cpu"), batch_size, augmentation=True)
    split, schedule = (np.arange(60), np.arange(60, 93)), Schedule(epochs, 1e-2)
    history = train(
        model, objective, batches, split, schedule=schedule, folder=folder, progress=False
    )
    (folder / f"draws{processes.rank()}.json").write_text(json.dumps(objective.draws))
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    return {**state["model"], **state["objective"]}, history


def fail(culprit, how):
    """End badly in one process while the others wait for it, or in all (-1)."""
    print("one voice")
    if culprit not in (processes.rank(), -1):
        processes.wait_for_all()
    if how == "option":  # as the parser of the command line does
        print("no such option", file=sys.stderr)
        sys.exit(2)
    raise KeyboardInterrupt if how == "interrupt" else ZeroDivisionError("a bug")


def history_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def one_thread():
    """As in the processes that the tests start, whose numbers are compared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def fork(tmp_path, monkeypatch):
    """Start a script in an empty folder, which is also the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def begin(script, *options, **more):
        number = more.get("RANK", "")
        files = [tmp_path / f"{stream}{number}.txt" for stream in ("out", "err")]
        options = [str(option) for option in options]
        return Started(script, options, tmp_path, os.environ | more, *files)

    return begin


@pytest.fixture
def start_two(fork):
    """Two processes of this file without a launcher, which would end one when the other fails."""

    def finish(*arguments):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        both = [fork(__file__, *arguments, RANK=str(i), WORLD_SIZE="2", **address) for i in "01"]
        said = [process.communicate(timeout=60) for process in both]
        return [p.returncode for p in both], *("".join(words) for words in zip(*said, strict=True))

    return finish


@pytest.fixture
def torchrun(tmp_path, monkeypatch):
    """VAE_framework.py in two processes, as a user starts them; gives code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [sys.executable, *launcher, str(ROOT / "VAE_framework.py"), *OPTIONS]
    surroundings = environment(tmp_path / "cache") | {"OMP_NUM_THREADS": "1"}

    def finish(*options):
        pipes = {"capture_output": True, "text": True, "timeout": 120}
        done = subprocess.run([*command, *map(str, options)], env=surroundings, **pipes)
        return done.returncode, done.stdout, done.stderr

    return finish


def train_here(**changes):
    """The same run in this process, up to the end of training; gives its folder."""
    import VAE_framework  # here, because it takes the processes of this file long to import

    values = {"simulated_cells": 80, "image_size": 32, "base": 4, "features": "none"}
    settings = dataclasses.replace(VAE_framework.SETTINGS, device="cpu", **values, **changes)
    run = VAE_framework.prepare(settings, VAE_framework.elbo_objective)
    VAE_framework.learn(run)
    return run.folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_is_held_back_acts_at_the_end_of_the_block_and_once(number):
    done = []
    with pytest.raises(KeyboardInterrupt) as stop, processes.stoppable():
        with processes.held_back():
            signal.raise_signal(number)
            signal.raise_signal(number)
            done.append("whole")
        done.append("not reached")
    assert done == ["whole"]
    assert processes.code_of(stop.value) == (143 if number == signal.SIGTERM else 130)


def test_two_processes_end_in_the_weights_of_one(start_two, tmp_path):
    alone, history = train_tiny(tmp_path / "alone", 3)
    codes, _, err = start_two("train", tmp_path / "two", 2)
    assert codes == [0, 0], err
    together = history_of(tmp_path / "two")
    assert [entry["epoch"] for entry in together] == [1, 2]
    for one, two in zip(history, together, strict=False):
        for side in ("train", "valid"):
            assert two[side]["loss"] == pytest.approx(one[side]["loss"], rel=1e-5)
    draws = [json.loads((tmp_path / "two" / f"draws{i}.json").read_text()) for i in (0, 1)]
    assert len(draws[0]) == 8 and len({*draws[0], *draws[1]}) == 16  # never the same noise
    resumed, _ = train_tiny(tmp_path / "two", 3)  # goes on in another number of processes
    for name, weights in alone.items():
        np.testing.assert_allclose(resumed[name], weights, atol=1e-5, err_msg=name)


def test_a_part_of_one_cell_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    with pytest.raises(UserError, match="batches of 3 cells for 2 processes"):
        train_tiny(tmp_path / "r", 1, batch_size=3)


def test_the_script_in_two_processes(torchrun):
    code, out, err = torchrun("--epochs", 2)
    assert code == 0, err
    assert out.count("run folder:") == out.count("report:") == 1
    assert [path.name for path in Path("results").iterdir()] == [RUN.name]
    assert (RUN / "report.html").is_file()
    assert json.loads((RUN / "settings.json").read_text())["machine"]["processes"] == 2
    losses = [
        [entry["valid"]["loss"] for entry in history_of(folder)]
        for folder in (RUN, train_here(epochs=2))
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.05)


def test_a_mistake_is_said_once(torchrun):
    code, _, err = torchrun("--dataset", "nowhere")
    said = [line for line in err.splitlines() if line.startswith("error:")]
    assert code != 0 and len(said) == 1 and "nowhere: there is no such folder or file" in said[0]
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("culprit", "how", "words", "codes"),
    [
        (1, "bug", "ZeroDivisionError: a bug", [1, 1]),
        (-1, "option", "no such option", [2, 2]),
        (-1, "interrupt", "stopped; give the same command again", [130, 130]),
    ],
)
def test_processes_fail_as_one(start_two, culprit, how, words, codes):
    found, out, err = start_two("fail", culprit, how)
    assert found == codes, err
    assert err.count(words) == 1 and "closed by peer" not in err, err
    assert out.count("one voice") == 1


def test_ctrl_c_says_how_to_resume_and_loses_nothing(fork):
    process = fork("VAE_framework.py", *OPTIONS, "--epochs", 40)
    while not (RUN / "log.jsonl").is_file() or len(history_of(RUN)) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    assert "--resume goes on from the last finished epoch" in err.splitlines()[-1]
    assert 2 <= len(history_of(RUN)) < 40
    train_here(epochs=40, resume=str(RUN))
    whole = train_here(epochs=40)
    resumed, undisturbed = (
        torch.load(folder / "checkpoint.pt", weights_only=True)["model"] for folder in (RUN, whole)
    )
    assert all(torch.equal(resumed[name], undisturbed[name]) for name in undisturbed)


def test_work_beside_gives_its_result_or_its_error():
    with Beside(lambda: apart(os.getpid)) as beside:
        beside.check({"epoch": 1})
        assert beside.result() not in (os.getpid(), None)
    beside.check()

    def fail():
        raise UserError("no feature is left")

    failed = Beside(fail)
    with pytest.raises(UserError, match="no feature"):
        failed.result()
    with pytest.raises(UserError, match="no feature"):
        failed.check({"epoch": 2})


def test_nobody_waits_for_work_beside_what_failed():
    with Beside(lambda: apart(time.sleep, 0.01)) as first:  # the process has begun
        first.result()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Beside(lambda: apart(time.sleep, 60)) as beside:
        time.sleep(0.2)
        raise KeyboardInterrupt
    with pytest.raises(Exception, match="terminated|shut|not runnable"):
        beside.result()
    assert time.monotonic() - started < 30
    assert Beside(lambda: apart(abs, -3)).result() == 3  # and work goes on for others


if __name__ == "__main__":
    task, first, second = sys.argv[1:]
    tasks = {
        "train": lambda: train_tiny(Path(first), int(second)),
        "fail": lambda: fail(int(first), second),
    }
    run_script(tasks[task])
