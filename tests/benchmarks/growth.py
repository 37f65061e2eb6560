"""Seconds and memory of each stage of a run as the number of cells grows.

    python tests/benchmarks/growth.py                          # 2,500, 10,000 and 40,000 cells
    python tests/benchmarks/growth.py --cells 2500 5000 --epochs 1

The command of `make run` (InfoMAX_VAE_framework.py --preset views) with 5 epochs, in an empty
folder. Features, UMAP and t-SNE are made beside the training, so the stages add up to more than the
whole. The exponent is log(time ratio) / log(ratio of cells) between two rows: 1 is linear, 2 is
quadratic. Memory is the resident memory of the main process, its highest value within the stage.
"""

import argparse
import contextlib
import dataclasses
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from unittest import mock

import pandas as pd
from common import machine_line

sys.path.insert(0, str(Path(__file__).parents[2]))

import InfoMAX_VAE_framework  # noqa: E402  the repository root has to be on the path
import VAE_framework  # noqa: E402
from models import baselines  # noqa: E402
from quantitative_metrics import scores  # noqa: E402
from quantitative_metrics.catalogue import GROUPS  # noqa: E402

# Stage -> where its function is looked up, and its name there. Projections are stages by name.
PROJECTIONS = "projections"
STAGES = {
    "cells": (VAE_framework, "load"),
    "features": (VAE_framework, "load_features"),
    PROJECTIONS: (baselines, "cached_projection"),
    "training": (VAE_framework, "learn"),
    "codes": (VAE_framework, "embed"),
    **{name: (scores._Scoring, f"score_{name}") for name in GROUPS},
    "figures, pages": (VAE_framework, "draw"),
}


class Watch:
    """Seconds and highest resident memory of stages, which may overlap."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self.mebibytes: dict[str, float] = {}
        self.open: set[str] = set()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            used = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
            for stage in list(self.open):
                self.mebibytes[stage] = max(used, self.mebibytes.get(stage, 0))
            time.sleep(0.02)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block as a part of a stage."""
        started = time.perf_counter()
        self.open.add(name)
        try:
            yield
        finally:
            self.open.discard(name)
            self.seconds[name] = self.seconds.get(name, 0) + time.perf_counter() - started
            print(f"  {name} {self.seconds[name]:.1f} s", file=sys.stderr, flush=True)

    def over(self, name: str, function: Callable) -> Callable:
        """The function, timed."""

        @wraps(function)
        def timed(*args, **options):
            with self.stage(args[0] if name == PROJECTIONS else name):
                return function(*args, **options)

        return timed


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """Every stage timed inside."""
    watch = Watch()
    with contextlib.ExitStack() as patches:
        for stage, (place, name) in STAGES.items():
            timed = watch.over(stage, getattr(place, name))
            patches.enter_context(mock.patch.object(place, name, timed))
        yield watch


def run(cells: int, epochs: int, folder: Path) -> Watch:
    """One run in an empty folder, which has to stay: workers that are used again live in it."""
    script = InfoMAX_VAE_framework
    preset = script.PRESETS["views"] | {"simulated_cells": cells, "epochs": epochs, "device": "cpu"}
    settings = dataclasses.replace(script.SETTINGS, **preset)
    folder.mkdir()
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    with (
        contextlib.chdir(folder),
        open("output.txt", "w") as out,
        contextlib.redirect_stdout(out),
        watched() as watch,
        watch.stage("whole"),
    ):
        VAE_framework.main(settings, script.infomax_objective)
    return watch


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cells", nargs="+", type=int, default=[2500, 10_000, 40_000])
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    print(machine_line("cpu"))
    seconds, memory, place = {}, {}, tempfile.TemporaryDirectory()
    for cells in options.cells:
        watch = run(cells, options.epochs, Path(place.name) / str(cells))
        seconds[cells], memory[cells] = pd.Series(watch.seconds), pd.Series(watch.mebibytes)
        table = pd.DataFrame(seconds).round(1)
        sizes = list(seconds)
        for few, many in zip(sizes[:-1], sizes[1:], strict=True):
            ratio = pd.DataFrame(seconds)[many] / pd.DataFrame(seconds)[few]
            table[f"exponent {few}-{many}"] = (ratio.map(math.log) / math.log(many / few)).round(2)
        print(f"\nseconds\n{table.to_string()}\n\nMiB\n{pd.DataFrame(memory).round().to_string()}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
