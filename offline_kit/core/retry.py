"""Trying again: how often, how long to wait, when to give up. The only place that waits."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

from offline_kit.core.errors import OfflineKitError


def ignore_progress(_seconds: float) -> None:
    """Listen to nothing."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How long to go on asking a far side that is in trouble."""

    attempts: int = 5
    """Attempts without any progress."""
    backoff: float = 0.5
    """Seconds before the second attempt, doubled for each further one."""
    longest: float = 60.0
    """The longest single wait, whatever the far side asks for."""
    obeyed: float = 0.0
    """The longest wait that the far side may ask for, where that is more than `longest`."""
    deadline: float = 300.0
    """Seconds after which no further attempt is made, unless there was progress since the last."""
    sleep: Callable[[float], None] = time.sleep
    """Waits."""
    tell: Callable[[float], None] = ignore_progress
    """Hears of each wait before it, in seconds."""

    def when_rate_limited(self) -> "RetryPolicy":
        """Return the patience with a far side that asks for fewer requests: minutes, and as long as it says."""
        return replace(
            self, attempts=max(self.attempts, _BUSY_ATTEMPTS), obeyed=_OBEYED, deadline=4 * self.deadline
        )


_BUSY_ATTEMPTS = 12
_OBEYED = 600.0
PATIENT = RetryPolicy()
_STOP: ContextVar[threading.Event | None] = ContextVar("stop", default=None)


class StoppedError(Exception):
    """Nobody wants this thread's work any more."""


@contextmanager
def stop_waits_on(stop: threading.Event) -> Iterator[None]:
    """Have this thread's waits end with StoppedError once `stop` is set, while the block lasts."""
    before = _STOP.set(stop)
    try:
        yield
    finally:
        _STOP.reset(before)


class TransientError(Exception):
    """Trouble that is worth another attempt, after so many seconds where the far side says."""

    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after
        """Seconds that the far side asks us to wait."""


class Attempt:
    """A context that swallows passing trouble and keeps it."""

    def __init__(self, may_pass: Callable[[Exception], bool]) -> None:
        self._may_pass = may_pass
        self.trouble: Exception | None = None
        """What went wrong, where it may pass."""

    def __enter__(self) -> None:
        self.trouble = None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, Exception) and (isinstance(error, TransientError) or self._may_pass(error)):
            self.trouble = error
            return True
        return False


def retry_attempts(
    patience: RetryPolicy,
    *,
    may_pass: Callable[[Exception], bool],
    give_up: Callable[[Exception], OfflineKitError],
    progress: Callable[[], int] = lambda: 0,
) -> Iterator[Attempt]:
    """Yield contexts to try in; the caller leaves the loop from within one that went well.

    Other errors than PassingError and those that `may_pass` fly on at once. `progress` tells how far the
    work is: whoever gets further is not counted as failing. When patience ends, raises what `give_up`
    makes of the last trouble.
    """
    start, failed, before = time.monotonic(), 0, progress()
    while True:
        attempt = Attempt(may_pass)
        yield attempt
        trouble = attempt.trouble
        if trouble is None:
            return
        failed = 1 if progress() > before else failed + 1
        before = progress()
        late = failed > 1 and time.monotonic() - start > patience.deadline
        if failed >= patience.attempts or late:
            raise give_up(trouble) from trouble
        requested_wait = trouble.after if isinstance(trouble, TransientError) else None
        _next_pause(_wait_for_retry(requested_wait, failed, patience), patience)


class RequestThrottle:
    """Lets work go side by side until the far side asks for less; from then on one after the other.

    All keep the pause that it asked one of them for.
    """

    def __init__(self) -> None:
        self.narrow = False
        """Whether it goes one after the other."""
        self._turn = threading.RLock()
        self._until = 0.0

    def slow_down(self, asked: float | None, patience: RetryPolicy) -> None:
        """Take turns from now on, the first after so many seconds, or those that patience says."""
        self.narrow = True
        self._until = max(self._until, time.monotonic() + _wait_for_retry(asked, 1, patience))

    @contextmanager
    def take_turn(self, patience: RetryPolicy) -> Iterator[None]:
        """Wait until nobody else works and the pause is over; raises StoppedError."""
        with self._turn:
            _next_pause(max(0.0, self._until - time.monotonic()), patience)
            yield


def _next_pause(seconds: float, patience: RetryPolicy) -> None:
    patience.tell(seconds)
    stop = _STOP.get()
    if stop is None:
        patience.sleep(seconds)
    elif stop.wait(seconds):
        raise StoppedError


def _wait_for_retry(asked: float | None, failed: int, patience: RetryPolicy) -> float:
    if asked is not None:
        return min(asked, max(patience.longest, patience.obeyed))
    # A little chance, so that parallel downloads do not all come back at one moment.
    wait = patience.backoff * 2.0 ** min(failed - 1, 30) * random.uniform(0.8, 1.2)  # noqa: S311
    return min(wait, patience.longest)
