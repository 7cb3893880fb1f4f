"""Whether a wheel that was built here runs in the image."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from offline_kit.packages.wheel_files import WheelMismatchError, fit_wheel
from offline_kit.project.images import Image
from tests.support.local_index import make_wheel

IMAGE = Image(name="test", title="", accelerator="none", python="3.13.5", packages={})
compiles = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("gcc") is None, reason="needs Linux and a C compiler"
)


def compiled(folder: Path, code: str, *libraries: str) -> Path:
    """Return a wheel with a shared library of this code, tagged as a plain local build is."""
    (folder / "x.c").write_text(code)
    command: list[str | Path] = ["gcc", "-shared", "-fPIC", "-o", folder / "x.so", folder / "x.c", *libraries]
    subprocess.run(command, check=True, capture_output=True)
    files: dict[str, str | bytes] = {"x/__init__.py": "", "x/x.so": (folder / "x.so").read_bytes()}
    return make_wheel(folder, "x", "1.0", tag="cp313-cp313-linux_x86_64", files=files)


def test_pure_wheels_fit_as_they_are(tmp_path: Path) -> None:
    """Nothing is audited where nothing is compiled, whatever the tag says."""
    for tag in ("py3-none-any", "cp313-cp313-linux_x86_64"):
        wheel = make_wheel(tmp_path, "x", "1.0", tag=tag)
        assert fit_wheel(wheel, IMAGE, tmp_path / "out") == wheel


@pytest.mark.parametrize(
    "tag", ["cp312-cp312-linux_x86_64", "py3-none-win_amd64", "cp313-cp313-macosx_11_0_arm64"]
)
def test_other_pythons_and_systems_do_not_fit(tmp_path: Path, tag: str) -> None:
    """The tag decides first, and the reason names it."""
    with pytest.raises(WheelMismatchError, match=tag):
        fit_wheel(make_wheel(tmp_path, "x", "1.0", tag=tag), IMAGE, tmp_path / "out")


@compiles
def test_what_needs_an_old_glibc_becomes_manylinux(tmp_path: Path) -> None:
    """A compiled wheel gets a tag that promises what its symbols keep."""
    wheel = compiled(tmp_path, "int answer(void) { return 42; }")
    assert "manylinux" in fit_wheel(wheel, IMAGE, tmp_path / "out").name


@compiles
def test_what_needs_a_newer_glibc_does_not_fit(tmp_path: Path) -> None:
    """A symbol that the image's glibc lacks is a refusal that names that glibc."""
    wheel = compiled(tmp_path, "unsigned arc4random(void);\nunsigned answer(void) { return arc4random(); }")
    with pytest.raises(WheelMismatchError, match=r"glibc 2\.17"):
        fit_wheel(wheel, replace(IMAGE, glibc=(2, 17)), tmp_path / "out")
