"""Own code: packages as reproducible wheels, loose modules with what they import, references checked."""

import os
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from offline_kit.core import processes
from offline_kit.core.errors import ProjectError, UsageError
from offline_kit.packages import own_code, pip_settings
from offline_kit.packages.freeze import freeze_file
from offline_kit.packages.index import PackageIndex
from offline_kit.packages.pip_settings import IndexSettings
from offline_kit.project import images
from offline_kit.project.config_keys import LOCK_NAME
from offline_kit.project.images import Image
from offline_kit.project.types import Freeze, OwnCode
from tests.support.backends import BACKEND
from tests.support.listener import Listener

LOCAL = images.load_image("local", accelerator="none", project=Path())
KAGGLE = images.load_image("", accelerator="none", project=Path())
NOWHERE = IndexSettings(index_url="http://127.0.0.1:9/simple", no_index=True)


def tree(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def plants(folder: Path, **more: str) -> Path:
    """A package with an in-tree backend: it builds without any index."""
    return tree(
        folder,
        {
            "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["tools"]\n',
            "tools/backend.py": BACKEND,
            "plants/__init__.py": "",
            "plants/model.py": "class Lit:\n    pass\n",
            **more,
        },
    )


def build(
    project: Path,
    cache: Path,
    *,
    packages: tuple[Path, ...] = (),
    modules: tuple[Path, ...] = (),
    on: Image = LOCAL,
) -> OwnCode:
    return own_code.collect_own_code(project, packages, modules, on, PackageIndex(NOWHERE, cache=cache))[0]


def shipped(
    project: Path, tmp_path: Path, *named: str, modules: tuple[str, ...] = ()
) -> tuple[list[str], tuple[str, ...]]:
    """What a reference ships, and the roots it imports from."""
    places = own_code.find_needed_modules(project, (), tuple(project / name for name in modules), named)
    own = build(project, tmp_path / "cache", modules=places)
    return [source.original for source in own.sources], own.roots


def test_a_package_is_the_same_bytes_everywhere(tmp_path: Path) -> None:
    """Another folder, another umask, another order in the archive, another day: one wheel."""
    first = plants(tmp_path / "here" / "thing")
    second = shutil.copytree(first, tmp_path / "there" / "thing")
    for path in second.rglob("*.py"):
        path.chmod(0o600)
        os.utime(path, (1, 1))
    one = build(first, tmp_path / "c1", packages=(first,)).wheels[0]
    before = os.umask(0o077)
    try:
        other = build(second, tmp_path / "c2", packages=(second,)).wheels[0]
    finally:
        os.umask(before)
    assert (one.name, one.version, one.filename) == ("plants", "1.0", "plants-1.0-py3-none-any.whl")
    assert one.sha256 == other.sha256
    assert one.path.read_bytes() == other.path.read_bytes()


def test_the_users_folder_stays_as_it_was(tmp_path: Path) -> None:
    """No build/, egg-info or other trace is left where the user works."""
    project = plants(tmp_path / "p")
    before = sorted(path.relative_to(project) for path in project.rglob("*"))
    build(project, tmp_path / "cache", packages=(project,))
    assert sorted(path.relative_to(project) for path in project.rglob("*")) == before


def test_an_unchanged_package_is_not_built_again(tmp_path: Path) -> None:
    """Data, caches and checkpoints are no sources: only a changed source builds anew."""
    project = plants(tmp_path / "p")
    first = build(project, tmp_path / "cache", packages=(project,)).wheels[0]
    tree(
        project,
        {
            "input/train.csv": "id",
            "checkpoints/a.ckpt": "weights",
            ".venv/x.py": "",
            "plants/__pycache__/m.pyc": "",
        },
    )
    tree(
        project,
        {
            "dist/offline-kit/dataset/offline-kit.json": "{}",
            "out/kit/dataset/offline-kit.json": "{}",
            "out/kit/m.py": "",
        },
    )
    log = tmp_path / "cache" / "logs" / "own-p.log"
    log.unlink(missing_ok=True)
    assert build(project, tmp_path / "cache", packages=(project,)).wheels[0] == first
    assert not log.exists()
    (project / "plants" / "model.py").write_text("class Lit:\n    version = 2\n")
    assert build(project, tmp_path / "cache", packages=(project,)).wheels[0].sha256 != first.sha256


def test_the_cut_off_of_the_freeze_holds_for_builds_too(tmp_path: Path) -> None:
    """A freeze made just now keeps the wheel built just now; an older one builds again, as of its day."""
    project = plants(tmp_path / "p")
    build(project, tmp_path / "cache", packages=(project,))
    log = tmp_path / "cache" / "logs" / "own-p.log"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for cutoff, again in ((now, False), ("2026-01-01T00:00:00Z", True), ("2026-01-01T00:00:00Z", False)):
        frozen = Freeze(image="local", python="3.11.7", engine="uv", cutoff=cutoff, input_hash="0", pins=())
        (project / LOCK_NAME).write_text(freeze_file.render_freeze(frozen))
        log.unlink(missing_ok=True)
        build(project, tmp_path / "cache", packages=(project,))
        assert log.exists() == again


def test_what_git_ignores_is_no_source(tmp_path: Path) -> None:
    """Ignored files do not count, but an ignored folder does not take a package's modules with it."""
    project = plants(tmp_path / "p", **{".gitignore": "data/\n*.log\n", "plants/data/__init__.py": "X = 1\n"})
    subprocess.run(["git", "init", "-q", project], check=True)
    wheel = build(project, tmp_path / "cache", packages=(project,)).wheels[0]
    tree(project, {"run.log": "epoch 1", "plants/data/big.txt": "x"})
    assert build(project, tmp_path / "cache", packages=(project,)).wheels[0] == wheel
    assert "plants/data/__init__.py" in zipfile.ZipFile(wheel.path).namelist()


def test_a_build_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    """Every package that cannot be built is named in one error, with the log's end and a remedy."""
    bad = plants(tmp_path / "bad", **{"tools/backend.py": "raise RuntimeError('no luck')\n"})
    empty = plants(tmp_path / "empty")
    shutil.rmtree(empty / "plants")
    with pytest.raises(ProjectError, match="cannot be built") as caught:
        build(tmp_path, tmp_path / "cache", packages=(bad,))
    assert any("no luck" in line for line in caught.value.details)
    torn = plants(tmp_path / "torn", **{"pyproject.toml": "[build-system]\nrequires = 3\n"})
    with pytest.raises(ProjectError, match="3 own packages") as every:
        build(tmp_path, tmp_path / "cache", packages=(bad, empty, torn))
    told = "\n".join(every.value.details)
    assert "holds no module" in told
    assert "pyproject.toml is not valid" in told
    assert "no luck" in told
    with pytest.raises(ProjectError, match="neither pyproject"):
        build(tmp_path, tmp_path / "cache", packages=(tmp_path,))


def test_what_own_packages_ask_for_is_told(tmp_path: Path) -> None:
    """Requirements of every own wheel are handed on, those of extras are not."""
    more = BACKEND.replace(
        "timm>=1\\n",
        "timm>=1\\nRequires-Dist: rich ; extra == 'dev'\\nRequires-Dist: six ; python_version < '4'\\n",
    )
    project = plants(tmp_path / "p", **{"tools/backend.py": more})
    own = build(project, tmp_path / "cache", packages=(project,))
    assert own_code.list_requirements(own) == ("six ; python_version < '4'", "timm>=1")


def test_two_builds_at_once_build_once(tmp_path: Path) -> None:
    """Several builds at a time wait for the one that has begun, and take its wheel."""
    project = plants(tmp_path / "p")
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(build, project, tmp_path / "cache", packages=(project,)) for _ in range(3)]
        wheels = {job.result().wheels[0] for job in jobs}
    assert len(wheels) == 1
    assert (tmp_path / "cache/logs/own-p.log").read_text().count("built by the backend") == 1


