"""Tables of what is known of the cells: joining on Unique_ID, choosing the class column.

A table has a row per cell. A column is one of three: a class (text, or few numbers), a gradation
(numbers along which cells can be ordered), or a name that only says which cell it is.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from util.errors import UserError
from util.image_folders import in_nfc
from util.tables import NO_NUMBER, counts_rows, ids_of, match_names, once_each, read_table

# Names that say which cell it is, or where it lay: no property of the cell.
NUMBERING = re.compile(
    r"(^|_)(id|idx|index|row|number|imagen?r?number|objectnumber|plate|well|site|field|x|y|z)$",
    re.IGNORECASE,
)
_PLATE = re.compile(r"(^|_)plate_?(id|name|number|barcode)?$", re.IGNORECASE)
IDS_NAMED = 3  # in a note
COLUMNS_NAMED = 12  # in an error
_QUANTITY = re.compile(  # a number, a sign only at the start, and its unit
    r"((?:^[-+])?\d+(?:\.\d+)?(?:[eE][-+]?\d+(?!\w))?)(?:\s*([pnuµμm]?M|s|min|h|d)(?!\w))?"
)
_UNITS = {"pM": 1e-12, "nM": 1e-9, "uM": 1e-6, "µM": 1e-6, "μM": 1e-6, "mM": 1e-3, "M": 1.0}
_UNITS |= {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
CLASS_COLUMNS = ("GT_label", "class")  # the first of these is the label unless one is named
ENOUGH_MATCH = 0.9  # share of ids that match, below which something is probably wrong
WARNING = "WARNING:"  # begins a note that a report shows first


def count_and_name(what: str, items: list) -> str:
    """One line: how many, what, and the first few by name, pairs as `name (reason)`."""
    shown = ", ".join(
        f"{i[0]} ({i[1]})" if isinstance(i, (tuple, list)) else str(i) for i in items[:IDS_NAMED]
    )
    more = f" and {len(items) - IDS_NAMED} more" if len(items) > IDS_NAMED else ""
    return f"{len(items)} {what}: {shown}{more}"


def name_columns(table: pd.DataFrame) -> str:
    """The first columns of a table, for an error that asks for one of them."""
    more = ", ..." if table.shape[1] > COLUMNS_NAMED else ""
    return ", ".join(map(str, table.columns[:COLUMNS_NAMED])) + more


def refuse_missing_column(table: pd.DataFrame, argument: str, column: str) -> None:
    """Raise a UserError that names the argument unless the table has the column."""
    if column not in table:
        raise UserError(f"`{argument}` {column}: no such column; there are {name_columns(table)}")


def column_in(table: pd.DataFrame, column: str, source: str) -> pd.Series:
    """A column of the table that an error calls `source`; a UserError where it is missing."""
    if column not in table:
        raise UserError(f"{source}: there is no column {column!r}; there are {name_columns(table)}")
    return table[column]


def numbers_in(table: pd.DataFrame, column: str, source: str) -> pd.Series:
    """A column as float64, NaN where it is empty.

    Raises:
        UserError: there is no such column, or it holds text.
    """
    values = column_in(table, column, source)
    numbers = pd.to_numeric(values, errors="coerce").astype(float)
    text = np.flatnonzero(numbers.isna() & values.notna())
    if len(text):
        raise UserError(
            f"{source}: column {column!r} is not numeric ({values.iloc[text[0]]!r} in row "
            f"{text[0] + 1}): empty such entries or correct them"
        )
    return numbers


def refuse_duplicates(ids: pd.Series, source: str) -> None:
    """Raise a UserError that names the ids that occur more than once; "" is none."""
    twice = ids[ids.duplicated() & (ids != "") & ids.notna()]
    if len(twice):
        raise UserError(
            f"{source}: {count_and_name('ids occur in more than one row', list(twice.unique()))}; "
            "keep one row per cell"
        )


def text_columns(label: str | None = None) -> tuple[str, ...]:
    """The columns that may be the classes, so that `read_table` keeps their text."""
    return CLASS_COLUMNS if label is None else (*CLASS_COLUMNS, label)


def join_metadata(
    table: pd.DataFrame, path: Path, label: str | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Join the table at `path` to a table of images on `Unique_ID` (`match_rows`).

    Every image keeps its row; images without metadata and rows without image are counted and named.

    Args:
        table: N rows with `Unique_ID`, and `class` where there are class folders.
        path: of the metadata.
        label: its column of classes, which stays text.

    Returns:
        the joined table, N rows in its order, and the notes.

    Raises:
        UserError: no column of ids, an id in two rows, or no id that matches.
    """
    rows = read_table(path, text_columns(label))
    places, notes = match_rows(rows, table["Unique_ID"], path.name, all_images=True)
    notes = rows.attrs["notes"] + notes
    row_of_image = np.full(len(table), -1)
    row_of_image[places[places >= 0]] = np.flatnonzero(places >= 0)
    without_row = list(table["Unique_ID"][row_of_image < 0])
    if without_row:
        what = f"images have no row in {path.name} and keep empty metadata"
        notes.append(count_and_name(what, without_row))
    rows = rows.drop(columns="Unique_ID", errors="ignore")
    if "class" in table:
        rows = rows.rename(columns={"class": "class_metadata"})
    joined = rows.reindex(row_of_image).set_axis(table.index, axis=0)
    joined = pd.concat([table, joined], axis=1)
    return joined.set_axis(once_each(list(joined.columns)), axis=1), notes


