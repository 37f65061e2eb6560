"""The log of a training for TensorBoard, which is optional."""

from pathlib import Path
from typing import Any

from util.errors import UserError


def summary_writer() -> type:
    """PyTorch's writer for TensorBoard.

    Raises:
        UserError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "`tensorboard`: the package is missing; pip install tensorboard, or leave it out"
        ) from error
    return SummaryWriter


class TensorBoardLog:
    """Writes each line of the log as scalars: `kl/valid` and the like, the step is the epoch.

    Args:
        folder: the run folder; event files of a run that was resumed continue each other there.

    Raises:
        UserError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path):
        self.folder, self.new_writer, self.writer = folder, summary_writer(), None

    def __call__(self, entry: dict[str, Any]) -> None:
        """Write the line of one epoch; it is on the disk on return."""
        epoch = entry["epoch"]
        if self.writer is None:  # an epoch that is repeated replaces its earlier values
            self.writer = self.new_writer(self.folder, purge_step=epoch)
        for side in ("train", "valid"):
            for name, value in entry[side].items():
                self.writer.add_scalar(f"{name}/{side}", value, epoch)
        self.writer.add_scalar("learning_rate", entry["learning_rate"], epoch)
        self.writer.flush()
