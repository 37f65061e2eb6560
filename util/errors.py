"""What can go wrong, in words for the user."""

import contextlib
import errno
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

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


# What follows in the query of a URL from the first word like password on; and what stands between
# the user's name and the last @, or behind a name with a colon that is no port. A password may hold
# any character, so more is taken than a parser would take.
IN_QUERY = re.compile(
    r"(?<=[?&;])([^=&]*(?:pass|pwd|secret|token|key)[^=&]*=)(?P<word>.+)", re.I | re.DOTALL
)
BEHIND_USER = re.compile(r"(?<=://)([^:/?]*:)(?P<word>.*(?=@)|(?!\d+(?:[/?]|$))[^/?]+)", re.DOTALL)


def without_password(text: str) -> str:
    """A URL, or an option with one, with *** in the place of its password.

    Examples:
        >>> without_password("postgresql://me:a:b@c/d@host:5432/grids")
        'postgresql://me:***@host:5432/grids'
        >>> without_password("postgresql://host/grids?user=me&password=a@b")
        'postgresql://host/grids?user=me&password=***'
    """
    if "://" not in text:
        return text
    return BEHIND_USER.sub(r"\1***", IN_QUERY.sub(r"\1***", text))


def passwords_of(url: str) -> set[str]:
    """The password of a URL as it is written and as it is meant, and parts that errors may quote.

    A library that splits the URL elsewhere may take a part of the password for the host.
    """
    found = [match["word"] for kind in (IN_QUERY, BEHIND_USER) for match in kind.finditer(url)]
    whole = {said for word in found for said in (word, unquote(word))}
    parts = {part for word in whole for part in re.split(r"[@:/?&#]", word) if len(part) > 1}
    return whole | parts


NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
# What the system refuses for a reason outside the program.
REFUSALS = (
    *NO_SPACE,
    *FORBIDDEN,
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR, errno.EIO, errno.EMFILE, errno.ESTALE),
)


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
        if error.errno in FORBIDDEN:
            raise UserError(f"cannot write {path}: {error.strerror}") from error
        raise
