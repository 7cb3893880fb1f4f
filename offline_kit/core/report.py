"""How a long operation reports what it is doing, without knowing who listens."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int], None]
"""Called with the amount of work that was just finished, in the unit of the bar."""
Say = Callable[[str], None]  # called with the newest text of a line that changes


class Reporter:
    """Takes what an operation says while it works; this one shows nothing. Results and errors are returned and raised."""

    def step(self, text: str) -> None:
        """Report that a new piece of work begins."""

    def note(self, text: str) -> None:
        """Report something worth knowing."""

    def warn(self, text: str) -> None:
        """Report something that may spoil the run on Kaggle."""

    def can_ask(self) -> bool:
        """Return whether a person can be asked."""
        return False

    def ask(self, question: str) -> str:  # noqa: ARG002
        """Ask a person for a line, and return it without spaces around it."""
        return ""

    def confirm(self, question: str) -> bool:
        """Ask a person; return False if there is none."""
        return self.can_ask() and self.ask(f"{question} [y/N]").lower() in ("y", "yes")

    @contextmanager
    def progress(self, text: str, total: int, *, unit: str = "B") -> Iterator[Advance]:  # noqa: ARG002
        """Open a bar over `total` units ("B" for bytes); the context yields its advance function."""
        yield lambda _amount: None

    @contextmanager
    def waiting(self, text: str) -> Iterator[Say]:  # noqa: ARG002
        """Show one line about something that others do; the context yields what changes its end."""
        yield lambda _text: None


SILENT = Reporter()
