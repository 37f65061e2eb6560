"""The guidance page: its parts by themselves, and all of it in a real browser."""

import base64
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

pytest.importorskip("dash")

import VAE_framework
from human_guidance.guidance_app import make_app, serve
from human_guidance.page.access import is_loopback, protect
from human_guidance.page.feedback import FeedbackList, ListChanged, check_name
from human_guidance.page.figures import (
    colour_points,
    compare_panels,
    explore_panels,
    packed,
    plain_text,
)
from human_guidance.page.run import GuidedRun
from human_guidance.page.selection import (
    Differences,
    class_shares,
    inside,
    parse_strokes,
    select,
    spread_out,
)
from human_guidance.page.training import FineTuning, guided_runs
from models.networks import build_vae
from util.data_processing import Cells
from util.errors import UserError
from util.runs import find_finished_run, write_json
from util.style import Roles, colour_column

SCRIPT = "human_guidance/guidance_app.py"


def test_lasso_over_300000_cells_agrees_with_the_half_planes_of_a_triangle():
    rng = np.random.default_rng(0)
    points = rng.normal(0, 1, (300_000, 2)).astype(np.float32)
    corners = np.array([[-1.0, -0.5], [1.5, -0.25], [0.1, 1.2]])
    started = time.perf_counter()
    found = inside(points, corners)
    assert time.perf_counter() - started < 5  # a tenth of a second on a quiet machine
    edges = np.roll(corners, -1, axis=0) - corners
    towards = points[:, None] - corners  # (N, 3, 2)
    cross = edges[:, 0] * towards[..., 1] - edges[:, 1] * towards[..., 0]
    clear = np.abs(cross).min(axis=1) > 1e-5  # on an edge either answer is right
    assert 40_000 < found.sum() < 120_000
    assert (found == (cross > 0).all(axis=1))[clear].all()


def test_lasso_around_a_bay_leaves_the_bay_out():
    horseshoe = np.array([[0, 0], [3, 0], [3, 3], [2, 3], [2, 1], [1, 1], [1, 3], [0, 3]], float)
    points = np.array([[0.5, 2], [1.5, 2], [2.5, 2], [1.5, 0.5], [4, 1]])
    assert inside(points, horseshoe).tolist() == [True, False, True, True, False]


def box(how, axes, low, high):
    """A rectangle as a browser sends it."""
    return {"how": how, "axes": axes, "x": [low[0], high[0], high[0], low[0]],
            "y": [low[1], low[1], high[1], high[1]]}  # fmt: skip


def test_strokes_join_add_narrow_and_remove():
    codes = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 1, 1]], float)
    labels = np.array(["a", "b", "a", "b", "a", "b"])
    groups = {"mine": np.array([5])}

    def chosen(*strokes):
        parsed = parse_strokes(list(strokes), len(codes), 3)
        return np.flatnonzero(select(parsed, codes, labels, groups)).tolist()

    left = box("new", [0, 1], (-0.5, -0.5), (0.5, 1.5))
    low = box("narrow", [0, 2], (-0.5, -0.5), (1.5, 0.5))
    assert chosen() == []
    assert chosen(left) == [0, 2, 4]
    assert chosen(left, low) == [0, 2]
    assert chosen(left, low, {"how": "add", "label": "b"}) == [0, 1, 2, 3, 5]
    assert chosen(left, {"how": "remove", "label": "a"}) == []
    assert chosen(left, {"how": "new", "group": "mine"}) == [5]
    assert chosen(left, {"how": "new", "group": "gone"}) == []
    assert chosen(left, {"how": "add", "cell": 1}, {"how": "add", "cell": 0}) == [1, 2, 4]


