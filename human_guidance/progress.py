"""Progress of fine-tuning: a line of JSON for each step, and an orderly end.

`feedback_helpers` lists the steps.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from util import processes
from util.errors import explain_os_error

Report = Callable[[dict[str, Any]], None]


class ProgressReport:
    """Reports each step as it begins, to files and to a listener.

    Args:
        path: file of the progress, which is emptied; None for none.
        listener: called with each step; None for none.
    """

    def __init__(self, path: str | None, listener: Report | None):
        self.paths = [Path(path)] if path else []
        self.listener, self.common = listener, {}
        if path and processes.is_main():
            with explain_os_error(Path(path)):
                Path(path).write_text("", encoding="utf-8")

    def enter(self, folder: Path, epochs: int) -> None:
        """From now on, also write into the run folder."""
        self.paths.append(folder / "progress.jsonl")
        self.common = {"folder": str(folder), "epochs": epochs}

    def __call__(self, **step: Any) -> None:
        """Report a step; of several processes only the main one does."""
        if not processes.is_main():
            return
        step |= self.common
        for path in self.paths:
            append_step(path, **step)
        if self.listener:
            self.listener(step)


def append_step(path: Path, **step: Any) -> None:
    """Add a line to a progress file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(step) + "\n")
