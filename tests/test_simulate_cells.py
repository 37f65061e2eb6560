"""The simulated BBBC031 population: law against real rows, pictures against a real field."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy import ndimage, stats
from skimage import io, measure

from util.errors import UserError
from util.simulate_cells import (
    BBBC031_CLASS_SIZES,
    BBBC031_CORNERS,
    BBBC031_WELLS,
    TILE,
    Settings,
    bbbc031_appearance,
    bbbc031_positions,
    class_sizes,
    distance_to_initial_state,
    main,
    render_cells,
    simulate_bbbc031,
    write_bbbc031_raw,
)
from util.simulators.rendering import crop_cells

BBBC031 = Path(__file__).parents[2] / "shared" / "data" / "bbbc031"
GROUND_TRUTH = BBBC031 / "REAL_GroundTruth_10rows.csv"
CODES = BBBC031 / "vae_latent_codes_7387_cells.csv"
FIELD = BBBC031 / "ProcessPlateSparse_wA03_s08_z1_t1_CELLMASK.png"
COLOURS = ["GT_colorR", "GT_colorG", "GT_colorB"]
PLANE = ["PositionOnRegressionPlaneX", "PositionOnRegressionPlaneY"]
LAGS = (1, 2, 4, 8)

needs_shared_data = pytest.mark.skipif(not FIELD.exists(), reason="no ../shared/data/bbbc031")


@pytest.fixture(scope="module")
def all_processes():
    return simulate_bbbc031(700, seed=3)


@pytest.fixture(scope="module")
def process_7():
    # The figures of the pixels were measured on a field of cells of process 7.
    return simulate_bbbc031(600, seed=4, processes=[7])


def nucleus_of(crop):
    return (crop[..., 2] > 0) & (crop[..., :2] == 0).all(axis=2)


def texture_of(crop, colour):
    """Texture 0..1 of the cytoplasm from its strongest of red and green, and where it is."""
    channel = int(np.argmax(colour[:2]))
    cytoplasm = crop.any(axis=2) & ~nucleus_of(crop)
    return crop[..., channel] / 255 / colour[channel], cytoplasm


def autocorrelation(texture, inside, lag):
    """Mean over the horizontal and vertical pairs of pixels inside, over the variance."""
    deviation = texture - texture[inside].mean()
    products = [
        (deviation[lag:] * deviation[:-lag])[inside[lag:] & inside[:-lag]],
        (deviation[:, lag:] * deviation[:, :-lag])[inside[:, lag:] & inside[:, :-lag]],
    ]
    return np.concatenate(products).mean() / deviation[inside].var()


def texture_statistics(crops, colours):
    """Mean, standard deviation and autocorrelation at LAGS of each cell's cytoplasm."""
    rows = []
    for crop, colour in zip(crops, colours, strict=True):
        texture, inside = texture_of(crop, colour)
        values = texture[inside]
        correlations = [autocorrelation(texture, inside, lag) for lag in LAGS]
        rows.append([values.mean(), values.std(), *correlations])
    return np.array(rows)


def solidity(crop):
    return measure.regionprops(crop.any(axis=2).astype(np.uint8))[0].solidity


def coloured(colours):
    """Cells whose cytoplasm is not nearly pure blue, so that the nucleus can be told from it."""
    return np.asarray(colours)[:, :2].max(axis=1) > 0.05


@needs_shared_data
def test_appearance_is_the_law_of_the_ten_real_rows():
    real = pd.read_csv(GROUND_TRUTH, sep=";")
    colour, shape = bbbc031_appearance(*real[PLANE].to_numpy().T)
    np.testing.assert_allclose(colour, real.filter(like="ColorParams"), rtol=0, atol=1.01e-6)
    np.testing.assert_allclose(shape, real["ShapeParams"], rtol=0, atol=1.01e-6)


