"""`offline-kit adopt`: what it shows, what it writes, and the notebook that a build makes of it."""

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import nbformat
import pytest

from offline_kit.adopt import adopted_notebook, adoption_plan
from offline_kit.core.errors import ProjectError, UsageError
from offline_kit.notebook import rendering as notebook
from offline_kit.project import config, images
from offline_kit.project.types import FileEntry, Kit, KitPart, Role
from offline_kit.workflow import model_files
from tests.support import command_line
from tests.support.adopting import notebook_of, put, run
from tests.support.listener import Listener

NB: Any = nbformat  # it has types for half of itself
NET = (
    "import torch, timm\nnet = timm.create_model('resnet18', pretrained=True)\n"
    "net.load_state_dict(torch.load('weights/net.pth'))\nprint(f'{{}} {net!r}')  # {{ jinja }} {% raw %}"
)
CELLS = (
    "!pip install einops==0.8.1\nimport einops, helpers",
    NET,
    "open('submission.csv', 'w').write(open('/kaggle/input/plants/sample_submission.csv').read())",
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a notebook, its weights, a module and a copy of the competition's data."""
    put(tmp_path, "weights/net.pth", "helpers.py", "input/plants/sample_submission.csv")
    put(
        tmp_path,
        "kernel-metadata.json",
        text='{"dataset_sources": ["me/maps"], "competition_sources": ["plants"], "enable_gpu": true}',
    )
    put(tmp_path, "input/maps/one.json")
    notebook_of(tmp_path, *CELLS)
    return tmp_path


def entry(role: Role, original: str) -> FileEntry:
    """A file of a kit."""
    return FileEntry(role=role, original=original, stored=original, size=1, sha256="0" * 64)


def kit(folder: Path, *more: FileEntry) -> Kit:
    """A kit with einops and these files."""
    entries = (entry(Role.WHEEL, "packages/einops-0.8.1-py3-none-any.whl"), *more)
    return Kit(folder=folder, id="k" * 64, parts=(KitPart(name="kit", id="p" * 64, entries=entries),))


def rendered(project: Path, made: Kit) -> notebook.RenderedNotebook:
    """Render the adopted notebook of a project for a kit."""
    loaded = config.load_config(project, {})
    target = notebook.NotebookTarget(project=project, competition=loaded.competition, dataset=loaded.dataset)
    chosen = images.load_image("", accelerator="none", project=project)
    return adopted_notebook.render_notebook(made, loaded.notebook, chosen, target)


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("!pip install --no-index --find-links=/kaggle/input/maps einops==0.7.0", ["einops"]),
        ("!pip install --no-deps /kaggle/input/maps/einops-0.7.0-py3-none-any.whl", ["einops"]),
        ("!pip install --no-index --find-links=/kaggle/input/maps einops-exts", []),
    ],
)
def test_a_kit_that_hides_a_wheel_of_the_inputs_is_reported(
    tmp_path: Path, line: str, names: list[str]
) -> None:
    """The kit's packages are imported first: the build names a line that installs another version from its inputs."""
    put(tmp_path, "kernel-metadata.json", text='{"dataset_sources": ["me/maps"]}')
    notebook_of(tmp_path, line, "import einops")
    put(tmp_path, "offline-kit.toml", text='dataset = "me-kit"\n[notebook]\nsource = "inference.ipynb"\n')
    loaded, listener = config.load_config(tmp_path, {}), Listener()
    target = notebook.NotebookTarget(project=tmp_path, competition="plants", dataset="me-kit")
    chosen = images.load_image("", accelerator="none", project=tmp_path)
    adopted_notebook.render_notebook(kit(tmp_path), loaded.notebook, chosen, target, report=listener)
    hidden = [text for text in listener.warnings if "the kit's version" in text]
    assert [name for name in ("einops", "einops-exts") for text in hidden if f'"{name}"' in text] == names


