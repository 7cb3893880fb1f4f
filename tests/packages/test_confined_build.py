"""Somebody else's build sees no home, no token and no file of ours, reaches package indexes alone, and writes nowhere."""

import math
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from offline_kit.core.errors import OfflineKitError, ProjectError
from offline_kit.packages.builds.confined_build import Confinement, is_confined, run_confined
from offline_kit.packages.pip_settings import IndexSettings
from tests.support.freezing import Case, bundled, stocked
from tests.support.local_index import LocalIndex, make_sdist

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(not is_confined(), reason="no sandbox works here"),
]
FURTHER = [pytest.mark.slow, pytest.mark.exhaustive]
HERE = "{}.{}.{}".format(*sys.version_info)
"""The Python that pip-tools runs on."""
HOSTILE = """
import json, os, pathlib, socket, urllib.request, zipfile

def get_requires_for_build_wheel(settings=None):
    return []

def logins():
    # written so that this source does not hold them
    words = ["".join(parts) for parts in (("plan", "ted-password"), ("bWU6", "cGxhbnRlZC1wYXNzd29yZA"))]
    places = [os.path.join(folder, name) for top in TARGETS["search"] for folder, _, names in os.walk(top) for name in names]
    places += map(str, pathlib.Path("/proc").glob("[0-9]*/[ce][mn][dv]*"))
    for path in places:
        try:
            if os.path.isfile(path) and os.path.getsize(path) < 100000:
                text = open(path, errors="ignore").read()
                if any(word in text for word in words):
                    yield path
        except OSError:
            pass

def done():
    yield from ("login-" + path.strip("/").replace("/", "-") for path in logins())
    home = pathlib.Path.home()
    yield from ("home-" + name for name in os.listdir(home))
    yield from ("variable-" + name for name, value in os.environ.items() if "planted" in value)
    yield from ("read-" + path.strip("/").replace("/", "-") for path in TARGETS["read"] if os.path.exists(path))
    for path in TARGETS["write"]:
        try:
            pathlib.Path(path, "written-by-a-build").write_text("x")
            yield "wrote-" + path.strip("/").replace("/", "-")
        except OSError:
            pass
    for host, port in TARGETS["reach"]:
        try:
            socket.create_connection((host, port), 2).close()
            yield "reached-" + host
        except OSError:
            pass
    try:
        urllib.request.urlopen(TARGETS["url"], timeout=5)
        yield "reached-a-server"
    except OSError:
        pass

def build_wheel(out, settings=None, metadata=None):
    info = "hostile-1.0.dist-info/"
    lines = ["Metadata-Version: 2.1", "Name: hostile", "Version: 1.0", "Requires-Dist: einops"]
    lines += ["Provides-Extra: " + "".join(c if c.isalnum() else "-" for c in name) for name in done()]
    with zipfile.ZipFile(os.path.join(out, "hostile-1.0-py3-none-any.whl"), "w") as archive:
        archive.writestr("hostile.py", chr(10).join(lines))
        archive.writestr(info + "METADATA", chr(10).join(lines) + chr(10))
        archive.writestr(info + "WHEEL", "Wheel-Version: 1.0" + chr(10) + "Root-Is-Purelib: true" + chr(10) + "Tag: py3-none-any" + chr(10))
        archive.writestr(info + "RECORD", "")
    return "hostile-1.0-py3-none-any.whl"
"""


@pytest.fixture
def case(tmp_path: Path) -> "Case":  # type: ignore[misc]
    with LocalIndex() as index:
        yield stocked(tmp_path, index)


def hostile(case: Case, server: socket.socket) -> None:
    """Put an sdist on the index whose metadata only its setup.py can tell, and which tells what it could do."""
    home = Path.home()
    (case.folder / "secret.txt").write_text("planted")
    targets = {
        "search": ["/tmp"],
        "read": [str(case.folder / "secret.txt"), str(home / ".kaggle"), "/etc/shadow", str(Path(__file__))],
        "write": [str(home), str(case.folder), str(Path(sys.prefix)), "/usr", "/etc", "/var/tmp"],
        "reach": [["127.0.0.1", server.getsockname()[1]], ["1.1.1.1", 443]],
        "url": f"http://127.0.0.1:{server.getsockname()[1]}/",
    }
    system = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    files = {"pyproject.toml": system, "backend.py": f"TARGETS = {targets!r}\n{HOSTILE}"}
    case.index.add(make_sdist(case.folder / "sdists", "hostile", "1.0", files=files, metadata_version="1.2"))


