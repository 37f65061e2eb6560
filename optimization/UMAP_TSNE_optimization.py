"""Sweep UMAP and t-SNE over their main parameters, score every projection and name the best.

    python optimization/UMAP_TSNE_optimization.py --workers 2
    python optimization/UMAP_TSNE_optimization.py --dataset DataSets/MyCells --metadata my.csv
    python optimization/UMAP_TSNE_optimization.py --projections thesis.csv

The values are listed below. The projections are those of hand-crafted features or, on request, of
pixels. They are kept in a cache, so the same command continues a sweep that was stopped. With
`--projections`, columns such as UMAP_15_X, UMAP_15_Y, RTSNE_30_Z are read from a table instead. All
projections are scored against the same reference neighbourhoods. Results go to
results/NNNN-<set>-sweep/.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import tyro
from joblib import Parallel, delayed

import VAE_framework
from models.baselines import Engine, cached_projection, outlying, possible, principal_components
from optimization.grid_figures import best_runs, plot_heat_maps, plot_sweep, score_columns
from optimization.grid_runs import plan_of
from optimization.grid_scores import score_each, subset
from quantitative_metrics.catalogue import (
    GROUPS,
    GROUPS_HELP,
    Group,
    goodness,
    refuse_unknown_score,
)
from quantitative_metrics.options import RANK_ALL_UP_TO
from quantitative_metrics.score_figures import draw_scores
from quantitative_metrics.score_table import format_table, headline, scores_table
from quantitative_metrics.scores import Scores, reference_spaces
from util.data_processing import CellSource
from util.devices import pick_device
from util.errors import UserError
from util.helpers import compose_rgb
from util.latents import AXES, find_projections, map_columns, swept_parameter
from util.metadata import match_rows
from util.pages.report import write_latent_page, write_report
from util.runs import (
    create_run_folder,
    describe_run,
    read_description,
    slug,
    write_json,
    write_table,
)
from util.settings import (
    ABOVE_0,
    AT_LEAST_1,
    notes_for_user,
    parse_options,
    refuse_out_of_range,
    run_script,
    settings_from_json,
)
from util.style import thinning_stride
from util.tables import read_table
from VAE_framework import Loaded

N_NEIGHBORS = (5, 15, 50)
MIN_DISTS = (0.0, 0.1, 0.5)
PERPLEXITIES = (5.0, 30.0, 50.0, 100.0)
PROJECTIONS = "projections.csv"  # what is known of the cells, and all coordinates


@dataclass(frozen=True)
class Settings(CellSource):
    """Every setting of the sweep."""

    n_neighbors: tuple[int, ...] = N_NEIGHBORS
    """n_neighbors of UMAP, cells."""
    min_dists: tuple[float, ...] = MIN_DISTS
    """min_dist of UMAP, 0..1."""
    perplexities: tuple[float, ...] = PERPLEXITIES
    """Perplexities of t-SNE: effective numbers of neighbours."""
    dim: Literal[1, 2, 3] = 3
    """Dimensions of a projection."""
    project: Literal["features", "pixels"] = "features"
    """What to project: hand-crafted features, or the first 50 principal components of pixels."""
    projections: str | None = None
    """Table with a row per cell and columns UMAP_<value>_X, ..., RTSNE_<value>_X, ... to score
    instead; joined on Unique_ID."""
    leave_out_beyond: float | None = None
    """Leave out cells with a coordinate beyond this many standard deviations; 4 in the thesis."""
    criterion: str | None = None
    """Score by which the best is named; None takes the mean area of trustworthiness, continuity and
    LCMC against the features, or else the pixels."""
    engine: Engine = "cpu"
    """`cpu`, or `torchdr` for a GPU and 100,000 cells or more (pip install -e '.[gpu]')."""
    workers: int = 1
    """Processes that project and score at the same time; they share the cores."""

    features: str = "measure"
    """Hand-crafted features: `measure`, `none`, or a table with Unique_ID."""
    feature_groups: Literal["fast", "full"] = "fast"
    """What to measure: shape and intensity, or all of cp_measure."""
    metrics: Annotated[tuple[Group, ...], tyro.conf.arg(help=GROUPS_HELP)] = GROUPS
    progress: str | None = None
    """Column of a known continuum for the backbone; None takes BBBC031's."""
    branch: str | None = None
    """Column of the branches of that continuum."""
    replicate: str | None = None
    """Column of what cells share that should look alike (well, site, donor); scored without
    labels."""
    group: str | None = None
    """Column of cells that stay together in every split and resample (well, plate, donor); None
    splits cells one by one."""
    rank_all_up_to: int = RANK_ALL_UP_TO
    """Cells up to which neighbourhood ranks are exact; above, a sample is ranked against all."""
    seed: int = 0
    """Of the projections and the scores."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1; of the scores and of the engine torchdr."""
    results: str = "results"
    """Folder of the numbered result folders."""

    RANGES: ClassVar = {
        "n_neighbors": VAE_framework.Settings.RANGES["umap_neighbors"],
        "min_dists": VAE_framework.Settings.RANGES["umap_min_dist"],
        "perplexities": VAE_framework.Settings.RANGES["tsne_perplexity"],
        "leave_out_beyond": ABOVE_0,
        "workers": AT_LEAST_1,
    }