def test_one_diff_shows_all_changes(project: Path) -> None:
    """Configuration, requirements and cells are shown as one unified diff; nothing is written."""
    before = sorted(path.name for path in project.iterdir())
    diff = adoption_plan.plan_adoption(project / "inference.ipynb", project).unified_diff
    assert "+++ offline-kit.toml (adopted)" in diff
    assert "+++ requirements.in (adopted)" in diff
    assert "-!pip install einops==0.8.1\n+pass  # offline-kit: !pip install einops==0.8.1\n" in diff
    assert sorted(path.name for path in project.iterdir()) == before


def test_what_is_written_is_a_configuration(project: Path) -> None:
    """The written configuration is read by `build`, and holds sources, machine, copies and what travels."""
    adoption_plan.write_adoption(adoption_plan.plan_adoption(project / "inference.ipynb", project))
    said = tomllib.loads((project / "offline-kit.toml").read_text())
    assert said == {
        "competition": "plants",
        "competition_data": "input/plants",
        "dataset": said["dataset"],
        "accelerator": "gpu",
        "copies": {"dataset:me/maps": "input/maps"},
        "requirements": ["requirements.in"],
        "modules": ["helpers.py"],
        "checkpoints": ["weights/net.pth"],
        "notebook": {"source": "inference.ipynb", "dataset_sources": ["me/maps"]},
    }
    assert "einops==0.8.1" in (project / "requirements.in").read_text().splitlines()
    assert config.load_config(project, {}).notebook.source == "inference.ipynb"


def test_adopting_again_writes_nothing(project: Path) -> None:
    """A second time there is nothing to add, and what a person changed stays."""
    adoption_plan.write_adoption(adoption_plan.plan_adoption(project / "inference.ipynb", project))
    file = project / "offline-kit.toml"
    file.write_text(file.read_text().replace('dataset = "', 'dataset = "my-'))
    again = adoption_plan.plan_adoption(project / "inference.ipynb", project)
    assert not again.config.has_changed
    assert adoption_plan.write_adoption(again) == ()
    assert again.manual_steps == ()


def test_a_configuration_that_is_there_gets_what_it_lacks(project: Path) -> None:
    """Keys are added to a configuration, and what its lists lack is told."""
    put(project, "other.pth")
    (project / "offline-kit.toml").write_text('# mine\ncheckpoints = ["other.pth"]\n')
    proposal = adoption_plan.plan_adoption(project / "inference.ipynb", project)
    assert (
        proposal.config.new.endswith('# mine\ncheckpoints = ["other.pth"]\n')
        or "# mine\n" in proposal.config.new
    )
    assert tomllib.loads(proposal.config.new)["notebook"]["source"] == "inference.ipynb"
    assert any("weights/net.pth" in step for step, _ in proposal.manual_steps)


def test_requirements_of_others_are_left_alone(project: Path) -> None:
    """Where requirements lie already, those of the notebook get a file of their own."""
    (project / "requirements.txt").write_text("pytest\n")
    proposal = adoption_plan.plan_adoption(project / "inference.ipynb", project)
    assert proposal.requirements.path.name == "inference-requirements.in"
    assert tomllib.loads(proposal.config.new)["requirements"] == ["inference-requirements.in"]


def test_a_person_says_where_an_import_comes_from(project: Path) -> None:
    """An unknown import is a question; `--import` answers it for good, in the requirements file."""
    notebook_of(project, "import coolaug, other_thing")
    told = json.loads(run(project, "adopt", "inference.ipynb", "--write", "--json").stdout)
    assert (told["asked"], told["requirements"]) == (2, [])
    run(
        project,
        "adopt",
        "inference.ipynb",
        "--write",
        "--import",
        "coolaug=cool-aug",
        "--import",
        "other_thing",
    )
    lines = (project / "requirements.in").read_text().splitlines()[1:]
    assert lines == ["cool-aug  # import coolaug", "other-thing  # import other_thing"]
    again = json.loads(run(project, "adopt", "inference.ipynb", "--dry-run", "--json").stdout)
    assert (again["asked"], again["diff"].count("requirements.in")) == (0, 0)


