"""Compare all methods on all data sets by every score, over several seeds, with figures.

    python optimization/compare_methods.py                         # simulated BBBC031, one seed
    python optimization/compare_methods.py --seeds 0 1 2 --workers 2
    python optimization/compare_methods.py --sets simulated \
        jurkat:dataset=cells_40x40x3_uint16.npz,metadata=cells.csv,label=phase,progress=dna_integrated
    python optimization/compare_methods.py --methods UMAP UMAP50:method=UMAP,umap-neighbors=50 \
        Pixels:method=UMAP,project=pixels \
        Wide:method=InfoMaxViews,alpha=2000,batch-size=512

A data set is one of DATA_SETS below, or NAME:setting=value,...; a method is one of METHODS, or
NAME:method=METHOD,setting=value,..., with any setting of InfoMAX_VAE_framework.py. All other
settings come from the command line, except those that MODELS fixes for a model. The spec of the
method, and for InfoMaxViews also the data set, can override MODELS. The fixed settings of each
method are printed. The same command continues a comparison that was stopped.

Results go to results/NNNN-comparison/: scores.csv has a row per data set, method, seed, score and
k, for all cells and for the validation cells alone; report.html ranks the methods; a folder per
data set has the figures, latent_space.html and backbones.html.

No model learns from its validation cells. UMAP and PCA are also fitted to the training cells alone
and then place the validation cells; t-SNE cannot place new cells and keeps its map of all cells.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd

import InfoMAX_VAE_framework
import VAE_framework
from InfoMAX_VAE_framework import OTHER_VIEWS, InfoMaxSettings, infomax_objective
from models.baselines import PLACES_NEW_CELLS, cached_projection, principal_components
from models.train_net import read_history
from optimization.compare_figures import write_page
from optimization.grid import (
    Grid,
    GridOptions,
    Train,
    Trial,
    open_grid,
    read_grid,
    write_grid,
)
from optimization.grid_runs import (
    RESUMABLE,
    describe_grid,
    facts_of,
    finish_once,
    identity_of,
    plan_of,
    refuse_export,
)
from optimization.grid_scores import score_each, subset
from optimization.grid_workers import output_to, train_all
from quantitative_metrics.score_figures import draw_scores
from quantitative_metrics.scores import Plan, Scores, reference_spaces
from util.data_processing import CellSource
from util.devices import pick_device
from util.errors import UserError
from util.helpers import compose_rgb, plot_losses
from util.latents import AXES, map_columns, read_codes
from util.metadata import choose_labels
from util.pages.report import write_latent_page
from util.runs import file_names, read_description, write_table
from util.settings import parse_settings, run_script, settings_from_json, with_edits
from util.splitting import group_labels, split_cells
from util.style import thinning_stride
from VAE_framework import ALIGNED, EVEN, Loaded

DATA_SETS: dict[str, dict[str, Any]] = {
    "simulated": {"dataset": "simulated"},
    # Blasi et al. 2016; DNA content is the known progress through the cell cycle
    "jurkat": {
        "dataset": "DataSets/jurkat_cell_cycle/cells_40x40x3_uint16.npz",
        "metadata": "DataSets/jurkat_cell_cycle/cells.csv",
        "label": "phase",
        "progress": "dna_integrated",
        "views": "turns",  # the phase shows in total intensity, which enlarging would change
    },
    # as util/Process_*.py write them, from the real plates or from util/simulate_cells.py
    "horvath": {
        "dataset": "DataSets/Peter_Horvath_Subsample",
        "metadata": "DataSets/MetaData2_PeterHorvath_GT_link_CP_SUBSAMPLE.csv",
        "label": "GT_label",
        "views": "free",  # its classes differ in size
    },
    "chaffer": {
        "dataset": "DataSets/Chaffer_Data",
        "metadata": "DataSets/MetaData3_Chaffer_GT_link_CP.csv",
        "label": "GT_label",
        "image_size": 128,
        "downsample": 2,  # keeps intensities and sizes
        "views": "turns",  # its conditions differ in size and in the amount of a protein
    },
}

PLAIN = {"views": "none", "target_view": "none", "critic": "pixels"}
# Models of the thesis; the one that decodes each cell aligned; the one with density-balanced
# sampling; and the InfoMax VAE whose critic and decoder see another view of the cell.
MODELS: dict[str, dict[str, Any]] = {
    "Vanilla": PLAIN,
    "SC": PLAIN | {"architecture": "sc"},
    "InfoMax": PLAIN,
    "Aligned": PLAIN | ALIGNED,
    "Even": PLAIN | EVEN,
    "InfoMaxViews": OTHER_VIEWS,
}
PROJECTIONS = ("UMAP", "TSNE", "PCA")
METHODS = (*MODELS, *PROJECTIONS)
HELD_OUT = "held_out.csv"  # coordinates in a map fitted to the training cells only
# Settings that decide how a projection is scored.
OF_SCORES = ("features", "feature_groups", "progress", "branch", "rank_all_up_to")
LEAST_HELD_OUT = 50  # validation cells; fewer are not scored by themselves


@dataclass(frozen=True)
class CompareSettings(GridOptions, InfoMaxSettings):
    """Every setting of the comparison; a data set or method can override it."""

    sets: tuple[str, ...] = ("simulated",)
    """Data sets: names of DATA_SETS, or NAME:setting=value,..."""
    methods: tuple[str, ...] = METHODS
    """Names of METHODS, or NAME:method=METHOD,setting=value,... with other settings."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of split, weights and projections; three or more give confidence intervals."""
    project: Literal["features", "pixels"] = "features"
    """What UMAP, t-SNE and PCA project: hand-crafted features, or the first 50 principal
    components of the pixels."""
    batch_size: int = 256
    """Cells per training step."""

    SHIPPED: ClassVar = InfoMaxSettings.SHIPPED | {"batch_size": 256}
    RANGES: ClassVar = (
        InfoMaxSettings.RANGES
        | GridOptions.OPTION_RANGES
        | {"seeds": InfoMaxSettings.RANGES["seed"]}
    )


