"""Score finished runs, also of older grids, with any choice of metrics.

    python optimization/score_optimization.py results/0003-simulated-BBBC031-alpha-beta
    python optimization/score_optimization.py results/0003-... results/0009-... --metrics backbone
    python optimization/score_optimization.py results/0003-... --metrics neighbours --seed 1

Sources are folders of grids, of comparisons (with their UMAP, t-SNE and PCA), of sweeps of UMAP and
t-SNE, and of single runs or trials, all on the same cells, so the reference spaces are ranked only
once. Nothing in the run folders changes. Results go to results/NNNN-<source>-scores/: scores.csv
(long), runs.csv (a row per run) and, if the runs differ in two settings, heat maps.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
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
from optimization.UMAP_TSNE_optimization import PROJECTIONS, read_sweep
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
from util.settings import notes_for_user, parse_options, run_script, settings_from_json


@dataclass(frozen=True)
class Settings:
    """What to score, and how."""

    sources: tyro.conf.Positional[tuple[str, ...]] = ()
    """Folders of grids, comparisons, sweeps, single runs or trials."""
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


@dataclass(frozen=True)
class Source:
    """A trained run or a projection that is to be scored.

    Attributes:
        folder: the run folder, or that of the sweep.
        described: script, settings and data, as in the settings.json of a run.
        codes: (N, d).
        logvar: (N, d) log-variances of a model, else None.
    """

    folder: Path
    described: dict[str, Any]
    codes: np.ndarray
    logvar: np.ndarray | None = None


def main(settings: Settings) -> Path:
    """Score the runs; returns the folder of the results."""
    sources = find_sources(settings.sources)
    _refuse_other_cells(sources)
    of_runs = _settings_of(next(iter(sources.values())).described, settings)
    loaded = VAE_framework.load(of_runs)
    found = score_each(
        codes={name: source.codes for name, source in sources.items()},
        references=reference_spaces(loaded.cells, loaded.features),
        table=loaded.cells.table,
        plan=plan_of(of_runs, loaded),
        logvars={n: source.logvar for n, source in sources.items() if source.logvar is not None},
        workers=settings.workers,
    )
    tables, notes = [], list(loaded.notes)
    for number, (name, scores) in enumerate(found, start=1):
        tables.append(scores.table)
        notes += scores.notes
        print(f"[{number} of {len(sources)}] scored {name}", flush=True)
    table = pd.concat(tables, ignore_index=True)
    return _write(settings, sources, table=table, notes=notes_for_user(notes))


def find_sources(paths: Sequence[str]) -> dict[str, Source]:
    """Name -> every trained run and projection in some folders.

    Raises:
        UserError: a folder is no grid, comparison, sweep or run, or nothing in it is trained.
    """
    if not paths:
        raise UserError("give folders of grids or runs: score_optimization.py results/0003-...")
    found: dict[str, Source] = {}
    for path in map(Path, paths):
        for name, source in _sources_in(path):
            found[name if name not in found else f"{source.folder.parent.name}/{name}"] = source
    if not found:
        raise UserError(f"{', '.join(paths)}: no trial has been trained")
    return found


def _sources_in(path: Path) -> Iterator[tuple[str, Source]]:
    """Names and runs of a grid, projections of a sweep, or a single run."""
    if (path / PROJECTIONS).is_file():
        described, projections = read_sweep(path)
        yield from ((name, Source(path, described, codes)) for name, codes in projections.items())
        return
    runs = [path]
    if (path / GRID_FILE).is_file():
        runs = [path / trial["folder"] for trial in read_grid(path)["trials"]]
        runs = [run for run in runs if read_facts(run) is not None]
    for run in runs:
        if not (run / "latents.csv").is_file():
            raise UserError(f"{run} holds no latents.csv: give a finished run, grid or sweep")
        is_model = (run / "settings.json").is_file()
        described = read_description(run) if is_model else describe_projection(run)
        yield run.name, Source(run, described, *codes_of(run))


def _settings_of(described: dict[str, Any], settings: Settings) -> VAE_framework.Settings:
    """Settings of a run, also of an older version, to be scored as this command says."""
    kind, _ = TRAINING_SCRIPTS[described["script"]]
    of_run = settings_from_json(kind, described["settings"], more=True)
    return dataclasses.replace(
        of_run, metrics=settings.metrics, seed=settings.seed, device=settings.device
    )


def _refuse_other_cells(sources: Mapping[str, Source]) -> None:
    first = next(iter(sources))
    for name, source in sources.items():
        prints = [sources[n].described["data"]["fingerprint"] for n in (name, first)]
        if prints[0] != prints[1]:
            raise UserError(
                f"{name} and {first} learned from different cells: score them apart; of a grid "
                "or comparison, give folders of trials"
            )
        if (script := source.described["script"]) not in TRAINING_SCRIPTS:
            raise UserError(f"{name}: a run of {script}.py cannot be scored by this script")


def _write(
    settings: Settings, sources: Mapping[str, Source], table: pd.DataFrame, notes: list[str]
) -> Path:
    stem = Path(settings.sources[0]).resolve().name
    stem = stem.split("-", 1)[1] if stem[:4].isdigit() else stem
    folder = create_run_folder(Path(settings.results), f"{stem}-scores")
    about = describe_run(settings, notes=notes)
    write_json(folder / "settings.json", about)
    write_table(folder / "scores.csv", table)
    wide = headline(table)
    axes = varying([source.described["settings"] for source in sources.values()])
    rows = [
        {"run": name, **{axis: source.described["settings"][axis] for axis in axes}}
        | {"status": "trained"}
        | _training_of(source.folder)
        | wide.loc[name].to_dict()
        for name, source in sources.items()
    ]
    runs = pd.DataFrame(rows)
    write_table(folder / "runs.csv", runs)
    report = draw_runs(
        folder=folder,
        runs=runs,
        axes=axes or ["run"],
        goal=settings.goal,
        run_folders={name: source.folder for name, source in sources.items()},
        described=about,
    )
    print(f"report: {report}")
    return folder


def _training_of(run: Path) -> dict[str, Any]:
    """The facts of a run's training; none of a projection."""
    if not (run / "log.jsonl").is_file():
        return {}
    return {k: v for k, v in facts_of(read_history(run)).items() if k != "said"}


def varying(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Settings in which the runs differ, in the order of their declaration."""
    shared = set.intersection(*(set(values) for values in settings)) - LEFT_OUT_OF_IDENTITY
    return [
        field.name
        for field in dataclasses.fields(InfoMAX_VAE_framework.InfoMaxSettings)
        if field.name in shared and len({str(values[field.name]) for values in settings}) > 1
    ]


if __name__ == "__main__":
    run_script(lambda: main(parse_options(SETTINGS)))
