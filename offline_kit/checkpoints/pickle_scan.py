"""The scan of all that travels with the models: what its pickles would run, and what they ask of `__main__`."""

import fnmatch
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from offline_kit.checkpoints import pickle_streams, pickle_verdicts
from offline_kit.core.cache import Cache, cache_key
from offline_kit.core.errors import ProjectError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.project.types import Checkpoint

_CACHE_VERSION = 4
"""Counted up when files are judged by other rules, so that nothing old is remembered."""
_MAINS = ("__main__", "__mp_main__")


@dataclass(frozen=True, kw_only=True)
class ScanResult:
    """What the pickles of one file say."""

    original: str
    """The file's name in the kit."""
    dangers: tuple[str, ...] = ()
    """What they would run, as "imports 'posix.system': …"; empty for a clean file."""
    damage: tuple[str, ...] = ()
    """How they end too early, as "is cut off or damaged: …"; empty for a file that is whole."""
    main_names: tuple[str, ...] = ()
    """Names that they look up in the script that was run: classes and functions of the training."""
    packages: tuple[str, ...] = ()
    """Top-level packages that they import from."""


def scan_checkpoints(
    weights: Sequence[Checkpoint],
    *,
    trust: Sequence[str] = (),
    own_modules: Collection[str] = (),
    cache: Path,
    report: Reporter = SILENT,
) -> tuple[ScanResult, ...]:
    """Scan files for pickles that run something, in their order; nothing is loaded.

    Raises ProjectError with every danger of the files that no glob of `trust` names, and for those that are cut
    off. `own_modules` are the top-level modules of the project's own code. Results are remembered in `cache` by content.
    """
    store = Cache(cache)
    unknown = sum(store.read_record("scans", _cache_key(result)) is None for result in weights)
    if unknown:
        report.step(f"Scanning {unknown} file{'s' * (unknown > 1)} for pickles that run something")
    results = tuple(_scan_file(result, store, own_modules) for result in weights)
    suspects = [result for result in results if result.dangers or result.damage]
    for result in suspects:
        if is_trusted(result.original, trust):
            tell = report.warn if result.damage else report.note
            tell(
                f"'{result.original}' {(*result.damage, *result.dangers)[0]}; it travels, since `trust` names it"
            )
    suspects = [result for result in suspects if not is_trusted(result.original, trust)]
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
    first = suspects[0]
    names = ", ".join(f'"{suspect.original}"' for suspect in suspects)
    raise ProjectError(
        f"'{first.original}' {first.dangers[0]}"
        if len(suspects) == 1
        else f"{len(suspects)} files would run something when they are loaded",
        hint=f"delete what is not yours; if you saved it yourself, set trust = [{names}] in [tool.offline-kit]",
        details=[
            f"'{suspect.original}' {line}"
            for suspect in suspects
            for line in (suspect.dangers if len(suspects) > 1 else suspect.dangers[1:])
        ],
    )


def _refuse_damage(suspects: Sequence[ScanResult]) -> None:
    """Raise for files that cannot be loaded by anybody: trust is no remedy."""
    if suspects:
        several = len(suspects) > 1
        raise ProjectError(
            f"{len(suspects)} files are cut off or damaged"
            if several
            else f"'{suspects[0].original}' {suspects[0].damage[0]}",
            hint="save or copy it again" if not several else "save or copy them again",
            details=[
                f"'{suspect.original}' {line}"
                for suspect in suspects
                for line in suspect.damage[not several :]
            ],
        )


def _cache_key(weights: Checkpoint) -> str:
    return cache_key(_CACHE_VERSION, weights.sha256, weights.path.suffix)


def _scan_file(weights: Checkpoint, store: Cache, own_modules: Collection[str]) -> ScanResult:
    key = _cache_key(weights)
    record = store.read_record("scans", key)
    if record is None:
        record = _read_file(weights.path)
        store.write_record("scans", key, record)
    lists = {
        name: tuple(json.loads(str(record[name])))
        for name in ("names", "hidden", "damage", "main_names", "packages")
    }
    dangers = pickle_verdicts.classify_globals(lists.pop("names"), own_modules)
    imports = (f"imports '{name}' when it is loaded: {reason}" for name, reason in dangers.items())
    return ScanResult(original=weights.original, dangers=(*imports, *lists.pop("hidden")), **lists)


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
    lists = {
        "names": sorted(names),
        "hidden": hidden,
        "damage": damage,
        "main_names": sorted(_list_main_names(names)),
        "packages": sorted(_list_top_modules(names)),
    }
    return {name: json.dumps(values) for name, values in lists.items()}


def _list_main_names(names: Iterable[str]) -> set[str]:
    split_names = (name.split(".") for name in names)
    return {steps[1] for steps in split_names if steps[0] in _MAINS and len(steps) > 1}


def _list_top_modules(names: Iterable[str]) -> set[str]:
    return {name.partition(".")[0] for name in names if "." in name and " " not in name} - set(_MAINS)
