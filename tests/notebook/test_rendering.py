"""The rendered notebook: valid, the same twice, free of this machine, and it runs."""

import ast
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline_kit.core.errors import ProjectError, UsageError
from offline_kit.notebook.rendering import NotebookTarget, kernel_metadata, render_notebook
from offline_kit.notebook.scripts import python_literal, to_notebook
from offline_kit.project import kaggle_names
from offline_kit.project.accelerators import find_machine_shape
from offline_kit.project.config_keys import KEYS, MODEL_KEYS
from offline_kit.project.types import Kit, NotebookSettings, Role
from tests.support.kits import Workshop
from tests.support.rendering import IMAGE, code_cells, kit_of, run_cells, target

LIGHTNING = NotebookSettings(model="plants:Lit", data="src/data.py:Data")
FUNCTION = NotebookSettings(template="function", function="work.py:main")


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    workshop = Workshop()
    workshop.add_wheel("alpha", "1.0+cu1")
    workshop.add_sdist()
    workshop.add("checkpoints/epoch=4.ckpt", b"x" * 1500, "checkpoint")
    return kit_of(workshop, tmp_path)


@pytest.mark.parametrize("settings", [LIGHTNING, FUNCTION], ids=["lightning", "function"])
def test_a_notebook_is_valid_and_every_cell_parses(
    kit: Kit, tmp_path: Path, settings: NotebookSettings
) -> None:
    """It is nbformat 4.5 with the kernelspec that papermill wants, and Python throughout."""
    rendered = render_notebook(kit, settings, IMAGE, target(tmp_path))
    notebook: Any = nbformat.from_dict(json.loads(rendered.text))  # type: ignore[no-untyped-call]
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in code_cells(rendered):
        ast.parse("".join(cell["source"]), feature_version=(3, 10))
        assert "offline_kit." not in "".join(cell["source"]), "nothing imports the tool"


@pytest.mark.parametrize("settings", [LIGHTNING, FUNCTION], ids=["lightning", "function"])
def test_a_script_is_the_notebook_as_percent_cells(
    kit: Kit, tmp_path: Path, settings: NotebookSettings
) -> None:
    """With one key the same cells are a script of plain Python, under a name and a type of its own."""
    notebook = render_notebook(kit, settings, IMAGE, target(tmp_path))
    script = render_notebook(
        kit, dataclasses.replace(settings, kernel_type="script"), IMAGE, target(tmp_path)
    )
    ast.parse(script.text, feature_version=(3, 10))
    assert to_notebook(script.text) == notebook.text
    changed = {key for key in script.metadata if script.metadata[key] != notebook.metadata[key]}
    assert changed == {"code_file", "kernel_type"}
    assert set(script.file_texts()) == {"inference.py", "kernel-metadata.json", "rendered.sha256"}


def test_the_same_input_gives_the_same_bytes(kit: Kit, tmp_path: Path) -> None:
    """Neither time nor place nor chance is in a notebook, and cell ids are stable."""
    one = render_notebook(kit, LIGHTNING, IMAGE, target(tmp_path))
    moved = dataclasses.replace(kit, folder=tmp_path / "elsewhere")
    two = render_notebook(moved, LIGHTNING, IMAGE, target(tmp_path / "other"))
    assert one == two
    assert str(tmp_path) not in one.text
    assert [cell["id"] for cell in json.loads(one.text)["cells"][1:5]] == [
        "02-the-kit-found-checked-installed",
        "03-bootstrap",
        "04-kit",
        "05-what-this-notebook-was-made-from",
    ]


def test_the_title_cell_says_what_it_is(kit: Kit, tmp_path: Path) -> None:
    """Kit id, project, image, packages and checkpoints stand at the top."""
    text = "".join(
        json.loads(render_notebook(kit, LIGHTNING, IMAGE, target(tmp_path)).text)["cells"][0]["source"]
    )
    for words in (
        f"`{kit.id[:12]}`",
        "plants 1.2",
        "An image, Python 3.13.5, CPU",
        "alpha 1.0+cu1, fromsource 2.0",
    ):
        assert words in text
    assert "`epoch=4.ckpt` (1.5 kB)" in text


