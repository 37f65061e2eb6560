"""One reader for every table: metadata, features, coordinates, feedback, ground truth, plate maps.

A table is a CSV in whatever dialect a spreadsheet writes, a Parquet file, or the cells of an
AnnData file (.h5ad). Text stays text: only an empty field is missing, ids and classes are never
numbers, and a column becomes numbers only if each of its values is one and nothing gets lost.
"""

import csv
import io
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from util.errors import UserError
from util.image_folders import IMAGE_SUFFIXES, in_nfc

ID = "Unique_ID"
ID_NAMES = ("unique_id", "uniqueid")  # in small letters
INDEX_NAMES = (
    "",
    "index",
    "cell_id",
    "cellid",
    "cell",
    "barcode",
    "filename",
    "file_name",
    "image",
)
SEPARATORS = ";\t,|"
LOOK_AT = 50  # rows, to find the separator
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?inf(inity)?", re.IGNORECASE)
DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+([eE][-+]?\d+)?")
NAME_LIKE = re.compile(r"[-+]?0\d+|\d+[eE]\d+|\d{16,}")  # 007, 1E1 and long ids are names
NO_NUMBER = ("nan", "na", "n/a", "null", "none", "-")  # of a column that otherwise holds numbers
WHOLE = re.compile(r"[-+]?\d+\.0+")  # how pandas writes whole numbers beside a gap


def read_table(path: Path, text: Collection[str] = ()) -> pd.DataFrame:
    """Read a table; `attrs["notes"]` holds a line for each thing that the user may not expect.

    Headers and values are stripped, rows without any value dropped. The separator of a CSV is the
    one that yields `Unique_ID`, else the one that splits all rows alike; after a semicolon or tab a
    comma may be the decimal sign. Its text may be UTF-8, UTF-16 or Windows-1252. A column without a
    name is kept only if it is the first and could be the ids.

    Args:
        path: .csv, .tsv, .txt, .parquet or .h5ad.
        text: columns that stay text, as the classes; ids always do.

    Raises:
        UserError: it is missing, empty or cannot be read as a table.
    """
    path, text = Path(path), {ID, *text}
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            table, notes = pd.read_parquet(path).reset_index(), []
            table = table.drop(columns="index") if _counts(table.get("index")) else table
        elif path.suffix.lower() == ".h5ad":
            table, notes = _read_anndata(path), []
        else:
            table, notes = _read_text(path, text)
    except ImportError as error:
        raise UserError(f"{path} needs a package: pip install -e '.[export]' ({error})") from error
    except UserError:
        raise
    except Exception as error:  # readers raise anything on a damaged file
        raise UserError(f"{path} cannot be read as a table ({_first_line(error)})") from error
    if table.empty:
        raise UserError(f"{path} has no rows")
    table = _as_text(table, text).rename(columns=_id_name(table.columns))
    table.attrs["notes"] = [f"{path.name}: {note}" for note in notes]
    return table


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:150]


def _counts(values: pd.Series | None) -> bool:
    """Whether a column only numbers the rows."""
    return values is not None and np.array_equal(values, np.arange(len(values)))


def _id_name(columns: Iterable[str]) -> dict[str, str]:
    """The id column under its usual spelling, whatever the case, also Metadata_Unique_ID."""
    for column in columns:
        plain = str(column).lower().removeprefix("metadata_").replace(" ", "_")
        if plain in ID_NAMES:
            return {column: ID}
    return {}


def _read_anndata(path: Path) -> pd.DataFrame:
    """obs, the names of the cells as its first column, and the columns of obsm: umap_1, ..."""
    import anndata

    data = anndata.read_h5ad(path, backed="r")
    parts = [data.obs.reset_index(names=data.obs.index.name or "index")]
    for key in data.obsm:
        values = np.asarray(data.obsm[key])
        if values.ndim == 2:
            names = [f"{key.removeprefix('X_')}_{i + 1}" for i in range(values.shape[1])]
            parts.append(pd.DataFrame(values, columns=names))
    return pd.concat(parts, axis=1)


