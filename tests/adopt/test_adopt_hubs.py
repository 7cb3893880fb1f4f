"""What is fetched from hubs and drives: each remedy, done, is enough."""

import shlex
from pathlib import Path

import pytest

from offline_kit.adopt.findings import NeedKind, Outcome
from tests.support.adopting import looked, put


def done(folder: Path, remedy: str) -> None:
    """Do what a remedy's command would do, as far as adopt sees it."""
    words = shlex.split(remedy.partition("`")[2].partition("`")[0])
    if words[:2] == ["hf", "download"]:
        place = words[words.index("--local-dir") + 1]
        file = words[3] if not words[3].startswith("-") else "config.json"
        put(folder, f"{place}/{file}")
    else:
        assert words[:5] == ["python", "-m", "nltk.downloader", "-d", "nltk_data"]
        put(folder, *(f"nltk_data/corpora/{name}.zip" for name in words[5:]))


@pytest.mark.parametrize(
    ("line", "command", "left"),
    [
        (
            "from huggingface_hub import hf_hub_download\np = hf_hub_download(repo_id='o/m', filename='a.bin')",
            "hf download o/m a.bin --local-dir models/m",
            'p = "/tmp/kaggle/working/models/m/a.bin"',
        ),
        (
            "from huggingface_hub import hf_hub_download as d\np = d('o/m', 'a.bin', subfolder='x', repo_type='dataset')",
            "hf download o/m x/a.bin --repo-type dataset --local-dir data/m",
            'p = "/tmp/kaggle/working/data/m/x/a.bin"',
        ),
        (
            "from huggingface_hub import snapshot_download\np = snapshot_download('o/m')",
            "hf download o/m --local-dir models/m",
            'p = "/tmp/kaggle/working/models/m"',
        ),
        (
            "!huggingface-cli download gpt2",
            "hf download gpt2 --local-dir models/gpt2",
            "pass  # offline-kit:",
        ),
        (
            "!hf download --repo-type dataset o/d --local-dir here",
            "hf download o/d --repo-type dataset --local-dir data/d",
            "pass  # offline-kit:",
        ),
        (
            "from datasets import load_dataset\nd = load_dataset('imdb', split='test')",
            "hf download imdb --repo-type dataset --local-dir data/imdb",
            "load_dataset(\"/tmp/kaggle/working/data/imdb\", split='test')",
        ),
        (
            "from sentence_transformers import SentenceTransformer as S\ns = S('all-MiniLM-L6-v2')",
            "hf download sentence-transformers/all-MiniLM-L6-v2 --local-dir models/all-MiniLM-L6-v2",
            's = S("/tmp/kaggle/working/models/all-MiniLM-L6-v2")',
        ),
        (
            "from sentence_transformers import SentenceTransformer as S\ns = S('bert-base-uncased')",
            "hf download bert-base-uncased --local-dir models/bert-base-uncased",
            's = S("/tmp/kaggle/working/models/bert-base-uncased")',
        ),
        (
            "!nohup vllm serve o/m --port 8000 > log.txt 2>&1 &",
            "hf download o/m --local-dir models/m",
            "!nohup vllm serve /tmp/kaggle/working/models/m --port 8000 > log.txt 2>&1 &",
        ),
        (
            "!CUDA_VISIBLE_DEVICES=0 python -m vllm.entrypoints.openai.api_server --model 'o/m' --dtype half",
            "hf download o/m --local-dir models/m",
            "--model '/tmp/kaggle/working/models/m' --dtype half",
        ),
        (
            "ID = 'o/m'\n!python -u -m sglang.launch_server --model-path={ID} --port 1",
            "hf download o/m --local-dir models/m",
            "--model-path=/tmp/kaggle/working/models/m --port 1",
        ),
        (
            "%%bash\npython infer.py --model_name_or_path o/m \\\n  --out x.csv",
            "hf download o/m --local-dir models/m",
            "--model_name_or_path /tmp/kaggle/working/models/m \\\n  --out x.csv",
        ),
        (
            "import subprocess\np = subprocess.Popen(['vllm', 'serve', 'o/m', '--port', '1'])",
            "hf download o/m --local-dir models/m",
            "p = subprocess.Popen(['vllm', 'serve', '/tmp/kaggle/working/models/m', '--port', '1'])",
        ),
        (
            "import os\nos.system('lmdeploy serve api_server o/m --server-port 1 &')",
            "hf download o/m --local-dir models/m",
            "os.system('lmdeploy serve api_server /tmp/kaggle/working/models/m --server-port 1 &')",
        ),
        (
            "import nltk\nnltk.download(['stopwords', 'wordnet'])",
            "python -m nltk.downloader -d nltk_data stopwords wordnet",
            "pass  # offline-kit:",
        ),
    ],
)
def test_a_remedy_that_was_done_is_enough(tmp_path: Path, line: str, command: str, left: str) -> None:
    """The command that is told fetches it to where the next look finds it; nothing is asked twice."""
    (asked,) = looked(tmp_path, line).unresolved
    assert f"`{command}`" in asked.remedy
    done(tmp_path, asked.remedy)
    found = looked(tmp_path, line)
    assert not found.unresolved
    assert left in found.changed[0]
    assert found.checkpoints