def test_a_wheel_whose_name_has_no_version_is_not_among_the_packages(kit: Kit, tmp_path: Path) -> None:
    """Its notebook is written all the same."""
    (part,) = kit.parts
    wheel = next(entry for entry in part.entries if entry.role is Role.WHEEL)
    entries = (*part.entries, dataclasses.replace(wheel, original="packages/plain.whl"))
    odd = dataclasses.replace(kit, parts=(dataclasses.replace(part, entries=entries),))
    text = "".join(
        json.loads(render_notebook(odd, LIGHTNING, IMAGE, target(tmp_path)).text)["cells"][0]["source"]
    )
    assert "alpha 1.0+cu1, fromsource 2.0" in text
    assert "plain" not in text


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_values_are_written_as_python(value: Any) -> None:
    """Whatever a configuration holds comes back from the notebook unchanged."""
    assert ast.literal_eval(python_literal(value)) == value


WORK = b"""
import alpha

def main(context):
    names = (context.input / "test.txt").read_text().split()
    label = f"{alpha.VERSION} {context.params['word']} {context.device}"
    if context.deadline:
        label += f" {0 < context.seconds_left < 9 * 3600 - 600}"
    return [{"id": name, "label": label} for name in names]
"""


@pytest.mark.parametrize(("layout", "reserve"), [("competitions/leaves", 0), ("leaves", 600)])
def test_the_function_template_runs(tmp_path: Path, layout: str, reserve: int) -> None:
    """A function of one file gets the context and writes a submission that is checked."""
    workshop = Workshop()
    workshop.add_wheel("alpha")
    workshop.add("code/work.py", WORK, "source")
    workshop.plan["roots"] = ["."]
    (tmp_path / "input" / layout).mkdir(parents=True)
    (tmp_path / "input" / layout / "test.txt").write_text("a b")
    (tmp_path / "input" / layout / "sample_submission.csv").write_text("id,label\na,0\nb,0\n")
    settings = dataclasses.replace(FUNCTION, params={"word": "hello"}, time_reserve=reserve)
    rendered = render_notebook(
        kit_of(workshop, tmp_path), settings, IMAGE, target(tmp_path, competition="leaves")
    )
    said = run_cells(rendered, tmp_path)
    assert "submission: agrees with 'sample_submission.csv'" in said, said
    words = "1.0 hello cpu" + " True" * bool(reserve)
    assert (tmp_path / "working/submission.csv").read_text() == f"id,label\na,{words}\nb,{words}\n"


LIT = b"""
import torch

class Lit(torch.nn.Module):
    def __init__(self, width, scale=1.0):
        super().__init__()
        self.layer = torch.nn.Linear(1, width, bias=False)
        self.scale = scale

    def forward(self, x):
        return self.layer(x) * self.scale

class Data:
    def __init__(self, root, batch_size=2):
        self.ids, self.batch_size = (root / "test.txt").read_text().split(), batch_size

    def predict_dataloader(self):
        for start in range(0, len(self.ids), self.batch_size):
            yield torch.ones(len(self.ids[start : start + self.batch_size]), 1)

    def submission(self, predictions):
        return [{"id": name, "label": row[0].item()} for name, row in zip(self.ids, predictions, strict=True)]
"""


@pytest.mark.parametrize(("reserve", "label"), [(0, 5.0), (60, 5.0), (9 * 3600 - 0.01, 2.0)])
def test_the_lightning_template_runs_and_averages(tmp_path: Path, reserve: Any, label: float) -> None:
    """Two checkpoints of a class in a loose file give the mean of their predictions, in order; without time the first."""
    torch: Any = pytest.importorskip("torch")
    workshop = Workshop()
    workshop.add("code/src/lit.py", LIT, "source")
    workshop.plan["roots"] = ["src"]
    for number, weight in enumerate((1.0, 4.0)):
        saved = {
            "state_dict": {"layer.weight": torch.full((1, 1), weight)},
            "hyper_parameters": {"width": 1, "lr": 1},
        }
        torch.save(saved, tmp_path / "fold.ckpt")
        workshop.add(
            f"checkpoints/fold{number}/best.ckpt", (tmp_path / "fold.ckpt").read_bytes(), "checkpoint"
        )
    data = tmp_path / "input/competitions/leaves"
    data.mkdir(parents=True)
    (data / "test.txt").write_text("a b c")
    settings = NotebookSettings(
        model="src/lit.py:Lit",
        data="lit:Data",
        params={"scale": 2.0, "batch_size": 1},
        time_reserve=reserve,
    )
    rendered = render_notebook(
        kit_of(workshop, tmp_path), settings, IMAGE, target(tmp_path, competition="leaves")
    )
    said = run_cells(rendered, tmp_path)
    rows = "".join(f"{name},{label}\n" for name in "abc")
    assert (tmp_path / "working/submission.csv").read_text() == f"id,label\n{rows}", said
    assert ("fold1/best.ckpt: 3 batches" in said, "1 of 2 models" in said) == (label == 5.0, label != 5.0)


