"""BBBC031: from the raw download to single cells, DataSets/Synthetic_Data_1 and its metadata.

Edit SETTINGS below, or give them on the command line, and run

    python util/Process_DataSet_1.py --raw DataSets/raw/BBBC031
    python util/Process_DataSet_1.py --raw DataSets/raw/BBBC031 --cells-from masks

The raw folder is the download (BBBC031_v1_dataset and BBBC031_v1_DatasetGroundTruth.csv) and, to
take the cells from CellProfiler, its CellProfiler_Outputs. It is only read. The same command
continues a conversion that was stopped. Cells of the ground truth that have no image are listed
with the reason in MetaData1_GT_link_CP_unmatched.csv.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

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
from util.raw.masks import mask_of
from util.raw.raw_data import find_in, merge_crops, read_channels, read_ground_truth
from util.raw.segmentation import (
    foreground,
    grow_cells,
    masked_crop,
    object_table,
    split_touching,
)
from util.settings import run_script
from util.simulate_cells import distance_to_initial_state


@dataclass(frozen=True)
class Settings:
    """Every choice of the conversion. The defaults are those of the thesis."""

    raw: Path = Path("DataSets/raw/BBBC031")
    """Folder of the raw download."""
    out: Path = Path("DataSets")
    """Folder of data sets; it must not hold Synthetic_Data_1 and its tables yet."""
    cells_from: Literal["cellprofiler", "masks", "fields"] = "cellprofiler"
    """Source of the cells: crops of a CellProfiler run, the published masks, or the fields alone,
    by threshold and watershed."""
    cellprofiler: Path | None = None
    """CellProfiler's outputs; None for CellProfiler_Outputs in the raw folder."""
    images: Path | None = None
    """Folder of the fields; None for BBBC031_v1_dataset/Images in the raw folder."""
    ground_truth: Path | None = None
    """The CSV; None for BBBC031_v1_DatasetGroundTruth.csv in the raw folder."""
    max_distance: float = 35.0
    """Largest distance in px between a cell of the ground truth and its object; the radius of a
    cell is about 30."""
    workers: int | None = None
    """Processes that cut cells; None for one per CPU."""
    progress: bool = True
    """Show a progress bar."""


SETTINGS = Settings()

NAME = "Synthetic_Data_1"
METADATA = "MetaData1_GT_link_CP.csv"
OBJECT = "SplitCellBodies"
SPREADSHEET = f"Quantitative_Outputs/200515_Horvath_Simple_Analysis{OBJECT}.csv"
CROPS = "SingleWholeCellCroppedImages"
MASKS = ("CELLMASK", "NUCLMASK")
CHANNELS = ("Red", "Green", "Blue")
IMAGE_NAME = r"ProcessPlateSparse_w(?P<Well>[A-Z]\d\d)_s(?P<Site>\d+)_z1_t1"
TEXT, NUMERIC = (
    ("ImageName",),
    tuple(
        "CellIdx LocationX LocationY ColorParamsR ColorParamsG ColorParamsB ShapeParams ProcessID "
        "PositionOnRegressionPlaneX PositionOnRegressionPlaneY".split()
    ),
)
RENAMED = {
    "ProcessID": "GT_label",
    "CellIdx": "GT_Cell_id",
    "LocationX": "GT_x",
    "LocationY": "GT_y",
    "ColorParamsR": "GT_colorR",
    "ColorParamsG": "GT_colorG",
    "ColorParamsB": "GT_colorB",
    "ShapeParams": "GT_Shape",
}
COLUMNS = (
    "Well Site GT_label GT_Cell_id Unique_ID GT_x GT_y GT_colorR GT_colorG GT_colorB GT_Shape "
    "GT_dist_toInit_state GT_initial_state PositionOnRegressionPlaneX PositionOnRegressionPlaneY "
    "CP_ImagerNumber CP_ObjectNumber CP_x CP_y"
).split()
CELL_DIAMETER = 60  # px
MIN_AREA = 500  # px; the smallest of the real cells has 1,876, a tip that lies apart some tens
KEYS = ["Well", "Site"]


