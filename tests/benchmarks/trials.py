"""What each part of InfoMaxViews contributes: one trial per change, all else unchanged.

    python tests/benchmarks/trials.py --workers 2              # all of them
    python tests/benchmarks/trials.py --only alpha views       # names that begin with these

Each trial is a method of `optimization/compare_methods.py` on simulated cells with seed 0, so the
same command continues where it was stopped. The table is printed and written to trials.csv in the
folder of the comparison. Earlier results are in results/*-trials.txt.

There is no trial with a weight on the reconstruction: Adam is invariant to the scale of the loss,
so a weight w is the same as alpha / w and beta / w.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[2]))

from optimization import compare_methods

REDUCED = {
    "simulated_cells": 2500,
    "base": 8,
    "epochs": 12,
    "batch_size": 128,
    "learning_rate": 1e-3,
    "features": "none",
    "metrics": ("classifier", "backbone"),
    "reports": False,
}
VIEWS = "InfoMaxViews"
# Name -> changes to InfoMaxViews, or to the method that is named.
TRIALS = {
    "views": {},
    # what the critic and the decoder see
    "views none": {"views": "none", "critic": "pixels"},
    "views turns": {"views": "turns"},
    "views free": {"views": "free"},
    "critic of pixels": {"critic": "pixels"},
    "target the image": {"target_view": "none"},
    "target aligned": {"target_view": "aligned"},
    "target free": {"target_view": "free"},
    "target strong": {"target_view": "strong"},
    "target only": {"alpha": 0},
    # objective
    "alpha 50": {"alpha": 50},
    "alpha 200": {"alpha": 200},
    "alpha 2000": {"alpha": 2000},
    "alpha 5000": {"alpha": 5000},
    "beta 0": {"beta": 0},
    "beta 5": {"beta": 5},
    "beta 20": {"beta": 20},
    "bound nwj": {"bound": "nwj"},
    "bound interpolated": {"bound": "interpolated"},
    "likelihood gaussian": {"likelihood": "gaussian"},
    "likelihood heteroscedastic": {"likelihood": "heteroscedastic"},
    "free bits 2": {"free_bits": 2},
    # network and training
    "density_balance 0.5": {"density_balance": 0.5},
    "density_balance 1": {"density_balance": 1},
    "batch 64": {"batch_size": 64},
    "batch 512": {"batch_size": 512},
    "base 16": {"base": 16},
    "architecture sc": {"architecture": "sc"},
    "latent 2": {"latent_dim": 2},
    "variance floor -12": {"min_logvar": -12},
    "epochs 6": {"epochs": 6},
    "epochs 24": {"epochs": 24},
    "batch norm frozen after 4": {"freeze_norm_after": 4},
    "no turns of the input": {"augment": False},
    # for comparison
    "Vanilla": {"method": "Vanilla"},
    "SC": {"method": "SC"},
    "Aligned": {"method": "Aligned"},
    "Even": {"method": "Even"},
    "InfoMax alpha 20": {"method": "InfoMax"},
}


def spec_of(name: str) -> str:
    """A trial as compare_methods takes it."""
    changed = {"method": VIEWS} | TRIALS[name]
    settings = ",".join(f"{key}={value}" for key, value in changed.items())
    return f"{name}:{settings}"


def main() -> None:
    """Run the trials and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", nargs="*", default=[""], help="beginnings of names of trials")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--results", default="results")
    options = parser.parse_args()
    names = [name for name in TRIALS if name.startswith(tuple(options.only))]
    folder = compare_methods.main(
        dataclasses.replace(
            compare_methods.SETTINGS,
            methods=tuple(spec_of(name) for name in names),
            workers=options.workers,
            results=options.results,
            **REDUCED,
        )
    )
    means = pd.read_csv(folder / "means.csv")
    table = means[means["cells"] == "all"].pivot(index="method", columns="score", values="mean")
    table = table.loc[names, ["m1", "m2", "m3", "backbone_spearman"]].round(3)
    table.to_csv(folder / "trials.csv")
    print(table.to_string())


if __name__ == "__main__":
    main()