def test_a_project_without_code_gets_a_notebook_that_says_what_is_missing(kit: Kit, tmp_path: Path) -> None:
    """The template `plain` restores the kit and names the settings that would make it predict."""
    text = render_notebook(kit, NotebookSettings(template="plain"), IMAGE, target(tmp_path)).text
    assert "does not predict yet" in text
    assert "kit.install()" in text


def test_own_templates_extend_ours(kit: Kit, tmp_path: Path) -> None:
    """A file of the user's takes a block of a built-in template and leaves the rest."""
    (tmp_path / "mine.py.j2").write_text(
        '{% extends "lightning.py.j2" %}\n{% block work %}\n# %% mine\nresult = {{ settings.params | py }}\n{% endblock %}\n'
    )
    settings = dataclasses.replace(LIGHTNING, template="mine.py.j2", params={"a": 1})
    cells = code_cells(render_notebook(kit, settings, IMAGE, target(tmp_path)))
    assert ["".join(cell["source"]) for cell in cells if cell["metadata"]["title"] == "mine"] == [
        'result = {"a": 1}'
    ]


def test_an_own_template_may_have_params_of_its_own(kit: Kit, tmp_path: Path) -> None:
    """The built-in template refuses params that neither model nor data take; one that extends it may read them."""
    (tmp_path / "mine.py.j2").write_text(
        '{% extends "lightning.py.j2" %}\n{% block submit %}\n# %% clip\nprint(PARAMS["clip"])\n{% endblock %}\n'
    )
    own = dataclasses.replace(LIGHTNING, template="mine.py.j2", params={"clip": 1})
    assert "check_params(" in render_notebook(kit, LIGHTNING, IMAGE, target(tmp_path)).text
    assert "check_params(" not in render_notebook(kit, own, IMAGE, target(tmp_path)).text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# %%\n{{ nothing }}\n", r"own\.py\.j2, line 2: 'nothing' is undefined"),
        ("# %%\n{{ titel | py }}\n", r"own\.py\.j2, line 2: 'titel' is undefined"),
        ("# %%\n# {{ imag.title | line }}\n", r"own\.py\.j2, line 2: 'imag' is undefined"),
        ('{% extends "lightning.py.j2" %}\n{% block wrok %}{% endblock %}', "did you mean 'work'"),
        ("# %%\n\n{% if %}\n", r"own\.py\.j2, line 3"),
        ("# %%\n{{ title + 1 }}\n", r"own\.py\.j2, line 2: can only concatenate"),
        ('{% extends "own.py.j2" %}', "recursion"),
        ('{% extends "bse.py.j2" %}', "'bse.py.j2' not found"),
        ("# %% first\nx = 1\n# %% second\ny = = 2\n", "cells that are not Python"),
        ("# %%\n!pip install x\n", "cells that are not Python"),
    ],
)
def test_errors_in_own_templates_name_the_line(kit: Kit, tmp_path: Path, text: str, words: str) -> None:
    """Undefined names, jinja's syntax and Python's are told with file and line."""
    (tmp_path / "own.py.j2").write_text(text)
    with pytest.raises(ProjectError, match=words) as caught:
        render_notebook(kit, dataclasses.replace(LIGHTNING, template="own.py.j2"), IMAGE, target(tmp_path))
    assert all(re.match(r"cell \d( 'second')?, line 1: .*(= =|!pip)", line) for line in caught.value.details)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (NotebookSettings(template="lightnin"), "did you mean 'lightning'"),
        (NotebookSettings(data="a:B"), "needs 'model'"),
        (NotebookSettings(template="function"), "needs 'function'"),
        (dataclasses.replace(LIGHTNING, params={"x": float("nan")}), "'x' has a value"),
        (dataclasses.replace(LIGHTNING, submission="out/x.csv"), "not a plain file name"),
        (dataclasses.replace(LIGHTNING, time_reserve=9 * 3600), "not less than the 32400 s"),
        (NotebookSettings(template="plain", time_reserve=60), "predicts nothing"),
        (dataclasses.replace(LIGHTNING, title="short"), "refuse the notebook's name"),
        (
            dataclasses.replace(LIGHTNING, title="A good title", slug="another-slug"),
            "refuse the notebook's name",
        ),
        (dataclasses.replace(LIGHTNING, slug="plants-kit"), "both be called 'plants-kit'"),
        (dataclasses.replace(LIGHTNING, pin_image=True), "no digest is known"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    kit: Kit, tmp_path: Path, settings: NotebookSettings, words: str
) -> None:
    """What Kaggle or the template would choke on is an error at build, with what to write instead."""
    with pytest.raises(UsageError, match=words):
        render_notebook(kit, settings, IMAGE, target(tmp_path))


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("dataset:me/x", True),
        ("dataset:My_Self/some-data_2", True),
        ("dataset:x", False),
        ("dataset:datasets/me/x", False),
        ("dataset:mé/x", False),
        ("notebook:me/other-notebook", True),
        ("notebook:me/four", False),
        ("notebook:me/other-notebook/0", False),
        ("notebook:code/me/other-notebook", False),
        ("model:me/net/pyTorch/base.v1/3", True),
        ("model:me/net/pyTorch/base/0", False),
        ("model:me/net/pyTorch/base/03", False),
        ("model:me/net/pyTorch/base", False),
    ],
)
def test_one_form_of_each_source(kit: Kit, tmp_path: Path, name: str, good: bool) -> None:
    """A source is one, or none, wherever it is named: in `copies`, in an ensemble's `from`, or attached."""
    kind, _, ref = name.partition(":")
    attached: dict[str, Any] = {kaggle_names.METADATA_KEYS[kind]: (ref,)}
    settings = dataclasses.replace(LIGHTNING, **attached)
    assert (MODEL_KEYS["from"].check(name) == "") is good
    assert (KEYS["copies"].check({name: "folder"}) == "") is good
    if good:
        assert str(kaggle_names.parse_source(name)) == name
        assert (
            ref in kernel_metadata(kit, settings, IMAGE, target(tmp_path))[kaggle_names.METADATA_KEYS[kind]]
        )
        return
    with pytest.raises(UsageError) as caught:
        kaggle_names.parse_source(name)
    assert caught.value.code == "source-invalid"
    with pytest.raises(UsageError, match="refuse sources"):
        kernel_metadata(kit, settings, IMAGE, target(tmp_path))


