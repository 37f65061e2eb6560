"""Streamed batches: the values of CellBatches, a well mixed order, a reader that ends and errs."""

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from models.losses import ELBOObjective
from models.networks import build_vae
from models.train_net import Schedule, embed, train
from util.data_processing import CellBatches, Cells
from util.runs import seed_everything
from util.splitting import split_cells
from util.streaming import StreamedBatches, make_batches, memory_budget, read_ahead

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


def cells_of(images):
    channels = images.shape[1]
    return Cells(
        images=images,
        table=pd.DataFrame({"Unique_ID": [str(i) for i in range(len(images))]}),
        name="test",
        masked=True,
        padding=np.zeros(channels),
        low=np.zeros(channels),
        high=np.full(channels, 60000.0 if images.dtype == np.uint16 else 255.0),
        channels=["c"] * channels,
    )


def mapped(folder, images):
    np.save(folder / "images.npy", images)
    return np.load(folder / "images.npy", mmap_mode="r")


def numbered(n_cells):
    """Cells of one pixel whose value is their number."""
    return cells_of(np.arange(n_cells, dtype=np.uint16).reshape(-1, 1, 1, 1))


def numbers(batches):
    """Which cells these batches of `numbered` hold, in their order."""
    return [(60000 * x.flatten()).round().long().tolist() for x in batches]


@pytest.mark.parametrize("dtype, downsample", [(np.uint8, 1), (np.uint16, 1), (np.uint16, 2)])
def test_same_values_as_on_the_device(tmp_path, dtype, downsample):
    top = np.iinfo(dtype).max
    images = np.random.default_rng(0).integers(0, top, (70, 2, 8, 8), dtype=dtype, endpoint=True)
    resident = CellBatches(cells_of(images), CPU, 16, False, downsample=downsample)
    cells = cells_of(mapped(tmp_path, images))
    streamed = StreamedBatches(
        cells, CPU, 16, False, window_bytes=40 * images[0].nbytes, downsample=downsample
    )
    indices = np.random.default_rng(1).permutation(70)[:60]
    ours, theirs = (list(batches.in_order(indices)) for batches in (streamed, resident))
    assert [len(x) for x in ours] == [16, 16, 16, 12]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    chosen = torch.tensor([69, 0, 33, 33])
    assert torch.equal(streamed.take(chosen), resident.take(chosen))
    assert streamed.fill is None and resident.fill is None  # masked: nothing to fill in


def test_augmentation_only_turns_and_flips():
    images = np.zeros((64, 1, 8, 8), np.uint8)
    images[:, :, 1, 2] = 255
    batches = StreamedBatches(cells_of(images), CPU, 32, True)
    turned = torch.cat(list(batches.shuffled(np.arange(64))))
    assert len({x.numpy().tobytes() for x in turned}) > 8
    assert torch.equal(
        torch.cat(list(batches.in_order(np.arange(64)))), batches.take(torch.arange(64))
    )


