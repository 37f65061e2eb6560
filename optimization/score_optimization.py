"""Score finished runs, also of older grids, with any choice of metrics.

    python optimization/score_optimization.py results/0003-simulated-BBBC031-alpha-beta
    python optimization/score_optimization.py results/0003-... results/0009-... --metrics backbone
    python optimization/score_optimization.py results/0003-... --metrics neighbours --seed 1

Sources are folders of grids, of comparisons (with their UMAP, t-SNE and PCA) and of single runs or
trials, all on the same cells, so the reference spaces are ranked only once. Nothing in the run
folders changes. Results go to results/NNNN-<source>-scores/: scores.csv (long), runs.csv (a row per
run) and, if the runs differ in two settings, heat maps.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import tyro

import InfoMAX_VAE_framework
import VAE_framework
from InfoMAX_VAE_framework import TRAINING_SCRIPTS
from models.train_net import read_history
from optimization.compare_methods import codes_of, describe_projection
from optimization.grid import GRID_FILE, read_facts, read_grid
from optimization.grid_figures import draw_runs
from optimization.grid_runs import (
    LEFT_OUT_OF_IDENTITY,
    facts_of,
    plan_of,
)
from optimization.grid_scores import score_each
from quantitative_metrics.catalogue import GROUPS, GROUPS_HELP, Group
from quantitative_metrics.score_table import headline
from quantitative_metrics.scores import reference_spaces
from util.errors import UserError
from util.runs import (
    create_run_folder,
    describe_run,
    read_description,
    write_json,
    write_table,
)
from util.settings import parse_options, run_script, settings_from_json


@dataclass(frozen=True)
class Settings:
    """What to score, and how."""

    sources: tyro.conf.Positional[tuple[str, ...]] = ()
    """Folders of grids, comparisons, single runs or trials."""
    metrics: Annotated[tuple[Group, ...], tyro.conf.arg(help=GROUPS_HELP)] = GROUPS
    goal: str = "reconstruction"
    """Score by which the best run is named."""
    workers: int = 1
    """Processes that score at the same time; they share the cores."""
    seed: int = 0
    """Seed of sampling, classifiers, critics and bootstrap."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1."""
    results: str = "results"
    """Folder of the numbered result folders."""


SETTINGS = Settings()


def main(settings: Settings) -> Path:
    """Score the runs; returns the folder of the results."""
    folders = find_runs(settings.sources)
    described = {name: _describe(run) for name, run in folders.items()}
    _refuse_other_cells(described)
    first = next(iter(described.values()))
    of_runs = _settings_of(first, settings)
    loaded = VAE_framework.load(of_runs)
    codes, logvars = {}, {}
    for name, run in folders.items():
        codes[name], logvar = codes_of(run)
        logvars |= {} if logvar is None else {name: logvar}
    found = score_each(
        codes=codes,
        references=reference_spaces(loaded.cells, loaded.features),
        table=loaded.cells.table,
        plan=plan_of(of_runs, loaded),
        logvars=logvars,
        workers=settings.workers,
    )
    tables, notes = [], list(loaded.notes)
    for number, (name, scores) in enumerate(found, start=1):
        tables.append(scores.table)
        notes += scores.notes
        print(f"[{number} of {len(codes)}] scored {name}", flush=True)
    table = pd.concat(tables, ignore_index=True)
    return _write(settings, folders, described, table=table, notes=notes)


def _describe(run: Path) -> dict[str, Any]:
    """settings.json of a run, or what it would say of the cells of a projection."""
    described = (run / "settings.json").is_file()
    return read_description(run) if described else describe_projection(run)


def find_runs(sources: Sequence[str]) -> dict[str, Path]:
    """Name -> folder of every trained run in the sources.

    Raises:
        UserError: a source is neither a grid nor a run, or nothing in it is trained.
    """
    if not sources:
        raise UserError("give folders of grids or runs: score_optimization.py results/0003-...")
    found: dict[str, Path] = {}
    for source in map(Path, sources):
        if (source / GRID_FILE).is_file():
            runs = [source / trial["folder"] for trial in read_grid(source)["trials"]]
            runs = [run for run in runs if read_facts(run) is not None]
        else:
            runs = [source]
        for run in runs:
            if not (run / "latents.csv").is_file():
                raise UserError(f"{run} holds no latents.csv: give a finished run or a grid")
            name = run.name if run.name not in found else f"{run.parent.name}/{run.name}"
            found[name] = run
    if not found:
        raise UserError(f"{', '.join(sources)}: no trial has been trained")
    return found


def _settings_of(described: dict[str, Any], settings: Settings) -> VAE_framework.Settings:
    """Settings of a run, also of an older version, to be scored as this command says."""
    kind, _ = TRAINING_SCRIPTS[described["script"]]
    of_run = settings_from_json(kind, described["settings"], more=True)
    return dataclasses.replace(
        of_run, metrics=settings.metrics, seed=settings.seed, device=settings.device
    )


def _refuse_other_cells(described: dict[str, dict[str, Any]]) -> None:
    names = list(described)
    prints = {name: described[name]["data"]["fingerprint"] for name in names}
    for name in names:
        if prints[name] != prints[names[0]]:
            raise UserError(
                f"{name} and {names[0]} learned from different cells: score them apart; of a grid "
                "or comparison, give folders of trials"
            )
        if (script := described[name]["script"]) not in TRAINING_SCRIPTS:
            raise UserError(f"{name}: a run of {script}.py cannot be scored by this script")


def _write(
    settings: Settings,
    folders: dict[str, Path],
    described: dict[str, dict[str, Any]],
    table: pd.DataFrame,
    notes: list[str],
) -> Path:
    stem = Path(settings.sources[0]).resolve().name
    stem = stem.split("-", 1)[1] if stem[:4].isdigit() else stem
    folder = create_run_folder(Path(settings.results), f"{stem}-scores")
    about = describe_run(settings, notes=list(dict.fromkeys(notes)))
    write_json(folder / "settings.json", about)
    write_table(folder / "scores.csv", table)
    wide = headline(table)
    axes = varying(described)
    rows = [
        {"run": name, **{axis: described[name]["settings"][axis] for axis in axes}}
        | {"status": "trained"}
        | _training_of(run)
        | wide.loc[name].to_dict()
        for name, run in folders.items()
    ]
    runs = pd.DataFrame(rows)
    write_table(folder / "runs.csv", runs)
    report = draw_runs(
        folder=folder,
        runs=runs,
        axes=axes or ["run"],
        goal=settings.goal,
        run_folders=folders,
        described=about,
    )
    print(f"report: {report}")
    return folder


def _training_of(run: Path) -> dict[str, Any]:
    """The facts of a run's training; none of a projection."""
    if not (run / "settings.json").is_file():
        return {}
    return {k: v for k, v in facts_of(read_history(run)).items() if k != "said"}


def varying(described: dict[str, dict[str, Any]]) -> list[str]:
    """Settings in which the runs differ, in the order of their declaration."""
    settings = [entry["settings"] for entry in described.values()]
    shared = set.intersection(*(set(values) for values in settings)) - LEFT_OUT_OF_IDENTITY
    return [
        field.name
        for field in dataclasses.fields(InfoMAX_VAE_framework.InfoMaxSettings)
        if field.name in shared and len({str(values[field.name]) for values in settings}) > 1
    ]


if __name__ == "__main__":
    run_script(lambda: main(parse_options(SETTINGS)))
