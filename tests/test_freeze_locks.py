"""Lock files as preferences."""

from pathlib import Path

import pytest

from offline_kit.errors import ProjectError
from offline_kit.freeze.locks import is_lock, read

ENVIRONMENT = {"python_version": "3.13", "python_full_version": "3.13.5", "sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64", "implementation_name": "cpython", "platform_python_implementation": "CPython", "implementation_version": "3.13.5", "platform_release": "", "platform_version": ""}  # fmt: skip


def test_uv_lock(tmp_path: Path) -> None:
    """uv.lock gives the pins of index packages, and the project's own requirements as roots."""
    path = tmp_path / "uv.lock"
    path.write_text(
        """
version = 1
[[package]]
name = "plants"
version = "0.1"
source = { virtual = "." }
dependencies = [{ name = "alpha", extra = ["x"] }, { name = "win", marker = "sys_platform == 'win32'" }]
[[package]]
name = "alpha"
version = "1.2"
source = { registry = "https://pypi.org/simple" }
[[package]]
name = "old"
version = "1"
source = { registry = "https://pypi.org/simple" }
resolution-markers = ["python_full_version < '3.12'"]
[[package]]
name = "gitted"
version = "3"
source = { git = "https://h.example/g" }
"""
    )
    lock = read([path], ENVIRONMENT)
    assert {name: pin.version for name, pin in lock.pins.items()} == {"alpha": "1.2"}
    assert lock.roots == ("alpha[x]", "win; sys_platform == 'win32'")


def test_what_a_locked_project_asks_for_keeps_its_versions(tmp_path: Path) -> None:
    """The ranges of the project behind a uv.lock bind, unlike its pins; what its extras add is not asked for."""
    path = tmp_path / "uv.lock"
    path.write_text(
        """
version = 1
[[package]]
name = "plants"
version = "0.1"
source = { editable = "." }
dependencies = [{ name = "alpha" }, { name = "beta", extra = ["x"] }]
[package.metadata]
requires-dist = [
    { name = "alpha", specifier = "<2" },
    { name = "beta", extras = ["x"], marker = "python_full_version >= '3'" },
    { name = "gamma", marker = "extra == 'more'" },
]
"""
    )
    assert read([path], ENVIRONMENT).roots == ("alpha<2", "beta[x]; python_full_version >= '3'")


def test_pylock(tmp_path: Path) -> None:
    """pylock.toml gives its pins, those for other systems left out."""
    path = tmp_path / "pylock.toml"
    path.write_text(
        """
lock-version = "1.0"
created-by = "test"
[[packages]]
name = "alpha"
version = "1.2"
[[packages.wheels]]
url = "https://h.example/alpha-1.2-py3-none-any.whl"
hashes = { sha256 = "ab" }
[[packages]]
name = "beta"
version = "2"
marker = "sys_platform == 'win32'"
[[packages.wheels]]
url = "https://h.example/beta-2-py3-none-any.whl"
hashes = { sha256 = "ab" }
"""
    )
    assert {name: pin.version for name, pin in read([path], ENVIRONMENT).pins.items()} == {"alpha": "1.2"}


def test_pip_freeze(tmp_path: Path) -> None:
    """`pip freeze` text gives exact pins; direct references and editable lines are passed over."""
    path = tmp_path / "freeze.txt"
    path.write_text(
        "Alpha==1.0\n-e git+https://h.example/x#egg=x\nbeta @ file:///tmp/b.whl\ntorch==2.4.1+cu121\n"
    )
    lock = read([path], ENVIRONMENT)
    assert {name: pin.version for name, pin in lock.pins.items()} == {"alpha": "1.0", "torch": "2.4.1+cu121"}


def test_the_first_lock_wins(tmp_path: Path) -> None:
    """Where two lock files name a package, the first one's version counts, and is called by its file."""
    for name, version in (("one.txt", "1"), ("two.txt", "2")):
        (tmp_path / name).write_text(f"alpha=={version}\n")
    pins = read([tmp_path / "one.txt", tmp_path / "two.txt"], ENVIRONMENT).pins
    assert (pins["alpha"].version, pins["alpha"].source) == ("1", "one.txt")


def test_what_is_no_lock_is_said(tmp_path: Path) -> None:
    """Loose lines and broken TOML are one error that names each file."""
    (tmp_path / "loose.txt").write_text("alpha>=1\n")
    (tmp_path / "uv.lock").write_text("nonsense = [")
    with pytest.raises(ProjectError) as error:
        read([tmp_path / "loose.txt", tmp_path / "uv.lock"], ENVIRONMENT)
    assert "loose.txt:1" in error.value.details[0]
    assert "uv.lock" in error.value.details[1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("uv.lock", True), ("pylock.toml", True), ("pylock.gpu.toml", True), ("requirements.txt", False), ("poetry.lock", False)],
)  # fmt: skip
def test_locks_are_known_by_name(name: str, expected: bool) -> None:
    """uv.lock and pylock files are locks wherever they are named."""
    assert is_lock(Path(name)) is expected