def main(settings: Settings = SETTINGS) -> Outcome:
    """Convert the set.

    Raises:
        UserError: one line that names what is wrong with the raw data or the output folder.
    """
    stem = Path(METADATA).stem
    from_crops = settings.cells_from == "cellprofiler"
    features = (f"{NAME}_features.csv",) if from_crops else ()
    target = Target(settings.out, NAME, (f"{stem}_unmatched.csv", *features, METADATA))
    refuse_finished(target)
    path = settings.ground_truth or find_in(
        settings.raw,
        "BBBC031_v1_DatasetGroundTruth.csv",
        "BBBC031_v1_dataset/BBBC031_v1_DatasetGroundTruth.csv",
    )
    truth = read_truth(path)
    if from_crops:
        groups, cut, tables = _from_crops(settings, truth, path)
    else:
        groups, cut, tables = _from_fields(settings, truth, path)

    def finish(outcome: Outcome) -> tuple[dict[str, pd.DataFrame], dict]:
        cells = outcome.cells.sort_values("GT_label", kind="stable")
        made = {METADATA: cells[COLUMNS], target.tables[0]: outcome.unmatched}
        if from_crops:
            made[features[0]] = cp.feature_table(tables[0], OBJECT, cells, "Cells")
        return made, {}

    inputs = [file_stamp(path, *tables)]
    return write_data_set(target, settings, inputs=inputs, groups=groups, cut=cut, finish=finish)


def read_truth(path: Path) -> pd.DataFrame:
    """The ground truth with the columns of the metadata that follow from it.

    Returns:
        a row per cell in the order of the file; besides the columns of the metadata `folder` and
        `x`, `y`, the centre of the nucleus in zero-based px.

    Raises:
        UserError: the table is damaged, or a cell stands in two rows.
    """
    table = read_ground_truth(path, NUMERIC, TEXT)
    image = table["ImageName"].astype(str).str.extract(f"^{IMAGE_NAME}")
    if image["Well"].isna().any():
        odd = table["ImageName"][image["Well"].isna()].iloc[0]
        raise UserError(f"{path}: ImageName {odd!r} is not like ProcessPlateSparse_wA01_s01_z1_t1")
    twice = table[table.duplicated(["ImageName", "CellIdx"], keep=False)]
    if len(twice):
        names = list(twice["ImageName"] + " cell " + twice["CellIdx"].astype(str))
        raise UserError(
            f"{path}: {count_and_name('rows share their image and CellIdx', names)}; "
            "keep one row per cell"
        )
    truth = table.rename(columns=RENAMED)
    truth.insert(0, "Well", image["Well"])
    truth.insert(1, "Site", image["Site"].astype(int))
    # Over all cells, before any is lost: the distance must not depend on the segmentation.
    truth["GT_dist_toInit_state"], truth["GT_initial_state"] = distance_to_initial_state(
        truth["PositionOnRegressionPlaneX"].to_numpy(float),
        truth["PositionOnRegressionPlaneY"].to_numpy(float),
        truth["GT_label"].to_numpy(),
    )
    truth["Unique_ID"] = [
        f"CellProcess_{p}_{well}_{site:02d}_id{n}.tiff"
        for p, well, site, n in truth[["GT_label", *KEYS, "GT_Cell_id"]].itertuples(index=False)
    ]
    truth["folder"] = "Process_" + truth["GT_label"].astype(str)
    truth["x"], truth["y"] = truth["GT_x"] - 1.0, truth["GT_y"] - 1.0  # one-based in the file
    return truth.drop(columns="ImageName")


Plan = tuple[list[tuple[str, Any]], Any, list[Path]]  # groups, cut, tables it depends on


def _from_crops(settings: Settings, truth: pd.DataFrame, path: Path) -> Plan:
    """Match all cells with CellProfiler's objects; a group is the cells of a field."""
    folder = settings.cellprofiler or find_in(settings.raw, "CellProfiler_Outputs")
    spreadsheet = find_in(folder, SPREADSHEET)
    crops = folder / CROPS
    cp.require_folders(crops / f"CroppedImages_{name}" for name in CHANNELS)
    keys = ["Metadata_Well", "Metadata_Site"]
    objects = cp.read_objects(spreadsheet, OBJECT, columns=(), keys=keys)
    objects = objects.rename(columns={cp.CENTRE_X: "x", cp.CENTRE_Y: "y", "Metadata_Well": "Well"})
    objects["Site"] = cp.numbers(objects["Metadata_Site"], spreadsheet).astype(int)

    match = match_centroids(truth, objects, KEYS, settings.max_distance)
    source = f"{path.name} (LocationX, LocationY)"
    refuse_nonsense(
        match, truth, objects, keys=KEYS, max_distance=settings.max_distance, source=source
    )
    linked = link_objects(truth, objects, match)
    groups = [
        (f"{well}_{site:02d}", rows) for (well, site), rows in linked.groupby(KEYS, sort=True)
    ]
    return groups, partial(cut_crops, crops), [spreadsheet]