@pytest.mark.parametrize("engine", ["uv", "pip-tools"])
def test_a_build_in_the_freeze_finds_nothing(
    case: Case, engine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its metadata comes, and it could neither read, write nor send anything, nor see how the index is logged in to."""
    address = case.index.with_credentials("me", "planted-password")
    case = replace(case, settings=IndexSettings(index_url=address))
    monkeypatch.setenv("KAGGLE_API_TOKEN", "planted-token")
    monkeypatch.setenv("HF_TOKEN", "planted-token")
    with socket.create_server(("127.0.0.1", 0)) as server:
        hostile(case, server)
        freeze = case.with_image(python=HERE).freeze("hostile", engine=engine)
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()
    assert bundled(freeze) == {"hostile": "1.0", "einops": "0.8"}
    kept = [path.read_text() for path in (tmp_path / "cache" / "freeze" / "metadata").iterdir()]
    told = [
        line.split(": ")[1]
        for text in kept
        for line in text.splitlines()
        if line.startswith("Provides-Extra")
    ]
    assert kept
    # what is written in the box's own empty folders is gone with it
    assert [each for each in told if not each.startswith("wrote-")] == []
    places = (Path.home(), case.folder, Path(sys.prefix), Path("/usr"), Path("/etc"), Path("/var/tmp"))
    assert not [place for place in places if (place / "written-by-a-build").exists()]


@pytest.mark.parametrize("engine", ["uv", "pip-tools"])
def test_an_index_behind_a_login_serves_builds(
    case: Case, engine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Metadata comes from it, built with the image's version, though its login stands in ~/.netrc and its pages move."""
    case.index.with_credentials("me", "planted-password")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password planted-password")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    case.index.moved = True
    sdist_of_seen_version(case, "free", "cmaes")
    for name in ("seen", "cmaes"):
        case.add(name, "0.13")
        case.add(name, "0.14")
    packages = {**case.image.packages, "cmaes": "0.13"}
    case = case.with_image(packages=packages, python=HERE)
    assert bundled(case.freeze("free", engine=engine)) == {"free": "1.0", "seen": "0.13"}


@pytest.mark.parametrize("name", ["pip.conf", "uv.toml", ".condarc"])
def test_logins_beside_an_interpreter_are_covered(tmp_path: Path, name: str) -> None:
    """The folder of an environment is shown, the configuration in it is empty."""
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / name).write_text("planted-password")
    (tmp_path / "env" / "other").write_text("shown")
    limits = Confinement(env={"PATH": "/usr/bin:/bin"}, cwd=Path("/"), writable=(), shown=[tmp_path / "env"])
    done = run_confined(["/bin/cat", tmp_path / "env" / name, tmp_path / "env" / "other"], limits, timeout=60)
    assert (done.out, done.code) == ("shown", 0)


@pytest.mark.parametrize("engine", ["uv", pytest.param("pip-tools", marks=FURTHER)])
def test_an_index_behind_a_login_is_named_by_its_own_address(case: Case, engine: str) -> None:
    """What a resolver says of it reaches the user with the address that they know, without the password."""
    address = case.index.with_credentials("me", "planted-password")
    case = replace(case, settings=IndexSettings(index_url=address)).with_image(python=HERE)
    sdist_of_seen_version(case, "free", "cmaes")
    case.index.fail("cmaes-0.13-py3-none-any.whl", 404, times=math.inf)
    with pytest.raises(OfflineKitError) as caught:
        case.freeze("free", engine=engine)
    text = "\n".join((caught.value.what, *caught.value.details, caught.value.hint))
    assert f"{case.index.root}/files/cmaes" in text
    assert ".invalid" not in text
    assert "planted" not in text


