"""Servers that answer nonsense: one clean sentence, exit code 4, and never a traceback or an endless wait."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from offline_kit.core.errors import OutsideError
from offline_kit.core.retry import RetryPolicy
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.client.session import KaggleEndpoint
from offline_kit.local_kaggle.faults import Fault
from tests.support.command_line import offline_kit
from tests.support.local_kaggle import SLUG, Bench
from tests.support.loopback import LoopbackServer
from tests.support.push_command import KIT, hasty_client, local, push
from tests.support.push_command import bench as bench  # a fixture
from tests.support.pushing import make_kit
from tests.support.warm_python import client_python

Respond = Callable[[BaseHTTPRequestHandler], None]


def clean(done: "CompletedProcess[str]") -> str:
    """Return the sentence of a command that Kaggle failed: exit code 4, one line, nothing for a terminal to obey."""
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
    assert not [letter for letter in done.stderr if not letter.isprintable() and letter != "\n"]
    told = json.loads(done.stdout)["error"]
    assert "\n" not in told
    assert len(told) < 1000
    return str(told)


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("GetDataset", {"currentVersionNumber": ["no", "number"]}),
        ("GetDataset", {"currentVersionNumber": 1, "versions": {"1": "no list"}}),
        ("GetDataset", {"currentVersionNumber": 1, "isPrivate": "perhaps"}),
        ("GetDatasetStatus", {"status": {"no": "word"}}),
        ("StartBlobUpload", {"token": {}, "createUrl": 7}),
        ("StartBlobUpload", {"token": "t", "createUrl": "no address"}),
        ("CreateDataset", {"status": ["Ok"]}),
        ("CreateDataset", {"status": "Error", "error": {"nested": "error"}}),
    ],
)
def test_a_field_of_a_wrong_type_is_told(bench: Bench, method: str, answer: dict[str, Any]) -> None:
    """The push ends at once; which field it was is told, or what could not be done with it."""
    if method == "GetDatasetStatus":
        bench.kaggle.faults.add_fault(Fault(on="GetDataset", times=0, answer={"currentVersionNumber": 1}))
    bench.kaggle.faults.add_fault(Fault(on=method, times=0, answer=answer))
    clean(push(bench, *local(bench), "--json"))


def test_words_of_a_server_are_one_plain_line(bench: Bench) -> None:
    """Colours, bells, line breaks, turned directions and half letters of an error reach no terminal."""
    words = (
        "no\x1b[31m red\x1b[0m\x07\r\n\tline\x9b2J \u202eturned \ud800half \x1b]0;title\x07" + "long " * 9999
    )
    bench.kaggle.faults.add_fault(Fault(on="CreateDataset", times=0, status=400, message=words))
    told = clean(push(bench, *local(bench), "--json"))
    assert "no red line" in told
    assert "title" not in told


@contextmanager
def far_end(respond: Respond) -> Iterator[str]:
    """Serve as a Kaggle that answers every request in this way; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with suppress(OSError):
                respond(self)

        do_GET = do_PUT = do_POST  # noqa: N815 - as the standard library calls them

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    with LoopbackServer(Handler) as server:
        yield server.address


def endless(handler: BaseHTTPRequestHandler) -> None:
    """Answer with a JSON that never ends, as fast as it is taken."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    handler.wfile.write(b'{"title": "')
    while True:
        handler.wfile.write(b"a" * (1 << 20))


def dripping(handler: BaseHTTPRequestHandler) -> None:
    """Answer with a JSON that never ends, a byte at a time: no single read takes long."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    pause = threading.Event()
    while True:
        handler.wfile.write(b" ")
        handler.wfile.flush()
        pause.wait(0.1)


def nested(handler: BaseHTTPRequestHandler) -> None:
    """Answer with lists in lists in lists."""
    body = b"[" * 200_000
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def push_to(folder: Path, url: str) -> "CompletedProcess[str]":
    """Push a new project's kit to a server."""
    project = folder / "project"
    project.mkdir()
    (project / "offline-kit.toml").write_text('dataset = "plant-kit"\n')
    make_kit(project / "dist" / "offline-kit", KIT)
    words = ("push", "--no-build", "--data-only", "--to", "local", "--at", url, "--json", str(project))
    return offline_kit(*words, client=hasty_client())


def test_an_answer_that_nobody_can_read_ends_the_command(tmp_path: Path) -> None:
    """It is no bug of ours."""
    with far_end(nested) as url:
        done = push_to(tmp_path, url)
    clean(done)


def test_an_answer_that_drips_ends_in_time(tmp_path: Path) -> None:
    """However often a byte comes."""
    with far_end(dripping) as url:
        where = KaggleEndpoint(local=url)
        with (
            KaggleClient(
                where, python=client_python(), seconds=1.0, patience=RetryPolicy(attempts=1)
            ) as client,
            pytest.raises(OutsideError),
        ):
            client.get_dataset(SLUG)


def test_the_storage_may_say_what_it_wants(tmp_path: Path) -> None:
    """Only the status of an upload counts: a body behind it that never ends is not read, and the push goes on."""
    bodies = {
        "StartBlobUpload": (200, {"token": "t", "createUrl": "http://localhost/upload/t"}),
        "CreateDataset": (400, {"error": {"message": "so far, and no further"}}),
    }

    def storage(handler: BaseHTTPRequestHandler) -> None:
        if handler.command == "PUT":
            endless(handler)
        status, answer = bodies.get(handler.path.rpartition("/")[2], (404, {}))
        body = json.dumps(answer).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    with far_end(storage) as url:
        done = push_to(tmp_path, url)
    assert "so far, and no further" in clean(done)
