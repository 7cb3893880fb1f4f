"""The kit's packages in an overlay, with both installers, from the kit's files alone."""

import io
import json
import os
import platform
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.tags import sys_tags
from packaging.utils import parse_wheel_filename

from offline_kit.notebook.runtime.kit_install import (
    choose_files,
    find_installers,
    fits_interpreter,
    meets_requirement,
)
from offline_kit.notebook.runtime.kit_report import REPORT
from offline_kit.notebook.runtime.kit_runtime import KitError
from offline_kit.project import images
from tests.support.kits import Workshop, wheel

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {package!r})
from offline_kit.notebook.runtime.kit_runtime import SessionFolders, open_kit
from offline_kit.notebook.runtime.kit_install import install_packages
places = SessionFolders(inputs=Path("input"), working=Path("working"), scratch=Path("scratch").absolute())
kit = open_kit({{"kit": {identity!r}}}, places)
{before}
install_packages(kit, {installer!r})
{after}
"""


def run(
    workshop: Workshop, tmp_path: Path, installer: str, after: str = "", before: str = "", **env: str
) -> str:
    """Install the kit in a fresh process (of the interpreter `python`) and return all that it printed."""
    python = env.pop("python", sys.executable)
    workshop.plan["python"] = env.pop("kit_python", HERE)
    identity = workshop.mount(tmp_path / "input/datasets/me/plants")
    package = str(Path(__file__).parents[2])
    code = SCRIPT.format(package=package, identity=identity, installer=installer, before=before, after=after)
    done = subprocess.run(
        [python, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=os.environ | env
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_wheels_and_sdists_are_installed_offline(tmp_path: Path, installer: str) -> None:
    """Wheels with local versions, and an sdist whose build hook asks for a further wheel, need the kit alone."""
    workshop = Workshop()
    workshop.add_wheel("alpha", "1.0+cu1")
    workshop.add_sdist()
    after = (
        "import alpha, fromsource, importlib.metadata, subprocess\n"
        "print(alpha.__file__, importlib.metadata.version('alpha'), fromsource.ORIGIN)\n"
        "subprocess.run([sys.executable, '-c', 'import alpha; print(alpha.__file__)'])\n"
        "install_packages(kit, 'pip')\n"
        "import importlib.util; print(importlib.util.find_spec('extrahook'))\n"
        "import os; print(os.environ['PATH'].split(os.pathsep)[0])\n"
    )
    said = run(
        workshop, tmp_path, installer, after, UV_INDEX_URL="http://127.0.0.1:9/", PIP_NO_BINARY=":all:"
    )
    site = tmp_path / "scratch/site"
    assert f"{site}/alpha.py 1.0+cu1 sdist" in said, said
    assert said.count(f"{site}/alpha.py") == 2, "children of the notebook find the overlay too"
    assert "all 2 are already installed" in said
    assert "None" in said, "what only the build needs stays out"
    assert f"with {installer} in" in said
    assert f"{site}/bin\n" in said, "programs of the kit's packages are found"


def test_a_wheel_for_another_python_gives_way_to_the_sdist(tmp_path: Path) -> None:
    """Where the prebuilt wheel does not fit the Python that is there, the sdist is built."""
    workshop = Workshop()
    workshop.add_sdist()
    filename, data = wheel("fromsource", "2.0", tag="cp399-cp399-any")
    workshop.add(f"packages/{filename}", data)
    workshop.plan["install"][0]["wheel"] = filename
    assert "sdist" in run(workshop, tmp_path, "uv", "import fromsource; print(fromsource.ORIGIN)")


def test_imports_that_fail_are_all_named(tmp_path: Path) -> None:
    """Every package that does not import is told with the last line of its traceback, crashes included."""
    workshop = Workshop()
    workshop.add_wheel("bad_one", files={"bad_one.py": "import missing_friend\n"})
    workshop.add_wheel("bad_two", files={"bad_two.py": "print('noise')\nraise ValueError('no such thing')\n"})
    workshop.add_wheel("crash", files={"crash.py": "import os\nos._exit(139)\n"})
    workshop.add_wheel("good")
    said = run(workshop, tmp_path, "uv")
    assert "KitError: 3 of 4 packages" in said
    assert "bad_one: ModuleNotFoundError: No module named 'missing_friend'" in said
    assert "bad_two: ValueError: no such thing" in said
    assert "crash: ended the whole process" in said
    assert "good:" not in said, "after a crash the others are tried as well"


def test_a_failing_import_that_nobody_uses_is_a_warning(tmp_path: Path) -> None:
    """It logs in or exits when it is imported; a missing module, or code that imports it, makes it an error."""
    workshop = Workshop()
    workshop.add_wheel("logs_in", files={"logs_in.py": "raise OSError('Could not find kaggle.json')\n"})
    workshop.add_wheel("leaves", files={"leaves.py": "raise SystemExit(1)\n"})
    workshop.add_wheel("good")
    workshop.plan["imported"] = ["good"]
    said = run(workshop, tmp_path, "uv", "print('went on')")
    assert "logs_in: OSError: Could not find kaggle.json" in said
    assert "leaves: SystemExit: 1" in said
    assert "KitError" not in said
    assert "went on" in said
    (tmp_path / "used").mkdir()
    workshop.plan["imported"] = ["logs_in"]
    workshop.add_wheel("lacks", files={"lacks.py": "import missing_friend\n"})
    said = run(workshop, tmp_path / "used", "uv", "print('went on')")
    assert "KitError: 2 of 4 packages" in said
    assert "went on" not in said


def test_own_modules_win_over_packages_of_the_same_name(tmp_path: Path) -> None:
    """A module of the project, or one that the notebook wrote beside it, is imported instead of the kit's package."""
    workshop = Workshop()
    workshop.add_wheel("helpers", files={"helpers.py": "FROM = 'package'\n"})
    workshop.add_wheel("written", files={"written.py": "FROM = 'package'\n"})
    workshop.add_wheel("plain", files={"plain.py": "FROM = 'package'\n"})
    workshop.add("code/src/helpers.py", b"FROM = 'project'\n", "source")
    workshop.plan["roots"] = ["src", "."]
    (tmp_path / "written.py").write_text("FROM = 'notebook'\n")
    lines = "import helpers, written, plain; print('it is', helpers.FROM, written.FROM, plain.FROM)"
    children = "import subprocess; print(subprocess.run([sys.executable, '-c', 'import helpers; print(helpers.FROM, 1)'], capture_output=True, text=True).stdout)"
    said = run(workshop, tmp_path, "uv", f"{lines}; {children}", before="sys.path.insert(0, '')")
    assert "it is project notebook package" in said, said
    assert "project 1" in said


