"""What the simulators share: class sizes, fields, a stand-in for CellProfiler, safe writing.

`compose_field` scatters cells over a field so that none touches another or the border.
`CellProfilerOutputs` writes what CellProfiler would have made of such fields (Stirling et al. 2021,
BMC Bioinformatics 22:433): cropped objects and the spreadsheet of their features.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage
from skimage import measure

from util.errors import UserError, explain_os_error
from util.files import TemporaryFolder
from util.simulators.rendering import CellTiles, bounding_boxes, in_one_piece

OBJECT = "SplitCellBodies"
MISSED = 0.03  # share of cells that CellProfiler does not find, unless asked for
CHANNELS = ("Red", "Green", "Blue")
PLACING_TRIES = 1000  # random places looked at for a cell; a field is filled by about an eighth

# scikit-image's measurements under CellProfiler's names; all in px
SHAPE_FEATURES = {
    "area": "Area",
    "area_bbox": "BoundingBoxArea",
    "bbox-0": "BoundingBoxMinimum_Y",
    "bbox-1": "BoundingBoxMinimum_X",
    "bbox-2": "BoundingBoxMaximum_Y",
    "bbox-3": "BoundingBoxMaximum_X",
    "centroid-0": "Center_Y",
    "centroid-1": "Center_X",
    "eccentricity": "Eccentricity",
    "equivalent_diameter_area": "EquivalentDiameter",
    "euler_number": "EulerNumber",
    "extent": "Extent",
    "axis_major_length": "MajorAxisLength",
    "axis_minor_length": "MinorAxisLength",
    "orientation": "Orientation",
    "perimeter": "Perimeter",
    "solidity": "Solidity",
    **{f"moments_hu-{i}": f"HuMoment_{i}" for i in range(7)},
}
INTENSITY_FEATURES = {
    "intensity_max": "MaxIntensity",
    "intensity_mean": "MeanIntensity",
    "intensity_min": "MinIntensity",
    "intensity_std": "StdIntensity",
}


def share_out(n_cells: int, weights: Mapping[int, float]) -> dict[int, int]:
    """Split cells in proportion to weights, by largest remainder.

    A class that would get none takes one cell from the largest, as long as there are cells for
    all of them.

    Args:
        n_cells: 1 or more.
        weights: class -> positive weight.

    Returns:
        class -> number of cells, which add up to `n_cells`.

    Raises:
        UserError: `n_cells` is out of range.

    Examples:
        >>> share_out(10, {1: 60, 2: 39, 3: 1})
        {1: 5, 2: 4, 3: 1}
    """
    if not is_integer(n_cells) or n_cells < 1:
        raise UserError(f"n_cells = {n_cells!r}: an integer of 1 or more is needed")
    weight = np.array(list(weights.values()))
    quotas = n_cells * weight / weight.sum()
    sizes = np.floor(quotas).astype(int)
    most_short = np.argsort(sizes - quotas, kind="stable")[: n_cells - sizes.sum()]
    sizes[most_short] += 1
    if n_cells >= len(sizes):
        empty = sizes == 0
        sizes[np.argmax(sizes)] -= empty.sum()
        sizes[empty] = 1
    return dict(zip(weights, sizes.tolist(), strict=True))


def is_integer(value: object) -> bool:
    """Whether it is an integer, but not a truth value."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_seed(seed: int) -> None:
    """Raise a UserError unless the seed is an integer of 0 or more."""
    if not is_integer(seed) or seed < 0:
        raise UserError(f"seed = {seed!r}: an integer of 0 or more is needed")


def check_share(name: str, share: float) -> None:
    """Raise a UserError unless the share is a number of 0 to 1."""
    if not 0 <= share <= 1:
        raise UserError(f"{name} = {share!r}: a share of 0 to 1 is needed")


class Field(NamedTuple):
    """A field of cells that neither touch each other nor the border."""

    image: np.ndarray  # uint8 (S, S, 3), 0 outside the cells
    labels: np.ndarray  # int32 (S, S), 0 outside, cell i of the tiles is i + 1
    nuclei: np.ndarray  # bool (S, S)
    centres: np.ndarray  # int (N, 2) row and column of the middle of each tile: the nucleus


