"""Kinds of notebooks through the command line: each thing becomes a right result or a named question."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.support import command_line
from tests.support.adopting import notebook_of, put, run

CASES: list[tuple[str, tuple[str, ...], list[str], set[str]]] = [
    # name, cells (with files of the project before "|"), requirements, what is asked for
    ("own script", ("%%writefile kit_bits.py\nX = 1", "from kit_bits import X"), [], set()),
    ("script by open", ("open('kit_bits.py', 'w').write('X = 1')\nimport kit_bits",), [], set()),
    ("script that is run", ("%%writefile go.py\nimport ttach", "!python go.py"), ["ttach"], set()),
    ("copied module", ("!cp /kaggle/input/mine/kit_bits.py .\nimport kit_bits",), [], {"mine"}),
    ("moved by shutil", ("import shutil\nshutil.copy('/kaggle/input/mine/a_b.py', 'a_b.py')\nimport a_b",), [], {"mine"}),
    ("folder on the path", ("import sys\nsys.path.append('/kaggle/input/mine')\nimport utils",), [], {"mine"}),
    ("folder by PYTHONPATH", ("%env PYTHONPATH=/kaggle/input/mine\nimport utils",), [], {"mine"}),
    ("nobody's name", ("import common_things",), [], {"common_things"}),
    ("table", ("import ttach, iterstrat",), ["ttach", "iterative-stratification"], set()),
    ("wheels of the inputs", ("!pip install --no-index --find-links=/kaggle/input/w ttach\nimport ttach",), [], {"w"}),
    ("a wheel of the inputs", ("!pip install /kaggle/input/w/ttach-0.0.2-py3-none-any.whl\nimport ttach",), [], {"w"}),
    ("option first", ("!pip -q install ttach\nimport ttach",), ["ttach"], set()),
    ("python and option", ("!python -m pip --quiet install ttach",), ["ttach"], set()),
    ("names in a variable", ("P = 'ttach einops'\n!pip install {P}",), ["ttach", "einops"], set()),
    ("dollar", ("P = 'ttach einops'\n!pip install $P",), ["ttach", "einops"], set()),
    ("joined list", ("P = ['ttach', 'einops']\n!pip install {' '.join(P)}",), ["ttach", "einops"], set()),
    ("loop", ("import os\nfor p in ['ttach', 'einops']:\n    os.system(f'pip install {p}')",), ["ttach", "einops"], set()),
    (
        "helper",
        ("import os\ndef need(p):\n    os.system('pip install ' + p)\nfor n in ('ttach', 'einops'):\n    need(n)",),
        ["ttach", "einops"],
        set(),
    ),
    (
        "list with a star",
        ("import subprocess\nP = ['ttach']\nsubprocess.run(['pip', 'install', '-q', *P])",),
        ["ttach"],
        set(),
    ),
    ("unknown package", ("import os\nos.system('pip install ' + pick())",), [], {"pip install '*'"}),
    (
        "page of links",
        ("!pip install -f https://example.org/whl.html torch-scatter",),
        ["--find-links https://example.org/whl.html", "torch-scatter"],
        set(),
    ),
    (
        "index and local version",
        ("!pip install --index-url https://example.org/cpu 'torch==2.6.0+cpu'",),
        ["--extra-index-url https://example.org/cpu", "torch==2.6.0+cpu"],
        set(),
    ),
    ("joined path", ("import os\np = os.path.join('/kaggle', 'input', 'mine', 'a.txt')",), [], {"mine"}),
    ("path object", ("from pathlib import Path\nR = Path('/kaggle')\np = R / 'input' / 'mine' / 'a.txt'",), [], {"mine"}),
    ("pattern", ("import glob\nglob.glob('/kaggle/input/*/a*.txt')",), [], {"*"}),
    ("pattern of a path", ("from pathlib import Path\nfor p in Path('/kaggle/input').glob('mine/*.txt'): pass",), [], {"mine"}),
    ("pattern below a path", ("from pathlib import Path\nR = Path('/kaggle/input')\nR.joinpath('mine').rglob('*.txt')",), [], {"mine"}),
    ("module by its name", ("import importlib\nu = importlib.import_module('train_utils.a')",), [], {"train_utils"}),
    ("vllm", ("from vllm import LLM\nm = LLM(model='o/m')",), ["vllm"], {"o/m"}),
    (
        "unsloth",
        ("from unsloth import FastLanguageModel\nm = FastLanguageModel.from_pretrained(model_name='o/m')",),
        ["unsloth"],
        {"o/m"},
    ),
    ("adapter", ("from peft import PeftModel\nm = PeftModel.from_pretrained(base, 'o/m')",), [], {"o/m"}),
    ("preset", ("import keras_hub\nm = keras_hub.models.A.from_preset('small_en')",), [], {"small_en"}),
    ("preset of Kaggle", ("import keras_hub\nm = keras_hub.models.A.from_preset('kaggle://k/a/keras/b/2')",), [], set()),
    ("preset of the hub", ("import keras_hub\nm = keras_hub.models.A.from_preset('hf://o/m')",), [], {"hf://o/m"}),
    (
        "client of Kaggle",
        ("from kaggle.api.kaggle_api_extended import KaggleApi\napi = KaggleApi()\napi.dataset_download_files('o/d')",),
        [],
        {"o/d"},
    ),
    ("one of two ids", ("from transformers import AutoModel\nfor n in ['o/a', 'o/b']:\n    AutoModel.from_pretrained(n)",),
     [], {"o/a", "o/b"}),
    ("model", ("m = '/kaggle/input/gem/transformers/2b/3'",), [], {"gem/transformers/2b/3"}),
]  # fmt: skip


def adopted(folder: Path) -> dict[str, Any]:
    """Adopt a notebook and return what is told."""
    return dict(json.loads(run(folder, "adopt", "inference.ipynb", "--write", "--json").stdout))


@pytest.mark.parametrize(
    ("cells", "requirements", "asked"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_each_kind_is_right_or_asked(
    tmp_path: Path, cells: tuple[str, ...], requirements: list[str], asked: set[str]
) -> None:
    """What a notebook needs is a requirement, its own, or a question that names it."""
    notebook_of(tmp_path, *cells)
    put(tmp_path, "notes.txt")  # called like no input, though some patterns match it
    told = adopted(tmp_path)
    assert told["requirements"] == requirements
    assert {one["value"] for one in told["found"] if one["became"] == "asked"} == asked


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("import os\np = os.path.join('/kaggle', 'input', 'mine', 'a.txt')", "str"),
        ("from pathlib import Path\np = Path('/kaggle') / 'input' / 'mine' / 'a.txt'", "path"),
        ("from pathlib import Path\nR = Path('/kaggle')\np = R / 'input/mine/a.txt'\nw = R / 'working'", "path"),
        ("R = '/kaggle'\np = f'{R}/input/mine/a.txt'\nw = f'{R}/working'", "str"),
        ("R = '/kaggle'\np = R + '/input/' + 'mine' + '/a.txt'", "str"),
        ("import os\np = os.path.join('..', 'input', 'mine', 'a.txt')", "str"),
        ("N = 'a (1).txt'\np = '/kaggle/input/mine/a (1).txt'", "str"),
    ],
)  # fmt: skip
def test_a_path_that_is_put_together_leads_to_what_is_shown(tmp_path: Path, code: str, value: str) -> None:
    """The adopted cell's path is below the folder that shows the kit; outputs still go to the working folder."""
    put(tmp_path, "input/mine/a.txt", "input/mine/a (1).txt")
    notebook_of(tmp_path, code)
    added = [line[1:] for line in adopted(tmp_path)["diff"].splitlines() if line.startswith("+")]
    changed = dict(enumerate(code.split("\n")))
    for number, line in changed.items():
        head = line.partition("=")[0]
        changed[number] = next((new for new in added if new.startswith(head) and "=" in line), line)
    names: dict[str, Any] = {}
    exec("\n".join(changed.values()), names)
    assert (
        Path(str(names["p"])).as_posix().replace("/working/../", "/").startswith("/tmp/kaggle/input/mine/a")
    )
    assert str(names.get("w", "/kaggle/working")) == "/kaggle/working"
    assert isinstance(names["p"], str if value == "str" else Path)


