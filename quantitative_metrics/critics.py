"""Critics of mutual information: how they are trained on some pairs and judged on others.

A critic sees an image and a code and learns to tell true pairs from mixed ones; its bound is then
the information that it found (`util.mutual_information`). The critics of several projections and
repeats train in one batch, each as it would alone; one that no longer improves leaves the batch.
`quantitative_metrics.MINE_metric` prepares images and codes and sums up the results.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch
from torch import Tensor, nn

from util.mutual_information import Bound, EstimatorStack, InformationEstimator

PARTS = (0.6, 0.2, 0.2)  # of the pairs: to train, to stop, to report
COMPARED_AT_ONCE = 4096  # reported pairs in one score matrix, at most: they set the cap
_COMPARED_TO_STOP = 1024  # pairs of the stopping part, which is looked at often
_CRITICS_AT_ONCE = 12  # trained in one batch, at most: they set the memory with the next
_WEIGHTS_AT_ONCE = 2**25
CHECK_EVERY = 20  # steps between looks at the part that stops the training
THESIS_LAST_EPOCHS = 50
_CLIPPED_AT = 3.0  # standard deviations; a critic is wild on cells farther out
_CLIPPINGS = 10  # until mean and deviation are those of the clipped numbers


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
    """Standardise each column of codes and vectors and clip it at 3 standard deviations; else they
    are taken as they are."""
    repeats: int = 5
    """Trainings, each with initial weights and a reporting part of its own; five report on each
    pair once."""
    pairs: int | None = 20_000
    """Use at most so many pairs, drawn at random; None uses all."""
    steps: int = 1200
    """Training steps at most where pairs are held out; the learning rate falls to 0 over them."""
    patience: int = 100
    """Steps without a better value on the stopping part before training ends."""
    epochs: int = 200
    """Passes over the pairs where none are held out."""
    batch: int = 64
    """Pairs per training step."""
    learning_rate: float = 4e-3
    """Of Adam, at the start."""
    averaging: float = 0.99
    """Decay per step of the running mean of the weights, which is what is judged on held-out pairs;
    0 judges the weights."""


@dataclass(frozen=True)
class Result:
    """What one repeat found."""

    value: float
    error: float
    epochs: float
    curve: list[float]
    compared: int
    stalled: bool = True


# where codes or images do not vary
NOTHING = Result(value=0.0, error=0.0, epochs=0.0, curve=[], compared=1)


def sees_all_pixels(x: Tensor, settings: InformationSettings) -> bool:
    """Whether the critic is the thesis's; its wide layers find nothing more in averaged images."""
    return x.ndim == 4 and settings.image_size is None


