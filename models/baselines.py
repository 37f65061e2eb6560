"""UMAP, t-SNE and PCA of a feature table, which the VAE is compared with.

UMAP: McInnes, Healy, Melville 2018, arXiv:1802.03426. t-SNE: van der Maaten and Hinton 2008, JMLR
9:2579, in the Barnes-Hut form (van der Maaten 2014, JMLR 15:3221), since the FFT form stops at two
dimensions. Features are taken as they are: normalise them first (`util.cell_features`). For pixels
instead of features see `principal_components`.

By default umap-learn and scikit-learn compute them on the CPU, where the seed determines every
byte. The engine TorchDR uses a GPU if there is one and is meant for 100,000 cells and more. It
follows the same papers, but its numbers differ.
"""

import atexit
import contextlib
import hashlib
import math
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from util import workers
from util.devices import pick_device, scoring_device
from util.errors import UserError
from util.files import write_atomically

Engine = Literal["cpu", "torchdr"]

MIN_CELLS = 3  # two cells have no neighbourhood to preserve
WIDEST_TSNE_INPUT = 50  # columns; van der Maaten and Hinton 2008, section 4.1, reduce to 30


def possible(parameter: str, value: float, n_cells: int) -> float:
    """The value of a parameter of UMAP or t-SNE that is used for so many cells.

    A cell has N - 1 neighbours at most, and t-SNE searches three times its perplexity.
    """
    largest = {"n_neighbors": n_cells - 1, "perplexity": (n_cells - 1) / 3}
    return min(value, largest.get(parameter, math.inf))


def umap_projection(
    features: np.ndarray | pd.DataFrame,
    dim: int = 3,
    n_neighbors: int = 15,
    min_dist: float = 0.1,
    seed: int = 0,
    engine: Engine = "cpu",
    fitted_to: np.ndarray | None = None,
    device: str = "auto",
) -> np.ndarray:
    """UMAP of the features with Euclidean distances, on one thread for reproducibility.

    Args:
        features: (N, F) numbers without NaN, N >= 3.
        dim: number of coordinates, at least 1.
        n_neighbors: size of the neighbourhood, at least 2; at most N - 1 is used.
        min_dist: smallest distance of neighbours in the projection, 0..1.
        seed: of the random state; the same seed gives the same bytes on one machine's CPU.
        engine: `cpu` for umap-learn, `torchdr` for TorchDR on `device`.
        fitted_to: (N,) bool, cells that the map is fitted to; the others are placed in it as new
            cells. None fits to all.
        device: of TorchDR; `auto` takes the GPU if there is one.

    Returns:
        (N, dim) float32.

    Raises:
        UserError: fewer than 3 cells, NaN, identical cells, parameters out of range.
    """
    values = _check_features(features, dim)
    _check_range("n_neighbors", n_neighbors, 2, np.inf)
    _check_range("min_dist", min_dist, 0, 1)
    fitted = values if fitted_to is None else _check_features(values[fitted_to], dim)
    n_neighbors = possible("n_neighbors", n_neighbors, len(fitted))
    if engine == "torchdr":
        if fitted_to is not None:
            raise UserError("engine torchdr places no new cells in a map: take the engine cpu")
        settings = {"n_neighbors": n_neighbors, "min_dist": min_dist}
        reducer = _torchdr("UMAP", dim, seed, device, **settings)
        return _as_float32(reducer.fit_transform(values.astype(np.float32)))
    few = len(fitted) <= dim + 2  # the spectral start needs more eigenvectors than there are
    reducer = _umap_class()(
        n_components=dim,
        n_neighbors=n_neighbors,
        min_dist=min_dist,
        init="random" if few else "spectral",
        random_state=seed,
        n_jobs=1,
    )
    with threadpool_limits(limits=1):  # more threads round the spectral start in another way
        return _fit_and_place(reducer, values, fitted_to)


