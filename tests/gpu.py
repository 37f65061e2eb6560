"""Is everything right on a GPU, and how fast is it? One command for the day one is at hand.

    python tests/gpu.py                              # all steps, at most 9 minutes on an H200
    python tests/gpu.py --small                      # the same on little data, a first look
    python tests/gpu.py --out gpu.jsonl              # the lines into a file too
    python tests/gpu.py --steps decoders speed_64    # some steps only
    python tests/gpu.py --device cpu                 # small; the tests run it so

A step prints one line of JSON: `step`; `ok`, false where a check failed or an error ended it, null
where it was skipped; `seconds`; `device`; `peak_mib`, allocated by PyTorch on the GPU, or on the
CPU the largest resident memory of the process so far; and its numbers, which the docstring of its
function explains. Results come first, speed second. Steps run in a process of their own: what
raises, hangs or dies is one step, and the next begins in a new process. The last line is the total;
the exit code is 1 if a step is not ok.

Beyond torch, numpy, scipy, pandas, scikit-learn, scikit-image, tifffile, matplotlib, tqdm, filelock
and joblib, `kill_resume` needs tyro (with docstring_parser and typeguard), torchsummary and plotly,
the grids optuna (with colorlog) as well, and `torchdr` TorchDR. A missing package fails its own
steps alone. For a machine without a network fetch them first, 11 MiB of pure Python, into wheels/,
which `echo /wheels/ >> .git/info/exclude` ignores; there, leave the versions of its image alone:

    python -m pip download --no-deps --only-binary=:all: --python-version 3.12 -d wheels \\
        tyro==1.0.17 docstring_parser typeguard torchsummary==1.5.1 plotly==7.1.0 \\
        optuna==5.0.0 colorlog torchdr==0.5
    python -m pip install --no-index --no-deps wheels/*.whl
"""

import argparse
import contextlib
import gc
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "benchmarks")]

BUDGET = 500  # s for all steps; with what starts and stops around them 9 minutes
START = 120  # s for a process to import PyTorch
LAST_WORDS = 3  # s for a process to end by itself
ROUNDING = 1e-3  # relative, of a gradient; float32 stays far below it, TF32 far above
LOSS_ROUNDING = 1e-4  # relative, of a loss
PACKAGES = ("numpy", "scipy", "pandas", "scikit-learn", "scikit-image", "matplotlib")
THESIS_CELLS = 7387
THESIS_MODELS, THESIS_EPOCHS = 36, 150
LARGEST_SET = 310_194  # cells of the Horvath set


class Skipped(Exception):
    """Why a step is left out."""


@dataclass(frozen=True)
class Context:
    """What a step is told.

    Attributes:
        device: where it is to run.
        small: on little data.
        folder: empty, for its files.
        until: time.monotonic() at which it is stopped.
    """

    device: torch.device
    small: bool
    folder: Path
    until: float = field(default_factory=lambda: time.monotonic() + BUDGET)

    @property
    def on_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def left(self) -> float:
        """Seconds until the step is stopped."""
        return self.until - time.monotonic()

    def size(self, full: int, small: int) -> int:
        return small if self.small else full


@dataclass(frozen=True)
class Step:
    """A function that does something and returns its numbers, and `ok` where it checks something.

    Attributes:
        run: raises `Skipped` where it cannot be done here.
        seconds: after which it is stopped on a GPU.
        small: whether it is done on little data too.
    """

    run: Callable[[Context], dict[str, Any]]
    seconds: float
    small: bool = True


STEPS: dict[str, Step] = {}


def step(seconds: float, **each: Sequence[Any]) -> Callable[[Callable], Callable]:
    """Enter a function into `STEPS`; with a list of values of an argument, one step for each.

    On little data the first of them is enough.
    """

    def enter(function: Callable) -> Callable:
        if not each:
            STEPS[function.__name__] = Step(function, seconds)
        for name, values in each.items():
            for value in values:
                run = partial(function, **{name: value})
                STEPS[f"{function.__name__}_{value}"] = Step(run, seconds, value == values[0])
        return function

    return enter


def discs(n_cells: int, size: int) -> Any:
    """8-bit `Cells` to learn from without a file: coloured discs of random radius and place.

    The table holds `radius`, and `x` and `y` of the centre, in units of half an image.
    """
    from feeding import cells_of

    rng = np.random.default_rng(0)
    radius = rng.uniform(0.15, 0.5, n_cells).astype(np.float32)
    x, y = rng.uniform(-0.4, 0.4, (2, n_cells)).astype(np.float32)
    colours = rng.uniform(0.3, 1, (n_cells, 3, 1, 1)) * 255
    at = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)
    across, down = np.square(at - x[:, None]), np.square(at - y[:, None])  # (N, S)
    inside = across[:, None] + down[:, :, None] < np.square(radius)[:, None, None]  # (N, S, S)
    cells = cells_of(inside[:, None] * colours.astype(np.uint8))
    cells.table = cells.table.assign(radius=radius, x=x, y=y)
    return cells


