"""Fine-tune a model with an expert's feedback; measure how well it follows and what it costs.

    python human_guidance/VAE_feedback_framework.py --run results/0007-MyCells-VAE \
        --feedback feedback.csv                                     # fine-tune any finished run
    python human_guidance/VAE_feedback_framework.py                 # the thesis's study of dSprites

`feedback_helpers.py` describes the tables of feedback and the new run folder; the old run folder
never changes. Without --run the script first trains on dSprites: unrotated squares and hearts, two
latent dimensions. Case 1 anchors all squares and 32 hearts, and measures where 8 held-out hearts
fall; case 2 anchors all squares and all hearts. `--cases 1` runs one case only.

`models.guidance_losses.AnchoredObjective` adds the feedback to the run's own objective. Training
starts from the best weights of the run, with its architecture, data and split. Under torchrun, put
a `--` before the name of this script, because torchrun has options that begin with --run.
"""

import dataclasses
import math
import shutil
import sys
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from torch import nn

import VAE_framework
from human_guidance.dsprites_study import dsprites_guidance, write_squares_and_hearts
from human_guidance.feedback_helpers import (
    read_axis_hints,
    read_feedback,
    read_pairs,
    write_axis_hints,
    write_feedback,
    write_pairs,
)
from human_guidance.guidance_report import Guidance, follow_up, plot_guidance
from human_guidance.guidance_terms import guidance_terms, image_source
from human_guidance.progress import ProgressReport, Report, append_step
from InfoMAX_VAE_framework import TRAINING_SCRIPTS
from models.checkpoints import load_objective, load_weights
from models.finished_run import FinishedRun
from models.guidance_losses import AnchoredObjective
from models.train_net import embed, evaluate
from quantitative_metrics.catalogue import Group
from quantitative_metrics.score_table import format_table, scores_table
from util import processes
from util.data_processing import Cells
from util.errors import UserError, explain_os_error
from util.latents import OWN, code_columns, logvar_columns
from util.runs import find_finished_run, write_table
from util.settings import (
    ABOVE_0,
    AT_LEAST_0,
    AT_LEAST_1,
    Range,
    parse_options,
    refuse_out_of_range,
    run_script,
    settings_from_json,
)
from util.tables import read_table
from VAE_framework import open_finished_run


@dataclass(frozen=True)
class Settings:
    """What to fine-tune, on which feedback, and how."""

    run: str | None = None
    """Finished run: its folder, its number in `results`, or `last`; None runs the study of
    dSprites."""
    feedback: str | None = None
    """Table of anchored cells: Unique_ID, delta, x_anchor, y_anchor, ..."""
    pairs: str | None = None
    """Table of pairs: Unique_ID_a, Unique_ID_b, relation (together, apart), weight."""
    axis_hints: str | None = None
    """Table of axes that should follow a column: axis, column, weight, direction."""
    held_out: str | None = None
    """Table in the format of `feedback`: anchored cells that are judged, not trained on."""
    hold_out: float = 0.2
    """Share of each group of anchored cells that is held out where `held_out` names no table; the
    number is rounded down."""
    control: bool = False
    """Also train for as long without the feedback, to tell its cost from that of more epochs."""

    epochs: int = 5
    """Passes over the training cells."""
    learning_rate: float | None = None
    """Adam's step size for the VAE; None takes the run's."""
    batch_size: int | None = None
    """Cells per training step; None takes the run's."""
    decay_every: int = 25
    """Epochs between two cuts of the learning rate."""
    decay: float = 0.5
    """Factor of each cut."""
    freeze_norm_after: int | None = None
    """Epochs after which the batch-norm statistics are frozen; None never freezes them. Cells that
    share an anchor differ little, and the statistics of single batches blur the difference."""
    cells_per_step: int = 64
    """Guided cells added to each training step, divided among anchors, pairs and axis hints."""
    anchor_warmup: float = 1.0
    """Factor on the weight of all feedback during the warm-up; above 1 it moves the latent codes of
    a model that is already trained."""
    warmup_epochs: int = 2
    """Epochs of the warm-up."""
    shift: int = 0
    """Largest random shift of guided cells in a training step, in pixels. It keeps the model from
    memorizing a few guided cells; augmentation by rotation and flips does the same."""
    margin: float = 2.0
    """Distance beyond which a pair counts as apart, in latent units; the prior has a standard
    deviation of 1."""
    metrics: tuple[Group, ...] | None = None
    """Scores of the latent space before and after; None takes the run's choice."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    progress_file: str | None = None
    """File that gets a line of JSON for each step, besides progress.jsonl in the run folder."""

    cases: tuple[Literal[1, 2], ...] = (1, 2)
    """Study of dSprites: case 1 anchors all squares and 32 hearts, case 2 all squares and
    hearts."""
    dsprites: str | None = None
    """The published npz of dSprites; None renders the same images."""
    delta: float = 1.28
    """Weight of the anchors in the study of dSprites, nats per squared latent unit; 1.28 is the
    thesis's 0.005 x 256."""
    seed: int = 0
    """Seed of the study of dSprites; fine-tuning keeps the seed of the run."""
    results: str = "results"
    """Folder of the numbered run folders."""

    RENAMED: ClassVar = {"firmness": "anchor_warmup", "firm_epochs": "warmup_epochs"}
    RANGES: ClassVar = {
        "epochs": AT_LEAST_1,
        "learning_rate": ABOVE_0,
        "batch_size": Range(2),
        "decay_every": AT_LEAST_1,
        "decay": ABOVE_0,
        "anchor_warmup": AT_LEAST_1,
        "warmup_epochs": AT_LEAST_0,
        "shift": AT_LEAST_0,
        "freeze_norm_after": AT_LEAST_0,
        "cells_per_step": Range(2),
        "margin": ABOVE_0,
        "delta": ABOVE_0,
        "hold_out": Range(0, 1, without=(1,)),
    }