def _umap_class() -> type:
    """umap-learn's class; numba compiles its functions once for this environment.

    If no folder can keep the machine code, a temporary one is made for this process.
    """
    import numba

    try:
        from umap import UMAP
    except RuntimeError as error:  # another user's packages, and a home that cannot be written
        if "no locator available" not in str(error):
            raise
        folder = tempfile.TemporaryDirectory(prefix="numba-")
        atexit.register(folder.cleanup)
        numba.config.CACHE_DIR = folder.name
        from umap import UMAP
    _keep_what_is_compiled("umap", "pynndescent")
    return UMAP


def _keep_what_is_compiled(*packages: str) -> None:
    """Let numba cache the machine code of every function of these packages.

    The packages cache most of them. Compiling the others takes 9 s in every process, and more above
    4,096 cells, where neighbours are searched approximately. Numba cannot cache two of them, and
    would warn.
    """
    from numba.core.dispatcher import Dispatcher

    warnings.filterwarnings("ignore", "Cannot cache compiled function")

    modules = [m for name, m in list(sys.modules.items()) if name.split(".")[0] in packages]
    for function in {f for m in modules for f in vars(m).values() if isinstance(f, Dispatcher)}:
        with contextlib.suppress(RuntimeError):  # made from a string: it has no source file
            function.enable_caching()


def tsne_projection(
    features: np.ndarray | pd.DataFrame,
    dim: int = 3,
    perplexity: float = 30,
    seed: int = 0,
    engine: Engine = "cpu",
    device: str = "auto",
) -> np.ndarray:
    """Barnes-Hut t-SNE of the features, started from their principal components.

    More than 50 columns are reduced to 50 principal components first: distances hardly change and
    the search for neighbours is faster. 1,000 iterations, learning rate max(N / 48, 50) (Belkina et
    al. 2019, Nature Communications 10:5415; scikit-learn's "auto"). On one thread: several threads
    sum the forces in no fixed order, and many short parallel regions are slow on a busy machine.
    Sweeps run one process per projection.

    Args:
        features: (N, F) numbers without NaN, N >= 3.
        dim: number of coordinates, 1, 2 or 3.
        perplexity: effective number of neighbours, at least 1; at most (N - 1) / 3 is used, since
            the search covers three times as many neighbours.
        seed: of TorchDR. scikit-learn's t-SNE draws nothing at random: all seeds give one result.
        engine: `cpu` for scikit-learn, `torchdr` for TorchDR on `device`, which computes all
            repulsive forces exactly, in time N x N.
        device: of TorchDR; `auto` takes the GPU if there is one.

    Returns:
        (N, dim) float32.

    Raises:
        UserError: fewer than 3 cells, NaN, identical cells, parameters out of range.
    """
    from sklearn.manifold import TSNE

    values = _check_features(features, dim)
    _check_range("dim of a Barnes-Hut t-SNE", dim, 1, 3)
    _check_range("perplexity", perplexity, 1, np.inf)
    perplexity = possible("perplexity", perplexity, len(values))
    if engine == "torchdr":
        reducer = _torchdr("TSNE", dim, seed, device, perplexity=perplexity)
        return _as_float32(reducer.fit_transform(values.astype(np.float32)))
    reducer = TSNE(
        n_components=dim,
        perplexity=perplexity,
        init="pca" if min(values.shape) >= dim else "random",
        random_state=0,
    )
    with threadpool_limits(limits=1):
        if values.shape[1] > WIDEST_TSNE_INPUT:
            components = min(WIDEST_TSNE_INPUT, len(values))
            values = _pca(components, svd_solver="full").fit_transform(values)
        return reducer.fit_transform(values).astype(np.float32)


def pca_projection(
    features: np.ndarray | pd.DataFrame,
    dim: int = 3,
    seed: int = 0,
    fitted_to: np.ndarray | None = None,
) -> np.ndarray:
    """The first principal components of the features, in units of the features.

    Args:
        features: (N, F) numbers without NaN, N >= 3.
        dim: number of components, at most min(N, F).
        seed: not used, since the decomposition is exact; all projections have this argument.
        fitted_to: (N,) bool, cells that the components are fitted to; None takes all.

    Returns:
        (N, dim) float32, columns of descending variance.

    Raises:
        UserError: fewer than 3 cells, NaN, cells all alike, more components than cells or
            features.
    """
    values = _check_features(features, dim)
    fitted = values if fitted_to is None else values[fitted_to]
    _check_range("dim of a PCA of this table", dim, 1, min(fitted.shape))
    return _fit_and_place(_pca(dim, svd_solver="full"), values, fitted_to)