def fit(context: Context, name: str, epochs: int, **changes: Any) -> SimpleNamespace:
    """Train a small VAE on discs in a folder of the step, or go on with what is there.

    Args:
        context: of the step.
        name: of the folder.
        epochs: at most so many, as in `Schedule`.
        changes: other values than those below.

    Returns:
        cells, model, objective, batches, split, history and the wall time of `train`, s.
    """
    from models.losses import ELBOObjective
    from models.networks import build_vae
    from models.train_net import Schedule, train
    from util.data_processing import CellBatches
    from util.runs import seed_everything
    from util.splitting import split_cells

    asked = SimpleNamespace(
        cells=context.size(2000, 48),
        size=context.size(64, 32),
        base=context.size(16, 4),
        batch=context.size(64, 16),
        device=context.device,
        learning_rate=3e-4,
        bfloat16=False,
        rounded=False,  # the first weights, to bfloat16
        objective=ELBOObjective,
    )
    vars(asked).update(changes)
    folder = context.folder / name
    folder.mkdir(exist_ok=True)
    cells = discs(asked.cells, asked.size)
    seed_everything(0)
    model = build_vae("vanilla", asked.size, 3, asked.base).to(asked.device)
    if asked.rounded:
        model.to(torch.bfloat16).to(torch.float32)
    objective = asked.objective().to(asked.device)
    batches = CellBatches(cells, asked.device, asked.batch, augmentation=True)
    split = split_cells(None, asked.cells, 0.15, 0)
    schedule = Schedule(epochs, asked.learning_rate, bfloat16=asked.bfloat16)
    began = time.perf_counter()
    history = train(
        model, objective, batches, split, schedule=schedule, folder=folder, progress=False
    )
    wall = time.perf_counter() - began
    return SimpleNamespace(
        cells=cells,
        model=model,
        objective=objective,
        batches=batches,
        split=split,
        history=history,
        wall=wall,
    )


def infomax(size: int) -> nn.Module:
    """The objective of the InfoMax VAE, as in the thesis."""
    from models.infoMAX_VAE import InfoMaxObjective
    from util.mutual_information import InformationEstimator

    estimator = InformationEstimator((3, size, size), 3)
    return InfoMaxObjective(estimator, alpha=20.0, beta=1.0, critic_learning_rate=5e-4)


def valid_losses(history: list[dict[str, Any]]) -> np.ndarray:
    """(epochs,) nats per image."""
    return np.array([entry["valid"]["loss"] for entry in history])


def apart(found: np.ndarray, known: np.ndarray) -> float:
    """Largest relative difference; infinite where there are not as many."""
    if len(found) != len(known):
        return float("inf")
    return float(np.max(np.abs(found - known) / np.abs(known)))


def judged_again(fitted: SimpleNamespace, batches: Any) -> float:
    """Relative difference of the lowest logged validation loss and that of the model returned."""
    from models.train_net import evaluate

    terms = evaluate(fitted.model, fitted.objective, batches.in_order(fitted.split[1]))
    return apart(np.array([terms["loss"]]), valid_losses(fitted.history).min(keepdims=True))