SETTINGS = Settings()

# Defaults of the study of dSprites. Its posteriors have standard deviations near 0.01, so the
# thesis's weight of 1.28 moves hardly any code.
STUDY = {
    "delta": 20.0,
    "anchor_warmup": 16.0,
    "warmup_epochs": 7,
    "shift": 4,  # else the model memorizes 32 hearts at 16 places
    "cells_per_step": 32,
    "freeze_norm_after": 1,
    "epochs": 15,
    "batch_size": 64,
    "learning_rate": 3e-3,  # codes become ten times smaller, decoder weights larger
    "decay_every": 1,
    "decay": 0.8,
}

COST_TERMS = ("reconstruction", "kl")


@dataclass(frozen=True)
class Parent(FinishedRun):
    """The finished run that is fine-tuned.

    Attributes:
        make_objective: builds the objective that it minimised.
    """

    make_objective: VAE_framework.MakeObjective


def open_parent(folder: Path) -> Parent:
    """Open a finished run together with its objective.

    Raises:
        UserError: the folder is not that of a finished run.
    """
    run = open_finished_run(folder)
    if run.described["script"] not in TRAINING_SCRIPTS:
        raise UserError(f"`run` {folder}: made by a script that trains no model here")
    kind, make_objective = TRAINING_SCRIPTS[run.described["script"]]
    settings = settings_from_json(kind, run.described["settings"])
    return Parent(run.folder, settings, run.described, run.latents, make_objective=make_objective)


def read_guidance(settings: Settings, parent: Parent) -> Guidance:
    """Read and check all feedback that the settings name, and hold out some anchored cells.

    Raises:
        UserError: no feedback is named, or a table is wrong.
    """
    ids, latent_dim = parent.latents["Unique_ID"], parent.settings.latent_dim
    guidance = Guidance(
        read_feedback(Path(settings.feedback), ids, latent_dim) if settings.feedback else None,
        read_feedback(Path(settings.held_out), ids, latent_dim) if settings.held_out else None,
        read_pairs(Path(settings.pairs), ids) if settings.pairs else None,
        read_axis_hints(Path(settings.axis_hints), parent.latents, latent_dim)
        if settings.axis_hints
        else [],
    )
    if guidance.anchors is None and guidance.pairs is None and not guidance.hints:
        raise UserError("no feedback: give --feedback, --pairs or --axis-hints")
    if guidance.anchors is not None and guidance.held_out is not None:
        _refuse_trained_on(guidance, settings.held_out)
    elif guidance.anchors is not None:
        guidance = hold_out(guidance, settings.hold_out, parent.settings.seed)
    return guidance