def test_two_packages_of_one_name_are_refused(tmp_path: Path) -> None:
    """Two folders that both call themselves plants cannot both be installed."""
    one, two = plants(tmp_path / "one"), plants(tmp_path / "two")
    with pytest.raises(ProjectError, match="both called 'plants'"):
        build(tmp_path, tmp_path / "cache", packages=(one, two))


def test_a_wheel_for_another_python_is_refused(tmp_path: Path) -> None:
    """A compiled own package that does not fit the image is an error at build."""
    text = BACKEND.replace("plants-1.0-py3-none-any.whl", "plants-1.0-cp39-cp39-manylinux_2_17_x86_64.whl")
    project = plants(tmp_path / "p", **{"tools/backend.py": text})
    with pytest.raises(ProjectError, match="does not fit the image") as caught:
        build(project, tmp_path / "cache", packages=(project,), on=KAGGLE)
    assert "3.13" in caught.value.what


PROJECTS = {
    "setup-py": {
        "setup.py": "from setuptools import setup\nsetup(name='plants', version='1.0', packages=['plants'])\n",
    },
    "setuptools-src": {
        "pyproject.toml": '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "plants"\nversion = "1.0"\n',
    },
    "hatchling": {
        "pyproject.toml": '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "plants"\nversion = "1.0"\n',
    },
    "flit": {
        "pyproject.toml": '[build-system]\nrequires = ["flit_core>=3.2,<4"]\nbuild-backend = "flit_core.buildapi"\n'
        '[project]\nname = "plants"\nversion = "1.0"\ndescription = "Plants"\n',
    },
    "poetry-src": {
        "pyproject.toml": '[build-system]\nrequires = ["poetry-core"]\nbuild-backend = "poetry.core.masonry.api"\n'
        '[tool.poetry]\nname = "plants"\nversion = "1.0"\ndescription = ""\nauthors = []\n',
    },
}


