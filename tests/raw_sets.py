"""Tiny raw data sets in the lay-outs of the real ones, for the tests of the processors."""

import hashlib
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from PIL import Image

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
CHANNELS = ("Red", "Green", "Blue")
SPACING = 60  # px between the cells of a field


def run_in_process(capsys, monkeypatch, script, *options):
    """A script by its path with its real command line, without the start of a new Python.

    Returns its exit code and what it said on stdout and stderr. One worker: the classes of a
    script that runs like this cannot travel to another process.
    """
    argv = [script, *map(str, options), "--workers", "1", "--no-progress"]
    monkeypatch.setattr(sys, "argv", argv)
    code = 0
    try:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr()
    return code, said.out, said.err


def snapshot(folder):
    """Every file below a folder with its content and time."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def contents(folder):
    """Every file below a folder with its content."""
    return {name: digest for name, (digest, _) in snapshot(folder).items()}


def write_png(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def crop_of(cell, size=12):
    """A crop that tells which cell it shows: (H, W, 3) uint8, no two alike."""
    rng = np.random.default_rng(cell)
    return rng.integers(1, 255, (size, size + cell % 3, 3)).astype(np.uint8)


def positions(n_cells):
    """x and y on a grid, further apart than any match may reach, also with x and y exchanged."""
    column, row = np.arange(n_cells) % 4, np.arange(n_cells) // 4
    return 160 + SPACING * column, 45 + SPACING * row


def write_crops(outputs, name, folder, number, crop, channels=CHANNELS):
    for c, channel in enumerate(channels):
        root = outputs / "SingleWholeCellCroppedImages" / f"CroppedImages_{channel}"
        write_png(root / folder / f"{name}_{number}.png", crop[..., c])


def write_bbbc031(raw, wells=("A01", "B02"), sites=(1, 2), cells=8):
    """A raw BBBC031 with CellProfiler's outputs, and the truth: file name -> crop.

    CellProfiler numbers the objects of a field backwards; its centres are zero-based.
    """
    truth, objects, crops = [], [], {}
    outputs = raw / "CellProfiler_Outputs"
    x, y = positions(cells)
    rng = np.random.default_rng(0)
    for image, (well, site) in enumerate(((w, s) for w in wells for s in sites), start=1):
        for cell in range(cells):
            plane = rng.random(2)
            process = cell % 7 + 1
            number, crop = cells - cell, crop_of(1000 * image + cell)
            truth.append(
                (
                    f"ProcessPlateSparse_w{well}_s{site:02d}_z1_t1",
                    cell + 1,
                    x[cell] + 1,
                    y[cell] + 1,
                    plane[1],
                    1 - plane[0],
                    1 - abs(plane.sum() - 1),
                    0.5 - plane.sum() / 4,
                    process,
                    *plane,
                )
            )
            offset = rng.uniform(-5, 5, 2)
            area, blue = rng.uniform(1000, 2000), rng.random()
            centre = (x[cell] + offset[0], y[cell] + offset[1])
            objects.append((image, number, site, well, area, *centre, blue))
            write_crops(outputs, "SplitCellBodies", f"{well}_{site:02d}", number, crop)
            crops[f"CellProcess_{process}_{well}_{site:02d}_id{cell + 1}.tiff"] = crop
    columns = (
        "ImageName CellIdx LocationX LocationY ColorParamsR ColorParamsG ColorParamsB ShapeParams "
        "ProcessID PositionOnRegressionPlaneX PositionOnRegressionPlaneY"
    ).split()
    table = pd.DataFrame(truth, columns=columns)
    table.to_csv(raw / "BBBC031_v1_DatasetGroundTruth.csv", sep=";", index=False)
    names = (
        "ImageNumber ObjectNumber Metadata_Site Metadata_Well AreaShape_Area AreaShape_Center_X "
        "AreaShape_Center_Y Intensity_MeanIntensity_Blue"
    ).split()
    spreadsheet = outputs / "Quantitative_Outputs"
    spreadsheet.mkdir()
    spreadsheet /= "200515_Horvath_Simple_AnalysisSplitCellBodies.csv"
    pd.DataFrame(objects, columns=names).to_csv(spreadsheet, index=False)
    return table, crops, spreadsheet


def read_cells(folder):
    """File name -> image of all cells of a data set, and file name -> class folder."""
    files = sorted(folder.rglob("*.tiff"))
    return {f.name: tifffile.imread(f) for f in files}, {f.name: f.parent.name for f in files}
