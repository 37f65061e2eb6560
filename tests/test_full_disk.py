"""What `full_disk.py` does with many sizes of disk, with one."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("full_disk.py")


def test_with_room_again_training_ends_as_if_the_disk_had_never_been_full(
    blank_figures, monkeypatch
):
    own_namespace = ["unshare", "--map-root-user", "--mount"]
    try:
        subprocess.run([*own_namespace, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs user namespaces, to mount a small tmpfs")
    monkeypatch.setenv("IN_OWN_NAMESPACE", "1")  # put there from here, so that it imports once
    command = [sys.executable, str(SCRIPT), "--jobs", "training", "--shares", "0.5"]
    command = [*own_namespace, *command]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no space left on the disk of results/0001" in done.stdout
    assert (
        "(stopped; nothing is lost: --resume goes on from the last finished epoch)" in done.stdout
    )
