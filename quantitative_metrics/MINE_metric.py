"""Mutual information between images and their codes, in nats: how much a code says of its image.

Two scores:

    mutual_information      of any projection, by a critic that learns to tell true pairs of image
                            and code from mixed ones (the approach of Belghazi et al. 2018, "Mutual
                            information neural estimation", arXiv:1801.04062, with the bounds of
                            Poole et al. 2019, arXiv:1905.06922)
    analytic_information    of the stochastic encoder of a VAE, from its means and variances alone
                            (Hoffman and Johnson 2016, "ELBO surgery")

The bounds of Poole hold for a critic that never saw the pairs it is judged on. So the critic is
trained on one part of the pairs, training stops by a second part, and the value comes from a third.
Averaging an image down and taking principal components can only lower its information (the data
processing inequality), so the value stays a lower bound. All critics of a call, those of several
projections and repeats, are trained in one batch. Two modes:

    held_out    as above, on the leading principal components of images of at most 16 pixels a side
                and standardised codes (the default)
    thesis      the original's way: trained on all pairs and judged on the same, pixels and codes as
                they are, mean of the last 50 epochs of the training curve. It grows by
                over-fitting with every epoch and is no bound.

A deterministic code of continuous images has infinite information in theory. What is measured is
how much of it a critic finds with the given number of pairs, below a cap of log(pairs compared at
once): compare projections of the same number of cells, and read the report where the cap is near.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from itertools import count, islice

import numpy as np
import torch
from torch import Tensor, nn

from util import processes
from util.errors import UserError
from util.latents import finite_matrix
from util.mutual_information import BOUNDS, Bound, EstimatorStack, InformationEstimator

LEAST_PAIRS = 50
PARTS = (0.6, 0.2, 0.2)  # of the pairs: to train, to stop, to report
COMPARED_AT_ONCE = 4096  # reported pairs in one score matrix, at most: they set the cap
_COMPARED_TO_STOP = 1024  # pairs of the stopping part, which is looked at often
_CRITICS_AT_ONCE = 12  # trained in one batch, at most: they set the memory with the next
_WEIGHTS_AT_ONCE = 2**25
CHECK_EVERY = 20  # steps between looks at the part that stops the training
THESIS_LAST_EPOCHS = 50
_IMAGES_AT_ONCE = 1024
_NEAR_CAP = 1.0  # nats; nearer than this to the cap, even the best critic loses a third of a nat


@dataclass(frozen=True)
class InformationSettings:
    """How the critic is trained and judged; the defaults are the mode `held_out`."""

    held_out: bool = True
    """Judge the critic on pairs it was not trained on; else by its training curve."""
    bound: Bound = "infonce"
    """`infonce`, `nwj` or `interpolated`; InfoNCE had the least bias for known Gaussians."""
    alpha: float = 0.01
    """Share of InfoNCE in the interpolated bound; sigmoid(-4.6) = 0.01 as in the thesis."""
    image_size: int | None = 16
    """Pixels: larger images are averaged down to this side. None shows all pixels to the critic."""
    components: int | None = 64
    """Principal components of the images that the critic sees, each weighed by its standard
    deviation, so that it learns from coarse to fine. None shows the pixels, as `image_size` None
    does."""
    hidden: int = 160
    """Units of the hidden layers of the critic; with all pixels, of its part for codes."""
    standardise: bool = True
    """Standardise each column of codes and vectors; else they are taken as they are."""
    repeats: int = 3
    """Trainings, each with initial weights and a reporting part of its own."""
    pairs: int | None = 20_000
    """Use at most so many pairs, drawn at random; None uses all."""
    steps: int = 1200
    """Training steps at most where pairs are held out; the learning rate falls to 0 over them."""
    patience: int = 100
    """Steps without a better value on the stopping part before training ends."""
    epochs: int = 200
    """Passes over the pairs where none are held out."""
    batch: int = 192
    """Pairs per training step."""
    learning_rate: float = 4e-3
    """Of Adam, at the start."""
    averaging: float = 0.99
    """Decay per step of the running mean of the weights, which is what is judged on held-out pairs;
    0 judges the weights."""


MODES = {
    "held_out": InformationSettings(),
    "thesis": InformationSettings(
        held_out=False,
        bound="interpolated",
        image_size=None,
        components=None,
        hidden=256,
        standardise=False,
        repeats=1,
        pairs=None,
        batch=256,
        learning_rate=5e-4,
    ),
}


@dataclass(frozen=True)
class InformationScore:
    """Mutual information of images and codes in nats; higher is better, 0 is none.

    value: mean over the repeats; in mode `held_out` a lower bound up to its standard error.
    spread: standard deviation (n - 1) between repeats; NaN for one.
    standard_error: of `value` through the choice of the reported pairs; NaN in mode `thesis`.
    cap: the largest value that the bound can show with so many pairs at once; inf for `nwj`.
    values: of each repeat.
    epochs: passes over the training pairs in each repeat.
    curves: per repeat the value every 20 steps on the part that stops the training; in mode
        `thesis` the mean of each epoch on the training pairs.
    n_pairs: pairs used.
    report: what to know about the value, one line each.
    """

    value: float
    spread: float
    standard_error: float
    cap: float
    values: tuple[float, ...]
    epochs: tuple[float, ...]
    curves: tuple[tuple[float, ...], ...] = field(repr=False)
    n_pairs: int
    mode: str
    settings: InformationSettings = field(repr=False)
    report: tuple[str, ...] = ()


def mutual_information(
    images: np.ndarray,
    codes: np.ndarray,
    *,
    mode: str = "held_out",
    low: float | np.ndarray | None = None,
    high: float | np.ndarray | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    context: str = "",
    **changes,
) -> InformationScore:
    """Estimate I(image; code) by a variational lower bound with a learnt critic.

    Args:
        images: (N, C, H, W) uint8, uint16 or float of any size, or (N, D) vectors such as features.
        codes: (N, d) in the same order, finite.
        mode: "held_out" or "thesis".
        low, high: raw pixel values that become 0 and 1, numbers or (C,); None takes the range of
            the dtype, and 0..1 for float.
        seed: of the parts, initial weights and batches.
        device: torch device; the random numbers come from the CPU and are the same everywhere.
        context: put before the messages of errors and of the report.
        changes: fields of `InformationSettings` that differ from the mode's.

    Raises:
        UserError: fewer than 50 pairs, NaN or infinite values, lengths or shapes that do not fit,
            an unknown mode or setting, or pixels outside 0..1.

    """
    return mutual_information_of(
        images,
        {context: codes},
        mode=mode,
        low=low,
        high=high,
        seed=seed,
        device=device,
        context="{}",
        **changes,
    )[context]


def mutual_information_of(
    images: np.ndarray,
    projections: Mapping[str, np.ndarray],
    *,
    mode: str = "held_out",
    low: float | np.ndarray | None = None,
    high: float | np.ndarray | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    context: str = "{}: ",
    **changes,
) -> dict[str, InformationScore]:
    """`mutual_information` of several projections of the same images, their critics in one batch.

    A score does not depend on the other projections, apart from rounding.

    Args:
        images: as in `mutual_information`.
        projections: name -> (N, d) codes in the same order, finite; d may differ.
        mode, low, high, seed, device, changes: as in `mutual_information`.
        context: put before the messages of errors and of the reports, with the name for `{}`.

    Returns:
        name -> score.

    Raises:
        UserError: as `mutual_information`, with the name of the projection.
    """
    settings = _settings(mode, changes)
    contexts = {name: context.replace("{}", name) for name in projections}
    images, arrays = np.asarray(images), {}
    for name, about in contexts.items():
        arrays[name] = _codes(projections[name], len(images), about)
    rng, n_all = np.random.default_rng(seed), len(images)
    if settings.pairs is not None and settings.pairs < n_all:
        rows = np.sort(rng.choice(n_all, settings.pairs, replace=False))
        images, arrays = images[rows], {name: array[rows] for name, array in arrays.items()}
    x = _critic_input(images, settings.image_size, low, high, next(iter(contexts.values()), ""))
    codes = {name: torch.from_numpy(array) for name, array in arrays.items()}
    with nullcontext() if _sees_all_pixels(x, settings) else processes.threads(1):
        found = _results(x, codes, settings, rng, device)
    return {
        name: _score(results, mode, settings, len(x), n_all, contexts[name])
        for name, results in found.items()
    }


def _codes(codes: np.ndarray, n_images: int, context: str) -> np.ndarray:
    """The codes of as many images, enough of them, as (N, d) float32."""
    codes = finite_matrix(codes, f"{context}codes", np.float32)
    if n_images != len(codes):
        raise UserError(f"{context}{n_images} images for {len(codes)} codes: they must match")
    if len(codes) < LEAST_PAIRS:
        raise UserError(
            f"{context}{len(codes)} pairs of image and code: at least {LEAST_PAIRS} are needed"
        )
    return codes


def smaller_images(
    images: np.ndarray,
    size: int = 16,
    low: float | np.ndarray | None = None,
    high: float | np.ndarray | None = None,
) -> np.ndarray:
    """Pixels scaled to 0..1 and averaged down to at most size x size.

    Args:
        images: (N, C, H, W) uint8, uint16 or float.
        size: largest side of the result in pixels; smaller images keep theirs.
        low, high: as in `mutual_information`.

    Returns:
        (N, C, min(H, size), min(W, size)) float32.

    Raises:
        UserError: no such images, NaN or infinite pixels, or pixels outside 0..1.

    """
    images = np.asarray(images)
    if images.ndim != 4 or 0 in images.shape:
        raise UserError(f"images are an array of shape {images.shape}, not (N, C, H, W)")
    return _scaled(images, size, low, high, "").numpy()


def _settings(mode: str, changes: dict) -> InformationSettings:
    """The mode's settings with the changes asked for, checked."""
    if mode not in MODES:
        raise UserError(f"mode {mode!r}: choose one of {', '.join(MODES)}")
    known = {setting.name for setting in fields(InformationSettings)}
    if unknown := sorted(changes.keys() - known):
        raise UserError(f"{unknown[0]!r} is not a setting: choose from {', '.join(sorted(known))}")
    settings = replace(MODES[mode], **changes)
    if settings.bound not in BOUNDS:
        raise UserError(f"bound {settings.bound!r}: choose one of {', '.join(BOUNDS)}")
    if not 0 < settings.alpha <= 1:
        raise UserError(f"alpha = {settings.alpha}: above 0 up to 1")
    if not 0 <= settings.averaging < 1:
        raise UserError(f"averaging = {settings.averaging}: from 0 to below 1")
    if settings.pairs is not None and settings.pairs < LEAST_PAIRS:
        raise UserError(f"pairs = {settings.pairs}: at least {LEAST_PAIRS}")
    for name, least in (
        *(("repeats", 1), ("batch", 2), ("epochs", 1), ("hidden", 1)),
        *(("components", 1),) * (settings.components is not None),
        *(("steps", CHECK_EVERY), ("patience", CHECK_EVERY)),
    ):
        if getattr(settings, name) < least:
            raise UserError(f"{name} = {getattr(settings, name)}: at least {least}")
    return settings


