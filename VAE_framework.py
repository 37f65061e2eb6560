"""Train a VAE on single-cell images, project the cells into its latent space and judge the
projection.

Edit the numbers of SETTINGS below, or give them on the command line, and run

    python VAE_framework.py                   # the thesis's numbers on simulated BBBC031 cells
    python VAE_framework.py --preset laptop   # the same in minutes on a laptop
    python VAE_framework.py --preset aligned  # discrete classes: decodes each cell aligned
    python VAE_framework.py --preset even     # rare states: draws cells evenly over all states
    python VAE_framework.py --dataset DataSets/MyCells --metadata my_cells.csv --label treatment
    python VAE_framework.py --resume          # continue the newest run

A run writes results/NNNN-<data set>-<model>/; open its report.html. The first half of this file is
the page of settings, one visible class with all numbers; the stages of a run follow.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
import tyro
from torch import nn

from models.baselines import cached_projections
from models.finished_run import FinishedRun, read_finished_run
from models.losses import ELBOObjective, LikelihoodName, build_likelihood
from models.networks import VAE, build_vae, network_arguments
from models.train_net import (
    Schedule,
    describe_training,
    embed,
    refuse_unusable_checkpoint,
    signs_of_collapse,
    train,
    why_ended,
)
from models.views import choose_viewed, embed_views, two_views
from quantitative_metrics.agreement import Views
from quantitative_metrics.backbone_metric import Continuum, refuse_unknown_continuum
from quantitative_metrics.catalogue import GROUPS, GROUPS_HELP, Group
from quantitative_metrics.classifier_metric import ClassifierTask
from quantitative_metrics.options import RANK_ALL_UP_TO
from quantitative_metrics.score_figures import write_score_report
from quantitative_metrics.score_table import format_table, scores_table, write_scores
from quantitative_metrics.scores import (
    Plan,
    Scores,
    reference_spaces,
    score_latents,
)
from quantitative_metrics.view_information import LEAST_CELLS, view_information
from util import processes
from util.augmentation import TARGETS, TargetName, align
from util.cell_features import hand_crafted_features, refuse_identical
from util.crops import Fit
from util.data_processing import Batches, Cells, CellSource, load_cells
from util.devices import (
    Precision,
    describe_device,
    pick_device,
    resolve_precision,
    scoring_device,
)
from util.errors import UserError
from util.even_sampling import image_components, sampling_probabilities
from util.export import ExportFormat, RawPixelEncoder, export_run, refuse_missing_packages
from util.fitting import INPUT_SIZES
from util.helpers import draw_pictures, plot_losses
from util.image_files import Projection
from util.latents import AXES, OWN, table_of_run
from util.metadata import choose_labels, refuse_missing_column
from util.runs import (
    claim_run,
    create_run_folder,
    describe_run,
    go_on,
    read_description,
    read_json,
    seed_everything,
    unlike_original,
    write_json,
    write_table,
)
from util.settings import (
    ABOVE_0,
    AT_LEAST_0,
    AT_LEAST_1,
    RESUMES,
    Range,
    changed_settings,
    notes_for_user,
    parse_settings,
    refuse_out_of_range,
    run_script,
    take_fields,
)
from util.splitting import group_labels, split_cells, splitting_note
from util.streaming import make_batches
from util.tensorboard_log import TensorBoardLog, summary_writer
from util.workers import Beside


@dataclass(frozen=True)
class Settings:
    """Every number of a run. The defaults are those of the thesis, but for `fit`."""

    dataset: str = "simulated"
    """What to learn from: `simulated`, a folder of images (flat or one subfolder per class), or an
    .npz/.npy file."""
    metadata: str | None = None
    """Table with a row per cell: CSV, Parquet or .h5ad; joined on Unique_ID, and for an array file
    without matching ids by row."""
    label: str | None = None
    """Column of the classes to score by; None takes GT_label, else the class folders."""
    order: tuple[str, ...] = ()
    """Classes in the order of tables, legends and colours, e.g. `DMSO "2 nM" "10 nM"`; the others
    follow in natural order."""
    array_key: str | None = None
    """Name of the images in an .npz; None takes the only array that can be images."""
    array_axes: str | None = None
    """Axes of that array, e.g. NHWC or NCHW; None finds the channel axis."""
    image_axes: str | None = None
    """Axes of every TIFF, e.g. CYX, YXC or ZYX, where the files do not name them; None believes the
    files."""
    project_z: Projection | None = None
    """How focal planes become one image: `max` or `mean`; None refuses images of several planes."""
    channels: tuple[str, ...] = ()
    """Names of the channels in their order, e.g. `DNA Actin`; none takes those of the files."""
    subset: str | None = None
    """Part of the data set: a number of cells, shared out over the classes and always the same
    ones, or a table whose Unique_ID names the cells."""
    simulated_cells: int = 7387
    """Cells to draw when the data set is `simulated`; 7,387 is the size of the real matched set."""
    simulated_seed: int = 0
    """Seed of the simulator, apart from the seed of the run."""
    image_size: int | None = 64
    """Side of the network's input in pixels: 32, 64, 128 or 256. Smaller cells are padded; see
    `fit` for larger ones. None takes the smallest that holds 19 of 20 cells."""
    fit: Fit | None = None
    """How cells larger than that are brought to it: `scale` rescales all cells by one factor, so
    that sizes and shapes stay comparable; `squeeze` brings each larger cell alone to the square,
    as in the thesis. None squeezes the `simulated` cells and scales all others. Features are
    measured on the original pixels."""
    downsample: int | None = 1
    """Factor by which the network's input is downsampled (means over squares of pixels); features
    and reference spaces keep all pixels. A factor of 2 trains two to three times faster. None
    downsamples to 32 pixels."""
    valid_fraction: float = 0.15
    """Share of the cells kept for validation, drawn per class."""
    augment: bool = True
    """Rotate and flip training cells at random: orientation under the microscope means nothing."""

    architecture: Literal["vanilla", "sc", "simple"] = "vanilla"
    """Blocks of the network: plain convolutions, skip connections, or the constant width used for
    dSprites."""
    base: int = 32
    """Channels of the first encoder block; the deeper ones have 2, 4, 8, 16 times as many."""
    decoder_base: int | None = None
    """The same for the decoder; None for the encoder's."""
    latent_dim: int = 3
    """Dimensions of the latent code. Three can be plotted, and hold the two-dimensional manifold
    of BBBC031."""
    beta: float = 1.0
    """Weight of the KL term, dimensionless; 1 is the evidence lower bound."""
    free_bits: float = 0.0
    """Nats that each latent dimension may hold at no cost in the KL term."""
    likelihood: LikelihoodName = "bernoulli"
    """Likelihood of a pixel given the code: bernoulli, as in the thesis; gaussian, with one
    variance per channel, fitted to the batch, so that a faint channel counts as much as a bright
    one; heteroscedastic, with a variance per channel and cell, predicted from the code, so that the
    code also separates spotted from smooth cells."""
    min_logvar: float = -6.0
    """Smallest log-variance of a posterior, -20 to below 2; -6 is a standard deviation of 0.05.
    Lower it where many cells have to be told apart in a small region, as around an anchor."""
    target_view: TargetName = "none"
    """What the decoder has to reconstruct: the image itself (none), the cell centred with its long
    axis along the rows (aligned), or another view of the cell: turns (quarter turns and flips),
    free (any angle), strong (any angle, any part enlarged)."""

    epochs: int = 100
    """Passes over the training cells, at most."""
    minutes: float | None = None
    """Train until it has learnt, but at most this many minutes: until neither the validation loss
    nor the view information improves. `decay_every` and `patience` then play no part, and where the
    minutes end the training, so does the speed of the machine. None trains for `epochs`."""
    batch_size: int = 64
    """Cells per training step."""
    learning_rate: float = 1e-4
    """Adam's initial step size for the VAE."""
    decay_every: int = 40
    """Epochs after which the learning rate is cut, again and again."""
    decay: float = 0.6
    """Factor by which each cut multiplies the learning rate."""
    patience: int = 30
    """Training stops after this many epochs without a better validation loss."""
    freeze_norm_after: int | None = None
    """Freeze the batch-norm statistics after this many epochs, so that a cell's code no longer
    depends on its batch; None never freezes them."""

    density_balance: float = 0.0
    """Density-balanced sampling: 0 shows each training cell once per epoch; 1 draws cells evenly
    over the space of the images, so that rare states count. No label is used."""

    features: str = "measure"
    """Hand-crafted features: `measure` them on the images, `none`, or a table (CellProfiler's)
    with Unique_ID."""
    feature_groups: Literal["fast", "full"] = "fast"
    """What to measure: shape and intensity (a few milliseconds per cell), or also texture,
    granularity, Zernike moments and radial distribution (10 ms per cell and more)."""
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
    replicate: str | None = None
    """Column of what cells share that should look alike (well, site, donor); scored without
    labels."""
    group: str | None = None
    """Column of cells that stay together in every split and resample (well, plate, donor); None
    splits cells one by one."""
    rank_all_up_to: int = RANK_ALL_UP_TO
    """Up to this many cells, neighbourhood ranks are exact; above, a sample of 2,000 cells is
    ranked against all."""

    seed: int = 0
    """Seed of every random choice of the run."""
    device: str = "auto"
    """Device that trains: auto, cpu, cuda, cuda:1, mps."""
    results: str = "results"
    """Folder of the numbered run folders."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network; auto is bfloat16 on CUDA and float32 elsewhere. A resumed run
    keeps its precision, whatever the device."""
    export: tuple[ExportFormat, ...] = ()
    """Also write the run for other programs: h5ad (AnnData, for scanpy), parquet (the large
    tables), encoder (torch.export: from raw pixels to the code)."""
    keep_checkpoint: bool = False
    """Keep checkpoint.pt of a finished run whatever its size, so that --resume can lengthen the
    training and guidance starts from its critic; otherwise one above 32 MB is deleted."""
    tensorboard: bool = False
    """Also log the loss and its terms for TensorBoard (`tensorboard --logdir results`)."""
    preset: Literal["default", "thesis", "laptop", "aligned", "even"] = "default"
    """Named set of values; explicit options, and numbers edited above, override it."""
    original: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """Start a new run with the settings of another one (its folder, its number, or `last`);
    explicit options override them."""
    resume: str | None = None
    """Continue a run (its folder or number; without a value the newest); --epochs may lengthen
    it."""

    BEFORE: ClassVar = CellSource.BEFORE
    PRESETS_ELSEWHERE: ClassVar = dict.fromkeys(("views", "auto"), "InfoMAX_VAE_framework.py")
    RENAMED: ClassVar = {"shrink": "downsample", "evenness": "density_balance"}
    # The numbers above as they came, where a preset has another: if one above was edited since, it
    # wins over the preset. Edit those above, not these.
    SHIPPED: ClassVar = {
        "simulated_cells": 7387,
        "image_size": 64,
        "downsample": 1,
        "minutes": None,
        "keep_checkpoint": False,
        "fit": None,
        "base": 32,
        "likelihood": "bernoulli",
        "target_view": "none",
        "epochs": 100,
        "batch_size": 64,
        "learning_rate": 1e-4,
        "freeze_norm_after": None,
        "density_balance": 0.0,
    }
    RANGES: ClassVar = {
        "downsample": AT_LEAST_1,
        "density_balance": Range(0, 1),
        "epochs": AT_LEAST_1,
        "minutes": ABOVE_0,
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

# The decoder reconstructs the cell aligned, with a variance predicted from the code.
ALIGNED = {"target_view": "aligned", "likelihood": "heteroscedastic"}
# Every state counts, however few its cells, and the decoder reconstructs a randomly turned view.
EVEN = {"density_balance": 1.0, "target_view": "turns", "likelihood": "gaussian"}
# Fewer cells, a narrower network and larger steps: all stages in minutes on two cores.
LAPTOP = {"simulated_cells": 2500, "base": 8, "epochs": 20, "learning_rate": 1e-3}
PRESETS = {
    "default": {},
    "thesis": {"fit": "squeeze"},  # of any cells; all other defaults are the thesis's numbers
    "laptop": LAPTOP,
    "aligned": LAPTOP | ALIGNED | {"epochs": 40, "freeze_norm_after": 10},
    "even": LAPTOP | EVEN | {"base": 16, "batch_size": 32},
}

# A resumed run may train longer, or elsewhere; any other change would make it another run.
CHANGEABLE = (
    "epochs",
    "minutes",
    "order",
    "patience",
    "device",
    "keep_checkpoint",
    "tensorboard",
    "export",
)

VIEWED = 256  # validation cells whose reconstructions are compared with each other
EXAMPLES = 12  # cells in the figures of reconstructions and samples

MakeObjective = Callable[[Settings, Cells], nn.Module]


def elbo_objective(settings: Settings, cells: Cells) -> nn.Module:
    """What the Vanilla VAE and the SC-VAE minimise."""
    return ELBOObjective(**elbo_arguments(settings, cells))


def elbo_arguments(settings: Settings, cells: Cells) -> dict[str, Any]:
    """Arguments of `ELBOObjective`, and of the objectives that are built on it."""
    channels = cells.images.shape[1]
    return {
        "beta": settings.beta,
        "target_view": TARGETS[settings.target_view],
        "fill": cells.scaled_padding(),
        "likelihood": build_likelihood(settings.likelihood, channels, settings.latent_dim),
        "free_bits": settings.free_bits,
    }


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
    """A run that is ready to train.

    Attributes:
        settings: every number of the run.
        loaded: its cells, with the notes on this run.
        batches: the cells on the device, or streamed to it.
        model, objective: the VAE and what it minimises; None in a run that is finished.
        precision: of the network while it trains.
        folder: the run folder.
        lock: keeps other processes from resuming the run as long as this object lives.
    """

    settings: Settings
    loaded: Loaded
    batches: Batches
    model: VAE
    objective: nn.Module | None
    precision: Precision
    folder: Path
    lock: object = None


def main(
    settings: Settings,
    make_objective: MakeObjective = elbo_objective,
    figures: Sequence[tuple[str, Path]] = (),
    tables: Sequence[tuple[str, pd.DataFrame]] = (),
) -> Path:
    """One run from cells to report.

    Args:
        settings: every number of the run.
        make_objective: builds what is minimised, from the settings and the cells.
        figures, tables: more of them, with their captions, shown first in the report.

    Returns:
        the run folder.

    Raises:
        UserError: a mistake in the settings or the data, in one line.
    """
    loaded = load(settings, measure=False)
    settings = with_sizes(settings, loaded.cells)
    run = prepare(settings, make_objective, loaded=loaded)
    with Beside(lambda: gold_standard(settings, loaded)) as beside:
        history = learn(run, beside.check)
        processes.leave()  # of many processes, the main one goes on alone
        features, notes, baselines = beside.result()
    return show(with_features(run, features, notes), history, baselines, figures, tables)


def show(
    run: Run,
    history: list[dict[str, Any]],
    baselines: Mapping[str, np.ndarray],
    figures: Sequence[tuple[str, Path]] = (),
    tables: Sequence[tuple[str, pd.DataFrame]] = (),
) -> Path:
    """Project, score, draw and export a trained run; returns its folder.

    Args:
        run, history: the run and what its training returned.
        baselines: of `project_features`.
        figures, tables: more of them, with their captions, shown first in the report.
    """
    latents, projections = project(run, baselines)
    scores = score(run, latents, projections)
    report = draw(run, history, latents, projections, scores, figures, tables)
    for path in export(run, latents, projections, scores):
        print(f"exported: {path}")
    print(format_table(scores_table(scores.table)))
    print(f"report: {report}")
    return run.folder


def load(settings: Settings, measure: bool = True) -> Loaded:
    """Cells, classes, split and features, as the settings ask for them.

    Args:
        settings: of a run.
        measure: also measure the features, where the settings ask for it; else those are None.

    Raises:
        UserError: a mistake in the settings or the data.
    """
    refuse_out_of_range(settings, settings.RANGES)
    with processes.main_first():  # the others find its caches
        cells = load_cells(take_fields(CellSource, settings))
        if settings.features == "measure":  # it is done beside the training, which would be in vain
            refuse_identical(cells.images)
        label, labels, label_notes = choose_labels(cells.table, settings.label, settings.order)
        refuse_unknown_continuum(cells.table, settings.progress, settings.branch)
        if settings.replicate is not None:
            refuse_missing_column(cells.table, "replicate", settings.replicate)
        groups = group_labels(cells.table, settings.group)
        split = split_cells(
            labels, len(cells.table), settings.valid_fraction, settings.seed, groups
        )
        # Only the main process projects and scores, so the others need no features.
        wanted = processes.is_main() and (measure or settings.features != "measure")
        features, feature_notes = load_features(settings, cells) if wanted else (None, [])
    return Loaded(
        cells=cells,
        label=label,
        split=split,
        features=features,
        notes=notes_for_user(
            [*cells.notes, *label_notes, splitting_note(cells.table, settings.group)]
            + feature_notes
        ),
    )


def load_features(settings: Settings, cells: Cells) -> tuple[pd.DataFrame | None, list[str]]:
    """Hand-crafted features, cleaned, (N, F), and notes; None if the run does without."""
    features, notes = hand_crafted_features(
        settings.features, cells, list(cells.table["Unique_ID"]), settings.feature_groups
    )
    if features is None:
        notes = ["no hand-crafted features: no UMAP, no t-SNE, pixels are the only reference"]
    return features, notes


def with_sizes(settings: Settings, cells: Cells) -> Settings:
    """The settings with the sizes that the cells ask for, where they are None."""
    side, downsample = cells.images.shape[-1], settings.downsample
    if downsample is None:
        downsample = side // INPUT_SIZES[0]
    return replace(settings, image_size=side, downsample=downsample)


def load_again(run: FinishedRun) -> Loaded:
    """The cells of a finished run, as it learnt from them.

    Raises:
        UserError: they cannot be read, or have changed since.
    """
    loaded = load(run.settings)
    if loaded.cells.fingerprint != run.fingerprint:
        raise UserError(
            f"{run.settings.dataset} is no longer what {run.folder} learnt from: train a new run"
        )
    return loaded


def prepare(
    settings: Settings,
    make_objective: MakeObjective,
    guidance: Mapping[str, Any] | None = None,
    loaded: Loaded | None = None,
    folder: Path | None = None,
) -> Run:
    """Load, check and build everything, so that mistakes show before the run folder is made.

    Features that are measured while the model trains are not checked here.

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
    settings = with_sizes(settings, cells)
    model, objective = build(settings, make_objective, cells, device)
    precision = resolve_precision(settings.precision, device)
    lock = None
    if settings.resume:
        lock = claim_run(Path(settings.resume))
        resumed = read_description(Path(settings.resume))
        precision = resumed.get("machine", {}).get("precision", precision)  # on any device
        schedule = schedule_of(settings, precision)
        refuse_unusable_checkpoint(Path(settings.resume), model, objective, schedule)
    machine = describe_device(device) | {"precision": precision}
    more = {"guidance": guidance} if guidance else {}
    described = describe_run(settings, machine, data=cells.describe(), notes=[], **more)
    notes = described["notes"] = loaded.notes + unlike_original(settings.original, described)
    if processes.is_main():
        folder = open_run(settings, cells, described, folder)
        lock = lock or claim_run(folder)
    return Run(
        settings=settings,
        loaded=replace(loaded, notes=notes),
        batches=make_batches(
            cells, device, settings.batch_size, settings.augment, downsample=settings.downsample
        ),
        model=model,
        objective=objective,
        precision=precision,
        folder=processes.from_main(folder),
        lock=lock,
    )


def build(
    settings: Settings, make_objective: MakeObjective, cells: Cells, device: torch.device
) -> tuple[VAE, nn.Module]:
    """The model with its first weights, and what it minimises."""
    seed_everything(settings.seed)
    model = build_vae(**network_arguments(settings, cells.images.shape[1])).to(device)
    return model, make_objective(settings, cells).to(device)


def open_run(
    settings: Settings, cells: Cells, described: dict[str, Any], folder: Path | None
) -> Path:
    """The run folder, new (numbered, or the one given) or resumed, with settings.json in it."""
    for note in described["notes"]:
        print(f"note: {note}")
    if settings.resume:
        folder = Path(settings.resume)
        described = go_on(folder, described)
    else:
        guided = "-guided" if "guidance" in described else ""
        name = f"{cells.name}-{settings.model_name}{guided}"
        folder = folder or create_run_folder(Path(settings.results), name)
        print_summary(settings, cells.images.shape[1])
    write_json(folder / "settings.json", described)
    print(f"run folder: {folder}")
    return folder


def print_summary(settings: Settings, channels: int) -> None:
    """torchsummary's table of the network, made on a copy so that the run's own is untouched."""
    from torchsummary import summary

    arguments = network_arguments(settings, channels)
    side = arguments["image_size"]
    summary(build_vae(**arguments, fast=False), (channels, side, side), device="cpu")


def learn(
    run: Run, on_epoch: Callable[[dict[str, Any]], None] | None = None
) -> list[dict[str, Any]]:
    """Train, or go on training; the best weights end in the model.

    Args:
        run: what is trained.
        on_epoch: called in the main process with the log's line of each epoch.
    """
    settings, loaded = run.settings, run.loaded
    listeners = [on_epoch] if on_epoch else []
    listeners += [TensorBoardLog(run.folder)] if settings.tensorboard else []
    probabilities = None
    if settings.density_balance > 0:
        points = image_components(loaded.cells)[loaded.split[0]]
        probabilities = sampling_probabilities(points, settings.density_balance)
    return train(
        run.model,
        run.objective,
        run.batches,
        loaded.split,
        schedule=schedule_of(settings, run.precision),
        folder=run.folder,
        remember={"settings": asdict(settings), "data": loaded.cells.describe()},
        on_epoch=lambda entry: [listen(entry) for listen in listeners],
        probabilities=probabilities,
        keep_checkpoint=settings.keep_checkpoint,
        judge=judge_views(run) if settings.minutes is not None else None,
    )


def judge_views(run: Run) -> Callable[[nn.Module], float]:
    """Measures the view information of the run's model on its validation cells, in nats.

    Raises:
        UserError: these are too few to measure it.
    """
    cells, settings = run.loaded.cells, run.settings
    rows = choose_viewed(run.loaded.split[1], settings.seed)
    if len(rows) < LEAST_CELLS:
        raise UserError(
            f"{len(rows)} validation cells are too few to see whether a training has learnt "
            f"(`minutes`): {LEAST_CELLS} are needed; raise `valid_fraction`, or train for `epochs`"
        )
    views = list(two_views(cells, rows, settings.seed))

    def judge(model: nn.Module) -> float:
        codes = embed_views(model, views, run.batches.device, settings.downsample)
        return view_information(*codes, seed=settings.seed).value

    return judge


def schedule_of(settings: Settings, precision: Precision) -> Schedule:
    """How long and how fast to train, from the settings."""
    return take_fields(Schedule, settings, bfloat16=precision == "bfloat16")


def gold_standard(
    settings: Settings, loaded: Loaded
) -> tuple[pd.DataFrame | None, list[str], dict[str, np.ndarray]]:
    """What the VAE is compared with: features, notes on them, and their projections by name.

    Measured and projected in other processes, so that the training goes on meanwhile.
    """
    if not processes.is_main():
        return None, [], {}
    features, notes = loaded.features, []
    if settings.features == "measure":
        features, notes = load_features(settings, loaded.cells)
    return features, notes, project_features(settings, features, loaded.cells.cache, apart=True)


def project_features(
    settings: Settings, features: pd.DataFrame | None, cache: Path | None, apart: bool = False
) -> dict[str, np.ndarray]:
    """Name -> (N, 1 to 3) coordinates of the projections that the VAE is compared with.

    Args:
        settings: of the projections.
        features: (N, F), or None for no projection.
        cache: folder of earlier projections.
        apart: compute in a process of its own.
    """
    if features is None:
        return {}
    dim, wanted = min(settings.latent_dim, len(AXES)), baselines_of(settings)
    return cached_projections(
        features, wanted, dim=dim, seed=settings.seed, cache_dir=cache, apart=apart
    )


def baselines_of(settings: Settings) -> dict[str, dict[str, float]]:
    """The projections of the features that the VAE is compared with, and their parameters."""
    return {
        "UMAP": {"n_neighbors": settings.umap_neighbors, "min_dist": settings.umap_min_dist},
        "TSNE": {"perplexity": settings.tsne_perplexity},
    }


def with_features(run: Run, features: pd.DataFrame | None, notes: list[str]) -> Run:
    """The run with its features, whose names are kept in settings.json; notes are also printed."""
    run = with_notes(replace(run, loaded=replace(run.loaded, features=features)), notes)
    if features is not None:
        path = run.folder / "settings.json"
        write_json(path, read_json(path) | {"features": features.columns.tolist()})
    return run


def with_notes(run: Run, notes: list[str]) -> Run:
    """The run with more notes, which are printed and kept in settings.json."""
    for note in notes_for_user(notes):
        print(f"note: {note}")
    loaded = replace(run.loaded, notes=notes_for_user(run.loaded.notes + notes))
    path = run.folder / "settings.json"
    write_json(path, read_json(path) | {"notes": loaded.notes})
    return replace(run, loaded=loaded)


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
    loaded = run.loaded
    if baselines is None:
        baselines = project_features(run.settings, loaded.features, loaded.cells.cache)
    latents, projections = table_of_run(
        loaded.cells.table,
        loaded.split[1],
        *embed(run.model, run.batches, len(loaded.cells.table)),
        maps=baselines,
    )
    write_table(run.folder / "latents.csv", latents)
    return latents, projections


def score(run: Run, latents: pd.DataFrame, projections: dict[str, list[str]]) -> Scores:
    """Score every projection; write scores.csv, and beside it what does not fit its long form."""
    loaded = run.loaded
    scores = score_latents(
        latents,
        projections,
        reference_spaces(loaded.cells, loaded.features),
        scoring_plan(run.settings, loaded.label, run.batches.device),
        known=loaded.cells.table,
        views=views_of(run) if "agreement" in run.settings.metrics else None,
    )
    write_scores(scores, loaded.cells.table["Unique_ID"], run.folder)
    return scores


def views_of(run: Run) -> Views:
    """Codes of two views of the validation cells, for the score view information."""
    cells = run.loaded.cells
    rows = choose_viewed(run.loaded.split[1], run.settings.seed)
    codes = embed_views(
        run.model, two_views(cells, rows), run.batches.device, run.settings.downsample
    )
    return Views(rows, {OWN: codes})


def scoring_plan(settings: Settings, label: str | None, device: torch.device) -> Plan:
    """Which scores, from the settings."""
    return Plan(
        metrics=settings.metrics,
        task=ClassifierTask("accuracy", label) if label else None,
        continuum=Continuum(settings.progress, settings.branch) if settings.progress else None,
        rank_all_up_to=settings.rank_all_up_to,
        replicate=settings.replicate,
        group=settings.group,
        order=settings.order,
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
    folder, loaded = run.folder, run.loaded
    name = f"{run.settings.model_name} on {loaded.cells.name}"
    losses = ("Loss and its terms", plot_losses(history, folder / "losses.png"))
    return write_score_report(
        folder,
        scores,
        latents,
        projections,
        cells=loaded.cells,
        label=loaded.label,
        described=read_json(folder / "settings.json"),
        titles=(f"{folder.name}: {name}", name),
        summary=summary_lines(run, history),
        notes=notes_for_user(training_warnings(run, history) + loaded.notes + scores.notes),
        figures=[*figures, losses, *decode_examples(run)],
        tables=tables,
    )


def summary_lines(run: Run, history: list[dict[str, Any]]) -> list[str]:
    """What was run, in a few sentences for the head of the report."""
    settings, cells = run.settings, run.loaded.cells
    side = "x".join(map(str, cells.images.shape[2:]))
    parameters = sum(p.numel() for p in run.model.parameters())
    return [
        f"{settings.model_name} with {settings.latent_dim} latent dimensions, trained on "
        f"{len(run.loaded.split[0]):,} of {len(cells.table):,} cells of {cells.name}.",
        f"{side} pixels, {len(cells.channels)} channels ({', '.join(cells.channels)}); "
        f"{parameters:,} parameters.",
        describe_training(history, run.batches.device),
        f"Preset {settings.preset}; settings that differ from the defaults: "
        f"{', '.join(changed_settings(settings)) or 'none'}.",
    ]


@torch.no_grad()
def training_warnings(run: Run, history: list[dict[str, Any]]) -> list[str]:
    """Whether the model is good enough to be looked at; why the training ended comes last."""
    valid = run.loaded.split[1]
    rows = valid[np.linspace(0, len(valid) - 1, min(VIEWED, len(valid))).astype(int)]
    cells = run.batches.take(torch.from_numpy(rows))
    drawn = run.model.eval().decode(run.model.encode(cells)[0]).sigmoid()
    why = why_ended(history, schedule_of(run.settings, run.precision), len(run.loaded.split[0]))
    return [*signs_of_collapse(history, cells, drawn), why]


@torch.no_grad()
def decode_examples(run: Run) -> list[tuple[str, Path]]:
    """Pictures of some validation cells and their reconstructions, and of draws of the prior."""
    settings, cells, label = run.settings, run.loaded.cells, run.loaded.label
    seed_everything(settings.seed)
    valid = run.loaded.split[1]
    chosen = valid[np.linspace(0, len(valid) - 1, min(EXAMPLES, len(valid))).astype(int)]
    originals = run.batches.take(torch.from_numpy(chosen))
    logits, mean, _, _ = run.model.eval()(originals)
    samples = run.model.decode(torch.randn(2 * EXAMPLES, mean.shape[1]).to(mean)).sigmoid()
    aligned = settings.target_view == "aligned"
    if aligned:
        originals = align(originals, cells.scaled_padding())
    return draw_pictures(
        run.folder,
        *(images.cpu().numpy() for images in (originals, logits.sigmoid(), samples)),
        labels=cells.table[label].iloc[chosen].tolist() if label else None,
        channels=cells.channels,
        aligned=aligned,
    )


def export(
    run: Run, latents: pd.DataFrame, projections: dict[str, list[str]], scores: Scores
) -> list[Path]:
    """Write the files that the setting `export` asks for into the run folder; returns them."""
    settings, cells = run.settings, run.loaded.cells
    shape = cells.images.shape[1:]

    def encoder() -> RawPixelEncoder:
        model = build_vae(**network_arguments(settings, shape[0]), fast=False)
        model.load_state_dict(run.model.state_dict())
        return RawPixelEncoder(model, cells.low, cells.high, settings.downsample)

    return export_run(
        settings.export,
        run.folder,
        latents,
        projections,
        features=run.loaded.features,
        scores=scores.table,
        local_quality=scores.local_quality,
        encoder=encoder,
        shape=shape,
    )


def open_finished_run(folder: Path) -> FinishedRun:
    """A run of this script, or of one built on it; `load_again` loads its cells.

    Raises:
        UserError: the folder is not that of a finished run, or a file in it is damaged.
    """
    return read_finished_run(folder, Settings)


def reopen(finished: FinishedRun, loaded: Loaded, device: torch.device) -> Run:
    """A finished run with its best model, to be drawn; nothing in its folder changes.

    Args:
        finished: read with the class of its own settings.
        loaded: the cells that it learned from, with their features.
        device: of the model.
    """
    settings, cells = finished.settings, loaded.cells
    return Run(
        settings=settings,
        loaded=replace(loaded, notes=finished.described["notes"]),
        batches=make_batches(
            cells, device, settings.batch_size, settings.augment, downsample=settings.downsample
        ),
        model=finished.model(cells, device),
        objective=None,
        precision=finished.described["machine"].get("precision", "float32"),
        folder=finished.folder,
    )


if __name__ == "__main__":
    run_script(
        lambda: main(parse_settings(SETTINGS, PRESETS, changeable_on_resume=CHANGEABLE)), RESUMES
    )