@pytest.mark.index
@pytest.mark.parametrize("kind", PROJECTS)
def test_every_usual_kind_of_project_becomes_a_wheel(tmp_path: Path, kind: str) -> None:
    """setup.py alone, setuptools, hatchling, flit and poetry, in flat and src layout; what is built twice is the same."""
    base = "src/plants" if kind.endswith("src") else "plants"
    code = {f"{base}/__init__.py": '"""Plants."""\n', f"{base}/model.py": "class Lit: ...\n"}
    settings = pip_settings.read_pip_settings(processes.copy_environment())
    found = []
    for name in ("one", "two")[: 2 if kind == "setup-py" else 1]:
        project = tree(
            tmp_path / name / "plants-project", {**PROJECTS[kind], **code, "input/train.csv": "id\n"}
        )
        own, _ = own_code.collect_own_code(
            project, (project,), (), KAGGLE, PackageIndex(settings, cache=tmp_path / "cache")
        )
        found.append(own.wheels[0])
        shutil.rmtree(tmp_path / "cache" / "records" / "own")
        assert not [
            path for path in project.rglob("*") if path.name in ("build", "dist") or "egg-info" in path.name
        ]
    assert found[0].filename in ("plants-1.0-py3-none-any.whl", "plants-1.0-py2.py3-none-any.whl")
    assert found[0].sha256 == found[-1].sha256
    names = zipfile.ZipFile(found[0].path).namelist()
    assert {"plants/__init__.py", "plants/model.py"} <= set(names)
    assert not [name for name in names if "input" in name]


@pytest.mark.index
def test_a_version_from_git_is_found(tmp_path: Path) -> None:
    """setuptools-scm reads the tag of the user's repository, which is left as it was."""
    text = '[build-system]\nrequires = ["setuptools", "setuptools-scm"]\nbuild-backend = "setuptools.build_meta"\n'
    text += '[project]\nname = "plants"\ndynamic = ["version"]\n[tool.setuptools_scm]\n'
    project = tree(
        tmp_path / "p", {"pyproject.toml": text, "plants/__init__.py": "", ".gitignore": "*.log\n"}
    )
    settings = pip_settings.read_pip_settings(processes.copy_environment())
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"], ["tag", "v1.2.3"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=project, check=True)
    own, _ = own_code.collect_own_code(
        project, (project,), (), KAGGLE, PackageIndex(settings, cache=tmp_path / "cache")
    )
    assert own.wheels[0].version == "1.2.3"
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=project, capture_output=True, text=True, check=True
    )
    assert status.stdout == ""
    shutil.rmtree(project / ".git")
    with pytest.raises(ProjectError, match="cannot be built") as caught:
        own_code.collect_own_code(
            project, (project,), (), KAGGLE, PackageIndex(settings, cache=tmp_path / "cache")
        )
    assert "SETUPTOOLS_SCM_PRETEND_VERSION" in caught.value.hint


