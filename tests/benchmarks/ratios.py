"""How many times faster each hot path is than a plain version, side by side in one process.

    python tests/benchmarks/ratios.py             # the table, two minutes
    python tests/benchmarks/ratios.py --check     # and exit code 1 if a ratio fell by over a third
    python tests/benchmarks/ratios.py --record    # keep the ratios as those to be checked against

Absolute times drift with the load of a machine, the ratio of two sides that take turns much less:
each is the median of 5 pairs. The plain side is what one would write first, or a library's own.
`ratios.json` holds the known ratios. For more on one of them see the other scripts of this folder.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from common import machine_line, spread
from feeding import random_cells, read_resident, scikit_image_loader
from information import AS_FIRST_WRITTEN, one_at_a_time
from sklearn.exceptions import ConvergenceWarning
from sklearn.manifold import trustworthiness
from sklearn.neural_network import MLPClassifier
from training_step import build_pair, training_step

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from plain_features import measure_plainly  # noqa: E402

from human_guidance.page.figures import packed  # noqa: E402  the repository root has to be there
from models.losses import ELBOObjective  # noqa: E402
from models.train_net import Schedule, train  # noqa: E402
from optimization.grid_scores import score_each  # noqa: E402
from quantitative_metrics.classifier_metric import classifier_accuracy  # noqa: E402
from quantitative_metrics.MINE_metric import mutual_information_of  # noqa: E402
from quantitative_metrics.scores import Plan, score_projections  # noqa: E402
from quantitative_metrics.unsupervised_metric import co_ranking  # noqa: E402
from util.cell_features import measure_features  # noqa: E402
from util.data_processing import CellBatches, CellSource, load_cells  # noqa: E402
from util.devices import one_thread  # noqa: E402
from util.raw.centroid_matching import match_centroids  # noqa: E402

KNOWN = Path(__file__).with_name("ratios.json")
PAIRS = 5
LEAST_SHARE = 2 / 3  # of the known ratio
BATCH = 64
NETWORKS = SimpleNamespace(seed=0, image_size=64, channels=3, channels_last=False, device="cpu")


@dataclass(frozen=True)
class Pair:
    """Two ways to the same end.

    Attributes:
        name: of the hot path.
        plain_side: what the plain version is, in words.
        fast, plain: do it once.
        work: how much more the fast side does per call.
    """

    name: str
    plain_side: str
    fast: Callable[[], object]
    plain: Callable[[], object]
    work: float = 1.0


def pairs() -> Iterator[Pair]:
    """Every hot path; each is built when its turn comes."""
    yield training()
    yield feeding()
    yield epoch()
    yield neighbours()
    yield classifier()
    yield information()
    yield features()
    yield full_features()
    yield matching()
    yield grid()
    yield page()


def training() -> Pair:
    """A training step of the vanilla VAE, base 8."""
    images = torch.rand(BATCH, 3, 64, 64)
    models = build_pair("vanilla", 8, NETWORKS)
    fast, plain = (training_step(models[side], images, False) for side in ("fast", "plain"))
    return Pair("training step", "convolution of the enlarged image", fast, plain)


def feeding() -> Pair:
    """Augmented batches from memory."""
    cells = random_cells(1024)
    batches = CellBatches(cells, torch.device("cpu"), BATCH, augmentation=True)
    order, few = np.arange(1024), cells.images[: 2 * BATCH]

    def plain() -> None:
        list(scikit_image_loader(few, read_resident, BATCH, 0))

    return Pair(
        "feeding",
        "scikit-image, image by image",
        lambda: list(batches.shuffled(order)),
        plain,
        work=1024 / len(few),
    )


def epoch() -> Pair:
    """An epoch with its validation, checkpoint and log, against steps alone as first written."""
    cells = random_cells(4 * BATCH)
    models = build_pair("vanilla", 8, NETWORKS)
    batches = CellBatches(cells, torch.device("cpu"), BATCH, augmentation=True)
    split = np.arange(4 * BATCH), np.arange(BATCH)
    schedule = Schedule(1, 1e-4)

    def fast() -> None:
        with tempfile.TemporaryDirectory() as folder:
            train(
                models["fast"],
                ELBOObjective(),
                batches,
                split,
                schedule=schedule,
                folder=Path(folder),
                progress=False,
            )

    def plain() -> None:
        for x in scikit_image_loader(cells.images, read_resident, BATCH, 0):
            training_step(models["plain"], x, False)()

    return Pair("epoch", "plain loader and plain network, no validation", fast, plain)


def neighbours() -> Pair:
    """Trustworthiness, continuity, LCMC at 20 sizes and local quality of three projections."""
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (1200, 3072), dtype=np.uint8)
    codes = {name: rng.normal(size=(1200, 3)).astype(np.float32) for name in "ABC"}
    flat = data.astype(np.float32)

    def plain() -> None:
        trustworthiness(flat, codes["A"], n_neighbors=100)

    return Pair(
        "neighbourhood scores",
        "scikit-learn's trustworthiness, one size of one projection",
        lambda: co_ranking(data, codes),
        plain,
        work=60,
    )


def classifier() -> Pair:
    """Eight halvings of the small classifier."""
    rng = np.random.default_rng(0)
    codes, labels = rng.normal(size=(800, 3)), rng.integers(0, 6, 800)

    def plain() -> None:
        network = MLPClassifier(200, max_iter=100, batch_size=128, tol=0, n_iter_no_change=100)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # as many epochs as ours
            network.fit(codes[:400], labels[:400])

    return Pair(
        "classifier",
        "scikit-learn's MLPClassifier, one halving",
        lambda: classifier_accuracy(codes, labels),
        plain,
        work=8,
    )


def information() -> Pair:
    """Mutual information of images with three projections, a repeat each, 100 steps."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(600, 6))
    images = 1 / (1 + np.exp(-states @ rng.normal(size=(6, 768)) / 3)).reshape(-1, 3, 16, 16)
    codes = {name: states[:, first : first + 3] for name, first in (("A", 0), ("B", 1), ("C", 2))}
    settings = replace(AS_FIRST_WRITTEN, repeats=1, steps=100)
    return Pair(
        "mutual information",
        "one critic at a time, of one projection",
        lambda: mutual_information_of(images, codes, repeats=1, steps=100),
        lambda: one_at_a_time(images, codes["A"], settings),
        work=3,
    )


