"""Mutual information between images and their codes, in nats: how much a code says of its image.

Two scores:

    mutual_information      of any projection, by a critic that learns to tell true pairs of image
                            and code from mixed ones (the approach of Belghazi et al. 2018, "Mutual
                            information neural estimation", arXiv:1801.04062, with the bounds of
                            Poole et al. 2019, arXiv:1905.06922)
    analytic_information    of the stochastic encoder of a VAE, from its means and variances alone
                            (Hoffman and Johnson 2016, "ELBO surgery")

The bounds of Poole hold for a critic that never saw the pairs it is judged on. So the critic is
trained on one part of the pairs, training stops by a second part, and the value comes from a third;
five repeats report on each pair once. Copies of an image share a part: across two parts, a critic
would recognise them. Averaging an image down, taking principal components and clipping can only
lower the information (the data processing inequality), so the value stays a lower bound. Without
clipping, a few cells far out decide the value, which then is negative or changes with the seed. All
critics of a call, those of several projections and repeats, are trained in one batch. Two modes:

    held_out    as above, on the leading principal components of images of at most 16 pixels a side
                and on standardised features and codes, clipped at 3 standard deviations (the
                default)
    thesis      the original's way: trained on all pairs and judged on the same, pixels and codes as
                they are, mean of the last 50 epochs of the training curve. It grows by
                over-fitting with every epoch and is no bound.

A deterministic code of continuous images has infinite information in theory. What is measured is
how much of it a critic finds with the given number of pairs, below a cap of log(pairs compared at
once): compare projections of the same number of cells, and read the report where the cap is near.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from quantitative_metrics.critics import (
    CHECK_EVERY,
    NOTHING,
    PARTS,
    InformationSettings,
    Result,
    results_of,
    sees_all_pixels,
)
from util import processes
from util.errors import UserError
from util.latents import finite_matrix, first_alike, to_unit_scale
from util.mutual_information import BOUNDS
from util.settings import ABOVE_0, AT_LEAST_1, Range
from util.splitting import group_codes

LEAST_PAIRS = 50
_IMAGES_AT_ONCE = 1024
_WIDE = 0.5  # of the value; a larger spread between repeats is told
_NOTHING_MUCH = 0.05  # nats; a smaller spread is not
_NEAR_CAP = 1.0  # nats; nearer than this to the cap, even the best critic loses a third of a nat


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

RANGES = {
    "alpha": Range(0, 1, without=(0,)),
    "image_size": AT_LEAST_1,
    "components": AT_LEAST_1,
    "hidden": AT_LEAST_1,
    "repeats": AT_LEAST_1,
    "pairs": Range(LEAST_PAIRS),
    "steps": Range(CHECK_EVERY),
    "patience": Range(CHECK_EVERY),
    "epochs": AT_LEAST_1,
    "batch": Range(2),
    "learning_rate": ABOVE_0,
    "averaging": Range(0, 1, without=(1,)),
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
    groups: Sequence | None = None,
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
        groups: N labels (well, donor) whose cells are all trained on, or all judged; None splits
            pairs one by one.
        changes: fields of `InformationSettings` that differ from the mode's.

    Raises:
        UserError: fewer than 50 pairs or distinct images, NaN or infinite values, lengths or shapes
            that do not fit, an unknown mode or setting, or pixels outside 0..1.

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
        groups=groups,
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
    groups: Sequence | None = None,
    **changes,
) -> dict[str, InformationScore]:
    """`mutual_information` of several projections of the same images, their critics in one batch.

    A score does not depend on the other projections, apart from rounding.

    Args:
        images: as in `mutual_information`.
        projections: name -> (N, d) codes in the same order, finite; d may differ.
        mode, low, high, seed, device, groups, changes: as in `mutual_information`.
        context: put before the messages of errors and of the reports, with the name for `{}`.

    Returns:
        name -> score.

    Raises:
        UserError: as `mutual_information`, with the name of the projection.
    """
    settings = information_settings(mode, **changes)
    contexts = {name: context.replace("{}", name) for name in projections}
    images, arrays = np.asarray(images), {}
    for name, about in contexts.items():
        arrays[name] = _codes(projections[name], len(images), settings, about)
    rng, n_all = np.random.default_rng(seed), len(images)
    together = None if groups is None else group_codes(groups)
    if settings.pairs is not None and settings.pairs < n_all:
        rows = np.sort(rng.choice(n_all, settings.pairs, replace=False))
        images, arrays = images[rows], {name: array[rows] for name, array in arrays.items()}
        together = None if together is None else together[rows]
    x = _critic_input(
        images=images,
        settings=settings,
        low=low,
        high=high,
        context=next(iter(contexts.values()), ""),
    )
    distinct = np.unique(first_alike(x.flatten(1).numpy()), return_inverse=True)[1]
    n_distinct = distinct.max() + 1
    if settings.held_out and 1 < n_distinct < LEAST_PAIRS:
        raise UserError(
            f"{next(iter(contexts.values()), '')}only {n_distinct} of {len(x)} images or vectors "
            f"are distinct: at least {LEAST_PAIRS} are needed, since no critic may be judged on "
            "copies of what it has seen"
        )
    if settings.held_out and together is not None and n_distinct > 1:
        distinct = _linked(distinct, together)
    codes = {name: torch.from_numpy(array) for name, array in arrays.items()}
    with nullcontext() if sees_all_pixels(x, settings) else processes.threads(1):
        found = results_of(
            x=x, distinct=distinct, codes=codes, settings=settings, rng=rng, device=device
        )
    return {
        name: _score(
            results=results,
            mode=mode,
            settings=settings,
            n_pairs=len(x),
            n_all=n_all,
            context=contexts[name],
        )
        for name, results in found.items()
    }


def _linked(distinct: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(N,) number, from 0, of the rows that share a copy or a group, also through others.

    Raises:
        UserError: fewer groups than parts of the pairs.
    """
    edges = (np.ones(len(groups)), (distinct, groups + distinct.max() + 1))
    nodes = groups.max() + distinct.max() + 2
    number, part = connected_components(coo_array(edges, (nodes, nodes)), directed=False)
    least = round(1 / PARTS[2])
    if number < least:
        raise UserError(
            f"`group`: {number} groups without a copy in common; mutual information needs {least}, "
            "so that the critic is trained, stopped and judged on different ones"
        )
    return part[distinct]


