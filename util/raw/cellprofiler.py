"""CellProfiler's outputs: spreadsheets of objects, files of cropped objects.

CellProfiler (Stirling et al. 2021, BMC Bioinformatics 22:433) writes with ExportToSpreadsheet one
row per object: `ImageNumber, ObjectNumber`, then `Metadata_*`, then the features. Its files vary:

- the name may have a prefix (`MyExpt_Cells.csv`, `200515_Horvath_Simple_AnalysisSplitCellBodies`);
- a file of several objects has a first header row of object names, and rows of `nan` where one
  object is fewer than another;
- metadata columns may stand twice; undefined values are `nan` or empty.

SaveCroppedObjects writes `{object}_{number}.png|tiff`, newer versions
`{image name}_{object}_{number}.ext`. Centres are zero-based pixels, X = column.
"""

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from util.cell_features import clean_features, is_metadata
from util.errors import UserError
from util.metadata import count_and_name

IMAGE, OBJECT = "ImageNumber", "ObjectNumber"
CENTRE_X, CENTRE_Y = "AreaShape_Center_X", "AreaShape_Center_Y"
COMPARTMENTS = ("Cells", "Nuclei", "Cytoplasm")
SEVERAL = "several crops"  # in `index_crops`: two files claim to be this object


def find_spreadsheet(folder: Path, name: str) -> Path | None:
    """The CSV of an object in a folder of CellProfiler's, whatever prefix its name has.

    `Cells.csv` is preferred to `MyExpt_Cells.csv`, and that to `MyExptCells.csv`.

    Raises:
        UserError: two files fit equally well.
    """
    files = sorted(p for p in folder.glob("*.csv") if not p.name.startswith("."))
    for fits in (
        lambda stem: stem == name,
        lambda stem: stem.endswith(f"_{name}"),
        lambda stem: stem.endswith(name),
    ):
        found = [path for path in files if fits(path.stem)]
        if len(found) > 1:
            raise UserError(
                f"{folder} holds {found[0].name} and {found[1].name}: which is the spreadsheet of "
                f"{name}? Leave one of them there"
            )
        if found:
            return found[0]
    return None


def read_spreadsheet(
    path: Path, name: str, columns: Sequence[str] | None = None
) -> dict[str, pd.DataFrame]:
    """The objects of a spreadsheet, a table each.

    Args:
        path: CSV of one object, or of several with two header rows; comma, semicolon or tab.
        name: what the object of a file with one header row is called.
        columns: features to read, besides ImageNumber, ObjectNumber and Metadata_*; None for all.

    Returns:
        object name -> table, one row per object: ImageNumber and ObjectNumber as integers,
        Metadata_* as text, then the features under their plain names.

    Raises:
        UserError: the file is missing or empty, has no rows, lacks a column, holds text where a
            number belongs, or lists an object twice.
    """
    header, separator, n_header = _read_header(path)
    wanted = _choose_columns(path, header, columns)
    try:
        cells = pd.read_csv(
            path,
            sep=separator,
            header=None,
            skiprows=n_header,
            usecols=wanted,
            dtype={i: str for i in wanted if header[i][1].startswith("Metadata_")},
            encoding="utf-8-sig",
            encoding_errors="replace",
            low_memory=False,
        )
    except pd.errors.EmptyDataError:
        cells = pd.DataFrame()
    except (OSError, ValueError) as error:  # ParserError is a ValueError
        raise UserError(f"{path} cannot be read as a spreadsheet ({_line(error)})") from error
    if cells.empty:
        raise UserError(f"{path} has a header but no rows: was the CellProfiler run finished?")
    shared = [i for i in wanted if _is_shared(header[i])]
    common = _unique_columns(path, cells, header, shared)
    names = dict.fromkeys(header[i][0] or name for i in wanted if i not in shared)
    tables = {}
    for object_name in names or {name: None}:
        own = [i for i in wanted if i not in shared and (header[i][0] or name) == object_name]
        table = pd.concat([common, _unique_columns(path, cells, header, own)], axis=1)
        if n_header == 2 and own:  # an object that is fewer than another ends in rows of nan
            table = table[cells[own].notna().any(axis=1)]
        tables[object_name] = _with_integer_keys(path, table)
    return tables


