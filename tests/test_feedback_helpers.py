"""The tables of feedback: what is read, what is refused and in which words, what is written."""

import multiprocessing

import numpy as np
import pandas as pd
import pytest

from human_guidance.feedback_helpers import (
    AxisHint,
    append_feedback,
    check_axis_hints,
    check_feedback,
    check_pairs,
    read_axis_hints,
    read_feedback,
    read_pairs,
    write_axis_hints,
    write_feedback,
    write_pairs,
)
from util.errors import UserError
from util.latents import anchor_columns

IDS = [f"cell_{i}.tiff" for i in range(10)]
GOOD = "Unique_ID,delta,x_anchor,y_anchor\ncell_3.tiff,1.28,-1,0\ncell_7.tiff,0.5,1,0\n"


@pytest.fixture
def written(tmp_path):
    def write(text, name="feedback.csv"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_read(written):
    feedback = read_feedback(written(GOOD), IDS, 2)
    assert feedback.ids == ["cell_3.tiff", "cell_7.tiff"]
    np.testing.assert_array_equal(feedback.cells, [3, 7])
    np.testing.assert_array_equal(feedback.anchors, [[-1, 0], [1, 0]])
    np.testing.assert_array_equal(feedback.delta, [1.28, 0.5])
    assert list(feedback.groups) == ["(-1, 0)", "(1, 0)"]


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("Unique_ID", "Unique_id"),
        GOOD.replace(".tiff", ""),
        GOOD.replace(",", ";"),
        "\ufeff" + GOOD,
        GOOD + "cell_1.tiff,0,,\n",  # weight 0: as if it were not there
    ],
    ids=["Unique_id", "without ending", "semicolons", "byte order mark", "weight 0"],
)
def test_read_as_people_write_it(written, text):
    np.testing.assert_array_equal(read_feedback(written(text), IDS, 2).cells, [3, 7])


def test_numeric_ids(written):
    text = GOOD.replace("cell_3.tiff", "3").replace("cell_7.tiff", "7")
    np.testing.assert_array_equal(read_feedback(written(text), list(range(10)), 2).cells, [3, 7])


