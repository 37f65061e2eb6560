"""Train a VAE on single-cell images, project the cells into its latent space and judge the
projection.

Edit the numbers of SETTINGS below, or give them on the command line, and run

    python VAE_framework.py                   # the thesis's numbers on simulated BBBC031 cells
    python VAE_framework.py --preset laptop   # the same in minutes on a laptop
    python VAE_framework.py --preset aligned  # decodes each cell aligned: discrete classes
    python VAE_framework.py --preset even     # rare states count as much as common ones
    python VAE_framework.py --dataset DataSets/MyCells --metadata my_cells.csv --label treatment
    python VAE_framework.py --resume          # go on with the newest run

A run writes results/NNNN-<data set>-<model>/; open its report.html.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
import tyro
from torch import nn
from tqdm import tqdm

from models.baselines import cached_projection
from models.losses import ELBOObjective, LikelihoodName, build_likelihood
from models.networks import IMAGE_SIZES, VAE, build_vae
from models.train_net import (
    Schedule,
    best_epoch,
    embed,
    refuse_unusable_checkpoint,
    train,
)
from quantitative_metrics.backbone_metric import Continuum, refuse_unknown_continuum
from quantitative_metrics.catalogue import GROUPS, GROUPS_HELP, Group
from quantitative_metrics.classifier_metric import ClassifierTask
from quantitative_metrics.score_figures import write_score_report
from quantitative_metrics.score_table import format_table, scores_table, write_scores
from quantitative_metrics.scores import (
    RANK_ALL_UP_TO,
    Plan,
    Scores,
    reference_spaces,
    score_latents,
)
from util import processes
from util.augmentation import TARGETS, TargetName, align
from util.cell_features import hand_crafted_features
from util.data_processing import Batches, Cells, CellSource, load_cells, split_cells
from util.devices import (
    Precision,
    describe_device,
    pick_device,
    resolve_precision,
    scoring_device,
)
from util.errors import UserError
from util.even_sampling import image_components, sampling_probabilities
from util.export import (
    ExportFormat,
    refuse_missing_packages,
    write_anndata,
    write_encoder,
    write_parquet,
)
from util.helpers import (
    plot_losses,
    plot_reconstructions,
    plot_samples,
)
from util.latents import AXES, OWN, code_columns, logvar_columns, map_columns
from util.metadata import choose_labels, read_table
from util.runs import (
    TensorBoardLog,
    create_run_folder,
    describe_run,
    differences,
    load_checkpoint,
    numbered_runs,
    read_description,
    read_json,
    script_of,
    seed_everything,
    summary_writer,
    write_json,
    write_table,
)
from util.settings import (
    ABOVE_0,
    AT_LEAST_0,
    AT_LEAST_1,
    PROVENANCE,
    RESUMES,
    Range,
    parse_settings,
    refuse_out_of_range,
    run_script,
    settings_from_json,
)
from util.streaming import make_batches, memory_budget
from util.workers import Beside


@dataclass(frozen=True)
class Settings:
    """Every number of a run. The defaults are those of the thesis."""

    dataset: str = "simulated"
    """What to learn from: `simulated`, a folder of images (flat or one subfolder per class), or an
    .npz/.npy file."""
    metadata: str | None = None
    """CSV with a row per cell; joined on Unique_ID for a folder, by row for an array file."""
    label: str | None = None
    """Column of the classes to score by; None takes GT_label, else the class folders."""
    array_key: str | None = None
    """Name of the images in an .npz; None takes the only array that can be images."""
    array_axes: str | None = None
    """Axes of that array, e.g. NHWC or NCHW; None finds the channel axis."""
    simulated_cells: int = 7387
    """Cells to draw when the data set is `simulated`; 7,387 is the size of the real matched set."""
    simulated_seed: int = 0
    """Seed of the simulator, apart from the seed of the run."""
    image_size: int = 64
    """Side of the network's input in pixels: 32, 64, 128 or 256. Larger cells are rescaled, smaller
    ones padded."""
    downsample: int = 1
    """Factor by which the network's input is downsampled (means over squares of pixels); features
    and reference spaces keep all pixels. 2 is two to three times faster."""
    valid_fraction: float = 0.15
    """Share of the cells kept for validation, drawn per class."""
    augment: bool = True
    """Turn and flip training cells at random: orientation under the microscope means nothing."""

    architecture: Literal["vanilla", "sc", "simple"] = "vanilla"
    """Blocks of the network: plain convolutions, skip connections, or the constant width used for
    dSprites."""
    base: int = 32
    """Channels of the first encoder block; the deeper ones have 2, 4, 8, 16 times as many."""
    decoder_base: int | None = None
    """The same for the decoder; None for the encoder's."""
    latent_dim: int = 3
    """Dimensions of the code. Three can be looked at and hold the two-dimensional manifold of
    BBBC031."""
    beta: float = 1.0
    """Weight of the KL term, dimensionless; 1 is the evidence lower bound."""
    free_bits: float = 0.0
    """Nats of each latent dimension that the KL term does not charge for."""
    likelihood: LikelihoodName = "bernoulli"
    """Of a pixel given the code: bernoulli, as in the thesis; gaussian with a variance per channel
    that fits the batch, so that a faint channel counts as much as a bright one; heteroscedastic
    with a variance per channel that the code tells of each cell, so that it also tells spotted from
    smooth."""
    min_logvar: float = -6.0
    """Least log-variance of a code, -20 to below 2; -6 is a standard deviation of 0.05. Where many
    cells are to be told apart in a small region, as around an anchor, it has to be lower."""
    target_view: TargetName = "none"
    """What the decoder has to make of a cell: the image seen (none), the cell with its centre in
    the middle and its long axis along the rows (aligned), or another view of it: turns (quarter
    turns and flips), free (any angle), strong (any angle, any part of it enlarged)."""

    epochs: int = 100
    """At most so many passes over the training cells."""
    batch_size: int = 64
    """Cells per training step."""
    learning_rate: float = 1e-4
    """Adam's step size for the VAE at the start."""
    decay_every: int = 40
    """Epochs between two cuts of the learning rate."""
    decay: float = 0.6
    """Factor of such a cut."""
    patience: int = 30
    """Epochs without a better validation loss after which training stops."""
    freeze_norm_after: int | None = None
    """Epochs after which the batch-norm statistics are frozen, so that a cell's code no longer
    depends on its batch; None never freezes them."""

    density_balance: float = 0.0
    """Density-balanced sampling: 0 shows each training cell once an epoch; up to 1 draws cells
    evenly over the space of the images, so that a rare state counts. No label is used."""

    features: str = "measure"
    """Hand-crafted features: `measure` them on the images, `none`, or a CSV (e.g. CellProfiler's)
    with Unique_ID."""
    feature_groups: Literal["fast", "full"] = "fast"
    """What to measure: shape and intensity (a few milliseconds a cell), or also texture,
    granularity, Zernike moments and radial distribution (10 ms and more)."""
    umap_neighbors: int = 15
    """n_neighbors of UMAP on those features."""
    umap_min_dist: float = 0.1
    """min_dist of UMAP."""
    tsne_perplexity: float = 30.0
    """Perplexity of t-SNE on those features."""
    metrics: Annotated[tuple[Group, ...], tyro.conf.arg(help=GROUPS_HELP)] = GROUPS
    progress: str | None = None
    """Column of a known continuum (dose, time, DNA content) for the backbone; None takes
    BBBC031's."""
    branch: str | None = None
    """Column of the branches of that continuum."""
    rank_all_up_to: int = RANK_ALL_UP_TO
    """Cells up to which neighbourhood ranks are exact; above, a sample of 2,000 cells is ranked
    against all."""

    seed: int = 0
    """Every random choice of the run follows it."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    results: str = "results"
    """Folder of the numbered run folders."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network; auto is bfloat16 on CUDA and float32 elsewhere. A run that is
    resumed on another device keeps its own."""
    export: tuple[ExportFormat, ...] = ()
    """Also write the run for other programs: h5ad (AnnData, for scanpy), parquet (the large
    tables), encoder (torch.export: raw pixels to the code)."""
    keep_checkpoint: bool = False
    """Keep checkpoint.pt of a finished run however large it is, so that --resume can lengthen the
    training, and guidance goes on with its critic; else one of more than 32 MB goes."""
    tensorboard: bool = False
    """Also write the terms of the loss for TensorBoard (`tensorboard --logdir results`)."""
    preset: Literal["default", "thesis", "laptop", "aligned", "even"] = "default"
    """Named set of values; an explicit option wins over it."""
    original: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """Start a new run with all settings of another: its folder or number, or `last`; options given
    here win over them."""
    resume: str | None = None
    """Go on with a run: its folder or number, alone the newest one; --epochs may lengthen it."""

    RENAMED: ClassVar = {"shrink": "downsample", "evenness": "density_balance"}
    RANGES: ClassVar = {
        "downsample": AT_LEAST_1,
        "density_balance": Range(0, 1),
        "epochs": AT_LEAST_1,
        "batch_size": Range(2),  # batch norm
        "learning_rate": ABOVE_0,
        "decay_every": AT_LEAST_1,
        "decay": Range(0, 1, without=(0,)),
        "patience": AT_LEAST_1,
        "freeze_norm_after": AT_LEAST_0,
        "beta": AT_LEAST_0,
        "free_bits": AT_LEAST_0,
        "umap_neighbors": Range(2),
        "umap_min_dist": Range(0, 1),
        "tsne_perplexity": AT_LEAST_1,
        "rank_all_up_to": AT_LEAST_0,
        "seed": Range(0, 2**32 - 1),
    }

    @property
    def model_name(self) -> str:
        """Name of the model in the run folder."""
        return {"vanilla": "VAE", "sc": "SC-VAE", "simple": "Simple-VAE"}[self.architecture]


SETTINGS = Settings()

# The decoder makes the cell as it would lie along the rows, with a variance that the code tells.
ALIGNED = {"target_view": "aligned", "likelihood": "heteroscedastic"}
# Every state counts, however few its cells, and the decoder makes the cell turned at random.
EVEN = {"density_balance": 1.0, "target_view": "turns", "likelihood": "gaussian"}
# Fewer cells, a narrow network and larger steps: every stage, in minutes on two cores.
LAPTOP = {"simulated_cells": 2500, "base": 8, "epochs": 20, "learning_rate": 1e-3}
PRESETS = {
    "default": {},
    "thesis": {},  # the defaults are the thesis's numbers
    "laptop": LAPTOP,
    "aligned": LAPTOP | ALIGNED | {"epochs": 40, "freeze_norm_after": 10},
    "even": LAPTOP | EVEN | {"base": 16, "batch_size": 32},
}

# A resumed run may run longer, or elsewhere; anything else would make it another run.
CHANGEABLE = ("epochs", "patience", "device", "keep_checkpoint", "tensorboard", "export")

EXAMPLES = 12  # cells in the figures of reconstructions and samples
FINISHED = ("settings.json", "best.pt", "latents.csv")  # what a finished run holds at least

MakeObjective = Callable[[Settings, Cells], nn.Module]


def elbo_objective(settings: Settings, cells: Cells) -> nn.Module:
    """What the Vanilla VAE and the SC-VAE minimise."""
    return ELBOObjective(
        settings.beta,
        TARGETS[settings.target_view],
        cells.scaled_padding(),
        build_likelihood(settings.likelihood, cells.images.shape[1], settings.latent_dim),
        settings.free_bits,
    )


@dataclass(frozen=True)
class Loaded:
    """What runs on the same cells share.

    Attributes:
        cells: images and table, N cells.
        label: column of the classes, or None.
        split: indices of the training and of the validation cells.
        features: (N, F) hand-crafted features, cleaned; None if the run does without, and until
            they are measured.
        notes: what was left out or decided, a line each.
    """

    cells: Cells
    label: str | None
    split: tuple[np.ndarray, np.ndarray]
    features: pd.DataFrame | None
    notes: list[str]


@dataclass(frozen=True)
class Run:
    """All that stands before a run trains.

    Attributes:
        settings: every number of the run.
        cells: images and table, N cells.
        label: column of the classes, or None.
        split: indices of the training and of the validation cells.
        features: (N, F) hand-crafted features, cleaned; None if the run does without, and until
            they are measured.
        batches: the cells on the device, or streamed to it.
        model, objective: the VAE and what it minimises; None in a finished run.
        precision: of the network while it learns.
        folder: the run folder.
        notes: what was left out or decided, a line each.
    """

    settings: Settings
    cells: Cells
    label: str | None
    split: tuple[np.ndarray, np.ndarray]
    features: pd.DataFrame | None
    batches: Batches
    model: VAE
    objective: nn.Module | None
    precision: Precision
    folder: Path
    notes: list[str]


def main(settings: Settings, make_objective: MakeObjective = elbo_objective) -> Path:
    """One run from cells to report.

    Args:
        settings: every number of the run.
        make_objective: builds what is minimised, from the settings and the cells.

    Returns:
        the run folder.

    Raises:
        UserError: a mistake in the settings or the data, in one line.
    """
    loaded = load(settings, measure=False)
    run = prepare(settings, make_objective, loaded=loaded)
    with Beside(lambda: gold_standard(settings, loaded)) as beside:
        history = learn(run, beside.check)
        processes.leave()  # of many processes, the main one goes on alone
        features, notes, baselines = beside.result()
    run = with_features(run, features, notes)
    latents, projections = project(run, baselines)
    scores = score(run, latents, projections)
    report = draw(run, history, latents, projections, scores)
    for path in export(run, latents, projections, scores):
        print(f"exported: {path}")
    print(format_table(scores_table(scores.table)))
    print(f"report: {report}")
    return run.folder


def load(settings: Settings, measure: bool = True) -> Loaded:
    """Cells, classes, split and features, as the settings ask for them.

    Args:
        settings: of a run.
        measure: features that have to be measured, too; else those are None.

    Raises:
        UserError: a mistake in the settings or the data.
    """
    refuse_out_of_range(settings, settings.RANGES)
    with processes.main_first():  # the others find its caches
        cells = load_cells(CellSource.of(settings))
        label, labels, label_notes = choose_labels(cells.table, settings.label)
        refuse_unknown_continuum(cells.table, settings.progress, settings.branch)
        split = split_cells(labels, len(cells.table), settings.valid_fraction, settings.seed)
        # Only the main process projects and scores, so the others need no features.
        wanted = processes.is_main() and (measure or settings.features != "measure")
        features, feature_notes = load_features(settings, cells) if wanted else (None, [])
    return Loaded(cells, label, split, features, cells.notes + label_notes + feature_notes)


def prepare(
    settings: Settings,
    make_objective: MakeObjective,
    guidance: Mapping[str, Any] | None = None,
    loaded: Loaded | None = None,
    folder: Path | None = None,
) -> Run:
    """Load, check and build everything, so that mistakes show before the run folder is made.

    Features that are measured beside the training are not checked here.

    Args:
        settings: every number of the run.
        make_objective: builds what is minimised, from the settings and the cells.
        guidance: of a run that is fine-tuned with feedback, what settings.json says of it.
        loaded: the cells, where several runs share them; None loads them.
        folder: of a new run, which exists; None takes the next number in the results.
    """
    device = pick_device(settings.device)
    refuse_missing_packages(settings.export)
    if settings.tensorboard:
        summary_writer()  # installed?
    loaded = loaded or load(settings)
    cells = loaded.cells
    seed_everything(settings.seed)  # of the initial weights
    model = build_vae(**network_arguments(settings, cells)).to(device)
    objective = make_objective(settings, cells).to(device)
    precision = resolve_precision(settings.precision, device)
    if settings.resume:
        precision = precision_of(Path(settings.resume), precision)
        schedule = schedule_of(settings, precision)
        refuse_unusable_checkpoint(Path(settings.resume), model, schedule)
    machine = describe_device(device) | {"precision": precision}
    notes = loaded.notes + unlike_original(settings, cells, machine)
    if processes.is_main():
        folder = open_run(settings, cells, notes, machine, guidance, folder)
    folder = processes.from_main(folder)
    return Run(
        settings=settings,
        cells=cells,
        label=loaded.label,
        split=loaded.split,
        features=loaded.features,
        batches=batches_of(settings, cells, device),
        model=model,
        objective=objective,
        precision=precision,
        folder=folder,
        notes=notes,
    )


def batches_of(settings: Settings, cells: Cells, device: torch.device) -> Batches:
    """The cells on the device, or streamed to it where they do not fit."""
    # Decided once: streamed, an epoch has another order. Processes on the CPU share its memory.
    sharing = processes.world_size() if device.type == "cpu" else 1
    budget = processes.from_main(memory_budget(device)) // sharing
    return make_batches(
        cells, device, settings.batch_size, settings.augment, budget, settings.downsample
    )


def learn(
    run: Run, on_epoch: Callable[[dict[str, Any]], None] | None = None
) -> list[dict[str, Any]]:
    """Train, or go on training; the best weights end in the model.

    Args:
        run: what learns.
        on_epoch: called in the main process with the log's line of each epoch.
    """
    settings = run.settings
    listeners = [on_epoch] if on_epoch else []
    listeners += [TensorBoardLog(run.folder)] if settings.tensorboard else []
    remember = {"settings": asdict(settings), "data": run.cells.describe()}
    probabilities = None
    if settings.density_balance > 0:
        probabilities = sampling_probabilities(
            image_components(run.cells)[run.split[0]], settings.density_balance
        )
    return train(
        run.model,
        run.objective,
        run.batches,
        run.split,
        schedule_of(settings, run.precision),
        run.folder,
        remember,
        on_epoch=lambda entry: [listen(entry) for listen in listeners],
        probabilities=probabilities,
        keep_checkpoint=settings.keep_checkpoint,
    )


def schedule_of(settings: Settings, precision: Precision) -> Schedule:
    """How long and how fast to learn, from the settings."""
    return Schedule(
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        decay_every=settings.decay_every,
        decay=settings.decay,
        patience=settings.patience,
        seed=settings.seed,
        bfloat16=precision == "bfloat16",
        freeze_norm_after=settings.freeze_norm_after,
    )


def precision_of(folder: Path, otherwise: Precision) -> Precision:
    """The arithmetic that a run began with, whatever device it goes on with."""
    return read_description(folder).get("machine", {}).get("precision", otherwise)


def load_features(settings: Settings, cells: Cells) -> tuple[pd.DataFrame | None, list[str]]:
    """Hand-crafted features, cleaned, (N, F), and notes; None if the run is to do without."""
    features, notes = hand_crafted_features(
        settings.features, cells, list(cells.table["Unique_ID"]), settings.feature_groups
    )
    if features is None:
        notes = ["no hand-crafted features: no UMAP, no t-SNE, pixels are the only reference"]
    return features, notes


def gold_standard(
    settings: Settings, loaded: Loaded
) -> tuple[pd.DataFrame | None, list[str], dict[str, np.ndarray]]:
    """What the VAE is compared with: features, notes on them, and their projections by name.

    Measured and projected in other processes, so that a training goes on beside it.
    """
    if not processes.is_main():
        return None, [], {}
    features, notes = loaded.features, []
    if settings.features == "measure":
        features, notes = load_features(settings, loaded.cells)
    return features, notes, project_features(settings, features, loaded.cells.cache, True)


def with_features(run: Run, features: pd.DataFrame | None, notes: list[str]) -> Run:
    """The run with its features; the notes on them are printed and kept in settings.json."""
    for note in notes:
        print(f"note: {note}")
    path = run.folder / "settings.json"
    run = replace(run, features=features, notes=run.notes + notes)
    write_json(path, read_json(path) | {"notes": run.notes})
    return run


def input_shape(settings: Settings, cells: Cells) -> tuple[int, int, int]:
    """(C, S', S') of a cell as the network sees it.

    Raises:
        UserError: the image cannot be reduced so, or is too small then.
    """
    size, odd = divmod(settings.image_size, settings.downsample)
    if settings.downsample > 1 and (odd or size not in IMAGE_SIZES):
        sizes = ", ".join(map(str, IMAGE_SIZES))
        raise UserError(
            f"--downsample {settings.downsample} of --image-size {settings.image_size}: what is "
            f"left must be one of {sizes} pixels"
        )
    return cells.images.shape[1], size, size


def network_arguments(settings: Settings, cells: Cells) -> dict[str, Any]:
    """Arguments of `build_vae`."""
    channels, size, _ = input_shape(settings, cells)
    return {
        "architecture": settings.architecture,
        "image_size": size,
        "channels": channels,
        "base": settings.base,
        "latent_dim": settings.latent_dim,
        "decoder_base": settings.decoder_base,
        "min_logvar": settings.min_logvar,
    }


def open_run(
    settings: Settings,
    cells: Cells,
    notes: list[str],
    machine: Mapping[str, str],
    guidance: Mapping[str, Any] | None = None,
    folder: Path | None = None,
) -> Path:
    """The run folder, new (numbered, or the one given) or resumed, with settings.json in it."""
    for note in notes:
        print(f"note: {note}")
    more = {"guidance": guidance} if guidance else {}
    described = describe_run(settings, machine, data=cells.describe(), notes=notes, **more)
    if not settings.resume:
        name = f"{cells.name}-{settings.model_name}{'-guided' if guidance else ''}"
        folder = folder or create_run_folder(Path(settings.results), name)
        print_summary(settings, cells)
    else:
        folder = Path(settings.resume)
        before = read_json(folder / "settings.json")
        if before["data"]["fingerprint"] != cells.fingerprint:
            raise UserError(
                f"{settings.dataset} is no longer what {folder} learnt from: start a new run"
            )
        if "guidance" in before:
            raise UserError(
                f"--resume {folder}: that run learnt from feedback, which is not known here; "
                "fine-tune again with human_guidance/VAE_feedback_framework.py"
            )
        described["started"] = before["started"]
    write_json(folder / "settings.json", described)
    print(f"run folder: {folder}")
    return folder


def unlike_original(settings: Settings, cells: Cells, machine: Mapping[str, str]) -> list[str]:
    """Why this run may not come out as the one whose settings it has, a line each."""
    path = Path(settings.original or "") / "settings.json"
    if not settings.original or not path.is_file():  # gone since this run began
        return []
    before = read_json(path)
    now = describe_run(settings, machine, data=cells.describe())
    return [f"not as in {settings.original}: {line}" for line in differences(before, now)]


def print_summary(settings: Settings, cells: Cells) -> None:
    """torchsummary's table of the network, made on a copy so that the run's own is untouched."""
    from torchsummary import summary

    plain = build_vae(**network_arguments(settings, cells), fast=False)
    summary(plain, input_shape(settings, cells), device="cpu")


def project(
    run: Run, baselines: Mapping[str, np.ndarray] | None = None
) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Write latents.csv: the table of the cells with every projection beside it.

    Args:
        run: its model is trained.
        baselines: what `project_features` made, where several runs share it; None makes it.

    Returns:
        that table, and for each projection the names of its coordinate columns.
    """
    mean, logvar = embed(run.model, run.batches, len(run.cells.table))
    projections = {OWN: code_columns(mean.shape[1])}
    columns = dict(zip(projections[OWN], mean.T, strict=True))
    columns |= dict(zip(logvar_columns(projections[OWN]), logvar.T, strict=True))
    if baselines is None:
        baselines = project_features(run.settings, run.features, run.cells.cache)
    for name, codes in baselines.items():
        projections[name] = map_columns(name, codes.shape[1])
        columns |= dict(zip(projections[name], codes.T, strict=True))
    latents = run.cells.table.assign(split="train")
    latents.loc[run.split[1], "split"] = "valid"
    latents = pd.concat([latents, pd.DataFrame(columns, index=latents.index)], axis=1)
    write_table(run.folder / "latents.csv", latents)
    return latents, projections


