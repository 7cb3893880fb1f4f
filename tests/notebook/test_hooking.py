"""Hooks in the processes of a recorded or replayed run: what they log, and what they leave as it was."""

import json
import textwrap
from pathlib import Path

import pytest

from tests.support.hooked_runs import HookedRun


@pytest.fixture
def run(tmp_path: Path) -> HookedRun:
    """Run with no server at all."""
    return HookedRun(tmp_path, {})


TOUCHED = """
import os, pathlib, socket, subprocess, sys
pathlib.Path("own.py").write_text("VALUE = 1")
sys.path.insert(0, os.getcwd())
import own
home = pathlib.Path.home()
(home / "data").mkdir()
for _ in range(3):
    (home / "data" / "labels.csv").open("a").close()
    (home / "data" / "labels.csv").read_text()
    os.listdir("../input")
pathlib.Path("missing.txt").exists()
try:
    open("missing.txt")
except FileNotFoundError:
    pass
import json.decoder, email
child = "open('read-by-child.txt', 'w').close(); import socket"
subprocess.run([sys.executable, "-c", child, "--token=hf_cccccccccccccccccccccccc"], check=True)
os.system("true --password=$HOME")
for host in ("host.invalid", "localhost"):
    try:
        socket.create_connection((host, 9))
    except OSError:
        pass
client = socket.socket()
client.setblocking(False)
try:
    client.connect(("192.0.2.1", 81))
except OSError:
    pass
"""


def test_files_folders_processes_and_hosts_are_logged_once(run: HookedRun) -> None:
    """Those of the user, in child processes too: no installed module, no missing file, no secret, no local server."""
    recorded = run.record(TOUCHED, OFFLINE_KIT_CELL="4")
    assert recorded.returncode == 0, recorded.stderr
    opened = [(event["path"], event["mode"]) for event in run.events("open")]
    assert sorted(set(opened) - {("{tmp}/code.py", "r")}) == [
        ("{home}/data/labels.csv", "r"),
        ("{home}/data/labels.csv", "w"),
        ("{working}/own.py", "r"),
        ("{working}/own.py", "w"),
        ("{working}/read-by-child.txt", "w"),
    ]
    assert len(opened) == len(set(opened))
    assert [event["path"] for event in run.events("list") if event["path"].startswith("{input}")] == [
        "{input}"
    ]
    assert [event["words"][-1] for event in run.events("process")] == ["--token=***", "true --password=$HOME"]
    assert [(event["host"], event["port"]) for event in run.events("connect")] == [
        ("host.invalid", 9),
        ("192.0.2.1", 81),
    ]
    assert {event["cell"] for event in run.events("open")} == {4}


SECRETS = """
import json, os, subprocess, sys
from kaggle_secrets import UserSecretsClient
value = UserSecretsClient().get_secret("Weights & Biases")
subprocess.run([sys.executable, "-c", "pass", f"Bearer {value}"])
print(json.dumps([value, subprocess.check_output([sys.executable, "-c",
    "from kaggle_secrets import UserSecretsClient; print(UserSecretsClient().get_secret('HF'))"], text=True)]))
"""


def test_a_secret_is_named_and_never_written(run: HookedRun) -> None:
    """Outside Kaggle a secret is the variable of that name, and empty in a replay."""
    variables = {"Weights & Biases": "plain-old-password", "HF": "another-password"}
    recorded = run.record(SECRETS, **variables)
    assert json.loads(recorded.stdout) == ["plain-old-password", "another-password\n"], recorded.stderr
    assert [event["name"] for event in run.events("secret")] == ["Weights & Biases", "HF"]
    assert "password" not in json.dumps(run.events("process"))
    assert json.loads(run.replay(SECRETS, **variables).stdout) == ["", "\n"]


@pytest.mark.slow
def test_kaggles_own_secrets_are_asked_if_they_exist(run: HookedRun) -> None:
    """The real module stays, with all its names; only in a replay nobody asks it."""
    real = "class UserSecretsClient:\n    def get_secret(self, label): return f'real {label}'\nclass GcpTarget: pass\n"
    (run.folder / "kaggle").mkdir()
    (run.folder / "kaggle" / "kaggle_secrets.py").write_text(real)
    code = (
        "from kaggle_secrets import GcpTarget, UserSecretsClient; print(UserSecretsClient().get_secret('A'))"
    )
    path = str(run.folder / "kaggle")
    assert run.record(code, PYTHONPATH=path).stdout == "real A\n"
    assert run.replay(code, PYTHONPATH=path).stdout == "\n"


