"""The look of all figures: fonts, palettes, colours of a column, thinning of points.

Class colours are those of Okabe and Ito (2008, "Color Universal Design"), extended by two of Tol's
muted set, so that they stay apart for colour-blind readers; numbers are shown in viridis.
"""

import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from util.files import write_atomically

DPI = 150
MAX_POINTS = 20_000  # above it a scatter plot is a solid blob and an interactive page stutters
MAX_CLASSES = 20  # the length of tab20
LOOSE_VALUES = 0.5  # most distinct values of coloured text, as a share of the cells
OKABE_ITO = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442", "#000000"]
CLASS_PALETTE = [*OKABE_ITO, "#882255", "#999933"]
OTHER_COLOUR = "#8c8c8c"
MISSING_COLOUR = "#d0d0d0"
LINE_STYLES = ["-", "--", "-.", ":"]

STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure everywhere
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "figure.titlesize": 12,
    "figure.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "lines.linewidth": 1.6,
    "text.parse_math": False,  # a "$" in a class name is a dollar sign
}


@contextmanager
def house_style() -> Iterator[None]:
    """matplotlib's defaults with `STYLE` on top, whatever matplotlibrc the user has."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def save_figure(figure: Figure, path: Path) -> Path:
    """Write the figure as PNG without the version of matplotlib in it; returns the path.

    A figure without images gets a palette of 256 colours: a third of the bytes, and colours change
    by less than the eye notices. Images keep every colour.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DPI, format="png")
    picture = Image.open(drawn).convert("RGB")
    if not any(panel.images for panel in figure.axes):
        picture = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    with write_atomically(Path(path)) as temporary:
        picture.save(temporary, "PNG", dpi=(DPI, DPI), optimize=True)
    return Path(path)


def one_line(text: object, width: int = 28) -> str:
    """The text without line breaks, cut to `width` characters in its middle.

    Names that begin alike, as `treatment with 10 nM` and `treatment with 100 nM`, end differently.
    """
    line = " ".join(str(text).split())
    if len(line) <= width:
        return line
    end = (width - 1) // 2
    return f"{line[: width - 1 - end]}…{line[len(line) - end :]}"


@dataclass(frozen=True)
class ClassColours:
    """A column shown as classes.

    Attributes:
        codes: (N,) int, class of each cell as an index into `names`.
        names: the classes in their order; "other" and "missing" come last where they are needed.
        colours: hex colour of each class.
        counts: cells of each class.
    """

    codes: np.ndarray
    names: list[str]
    colours: list[str]
    counts: list[int]


@dataclass(frozen=True)
class NumberColours:
    """A column shown on a colour scale.

    Attributes:
        values: (N,) float, nan where missing.
        low: value of the first colour, the 1st percentile: one wild value must not flatten the
            rest.
        high: value of the last colour, the 99th percentile.
    """

    values: np.ndarray
    low: float
    high: float


def is_colourable(values: pd.Series) -> bool:
    """Whether a column is worth colours: it has values, and text has a class for several cells."""
    is_text = not pd.api.types.is_numeric_dtype(values)
    names_cells = is_text and values.nunique() > LOOSE_VALUES * len(values)
    return bool(values.notna().any()) and not names_cells


def colour_column(values: pd.Series, graded: bool = False) -> ClassColours | NumberColours:
    """Decide how a column of metadata is shown: as classes or on a colour scale.

    Numbers go on a scale, but whole numbers of at most 20 distinct values are classes unless they
    are graded, as doses and times are, and so is anything that is no number. Up to 10 classes are
    coloured by `CLASS_PALETTE`, up to 20 by tab20; beyond, the 19 most frequent keep a colour and
    the others share a grey one.
    """
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        numbers = values.to_numpy(float, na_value=np.nan)
        numbers = np.where(np.isfinite(numbers), numbers, np.nan)
        distinct = np.unique(numbers[np.isfinite(numbers)])
        if graded or len(distinct) > MAX_CLASSES or (distinct != np.round(distinct)).any():
            return NumberColours(numbers, *_colour_range(distinct, numbers))
        names = np.array([f"{number:.0f}" for number in distinct], object)
        codes = np.where(np.isnan(numbers), -1, np.searchsorted(distinct, numbers))
        return _class_colours(codes, list(names))
    if isinstance(values.dtype, pd.CategoricalDtype) and values.cat.ordered:
        used = values.cat.remove_unused_categories().cat
        return _class_colours(used.codes.to_numpy(), [str(name) for name in used.categories])
    text = values.astype(object).where(values.notna(), None).map(str, na_action="ignore")
    names = sorted(text.dropna().unique(), key=_natural_order)
    return _class_colours(pd.Categorical(text, categories=names).codes, names)


def _colour_range(distinct: np.ndarray, numbers: np.ndarray) -> tuple[float, float]:
    low, high = np.nanpercentile(numbers, [1, 99])
    if high <= low:
        low, high = distinct[0], distinct[-1]
    return float(low), float(high)


def _natural_order(name: str) -> list[tuple[bool, float, str]]:
    """Sort key that puts "Process_2" before "Process_10"."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(i % 2 == 0, float(part) if i % 2 else 0.0, part) for i, part in enumerate(parts)]


def _class_colours(codes: np.ndarray, names: list[str]) -> ClassColours:
    """Give classes (code -1: missing) their colours and counts, rare ones joined beyond 20."""
    codes = codes.astype(np.int64)
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    joined = len(names) > MAX_CLASSES
    if joined:
        kept = np.sort(np.argsort(-counts, kind="stable")[: MAX_CLASSES - 1])
        place = np.full(len(names) + 1, len(kept))
        place[kept] = np.arange(len(kept))
        place[-1] = -1  # code -1 stays missing
        codes = place[codes]
        others = len(names) - len(kept)
        names = [*(names[i] for i in kept), f"other ({others} classes)"]
    if len(names) <= len(CLASS_PALETTE):
        colours = CLASS_PALETTE[: len(names)]
    else:
        colours = [
            mpl.colors.to_hex(colour) for colour in mpl.colormaps["tab20"].colors[: len(names)]
        ]
    if joined:
        colours = [*colours[:-1], OTHER_COLOUR]
    if (codes < 0).any():
        codes = np.where(codes < 0, len(names), codes)
        names, colours = [*names, "missing"], [*colours, MISSING_COLOUR]
    counts = np.bincount(codes, minlength=len(names)).tolist()
    return ClassColours(codes, names, colours, counts)


def thinning_stride(n_cells: int) -> int:
    """Step at which cells are thinned so that at most `MAX_POINTS` of them are drawn."""
    return max(1, math.ceil(n_cells / MAX_POINTS))


def spread(n_cells: int) -> np.ndarray:
    """(N,) heights in 0..1 that spread the cells of a one-dimensional projection evenly.

    The golden-ratio sequence: neighbours in the table land far apart, and no seed is needed.
    """
    return np.arange(n_cells) * ((math.sqrt(5) - 1) / 2) % 1
