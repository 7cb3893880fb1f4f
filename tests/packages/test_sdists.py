"""Sdists: what their builds need, the wheel built beforehand, and the proof that both work offline."""

import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import uv

from offline_kit.core import interpreters
from offline_kit.core.errors import ProjectError
from offline_kit.core.retry import RetryPolicy
from offline_kit.packages.builds.confined_build import make_offline_prefix
from offline_kit.packages.builds.sdist_builds import settle_sdists
from offline_kit.packages.index import PackageIndex
from offline_kit.packages.pip_settings import IndexSettings
from offline_kit.project.images import Image, load_image
from offline_kit.project.types import Sdist, SettledSdist
from tests.support.listener import Listener
from tests.support.local_index import LocalIndex, make_sdist, make_wheel, unreachable
from tests.support.sdists import own_backend, wheel_of_installed

IMAGE = Image(name="test", title="", accelerator="none", python=platform.python_version(), packages={})
needs_cut = pytest.mark.skipif(not make_offline_prefix(), reason="this system cannot cut a network")


@dataclass
class Yard:
    """A local index and a cache: where the sdists of a test come from."""

    folder: Path
    server: LocalIndex

    def index(self, url: str = "") -> PackageIndex:
        """Return a fresh reader of the index, or of another address, over the same cache."""
        patience = RetryPolicy(attempts=1)
        settings = IndexSettings(index_url=url or self.server.url, timeout=5)
        return PackageIndex(settings, cache=self.folder / "cache", patience=patience)

    def sdist(self, name: str) -> Sdist:
        """Return a project's sdist as the wheelhouse hands it over."""
        index = self.index()
        file = next(one for one in index.list_files(name) if not one.filename.endswith(".whl"))
        return Sdist(
            name=file.project, version=file.version, filename=file.filename,
            path=index.fetch_file(file), sha256=file.sha256, size=file.size,
        )  # fmt: skip

    def plugin(
        self, name: str, version: str = "1.0", *, requires: Sequence[str] = (), uploaded: str = ""
    ) -> None:
        """Put a wheel on the index that a build may ask for."""
        wheel = make_wheel(self.folder / "wheels", name, version, requires=requires)
        self.server.add(wheel, upload_time=uploaded or "2026-01-01T00:00:00.000000Z")


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    with LocalIndex() as server:
        yield Yard(tmp_path, server)


def names(settled: SettledSdist) -> list[str]:
    """Return the closure as name-version."""
    return ["-".join(wheel.filename.split("-")[:2]) for wheel in settled.closure]


def content(settled: SettledSdist, member: str) -> str:
    """Return a file of the prebuilt wheel."""
    assert settled.wheel is not None
    with zipfile.ZipFile(settled.wheel.path) as archive:
        return archive.read(member).decode()


