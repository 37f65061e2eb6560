"""What belongs to the runs of a grid and needs no training."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock

from optimization import grid_runs
from optimization.grid_runs import finish_once
from quantitative_metrics.scores import Plan, score_projections
from util.errors import UserError

LOSSES = (3.0, 1.0, 2.0)
HISTORY = [
    {"epoch": epoch, "valid": {"loss": loss, "reconstruction": 10 * loss}}
    for epoch, loss in enumerate(LOSSES, start=1)
]


@pytest.fixture
def goal_value(monkeypatch, tmp_path):
    """The value of a run by a goal; what was scored for it is appended to a list."""
    rng = np.random.default_rng(0)
    codes, features = rng.normal(size=(2, 40, 3))
    cells = SimpleNamespace(table=pd.DataFrame({"Unique_ID": range(40), "dose": codes[:, 0]}))
    loaded = SimpleNamespace(cells=cells, features=None)
    scored = []

    def score_each(codes, references, table, plan, logvars):
        scored.append(plan.metrics)
        return [(name, score_projections(codes, references, table, plan)) for name in codes]

    monkeypatch.setattr(grid_runs, "read_codes", lambda folder: (codes, np.zeros((40, 3))))
    monkeypatch.setattr(grid_runs, "reference_spaces", lambda *_: {"features": features})
    monkeypatch.setattr(grid_runs, "plan_of", lambda *_: Plan(("neighbours", "axes")))
    monkeypatch.setattr(grid_runs, "score_each", score_each)

    def value(goal, sampler="tpe"):
        settings = SimpleNamespace(goal=goal, sampler=sampler)
        return grid_runs._goal_value(tmp_path, HISTORY, settings, loaded)

    return value, scored


def test_only_the_group_of_the_goal_is_scored(goal_value):
    value, scored = goal_value
    assert value("spearman[dose]") == pytest.approx(1)
    assert -1 < value("trustworthiness_area features") < 19
    assert scored == [("axes",), ("neighbours",)]


def test_the_reconstruction_of_the_best_epoch_needs_no_score(goal_value):
    value, scored = goal_value
    assert value("reconstruction") == 10 and value("spearman[dose]", "grid") == 10
    assert scored == []


def test_a_goal_that_the_run_has_not_is_named(goal_value):
    with pytest.raises(UserError, match="--goal spearman.age.: no such score; there are spearman"):
        goal_value[0]("spearman[age]")


def test_a_grid_is_finished_once_and_says_where_its_report_is(tmp_path, monkeypatch, capsys):
    finished = []
    monkeypatch.setattr(grid_runs, "finish", finished.append)
    lock = FileLock(tmp_path / "scoring.lock")
    grid = SimpleNamespace(named_lock=lambda name: FileLock(tmp_path / f"{name}.lock"))
    finish_once(grid, lambda: "grid/report.html")
    assert finished == [grid] and capsys.readouterr().out == "report: grid/report.html\n"
    with lock:
        finish_once(grid, lambda: 1 / 0)
    assert len(finished) == 1 and "another command is scoring" in capsys.readouterr().out
