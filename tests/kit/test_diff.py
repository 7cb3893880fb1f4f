"""`offline-kit diff`: what differs between two kits."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from offline_kit.core.errors import ProjectError
from offline_kit.kit import manifest
from offline_kit.kit.diff import compare_contents, compare_kits
from offline_kit.project.types import FileEntry, Kit, Role
from tests.support import command_line
from tests.support.kits import Workshop, sdist, wheel
from tests.support.notebooks import written

MODEL = {"model.ckpt": b"w" * 2000}


def made(
    folder: Path, *, kit: Workshop | None = None, weights: Mapping[str, bytes] = MODEL, split: bool = False
) -> Kit:
    """Write a kit, its manifests and its notebook as `build` lays them out."""
    kit = kit or packages()
    for name, data in weights.items():
        kit.add(f"checkpoints/{name}", data, "checkpoint")
    kit.mount(folder / "mounted")
    entries = [
        FileEntry(role=Role(raw.pop("role")), **raw)
        for raw in json.loads((folder / "mounted/offline-kit.json").read_text())["files"]
    ]
    groups: dict[str, list[FileEntry]] = {}
    for entry in entries:
        groups.setdefault(entry.original.partition("/")[0] if split else "kit", []).append(entry)
    for name, own in groups.items():
        place = folder / "dataset" / name if split else folder / "dataset"
        for entry in own:
            (place / entry.stored).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / "mounted" / entry.stored, place / entry.stored)
        manifest.write_manifest(place, manifest.make_part(name, own))
    shutil.rmtree(folder / "mounted")
    return written(manifest.read_kit(folder), "x = 1", "print(x)")


def packages(*more: tuple[str, str], own: str = "LEARNING = 1\n", **plan: Any) -> Workshop:
    """Return a kit in the making: a package, the project's own, and what else is named."""
    kit = Workshop()
    kit.plan |= plan
    for name, version in (("ttach", "0.0.3"), *more):
        kit.add_wheel(name, version)
    kit.add_wheel("plants", files={"plants/model.py": own, "plants/__init__.py": ""}, role="own")
    return kit


def test_the_same_kit_twice_is_identical(tmp_path: Path) -> None:
    """Built into two folders, nothing differs."""
    assert compare_kits(made(tmp_path / "old"), made(tmp_path / "new")).is_identical


def test_packages_are_added_removed_changed_and_rebuilt(tmp_path: Path) -> None:
    """By name and version; the same version in other bytes is a rebuild; own code is told elsewhere."""
    old = packages(("scikit_learn", "1.5.2"), ("gone", "1.0"), ("same", "1.0"))
    new = packages(("scikit_learn", "1.6.0"), ("come", "2.0"))
    new.add_wheel("same", "1.0", files={"same.py": "# built anew\n"})
    found = compare_kits(made(tmp_path / "old", kit=old), made(tmp_path / "new", kit=new))
    assert [(each.name, each.change, each.before, each.after) for each in found.groups["packages"]] == [
        ("come", "added", None, "2.0"),
        ("gone", "removed", "1.0", None),
        ("same", "rebuilt", "1.0", "1.0"),
        ("scikit_learn", "changed", "1.5.2", "1.6.0"),
    ]
    assert not any(found.groups[name] for name in ("own", "sources", "checkpoints", "other"))
    assert not found.is_identical


def test_another_image_is_told(tmp_path: Path) -> None:
    """What a kit is built for counts as what is in it."""
    new = packages(image="newer", python="3.13")
    found = compare_kits(made(tmp_path / "old"), made(tmp_path / "new", kit=new))
    assert [(each.name, each.before, each.after) for each in found.groups["target"]] == [
        ("image", "tests", "newer"),
        ("python", "3.11", "3.13"),
    ]


def test_a_package_may_change_from_wheel_to_sdist(tmp_path: Path) -> None:
    """The same version as an sdist, and the wheels that build it, which no package stands for."""
    old, new = packages(), packages()
    name, data = wheel("fromsource", "2.0")
    old.add(f"packages/{name}", data)
    old.install("fromsource", "2.0", wheel=name)
    new.add_sdist()
    found = compare_kits(made(tmp_path / "old", kit=old), made(tmp_path / "new", kit=new))
    (change,) = found.groups["packages"]
    assert change.change == "rebuilt"
    assert sorted(each.name for each in found.groups["other"]) == sorted(
        f"packages/{each}" for each in sdist()[2]
    )
    assert {each.change for each in found.groups["other"]} == {"added"}


def test_own_code_is_compared_file_by_file(tmp_path: Path) -> None:
    """Inside of a wheel only what changed is named; loose modules are files of the kit."""
    old, new = packages(), packages(own="LEARNING = 2\n")
    old.add("code/src/data.py", b"A = 1\n", "source")
    new.add("code/src/data.py", b"A = 12\n", "source")
    found = compare_kits(made(tmp_path / "old", kit=old), made(tmp_path / "new", kit=new))
    (plants,) = found.groups["own"]
    assert (plants.name, plants.change) == ("plants", "rebuilt")
    assert [(each.name, each.change, each.before, each.after) for each in found.groups["sources"]] == [
        ("code/src/data.py", "changed", 6, 7),
        ("plants/model.py", "changed", 13, 13),
    ]
    assert found.groups["packages"] == ()