def parts_of(
    distinct: np.ndarray, repeats: int, rng: np.random.Generator
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For each repeat the row numbers to train, to stop and to report; copies share a part.

    The parts move round, so up to five repeats report on different pairs. All repeats have parts of
    one size: where copies make some larger, evenly spaced rows of these are left out.

    Args:
        distinct: (N,) number of the image or vector in each row, from 0; copies share it.
        repeats: how often to split.
        rng: of the order.
    """
    members = np.split(np.argsort(distinct, kind="stable"), np.bincount(distinct).cumsum()[:-1])
    order = rng.permutation(len(members))
    ends = [round(sum(PARTS[:1]) * len(order)), round(sum(PARTS[:2]) * len(order))]
    shift = len(order) // max(repeats, round(1 / PARTS[2]))
    found = []
    for repeat in range(repeats):
        split = np.split(np.roll(order, -shift * repeat), ends)
        found.append([np.concatenate([members[number] for number in part]) for part in split])
    sizes = [min(map(len, part)) for part in zip(*found, strict=True)]
    return [
        tuple(
            torch.from_numpy(rows[np.linspace(0, len(rows) - 1, size).astype(int)])
            for rows, size in zip(parts, sizes, strict=True)
        )
        for parts in found
    ]


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


def results_of(
    x: Tensor,
    distinct: np.ndarray,
    codes: Mapping[str, Tensor],
    settings: InformationSettings,
    rng: np.random.Generator,
    device: str | torch.device,
) -> dict[str, list[Result]]:
    """A result per repeat of each projection; the critics of codes as wide share batches.

    Args:
        x: (N, C, H, W) pixels or (N, D) vectors.
        distinct: (N,) number of the image or vector in each row, as in `parts_of`.
        codes: name -> (N, d).
        settings: how to train and to judge.
        rng: of the parts and of the seeds of the critics.
        device: that trains.
    """
    varied = [n for n, z in codes.items() if (z != z[0]).any()] if distinct.any() else []
    found = {name: [] if name in varied else [NOTHING] * settings.repeats for name in codes}
    if not varied:
        return found
    if settings.held_out:
        parts = parts_of(distinct, settings.repeats, rng)
    else:
        everything = torch.from_numpy(rng.permutation(len(x)))
        parts = [(everything, everything[:0], everything[:0])] * settings.repeats
    seeds = rng.integers(2**62, size=settings.repeats).tolist()
    images = _spaces(x, parts, settings).float().to(device)
    shape = tuple(x.shape[1:]) if sees_all_pixels(x, settings) else (images.shape[2],)
    for width in sorted({codes[name].shape[1] for name in varied}):
        critics = [(n, r) for n in varied if codes[n].shape[1] == width for r in range(len(seeds))]
        estimators = [
            _new_estimator(
                image_shape=shape, width=width, settings=settings, seed=seed, device=device
            )
            for seed in seeds
        ]
        for group in _groups(critics, estimators[0]):
            results = _train_and_judge(
                _pairs(images=images, codes=codes, parts=parts, critics=group, settings=settings),
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
    if x.ndim == 2 or sees_all_pixels(x, settings) or not number or number >= flat.shape[1]:
        return flat[None]
    return torch.stack([_components(flat, part[0], number) for part in parts])


def _components(x: Tensor, rows: Tensor, number: int) -> Tensor:
    """(N, number) leading principal components of these rows, times their standard deviation.

    The largest keeps its scale, and each is clipped as columns of vectors are. Adam gives every
    input the same say; by their own scale alone, many small components would drown the few that are
    seen again in other images.
    """
    fitted = x[rows].double()
    variances, axes = torch.linalg.eigh(fitted.T.cov())  # ascending
    variances = variances[-number:].clamp_min(0)
    weights = variances / variances[-1].sqrt().clamp_min(1e-12)
    return _standardised((x @ axes[:, -number:].float()).double(), rows) * weights.float()


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
            image_shape=image_shape,
            latent_dim=width,
            bound=settings.bound,
            alpha=settings.alpha,
            hidden=settings.hidden,
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
        _standardised(codes[name], parts[repeat][0])
        if settings.standardise
        else codes[name].float()
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
) -> list[Result]:
    """Train the critics of a group together and judge each."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    stack = EstimatorStack(estimators)
    optimizer = torch.optim.Adam(stack.parameters(), settings.learning_rate, fused=True)
    if not settings.held_out:
        curves = _train_on_all(
            stack=stack, optimizer=optimizer, pairs=pairs, settings=settings, generators=generators
        )
        return [
            Result(
                value=float(np.mean(curve[-THESIS_LAST_EPOCHS:])),
                error=math.nan,
                epochs=len(curve),
                curve=curve,
                compared=min(settings.batch, pairs.parts[0].shape[1]),
            )
            for curve in curves
        ]
    best, curves = _train_until_stalled(
        stack=stack, optimizer=optimizer, pairs=pairs, settings=settings, generators=generators
    )
    return [
        _judged(estimator, pairs, number, best=best, curves=curves, settings=settings)
        for number, estimator in enumerate(estimators)
    ]


def _judged(
    estimator: InformationEstimator,
    pairs: _Pairs,
    number: int,
    best: EstimatorStack,
    curves: list[list[float]],
    settings: InformationSettings,
) -> Result:
    """What one critic, with its best weights, finds in the part to report."""
    curve, n_train = curves[number], pairs.parts[0].shape[1]
    epochs = CHECK_EVERY * len(curve) / (n_train // min(settings.batch, n_train))
    stalled = len(curve) < settings.steps // CHECK_EVERY
    repeat = int(pairs.repeat[number])
    chunks = chunks_of(pairs.parts[2][repeat])
    value = error = 0.0
    if max(curve) > 0:  # else the best critic is, for the stopping part, a constant: its bound is 0
        best.write(number, estimator)
        x = pairs.x[repeat if len(pairs.x) > 1 else 0]
        value = _held_out_bound(estimator, x, pairs.z[number], chunks)
        error = _standard_error(estimator, x, pairs.z[number], chunks)
    return Result(
        value=value,
        error=error,
        epochs=epochs,
        curve=curve,
        compared=len(chunks[-1]),
        stalled=stalled,
    )


def _standardised(values: Tensor, rows: Tensor) -> Tensor:
    """Float32 columns (N, d) with mean 0 and standard deviation 1 in these rows, clipped.

    Clipping can only lower the information. Mean and deviation are those of the clipped numbers,
    so that few cells far out do not push all others together. Constant columns are 0.
    """
    fitted = values[rows]
    constant = fitted.amax(0) == fitted.amin(0)
    for _ in range(_CLIPPINGS):
        mean, reach = fitted.mean(0), _CLIPPED_AT * fitted.std(0)
        fitted = fitted.clip(mean - reach, mean + reach)
    spread = fitted.std(0).masked_fill(constant, torch.inf)
    return ((values - fitted.mean(0)) / spread).clip(-_CLIPPED_AT, _CLIPPED_AT).float()


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


def chunks_of(rows: Tensor, at_once: int = COMPARED_AT_ONCE) -> tuple[Tensor, ...]:
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