def read_objects(
    path: Path, name: str, columns: Sequence[str] | None = None, keys: Sequence[str] = ()
) -> pd.DataFrame:
    """One object of a spreadsheet with its centres, which must be numbers.

    Args:
        path: the spreadsheet, of one object or of several.
        name: the object wanted.
        columns: features to read besides the centres; None for all.
        keys: metadata columns (`Metadata_Well`) that must be there.

    Raises:
        UserError: as `read_spreadsheet`, or the object or a metadata column is not there.
    """
    if columns is not None:
        columns = [CENTRE_X, CENTRE_Y, *columns]
    tables = read_spreadsheet(path, name, columns)
    if name not in tables:
        raise UserError(f"{path} holds {', '.join(tables)}, no object called {name}")
    table = tables[name]
    for column in (*keys, CENTRE_X, CENTRE_Y):
        if column not in table:
            hint = " (ExportToSpreadsheet: add image metadata columns)" if column in keys else ""
            raise UserError(
                f"{path} has no column {column}{hint}; there are {', '.join(table.columns[:8])}"
            )
    for column in (CENTRE_X, CENTRE_Y):
        table[column] = numbers(table[column], path)
    for column in keys:
        if table[column].isna().any():
            raise UserError(f"{path}: {column} is empty in {int(table[column].isna().sum())} rows")
    return table.reset_index(drop=True)


def numbers(values: pd.Series, path: Path) -> pd.Series:
    """The column as float64, NaN where empty.

    Raises:
        UserError: it holds something that is no number; the first one is named.
    """
    converted = pd.to_numeric(values, errors="coerce").astype(np.float64)
    wrong = values[converted.isna() & values.notna()]
    if len(wrong):
        raise UserError(
            f"{path}: {values.name} holds {wrong.iloc[0]!r} where a number belongs; "
            "is the separator or the decimal sign another one?"
        )
    return converted


def _read_header(path: Path) -> tuple[list[tuple[str, str]], str, int]:
    """(object name, column name) of each column, the separator, and how many rows are header."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            lines = [file.readline(), file.readline()]
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such spreadsheet") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    if not lines[0].strip():
        raise UserError(f"{path} is empty: was the CellProfiler run finished?")
    separator = max(",;\t", key=lines[0].count)
    first, second = (next(csv.reader([line], delimiter=separator), []) for line in lines)
    if IMAGE in first:
        return [("", name) for name in first], separator, 1
    if IMAGE in second and len(first) == len(second):
        return list(zip(first, second, strict=True)), separator, 2
    raise UserError(
        f"{path} has no column {IMAGE}; its columns are {', '.join(first[:6])}: "
        "is it a spreadsheet of objects, with commas between the columns?"
    )


def _is_shared(column: tuple[str, str]) -> bool:
    return column[1] in (IMAGE, OBJECT) or column[1].startswith("Metadata_")


def _choose_columns(
    path: Path, header: list[tuple[str, str]], columns: Sequence[str] | None
) -> list[int]:
    names = {name for _, name in header}
    for needed in (OBJECT, *(columns or ())):
        if needed not in names:
            raise UserError(
                f"{path} has no column {needed}; there are {', '.join(sorted(names)[:8])}, ..."
            )
    return [
        i
        for i, column in enumerate(header)
        if columns is None or _is_shared(column) or column[1] in columns
    ]


def _unique_columns(
    path: Path, cells: pd.DataFrame, header: list[tuple[str, str]], places: list[int]
) -> pd.DataFrame:
    """The columns at these places under their names; a name that occurs twice must agree."""
    first = {}
    for place in places:
        name = header[place][1]
        if name not in first:
            first[name] = place
        elif not cells[first[name]].equals(cells[place]):
            raise UserError(
                f"{path}: the column {name} stands there twice with different values; remove one"
            )
    return cells[list(first.values())].set_axis(list(first), axis=1)


def _with_integer_keys(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    table = table.copy()
    for key in (IMAGE, OBJECT):
        values = numbers(table[key], path)
        if values.isna().any():
            raise UserError(f"{path}: {key} is empty in {int(values.isna().sum())} rows")
        table[key] = values.astype(np.int64)
    twice = table[table.duplicated([IMAGE, OBJECT])]
    if len(twice):
        raise UserError(
            f"{path}: object {twice[OBJECT].iloc[0]} of image {twice[IMAGE].iloc[0]} stands in two "
            "rows; was one run appended to another? Keep one row per object"
        )
    return table


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def joined_features(
    spreadsheet: Path, name: str, prefix: str | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Features of an object and of its compartments, a row per object.

    Beside the spreadsheet of `name` those of the compartments (`Cells`, `Nuclei`, `Cytoplasm`)
    under the same prefix of the file name are read, where there are any, and linked by the
    parent's number (`Parent_*`), without one by the object's own.

    Args:
        spreadsheet: the CSV of the main object.
        name: the main object, e.g. `Cells`.
        prefix: what its columns begin with; None for its name.

    Returns:
        the features, float64, `Cells_*`, `Nuclei_*`, `Cytoplasm_*`, indexed by (ImageNumber,
        ObjectNumber) of the main object, NaN where it has no such part; and notes.

    Raises:
        UserError: a spreadsheet is damaged, or holds no feature.
    """
    tables = read_spreadsheet(spreadsheet, name)
    if name not in tables:
        raise UserError(f"{spreadsheet} holds {', '.join(tables)}, no object called {name}")
    start = spreadsheet.stem.removesuffix(name)
    for other in COMPARTMENTS:
        path = spreadsheet.with_name(f"{start}{other}.csv")
        if other not in tables and path.is_file():
            tables |= {
                key: table
                for key, table in read_spreadsheet(path, other).items()
                if key not in tables
            }
    main = tables[name].set_index([IMAGE, OBJECT], drop=False)
    joined, notes = [_numeric_features(main).add_prefix(f"{prefix or name}_")], []
    for other in COMPARTMENTS:
        if other in tables and other != name:
            part, note = _part_of(main, name, tables[other], other)
            joined.append(_numeric_features(part).add_prefix(f"{other}_"))
            notes += note
    features = pd.concat(joined, axis=1)
    if features.columns.empty:
        raise UserError(f"{spreadsheet}: no feature column besides metadata and positions")
    return features, notes