def test_lightning_without_checkpoints_is_refused(tmp_path: Path) -> None:
    """A model without weights predicts noise; a function may do without."""
    kit = kit_of(Workshop(), tmp_path)
    render_notebook(kit, FUNCTION, IMAGE, target(tmp_path))
    with pytest.raises(UsageError, match="needs a checkpoint"):
        render_notebook(kit, LIGHTNING, IMAGE, target(tmp_path))


def test_metadata_is_what_kaggle_wants(kit: Kit, tmp_path: Path) -> None:
    """Private, internet off, the kit and the competition attached; the owner comes with the push."""
    settings = dataclasses.replace(
        LIGHTNING, kernel_sources=("me/other-notebook", "me/other-notebook/4"), pin_image=True
    )
    image = dataclasses.replace(IMAGE, digest="gcr.io/kaggle-images/python@sha256:abc")
    found = kernel_metadata(kit, settings, image, target(tmp_path, competition="leaves", accelerator="t4x2"))
    assert found == {
        "id": "plants-inference",
        "title": "plants inference",
        "code_file": "inference.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": True,
        "enable_tpu": False,
        "enable_internet": False,
        "keywords": [],
        "dataset_sources": ["plants-kit"],
        "competition_sources": ["leaves"],
        "kernel_sources": ["me/other-notebook", "me/other-notebook/4"],
        "model_sources": [],
        "machine_shape": "NvidiaTeslaT4",
        "docker_image": "gcr.io/kaggle-images/python@sha256:abc",
        "docker_image_pinning_type": "original",
    }