def _critic_input(
    images: np.ndarray,
    size: int | None,
    low: float | np.ndarray | None,
    high: float | np.ndarray | None,
    context: str,
) -> Tensor:
    """(N, C, H, W) pixels in 0..1, averaged down to the size; or (N, D) vectors as they are."""
    if images.ndim == 2:
        return torch.from_numpy(finite_matrix(images, f"{context}images", np.float32))
    if images.ndim != 4 or 0 in images.shape:
        raise UserError(
            f"{context}images are an array of shape {images.shape}, not (N, C, H, W) or (N, D)"
        )
    return _scaled(images, size, low, high, context)


def _scaled(
    images: np.ndarray,
    size: int | None,
    low: float | np.ndarray | None,
    high: float | np.ndarray | None,
    context: str,
) -> Tensor:
    """(N, C, H, W) float32 in 0..1, block by block, averaged down to at most the size."""
    low, span = _pixel_range(images, low, high, context)
    height, width = (min(side, size or side) for side in images.shape[2:])
    scaled = torch.empty(len(images), images.shape[1], height, width)
    for start in range(0, len(images), _IMAGES_AT_ONCE):
        block = (images[start : start + _IMAGES_AT_ONCE].astype(np.float32) - low) / span
        if not np.isfinite(block).all():
            raise UserError(f"{context}images with NaN or infinite pixels; leave them out")
        pixels = torch.from_numpy(block.clip(0, 1))
        smaller = nn.functional.adaptive_avg_pool2d(pixels, (height, width))
        scaled[start : start + _IMAGES_AT_ONCE] = smaller
    return scaled


