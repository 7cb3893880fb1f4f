"""Each key of a model's own table acts on that model alone, or is refused at build with what would be right."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from offline_kit.checkpoints.frameworks import framework_table
from offline_kit.core.resources import templates_folder
from offline_kit.project.types import Member, ModelSpec
from tests.support import command_line
from tests.support.lazy_modules import joblib, torch
from tests.support.lazy_modules import pandas as pd
from tests.support.predicting import Stage

NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self, width=3, activation="", max_length=1, **more):
        super().__init__()
        assert not activation and not more, (activation, more)
        self.layer = torch.nn.Linear(2, width)
        self.scale = max_length

    def forward(self, x):
        return self.layer(x) * self.scale

def plain(width, depth=1):
    return Net(width)
"""
HOOKS = """
def halved(table, params):
    return table[["a", "b"]] / params["by"]

def words(texts):
    return [[len(each), each.count("a")] for each in texts]

def arrays(texts):
    import numpy as np

    return np.array(words(texts), dtype="float32")
"""
N = 7


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """Make a project with the code and the data of a table of two numbers and two texts."""
    made = Stage(tmp_path)
    made.code.update({"net.py": NET, "hooks.py": HOOKS})
    (made.project / "models").mkdir()
    rows = pd.DataFrame({"id": range(N), "a": [n / 10 for n in range(N)], "b": [n % 3 for n in range(N)]})
    rows.to_csv(made.data / "test.csv", index=False)
    rows[["id"]].assign(x=0, y=0, z=0).to_csv(made.data / "sample_submission.csv", index=False)
    return made


def net(seed: int, width: int = 3) -> Any:
    scope: dict[str, Any] = {"__name__": "net"}
    exec(NET, scope)
    torch.manual_seed(seed)
    return scope["Net"](width).eval()


def spec(files: str, **more: Any) -> ModelSpec:
    return ModelSpec(files=f"models/{files}", **more)


def rows_of(stage: Stage) -> Any:
    return torch.tensor(pd.read_csv(stage.data / "test.csv")[["a", "b"]].to_numpy("float32"))


def test_members_differ_in_activation_loading_and_arguments(stage: Stage) -> None:
    """Softmax of one, sigmoid of another, the third as it is; each loaded and made as its own table says."""
    a, b, c = net(1), net(2), net(3)
    place = stage.project / "models"
    torch.save({"state_dict": a.state_dict(), "ema": net(9).state_dict()}, place / "a.pt")
    torch.save({"ema": b.state_dict(), "state_dict": net(9).state_dict(), "day": Path("x")}, place / "b.pt")
    torch.save(c.state_dict(), place / "c.pt")
    models = (
        spec("a.pt", model="net.py:Net", params={"activation": "softmax"}),
        spec(
            "b.pt",
            model="net.py:Net",
            params={"activation": "sigmoid", "weights": "ema", "weights_only": False},
        ),
        spec("c.pt", model="net.py:Net", params={"activation": "", "max_length": 4}, weight=2.0),
    )
    said = stage.run(stage.notebook(task="tabular", models=models, params={"activation": "softmax"}))
    assert "agrees with" in said, said
    x = rows_of(stage)
    with torch.inference_mode():
        total = torch.softmax(a(x), -1) + torch.sigmoid(b(x)) + 2 * 4 * c(x)
    made = stage.submission()[["x", "y", "z"]].to_numpy()
    assert made == pytest.approx((total / 4).numpy(), abs=1e-6)


def test_members_differ_in_transform_batch_size_and_labels(stage: Stage) -> None:
    """One reads the table in its own way and size, and calls its columns by other names than the first."""
    from sklearn.linear_model import LogisticRegression

    table_ = pd.read_csv(stage.data / "test.csv")[["a", "b"]]
    names = ["z", "x", "y", "z", "x", "y", "x"]
    model = LogisticRegression().fit(table_, names)
    other = net(4)
    joblib.dump(model, stage.project / "models" / "a.joblib")
    torch.save(other.state_dict(), stage.project / "models" / "b.pt")
    models = (
        spec("a.joblib"),
        spec(
            "b.pt",
            model="net.py:Net",
            transform="hooks.py:halved",
            batch_size=2,
            params={"activation": "softmax", "labels": ["z", "y", "x"]},
        ),
    )
    said = stage.run(stage.notebook(task="tabular", models=models, params={"by": 2}))
    assert "agrees with" in said, said
    with torch.inference_mode():
        theirs = torch.softmax(other(rows_of(stage) / 2), -1).numpy()[:, ::-1]
    expected = (model.predict_proba(table_) + theirs) / 2
    assert stage.submission()[["x", "y", "z"]].to_numpy() == pytest.approx(expected, abs=1e-6)
    assert "the columns of 'b.pt' are taken in the order" not in said


