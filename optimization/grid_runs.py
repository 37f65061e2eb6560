"""Grids whose trials are runs of VAE_framework.py or InfoMAX_VAE_framework.py.

    load --> train each trial (grid.py) --> score all runs --> reports, heat maps, summary

The runs share the cells, the features and the baselines (UMAP, t-SNE). All are scored together, so
the neighbourhoods of the reference spaces are ranked once. The folder of a trial is an ordinary run
folder: it has a report.html, and `VAE_framework.py --resume <folder>` works on it.
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
from models.finished_run import read_finished_run
from models.train_net import best_epoch, read_history
from optimization.grid import (
    OPTION_NAMES,
    Grid,
    Parameter,
    Train,
    Trial,
    finish,
    open_grid,
    read_facts,
    read_grid,
    write_grid,
)
from optimization.grid_figures import draw_runs
from optimization.grid_scores import score_each, subset
from optimization.grid_workers import output_to, train_all
from quantitative_metrics.catalogue import refuse_unknown_score, split_name
from quantitative_metrics.score_table import headline, write_scores
from quantitative_metrics.scores import Plan, Scores, reference_spaces
from util.devices import pick_device
from util.errors import UserError
from util.latents import OWN, read_codes, read_latents
from util.runs import describe_run, read_description, read_json, script_of, write_json, write_table
from util.settings import PROVENANCE
from VAE_framework import Loaded, MakeObjective, Settings

# What a command may change of a grid that it continues.
RESUMABLE = (*sorted(OPTION_NAMES), "device", "keep_checkpoint", "metrics", "order", "tensorboard")
LEFT_OUT_OF_IDENTITY = {
    *PROVENANCE,
    *("device", "keep_checkpoint", "tensorboard", "export", "metrics", "order"),
}


@dataclass(frozen=True)
class GridKind:
    """What a grid varies.

    Attributes:
        name: part of the name of the folder, e.g. alpha-beta.
        run_settings: class of the settings of a run.
        make_objective: builds what a run minimises.
        fields: axis -> field of the settings of a run.
    """

    name: str
    run_settings: type[Settings]
    make_objective: MakeObjective
    fields: Mapping[str, str]

    def settings_of(self, settings: Settings, trial: Trial) -> Settings:
        """Settings of the run of a trial."""
        values = {
            field.name: getattr(settings, field.name)
            for field in dataclasses.fields(self.run_settings)
        }
        values |= {self.fields[axis]: value for axis, value in trial.parameters.items()}
        begun = (trial.folder / "settings.json").is_file()
        return self.run_settings(
            **values
            | {"results": str(trial.folder.parent), "preset": "default"}
            | {"original": None, "resume": str(trial.folder) if begun else None}
        )


@dataclass(frozen=True)
class Shared:
    """What the runs of a grid share: cells and features, and the baselines, name -> (N, d)."""

    loaded: Loaded
    baselines: dict[str, np.ndarray]


def run_grid(settings: Settings, kind: GridKind, axes: Mapping[str, Sequence[Parameter]]) -> Path:
    """Train, score and draw a grid, or continue one.

    Args:
        settings: of the script; the settings of a run and `GridOptions`.
        kind: what the grid varies.
        axes: axis -> values.

    Returns:
        The folder of the grid.

    Raises:
        UserError: a mistake in the settings or the data, or no trial could be trained.
    """
    pick_device(settings.device)
    refuse_export(settings)
    refuse_unknown_score("goal", settings.goal)
    shared = load_shared(settings)
    grid = open_grid(
        results=Path(settings.results),
        name=f"{shared.loaded.cells.name}-{kind.name}",
        axes=axes,
        identity=identity_of(settings, shared.loaded),
        options=settings,
        resume=settings.resume,
    )
    describe_grid(grid, settings, {"data": shared.loaded})
    train_all(
        grid,
        partial(train_trial, settings=settings, kind=kind, shared=shared),
        partial(load_training, settings, kind),
    )
    finish_once(grid, lambda: score_and_draw(grid, settings, kind, shared))
    return grid.folder


def finish_once(grid: Grid, score_and_draw: Callable[[], Path]) -> None:
    """Score and draw a grid and mark it as finished, unless another command is doing so.

    Args:
        grid: all of whose trials have been tried.
        score_and_draw: returns the report.
    """
    try:
        with grid.named_lock("scoring").acquire(timeout=0):
            report = score_and_draw()
            finish(grid)
    except Timeout:
        print("another command is scoring and drawing this grid")
        return
    print(f"report: {report}")


def refuse_export(settings: Settings) -> None:
    """Refuse to export all runs of a grid.

    Raises:
        UserError: `--export` is given.
    """
    if settings.export:
        raise UserError(
            f"--export {' '.join(settings.export)}: a grid exports nothing; export one of its runs "
            "with --resume <its folder> --export ... of the script that trains one run"
        )


def load_shared(settings: Settings) -> Shared:
    """Load cells and features and compute the baselines, from caches where possible."""
    loaded = VAE_framework.load(settings)
    for note in loaded.notes:
        print(f"note: {note}")
    baselines = VAE_framework.project_features(settings, loaded.features, loaded.cells.cache)
    return Shared(loaded, baselines)


def identity_of(settings: Settings, loaded: Loaded) -> dict[str, Any]:
    """Everything that decides what the trials of the grid compute."""
    left_out = OPTION_NAMES | LEFT_OUT_OF_IDENTITY
    values = {k: v for k, v in dataclasses.asdict(settings).items() if k not in left_out}
    return {"script": script_of(type(settings)), "pixels": loaded.cells.fingerprint, **values}


def describe_grid(grid: Grid, settings: Settings, sources: Mapping[str, Loaded]) -> None:
    """Write settings.json of the grid, which `--resume` reads.

    Args:
        grid: whose folder it is written to.
        settings: of the script.
        sources: name -> cells that the grid learns from.
    """
    path = grid.folder / "settings.json"
    described = describe_run(
        replace(settings, fresh=False, retry_failed=False),  # of this command, not of the grid
        **{name: loaded.cells.describe() for name, loaded in sources.items()},
        notes=[note for loaded in sources.values() for note in loaded.notes],
    )
    if path.is_file():
        described["started"] = read_description(grid.folder).get("started", described["started"])
    write_json(path, described)


def train_trial(trial: Trial, settings: Settings, kind: GridKind, shared: Shared) -> dict[str, Any]:
    """Train the run of a trial, or continue it, up to latents.csv.

    Returns:
        The facts to remember of the run.
    """
    with output_to(trial.folder / "output.txt"):
        run = VAE_framework.prepare(
            kind.settings_of(settings, trial),
            kind.make_objective,
            loaded=shared.loaded,
            folder=trial.folder,
        )
        history = VAE_framework.learn(run)
        VAE_framework.project(run, shared.baselines)
        value = _goal_value(run.folder, history, settings, shared.loaded)
    return facts_of(history) | {"value": value}


def _goal_value(
    folder: Path, history: list[dict[str, Any]], settings: Settings, loaded: Loaded
) -> float:
    """Score of one run by the goal; the reconstruction where no sampler needs more."""
    goal = settings.goal
    if goal == "reconstruction" or settings.sampler == "grid":
        return history[best_epoch(history) - 1]["valid"]["reconstruction"]
    codes, logvars = read_codes(folder)
    found = score_each(
        codes={OWN: codes},
        references=reference_spaces(loaded.cells, loaded.features),
        table=loaded.cells.table,
        plan=replace(plan_of(settings, loaded), metrics=(split_name(goal)[0].group,)),
        logvars={OWN: logvars},
    )
    scores = headline(dict(found)[OWN].table).loc[OWN]
    if goal not in scores:
        raise UserError(f"--goal {goal}: no such score; there are {', '.join(scores.index)}")
    return float(scores[goal])


def load_training(settings: Settings, kind: GridKind) -> Train:
    """`train_trial` for another process, which loads the cells itself."""
    return partial(train_trial, settings=settings, kind=kind, shared=load_shared(settings))


def facts_of(history: list[dict[str, Any]]) -> dict[str, Any]:
    """The facts to remember of a run's training, and `said`: what to print of it."""
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


