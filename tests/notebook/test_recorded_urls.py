"""What a recorded run reads from servers is answered in the replay, by the same clients, with the servers gone."""

import gzip
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hooked_runs import HookedRun
from tests.support.internet import Internet, WebAnswer, WebRequest, redirect_to
from tests.support.kits import wheel
from tests.support.lazy_modules import torch
from tests.support.web_hosts import FileHost, GoogleDrive

LARGE = bytes(range(256)) * 20_000


class Host:
    """Files, a redirect to a signed link, a counter, an answer to a question, and a token."""

    def __init__(self) -> None:
        self.count = 0

    def answer(self, request: WebRequest) -> WebAnswer:
        """Answer by path."""
        self.count += 1
        match request.path:
            case "/table.csv":
                table = gzip.compress(b"id,target\n1,2.5\n")
                return WebAnswer(body=table, headers={"Content-Encoding": "gzip", "Content-Type": "text/csv"})
            case "/release":
                return redirect_to(
                    f"https://files.example.org/large.bin?X-Amz-Signature=signature{self.count}"
                )
            case "/large.bin":
                return WebAnswer(body=LARGE)
            case "/chunked":
                chunks = [LARGE[start : start + 70_000] for start in range(0, len(LARGE), 70_000)] + [b""]
                body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
                return WebAnswer(body=body, headers={"Transfer-Encoding": "chunked"})
            case "/count":
                return WebAnswer(body=str(self.count).encode())
            case "/ask":
                return WebAnswer(body=b"answer to " + request.body, headers={"Set-Cookie": "session=private"})
            case "/login":
                return WebAnswer(
                    body=b'{"token": "hf_aaaaaaaaaaaaaaaaaaaaaaaa"}',
                    headers={"Content-Type": "application/json"},
                )
        return WebAnswer(status=404, body=b"no such file")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[HookedRun]:
    """Serve the host on port 80 and 443 of files.example.org."""
    with Internet(tmp_path, {"files.example.org": Host().answer}) as internet:
        yield HookedRun(tmp_path, internet.environment())


CLIENTS = """
import hashlib, http.client, json, urllib.error, urllib.request
import requests

site = "https://files.example.org"
answers = {}
answers["requests"] = requests.get(f"{site}/table.csv").text
with requests.get(f"{site}/release", stream=True) as response:
    digest = hashlib.sha256()
    for chunk in response.iter_content(100_000):
        digest.update(chunk)
    answers["streamed"] = [digest.hexdigest(), [old.status_code for old in response.history]]
answers["retrieved"] = hashlib.sha256(open(urllib.request.urlretrieve(f"{site}/release")[0], "rb").read()).hexdigest()
session = requests.Session()
answers["chunked"] = [hashlib.sha256(session.get(f"{site}/chunked").content).hexdigest() for _ in range(2)]
with urllib.request.urlopen("http://files.example.org/chunked") as response:
    lines = [response.readline(), response.read1(10), response.read(5), response.read()]
    answers["pieces"] = hashlib.sha256(b"".join(lines)).hexdigest()
answers["counts"] = [requests.get(f"{site}/count").text for _ in range(3)]
answers["posts"] = [requests.post(f"{site}/ask", json={"question": n}).text for n in (1, 2)]
answers["head"] = requests.head(f"{site}/large.bin").headers["content-length"]
try:
    urllib.request.urlopen(f"{site}/missing")
except urllib.error.HTTPError as error:
    answers["missing"] = [error.code, error.read().decode()]
try:
    urllib.request.urlopen(f"{site}/missing-unread")
except urllib.error.HTTPError as error:
    answers["unread"] = error.code
answers["tried"] = urllib.request.urlopen(f"{site}/table.csv?tried").status
print(json.dumps(answers))
"""


@pytest.mark.slow
def test_clients_read_the_same_without_the_server(run: HookedRun) -> None:
    """requests and urllib: compressed, chunked, streamed, redirected to signed links, asked again, posted."""
    recorded, replayed = run.record(CLIENTS), run.replay(CLIENTS)
    assert recorded.returncode == 0, recorded.stderr
    answers = json.loads(recorded.stdout)
    assert answers["requests"] == "id,target\n1,2.5\n"
    assert answers["streamed"] == [hashlib.sha256(LARGE).hexdigest(), [302]]
    assert len(set(answers["counts"])) == 3
    assert replayed.stdout == recorded.stdout, replayed.stderr
    assert not run.misses.exists()


UNKNOWN = """
import urllib.error, urllib.request
import requests

for url in ("https://files.example.org/unknown", "http://elsewhere.example.org/unknown"):
    try:
        requests.get(url)
    except requests.ConnectionError:
        print("requests has no connection")
    try:
        urllib.request.urlopen(url)
    except urllib.error.URLError:
        print("urllib has no connection")
"""


