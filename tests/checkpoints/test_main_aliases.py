"""Names of `__main__` in pickles: the file that defines them is asked for, checked, and looked through."""

import json
from pathlib import Path

import pytest

from offline_kit.checkpoints.main_aliases import MainAliases, resolve_main_aliases
from offline_kit.core.errors import ProjectError

PICKLE = {"models/model.pkl": ["Cleaner", "price"]}
GOOD = "import numpy\nclass Cleaner: pass\ndef price(x): return x\n"


def project(folder: Path, **files: str) -> Path:
    """Write files ("src/train.py" as src__train) and return the folder."""
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ("" if "." in name else ".py"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def refusal(folder: Path, main_from: Path | None = None, **more: list[str]) -> ProjectError:
    """Return the error of a project."""
    with pytest.raises(ProjectError) as caught:
        resolve_main_aliases(folder, main_from, PICKLE | more)
    return caught.value


def test_without_such_names_nothing_is_asked(tmp_path: Path) -> None:
    """A pickle of library classes alone needs no script."""
    assert resolve_main_aliases(tmp_path, None, {"a.pkl": []}) == MainAliases()


def test_the_defining_file_is_asked_for_by_name(tmp_path: Path) -> None:
    """The error names the pickle, what it lacks, and the setting with the file that defines it."""
    project(tmp_path, src__train=GOOD, other="x = 1\n", **{".venv__lib": GOOD})
    error = refusal(tmp_path)
    assert error.what == (
        "'models/model.pkl' needs 'Cleaner', 'price' of the script that saved it, which the notebook does not have"
    )
    assert 'main_from = "src/train.py"' in error.hint


def test_a_notebook_that_defines_them_is_named(tmp_path: Path) -> None:
    """Where only a cell of a notebook defines the names, the remedy is to copy it."""
    cells = [
        {
            "cell_type": "code",
            "source": ["!pip install x\n", "class Cleaner: pass\n", "def price(x): return 1"],
        }
    ]
    (tmp_path / "train.ipynb").write_text(json.dumps({"cells": cells}))
    assert "copy the cell of 'train.ipynb'" in refusal(tmp_path).hint


def test_nobody_defines_them(tmp_path: Path) -> None:
    """A project without any such file is told so, and every pickle that asks."""
    error = refusal(tmp_path, None, **{"b.pkl": ["Other"]})
    assert "no file of the project does" in error.hint
    assert error.details == ("'models/model.pkl' looks up 'Cleaner', 'price'", "'b.pkl' looks up 'Other'")


def test_the_named_file_gives_them(tmp_path: Path) -> None:
    """The names become references, so that the file travels with what it imports."""
    project(tmp_path, src__train=GOOD)
    lent = resolve_main_aliases(tmp_path, tmp_path / "src" / "train.py", PICKLE)
    assert lent == MainAliases(path="src/train.py", names=("Cleaner", "price"))


def test_a_file_that_lacks_a_name(tmp_path: Path) -> None:
    """What `main_from` does not define is named, and where it is found instead."""
    project(tmp_path, train="class Cleaner: pass\n", features=GOOD)
    error = refusal(tmp_path, tmp_path / "train.py")
    assert "does not define 'price'" in error.what
    assert 'main_from = "features.py"' in error.hint


def test_star_imports_may_define_anything(tmp_path: Path) -> None:
    """A file that imports all of another is believed."""
    project(tmp_path, train="from features import *\n")
    assert resolve_main_aliases(tmp_path, tmp_path / "train.py", PICKLE).names


def test_a_file_outside_the_project(tmp_path: Path) -> None:
    """What lies elsewhere has to be copied in."""
    project(tmp_path, train=GOOD)
    (tmp_path / "inner").mkdir()
    assert "outside the project" in refusal(tmp_path / "inner", tmp_path / "train.py").what


def test_an_adopted_notebook_defines_them_itself(tmp_path: Path) -> None:
    """Names that the notebook's own cells define are not asked for."""
    assert resolve_main_aliases(tmp_path, None, PICKLE, {"Cleaner", "price"}).names == ()
    with pytest.raises(ProjectError, match="needs 'price'"):
        resolve_main_aliases(tmp_path, None, PICKLE, {"Cleaner"})
