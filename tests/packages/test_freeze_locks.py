"""Lock files as preferences."""

import re
from pathlib import Path

import pytest

from offline_kit.core.errors import ProjectError
from offline_kit.packages.freeze.lock_files import is_lock_file, read_lock_files

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
    lock = read_lock_files([path], ENVIRONMENT)
    assert {name: pin.version for name, pin in lock.pins.items()} == {"alpha": "1.2"}
    assert lock.roots == ["alpha[x]", "win; sys_platform == 'win32'"]


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
    assert read_lock_files([path], ENVIRONMENT).roots == ["alpha<2", "beta[x]; python_full_version >= '3'"]


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
    assert {name: pin.version for name, pin in read_lock_files([path], ENVIRONMENT).pins.items()} == {
        "alpha": "1.2"
    }


def test_pip_freeze(tmp_path: Path) -> None:
    """`pip freeze` text gives exact pins; direct references and editable lines are passed over."""
    path = tmp_path / "freeze.txt"
    path.write_text(
        "Alpha==1.0\n-e git+https://h.example/x#egg=x\nbeta @ file:///tmp/b.whl\ntorch==2.4.1+cu121\n"
    )
    lock = read_lock_files([path], ENVIRONMENT)
    assert {name: pin.version for name, pin in lock.pins.items()} == {"alpha": "1.0", "torch": "2.4.1+cu121"}


def test_the_first_lock_wins(tmp_path: Path) -> None:
    """Where two lock files name a package, the first one's version counts, and is called by its file."""
    for name, version in (("one.txt", "1"), ("two.txt", "2")):
        (tmp_path / name).write_text(f"alpha=={version}\n")
    pins = read_lock_files([tmp_path / "one.txt", tmp_path / "two.txt"], ENVIRONMENT).pins
    assert (pins["alpha"].version, pins["alpha"].source) == ("1", "one.txt")


def test_what_is_no_lock_is_said(tmp_path: Path) -> None:
    """Lines that are no requirement and broken TOML are one error that names each file."""
    (tmp_path / "loose.txt").write_text("alpha 1.0\n")
    (tmp_path / "uv.lock").write_text("nonsense = [")
    with pytest.raises(ProjectError) as error:
        read_lock_files([tmp_path / "loose.txt", tmp_path / "uv.lock"], ENVIRONMENT)
    assert "loose.txt:1" in error.value.details[0]
    assert "uv.lock" in error.value.details[1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("uv.lock", True), ("pylock.toml", True), ("pylock.gpu.toml", True), ("requirements.txt", False), ("poetry.lock", True)],
)  # fmt: skip
def test_locks_are_known_by_name(name: str, expected: bool) -> None:
    """uv.lock and pylock files are locks wherever they are named."""
    assert is_lock_file(Path(name)) is expected


def found(tmp_path: Path, name: str, text: str | bytes) -> tuple[dict[str, str], set[str]]:
    """Write a file and return its pins, and the names of its roots."""
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    lock = read_lock_files([path], ENVIRONMENT)
    names = {re.split(r"[\[<>=! ]", root)[0] for root in lock.roots}
    return {name: pin.version for name, pin in lock.pins.items()}, names


POETRY = """
[[package]]
name = "Alpha"
version = "1.0"
{main}
[[package]]
name = "tester"
version = "2.0"
{dev}
[[package]]
name = "windows"
version = "3.0"
{main}
markers = "sys_platform == 'win32'"
[[package]]
name = "beta"
version = "4.0"
optional = false
{main}
[metadata]
lock-version = "2.1"
"""


@pytest.mark.parametrize(
    ("main", "dev"), [('category = "main"', 'category = "dev"'), ('groups = ["main"]', 'groups = ["dev"]')]
)
def test_poetry_lock(tmp_path: Path, main: str, dev: str) -> None:
    """The main group's pins count; what the project asks for stands in pyproject.toml beside it."""
    text = POETRY.format(main=main, dev=dev)
    assert found(tmp_path, "poetry.lock", text) == ({"alpha": "1.0", "beta": "4.0"}, {"alpha", "beta"})
    (tmp_path / "pyproject.toml").write_text('[tool.poetry.dependencies]\npython = "^3.9"\nalpha = "^1.0"\n')
    assert found(tmp_path, "poetry.lock", text)[1] == {"alpha"}


def test_pipfile_lock(tmp_path: Path) -> None:
    """The default packages count, and those of the Pipfile are the roots."""
    text = (
        '{"default": {"alpha": {"version": "==1.0"}, "beta": {"version": "==2.0", "markers": "python_version < \'3\'"},'
        ' "gamma": {"version": "==3.0"}, "local": {"path": "."}}, "develop": {"pytest": {"version": "==8.0"}}}'
    )
    assert found(tmp_path, "Pipfile.lock", text) == ({"alpha": "1.0", "gamma": "3.0"}, {"alpha", "gamma"})
    (tmp_path / "Pipfile").write_text('[packages]\ngamma = "*"\n')
    assert found(tmp_path, "Pipfile.lock", text)[1] == {"gamma"}


