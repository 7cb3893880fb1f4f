"""How long to wait for Kaggle, and how often to look."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from offline_kit.errors import OfflineKitError
from offline_kit.patience import Patience, attempts

_NEVER = 10**6
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """How long to wait for Kaggle; all times in seconds."""

    grace: float = 180.0
    """For something that was sent to show at all."""
    processing: float = 3600.0
    """For what shows to be ready."""
    first: float = 1.0
    """The first pause between two looks; it doubles up to `longest`."""
    longest: float = 15.0
    """The longest pause."""
    sleep: Callable[[float], None] = time.sleep
    """Waits."""

    def until(self, seconds: float) -> Patience:
        """Return the patience to look for so long."""
        return Patience(
            attempts=_NEVER, backoff=self.first, longest=self.longest, deadline=seconds, sleep=self.sleep
        )


WAITING = Waiting()


def poll(see: Callable[[], _T], patience: Patience, give_up: Callable[[Exception], OfflineKitError]) -> _T:
    """Return what `see` sees once it raises PassingError no more; when patience ends, raises what `give_up` makes of it."""
    for attempt in attempts(patience, may_pass=lambda _error: False, give_up=give_up):
        with attempt:
            return see()
    raise AssertionError("unreachable")