def _refuse_trained_on(guidance: Guidance, source: str) -> None:
    both = np.isin(guidance.held_out.cells, guidance.anchors.cells)
    if both.any():
        raise UserError(
            f"{source}: {guidance.held_out.ids[both.argmax()]} is also in the feedback; a cell is "
            "either trained on or held out"
        )


def hold_out(guidance: Guidance, share: float, seed: int) -> Guidance:
    """Hold out a random share of each group of anchored cells, rounded down."""
    feedback, rng = guidance.anchors, np.random.default_rng([seed, 2])
    held = np.zeros(len(feedback), bool)
    for name in dict.fromkeys(feedback.groups):
        members = np.flatnonzero(feedback.groups == name)
        held[rng.permutation(members)[: int(share * len(members))]] = True
    return dataclasses.replace(
        guidance, anchors=feedback.subset(~held), held_out=feedback.subset(held)
    )


def fine_tune(
    folder: Path,
    guidance: Guidance | None = None,
    settings: Settings = SETTINGS,
    on_progress: Report | None = None,
    like: Path | None = None,
) -> Path:
    """Fine-tune a finished run with feedback, into a new run folder beside it.

    Args:
        folder: of the finished run; it does not change.
        guidance: the feedback; None reads the tables that the settings name.
        settings: how to train and which scores to compute.
        on_progress: called with each step as it begins, as `feedback_helpers` lists them; an
            exception that it raises stops the work.
        like: run folder fine-tuned from the same run with the same settings and other feedback; its
            control is copied.

    Returns:
        the new run folder.

    Raises:
        UserError: a mistake in the feedback or the settings, or a run that cannot be continued.
    """
    refuse_out_of_range(settings, settings.RANGES)
    tell = ProgressReport(settings.progress_file, on_progress)
    tell(stage="loading")
    parent = open_parent(Path(folder))
    guidance = read_guidance(settings, parent) if guidance is None else guidance
    run = _prepare(parent, guidance, settings)
    tell.enter(run.folder, settings.epochs)
    tell(stage="training", epoch=0)
    if settings.control:
        _learn_control(run, parent, like)
    history = _learn(run, parent, guidance, settings=settings, tell=tell)
    processes.leave()  # the main process scores and draws alone
    report = _report(run, parent, guidance, settings=settings, history=history, tell=tell)
    print(f"report: {report}")
    tell(stage="done", report=str(report))
    return run.folder


def _report(
    run: VAE_framework.Run,
    parent: Parent,
    guidance: Guidance,
    settings: Settings,
    history: list[dict[str, Any]],
    tell: ProgressReport,
) -> Path:
    """Score and draw the latent space before and after; returns the path of the report."""
    tell(stage="scoring")
    states = _look(run, parent, settings)
    latents, projections = _project(run, parent, states)
    followed = _judge(run, guidance, states, latents)
    scores = VAE_framework.score(run, latents, projections)
    tell(stage="drawing")
    codes = {name: state.mean for name, state in states.items()}
    roles, path = scores.roles(run.loaded.label), run.folder / "guidance.png"
    figure = plot_guidance(codes, guidance, latents, roles=roles, path=path)
    report = VAE_framework.draw(
        run,
        history,
        latents,
        projections,
        scores=scores,
        figures=[("The latent space before and after the feedback", figure)],
        tables=[("How well the codes follow the feedback, and what it cost", _readable(followed))],
    )
    VAE_framework.export(run, latents, projections, scores)  # if the parent was exported
    print(_readable(followed).to_string())
    print(format_table(scores_table(scores.table)))
    return report


def _prepare(parent: Parent, guidance: Guidance, settings: Settings) -> VAE_framework.Run:
    """A new run that continues from the best weights of its parent."""
    continued = dataclasses.replace(
        parent.settings,
        epochs=settings.epochs,
        learning_rate=settings.learning_rate or parent.settings.learning_rate,
        batch_size=settings.batch_size or parent.settings.batch_size,
        decay_every=settings.decay_every,
        decay=settings.decay,
        freeze_norm_after=settings.freeze_norm_after,
        patience=settings.epochs,  # never stop early
        metrics=parent.settings.metrics if settings.metrics is None else settings.metrics,
        device=settings.device,
        results=str(parent.folder.parent),
        original=None,
        resume=None,
    )

    def make_objective(asked: VAE_framework.Settings, cells: Cells) -> nn.Module:
        if cells.fingerprint != parent.fingerprint:
            raise UserError(
                f"{asked.dataset} has changed since {parent.folder} was trained: train a new run"
            )
        return parent.make_objective(asked, cells)

    about = {"run": str(parent.folder), "settings": dataclasses.asdict(settings)}
    run = VAE_framework.prepare(continued, make_objective, about)
    if processes.is_main():
        _write_guidance(run.folder, guidance)
    _load_parent(run, parent)
    return run