SETTINGS = with_edits(CompareSettings, InfoMAX_VAE_framework.SETTINGS)
PRESETS = InfoMAX_VAE_framework.PRESETS


@dataclass(frozen=True)
class DataSet:
    """A data set of the comparison: all settings, those of its own spec, and its cells."""

    settings: CompareSettings
    own: dict[str, Any]
    loaded: Loaded

    def split_by(self, seed: int) -> Loaded:
        """The cells, with the split of a seed."""
        cells = self.loaded.cells
        labels = choose_labels(cells.table, self.settings.label)[1]
        groups = group_labels(cells.table, self.settings.group)
        split = split_cells(labels, len(cells.table), self.settings.valid_fraction, seed, groups)
        return replace(self.loaded, split=split)

    def validation_cells(self, seed: int) -> np.ndarray:
        """(N,) bool, true for the validation cells of a seed."""
        valid = np.zeros(len(self.loaded.cells.table), bool)
        valid[self.split_by(seed).split[1]] = True
        return valid

    @cached_property
    def pixel_components(self) -> np.ndarray:
        """(N, 50) principal components of the pixels."""
        return principal_components(self.loaded.cells.reference_space())


@dataclass(frozen=True)
class Method:
    """A method of the comparison: one of METHODS, with settings of its own."""

    name: str
    kind: str
    own: dict[str, Any]

    def kept_on(self, data_set: DataSet) -> dict[str, Any]:
        """Settings that the method fixes whatever the command line says.

        The spec of the method overrides the data set, and the data set overrides MODELS.
        """
        usual = MODELS.get(self.kind, {})
        if self.kind == "InfoMaxViews":  # which views keep the phenotype depends on the data
            usual = {k: data_set.own.get(k, v) for k, v in usual.items()}
        return usual | self.own

    def settings_on(self, data_set: DataSet) -> CompareSettings:
        """The settings of the data set with those that the method fixes."""
        return replace(data_set.settings, **self.kept_on(data_set))


