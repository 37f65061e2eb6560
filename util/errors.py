"""What can go wrong, in words for the user."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

import torch


class UserError(ValueError):
    """A mistake of the user's: one line that names the file or value and says what would be right.

    The scripts print it without a traceback and exit with code 2.

    A function that scripts and other Python code call names its argument, in backticks:
    "`image_size` 50: must be one of 32, 64, 128, 256". On the command line, `run_script` prints
    such a name as the option that sets it (`util.settings.name_options`): "--image-size 50: ...".
    So the argument has the name of the setting. Only a script's own checks write options.
    """


class DiskFullError(UserError):
    """The disk is full; with more room the same command works."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of a device or of the machine ran out.

    PyTorch has an error class for CUDA alone; the CPU, MPS, cuBLAS and cuDNN only say it in words.
    """
    words = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(w in str(error).lower() for w in words)
    )


def first_line(error: BaseException, most: int = 100) -> str:
    """The first line of what an error says, cut to `most` characters; its type where it is mute."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]


NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


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
