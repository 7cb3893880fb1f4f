"""Import names are told from a wheel's files."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offline_kit.core.errors import ProjectError
from offline_kit.project.import_names import derive_import_names, read_sdist_imports, read_wheel_imports


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["timm/__init__.py", "timm/models/a.py", "timm-1.dist-info/RECORD"], ["timm"]),
        (["six.py"], ["six"]),
        (["cv2/__init__.py", "cv2/cv2.abi3.so"], ["cv2"]),
        (["ujson.cpython-313-x86_64-linux-gnu.so"], ["ujson"]),
        (["fast.pyd", "old.so"], ["fast", "old"]),
        (["pkg/__init__.cpython-313-x86_64-linux-gnu.so"], ["pkg"]),
        (["google/protobuf/__init__.py", "google/_upb/_message.abi3.so"], ["google.protobuf"]),
        (["google/cloud/storage/__init__.py", "google/cloud/x/y/__init__.py"], ["google.cloud.storage", "google.cloud.x.y"]),
        (["ns/one.py", "ns/two.py"], ["ns.one", "ns.two"]),
        (["ns/loose.py", "ns/pkg/__init__.py"], ["ns.pkg"]),
        (["hydra_plugins/a/b.py"], ["hydra_plugins.a.b"]),
        (["_distutils_hack/__init__.py", "setuptools/__init__.py"], ["setuptools"]),
        (["_cffi_backend.cpython-313-x86_64-linux-gnu.so", "cffi/__init__.py"], ["cffi"]),
        (["yaml-stubs/__init__.pyi", "typed/__init__.pyi", "typed/py.typed"], []),
        (["nvidia/cublas/lib/libcublas.so.12", "data/table.csv"], []),
        (["ruff-1.data/scripts/ruff", "x-1.data/scripts/tool.py", "x-1.data/data/share/a.py"], []),
        (["x-1.data/purelib/inner/__init__.py", "x-1.data/platlib/mod.so"], ["inner", "mod"]),
        (["pkg/__init__.py", "tests/__init__.py", "docs/conf.py", "setup.py"], ["pkg"]),
        (["tests/__init__.py"], ["tests"]),
        (["pkg/__pycache__/a.pyc", "class.py", "distutils-precedence.pth"], []),
        ([], []),
    ],
)  # fmt: skip
def test_names_of_files(files: list[str], names: list[str]) -> None:
    """Packages, modules and what lies in namespaces count; private, stub, data and script files do not."""
    assert derive_import_names(files) == tuple(names)


@settings(deadline=None)
@given(st.lists(st.text(alphabet="ab_./1-", min_size=1, max_size=20).map(lambda name: f"{name}.py")))
def test_any_files_give_importable_names(files: list[str]) -> None:
    """Whatever lies in a wheel, each name is a dotted identifier."""
    for name in derive_import_names(files):
        assert all(part.isidentifier() and not part.startswith("_") for part in name.split("."))


def test_names_of_a_wheel(tmp_path: Path) -> None:
    """A wheel is read as a file; folders' own entries do not matter."""
    wheel = tmp_path / "a-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("a/", "")
        archive.writestr("a/__init__.py", "")
    assert read_wheel_imports(wheel) == ("a",)


def test_no_wheel_is_an_error_that_names_it(tmp_path: Path) -> None:
    """A damaged wheel is named with a next step."""
    (tmp_path / "a.whl").write_bytes(b"no")
    with pytest.raises(ProjectError, match=r"a\.whl"):
        read_wheel_imports(tmp_path / "a.whl")


def sdist(path: Path, **members: str) -> Path:
    """Write an sdist with one top folder."""
    with tarfile.open(path, "w:gz") as archive:
        for name, text in members.items():
            info = tarfile.TarInfo(f"p-1/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return path


def test_names_of_an_sdist(tmp_path: Path) -> None:
    """setuptools' own statement wins; else the package or module that is called like the project."""
    stated = sdist(tmp_path / "a.tar.gz", **{"p.egg-info/top_level.txt": "antlr4\n_private\ntests\n"})
    assert read_sdist_imports(stated, "antlr4-python3-runtime") == ("antlr4",)
    modern = sdist(tmp_path / "b.tar.gz", **{"src/My_Pkg/__init__.py": "", "tests/a.py": "", "PKG-INFO": ""})
    assert read_sdist_imports(modern, "my-pkg") == ("My_Pkg",)
    assert read_sdist_imports(sdist(tmp_path / "c.tar.gz", **{"single.py": ""}), "single") == ("single",)
    assert read_sdist_imports(sdist(tmp_path / "d.tar.gz", **{"other/__init__.py": ""}), "name") == ()
    (tmp_path / "e.tar.gz").write_bytes(b"no")
    assert read_sdist_imports(tmp_path / "e.tar.gz", "e") == ()


def test_names_of_a_zip_sdist(tmp_path: Path) -> None:
    """Old sdists are zips."""
    path = tmp_path / "p-1.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("p-1/p.egg-info/top_level.txt", "pee\n")
    assert read_sdist_imports(path, "p") == ("pee",)
