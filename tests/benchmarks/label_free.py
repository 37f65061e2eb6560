"""Criteria that need no labels, beside the scores that do: which of them picks a good code?

Each code is one projection of one set of cells: a VAE after a number of epochs, or PCA, UMAP or
t-SNE of pixels, aligned pixels or hand-crafted features. For each code the table gives

    without labels   view information (nats), LCMC at 25 neighbours with the features as reference,
                     share of replicates among the 15 nearest cells, neighbours shared between seeds
    with labels      accuracy and balanced accuracy of the classifier; Spearman correlation of a
                     known continuum with the direction fitted to other cells; mean R2 of known
                     traits, fitted to other cells

Then follow rank correlations of each criterion with each of the scores, and the regret: the best
score among the codes less that of the code which the criterion puts first.

The sets are described in a JSON file. Without one, the simulated BBBC031 cells are taken.

    {"jurkat": {"settings": {"dataset": "cells.npz", "metadata": "cells.csv", "label": "phase"},
                "traits": ["dna_integrated"], "log": true, "continuum": "dna_integrated"},
     "plates": {"settings": {"dataset": "crops", "metadata": "table.csv"},
                "truth": "truth.csv", "traits": ["radius", "red"], "replicate": ["Plate", "Well"]}}

`truth` is a table with Unique_ID where the metadata lack the traits. Codes are kept as .npz in the
folder `--codes`: `z` (N, d), and for view information `a` and `b`, both views of the rows `valid`.
Their names say what they are, `<set>_<setting>=<value>_..._e<epochs>.npz`; codes that are there
already are not made again.

    python tests/benchmarks/label_free.py --codes codes --baselines
    python tests/benchmarks/label_free.py --codes codes --sets sets.json --vae preset=views
        --vae "preset=aligned likelihood=gaussian" --seeds 2 --epochs 10 20 30
"""

import argparse
import contextlib
import io
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy
import torch
from common import machine_line

sys.path.insert(0, str(Path(__file__).parents[2]))

import InfoMAX_VAE_framework as infomax  # noqa: E402  needs the root
from models.baselines import BASELINES, PLACES_NEW_CELLS, principal_components  # noqa: E402
from models.train_net import embed  # noqa: E402
from models.views import baseline_views, choose_viewed, embed_views, two_views  # noqa: E402
from quantitative_metrics.classifier_metric import classifier_accuracy  # noqa: E402
from quantitative_metrics.replicate_retrieval import replicate_retrieval  # noqa: E402
from quantitative_metrics.stability import seed_stability  # noqa: E402
from quantitative_metrics.unsupervised_metric import co_ranking  # noqa: E402
from quantitative_metrics.view_information import view_information  # noqa: E402
from util.augmentation import align  # noqa: E402
from util.data_processing import Cells  # noqa: E402
from VAE_framework import Loaded, elbo_objective, learn, load, prepare  # noqa: E402

NEIGHBOURS = 25
RANKED = 2000  # cells, against all
CRITERIA = ["views", "features", "both", "replicates", "stability"]
LABELLED = ["accuracy", "balanced", "spearman", "R2"]
METHODS, EPOCHS, SEEDS = "VAE methods, last epoch", "epochs of a run", "seeds of a method"
NOT_FEATURES = "all but projections of features"
SIMULATED = {
    "sim": {
        "settings": {"simulated_cells": 2500, "label": "GT_label"},
        "traits": ["PositionOnRegressionPlaneX", "PositionOnRegressionPlaneY"],
    }
}
# What the name of a method leaves out: it is the same for all codes of a set.
COMMON = ("image_size", "downsample", "epochs", "every", "batch_size", "threads", "seed")
PARAMETERS: dict[str, tuple[dict[str, float], ...]] = {
    "PCA": ({},),
    "UMAP": ({}, {"n_neighbors": 50}),
    "TSNE": ({},),
}
SPACES = ("pixels", "aligned", "features")


@dataclass(frozen=True)
class Code:
    """A projection of all cells of a set, as its file holds it.

    method: its settings in words; the same for all seeds and epochs.
    kind: `projection`, `views` for a VAE whose objective rewards what two views of a cell share,
        or `VAE`.
    views: codes of two views of the same cells; None where new cells cannot be placed.
    """

    path: Path
    method: str
    kind: str
    epochs: int
    seed: int
    z: np.ndarray
    views: tuple[np.ndarray, np.ndarray] | None


