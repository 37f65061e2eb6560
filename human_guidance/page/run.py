"""A finished run for the guidance page: cells, codes, columns to colour by, the model."""

import io
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from models.networks import VAE
from util.data_processing import Cells
from util.devices import pick_device
from util.errors import UserError
from util.helpers import compose_rgb, mix_channels
from util.latents import OF_PROJECTIONS, OWN, axis_names, code_columns, find_code_columns
from util.metadata import choose_labels, gradations
from util.style import (
    ClassColours,
    NumberColours,
    Roles,
    colour_column,
    is_colourable,
    thinning_stride,
)
from util.tables import read_table
from VAE_framework import load_again, open_finished_run


@dataclass(frozen=True)
class GuidedRun:
    """A finished run.

    Attributes:
        folder: the run folder.
        cells: images and metadata, N cells.
        model: the VAE at its best epoch, in evaluation mode.
        latents: latents.csv.
        roles: the columns of the classes and of a known continuum, the order of the classes.
        features: (N, F) hand-crafted features, or None.
        quality: (N, q) local quality of the projections.
        device: of the model.
    """

    folder: Path
    cells: Cells
    model: VAE
    latents: pd.DataFrame
    roles: Roles
    features: pd.DataFrame | None
    quality: pd.DataFrame
    device: torch.device

    @property
    def label(self) -> str | None:
        """Column of the classes, or None."""
        return self.roles.label

    @cached_property
    def codes(self) -> np.ndarray:
        """(N, d) latent coordinates of the cells, float32."""
        return codes_of(self.latents, self.folder)

    @property
    def latent_dim(self) -> int:
        """Number of latent dimensions d."""
        return self.codes.shape[1]

    @property
    def axes(self) -> list[str]:
        """Names of the latent axes: x, y, z, 4, ..."""
        return axis_names(self.latent_dim)

    @cached_property
    def ids(self) -> list[str]:
        """Unique_ID of every cell."""
        return self.latents["Unique_ID"].astype(str).tolist()

    @cached_property
    def labels(self) -> np.ndarray | None:
        """(N,) class of each cell as text, "missing" if it has none; None without classes."""
        if self.label is None:
            return None
        values = choose_labels(self.latents, self.label)[1]
        return values.fillna("missing").to_numpy(str)

    @cached_property
    def columns(self) -> dict[str, dict[str, pd.Series]]:
        """Columns to colour by: group -> name -> values of all cells."""
        metadata = self.latents.drop(columns="Unique_ID")
        metadata = metadata[[c for c in metadata if not re.search(OF_PROJECTIONS, str(c))]]
        groups = {
            "Class": metadata[[self.label]] if self.label else metadata.iloc[:, :0],
            "Metadata": metadata.drop(columns=self.label or []),
            "Local quality": self.quality,
            "Feature": self.features if self.features is not None else metadata.iloc[:, :0],
        }
        return {
            title: {str(name): table[name] for name in table if is_colourable(table[name])}
            for title, table in groups.items()
        }

    def column(self, key: str | None) -> pd.Series | None:
        """A column by its key group/name from `column_options`; None if there is none."""
        group, _, name = (key or "").partition("/")
        return self.columns.get(group, {}).get(name)

    def colouring(self, key: str | None) -> ClassColours | NumberColours | None:
        """Colours of the column of that key; None for no column."""
        column = self.column(key)
        return None if column is None else colour_column(column, self.roles)

    @cached_property
    def column_options(self) -> list[dict[str, str]]:
        """Options of the menu of colours."""
        return [
            {"label": f"{title}: {name}", "value": f"{title}/{name}"}
            for title, columns in self.columns.items()
            for name in columns
        ]

    @property
    def first_column(self) -> str | None:
        """Key of the first column, which colours the cells until another is chosen."""
        return self.column_options[0]["value"] if self.column_options else None

    @cached_property
    def described(self) -> pd.DataFrame:
        """(N, F) numbers in which cells may differ: features and metadata with an order."""
        metadata = pd.DataFrame(self.columns["Metadata"], index=self.latents.index)
        graded = metadata[gradations(metadata)] if len(metadata.columns) else metadata
        if self.features is None:
            return graded
        return pd.concat([graded, self.features.set_axis(graded.index)], axis=1)

    @cached_property
    def drawn(self) -> np.ndarray:
        """Rows of the cells to draw, at most 20,000; rare classes come last and lie on top."""
        rows = np.arange(0, len(self.latents), thinning_stride(len(self.latents)))
        if self.labels is None:
            return rows
        _, codes, counts = np.unique(self.labels, return_inverse=True, return_counts=True)
        return rows[np.argsort(-counts[codes[rows]], kind="stable")]

    def picture(self, row: int) -> bytes:
        """PNG of a cell."""
        return as_png(compose_rgb(np.asarray(self.cells.images[row : row + 1]), self.cells)[0])

    def describe(self, row: int, key: str | None) -> list[tuple[str, str]]:
        """Lines of a cell's card, as name and value: its id (without a name), its class, and its
        value in the column of that key.
        """
        said = [("", self.ids[row])]
        if self.labels is not None:
            said.append((str(self.label), str(self.labels[row])))
        column = self.column(key)
        if column is not None and column.name != self.label:
            value = column.iloc[row]
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            said.append((str(column.name), text))
        return said

    @torch.no_grad()
    def decode(self, code: np.ndarray) -> bytes:
        """PNG of the image decoded at a latent point (d,)."""
        z = torch.tensor(code, dtype=torch.float32, device=self.device)[None]  # (1, d)
        image = self.model.decode(z).sigmoid().float().cpu().numpy()  # (1, C, S, S)
        return as_png(mix_channels(image)[0])

    def nearest(self, code: np.ndarray, n: int) -> np.ndarray:
        """Rows of the n cells whose codes lie nearest to a latent point (d,), nearest first."""
        squared = np.square(self.codes - code.astype(np.float32)).sum(axis=1)
        n = min(n, len(squared))
        found = np.argpartition(squared, n - 1)[:n]
        return found[np.argsort(squared[found], kind="stable")]