@pytest.mark.parametrize(
    "junk",
    [
        "all",
        [{}],
        [{"how": "steal", "label": "a"}],
        [{"how": "new", "cell": 7}],
        [{"how": "new", "cell": -1}],
        [{"how": "new", "axes": [0, 9], "x": [0, 1, 1], "y": [0, 0, 1]}],
        [{"how": "new", "axes": [0, 1], "x": [0, 1, None], "y": [0, 0, 1]}],
        [{"how": "new", "axes": [0, 1], "x": [0, 1], "y": [0, 0]}],
        [{"how": "new", "axes": [0, 1], "x": [0, 1, 2], "y": [0, 0]}],
        [{"how": "new", "axes": [0, 1], "x": [0] * 9999, "y": [0] * 9999}],
        [{"how": "new", "label": "a"}] * 999,
    ],
)
def test_what_is_no_selection_is_refused(junk):
    with pytest.raises(UserError):
        parse_strokes(junk, 5, 3)


def test_differences_are_the_area_under_the_roc_curve():
    rng = np.random.default_rng(1)
    table = pd.DataFrame(
        {
            "shifted": np.r_[rng.normal(2, 1, 60), rng.normal(0, 1, 340)],
            "noise": rng.normal(0, 1, 400),
            "ties": rng.integers(0, 3, 400).astype(float),
            "lower": np.r_[rng.normal(-1, 1, 60), rng.normal(0, 1, 340)],
        }
    )
    table.loc[[3, 300], "noise"] = np.nan
    selected = np.arange(400) < 60
    found = Differences(table).of(selected)
    assert found["column"].tolist()[:2] == ["shifted", "lower"]
    filled = table.fillna(table.median())
    for row in found.itertuples():
        assert row.larger == pytest.approx(roc_auc_score(selected, filled[row.column]), abs=1e-5)
    assert len(Differences(table).of(selected, most=2)) == 2
    assert Differences(table).of(np.zeros(400, bool)).empty
    assert Differences(table).of(np.ones(400, bool)).empty


def test_class_shares_and_a_gallery_that_shows_all_kinds():
    labels = np.array(["a"] * 6 + ["b"] * 4)
    shares = class_shares(labels, np.arange(10) >= 5)
    assert shares["label"].tolist() == ["b", "a"]
    assert shares["share"].tolist() == [0.8, 0.2] and shares["of_rest"].tolist() == [0.0, 1.0]
    assert spread_out(np.arange(100), 24).tolist() == list(range(0, 100, 5))
    assert spread_out(np.arange(3), 24).tolist() == [0, 1, 2]


def test_packed_arrays_are_read_back():
    for values in (np.array([1.5, -2.0, 0.1]), np.arange(5), np.empty(0, np.float32)):
        sent = packed(values)
        kind = {"f4": np.float32, "i4": np.int32}[sent["dtype"]]
        back = np.frombuffer(base64.b64decode(sent["bdata"]), kind)
        assert np.array_equal(back, values.astype(kind))


def colour_at(scale, value):
    """What plotly shows for a number: the last entry of the scale that is not above it."""
    return [colour for place, colour in scale if place <= value + 1e-6][-1]


def test_every_cell_has_the_colour_of_its_class_and_missing_numbers_are_grey():
    classes = colour_column(pd.Series(["b", "a", "c", "a"]))
    numbers, scale = colour_points(classes, np.array([0, 1, 3]))
    names = [classes.names[code] for code in classes.codes]
    wanted = [classes.colours[classes.names.index(names[row])] for row in (0, 1, 3)]
    assert [colour_at(scale, value) for value in numbers] == wanted
    assert scale[0][0] == 0 and scale[-1][0] == 1
    graded = colour_column(pd.Series([0.5, np.nan, 100.5, *np.linspace(1, 99, 50)]))
    numbers, scale = colour_points(graded, np.arange(3))
    assert numbers[1] == 0 < numbers[0] < numbers[2] == 1
    assert colour_at(scale, 0) == "#d0d0d0" and scale[-1][1] == "#fde725"  # viridis ends yellow
    assert colour_points(None, np.arange(3)) == (None, None)


