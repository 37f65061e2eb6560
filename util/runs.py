"""A run: its numbered folder, its settings on the command line, its seeds and its checkpoints.

A run folder is `results/0007-<data set>-<model>/`. The number is taken by creating the folder, so
two runs started in the same second get two folders. A file appears in it whole or not at all
(`util.files`), so that a killed run leaves nothing half written behind.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import io
import json
import pickle
import platform
import random
import re
import shlex
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock

from util import processes
from util.errors import UserError, explain_os_error, is_out_of_memory, without_password
from util.files import claim, write_atomically

# Classes of settings that only one script had, as older runs recorded them.
SCRIPT_OF_CLASS = {
    "InfoMaxSettings": "InfoMAX_VAE_framework",
    "WidthSettings": "hyper_optimization",
    "AlphaBetaSettings": "hyper_optimization_bs_fixed",
    "CompareSettings": "compare_methods",
}

FINISHED = ("settings.json", "best.pt", "latents.csv")  # what a finished run holds at least

LONGEST_NAME = 100  # bytes of a part of a file name, of which file systems allow 255
RESERVED_BY_WINDOWS = frozenset(
    ["CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))]
)

# Entries of settings.json, besides its settings; older versions wrote fewer.
DESCRIPTION = {
    **dict.fromkeys(("data", "versions", "machine", "guidance"), dict),
    **dict.fromkeys(("script", "command", "started"), str),
    "notes": list,
}
KINDS = {dict: "an object", str: "text", list: "a list"}

# What is written into settings.json, so that a number can be traced to the code that made it.
RECORDED_PACKAGES = (
    "torch torchvision numpy scipy scikit-learn scikit-image pandas matplotlib umap-learn "
    "cp-measure centrosome"
).split()


def find_run(asked: str, results: Path, script: str, argument: str = "resume") -> Path:
    """The folder of a run of this script: a path, a number, or `last` for the newest one.

    Args:
        asked: `last`, a path, or the number of a run in `results`.
        results: the folder of numbered runs.
        script: that made the run (`script_of`).
        argument: that asks for the run, for the error.

    Raises:
        UserError: there is no such run.
    """
    runs = [path for path in numbered_runs(results) if (path / "settings.json").is_file()]
    if asked == "last":
        runs = [path for path in runs if read_description(path)["script"] == script]
        if not runs:
            raise UserError(
                f"`{argument}`: no run of this script in {results}; start one without `{argument}`"
            )
        return runs[-1]
    folder = Path(asked)
    if asked.isdigit() and not folder.is_dir():
        runs = [path for path in runs if int(path.name.split("-")[0]) == int(asked)]
        if not runs:
            raise UserError(f"`{argument}` {asked}: no run of that number in {results}")
        folder = runs[-1]
    if not (folder / "settings.json").is_file():
        raise UserError(f"`{argument}` {asked}: no settings.json there; give the folder of a run")
    found = read_description(folder)["script"]
    if found != script:
        raise UserError(
            f"`{argument}` {asked}: that run was made by another script ({found}.py, here "
            f"{script}.py)"
        )
    return folder


def find_finished_run(asked: str, results: Path) -> Path:
    """The folder of a run: a path, a number in `results`, or `last` for the newest with a report.

    Raises:
        UserError: there is none.
    """
    if asked != "last" and (not asked.isdigit() or Path(asked).is_dir()):
        return Path(asked)
    needed = FINISHED if asked.isdigit() else (*FINISHED, "report.html")
    runs = [p for p in numbered_runs(results) if all((p / name).is_file() for name in needed)]
    if asked.isdigit():
        runs = [path for path in runs if int(path.name.split("-")[0]) == int(asked)]
    if not runs:
        which = "run" if asked == "last" else "run of that number"
        raise UserError(f"`run` {asked}: no {which} in {results} is finished; give a folder")
    return runs[-1]


def read_description(folder: Path) -> dict[str, Any]:
    """settings.json of a run, as `describe_run` made it.

    Raises:
        UserError: it is damaged, or not of a run.
    """
    path = folder / "settings.json"
    described = read_json(path)
    if not isinstance(described, dict) or not isinstance(described.get("settings"), dict):
        raise UserError(f"{path} holds no settings of a run: restore it or start a new run")
    for name, kind in DESCRIPTION.items():
        if not isinstance(described.get(name, kind()), kind):
            raise UserError(
                f"{path} is damaged: {name} is {json.dumps(described[name])[:40]}, expected "
                f"{KINDS[kind]}; restore it or start a new run"
            )
    if not all(isinstance(note, str) for note in described.get("notes", [])):
        raise UserError(f"{path} is damaged: notes are lines of text; restore it")
    return {"script": _script_of_older(described)} | described


def _script_of_older(described: dict[str, Any]) -> str:
    """The script of a run whose settings.json holds the class of its settings instead.

    Many of those classes are called Settings, so the settings and the command decide.
    """
    if described.get("kind") in SCRIPT_OF_CLASS:
        return SCRIPT_OF_CLASS[described["kind"]]
    if {"architecture", "latent_dim"} <= described["settings"].keys():
        return "VAE_framework"
    return Path(shlex.split(described.get("command") or "unknown")[0]).stem


def script_of(settings: type) -> str:
    """Name, without .py, of the script whose settings these are."""
    return Path(sys.modules[settings.__module__].__file__).stem


def numbered_runs(results: Path) -> list[Path]:
    """Run folders `NNNN-...` below `results`, oldest number first."""
    if not results.is_dir():
        return []
    return sorted(p for p in results.iterdir() if p.is_dir() and re.match(r"\d{4,}-", p.name))


def slug(name: str) -> str:
    """The name as part of a file name: letters, digits, and . _ + - only, 100 bytes at most.

    A longer name is cut and ends in a number made from all of it; a name that Windows reserves
    gets an underscore in front.
    """
    plain = re.sub(r"[^\w.+-]+", "-", unicodedata.normalize("NFC", name)).strip("-.") or "unnamed"
    if plain.split(".")[0].upper() in RESERVED_BY_WINDOWS:
        plain = f"_{plain}"
    return plain if len(plain.encode()) <= LONGEST_NAME else _numbered(plain, name)


def _numbered(plain: str, name: str) -> str:
    """The beginning of a file name, and six hexadecimal digits made from the whole name."""
    start = plain.encode()[: LONGEST_NAME - 7].decode(errors="ignore")
    return f"{start}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def file_names(names: Iterable[str]) -> dict[str, str]:
    """Name -> its `slug`, with a number where others have the same one, in any case of letters.

    Examples:
        >>> file_names(["dose a", "10"])
        {'10': '10', 'dose a': 'dose-a'}
        >>> file_names(["10%", "10"])
        {'10': '10', '10%': '10-3ccce1'}
    """
    given: dict[str, str] = {}
    taken = set()
    for name in sorted(dict.fromkeys(names), key=lambda name: slug(name) != name):  # as they are
        plain = slug(name)
        given[name] = _numbered(plain, name) if plain.casefold() in taken else plain
        taken.add(given[name].casefold())
    return given


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


def claim_run(folder: Path) -> FileLock | None:
    """The lock of a run that is trained, in the main process; held while the object lives.

    Raises:
        UserError: another process trains the run.
    """
    if not processes.is_main():
        return None
    return claim(folder, f"`resume` {folder}: that run is running; wait for its end, or stop it")


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

    Passwords in URLs are masked.

    Args:
        settings: of the script, a dataclass.
        machine: more about the machine, e.g. `devices.describe_device`.
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
        "script": script_of(type(settings)),
        "command": shlex.join([Path(sys.argv[0]).name, *map(without_password, sys.argv[1:])]),
        "settings": {
            name: without_password(value) if isinstance(value, str) else value
            for name, value in dataclasses.asdict(settings).items()
        },
        **more,
        "versions": versions,
        "machine": about | dict(machine or {}),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def go_on(folder: Path, described: dict[str, Any]) -> dict[str, Any]:
    """settings.json of a resumed run: as it is described now, with the time at which it started.

    Raises:
        UserError: its cells have changed, or it learnt from feedback.
    """
    before = read_description(folder)
    if _pixels(before) != _pixels(described):
        dataset = described["settings"]["dataset"]
        raise UserError(f"{dataset} is no longer what {folder} learnt from: start a new run")
    if "guidance" in before:
        raise UserError(
            f"`resume` {folder}: that run learnt from feedback; fine-tune again with "
            "human_guidance/VAE_feedback_framework.py"
        )
    return described | {name: before[name] for name in ("started",) if name in before}


def unlike_original(original: str | None, described: dict[str, Any]) -> list[str]:
    """Why a run may not come out as the one whose settings it has, a line each.

    Args:
        original: folder of that run; None if there is none.
        described: settings.json of the run.
    """
    path = Path(original or "") / "settings.json"
    if not original or not path.is_file():  # deleted since this run began
        return []
    before = read_description(path.parent)
    return [f"not as in {original}: {line}" for line in differences(before, described)]


def _pixels(described: Mapping[str, Any]) -> str | None:
    """Fingerprint of the pixels that a run learnt from."""
    return described.get("data", {}).get("fingerprint")


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Why a run may not come out as an earlier one of the same settings, a line each.

    Args:
        before, now: settings.json of both.
    """
    lines = []
    if _pixels(before) != _pixels(now):
        lines.append("the images have changed")
    versions, machine = (before.get(name, {}) for name in ("versions", "machine"))
    others = [
        f"{name} {versions.get(name, 'none')} then, {version} now"
        for name, version in now["versions"].items()
        if versions.get(name) != version
    ]
    if others:
        lines.append(f"other versions: {'; '.join(others)}")
    # An older run may have recorded less about the machine.
    known = sorted(machine.keys() & now["machine"].keys())
    machines = [{name: side[name] for name in known} for side in (machine, now["machine"])]
    if machines[0] != machines[1]:
        lines.append(f"another machine: {machines[0]} then, {machines[1]} now")
    return lines


def seed_everything(seed: int, epoch: int = 0) -> None:
    """Seed Python, NumPy and torch from the seed of the run and the epoch.

    Every epoch starts from its own seed, so a resumed run has the random state of an undisturbed
    run, whatever was drawn before.
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

    `load_state_dict` copies it to the device of the weights, which may not have room for both.

    Raises:
        UserError: the file is missing, damaged, or holds more than plain data.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: there is nothing to continue from")
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
