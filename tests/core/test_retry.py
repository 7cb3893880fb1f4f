"""Trying again: how long, and how threads keep out of each other's way."""

import threading
from dataclasses import replace

import pytest

from offline_kit.core.errors import OfflineKitError, OutsideError
from offline_kit.core.retry import (
    PATIENT,
    RetryPolicy,
    StoppedError,
    TransientError,
    retry_call,
    stop_waits_on,
)

BRISK = RetryPolicy(attempts=3, backoff=0.02, longest=0.1)


def refused(patience: RetryPolicy, after: float | None = None) -> tuple[int, list[float]]:
    """Return how often a far side was asked that always refuses, and the waits in between."""
    waits: list[float] = []
    asked = 0

    def give_up(trouble: Exception) -> OfflineKitError:
        return OutsideError(str(trouble), hint="later")

    def ask() -> None:
        nonlocal asked
        asked += 1
        raise TransientError("busy", after)

    with pytest.raises(OutsideError):
        retry_call(ask, replace(patience, sleep=waits.append), give_up=give_up)
    return asked, waits


def test_a_far_side_that_is_busy_is_asked_for_minutes() -> None:
    """At least ten times over more than two minutes, and never sooner than it says."""
    asked, waits = refused(PATIENT.when_rate_limited())
    assert asked >= 10
    assert sum(waits) > 120
    assert max(waits) <= PATIENT.longest
    assert set(refused(PATIENT.when_rate_limited(), after=240.0)[1]) == {240.0}
    assert set(refused(PATIENT, after=240.0)[1]) == {60.0}


def test_a_stop_ends_a_long_wait() -> None:
    """Of a thread whose work nobody wants any more."""
    stop, ended = threading.Event(), threading.Event()

    def work() -> None:
        with pytest.raises(StoppedError), stop_waits_on(stop):
            BRISK.wait(60.0)
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    stop.set()
    assert ended.wait(5)
    thread.join()
