"""Density-balanced sampling: training cells drawn evenly over the space of their images.

In most screens a few states hold nearly all cells. A mean over the cells hardly notices the others,
and neither does a model that minimises it. Single-cell genomics thins out what is dense instead
(geometric sketching: Hie et al. 2019, Cell Systems 8, 483). Here a cell is drawn with a probability
that is inverse to the density of cells around it. No label is needed, only the images.

The density is that of the k nearest neighbours (Loftsgaarden and Quesenberry 1965) in the first
principal components of the images, reduced to a few pixels a side: in more dimensions all distances
are alike, and the probabilities follow the noise.
"""

import numpy as np
import torch
import torch.nn.functional as F

from util.data_processing import Cells

COMPONENTS = 3
NEIGHBOURS = 15
SIDE = 16  # pixels; finer detail is hardly in the first components
EXTREMES = 0.01  # share of the most crowded, and of the loneliest, cells that count as the next one
AT_A_TIME = 1024  # images


def sampling_probabilities(points: np.ndarray, balance: float = 1.0) -> np.ndarray:
    """Probability of each cell to be drawn, proportional to density to the power of -balance.

    Args:
        points: (N, d) where the cells lie.
        balance: 0 to draw cells as they come, up to 1 to draw evenly over the space they fill.

    Returns:
        (N,) probabilities above 0 that add up to 1; all the same where the cells lie in one place.
    """
    from sklearn.neighbors import NearestNeighbors

    n_cells, dim = points.shape
    neighbours = min(NEIGHBOURS, n_cells - 1)
    if neighbours < 1 or dim == 0:
        return np.full(n_cells, 1 / n_cells)
    tree = NearestNeighbors(n_neighbors=neighbours).fit(points)
    radius = tree.kneighbors()[0][:, -1]  # without the point itself
    shortest, longest = np.quantile(radius, [EXTREMES, 1 - EXTREMES])
    if shortest <= 0:  # copies of one cell lie at no distance
        shortest = radius[radius > 0].min(initial=1.0)
    probabilities = radius.clip(shortest, max(longest, shortest)) ** (dim * balance)
    return probabilities / probabilities.sum()


def image_components(cells: Cells) -> np.ndarray:
    """First principal components of the reduced images, each of standard deviation 1.

    Takes N x C x 256 numbers of memory, float32.

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
    """As many cells as there are, each as often as its probability says, to within one.

    Systematic sampling: N marks at equal distances on the line of all probabilities, on which the
    cells lie in a random order. Randomness follows torch's global generator, which the training
    loop seeds for each epoch.

    Args:
        cells: (N,) indices.
        probabilities: (N,) that add up to 1.

    Returns:
        (N,) indices in random order, some of them several times and some not at all.
    """
    order = torch.randperm(len(cells)).numpy()
    marks = (np.arange(len(cells)) + float(torch.rand((), dtype=torch.float64))) / len(cells)
    ends = np.cumsum(probabilities[order])
    places = np.searchsorted(ends / ends[-1], marks, side="right").clip(max=len(cells) - 1)
    return cells[order[places]]
