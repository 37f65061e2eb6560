"""Names of coordinate columns, projections in anybody's table, and the check of codes."""

import numpy as np
import pandas as pd
import pytest

from util.errors import UserError
from util.latents import (
    anchor_columns,
    axis_names,
    code_columns,
    coordinates_of,
    find_code_columns,
    find_projections,
    finite_matrix,
    first_alike,
    known_of,
    logvar_columns,
    logvars_of,
    map_columns,
    read_codes,
    read_latents,
    swept_parameter,
    to_unit_scale,
)


def test_names_of_axes_and_columns():
    assert axis_names(5) == ["x", "y", "z", "4", "5"]
    assert code_columns(4) == ["VAE_x_coord", "VAE_y_coord", "VAE_z_coord", "VAE_4_coord"]
    assert logvar_columns(code_columns(2)) == ["VAE_x_logvar", "VAE_y_logvar"]
    assert logvar_columns(["my_coord_x_coord"]) == ["my_coord_x_logvar"]
    assert map_columns("UMAP", 3) == ["UMAP_X", "UMAP_Y", "UMAP_Z"]
    assert anchor_columns(4) == ["x_anchor", "y_anchor", "z_anchor", "4_anchor"]


@pytest.mark.parametrize("dimensions", [2, 3, 12])
def test_every_axis_of_a_run_is_found(tmp_path, dimensions):
    names = code_columns(dimensions)
    means = pd.DataFrame(np.random.default_rng(0).normal(size=(5, dimensions)), columns=names)
    logvars = pd.DataFrame(-means.to_numpy(), columns=logvar_columns(names))
    before = pd.DataFrame(0.0, means.index, code_columns(dimensions, "VAE_before"))
    umap = pd.DataFrame(1.0, means.index, map_columns("UMAP", 2))
    table = pd.concat([umap, means, logvars, before], axis=1)
    assert find_code_columns(table) == names
    assert find_projections(table) == {
        "UMAP": ["UMAP_X", "UMAP_Y"],
        "VAE": names,
        "VAE_before": code_columns(dimensions, "VAE_before"),
    }
    table.to_csv(tmp_path / "latents.csv", index=False)
    mean, logvar = read_codes(tmp_path)
    np.testing.assert_array_equal(mean, means.to_numpy(np.float32))
    np.testing.assert_array_equal(logvar, -mean)
    latents, projections = read_latents(tmp_path)
    assert list(projections) == ["VAE", "UMAP", "VAE_before"] and len(latents) == 5


def test_a_folder_without_codes_is_refused(tmp_path):
    table = pd.DataFrame({"UMAP_X": [0.0], "UMAP_Y": [0.0]})
    table.to_csv(tmp_path / "latents.csv", index=False)
    with pytest.raises(UserError, match="has no column VAE_x_coord: give the folder of a run"):
        read_codes(tmp_path)
    table.assign(VAE_x_coord=0.0).to_csv(tmp_path / "latents.csv", index=False)
    with pytest.raises(UserError, match="has no column VAE_x_logvar"):
        read_codes(tmp_path)


def test_coordinates_are_found_by_their_names():
    names = "UMAP_X UMAP_Y UMAP_Z RTSNE_30_x RTSNE_30_y VAE_x_coord VAE_y_coord VAE_x_logvar"
    positions = "GT_x GT_y CP_x CP_y Location_Center_X Location_Center_Y dose lonely_x"
    table = pd.DataFrame(np.ones((2, 16)), columns=f"{names} {positions}".split())
    assert find_projections(table) == {
        "UMAP": ["UMAP_X", "UMAP_Y", "UMAP_Z"],
        "RTSNE_30": ["RTSNE_30_x", "RTSNE_30_y"],
        "VAE": ["VAE_x_coord", "VAE_y_coord"],
    }
    assert "VAE_x_logvar" not in known_of(table, {"UMAP": ["UMAP_X"]})
    assert "dose" in known_of(table, {"UMAP": ["UMAP_X"]})


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ([f"PC_{i}" for i in range(1, 31)], "PC"),
        ([f"UMAP_{i}" for i in range(1, 4)], "UMAP"),
        ([f"z_{i}" for i in range(12)], "z"),
        (["X_umap-0", "X_umap-1"], "X_umap"),
        (["umap1", "umap2"], "umap"),
        (["UMAP 1", "UMAP 2"], "UMAP"),
        (["tSNE-1", "tSNE-2"], "tSNE"),
        (["umap.x", "umap.y"], "umap"),
        ([f"X_scVI_{i}" for i in range(10)], "X_scVI"),
        ([f"latent{i}" for i in range(64)], "latent"),
        (code_columns(12), "VAE"),
        (map_columns("UMAP", 5), "UMAP"),
    ],
)
def test_axes_of_any_number_are_found_in_their_order(columns, name):
    table = pd.DataFrame(np.ones((2, len(columns))), columns=columns)
    assert find_projections(table[sorted(columns)]) == {name: columns}


@pytest.mark.parametrize(
    "columns",
    [["dose_2", "dose_4"], ["CD4", "CD8"], ["centroid-0", "centroid-1"], ["gene1", "gene2"],
     [f"bbox-{i}" for i in range(4)], [f"Texture_Contrast_DNA_3_0{i}" for i in range(4)],
     [f"AreaShape_SpatialMoment_0_{i}" for i in range(4)], ["moments_hu-0", "moments_hu-1"],
     ["time_24", "time_48"], ["Location_Center_X", "Location_Center_Y"]],
)  # fmt: skip
def test_numbered_columns_that_are_no_coordinates(columns):
    with pytest.raises(UserError, match="no columns named like coordinates"):
        find_projections(pd.DataFrame(np.ones((2, len(columns))), columns=columns))


