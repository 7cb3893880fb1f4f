"""What is published is whole: templates and images travel, nothing foreign does, and it runs when installed."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from offline_kit.core.interpreters import uv_program
from tests.support.local_index import LocalIndex

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, kw_only=True)
class Built:
    """The two distributions of this checkout; the wheel is built from the sdist, as a packager would."""

    sdist: Path
    wheel: Path

    def wheel_names(self) -> set[str]:
        """Return the names of the wheel's files."""
        with zipfile.ZipFile(self.wheel) as archive:
            return set(archive.namelist())

    def sdist_names(self) -> set[str]:
        """Return the names of the sdist's files, without their first folder."""
        with tarfile.open(self.sdist) as archive:
            return {name.partition("/")[2] for name in archive.getnames()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build both with `build`, in its isolated environment."""
    out = tmp_path_factory.mktemp("built")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--installer", "uv", "--outdir", out, ROOT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return Built(sdist=sdist, wheel=wheel)


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the scripts folder of a fresh environment that holds the wheel.

    The dependencies are lent by this environment, as a plain path: its own editable install of the tool
    does not come with them.
    """
    place = tmp_path_factory.mktemp("installed")
    # In seconds less than venv and pip, with which a slow test installs it.
    subprocess.run([uv_program(), "venv", "-q", "--python", sys.executable, place], check=True)
    scripts = place / ("Scripts" if os.name == "nt" else "bin")
    words = ["pip", "install", "-q", "--no-deps", "--no-index", "--python", str(scripts / "python")]
    subprocess.run([uv_program(), *words, str(built.wheel)], check=True)
    lent = sysconfig.get_path("purelib")
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = Path(said(scripts / "python", "-c", code, cwd=place).strip())
    (own / "lent.pth").write_text(lent + "\n")
    return scripts


def said(program: Path | str, *words: Path | str, cwd: Path) -> str:
    """Run a program that has to succeed and return what it printed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [program, *words], cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def expected_package_files() -> set[str]:
    """Return what the wheel's package folder must hold: the package and the templates of this checkout."""
    package = {path.relative_to(ROOT) for path in (ROOT / "offline_kit").rglob("*") if path.is_file()}
    found = {path.as_posix() for path in package if "__pycache__" not in path.parts}
    templates = (path for path in (ROOT / "templates").rglob("*") if path.is_file())
    return found | {
        f"offline_kit/{path.relative_to(ROOT).as_posix()}"
        for path in templates
        if "__pycache__" not in path.parts
    }


@pytest.mark.index
def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    """Package, templates, image data and metadata are in the wheel; tests, bench and the sample are not."""
    names = built.wheel_names()
    assert {name for name in names if not name.startswith("offline_kit-")} == expected_package_files()
    assert "offline_kit/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


@pytest.mark.index
def test_the_sdist_holds_what_a_packager_needs(built: Built) -> None:
    """The sdist has the tests and the sample, and nothing that git ignores."""
    names = built.sdist_names()
    wanted = {
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "tests/test_packaging.py",
        "sample_project/pyproject.toml",
    }
    assert wanted <= names
    assert not [name for name in names if "__pycache__" in name or name.split("/")[0] in (".venv", "dist")]


FINDS = """
from importlib.metadata import metadata, requires
from pathlib import Path
import offline_kit
from offline_kit.project import images as image; from offline_kit.notebook import scripts
assert "site-packages" in offline_kit.__file__, offline_kit.__file__
assert metadata("offline-kit")["Version"] == offline_kit.__version__
assert not [r for r in requires("offline-kit") if r.startswith("torch") and "extra" not in r]
names = image.list_image_names()
assert names
for name in names:
    loaded = image.load_image(name, accelerator="gpu" if "gpu" in name else "none", project=Path.cwd())
    assert len(loaded.packages) > 500
print(*scripts.built_in_templates())
"""


@pytest.mark.index
def test_templates_and_images_are_found_when_installed(installed: Path, tmp_path: Path) -> None:
    """The installed tool finds all its images and templates, from any folder."""
    templates = said(installed / "python", "-c", FINDS, cwd=tmp_path)
    assert "lightning" in templates
    assert "function" in templates


def test_templates_and_images_are_found_in_a_checkout(tmp_path: Path) -> None:
    """The same holds for an editable install, whose templates lie beside the package."""
    code = FINDS.replace('"site-packages" in', '"site-packages" not in')
    assert "lightning" in said(sys.executable, "-c", code, cwd=tmp_path)


@pytest.mark.index
def test_the_console_script_runs(installed: Path, tmp_path: Path) -> None:
    """`offline-kit --version` answers with the version of the wheel, `--help` with the commands."""
    from offline_kit import __version__

    assert __version__ in said(installed / "offline-kit", "--version", cwd=tmp_path)
    assert "rehearse" in said(installed / "offline-kit", "--help", cwd=tmp_path)
    assert "kaggle-2026-10-cpu" in said(installed / "offline-kit", "image", "list", cwd=tmp_path)


@pytest.fixture
def index(built: Built) -> Iterator[LocalIndex]:
    """Serve the wheel as an index does; its dependencies come from the usual one."""
    with LocalIndex() as served:
        served.add(built.wheel)
        yield served


def pip(index: LocalIndex, folder: Path) -> list[Path | str]:
    """Install with pip into a fresh environment and return the program's command line."""
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    scripts = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
    words = ["install", "-q", "--extra-index-url", index.url, "offline-kit"]
    subprocess.run([scripts / "python", "-m", "pip", *words], check=True)
    return [scripts / "offline-kit"]


def pipx(index: LocalIndex, folder: Path) -> list[Path | str]:
    """Install with pipx and return the program's command line."""
    homes = {name: str(folder / name) for name in ("PIPX_HOME", "PIPX_BIN_DIR", "PIPX_MAN_DIR")}
    words = ["install", "--pip-args", f"--extra-index-url {index.url}", "offline-kit"]
    subprocess.run([sys.executable, "-m", "pipx", *words], check=True, env=os.environ | homes)
    return [folder / "PIPX_BIN_DIR" / "offline-kit"]


def uvx(index: LocalIndex, folder: Path) -> list[Path | str]:
    """Return the command line with which uvx installs and runs the program."""
    return [Path(sysconfig.get_path("scripts")) / "uvx", "--index", index.url, "offline-kit"]


@pytest.mark.index
@pytest.mark.slow
@pytest.mark.parametrize("installer", [pip, pipx, uvx])
def test_it_installs_and_runs(
    installer: Callable[[LocalIndex, Path], list[Path | str]], index: LocalIndex, tmp_path: Path
) -> None:
    """From an index, with its own dependencies alone, it says its version and builds a kit."""
    from offline_kit import __version__

    program, *words = installer(index, tmp_path)
    (tmp_path / "predict.py").write_text("def predict(context):\n    return []\n")
    (tmp_path / "requirements.txt").touch()
    assert __version__ in said(program, *words, "--version", cwd=tmp_path)
    assert index.asked(f"offline_kit-{__version__}-py3-none-any.whl"), "it came from elsewhere"
    build = ["build", "-r", "requirements.txt", "--function", "predict.py:predict", "--dataset", "some-kit"]
    said(program, *words, *build, cwd=tmp_path)
    assert (tmp_path / "dist" / "offline-kit" / "notebook" / "inference.ipynb").is_file()