def _pixel_range(
    images: np.ndarray,
    low: float | np.ndarray | None,
    high: float | np.ndarray | None,
    context: str,
) -> tuple[np.ndarray, np.ndarray]:
    """The value that becomes 0 and the distance to the one that becomes 1, (1 or C, 1, 1) each."""
    if (low is None) != (high is None):
        raise UserError(f"{context}low = {low}, high = {high}: give both or neither")
    if low is None:
        low, high = 0, 1
        if images.dtype in (np.uint8, np.uint16):
            high = np.iinfo(images.dtype).max
        elif images.dtype.kind != "f":
            raise UserError(f"{context}images are {images.dtype}: give low and high")
        elif images.min() < 0 or images.max() > 1:
            raise UserError(
                f"{context}pixels of type {images.dtype} from {images.min():g} to "
                f"{images.max():g}, not 0..1: give low and high"
            )
    low, high = (np.asarray(value, np.float32).reshape(-1, 1, 1) for value in (low, high))
    if len(low) not in (1, images.shape[1]) or low.shape != high.shape:
        raise UserError(
            f"{context}low and high of {len(low)} and {len(high)} values for "
            f"{images.shape[1]} channels"
        )
    if not (high > low).all():
        raise UserError(f"{context}high = {high.ravel()}: must be above low = {low.ravel()}")
    return low, high - low