def _write_guidance(folder: Path, guidance: Guidance) -> None:
    if guidance.anchors is not None:
        write_feedback(folder / "feedback.csv", guidance.anchors)
    if guidance.held_out is not None and len(guidance.held_out):
        write_feedback(folder / "held_out.csv", guidance.held_out)
    if guidance.pairs is not None:
        write_pairs(folder / "pairs.csv", guidance.pairs)
    if guidance.hints:
        write_axis_hints(folder / "axis_hints.csv", guidance.hints)


def _load_parent(run: VAE_framework.Run, parent: Parent) -> None:
    """Load the weights of the parent's best epoch, and its objective's of the last epoch."""
    load_weights(parent.folder / "best.pt", run.model)
    learnt = parent.folder / "checkpoint.pt"
    if learnt.is_file():
        load_objective(learnt, run.objective)
    elif any(True for _ in run.objective.parameters()):
        print(
            f"note: {parent.folder} kept no checkpoint.pt; the critic or the variance of its "
            "objective is trained from scratch"
        )


def _learn_control(run: VAE_framework.Run, parent: Parent, like: Path | None) -> None:
    """Train for as long without the feedback, or copy the control of another run."""
    control = dataclasses.replace(run, folder=run.folder / "control")
    if processes.is_main():
        with explain_os_error(control.folder):
            if like is None:
                control.folder.mkdir()
            else:
                shutil.copytree(like / "control", control.folder)
    processes.wait_for_all()
    if like is None:
        before = deepcopy(run.objective.state_dict())
        VAE_framework.learn(control)
        load_weights(parent.folder / "best.pt", run.model)
        run.objective.load_state_dict(before)


def _learn(
    run: VAE_framework.Run,
    parent: Parent,
    guidance: Guidance,
    settings: Settings,
    tell: ProgressReport,
) -> list[dict[str, Any]]:
    """Train with the feedback."""
    terms = guidance_terms(guidance, parent, run.loaded.split[0], settings.margin)
    objective = AnchoredObjective(
        run.objective,
        terms,
        image_source(run.batches, settings.shift),
        cells_per_step=settings.cells_per_step,
        anchor_warmup=settings.anchor_warmup,
        warmup_steps=settings.warmup_epochs
        * math.ceil(len(run.loaded.split[0]) / run.batches.batch_size),
    )
    guided = dataclasses.replace(run, objective=objective)
    return VAE_framework.learn(guided, lambda entry: tell(stage="training", **entry))


@dataclass(frozen=True)
class State:
    """The latent space at one stage: before, after, or trained without feedback.

    Attributes:
        mean, logvar: (N, d) of the posterior of every cell.
        terms: of the objective without feedback, nats per image, over the validation cells.
    """

    mean: np.ndarray
    logvar: np.ndarray
    terms: dict[str, float]


def _look(run: VAE_framework.Run, parent: Parent, settings: Settings) -> dict[str, State]:
    """The states before, without feedback and after, in this order; the model stays in the last."""
    weights = {"before": parent.folder / "best.pt"}
    if settings.control:
        weights["without feedback"] = run.folder / "control" / "best.pt"
    weights["after"] = run.folder / "best.pt"
    states = {}
    for name, path in weights.items():
        load_weights(path, run.model)
        terms = evaluate(run.model, run.objective, run.batches.in_order(run.loaded.split[1]))
        states[name] = State(*embed(run.model, run.batches, len(run.loaded.cells.table)), terms)
    return states


