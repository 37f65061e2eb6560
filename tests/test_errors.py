"""Errors as one line: what is said of a mute one, a long one, a full disk, a forbidden folder."""

import errno

import pytest
import torch

from util.errors import (
    DiskFullError,
    UserError,
    explain_os_error,
    first_line,
    is_out_of_memory,
)


def test_the_first_line_of_what_an_error_says():
    assert first_line(ValueError("  one\ntwo")) == "one"
    assert first_line(ValueError("x" * 150)) == "x" * 100
    assert first_line(ValueError("abcdef"), most=4) == "abcd"
    assert first_line(KeyboardInterrupt()) == "KeyboardInterrupt"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_names_the_file_and_the_mend(number, tmp_path):
    path = tmp_path / "a.csv"
    with pytest.raises(DiskFullError) as error, explain_os_error(path):
        raise OSError(number, "full")
    assert str(error.value) == f"no space left on the disk of {path}: free some"
    with (
        pytest.raises(DiskFullError, match="of .*a.csv: move it"),
        explain_os_error(path, "move it"),
    ):
        raise OSError(number, "full")


@pytest.mark.parametrize("name", ["EACCES", "EPERM", "EROFS", "ENOTDIR", "EEXIST"])
def test_a_forbidden_folder_is_named(name, tmp_path):
    path = tmp_path / "a.csv"
    with pytest.raises(UserError) as error, explain_os_error(path):
        raise OSError(getattr(errno, name), "forbidden")
    assert str(error.value) == f"cannot write {path}: forbidden"


def test_any_other_error_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), explain_os_error(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "absent")


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("shapes do not fit"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_is_out_of_memory(error, is_memory):
    assert is_out_of_memory(error) == is_memory
