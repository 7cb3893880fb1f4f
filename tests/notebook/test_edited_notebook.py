"""A rendered notebook that a person edited is never lost, and the ways to use it that a build names work."""

import json
from pathlib import Path

from offline_kit.kit import manifest
from offline_kit.project.config import load_config
from offline_kit.project.types import Role
from offline_kit.workflow import project_status
from tests.support.shipping import Yard, retrain

LINE = "print('mine')"


def notebooks(project: Path) -> list[str]:
    """Return the names of the notebooks beside the rendered one."""
    return sorted(path.name for path in (project / "dist/offline-kit/notebook").glob("*.ipynb"))


def rendered(project: Path) -> Path:
    """Return the path of the rendered notebook."""
    return project / "dist/offline-kit/notebook/inference.ipynb"


def edit(path: Path, line: str) -> None:
    """Add a cell, and save the file in another layout."""
    content = json.loads(path.read_text())
    cell: dict[str, object] = {
        "cell_type": "code",
        "metadata": {},
        "outputs": [],
        "execution_count": None,
        "source": [line],
    }
    content["cells"].append({**cell, "id": f"c{abs(hash(line))}"[:8]})
    path.write_text(json.dumps(content))


def test_an_edited_notebook_is_kept_by_every_build(here: Yard) -> None:
    """Each edit is kept once, whether the kit stands, is replaced, or the notebook alone is rendered."""
    content = json.loads(rendered(here.project).read_text())
    content["cells"][-1]["outputs"] = []
    content["cells"][-1]["execution_count"] = 7
    rendered(here.project).write_text(json.dumps(content, indent=3))
    here.run("build").good()
    assert notebooks(here.project) == ["inference.ipynb"], "run and saved, not edited"

    edit(rendered(here.project), LINE)
    here.run("build").good()
    assert notebooks(here.project) == ["inference.edited.ipynb", "inference.ipynb"]
    assert LINE in rendered(here.project).with_name("inference.edited.ipynb").read_text()
    assert LINE not in rendered(here.project).read_text()

    edit(rendered(here.project), LINE + " # again")
    retrain(here.project, b"2")
    here.run("build").good()
    edit(rendered(here.project), LINE + " # a third time")
    here.run("notebook").good()
    here.run("build").good()
    kept = ["inference.edited-2.ipynb", "inference.edited-3.ipynb", "inference.edited.ipynb"]
    assert notebooks(here.project) == [*kept, "inference.ipynb"]


def test_an_edited_script_is_kept_and_a_change_of_the_kind_leaves_one_file(here: Yard) -> None:
    """A script is kept under a name with its own suffix, also when the next build renders a notebook again."""
    config = here.project / "offline-kit.toml"
    plain = config.read_text()
    config.write_text(plain.replace("[notebook]", '[notebook]\nkernel_type = "script"'))
    here.run("build").good()
    folder = here.project / "dist/offline-kit/notebook"
    names = ["inference.py", "kernel-metadata.json", "rendered.sha256"]
    assert sorted(path.name for path in folder.iterdir()) == names
    kit = manifest.read_kit(folder.parent)
    assert project_status.list_changes(load_config(here.project, {}), kit) == ()
    script = folder / "inference.py"
    script.write_text(f"{script.read_text()}{LINE}\n")
    config.write_text(plain)
    here.run("notebook").good()
    kept = folder / "inference.edited.py"
    assert sorted(path.name for path in folder.iterdir()) == [kept.name, "inference.ipynb", *names[1:]]
    assert kept.read_text().endswith(f"{LINE}\n")


def test_a_script_of_the_users_own_is_not_taken_for_a_rendered_one(here: Yard, tmp_path: Path) -> None:
    """In a folder of theirs, a file of that name is neither removed nor kept as an edition of ours."""
    folder = tmp_path / "mine"
    folder.mkdir()
    own = folder / "inference.py"
    own.write_text("mine = 1\n")
    for _ in range(2):
        here.run("notebook", "--into", str(folder)).good()
    assert own.read_text() == "mine = 1\n"
    names = ["inference.ipynb", "inference.py", "kernel-metadata.json", "rendered.sha256"]
    assert sorted(path.name for path in folder.iterdir()) == names


def test_an_edited_notebook_can_be_pushed_and_become_the_source(here: Yard) -> None:
    """Both ways that the build names are gone."""
    edit(rendered(here.project), LINE)
    here.run("build").good()
    copy = rendered(here.project).with_name("inference.edited.ipynb").read_text()
    rendered(here.project).write_text(copy)
    here.push("--no-build").good()
    assert LINE in rendered(here.project).read_text()

    (here.project / "inference.edited.ipynb").write_text(copy)
    config = here.project / "offline-kit.toml"
    head = config.read_text().partition("[notebook]")[0]
    config.write_text(head + '[notebook]\nsource = "inference.edited.ipynb"\n')
    here.run("build").good()
    assert LINE in rendered(here.project).read_text()


def test_an_edited_notebook_is_reported_as_that(here: Yard) -> None:
    """An edit is not taken for a change of the project, which is reported beside it."""
    config = here.project / "offline-kit.toml"
    kit = manifest.read_kit(here.project / "dist/offline-kit")
    edit(rendered(here.project), LINE)
    (edited,) = project_status.list_changes(load_config(here.project, {}), kit)
    config.write_text(config.read_text().replace("[notebook]", '[notebook]\ntitle = "Another"'))
    reported, changed = project_status.list_changes(load_config(here.project, {}), kit)
    assert reported == edited != changed


def test_the_kit_of_another_version_gets_no_new_notebook(here: Yard) -> None:
    """The notebook would import from a runtime that the kit does not have; a build repairs both."""
    kit = manifest.read_kit(here.project / "dist/offline-kit")
    (part,) = kit.parts
    entries = (entry for entry in part.entries if entry.role is not Role.RUNTIME)
    manifest.write_manifest(kit.part_folder(part), manifest.make_part(part.name, entries))
    before = rendered(here.project).read_text()
    here.run("notebook").failed(1, "kit-of-another-version", "offline-kit build")
    assert rendered(here.project).read_text() == before
    here.run("build").good()
    here.run("notebook").good()
