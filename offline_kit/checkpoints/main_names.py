"""Names of `__main__` that pickles look up: who defines them, and whether that file can be imported.

A class that a training script defines is pickled as `__main__.Name`, and in a notebook `__main__` is the
notebook. The file that defines it travels, and `kit_main` lends its names to the pickles.
"""

import ast
import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from offline_kit.checkpoints.pickle_opcodes import words
from offline_kit.checkpoints.pickle_scan import Scanned
from offline_kit.core.errors import ProjectError
from offline_kit.project import references
from offline_kit.project.types import Finding, Severity

_SKIPPED = frozenset(
    {"dist", "build", "site-packages", "node_modules", "__pycache__", "wandb", "lightning_logs"}
)
_MOST_FILES = 2000
_TRAINS = frozenset(
    words("""
    fit fit_transform fit_predict partial_fit train backward optimize create_study cross_val_score run_training
    read_csv read_parquet read_feather read_excel read_json read_table read_sql read_pickle load_dataset
    parse_args input main download from_pretrained
    """)
)
"""Last names of calls that no import should do: training, reading the data, the command line."""
_READS = frozenset(
    words("open load loadtxt listdir glob imread read_text read_bytes predict init to_csv save")
)
"""Last names of calls that may fail in the notebook, where the files of the training are not."""
_DATA = frozenset(
    words(".csv .tsv .parquet .feather .json .jsonl .npy .npz .xlsx .pkl .joblib .h5 .db .sqlite .zip")
)
"""Suffixes of what a call reads when it is given the name of such a file of the project."""


@dataclass(frozen=True, kw_only=True)
class Lent:
    """The names that a notebook lends to pickles."""

    path: str = ""
    """The file that defines them, relative to the project; empty where no pickle asks for any."""
    names: tuple[str, ...] = ()
    """The names, sorted."""

    @property
    def references(self) -> tuple[str, ...]:
        """The names as references of the configuration, so that the file travels with what it imports."""
        return tuple(f"{self.path}:{name}" for name in self.names)


NOBODY = Lent()
"""No pickle asks for any name."""


def settle(
    project: Path, main_from: Path | None, scanned: Sequence[Scanned], known: Collection[str] = ()
) -> Lent:
    """Return which names of `__main__` the pickles ask for, and the file that gives them.

    `known` are names that the notebook defines itself: those of an adopted one.
    Raises ProjectError where no file is named, naming those of the project that would do, and where the
    named one lies outside the project or does not define them all.
    """
    lacking_in = {
        each.original: tuple(name for name in each.main_names if name not in known) for each in scanned
    }
    asking = {original: names for original, names in lacking_in.items() if names}
    names = sorted({name for some in asking.values() for name in some})
    if not names:
        return NOBODY
    if main_from is not None and main_from.suffix == ".ipynb":
        raise ProjectError(
            f"'{main_from.name}' (`main_from`) is a notebook, and pickles need {_quoted(names)} from a .py file",
            hint=_where_to_look(project, names, names),
        )
    if main_from is None:
        raise _unnamed(project, asking, names)
    lacking = [name for name in names if not _may_define(main_from, name)]
    if lacking:
        raise ProjectError(
            f"'{main_from.name}' (`main_from`) does not define {_quoted(lacking)}, which pickles look up in it",
            hint=_where_to_look(project, lacking, names),
            details=_askers(asking),
        )
    if not main_from.resolve().is_relative_to(project.resolve()):
        raise ProjectError(
            f"'{main_from}' (`main_from`) lies outside the project",
            hint="copy it into the project's folder, and name the copy",
        )
    return Lent(path=main_from.resolve().relative_to(project.resolve()).as_posix(), names=tuple(names))


def findings(project: Path, lent: Lent) -> tuple[Finding, ...]:
    """Return what the lending file does when it is imported, which the notebook has to do too."""
    tree = references.parse(project / lent.path) if lent.path else None
    found = []
    for line, call, trains in _work(tree.body if tree else (), _Data(project, tree)):
        found.append(
            Finding(
                severity=Severity.STOP if trains else Severity.WARN,
                about=f"{lent.path}:{line}",
                what=f"calls {call} when it is imported, as the notebook will to find {_quoted(lent.names)}",
                remedy='put it below `if __name__ == "__main__":`, or copy the definitions into a file of their '
                "own and name that in `main_from`; the pickle need not be made again",
            )
        )
    return tuple(found)


def _unnamed(project: Path, asking: dict[str, tuple[str, ...]], names: list[str]) -> ProjectError:
    first = next(iter(asking))
    whose = f"'{first}' needs" if len(asking) == 1 else f"{len(asking)} files need"
    return ProjectError(
        f"{whose} {_quoted(names)} of the script that saved it, which the notebook does not have",
        hint=_where_to_look(project, names, names),
        details=_askers(asking) if len(asking) > 1 else (),
    )


