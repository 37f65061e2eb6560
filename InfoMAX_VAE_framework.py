"""Train an InfoMax VAE on single-cell images, project the cells and judge the projection.

The InfoMax VAE is the VAE of VAE_framework.py with another objective: it also rewards mutual
information between image and code. All settings of VAE_framework.py are settings here too; the
additional ones stand below. Edit them, or give them on the command line:

    python InfoMAX_VAE_framework.py --preset laptop --alpha 100
    python InfoMAX_VAE_framework.py --preset views        # the critic sees other views of the cell
    python InfoMAX_VAE_framework.py --preset auto --dataset DataSets/MyCells   # chooses by the cells

`--preset auto` is for cells that nobody knows. It trains each of CANDIDATES for a few hundred
steps, takes the one that is best by criteria without labels (quantitative_metrics/choice.py),
trains it from three seeds until it has learnt, keeps the best seed, and reports the spread.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

import VAE_framework
from models.infoMAX_VAE import CriticInput, InfoMaxObjective
from models.networks import input_side
from util.augmentation import VIEWS, ViewName
from util.data_processing import Cells
from util.errors import UserError
from util.mutual_information import Bound, InformationEstimator
from util.settings import (
    ABOVE_0,
    AT_LEAST_0,
    RESUMES,
    Range,
    parse_settings,
    run_script,
)
from VAE_framework import (
    CHANGEABLE,
    Settings,
    elbo_arguments,
    elbo_objective,
    main,
)


@dataclass(frozen=True)
class InfoMaxSettings(Settings):
    """Every number of a run. The defaults are those of the thesis's text, but for `fit`."""

    alpha: float = 20.0
    """Weight of the mutual information between image and code, dimensionless; 0 is the plain
    VAE."""
    bound: Bound = "interpolated"
    """Lower bound on the information: interpolated, as in the thesis's text; its code used
    infonce."""
    bound_alpha: float = 0.01
    """Share of InfoNCE in the interpolated bound, above 0 up to 1; a small share has less bias and
    more variance."""
    views: ViewName = "none"
    """Image that the critic sees: the encoder's (none), or another view of the cell: turns (quarter
    turns and flips), free (any angle), strong (any angle, any part enlarged). With a view, the
    objective rewards only what all views of a cell share."""
    critic: CriticInput = "pixels"
    """Input of the critic: the pixels of that view, as in the thesis, or its latent code from the
    same encoder, which learns faster and needs --views."""
    critic_learning_rate: float = 5e-4
    """Adam's step size for the critic that estimates the information."""
    preset: Literal["default", "thesis", "laptop", "aligned", "even", "views", "auto"] = "default"
    """Named set of values; explicit options override it, also those of the candidates of auto."""

    RANGES: ClassVar = Settings.RANGES | {
        "alpha": AT_LEAST_0,
        "bound_alpha": Range(0, 1, without=(0,)),
        "critic_learning_rate": ABOVE_0,
    }

    @property
    def model_name(self) -> str:
        """Name of the model in the run folder."""
        return f"InfoMAX-{super().model_name}"


SETTINGS = InfoMaxSettings()

# The code is rewarded for what it shares with other views, and the decoder reconstructs another.
OTHER_VIEWS = {
    "alpha": 500.0,
    "bound": "infonce",
    "views": "strong",
    "target_view": "turns",
    "critic": "code",
}
# `thesis` is what the thesis's code did; the other presets are those of VAE_framework.py.
PRESETS = VAE_framework.PRESETS | {
    "thesis": VAE_framework.PRESETS["thesis"] | {"bound": "infonce"},
    "views": VAE_framework.LAPTOP | {"batch_size": 128} | OTHER_VIEWS,
    "auto": {
        "image_size": None,
        "downsample": None,
        "base": 8,
        "learning_rate": 1e-3,
        "epochs": 2000,
        "minutes": 4.0,
        "keep_checkpoint": True,
    },
}

# What `--preset auto` tries. The weight of the information follows the number of pixels, since the
# reconstruction does: `alpha` is nats per value of the network's input.
CONTRAST = OTHER_VIEWS | {"alpha": 0.02, "likelihood": "heteroscedastic"}
CANDIDATES = {
    "views": CONTRAST,
    "balanced views": CONTRAST | {"density_balance": 0.5},
    "bright views": CONTRAST | {"alpha": 0.04, "likelihood": "gaussian"},
    "aligned": VAE_framework.ALIGNED,
    "even": VAE_framework.EVEN,
    "vanilla": {"likelihood": "gaussian"},
}
TRIED_STEPS = 500  # of each candidate
TRIED_SHARE = 0.4  # of the minutes, for all candidates
SEEDS = 3


def infomax_objective(settings: InfoMaxSettings, cells: Cells) -> nn.Module:
    """What the InfoMax VAE minimises."""
    if settings.critic == "code" and settings.views == "none":
        raise UserError(
            "`critic` code: needs another view of the cell; give `views` turns or strong"
        )
    side = input_side(settings.image_size, settings.downsample)
    pixels = (cells.images.shape[1], side, side)
    seen = (settings.latent_dim,) if settings.critic == "code" else pixels
    estimator = InformationEstimator(
        seen, settings.latent_dim, settings.bound, settings.bound_alpha
    )
    return InfoMaxObjective(
        estimator,
        alpha=settings.alpha,
        critic_learning_rate=settings.critic_learning_rate,
        view=VIEWS[settings.views],
        critic_input=settings.critic,
        **elbo_arguments(settings, cells),
    )


# Script that trained a run -> class of its settings, and its objective.
TRAINING_SCRIPTS = {
    "VAE_framework": (Settings, elbo_objective),
    "InfoMAX_VAE_framework": (InfoMaxSettings, infomax_objective),
}


if __name__ == "__main__":
    run_script(
        lambda: main(
            parse_settings(SETTINGS, PRESETS, changeable_on_resume=CHANGEABLE), infomax_objective
        ),
        RESUMES,
    )