def project_features(
    settings: Settings, features: pd.DataFrame | None, cache: Path | None, apart: bool = False
) -> dict[str, np.ndarray]:
    """Name -> (N, 1 to 3) coordinates of the projections that the VAE is compared with.

    Args:
        settings: of the projections.
        features: (N, F), or None for no projection.
        cache: folder of those already made.
        apart: compute in a process of its own.
    """
    if features is None:
        return {}
    dim = min(settings.latent_dim, len(AXES))
    baselines = {}
    for name, arguments in baselines_of(settings).items():
        tqdm.write(f"{name} of {features.shape[1]} features in {dim}-D ...")
        baselines[name] = cached_projection(
            name, features, dim, settings.seed, cache, apart=apart, **arguments
        )
    return baselines


def baselines_of(settings: Settings) -> dict[str, dict[str, float]]:
    """The projections of the features that the VAE is compared with, and their parameters."""
    return {
        "UMAP": {"n_neighbors": settings.umap_neighbors, "min_dist": settings.umap_min_dist},
        "TSNE": {"perplexity": settings.tsne_perplexity},
    }


def score(run: Run, latents: pd.DataFrame, projections: dict[str, list[str]]) -> Scores:
    """Score every projection; write scores.csv, and beside it what does not fit its long form."""
    scores = score_latents(
        latents,
        projections,
        reference_spaces(run.cells, run.features),
        scoring_plan(run.settings, run.label, run.batches.device),
        known=run.cells.table,
    )
    write_scores(scores, run.cells.table["Unique_ID"], run.folder)
    return scores


