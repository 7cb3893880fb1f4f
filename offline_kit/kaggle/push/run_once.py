"""Doing once what cannot be asked back: written down before, looked for where its answer is lost."""

import time
from collections.abc import Callable
from typing import TypeVar

from offline_kit.core.errors import OutsideError
from offline_kit.core.report import Reporter
from offline_kit.kaggle.client.api_types import NoResponseError, RefusedError, UnreachableError
from offline_kit.kaggle.push.journal import Effect, Journal, Phase

_T = TypeVar("_T")


def run_once(
    journal: Journal,
    effect: Effect,
    send: Callable[[], _T],
    find_effect: Callable[[], _T | None],
    description: str,
    report: Reporter,
) -> _T:
    """Return the answer to what is sent, or what `find_effect` finds of it where the answer is lost.

    Then the journal says that it was answered. Raises Kaggle's refusal, and the trouble where nothing is
    found: both are in the journal. Where nobody could look, the journal leaves it open for the next run.
    """
    journal.append_entry(effect, Phase.BEGUN)
    try:
        answer = send()
    except UnreachableError:
        journal.append_entry(effect, Phase.LOST)
        raise
    except (RefusedError, NoResponseError) as trouble:
        if isinstance(trouble, RefusedError) and trouble.status < 500:
            journal.append_entry(effect, Phase.REFUSED)
            raise
        report.warn(f"no answer about {description}: looking whether it is there all the same")
        result = find_effect()
        if result is None:
            journal.append_entry(effect, Phase.LOST)
            raise
        answer = result
    journal.append_entry(effect, Phase.ANSWERED)
    return answer


def recover_interrupted(
    journal: Journal,
    target: str,
    find_effect: Callable[[Effect], _T | None],
    report: Reporter,
    *,
    processing: float = 0.0,
) -> _T | None:
    """Return what `find_effect` finds of the effect that an earlier run left open; None where there is none.

    How it ended is in the journal then. Raises OutsideError where Kaggle said yes less than `processing`
    seconds ago and still shows nothing: it may come yet.
    """
    entry = journal.find_open_entry(target)
    if entry is None:
        return None
    name = target.rpartition(":")[2]
    report.note(f"an earlier push of '{name}' was interrupted; looking what became of it")
    result = find_effect(entry.effect)
    if result is None and entry.phase is Phase.ANSWERED and time.time() - entry.at < processing:
        raise OutsideError(
            f"Kaggle took the push of '{name}', and does not show it yet",
            hint="run the same command again later: it looks for it first, and nothing is sent twice",
        )
    journal.append_entry(entry.effect, Phase.LOST if result is None else Phase.DONE)
    return result
