"""Your own microscopy: fields, with masks, with a CellProfiler run or bare, to single cells.

Edit SETTINGS below, or give them on the command line, and run for example

    python util/Process_Fields.py --fields plate1 --image-pattern '{well}_{site}_{channel}.tif' \
        --channels DAPI GFP RFP --nucleus-channel DAPI --name Plate1

A pattern says what the parts of a file name mean: {channel} is the channel, {_} anything, any other
name (well, site, ...) becomes a column and identifies the field. Cells are located by the first of
these that is given: CellProfiler's table of centres, masks of the nuclei, a threshold on the
nucleus channel. Their outlines come from masks of the cells or a threshold on the cell channels,
with a watershed between neighbours. The raw data are only read. The same command continues a
conversion that was stopped.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from util.errors import UserError
from util.raw import cellprofiler as cp
from util.raw.centroid_matching import match_centroids, refuse_nonsense
from util.raw.data_set_writer import (
    Cut,
    Outcome,
    Target,
    convert_from_command_line,
    file_stamp,
    refuse_finished,
    write_data_set,
)
from util.raw.field_tables import objects_of_fields, rows_of_fields
from util.raw.file_patterns import match_files, pattern_to_regex
from util.raw.masks import Mask, read_mask
from util.raw.outline_checks import (
    MOST_FIELDS,
    PREFIX,
    advise,
    measure_neighbours,
    measure_stain,
    outline_warnings,
    without_checks,
)
from util.raw.raw_data import first_line, read_channels, read_ground_truth
from util.raw.segmentation import (
    cut_off,
    drop_small,
    foreground,
    grow_cells,
    masked_crop,
    object_table,
    seeds_at,
    split_touching,
    window,
)
from util.runs import file_names, slug
from util.settings import notes_for_user, run_script
from util.tables import as_name


@dataclass(frozen=True)
class Settings:
    """Every choice of the conversion."""

    fields: Path = Path("DataSets/raw/MyFields")
    """Folder of the fields, and of the masks."""
    image_pattern: str = "{well}_{site}_{channel}.tif"
    """Names of the images below that folder. Without {channel} a file holds all channels."""
    channels: tuple[str, ...] = ()
    """Channels to use, in this order; without {channel}, names of the channels of a file. () for
    all."""
    name: str = "MyCells"
    """Name of the data set: its folder, and <name>_metadata.csv beside it."""
    out: Path = Path("DataSets")
    """Folder of data sets."""

    nucleus_channel: str | None = None
    """Channel that shows the nuclei; needed if neither masks nor CellProfiler locate the cells."""
    cell_channels: tuple[str, ...] = ()
    """Channels that show the whole cell; () for all but the nucleus channel."""
    nucleus_masks: str | None = None
    """Pattern of binary or label images of the nuclei."""
    cell_masks: str | None = None
    """Pattern of binary or label images of the cells."""
    nucleus_diameter: float = 20.0
    """Typical diameter of a nucleus in px, by which touching nuclei are split."""
    min_area: int = 50
    """Area in px of the smallest nucleus (or cell, if there are no nuclei)."""

    cellprofiler: Path | None = None
    """Folder of a CellProfiler run's spreadsheets: its centres locate the cells, its features
    become <name>_features.csv."""
    centres: str = "Nuclei"
    """The object whose centres mark the cells."""

    crop: Literal["masked", "window"] = "masked"
    """The bounding box of a cell, 0 outside the cell (masked), or a square of the field around it
    (window). Masked crops show nothing of the neighbours and keep the size of the cell; windows do
    not depend on the outlines. The script recommends one by what it sees (<name>_crops.json)."""
    window_size: int = 128
    """Side of that square in px. Cells too near the edge of the field are left out and listed."""

    metadata: Path | None = None
    """Table to join (CSV, Parquet): by the names in the pattern, which its columns may spell well,
    Well, Metadata_Well or well_position, and by position if it has positions."""
    metadata_x: str | None = None
    """Its column of x (zero-based px), to join one row per cell; None joins one row per field or
    well."""
    metadata_y: str | None = None
    """Its column of y (zero-based px)."""
    class_column: str | None = None
    """Column whose values become the class folders; None for none."""
    edge_cells: bool = False
    """Keep masked cells that the edge of the field cuts off; else they are left out and listed."""
    max_distance: float = 35.0
    """Largest distance in px between a row of the metadata and its cell."""
    workers: int | None = None
    """Processes that cut cells; None for one per CPU."""
    progress: bool = True
    """Show a progress bar."""


SETTINGS = Settings()

UNLISTED = "unlisted"  # class folder of cells without a row in the metadata
SEED_RADIUS = 0.15  # of the nucleus diameter, around CellProfiler's centres


class Field(NamedTuple):
    """What a worker needs to cut the cells of a field."""

    key: dict[str, str]  # e.g. well and site
    files: list[Path | None]  # of the channels
    nuclei: Path | None
    cells: Path | None
    centres: pd.DataFrame | None  # ImageNumber, ObjectNumber, x, y of CellProfiler's objects
    metadata: pd.DataFrame | None  # the rows of this field
    checked: bool = False  # whether its outlines are looked at for the recommended crops


def main(settings: Settings = SETTINGS) -> Outcome:
    """Convert a folder of fields.

    Raises:
        UserError: one line that names the setting, the table or the folder that is wrong.
    """
    name = slug(settings.name)
    _check(settings)
    features = (f"{name}_features.csv",) if settings.cellprofiler else ()
    tables_made = (f"{name}_unmatched.csv", *features, f"{name}_crops.json", f"{name}_metadata.csv")
    target = Target(settings.out, name, tables_made)
    refuse_finished(target)
    fields, channels = find_fields(settings)
    settings = _with_channels(settings, fields, channels)
    _tell_of_masks(settings, fields)
    tables = [settings.metadata] if settings.metadata else []
    if settings.metadata:
        fields = _share_out_metadata(settings, fields)
    if settings.cellprofiler:
        spreadsheet = cp.find_spreadsheet(settings.cellprofiler, settings.centres)
        if spreadsheet is None:
            raise UserError(f"{settings.cellprofiler}: no spreadsheet of {settings.centres} in it")
        fields = _share_out_centres(settings, fields, spreadsheet)
        tables.append(spreadsheet)
    if settings.metadata_x:
        _try_one_field(settings, fields)

    def finish(outcome: Outcome) -> tuple[dict[str, pd.DataFrame], dict]:
        cells, key = outcome.cells, list(fields[0].key)
        for warning in outline_warnings(cells, key) if settings.crop == "masked" else ():
            print(f"warning: {warning}")
        advice = advise(cells, key, masks=settings.cell_masks is not None)
        print(advice.line(settings.crop))
        made = {
            target.tables[-1]: without_checks(cells.drop(columns="folder")),
            target.tables[-2]: advice.describe(settings.crop),
            target.tables[0]: without_checks(outcome.unmatched),
        }
        if features:
            made[features[0]] = cp.feature_table(spreadsheet, settings.centres, cells)
        return made, {}

    looked_at = set(range(0, len(fields), -(-len(fields) // MOST_FIELDS)))
    fields = [field._replace(checked=i in looked_at) for i, field in enumerate(fields)]
    groups = [(group_name(field, settings), field) for field in fields]
    if len(set(name for name, _ in groups)) < len(groups):
        raise UserError(f"--image-pattern {settings.image_pattern}: fields get the same name")
    cutter = Cutter(settings, _class_folders(settings, fields))
    files = [file for field in fields for file in field.files if file]
    inputs = [
        file_stamp(*tables),
        [len(files), sum(file.stat().st_size for file in files)],
    ]
    return write_data_set(target, settings, inputs=inputs, groups=groups, cut=cutter, finish=finish)


def _tell_of_masks(settings: Settings, fields: Sequence[Field]) -> None:
    """Print what is done to the masks, by the first one of each kind that can be read."""
    for option, kind in (("nucleus-masks", "nuclei"), ("cell-masks", "cells")):
        files = [file for field in fields if (file := getattr(field, kind))]
        with contextlib.suppress(Exception):  # of a damaged file the fields will say so
            if files and (note := read_mask(files[0]).note):
                print(f"note: --{option}: {files[0].name}: {note}")


def _class_folders(settings: Settings, fields: Sequence[Field]) -> dict[str, str]:
    """Class -> the name of its folder, unlike that of any other class."""
    column, tables = settings.class_column, [f.metadata for f in fields if f.metadata is not None]
    if column is None or not tables:
        return {}
    classes = {as_name(value) for rows in tables for value in rows[column].dropna()}
    return file_names([UNLISTED, *sorted(classes)])


def group_name(field: Field, settings: Settings) -> str:
    """What the cells of a field begin with: `B7_3`; the name of the set for a single field."""
    return slug("_".join(field.key.values()) or settings.name)


def _check(settings: Settings) -> None:
    known = settings.cellprofiler or settings.nucleus_masks or settings.cell_masks
    if not (known or settings.nucleus_channel):
        raise UserError(
            "where are the cells? Give --nucleus-channel, --nucleus-masks, --cell-masks or "
            "--cellprofiler"
        )
    if bool(settings.metadata_x) != bool(settings.metadata_y):
        raise UserError("--metadata-x and --metadata-y go together")
    if (settings.metadata_x or settings.class_column) and not settings.metadata:
        raise UserError("--metadata is missing: the table with those columns")
    if settings.window_size < 8 or settings.nucleus_diameter <= 1:
        raise UserError("--window-size must be 8 px or more, --nucleus-diameter more than 1 px")


def find_fields(settings: Settings) -> tuple[list[Field], list[str]]:
    """The fields in the order of their names, and the channels if there is a file for each.

    Raises:
        UserError: no files, a channel without any file, masks that fit no field.
    """
    folder = settings.fields
    if not folder.is_dir():
        raise UserError(f"--fields {folder}: there is no such folder")
    masks = {
        option: match_files(folder, pattern, option) if pattern else {}
        for option, pattern in (
            ("--nucleus-masks", settings.nucleus_masks),
            ("--cell-masks", settings.cell_masks),
        )
    }
    no_images = {
        path for found in masks.values() for one in found.values() for path in one.values()
    }
    images = match_files(folder, settings.image_pattern, "--image-pattern", no_images)
    channels = sorted({channel for files in images.values() for channel in files})
    if channels != [""]:
        missing = [name for name in settings.channels if name not in channels]
        if missing:
            raise UserError(
                f"--channels {missing[0]}: no such files; there are {', '.join(channels)}"
            )
        channels = list(settings.channels) or channels
    for option, files in masks.items():
        if files and not set(files) & set(images):
            raise UserError(
                f"{option}: its names {dict(next(iter(files)))} fit none of the images, "
                f"such as {dict(next(iter(images)))}"
            )
    names = [n for n in pattern_to_regex(settings.image_pattern).groupindex if n != "channel"]
    fields = []
    for key, files in images.items():
        nuclei, cells = (found.get(key, {}).get("") for found in masks.values())
        of_channels = [files.get(channel) for channel in channels]
        in_order = {name: dict(key)[name] for name in names}
        fields.append(Field(in_order, of_channels, nuclei, cells, centres=None, metadata=None))
    return fields, channels


def _with_channels(settings: Settings, fields: list[Field], channels: list[str]) -> Settings:
    """The settings with the names of all channels; the named ones must be among them."""
    if channels == [""]:
        image, reason = read_channels(fields[0].files)
        if image is None:
            raise UserError(reason)
        channels = list(settings.channels) or [str(c) for c in range(image.shape[-1])]
        if len(channels) != image.shape[-1]:
            raise UserError(
                f"--channels: {len(channels)} names, but {fields[0].files[0]} has "
                f"{image.shape[-1]} channels"
            )
    nucleus = settings.nucleus_channel
    for name in (*settings.cell_channels, *([nucleus] if nucleus else [])):
        if name not in channels:
            raise UserError(f"channel {name}: there is none; there are {', '.join(channels)}")
    cell = settings.cell_channels or [c for c in channels if c != nucleus] or channels
    return replace(settings, channels=tuple(channels), cell_channels=tuple(cell))


def _share_out_metadata(settings: Settings, fields: list[Field]) -> list[Field]:
    """Give each field its rows of the metadata, by the columns named like parts of the pattern."""
    path = settings.metadata
    position = [c for c in (settings.metadata_x, settings.metadata_y) if c]
    wanted = [settings.class_column] if settings.class_column else []
    table = read_ground_truth(path, numeric=position, keep_text=wanted)
    for column in wanted:
        if column not in table:
            raise UserError(f"{path}: there is no column {column} for --class-column")
    table = table.drop(columns=[c for c in table if str(c).startswith("CP_")])
    own = {name: f"{name}_metadata" for name in ("Unique_ID", "folder", "reason") if name in table}
    rows, notes = rows_of_fields(table.rename(columns=own), [f.key for f in fields], str(path))
    for note in notes_for_user(table.attrs["notes"] + notes):
        print(f"note: {note}")
    shared = [field._replace(metadata=row) for field, row in zip(fields, rows, strict=True)]
    several = [field for field in shared if field.metadata is not None and len(field.metadata) > 1]
    if several and not position:
        raise UserError(
            f"{path}: {len(several[0].metadata)} rows for {several[0].key}: give --metadata-x and "
            "--metadata-y, or keep one row per field"
        )
    return shared


def _share_out_centres(settings: Settings, fields: list[Field], spreadsheet: Path) -> list[Field]:
    """Give each field CellProfiler's objects: by file name (Image.csv), or by Metadata_*."""
    objects = cp.read_objects(spreadsheet, settings.centres, columns=())
    objects = objects.rename(columns={cp.CENTRE_X: "x", cp.CENTRE_Y: "y"})
    rows = objects_of_fields(
        objects=objects,
        folder=settings.cellprofiler,
        keys=[field.key for field in fields],
        files=[field.files for field in fields],
    )
    columns = [cp.IMAGE, cp.OBJECT, "x", "y"]
    return [f._replace(centres=row[columns]) for f, row in zip(fields, rows, strict=True)]


