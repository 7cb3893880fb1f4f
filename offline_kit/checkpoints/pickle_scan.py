"""Scan all files of the models: what their pickles would run, and which names of `__main__` they need."""

import fnmatch
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from offline_kit.checkpoints import pickle_allowlist, pickle_streams
from offline_kit.core.cache import Cache, cache_key
from offline_kit.core.errors import ProjectError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.project.types import Checkpoint

_CACHE_VERSION = 5
"""Increased when files are judged by other rules, so that nothing old is remembered."""
_MAINS = ("__main__", "__mp_main__")


@dataclass(frozen=True, kw_only=True)
class ScanResult:
    """What the pickles of one file would do."""

    original: str
    dangers: tuple[str, ...] = ()
    """What they would run, as "imports 'posix.system': …"."""
    damage: tuple[str, ...] = ()
    """How they end too early, as "is cut off or damaged: …"."""
    main_names: tuple[str, ...] = ()
    """Names that they look up in the script that was run: classes and functions of the training."""


def scan_checkpoints(
    weights: Sequence[Checkpoint],
    *,
    trust: Sequence[str] = (),
    own_modules: Collection[str] = (),
    cache: Path,
    report: Reporter = SILENT,
) -> tuple[ScanResult, ...]:
    """Scan files for pickles that run something, in their order, without loading them.

    `own_modules` are the top-level modules of the project's own code. Results are cached by content. Raises
    ProjectError with every danger of the files that no glob of `trust` matches, and for damaged files.
    """
    store = Cache(cache)
    unknown = sum(store.read_record("scans", _file_key(file)) is None for file in weights)
    if unknown:
        report.step(f"Scanning {unknown} file{'s' * (unknown > 1)} for unsafe pickles")
    results = tuple(_scan_file(file, store, own_modules) for file in weights)
    suspects = []
    for result in results:
        if not result.dangers and not result.damage:
            continue
        if is_trusted(result.original, trust):
            tell = report.warn if result.damage else report.note
            first_problem = (*result.damage, *result.dangers)[0]
            tell(f"'{result.original}' {first_problem}; it is included because `trust` names it")
        else:
            suspects.append(result)
    _refuse_dangers([result for result in suspects if result.dangers])
    _refuse_damage(suspects)
    return results


def is_trusted(original: str, trust: Iterable[str]) -> bool:
    """Whether `trust` names this file, by its very name ("model[1].pkl") or by a glob."""
    patterns = [pattern.removeprefix("./") for pattern in trust]
    return original in patterns or any(fnmatch.fnmatchcase(original, pattern) for pattern in patterns)


def _refuse_dangers(suspects: Sequence[ScanResult]) -> None:
    if not suspects:
        return
    lines = [f"'{suspect.original}' {line}" for suspect in suspects for line in suspect.dangers]
    names = ", ".join(f'"{suspect.original}"' for suspect in suspects)
    is_single = len(suspects) == 1
    raise ProjectError(
        lines[0] if is_single else f"{len(suspects)} files would run something when they are loaded",
        hint=f"delete what is not yours; if you saved it yourself, set trust = [{names}] in [tool.offline-kit]",
        code="unsafe-pickle",
        details=lines[is_single:],
    )


def _refuse_damage(suspects: Sequence[ScanResult]) -> None:
    """Raise for files that nobody can load: trust is no remedy."""
    if not suspects:
        return
    lines = [f"'{suspect.original}' {line}" for suspect in suspects for line in suspect.damage]
    is_single = len(suspects) == 1
    raise ProjectError(
        lines[0] if is_single else f"{len(suspects)} files are cut off or damaged",
        hint=f"save or copy {'it' if is_single else 'them'} again",
        code="checkpoint-damaged",
        details=lines[is_single:],
    )


def _file_key(file: Checkpoint) -> str:
    return cache_key(_CACHE_VERSION, file.sha256, file.path.suffix)


def _scan_file(file: Checkpoint, store: Cache, own_modules: Collection[str]) -> ScanResult:
    key = _file_key(file)
    record = store.read_record("scans", key)
    if record is None:
        record = _read_file(file.path)
        store.write_record("scans", key, record)
    names, hidden, damage = (json.loads(str(record[field])) for field in ("names", "hidden", "damage"))
    dangers = pickle_allowlist.classify_globals(names, own_modules)
    imports = (f"imports '{name}' when it is loaded: {reason}" for name, reason in dangers.items())
    return ScanResult(
        original=file.original,
        dangers=(*imports, *hidden),
        damage=tuple(damage),
        main_names=tuple(_list_main_names(names)),
    )


def _read_file(path: Path) -> dict[str, object]:
    try:
        pickles = pickle_streams.read_pickles(path)
    except OSError as error:
        raise ProjectError(
            f"'{path}' cannot be read: {error.strerror}",
            hint="make it readable, then build again",
            code="checkpoint-unreadable",
        ) from error
    names = {name for pickled in pickles for name in pickled.globals}
    hidden = [
        f"cannot be read to its end{f' (its {pickled.member!r})' if pickled.member else ''}: the rest is hidden"
        for pickled in pickles
        if not pickled.is_whole and not pickled.damage
    ]
    damage = [
        f"is cut off or damaged: {f'in its {pickled.member!r}, ' if pickled.member else ''}{pickled.damage}"
        for pickled in pickles
        if pickled.damage
    ]
    lists = {"names": sorted(names), "hidden": hidden, "damage": damage}
    return {name: json.dumps(values) for name, values in lists.items()}


def _list_main_names(names: Iterable[str]) -> list[str]:
    split_names = (name.split(".") for name in names)
    return sorted({steps[1] for steps in split_names if steps[0] in _MAINS and len(steps) > 1})
