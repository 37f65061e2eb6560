"""What a run left in its folder, for whoever goes on with it: settings, codes, the best model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from models.checkpoints import load_weights
from models.networks import VAE, build_vae, network_arguments
from util.data_processing import Cells
from util.errors import UserError
from util.latents import code_columns
from util.metadata import text_columns
from util.runs import FINISHED, read_description, script_of
from util.settings import settings_from_json
from util.tables import read_table


@dataclass(frozen=True)
class FinishedRun:
    """A finished run.

    Attributes:
        folder: the run folder.
        settings: those that all models share, or of a script that builds on them all of its own.
        described: settings.json.
        latents: latents.csv, N rows.
    """

    folder: Path
    settings: Any
    described: dict[str, Any]
    latents: pd.DataFrame

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the pixels that the run learnt from."""
        return self.described["data"]["fingerprint"]

    def codes(self) -> np.ndarray:
        """(N, d) posterior means of the best model, float32."""
        return self.latents[code_columns(self.settings.latent_dim)].to_numpy(np.float32)

    def model(self, cells: Cells, device: torch.device) -> VAE:
        """The best model on a device, in evaluation mode.

        Raises:
            UserError: best.pt is damaged, or of another model.
        """
        model = build_vae(**network_arguments(self.settings, cells.images.shape[1])).to(device)
        load_weights(self.folder / "best.pt", model)
        return model.eval()


def read_finished_run(folder: Path, kind: type) -> FinishedRun:
    """Read the settings and the codes of a finished run.

    Args:
        folder: the run folder.
        kind: class of the settings that all models share.

    Raises:
        UserError: the folder is not that of a finished run, or a file in it is damaged.
    """
    folder = Path(folder)
    for name in FINISHED:
        if not (folder / name).is_file():
            raise UserError(f"`run` {folder}: no {name} there; give the folder of a finished run")
    described = read_description(folder)
    values = described["settings"]
    if not {"dataset", "latent_dim"} <= values.keys():
        raise UserError(f"`run` {folder}: made by a script that trains no model here")
    if "fingerprint" not in (described.get("data") or {}):
        raise UserError(f"{folder / 'settings.json'} does not say what data it learnt from")
    own = described["script"] == script_of(kind)  # a script built on it adds settings of its own
    settings = settings_from_json(kind, values, more=not own)
    latents = read_table(folder / "latents.csv", text_columns(settings.label))
    columns = code_columns(settings.latent_dim)
    if not {"Unique_ID", *columns} <= set(latents) or not np.isfinite(latents[columns]).all(None):
        raise UserError(
            f"{folder / 'latents.csv'} is damaged: expected Unique_ID and {', '.join(columns)}, "
            "with numbers for every cell"
        )
    return FinishedRun(folder, settings, described, latents)
