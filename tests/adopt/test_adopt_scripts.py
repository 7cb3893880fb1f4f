"""A script is adopted as a script: the setup goes in, every line of its own stays."""

from pathlib import Path

import pytest

from offline_kit.adopt import adoption_plan, inspection, script_setup
from offline_kit.adopt.findings import Adoption
from offline_kit.core.errors import ProjectError
from offline_kit.project import images
from tests.support.adopting import put

SETUP = "# %% [markdown]\n# What this is\n\n# %% setup\nkit = 1\n"
PERCENT = """# ---
# jupyter: of jupytext
# ---

# %% [markdown]
# # Title

# %%
import subprocess
subprocess.run("pip install ttach", shell=True)
"""


def inspect(folder: Path, script: str | bytes, name: str = "train.py") -> Adoption:
    """Write a script, and inspect it against Kaggle's CPU image."""
    path = folder / name
    path.write_bytes(script if isinstance(script, bytes) else script.encode())
    return inspection.inspect_notebook(
        path, folder, images.load_image("", accelerator="none", project=folder)
    )


@pytest.mark.parametrize(
    ("script", "before"),
    [
        ("import os\nprint(os.name)\n", 0),
        ("#!/usr/bin/env python\n# -*- coding: utf-8 -*-\nx = 1\n", 2),
        (
            '# a license\n\n"""What it does,\nin two lines."""\n\nfrom __future__ import annotations\n\nx = 1',
            6,
        ),
        ('"""Doc."""\r\nx = 1\r\nif x:\r\n    y = 2\r\n', 1),
        ("# %% imports\nimport os\n", 0),
        (PERCENT, 3),
        ('x = """\n\x0c"""\n\x0cy = 2\n', 0),
        ('"no newline at its end"', 1),
        ("", 0),
    ],
)
def test_the_setup_stands_before_the_first_statement(script: str, before: int) -> None:
    """Not one of the script's own lines changes, and each is named by its own number."""
    whole = script_setup.insert_setup(script, SETUP, "train.py")
    compile(whole, "train.py", "exec")
    setup = script_setup.find_setup_lines(whole)
    lines = whole.split("\n")
    own = [line for number, line in enumerate(lines, 1) if number not in setup]
    assert (setup[0] - 1, "\n".join(own).rstrip("\n")) == (before, script.rstrip("\n"))
    numbers = [number for number in range(1, len(lines) + 1) if number not in setup]
    labels = [script_setup.label_line(whole, number) for number in numbers]
    assert labels == [f"line {number} of 'train.py'" for number in range(1, len(numbers) + 1)]
    assert script_setup.label_line(whole, setup[0]).startswith("the setup")


def test_its_needs_are_named_by_line_and_its_diff_is_its_own(tmp_path: Path) -> None:
    """What needs the internet is disabled as in a cell; nothing else of the script is touched."""
    adoption = inspect(tmp_path, PERCENT)
    assert adoption.requirements == ("ttach",)
    assert [need.position for need in adoption.resolved] == ["line 10"]
    assert adoption.changed[0].splitlines()[:9] == PERCENT.splitlines()[:9]
    diff = adoption_plan.diff_cells(adoption).splitlines()
    changed = [line for line in diff if line[0] in "+-" and not line.startswith(("+++", "---"))]
    assert changed[0] == '-subprocess.run("pip install ttach", shell=True)'
    assert len(changed) == 2
    assert "cell" not in "".join(diff)


def test_ends_of_lines_are_kept(tmp_path: Path) -> None:
    """A script from Windows stays one; a byte order mark, which could not stand in the middle, goes."""
    script = b"\xef\xbb\xbfimport os\r\n\r\nprint('\xc3\xa9')\r\n"
    assert inspect(tmp_path, script).changed[0].encode() == script[3:]


def test_the_configuration_names_it_and_nothing_else(tmp_path: Path) -> None:
    """Its kind is not written, because the suffix says it; a kernel-metadata.json beside it counts."""
    put(tmp_path, "train.py", text="print(1)\n")
    metadata = '{"kernel_type": "script", "competition_sources": ["digits"], "enable_internet": "true"}'
    put(tmp_path, "kernel-metadata.json", text=metadata)
    plan = adoption_plan.plan_adoption(tmp_path / "train.py", tmp_path)
    assert 'source = "train.py"' in plan.config.new
    assert "kernel_type" not in plan.config.new
    assert 'competition = "digits"' in plan.config.new


