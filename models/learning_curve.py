"""Whether a training has learnt what it can: when to lower the learning rate, when to end.

Everything here is a function of the history (`models.train_net.train`), so that a resumed training
decides as an undisturbed one does. Time is counted in steps, since an epoch of 200 cells teaches
less than one of 20,000. Two things have to stand still, both on held-out cells: the validation
loss, and the view information (`quantitative_metrics.view_information`), which is measured every
few hundred steps. The loss of a small set ends its fall early, while the code still sorts itself.
"""

import math
from collections.abc import Sequence
from typing import Any

MEASURE_EVERY = 250  # steps; the held-out cells are embedded twice, a few % of the training's time
WINDOW = 3  # measurements whose mean is compared with that of the window before
LOSS_GAIN = 0.005  # of the whole fall since the first epoch; less is no progress
INFORMATION_GAIN = 0.03  # of the view information; less is no progress
DECAY = 0.3  # of the learning rate, where both stand still for the first time
LAST_PLATEAU = 2  # the training ends here

Entry = dict[str, Any]  # an epoch's line of the log


def steps_of(history: Sequence[Entry], n_cells: int) -> int:
    """Steps of these epochs over `n_cells` training cells."""
    return sum(math.ceil(n_cells / entry["batch_size"]) for entry in history)


def is_due(history: Sequence[Entry], n_cells: int) -> bool:
    """Whether view information is to be measured after the last epoch of the history."""
    measured = [i for i, entry in enumerate(history) if "view_information" in entry]
    since = history[measured[-1] + 1 if measured else 0 :]
    return steps_of(since, n_cells) >= MEASURE_EVERY


def plateaus(history: Sequence[Entry]) -> int:
    """How often loss and view information have stood still together.

    After each time the comparison starts anew, since a lower learning rate brings progress again.
    """
    measured = [i for i, entry in enumerate(history) if "view_information" in entry]
    found = begin = 0
    for end in range(1, len(measured) + 1):
        recent = measured[begin:end][-2 * WINDOW :]
        if len(recent) == 2 * WINDOW and _stand_still(history, recent):
            found, begin = found + 1, end
    return found


def _stand_still(history: Sequence[Entry], measured: Sequence[int]) -> bool:
    """Whether the second half of these measurements, and the loss meanwhile, are no better."""
    early, late = measured[:WINDOW], measured[WINDOW:]
    losses = [entry["valid"]["loss"] for entry in history]
    fall = losses[0] - min(losses[: late[-1] + 1])
    fell = _mean(losses[early[0] : late[0]]) - _mean(losses[late[0] : late[-1] + 1])
    known, then = (_mean([history[i]["view_information"] for i in part]) for part in (early, late))
    return fell <= LOSS_GAIN * fall and then - known <= INFORMATION_GAIN * abs(known)


def still_improving(history: Sequence[Entry]) -> bool:
    """Whether the validation loss still fell in the last fifth of the epochs.

    The rule is that of the plateaus. Fewer than five epochs are always too few.
    """
    losses = [entry["valid"]["loss"] for entry in history]
    fifth = len(losses) // 5
    if fifth == 0:
        return True
    fell = _mean(losses[-2 * fifth : -fifth]) - _mean(losses[-fifth:])
    return fell > LOSS_GAIN * (losses[0] - min(losses))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
