import sys

import numpy as np
import pandas as pd
import pytest
from numba.core.caching import CacheImpl
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from models.baselines import (
    BASELINES,
    PLACES_NEW_CELLS,
    _umap_class,
    cached_projection,
    outlying,
    pca_projection,
    principal_components,
    tsne_projection,
    umap_projection,
)
from util.errors import UserError

LABELS = np.repeat([0, 1, 2], 40)


@pytest.fixture(scope="module")
def blobs():
    """(120, 60): three clouds 10 standard deviations apart."""
    return np.random.default_rng(0).normal(size=(120, 60)) + 7 * np.eye(60)[LABELS]


@pytest.fixture(scope="module")
def projections(blobs):
    return {name: project(blobs) for name, project in BASELINES.items()}


@pytest.mark.parametrize("name", BASELINES)
def test_separates_what_is_separate(name, projections):
    projection = projections[name]
    assert projection.shape == (120, 3)
    assert projection.dtype == np.float32
    accuracy = cross_val_score(KNeighborsClassifier(5), projection, LABELS, cv=5).mean()
    assert accuracy > 0.95
    shuffled = np.random.default_rng(0).permutation(LABELS)
    assert cross_val_score(KNeighborsClassifier(5), projection, shuffled, cv=5).mean() < 0.6


@pytest.mark.parametrize("name", BASELINES)
def test_same_seed_same_bytes(name, blobs, projections):
    assert BASELINES[name](blobs).tobytes() == projections[name].tobytes()


@pytest.mark.filterwarnings("error")
def test_another_seed_another_umap(blobs, projections):
    assert umap_projection(blobs, seed=1).tobytes() != projections["UMAP"].tobytes()


def test_umap_needs_no_folder_to_keep_compiled_code_in(tmp_path, monkeypatch):
    """As of a user without a home, with packages of another: numba refuses while umap is imported.

    Compiling all of umap-learn without a cache takes a minute, so this one only asks as it does.
    """
    (tmp_path / "umap.py").write_text(
        "from numba import config, njit\n"
        "from numba.core.caching import CacheImpl, UserProvidedCacheLocator\n"
        "CacheImpl._locator_classes = [UserProvidedCacheLocator]\n"
        "UMAP = njit(cache=True)(lambda x: x + 1)\n"
    )
    monkeypatch.setattr("numba.config.CACHE_DIR", "")
    monkeypatch.setattr(CacheImpl, "_locator_classes", CacheImpl._locator_classes)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "umap", raising=False)
    with pytest.raises(RuntimeError, match="no locator available"):
        import umap  # noqa: F401
    assert _umap_class()(1) == 2
    monkeypatch.delitem(sys.modules, "umap")


def test_tsne_is_scikit_learns(blobs):
    """Of 40 columns, and of more after a PCA to 50."""
    for columns, given in ((40, {}), (60, {"perplexity": 7.0})):
        narrow = blobs[:, :columns]
        if columns > 50:
            narrow = PCA(50, svd_solver="full").fit_transform(narrow)
        options = {"perplexity": 30.0, "init": "pca", "random_state": 0} | given
        expected = TSNE(2, **options).fit_transform(narrow)
        found = tsne_projection(blobs[:, :columns], dim=2, **given)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_pca_is_the_singular_value_decomposition(blobs):
    left, scale, _ = np.linalg.svd(blobs - blobs.mean(axis=0), full_matrices=False)
    expected = left[:, :2] * scale[:2]
    projection = pca_projection(blobs, dim=2)
    np.testing.assert_allclose(np.abs(projection), np.abs(expected), rtol=1e-4, atol=1e-4)
    alone = pca_projection(blobs, dim=1)
    np.testing.assert_allclose(np.abs(alone), np.abs(expected[:, :1]), rtol=1e-4, atol=1e-4)


def test_components_of_pixels_follow_the_seed_and_nearly_are_those_of_a_full_pca(blobs):
    first, again, other = (principal_components(blobs, 5, seed) for seed in (0, 0, 1))
    assert first.tobytes() == again.tobytes() != other.tobytes()
    exact = PCA(5).fit_transform(blobs)
    assert abs(np.corrcoef(first[:, 0], exact[:, 0])[0, 1]) > 0.999
    assert principal_components(blobs[:4], 50).shape == (4, 4)


def test_whole_numbers_are_the_same_features_as_floats(tmp_path):
    whole = np.random.default_rng(0).integers(0, 99, (20, 4))
    first, second = (
        cached_projection("PCA", whole.astype(dtype), cache_dir=tmp_path) for dtype in "if"
    )
    assert first.tobytes() == second.tobytes() and len(list(tmp_path.iterdir())) == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("n_cells", [3, 5, 6])
def test_few_cells(name, n_cells, blobs):
    projection = BASELINES[name](blobs[:n_cells])
    assert projection.shape == (n_cells, 3)
    assert np.isfinite(projection).all()


@pytest.mark.parametrize("name", PLACES_NEW_CELLS)
def test_new_cells_are_placed_where_their_like_is_and_change_nothing(name, blobs):
    fitted_to = np.arange(120) % 4 > 0
    codes = BASELINES[name](blobs, fitted_to=fitted_to)
    nearest = KNeighborsClassifier(5).fit(codes[fitted_to], LABELS[fitted_to])
    assert nearest.score(codes[~fitted_to], LABELS[~fitted_to]) > 0.95
    others = np.where(fitted_to[:, None], blobs, blobs[::-1])
    again = BASELINES[name](others, fitted_to=fitted_to)
    assert again[fitted_to].tobytes() == codes[fitted_to].tobytes()
    assert (again[~fitted_to] != codes[~fitted_to]).any()


