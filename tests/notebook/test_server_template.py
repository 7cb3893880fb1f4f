"""Rendered notebooks as a person and a linter see them, the template `server`, and `offline-kit notebook`."""

import ast
import difflib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from offline_kit.checkpoints.frameworks import framework_table
from offline_kit.core.errors import UsageError
from offline_kit.notebook import rendering
from offline_kit.notebook.rendering import NotebookTarget, RenderedNotebook, render_notebook
from offline_kit.project.images import Image
from offline_kit.project.types import FileEntry, Kit, KitPart, Member, ModelSpec, NotebookSettings, Role
from tests.support import command_line
from tests.support.rendering import code_cells

IMAGE = Image(name="tests", title="An image", accelerator="none", python="3.13.5", packages={})
ENTRY = FileEntry(
    role=Role.CHECKPOINT, original="checkpoints/a.joblib", stored="a.joblib", size=1500, sha256="0"
)
TEMPLATES = {
    "lightning": NotebookSettings(
        model="plants:Lit",
        data="src/data.py:Data",
        params={"names": ["a" * 30, "b" * 30, 'c"\n'], "deep": {"x": [1.5, True]}},
    ),
    "function": NotebookSettings(template="function", function="work.py:main"),
    "plain": NotebookSettings(template="plain"),
    "server": NotebookSettings(template="server", function="work.py:Answer", params={"gateway": {"rows": 3}}),
    "server by models": NotebookSettings(
        template="server", task="tabular", models=(ModelSpec(files="*.joblib"),)
    ),
    "predict": NotebookSettings(template="predict", task="tabular"),
    "predict images": NotebookSettings(template="predict", task="images", postprocess="labels:0.5"),
    "predict text": NotebookSettings(template="predict", task="text", postprocess="work.py:finish"),
}


def rendered(folder: Path, name: str, **more: Any) -> RenderedNotebook:
    """Render a built-in template for a kit with one checkpoint."""
    part = KitPart(name="kit", id="1" * 64, entries=(ENTRY,))
    kit = Kit(folder=folder, id="0" * 64, parts=(part,))
    member = Member(name="a", framework="sklearn", path=folder / "a.joblib", kit_path="checkpoints/a.joblib")
    members = (member,) if name.startswith("predict") or "models" in name else ()
    more = {"name": "plants", "dataset": "plants-kit", "competition": "plants", "members": members, **more}
    return render_notebook(kit, TEMPLATES[name], IMAGE, NotebookTarget(project=folder, **more))


