"""Containers as sandboxes: what an engine is asked for, and what a process in a container can and cannot do."""

import json
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from offline_kit.core import sandbox
from offline_kit.core.errors import OutsideError, ProjectError
from offline_kit.core.files import format_size
from offline_kit.core.sandbox import Sandbox
from offline_kit.core.sandboxes.box import Box, BoxOutcome, Mount

LIMIT = 200_000_000
FILL = f"x = bytearray({2 * LIMIT})"
PROBE = """
import json, os, pathlib, socket
def fails(action):
    try:
        action()
    except OSError as error:
        return type(error).__name__
address = ("127.0.0.1", int(os.environ["PORT"]))
print(json.dumps({
    "host": fails(lambda: socket.create_connection(address, timeout=5)),
    "outside": fails(lambda: socket.create_connection(("1.1.1.1", 53), timeout=5)),
    "name": fails(lambda: socket.getaddrinfo("pypi.org", 443)),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "input": fails(lambda: pathlib.Path("/kaggle/input/new").touch()),
    "given": pathlib.Path("/kaggle/input/data, too.txt").read_text(),
    "working": fails(lambda: pathlib.Path("/kaggle/working/new").touch()),
    "secret": os.environ.get("SOME_SECRET"),
    "host home": os.path.exists(os.environ["HOST_HOME"]),
    "of image": os.environ.get("OF_IMAGE"),
}))
"""


class ContainerBench:
    """Runs Python in a container with inputs and a working folder."""

    def __init__(self, folder: Path, runner: Sandbox) -> None:
        self.folder, self.runner = folder, runner
        for name in ("in, put", "working"):
            (folder / name).mkdir()
        (folder / "in, put" / "data, too.txt").write_text("given")

    def run(
        self,
        code: str,
        *,
        timeout: float = 120,
        memory: int | None = None,
        watch: Callable[[int], None] = lambda _memory: None,
        **env: str,
    ) -> BoxOutcome:
        box = Box(
            argv=("python3", "-c", code),
            mounts=(
                Mount(inside="/kaggle/input", source=self.folder / "in, put"),
                Mount(inside="/kaggle/working", source=self.folder / "working", writable=True),
            ),
            env=env,
            cwd="/kaggle/working",
            log=self.folder / "log",
            scratch=Path(tempfile.mkdtemp(dir=self.folder)),
            timeout=timeout,
            memory=memory,
        )
        return sandbox.run_box(self.runner, box, watch=watch)

    def list_containers(self) -> list[str]:
        words = [str(self.runner.program), "ps", "--all", "--format", "{{.Names}}"]
        names = subprocess.check_output(words, text=True).split()
        return [name for name in names if name.startswith(f"offline-kit-{os.getpid()}-")]


@pytest.fixture
def bench(tmp_path: Path, container_image: str) -> Iterator[ContainerBench]:
    """A bench whose containers are all gone at the end."""
    made = ContainerBench(tmp_path, sandbox.find_container(container_image))
    yield made
    assert made.list_containers() == []


@pytest.mark.slow
@pytest.mark.container
def test_it_has_no_network_read_only_inputs_and_nothing_of_this_machine(
    bench: ContainerBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No address is reached, this machine's neither; inputs stay as they are; files belong to this user."""
    monkeypatch.setenv("SOME_SECRET", "hunter2")
    with socket.create_server(("127.0.0.1", 0)) as server:
        outcome = bench.run(PROBE, PORT=str(server.getsockname()[1]), HOST_HOME=str(bench.folder))
    printed = (bench.folder / "log").read_text()
    assert outcome.succeeded, printed
    assert json.loads(printed) == {
        "host": "ConnectionRefusedError",
        "outside": "OSError",
        "name": "gaierror",
        "interfaces": ["lo"],
        "input": "OSError",
        "given": "given",
        "working": None,
        "secret": None,
        "host home": False,
        "of image": "yes",
    }
    assert (bench.folder / "working" / "new").stat().st_uid == os.getuid()


@pytest.mark.slow
@pytest.mark.container
@pytest.mark.parametrize("child", [False, True], ids=["first process", "child"])
def test_the_kernel_ends_what_is_over_the_memory_limit(bench: ContainerBench, child: bool) -> None:
    """The limit is the container's own: it is told as such, even if the process that it killed was another's child."""
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {FILL!r}])" if child else FILL
    outcome = bench.run(code, memory=LIMIT)
    assert (outcome.over_memory, outcome.code) == (True, 0 if child else 137)
    within = bench.run("import time; x = bytearray(100_000_000); time.sleep(1.5)", memory=LIMIT)
    assert within.succeeded
    assert 100_000_000 < within.peak_memory < LIMIT, "the curve is that of the container's processes"


@pytest.mark.slow
@pytest.mark.container
def test_a_container_at_its_time_limit_is_ended(bench: ContainerBench) -> None:
    """It ends with everything in it, and is deleted (the bench looks)."""
    outcome = bench.run("import subprocess; subprocess.run(['sleep', '1000'])", timeout=3)
    assert (outcome.timed_out, outcome.over_memory) == (True, False)


