"""Tokens and passwords of a notebook's lines: in nothing that is shown, written or pushed once a line is switched off."""

from pathlib import Path

import pytest
from adopt_case import looked, put

from offline_kit.adopting import rewriting
from offline_kit.adopting.nouns import Kind
from offline_kit.redaction import without_secrets
from offline_kit.rehearsal.causes import explain

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
        f"!wget --header='Authorization: Bearer {SECRET}' https://example.org/a.bin -O a.bin",
        f"!git clone https://me:{SECRET}@github.com/a/b",
        "!curl -o a.bin 'https://example.org/a.bin?X-Amz-Signature=0123456789abcdef0123456789abcdef01234567&b=1'",
        f"import wget\nwget.download('https://example.org/a.bin?token={SECRET}', 'a.bin')",
    ],
)
def test_no_token_stays_in_a_switched_off_line(tmp_path: Path, line: str) -> None:
    """The notebook is pushed, and what was found is shown: neither has a token or a password of the lines that go."""
    put(tmp_path, "a.bin", "b/data.csv")
    found = looked(tmp_path, line)
    assert not found.asked
    shown = rewriting.diff(found.cells, found.changed, "a")
    for text in (found.changed[0], shown, repr(found.found)):
        assert not {"abcdefghij", "0123456789abcdef"} & {
            text[n : n + k] for k in (10, 16) for n in range(len(text))
        }
    assert found.changed[0].count("\n") == line.count("\n")


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
    assert without_secrets(line) == line


@pytest.mark.parametrize(
    ("cell", "left"),
    [
        (
            "from kaggle_secrets import UserSecretsClient\nkey = UserSecretsClient().get_secret('HF')",
            "pass  # offline-kit: from kaggle_secrets import UserSecretsClient\nkey = ''",
        ),
        (
            "import kaggle_secrets\nclient = kaggle_secrets.UserSecretsClient()\nkey = client.get_secret('HF')",
            "pass  # offline-kit: import kaggle_secrets\nclient = None\nkey = ''",
        ),
        (
            "from kaggle_secrets import UserSecretsClient as U\nu = U()\nu.set_gcloud_credentials(project='p')",
            "u = None\npass  # offline-kit: u.set_gcloud_credentials(project='p')",
        ),
        (
            "from kaggle_secrets import UserSecretsClient, BackendError\nkey = UserSecretsClient().get_secret('HF')",
            "from kaggle_secrets import UserSecretsClient, BackendError\nkey = ''",
        ),
    ],
)
def test_secrets_of_the_account_are_not_asked_for(tmp_path: Path, cell: str, left: str) -> None:
    """They come over the internet: what they are for has no use offline, and their module lies on Kaggle alone."""
    found = looked(tmp_path, f"{cell}\nimport wandb\nwandb.login(key=key)")
    assert left in found.changed[0]
    assert {one.kind for one in found.found} == {Kind.ACCOUNT}
    assert not found.asked


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
    cause, remedy = explain(error)
    assert "secret" in cause
    assert "requirements" not in remedy
