"""One reader for every table: metadata, features, coordinates, feedback, ground truth, plate maps.

A table is a CSV in whatever dialect a spreadsheet writes, a Parquet file, or the cells of an
AnnData file (.h5ad). Text stays text: only an empty field is missing, ids and classes are never
numbers, and a column becomes numbers only if each of its values is one and nothing gets lost.
"""

import csv
import gzip
import io
import operator
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from util.errors import UserError, first_line
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
POINT_AND_GROUPS = re.compile(r"[-+]?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?")  # 1,234.5
COMMA_AND_GROUPS = re.compile(r"[-+]?(\d{1,3}(\.\d{3})+|\d+)(,\d+)?")  # 1.234,5
NAME_LIKE = re.compile(r"[-+]?0\d+|\d+[eE]\d+|\d{16,}")  # 007, 1E1 and long ids are names
NO_NUMBER = ("nan", "na", "n/a", "null", "none", "-")  # of a column that otherwise holds numbers
WHOLE = re.compile(r"[-+]?\d+\.0+")  # how pandas writes whole numbers beside a gap


def read_table(path: Path, text: Collection[str] = (), matrix: bool = False) -> pd.DataFrame:
    """Read a table; `attrs["notes"]` holds a line for each thing that the user may not expect.

    Headers and values are stripped, rows without any value dropped. The separator of a CSV is the
    one that yields `Unique_ID`, else the one that splits all rows alike; after a semicolon or tab a
    comma may be the decimal sign. Its text may be UTF-8, UTF-16 or Windows-1252. A column without a
    name is kept only if it is the first and could be the ids.

    Args:
        path: .csv, .tsv, .txt, perhaps compressed (.csv.gz), .parquet or .h5ad.
        text: columns that stay text, as the classes; ids always do.
        matrix: also read the columns of X of an .h5ad.

    Raises:
        UserError: it is missing, empty or cannot be read as a table.
    """
    path, text = Path(path), {ID, *text}
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    notes = []
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            table = _settled(_with_index(pd.read_parquet(path)), text)
        elif path.suffix.lower() == ".h5ad":
            table = _settled(_read_anndata(path, matrix), text)
        else:
            table, notes = _read_text(path, text)
    except ImportError as error:
        raise UserError(f"{path} needs a package: pip install -e '.[export]' ({error})") from error
    except Exception as error:  # readers raise anything on a damaged file
        raise UserError(f"{path} cannot be read as a table ({first_line(error, 150)})") from error
    if table.empty:
        raise UserError(f"{path} has no rows")
    table = table.rename(columns=_id_name(table.columns))
    table.attrs["notes"] = [f"{path.name}: {note}" for note in notes]
    return table


def counts_rows(values: pd.Series | None) -> bool:
    """Whether a column only numbers the rows, from any number on."""
    if values is None or len(values) < 2:
        return False
    return bool((pd.to_numeric(values, errors="coerce").diff().iloc[1:] == 1).all())


def _id_name(columns: Iterable[str]) -> dict[str, str]:
    """The id column under its usual spelling, whatever the case, also Metadata_Unique_ID."""
    columns = list(columns)
    if ID in columns:
        return {}
    for column in columns:
        plain = str(column).lower().removeprefix("metadata_").replace(" ", "_")
        if plain in ID_NAMES:
            return {column: ID}
    return {}