CODE = {
    "src/model.py": "from layers import Block\nfrom losses.focal import loss\nclass Lit: ...\n",
    "src/layers.py": "class Block: ...\n",
    "src/config.yaml": "lr: 1\n",
    "src/.secret": "x",
    "src/train.ipynb": "{}",
    "src/weights.pt": "x",
    "src/.ipynb_checkpoints/model-checkpoint.py": "",
    "src/__pycache__/model.cpython-311.pyc": "x",
    "losses/focal.py": "import common\ndef loss(): ...\n",
    "common.py": "",
    "unrelated.py": "",
    "setup_data.py": "",
}


def test_a_file_brings_its_folder_and_what_it_imports(tmp_path: Path) -> None:
    """`src/model.py:Lit` ships the modules beside it and those of the project that they import, nothing else."""
    project = tree(tmp_path / "p", CODE)
    names, roots = shipped(project, tmp_path, "src/model.py:Lit")
    assert names == ["common.py", "losses/focal.py", "src/config.yaml", "src/layers.py", "src/model.py"]
    assert roots[0] == "src"
    assert "." in roots


def test_what_is_shipped_imports(tmp_path: Path) -> None:
    """With the roots on sys.path the module runs from the shipped files alone."""
    project = tree(tmp_path / "p", CODE)
    places = own_code.find_needed_modules(project, (), (), ["src/model.py:Lit"])
    own = build(project, tmp_path / "cache", modules=places)
    code = tmp_path / "code"
    for source in own.sources:
        (code / source.original).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.path, code / source.original)
    env = processes.copy_environment(PYTHONPATH=os.pathsep.join(str(code / root) for root in own.roots))
    for words in ("import model; model.Lit", "from src.model import Lit"):
        subprocess.run([sys.executable, "-c", words], env=env, cwd=tmp_path, check=True)


def test_a_file_at_the_top_brings_its_neighbours(tmp_path: Path) -> None:
    """For `infer.py:predict` the modules at the project's top go along, its data and tools do not."""
    files = {
        "infer.py": "import utils\ndef predict(): ...\n",
        "utils.py": "",
        "setup.py": "",
        "notes/x.py": "",
        "input/a.csv": "",
    }
    assert shipped(tree(tmp_path / "p", files), tmp_path, "infer.py:predict") == (
        ["infer.py", "utils.py"],
        (".",),
    )


def test_configured_modules_are_not_joined_by_what_nobody_imports(tmp_path: Path) -> None:
    """With `modules`, a script at the top brings what it imports, and none of the others beside it."""
    files = {
        "train.py": "import utils\nfrom house import features\nclass Shrink: ...\n",
        "utils.py": "",
        "make_data.py": "",
        "score.py": "",
        "src/house/features.py": "",
    }
    project = tree(tmp_path / "p", files)
    places = own_code.find_needed_modules(project, (), (project / "src",), ["train.py:Shrink"])
    names = [source.original for source in build(project, tmp_path / "cache", modules=places).sources]
    assert names == ["src/house/features.py", "train.py", "utils.py"]


def test_a_folder_that_is_imported_by_name_is_no_root(tmp_path: Path) -> None:
    """`from lib.random import x` must not put lib/ on the path, where its random hides Python's own."""
    files = {"infer.py": "from lib.random import x\ndef predict(): ...\n", "lib/random.py": "x = 1\n"}
    names, roots = shipped(tree(tmp_path / "p", files), tmp_path, "infer.py:predict")
    assert names == ["infer.py", "lib/random.py"]
    assert roots == (".",)


def test_modules_that_hide_pythons_own_are_told(tmp_path: Path) -> None:
    """A module on the path with a name of the standard library is warned of."""
    project = tree(tmp_path / "p", {"src/random.py": "", "src/model.py": "import random\n"})
    said = Listener()
    own_code.collect_own_code(
        project, (), (project / "src",), LOCAL, PackageIndex(NOWHERE, cache=tmp_path / "cache"), report=said
    )
    assert [text for text in said.warnings if "'src/random.py' hides" in text] == said.warnings != []