def scoring_plan(settings: Settings, label: str | None, device: torch.device) -> Plan:
    """Which scores, from the settings."""
    return Plan(
        metrics=settings.metrics,
        task=ClassifierTask("accuracy", label) if label else None,
        continuum=Continuum(settings.progress, settings.branch) if settings.progress else None,
        rank_all_up_to=settings.rank_all_up_to,
        seed=settings.seed,
        device=scoring_device(device),
    )


def draw(
    run: Run,
    history: list[dict[str, Any]],
    latents: pd.DataFrame,
    projections: dict[str, list[str]],
    scores: Scores,
    figures: Sequence[tuple[str, Path]] = (),
    tables: Sequence[tuple[str, pd.DataFrame]] = (),
) -> Path:
    """Every figure of the run, latent_space.html and report.html; returns the report's path.

    Args:
        run, history, latents, projections, scores: the run and what the stages before made of it.
        figures, tables: more of them, with their captions, shown first.
    """
    folder, name = run.folder, f"{run.settings.model_name} on {run.cells.name}"
    losses = ("Loss and its terms", plot_losses(history, folder / "losses.png"))
    return write_score_report(
        folder,
        scores,
        latents,
        projections,
        cells=run.cells,
        label=run.label,
        described=read_json(folder / "settings.json"),
        titles=(f"{folder.name}: {name}", name),
        summary=summary_lines(run, history),
        notes=run.notes + scores.notes,
        figures=[*figures, losses, *draw_pictures(run)],
        tables=tables,
    )


