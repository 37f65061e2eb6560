"""Feedback as terms of the training objective."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor

from human_guidance.feedback_helpers import AxisHint
from human_guidance.guidance_report import Guidance
from models.finished_run import FinishedRun
from models.guidance_losses import AnchorTerm, AxisTerm, GuidanceTerm, PairTerm
from util.augmentation import augment, jitter
from util.data_processing import Batches
from util.latents import axis_names


def guidance_terms(
    guidance: Guidance, parent: FinishedRun, train_cells: np.ndarray, margin: float
) -> list[GuidanceTerm]:
    """The terms of all feedback.

    Args:
        guidance: the feedback.
        parent: the run that is fine-tuned.
        train_cells: rows of the training cells; axes follow their columns on these only.
        margin: distance beyond which a pair counts as apart, latent units.
    """
    terms: list[GuidanceTerm] = []
    if guidance.anchors is not None:
        anchors = guidance.anchors
        groups = pd.factorize(anchors.groups)[0]
        parts = (anchors.cells, anchors.anchors, anchors.delta, groups)
        terms.append(AnchorTerm(*map(torch.from_numpy, parts)))
    if guidance.pairs is not None:
        pairs = guidance.pairs
        parts = map(torch.from_numpy, (pairs.cells, pairs.together, pairs.weights))
        terms.append(PairTerm(*parts, margin))
    terms += [_axis_term(hint, parent, train_cells) for hint in guidance.hints]
    return terms


def _axis_term(hint: AxisHint, parent: FinishedRun, train_cells: np.ndarray) -> AxisTerm:
    values = parent.latents[hint.column].to_numpy(float)
    cells = train_cells[np.isfinite(values[train_cells])]
    direction = hint.direction
    if direction == 0:  # keep the direction of the trained model
        direction = -1 if spearmanr(parent.codes()[cells, hint.axis], values[cells])[0] < 0 else 1
    name = f"axis {axis_names(hint.axis + 1)[-1]} ~ {hint.column}"
    tensors = torch.from_numpy(cells), torch.from_numpy(values[cells])
    return AxisTerm(*tensors, axis=hint.axis, weight=hint.weight, direction=direction, label=name)


def image_source(batches: Batches, shift: int = 0) -> Callable[[Tensor, bool], Tensor]:
    """A function of cells (k,) that returns their images (k, C, S, S).

    Args:
        batches: of the run; training images are augmented where the run augments its images.
        shift: largest random shift of training images, pixels.
    """

    def look_up(cells: Tensor, training: bool) -> Tensor:
        images = batches.take(cells)
        if training and batches.augmentation:
            images = augment(images, batches.fill)
        return jitter(images, batches.fill, shift) if training and shift else images

    return look_up