def test_members_differ_in_the_column_of_the_texts(stage: Stage) -> None:
    """Each model reads its own column, through its own function."""
    from sklearn.linear_model import LinearRegression

    texts = pd.DataFrame({"id": range(4), "title": ["a", "bb", "aba", ""], "body": ["x", "aa", "b", "caaa"]})
    texts.to_csv(stage.data / "test.csv", index=False)
    texts[["id"]].assign(score=0).to_csv(stage.data / "sample_submission.csv", index=False)
    counted = [[len(each), each.count("a")] for each in texts["title"]]
    model = LinearRegression().fit(counted, [1.0, 0.0, 2.0, 5.0])
    joblib.dump(model, stage.project / "models" / "a.joblib")
    other = net(5, 1)
    torch.save(other.state_dict(), stage.project / "models" / "b.pt")
    models = (
        spec("a.joblib", transform="hooks.py:words", params={"text": "title"}),
        spec("b.pt", model="net.py:Net", transform="hooks.py:arrays", params={"text": "body", "width": 1}),
    )
    said = stage.run(stage.notebook(task="text", models=models))
    assert "agrees with" in said, said
    theirs = torch.tensor([[len(each), each.count("a")] for each in texts["body"]], dtype=torch.float32)
    with torch.inference_mode():
        expected = (model.predict(counted) + other(theirs).numpy()[:, 0]) / 2
    assert stage.submission()["score"].to_numpy() == pytest.approx(expected, abs=1e-6)


def test_a_served_ensemble_has_members_that_differ(stage: Stage) -> None:
    """Behind a gateway too, each model gets the batch prepared in its own way, and its own activation."""
    a, b = net(1), net(2)
    torch.save(a.state_dict(), stage.project / "models" / "a.pt")
    torch.save(b.state_dict(), stage.project / "models" / "b.pt")
    models = (
        spec("a.pt", model="net.py:Net", params={"activation": "sigmoid", "labels": ["x", "y", "z"]}),
        spec("b.pt", model="net.py:Net", transform="hooks.py:halved", params={"labels": ["y", "x", "z"]}),
    )
    rendered = stage.notebook(template="server", task="tabular", models=models, params={"by": 4})
    found = json.loads(rendered.text)
    for cell in found["cells"]:
        if "result = serve_gateway(" in "".join(cell["source"]):
            cell["source"] = (
                "import pandas as pd\n"
                "test = pd.read_csv(root / 'test.csv')\n"
                "result = pd.concat([predict(test[:3]), predict(test[3:])])\n"
                "kit.places.working.mkdir(exist_ok=True)\n"
                "result.to_csv(kit.places.working / 'submission.csv', index=False)\n"
                "result = kit.places.working / 'submission.csv'\n"
            )
    said = stage.run(replace(rendered, text=json.dumps(found)))
    assert "agrees with" in said, said
    x = rows_of(stage)
    with torch.inference_mode():
        expected = (torch.sigmoid(a(x)) + b(x / 4)[:, [1, 0, 2]]) / 2
    assert stage.submission()[["x", "y", "z"]].to_numpy() == pytest.approx(expected.numpy(), abs=1e-6)


CONFIG = """
image = "local"
checkpoints = ["models"]
{top}
[notebook]
task = "tabular"
{notebook}
[[notebook.models]]
{entry}
"""


def build(stage: Stage, entry: str, notebook: str = "", top: str = "") -> tuple[int, str]:
    """Build a project with one entry of `models` by the command line; return the code and what was said."""
    for name, text in stage.code.items():
        (stage.project / name).write_text(text)
    (stage.project / "requirements.in").touch()
    (stage.project / "offline-kit.toml").write_text(CONFIG.format(entry=entry, notebook=notebook, top=top))
    done = command_line.offline_kit("build", "--dry-run", str(stage.project))
    return done.returncode, " ".join(done.stderr.split())