def test_a_loose_package_is_shipped_whole(tmp_path: Path) -> None:
    """`plants.model:Lit` of a package that is not built is found and shipped as a folder."""
    files = {
        "plants/__init__.py": "",
        "plants/model.py": "class Lit: ...\n",
        "plants/sub/__init__.py": "",
        "other/a.py": "",
    }
    names, roots = shipped(tree(tmp_path / "p", files), tmp_path, "plants.model:Lit")
    assert names == ["plants/__init__.py", "plants/model.py", "plants/sub/__init__.py"]
    assert roots == (".",)


@pytest.mark.parametrize("layout", ["", "src/"])
def test_what_a_package_holds_is_not_shipped_twice(tmp_path: Path, layout: str) -> None:
    """A dotted reference into an own package needs no loose module."""
    project = tree(
        tmp_path / "p", {f"{layout}plants/__init__.py": "", f"{layout}plants/model.py": "class Lit: ...\n"}
    )
    assert (
        own_code.find_needed_modules(project, (project,), (), ["plants.model:Lit", "timm.models:create"])
        == ()
    )


def test_configured_modules_may_lie_outside(tmp_path: Path) -> None:
    """A folder beside the project is shipped under its own name, and its modules import."""
    project = tree(tmp_path / "p", {"a.py": ""})
    tree(tmp_path / "shared", {"tools.py": "", "sub/more.py": "", "pkg/__init__.py": ""})
    own = build(project, tmp_path / "cache", modules=(project / ".." / "shared", project / "a.py"))
    assert [source.original for source in own.sources] == [
        "a.py",
        "shared/pkg/__init__.py",
        "shared/sub/more.py",
        "shared/tools.py",
    ]
    assert set(own.roots) == {"shared", "."}


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("src/modle.py:Lit", "did you mean 'src/model.py'"),
        ("src/model.py:Lti", "did you mean 'Lit'"),
        ("src/model.py", "'src/model.py'"),
        ("plnts.model:Lit", "did you mean 'plants'"),
        ("plants.modle:Lit", "did you mean 'plants.model'"),
        ("plants.model:Missing", "defines no 'Missing'"),
        ("../outside.py:X", "outside the project"),
    ],
)
def test_references_that_lead_nowhere_are_told_with_a_guess(tmp_path: Path, named: str, told: str) -> None:
    """A misspelt file, module or name is answered with the nearest one."""
    (tmp_path / "outside.py").write_text("X = 1\n")
    project = tree(
        tmp_path / "p",
        {"src/model.py": "class Lit: ...\n", "plants/__init__.py": "", "plants/model.py": "class Lit: ...\n"},
    )
    with pytest.raises(UsageError) as caught:
        own_code.find_needed_modules(project, (), (), [named])
    assert told in caught.value.what
    with pytest.raises(UsageError, match="2 references") as both:
        own_code.find_needed_modules(project, (), (), [named, "src/model.py:Nope"])
    assert told in both.value.details[0]


@pytest.mark.parametrize(
    "source",
    [
        "try:\n    from fast import Lit\nexcept ImportError:\n    class Lit: ...\n",
        "from base import *\n",
        "Lit = make()\n",
        "if True:\n    if True:\n        def Lit(): ...\n",
        "def __getattr__(name): ...\n",
        "(Lit, other) = 1, 2\n",
        "import thing as Lit\n",
    ],
)
def test_names_that_may_be_there_are_accepted(tmp_path: Path, source: str) -> None:
    """However a module binds a name, it counts; what cannot be seen from outside is left to the rehearsal."""
    project = tree(tmp_path / "p", {"model.py": source})
    assert own_code.find_needed_modules(project, (), (), ["model.py:Lit"])


def test_a_folder_without_modules_is_told(tmp_path: Path) -> None:
    """A folder of `modules` without any Python is an error at build."""
    project = tree(tmp_path / "p", {"empty/readme.txt": "x"})
    with pytest.raises(ProjectError) as caught:
        build(project, tmp_path / "cache", modules=(project / "empty",))
    assert caught.value.code == "modules-invalid"


def test_newer_syntax_is_no_error(tmp_path: Path) -> None:
    """What only the image's Python can parse is for that Python to judge."""
    project = tree(tmp_path / "p", {"model.py": "type Shape = int\nclass Lit[T]: ...\n"})
    assert own_code.find_needed_modules(project, (), (), ["model.py:Lit"]) == (project / "model.py",)
    assert build(project, tmp_path / "cache", modules=(project / "model.py",), on=KAGGLE).sources
