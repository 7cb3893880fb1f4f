"""The environments of a rehearsal: the image's versions, made once, sized before."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging import tags

from offline_kit.core import processes
from offline_kit.core.errors import OutsideError, ProjectError, UsageError
from offline_kit.core.report import Reporter
from offline_kit.notebook.runtime.kit_runtime import KitError
from offline_kit.packages import pip_settings
from offline_kit.packages.pip_settings import IndexSettings
from offline_kit.project.images import Image
from offline_kit.rehearsal import causes, environments, kernel, kit_facts
from offline_kit.rehearsal.environments import EnvironmentOptions
from tests.support.listener import Listener
from tests.support.local_index import LocalIndex, make_wheel
from tests.support.verdicts import cell, ran

HERE = "{}.{}.{}".format(*sys.version_info)


def image(python: str = HERE, **packages: str) -> Image:
    named = {name.replace("_", "-"): version for name, version in packages.items()}
    return Image(name="tests", title="tests", accelerator="none", python=python, packages=named)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("environments")


def shop(cache: Path, **more: Any) -> EnvironmentOptions:
    return EnvironmentOptions(
        index=pip_settings.read_pip_settings(processes.copy_environment()), cache=cache, **more
    )


@pytest.mark.index
def test_versions_of_the_image_hold_whatever_asks_for_others(cache: Path) -> None:
    """Packages that do not agree with each other stand side by side, as in the image; nothing else comes along."""
    # jinja2 3.1.6 wants markupsafe>=2.0, and gets what this image has.
    found = environments.make_kernel_environment(
        image(ipykernel="6.29.5", pip="24.1.2", jinja2="3.1.6", markupsafe="1.1.1", numpy="2.1.3"),
        ["jinja2"],
        shop(cache),
    )
    assert (found.packages["jinja2"], found.packages["markupsafe"]) == ("3.1.6", "1.1.1")
    assert (found.packages["ipykernel"], found.packages["pip"]) == ("6.29.5", "24.1.2")
    assert "numpy" not in found.packages
    assert found.version == HERE


@pytest.mark.index
def test_an_environment_is_made_once(cache: Path) -> None:
    """The second time neither the index nor uv's resolver is asked."""
    listener, python = Listener(), Path(sys.executable)
    made = environments.make_layer(["packaging"], python, shop(cache))
    began = made.stat().st_mtime_ns
    assert environments.make_layer(["packaging"], python, shop(cache, report=listener)) == made
    assert listener.said == []
    assert made.stat().st_mtime_ns == began
    assert (made / "packaging").is_dir()


@pytest.mark.index
def test_what_uv_has_is_not_downloaded_again(cache: Path, tmp_path: Path) -> None:
    """In another cache of ours the environment is made from uv's own, so nothing is sized or asked for."""
    listener, python = Listener(), Path(sys.executable)
    environments.make_layer(["packaging"], python, shop(cache))
    environments.make_layer(["packaging"], python, shop(tmp_path, report=listener))
    assert listener.said
    assert not [text for text in listener.said if "downloading" in text]


@pytest.mark.index
def test_a_large_download_is_agreed_to_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit a person is asked; without one the error tells the size and --yes, and nothing is made."""
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    asked: list[str] = []

    class Refusing(Reporter):
        def confirm(self, question: str) -> bool:
            asked.append(question)
            return False

    with pytest.raises(UsageError) as caught:
        environments.make_kernel_environment(image(), [], shop(tmp_path, report=Refusing(), ask_above=1000))
    assert "--yes" in caught.value.hint
    assert "MB" in caught.value.what
    assert "Download" in asked[0]
    assert not list((tmp_path / "environments").glob("kernel-*/env"))


@pytest.mark.index
def test_what_no_index_has_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    """A version that does not exist ends in uv's words and the advice to take the running environment."""
    with pytest.raises(OutsideError) as caught:
        environments.make_kernel_environment(image(ipykernel="0.0.0.1"), [], shop(tmp_path))
    assert "--env current" in caught.value.hint
    assert any("ipykernel" in line for line in caught.value.details)
    assert not list((tmp_path / "environments" / "locks").glob("*/pylock.toml"))