def read_array_metadata(path: Path, label: str | None = None) -> pd.DataFrame:
    """The table of an array file, whose images have no names: ids may be missing.

    Raises:
        UserError: an id stands in two rows, or some rows have none.
    """
    rows = read_table(path, text_columns(label))
    if "Unique_ID" in rows:
        refuse_duplicates(rows["Unique_ID"], str(path))
        absent = rows["Unique_ID"].isna()
        if absent.any():
            raise UserError(f"{path}: row {absent.argmax() + 1} has no Unique_ID: fill it")
    return rows


def join_array(
    table: pd.DataFrame, rows: pd.DataFrame, source: str, array: str
) -> tuple[pd.DataFrame, list[str]]:
    """Give the images of an array file their rows: by ids where they match, else by position.

    Args:
        table: N rows with the `Unique_ID` that images have by their number, cell_000000.
        rows: of `read_array_metadata`; its `Unique_ID`, if any, becomes that of the images.
        source: name of the metadata.
        array: name of the array file.

    Returns:
        the joined table, N rows in the order of the images, and notes.

    Raises:
        UserError: another number of rows than images, or numbers of rows in another order.
    """
    notes, name = list(rows.attrs["notes"]), Path(source).name
    if len(rows) != len(table):
        raise UserError(
            f"{source} has {len(rows)} rows, but {array} holds {len(table)} images: an array is "
            "joined by row, so give a table with one row per image"
        )
    places = match_names(rows.get("Unique_ID", [""] * len(rows)), table["Unique_ID"])
    if (places >= 0).all():
        return rows.iloc[np.argsort(places)].reset_index(drop=True), notes
    shuffled = next((c for c in ("Unique_ID", "index") if c in rows and _is_shuffled(rows[c])), "")
    if shuffled:
        raise UserError(
            f"{source}: column {shuffled!r} numbers all rows, but in another order: does row 1 "
            f"belong to the first image, or to the one of that number? Sort the rows by it, or "
            "leave it out"
        )
    notes.append(f"{name}: joined by row, in the order of the images in {Path(array).name}")
    rows = rows.drop(columns=rows.attrs.get("counter", []))  # numbers that pandas wrote, no names
    return (rows if "Unique_ID" in rows else pd.concat([table, rows], axis=1)), notes


def _is_shuffled(values: pd.Series) -> bool:
    """Whether the values are the numbers of the rows, from 0 or 1 on, but not in their order."""
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(float)
    first = numbers.min()
    counted = np.arange(len(numbers)) + first
    return (
        first in (0, 1)
        and not np.array_equal(numbers, counted)
        and np.array_equal(np.sort(numbers), counted)
    )


def match_rows(
    table: pd.DataFrame, names: Sequence[str], source: str, all_images: bool = False
) -> tuple[np.ndarray, list[str]]:
    """Position of the image of each row, by the ids of the table (`tables.ids_of`).

    Args:
        table: of `read_table`, or with `Unique_ID`.
        names: of the images, each once.
        source: name of the table, for messages.
        all_images: warn also where images have no row, not only where rows have no image.

    Returns:
        (len(table),) positions, -1 where there is no partner; and notes: rows without an image,
        and a warning where fewer than 90 % match.

    Raises:
        UserError: no column of ids, an id in two rows, or no id has a partner.
    """
    ids, notes = ids_of(table, names, source)
    refuse_duplicates(ids, source)
    names = pd.Series(list(names), dtype=object).astype(str)
    places = match_names(ids, names)
    found = places >= 0
    lost, unused = ids[~found], names.drop(places[found])
    if not found.any():
        raise UserError(
            f"{source}: no {ids.name} matches an image; it has {ids.iloc[0]!r}, "
            f"the images are named like {names.iloc[0]!r}"
        )
    share = min(found.mean(), found.sum() / len(names) if all_images else 1)
    if share < ENOUGH_MATCH:
        notes.append(
            f"{WARNING} only {100 * share:.0f} % match between {len(ids)} rows of {source} and "
            f"{len(names)} images: rows without an image are {_examples(lost)}, images without a "
            f"row {_examples(unused)}"
        )
    pairs = list(zip(ids[found], names[places[found]], strict=True))
    unlike = [pair for pair in pairs if in_nfc(pair[0]) != in_nfc(pair[1])]
    if unlike:
        notes.append(
            f"{source}: {len(unlike)} ids are not spelt like the names of their images, e.g. "
            f"{unlike[0][0]!r} for {unlike[0][1]!r}"
        )
    if len(lost):
        what = f"rows of {source} have no image and were left out"
        notes.append(count_and_name(what, [name or "a row without an id" for name in lost]))
    return places, notes


