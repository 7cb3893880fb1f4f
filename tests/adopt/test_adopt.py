"""What becomes of a notebook's lines: requirements, checkpoints, sources, or a question with its remedy."""

import ast
from pathlib import Path

import pytest

from offline_kit.adopt.findings import Adoption, AttachedSources, NeedKind, Outcome
from offline_kit.notebook import cells
from tests.support.adopting import became, looked, put

REQUIREMENT, CHECKPOINT, SOURCE, ASKED = (
    Outcome.REQUIREMENT,
    Outcome.CHECKPOINT,
    Outcome.SOURCE,
    Outcome.UNRESOLVED,
)


def one(adoption: Adoption) -> str:
    """Return the text of the first cell, proved to be something that runs."""
    assert cells.parse_cell(adoption.changed[0]).parse_tree() is not None
    return adoption.changed[0]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("!pip install -q einops==0.8.1 'ttach>=0.0.3' > /dev/null 2>&1", ("einops==0.8.1", "ttach>=0.0.3")),
        ("%pip install -U einops", ("einops",)),
        ("!python -m pip install einops --no-deps", ("einops",)),
        ("!{sys.executable} -m pip install einops", ("einops",)),
        ("!uv pip install --system einops", ("einops",)),
        ("!pip install -qU einops -qe git+https://e.org/b", ("einops", "git+https://e.org/b")),
        ("pip install einops", ("einops",)),
        ("out = !pip install einops", ("einops",)),
        ("import os\nos.system('pip install einops')", ("einops",)),
        (
            "import subprocess, sys\nsubprocess.run([sys.executable, '-m', 'pip', 'install', 'einops'], check=True)",
            ("einops",),
        ),
        ("V = '0.8'\n!pip install einops=={V}", ("einops==0.8",)),
        ("!pip install git+https://github.com/a/b.git#egg=b", ("b @ git+https://github.com/a/b.git",)),
        ("if True:\n    !pip install einops \\\n        ttach\nelse:\n    x = 1", ("einops", "ttach")),
        ("%%capture\n!pip install einops", ("einops",)),
    ],
)
def test_what_is_installed_becomes_a_requirement(tmp_path: Path, line: str, wanted: tuple[str, ...]) -> None:
    """However pip is called, its packages become requirements, and the line does nothing any more."""
    found = looked(tmp_path, line)
    assert {one.resolution for one in found.resolved} == {REQUIREMENT}
    assert found.requirements == wanted
    left = cells.parse_cell(one(found))
    assert not any(
        "pip" in magic.text or "clone" in magic.text for magic in left.magics if magic.sign != "%%"
    )
    assert one(found).count("\n") == line.count("\n"), (
        "errors of the run name the lines that the person knows"
    )


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("!pip install einops && ls", "!true && ls"),
        ("!kaggle datasets download d/e; pip install einops", "!kaggle datasets download d/e; true"),
        ("%%bash\nset -e\npip install einops\nls", "%%bash\nset -e\ntrue\nls"),
        ("if x: os.system('pip install einops')\nimport os", "if x: 0\nimport os"),
        (
            "import subprocess\nr = subprocess.run('pip install einops', shell=True)",
            "import subprocess\nr = subprocess.CompletedProcess([], 0, '', '')",
        ),
    ],
)
def test_what_stands_beside_it_stays(tmp_path: Path, line: str, left: str) -> None:
    """Of a line that does more than to install, the rest goes on doing it."""
    assert one(looked(tmp_path, line)) == left


@pytest.mark.parametrize(
    "line",
    [
        "!pip install einops=={version()}",
        "!pip install -r requirements.txt",
        "!pip install ./package",
        "!apt-get install -y libgl1",
        "!conda install einops",
        "!wget https://example.org/model.pth",
        "!gdown 1AbC -O model.pth",
        "!git clone https://github.com/a/b",
        "!kaggle datasets download -d me/weights",
        "from transformers import AutoModel\nAutoModel.from_pretrained('bert-base-uncased')",
        "import timm\nm = timm.create_model('resnet18', pretrained=True)",
        "import torch\nm = torch.hub.load('pytorch/vision', 'resnet18')",
        "import nltk\nnltk.download('punkt')",
        "import kagglehub\np = kagglehub.model_download('o/m/pyTorch/v')",
        "import kagglehub\np = kagglehub.dataset_download(name)",
        "from google.colab import drive\ndrive.mount('/content/drive')",
        "!git clone -q https://github.com/a/b /kaggle/working/b",
        "import pandas as pd\np = pd.read_csv('https://example.org/a.csv')",
        "from transformers import pipeline\np = pipeline('ner', model='o/m')",
        "import torch\nw = torch.load('/kaggle/input/my-weights/a.pth')",
        "from huggingface_hub import snapshot_download\nsnapshot_download('o/m')",
    ],
)
def test_what_is_not_there_is_asked_for(tmp_path: Path, line: str) -> None:
    """What nobody has here stays in its line, and the finding says cell, line and remedy."""
    found = looked(tmp_path, line)
    (asked,) = found.unresolved
    assert (asked.cell, asked.line) == (1, line.count("\n") + 1)
    assert asked.remedy
    if asked.kind is not NeedKind.MOUNT:
        assert found.changed == (line,)