SETTINGS = Settings()


@dataclass(frozen=True)
class Request:
    """A projection to compute: its method and parameters."""

    method: str
    parameters: dict[str, float]

    @property
    def name(self) -> str:
        """E.g. UMAP_15_0.1, TSNE_30, PCA."""
        return "_".join([self.method, *(f"{value:g}" for value in self.parameters.values())])


def main(settings: Settings) -> Path:
    """Project, score and draw; returns the folder of the results."""
    refuse_out_of_range(settings, settings.RANGES)
    refuse_unknown_score("criterion", settings.criterion)
    of_runs = run_settings(settings)
    loaded = VAE_framework.load(of_runs)
    requests, codes, notes = (
        read_projections(settings.projections, loaded, settings.dim)
        if settings.projections
        else make_projections(settings, loaded)
    )
    notes = notes_for_user(loaded.notes + notes)
    if settings.leave_out_beyond is not None:
        codes, more = leave_out(codes, settings.leave_out_beyond, loaded)
        notes += more
    for note in notes:
        print(f"note: {note}")
    plan = plan_of(of_runs, loaded)
    references = reference_spaces(loaded.cells, loaded.features)
    found = []
    for name, scores in score_each(
        codes, references, loaded.cells.table, plan, workers=settings.workers
    ):
        found.append(scores)
        print(f"[{len(found)} of {len(codes)}] scored {name}", flush=True)
    together = subset(found, {name: name for name in codes})
    return _write(
        settings=settings,
        loaded=loaded,
        requests=requests,
        codes=codes,
        scores=together,
        notes=notes,
    )


def run_settings(settings: Any) -> VAE_framework.Settings:
    """The settings of a run that this script has too: what to load and how to score."""
    names = {field.name for field in dataclasses.fields(settings)}
    shared = {f.name for f in dataclasses.fields(VAE_framework.Settings)} & names
    return VAE_framework.Settings(**{name: getattr(settings, name) for name in shared})


def requests_of(settings: Settings, n_cells: int) -> tuple[list[Request], list[str]]:
    """The projections of the sweep, each once, and notes; PCA is the baseline.

    Parameters that are too large for so few cells are named as what is used instead.
    """
    umaps = [
        Request("UMAP", {"n_neighbors": n, "min_dist": distance})
        for n in settings.n_neighbors
        for distance in settings.min_dists
    ]
    tsnes = [Request("TSNE", {"perplexity": value}) for value in settings.perplexities]
    requests, notes = {}, {}
    for request in [*umaps, *tsnes, Request("PCA", {})]:
        used = {name: possible(name, v, n_cells) for name, v in request.parameters.items()}
        notes |= {
            f"{name} {value:g} is too large for {n_cells} cells: {used[name]:g} is taken": None
            for name, value in request.parameters.items()
            if used[name] != value
        }
        used = Request(request.method, used)
        requests[used.name] = used
    return list(requests.values()), list(notes)


def make_projections(
    settings: Settings, loaded: Loaded
) -> tuple[list[Request], dict[str, np.ndarray], list[str]]:
    """Compute all projections in `workers` processes, or take them from the cache.

    Returns:
        The requests; name -> (N, dim) coordinates; notes.

    Raises:
        UserError: there are no features to project.
    """
    if settings.project == "pixels":
        source = principal_components(loaded.cells.reference_space(), seed=settings.seed)
        notes = [f"projected: {source.shape[1]} principal components of the pixels"]
    elif loaded.features is None:
        raise UserError("--features none: nothing to project; measure them or --project pixels")
    else:
        source = loaded.features.to_numpy()
        notes = [f"projected: {source.shape[1]} hand-crafted features"]
    n_cells = int((~np.isnan(source).all(axis=1)).sum())
    requests, more = requests_of(settings, n_cells)
    notes += more
    slowest_first = sorted(requests, key=lambda request: request.method != "TSNE")
    codes: dict[str, np.ndarray] = {}
    made = _project_each(settings, slowest_first, source, loaded.cells.cache)
    for request, projected in zip(slowest_first, made, strict=True):
        codes[request.name] = projected
        print(f"[{len(codes)} of {len(requests)}] projected {request.name}", flush=True)
    return requests, {request.name: codes[request.name] for request in requests}, notes


