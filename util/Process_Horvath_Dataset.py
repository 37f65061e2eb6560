"""Horvath's synthetic plates: from the raw plates and CellProfiler's crops to single cells.

Edit SETTINGS below, or give them on the command line, and run

    python util/Process_Horvath_Dataset.py --raw DataSets/raw/Horvath

The raw folder holds synthPlate001, synthPlate002, ... (Piccinini et al. 2017, Cell Systems 4:651)
and CellProfiler_Outputs; it is only read. The script writes DataSets/Peter_Horvath_Data, a less
imbalanced subsample in Peter_Horvath_Subsample, and their metadata. The same command continues a
conversion that was stopped. Cells of the ground truth that have no image are listed with the reason
in MetaData2_PeterHorvath_GT_link_CP_unmatched.csv.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from util.errors import UserError
from util.metadata import count_and_name
from util.raw import cellprofiler as cp
from util.raw.centroid_matching import link_objects, match_centroids, refuse_nonsense
from util.raw.data_set_writer import (
    Cut,
    Outcome,
    Target,
    convert_from_command_line,
    file_stamp,
    refuse_finished,
    write_data_set,
)
from util.raw.raw_data import find_in, merge_crops
from util.settings import run_script


@dataclass(frozen=True)
class Settings:
    """Every choice of the conversion. The defaults are those of the thesis."""

    raw: Path = Path("DataSets/raw/Horvath")
    """Folder of the plates."""
    out: Path = Path("DataSets")
    """Folder of data sets; it must not hold Peter_Horvath_Data and its tables yet."""
    cellprofiler: Path | None = None
    """CellProfiler's outputs; None for CellProfiler_Outputs in the raw folder."""
    classes: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    """Classes to keep; 7 and 8 are rare, and their segmentation fails."""
    subsample: int = 2500
    """Largest number of cells of a class in the subsample."""
    seed: int = 0
    """Seed of the subsample."""
    max_distance: float = 35.0
    """Largest distance in px between a cell of the ground truth and its object."""
    workers: int | None = None
    """Processes that cut cells; None for one per CPU."""
    progress: bool = True
    """Show a progress bar."""


SETTINGS = Settings()

NAME, SUBSAMPLE = "Peter_Horvath_Data", "Peter_Horvath_Subsample"
METADATA = "MetaData2_PeterHorvath_GT_link_CP"
OBJECT = "SplitCellBodies"
SPREADSHEET = f"Quantitative_Outputs/200602_Horvath_Complex_Analysis{OBJECT}.csv"
CROPS = "SingleWholeCellCroppedImages"
CHANNELS = ("Red", "Green", "Blue")
KEYS = ["Plate", "Well"]
ALL_CLASSES = range(1, 9)
COLUMNS = (
    "Plate Well GT_label Unique_ID GT_x GT_y CP_ImagerNumber CP_ObjectNumber CP_x CP_y".split()
)


def main(settings: Settings = SETTINGS) -> Outcome:
    """Convert the set.

    Raises:
        UserError: one line that names what is wrong with the raw data or the output folder.
    """
    if settings.subsample < 1 or not set(settings.classes) <= set(ALL_CLASSES):
        raise UserError("--subsample must be 1 or more, and --classes numbers of 1 to 8")
    target = Target(
        settings.out,
        NAME,
        (
            f"{METADATA}_unmatched.csv",
            f"{NAME}_features.csv",
            f"{METADATA}_SUBSAMPLE.csv",
            f"{METADATA}.csv",
        ),
        subsets=(SUBSAMPLE,),
    )
    refuse_finished(target)
    folder = settings.cellprofiler or find_in(settings.raw, "CellProfiler_Outputs")
    spreadsheet = find_in(folder, SPREADSHEET)
    crops = folder / CROPS
    cp.require_folders(crops / f"CroppedImages_{name}" for name in CHANNELS)
    truth, files = read_truth(settings.raw)
    linked = match_cells(truth, read_objects(spreadsheet), settings.max_distance)

    kept = linked[linked["GT_label"].isin(settings.classes)]
    dropped = linked["GT_label"][~linked["GT_label"].isin(settings.classes)].value_counts()
    for label, n in dropped.sort_index().items():
        print(f"class {label} is left out: {n} cells")

    def finish(outcome: Outcome) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]:
        cells = outcome.cells.sort_values("GT_label", kind="stable")
        some = draw_subsample(cells, settings.subsample, settings.seed)
        features = cp.feature_table(spreadsheet, OBJECT, cells, "Cells")
        tables = (outcome.unmatched, features, some[COLUMNS], cells[COLUMNS])
        return dict(zip(target.tables, tables, strict=True)), {SUBSAMPLE: some}

    groups = [
        (f"{plate:03d}_{well}", rows) for (plate, well), rows in kept.groupby(KEYS, sort=True)
    ]
    inputs = [
        file_stamp(spreadsheet),
        [len(files), sum(file.stat().st_size for file in files)],
    ]
    cut = partial(cut_crops, crops)
    return write_data_set(target, settings, inputs=inputs, groups=groups, cut=cut, finish=finish)


