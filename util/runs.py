"""A run: its numbered folder, its settings on the command line, its seeds and its checkpoints.

A run folder is `results/0007-<data set>-<model>/`. The number is taken by creating the folder, so
two runs started in the same second get two folders. A file appears in it whole or not at all
(`write_atomically`), so that a killed run leaves nothing half written behind.
"""

import contextlib
import dataclasses
import errno
import importlib.metadata
import io
import json
import math
import os
import pickle
import platform
import random
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch

from util import processes

SettingsT = TypeVar("SettingsT")

# Settings that say where a run stands and what it began from, not what it computes.
PROVENANCE = ("preset", "original", "resume", "results")

# What is written into settings.json, so that a number can be traced to the code that made it.
RECORDED_PACKAGES = (
    "torch torchvision numpy scipy scikit-learn scikit-image pandas matplotlib umap-learn "
    "cp-measure centrosome"
).split()


class UserError(ValueError):
    """A mistake of the user's: one line that names the file or value and says what would be right.

    The scripts print it without a traceback and exit with code 2.
    """


class DiskFullError(UserError):
    """The disk is full, which is no fault of what was being done: with room the same works."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of a device or of the machine ran out.

    PyTorch has an error of its own for CUDA alone; the CPU, MPS, cuBLAS and cuDNN tell it in words.
    """
    words = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(w in str(error).lower() for w in words)
    )


# ------------------------------------------------------------------------------------- command line


def parse_settings(
    default: SettingsT,
    presets: dict[str, dict[str, Any]],
    argv: Sequence[str] | None = None,
    changeable_on_resume: Sequence[str] = (),
) -> SettingsT:
    """Settings of a script: its defaults, then a preset or another run, then the command line.

    `--resume` alone means the newest run in the folder `results`; with a number or path that run.
    A resumed run keeps its own settings; of them only `changeable_on_resume` may be given again.
    `--from` starts a new run with the settings of another, any of which may be given again.

    Args:
        default: the frozen dataclass instance on top of the script, with the fields `PROVENANCE`.
        presets: name -> values that differ from the defaults; an explicit option wins over a
            preset.
        argv: the command line without the program's name; None for `sys.argv`.
        changeable_on_resume: names of fields that may differ from the run resumed.

    Raises:
        UserError: a field is changed that a resumed run cannot change, or there is no such run.
        SystemExit: code 2 for a misspelt option or a value of the wrong kind, 0 after `--help`.
    """
    argv = _give_bare_resume_a_value(list(sys.argv[1:] if argv is None else argv))

    def parse(base: SettingsT) -> SettingsT:
        return parse_options(base, argv)

    asked = parse(default)
    if asked.original:
        return _as_of_another_run(asked, default, parse)
    if asked.resume:
        folder = find_run(asked.resume, Path(asked.results), type(default).__name__)
        saved = settings_from_json(type(default), read_description(folder)["settings"])
        resumed = dataclasses.replace(parse(saved), resume=str(folder))
        _refuse_changes(resumed, saved, changeable_on_resume, folder)
        return resumed
    if asked.preset not in presets:
        raise UserError(f"--preset {asked.preset}: must be one of {', '.join(presets)}")
    return parse(dataclasses.replace(default, **presets[asked.preset]))


def _as_of_another_run(
    asked: SettingsT, default: SettingsT, parse: Callable[[SettingsT], SettingsT]
) -> SettingsT:
    """Settings of a new run: those of the run of `--from` where no option says otherwise."""
    for name in ("resume", "preset"):
        if getattr(asked, name) != getattr(default, name):
            raise UserError(f"--from with --{name}: a run has one beginning, give one of them")
    folder = find_run(asked.original, Path(asked.results), type(default).__name__, "--from")
    described = read_description(folder)
    if "guidance" in described:
        raise UserError(
            f"--from {asked.original}: that run learnt from feedback; fine-tune again with "
            "human_guidance/VAE_feedback_framework.py"
        )
    saved = settings_from_json(type(default), described["settings"])
    here = {name: getattr(default, name) for name in PROVENANCE}
    return dataclasses.replace(parse(dataclasses.replace(saved, **here)), original=str(folder))


