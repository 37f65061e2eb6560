"""Cells of a grid that are runs of VAE_framework.py or InfoMAX_VAE_framework.py.

    load --> train each cell (grid.py) --> score all of them --> reports, heat maps, summary

The runs share the cells, the features, the baselines (UMAP, t-SNE) and, since all are scored in one
go, the neighbourhood ranks of the reference spaces. Each run folder is that of an ordinary run: its
report.html, and `VAE_framework.py --resume <folder>`, are there.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import Timeout

import VAE_framework
from models.train_net import best_epoch
from optimization.grid import (
    CELL_FILE,
    OPTION_NAMES,
    Cell,
    Grid,
    Parameter,
    Train,
    finish,
    masked,
    open_grid,
    read_grid,
    redirected,
    train_all,
    write_grid,
)
from optimization.grid_figures import draw_runs
from optimization.grid_scores import score_each, subset
from quantitative_metrics.catalogue import refuse_unknown_score, split_name
from quantitative_metrics.score_table import headline, write_scores
from quantitative_metrics.scores import Plan, Scores, reference_spaces
from util.devices import pick_device
from util.errors import UserError
from util.latents import OWN, read_codes, read_latents
from util.runs import describe_run, read_json, script_of, write_json, write_table
from util.settings import PROVENANCE
from VAE_framework import Loaded, MakeObjective, Run, Settings

# What a command may change of a grid that it goes on with.
RESUMABLE = (*sorted(OPTION_NAMES), "device", "keep_checkpoint", "metrics", "tensorboard")
LEFT_OUT_OF_IDENTITY = {
    *PROVENANCE,
    *("device", "keep_checkpoint", "tensorboard", "export", "metrics"),
}


@dataclass(frozen=True)
class GridKind:
    """What a grid varies.

    Attributes:
        name: e.g. alpha-beta, part of the folder's name.
        run_settings: class of the settings of a run.
        make_objective: what a run minimises.
        fields: axis -> field of the run's settings.
    """

    name: str
    run_settings: type[Settings]
    make_objective: MakeObjective
    fields: Mapping[str, str]

    def settings_of(self, settings: Settings, cell: Cell) -> Settings:
        """Those of the run of a cell."""
        values = {
            field.name: getattr(settings, field.name)
            for field in dataclasses.fields(self.run_settings)
        }
        values |= {self.fields[axis]: value for axis, value in cell.parameters.items()}
        folder = cell.folder if (cell.folder / "settings.json").is_file() else None
        return self.run_settings(
            **values
            | {"results": str(cell.folder.parent), "preset": "default"}
            | {"original": None, "resume": folder and str(folder)}
        )


@dataclass(frozen=True)
class Shared:
    """What the runs of a grid share: the cells and the baselines, name -> (N, d)."""

    loaded: Loaded
    baselines: dict[str, np.ndarray]


def run_grid(settings: Settings, kind: GridKind, axes: Mapping[str, Sequence[Parameter]]) -> Path:
    """Train, score and draw a grid, or go on with it.

    Args:
        settings: of the script; a run's settings and `GridOptions`.
        kind: what the grid varies.
        axes: axis -> values.

    Returns:
        the folder of the grid.

    Raises:
        UserError: a mistake in the settings or the data, or no cell could be trained.
    """
    pick_device(settings.device)
    refuse_export(settings)
    refuse_unknown_score("goal", settings.goal)
    shared = load_shared(settings)
    grid = open_grid(
        Path(settings.results),
        f"{shared.loaded.cells.name}-{kind.name}",
        axes,
        identity_of(settings, shared.loaded),
        settings,
        settings.resume,
    )
    describe_grid(grid, settings, {"data": shared.loaded})
    train_all(grid, Trainer(settings, kind, shared), partial(load_trainer, settings, kind))
    judge_once(grid, lambda: judge(grid, settings, kind, shared))
    return grid.folder


def judge_once(grid: Grid, judge_it: Callable[[], Path]) -> None:
    """Score and draw a grid and mark it as done, unless another command is just doing so.

    Args:
        grid: all of whose cells have been tried.
        judge_it: scores and draws; returns the page.
    """
    try:
        with grid.named_lock("scoring").acquire(timeout=0):
            report = judge_it()
            finish(grid)
    except Timeout:
        print("another command scores and draws this grid")
        return
    print(f"report: {report}")


def refuse_export(settings: Settings) -> None:
    """A grid writes no run for other programs.

    Raises:
        UserError: it is asked to.
    """
    if settings.export:
        raise UserError(
            f"--export {' '.join(settings.export)}: not of many runs; of one of them give "
            "--resume <its folder> --export ... to the script that trains one"
        )


def load_shared(settings: Settings) -> Shared:
    """Cells and baselines; both come from caches where they have been made before."""
    loaded = VAE_framework.load(settings)
    for note in loaded.notes:
        print(f"note: {note}")
    return Shared(
        loaded, VAE_framework.project_features(settings, loaded.features, loaded.cells.cache)
    )


def identity_of(settings: Settings, loaded: Loaded) -> dict[str, Any]:
    """All that decides what the cells of the grid are."""
    left_out = OPTION_NAMES | LEFT_OUT_OF_IDENTITY
    values = {k: v for k, v in dataclasses.asdict(settings).items() if k not in left_out}
    return {"script": script_of(type(settings)), "pixels": loaded.cells.fingerprint, **values}


def describe_grid(grid: Grid, settings: Settings, sources: Mapping[str, Loaded]) -> None:
    """settings.json of the grid, by which --resume finds it; passwords stay out.

    Args:
        grid: whose folder it is written to.
        settings: of the script.
        sources: name -> cells that the grid learns from.
    """
    path = grid.folder / "settings.json"
    secret = settings.storage or ""
    described = describe_run(
        replace(
            settings,
            storage=settings.storage and masked(secret),
            fresh=False,  # asked of this command, not of the grid
            retry_failed=False,
        ),
        **{name: loaded.cells.describe() for name, loaded in sources.items()},
        notes=[note for loaded in sources.values() for note in loaded.notes],
    )
    if secret:
        described["command"] = described["command"].replace(secret, masked(secret))
    if path.is_file():
        described["started"] = read_json(path)["started"]
    write_json(path, described)


@dataclass(frozen=True)
class Trainer:
    """Trains the run of a cell, as VAE_framework.py does, up to its codes."""

    settings: Settings
    kind: GridKind
    shared: Shared

    def __call__(self, cell: Cell) -> dict[str, Any]:
        """Train or go on training; returns what is remembered of the run."""
        settings = self.kind.settings_of(self.settings, cell)
        log = cell.folder / "output.txt"
        with log.open("a", encoding="utf-8") as stream, redirected(stream):
            run = VAE_framework.prepare(
                settings,
                self.kind.make_objective,
                loaded=self.shared.loaded,
                folder=cell.folder,
            )
            history = VAE_framework.learn(run)
            VAE_framework.project(run, self.shared.baselines)
            value = self._value(run, history)
        return facts_of(history) | {"value": value}

    def _value(self, run: Run, history: list[dict[str, Any]]) -> float:
        """What the study is told: the goal, of this run alone."""
        goal = self.settings.goal
        if goal == "reconstruction" or self.settings.sampler == "grid":
            return history[best_epoch(history) - 1]["valid"]["reconstruction"]
        references = reference_spaces(self.shared.loaded.cells, self.shared.loaded.features)
        codes, logvars = read_codes(run.folder)
        plan = replace(
            plan_of(self.settings, self.shared.loaded), metrics=(split_name(goal)[0].group,)
        )
        found = score_each({OWN: codes}, references, run.loaded.cells.table, plan, {OWN: logvars})
        scores = headline(dict(found)[OWN].table).loc[OWN]
        if goal not in scores:
            raise UserError(f"--goal {goal}: no such score; there are {', '.join(scores.index)}")
        return float(scores[goal])


def load_trainer(settings: Settings, kind: GridKind) -> Train:
    """The trainer of another process."""
    return Trainer(settings, kind, load_shared(settings))


def facts_of(history: list[dict[str, Any]]) -> dict[str, Any]:
    """What is remembered of a run, in numbers, and said of it."""
    best = best_epoch(history)
    entry = history[best - 1]
    terms = {name: value for name, value in entry["valid"].items() if name != "loss"}
    return {
        "epochs": len(history),
        "best_epoch": best,
        "training_seconds": round(sum(e["seconds"] for e in history), 2),
        "batch_size": history[-1]["batch_size"],
        "valid_loss": entry["valid"]["loss"],
        **{f"valid_{name}": value for name, value in terms.items()},
        "said": f"epoch {best} of {len(history)} was best, "
        f"reconstruction {entry['valid']['reconstruction']:.1f} nats",
    }


def judge(grid: Grid, settings: Settings, kind: GridKind, shared: Shared) -> Path:
    """Score what has been trained, write each run's report, then the summary of the grid.

    A run that has been scored by the same metrics is not scored again.

    Returns:
        the page of the grid.

    Raises:
        UserError: no cell was trained.
    """
    states = grid.states()
    trained = [c for c, s in zip(grid.cells, states, strict=True) if s.status == "trained"]
    here = [cell for cell in trained if (cell.folder / "latents.csv").is_file()]
    if len(here) < len(trained):
        print(
            f"note: {len(trained) - len(here)} cells were trained on another disk: copy their "
            f"folders to {grid.folder} and run optimization/score_optimization.py on it"
        )
    if not here:
        reasons = [state.reason for state in states if state.reason]
        raise UserError(f"no cell of {grid.folder} was trained: {reasons[0] if reasons else ''}")
    plan = plan_of(settings, shared.loaded)
    todo = [cell for cell in here if not _is_scored(cell, plan)]
    if todo:
        _score(todo, settings, kind, shared, plan)
    write_grid(grid)
    return draw_grid(grid.folder, settings.goal)


def _is_scored(cell: Cell, plan: Plan) -> bool:
    path = cell.folder / "scored.json"
    return path.is_file() and read_json(path)["plan"] == _plan_words(plan)


def _plan_words(plan: Plan) -> dict[str, Any]:
    words = dataclasses.asdict(replace(plan, device=""))
    return {name: str(value) for name, value in words.items()}


def _score(
    cells: Sequence[Cell], settings: Settings, kind: GridKind, shared: Shared, plan: Plan
) -> None:
    """Score runs side by side with the baselines, and write each one's scores and report."""
    codes, logvars = dict(shared.baselines), {}
    for cell in cells:
        codes[cell.name], logvars[cell.name] = read_codes(cell.folder)
    by_name = {cell.name: cell for cell in cells}
    beside: list[Scores] = []
    found = score_each(
        codes,
        reference_spaces(shared.loaded.cells, shared.loaded.features),
        shared.loaded.cells.table,
        plan,
        logvars,
        settings.workers,
    )
    for number, (name, scores) in enumerate(found, start=1):
        if name in shared.baselines:
            beside.append(scores)
            continue
        cell = by_name[name]
        together = subset([scores, *beside], {name: OWN} | {n: n for n in shared.baselines})
        write_run(cell, settings, kind, shared, together)
        write_json(cell.folder / "scored.json", {"plan": _plan_words(plan)})
        print(f"[{number} of {len(codes)}] scored {cell}", flush=True)