def score_and_draw(grid: Grid, settings: Settings, kind: GridKind, shared: Shared) -> Path:
    """Score the trained runs, write their reports, then the summary of the grid.

    Runs that have been scored with the same plan are not scored again.

    Returns:
        The report of the grid.

    Raises:
        UserError: no trial was trained.
    """
    states = grid.states()
    trained = [t for t, s in zip(grid.trials, states, strict=True) if s.status == "trained"]
    here = [trial for trial in trained if (trial.folder / "latents.csv").is_file()]
    if len(here) < len(trained):
        print(
            f"note: {len(trained) - len(here)} trials were trained on another disk: copy their "
            f"folders to {grid.folder} and run optimization/score_optimization.py on it"
        )
    if not here:
        reasons = [state.reason for state in states if state.reason]
        raise UserError(f"no trial of {grid.folder} was trained: {reasons[0] if reasons else ''}")
    plan = plan_of(settings, shared.loaded)
    todo = [trial for trial in here if not _is_scored(trial, plan)]
    if todo:
        _score(todo, settings, kind, shared, plan=plan)
    write_grid(grid)
    return draw_grid(grid.folder, settings.goal)


def _is_scored(trial: Trial, plan: Plan) -> bool:
    path = trial.folder / "scored.json"
    return path.is_file() and read_json(path)["plan"] == _plan_words(plan)