@needs_shared_data
def test_appearance_and_distance_are_the_law_of_the_real_rows():
    real = pd.read_csv(CODES)
    x, y = real[PLANE].to_numpy().T
    colour, shape = bbbc031_appearance(x, y)
    np.testing.assert_allclose(colour, real[COLOURS], rtol=0, atol=1.01e-6)
    np.testing.assert_allclose(shape, real["GT_Shape"], rtol=0, atol=1.01e-6)
    distance, state = distance_to_initial_state(x, y, real["GT_label"].to_numpy())
    assert (state == real["GT_initial_state"]).all()
    # The farthest cell of process 7 is not among the matched ones.
    known = real["GT_label"] < 7
    np.testing.assert_allclose(
        distance[known], real["GT_dist_toInit_state"][known], rtol=0, atol=1e-6
    )


@needs_shared_data
def test_real_cells_lie_uniformly_along_the_broken_lines():
    real = pd.read_csv(CODES)
    for process, corner in BBBC031_CORNERS.items():
        x, y = real.loc[real["GT_label"] == process, PLANE].to_numpy().T
        along, offset = arc_position(x, y, corner)
        assert offset.max() < 1e-6
        assert stats.kstest(along, "uniform").pvalue > 0.005


def arc_position(x, y, corner):
    """Arc length 0..1 along (0, 0) -> (corner, 1 - corner) -> (1, 1) and the distance from it."""
    nodes = np.array([[0, 0], [corner, 1 - corner], [1, 1]])
    candidates = []
    for leg in range(2):
        direction = nodes[leg + 1] - nodes[leg]
        relative = np.stack([x, y], axis=1) - nodes[leg]
        t = np.clip(relative @ direction / (direction @ direction), 0, 1)
        candidates.append(
            ((leg + t) / 2, np.linalg.norm(relative - t[:, None] * direction, axis=1))
        )
    (along_1, offset_1), (along_2, offset_2) = candidates
    nearer = offset_1 <= offset_2
    return np.where(nearer, along_1, along_2), np.minimum(offset_1, offset_2)


@pytest.mark.parametrize(("process", "corner"), BBBC031_CORNERS.items())
def test_positions_are_uniform_along_the_broken_line(process, corner):
    x, y = bbbc031_positions(np.full(4000, process), np.random.default_rng(process))
    along, offset = arc_position(x, y, corner)
    assert offset.max() < 1e-12
    assert stats.kstest(along, "uniform").pvalue > 1e-3


