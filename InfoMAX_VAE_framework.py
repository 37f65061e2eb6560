"""Train an InfoMax VAE on single-cell images, project the cells and judge the projection.

The InfoMax VAE is the VAE of VAE_framework.py with another objective: it also rewards mutual
information between image and code. All settings of VAE_framework.py are settings here too, with the
numbers that are edited there; the additional ones stand below. Edit them, or give them on the
command line:

    python InfoMAX_VAE_framework.py --preset laptop --alpha 100
    python InfoMAX_VAE_framework.py --preset views        # the critic sees other views of the cell
    python InfoMAX_VAE_framework.py --preset auto --dataset MyCells   # chooses by the cells

`--preset auto` is for cells that nobody knows. It trains each of CANDIDATES for a few hundred
steps, takes the one that is best by criteria without labels (quantitative_metrics/choice.py),
trains it from three seeds until it has learnt, keeps the best seed, and reports the spread.
"""

import math
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import nn

import VAE_framework
from models.checkpoints import load_weights
from models.infoMAX_VAE import CriticInput, InfoMaxObjective
from models.learning_curve import steps_of
from models.networks import input_side
from models.train_net import embed, read_history
from quantitative_metrics import choice
from util import processes
from util.augmentation import VIEWS, ViewName
from util.data_processing import Cells
from util.devices import one_thread
from util.errors import UserError
from util.latents import OWN
from util.mutual_information import Bound, InformationEstimator
from util.runs import read_description, read_json, slug, write_json
from util.settings import (
    ABOVE_0,
    AT_LEAST_0,
    RESUMES,
    Range,
    parse_settings,
    run_script,
    with_edits,
)
from util.workers import Beside
from VAE_framework import (
    CHANGEABLE,
    Run,
    Settings,
    build,
    elbo_arguments,
    elbo_objective,
    gold_standard,
    learn,
    load,
    main,
    prepare,
    show,
    views_of,
    with_features,
    with_notes,
    with_sizes,
)


@dataclass(frozen=True)
class InfoMaxSettings(Settings):
    """Every number of a run. The defaults are those of the thesis's text, but for `fit`."""

    alpha: float = 20.0
    """Weight of the mutual information between image and code, dimensionless; 0 is the plain
    VAE."""
    bound: Bound = "interpolated"
    """Lower bound on the information: interpolated, as in the thesis's text; its code used
    infonce."""
    bound_alpha: float = 0.01
    """Share of InfoNCE in the interpolated bound, above 0 up to 1; a small share has less bias and
    more variance."""
    views: ViewName = "none"
    """Image that the critic sees: the encoder's (none), or another view of the cell: turns (quarter
    turns and flips), free (any angle), strong (any angle, any part enlarged). With a view, the
    objective rewards only what all views of a cell share."""
    critic: CriticInput = "pixels"
    """Input of the critic: the pixels of that view, as in the thesis, or its latent code from the
    same encoder, which learns faster and needs --views."""
    critic_learning_rate: float = 5e-4
    """Adam's step size for the critic that estimates the information."""
    preset: Literal["default", "thesis", "laptop", "aligned", "even", "views", "auto"] = "default"
    """Named set of values; explicit options, and numbers edited above, override it and the
    candidates of auto."""

    SHIPPED: ClassVar = Settings.SHIPPED | {
        "alpha": 20.0,
        "bound": "interpolated",
        "views": "none",
        "critic": "pixels",
    }
    RANGES: ClassVar = Settings.RANGES | {
        "alpha": AT_LEAST_0,
        "bound_alpha": Range(0, 1, without=(0,)),
        "critic_learning_rate": ABOVE_0,
    }

    @property
    def model_name(self) -> str:
        """Name of the model in the run folder."""
        return f"InfoMAX-{super().model_name}"


SETTINGS = with_edits(InfoMaxSettings, VAE_framework.SETTINGS)

