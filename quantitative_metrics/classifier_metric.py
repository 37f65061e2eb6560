"""Accuracy of a small classifier on the code of each cell: how well known classes stay apart.

The classifier of the thesis is a perceptron latent-200-classes with ReLU, trained by Adam (1e-3) on
batches of 128 cells from a stratified half of the data and tested on the other half, 8 times over.
Two modes:

    thesis      raw columns, 20 epochs: the original's way, which depends on the codes' scale
    converged   columns standardised by the training half, 100 epochs (the default)

The repeats are trained together as one model whose tensors have a leading axis of repeats. Their
losses are summed, so no gradient crosses from one repeat to another and Adam, which works element
by element, does for each what it would do alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from util import processes
from util.errors import UserError
from util.latents import finite_matrix, to_unit_scale
from util.metadata import class_name, column_in, count_and_name, numbers_in
from util.splitting import draw_groups, group_numbers

HIDDEN_UNITS = 200
LEARNING_RATE = 1e-3
BATCH = 128
EPOCHS = {"thesis": 20, "converged": 100}
NEIGHBOURS = 15


@dataclass(frozen=True)
class ClassifierScore:
    """Result of repeated training; accuracies are fractions in [0, 1], higher is better.

    accuracy, accuracy_std: mean and standard deviation (n - 1; NaN for one repeat) over repeats on
        the test halves.
    balanced_accuracy, balanced_accuracy_std: the same of the mean over classes of the fraction
        found.
    per_class: class name -> mean fraction found, NaN for a class that no test half holds.
    confusion: (classes, classes) test cells of all repeats, true class by row, predicted by column.
    knn_accuracy, logistic_accuracy: mean accuracy of k-nearest neighbours and of logistic
        regression on the same splits with standardised columns, as a check.
    report: what was left out or could not be tested, one line each.
    """

    accuracy: float
    accuracy_std: float
    balanced_accuracy: float
    balanced_accuracy_std: float
    per_class: dict[str, float]
    confusion: np.ndarray = field(repr=False)
    classes: tuple[str, ...]
    n_cells: int
    knn_accuracy: float
    logistic_accuracy: float
    mode: str
    report: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClassifierTask:
    """Which cells of a table are classified, and into what.

    label_column: column of the class; ignore: classes left out.
    strength_column, strength_threshold: keep only cells with at least this strength; None keeps
        all.
    merge: class name -> name of the class it becomes.
    """

    name: str
    label_column: str = "GT_label"
    ignore: tuple[str, ...] = ()
    strength_column: str | None = None
    strength_threshold: float = 0.0
    merge: dict[str, str] = field(default_factory=dict)


_STRONG = {"strength_column": "GT_dist_toInit_state", "strength_threshold": 0.5}
_PAIRS = {"1": "1+2", "2": "1+2", "3": "3+4", "4": "3+4", "5": "5+6", "6": "5+6"}
# process 7 of BBBC031 is the one without a direction
BBBC031_TASKS = (
    ClassifierTask("m1", ignore=("7",)),
    ClassifierTask("m2", ignore=("7",), **_STRONG),
    ClassifierTask("m3", ignore=("7",), **_STRONG, merge=_PAIRS),
)


def m_scores(
    codes: np.ndarray,
    table: pd.DataFrame,
    tasks: Sequence[ClassifierTask] = BBBC031_TASKS,
    groups: Sequence | None = None,
    **settings,
) -> dict[str, ClassifierScore]:
    """Classifier accuracy of each task, m1, m2 and m3 of the thesis unless others are given.

    Args:
        codes: (N, d) codes.
        table: N rows in the same order, with the columns that the tasks name.
        tasks: what to classify.
        groups: N labels, as in `classifier_accuracy`.
        settings: passed on to `classifier_accuracy`.

    Returns:
        A score per task name. Cells without label or strength are left out and counted in its
        report.

    Raises:
        UserError: a column that is missing or not numeric, lengths that differ, or as
            `classifier_accuracy`.

    """
    codes = np.asarray(codes)
    if len(codes) != len(table):
        raise UserError(f"{len(codes)} codes for {len(table)} rows of the table: they must match")
    scores = {}
    for task in tasks:
        kept, labels, left_out = _select(task, table)
        own = None if groups is None else np.asarray(groups, dtype=object)[kept]
        context = f"{task.name}: "
        score = classifier_accuracy(codes[kept], labels, context=context, groups=own, **settings)
        scores[task.name] = replace(score, report=(*left_out, *score.report))
    return scores


def classifier_accuracy(
    codes: np.ndarray,
    labels: Sequence,
    *,
    mode: str = "converged",
    repeats: int = 8,
    class_weights: bool = False,
    seed: int = 0,
    device: str | torch.device = "cpu",
    context: str = "",
    groups: Sequence | None = None,
) -> ClassifierScore:
    """Train the small classifier on half of the cells and test it on the other half, several times.

    A class of one cell goes to the training half. In classes of odd size the training half has one
    cell more. Whole groups go to the half that they bring nearest to half of the cells and of each
    class; test cells whose class the training half lacks are left out, and cells drawn at random,
    so that all repeats have halves of one size.

    Args:
        codes: (N, d) codes, finite.
        labels: N class labels, strings or numbers.
        mode: "thesis" or "converged".
        repeats: number of random halvings.
        class_weights: weight each cell in the loss by the inverse size of its class in the training
            half.
        seed: of halves, initial weights and batches.
        device: torch device; the random numbers come from the CPU and are the same everywhere.
        context: put before the messages of errors and of the report.
        groups: N labels (well, donor) of cells that stay in one half; None halves cells one by one.

    Raises:
        UserError: an unknown mode, no repeats, NaN in codes or labels, shapes that do not fit,
            fewer than two classes or no class with two cells, or groups that leave nothing to test.

    Examples:
        >>> codes = np.repeat([[-1.0, 0.0], [1.0, 0.0]], 20, axis=0)
        >>> classifier_accuracy(codes, ["round"] * 20 + ["jagged"] * 20, repeats=2).accuracy
        1.0
    """
    if mode not in EPOCHS:
        raise UserError(f"mode {mode!r}: choose one of {', '.join(EPOCHS)}")
    if repeats < 1:
        raise UserError(f"repeats = {repeats}: at least 1")
    raw = mode == "thesis"
    codes = finite_matrix(codes, f"{context}codes", np.float32 if raw else None)
    classes, targets = _encode(labels, len(codes), context)
    rng = np.random.default_rng(seed)
    if groups is None:
        train, test = _halves(targets, repeats, rng)
    else:
        train, test = _halves_of_groups(targets, group_numbers(groups), repeats, rng, context)

    standard = _standardised(codes, train)  # (R, N, d)
    inputs = np.broadcast_to(codes, standard.shape) if raw else standard
    predicted = _predictions(
        inputs=inputs,
        targets=targets,
        train=train,
        test=test,
        n_classes=len(classes),
        epochs=EPOCHS[mode],
        class_weights=class_weights,
        rng=rng,
        device=device,
    )
    confusion = _confusions(targets[test], predicted, len(classes))  # (R, C, C)
    knn, logistic = _checks(standard, targets, train, test)
    return ClassifierScore(
        **_accuracies(confusion, classes, context, "cell" if groups is None else "group"),
        confusion=confusion.sum(axis=0),
        classes=classes,
        n_cells=len(codes),
        knn_accuracy=knn,
        logistic_accuracy=logistic,
        mode=mode,
    )


def accuracy_across_plates(
    codes: np.ndarray, labels: Sequence, plates: Sequence
) -> tuple[float, float, int, tuple[str, ...]]:
    """Share of cells with the class of most of their 15 nearest cells from all other plates.

    A class that is only known on its own plate, by the batch and not by the cells, is not found
    ("not same batch", Ljosa et al. 2013, J. Biomol. Screen. 18:1321). Columns are standardised.

    Args:
        codes: (N, d), finite.
        labels, plates: N each; cells that lack one are left out, and so are classes of one plate.

    Returns:
        the share, 0..1, its standard deviation over the plates, the cells tested, and a report.

    Raises:
        UserError: NaN in the codes, or no class lies on two plates.
    """
    from sklearn.neighbors import KNeighborsClassifier

    codes = finite_matrix(codes, "codes", np.float64)
    known = ~(pd.isna(labels) | pd.isna(plates))
    names = np.array([class_name(label) for label in np.asarray(labels)[known]], dtype=object)
    plate = pd.factorize(np.asarray(plates, dtype=object)[known])[0]
    x = to_unit_scale(codes[known], axis=0)
    spread = pd.Series(plate).groupby(names).nunique()
    alone = list(spread.index[spread < 2])
    kept = ~np.isin(names, alone)
    if not kept.any():
        raise UserError("no class lies on two plates")
    x, plate, names = x[kept], plate[kept], names[kept]
    x = (x - x.mean(axis=0)) / np.where(np.ptp(x, axis=0) > 0, x.std(axis=0), 1)
    right = np.zeros(len(x), bool)
    for each in np.unique(plate):
        own = plate == each
        near = KNeighborsClassifier(min(NEIGHBOURS, int((~own).sum())))
        right[own] = near.fit(x[~own], names[~own]).predict(x[own]) == names[own]
    shares = pd.Series(right).groupby(plate).mean().to_numpy()
    what = "classes of one plate are left out of the accuracy across plates"
    report = (count_and_name(what, [(name, "1 plate") for name in alone]),) if alone else ()
    return float(right.mean()), _spread(shares), len(x), report


def _accuracies(
    confusion: np.ndarray, classes: tuple[str, ...], context: str, what: str
) -> dict[str, Any]:
    """Accuracies over the repeats, and what could not be tested, from (R, C, C) counts."""
    right, cells = np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(axis=2)  # (R, C)
    accuracy = right.sum(axis=1) / cells.sum(axis=1)
    tested = cells.any(axis=0)
    with np.errstate(invalid="ignore"):  # 0 / 0 = NaN for a class that was not tested
        found = right / cells
        per_class = np.nansum(found, axis=0) / (cells > 0).sum(axis=0)
    balanced = np.nanmean(found[:, tested], axis=1)  # whole groups may leave out a class
    return {
        "accuracy": float(accuracy.mean()),
        "accuracy_std": _spread(accuracy),
        "balanced_accuracy": float(balanced.mean()),
        "balanced_accuracy_std": _spread(balanced),
        "per_class": dict(zip(classes, per_class.tolist(), strict=True)),
        "report": tuple(
            f"{context}class {name} has one {what}, which is kept for training, so it is not tested"
            for name, has_cells in zip(classes, tested, strict=True)
            if not has_cells
        ),
    }


def _spread(values: np.ndarray) -> float:
    """Standard deviation between repeats; unknown from a single one."""
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def _select(
    task: ClassifierTask, table: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Row numbers of a task's cells, their class names, and a report of missing values."""
    labels = column_in(table, task.label_column, task.name)
    known = labels.notna().to_numpy()
    missing = [(task.label_column, int((~known).sum()))]
    names = np.array([class_name(label) for label in labels], dtype=object)
    kept = known & ~np.isin(names, task.ignore)
    if task.strength_column:
        strength = numbers_in(table, task.strength_column, task.name).to_numpy()
        missing.append((task.strength_column, int((kept & np.isnan(strength)).sum())))
        kept &= strength >= task.strength_threshold
    report = tuple(
        f"{task.name}: {n} cells without {column}, left out" for column, n in missing if n
    )
    merged = [task.merge.get(name, name) for name in names[kept]]
    return np.flatnonzero(kept), np.array(merged, dtype=object), report