def test_the_cache_knows_what_a_map_was_fitted_to(blobs, tmp_path):
    blobs = blobs.copy()
    blobs[7] = np.nan
    halves = [np.arange(120) % 2 == i for i in (0, 1)]
    found = [cached_projection("PCA", blobs, cache_dir=tmp_path, fitted_to=h) for h in halves]
    whole = cached_projection("PCA", blobs, cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    for fitted_to, codes in zip(halves, found, strict=True):
        known = np.arange(120) != 7
        expected = PCA(3).fit(blobs[fitted_to & known]).transform(blobs[known])
        np.testing.assert_allclose(np.abs(codes[known]), np.abs(expected), rtol=1e-3, atol=1e-3)
        assert np.isnan(codes[7]).all() and not np.allclose(codes[known], whole[known])
        again = cached_projection("PCA", blobs, cache_dir=tmp_path, fitted_to=fitted_to)
        np.testing.assert_array_equal(again, codes)


def test_what_no_seed_changes_is_computed_once(blobs, tmp_path):
    for name, files in (("PCA", 1), ("TSNE", 1), ("UMAP", 2)):
        first, second = (cached_projection(name, blobs, 3, seed, tmp_path) for seed in (0, 1))
        assert len(list(tmp_path.glob(f"{name}-*.npy"))) == files
        assert np.array_equal(first, second) == (files == 1)
        assert np.array_equal(BASELINES[name](blobs, seed=1), second)


@pytest.mark.parametrize("project", [umap_projection, tsne_projection])
def test_fewer_features_than_coordinates(project, blobs):
    assert project(blobs[:10, :2]).shape == (10, 3)


def test_large_neighbourhoods_are_cut(blobs):
    few = blobs[::6]
    np.testing.assert_array_equal(
        umap_projection(few, n_neighbors=1000), umap_projection(few, n_neighbors=19)
    )
    np.testing.assert_array_equal(
        tsne_projection(few, perplexity=1000), tsne_projection(few, perplexity=19 / 3)
    )


@pytest.mark.parametrize("project", BASELINES.values())
def test_refuses_what_cannot_be_projected(project, blobs):
    table = pd.DataFrame(blobs).rename(columns={4: "Area"}, index={2: "cell_2.tiff"})
    table.iloc[2, 4] = np.nan
    table.iloc[7, 1] = np.inf
    with pytest.raises(UserError, match="Area of cell cell_2.tiff is nan"):
        project(table)
    with pytest.raises(UserError, match="at least 3 cells"):
        project(blobs[:2])
    with pytest.raises(UserError, match="same features"):
        project(np.ones((10, 5)))
    with pytest.raises(UserError, match="dim"):
        project(blobs, dim=0)


def test_refuses_parameters_out_of_range(blobs):
    with pytest.raises(UserError, match="perplexity is 0"):
        tsne_projection(blobs, perplexity=0)
    with pytest.raises(UserError, match="dim of a Barnes-Hut t-SNE is 4"):
        tsne_projection(blobs, dim=4)
    with pytest.raises(UserError, match="n_neighbors is 1"):
        umap_projection(blobs, n_neighbors=1)
    with pytest.raises(UserError, match="min_dist is 2"):
        umap_projection(blobs, min_dist=2)
    with pytest.raises(UserError, match="dim of a PCA"):
        pca_projection(blobs[:, :2], dim=3)


@pytest.mark.parametrize("project", [umap_projection, tsne_projection])
def test_torchdr_separates_what_is_separate(project, blobs):
    pytest.importorskip("torchdr")
    projection = project(blobs, engine="torchdr")
    assert projection.shape == (120, 3) and projection.dtype == np.float32
    assert cross_val_score(KNeighborsClassifier(5), projection, LABELS, cv=5).mean() > 0.95


def test_torchdr_missing_is_said(blobs, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchdr", None)
    with pytest.raises(UserError, match="pip install"):
        umap_projection(blobs, engine="torchdr")


def test_principal_components_of_pixels_keep_their_distances():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(80, 5)) @ rng.normal(size=(5, 3 * 8 * 8))  # five factors make them
    images = images.reshape(80, 3, 8, 8)
    components = principal_components(images, 10)
    assert components.shape == (80, 10)
    np.testing.assert_allclose(pdist(components), pdist(images.reshape(80, -1)), rtol=1e-4)
    assert principal_components(images[:4]).shape == (4, 4)


def test_outlying_is_far_along_any_axis():
    codes = np.random.default_rng(0).normal(size=(1000, 3))
    codes[7, 1], codes[9, 0], codes[11] = 50, -60, np.nan
    assert list(np.flatnonzero(outlying(codes, 4.5))) == [7, 9]
    assert not outlying(np.ones((5, 2))).any()  # no spread, no outlier
    with pytest.raises(UserError, match="-1"):
        outlying(codes, -1)


def test_what_numba_compiles_for_umap_is_kept(blobs):
    umap_projection(blobs, n_neighbors=5)
    import umap

    for function in (umap.umap_.smooth_knn_dist, umap.umap_.compute_membership_strengths):
        assert function.stats.cache_path  # umap-learn itself keeps neither
        assert function.stats.cache_hits or function.stats.cache_misses


def test_a_projection_made_apart_is_the_same(blobs):
    for name in ("UMAP", "PCA"):
        here, apart = (cached_projection(name, blobs, apart=apart) for apart in (False, True))
        assert np.array_equal(here, apart)
