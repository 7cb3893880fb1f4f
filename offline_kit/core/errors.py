"""Everything that may go wrong on purpose, on one page.

    OfflineKitError
    ├── ProjectError    exit 1   the kit or the project has problems
    ├── UsageError      exit 2   asked for something wrong (flags, configuration, unknown image)
    └── OutsideError    exit 4   Kaggle, the network, the index or the disk said no

Anything else that escapes is our bug (exit 3, with a crash report); an interrupt exits with 130.
Every error names the thing and carries the next step as its hint.
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
    """An expected failure: one sentence, the details behind it, and the next step."""

    exit_code: Exit = Exit.BUG
    default_code = ""
    """The code of a class whose failures are all of one kind."""

    def __init__(self, what: str, *, hint: str, code: str = "", details: Sequence[str] = ()) -> None:
        super().__init__(what)
        self.what = what
        """One sentence that names the thing, without a traceback."""
        self.hint = hint
        """What to do next: one command or edit."""
        self.code = code or self.default_code
        """Stable name of the failure, in kebab-case, for scripts and for docs/errors.md."""
        self.details = tuple(details)
        """Further lines: every problem of a list, the quoted cell, another tool's own words."""


class ProjectError(OfflineKitError):
    """The project or the kit has a problem that its owner can fix."""

    exit_code = Exit.PROJECT


class UsageError(OfflineKitError):
    """The command line or the configuration asks for something that cannot be."""

    exit_code = Exit.USAGE


class OutsideError(OfflineKitError):
    """Kaggle, the network, an index or the disk said no; the same command may work later."""

    exit_code = Exit.OUTSIDE


def suggest_name(name: str, known_names: Iterable[str], *, cutoff: float = 0.6, limit: int = 1) -> str:
    """Return how a sentence on an unknown name ends: "; did you mean 'this'?", or nothing where none is near.

    `cutoff` is how near a known name must be, 1.0 is equal; at most `limit` of them are named.
    """
    from difflib import get_close_matches

    matches = get_close_matches(name, list(known_names), n=limit, cutoff=cutoff)
    return f"; did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""
