"""Scan all files of the models: what their pickles would run, and which names of `__main__` they need.

Classes in the estimator modules of the usual libraries are allowed, functions by name (`data/pickle_names.toml`), and
the project's own code; everything else counts as dangerous.
"""

import fnmatch
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import cast

from offline_kit.checkpoints.pickle_opcodes import HIDDEN_CALL, HIDDEN_IMPORT, PICKLE_NAMES, expand_names
from offline_kit.checkpoints.pickle_streams import read_pickles
from offline_kit.core.cache import Cache, cache_key
from offline_kit.core.errors import ProjectError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.project.types import Checkpoint

# Increased when files are judged by other rules, so that nothing old is remembered
_CACHE_VERSION = 7
_MAINS = ("__main__", "__mp_main__")
_ALLOWED_NAMES = expand_names("weights_only", "standard_library", "functions")
_WORDS = {key: frozenset(words.split()) for key, words in PICKLE_NAMES["words"].items()}
_ESTIMATORS = {package: modules.split() for package, modules in PICKLE_NAMES["estimators"].items()}
_ALLOWED_PATTERNS = (
    re.compile(r"sklearn\.metrics\.[\w.]+_(?:score|loss|error|distances?|kernel)"),
    re.compile(r"scipy\.interpolate\.(?:_?interpolate)\.interp1d\._call_\w+"),
    re.compile(r"scipy\.sparse\.[\w.]*(?:bsr|coo|csc|csr|dia|dok|lil)_(?:matrix|array)"),
    # How Cython unpickles its own classes.
    re.compile(r"(?:numpy\.random|pandas\._libs|sklearn|catboost|lightgbm)\.[\w.]*__pyx_unpickle_\w+"),
)
# Classes that a TorchScript archive defines itself, for torch's C++ alone: Python has no module `__torch__`
_TORCHSCRIPT = re.compile(r"__torch__\.[\w.]+|torch\.jit\._pickle\.(?:build_\w+|restore_type_tag)")


def scan_checkpoints(
    weights: Sequence[Checkpoint],
    *,
    trust: Sequence[str] = (),
    own_modules: Collection[str] = (),
    cache: Path,
    report: Reporter = SILENT,
) -> dict[str, list[str]]:
    """Scan files for pickles that run something, in their order, without loading them.

    Returns the names that the pickles of each file look up in the script that was run: classes and functions of the
    training. `own_modules` are the top-level modules of the project's own code. Results are cached by content. Raises
    ProjectError with every danger of the files that no glob of `trust` matches, and for damaged files.
    """
    store = Cache(cache)
    keys = [cache_key(_CACHE_VERSION, file.sha256, file.path.suffix) for file in weights]
    records = [cast("dict[str, list[str]] | None", store.read_record("scans", key)) for key in keys]
    if unknown := records.count(None):
        report.step(f"Scanning {unknown} file{'s' * (unknown > 1)} for unsafe pickles")
    main_names: dict[str, list[str]] = {}
    dangers, damage = dict[str, list[str]](), dict[str, list[str]]()
    for file, key, known in zip(weights, keys, records, strict=True):
        name, record = file.original, known or _read_file(file.path)
        if known is None:
            store.write_record("scans", key, record)
        steps = [imported.split(".") for imported in record["names"]]
        main_names[name] = sorted({step[1] for step in steps if step[0] in _MAINS and len(step) > 1})
        reasons = classify_globals(record["names"], own_modules).items()
        risks = [f"imports '{imported}' when it is loaded: {why}" for imported, why in reasons]
        risks += record["hidden"]
        problems = [*record["damage"], *risks]
        if problems and is_trusted(name, trust):
            tell = report.warn if record["damage"] else report.note
            tell(f"'{name}' {problems[0]}; it is included because `trust` names it")
        elif risks:
            dangers[name] = risks
        elif problems:
            damage[name] = problems
    _refuse_files(dangers, damage)
    return main_names


def is_trusted(original: str, trust: Iterable[str]) -> bool:
    """Whether `trust` names this file, by its very name ("model[1].pkl") or by a glob."""
    patterns = [pattern.removeprefix("./") for pattern in trust]
    return original in patterns or any(fnmatch.fnmatchcase(original, pattern) for pattern in patterns)