def _with_index(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its index as its first columns, unless that only numbers the rows."""
    if table.index.name is None and counts_rows(pd.Series(table.index)):
        return table
    return table.reset_index()


def _read_anndata(path: Path, matrix: bool) -> pd.DataFrame:
    """The names of the cells, obs, the columns of obsm (umap_1, ...), and on request those of X."""
    import anndata

    data = anndata.read_h5ad(path)
    parts = [data.obs.reset_index(names=data.obs.index.name or "index")]
    for key, values in data.obsm.items():
        if not isinstance(values, pd.DataFrame):
            values = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
            values = pd.DataFrame(values if values.ndim == 2 else [])
            names = [f"{key.removeprefix('X_')}_{i + 1}" for i in range(values.shape[1])]
            values = values.set_axis(names, axis=1)
        parts.append(values.reset_index(drop=True))
    if matrix and data.X is not None:
        parts.append(data.to_df().reset_index(drop=True))
    table = pd.concat(parts, axis=1)
    return table.loc[:, ~table.columns.duplicated()]


def _read_text(path: Path, text: set[str]) -> tuple[pd.DataFrame, list[str]]:
    """A CSV; numbers are parsed by pandas where nothing can get lost, else looked at as text."""
    content = _without_comments(_decoded(path.read_bytes()))
    first, _, rest = content.partition("\n")
    asked = re.fullmatch(r"\ufeff?\"?sep=(.)\"?\s*", first)
    content, separator = (rest, asked[1]) if asked else (content, _separator(content))
    names = _longer_header(content, separator)
    encoded = content.encode()  # as text pandas would hold four bytes for each character
    del content, rest

    def read(**options: Any) -> pd.DataFrame:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # values beyond the header
            return pd.read_csv(
                io.BytesIO(encoded), sep=separator, skipinitialspace=True, low_memory=False,
                keep_default_na=False, na_values=[""], header=0, index_col=False, **names | options,
            )  # fmt: skip

    raw = names.get("names", list(read(nrows=0)))
    columns = once_each([str(name).strip() for name in raw])
    ids = _id_name(columns)
    stay = {name for name, column in zip(raw, columns, strict=True) if column in {*text, *ids}}
    table = read(dtype=dict.fromkeys(stay, str))
    unsure = [name for name in raw if name not in stay and _unsure(table[name])]
    if unsure:
        table[unsure] = read(dtype="category", usecols=unsure)[unsure]
    settled, notes = _settled_text(table, stay, separator != ",")
    table = pd.DataFrame(dict(zip(columns, settled, strict=True)), copy=False)
    renamed = dict(zip(raw, columns, strict=True))
    notes = [f"{_columns([repr(renamed[c]) for c in named])}: {n}" for n, named in notes.items()]
    return _named_only(table), notes


def _settled_text(
    table: pd.DataFrame, stay: Collection[str], commas: bool
) -> tuple[list[np.ndarray], dict[str, list[str]]]:
    """The columns of a table with their text stripped and, but for `stay`, typed; and notes.

    Each text is looked at once, however many rows hold it. Rows without any value are left out.
    """
    texts, filled = {}, np.zeros(len(table), bool)
    for column, values in table.items():
        if values.dtype.kind == "O":
            texts[column] = codes, _ = _factorized(values)
            filled |= codes >= 0
        elif not filled.all():
            filled |= values.notna().to_numpy()
    columns, notes = [], {}
    for column, values in table.items():
        if column not in texts:
            columns.append(values.to_numpy() if filled.all() else values.to_numpy()[filled])
            continue
        codes, unique = texts.pop(column)
        if column in stay:
            unique, note = _plain(unique), ""
        else:
            unique, note = _typed(unique, commas)
        columns.append(_spread(unique, codes if filled.all() else codes[filled]))
        if note:
            notes.setdefault(note, []).append(column)
    return columns, notes


def _factorized(values: pd.Series) -> tuple[np.ndarray, list[str]]:
    """The place of each value among the different texts, -1 where it is blank; and these texts."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        codes, found = values.cat.codes.to_numpy(), list(values.cat.categories)
    else:
        codes, found = pd.factorize(values)
    stripped = [text.strip() or None for text in found]
    if all(map(operator.is_, stripped, found)):
        return codes, stripped
    again, unique = pd.factorize(np.array(stripped, dtype=object))
    return np.append(again, -1)[codes], list(unique)


def _spread(unique: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The value of each row by its place among the different values, missing where that is -1."""
    if unique.dtype.kind == "O":
        return np.append(unique, None)[codes]
    return (np.append(unique.astype(float), np.nan) if (codes < 0).any() else unique)[codes]


def _columns(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"column{'s' if len(names) > 1 else ''} {', '.join(names[:3])}{more}"


def once_each(names: list[str]) -> list[str]:
    """The names with .1, .2 after those that stood there before, as pandas does it."""
    seen, unique = Counter(), []
    for name in names:
        unique.append(f"{name}.{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return unique


def _longer_header(content: str, separator: str) -> dict[str, list[str]]:
    """Names for pandas where each row has one value more than the header: R's names of rows."""
    lines = [line for line in content.split("\n", LOOK_AT)[:LOOK_AT] if line.strip()]
    header, *rows = csv.reader(lines, delimiter=separator) if lines else [[]]
    if not rows or {len(row) for row in rows} != {len(header) + 1}:
        return {}
    trailing = all(not row[-1].strip() for row in rows)
    return {"names": once_each([*header, "Unnamed: 0"] if trailing else ["index", *header])}


def _unsure(values: pd.Series) -> bool:
    """Whether pandas may have lost something: True, 007 and 1E1 may be names."""
    if values.dtype.kind == "O":
        return pd.api.types.infer_dtype(values, skipna=True) not in ("string", "empty")
    if values.dtype.kind != "f":
        return values.dtype.kind in "biu"
    finite = values[np.isfinite(values)]
    return len(finite) > 0 and bool((finite == finite.round()).all())


def _named_only(table: pd.DataFrame) -> pd.DataFrame:
    """The table without columns that have no name; the first may be the ids, as `index`."""
    unnamed = [name for name in table.columns if re.fullmatch(r"Unnamed: \d+", name)]
    if unnamed and unnamed[0] == table.columns[0] and table[unnamed[0]].is_unique:
        counter = counts_rows(table[unnamed[0]])
        if not (counter and (ID in table or _id_name(table.columns))):
            table = table.rename(columns={unnamed.pop(0): "index"})
            table.attrs["counter"] = ["index"] if counter else []
    return table.drop(columns=unnamed)


def _decoded(raw: bytes) -> str:
    """Text of a file in UTF-8, UTF-16 or Windows-1252, with one kind of line ends."""
    if raw.startswith(b"\x1f\x8b"):
        raw = gzip.decompress(raw)
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


def _without_comments(content: str) -> str:
    """The text below leading lines that begin with #, unless the last of them is the header."""
    lines = content.split("\n", LOOK_AT)
    n = next((i for i, line in enumerate(lines) if not line.startswith("#")), 0)
    for separator in SEPARATORS if n else "":
        rows = list(csv.reader(lines[n - 1 : n + 2], delimiter=separator))
        comment, *table = map(len, rows)
        if (
            len(set(table)) == 1
            and table[0] > 1
            and (comment != table[0] or _id_name(map(str.lower, rows[1])))
        ):
            return "\n".join(lines[n:])
    return content


def _separator(content: str) -> str:
    """The separator that yields Unique_ID, else the one that splits all rows alike into most.

    Blanks separate only where nothing else does and the header is quoted, as R writes it.
    """
    lines = content.split("\n", LOOK_AT)[:LOOK_AT]
    best = (" " if lines[0].startswith('"') and '" "' in content else ",", (False, False, 0))
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


def _plain(texts: list[str | None]) -> np.ndarray:
    """Text; 3.0 is 3 if all are whole, as pandas writes them."""
    filled = [text for text in texts if text is not None]
    if filled and all(map(WHOLE.fullmatch, filled)):
        texts = [text and text.partition(".")[0] for text in texts]
    return np.array(texts, dtype=object)


def _typed(texts: list[str | None], commas: bool) -> tuple[np.ndarray, str]:
    """Different texts as numbers if there is nothing else, else as they are; and a note.

    Args:
        texts: None is missing.
        commas: whether a comma may be the decimal sign.
    """
    filled = [text for text in texts if text is not None]
    others = [text for text in filled if text.lower() in NO_NUMBER]
    written = [text for text in filled if text not in others] if others else filled
    numbers, said = _with_points(written, commas)
    whole = numbers and all(float(number).is_integer() for number in numbers)
    if not numbers or (whole and any(map(NAME_LIKE.fullmatch, numbers))):
        if others:
            said = f"{', '.join(others)} is text like any other, not missing"
        return np.array(texts, dtype=object), said
    if len(written) == len(texts):
        return pd.to_numeric(np.array(numbers, dtype=object)), said
    known = dict(zip(written, pd.to_numeric(np.array(numbers, dtype=object)), strict=True))
    if others:
        said = f"{', '.join(others)} among numbers is missing"
    return np.array([known.get(text, np.nan) for text in texts]), said


def _with_points(texts: list[str], commas: bool) -> tuple[list[str], str]:
    """Numbers written with points alone, none if a text is no number; and a note on commas."""
    if all(map(NUMBER.fullmatch, texts)):
        return texts, ""
    texts = [text.replace("\N{MINUS SIGN}", "-") for text in texts]
    if all(map(NUMBER.fullmatch, texts)):
        return texts, ""
    grouped = any("," in text and "." in text for text in texts)
    for sign, thousands, pattern in ((".", ",", POINT_AND_GROUPS), (",", ".", COMMA_AND_GROUPS)):
        if grouped and all(map(pattern.fullmatch, texts)):
            return [text.replace(thousands, "").replace(sign, ".") for text in texts], ""
    pointed = [text.replace(",", ".") for text in texts]
    words = [text for text in pointed if not NUMBER.fullmatch(text)]
    if words:
        few = len(words) < len(texts) / 2
        return [], f"stays text, since {words[0]!r} is no number" if few else ""
    return (pointed, "") if commas else ([], "numbers with a comma stay text: write 1.5 or 1500")


def _settled(table: pd.DataFrame, text: set[str]) -> pd.DataFrame:
    """Columns of a typed file (Parquet, AnnData) as NumPy's types; ids and classes as text."""
    columns = {}
    for column, values in table.items():
        column = str(column).strip()
        if isinstance(values.dtype, pd.CategoricalDtype):
            kind = values.cat.categories.dtype
            if values.hasnans and kind.kind in "biu":
                kind = object if kind.kind == "b" else float
            values = values.astype(kind)
        if values.dtype == object and pd.api.types.infer_dtype(values) == "bytes":
            values = values.map(bytes.decode, na_action="ignore")
        if column in text or _id_name([column]):
            values = values.map(as_name, na_action="ignore").astype(object)
        elif pd.api.types.is_datetime64_any_dtype(values.dtype):
            values = values.astype(str).where(values.notna(), None)
        elif pd.api.types.is_extension_array_dtype(values.dtype):
            if pd.api.types.is_bool_dtype(values.dtype) and values.hasnans:
                values = values.astype(object).where(values.notna(), None)
            elif pd.api.types.is_numeric_dtype(values.dtype):
                values = values.astype(float if values.hasnans else values.dtype.type)
            else:
                values = values.astype(object).where(values.notna(), None)
        elif values.dtype == object:
            inferred = pd.api.types.infer_dtype(values)
            if inferred == "decimal":
                values = values.astype(float)
            elif inferred not in ("string", "boolean", "empty"):
                values = values.map(as_name, na_action="ignore")
        columns[column] = values
    return pd.DataFrame(columns, index=table.index)


def as_name(value: object) -> str:
    """A value as text: 3.0 of a column with gaps is 3."""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def ids_of(table: pd.DataFrame, names: Sequence[str], source: str) -> tuple[pd.Series, list[str]]:
    """The ids of a table, which say which image each row is, "" where there is none; and notes.

    `Unique_ID`, else the column whose values match most image names, more than half of its own: an
    unnamed first column, `index`, `cell_id` or any other.

    Args:
        table: of `read_table`.
        names: of the images.
        source: what to call the table.

    Raises:
        UserError: no column matches.
    """
    column, notes = ID, []
    if ID not in table:
        column = _column_of_ids(table, names)
        if column is None:
            there = ", ".join(map(str, table.columns[:12]))
            raise UserError(
                f"{source} has no column {ID} (the file name of each image), and no other column "
                f"holds their names; its columns are {there}: add {ID}"
            )
        notes = [f"{source}: column {column!r} says which image a row is"]
    return table[column].map(as_name, na_action="ignore").fillna("").astype(str), notes


def _column_of_ids(table: pd.DataFrame, names: Sequence[str]) -> str | None:
    """The column that names most images; numbers only where the column is called like an index."""
    best, share = None, 0.5
    for column in table.columns:
        values = table[column]
        is_index = str(column).lower() in INDEX_NAMES
        if not (values.dtype.kind == "O" or (values.dtype.kind in "iu" and is_index)):
            continue
        if values.isna().any() or not values.is_unique:
            continue
        matched = np.mean(match_names(values.map(as_name), names) >= 0)
        if matched > share or (matched == share and best and is_index):
            best, share = column, matched
    return best


def key_of(name: str) -> str:
    """A name as ids are compared: composed, stripped, with slashes, without an image ending.

    Examples:
        >>> key_of(" a/c01.tiff ")
        'a/c01'
    """
    plain = in_nfc(str(name)).strip().replace("\\", "/").removeprefix("./")
    stem, dot, ending = plain.rpartition(".")
    is_image = dot and f".{ending.lower()}" in IMAGE_SUFFIXES
    return stem.removesuffix(".ome") if is_image else plain


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
    name of its key, both without leading zeros, whatever the case. What is matched once is not
    matched again.
    """
    places = np.full(len(asked), -1)
    free = np.ones(len(there), bool)
    asked, there = list(map(str, asked)), list(map(str, there))
    for way in (in_nfc, key_of, lambda n: key_of(n).rpartition("/")[2], loose_key_of,
                lambda n: loose_key_of(n).rpartition("/")[2],
                lambda n: loose_key_of(n).rpartition("/")[2].casefold()):  # fmt: skip
        rows, columns = np.flatnonzero(places < 0), np.flatnonzero(free)
        if len(rows) == 0 or len(columns) == 0:
            break
        left = pd.Index([way(asked[i]) for i in rows])
        right = pd.Index([way(there[i]) for i in columns])
        once = ~right.duplicated(keep=False)
        right, columns = right[once], columns[once]
        found = right.get_indexer(left)
        found[left.duplicated(keep=False)] = -1
        places[rows[found >= 0]] = columns[found[found >= 0]]
        free[places[places >= 0]] = False
    return places
