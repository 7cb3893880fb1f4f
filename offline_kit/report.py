"""How a stage tells what it is doing, without knowing who listens."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]
"""Called with the amount of work that was just finished, in the unit of the bar."""


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


SILENT: Reporter = _Silent()
"""The default listener of every stage."""
