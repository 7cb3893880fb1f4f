"""Find the image packages that a run lacked by its errors, so that it can run again with them.

The packages that a run needs are read from its code. Those that libraries import by themselves (the engine of a reader,
the backend of a plot) show only when they are missing. The image has them, so the requirements are not at fault.
"""

import hashlib
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path

from packaging.utils import canonicalize_name

from offline_kit.core import files
from offline_kit.notebook import imports
from offline_kit.rehearsal import execution
from offline_kit.rehearsal.execution import KernelRun

_FAILED_IMPORT = re.compile(r"(?:[\w.]+\.)?(?:ModuleNotFoundError|ImportError|OptionalDependencyError)\b")
_WORD = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?"
_NAMES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"No module named '({_WORD})'",
        rf"Missing optional dependency '({_WORD})'",  # pandas
        rf"tried using: ('{_WORD}'(?:, '{_WORD}')*)",  # pandas: any of these engines
        rf"(?:pip3?|conda) install (?:-\S+ )*['\"`]?({_WORD})",
        rf"[Pp]lease install (?:the )?['\"`]?({_WORD})",
        rf"['\"`]?({_WORD})['\"`]? (?:package|library )?(?:is|was) (?:not installed|not found|required|needed)",
        rf"requires? (?:the )?['\"`]?({_WORD})['\"`]?",
    )
)
_MAX_ENGINES = 1  # to install of several that would do


def find_missing_packages(
    result: KernelRun, image: Mapping[str, str], installed: Container[str]
) -> tuple[str, ...]:
    """Return the image's distributions that the run's errors name as missing, without those `installed`."""
    distributions: dict[str, None] = {}
    for line in _read_import_errors(result):
        for group in _parse_names(line):
            candidates = [
                name for word in group for name in _match_distributions(word, image) if name not in installed
            ]
            distributions |= dict.fromkeys(candidates[:_MAX_ENGINES])
    return tuple(distributions)


def _read_import_errors(result: KernelRun) -> Iterator[str]:
    """Yield the import errors of the failed cell and of the scripts that it started."""
    cell = execution.find_stopped_cell(execution.read_cells(result.executed))
    if cell and _FAILED_IMPORT.search(cell.message):
        yield from cell.message.splitlines()
    if result.log.is_file():
        with result.log.open(encoding="utf-8", errors="replace") as lines:
            yield from (line for line in lines if _FAILED_IMPORT.match(line))


def _parse_names(line: str) -> Iterator[list[str]]:
    """Yield groups of names in an error; one name of each group is enough."""
    for pattern in _NAMES:
        for text in pattern.findall(line):
            yield [word.strip("' ") for word in text.split(",")]


def _match_distributions(word: str, image: Mapping[str, str]) -> list[str]:
    own = canonicalize_name(word)
    return [*imports.match_distributions([word.partition(".")[0]], image), *([own] if own in image else [])]


class MissingPackageCache:
    """Cache of the packages that earlier runs with the same packages lacked."""

    def __init__(self, cache: Path, image: str, packages: Iterable[str]) -> None:
        key = hashlib.sha256(repr((image, sorted(packages))).encode()).hexdigest()[:20]
        self._path = cache / "environments" / "lacked" / f"{key}.txt"

    def read_names(self) -> tuple[str, ...]:
        """Return the distributions, sorted; () if there is no entry."""
        try:
            return tuple(sorted(set(self._path.read_text(encoding="utf-8").split())))
        except OSError:
            return ()

    def add_names(self, names: Iterable[str]) -> None:
        """Add distributions to the entry."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = "\n".join(sorted({*self.read_names(), *names}))
        files.write_atomic(self._path, f"{text}\n")
