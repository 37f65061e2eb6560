"""TensorBoard is optional: its scalars are those of the log; without it, one line says so."""

import sys

import pytest

from util.errors import UserError
from util.tensorboard_log import TensorBoardLog

LOG = [
    {
        "epoch": epoch,
        "train": {"loss": 30.0 / epoch, "kl": 2.0},
        "valid": {"loss": 40.0 / epoch, "kl": 1.0},
        "learning_rate": 1e-3,
    }
    for epoch in (1, 2, 3)
]


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="^`tensorboard`: .*pip install tensorboard"):
        TensorBoardLog(tmp_path)


def test_scalars_are_those_of_the_log_also_after_a_resume(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for part in (LOG[:2], LOG[1:]):  # epoch 2 is done again
        log = TensorBoardLog(tmp_path)
        for entry in part:
            log(entry)
    events = EventAccumulator(str(tmp_path)).Reload()
    names = {f"{term}/{side}" for term in ("loss", "kl") for side in ("train", "valid")}
    assert set(events.Tags()["scalars"]) == names | {"learning_rate"}
    shown = [(event.step, event.value) for event in events.Scalars("loss/valid")]
    assert shown == [(1, 40.0), (2, 20.0), (3, pytest.approx(40 / 3))]
