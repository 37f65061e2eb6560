"""Temporary folders, locks, and names that come from data."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from util.errors import UserError
from util.files import TemporaryFolder, _sweep, claim, refuse_path, write_atomically

ROOT = str(Path(__file__).parents[1])
HOLDS = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from util.files import {name}
held = {call}
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder():
    """Start a process that holds something, and give it once it does."""
    started = []

    def start(name, call):
        code = HOLDS.format(name=name, call=call)
        process = subprocess.Popen([sys.executable, "-c", code, ROOT], stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def age(path, seconds=3600):
    os.utime(path, (time.time() - seconds,) * 2)


def test_what_dead_processes_left_is_swept_and_what_living_ones_fill_is_not(tmp_path, holder):
    call = f"(it := TemporaryFolder(Path({str(tmp_path)!r}) / 'a.csv')), it.__enter__()"
    holder("TemporaryFolder", call)
    (living,) = tmp_path.iterdir()
    dead = holder("TemporaryFolder", call)
    (left,) = set(tmp_path.iterdir()) - {living}
    dead.kill()
    dead.wait()
    (tmp_path / ".0123456789abcdef.other").mkdir()
    for path in tmp_path.iterdir():
        age(path)
    _sweep.cache_clear()
    with write_atomically(tmp_path / "b.csv") as temporary:
        temporary.write_text("b")
    assert not left.exists() and living.exists()
    assert (tmp_path / ".0123456789abcdef.other").exists()
    assert (tmp_path / "b.csv").read_text() == "b"


def test_a_young_one_without_a_lock_stays(tmp_path):
    """Its owner may be about to take the lock."""
    left = tmp_path / ".0123456789abcdef.tmp"
    left.mkdir()
    _sweep.cache_clear()
    with write_atomically(tmp_path / "a.csv") as temporary:
        temporary.write_text("a")
    assert left.exists()
    age(left, -3600)  # the clock was set back
    _sweep.cache_clear()
    with write_atomically(tmp_path / "a.csv") as temporary:
        temporary.write_text("a")
    assert left.exists()


def test_a_folder_appears_whole_and_never_over_another(tmp_path):
    with TemporaryFolder(tmp_path / "set") as folder:
        (folder / "cell").write_text("1")
    assert not list(tmp_path.iterdir())
    for number in range(2):
        temporary = TemporaryFolder(tmp_path / "set")
        with temporary as folder:
            (folder / "cell").write_text(f"{number}")
            if number == 0:
                temporary.become(tmp_path / "set")
            else:
                with pytest.raises(OSError):
                    temporary.become(tmp_path / "set")
    assert [p.name for p in tmp_path.rglob("*")] == ["set", "cell"]
    assert (tmp_path / "set" / "cell").read_text() == "0"


def test_names_do_not_follow_the_number_of_the_process(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 7)
    assert len({TemporaryFolder(tmp_path / "a").path for _ in range(100)}) == 100


def test_a_lock_is_held_by_one_process_and_released_by_its_death(tmp_path, holder):
    process = holder("claim", f"claim(Path({str(tmp_path)!r}), 'busy')")
    with pytest.raises(UserError, match="^busy$"):
        claim(tmp_path, "busy")
    process.kill()
    process.wait()
    lock = claim(tmp_path, "busy")
    assert claim(tmp_path, "busy") is lock
    with pytest.raises(Timeout):
        FileLock(tmp_path / ".lock").acquire(timeout=0)
    del lock
    FileLock(tmp_path / ".lock").acquire(timeout=0)


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/b", "..", ".", "", ".hidden", "a\\b", "a\0b", "a\nb", "x" * 256,
     "µ" * 128, "C:\\x"],
)  # fmt: skip
def test_a_path_is_no_name(name):
    with pytest.raises(UserError, match="table.csv: id .* cannot be a file name"):
        refuse_path(name, "table.csv: id")


@pytest.mark.parametrize("name", ["A01_1.tiff", "Cell 3", "x" * 255, "é.png", "a..b", "~x", "a:b"])
def test_ordinary_names_pass(name):
    refuse_path(name, "table.csv: id")
