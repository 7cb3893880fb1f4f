"""Trying again: how often, how long to wait, when to give up. The only place that waits."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from offline_kit.errors import OfflineKitError


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to go on asking a far side that is in trouble."""

    attempts: int = 5
    """Attempts without any progress."""
    backoff: float = 0.5
    """Seconds before the second attempt, doubled for each further one."""
    longest: float = 60.0
    """The longest single wait, whatever the far side asks for."""
    deadline: float = 300.0
    """Seconds after which no further attempt is made, unless there was progress since the last."""
    sleep: Callable[[float], None] = time.sleep
    """Waits."""


PATIENT = Patience()


class PassingError(Exception):
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
        if isinstance(error, Exception) and (isinstance(error, PassingError) or self._may_pass(error)):
            self.trouble = error
            return True
        return False


def attempts(
    patience: Patience,
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
        patience.sleep(min(_wait(trouble, failed, patience), patience.longest))


def _wait(trouble: Exception, failed: int, patience: Patience) -> float:
    asked = trouble.after if isinstance(trouble, PassingError) else None
    if asked is not None:
        return asked
    # A little chance, so that parallel downloads do not all come back at one moment.
    return patience.backoff * 2.0 ** min(failed - 1, 30) * random.uniform(0.8, 1.2)  # noqa: S311