WRONG = [
    ('files = "models/a.joblib"\nparams = { activation = "softmax" }', "`activation` has no effect"),
    ('files = "models/a.joblib"\nparams = { batch_size = 4 }', "`batch_size` belongs next to `files`"),
    ('files = "models/a.joblib"\nparams = { text = "body" }', "only applies to texts"),
    ('files = "models/a.joblib"\nparams = { ensemble = "mean" }', "`ensemble` is for the whole notebook"),
    ('files = "models/a.joblib"\nparams = { test = "x.csv" }', "`test` is for the whole notebook"),
    ('files = "models/a.joblib"\nmodel = "net.py:Net"', "`model` has no effect"),
    ('files = "models/a.joblib"\nactivation = "softmax"', "unknown key 'activation': set it in its `params`"),
    (
        'files = "models/a.joblib"\ntta = "hooks.py:words"',
        "unknown key 'tta': set it in [notebook], for all models",
    ),
    ('files = "models/a.joblib"\nbatchsize = 3', "did you mean 'batch_size'"),
    (
        'files = "models/b.pt"\nmodel = "net.py:plain"\nparams = { width = 3, dept = 2 }',
        "did you mean 'depth'",
    ),
    ('files = "models/b.pt"\nmodel = "net.py:plain"\nparams = { width = 3, trusted = ["a"] }', "`trusted`"),
    (
        'files = "models/b.pt"\nmodel = "net.py:Net"\nparams = { activation = "relu" }',
        "activation must be one of",
    ),
    (
        'files = "models/b.pt"\nmodel = "net.py:Net"\nparams = { activation = "softmax" }',
        "a parameter of its `model`",
    ),
    (
        'files = "models/b.pt"\nmodel = "net.py:plain"\nparams = { width = 3, weights_only = "false" }',
        "weights_only must be",
    ),
    ('files = "models/b.pt"\nmodel = "net.py:plain"\nparams = { width = 2026-01-01 }', "cannot hold"),
]


@pytest.mark.parametrize(("entry", "words"), WRONG, ids=[words for _, words in WRONG])
def test_what_would_do_nothing_is_refused_at_build(stage: Stage, entry: str, words: str) -> None:
    """A key of a model's table that would be ignored, or mean something else, ends a build with what is right."""
    from sklearn.linear_model import LogisticRegression

    joblib.dump(LogisticRegression().fit([[0, 0], [1, 1]], [0, 1]), stage.project / "models" / "a.joblib")
    torch.save(net(1).state_dict(), stage.project / "models" / "b.pt")
    code, said = build(stage, entry)
    assert (code, words in said) == (2, True), said


def test_a_param_of_the_notebook_that_nothing_reads_is_refused(stage: Stage) -> None:
    """One that a framework, a constructor or a function of the project reads is taken."""
    torch.save(net(1).state_dict(), stage.project / "models" / "b.pt")
    entry = 'files = "models/b.pt"\nmodel = "net.py:plain"\nparams = { width = 3 }'
    assert build(stage, entry, "params = { depth = 1 }")[0] == 0
    code, said = build(stage, entry, "params = { deph = 1 }")
    assert (code, "did you mean 'depth'" in said) == (2, True), said
    assert build(stage, entry, 'params = { deph = 1 }\ntransform = "hooks.py:halved"')[0] == 0


@pytest.mark.parametrize("framework", framework_table.FRAMEWORKS, ids=lambda each: each.name)
def test_a_framework_says_which_params_its_cell_reads(framework: Any) -> None:
    """The list that a build goes by is what stands in the cell."""
    text = (templates_folder() / "frameworks" / f"{framework.name}.py.j2").read_text()
    read = set(re.findall(r"member\.(?:params\.)?get\(\s*\"(\w+)\"", text))
    read |= set(re.findall(r"settings\.get\(\"(\w+)\"", text))
    assert set(framework.param_names) == read
    member = Member(name="a", framework=framework.name, path=Path("a"), kit_path="a", model="net.py:Net")
    assert ("member.arguments" in text) == framework.takes_arguments(member)
    assert ("member.model" in text) == framework.takes_model
