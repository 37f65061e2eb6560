"""Density-balanced sampling: training cells drawn evenly over the space of their images.

In most screens a few states hold nearly all cells. A mean over the cells hardly depends on the
others, and a model that minimises it ignores them. Single-cell genomics downsamples dense regions
(geometric sketching: Hie et al. 2019, Cell Systems 8, 483). Here a cell is drawn with a probability
inversely proportional to the density of cells around it. No label is needed, only the images.

The density is that of the k nearest neighbours (Loftsgaarden and Quesenberry 1965) in the first
principal components of the downsampled images: in more dimensions all distances are similar, and
the probabilities would follow the noise.
"""

import numpy as np
import torch
import torch.nn.functional as F

from util.data_processing import Cells

COMPONENTS = 3
NEIGHBOURS = 15
SIDE = 16  # pixels; finer detail hardly changes the first components
EXTREMES = 0.01  # share of cells at either end whose density is clipped
AT_A_TIME = 1024  # images


def sampling_probabilities(points: np.ndarray, balance: float = 1.0) -> np.ndarray:
    """Probability of each cell to be drawn, proportional to density to the power of -balance.

    Args:
        points: (N, d) positions of the cells.
        balance: 0 draws all cells alike, 1 draws evenly over the space that they fill.

    Returns:
        (N,) probabilities above 0 that add up to 1; all equal if the cells lie in one place.
    """
    from sklearn.neighbors import NearestNeighbors

    n_cells, dim = points.shape
    neighbours = min(NEIGHBOURS, n_cells - 1)
    if neighbours < 1 or dim == 0:
        return np.full(n_cells, 1 / n_cells)
    tree = NearestNeighbors(n_neighbors=neighbours).fit(points)
    radius = tree.kneighbors()[0][:, -1]  # without the point itself
    shortest, longest = np.quantile(radius, [EXTREMES, 1 - EXTREMES])
    if shortest <= 0:  # copies of one cell have distance 0
        shortest = radius[radius > 0].min(initial=1.0)
    probabilities = radius.clip(shortest, max(longest, shortest)) ** (dim * balance)
    return probabilities / probabilities.sum()


def image_components(cells: Cells) -> np.ndarray:
    """First principal components of the downsampled images, each of standard deviation 1.

    Holds N x C x 256 float32 numbers in memory.

    Returns:
        (N, d) float32, d at most 3; a component without spread is left out.
    """
    from sklearn.decomposition import PCA

    starts = range(0, len(cells.images), AT_A_TIME)
    parts = (cells.scaled(slice(start, start + AT_A_TIME)) for start in starts)
    flat = np.concatenate([F.adaptive_avg_pool2d(x, SIDE).flatten(1).numpy() for x in parts])
    solver = PCA(min(COMPONENTS, *flat.shape), svd_solver="randomized", random_state=0)
    points = solver.fit_transform(flat)
    spread = points.std(0)
    return points[:, spread > 1e-6] / spread[spread > 1e-6]


def draw_cells(cells: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """N draws of N cells; each cell is drawn N times its probability, rounded up or down.

    Systematic sampling: N equidistant marks on the cumulative probabilities of the cells in random
    order. Randomness follows torch's global generator, which the training
    loop seeds for each epoch.

    Args:
        cells: (N,) indices.
        probabilities: (N,) that add up to 1.

    Returns:
        (N,) indices in random order; some occur several times, some not at all.
    """
    order = torch.randperm(len(cells)).numpy()
    marks = (np.arange(len(cells)) + float(torch.rand((), dtype=torch.float64))) / len(cells)
    ends = np.cumsum(probabilities[order])
    places = np.searchsorted(ends / ends[-1], marks, side="right").clip(max=len(cells) - 1)
    return cells[order[places]]
