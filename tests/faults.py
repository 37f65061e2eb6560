"""Damaged inputs through the real command lines, as a table: what is wrong, and what must be said.

    python tests/faults.py              # every row in a process of its own, as a table
    python tests/faults.py --here       # all in one process: a minute
    python tests/faults.py --only csv   # those whose script or name holds a word

Every row starts from the same sound folder (`make_sound`), damages something in it, and gives a
command that meets the damage. It must end with exit code 2 and one line that names what is wrong
and the mend, and change no file that was there. `tests/test_faults.py` runs the same table within
pytest.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import pickle
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
import torch
from PIL import Image
from skimage.io import imsave
from starting import ROOT, environment

SIZE, CELLS = 32, 24
RUN = "results/0001-cells-VAE"
SMALL = f"--image-size {SIZE} --base 2 --epochs 1 --features none --metrics neighbours --device cpu"

VAE = "VAE_framework.py"
INFOMAX = "InfoMAX_VAE_framework.py"
SCORE = "quantitative_metrics/performance_metrics.py"
SIZES = "util/file_size_distribution.py"
FEEDBACK = "human_guidance/VAE_feedback_framework.py"
INTERPRET = "human_guidance/interpret_latent_space.py"
PAGE = "human_guidance/guidance_app.py"
GRID = "optimization/hyper_optimization_bs_fixed.py"
WIDTHS = "optimization/hyper_optimization.py"
SWEEP = "optimization/UMAP_TSNE_optimization.py"
COMPARE = "optimization/compare_methods.py"
HEATMAPS = "optimization/heatmap_optimization.py"
RESCORE = "optimization/score_optimization.py"
FIELDS = "util/Process_Fields.py"
BBBC031 = "util/Process_DataSet_1.py"
HORVATH = "util/Process_Horvath_Dataset.py"
CHAFFER = "util/Process_Chaffer_Dataset.py"
SIMULATE = "util/simulate_cells.py"

FOLDER = f"--dataset cells --metadata cells.csv --label treatment {SMALL}"
ARRAY = f"--dataset cells.npz --metadata array.csv --label treatment {SMALL}"
SWEPT = f"--dataset cells --metadata cells.csv --label treatment --image-size {SIZE} --device cpu"
GUIDE = "--run 1 --epochs 1 --metrics neighbours --device cpu"

CELL = np.pad(np.full((10, 10), 2, np.uint8), 5, constant_values=1)  # a nucleus 2 within a cell 1
CLASSES = np.tile(np.pad(CELL, ((5, 5), (10, 10))), (2, 2))
TURNED = (274, 3, 1, 3, True)  # TIFF's Orientation
OF_THREE = (
    '<?xml version="1.0" encoding="UTF-8"?><OME '
    'xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels '
    f'ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="{SIZE}" SizeY="{SIZE}" SizeC="3" '
    'SizeZ="1" SizeT="1"><Channel ID="C:0"/><Channel ID="C:1"/><Channel ID="C:2"/><TiffData/>'
    "</Pixels></Image></OME>"
)

MASKED = "--fields raw --image-pattern {well}_{channel}.tif --channels DNA --cell-masks {well}_"

Damage = Callable[[], None]


@dataclass(frozen=True)
class Fault:
    """A row of the table.

    Attributes:
        name: what is wrong.
        script: that meets it.
        options: of its command line.
        says: regular expression that its one line matches.
        damage: done to the sound folder first, which is the current one.
        boxed: an error of the command line itself, which tyro puts into a box with its help.
    """

    name: str
    script: str
    options: str
    says: str
    damage: Damage | None = None
    boxed: bool = False


def make_sound(folder: Path) -> Path:
    """Cells, tables and a finished run, all as they should be."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = rng.integers(20, 200, (CELLS, SIZE, SIZE, 3), dtype=np.uint8)
    ids = [f"cell_{i:02d}.png" for i in range(CELLS)]
    (folder / "cells").mkdir()
    for name, image in zip(ids, images, strict=True):
        imsave(folder / "cells" / name, image, check_contrast=False)
    table = pd.DataFrame(
        {
            "Unique_ID": ids,
            "treatment": np.where(np.arange(CELLS) % 2, "drug", "control"),
            "dose": np.arange(CELLS) / CELLS,
            "remark": "fine",
        }
    )
    table.to_csv(folder / "cells.csv", index=False)
    np.savez(folder / "cells.npz", images=images)
    table.drop(columns="Unique_ID").to_csv(folder / "array.csv", index=False)
    points = dict(zip(("UMAP_X", "UMAP_Y", "UMAP_Z"), rng.normal(size=(3, CELLS)), strict=True))
    table.assign(**points).to_csv(folder / "points.csv", index=False)
    swept = {f"UMAP_{n}_{axis}": rng.normal(size=CELLS) for n in (5, 15) for axis in "XYZ"}
    table.assign(**swept).to_csv(folder / "swept.csv", index=False)
    features = {f"AreaShape_{i}": rng.normal(size=CELLS) for i in range(6)}
    pd.DataFrame({"Unique_ID": ids, **features}).to_csv(folder / "features.csv", index=False)
    anchors = {"delta": 1.0, "x_anchor": 0.0, "y_anchor": 1.0, "z_anchor": 0.0}
    pd.DataFrame({"Unique_ID": ids[:6], **anchors}).to_csv(folder / "feedback.csv", index=False)
    pairs = {"Unique_ID_a": ids[:3], "Unique_ID_b": ids[3:6], "relation": "together", "weight": 1.0}
    pd.DataFrame(pairs).to_csv(folder / "pairs.csv", index=False)
    hint = {"axis": ["x"], "column": ["dose"], "weight": [1.0]}
    pd.DataFrame(hint).to_csv(folder / "hints.csv", index=False)
    code, said = run_here(folder, VAE, FOLDER)
    assert code == 0, said
    return folder