def _codes(
    codes: np.ndarray, n_images: int, settings: InformationSettings, context: str
) -> np.ndarray:
    """The codes of as many images, enough of them, as (N, d) for the critics."""
    codes = _vectors(codes, f"{context}codes", settings)
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
    return _scaled(images=images, size=size, low=low, high=high, context="").numpy()


def information_settings(mode: str = "held_out", **changes) -> InformationSettings:
    """The mode's settings with the changes asked for, checked.

    Raises:
        UserError: an unknown mode or setting, or a number out of its range.
    """
    if mode not in MODES:
        raise UserError(f"mode {mode!r}: choose one of {', '.join(MODES)}")
    known = {setting.name for setting in fields(InformationSettings)}
    if unknown := sorted(changes.keys() - known):
        raise UserError(f"{unknown[0]!r} is not a setting: choose from {', '.join(sorted(known))}")
    settings = replace(MODES[mode], **changes)
    if settings.bound not in BOUNDS:
        raise UserError(f"bound {settings.bound!r}: choose one of {', '.join(BOUNDS)}")
    for name, numbers in RANGES.items():
        value = getattr(settings, name)
        if value is not None and value not in numbers:
            raise UserError(f"{name} = {value}: must be {numbers}")
    return settings


def _critic_input(
    images: np.ndarray,
    settings: InformationSettings,
    low: float | np.ndarray | None,
    high: float | np.ndarray | None,
    context: str,
) -> Tensor:
    """(N, C, H, W) pixels in 0..1, averaged down to the size; or (N, D) vectors."""
    if images.ndim == 2:
        return torch.from_numpy(_vectors(images, f"{context}images", settings))
    if images.ndim != 4 or 0 in images.shape:
        raise UserError(
            f"{context}images are an array of shape {images.shape}, not (N, C, H, W) or (N, D)"
        )
    return _scaled(images=images, size=settings.image_size, low=low, high=high, context=context)


def _vectors(values: np.ndarray, what: str, settings: InformationSettings) -> np.ndarray:
    """(N, d) columns to be standardised, in float64 and any unit; else as they are, in float32."""
    if not settings.standardise:
        return finite_matrix(values, what, np.float32)
    return to_unit_scale(finite_matrix(values, what), axis=0)


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
    results: list["Result"],
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
    cap = _cap(results, settings)
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


def _cap(results: list[Result], settings: InformationSettings) -> float:
    """Largest value of the bound, in nats."""
    if settings.bound == "nwj":
        return math.inf
    compared = min(result.compared for result in results)
    return math.log(compared / (settings.alpha if settings.bound == "interpolated" else 1))


def _remarks(results: list[Result], settings: InformationSettings) -> list[str]:
    """What the reader has to know of the value, a line each."""
    if all(result is NOTHING for result in results):
        return ["all codes or all images are the same: there is no information"]
    if not settings.held_out:
        return ["estimated on the critic's own training pairs: grows by over-fitting"]
    values = np.array([result.value for result in results])
    notes = []
    if values.mean() < 0:
        notes.append(f"{values.mean():.2g} nats is below 0, the least there can be: read it as 0")
    elif len(values) > 1 and values.std(ddof=1) > max(_WIDE * values.mean(), _NOTHING_MUCH):
        notes.append(
            f"the {len(values)} repeats spread from {values.min():.2f} to {values.max():.2f} nats: "
            "more cells or more repeats are needed"
        )
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
        device: torch device; it must support float64 ("cpu" or "cuda", not "mps").

    Raises:
        UserError: fewer than two cells, NaN or infinite values, shapes that do not fit, or bad
            numbers.

    """
    mean, logvar = _checked_posteriors(mean, logvar)
    n, n_sampled = len(mean), min(sample or len(mean), len(mean))
    for name, value, least in (("cells", n, 2), ("sample", n_sampled, 2), ("draws", draws, 1)):
        if value < least:
            raise UserError(f"{name} = {value}: at least {least}")
    kl = 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar).sum(1)  # (N,)
    rng = np.random.default_rng(seed)
    rows = rng.choice(n, n_sampled, replace=False)
    noise = rng.standard_normal((n_sampled, draws, mean.shape[1]))
    ratios = _log_ratios(
        mean=mean, logvar=logvar, rows=rows, noise=noise, block=max(1, block // n), device=device
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


def _checked_posteriors(mean: np.ndarray, logvar: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, d) float64 means and log-variances, with the precision of float32."""
    mean = finite_matrix(mean, "mean", np.float32).astype(np.float64)
    logvar = finite_matrix(logvar, "logvar", np.float32).astype(np.float64)
    if mean.shape != logvar.shape:
        raise UserError(
            f"mean of shape {mean.shape} and logvar of shape {logvar.shape}: must match"
        )
    return mean, logvar


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