def _try_one_field(settings: Settings, fields: list[Field]) -> None:
    """Stop before anything is written if the positions of the metadata match no cells."""
    for field in fields:
        if field.metadata is None:
            continue
        image, reason = read_channels_of(field, settings.channels)
        found = find_objects(image, field, settings) if image is not None else reason
        if not isinstance(found, str) and len(found.objects):
            rows, objects = _positions(field.metadata, settings), found.objects.assign(field=0)
            match = match_centroids(rows, objects, ["field"], settings.max_distance)
            source = f"{settings.metadata} ({settings.metadata_x}, {settings.metadata_y})"
            refuse_nonsense(
                match,
                rows,
                objects,
                keys=["field"],
                max_distance=settings.max_distance,
                source=source,
            )
            return


def _positions(rows: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    x, y = rows[settings.metadata_x], rows[settings.metadata_y]
    return pd.DataFrame({"x": x.to_numpy(float), "y": y.to_numpy(float), "field": 0})


def read_channels_of(field: Field, channels: tuple[str, ...]) -> tuple[np.ndarray | None, str]:
    """The field as (H, W, C), or None and why not."""
    if None in field.files:
        return None, f"no file of channel {channels[field.files.index(None)]}"
    image, reason = read_channels(field.files)
    if image is not None and image.shape[-1] != len(channels):
        return None, f"{image.shape[-1]} channels where {len(channels)} are expected"
    return image, reason


class Found(NamedTuple):
    """The cells of a field."""

    objects: pd.DataFrame  # number, x, y, area and bounding box; CP_* with CellProfiler
    labels: np.ndarray | None  # (H, W), None where only centres are known


def find_objects(image: np.ndarray, field: Field, settings: Settings) -> Found | str:
    """The cells of a field from the best available source, or why they cannot be found.

    Args:
        image: (H, W, C).
        field: with its masks and centres.
        settings: of the conversion.
    """
    masks = []
    for path, pattern in (
        (field.nuclei, settings.nucleus_masks),
        (field.cells, settings.cell_masks),
    ):
        mask, reason = (None, "") if pattern is None else _read_mask(path, pattern, image.shape[:2])
        if reason:
            return reason
        masks.append(mask)
    nucleus_mask, cell_mask = masks

    seeds = _seeds(image, nucleus_mask, field.centres, settings)
    numbered = cell_mask is not None and cell_mask.numbered
    outlines = None
    if seeds is None or (numbered and field.centres is None):
        labels = seeds = outlines = drop_small(cell_mask.labels, settings.min_area, numbered)
    else:
        if settings.crop == "masked" or field.checked:
            inside = (
                cell_mask.labels > 0 if cell_mask is not None else _cell_foreground(image, settings)
            )
            outlines = grow_cells(seeds, inside)
            outlines = np.where(np.isin(outlines, np.unique(outlines[inside])), outlines, 0)
        if settings.crop == "masked":
            labels = outlines
        else:  # centres are all that is needed, where they are given
            labels = None if nucleus_mask is None and field.centres is not None else seeds
    objects = _objects(labels, seeds, field.centres)
    if field.checked:
        objects = _checked(image, outlines, objects, cell_mask is None, settings)
    return Found(objects, labels)


def _checked(
    image: np.ndarray,
    outlines: np.ndarray,
    objects: pd.DataFrame,
    by_threshold: bool,
    settings: Settings,
) -> pd.DataFrame:
    """The objects with the columns of `outline_checks`."""
    side = settings.window_size if settings.crop == "window" else None
    objects = measure_neighbours(outlines, objects, side)
    if not by_threshold:
        return objects
    names = settings.cell_channels
    stains = measure_stain(
        image=image,
        labels=outlines,
        objects=objects,
        channels=[settings.channels.index(name) for name in names],
        diameter=settings.nucleus_diameter,
    )
    return objects.assign(**{PREFIX + n: s for n, s in zip(names, stains.T, strict=True)})


def _read_mask(path: Path | None, pattern: str, shape: tuple[int, int]) -> tuple[Mask | None, str]:
    """The mask of a field; None and why not."""
    if path is None:
        return None, f"no mask like {pattern}"
    try:
        mask = read_mask(path)
    except Exception as error:  # readers raise anything on a damaged file
        return None, f"mask {path.name} cannot be read ({first_line(error)})"
    if mask.labels.shape != shape:
        height, width = mask.labels.shape
        sizes = f"{height} x {width} and {shape[0]} x {shape[1]}"
        return None, f"mask {path.name} and field of unequal shape ({sizes})"
    return mask, ""


def _cell_foreground(image: np.ndarray, settings: Settings) -> np.ndarray:
    """Where the cells are: (H, W) bool. A nucleus is dark in many stains of the cell."""
    stain = image[..., [settings.channels.index(name) for name in settings.cell_channels]]
    inside = foreground(stain.mean(axis=-1, dtype=np.float32))
    return inside if settings.nucleus_channel is None else inside | _nuclei(image, settings)


def _nuclei(image: np.ndarray, settings: Settings) -> np.ndarray:
    return foreground(image[..., settings.channels.index(settings.nucleus_channel)])


def _seeds(
    image: np.ndarray,
    nucleus_mask: Mask | None,
    centres: pd.DataFrame | None,
    settings: Settings,
) -> np.ndarray | None:
    """Labels of the nuclei, numbered as CellProfiler's centres if given; None without a source."""
    if centres is not None:
        radius = SEED_RADIUS * settings.nucleus_diameter
        discs = seeds_at(centres["x"], centres["y"], image.shape[:2], radius)
        return (
            discs
            if settings.nucleus_channel is None
            else grow_cells(discs, _nuclei(image, settings))
        )
    if nucleus_mask is not None:
        return drop_small(nucleus_mask.labels, settings.min_area, nucleus_mask.numbered)
    if settings.nucleus_channel is None:
        return None
    return split_touching(_nuclei(image, settings), settings.nucleus_diameter, settings.min_area)


def _objects(
    labels: np.ndarray | None, seeds: np.ndarray, centres: pd.DataFrame | None
) -> pd.DataFrame:
    """A row per cell, with the centre of its nucleus: a window shows the nucleus in the middle."""
    if centres is not None:
        objects = pd.DataFrame(
            {
                "number": np.arange(1, len(centres) + 1),
                "x": centres["x"].to_numpy(),
                "y": centres["y"].to_numpy(),
                "CP_ImagerNumber": centres[cp.IMAGE].to_numpy(),
                "CP_ObjectNumber": centres[cp.OBJECT].to_numpy(),
            }
        )
    else:
        objects = object_table(seeds)[["number", "x", "y"]]
    if labels is None:
        return objects
    boxes = object_table(labels).drop(columns=["x", "y"])
    boxes["cut_off"] = boxes["number"].isin(cut_off(labels))
    return objects.merge(boxes, on="number", how="left")


@dataclass(frozen=True)
class Cutter:
    """Cuts the cells of a field; runs in a worker."""

    settings: Settings
    folders: dict[str, str]  # class -> its folder

    def __call__(self, field: Field) -> Iterator[Cut]:
        """Yield the cells of the field, and rows of the metadata that have none."""
        settings = self.settings
        name = group_name(field, settings)
        image, reason = read_channels_of(field, settings.channels)
        found = find_objects(image, field, settings) if image is not None else reason
        if isinstance(found, str) or found.objects.empty:
            reason = found if isinstance(found, str) else "no cell was found in this field"
            yield {**field.key, "folder": "", "reason": reason}, None
            return
        rows, lonely = self._with_metadata(field, found.objects)
        for row in rows.to_dict("records"):
            unique_id = f"{name}_{row['number']:04d}.tiff"
            cell = {"Unique_ID": unique_id, **field.key, **_described(row)}
            crop, reason = self._cut(image, found.labels, row)
            yield {**cell, "folder": self._folder(row), "reason": reason}, crop
        for row in lonely.to_dict("records"):
            yield {**field.key, **row, "folder": ""}, None

    def _cut(
        self, image: np.ndarray, labels: np.ndarray | None, row: dict
    ) -> tuple[np.ndarray | None, str]:
        """The crop of one object, None and why not."""
        if self.settings.crop == "window":
            crop = window(image, row["x"], row["y"], self.settings.window_size)
            return crop, "" if crop is not None else "its window reaches beyond the field"
        if np.isnan(row["area"]):
            return None, "nothing of a cell at its nucleus"
        if row["cut_off"] and not self.settings.edge_cells:
            return None, "cut off by the edge of the field"
        return masked_crop(image, labels, row), ""

    def _with_metadata(
        self, field: Field, objects: pd.DataFrame
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The objects with their rows of the metadata, and the rows without an object."""
        rows = field.metadata
        if rows is None:
            return objects, pd.DataFrame()
        new = rows.drop(columns=[c for c in rows if c in objects or c in field.key])
        if self.settings.metadata_x is None:  # one row for the whole field
            return objects.assign(**new.iloc[0].to_dict()), pd.DataFrame()
        match = match_centroids(
            _positions(rows, self.settings),
            objects.assign(field=0),
            ["field"],
            self.settings.max_distance,
        )
        found = match.object >= 0
        matched = new[found].set_axis(match.object[found], axis=0).astype(object)
        return objects.join(matched), new[~found].assign(reason=match.reason[~found])

    def _folder(self, row: dict) -> str:
        column = self.settings.class_column
        if column is None:
            return ""
        value = row.get(column)
        return UNLISTED if value is None or value != value else self.folders[as_name(value)]


def _described(row: dict) -> dict:
    """What of an object goes into the metadata."""
    left_out = ("top", "left", "bottom", "right", "cut_off")
    return {key: value for key, value in row.items() if key not in left_out}


if __name__ == "__main__":
    run_script(lambda: convert_from_command_line(main, SETTINGS))