def read_truth(raw: Path) -> tuple[pd.DataFrame, list[Path]]:
    """All cells of all plates.

    Wells without cells, or without a `.class` file, are skipped.

    Returns:
        a row per cell: Plate (number), Well, GT_label, Unique_ID, GT_x, GT_y in px, `x` and `y`
        (the same) and `folder`; and the `.class` files.

    Raises:
        UserError: there are no such files, or one is damaged.
    """
    if not raw.is_dir():
        raise UserError(f"--raw {raw}: there is no such folder")
    files = sorted(raw.glob("synthPlate*/anal2/*.class"))
    if not files:
        raise UserError(f"--raw {raw}: there are no synthPlate001/anal2/*.class files in it")
    tables, empty = [], []
    for file in files:
        table = _read_class_file(file)
        (tables if len(table) else empty).append(table if len(table) else file.stem)
    if empty:
        print(count_and_name("wells have no cells", empty))
    if not tables:
        raise UserError(f"--raw {raw}: no .class file holds a cell")
    truth = pd.concat(tables, ignore_index=True)
    truth["Unique_ID"] = [
        f"CellClass_{label}_{plate}_{well}_id{row}.tiff"
        for label, plate, well, row in truth[["GT_label", *KEYS, "row"]].itertuples(index=False)
    ]
    truth["folder"] = "Class_" + truth["GT_label"].astype(str)
    return truth.assign(x=truth["GT_x"], y=truth["GT_y"]).drop(columns="row"), files


def _read_class_file(file: Path) -> pd.DataFrame:
    """One well: y, x and class of each cell, without a header; empty where it has none."""
    name = re.fullmatch(r"synthPlate(\d+)_w([A-Z]\d\d)", file.stem)
    if not name:
        raise UserError(f"{file}: its name is not like synthPlate001_wA02.class")
    text = file.read_text(encoding="utf-8-sig", errors="replace").strip()
    if not text:
        return pd.DataFrame()
    try:
        values = np.array([line.split(",") for line in text.splitlines()], dtype=float)
        if values.shape[1] != 3 or not np.isfinite(values).all():
            raise ValueError
    except ValueError:
        first = text.splitlines()[0][:40]
        raise UserError(
            f"{file} is not a table of y,x,class with commas between; it begins {first!r}"
        ) from None
    if not np.isin(values[:, 2], ALL_CLASSES).all():
        wrong = values[~np.isin(values[:, 2], ALL_CLASSES), 2][0]
        raise UserError(f"{file}: class {wrong:g} in the third column; the classes are 1 to 8")
    return pd.DataFrame(
        {
            "Plate": int(name[1]),
            "Well": name[2],
            "GT_label": values[:, 2].astype(int),
            "GT_x": values[:, 1],
            "GT_y": values[:, 0],
            "row": np.arange(len(values)),
        }
    )


def read_objects(spreadsheet: Path) -> pd.DataFrame:
    """Centres of CellProfiler's objects, with Plate (number) and Well."""
    keys = ["Metadata_Plate", "Metadata_Well"]
    objects = cp.read_objects(spreadsheet, OBJECT, columns=(), keys=keys)
    plate = objects["Metadata_Plate"].str.extract(r"(\d+)(?:\.0)?$")[0]  # 1, 001, synthPlate001
    return objects.rename(
        columns={cp.CENTRE_X: "x", cp.CENTRE_Y: "y", "Metadata_Well": "Well"}
    ).assign(Plate=cp.numbers(plate, spreadsheet).astype(int))


def match_cells(truth: pd.DataFrame, objects: pd.DataFrame, max_distance: float) -> pd.DataFrame:
    """Link each cell to its object.

    Cells of excluded classes take part, so that no other cell gets their objects.
    """
    match = match_centroids(truth, objects, KEYS, max_distance)
    source = "the .class files (y first, then x)"
    refuse_nonsense(match, truth, objects, keys=KEYS, max_distance=max_distance, source=source)
    return link_objects(truth, objects, match)


def draw_subsample(cells: pd.DataFrame, at_most: int, seed: int) -> pd.DataFrame:
    """At most `at_most` cells of each class, drawn at random; the order stays."""
    rng = np.random.default_rng(seed)
    order = pd.Series(rng.permutation(len(cells)), cells["Unique_ID"].sort_values())
    rank = cells["Unique_ID"].map(order).groupby(cells["GT_label"]).rank()
    return cells[rank <= at_most]


def cut_crops(crops: Path, rows: pd.DataFrame) -> Iterator[Cut]:
    """Merge the channels of CellProfiler's crops of one well."""
    plate, well = rows[KEYS].iloc[0]
    folders = [crops / f"CroppedImages_{name}" / f"{plate:03d}_{well}" for name in CHANNELS]
    yield from merge_crops(rows, folders, OBJECT)


if __name__ == "__main__":
    run_script(lambda: convert_from_command_line(main, SETTINGS))
