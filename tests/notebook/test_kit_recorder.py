"""A session that is recorded, in a real IPython shell: cells, packages, repositories, files, and the part that they become."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from offline_kit.kit.manifest import read_manifest
from offline_kit.notebook.runtime.kit_recording import RecordedObjects

_SHELL = """
import json, os, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
cells, may_fail = map(json.loads, sys.argv[1:])
for cell in cells:
    if not shell.run_cell(cell, store_history=True).success and int(os.environ["OFFLINE_KIT_CELL"]) not in may_fail:
        sys.exit(1)
"""
_TOP = """
from offline_kit.notebook.runtime.kit_recorder import finish_recording, start_recording
start_recording({source!r}, {where!r}, {pack_inputs!r}, {beside!r}, "1.2.3")
"""


@dataclass
class Session:
    """Folders of a session, and how to record cells in it."""

    folder: Path
    where: str = "here"
    pack_inputs: Sequence[str] = ()
    beside: str = ""
    python: str = sys.executable
    variables: Mapping[str, str] = field(default_factory=dict)
    output: str = ""

    def __post_init__(self) -> None:
        for name in ("input", "working", "home", "tmp"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    @property
    def working(self) -> Path:
        return self.folder / "working"

    def _run(self, words: Sequence[str]) -> int:
        environ = {
            **os.environ,
            "OFFLINE_KIT_INPUT": str(self.folder / "input"),
            "OFFLINE_KIT_WORKING": str(self.working),
            "OFFLINE_KIT_SCRATCH": str(self.folder / "scratch"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            **self.variables,
        }
        done = subprocess.run(
            [self.python, *words],
            cwd=self.working,
            env=environ,
            text=True,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.output = done.stdout
        return done.returncode

    def _top(self, **source: Any) -> str:
        source = {"name": "a.ipynb", "sha256": "0" * 64, **source}
        return _TOP.format(source=source, where=self.where, pack_inputs=self.pack_inputs, beside=self.beside)

    def record(
        self, *cells: str, numbers: Sequence[int] = (), may_fail: list[int] | None = None
    ) -> dict[str, Any]:
        """Run cells as a recorder's notebook does, and return the document."""
        numbers = numbers or list(range(1, len(cells) + 1))
        may_fail = may_fail or []
        top = self._top(cells=numbers, may_fail=may_fail)
        whole = [top, *map(textwrap.dedent, cells), "finish_recording()"]
        self._run(["-c", _SHELL, json.dumps(whole), json.dumps(may_fail)])
        return self.document()

    def record_script(self, code: str) -> dict[str, Any]:
        (self.folder / "script.py").write_text(self._top(cells=[]) + textwrap.dedent(code))
        self._run([str(self.folder / "script.py")])
        return self.document()

    def document(self) -> dict[str, Any]:
        path = self.working / "recording" / "recording.json"
        assert path.is_file(), self.output
        return dict(json.loads(path.read_text()))

    def read_object(self, digest: str) -> bytes:
        objects = RecordedObjects(self.working / "recording", self.folder / "unpacked")
        return objects.find_object(digest).read_bytes()


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path)


def test_cells_have_the_numbers_of_the_notebook(session: Session) -> None:
    """Cells are known by their numbers in the file, `%%capture` makes no further one, and children know them."""
    document = session.record(
        "data = bytearray(300_000_000)",
        "%%capture\nopen('submission.csv', 'w').write('id,y\\n1,2\\n')",
        "import os, subprocess\nopen('cell', 'wb').write(subprocess.check_output(['sh', '-c', 'echo $OFFLINE_KIT_CELL']))",
        numbers=[2, 5, 9],
    )
    assert [cell["cell"] for cell in document["cells"]] == [2, 5, 9]
    assert document["cells"][0]["memory"] > 300_000_000
    assert (session.working / "cell").read_text() == "9\n"
    assert (document["finished"], document["error"]) == (True, None)
    assert document["submission"]["path"] == "{working}/submission.csv"
    assert session.read_object(document["submission"]["sha256"]) == b"id,y\n1,2\n"


def test_the_part_is_one_of_a_kit(session: Session) -> None:
    """Its manifest lists the document, the objects and the runtime, all with their hashes."""
    session.record("1")
    part = read_manifest(session.working)
    assert part.name == "recording"
    stored = {entry.stored: entry for entry in part.entries}
    assert all((session.working / name).stat().st_size == entry.size for name, entry in stored.items())
    assert {str(entry.role) for entry in part.entries} == {"recording", "runtime"}
    assert {"recording/recording.json", "recording/small.objects"} <= set(stored)
    assert "offline_kit_runtime/kit_recording.py" in stored


def test_a_failed_cell_ends_the_recording(session: Session) -> None:
    """What was recorded until then is packed, with the cell and its error; cells that may fail do not count."""
    document = session.record("1 / 0", "open('kept', 'w')", "raise ValueError('no')", "2", may_fail=[1])
    assert [cell["cell"] for cell in document["cells"]] == [1, 2, 3]
    assert not document["finished"]
    assert document["error"] == {"cell": 3, "message": "ValueError: no"}


@pytest.mark.parametrize(("end", "error"), [("", None), ("raise ValueError('no')", "ValueError: no")])
def test_a_script_is_packed_when_it_ends(session: Session, end: str, error: str | None) -> None:
    """A script is one cell without a number; an error that ended it is in the document."""
    document = session.record_script(f"open('submission.csv', 'w').close()\n{end}")
    assert [cell["cell"] for cell in document["cells"]] == [0]
    assert document["finished"] is (error is None)
    assert document["error"] == (error and {"cell": 0, "message": error})
