"""A Reporter that remembers what was said."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from offline_kit.core.report import Advance, Reporter, Say


@dataclass
class Listener(Reporter):
    """Remembers steps, notes, warnings, the amounts of each bar, and the words of each live line."""

    during: Callable[[], None] = lambda: None
    """Runs whenever a bar is opened."""
    steps: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    bars: list[tuple[int, list[int]]] = field(default_factory=list)
    live: list[str] = field(default_factory=list)

    @property
    def said(self) -> list[str]:
        return [*self.steps, *self.notes, *self.warnings]

    def step(self, text: str) -> None:
        self.steps.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    @contextmanager
    def progress(self, text: str, total: int, *, unit: str = "B") -> Iterator[Advance]:
        amounts: list[int] = []
        self.bars.append((total, amounts))
        self.during()
        yield amounts.append

    @contextmanager
    def waiting(self, text: str) -> Iterator[Say]:
        self.live.append(text)
        yield lambda words: self.live.append(words)