@pytest.mark.parametrize(
    ("text", "dimensions", "said"),
    [
        (GOOD.replace("cell_7", "cell_77"), 2, "1 ids are not in the run: cell_77.tiff; its cells"),
        (GOOD.replace("cell_", "no"), 2, "2 ids are not in the run: no3.tiff, no7.tiff"),
        (GOOD.replace("delta", "weight"), 2, "no column delta: it needs Unique_ID, delta, x_anc"),
        (GOOD, 3, "no column z_anchor"),
        (GOOD, 1, "has a column y_anchor, but the model has 1 latent dim"),
        (GOOD.replace("1.28", "nan"), 2, "delta of cell_3.tiff is nan, not a number"),
        (GOOD.replace("1.28", "inf"), 2, "delta of cell_3.tiff is inf, not a number"),
        (GOOD.replace("1.28", "-1.28"), 2, "delta of cell_3.tiff is -1.28; a weight is 0 or more"),
        (GOOD.replace("0.5,1", "0.5,left"), 2, "x_anchor of cell_7.tiff is 'left', not a number"),
        (GOOD.replace("cell_7", "cell_3"), 2, "1 cells have two rows: cell_3.tiff"),
        (GOOD.splitlines()[0] + "\n", 2, "has no rows"),
        ("", 2, "cannot be read as a table"),
        (GOOD.replace("1.28", "0").replace("0.5", "0"), 2, "anchors no cell"),
        (GOOD.replace("cell_7.tiff", ""), 2, "row 2 has no id"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(written, text, dimensions, said):
    path = written(text)
    with pytest.raises(UserError) as raised:
        read_feedback(path, IDS, dimensions)
    assert said in str(raised.value) and "\n" not in str(raised.value)
    assert "feedback.csv" in str(raised.value)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        read_feedback(tmp_path / "feedback.csv", IDS, 2)


def test_written_and_read_again(tmp_path):
    columns = ["Unique_ID", "delta", *anchor_columns(5), "group"]
    assert columns[2:7] == ["x_anchor", "y_anchor", "z_anchor", "4_anchor", "5_anchor"]
    rows = [("cell_2.tiff", 0.1, *np.random.default_rng(0).normal(size=5), 'left, "round"')]
    feedback = check_feedback(pd.DataFrame(rows, columns=columns), IDS, 5)
    write_feedback(tmp_path / "f.csv", feedback)
    again = read_feedback(tmp_path / "f.csv", IDS, 5)
    pd.testing.assert_frame_equal(again.table(), feedback.table())
    assert list(again.groups) == ['left, "round"']


def test_an_empty_list_is_a_header(tmp_path):
    path = tmp_path / "f.csv"
    empty = check_feedback(pd.DataFrame(columns=GOOD.splitlines()[0].split(",")), IDS, 2, "", True)
    write_feedback(path, empty)
    assert len(read_feedback(path, IDS, 2, allow_empty=True)) == 0
    with pytest.raises(UserError, match="no rows"):
        read_feedback(path, IDS, 2)


def test_append_keeps_the_file_when_a_row_is_wrong(tmp_path):
    path = tmp_path / "f.csv"
    row = pd.DataFrame({"Unique_ID": ["cell_1"], "delta": [1.0], "x_anchor": [0.0]})
    append_feedback(path, row, IDS, 1)
    feedback = append_feedback(path, row.assign(Unique_ID="cell_2"), IDS, 1)
    np.testing.assert_array_equal(feedback.cells, [1, 2])
    before = path.read_bytes()
    for wrong in (row, row.assign(Unique_ID="cell_11"), row.assign(Unique_ID="cell_5", delta=-1)):
        with pytest.raises(UserError):
            append_feedback(path, wrong, IDS, 1)
    assert path.read_bytes() == before
    assert not [p for p in tmp_path.iterdir() if p.name not in ("f.csv", ".f.csv.lock")]


def _append(path, cell):
    row = pd.DataFrame({"Unique_ID": [IDS[cell]], "delta": [1.0], "x_anchor": [0.5]})
    append_feedback(path, row, IDS, 1)


def test_processes_that_append_at_the_same_time_lose_nothing(tmp_path):
    path = tmp_path / "f.csv"
    context = multiprocessing.get_context("fork")  # quick; nothing runs in threads here
    writers = [context.Process(target=_append, args=(path, cell)) for cell in range(10)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(read_feedback(path, IDS, 1).cells) == list(range(10))


PAIRS = "Unique_ID_a,Unique_ID_b,relation,weight\ncell_1,cell_2,together,1\ncell_3,cell_1,apart,2\n"


def test_pairs(written, tmp_path):
    pairs = read_pairs(written(PAIRS), IDS)
    np.testing.assert_array_equal(pairs.cells, [[1, 2], [3, 1]])
    np.testing.assert_array_equal(pairs.together, [True, False])
    write_pairs(tmp_path / "again.csv", pairs)
    pd.testing.assert_frame_equal(read_pairs(tmp_path / "again.csv", IDS).table(), pairs.table())
    zero = check_pairs(pairs.table().assign(weight=[1.0, 0.0]), IDS)
    np.testing.assert_array_equal(zero.together, [True])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PAIRS.replace("apart", "near"), "relation 'near' of cell_3 and cell_1 must be together"),
        (PAIRS.replace("apart,2", "apart,"), "weight of cell_3 and cell_1 is nan, not a number"),
        (PAIRS.replace("cell_3", "cell_1"), "the pair cell_1 and cell_1 names one cell twice"),
        (PAIRS.replace("cell_3", "cell_2"), "the pair cell_2 and cell_1 has two rows"),
        (PAIRS.replace("cell_3", "cell_x"), "1 ids are not in the run: cell_x"),
        (PAIRS.replace("relation", "kind"), "has no column relation"),
    ],
)
def test_wrong_pairs(written, text, said):
    with pytest.raises(UserError) as raised:
        read_pairs(written(text, "pairs.csv"), IDS)
    assert said in str(raised.value) and "\n" not in str(raised.value)


KNOWN = pd.DataFrame(
    {"Unique_ID": IDS, "dose": np.arange(10.0), "same": 1, "name": list("abcdefghij")}
)
HINTS = "axis,column,weight,direction\ny,dose,2,falling\n1,dose,1,\n"


def test_axis_hints(written, tmp_path):
    hints = read_axis_hints(written(HINTS), KNOWN, 3)
    assert hints == [AxisHint(1, "dose", 2.0, -1), AxisHint(0, "dose", 1.0, 0)]
    write_axis_hints(tmp_path / "again.csv", hints)
    assert read_axis_hints(tmp_path / "again.csv", KNOWN, 3) == hints
    fourth = pd.DataFrame({"axis": ["4"], "column": ["dose"], "weight": [1]})
    assert check_axis_hints(fourth, KNOWN, 4) == [AxisHint(3, "dose", 1.0, 0)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HINTS.replace("y,dose", "q,dose"), "axis 'q' must be one of x, y, z"),
        (HINTS.replace("1,dose", "4,dose"), "axis '4' must be one of x, y, z"),
        (HINTS.replace("y,dose", "y,dosis"), "the run has no column 'dosis'; it has dose"),
        (HINTS.replace("y,dose", "y,name"), "column name has no order"),
        (HINTS.replace("y,dose", "y,same"), "column same has no order"),
        (HINTS.replace("falling", "down"), "direction 'down' must be rising, falling or empty"),
        (HINTS.replace("y,dose", "x,dose"), "axis x and dose have two rows"),
        (HINTS.replace("dose,2", "dose,nan"), "weight of y - dose is nan, not a number"),
    ],
)
def test_wrong_axis_hints(written, text, said):
    with pytest.raises(UserError) as raised:
        read_axis_hints(written(text, "axis_hints.csv"), KNOWN, 3)
    assert said in str(raised.value) and "\n" not in str(raised.value)
