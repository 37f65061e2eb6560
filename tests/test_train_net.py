"""The training loop: learns, restores the best, resumes exactly, stops early, refuses NaN."""

import json
import weakref
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from models.infoMAX_VAE import InfoMaxObjective
from models.losses import ELBOObjective
from models.networks import build_vae
from models.train_net import (
    Schedule,
    _Training,
    best_epoch,
    embed,
    evaluate,
    read_history,
    refuse_unusable_checkpoint,
    train,
)
from util.data_processing import CellBatches, Cells
from util.errors import UserError
from util.mutual_information import InformationEstimator
from util.runs import load_checkpoint, save_checkpoint, seed_everything
from util.splitting import split_cells


@pytest.fixture
def cells():
    return squares(60)


def squares(number):
    rng = np.random.default_rng(0)
    images = np.zeros((number, 1, 32, 32), np.uint8)
    for image in images:
        size = rng.integers(6, 14)
        image[0, 16 - size : 16 + size, 16 - size : 16 + size] = rng.integers(60, 255)
    return Cells(
        images=images,
        table=pd.DataFrame({"Unique_ID": [f"{i}" for i in range(number)]}),
        name="squares",
        masked=True,
        padding=np.zeros(1),
        low=np.zeros(1),
        high=np.full(1, 255.0),
        channels=["grey"],
    )


def run(
    cells,
    folder,
    epochs,
    infomax=False,
    seed=0,
    patience=30,
    learning_rate=1e-3,
    freeze_norm=None,
    batch_size=16,
    probabilities=None,
    bfloat16=False,
    keep_checkpoint=True,
):
    folder.mkdir(exist_ok=True)
    seed_everything(seed)
    model = build_vae(image_size=32, channels=1, base=4)
    objective = ELBOObjective()
    if infomax:
        objective = InfoMaxObjective(
            InformationEstimator((1, 32, 32), 3), alpha=5.0, beta=1.0, critic_learning_rate=5e-4
        )
    batches = CellBatches(cells, torch.device("cpu"), batch_size, augmentation=True)
    split = split_cells(None, len(cells.table), 0.2, seed)
    schedule = Schedule(
        epochs,
        learning_rate,
        decay_every=2,
        patience=patience,
        seed=seed,
        freeze_norm_after=freeze_norm,
        bfloat16=bfloat16,
    )
    history = train(
        model,
        objective,
        batches,
        split,
        schedule=schedule,
        folder=folder,
        progress=False,
        probabilities=probabilities,
        keep_checkpoint=keep_checkpoint,
    )
    return model, objective, batches, split, history


def test_it_learns_and_logs_every_term(cells, tmp_path):
    model, _, _, _, history = run(cells, tmp_path / "r", 6, infomax=True)
    assert history[-1]["valid"]["loss"] < 0.8 * history[0]["valid"]["loss"]
    lines = [json.loads(line) for line in (tmp_path / "r" / "log.jsonl").read_text().splitlines()]
    assert lines == history and [entry["epoch"] for entry in lines] == [1, 2, 3, 4, 5, 6]
    terms = {"loss", "reconstruction", "kl", "mutual_information"}
    assert set(lines[0]["train"]) == set(lines[0]["valid"]) == terms
    rates = [entry["learning_rate"] for entry in lines]
    np.testing.assert_allclose(rates, [1e-3, 1e-3, 6e-4, 6e-4, 3.6e-4, 3.6e-4])


def test_the_best_model_is_returned_not_the_last(cells, tmp_path):
    model, objective, batches, split, history = run(cells, tmp_path / "r", 8, learning_rate=0.02)
    best = history[best_epoch(history) - 1]["valid"]["loss"]
    assert best == min(entry["valid"]["loss"] for entry in history)
    now = evaluate(model, objective, batches.in_order(split[1]))["loss"]
    assert now == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("infomax, drawn", [(False, False), (True, False), (False, True)])
def test_resumed_equals_undisturbed(cells, tmp_path, infomax, drawn):
    train_cells = split_cells(None, len(cells.table), 0.2, 0)[0]
    weights = np.linspace(1, 3, len(train_cells))
    asked = {"infomax": infomax, "probabilities": weights / weights.sum() if drawn else None}
    whole, *_, history = run(cells, tmp_path / "whole", 5, **asked)
    run(cells, tmp_path / "parts", 2, **asked)
    torch.rand(7)  # what happens between does not matter
    parts, *_, resumed = run(cells, tmp_path / "parts", 5, **asked)
    for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert [h["valid"] for h in history] == [h["valid"] for h in resumed]


