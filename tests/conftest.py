"""What several tests need: the scripts as a user runs them."""

import itertools
import subprocess
import sys

import pytest
from starting import ROOT, Started, environment


@pytest.fixture
def run_script(tmp_path, tmp_path_factory):
    """Run a script by its path in an empty folder of its own; gives the finished process.

    With `anew` by a Python of its own, with another seed of its hashes.
    """
    surroundings = environment(tmp_path / "cache")
    said, number = tmp_path_factory.mktemp("said"), itertools.count()

    def run(script, *options, check=True, wait=True, folder=tmp_path, anew=False):
        if anew:
            command = [sys.executable, str(ROOT / script), *map(str, options)]
            pipes = {"capture_output": True, "text": True, "check": check}
            return subprocess.run(command, cwd=folder, env=surroundings, timeout=300, **pipes)
        out, err = (said / f"{stream}{next(number)}.txt" for stream in ("out", "err"))
        process = Started(script, [*map(str, options)], folder, surroundings, out, err)
        if not wait:
            return process
        out, err = process.communicate(timeout=300)
        assert not check or process.returncode == 0, err
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run