def test_files_of_the_project_travel(tmp_path: Path) -> None:
    """What is read beside the notebook travels to the same place, f-strings as patterns; what is written does not."""
    put(tmp_path, "weights/fold0.pth", "weights/fold1.pth", "submission.csv", "labels.json", "out.csv")
    put(tmp_path, "models/bert/config.json")
    source = (
        "for i in range(2):\n    torch.load(f'weights/fold{i}.pth')\njson.load(open('./labels.json'))\n"
        "open('labels.json', 'w')\ndf.to_csv('submission.csv')\ndf.to_csv('out.csv')\n"
        "AutoModel.from_pretrained('models/bert')"
    )
    found = looked(tmp_path, "from transformers import AutoModel\n" + source)
    names = {"weights/fold0.pth", "weights/fold1.pth", "labels.json", "models/bert"}
    assert set(found.checkpoints) == names
    assert dict(found.laid_out) == {name: name for name in names}
    assert found.changed[0].endswith(source)
    assert not found.unresolved


def test_the_folder_that_it_runs_in_is_no_file_of_the_project(tmp_path: Path) -> None:
    """A look around in the working folder, however that is written, stays: the whole project does not travel."""
    put(tmp_path, "models/a.pth")
    source = "import os\nfrom pathlib import Path\n" + "\n".join(
        f"{call}('{name}')"
        for call in ("os.walk", "os.listdir", "Path")
        for name in (".", "./", "models/..", "./.")
    )
    found = looked(tmp_path, source)
    assert (found.changed, found.checkpoints, found.resolved) == ((source,), (), ())


STEPS = {
    "%cd": "%cd aug\n!pip install -q -r requirements.txt\n{}\n%cd ..",
    "chdir": "import os\nos.chdir('/kaggle/working/aug')\n!pip install -r requirements.txt\n{}\nos.chdir('..')",
    "short": "%cd aug\n%pip install -qr requirements.txt  # a comment\n{}\n%cd ..",
    "names": "R = '/kaggle/working/aug'\n%cd $R\n!pip install -r requirements.txt\n{}\n%cd -",
}


@pytest.mark.parametrize("how", STEPS)
def test_a_step_into_a_folder_is_followed(tmp_path: Path, how: str) -> None:
    """What is installed and read there is the folder's; the lines that step stay."""
    put(tmp_path, "requirements.txt", "aug/conf.json", "conf.json", "a.json")
    put(tmp_path, "aug/requirements.txt", text="einops\n")
    inside = "import json\njson.load(open('conf.json'))"
    found = looked(tmp_path, STEPS[how].replace("{}", inside), "json.load(open('a.json'))")
    assert found.requirement_files == ("aug/requirements.txt",)
    assert found.laid_out == (("a.json", "a.json"), ("aug/conf.json", "aug/conf.json"))
    steps = [line for line in STEPS[how].split("\n") if "cd" in line or "chdir" in line]
    assert [line for line in found.changed[0].split("\n") if "cd" in line or "chdir" in line] == steps
    assert inside in found.changed[0]
    assert not found.unresolved


def test_no_package_is_guessed_while_a_clone_is_missing(tmp_path: Path) -> None:
    """What the clone may bring is a question; once it lies beside the notebook, only its line is one."""
    source = "!git clone https://e.org/me/cool-aug\nimport sys\nsys.path.append('cool-aug')\nimport coolaug"
    found = looked(tmp_path, source)
    assert (found.requirements, len(found.unresolved)) == ((), 2)
    assert found.recordable == found.unresolved
    put(tmp_path, "cool-aug/coolaug.py")
    again = looked(tmp_path, source)
    assert (again.requirements, len(again.unresolved), again.modules) == ((), 1, ("cool-aug",))