def edit(path: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Damage:
    """Read a CSV, change it, write it."""

    def damage() -> None:
        change(pd.read_csv(path)).to_csv(path, index=False)

    return damage


def write(path: str, content: str | bytes) -> Damage:
    """Put something else into a file."""
    raw = content.encode() if isinstance(content, str) else content
    return lambda: Path(path).write_bytes(raw)


def cut(path: str, share: float = 0.5) -> Damage:
    """Lose the end of a file."""

    def damage() -> None:
        raw = Path(path).read_bytes()
        Path(path).write_bytes(raw[: int(share * len(raw))])

    return damage


def remove(path: str) -> Damage:
    """Delete a file or a folder."""

    def damage() -> None:
        shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()

    return damage


def each_image(change: Callable[[Path], None]) -> Damage:
    """Do something to every image of the folder."""

    def damage() -> None:
        for path in Path("cells").glob("*.png"):
            change(path)

    return damage


def replace_image(name: str, image: np.ndarray) -> Damage:
    """Put another image in the place of one."""
    return lambda: imsave(f"cells/{name}", image, check_contrast=False)


def save_array(path: str, make: Callable[[np.ndarray], np.ndarray], **arrays: object) -> Damage:
    """Write an array file made of the sound images."""

    def damage() -> None:
        found = make(np.load("cells.npz")["images"])
        if path.endswith(".npy"):
            np.save(path, found, allow_pickle=True)
        else:
            np.savez(path, images=found, **arrays)

    return damage


def change_json(path: str, change: Callable[[dict], object]) -> Damage:
    """Change a JSON file in place."""

    def damage() -> None:
        content = json.loads(Path(path).read_text())
        change(content)
        Path(path).write_text(json.dumps(content))

    return damage


class Evil:
    """What a pickle can do to whoever loads it."""

    def __reduce__(self):
        return (Path.touch, (Path("owned"),))


def save_evil(path: str) -> Damage:
    """A checkpoint that would make a file named `owned` if it were unpickled."""
    return lambda: torch.save({"model": Evil(), "history": []}, path)


def change_weights(change: Callable[[dict], object], name: str = "best.pt") -> Damage:
    """Change what a checkpoint holds."""

    def damage() -> None:
        state = torch.load(f"{RUN}/{name}", weights_only=True)
        change(state)
        torch.save(state, f"{RUN}/{name}")

    return damage


def both(*damages: Damage) -> Damage:
    """One damage after the other."""

    def damage() -> None:
        for each in damages:
            each()

    return damage


def as_tiffs(make: Callable[[np.ndarray], np.ndarray], **how: object) -> Damage:
    """TIFFs made of the images (H, W, C) in the place of the PNGs."""

    def damage() -> None:
        for number, image in enumerate(np.load("cells.npz")["images"]):
            Path(f"cells/cell_{number:02d}.png").unlink()
            written = {"photometric": "minisblack"} | how
            tifffile.imwrite(f"cells/cell_{number:02d}.tif", make(image), **written)

    return damage


def in_folders(*names: str, below: str = "") -> Damage:
    """The images in subfolders: a copy in each."""

    def damage() -> None:
        images = sorted(Path("cells").glob("*.png"))
        for name in names:
            folder = Path("cells", name, below)
            folder.mkdir(parents=True)
            for image in images:
                shutil.copy(image, folder)
        for image in images:
            image.unlink()

    return damage


def field_and_mask(write_mask: Callable[[Path], None], name: str) -> Damage:
    """A field of two cells, and a mask that is none."""

    def damage() -> None:
        Path("raw").mkdir()
        field = np.zeros((60, 80), np.uint16)
        field[10:30, 10:30] = field[30:50, 50:70] = 900
        tifffile.imwrite("raw/A01_DNA.tif", field)
        write_mask(Path("raw", name))

    return damage


@contextlib.contextmanager
def standing_in(folder: Path) -> Iterator[None]:
    """The folder as the current one, and its own cache."""
    before, cache = Path.cwd(), os.environ.get("XDG_CACHE_HOME")
    os.chdir(folder)
    os.environ["XDG_CACHE_HOME"] = str(folder / ".cache")
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.pop("XDG_CACHE_HOME")
        if cache is not None:
            os.environ["XDG_CACHE_HOME"] = cache


def run_here(folder: Path, script: str, options: str) -> tuple[int, str]:
    """Exit code and stderr of a script, run in this process as Python runs a script."""
    argv, err = sys.argv, io.StringIO()
    sys.argv = [str(ROOT / script), *options.split()]
    code: object = 0
    try:
        with standing_in(folder), contextlib.redirect_stderr(err):
            with contextlib.redirect_stdout(io.StringIO()):
                runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        code = stop.code or 0
    except Exception:  # what a user would see
        code = 1
        err.write(traceback.format_exc())
    finally:
        sys.argv = argv
    return int(code), err.getvalue()


def run_apart(folder: Path, script: str, options: str) -> tuple[int, str]:
    """The same in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *options.split()],
        cwd=folder,
        env=environment(folder / ".cache"),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def contents(folder: Path) -> dict[str, str]:
    """Name -> digest of every file, but for caches and locks."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    }


def check(fault: Fault, folder: Path, run=run_here) -> str:
    """Do the damage and run the command; what was said, if all is as it should be.

    Raises:
        AssertionError: it is not.
    """
    if fault.damage:
        with standing_in(folder):
            fault.damage()
    before = contents(folder)
    code, err = run(folder, fault.script, fault.options)
    lines = [line for line in re.split(r"[\r\n]+", err) if line.strip()]
    said = " ".join(lines) if fault.boxed else next((s for s in lines if "error: " in s), "")
    assert "Traceback" not in err, err
    assert code == 2, f"exit code {code}: {err[-2000:]}"
    if not fault.boxed:
        assert sum("error: " in line for line in lines) == 1, err
        assert lines[-1] == said and said.startswith("error: "), err
    assert re.search(fault.says, said), said
    assert "secret" not in err, err
    assert contents(folder) == before, sorted(contents(folder).items() ^ before.items())
    return said


def main() -> int:
    """Run the table, print it; returns how many rows failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", default="", help="rows whose script and name hold this")
    parser.add_argument("--skip", type=int, default=0, help="so many rows first")
    parser.add_argument("--here", action="store_true", help="all in this process: faster")
    options = parser.parse_args()
    chosen = [fault for fault in FAULTS if options.only in f"{fault.script} {fault.name}"]
    chosen = chosen[options.skip :]
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        sound = make_sound(Path(scratch) / "sound")
        for number, fault in enumerate(chosen):
            folder, start = Path(scratch) / f"{number}", time.perf_counter()
            shutil.copytree(sound, folder)
            try:
                said = check(fault, folder, run_here if options.here else run_apart)
                verdict = "ok  "
            except AssertionError as error:
                verdict, said, failed = "FAIL", str(error), failed + 1
            seconds = time.perf_counter() - start
            name = f"{Path(fault.script).name}: {fault.name}"
            print(f"{verdict} {seconds:5.1f} s  {name}\n       {said.strip()[:1500]}", flush=True)
            shutil.rmtree(folder)
    print(f"{len(chosen) - failed} of {len(chosen)} damaged inputs end as they should")
    return failed


MEANINGS = [
    Fault("focal planes", VAE, FOLDER, r"3 focal planes: choose .* --project-z max or mean",
          as_tiffs(lambda im: np.moveaxis(im, -1, 0), imagej=True, metadata={"axes": "ZYX"})),
    Fault("planes and channels", VAE, FOLDER, "2 focal planes",
          as_tiffs(lambda im: np.stack([np.moveaxis(im, -1, 0)] * 2), imagej=True,
                   metadata={"axes": "ZCYX"})),
    Fault("time points", VAE, FOLDER, "3 time points: save one image per file",
          as_tiffs(lambda im: np.moveaxis(im, -1, 0), imagej=True, metadata={"axes": "TYX"})),
    Fault("positions", VAE, FOLDER, "3 entries along an axis P",
          as_tiffs(lambda im: np.moveaxis(im, -1, 0), metadata={"axes": "PYX"})),
    Fault("equal pages", VAE, FOLDER, r"3 pages of one size.* --image-axes, e\.g\. CYX",
          as_tiffs(lambda im: np.moveaxis(im, -1, 0)[:, None], metadata=None)),
    Fault("small cells, axes unnamed", VAE, FOLDER, "the first axis or the last",
          as_tiffs(lambda im: np.moveaxis(im, -1, 0)[:, :12, :12])),
    Fault("axes unnamed, none of channels", VAE, FOLDER, "no axis can be channels",
          as_tiffs(lambda im: np.zeros((20, 30, 40), np.uint8))),
    Fault("CMYK", VAE, FOLDER, "SEPARATED: convert it to RGB or grey",
          as_tiffs(lambda im: np.zeros((20, 30, 4), np.uint8), photometric="separated")),
    Fault("axes that do not fit", VAE, f"{FOLDER} --image-axes ZCYX", "--image-axes ZCYX does not",
          as_tiffs(lambda im: im, photometric="rgb")),
    Fault("axes of no kind", VAE, f"{FOLDER} --image-axes ABC", "--image-axes ABC: give Y, X and",
          as_tiffs(lambda im: im, photometric="rgb")),
    Fault("projection of no kind", VAE, f"{FOLDER} --project-z median", "invalid choice 'median'",
          boxed=True),
    Fault("fit of no kind", VAE, f"{FOLDER} --fit crop", "invalid choice 'crop'", boxed=True),
    Fault("floats with NaN", VAE, FOLDER, "NaN or infinite pixels",
          as_tiffs(lambda im: np.full(im.shape, np.nan, np.float32), photometric="rgb")),
    Fault("complex numbers", VAE, ARRAY, "holds no array|name the images",
          save_array("cells.npz", lambda im: im.astype(np.complex64))),
    Fault("splits above the classes", VAE, f"--dataset cells {SMALL}",
          "test/, train/ above the classes: give one of them", in_folders("train", "test")),
    Fault("a folder per channel", VAE, f"--dataset cells {SMALL}",
          "DAPI/, GFP/: one folder per channel", in_folders("DAPI", "GFP")),
    Fault("channels misnumbered", VAE, f"{FOLDER} --channels DNA Actin", "--channels"),
    Fault("subset of too many", VAE, f"{FOLDER} --subset 9999", "--subset 9999: give "),
    Fault("subset in words", VAE, f"{FOLDER} --subset half", "--subset half: give a number"),
    Fault("mask of colours", FIELDS, MASKED + "mask.png", "colour picture",
          field_and_mask(lambda p: imsave(p, np.random.default_rng(0).integers(
              0, 255, (60, 80, 3), dtype=np.uint8), check_contrast=False), "A01_mask.png")),
    Fault("mask of two planes", FIELDS, MASKED + "mask.tif", "several planes",
          field_and_mask(lambda p: tifffile.imwrite(p, np.arange(9600, dtype=np.uint16).reshape(
              2, 60, 80), photometric="minisblack"), "A01_mask.tif")),
    Fault("mask of NaN", FIELDS, MASKED + "mask.tif", "NaN or infinite numbers",
          field_and_mask(lambda p: tifffile.imwrite(p, np.full((60, 80), np.nan, np.float32)),
                         "A01_mask.tif")),
    Fault("mask of classes", FIELDS, MASKED + "mask.tif", "numbers classes .1, 2",
          field_and_mask(lambda p: tifffile.imwrite(p, CLASSES), "A01_mask.tif")),
    Fault("mask whose background is 2", FIELDS, MASKED + "mask.tif", "2 along all four edges",
          field_and_mask(lambda p: tifffile.imwrite(p, np.where(CLASSES, 1, 2).astype(np.uint8)),
                         "A01_mask.tif")),
    Fault("mask of Cellpose's pickle", FIELDS, MASKED + "seg.npy", "holds more than numbers, which",
          field_and_mask(lambda p: np.save(p, {"masks": CLASSES}), "A01_seg.npy")),
    Fault("mask stored turned", FIELDS, MASKED + "mask.tif", r"stored turned \(Orientation 3\)",
          field_and_mask(lambda p: tifffile.imwrite(p, CLASSES, extratags=[TURNED]),
                         "A01_mask.tif")),
    Fault("field stored turned", FIELDS, MASKED + "mask.tif", r"stored turned \(Orientation 3\)",
          both(field_and_mask(lambda p: tifffile.imwrite(p, CLASSES // 2), "A01_mask.tif"),
               lambda: tifffile.imwrite("raw/A01_DNA.tif", CLASSES, extratags=[TURNED]))),
    Fault("OME pages that are not there", VAE, FOLDER, r"names more pages than it holds \(1\)",
          as_tiffs(lambda im: im[..., 0], description=OF_THREE, metadata=None)),
    Fault("animated PNGs", VAE, FOLDER, "holds 2 pictures: save one image per file",
          each_image(lambda p: Image.open(p).save(
              p, save_all=True, append_images=[Image.new("RGB", (SIZE, SIZE))]))),
    Fault("rows of an array shuffled", VAE, ARRAY, "'index' numbers all rows, but in another order",
          lambda: pd.read_csv("array.csv")[::-1].to_csv("array.csv")),
    Fault("equal images to measure", VAE, f"{FOLDER} --features measure",
          r"--features measure: the 24 cells have the same pixels \(0 to 0\)",
          each_image(lambda p: imsave(p, np.zeros((SIZE, SIZE, 3), np.uint8),
                                      check_contrast=False))),
]  # fmt: skip

SETTINGS = [
    Fault("more than even", VAE, f"{FOLDER} --density-balance 2",
          r"--density-balance 2\.0: must be"),
    Fault("downsampled too far", VAE, f"{FOLDER} --downsample 4",
          r"--downsample 4 of --image-size \d+: what is left must be one of 32, 64"),
    Fault("no whole squares", VAE, f"{FOLDER} --downsample 3",
          r"--downsample 3 of --image-size \d+: what is left must be one of 32, 64"),
    Fault("no epochs", VAE, f"{FOLDER} --epochs 0", "--epochs 0: must be at least 1"),
    Fault("batch of no cells", VAE, f"{FOLDER} --batch-size 0",
          "--batch-size 0: must be at least 2"),
    Fault("negative learning rate", VAE, f"{FOLDER} --learning-rate -1",
          r"--learning-rate -1\.0: must be above 0"),
    Fault("learning rate NaN", VAE, f"{FOLDER} --learning-rate nan",
          "--learning-rate nan: must be above 0"),
    Fault("negative beta", VAE, f"{FOLDER} --beta -1", r"--beta -1\.0: must be at least 0"),
    Fault("beta NaN", VAE, f"{FOLDER} --beta nan", "--beta nan: must be at least 0"),
    Fault("network of no width", VAE, f"{FOLDER} --base 0", "--base 0: must be at least 1"),
    Fault("decoder of no width", VAE, f"{FOLDER} --decoder-base 0",
          "--decoder-base 0: must be at least 1"),
    Fault("no latent dimension", VAE, f"{FOLDER} --latent-dim 0",
          "--latent-dim 0: must be at least 1"),
    Fault("image size 50", VAE, f"{FOLDER} --image-size 50", "--image-size 50"),
    Fault("all cells for validation", VAE, f"{FOLDER} --valid-fraction 1",
          r"--valid-fraction 1\.0: must lie between 0 and 1, e\.g\. 0\.15"),
    Fault("no cell for validation", VAE, f"{FOLDER} --valid-fraction 0",
          r"--valid-fraction 0\.0: must lie between 0 and 1, e\.g\. 0\.15"),
    Fault("decay every 0 epochs", VAE, f"{FOLDER} --decay-every 0",
          "--decay-every 0: must be at least 1"),
    Fault("decay 0", VAE, f"{FOLDER} --decay 0", r"--decay 0\.0: must be above 0 and at most 1"),
    Fault("no patience", VAE, f"{FOLDER} --patience 0", "--patience 0: must be at least 1"),
    Fault("log-variance bound above its range", VAE, f"{FOLDER} --min-logvar 5",
          "--min-logvar 5: must be at least -20 and below 2"),
    Fault("negative seed", VAE, f"{FOLDER} --seed -1",
          r"--seed -1: must be at least 0 and at most 4294967295"),
    Fault("unknown device", VAE, f"{FOLDER} --device gpu", "--device gpu: not usable here "),
    Fault("GPU that is not there", VAE, f"{FOLDER} --device cuda:9",
          "--device cuda:9: not usable here "),
    Fault("UMAP of one neighbour", VAE, f"{FOLDER} --features features.csv --umap-neighbors 1",
          "--umap-neighbors 1: must be at least 2"),
    Fault("UMAP distance 2", VAE, f"{FOLDER} --features features.csv --umap-min-dist 2",
          r"--umap-min-dist 2\.0: must be at least 0 and at most 1"),
    Fault("perplexity 0", VAE, f"{FOLDER} --features features.csv --tsne-perplexity 0",
          r"--tsne-perplexity 0\.0: must be at least 1"),
    Fault("exact ranks of no cell", VAE, f"{FOLDER} --rank-all-up-to -1",
          "--rank-all-up-to -1: must be at least 0"),
    Fault("unknown label column", VAE, f"{FOLDER} --label colour",
          "--label colour: no such column"),
    Fault("unknown column of progress", VAE, f"{FOLDER} --progress time",
          "--progress time: no such column; there are Unique_ID"),
    Fault("progress in words", VAE, f"{FOLDER} --progress remark",
          "--progress: column 'remark' is not numeric "),
    Fault("unknown branch", VAE, f"{FOLDER} --progress dose --branch line",
          "--branch line: no such column"),
    Fault("branch without progress", VAE, f"{FOLDER} --branch treatment",
          "--branch treatment: a backbone needs --progress, the column that says"),
    Fault("results in a file", VAE, f"{FOLDER} --results cells.csv",
          r"cannot write cells\.csv: File exists"),
    Fault("run that is not there", VAE, "--resume 7",
          "--resume 7: no run of that number in results"),
    Fault("settings of no run", VAE, "--from 7", "--from 7: no run of that number in results"),
    Fault("resume and from", VAE, "--resume 1 --from 1",
          "--from with --resume: a run has one beginning, give one of them"),
    Fault("another beta on resuming", VAE, "--resume 1 --beta 3",
          r"--beta 3\.0 differs from 1\.0 of results/0001-cells-VAE"),
    Fault("no simulated cells", VAE, f"--simulated-cells 0 {SMALL}",
          "n_cells = 0: an integer of 1 or more is needed"),
    Fault("negative alpha", INFOMAX, f"{FOLDER} --alpha -1", r"--alpha -1\.0: must be at least 0"),
    Fault("alpha NaN", INFOMAX, f"{FOLDER} --alpha nan", "--alpha nan: must be at least 0"),
    Fault("bound alpha 2", INFOMAX, f"{FOLDER} --bound-alpha 2",
          r"--bound-alpha 2\.0: must be above 0 and at most 1"),
    Fault("critic of codes without views", INFOMAX, f"{FOLDER} --critic code",
          "--critic code: needs another view of the cell"),
    Fault("critic that does not learn", INFOMAX, f"{FOLDER} --critic-learning-rate 0",
          r"--critic-learning-rate 0\.0: must be above 0"),
    Fault("misspelt option", VAE, f"{FOLDER} --epoch 3", "Unrecognized options: --epoch",
          boxed=True),
    Fault("unknown architecture", VAE, f"{FOLDER} --architecture unet", "invalid choice 'unet'",
          boxed=True),
    Fault("unknown metric", VAE, f"{FOLDER} --metrics fid", "invalid choice 'fid'", boxed=True),
    Fault("unknown preset", VAE, f"{FOLDER} --preset desktop", "invalid choice 'desktop'",
          boxed=True),
    Fault("word for a number", VAE, f"{FOLDER} --epochs many", "Error parsing --epochs",
          boxed=True),
    Fault("unknown view", INFOMAX, f"{FOLDER} --views sideways", "invalid choice 'sideways'",
          boxed=True),
]  # fmt: skip

IMAGES = [
    Fault("no such folder", VAE, f"--dataset nowhere {SMALL}",
          "--dataset nowhere: there is no such folder or file"),
    Fault("folder without images", VAE, FOLDER,
          "--dataset cells: no TIFF, PNG or JPEG image in it or in its", each_image(Path.unlink)),
    Fault("all images empty files", VAE, FOLDER, "no image of cells could be read",
          each_image(lambda p: p.write_bytes(b""))),
    Fault("all images cut off", VAE, FOLDER, "no image of cells could be read",
          each_image(lambda p: cut(str(p), 0.4)())),
    Fault("text named .png", VAE, FOLDER, "no image of cells could be read",
          each_image(lambda p: p.write_text("no image"))),
    Fault("grey images among colour ones", VAE, FOLDER,
          r"cells/cell_03\.png has 1 channels of 8 bit, but cells/cell_00\.png has 3",
          replace_image("cell_03.png", np.zeros((SIZE, SIZE), np.uint8))),
    Fault("two images", VAE, FOLDER,
          r"2 cells with --valid-fraction 0\.15 leave 1 to train on: at least 2",
          each_image(lambda p: p.unlink() if p.stem > "cell_01" else None)),
    Fault("array that is not there", VAE, f"--dataset other.npz {SMALL}",
          r"--dataset other\.npz: there is no such folder or file"),
    Fault("array cut off", VAE, ARRAY, r"cells\.npz cannot be read as an array file ",
          cut("cells.npz")),
    Fault("array file of text", VAE, ARRAY, r"cells\.npz cannot be read as an array file ",
          write("cells.npz", "images")),
    Fault("array without images", VAE, ARRAY, r"cells\.npz holds no array",
          save_array("cells.npz", lambda x: x[:, 0, 0, 0])),
    Fault("array of NaN", VAE, ARRAY,
          r"cells\.npz holds NaN or infinite pixels: replace them, or leave these",
          save_array("cells.npz", lambda x: np.where(x == x[0, 0, 0, 0], np.nan, x))),
    Fault("array of 17 channels", VAE, ARRAY, r"cells\.npz has shape ",
          save_array("cells.npz", lambda x: np.repeat(x, 6, axis=3)[..., :17])),
    Fault("array of objects", VAE, f"--dataset evil.npy {SMALL}",
          r"evil\.npy cannot be read as an array file ",
          save_array("evil.npy", lambda x: np.array([Evil()], dtype=object))),
    Fault("array of no cells", VAE, ARRAY, r"cells\.npz holds no image",
          save_array("cells.npz", lambda x: x[:0])),
    Fault("unknown array key", VAE, f"{ARRAY} --array-key pixels",
          r"--array-key pixels: cells\.npz holds images"),
    Fault("two arrays that can be images", VAE, ARRAY, r"cells\.npz holds images ",
          save_array("cells.npz", lambda x: x, others=np.zeros((CELLS, 8, 8, 3), np.uint8))),
    Fault("wrong array axes", VAE, f"{ARRAY} --array-axes XYZ",
          "--array-axes XYZ does not fit shape "),
    Fault("data set of another format", VAE, f"--dataset cells.csv {SMALL}",
          r"--dataset cells\.csv"),
    Fault("sizes of no folder", SIZES, "--dataset nowhere",
          "--dataset nowhere: there is no such folder or file"),
    Fault("field that is not there", SIZES, "--dataset cells --field field.tif", "--field"),
]  # fmt: skip

TABLES = [
    Fault("csv that is not there", VAE, FOLDER, r"--metadata cells\.csv: there is no such file",
          remove("cells.csv")),
    Fault("csv empty", VAE, FOLDER, r"cells\.csv cannot be read as a table ",
          write("cells.csv", "")),
    Fault("csv with a header only", VAE, FOLDER, r"cells\.csv has no rows",
          write("cells.csv", "Unique_ID,treatment\n")),
    Fault("csv of bytes", VAE, FOLDER, r"cells\.csv cannot be read as a table ",
          write("cells.csv", bytes(range(256)) * 9)),
    Fault("csv that is a spreadsheet", VAE, FOLDER, r"cells\.csv cannot be read as a table ",
          write("cells.csv", b"PK\x03\x04" * 50)),
    Fault("csv without Unique_ID", VAE, FOLDER, r"cells\.csv has no column Unique_ID ",
          edit("cells.csv", lambda t: t.drop(columns="Unique_ID"))),
    Fault("csv with more values than columns", VAE, FOLDER, "cannot be read as a table ",
          write("cells.csv", "Unique_ID,treatment\ncell_00.png,a,b,c\ncell_01.png,b\n")),
    Fault("csv whose only ids are numbers of the rows", VAE, FOLDER, r"has no column Unique_ID ",
          edit("cells.csv", lambda t: t.assign(Unique_ID=t.index).rename(
              columns={"Unique_ID": "n"}))),
    Fault("csv whose ids zeros confuse", VAE, FOLDER, r"cells\.csv: no Unique_ID matches an image",
          edit("cells.csv", lambda t: pd.concat([t[:1], t[:1]]).assign(
              Unique_ID=["cell_0", "cell_000"]))),
    Fault("parquet damaged", VAE, FOLDER.replace("cells.csv", "cells.parquet"),
          r"cells\.parquet cannot be read as a table ", write("cells.parquet", b"PAR1" * 9)),
    Fault("h5ad damaged", VAE, FOLDER.replace("cells.csv", "cells.h5ad"),
          r"cells\.h5ad cannot be read as a table ", write("cells.h5ad", b"HDF" * 9)),
    Fault("array with an id missing", VAE, ARRAY, r"array\.csv: row 3 has no Unique_ID: fill it",
          edit("array.csv", lambda t: t.assign(
              Unique_ID=[f"a{i}" if i != 2 else None for i in t.index]))),
    Fault("array with an id twice", VAE, ARRAY, r"array\.csv: 1 ids occur in more than one row: a",
          edit("array.csv", lambda t: t.assign(Unique_ID=["a", "a", *map(str, t.index[2:])]))),
    Fault("projection without ids for a folder", SCORE,
          f"points.csv --dataset cells --image-size {SIZE}", "has no column Unique_ID ",
          edit("points.csv", lambda t: t.drop(columns="Unique_ID"))),
    Fault("projection with an axis twice", SCORE, "points.csv",
          r"points\.csv: UMAP_X and UMAP_1 are the same axis of UMAP: name the columns",
          edit("points.csv", lambda t: t.assign(UMAP_1=0.5))),
    Fault("projection that is a damaged parquet", SCORE, "points.parquet",
          r"points\.parquet cannot be read as a table ", write("points.parquet", b"")),
    Fault("features that are the metadata", VAE, f"{FOLDER} --features cells.csv",
          r"cells\.csv: no numeric feature column besides metadata and positions"),
    Fault("features that are positions", VAE, f"{FOLDER} --features features.csv",
          r"features\.csv: no numeric feature column besides metadata and positions",
          edit("features.csv", lambda t: t[["Unique_ID"]].assign(
              **{"centroid-0": 1.5, "bbox-1": 2, "label": 3, "Location_Center_X": 4.5}))),
    Fault("csv with an id twice", VAE, FOLDER,
          r"cells\.csv: 1 ids occur in more than one row: cell_00\.png",
          edit("cells.csv", lambda t: pd.concat([t, t[:1]]))),
    Fault("csv of other cells", VAE, FOLDER, r"cells\.csv: no Unique_ID matches an image",
          edit("cells.csv", lambda t: t.assign(Unique_ID="other_" + t["Unique_ID"]))),
    Fault("csv without the label", VAE, FOLDER, "--label treatment: no such column",
          edit("cells.csv", lambda t: t.drop(columns="treatment"))),
    Fault("csv with too few rows for the array", VAE, ARRAY,
          r"array\.csv has 23 rows, but cells\.npz holds 24 images: an array is",
          edit("array.csv", lambda t: t[:-1])),
    Fault("csv with a ragged row", VAE, FOLDER, r"cells\.csv cannot be read as a table ",
          lambda: Path("cells.csv").open("a").write("a,b,c,d,e,f,g\n")),
    Fault("features that are not there", VAE, f"{FOLDER} --features other.csv",
          r"--features other\.csv: there is no such file"),
    Fault("features without Unique_ID", VAE, f"{FOLDER} --features features.csv",
          r"features\.csv has no column Unique_ID",
          edit("features.csv", lambda t: t.drop(columns="Unique_ID"))),
    Fault("features of other cells", VAE, f"{FOLDER} --features features.csv",
          r"features\.csv: 1 ids occur in more than one row: x",
          edit("features.csv", lambda t: t.assign(Unique_ID="x"))),
    Fault("features of one cell twice", VAE, f"{FOLDER} --features features.csv",
          r"features\.csv: 1 ids occur in more than one row: cell_00\.png",
          edit("features.csv", lambda t: pd.concat([t, t[:1]]))),
    Fault("features all NaN", VAE, f"{FOLDER} --features features.csv",
          "no feature is left: none of the 24 cells has any",
          edit("features.csv", lambda t: t[["Unique_ID"]].assign(a=np.nan, b=np.nan))),
    Fault("features all constant", VAE, f"{FOLDER} --features features.csv",
          "no feature is left to compare cells by: 0 of 2 features kept",
          edit("features.csv", lambda t: t[["Unique_ID"]].assign(a=1.0, b=2.0))),
    Fault("features in words", VAE, f"{FOLDER} --features features.csv",
          r"features\.csv: no numeric feature column besides metadata and",
          edit("features.csv", lambda t: t[["Unique_ID"]].assign(a="big", b="small"))),
    Fault("projection that is not there", SCORE, "other.csv", r"other\.csv: there is no such file"),
    Fault("no projection named", SCORE, "",
          r"give the table to score: performance_metrics\.py my\.csv"),
    Fault("scores of a CSV that is not there", SCORE, "absent.csv", "there is no such file"),
    Fault("projection without coordinates", SCORE, "cells.csv",
          r"cells\.csv has no columns named like coordinates "),
    Fault("projection with an unknown column", SCORE, "points.csv --columns a b c",
          r"points\.csv has no column 'a'"),
    Fault("projection in words", SCORE, "points.csv --columns remark treatment",
          r"points\.csv: column 'remark' is not numeric "),
    Fault("projection of NaN", SCORE, "points.csv --metrics neighbours --features features.csv",
          "0 cells have coordinates in every projection: 3 are needed",
          edit("points.csv", lambda t: t.assign(UMAP_X=np.nan))),
    Fault("projection of two cells", SCORE,
          "points.csv --metrics neighbours --features features.csv",
          "2 cells have coordinates in every projection: 3 are needed",
          edit("points.csv", lambda t: t[:2])),
    Fault("projection of other cells", SCORE, "points.csv --features features.csv",
          r"features\.csv: no Unique_ID matches an image",
          edit("points.csv", lambda t: t.assign(Unique_ID="x" + t["Unique_ID"]))),
    Fault("projection to be merged wrongly", SCORE, "points.csv --label treatment --merge drug",
          "--merge drug"),
    Fault("projection with an unknown class", SCORE,
          "points.csv --label treatment --ignore placebo", "--ignore placebo: no such class"),
    Fault("strength in words", SCORE, "points.csv --label treatment --strength-column remark",
          "--strength-column: column 'remark' is not numeric "),
]  # fmt: skip

CHECKPOINTS = [
    Fault("checkpoint cut off", VAE, "--resume 1 --epochs 2",
          r"results/0001-cells-VAE/checkpoint\.pt is damaged, perhaps cut off",
          cut(f"{RUN}/checkpoint.pt")),
    Fault("checkpoint empty", VAE, "--resume 1 --epochs 2",
          r"results/0001-cells-VAE/checkpoint\.pt is damaged, perhaps cut off",
          write(f"{RUN}/checkpoint.pt", "")),
    Fault("checkpoint that executes code", VAE, "--resume 1 --epochs 2",
          r"results/0001-cells-VAE/checkpoint\.pt is damaged, or holds more than",
          save_evil(f"{RUN}/checkpoint.pt")),
    Fault("checkpoint that is a bare pickle", VAE, "--resume 1 --epochs 2",
          r"results/0001-cells-VAE/checkpoint\.pt is damaged, or holds more than",
          lambda: Path(f"{RUN}/checkpoint.pt").write_bytes(pickle.dumps(Evil()))),
    Fault("checkpoint of another model", VAE, "--resume 1 --epochs 2",
          r"results/0001-cells-VAE/checkpoint\.pt does not fit this run .* missing from model",
          change_weights(lambda s: s["model"].popitem(), "checkpoint.pt")),
    Fault("checkpoint without a model", VAE, "--resume 1 --epochs 2",
          r"results/0001-cells-VAE/checkpoint\.pt holds no model: no checkpoint of",
          change_weights(lambda s: s.pop("model"), "checkpoint.pt")),
    Fault("checkpoint of a list", VAE, "--resume 1 --epochs 2",
          r"results/0001-cells-VAE/checkpoint\.pt holds no model: no checkpoint of",
          lambda: torch.save([1, 2], f"{RUN}/checkpoint.pt")),
    Fault("settings cut off", VAE, "--resume 1",
          r"results/0001-cells-VAE/settings\.json is damaged ", cut(f"{RUN}/settings.json")),
    Fault("settings of a newer version", VAE, "--resume 1",
          r"settings\.json was written by another version: there is no setting",
          change_json(f"{RUN}/settings.json", lambda c: c["settings"].update(colour="red"))),
    Fault("settings without settings", VAE, "--resume 1",
          r"results/0001-cells-VAE/settings\.json holds no settings of a run",
          change_json(f"{RUN}/settings.json", lambda c: c.pop("settings"))),
    Fault("settings that are a list", VAE, "--from 1",
          r"results/0001-cells-VAE/settings\.json holds no settings of a run",
          write(f"{RUN}/settings.json", "[1]")),
    Fault("run of the other script", INFOMAX, "--resume 1",
          "--resume 1: that run was made by another script "),
    Fault("images changed since", VAE, "--resume 1 --epochs 2",
          "cells is no longer what results/0001-cells-VAE learnt from: start a",
          replace_image("cell_00.png", np.full((SIZE, SIZE, 3), 9, np.uint8))),
    Fault("images gone since", VAE, "--resume 1 --epochs 2",
          "--dataset cells: there is no such folder or file", remove("cells")),
    Fault("best model cut off", INTERPRET, "--run 1",
          r"results/0001-cells-VAE/best\.pt is damaged, perhaps cut off", cut(f"{RUN}/best.pt")),
    Fault("best model that executes code", INTERPRET, "--run 1",
          r"results/0001-cells-VAE/best\.pt is damaged, or holds more than numbers",
          save_evil(f"{RUN}/best.pt")),
    Fault("best model of another run", INTERPRET, "--run 1",
          r"results/0001-cells-VAE/best\.pt does not fit this run ",
          change_weights(lambda s: s["model"].popitem())),
    Fault("best model gone", INTERPRET, "--run 1",
          "--run 1: no run of that number in results is finished", remove(f"{RUN}/best.pt")),
    Fault("codes gone", INTERPRET, "--run 1",
          "--run 1: no run of that number in results is finished", remove(f"{RUN}/latents.csv")),
    Fault("codes without an axis", INTERPRET, "--run 1",
          r"results/0001-cells-VAE/latents\.csv is damaged: expected Unique_ID and",
          edit(f"{RUN}/latents.csv", lambda t: t.drop(columns="VAE_y_coord"))),
    Fault("codes with NaN", INTERPRET, "--run 1",
          r"results/0001-cells-VAE/latents\.csv is damaged: expected Unique_ID and",
          edit(f"{RUN}/latents.csv", lambda t: t.assign(VAE_x_coord=np.nan))),
    Fault("interpretation of no run", INTERPRET, "--run 9",
          "--run 9: no run of that number in results is finished"),
    Fault("a line with one end", INTERPRET, "--run 1 --from drug",
          "--from and --to: a line has two ends; give both or neither"),
    Fault("a line to an unknown class", INTERPRET, "--run 1 --from drug --to placebo",
          "--to placebo: no cell of that Unique_ID, no treatment of that name,"),
    Fault("page of no run", PAGE, "--run 9 --no-open-browser",
          "--run 9: no run of that number in results is finished"),
    Fault("page of a run without codes", PAGE, "--run 1 --no-open-browser",
          "--run 1: no run of that number in results is finished", remove(f"{RUN}/latents.csv")),
    Fault("page of wrong feedback", PAGE, "--run 1 --no-open-browser --feedback cells.csv",
          r"cells\.csv has no column delta: it needs Unique_ID, delta, x_anchor,"),
    Fault("page at an impossible port", PAGE, "--run 1 --no-open-browser --port 99999",
          r"cannot listen on 127\.0\.0\.1 port 99999 "),
]  # fmt: skip

WEIGHT = ("model", "encoder.down.0.conv.weight")
MOMENT = ("optimizer", "state", 0, "exp_avg")
GROUP = ("optimizer", "param_groups", 0)
GONE = object()


def put(path: tuple, value: object) -> Callable[[dict], object]:
    """A change of what a file holds: another value at a path of keys, or none."""

    def change(content: dict) -> None:
        *before, last = path
        for key in before:
            content = content[key]
        if value is GONE:
            del content[last]
        else:
            content[last] = value(content[last]) if callable(value) else value

    return change


def first_nan(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with one NaN."""
    tensor[(0,) * tensor.ndim] = torch.nan
    return tensor


def edited(name: str, says: str, path: tuple, value: object) -> Fault:
    """A checkpoint with one edited entry."""
    return Fault(f"checkpoint with {name}", VAE, "--resume 1 --epochs 2",
                 r"0001-cells-VAE/checkpoint\.pt does not fit this run \(.*" + says,
                 change_weights(put(path, value), "checkpoint.pt"))  # fmt: skip


def set_otherwise(name: str, says: str, path: tuple, value: object) -> Fault:
    """A settings.json with one edited entry."""
    return Fault(f"settings.json with {name}", VAE, "--resume 1 --epochs 2", says,
                 change_json(f"{RUN}/settings.json", put(path, value)))  # fmt: skip


EDITED = [
    edited("a NaN weight", "NaN or infinite", WEIGHT, first_nan),
    edited("weights in double precision", r"torch\.float64|float64", WEIGHT, lambda w: w.double()),
    edited("a smaller weight", "is \\[1, 3", WEIGHT, lambda w: w[:1]),
    edited("a weight that is a list", "list, no tensor", WEIGHT, [1.0]),
    edited("a weight missing", "is missing from model", WEIGHT, GONE),
    edited("a weight too many", "another is unknown in model", ("model", "another"),
           torch.zeros(1)),
    edited("a model in words", "model is str", ("model",), "weights"),
    edited("an objective of another run", "estimator is unknown in objective",
           ("objective", "estimator"), torch.zeros(2)),
    edited("a smaller moment", "optimizer state 0 exp_avg is", MOMENT, lambda m: m[:1]),
    edited("a moment of another shape", "optimizer state 0 exp_avg is", MOMENT,
           lambda m: m.flatten()),
    edited("a NaN moment", "optimizer state 0 exp_avg holds NaN", MOMENT, first_nan),
    edited("a negative second moment", "optimizer state 0 is not of",
           ("optimizer", "state", 0, "exp_avg_sq"), lambda m: m - 1),
    edited("a step that is an integer", "step is int", ("optimizer", "state", 0, "step"), 3),
    edited("another step", "is not of 1 epochs", ("optimizer", "state", 1, "step"),
           lambda t: t + 1),
    edited("a parameter without state", "of other parameters", ("optimizer", "state", 2), GONE),
    edited("a state without parameter", "of other parameters", ("optimizer", "state", 999), {}),
    edited("no groups", "has not 1 groups", ("optimizer", "param_groups"), []),
    edited("parameters in another order", "group 0 params", (*GROUP, "params"),
           lambda p: p[::-1]),
    edited("a rate in words", "group 0 lr is 'fast'", (*GROUP, "lr"), "fast"),
    edited("a negative rate", "group 0 lr is -1", (*GROUP, "lr"), -1.0),
    edited("another rate", "other learning rates", (*GROUP, "lr"), 0.5),
    edited("AMSGrad", "group 0 amsgrad is True", (*GROUP, "amsgrad"), True),
    edited("betas above 1", "group 0 betas", (*GROUP, "betas"), (0.9, 2.0)),
    edited("a scheduler ahead", "last_epoch is not 1", ("scheduler", "last_epoch"), 7),
    edited("another decay", "scheduler gamma is 9", ("scheduler", "gamma"), 9.0),
    edited("a history that is no list", "history is no list", ("history",), {}),
    edited("a history without its epoch", "is of other parameters", ("history",), []),
    edited("an epoch misnumbered", "is not epoch 1", ("history", 0, "epoch"), 2),
    edited("a loss in words", "valid of epoch 1", ("history", 0, "valid", "loss"), "low"),
    edited("a NaN loss", "valid of epoch 1", ("history", 0, "valid", "loss"), float("nan")),
    edited("no training losses", "train of epoch 1", ("history", 0, "train"), GONE),
    edited("a batch of none", "batch_size is 0", ("batch_size",), 0),
    edited("half a cell", r"batch_size is 16\.5", ("batch_size",), 16.5),
    set_otherwise("epochs in words", "settings.json: epochs is 'many', expected int",
                  ("settings", "epochs"), "many"),
    set_otherwise("epochs in quotes", "epochs is '1', expected int", ("settings", "epochs"), "1"),
    set_otherwise("half an epoch", r"epochs is '1\.5', expected int", ("settings", "epochs"), 1.5),
    set_otherwise("a rate in words", "learning_rate is 'fast', expected float",
                  ("settings", "learning_rate"), "fast"),
    set_otherwise("a number for a switch", "augment is '1', expected bool",
                  ("settings", "augment"), 1),
    set_otherwise("a switch for a number", "latent_dim is 'True', expected int",
                  ("settings", "latent_dim"), True),
    set_otherwise("an unknown network", "architecture is 'unet', expected one of vanilla, sc",
                  ("settings", "architecture"), "unet"),
    set_otherwise("a data set that is a list", "dataset is .*, expected str",
                  ("settings", "dataset"), ["cells"]),
    set_otherwise("metrics in one word", "metrics is 'neighbours', expected a list of one of",
                  ("settings", "metrics"), "neighbours"),
    set_otherwise("no base", "base is 'None', expected int", ("settings", "base"), None),
    set_otherwise("a label that is a number", "label is '3', expected str or null",
                  ("settings", "label"), 3),
    set_otherwise("notes in one line", "settings.json is damaged: notes is", ("notes",), "none"),
    set_otherwise("numbers for notes", "settings.json is damaged: notes are", ("notes",), [1]),
    set_otherwise("data in words", "settings.json is damaged: data is", ("data",), "cells"),
    set_otherwise("other pixels", "cells is no longer what", ("data", "fingerprint"), "0"),
    set_otherwise("a machine in words", "settings.json is damaged: machine is", ("machine",), "x"),
    Fault("best model with a NaN", INTERPRET, "--run 1", r"best\.pt does not fit .*NaN",
          change_weights(put(WEIGHT, first_nan))),
    Fault("best model with a smaller weight", INTERPRET, "--run 1", r"best\.pt does not fit",
          change_weights(put(WEIGHT, lambda w: w[:1]))),
    Fault("best model without a model", INTERPRET, "--run 1", r"best\.pt holds no model",
          change_weights(lambda s: s.pop("model"))),
    Fault("log of words", VAE, "--resume 1 --epochs 2", r"log\.jsonl is missing or damaged",
          both(remove(f"{RUN}/checkpoint.pt"), write(f"{RUN}/log.jsonl", "epoch"))),
    Fault("log without epochs", VAE, "--resume 1 --epochs 2", r"log\.jsonl is damaged",
          both(remove(f"{RUN}/checkpoint.pt"), write(f"{RUN}/log.jsonl", ""))),
    Fault("a table whose name is too long", VAE, f"{FOLDER} --metadata {300 * 'x'}.csv",
          "cannot use x+: File name too long"),
    Fault("misspelt storage with a password", GRID,
          "--storag postgresql://me:secret@127.0.0.1/grids", "Unrecognized options",
          boxed=True),
]  # fmt: skip

GUIDANCE = [
    Fault("no feedback", FEEDBACK, GUIDE, "no feedback"),
    Fault("feedback that is not there", FEEDBACK, f"{GUIDE} --feedback other.csv",
          r"other\.csv: there is no such file"),
    Fault("feedback empty", FEEDBACK, f"{GUIDE} --feedback feedback.csv",
          r"feedback\.csv cannot be read as a table ", write("feedback.csv", "")),
    Fault("feedback without rows", FEEDBACK, f"{GUIDE} --feedback feedback.csv",
          r"feedback\.csv has no rows", edit("feedback.csv", lambda t: t[:0])),
    Fault("feedback without an anchor", FEEDBACK, f"{GUIDE} --feedback feedback.csv",
          r"feedback\.csv has no column y_anchor: it needs Unique_ID, delta,",
          edit("feedback.csv", lambda t: t.drop(columns="y_anchor"))),
    Fault("feedback of a fourth dimension", FEEDBACK, f"{GUIDE} --feedback feedback.csv",
          r"feedback\.csv has a column 4_anchor, but the model has 3 latent",
          edit("feedback.csv", lambda t: t.assign(**{"4_anchor": 0.0}))),
    Fault("feedback on an unknown cell", FEEDBACK, f"{GUIDE} --feedback feedback.csv",
          r"feedback\.csv: 1 ids are not in the run: cell_99\.png",
          edit("feedback.csv", lambda t: t.replace("cell_03.png", "cell_99.png"))),
    Fault("feedback on a cell twice", FEEDBACK, f"{GUIDE} --feedback feedback.csv",
          r"feedback\.csv: 1 cells have two rows: cell_00\.png",
          edit("feedback.csv", lambda t: pd.concat([t, t[:1]]))),
    Fault("feedback without an id", FEEDBACK, f"{GUIDE} --feedback feedback.csv",
          r"feedback\.csv: row 4 has no id",
          edit("feedback.csv", lambda t: t.replace("cell_03.png", np.nan))),
    Fault("feedback of negative weight", FEEDBACK, f"{GUIDE} --feedback feedback.csv",
          r"feedback\.csv: delta of cell_00\.png is -1",
          edit("feedback.csv", lambda t: t.assign(delta=-1.0))),
    Fault("feedback of no weight", FEEDBACK, f"{GUIDE} --feedback feedback.csv",
          r"feedback\.csv anchors no cell", edit("feedback.csv", lambda t: t.assign(delta=0.0))),
    Fault("feedback with NaN", FEEDBACK, f"{GUIDE} --feedback feedback.csv",
          r"feedback\.csv: x_anchor of cell_00\.png is nan, not a number",
          edit("feedback.csv", lambda t: t.assign(x_anchor=np.nan))),
    Fault("feedback with an infinite anchor", FEEDBACK, f"{GUIDE} --feedback feedback.csv",
          r"feedback\.csv: x_anchor of cell_00\.png is inf, not a number",
          edit("feedback.csv", lambda t: t.assign(x_anchor=np.inf))),
    Fault("feedback in words", FEEDBACK, f"{GUIDE} --feedback feedback.csv",
          r"feedback\.csv: x_anchor of cell_00\.png is 'left', not a number",
          edit("feedback.csv", lambda t: t.assign(x_anchor="left"))),
    Fault("cells trained on and held out", FEEDBACK,
          f"{GUIDE} --feedback feedback.csv --held-out feedback.csv",
          r"feedback\.csv: cell_00\.png is also in the feedback"),
    Fault("all cells held out", FEEDBACK, f"{GUIDE} --feedback feedback.csv --hold-out 1",
          r"--hold-out 1\.0: must be at least 0 and below 1"),
    Fault("a cell and itself", FEEDBACK, f"{GUIDE} --pairs pairs.csv",
          r"pairs\.csv: the pair cell_00\.png and cell_00\.png names one cell twice",
          edit("pairs.csv", lambda t: t.assign(Unique_ID_b=t["Unique_ID_a"]))),
    Fault("unknown relation", FEEDBACK, f"{GUIDE} --pairs pairs.csv",
          r"pairs\.csv: relation 'alike' of cell_00\.png and cell_03\.png must be",
          edit("pairs.csv", lambda t: t.assign(relation="alike"))),
    Fault("a pair twice", FEEDBACK, f"{GUIDE} --pairs pairs.csv",
          r"pairs\.csv: the pair cell_00\.png and cell_03\.png has two rows",
          edit("pairs.csv", lambda t: pd.concat([t, t[:1]]))),
    Fault("a pair without a partner", FEEDBACK, f"{GUIDE} --pairs pairs.csv",
          r"pairs\.csv has no column Unique_ID_b: it needs Unique_ID_a,",
          edit("pairs.csv", lambda t: t.drop(columns="Unique_ID_b"))),
    Fault("unknown axis", FEEDBACK, f"{GUIDE} --axis-hints hints.csv",
          r"hints\.csv: axis 'w' must be one of x, y, z",
          edit("hints.csv", lambda t: t.assign(axis="w"))),
    Fault("axis after words", FEEDBACK, f"{GUIDE} --axis-hints hints.csv",
          r"hints\.csv: column remark has no order",
          edit("hints.csv", lambda t: t.assign(column="remark"))),
    Fault("axis after an unknown column", FEEDBACK, f"{GUIDE} --axis-hints hints.csv",
          r"hints\.csv: the run has no column 'time'",
          edit("hints.csv", lambda t: t.assign(column="time"))),
    Fault("axis with an odd direction", FEEDBACK, f"{GUIDE} --axis-hints hints.csv",
          r"hints\.csv: direction 'sideways' must be rising, falling or empty",
          edit("hints.csv", lambda t: t.assign(direction="sideways"))),
    Fault("no epochs of feedback", FEEDBACK, f"{GUIDE} --feedback feedback.csv --epochs 0",
          "--epochs 0: must be at least 1"),
    Fault("feedback at rate 0", FEEDBACK, f"{GUIDE} --feedback feedback.csv --learning-rate 0",
          r"--learning-rate 0\.0: must be above 0"),
    Fault("feedback on no run", FEEDBACK, "--run 9 --feedback feedback.csv",
          "--run 9: no run of that number in results is finished"),
    Fault("feedback on other images", FEEDBACK, f"{GUIDE} --feedback feedback.csv",
          "cells has changed since results/0001-cells-VAE was trained: train a",
          replace_image("cell_00.png", np.full((SIZE, SIZE, 3), 9, np.uint8))),
]  # fmt: skip

MANY_RUNS = [
    Fault("a value of alpha twice", GRID, f"{FOLDER} --alphas 1 1", "--alpha: 1 is given twice"),
    Fault("a negative alpha", GRID, f"{FOLDER} --alphas -1 --betas 1",
          r"--alphas -1\.0: must be at least 0"),
    Fault("no workers", GRID, f"{FOLDER} --workers 0", "--workers 0: must be at least 1"),
    Fault("storage in another file", GRID, f"{FOLDER} --storage cells.csv",
          r"--storage cells\.csv: not the journal of a grid"),
    Fault("storage of no kind", GRID, f"{FOLDER} --storage nonsense://here",
          "--storage nonsense://here: cannot be used "),
    Fault("storage that does not answer", GRID,
          f"{FOLDER} --storage postgresql://nobody:secret@127.0.0.1:9/none",
          r"--storage postgresql://nobody:\*\*\*@127\.0\.0\.1:9/none: "
          "(cannot be used|its driver is missing) "),
    Fault("search without trials", GRID, f"{FOLDER} --sampler tpe --trials 0",
          "--trials 0: must be at least 1"),
    Fault("goal that is no score", GRID, f"{FOLDER} --alphas 0 --betas 1 --goal beauty",
          "--goal beauty: no such score"),
    Fault("grid that is not there", GRID, f"{FOLDER} --resume nowhere",
          r"--resume nowhere: no settings\.json there"),
    Fault("grid that is a run", GRID, f"--resume {RUN}",
          "--resume results/0001-cells-VAE: that run was made by another script "),
    Fault("a width of 0", WIDTHS, f"{FOLDER} --widths 0", "--widths 0: must be at least 1"),
    Fault("export of a grid", GRID, f"{FOLDER} --export parquet",
          "--export parquet: a grid exports nothing"),
    Fault("heat maps of no grid", HEATMAPS, "nowhere", "nowhere: give the folder of a grid"),
    Fault("heat maps over no axes", HEATMAPS, "array.csv", "name the two settings"),
    Fault("heat maps of a run", HEATMAPS, RUN, r"results/0001-cells-VAE holds no grid\.json"),
    Fault("heat maps of nothing", HEATMAPS, "", "no source"),
    Fault("scores of no run", RESCORE, "nowhere", r"nowhere holds no latents\.csv"),
    Fault("scores of nothing", RESCORE, "",
          r"give folders of grids or runs: score_optimization\.py results/0003-\.\.\."),
    Fault("scores of a run without codes", RESCORE, RUN,
          r"results/0001-cells-VAE holds no latents\.csv", remove(f"{RUN}/latents.csv")),
    Fault("swept projections that are not there", SWEEP, f"{SWEPT} --projections other.csv",
          r"other\.csv: there is no such file"),
    Fault("swept projections without columns", SWEEP, f"{SWEPT} --projections cells.csv",
          r"cells\.csv has no columns named like coordinates "),
    Fault("swept projections without ids", SWEEP, f"{SWEPT} --projections swept.csv",
          r"swept\.csv has no column Unique_ID ",
          edit("swept.csv", lambda t: t.drop(columns="Unique_ID"))),
    Fault("swept projections of other cells", SWEEP, f"{SWEPT} --projections swept.csv",
          r"swept\.csv: no Unique_ID matches an image",
          edit("swept.csv", lambda t: t.assign(Unique_ID="x" + t["Unique_ID"]))),
    Fault("criterion that is no score", SWEEP,
          f"{SWEPT} --projections swept.csv --criterion beauty",
          "--criterion beauty: no such score"),
    Fault("cells left out beyond -1", SWEEP,
          f"{SWEPT} --projections swept.csv --leave-out-beyond -1",
          r"--leave-out-beyond -1\.0: must be above 0"),
    Fault("sweep without features", SWEEP, f"{SWEPT} --features none",
          "--features none: nothing to project"),
    Fault("sweep over distance 3", SWEEP, f"{SWEPT} --features features.csv --min-dists 3",
          r"--min-dists 3\.0: must be at least 0 and at most 1"),
    Fault("unknown data set", COMPARE, f"{FOLDER} --sets mars",
          "--sets mars: known are simulated, jurkat, horvath, chaffer"),
    Fault("data set with an unknown setting", COMPARE, f"{FOLDER} --sets a:colour=red",
          "--sets a:colour=red: 'colour=red' is not setting=value of"),
    Fault("unknown method", COMPARE, f"{FOLDER} --methods GAN",
          "--methods GAN: known are Vanilla, SC, InfoMax, Aligned, Even, InfoMaxViews,"),
    Fault("method named twice", COMPARE, f"{FOLDER} --methods PCA PCA",
          "--methods PCA: PCA is named twice"),
    Fault("comparison without features", COMPARE, f"{FOLDER} --sets a:dataset=cells --methods PCA",
          "PCA needs features, and a has none: measure them, leave the method"),
    Fault("comparison by search", COMPARE, f"{FOLDER} --sampler tpe",
          "--sampler tpe: a comparison trains every combination"),
]  # fmt: skip

RAW = [
    Fault("no raw BBBC031", BBBC031, "--raw nowhere", "--raw nowhere: there is no such folder"),
    Fault("no raw Horvath", HORVATH, "--raw nowhere", "--raw nowhere: there is no such folder"),
    Fault("no raw Chaffer", CHAFFER, "--raw nowhere", "--raw nowhere: there is no such folder"),
    Fault("no fields", FIELDS, "--fields nowhere --channels A --nucleus-channel A",
          "--fields nowhere: there is no such folder"),
    Fault("fields without channels", FIELDS, "--fields cells --nucleus-channel A",
          r"--image-pattern \{well\}_\{site\}_\{channel\}\.tif: no file of cells fits"),
    Fault("fields of another name", FIELDS, "--fields cells --channels A B --nucleus-channel A",
          r"--image-pattern \{well\}_\{site\}_\{channel\}\.tif: no file of cells fits"),
    Fault("simulation of no cells", SIMULATE, "--dataset bbbc031 --out raw --cells 0",
          "--cells 0: 1 or more are needed"),
    Fault("simulation onto a file", SIMULATE, "--dataset bbbc031 --out cells.csv --cells 5",
          "cells.csv is there already and stays as it is"),
]  # fmt: skip

FAULTS = [
    *SETTINGS,
    *MEANINGS,
    *IMAGES,
    *TABLES,
    *CHECKPOINTS,
    *EDITED,
    *GUIDANCE,
    *MANY_RUNS,
    *RAW,
]


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