def allow_tf32(allowed: bool) -> None:
    """Whether float32 may be computed with 10 binary digits, in products and convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """The same inside; outside no step allows it."""
    allow_tf32(allowed)
    try:
        yield
    finally:
        allow_tf32(False)


@step(60)
def machine(context: Context) -> dict[str, Any]:
    """GPU, driver, versions and the commit."""

    def said_by(*command: str) -> str:
        try:
            return subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return "unknown"

    found = {
        "commit": said_by("git", "describe", "--always", "--dirty"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if context.on_cuda else None,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "packages": {
            name: importlib.metadata.version(name)
            for name in PACKAGES
            if importlib.util.find_spec(name.replace("scikit-", "sk"))
        },
    }
    if context.on_cuda:
        free, total = torch.cuda.mem_get_info(context.device)
        found |= {
            "gpu": torch.cuda.get_device_name(context.device),
            "driver": said_by("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "memory_gib": round(total / 2**30, 1),
            "free_gib": round(free / 2**30, 1),
        }
    return found


@step(30)
def ceilings(context: Context) -> dict[str, Any]:
    """TFLOP/s of a matrix product by arithmetic, and GB/s of a copy, read and written."""
    found = {
        name: matmul_rate(context, dtype, allowed) / 1e12
        for name, dtype, allowed in (
            ("matmul_float32", torch.float32, False),
            ("matmul_tf32", torch.float32, True),
            ("matmul_bfloat16", torch.bfloat16, False),
        )
    }
    source = torch.ones(context.size(2**30, 2**24), dtype=torch.uint8, device=context.device)
    target = torch.empty_like(source)
    seconds = median_seconds(context, lambda: target.copy_(source))
    return found | {"copy_gb_per_s": 2 * source.nbytes / seconds / 1e9}


def matmul_rate(context: Context, dtype: torch.dtype, tf32_allowed: bool = False) -> float:
    """FLOP/s of a product of two square matrices."""
    side = context.size(8192, 256)
    square = torch.randn(side, side, device=context.device).to(dtype)
    with tf32(tf32_allowed):
        return 2 * side**3 / median_seconds(context, lambda: square @ square)


def median_seconds(context: Context, function: Callable[[], object], repeats: int = 7) -> float:
    """Of a call, with the device idle before and after."""
    from training_step import timed

    for _ in range(2):  # warm-up
        function()
    return statistics.median(timed(function, str(context.device)) for _ in range(repeats))


@step(30)
def batches(context: Context) -> dict[str, Any]:
    """8- and 16-bit cells, resident and streamed, against NumPy's scaling; images/s, augmented.

    `ordered` and `shuffled` are the largest differences of a pixel in 0..1. What is shuffled is
    compared cell by cell, after sorting by a number that each cell has of its own.
    """
    from feeding import cells_of, images_per_second

    from util.data_processing import CellBatches
    from util.streaming import StreamedBatches

    n, found = context.size(20_000, 100), {}
    shape, window = (n, 3, context.size(64, 32), context.size(64, 32)), context.size(2**27, 2**17)
    for dtype in (np.uint8, np.uint16):
        images = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)
        images[:, 0, 0, :2] = np.arange(n)[:, None] // [1, 251] % 251  # the cell's own number
        known, order = images / np.float32(np.iinfo(dtype).max), np.arange(n)
        for source, more in ((CellBatches, {}), (StreamedBatches, {"window_bytes": window})):
            plain, turned = (
                source(cells_of(images), context.device, 50, augmentation=augmented, **more)
                for augmented in (False, True)
            )
            ordered = torch.cat(list(plain.in_order(order))).cpu().numpy()
            mixed = torch.cat(list(plain.shuffled(order))).cpu().numpy()
            numbers = np.rint(mixed[:, 0, 0, :2] * np.iinfo(dtype).max) @ [1, 251]
            back = numbers.argsort(kind="stable")
            found[f"{source.__name__} {images.dtype}"] = {
                "ordered": float(np.abs(ordered - known).max()),
                "shuffled": float(np.abs(mixed[back] - known).max()),
                "moved": float(np.mean(back != order)),
                "images_per_s": images_per_second(turned.shuffled(order), str(context.device)),
            }
    worst = max(max(each["ordered"], each["shuffled"]) for each in found.values())
    return {"ok": worst < 1e-6 and min(e["moved"] for e in found.values()) > 0.9, **found}


@step(60)
def decoders(context: Context) -> dict[str, Any]:
    """Fast and plain form of the three models in float32, each against plain float64.

    The worst relative difference of logits, codes and the gradient of any parameter. A gradient
    below 1/10,000 of all of them counts relative to that: batch norm makes those of the biases
    before it 0. `straight`: batch norm by its running statistics and rectifiers without a kink, so
    that rounding stays rounding. `training`: as in a training step, where batch norm and kinks
    enlarge it; there the fast form has to be as near as the plain one.
    """
    from models import nn_modules

    found = {}
    slope = mock.patch.object(nn_modules, "LEAKY_SLOPE", 1.0)
    smooth = mock.patch.object(nn.ReLU, "forward", lambda self, x: nn.functional.softplus(x))
    for name in ("vanilla", "sc", "infomax"):
        with slope, smooth:
            straight = differences_to_float64(context, name, training=False)
        training = differences_to_float64(context, name, training=True)
        found[name] = {"straight": straight, "training": training}
    fine = [
        max(each["straight"].values()) < ROUNDING
        and each["training"]["fast"] < 3 * each["training"]["plain"] + ROUNDING
        for each in found.values()
    ]
    return {"ok": all(fine), **found}


def differences_to_float64(context: Context, name: str, training: bool) -> dict[str, float]:
    """Of the fast and of the plain form of a model."""
    found = partial(outputs_and_gradients, context, name, training)
    exact = found(fast=False, dtype=torch.float64)
    return {
        side: worst_difference(found(fast=side == "fast", dtype=torch.float32), exact)
        for side in ("fast", "plain")
    }


def outputs_and_gradients(
    context: Context, name: str, training: bool, fast: bool, dtype: torch.dtype
) -> list[Tensor]:
    """Logits, codes, and the gradient of every parameter, of one step from the same weights."""
    from models.losses import ELBOObjective
    from models.networks import build_vae

    size, count = context.size(64, 32), context.size(64, 16)
    architecture = "sc" if name == "sc" else "vanilla"
    torch.manual_seed(0)
    model = build_vae(architecture, size, 3, context.size(32, 8), fast=fast)
    objective = infomax(size) if name == "infomax" else ELBOObjective()
    images, noise = discs(count, size).scaled(slice(None)), torch.randn(count, 3)
    images, noise = images.to(context.device, dtype), noise.to(context.device, dtype)
    model, objective = (
        part.to(context.device, dtype).train(training) for part in (model, objective)
    )
    # Its own draws are others in another type.
    model.reparameterize = lambda mean, logvar: mean + noise * (0.5 * logvar).exp()
    logits, mean, logvar, _ = model(images)
    objective(model, images)["loss"].backward()
    parameters = [*model.parameters(), *objective.parameters()]
    return [t.detach().double() for t in (logits, mean, logvar, *(p.grad for p in parameters))]


def worst_difference(found: list[Tensor], known: list[Tensor]) -> float:
    """Largest relative difference of a tensor, by its norm."""
    least = 1e-4 * torch.stack([part.norm() for part in known[3:]]).norm()
    return max(
        float((a - b).norm() / b.norm().clamp_min(least)) for a, b in zip(found, known, strict=True)
    )


@step(60)
def precision(context: Context) -> dict[str, Any]:
    """bfloat16 against float32 over 6 epochs at the thesis's learning rate, from the same weights.

    `apart` is the largest relative difference of the validation loss in an epoch, `by_rounding`
    that of a run in float32 whose first weights were rounded to bfloat16: so much comes from the
    least change at the start. `judged_again` compares the lowest loss logged with that of the same
    weights evaluated afterwards in float32.
    """
    rate = 3e-4 if context.small else 1e-4  # few steps have to be long to show anything
    runs = {
        name: fit(
            context,
            name,
            6,
            cells=context.size(2000, 80),
            learning_rate=rate,
            bfloat16=name == "bfloat16",
            rounded=name == "rounded",
        )
        for name in ("float32", "bfloat16", "rounded")
    }
    losses = {name: valid_losses(run.history) for name, run in runs.items()}
    difference = apart(losses["bfloat16"], losses["float32"])
    chance = apart(losses["rounded"], losses["float32"])
    again = {name: judged_again(run, run.batches) for name, run in runs.items()}
    return {
        "ok": difference < max(0.01, 2 * chance) and max(again.values()) < 0.01,
        "apart": difference,
        "by_rounding": chance,
        "judged_again": again,
        "losses": {name: values.tolist() for name, values in losses.items()},
    }


@step(60)
def out_of_memory(context: Context) -> dict[str, Any]:
    """Too little memory for the batch asked for: the run goes on with a smaller one.

    On a GPU the process may take memory half-way between what a quarter of the batch and the whole
    take; on the CPU an objective says that there is too little. `apart` compares the validation
    losses with those of a run that had the smaller batch from the beginning.
    """
    from models.losses import ELBOObjective

    class Greedy(ELBOObjective):
        def forward(self, model: nn.Module, x: Tensor) -> dict[str, Tensor]:
            if model.training and len(x) > 32:
                raise torch.OutOfMemoryError("as if there were too little")
            return super().forward(model, x)

    batch, objective, limit = context.size(1024, 64), Greedy, None
    if context.on_cuda:
        objective = ELBOObjective
        quarter, whole = (memory_of(context, batch // part) for part in (4, 1))
        limit = (
            (quarter + whole) / 2 / torch.cuda.get_device_properties(context.device).total_memory
        )
        torch.cuda.set_per_process_memory_fraction(limit, context.device)
    try:
        run = fit(context, "short", 2, batch=batch, objective=objective)
    finally:
        if context.on_cuda:
            torch.cuda.set_per_process_memory_fraction(1.0, context.device)
    sizes = [entry["batch_size"] for entry in run.history]
    alone = fit(context, "enough", 2, batch=sizes[0])
    difference = apart(valid_losses(run.history), valid_losses(alone.history))
    return {
        "ok": sizes[0] < batch and len(set(sizes)) == 1 and len(sizes) == 2 and difference < 0.01,
        "asked": batch,
        "sizes": sizes,
        "fraction": limit,
        "apart": difference,
    }


def memory_of(context: Context, batch: int) -> int:
    """Bytes that PyTorch keeps for an epoch of such batches."""
    forget(context)
    fit(context, f"memory-{batch}", 1, batch=batch)
    reserved = torch.cuda.max_memory_reserved(context.device)
    forget(context)
    return reserved


@step(60)
def resume(context: Context) -> dict[str, Any]:
    """Two epochs on the CPU, two on the GPU, two on the CPU again, all of one run.

    `judged_again` is the relative difference of the lowest validation loss logged and that of the
    same weights on the other device; `apart` the largest to six epochs on the CPU, whose random
    numbers are others than the GPU's.
    """
    from util.data_processing import CellBatches

    cpu, cells, found = torch.device("cpu"), context.size(1000, 48), []
    moves = ((2, cpu, context.device), (4, context.device, cpu), (6, cpu, cpu))
    for epochs, device, other in moves:
        run = fit(context, "moving", epochs, cells=cells, device=device)
        elsewhere = CellBatches(run.cells, other, 64, augmentation=False)
        run.model.to(other), run.objective.to(other)
        found.append(judged_again(run, elsewhere))
    still = fit(context, "still", 6, cells=cells, device=cpu)
    difference = apart(valid_losses(run.history), valid_losses(still.history))
    numbered = [entry["epoch"] for entry in run.history] == [1, 2, 3, 4, 5, 6]
    near = difference < 0.1 if context.on_cuda else difference == 0
    return {
        "ok": numbered and near and max(found) < LOSS_ROUNDING,
        "judged_again": found,
        "apart": difference,
        "losses": valid_losses(run.history).tolist(),
    }


@step(60)
def repeat(context: Context) -> dict[str, Any]:
    """The same training again, and in two parts, by the arithmetic that the device has by default.

    `equal` says whether losses and weights are the same to the last bit, else `apart` is the
    largest relative difference of a validation loss. On the CPU they have to be equal.
    """
    low = context.on_cuda
    once = fit(context, "once", 4, bfloat16=low)
    again = fit(context, "again", 4, bfloat16=low)
    fit(context, "parts", 2, bfloat16=low)
    parts = fit(context, "parts", 4, bfloat16=low)
    found = {
        name: {
            "equal": valid_losses(run.history).tolist() == valid_losses(once.history).tolist()
            and same_weights(run.model.state_dict(), once.model.state_dict()) == 0,
            "apart": apart(valid_losses(run.history), valid_losses(once.history)),
        }
        for name, run in (("again", again), ("in_parts", parts))
    }
    fine = [each["apart"] < 0.05 if context.on_cuda else each["equal"] for each in found.values()]
    return {"ok": all(fine), **found}


def same_weights(found: dict[str, Tensor], known: dict[str, Tensor]) -> float:
    """Largest difference of a number of two states; 0 is equal to the last bit."""
    return max(float((found[name].double() - known[name].double()).abs().max()) for name in known)


@step(90)
def scores(context: Context) -> dict[str, Any]:
    """Scores of the same codes on both devices: the largest difference in each group, and seconds.

    Neighbourhood scores come from counts, so they are equal; those of what is trained follow other
    roundings.
    """
    from quantitative_metrics.classifier_metric import ClassifierTask
    from quantitative_metrics.MINE_metric import mutual_information
    from quantitative_metrics.scores import Plan, score_projections

    cells = discs(context.size(2000, 150), 32)
    cells.table["GT_label"] = 1 + (cells.table["radius"] > 0.3)
    rng = np.random.default_rng(0)
    true = cells.table[["radius", "x", "y"]].to_numpy()
    codes = true + rng.normal(0, 0.1, true.shape)
    references = {"pixels": cells.images, "features": true @ rng.normal(size=(3, 20))}
    task, values, seconds = ClassifierTask("accuracy", "GT_label"), {}, {}
    for device in ("cpu", str(context.device)):
        began = time.perf_counter()
        plan = Plan(("neighbours", "classifier"), task, device=device)
        table = score_projections({"": codes}, references, cells.table, plan).table
        keys = [table[column].astype(str) for column in ("reference", "k")]
        found = table.set_index([table["metric"], *keys])["value"]
        # One pair of spaces: its critics train for long.
        information = mutual_information(
            references["features"], codes, device=device, steps=context.size(1200, 40)
        )
        found["mutual_information", "", ""] = information.value
        seconds[device] = time.perf_counter() - began
        values[device] = found
    difference = (values["cpu"] - values[str(context.device)]).abs()
    names = difference.index.get_level_values("metric")
    groups = {
        "neighbours": names.str.match("trustworthiness|continuity|lcmc|mean"),
        "information": names == "mutual_information",
        "classifier": names.str.contains("accuracy"),
    }
    largest = {name: float(difference[chosen].max()) for name, chosen in groups.items()}
    allowed = {"neighbours": 1e-9, "information": 0.2, "classifier": 0.05}
    return {
        "ok": all(largest[name] <= bound for name, bound in allowed.items())
        and len(difference) == sum(chosen.sum() for chosen in groups.values()),
        "largest_difference": largest,
        "seconds_on": seconds,
    }


@step(30)
def ranks_16_bit(context: Context) -> dict[str, Any]:
    """Neighbourhood scores of pixels x 257 in 16 bits, whose ranks are those of the 8-bit ones."""
    from quantitative_metrics.unsupervised_metric import co_ranking

    data, codes = ranked_cells(300)
    eight, sixteen = (
        co_ranking(pixels, {"": codes}, device=context.device)[""].areas()
        for pixels in (data, data.astype(np.uint16) * 257)
    )
    difference = max(abs(eight[name] - sixteen[name]) for name in eight)
    return {"ok": difference < 1e-9, "largest_difference": difference, "areas": eight}


@step(90)
def ranks(context: Context) -> dict[str, Any]:
    """Trustworthiness and continuity at N = 310,194: a sample of cells against all.

    `scikit_learn` is the largest difference to that package's trustworthiness, in float64, of 300
    cells; `devices` that of all curves to those of the CPU, 50 cells of the large set ranked;
    `exact_minutes` what ranking all cells would take.
    """
    from quantitative_metrics.unsupervised_metric import co_ranking

    few, few_codes = ranked_cells(300)
    found = co_ranking(few, {"": few_codes}, device=context.device)[""]
    plain = max(
        abs(found.at(k)[name] - value) for k, name, value in by_scikit_learn(few, few_codes)
    )
    data, codes = ranked_cells(context.size(LARGEST_SET, 2000))
    on = {
        name: co_ranking(data, {"": codes}, sample=50, device=name)[""]
        for name in ("cpu", str(context.device))
    }
    cpu, device = on["cpu"], on[str(context.device)]
    curves = ("trustworthiness", "continuity", "lcmc")
    difference = max(np.abs(getattr(cpu, name) - getattr(device, name)).max() for name in curves)
    seconds, sampled = rank_samples(context, data, codes)
    k = len(sampled.k) // 10
    return {
        "ok": bool(plain < 1e-6 and difference < 1e-6),
        "scikit_learn": float(plain),
        "devices": float(difference),
        "n_cells": len(data),
        "seconds_of_sample": seconds,
        "exact_minutes": exact_seconds(seconds, len(data)) / 60,
        "k": k,
        "values": sampled.at(k),
        "standard_errors": sampled.errors_at(k),
    }


def ranked_cells(n_cells: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3, 32, 32) uint8 images, and (N, 3) codes that keep a part of them."""
    cells = discs(n_cells, 32)
    return cells.images, cells.table[["radius", "x", "y"]].to_numpy(np.float64)


