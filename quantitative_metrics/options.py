"""How scores are computed, where a user may choose: options of scripts, arguments in Python."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from quantitative_metrics.MINE_metric import RANGES as INFORMATION_RANGES
from util.mutual_information import Bound
from util.settings import AT_LEAST_0, AT_LEAST_1, Range

RANK_ALL_UP_TO = 15_000  # cells: about a minute for three projections and two spaces on 2 cores
INFORMATION = "information_"  # begins the names of what `mutual_information` takes
NO_LIMIT = ("image_size", "components", "pairs")  # 0 stands for None


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """How to score; None takes what the mode or the number of cells asks for."""

    replicate: str | None = None
    """Column of what cells share that should look alike (well, site, donor); scored without
    labels."""
    group: str | None = None
    """Column of cells that stay together in every split and resample (well, plate, donor); None
    splits cells one by one."""

    rank_all_up_to: int = RANK_ALL_UP_TO
    """Cells up to which neighbourhood ranks are exact; above, a sample is ranked against all."""
    ranked_sample: int = 2000
    """Cells of that sample."""
    kt: int | None = None
    """Local quality: the largest difference of two ranks that agree; 300 in the thesis. None takes
    it, and less below 2,000 cells."""
    ks: int | None = None
    """Local quality: the largest rank of a near pair; 500 in the thesis. None as for kt."""

    classifier_mode: Literal["converged", "thesis"] = "converged"
    """`converged` (standardised columns, 100 epochs) or `thesis` (raw columns, 20 epochs)."""
    classifier_repeats: int = 8
    """Random halvings of the cells that the classifier is trained and tested on."""
    class_weights: bool = False
    """Weight each class by its inverse size."""

    information_mode: Literal["held_out", "thesis"] = "held_out"
    """`held_out` (on pairs the critic has not seen) or `thesis` (on those it was trained on)."""
    information_bound: Bound | None = None
    """Lower bound on the information; None: infonce, in mode thesis interpolated."""
    information_alpha: float | None = None
    """Share of InfoNCE in the interpolated bound, above 0 up to 1; None: 0.01."""
    information_repeats: int | None = None
    """Trainings of the critic; None: 5, in mode thesis 1."""
    information_pairs: int | None = None
    """Cells at most, drawn at random; 0 takes all. None: 20,000, in mode thesis all."""
    information_steps: int | None = None
    """Training steps at most, in mode held_out; None: 1,200."""
    information_patience: int | None = None
    """Steps without a better value before training ends, in mode held_out; None: 100."""
    information_epochs: int | None = None
    """Passes over the cells, in mode thesis; None: 200."""
    information_batch: int | None = None
    """Cells per training step; None: 64, in mode thesis 256."""
    information_learning_rate: float | None = None
    """Of Adam, at the start; None: 4e-3, in mode thesis 5e-4."""
    information_averaging: float | None = None
    """Decay per step of the running mean of the critic's weights, from 0 to below 1; None: 0.99."""
    information_hidden: int | None = None
    """Units of the hidden layers of the critic; None: 160, in mode thesis 256."""
    information_image_size: int | None = None
    """Side that larger images are averaged down to, in pixels; 0 keeps all pixels. None: 16, in
    mode thesis all."""
    information_components: int | None = None
    """Principal components of the images; 0 shows the pixels. None: 64, in mode thesis pixels."""
    information_standardise: bool | None = None
    """Standardise and clip features and codes; None: yes, in mode thesis no."""

    OPTION_RANGES: ClassVar = {
        "rank_all_up_to": AT_LEAST_0,
        "ranked_sample": Range(2),  # for a standard error
        "kt": AT_LEAST_0,
        "ks": AT_LEAST_1,
        "classifier_repeats": AT_LEAST_1,
    } | {
        f"{INFORMATION}{name}": Range(0) if name in NO_LIMIT else numbers
        for name, numbers in INFORMATION_RANGES.items()
    }

    def of_information(self) -> dict[str, Any]:
        """Arguments of `mutual_information`: the mode and what differs from its settings."""
        given = {
            field.name.removeprefix(INFORMATION): getattr(self, field.name)
            for field in fields(ScoringOptions)
            if field.name.startswith(INFORMATION) and getattr(self, field.name) is not None
        }
        return {name: None if name in NO_LIMIT and not v else v for name, v in given.items()}