def test_what_was_imported_too_early_is_told(tmp_path: Path) -> None:
    """A package of the image that is loaded already cannot be replaced in this process: a warning names it."""
    workshop = Workshop()
    workshop.add_wheel("colorsys", files={"colorsys.py": "NEW = True\n"})
    assert "'colorsys' was imported before" in run(workshop, tmp_path, "uv", before="import colorsys")


def test_namespaces_and_path_files_work(tmp_path: Path) -> None:
    """A namespace that is loaded already gets the kit's portion, and .pth files of the overlay run."""
    workshop = Workshop()
    workshop.add_wheel("space_new", files={"space/new.py": "N = 1\n"}, imports=["space.new"])
    workshop.add_wheel(
        "by_path",
        files={"by_path.pth": "hidden\n", "hidden/by_path_module.py": "P = 2\n"},
        imports=["by_path_module"],
    )
    (tmp_path / "image/space").mkdir(parents=True)
    (tmp_path / "image/space/__init__.py").write_text("")
    (tmp_path / "image/space/old.py").write_text("O = 3\n")
    workshop.plan["install"][0]["imports"] = []
    before = "sys.path.append('image'); import space.old"
    after = "import space.new, by_path_module; print(space.new.N + by_path_module.P + space.old.O)"
    assert "\n6\n" in run(workshop, tmp_path, "uv", after, before)