def principal_components(
    data: np.ndarray,
    components: int = WIDEST_TSNE_INPUT,
    seed: int = 0,
    fitted_to: np.ndarray | None = None,
) -> np.ndarray:
    """Pixels as a table that can be projected: their first principal components, not scaled.

    Distances between cells hardly change, and UMAP and t-SNE get far fewer columns than pixels. The
    components come from a randomised decomposition (Halko, Martinsson and Tropp 2011).

    Args:
        data: (N, ...) numbers, flattened to (N, D).
        components: their number; at most as many as fitted cells or columns are used.
        seed: of the decomposition.
        fitted_to: (N,) bool, cells that the components are fitted to; None takes all.

    Returns:
        (N, components) float32.
    """
    flat = np.asarray(data).reshape(len(data), -1).astype(np.float32)
    n_fitted = len(flat) if fitted_to is None else int(fitted_to.sum())
    components = min(components, n_fitted, flat.shape[1])
    solver = _pca(components, svd_solver="randomized", random_state=seed)
    return _fit_and_place(solver, flat, fitted_to)


def _pca(components: int, **options: Any) -> Any:
    """scikit-learn's PCA, imported here since that takes a second."""
    from sklearn.decomposition import PCA

    return PCA(components, **options)


def outlying(codes: np.ndarray, deviations: float = 4.0) -> np.ndarray:
    """Cells with a coordinate far from the mean of its axis, which the thesis left out.

    Args:
        codes: (N, d) coordinates, NaN where a cell has none.
        deviations: standard deviations of that axis beyond which a coordinate lies far.

    Returns:
        (N,) bool.

    Raises:
        UserError: deviations that are not positive.
    """
    if not deviations > 0:
        raise UserError(f"{deviations} standard deviations: a positive number is needed")
    codes = np.asarray(codes, dtype=np.float64)
    mean, spread = np.nanmean(codes, axis=0), np.nanstd(codes, axis=0)
    return (np.abs(codes - mean) > deviations * spread).any(axis=1)


def cached_projection(
    name: str,
    features: np.ndarray | pd.DataFrame,
    dim: int = 3,
    seed: int = 0,
    cache_dir: Path | None = None,
    fitted_to: np.ndarray | None = None,
    apart: bool = False,
    **settings: float | str,
) -> np.ndarray:
    """A projection of `BASELINES`, kept in a file of `cache_dir` so that it is computed once.

    The file's name holds a SHA-256 fingerprint of features, settings and the versions of umap-learn
    and scikit-learn. Cells without any feature (a row of NaN) get NaN coordinates.

    Args:
        name: of `BASELINES`.
        features: (N, F) numbers.
        dim: number of coordinates.
        seed: of the random state.
        cache_dir: folder of the files; None keeps nothing.
        fitted_to: (N,) bool, for a projection in `PLACES_NEW_CELLS`: cells that the map is fitted
            to; the others are placed in it. None fits to all.
        apart: compute in a process of its own, so that other threads of this process continue.
        settings: further arguments of the projection.

    Returns:
        (N, dim) float32.

    Raises:
        UserError: as the projection itself.
    """
    values = pd.DataFrame(features).to_numpy(dtype=np.float64)
    known = ~np.isnan(values).all(axis=1)
    if name in SEEDLESS and settings.get("engine", "cpu") == "cpu":
        seed = 0
    words = f"{name} {dim} {seed} {sorted(settings.items())} {values.shape}"
    versions = f"{version('umap-learn')} {version('scikit-learn')}"
    content = f"{words} {versions}".encode() + values.tobytes()
    if fitted_to is not None:
        content += np.packbits(fitted_to).tobytes()
        settings["fitted_to"] = np.asarray(fitted_to, bool)[known]
    digest = hashlib.sha256(content).hexdigest()[:16]
    path = None if cache_dir is None else Path(cache_dir) / f"{name}-{digest}.npy"
    if path is not None and path.is_file():
        try:
            return np.load(path)
        except (ValueError, OSError, EOFError):  # damaged: computed again below
            path.unlink()
    codes = np.full((len(values), dim), np.nan, np.float32)
    project = partial(workers.apart, BASELINES[name]) if apart else BASELINES[name]
    codes[known] = project(values[known], dim=dim, seed=seed, **settings)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as temporary:
            np.save(temporary, codes)
    return codes


