"""Mutual information between images and their codes, in nats: how much a code tells of its image.

Two numbers that a user may want:

    mutual_information      of any projection, by a critic that learns to tell true pairs of image
                            and code from mixed ones (the approach of Belghazi et al. 2018, "Mutual
                            information neural estimation", arXiv:1801.04062, with the bounds of
                            Poole et al. 2019, arXiv:1905.06922)
    analytic_information    of the stochastic encoder of a VAE, from its means and variances alone
                            (Hoffman and Johnson 2016, "ELBO surgery")

The bounds of Poole hold for a critic that never saw the pairs it is judged on. So the critic is
trained on one part of the pairs, training stops by a second part, and the value comes from a third.
What is done to the image before the critic sees it can only lower the information in it (the data
processing inequality), so with smaller images the value stays a lower bound. Two modes:

    held_out    as above, on images of at most 16 pixels a side and standardised codes (the default)
    thesis      the original's way: trained on all pairs and judged on the same, pixels and codes as
                they are, mean of the last 50 epochs of the training curve. It grows by
                over-fitting with every epoch and is no bound.

A deterministic code of continuous images has infinite information in theory. What is measured is
how much of it a critic finds with the given number of pairs, below a cap of log(pairs compared at
once): compare projections at the same number of cells, and mind the report where the cap is near.
"""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from itertools import count, islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from util import processes
from util.mutual_information import BOUNDS, Bound, InformationEstimator
from util.runs import UserError

LEAST_PAIRS = 50
PARTS = (0.6, 0.2, 0.2)  # of the pairs: to train, to stop, to report
COMPARED_AT_ONCE = 4096  # reported pairs in one score matrix, at most: they set the cap
_COMPARED_TO_STOP = 1024  # the same of the stopping part, which is looked at often
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
    """Of the interpolated bound; sigmoid(-4.6) = 0.01 as in the thesis."""
    image_size: int | None = 16
    """Pixels: larger images are averaged down to this side. None shows all pixels to the critic."""
    standardise: bool = True
    """Codes and vectors to mean 0 and standard deviation 1 per column; else they are left raw."""
    repeats: int = 3
    """Trainings, each from other initial weights and judged on another part of the pairs."""
    pairs: int | None = 20_000
    """Use at most so many pairs, drawn at random; None uses all."""
    steps: int = 1200
    """Training steps at most where pairs are held out; the learning rate falls to 0 over them."""
    patience: int = 200
    """Steps without a better value on the stopping part before training ends."""
    epochs: int = 200
    """Passes over the pairs where none are held out."""
    batch: int = 256
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
        standardise=False,
        repeats=1,
        pairs=None,
        learning_rate=5e-4,
    ),
}


