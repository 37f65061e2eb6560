"""Read, check and write the tables of an expert's feedback.

Three tables (CSV or Parquet), each with a header. Columns may stand in any order; other columns
are ignored.

| file | one row | columns |
| --- | --- | --- |
| feedback.csv | anchors a cell | Unique_ID, delta, x_anchor, y_anchor, z_anchor, group |
| pairs.csv | puts two cells together or apart | Unique_ID_a, Unique_ID_b, relation, weight |
| axis_hints.csv | makes an axis follow a column | axis, column, weight, direction |

- `Unique_ID` (also `Unique_id`) is that of the run's latents.csv; endings, slashes and leading
  zeros may differ where that stays unique. A cell has at most one row.
- `delta` is the weight of the anchor in nats per squared unit of latent distance; rows of weight 0
  are ignored. The weight competes with the reconstruction: of two groups of 20 cells in 2,000
  (simulated BBBC031, 5 epochs at 1e-3), 82 to 92 % came within 0.5 of their anchor with a delta of
  20 (three seeds), 12 % with 1.28 and all with 100 (one seed). There is one anchor column for each
  latent dimension: x, y, z, then 4_anchor, ...
- `group` (optional) names cells that were anchored together. Without it, cells with the same anchor
  form a group. Every group has the same total weight, however many cells it has.
- `relation` is `together` or `apart`; `weight` is in nats per squared unit of distance.
- `axis` is x, y, z or a number from 1; `column` is a numeric column of latents.csv, of which only
  the order counts; `direction` (optional) is `rising` or `falling`; empty keeps the direction of
  the trained model.

The command that fine-tunes a finished run with them:

    python human_guidance/VAE_feedback_framework.py --run results/0007-MyCells-VAE --epochs 5 \
        --feedback feedback.csv --pairs pairs.csv --axis-hints axis_hints.csv \
        --progress-file progress.jsonl

It needs at least one of the three files. The progress file gets one JSON object per line:

    {"stage": "loading"}
    {"stage": "training", "epoch": 0, "epochs": 5, "folder": "results/0008-MyCells-VAE-guided"}
    {"stage": "training", "epoch": 1, "epochs": 5, "folder": ..., "train": {...}, "valid": {...}}
    {"stage": "scoring", "folder": ...}    {"stage": "drawing", "folder": ...}
    {"stage": "done", "folder": ..., "report": "results/0008-.../report.html"}

It ends with `done`, with {"stage": "failed", "error": one line} (exit code 2 for a user's mistake),
or after SIGTERM or Ctrl-C with {"stage": "cancelled"} (exit code 130).

The new run folder holds what every run folder holds, and

| file | content |
| --- | --- |
| settings.json | also `guidance`: the original run and the settings of the fine-tuning |
| feedback.csv, held_out.csv, pairs.csv, axis_hints.csv | the feedback used |
| latents.csv | also VAE_before_x_coord, ...: the codes before |
| scores.csv | projections VAE (after) and VAE_before |
| guidance.csv | how well codes follow: term, group, cells, n_cells, measure, before, after |
| guidance.png | the latent space before and after, with the anchors |
| progress.jsonl | the steps, as above |

A folder without report.html belongs to a run that was cancelled or has not ended.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from util.errors import UserError
from util.latents import anchor_columns, axis_names, is_code_column
from util.metadata import class_name, count_and_name
from util.runs import write_table
from util.tables import match_names, read_table

RELATIONS = ("together", "apart")
DIRECTIONS = {"rising": 1, "falling": -1, "": 0}


@dataclass(frozen=True)
class Feedback:
    """Anchored cells: `cells[i]` belongs at `anchors[i]`.

    Attributes:
        ids: n ids as in latents.csv.
        cells: (n,) their rows there.
        anchors: (n, d) latent units.
        delta: (n,) above 0, nats per squared latent unit.
        groups: (n,) names of their groups.
    """

    ids: list[str]
    cells: np.ndarray
    anchors: np.ndarray
    delta: np.ndarray
    groups: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, chosen: np.ndarray) -> "Feedback":
        """The rows where `chosen` (n,) is True."""
        ids = [name for name, wanted in zip(self.ids, chosen, strict=True) if wanted]
        arrays = (self.cells, self.anchors, self.delta, self.groups)
        return Feedback(ids, *(array[chosen] for array in arrays))

    def table(self) -> pd.DataFrame:
        """The rows of feedback.csv."""
        columns = dict(zip(anchor_columns(self.anchors.shape[1]), self.anchors.T, strict=True))
        return pd.DataFrame({"Unique_ID": self.ids, "delta": self.delta, **columns}).assign(
            group=self.groups
        )


@dataclass(frozen=True)
class PairFeedback:
    """Pairs of cells that belong together or apart.

    Attributes:
        ids: (n, 2) ids as in latents.csv.
        cells: (n, 2) their rows there.
        together: (n,) bool; False means apart.
        weights: (n,) above 0.
    """

    ids: np.ndarray
    cells: np.ndarray
    together: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def table(self) -> pd.DataFrame:
        """The rows of pairs.csv."""
        return pd.DataFrame(
            {
                "Unique_ID_a": self.ids[:, 0],
                "Unique_ID_b": self.ids[:, 1],
                "relation": np.where(self.together, *RELATIONS),
                "weight": self.weights,
            }
        )


@dataclass(frozen=True)
class AxisHint:
    """An axis that should follow a column.

    Attributes:
        axis: from 0.
        column: of latents.csv.
        weight: above 0, nats.
        direction: 1 rising, -1 falling, 0 that of the trained model.
    """

    axis: int
    column: str
    weight: float
    direction: int = 0


def read_feedback(
    path: Path, known_ids: Sequence[str], latent_dim: int, allow_empty: bool = False
) -> Feedback:
    """Read and check feedback.csv.

    Args:
        path: the CSV.
        known_ids: Unique_ID of all N cells of the run, in the order of its latents.csv.
        latent_dim: d.
        allow_empty: accept a file with a header only, such as a list that is just begun.

    Raises:
        UserError: a missing column, an unknown id, a cell in two rows, a weight or anchor that is
            not a number, anchors of another dimension, or no anchored cell.
    """
    table = _read(path, allow_empty)
    return check_feedback(table, known_ids, latent_dim, source=str(path), allow_empty=allow_empty)


def check_feedback(
    table: pd.DataFrame,
    known_ids: Sequence[str],
    latent_dim: int,
    source: str = "feedback",
    allow_empty: bool = False,
) -> Feedback:
    """The same from a table; `source` is what an error calls it."""
    table = table.rename(columns={"Unique_id": "Unique_ID"})
    columns = anchor_columns(latent_dim)
    _require(table, ["Unique_ID", "delta", *columns], source)
    more = [name for name in anchor_columns(latent_dim + 3)[latent_dim:] if name in table]
    if more:
        raise UserError(
            f"{source} has a column {more[0]}, but the model has {latent_dim} latent dimensions: "
            f"give {', '.join(columns)}"
        )
    delta = _weights(table, "delta", table["Unique_ID"], source)
    table, delta = table[delta > 0], delta[delta > 0]
    if table.empty and not allow_empty:
        raise UserError(f"{source} anchors no cell: give at least one row with delta above 0")
    anchors = np.column_stack(
        [_numbers(table, name, table["Unique_ID"], source) for name in columns]
    )
    cells, ids = _places(table["Unique_ID"], known_ids, source)
    twice = pd.Series(ids)[pd.Series(cells).duplicated()]
    if len(twice):
        raise UserError(
            f"{source}: {count_and_name('cells have two rows', list(twice.unique()))}; "
            "give a cell one anchor"
        )
    return Feedback(ids, cells, anchors, delta=delta, groups=_groups(table, anchors))


def _groups(table: pd.DataFrame, anchors: np.ndarray) -> np.ndarray:
    """(n,) names from the column `group`; where it is empty, the anchor is the name."""
    by_anchor = [f"({', '.join(f'{value:g}' for value in anchor)})" for anchor in anchors]
    if "group" not in table:
        return np.array(by_anchor, dtype=object)
    named = table["group"].notna() & (table["group"].astype(str).str.strip() != "")
    names = table["group"].map(class_name, na_action="ignore")
    return np.where(named, names.astype(object), by_anchor)


def write_feedback(path: Path, feedback: Feedback) -> None:
    """Write feedback.csv in one step; an empty one has a header only."""
    write_table(path, feedback.table())


def append_feedback(
    path: Path, more: pd.DataFrame, known_ids: Sequence[str], latent_dim: int
) -> Feedback:
    """Add rows to feedback.csv, or create it; write nothing if a row is wrong.

    Several processes may append to the same file.

    Args:
        path: the CSV.
        more: rows with its columns.
        known_ids, latent_dim: as for `read_feedback`.

    Returns:
        all feedback of the file.

    Raises:
        UserError: as `read_feedback`, or a cell is already in the file.
    """
    with locked(path):
        if path.is_file():
            before = read_feedback(path, known_ids, latent_dim, allow_empty=True).table()
            more = more.rename(columns={"Unique_id": "Unique_ID"})
            more = pd.concat([before, more], ignore_index=True) if len(before) else more
        feedback = check_feedback(more, known_ids, latent_dim, str(path), allow_empty=True)
        write_feedback(path, feedback)
    return feedback


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, a hidden file beside it, for one read and write; others wait.

    The lock ends with the process, even if it is killed.
    """
    with open(path.with_name(f".{path.name}.lock"), "a+b") as file:
        if os.name == "nt":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file releases the lock


