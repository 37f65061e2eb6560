"""The feedback of the page: groups of cells with an anchor each, kept in a CSV.

A change is on disk before the page confirms it. Each change first copies the file to a hidden
folder beside it, `.<name>.history/`, so that it can be undone even after a restart. A change names
the version of the list that the page showed; if another page has changed the list since, the change
is refused.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from human_guidance.feedback_helpers import (
    Feedback,
    check_feedback,
    locked,
    read_feedback,
    write_feedback,
)
from util.errors import UserError, explain_os_error
from util.files import write_atomically
from util.latents import anchor_columns

# Names go to pages and tables: no line breaks, and no first sign that starts a formula.
GROUP_NAME = re.compile(r"[^\W_][\w .()+\-]{0,39}")
KEPT_STEPS = 200  # changes that can be undone
LARGEST_DELTA = 1e4


class ListChanged(UserError):
    """The list has changed since the page read it."""


@dataclass(frozen=True)
class Group:
    """Cells with a common anchor.

    Attributes:
        name: chosen by the expert.
        cells: rows of the run.
        anchor: (d,) latent units; the mean if the rows of the CSV differ.
        delta: weight, nats per squared latent unit; the mean likewise.
    """

    name: str
    cells: np.ndarray
    anchor: np.ndarray
    delta: float


class FeedbackList:
    """The list of groups on disk.

    Args:
        path: the CSV; the first change creates it.
        ids: Unique_ID of all cells of the run.
        latent_dim: d.
    """

    def __init__(self, path: Path, ids: Sequence[str], latent_dim: int):
        self.path, self.ids, self.latent_dim = path, list(ids), latent_dim
        self.history = path.with_name(f".{path.name}.history")
        self._hashed: tuple[tuple[int, ...], str] = ((), "")  # state of the file, its hash
        self._parsed: tuple[str, Feedback | None] = ("", None)  # version, its content

    def read(self) -> tuple[list[Group], str]:
        """The groups in their order, and the version of the list.

        Raises:
            UserError: the file is damaged.
        """
        version = self.version()
        return [] if version == "" else groups_of(self._feedback(version)), version

    def save_group(
        self, name: str, cells: np.ndarray, anchor: np.ndarray, delta: float, version: str
    ) -> str:
        """Add a group or replace the group of that name; its cells leave all other groups.

        Returns:
            a message.

        Raises:
            UserError: a value is impossible, or the disk is full.
            ListChanged: the list is no longer of that version.
        """
        name = check_name(name)
        if len(cells) == 0:
            raise UserError("no cell is selected: draw around some cells first")
        if not 0 < delta <= LARGEST_DELTA:
            raise UserError(f"weight {delta:g}: must be above 0 and at most {LARGEST_DELTA:g}")
        if anchor.shape != (self.latent_dim,) or not np.isfinite(anchor).all():
            raise UserError(f"the anchor needs {self.latent_dim} numbers: click its place")
        said = [f"“{name}” saved: {len(cells):,} cells"]

        def change(table: pd.DataFrame) -> pd.DataFrame:
            new_ids = [self.ids[cell] for cell in cells]
            rows = pd.DataFrame({"Unique_ID": new_ids, "delta": float(delta)})
            rows[anchor_columns(self.latent_dim)] = np.asarray(anchor, float)
            rows["group"] = name
            others = table[table["group"] != name]
            moved = others["Unique_ID"].isin(new_ids)
            if moved.any():
                said.append(f"{int(moved.sum()):,} of them left other groups")
            kept = others[~moved]
            return pd.concat([kept, rows], ignore_index=True) if len(kept) else rows

        self._change(change, version)
        return "; ".join(said) + "."

    def remove_group(self, name: str, version: str) -> str:
        """Remove a group.

        Raises:
            ListChanged: the list is no longer of that version.
        """
        self._change(lambda table: table[table["group"] != name], version)
        return f"“{name}” removed."

    def undo(self, version: str) -> str:
        """Undo the last change, whichever page made it.

        Raises:
            UserError: there is nothing to undo.
            ListChanged: the list is no longer of that version.
        """
        with explain_os_error(self.path), locked(self.path):
            self._refuse_other(version)
            steps = self._steps()
            if not steps:
                raise UserError("nothing to undo")
            os.replace(steps[-1], self.path)
        return "The last change is undone."

    def can_undo(self) -> bool:
        """Whether there is a change to undo."""
        return bool(self._steps())

    def version(self) -> str:
        """Hash of the file, damaged or not; "" if there is none."""
        try:
            status = self.path.stat()
            state = (status.st_mtime_ns, status.st_size, status.st_ino)
            if self._hashed[0] != state:
                digest = hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]
                self._hashed = (state, digest)
        except FileNotFoundError:
            return ""
        return self._hashed[1]

    def _change(self, change: Callable[[pd.DataFrame], pd.DataFrame], version: str) -> None:
        with explain_os_error(self.path), locked(self.path):
            self._refuse_other(version)
            if version == "":
                write_feedback(self.path, self._check(self._empty()))
            before = self._feedback(self.version())
            after = self._check(change(before.table()))
            self._remember()
            write_feedback(self.path, after)
            self._parsed = (self.version(), after)

    def _check(self, table: pd.DataFrame) -> Feedback:
        return check_feedback(table, self.ids, self.latent_dim, self.path.name, allow_empty=True)

    def _empty(self) -> pd.DataFrame:
        columns = ["Unique_ID", "delta", *anchor_columns(self.latent_dim), "group"]
        return pd.DataFrame(columns=columns)

    def _feedback(self, version: str) -> Feedback:
        """The file, which is of that version; read once, since a long list takes seconds."""
        if self._parsed[0] != version or self._parsed[1] is None:
            read = read_feedback(self.path, self.ids, self.latent_dim, allow_empty=True)
            self._parsed = (version, read)
        return self._parsed[1]

    def _refuse_other(self, version: str) -> None:
        if version != self.version():
            raise ListChanged(
                "The list was changed in another window and is shown anew. Your change was not "
                "saved: check the list and repeat it."
            )

    def _steps(self) -> list[Path]:
        return sorted(self.history.glob("[0-9]*.csv")) if self.history.is_dir() else []

    def _remember(self) -> None:
        """Copy the file for undo."""
        self.history.mkdir(exist_ok=True)
        steps = self._steps()
        number = 1 + int(steps[-1].stem) if steps else 1
        with write_atomically(self.history / f"{number:08d}.csv") as temporary:
            shutil.copyfile(self.path, temporary)
        for old in steps[: max(0, len(steps) + 1 - KEPT_STEPS)]:
            old.unlink()


def check_name(name: object) -> str:
    """The name of a group without surrounding blanks.

    Raises:
        UserError: it is empty, too long, or has signs other than letters, digits and `_ . ( ) + -`.
    """
    text = str(name or "").strip()
    if not text:
        raise UserError("give the group a name, for example “round cells”")
    if not GROUP_NAME.fullmatch(text):
        raise UserError(
            f"the name {text[:40]!r} must begin with a letter or digit and have at most 40 "
            "letters, digits, blanks or _ . ( ) + -"
        )
    return text


def groups_of(feedback: Feedback) -> list[Group]:
    """The groups of the feedback in the order of their first rows."""
    places = pd.Series(np.arange(len(feedback))).groupby(feedback.groups, sort=False)
    return [
        Group(
            str(name),
            feedback.cells[rows.to_numpy()],
            feedback.anchors[rows.to_numpy()].mean(axis=0),
            float(feedback.delta[rows.to_numpy()].mean()),
        )
        for name, rows in places
    ]


def name_for(groups: Sequence[Group]) -> str:
    """A free name for a new group."""
    taken = {group.name for group in groups}
    return next(f"group {i}" for i in range(1, len(taken) + 2) if f"group {i}" not in taken)