def test_the_rendered_notebook_is_the_persons_own(project: Path) -> None:
    """One markdown and one setup cell on top; below them each cell as it was, but for the lines that are told."""
    adoption_plan.write_adoption(adoption_plan.plan_adoption(project / "inference.ipynb", project))
    made = rendered(project, kit(project, entry(Role.CHECKPOINT, "checkpoints/weights/net.pth")))
    found = NB.reads(made.text, as_version=4)
    kinds = [cell.cell_type for cell in found.cells]
    assert kinds == ["markdown", "code", "code", "code", "code"]
    setup = found.cells[1].source
    assert "('weights/net.pth', 'checkpoints/weights/net.pth')" in setup
    assert len(setup.splitlines()) <= 25
    assert found.cells[3].source.endswith("print(f'{{}} {net!r}')  # {{ jinja }} {% raw %}")
    assert [cell.id for cell in found.cells[2:]] == ["c1", "c2", "c3"]
    assert made.metadata["dataset_sources"][1:] == ["me/maps"]
    assert made.metadata["competition_sources"] == ["plants"]
    assert made.metadata["enable_internet"] is False


def test_the_same_notebook_gives_the_same_bytes(project: Path) -> None:
    """Nothing of this machine or moment is in it."""
    adoption_plan.write_adoption(adoption_plan.plan_adoption(project / "inference.ipynb", project))
    made = kit(project, entry(Role.CHECKPOINT, "checkpoints/weights/net.pth"))
    text = rendered(project, made).text
    assert text == rendered(project, made).text
    assert str(project) not in text


def test_a_kit_without_what_a_line_fetched_is_refused(project: Path) -> None:
    """A path is changed only where the kit holds its file."""
    adoption_plan.write_adoption(adoption_plan.plan_adoption(project / "inference.ipynb", project))
    with pytest.raises(UsageError, match=r"'weights/net\.pth'") as caught:
        rendered(project, kit(project))
    assert caught.value.code == "adopted-file-not-in-kit"
    assert "adopt" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("missing.ipynb", None, UsageError),
        ("text.ipynb", "no JSON", ProjectError),
        ("list.ipynb", "[]", ProjectError),
        (
            "r.ipynb",
            '{"nbformat": 4, "nbformat_minor": 4, "cells": [], "metadata": {"kernelspec": {"name": "ir", "display_name": "R", "language": "R"}}}',
            ProjectError,
        ),
    ],
)
def test_what_is_no_notebook_is_told(
    tmp_path: Path, name: str, text: str | None, error: type[Exception]
) -> None:
    """A missing file, another text, another language: one sentence, and the next step."""
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(error, match=re.escape(name)):
        adoption_plan.plan_adoption(tmp_path / name, tmp_path)


def test_a_notebook_elsewhere_is_refused(tmp_path: Path) -> None:
    """The notebook lies in the project: the configuration names it by its path there."""
    notebook_of(tmp_path, "1", name="a/inference.ipynb")
    (tmp_path / "b").mkdir()
    with pytest.raises(UsageError) as caught:
        adoption_plan.plan_adoption(tmp_path / "a" / "inference.ipynb", tmp_path / "b")
    assert caught.value.code == "notebook-outside-project"


def test_the_command(project: Path) -> None:
    """It writes only with --write, and with --json prints one object with every finding and its place."""
    shown = json.loads(run(project, "adopt", "inference.ipynb", "--json").stdout)
    assert shown["written"] == []
    assert {"cell": 1, "line": 1, "kind": "install", "became": "requirement"}.items() <= shown["found"][
        0
    ].items()
    said = run(project, "adopt", "inference.ipynb", "--write")
    assert "+pass  # offline-kit: !pip install einops==0.8.1" in said.stdout
    assert "next:" in said.stderr
    assert (project / "offline-kit.toml").is_file()
    assert json.loads((project / "inference.ipynb").read_text())["cells"][0]["source"] == CELLS[0], (
        "never touched"
    )