def features() -> Pair:
    """Hand-crafted features, many cells in one block."""
    images = load_cells(CellSource(simulated_cells=64)).images
    measure = partial(measure_features, masked=True, n_jobs=1, progress=False)

    def plain() -> None:
        for i in range(4):
            measure(images[i : i + 1])

    return Pair("features", "one cell at a time", lambda: measure(images), plain, work=16)


def full_features() -> Pair:
    """The same with texture, granularity, Zernike moments and all else of the full group."""
    images = load_cells(CellSource(simulated_cells=64)).images
    return Pair(
        "full features",
        "cp_measure, cell by cell",
        lambda: measure_features(images, True, groups="full", n_jobs=1, progress=False),
        lambda: measure_plainly(images[:8], True, ["ch0", "ch1", "ch2"], 255),
        work=8,
    )


def matching() -> Pair:
    """The nearest object of each cell."""
    rng = np.random.default_rng(0)
    tables = [
        pd.DataFrame(rng.uniform(0, 1000, (4000, 2)), columns=["x", "y"]).assign(
            Well=np.arange(4000) // 200
        )
        for _ in range(2)
    ]
    cells, objects = tables

    def plain() -> None:
        for row in cells[:100].itertuples():
            same = objects[objects["Well"] == row.Well]
            np.hypot(same["x"] - row.x, same["y"] - row.y).idxmin()

    return Pair(
        "matching of centroids",
        "a loop over the cells",
        lambda: match_centroids(cells, objects, ["Well"], 35.0),
        plain,
        work=40,
    )


def grid() -> Pair:
    """Scores of the runs of a grid against one reference space."""
    rng = np.random.default_rng(0)
    references = {"pixels": rng.integers(0, 256, (1000, 3, 64, 64), dtype=np.uint8)}
    codes = {f"run {i}": rng.normal(size=(1000, 3)).astype(np.float32) for i in range(8)}
    table = pd.DataFrame({"Unique_ID": np.arange(1000).astype(str)})
    plan = Plan(metrics=("neighbours",))

    def plain() -> None:
        for name, values in codes.items():
            score_projections({name: values}, references, table, plan)

    return Pair(
        "scores of a grid",
        "each run by itself",
        lambda: list(score_each(codes, references, table, plan)),
        plain,
    )


def page() -> Pair:
    """Coordinates of 100,000 cells for the browser."""
    codes = np.random.default_rng(0).normal(size=(3, 100_000)).astype(np.float32)
    return Pair(
        "points of the page",
        "lists of numbers in JSON",
        lambda: json.dumps([packed(axis) for axis in codes]),
        lambda: json.dumps([axis.tolist() for axis in codes]),
    )


def measure(pair: Pair) -> list[float]:
    """Ratios of plain to fast, of pairs of calls that take turns."""
    pair.fast(), pair.plain()  # warm-up
    ratios = []
    for _ in range(PAIRS):
        fast, plain = _seconds(pair.fast), _seconds(pair.plain)
        ratios.append(pair.work * plain / fast)
    return ratios


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> int:
    """Measure and print every ratio; returns how many fell too far."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="against ratios.json")
    parser.add_argument("--record", action="store_true", help="into ratios.json")
    options = parser.parse_args()
    known = json.loads(KNOWN.read_text()) if KNOWN.is_file() else {}
    found, slow = {}, []
    with one_thread():
        print(machine_line("cpu"))
        for pair in pairs():
            ratios = measure(pair)
            found[pair.name] = round(statistics.median(ratios), 2)
            # A path that has no known ratio yet counts as fallen: --record it.
            fell = found[pair.name] < LEAST_SHARE * known.get(pair.name, math.inf)
            slow += [pair.name] if fell else []
            print(
                f"{pair.name:<22} {spread(ratios, ' x'):>26}   over {pair.plain_side}"
                f"{'   FELL from ' + str(known.get(pair.name, 'nothing known')) if fell else ''}",
                flush=True,
            )
    if options.record:
        KNOWN.write_text(json.dumps(found, indent=2) + "\n")
    if slow and options.check:
        print(f"over a third slower than known, beside the plain version: {', '.join(slow)}")
    return len(slow) if options.check else 0


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
