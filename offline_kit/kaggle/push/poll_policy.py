"""How long to wait for Kaggle, and how often to poll."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from offline_kit.core.errors import OfflineKitError, OutsideError
from offline_kit.core.report import Say
from offline_kit.core.retry import PATIENT, RetryPolicy, TransientError, retry_call
from offline_kit.kaggle.client.api_types import NoResponseError, RefusedError, UnreachableError
from offline_kit.kaggle.client.calls import READ_SECONDS

_NEVER = 10**6
_ABSENT = frozenset({403, 404})
"""Kaggle's answers for something that was just created, too."""
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class PollPolicy:
    """Timeouts and poll intervals in seconds."""

    visibility_timeout: float = 180.0
    """Until something new is visible."""
    processing_timeout: float = 3600.0
    """Until something visible is ready."""
    first_interval: float = 1.0
    """Doubles up to `max_interval`."""
    max_interval: float = 15.0
    scoring_interval: float = 60.0
    """`max_interval` for submissions, whose scoring takes hours."""
    sleep: Callable[[float], None] = time.sleep

    def retry_policy(self, seconds: float) -> RetryPolicy:
        """Return a retry policy that polls for so many seconds."""
        return RetryPolicy(
            attempts=_NEVER,
            backoff=self.first_interval,
            longest=self.max_interval,
            deadline=seconds,
            sleep=self.sleep,
        )


DEFAULT_POLL = PollPolicy()


@dataclass(frozen=True, kw_only=True)
class KaggleTiming:
    """How patient a command is with Kaggle."""

    poll: PollPolicy = DEFAULT_POLL
    retry: RetryPolicy = PATIENT
    read_timeout: float = READ_SECONDS


DEFAULT_TIMING = KaggleTiming()


def poll_until(
    check: Callable[[], _T], policy: RetryPolicy, give_up: Callable[[Exception], OfflineKitError]
) -> _T:
    """Return what `check` sees once it raises PassingError no more; when patience ends, raises what `give_up` makes of it."""
    return retry_call(check, policy, give_up=give_up)


def ignore_transient(check: Callable[[], _T], show_status: Say = lambda _words: None) -> Callable[[], _T]:
    """Wrap a check so that temporary failures and "not found" count as transient and update the status line."""

    def check_once() -> _T:
        try:
            return check()
        except RefusedError as refusal:
            if refusal.status in _ABSENT or refusal.is_temporary:
                show_status(f"no answer: {refusal.what}")
                raise TransientError(refusal.what, refusal.retry_after) from refusal
            raise
        except (NoResponseError, UnreachableError) as lost:
            show_status(f"no answer: {lost.what}")
            raise TransientError(lost.what) from lost

    return check_once


def wait_until_shown(check: Callable[[], _T | None], policy: RetryPolicy) -> _T | None:
    """Call `check` until it returns something; None if it did not in time.

    Raises Kaggle's error if the last call failed: the result is unknown then.
    """

    def check_shown() -> _T:
        result = check()
        if result is None:
            raise TransientError("it is not visible yet")
        return result

    try:
        return poll_until(ignore_transient(check_shown), policy, find_cause)
    except NotShownError:
        return None


def find_cause(trouble: Exception) -> OfflineKitError:
    """Return the Kaggle error behind a transient one."""
    cause = trouble.__cause__
    return cause if isinstance(cause, OfflineKitError) else NotShownError(str(trouble), hint="look again")


class NotShownError(OutsideError):
    """What was polled for did not show in time."""

    default_code = "not-visible-yet"
