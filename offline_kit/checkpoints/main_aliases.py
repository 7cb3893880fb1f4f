"""Resolve the names of `__main__` that pickles look up, and check that their script can be imported.

A class that a training script defines is pickled as `__main__.Name`
(https://docs.python.org/3/library/pickle.html#what-can-be-pickled-and-unpickled), and in a notebook `__main__` is
the notebook. The kit includes the script, and `kit_main` aliases its names.
"""

import ast
import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from offline_kit.checkpoints.pickle_opcodes import split_words
from offline_kit.checkpoints.pickle_scan import ScanResult
from offline_kit.core.errors import ProjectError
from offline_kit.project import references
from offline_kit.project.types import Finding, Severity

_SKIPPED_FOLDERS = frozenset(
    {"dist", "build", "site-packages", "node_modules", "__pycache__", "wandb", "lightning_logs"}
)
_MAX_FILES = 2000
_TRAINING_CALLS = frozenset(
    split_words("""
    fit fit_transform fit_predict partial_fit train backward optimize create_study cross_val_score run_training
    read_csv read_parquet read_feather read_excel read_json read_table read_sql read_pickle load_dataset
    parse_args input main download from_pretrained
    """)
)
"""Last names of calls that no import should do: training, reading the data, the command line."""
_READING_CALLS = frozenset(
    split_words("open load loadtxt listdir glob imread read_text read_bytes predict init to_csv save")
)
"""Last names of calls that may fail in the notebook, which has no training files."""
_DATA_SUFFIXES = frozenset(
    split_words(".csv .tsv .parquet .feather .json .jsonl .npy .npz .xlsx .pkl .joblib .h5 .db .sqlite .zip")
)
"""Suffixes of the project's files that a call with their name reads."""


@dataclass(frozen=True, kw_only=True)
class MainAliases:
    """Names that the notebook adds to `__main__` for pickles."""

    path: str = ""
    """Script that defines them, relative to the project; empty if no pickle needs any."""
    names: tuple[str, ...] = ()

    @property
    def references(self) -> tuple[str, ...]:
        """References to the names, so that the kit includes the script with its imports."""
        return tuple(f"{self.path}:{name}" for name in self.names)


NO_ALIASES = MainAliases()


def resolve_main_aliases(
    project: Path,
    main_from: Path | None,
    scan_results: Sequence[ScanResult],
    notebook_names: Collection[str] = (),
) -> MainAliases:
    """Return which names of `__main__` the pickles need, and the script that defines them.

    `notebook_names` are defined by an adopted notebook itself. Raises ProjectError if `main_from` is missing, is outside
    the project, is a notebook or does not define all names.
    """
    unknown_names = {
        result.original: tuple(name for name in result.main_names if name not in notebook_names)
        for result in scan_results
    }
    requests = {original: names for original, names in unknown_names.items() if names}
    names = sorted({name for file_names in requests.values() for name in file_names})
    if not names:
        return NO_ALIASES
    if main_from is not None and main_from.suffix == ".ipynb":
        raise ProjectError(
            f"'{main_from.name}' (`main_from`) is a notebook, and pickles need {_quote_names(names)} from a .py file",
            hint=_suggest_source(project, names, names),
            code="main-script-notebook",
        )
    if main_from is None:
        raise _missing_script_error(project, requests, names)
    undefined = [name for name in names if not _may_define_name(main_from, name)]
    if undefined:
        raise ProjectError(
            f"'{main_from.name}' (`main_from`) does not define {_quote_names(undefined)}, which pickles look up in it",
            hint=_suggest_source(project, undefined, names),
            code="main-names-undefined",
            details=_list_requests(requests),
        )
    if not main_from.resolve().is_relative_to(project.resolve()):
        raise ProjectError(
            f"'{main_from}' (`main_from`) is outside the project",
            hint="copy it into the project, and set `main_from` to the copy",
            code="main-script-outside",
        )
    return MainAliases(path=main_from.resolve().relative_to(project.resolve()).as_posix(), names=tuple(names))


def check_main_script(project: Path, aliases: MainAliases) -> tuple[Finding, ...]:
    """Return findings on calls that the script makes when the notebook imports it."""
    tree = references.parse_module(project / aliases.path) if aliases.path else None
    findings = []
    for line, call, trains in _find_import_work(tree.body if tree else (), _DataFiles(project, tree)):
        findings.append(
            Finding(
                severity=Severity.STOP if trains else Severity.WARN,
                about=f"{aliases.path}:{line}",
                what=f"calls {call} when it is imported, as the notebook will to find {_quote_names(aliases.names)}",
                remedy='put it below `if __name__ == "__main__":`, or copy the definitions into a file of their '
                "own and set `main_from` to it; the pickle stays valid",
            )
        )
    return tuple(findings)


def _missing_script_error(
    project: Path, requests: dict[str, tuple[str, ...]], names: list[str]
) -> ProjectError:
    first = next(iter(requests))
    whose = f"'{first}' needs" if len(requests) == 1 else f"{len(requests)} files need"
    return ProjectError(
        f"{whose} {_quote_names(names)} of the script that saved it, which the notebook does not have",
        hint=_suggest_source(project, names, names),
        code="main-script-missing",
        details=_list_requests(requests) if len(requests) > 1 else (),
    )