def test_own_modules_and_wheels_are_looked_into(tmp_path: Path) -> None:
    """A module in a copy of an input is found, and what it imports is needed too."""
    put(tmp_path, "input/mine/src/utils.py", text="import ttach\n")
    notebook_of(tmp_path, "import sys\nsys.path.insert(0, '/kaggle/input/mine/src')\nfrom utils import a")
    told = adopted(tmp_path)
    assert (told["requirements"], told["asked"], told["checkpoints"]) == (["ttach"], 0, ["input/mine/src"])


@pytest.mark.parametrize(
    "cell",
    [
        "import shutil\nshutil.rmtree('/kaggle/input', ignore_errors=True)",
        "!umount /kaggle/input/ 2> /dev/null",
        "import os\nos.symlink('/kaggle/input', os.path.join('..', 'input'), target_is_directory=True)",
        "import shutil\nD = '/kaggle/input'\nshutil.rmtree(D)",
        "!rm -rf /kaggle/input",
        "import os\nDATA_SOURCE_MAPPING = 'plants:https%3A%2F%2Fexample.org%2Fa'\nos.makedirs('/kaggle/input')",
    ],
)
def test_importers_of_colab_leave_the_mounts_alone(tmp_path: Path, cell: str) -> None:
    """What would remove or replace the mounts is switched off, and needs nobody."""
    notebook_of(tmp_path, cell)
    told = adopted(tmp_path)
    assert told["asked"] == 0
    assert "switched off" in [one["became"] for one in told["found"]]


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_data_of_the_competition_is_no_checkpoint(tmp_path: Path, *, copied: bool, known: bool) -> None:
    """Told from the notebook's metadata, else from the names of its files."""
    path = notebook_of(tmp_path, "open('/kaggle/input/arc-2024/arc_test_tasks.json')")
    if copied:
        put(tmp_path, "input/arc-2024/arc_test_tasks.json")
    if known:
        whole = json.loads(path.read_text().replace("arc_test_tasks", "tasks"))
        whole["metadata"]["kaggle"] = {"dataSources": [{"sourceId": 1, "sourceType": "competition"}]}
        path.write_text(json.dumps(whole))
    told = adopted(tmp_path)
    assert (told["checkpoints"], told["sources"]["competitions"]) == ([], ["arc-2024"])


