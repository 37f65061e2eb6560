"""Which columns the axes of a latent space follow, and which pixels they depend on.

Rank correlations tell which metadata columns and hand-crafted features an axis follows; the kind of
the strongest ones gives the axis its name. Gradients tell which pixels a latent code depends on
(Simonyan et al. 2014, arXiv:1312.6034, averaged over noisy copies of the image: SmoothGrad, Smilkov
et al. 2017, arXiv:1706.03825). Only the correlations hold whole tables in memory; all else works on
blocks of cells.
"""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import binary_dilation, binary_erosion, generate_binary_structure
from scipy.stats import ConstantInputWarning, rankdata
from torch import Tensor, nn

from quantitative_metrics.axis_metric import correlate_axes

FOLLOWS = 0.7  # least size of a rank correlation at which an axis follows a column
PARTLY = 0.4  # and at which it partly follows it
UNUSED = 0.05  # nats; the model does not use an axis that carries less
MOST_NAMED = 3  # concepts in a sentence
REPEATS = 0.02  # largest difference in correlation at which a column repeats another
GAIN = 0.05  # of correlation over the best axis, at which a direction is named
TRIED = 8  # cells of a square of the gallery that are tried
RIM = 2  # pixels to each side of a cell's outline that count as its rim

# Property that a column measures, by its name; the first match counts. `concept_of` has more.
CONCEPTS = (
    ("colour", r"(^|_)(colou?r|hue)"),
    ("shape", r"^(GT_)?(shape|roundness|eccentricity)$"),
    ("size", r"AreaShape_(\w*Area|Volume|Perimeter\w*|\w*(Length|Radius|Diameter))$"),
    ("size", r"^(GT_)?(size|scale|radius|area|diameter)$"),
    ("orientation", r"(^|_)orientation$"),
    ("shape", r"(^|_)AreaShape_"),
    ("texture", r"(^|_)(Texture|Granularity)_"),
    ("place of the signal in the cell", r"(^|_)RadialDistribution_|MassDisplacement_"),
)
RGB = ["Red", "Green", "Blue"]


def correlate(
    codes: np.ndarray,
    axes: Sequence[str],
    known: pd.DataFrame,
    features: pd.DataFrame | None,
    channels: Sequence[str],
) -> pd.DataFrame:
    """Spearman rank correlation of every axis with every known column and every feature.

    Columns with fewer than three values and those that number the cells are left out.

    Args:
        codes: (N, d).
        axes: d names.
        known: N rows of metadata.
        features: (N, F) hand-crafted features, or None.
        channels: names of the channels of the images.

    Returns:
        axis, kind (known, feature), column, concept, spearman (-1..1), n_cells; in the order of the
        columns.
    """
    parts = []
    for kind, table in (("known", known), ("feature", features)):
        if table is None:
            continue
        with warnings.catch_warnings():  # an axis may be constant: its correlation is nan
            warnings.simplefilter("ignore", ConstantInputWarning)
            found = correlate_axes({"VAE": codes}, table)
        parts.append(found.assign(kind=kind, axis=[axes[i - 1] for i in found["axis"]]))
    rows = pd.concat(parts).dropna(subset="spearman").reset_index(drop=True)
    rows["concept"] = [concept_of(name, channels) for name in rows["column"]]
    return rows[["axis", "kind", "column", "concept", "spearman", "n_cells"]]


def concept_of(column: str, channels: Sequence[str] = ()) -> str:
    """The property that a column measures; the name of the column if that does not tell.

    In an image of red, green and blue, intensities and correlations of channels measure the colour.
    Otherwise they measure the brightness of a channel, its total signal (which also grows with the
    size of the cell), or the overlap of the channels.
    """
    rgb = list(channels) == RGB
    for concept, pattern in CONCEPTS:
        if re.search(pattern, column, re.IGNORECASE):
            return concept
    if re.search(r"(^|_)Correlation_", column):
        return "colour" if rgb else "overlap of the channels"
    if re.search(r"(^|_)Intensity_", column):
        if rgb:
            return "colour"
        what = "total signal" if "Intensity_Integrated" in column else "brightness"
        channel = next((name for name in channels if column.endswith(f"_{name}")), None)
        return f"{what} of {channel}" if channel else what
    return column


