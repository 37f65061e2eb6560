"""What several tests need: the scripts as a user runs them.

A GPU of this machine is hidden from pytest and from the scripts that it starts; TEST_DEVICE=cuda
shows it to them.
"""

import contextlib
import gc
import itertools
import os
import shutil
import subprocess
import sys

import pytest
from starting import ROOT, Started, environment, save_blank, visible_gpus

os.environ.update(visible_gpus())  # before a test module imports torch

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
# Files whose tests take over ten seconds in all; the others follow, so that no process is still in
# the middle of one of these when the other has nothing left to do.
LONG_FILES = (
    "test_frameworks",
    "test_processes",
    "test_full_disk",
    "test_kills",
    "test_baselines",
    "test_MINE_metric",
    "test_compare_methods",
    "test_umap_tsne_optimization",
    "test_train_net",
    "test_feedback_framework",
    "test_hyper_optimization",
    "test_grid",
    "test_export",
    "test_process_fields",
    "test_classifier_metric",
)


def pytest_collection_modifyitems(items):
    """Put the long files first, each in one piece, since modules have fixtures of their own."""
    rank = {name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def pytest_collection_finish():
    """Leave what was imported out of every search for garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def only_own_garbage():
    """The same for what the tests before have imported and kept.

    Optuna collects garbage after each trial, which costs 0.2 to 0.5 s among all those objects.
    """
    gc.collect()
    gc.freeze()


@contextlib.contextmanager
def _blank():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", save_blank)
        patch.setenv("BLANK_FIGURES", "yes")
        yield


@pytest.fixture
def blank_figures():
    """Figures are made but neither laid out nor drawn, here and in the scripts that are started.

    For runs of which a test looks at something else; drawing is nine tenths of their time.
    """
    with _blank():
        yield


@pytest.fixture(scope="session")
def blank():
    """The same for the fixtures of a module: `with blank(): ...`."""
    return _blank


@pytest.fixture
def run_script(tmp_path, tmp_path_factory):
    """Run a script by its path in an empty folder of its own; gives the finished process.

    With `anew` by a Python of its own, with another seed of its hashes.
    """
    said, number = tmp_path_factory.mktemp("said"), itertools.count()

    def run(script, *options, check=True, wait=True, folder=tmp_path, anew=False):
        surroundings = environment(tmp_path / "cache")
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


@pytest.fixture
def browser():
    """Chromium, driven by Playwright; skipped where either is absent."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--enable-unsafe-swiftshader"]
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Open a file; gives the page, the errors on its console and the addresses that it asks for."""

    def opened(path):
        page, errors, asked = browser.new_page(), [], []
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        return page, errors, asked

    return opened