def _read_text(path: Path, text: set[str]) -> tuple[pd.DataFrame, list[str]]:
    content = _decoded(path.read_bytes())
    first, _, rest = content.partition("\n")
    asked = re.fullmatch(r"\ufeff?\"?sep=(.)\"?\s*", first)
    content, separator = (rest, asked[1]) if asked else (content, _separator(content))
    table = pd.read_csv(
        io.StringIO(content), sep=separator, dtype=str, keep_default_na=False, low_memory=False,
        skipinitialspace=True,
    )  # fmt: skip
    table.columns = [str(name).strip() for name in table.columns]
    for column in table.columns:
        table[column] = table[column].str.strip()
    table = table[(table != "").any(axis=1)].reset_index(drop=True)
    unnamed = [name for name in table.columns if re.fullmatch(r"Unnamed: \d+", name)]
    if unnamed and unnamed[0] == table.columns[0] and table[unnamed[0]].is_unique:
        table, unnamed = table.rename(columns={unnamed[0]: "index"}), unnamed[1:]
        if _counts(pd.to_numeric(table["index"], errors="coerce")):
            table = table.drop(columns="index")
    table = table.drop(columns=unnamed)
    notes = []
    ids = _id_name(table.columns)
    for column in table.columns:
        if column in text or column in ids:
            table[column] = _plain(table[column])
            continue
        table[column], note = _typed(table[column], separator != ",")
        notes += [f"column {column!r}: {note}"] if note else []
    return table, notes