def _suggest_source(project: Path, undefined: Sequence[str], names: Sequence[str]) -> str:
    scripts = [path for path, defined in _read_scripts(project) if set(names) <= defined]
    if scripts:
        alternatives = f" (so does {' and '.join(scripts[1:3])})" if len(scripts) > 1 else ""
        return f'set main_from = "{scripts[0]}" in [tool.offline-kit]: it defines {_quote_names(names)}{alternatives}'
    notebooks = [path for path, defined in _read_notebooks(project) if set(undefined) & defined]
    if notebooks:
        return (
            f"copy the cell of '{notebooks[0]}' that defines {_quote_names(undefined)} into a .py file of the project, "
            "and set `main_from` in [tool.offline-kit] to it"
        )
    return (
        f'set main_from = "train.py" in [tool.offline-kit] to the script that defines {_quote_names(undefined)}; '
        "no file of the project does"
    )


def _list_requests(requests: dict[str, tuple[str, ...]]) -> list[str]:
    return [f"'{original}' looks up {_quote_names(names)}" for original, names in requests.items()]


def _quote_names(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _may_define_name(file: Path, name: str) -> bool:
    tree = references.parse_module(file)
    if tree is None:
        return True  # a Python that this one cannot parse; the syntax is checked elsewhere
    names, open_ended = references.find_bound_names(tree.body)
    return name in names or open_ended


def _find_files(project: Path, suffix: str) -> Iterator[Path]:
    count = 0
    for folder, folders, names in os.walk(project):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and name not in _SKIPPED_FOLDERS | {"venv", "env"}
        )
        for name in sorted(names):
            if name.endswith(suffix) and count < _MAX_FILES:
                count += 1
                yield Path(folder, name)


def _read_scripts(project: Path) -> Iterator[tuple[str, set[str]]]:
    for path in _find_files(project, ".py"):
        tree = references.parse_module(path)
        if tree is not None:
            yield path.relative_to(project).as_posix(), references.find_bound_names(tree.body)[0]


def _read_notebooks(project: Path) -> Iterator[tuple[str, set[str]]]:
    for path in _find_files(project, ".ipynb"):
        yield path.relative_to(project).as_posix(), list_notebook_names(path)


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


class _DataFiles:
    """The project's data files that a script reads, which the notebook does not have."""

    def __init__(self, project: Path, tree: ast.Module | None) -> None:
        self._project = project
        self._constants = {
            target.id: node.value
            for node in (tree.body if tree else ())
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }

    def find_read_file(self, call: ast.Call) -> str:
        """Return the data file that a call reads; empty for none."""
        arguments = [*call.args, *(word.value for word in call.keywords)]
        texts = [self._read_text(argument) for argument in arguments]
        if ast.unparse(call.func).rpartition(".")[2] == "Path" or any(
            text[:1] in tuple("wax") and len(text) < 4 for text in texts
        ):
            return ""  # it reads nothing, or writes
        return next((text for text in texts if self._is_data_file(text)), "")

    def _read_text(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            node = self._constants.get(node.id, node)
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.func).rpartition(".")[2] == "Path":
            node = node.args[0]
        return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""

    def _is_data_file(self, text: str) -> bool:
        suffix = os.path.splitext(text)[1].lower()  # noqa: PTH122 - a text, which may be no path at all
        return suffix in _DATA_SUFFIXES and "\0" not in text and (self._project / text).is_file()


def _find_import_work(body: Sequence[ast.stmt], data: _DataFiles) -> Iterator[tuple[int, str, bool]]:
    """Yield line, call and gravity of what statements do on import; definitions do nothing."""
    for node in body:
        if isinstance(node, ast.If) and _is_main_guard(node.test):
            yield from _find_import_work(node.orelse, data)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for call in _find_calls(node):
                name = ast.unparse(call.func)
                method = name.rpartition(".")[2]
                data_file = data.find_read_file(call)
                if method in _TRAINING_CALLS or method in _READING_CALLS or data_file:
                    argument = f"{data_file!r}" if data_file else ""
                    is_grave = method in _TRAINING_CALLS or bool(data_file and not isinstance(node, ast.Try))
                    yield call.lineno, f"{name if len(name) < 50 else method}({argument})", is_grave


def _is_main_guard(test: ast.expr) -> bool:
    return "__name__" in ast.unparse(test) and "__main__" in ast.unparse(test)


def _find_calls(node: ast.AST) -> Iterator[ast.Call]:
    """Yield the calls that a statement makes itself, not those inside functions, classes and lambdas."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
        return
    if isinstance(node, ast.Call):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from _find_calls(child)


def reference_main_script(project: Path, main_from: Path | None) -> tuple[str, ...]:
    """Return a reference to a definition in `main_from`, so that the kit includes the script."""
    if main_from is None or not main_from.resolve().is_relative_to(project.resolve()):
        return ()
    tree = references.parse_module(main_from)
    names = [
        node.name for node in (tree.body if tree else ()) if isinstance(node, ast.ClassDef | ast.FunctionDef)
    ] or sorted(references.find_bound_names(tree.body)[0] if tree else ())
    return (f"{main_from.resolve().relative_to(project.resolve()).as_posix()}:{names[0]}",) if names else ()