@dataclass(frozen=True)
class InformationScore:
    """Mutual information of images and codes in nats; higher is better, 0 is none.

    value: mean over the repeats; in mode `held_out` a lower bound but for its standard error.
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

    For several projections of the same images, reduce these once by `smaller_images` and give the
    result instead of the images.

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
    settings = _settings(mode, changes)
    codes = _finite_matrix(codes, f"{context}codes", "(N, d)")
    images = np.asarray(images)
    if len(images) != len(codes):
        raise UserError(f"{context}{len(images)} images for {len(codes)} codes: they must match")
    if len(codes) < LEAST_PAIRS:
        raise UserError(
            f"{context}{len(codes)} pairs of image and code: at least {LEAST_PAIRS} are needed"
        )
    rng = np.random.default_rng(seed)
    notes = []
    if settings.pairs is not None and settings.pairs < len(codes):
        notes.append(f"{settings.pairs} of {len(codes)} pairs, drawn at random")
        rows = np.sort(rng.choice(len(codes), settings.pairs, replace=False))
        images, codes = images[rows], codes[rows]
    x = _critic_input(images, settings.image_size, low, high, context)
    z = torch.from_numpy(codes)
    return _estimate(x, z, mode, settings, rng, device, context, notes)


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
        raise UserError(f"{unknown[0]!r} is no setting: choose from {', '.join(sorted(known))}")
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
        *(("repeats", 1), ("batch", 2), ("epochs", 1)),
        *(("steps", CHECK_EVERY), ("patience", CHECK_EVERY)),
    ):
        if getattr(settings, name) < least:
            raise UserError(f"{name} = {getattr(settings, name)}: at least {least}")
    return settings


def _finite_matrix(values: np.ndarray, name: str, shape: str) -> np.ndarray:
    """(N, d) finite numbers as float32."""
    values = np.asarray(values)
    if values.ndim != 2 or values.shape[1] == 0 or values.dtype.kind not in "buif":
        raise UserError(
            f"{name} are a {values.dtype} array of shape {values.shape}, not numbers of "
            f"shape {shape}"
        )
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise UserError(
            f"{name}: {bad.sum()} rows with NaN or infinite values (first in row {bad.argmax()});"
            " leave them out"
        )
    return values.astype(np.float32)


def _critic_input(
    images: np.ndarray,
    size: int | None,
    low: float | np.ndarray | None,
    high: float | np.ndarray | None,
    context: str,
) -> Tensor:
    """(N, C, H, W) pixels in 0..1, averaged down to the size; or (N, D) vectors as they are."""
    if images.ndim == 2:
        return torch.from_numpy(_finite_matrix(images, f"{context}images", "(N, D)"))
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


def _estimate(
    x: Tensor,
    z: Tensor,
    mode: str,
    settings: InformationSettings,
    rng: np.random.Generator,
    device: str | torch.device,
    context: str,
    notes: list[str],
) -> InformationScore:
    """Train and judge a critic per repeat, and sum up."""
    order, seeds = rng.permutation(len(x)), rng.integers(2**62, size=settings.repeats)
    if (z == z[0]).all() or (x == x[0]).all():
        results = [_Result(value=0.0, error=0.0, epochs=0.0, curve=[])] * settings.repeats
        notes.append("all codes or all images are the same: there is no information")
    else:
        # the parts move round, so up to five repeats report on different pairs
        shift = len(order) // max(settings.repeats, round(1 / PARTS[2]))
        parts = [
            _parts(np.roll(order, -shift * repeat), settings.held_out)
            for repeat in range(settings.repeats)
        ]
        with nullcontext() if _sees_all_pixels(x, settings) else processes.threads(1):
            results = [
                _repeat(x, z, part, settings, int(seed), device)
                for part, seed in zip(parts, seeds, strict=True)
            ]
        notes += _remarks(results, settings)
    values = np.array([result.value for result in results])
    errors = np.array([result.error for result in results])
    disjoint = min(len(values), round(1 / PARTS[2]))
    cap = _cap(len(x), settings)
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
        n_pairs=len(x),
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
    """What the trainings say about the value."""
    if not settings.held_out:
        return ["estimated on the pairs that the critic was trained on: grows by over-fitting"]
    notes = []
    if nothing := sum(result.value == 0 for result in results):
        notes.append(
            f"no critic did better than a constant one in {nothing} of {len(results)} repeats, "
            "which count as 0"
        )
    if unfinished := sum(not result.stalled for result in results):
        notes.append(
            f"not stalled after {settings.steps} steps in {unfinished} of {len(results)} repeats: "
            "more steps may find more"
        )
    return notes


def _repeat(
    x: Tensor,
    z: Tensor,
    parts: list[Tensor],
    settings: InformationSettings,
    seed: int,
    device: str | torch.device,
) -> _Result:
    """Train one critic and judge it."""
    if settings.standardise:
        z = _standardised(z, parts[0])
        x = _standardised(x, parts[0]) if x.ndim == 2 else x
    x, z, parts = x.to(device), z.to(device), [part.to(device) for part in parts]
    image_shape = x.shape[1:] if _sees_all_pixels(x, settings) else (x[0].numel(),)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        estimator = InformationEstimator(
            image_shape, z.shape[1], settings.bound, settings.alpha
        ).to(device)
    optimizer = torch.optim.Adam(estimator.parameters(), settings.learning_rate, fused=True)
    generator = torch.Generator().manual_seed(seed)
    train, stop, report = parts
    if not settings.held_out:
        curve = _train_on_all(estimator, optimizer, x, z, settings, generator)
        value = float(np.mean(curve[-THESIS_LAST_EPOCHS:]))
        return _Result(value, math.nan, len(curve), curve)
    critic, curve, stalled = _train_until_stalled(
        estimator, optimizer, x, z, train, stop, settings, generator
    )
    epochs = CHECK_EVERY * len(curve) / (len(train) // min(settings.batch, len(train)))
    if max(curve) <= 0:  # for the stopping part the best critic is a constant, whose bound is 0
        return _Result(0.0, 0.0, epochs, curve, stalled)
    judged = (critic, x, z, _chunks(report))
    return _Result(_held_out_bound(*judged), _standard_error(*judged), epochs, curve, stalled)


def _standardised(values: Tensor, rows: Tensor) -> Tensor:
    """Columns (N, d) with mean 0 and standard deviation 1 in these rows; constant ones are 0."""
    fitted = values[rows].double()
    constant = fitted.amax(0) == fitted.amin(0)
    spread = fitted.std(0).masked_fill(constant, torch.inf)
    return ((values - fitted.mean(0)) / spread).float()


def _epoch(n: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Positions (batch,) of all n pairs in a new order; an incomplete last batch is left out."""
    batch = min(batch, n)
    order = torch.randperm(n, generator=generator)
    yield from order[: n // batch * batch].split(batch)


def _ascend(
    estimator: InformationEstimator, optimizer: torch.optim.Optimizer, x: Tensor, z: Tensor
) -> float:
    """One training step; gives the bound before it."""
    bound = estimator(x, z)
    optimizer.zero_grad()
    (-bound).backward()
    optimizer.step()
    return bound.item()


def _train_on_all(
    estimator: InformationEstimator,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    z: Tensor,
    settings: InformationSettings,
    generator: torch.Generator,
) -> list[float]:
    """The training curve: mean bound over the batches of each epoch."""
    curve = []
    for _ in range(settings.epochs):
        batches = (rows.to(x.device) for rows in _epoch(len(x), settings.batch, generator))
        bounds = [_ascend(estimator, optimizer, x[rows], z[rows]) for rows in batches]
        curve.append(float(np.mean(bounds)))
    return curve


def _train_until_stalled(
    estimator: InformationEstimator,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    z: Tensor,
    train: Tensor,
    stop: Tensor,
    settings: InformationSettings,
    generator: torch.Generator,
) -> tuple[InformationEstimator, list[float], bool]:
    """Train on one part and stop by another.

    Returns:
        the estimator with the averaged weights that were best on the stopping part, the value there
        at each check, and whether it stalled before the steps ran out.

    """
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    averaged = AveragedModel(estimator, multi_avg_fn=get_ema_multi_avg_fn(settings.averaging))
    judged, weights, curve, chunks = averaged.module, {}, [], _chunks(stop, _COMPARED_TO_STOP)
    endless = (rows for _ in count() for rows in _epoch(len(train), settings.batch, generator))
    for step, rows in enumerate(islice(endless, settings.steps), start=1):
        rows = train[rows.to(train.device)]
        _ascend(estimator, optimizer, x[rows], z[rows])
        schedule.step()
        averaged.update_parameters(estimator)
        if step % CHECK_EVERY:
            continue
        bound = _held_out_bound(judged, x, z, chunks)
        curve.append(bound if math.isfinite(bound) else -math.inf)  # NWJ can overflow
        best = int(np.argmax(curve))
        if best == len(curve) - 1:
            weights = deepcopy(judged.state_dict())
        if CHECK_EVERY * (len(curve) - 1 - best) >= settings.patience:
            break
    judged.load_state_dict(weights)
    return judged, curve, step < settings.steps


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
    mean = _finite_matrix(mean, "mean", "(N, d)").astype(np.float64)
    logvar = _finite_matrix(logvar, "logvar", "(N, d)").astype(np.float64)
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
