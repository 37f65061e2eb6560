"""Choose between trained models without labels: two criteria, the choice, and its figure.

No criterion sees a label, and each asks what the other cannot:

    neighbours among features   do cells that hand-crafted features call alike lie together? LCMC
                                (Chen and Buja 2009) at 25 neighbours; chance is 0
    view information            does the code of a cell stay the same however the cell lies, and
                                differ from other cells'? (`view_information`), in nats

Between ways to learn, the first decides: on five sets of cells its choice was never worse than
that of view information (tests/benchmarks/results). View information grows with the weight that a
loss gives to agreement, whether or not the code gets better. Between seeds of one way, where
losses are the same, view information decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch.nn.functional as F

from quantitative_metrics.stability import seed_stability
from quantitative_metrics.unsupervised_metric import co_ranking
from quantitative_metrics.view_information import view_information
from util.augmentation import align
from util.data_processing import Cells
from util.helpers import plot_projections
from util.runs import write_table
from util.style import Roles
from util.tables import read_table

NEIGHBOURS = 25
RANKED = 2000  # cells whose neighbours are compared
BLOCK = 512  # cells aligned at a time
SIDE = 16  # px, of the aligned cells
COLOURED_BY = "main direction of the features"
CAPTIONS = {
    "ways": "Ways to learn, each trained for a short time. One was chosen without labels.",
    "seeds": "Seeds of that way, each trained until it had learnt. The one with the most view "
    "information was kept.",
}


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
        folder: where its files are.
    """

    name: str
    seed: int
    codes: np.ndarray
    views: tuple[np.ndarray, np.ndarray]
    steps: int
    seconds: float
    folder: Path


def reference_of(cells: Cells, features: pd.DataFrame | None) -> np.ndarray:
    """(N, F) hand-crafted features; without them the pixels of the aligned, downsampled cells."""
    if features is not None:
        return features.to_numpy()
    fill = cells.scaled_padding()
    starts = range(0, len(cells.table), BLOCK)
    blocks = (align(cells.scaled(slice(start, start + BLOCK)), fill) for start in starts)
    return np.concatenate([F.adaptive_avg_pool2d(x, SIDE).flatten(1).numpy() for x in blocks])


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
    return int(criteria["neighbours"].idxmax())


def best_seed(criteria: pd.DataFrame) -> int:
    """Row of the seed that is kept: that of the highest view information."""
    return int(criteria["view_information"].idxmax())


def notes(way: Attempt, seeds: Sequence[Attempt], kept: Attempt) -> list[str]:
    """What was chosen, and how much the seeds agree."""
    agreement = seed_stability([attempt.codes for attempt in seeds])
    overlap, spread = agreement.overlap
    distance, _ = agreement.distance
    return [
        f"the way to learn was chosen without labels: {way.name}; of {len(seeds)} seeds, seed "
        f"{kept.seed} is kept (choice.csv, choice.png)",
        f"the seeds share {overlap:.0%} ± {spread:.0%} of a cell's 15 nearest cells; Procrustes "
        f"distance {distance:.2f}. Do not trust what another seed would show differently",
    ]


def write(
    folder: Path,
    stages: Sequence[tuple[pd.DataFrame, Sequence[Attempt], Attempt]],
    reference: np.ndarray,
) -> None:
    """Write choice.csv and choice.png, which `read` reads.

    Args:
        folder: of the run.
        stages: criteria, attempts, and the one that was chosen: of the ways, then of the seeds.
        reference: as for `compare`; the cells are coloured by its first component.
    """
    from sklearn.decomposition import PCA

    coordinates, panels, tables = {}, {}, []
    for stage, (criteria, attempts, chosen) in zip(CAPTIONS, stages, strict=True):
        tables.append(criteria.assign(stage=stage, chosen=[int(a is chosen) for a in attempts]))
        for attempt, row in zip(attempts, criteria.itertuples(), strict=True):
            star = "★ " if attempt is chosen else ""
            name = (
                f"{star}{attempt.name}, seed {attempt.seed}, {row.steps:,} steps\n"
                f"neighbours {row.neighbours:.3f}, views {row.view_information:.2f} nats"
            )
            columns = [f"{len(panels)}-{axis}" for axis in range(attempt.codes.shape[1])]
            coordinates |= dict(zip(columns, attempt.codes.T, strict=True))
            panels[name] = columns
    write_table(folder / "choice.csv", pd.concat(tables, ignore_index=True))
    coordinates[COLOURED_BY] = PCA(1, random_state=0).fit_transform(reference)[:, 0]
    roles = Roles(progress=COLOURED_BY)
    plot_projections(pd.DataFrame(coordinates), panels, COLOURED_BY, folder / "choice.png", roles)


def read(folder: Path) -> tuple[list[tuple[str, Path]], list[tuple[str, pd.DataFrame]]]:
    """Figure and tables of the choice for the report, with their captions.

    Raises:
        UserError: choice.csv is missing or damaged.
    """
    table = read_table(folder / "choice.csv")
    caption = (
        "The codes that were compared without labels, and their criteria. ★ marks the way to learn "
        "that was chosen, and the seed of it that was kept."
    )
    tables = [(said, _shown(table[table["stage"] == stage])) for stage, said in CAPTIONS.items()]
    return [(caption, folder / "choice.png")], tables


def _shown(criteria: pd.DataFrame) -> pd.DataFrame:
    """The criteria in the words of the report."""
    spread = zip(criteria["view_information"], criteria["standard_error"], strict=True)
    return pd.DataFrame(
        {
            "way to learn": criteria["name"],
            "seed": criteria["seed"],
            "steps": criteria["steps"],
            "seconds": criteria["seconds"].round().astype(int),
            "neighbours among features": criteria["neighbours"].round(3),
            "view information, nats": [f"{value:.2f} ± {error:.2f}" for value, error in spread],
            "chosen": np.where(criteria["chosen"], "★", ""),
        }
    ).set_index("way to learn")
