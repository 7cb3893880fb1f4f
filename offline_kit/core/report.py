"""How a stage tells what it is doing, without knowing who listens."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]
"""Called with the amount of work that was just finished, in the unit of the bar."""
Say = Callable[[str], None]
"""Called with the newest words of a line that changes."""


class Reporter(Protocol):
    """What a stage may say while it works; results and errors travel otherwise."""

    def step(self, text: str) -> None:
        """Say that a new piece of work begins."""

    def note(self, text: str) -> None:
        """Say something worth knowing."""

    def warn(self, text: str) -> None:
        """Say something that may spoil the run on Kaggle."""

    def progress(self, text: str, total: int, *, unit: str = "B") -> AbstractContextManager[Advance]:
        """Open a bar over `total` units ("B" for bytes); the context yields its advance function."""

    def waiting(self, text: str) -> AbstractContextManager[Say]:
        """Show one line about something that others do; the context yields what changes its end."""


class _Silent:
    """Says nothing."""

    def step(self, text: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass

    @contextmanager
    def progress(self, text: str, total: int, *, unit: str = "B") -> Iterator[Advance]:  # noqa: ARG002
        yield lambda _amount: None

    @contextmanager
    def waiting(self, text: str) -> Iterator[Say]:  # noqa: ARG002
        yield lambda _words: None


SILENT: Reporter = _Silent()
"""The default listener of every stage."""
