"""Write a data set of single cells, completely or not at all.

    out/.<name>.partial/plan.json     what this conversion is made of
    out/.<name>.partial/cells/...     the images, while they are being written
    out/.<name>.partial/done/...      a table per finished group of cells (a well, a field)
    out/.<name>.partial/tables/...    the CSV files, once all groups are done
      --rename--> out/<name>/, the tables, and last of all the metadata
      --rename--> out/.<name>.over/, which is removed

A killed conversion goes on with the groups that are not done. A finished data set is never changed.
Nothing is written beside the raw data.
"""

import io
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
from filelock import FileLock
from tqdm import tqdm

from util import processes
from util.errors import UserError, explain_os_error
from util.files import claim, refuse_path, write_atomically

GO_ON = "free some and run the same command again, it goes on where it stopped"
WAITING = 4  # groups in the queue per worker: enough to keep it busy, few enough for flat memory

# One cell: its row of the metadata with `Unique_ID`, `folder` (of its class) and `reason`, empty
# if it could be cut; and its image (H, W, C), None if not.
Cut = tuple[dict[str, Any], np.ndarray | None]


@dataclass(frozen=True)
class Target:
    """Where a data set goes, by its final names.

    Attributes:
        out: the folder of data sets, e.g. DataSets.
        name: folder of the cells in it.
        tables: names of the files beside it; the metadata is the last.
        subsets: folders for copies of some of the cells.
    """

    out: Path
    name: str
    tables: tuple[str, ...]
    subsets: tuple[str, ...] = ()

    @property
    def partial(self) -> Path:
        """The hidden folder of an unfinished conversion."""
        return self.out / f".{self.name}.partial"

    @property
    def over(self) -> Path:
        """That folder once it is being removed; its content no longer counts."""
        return self.out / f".{self.name}.over"

    @property
    def finals(self) -> list[Path]:
        """Everything that is published, in the order of publication."""
        return [self.out / name for name in (self.name, *self.subsets, *self.tables)]


@dataclass
class Outcome:
    """What became of the cells.

    Attributes:
        cells: rows of the cells that were written, in the order of the groups.
        unmatched: rows of the others, with `reason`.
    """

    cells: pd.DataFrame
    unmatched: pd.DataFrame


# The tables of a data set by file name (None: no such table; text is written as it is), and the
# rows of `Outcome.cells` in each subset.
Finish = Callable[[Outcome], tuple[dict[str, pd.DataFrame | str | None], dict[str, pd.DataFrame]]]


def write_data_set(
    target: Target,
    settings: Any,
    inputs: Any,
    groups: Sequence[tuple[str, Any]],
    cut: Callable[[Any], Iterator[Cut]],
    finish: Finish,
) -> Outcome:
    """Cut all cells, group by group in a pool of processes, and publish the data set at the end.

    The same command goes on where a killed one stopped, and gives the same files.

    Args:
        target: where it goes.
        settings: dataclass of the script, with the fields `workers` (None for one per CPU) and
            `progress`.
        inputs: what else the cells depend on (`file_stamp`). A conversion is continued only where
            settings and inputs are the same.
        groups: name and content of each group; the name, unique, becomes a file name.
        cut: turns the content of a group into cells; picklable, it runs in the pool.
        finish: turns the outcome of all groups into the tables, and the subsets.

    Returns:
        What became of the cells.

    Raises:
        UserError: the data set exists, another conversion is unfinished, the disk is full or
            read-only, no cell could be cut, or `cut` found a user's mistake.
    """
    if settings.workers is not None and settings.workers < 1:
        raise UserError(f"--workers {settings.workers}: 1 or more")
    workers = settings.workers or os.cpu_count() or 1
    lock = _begin(target, [asdict(settings) | {"workers": None, "progress": None}, inputs])
    try:
        with explain_os_error(target.out, GO_ON):
            staged = (target.partial / "publish.json").is_file()
            if not staged:
                _cut_groups(target, groups, cut, workers, settings.progress)
            outcome = _collect(target, [name for name, _ in groups])
            if not staged:
                _stage(target, outcome, finish)
            lock.release()
            _publish(target)
            return outcome
    except KeyboardInterrupt as stop:
        processes.exit_saying(
            "stopped; nothing is lost: the same command goes on where it stopped",
            processes.code_of(stop),
        )


def refuse_finished(target: Target) -> None:
    """Stop if the data set, or a part of it, exists.

    A hidden folder that a killed conversion was removing is removed.

    Raises:
        UserError: the data set exists; not while its own publication is unfinished.
    """
    shutil.rmtree(target.over, ignore_errors=True)
    there = [path for path in target.finals if path.exists()]
    if there and not (target.partial / "publish.json").is_file():
        raise UserError(
            f"{there[0]} is there already and stays as it is: rename or remove it, or give another "
            "folder with --out"
        )