@dataclass(frozen=True)
class CellSet:
    """Cells, and what is known of them.

    settings: of `InfoMaxSettings`.
    truth: table with the traits, joined on Unique_ID; None where the metadata have them.
    traits, log: columns with known numbers, and whether their logarithm is taken.
    continuum: one of the traits.
    replicate: columns whose combination names replicates.
    """

    name: str
    settings: dict[str, Any]
    truth: str | None = None
    traits: list[str] = field(default_factory=list)
    log: bool = False
    continuum: str | None = None
    replicate: list[str] = field(default_factory=list)

    @property
    def options(self) -> infomax.InfoMaxSettings:
        """Settings of a run on these cells, without the features."""
        return replace(infomax.SETTINGS, features="none", **self.settings)

    @cached_property
    def loaded(self) -> Loaded:
        """The cells, with their features."""
        return load(replace(self.options, features="measure"))

    @cached_property
    def features(self) -> np.ndarray:
        """(N, F)."""
        return self.loaded.features.to_numpy(float)

    @cached_property
    def known(self) -> pd.DataFrame:
        """(N, traits)."""
        table = self.loaded.cells.table
        if self.truth:
            table = pd.read_csv(self.truth).set_index("Unique_ID").loc[table["Unique_ID"]]
        values = table[self.traits].astype(float).reset_index(drop=True)
        return np.log(values + 1) if self.log else values

    @property
    def replicates(self) -> np.ndarray | None:
        """(N,) names, or None."""
        table = self.loaded.cells.table
        return table[self.replicate].astype(str).agg(" ".join, axis=1) if self.replicate else None


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--codes", type=Path, required=True, help="folder of the codes")
    parser.add_argument("--sets", type=Path, help="JSON file that describes the sets")
    parser.add_argument("--only", nargs="+", help="names of the sets to take")
    parser.add_argument("--vae", action="append", default=[], help="settings to train with")
    parser.add_argument("--epochs", nargs="+", type=int, default=[10, 20, 30])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--baselines", action="store_true", help="also PCA, UMAP and t-SNE")
    parser.add_argument("--table", type=Path, help="CSV with codes, which have a Well and a label")
    parser.add_argument("--make-only", action="store_true", help="make codes, score nothing")
    return parser.parse_args()


def read_words(words: str) -> dict[str, Any]:
    """Settings from `name=value name=value`; a value is JSON, else a string."""
    found = {}
    for word in words.split():
        name, value = word.split("=", 1)
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def train(cells: CellSet, words: str, epochs: list[int], seed: int, folder: Path) -> None:
    """Train one VAE, and keep its codes after each of these numbers of epochs."""
    options = read_words(words)
    preset = infomax.PRESETS[options.pop("preset", "default")]
    settings = replace(infomax.SETTINGS, **preset)
    settings = replace(settings, **cells.settings, **options, features="none")
    settings = replace(settings, epochs=max(epochs), patience=max(epochs), seed=seed)
    name = f"{cells.name}_{'_'.join(words.split())}_seed={seed}"
    paths = {epoch: folder / f"{name}_e{epoch}.npz" for epoch in epochs}
    if all(path.exists() for path in paths.values()):
        return
    loaded = replace(cells.loaded, features=None)
    viewed = choose_viewed(loaded.split[1], settings.seed)
    views = list(two_views(loaded.cells, viewed))
    objective = elbo_objective if settings.views == "none" else infomax.infomax_objective
    with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stdout(io.StringIO()):
        run = prepare(settings, objective, loaded=loaded, folder=Path(temporary))

        def keep(entry: dict[str, Any]) -> None:
            if entry["epoch"] not in paths:
                return
            z = embed(run.model, run.batches, len(loaded.cells.table))[0]
            a, b = embed_views(run.model, views, run.batches.device, settings.downsample)
            np.savez(paths[entry["epoch"]], z=z, a=a, b=b, valid=viewed)

        learn(run, keep)


def project(cells: CellSet, folder: Path) -> None:
    """PCA, UMAP and t-SNE of pixels, aligned pixels and features."""
    learnt, held_out = cells.loaded.split
    viewed = choose_viewed(held_out, 0)
    for (name, choices), space in product(PARAMETERS.items(), SPACES):
        for parameters in choices:
            words = "".join(f"_{key}={value}" for key, value in parameters.items())
            path = folder / f"{cells.name}_projection={name}_space={space}{words}_e0.npz"
            if path.exists():
                continue
            found = {"z": BASELINES[name](points_of(cells, space), dim=3, **parameters)}
            if name in PLACES_NEW_CELLS and space != "aligned":
                a, b = baseline_views(
                    name, space, cells.loaded.cells, learnt, viewed, dim=3, **parameters
                )
                found |= {"a": a, "b": b, "valid": viewed}
            elif name in PLACES_NEW_CELLS:
                a, b = aligned_views(name, cells.loaded.cells, learnt, viewed, parameters)
                found |= {"a": a, "b": b, "valid": viewed}
            np.savez(path, **found)