def offline(tool: Sequence[str | Path], settled: SettledSdist, folder: Path, python: Path) -> Path:
    """Build a settled sdist as the notebook does: its own files alone, isolated, no network."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    assert settled.sdist is not None
    for artifact in (settled.sdist, *settled.closure):
        (folder / artifact.filename).symlink_to(artifact.path)
    source, out = folder / settled.sdist.filename, folder / "out"
    if tool[0] == "uv":
        how = [
            uv.find_uv_bin(),
            "build",
            "--wheel",
            "--offline",
            "--no-config",
            "--no-cache",
            "--python",
            python,
        ]
        how += ["--out-dir", out, source]
    else:
        how = [
            *tool,
            "--isolated",
            "wheel",
            "--no-deps",
            "--use-pep517",
            "--no-cache-dir",
            "--wheel-dir",
            out,
            source,
        ]
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "UV_PYTHON_DOWNLOADS": "never"}
    command = [*make_offline_prefix(), *how, "--no-index", "--find-links", folder]
    done = subprocess.run(
        [str(word) for word in command], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


OURS = {"pip": [sys.executable, "-m", "pip"], "uv": ["uv"]}


@pytest.mark.parametrize("tool", OURS)
def test_the_closure_is_all_that_an_offline_build_needs(yard: Yard, tmp_path: Path, tool: str) -> None:
    """Static requirements, what the hook asks for and what those need: pip and uv build from it alone."""
    yard.plugin("static-one", requires=["deep"])
    yard.plugin("deep")
    yard.plugin("hooked", requires=["deeper>=2"])
    yard.plugin("deeper", "2.0")
    body = "import static_one, deep, hooked, deeper"
    yard.server.add(own_backend(tmp_path, "demo", requires=["static-one"], asks=["hooked"], body=body))
    (settled,) = settle_sdists([yard.sdist("demo")], IMAGE, yard.index())
    assert names(settled) == ["deep-1.0", "deeper-2.0", "hooked-1.0", "static_one-1.0"]
    assert content(settled, "demo/__init__.py") == "__version__ = '1.0'\n"
    assert (
        offline(OURS[tool], settled, tmp_path / "kit", Path(sys.executable)).name
        == "demo-1.0-py3-none-any.whl"
    )


def test_setup_requires_is_found(yard: Yard, tmp_path: Path) -> None:
    """A setup.py without pyproject.toml gets setuptools, wheel, and what setup_requires names."""
    for name in ("setuptools", "wheel", "packaging"):
        yard.server.add(wheel_of_installed(tmp_path, name))
    yard.plugin("plugin")
    script = "from setuptools import setup\nsetup(name='demo', version='1.0', packages=['demo'], setup_requires=['plugin'])\n"
    yard.server.add(make_sdist(tmp_path, "demo", "1.0", files={"pyproject.toml": b"", "setup.py": script}))
    (settled,) = settle_sdists([yard.sdist("demo")], IMAGE, yard.index())
    assert [name.split("-")[0] for name in names(settled)] == ["packaging", "plugin", "setuptools", "wheel"]
    assert (
        offline(["uv"], settled, tmp_path / "kit", Path(sys.executable)).name == "demo-1.0-py3-none-any.whl"
    )


def test_the_second_time_is_from_the_cache(yard: Yard, tmp_path: Path) -> None:
    """What was settled once needs neither network nor build, and says nothing."""
    yard.plugin("plugin")
    yard.server.add(own_backend(tmp_path, "demo", requires=["plugin"]))
    sdist, listener = yard.sdist("demo"), Listener()
    first = settle_sdists([sdist], IMAGE, yard.index(), cutoff="2026-06-01T00:00:00Z")
    again = settle_sdists(
        [sdist], IMAGE, yard.index(unreachable()), cutoff="2026-06-01T00:00:00Z", report=listener
    )
    assert again == first
    assert listener == Listener()


def test_a_damaged_closure_is_fetched_again(yard: Yard, tmp_path: Path) -> None:
    """A cached wheel of the closure that changed on disk is not shipped."""
    yard.plugin("plugin")
    yard.server.add(own_backend(tmp_path, "demo", requires=["plugin"]))
    first = settle_sdists([yard.sdist("demo")], IMAGE, yard.index())
    first[0].closure[0].path.write_bytes(b"damaged")
    again = settle_sdists([yard.sdist("demo")], IMAGE, yard.index())
    assert again == first
    assert again[0].closure[0].path.read_bytes() != b"damaged"


def test_the_images_versions_are_preferred(yard: Yard, tmp_path: Path) -> None:
    """A build requirement is taken at the image's version where that will do, else the newest."""
    for version in ("1.0", "2.0", "3.0"):
        yard.plugin("plugin", version)
    yard.server.add(own_backend(tmp_path, "easy", requires=["plugin"]))
    yard.server.add(own_backend(tmp_path, "picky", requires=["plugin>=2.5"]))
    image = replace(IMAGE, packages={"plugin": "2.0", "unknown": "1.0+local"})
    settled = settle_sdists([yard.sdist("easy"), yard.sdist("picky")], image, yard.index())
    assert [names(one) for one in settled] == [["plugin-2.0"], ["plugin-3.0"]]


def test_the_cut_off_holds_for_builds_too(yard: Yard, tmp_path: Path) -> None:
    """What was uploaded after the freeze is not looked at: the same freeze means the same closure."""
    yard.plugin("plugin", "1.0", uploaded="2026-01-01T00:00:00.000000Z")
    yard.plugin("plugin", "2.0", uploaded="2026-03-01T00:00:00.000000Z")
    yard.server.add(own_backend(tmp_path, "demo", requires=["plugin"]))
    closures = [
        names(settle_sdists([yard.sdist("demo")], IMAGE, yard.index(), cutoff=cutoff)[0])
        for cutoff in ("2026-02-01T00:00:00Z", "2026-04-01T00:00:00Z")
    ]
    assert closures == [["plugin-1.0"], ["plugin-2.0"]]


