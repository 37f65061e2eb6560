"""The only training loop, and `embed`, which reads the codes of a trained model.

Adam with a stepwise falling learning rate and early stopping on the validation loss, as in the
thesis. After every epoch `checkpoint.pt` holds all that is needed to go on, `best.pt` the model of
the lowest validation loss, `log.jsonl` a line per epoch. An epoch draws its random numbers from the
seed of the run and its own number, so a run that was killed and resumed ends in the same weights as
one left alone.
"""

import json
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from util.data_processing import CellBatches
from util.runs import UserError, load_checkpoint, save_checkpoint, seed_everything, write_atomically


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn.

    Attributes:
        epochs: at most so many passes over the training cells.
        learning_rate: Adam's, of the VAE, at the start.
        decay_every: epochs between two cuts of the learning rate.
        decay: factor of a cut.
        patience: epochs without a better validation loss after which training stops.
        seed: of the run.
    """

    epochs: int
    learning_rate: float
    decay_every: int = 40
    decay: float = 0.6
    patience: int = 30
    seed: int = 0


def train(
    model: nn.Module,
    objective: nn.Module,
    batches: CellBatches,
    split: tuple[np.ndarray, np.ndarray],
    schedule: Schedule,
    folder: Path,
    remember: dict[str, Any],
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Train until the last epoch or until the validation loss stalls; leave the best weights in
    `model`.

    Goes on from `checkpoint.pt` if `folder` has one.

    Args:
        model: the VAE, on the device of the batches.
        objective: maps (model, x) to a dict of terms with `loss`; its own parameters are trained
            too.
        batches: source of the batches.
        split: indices of the training and of the validation cells.
        schedule: epochs, learning rate, early stopping, seed.
        folder: the run folder.
        remember: plain data stored in both checkpoints (settings, scaling), enough to use the model
            elsewhere.
        progress: show a bar with the time left.

    Returns:
        the history, one dict per epoch: epoch, train and valid terms, learning_rate, seconds.

    Raises:
        UserError: the loss is not finite, or a checkpoint does not fit the model.
    """
    optimizer = torch.optim.Adam(
        objective.parameter_groups(model, schedule.learning_rate),
        fused=batches.device.type != "mps",
    )
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, schedule.decay_every, schedule.decay)
    parts = {"model": model, "objective": objective, "optimizer": optimizer, "scheduler": scheduler}
    history = _resume(folder / "checkpoint.pt", parts, batches.device)
    train_cells, valid_cells = split

    bar = tqdm(
        total=schedule.epochs,
        initial=len(history),
        desc="training",
        unit="epoch",
        disable=not progress,
    )
    with bar:
        while len(history) < schedule.epochs and not _stalled(history, schedule.patience):
            epoch, started = len(history) + 1, time.perf_counter()
            rate = optimizer.param_groups[0]["lr"]
            seed_everything(schedule.seed, epoch)
            learnt = _train_epoch(model, objective, optimizer, batches.shuffled(train_cells), epoch)
            checked = evaluate(model, objective, batches.in_order(valid_cells))
            _refuse_non_finite(checked, f"epoch {epoch}, validation")
            scheduler.step()
            seconds = time.perf_counter() - started
            history.append(
                {
                    "epoch": epoch,
                    "train": learnt,
                    "valid": checked,
                    "learning_rate": rate,
                    "seconds": seconds,
                }
            )
            if best_epoch(history) == epoch:
                save_checkpoint(
                    folder / "best.pt", {"model": model.state_dict(), "epoch": epoch, **remember}
                )
            states = {name: part.state_dict() for name, part in parts.items()}
            save_checkpoint(folder / "checkpoint.pt", {**states, "history": history, **remember})
            _write_log(folder / "log.jsonl", history)
            bar.set_postfix(train=f"{learnt['loss']:.1f}", valid=f"{checked['loss']:.1f}")
            bar.update()
    _write_log(folder / "log.jsonl", history)
    _load_state(
        model, load_checkpoint(folder / "best.pt", batches.device)["model"], folder / "best.pt"
    )
    return history


def best_epoch(history: list[dict[str, Any]]) -> int:
    """The epoch, from 1, of the lowest validation loss; the first of equals."""
    return min(history, key=lambda entry: entry["valid"]["loss"])["epoch"]


def _stalled(history: list[dict[str, Any]], patience: int) -> bool:
    return bool(history) and len(history) - best_epoch(history) >= patience


def _train_epoch(
    model: nn.Module,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Tensor],
    epoch: int,
) -> dict[str, float]:
    model.train()
    objective.train()
    steps: list[dict[str, Tensor]] = []
    for x in batches:
        optimizer.zero_grad(set_to_none=True)
        terms = objective(model, x)
        terms["loss"].backward()
        optimizer.step()
        steps.append({name: value.detach() for name, value in terms.items()})
    values = _read_back(steps)
    for step in torch.nonzero(~values["loss"].isfinite()).flatten().tolist():
        _refuse_non_finite(
            {k: float(v[step]) for k, v in values.items()}, f"epoch {epoch}, batch {step + 1}"
        )
    return {name: float(value.mean()) for name, value in values.items()}


def _read_back(steps: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Terms of all batches as float64 (batches,); read once, since every look at a GPU's value
    stops its queue.
    """
    return {name: torch.stack([step[name] for step in steps]).cpu().double() for name in steps[0]}


def _refuse_non_finite(terms: dict[str, float], where: str) -> None:
    if not all(math.isfinite(value) for value in terms.values()):
        said = ", ".join(f"{name} {value:g}" for name, value in terms.items())
        raise UserError(
            f"the loss is not finite ({where}: {said}): lower --learning-rate; "
            "the checkpoint of the epoch before is kept"
        )


@torch.no_grad()
def evaluate(model: nn.Module, objective: nn.Module, batches: Iterable[Tensor]) -> dict[str, float]:
    """Terms of the objective in evaluation mode (codes are posterior means), mean over all
    cells.
    """
    model.eval()
    objective.eval()
    steps, sizes = [], []
    for x in batches:
        steps.append(objective(model, x))
        sizes.append(len(x))
    weights = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
    return {name: float(weights @ value) for name, value in _read_back(steps).items()}


@torch.no_grad()
def embed(model: nn.Module, batches: CellBatches, n_cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Posterior of every cell in data-set order: mean (N, d) and log-variance (N, d), float32."""
    model.eval()
    pairs = [model.encode(x) for x in batches.in_order(np.arange(n_cells))]
    mean, logvar = (torch.cat(part).float().cpu().numpy() for part in zip(*pairs, strict=True))
    return mean, logvar


def _resume(path: Path, parts: dict[str, Any], device: torch.device) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    state = load_checkpoint(path, device)
    for name, part in parts.items():
        if name not in state:
            raise UserError(f"{path} holds no {name}: it is not a checkpoint of this training loop")
        _load_state(part, state[name], path)
    return state["history"]


def _load_state(part: Any, state: dict[str, Any], path: Path) -> None:
    try:
        part.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()
        detail = reason[1].strip() if len(reason) > 1 else reason[0]
        raise UserError(f"{path} was saved from another model ({detail[:160]})") from error


def _write_log(path: Path, history: list[dict[str, Any]]) -> None:
    with write_atomically(path) as temporary:
        temporary.write_text(
            "".join(json.dumps(entry) + "\n" for entry in history), encoding="utf-8"
        )