def _where_to_look(project: Path, lacking: Sequence[str], names: Sequence[str]) -> str:
    scripts = [where for where, known in _defining(project) if set(names) <= known]
    if scripts:
        others = f" ({', '.join(scripts[1:3])} would do too)" if len(scripts) > 1 else ""
        return f'set main_from = "{scripts[0]}" in [tool.offline-kit]: it defines {_quoted(names)}{others}'
    notebooks = [where for where, known in _in_notebooks(project) if set(lacking) & known]
    if notebooks:
        return (
            f"copy the cell of '{notebooks[0]}' that defines {_quoted(lacking)} into a .py file of the project, "
            "and name that in `main_from` of [tool.offline-kit]"
        )
    return (
        f'name the file that defines {_quoted(lacking)} in [tool.offline-kit]: main_from = "train.py"; '
        "no file of the project does"
    )


def _askers(asking: dict[str, tuple[str, ...]]) -> list[str]:
    return [f"'{original}' looks up {_quoted(names)}" for original, names in asking.items()]


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _may_define(file: Path, name: str) -> bool:
    tree = references.parse(file)
    if tree is None:
        return True  # a Python that this one cannot parse; the syntax is checked elsewhere
    names, open_ended = references.bound_names(tree.body)
    return name in names or open_ended


def _files(project: Path, suffix: str) -> Iterator[Path]:
    count = 0
    for here, folders, names in os.walk(project):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and name not in _SKIPPED | {"venv", "env"}
        )
        for name in sorted(names):
            if name.endswith(suffix) and count < _MOST_FILES:
                count += 1
                yield Path(here, name)


def _defining(project: Path) -> Iterator[tuple[str, set[str]]]:
    for path in _files(project, ".py"):
        tree = references.parse(path)
        if tree is not None:
            yield path.relative_to(project).as_posix(), references.bound_names(tree.body)[0]


def _in_notebooks(project: Path) -> Iterator[tuple[str, set[str]]]:
    for path in _files(project, ".ipynb"):
        yield path.relative_to(project).as_posix(), defined_in_notebook(path)


def defined_in_notebook(path: Path) -> set[str]:
    """Return the names that the cells of a notebook bind; cells that are no Python bind none."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    known: set[str] = set()
    for source in sources:
        plain = "\n".join(line for line in source.splitlines() if not line.lstrip().startswith(("%", "!")))
        try:
            known |= references.bound_names(ast.parse(plain).body)[0]
        except (SyntaxError, ValueError):
            continue
    return known


class _Data:
    """The files of data that a script names, as far as they lie in the project: in a notebook they are not there."""

    def __init__(self, project: Path, tree: ast.Module | None) -> None:
        self._project = project
        self._texts = {
            target.id: node.value
            for node in (tree.body if tree else ())
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }

    def read_by(self, call: ast.Call) -> str:
        """Return the file of data that a call is given to read; empty for none."""
        given = [*call.args, *(word.value for word in call.keywords)]
        texts = [self._text(each) for each in given]
        if ast.unparse(call.func).rpartition(".")[2] == "Path" or any(
            text[:1] in tuple("wax") and len(text) < 4 for text in texts
        ):
            return ""  # it reads nothing, or writes
        return next((text for text in texts if self._is_data(text)), "")

    def _text(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            node = self._texts.get(node.id, node)
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.func).rpartition(".")[2] == "Path":
            node = node.args[0]
        return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""

    def _is_data(self, text: str) -> bool:
        suffix = os.path.splitext(text)[1].lower()  # noqa: PTH122 - a text, which may be no path at all
        return suffix in _DATA and "\0" not in text and (self._project / text).is_file()


def _work(body: Sequence[ast.stmt], data: _Data) -> Iterator[tuple[int, str, bool]]:
    """Yield line, call and gravity of what statements do at import level; definitions do nothing yet."""
    for node in body:
        if isinstance(node, ast.If) and _is_guard(node.test):
            yield from _work(node.orelse, data)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for call in _calls(node):
                name = ast.unparse(call.func)
                last = name.rpartition(".")[2]
                read = data.read_by(call)
                if last in _TRAINS or last in _READS or read:
                    given = f"{read!r}" if read else ""
                    grave = last in _TRAINS or bool(read and not isinstance(node, ast.Try))
                    yield call.lineno, f"{name if len(name) < 50 else last}({given})", grave


def _is_guard(test: ast.expr) -> bool:
    return "__name__" in ast.unparse(test) and "__main__" in ast.unparse(test)


def _calls(node: ast.AST) -> Iterator[ast.Call]:
    """Yield the calls of a statement that run at once: none inside functions, classes and lambdas."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
        return
    if isinstance(node, ast.Call):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from _calls(child)


def shipped(project: Path, main_from: Path | None) -> tuple[str, ...]:
    """Return a reference to something that the lending file defines, so that it travels; nothing without one."""
    if main_from is None or not main_from.resolve().is_relative_to(project.resolve()):
        return ()
    tree = references.parse(main_from)
    names = [
        node.name for node in (tree.body if tree else ()) if isinstance(node, ast.ClassDef | ast.FunctionDef)
    ] or sorted(references.bound_names(tree.body)[0] if tree else ())
    return (f"{main_from.resolve().relative_to(project.resolve()).as_posix()}:{names[0]}",) if names else ()