def _examples(names: pd.Series) -> str:
    return ", ".join(map(repr, names[:IDS_NAMED])) or "none"


def choose_labels(
    table: pd.DataFrame, label: str | None, order: Sequence[str] = ()
) -> tuple[str | None, pd.Series | None, list[str]]:
    """The class column: the one asked for, else `GT_label`, else the class folders.

    Args:
        table: N rows with `Unique_ID`.
        label: the column asked for.
        order: classes in the order in which figures and tables show them.

    Returns:
        its name, its values as strings (missing ones as None), and notes on what is missing.

    Raises:
        UserError: the column asked for is not there or is empty, or `order` names no class of it.
    """
    if label is None:
        label = next((name for name in CLASS_COLUMNS if name in table), None)
        if label is None:
            if order:
                raise UserError(f"`order` {order[0]}: there are no classes; name their `label`")
            return (
                None,
                None,
                ["no class column, so nothing is scored by class; name one as `label`"],
            )
    refuse_missing_column(table, "label", label)
    missing = table[label].isna()
    if missing.all():
        raise UserError(f"`label` {label}: the column is empty")
    values = table[label].map(class_name, na_action="ignore").astype(object).where(~missing, None)
    notes = _check_order(order, set(values.dropna()), label)
    if missing.any():
        ids = list(table["Unique_ID"][missing])
        notes.append(count_and_name(f"cells have no {label}: trained on, not scored by class", ids))
    words = [name for name in values.dropna().unique() if name.lower() in NO_NUMBER]
    if words:
        notes.append(f"{label}: {', '.join(words)} is a class like any other, not missing")
    single = [name for name, count in Counter(values.dropna()).items() if count == 1]
    if single:
        notes.append(
            count_and_name(
                "classes have a single cell, which cannot be both trained on and tested", single
            )
        )
    return label, values, notes


def plate_column(table: pd.DataFrame) -> str | None:
    """The first column named like plates (plate, PlateID, Metadata_Plate) of two plates or more."""
    named = [column for column in table if _PLATE.search(str(column))]
    return next((column for column in named if table[column].nunique() > 1), None)


def _check_order(order: Sequence[str], classes: set[str], label: str) -> list[str]:
    """A note on the classes that `order` leaves out; a UserError where it names another."""
    for i, name in enumerate(order):
        if name not in classes:
            there = ", ".join(ordered_classes(classes)[:COLUMNS_NAMED])
            more = ", ..." if len(classes) > COLUMNS_NAMED else ""
            raise UserError(f"`order` {name}: no such {label}; there are {there}{more}")
        if name in order[:i]:
            raise UserError(f"`order` {name}: named twice")
    rest = ordered_classes(classes.difference(order))
    if not order or not rest:
        return []
    return [count_and_name("classes are not in `order` and follow in natural order", rest)]


def ordered_classes(names: Iterable[str], order: Sequence[str] = ()) -> list[str]:
    """Classes, each once: those of `order` first, then the others in natural order.

    Examples:
        >>> ordered_classes(["10 nM", "1 uM", "2 nM", "DMSO"], order=["DMSO"])
        ['DMSO', '2 nM', '10 nM', '1 uM']
    """
    places = {name: i for i, name in enumerate(order)}
    last = len(places)
    return sorted(dict.fromkeys(names), key=lambda n: (places.get(n, last), natural_order(n)))


def natural_order(name: str) -> tuple[list[str | float], str]:
    """Sort key that reads numbers as numbers, with units of concentration and time.

    Examples:
        >>> sorted(["Process_10", "Process_2", "1.5", "-1", "1.25"], key=natural_order)
        ['-1', '1.25', '1.5', 'Process_2', 'Process_10']
    """
    first, *rest = _QUANTITY.split(name)
    key: list[str | float] = [first.casefold()]  # text and numbers take turns
    for number, unit, text in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
        key += [float(number) * _UNITS.get(unit, 1.0), text.casefold()]
    return key, name


def is_gradation(values: pd.Series) -> bool:
    """Whether cells may be graded along a column: numbers, of three different values or more.

    A column that only numbers the cells, by its name or because it counts the rows, is none.
    """
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return False
    numbers_cells = NUMBERING.search(str(values.name)) or counts_rows(values)
    return values.nunique() >= 3 and not numbers_cells


def gradations(table: pd.DataFrame, leave_out: Sequence[str] = ()) -> list[str]:
    """The columns of a table that are gradations, in its order."""
    columns = table.columns.difference(leave_out, sort=False)
    return [column for column in columns if is_gradation(table[column])]


def class_name(value: object) -> str:
    """A class as text: 3, 3.0 and "3" are one class, since integers with a gap become floats.

    Examples:
        >>> class_name(3.0), class_name("G1"), class_name(2.5)
        ('3', 'G1', '2.5')
    """
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)