def main(settings: CompareSettings) -> Path:
    """Train, project, score and draw; returns the folder of the comparison."""
    pick_device(settings.device)
    refuse_export(settings)
    if not set(settings.metrics) - {"axes"}:
        raise UserError("--metrics axes: cannot rank methods; add another, e.g. neighbours")
    if settings.sampler != "grid":
        raise UserError("--sampler tpe: a comparison trains every combination; leave it out")
    methods = read_methods(settings)
    sets = load_sets(settings)
    _refuse_projections_of_nothing(sets, methods)
    grid = open_grid(
        results=Path(settings.results),
        name="comparison",
        axes={"data_set": tuple(sets), "method": tuple(methods), "seed": settings.seeds},
        identity={name: identity_of(one.settings, one.loaded) for name, one in sets.items()},
        options=settings,
        resume=settings.resume,
    )
    describe_grid(grid, settings, {name: one.loaded for name, one in sets.items()})
    _print_kept(sets, methods)
    train_all(
        grid,
        partial(train_trial, sets=sets, methods=methods),
        partial(load_training, settings),
    )
    finish_once(grid, lambda: score_and_draw(grid, settings, sets))
    return grid.folder


def load_sets(settings: CompareSettings) -> dict[str, DataSet]:
    """Name -> data set, in the order of `--sets`."""
    sets = {}
    for spec in settings.sets:
        name, own = read_set(spec, settings)
        if name in sets:
            raise UserError(f"--sets {spec}: {name} is named twice")
        of_set = replace(settings, **own)
        loaded = VAE_framework.load(of_set)
        for note in loaded.notes:
            print(f"note: {name}: {note}")
        sets[name] = DataSet(of_set, own, loaded)
    return sets


def _refuse_projections_of_nothing(
    sets: Mapping[str, DataSet], methods: Mapping[str, Method]
) -> None:
    """Refuse methods that project features where a data set has none."""
    for name, data_set in sets.items():
        for method in methods.values():
            projected = method.kind in PROJECTIONS and method.settings_on(data_set).project
            if projected == "features" and data_set.loaded.features is None:
                raise UserError(
                    f"{method.name} needs features, and {name} has none: measure them, leave the "
                    f"method out, or give --methods {method.name}:method={method.kind},"
                    "project=pixels"
                )


def _print_kept(sets: Mapping[str, DataSet], methods: Mapping[str, Method]) -> None:
    """Print the settings that each method fixes on each data set, in the form of a spec."""
    for name, data_set in sets.items():
        for method in methods.values():
            kept = method.kept_on(data_set)
            if kept:
                spec = ",".join(f"{key.replace('_', '-')}={value}" for key, value in kept.items())
                print(f"{method.name} on {name} keeps {spec}")


def read_set(spec: str, settings: CompareSettings) -> tuple[str, dict[str, Any]]:
    """Name of a data set, and its own settings.

    Raises:
        UserError: an unknown name without settings, or an unknown setting.
    """
    name, _, rest = spec.partition(":")
    if name not in DATA_SETS and not rest:
        raise UserError(
            f"--sets {spec}: known are {', '.join(DATA_SETS)}; else give NAME:dataset=PATH,..."
        )
    return name, DATA_SETS.get(name, {}) | _read_values(f"--sets {spec}", rest, settings)


def read_methods(settings: CompareSettings) -> dict[str, Method]:
    """Name -> method, in the order of `--methods`.

    Raises:
        UserError: a name that occurs twice, an unknown method or setting.
    """
    methods = {}
    for spec in settings.methods:
        name, _, rest = spec.partition(":")
        kind, _, more = rest.partition(",")
        kind = kind.removeprefix("method=") if rest else name
        if kind not in METHODS:
            raise UserError(
                f"--methods {spec}: known are {', '.join(METHODS)}; "
                "else give NAME:method=METHOD,setting=value,..."
            )
        if name in methods:
            raise UserError(f"--methods {spec}: {name} is named twice")
        methods[name] = Method(name, kind, _read_values(f"--methods {spec}", more, settings))
    return methods


