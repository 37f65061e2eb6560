"""Train the InfoMax VAE at every combination of alpha and beta, and score all of them.

alpha is the weight of the mutual information between image and latent code, beta that of the KL
term; the batch size is fixed. The values are listed below. Any setting of InfoMAX_VAE_framework.py
can be given on the command line too:

    python optimization/hyper_optimization_bs_fixed.py --simulated-cells 1500 --base 8 --epochs 5
    python optimization/hyper_optimization_bs_fixed.py --alphas 0 20 --betas 1 5 --workers 2
    python optimization/hyper_optimization_bs_fixed.py --storage postgresql://user@host/name

The same command continues a grid that was stopped; on other machines, with the same `--storage`, it
trains trials of the same grid. Results go to results/NNNN-<set>-alpha-beta/: open its report.html.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import InfoMAX_VAE_framework
from InfoMAX_VAE_framework import InfoMaxSettings, infomax_objective
from optimization.grid import GridOptions
from optimization.grid_runs import RESUMABLE, GridKind, run_grid
from util.settings import AT_LEAST_0, parse_settings, run_script, with_edits

ALPHAS = (0.0, 5.0, 20.0, 100.0, 500.0, 1000.0)
BETAS = (0.0, 1.0, 5.0, 20.0, 100.0, 500.0)


@dataclass(frozen=True)
class AlphaBetaSettings(GridOptions, InfoMaxSettings):
    """Every setting of the grid; those that it does not vary apply to each run."""

    alphas: tuple[float, ...] = ALPHAS
    """Weights of the mutual information, dimensionless; those of the thesis."""
    betas: tuple[float, ...] = BETAS
    """Weights of the KL term, dimensionless; those of the thesis."""
    batch_size: int = 256
    """Cells per training step; that of the thesis for this grid."""
    epochs: int = 150
    """Maximum number of passes over the training cells; that of the thesis for this grid."""

    SHIPPED: ClassVar = InfoMaxSettings.SHIPPED | {"batch_size": 256, "epochs": 150}
    RANGES: ClassVar = (
        InfoMaxSettings.RANGES
        | GridOptions.OPTION_RANGES
        | {"alphas": AT_LEAST_0, "betas": AT_LEAST_0}
    )


SETTINGS = with_edits(AlphaBetaSettings, InfoMAX_VAE_framework.SETTINGS)

KIND = GridKind(
    "alpha-beta", InfoMaxSettings, infomax_objective, {"alpha": "alpha", "beta": "beta"}
)


def main(settings: AlphaBetaSettings) -> Path:
    """Train, score and draw the grid; returns its folder."""
    return run_grid(settings, KIND, {"alpha": settings.alphas, "beta": settings.betas})


if __name__ == "__main__":
    run_script(
        lambda: main(
            parse_settings(SETTINGS, InfoMAX_VAE_framework.PRESETS, changeable_on_resume=RESUMABLE)
        )
    )
