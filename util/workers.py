"""Work beside the main thread, in other processes that end with this one.

Neither PyTorch nor pandas is imported here, so that a worker starts fast.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from typing import Any, Generic, TypeVar

T = TypeVar("T")

LOOK_EVERY = 1.0  # s between two checks that the parent is alive
GIVE_UP_AFTER = 30.0  # s to wait for work that has to stop


class Beside(Generic[T]):
    """Work in a thread beside the code that follows, with its long parts in processes (`apart`).

    As a context manager: if the block fails, also by Ctrl-C, the workers are killed.

    Args:
        work: returns the result; it must not use the random generators of this process.
    """

    def __init__(self, work: Callable[[], T]):
        self._future: Future[T] = Future()
        self._thread = threading.Thread(target=self._do, args=(work,), daemon=True)
        self._thread.start()

    def _do(self, work: Callable[[], T]) -> None:
        try:
            self._future.set_result(work())
        except BaseException as error:
            self._future.set_exception(error)

    def check(self, *_: Any) -> None:
        """Raise the error of the work, if it has failed by now; takes any argument."""
        if self._future.done():
            self._future.result()

    def result(self) -> T:
        """Wait for the result, or raise the error."""
        return self._future.result()

    def __enter__(self) -> "Beside[T]":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None or not self._thread.is_alive():
            return
        from joblib.externals.loky import get_reusable_executor

        ends = time.monotonic() + GIVE_UP_AFTER
        while self._thread.is_alive() and time.monotonic() < ends:  # it may just start another
            get_reusable_executor(reuse=True).shutdown(wait=False, kill_workers=True)
            self._thread.join(0.5)


def apart(function: Callable[..., T], *args: Any, **options: Any) -> T:
    """`function(*args, **options)` in a process of its own; waits for the result.

    For work that holds Python's lock for long, as numba's functions do, and so stops other threads.
    """
    from joblib import Parallel, delayed

    # With fewer than two jobs there would be no other process.
    return Parallel(n_jobs=2)([delayed(_watching_its_parent)(function, *args, **options)])[0]


def _watching_its_parent(function: Callable[..., T], *args: Any, **options: Any) -> T:
    end_with_parent()
    return function(*args, **options)


@cache
def end_with_parent() -> None:
    """End this worker soon after the process that started it has ended, even by SIGKILL.

    Nothing happens in a main process, which may outlive whatever started it.
    """
    if multiprocessing.current_process().name == "MainProcess":
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_EVERY)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
