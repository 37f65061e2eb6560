"""Train the VAE at every combination of encoder and decoder width, and score all.

The list of widths stands below; any setting of VAE_framework.py can be given on the command line
too:

    python optimization/hyper_optimization.py --simulated-cells 1500 --epochs 5 --widths 4 8 16
    python optimization/hyper_optimization.py --architecture sc --workers 2

Where the memory of the GPU runs out, an epoch starts again with half the batch, down to 16 cells;
the batch that a run ended with stands in runs.csv. A run that fits no batch is recorded as failed.
The same command again goes on where it was stopped; given on other machines with the same
`--storage`, it trains cells of the same grid there. Results go to results/NNNN-<set>-widths/: open
its report.html.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import VAE_framework
from optimization.grid import GridOptions
from optimization.grid_runs import RESUMABLE, GridKind, run_grid
from util.settings import AT_LEAST_1, parse_settings, run_script
from VAE_framework import elbo_objective

WIDTHS = (4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class WidthSettings(GridOptions, VAE_framework.Settings):
    """Every number of the grid; what it does not vary is that of each run."""

    widths: tuple[int, ...] = WIDTHS
    """Channels of the first encoder block, and of the last decoder block; the thesis's."""
    decoder_widths: tuple[int, ...] | None = None
    """Those of the decoder where they are to be others; None takes the same."""
    batch_size: int = 256
    """Cells per training step at the start."""
    epochs: int = 200
    """At most so many passes over the training cells; the thesis's for this grid."""

    RANGES: ClassVar = (
        VAE_framework.Settings.RANGES
        | GridOptions.OPTION_RANGES
        | {"widths": AT_LEAST_1, "decoder_widths": AT_LEAST_1}
    )


SETTINGS = WidthSettings()

KIND = GridKind(
    "widths",
    VAE_framework.Settings,
    elbo_objective,
    {"encoder": "base", "decoder": "decoder_base"},
)


def main(settings: WidthSettings) -> Path:
    """Train, score and draw the grid; returns its folder."""
    axes = {"encoder": settings.widths, "decoder": settings.decoder_widths or settings.widths}
    return run_grid(settings, KIND, axes)


if __name__ == "__main__":
    run_script(
        lambda: main(
            parse_settings(SETTINGS, VAE_framework.PRESETS, changeable_on_resume=RESUMABLE)
        )
    )