def test_pdm_lock(tmp_path: Path) -> None:
    """The default group's pins count."""
    text = (
        '[[package]]\nname = "alpha"\nversion = "1.0"\ngroups = ["default"]\n'
        '[[package]]\nname = "tester"\nversion = "1.0"\ngroups = ["dev"]\n'
    )
    assert found(tmp_path, "pdm.lock", text) == ({"alpha": "1.0"}, {"alpha"})


def test_rye_lock(tmp_path: Path) -> None:
    """The project itself, an editable line, is passed over."""
    assert found(tmp_path, "requirements.lock", "# generated by rye\n\n-e file:.\nalpha==1.0\n") == (
        {"alpha": "1.0"},
        {"alpha"},
    )


def test_conda_environment(tmp_path: Path) -> None:
    """conda's names become PyPI's, its libraries stay out, and pip's part is read as pip's."""
    text = """
name: plants
channels: [pytorch, conda-forge]
dependencies:
  - python=3.8.5
  - pytorch::pytorch=1.13.1=py3.8_cuda11.7_0
  - cudatoolkit=11.3
  - opencv
  - scikit-learn>=0.24
  - libgcc-ng=9.3.0=h5101ec6_17
  - timm==0.4.12
  - pip:
    - Alpha==1.0
    - -e git+https://h.example/x@0f#egg=mine
    - beta>=2
    - git+https://h.example/tools@0f
"""
    assert found(tmp_path, "environment.yml", text) == (
        {"torch": "1.13.1", "timm": "0.4.12", "alpha": "1.0"},
        {"torch", "opencv-python-headless", "scikit-learn", "timm", "alpha", "beta"},
    )


def test_repositories_of_a_conda_environment_are_asked_for(tmp_path: Path) -> None:
    """A line of its pip part that names a repository is a direct reference."""
    path = tmp_path / "environment.yml"
    path.write_text("dependencies:\n- pip:\n  - alpha\n  - git+https://h.example/tools@0f\n")
    assert read_lock_files([path], ENVIRONMENT).direct_references == ["git+https://h.example/tools@0f"]


def test_conda_list_export(tmp_path: Path) -> None:
    """A requirements.txt that `conda list -e` wrote is a list of conda's, known by its lines."""
    text = "# platform: linux-64\n_libgcc_mutex=0.1=main\nnumpy-base=1.21.2=py39h\nalpha=1.0=pypi_0\n"
    assert found(tmp_path, "requirements.txt", text) == (
        {"numpy": "1.21.2", "alpha": "1.0"},
        {"numpy", "alpha"},
    )
    assert is_lock_file(tmp_path / "requirements.txt")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8-sig", "utf-8"])
def test_a_freeze_of_windows(tmp_path: Path, encoding: str) -> None:
    """PowerShell's encoding, CRLF and paths of conda's build machines; a line without a version is a wish without one."""
    lines = (
        "alpha==1.0",
        "attrs @ file:///C:/ci/attrs_1620827162558/work",
        "cffi @ file:///croot/cffi_1670423208954/work",
        "ipykernel @ file:///D:/bld/work/dist/ipykernel-5.3.4-py3-none-any.whl",
        "loose",
        "ranged>=2",
    )
    pins, roots = found(tmp_path, "requirements.txt", "\r\n".join(lines).encode(encoding))
    assert pins == {"alpha": "1.0", "ipykernel": "5.3.4"}
    assert roots == {"alpha", "attrs", "cffi", "ipykernel", "loose", "ranged"}
    assert is_lock_file(tmp_path / "requirements.txt")


def test_a_pip_list(tmp_path: Path) -> None:
    """The table that `pip list` prints is read, without what is installed from a folder."""
    text = "Package    Version Editable project location\n---------- ------- ---\nAlpha      1.0\nmine       0.1  /home/me/mine\n"
    assert found(tmp_path, "requirements.txt", text) == ({"alpha": "1.0"}, {"alpha"})


@pytest.mark.parametrize("text", ["torch==1.0\nnumpy\n", "mine @ file:///home/me/mine\n", "a==1\nb==2\n"])
def test_requirements_stay_requirements(tmp_path: Path, text: str) -> None:
    """A file that a person wrote is no lock, pins and an own folder among its lines or not."""
    (tmp_path / "requirements.txt").write_text(text)
    assert not is_lock_file(tmp_path / "requirements.txt")