def test_no_index_is_asked_where_pip_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With pip's no-index an environment comes from find-links alone, and other folders are another question."""
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    with LocalIndex() as index:
        index.add(make_wheel(tmp_path / "built", "gamma", "4.0"))
        for version in ("2.0", "3.0"):
            folder = make_wheel(tmp_path / version, "gamma", version).parent
            # Whatever asks for uv's own default index meets the proxy, which leads nowhere.
            settings = IndexSettings(
                index_url=index.url, no_index=True, find_links=(str(folder),), proxy=index.root
            )
            workshop = EnvironmentOptions(index=settings, cache=tmp_path / "cache")
            made = environments.make_layer(["gamma"], Path(sys.executable), workshop)
            assert (made / f"gamma-{version}.dist-info").is_dir()
    assert index.requests == []


def test_a_python_that_is_not_here_is_told(tmp_path: Path) -> None:
    """An image whose Python this machine lacks names how to get it."""
    with pytest.raises(ProjectError) as caught:
        environments.make_kernel_environment(image("3.99.1"), [], shop(tmp_path))
    assert "3.99" in caught.value.what
    assert "uv python install 3.99" in caught.value.hint


def test_a_python_shows_what_it_needs_and_no_more() -> None:
    """The folders of an interpreter are named once each, system folders not at all."""
    found = environments.inspect_interpreter(Path(sys.executable))
    places = [mount.inside for mount in found.mounts]
    assert len(places) == len(set(places))
    assert not [place for place in places if place.startswith("/usr/") or place == "/"]
    assert all(not mount.writable for mount in found.mounts)
    assert found.version == HERE


def test_a_link_on_the_way_to_the_interpreter_is_shown_as_a_link(tmp_path: Path) -> None:
    """A Python that is started through a link of the user's own stays startable, without its folder being shown."""
    (tmp_path / "bin").mkdir()
    link = tmp_path / "bin" / "python"
    link.symlink_to(Path(sys.executable).resolve())
    found = environments.inspect_interpreter(link)
    assert found.links[str(link)] == str(Path(sys.executable).resolve())
    assert str(tmp_path / "bin") not in [mount.inside for mount in found.mounts]


def test_wheels_that_cannot_run_here_are_named_unless_an_sdist_stands_in() -> None:
    """Only what nothing can be made of stops a rehearsal."""
    plain = {"name": "a", "version": "1", "build": [], "imports": ["a"]}
    install = (
        {**plain, "wheel": "a-1-cp399-cp399-linux_x86_64.whl", "sdist": None},
        {**plain, "name": "b", "wheel": "b-1-cp399-cp399-linux_x86_64.whl", "sdist": "b-1.tar.gz"},
        {**plain, "name": "c", "wheel": "c-1-py3-none-any.whl", "sdist": None},
        {**plain, "name": "d", "wheel": None, "sdist": "d-1.tar.gz"},
    )
    whole = kit_facts.InstallPlan(image="", install=install, provided={})
    assert kernel.find_unfit_wheels(whole, tags.sys_tags()) == (("a-1-cp399-cp399-linux_x86_64.whl",), ("b",))


def test_what_runs_the_notebook_has_no_way_around(tmp_path: Path) -> None:
    """--env current needs papermill too: it is not named as a remedy where that cannot be had."""
    (tmp_path / "simple").mkdir()
    empty = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": (tmp_path / "simple").as_uri()}
    nothing = EnvironmentOptions(index=pip_settings.read_pip_settings(empty), cache=tmp_path)
    with pytest.raises(OutsideError, match="could not be resolved") as caught:
        environments.make_papermill_environment(nothing)
    assert "--env" not in caught.value.hint