def summary_lines(run: Run, history: list[dict[str, Any]]) -> list[str]:
    """What was run, in a few sentences for the head of the report."""
    settings, shape = run.settings, "x".join(map(str, run.cells.images.shape[2:]))
    best = history[best_epoch(history) - 1]
    parameters = sum(p.numel() for p in run.model.parameters())
    default = type(settings)()
    changed = [
        f"{field.name} {getattr(settings, field.name)}"
        for field in fields(settings)
        if field.name not in PROVENANCE
        and getattr(settings, field.name) != getattr(default, field.name)
    ]
    return [
        f"{settings.model_name} with {settings.latent_dim} latent dimensions, trained on "
        f"{len(run.split[0]):,} of {len(run.cells.table):,} cells of {run.cells.name}.",
        f"{shape} pixels, {len(run.cells.channels)} channels ({', '.join(run.cells.channels)}); "
        f"{parameters:,} parameters.",
        f"Epoch {best['epoch']} of {len(history)} had the lowest validation loss, "
        f"{best['valid']['loss']:.1f} nats per image, and is the one shown and scored; "
        f"training took {sum(entry['seconds'] for entry in history):.0f} s on "
        f"{run.batches.device}.",
        f"Preset {settings.preset}; other than the defaults: {', '.join(changed) or 'nothing'}.",
    ]