def compose_field(tiles: CellTiles, side: int, rng: np.random.Generator) -> Field:
    """Put the cells at random free places of a field, one after the other.

    Args:
        tiles: the cells; only the part connected to the nucleus is used.
        side: of the field, px.
        rng: source of the places.

    Raises:
        UserError: a cell finds no room.
    """
    tiles = in_one_piece(tiles)
    image = np.zeros((side, side, tiles.image.shape[-1]), tiles.image.dtype)
    labels, nuclei = np.zeros((side, side), np.int32), np.zeros((side, side), bool)
    centres = np.empty((len(tiles.cell), 2), int)
    for i, (top, left, bottom, right) in enumerate(bounding_boxes(tiles.cell)):
        box = np.s_[i, top:bottom, left:right]
        cell = tiles.cell[box]
        row, column = _find_room(labels, cell, rng)
        window = np.s_[row : row + bottom - top, column : column + right - left]
        labels[window][cell] = i + 1
        image[window][cell] = tiles.image[box][cell]
        nuclei[window] |= tiles.nucleus[box]
        centres[i] = row - top, column - left
    return Field(image, labels, nuclei, centres + tiles.cell.shape[1] // 2)


def blank_field(side: int) -> Field:
    """A field without cells."""
    image = np.zeros((side, side, len(CHANNELS)), np.uint8)
    nothing = np.zeros((side, side), np.int32)
    return Field(image, nothing, nothing > 0, np.empty((0, 2), int))


def _find_room(labels: np.ndarray, cell: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    """First row and column of a box for the cell, at least one pixel away from all others."""
    with_rim = ndimage.binary_dilation(np.pad(cell, 1), np.ones((3, 3)))  # (h + 2, w + 2)
    height, width = with_rim.shape
    if min(len(labels) - height, len(labels) - width) >= 0:
        for _ in range(PLACING_TRIES):
            row = int(rng.integers(len(labels) - height + 1))
            column = int(rng.integers(len(labels) - width + 1))
            if not (labels[row : row + height, column : column + width] > 0)[with_rim].any():
                return row + 1, column + 1
    raise UserError(
        f"a field of {len(labels)} x {len(labels)} px has no room for so many cells: take fewer"
    )


class CellProfilerOutputs:
    """The folder of a CellProfiler run: a spreadsheet, and crops with a folder per channel.

    Objects are numbered by their first pixel in reading order, as CellProfiler does, so that their
    numbers differ from those of the ground truth. Fields are added one by one and not kept in
    memory.

    Args:
        folder: to write into.
        spreadsheet: name of the CSV.
    """

    def __init__(self, folder: Path, spreadsheet: str):
        self.crops = folder / "SingleWholeCellCroppedImages"
        self.spreadsheet = folder / "Quantitative_Outputs" / spreadsheet
        self.spreadsheet.parent.mkdir(parents=True)

    def add(
        self,
        field: Field,
        found: np.ndarray,
        number: int,
        name: str,
        metadata: Mapping[str, object],
    ) -> pd.DataFrame:
        """Segment, measure and crop a field.

        Args:
            field: of N cells.
            found: (N,) bool, which of them CellProfiler finds.
            number: ImageNumber.
            name: of the field's folder of crops, such as `A01_01`.
            metadata: Well and the like, without `Metadata_`.

        Returns:
            a row per cell of the field: ImageNumber, ObjectNumber (missing where it was not
            found), AreaShape_Center_X and AreaShape_Center_Y.
        """
        numbers = _object_numbers(field.labels, found)  # (N,), 0 where not found
        objects = np.append(0, numbers)[field.labels]
        table = measure_objects(field.image, objects)
        table.insert(0, "ImageNumber", number)
        for place, key in enumerate(sorted(metadata), start=2):
            table.insert(place, f"Metadata_{key}", metadata[key])
        header = not self.spreadsheet.exists()
        table.to_csv(self.spreadsheet, mode="a", header=header, index=False)
        self._save_crops(field.image, objects, name)
        link = table[["ObjectNumber", "AreaShape_Center_X", "AreaShape_Center_Y"]]
        link = link.set_index("ObjectNumber", drop=False).astype({"ObjectNumber": "Int64"})
        link = link.reindex(numbers).reset_index(drop=True)
        link.insert(0, "ImageNumber", number)
        return link

    def _save_crops(self, image: np.ndarray, objects: np.ndarray, name: str) -> None:
        folders = [self.crops / f"CroppedImages_{channel}" / name for channel in CHANNELS]
        for folder in folders:
            folder.mkdir(parents=True)
        for number, box in enumerate(ndimage.find_objects(objects), start=1):
            crop = np.where((objects[box] == number)[..., None], image[box], 0)
            for c, folder in enumerate(folders):
                save_png(folder / f"{OBJECT}_{number}.png", crop[..., c])


def _object_numbers(labels: np.ndarray, found: np.ndarray) -> np.ndarray:
    """CellProfiler's number of each cell (N,): by its first pixel in reading order, 0 if missed."""
    cells, first_pixel = np.unique(labels, return_index=True)
    cells = cells[np.argsort(first_pixel)]
    cells = cells[cells > 0] - 1
    numbers = np.zeros(len(found), int)
    numbers[cells[found[cells]]] = np.arange(1, found[cells].sum() + 1)
    return numbers


def measure_objects(image: np.ndarray, objects: np.ndarray) -> pd.DataFrame:
    """Features of objects, measured with scikit-image, under CellProfiler's names.

    Args:
        image: uint8 (H, W, 3) in the order of CHANNELS.
        objects: int (H, W), numbers from 1.

    Returns:
        a row per object: ObjectNumber, then AreaShape_* in px, Intensity_* in 0..1 and
        Number_Object_Number, from A to Z. Centres and boxes are zero-based.
    """
    asked = {name.rsplit("-", 1)[0]: None for name in (*SHAPE_FEATURES, *INTENSITY_FEATURES)}
    measured = pd.DataFrame(
        measure.regionprops_table(objects, image / 255, properties=("label", *asked))
    )
    area = measured["area"]
    features = {f"AreaShape_{name}": measured[key] for key, name in SHAPE_FEATURES.items()}
    features["AreaShape_FormFactor"] = 4 * math.pi * area / measured["perimeter"] ** 2
    features["AreaShape_Orientation"] = np.degrees(measured["orientation"])
    for c, channel in enumerate(CHANNELS):
        for key, name in INTENSITY_FEATURES.items():
            features[f"Intensity_{name}_{channel}"] = measured[f"{key}-{c}"]
        total = area * measured[f"intensity_mean-{c}"]
        features[f"Intensity_IntegratedIntensity_{channel}"] = total
    features["Number_Object_Number"] = measured["label"]
    table = pd.DataFrame(dict(sorted(features.items())))
    table.insert(0, "ObjectNumber", measured["label"])
    return table


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a temporary folder beside `out`; it becomes `out` on success and is removed otherwise.

    Raises:
        UserError: `out` is not empty or cannot be written, or the disk is full.
    """
    out = Path(out).absolute()
    refuse_occupied(out)
    with explain_os_error(out, "nothing was kept; free some and start again"):
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = TemporaryFolder(out)
        with temporary as folder:
            yield folder
            refuse_occupied(out)
            if out.is_dir():
                out.rmdir()
            temporary.become(out)


def refuse_occupied(out: Path) -> None:
    """Raise a UserError if there is a file or a folder that is not empty."""
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists():
        raise UserError(
            f"--out {out} is there already and stays as it is: rename or remove it, or give another"
        )


def save_png(path: Path, image: np.ndarray) -> None:
    """Write an image, (H, W) or (H, W, 3) uint8 or (H, W) uint16, losslessly and quickly."""
    Image.fromarray(image).save(path, compress_level=1)


def append_rows(path: Path, table: pd.DataFrame, columns: Sequence[str] | None = None) -> None:
    """Add rows to a CSV, after a header if it is new."""
    table.to_csv(path, mode="a", header=not path.exists(), index=False, columns=columns)
