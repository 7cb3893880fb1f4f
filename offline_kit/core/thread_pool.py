"""Thread pools that end with the block that uses them."""

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def cancelling_pool(
    threads: int, stop: threading.Event | None = None, *, wait: bool = True
) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool; when the block ends, set `stop`, cancel the calls that have not begun, and wait for the others.

    A running call cannot be cancelled: it has to look at `stop` itself. Ctrl-C does not wait for any.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="offline-kit")
    try:
        yield pool
    finally:
        if stop:
            stop.set()
        # A thread that reads from a silent server cannot be woken, and `with ThreadPoolExecutor()` would join it:
        # https://docs.python.org/3/library/concurrent.futures.html#concurrent.futures.Executor.shutdown
        interrupted = isinstance(sys.exception(), KeyboardInterrupt)
        pool.shutdown(wait=wait and not interrupted, cancel_futures=True)
