"""Choose between trained models without labels: two criteria, the choice, and its figure.

No criterion sees a label, and each asks what the other cannot:

    neighbours among features   do cells that hand-crafted features call alike lie together? LCMC
                                (Chen and Buja 2009) at 25 neighbours; chance is 0
    view information            does the code of a cell stay the same however the cell lies, and
                                differ from other cells'? (`view_information`), in nats

Between ways to learn, the first decides. View information grows with the weight that a loss gives
to agreement, whether or not the code gets better, so there it serves as a floor only: a code that
holds less than a fifth of what the best one holds follows the orientation of the cells. Between
seeds of one way, where losses are the same, view information decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from quantitative_metrics.unsupervised_metric import co_ranking
from quantitative_metrics.view_information import view_information

NEIGHBOURS = 25
FLOOR = 0.2  # of the best view information
RANKED = 2000  # cells whose neighbours are compared


@dataclass(frozen=True)
class Attempt:
    """A trained model that may be chosen.

    Attributes:
        name: of the way to learn.
        seed: of the training.
        codes: (N, d) posterior means of all cells.
        views: codes of two views of held-out cells, (n, d) each.
        steps: of the training.
        seconds: that it took.
    """

    name: str
    seed: int
    codes: np.ndarray
    views: tuple[np.ndarray, np.ndarray]
    steps: int
    seconds: float


def compare(attempts: Sequence[Attempt], reference: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """The criteria of each attempt, a row each in the given order.

    Args:
        attempts: models of the same cells.
        reference: (N, F) hand-crafted features, or what stands for them.
        seed: of the cells that are ranked.

    Returns:
        columns name, seed, steps, seconds, neighbours, view_information, standard_error (of the
        view information).
    """
    n_cells = len(reference)
    ranked = co_ranking(
        reference,
        {str(i): attempt.codes for i, attempt in enumerate(attempts)},
        sample=RANKED,
        seed=seed,
    )
    rows = []
    for i, attempt in enumerate(attempts):
        information = view_information(*attempt.views, seed=seed)
        rows.append(
            {
                "name": attempt.name,
                "seed": attempt.seed,
                "steps": attempt.steps,
                "seconds": attempt.seconds,
                "neighbours": ranked[str(i)].at(min(NEIGHBOURS, n_cells // 3))["lcmc"],
                "view_information": information.value,
                "standard_error": information.standard_error,
            }
        )
    return pd.DataFrame(rows)


def best_way(criteria: pd.DataFrame) -> int:
    """Row of the way to learn that is chosen (module docstring)."""
    information = criteria["view_information"]
    fit = information >= FLOOR * information.max()
    return int(criteria["neighbours"].where(fit, -np.inf).idxmax())


def best_seed(criteria: pd.DataFrame) -> int:
    """Row of the seed that is kept: that of the highest view information."""
    return int(criteria["view_information"].idxmax())
