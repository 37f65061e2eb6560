"""The Chaffer-like set: layout, 16-bit channels, conditions, sub-populations against pixels."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage import measure
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import cross_val_predict

from util.errors import UserError
from util.simulators.chaffer import (
    CHANNEL_FOLDERS,
    CONDITIONS,
    HIGHEST,
    LOWEST,
    SPREAD,
    SUB_POPULATIONS,
    TRAITS,
    draw_chaffer_population,
    render_chaffer_cells,
    write_chaffer_raw,
)
from util.simulators.rendering import in_one_piece

CATEGORIES = ["Cell_Type_categ", "CD44_Level_categ", "CD104_Level_categ", "Treatment_categ"]
N = 60


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    out = tmp_path_factory.mktemp("raw") / "Chaffer"
    write_chaffer_raw(out, N, seed=2, unequal=0.1)
    return out


@pytest.fixture(scope="module")
def truth(raw):
    (path,) = [path for path in raw.glob("*.csv") if path.name != "truth.csv"]
    return pd.read_csv(path)


@pytest.fixture(scope="module")
def population():
    return draw_chaffer_population(5400, np.random.default_rng(0))


@pytest.fixture(scope="module")
def rendered():
    """30 cells of each sub-population drawn around its means."""
    rng = np.random.default_rng(1)
    number = np.repeat(np.arange(8), 30)
    means = np.array(list(SUB_POPULATIONS.values()))
    traits = np.clip(rng.normal(means[number], SPREAD), LOWEST, HIGHEST)
    return number, traits, in_one_piece(render_chaffer_cells(traits, rng))


def test_channels_lie_in_folders_with_the_real_beginnings(raw, truth):
    folders = sorted(path.name for path in raw.iterdir() if path.is_dir())
    beginnings = ["AR_", "DAPI_", "Phalloidin_", "Zeb1_images_mateched_to_subset_data"]
    assert len(folders) == 4
    assert all(name.startswith(b) for name, b in zip(folders, beginnings, strict=True))
    for name in folders:
        files = sorted(path.name for path in (raw / name).iterdir())
        assert files == sorted(truth["Unique_Cell_ID"] + ".png")


def test_images_are_16_bit_crops_and_a_few_are_unequal(raw):
    table = pd.read_csv(raw / "truth.csv", keep_default_na=False)
    unequal = []
    for row in table.itertuples():
        name = row.Unique_ID.replace(".tiff", ".png")
        images = {f: np.asarray(Image.open(raw / f / name)) for f in CHANNEL_FOLDERS}
        assert {image.dtype for image in images.values()} == {np.dtype(np.uint16)}
        shapes = [image.shape for image in images.values()]
        usual = max(set(shapes), key=shapes.count)
        odd = [f.split("_")[0] for f, image in images.items() if image.shape != usual]
        assert odd == ([row.unequal_channel] if row.unequal_channel else [])
        unequal += odd
        if not odd:
            cells = [image > 0 for image in images.values()]
            assert all((cell == cells[0]).all() for cell in cells)
            assert cells[0].any(axis=0).all() and cells[0].any(axis=1).all()  # a tight box
            assert measure.label(cells[0], connectivity=2).max() == 1
            assert max(image.max() for image in images.values()) > 5000
    assert len(unequal) == 6


def test_ground_truth_spells_conditions_and_categories(truth):
    assert list(truth.columns[:2]) == ["Unique_Cell_ID", "Cell_Condition_status"]
    assert truth["Unique_Cell_ID"].is_unique and len(truth) == N
    assert set(truth["Cell_Condition_status"]) == set(CONDITIONS)
    written = truth[CATEGORIES].replace("Not Specified", "NS").agg("_".join, axis=1)
    assert (written == truth["Cell_Condition_status"].str.rsplit("_", n=1).str[0]).all()
    assert truth[CATEGORIES].drop_duplicates().shape == (8, 4)
    for method in ("UMAP", "RTSNE", "PCA"):
        coordinates = truth.filter(regex=f"^{method}_")
        assert coordinates.shape == (N, 3) and np.isfinite(coordinates).all(axis=None)
        assert (coordinates.nunique() > N / 2).all()


def test_sizes_of_the_conditions_are_inverse_to_the_weights(population):
    table, _ = population
    sizes = table["Cell_Condition_status"].value_counts()
    expected = {name: 1 / weight for name, weight in CONDITIONS.items()}
    for name, size in sizes.items():
        assert abs(size - 5400 * expected[name] / sum(expected.values())) < 1
    # The order tells nothing about the condition.
    number = table["Cell_Condition_status"].map({name: i for i, name in enumerate(CONDITIONS)})
    assert abs(np.corrcoef(number, np.arange(5400))[0, 1]) < 0.06


def test_clones_are_alike_and_sub_populations_have_their_means(population):
    table, traits = population
    parts = table["Cell_Condition_status"].str.split("_")
    for key, mean in SUB_POPULATIONS.items():
        members = traits[parts.str[:4].map(tuple) == key]
        error = 4 * SPREAD / len(members) ** 0.5
        assert (np.abs(members.mean(axis=0) - mean) < error + 0.03 * np.array(mean)).all()


def test_projections_separate_the_sub_populations(population):
    table, _ = population
    label = table[CATEGORIES].agg("-".join, axis=1)
    for method in ("UMAP", "RTSNE", "PCA"):
        coordinates = table.filter(regex=f"^{method}_")
        between = coordinates.groupby(label).transform("mean").var()
        assert (between / coordinates.var()).max() > 0.5


def test_pixels_show_the_traits(rendered):
    _, traits, (image, cell, nucleus) = rendered
    assert image.shape == (240, 129, 129, 4) and image.dtype == np.uint16
    assert ((image > 0).all(axis=-1) == cell).all() and (cell == image.any(axis=-1)).all()
    radius, _, nucleus_radius, fibres, actin, dna, ar, zeb1 = traits.T
    assert np.corrcoef(nucleus.sum(axis=(1, 2)) ** 0.5, nucleus_radius)[0, 1] > 0.95
    assert np.corrcoef(cell.sum(axis=(1, 2)) ** 0.5, radius)[0, 1] > 0.9
    in_nucleus = [image[i][nucleus[i]].mean(axis=0) for i in range(len(image))]
    for c, level in ((1, dna), (2, ar), (3, zeb1)):
        assert np.corrcoef(np.array(in_nucleus)[:, c], level)[0, 1] > 0.9
    mean_actin = [image[i, ..., 0][cell[i]].mean() for i in range(len(image))]
    assert np.corrcoef(mean_actin, actin)[0, 1] > 0.6
    middle = np.s_[:, 49:80, 49:80, 0]
    contrast = image[middle].std(axis=(1, 2)) / image[middle].mean(axis=(1, 2))
    assert np.corrcoef(contrast, fibres)[0, 1] > 0.7


def test_markers_lie_in_the_nucleus(rendered):
    _, _, (image, cell, nucleus) = rendered
    for c in (1, 2, 3):
        assert image[..., c][nucleus].mean() > 2 * image[..., c][cell & ~nucleus].mean()
    assert image.max() < 65_535


def test_cells_fit_their_tiles(rendered):
    cell = rendered[2].cell
    assert not (cell[:, [0, -1]].any() or cell[:, :, [0, -1]].any())


def test_sub_populations_are_distinct_but_overlap(population):
    table, traits = population
    label = table[CATEGORIES].agg("-".join, axis=1)
    chosen = label.groupby(label).head(100).index
    forest = RandomForestClassifier(50, random_state=0)
    predicted = cross_val_predict(forest, traits[chosen], label[chosen], cv=4)
    assert 0.8 < balanced_accuracy_score(label[chosen], predicted) < 0.97


def test_conditions_are_as_frequent_as_the_thesis_weighs_them(population):
    """Its classifier weighs a class by the inverse of its size."""
    weights = {
        "HCC38HI_NS_NS_DHT_NS": 0.27, "HCC38HI_NS_NS_DMSO_NS": 0.51,
        "HCC38LO_NS_NS_DHT_NS": 0.031, "HCC38LO_NS_NS_DMSO_NS": 0.031,
        "HMLER_Primed_NS_DMSO_C2": 0.5, "HMLER_Primed_NS_DHT_C2": 0.41,
        "HMLER_Primed_NS_DMSO_C4": 0.27, "HMLER_Primed_NS_DHT_C4": 0.64,
        "HMLER_HIGH_Positive_DMSO_E3": 1.0, "HMLER_HIGH_Positive_DHT_E3": 0.51,
        "HMLER_HIGH_Positive_DMSO_F11": 0.27, "HMLER_HIGH_Positive_DHT_F11": 0.28,
    }  # fmt: skip
    share = 1 / pd.Series(weights)
    counts = population[0]["Cell_Condition_status"].value_counts()
    assert np.abs(counts - 5400 * share / share.sum()).max() < 1


def test_primed_cells_are_rounder_than_mesenchymal_ones(population):
    table, traits = population
    irregularity = pd.Series(traits[:, TRAITS.index("irregularity")])
    mean = irregularity.groupby(table["Cell_Condition_status"].str.split("_").str[1]).mean()
    assert mean["Primed"] < 0.16 and mean["HIGH"] > 0.25


def test_nuclei_are_nearly_round_and_no_pixel_of_a_cell_is_black(rendered):
    _, _, (image, cell, nucleus) = rendered
    solidity = [measure.regionprops(n.astype(np.uint8))[0].solidity for n in nucleus]
    assert np.mean(solidity) > 0.965  # 0.952 for nuclei that are twice as irregular
    assert image[cell].min() == 1 and image[~cell].max() == 0


def test_few_cells_have_no_discriminants():
    table, traits = draw_chaffer_population(9, np.random.default_rng(0))
    groups = table[CATEGORIES].agg("-".join, axis=1).nunique()
    assert 3 < groups and len(table) <= 2 * groups
    umap, pca = (table[[f"{name}_{axis}" for axis in "XYZ"]] for name in ("UMAP", "PCA"))
    np.testing.assert_allclose(umap, pca / pca.std(ddof=0).to_numpy(), atol=1e-4)


def test_same_seed_same_bytes(raw, tmp_path):
    write_chaffer_raw(tmp_path / "again", N, seed=2, unequal=0.1)
    write_chaffer_raw(tmp_path / "other", N, seed=3, unequal=0.1)
    files = [path.relative_to(raw) for path in raw.rglob("*") if path.is_file()]
    assert len(files) == 4 * N + 2
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (raw / file).read_bytes()
        assert (tmp_path / "other" / file).read_bytes() != (raw / file).read_bytes()


def test_traits_in_the_truth_are_named(raw):
    table = pd.read_csv(raw / "truth.csv")
    assert list(table.columns) == ["Unique_ID", *TRAITS, "unequal_channel"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"n_cells": 0}, "n_cells = 0"),
        ({"n_cells": 3}, "n_cells = 3"),
        ({"n_cells": 20, "unequal": -0.5}, "unequal = -0.5"),
        ({"n_cells": 20, "seed": 1.5}, "seed = 1.5"),
    ],
)
def test_bad_arguments_are_named(tmp_path, arguments, named):
    with pytest.raises(UserError, match=named):
        write_chaffer_raw(tmp_path / "raw", **arguments)
    assert not list(tmp_path.iterdir())
