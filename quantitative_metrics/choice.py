"""Choose between trained models without labels: two criteria, the choice, and its figure.

No criterion sees a label, and each asks what the other cannot:

    neighbours among features   do cells that hand-crafted features call alike lie together? LCMC
                                (Chen and Buja 2009) at 25 neighbours; chance is 0
    view information            does the code of a cell stay the same however the cell lies, and
                                differ from other cells'? (`view_information`), in nats

Between ways to learn, the first decides: on five sets of cells its choice lost .03 accuracy on
average, that of view information .10, though it was the better one on simulated BBBC031 cells
(tests/benchmarks/results/2026-12-01-label-free.txt). View information grows with the weight that a
loss gives to agreement, whether or not the code gets better. Between seeds of one way, where
losses are the same, view information decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch.nn.functional as F
from matplotlib.figure import Figure

from quantitative_metrics.stability import seed_stability
from quantitative_metrics.unsupervised_metric import co_ranking
from quantitative_metrics.view_information import view_information
from util.augmentation import align
from util.data_processing import Cells
from util.helpers import add_key, draw_points, projection_panel
from util.runs import write_table
from util.style import Roles, colour_column, house_style, save_figure, thinning_stride
from util.tables import read_table

NEIGHBOURS = 25
RANKED = 2000  # cells whose neighbours are compared
BLOCK = 512  # cells aligned at a time
SIDE = 16  # px, of the aligned cells
COLOURED_BY = "1st component, features"
COLUMNS = 4  # of the figure
CAPTIONS = {
    "ways": "Ways to learn, each trained for as many steps. One was chosen without labels.",
    "seeds": "Seeds of that way, trained until they had learnt or their minutes were over. The one "
    "with the most view information was kept.",
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
    tables = [
        criteria.assign(stage=stage, chosen=[int(a is chosen) for a in attempts])
        for stage, (criteria, attempts, chosen) in zip(CAPTIONS, stages, strict=True)
    ]
    write_table(folder / "choice.csv", pd.concat(tables, ignore_index=True))
    codes = [attempt.codes for _, attempts, _ in stages for attempt in attempts]
    _draw(pd.concat(tables), codes, reference, folder / "choice.png")


def _draw(table: pd.DataFrame, codes: Sequence[np.ndarray], reference: np.ndarray, path: Path):
    """A panel for each attempt: its code from the side where it is widest, and its criteria."""
    values = pd.Series(_widest(reference, 1)[:, 0], name=COLOURED_BY)
    colouring = colour_column(values, Roles(progress=COLOURED_BY))
    stride = thinning_stride(len(values))
    ways = int((table["stage"] == "ways").sum())
    places = [*range(ways), *range(-(-ways // COLUMNS) * COLUMNS, 10**6)]  # seeds in a new row
    rows = -(-(places[len(codes) - 1] + 1) // COLUMNS)
    with house_style():
        figure = Figure(figsize=(3.1 * COLUMNS + 1.4, 3.3 * rows), layout="constrained")
        panels = []
        for place, points, row in zip(places, codes, table.itertuples(), strict=False):
            panel = projection_panel(figure, (rows, COLUMNS, place + 1), 2)
            draw_points(panel, _widest(points, 2), colouring, stride)
            panel.set(xticks=[], yticks=[])
            panel.set_title(
                f"{'★ ' * row.chosen}{row.name}, seed {row.seed}\n"
                f"neighbours {row.neighbours:.3f}, views {row.view_information:.2f} nats",
                fontsize=9,
                fontweight="bold" if row.chosen else "normal",
            )
            panels.append(panel)
        add_key(figure, panels, colouring, COLOURED_BY)
        return save_figure(figure, path)


def _widest(points: np.ndarray, axes: int) -> np.ndarray:
    """The first principal components, (N, axes); 0 where there are fewer."""
    from sklearn.decomposition import PCA

    found = PCA(min(axes, *points.shape), random_state=0).fit_transform(points)
    return np.pad(found, ((0, 0), (0, axes - found.shape[1])))


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
