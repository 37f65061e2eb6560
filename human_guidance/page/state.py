"""The state of the guidance page's server, beside the files on disk."""

import json
import traceback
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from dash import set_props

from human_guidance.feedback_helpers import read_feedback
from human_guidance.page.feedback import FeedbackList, Group, groups_of
from human_guidance.page.figures import Points, coloured_points
from human_guidance.page.run import GuidedRun, codes_of
from human_guidance.page.selection import Differences, parse_strokes, select
from human_guidance.page.training import FineTuning, guided_runs
from util.errors import UserError
from util.tables import read_table

MOST_SELECTED = 3_000  # selected cells that are drawn above the others


class PageState:
    """The run to guide, its feedback and its fine-tuning.

    Nothing here belongs to one browser: a page sends its selection with each request. Any number of
    pages share one server, and a restarted server continues.

    Args:
        run: the run to guide.
        feedback: the list of groups on disk.
        tuning: attempts to fine-tune the run.
    """

    def __init__(self, run: GuidedRun, feedback: FeedbackList, tuning: FineTuning):
        self.run, self.feedback, self.tuning = run, feedback, tuning
        self._selected: tuple[str, np.ndarray] = ("", np.zeros(len(run.ids), bool))

    @cached_property
    def differences(self) -> Differences:
        """Ranks of all cells in every feature, computed once."""
        return Differences(self.run.described)

    def groups(self) -> list[Group]:
        """The groups on disk; none if the file is damaged, which the list reports."""
        try:
            return self.feedback.read()[0]
        except UserError:
            return []

    def selection(self, strokes: Any) -> np.ndarray:
        """(N,) bool: the cells selected by the strokes of a page."""
        run = self.run
        parsed = parse_strokes(strokes, len(run.ids), run.latent_dim)
        shown = {stroke.group for stroke in parsed if stroke.group is not None}
        groups = {group.name: group.cells for group in self.groups()} if shown else {}
        cells = {name: groups[name].tolist() for name in shown & groups.keys()}
        key = json.dumps([strokes, cells], sort_keys=True)
        if self._selected[0] != key:  # several callbacks ask for the same one
            self._selected = (key, select(parsed, run.codes, run.labels, groups))
        return self._selected[1]

    def points(self, rows: np.ndarray, column: str | None) -> Points:
        """Cells in the colours of a column, to draw."""
        return coloured_points(rows, self.run.codes, self.run.colouring(column))

    def selected_rows(self, selected: np.ndarray) -> np.ndarray:
        """Rows of the selected cells to draw, at most `MOST_SELECTED`, evenly spaced."""
        rows = np.flatnonzero(selected)
        return rows[:: max(1, -(-len(rows) // MOST_SELECTED))]

    def others(self) -> dict[str, Path]:
        """Finished runs fine-tuned from this one, by name, newest first."""
        return {folder.name: folder for folder in reversed(guided_runs(self.run.folder))}

    def codes_after(self, folder: Path) -> np.ndarray:
        """(N, d) codes of a fine-tuned run, in the order of this run's cells.

        Raises:
            UserError: it lacks a cell.
        """
        table = read_table(folder / "latents.csv")
        table.index = pd.Index(table["Unique_ID"])
        return codes_of(table.reindex(self.run.ids), folder)

    def groups_used(self, folder: Path) -> list[Group]:
        """The groups of the feedback of a fine-tuned run."""
        path, run = folder / "feedback.csv", self.run
        return groups_of(read_feedback(path, run.ids, run.latent_dim)) if path.is_file() else []

    def explain(self, error: Exception) -> None:
        """Show an error of a callback on the page; Dash calls this."""
        if not isinstance(error, UserError):
            traceback.print_exception(error)
            error = UserError("The server failed; its terminal shows the error.")
        set_props("message", {"children": str(error), "className": "message shown error"})