def test_a_build_requirement_without_wheel_is_built_too(yard: Yard, tmp_path: Path) -> None:
    """A requirement of the build that exists only as sdist goes into the closure as a wheel."""
    yard.plugin("deep")
    yard.server.add(own_backend(tmp_path, "plugin", requires=["deep"], body="import deep"))
    yard.server.add(own_backend(tmp_path, "demo", requires=["plugin"], body="import plugin"))
    (settled,) = settle_sdists([yard.sdist("demo")], IMAGE, yard.index())
    assert [wheel.filename for wheel in settled.closure] == ["plugin-1.0-py3-none-any.whl"]
    assert offline(["uv"], settled, tmp_path / "kit", Path(sys.executable)).is_file()


def test_builds_that_need_each_other_end_in_an_error(yard: Yard, tmp_path: Path) -> None:
    """A circle of sdists is said with its members instead of being walked for ever."""
    yard.server.add(own_backend(tmp_path, "hen", requires=["egg"]))
    yard.server.add(own_backend(tmp_path, "egg", requires=["hen"]))
    with pytest.raises(ProjectError) as caught:
        settle_sdists([yard.sdist("hen")], IMAGE, yard.index())
    assert "hen → egg → hen" in "\n".join(caught.value.details)


def test_every_failed_build_is_said_at_once(yard: Yard, tmp_path: Path) -> None:
    """One error names each package, why, its last lines, its log, and the ways out; good ones are kept."""
    yard.server.add(own_backend(tmp_path, "good"))
    yard.server.add(own_backend(tmp_path, "lost", requires=["nosuch"]))
    yard.server.add(own_backend(tmp_path, "wild", body="print('so far so good'); import numpy"))
    yard.server.add(own_backend(tmp_path, "linked", requires=["torch @ https://user:secret@host/torch.whl"]))
    yard.server.add(
        make_sdist(tmp_path, "broken", "1.0", files={"pyproject.toml": "[build-system]\nrequires = 1\n"})
    )
    sdists = [yard.sdist(name) for name in ("good", "lost", "wild", "linked", "broken")]
    with pytest.raises(ProjectError) as caught:
        settle_sdists(sdists, IMAGE, yard.index())
    error, text = caught.value, "\n".join(caught.value.details)
    assert "'lost', 'wild', 'linked', 'broken' exist only as source" in error.what
    assert "lost 1.0: its build requirements cannot be resolved" in text
    assert "wild 1.0: its build imports 'numpy' without requiring it" in text
    assert "    so far so good" in text
    assert "linked 1.0: its build requires 'torch' from a URL" in text
    assert "secret" not in text
    assert "broken 1.0: its pyproject.toml is not valid" in text
    assert 'allow_unbuilt = ["lost", "wild", "linked", "broken"]' in error.hint
    log = next(line.split(": ", 1)[1] for line in error.details if "wild" in line and "whole log" in line)
    assert "No module named 'numpy'" in Path(log).read_text()
    assert settle_sdists(sdists[:1], IMAGE, yard.index(unreachable()))[0].wheel


def test_an_unbuilt_sdist_travels_where_allowed(yard: Yard, tmp_path: Path) -> None:
    """A listed package goes without wheel but with what its build asks for, is warned of, and not tried again."""
    yard.plugin("plugin")
    yard.server.add(own_backend(tmp_path, "wild", requires=["plugin"], body="import numpy"))
    listener, sdist = Listener(), yard.sdist("wild")
    for policy in ("both", "rename", "wheel"):
        (settled,) = settle_sdists(
            [sdist], IMAGE, yard.index(), policy=policy, allow_unbuilt=["wild"], report=listener
        )
        assert (settled.sdist, settled.wheel, names(settled)) == (sdist, None, ["plugin-1.0"])
    assert len(listener.steps) == len([text for text in listener.steps if "Building" in text]) + 1
    assert len([text for text in listener.steps if "Building" in text]) == 1
    assert "imports 'numpy'" in listener.warnings[0]


