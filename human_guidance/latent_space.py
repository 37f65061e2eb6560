"""A finished run's cells in its latent space, and what its model decodes there."""

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch

from human_guidance.interpretation_measures import information_per_axis
from models.finished_run import FinishedRun
from models.networks import VAE
from util.errors import UserError
from util.helpers import compose_rgb, mix_channels
from util.latents import OF_PROJECTIONS, axis_names, code_columns, logvar_columns
from util.metadata import choose_labels, gradations
from VAE_framework import Loaded

MOST_AXES = 8  # in a figure; those that carry the most information
AT_A_TIME = 256  # images decoded together


@dataclass(frozen=True)
class LatentSpace:
    """A run's cells in its latent space, and its model.

    Attributes:
        run: the finished run.
        loaded: its cells, classes and features.
        model: its best model, in evaluation mode.
        device: of the model.
    """

    run: FinishedRun
    loaded: Loaded
    model: VAE
    device: torch.device

    @cached_property
    def codes(self) -> np.ndarray:
        """(N, d) posterior means."""
        return self.run.codes()

    @cached_property
    def mean(self) -> np.ndarray:
        """(d,) mean code."""
        return self.codes.mean(0, dtype=float)

    @cached_property
    def deviation(self) -> np.ndarray:
        """(d,) standard deviation of the codes."""
        return self.codes.std(0, dtype=float)

    @cached_property
    def nats(self) -> np.ndarray:
        """(d,) information that each axis carries, nats per cell."""
        columns = logvar_columns(code_columns(len(self.axes)))
        absent = [name for name in columns if name not in self.run.latents]
        if absent:
            raise UserError(f"{self.run.folder / 'latents.csv'}: no column {absent[0]}")
        return information_per_axis(self.codes, self.run.latents[columns].to_numpy(float))

    @property
    def axes(self) -> list[str]:
        """Names of the d axes."""
        return axis_names(self.codes.shape[1])

    @cached_property
    def shown(self) -> list[int]:
        """The axes in the figures, in their order: at most 8, those with the most information."""
        return sorted(np.argsort(-self.nats, kind="stable")[:MOST_AXES].tolist())

    @cached_property
    def ids(self) -> pd.Index:
        """Unique_ID of the cells."""
        return pd.Index(self.run.latents["Unique_ID"].astype(str))

    @cached_property
    def classes(self) -> np.ndarray | None:
        """(N,) class of each cell as text, None for a cell without one; None without classes."""
        if self.loaded.label is None:
            return None
        return choose_labels(self.run.latents, self.loaded.label)[1].to_numpy(object)

    @cached_property
    def known(self) -> pd.DataFrame:
        """N rows: the columns of the metadata whose values can be ordered."""
        table = self.run.latents
        own = table[[name for name in table if not re.search(OF_PROJECTIONS, str(name))]]
        return table[gradations(own, [self.loaded.label] if self.loaded.label else [])]

    @torch.no_grad()
    def decode(self, points: np.ndarray) -> np.ndarray:
        """Images (n, S, S, 3) uint8 decoded at points (n, d)."""
        pictures = []
        for part in torch.from_numpy(np.asarray(points, np.float32)).split(AT_A_TIME):
            images = self.model.decode(part.to(self.device)).sigmoid()  # (b, C, S', S')
            pictures.append(mix_channels(images.float().cpu().numpy()))
        # the size of the cells shown beside them
        downsample = self.run.settings.downsample
        return np.concatenate(pictures).repeat(downsample, axis=1).repeat(downsample, axis=2)

    def pictures(self, rows: np.ndarray) -> np.ndarray:
        """(n, S, S, 3) uint8 pictures of some cells."""
        rows = np.asarray(rows)
        order = np.argsort(rows, kind="stable")  # read in the order of the file
        pictures = compose_rgb(np.asarray(self.loaded.cells.images[rows[order]]), self.loaded.cells)
        return pictures[np.argsort(order, kind="stable")]

    def scaled(self, rows: np.ndarray) -> torch.Tensor:
        """(n, C, S, S) float32 images in 0..1 of some cells, at full size."""
        return self.loaded.cells.scaled(rows).to(self.device)

    def place(self, asked: str, option: str) -> np.ndarray:
        """(d,) the point that an option names.

        Args:
            asked: a Unique_ID, a class (its mean code), or coordinates such as "x=1.5 y=-2".
            option: named in an error.

        Raises:
            UserError: it is none of them.
        """
        if asked in self.ids:
            return self.codes[self.ids.get_loc(asked)].astype(float)
        if self.classes is not None and (self.classes == asked).any():
            return self.codes[self.classes == asked].mean(0, dtype=float)
        coordinates = re.findall(r"([^\s=,]+)=([^\s=,]+)", asked)
        if not coordinates or re.sub(r"[^\s=,]+=[^\s=,]+|[\s,]", "", asked):
            label = self.loaded.label or "class"
            raise UserError(
                f"{option} {asked}: no cell of that Unique_ID, no {label} of that name, and no "
                f'coordinates such as "{self.axes[0]}=1.5"'
            )
        point = self.mean.copy()
        for axis, value in coordinates:
            try:
                point[self.axes.index(axis)] = number = float(value)
            except ValueError as error:
                raise UserError(
                    f"{option} {asked}: {axis}={value} is not an axis ({', '.join(self.axes)}) "
                    "with a number"
                ) from error
            if not np.isfinite(number):
                raise UserError(f"{option} {asked}: {value} is not a finite number")
        return point