@pytest.mark.parametrize(
    "how", ['source = "inference.ipynb"', 'template = "function"\nfunction = "own.py:run"']
)
def test_what_a_pickle_imports_is_asked_for(tmp_path: Path, how: str) -> None:
    """Code that loads a pickle names no library of it: the notebook gets those that the file names."""
    joblib, tree = pytest.importorskip("joblib"), pytest.importorskip("sklearn.tree")
    put(tmp_path, "own.py", text="def run(kit, data, out): ...\n")
    notebook_of(tmp_path, "import joblib\nmodel = joblib.load('models/model.joblib')")
    (tmp_path / "models").mkdir()
    joblib.dump(tree.DecisionTreeClassifier().fit([[0], [1]], [0, 1]), tmp_path / "models/model.joblib")
    (tmp_path / "offline-kit.toml").write_text(f'checkpoints = ["models/model.joblib"]\n[notebook]\n{how}\n')
    chosen = images.load_image("", accelerator="none", project=tmp_path)
    seen = model_files.inspect_model_files(config.load_config(tmp_path, {}), chosen, cache=tmp_path / "cache")
    assert "scikit-learn" in seen.packages
    assert any("scikit-learn" in line for line in model_files.advise_on_checkpoints(seen))


def test_what_only_a_person_can_add_is_ready_to_paste(project: Path) -> None:
    """A list that is there is the person's: --write says its whole line, and ends with 1 where a build would fail."""
    file = project / "offline-kit.toml"
    run(project, "adopt", "inference.ipynb", "--write")
    put(project, "other.pth")
    whole = file.read_text()
    file.write_text(whole.replace('checkpoints = ["weights/net.pth"]', 'checkpoints = ["other.pth"]'))
    done = command_line.offline_kit("adopt", "inference.ipynb", "--write", cwd=project)
    said = " ".join(done.stderr.split())
    assert done.returncode == 1, done.stderr
    assert "nothing was written: add by hand" in said
    assert 'checkpoints = ["other.pth", "weights/net.pth"]' in said
    assert "run again with --write" not in said
    file.write_text(whole.replace('["weights/net.pth"]', '["other.pth", "weights/net.pth"]'))
    assert "already complete" in run(project, "adopt", "inference.ipynb", "--write").stderr


def test_a_requirements_file_that_is_installed_later_is_needed_for_sure(project: Path) -> None:
    """Its line is switched off in the notebook: until the configuration names it, its packages are missing."""
    run(project, "adopt", "inference.ipynb", "--write")
    put(project, "cool-aug/requirements.txt", text="nice_package\n")
    notebook_of(project, *CELLS, "!pip install -r cool-aug/requirements.txt")
    done = command_line.offline_kit("adopt", "inference.ipynb", "--write", cwd=project)
    assert done.returncode == 1, done.stderr
    whole = 'requirements = ["requirements.in", "cool-aug/requirements.txt"]'
    assert whole in " ".join(done.stderr.split())
    file = project / "offline-kit.toml"
    file.write_text(file.read_text().replace('requirements = ["requirements.in"]', whole))
    run(project, "adopt", "inference.ipynb", "--write")


@pytest.mark.parametrize("own", ["weights", "weights/*.pth"])
def test_a_folder_or_a_pattern_names_what_is_in_it(project: Path, own: str) -> None:
    """What an entry of a list means already needs nobody."""
    (project / "offline-kit.toml").write_text(f'checkpoints = ["{own}"]\n')
    proposal = adoption_plan.plan_adoption(project / "inference.ipynb", project)
    assert proposal.manual_steps == ()
    assert not proposal.is_blocking


def test_the_folder_that_shows_the_inputs_is_explained(project: Path) -> None:
    """The table says why the diff's paths lie below /tmp."""
    wide = os.environ | {"COLUMNS": "200"}
    done = command_line.offline_kit("adopt", "inference.ipynb", cwd=project, env=wide)
    assert "the same files" in done.stderr