def file_stamp(*paths: Path) -> list[list[Any]]:
    """Name, size and time of files that a conversion depends on."""
    stats = [(path, path.stat()) for path in paths]
    return [[str(path.resolve()), stat.st_size, stat.st_mtime_ns] for path, stat in stats]


def _begin(target: Target, stamp: Any) -> FileLock:
    """Take up an unfinished conversion, or start one; returns the lock of its folder."""
    refuse_finished(target)
    with explain_os_error(target.out, GO_ON):
        target.partial.mkdir(parents=True, exist_ok=True)
    lock = claim(target.partial, f"{target.partial}: this conversion is running; wait for its end")
    plan = json.dumps(stamp, indent=2, default=str)
    file = target.partial / "plan.json"
    if file.is_file():
        if file.read_text(encoding="utf-8") != plan:
            raise UserError(
                f"{target.partial} holds an unfinished conversion with other settings or from "
                "other tables: finish it with those, or remove it"
            )
        return lock
    with explain_os_error(target.out, GO_ON):
        for folder in ("cells", "done", "tables"):
            (target.partial / folder).mkdir(parents=True, exist_ok=True)
        with write_atomically(file) as temporary:
            temporary.write_text(plan, encoding="utf-8")
    return lock


def _cut_groups(
    target: Target,
    groups: Sequence[tuple[str, Any]],
    cut: Callable[[Any], Iterator[Cut]],
    workers: int,
    progress: bool,
) -> None:
    # a hidden table is one that was still being written
    done = {path.stem for path in (target.partial / "done").glob("[!.]*.csv")}
    todo = [group for group in groups if group[0] not in done]
    if len(todo) < len(groups):
        print(f"going on: {len(groups) - len(todo)} of {len(groups)} groups of cells were done")
    with tqdm(
        total=len(groups),
        initial=len(groups) - len(todo),
        desc=f"cutting {target.name}",
        unit=" images",
        disable=not progress or not todo,
    ) as bar:
        for cells in _in_pool(target.partial, todo, cut, min(workers, len(todo))):
            bar.update()
            bar.set_postfix_str(f"{cells} cells in the last", refresh=False)


def _in_pool(
    partial: Path, todo: list[tuple[str, Any]], cut: Callable[[Any], Iterator[Cut]], workers: int
) -> Iterator[int]:
    """Cut the groups, a few in the queue at a time; yields the number of cells of each."""
    if workers <= 1:
        yield from (_cut_group(partial, name, content, cut) for name, content in todo)
        return
    pool = ProcessPoolExecutor(workers, initializer=_start_worker)
    running, left = set(), iter(todo)
    try:
        while True:
            for name, content in left:
                running.add(pool.submit(_cut_group, partial, name, content, cut))
                if len(running) >= WAITING * workers:
                    break
            if not running:
                return
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
    except BrokenProcessPool:
        raise UserError(
            "a worker was killed, perhaps for want of memory: the same command goes on where it "
            "stopped; give fewer --workers"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C and SIGTERM to the main process, and end when the main process is killed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _cut_group(partial: Path, name: str, content: Any, cut: Callable[[Any], Iterator[Cut]]) -> int:
    """Write the cells of a group, then its table, which says that it is done."""
    rows = []
    with explain_os_error(partial, GO_ON):
        for row, image in cut(content):
            if image is not None:
                refuse_path(row["Unique_ID"], "Unique_ID of a cell,")
                if row["folder"]:  # else all cells share one
                    refuse_path(row["folder"], "folder of a cell,")
                folder = partial / "cells" / row["folder"]
                folder.mkdir(exist_ok=True)
                write_cell(folder / row["Unique_ID"], image)
            rows.append(row)
        table = pd.DataFrame(rows, dtype=object)  # integers stay such beside empty values
        file = partial / "done" / f"{name}.csv"
        with write_atomically(file) as temporary:
            table.to_csv(temporary, index=False)
    return len(rows)


def write_cell(path: Path, image: np.ndarray) -> None:
    """One cell, (H, W, C) uint8 or uint16, as an uncompressed TIFF of interleaved channels."""
    channels = image.shape[-1]
    file = io.BytesIO()  # one write to the disk, whose error says why it failed
    tifffile.imwrite(
        file,
        image if channels > 1 else image[..., 0],
        photometric="rgb" if channels == 3 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        metadata=None,
    )
    path.write_bytes(file.getbuffer())


def _collect(target: Target, names: list[str]) -> Outcome:
    """Read the tables of all groups; refuse an outcome without a single cell."""
    tables = []
    for name in names:
        file = target.partial / "done" / f"{name}.csv"
        if file.stat().st_size > 1:  # a group may have no cell at all
            # As text: whether a column is one of numbers shows only when all groups are together.
            tables.append(pd.read_csv(file, dtype=str, keep_default_na=False, na_values=[""]))
    rows = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"reason": []})
    rows = rows.apply(_numbers_or_text)
    rows["reason"] = rows["reason"].fillna("")
    missed = rows["reason"] != ""
    if missed.all():
        _remove_partial(target)
        why = rows["reason"].value_counts()
        raise UserError(
            "no cell could be cut: "
            + (
                "; ".join(f"{n} times: {reason}" for reason, n in why[:3].items())
                or "there is none"
            )
        )
    return Outcome(
        cells=rows[~missed].drop(columns="reason").reset_index(drop=True),
        unmatched=rows[missed].drop(columns="folder").reset_index(drop=True),
    )


