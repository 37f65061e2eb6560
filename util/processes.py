"""Many processes that train one model: which one this is, and what only the main process does.

`torchrun --nproc_per_node=2 VAE_framework.py ...` starts the script twice; gloo carries tensors of
the CPU, nccl those of GPUs. Only the main process (rank 0) prints, writes files and continues after
the training. All of them read the same files, so several machines need a shared folder. In a run of
one process every function here is the identity or does nothing.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

STEP = timedelta(minutes=10)  # longest wait for another process while training
PREPARATION = timedelta(hours=24)  # longest wait for the main process to fill the caches
LAST_WORDS = timedelta(seconds=30)  # longest wait for what another process prints as it ends


@dataclass(frozen=True)
class _Team:
    """Connections to the other processes: small values by name, and a group that waits longer."""

    store: "dist.Store"
    patient: "dist.ProcessGroup"


_team: _Team | None = None


def world_size() -> int:
    """Processes that train together; 1 in a plain run and after `leave`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0; it keeps it after `leave`."""
    return int(os.environ["RANK"]) if _team else 0


def local_rank() -> int:
    """Number of this process on its machine, from 0: the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", rank())) if _team else 0


def is_main() -> bool:
    """Whether this is the process that prints and writes."""
    return rank() == 0


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Connect the processes that torchrun started; all but the main one are silent inside."""
    launched = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    if not launched or int(os.environ["WORLD_SIZE"]) == 1:
        yield
        return
    _join()
    try:
        with contextlib.ExitStack() as silence:
            if not is_main():
                nowhere = silence.enter_context(open(os.devnull, "w"))
                silence.enter_context(contextlib.redirect_stdout(nowhere))
                silence.enter_context(contextlib.redirect_stderr(nowhere))
            yield
    except SystemExit:  # --help, or a misspelt option: the main process has printed it
        if world_size() > 1:
            _tell_or_hear(is_main())
        raise


def _join() -> None:
    global _team
    store, number, size = next(dist.rendezvous("env://"))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    group_store = dist.PrefixStore("group", store)
    dist.init_process_group(backend, store=group_store, rank=number, world_size=size, timeout=STEP)
    patient = dist.new_group(backend="gloo", timeout=PREPARATION)
    _team = _Team(dist.PrefixStore("team", store), patient)


def leave() -> None:
    """End all processes but the main one, with exit code 0."""
    if world_size() > 1:
        wait_for_all()
        dist.destroy_process_group()
        if not is_main():
            sys.exit(0)


def exit_saying(text: str, code: int) -> NoReturn:
    """End with a message on stderr, printed once, by the first process that ends.

    The others may fail from the same mistake, or because the first has ended. torchrun ends every
    process as soon as one has failed, so they wait until the message is printed.
    """
    first = _team is None
    with contextlib.suppress(RuntimeError):  # the launcher, which keeps the store, may have ended
        first = first or _team.store.add("ended", 1) == 1
    if first and text:
        with contextlib.suppress(OSError):  # nobody reads it, or its disk is full
            print(text, file=sys.stderr, flush=True)
    _tell_or_hear(first)
    sys.exit(code)


def _tell_or_hear(speaker: bool) -> None:
    """Release the other processes as the speaker, or wait for it."""
    if _team is None:
        return
    with contextlib.suppress(RuntimeError):
        if speaker:
            _team.store.set("said", "all")
        else:
            _team.store.wait(["said"], LAST_WORDS)


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a scheduler sends it: ends what runs as Ctrl-C does."""


def code_of(stop: KeyboardInterrupt) -> int:
    """Exit code after Ctrl-C (130) or SIGTERM (143)."""
    return 143 if isinstance(stop, Terminated) else 130


@contextlib.contextmanager
def stoppable(*others: signal.Signals) -> Iterator[None]:
    """Let SIGTERM raise `Terminated` inside the block, once: what is saved then is not disturbed.

    Args:
        others: signals that do the same, and are ignored after the first of them all.
    """
    numbers = (signal.SIGTERM, *others)

    def stop(number: int, frame: Any) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """Run the block in the main process first; the others then find its caches.

    Raises:
        RuntimeError: in the others, when the main process fails meanwhile.
    """
    if not is_main():
        wait_for_all()
    yield
    if is_main():
        wait_for_all()


def wait_for_all() -> None:
    """Wait until every process has come here."""
    if world_size() > 1:
        dist.barrier(group=_team.patient)


def from_main(value: T) -> T:
    """The value (plain data) that the main process has; the others' is ignored."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values, src=0, group=_team.patient)
    return values[0]


def add_up(values: Tensor) -> Tensor:
    """Sum of a tensor over the processes, in place; every process gets the same bits."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def weighted_mean(terms: dict[str, T], weight: T) -> dict[str, T]:
    """Mean of each term (number, or tensor of numbers) over the processes, the same in all.

    Args:
        terms: name -> value; may be empty where the weight is 0, but not in the main process.
        weight: how much this process's values count, e.g. its number of cells; number, or tensor
            of the shape of the values.
    """
    if world_size() == 1:
        return terms
    everyone = [None] * world_size()
    dist.all_gather_object(everyone, (terms, weight))
    total = sum(weight for _, weight in everyone)
    return {
        name: sum(theirs[name] * weight for theirs, weight in everyone if theirs) / total
        for name in terms or everyone[0][0]
    }


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch use this number of CPU threads inside the block.

    One is best for small matrices: more threads mostly wait for each other.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def own_randomness(device: torch.device, *key: int) -> Iterator[None]:
    """Random numbers of this process alone, which follow `key` and the rank.

    After the block, torch's generators have their state from before, so that all processes draw the
    same order and augmentation again. Nothing happens in a run of one process.
    """
    if world_size() == 1:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence([*key, rank()]).generate_state(1)[0]))
        yield
