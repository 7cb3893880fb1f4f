"""Resolve the names of `__main__` that pickles look up, and check that their script can be imported.

A class that a training script defines is pickled as `__main__.Name`
(https://docs.python.org/3/library/pickle.html#what-can-be-pickled-and-unpickled), and in a notebook `__main__` is
the notebook. The kit includes the script, and `kit_hooks` aliases its names.
"""

import ast
import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from offline_kit.checkpoints.discovery import list_files
from offline_kit.checkpoints.pickle_opcodes import split_words
from offline_kit.checkpoints.pickle_scan import ScanResult
from offline_kit.core.errors import ProjectError
from offline_kit.project import references
from offline_kit.project.types import Finding, Severity

_SKIPPED_FOLDERS = frozenset(
    split_words("dist build site-packages node_modules __pycache__ wandb lightning_logs venv env")
)
_MAX_FILES = 2000
# Last names of calls that no import should do: training, reading the data, the command line
_TRAINING_CALLS = frozenset(
    split_words("""
    fit fit_transform fit_predict partial_fit train backward optimize create_study cross_val_score run_training
    read_csv read_parquet read_feather read_excel read_json read_table read_sql read_pickle load_dataset
    parse_args input main download from_pretrained
    """)
)
# Last names of calls that may fail in the notebook, which has no training files
_READING_CALLS = frozenset(
    split_words("open load loadtxt listdir glob imread read_text read_bytes predict init to_csv save")
)
# Suffixes of the project's files that a call with their name reads
_DATA_SUFFIXES = frozenset(
    split_words(".csv .tsv .parquet .feather .json .jsonl .npy .npz .xlsx .pkl .joblib .h5 .db .sqlite .zip")
)


@dataclass(frozen=True, kw_only=True)
class MainAliases:
    """Names that the notebook adds to `__main__` for pickles."""

    path: str = ""  # script that defines them, relative to the project; empty if no pickle needs any
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
    requests = {
        result.original: unknown
        for result in scan_results
        if (unknown := [name for name in result.main_names if name not in notebook_names])
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


def check_main_script(project: Path, aliases: MainAliases) -> tuple[Finding, ...]:
    """Return findings on calls that the script makes when the notebook imports it."""
    tree = references.parse_module(project / aliases.path) if aliases.path else None
    body = tree.body if tree else []
    assignments = [node for node in body if isinstance(node, ast.Assign)]
    constants = {
        target.id: node.value
        for node in assignments
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    findings = []
    for statement in _list_import_work(body):
        for call in _find_calls(statement):
            name = ast.unparse(call.func)
            method = name.rpartition(".")[2]
            data_file = _find_data_file(project, call, constants)
            if not (method in _TRAINING_CALLS | _READING_CALLS or data_file):
                continue
            # In a `try` the script is prepared for a file that is missing.
            is_grave = method in _TRAINING_CALLS or (data_file and not isinstance(statement, ast.Try))
            shown = f"{name if len(name) < 50 else method}({repr(data_file) if data_file else ''})"
            findings.append(
                Finding(
                    severity=Severity.STOP if is_grave else Severity.WARN,
                    about=f"{aliases.path}:{call.lineno}",
                    what=f"calls {shown} when it is imported, as the notebook will to find {_quote_names(aliases.names)}",
                    remedy='put it below `if __name__ == "__main__":`, or copy the definitions into a file of their '
                    "own and set `main_from` to it; the pickle stays valid",
                )
            )
    return tuple(findings)


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


def _find_data_file(project: Path, call: ast.Call, constants: dict[str, ast.expr]) -> str:
    """Return the data file of the project that a call reads, which the notebook does not have; empty for none."""
    texts = []
    for argument in (*call.args, *(word.value for word in call.keywords)):
        node = constants.get(argument.id, argument) if isinstance(argument, ast.Name) else argument
        if isinstance(node, ast.Call) and node.args and _last_name(node) == "Path":
            node = node.args[0]
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
    # An open mode such as "w" or "ab"
    is_writing = any(text[:1] in tuple("wax") and len(text) < 4 for text in texts)
    if is_writing or _last_name(call) == "Path":
        return ""
    for text in texts:
        suffix = os.path.splitext(text)[1].lower()  # noqa: PTH122 - a text, which may be no path at all
        if suffix in _DATA_SUFFIXES and "\0" not in text and (project / text).is_file():
            return text
    return ""


def _last_name(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]


def _list_import_work(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that do something on import: neither definitions nor what the main guard holds back."""
    for node in body:
        condition = ast.unparse(node.test) if isinstance(node, ast.If) else ""
        if isinstance(node, ast.If) and "__name__" in condition and "__main__" in condition:
            yield from _list_import_work(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node


def _find_calls(node: ast.AST) -> Iterator[ast.Call]:
    """Yield the calls that a statement makes itself, not those inside functions, classes and lambdas."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
        return
    if isinstance(node, ast.Call):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from _find_calls(child)