def write_run(
    cell: Cell, settings: Settings, kind: GridKind, shared: Shared, scores: Scores
) -> None:
    """Scores, figures and report of a trained run, as of an ordinary one."""
    write_scores(scores, shared.loaded.cells.table["Unique_ID"], cell.folder)
    if not settings.reports:
        return
    with (cell.folder / "output.txt").open("a", encoding="utf-8") as stream, redirected(stream):
        run = VAE_framework.prepare(
            kind.settings_of(settings, cell),
            kind.make_objective,
            loaded=shared.loaded,
        )
        history = VAE_framework.learn(run)  # has learnt: only loads the best weights
        latents, projections = read_latents(cell.folder)
        VAE_framework.draw(run, history, latents, projections, scores)


def plan_of(settings: Settings, loaded: Loaded) -> Plan:
    """Which scores."""
    return VAE_framework.scoring_plan(settings, loaded.label, pick_device(settings.device))


def draw_grid(folder: Path, goal: str) -> Path:
    """Summary, heat maps and pages of a grid whose runs are scored; returns its report."""
    runs = summarise(folder)
    return draw_runs(
        folder,
        runs,
        list(read_grid(folder)["axes"]),
        goal,
        {run: folder / run for run in runs["run"]},
        described=read_json(folder / "settings.json"),
    )


def summarise(folder: Path) -> pd.DataFrame:
    """runs.csv: a row per cell with its values, what became of it, and its scores.

    scores.csv beside it holds the long tables of all runs and of the baselines.
    """
    rows, tables = [], []
    for cell in read_grid(folder)["cells"]:
        run = folder / cell["folder"]
        facts = read_json(run / CELL_FILE) if (run / CELL_FILE).is_file() else {}
        row = {"run": cell["folder"], **{k: v for k, v in cell.items() if k != "folder"}, **facts}
        if (run / "scores.csv").is_file():
            scores = pd.read_csv(run / "scores.csv", keep_default_na=True)
            row |= headline(scores[scores["projection"] == OWN]).loc[OWN].to_dict()
            own = scores["projection"] == OWN
            kept = scores[own | (not tables)]  # the baselines once
            tables.append(kept.assign(projection=kept["projection"].replace(OWN, cell["folder"])))
        rows.append(row)
    summary = pd.DataFrame(rows)
    write_table(folder / "runs.csv", summary)
    if tables:
        write_table(folder / "scores.csv", pd.concat(tables, ignore_index=True))
    return summary