def test_panels_do_not_overlap_and_show_every_pair_of_axes():
    for panels in (explore_panels([0, 1]), explore_panels([2, 0, 5]), compare_panels([0, 1, 2])):
        for i, one in enumerate(panels):
            for other in panels[:i]:
                apart = [
                    a[1] <= b[0] + 1e-9 or b[1] <= a[0] + 1e-9
                    for a, b in ((one.x, other.x), (one.y, other.y))
                ]
                assert any(apart), (one, other)
    planes = [panel.axes for panel in explore_panels([2, 0, 5])]
    assert planes == [(2, 0, 5), (2, 0), (2, 5), (0, 5)]


def test_text_is_shown_as_written():
    assert plain_text("<b>A & B</b>") == "&lt;b&gt;A &amp; B&lt;/b&gt;"
    assert plain_text("a" * 25 + "b" * 25, 10) == "aaaaa…bbbb"


IDS = [f"cell_{i}.tiff" for i in range(12)]


@pytest.fixture
def feedback(tmp_path):
    return FeedbackList(tmp_path / "expert_feedback.csv", IDS, 2)


def save(feedback, name, cells, anchor=(0.0, 0.0), delta=1.0, version=None):
    version = feedback.version() if version is None else version
    return feedback.save_group(name, np.array(cells, int), np.array(anchor), delta, version)


def as_lists(feedback):
    return {group.name: group.cells.tolist() for group in feedback.read()[0]}


def test_groups_are_on_disk_at_every_step_and_undone_also_after_a_restart(feedback):
    assert feedback.read() == ([], "") and not feedback.can_undo()
    save(feedback, "round", [1, 2, 3], (1.5, -2.0), 0.5)
    table = pd.read_csv(feedback.path)
    assert list(table.columns) == ["Unique_ID", "delta", "x_anchor", "y_anchor", "group"]
    assert table["Unique_ID"].tolist() == IDS[1:4] and set(table["delta"]) == {0.5}
    first = feedback.path.read_bytes()
    said = save(feedback, "jagged", [3, 4])
    assert "1 of them left other groups" in said
    assert as_lists(feedback) == {"round": [1, 2], "jagged": [3, 4]}
    second = feedback.path.read_bytes()
    save(feedback, "jagged", [5], (9.0, 9.0))  # the same name: replaced
    assert as_lists(feedback) == {"round": [1, 2], "jagged": [5]}
    feedback.remove_group("round", feedback.version())
    assert as_lists(feedback) == {"jagged": [5]}

    again = FeedbackList(feedback.path, IDS, 2)
    for _ in range(2):
        again.undo(again.version())
    assert again.path.read_bytes() == second
    again.undo(again.version())
    assert again.path.read_bytes() == first
    again.undo(again.version())
    assert again.read()[0] == [] and again.path.is_file()
    with pytest.raises(UserError, match="nothing to undo"):
        again.undo(again.version())


def test_a_second_expert_does_not_overwrite_the_first(feedback):
    other = FeedbackList(feedback.path, IDS, 2)
    seen = other.version()
    save(feedback, "mine", [1])
    for step in (
        lambda: save(other, "yours", [2], version=seen),
        lambda: other.remove_group("mine", seen),
        lambda: other.undo(seen),
    ):
        with pytest.raises(ListChanged):
            step()
    assert as_lists(other) == {"mine": [1]}
    save(other, "yours", [2])
    assert as_lists(feedback) == {"mine": [1], "yours": [2]}


def test_of_many_at_once_exactly_one_is_written(tmp_path):
    lists = [FeedbackList(tmp_path / "f.csv", IDS, 2) for _ in range(8)]
    save(lists[0], "start", [0])
    version = lists[0].version()

    def try_it(number):
        try:
            save(lists[number], f"expert {number}", [number], version=version)
        except ListChanged:
            return None
        return f"expert {number}"

    with ThreadPoolExecutor(8) as pool:
        written = [name for name in pool.map(try_it, range(1, 8)) if name]
    assert len(written) == 1
    assert list(as_lists(lists[0])) == ["start", *written]