# The code is rewarded for what it shares with other views, and the decoder reconstructs another.
OTHER_VIEWS = {
    "alpha": 500.0,
    "bound": "infonce",
    "views": "strong",
    "target_view": "turns",
    "critic": "code",
}
# `thesis` is what the thesis's code did; the other presets are those of VAE_framework.py.
PRESETS = VAE_framework.PRESETS | {
    "thesis": VAE_framework.PRESETS["thesis"] | {"bound": "infonce"},
    "views": VAE_framework.LAPTOP | {"batch_size": 128} | OTHER_VIEWS,
    "auto": {
        "image_size": None,
        "downsample": None,
        "base": 8,
        "learning_rate": 1e-3,
        "epochs": 2000,
        "minutes": 3.0,
        "keep_checkpoint": True,
    },
}

# What `--preset auto` tries. The weight of the information follows the number of pixels, since the
# reconstruction does: `alpha` is nats per value of the network's input.
CONTRAST = OTHER_VIEWS | {"alpha": 0.02, "likelihood": "heteroscedastic"}
NO_CONTRAST = OTHER_VIEWS | {"alpha": 0.0}  # the critic only measures
CANDIDATES = {
    "views": CONTRAST,
    "views, balanced": CONTRAST | {"density_balance": 0.5},
    "views, gaussian": CONTRAST | {"alpha": 0.04, "likelihood": "gaussian"},
    "views, strong": CONTRAST | {"alpha": 0.16, "likelihood": "bernoulli"},
    "aligned": NO_CONTRAST | VAE_framework.ALIGNED,
    "even": NO_CONTRAST | VAE_framework.EVEN,
    "vanilla": NO_CONTRAST | {"target_view": "none", "likelihood": "gaussian"},
}
TRIED_STEPS = 400  # of each candidate, whatever the speed: they are to be compared
SEEDS = 3  # that share the minutes
ATTEMPTS = "attempts"  # folder of their runs below the run folder, until one is chosen


def infomax_objective(settings: InfoMaxSettings, cells: Cells) -> nn.Module:
    """What the InfoMax VAE minimises."""
    if settings.critic == "code" and settings.views == "none":
        raise UserError(
            "`critic` code: needs another view of the cell; give `views` turns or strong"
        )
    side = input_side(settings.image_size, settings.downsample)
    pixels = (cells.images.shape[1], side, side)
    seen = (settings.latent_dim,) if settings.critic == "code" else pixels
    estimator = InformationEstimator(
        seen, settings.latent_dim, settings.bound, settings.bound_alpha
    )
    return InfoMaxObjective(
        estimator,
        alpha=settings.alpha,
        critic_learning_rate=settings.critic_learning_rate,
        view=VIEWS[settings.views],
        critic_input=settings.critic,
        **elbo_arguments(settings, cells),
    )


def main_auto(settings: InfoMaxSettings) -> Path:
    """One run that chooses without labels how to learn, from cells to report.

    The candidates are trained in folders of their own below the run folder, which go when one has
    won. So a run that was stopped before goes on with `resume`.

    Args:
        settings: of the preset auto; values that differ from SETTINGS are those of all candidates.
    """
    if processes.world_size() > 1:
        raise UserError("`preset` auto trains several small models: start it in one process")
    loaded = load(settings, measure=False)
    settings = with_sizes(settings, loaded.cells)
    run = prepare(settings, infomax_objective, loaded=loaded)
    with Beside(lambda: gold_standard(settings, loaded)) as beside:
        epochs = math.ceil(TRIED_STEPS * settings.batch_size / len(loaded.split[0]))
        epochs = min(epochs, settings.epochs)
        ways = [attempt(run, name, settings.seed, math.inf, epochs) for name in CANDIDATES]
        features, notes, baselines = beside.result()
    run = with_features(run, features, notes)
    reference = choice.reference_of(loaded.cells, features)
    tried = choice.compare(ways, reference, settings.seed)
    way = ways[choice.best_way(tried)]
    print(f"{way.name}: best by the criteria without labels; now {SEEDS} seeds of it train longer")
    minutes = way.seconds / 60 + settings.minutes / SEEDS
    trained_from = range(settings.seed, settings.seed + SEEDS)
    seeds = [attempt(run, way.name, seed, minutes, settings.epochs) for seed in trained_from]
    trained = choice.compare(seeds, reference, settings.seed)
    kept = seeds[choice.best_seed(trained)]
    run = with_notes(run, choice.notes(way, seeds, kept))
    choice.write(run.folder, [(tried, ways, way), (trained, seeds, kept)], reference)
    settings = as_candidate(settings, kept.name, loaded.cells)
    settings = replace(settings, minutes=math.floor(kept.seconds / 0.06) / 1000)
    path = run.folder / "settings.json"
    chosen = {"settings": asdict(settings), "chosen": kept.folder.name}
    write_json(path, read_json(path) | chosen)  # from here on it is a run like any other
    history = adopt(run.folder, chosen["chosen"])
    model, objective = build(settings, infomax_objective, loaded.cells, run.batches.device)
    load_weights(run.folder / "best.pt", model)
    run = replace(run, settings=settings, model=model, objective=objective)
    return show(run, history, baselines, *choice.read(run.folder))