def directions(codes: np.ndarray, axes: Sequence[str], table: pd.DataFrame) -> pd.DataFrame:
    """The latent direction that each column follows best.

    A property may vary along a direction between the axes. The direction is that of the least
    squares fit of the column's ranks by the codes.

    Args:
        codes: (N, d).
        axes: d names.
        table: N rows of numbers; a cell without a value is left out for that column.

    Returns:
        a row per column with at least three values: n_cells, spearman (0..1) between the column and
        the position along the direction, and the direction, a unit vector in latent units.
    """
    rows = {}
    for column in table:
        values = table[column].to_numpy(float)
        use = np.isfinite(values)
        if len(np.unique(values[use])) < 3:
            continue
        ranks = rankdata(values[use])
        centred = codes[use] - codes[use].mean(0, dtype=float)
        slope = np.linalg.lstsq(centred, ranks - ranks.mean(), rcond=None)[0]
        length = np.linalg.norm(slope)
        if length > 0:
            rho = np.corrcoef(rankdata(centred @ slope), ranks)[0, 1]
            unit = dict(zip(axes, slope / length, strict=True))
            rows[column] = {"n_cells": int(use.sum()), "spearman": rho, **unit}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("column").reset_index()


def information_per_axis(mean: np.ndarray, logvar: np.ndarray) -> np.ndarray:
    """(d,) nats per cell: the KL divergence of the posterior (N, d) from the prior, by axis.

    An axis that the model leaves unused has 0 (Kingma and Welling 2014, appendix B).
    """
    terms = np.square(mean, dtype=float) + np.exp(logvar, dtype=float) - logvar - 1
    return 0.5 * terms.mean(0)


def without_repeats(correlations: pd.DataFrame) -> pd.DataFrame:
    """The correlations without known columns that repeat an earlier known column.

    A table may hold a quantity twice: as it is and with the opposite sign, or as its rank.
    """
    known = correlations[correlations["kind"] == "known"]
    wide = known.pivot(index="column", columns="axis", values="spearman").abs().fillna(0)
    wide = wide.loc[known["column"].unique()]
    values, kept = wide.to_numpy(), []
    for i in range(len(values)):
        if not any(np.abs(values[i] - values[j]).max() < REPEATS for j in kept):
            kept.append(i)
    dropped = wide.index.delete(kept)
    return correlations[~((correlations["kind"] == "known") & correlations["column"].isin(dropped))]


def name_axes(correlations: pd.DataFrame, axes: Sequence[str], nats: np.ndarray) -> list[str]:
    """A sentence for each axis: what it follows, with the correlations.

    Args:
        correlations: of `correlate`.
        axes: d names.
        nats: (d,) information of each axis.
    """
    return [
        f"The model does not use axis {axis} (it carries {carried:.2f} nats)."
        if carried < UNUSED
        else f"Axis {axis} {_what_follows(_strongest(correlations[correlations['axis'] == axis]))}."
        for axis, carried in zip(axes, nats, strict=True)
    ]


def short_names(correlations: pd.DataFrame, axes: Sequence[str], nats: np.ndarray) -> list[str]:
    """The concepts that each axis at least partly follows, the strongest first, for a figure."""
    names = []
    for axis, carried in zip(axes, nats, strict=True):
        concepts = _strongest(correlations[correlations["axis"] == axis])
        said = [name for name, best in concepts if _size(best) >= PARTLY][:MOST_NAMED]
        names.append("unused" if carried < UNUSED else ", ".join(said) or "nothing known")
    return names


def name_concepts(
    correlations: pd.DataFrame, values: pd.DataFrame, found_directions: pd.DataFrame
) -> list[str]:
    """Sentences: which axis follows each concept best, and which concepts vary together.

    Args:
        correlations: of `correlate`.
        values: N rows with their columns.
        found_directions: of `directions`.

    Returns:
        a sentence on all concepts that an axis at least partly follows, one on each two concepts
        that share their axis, and one on each concept that a direction follows better than any
        axis.
    """
    found = []
    for concept, rows in correlations.groupby("concept", sort=False):
        known = rows[rows["kind"] == "known"]
        best = _largest(known if len(known) else rows)
        if abs(best["spearman"]) >= PARTLY:
            found.append((concept, best))
    if correlations.empty:
        return ["There is no metadata column and no feature to compare the axes with."]
    if not found:
        return ["No axis follows a metadata column or a feature: all correlations are small."]
    found.sort(key=lambda pair: (pair[1]["kind"] != "known", -abs(pair[1]["spearman"])))
    first, *others = [(_the(c), f"by axis {b['axis']} ({_evidence([b])})") for c, b in found]
    said = [" is best followed ".join(first), *map(" ".join, others)]
    sentences = [f"{_and(said)}."]
    sentences[0] = sentences[0][0].upper() + sentences[0][1:]
    named = [pair for pair in found if pair[1]["kind"] == "known"]
    for i, (concept, best) in enumerate(named):
        for other, second in named[:i]:
            if second["axis"] == best["axis"]:
                rho = values[second["column"]].corr(values[best["column"]], method="spearman")
                if abs(rho) >= PARTLY:
                    sentences.append(
                        f"In these cells {_the(other)} and {_the(concept)} vary together (Spearman "
                        f"{_signed(rho)} between {second['column']} and {best['column']}): an axis "
                        "that follows one also follows the other."
                    )
    directed = found_directions.set_index("column")
    for concept, best in named:
        if directed["spearman"].get(best["column"], 0) >= abs(best["spearman"]) + GAIN:
            sentences.append(_between_axes(concept, best, directed.loc[best["column"]]))
    return sentences


