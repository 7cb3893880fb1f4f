"""Retries: how often, how long to wait, when to give up. The only module that sleeps."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TypeVar

from offline_kit.core.errors import OfflineKitError

_T = TypeVar("_T")
_BUSY_ATTEMPTS = 12
_OBEYED = 600.0
_STOP: ContextVar[threading.Event | None] = ContextVar("stop", default=None)


def ignore_progress(_seconds: float) -> None:
    """Listen to nothing."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How long to retry while a server is in trouble; times in seconds."""

    attempts: int = 5  # attempts without any progress
    backoff: float = 0.5  # before the second attempt, doubled for each further one
    longest: float = 60.0  # the longest single wait, whatever the server asks for
    obeyed: float = 0.0  # the longest wait that the server may ask for, if that is more than `longest`
    deadline: float = 300.0  # after it, no further attempt is made, unless there was progress since the last
    sleep: Callable[[float], None] = time.sleep
    tell: Callable[[float], None] = ignore_progress  # called before each wait

    def when_rate_limited(self) -> "RetryPolicy":
        """Return the policy for a server that asks for fewer requests: minutes, and as long as it says."""
        attempts = max(self.attempts, _BUSY_ATTEMPTS)
        return replace(self, attempts=attempts, obeyed=_OBEYED, deadline=4 * self.deadline)

    def wait(self, seconds: float) -> None:
        """Wait; raise StoppedError as soon as nobody wants this thread's work any more."""
        self.tell(seconds)
        stop = _STOP.get()
        if stop is None:
            self.sleep(seconds)
        elif stop.wait(seconds):
            raise StoppedError

    def wait_time(self, requested: float | None, failed: int) -> float:
        """Return the seconds to wait after so many failed attempts, or as the server requested."""
        if requested is not None:
            return min(requested, max(self.longest, self.obeyed))
        # Random, so that parallel downloads do not all come back at the same moment.
        seconds = self.backoff * 2.0 ** min(failed - 1, 30) * random.uniform(0.8, 1.2)  # noqa: S311
        return min(seconds, self.longest)


PATIENT = RetryPolicy()


class StoppedError(Exception):
    """Nobody wants this thread's work any more."""


@contextmanager
def stop_waits_on(stop: threading.Event) -> Iterator[None]:
    """End this thread's waits with StoppedError once `stop` is set, while the block lasts."""
    before = _STOP.set(stop)
    try:
        yield
    finally:
        _STOP.reset(before)


class TransientError(Exception):
    """Trouble that is worth another attempt, after `after` seconds if the server says so."""

    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


def retry_call(
    call: Callable[[], _T],
    policy: RetryPolicy,
    *,
    give_up: Callable[[Exception], OfflineKitError] | None = None,
    may_pass: Callable[[Exception], bool] = lambda _error: False,
    progress: Callable[[], int] = lambda: 0,
) -> _T:
    """Call until it succeeds, and return its result.

    TransientError and the errors that `may_pass` are retried, others are raised at once; `after` of an error is how long
    the server asked to wait. `progress` returns how far the work is: an attempt that gets further does not count as
    failed. At the end of the policy, raises what `give_up` makes of the last trouble, by default that trouble itself.
    """
    start, failed, before = time.monotonic(), 0, progress()
    while True:
        try:
            return call()
        except Exception as error:
            if not (isinstance(error, TransientError) or may_pass(error)):
                raise
            failed = 1 if progress() > before else failed + 1
            late = failed > 1 and time.monotonic() - start > policy.deadline
            if failed >= policy.attempts or late:
                if give_up:
                    raise give_up(error) from error
                raise
            requested: float | None = getattr(error, "after", None)
        before = progress()
        policy.wait(policy.wait_time(requested, failed))