def test_only_images_of_kaggle_are_pinned(kit: Kit, tmp_path: Path) -> None:
    """The digest of an image of your own is none that a notebook on Kaggle could run in."""
    image = dataclasses.replace(IMAGE, digest="localhost/mine@sha256:abc")
    with pytest.raises(UsageError) as caught:
        kernel_metadata(kit, dataclasses.replace(LIGHTNING, pin_image=True), image, target(tmp_path))
    assert caught.value.code == "image-digest-unknown"


def test_a_cpu_notebook_names_no_machine(kit: Kit, tmp_path: Path) -> None:
    """Without accelerator there is neither a GPU nor a machine shape, and no image is pinned unasked."""
    found = kernel_metadata(kit, LIGHTNING, IMAGE, target(tmp_path))
    assert not found["enable_gpu"]
    assert not {"machine_shape", "docker_image"} & set(found)


def test_a_split_kit_attaches_every_part(tmp_path: Path) -> None:
    """Each part has a dataset of its own, named after the configured one."""
    kit = kit_of(Workshop(), tmp_path, ("checkpoints", "packages"))
    found = kernel_metadata(kit, FUNCTION, IMAGE, target(tmp_path, dataset="me/plants"))
    assert found["dataset_sources"] == ["me/plants-checkpoints", "me/plants-packages"]
    text = render_notebook(kit, FUNCTION, IMAGE, target(tmp_path)).text
    assert all(f"`{part.id[:12]}`" in text for part in kit.parts)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"dataset": "a"}, "'a' has 1 characters"),
        ({"dataset": "me/My Kit!"}, "'My Kit!'"),
        ({"dataset": "me/you/plants"}, "not 'slug' or 'owner/slug'"),
        ({"competition": "Leaf Counting"}, "competition 'Leaf Counting' is no slug"),
    ],
)
def test_names_that_kaggle_refuses_are_told_at_build(
    kit: Kit, tmp_path: Path, more: dict[str, str], words: str
) -> None:
    """A dataset or a competition under an impossible name is found before the upload, not by it."""
    with pytest.raises(UsageError) as caught:
        kernel_metadata(kit, LIGHTNING, IMAGE, target(tmp_path, **more))
    assert words in "\n".join(caught.value.details)


@given(st.text(max_size=80))
def test_any_project_name_gives_a_legal_title(name: str) -> None:
    """The default title fits Kaggle's limits whatever the project is called."""
    kit = Kit(folder=Path(), id="0", parts=())
    found = kernel_metadata(kit, LIGHTNING, IMAGE, NotebookTarget(project=Path("/x/plants"), name=name))
    assert 6 <= len(found["title"]) <= 50
    assert re.fullmatch(r"[a-z0-9-]{6,50}", found["id"])


@pytest.mark.parametrize(
    ("word", "shape"),
    [("none", ""), ("T4x2", "NvidiaTeslaT4"), ("nvidiateslat4", "NvidiaTeslaT4"), ("l4x4", "NvidiaL4")],
)
def test_accelerators_have_kaggles_names(word: str, shape: str) -> None:
    """Usual words and Kaggle's own, in any case, mean a machine shape."""
    assert find_machine_shape(word) == shape


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("p100", "retired"),
        ("t4highmem", "administrators"),
        ("NvidiaTeslaT4Highmem", "administrators"),
        ("TpuV5E8", "TPU"),
        ("t4x3", "did you mean 't4x2'"),
        ("abacus", "unknown"),
    ],
)
def test_accelerators_that_are_not_there_are_refused(word: str, words: str) -> None:
    """Retired, unsupported and unknown machines each have their sentence."""
    with pytest.raises(UsageError, match=words):
        find_machine_shape(word)