def read_pairs(path: Path, known_ids: Sequence[str], allow_empty: bool = False) -> PairFeedback:
    """Read and check pairs.csv.

    Raises:
        UserError: a missing column, an unknown id, a cell paired with itself, a pair in two rows,
            another relation, or a weight that is not a number above 0.
    """
    return check_pairs(_read(path, allow_empty), known_ids, str(path), allow_empty)


def check_pairs(
    table: pd.DataFrame, known_ids: Sequence[str], source: str = "pairs", allow_empty: bool = False
) -> PairFeedback:
    """The same from a table; `source` is what an error calls it."""
    _require(table, ["Unique_ID_a", "Unique_ID_b", "relation", "weight"], source)
    label = table["Unique_ID_a"].astype(str) + " and " + table["Unique_ID_b"].astype(str)
    odd = ~table["relation"].isin(RELATIONS)
    if odd.any():
        found, names = table["relation"][odd].iloc[0], " or ".join(RELATIONS)
        raise UserError(f"{source}: relation {found!r} of {label[odd].iloc[0]} must be {names}")
    weights = _weights(table, "weight", label, source)
    table, label, weights = table[weights > 0], label[weights > 0], weights[weights > 0]
    if table.empty and not allow_empty:
        raise UserError(f"{source} pairs no cells: give at least one row with weight above 0")
    sides = [_places(table[name], known_ids, source) for name in ("Unique_ID_a", "Unique_ID_b")]
    cells = np.column_stack([places for places, _ in sides])
    ids = np.column_stack([np.array(names, dtype=object) for _, names in sides])
    _refuse_odd_pairs(cells, label, source)
    return PairFeedback(ids, cells, (table["relation"] == RELATIONS[0]).to_numpy(), weights)


