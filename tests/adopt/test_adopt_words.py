"""What adopt says names what is meant: no holes of patterns, no programs of another kind."""

from pathlib import Path

import pytest

from offline_kit.adopt.findings import AttachedSources, NeedKind, Outcome
from tests.support.adopting import looked


@pytest.mark.parametrize(
    "cell",
    [
        "p = '/kaggle/input/%s/test.csv' % 'plants'",
        "NAME = 'plants'\np = '/kaggle/input/%s/%s.csv' % (NAME, 'test')",
        "p = '/kaggle/input/{}/test.csv'.format('plants')",
    ],
)
def test_a_filled_pattern_is_a_path(tmp_path: Path, cell: str) -> None:
    """The old ways to fill in a name are read as an f-string is."""
    (found,) = looked(tmp_path, cell, attached=AttachedSources(competitions=("plants",))).resolved
    assert (found.resolution, found.value) == (Outcome.SERVED, "plants")


def test_a_pattern_that_nobody_fills_names_nothing(tmp_path: Path) -> None:
    """What stands for a name is not taken for one; without anything attached, it is a question."""
    source = "p = '/kaggle/input/%s/x.csv' % NAME\nq = '/kaggle/input/{0}/x.csv'.format(n)"
    found = looked(tmp_path, source)
    assert (len(found.unresolved), found.sources, found.checkpoints) == (1, AttachedSources(), ())
    attached = looked(tmp_path, source, attached=AttachedSources(competitions=("plants",)))
    assert (attached.unresolved, attached.sources) == ((), AttachedSources(competitions=("plants",)))


@pytest.mark.parametrize(
    "line", ["%conda install -c pytorch faiss-gpu=1.8 -y", "!mamba install -y conda-forge::faiss-gpu"]
)
def test_packages_of_conda_are_no_programs_of_the_system(tmp_path: Path, line: str) -> None:
    """Most have a name on PyPI, and pip lines are understood."""
    (asked,) = looked(tmp_path, line).unresolved
    assert asked.kind is NeedKind.SYSTEM
    assert "PyPI" in asked.remedy


def test_pip_alone_installs_nothing(tmp_path: Path) -> None:
    """The word by itself shows pip's help."""
    assert not looked(tmp_path, "pip").resolved