ODD: list[Any] = [None, 1, "x", [], {}, [1, None], {"a": 1}, True, "\ud83d\ude00 \u0000"]


def odd_notebooks(count: int) -> list[Any]:
    """Return notebooks with a value of a wrong type, or nothing, at one or two places."""
    chance = random.Random(7)
    found: list[Any] = [
        *ODD,
        {"cells": 1},
        {"worksheets": 3, "nbformat": 3},
        {"nbformat": 4, "cells": [None, 3, {}]},
    ]
    for _ in range(count):
        cell = {
            "cell_type": "code",
            "source": ["import json\n"],
            "metadata": {"tags": []},
            "outputs": [],
            "id": "a",
        }
        whole: dict[str, Any] = {
            "nbformat": 4,
            "nbformat_minor": 5,
            "metadata": {"kernelspec": {"language": "python"}, "language_info": {"name": "python"},
                         "kaggle": {"dataSources": [{"sourceType": "competition"}], "accelerator": "none"}},
            "cells": [cell, {"cell_type": "markdown", "source": "# a", "metadata": {}, "attachments": {}}],
        }  # fmt: skip
        for _ in range(chance.choice([1, 2])):
            place: Any = whole
            while True:
                keys: list[Any] = list(place) if isinstance(place, dict) else list(range(len(place)))
                if not keys:
                    break
                key = chance.choice(keys)
                if isinstance(place[key], dict | list) and place[key] and chance.random() < 0.7:
                    place = place[key]
                    continue
                if isinstance(place, dict) and chance.random() < 0.2:
                    del place[key]
                else:
                    place[key] = chance.choice(ODD)
                break
        found.append(whole)
    return found


def test_malformed_notebooks_end_in_a_sentence(tmp_path: Path) -> None:
    """Whatever JSON says, adopting and rendering it ends well or in an error of ours, never in a traceback."""
    from offline_kit.adopt import adopted_notebook, adoption_plan
    from offline_kit.core.errors import OfflineKitError

    path = tmp_path / "inference.ipynb"
    for whole in odd_notebooks(300):
        path.write_text(json.dumps(whole), encoding="utf-8")
        try:
            proposal = adoption_plan.plan_adoption(path, tmp_path)
            _ = proposal.unified_diff
            adopted_notebook.render_text(proposal.adoption, "# %%\nx = 1\n")
        except OfflineKitError:
            continue


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", 1),
        (b"\xef\xbb\xbf" + json.dumps({"cells": [], "nbformat": 4, "metadata": {}}).encode(), 0),
        (b"\xff\xfe\x00", 1),
        (b"[" * 100_000, 1),
        (json.dumps({"nbformat": 3, "nbformat_minor": 0, "metadata": {},
                     "worksheets": [{"cells": [{"cell_type": "code", "input": "import json", "outputs": [],
                                                "language": "python", "metadata": {}}], "metadata": {}}]}).encode(), 0),
        (json.dumps({"cells": [{"cell_type": "heading", "source": "a"}, {"cell_type": "code"}],
                     "metadata": {"kernelspec": "python"}, "nbformat": 4}).encode(), 0),
    ],
)  # fmt: skip
def test_files_that_are_hardly_notebooks(tmp_path: Path, data: bytes, code: int) -> None:
    """An empty file, marks of an encoding, an old format, cells without source: an exit code, and no traceback."""
    (tmp_path / "inference.ipynb").write_bytes(data)
    done = command_line.offline_kit("adopt", "inference.ipynb", "--write", cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr


def test_the_format_of_a_submission_is_the_gateways(tmp_path: Path) -> None:
    """What a gateway wrote is taken, whichever of its formats was expected; the expected one comes first."""
    from offline_kit.rehearsal import gateway

    assert gateway.find_submission(tmp_path, "submission.csv") == "submission.csv"
    (tmp_path / "submission.parquet").write_bytes(b"PAR1")
    assert gateway.find_submission(tmp_path, "submission.csv") == "submission.parquet"
    (tmp_path / "submission.csv").write_text("id,y\n")
    assert gateway.find_submission(tmp_path, "submission.csv") == "submission.csv"