@torch.no_grad()
def draw_pictures(run: Run) -> list[tuple[str, Path]]:
    """Reconstructions of some validation cells, and images decoded from the prior."""
    model, valid = run.model.eval(), run.split[1]
    seed_everything(run.settings.seed)
    chosen = valid[np.linspace(0, len(valid) - 1, min(EXAMPLES, len(valid))).astype(int)]
    originals = run.batches.take(torch.from_numpy(chosen))
    logits, mean, _, _ = model(originals)
    samples = model.decode(torch.randn(2 * EXAMPLES, mean.shape[1]).to(mean)).sigmoid()
    words = run.cells.table[run.label].iloc[chosen].tolist() if run.label else None
    reconstructions = run.folder / "reconstructions.png"
    aligned = run.settings.target_view == "aligned"
    asked_for = align(originals, run.cells.scaled_padding()) if aligned else originals
    plot_reconstructions(
        asked_for.cpu().numpy(),
        logits.sigmoid().cpu().numpy(),
        reconstructions,
        words,
        None if run.cells.channels == ["Red", "Green", "Blue"] else run.cells.channels,
        f"Validation cells{', aligned,' if aligned else ''} and their reconstructions",
    )
    generated = plot_samples(samples.cpu().numpy(), run.folder / "samples.png")
    return [
        ("Validation cells and what the decoder makes of their codes", reconstructions),
        ("Cells decoded from draws of the prior", generated),
    ]