SMALL = r"""
import sys
from pathlib import Path
from offline_kit.core.errors import OutsideError
from offline_kit.packages.pip_settings import IndexSettings
from offline_kit.rehearsal import environments
from offline_kit.rehearsal.environments import EnvironmentOptions
settings = IndexSettings(index_url="", no_index=True, find_links=(sys.argv[1],))
try:
    environments.make_layer(["gamma"], Path(sys.executable), EnvironmentOptions(index=settings, cache=Path(sys.argv[2])))
except OutsideError as error:
    print(error.what, error.hint, sep="\n")
"""


@pytest.mark.sandbox
@pytest.mark.skipif(not shutil.which("bwrap"), reason="needs bubblewrap for a small disk")
def test_a_full_cache_is_not_a_matter_of_the_index(tmp_path: Path) -> None:
    """uv's words about a full disk become ours: which disk it is, and how to get room."""
    noise = os.urandom(6_000_000)
    wheels = make_wheel(tmp_path / "wheels", "gamma", "1.0", files={"gamma/noise.bin": noise}).parent
    (tmp_path / "cache").mkdir()
    box = ["bwrap", "--dev-bind", "/", "/", "--size", "4000000", "--tmpfs", str(tmp_path / "cache")]
    words = [*box, sys.executable, "-c", SMALL, str(wheels), str(tmp_path / "cache")]
    env = {**os.environ, "UV_CACHE_DIR": str(tmp_path / "uv")}
    done = subprocess.run(words, capture_output=True, text=True, env=env, check=False)
    what, _, hint = done.stdout.strip().partition("\n")
    assert what == f"no space left below '{tmp_path / 'cache'}'", done.stderr
    assert "cache prune" in hint
    explained = causes.explain_failure(what)
    assert str(tmp_path / "cache") in explained.cause
    assert "OFFLINE_KIT_CACHE" in explained.remedy


@pytest.mark.parametrize("cpu", [False, True], ids=["only a CUDA build", "a CPU build"])
def test_torchs_own_cuda_libraries_hold_in_place_of_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpu: bool
) -> None:
    """On a machine without a GPU a CPU build of the image's version is taken; else what the index's build pins."""
    libraries = "nvidia-cufile-cu12"
    folders = [
        make_wheel(tmp_path / "a", "torch", "2.11.0", requires=[f"{libraries}==1.1"]).parent,
        *(make_wheel(tmp_path / name, name, "1.0").parent for name in ("ipykernel", "pip", "setuptools")),
        *(make_wheel(tmp_path / version, libraries, version).parent for version in ("1.1", "1.2")),
        *([make_wheel(tmp_path / "cpu", "torch", "2.11.0+cpu").parent] if cpu else []),
    ]
    monkeypatch.setenv("PIP_FIND_LINKS", " ".join(map(str, folders)))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    listed = image(**{"torch": "2.11.0+cu128", libraries: "1.2"})
    python = environments.make_kernel_environment(listed, ["torch", libraries], shop(tmp_path, yes=True))
    found = python.packages
    assert found["torch"].startswith("2.11.0")
    assert found.get(libraries) == (None if cpu else "1.1")


def test_an_import_check_that_fails_names_the_packages_to_add(tmp_path: Path) -> None:
    """A package of the kit imports what it does not declare: the image has it, so the next run gets it."""
    details = ["timm: ModuleNotFoundError: No module named 'huggingface_hub'", "own: ValueError: no"]
    failure = KitError("2 of 9 packages of the kit cannot be imported", details, code="import-check-failed")
    run = ran(tmp_path, cell("install(kit)", "failed", failure=failure), code=1)
    listed = {"huggingface-hub": "1.0", "timm": "1.0"}
    assert kernel._find_missing_packages(run, listed, {"timm"}) == ("huggingface-hub",)
    assert kernel._find_missing_packages(run, listed, listed) == ()