@pytest.mark.parametrize(
    "values, word",
    [
        ({"cells": []}, "no cell is selected"),
        ({"delta": 0.0}, "weight"),
        ({"delta": float("nan")}, "weight"),
        ({"delta": 1e9}, "weight"),
        ({"anchor": (1.0,)}, "2 numbers"),
        ({"anchor": (1.0, float("inf"))}, "2 numbers"),
    ],
)
def test_impossible_groups_are_refused_and_nothing_is_written(feedback, values, word):
    with pytest.raises(UserError, match=word):
        save(feedback, **{"name": "a", "cells": [1], **values})
    assert not feedback.path.exists()


@pytest.mark.parametrize(
    "name",
    ["", "  ", "../../etc", "=1+1", "-x", "@cmd", "a\nb", "<script>", "a,b", 'a"b', "x" * 41],
)
def test_hostile_names_are_refused(name):
    with pytest.raises(UserError):
        check_name(name)


def test_good_names_pass():
    for name in ("round cells", "Zellen_3 (grün)", "p53+ 0.5", "細胞"):
        assert check_name(f" {name} ") == name


def test_a_damaged_list_is_named_and_kept(feedback):
    save(feedback, "a", [1])
    feedback.path.write_text("Unique_ID,delta\ncell_1.tiff,1\n")
    with pytest.raises(UserError, match="x_anchor"):
        feedback.read()
    with pytest.raises(UserError, match="x_anchor"):
        save(feedback, "b", [2])
    assert feedback.path.read_text().startswith("Unique_ID,delta\n")
    feedback.undo(feedback.version())
    assert feedback.read()[0] == []