def test_cells_are_drawn_by_their_probabilities(cells, tmp_path, monkeypatch):
    """Of the training cells only: every epoch anew, and validation sees each cell once."""
    learnt, judged = [], []
    shuffled, in_order = CellBatches.shuffled, CellBatches.in_order
    monkeypatch.setattr(
        CellBatches, "shuffled", lambda self, rows: learnt.append(rows) or shuffled(self, rows)
    )
    monkeypatch.setattr(
        CellBatches, "in_order", lambda self, rows: judged.append(rows) or in_order(self, rows)
    )
    train_cells, valid_cells = split_cells(None, len(cells.table), 0.2, 0)
    probabilities = np.where(np.arange(len(train_cells)) % 2, 3.0, 1.0)
    run(cells, tmp_path / "r", 3, probabilities=probabilities / probabilities.sum())
    odd = [np.isin(rows, train_cells[1::2]).mean() for rows in learnt]
    assert odd == pytest.approx([0.75] * 3, abs=0.1)  # 48 cells
    assert all(len(rows) == len(train_cells) for rows in learnt)
    assert not np.array_equal(learnt[0], learnt[1])
    assert all(np.array_equal(rows, valid_cells) for rows in judged) and len(judged) == 3


def test_batch_norm_keeps_its_statistics_when_asked(cells, tmp_path):
    states = {}
    for name, epochs, after in (("one", 1, None), ("frozen", 3, 1), ("free", 3, None)):
        run(cells, tmp_path / name, epochs, patience=99, freeze_norm=after)
        states[name] = load_checkpoint(tmp_path / name / "checkpoint.pt")["model"]
    statistics = [key for key in states["one"] if "running" in key]
    weights = [key for key in states["one"] if key.endswith(".weight")]
    assert statistics and weights
    for key in statistics:
        assert torch.equal(states["frozen"][key], states["one"][key]), key
        assert not torch.equal(states["free"][key], states["one"][key]), key
    for key in weights:
        assert not torch.equal(states["frozen"][key], states["one"][key]), key