def _refuse_odd_pairs(cells: np.ndarray, label: pd.Series, source: str) -> None:
    for what, odd in (
        ("names one cell twice", cells[:, 0] == cells[:, 1]),
        ("has two rows", pd.DataFrame(np.sort(cells, axis=1)).duplicated().to_numpy()),
    ):
        if odd.any():
            raise UserError(f"{source}: the pair {label[odd].iloc[0]} {what}; delete the row")


def write_pairs(path: Path, pairs: PairFeedback) -> None:
    """Write pairs.csv in one step."""
    write_table(path, pairs.table())


def read_axis_hints(
    path: Path, known: pd.DataFrame, latent_dim: int, allow_empty: bool = False
) -> list[AxisHint]:
    """Read and check axis_hints.csv.

    Args:
        path: the CSV.
        known: latents.csv, whose columns an axis may follow.
        latent_dim: d.
        allow_empty: accept a file with a header and no rows.

    Raises:
        UserError: a missing column, an axis that the model does not have, a column that is missing,
            not numeric or constant, a hint in two rows, or a weight that is not a number above 0.
    """
    table = _read(path, allow_empty)
    return check_axis_hints(table, known, latent_dim, source=str(path), allow_empty=allow_empty)


def check_axis_hints(
    table: pd.DataFrame,
    known: pd.DataFrame,
    latent_dim: int,
    source: str = "axis hints",
    allow_empty: bool = False,
) -> list[AxisHint]:
    """The same from a table; `source` is what an error calls it."""
    _require(table, ["axis", "column", "weight"], source)
    label = table["axis"].astype(str) + " - " + table["column"].astype(str)
    weights = _weights(table, "weight", label, source)
    table = table.assign(weight=weights)[weights > 0]
    if table.empty and not allow_empty:
        raise UserError(f"{source} has no hint: give at least one row with weight above 0")
    directions = table["direction"] if "direction" in table else pd.Series("", index=table.index)
    hints = [
        AxisHint(
            _axis_number(row.axis, latent_dim, source),
            _followable(str(row.column), known, source),
            float(row.weight),
            _direction(direction, source),
        )
        for row, direction in zip(table.itertuples(), directions.fillna(""), strict=True)
    ]
    pairs = pd.Series([(hint.axis, hint.column) for hint in hints], dtype=object)
    if pairs.duplicated().any():
        axis, column = pairs[pairs.duplicated()].iloc[0]
        raise UserError(
            f"{source}: axis {axis_names(latent_dim)[axis]} and {column} have two rows; delete one"
        )
    return hints