def export(
    run: Run, latents: pd.DataFrame, projections: dict[str, list[str]], scores: Scores
) -> list[Path]:
    """Write what `--export` asks for into the run folder; returns the files."""
    written = []
    if "h5ad" in run.settings.export:
        settings = (run.folder / "settings.json").read_text(encoding="utf-8")
        about = {"scores": scores.table, "settings": settings}
        path = run.folder / "run.h5ad"
        quality = scores.local_quality
        written.append(write_anndata(path, latents, projections, run.features, quality, about))
    if "parquet" in run.settings.export:
        written += write_parquet(run.folder)
    if "encoder" in run.settings.export:
        model = build_vae(**network_arguments(run.settings, run.cells), fast=False)
        model.load_state_dict(run.model.state_dict())
        cells, path = run.cells, run.folder / "encoder.pt2"
        downsample = run.settings.downsample
        written.append(
            write_encoder(path, model, cells.images.shape[1:], cells.low, cells.high, downsample)
        )
    return written


@dataclass(frozen=True)
class FinishedRun:
    """What a run left in its folder, for whoever goes on with it.

    Attributes:
        folder: the run folder.
        settings: every number that all models share; those of the InfoMax VAE's objective are in
            `described`.
        described: settings.json.
        latents: latents.csv, N rows.
    """

    folder: Path
    settings: Settings
    described: dict[str, Any]
    latents: pd.DataFrame

    @property
    def fingerprint(self) -> str:
        """Of the pixels that it learnt from."""
        return self.described["data"]["fingerprint"]

    def codes(self) -> np.ndarray:
        """(N, d) posterior means of its best model, float32."""
        return self.latents[code_columns(self.settings.latent_dim)].to_numpy(np.float32)

    def load(self) -> Loaded:
        """The cells as it learnt from them; those that do not fit in memory stay on the disk.

        Raises:
            UserError: they cannot be read, or are no longer what it learnt from.
        """
        loaded = load(self.settings)
        if loaded.cells.fingerprint != self.fingerprint:
            raise UserError(
                f"{self.settings.dataset} is no longer what {self.folder} learnt from: "
                "train a new run"
            )
        return loaded

    def model(self, cells: Cells, device: torch.device) -> VAE:
        """Its best model on a device, in evaluation mode.

        Raises:
            UserError: best.pt is damaged, or of another model.
        """
        path = self.folder / "best.pt"
        model = build_vae(**network_arguments(self.settings, cells)).to(device)
        try:
            model.load_state_dict(load_checkpoint(path)["model"])
        except (KeyError, RuntimeError) as error:
            raise UserError(
                f"{path} holds another model than {self.folder / 'settings.json'} says: "
                "give the folder of a finished run"
            ) from error
        return model.eval()

    def reopen(self, loaded: Loaded, device: torch.device) -> Run:
        """The run with its best model, to be drawn again; nothing in its folder changes.

        Args:
            loaded: the cells that it learnt from, with their features.
            device: of the model.
        """
        return Run(
            settings=self.settings,
            cells=loaded.cells,
            label=loaded.label,
            split=loaded.split,
            features=loaded.features,
            batches=batches_of(self.settings, loaded.cells, device),
            model=self.model(loaded.cells, device),
            objective=None,
            precision=precision_of(self.folder, "float32"),
            folder=self.folder,
            notes=self.described["notes"],
        )


