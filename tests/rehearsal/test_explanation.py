"""What is said about a failed cell: the frame in the user's code, the column, the file, the script, the number."""

from pathlib import Path

import pytest

from offline_kit.core.errors import ProjectError
from offline_kit.core.sandboxes.box import Mount
from offline_kit.rehearsal import execution, verdict
from offline_kit.rehearsal.execution import KernelRun
from tests.support.verdicts import BENCH, TEXT, cell, problem, ran

TRACE = """---------------------------------------------------------------------------
KeyError                                  Traceback (most recent call last)
File /usr/lib/python3.11/site-packages/pandas/core/indexes/base.py:3641, in Index.get_loc(self, key)
   3640 try:
-> 3641     return self._engine.get_loc(casted_key)
   3642 except KeyError as err:

KeyError: 'target'

The above exception was the direct cause of the following exception:

KeyError                                  Traceback (most recent call last)
Cell In[11], line 11
      1 context = Context(
---> 11 result = load_object(FUNCTION, kit)(context)

File /tmp/offline-kit/kit/code/src/feat.py:6, in rows(folder)
      4 def rows(folder):
----> 6     table["z"] = table["target"] * 2

File /tmp/offline-kit/site/plants/data.py:9, in column(table)
      8 def column(table):
----> 9     return table["target"]

File /tmp/offline-kit/site/ttach/base.py:3, in f(x)
----> 3     x

File /usr/lib/python3.11/site-packages/pandas/core/frame.py:4378, in DataFrame.__getitem__(self, key)
-> 4378 indexer = self.columns.get_loc(key)

KeyError: 'target'"""


def judged(done: KernelRun, folder: Path) -> ProjectError:
    """Return what is wrong with a run over the data in `folder`."""
    mounts = (Mount(inside="/kaggle/input/competitions/c", source=folder),)
    bench = BENCH.__class__(**{**BENCH.__dict__, "inputs": mounts})
    found = verdict.judge_run(done, bench, "submission.csv", None).problem
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("own", "place"), [((), "src/feat.py:6, in rows"), (("plants",), "plants/data.py:9, in column")]
)
def test_the_innermost_frame_of_ones_own_comes_first(
    tmp_path: Path, own: tuple[str, ...], place: str
) -> None:
    """Neither a library's frame nor a cell's; a package of the kit only if it is the project's own."""
    frame = verdict.find_own_frame(TRACE.splitlines(), own)
    assert place in frame[0]
    assert "---->" in frame[-1]
    if not own:
        details = problem(
            ran(tmp_path, cell("x", "failed", error="KeyError: 'target'", trace=TRACE), code=1)
        ).details
        assert details[: len(frame)] == frame


def test_no_frame_of_ones_own_is_none() -> None:
    """A cell that fails itself is quoted anyway."""
    assert (
        verdict.find_own_frame("Cell In[1], line 1\n----> 1 1 / 0\n\nZeroDivisionError: x".splitlines()) == ()
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A competition's data."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    (folder / "images/a1.jpg").touch()
    (folder / "test.csv").write_text("id,width,height\n1,2,3\n")
    (folder / "train.csv").write_text("id,width,height,target\n1,2,3,4\n")
    return folder


@pytest.mark.parametrize(
    ("message", "trace", "says"),
    [
        ("KeyError: 'target'", "", "'train.csv' has it"),
        ("KeyError: \"['target'] not in index\"", "", "'train.csv' has it"),
        ("KeyError: 'widht'", "", "id, width, height"),
        ("KeyError: 'colour'", "File /x/pandas/core/frame.py:1", "'test.csv' has no column 'colour'"),
        (
            'ColumnNotFoundError: unable to find column "target"; valid columns: ["id"]',
            "",
            "'train.csv' has it",
        ),
        (
            "ValueError: Usecols do not match columns, columns expected but not found: ['target']",
            "",
            "has it",
        ),
        ("KeyError: 'colour'", "", ""),
        ("KeyError: 'width'", "", ""),
        ("ValueError: target", "", ""),
    ],
)
def test_a_column_that_the_test_set_lacks(
    tmp_path: Path, data: Path, message: str, trace: str, says: str
) -> None:
    """The test set's columns are shown, and whether train has it; the key of a dict is no column."""
    failing = cell("x", "failed", error=message, trace=f"{trace}\n{message}")
    details = judged(ran(tmp_path, failing, code=1), data).details
    causes = [line for line in details if line.startswith("cause: ")]
    assert bool(causes) == bool(says)
    assert all(says in line for line in causes)


def test_the_file_of_an_id_that_is_not_there(tmp_path: Path, data: Path) -> None:
    """The folder is there: what it holds is shown, a file of the same stem before others."""
    place = "/kaggle/input/competitions/c/images/a1.png"
    error = f"FileNotFoundError: [Errno 2] No such file or directory: '{place}'"
    found = judged(ran(tmp_path, cell("x", "failed", error=error), code=1), data)
    assert any("a1.jpg" in line for line in found.details)
    assert "hidden test" in found.hint


SCRIPT = """reading
Traceback (most recent call last):
  File "/kaggle/working/infer.py", line 2, in <module>
    import no_such_module
ModuleNotFoundError: No module named 'no_such_module'
bye
"""


def test_a_script_that_failed_is_named_where_nothing_was_written(tmp_path: Path) -> None:
    """IPython goes on after `!python script`; the traceback stands in the cell's output."""
    started = cell("!python infer.py", "completed")
    started["outputs"] = [
        {"output_type": "stream", "name": "stdout", "text": SCRIPT.splitlines(keepends=True)}
    ]
    found = problem(ran(tmp_path, TEXT, started, cell("1", "completed")))
    assert "cell 2" in found.what
    assert "ModuleNotFoundError: No module named 'no_such_module'" in found.details
    assert "bye" not in found.details
    assert "requirements" in found.hint
    handled = cell("print(text)", "completed")
    handled["outputs"] = started["outputs"]
    (tmp_path / "other").mkdir()
    assert "wrote no" in problem(ran(tmp_path / "other", handled)).what, "printed, not started"


def test_a_script_that_was_checked_explains_its_cell(tmp_path: Path) -> None:
    """CalledProcessError says nothing itself."""
    words = "CalledProcessError: Command '['python', 'infer.py']' returned non-zero exit status 1."
    failing = cell("subprocess.run(['python', 'infer.py'], check=True)", "failed", error=words)
    failing["outputs"].append({"output_type": "stream", "name": "stderr", "text": SCRIPT})
    details = problem(ran(tmp_path, failing, code=1)).details
    assert any("no_such_module" in line for line in details if line.startswith("cause: "))


def test_cells_of_an_adopted_notebook_have_the_numbers_of_its_file(tmp_path: Path) -> None:
    """Ours stands in brackets."""
    template = (Path(__file__).parents[2] / "templates/adopt.py.j2").read_text()
    setup = cell(f"# ours\n{execution._SETUPS[0]}\n", "completed")
    assert execution._SETUPS[0] in template
    failing = cell("1 / 0", "failed", error="ZeroDivisionError: x")
    assert problem(ran(tmp_path, TEXT, setup, TEXT, failing, code=1)).what.startswith("cell 2 (cell 4 of")
    (tmp_path / "b").mkdir()
    setup["outputs"], setup["metadata"] = failing["outputs"], failing["metadata"]
    assert problem(ran(tmp_path / "b", TEXT, setup, code=1)).what.startswith("the setup cell (cell 2 of")