def cut_crops(crops: Path, rows: pd.DataFrame) -> Iterator[Cut]:
    """Merge the channels of CellProfiler's crops of one field."""
    well, site = rows[KEYS].iloc[0]
    folders = [crops / f"CroppedImages_{name}" / f"{well}_{site:02d}" for name in CHANNELS]
    yield from merge_crops(rows, folders, OBJECT)


def _from_fields(settings: Settings, truth: pd.DataFrame, path: Path) -> Plan:
    """Segment here; a group is a field. The first one is tried before anything is written."""
    images = settings.images or find_in(settings.raw, "BBBC031_v1_dataset/Images", "Images")
    masks = images.parent / "Masks" if settings.cells_from == "masks" else None
    if masks and not masks.is_dir():
        raise UserError(f"{masks}: there is no such folder; or run with --cells-from fields")
    fields = [
        (f"{well}_{site:02d}", (number, rows))
        for number, ((well, site), rows) in enumerate(truth.groupby(KEYS, sort=True), start=1)
    ]
    for _, (number, rows) in fields:
        found = segment_field(images, masks, rows, number)
        if not isinstance(found, str):  # the first field that can be read
            match = match_centroids(rows, found.objects, KEYS, settings.max_distance)
            source = f"{path.name} (LocationX, LocationY), field {rows['Well'].iloc[0]}"
            refuse_nonsense(
                match,
                rows,
                found.objects,
                keys=KEYS,
                max_distance=settings.max_distance,
                source=source,
            )
            break
    return fields, partial(cut_field, images, masks, settings.max_distance), []


class Segmented(NamedTuple):
    """A field and what was found in it."""

    objects: pd.DataFrame  # of `object_table`, with Well, Site, ImageNumber, ObjectNumber
    labels: np.ndarray  # (H, W)
    field: np.ndarray  # (H, W, 3)


def cut_field(
    images: Path, masks: Path | None, max_distance: float, content: tuple[int, pd.DataFrame]
) -> Iterator[Cut]:
    """Segment a field, match its cells and cut them out, 0 outside of each."""
    number, rows = content
    found = segment_field(images, masks, rows, number)
    if isinstance(found, str):  # why not
        empty = dict.fromkeys(("CP_ObjectNumber", "CP_x", "CP_y"))
        for row in rows.drop(columns=["x", "y"]).to_dict("records"):
            yield row | {"CP_ImagerNumber": number} | empty | {"reason": found}, None
        return
    match = match_centroids(rows, found.objects, KEYS, max_distance)
    linked = link_objects(rows, found.objects, match)
    for row, place in zip(linked.to_dict("records"), match.object, strict=True):
        object_ = found.objects.iloc[place]
        yield row, masked_crop(found.field, found.labels, object_) if place >= 0 else None


def segment_field(
    images: Path, masks: Path | None, rows: pd.DataFrame, number: int
) -> Segmented | str:
    """Find the cells of a field by the published masks, or by threshold; or say why not.

    Args:
        images: folder of the fields.
        masks: folder of the masks; None to do without.
        rows: the ground truth of this field.
        number: of the field, from 1.
    """
    well, site = rows[KEYS].iloc[0]
    stem = f"ProcessPlateSparse_w{well}_s{site:02d}_z1_t1"
    field, reason = read_channels([images / f"{stem}_CELLMASK.png"])
    if field is None:
        return reason
    if masks:  # of the cytoplasm and of the nucleus
        parts, reason = read_channels([masks / f"{stem}_{kind}.tiff" for kind in MASKS])
        if parts is None:
            return reason
        if parts.shape[:2] != field.shape[:2]:
            sizes = [f"{height} x {width}" for height, width, _ in (parts.shape, field.shape)]
            return f"mask and field of unequal shape ({', '.join(sizes)})"
        labels = grow_cells(mask_of(parts[..., 1]).labels, (parts > 0).any(axis=-1))
    else:  # the background is exactly 0
        labels = split_touching(foreground(field.max(axis=-1), 0, 0), CELL_DIAMETER, MIN_AREA)
    objects = object_table(labels)
    identity = {"Well": well, "Site": site, cp.IMAGE: number, cp.OBJECT: objects["number"]}
    return Segmented(objects.assign(**identity), labels, field)


if __name__ == "__main__":
    run_script(lambda: convert_from_command_line(main, SETTINGS))