def write_axis_hints(path: Path, hints: Sequence[AxisHint]) -> None:
    """Write axis_hints.csv in one step."""
    names = {value: name for name, value in DIRECTIONS.items()}
    rows = [
        (axis_names(hint.axis + 1)[-1], hint.column, hint.weight, names[hint.direction])
        for hint in hints
    ]
    write_table(path, pd.DataFrame(rows, columns=["axis", "column", "weight", "direction"]))


def _axis_number(axis: object, latent_dim: int, source: str) -> int:
    names = axis_names(latent_dim)
    name = class_name(axis).strip().lower()
    if name in names:
        return names.index(name)
    if name.isdigit() and 1 <= int(name) <= latent_dim:
        return int(name) - 1
    raise UserError(f"{source}: axis {axis!r} must be one of {', '.join(names)}")


def _direction(direction: object, source: str) -> int:
    name = str(direction).strip().lower()
    if name not in DIRECTIONS:
        raise UserError(f"{source}: direction {direction!r} must be rising, falling or empty")
    return DIRECTIONS[name]


def _followable(column: str, known: pd.DataFrame, source: str) -> str:
    if column not in known:
        numeric = [name for name in known.select_dtypes("number") if not is_code_column(name)]
        raise UserError(
            f"{source}: the run has no column {column!r}; it has {', '.join(numeric[:12])}"
        )
    if not pd.api.types.is_numeric_dtype(known[column]) or known[column].nunique() < 2:
        raise UserError(f"{source}: column {column} has no order: name one of different numbers")
    return column


def _read(path: Path, allow_empty: bool) -> pd.DataFrame:
    if allow_empty and path.is_file():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        if len(lines) == 1:
            return pd.read_csv(path)
    return read_table(path, ["Unique_id", "Unique_ID_a", "Unique_ID_b", "group", "axis", "column"])


def _require(table: pd.DataFrame, columns: list[str], source: str) -> None:
    missing = [name for name in columns if name not in table]
    if missing:
        raise UserError(
            f"{source} has no column {missing[0]}: it needs {', '.join(columns)} and has "
            f"{', '.join(map(str, table.columns[:12]))}"
        )


def _numbers(table: pd.DataFrame, column: str, names: pd.Series, source: str) -> np.ndarray:
    """(n,) finite numbers of a column; `names` is what an error calls each row."""
    values = pd.to_numeric(table[column], errors="coerce").to_numpy(float)
    odd = ~np.isfinite(values)
    if odd.any():
        found, name = table[column].iloc[odd.argmax()], names.iloc[odd.argmax()]
        found = repr(found) if isinstance(found, str) else str(found)
        raise UserError(f"{source}: {column} of {name} is {found}, not a number")
    return values


def _weights(table: pd.DataFrame, column: str, names: pd.Series, source: str) -> np.ndarray:
    values = _numbers(table, column, names, source)
    if (values < 0).any():
        place = (values < 0).argmax()
        raise UserError(
            f"{source}: {column} of {names.iloc[place]} is {values[place]:g}; a weight is 0 or more"
        )
    return values


def _places(ids: pd.Series, known_ids: Sequence[str], source: str) -> tuple[np.ndarray, list[str]]:
    """(n,) rows of the ids among the known ones, and the ids as they are known."""
    known = pd.Series(known_ids, dtype=object).astype(str)
    if ids.empty:
        return np.empty(0, int), []
    missing = ids.isna()
    if missing.any():
        raise UserError(f"{source}: row {int(missing.argmax()) + 1} has no id")
    once, rows = np.unique(ids.map(class_name), return_inverse=True)  # a cell may be in many pairs
    places = match_names(once, known)[rows]
    unknown = list(ids.astype(str)[places < 0])
    if unknown:
        raise UserError(
            f"{source}: {count_and_name('ids are not in the run', unknown)}; "
            f"its cells are named like {known.iloc[0]}"
        )
    return places, known.iloc[places].tolist()
