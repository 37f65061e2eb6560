"""Train an InfoMax VAE on single-cell images, project the cells and judge the projection.

The InfoMax VAE is the VAE of VAE_framework.py with another objective: it also rewards mutual
information between image and code. Every setting of VAE_framework.py is a setting here; what this
script adds stands below. Edit it, or give it on the command line:

    python InfoMAX_VAE_framework.py --preset laptop --alpha 100
"""

from dataclasses import dataclass

from torch import nn

from models.infoMAX_VAE import InfoMaxObjective
from util.data_processing import Cells
from util.mutual_information import Bound, InformationEstimator
from util.runs import parse_settings, run_script
from VAE_framework import CHANGEABLE, PRESETS, Settings, main


@dataclass(frozen=True)
class InfoMaxSettings(Settings):
    """Every number of a run. The defaults are those of the thesis."""

    alpha: float = 20.0
    """Weight of the mutual information between image and code, dimensionless; 0 is the plain
    VAE."""
    bound: Bound = "infonce"
    """Lower bound on the information: the thesis's code trained with InfoNCE."""
    bound_alpha: float = 0.01
    """Weight of InfoNCE in the interpolated bound, above 0 up to 1; small: little bias, more
    noise."""
    critic_learning_rate: float = 5e-4
    """Adam's step size for the critic that estimates the information."""

    @property
    def model_name(self) -> str:
        """Name of the model in the run folder."""
        return f"InfoMAX-{super().model_name}"


SETTINGS = InfoMaxSettings()


def infomax_objective(settings: InfoMaxSettings, cells: Cells) -> nn.Module:
    """What the InfoMax VAE minimises."""
    estimator = InformationEstimator(
        cells.images.shape[1:], settings.latent_dim, settings.bound, settings.bound_alpha
    )
    return InfoMaxObjective(estimator, settings.alpha, settings.beta, settings.critic_learning_rate)


if __name__ == "__main__":
    run_script(
        lambda: main(
            parse_settings(SETTINGS, PRESETS, changeable_on_resume=CHANGEABLE), infomax_objective
        )
    )