def _score(
    results: list["_Result"],
    mode: str,
    settings: InformationSettings,
    n_pairs: int,
    n_all: int,
    context: str,
) -> InformationScore:
    """Sum up the repeats of one projection."""
    notes = [f"{n_pairs} of {n_all} pairs, drawn at random"] if n_pairs < n_all else []
    notes += _remarks(results, settings)
    values = np.array([result.value for result in results])
    errors = np.array([result.error for result in results])
    disjoint = min(len(values), round(1 / PARTS[2]))
    cap = _cap(n_pairs, settings)
    if values.mean() > cap - _NEAR_CAP:
        notes.append(
            f"{values.mean():.2f} nats are close to the cap of {cap:.2f}: the information may be "
            "much larger; more cells raise the cap"
        )
    return InformationScore(
        value=float(values.mean()),
        spread=float(values.std(ddof=1)) if len(values) > 1 else math.nan,
        standard_error=math.sqrt(np.square(errors).mean() / disjoint),
        cap=cap,
        values=tuple(values.tolist()),
        epochs=tuple(result.epochs for result in results),
        curves=tuple(tuple(result.curve) for result in results),
        n_pairs=n_pairs,
        mode=mode,
        settings=settings,
        report=tuple(context + note for note in notes),
    )


@dataclass(frozen=True)
class _Result:
    """What one repeat found."""

    value: float
    error: float
    epochs: float
    curve: list[float]
    stalled: bool = True


_NOTHING = _Result(value=0.0, error=0.0, epochs=0.0, curve=[])  # where codes or images do not vary


def _sees_all_pixels(x: Tensor, settings: InformationSettings) -> bool:
    """Whether the critic is the thesis's; its wide layers find nothing more in averaged images."""
    return x.ndim == 4 and settings.image_size is None


def _parts(order: np.ndarray, held_out: bool) -> list[Tensor]:
    """Row numbers to train, to stop and to report."""
    ends = [round(sum(PARTS[:1]) * len(order)), round(sum(PARTS[:2]) * len(order))]
    parts = np.split(order, ends) if held_out else [order, order[:0], order[:0]]
    return [torch.from_numpy(part.copy()) for part in parts]


def _cap(n_pairs: int, settings: InformationSettings) -> float:
    """Largest value of the bound, in nats."""
    if settings.bound == "nwj":
        return math.inf
    if settings.held_out:
        reported = len(_parts(np.arange(n_pairs), True)[2])
        compared = len(_chunks(torch.arange(reported))[-1])
    else:
        compared = min(settings.batch, n_pairs)
    return math.log(compared / (settings.alpha if settings.bound == "interpolated" else 1))


def _remarks(results: list[_Result], settings: InformationSettings) -> list[str]:
    """What the reader has to know of the value, a line each."""
    if all(result is _NOTHING for result in results):
        return ["all codes or all images are the same: there is no information"]
    if not settings.held_out:
        return ["estimated on the critic's own training pairs: grows by over-fitting"]
    notes = []
    if nothing := sum(result.value == 0 for result in results):
        notes.append(
            f"no critic did better than a constant one in {nothing} of {len(results)} repeats, "
            "which count as 0"
        )
    if unfinished := sum(not result.stalled for result in results):
        notes.append(
            f"still improving after {settings.steps} steps in {unfinished} of {len(results)} "
            "repeats: more steps may find more"
        )
    return notes


