"""The house: rooms import only from rooms below, modules form no cycle, and files stay small."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "offline_kit"
CHEAP_HELP = """
import contextlib, io, sys
import offline_kit.cli.main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    offline_kit.cli.main.main(["--help"])
heavy = {"torch", "kaggle", "requests", "rich", "jinja2", "nbformat", "jupytext", "packaging.metadata"}
print(*sorted(heavy & set(sys.modules)))
"""


def modules() -> list[Path]:
    """Return the files of all modules; `__init__` files hold no code."""
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py"]


def test_the_layers_hold() -> None:
    """The contracts of import-linter in pyproject.toml are kept."""
    code = "from importlinter.cli import lint_imports_command as main; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_top_holds_rooms_alone() -> None:
    """Every other module stands in the room of its domain."""
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_files_and_functions_stay_small() -> None:
    """No file over 600 lines, no function over 60 (docstring left out), no more than 7 arguments."""
    too_large = []
    for path in modules():
        source = path.read_text()
        if source.count("\n") > 600:
            too_large.append(f"{path}: more than 600 lines")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
                if (node.end_lineno or 0) - body[0].lineno + 1 > 60:
                    too_large.append(f"{path}:{node.lineno}: {node.name} has more than 60 lines")
                if len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs) > 7:
                    too_large.append(f"{path}:{node.lineno}: {node.name} has more than 7 arguments")
    assert not too_large


def test_rooms_say_what_they_are_for() -> None:
    """An `__init__` below the top holds a docstring and no code: cycles come in through front doors.

    That of the runtime is what a notebook imports.
    """
    for path in PACKAGE.rglob("__init__.py"):
        if path.parent not in (PACKAGE, PACKAGE / "notebook" / "runtime"):
            (docstring,) = ast.parse(path.read_text()).body
            assert isinstance(docstring, ast.Expr), path


def test_importing_the_package_is_cheap(tmp_path: Path) -> None:
    """`--help` imports neither torch nor kaggle nor any other heavy module."""
    done = subprocess.run([sys.executable, "-c", CHEAP_HELP], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