def _encode(labels: Sequence, n_cells: int, context: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names in order (numbers by size) and the (N,) class number of each cell."""
    labels = np.asarray(labels)
    if labels.shape != (n_cells,):
        raise UserError(f"{context}labels of shape {labels.shape} for {n_cells} codes")
    missing = pd.isna(labels)
    if missing.any():
        raise UserError(f"{context}{missing.sum()} labels are missing; leave these cells out")
    names = np.array([class_name(label) for label in labels], dtype=object)
    found = sorted(set(names))
    if len(found) < 2:
        raise UserError(
            f"{context}all {n_cells} cells are of class {', '.join(found) or 'none'}:"
            " a classifier needs at least two classes"
        )
    try:
        found.sort(key=float)
    except ValueError:
        pass  # names stay in the order of the alphabet
    numbers = {name: number for number, name in enumerate(found)}
    targets = np.array([numbers[name] for name in names])
    if np.bincount(targets).max() < 2:
        raise UserError(
            f"{context}each of the {len(found)} classes has one cell: nothing is left to test"
        )
    return tuple(found), targets


def _halves(
    targets: np.ndarray, repeats: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Stratified halves of the cell numbers: (R, n_train) with the larger half, and (R, n_test).

    Unlike scikit-learn's splitters this takes classes of one cell, and every class is trained on.
    """
    train, test = [], []
    for number in range(targets.max() + 1):
        cells = np.tile(np.flatnonzero(targets == number), (repeats, 1))
        first, second = np.split(rng.permuted(cells, axis=1), [-(-cells.shape[1] // 2)], axis=1)
        train.append(first)
        test.append(second)
    return np.concatenate(train, axis=1), np.concatenate(test, axis=1)


def _halves_of_groups(
    targets: np.ndarray, groups: np.ndarray, repeats: int, rng: np.random.Generator, context: str
) -> tuple[np.ndarray, np.ndarray]:
    """As `_halves`, of whole groups; a test half holds only classes that its training half holds.

    Raises:
        UserError: nothing is left to test, or a single class to train on.
    """
    train, test = [], []
    for _ in range(repeats):
        drawn = draw_groups(targets, groups, len(targets) // 2, rng)
        known = np.isin(targets, targets[~drawn])
        train.append(rng.permutation(np.flatnonzero(~drawn)))
        test.append(rng.permutation(np.flatnonzero(drawn & known)))
    shortest = min(map(len, test))
    fitted = np.stack([rows[: min(map(len, train))] for rows in train])
    if shortest == 0 or any(len(np.unique(targets[rows])) < 2 for rows in fitted):
        raise UserError(
            f"{context}halves of whole groups leave nothing to test, since most classes lie in one "
            "group each: name a smaller unit as `group`"
        )
    return fitted, np.stack([rows[:shortest] for rows in test])


def _standardised(codes: np.ndarray, train: np.ndarray) -> np.ndarray:
    """(R, N, d) codes with mean 0 and standard deviation 1 (or 0) in each training half."""
    codes = to_unit_scale(codes, axis=0)
    fitted = codes[train]  # (R, n_train, d)
    mean, spread = fitted.mean(axis=1, keepdims=True), fitted.std(axis=1, keepdims=True)
    constant = np.ptp(fitted, axis=1, keepdims=True) == 0
    return ((codes - mean) / np.where(constant, 1, spread)).astype(np.float32)


def _predictions(
    inputs: np.ndarray,
    targets: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    n_classes: int,
    epochs: int,
    class_weights: bool,
    rng: np.random.Generator,
    device: str | torch.device,
) -> np.ndarray:
    """(R, n_test) class numbers that the trained classifiers give to their test halves."""
    repeats = np.arange(len(train))[:, None]
    parameters = _initial_parameters(len(train), inputs.shape[2], n_classes, rng)
    parameters = [parameter.to(device).requires_grad_() for parameter in parameters]
    sizes = np.stack([np.bincount(targets[rows], minlength=n_classes) for rows in train])  # (R, C)
    sizes = np.where(sizes > 0, sizes, len(targets))  # whole groups may leave out a class
    weights = sizes.min(axis=1, keepdims=True) / sizes if class_weights else np.ones(sizes.shape)
    x_train, y_train, class_weight, x_test = (
        torch.as_tensor(array, device=device)
        for array in (
            inputs[repeats, train],
            targets[train],
            weights.astype(np.float32),
            inputs[repeats, test],
        )
    )
    with processes.threads(1):
        batches = _batches(*train.shape, epochs, rng, device)
        _fit(
            parameters=parameters, x=x_train, y=y_train, class_weight=class_weight, batches=batches
        )
    with torch.no_grad():
        return _logits(parameters, x_test).argmax(dim=2).cpu().numpy()


def _initial_parameters(
    repeats: int, n_inputs: int, n_classes: int, rng: np.random.Generator
) -> list[torch.Tensor]:
    """Weights (R, in, out) and biases (R, 1, out) of both layers, drawn as torch.nn.Linear does."""
    parameters = []
    for n_in, n_out in ((n_inputs, HIDDEN_UNITS), (HIDDEN_UNITS, n_classes)):
        for shape in ((repeats, n_in, n_out), (repeats, 1, n_out)):
            bound = n_in**-0.5
            parameters.append(torch.from_numpy(rng.uniform(-bound, bound, shape)).float())
    return parameters


def _batches(
    repeats: int,
    n_train: int,
    epochs: int,
    rng: np.random.Generator,
    device: str | torch.device = "cpu",
) -> Iterator[torch.Tensor]:
    """Batches (R, <= 128) of positions in the training halves, in another order per repeat."""
    positions = np.tile(np.arange(n_train), (repeats, 1))
    for _ in range(epochs):
        order = torch.from_numpy(rng.permuted(positions, axis=1)).to(device)  # in one upload
        yield from order.split(BATCH, dim=1)


def _logits(parameters: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """(R, B, d) codes -> (R, B, C) logits, each repeat by its own weights."""
    weight1, bias1, weight2, bias2 = parameters
    hidden = torch.baddbmm(bias1, x, weight1).relu()  # (R, B, 200)
    return torch.baddbmm(bias2, hidden, weight2)


def _fit(
    parameters: list[torch.Tensor],
    x: torch.Tensor,
    y: torch.Tensor,
    class_weight: torch.Tensor,
    batches: Iterator[torch.Tensor],
) -> None:
    """Train all repeats together, in place, on codes (R, n, d) and class numbers (R, n).

    `class_weight` is (R, C).
    """
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)
    repeats = torch.arange(len(x), device=x.device)[:, None]
    for batch in batches:
        truth = y[repeats, batch]  # (R, B)
        losses = torch.nn.functional.cross_entropy(
            _logits(parameters, x[repeats, batch]).flatten(0, 1), truth.flatten(), reduction="none"
        ).view_as(truth)
        weights = class_weight[repeats, truth]
        loss = ((losses * weights).sum(dim=1) / weights.sum(dim=1)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _confusions(truth: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """(R, C, C) counts of test cells, true class by row."""
    pairs = truth * n_classes + predicted
    counts = [np.bincount(row, minlength=n_classes**2) for row in pairs]
    return np.reshape(counts, (-1, n_classes, n_classes))


def _checks(
    inputs: np.ndarray, targets: np.ndarray, train: np.ndarray, test: np.ndarray
) -> tuple[float, float]:
    """Mean accuracy of k-nearest neighbours and of logistic regression on the same halves."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    models = (
        KNeighborsClassifier(min(NEIGHBOURS, train.shape[1])),
        LogisticRegression(max_iter=1000),
    )
    knn, logistic = (
        np.mean(
            [
                model.fit(x[fitted], targets[fitted]).score(x[tested], targets[tested])
                for x, fitted, tested in zip(inputs, train, test, strict=True)
            ]
        )
        for model in models
    )
    return float(knn), float(logistic)
