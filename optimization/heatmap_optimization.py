"""Draw heat maps of any score over two settings, the best value framed, and a page to explore them.

    python optimization/heatmap_optimization.py results/0003-simulated-BBBC031-alpha-beta
    python optimization/heatmap_optimization.py results/0003-... --scores accuracy "m1"
    python optimization/heatmap_optimization.py my_runs.csv --x beta --y alpha

The source is the folder of a grid, or a table with a row per run and columns of settings and
scores, of any names. Results go to results/NNNN-<source>-heatmaps/: PNG files and explore.html,
where a click on a square opens the report of its run.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import tyro

from optimization.grid import read_grid
from optimization.grid_figures import draw_runs
from util.errors import UserError
from util.runs import create_run_folder, describe_run, read_json, write_json
from util.settings import parse_options, run_script
from util.tables import read_table


@dataclass(frozen=True)
class Settings:
    """What to draw."""

    source: tyro.conf.Positional[str] = ""
    """Folder of a grid, or a table with a row per run."""
    x: str | None = None
    """Setting of the columns; None takes the last axis of the grid."""
    y: str | None = None
    """Setting of the rows; None takes the first axis of the grid."""
    scores: tuple[str, ...] = ()
    """Columns of runs.csv to draw; all scores if none is given."""
    goal: str | None = None
    """Score by which the best run is named; None takes the goal of the grid, or the first score
    drawn."""
    results: str = "results"
    """Folder of the numbered result folders."""


SETTINGS = Settings()


def main(settings: Settings) -> Path:
    """Draw; returns the folder of the figures."""
    source = Path(settings.source)
    if not settings.source or not source.exists():
        raise UserError(f"{settings.source or 'no source'}: give the folder of a grid or a table")
    known = read_grid(source) if source.is_dir() else {}
    runs = _read_runs(source / "runs.csv" if source.is_dir() else source)
    y, x = _axes(settings, list(known.get("axes", [])))
    goal = settings.goal or known.get("goal") or next(iter(settings.scores), "")
    folder = create_run_folder(Path(settings.results), f"{_stem(source)}-heatmaps")
    write_json(folder / "settings.json", describe_run(settings))
    home = source if source.is_dir() else source.parent
    described = home / "settings.json"
    report = draw_runs(
        folder=folder,
        runs=runs,
        axes=[y, x],
        goal=goal,
        run_folders={run: home / str(run) for run in runs["run"]},
        scores=settings.scores,
        described=read_json(described) if described.is_file() else None,
    )
    print(f"report: {report}")
    return folder


def _read_runs(path: Path) -> pd.DataFrame:
    """The table of runs, with the columns `run` and `status` added where they are missing."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such table; score the grid first")
    runs = read_table(path, ["run"])
    if "run" not in runs:
        runs.insert(0, "run", [f"run {i + 1}" for i in range(len(runs))])
    return runs if "status" in runs else runs.assign(status="trained")


def _axes(settings: Settings, axes: list[str]) -> tuple[str, str]:
    """Setting of the rows and setting of the columns."""
    y, x = settings.y or (axes[0] if axes else None), settings.x or (axes[-1] if axes else None)
    if y is None or x is None:
        raise UserError("name the two settings of the heat maps with --x and --y")
    if x == y:
        raise UserError(f"--x {x} --y {y}: a heat map needs two settings")
    return y, x


def _stem(source: Path) -> str:
    name = source.resolve().name if source.is_dir() else source.stem
    return name.split("-", 1)[1] if name[:4].isdigit() and "-" in name else name


if __name__ == "__main__":
    run_script(lambda: main(parse_options(SETTINGS)))
