"""Two views of cells that no model learnt from, and their codes, for the score *view information*.

The same views judge every model, whatever it was trained with: each cell is turned by any angle,
flipped, and cut to a window of 0.6 to 1 of its side, which is enlarged to the full size. They are
cut from all pixels of the input, before any downsampling, and depend on nothing but the cells and
the seed. What lies beyond the image is the padding of the data set, as in training.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.baselines import BASELINES, PLACES_NEW_CELLS, principal_components
from util.augmentation import View
from util.cell_features import hand_crafted_features
from util.data_processing import Cells
from util.errors import UserError

JUDGES = View(free_rotation=True, smallest_part=0.6)
AT_ONCE = 256  # cells; a pair of 64 x 64 x 3 pixels takes 0.1 MB
ENOUGH = 2000  # held-out cells, whose views embed in seconds; the error of the score is then small
FITTED = 5000  # cells that a baseline is fitted to; UMAP then takes less than half a minute


def choose_viewed(held_out: np.ndarray, seed: int, most: int = ENOUGH) -> np.ndarray:
    """Rows of the cells to view, ascending: all that are held out, or a seeded sample of them."""
    if len(held_out) <= most:
        return np.sort(held_out)
    return np.sort(np.random.default_rng([seed, 2]).choice(held_out, most, replace=False))


def two_views(cells: Cells, rows: np.ndarray, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of views of some cells, 256 cells at a time.

    A list of them can be kept and embedded again and again, as in training.

    Args:
        cells: images, their scaling and padding.
        rows: (n,) row numbers.
        seed: of the views; the same for every model.

    Yields:
        two (B, C, S, S) float32 in 0..1, on the CPU.
    """
    generator, fill = torch.Generator().manual_seed(seed), cells.scaled_padding()
    for start in range(0, len(rows), AT_ONCE):
        images = cells.scaled(rows[start : start + AT_ONCE])
        yield JUDGES(images, fill, generator), JUDGES(images, fill, generator)


@torch.no_grad()
def embed_views(
    model: nn.Module,
    views: Iterable[tuple[Tensor, Tensor]],
    device: torch.device | str = "cpu",
    downsample: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means of both views of each cell.

    Args:
        model: the VAE, on the device; left in evaluation mode.
        views: of `two_views`.
        device: of the model.
        downsample: of the model's input.

    Returns:
        two (n, d) float32.
    """
    model.eval()
    codes: tuple[list[Tensor], list[Tensor]] = [], []
    for pair in views:
        for found, images in zip(codes, pair, strict=True):
            images = images.to(device)
            seen = images if downsample == 1 else F.avg_pool2d(images, downsample)
            found.append(model.encode(seen)[0].float().cpu())
    a, b = (torch.cat(found).numpy() for found in codes)
    return a, b


def baseline_views(
    name: str,
    space: str,
    cells: Cells,
    learnt: np.ndarray,
    rows: np.ndarray,
    *,
    dim: int = 3,
    seed: int = 0,
    views_seed: int = 0,
    **settings: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Both views of each cell in a PCA or UMAP that was fitted to other cells.

    The views are the same as for a model. Features are measured on them anew, a few milliseconds
    each, and cleaned together with those of the fitted cells.

    Args:
        name: `PCA` or `UMAP`; t-SNE cannot place a new cell.
        space: `pixels` (their 50 first principal components) or `features`.
        cells: images.
        learnt: rows to fit to, at most 5,000 of which are taken at random.
        rows: (n,) rows of the viewed cells.
        dim: number of coordinates.
        seed: of the projection and of that choice.
        views_seed: of the views.
        settings: further arguments of the projection.

    Returns:
        two (n, dim) float32; NaN where a view could not be measured.

    Raises:
        UserError: another projection or space, or as the projection.
    """
    if name not in PLACES_NEW_CELLS or space not in ("pixels", "features"):
        raise UserError(
            f"{name} of {space}: view information needs a projection that places new cells, "
            f"{' or '.join(PLACES_NEW_CELLS)}, of pixels or features"
        )
    fitted = choose_viewed(learnt, seed, FITTED)
    stacked = _stack(cells, fitted, rows, views_seed)
    fitted_to = np.arange(len(stacked.images)) < len(fitted)
    if space == "pixels":
        values = principal_components(stacked.reference_space(), seed=seed, fitted_to=fitted_to)
    else:
        ids = list(stacked.table["Unique_ID"])
        values = hand_crafted_features("measure", stacked, ids)[0].to_numpy()
    known = np.isfinite(values).all(axis=1)
    codes = np.full((len(values), dim), np.nan, np.float32)
    codes[known] = BASELINES[name](
        values[known], dim=dim, seed=seed, fitted_to=fitted_to[known], **settings
    )
    a, b = np.split(codes[len(fitted) :], 2)
    return a, b


def _stack(cells: Cells, fitted: np.ndarray, rows: np.ndarray, seed: int) -> Cells:
    """The fitted cells, then one view of each viewed cell, then the other, as integer images."""
    low, high = (v.astype(np.float32)[:, None, None] for v in (cells.low, cells.high))
    dtype = cells.images.dtype
    sides = zip(*two_views(cells, rows, seed), strict=True)
    views = [(low + torch.cat(side).numpy() * (high - low)).round().astype(dtype) for side in sides]
    images = np.concatenate([np.asarray(cells.images[fitted]), *views])
    names = [f"cell_{i}" for i in range(len(images))]
    table = pd.DataFrame({"Unique_ID": names})
    return replace(cells, images=images, table=table, originals=None, cache=None, fingerprint="")
