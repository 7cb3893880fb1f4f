"""Planted secrets, of Kaggle and of a package index, are in nothing that offline-kit says or leaves behind."""

import base64
import json
import os
import shutil
import stat
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.command_line import Done
from tests.support.local_index import LocalIndex, make_wheel
from tests.support.shipping import Yard, make_project, retrain, yard

pytestmark = pytest.mark.slow
USER, KEY, TOKEN = "carol", "planted0key4of8carol", "KGAT_planted1token5of9carol"
INDEX_USER, PASSWORD = "packager", "planted2password6of0the:index/"
UPLOAD = "planted3upload7address1"
SECRETS = (KEY, TOKEN, PASSWORD, UPLOAD, f"{USER}:{KEY}", f"{INDEX_USER}:{PASSWORD}")
CREDENTIALS: dict[str, dict[str, str]] = {
    "key in variables": {"KAGGLE_USERNAME": USER, "KAGGLE_KEY": KEY},
    "key in kaggle.json": {},
    "token in a variable": {"KAGGLE_API_TOKEN": TOKEN},
    "token in a file": {},
}
CRASH = """
import click, os
from offline_kit.cli.main import cli
@cli.command()
@click.argument("project")
def crash(project):
    told = [value for name, value in os.environ.items() if name.startswith(("KAGGLE", "PIP"))]
    raise RuntimeError(f"this is not foreseen: {told}")
"""