def _project(
    run: VAE_framework.Run, parent: Parent, states: Mapping[str, State]
) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Write latents.csv: the parent's, with the new codes as VAE and the old ones as VAE_before."""
    old = code_columns(parent.settings.latent_dim)
    own = {*old, *logvar_columns(old)}
    earlier = [c for c in parent.latents if str(c).startswith(("VAE_before_", "VAE_without_"))]
    latents = parent.latents.drop(columns=[*own, *earlier])
    names = {"after": OWN, "before": "VAE_before", "without feedback": "VAE_without"}
    projections = {}
    for state, name in names.items():
        if state not in states:
            continue
        columns = code_columns(parent.settings.latent_dim, name)
        latents[columns] = states[state].mean
        if name == OWN:
            latents[logvar_columns(columns)] = states[state].logvar
        projections[name] = columns
    write_table(run.folder / "latents.csv", latents)
    return latents, projections


def _judge(
    run: VAE_framework.Run,
    guidance: Guidance,
    states: Mapping[str, State],
    latents: pd.DataFrame,
) -> pd.DataFrame:
    """Write guidance.csv: how well codes follow the feedback, and its cost in nats per image."""
    codes = {name: state.mean for name, state in states.items()}
    followed = follow_up(guidance, codes, latents, run.loaded.label)
    cost = [
        (term, "", "validation", len(run.loaded.split[1]), "nats per image",
         *(state.terms[term] for state in states.values()))
        for term in COST_TERMS
    ]  # fmt: skip
    followed = pd.concat([followed, pd.DataFrame(cost, columns=followed.columns)])
    write_table(run.folder / "guidance.csv", followed)
    return followed


def _readable(followed: pd.DataFrame) -> pd.DataFrame:
    """guidance.csv with its text columns joined into row names."""
    words = followed[["term", "group", "cells"]].astype(str).agg(" ".join, axis=1)
    names = words + " (" + followed["n_cells"].map("{:,}".format) + "): " + followed["measure"]
    return followed.iloc[:, 5:].set_axis(names.str.split().str.join(" "), axis=0).round(3)


def study_dsprites(settings: Settings) -> Path:
    """The thesis's study: train without feedback, then fine-tune with and without anchors.

    Returns:
        the run folder of the last case; the others stand beside it.
    """
    if not settings.cases:
        raise UserError("--cases: give 1, 2 or both")
    source, metadata = write_squares_and_hearts(Path("DataSets") / "dSprites", settings.dsprites)
    before = VAE_framework.main(_dsprites_settings(settings, source, metadata))
    settings, tuned = dataclasses.replace(settings, control=True), None
    for case in settings.cases:
        guidance = dsprites_guidance(read_table(metadata), case, settings.delta)
        tuned = fine_tune(before, guidance, settings, like=tuned)
    return tuned


def _dsprites_settings(settings: Settings, source: Path, metadata: Path) -> VAE_framework.Settings:
    """Settings of the run without feedback: the thesis's numbers for dSprites."""
    return dataclasses.replace(
        VAE_framework.SETTINGS,
        dataset=str(source),
        metadata=str(metadata),
        label="shape",
        architecture="simple",
        latent_dim=2,
        min_logvar=-16.0,  # thousands of images must stay distinct around an anchor
        augment=False,  # orientation carries meaning
        epochs=3,
        batch_size=256,
        learning_rate=1e-3,
        decay_every=25,
        decay=0.5,
        features="none",
        metrics=("neighbours", "classifier", "axes")
        if settings.metrics is None
        else settings.metrics,
        rank_all_up_to=5000,  # rank a sample of the 12,288 images
        seed=settings.seed,
        device=settings.device,
        results=settings.results,
    )


def main(settings: Settings) -> Path:
    """Fine-tune the named run, or study dSprites; report the end in the progress file."""
    try:
        if settings.run is None:
            return study_dsprites(settings)
        folder = find_finished_run(settings.run, Path(settings.results))
        return fine_tune(folder, None, settings)
    except Exception as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        _report_end(settings, stage="failed", error=said[0])
        raise
    except KeyboardInterrupt:
        _report_end(settings, stage="cancelled")
        print("cancelled; the original run has not changed", file=sys.stderr)
        sys.exit(130)


def _report_end(settings: Settings, **step: Any) -> None:
    if settings.progress_file:
        append_step(Path(settings.progress_file), **step)


def parse() -> Settings:
    """Settings of the command line; without --run the defaults are those of the study."""
    asked = parse_options(SETTINGS)
    return asked if asked.run else parse_options(dataclasses.replace(SETTINGS, **STUDY))


if __name__ == "__main__":
    run_script(lambda: main(parse()))