def source(case: Case, name: str, requires: str) -> Path:
    """Write a folder whose build puts the version of `cmaes` that it was given into its own."""
    folder = case.project / name
    folder.mkdir(parents=True)
    backend = (
        HOSTILE.replace("hostile", name).replace("in done()]", "in ()]").replace("-1.0", '-" + given() + "')
    )
    backend = backend.replace("Version: 1.0", 'Version: " + given() + "').replace(
        "import json,", "import importlib.metadata, json,"
    )
    backend += "\ndef given():\n    return importlib.metadata.version('cmaes')\n"
    (folder / "backend.py").write_text(f"TARGETS = {{}}\n{backend}")
    (folder / "pyproject.toml").write_text(
        f'[build-system]\nrequires = ["{requires}"]\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    return folder


def sdist_of_seen_version(case: Case, name: str, requires: str) -> None:
    """Put an sdist on the index whose metadata requires `seen` at the version of `cmaes` that its build was given."""
    backend = HOSTILE.replace("hostile", name).replace("in done()]", "in ()]")
    backend = backend.replace('Requires-Dist: einops"', 'Requires-Dist: seen==" + given()')
    backend += (
        "\ndef given():\n    import importlib.metadata\n    return importlib.metadata.version('cmaes')\n"
    )
    system = f'[build-system]\nrequires = ["{requires}"]\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    files = {"pyproject.toml": system, "backend.py": f"TARGETS = {{}}\n{backend}"}
    case.index.add(make_sdist(case.folder / "sdists", name, "1.0", files=files, metadata_version="1.2"))


@pytest.mark.parametrize("engine", ["uv", pytest.param("pip-tools", marks=FURTHER)])
def test_metadata_is_built_with_the_images_versions(case: Case, engine: str) -> None:
    """An sdist's build requirement comes at the image's version unless the build refuses it; the kit's own need not."""
    case = case.with_image(packages={**case.image.packages, "cmaes": "0.13"}, python=HERE)
    for version in ("0.13", "0.14"):
        case.add("seen", version)
    case.add("cmaes", "0.14")
    sdist_of_seen_version(case, "free", "cmaes")
    sdist_of_seen_version(case, "strict", "cmaes>=0.14")
    free = case.freeze("free", "cmaes>=0.14", engine=engine)
    assert bundled(free) == {"free": "1.0", "seen": "0.13", "cmaes": "0.14"}
    assert bundled(case.freeze("strict", engine=engine)) == {"strict": "1.0", "seen": "0.14"}


def test_builds_of_the_freeze_use_the_images_versions(case: Case) -> None:
    """A build requirement comes at the image's version, though an index has a newer one; unless the build refuses it."""
    case.add("cmaes", "0.14")
    case = case.with_image(packages={**case.image.packages, "cmaes": "0.13"})
    source(case, "free", "cmaes")
    source(case, "strict", "cmaes>=0.14")
    freeze = case.freeze("./free", "./strict")
    assert bundled(freeze) == {"free": "0.13", "strict": "0.14", "einops": "0.8"}


@pytest.mark.parametrize(("kind", "engine"), [("folder", "uv"), ("sdist", "uv"), ("sdist", "pip-tools")])
def test_no_foreign_torch_is_fetched_for_a_build(case: Case, kind: str, engine: str) -> None:
    """It is said at once what the build asks for, and the two ways that work; no torch was downloaded."""
    case = case.with_image(python=HERE)
    if kind == "folder":
        source(case, "free", "torch")
    else:
        files = {"backend.py": "raise SystemExit(1)"}
        folder = case.folder / "sdists"
        sdist = make_sdist(
            folder, "free", "1.0", files=files, build_requires=["torch"], metadata_version="1.2"
        )
        case.index.add(sdist)
    with pytest.raises(ProjectError) as caught:
        case.freeze("./free" if kind == "folder" else "free", engine=engine)
    text = "\n".join((caught.value.what, *caught.value.details, caught.value.hint))
    assert "torch" in text
    assert "--on kaggle" in text
    assert ".whl" in text
    assert not [path for path, _ in case.index.requests if path.endswith(".whl") and "torch" in path]
