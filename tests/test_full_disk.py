"""What `full_disk.py` does with many sizes of disk, with one."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("full_disk.py")


def test_with_room_again_training_ends_as_if_the_disk_had_never_been_full():
    own_namespace = ["unshare", "--map-root-user", "--mount", "true"]
    try:
        subprocess.run(own_namespace, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs user namespaces, to mount a small tmpfs")
    command = [sys.executable, str(SCRIPT), "--jobs", "training", "--shares", "0.5"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no space left on the disk of results/0001" in done.stdout
    assert (
        "(stopped; nothing is lost: --resume goes on from the last finished epoch)" in done.stdout
    )
