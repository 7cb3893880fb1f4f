"""Tokens and passwords of a notebook's lines: in nothing that is shown, written or pushed once a line is switched off."""

from pathlib import Path

import pytest

from offline_kit.adopt import adoption_plan
from offline_kit.adopt.findings import NeedKind, Outcome
from offline_kit.core.redaction import redact_secrets
from offline_kit.rehearsal.causes import explain_failure
from tests.support.adopting import looked

SECRET = "hf_abcdefghijklmnopqrstuvwxyz012345"


@pytest.mark.parametrize(
    "line",
    [
        f"from huggingface_hub import login\nlogin('{SECRET}')",
        f"from huggingface_hub import login\nlogin(\n    token='{SECRET}',\n)",
        "import wandb\nok = wandb.login(key='0123456789abcdef0123456789abcdef01234567')",
        "import wandb\nwandb.login('anonymous', '0123456789abcdef0123456789abcdef01234567')",
        f"!huggingface-cli login --token {SECRET}",
        f"!hf auth login --token={SECRET}",
        "!wandb login 0123456789abcdef0123456789abcdef01234567",
        f"!pip install git+https://{SECRET}@github.com/a/b",
    ],
)
def test_no_token_stays_in_a_switched_off_line(tmp_path: Path, line: str) -> None:
    """The notebook is pushed, and what was found is shown: neither has a token or a password of the lines that go."""
    found = looked(tmp_path, line)
    assert not found.unresolved
    shown = adoption_plan.diff_cells(found)
    for text in (found.changed[0], shown, repr(found.resolved)):
        assert not {"abcdefghij", "0123456789abcdef"} & {
            text[n : n + k] for k in (10, 16) for n in range(len(text))
        }
    assert found.changed[0].count("\n") == line.count("\n")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("import os\nos.environ['WANDB_API_KEY'] = '{}'", "WANDB_API_KEY"),
        ("import os\nos.environ.setdefault('WANDB_API_KEY', '{}')", "WANDB_API_KEY"),
        ("import os\nos.environ.update({{\n    'WANDB_API_KEY':\n    '{}'}})", "WANDB_API_KEY"),
        ("HF_TOKEN = '{}'", "HF_TOKEN"),
        ("settings.password: str = '{}'", "password"),
        ("client = connect(api_key='{}')", "api_key"),
        ("headers = {{'X_API_KEY': '{0}', 'API_KEY': '{0}'}}", "X_API_KEY"),
        ("%env WANDB_API_KEY={}", "WANDB_API_KEY"),
        ("%env WANDB_API_KEY {}", "WANDB_API_KEY"),
        ("!export WANDB_API_KEY={} && python train.py", "WANDB_API_KEY"),
    ],
)
@pytest.mark.parametrize("value", [SECRET, "0123456789abcdef0123456789abcdef01234567"])
def test_a_secret_in_a_cell_that_stays_is_told(tmp_path: Path, line: str, name: str, value: str) -> None:
    """It would be pushed with the notebook: cell, line and variable are named, and what to do; never the value."""
    found = looked(tmp_path, "x = 1", line.format(value))
    (one,) = found.unresolved
    assert (one.kind, one.cell, one.value) == (NeedKind.ACCOUNT, 2, name)
    assert f"'{name}'" in one.remedy
    assert value in found.cells[1].source.split("\n")[one.line - 1]
    assert value not in repr(found.resolved)


@pytest.mark.parametrize("line", ["# {}", "headers = ['Bearer {}']", "%%writefile a.py\nt = '{}'"])
def test_a_token_without_a_name_is_told(tmp_path: Path, line: str) -> None:
    """It is known by its shape, in comments and in files that a cell writes too."""
    found = looked(tmp_path, line.format(SECRET))
    (one,) = found.unresolved
    assert (one.kind, one.value) == (NeedKind.ACCOUNT, "a token")
    assert SECRET not in repr(found.resolved)


