"""Where the intensity of a cell lies: radial distribution and Zernike moments.

The radial distribution is CellProfiler's MeasureObjectIntensityDistribution; the moments are those
of Boland et al. 1998, Cytometry 33:366. Enclosing circles and distances inside a cell come from
centrosome, CellProfiler's own library, in one call.
"""

import numpy as np

from util.features.block import RINGS, Block, Features

_WEDGES = 8


def radial_distribution(block: Block, channel: int) -> Features:
    """Share of the intensity in each of four rings, per pixel, and its variation over wedges.

    The rings lie between the innermost pixel of a cell and its edge, along the way inside it.
    """
    values, (ring, wedge) = block.values[channel], block.rings
    n = len(block.area)
    sector = (block.cell * RINGS + ring) * _WEDGES + wedge
    shape = (n, RINGS, _WEDGES)
    size = n * RINGS * _WEDGES
    total = np.bincount(sector, values, minlength=size).reshape(shape)
    count = np.bincount(sector, minlength=size).reshape(shape)
    fraction = total.sum(axis=2) / total.sum(axis=(1, 2))[:, None]  # (n, rings)
    area = count.sum(axis=2) / block.area[:, None]
    per_pixel = fraction / (area + np.finfo(float).eps)

    occupied = count > 0
    wedges = occupied.sum(axis=2)
    means = np.where(occupied, total / count, 0)
    mean = means.sum(axis=2) / wedges
    spread = np.sqrt((np.where(occupied, means - mean[..., None], 0) ** 2).sum(axis=2) / wedges)
    variation = np.where(mean > 0, spread / mean, 0)  # an empty ring, or a black one, has none
    return {
        f"RadialDistribution_{name}_{ring + 1}of{RINGS}": values[:, ring]
        for ring in range(RINGS)
        for name, values in (
            ("FracAtD", fraction),
            ("MeanFrac", per_pixel),
            ("RadialCV", variation),
        )
    }


ZERNIKE_DEGREE = 9


def zernike_moments(block: Block) -> tuple[Features, list[Features]]:
    """Zernike moments of the shape and of each channel's intensity in the enclosing circle.

    A pixel on the minimum enclosing circle falls in or out of it by rounding. So each cell is
    measured in the frame of its own bounding box, as if it were alone.

    Returns:
        Magnitudes of the shape's moments, per area of the circle; and for each channel magnitudes
        and phases (radians, CellProfiler's: from the imaginary axis), per pixel of the cell.
    """
    y, x, radius = _circle_coordinates(block)
    square = x * x + y * y
    powers = [np.ones_like(y) + 0j]  # of y + ix, by multiplication
    for _ in range(ZERNIKE_DEGREE):
        powers.append(powers[-1] * (y + 1j * x))
    powers = [(power.real.copy(), power.imag.copy()) for power in powers]
    shape, channels = {}, [{} for _ in block.values]
    for n in range(ZERNIKE_DEGREE + 1):
        for m in range(n % 2, n + 1, 2):
            radial = _radial_polynomial(n, m, square)

            shape_moment = [block.sums(radial * part) for part in powers[m]]
            shape[f"Zernike_{n}_{m}"] = np.hypot(*shape_moment) / (np.pi * radius**2)
            for values, features in zip(block.values, channels, strict=True):
                weighted = radial * values
                real, imaginary = (block.sums(weighted * part) for part in powers[m])
                name = f"RadialDistribution_Zernike{{}}_{n}_{m}"
                features[name.format("Magnitude")] = np.hypot(real, imaginary) / block.area
                features[name.format("Phase")] = np.arctan2(real, imaginary)
    return shape, channels


def _circle_coordinates(block: Block) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row and column of each pixel in units of the enclosing circle, (P,), and its radius, (n,)."""
    from centrosome.cpmorphology import convex_hull_ijv, minimum_enclosing_circle

    labels = np.arange(1, len(block.area) + 1)
    pixels = np.column_stack((block.row, block.column, block.cell + 1)).astype(np.int32)
    hull = convex_hull_ijv(pixels, labels)
    centre, radius = minimum_enclosing_circle(None, labels, hull)  # (n, 2), (n,)
    y = (block.row - centre[block.cell, 0]) / radius[block.cell]
    x = (block.column - centre[block.cell, 1]) / radius[block.cell]
    return y, x, radius


def _radial_polynomial(n: int, m: int, square: np.ndarray) -> np.ndarray:
    """R_n^m(r) / r^m of squared radii, 0 outside the unit circle: (P,)."""
    from math import factorial

    value = np.zeros_like(square)
    for k in range((n - m) // 2 + 1):
        value *= square
        value += (-1) ** k * (
            factorial(n - k)
            / (factorial(k) * factorial((n + m) // 2 - k) * factorial((n - m) // 2 - k))
        )
    value[square > 1] = 0
    return value