def parse_options(default: SettingsT, argv: Sequence[str] | None = None) -> SettingsT:
    """Settings of a script without presets: its defaults, then the command line.

    Args:
        default: the frozen dataclass instance on top of the script.
        argv: the command line without the program's name; None for `sys.argv`.

    Raises:
        SystemExit: code 2 for a misspelt option or a value of the wrong kind, 0 after `--help`.
    """
    import tyro

    about = sys.modules[type(default).__module__].__doc__.split("\n\n")[0]
    return tyro.cli(type(default), default=default, args=argv, description=about)


def _give_bare_resume_a_value(argv: list[str]) -> list[str]:
    """`--resume` at the end or before another option means the newest run."""
    for place in range(len(argv) - 1, -1, -1):
        bare = place + 1 == len(argv) or argv[place + 1].startswith("--")
        if argv[place] == "--resume" and bare:
            argv = [*argv[: place + 1], "last", *argv[place + 1 :]]
    return argv


def _refuse_changes(new: Any, saved: Any, changeable: Sequence[str], folder: Path) -> None:
    for field in dataclasses.fields(saved):
        name = field.name
        if name in (*changeable, *PROVENANCE) or getattr(new, name) == getattr(saved, name):
            continue
        raise UserError(
            f"--{name.replace('_', '-')} {getattr(new, name)} differs from {getattr(saved, name)} "
            f"of {folder}; a resumed run can change only {', '.join(changeable)}: "
            "leave it out or start a new run"
        )


def find_run(asked: str, results: Path, kind: str, option: str = "--resume") -> Path:
    """The folder of a run of this script: a path, a number, or `last` for the newest one.

    Args:
        asked: `last`, a path, or the number of a run in `results`.
        results: the folder of numbered runs.
        kind: class name of the settings, which tells the script that made a run.
        option: that asks for it.

    Raises:
        UserError: there is no such run.
    """
    runs = [path for path in numbered_runs(results) if (path / "settings.json").is_file()]
    if asked == "last":
        runs = [path for path in runs if read_description(path)["kind"] == kind]
        if not runs:
            raise UserError(
                f"{option}: no run of this script in {results}; start one without {option}"
            )
        return runs[-1]
    folder = Path(asked)
    if asked.isdigit() and not folder.is_dir():
        runs = [path for path in runs if int(path.name.split("-")[0]) == int(asked)]
        if not runs:
            raise UserError(f"{option} {asked}: no run of that number in {results}")
        folder = runs[-1]
    if not (folder / "settings.json").is_file():
        raise UserError(f"{option} {asked}: no settings.json there; give the folder of a run")
    found = read_description(folder)["kind"]
    if found != kind:
        raise UserError(
            f"{option} {asked}: that run was made by another script ({found}, here {kind})"
        )
    return folder


def read_description(folder: Path) -> dict[str, Any]:
    """settings.json of a run, as `describe_run` made it.

    Raises:
        UserError: it is damaged, or not of a run.
    """
    path = folder / "settings.json"
    described = read_json(path)
    if not isinstance(described, dict) or not isinstance(described.get("settings"), dict):
        raise UserError(f"{path} holds no settings of a run: restore it or start a new run")
    return {"kind": None} | described


