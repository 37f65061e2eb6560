"""Look at a data set before training: sizes of the cell images, classes, examples, brightness.

    python util/file_size_distribution.py --dataset DataSets/MyCells --metadata my_cells.csv
    python util/file_size_distribution.py --dataset DataSets/Synthetic_Data_1 \
        --metadata DataSets/MetaData1_GT_link_CP.csv \
        --field raw/BBBC031_v1_dataset/Images/ProcessPlateSparse_wA03_s08_z1_t1_CELLMASK.png \
        --field-rows Well=A03 Site=8

Writes results/NNNN-<data set>-look/: sizes.csv and sizes.png (heights, widths, aspect ratios, how
many cells each input size would rescale), classes.csv, examples.png, channels.png, and for a field
of view centroids.png (where ground truth and CellProfiler put each cell).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from util.data_processing import Cells, CellSource, load_cells
from util.errors import UserError
from util.fitting import INPUT_SIZES
from util.helpers import compose_rgb, draw_sheet, mix_channels
from util.image_files import Meaning, image_shape, read_array, read_image
from util.image_folders import list_images
from util.metadata import choose_labels, ordered_classes, text_columns
from util.pages.report import write_report
from util.runs import create_run_folder, describe_run, write_json, write_table
from util.settings import notes_for_user, parse_options, run_script
from util.style import OKABE_ITO, house_style, save_figure
from util.tables import read_table

NO_CLASS = "(none)"
CELLS_PER_CLASS = 10  # on the sheet of examples
CLASSES_SHOWN = 24  # at most on that sheet
HISTOGRAM_CELLS = 2000  # looked at for the histograms of the channels
# Where the two tables put a cell, by the column names of the processors: x, y, name, marker.
CENTROIDS = (
    ("GT_x", "GT_y", "ground truth", "o"),
    ("CP_x", "CP_y", "CellProfiler", "x"),
)


@dataclass(frozen=True)
class Settings(CellSource):
    """Which data set to look at, and which field of view."""

    simulated_cells: int = 1000
    """Cells to draw when the data set is `simulated`."""
    field: str | None = None
    """Image of a field of view, over which the centroids and classes of its cells are drawn."""
    field_rows: tuple[str, ...] = ()
    """Which rows of the metadata lie in that field, as COLUMN=VALUE."""
    seed: int = 0
    """Seed of the choice of example cells."""
    results: str = "results"
    """Folder of the numbered result folders."""


SETTINGS = Settings()


def shapes_of(settings: Settings, cells: Cells) -> pd.DataFrame:
    """Height and width in pixels of every cell image as it lies in the source.

    Args:
        settings: which source.
        cells: what `load_cells` made of it.

    Returns:
        Unique_ID, height, width; of a folder in the order of its files, damaged ones left out.
    """
    source = Path(settings.dataset)
    if source.is_dir():
        files = list_images(source)
        with ThreadPoolExecutor() as pool:
            meaning = Meaning(settings.image_axes, settings.project_z)
            shapes = list(pool.map(lambda file: image_shape(file, meaning), files))
        found = [(f.name, *shape) for f, shape in zip(files, shapes, strict=True) if shape]
        return pd.DataFrame(found, columns=["Unique_ID", "height", "width"])
    if settings.dataset == "simulated":
        from util.simulate_cells import simulate_bbbc031

        crops, _ = simulate_bbbc031(settings.simulated_cells, settings.simulated_seed)
        sizes = np.array([crop.shape[:2] for crop in crops])
    else:
        images, _ = read_array(source, settings.array_key, settings.array_axes)
        sizes = np.tile(images.shape[2:], (len(images), 1))
    ids = cells.table["Unique_ID"]
    return pd.DataFrame({"Unique_ID": ids, "height": sizes[:, 0], "width": sizes[:, 1]})


def summarise_shapes(shapes: pd.DataFrame) -> pd.DataFrame:
    """Smallest, quartiles, median and largest of height, width, aspect ratio and longer side."""
    values = shapes[["height", "width"]].assign(
        aspect_ratio=shapes["width"] / shapes["height"],
        longer_side=shapes[["height", "width"]].max(axis=1),
    )
    table = values.quantile([0, 0.25, 0.5, 0.75, 1]).T
    table.columns = ["smallest", "lower quartile", "median", "upper quartile", "largest"]
    return table.rename_axis("quantity")


def rescaled_by_size(shapes: pd.DataFrame) -> pd.DataFrame:
    """How many images are larger than each input size in either side, and so would be rescaled."""
    longer = shapes[["height", "width"]].max(axis=1).to_numpy()
    counts = [int((longer > size).sum()) for size in INPUT_SIZES]
    shares = [100 * count / len(longer) for count in counts]
    return pd.DataFrame({"rescaled": counts, "percent": shares}, index=INPUT_SIZES).rename_axis(
        "input_size"
    )


def class_counts(labels: pd.Series, order: Sequence[str] = ()) -> pd.DataFrame:
    """Cells and percentage of each class in their order, the cells without one last."""
    counts = labels.fillna(NO_CLASS).value_counts()
    names = ordered_classes(labels.dropna(), order)
    counts = counts[names + [NO_CLASS] * (NO_CLASS in counts)]
    table = pd.DataFrame({"cells": counts, "percent": 100 * counts / counts.sum()})
    return table.rename_axis("class")


def plot_shapes(shapes: pd.DataFrame, input_size: int, path: Path) -> Path:
    """Histograms of height, width and aspect ratio, and the share above each input size."""
    with house_style():
        figure = Figure(figsize=(11, 6.4), layout="constrained")
        height, width, aspect, rescaled = figure.subplots(2, 2).flat
        largest = shapes[["height", "width"]].to_numpy().max()
        bins = np.linspace(0, 1.05 * largest, 60)
        for panel, column in ((height, "height"), (width, "width")):
            _histogram(panel, shapes[column], bins, f"{column} (px)")
            if input_size <= bins[-1]:
                panel.axvline(input_size, color=OKABE_ITO[5], linestyle="--")
            panel.plot([], [], "--", color=OKABE_ITO[5], label=f"input size {input_size}")
            panel.legend()
        ratio = shapes["width"] / shapes["height"]
        _histogram(aspect, ratio, 40, "aspect ratio, width / height")
        aspect.legend()
        table = rescaled_by_size(shapes)
        colours = [OKABE_ITO[5] if size == input_size else OKABE_ITO[4] for size in table.index]
        bars = rescaled.bar([str(size) for size in table.index], table["percent"], color=colours)
        words = [f"{count:,} cells" for count in table["rescaled"]]
        rescaled.bar_label(bars, words, padding=2)
        rescaled.set(xlabel="input size (px)", ylabel="larger cells, rescaled (%)", ylim=(0, 112))
        figure.suptitle(f"Sizes of {len(shapes):,} cell images")
        return save_figure(figure, path)


def _histogram(panel: Axes, values: pd.Series, bins: np.ndarray | int, name: str) -> None:
    panel.hist(values, bins=bins, color=OKABE_ITO[4])
    median = values.median()
    panel.axvline(median, color="black", label=f"median {median:.3g}")
    panel.set(xlabel=name, ylabel="cells")


def plot_examples(
    cells: Cells,
    labels: pd.Series | None,
    path: Path,
    seed: int = 0,
    order: Sequence[str] = (),
) -> Path:
    """A row of randomly chosen cells for each class in their order, at the input size."""
    labels = pd.Series("", cells.table.index) if labels is None else labels
    names = labels.fillna(NO_CLASS)
    rng = np.random.default_rng(seed)
    classes = list(class_counts(labels, order).index)[:CLASSES_SHOWN]
    rows = []
    for name in classes:
        places = np.flatnonzero(names == name)
        chosen = np.sort(rng.permutation(places)[:CELLS_PER_CLASS])
        pictures = compose_rgb(np.asarray(cells.images[chosen]), cells)
        blank = np.full((CELLS_PER_CLASS - len(chosen), *pictures.shape[1:]), 255, np.uint8)
        rows.append(np.concatenate([pictures, blank]))
    words = [f"{name}\n{(names == name).sum():,} cells" for name in classes]
    return draw_sheet(
        np.concatenate(rows), CELLS_PER_CLASS, path, rows=words, title="Cells of each class"
    )


def plot_channels(cells: Cells, path: Path) -> Path:
    """Histogram of the raw values of each channel, with the range that the network sees as 0..1."""
    step = max(1, len(cells.images) // HISTOGRAM_CELLS)
    pixels = np.asarray(cells.images[::step])
    n_channels = pixels.shape[1]
    with house_style():
        size = (4.2 * min(n_channels, 3), 3.1 * -(-n_channels // 3))
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(-(-n_channels // 3), min(n_channels, 3), squeeze=False).flat
        for channel, panel in enumerate(panels):
            if channel >= n_channels:
                panel.set_axis_off()
                continue
            values = pixels[:, channel].ravel()
            inside = values[values > 0] if cells.masked else values
            low, high = (int(inside.min()), int(inside.max())) if len(inside) else (0, 0)
            step = (high - low) // 80 + 1  # whole values in each bin
            bins = np.arange(low, high + 2 * step, step)
            panel.hist(inside, bins=bins, color=OKABE_ITO[4], log=True)
            panel.yaxis.set_major_formatter(lambda count, _: f"{count:,.0f}")
            for bound in (cells.low[channel], cells.high[channel]):
                panel.axvline(bound, color=OKABE_ITO[5], linestyle="--")
            panel.set(title=cells.channels[channel], xlabel="raw value", ylabel="pixels")
        outside = " other than 0" if cells.masked else ""
        figure.suptitle(f"Pixels{outside}; dashed: what the network sees as 0 and 1")
        return save_figure(figure, path)


def plot_centroids(field: np.ndarray, rows: pd.DataFrame, label: str | None, path: Path) -> Path:
    """Where ground truth and CellProfiler put each cell of a field, joined, with its class.

    Args:
        field: (C, H, W) integers.
        rows: cells of the field, with GT_x, GT_y and CP_x, CP_y in pixels, zero-based, or one of
            the two pairs.
        label: column of the class; None writes no class.
        path: PNG to write.

    Raises:
        UserError: the table has neither pair of columns.
    """
    there = [entry for entry in CENTROIDS if {entry[0], entry[1]}.issubset(rows.columns)]
    if not there:
        raise UserError(
            "--field: the metadata has neither GT_x, GT_y nor CP_x, CP_y to draw centroids by"
        )
    low, high = np.percentile(field, (0.1, 99.9), axis=(1, 2))[:, :, None, None]
    scaled = np.clip((field - low) / np.maximum(high - low, 1e-9), 0, 1)
    with house_style():
        figure = Figure(
            figsize=(9, 9 * field.shape[1] / field.shape[2] + 0.6), layout="constrained"
        )
        panel = figure.subplots()
        panel.imshow(mix_channels(scaled[None])[0])
        for x, y, name, marker in there:
            style = {"markeredgecolor": "white", "markerfacecolor": "none", "linestyle": ""}
            panel.plot(rows[x], rows[y], marker, **style, markersize=9, label=name)
        if len(there) == 2:
            panel.plot(rows[["GT_x", "CP_x"]].T, rows[["GT_y", "CP_y"]].T, color="white", lw=0.8)
        x, y = there[0][:2]
        if label:
            for _, row in rows.dropna(subset=[x, y]).iterrows():
                text = panel.annotate(
                    str(row[label]), (row[x], row[y]), (7, 7), textcoords="offset points"
                )
                text.set(color="white", fontsize=8)
        panel.set(xlabel="x (px)", ylabel="y (px)")
        panel.set(xlim=(0, field.shape[2]), ylim=(field.shape[1], 0))
        panel.grid(False)
        legend = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 2, "frameon": True}
        panel.legend(**legend, facecolor="grey", labelcolor="white")
        panel.set_title(f"{len(rows)} cells of the field", loc="left")
        return save_figure(figure, path)


def main(settings: Settings) -> Path:
    """Look at a data set; returns the folder of the results."""
    cells = load_cells(settings)
    label, labels, notes = choose_labels(cells.table, settings.label, settings.order)
    shapes = shapes_of(settings, cells)
    field = read_field(settings, label) if settings.field else None

    folder = create_run_folder(Path(settings.results), f"{cells.name}-look")
    write_table(folder / "sizes.csv", shapes)
    tables = [
        ("Sizes in pixels", summarise_shapes(shapes)),
        ("Images larger than an input size, which are rescaled", rescaled_by_size(shapes)),
    ]
    if labels is not None:
        counts = class_counts(labels, settings.order)
        tables.append((f"Cells by {label}", counts))
        write_table(folder / "classes.csv", counts.reset_index())
    figures = [
        ("Sizes", plot_shapes(shapes, settings.image_size, folder / "sizes.png")),
        (
            "Examples",
            plot_examples(cells, labels, folder / "examples.png", settings.seed, settings.order),
        ),
        ("Channels", plot_channels(cells, folder / "channels.png")),
    ]
    if field is not None:
        path = plot_centroids(*field, folder / "centroids.png")
        figures.append((f"Centroids over {Path(settings.field).name}", path))
    described = describe_run(settings, data=cells.describe())
    write_json(folder / "settings.json", described)
    notes = notes_for_user(cells.notes + notes)
    for note in notes:
        print(f"note: {note}")
    for caption, table in tables:
        print(f"\n{caption}\n{table.round(2).to_string()}")
    report = write_report(
        folder / "report.html",
        title=f"{folder.name}: a look at {cells.name}",
        summary_lines=[f"{len(cells.table):,} cells, {len(cells.channels)} channels."],
        settings=described["settings"] | {"data": described["data"]},
        tables=[(caption, table.round(2)) for caption, table in tables],
        figures=figures,
        notes=notes,
    )
    print(f"\nreport: {report}")
    return folder


def read_field(
    settings: Settings, label: str | None
) -> tuple[np.ndarray, pd.DataFrame, str | None]:
    """The field of view and the rows of the metadata that lie in it."""
    if settings.metadata is None:
        raise UserError("--field: give the table with the centroids as --metadata")
    if not Path(settings.field).is_file():
        raise UserError(f"--field {settings.field}: there is no such file")
    rows = read_table(Path(settings.metadata), text_columns(settings.label))
    for part in settings.field_rows:
        column, _, value = part.partition("=")
        if column not in rows:
            raise UserError(f"--field-rows {part}: {settings.metadata} has no column {column!r}")
        numbers = pd.to_numeric(rows[column], errors="coerce")
        wanted = pd.to_numeric(value, errors="coerce")
        same = rows[column].astype(str) == value
        rows = rows[same | (numbers == wanted if pd.notna(wanted) else False)]
    if rows.empty:
        raise UserError(
            f"--field-rows {' '.join(settings.field_rows)}: no such row in {settings.metadata}"
        )
    image, _ = read_image(Path(settings.field))
    return image, rows, label if label in rows else None


if __name__ == "__main__":
    run_script(lambda: main(parse_options(SETTINGS)))