def rank_samples(context: Context, data: np.ndarray, codes: np.ndarray) -> tuple[dict, Any]:
    """Seconds of ranking a few and more of the cells, and what ranking the more of them found."""
    from quantitative_metrics.unsupervised_metric import co_ranking

    seconds = {}
    for sample in (50, context.size(500, 50), context.size(2000, 100)):  # the first to warm up
        began = time.perf_counter()
        found = co_ranking(data, {"": codes}, sample=sample, device=context.device)[""]
        seconds[sample] = time.perf_counter() - began
    few, more = list(seconds)[-2:]
    return {few: seconds[few], more: seconds[more]}, found


def exact_seconds(seconds: dict[int, float], n_cells: int) -> float:
    """What ranking all cells would take, from two samples."""
    (few, early), (more, late) = seconds.items()
    return (late - early) / (more - few) * n_cells


def by_scikit_learn(data: np.ndarray, codes: np.ndarray) -> Iterator[tuple[int, str, float]]:
    """k, name of the measure and its value, from distances in float64."""
    from sklearn.manifold import trustworthiness

    flat = data.reshape(len(data), -1).astype(np.float64)
    for k in (5, 30, 100):
        yield k, "trustworthiness", trustworthiness(flat, codes, n_neighbors=k)
        yield k, "continuity", trustworthiness(codes, flat, n_neighbors=k)