def cached_projections(
    features: np.ndarray | pd.DataFrame,
    parameters: Mapping[str, Mapping[str, float]],
    dim: int,
    seed: int,
    cache_dir: Path | None,
    apart: bool = False,
) -> dict[str, np.ndarray]:
    """Name -> (N, dim) coordinates of several projections of the same features.

    Args:
        features: (N, F) numbers.
        parameters: name of a projection -> its arguments.
        dim, seed, cache_dir, apart: as for `cached_projection`.
    """
    found = {}
    for name, arguments in parameters.items():
        tqdm.write(f"{name} of {features.shape[1]} features in {dim}-D ...")
        found[name] = cached_projection(
            name, features, dim=dim, seed=seed, cache_dir=cache_dir, apart=apart, **arguments
        )
    return found


BASELINES: dict[str, Callable[..., np.ndarray]] = {
    "UMAP": umap_projection,
    "TSNE": tsne_projection,
    "PCA": pca_projection,
}
SEEDLESS = ("TSNE", "PCA")  # on the CPU
PLACES_NEW_CELLS = ("UMAP", "PCA")  # t-SNE cannot place a new cell


def _fit_and_place(reducer: Any, values: np.ndarray, fitted_to: np.ndarray | None) -> np.ndarray:
    """(N, d) float32 coordinates from a reducer, fitted to some of the cells or to all."""
    if fitted_to is None:
        return reducer.fit_transform(values).astype(np.float32)
    fitted = reducer.fit_transform(values[fitted_to])
    codes = np.empty((len(values), fitted.shape[1]), np.float32)
    codes[fitted_to] = fitted
    if not fitted_to.all():
        codes[~fitted_to] = reducer.transform(values[~fitted_to])
    return codes


def _check_features(features: np.ndarray | pd.DataFrame, dim: int) -> np.ndarray:
    """Refuse what cannot be projected; return the values, (N, F) float64."""
    table = pd.DataFrame(features)
    values = table.to_numpy(dtype=np.float64)
    if len(values) < MIN_CELLS or values.shape[1] == 0:
        raise UserError(
            f"a feature table of shape {values.shape}: at least {MIN_CELLS} cells and 1 feature "
            "are needed for a projection"
        )
    undefined = np.argwhere(~np.isfinite(values))
    if len(undefined):
        row, column = undefined[0]
        raise UserError(
            f"feature {table.columns[column]} of cell {table.index[row]} is "
            f"{values[row, column]}: clean the features first (first of {len(undefined)} values)"
        )
    if (values == values[0]).all():
        raise UserError(f"all {len(values)} cells have the same features: nothing to project")
    _check_range("dim", dim, 1, np.inf)
    return values


def _torchdr(name: str, dim: int, seed: int, device: str, **settings: float):
    """TorchDR's reducer on a device; by itself it would compute arrays on the CPU.

    Raises:
        UserError: TorchDR is not installed, or the device is not available.
    """
    try:
        import torchdr
    except ImportError as error:
        raise UserError(
            "engine torchdr: the package is missing; pip install -e '.[gpu]', or take the engine "
            "cpu"
        ) from error
    # Without faiss or KeOps, which are not on PyPI for every machine.
    settings |= {"backend": None, "device": scoring_device(pick_device(device))}
    return getattr(torchdr, name)(n_components=dim, random_state=seed, **settings)


def _as_float32(codes) -> np.ndarray:
    """(N, d) float32, from an array or a tensor on any device."""
    return np.asarray(codes.cpu() if hasattr(codes, "cpu") else codes, dtype=np.float32)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UserError(f"{name} is {value}: between {low} and {high} is possible")