def points_of(cells: CellSet, space: str) -> np.ndarray:
    """(N, F) features, or the 50 first principal components of pixels."""
    if space == "features":
        return cells.features
    images = cells.loaded.cells
    if space == "pixels":
        return principal_components(images.reference_space())
    return principal_components(aligned(images, np.arange(len(images.table))))


def aligned(cells: Cells, rows: np.ndarray) -> np.ndarray:
    """(n, C, S, S) float32 of some cells, each in its standard position."""
    parts = np.array_split(rows, -(-len(rows) // 256))
    return np.concatenate([align(cells.scaled(p), cells.scaled_padding()).numpy() for p in parts])


def aligned_views(
    name: str, cells: Cells, learnt: np.ndarray, viewed: np.ndarray, parameters: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """As `baseline_views`, in the space of aligned pixels: the views are cut, then aligned."""
    sides = zip(*two_views(cells, viewed), strict=True)
    fill = cells.scaled_padding()
    views = [np.concatenate([align(view, fill).numpy() for view in side]) for side in sides]
    images = np.concatenate([aligned(cells, learnt), *views])
    fitted_to = np.arange(len(images)) < len(learnt)
    points = principal_components(images, fitted_to=fitted_to)
    codes = BASELINES[name](points, dim=3, fitted_to=fitted_to, **parameters)
    a, b = np.split(codes[len(learnt) :], 2)
    return a, b


def read_codes(folder: Path, name: str) -> Iterator[Code]:
    """The codes of one set."""
    for path in sorted(folder.glob(f"{name}_*.npz")):
        words = path.stem.removeprefix(f"{name}_")
        options = dict(re.findall(r"([a-z][a-z_]*)=([^_=]+)", words))
        epochs = int(re.search(r"_e(\d+)$", words).group(1))
        method = {key: value for key, value in options.items() if key not in COMMON}
        with_views = method.get("preset") == "views" or "views" in method
        kind = "projection" if "projection" in method else "views" if with_views else "VAE"
        with np.load(path) as file:
            views = (file["a"], file["b"]) if "a" in file else None
            yield Code(
                path=path,
                method=" ".join(
                    value if key in ("preset", "projection", "space") else f"{key}={value}"
                    for key, value in method.items()
                ),
                kind=kind,
                epochs=epochs,
                seed=int(options.get("seed", 0)),
                z=file["z"],
                views=views,
            )


def scores_of(cells: CellSet, codes: list[Code]) -> pd.DataFrame:
    """A row per code with its criteria and label-based scores.

    Scores are kept beside the codes, so that only new codes are scored.
    """
    kept = codes[0].path.parent / f"{cells.name}.json"
    rows = json.loads(kept.read_text()) if kept.exists() else {}
    new = [code for code in codes if code.path.stem not in rows]
    if new:
        reference = cells.features
        projections = {code.path.stem: code.z for code in new}
        rankings = co_ranking(reference, projections, sample=RANKED)
        for code in new:
            rows[code.path.stem] = {
                "views": informed(code),
                "features": rankings[code.path.stem].at(NEIGHBOURS)["lcmc"],
                "replicates": retrieved(cells, code),
            } | labelled_scores(cells, code)
        kept.write_text(json.dumps(rows))
    table = pd.DataFrame(
        [
            {"method": c.method, "kind": c.kind, "epochs": c.epochs, "seed": c.seed}
            | rows[c.path.stem]
            for c in codes
        ]
    )
    table["stability"] = stabilities(codes)
    table["both"] = table[["views", "features"]].rank().mean(axis=1, skipna=False)
    return table


def informed(code: Code) -> float:
    """View information, NaN without views or where a view could not be measured."""
    if code.views is None:
        return float("nan")
    seen = np.isfinite(np.hstack(code.views)).all(axis=1)
    return view_information(*(view[seen] for view in code.views)).value


def retrieved(cells: CellSet, code: Code) -> float:
    """Share of replicates among the nearest cells, NaN without replicates."""
    if cells.replicates is None:
        return float("nan")
    return replicate_retrieval(code.z, cells.replicates, sample=RANKED).scopes["all"].share


def labelled_scores(cells: CellSet, code: Code) -> dict[str, float]:
    """What `LABELLED` names; NaN where nothing is known."""
    labels = cells.loaded.cells.table[cells.loaded.label]
    found = classifier_accuracy(code.z, labels)
    scores = {"accuracy": found.accuracy, "balanced": found.balanced_accuracy}
    scores |= {"spearman": float("nan"), "R2": float("nan")}
    if cells.traits:
        fits = [r_squared(code.z, cells.known[trait].to_numpy()) for trait in cells.traits]
        scores["R2"] = float(np.mean(fits))
    if cells.continuum:
        scores["spearman"] = along_direction(code.z, cells.known[cells.continuum].to_numpy())
    return scores


def r_squared(z: np.ndarray, y: np.ndarray) -> float:
    """R2 of a number on cells that had no part in the fit, a cubic polynomial of the code."""
    from sklearn.preprocessing import PolynomialFeatures

    found = predicted(PolynomialFeatures(3, include_bias=False).fit_transform(standardised(z)), y)
    return float(1 - ((found - y) ** 2).mean() / y.var())


def along_direction(z: np.ndarray, y: np.ndarray) -> float:
    """Spearman correlation with the direction fitted to other cells."""
    return float(scipy.stats.spearmanr(predicted(standardised(z), y), y).statistic)


def standardised(z: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and deviation 1."""
    return (z - z.mean(axis=0)) / np.maximum(z.std(axis=0), 1e-9)


def predicted(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Each cell by a ridge regression on the four fifths it does not belong to."""
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), RidgeCV())
    return cross_val_predict(model, x, y, cv=KFold(5, shuffle=True, random_state=0))


def stabilities(codes: list[Code]) -> list[float]:
    """Share of neighbours that each code has in common with other seeds of its method."""
    found = []
    for code in codes:
        others = [
            other.z
            for other in codes
            if (other.method, other.epochs) == (code.method, code.epochs) and other is not code
        ]
        overlap = seed_stability([code.z, *others]).of(0)[0][0] if others else float("nan")
        found.append(overlap)
    return found


def correlation(x: pd.Series, y: pd.Series) -> float:
    """Spearman correlation of the codes that have both numbers, NaN for fewer than four."""
    both = x.notna() & y.notna()
    if both.sum() < 4 or x[both].nunique() < 2 or y[both].nunique() < 2:
        return float("nan")
    return float(scipy.stats.spearmanr(x[both], y[both]).statistic)


def around_mean(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Numbers less the mean of their group, of groups of two and more codes."""
    numbers = CRITERIA + LABELLED
    groups = table.groupby(by)
    several = groups["accuracy"].transform("size") > 1
    return (table[numbers] - groups[numbers].transform("mean"))[several]


def comparisons(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Name -> the codes that are compared with each other, or their deviations from a mean."""
    vaes = table[table["kind"] != "projection"]
    last = vaes[vaes["epochs"] == vaes.groupby("method")["epochs"].transform("max")]
    methods = last.groupby("method")[CRITERIA + LABELLED].mean()
    return {
        "all codes": table,
        NOT_FEATURES: table[~table["method"].str.contains("features")],
        "VAEs": vaes,
        "VAEs with views": vaes[vaes["kind"] == "views"],
        METHODS: methods,
        "between projections": table[table["kind"] == "projection"],
        EPOCHS: around_mean(vaes, ["method", "seed"]),
        SEEDS: around_mean(vaes, ["method", "epochs"]),
    }


def regret(codes: pd.DataFrame, criterion: str, score: str) -> float:
    """Best score of all these codes less that of the one which the criterion puts first."""
    known = codes.dropna(subset=[criterion, score])
    if len(known) < 2:
        return float("nan")
    return float(codes[score].max() - known.loc[known[criterion].idxmax(), score])


def rank_correlation(codes: pd.DataFrame, criterion: str, score: str) -> float:
    """Spearman correlation of a criterion and a score over some codes."""
    return correlation(codes[criterion], codes[score])


def show(value: float) -> str:
    """Three digits, or a dash."""
    return f"{value:8.3f}" if np.isfinite(value) else f"{'-':>8}"


CHOICES = ["all codes", NOT_FEATURES, "VAEs", METHODS, "between projections"]
COMPARED = [
    ("rank correlation", rank_correlation, [*CHOICES, "VAEs with views", EPOCHS, SEEDS]),
    ("regret", regret, CHOICES),
]


def print_codes(name: str, table: pd.DataFrame) -> None:
    """A line per code."""
    width = table["method"].str.len().max()
    names = [c for c in CRITERIA if c != "both"] + LABELLED
    print(f"\n{name}: {len(table)} codes")
    print(f"{'method':{width}}  epochs seed" + "".join(f"{n[:8]:>9}" for n in names))
    for row in table.sort_values(["kind", "method", "seed", "epochs"]).to_dict("records"):
        numbers = " ".join(show(row[n]) for n in names)
        print(f"{row['method']:{width}}  {row['epochs']:6d} {row['seed']:4d} {numbers}")


def print_comparisons(
    title: str, table: pd.DataFrame, number: Callable[[pd.DataFrame, str, str], float], names: list
) -> pd.DataFrame:
    """Criterion by row, label-based score by column, for each group of codes; the same table."""
    rows = {}
    for what, codes in comparisons(table).items():
        if what not in names or len(codes) < 2:
            continue
        for criterion in CRITERIA:
            rows[what, criterion] = [number(codes, criterion, score) for score in LABELLED]
        if number is regret:
            found = codes[LABELLED]
            rows[what, "random pick"] = (found.max() - found.mean()).tolist()
            rows[what, "worst pick"] = (found.max() - found.min()).tolist()
    found = pd.DataFrame.from_dict(rows, orient="index", columns=LABELLED)
    print_block(title, found)
    return found


def print_block(title: str, found: pd.DataFrame) -> None:
    """A line per group of codes and criterion that has a number."""
    print(f"\n{title:45}" + "".join(f"{score[:8]:>9}" for score in LABELLED))
    for (what, criterion), values in found.dropna(how="all").iterrows():
        print(f"{what + ', ' + criterion:45} " + " ".join(map(show, values)))


def print_table(path: Path) -> None:
    """Replicate retrieval and accuracy of a table of finished codes, and of fewer of its axes."""
    table = pd.read_csv(path)
    axes = [column for column in table if re.fullmatch(r"VAE_[xyz]_coord", column)]
    print(f"\n{path.name}: {len(table)} cells, {table['Well'].nunique()} wells; no images")
    print("axes            in well  chance  in site  chance  accuracy  balanced")
    sites = table["Well"] + " " + table["Site"].astype(str)
    for kept in (axes, axes[:2], axes[1:], axes[::2], *[[axis] for axis in axes]):
        z = table[kept].to_numpy(float)
        well, site = (
            replicate_retrieval(z, names, sample=RANKED).scopes["all"]
            for names in (table["Well"], sites)
        )
        found = classifier_accuracy(z, table["GT_label"], repeats=4)
        numbers = (well.share, well.chance_share, site.share, site.chance_share)
        letters = " ".join(axis[4] for axis in kept)
        print(
            f"{letters:14}"
            + "".join(f"{v:8.3f}" for v in numbers)
            + f"{found.accuracy:10.3f}{found.balanced_accuracy:10.3f}",
            flush=True,
        )


def main() -> None:
    """Make what is missing, then score and compare."""
    args = parse_arguments()
    torch.set_num_threads(1)
    start = time.perf_counter()
    described = json.loads(args.sets.read_text()) if args.sets else SIMULATED
    args.codes.mkdir(parents=True, exist_ok=True)
    print(machine_line("cpu"))
    everything: dict[str, list[pd.DataFrame]] = {}
    counted = 0
    for name, facts in described.items():
        if args.only and name not in args.only:
            continue
        cells = CellSet(name, **facts)
        for words, seed in product(args.vae, args.seeds):
            train(cells, words, args.epochs, seed, args.codes)
        if args.baselines:
            project(cells, args.codes)
        codes = list(read_codes(args.codes, name))
        if args.make_only or not codes:
            continue
        table = scores_of(cells, codes)
        counted += len(table)
        print_codes(name, table)
        for title, number, names in COMPARED:
            found = print_comparisons(f"{name}, {title}", table, number, names)
            everything.setdefault(title, []).append(found)
    for title, parts in everything.items():
        together = pd.concat(parts)
        mean = together.groupby(level=0, sort=False).mean()
        mean.index = pd.MultiIndex.from_tuples(mean.index)
        print_block(f"mean over {len(parts)} sets, {title}", mean)
    if args.table:
        print_table(args.table)
    print(f"\n{counted} codes, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
