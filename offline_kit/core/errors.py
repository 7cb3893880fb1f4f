"""The expected failures.

    OfflineKitError
    ├── ProjectError    exit 1   the kit or the project has problems
    ├── UsageError      exit 2   asked for something wrong (flags, configuration, unknown image)
    └── OutsideError    exit 4   Kaggle, the network, the index or the disk refused

Any other exception is our bug (exit 3, with a crash report); an interrupt exits with 130.
"""

from collections.abc import Iterable, Sequence
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every command."""

    DONE = 0
    PROJECT = 1
    USAGE = 2
    BUG = 3
    OUTSIDE = 4
    INTERRUPTED = 130


class OfflineKitError(Exception):
    """An expected failure.

    `what` is one sentence that names the thing, `hint` the next step: one command or edit. `code` is a stable name for
    scripts and docs/errors.md, in kebab-case. `details` are further lines: every problem of a list, another tool's
    output.
    """

    exit_code: int = Exit.BUG
    default_code = ""  # the code of a class whose failures are all of one kind

    def __init__(self, what: str, *, hint: str, code: str = "", details: Sequence[str] = ()) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.code = code or self.default_code
        self.details = tuple(details)


class ProjectError(OfflineKitError):
    """The project or the kit has a problem that its owner can fix."""

    exit_code: int = Exit.PROJECT


class UsageError(OfflineKitError):
    """The command line or the configuration asks for something impossible."""

    exit_code = Exit.USAGE


class OutsideError(OfflineKitError):
    """Kaggle, the network, an index or the disk refused; the same command may work later."""

    exit_code = Exit.OUTSIDE


def describe_problems(problems: Iterable[OfflineKitError]) -> list[str]:
    """Return each problem with its details and its hint, as the details of one error about all of them."""
    lines: list[str] = []
    for problem in problems:
        lines += [problem.what, *(f"    {detail}" for detail in problem.details), f"    → {problem.hint}"]
    return lines


def suggest_name(name: str, known_names: Iterable[str], *, cutoff: float = 0.6, limit: int = 1) -> str:
    """Return the end of a sentence about an unknown name: "; did you mean 'this'?", or "" if no known name is similar.

    `cutoff` is the similarity that a known name needs, 1.0 is equal; at most `limit` of them are named.
    """
    from difflib import get_close_matches

    matches = get_close_matches(name, list(known_names), n=limit, cutoff=cutoff)
    return f"; did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""
