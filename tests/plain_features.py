"""The full group of features as cp_measure takes it: one cell, one channel, one pair at a time."""

import warnings
from itertools import combinations

import numpy as np
import pandas as pd
from cp_measure.bulk import get_core_measurements, get_correlation_measurements

from util.cell_features import is_metadata
from util.features.cell_masks import find_masks

CORE = get_core_measurements(sanitize=False)
PAIRWISE = get_correlation_measurements(sanitize=False)
GRANULARITY = dict(
    subsample_size=1, image_sample_size=1, element_size=10, granular_spectrum_length=8
)


def measure_plainly(images, masked, names, full_scale):
    """(n, C, S, S) -> the table of `measure_features` with groups="full"."""
    masks, _ = find_masks(images, masked)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        rows = [
            dict(_measure_cell(image / full_scale * mask, mask, names, full_scale))
            for image, mask in zip(images, masks, strict=True)
        ]
    table = pd.DataFrame(rows).astype(np.float64)
    return table[[name for name in table if not is_metadata(name)]]


def _measure_cell(pixels, mask, names, full_scale):
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    tight = mask[box].astype(int)  # the frame in which Zernike moments are taken
    labels = np.pad(tight, 1)
    channels = [np.pad(channel[box], 1) for channel in pixels]

    shape = CORE["sizeshape"](labels, None) | CORE["feret"](labels, None)
    shape |= CORE["zernike"](tight, None)
    yield from ((f"AreaShape_{name}", values[0]) for name, values in shape.items())
    for channel, image in zip(names, channels, strict=True):
        moments = CORE["radial_zernikes"](tight, image[1:-1, 1:-1])
        yield from ((f"{name}_{channel}", values[0]) for name, values in moments.items())

    for channel, image in zip(names, channels, strict=True):
        measured = CORE["intensity"](labels, image)
        texture = CORE["texture"](labels, image)
        measured |= {f"Texture_{name}": values for name, values in texture.items()}
        measured |= CORE["radial_distribution"](labels, image)
        measured |= CORE["granularity"](labels, image, **GRANULARITY)
        yield from ((f"{name}_{channel}", values[0]) for name, values in measured.items())

    for (first, image_1), (second, image_2) in combinations(zip(names, channels, strict=True), 2):
        measured = PAIRWISE["pearson"](image_1, image_2, labels)
        measured |= PAIRWISE["manders_fold"](image_1, image_2, labels)
        measured |= PAIRWISE["rwc"](image_1, image_2, labels)
        measured |= PAIRWISE["costes"](image_1, image_2, labels, scale_max=full_scale)
        yield from ((f"{name}_{first}_{second}", values[0]) for name, values in measured.items())
