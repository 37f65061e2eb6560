"""The only training loop, and `embed`, which computes the codes of a trained model.

Adam with a stepwise falling learning rate and early stopping on the validation loss, as in the
thesis. `log.jsonl` has a line per epoch. `checkpoint.pt` holds all that is needed to continue, and
`best.pt` the model of the lowest validation loss; both are written at most every minute, less often
if they are large, and whenever training ends, also by an error, Ctrl-C or SIGTERM. A finished run
keeps `best.pt`, and a checkpoint that is small or asked for. The random numbers of an
epoch follow from the seed of the run and the number of the epoch. So a run that was killed and
resumed repeats the epochs since the last checkpoint and, on the CPU, ends in the same weights as an
undisturbed run.

Many processes (torchrun) share every batch: each takes every world_size-th cell, computes the
gradient of its part, and the update follows the mean over the whole batch. So the batch size means
the same for any number of processes, and all end in the same weights; the main process writes.
Terms of the log are means over the whole batch, with two exceptions: on the CPU batch norm
normalises a part by its own statistics (on CUDA by those of the whole batch, SyncBatchNorm), and
the bound of the InfoMax VAE sees the pairs of one part only, so that its ceiling is the log of the
part's size. If the memory runs out, the run ends instead of halving the batch.
"""

import gc
import json
import math
import sys
import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from models import learning_curve
from models.checkpoints import load_weights, read_checkpoint, refuse_odd_epoch
from util import processes
from util.data_processing import Batches
from util.devices import autocast
from util.errors import UserError, is_out_of_memory
from util.even_sampling import draw_cells
from util.files import write_atomically
from util.runs import save_checkpoint, seed_everything

SMALLEST_BATCH = 16  # smaller batches give batch norm too few cells
SAVE_EVERY = 60.0  # seconds at least from one checkpoint to the next
WRITTEN_PER_EPOCH = 48e6  # bytes, at most on average: 100 epochs write less than 5 GB
LEAST_KL = 0.1  # nats per cell; the posteriors of a code that holds less are the prior
LEAST_DRAWN = 0.01  # of the variance between cells, for an image that depends on its cell
LARGEST_KEPT = 32 * 2**20  # bytes; a checkpoint has three to seven times the size of its model


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        epochs: passes over the training cells, at most.
        learning_rate: Adam's initial step size for the VAE.
        decay_every: epochs after which the learning rate is cut, again and again.
        decay: factor by which each cut multiplies the learning rate.
        patience: training stops after this many epochs without a better validation loss.
        seed: of the run.
        bfloat16: compute in bfloat16 where that is safe (autocast); weights stay float32.
        freeze_norm_after: epochs after which the batch-norm statistics are frozen, while the
            weights of batch norm stay trainable; None never freezes them.
        minutes: train until validation loss and view information stand still
            (`models.learning_curve`), for at most this many minutes and `epochs`. The learning rate
            is cut where they first stand still; `decay_every` and `patience` play no part. None
            trains for `epochs`.
    """

    epochs: int
    learning_rate: float
    _: KW_ONLY
    decay_every: int = 40
    decay: float = 0.6
    patience: int = 30
    seed: int = 0
    bfloat16: bool = False
    freeze_norm_after: int | None = None
    minutes: float | None = None

    @property
    def is_timed(self) -> bool:
        """Whether the minutes may end the training."""
        return self.minutes is not None and self.minutes < math.inf


Judge = Callable[[nn.Module], float]


def train(
    model: nn.Module,
    objective: nn.Module,
    batches: Batches,
    split: tuple[np.ndarray, np.ndarray],
    *,
    schedule: Schedule,
    folder: Path,
    remember: dict[str, Any] | None = None,
    progress: bool = True,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    probabilities: np.ndarray | None = None,
    keep_checkpoint: bool = True,
    judge: Judge | None = None,
) -> list[dict[str, Any]]:
    """Train until the last epoch or a stalled validation loss; the best weights end in `model`.

    Continues from `checkpoint.pt` if `folder` has one. If the device's memory runs out, the epoch
    starts again with half the batch size, down to 16.

    Args:
        model: the VAE, on the device of the batches.
        objective: maps (model, x) to a dict of terms with `loss`; its parameters are trained too.
        batches: source of the batches; their size may be halved.
        split: indices of the training and of the validation cells.
        schedule: epochs, learning rate, early stopping, seed.
        folder: the run folder.
        remember: plain data stored in both checkpoints, enough to use the model elsewhere.
        progress: show a bar with the remaining time.
        on_epoch: called in the main process with each epoch's line of the log.
        probabilities: (training cells,) that add up to 1, by which an epoch draws its cells; None
            shows each cell once. Validation always counts each cell once.
        keep_checkpoint: keep checkpoint.pt at the end whatever its size, so that a longer training
            can continue from it; else one above `LARGEST_KEPT` is deleted, unless this call trained
            no epoch.
        judge: view information of the model, in nats, measured every few hundred steps of a
            schedule of minutes.

    Returns:
        the history, one dict per epoch: epoch, train and valid terms, learning_rate, batch_size,
        seconds.

    Raises:
        UserError: the loss is not finite, memory is too small for the smallest batch, a checkpoint
            does not fit the model, or a batch is too small for so many processes.
    """
    training = _Training(
        model=model,
        objective=objective,
        batches=batches,
        split=split,
        schedule=schedule,
        folder=folder,
        remember=remember or {},
        probabilities=probabilities,
        keep_checkpoint=keep_checkpoint,
        judge=judge,
    )
    history = training.restore()
    training.run(history, progress, on_epoch)
    processes.wait_for_all()  # until the files are written
    load_weights(folder / "best.pt", model)
    return history


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The history that `train` returned for the run of this folder, from its log.

    Raises:
        UserError: the log is missing or damaged.
    """
    path = folder / "log.jsonl"
    try:
        history = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing or damaged ({error}): restore it") from error
    if not history:
        raise UserError(f"{path} is damaged: it has no epoch; restore it")
    for number, entry in enumerate(history, start=1):
        refuse_odd_epoch(entry, number, path)
    return history