def ruff(*words: str | Path) -> str:
    """Return what ruff finds, with no configuration but these words."""
    argv = [sys.executable, "-m", "ruff", *map(str, words)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_notebooks_are_formatted_and_lint_clean(tmp_path: Path) -> None:
    """Of no template and no framework would a formatter change a cell, and a linter has nothing to say."""
    for name in TEMPLATES:
        rendered(tmp_path, name).write_files(tmp_path / "notebooks" / name.replace(" ", "-"))
    files: Any = {"path": tmp_path / "a", "kit_path": "checkpoints/a", "model": "net.py:Net"}
    for each in framework_table.FRAMEWORKS:
        for kind in ("predict", "predict images", "predict text"):
            notebook = rendered(tmp_path, kind, members=(Member(name="a", framework=each.name, **files),))
            notebook.write_files(tmp_path / "notebooks" / f"{each.name}-{kind[8:]}")
    common: list[str | Path] = ["--isolated", "--no-cache", "--line-length", "110", tmp_path / "notebooks"]
    assert ruff("format", "--diff", *common) == ""
    rules = "E4,E7,E9,F,I,W,B,C4,PIE,UP"
    repeated = "F811,E401,I001"  # each cell has its own imports, the first one short ones
    assert (
        ruff("check", "--select", rules, "--ignore", repeated, "--target-version", "py310", "-q", *common)
        == ""
    )


def count_lines(notebook: RenderedNotebook) -> int:
    """Return the lines of code in a notebook, without blank ones."""
    return sum(
        bool(line.strip()) for cell in code_cells(notebook) for line in "".join(cell["source"]).split("\n")
    )


# The most lines of code, by template; in brackets those of the time when the runtime was pasted into the notebook.
MOST_LINES = {
    "lightning": 60,  # (1418)
    "function": 50,  # (1070)
    "plain": 50,  # (1067)
    "server": 60,  # (1376)
    "server by models": 80,  # (2430)
    "predict": 80,  # (2129)
    "predict images": 80,  # (2128)
    "predict text": 80,  # (2132)
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_notebook_is_short(tmp_path: Path, name: str) -> None:
    """The runtime travels in the kit; what is left is for people to read, in cells of at most 25 lines at its top."""
    notebook = rendered(tmp_path, name)
    assert count_lines(notebook) <= MOST_LINES[name]
    assert len("".join(code_cells(notebook)[0]["source"]).splitlines()) <= 25


@pytest.mark.parametrize("task", ["tabular", "images", "text"])
def test_a_notebook_of_two_frameworks_is_short(tmp_path: Path, task: str) -> None:
    """Even the two longest: what loads and predicts stands there for both."""
    kind = {"tabular": "predict", "images": "predict images", "text": "predict text"}[task]
    files: Any = {"path": tmp_path / "a", "kit_path": "checkpoints/a", "model": "net.py:Net"}
    names = [framework.name for framework in framework_table.FRAMEWORKS]
    members = {framework: Member(name=framework, framework=framework, **files) for framework in names}
    alone = {name: count_lines(rendered(tmp_path, kind, members=(members[name],))) for name in names}
    longest = sorted(names, key=alone.__getitem__)[-2:]
    notebook = rendered(tmp_path, kind, members=tuple(members[name] for name in longest))
    assert count_lines(notebook) <= 110, longest
    source = "\n".join("".join(cell["source"]) for cell in code_cells(notebook))
    assert all(f"def predict_{framework}(" in source for framework in longest)


def test_a_changed_setting_changes_its_lines(tmp_path: Path) -> None:
    """The file of two builds differs in what says so: the setting, and with changed code the ids of kit and part."""
    before, after = (
        rendered(tmp_path, "function", accelerator=word).text.splitlines()
        for word in ("none", "NvidiaTeslaT4")
    )
    changes = [line for line in difflib.ndiff(before, after) if line[:2] in ("- ", "+ ")]
    assert len(changes) == 4, "the row of the head, and the device"
    kits = [
        Kit(folder=tmp_path, id=word * 64, parts=(KitPart(name="kit", id=word * 64, entries=(ENTRY,)),))
        for word in "ab"
    ]
    target = NotebookTarget(project=tmp_path, name="plants", dataset="plants-kit")
    before, after = (
        render_notebook(kit, TEMPLATES["function"], IMAGE, target).text.splitlines() for kit in kits
    )
    changes = [line for line in difflib.ndiff(before, after) if line.startswith(("- ", "+ "))]
    assert [line[2:].strip()[:5] for line in changes if line.startswith("+ ")] == ['"| ki', '"PART']


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_cell_takes_a_name_of_another(tmp_path: Path, name: str) -> None:
    """They share one namespace: a helper that is defined twice would change what the first one means."""
    seen: dict[str, str] = {}
    for cell in json.loads(rendered(tmp_path, name).text)["cells"]:
        if cell["cell_type"] != "code":
            continue
        for node in ast.parse("".join(cell["source"])).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                assert node.name not in seen, f"'{node.name}' is in {seen[node.name]} and in {cell['id']}"
                seen[node.name] = cell["id"]


def test_the_server_template_defines_predict_and_serves_it(tmp_path: Path) -> None:
    """One function under the gateway's name, loading at the first call, and one cell that serves."""
    cells = {
        cell["id"]: "".join(cell["source"]) for cell in json.loads(rendered(tmp_path, "server").text)["cells"]
    }
    code = [text for name, text in cells.items() if name.endswith("-predict") and "def " in text]
    (function,) = [node for node in ast.parse(code[0]).body if isinstance(node, ast.FunctionDef)]
    assert function.name == "predict"
    assert "make_predictor(FUNCTION, kit, context)" in code[0]
    assert any(
        name.endswith("-serve") and text.startswith("result = serve_gateway(predict")
        for name, text in cells.items()
    )
    imports = next(text for name, text in cells.items() if name.endswith("-kit"))
    assert "from offline_kit_runtime.kit_server import make_predictor, serve_gateway\n" in imports
    assert "kit_torch" not in imports


def code_of(folder: Path, framework: str = "sklearn", **settings: Any) -> str:
    """Return the cells of a notebook with one member, without the runtime's."""
    models = (ModelSpec(files="a"),)
    said = NotebookSettings(**{"template": "predict", "task": "tabular", "models": models} | settings)
    member = Member(name="a", framework=framework, path=folder / "a", kit_path="checkpoints/a")
    kit = Kit(folder=folder, id="0" * 64, parts=())
    text = render_notebook(
        kit, said, IMAGE, NotebookTarget(project=folder, name="plants", members=(member,))
    ).text
    cells = [cell for cell in json.loads(text)["cells"] if "_kg_hide-input" not in cell["metadata"]]
    return "\n\n".join("".join(cell["source"]) for cell in cells)


HOOKS = ("TRANSFORM", "TTA", "transform", "tta", "load_hook", "labels", "preprocessing")


@pytest.mark.parametrize("template", ["predict", "server"])
@pytest.mark.parametrize(
    ("settings", "used"),
    [
        ({}, ()),
        ({"task": "images"}, ()),
        ({"transform": "a.py:f"}, ("TRANSFORM", "transform", "load_hook", "preprocessing")),
        ({"tta": "a.py:f"}, ("TTA", "tta", "load_hook", "preprocessing")),
        ({"postprocess": "a.py:f"}, ("load_hook", "preprocessing")),
        ({"params": {"labels": ["a", "b"]}}, ("labels", "preprocessing")),
        (
            {"framework": "transformers", "task": "text", "params": {"text": "body"}},
            ("preprocessing",),
        ),
    ],
)
def test_a_notebook_has_the_hooks_that_it_uses(
    tmp_path: Path, template: str, settings: dict[str, Any], used: tuple[str, ...]
) -> None:
    """No empty setting, no function that is None, no table of preprocessing files where there are none."""
    code = code_of(tmp_path, **{"template": template} | settings)
    assert [word for word in HOOKS if re.search(rf"\b{word}\b", code)] == [
        word for word in HOOKS if word in used
    ]


def test_a_template_of_ones_own_finds_all_hooks(tmp_path: Path) -> None:
    """Its blocks may use them, set or not."""
    (tmp_path / "mine.py.j2").write_text('{% extends "predict.py.j2" %}\n')
    code = code_of(tmp_path, template="mine.py.j2")
    assert [word for word in HOOKS if re.search(rf"\b{word}\b", code)] == list(HOOKS)


def test_a_template_of_the_users_may_extend_the_server(tmp_path: Path) -> None:
    """The blocks are those of the built-in one, and its runtime comes along."""
    (tmp_path / "mine.py.j2").write_text(
        '{% extends "server.py.j2" %}\n{% block settings %}\n{{ super() }}\nMORE = 1\n{% endblock %}\n'
    )
    kit = Kit(folder=tmp_path, id="0" * 64, parts=())
    settings = NotebookSettings(template="mine.py.j2", function="work.py:Answer")
    text = render_notebook(kit, settings, IMAGE, NotebookTarget(project=tmp_path, name="plants")).text
    assert "MORE = 1" in text
    assert "from offline_kit_runtime.kit_server import make_predictor, serve_gateway\\n" in text


def test_a_server_without_a_function_is_refused(tmp_path: Path) -> None:
    """What answers the batches has to be named."""
    kit = Kit(folder=tmp_path, id="0" * 64, parts=())
    with pytest.raises(UsageError, match="the template 'server' needs 'function'"):
        render_notebook(kit, NotebookSettings(template="server"), IMAGE, NotebookTarget(project=tmp_path))


def run(folder: Path, *words: str) -> dict[str, Any]:
    """Run offline-kit in a project and return its JSON."""
    done = command_line.offline_kit(*words, str(folder), "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_the_notebook_is_rendered_alone(tmp_path: Path) -> None:
    """After a change of params it is rendered for the kit that is there: the kit stays, and twice is the same."""
    (tmp_path / "answer.py").write_text("def answer(context):\n    return []\n")
    config = 'image = "local"\nmodules = ["answer.py"]\n[notebook]\nfunction = "answer.py:answer"\n'
    (tmp_path / "offline-kit.toml").write_text(config)
    kit = run(tmp_path, "build")["kit"]
    dist = tmp_path / "dist" / "offline-kit"
    before = {path: path.read_bytes() for path in (dist / "dataset").rglob("*") if path.is_file()}
    (tmp_path / "offline-kit.toml").write_text(f"{config}[notebook.params]\nfolds = 5\n")
    planned = run(tmp_path, "notebook", "--dry-run")
    assert (planned["changed"], planned["dry_run"]) == (True, True)
    assert "folds" not in (dist / "notebook" / rendering.CODE_FILE).read_text()
    first = run(tmp_path, "notebook")
    assert first["changed"] is True
    assert first["kit"] in json.dumps(kit)
    assert '\\"folds\\": 5' in (dist / "notebook" / rendering.CODE_FILE).read_text()
    assert run(tmp_path, "notebook")["changed"] is False
    assert {path: path.read_bytes() for path in before} == before
    aside = tmp_path / "aside"
    run(tmp_path, "notebook", "--into", str(aside))
    elsewhere = command_line.offline_kit("notebook", "--to", "local", str(tmp_path), cwd=tmp_path)
    assert (elsewhere.returncode, (tmp_path / "local").exists()) == (2, False), "--to names a Kaggle"
    assert (aside / rendering.CODE_FILE).read_bytes() == (
        dist / "notebook" / rendering.CODE_FILE
    ).read_bytes()