def test_checkpoints_come_with_their_sizes(tmp_path: Path) -> None:
    """Added, removed, changed, and renamed where the bytes are the same."""
    old = made(tmp_path / "old", weights={"a.ckpt": b"1" * 10, "b.ckpt": b"2" * 20, "c.ckpt": b"3" * 30})
    new = made(tmp_path / "new", weights={"a.ckpt": b"4" * 40, "d.ckpt": b"2" * 20, "e.ckpt": b"5" * 50})
    changes = compare_kits(old, new).groups["checkpoints"]
    assert [(each.name[12:], each.change, each.before, each.after, each.was[12:]) for each in changes] == [
        ("a.ckpt", "changed", 10, 40, ""),
        ("c.ckpt", "removed", 30, None, ""),
        ("d.ckpt", "renamed", 20, 20, "b.ckpt"),
        ("e.ckpt", "added", None, 50, ""),
    ]


def test_one_content_under_two_names_is_renamed_once() -> None:
    """Two new names of the same bytes: one was renamed, the other added."""
    changes = compare_contents({"a": (1, "x")}, {"b": (1, "x"), "c": (1, "x")})
    assert [(each.name, each.change) for each in changes] == [("b", "renamed"), ("c", "added")]


def test_the_notebook_is_compared_as_a_script(tmp_path: Path) -> None:
    """A unified diff of the cells, with their titles, and the keys of its metadata."""
    old, new = made(tmp_path / "old"), made(tmp_path / "new")
    written(new, "x = 1", "print(x, 2)", "done = True", enable_gpu=True)
    found = compare_kits(old, new)
    (gpu,) = found.groups["notebook"]
    assert (gpu.name, gpu.before, gpu.after) == ("enable_gpu", False, True)
    assert {"-print(x)", "+print(x, 2)", "+done = True"} <= set(found.text)
    assert found.same_kit
    assert not found.is_identical


def test_scripts_are_compared_by_their_lines(tmp_path: Path) -> None:
    """A kit whose notebook is a percent script is compared as it is."""
    old, new = made(tmp_path / "old"), made(tmp_path / "new")
    for kit, value in ((old, 1), (new, 2)):
        written(kit, code_file="inference.py", kernel_type="script")
        (kit.folder / "notebook/inference.py").write_text(f"# %% settings\nx = {value}\n")
    assert compare_kits(old, new).text[3:] == (" # %% settings", "-x = 1", "+x = 2")


def test_other_parts_and_other_details_are_never_silent(tmp_path: Path) -> None:
    """Another id always has a line: split parts, or a detail of the install plan that has no word of its own."""
    one, split = made(tmp_path / "one"), made(tmp_path / "split", split=True)
    (parts,) = compare_kits(one, split).groups["target"]
    assert (parts.name, parts.before, parts.after) == ("parts", ["kit"], ["checkpoints", "packages"])
    detail = made(tmp_path / "detail", kit=packages(roots=["src"]))
    (other,) = compare_kits(one, detail).groups["other"]
    assert (other.name, other.change) == ("packages/install.json", "changed")


def test_a_damaged_wheel_of_own_code_is_an_error_with_its_name(tmp_path: Path) -> None:
    """What cannot be read is not compared silently."""
    old, new = made(tmp_path / "old"), made(tmp_path / "new", kit=packages(own="LEARNING = 2\n"))
    (path,) = (new.folder / "dataset").rglob("plants*.whl")
    path.write_bytes(b"no zip")
    with pytest.raises(ProjectError, match=path.name):
        compare_kits(old, new)


@pytest.mark.parametrize("text", ['{"cells": [1]}', '{"cells": 3}', "[]", "no JSON"])
def test_a_notebook_of_another_form_is_an_error(tmp_path: Path, text: str) -> None:
    """What is no notebook is told with its kit's folder."""
    kit = made(tmp_path / "old")
    (kit.folder / "notebook/inference.ipynb").write_text(text)
    with pytest.raises(ProjectError, match=str(kit.folder)):
        compare_kits(kit, kit)


# ------------------------------------------------------------------ the command


def command(folder: Path, *words: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run `offline-kit diff` in a folder."""
    return command_line.offline_kit(
        "diff", *map(str, words), env={**os.environ, "HOME": str(folder)}, cwd=folder
    )


def test_the_command_compares_kits_and_projects(tmp_path: Path) -> None:
    """NEW is this project's kit; 0 although they differ, 1 with --exit-code; a person gets lines on stdout."""
    (tmp_path / "project").mkdir()
    new = made(tmp_path / "project/dist/offline-kit", kit=packages(("timm", "1.1"), own="LEARNING = 2\n"))
    old = made(tmp_path / "old", kit=packages(("timm", "1.0")), weights={"model.ckpt": b"v" * 1000})
    written(old, *(f"line = {number}" for number in range(60)))
    done = command(tmp_path / "project", "../old")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"kit {old.id[:12]} -> {new.id[:12]}"
    assert {"  ~ timm 1.0 -> 1.1", "  ~ plants/model.py 13 B"} <= set(lines)
    assert "  ~ checkpoints/model.ckpt 1.0 kB -> 2.0 kB" in lines
    assert lines[-1].endswith("more lines: --json has them all")
    done = command(tmp_path, "old", "project", "--json", "--exit-code")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert (told["ok"], told["same"], told["new"]["kit"]) == (True, False, new.id)
    assert [each["name"] for each in told["packages"]] == ["timm"]
    assert "-line = 59" in told["notebook"]["text"]


def test_the_command_says_so_where_nothing_differs(tmp_path: Path) -> None:
    """Identical kits end with 0, with --exit-code too; a folder without a kit is an error with its name."""
    made(tmp_path / "old")
    done = command(tmp_path, "old", "old", "--exit-code")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("identical: both are kit ")
    (tmp_path / "empty").mkdir()
    done = command(tmp_path, "old", "empty")
    assert done.returncode == 1
    assert "there is no kit in" in done.stderr
