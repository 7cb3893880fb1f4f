"""A kit for a container image, rehearsed in it: captured, built and run, told by a notebook that looks around."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.workbench import evidence, project, run

pytestmark = [pytest.mark.slow, pytest.mark.index, pytest.mark.container]

LOOK = """
import importlib.metadata, os, pathlib, shutil, socket, sys
import pandas, toolz

def fails(action):
    try:
        action()
    except OSError as error:
        return type(error).__name__

def evidence(context):
    return {
        "user": os.getuid(),
        "of image": os.environ["OF_IMAGE"],
        "python": sys.executable,
        "cores": len(os.sched_getaffinity(0)),
        "uv": bool(shutil.which("uv")),
        "installer": importlib.metadata.distribution("toolz").read_text("INSTALLER").strip(),
        "outside": fails(lambda: socket.create_connection(("1.1.1.1", 53), timeout=5)),
        "input": fails(lambda: (context.input / "new").touch()),
        "kit": next(str(path.parent) for path in pathlib.Path("/kaggle/input").rglob("offline-kit.json")),
        "mounts": sorted(os.listdir("/kaggle")),
    }
"""


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory, container_image: str) -> Path:
    """A project for an image that was captured from the container; its configuration names both."""
    folder = project(tmp_path_factory.mktemp("container") / "project", ["toolz"], LOOK, image="image.toml")
    words = ("image", "capture", "--container", container_image, "--output", folder / "image.toml", "--json")
    facts = run(*words).good().facts
    assert facts["accelerator"] == "none"
    assert re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", facts["digest"])
    config = folder / "offline-kit.toml"
    config.write_text(f'container = "{container_image}"\n{config.read_text()}')
    return folder


def rehearse(folder: Path, *words: str) -> tuple[dict[str, Any], dict[str, Any]]:
    facts = run("rehearse", folder, "--env", "image", *words, "--json").good().facts["rehearsal"]
    found = evidence(folder)
    assert (found["user"] == 0 or found["user"] == os.getuid(), found["of image"]) == (True, "yes")
    assert (found["outside"], found["input"], found["mounts"]) == ("OSError", "OSError", ["input", "working"])
    assert found["cores"] <= 4
    assert (facts["fidelity"], facts["sandbox"], facts["rows"]) == ("image", "container", 2)
    assert (folder / "dist" / "offline-kit" / "rehearsal" / "submission.csv").stat().st_uid == os.getuid()
    return facts, found


def test_the_image_itself_runs_the_kit_with_its_own_uv(captured: Path) -> None:
    """In the new layout, with the uv of the image; nothing differs from the list that was captured."""
    facts, found = rehearse(captured)
    assert facts["differences"] == []
    assert (found["uv"], found["installer"]) == (True, "uv")
    assert found["kit"].startswith("/kaggle/input/datasets/")


def compare_with_container(folder: Path, container: str) -> dict[str, Any]:
    """Return what the doctor says of a container image and the existing kit."""
    words = ("doctor", folder, "--image", container, "--ignore", "K1", "--ignore", "K3", "--json")
    (check,) = [check for check in run(*words).good().facts["checks"] if check["code"] == "K208"]
    return dict(check)


def test_the_doctor_compares_the_kit_with_a_container(captured: Path, container_image: str) -> None:
    """An image with all versions is fine; for one that moved, the doctor names the version before the run does."""
    run("build", captured).good()
    assert compare_with_container(captured, container_image)["state"] == "ok"
    image = captured / "image.toml"
    before = image.read_text()
    image.write_text(re.sub(r'(?m)^"pandas" = ".*"$', '"pandas" = "1.2.3"', before))
    run("build", captured).good()
    moved = compare_with_container(captured, container_image)
    assert moved["state"] == "warning"
    assert [line for line in moved["details"] if line.startswith("pandas 1.2.3 -> ")]
    assert f"--env image --container {container_image}" in moved["remedy"]
    image.write_text(before)


def test_without_uv_in_the_old_layout_in_an_image_that_moved(captured: Path) -> None:
    """Its uv is hidden, so that pip installs; a package that has another version than the kit counts on is told."""
    image = captured / "image.toml"
    image.write_text(re.sub(r'(?m)^"pandas" = ".*"$', '"pandas" = "1.2.3"', image.read_text()))
    facts, found = rehearse(captured, "--layout", "old", "--installer", "pip")
    assert [line for line in facts["differences"] if line.startswith("pandas") and line.endswith(" 1.2.3")]
    assert (found["uv"], found["installer"]) == (False, "pip")
    assert found["kit"] == "/kaggle/input/some-kit"
