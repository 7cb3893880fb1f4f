"""Explain failures of a notebook or a submission that are known: the words of the error, its cause, and a remedy."""

import re
import tomllib
from dataclasses import dataclass
from functools import cache

from offline_kit.checkpoints.slim_worker import TRAINING
from offline_kit.core import resources


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why something failed, and how to fix it; all fields are empty for an unknown failure."""

    code: str = ""
    cause: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class KnownFailure:
    """An error that users meet, and how to fix it."""

    code: str
    pattern: str  # searched in the error's text, ignoring case; the texts may use its groups as {0} and {1}
    cause: str
    remedy: str
    current_remedy: str = ""  # added to the remedy if the run used the running environment


@cache
def read_known_failures(table: str = "known_failures") -> tuple[KnownFailure, ...]:
    """Return the failures to try, in this order."""
    rows = tomllib.loads(resources.data_file(f"{table}.toml").read_text(encoding="utf-8"))["failures"]
    return tuple(
        KnownFailure(pattern="|".join(row.pop("patterns")).replace("{training}", TRAINING.pattern), **row)
        for row in rows
    )


def explain_failure(text: str, *, current: bool = False, table: str = "known_failures") -> Explanation:
    """Explain an error's text by the first known failure of a table that matches it.

    `current` says that the code ran in the running environment, which may lack packages of the image.
    """
    for failure in read_known_failures(table):
        if match := re.search(failure.pattern, text, re.IGNORECASE):
            cause, remedy = failure.cause, failure.remedy + failure.current_remedy * current
            for number, group in enumerate(group for group in match.groups() if group):
                cause, remedy = (part.replace(f"{{{number}}}", group) for part in (cause, remedy))
            return Explanation(code=failure.code, cause=cause, remedy=remedy)
    return Explanation()