def test_what_a_requirements_file_names_is_not_guessed(tmp_path: Path) -> None:
    """Its packages are those of the notebook, and a repository in it may bring what else is imported."""
    put(tmp_path, "r.txt", text="# these\nnice_package==1.0  # pinned\n-e git+https://e.org/b\n")
    found = looked(tmp_path, "!pip install -r r.txt\nimport nice_package, other")
    assert (found.requirements, found.requirement_files) == ((), ("r.txt",))
    assert "taken to come with git+https://e.org/b" in [one.value for one in found.resolved]


def test_no_package_is_guessed_while_one_is_installed_for_no_import(tmp_path: Path) -> None:
    """Packages are not always called as they are imported: what is installed for nothing else brings it."""
    found = looked(tmp_path, "!pip install odd-package\nfrom strangely_called.ml import A")
    assert (found.requirements, found.unresolved) == (("odd-package",), ())
    assert "taken to come with odd-package" in [one.value for one in found.resolved]


@pytest.mark.parametrize("line", ["einops", "scikit-image", "protobuf==4.25.3"])
def test_what_is_installed_for_something_else_stops_no_guess(tmp_path: Path, line: str) -> None:
    """A package whose import is there, or known, or that the image has too, does not bring another one."""
    found = looked(tmp_path, f"!pip install {line}\nimport einops, other_guess, third_guess")
    assert {"other_guess", "third_guess"} <= {one.value for one in found.unresolved}


def test_folders_of_modules_by_any_name(tmp_path: Path) -> None:
    """A folder that goes on sys.path travels as code, however it is called, and the line stays."""
    put(tmp_path, "aug/lib/deep.py", "aug/run.py")
    source = (
        "import os, sys\nR = '/kaggle/working/aug'\n"
        "sys.path.append(f'{R}/lib')\nsys.path.insert(0, 'aug/lib')\nimport deep"
    )
    found = looked(tmp_path, source)
    assert (found.modules, found.requirements) == (("aug/lib",), ())
    assert found.changed == (source,)


def test_what_lies_here_needs_no_download(tmp_path: Path) -> None:
    """Its line is a person's to remove, and the file is in the kit; tools and removals need nothing."""
    put(tmp_path, "weights/a.pth")
    lines = (
        "!wget -P weights https://example.org/a.pth",
        "!pip install --upgrade pip",
        "!pip uninstall -y numpy",
    )
    found = looked(tmp_path, "\n".join([*lines, "torch.load('weights/a.pth')"]))
    assert found.changed[0].splitlines()[:3] == [
        lines[0],
        "pass  # offline-kit: !pip install --upgrade pip",
        "pass  # offline-kit: !pip uninstall -y numpy",
    ]
    assert found.laid_out == (("weights/a.pth", "weights/a.pth"),)
    assert ["remove this line" in need.remedy for need in found.unresolved] == [True]


def test_mounts_are_shown_under_the_old_and_the_new_path(tmp_path: Path) -> None:
    """Every path below the mounts changes its beginning alone, in strings, shells and scripts; comments stay."""
    source = (
        "N = 'plants'\nD = '/kaggle/input/plants'  # /kaggle/input/plants\n!ls ../input/plants\n"
        "x = f'/kaggle/input/{N}/test.csv'\nfor a in os.walk('/kaggle/input'): pass\nPath('/kaggle/input/').rglob('a')"
    )
    found = looked(
        tmp_path,
        source,
        "%%bash\nls /kaggle/input/plants",
        attached=AttachedSources(competitions=("plants",)),
    )
    assert found.changed[0] == (
        "N = 'plants'\nD = '/tmp/kaggle/input/plants'  # /kaggle/input/plants\n!ls /tmp/kaggle/input/plants\n"
        "x = f'/tmp/kaggle/input/{N}/test.csv'\nfor a in os.walk('/kaggle/input'): pass\nPath('/kaggle/input/').rglob('a')"
    )
    assert found.changed[1] == "%%bash\nls /tmp/kaggle/input/plants"
    assert not found.unresolved


def test_paths_tell_sources(tmp_path: Path) -> None:
    """A path of the newer layout names its source, and so does a download by kagglehub."""
    source = (
        "import kagglehub\na = '/kaggle/input/competitions/plants/test.csv'\nb = '/kaggle/input/datasets/me/weights/a'\n"
        "c = kagglehub.model_download('o/m/pyTorch/v/1')\nd = kagglehub.notebook_output_download('me/train', 'a.pth')"
    )
    found = looked(tmp_path, source)
    assert found.sources == AttachedSources(
        competitions=("plants",),
        datasets=("me/weights",),
        notebooks=("me/train",),
        models=("o/m/pyTorch/v/1",),
    )
    assert 'c = "/tmp/kaggle/input/models/o/m/pyTorch/v/1"' in found.changed[0]
    assert 'd = "/tmp/kaggle/input/notebooks/me/train/a.pth"' in found.changed[0]