def _project_each(
    settings: Settings, requests: Sequence[Request], source: np.ndarray, cache: Path | None
) -> Iterator[np.ndarray]:
    engine = {}
    if settings.engine != "cpu":
        engine = {"engine": settings.engine, "device": str(pick_device(settings.device))}
    return Parallel(n_jobs=settings.workers, return_as="generator")(
        delayed(cached_projection)(
            request.method,
            source,
            dim=settings.dim,
            seed=settings.seed,
            cache_dir=cache,
            **request.parameters | (engine if request.method != "PCA" else {}),
        )
        for request in requests
    )


def read_projections(
    path: str, loaded: Loaded, dim: int = 3
) -> tuple[list[Request], dict[str, np.ndarray], list[str]]:
    """Read projections from columns UMAP_<value>_X, RTSNE_<value>_X, ... of a table.

    Returns:
        Method and value of each; name -> (N, dim or fewer), NaN for a cell without a row; notes.

    Raises:
        UserError: there are no such file or columns, or no id matches.
    """
    table = read_table(Path(path))
    found = find_projections(table, source=path)
    swept = {name: known for name in found if (known := swept_parameter(name))}
    if not swept:
        raise UserError(f"{path} has no columns UMAP_<value>_X or RTSNE_<value>_X")
    places, notes = match_rows(table, loaded.cells.table["Unique_ID"], path, all_images=True)
    notes = table.attrs["notes"] + notes
    kept = places >= 0
    codes, requests = {}, []
    for name, (method, value) in swept.items():
        values = table[found[name][:dim]].to_numpy(np.float64)
        codes[name] = np.full((len(loaded.cells.table), values.shape[1]), np.nan)
        codes[name][places[kept]] = values[kept]
        requests.append(Request(method, {"value": value}))
    return requests, codes, notes