def test_process_7_fills_the_square_evenly():
    x, y = bbbc031_positions(np.full(4000, 7), np.random.default_rng(0))
    counts = np.histogram2d(x, y, bins=4, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3


def test_table_obeys_the_law(all_processes):
    _, table = all_processes
    for row in table.itertuples():
        x, y = row.PositionOnRegressionPlaneX, row.PositionOnRegressionPlaneY
        assert 0 <= x <= 1 and 0 <= y <= 1
        law = (y, 1 - x, 1 - abs(x + y - 1), 0.5 - (x + y) / 4)
        drawn = (row.GT_colorR, row.GT_colorG, row.GT_colorB, row.GT_Shape)
        assert drawn == pytest.approx(law, abs=1e-12)


def test_distance_to_initial_state_is_the_nearer_extreme_over_the_farthest(all_processes):
    _, table = all_processes
    farthest = dict.fromkeys(range(1, 8), 0.0)
    nearer = []
    for row in table.itertuples():
        x, y = row.PositionOnRegressionPlaneX, row.PositionOnRegressionPlaneY
        nearer.append(min((x**2 + y**2) ** 0.5, ((1 - x) ** 2 + (1 - y) ** 2) ** 0.5))
        farthest[row.GT_label] = max(farthest[row.GT_label], nearer[-1])
        assert row.GT_initial_state == ("red" if y > 1 - x else "green")
    expected = [d / farthest[p] for d, p in zip(nearer, table["GT_label"], strict=True)]
    np.testing.assert_allclose(table["GT_dist_toInit_state"], expected, rtol=0, atol=1e-12)


def test_class_sizes_are_the_real_ones_at_the_real_number():
    assert list(class_sizes(7387).values()) == [1018, 1204, 796, 987, 734, 432, 2216]


@pytest.mark.parametrize("n_cells", [1, 3, 6, 7, 8, 13, 100, 1001, 7386, 20_000])
def test_class_sizes_are_proportional(n_cells):
    sizes = class_sizes(n_cells)
    assert sum(sizes.values()) == n_cells
    for process, real_size in BBBC031_CLASS_SIZES.items():
        assert abs(sizes[process] - n_cells * real_size / 7387) < (1 if n_cells > 13 else 2)
        assert sizes[process] >= (1 if n_cells >= 7 else 0)


def test_table_names_cells_as_the_real_one():
    crops, table = simulate_bbbc031(40, processes=(6, 2))
    assert len(crops) == len(table) == 40
    assert table["GT_label"].value_counts().to_dict() == {2: 29, 6: 11}  # 1204 : 432
    assert table["Unique_ID"].is_unique
    for row in table.itertuples():
        assert row.Unique_ID == f"CellProcess_{row.GT_label}_simulated_id{row.GT_Cell_id}.tiff"


@needs_shared_data
def test_columns_are_those_of_the_real_table(all_processes):
    real = pd.read_csv(CODES, nrows=1).drop(columns=["GT_x", "GT_y"])
    expected = real.filter(regex="^(GT_|Unique_ID|PositionOn)").columns
    assert list(all_processes[1].columns) == list(expected)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"n_cells": 0}, "n_cells = 0"),
        ({"n_cells": -5}, "n_cells = -5"),
        ({"n_cells": 2.5}, "n_cells = 2.5"),
        ({"n_cells": True}, "n_cells = True"),
        ({"n_cells": 10, "seed": -1}, "seed = -1"),
        ({"n_cells": 10, "processes": []}, "processes = "),
        ({"n_cells": 10, "processes": [0, 1]}, "processes = "),
        ({"n_cells": 10, "processes": [2, 2]}, "processes = "),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(UserError, match=named):
        simulate_bbbc031(**arguments)


def test_same_seed_same_bytes():
    crops, table = simulate_bbbc031(150, seed=11)
    again, table_again = simulate_bbbc031(150, seed=11)
    other, table_other = simulate_bbbc031(150, seed=12)
    assert [c.tobytes() for c in crops] == [c.tobytes() for c in again]
    assert [c.shape for c in crops] == [c.shape for c in again]
    pd.testing.assert_frame_equal(table, table_again)
    assert all(c.tobytes() != o.tobytes() for c, o in zip(crops, other, strict=True))
    assert (table[PLANE] != table_other[PLANE]).all(axis=None)


