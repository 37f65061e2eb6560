"""Intensity of a channel: CellProfiler's MeasureObjectIntensity."""

import numpy as np

from util.features.block import Block, Features, codeviation, order_in_cells


def intensity(block: Block, channel: int) -> Features:
    """Moments, quantiles, and the same of the rim: the pixels with a 4-neighbour outside."""
    grey = block.grey[channel]
    inside = np.pad(block.masks, ((0, 0), (1, 1), (1, 1)))
    core = inside[:, :-2, 1:-1] & inside[:, 2:, 1:-1] & inside[:, 1:-1, :-2] & inside[:, 1:-1, 2:]
    rim = ~core[block.masks]  # (P,)
    # No cell is without a rim, so that each has a place in the lists of rim pixels.
    on_rim = _moments(grey[rim], np.bincount(block.cell[rim]))
    lower, median, upper = _quantiles(block, grey, (0.25, 0.5, 0.75))
    # A median that ends in ½ is ½ from every level it lies between: whole steps are sorted.
    steps = np.abs(grey - median[block.cell]).astype(np.int64)
    deviation = _quantiles(block, steps, (0.5,))[0] + median % 1
    features = {
        f"{name}Intensity": value / block.full_scale
        for name, value in _moments(grey, block.area).items()
    }
    features["MassDisplacement"] = _mass_displacement(block, grey)
    features |= {
        f"{name}Intensity": value / block.full_scale
        for name, value in (
            ("LowerQuartile", lower),
            ("Median", median),
            ("MAD", deviation),
            ("UpperQuartile", upper),
        )
    }
    features |= {f"{name}IntensityEdge": value / block.full_scale for name, value in on_rim.items()}
    return {f"Intensity_{name}": value for name, value in features.items()}


def _moments(grey: np.ndarray, count: np.ndarray) -> Features:
    """Sum, mean, standard deviation and range of stretches of `count` pixels: (P,) -> (n,)."""
    start = np.cumsum(count) - count
    total = np.add.reduceat(grey, start)
    square = np.add.reduceat(grey * grey, start)
    return {
        "Integrated": total,
        "Mean": total / count,
        "Std": np.sqrt(codeviation(count, total, total, square) / count),
        "Min": np.minimum.reduceat(grey, start),
        "Max": np.maximum.reduceat(grey, start),
    }


def _quantiles(block: Block, grey: np.ndarray, fractions: tuple[float, ...]) -> list[np.ndarray]:
    """Quantiles of each cell, linear between the neighbours: (P,) integers -> (n,) for each."""
    ordered = grey[order_in_cells(block.cell, grey)]
    last = block.start + block.area - 1
    quantiles = []
    for fraction in fractions:
        position = (block.area - 1) * fraction
        below = block.start + position.astype(np.int64)
        share = position % 1
        above = ordered[np.minimum(below + 1, last)]
        quantiles.append(ordered[below] * (1 - share) + above * share)
    return quantiles


def _mass_displacement(block: Block, grey: np.ndarray) -> np.ndarray:
    """Distance from the centre of the mask to the centre of the intensity, pixels."""
    total = block.sums(grey)
    shift = [
        block.sums(grey * place) / total - block.sums(place) / block.area
        for place in (block.row, block.column)
    ]
    return np.hypot(*shift)
