"""What a checkpoint must hold, checked in full before anything of it is used.

A checkpoint comes from a file, so it may be damaged, edited or of another run. PyTorch itself
compares names and shapes of weights; states of an optimizer that do not fit end the process in its
fused kernels. Here every entry is compared with what this program would write: names, shapes,
types, finite numbers.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from util.errors import UserError
from util.runs import load_checkpoint

# Of the optimizer's groups: what must be there, and what may change, in an epoch or on a device.
NEEDED = frozenset(("params", "lr", "betas", "eps"))
MAY_DIFFER = frozenset(("lr", "fused", "foreach", "capturable"))
EPOCH = {"train": dict, "valid": dict, "learning_rate": float, "batch_size": int, "seconds": float}


def read_checkpoint(path: Path, parts: Mapping[str, Any]) -> dict[str, Any]:
    """checkpoint.pt of a run, which fits its parts and can be loaded into them.

    Args:
        path: of the checkpoint.
        parts: `model`, `objective`, `optimizer` and `scheduler` as they are built for the run; they
            are not changed.

    Raises:
        UserError: the file is missing or damaged, or an entry is not what this training would save.
    """
    state = load_checkpoint(path)
    for name in (*parts, "history", "batch_size"):
        if not isinstance(state, dict) or name not in state:
            raise UserError(f"{path} holds no {name}: no checkpoint of this training loop")
    for name in ("model", "objective"):
        _compare(state[name], parts[name].state_dict(), name, path)
    _check_history(state["history"], state["batch_size"], path)
    _compare_optimizer(state["optimizer"], parts["optimizer"], len(state["history"]), path)
    own = parts["scheduler"].state_dict()
    state["scheduler"] = _compare_scheduler(state["scheduler"], own, state, path)
    return state


def load_weights(path: Path, model: nn.Module) -> dict[str, Any]:
    """Load the weights of best.pt into a model; returns all that the file holds.

    Raises:
        UserError: the file is missing or damaged, or holds weights of another model or none.
    """
    state = load_checkpoint(path)
    if not isinstance(state, dict) or "model" not in state:
        raise UserError(f"{path} holds no model: restore it, or give another run")
    _compare(state["model"], model.state_dict(), "model", path)
    model.load_state_dict(state["model"])
    return state


def load_objective(path: Path, objective: nn.Module) -> None:
    """Load what the objective of another run has learnt, from its checkpoint.pt.

    Raises:
        UserError: the file is damaged, or holds another objective or none.
    """
    state = load_checkpoint(path)
    found = state.get("objective") if isinstance(state, dict) else None
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no objective: no checkpoint of this training loop")
    found = {str(name).removeprefix("base."): value for name, value in found.items()}
    _compare(found, objective.state_dict(), "objective", path)
    objective.load_state_dict(found)


def _refuse(path: Path, why: str) -> None:
    raise UserError(
        f"{path} does not fit this run ({why}): restore it, or start a new run with `from`"
    )


def _compare(found: Any, expected: Any, name: str, path: Path) -> None:
    """Compare an entry with the one that would be saved now; `name` says where it stands."""
    if isinstance(expected, Mapping):
        _compare_names(found, expected, name, path)
        for key, value in expected.items():
            _compare(found[key], value, f"{name} {key}", path)
    elif isinstance(expected, Tensor):
        _compare_tensors(found, expected, name, path)
    elif isinstance(expected, (list, tuple)):
        if type(found) is not type(expected) or len(found) != len(expected):
            _refuse(path, f"{name} is not {len(expected)} values")
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            _compare(one, other, f"{name} {number}", path)
    else:
        _compare_values(found, expected, name, path)


def _compare_names(found: Any, expected: Mapping, name: str, path: Path) -> None:
    if not isinstance(found, Mapping):
        _refuse(path, f"{name} is {type(found).__name__}, no dictionary")
    missing, odd = expected.keys() - found.keys(), found.keys() - expected.keys()
    for what, names in (("is missing from", missing), ("is unknown in", odd)):
        if names:
            _refuse(path, f"{min(map(str, names))} {what} {name}")


def _compare_tensors(found: Any, expected: Tensor, name: str, path: Path) -> None:
    if not isinstance(found, Tensor):
        _refuse(path, f"{name} is {type(found).__name__}, no tensor")
    if found.shape != expected.shape or found.dtype != expected.dtype:
        sides = [
            f"{list(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in (found, expected)
        ]
        _refuse(path, f"{name} is {sides[0]}, expected {sides[1]}")
    if found.layout != torch.strided or not found.isfinite().all():
        _refuse(path, f"{name} holds NaN or infinite numbers")


def _compare_values(found: Any, expected: Any, name: str, path: Path) -> None:
    kinds = (int, float) if type(expected) in (int, float) else (type(expected),)
    if type(found) not in kinds:
        _refuse(path, f"{name} is {str(found)[:40]!r}, expected {type(expected).__name__}")
    if isinstance(found, float) and not math.isfinite(found):
        _refuse(path, f"{name} is {found}")


def _compare_optimizer(
    found: Any, optimizer: torch.optim.Optimizer, epochs: int, path: Path
) -> None:
    """Groups as they are built; after the first epoch, states in the shapes of the parameters."""
    expected = optimizer.state_dict()
    _compare_names(found, expected, "optimizer", path)
    groups, built = found["param_groups"], expected["param_groups"]
    if not isinstance(groups, list) or len(groups) != len(built):
        _refuse(path, f"the optimizer has not {len(built)} groups")
    for number, (group, own) in enumerate(zip(groups, built, strict=True)):
        name = f"optimizer group {number}"
        known = own.keys() & group if isinstance(group, Mapping) else set()
        _compare({k: group[k] for k in known}, {k: own[k] for k in known | NEEDED}, name, path)
        for option in sorted(known - MAY_DIFFER):
            if group[option] != own[option]:
                _refuse(path, f"{name} {option} is {str(group[option])[:40]}")
        if not group["lr"] >= 0:
            _refuse(path, f"{name} lr is {group['lr']}")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not isinstance(found["state"], Mapping):
        _refuse(path, "optimizer state is no dictionary")
    if found["state"].keys() != set(range(len(parameters) if epochs else 0)):
        _refuse(path, "optimizer state is of other parameters")
    for number, state in found["state"].items():
        moment = parameters[number].data
        like = {"step": torch.zeros(()), "exp_avg": moment, "exp_avg_sq": moment}
        _compare(state, like, f"optimizer state {number}", path)
        if state["step"] != found["state"][0]["step"] or (state["exp_avg_sq"] < 0).any():
            _refuse(path, f"optimizer state {number} is not of {epochs} epochs")


def _compare_scheduler(found: Any, own: dict, state: Mapping[str, Any], path: Path) -> dict:
    """The entries that the scheduler here has too; other versions of PyTorch have other ones."""
    known = own.keys() & found if isinstance(found, Mapping) else set()
    kept = {name: found[name] for name in known}
    _compare(
        kept, {name: own[name] for name in known | {"last_epoch", "_last_lr"}}, "scheduler", path
    )
    for name in sorted(known & {"step_size", "gamma", "base_lrs"}):
        if kept[name] != own[name]:
            _refuse(path, f"scheduler {name} is {kept[name]}")
    if kept["last_epoch"] != len(state["history"]):
        _refuse(path, f"scheduler last_epoch is not {len(state['history'])}, as in the history")
    if kept["_last_lr"] != [group["lr"] for group in state["optimizer"]["param_groups"]]:
        _refuse(path, "scheduler and optimizer have other learning rates")
    return kept


def _check_history(history: Any, batch_size: Any, path: Path) -> None:
    """One entry per epoch, from 1, and the batch size of the last."""
    if not isinstance(history, list):
        _refuse(path, "history is no list")
    for number, entry in enumerate(history, start=1):
        refuse_odd_epoch(entry, number, path)
    last = history[-1]["batch_size"] if history else batch_size
    if type(batch_size) is not int or batch_size < 1 or batch_size != last:
        _refuse(path, f"batch_size is {str(batch_size)[:40]}")


def refuse_odd_epoch(entry: Any, number: int, path: Path) -> None:
    """Refuse an entry of a history, or a line of a log, that no epoch leaves.

    Args:
        entry: what stands there.
        number: of the epoch, from 1.
        path: of the file, for the error.

    Raises:
        UserError: a value is missing or no number.
    """
    if not isinstance(entry, dict) or entry.get("epoch") != number:
        _refuse(path, f"entry {number} of the history is not epoch {number}")
    for name, kind in EPOCH.items():
        value = entry.get(name)
        values = value.values() if kind is dict and isinstance(value, dict) else [value]
        numbers = all(type(v) in (int, float) and math.isfinite(v) for v in values)
        if not numbers or (kind is dict and "loss" not in (value or {})):
            _refuse(path, f"{name} of epoch {number} is {str(value)[:40]!r}")