@pytest.mark.parametrize(
    ("name", "script", "code"),
    [
        ("a.py", "import os\n!pip install ttach\n%matplotlib inline\n", "script-has-magics"),
        ("a.py", "import os\n%matplotlib inline\nprint x\n", "script-has-magics"),
        ("a.py", "x = 1\nprint x\n%matplotlib inline\n", "script-invalid"),
        ("a.py", b"x = '\xff'\n", "notebook-invalid"),
        ("a.R", "x <- 1\n", "notebook-not-python"),
        ("a.Rmd", "# Title\n", "notebook-not-python"),
        ("a.irnb", "{}", "notebook-not-python"),
    ],
)
def test_what_cannot_be_adopted_is_refused(tmp_path: Path, name: str, script: str | bytes, code: str) -> None:
    """Magics that no plain Python runs, broken scripts and other languages, each with a way out."""
    with pytest.raises(ProjectError) as caught:
        inspect(tmp_path, script, name)
    assert caught.value.code == code
    assert caught.value.hint


def test_magics_are_listed_with_their_lines(tmp_path: Path) -> None:
    """So that they can be replaced one by one."""
    with pytest.raises(ProjectError) as caught:
        inspect(tmp_path, "import os\n!pip install ttach\n\n%matplotlib inline\n")
    assert caught.value.details == ("line 2: !pip install ttach", "line 4: %matplotlib inline")


def test_a_script_exported_for_colab_keeps_its_code(tmp_path: Path) -> None:
    """Kaggle's download of data sources is a cell of a notebook, and only a part of a script."""
    script = "DATA_SOURCE_MAPPING = 'digits:https%3A%2F%2Fexample.org'\nprint(DATA_SOURCE_MAPPING)\n"
    assert inspect(tmp_path, script).changed[0] == script


@pytest.mark.parametrize(("call", "is_kept"), [("os.walk", True), ("os.listdir", False)])
def test_what_a_walk_finds_is_cut_at_the_same_folder(tmp_path: Path, call: str, is_kept: bool) -> None:
    """`os.walk` follows no links and keeps the mounts, and so does the prefix that is taken off its paths."""
    script = f"import os\nfor path in {call}('/kaggle/input'):\n    print(path[len('/kaggle/input'):])\n"
    assert ("len('/kaggle/input')" in inspect(tmp_path, script).changed[0]) is is_kept


@pytest.mark.parametrize("competition", ["digits", ""])
def test_files_directly_below_the_mounts_are_the_competitions(tmp_path: Path, competition: str) -> None:
    """So Kaggle had them until 2019; without a competition it is asked for, and nothing is taken for a dataset."""
    if competition:
        put(tmp_path, "kernel-metadata.json", text='{"competition_sources": ["digits"]}')
    script = "import pandas as pd\nX = pd.read_csv('../input/test.csv')\nROOT = '../input/'\nY = pd.read_csv(ROOT + 'a.csv')\n"
    adoption = inspect(tmp_path, script)
    assert ("'/tmp/kaggle/input/digits/test.csv'" in adoption.changed[0]) is bool(competition)
    open_lines = [need.line for need in adoption.unresolved]
    assert open_lines == ([4] if competition else [2, 4])
    assert adoption.sources.datasets == ()


@pytest.mark.parametrize(("package", "requirements"), [("pyfiglet", '["requirements.in"]'), ("numpy", "[]")])
def test_requirements_of_the_project_that_it_imports_are_kept(
    tmp_path: Path, package: str, requirements: str
) -> None:
    """What only the project's own file provides goes into the kit; what the image has does not."""
    put(tmp_path, "requirements.in", text=f"{package}\n")
    put(tmp_path, "train.py", text=f"import {package}\n")
    plan = adoption_plan.plan_adoption(tmp_path / "train.py", tmp_path)
    assert f"requirements = {requirements}" in plan.config.new
