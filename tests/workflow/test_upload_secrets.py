"""What would be uploaded is read for secrets: file and line are named, the value never, and nothing is made."""

import json
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.support.backends import BACKEND
from tests.support.command_line import offline_kit
from tests.support.local_index import folder_index, make_wheel

TOKEN = "hf_Zq3vT8mK1xW7nB5cR2yL9pD4abcdefghij"
PACKAGE = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n[project]\nname = "plants"\nversion = "1.0"\n'
MAIN = "def predict(context):\n    return None\n"


def build(
    folder: Path, files: dict[str, str], config: str = "", notebook: str = ""
) -> "CompletedProcess[str]":
    table = f'image = "local"\n{config}\n[notebook]\nfunction = "main.py:predict"\n{notebook}'
    for name, text in {"main.py": MAIN, "offline-kit.toml": table, **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return offline_kit("build", folder, "--json")


SECRETS = {
    "src/settings.py": ("\nTOKEN = '{}'\n", 'modules = ["src"]', "src/settings.py:2"),
    "src/settings.yaml": ("a: 1\nhub:\n  token: {}\n", 'modules = ["src"]', "src/settings.yaml:3"),
    "main.py": (MAIN + "# {}\n", "", "main.py:3"),
    "plants/login.py": ("token = (\n    '{}'\n)\n", 'packages = ["."]', "plants/login.py:2"),
    "caches/huggingface/token": ("{}", 'preprocessing = ["caches"]', "caches/huggingface/token:1"),
}  # fmt: skip


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_stops_the_build_unless_its_file_is_trusted(tmp_path: Path, name: str) -> None:
    """Exit code 1 with file and line, without the value, and no kit; `trust` is the way past it."""
    text, config, where = SECRETS[name]
    files = {"src/a.py": "", name: text.format(TOKEN)}
    if "packages" in config:
        files |= {"pyproject.toml": PACKAGE, "backend.py": BACKEND, "plants/__init__.py": ""}
    done = build(tmp_path, files, config)
    assert done.returncode == 1, done.stderr
    error = json.loads(done.stdout)
    assert any(line.startswith(f"{where}: Hugging Face token") for line in error["details"]), error
    assert TOKEN not in done.stdout + done.stderr
    assert not (tmp_path / "dist" / "offline-kit" / "dataset").exists()
    done = build(tmp_path, files, f'{config}\ntrust = ["{name}"]')
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr


def test_a_secret_among_the_params_is_found_in_the_notebook_and_named_in_the_configuration(
    tmp_path: Path,
) -> None:
    """The params are written into the notebook; the line of the configuration is where it can be mended."""
    done = build(tmp_path, {}, notebook=f'params = {{ hub = "{TOKEN}" }}\n')
    assert done.returncode == 1, done.stderr
    (line,) = json.loads(done.stdout)["details"]
    assert line.startswith("offline-kit.toml:5: Hugging Face token")
    assert TOKEN not in done.stdout + done.stderr
    done = build(tmp_path, {}, 'trust = ["offline-kit.toml"]', f'params = {{ hub = "{TOKEN}" }}\n')
    assert done.returncode == 0, done.stderr


LOGINS = {
    "src": ("kaggle.json", "netrc", "prod.env", "server.PEM", "access_token", "keys/id_rsa"),
    "plants": (".env", "conf/.env.local", ".netrc", ".pypirc"),  # hidden files travel only inside of a wheel
    "weights": ("key.p12",),
}


def test_files_of_logins_do_not_travel(tmp_path: Path) -> None:
    """Loose, inside own wheels and beside weights, whatever is in them: their names say what they are for."""
    wanted = [f"{folder}/{name}" for folder, names in LOGINS.items() for name in names]
    files = dict.fromkeys(wanted, "A=1") | {"weights/key.p12": "\0", "src/a.py": ""}
    files |= {"pyproject.toml": PACKAGE, "backend.py": BACKEND, "plants/__init__.py": ""}
    done = build(tmp_path, files, 'modules = ["src"]\npackages = ["."]\ncheckpoints = ["weights/*"]')
    assert done.returncode == 1, done.stderr
    lines = json.loads(done.stdout)["details"]
    assert sorted(line.partition(":")[0] for line in lines) == sorted(wanted)


@pytest.mark.parametrize("kind", ["wheel", "folder"])
def test_a_wheel_that_the_project_gives_is_read(tmp_path: Path, kind: str) -> None:
    """A secret in it stops the build, with the wheel's name, file and line; `trust` is the way past it."""
    text = f"\nTOKEN = '{TOKEN}'\n"
    files = {"requirements.in": "./given-1.0-py3-none-any.whl\n"}
    member = "given-1.0-py3-none-any.whl/given/login.py"
    if kind == "wheel":
        inside = {"given/__init__.py": "", "given/login.py": text}
        make_wheel(tmp_path, "given", "1.0", files=inside)
    else:
        files = {"requirements.in": "./lib\n", "lib/pyproject.toml": PACKAGE, "lib/backend.py": BACKEND}
        files |= {"lib/plants/__init__.py": "", "lib/plants/login.py": text}
        member = "plants-1.0-py3-none-any.whl/plants/login.py"
    done = build(tmp_path, files)
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["details"] == [f"{member}:2: Hugging Face token in 'TOKEN'"]
    assert TOKEN not in done.stdout + done.stderr
    assert not (tmp_path / "dist" / "offline-kit" / "dataset").exists()
    done = build(tmp_path, files, f'trust = ["{member}"]')
    assert done.returncode == 0, done.stderr


def test_a_wheel_from_an_index_is_not_read(tmp_path: Path) -> None:
    """Everybody who can use the index has it, and tests of libraries hold dummy keys."""
    wheel = make_wheel(tmp_path / "wheels", "public", "1.0", files={"public.py": f"TOKEN = '{TOKEN}'\n"})
    address = folder_index(tmp_path / "index", [wheel])
    done = build(tmp_path, {"requirements.in": f"--index-url {address}\npublic\n"})
    assert done.returncode == 0, done.stderr


KINDS = {
    "a.ipynb": json.dumps({"cells": [{"cell_type": "code", "source": [f"TOKEN = '{TOKEN}'"]}]}),
    "a.json": json.dumps({"token": TOKEN}),
    "a.toml": f'token = "{TOKEN}"',
    "a.txt": f"token: {TOKEN}",
    "a.csv": f"id,token\n1,{TOKEN}\n",
    "wide.txt": f"\ufefftoken: {TOKEN}",
}


@pytest.mark.parametrize("name", KINDS)
def test_text_files_among_the_preprocessing_are_read(tmp_path: Path, name: str) -> None:
    """Of every usual kind, UTF-16 too; the same bytes in a binary file are none of anybody's writing."""
    place = tmp_path / "files"
    place.mkdir()
    (place / name).write_bytes(KINDS[name].encode("utf-16-le" if name.startswith("wide") else "utf-8"))
    (place / "image.bin").write_bytes(b"\0" + TOKEN.encode())
    done = build(tmp_path, {}, 'preprocessing = ["files"]')
    assert done.returncode == 1, done.stderr
    (line,) = json.loads(done.stdout)["details"]
    assert line.startswith(f"files/{name}:")
    assert "Hugging Face token" in line


def test_ordinary_projects_build(tmp_path: Path) -> None:
    """Reading a variable, asking Kaggle's secrets and blanks to fill in are no secrets."""
    text = (
        "import os\nfrom kaggle_secrets import UserSecretsClient\ntoken = tokenizer(x)\nKEY = os.environ['KAGGLE_KEY']\n"
        "HF_TOKEN = 'YOUR_TOKEN'\nSHA256 = '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'\n"
    )
    files = {"src/a.py": text, "src/.env.example": "API_KEY=\n", "src/monkey.json": "{}", "src/pem.py": ""}
    done = build(tmp_path, files, 'modules = ["src"]')
    assert done.returncode == 0, done.stderr
