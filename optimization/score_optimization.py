"""Score finished runs, also of older grids, with any choice of metrics.

    python optimization/score_optimization.py results/0003-simulated-BBBC031-alpha-beta
    python optimization/score_optimization.py results/0003-... results/0009-... --metrics backbone
    python optimization/score_optimization.py results/0003-... --metrics neighbours --seed 1

Sources are folders of grids and of single runs, all on the same cells; the reference spaces are
ranked once for all of them. What the runs themselves hold is left as it is: results go to
results/NNNN-<source>-scores/, with scores.csv (long), runs.csv (a row per run) and, where the runs
differ in two settings, the heat maps.
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
from optimization.grid import CELL_FILE, GRID_FILE, read_grid
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
from util.latents import read_codes
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
    """Folders of grids, or of single runs."""
    metrics: Annotated[tuple[Group, ...], tyro.conf.arg(help=GROUPS_HELP)] = GROUPS
    goal: str = "reconstruction"
    """What the best run is named by."""
    workers: int = 1
    """Processes that score at the same time; they share the cores."""
    seed: int = 0
    """Of samples, classifiers, critics and bootstrap."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1."""
    results: str = "results"
    """Folder of the numbered result folders."""


SETTINGS = Settings()


def main(settings: Settings) -> Path:
    """Score; returns the folder of the results."""
    folders = find_runs(settings.sources)
    described = {name: read_description(run) for name, run in folders.items()}
    _refuse_other_cells(described)
    first = next(iter(described.values()))
    of_runs = _settings_of(first, settings)
    loaded = VAE_framework.load(of_runs)
    codes, logvars = {}, {}
    for name, run in folders.items():
        codes[name], logvars[name] = read_codes(run)
    found = score_each(
        codes,
        reference_spaces(loaded.cells, loaded.features),
        loaded.cells.table,
        plan_of(of_runs, loaded),
        logvars,
        settings.workers,
    )
    tables, notes = [], list(loaded.notes)
    for number, (name, scores) in enumerate(found, start=1):
        tables.append(scores.table)
        notes += scores.notes
        print(f"[{number} of {len(codes)}] scored {name}", flush=True)
    return _write(settings, folders, described, pd.concat(tables, ignore_index=True), notes)


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
            runs = [source / cell["folder"] for cell in read_grid(source)["cells"]]
            runs = [run for run in runs if (run / CELL_FILE).is_file()]
        else:
            runs = [source]
        for run in runs:
            if not (run / "latents.csv").is_file():
                raise UserError(f"{run} holds no latents.csv: give a finished run or a grid")
            name = run.name if run.name not in found else f"{run.parent.name}/{run.name}"
            found[name] = run
    if not found:
        raise UserError(f"{', '.join(sources)}: no cell has been trained")
    return found


def _settings_of(described: dict[str, Any], settings: Settings) -> VAE_framework.Settings:
    """Those of a run, perhaps of an older version, scored as this command asks."""
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
            raise UserError(f"{name} and {names[0]} learnt from other cells: score them apart")
        if (script := described[name]["script"]) not in TRAINING_SCRIPTS:
            raise UserError(f"{name}: a run of {script}.py cannot be scored here")


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
        | {k: v for k, v in _facts(run).items() if k != "said"}
        | wide.loc[name].to_dict()
        for name, run in folders.items()
    ]
    runs = pd.DataFrame(rows)
    write_table(folder / "runs.csv", runs)
    report = draw_runs(folder, runs, axes or ["run"], settings.goal, folders, described=about)
    print(f"report: {report}")
    return folder


def _facts(run: Path) -> dict[str, Any]:
    """Of the training of a run."""
    return facts_of(read_history(run))


def varying(described: dict[str, dict[str, Any]]) -> list[str]:
    """Settings in which the runs differ, in the order in which they are declared."""
    settings = [entry["settings"] for entry in described.values()]
    shared = set.intersection(*(set(values) for values in settings)) - LEFT_OUT_OF_IDENTITY
    return [
        field.name
        for field in dataclasses.fields(InfoMAX_VAE_framework.InfoMaxSettings)
        if field.name in shared and len({str(values[field.name]) for values in settings}) > 1
    ]


if __name__ == "__main__":
    run_script(lambda: main(parse_options(SETTINGS)))
