"""The first cell of a notebook: it finds the kit, checks the runtime in it, and imports that and nothing else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from offline_kit.core.resources import templates_folder
from offline_kit.notebook.runtime.kit_runtime import KitError, find_failure
from tests.support.kits import Workshop

BOOTSTRAP = (templates_folder() / "bootstrap.py.j2").read_text()
PART = "datasets/me/kit"


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Mount a kit, and return the folder of the inputs and the part's id."""
    folder = tmp_path_factory.mktemp("kit")
    workshop = Workshop(has_runtime=True)
    part_id = workshop.mount(folder / "input" / PART)
    return folder / "input", part_id


def run_bootstrap(inputs: Path, part_id: str) -> "subprocess.CompletedProcess[str]":
    """Run the cell in a fresh Python that cannot import offline_kit."""
    code = f"{BOOTSTRAP}\nprint(import_runtime({part_id!r}).__file__)\n"
    environ = {**os.environ, "OFFLINE_KIT_INPUT": str(inputs), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import os; os.environ.update({environ!r})\n{code}"],
        capture_output=True,
        text=True,
        check=False,
    )


def failure_of(done: "subprocess.CompletedProcess[str]") -> KitError:
    """Return the failure that the cell printed as data."""
    assert done.returncode == 1
    failure = find_failure(done.stdout)
    assert failure is not None
    assert failure.hint
    return failure


@pytest.mark.parametrize(
    "mount",
    ["kit", "datasets/me/kit", "notebooks/me/kit", "models/me/kit/other/default/3", "kit/other/default/3"],
)
def test_it_finds_the_kit_wherever_kaggle_mounts_it(
    mounted: tuple[Path, str], tmp_path: Path, mount: str
) -> None:
    """In both mount layouts, as a dataset, a notebook's output or a model, beside another kit and a broken manifest."""
    inputs, part_id = mounted
    shutil.copytree(inputs / PART, tmp_path / mount)
    Workshop(has_runtime=True, plan={"roots": ["other"]}).mount(tmp_path / "datasets/me/another-kit")
    (tmp_path / "datasets/me/broken").mkdir()
    (tmp_path / "datasets/me/broken/offline-kit.json").write_bytes(b"\xff{")
    done = run_bootstrap(tmp_path, part_id)
    assert done.stdout.strip() == str(tmp_path / mount / "offline_kit_runtime/__init__.py"), done.stderr


@pytest.mark.parametrize("name", ["__init__.py", "kit_tasks.py"])
@pytest.mark.parametrize("change", ["edit", "delete"])
def test_a_changed_file_of_the_runtime_is_refused_and_named(
    mounted: tuple[Path, str], tmp_path: Path, name: str, change: str
) -> None:
    """Nothing of it is imported."""
    inputs, part_id = mounted
    shutil.copytree(inputs, tmp_path / "input")
    file = tmp_path / "input" / PART / "offline_kit_runtime" / name
    if change == "edit":
        file.write_bytes(b"print('ran')\n" + file.read_bytes())
    else:
        file.unlink()
    done = run_bootstrap(tmp_path / "input", part_id)
    failure = failure_of(done)
    assert failure.code == "kit-damaged"
    assert f"offline_kit_runtime/{name}" in failure.what
    assert "ran" not in done.stdout.splitlines()


def test_a_manifest_that_was_made_to_fit_is_refused(mounted: tuple[Path, str], tmp_path: Path) -> None:
    """The hashes of a manifest count only if the part's id follows from them."""
    inputs, part_id = mounted
    shutil.copytree(inputs, tmp_path / "input")
    manifest = tmp_path / "input" / PART / "offline-kit.json"
    content: Any = json.loads(manifest.read_text())
    content["files"][0]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(content))
    assert failure_of(run_bootstrap(tmp_path / "input", part_id)).code == "kit-damaged"


def test_another_kit_is_not_the_kit(mounted: tuple[Path, str]) -> None:
    """Of another id is another version: the notebook says what to attach."""
    assert failure_of(run_bootstrap(mounted[0], "f" * 64)).code == "kit-not-mounted"


def test_an_adopted_notebook_has_one_cell_more_that_leaves_no_name(tmp_path: Path) -> None:
    """The runtime removes what the cell defined."""
    workshop = Workshop(has_runtime=True)
    part_id = workshop.mount(tmp_path / "input/kit")
    environ = {"OFFLINE_KIT_INPUT": str(tmp_path / "input"), "OFFLINE_KIT_SCRATCH": str(tmp_path / "scratch")}
    environ["OFFLINE_KIT_WORKING"] = str(tmp_path / "working")
    script = tmp_path / "cell.py"
    script.write_text(
        f"before = set(globals())\n{BOOTSTRAP}\nPARTS = {{'kit': {part_id!r}}}\n"
        f"import_runtime({part_id!r}).open_adopted(PARTS, {{}}, {{}})\n"
        "print(sorted(set(globals()) - before - {'before'}))\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, env=os.environ | environ
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
