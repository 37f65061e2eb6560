"""Which rows of a table belong to which field of view.

A plate map or other metadata names the parts of the file names, such as well and site; objects of
CellProfiler name the image files, or the same parts as Metadata_*.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from util.errors import UserError
from util.metadata import ENOUGH_MATCH, WARNING, count_and_name, name_columns
from util.raw import cellprofiler as cp
from util.tables import as_name, match_names, read_table

WELL = re.compile(r"[a-z]{1,2}0*\d{1,2}", re.IGNORECASE)
SPELLINGS = ("", "position", "id", "name", "no", "number", "index", "idx")  # well_position, Site ID
Key = Mapping[str, str]  # of a field: part of the pattern -> its text, such as well -> A01


def column_of(table: pd.DataFrame, part: str) -> str | None:
    """The column of a part of the pattern: well, Well, Metadata_Well, well_position, Well ID."""
    wanted = [re.sub(r"[\W_]", "", part.lower()) + ending for ending in SPELLINGS]
    plain = {c: re.sub(r"[\W_]", "", str(c).lower()).removeprefix("metadata") for c in table}
    found = [c for spelling in wanted for c, name in plain.items() if name == spelling]
    return part if part in table else next(iter(found), None)


def rows_of_fields(
    table: pd.DataFrame, keys: Sequence[Key], source: str
) -> tuple[list[pd.DataFrame | None], list[str]]:
    """The rows of each field, by the columns that are called like parts of the pattern; and notes.

    Text is compared as names are (`tables.match_names`): A1 is A01, and 1 is 001 where only one of
    them is there.

    Args:
        table: e.g. of a plate map.
        keys: of the fields.
        source: what to call the table.

    Returns:
        the rows of each field, None where it has none; and notes on fields without rows.

    Raises:
        UserError: the table has no such column, or none of its rows is of a field.
    """
    columns = {part: column for part in keys[0] if (column := column_of(table, part))}
    if not columns:
        raise UserError(
            f"{source}: to join it, it needs a column called like a part of the pattern: "
            f"{', '.join(keys[0])}; it has {name_columns(table)}"
        )
    of_rows = np.array(_joined(table[list(columns.values())].itertuples(index=False)), dtype=object)
    groups = dict(iter(table.groupby(of_rows, sort=False)))
    names = _joined([key[part] for part in columns] for key in keys)
    once, places = np.unique(np.array(names, dtype=object), return_inverse=True)
    matched = match_names(once, list(groups))[places]
    if (matched < 0).all():
        raise UserError(
            f"{source}: {table[list(columns.values())].iloc[0].to_dict()} and all other rows are "
            f"of none of the fields, such as { {part: keys[0][part] for part in columns} }"
        )
    rows = list(groups.values())
    notes = []
    lost = [" ".join(key.values()) for key, place in zip(keys, matched, strict=True) if place < 0]
    if lost:
        alarm = f"{WARNING} " if len(lost) > (1 - ENOUGH_MATCH) * len(keys) else ""
        notes.append(alarm + count_and_name(f"of {len(keys)} fields have no row in {source}", lost))
    return [None if place < 0 else rows[place] for place in matched], notes


def _joined(parts: Sequence[Sequence[object]]) -> list[str]:
    """The parts of each name as one text, wells in capital letters."""
    texts = ([as_name(part) for part in row] for row in parts)
    return ["|".join(t.upper() if WELL.fullmatch(t) else t for t in row) for row in texts]


def objects_of_fields(
    objects: pd.DataFrame,
    folder: Path,
    keys: Sequence[Key],
    files: Sequence[Sequence[Path | None]],
) -> list[pd.DataFrame]:
    """CellProfiler's objects of each field, by the file names in Image.csv, else by Metadata_*.

    Args:
        objects: of a spreadsheet, with ImageNumber.
        folder: of the spreadsheets, which may hold Image.csv.
        keys, files: of the fields.

    Raises:
        UserError: no object is of a field, or a file name stands for several images that neither
            PathName_* nor Metadata_* tells apart.
    """
    by_key = _by_metadata(objects, keys, folder)
    images = _images_of_run(folder)
    if images is None:
        found = by_key or [objects[:0]] * len(keys)
    else:
        numbers = [
            _numbers_of_field(images, of_field, None if by_key is None else by_key[i], folder)
            for i, of_field in enumerate(files)
        ]
        found = [objects[objects[cp.IMAGE].isin(number)] for number in _claimed_once(
            numbers, images, files, folder)]  # fmt: skip
    if all(rows.empty for rows in found):
        raise UserError(
            f"{folder}: none of its objects is of these fields; neither the file names in "
            "Image.csv nor Metadata_ columns called like the parts of --image-pattern agree"
        )
    return found


def _by_metadata(
    objects: pd.DataFrame, keys: Sequence[Key], folder: Path
) -> list[pd.DataFrame] | None:
    """The objects of each field by Metadata_* columns; None where there are none that agree."""
    columns = [c for c in objects if str(c).startswith("Metadata_")]
    if not any(column_of(objects[columns], part) for part in keys[0]):
        return None
    try:
        found, _ = rows_of_fields(objects[[*columns, cp.IMAGE]], keys, str(folder))
    except UserError:  # of other fields
        return None
    return [objects[:0] if rows is None else objects.loc[rows.index] for rows in found]


def _images_of_run(folder: Path) -> pd.DataFrame | None:
    """name, folder and ImageNumber of every file of Image.csv; None without it."""
    path = cp.find_spreadsheet(folder, "Image")
    if path is None:
        return None
    table = read_table(path)
    parts = []
    for column in [c for c in table if str(c).startswith("FileName_")]:
        folder = table.get(f"PathName_{column.removeprefix('FileName_')}", "")
        parts.append(pd.DataFrame({"name": table[column], "folder": folder,
                                   "number": table[cp.IMAGE]}))  # fmt: skip
    files = pd.concat(parts) if parts else pd.DataFrame(columns=["name", "folder", "number"])
    return files.dropna(subset="name").fillna("").astype({"name": str, "folder": str})


def _numbers_of_field(
    images: pd.DataFrame,
    files: Sequence[Path | None],
    by_key: pd.DataFrame | None,
    folder: Path,
) -> set[int]:
    """The ImageNumber of a field, in a set; empty if the run had no such file."""
    named = [file for file in files if file]
    same = images[images["name"].isin([file.name for file in named])]
    numbers = set(same["number"])
    if len(numbers) < 2:
        return numbers
    near = _nearest(same, named[0])
    if len(near) > 1 and by_key is not None:
        near &= set(by_key[cp.IMAGE])
    if len(near) != 1:
        raise UserError(
            f"{folder}: {named[0].name} is the name of {len(numbers)} images in "
            "Image.csv, and neither PathName_ nor Metadata_ columns tell which one lies in "
            f"{named[0].parent}: give the folder with --fields that CellProfiler read"
        )
    return near


def _nearest(images: pd.DataFrame, file: Path) -> set[int]:
    """Numbers of the images whose folder has most of its last parts in common with the file's."""
    common = np.array([_common_parts(folder, file) for folder in images["folder"]])
    return set(images["number"][common == common.max()])