def _between_axes(concept: str, best: pd.Series, direction: pd.Series) -> str:
    axes = direction.drop(["n_cells", "spearman"])
    parts = " ".join(f"{weight:+.2f} {axis}" for axis, weight in axes.items())
    return (
        f"The direction {parts} follows {_the(concept)} better than any axis (Spearman "
        f"{_signed(direction['spearman'])} with {best['column']})."
    )


def _strongest(rows: pd.DataFrame) -> list[tuple[str, list[pd.Series]]]:
    """The concepts of one axis, strongest first, each with its best known column and feature."""
    found = []
    for concept, part in rows.groupby("concept", sort=False):
        best = [_largest(group) for _, group in part.groupby("kind", sort=False)]
        found.append((concept, best))
    return sorted(found, key=lambda pair: -_size(pair[1]))


def _what_follows(concepts: list[tuple[str, list[pd.Series]]]) -> str:
    if not concepts:
        return "has no name: there is no column or feature to compare it with"
    said = {level: [] for level in ("follows", "partly follows")}
    for concept, best in concepts[:MOST_NAMED]:
        close = [row for row in best if abs(row["spearman"]) >= PARTLY]
        words = f"{_the(concept)} (Spearman {_evidence(close)})"
        if close:
            said["follows" if _size(best) >= FOLLOWS else "partly follows"].append(words)
    clauses = [f"{level} {_and(words)}" for level, words in said.items() if words]
    if clauses:
        return _and(clauses)
    concept, best = concepts[0]
    return f"follows nothing known; the closest is {_the(concept)} (Spearman {_evidence(best)})"


def _the(concept: str) -> str:
    """A concept with its article; the name of a column has none."""
    words = {name for name, _ in CONCEPTS} | {"overlap of the channels"}
    named = concept in words or re.match(r"(brightness|total signal)( of |$)", concept)
    return f"the {concept}" if named else concept


def _evidence(rows: Sequence[pd.Series]) -> str:
    return ", ".join(f"{_signed(row['spearman'])} with {row['column']}" for row in rows)


def _largest(rows: pd.DataFrame) -> pd.Series:
    """The row of the largest correlation, the first of equals."""
    return rows.loc[rows["spearman"].abs().round(6).idxmax()]


def _size(best: Sequence[pd.Series]) -> float:
    return max(abs(row["spearman"]) for row in best)


def _signed(rho: float) -> str:
    return f"{rho:+.2f}"


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


@dataclass(frozen=True)
class Saliency:
    """Gradients of some axes by the pixels of n cells.

    Attributes:
        size: (n, a, S, S) absolute gradient of each axis at each pixel, summed over channels.
        signed: (a, C, S, S) gradient averaged over the cells; positive where more signal moves a
            cell up the axis.
        effect: (a, C) sum of the gradient over the pixels of the cell, averaged over the cells: the
            shift of a cell that becomes brighter in a channel, to first order.
    """

    size: np.ndarray
    signed: np.ndarray
    effect: np.ndarray


