"""Cells with magics, taken apart as IPython would, and left to the letter where nothing is found."""

import ast
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offline_kit.adopt import adopted_notebook, inspection
from offline_kit.adopt.findings import Outcome
from offline_kit.notebook import cells
from offline_kit.project import images
from tests.support.adopting import notebook_of

LINES = st.sampled_from(
    [
        "%matplotlib inline",
        "!ls -la {folder} | head",
        "files = !ls *.csv",
        "t = %time",
        "df?",
        "os.path.join??",
        "?print",
        "x = 3 % 2",
        "if x != 1:\n    !echo {x} \\\n        more\n    pass",
        'print(f"{x!r} {{braces}} {x:>{8}}")  # !pip install nothing',
        "y = [1,\n2]",
        's = """\n!not a magic\n"""',
        "z = 'a' \\\n  'b'",
        "def f(a=1): return a",
        "",
        "# %% not a magic either?",
    ]
)
FRAGMENTS = st.lists(LINES, min_size=1, max_size=8).map("\n".join)


def of_ipython(source: str) -> tuple[int, ast.Module] | None:
    """Return how many magics IPython sees in a cell, and its tree; None for what it cannot run."""
    from IPython.core.inputtransformer2 import TransformerManager

    try:
        tree = ast.parse(TransformerManager().transform_cell(source))  # type: ignore[no-untyped-call]
    except SyntaxError:
        return None
    names = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return sum(name.startswith("get_ipython().") for name in names), tree


@pytest.mark.parametrize(
    ("source", "python", "magics"),
    [
        ("!pip install x", "pass", ["pip install x"]),
        ("if a:\n    !pip install \\\n      x\nb", "if a:\n    pass\n\nb", ["pip install \\\n      x"]),
        ("out = !ls\nout", "out = None\nout", ["ls"]),
        ("%%time\nx = 1", "pass\nx = 1", ["time"]),
        ("%%bash\npip install x", "pass\n", ["bash\npip install x"]),
        ("pip install x", "pass", ["pip install x"]),
        ("pip = 1", "pip = 1", []),
        ("print('!x')\ns = '''\n!y\n'''", "print('!x')\ns = '''\n!y\n'''", []),
        ("df.head?", "pass", ["df.head?"]),
        ("  x = 1\n  y = 2", "x = 1\ny = 2", []),
    ],
)
def test_magics_are_told_from_python(source: str, python: str, magics: list[str]) -> None:
    """A magic is stood in for by Python that does nothing; strings, comments and operators are none."""
    found = cells.parse_cell(source)
    assert found.python == python
    assert [magic.text for magic in found.magics] == magics
    assert found.parse_tree() is not None


@settings(max_examples=300, deadline=None)
@given(FRAGMENTS)
def test_ipython_sees_the_same_magics(source: str) -> None:
    """Whatever IPython can run, we can read, with as many magics in it."""
    told = of_ipython(source)
    if told is None:
        return
    found = cells.parse_cell(source)
    assert found.parse_tree() is not None
    assert len(found.magics) == told[0]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.one_of(st.text(), FRAGMENTS), min_size=1, max_size=3))
def test_cells_stay_to_the_letter(sources: list[str]) -> None:
    """Any text of a cell comes out as it went in, where nothing is found, through the written notebook too."""
    kaggles = images.load_image("", accelerator="none", project=Path())
    chosen = replace(kaggles, packages={**kaggles.packages, "ipython": "9.18.1"})
    with tempfile.TemporaryDirectory() as place:
        notebook = notebook_of(Path(place), *sources)
        found = inspection.inspect_notebook(notebook, Path(place), chosen)
    assert not [one for one in found.resolved if one.resolution is not Outcome.UNCHANGED]
    assert list(found.changed) == sources
    written = adopted_notebook.render_text(found, "# %% setup\npass\n")
    import nbformat

    again = nbformat.reads(written, as_version=4)  # type: ignore[no-untyped-call]
    assert [cell.source for cell in again.cells[1:]] == sources


def test_places_of_the_tree_are_places_of_the_cell() -> None:
    """A column behind letters of more than one byte, in an indented cell, leads to the same letter."""
    source = "  a = 'ä'; b = 'x'\n  c = 1"
    found = cells.parse_cell(source)
    tree = found.parse_tree()
    assert tree is not None
    last = tree.body[1]
    assert source[found.text_offset(last.lineno, last.col_offset) :].startswith("b = 'x'")