PROMPTS = """
import subprocess, sys
asks = "import getpass, sys; print(getpass.getpass() if sys.argv[1:] else input('name? '))"
for words, answer in (([], None), (["secret"], None), ([], b"from a pipe")):
    source = {"input": answer} if answer else {"stdin": subprocess.DEVNULL}
    done = subprocess.run([sys.executable, "-c", asks, *words], capture_output=True, **source)
    print(done.returncode, b"recording" in done.stderr, done.stdout)
"""


def test_a_prompt_ends_a_recording(run: HookedRun) -> None:
    """Nobody can answer it; what a pipe answers is left alone."""
    lines = run.record(PROMPTS).stdout.splitlines()
    assert lines[:2] == ["1 True b''", "1 True b''"]
    assert lines[2:] == ["0 False b'name? from a pipe\\n'"]


def test_the_environments_own_sitecustomize_still_runs(run: HookedRun) -> None:
    """Kaggle's image has one; its name stays the module's."""
    (run.folder / "site").mkdir()
    (run.folder / "site" / "sitecustomize.py").write_text("import os; os.environ['CUSTOMIZED'] = __file__")
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import os, sitecustomize; "
    code += 'print(os.environ["CUSTOMIZED"] == sitecustomize.__file__)\'])'
    for act in (run.record, run.replay):
        assert act(code, PYTHONPATH=str(run.folder / "site")).stdout == "True\n"


@pytest.mark.slow
def test_logins_do_nothing_in_a_replay(run: HookedRun) -> None:
    """huggingface_hub and wandb would ask a server, and need no account for what is in the kit."""
    for name, login in (
        ("huggingface_hub", "def login(token=None): raise OSError"),
        ("wandb", "login = print"),
    ):
        (run.folder / f"{name}.py").write_text(login)
    code = "from huggingface_hub import login; login(token='x'); import wandb; wandb.login(key='x')"
    run.record("pass")
    replayed = run.replay(code, PYTHONPATH=str(run.folder))
    assert (replayed.returncode, replayed.stdout) == (0, ""), replayed.stderr


@pytest.mark.slow
def test_hosts_that_a_replay_looks_up_are_misses(run: HookedRun) -> None:
    """A client that speaks to its server by itself has no recorded answers."""
    run.record("pass")
    run.replay(
        "import socket\ntry: socket.getaddrinfo('host.invalid', 443)\nexcept OSError: pass",
        OFFLINE_KIT_CELL="2",
    )
    assert json.loads(run.misses.read_text()) == {"kind": "host", "what": "host.invalid", "cell": 2}


@pytest.mark.slow
def test_a_replay_knows_no_proxy(run: HookedRun) -> None:
    """Requests to a proxy on this machine would else pass for requests to a local server."""
    run.record("pass")
    code = "import os; print([name for name in os.environ if name.lower() in ('http_proxy', 'https_proxy')])"
    assert (
        run.replay(code, HTTP_PROXY="http://localhost:1", https_proxy="http://localhost:1").stdout == "[]\n"
    )


@pytest.mark.parametrize(("path", "output"), [(":/opt/more", "3\n"), ("", "None\n")])
def test_children_import_from_the_current_folder_as_before(run: HookedRun, path: str, output: str) -> None:
    """An empty entry of PYTHONPATH stays, as Kaggle's image has one, and none is added."""
    code = """
    import pathlib, subprocess, sys
    pathlib.Path("beside.py").write_text("VALUE = 3")
    pathlib.Path("deep").mkdir(exist_ok=True)
    body = "try:\\n    from beside import VALUE\\nexcept ImportError:\\n    VALUE = None\\nprint(VALUE)"
    pathlib.Path("deep/script.py").write_text(body)
    subprocess.run([sys.executable, "deep/script.py"], check=True)
    """
    assert run.record(textwrap.dedent(code), PYTHONPATH=path).stdout == output


def test_the_search_path_of_a_script_begins_as_ever(run: HookedRun) -> None:
    """Scripts find their files by sys.path[0]; only child processes need the hooks' folder."""
    code = "import sys; print(sys.path[0])"
    assert run.record(code).stdout == run.replay(code).stdout == "\n"  # of `python -c`
