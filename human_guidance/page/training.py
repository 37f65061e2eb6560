"""Fine-tuning in a process of its own, which a progress file reports.

Each attempt has a number, and files in `fine_tuning/` of the run folder: a copy of the feedback,
the progress, and the output of the process. The process locks one of them as long as it lives, even
without the server. The lock tells a restarted server whether the process still runs, and prevents
it from cancelling another process that has the same process id.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from util.errors import UserError, explain_os_error
from util.runs import numbered_runs, read_json, write_json

SCRIPT = Path(__file__).parents[1] / "VAE_feedback_framework.py"
MOST_EPOCHS = 10_000
STAGES = {
    "starting": "Starting",
    "loading": "Reading the cells",
    "training": "Training",
    "scoring": "Scoring the new latent space",
    "drawing": "Drawing the figures",
    "done": "Done",
    "failed": "Failed",
    "cancelled": "Cancelled",
}
FINAL = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class Progress:
    """Progress of an attempt.

    Attributes:
        stage: a key of STAGES.
        epoch, epochs: trained so far, and in all; 0 before training.
        folder: the new run folder; None before it exists.
        message: the error of a failed attempt.
    """

    stage: str
    epoch: int = 0
    epochs: int = 0
    folder: Path | None = None
    message: str = ""

    @property
    def running(self) -> bool:
        """Whether the process is still at work."""
        return self.stage not in FINAL

    @property
    def share(self) -> float:
        """Share of the work that is done, 0..1; training is three quarters."""
        if self.stage == "done":
            return 1.0
        if self.stage == "training":
            return 0.05 + 0.75 * self.epoch / max(1, self.epochs)
        return {"scoring": 0.82, "drawing": 0.93}.get(self.stage, 0.02)


class FineTuning:
    """Attempts to fine-tune one run.

    Args:
        run_folder: of the run to guide.
        script: that fine-tunes.
    """

    def __init__(self, run_folder: Path, script: Path = SCRIPT):
        self.run_folder, self.script = run_folder, script
        self.folder = run_folder / "fine_tuning"
        self.process: subprocess.Popen | None = None

    def start(self, feedback: Path, epochs: int) -> None:
        """Start an attempt with a copy of the feedback.

        Raises:
            UserError: another attempt is running, or the number of epochs is impossible.
        """
        if not isinstance(epochs, int) or not 1 <= epochs <= MOST_EPOCHS:
            raise UserError(f"epochs {epochs}: give a whole number from 1 to {MOST_EPOCHS:,}")
        with explain_os_error(self.folder):
            self.folder.mkdir(exist_ok=True)
            with _exclusive(self.folder / ".lock"):
                before = self.progress()
                if before is not None and before.running:
                    raise UserError("fine-tuning is running: wait, or cancel it first")
                self._launch(feedback, epochs)

    def _launch(self, feedback: Path, epochs: int) -> None:
        number = 1 + (int(self._newest().stem) if self._newest() else 0)
        job = self.folder / f"{number:04d}"
        used, progress = job.with_suffix(".csv"), job.with_suffix(".jsonl")
        shutil.copyfile(feedback, used)
        command = [sys.executable, str(self.script), "--run", str(self.run_folder)]
        command += ["--feedback", str(used), "--epochs", str(epochs)]
        command += ["--progress-file", str(progress)]
        with (
            open(job.with_suffix(".log"), "ab") as log,
            open(job.with_suffix(".lock"), "ab") as held,
        ):
            _lock(held)
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # inherited, so that the lock lives as long as the process
                pass_fds=(held.fileno(),) if os.name == "posix" else (),
                start_new_session=True,  # outlives the server
            )
            write_json(job.with_suffix(".json"), {"pid": self.process.pid, "epochs": epochs})

    def progress(self) -> Progress | None:
        """Progress of the newest attempt; None before the first."""
        newest = self._newest()
        if newest is None:
            return None
        alive = self._alive(newest)  # before reading, so that its last lines are not missed
        state: dict[str, Any] = {"stage": "starting"}
        with contextlib.suppress(FileNotFoundError):  # the process has not started writing
            text = newest.with_suffix(".jsonl").read_text(encoding="utf-8")
            for line in text.splitlines():
                with contextlib.suppress(json.JSONDecodeError):  # half a line
                    state |= json.loads(line)
        stage, message = state["stage"], str(state.get("error", ""))
        if stage not in FINAL and not alive:
            stage, message = "failed", self._last_words(newest)
        folder = Path(state["folder"]) if state.get("folder") else None
        epoch, epochs = int(state.get("epoch", 0)), int(state.get("epochs", 0))
        return Progress(stage, epoch, epochs, folder=folder, message=message)

    def cancel(self) -> None:
        """Stop the running attempt; its unfinished run folder stays."""
        newest = self._newest()
        if newest is not None and self._alive(newest):
            pid = read_json(newest)["pid"]
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _newest(self) -> Path | None:
        found = sorted(self.folder.glob("[0-9]*.json")) if self.folder.is_dir() else []
        return found[-1] if found else None

    def _alive(self, job: Path) -> bool:
        if self.process is not None and self.process.poll() is None:
            return True
        return _is_locked(job.with_suffix(".lock"))

    def _last_words(self, job: Path) -> str:
        log = job.with_suffix(".log")
        lines = (
            log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
        )
        said = [line.strip() for line in lines if line.strip()]
        return said[-1][:300] if said else "the process ended without a message"


def guided_runs(run_folder: Path) -> list[Path]:
    """Finished runs in the same folder that were fine-tuned from this run, oldest first."""
    found = []
    for folder in numbered_runs(run_folder.resolve().parent):
        if not (folder / "report.html").is_file() or not (folder / "settings.json").is_file():
            continue
        guidance = read_json(folder / "settings.json").get("guidance") or {}
        if guidance and Path(str(guidance.get("run", ""))).name == run_folder.resolve().name:
            found.append(folder)
    return found


@contextlib.contextmanager
def _exclusive(path: Path):
    with open(path, "a+b") as file:
        _lock(file, wait=True)
        yield


def _lock(file: Any, wait: bool = False) -> None:
    if os.name != "posix":  # elsewhere the handle of the process serves
        return
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def _is_locked(path: Path) -> bool:
    if os.name != "posix" or not path.is_file():
        return False
    import fcntl

    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
