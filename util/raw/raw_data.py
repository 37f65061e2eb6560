"""Reading a user's raw data: their folders, their tables, one image file per channel.

A fault in a table stops the conversion before it begins; a fault in one image is returned as a
reason, to be counted.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from util.errors import UserError
from util.image_files import read_image
from util.raw.cellprofiler import SEVERAL, index_crops, numbers
from util.raw.data_set_writer import Cut
from util.tables import read_table


def read_channels(files: Sequence[Path]) -> tuple[np.ndarray | None, str]:
    """The images of one cell or field, a file per channel, as one (H, W, C); else None and why.

    A single file may hold several channels. Nothing is raised, so that unreadable images can be
    counted.
    """
    images = []
    for file in files:
        where = f"{file.parent.name}/{file.name}"
        try:
            image, _ = read_image(file, turn=False)
        except FileNotFoundError:
            return None, f"no file {where}"
        except Exception as error:  # readers raise anything on a damaged file
            return None, f"{where} cannot be read ({first_line(error)})"
        images.append(image)  # (C, H, W)
    if len(files) > 1 and (
        several := [f for f, im in zip(files, images, strict=True) if len(im) > 1]
    ):
        return None, f"{several[0].parent.name}/{several[0].name} has more than one channel"
    if len({image.shape[1:] for image in images}) > 1:
        shapes = ", ".join(f"{h} x {w}" for _, h, w in (image.shape for image in images))
        return None, f"channels of unequal shape ({shapes})"
    if len({image.dtype for image in images}) > 1:
        return None, f"channels of unequal type ({', '.join(str(im.dtype) for im in images)})"
    return np.ascontiguousarray(np.moveaxis(np.concatenate(images), 0, -1)), ""


def merge_crops(rows: pd.DataFrame, folders: list[Path], name: str) -> Iterator[Cut]:
    """The crops of matched cells, a folder per channel, merged to one image each.

    Args:
        rows: cells with CP_ObjectNumber and `reason`, empty for those that were matched.
        folders: of one well and site, in the order of the channels.
        name: CellProfiler's object.
    """
    found = [index_crops(folder, name) for folder in folders]
    for row in rows.to_dict("records"):
        image = None
        if not row["reason"]:
            number = int(row["CP_ObjectNumber"])
            files = [crops.get(number) for crops in found]
            where = [f"{folder.parent.name}/{folder.name}" for folder in folders]
            if None in files:
                row["reason"] = f"no crop of its object in {where[files.index(None)]}"
            elif SEVERAL in files:
                row["reason"] = f"several crops of its object in {where[files.index(SEVERAL)]}"
            else:
                image, row["reason"] = read_channels(files)
        yield row, image


def first_line(error: Exception) -> str:
    """What an error says, on one line."""
    text = " ".join(str(error).split())
    return text[:100] or type(error).__name__


def read_ground_truth(
    path: Path,
    numeric: Sequence[str] = (),
    text: Sequence[str] = (),
    keep_text: Sequence[str] = (),
) -> pd.DataFrame:
    """A user's table with its required columns, numeric where they have to be.

    Args:
        path: of the table.
        numeric, text: required columns.
        keep_text: more columns whose values stay text, such as classes; they may have gaps.

    Raises:
        UserError: the file is missing or empty, a column is missing or has gaps, or text stands
            where a number belongs.
    """
    table = read_table(path, (*text, *keep_text))
    for column in (*numeric, *text):
        if column not in table:
            raise UserError(
                f"{path} has no column {column}; its columns are "
                f"{', '.join(map(str, table.columns[:4]))}: is the separator a comma, a semicolon "
                "or a tab?"
            )
        if column in numeric:
            table[column] = numbers(table[column], path).convert_dtypes(convert_floating=False)
        if table[column].isna().any():
            row = int(table[column].isna().to_numpy().argmax())
            raise UserError(f"{path}: {column} is empty in row {row + 2}")
    return table


def find_in(folder: Path, *names: str) -> Path:
    """The first of these paths that exists below a folder of raw data.

    Raises:
        UserError: there is none.
    """
    if not folder.is_dir():
        raise UserError(f"--raw {folder}: there is no such folder")
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise UserError(f"--raw {folder}: there is no {' or '.join(names)} in it")