def _common_parts(folder: str, file: Path) -> int:
    """How many folders two paths have in common, from the last one upwards."""
    theirs = [part for part in folder.replace("\\", "/").split("/") if part]
    ours = file.resolve().parent.parts
    equal = [a == b for a, b in zip(reversed(theirs), reversed(ours), strict=False)]
    return (*equal, False).index(False)


def _claimed_once(
    numbers: Sequence[set[int]],
    images: pd.DataFrame,
    files: Sequence[Sequence[Path | None]],
    folder: Path,
) -> list[set[int]]:
    """The same, where fields of two folders have one file name: the nearest folder takes it."""
    claims: dict[int, list[int]] = {}
    for i, number in enumerate(numbers):
        for one in number:
            claims.setdefault(one, []).append(i)
    kept = list(numbers)
    for number, fields in claims.items():
        if len(fields) < 2:
            continue
        folders = images["folder"][images["number"] == number]
        first = [next(file for file in files[i] if file) for i in fields]
        common = np.array([max(_common_parts(folder, file) for folder in folders)
                           for file in first])  # fmt: skip
        if (common == common.max()).sum() > 1:
            raise UserError(
                f"{folder}: {first[0].name} lies in {first[0].parent} and in "
                f"{first[1].parent}, and PathName_ of Image.csv does not tell which one "
                "CellProfiler read: give one folder with --fields"
            )
        for i, near in zip(fields, common == common.max(), strict=True):
            kept[i] = kept[i] if near else set()
    return kept
