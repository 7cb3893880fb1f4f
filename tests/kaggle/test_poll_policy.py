"""Looking at Kaggle until something shows."""

from collections.abc import Callable

import pytest

from offline_kit.kaggle.client.api_types import NoResponseError, RefusedError
from offline_kit.kaggle.push.poll_policy import PollPolicy, wait_until_shown

BRIEF = PollPolicy(first_interval=0.01, max_interval=0.02).retry_policy(0.1)


def refused(status: int) -> RefusedError:
    """Return what Kaggle says instead of an answer."""
    return RefusedError("Kaggle says: no", hint="later", status=status)


def looks(*seen: int | Exception | None) -> Callable[[], int | None]:
    """Return a look that sees these one after the other, and the last for ever."""
    left = list(seen)

    def look() -> int | None:
        found = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(found, Exception):
            raise found
        return found

    return look


def test_something_shows_after_nothing_and_after_trouble() -> None:
    """Nothing, "there is no such thing", an outage and no answer are all passed over."""
    trouble = (refused(404), refused(403), refused(503), NoResponseError("lost", hint="later"))
    assert wait_until_shown(looks(None, *trouble, 4), BRIEF) == 4
    assert wait_until_shown(looks(None, 0), BRIEF) == 0, "only None is nothing"


def test_nothing_at_the_end_is_nothing_and_trouble_is_told() -> None:
    """Whoever could not look at last does not know, and must not take it for lost."""
    assert wait_until_shown(looks(refused(503), None), BRIEF) is None
    with pytest.raises(RefusedError, match="no"):
        wait_until_shown(looks(None, refused(503)), BRIEF)


def test_a_real_refusal_ends_the_look_at_once() -> None:
    """It does not pass."""
    with pytest.raises(RefusedError):
        wait_until_shown(looks(refused(400), 4), BRIEF)