def test_same_seed_same_weights_other_seed_others(cells, tmp_path):
    a, *_ = run(cells, tmp_path / "a", 2)
    b, *_ = run(cells, tmp_path / "b", 2)
    c, *_ = run(cells, tmp_path / "c", 2, seed=1)
    weights = [torch.cat([p.flatten() for p in m.parameters()]) for m in (a, b, c)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_early_stopping(cells, tmp_path):
    *_, history = run(cells, tmp_path / "r", 40, patience=1, learning_rate=0.05)
    assert len(history) < 40 and len(history) - best_epoch(history) == 1
    *_, again = run(cells, tmp_path / "r", 40, patience=1, learning_rate=0.05)
    assert len(again) == len(history)


def test_non_finite_loss_stops_and_keeps_the_last_good_checkpoint(cells, tmp_path):
    run(cells, tmp_path / "r", 1)
    state = load_checkpoint(tmp_path / "r" / "checkpoint.pt")

    class Explodes(ELBOObjective):
        def forward(self, model, x):
            terms = super().forward(model, x)
            return terms | {"loss": terms["loss"] * float("inf")}

    seed_everything(0)
    model = build_vae(image_size=32, channels=1, base=4)
    batches = CellBatches(cells, torch.device("cpu"), 16, augmentation=True)
    split = split_cells(None, 60, 0.2, 0)
    with pytest.raises(UserError, match="epoch 2, batch 1: loss inf, reconstruction"):
        train(
            model,
            Explodes(),
            batches,
            split,
            schedule=Schedule(3, 1e-3, decay_every=2),
            folder=tmp_path / "r",
            progress=False,
        )
    kept = load_checkpoint(tmp_path / "r" / "checkpoint.pt")
    assert all(torch.equal(state["model"][k], kept["model"][k]) for k in state["model"])


OUT_OF_MEMORY = (
    (torch.OutOfMemoryError, "CUDA out of memory"),
    (RuntimeError, "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
)


@pytest.mark.parametrize("kind, words", OUT_OF_MEMORY)
def test_out_of_memory_halves_the_batch_and_says_so(
    cells, tmp_path, capsys, monkeypatch, kind, words
):
    held = []

    class Greedy(ELBOObjective):
        largest = 20

        def forward(self, model, x):
            terms = super().forward(model, x)
            held.append(weakref.ref(terms["loss"]))
            if model.training and len(x) > self.largest:
                raise kind(words)
            return terms

    halve = _Training.halve_batches

    def look_and_halve(training, epoch):
        assert held[-1]() is None  # else the recovery would find the memory as full as it was
        halve(training, epoch)

    monkeypatch.setattr(_Training, "halve_batches", look_and_halve)

    def attempt(folder, batch_size, objective):
        folder.mkdir()
        seed_everything(0)
        model = build_vae(image_size=32, channels=1, base=4)
        batches = CellBatches(cells, torch.device("cpu"), batch_size, augmentation=True)
        split = split_cells(None, 60, 0.2, 0)
        return train(
            model,
            objective,
            batches,
            split,
            schedule=Schedule(2, 1e-3),
            folder=folder,
            progress=False,
        )

    history = attempt(tmp_path / "greedy", 40, Greedy())
    assert "epoch 1: out of memory" in capsys.readouterr().out
    assert [entry["batch_size"] for entry in history] == [20, 20]
    plain = attempt(tmp_path / "plain", 20, ELBOObjective())
    assert [h["valid"] for h in history] == [h["valid"] for h in plain]  # nothing of the failed try
    Greedy.largest = 4
    with pytest.raises(UserError, match="too small for batches of 20"):
        attempt(tmp_path / "never", 40, Greedy())


@pytest.mark.parametrize("infomax", [False, True])
def test_bfloat16_follows_float32(tmp_path, infomax):
    """Weights that are cast for one step serve that step alone.

    The step is small, for at 1e-3 float32 itself strays by 0.7 % where its first weights change by
    a thousandth. With the weights of an epoch's first step in all its steps it is 13 %.
    """
    histories = {}
    for low in (False, True):
        model, objective, batches, split, histories[low] = run(
            squares(320),
            tmp_path / f"{low}",
            6,
            infomax=infomax,
            learning_rate=3e-4,
            batch_size=64,
            bfloat16=low,
        )
        assert next(model.parameters()).dtype == torch.float32
        if not infomax:  # its critic is that of the last epoch, not of the best
            best = min(entry["valid"]["loss"] for entry in histories[low])
            again = evaluate(model, objective, batches.in_order(split[1]), low)["loss"]
            assert again == pytest.approx(best, rel=1e-6)
    full, low = (
        [entry["train"]["reconstruction"] for entry in histories[which]] for which in (False, True)
    )
    assert low != full
    np.testing.assert_allclose(low, full, rtol=0.01)


def test_bfloat16_on_the_cpu_has_the_same_loss_at_the_same_weights(cells):
    seed_everything(0)
    model = build_vae(image_size=32, channels=1, base=4).eval()
    x = CellBatches(cells, torch.device("cpu"), 60, False).take(torch.arange(60))
    terms = {}
    for low in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=low), torch.no_grad():
            terms[low] = {k: v.item() for k, v in ELBOObjective()(model, x).items()}
    assert terms[True] != terms[False]
    assert terms[True] == pytest.approx(terms[False], rel=0.005)


def resident_mib():
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_memory_stays_flat_over_200_epochs(cells, tmp_path, monkeypatch):
    seen = []

    def look_and_save(path, state):
        seen.append(resident_mib())
        save_checkpoint(path, state)

    monkeypatch.setattr("models.train_net.save_checkpoint", look_and_save)
    monkeypatch.setattr("models.train_net.SAVE_EVERY", 0)
    *_, history = run(cells, tmp_path / "r", 220, patience=1000, batch_size=48)
    assert len(history) == 220
    # Keeping the images of each of the last 200 steps would be 38 MiB.
    assert seen[-1] - max(seen[: len(seen) // 10]) < 10


@pytest.mark.parametrize(
    "seconds, bytes_per_epoch, saved",
    [
        (1, np.inf, [0, 60, 70]),  # at most every minute, and at the end
        (80, np.inf, list(range(71))),  # a slow epoch by itself
        (80, 1e6, None),  # a large file more rarely, whatever the time
    ],
)
def test_checkpoints_are_written_when_they_are_due(
    cells, tmp_path, monkeypatch, seconds, bytes_per_epoch, saved
):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("models.train_net.time.monotonic", lambda: clock.now)
    monkeypatch.setattr("models.train_net.WRITTEN_PER_EPOCH", bytes_per_epoch)
    epochs, sizes = [], []

    def look_and_save(path, state):
        save_checkpoint(path, state)
        sizes.append(path.stat().st_size)
        if path.name == "checkpoint.pt":
            epochs.append(len(state["history"]))

    def tick(training, number, epoch=_Training.epoch):
        clock.now += seconds
        return epoch(training, number)

    monkeypatch.setattr("models.train_net.save_checkpoint", look_and_save)
    monkeypatch.setattr(_Training, "epoch", tick)
    *_, history = run(cells, tmp_path / "r", 70, patience=99, batch_size=48)
    assert len(read_history(tmp_path / "r")) == 70  # the log is never late
    assert epochs[0] == 0 and epochs[-1] == 70
    if saved is not None:
        assert epochs == saved
    else:
        # the first and the last, which come in any case, aside
        assert len(epochs) > 3 and sum(sizes[1:-2]) <= bytes_per_epoch * 70
    best = load_checkpoint(tmp_path / "r" / "best.pt")
    assert best["epoch"] == best_epoch(history)


def test_what_was_learnt_since_the_last_checkpoint_is_kept_in_an_error(cells, tmp_path):
    """Ctrl-C in epoch 4, seconds after the start."""

    class Stops(ELBOObjective):
        steps = 0

        def forward(self, model, x):
            self.steps += model.training
            if self.steps == 10:  # of 3 a epoch
                raise KeyboardInterrupt
            return super().forward(model, x)

    def attempt(objective, folder, epochs):
        folder.mkdir(exist_ok=True)
        seed_everything(0)
        model = build_vae(image_size=32, channels=1, base=4)
        batches = CellBatches(cells, torch.device("cpu"), 16, augmentation=True)
        split = split_cells(None, 60, 0.2, 0)
        schedule = Schedule(epochs, 1e-3)
        history = train(
            model, objective, batches, split, schedule=schedule, folder=folder, progress=False
        )
        return model.state_dict(), [entry["valid"] for entry in history]

    with pytest.raises(KeyboardInterrupt):
        attempt(Stops(), tmp_path / "r", 5)
    assert len(load_checkpoint(tmp_path / "r" / "checkpoint.pt")["history"]) == 3
    assert (tmp_path / "r" / "best.pt").is_file()
    resumed, losses = attempt(ELBOObjective(), tmp_path / "r", 5)
    whole, expected = attempt(ELBOObjective(), tmp_path / "whole", 5)
    assert losses == expected
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_finished_run_needs_no_large_checkpoint(cells, tmp_path, monkeypatch):
    folder = tmp_path / "r"
    run(cells, folder, 2, keep_checkpoint=False)
    assert (folder / "checkpoint.pt").is_file()  # a small one stays
    monkeypatch.setattr("models.train_net.LARGEST_KEPT", 1000)
    run(cells, folder, 2, keep_checkpoint=False)
    assert (folder / "checkpoint.pt").is_file()  # that of an older run, which learnt nothing now
    model, _, batches, split, history = run(cells, folder, 3, keep_checkpoint=False)
    assert not (folder / "checkpoint.pt").exists()
    schedule = partial(Schedule, learning_rate=1e-3, decay_every=2)
    refuse_unusable_checkpoint(folder, model, ELBOObjective(), schedule(3))
    again, *_, known = run(cells, folder, 3)
    assert known == history and not (folder / "checkpoint.pt").exists()
    for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(UserError, match="kept no checkpoint.pt.*`epochs` 5.*`keep_checkpoint`"):
        refuse_unusable_checkpoint(folder, model, ELBOObjective(), schedule(5))
    with pytest.raises(UserError, match="finished after 3 epochs"):
        run(cells, folder, 5)
    (folder / "log.jsonl").unlink()
    with pytest.raises(UserError, match="log.jsonl is missing or damaged"):
        run(cells, folder, 3)


def test_checkpoint_of_another_model_is_refused(cells, tmp_path):
    run(cells, tmp_path / "r", 1)
    model = build_vae(image_size=32, channels=1, base=8)
    batches = CellBatches(cells, torch.device("cpu"), 16, augmentation=False)
    split = split_cells(None, 60, 0.2, 0)
    wrong = r"checkpoint.pt does not fit this run \(model encoder.* is \[4, 1, 4, 4\]"
    with pytest.raises(UserError, match=wrong):
        train(
            model,
            ELBOObjective(),
            batches,
            split,
            schedule=Schedule(3, 1e-3),
            folder=tmp_path / "r",
            progress=False,
        )


def test_validation_counts_every_cell_once(cells):
    seed_everything(0)
    model = build_vae(image_size=32, channels=1, base=4)
    batches = CellBatches(cells, torch.device("cpu"), 16, augmentation=False)
    indices = np.arange(37)  # two full batches and one of 5
    terms = evaluate(model, ELBOObjective(), batches.in_order(indices))
    single = [evaluate(model, ELBOObjective(), [batches.take(torch.tensor([i]))]) for i in indices]
    assert terms["kl"] == pytest.approx(np.mean([s["kl"] for s in single]), rel=1e-5)


def test_embed_keeps_the_order_of_the_cells(cells):
    model = build_vae(image_size=32, channels=1, base=4)
    batches = CellBatches(cells, torch.device("cpu"), 16, augmentation=False)
    mean, logvar = embed(model, batches, 60)
    model.eval()
    with torch.no_grad():
        alone, alone_logvar = model.encode(batches.take(torch.tensor([41])))
    np.testing.assert_allclose(mean[41], alone[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(logvar[41], alone_logvar[0].numpy(), atol=1e-5)
    assert mean.shape == (60, 3) and mean.dtype == np.float32


def edited(state, path, value):
    """The state with another value at a path of keys, or without it."""
    *path, last = path
    for key in path:
        state = state[key]
    if value is None:
        del state[last]
    else:
        state[last] = value(state[last]) if callable(value) else value


def nan_in(tensor):
    tensor[(0,) * tensor.ndim] = float("nan")
    return tensor


@pytest.mark.parametrize(
    "path, value, said",
    [
        (["model", "encoder.down.0.conv.weight"], nan_in, "NaN or infinite"),
        (["model", "encoder.down.0.conv.weight"], lambda w: w.double(), "float64, expected"),
        (
            ["model", "encoder.down.0.conv.weight"],
            lambda w: w[:2],
            r"\[2, 1, 4, 4\] float32, expected",
        ),
        (["model", "encoder.down.0.conv.weight"], [1.0], "list, no tensor"),
        (["model", "encoder.down.0.conv.weight"], None, "is missing from model"),
        (["model", "another"], torch.zeros(1), "another is unknown in model"),
        (["model"], "weights", "model is str, no dictionary"),
        (["objective", "estimator"], torch.zeros(1), "estimator is unknown in objective"),
        (["optimizer", "state", 3, "exp_avg"], lambda m: m[:1], "optimizer state 3 exp_avg"),
        (["optimizer", "state", 0, "exp_avg_sq"], lambda m: m.flatten(), "state 0 exp_avg_sq"),
        (["optimizer", "state", 0, "exp_avg_sq"], lambda m: m - 1, "state 0 is not of 1 epochs"),
        (["optimizer", "state", 0, "exp_avg"], nan_in, "state 0 exp_avg holds NaN"),
        (["optimizer", "state", 0, "step"], 3, "state 0 step is int, no tensor"),
        (["optimizer", "state", 1, "step"], lambda t: t + 1, "state 1 is not of 1 epochs"),
        (["optimizer", "state", 2], None, "optimizer state is of other parameters"),
        (["optimizer", "state", 999], {}, "optimizer state is of other parameters"),
        (["optimizer", "state"], [], "optimizer state is no dictionary"),
        (["optimizer", "param_groups"], [], "the optimizer has not 1 groups"),
        (["optimizer", "param_groups", 0, "params"], lambda p: p[::-1], "group 0 params"),
        (["optimizer", "param_groups", 0, "lr"], "fast", "group 0 lr is 'fast'"),
        (["optimizer", "param_groups", 0, "lr"], -1.0, "group 0 lr is -1"),
        (["optimizer", "param_groups", 0, "lr"], 0.5, "other learning rates"),
        (["optimizer", "param_groups", 0, "amsgrad"], True, "group 0 amsgrad is True"),
        (["optimizer", "param_groups", 0, "betas"], (0.9, 2.0), "group 0 betas"),
        (["scheduler", "last_epoch"], 7, "last_epoch is not 1"),
        (["scheduler", "last_epoch"], "one", "scheduler last_epoch is 'one'"),
        (["scheduler", "step_size"], 9, "scheduler step_size is 9"),
        (["scheduler", "gamma"], 9.0, "scheduler gamma is 9"),
        (["history"], {}, "history is no list"),
        (["history"], [], "optimizer state is of other parameters"),
        (["history", 0, "epoch"], 2, "entry 1 of the history is not epoch 1"),
        (["history", 0, "valid", "loss"], "low", "valid of epoch 1"),
        (["history", 0, "valid", "loss"], float("nan"), "valid of epoch 1"),
        (["history", 0, "train"], None, "train of epoch 1"),
        (["history", 0, "seconds"], "long", "seconds of epoch 1 is 'long'"),
        (["batch_size"], 0, "batch_size is 0"),
        (["batch_size"], 16.0, "batch_size is 16.0"),
        (["batch_size"], 10**12, "batch_size is 1000000000000"),
    ],
)
def test_every_entry_of_a_checkpoint_is_compared_before_use(cells, tmp_path, path, value, said):
    folder = tmp_path / "r"
    run(cells, folder, 1)
    state = load_checkpoint(folder / "checkpoint.pt")
    edited(state, path, value)
    torch.save(state, folder / "checkpoint.pt")
    with pytest.raises(UserError, match=f"checkpoint.pt does not fit this run .*{said}") as wrong:
        run(cells, folder, 2)
    assert "\n" not in str(wrong.value)


def test_a_large_checkpoint_is_not_written_to_be_deleted(cells, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr("models.train_net.LARGEST_KEPT", 1000)
    monkeypatch.setattr(
        "models.train_net.save_checkpoint",
        lambda path, state: written.append(path.name) or save_checkpoint(path, state),
    )
    run(cells, tmp_path / "r", 2, keep_checkpoint=False)
    assert written == ["checkpoint.pt", "best.pt"]  # before the first epoch, after the last
    assert sorted(p.name for p in (tmp_path / "r").glob("*.pt")) == ["best.pt"]


def test_before_resuming_the_checkpoint_is_tried_on_the_model(cells, tmp_path):
    """It takes the weights; another model is refused and named, as are other files."""
    folder = tmp_path / "r"
    trained, *_ = run(cells, folder, 1)
    schedule = Schedule(5, 1e-3, decay_every=2)  # as in `run`
    fresh, smaller = (build_vae(image_size=32, channels=1, base=base) for base in (4, 2))
    refuse_unusable_checkpoint(folder, fresh, ELBOObjective(), schedule)
    for name, value in trained.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value)
    with pytest.raises(UserError, match=r"r/checkpoint.pt does not fit this run \("):
        refuse_unusable_checkpoint(folder, smaller, ELBOObjective(), schedule)
    torch.save({"model": trained.state_dict()}, folder / "checkpoint.pt")
    with pytest.raises(UserError, match="checkpoint.pt holds no objective: no checkpoint of this"):
        refuse_unusable_checkpoint(folder, fresh, ELBOObjective(), schedule)
    (folder / "log.jsonl").write_text("{")
    (folder / "checkpoint.pt").unlink()
    with pytest.raises(UserError, match="r/log.jsonl is missing or damaged .*: restore it"):
        refuse_unusable_checkpoint(folder, fresh, ELBOObjective(), schedule)
    (folder / "best.pt").unlink()  # stopped before training
    refuse_unusable_checkpoint(folder, fresh, ELBOObjective(), schedule)


def test_evaluation_uses_the_statistics_of_training(cells):
    """A cell's terms do not depend on the other cells of its batch."""
    torch.manual_seed(0)
    model, objective = build_vae(image_size=32, channels=1, base=4), ELBOObjective()
    batches = CellBatches(cells, torch.device("cpu"), 16, augmentation=False)
    model.train()
    found = evaluate(model, objective, list(batches.in_order(np.arange(20))))
    assert not model.training and not objective.training
    model.train()
    alone = [evaluate(model, objective, [batches.take(torch.tensor([cell]))]) for cell in range(20)]
    for name, value in found.items():
        assert value == pytest.approx(np.mean([terms[name] for terms in alone]), rel=1e-4)