def test_tiles_hold_a_textured_cell_around_its_blue_nucleus():
    colours = np.tile([0.8, 0.4, 0.2], (30, 1))
    image, cell, nucleus = render_cells(colours, np.linspace(0, 0.5, 30), np.random.default_rng(0))
    assert image.shape == (30, TILE, TILE, 3) and image.dtype == np.uint8
    assert nucleus[:, TILE // 2, TILE // 2].all() and (cell | ~nucleus).all()
    assert (image.any(axis=-1) == cell).all()
    assert (image[nucleus][:, :2] == 0).all() and (image[nucleus][:, 2] >= 50).all()
    cytoplasm = image[cell & ~nucleus].astype(float)
    # One texture for the three channels, up to rounding to 8 bit.
    texture = cytoplasm / [0.8, 0.4, 0.2]
    assert np.abs(texture - texture[:, :1]).max() < 0.5 / 0.8 + 0.5 / 0.2 + 1e-6
    centres = [ndimage.center_of_mass(n) for n in nucleus]
    assert np.abs(np.array(centres) - TILE // 2).max() < 1.5


def test_crops_drop_what_is_apart_from_the_nucleus():
    tiles = render_cells(np.ones((2, 3)), np.zeros(2), np.random.default_rng(0))
    whole = [crop.copy() for crop in crop_cells(tiles)]
    tiles.cell[0, 2, 3] = True
    tiles.image[0, 2, 3] = 200
    for crop, expected in zip(crop_cells(tiles), whole, strict=True):
        np.testing.assert_array_equal(crop, expected)


def test_crops_are_one_object_in_a_tight_box_on_exact_zero(all_processes):
    crops, _ = all_processes
    for crop in crops:
        assert crop.dtype == np.uint8 and crop.ndim == 3 and crop.shape[2] == 3
        cell = crop.any(axis=2)
        assert cell[0].any() and cell[-1].any() and cell[:, 0].any() and cell[:, -1].any()
        assert not cell.all()  # the corners of the box
        assert ndimage.label(cell, np.ones((3, 3)))[1] == 1
        assert max(crop.shape) < TILE  # not cut off by the tile


def test_cells_have_the_real_sizes(process_7):
    crops, table = process_7
    area = np.array([crop.any(axis=2).sum() for crop in crops])
    height, width = np.array([crop.shape[:2] for crop in crops]).T
    # The range of 40 cells holds 39 / 41 of a population on average, and their medians have a
    # standard error of 70 px (area) and 1.3 px (height).
    assert np.median(area) == pytest.approx(2736, abs=140)
    assert np.mean((area >= 1876) & (area <= 3517)) > 0.9
    assert np.median(height) == pytest.approx(62, abs=2)
    assert np.mean((height >= 45) & (height <= 79)) > 0.95
    assert np.mean((width >= 54) & (width <= 72)) > 0.85
    fits = np.maximum(height, width) <= 64
    assert fits.mean() == pytest.approx(17 / 40, abs=0.1)

    usable = coloured(table[COLOURS])
    nucleus = np.array([nucleus_of(crop).sum() for crop in crops])
    assert np.median((area - nucleus)[usable]) == pytest.approx(2432, abs=140)
    assert np.mean(((nucleus >= 288) & (nucleus <= 334))[usable]) > 0.9
    assert 255 < nucleus[usable].min() and nucleus[usable].max() < 370


def test_cytoplasm_has_the_real_brightness(process_7):
    crops, table = process_7
    colours = table[COLOURS].to_numpy()
    usable = np.flatnonzero(coloured(colours))[:300]
    mean = texture_statistics([crops[i] for i in usable], colours[usable])[:, 0]
    assert mean.mean() == pytest.approx(0.60, abs=0.01)
    assert np.mean((mean >= 0.52) & (mean <= 0.69)) > 0.9
    assert mean.std() > 0.02


@pytest.fixture(scope="module")
def real_and_simulated():
    """Cells of the real field that its border does not cut, and ten simulated ones for each."""
    truth = pd.read_csv(CODES).query("Well == 'A03' and Site == 8")
    field = io.imread(FIELD)
    labels, _ = ndimage.label(field.any(axis=2))
    boxes = ndimage.find_objects(labels)
    crops, kept = [], []
    for row in truth.itertuples():
        label = labels[row.GT_y - 1, row.GT_x - 1]
        box = boxes[label - 1]
        if min(box[0].start, box[1].start) > 0 and max(box[0].stop, box[1].stop) < len(field):
            crops.append(np.where((labels[box] == label)[..., None], field[box], 0))
            kept.append(row.Index)
    truth = truth.loc[kept]
    repeated = truth.loc[truth.index.repeat(10)]
    tiles = render_cells(
        repeated[COLOURS].to_numpy(), repeated["GT_Shape"].to_numpy(), np.random.default_rng(5)
    )
    return (crops, truth), (list(crop_cells(tiles)), repeated)


@needs_shared_data
def test_texture_is_that_of_the_real_field(real_and_simulated):
    real, simulated = (texture_statistics(c, t[COLOURS].to_numpy()) for c, t in real_and_simulated)
    mean_gap, std_gap, *correlation_gaps = np.abs(real.mean(axis=0) - simulated.mean(axis=0))
    assert mean_gap < 0.02
    assert std_gap < 0.1 * real[:, 1].mean()
    assert max(correlation_gaps) < 0.05
    # Cells differ from each other as much as the real ones do.
    assert simulated.std(axis=0) == pytest.approx(real.std(axis=0), rel=0.3)


@needs_shared_data
def test_nucleus_texture_is_that_of_the_real_field(real_and_simulated):
    statistics = []
    for crops, _ in real_and_simulated:
        rows = []
        for crop in crops:
            inside, texture = nucleus_of(crop), crop[..., 2] / 255
            correlations = [autocorrelation(texture, inside, lag) for lag in LAGS]
            rows.append([texture[inside].mean(), texture[inside].std(), *correlations])
        statistics.append(np.mean(rows, axis=0))
    np.testing.assert_allclose(*statistics, rtol=0, atol=0.06)


@needs_shared_data
def test_solidity_falls_with_shape_as_in_the_real_field(real_and_simulated):
    by_shape = []
    for crops, truth in real_and_simulated:
        bins = pd.cut(truth["GT_Shape"].to_numpy(), [0, 0.2, 0.26, 0.5])
        by_shape.append(pd.Series([solidity(crop) for crop in crops]).groupby(bins, observed=True))
    real, simulated = (groups.mean().to_numpy() for groups in by_shape)
    assert len(real) == 3 and np.all(np.diff(simulated) < -0.01)
    error = by_shape[0].sem().to_numpy()
    assert np.all(np.abs(real - simulated) < 3 * error + 0.003)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Two fields, a tenth of whose cells CellProfiler misses."""
    out = tmp_path_factory.mktemp("raw") / "BBBC031"
    write_bbbc031_raw(out, 2, seed=7, missed=0.1)
    return out


def fields_of(raw):
    """Name, picture, cytoplasm, nuclei and truth of each field."""
    truth = pd.read_csv(raw / "truth.csv")
    for name, cells in truth.groupby("ImageName"):
        field = io.imread(raw / "BBBC031_v1_dataset" / "Images" / f"{name}_CELLMASK.png")
        masks = (
            tifffile.imread(raw / "BBBC031_v1_dataset" / "Masks" / f"{name}_{kind}.tiff")
            for kind in ("CELLMASK", "NUCLMASK")
        )
        yield name, field, *masks, cells


def test_raw_files_lie_where_those_of_the_download_do(raw):
    names = [f"ProcessPlateSparse_w{well}_s01_z1_t1" for well in ("A01", "A02")]
    dataset = raw / "BBBC031_v1_dataset"
    images = sorted(path.name for path in (dataset / "Images").iterdir())
    assert images == [f"{name}_CELLMASK.png" for name in names]
    masks = sorted(path.name for path in (dataset / "Masks").iterdir())
    assert masks == [f"{name}_{kind}MASK.tiff" for name in names for kind in ("CELL", "NUCL")]
    crops = raw / "CellProfiler_Outputs" / "SingleWholeCellCroppedImages"
    folders = sorted(str(path.relative_to(crops)) for path in crops.glob("*/*"))
    colours = ("Blue", "Green", "Red")
    assert folders == [f"CroppedImages_{c}/{well}_01" for c in colours for well in ("A01", "A02")]


def test_masks_are_the_cytoplasm_and_the_nuclei_of_forty_cells_apart(raw):
    for _, field, cytoplasm, nuclei, cells in fields_of(raw):
        assert field.shape == (950, 950, 3) and field.dtype == np.uint8
        assert {*np.unique(cytoplasm), *np.unique(nuclei)} == {0, 255}
        assert not (cytoplasm & nuclei).any()
        np.testing.assert_array_equal(field.any(axis=2), (cytoplasm | nuclei) > 0)
        labels, n = ndimage.label(field.any(axis=2), np.ones((3, 3)))
        assert n == len(cells) == 40
        assert not (labels[[0, -1]].any() or labels[:, [0, -1]].any())
        # A cell of the table in each, at its nucleus; the table counts from one.
        at = labels[cells["LocationY"] - 1, cells["LocationX"] - 1]
        assert sorted(at) == list(range(1, 41))
        assert (nuclei[cells["LocationY"] - 1, cells["LocationX"] - 1] == 255).all()
        centres = ndimage.center_of_mass(nuclei, labels, at)
        location = cells[["LocationY", "LocationX"]].to_numpy() - 1
        assert np.abs(centres - location).max() < 1.5


def test_colours_of_the_fields_obey_the_law(raw):
    for _, field, cytoplasm, _, cells in fields_of(raw):
        labels, _ = ndimage.label(field.any(axis=2), np.ones((3, 3)))
        at = labels[cells["LocationY"] - 1, cells["LocationX"] - 1]
        inside = np.where(cytoplasm > 0, labels, 0)
        mean = np.stack([ndimage.mean(field[..., c], inside, at) for c in range(3)], axis=1)
        expected = cells[["ColorParamsR", "ColorParamsG", "ColorParamsB"]].to_numpy()
        texture = mean / 255 @ [1, 1, 1] / expected.sum(axis=1)  # its mean is 0.60, 0.52-0.69
        assert (np.abs(texture - 0.6) < 0.12).all()
        np.testing.assert_allclose(mean / 255 / texture[:, None], expected, atol=0.01)


def test_truth_links_each_cell_with_its_crop(raw):
    crops = raw / "CellProfiler_Outputs" / "SingleWholeCellCroppedImages"
    missed = 0
    for name, field, _, _, cells in fields_of(raw):
        folder = name[20:23] + "_01"
        labels, _ = ndimage.label(field.any(axis=2), np.ones((3, 3)))
        boxes = ndimage.find_objects(labels)
        found = cells.dropna()
        missed += len(cells) - len(found)
        files = crops / "CroppedImages_Red" / folder
        assert {path.name for path in files.iterdir()} == {
            f"SplitCellBodies_{n}.png" for n in range(1, len(found) + 1)
        }
        for row in found.itertuples():
            label = labels[row.LocationY - 1, row.LocationX - 1]
            alone = np.where((labels == label)[..., None], field, 0)[boxes[label - 1]]
            for c, colour in enumerate(("Red", "Green", "Blue")):
                file = f"CroppedImages_{colour}/{folder}/SplitCellBodies_{row.ObjectNumber:.0f}.png"
                np.testing.assert_array_equal(io.imread(crops / file), alone[..., c])
            rows, columns = np.nonzero(alone.any(axis=2))
            corner = (boxes[label - 1][0].start, boxes[label - 1][1].start)
            centre = (rows.mean() + corner[0], columns.mean() + corner[1])
            assert (row.AreaShape_Center_Y, row.AreaShape_Center_X) == pytest.approx(centre)
        assert (found["ObjectNumber"] != found["CellIdx"]).sum() > 30
    assert 2 <= missed <= 18  # of 80, one in ten


def test_spreadsheet_lists_the_objects_of_the_truth(raw):
    path = raw / "CellProfiler_Outputs" / "Quantitative_Outputs"
    path /= "200515_Horvath_Simple_AnalysisSplitCellBodies.csv"
    table, truth = pd.read_csv(path), pd.read_csv(raw / "truth.csv").dropna()
    keys = ["ImageNumber", "ObjectNumber"]
    assert table[keys].equals(table[keys].sort_values(keys)) and len(table) == len(truth)
    both = table.merge(truth, on=keys, suffixes=("", "_truth"), validate="one_to_one")
    for axis in "XY":
        column = f"AreaShape_Center_{axis}"
        np.testing.assert_allclose(both[column], both[f"{column}_truth"], atol=1e-6)
    well = both["ImageName"].str[20:23]
    assert (both["Metadata_Well"] == well).all() and (both["Metadata_Site"] == 1).all()


@needs_shared_data
def test_tables_are_written_as_the_real_ones(raw):
    ours = (raw / "BBBC031_v1_DatasetGroundTruth.csv").read_text().splitlines()
    real = GROUND_TRUTH.read_text().splitlines()
    assert ours[0] == real[0] and len(ours) == 81

    def shape_of(line):
        return re.sub(r"\d+", "0", re.sub(r"\.\d{6}", ".6", line.split(";", 1)[1]))

    assert {shape_of(line) for line in ours[1:]} == {shape_of(line) for line in real[1:]}
    name = "Quantitative_Outputs/200515_Horvath_Simple_AnalysisSplitCellBodies.csv"
    header = pd.read_csv(BBBC031 / "cellprofiler_style" / name, nrows=1).columns
    written = pd.read_csv(raw / "CellProfiler_Outputs" / name, nrows=1).columns
    assert set(header) <= set(written)
    assert list(written[:4]) == list(header[:4])
    assert list(written[4:]) == sorted(written[4:])


@needs_shared_data
def test_wells_hold_the_processes_of_the_real_ones():
    real = pd.read_csv(CODES)
    counts = pd.crosstab(real["Well"], real["GT_label"])
    assert list(counts.index) == sorted(BBBC031_WELLS)
    for well, row in counts.iterrows():
        assert str(row.idxmax()) == BBBC031_WELLS[well][0]
        assert {str(process) for process in row.index[row > 0]} == set(BBBC031_WELLS[well])


def test_fewer_fields_are_the_same_ones(raw, tmp_path):
    write_bbbc031_raw(tmp_path / "one", 1, seed=7, missed=0.1)
    write_bbbc031_raw(tmp_path / "other", 1, seed=8, missed=0.1)
    files = [path for path in (tmp_path / "one").rglob("*") if path.suffix in (".png", ".tiff")]
    assert len(files) > 90
    for file in files:
        assert file.read_bytes() == (raw / file.relative_to(tmp_path / "one")).read_bytes()
    other = tmp_path / "other" / "truth.csv"
    assert other.read_bytes() != (tmp_path / "one" / "truth.csv").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"n_fields": 0}, "n_fields = 0"),
        ({"n_fields": 217}, "n_fields = 217"),
        ({"n_fields": 1, "missed": 1.5}, "missed = 1.5"),
        ({"n_fields": 1, "seed": -1}, "seed = -1"),
    ],
)
def test_bad_arguments_of_the_raw_set_leave_nothing(tmp_path, arguments, named):
    with pytest.raises(UserError, match=named):
        write_bbbc031_raw(tmp_path / "raw", **arguments)
    assert not list(tmp_path.iterdir())


def test_main_writes_every_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = {
        "bbbc031": "BBBC031",
        "horvath": "Horvath",
        "chaffer": "Chaffer",
        "dsprites": "dSprites",
    }
    for dataset, folder in folders.items():
        out = main(Settings(dataset=dataset, cells=25, progress=False))
        assert out == Path("DataSets/raw") / folder
        if dataset != "dsprites":
            n_cells = len(pd.read_csv(out / "truth.csv"))
            assert n_cells == (40 if dataset == "bbbc031" else 25)  # whole fields of BBBC031
    assert sorted(path.name for path in Path("DataSets/raw").iterdir()) == sorted(folders.values())


def test_command_line_never_writes_over_a_set(tmp_path, run_script):
    taken = tmp_path / "DataSets" / "raw" / "BBBC031" / "mine.txt"
    taken.parent.mkdir(parents=True)
    taken.write_text("mine")
    done = run_script("util/simulate_cells.py", "--cells", 40, check=False)
    assert done.returncode == 2 and "is there already" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [taken]


@pytest.mark.parametrize("options", [{"cells": 0}, {"cells": 8641}, {"missed": -1.0}])
def test_bad_settings_are_named(tmp_path, options):
    with pytest.raises(UserError, match="|".join(options)):
        main(Settings(out=tmp_path / "raw", progress=False, **options))
    assert not list(tmp_path.iterdir())