@pytest.mark.parametrize(
    "line",
    [
        "os.environ['WANDB_API_KEY'] = ''",
        "os.environ['WANDB_API_KEY'] = '...'",
        "os.environ['WANDB_API_KEY'] = '<your key>'",
        "API_KEY = 'YOUR_API_KEY'",
        "api_key = 'wandb_api_key'",
        "HF_TOKEN = os.environ['HF_TOKEN']",
        "pad_token = '[PAD]'; sep_token = '<|reserved_special_token_0|>'",
        "join(key='train_fold_0_of_the_year_2024')",
        "df.merge(a, key='image_id'); tokenizer = 'microsoft/deberta-v3-large-20240101'",
        "model = 'hf_efficientnet_b0_ns_jft_in1k'; name = 'sk-learn-contrib-of-the-year'",
        "%env CUDA_VISIBLE_DEVICES=0",
    ],
)
def test_what_is_called_like_a_secret_and_is_none_is_not_told(tmp_path: Path, line: str) -> None:
    """Blanks to fill in, names of columns and of tokens are written everywhere."""
    assert not looked(tmp_path, f"import os\n{line}").unresolved


@pytest.mark.parametrize(
    "line",
    [
        "!pip install einops==0.8.1 --index-url https://pypi.org/simple",
        "wandb.login(key=KEY)",
        "!pip install git+https://github.com/a/b@0123456789abcdef0123456789abcdef01234567",
        "model = make(tokenizer='bert', token_limit=12, keys=['a'])",
        "import os; os.system('pip install tokenizers==0.20')",
        "!wget https://example.org/a.bin -O key.bin",
    ],
)
def test_what_is_no_secret_stays_readable(line: str) -> None:
    """Versions, commits, addresses and names of variables are what the person looks for in the comment."""
    assert redact_secrets(line) == line


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (f"!pip install git+https://{SECRET}@github.com/a/b", "git+https://github.com/a/b"),
        (f"!pip install 'b @ https://me:{SECRET}@e.org/b-1-py3-none-any.whl'", "b @ https://e.org/b-1-py3-none-any.whl"),
    ],
)  # fmt: skip
def test_requirements_are_written_without_credentials(tmp_path: Path, source: str, line: str) -> None:
    """The file is committed and shared: it names the address alone, and the person is told where the rest goes."""
    found = looked(tmp_path, source)
    assert found.requirements == (line,)
    assert "without the credentials" in found.resolved[-1].remedy
    assert "~/.netrc" in found.resolved[-1].remedy


def test_a_requirement_without_credentials_stays_as_it_is(tmp_path: Path) -> None:
    """The user of ssh and a variable of the environment are none."""
    line = "git+ssh://git@github.com/a/b@v1"
    found = looked(tmp_path, f"!pip install {line}")
    assert (found.requirements, found.resolved[0].remedy) == ((line,), "")


def test_secrets_of_the_account_are_named_and_empty(tmp_path: Path) -> None:
    """They come over the internet: the setup answers for their module, so the lines stay."""
    cell = "from kaggle_secrets import UserSecretsClient\nkey = UserSecretsClient().get_secret('HF')"
    found = looked(tmp_path, cell)
    assert [(need.kind, need.line, need.resolution) for need in found.resolved] == [
        (NeedKind.ACCOUNT, 2, Outcome.UNCHANGED)
    ]
    assert found.changed == (cell,)


def test_a_name_of_ones_own_is_no_secret(tmp_path: Path) -> None:
    """Without Kaggle's module, `get_secret` is a function as any other."""
    cell = "client = Vault()\nkey = client.get_secret('HF')"
    assert looked(tmp_path, cell).changed == (cell,)


@pytest.mark.parametrize(
    "error",
    [
        "ModuleNotFoundError: No module named 'kaggle_secrets'",
        'File "/opt/kaggle_secrets.py", line 60\nConnectionError: Connection error trying to communicate with service.',
    ],
)
def test_a_secret_is_told_in_a_rehearsal(error: str) -> None:
    """A package for it is no remedy: there is none."""
    explained = explain_failure(error)
    assert explained.code == "kaggle-secret-unavailable"
    assert "requirements" not in explained.remedy