def smooth_gradients(
    model: nn.Module,
    images: Tensor,
    masks: np.ndarray,
    axes: Sequence[int],
    n_samples: int,
    noise: float,
    seed: int,
    cells_per_batch: int = 8,
) -> Saliency:
    """Gradient of the posterior means by the pixels, averaged over noisy copies (SmoothGrad).

    Args:
        model: a VAE in evaluation mode.
        images: (n, C, S, S) in 0..1, on the device of the model.
        masks: (n, S, S) bool, the cell in each image.
        axes: the a axes asked for, from 0.
        n_samples: noisy copies of each image (n of Smilkov et al.); 1 is enough without noise.
        noise: standard deviation of the Gaussian noise, in 0..1 of full scale.
        seed: of the noise.
        cells_per_batch: cells whose gradients are in memory together.

    Returns:
        gradients in latent units per unit of intensity (full scale is 1).
    """
    rng = torch.Generator().manual_seed(seed)  # on the CPU: the same noise for every device
    sizes, signed, effect = [], 0.0, 0.0
    inside = torch.from_numpy(masks).to(images)[:, None, None]  # (n, 1, 1, S, S)
    for x, cell in zip(images.split(cells_per_batch), inside.split(cells_per_batch), strict=True):
        total = torch.stack([torch.zeros_like(x)] * len(axes), 1)  # (B, a, C, S, S)
        for _ in range(n_samples):
            disturbance = torch.randn(x.shape, generator=rng).to(x) * noise
            total += _gradients(model, x + disturbance, axes)
        total /= n_samples
        sizes.append(total.abs().sum(2).cpu().numpy())
        signed = signed + total.sum(0)
        effect = effect + (total * cell).sum((0, 3, 4))
    return Saliency(
        np.concatenate(sizes),
        (signed / len(images)).cpu().numpy(),
        (effect / len(images)).cpu().numpy(),
    )


def _gradients(model: nn.Module, x: Tensor, axes: Sequence[int]) -> Tensor:
    """(B, a, C, S, S): of each axis by the pixels of its own cell."""
    x = x.detach().requires_grad_()
    mean, _ = model.encode(x)  # (B, d); in evaluation mode no cell depends on another
    sums = mean.sum(0)[list(axes)].unbind()
    return torch.stack([torch.autograd.grad(s, x, retain_graph=True)[0] for s in sums], 1)


def sensitivity_by_region(size: np.ndarray, masks: np.ndarray) -> pd.DataFrame:
    """Sensitivity of each axis to pixels inside the cell, at its rim and outside.

    Args:
        size: (n, a, S, S) size of the gradients of n cells.
        masks: (n, S, S) bool, the cell in each image.

    Returns:
        a row per axis, columns inside, rim (2 pixels to each side of the outline), outside: mean
        absolute gradient of a pixel there, relative to the whole image; 1 means no preference, nan
        no such pixel.
    """
    structure = np.zeros((3, 3, 3), bool)
    structure[1] = generate_binary_structure(2, 1)  # each image by itself
    grown = binary_dilation(masks, structure, RIM)
    core = binary_erosion(masks, structure, RIM)
    regions = {"inside": core, "rim": grown & ~core, "outside": ~grown}
    overall = np.maximum(size.mean((0, 2, 3)), np.finfo(float).tiny)  # (a,)
    table = {
        name: np.einsum("naij,nij->a", size, region, dtype=float) / region.sum() / overall
        if region.any()
        else np.full(size.shape[1], np.nan)
        for name, region in regions.items()
    }
    return pd.DataFrame(table)


def nearest_cells(codes: np.ndarray, point: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the n cells (at most all) nearest to a point (d,), nearest first; their distances."""
    squared = np.square(codes - point.astype(codes.dtype)).sum(1)
    n = min(n, len(squared))
    found = np.argpartition(squared, n - 1)[:n]
    found = found[np.lexsort((found, squared[found]))]
    return found, np.sqrt(squared[found])


def without_overlap(places: np.ndarray, side: float) -> np.ndarray:
    """Rows of cells whose square pictures, centred on their positions, do not overlap.

    The plane is divided into squares. Cells near the middle of their square come first, and a cell
    is shown if no earlier picture overlaps it. The pictures nearly form a lattice, so many fit.

    Args:
        places: (N, 2).
        side: of a picture, in the units of the places.

    Returns:
        rows, in the order in which they were chosen.
    """
    square = np.floor(places / side)
    off = np.abs(places / side - square - 0.5).max(1)
    order = np.argsort(off, kind="stable")
    tried = pd.DataFrame(square[order]).groupby([0, 1]).cumcount().to_numpy() < TRIED
    shown = np.empty((0, 2))
    rows = []
    for row in order[tried]:  # their number grows with that of the squares, not of the cells
        place = places[row]
        if (np.abs(shown - place).max(1, initial=0) >= side).all():
            rows.append(row)
            shown = np.vstack([shown, place])
    return np.array(rows, int)
