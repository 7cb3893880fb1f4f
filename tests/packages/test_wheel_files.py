"""Wheels as files."""

import base64
import csv
import hashlib
import io
import time
import zipfile
from pathlib import Path

import pytest

from offline_kit.core.errors import ProjectError
from offline_kit.packages.wheel_files import normalize_wheel
from tests.support.local_index import make_wheel

FILES = {
    "demo/__init__.py": (b"x = 1\n", 0o644),
    "demo-1.0.data/scripts/run": (b"#!python\n", 0o755),
    "demo-1.0.dist-info/METADATA": (b"Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n", 0o644),
    "demo-1.0.dist-info/WHEEL": (b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n", 0o644),
    "demo-1.0.dist-info/RECORD": (b"stale,,\n", 0o644),
}


def wheel(folder: Path, *, reverse: bool = False, umask: int = 0, level: int = 6) -> Path:
    """Write the demo wheel in one of the many ways that mean the same."""
    folder.mkdir()
    path = folder / "demo-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as archive:
        archive.mkdir("demo")
        for name in sorted(FILES, reverse=reverse):
            data, mode = FILES[name]
            entry = zipfile.ZipInfo(name, time.gmtime(1_700_000_000 + umask)[:6])
            entry.external_attr = (0o100000 | mode & ~umask) << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return path


def test_equal_contents_become_equal_bytes(tmp_path: Path) -> None:
    """Order, dates, umask and compression leave no trace in a normalised wheel."""
    one = normalize_wheel(wheel(tmp_path / "a"))
    two = normalize_wheel(wheel(tmp_path / "b", reverse=True, umask=0o077, level=1))
    assert (
        one == two == hashlib.sha256((tmp_path / "a" / "demo-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    )


def test_record_is_true_afterwards(tmp_path: Path) -> None:
    """RECORD lists every member once with its digest and size, itself without."""
    path = wheel(tmp_path / "a")
    normalize_wheel(path)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        rows = list(csv.reader(io.StringIO(archive.read("demo-1.0.dist-info/RECORD").decode())))
        assert [row[0] for row in rows] == names
        assert names[-1] == "demo-1.0.dist-info/RECORD"
        for name, digest, size in rows[:-1]:
            data = archive.read(name)
            raw = hashlib.sha256(data).digest()
            assert digest == "sha256=" + base64.urlsafe_b64encode(raw).decode().rstrip("=")
            assert int(size) == len(data)
        assert rows[-1][1:] == ["", ""]


def test_a_vendored_distribution_keeps_its_record(tmp_path: Path) -> None:
    """RECORD is made anew for the wheel's own distribution, and not for one that it brings along inside."""
    vendored = {"demo/_vendor/old-0.1.dist-info/RECORD": "old/__init__.py,,\n"}
    path = make_wheel(tmp_path, "demo", "1.0", files=vendored)
    normalize_wheel(path)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("demo/_vendor/old-0.1.dist-info/RECORD") == b"old/__init__.py,,\n"
        rows = list(csv.reader(io.StringIO(archive.read("demo-1.0.dist-info/RECORD").decode())))
        assert [row[0] for row in rows] == archive.namelist()
        assert rows[-1][0] == "demo-1.0.dist-info/RECORD"


def test_a_wheel_with_nothing_but_a_vendored_record_is_none(tmp_path: Path) -> None:
    """A file whose only RECORD is that of what it vendors is no wheel."""
    path = tmp_path / "demo-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("demo/_vendor/old-0.1.dist-info/RECORD", "")
    with pytest.raises(ProjectError, match="has no RECORD"):
        normalize_wheel(path)


def test_scripts_stay_executable(tmp_path: Path) -> None:
    """The owner's execute bit survives as 0755, everything else is 0644."""
    path = wheel(tmp_path / "a", umask=0o077)
    normalize_wheel(path)
    with zipfile.ZipFile(path) as archive:
        modes = {info.filename: info.external_attr >> 16 & 0o777 for info in archive.infolist()}
    assert modes.pop("demo-1.0.data/scripts/run") == 0o755
    assert set(modes.values()) == {0o644}


@pytest.mark.parametrize("content", [b"", b"not a zip"])
def test_what_is_no_wheel_is_said_and_left_alone(tmp_path: Path, content: bytes) -> None:
    """A broken file is an error that names it, and keeps its bytes."""
    path = tmp_path / "broken-1.0-py3-none-any.whl"
    path.write_bytes(content)
    with pytest.raises(ProjectError, match=r"broken-1\.0"):
        normalize_wheel(path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]