def refuse_unusable_checkpoint(
    folder: Path, model: nn.Module, objective: nn.Module, schedule: Schedule
) -> None:
    """Make sure that a run can be resumed, before anything in its folder changes.

    Args:
        folder: the run folder; without checkpoint.pt, the run stopped before training or finished.
        model, objective: as they are built for the run; the model may take the best weights.
        schedule: of the resumed run.

    Raises:
        UserError: the checkpoint is damaged or of another model; or the run finished without
            keeping one, and the schedule asks for more epochs.
    """
    path = folder / "checkpoint.pt"
    if path.is_file():
        if read_checkpoint(path, _parts(model, objective, schedule))["history"]:
            load_weights(folder / "best.pt", model)
    elif (folder / "best.pt").is_file():
        _refuse_longer(folder, read_history(folder), schedule)


def _parts(
    model: nn.Module, objective: nn.Module, schedule: Schedule, fused: bool = False
) -> dict[str, Any]:
    """All that has a state: what is trained, and what trains it."""
    groups = objective.parameter_groups(model, schedule.learning_rate)
    optimizer = torch.optim.Adam(groups, fused=fused)
    every = schedule.decay_every if schedule.minutes is None else sys.maxsize
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, every, schedule.decay)
    return {
        "model": model,
        "objective": objective,
        "optimizer": optimizer,
        "scheduler": scheduler,
    }