@dataclass(frozen=True)
class _Pairs:
    """Images and codes of K critics on the device, and the parts of each repeat.

    Attributes:
        x: (S, N, D) flat images, for each repeat or, with S = 1, for all.
        z: (K, N, d) codes of each critic.
        repeat: (K,) number of each critic's repeat.
        parts: rows (R, n) to train, to stop and to report.
    """

    x: Tensor
    z: Tensor
    repeat: Tensor
    parts: tuple[Tensor, Tensor, Tensor]

    def batch(self, rows: Tensor, critics: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (R, B) of each repeat -> images (k, B, D) and codes (k, B, d) of these critics."""
        repeat = self.repeat[critics]
        rows = rows[repeat]  # (k, B)
        images = repeat if len(self.x) > 1 else torch.zeros_like(repeat)
        return self.x[images[:, None], rows], self.z[critics[:, None], rows]


def _results(
    x: Tensor,
    codes: Mapping[str, Tensor],
    settings: InformationSettings,
    rng: np.random.Generator,
    device: str | torch.device,
) -> dict[str, list[_Result]]:
    """A result per repeat of each projection; the critics of codes as wide share batches."""
    order, seeds = rng.permutation(len(x)), rng.integers(2**62, size=settings.repeats).tolist()
    # the parts move round, so up to five repeats report on different pairs
    shift = len(order) // max(settings.repeats, round(1 / PARTS[2]))
    parts = [_parts(np.roll(order, -shift * r), settings.held_out) for r in range(len(seeds))]
    varied = [] if (x == x[0]).all() else [n for n, z in codes.items() if (z != z[0]).any()]
    found = {name: [_NOTHING] * len(seeds) for name in codes}
    found |= {name: [] for name in varied}
    if not varied:
        return found
    images = _spaces(x, parts, settings).to(device)
    shape = tuple(x.shape[1:]) if _sees_all_pixels(x, settings) else (images.shape[2],)
    for width in sorted({codes[name].shape[1] for name in varied}):
        critics = [(n, r) for n in varied if codes[n].shape[1] == width for r in range(len(seeds))]
        estimators = [_new_estimator(shape, width, settings, seed, device) for seed in seeds]
        for group in _groups(critics, estimators[0]):
            results = _train_and_judge(
                _pairs(images, codes, parts, group, settings),
                [deepcopy(estimators[repeat]) for _, repeat in group],
                settings,
                seeds,
            )
            for (name, _), result in zip(group, results, strict=True):
                found[name].append(result)
    return found


def _spaces(x: Tensor, parts: Sequence[Sequence[Tensor]], settings: InformationSettings) -> Tensor:
    """(S, N, D) what the critics see of the images: in each repeat, or the same in all."""
    if x.ndim == 2 and settings.standardise:
        return torch.stack([_standardised(x, part[0]) for part in parts])
    flat, number = x.flatten(1), settings.components
    if x.ndim == 2 or _sees_all_pixels(x, settings) or not number or number >= flat.shape[1]:
        return flat[None]
    return torch.stack([_components(flat, part[0], number) for part in parts])


def _components(x: Tensor, rows: Tensor, number: int) -> Tensor:
    """(N, number) leading principal components of these rows, times their standard deviation.

    The largest keeps its scale. Adam gives every input the same say; by their own scale alone, many
    small components would drown the few that are seen again in other images.
    """
    fitted = x[rows].double()
    variances, axes = torch.linalg.eigh(fitted.T.cov())  # ascending
    deviations = variances[-number:].clamp_min(0).sqrt()
    axes = axes[:, -number:] * (deviations / deviations[-1].clamp_min(1e-12))
    return x @ axes.float() - (fitted.mean(0) @ axes).float()


def _new_estimator(
    image_shape: tuple[int, ...],
    width: int,
    settings: InformationSettings,
    seed: int,
    device: str | torch.device,
) -> InformationEstimator:
    """An untrained critic with the initial weights of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return InformationEstimator(
            image_shape, width, settings.bound, settings.alpha, settings.hidden
        ).to(device)


def _groups(critics: list[tuple[str, int]], one: nn.Module) -> Iterator[list[tuple[str, int]]]:
    """The critics in groups that fit into memory."""
    weights = sum(parameter.numel() for parameter in one.parameters())
    at_once = max(1, min(_CRITICS_AT_ONCE, _WEIGHTS_AT_ONCE // weights))
    for start in range(0, len(critics), at_once):
        yield critics[start : start + at_once]


def _pairs(
    images: Tensor,
    codes: Mapping[str, Tensor],
    parts: Sequence[Sequence[Tensor]],
    critics: Sequence[tuple[str, int]],
    settings: InformationSettings,
) -> _Pairs:
    """What the critics (projection, repeat) are shown."""
    device = images.device
    z = [
        _standardised(codes[name], parts[repeat][0]) if settings.standardise else codes[name]
        for name, repeat in critics
    ]
    return _Pairs(
        images,
        torch.stack(z).to(device),
        torch.tensor([repeat for _, repeat in critics], device=device),
        tuple(torch.stack(part).to(device) for part in zip(*parts, strict=True)),
    )


def _train_and_judge(
    pairs: _Pairs,
    estimators: list[InformationEstimator],
    settings: InformationSettings,
    seeds: Sequence[int],
) -> list[_Result]:
    """Train the critics of a group together and judge each."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    stack = EstimatorStack(estimators)
    optimizer = torch.optim.Adam(stack.parameters(), settings.learning_rate, fused=True)
    if not settings.held_out:
        curves = _train_on_all(stack, optimizer, pairs, settings, generators)
        return [
            _Result(float(np.mean(curve[-THESIS_LAST_EPOCHS:])), math.nan, len(curve), curve)
            for curve in curves
        ]
    trained = _train_until_stalled(stack, optimizer, pairs, settings, generators)
    return [
        _judged(estimator, pairs, number, *trained, settings)
        for number, estimator in enumerate(estimators)
    ]


def _judged(
    estimator: InformationEstimator,
    pairs: _Pairs,
    number: int,
    best: EstimatorStack,
    curves: list[list[float]],
    settings: InformationSettings,
) -> _Result:
    """What one critic, with its best weights, finds in the part to report."""
    curve, n_train = curves[number], pairs.parts[0].shape[1]
    epochs = CHECK_EVERY * len(curve) / (n_train // min(settings.batch, n_train))
    stalled = len(curve) < settings.steps // CHECK_EVERY
    if max(curve) <= 0:  # for the stopping part the best critic is a constant, whose bound is 0
        return _Result(0.0, 0.0, epochs, curve, stalled)
    best.write(number, estimator)
    repeat = int(pairs.repeat[number])
    x = pairs.x[repeat if len(pairs.x) > 1 else 0]
    judged = (estimator, x, pairs.z[number], _chunks(pairs.parts[2][repeat]))
    return _Result(_held_out_bound(*judged), _standard_error(*judged), epochs, curve, stalled)


def _standardised(values: Tensor, rows: Tensor) -> Tensor:
    """Columns (N, d) with mean 0 and standard deviation 1 in these rows; constant ones are 0."""
    fitted = values[rows].double()
    constant = fitted.amax(0) == fitted.amin(0)
    spread = fitted.std(0).masked_fill(constant, torch.inf)
    return ((values - fitted.mean(0)) / spread).float()


def _epoch(train: Tensor, batch: int, generators: Sequence[torch.Generator]) -> Iterator[Tensor]:
    """Rows (R, batch) of the training parts (R, n) in a new order each; a rest is left out."""
    n = train.shape[1]
    batch = min(batch, n)
    order = torch.stack([torch.randperm(n, generator=generator) for generator in generators])
    rows = train.gather(1, order.to(train.device))  # (R, n), in one upload
    yield from rows[:, : n // batch * batch].split(batch, dim=1)


def _ascend(
    stack: EstimatorStack, optimizer: torch.optim.Optimizer, x: Tensor, z: Tensor
) -> Tensor:
    """One training step; gives the bounds (K,) before it."""
    bounds = stack(x, z)
    optimizer.zero_grad()
    (-bounds.sum()).backward()
    optimizer.step()
    return bounds.detach()


def _train_on_all(
    stack: EstimatorStack,
    optimizer: torch.optim.Optimizer,
    pairs: _Pairs,
    settings: InformationSettings,
    generators: Sequence[torch.Generator],
) -> list[list[float]]:
    """The training curve of each critic: mean bound over the batches of each epoch."""
    critics, means = torch.arange(len(pairs.z), device=pairs.z.device), []
    for _ in range(settings.epochs):
        bounds = [
            _ascend(stack, optimizer, *pairs.batch(rows, critics))
            for rows in _epoch(pairs.parts[0], settings.batch, generators)
        ]
        means.append(torch.stack(bounds).mean(0))
    return torch.stack(means, dim=1).tolist()  # (K, epochs)


def _train_until_stalled(
    stack: EstimatorStack,
    optimizer: torch.optim.Optimizer,
    pairs: _Pairs,
    settings: InformationSettings,
    generators: Sequence[torch.Generator],
) -> tuple[EstimatorStack, list[list[float]]]:
    """Train on one part and stop by another; a critic that no longer improves leaves the batch.

    Returns:
        the stack with the averaged weights that were best on the stopping part, and the value there
        of each critic at each check.

    """
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    averaged, best = deepcopy(stack), deepcopy(stack)
    critics = torch.arange(len(pairs.z), device=pairs.z.device)  # that still learn
    curves: list[list[float]] = [[] for _ in critics]
    train, stop = pairs.parts[0], pairs.parts[1][:, :_COMPARED_TO_STOP]
    endless = (rows for _ in count() for rows in _epoch(train, settings.batch, generators))
    for step, rows in enumerate(islice(endless, settings.steps), start=1):
        _ascend(stack, optimizer, *pairs.batch(rows, critics))
        schedule.step()
        _average(averaged, stack, settings.averaging if step > 1 else 0)
        if step % CHECK_EVERY:
            continue
        learning, improved = [], []
        numbers = critics.tolist()
        for place, bound in enumerate(_stopping_bounds(averaged, pairs, stop, critics)):
            curve = curves[numbers[place]]
            curve.append(bound if math.isfinite(bound) else -math.inf)  # NWJ can overflow
            since = len(curve) - 1 - int(np.argmax(curve))
            improved += [place] if since == 0 else []
            learning += [place] if CHECK_EVERY * since < settings.patience else []
        _keep_best(best, averaged, critics, improved)
        if not learning:
            break
        if len(learning) < len(numbers):
            kept = torch.tensor(learning, device=critics.device)
            critics = critics[kept]
            _leave_out_others(stack, averaged, optimizer, kept)
    return best, curves


@torch.no_grad()
def _average(averaged: EstimatorStack, stack: EstimatorStack, decay: float) -> None:
    """Move the running mean of the weights on by a step."""
    for mean, weights in zip(averaged.parameters(), stack.parameters(), strict=True):
        mean.lerp_(weights, 1 - decay)


@torch.no_grad()
def _stopping_bounds(
    averaged: EstimatorStack, pairs: _Pairs, rows: Tensor, critics: Tensor
) -> list[float]:
    """The bound of each critic that still learns on these rows (R, n), read back at once."""
    return averaged(*pairs.batch(rows, critics)).tolist()


@torch.no_grad()
def _keep_best(
    best: EstimatorStack, averaged: EstimatorStack, critics: Tensor, places: list[int]
) -> None:
    """Store the weights of the critics at these places of the batch under their own numbers."""
    places = torch.tensor(places, dtype=torch.long, device=critics.device)
    for kept, weights in zip(best.parameters(), averaged.parameters(), strict=True):
        kept[critics[places]] = weights[places]


def _leave_out_others(
    stack: EstimatorStack, averaged: EstimatorStack, optimizer: torch.optim.Optimizer, kept: Tensor
) -> None:
    """Of all weights and of the optimiser's state, keep those of the critics at these places."""
    for weights, mean in zip(stack.parameters(), averaged.parameters(), strict=True):
        weights.data, mean.data, weights.grad = weights.data[kept], mean.data[kept], None
        state = optimizer.state[weights]
        state |= {name: state[name][kept] for name in ("exp_avg", "exp_avg_sq")}


def _chunks(rows: Tensor, at_once: int = COMPARED_AT_ONCE) -> tuple[Tensor, ...]:
    """Rows in the fewest equal groups of at most so many, the smallest last."""
    return rows.tensor_split(math.ceil(len(rows) / at_once))


@torch.no_grad()
def _held_out_bound(
    estimator: InformationEstimator, x: Tensor, z: Tensor, chunks: tuple[Tensor, ...]
) -> float:
    """Mean of the bound over chunks of pairs that the critic was not trained on."""
    return float(np.mean([estimator(x[rows], z[rows]).item() for rows in chunks]))


def _standard_error(
    estimator: InformationEstimator, x: Tensor, z: Tensor, chunks: tuple[Tensor, ...]
) -> float:
    """Standard error of `_held_out_bound` through the choice of the pairs."""
    errors = [_error_of_chunk(estimator, x[rows], z[rows]) for rows in chunks]
    return math.sqrt(np.square(errors).sum()) / len(errors)


def _error_of_chunk(estimator: InformationEstimator, x: Tensor, z: Tensor) -> float:
    """Standard error of the bound on n pairs, by the delta method.

    A pair enters as a code, with its term of the bound, and as an image, against which all codes
    are held: to first order, weighing an image more is adding to its column of the scores.
    """
    with torch.no_grad():
        scores = estimator.critic(x, z)
    shift = torch.zeros(len(scores), device=scores.device, requires_grad=True)
    terms = estimator.from_scores(scores + shift, z, "none")  # (n,)
    (as_image,) = torch.autograd.grad(terms.sum(), shift)
    influence = terms.detach() + as_image
    return influence.std().item() / math.sqrt(len(influence))


@dataclass(frozen=True)
class EncoderInformation:
    """I(x; z) of a stochastic encoder over the cells, in nats.

    value: in [0, log N] but for the noise of the sample.
    standard_error: of `value`.
    mean_kl: mean over the cells of KL(q(z|x) || N(0, 1)), the rate of the VAE.
    marginal_kl: KL(q(z) || N(0, 1)) = mean_kl - value, how far the codes of all cells together are
        from the prior.
    cap: log N.
    n_sampled: cells whose codes were drawn.
    """

    value: float
    standard_error: float
    mean_kl: float
    marginal_kl: float
    cap: float
    n_cells: int
    n_sampled: int


def analytic_information(
    mean: np.ndarray,
    logvar: np.ndarray,
    *,
    sample: int | None = 2000,
    draws: int = 1,
    block: int = 2**24,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> EncoderInformation:
    """I(x; z) of the encoder q(z|x) = N(mean, exp(logvar)) over N cells (Hoffman and Johnson 2016).

    The mean KL to the prior minus that of the aggregate q(z) = mean_i q(z|x_i). The prior cancels
    in the difference, so it is estimated as the mean of log q(z|x) - log q(z) over z drawn from
    q(z|x): exactly 0 for identical encoders, and never above log N. The mixture q(z) is always of
    all N cells, of which only a sample is drawn from.

    Args:
        mean, logvar: (N, d) of the Gaussian posteriors.
        sample: cells to draw codes of; None, or N and more, takes every cell.
        draws: codes per sampled cell. One is enough; with more, the standard error counts only what
            is random where every cell is taken.
        block: densities held at once, 8 bytes each.
        seed: of cells and codes.
        device: torch device; it must know float64 ("cpu" or "cuda", not "mps").

    Raises:
        UserError: fewer than two cells, NaN or infinite values, shapes that do not fit, or bad
            numbers.

    """
    mean = finite_matrix(mean, "mean", np.float32).astype(np.float64)
    logvar = finite_matrix(logvar, "logvar", np.float32).astype(np.float64)
    if mean.shape != logvar.shape:
        raise UserError(
            f"mean of shape {mean.shape} and logvar of shape {logvar.shape}: must match"
        )
    n, n_sampled = len(mean), min(sample or len(mean), len(mean))
    for name, value, least in (("cells", n, 2), ("sample", n_sampled, 2), ("draws", draws, 1)):
        if value < least:
            raise UserError(f"{name} = {value}: at least {least}")
    kl = 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar).sum(1)  # (N,)
    rng = np.random.default_rng(seed)
    rows = rng.choice(n, n_sampled, replace=False)
    noise = rng.standard_normal((n_sampled, draws, mean.shape[1]))
    ratios = _log_ratios(
        mean, logvar, rows, noise, max(1, block // n), device
    )  # (n_sampled, draws)
    value = float(ratios.mean())
    return EncoderInformation(
        value=value,
        standard_error=_nested_error(ratios, n),
        mean_kl=float(kl.mean()),
        marginal_kl=float(kl.mean()) - value,
        cap=math.log(n),
        n_cells=n,
        n_sampled=n_sampled,
    )


def _log_ratios(
    mean: np.ndarray,
    logvar: np.ndarray,
    rows: np.ndarray,
    noise: np.ndarray,
    block: int,
    device: str | torch.device,
) -> np.ndarray:
    """(n, draws) log q(z|x) - log q(z) at z = mean + exp(logvar / 2) noise of the given rows."""
    # -2 log q(z|x_j) but for a constant, as one product: z^2 / v_j - 2 z mean_j / v_j + ...
    mean = mean - mean.mean(0)  # squares of a far-off mean would cost digits
    precision = np.exp(-logvar)
    constant = (mean**2 * precision + logvar).sum(1, keepdims=True)
    encoders = np.concatenate([precision, -2 * mean * precision, constant], axis=1)  # (N, 2 d + 1)
    encoders = torch.as_tensor(encoders, device=device)
    codes = mean[rows, None] + np.exp(logvar[rows, None] / 2) * noise  # (n, draws, d)
    own = -0.5 * (noise**2 + logvar[rows, None]).sum(2)  # (n, draws)
    codes = torch.as_tensor(codes.reshape(-1, mean.shape[1]), device=device)
    mixture = []
    for z in codes.split(block):
        powers = torch.cat([z**2, z, torch.ones_like(z[:, :1])], dim=1)
        densities = -0.5 * powers @ encoders.T  # (block, N)
        mixture.append(densities.logsumexp(1) - math.log(len(encoders)))
    return own - torch.cat(mixture).cpu().numpy().reshape(own.shape)


def _nested_error(values: np.ndarray, n_cells: int) -> float:
    """Standard error of the mean of (n, draws) values, n cells drawn without replacement from N.

    Their own spread counts less the more of all cells were drawn; the spread between draws, known
    only from two on, always counts.
    """
    n, draws = values.shape
    between = values.mean(1).var(ddof=1)  # of the means, which holds the spread of the draws too
    within = values.var(axis=1, ddof=1).mean() / draws if draws > 1 else between
    return math.sqrt((within + (1 - n / n_cells) * max(between - within, 0)) / n)