def test_policies_leave_out_what_they_say(yard: Yard, tmp_path: Path) -> None:
    """ "both" ships sdist, closure and wheel; "rename" no wheel; "wheel" nothing else."""
    yard.plugin("plugin")
    yard.server.add(own_backend(tmp_path, "demo", requires=["plugin"]))
    sdist = yard.sdist("demo")
    parts = {}
    for policy in ("both", "rename", "wheel"):
        (one,) = settle_sdists([sdist], IMAGE, yard.index(), policy=policy)
        parts[policy] = (one.sdist is not None, one.wheel is not None, len(one.closure))
    assert parts == {"both": (True, True, 1), "rename": (True, False, 1), "wheel": (False, True, 0)}


@needs_cut
@pytest.mark.sandbox
def test_a_build_that_wants_the_network_does_not_get_it(yard: Yard, tmp_path: Path) -> None:
    """It is somebody else's code: the error says what it wants, and where it could have that."""
    host, port = yard.server.server.server_address[:2]
    body = f"import socket; socket.create_connection(({host!r}, {port}), 2)"
    yard.server.add(own_backend(tmp_path, "crate", body=body))
    with pytest.raises(ProjectError) as caught:
        settle_sdists([yard.sdist("crate")], IMAGE, yard.index())
    assert "its build needs the network" in "\n".join(caught.value.details)
    assert "--on kaggle" in caught.value.hint


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        ("cp27-cp27m-manylinux1_x86_64", "it is for cp27-cp27m-manylinux1_x86_64"),
        ("py3-none-win_amd64", "it is for py3-none-win_amd64"),
    ],
)
def test_a_wheel_for_something_else_is_not_accepted(yard: Yard, tmp_path: Path, tag: str, words: str) -> None:
    """A build may end well and still make nothing for the image."""
    yard.server.add(own_backend(tmp_path, "demo", tag=tag))
    with pytest.raises(ProjectError) as caught:
        settle_sdists([yard.sdist("demo")], IMAGE, yard.index())
    assert words in "\n".join(caught.value.details)


def test_a_build_must_make_the_version_that_was_frozen(yard: Yard, tmp_path: Path) -> None:
    """A version taken from a missing git checkout (0.0.0) is noticed."""
    yard.server.add(own_backend(tmp_path, "demo", "1.0", built_version="0.0.0"))
    with pytest.raises(ProjectError) as caught:
        settle_sdists([yard.sdist("demo")], IMAGE, yard.index())
    assert "its build makes demo 0.0.0 instead" in "\n".join(caught.value.details)


def test_zips_and_refused_names_build_as_well(yard: Yard, tmp_path: Path) -> None:
    """A .zip sdist with members that Kaggle refuses (`&`, `@`) is settled like any other."""
    odd = {"demo/bad&name.ini": "x", "demo/@PaxHeader": "y"}
    yard.server.add(own_backend(tmp_path, "demo", files=odd, as_zip=True))
    (settled,) = settle_sdists([yard.sdist("demo")], IMAGE, yard.index())
    assert settled.sdist is not None
    assert settled.sdist.filename == "demo-1.0.zip"
    assert offline(["uv"], settled, tmp_path / "kit", Path(sys.executable)).is_file()


def test_pure_wheels_are_built_without_the_images_python(yard: Yard, tmp_path: Path) -> None:
    """Where this machine lacks the image's Python, the running one builds, with a note that names the remedy."""
    yard.server.add(own_backend(tmp_path, "demo"))
    listener = Listener()
    (settled,) = settle_sdists(
        [yard.sdist("demo")], replace(IMAGE, python="3.99.0"), yard.index(), report=listener
    )
    assert settled.wheel
    assert "uv python install 3.99" in listener.notes[0]


def test_the_wheel_is_the_same_everywhere(yard: Yard, tmp_path: Path) -> None:
    """Another cache, another folder, another umask: the same bytes."""
    body = "time = __import__('time').time_ns(); os.chmod('demo/__init__.py', 0o600)"
    yard.server.add(own_backend(tmp_path, "demo", body=body))
    found = []
    for name, umask in (("a", 0o022), ("b", 0o077)):
        old = os.umask(umask)
        try:
            other = Yard(tmp_path / name, yard.server)
            found.append(settle_sdists([other.sdist("demo")], IMAGE, other.index())[0].wheel)
        finally:
            os.umask(old)
    one, two = found
    assert one is not None
    assert two is not None
    assert one.path != two.path
    assert one.path.read_bytes() == two.path.read_bytes()


# --- the real thing ---------------------------------------------------------------------------------