def _decoded(raw: bytes) -> str:
    """Text of a file in UTF-8, UTF-16 or Windows-1252, with one kind of line ends."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = raw.decode("utf-16")
    elif b"\0" in raw or raw.startswith(b"PK\x03\x04"):  # the second begins an .xlsx
        raise ValueError("it is not text: save it as CSV, for example from the spreadsheet")
    else:
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = raw.decode("cp1252", errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _separator(content: str) -> str:
    """The separator that yields Unique_ID, else the one that splits all rows alike into most."""
    lines = content.split("\n", LOOK_AT)[:LOOK_AT]
    best = (",", (False, False, 0))
    for separator in SEPARATORS:
        rows = [row for row in csv.reader(lines, delimiter=separator) if any(map(str.strip, row))]
        if not rows:
            continue
        header = [name.strip().lower() for name in rows[0]]
        rank = (
            bool(_id_name(header)) and len(header) > 1,
            len({len(row) for row in rows}) == 1,
            len(header),
        )
        if len(header) > 1 and rank > best[1]:
            best = (separator, rank)
    return best[0]


def _plain(values: pd.Series) -> pd.Series:
    """Text with empty as missing; 3.0 is 3 where all numbers are whole, as pandas writes them."""
    filled = values[values != ""]
    if len(filled) and filled.map(lambda value: bool(WHOLE.fullmatch(value))).all():
        values = values.str.replace(r"\.0+$", "", regex=True)
    return values.where(values != "", None)


def _typed(values: pd.Series, commas: bool) -> tuple[pd.Series, str]:
    """The column as numbers if it holds nothing else, else as text; and a note."""
    filled = values[values != ""].unique()
    if commas and any(DECIMAL_COMMA.fullmatch(v) for v in filled):
        decimal = [v.replace(",", ".") for v in filled]
        if all(NUMBER.fullmatch(v) for v in decimal):
            values = values.str.replace(",", ".")
            filled = values[values != ""].unique()
    numbers = [v for v in filled if v.lower() not in NO_NUMBER]
    others = [v for v in filled if v.lower() in NO_NUMBER]
    numeric = numbers and all(NUMBER.fullmatch(v) for v in numbers)
    if not numeric or any(NAME_LIKE.fullmatch(v) for v in numbers):
        said = f"{', '.join(others)} is text like any other, not missing" if others else ""
        return values.where(values != "", None), said
    parsed = pd.to_numeric(values.where(~values.isin(["", *others]), np.nan))
    if parsed.notna().all() and all(re.fullmatch(r"[-+]?\d{1,18}", v) for v in numbers):
        parsed = parsed.astype(np.int64)
    return parsed, f"{', '.join(others)} among numbers is missing" if others else ""


def _as_text(table: pd.DataFrame, text: set[str]) -> pd.DataFrame:
    """Ids and classes of a typed file (Parquet, AnnData) as text; categories as what they hold."""
    for column in table.columns:
        values = table[column]
        if isinstance(values.dtype, pd.CategoricalDtype):
            values = values.astype(values.cat.categories.dtype)
        if column in text or _id_name([column]):
            values = values.map(_as_name, na_action="ignore").astype(object)
        table[column] = values
    return table


def _as_name(value: object) -> str:
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def ids_of(table: pd.DataFrame, names: Sequence[str], source: str) -> tuple[pd.Series, list[str]]:
    """The column of a table that says which image each row is.

    `Unique_ID`, else the column whose values match most image names, more than half of its own: an
    unnamed first column, `index`, `cell_id` or any other.

    Args:
        table: of `read_table`.
        names: of the images.
        source: what to call the table.

    Raises:
        UserError: no column matches.
    """
    if ID in table:
        return table[ID].astype(str), []
    known = set(map(key_of, names))
    best, share = None, 0.5
    for column in table.columns:
        values = table[column]
        if values.dtype.kind == "f" or not values.is_unique:
            continue
        matched = np.mean([key_of(str(value)) in known for value in values])
        if matched > share or (matched == share and best and column.lower() in INDEX_NAMES):
            best, share = column, matched
    if best is None:
        raise UserError(
            f"{source} has no column {ID} (the file name of each image), and no other column holds "
            f"their names; its columns are {', '.join(map(str, table.columns[:12]))}"
        )
    return table[best].astype(str), [f"{source}: column {best!r} says which image a row is"]


def key_of(name: str) -> str:
    """A name as ids are compared: composed, stripped, with slashes, without an image ending.

    Examples:
        >>> key_of(" a/c01.tiff ")
        'a/c01'
    """
    plain = in_nfc(str(name)).strip().replace("\\", "/").removeprefix("./")
    stem, dot, ending = plain.rpartition(".")
    return stem if dot and f".{ending.lower()}" in IMAGE_SUFFIXES else plain


def loose_key_of(name: str) -> str:
    """The same without leading zeros, so that 1 is 001, and A1 is A01.

    Examples:
        >>> loose_key_of("plate_01/A01_s002.png")
        'plate_1/A1_s2'
    """
    return re.sub(r"(?<!\d)0+(?=\d)", "", key_of(name))


def match_names(asked: Sequence[str], there: Sequence[str]) -> np.ndarray:
    """Position of each name among others, -1 where it has no partner.

    By the strictest of these that is unique on both sides: the name as it is, its key, the file
    name of its key, both without leading zeros. What is matched once is not matched again.
    """
    places = np.full(len(asked), -1)
    free = np.ones(len(there), bool)
    for way in (in_nfc, key_of, lambda n: key_of(n).rpartition("/")[2], loose_key_of,
                lambda n: loose_key_of(n).rpartition("/")[2]):  # fmt: skip
        rows, columns = np.flatnonzero(places < 0), np.flatnonzero(free)
        if len(rows) == 0 or len(columns) == 0:
            break
        left = pd.Index([way(str(asked[i])) for i in rows])
        right = pd.Index([way(str(there[i])) for i in columns])
        once = ~right.duplicated(keep=False)
        right, columns = right[once], columns[once]
        found = right.get_indexer(left)
        found[left.duplicated(keep=False)] = -1
        places[rows[found >= 0]] = columns[found[found >= 0]]
        free[places[places >= 0]] = False
    return places
