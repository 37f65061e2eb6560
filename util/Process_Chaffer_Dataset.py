"""Chaffer and Lock's breast cancer cells: merges the four channel images of each cell into one.

Edit SETTINGS below, or give them on the command line, and run

    python util/Process_Chaffer_Dataset.py --raw DataSets/raw/Chaffer

The raw folder holds a folder of single-cell images per channel and the ground-truth CSV; it is only
read. The script writes DataSets/Chaffer_Data/Class_{1..12} and its metadata. The same command
continues a conversion that was stopped. Cells that could not be merged are listed with the reason
in MetaData3_Chaffer_GT_link_CP_unmatched.csv.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from util.errors import UserError
from util.files import refuse_path
from util.image_folders import IMAGE_SUFFIXES
from util.metadata import count_and_name
from util.raw.data_set_writer import (
    Cut,
    Outcome,
    Target,
    convert_from_command_line,
    file_stamp,
    refuse_finished,
    write_data_set,
)
from util.raw.raw_data import read_channels, read_ground_truth
from util.settings import run_script


@dataclass(frozen=True)
class Settings:
    """Every choice of the conversion."""

    raw: Path = Path("DataSets/raw/Chaffer")
    """Folder of the raw data."""
    out: Path = Path("DataSets")
    """Folder of data sets; it must not hold Chaffer_Data and its tables yet."""
    ground_truth: Path | None = None
    """The CSV with Unique_Cell_ID; None for the only CSV in the raw folder that has it."""
    workers: int | None = None
    """Processes that merge cells; None for one per CPU."""
    progress: bool = True
    """Show a progress bar."""


SETTINGS = Settings()

NAME = "Chaffer_Data"
METADATA = "MetaData3_Chaffer_GT_link_CP.csv"
CHANNELS = ("Phalloidin", "DAPI", "AR", "Zeb1")  # the beginnings of the folders' names
CELL_ID, CONDITION = "Unique_Cell_ID", "Cell_Condition_status"
CELLS_PER_GROUP = 200
# {cell type}_{CD44}_{CD104}_{treatment}_{clone}; NS is short for what the real table may spell
# out. GT_label counts from 1.
NOT_SPECIFIED = ("Not Specified", "NS")
CONDITIONS = (
    "HCC38HI_NS_NS_DHT_NS HCC38LO_NS_NS_DMSO_NS HMLER_Primed_NS_DMSO_C2 "
    "HMLER_HIGH_Positive_DMSO_E3 HCC38LO_NS_NS_DHT_NS HMLER_Primed_NS_DHT_C2 "
    "HMLER_HIGH_Positive_DHT_E3 HCC38HI_NS_NS_DMSO_NS HMLER_Primed_NS_DMSO_C4 "
    "HMLER_HIGH_Positive_DMSO_F11 HMLER_Primed_NS_DHT_C4 HMLER_HIGH_Positive_DHT_F11"
).split()


def main(settings: Settings = SETTINGS) -> Outcome:
    """Convert the set.

    Raises:
        UserError: one line that names what is wrong with the raw data or the output folder.
    """
    target = Target(settings.out, NAME, (f"{Path(METADATA).stem}_unmatched.csv", METADATA))
    refuse_finished(target)
    folders = find_channels(settings.raw)
    path = settings.ground_truth or find_ground_truth(settings.raw)
    truth = read_truth(path)

    def finish(outcome: Outcome) -> tuple[dict[str, pd.DataFrame], dict]:
        cells = outcome.cells.sort_values("GT_label", kind="stable").drop(columns="folder")
        return {METADATA: cells, target.tables[0]: outcome.unmatched}, {}

    groups = [
        (f"{start:06d}", truth.iloc[start : start + CELLS_PER_GROUP])
        for start in range(0, len(truth), CELLS_PER_GROUP)
    ]
    inputs = [file_stamp(path)]
    cut = partial(merge_channels, folders)
    return write_data_set(target, settings, inputs=inputs, groups=groups, cut=cut, finish=finish)


def find_channels(raw: Path) -> list[Path]:
    """The folder of each channel, by the beginning of its name.

    Raises:
        UserError: one is missing, or two begin alike.
    """
    if not raw.is_dir():
        raise UserError(f"--raw {raw}: there is no such folder")
    folders = []
    for name in CHANNELS:
        found = sorted(path for path in raw.glob(f"{name}_*") if path.is_dir())
        if len(found) != 1:
            what = f"{len(found)} folders" if found else "no folder"
            raise UserError(f"--raw {raw}: {what} called {name}_...; one per channel is needed")
        folders += found
    return folders


def find_ground_truth(raw: Path) -> Path:
    """The only CSV in the raw folder whose header names Unique_Cell_ID."""
    found = [
        path
        for path in sorted(raw.glob("*.csv"))
        if CELL_ID in path.open(encoding="utf-8-sig", errors="replace").readline()
    ]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UserError(
            f"--raw {raw}: one CSV with a column {CELL_ID} is needed, there is {names}; "
            "name it with --ground-truth"
        )
    return found[0]


def read_truth(path: Path) -> pd.DataFrame:
    """The ground truth with Unique_ID, GT_label and the sub-population of each cell.

    Raises:
        UserError: the table is damaged, an id stands in two rows or is a path, or a condition is
            unknown.
    """
    table = read_ground_truth(path, text=(CELL_ID, CONDITION))
    ids = table[CELL_ID].astype(str).map(_without_suffix)
    twice = ids[ids.duplicated()].unique()
    if len(twice):
        raise UserError(
            f"{path}: {count_and_name('ids stand in more than one row', list(twice))}; "
            "keep one row per cell"
        )
    for cell in ids:
        refuse_path(f"{cell}.tiff", f"{path}: {CELL_ID}")
    labels = {condition: label for label, condition in enumerate(CONDITIONS, start=1)}
    conditions = table[CONDITION].str.replace(*NOT_SPECIFIED, case=False, regex=False)
    unknown = sorted(set(conditions) - set(labels))
    if unknown:
        raise UserError(
            f"{path}: {CONDITION} {unknown[0]!r} is none of the 12 known, e.g. {CONDITIONS[2]!r}"
        )
    label = conditions.map(labels)
    first = {
        "Unique_ID": ids + ".tiff",
        "GT_label": label,
        "Sub_population": conditions.map(sub_population),
    }
    rest = table.drop(columns=[name for name in (*first, "folder", "reason") if name in table])
    return pd.concat([pd.DataFrame(first), rest], axis=1).assign(
        folder="Class_" + label.astype(str)
    )


def sub_population(condition: str) -> str:
    """The condition without its clone, e.g. `HMLER-DHT-CD44_HIGH-CD104_Positive`: 8 values."""
    cell_type, cd44, cd104, treatment, _ = condition.split("_")
    return f"{cell_type}-{treatment}-CD44_{cd44}-CD104_{cd104}"


def merge_channels(folders: list[Path], rows: pd.DataFrame) -> Iterator[Cut]:
    """The four images of each cell as one."""
    for row in rows.to_dict("records"):
        files = [_image_of(folder, row["Unique_ID"].removesuffix(".tiff")) for folder in folders]
        image, row["reason"] = read_channels(files)
        yield row, image


def _image_of(folder: Path, cell: str) -> Path:
    """The cell's file, whatever its ending; one that is not there is called .png."""
    files = (folder / f"{cell}{suffix}" for suffix in IMAGE_SUFFIXES)
    return next((file for file in files if file.is_file()), folder / f"{cell}.png")


def _without_suffix(name: str) -> str:
    path = Path(name)
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES else name


if __name__ == "__main__":
    run_script(lambda: convert_from_command_line(main, SETTINGS))
