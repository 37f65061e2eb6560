"""Files and folders that appear whole or not at all, names that come from data, and locks.

Several processes, containers and machines may share one folder, and process numbers repeat between
containers. So a temporary name is random, and a lock, not a number, says whether its owner lives.

A lock is `flock` on a file (`LockFileEx` on Windows): the kernel releases it when its holder dies,
however it dies. On NFS, Linux turns it into a lock on the server, which sees all machines and
releases it once the server notices that a client has gone. A file system without locks raises
NotImplementedError, or gives each machine locks of its own (`-o nolock`, `local_lock=flock`); then
only processes of one machine see each other.
"""

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from util.errors import UserError, explain_os_error

TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")
OWNER = "owner.lock"  # in a temporary folder; held by the process that fills it
UNOWNED = 60.0  # s that a temporary folder may be without its lock, before and after it is filled
LONGEST_NAME = 255  # bytes that file systems allow


class TemporaryFolder:
    """Context that gives a new hidden folder beside `path`, and removes it at the end.

    The first one that a process makes in a folder removes those that dead processes left there.

    Args:
        path: what its content will become; its folder exists.
    """

    def __init__(self, path: Path):
        self.path = path.with_name(f".{secrets.token_hex(8)}.tmp")

    def __enter__(self) -> Path:
        _sweep(self.path.parent.absolute())
        self.path.mkdir()
        self.lock = FileLock(self.path / OWNER)
        self.lock.acquire(timeout=0)
        return self.path

    def become(self, target: Path) -> None:
        """Rename the folder, with what it holds by now on the disk, in one step.

        Raises:
            OSError: there is something at `target`.
        """
        self.lock.release()
        (self.path / OWNER).unlink(missing_ok=True)
        for path in (*self.path.iterdir(), self.path):
            _flush(path)
        self.path.rename(target)
        _flush(target.parent)

    def __exit__(self, *_) -> None:
        self.lock.release()
        shutil.rmtree(self.path, ignore_errors=True)


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    with contextlib.suppress(OSError):  # Windows opens no folder, some file systems flush none
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@cache
def _sweep(folder: Path) -> None:
    """Remove the temporary folders of dead processes, once per process and folder."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError, Timeout):
            young = time.time() - path.stat().st_mtime < UNOWNED
            if not TEMPORARY.fullmatch(path.name) or young:
                continue
            with FileLock(path / OWNER).acquire(timeout=0):
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Give a path of the same name in a temporary folder; rename it to `path` on success.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    with explain_os_error(path), TemporaryFolder(path) as folder:
        yield folder / path.name
        os.replace(folder / path.name, path)


def refuse_path(name: str, what: str) -> None:
    r"""Refuse a name from the data that is a path, or no name of a visible file.

    Args:
        name: an id or a class; it becomes the name of a file or a folder.
        what: where it comes from, for the error.

    Raises:
        UserError: it holds / or \ or control characters, begins with a dot, is empty or too long.
    """
    odd = re.search(r"[/\\\x00-\x1f]", name) or name[:1] in ("", ".")
    if odd or len(name.encode(errors="replace")) > LONGEST_NAME:
        raise UserError(
            f"{what} {name[:60]!r} cannot be a file name: 1 to {LONGEST_NAME} bytes without /, \\ "
            "and control characters, not beginning with a dot"
        )


def claim(folder: Path, refusal: str) -> FileLock:
    """The lock of a folder that one process works in at a time; held while the object lives.

    A process that holds it may claim it again.

    Args:
        folder: where the lock file `.lock` is made.
        refusal: message where another process holds it.

    Raises:
        UserError: another process holds it, or the folder cannot be written.
    """
    lock = FileLock(folder / ".lock", is_singleton=True)  # one per process
    try:
        with explain_os_error(folder):
            lock.acquire(timeout=0)
    except Timeout:
        raise UserError(refusal) from None
    return lock