def feature_table(
    spreadsheet: Path, name: str, cells: pd.DataFrame, prefix: str | None = None
) -> pd.DataFrame | None:
    """The hand-crafted features of a data set, cleaned as profilers do (`clean_features`).

    Prints which features are dropped and why. Spreadsheets without a usable feature are no reason
    to lose the cells: a note says so, and there is no table.

    Args:
        spreadsheet: the CSV of the main object.
        name: the main object.
        cells: Unique_ID and the CellProfiler object of each cell, CP_ImagerNumber and
            CP_ObjectNumber.
        prefix: as in `joined_features`.

    Returns:
        `Unique_ID` and the robust z-scores of the features kept, a row per cell; or None.
    """
    try:
        features, notes = joined_features(spreadsheet, name, prefix)
        wanted = pd.MultiIndex.from_frame(cells[["CP_ImagerNumber", "CP_ObjectNumber"]].astype(int))
        of_cells = features.reindex(wanted).set_axis(pd.Index(cells["Unique_ID"]), axis=0)
        matrix, report = clean_features(of_cells)
    except UserError as error:
        print(f"no table of features is written: {error}")
        return None
    print("features:", *notes, *report, sep="\n  ")
    return matrix.reset_index()


def _numeric_features(table: pd.DataFrame) -> pd.DataFrame:
    columns = [name for name in table if not is_metadata(name)]
    return table[columns].select_dtypes("number").astype(np.float64)


def _part_of(
    main: pd.DataFrame, name: str, part: pd.DataFrame, part_name: str
) -> tuple[pd.DataFrame, list[str]]:
    """The row of a compartment that belongs to each row of the main object."""
    notes = []
    parent = f"Parent_{name}"
    if f"Parent_{part_name}" in main:  # cells made around nuclei name their nucleus
        wanted = pd.MultiIndex.from_arrays([main[IMAGE], main[f"Parent_{part_name}"]])
        rows = part.set_index([IMAGE, OBJECT])
    elif parent in part:  # a cytoplasm names its cell
        children = part[part[parent] > 0]
        several = children.duplicated([IMAGE, parent])
        if several.any():
            notes.append(
                f"{int(several.sum())} {part_name} share their {name} with another one: the first "
                "one's features are taken"
            )
        rows = children[~several].set_index([IMAGE, parent])
        wanted = main.index
    else:
        rows, wanted = part.set_index([IMAGE, OBJECT]), main.index
    found = rows.reindex(wanted).set_axis(main.index, axis=0)
    lonely = int((~pd.MultiIndex.from_tuples(wanted).isin(rows.index)).sum())
    if lonely:
        notes.append(f"{lonely} {name} have no {part_name}: these features are empty")
    return found, notes


def index_crops(folder: Path, name: str) -> dict[int, Path | str]:
    """Files of cropped objects in a folder: object number -> file.

    Both names are understood, `{object}_{number}.ext` and `{image}_{object}_{number}.ext`. A number
    that two files claim maps to `SEVERAL`.
    """
    pattern = re.compile(rf"(?:.+_)?{re.escape(name)}_(\d+)\.(?:png|tiff?)", re.IGNORECASE)
    crops: dict[int, Path | str] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if found := pattern.fullmatch(path.name):
            number = int(found[1])
            crops[number] = SEVERAL if number in crops else path
    return crops


def require_folders(folders: Iterable[Path]) -> None:
    """Refuse to start where a whole channel is missing.

    Raises:
        UserError: it names the first folder that is not there.
    """
    folders = list(folders)
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise UserError(count_and_name("folders of a channel are missing", missing))