@pytest.mark.slow
@pytest.mark.container
def test_an_interrupt_ends_the_container(bench: ContainerBench) -> None:
    """It is deleted whatever ends the run (the bench looks)."""

    def interrupt(memory: int) -> None:
        if memory:  # the container runs
            assert bench.list_containers()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.run("import time; time.sleep(1000)", watch=interrupt)


def make_engine(folder: Path, script: str) -> Path:
    """Write an engine that notes what it is asked and answers by a script; return the notes."""
    program, notes = folder / "docker", folder / "notes"
    program.write_text(f'#!/bin/sh\necho "$@" >> {notes}\n{script}\n')
    program.chmod(0o755)
    return notes


def test_an_image_that_was_not_pulled_is_an_error_and_no_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has the command that pulls it, and how much that is; a pull is never implied."""
    manifest = json.dumps({"layers": [{"size": 11_000_000_000}, {"size": 1_300_000_000}]})
    answers = f"""case "$1" in info) ;; manifest) echo '{manifest}' ;; *) exit 1 ;; esac"""
    notes = make_engine(tmp_path, answers)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProjectError) as caught:
        sandbox.find_container("gcr.io/kaggle-images/python", confirm_pull=lambda _question: False)
    assert caught.value.code == "image-not-pulled"
    assert "docker pull gcr.io/kaggle-images/python" in caught.value.hint
    assert "12.3 GB" in caught.value.hint
    asked = [f"{words} gcr.io/kaggle-images/python" for words in ("image inspect", "manifest inspect")]
    assert notes.read_text().splitlines() == ["info", *asked]


@pytest.mark.parametrize("code", [0, 1])
def test_an_image_is_pulled_if_a_person_agrees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], code: int
) -> None:
    """The question has the size; the engine shows its progress, and what fails in it is told as that."""
    answers = f"""case "$1" in
    info) ;;
    pull) echo half of it; echo > {tmp_path}/pulled; exit {code} ;;
    image) [ -e {tmp_path}/pulled ] && echo "[{{}}]" ;;
    manifest) echo '{{"layers": [{{"size": 7000000}}]}}' ;;
    *) exit 1 ;;
    esac"""
    make_engine(tmp_path, answers)
    monkeypatch.setenv("PATH", str(tmp_path))
    questions = list[str]()

    def confirm_pull(question: str) -> bool:
        questions.append(question)
        return True

    with pytest.raises(OutsideError) as failed:
        sandbox.find_container("some/image", confirm_pull=confirm_pull)
    assert failed.value.code == ("image-pull-failed" if code else "container-engine-missing")
    assert ["7.0 MB" in question for question in questions] == [True]
    assert capfd.readouterr().err == "half of it\n"


def serve_image(folder: Path, image: str) -> ThreadingHTTPServer:
    """Serve an image of podman's as a registry does, under the name `served:1`."""
    subprocess.run(["podman", "save", "--format", "docker-dir", "-o", folder, image], check=True)

    class Registry(SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            name = "manifest.json" if path.endswith("/manifests/1") else path.rpartition(":")[2]
            return str(folder) if path == "/v2/" else str(folder / name)

        def guess_type(self, path: str | os.PathLike[str]) -> str:
            is_manifest = Path(path).name == "manifest.json"
            return "application/vnd.docker.distribution.manifest.v2+json" if is_manifest else "octet-stream"

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.mark.slow
@pytest.mark.container
def test_a_pull_from_a_registry(
    tmp_path: Path, container_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry's manifest has the size; an image that was pulled runs."""
    if sandbox.find_container(container_image).command[0].endswith("docker"):
        pytest.skip("a registry without TLS is podman's: docker's daemon has its own settings")
    with serve_image(tmp_path / "image", container_image) as server:
        address = f"localhost:{server.server_address[1]}"
        settings = tmp_path / "registries.conf"
        settings.write_text(f'[[registry]]\nlocation = "{address}"\ninsecure = true\n')
        monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(settings))
        reference, questions = f"{address}/served:1", list[str]()

        def confirm_pull(question: str) -> bool:
            questions.append(question)
            return True

        try:
            runner = sandbox.find_container(reference, confirm_pull=confirm_pull)
        finally:
            subprocess.run(["podman", "rmi", reference], check=False, capture_output=True)
            server.shutdown()
    layers = json.loads((tmp_path / "image" / "manifest.json").read_text())["layers"]
    assert format_size(sum(layer["size"] for layer in layers)) in questions[0]
    assert runner.image == reference


@pytest.mark.parametrize(
    "script", ["echo no daemon >&2; exit 1", 'case "$1" in info) ;; image) echo "[{}]" ;; *) exit 1 ;; esac']
)
def test_an_engine_that_does_not_run_a_container_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    """One without its daemon, and one that refuses to run the image, are named with what they said."""
    make_engine(tmp_path, script)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OutsideError) as caught:
        sandbox.find_container("some/image")
    assert caught.value.code == "container-engine-missing"
    assert any(str(tmp_path / "docker") in line for line in caught.value.details)