def forms(secret: str) -> Iterator[bytes]:
    """Yield a secret as it is, as it stands in an address, and in base64, wherever in it."""
    yield secret.encode()
    yield quote(secret, safe="").encode()
    for shift in range(3):
        # What its neighbours have a part in is cut off.
        coded = base64.b64encode(b"\0" * shift + secret.encode())
        core = coded[-(-shift * 4 // 3) : len(coded) // 4 * 4 - 4]
        yield core
        yield core.replace(b"+", b"-").replace(b"/", b"_")


NEEDLES = {form: secret for secret in SECRETS for form in forms(secret)}


def told(data: bytes) -> set[str]:
    """Return the secrets that are in some bytes."""
    return {secret for form, secret in NEEDLES.items() if form in data}


def left(folder: Path, aside: frozenset[Path]) -> dict[str, set[str]]:
    """Return the files below a folder that hold secrets, members of wheels and zips too; `aside` is left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file() or aside & {path, *path.parents}:
            continue
        found[str(path)] = told(path.read_bytes()) | told(str(path).encode())
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                found |= {f"{path}:{name}": told(archive.read(name)) for name in archive.namelist()}
    return {name: secrets for name, secrets in found.items() if secrets}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that needs one package."""
    made = make_project(
        tmp_path_factory.mktemp("made") / "project", more='requirements = ["requirements.in"]\n'
    )
    (made / "requirements.in").write_text("tinything\n")
    return made


@pytest.fixture
def index(tmp_path: Path) -> Iterator[LocalIndex]:
    """An index that asks for a password."""
    with LocalIndex() as served:
        served.add(make_wheel(tmp_path, "tinything", "1.0"))
        yield served


def planted(here: Yard, index: LocalIndex, source: str, *, in_file: bool) -> dict[str, str | None]:
    """Plant credentials for Kaggle and the index; return the environment, in which the local Kaggle is the real one."""
    here.bench.kaggle.accounts.add_account(USER, key=KEY, token=TOKEN)
    home, temporary = here.bench.folder / "home", here.bench.folder / "temporary"
    (home / ".kaggle").mkdir(parents=True, exist_ok=True)
    temporary.mkdir()
    if "kaggle.json" in source:
        (home / ".kaggle" / "kaggle.json").write_text(json.dumps({"username": USER, "key": KEY}))
    if "token in a file" in source:
        (home / ".kaggle" / "access_token").write_text(TOKEN)
    address = index.with_credentials(INDEX_USER, PASSWORD)
    config = here.bench.folder / "pip.conf"
    config.write_text(f"[global]\nindex-url = {address}\n" if in_file else "")
    env: dict[str, str | None] = {**here.bench.environment()}
    env |= {"KAGGLE_USERNAME": None, "KAGGLE_KEY": None, "KAGGLE_CONFIG_DIR": None}
    env |= {"HOME": str(home), "TMPDIR": str(temporary), "PIP_CONFIG_FILE": str(config), "VERBOSE": "1"}
    env |= {"OFFLINE_KIT_CACHE": str(here.bench.folder / "cache")}
    env |= {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}  # the index
    return {**env, **({} if in_file else {"PIP_INDEX_URL": address}), **CREDENTIALS[source]}


def aside(here: Yard) -> frozenset[Path]:
    """Return where secrets were planted, and what the server keeps."""
    names = ("state", "pip.conf", "home/.kaggle/kaggle.json", "home/.kaggle/access_token")
    return frozenset(here.bench.folder / name for name in names)


@pytest.mark.parametrize("source", CREDENTIALS)
@pytest.mark.parametrize(
    "in_file",
    [
        pytest.param(False, id="index in a variable", marks=pytest.mark.exhaustive),
        pytest.param(True, id="index in pip.conf"),
    ],
)
def test_secrets_stay_where_they_were_planted(
    tmp_path: Path, project: Path, index: LocalIndex, source: str, *, in_file: bool
) -> None:
    """Built, pushed, shipped, failed and looked at, by each kind of credentials: no word and no file has one."""
    with yard(tmp_path, project) as here:
        env = planted(here, index, source, in_file=in_file)
        said: list[tuple[str, Done]] = []

        def run(*words: str) -> Done:
            said.append((" ".join(words), here.run(*words, env=env)))
            return said[-1][1]

        index.fail("/simple/tinything", 401, times=99)
        run("build").failed(4)
        index.faults.clear()
        run("build").good()
        with here.broken(on="PUT", status=403):
            run("push").failed(4)
        for status in (401, 403, 500):
            with here.broken(on="CreateDataset", status=status, message=""):
                run("push", "--no-build").failed(4)
        run("ship", "--yes", "--wait", "--no-rehearsal", "--json").good()
        retrain(here.project, b"2")
        with here.broken(on="GET", status=403, message=""):
            run("push").failed(4)
        run("push", "--no-build").good()
        for words in (("status",), ("status", "--json"), ("status", "--to", "kaggle"), ("verify",)):
            run(*words)
        for words in (
            ("submit", "--dry-run"),
            ("doctor",),
            ("doctor", "--online"),
            ("diff", str(here.project / "dist/offline-kit")),
        ):
            run(*words)
        upload = {"token": UPLOAD, "createUrl": f"https://storage.example/upload?upload_id={UPLOAD}"}
        retrain(here.project, b"3")
        with here.broken(on="StartBlobUpload", answer=upload):
            run("push").failed(4, "storage.example")
        (state,) = here.project.glob(".offline-kit/offline-kit.push/*/*/uploads/*")
        assert stat.S_IMODE(state.stat().st_mode) == 0o700
        shutil.rmtree(state)  # only we can read it: who goes on with an upload needs its address
        leaks = {words: told((each.out + each.err).encode()) for words, each in said}
        assert {words: found for words, found in leaks.items() if found} == {}
        assert {words: each.err for words, each in said if each.code == 3} == {}, "a crash"
        assert left(tmp_path, aside(here)) == {}


def test_a_crash_report_has_none(tmp_path: Path, project: Path, index: LocalIndex) -> None:
    """Even where our bug puts them into its message."""
    with yard(tmp_path, project) as here:
        env = planted(here, index, "key in variables", in_file=False) | {"KAGGLE_API_TOKEN": TOKEN}
        done = _crash(here, env)
        assert (done.code, "bug in offline-kit" in done.err) == (3, True), done.err
        report = here.project / "offline-kit-crash.log"
        assert "this is not foreseen" in report.read_text()
        assert told((done.out + done.err).encode()) == set()
        assert left(tmp_path, aside(here)) == {}


@pytest.mark.index
@pytest.mark.sandbox
def test_the_notebook_sees_none(tmp_path: Path, project: Path, index: LocalIndex) -> None:
    """Rehearsed here or run by the local Kaggle, it tells all of its environment, and no secret is in it."""
    with yard(tmp_path, project) as here:
        env = planted(here, index, "key in variables", in_file=False) | {"KAGGLE_API_TOKEN": TOKEN}
        # What runs the notebook comes from the ordinary index.
        env |= {"PIP_EXTRA_INDEX_URL": env["PIP_INDEX_URL"]}
        env |= {
            name: os.environ.get(name)
            for name in ("PIP_INDEX_URL", "PIP_CONFIG_FILE", "no_proxy", "NO_PROXY")
        }
        env |= {"http_proxy": os.environ.get("http_proxy"), "https_proxy": os.environ.get("https_proxy")}
        code = here.project / "predict.py"
        code.write_text(
            code.read_text().replace(
                "context):\n", "context):\n    import os; print('SEEN', dict(os.environ))\n"
            )
        )
        data = ("--competition-data", str(here.bench.folder / "small-digits" / "public"))
        here.run("build", env=env).good()
        here.run("rehearse", "--env", "current", "--yes", *data, env=env).good()
        assert "SEEN" in (here.project / "dist/offline-kit/rehearsal/executed.ipynb").read_text()
        served = here.run(
            "push", "--to", "local", "--env", "current", "--competition", "", "--no-build", env=env
        )
        assert told((served.out + served.err).encode()) == set()
        logs = [path.read_text() for path in here.project.rglob("log.txt")]
        assert any("SEEN" in log for log in logs), served.err
        assert left(tmp_path, aside(here)) == {}


def _crash(here: Yard, env: Mapping[str, str | None]) -> Done:
    import subprocess

    code = here.hurried.replace("main(sys", CRASH + "main(sys")
    whole = {name: value for name, value in {**here.env, **env}.items() if value is not None}
    words = [sys.executable, "-c", code, "crash", str(here.project)]
    done = subprocess.run(words, env=whole, cwd=here.project, capture_output=True, text=True, check=False)
    return Done(code=done.returncode, out=done.stdout, err=done.stderr)


def test_what_is_looked_for_would_be_found(tmp_path: Path) -> None:
    """The looking itself: plain, in an address, in base64 at each place of three, and in a wheel."""
    for shift in range(3):
        pair = base64.b64encode(os.urandom(shift) + f"{USER}:{KEY}".encode() + b"after")
        assert KEY in told(pair)
    assert PASSWORD in told(quote(PASSWORD, safe="").encode())
    with zipfile.ZipFile(tmp_path / "x.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("member", KEY * 9)
    assert list(left(tmp_path, frozenset())) == [f"{tmp_path / 'x.whl'}:member"]
