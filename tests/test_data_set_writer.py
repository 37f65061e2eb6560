import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from filelock import FileLock
from raw_sets import contents

from util.errors import UserError
from util.image_files import read_image
from util.raw import data_set_writer
from util.raw.data_set_writer import Target, describe_outcome, write_cell, write_data_set


@dataclass(frozen=True)
class Settings:
    kind: str = "a"
    workers: int | None = 1
    progress: bool = False


FULL = Path("/dev/full")
GROUPS = [(f"well_{g}", range(10 * g, 10 * g + 6)) for g in range(5)]


def cut(cells):
    for cell in cells:
        row = {"Unique_ID": f"cell_{cell}.tiff", "folder": f"Class_{cell % 2}", "reason": ""}
        row |= {"GT_label": cell % 2, "value": cell / 7, "text": "None" if cell % 2 else "NA"}
        bad = cell % 10 == 5
        yield row | ({"reason": "too dim"} if bad else {}), None if bad else image_of(cell)


def image_of(cell):
    return np.full((3 + cell % 4, 5, 4), cell, np.uint16)


def finish(outcome):
    cells = outcome.cells
    tables = {"meta.csv": cells, "lost.csv": outcome.unmatched, "features.csv": None}
    return tables, {"Few": cells[cells["GT_label"] == 1]}


def target(out):
    return Target(Path(out), "Set", ("lost.csv", "features.csv", "meta.csv"), subsets=("Few",))


def convert(out, cut=cut, finish=finish, groups=GROUPS, inputs="tables", **settings):
    return write_data_set(target(out), Settings(**settings), inputs, groups, cut, finish)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    convert(out)
    return contents(out)


def test_writes_cells_tables_and_subsets(tmp_path):
    outcome = convert(tmp_path / "out")
    assert (len(outcome.cells), len(outcome.unmatched)) == (25, 5)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "Few", "Set", "lost.csv", "meta.csv"
    ]  # fmt: skip
    path = tmp_path / "out" / "meta.csv"
    table = pd.read_csv(path, keep_default_na=False, float_precision="round_trip")
    for row in table.itertuples():
        cell = int(row.Unique_ID.removeprefix("cell_").removesuffix(".tiff"))
        path = tmp_path / "out" / "Set" / f"Class_{cell % 2}" / row.Unique_ID
        np.testing.assert_array_equal(tifffile.imread(path), image_of(cell))
        assert row.value == cell / 7 and row.text == ("None" if cell % 2 else "NA")
    few = sorted(p.name for p in (tmp_path / "out" / "Few").rglob("*.tiff"))
    assert few == sorted(table["Unique_ID"][table["GT_label"] == 1])
    assert set(pd.read_csv(tmp_path / "out" / "lost.csv")["reason"]) == {"too dim"}


def test_many_workers_write_the_same(tmp_path, expected):
    convert(tmp_path / "out", workers=3)
    assert contents(tmp_path / "out") == expected


@pytest.mark.parametrize(
    "channels, dtype", [(1, "uint8"), (2, "uint16"), (3, "uint8"), (5, "uint16")]
)
def test_a_cell_comes_back_as_it_was(tmp_path, channels, dtype):
    image = np.random.default_rng(0).integers(0, 255, (20, 17, channels)).astype(dtype)
    write_cell(tmp_path / "a.tiff", image)
    np.testing.assert_array_equal(np.moveaxis(read_image(tmp_path / "a.tiff")[0], 0, -1), image)


def test_a_finished_set_is_never_touched(tmp_path, expected):
    convert(tmp_path / "out")
    with pytest.raises(UserError, match="Set is there already .* rename or remove it"):
        convert(tmp_path / "out")
    assert contents(tmp_path / "out") == expected


