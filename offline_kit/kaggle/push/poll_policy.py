"""How long to wait for Kaggle, and how often to poll."""

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

from offline_kit.core.report import Reporter, Say
from offline_kit.core.retry import PATIENT, RetryPolicy, TransientError, retry_call
from offline_kit.kaggle.client.api_types import RefusedError
from offline_kit.kaggle.client.calls import NOT_VISIBLE, READ_SECONDS, is_transient

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class PollPolicy:
    """Timeouts and poll intervals in seconds."""

    visibility_timeout: float = 180.0  # until something new is visible
    processing_timeout: float = 3600.0  # until something visible is ready
    first_interval: float = 1.0  # doubles up to `max_interval`
    max_interval: float = 15.0
    scoring_interval: float = 60.0  # `max_interval` for submissions, whose scoring takes hours
    sleep: Callable[[float], None] = time.sleep

    @property
    def until_visible(self) -> RetryPolicy:
        """The policy for something new."""
        return self.retry_policy(self.visibility_timeout)

    @property
    def until_processed(self) -> RetryPolicy:
        """The policy for something that is processed."""
        return self.retry_policy(self.processing_timeout)

    def retry_policy(self, seconds: float) -> RetryPolicy:
        """Return a retry policy that polls for so many seconds."""
        return RetryPolicy(
            attempts=10**6,
            backoff=self.first_interval,
            longest=self.max_interval,
            deadline=seconds,
            sleep=self.sleep,
        )


DEFAULT_POLL = PollPolicy()


@dataclass(frozen=True, kw_only=True)
class ClientSettings:
    """How patient a command is with Kaggle, and which Python runs Kaggle's client."""

    poll: PollPolicy = DEFAULT_POLL
    retry: RetryPolicy = PATIENT
    read_timeout: float = READ_SECONDS
    client_python: str = sys.executable


DEFAULT_CLIENT = ClientSettings()


class StatusLine(ExitStack):
    """A status line that appears with its first update."""

    def __init__(self, report: Reporter, text: str) -> None:
        super().__init__()
        self._report, self._text = report, text
        self._say: Say | None = None

    def update_status(self, status: str) -> None:
        """Show the newest status."""
        if self._say is None:
            self._say = self.enter_context(self._report.waiting(self._text))
        self._say(status)


class GracePeriod:
    """A time that begins when its end is asked for first."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._began = seconds, 0.0

    def is_over(self) -> bool:
        """Whether it has ended."""
        self._began = self._began or time.monotonic()
        return time.monotonic() - self._began > self._seconds


def may_appear(error: Exception, show_status: Say = lambda _words: None) -> bool:
    """Tell whether to poll on after an error, and show it: something that was just created may be hidden for a while."""
    is_hidden = isinstance(error, RefusedError) and error.status in NOT_VISIBLE
    may_pass = is_hidden or is_transient(error)
    if may_pass:
        show_status(f"no answer: {error}")
    return may_pass


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
        return retry_call(check_shown, policy, may_pass=may_appear)
    except TransientError:
        return None