class _Training:
    """What is trained, and how it is saved and restored."""

    def __init__(
        self,
        *,
        model: nn.Module,
        objective: nn.Module,
        batches: Batches,
        split: tuple[np.ndarray, np.ndarray],
        schedule: Schedule,
        folder: Path,
        remember: dict[str, Any],
        probabilities: np.ndarray | None,
        keep_checkpoint: bool,
        judge: Judge | None,
    ):
        self.model, self.objective, self.batches = model, objective, batches
        self.split, self.schedule = split, schedule
        self.folder, self.remember, self.probabilities = folder, remember, probabilities
        self.keep_checkpoint, self.judge = keep_checkpoint, judge
        if processes.world_size() > 1:
            _refuse_small_parts(min(batches.batch_size, len(split[0])))
            if batches.device.type == "cuda":  # replaces the layers, keeps their parameters
                nn.SyncBatchNorm.convert_sync_batchnorm(nn.ModuleList([model, objective]))
        fused = batches.device.type != "mps"
        self.parts = _parts(model, objective, schedule, fused)
        self.optimizer, self.scheduler = self.parts["optimizer"], self.parts["scheduler"]
        self.best: dict[str, Any] | None = None  # content of best.pt that is not yet written
        self.last: dict[str, Any] = {}  # content of checkpoint.pt
        self.saved_epochs, self.saved_bytes, self.saved_at = 0, 0, time.monotonic()

    def run(
        self,
        history: list[dict[str, Any]],
        progress: bool,
        on_epoch: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        """Train what is left of the schedule; lengthens the history."""
        with self.bar(history, progress) as bar:
            try:
                while not _finished(history, self.schedule):
                    entry = self.try_epoch(len(history) + 1)
                    if entry is None:
                        self.halve_batches(len(history) + 1)
                        continue
                    history.append(entry)
                    self.note(history)
                    if on_epoch and processes.is_main():
                        on_epoch(entry)
                    losses = {side: f"{entry[side]['loss']:.1f}" for side in ("train", "valid")}
                    bar.set_postfix(losses)
                    bar.update(entry["seconds"] if self.schedule.is_timed else 1)
            finally:
                self.save_what_is_new()

    def bar(self, history: list[dict[str, Any]], progress: bool) -> tqdm:
        """The progress bar, with the time left: in epochs, or in seconds of the minutes."""
        shown = {"desc": "training", "disable": not progress}
        if not self.schedule.is_timed:
            return tqdm(total=self.schedule.epochs, initial=len(history), unit="epoch", **shown)
        form = "{l_bar}{bar}| of the minutes{postfix}"
        total = 60 * self.schedule.minutes
        spent = min(_seconds(history), total)
        return tqdm(total=total, initial=spent, bar_format=form, **shown)

    def restore(self) -> list[dict[str, Any]]:
        """Load the checkpoint, or write the first one; returns the history so far."""
        path = self.folder / "checkpoint.pt"
        if processes.from_main(path.is_file()):
            self._continue_from(read_checkpoint(path, self.parts))
            self.saved_epochs, self.saved_bytes = len(self.last["history"]), path.stat().st_size
        elif processes.from_main((self.folder / "best.pt").is_file()):
            history = processes.from_main(read_history(self.folder))
            _refuse_longer(self.folder, history, self.schedule)
            return history
        else:
            self.last = self._state([])
            self._save()
        return list(self.last["history"])

    def _continue_from(self, state: dict[str, Any]) -> None:
        """Continue from the state of a finished epoch."""
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.batches.batch_size = state["batch_size"]
        self.last = self._state(state["history"])  # a copy: the optimizer changes the tensors

    def _state(self, history: list[dict[str, Any]]) -> dict[str, Any]:
        """A copy, on the device, of all that is needed to continue."""
        states = {name: deepcopy(part.state_dict()) for name, part in self.parts.items()}
        more = {"history": list(history), "batch_size": self.batches.batch_size}
        return {**states, **more, **self.remember}

    def note(self, history: list[dict[str, Any]]) -> None:
        """After an epoch: keep its state, and its weights if they are the best; save when due."""
        epoch = len(history)
        self.last = self._state(history)
        if best_epoch(history) == epoch:
            self.best = {"model": self.last["model"], "epoch": epoch, **self.remember}
        waited = time.monotonic() - self.saved_at
        affordable = WRITTEN_PER_EPOCH * (epoch - self.saved_epochs)
        if waited >= SAVE_EVERY and self.saved_bytes <= affordable:
            self._save()
        elif processes.is_main():
            _write_log(self.folder / "log.jsonl", history)

    def save_what_is_new(self) -> None:
        """Save, unless the last epoch is saved already."""
        if self.last and len(self.last["history"]) > self.saved_epochs:
            self._save()

    def _save(self) -> None:
        """Write best.pt if it is new, checkpoint.pt and log.jsonl, in the main process.

        At the end, a large checkpoint that nobody asked for is deleted instead.
        """
        if processes.is_main():
            states = {"best.pt": self.best, "checkpoint.pt": self.last}
            if self._is_dispensable():
                del states["checkpoint.pt"]
            written = [self.folder / name for name, state in states.items() if state]
            for path in written:
                save_checkpoint(path, states[path.name])
            _write_log(self.folder / "log.jsonl", self.last["history"])
            self.saved_bytes = sum(path.stat().st_size for path in written)
            if "checkpoint.pt" not in states:  # when all else is written
                (self.folder / "checkpoint.pt").unlink(missing_ok=True)
        self.best = None
        self.saved_epochs, self.saved_at = len(self.last["history"]), time.monotonic()

    def _is_dispensable(self) -> bool:
        """Whether the checkpoint is large, and nobody asked to keep it in a finished run."""
        over = _finished(self.last["history"], self.schedule)
        return over and not self.keep_checkpoint and _bytes_of(self.last) > LARGEST_KEPT

    def try_epoch(self, number: int) -> dict[str, Any] | None:
        """`epoch`, or None if the memory ran out.

        On return the tensors of the failed step are freed; the traceback of the error held them.
        """
        try:
            return self.epoch(number)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        return None

    def epoch(self, number: int) -> dict[str, Any]:
        """Train one epoch and validate; returns its line of the log."""
        started = time.perf_counter()
        rate = self.optimizer.param_groups[0]["lr"]
        seed_everything(self.schedule.seed, number)
        train_cells, valid_cells = self.split
        if self.probabilities is not None:
            train_cells = draw_cells(train_cells, self.probabilities)
        learnt = self._learn(self.batches.shuffled(train_cells), number)
        valid = self._validate(valid_cells)
        _refuse_non_finite(valid, f"epoch {number}, validation")
        entry = {
            "epoch": number,
            "train": learnt,
            "valid": valid,
            "learning_rate": rate,
            "batch_size": self.batches.batch_size,
            "seconds": time.perf_counter() - started,
        }
        if self.schedule.minutes is not None:
            self.compare_with_before(entry)
            entry["seconds"] = time.perf_counter() - started
        self.scheduler.step()
        return entry

    def compare_with_before(self, entry: dict[str, Any]) -> None:
        """Measure view information where it is due, and cut the learning rate at a plateau."""
        before = self.last["history"]
        history = [*before, entry]
        last = len(history) == self.schedule.epochs
        if not (last or learning_curve.is_due(history, len(self.split[0]))):
            return
        entry["view_information"] = processes.from_main(
            self.judge(self.model) if processes.is_main() else None
        )
        if learning_curve.plateaus(history) > learning_curve.plateaus(before):
            for group in self.optimizer.param_groups:
                group["lr"] *= learning_curve.DECAY

    def _learn(self, batches: Iterable[Tensor], epoch: int) -> dict[str, float]:
        self.model.train()
        self.objective.train()
        after = self.schedule.freeze_norm_after
        if after is not None and epoch > after:
            _freeze_norms(self.model)
        steps: list[dict[str, Tensor]] = []
        part = slice(processes.rank(), None, processes.world_size())
        shares = []  # this process's share of each batch
        for x in batches:
            self.optimizer.zero_grad(set_to_none=True)
            own = x[part]
            shares.append(len(own) / len(x))
            with (
                processes.own_randomness(x.device, self.schedule.seed, epoch, len(steps)),
                autocast(x.device, self.schedule.bfloat16),
            ):
                terms = self.objective(self.model, own)
            terms["loss"].backward()
            self._sum_gradients(shares[-1])
            self.optimizer.step()
            steps.append({name: value.detach() for name, value in terms.items()})
        self._agree_on_statistics()
        share = torch.tensor(shares, dtype=torch.float64)
        values = processes.weighted_mean(_read_back(steps), share)
        for step in torch.nonzero(~values["loss"].isfinite()).flatten().tolist():
            terms = {name: float(value[step]) for name, value in values.items()}
            _refuse_non_finite(terms, f"epoch {epoch}, batch {step + 1}")
        return {name: float(value.mean()) for name, value in values.items()}

    def _sum_gradients(self, share: float) -> None:
        """Make each process's gradient that of the whole batch, in one message for all parameters.

        A part's loss is a mean over the part, so it is weighted by the part's share of the batch.
        """
        if processes.world_size() == 1:
            return
        groups = self.optimizer.param_groups
        owned = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        message = processes.add_up(torch.cat([grad.flatten() for grad in owned]).mul_(share))
        for grad, total in zip(owned, message.split([g.numel() for g in owned]), strict=True):
            grad.copy_(total.view_as(grad))

    def _agree_on_statistics(self) -> None:
        """Average the running statistics of batch norm, since each process saw only its part.

        So all validate the same model, the one that is saved.
        """
        if processes.world_size() == 1:
            return
        for module in (self.model, self.objective):
            for buffer in module.buffers():
                if buffer.is_floating_point():
                    processes.add_up(buffer).div_(processes.world_size())

    def _validate(self, cells: np.ndarray) -> dict[str, float]:
        """Terms over the validation cells; each process takes whole batches."""
        size = self.batches.batch_size
        batches = np.split(cells, range(size, len(cells), size))
        own = batches[processes.rank() :: processes.world_size()]
        if not own:
            return processes.weighted_mean({}, 0)
        own = np.concatenate(own)
        batches = self.batches.in_order(own)
        terms = evaluate(self.model, self.objective, batches, self.schedule.bfloat16)
        return processes.weighted_mean(terms, len(own))

    def halve_batches(self, epoch: int) -> None:
        """After the memory ran out: return to the last finished epoch with half the batch size."""
        half = self.batches.batch_size // 2
        if processes.world_size() > 1:  # the others are in the middle of their step
            raise UserError(
                f"out of memory on {self.batches.device} in epoch {epoch}: start a new run with "
                f"`batch_size` {half} or with more processes"
            )
        if half < SMALLEST_BATCH:
            raise UserError(
                f"the memory of {self.batches.device} is too small for batches of "
                f"{self.batches.batch_size} cells: lower `base` or `image_size`"
            )
        # The memory of the failed step is freed before the state is copied.
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.state.clear()
        gc.collect()
        if self.batches.device.type == "cuda":
            torch.cuda.empty_cache()
        self._continue_from(self.last)
        self.batches.batch_size = half
        print(f"epoch {epoch}: out of memory, starting it again with batches of {half} cells")


def best_epoch(history: list[dict[str, Any]]) -> int:
    """The epoch, from 1, with the lowest validation loss; the first if there are several."""
    return min(history, key=lambda entry: entry["valid"]["loss"])["epoch"]


def describe_training(history: list[dict[str, Any]], device: torch.device) -> str:
    """One sentence: the best epoch, its loss, and how long the training took."""
    best = history[best_epoch(history) - 1]
    return (
        f"Epoch {best['epoch']} of {len(history)} had the lowest validation loss, "
        f"{best['valid']['loss']:.1f} nats per image, and is the one shown and scored; training "
        f"took {_seconds(history):.0f} s on {device}."
    )


def why_ended(history: list[dict[str, Any]], schedule: Schedule, n_cells: int) -> str:
    """One sentence: why the training ended, and how to go on if it was still improving.

    Args:
        history: of a finished training.
        schedule: of it.
        n_cells: training cells.
    """
    steps = f"after {learning_curve.steps_of(history, n_cells):,} steps ({len(history)} epochs)"
    longest, way = len(history) >= schedule.epochs, f"`epochs` {2 * len(history)}"
    if schedule.minutes is not None:
        if learning_curve.plateaus(history) >= learning_curve.LAST_PLATEAU:
            return f"Training ended {steps} because loss and view information stood still."
        if not longest:
            way = f"`minutes` {2 * schedule.minutes:g}"
    elif not longest:
        return (
            f"Training ended {steps} because the validation loss had not fallen for "
            f"{schedule.patience} epochs."
        )
    if not learning_curve.still_improving(history):
        return f"Training ended {steps}; the validation loss stood still."
    return (
        f"WARNING: the validation loss was still falling when training ended {steps}: go on with "
        f"`resume` {way}."
    )


def signs_of_collapse(history: list[dict[str, Any]], cells: Tensor, drawn: Tensor) -> list[str]:
    """Warnings about a model whose code says nothing of the cells.

    Args:
        history: of its training.
        cells: (B, C, S, S) held-out images in 0..1.
        drawn: their reconstructions.
    """
    kl = history[best_epoch(history) - 1]["valid"]["kl"]
    drawn_spread, spread = (images.var(dim=0).sum() for images in (drawn, cells))
    found = []
    if kl < LEAST_KL:
        found.append(
            f"WARNING: the model has collapsed: its code holds {kl:.2f} nats per cell, so it says "
            "nothing about them. Lower `beta`, raise `free_bits` or train longer."
        )
    if len(cells) > 1 and drawn_spread < LEAST_DRAWN * spread:
        found.append(
            "WARNING: the decoder draws the same image for every cell (its images vary by "
            f"{drawn_spread / spread:.1%} of the cells' variance), so look at no reconstruction. "
            "Train longer, or take `likelihood` gaussian where channels are faint."
        )
    return found


def _refuse_small_parts(batch: int) -> None:
    if batch < 2 * processes.world_size():
        raise UserError(
            f"batches of {batch} cells for {processes.world_size()} processes: batch norm needs at "
            "least 2 cells in each; raise `batch_size` or start fewer processes"
        )


def _finished(history: list[dict[str, Any]], schedule: Schedule) -> bool:
    """Whether the last epoch or minute is over, or nothing more is learnt."""
    if len(history) >= schedule.epochs or not history:
        return bool(history)
    if schedule.minutes is None:
        return len(history) - best_epoch(history) >= schedule.patience
    over = _seconds(history) >= 60 * schedule.minutes
    return over or learning_curve.plateaus(history) >= learning_curve.LAST_PLATEAU


def _seconds(history: list[dict[str, Any]]) -> float:
    return sum(entry["seconds"] for entry in history)


def _bytes_of(state: Any) -> int:
    """Bytes of all tensors in a state."""
    if isinstance(state, dict):
        return sum(map(_bytes_of, state.values()))
    return state.nbytes if isinstance(state, Tensor) else 0


def _refuse_longer(folder: Path, history: list[dict[str, Any]], schedule: Schedule) -> None:
    if not _finished(history, schedule):
        raise UserError(
            f"{folder} finished after {len(history)} epochs and kept no checkpoint.pt, which a "
            f"longer training needs: start a new run with `from` {folder} `epochs` "
            f"{schedule.epochs}, and with `keep_checkpoint` if it may be lengthened again"
        )


def _freeze_norms(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _read_back(steps: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Terms of all batches as float64 (batches,); read once, since reading a GPU's value stops its
    queue.
    """
    return {name: torch.stack([step[name] for step in steps]).cpu().double() for name in steps[0]}


def _refuse_non_finite(terms: dict[str, float], where: str) -> None:
    if not all(math.isfinite(value) for value in terms.values()):
        said = ", ".join(f"{name} {value:g}" for name, value in terms.items())
        raise UserError(
            f"the loss is not finite ({where}: {said}): lower `learning_rate`; "
            "the checkpoint of the epoch before is kept"
        )


@torch.no_grad()
def evaluate(
    model: nn.Module, objective: nn.Module, batches: Iterable[Tensor], bfloat16: bool = False
) -> dict[str, float]:
    """Terms of the objective in evaluation mode (codes are posterior means), mean over all cells.

    Args:
        model, objective: as for `train`.
        batches: images (B, C, S, S) in 0..1.
        bfloat16: as in `Schedule`.
    """
    model.eval()
    objective.eval()
    steps, sizes = [], []
    for x in batches:
        with autocast(x.device, bfloat16):
            steps.append(objective(model, x))
        sizes.append(len(x))
    weights = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
    return {name: float(weights @ value) for name, value in _read_back(steps).items()}


@torch.no_grad()
def embed(model: nn.Module, batches: Batches, n_cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Posterior of every cell in data-set order: mean (N, d) and log-variance (N, d), float32."""
    model.eval()
    pairs = [model.encode(x) for x in batches.in_order(np.arange(n_cells))]
    mean, logvar = (torch.cat(part).float().cpu().numpy() for part in zip(*pairs, strict=True))
    return mean, logvar


def _write_log(path: Path, history: list[dict[str, Any]]) -> None:
    with write_atomically(path) as temporary:
        temporary.write_text(
            "".join(json.dumps(entry) + "\n" for entry in history), encoding="utf-8"
        )
