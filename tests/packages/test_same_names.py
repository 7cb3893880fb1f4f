"""Modules and packages of one import name: the person's own is the one that is imported, and the build says so."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support import command_line
from tests.support.local_index import LocalIndex, make_wheel


def build(project: Path, index: str) -> "subprocess.CompletedProcess[str]":
    """Build with packages from one index alone."""
    return command_line.offline_kit(
        "build",
        "--json",
        cwd=project,
        env={
            **os.environ,
            "OFFLINE_KIT_CACHE": str(project.parent / "cache"),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": index,
            "PIP_EXTRA_INDEX_URL": "",
        },
    )


@pytest.mark.parametrize(("module", "warned"), [("helpers.py", True), ("other.py", False)])
def test_a_module_that_hides_a_package_is_named(tmp_path: Path, module: str, *, warned: bool) -> None:
    """The build says which of the two the notebook imports."""
    project = tmp_path / "project"
    project.mkdir()
    (project / module).write_text("def main(context):\n    return []\n")
    (project / "offline-kit.toml").write_text(
        f'dataset = "same-names"\nrequirements = ["r.in"]\n[notebook]\nfunction = "{module}:main"\n'
    )
    (project / "r.in").write_text("ofindex\n")
    with LocalIndex() as index:
        index.add(make_wheel(tmp_path / "w", "ofindex", "0.9", files={"helpers.py": "X = 1\n"}))
        done = build(project, index.url)
    assert done.returncode == 0, done.stderr
    findings = [each for each in json.loads(done.stdout)["findings"] if "ofindex" in str(each)]
    assert [each["about"] for each in findings] == ["helpers.py"] * warned