# A second thread saves a third of the time of such small networks on an idle machine. On a busy
# one, as while features are measured, the threads wait for each other ten times as long.
@one_thread()
def attempt(run: Run, name: str, seed: int, minutes: float, epochs: int) -> choice.Attempt:
    """Train a candidate in a folder of its own below the run's, or go on training it.

    Args:
        run: its cells and settings.
        name: of the candidate.
        seed: of the training; the seed of the run stays the one that splits the cells.
        minutes, epochs: until it has learnt, but at most so long.
    """
    print(f"candidate {name}, seed {seed}")
    settings = as_candidate(run.settings, name, run.loaded.cells)
    settings = replace(settings, minutes=minutes, epochs=epochs, seed=seed)
    folder = run.folder / ATTEMPTS / f"{slug(name)}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    model, objective = build(settings, infomax_objective, run.loaded.cells, run.batches.device)
    own = replace(run, settings=settings, model=model, objective=objective, folder=folder)
    history = learn(own)
    cells = len(run.loaded.cells.table)
    return choice.Attempt(
        name=name,
        seed=seed,
        codes=embed(model, run.batches, cells)[0],
        views=views_of(replace(own, settings=run.settings)).codes[OWN],
        steps=steps_of(history, len(run.loaded.split[0])),
        seconds=sum(entry["seconds"] for entry in history),
        folder=folder,
    )


def as_candidate(settings: InfoMaxSettings, name: str, cells: Cells) -> InfoMaxSettings:
    """The settings with a candidate's values where the user gives none."""
    side = input_side(settings.image_size, settings.downsample)
    values = dict(CANDIDATES[name])
    values["alpha"] *= cells.images.shape[1] * side**2
    free = [field for field in values if getattr(settings, field) == settings.SHIPPED[field]]
    return replace(settings, **{field: values[field] for field in free})


def adopt(folder: Path, name: str) -> list[dict[str, Any]]:
    """Make the files of an attempt those of the run, delete all attempts; returns the history."""
    attempts = folder / ATTEMPTS
    if attempts.is_dir():
        for file in ("log.jsonl", "checkpoint.pt", "best.pt"):
            shutil.copy2(attempts / name / file, folder / file)
        shutil.rmtree(attempts)
    return read_history(folder)


def script_main(settings: InfoMaxSettings) -> Path:
    """One run, which first chooses how to learn if the preset says so and it has not yet."""
    if settings.preset != "auto":
        return main(settings, infomax_objective)
    chosen = settings.resume and read_description(Path(settings.resume)).get("chosen")
    if not chosen:
        return main_auto(settings)
    adopt(Path(settings.resume), chosen)  # if it was stopped meanwhile
    return main(settings, infomax_objective, *choice.read(Path(settings.resume)))


# Script that trained a run -> class of its settings, and its objective.
TRAINING_SCRIPTS = {
    "VAE_framework": (Settings, elbo_objective),
    "InfoMAX_VAE_framework": (InfoMaxSettings, infomax_objective),
}


if __name__ == "__main__":
    run_script(
        lambda: script_main(parse_settings(SETTINGS, PRESETS, changeable_on_resume=CHANGEABLE)),
        RESUMES,
    )