def test_own_modules_stand_before_the_image(tmp_path: Path) -> None:
    """Folders of modules import in the notebook, and win over the image's packages of the same name."""
    workshop = Workshop()
    workshop.add_wheel("alpha")
    workshop.add("code/src/colorsys.py", b"MINE = 'yes'\n", "source")
    workshop.plan["roots"] = ["src"]
    said = run(workshop, tmp_path, "uv", "import colorsys; print(colorsys.MINE); print(sys.path[:3])")
    assert f"yes\n['', '{tmp_path}/scratch/kit/code/src', '{tmp_path}/scratch/site']" in said, said


def test_a_kit_without_packages_needs_no_installer(tmp_path: Path) -> None:
    """An empty plan is installed without asking for pip or uv."""
    assert "packages: 0 installed in" in run(Workshop(), tmp_path, "uv", PATH="")


def test_a_failing_installer_is_quoted(tmp_path: Path) -> None:
    """What the installer says last stands in the error."""
    workshop = Workshop()
    workshop.add("packages/junk-1.0-py3-none-any.whl", b"no archive")
    workshop.install("junk", wheel="junk-1.0-py3-none-any.whl")
    said = run(workshop, tmp_path, "uv")
    assert "KitError: the packages of the kit could not be installed (uv ended with code" in said
    assert "junk" in said.partition("could not be installed")[2]


