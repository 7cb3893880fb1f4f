"""Thread pools that end with the block that uses them."""

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from enum import StrEnum


class WaitFor(StrEnum):
    """Whether the end of a pool's block waits for the calls that are running."""

    ALWAYS = "always"
    UNLESS_INTERRUPTED = "unless interrupted"
    NEVER = "never"


@contextmanager
def cancelling_pool(
    threads: int, stop: threading.Event | None = None, *, wait_for: WaitFor = WaitFor.ALWAYS
) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool; when the block ends, set `stop` and cancel the calls that have not begun.

    A running call cannot be cancelled: it has to look at `stop` itself.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="offline-kit")
    try:
        yield pool
    finally:
        if stop:
            stop.set()
        interrupted = isinstance(sys.exception(), KeyboardInterrupt)
        waits = wait_for is WaitFor.ALWAYS or (wait_for is WaitFor.UNLESS_INTERRUPTED and not interrupted)
        # A thread that reads from a silent server cannot be woken, and `with ThreadPoolExecutor()` would join it:
        # https://docs.python.org/3/library/concurrent.futures.html#concurrent.futures.Executor.shutdown
        pool.shutdown(wait=waits, cancel_futures=True)