@step(150)
def kill_resume(context: Context) -> dict[str, Any]:
    """VAE_framework.py killed by SIGKILL in the middle, and taken up, against one left alone.

    `equal` says of each file whether it is the same to the last bit; `apart` gives the largest
    difference of a weight, of a code, and the relative one of the lowest validation loss. `logged`
    is how many epochs stood in the log when it was killed, `kept` how many in the checkpoint.
    """
    from util.runs import load_checkpoint

    epochs = context.size(240, 32)
    options = [*run_options(context, 2000, 80), "--base", str(context.size(16, 2))]
    options += ["--epochs", str(epochs), "--patience", "1000"]
    alone, killed = (
        start(context, name, "VAE_framework.py", *options) for name in ("alone", "killed")
    )
    run = wait_for_checkpoint(killed, epochs)
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.process.wait()
    logged = len(losses_logged(run))
    kept = len(load_checkpoint(run / "checkpoint.pt")["history"])
    finish(context, start(context, "killed", "VAE_framework.py", "--resume", str(run)))
    finish(context, alone)
    (whole,) = alone.folder.glob("results/*")
    states = [load_checkpoint(folder / "best.pt")["model"] for folder in (whole, run)]
    codes = [np.genfromtxt(folder / "latents.csv", delimiter=",") for folder in (whole, run)]
    weights = same_weights(*states)
    equal = {
        "best.pt": weights == 0,
        "latents.csv": (whole / "latents.csv").read_bytes() == (run / "latents.csv").read_bytes(),
    }
    difference = {
        "weights": weights,
        "codes": float(np.nanmax(np.abs(codes[0] - codes[1]))),
        "loss": apart(*(losses_logged(folder).min(keepdims=True) for folder in (run, whole))),
    }
    fine = difference["loss"] < 0.02 if context.on_cuda else all(equal.values())
    return {
        "ok": bool(fine and 0 < logged < epochs and len(losses_logged(run)) == epochs),
        "equal": equal,
        "apart": difference,
        "logged": logged,
        "kept": kept,
    }


