"""Resolve the names of `__main__` that pickles look up.

A class that a training script defines is pickled as `__main__.Name`
(https://docs.python.org/3/library/pickle.html#what-can-be-pickled-and-unpickled), and in a notebook `__main__` is
the notebook. The kit includes the script, and `kit_hooks` aliases its names.
"""

import ast
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from offline_kit.checkpoints.discovery import list_files
from offline_kit.core.errors import ProjectError
from offline_kit.project import references

_SKIPPED_FOLDERS = frozenset(
    {"dist", "build", "site-packages", "node_modules", "__pycache__"}
    | {"wandb", "lightning_logs", "venv", "env"}
)
_MAX_FILES = 2000


@dataclass(frozen=True, kw_only=True)
class MainAliases:
    """Names that the notebook adds to `__main__` for pickles."""

    path: str = ""  # script that defines them, relative to the project; empty if no pickle needs any
    names: tuple[str, ...] = ()


NO_ALIASES = MainAliases()


def resolve_main_aliases(
    project: Path,
    main_from: Path | None,
    main_names: Mapping[str, Sequence[str]],
    notebook_names: Collection[str] = (),
) -> MainAliases:
    """Return which names of `__main__` the pickles need, and the script that defines them.

    `main_names` are those that pickles look up, by original name; `notebook_names` are defined by an adopted notebook
    itself. Raises ProjectError if `main_from` is missing, is outside the project, is a notebook or does not define all
    names.
    """
    requests = {
        original: unknown
        for original, looked_up in main_names.items()
        if (unknown := [name for name in looked_up if name not in notebook_names])
    }
    names = sorted({name for unknown in requests.values() for name in unknown})
    if not names:
        return NO_ALIASES
    details = [f"'{original}' looks up {_quote_names(unknown)}" for original, unknown in requests.items()]
    if main_from is None:
        whose = f"'{next(iter(requests))}' needs" if len(requests) == 1 else f"{len(requests)} files need"
        raise ProjectError(
            f"{whose} {_quote_names(names)} of the script that saved it, which the notebook does not have",
            hint=_suggest_source(project, names, names),
            code="main-script-missing",
            details=details if len(requests) > 1 else (),
        )
    if main_from.suffix == ".ipynb":
        raise ProjectError(
            f"'{main_from.name}' (`main_from`) is a notebook, and pickles need {_quote_names(names)} from a .py file",
            hint=_suggest_source(project, names, names),
            code="main-script-notebook",
        )
    tree = references.parse_module(main_from)
    # A file that this Python cannot parse counts as open-ended; the syntax is checked elsewhere.
    defined, open_ended = references.find_bound_names(tree.body) if tree else (set(), True)
    undefined = [] if open_ended else [name for name in names if name not in defined]
    if undefined:
        raise ProjectError(
            f"'{main_from.name}' (`main_from`) does not define {_quote_names(undefined)}, which pickles look up in it",
            hint=_suggest_source(project, undefined, names),
            code="main-names-undefined",
            details=details,
        )
    if not main_from.resolve().is_relative_to(project.resolve()):
        raise ProjectError(
            f"'{main_from}' (`main_from`) is outside the project",
            hint="copy it into the project, and set `main_from` to the copy",
            code="main-script-outside",
        )
    return MainAliases(path=main_from.resolve().relative_to(project.resolve()).as_posix(), names=tuple(names))


def reference_main_script(project: Path, main_from: Path | None) -> tuple[str, ...]:
    """Return a reference to a definition in `main_from`, so that the kit includes the script."""
    if main_from is None or not main_from.resolve().is_relative_to(project.resolve()):
        return ()
    tree = references.parse_module(main_from)
    body = tree.body if tree else []
    names = [node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    names = names or sorted(references.find_bound_names(body)[0])
    return (f"{main_from.resolve().relative_to(project.resolve()).as_posix()}:{names[0]}",) if names else ()


def list_notebook_names(path: Path) -> set[str]:
    """Return the names that a notebook's cells define; cells that are not Python define none."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    bound: set[str] = set()
    for source in sources:
        code = "\n".join(line for line in source.splitlines() if not line.lstrip().startswith(("%", "!")))
        try:
            bound |= references.find_bound_names(ast.parse(code).body)[0]
        except (SyntaxError, ValueError):
            continue
    return bound


def _suggest_source(project: Path, undefined: Sequence[str], names: Sequence[str]) -> str:
    scripts = []
    paths = list_files(project, _SKIPPED_FOLDERS)
    for path in [path for path in paths if path.suffix == ".py"][:_MAX_FILES]:
        tree = references.parse_module(path)
        if tree and set(names) <= references.find_bound_names(tree.body)[0]:
            scripts.append(path.relative_to(project).as_posix())
    if scripts:
        alternatives = f" (so does {' and '.join(scripts[1:3])})" if len(scripts) > 1 else ""
        return f'set main_from = "{scripts[0]}" in [tool.offline-kit]: it defines {_quote_names(names)}{alternatives}'
    for path in [path for path in paths if path.suffix == ".ipynb"][:_MAX_FILES]:
        if set(undefined) & list_notebook_names(path):
            return (
                f"copy the cell of '{path.relative_to(project).as_posix()}' that defines {_quote_names(undefined)} into a "
                ".py file of the project, and set `main_from` in [tool.offline-kit] to it"
            )
    return (
        f'set main_from = "train.py" in [tool.offline-kit] to the script that defines {_quote_names(undefined)}; '
        "no file of the project does"
    )


def _quote_names(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
