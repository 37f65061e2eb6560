"""tests/gpu.py on the CPU: every step works, a failure stops no other, checks can fail."""

import json
import os
import time

import gpu
import numpy as np
import pytest
import torch

from models import train_net, upsampling
from quantitative_metrics import unsupervised_metric
from util import data_processing, streaming


def lines_of(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture
def context(tmp_path):
    return gpu.Context(torch.device("cpu"), True, tmp_path)


def test_every_step_gives_its_line_and_is_right(capsys, tmp_path):
    assert gpu.main(["--device", "cpu", "--out", str(tmp_path / "out.jsonl")]) == 0
    lines = lines_of(capsys)
    assert [line["step"] for line in lines] == [*gpu.STEPS, "total"]
    assert lines[0]["torch"] == torch.__version__ and lines[0]["step"] == "machine"
    assert all(line["ok"] or line.get("skipped") for line in lines), lines
    skipped = {line["step"] for line in lines if line["ok"] is None}
    assert skipped - {"torchdr"} == {name for name, step in gpu.STEPS.items() if not step.small}
    assert lines[-1]["right"] == len(gpu.STEPS) - len(skipped)
    assert (tmp_path / "out.jsonl").read_text().splitlines() == [json.dumps(line) for line in lines]


# Of a module, so that another process finds them.
def raises(context):
    return {"sum": 1 + np.zeros((2, 2))[2, 0]}


def dies(context):
    os._exit(7)


def hangs(context):
    time.sleep(600)


def differs(context):
    return {"ok": np.float64(0.5) < 0.1, "apart": np.float64(0.123456)}


def goes_on(context):
    return {"process": os.getpid()}


def test_a_step_that_fails_says_so_and_the_others_go_on(capsys, monkeypatch):
    asked = [differs, raises, dies, goes_on]
    for function in asked:
        monkeypatch.setitem(gpu.STEPS, function.__name__, gpu.Step(function, 60))
    names = [function.__name__ for function in asked]
    assert gpu.main(["--device", "cpu", "--steps", *names]) == 3
    lines = lines_of(capsys)
    found = {line["step"]: line for line in lines}
    assert list(found) == ["machine", *names, "total"]
    assert found["differs"]["ok"] is False and found["differs"]["apart"] == 0.1235
    assert found["raises"]["error"].startswith("IndexError: index 2 is out of bounds")
    assert "(test_gpu.py:" in found["raises"]["error"]
    assert found["dies"]["error"] == "its process died, code 7"
    assert found["goes_on"]["ok"] is True and found["goes_on"]["process"] != os.getpid()
    counts = {name: found["total"][name] for name in ("ok", "right", "failed", "skipped")}
    assert counts == {"ok": False, "right": 2, "failed": 3, "skipped": 0}


def test_a_step_that_hangs_is_stopped():
    worker = gpu.Worker("cpu", small=True)
    found = worker(hangs, 0.5)
    assert found["ok"] is False and found["error"].startswith("stopped after")
    assert worker.process is None  # the next step begins a new one


def test_what_the_budget_does_not_cover_is_skipped(capsys):
    assert gpu.main(["--device", "cpu", "--budget", "0", "--steps", "ranks"]) == 0
    *lines, total = lines_of(capsys)
    assert [(line["step"], line["ok"]) for line in lines] == [("machine", None), ("ranks", None)]
    assert lines[1]["skipped"] == "the budget of 0 s is used up" and total["skipped"] == 2


def changed(function, change):
    """The function with another result."""
    return lambda *given, **named: change(function(*given, **named))


@pytest.mark.parametrize(
    "step, owner, name, change",
    [
        ("batches", data_processing.CellBatches, "_load", lambda x: x.flip(0)),
        ("batches", streaming.StreamedBatches, "_load_to_host", lambda x: x.roll(1, 2)),
        ("decoders", upsampling, "_interleave_phases", lambda y: y * 1.01),
        ("repeat", train_net, "seed_everything", lambda _: torch.seed()),
        ("ranks", unsupervised_metric, "_ranks", lambda ranks: (ranks + 1).clamp(max=9)),
    ],
)
def test_a_check_can_fail(context, monkeypatch, step, owner, name, change):
    monkeypatch.setattr(owner, name, changed(getattr(owner, name), change))
    found = gpu.attempt(gpu.STEPS[step].run, context)
    assert found["ok"] is False and "error" not in found, found