def leave_out(
    codes: Mapping[str, np.ndarray], deviations: float, loaded: Loaded
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Set the coordinates of outlying cells to NaN; returns the projections, and a note.

    All projections are scored on the same cells, so a cell that is an outlier in one counts for
    none.
    """
    cleaned, counts, any_far = {}, {}, np.zeros(len(loaded.cells.table), bool)
    for name, values in codes.items():
        far = outlying(values, deviations)
        cleaned[name] = np.where(far[:, None], np.nan, values)
        counts[name], any_far = int(far.sum()), any_far | far
    each = ", ".join(f"{name} {count}" for name, count in counts.items())
    return cleaned, [
        f"{any_far.sum()} of {len(any_far)} cells lie beyond {deviations:g} standard deviations in "
        f"at least one projection and are left out of all ({each})"
    ]


def _write(
    settings: Settings,
    loaded: Loaded,
    requests: Sequence[Request],
    codes: Mapping[str, np.ndarray],
    scores: Scores,
    notes: list[str],
) -> Path:
    """Write tables, figures and report; returns their folder."""
    folder = create_run_folder(Path(settings.results), f"{loaded.cells.name}-sweep")
    about = describe_run(settings, data=loaded.cells.describe(), notes=notes)
    write_json(folder / "settings.json", about)
    runs = _write_runs(folder, dict(zip(codes, requests, strict=True)), scores)
    projections, columns = _write_projections(folder, loaded, codes)
    criterion = criterion_of(settings, runs)
    best = best_of(runs, criterion)
    chosen = subset([scores], {name: name for name in best["run"]})
    shown = {name: columns[name] for name in best["run"]}
    of_best = draw_scores(chosen, projections, shown, folder, label=loaded.label)
    cells = loaded.cells
    view = write_latent_page(
        latents=projections[[*cells.table, *(c for names in shown.values() for c in names)]],
        projections=shown,
        thumbnails=compose_rgb(cells.images[:: thinning_stride(len(projections))], cells),
        path=folder / "latent_space.html",
        roles=scores.roles(loaded.label),
        title=f"{cells.name}: the best by {criterion}",
    )
    said = [
        f"The best {row['method']} by {criterion} is {row['run']} ({row[criterion]:.4g})."
        for _, row in best.iterrows()
    ]
    report = write_report(
        path=folder / "report.html",
        title=f"{folder.name}: {len(codes)} projections",
        summary_lines=said,
        settings=about["settings"] | {"command": about["command"]},
        tables=[
            (f"The best of each method by {criterion}.", scores_table(chosen.table)),
            ("The best by each score.", best_runs(runs, ["method"], score_columns(runs, []))),
        ],
        figures=_draw_sweep(folder, runs) + of_best,
        notes=notes_for_user(notes + scores.notes),
        latent_page=view,
        details=[("Every projection.", runs.set_index("run").drop(columns="status"))],
    )
    print(format_table(scores_table(chosen.table)))
    print("\n".join(said))
    print(f"report: {report}")
    return folder


def _write_runs(folder: Path, requests: Mapping[str, Request], scores: Scores) -> pd.DataFrame:
    """Write scores.csv, and runs.csv with a row per projection; returns the latter."""
    write_table(folder / "scores.csv", scores.table)
    wide = headline(scores.table)
    runs = pd.DataFrame(
        {"run": name, "method": request.method, **request.parameters, "status": "trained"}
        | wide.loc[name].to_dict()
        for name, request in requests.items()
    )
    write_table(folder / "runs.csv", runs)
    return runs


def _write_projections(
    folder: Path, loaded: Loaded, codes: Mapping[str, np.ndarray]
) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Write projections.csv; returns it, and name -> coordinate columns."""
    columns = {name: map_columns(name, values.shape[1]) for name, values in codes.items()}
    flat = {c: v for name in codes for c, v in zip(columns[name], codes[name].T, strict=True)}
    table = loaded.cells.table
    projections = pd.concat([table, pd.DataFrame(flat, index=table.index)], axis=1)
    write_table(folder / PROJECTIONS, projections)
    return projections, columns


def read_sweep(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What settings.json of a run would say of the cells of a finished sweep, and its projections.

    Returns:
        script, settings and data; name -> (N, 1 to 3) coordinates, NaN for a cell that was left
        out.
    """
    described = read_description(folder)
    settings = settings_from_json(Settings, described["settings"])
    table = read_table(folder / PROJECTIONS)
    names = read_table(folder / "runs.csv", ("run",))["run"]
    made = np.float64 if settings.projections else np.float32  # as it was scored
    codes = {}
    for name in names:
        columns = [c for c in map_columns(name, len(AXES)) if c in table]
        codes[name] = table[columns].to_numpy(made)
    of_run = dataclasses.asdict(run_settings(settings))
    shared = {name: value for name, value in of_run.items() if hasattr(settings, name)}
    about = {
        "script": "VAE_framework",
        "settings": json.loads(json.dumps(shared)),  # lists as in the settings.json of a run
        "data": described["data"],
    }
    return about, codes


def criterion_of(settings: Settings, runs: pd.DataFrame) -> str:
    """The score by which the best is named.

    Raises:
        UserError: it was not computed.
    """
    asked = [settings.criterion] if settings.criterion else []
    usual = ["mean_area features", "mean_area pixels", "accuracy"]
    found = [name for name in asked or usual if name in runs]
    if not found:
        there = ", ".join(score_columns(runs, [], axes_too=True))
        raise UserError(f"--criterion {settings.criterion}: no such score; there are {there}")
    return found[0]


def best_of(runs: pd.DataFrame, criterion: str) -> pd.DataFrame:
    """The best row of each method, in the order of the methods."""
    good = goodness(runs[criterion])
    places = [
        part.idxmax() for _, part in good.groupby(runs["method"], sort=False) if part.notna().any()
    ]
    return runs.loc[places]


def _draw_sweep(folder: Path, runs: pd.DataFrame) -> list[tuple[str, Path]]:
    """A figure per method: heat maps over two parameters, curves over one."""
    figures = []
    scores = score_columns(runs.drop(columns=["n_neighbors", "min_dist", "perplexity", "value"],
                                     errors="ignore"), [])  # fmt: skip
    for method, part in runs.groupby("method", sort=False):
        swept = [
            name
            for name in ("n_neighbors", "min_dist", "perplexity", "value")
            if name in part and part[name].nunique() > 1
        ]
        path = folder / f"sweep_{slug(str(method))}.png"
        if len(swept) == 2:
            plot_heat_maps(part, *swept, scores, path)
        elif len(swept) == 1:
            plot_sweep(part, swept[0], scores, path)
        else:
            continue
        figures.append((f"{method}: every score over {' and '.join(swept)}", path))
    return figures


if __name__ == "__main__":
    run_script(lambda: main(parse_options(SETTINGS)))