@dataclass(frozen=True)
class Running:
    """A script that was started: its process, the folder it runs in, the file with its words."""

    process: Any
    folder: Path
    said: Path


def start(context: Context, name: str, script: str, *options: str) -> Running:
    """A script of the project in a folder of the step.

    On the CPU from the fork server of the tests, which has imported PyTorch; a process that has
    looked at a GPU must not be forked.
    """
    from starting import Started

    folder, said = context.folder / name, context.folder / f"{name}.txt"
    folder.mkdir(exist_ok=True)
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    more = {"PYTHONPATH": paths, "MPLBACKEND": "Agg", "XDG_CACHE_HOME": str(context.folder)}
    surroundings = os.environ | more
    if not context.on_cuda:
        return Running(Started(script, options, folder, surroundings, said, said), folder, said)
    command = [sys.executable, str(ROOT / script), *options]
    with said.open("a") as stream:
        streams = {"stdout": stream, "stderr": stream}
        process = subprocess.Popen(command, cwd=folder, env=surroundings, **streams)
    return Running(process, folder, said)


def finish(context: Context, running: Running) -> None:
    """Wait for the end of a script.

    Raises:
        RuntimeError: it failed; with its last words.
    """
    code = running.process.wait(timeout=context.left)
    if code != 0:
        raise RuntimeError(f"exit code {code}: {running.said.read_text()[-400:]}")


def run_options(context: Context, full: int, small: int) -> list[str]:
    """Options of a run on so many discs, that does little beside training on the step's device."""
    data, table = context.folder / "cells.npy", context.folder / "cells.csv"
    cells = discs(context.size(full, small), context.size(64, 32))
    np.save(data, cells.images)
    cells.table[["radius"]].to_csv(table, index=False)
    options = f"--dataset {data} --array-axes NCHW --metadata {table} --features none"
    options += f" --metrics axes --device {context.device} --image-size {context.size(64, 32)}"
    return options.split()


def losses_logged(run: Path) -> np.ndarray:
    """Validation loss of each epoch in the log of a run."""
    return valid_losses([json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()])


def wait_for_checkpoint(running: Running, epochs: int) -> Path:
    """The run folder, once the run has saved while training, or has learnt for 3/4 of its epochs.

    Raises:
        RuntimeError: it ended before.
    """
    first = None
    while running.process.poll() is None:
        for log in running.folder.glob("results/*/log.jsonl"):
            written = (log.parent / "checkpoint.pt").stat().st_mtime_ns
            first, logged = first or written, len(losses_logged(log.parent))
            if logged >= 3 * epochs // 4 or (written != first and logged > 2):
                return log.parent
        time.sleep(0.02)
    raise RuntimeError(f"ended before it could be killed: {running.said.read_text()[-400:]}")