def settings_from_json(kind: type[SettingsT], values: dict[str, Any]) -> SettingsT:
    """Rebuild a settings dataclass; tuples come back from JSON as lists.

    A field that an older version did not write takes its default: what was added since then does by
    default what was done before.

    Raises:
        UserError: a field is unknown, as in a run of a newer version.
    """
    names = {field.name for field in dataclasses.fields(kind)}
    odd = sorted(set(values) - names)
    if odd:
        raise UserError(
            f"settings.json was written by another version: there is no setting {odd[0]!r} here"
        )
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers that a setting can have: low <= x <= high, without an end that is excluded."""

    low: float = -math.inf
    high: float = math.inf
    without: tuple[float, ...] = ()

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and value not in (*self.without, math.inf)

    def __str__(self) -> str:
        least = f"{'above' if self.low in self.without else 'at least'} {self.low:.10g}"
        if self.high == math.inf:
            return least
        return f"{least} and {'below' if self.high in self.without else 'at most'} {self.high:.10g}"


AT_LEAST_0, AT_LEAST_1, ABOVE_0 = Range(0), Range(1), Range(0, without=(0,))


def refuse_out_of_range(settings: Any, ranges: Mapping[str, Range]) -> None:
    """Refuse numbers that mean nothing, before anything is read or made.

    Args:
        settings: a dataclass; None passes, of a tuple every value is looked at.
        ranges: field -> its numbers.

    Raises:
        UserError: a number is outside its range, or is NaN.
    """
    for name, numbers in ranges.items():
        values = getattr(settings, name)
        for value in values if isinstance(values, tuple) else (values,):
            if value is not None and value not in numbers:
                raise UserError(f"--{name.replace('_', '-')} {value}: must be {numbers}")


NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
RESUMES = "stopped; nothing is lost: --resume goes on from the last finished epoch"


def run_script(
    main: Callable[[], Any], stopped: str = "stopped; give the same command again"
) -> None:
    """Run `main` as a command, in one process or in all that torchrun started.

    A user's mistake is one line on stderr and exit code 2; Ctrl-C is the line `stopped`, which says
    how to go on, and exit code 130. A full disk is both.
    """
    try:
        try:
            with processes.joined():
                main()
        except UserError as error:
            hint = f" ({stopped})" if isinstance(error, DiskFullError) else ""
            processes.exit_saying(f"error: {' '.join(str(error).split())}{hint}", 2)
        except Exception:
            if processes.world_size() == 1:
                raise
            processes.exit_saying(traceback.format_exc(), 1)
    except KeyboardInterrupt:  # also one that comes while a lost connection is being reported
        processes.exit_saying(stopped, 130)


# -------------------------------------------------------------------------------------- run folder


def numbered_runs(results: Path) -> list[Path]:
    """Run folders `NNNN-...` below `results`, oldest number first."""
    if not results.is_dir():
        return []
    return sorted(p for p in results.iterdir() if p.is_dir() and re.match(r"\d{4,}-", p.name))


def slug(name: str) -> str:
    """The name as part of a file name: letters, digits, dots, underscores and hyphens only."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "unnamed"


def create_run_folder(results: Path, name: str) -> Path:
    """Make `results/NNNN-name` with the next free number; safe when several runs start at once.

    Raises:
        UserError: `results` cannot be written.
    """
    with explain_os_error(results):
        results.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(p.name.split("-")[0]) for p in numbered_runs(results)), default=0)
        while True:
            # The number is claimed first, so that two runs of different names never share one.
            claim = results / f".{number:04d}"
            try:
                claim.mkdir()
            except FileExistsError:
                number += 1
                continue
            taken = any(int(p.name.split("-")[0]) == number for p in numbered_runs(results))
            folder = results / f"{number:04d}-{slug(name)}"
            if not taken:
                folder.mkdir()
            claim.rmdir()
            if not taken:
                return folder
            number += 1


@contextlib.contextmanager
def explain_os_error(path: Path, mend: str = "free some") -> Iterator[None]:
    """Turn a full disk or a forbidden folder into one line that names it.

    Args:
        path: what is written.
        mend: what to do about a full disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise DiskFullError(f"no space left on the disk of {path}: {mend}") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise UserError(f"cannot write {path}: {error.strerror}") from error
        raise


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Give a temporary path with the same ending in the same folder; rename it to `path` on
    success.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    with explain_os_error(path):
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV without an index, atomically."""
    with write_atomically(path) as temporary:
        table.to_csv(temporary, index=False)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, default=_to_json) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it or restore it") from error