def test_anything_of_that_name_is_in_the_way(tmp_path):
    (tmp_path / "meta.csv").write_text("mine")
    with pytest.raises(UserError, match="meta.csv is there already"):
        convert(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["meta.csv"]


class Stop(Exception):
    pass


def test_goes_on_where_it_stopped(tmp_path, expected, capsys):
    seen = []

    def stopping(cells):
        seen.append(cells[0])
        if len(seen) == 3:
            yield from list(cut(cells))[:2]  # in the middle of a group
            raise Stop
        yield from cut(cells)

    with pytest.raises(Stop):
        convert(tmp_path / "out", stopping)
    assert [p.name for p in (tmp_path / "out").iterdir()] == [".Set.partial"]
    convert(tmp_path / "out", stopping)
    assert seen == [0, 10, 20, 20, 30, 40]  # what was done is not done again
    assert "going on: 2 of 5" in capsys.readouterr().out
    assert contents(tmp_path / "out") == expected


@pytest.mark.parametrize("renamed", range(5))
def test_killed_while_it_is_published(tmp_path, expected, monkeypatch, renamed):
    """The metadata come last: what looks finished is."""
    names = []

    def rename(source, final):
        if len(names) == renamed:
            raise Stop
        names.append(final.name)
        os.replace(source, final)

    with monkeypatch.context() as patch:
        patch.setattr(data_set_writer.os, "rename", rename)
        with pytest.raises(Stop):
            convert(tmp_path / "out")
    assert names == ["Set", "Few", "lost.csv", "meta.csv"][:renamed]
    outcome = convert(tmp_path / "out")
    assert len(outcome.cells) == 25
    assert contents(tmp_path / "out") == expected


def test_killed_while_it_removes_its_hidden_folder(tmp_path, expected, monkeypatch):
    """It had ended: the set is whole, and the next conversion of that name removes what is left."""

    whole_removal = shutil.rmtree

    def remove(folder, **options):
        if (folder / "done").is_dir():
            (folder / "done" / "well_0.csv").unlink()
            raise Stop
        whole_removal(folder, **options)

    with monkeypatch.context() as patch:
        patch.setattr(data_set_writer.shutil, "rmtree", remove)
        with pytest.raises(Stop):
            convert(tmp_path / "out")
    assert contents(tmp_path / "out") != expected
    with pytest.raises(UserError, match="Set is there already"):
        convert(tmp_path / "out")
    assert contents(tmp_path / "out") == expected


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
def test_a_full_disk_says_so_and_costs_nothing(tmp_path, expected):
    """The file of one cell lies on a device that is always full."""
    file = target(tmp_path / "out").partial / "cells" / "Class_1" / "cell_23.tiff"
    file.parent.mkdir(parents=True)
    file.symlink_to(FULL)
    with pytest.raises(UserError, match="no space left .* same command again"):
        convert(tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == [".Set.partial"]
    file.unlink()
    convert(tmp_path / "out")
    assert contents(tmp_path / "out") == expected


def test_other_settings_or_tables_do_not_mix(tmp_path):
    def stopping(cells):
        raise Stop
        yield

    for other in ({"kind": "b"}, {"inputs": "others"}):
        with pytest.raises(Stop):
            convert(tmp_path / "out", stopping)
        with pytest.raises(UserError, match="unfinished conversion with other settings"):
            convert(tmp_path / "out", **other)
    convert(tmp_path / "out", workers=2)  # how many work at it is no such setting


def test_no_cell_at_all_is_a_mistake_that_leaves_nothing(tmp_path):
    def nothing(cells):
        yield {"Unique_ID": f"{cells[0]}", "folder": "", "reason": "no file"}, None

    with pytest.raises(UserError, match="no cell could be cut: 5 times: no file"):
        convert(tmp_path / "out", nothing)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_mistake_met_by_a_worker_is_told(tmp_path):
    with pytest.raises(UserError, match="the field is odd"):
        convert(tmp_path / "out", odd, workers=2)
    with pytest.raises(UserError, match="--workers 0"):
        convert(tmp_path / "out", workers=0)


def odd(cells):
    raise UserError("the field is odd")
    yield


def test_the_outcome_is_counted_by_class_and_reason(tmp_path):
    lines = describe_outcome(convert(tmp_path / "out"), "GT_label")
    assert lines[0] == "25 cells written, 5 left out"
    assert "  5 cells: too dim" in lines
    assert "  GT_label 1: 10 cells, 5 left out" in lines


PATHS = ("../escaped", "/tmp/escaped", "a/escaped", "..")


@pytest.mark.parametrize(
    ("column", "name"),
    [("Unique_ID", ""), *((column, path) for column in ("Unique_ID", "folder") for path in PATHS)],
)
def test_no_name_of_a_cell_leaves_its_folder(tmp_path, column, name):
    def cut_with_path(cells):
        for row, image in cut(cells):
            yield row | {column: name}, image

    with pytest.raises(UserError, match=f"{column} of a cell, .* cannot be a file name"):
        convert(tmp_path / "out", cut=cut_with_path)
    assert not list(tmp_path.rglob("*escaped*")) and not Path("/tmp/escaped").exists()


def test_one_conversion_at_a_time(tmp_path):
    partial = target(tmp_path / "out").partial
    partial.mkdir(parents=True)
    with FileLock(partial / ".lock"):  # of another process
        with pytest.raises(UserError, match="this conversion is running; wait for its end"):
            convert(tmp_path / "out")
    assert len(convert(tmp_path / "out").cells) == 25