def test_pip_takes_over_where_uv_fails(tmp_path: Path) -> None:
    """With "auto" a uv that starts but cannot install does not end the run."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/uv").write_text(
        '#!/bin/sh\n[ "$1" = --version ] || { echo no such option >&2; exit 2; }\n'
    )
    (tmp_path / "bin/uv").chmod(0o755)
    workshop = Workshop()
    workshop.add_wheel("alpha")
    said = run(workshop, tmp_path, "auto", PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    assert "no such option" in said
    assert "packages: 1 installed with pip" in said


SETUP = "from setuptools import setup\nsetup(name='oldie', version='3.0', py_modules=['oldie'], setup_requires=['extrahook'])\n"


def old_sdist(kind: str) -> bytes:
    """Return an sdist with nothing but a setup.py, as .tar.gz or .zip."""
    members = {
        "setup.py": SETUP,
        "oldie.py": "X = 1\n",
        "PKG-INFO": "Metadata-Version: 1.0\nName: oldie\nVersion: 3.0\n",
    }
    buffer = io.BytesIO()
    if kind == ".zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, text in members.items():
                archive.writestr(f"oldie-3.0/{name}", text)
        return buffer.getvalue()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in members.items():
            info = tarfile.TarInfo(f"oldie-3.0/{name}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


@pytest.mark.index
@pytest.mark.slow
@pytest.mark.parametrize("kind", [".zip", ".tar.gz"])
@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_setup_py_alone_builds_with_the_images_pip(tmp_path: Path, kind: str, installer: str) -> None:
    """A setup.py with setup_requires builds offline, with pip 24.1.2 in an environment without setuptools."""
    uv = Path(sys.executable).with_name("uv")
    python = tmp_path / "env/bin/python"
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, tmp_path / "env"], check=True)
    subprocess.run([uv, "pip", "install", "-q", "--python", python, "pip==24.1.2"], check=True)
    download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(tmp_path / "build")]
    subprocess.run([*download, "setuptools==75.8.0", "wheel==0.45.1"], check=True)
    workshop = Workshop()
    workshop.add(f"packages/oldie-3.0{kind}", old_sdist(kind), "sdist")
    closure = {path.name: path.read_bytes() for path in (tmp_path / "build").glob("*.whl")}
    closure |= dict([wheel("extrahook")])
    for name, data in closure.items():
        workshop.add(f"packages/{name}", data, "build")
    workshop.install("oldie", "3.0", sdist=f"oldie-3.0{kind}", build=sorted(closure))
    path = os.pathsep.join([str(uv.parent), os.environ["PATH"]])
    said = run(
        workshop, tmp_path, installer, "import oldie; print(oldie.__file__)", python=str(python), PATH=path
    )
    assert f"{tmp_path}/scratch/site/oldie.py" in said, said
    assert f"with {installer} in" in said


def plan_of(**plan: Any) -> dict[str, Any]:
    return {"install": [], "provided": [], "image": "tests", "python": HERE, **plan}


def test_nothing_that_fits_is_one_sentence(tmp_path: Path) -> None:
    """Without a fitting wheel and without sdist the package, the file and the Python found are named."""
    item = {"name": "torchy", "version": "1.0", "wheel": "torchy-1.0-cp399-cp399-any.whl", "sdist": None}
    with pytest.raises(
        KitError, match=r"torchy 1.0: 'torchy-1.0-cp399-cp399-any.whl' does not fit Python 3\."
    ):
        choose_files(plan_of(install=[item]), tmp_path, sys.path)


def test_unmet_requirements_on_the_image_are_all_named(tmp_path: Path) -> None:
    """A package that the image lacks or has too old is told with what was wanted, found, and who asked."""
    provided = [
        {
            "name": "pytest",
            "version": "1",
            "requires": ["pytest>=9999"],
            "spare": None,
            "asked_by": ["plants"],
        },
        {"name": "no-such-thing", "version": "1", "requires": ["no-such-thing>=1"], "spare": None},
        {"name": "packaging", "version": "1", "requires": ["packaging>=1"], "spare": None},
    ]
    with pytest.raises(KitError) as caught:
        choose_files(plan_of(provided=provided), tmp_path, sys.path)
    assert "pytest>=9999 is wanted, and this image has" in str(caught.value)
    assert "which plants asked for" in str(caught.value)
    assert "no-such-thing 1 is missing in this image" in str(caught.value)
    assert "packaging" not in str(caught.value)


def test_versions_that_moved_are_named(tmp_path: Path) -> None:
    """Whatever the kit counts on and has another version here is named; a local version or a zero is no other one."""
    workshop = Workshop()
    here = metadata.version("packaging")
    workshop.plan["counted"] = {"pytest": "0.1", "packaging": f"{here}.0+cpu", "uninstalled": "1.0"}
    workshop.plan["provided"] = [{"name": "pluggy", "version": "0.2", "requires": ["pluggy>=0.1"]}]
    lines = [line for line in run(workshop, tmp_path, "uv").splitlines() if line.startswith("note:")]
    moved = [
        f"{name} {before} -> {metadata.version(name)}"
        for name, before in (("pluggy", "0.2"), ("pytest", "0.1"))
    ]
    assert lines[0].endswith(f": {', '.join(moved)}, uninstalled 1.0 -> none")


def test_a_report_is_written_when_all_cells_have_run(tmp_path: Path) -> None:
    """It has the kit, the image and what moved; cells do not meet it, and the scoring run has none."""
    workshop = Workshop()
    workshop.plan["counted"] = {"pytest": "0.1"}
    workshop.add_wheel("alpha")
    (tmp_path / "working").mkdir()
    deadline = "from offline_kit.notebook.runtime.kit_deadline import Deadline; "
    after = (
        deadline
        + "Deadline(9, 1, started=0).report('model b'); import os; os.fork() or sys.exit(); os.wait(); print('listed', os.listdir('working'))"
    )
    printed = run(workshop, tmp_path, "uv", after)
    assert "listed []" in printed
    report = json.loads((tmp_path / "working" / REPORT).read_text())
    kit_part = json.loads((tmp_path / "input/datasets/me/plants/offline-kit.json").read_text())
    assert report["parts"] == {"kit": kit_part["id"]}
    assert (report["installer"], report["python"]) == ("uv", platform.python_version())
    assert report["moved"] == [f"pytest 0.1 -> {metadata.version('pytest')}"]
    assert report["left_out"][0].startswith("model b (")
    here = images.load_image("local", accelerator="none", project=tmp_path)
    assert report["packages_hash"] == here.packages_hash
    assert report["peak_memory"] > 1_000_000
    (tmp_path / "working" / REPORT).unlink()
    run(workshop, tmp_path, "uv", KAGGLE_IS_COMPETITION_RERUN="1")
    assert [*(tmp_path / "working").iterdir()] == []


def test_a_spare_is_used_only_where_the_image_lacks_it(tmp_path: Path) -> None:
    """A spare stays in its box while the image meets the requirements."""
    spares: list[dict[str, object]] = [
        {"name": name, "version": "1.0", "requires": [], "spare": f"{name}-1.0-py3-none-any.whl"}
        for name in ("pytest", "lacking")
    ]
    chosen = choose_files(plan_of(provided=spares), tmp_path, sys.path)
    assert [choice.name for choice in chosen] == ["lacking 1.0"]


def test_a_spare_stays_installed_when_the_cell_runs_again(tmp_path: Path) -> None:
    """The overlay itself does not count as the image."""
    workshop = Workshop()
    filename, data = wheel("lacking")
    workshop.add(f"packages/{filename}", data)
    workshop.plan["provided"] = [{"name": "lacking", "version": "1.0", "requires": [], "spare": filename}]
    said = run(workshop, tmp_path, "uv", "install_packages(kit); import lacking; print(lacking.VERSION)")
    assert "all 1 are already installed" in said
    assert "1.0\n" in said


TAGS = """
py3-none-any py2.py3-none-any py310-none-any py399-none-any py2-none-any cp311-none-any cp310-none-any
cp311-cp311-manylinux_2_17_x86_64 cp311-cp311-manylinux2014_x86_64 cp311-cp311-manylinux1_x86_64
cp38-abi3-manylinux_2_28_x86_64 cp399-abi3-manylinux_2_17_x86_64 cp311-cp311-musllinux_1_2_x86_64
cp311-cp311-win_amd64 cp311-cp311-macosx_11_0_arm64 cp313-cp313t-manylinux_2_17_x86_64
cp312-cp312-manylinux_2_17_x86_64 py3-none-manylinux_2_17_x86_64 cp311-cp311-manylinux_2_99_x86_64
cp311-cp311-manylinux_2_17_aarch64 cp311-cp311-linux_x86_64
cp311-cp311-manylinux_2_5_x86_64.manylinux1_x86_64.manylinux_2_17_x86_64.manylinux2014_x86_64
"""


@pytest.mark.skipif(platform.system() != "Linux", reason="the notebook runs on Linux")
@pytest.mark.parametrize("tag", TAGS.split())
def test_fitting_agrees_with_packaging(tag: str) -> None:
    """Wheel names are judged for the running interpreter and system."""
    filename = f"some_package-1.0+x-{tag}.whl"
    assert fits_interpreter(filename) == bool(set(sys_tags()) & parse_wheel_filename(filename)[3])


@pytest.mark.parametrize(
    ("version", "requirement", "answer"),
    [
        ("2.1.3", "numpy>=1.20,<3", True),
        ("2.1.3", "numpy<2", False),
        ("2.11.0+cpu", "torch==2.11.0", True),
        ("2.0rc1", "x>=1", True),
        ("1.0", "x[extra] (>=2); python_version > '3'", False),
        ("1.0", "x", True),
        ("1.0", "x @ https://example.org/x.whl", True),
    ],
)
def test_requirements_are_read(version: str, requirement: str, answer: bool) -> None:
    """Extras, brackets, markers and local versions do not confuse the check."""
    assert meets_requirement(version, requirement) is answer


def test_an_unknown_installer_is_refused() -> None:
    """A typing error in OFFLINE_KIT_INSTALLER does not end in a guess."""
    with pytest.raises(KitError, match="no installer 'conda'"):
        find_installers("conda")


def test_the_plan_of_another_python_warns(tmp_path: Path) -> None:
    """A kit for another Python goes on as long as its files fit, with a warning."""
    workshop = Workshop()
    workshop.add_wheel("alpha")
    said = run(workshop, tmp_path, "uv", kit_python="3.99")
    assert "the kit was made for Python 3.99" in said
    assert "imports: 1 checked" in said
