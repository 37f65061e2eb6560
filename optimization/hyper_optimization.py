"""Train a VAE at every combination of encoder and decoder width, and score all of them.

The widths are listed below. Any setting of VAE_framework.py can be given on the command line too:

    python optimization/hyper_optimization.py --simulated-cells 1500 --epochs 5 --widths 4 8 16
    python optimization/hyper_optimization.py --architecture sc --workers 2

If the GPU runs out of memory, the epoch starts again with half the batch size, down to 16 cells;
runs.csv records the batch size at the end. A trial that does not fit even then is recorded as
failed. The same command continues a grid that was stopped; on other machines, with the same
`--storage`, it trains trials of the same grid. Results go to results/NNNN-<set>-widths/: open its
report.html.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import VAE_framework
from optimization.grid import GridOptions
from optimization.grid_runs import RESUMABLE, GridKind, run_grid
from util.settings import AT_LEAST_1, parse_settings, run_script, with_edits
from VAE_framework import elbo_objective

WIDTHS = (4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class WidthSettings(GridOptions, VAE_framework.Settings):
    """Every setting of the grid; those that it does not vary apply to each run."""

    widths: tuple[int, ...] = WIDTHS
    """Channels of the first encoder block and of the last decoder block; those of the thesis."""
    decoder_widths: tuple[int, ...] | None = None
    """Widths of the decoder; None takes those of the encoder."""
    batch_size: int = 256
    """Cells per training step, at the start."""
    epochs: int = 200
    """Maximum number of passes over the training cells; that of the thesis for this grid."""

    SHIPPED: ClassVar = VAE_framework.Settings.SHIPPED | {"batch_size": 256, "epochs": 200}
    RANGES: ClassVar = (
        VAE_framework.Settings.RANGES
        | GridOptions.OPTION_RANGES
        | {"widths": AT_LEAST_1, "decoder_widths": AT_LEAST_1}
    )


SETTINGS = with_edits(WidthSettings, VAE_framework.SETTINGS)

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