def _read_values(where: str, text: str, settings: CompareSettings) -> dict[str, Any]:
    """Parse setting=value,... into values of the types of the settings; lists are A+B."""
    hints = get_type_hints(type(settings))
    values = {}
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        key = key.replace("-", "_")
        key = settings.RENAMED.get(key, key)
        if key not in hints or not value:
            raise UserError(f"{where}: {part!r} is not setting=value of InfoMAX_VAE_framework.py")
        kinds = (hints[key], *get_args(hints[key]))
        if get_origin(hints[key]) is tuple:
            values[key] = tuple(value.split("+"))
            continue
        choices = [one for kind in kinds if get_origin(kind) is Literal for one in get_args(kind)]
        if choices and value not in choices:
            raise UserError(f"{where}: {part!r} must be one of {', '.join(map(str, choices))}")
        if hints[key] is bool:
            if value not in ("True", "False"):
                raise UserError(f"{where}: {part!r} must be True or False")
            values[key] = value == "True"
            continue
        kind = next((k for k in (int, float) if k in kinds), str)
        try:
            values[key] = kind(value)
        except ValueError as error:
            raise UserError(f"{where}: {part!r} is no number") from error
    return values


def train_trial(
    trial: Trial, sets: Mapping[str, DataSet], methods: Mapping[str, Method]
) -> dict[str, Any]:
    """Train the model of a trial or compute its projection, up to latents.csv.

    Returns:
        The facts to remember of the trial.
    """
    data_set = sets[trial.parameters["data_set"]]
    method, seed = methods[trial.parameters["method"]], trial.parameters["seed"]
    make = _train_model if method.kind in MODELS else _make_projection
    with output_to(trial.folder / "output.txt"):
        return make(trial.folder, data_set, method, seed)


def load_training(settings: CompareSettings) -> Train:
    """`train_trial` for another process, which loads the cells itself."""
    return partial(train_trial, sets=load_sets(settings), methods=read_methods(settings))


def model_settings(
    settings: CompareSettings, kind: str, seed: int, folder: Path
) -> VAE_framework.Settings:
    """Settings of the run of a model.

    Args:
        settings: of the method on its data set.
        kind: name of MODELS.
        seed: of the trial.
        folder: of the run.
    """
    of_run = InfoMaxSettings if kind.startswith("InfoMax") else VAE_framework.Settings
    values = {f.name: getattr(settings, f.name) for f in dataclasses.fields(of_run)}
    begun = (folder / "settings.json").is_file()
    values |= {"seed": seed, "results": str(folder.parent), "preset": "default"}
    return of_run(**values | {"original": None, "resume": str(folder) if begun else None})


def _train_model(folder: Path, data_set: DataSet, method: Method, seed: int) -> dict[str, Any]:
    run = VAE_framework.prepare(
        model_settings(method.settings_on(data_set), method.kind, seed, folder),
        infomax_objective if method.kind.startswith("InfoMax") else VAE_framework.elbo_objective,
        loaded=data_set.split_by(seed),
        folder=folder,
    )
    history = VAE_framework.learn(run)
    VAE_framework.project(run, {})
    facts = facts_of(history)
    return facts | {"value": facts["valid_reconstruction"]}


def _make_projection(folder: Path, data_set: DataSet, method: Method, seed: int) -> dict[str, Any]:
    loaded, settings, kind = data_set.loaded, method.settings_on(data_set), method.kind
    source = data_set.pixel_components if settings.project == "pixels" else loaded.features
    parameters = VAE_framework.baselines_of(settings).get(kind, {})
    dim = min(settings.latent_dim, len(AXES))
    project = partial(
        cached_projection,
        kind,
        source,
        dim=dim,
        seed=seed,
        cache_dir=loaded.cells.cache,
        **parameters,
    )
    maps = {"latents.csv": project()}
    if kind in PLACES_NEW_CELLS:
        maps[HELD_OUT] = project(fitted_to=~data_set.validation_cells(seed))
    for name, codes in maps.items():
        columns = dict(zip(map_columns(kind, codes.shape[1]), codes.T, strict=True))
        table = pd.DataFrame({"Unique_ID": loaded.cells.table["Unique_ID"], **columns})
        write_table(folder / name, table)
    return {"value": 0.0, "said": "projected"}