@pytest.mark.parametrize(
    "line",
    [
        "!vllm serve /kaggle/input/models/o/m/1",
        "!vllm serve {folder} --port 1",
        "!vllm serve $MODEL",
        "!vllm --version",
        "!python train.py --model models/net --out o/m",
        "!python train.py --model runs/net.pt --model-path nets/best.safetensors --model resnet50",
        "!text-generation-launcher --model-id ./m",
    ],
)
def test_a_command_that_names_a_folder_fetches_nothing(tmp_path: Path, line: str) -> None:
    """Paths, names of files and what is known only when it runs are no ids of a hub."""
    assert [one for one in looked(tmp_path, line).unresolved if one.kind is NeedKind.HUB] == []


def test_a_command_may_name_its_folder_itself(tmp_path: Path) -> None:
    """Where no word of the cell is the id, the person names the folder, which is then enough."""
    code = (
        "import subprocess\nID = '{}'\nwords = ['vllm', 'serve', ID]\nsubprocess.Popen(['vllm', 'serve', ID])"
    )
    (asked,) = looked(tmp_path, code.format("o/m")).unresolved
    assert "that folder in the command" in asked.remedy
    done(tmp_path, asked.remedy)
    found = looked(tmp_path, code.format("models/m"))
    assert not found.unresolved
    assert found.checkpoints == ("models/m",)


def test_a_folder_of_the_hubs_lies_where_it_was_put(tmp_path: Path) -> None:
    """Cells that read below the named folder find it there."""
    put(tmp_path, "models/m/a.bin")
    found = looked(
        tmp_path, "from huggingface_hub import snapshot_download\nsnapshot_download('o/m', local_dir='w')"
    )
    assert found.laid_out == (("w", "models/m"),)


def test_data_of_nltk_that_is_missing_is_asked_for(tmp_path: Path) -> None:
    """A folder with other data is not enough: what lacks is named, and nothing else."""
    put(tmp_path, "nltk_data/corpora/stopwords.zip")
    (asked,) = looked(tmp_path, "import nltk\nnltk.download(['stopwords', 'wordnet'])").unresolved
    assert "nltk_data wordnet`" in asked.remedy


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("!gdown 1abc", "-O NAME"),
        ("import gdown\ngdown.download('https://drive.google.com/uc?id=1abc')", "output="),
        ("for x in 'ab':\n    !wget https://example.org/{x}.pt", "constant"),
        (
            "import wget\nfor x in 'ab':\n    wget.download(f'https://example.org/{x}.pt')",
            "constant",
        ),
        ("from huggingface_hub import hf_hub_download\np = hf_hub_download(REPO, 'a.bin')", "constant"),
    ],
)
def test_what_nobody_can_name_is_not_named(tmp_path: Path, line: str, said: str) -> None:
    """No file is asked for by a name that it cannot have."""
    (asked,) = looked(tmp_path, line).unresolved
    assert said in asked.remedy
    assert "'1abc'" not in asked.remedy
    assert "download it to '{x}.pt'" not in asked.remedy


def test_files_that_a_data_set_is_built_from_are_no_id(tmp_path: Path) -> None:
    """`load_dataset("csv", ...)` reads files: they travel as others do."""
    put(tmp_path, "rows.csv")
    found = looked(
        tmp_path, "from datasets import load_dataset\nd = load_dataset('csv', data_files='rows.csv')"
    )
    assert not found.unresolved
    assert not [
        one for one in found.resolved if one.kind is NeedKind.HUB and one.resolution is not Outcome.UNCHANGED
    ]