def _numbers_or_text(column: pd.Series) -> pd.Series:
    """Integers, floats or text: the first of these that spells every value of a column the same.

    Text such as "NA" or "None" may be a class, so only an empty field is missing. A number that
    Python would spell otherwise is a name: plate 001, clone 1E1, dose 1.50.
    """
    values = column.dropna()
    if column.name == "reason" or values.empty:
        return column
    if values.str.fullmatch(r"-?(0|[1-9]\d{0,17})").all():
        return column.astype("Int64" if len(values) < len(column) else np.int64)
    spelt = r"-?(0|[1-9]\d*)(\.(0|\d*[1-9])|(\.\d*[1-9])?e[+-]\d+)|-?inf"
    if values.str.fullmatch(spelt).all():
        return column.astype(np.float64)  # exact, unlike pandas' parser
    return column


def _stage(target: Target, outcome: Outcome, finish: Finish) -> None:
    """Write tables and subsets into the hidden folder, then the note that all is complete."""
    tables, subsets = finish(outcome)
    for name in target.tables:
        path = target.partial / "tables" / name
        if isinstance(tables[name], str):
            path.write_text(f"{tables[name]}\n", encoding="utf-8")
        elif tables[name] is not None:
            tables[name].to_csv(path, index=False)
    for name in target.subsets:
        staged = target.partial / "subsets" / name
        shutil.rmtree(staged, ignore_errors=True)
        for folder, unique_id in subsets[name][["folder", "Unique_ID"]].itertuples(index=False):
            (staged / folder).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(
                target.partial / "cells" / folder / unique_id, staged / folder / unique_id
            )
    text = json.dumps([str(path) for path in target.finals])
    with write_atomically(target.partial / "publish.json") as temporary:
        temporary.write_text(text, encoding="utf-8")


def _publish(target: Target) -> None:
    """Rename everything to its final name, the metadata last, and remove the hidden folder."""
    staged = [
        target.partial / "cells",
        *(target.partial / "subsets" / name for name in target.subsets),
        *(target.partial / "tables" / name for name in target.tables),
    ]
    for source, final in zip(staged, target.finals, strict=True):
        if not source.exists():  # renamed before a kill, or a table that this set has not
            continue
        if final.exists():
            raise UserError(f"{final} has come to be there meanwhile: rename or remove it")
        os.rename(source, final)
    _remove_partial(target)


def _remove_partial(target: Target) -> None:
    """Remove the hidden folder; a kill meanwhile leaves none that looks unfinished."""
    os.rename(target.partial, target.over)
    shutil.rmtree(target.over)


def convert_from_command_line(convert: Callable[[Any], Outcome], default: Any) -> None:
    """Run a conversion with the settings of the command line and report the cells.

    Args:
        convert: the `main` of a script.
        default: its SETTINGS; cells are counted by `class_column` if they have one, else GT_label.
    """
    import tyro

    about = sys.modules[type(default).__module__].__doc__.split("\n\n")[0]
    settings = tyro.cli(type(default), default=default, description=about)
    outcome = convert(settings)
    print(*describe_outcome(outcome, getattr(settings, "class_column", "GT_label")), sep="\n")


def describe_outcome(outcome: Outcome, label: str | None) -> list[str]:
    """Lines for the user: cells by class, and lost cells by reason."""
    cells, lost = outcome.cells, outcome.unmatched
    lines = [f"{len(cells)} cells written, {len(lost)} left out"]
    if len(lost):
        # Names and numbers within a reason differ from cell to cell.
        kinds = lost["reason"].str.replace(r"\(.*\)|\S*[/\\]\S*", "...", regex=True)
        lines += [f"  {n} cells: {reason}" for reason, n in kinds.value_counts().items()]
    if label and label in cells:
        counts = cells[label].value_counts().sort_index()
        missed = lost[label].value_counts() if label in lost else {}
        lines += [
            f"  {label} {value}: {n} cells, {missed.get(value, 0)} left out"
            for value, n in counts.items()
        ]
    return lines