@step(60, batch=(64, 256, 1024))
def speed(context: Context, batch: int) -> dict[str, Any]:
    """Fast bfloat16 against plain float32 in turn: a training step of the vanilla VAE, base 32.

    `ratio` is the median, with quartiles, of pairs; `ratio_tf32` that to the plain form as PyTorch
    computes it by default, with convolutions in TF32. Of each side: ms of a step, images/s, per
    cent of the peak that a matrix product reaches in the same arithmetic, `launches` of kernels a
    step (on the CPU: operators), MiB that PyTorch allocated. `epoch` is the InfoMax VAE of the
    thesis by `train`, with checkpoints: seconds of an epoch, and wall time for each of the epochs.
    """
    from training_step import build_pair

    size, base = context.size(64, 32), context.size(32, 4)
    batch = context.size(batch, batch // 16)
    device = str(context.device)
    asked = SimpleNamespace(seed=0, image_size=size, channels=3, channels_last=False, device=device)
    models = build_pair("vanilla", base, asked)
    images = torch.rand(batch, 3, size, size, device=device)
    sides = {
        "plain_float32": Side(models["plain"], images, torch.float32, False),
        "plain_tf32": Side(models["plain"], images, torch.float32, True),
        "fast_bfloat16": Side(models["fast"], images, torch.bfloat16, False),
    }
    if not context.on_cuda:
        del sides["plain_tf32"]
    found = {name: side.measure_once(context) for name, side in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(context.size(20, 5)):
        for name, side in sides.items():
            seconds[name].append(side.seconds())
    for name, side in sides.items():
        middle = statistics.median(seconds[name])
        rate = found[name]["gflop"] * 1e9 / middle
        peak = matmul_rate(context, side.dtype, side.tf32)
        found[name] |= {
            "ms": 1e3 * middle,
            "images_per_s": batch / middle,
            "percent_of_peak": 100 * rate / peak,
        }
    ratios = {
        f"ratio{name.removeprefix('plain').removesuffix('_float32')}": quartiles(
            [a / b for a, b in zip(seconds[name], seconds["fast_bfloat16"], strict=True)]
        )
        for name in sides
        if name.startswith("plain")
    }
    return {"batch": batch, **ratios, **found, "epoch": epoch_with_checkpoints(context, batch)}


@dataclass
class Side:
    """A training step in one arithmetic."""

    model: nn.Module
    images: Tensor
    dtype: torch.dtype
    tf32: bool

    def __post_init__(self):
        from training_step import training_step

        self.step = training_step(self.model, self.images, self.dtype == torch.bfloat16)

    def seconds(self) -> float:
        """Of one step."""
        from training_step import timed

        with tf32(self.tf32):
            return timed(self.step, str(self.images.device))

    def measure_once(self, context: Context) -> dict[str, float]:
        """Operations, launches and memory of a step; also the warm-up."""
        from torch.utils.flop_counter import FlopCounterMode

        forget(context)
        with tf32(self.tf32):
            with FlopCounterMode(display=False) as counter:
                self.step()
            self.step()
            launched = launches(self.step, context)
        found = {"gflop": counter.get_total_flops() / 1e9, "launches": launched}
        if context.on_cuda:
            found["mib"] = torch.cuda.max_memory_allocated(context.device) / 2**20
        return found


def launches(function: Callable[[], object], context: Context, repeats: int = 3) -> float:
    """Kernels that a call starts on the GPU; on the CPU the operators of PyTorch that it runs."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if context.on_cuda else [])]
    starts = ("cudaLaunchKernel", "cuLaunchKernel") if context.on_cuda else ("aten::",)
    with profile(activities=activities) as recorded:
        for _ in range(repeats):
            function()
    events = recorded.key_averages()
    return sum(event.count for event in events if event.key.startswith(starts)) / repeats


def quartiles(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "low": low, "high": high}


def epoch_with_checkpoints(context: Context, batch: int) -> dict[str, float]:
    """The InfoMax VAE of the thesis over the cells of the thesis."""
    size, epochs = context.size(64, 32), context.size(5, 2)
    cells = context.size(THESIS_CELLS, 80)
    run = fit(
        context,
        "epochs",
        epochs,
        cells=cells,
        base=context.size(32, 4),
        batch=batch,
        bfloat16=context.on_cuda,
        objective=partial(infomax, size),
    )
    seconds = statistics.median(entry["seconds"] for entry in run.history)
    return {
        "seconds": seconds,
        "wall_seconds": run.wall / epochs,
        "images_per_s": len(run.split[0]) / seconds,
    }


@step(140, workers=(1, 2, 4, 8))
def grid(context: Context, workers: int) -> dict[str, Any]:
    """8 InfoMax VAEs of the thesis x 20 epochs by so many workers; the thesis's grid from that.

    `wall_seconds` of the command; `training_seconds` from the first model's start to the last one's
    end; `epochs_share` of that time in epochs, the rest builds, embeds and writes.
    `thesis_minutes` is 36 models x 150 epochs, none stopped early.
    """
    alphas, betas = ("0 5 20 100", "1 5") if not context.small else ("0 20", "1")
    epochs = context.size(20, 2)
    options = f"--alphas {alphas} --betas {betas} --epochs {epochs} --workers {workers}"
    options += f" --base {context.size(32, 2)} --batch-size {context.size(256, 32)} --no-reports"
    options = [*run_options(context, THESIS_CELLS, 60), *options.split()]
    began = time.perf_counter()
    running = start(context, "grid", "optimization/hyper_optimization_bs_fixed.py", *options)
    finish(context, running)
    wall = time.perf_counter() - began
    (folder,) = running.folder.glob("results/*")
    files = sorted(folder.glob("*/trial.json"))
    took = [json.loads(file.read_text())["wall_seconds"] for file in files]
    ends = [file.stat().st_mtime for file in files]
    training = max(ends) - min(end - each for end, each in zip(ends, took, strict=True))
    in_epochs = sum(sum(seconds_logged(file.parent)) for file in files)
    share = in_epochs / sum(took)
    models = len(alphas.split()) * len(betas.split())
    longer = 1 - share + share * THESIS_EPOCHS / epochs
    return {
        "ok": len(files) == models,
        "models": models,
        "epochs": epochs,
        "wall_seconds": wall,
        "training_seconds": training,
        "epochs_share": share,
        "thesis_minutes": (wall - training + training * THESIS_MODELS / models * longer) / 60,
    }


def seconds_logged(run: Path) -> list[float]:
    """Seconds of each epoch in the log of a run."""
    lines = (run / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["seconds"] for line in lines]


@step(90)
def torchdr(context: Context) -> dict[str, Any]:
    """UMAP and t-SNE of 20,000 cells by TorchDR: seconds, trustworthiness, MiB of the GPU."""
    if importlib.util.find_spec("torchdr") is None:
        raise Skipped("TorchDR is not installed")
    from models.baselines import tsne_projection, umap_projection
    from quantitative_metrics.unsupervised_metric import co_ranking

    rng, n = np.random.default_rng(0), context.size(20_000, 300)
    features = rng.normal(0, 5, (10, 50))[np.arange(n) % 10] + rng.normal(size=(n, 50))
    found, fine = {}, []
    for name, project in (("umap", umap_projection), ("tsne", tsne_projection)):
        forget(context)
        began = time.perf_counter()
        codes = project(features, engine="torchdr")
        seconds = time.perf_counter() - began
        mib = torch.cuda.max_memory_allocated(context.device) / 2**20 if context.on_cuda else None
        ranking = co_ranking(features, {"": codes}, sample=200, device=context.device)[""]
        kept = ranking.at(n // 20)["trustworthiness"]
        found[name] = {"seconds": seconds, "trustworthiness": kept, "gpu_mib": mib}
        fine.append(kept > 0.9 and (mib is None or mib > 1))
    return {"ok": all(fine), **found}


@step(300)
def ranks_exact(context: Context) -> dict[str, Any]:
    """All N = 310,194 cells ranked, where there is time; how far the sample's values are off.

    `standard_errors_apart` is the largest distance of a value of the sample from the exact one, in
    standard errors of the sample.
    """
    from quantitative_metrics.unsupervised_metric import co_ranking

    data, codes = ranked_cells(context.size(LARGEST_SET, 400))
    samples, sampled = rank_samples(context, data, codes)
    expected = exact_seconds(samples, len(data))
    if expected > context.left:
        raise Skipped(f"would take {expected:.0f} s, and {context.left:.0f} s are left")
    began = time.perf_counter()
    exact = co_ranking(data, {"": codes}, device=context.device)[""]
    seconds = time.perf_counter() - began
    k = len(exact.k) // 10
    values, guesses, errors = exact.at(k), sampled.at(k), sampled.errors_at(k)
    distance = max(abs(guesses[name] - value) / errors[name] for name, value in values.items())
    return {
        "ok": bool(distance < 5),
        "n_cells": len(data),
        "exact_seconds": seconds,
        "k": k,
        "values": values,
        "standard_errors_apart": distance,
    }


def forget(context: Context) -> None:
    """Give back the memory of what is no longer used, and measure its peak anew."""
    gc.collect()
    if context.on_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(context.device)


def attempt(run: Callable[[Context], dict[str, Any]], context: Context) -> dict[str, Any]:
    """The line of a step, whatever becomes of it."""
    forget(context)
    began = time.perf_counter()
    try:
        found = {"ok": True} | run(context)
    except Skipped as reason:
        found = {"ok": None, "skipped": str(reason)}
    except Exception as error:
        found = {"ok": False, "error": one_line_of(error)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    if context.on_cuda and found["ok"]:  # after an error of CUDA nothing can be asked
        peak = torch.cuda.max_memory_allocated(context.device) / 2**20
    about = {"seconds": time.perf_counter() - began, "device": str(context.device)}
    return {"ok": found.pop("ok"), **about, "peak_mib": peak, **found}


def one_line_of(error: Exception) -> str:
    """What went wrong, and where in this project."""
    places = traceback.extract_tb(error.__traceback__)
    own = [
        p for p in places if p.filename.startswith(str(ROOT)) and "site-packages" not in p.filename
    ]
    text = " ".join(str(error).split())[:500]
    place = (own or places)[-1]
    return f"{type(error).__name__}: {text} ({Path(place.filename).name}:{place.lineno})"


def serve(connection: Any, device: str, small: bool) -> None:
    """Do the steps that come through the connection, until it is closed."""
    os.setpgrp()  # what a step starts ends with it
    sys.stdout = sys.stderr  # standard output is for the lines of JSON
    allow_tf32(False)
    connection.send("ready")
    with contextlib.suppress(EOFError):
        while True:
            run, folder, seconds = connection.recv()
            context = Context(torch.device(device), small, folder, time.monotonic() + seconds)
            connection.send(attempt(run, context))


class Worker:
    """A process that does steps; after an error, a new process takes its place."""

    def __init__(self, device: str, small: bool):
        self.device, self.small = device, small
        self.process: multiprocessing.Process | None = None

    def __call__(self, run: Callable[[Context], dict[str, Any]], seconds: float) -> dict[str, Any]:
        """The line of a step that may take so many seconds."""
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="gpu-", ignore_cleanup_errors=True) as folder:
            try:
                if self.process is None:
                    self._begin()
                self.connection.send((run, Path(folder), seconds))
                found = self._hear(seconds)
            except TimeoutError as error:
                found = {"ok": False, "error": str(error)}
            except (EOFError, OSError):
                self.process.join(START)
                found = {"ok": False, "error": f"its process died, code {self.process.exitcode}"}
            if "error" in found:
                self.end()
        return {"seconds": time.perf_counter() - began, "device": self.device} | found

    def _begin(self) -> None:
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, self.device, self.small))
        self.process.start()
        theirs.close()
        self._hear(START)

    def _hear(self, seconds: float) -> Any:
        if not self.connection.poll(max(seconds, 0)):
            raise TimeoutError(f"stopped after {seconds:.0f} s")
        return self.connection.recv()

    def end(self) -> None:
        """End the process and whatever it has started."""
        if self.process is None:
            return
        self.connection.close()
        self.process.join(LAST_WORDS)  # it ends by itself unless it hangs
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()  # where it had no time to lead a group
        self.process.join()
        self.process = None


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", help="cuda, cuda:1 or cpu; default: a GPU where there is one")
    parser.add_argument("--small", action="store_true", help="on little data; always on the CPU")
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for all steps")
    parser.add_argument("--out", type=Path, help="file to append the lines to")
    options = parser.parse_args(argv)
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    options.small |= options.device == "cpu"
    return options


def rounded(value: Any) -> Any:
    """Plain numbers of four digits, at any depth."""
    if isinstance(value, dict):
        return {str(name): rounded(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main(argv: Sequence[str] | None = None) -> int:
    """Do the steps asked for; returns how many are not ok."""
    options = parse_arguments(argv)
    began, verdicts = time.perf_counter(), []

    def say(line: dict[str, Any]) -> None:
        text = json.dumps(rounded(line), default=str)
        print(text, flush=True)
        if options.out:
            with options.out.open("a", encoding="utf-8") as file:
                file.write(text + "\n")

    worker = Worker(options.device, options.small)
    try:
        for name in dict.fromkeys(["machine", *options.steps]):
            chosen, left = STEPS[name], options.budget - (time.perf_counter() - began)
            if options.small and not chosen.small:
                found = {"ok": None, "skipped": "on little data the first of its kind is enough"}
            elif left <= 0:
                found = {"ok": None, "skipped": f"the budget of {options.budget:.0f} s is used up"}
            else:
                # The CPU may be busy with other things: there only the budget ends a step.
                limit = chosen.seconds if options.device.startswith("cuda") else left
                found = worker(chosen.run, min(left, limit))
            verdicts.append(found["ok"])
            say({"step": name, **found})
    finally:
        worker.end()
    failed = verdicts.count(False)
    counts = {"right": verdicts.count(True), "failed": failed, "skipped": verdicts.count(None)}
    say({"step": "total", "ok": not failed, "seconds": time.perf_counter() - began, **counts})
    return failed


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
