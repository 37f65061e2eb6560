"""The look of all figures: fonts, palettes, colours of a column, thinning of points.

Class colours are the eight of Okabe and Ito (2008, "Color Universal Design"), which stay apart for
colour-blind readers; further classes repeat them in other shapes. Lines of methods add two of Tol's
muted set. Numbers are shown in viridis.
"""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from util.files import write_atomically
from util.metadata import class_name, is_gradation, ordered_classes

DPI = 150
MAX_POINTS = 20_000  # above it a scatter plot is a solid blob and an interactive page stutters
LOOSE_VALUES = 0.5  # most distinct values of coloured text, as a share of the cells
OKABE_ITO = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442", "#000000"]
LINE_PALETTE = [*OKABE_ITO, "#882255", "#999933"]  # of methods, whose lines also differ in dashes
# plotly's names of shapes, and matplotlib's; "cross" is for classes without a look of their own.
# plotly draws them in 3-D as letters, and common fonts lack that of "x".
MARKERS = {"circle": "o", "square": "s", "diamond": "D", "cross": "P"}
CLASS_SHAPES = ["circle", "square", "diamond"]
MAX_CLASSES = len(OKABE_ITO) * len(CLASS_SHAPES)
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


def class_styles(n: int) -> list[tuple[str, str]]:
    """Colour and shape (a key of `MARKERS`) of each of n classes in their order, at most 24.

    Classes of one shape have different colours of Okabe and Ito.
    """
    return [(OKABE_ITO[i % 8], CLASS_SHAPES[i // 8]) for i in range(n)]


@dataclass(frozen=True)
class Roles:
    """What columns of a table mean to its figures.

    Attributes:
        label: the column of the classes.
        progress: the column of a known continuum, on a scale even where it is the label.
        order: classes in the order in which they are shown; the others follow in natural order.
    """

    label: str | None = None
    progress: str | None = None
    order: Sequence[str] = ()


@dataclass(frozen=True)
class ClassColours:
    """A column shown as classes.

    Attributes:
        codes: (N,) int, class of each cell as an index into `names`.
        names: the classes in their order; "other" and "missing" come last where they are needed.
        colours: hex colour of each class.
        shapes: of each class, keys of `MARKERS`.
        counts: cells of each class.
    """

    codes: np.ndarray
    names: list[str]
    colours: list[str]
    shapes: list[str]
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


def colour_column(values: pd.Series, roles: Roles = Roles()) -> ClassColours | NumberColours:  # noqa: B008  frozen
    """Decide how a column of metadata is shown: as classes or on a colour scale.

    Doses, times and other gradations (`is_gradation`) go on a scale, however few their values, and
    so do fractions and numbers of more than 24 values. The label and anything else are classes. Of
    more than 24 classes the 23 most frequent keep a colour and the others share a grey one.

    Args:
        values: the column with its name.
        roles: which column is the label or the progress, and the order of the classes.
    """
    if values.name is not None and values.name == roles.progress:
        values = _numbers_where_possible(values)
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if numeric:
        numbers = values.to_numpy(float, na_value=np.nan)
        numbers = np.where(np.isfinite(numbers), numbers, np.nan)
        distinct = np.unique(numbers[np.isfinite(numbers)])
        if _on_a_scale(values, distinct, roles):
            return NumberColours(numbers, *_colour_range(distinct, numbers))
        values = pd.Series(numbers)
    names = values.map(class_name, na_action="ignore").astype(object).where(values.notna(), None)
    if isinstance(values.dtype, pd.CategoricalDtype) and values.cat.ordered:
        used = values.cat.remove_unused_categories().cat
        classes = [class_name(name) for name in used.categories]
    else:
        classes = ordered_classes(names.dropna(), roles.order)
    return _class_colours(pd.Categorical(names, categories=classes).codes, classes)


def _numbers_where_possible(values: pd.Series) -> pd.Series:
    """Text that holds numbers as numbers: the label is read as text, even where it is a dose."""
    numbers = pd.to_numeric(values, errors="coerce")
    return values if (numbers.isna() & values.notna()).any() else numbers


def _on_a_scale(values: pd.Series, distinct: np.ndarray, roles: Roles) -> bool:
    if len(distinct) > MAX_CLASSES:
        return True
    if values.name is not None and values.name in (roles.progress, roles.label):
        return values.name == roles.progress
    return is_gradation(values) or bool((distinct != np.round(distinct)).any())


def _colour_range(distinct: np.ndarray, numbers: np.ndarray) -> tuple[float, float]:
    if not len(distinct):
        return 0.0, 1.0
    low, high = np.nanpercentile(numbers, [1, 99])
    if high <= low:
        low, high = distinct[0], distinct[-1]
    return float(low), float(high)


def _class_colours(codes: np.ndarray, names: list[str]) -> ClassColours:
    """Give classes (code -1: missing) their looks and counts, rare ones joined beyond 24."""
    codes = codes.astype(np.int64)
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    styles = class_styles(min(len(names), MAX_CLASSES))
    if len(names) > MAX_CLASSES:
        kept = np.sort(np.argsort(-counts, kind="stable")[: MAX_CLASSES - 1])
        place = np.full(len(names) + 1, len(kept))
        place[kept] = np.arange(len(kept))
        place[-1] = -1  # code -1 stays missing
        codes = place[codes]
        names = [*(names[i] for i in kept), f"other ({len(names) - len(kept)} classes)"]
        styles[-1] = (OTHER_COLOUR, "cross")
    if (codes < 0).any():
        codes = np.where(codes < 0, len(names), codes)
        names, styles = [*names, "missing"], [*styles, (MISSING_COLOUR, "circle")]
    return ClassColours(
        codes=codes,
        names=names,
        colours=[colour for colour, _ in styles],
        shapes=[shape for _, shape in styles],
        counts=np.bincount(codes, minlength=len(names)).tolist(),
    )


def thinning_stride(n_cells: int) -> int:
    """Step at which cells are thinned so that at most `MAX_POINTS` of them are drawn."""
    return max(1, math.ceil(n_cells / MAX_POINTS))


def spread(n_cells: int) -> np.ndarray:
    """(N,) heights in 0..1 that spread the cells of a one-dimensional projection evenly.

    The golden-ratio sequence: neighbours in the table land far apart, and no seed is needed.
    """
    return np.arange(n_cells) * ((math.sqrt(5) - 1) / 2) % 1