@pytest.mark.parametrize("kind", [CellBatches, StreamedBatches])
def test_corners_of_turned_windows_are_filled_with_the_padding(kind):
    """A window of background in two channels stays what it is however it is turned."""
    images = np.full((64, 2, 16, 16), 60, np.uint8)
    images[:, 1] = 130
    cells = replace(cells_of(images), masked=False, padding=np.array([60.0, 130.0]))
    cells = replace(cells, low=np.array([10.0, 0.0]), high=np.array([110.0, 260.0]))
    torch.manual_seed(0)
    batches = kind(cells, CPU, 32, True)
    turned = torch.cat(list(batches.shuffled(np.arange(64))))
    np.testing.assert_allclose(turned.numpy(), 0.5, atol=1e-6)
    torch.testing.assert_close(batches.fill, torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize(
    ("n_cells", "batch_size", "window_cells"), [(1000, 16, 100), (1000, 16, 5000), (20, 32, 8)]
)
def test_every_cell_once_but_for_the_last_incomplete_batch(n_cells, batch_size, window_cells):
    batches = StreamedBatches(
        numbered(2 * n_cells), CPU, batch_size, False, window_bytes=2 * window_cells
    )
    indices = np.arange(n_cells) * 2
    epoch = numbers(batches.shuffled(indices))
    seen = [cell for batch in epoch for cell in batch]
    assert len(set(seen)) == len(seen) and set(seen) <= set(indices.tolist())
    if n_cells < batch_size:
        assert sorted(seen) == indices.tolist()
    else:
        assert [len(batch) for batch in epoch] == [batch_size] * (n_cells // batch_size)
    left_out = set(indices.tolist()) - set(seen)
    assert len(left_out) == (n_cells % batch_size if n_cells > batch_size else 0)


def test_order_follows_the_seed():
    batches = StreamedBatches(numbered(3000), CPU, 16, False, window_bytes=2 * 256)
    orders = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        orders.append(numbers(batches.shuffled(np.arange(3000))))
    assert orders[0] == orders[1] != orders[2]


def block_shuffle_one_by_one(n_cells, block, window, rng):
    """The order of an epoch by the definition, a cell at a time."""
    starts = list(range(0, n_cells, block))
    rng.shuffle(starts)
    order = [cell for s in starts for cell in range(s, min(s + block, n_cells))]
    for start in range(0, n_cells, window):
        part = order[start : start + window]
        rng.shuffle(part)
        order[start : start + window] = part
    return np.array(order)


def apart(order):
    """How many places of the epoch lie between cells that are neighbours in the file."""
    place = np.argsort(order)
    return np.abs(np.diff(place))


def test_neighbours_end_up_as_far_apart_as_block_shuffling_says():
    n_cells, batch_size, window = 8192, 32, 1024
    batches = StreamedBatches(numbered(n_cells), CPU, batch_size, False, window_bytes=2 * window)
    assert (batches.window, batches.block) == (window, 32)
    rng = np.random.default_rng(0)
    ours, theirs, blocks_in_a_batch = [], [], []
    for epoch in range(6):
        torch.manual_seed(epoch)
        order = np.array(numbers(batches.shuffled(np.arange(n_cells))))
        blocks_in_a_batch += [len(set(batch // 32)) for batch in order]
        ours.append(apart(order.flatten()))
        theirs.append(apart(block_shuffle_one_by_one(n_cells, 32, window, rng)))
    # Two draws from one window lie a third of it apart on average; 31 of 32 pairs share one.
    within = window / 3 * 31 / 32 + (n_cells / 3) / 32
    assert np.mean(ours) == pytest.approx(within, rel=0.05)
    assert np.mean(ours) == pytest.approx(np.mean(theirs), rel=0.05)
    quantiles = [0.1, 0.5, 0.9]
    np.testing.assert_allclose(
        np.quantile(ours, quantiles), np.quantile(theirs, quantiles), rtol=0.05
    )
    # 32 of 1024 cells at random: 32 (1 - C(992, 32) / C(1024, 32)) = 20.4 of the 32 blocks.
    assert np.mean(blocks_in_a_batch) == pytest.approx(20.4, abs=0.3)


def squares(n_cells=60):
    rng = np.random.default_rng(0)
    images = np.zeros((n_cells, 1, 32, 32), np.uint8)
    for image in images:
        size = rng.integers(6, 14)
        image[0, 16 - size : 16 + size, 16 - size : 16 + size] = rng.integers(60, 255)
    return images


def trained(cells, folder, epochs):
    folder.mkdir(exist_ok=True)
    seed_everything(0)
    model = build_vae(image_size=32, channels=1, base=4)
    batches = StreamedBatches(cells, CPU, 16, True, window_bytes=32 * 1024)
    split = split_cells(None, len(cells.table), 0.2, 0)
    schedule = Schedule(epochs, 1e-3)
    return (
        model,
        batches,
        train(
            model, ELBOObjective(), batches, split, schedule=schedule, folder=folder, progress=False
        ),
    )


def test_training_learns_and_resumes_exactly(tmp_path):
    cells = cells_of(mapped(tmp_path, squares()))
    whole, batches, history = trained(cells, tmp_path / "whole", 5)
    assert history[-1]["valid"]["loss"] < 0.8 * history[0]["valid"]["loss"]
    trained(cells, tmp_path / "parts", 2)
    parts, _, resumed = trained(cells, tmp_path / "parts", 5)
    assert [entry["valid"] for entry in history] == [entry["valid"] for entry in resumed]
    for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    resident = CellBatches(cells, CPU, 16, False)
    for ours, theirs in zip(embed(whole, batches, 60), embed(whole, resident, 60), strict=True):
        np.testing.assert_array_equal(ours, theirs)


class Unreadable(np.ndarray):
    """Images of which one cannot be read, as on a failing disk."""

    broken = 300

    def __array_finalize__(self, parent):
        pass

    def __getitem__(self, key):
        if isinstance(key, np.ndarray) and self.broken in key:
            raise OSError("input/output error")
        return np.asarray(self)[key]


def readers():
    return [t for t in threading.enumerate() if t.name.startswith("read_ahead")]


def test_an_error_of_the_reader_reaches_the_loop():
    batches = StreamedBatches(numbered(600), CPU, 16, False, window_bytes=2 * 64)
    batches.images = batches.images.view(Unreadable)
    seen = []
    with pytest.raises(OSError, match="input/output error"):
        for batch in batches.in_order(np.arange(600)):
            seen += numbers([batch])[0]
    assert seen == list(range(256))  # every window before the broken one
    assert readers() == []


def test_a_loop_left_early_ends_the_reader():
    batches = StreamedBatches(numbered(6000), CPU, 16, True, window_bytes=2 * 64)
    for iterator in (batches.shuffled(np.arange(6000)), batches.in_order(np.arange(6000))):
        next(iterator)
        assert len(readers()) == 1
        iterator.close()
        assert readers() == []
    for _ in batches.shuffled(np.arange(6000)):
        break
    assert readers() == []


def test_it_reads_ahead_but_not_further():
    started = [threading.Event() for _ in range(5)]
    results = read_ahead(lambda i: started[i].set() or i, range(5), ahead=2)
    assert next(results) == 0
    assert started[2].wait(10) and not started[3].is_set()
    assert next(results) == 1
    assert started[3].wait(10) and not started[4].is_set()
    assert list(results) == [2, 3, 4]


def test_what_fits_lies_on_the_device(capsys):
    cells = numbered(100)
    assert isinstance(make_batches(cells, CPU, 16, False, budget_bytes=200), CellBatches)
    assert isinstance(make_batches(cells, CPU, 16, False), CellBatches)
    assert capsys.readouterr().out == ""
    assert isinstance(make_batches(cells, CPU, 16, False, budget_bytes=199), StreamedBatches)
    assert "100 cells take" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="reads Linux's /proc")
def test_budget_is_a_quarter_of_the_available_memory():
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) * 1024
    assert memory_budget(CPU) == pytest.approx(available / 4, rel=0.1)  # others work here too


STREAM_ONCE = """
import sys
import numpy as np, torch
from tests.test_streaming import CPU, StreamedBatches, cells_of

def anonymous_mib():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

torch.set_num_threads(1)
images = np.load(sys.argv[1], mmap_mode="r")
batches = StreamedBatches(cells_of(images), CPU, 32, False, window_bytes=32 * 2**20)
batches.take(torch.arange(32))
before, peak, seen = anonymous_mib(), 0, 0
for x in batches.shuffled(np.arange(len(images))):
    peak, seen = max(peak, anonymous_mib()), seen + len(x)
print(seen, peak - before)
"""


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="reads Linux's /proc")
def test_memory_does_not_grow_with_the_file(tmp_path):
    shape = (10_000, 4, 128, 128)  # 1.2 GiB, sparse
    np.lib.format.open_memmap(tmp_path / "sparse.npy", mode="w+", dtype=np.uint16, shape=shape)
    command = [sys.executable, "-c", STREAM_ONCE, str(tmp_path / "sparse.npy")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    seen, growth = done.stdout.split()
    assert int(seen) == 9_984  # 312 batches of 32
    assert float(growth) < 256  # MiB: three windows of 32, a batch as float and its like