def codes_of(folder: Path, held_out: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
    """Coordinates (N, d) of a trained trial, and the log-variances if it is a model.

    Args:
        folder: of the trial.
        held_out: take the map that was fitted without the validation cells, if there is one.
    """
    if (folder / "settings.json").is_file():
        return read_codes(folder)
    name = HELD_OUT if held_out and (folder / HELD_OUT).is_file() else "latents.csv"
    table = pd.read_csv(folder / name)
    return table.drop(columns="Unique_ID").to_numpy(np.float32), None


def describe_projection(folder: Path) -> dict[str, Any]:
    """What settings.json of a model would say of the cells, for a projection of a comparison.

    Args:
        folder: of the trial.

    Raises:
        UserError: it is no trial of a comparison.
    """
    comparison = read_description(folder.parent)
    trials = read_grid(folder.parent)["trials"]
    trial = next((t for t in trials if t["folder"] == folder.name), None)
    if trial is None or "data_set" not in trial:
        raise UserError(f"{folder} holds no settings.json: give a finished run or a grid")
    settings = settings_from_json(CompareSettings, comparison["settings"])
    specs = {spec.partition(":")[0]: spec for spec in settings.sets}
    of_set = replace(settings, **read_set(specs[trial["data_set"]], settings)[1])
    shared = {*(f.name for f in dataclasses.fields(CellSource)), *OF_SCORES, "valid_fraction"}
    values = {name: getattr(of_set, name) for name in sorted(shared)}
    return {
        "script": "VAE_framework",
        "settings": json.loads(json.dumps(values)),  # lists as in the settings.json of a model
        "data": comparison[trial["data_set"]],
    }


def score_and_draw(grid: Grid, settings: CompareSettings, sets: Mapping[str, DataSet]) -> Path:
    """Score and draw each data set unless that is done, then write the tables and the report."""
    write_grid(grid)
    tables, figures = [], []
    folders = file_names(sets)
    for name, data_set in sets.items():
        folder = grid.folder / folders[name]
        folder.mkdir(exist_ok=True)
        trials = [
            trial
            for trial in grid.trials
            if trial.parameters["data_set"] == name and (trial.folder / "latents.csv").is_file()
        ]
        if not trials:
            print(f"note: nothing was trained on {name}")
            continue
        if not (folder / "figures.csv").is_file():
            _score_set(folder, name, data_set, trials, workers=settings.workers)
        tables.append(pd.read_csv(folder / "scores.csv"))
        listed = pd.read_csv(folder / "figures.csv")
        figures += [(f"{name}: {row.caption}", folder / row.file) for row in listed.itertuples()]
    if not tables:
        raise UserError(f"nothing in {grid.folder} was trained: see {grid.folder / 'grid.json'}")
    table = pd.concat(tables, ignore_index=True)
    if table["k"].notna().all():  # no rows, or curves only
        raise UserError(
            f"--metrics {' '.join(settings.metrics)}: no score of these data sets is a single "
            "number to compare methods by; add --metrics neighbours, the runs are kept"
        )
    write_table(grid.folder / "scores.csv", table)
    return write_page(grid, list(read_methods(settings)), table, figures)


def _score_set(
    folder: Path, name: str, data_set: DataSet, trials: Sequence[Trial], workers: int
) -> None:
    """Write scores.csv and the figures of one data set; figures.csv, written last, lists them."""
    codes, logvars = {}, {}
    for trial in trials:
        codes[trial.name], logvar = codes_of(trial.folder)
        if logvar is not None:
            logvars[trial.name] = logvar
    loaded = data_set.loaded
    plan = plan_of(data_set.settings, loaded)
    references = reference_spaces(loaded.cells, loaded.features)
    found: dict[str, Scores] = {}
    for key, scores in score_each(
        codes=codes,
        references=references,
        table=loaded.cells.table,
        plan=plan,
        logvars=logvars,
        workers=workers,
    ):
        found[key] = scores
        print(f"[{len(found)} of {len(codes)}] scored {key}", flush=True)
    tables = [_scores_table(trials, found, "all")]
    for seed in dict.fromkeys(trial.parameters["seed"] for trial in trials):
        of_seed = [trial for trial in trials if trial.parameters["seed"] == seed]
        apart = _score_validation_cells(
            data_set=data_set,
            trials=of_seed,
            seed=seed,
            plan=plan,
            references=references,
            workers=workers,
        )
        tables.append(_scores_table(of_seed, apart, "validation"))
    write_table(folder / "scores.csv", pd.concat(tables, ignore_index=True))
    first = [trial for trial in trials if trial.parameters["seed"] == trials[0].parameters["seed"]]
    figures = _draw_set(folder, data_set, first, f"{name}: all methods", codes=codes, found=found)
    rows = [(caption, path.relative_to(folder).as_posix()) for caption, path in figures]
    write_table(folder / "figures.csv", pd.DataFrame(rows, columns=["caption", "file"]))


def _score_validation_cells(
    data_set: DataSet,
    trials: Sequence[Trial],
    seed: int,
    plan: Plan,
    references: Mapping[str, np.ndarray],
    workers: int,
) -> dict[str, Scores]:
    """Scores of the validation cells of a seed among themselves; {} if there are too few.

    Mutual information is left out, because its critics would need more pairs.
    """
    valid = data_set.validation_cells(seed)
    if valid.sum() < LEAST_HELD_OUT:
        return {}
    found = score_each(
        codes={trial.name: codes_of(trial.folder, held_out=True)[0][valid] for trial in trials},
        references={name: space[valid] for name, space in references.items()},
        table=data_set.loaded.cells.table[valid].reset_index(drop=True),
        plan=replace(plan, metrics=tuple(m for m in plan.metrics if m != "information")),
        workers=workers,
    )
    return dict(found)


def _scores_table(trials: Sequence[Trial], found: Mapping[str, Scores], of: str) -> pd.DataFrame:
    """The long tables of all trials that were scored, with columns that say what they are."""
    parts = []
    for trial in trials:
        if trial.name in found:
            place = {axis: trial.parameters[axis] for axis in ("data_set", "method", "seed")}
            own = found[trial.name].table.drop(columns="projection")
            own = own.rename(columns={"seed": "score_seed"})
            parts.append(pd.DataFrame({**place, "cells": of, **own.to_dict("series")}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _draw_set(
    folder: Path,
    data_set: DataSet,
    trials: Sequence[Trial],
    title: str,
    codes: Mapping[str, np.ndarray],
    found: Mapping[str, Scores],
) -> list[tuple[str, Path]]:
    """Draw the trials of one seed and write their latent_space.html; captions and figures."""
    names = {trial.name: str(trial.parameters["method"]) for trial in trials}
    table, label = data_set.loaded.cells.table, data_set.loaded.label
    columns = {
        method: [f"{method}_{i + 1}" for i in range(codes[key].shape[1])]
        for key, method in names.items()
    }
    coordinates = {
        column: axis
        for key, method in names.items()
        for column, axis in zip(columns[method], codes[key].T, strict=True)
    }
    latents = pd.concat([table, pd.DataFrame(coordinates, index=table.index)], axis=1)
    write_table(folder / "latents.csv", latents)
    scores = subset([found[key] for key in names], names)
    figures = draw_scores(scores, latents, columns, folder, label=label)
    files = file_names(columns)
    for trial in trials:
        if (trial.folder / "best.pt").is_file():
            method = names[trial.name]
            path = plot_losses(read_history(trial.folder), folder / f"losses_{files[method]}.png")
            figures.append((f"Loss and its terms, {method}", path))
    shown = data_set.loaded.cells.images[:: thinning_stride(len(table))]
    write_latent_page(
        latents=latents,
        projections=columns,
        thumbnails=compose_rgb(shown, data_set.loaded.cells),
        path=folder / "latent_space.html",
        roles=scores.roles(label),
        title=title,
    )
    return figures


if __name__ == "__main__":
    run_script(lambda: main(parse_settings(SETTINGS, PRESETS, changeable_on_resume=RESUMABLE)))
