"""`sdists = "rename"`: packages that exist as source alone are built in the notebook, from the kit's files."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.local_index import LocalIndex, make_sdist
from tests.support.workbench import evidence, plan, project, run

pytestmark = [pytest.mark.slow, pytest.mark.index, pytest.mark.sandbox, pytest.mark.usefixtures("python_313")]

HATCHLING = """
[build-system]
requires = ["hatchling", "hatch-fancy-pypi-readme"]
build-backend = "hatchling.build"

[project]
name = "plugged"
version = "2.1"
dynamic = ["readme"]

[tool.hatch.metadata.hooks.fancy-pypi-readme]
content-type = "text/markdown"
[[tool.hatch.metadata.hooks.fancy-pypi-readme.fragments]]
text = "made by the plugin"
"""

SETUP = """
from setuptools import setup
import pathlib
setup(
    name="oldstyle",
    packages=["oldstyle"],
    setup_requires=["setuptools-scm<9"],
    use_scm_version={"fallback_version": "3.4"},
)
"""

EVIDENCE = """
def evidence(context):
    from importlib import metadata
    import pip
    return {
        "pip": pip.__version__,
        "readme": metadata.metadata("plugged").get_payload(),
        "oldstyle": metadata.version("oldstyle"),
        "wheels": sorted(path.name for path in context.kit.rglob("*.whl")),
    }
"""


@pytest.fixture
def index(tmp_path: Path) -> Iterator[LocalIndex]:
    """Serve the two sdists beside the ordinary index."""
    with LocalIndex() as served:
        plugged = make_sdist(tmp_path, "plugged", "2.1", files={"pyproject.toml": HATCHLING})
        old: dict[str, str | bytes] = {"pyproject.toml": b"", "setup.py": SETUP}
        served.add(plugged)
        served.add(make_sdist(tmp_path, "oldstyle", "3.4", files=old))
        yield served


def test_they_are_built_offline_by_uv_and_by_pip_alone(tmp_path: Path, index: LocalIndex) -> None:
    """A hatchling plugin and setup_requires come out of the kit, with uv and with the image's own pip 24.1.2."""
    folder = project(
        tmp_path / "project",
        ["plugged", "oldstyle"],
        EVIDENCE,
        more='sdists = "rename"\n',
    )
    run("build", folder, "--json", env={"PIP_EXTRA_INDEX_URL": index.url}).good()
    chosen = {item["name"]: item for item in plan(folder)["install"]}
    assert {item["wheel"] for item in chosen.values()} == {None}
    assert any("fancy" in wheel for wheel in chosen["plugged"]["build"])
    assert any("scm" in wheel for wheel in chosen["oldstyle"]["build"])
    stored = [path.name for path in (folder / "dist" / "offline-kit" / "dataset").rglob("*")]
    assert not [name for name in stored if name.endswith((".gz", ".zip", ".tar"))]
    for installer in ("uv", "pip"):
        done = run("rehearse", folder, "--no-build", "--yes", "--json", "--installer", installer).good()
        assert done.facts["rehearsal"]["installer"] == installer
        seen = evidence(folder)
        assert seen["pip"] == "24.1.2"
        assert "made by the plugin" in seen["readme"]
        assert seen["oldstyle"] == "3.4"
        assert not [name for name in seen["wheels"] if name.startswith(("plugged", "oldstyle"))]