def _plan_words(plan: Plan) -> dict[str, Any]:
    words = dataclasses.asdict(replace(plan, device=""))
    return {name: str(value) for name, value in words.items()}


def _score(
    trials: Sequence[Trial], settings: Settings, kind: GridKind, shared: Shared, plan: Plan
) -> None:
    """Score runs together with the baselines, and write the scores and the report of each."""
    codes, logvars = dict(shared.baselines), {}
    for trial in trials:
        codes[trial.name], logvars[trial.name] = read_codes(trial.folder)
    by_name = {trial.name: trial for trial in trials}
    of_baselines: list[Scores] = []
    found = score_each(
        codes=codes,
        references=reference_spaces(shared.loaded.cells, shared.loaded.features),
        table=shared.loaded.cells.table,
        plan=plan,
        logvars=logvars,
        workers=settings.workers,
    )
    for number, (name, scores) in enumerate(found, start=1):
        if name in shared.baselines:
            of_baselines.append(scores)
            continue
        trial = by_name[name]
        together = subset([scores, *of_baselines], {name: OWN} | {n: n for n in shared.baselines})
        write_scores(together, shared.loaded.cells.table["Unique_ID"], trial.folder)
        if settings.reports:
            _draw_run(trial, settings, kind, shared, scores=together)
        write_json(trial.folder / "scored.json", {"plan": _plan_words(plan)})
        print(f"[{number} of {len(codes)}] scored {trial}", flush=True)


def _draw_run(
    trial: Trial, settings: Settings, kind: GridKind, shared: Shared, scores: Scores
) -> None:
    """Draw the figures and the report of a trained run, like those of an ordinary one."""
    with output_to(trial.folder / "output.txt"):
        finished = read_finished_run(trial.folder, kind.run_settings)
        latents, projections = read_latents(trial.folder)
        VAE_framework.draw(
            run=VAE_framework.reopen(finished, shared.loaded, pick_device(settings.device)),
            history=read_history(trial.folder),
            latents=latents,
            projections=projections,
            scores=scores,
        )


def plan_of(settings: Settings, loaded: Loaded) -> Plan:
    """What to score, from the settings."""
    return VAE_framework.scoring_plan(settings, loaded.label, pick_device(settings.device))


def draw_grid(folder: Path, goal: str) -> Path:
    """Write the summary, the heat maps and the pages of a scored grid; returns its report."""
    runs = summarise(folder)
    return draw_runs(
        folder=folder,
        runs=runs,
        axes=list(read_grid(folder)["axes"]),
        goal=goal,
        run_folders={run: folder / run for run in runs["run"]},
        described=read_json(folder / "settings.json"),
    )


def summarise(folder: Path) -> pd.DataFrame:
    """Write runs.csv, a row per trial with its values, status, facts and scores; returns it.

    scores.csv, beside it, holds the long tables of all runs, and those of the baselines once.
    """
    rows, tables = [], []
    for trial in read_grid(folder)["trials"]:
        run = folder / trial["folder"]
        row = {"run": run.name, **{k: v for k, v in trial.items() if k != "folder"}}
        row |= read_facts(run) or {}
        if (run / "scores.csv").is_file():
            scores = pd.read_csv(run / "scores.csv", keep_default_na=True)
            own = scores["projection"] == OWN
            row |= headline(scores[own]).loc[OWN].to_dict()
            kept = scores[own | (not tables)]
            tables.append(kept.assign(projection=kept["projection"].replace(OWN, run.name)))
        rows.append(row)
    summary = pd.DataFrame(rows)
    write_table(folder / "runs.csv", summary)
    if tables:
        write_table(folder / "scores.csv", pd.concat(tables, ignore_index=True))
    return summary