@pytest.fixture
def run(tmp_path):
    """A run of untrained weights, as the page sees it."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    images = rng.integers(0, 256, (30, 3, 32, 32), dtype=np.uint8)
    table = pd.DataFrame({"Unique_ID": [f"c{i}" for i in range(30)], "GT_label": [1, 2, 3] * 10})
    cells = Cells(
        images, table, "set", True, np.zeros(3), np.zeros(3), np.full(3, 255.0), ["R", "G", "B"]
    )
    codes = rng.normal(0, 1, (30, 3)).astype(np.float32)
    latents = table.assign(**{f"VAE_{a}_coord": codes[:, i] for i, a in enumerate("xyz")})
    model = build_vae("vanilla", 32, 3, 2, 3).eval()
    folder = tmp_path / "results" / "0001-set-VAE"
    folder.mkdir(parents=True)
    quality = pd.DataFrame(index=range(30))
    cpu = torch.device("cpu")
    return GuidedRun(folder, cells, model, latents, Roles("GT_label"), None, quality, cpu)


def client_of(run, host="127.0.0.1", token=None):
    return make_app(run, run.folder / "expert_feedback.csv", host, token).server.test_client()


def test_the_page_loads_nothing_from_elsewhere(run):
    answer = client_of(run).get("/", base_url="http://127.0.0.1:8050")
    assert answer.status_code == 200
    text = answer.text.replace('alert("Dash v2.7+', "")
    assert "http://" not in text and "https://" not in text and "//cdn" not in text
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert "http" not in policy and "unsafe-inline' " not in policy.split("style-src")[0]


def test_only_this_computer_and_this_page_are_answered(run):
    client = client_of(run)
    for host in ("127.0.0.1:8050", "localhost:8050", "[::1]:8050"):
        assert client.get("/", base_url=f"http://{host}").status_code == 200
    for host in ("evil.example", "127.0.0.1.evil.example:8050", "192.168.0.7:8050"):
        assert client.get("/", base_url=f"http://{host}").status_code == 403
    here = {"base_url": "http://127.0.0.1:8050", "json": {}}
    update = "/_dash-update-component"
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        assert client.post(update, headers=headers, **here).status_code == 403, headers
    own = client.post(update, headers={"Origin": "http://127.0.0.1:8050"}, **here)
    assert own.status_code != 403


def test_other_addresses_ask_for_the_token(run):
    from flask import Flask

    with pytest.raises(ValueError, match="token"):
        protect(Flask("x"), "0.0.0.0", None)
    assert is_loopback("127.0.0.2") and is_loopback("::1") and is_loopback("localhost")
    assert not is_loopback("0.0.0.0") and not is_loopback("::") and not is_loopback("my.host")
    client = client_of(run, "0.0.0.0", "s3cret")
    at = {"base_url": "http://lab-pc:8050"}
    for path in ("/", "/cells/0.png", "/_dash-layout", "/assets/guidance.js", "/?token=wrong"):
        answer = client.get(path, **at)
        assert answer.status_code == 401 and "GT_label" not in answer.text
    assert client.post("/token", data={"token": "wrong"}, **at).status_code == 401
    assert client.post("/token", data={"token": "s3cret"}, **at).status_code == 303
    assert client.get("/_dash-layout", **at).status_code == 200
    cookie = client.get_cookie("guidance_token", "lab-pc")
    assert cookie.http_only and cookie.same_site == "Strict"
    fresh = client_of(run, "0.0.0.0", "s3cret")
    assert fresh.get("/?token=s3cret", **at).headers["Location"] == "/"  # off the address bar
    assert fresh.get("/", **at).status_code == 200


def test_cells_are_rows_and_never_files(run):
    client, at = client_of(run), {"base_url": "http://127.0.0.1:8050"}
    picture = client.get("/cells/3.png", **at)
    assert picture.status_code == 200 and picture.data.startswith(b"\x89PNG")
    assert client.get("/cells/3.json?colour=Class/GT_label", **at).json == [
        ["", "c3"],
        ["GT_label", "1"],
    ]
    assert client.get("/cells/3.json?colour=../../x", **at).json[0] == ["", "c3"]
    for path in ("30.png", "-1.png", "..%2f..%2fetc%2fpasswd.png", "c3.png", "99999999999999.json"):
        answer = client.get(f"/cells/{path}", **at)  # 404, or the page itself, as for any address
        assert answer.mimetype == "text/html", path


def test_the_taken_port_is_named(run):
    app = make_app(run, run.folder / "f.csv", "127.0.0.1", None)
    server = serve(app, "127.0.0.1", 0)
    try:
        with pytest.raises(UserError, match=f"port {server.port}"):
            serve(app, "127.0.0.1", server.port)
    finally:
        server.server_close()


def test_the_model_draws_and_the_nearest_cells_are_the_nearest(run):
    point = np.array([0.3, -0.2, 0.1])
    assert run.decode(point).startswith(b"\x89PNG") and run.decode(point) == run.decode(point)
    distance = np.linalg.norm(run.codes - point, axis=1)
    assert run.nearest(point, 4).tolist() == np.argsort(distance)[:4].tolist()
    assert len(run.nearest(point, 99)) == 30


FAKE = """
import json, sys, time, signal
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
def tell(**step):
    with open(options["--progress-file"], "a") as file:
        file.write(json.dumps(step) + chr(10))
def stop(*_):
    tell(stage="cancelled")
    sys.exit(130)
signal.signal(signal.SIGTERM, stop)
tell(stage="training", epoch=1, epochs=int(options["--epochs"]), folder="results/0002-x")
if options["--epochs"] == "3":
    sys.exit("out of luck")
for _ in range(300):
    time.sleep(0.1)
