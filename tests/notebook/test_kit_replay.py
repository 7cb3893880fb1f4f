"""A replay: what a recorded run fetched is found offline by the same lines."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def run_python(code: str, folder: Path, env: Mapping[str, str] | None = None) -> str:
    """Run code in a process whose session folders lie below `folder`; return what it prints."""
    session = {f"OFFLINE_KIT_{name.upper()}": str(folder / name) for name in ("input", "working", "scratch")}
    (folder / "working").mkdir(parents=True, exist_ok=True)
    completed = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder / "working",
        env={**os.environ, **session, "HOME": str(folder / "home"), **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout


def test_cells_have_the_numbers_of_the_recorded_run(tmp_path: Path) -> None:
    """Each cell after the setup has the next number, its children too; calling the setup again begins anew."""
    code = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
setup = "from offline_kit.notebook.runtime.kit_recording import count_cells; count_cells([2, 5])"
show = "import os; print(os.environ['OFFLINE_KIT_CELL'])"
for cell in [setup, show, show, show, setup, show]:
    shell.run_cell(cell)
"""
    assert run_python(code, tmp_path).split() == ["2", "5", "6", "2"]
