"""Thread pools that end with the block that uses them."""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from typing import TypeVar

from offline_kit.core.report import Advance
from offline_kit.core.retry import StoppedError, ignore_progress, stop_waits_on

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@contextmanager
def cancelling_pool(threads: int, stop: threading.Event | None = None) -> Iterator[ThreadPoolExecutor]:
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
        pool.shutdown(wait=not isinstance(sys.exception(), KeyboardInterrupt), cancel_futures=True)


def run_transfers(
    transfer: Callable[[_Item, Advance], _Result],
    items: Sequence[_Item],
    threads: int,
    advance: Advance = ignore_progress,
) -> list[_Result]:
    """Transfer items in threads, the first ones first, and return the results; the first failure stops all others.

    The progress function that a transfer gets raises StoppedError as soon as nobody wants it any more.
    """
    stop, failures = threading.Event(), list[BaseException]()

    def advance_unless_stopped(amount: int) -> None:
        if stop.is_set():
            raise StoppedError
        advance(amount)

    def run_one(item: _Item) -> _Result:
        if stop.is_set():
            raise StoppedError
        try:
            with stop_waits_on(stop):
                return transfer(item, advance_unless_stopped)
        except BaseException as error:
            if not isinstance(error, StoppedError):
                failures.append(error)
            stop.set()
            raise

    with cancelling_pool(threads, stop) as pool:
        futures = [pool.submit(run_one, item) for item in items]
        wait_for(futures, return_when=FIRST_EXCEPTION)
        if failures:
            raise failures[0]
        return [future.result() for future in futures]