def _to_json(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    return str(value)


def describe_run(
    settings: Any, machine: Mapping[str, str] | None = None, **more: Any
) -> dict[str, Any]:
    """Content of settings.json: what was asked, with which versions, on which machine, when.

    Args:
        settings: of the script, a dataclass.
        machine: what is known of it besides its system, e.g. `devices.describe_device`.
        more: further entries.
    """
    versions = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    about = {"system": platform.platform(), "threads": torch.get_num_threads()}
    if processes.world_size() > 1:
        about["processes"] = processes.world_size()
    return {
        "kind": type(settings).__name__,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "settings": dataclasses.asdict(settings),
        **more,
        "versions": versions,
        "machine": about | dict(machine or {}),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Why a run may not come out as an earlier one of the same settings, a line each.

    Args:
        before, now: settings.json of both.
    """
    lines = []
    if before["data"]["fingerprint"] != now["data"]["fingerprint"]:
        lines.append("the images are others than then")
    others = [
        f"{name} {before['versions'].get(name, 'none')} then, {version} now"
        for name, version in now["versions"].items()
        if before["versions"].get(name) != version
    ]
    if others:
        lines.append(f"other versions: {'; '.join(others)}")
    # An older run may not have written all that is known of the machine today.
    known = before["machine"].keys() & now["machine"].keys()
    machines = [{name: side["machine"][name] for name in sorted(known)} for side in (before, now)]
    if machines[0] != machines[1]:
        lines.append(f"another machine: {machines[0]} then, {machines[1]} now")
    return lines


def summary_writer() -> type:
    """PyTorch's writer for TensorBoard.

    Raises:
        UserError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "--tensorboard: the package is missing; pip install tensorboard, or leave it out"
        ) from error
    return SummaryWriter


class TensorBoardLog:
    """Writes each line of the log as scalars: `kl/valid` and the like, the step is the epoch.

    Args:
        folder: the run folder; event files of a run that was resumed continue each other there.

    Raises:
        UserError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path):
        self.folder, self.new_writer, self.writer = folder, summary_writer(), None

    def __call__(self, entry: dict[str, Any]) -> None:
        """Write the line of one epoch; it is on the disk on return."""
        epoch = entry["epoch"]
        if self.writer is None:  # an epoch begun again replaces what was shown of it
            self.writer = self.new_writer(self.folder, purge_step=epoch)
        for side in ("train", "valid"):
            for name, value in entry[side].items():
                self.writer.add_scalar(f"{name}/{side}", value, epoch)
        self.writer.add_scalar("learning_rate", entry["learning_rate"], epoch)
        self.writer.flush()


# ------------------------------------------------------------------------------ seeds, checkpoints


def seed_everything(seed: int, epoch: int = 0) -> None:
    """Seed Python, NumPy and torch from the seed of the run and the epoch.

    Every epoch starts from its own seed, so the random state after a resume is that of an
    undisturbed run whatever was drawn before.
    """
    mixed = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write one plain dict of tensors and numbers, atomically."""
    content = io.BytesIO()  # torch's own writer reports a full disk as an error inside itself
    torch.save(state, content)
    with write_atomically(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU, without executing anything in it (`weights_only=True`).

    `load_state_dict` copies it to where the weights are, which may be a device without room for
    both.

    Raises:
        UserError: the file is missing, damaged, or holds more than plain data.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: there is nothing to go on from")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is damaged, or holds more than numbers, which is never loaded: restore it"
        ) from error
    except Exception as error:  # torch raises zip, EOF and runtime errors here
        if is_out_of_memory(error):
            raise
        raise UserError(f"{path} is damaged, perhaps cut off: restore it") from error