def test_two_columns_of_one_axis_are_refused():
    table = pd.DataFrame(np.ones((2, 4)), columns=["UMAP_X", "UMAP_Y", "UMAP_1", "UMAP_2"])
    with pytest.raises(UserError, match="UMAP_X and UMAP_1 are the same axis of UMAP"):
        find_projections(table)
    assert len(find_projections(table, ["UMAP_1", "UMAP_2"])["UMAP"]) == 2


def test_coordinates_asked_for():
    table = pd.DataFrame(np.ones((2, 4)), columns=["a", "b", "UMAP_X", "UMAP_Y"])
    assert find_projections(table, ["UMAP_X", "UMAP_Y"]) == {"UMAP": ["UMAP_X", "UMAP_Y"]}
    assert find_projections(table, ["a", "b"]) == {"projection": ["a", "b"]}
    asked = ["mine=a,b", "UMAP=UMAP_X,UMAP_Y"]
    assert find_projections(table, asked) == {"mine": ["a", "b"], "UMAP": ["UMAP_X", "UMAP_Y"]}
    with pytest.raises(UserError, match="no column 'c'; it has a, b"):
        find_projections(table, ["a", "c"])
    with pytest.raises(UserError, match="`columns` mine: give NAME=COLUMN"):
        find_projections(table, ["mine", "UMAP=UMAP_X"])
    with pytest.raises(UserError, match="no columns named like coordinates"):
        find_projections(table[["a", "b"]])


def test_log_variances_stand_beside_their_means():
    table = pd.DataFrame({name: [0.5] for name in [*code_columns(2), *map_columns("UMAP", 2)]})
    projections = {"VAE": code_columns(2), "UMAP": map_columns("UMAP", 2)}
    assert logvars_of(table, projections) == {}
    table[logvar_columns(code_columns(2))] = [[-1.0, -2.0]]
    (found,) = logvars_of(table, projections).items()
    assert found[0] == "VAE" and found[1].tolist() == [[-1, -2]]


def test_names_of_a_sweep():
    assert swept_parameter("UMAP_15") == ("UMAP", 15)
    assert swept_parameter("RTSNE_0.5") == ("RTSNE", 0.5)
    assert swept_parameter("VAE_15") is None and swept_parameter("UMAP") is None


def test_coordinates_with_gaps_are_left_out_whole():
    table = pd.DataFrame({"x": [0.0, 1.0, np.inf], "y": [1.0, np.nan, 2.0]})
    np.testing.assert_array_equal(coordinates_of(table, ["x", "y"]), [[0, 1]] + [[np.nan] * 2] * 2)
    with pytest.raises(UserError, match="no column z"):
        coordinates_of(table, ["x", "z"])


def test_a_finite_matrix_is_handed_on_without_a_copy():
    values = np.arange(6.0).reshape(3, 2)
    assert np.shares_memory(finite_matrix(values, "codes"), values)
    assert finite_matrix(values, "codes", np.float32).dtype == np.float32
    assert finite_matrix(values.astype(">f8"), "codes").dtype == np.dtype("f8")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(3), r"codes: a float64 array of shape \(3,\), not \(N, d\) numbers"),
        (np.zeros((3, 0)), r"shape \(3, 0\)"),
        (np.zeros((3, 2, 2)), r"shape \(3, 2, 2\)"),
        (np.array([["a"]]), "a <U1 array"),
        (np.array([[0, 1], [np.nan, 0]]), r"codes: 1 rows with NaN .*first in row 1"),
        (np.array([[np.inf, -np.inf], [0, 1]]), "1 rows with NaN or infinite"),
    ],
)
def test_what_is_no_finite_matrix_is_refused(values, message):
    with pytest.raises(UserError, match=message):
        finite_matrix(values, "codes")


def test_large_numbers_are_finite_and_fit_their_type():
    large = np.array([[1e308, 1e308], [1.0, -1e308]])
    assert np.array_equal(finite_matrix(large, "codes"), large)
    with pytest.raises(UserError, match=r"codes: 1 rows with numbers beyond float32 .*row 1"):
        finite_matrix(np.array([[0, 1], [1e39, 0]]), "codes", np.float32)


@pytest.mark.parametrize("scale", [1e-290, 1e-160, 1.0, 1e200, 1e308])
def test_unit_scale_keeps_order_and_digits(scale):
    values = np.random.default_rng(0).uniform(-1, 1, (50, 3)) * [1, 2.0**-8, 2.0**-30] * scale
    scaled = to_unit_scale(values)
    assert 0.5 <= np.abs(scaled).max() <= 1
    mantissa, exponent = np.frexp(scaled)
    np.testing.assert_array_equal(mantissa, np.frexp(values)[0])
    assert len(np.unique(exponent - np.frexp(values)[1])) == 1  # a power of two
    by_column = np.abs(to_unit_scale(values, axis=0)).max(axis=0)
    assert ((by_column >= 0.5) & (by_column <= 1)).all()
    assert (to_unit_scale(np.zeros((2, 2))) == 0).all()


def test_rows_that_are_alike_name_the_first():
    rows = np.random.default_rng(0).integers(0, 5, (1000, 2))
    expected = [next(j for j in range(i + 1) if (rows[j] == rows[i]).all()) for i in range(1000)]
    for kind in (np.uint8, np.float32, np.float64):
        np.testing.assert_array_equal(first_alike(rows.astype(kind)), expected)
    np.testing.assert_array_equal(first_alike(np.array([[0.0, 1], [-0.0, 1], [0, 2]])), [0, 0, 2])
    distinct = np.random.default_rng(0).normal(size=(300, 40))
    np.testing.assert_array_equal(first_alike(distinct), np.arange(300))