@pytest.mark.slow
def test_what_was_not_recorded_fails_as_without_a_network(run: HookedRun) -> None:
    """The errors that clients know, a line for each URL in the file of misses, with the cell."""
    run.record("import urllib.request; urllib.request.urlopen('https://files.example.org/large.bin').read()")
    replayed = run.replay(UNKNOWN, OFFLINE_KIT_CELL="7")
    assert replayed.stdout.splitlines() == ["requests has no connection", "urllib has no connection"] * 2
    misses = [json.loads(line) for line in run.misses.read_text().splitlines()]
    assert {(miss["kind"], miss["what"], miss["cell"]) for miss in misses} == {
        ("url", "GET https://files.example.org/unknown", 7),
        ("url", "GET http://elsewhere.example.org/unknown", 7),
    }


PARTIAL = """
import urllib.request

urllib.request.urlopen("https://files.example.org/large.bin").read(1000)
with urllib.request.urlopen("https://files.example.org/login") as response:
    response.read()
urllib.request.urlopen(urllib.request.Request("https://files.example.org/ask?token=sesame-open", b"?")).read()
"""


def test_half_answers_and_secrets_are_not_recorded(run: HookedRun) -> None:
    """Of a large body that was not read to its end nothing is kept; a token in an answer, a URL and a cookie neither."""
    run.record(PARTIAL)
    login, ask = run.events("url")
    assert (login["key"], ask["key"].rpartition(" ")[0]) == (
        "GET https://files.example.org/login",
        "POST https://files.example.org/ask?token=***",
    )
    objects = list((run.folder / "scratch" / "recorder" / "objects").iterdir())
    assert {path.name for path in objects} == {login["sha256"], ask["sha256"]}
    events = run.folder / "scratch" / "recorder" / "events.jsonl"
    written = b"".join(path.read_bytes() for path in (*objects, events))
    assert not [secret for secret in (b"hf_a", b"sesame", b"session") if secret in written]
    assert run.replay("\n".join(PARTIAL.splitlines()[:2] + PARTIAL.splitlines()[4:])).returncode == 0


LIBRARIES = """
import pathlib, subprocess, sys
import gdown, pandas, torch

site = "https://files.example.org"
print(pandas.read_csv(f"{site}/table.csv").to_dict())
print(gdown.download(id="1abcdefghijklmnopqrstuvwxyz012345", output="gdown.bin", quiet=True))
print(torch.hub.load_state_dict_from_url(f"{site}/weights.pt", model_dir="models", progress=False))
wheel = f"{site}/tiny-1.0-py3-none-any.whl"
pathlib.Path("requirements.txt").write_text(f"tiny @ {wheel}")
options = ["--target", "installed", "--no-deps", "--no-cache-dir", "--upgrade", "-f", f"{site}/links.html"]
for wanted in ([wheel], ["-r", "requirements.txt"], ["tiny==1.0"]):
    done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", *options, *wanted])
    print(done.returncode)
print(sorted(path.name for path in pathlib.Path("installed").iterdir()))
"""


@pytest.mark.slow
def test_libraries_fetch_the_same(tmp_path: Path) -> None:
    """pandas, torch.hub, gdown, and pip for the wheels that a line names by URL; what a page links to is no URL of ours."""
    weights = io.BytesIO()
    torch.save({"weight": torch.ones(3)}, weights)
    name, built = wheel("tiny", "1.0")
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / name).write_bytes(built)
    page = b'<a href="/tiny-1.0-py3-none-any.whl">tiny-1.0-py3-none-any.whl</a>'
    files = FileHost(
        files={
            "/table.csv": b"id,target\n1,2.5\n",
            "/weights.pt": weights.getvalue(),
            f"/{name}": built,
            "/links.html": page,
        }
    )
    drive = GoogleDrive(files={"1abcdefghijklmnopqrstuvwxyz012345": ("model.bin", b"weights")})
    with Internet(tmp_path, {"files.example.org": files.answer, **drive.hosts()}) as internet:
        run = HookedRun(tmp_path, internet.environment())
        recorded = run.record(LIBRARIES)
    assert recorded.stdout.splitlines()[-4:-1] == ["0", "0", "0"], recorded.stderr
    assert sum(event["key"].endswith(".whl") for event in run.events("url")) == 2
    assert not [event for event in run.events("url") if event["key"].endswith("links.html")]
    # As a replay's setup has it; the page is not asked for its link.
    replayed = run.replay(LIBRARIES, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path / "wheels"))
    assert replayed.stdout == recorded.stdout, replayed.stderr
    assert not run.misses.exists()


SERVER = """
import http.server, os, threading, urllib.request

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(os.environ["ANSWER"].encode())

server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(urllib.request.urlopen(f"http://localhost:{server.server_address[1]}/predict").read().decode())
"""


@pytest.mark.slow
def test_a_server_that_the_notebook_starts_answers_anew(run: HookedRun) -> None:
    """This machine's own servers are neither recorded nor replayed: their predictions must be those of today's data."""
    assert run.record(SERVER, ANSWER="old").stdout == "old\n"
    assert run.events("url") + run.events("connect") == []
    assert run.replay(SERVER, ANSWER="new").stdout == "new\n"
