"""The workshop in which foreign builds run."""

import os
import socket
import sys
import time
from pathlib import Path

import pytest

from offline_kit.core.errors import ProjectError
from offline_kit.packages.builds.build_environment import (
    BuildFailedError,
    clean_environment,
    create_build_environment,
    read_failure,
    unpack_sdist,
)
from offline_kit.packages.builds.confined_build import is_confined
from offline_kit.project.types import Wheel
from tests.support.local_index import make_wheel
from tests.support.sdists import own_backend

RUNNING = Path(sys.executable)


def wheel(path: Path) -> Wheel:
    """Take a file for a wheel."""
    return Wheel(
        name=path.name.split("-")[0],
        version="1.0",
        filename=path.name,
        path=path,
        sha256="",
        size=path.stat().st_size,
    )


def build(source: Path, tmp_path: Path, *wheels: Path) -> Path:
    """Build an sdist in a workshop and bring the wheel out of it."""
    log = tmp_path / "build.log"
    with create_build_environment(RUNNING, [wheel(one) for one in wheels], log=log) as shop:
        built = shop.build_wheel(unpack_sdist(source, shop.scratch / "source"), shop.scratch / "out")
        return built.rename(tmp_path / built.name)


@pytest.mark.parametrize("as_zip", [False, True])
def test_both_kinds_of_sdists_unpack_to_their_sources(tmp_path: Path, as_zip: bool) -> None:
    """A .tar.gz and a .zip give the folder that holds pyproject.toml, odd member names included."""
    odd = {"demo/bad&name.ini": "x", "demo/@PaxHeader": "y"}
    source = unpack_sdist(own_backend(tmp_path, "demo", files=odd, as_zip=as_zip), tmp_path / "out")
    assert (source / "pyproject.toml").is_file()
    assert {path.name for path in (source / "demo").iterdir()} >= {"bad&name.ini", "@PaxHeader"}


@pytest.mark.parametrize("content", [b"", b"<html>moved</html>"])
@pytest.mark.parametrize("name", ["demo-1.0.tar.gz", "demo-1.0.zip"])
def test_a_broken_sdist_is_named(tmp_path: Path, content: bytes, name: str) -> None:
    """What cannot be unpacked is an error about that file."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ProjectError) as caught:
        unpack_sdist(tmp_path / name, tmp_path / "out")
    assert name in caught.value.what


def test_a_member_outside_the_archive_is_refused(tmp_path: Path) -> None:
    """An sdist cannot write outside the folder that it is unpacked into."""
    import tarfile

    with tarfile.open(tmp_path / "demo-1.0.tar.gz", "w:gz") as archive:
        archive.add(__file__, arcname="../escaped.py")
    with pytest.raises(ProjectError):
        unpack_sdist(tmp_path / "demo-1.0.tar.gz", tmp_path / "into")
    assert not (tmp_path / "escaped.py").exists()


def test_builds_see_no_secrets(tmp_path: Path) -> None:
    """Tokens, keys and the user's home stay outside; the compiler and PATH are passed on."""
    outside = {
        "PATH": "/bin",
        "CC": "gcc-13",
        "KAGGLE_KEY": "s3cret",
        "PIP_INDEX_URL": "https://u:p@h",
        "HOME": "/home/me",
    }
    env = clean_environment(tmp_path, outside)
    assert env["PATH"] == "/bin"
    assert env["CC"] == "gcc-13"
    assert env["HOME"] == str(tmp_path)
    assert not {"KAGGLE_KEY", "PIP_INDEX_URL"} & set(env)


@pytest.mark.skipif(not is_confined(), reason="no sandbox works here")
def test_a_build_has_no_network(tmp_path: Path) -> None:
    """What listens on this machine is out of reach."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        body = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 2)"
        with pytest.raises(BuildFailedError) as caught:
            build(own_backend(tmp_path, "demo", body=body), tmp_path)
        assert caught.value.wants_network


def test_the_environment_holds_what_was_put_in_and_nothing_else(tmp_path: Path) -> None:
    """Wheels given are importable in the build; what we have installed ourselves is not."""
    plugin = make_wheel(tmp_path, "plugin", "1.0")
    body = "import plugin, importlib.util; assert importlib.util.find_spec('packaging') is None"
    assert build(own_backend(tmp_path, "demo", body=body), tmp_path, plugin).is_file()


def test_the_workshop_goes_away(tmp_path: Path) -> None:
    """Nothing is left of a workshop, whether it ends well or badly."""
    with create_build_environment(RUNNING, [], log=tmp_path / "log") as shop:
        scratch = shop.scratch
    assert not scratch.exists()


def test_a_wheel_for_another_python_fails_with_a_reason(tmp_path: Path) -> None:
    """What the interpreter cannot install is a build failure that quotes the installer."""
    other = make_wheel(tmp_path, "plugin", "1.0", tag="cp27-cp27m-manylinux1_x86_64")
    with (
        pytest.raises(BuildFailedError) as caught,
        create_build_environment(RUNNING, [wheel(other)], log=tmp_path / "log"),
    ):
        pass
    assert "plugin" in " ".join(caught.value.tail)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("ModuleNotFoundError: No module named 'numpy'", "its build imports 'numpy' without requiring it"),
        ("error: can't find Rust compiler", "its build needs Rust"),
        ("error: command 'gcc' failed: No such file or directory", "its build needs a C compiler"),
        (
            "src/x.c:1:10: fatal error: zlib.h: No such file or directory",
            "its build needs the C header 'zlib.h'",
        ),
        ("urlopen error [Errno -3] Temporary failure in name resolution", "its build needs the network"),
        ("something else", "its build failed"),
    ],
)
def test_failures_become_one_sentence(tmp_path: Path, said: str, why: str) -> None:
    """The usual causes are named, whatever surrounds them in the log."""
    (tmp_path / "log").write_text(f"running build\n\n{said}\nbye\n")
    failed = read_failure(tmp_path / "log", "otherwise")
    assert failed.reason == why
    assert failed.tail == ("running build", said, "bye")


def test_a_silent_failure_still_says_something(tmp_path: Path) -> None:
    """Where the log is empty, what the caller knows stands in."""
    assert read_failure(tmp_path / "log", "ended with code 9").tail == ("ended with code 9",)


def test_times_do_not_depend_on_the_day(tmp_path: Path) -> None:
    """Builds are told one date, in one time zone."""
    env = clean_environment(tmp_path, dict(os.environ))
    assert time.gmtime(int(env["SOURCE_DATE_EPOCH"]))[:3] == (1980, 1, 2)
    assert env["TZ"] == "UTC"
