"""What the scripts that tests start find around them."""

import json
import os

import pytest
from PIL import Image
from starting import environment

SHOW = """
import json, os, torch
from matplotlib.figure import Figure
Figure((1, 1)).savefig("figure.png", dpi=10, format="png")
gpus = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.is_available()
print(json.dumps({"gpus": gpus, "threads": torch.get_num_threads()}))
"""
asked = os.environ.get("TEST_DEVICE") == "cuda"


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "show.py"
    path.write_text(SHOW)
    return path


@pytest.mark.skipif(asked, reason="TEST_DEVICE=cuda")
@pytest.mark.parametrize("anew", [False, True])
def test_no_script_sees_a_gpu_that_happens_to_be_there(run_script, script, anew):
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""  # of the tests themselves
    assert json.loads(run_script(script, anew=anew).stdout)["gpus"] == ["", False]


@pytest.mark.parametrize(("device", "seen"), [(None, ""), ("cpu", ""), ("cuda", "1")])
def test_a_gpu_is_there_if_asked_for(tmp_path, monkeypatch, device, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.delenv("TEST_DEVICE", raising=False)
    if device:
        monkeypatch.setenv("TEST_DEVICE", device)
    assert environment(tmp_path)["CUDA_VISIBLE_DEVICES"] == seen


@pytest.mark.parametrize("threads", [1, 2])
def test_a_script_has_as_many_threads_as_it_is_told(run_script, script, monkeypatch, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    assert json.loads(run_script(script).stdout)["threads"] == threads


def test_figures_are_blank_where_asked_for_only(run_script, script, request, tmp_path):
    run_script(script)
    assert Image.open(tmp_path / "figure.png").size == (10, 10)
    request.getfixturevalue("blank_figures")
    blank = tmp_path / "blank"
    blank.mkdir()
    run_script(script, folder=blank)
    assert Image.open(blank / "figure.png").size == (1, 1)