"""


@pytest.fixture
def tuning(tmp_path):
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    (tmp_path / "run").mkdir()
    (tmp_path / "list.csv").write_text("a\n")
    tuning = FineTuning(tmp_path / "run", script)
    yield tuning
    tuning.cancel()


def wait_for(look, seconds=20.0):
    """Wait until `look()` is true."""
    until = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def test_fine_tuning_goes_on_without_the_server_and_is_cancelled_by_the_next(tuning, tmp_path):
    assert tuning.progress() is None
    tuning.start(tmp_path / "list.csv", 4)
    wait_for(lambda: tuning.progress().stage == "training")
    assert (tuning.progress().epoch, tuning.progress().epochs) == (1, 4)
    restarted = FineTuning(tuning.run_folder, tuning.script)  # knows no process of its own
    assert restarted.progress().running
    with pytest.raises(UserError, match="is running"):
        restarted.start(tmp_path / "list.csv", 4)
    restarted.cancel()
    wait_for(
        lambda: restarted.progress().stage == "cancelled" and tuning.process.poll() is not None
    )
    assert tuning.process.returncode == 130
    assert (tuning.folder / "0001.csv").read_text() == "a\n"  # the feedback as it was


def test_a_process_that_dies_has_its_last_words_shown(tuning, tmp_path):
    tuning.start(tmp_path / "list.csv", 3)
    wait_for(lambda: tuning.progress().stage == "failed")
    assert tuning.progress().message == "out of luck"
    tuning.start(tmp_path / "list.csv", 5)  # another may be started
    wait_for(lambda: tuning.progress().stage == "training")
    os.kill(tuning.process.pid, signal.SIGKILL)
    wait_for(lambda: tuning.progress().stage == "failed")


@pytest.mark.parametrize("epochs", [0, -1, 1.5, None, "5", 10**9])
def test_impossible_epochs_are_refused(tuning, tmp_path, epochs):
    with pytest.raises(UserError, match="epochs"):
        tuning.start(tmp_path / "list.csv", epochs)


def test_only_finished_runs_of_this_run_are_compared(tmp_path):
    parent = tmp_path / "0001-a-VAE"
    for name, origin, done in (
        ("0001-a-VAE", None, True),
        ("0002-a-VAE-guided", parent, True),
        ("0003-a-VAE-guided", parent, False),
        ("0004-b-VAE-guided", tmp_path / "0009-b-VAE", True),
        ("0005-a-VAE-guided", parent, True),
    ):
        (tmp_path / name).mkdir()
        guidance = {"guidance": {"run": str(origin)}} if origin else {}
        write_json(tmp_path / name / "settings.json", guidance)
        for file in ("report.html", "best.pt", "latents.csv") if done else ():
            (tmp_path / name / file).write_text("")
    (tmp_path / "0006-a-scores").mkdir()  # a report of something else
    (tmp_path / "0006-a-scores" / "report.html").write_text("")
    assert [path.name[:4] for path in guided_runs(parent)] == ["0002", "0005"]
    assert find_finished_run("last", tmp_path).name.startswith("0005")
    assert find_finished_run("2", tmp_path).name.startswith("0002")
    with pytest.raises(UserError, match="`run` 3"):
        find_finished_run("3", tmp_path)


# Where the cell drawn last stands on the screen in the first plane, and its row.
LAST_CELL = """{
  const trace = plot._fullData.find(t => t.type === "scattergl" && t.xaxis === "x");
  const plane = plot._fullLayout._plots.xy, last = trace.x.length - 1;
  const box = plot.querySelector('.nsewdrag[data-subplot="xy"]').getBoundingClientRect();
  const x = box.left + plane.xaxis.d2p(trace.x[last]), y = box.top + plane.yaxis.d2p(trace.y[last]);
  return [x, y, trace.customdata[last]];
}"""


class Server:
    """The page as a process of its own, on the same port each time."""

    def __init__(self, folder: Path):
        self.folder, self.process, self.port = folder, None, 0

    def start(self) -> str:
        """Start it and wait for its address."""
        command = [sys.executable, str(Path(__file__).parents[1] / SCRIPT), "--run", "1"]
        command += ["--no-open-browser", "--port", str(self.port), "--device", "cpu"]
        self.process = subprocess.Popen(
            command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        said = []
        for line in self.process.stdout:
            said.append(line)
            if line.startswith("page: "):
                address = line.split()[1]
                self.port = int(address.rstrip("/").rsplit(":", 1)[1])
                return address
        raise AssertionError("".join(said))

    def kill(self) -> None:
        """As the power fails."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def server(tmp_path, monkeypatch, blank_figures):
    """A server for a small trained run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    small = {"simulated_cells": 80, "image_size": 32, "base": 2, "epochs": 1, "device": "cpu"}
    small |= {"learning_rate": 1e-3, "metrics": ("neighbours",), "features": "none"}
    VAE_framework.main(dataclasses.replace(VAE_framework.SETTINGS, **small))
    server = Server(tmp_path)
    yield server
    server.kill()
    FineTuning(tmp_path / "results" / "0001-simulated-BBBC031-VAE").cancel()


class Expert:
    """Somebody in front of the page."""

    def __init__(self, page, address: str):
        self.page, self.problems = page, []
        self.server_is_down = False
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", self._note)
        page.on("request", self._look_where)
        page.goto(address)
        self.ready()

    def _note(self, message) -> None:
        failed_request = "net::ERR_" in message.text or "did not respond" in message.text
        if message.type == "error" and not (failed_request and self.server_is_down):
            self.problems.append(message.text)

    @contextmanager
    def server_down(self) -> Iterator[None]:
        """Meanwhile the console may say that requests fail: refused, reset, not answered."""
        self.server_is_down = True
        yield
        self.server_is_down = False

    def _look_where(self, request) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            self.problems.append(f"asked for {request.url}")

    def ready(self) -> None:
        self.page.wait_for_selector('#explore .nsewdrag[data-subplot="x3y3"]')
        self.page.wait_for_function(
            "document.querySelector('#explore .js-plotly-plot').dataset.bound"
        )
        self.says("#selection-size", "cells selected")

    def says(self, selector: str, text: str) -> None:
        self.page.wait_for_function(
            "([where, text]) => document.querySelector(where)?.innerText.includes(text)",
            arg=[selector, text],
        )

    def plot(self, expression: str):
        """Evaluate a JavaScript expression of `plot`, the figure of the latent space."""
        plot = "document.querySelector('#explore .js-plotly-plot')"
        return self.page.evaluate(f"(plot => {expression})({plot})")

    def plane(self, name: str = "xy"):
        return self.page.locator(f'#explore .nsewdrag[data-subplot="{name}"]').bounding_box()

    def lasso(self, plane) -> None:
        """Around all of the left half of a plane."""
        left, top = plane["x"] + 3, plane["y"] + 3
        middle, bottom = plane["x"] + plane["width"] / 2, plane["y"] + plane["height"] - 3
        self.page.mouse.move(left, top)
        self.page.mouse.down()
        for x, y in ((middle, top), (middle, bottom), (left, bottom), (left, top + 10)):
            self.page.mouse.move(x, y, steps=3)
        self.page.mouse.up()

    def cross_is(self, low: float, high: float) -> None:
        """Wait until the first coordinate of the cross lies between two values."""
        at = "JSON.parse(sessionStorage.getItem('point'))[0]"
        within = f"([low, high]) => {{ const at = {at}; return low < at && at < high; }}"
        self.page.wait_for_function(within, arg=[low, high])

    def step(self, number: int) -> None:
        self.page.locator("#step label").nth(number - 1).click()


def test_an_expert_guides_a_run_in_the_browser(server, browser, tmp_path):
    folder = tmp_path / "results" / "0001-simulated-BBBC031-VAE"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    latents = pd.read_csv(folder / "latents.csv")
    address = server.start()
    expert = Expert(browser.new_page(viewport={"width": 1280, "height": 720}), address)
    page = expert.page

    # colour: the menu changes key and points
    page.click("#colour")
    page.locator(".dash-dropdown-option", has_text="Metadata: GT_Shape").click()
    expert.says("#legend", "GT_Shape")
    page.wait_for_function("document.querySelector('#page').dataset.colour === 'Metadata/GT_Shape'")
    expert.page.wait_for_selector("#legend .ramp")

    # hover: the card shows the cell under the mouse
    x, y, row = expert.plot(LAST_CELL)
    page.mouse.move(x - 1, y - 1)
    page.mouse.move(x, y, steps=4)
    page.wait_for_selector("#cell-card.shown img")
    shown = int(page.get_attribute("#cell-card", "data-row"))
    codes = latents.filter(regex="^VAE_[xy]_coord").to_numpy()
    assert np.linalg.norm(codes[shown] - codes[row]) < 0.05 * np.ptp(codes)
    expert.says("#cell-card", latents["Unique_ID"][shown])
    expert.says("#cell-card", "GT_Shape")

    # lasso: what lies left of the middle of the plane is selected, among all cells
    plane = expert.plane()
    middle = expert.plot("plot._fullLayout.xaxis.range.reduce((a, b) => (a + b) / 2)")
    expert.lasso(plane)
    expected = int((latents["VAE_x_coord"] < middle).sum())
    expert.says("#selection-size", f"{expected} of 80 cells selected")
    assert page.locator("#gallery img").count() == min(expected, 24) or expected > 24
    expert.says("#differences", "in ")
    page.wait_for_selector(".decoded")

    # anchor: the cross stands in the middle of the cells; a click puts it elsewhere
    expert.step(2)
    page.mouse.click(plane["x"] + 0.75 * plane["width"], plane["y"] + 0.25 * plane["height"])
    clicked = expert.plot("['xaxis', 'yaxis'].map(a => plot._fullLayout[a].range)")
    (low_x, high_x), (low_y, high_y) = clicked
    target = [low_x + 0.75 * (high_x - low_x), low_y + 0.75 * (high_y - low_y)]
    near = 0.01 * max(high_x - low_x, high_y - low_y)
    expert.cross_is(target[0] - near, target[0] + near)
    page.fill("#name", "left cells")
    page.fill("#delta", "2.5")
    page.click("#save")
    expert.says("#groups", "left cells")
    table = pd.read_csv(folder / "expert_feedback.csv")
    assert len(table) == expected and set(table["delta"]) == {2.5}
    assert set(table["group"]) == {"left cells"}
    assert table[["x_anchor", "y_anchor"]].to_numpy()[0] == pytest.approx(target, abs=near)
    chosen = latents.loc[latents["VAE_x_coord"] < middle]
    assert set(table["Unique_ID"]) == set(chosen["Unique_ID"])
    assert table["z_anchor"][0] == pytest.approx(chosen["VAE_z_coord"].mean(), abs=1e-5)

    # dragging the cross moves it in the other planes too
    page.wait_for_function("document.querySelector('#name').value === ''")
    cross = page.locator('#explore .annotation[data-index="0"]').bounding_box()
    x, y = cross["x"] + cross["width"] / 2, cross["y"] + cross["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 60, y + 30, steps=6)
    page.mouse.up()
    expert.cross_is(low_x, target[0] - 5 * near)

    # a second tab sees the list; what it changes, the first does not overwrite
    second = Expert(browser.new_page(), address)
    second.step(2)
    second.says("#groups", "left cells")
    second.page.locator("#groups button", has_text="✕").click()
    second.says("#groups", "No group yet")
    expert.says("#groups", "No group yet")  # within a look at the disk
    page.click("#undo")
    expert.says("#groups", "left cells")
    second.page.close()

    # fine-tune; the server is killed in the middle and comes back; the training goes on
    expert.step(3)
    page.fill("#epochs", "1")
    page.click("#start")
    page.wait_for_selector("#progress .bar")
    with expert.server_down():
        server.kill()
        page.wait_for_selector("#offline.shown")
        server.start()
        page.wait_for_selector("#offline:not(.shown)", state="attached")
    page.reload()
    expert.ready()
    expert.says("#selection-size", f"{expected} of 80 cells selected")  # nothing is lost
    expert.says("#legend", "GT_Shape")
    page.wait_for_function(
        "/Done/.test(document.querySelector('#progress').innerText)", timeout=120_000
    )

    # compare: before and after, with the scores
    page.locator("#view label").nth(1).click()
    page.wait_for_selector("#compare .nsewdrag")
    expert.step(3)
    expert.says("#scores", "mean distance to the anchor")
    expert.says("#scores", "trustworthiness")
    guided = guided_runs(folder)
    assert len(guided) == 1
    expert.says("#compare", guided[0].name)
    used = pd.read_csv(guided[0] / "feedback.csv")
    assert set(used["Unique_ID"]) <= set(chosen["Unique_ID"])
    assert expert.problems == []
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert {name: after[name] for name in before} == before  # the run itself is as it was
