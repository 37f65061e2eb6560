"""Tables of what is known of the cells: reading, joining on Unique_ID, choosing the class column.

A table has a row per cell. A column is one of three: a class (text, or few numbers), a gradation
(numbers along which cells can be ordered), or a name that only says which cell it is.
"""

import re
from collections import Counter
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd

from util.errors import UserError

# Names that say which cell it is, or where it lay: no property of the cell.
NUMBERING = re.compile(
    r"(^|_)(id|idx|index|row|number|imagen?r?number|objectnumber|plate|well|site|field|x|y|z)$",
    re.IGNORECASE,
)
IDS_NAMED = 3  # in a note
COLUMNS_NAMED = 12  # in an error


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


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV whose columns are parted by commas, semicolons or tabs.

    Its text may be UTF-8, UTF-16 or Windows-1252. Columns without a name are dropped.

    Raises:
        UserError: it is empty or cannot be read as a table.
    """
    try:
        text = _decoded(path.read_bytes())
        header = text.split("\n", 1)[0]
        separator = max(",;\t", key=header.count)
        table = pd.read_csv(StringIO(text), sep=separator, low_memory=False)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        reason = " ".join(str(error).split())  # pandas breaks its lines
        raise UserError(f"{path} cannot be read as a table ({reason})") from error
    if table.empty:
        raise UserError(f"{path} has no rows")
    return table.drop(columns=[c for c in table.columns if str(c).startswith("Unnamed:")])


def _decoded(raw: bytes) -> str:
    """Text of a file in UTF-8, UTF-16 or Windows-1252."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16")
    if b"\0" in raw or raw.startswith(b"PK\x03\x04"):  # the second begins an .xlsx
        raise ValueError("it is not text: save it as CSV, for example from the spreadsheet")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace")


def refuse_duplicates(table: pd.DataFrame, path: Path) -> None:
    """Raise a UserError that names the ids that occur more than once in `Unique_ID`."""
    twice = table["Unique_ID"][table["Unique_ID"].duplicated()]
    if len(twice):
        raise UserError(
            f"{path}: {count_and_name('ids occur in more than one row', list(twice.unique()))}; "
            "keep one row per cell"
        )


def join_metadata(table: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Join the CSV at `path` to a table of images on `Unique_ID`, with or without the file ending.

    Every image keeps its row; images without metadata and rows without image are counted and named.

    Returns:
        the joined table, N rows in its order, and the notes.

    Raises:
        UserError: no column Unique_ID, an id in two rows, or no id that matches.
    """
    rows = read_table(path)
    if "Unique_ID" not in rows:
        raise UserError(
            f"{path} has no column Unique_ID (the file name of each image); its columns are "
            f"{name_columns(rows)}"
        )
    rows["Unique_ID"] = rows["Unique_ID"].astype(str)
    refuse_duplicates(rows, path)
    places, notes = match_ids(rows["Unique_ID"], table["Unique_ID"], path.name)
    found = table["Unique_ID"].to_numpy()[places]
    rows["Unique_ID"] = np.where(places >= 0, found, rows["Unique_ID"])
    without_row = table["Unique_ID"][~table["Unique_ID"].isin(rows["Unique_ID"])]
    without_image = rows["Unique_ID"][~rows["Unique_ID"].isin(table["Unique_ID"])]
    if len(without_row):
        notes.append(
            count_and_name(
                f"images have no row in {path.name} and keep empty metadata", list(without_row)
            )
        )
    if len(without_image):
        notes.append(
            count_and_name(
                f"rows of {path.name} have no image and were left out", list(without_image)
            )
        )
    if "class" in rows and "class" in table:
        rows = rows.rename(columns={"class": "class_metadata"})
    return table.merge(rows, on="Unique_ID", how="left", validate="one_to_one"), notes


def match_ids(ids: pd.Series, others: pd.Series, source: str) -> tuple[np.ndarray, list[str]]:
    """Position of each id among others, with or without the file ending.

    Args:
        ids: of the table called `source`, each once.
        others: of the images, each once.
        source: name of the table, for the error.

    Returns:
        (len(ids),) positions, -1 where there is no partner; and notes.

    Raises:
        UserError: no id has a partner.
    """
    asked, there = ids.astype(str), others.astype(str)
    stems = [names.str.rsplit(".", n=1).str[0] for names in (asked, there)]
    for left, right, note in (
        (asked, there, None),
        (asked, stems[1], f"{source} names the images without their ending"),
        (stems[0], there, f"{source} names the images with an ending that they do not have"),
    ):
        if right.is_unique:
            places = pd.Index(right).get_indexer(left)
            if (places >= 0).any():
                return places, [note] if note else []
    raise UserError(
        f"{source}: no Unique_ID matches an image; it has {asked.iloc[0]!r}, "
        f"the images are named like {there.iloc[0]!r}"
    )


def choose_labels(
    table: pd.DataFrame, label: str | None
) -> tuple[str | None, pd.Series | None, list[str]]:
    """The class column: the one asked for, else `GT_label`, else the class folders.

    Returns:
        its name, its values as strings (missing ones as None), and notes on what is missing.

    Raises:
        UserError: the column asked for is not there or is empty.
    """
    if label is None:
        label = next((name for name in ("GT_label", "class") if name in table), None)
        if label is None:
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
    notes = []
    if missing.any():
        ids = list(table["Unique_ID"][missing])
        notes.append(count_and_name(f"cells have no {label}: trained on, not scored by class", ids))
    single = [name for name, count in Counter(values.dropna()).items() if count == 1]
    if single:
        notes.append(
            count_and_name(
                "classes have a single cell, which cannot be both trained on and tested", single
            )
        )
    return label, values, notes


def gradations(table: pd.DataFrame, leave_out: Sequence[str] = ()) -> list[str]:
    """Columns along which cells may be graded: numeric, of three different values or more.

    A column that only numbers the cells, by its name or because it counts the rows, is left out.
    """
    columns = []
    for column in table.select_dtypes("number").columns.difference(leave_out, sort=False):
        values = table[column]
        counts_rows = len(values) > 1 and (values.diff().iloc[1:] == 1).all()
        if values.nunique() >= 3 and not counts_rows and not NUMBERING.search(str(column)):
            columns.append(column)
    return columns


def class_name(value: object) -> str:
    """A class as text: 3, 3.0 and "3" are one class, since integers with a gap become floats.

    Examples:
        >>> class_name(3.0), class_name("G1"), class_name(2.5)
        ('3', 'G1', '2.5')
    """
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)
