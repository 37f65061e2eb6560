"""How hard the simulated BBBC031 is: what features designed by people tell of its processes.

    python tests/benchmarks/simulator.py --seeds 0 1

The thesis's question, m1 to m3 (accuracy of the converged classifier), put to the true colours and
shape, to all measured features together, and to UMAP of them; on real cells of this law 22 simple
features gave 85 / 97 % for m1 / m2. Sizes, brightness and texture of single cells are held against
a real field in tests/test_simulate_cells.py.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import VAE_framework
from models.baselines import cached_projection
from quantitative_metrics.classifier_metric import m_scores

LAW = ["GT_colorR", "GT_colorG", "GT_colorB", "GT_Shape"]


def main() -> None:
    """Print a row per seed of the simulator and kind of code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="of the simulator")
    parser.add_argument("--cells", type=int, default=7387)
    options = parser.parse_args()
    for seed in options.seeds:
        settings = dataclasses.replace(
            VAE_framework.SETTINGS, simulated_cells=options.cells, simulated_seed=seed
        )
        loaded = VAE_framework.load(settings)
        table, features = loaded.cells.table, loaded.features
        umap = cached_projection("UMAP", features, cache_dir=loaded.cells.cache)
        codes = {
            "true colours and shape": table[LAW].to_numpy(np.float32),
            f"{features.shape[1]} features": features.to_numpy(np.float32),
            "UMAP of the features": umap,
        }
        for name, values in codes.items():
            scores = m_scores(values, table)
            found = "  ".join(f"{m} {score.accuracy:.3f}" for m, score in scores.items())
            print(f"seed {seed}  {name:<24} {found}", flush=True)


if __name__ == "__main__":
    main()
