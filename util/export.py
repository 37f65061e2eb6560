"""A run for other programs: AnnData, Parquet, and an encoder that needs none of this code.

    h5ad        run.h5ad: hand-crafted features as X, projections in obsm, the table of the cells
                and their local quality in obs, scores and settings in uns (Virshup et al. 2021,
                anndata); scanpy, squidpy and cellxgene open it
    parquet     latents.parquet, scores.parquet, local_quality.parquet: the CSVs of the same names
    encoder     encoder.pt2 (torch.export): pixels as they are in the files -> the code

All but the encoder need packages of the extra `export`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from util.data_processing import scale_pixels
from util.errors import UserError
from util.files import write_atomically
from util.tables import once_each, read_table

ExportFormat = Literal["h5ad", "parquet", "encoder"]

TABLES = ("latents", "scores", "local_quality")
MISSING = "`export` {}: the package {} is missing; pip install -e '.[export]'"


def refuse_missing_packages(formats: Sequence[ExportFormat]) -> None:
    """Check before a run that the packages for its export are installed.

    Raises:
        UserError: a package is not installed.
    """
    needed = {"h5ad": "anndata", "parquet": "pyarrow"}
    for name in formats:
        if name in needed:
            try:
                __import__(needed[name])
            except ImportError as error:
                raise UserError(MISSING.format(name, needed[name])) from error


def export_run(
    formats: Sequence[ExportFormat],
    folder: Path,
    latents: pd.DataFrame,
    projections: Mapping[str, Sequence[str]],
    *,
    features: pd.DataFrame | None,
    scores: pd.DataFrame,
    local_quality: pd.DataFrame,
    encoder: Callable[[], "RawPixelEncoder"],
    shape: Sequence[int],
) -> list[Path]:
    """Write a finished run in these formats into its folder; returns the files.

    Args:
        formats: which ones.
        folder: the run folder, with its tables.
        latents, projections, features, local_quality: as for `write_anndata`.
        scores: scores.csv.
        encoder: builds the encoder.
        shape: (C, S, S) of a cell.
    """
    written = []
    if "h5ad" in formats:
        settings = (folder / "settings.json").read_text(encoding="utf-8")
        path = write_anndata(
            folder / "run.h5ad",
            latents,
            projections,
            features=features,
            local_quality=local_quality,
            about={"scores": scores, "settings": settings},
        )
        written.append(path)
    if "parquet" in formats:
        texts = latents.select_dtypes("object").columns
        written += write_parquet(folder, texts)
    if "encoder" in formats:
        written.append(write_encoder(folder / "encoder.pt2", encoder(), shape))
    return written


def write_anndata(
    path: Path,
    latents: pd.DataFrame,
    projections: Mapping[str, Sequence[str]],
    *,
    features: pd.DataFrame | None,
    local_quality: pd.DataFrame,
    about: Mapping[str, Any],
) -> Path:
    """Write run.h5ad, atomically.

    Args:
        path: to write.
        latents: a row per cell: Unique_ID, columns of the user, coordinates.
        projections: name -> columns of its coordinates; `VAE` becomes obsm["X_vae"].
        features: (N, F), X; None leaves X out.
        local_quality: a row per cell, in the same order.
        about: uns, tables and texts.
    """
    import anndata

    coordinates = [column for columns in projections.values() for column in columns]
    index = pd.Index(latents["Unique_ID"].astype(str), name="Unique_ID")
    known = latents.drop(columns=["Unique_ID", *coordinates])
    obs = pd.concat([known, local_quality.drop(columns="Unique_ID", errors="ignore")], axis=1)
    obs.columns = _names_in_hdf5(obs.columns)
    names = dict(zip(projections, _names_in_hdf5(map(str.lower, projections)), strict=True))
    data = anndata.AnnData(
        X=None if features is None else features.to_numpy(np.float32),
        obs=_plain(obs).set_axis(index),
        var=None if features is None else pd.DataFrame(index=features.columns.astype(str)),
        obsm={
            f"X_{names[name]}": latents[list(columns)].to_numpy(np.float32)
            for name, columns in projections.items()
        },
        uns={k: _plain(v) if isinstance(v, pd.DataFrame) else v for k, v in about.items()},
    )
    with write_atomically(path) as temporary:
        data.write_h5ad(temporary, compression="gzip")
    return path


def _names_in_hdf5(names: Iterable[str]) -> list[str]:
    """The names as AnnData can hold them: a slash would part groups, `_index` is its own."""
    plain = (str(name).replace("/", "|") for name in names)
    return once_each([f"{name}_" if name == "_index" else name for name in plain])


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """The table with numbers as they are and everything else as text, which HDF5 can hold."""
    texts = table.columns.difference(table.select_dtypes(["number", "bool"]).columns)
    return table.assign(**{name: table[name].fillna("").astype(str) for name in texts})


def write_parquet(folder: Path, text: Collection[str]) -> list[Path]:
    """Write the large tables of a run folder as Parquet beside their CSVs; returns the files.

    Args:
        folder: of the run.
        text: columns that hold text.
    """
    written = []
    for name in TABLES:
        source = folder / f"{name}.csv"
        if source.is_file():
            path = source.with_suffix(".parquet")
            with write_atomically(path) as temporary:
                read_table(source, text).to_parquet(temporary, index=False)
            written.append(path)
    return written


class RawPixelEncoder(nn.Module):
    """The encoder of a model, from pixels as they are in the files.

    Args:
        model: with `encode`.
        low, high: (C,) raw values that become 0 and 1.
        downsample: side of the squares of pixels that are averaged to one.
    """

    def __init__(self, model: nn.Module, low: np.ndarray, high: np.ndarray, downsample: int = 1):
        super().__init__()
        self.model, self.downsample = model, downsample
        for name, value in (("low", low), ("span", np.asarray(high) - low)):
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32)[:, None, None])

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (B, C, S, S) -> mean and log-variance of the code, (B, d) each."""
        return self.model.encode(scale_pixels(pixels, self.low, self.span, self.downsample))


def write_encoder(path: Path, encoder: RawPixelEncoder, shape: Sequence[int]) -> Path:
    """Write encoder.pt2 for batches of any size, atomically; `torch.export.load` opens it.

    Args:
        path: to write.
        encoder: is moved to the CPU and put into evaluation mode.
        shape: (C, S, S) of an image.
    """
    encoder = encoder.eval().cpu()
    example = torch.zeros(2, *shape)
    program = torch.export.export(
        encoder, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
    )
    with write_atomically(path) as temporary:
        torch.export.save(program, temporary)
    return path
