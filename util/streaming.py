"""Batches of cells that do not fit on the device, streamed from a memory map.

    Cells.images (memory map) --file order, a window at a time, in a thread--> host memory
                              --non-blocking copy--> device --scaling, augmentation--> batches

Random reads of single cells would be limited by disk seeks, so an epoch is shuffled by blocks:
blocks of consecutive cells come in random order, and a window of 32 blocks is mixed before batches
are cut from it. While the batches of one window are used, the next window is read. The process
itself holds at most three windows (3 x 128 MiB); pages of the map belong to the system, which
reclaims them when it needs memory.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from util import processes
from util.data_processing import Batches, CellBatches, Cells
from util.devices import tensor_type

WINDOW_BYTES = 128 * 2**20  # integers mixed with each other, and read at a time
BLOCKS = 32  # to a window; a batch of 64 then meets about 28 of them
SHARE_OF_CUDA = 1 / 2  # of the free memory; the rest is for the network
SHARE_OF_RAM = 1 / 4  # of the available memory, which the network and the metrics need too
ASSUMED_RAM = 8 * 2**30  # if the system does not say

Item = TypeVar("Item")
Result = TypeVar("Result")


class StreamedBatches(Batches):
    """Batches of cells that stay on the disk.

    The order of an epoch is random by blocks (see above), so neighbours in the file share a window,
    and share a batch more often than two random cells do: with cells sorted by class, the share of
    a class of frequency p varies between windows by about sqrt(p (1 - p) / 32).

    Args:
        cells: images, preferably a read-only memory map, and scaling.
        device: where batches come out.
        batch_size: cells per batch; may be changed between epochs.
        augmentation: rotate and flip the training images.
        window_bytes: integers that are mixed with each other; at least one batch.
        downsample: side of the squares of pixels that are averaged to one.
    """

    def __init__(
        self,
        cells: Cells,
        device: torch.device,
        batch_size: int,
        augmentation: bool,
        *,
        window_bytes: int = WINDOW_BYTES,
        downsample: int = 1,
    ):
        super().__init__(cells, device, batch_size, augmentation, downsample=downsample)
        self.window_bytes = window_bytes

    def _hold(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(images)  # a view of the map

    @property
    def window(self) -> int:
        """Cells of a window, whole batches."""
        batch_bytes = self.batch_size * self.images[:1].nbytes
        return max(1, self.window_bytes // batch_bytes) * self.batch_size

    @property
    def block(self) -> int:
        """Consecutive cells that are read together."""
        return max(1, self.window // BLOCKS)

    def _epoch_order(self, indices: torch.Tensor) -> torch.Tensor:
        blocks = indices.sort().values.split(self.block)
        order = torch.cat([blocks[b] for b in torch.randperm(len(blocks)).tolist()])
        windows = order.split(self.window)
        return torch.cat([window[torch.randperm(len(window))] for window in windows])

    def _load(self, index: torch.Tensor) -> torch.Tensor:
        return self._to_device(self._load_to_host(index))

    def _read(self, order: torch.Tensor) -> Iterator[torch.Tensor]:
        for window in read_ahead(self._load_to_host, order.split(self.window)):
            yield from map(self._to_device, window.split(self.batch_size))

    def _load_to_host(self, index: torch.Tensor) -> torch.Tensor:
        """Cells (B,), read in the order of the file -> integers (B, C, S, S) in host memory."""
        shape, dtype = (len(index), *self.images.shape[1:]), tensor_type(self.images.dtype)
        host = torch.empty(shape, dtype=dtype, pin_memory=self.device.type == "cuda")
        filled, cells = host.numpy(), index.cpu().numpy()
        in_file_order = np.argsort(cells, kind="stable")
        for start in range(0, len(cells), self.block):
            places = in_file_order[start : start + self.block]
            filled[places] = self.images[cells[places]]
        return host

    def _to_device(self, host: torch.Tensor) -> torch.Tensor:
        return host.to(self.device, non_blocking=True)


def read_ahead(
    read: Callable[[Item], Result], items: Iterable[Item], ahead: int = 1
) -> Iterator[Result]:
    """`map(read, items)`, with the next `ahead` results computed in a thread meanwhile.

    An error of `read` is raised when its result is due. Closing the iterator ends the thread.
    """
    pending: deque[Future] = deque()
    pool = ThreadPoolExecutor(1, thread_name_prefix="read_ahead")
    try:
        for item in items:
            pending.append(pool.submit(read, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def make_batches(
    cells: Cells,
    device: torch.device,
    batch_size: int,
    augmentation: bool,
    *,
    budget_bytes: int | None = None,
    downsample: int = 1,
) -> Batches:
    """All cells on the device if their integers fit, else streamed, which is printed.

    Args:
        cells: images and scaling.
        device: where batches come out.
        batch_size: cells per batch.
        augmentation: rotate and flip the training images.
        budget_bytes: memory that the integers may take; None means half of the free memory of a
            CUDA device, else a quarter of the available memory of the machine.
        downsample: side of the squares of pixels that are averaged to one.
    """
    if budget_bytes is None:
        # Decided once: streamed, an epoch has another order. On the CPU, processes share memory.
        sharing = processes.world_size() if device.type == "cpu" else 1
        budget_bytes = processes.from_main(memory_budget(device)) // sharing
    if cells.images.nbytes <= budget_bytes:
        return CellBatches(cells, device, batch_size, augmentation, downsample=downsample)
    print(
        f"{len(cells.images):,} cells take {cells.images.nbytes / 2**30:.1f} GiB, more than the "
        f"{budget_bytes / 2**30:.1f} GiB reserved for them on {device}: they stream from the disk"
    )
    return StreamedBatches(cells, device, batch_size, augmentation, downsample=downsample)


def memory_budget(device: torch.device) -> int:
    """Bytes that the integers of a data set may take on the device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(SHARE_OF_CUDA * free)
    return int(SHARE_OF_RAM * _available_ram())


def _available_ram() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])  # the file counts in KiB
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return ASSUMED_RAM