def classify_globals(names: Iterable[str], own_modules: Collection[str] = ()) -> dict[str, str]:
    """Return the globals ("module.name") that are not allowed, each with its reason.

    `own_modules` are the top-level modules of the project's own code.
    """
    reasons = {name: _find_reason(name, own_modules) for name in sorted(set(names))}
    return {name: reason for name, reason in reasons.items() if reason}


def _read_file(path: Path) -> dict[str, list[str]]:
    """Return what the cache keeps of a file: imported names, what cannot be read, and how it is damaged."""
    try:
        pickles = read_pickles(path)
    except OSError as error:
        raise ProjectError(
            f"'{path}' cannot be read: {error.strerror}",
            hint="make it readable, then build again",
            code="checkpoint-unreadable",
        ) from error
    hidden, damage = [], []
    for pickled in pickles:
        if pickled.damage:
            where = f"in its {pickled.member!r}, " if pickled.member else ""
            damage.append(f"is cut off or damaged: {where}{pickled.damage}")
        elif not pickled.is_whole:
            where = f" (its {pickled.member!r})" if pickled.member else ""
            hidden.append(f"cannot be read to its end{where}: the rest is hidden")
    names = {name for pickled in pickles for name in pickled.names}
    return {"names": sorted(names), "hidden": hidden, "damage": damage}


def _refuse_files(dangers: dict[str, list[str]], damage: dict[str, list[str]]) -> None:
    """Raise for files that would run something, else for those that nobody can load: trust is no remedy for them."""
    files = dangers or damage
    lines = [f"'{name}' {line}" for name, problems in files.items() for line in problems]
    is_single = len(files) == 1
    if dangers:
        names = ", ".join(f'"{name}"' for name in dangers)
        raise ProjectError(
            lines[0] if is_single else f"{len(dangers)} files would run something when they are loaded",
            hint=f"delete what is not yours; if you saved it yourself, set trust = [{names}] in [tool.offline-kit]",
            code="unsafe-pickle",
            details=lines[is_single:],
        )
    if damage:
        raise ProjectError(
            lines[0] if is_single else f"{len(damage)} files are cut off or damaged",
            hint=f"save or copy {'it' if is_single else 'them'} again",
            code="checkpoint-damaged",
            details=lines[is_single:],
        )


def _find_reason(name: str, own_modules: Collection[str]) -> str:
    if name in (HIDDEN_IMPORT, HIDDEN_CALL):
        return f"what it {'imports' if name == HIDDEN_IMPORT else 'calls'} is hidden"
    if name in _ALLOWED_NAMES or _TORCHSCRIPT.fullmatch(name):
        return ""
    module, _, last_name = name.rpartition(".")
    top, *steps = name.split(".")
    is_standard = top in sys.stdlib_module_names
    is_own = top in _MAINS or (top in own_modules and not is_standard)
    if is_standard and not is_own:
        harmless = module in _WORDS["safe_modules"] and not last_name.startswith("_")
        return "" if harmless else "no model needs it from the standard library"
    # A name may lead into a module of another package: "torch.hub.os.system".
    if bypass := next((step for step in steps if step in _WORDS["powerful_modules"]), ""):
        return f"it reaches Python's '{bypass}' through '{top}'"
    if is_own or any(pattern.fullmatch(name) for pattern in _ALLOWED_PATTERNS):
        return ""
    if _WORDS["unsafe_parts"] & {top, *steps}:
        return f"it is a part of '{top}' that reads, writes or runs something"
    others, modules = _WORDS["other_estimators"], _ESTIMATORS.get(top, [])
    is_estimator = top in others or (bool(steps) and steps[0] in modules)
    is_pandas = top == "pandas" and len(steps) == 1  # pandas.DataFrame, pandas.CategoricalDtype
    # Classes are capitalized: "Pipeline", "_BinMapper", "C_NA".
    if last_name.lstrip("_")[:1].isupper() and (is_estimator or is_pandas):
        return ""
    if top in others or modules or top in ("joblib", "dill", "cloudpickle"):
        return f"models are not made of this part of '{top}'"
    return f"'{top}' is neither a known library nor your own code"