def open_run(folder: Path, device: str = "auto") -> GuidedRun:
    """Open a finished run: its cells, its best model, its projections.

    Args:
        folder: the run folder.
        device: of the model; auto, cpu, cuda, mps.

    Raises:
        UserError: it is no finished run, or its images have changed since the training.
    """
    run, where = open_finished_run(folder), pick_device(device)
    loaded = load_again(run)
    return GuidedRun(
        folder=folder,
        cells=loaded.cells,
        model=run.model(loaded.cells, where),
        latents=run.latents,
        roles=Roles(loaded.label, run.settings.progress, run.settings.order),
        features=loaded.features,
        quality=read_quality(folder, run.latents["Unique_ID"].astype(str)),
        device=where,
    )


def codes_of(latents: pd.DataFrame, folder: Path, name: str = OWN) -> np.ndarray:
    """(N, d) latent coordinates from latents.csv, float32.

    Raises:
        UserError: the table has no such columns, or a cell without coordinates.
    """
    codes = latents[find_code_columns(latents, name)].to_numpy(np.float32)
    if codes.shape[1] < 2 or not np.isfinite(codes).all():
        raise UserError(
            f"{folder / 'latents.csv'}: expected two columns {', '.join(code_columns(2, name))} "
            "or more, with a number for every cell"
        )
    return codes


def read_quality(folder: Path, ids: pd.Series) -> pd.DataFrame:
    """Local quality of every cell from local_quality.csv, in the order of the ids; may be empty."""
    path = folder / "local_quality.csv"
    if not path.is_file():
        return pd.DataFrame(index=range(len(ids)))
    table = read_table(path).set_index("Unique_ID")
    quality = table.reindex(ids).reset_index(drop=True)
    names = {name: name.replace("_local_Q_score", "").replace("_", " vs ") for name in quality}
    return quality.rename(columns=names)


def as_png(picture: np.ndarray) -> bytes:
    """An (S, S, 3) uint8 picture as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