def test_a_copy_of_a_mount_travels(tmp_path: Path) -> None:
    """Weights of a dataset whose owner nobody knows come out of the kit, from a copy or a file of that name."""
    put(tmp_path, "trained/a.pth", "input/my-maps/one.json")
    source = (
        "DIR = '/kaggle/input/my-weights'\ntorch.load(f'{DIR}/a.pth')\nopen('/kaggle/input/my-maps/one.json')"
    )
    found = looked(tmp_path, source)
    assert set(found.served) == {
        ("input/my-weights/a.pth", "trained/a.pth"),
        ("input/my-maps/one.json", "input/my-maps/one.json"),
    }
    assert not found.unresolved


def test_imports_that_nobody_brings(tmp_path: Path) -> None:
    """A module beside the notebook travels; what nobody is known to bring is a question, never a requirement."""
    put(tmp_path, "helpers.py", "lib/deep.py")
    source = (
        "import sys, os, numpy, torch, cv2, PIL\nimport helpers\nsys.path.append('lib')\nimport deep\n"
        "try:\n    import cudf\nexcept ImportError:\n    cudf = None\nimport faiss_wrong_name"
    )
    found = looked(tmp_path, source)
    assert found.modules == ("lib", "helpers.py")
    assert found.requirements == ()
    assert [one.value for one in found.unresolved] == ["faiss_wrong_name"]


def test_the_metadata_beside_it_is_kept(tmp_path: Path) -> None:
    """Sources and machine of kernel-metadata.json come along, in both spellings of its truths."""
    put(
        tmp_path,
        "kernel-metadata.json",
        text='{"dataset_sources": ["me/weights"], "competition_sources": ["plants"], "enable_gpu": "true",'
        ' "enable_internet": "true", "machine_shape": "NvidiaTeslaT4"}',
    )
    found = looked(tmp_path, "torch.load('/kaggle/input/weights/a.pth')")
    assert found.sources == AttachedSources(competitions=("plants",), datasets=("me/weights",))
    assert found.accelerator == "NvidiaTeslaT4"
    assert not found.unresolved


def test_syntax_of_a_later_python_is_told(tmp_path: Path) -> None:
    """A cell that cannot be read here keeps its text but for magics and mounts, and a finding says so."""
    found = looked(tmp_path, "!pip install einops\nthis is no Python '/kaggle/input/competitions/plants'")
    assert [one.kind for one in found.resolved] == [
        NeedKind.INSTALL,
        NeedKind.UNREAD,
        NeedKind.MOUNT,
    ] or NeedKind.UNREAD in {one.kind for one in found.resolved}
    assert found.changed[0].startswith("pass  # offline-kit: !pip install einops\nthis is no Python")


def test_nothing_is_found_in_an_offline_notebook(tmp_path: Path) -> None:
    """A notebook that needs nothing comes out as it went in."""
    source = "import numpy as np, timm\nprint(f'{np.pi:.2f} {{}}', timm.list_models(pretrained=True))"
    found = looked(tmp_path, source)
    assert (found.changed, became(found)) == ((source,), [])


def test_a_magic_that_the_image_cannot_read_is_rewritten(tmp_path: Path) -> None:
    """`x = !ls` is a SyntaxError for IPython 7 on Python 3.13, as Kaggle has them: it says the same in Python."""
    source = "files = !ls ../input/plants | wc -l\n!ls\nout = !pip install einops\n%load_ext autoreload\n%autoreload 2"
    found = looked(tmp_path, source, attached=AttachedSources(competitions=("plants",)))
    assert found.changed[0] == (
        "files = get_ipython().getoutput('ls /tmp/kaggle/input/plants | wc -l')\n!ls\n"
        "out = []  # offline-kit: !pip install einops\n"
        "pass  # offline-kit: %load_ext autoreload\npass  # offline-kit: %autoreload 2"
    )
    assert Outcome.REWRITTEN in [what for what, _ in became(found)]


def test_adopted_python_runs(tmp_path: Path) -> None:
    """Whatever was taken out, what remains is Python: in branches, loops and behind semicolons."""
    source = (
        "import os, kagglehub\nif os.environ.get('X'):\n    os.system('pip install nltk')\nelse:\n    os.system('pip install einops')\n"
        "for a in (1,): os.system('pip install ttach'); b = kagglehub.dataset_download('me/x')"
    )
    ast.parse(one(looked(tmp_path, source)))
