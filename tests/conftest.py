"""What several tests need: the scripts as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def run_script(tmp_path, monkeypatch):
    """Run a script by its path in an empty folder of its own; gives the finished process."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "MPLBACKEND": "Agg"}

    def run(script, *options, check=True, wait=True, folder=tmp_path):
        command = [sys.executable, str(ROOT / script), *map(str, options)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, cwd=folder, env=environment, **pipes)
        if not wait:
            return process
        out, err = process.communicate(timeout=300)
        assert not check or process.returncode == 0, err
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    return run