CUTOFF = "2026-11-01T00:00:00Z"
REAL = {
    "antlr4-python3-runtime": ("4.9.3", {"setuptools", "wheel", "packaging"}),  # what hydra-core needs
    "attrs": ("25.3.0", {"hatchling", "hatch_vcs", "hatch_fancy_pypi_readme"}),  # hatchling with plugins
    "mccabe": ("0.6.1", {"setuptools", "pytest_runner"}),  # setup.py with setup_requires
}


@pytest.fixture(scope="module")
def old_pip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of Python 3.13 with the image's pip, 24.1.2; returns its interpreter."""
    python = interpreters.find_interpreter("3.13", os.environ)
    if python is None:
        pytest.skip("no Python 3.13 on this machine")
    home = tmp_path_factory.mktemp("pip") / "env"
    subprocess.run([uv.find_uv_bin(), "venv", "-q", "--no-project", "--python", python, home], check=True)
    # the image's pip, whatever is newest
    words: list[str | Path] = [
        uv.find_uv_bin(),
        "pip",
        "install",
        "-q",
        "--no-config",
        "--python",
        home,
        "pip==24.1.2",
    ]
    subprocess.run(words, check=True)
    return home / "bin" / "python"


def real_sdist(name: str, version: str, index: PackageIndex) -> Sdist:
    """Return an sdist of PyPI, whether there are wheels or not."""
    file = next(
        one for one in index.list_files(name) if one.version == version and one.filename.endswith(".tar.gz")
    )
    return Sdist(
        name=name, version=version, filename=file.filename, path=index.fetch_file(file), sha256=file.sha256, size=file.size
    )  # fmt: skip


@pytest.mark.index
@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_sdists_build_offline_with_pip_24_and_uv(name: str, old_pip: Path, tmp_path: Path) -> None:
    """For Kaggle's Python 3.13: the closure has what is known to be needed, and both tools build from it alone."""
    version, needed = REAL[name]
    index = PackageIndex(IndexSettings(), cache=tmp_path / "cache")
    image = load_image("kaggle-2026-10-cpu", accelerator="none", project=tmp_path)
    (settled,) = settle_sdists([real_sdist(name, version, index)], image, index, cutoff=CUTOFF)
    assert needed <= {wheel.filename.split("-")[0] for wheel in settled.closure}
    assert settled.wheel is not None
    tools: tuple[list[str | Path], ...] = (["uv"], [old_pip, "-m", "pip"])
    for tool in tools:
        assert offline(tool, settled, tmp_path / "kit", old_pip).name == settled.wheel.filename


@pytest.mark.index
@pytest.mark.slow
def test_a_compiled_sdist_becomes_a_manylinux_wheel(tmp_path: Path) -> None:
    """C is compiled with the image's Python and audited against its glibc; twice the same bytes."""
    if interpreters.find_interpreter("3.13", os.environ) is None or shutil.which("gcc") is None:
        pytest.skip("needs Python 3.13 and a C compiler")
    image = load_image("kaggle-2026-10-cpu", accelerator="none", project=tmp_path)
    digests = set()
    for name in ("a", "b"):
        index = PackageIndex(IndexSettings(), cache=tmp_path / name)
        (settled,) = settle_sdists([real_sdist("lru-dict", "1.3.0", index)], image, index, cutoff=CUTOFF)
        assert settled.wheel is not None
        assert settled.wheel.filename.startswith("lru_dict-1.3.0-cp313-cp313-manylinux")
        digests.add(settled.wheel.sha256)
    assert len(digests) == 1


@pytest.mark.index
@pytest.mark.slow
def test_a_rust_crate_without_its_crates_is_an_error(tmp_path: Path) -> None:
    """rpds-py needs Rust and crates.io: where they are not, the error names package and allow_unbuilt."""
    if interpreters.find_interpreter("3.13", os.environ) is None:
        pytest.skip("needs Python 3.13")
    image = load_image("kaggle-2026-10-cpu", accelerator="none", project=tmp_path)
    index = PackageIndex(IndexSettings(), cache=tmp_path / "cache")
    sdist = real_sdist("rpds-py", "0.27.0", index)
    with pytest.raises(ProjectError) as caught:
        settle_sdists([sdist], image, index, policy="rename", cutoff=CUTOFF)
    assert "rpds-py 0.27.0: its build" in "\n".join(caught.value.details)
    assert 'allow_unbuilt = ["rpds-py"]' in caught.value.hint