def find_finished_run(asked: str, results: Path) -> Path:
    """The folder of a run: a path, a number in `results`, or `last` for the newest with a report.

    Raises:
        UserError: there is none.
    """
    if asked != "last" and (not asked.isdigit() or Path(asked).is_dir()):
        return Path(asked)
    needed = FINISHED if asked.isdigit() else (*FINISHED, "report.html")
    runs = [p for p in numbered_runs(results) if all((p / name).is_file() for name in needed)]
    if asked.isdigit():
        runs = [path for path in runs if int(path.name.split("-")[0]) == int(asked)]
    if not runs:
        which = "run" if asked == "last" else "run of that number"
        raise UserError(f"--run {asked}: no {which} in {results} is finished; give a folder")
    return runs[-1]


def open_finished_run(folder: Path, kind: type[Settings] = Settings) -> FinishedRun:
    """Read what a run of this script, or of one built on it, left; cells and model on request.

    Args:
        folder: the run folder.
        kind: class of its settings; settings that the class lacks are in `described`.

    Raises:
        UserError: the folder is not that of a finished run, or a file in it is damaged.
    """
    folder = Path(folder)
    for name in FINISHED:
        if not (folder / name).is_file():
            raise UserError(f"--run {folder}: no {name} there; give the folder of a finished run")
    described = read_description(folder)
    values = described["settings"]
    if not {"dataset", "latent_dim"} <= values.keys():
        raise UserError(f"--run {folder}: made by a script that trains no model here")
    if "fingerprint" not in (described.get("data") or {}):
        raise UserError(f"{folder / 'settings.json'} does not say what data it learnt from")
    own = described["script"] == script_of(kind)  # one built on this adds settings of its own
    settings = settings_from_json(kind, values, more=not own)
    latents = read_table(folder / "latents.csv")
    columns = code_columns(settings.latent_dim)
    if not {"Unique_ID", *columns} <= set(latents) or not np.isfinite(latents[columns]).all(None):
        raise UserError(
            f"{folder / 'latents.csv'} is damaged: expected Unique_ID and {', '.join(columns)}, "
            "with numbers for every cell"
        )
    return FinishedRun(folder, settings, described, latents)


if __name__ == "__main__":
    run_script(
        lambda: main(parse_settings(SETTINGS, PRESETS, changeable_on_resume=CHANGEABLE)), RESUMES
    )
