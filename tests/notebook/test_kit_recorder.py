"""A session that is recorded, in a real IPython shell: cells, packages, repositories, files, and the part that they become."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import textwrap
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from offline_kit.kit.manifest import read_manifest
from offline_kit.notebook.runtime.kit_recording import RecordedObjects
from offline_kit.notebook.runtime.kit_runtime import find_failure
from tests.support.internet import Internet
from tests.support.local_index import LocalIndex, make_wheel
from tests.support.sdists import own_backend
from tests.support.web_hosts import FileHost, GitHost, PackageIndex

_SHELL = """
import json, os, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
cells, may_fail = map(json.loads, sys.argv[1:])
for cell in cells:
    if not shell.run_cell(cell, store_history=True).success and int(os.environ["OFFLINE_KIT_CELL"]) not in may_fail:
        sys.exit(1)
"""
_TOP = """
from offline_kit.notebook.runtime.kit_recorder import finish_recording, start_recording
start_recording({source!r}, {where!r}, {pack_inputs!r}, {beside!r}, "1.2.3", {lacking!r})
"""


@dataclass
class Session:
    """Folders of a session, and how to record cells in it."""

    folder: Path
    where: str = "here"
    pack_inputs: Sequence[str] = ()
    beside: str = ""
    lacking: Sequence[str] = ()
    python: str = sys.executable
    variables: Mapping[str, str] = field(default_factory=dict)
    output: str = ""

    def __post_init__(self) -> None:
        for name in ("input", "working", "home", "tmp"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    @property
    def working(self) -> Path:
        return self.folder / "working"

    def run_python(self, *words: str) -> int:
        environ = {
            **os.environ,
            "OFFLINE_KIT_INPUT": str(self.folder / "input"),
            "OFFLINE_KIT_WORKING": str(self.working),
            "OFFLINE_KIT_SCRATCH": str(self.folder / "scratch"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            **self.variables,
        }
        done = subprocess.run(
            [self.python, *words],
            cwd=self.working,
            env=environ,
            text=True,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.output = done.stdout
        return done.returncode

    def top(self, **source: Any) -> str:
        source = {"name": "a.ipynb", "sha256": "0" * 64, **source}
        names = ("where", "pack_inputs", "beside", "lacking")
        return _TOP.format(source=source, **{name: getattr(self, name) for name in names})

    def run_cells(self, *cells: str, numbers: Sequence[int] = (), may_fail: Sequence[int] = ()) -> int:
        """Run cells as a recorder's notebook does, and return the exit code."""
        top = self.top(cells=numbers or list(range(1, len(cells) + 1)), may_fail=may_fail)
        whole = [top, *map(textwrap.dedent, cells), "finish_recording()"]
        return self.run_python("-c", _SHELL, json.dumps(whole), json.dumps(may_fail))

    def record(
        self, *cells: str, numbers: Sequence[int] = (), may_fail: Sequence[int] = ()
    ) -> dict[str, Any]:
        """Run cells, and return the document."""
        self.run_cells(*cells, numbers=numbers, may_fail=may_fail)
        return self.document()

    def record_script(self, code: str) -> dict[str, Any]:
        (self.folder / "script.py").write_text(self.top(cells=[]) + textwrap.dedent(code))
        self.run_python(str(self.folder / "script.py"))
        return self.document()

    def document(self) -> dict[str, Any]:
        path = self.working / "recording" / "recording.json"
        assert path.is_file(), self.output
        return dict(json.loads(path.read_text()))

    def read_object(self, digest: str) -> bytes:
        objects = RecordedObjects(self.working / "recording", self.folder / "unpacked")
        return objects.find_object(digest).read_bytes()


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path)


def test_cells_have_the_numbers_of_the_notebook(session: Session) -> None:
    """Cells are known by their numbers in the file, `%%capture` makes no further one, and children know them."""
    document = session.record(
        "data = bytearray(300_000_000)",
        "%%capture\nopen('submission.csv', 'w').write('id,y\\n1,2\\n')",
        "import os, subprocess\nopen('cell', 'wb').write(subprocess.check_output(['sh', '-c', 'echo $OFFLINE_KIT_CELL']))",
        numbers=[2, 5, 9],
    )
    assert [cell["cell"] for cell in document["cells"]] == [2, 5, 9]
    assert document["cells"][0]["memory"] > 300_000_000
    assert (session.working / "cell").read_text() == "9\n"
    assert (document["finished"], document["error"]) == (True, None)
    assert document["submission"]["path"] == "{working}/submission.csv"
    assert session.read_object(document["submission"]["sha256"]) == b"id,y\n1,2\n"


def test_the_part_is_one_of_a_kit(session: Session) -> None:
    """Its manifest lists the document, the objects and the runtime, all with their hashes."""
    session.record("1")
    part = read_manifest(session.working)
    assert part.name == "recording"
    stored = {entry.stored: entry for entry in part.entries}
    assert all((session.working / name).stat().st_size == entry.size for name, entry in stored.items())
    assert {str(entry.role) for entry in part.entries} == {"recording", "runtime"}
    assert {"recording/recording.json", "recording/small.objects"} <= set(stored)
    assert "offline_kit_runtime/kit_recording.py" in stored


def test_a_failed_cell_ends_the_recording(session: Session) -> None:
    """What was recorded until then is packed, with the cell and its error; cells that may fail do not count."""
    document = session.record("1 / 0", "open('kept', 'w')", "raise ValueError('no')", "2", may_fail=[1])
    assert [cell["cell"] for cell in document["cells"]] == [1, 2, 3]
    assert not document["finished"]
    assert document["error"] == {"cell": 3, "message": "ValueError: no"}


@pytest.mark.slow
@pytest.mark.parametrize(("end", "error"), [("", None), ("raise ValueError('no')", "ValueError: no")])
def test_a_script_is_packed_when_it_ends(session: Session, end: str, error: str | None) -> None:
    """A script is one cell without a number; an error that ended it is in the document."""
    document = session.record_script(f"open('submission.csv', 'w').close()\n{end}")
    assert [cell["cell"] for cell in document["cells"]] == [0]
    assert document["finished"] is (error is None)
    assert document["error"] == (error and {"cell": 0, "message": error})


@pytest.mark.slow
def test_project_files_that_are_used_are_packed(session: Session) -> None:
    """Opened by Python, named in code, or in a folder that a shell gets: packed at the path the cells know; others not."""
    project = session.folder / "project"
    for name in (
        "opened.txt",
        "sub/listed/a.txt",
        "config.yaml",
        "tool.sh",
        "shell/deep/b.txt",
        "unused.txt",
    ):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(name)
    (project / "helper.py").write_text("VALUE = 3")
    (project / "tool.sh").chmod(0o755)
    (project / "submission.csv").write_text("old")
    os.utime(project / "submission.csv", (0, 0))
    session.beside = str(project)
    document = session.record(
        """
        import os, helper
        open("opened.txt").read(), os.listdir("sub/listed")
        open("opened.txt", "a").write("!")
        config = "./config.yaml"
        """,
        "!cp -r shell copied && ./tool.sh",
    )
    assert {file["path"] for file in document["files"]} == {
        f"{{working}}/{name}"
        for name in (
            "opened.txt",
            "sub/listed/a.txt",
            "config.yaml",
            "tool.sh",
            "shell/deep/b.txt",
            "helper.py",
        )
    }
    assert [file["path"] for file in document["files"] if "mode" in file] == ["{working}/tool.sh"]
    assert session.read_object(document["files"][1]["sha256"]) == b"VALUE = 3"
    assert {file["kind"] for file in document["files"]} == {"beside"}
    assert document["submission"] is None
    assert (project / "opened.txt").read_text() == "opened.txt"


def test_credentials_are_not_recorded(session: Session) -> None:
    """Neither the files of a client's login nor a token in a project's file, nor one in an error; nor lists of fonts."""
    token = "hf_" + "a1B2" * 8
    session.beside = str(session.folder / "project")
    Path(session.beside).mkdir()
    (Path(session.beside) / "config.py").write_text(f"TOKEN = {token!r}\n")
    (Path(session.beside) / "kaggle.json").write_text(json.dumps({"key": "0123456789abcdef"}))
    document = session.record(
        f"""
        import os, config
        for name in ("token", "model/config.json"):
            path = os.path.join(os.environ["HF_HOME"], name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            open(path, "w").write({token!r})
        os.makedirs(os.environ["XDG_CACHE_HOME"] + "/matplotlib")
        open(os.environ["XDG_CACHE_HOME"] + "/matplotlib/fontlist.json", "w").close()
        open("kaggle.json", "w").close()
        raise ValueError(config.TOKEN)
        """,
    )
    assert {file["path"].rpartition("/")[2] for file in document["files"]} == {"config.py", "config.json"}
    config = next(file for file in document["files"] if file["kind"] == "beside")
    assert session.read_object(config["sha256"]) == b"TOKEN = '***'\n"
    assert len(document["notes"]) == 1
    assert document["error"] == {"cell": 1, "message": "ValueError: ***"}


@pytest.mark.slow
def test_an_own_input_is_packed_whole_if_it_is_used(session: Session) -> None:
    """Readers in C are not seen; a list of all inputs, as in Kaggle's first cell, is no use."""
    for name in (
        "weights/a.bin",
        "weights/deep/b.bin",
        "other/c.bin",
        "datasets/me/maps/d.csv",
        "folds/fold0.txt",
    ):
        (session.folder / "input" / name).parent.mkdir(parents=True, exist_ok=True)
        (session.folder / "input" / name).write_text(name)
    session.pack_inputs = ["weights", "other", "folds"]
    document = session.record(
        """
        import os
        for folder, _, names in os.walk(os.environ["OFFLINE_KIT_INPUT"]):
            print(folder, names)
        """,
        """
        top = os.environ["OFFLINE_KIT_INPUT"] + "/"
        open(top + "weights/a.bin").read(), open(top + "datasets/me/maps/d.csv").read()
        PATTERN = "/kaggle/input/*/fold*.txt"
        """,
    )
    assert [(file["path"], file["kind"]) for file in document["files"]] == [
        ("{input}/weights/a.bin", "input"),
        ("{input}/weights/deep/b.bin", "input"),
        ("{input}/folds/fold0.txt", "input"),
    ]
    assert document["inputs"] == [
        {"mount": "datasets/me/maps", "files": 1, "read": ["d.csv"]},
        {"mount": "weights", "files": 1, "read": ["a.bin"]},
    ]


@pytest.mark.slow
def test_repositories_are_mirrored_as_git_saw_them(session: Session) -> None:
    """Whole ones and shallow ones, by branch, tag, ref or commit; what could not be cloned is left out."""
    host = GitHost(folder=session.folder / "git")
    for name in ("whole", "shallow", "fetched"):
        host.make_repository(f"me/{name}", {"module.py": "VALUE = 1"}, tag="v1")
    git = ["git", "-C", str(host.folder / "me/whole.git")]
    subprocess.run([*git, "update-ref", "refs/pull/7/head", "v1"], check=True)
    git[-1] = str(host.folder / "me/fetched.git")
    commit = subprocess.check_output([*git, "rev-parse", "v1"], text=True).strip()
    with Internet(session.folder, host.hosts()) as internet:
        session.variables = internet.environment()
        document = session.record(
            "!git clone -q https://user:secret-word@github.com/me/whole && git clone -q https://github.com/me/none",
            "!git clone -q --depth 1 -b v1 https://github.com/me/shallow.git",
            "!git -C whole fetch -q origin pull/7/head\n!git init -q new\n"
            f"!git -C new fetch -q --depth 1 https://github.com/me/fetched {commit}",
        )
    by_name = {entry["url"].rpartition("/")[2]: entry for entry in document["repositories"]}
    assert {name: entry["cell"] for name, entry in by_name.items()} == {
        "whole": 1,
        "shallow": 2,
        "fetched": 3,
    }
    objects = [session.read_object(entry["sha256"]) for entry in by_name.values()]
    assert not any(b"secret-word" in data for data in (json.dumps(document).encode(), *objects))
    shown = {}
    for name, entry in by_name.items():
        mirror = session.folder / "mirrors" / name
        with tarfile.open(fileobj=io.BytesIO(session.read_object(entry["sha256"]))) as archive:
            archive.extractall(mirror, filter="data")
        refs = subprocess.check_output(
            ["git", "-C", str(mirror), "for-each-ref", "--format=%(refname)"], text=True
        )
        subprocess.run(["git", "clone", "-q", mirror.as_uri(), str(mirror) + "-clone"], check=True)
        shown[name] = (
            refs.split(),
            (mirror / "shallow").exists(),
            Path(f"{mirror}-clone/VERSION").read_text(),
        )
    assert shown["whole"] == (["refs/heads/main", "refs/pull/7/head", "refs/tags/v1"], False, "2")
    assert shown["shallow"] == (["refs/heads/main", "refs/tags/v1"], True, "2")
    assert shown["fetched"] == (
        ["refs/heads/main", f"refs/offline-kit/{commit[:12]}", "refs/tags/v1"],
        True,
        "2",
    )
    assert document["notes"] == []


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("git-lfs"), reason="Git LFS is not installed")
def test_lfs_files_of_a_clone_are_recorded(session: Session) -> None:
    """The mirror has what Git LFS has downloaded, in the folder that it serves from, and nothing more of it."""
    stored = session.folder / "lfs.git"
    subprocess.run(["git", "init", "-q", "--bare", str(stored)], check=True)
    attributes = {
        ".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text",
        ".lfsconfig": f"[lfs]\nurl = {stored.as_uri()}\n",
    }
    for name, content in (("a.bin", b"weights"), ("b.bin", b"not wanted")):
        digest = hashlib.sha256(content).hexdigest()
        path = stored / "lfs" / "objects" / digest[:2] / digest[2:4] / digest
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        attributes[name] = (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(content)}\n"
        )
    host = GitHost(folder=session.folder / "git")
    host.make_repository("me/model", attributes)
    lfs = "git -c filter.lfs.smudge= -c filter.lfs.process= -c filter.lfs.required=false"
    with Internet(session.folder, host.hosts()) as internet:
        session.variables = internet.environment()
        document = session.record(
            f"!{lfs} clone -q https://github.com/me/model",
            "!cd model && git lfs pull --include a.bin && cat a.bin",
        )
    assert "weights" in session.output
    with tarfile.open(
        fileobj=io.BytesIO(session.read_object(document["repositories"][0]["sha256"]))
    ) as archive:
        names = [
            Path(name).name
            for name in archive.getnames()
            if "/lfs/objects/" in name and len(Path(name).name) == 64
        ]
    assert names == [hashlib.sha256(b"weights").hexdigest()]


@pytest.mark.slow
def test_packages_are_recorded_as_wheels(session: Session) -> None:
    """Of indexes, sdists, git, a folder, an input and a --target, with pip and uv; versions replaced, what was there already, and build requirements."""
    files, site = session.folder / "files", session.folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(site)], check=True)
    # pip and IPython of this environment, as an image has them; what it installs goes into the new one.
    (next(site.glob("lib/*/site-packages")) / "image.pth").write_text(sysconfig.get_path("purelib"))
    session.python = str(site / "bin" / "python")
    session.lacking = ("had", "had-too", "unasked", "unused")  # what only this environment has
    for name in session.lacking:
        with zipfile.ZipFile(
            make_wheel(files, name, "1.0", requires=["had-too"] * (name == "had"))
        ) as archive:
            archive.extractall(next(site.glob("lib/*/site-packages")))
    make_wheel(session.folder / "input" / "wheels", "attached", "1.0")
    unpack_sdist(own_backend(files, "folder-package", asks=["tool"]), session.working / "folder")
    unpack_sdist(own_backend(files, "from-git"), files)
    sources = {path.name: path.read_text() for path in (files / "from_git-1.0").glob("*.*")}
    with LocalIndex() as index, LocalIndex() as other_index:
        for name, version in (("plain", "1.0"), ("plain", "2.0"), ("side", "1.0"), ("tool", "1.0")):
            index.add(make_wheel(files, name, version))
        for path in sorted({*files.glob("had*"), *files.glob("un*ed-*")}):
            index.add(path)
        index.add(own_backend(files, "built"))
        other_index.add(own_backend(files, "through-uv", asks=["uv-tool"]))
        other_index.add(make_wheel(files, "uv-tool", "1.0"))
        host = GitHost(folder=session.folder / "git")
        host.make_repository("me/from-git", {**sources, "from_git/__init__.py": ""})
        with Internet(
            session.folder, {"pypi.org": PackageIndex(index=index).answer, **host.hosts()}
        ) as internet:
            session.variables = internet.environment() | {"PIP_CONFIG_FILE": os.devnull}
            install = "!{sys.executable} -m pip install -q"
            document = session.record(
                f"import sys\n{install} plain==1.0 built",
                f"{install} -U plain\n{install} --target libs side",
                f"{install} git+https://github.com/me/from-git ./folder/folder_package-1.0",
                f"{install} had\nimport unasked",
                f"{install} --no-index --find-links {session.folder}/input/wheels attached",
                f"!{sysconfig.get_path('scripts')}/uv pip install --python {session.python} "
                f"--index-url {other_index.url} through-uv",
            )
    facts = {
        package["name"]: (
            package["version"],
            package["origin"],
            package["wheel"],
            package["cell"],
            package["replaces"],
        )
        for package in document["packages"]
    }
    commit = document["repositories"][0]["commit"]
    git = f"git+https://github.com/me/from-git@{commit}"
    assert facts == {
        "plain": ("2.0", "index", "plain-2.0-py3-none-any.whl", 2, ""),
        "built": ("1.0", "index", "built-1.0-py3-none-any.whl", 1, ""),
        "from-git": ("1.0", git, "from_git-1.0-py3-none-any.whl", 3, ""),
        "folder-package": ("1.0", "folder", "", 3, ""),
        "attached": ("1.0", "folder", "", 5, ""),
        "through-uv": ("1.0", "index", "through_uv-1.0-py3-none-any.whl", 6, ""),
        "had": ("1.0", "index", "had-1.0-py3-none-any.whl", 0, ""),
        "had-too": ("1.0", "index", "had_too-1.0-py3-none-any.whl", 0, ""),
        "unasked": ("1.0", "index", "unasked-1.0-py3-none-any.whl", 0, ""),
    }
    others = {wheel["wheel"].partition("-py3")[0]: wheel["sha256"] for wheel in document["build_wheels"]}
    assert set(others) == {"plain-1.0", "side-1.0", "tool-1.0", "uv_tool-1.0"}
    assert session.read_object(others["tool-1.0"]) == (files / "tool-1.0-py3-none-any.whl").read_bytes()
    assert [note.rpartition(": ")[2] for note in document["notes"]] == ["unasked"]
    assert document["unrecorded"] == []


def unpack_sdist(path: Path, folder: Path) -> None:
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")


@pytest.mark.slow
def test_a_real_kernel_is_recorded(session: Session) -> None:
    """As papermill runs a notebook: blank cells are not counted, `!` and `%%bash` run below the hooks, errors end it."""
    cells = [
        session.top(cells=[1, 3, 4], may_fail=[3]),
        "import urllib.request\nprint(len(urllib.request.urlopen('http://files.test/a.csv').read()))",
        " \n",
        "%%bash\ncurl -s http://files.test/a.csv -o a.csv\nexit 3",
        "import asyncio\nawait asyncio.sleep(0)\nraise KeyError(open('a.csv').read())",
        "finish_recording()",
    ]
    blank: dict[str, Any] = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    written = [{**blank, "id": f"c{number}", "source": cell} for number, cell in enumerate(cells)]
    written[3]["metadata"] = {"tags": ["raises-exception"]}
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": written}
    (session.folder / "a.ipynb").write_text(json.dumps(notebook))
    with Internet(session.folder, {"files.test": FileHost(files={"/a.csv": b"id\n1\n"}).answer}) as internet:
        session.variables = internet.environment()
        assert session.run_python("-m", "papermill", "../a.ipynb", "../ran.ipynb", "--kernel", "python3")
    document = session.document()
    assert [cell["cell"] for cell in document["cells"]] == [1, 3, 4]
    assert document["error"] == {"cell": 4, "message": "KeyError: 'id\\n1\\n'"}
    assert [url["cell"] for url in document["urls"]] == [1]
    assert [(command["cell"], command["code"]) for command in document["commands"]] == [(3, 0)]


@pytest.mark.slow
def test_on_kaggle_the_output_is_the_part(session: Session) -> None:
    """What the cells wrote goes, because there is no room for both; the submission and Kaggle's own files stay."""
    session.where = "kaggle"
    document = session.record(
        """
        import os
        os.makedirs("clone/deep")
        os.makedirs("models--me--net/snapshots/c1")
        for name in ("clone/deep/a.py", "models--me--net/snapshots/c1/a.pt", "submission.csv", "__notebook__.ipynb"):
            open(name, "w").close()
        os.symlink("clone", "link")
        os.chdir("clone")
        """
    )
    assert [file["kind"] for file in document["files"]] == ["hub"]
    kept = {"__notebook__.ipynb", "offline-kit.json", "offline_kit_runtime", "recording", "submission.csv"}
    assert {path.name for path in session.working.iterdir()} == kept


@pytest.mark.slow
def test_more_than_kaggle_keeps_is_refused_before_it_is_packed(session: Session) -> None:
    """The notebook fails with a code, and says what is how large."""
    session.where = "kaggle"
    cell = """
        import os
        os.makedirs(os.environ["HF_HOME"] + "/hub")
        os.truncate(os.open(os.environ["HF_HOME"] + "/hub/weights.bin", os.O_CREAT | os.O_WRONLY), 21 * 10**9)
    """
    assert session.run_cells(cell) == 1
    failure = find_failure(session.output)
    assert failure is not None
    assert failure.code == "recording-too-large"
    assert failure.details[0] == "21.00 GB: {scratch}/caches/huggingface/hub"
    assert not (session.working / "recording").exists()


@pytest.mark.slow
def test_files_that_a_hub_put_elsewhere_are_packed(session: Session) -> None:
    """What huggingface_hub has downloaded to a `local_dir`, and a cache that a cell has moved; nothing older."""
    old = session.folder / "home" / ".cache" / "models--me--old" / "snapshots" / "c1" / "old.json"
    old.parent.mkdir(parents=True)
    old.write_text("{}")
    os.utime(old, (0, 0))
    document = session.record(
        """
        from pathlib import Path
        for name in ("local/.cache/huggingface/download/sub/a.json.metadata", "local/sub/a.json", "local/own.txt",
                     "moved/models--me--net/blobs/b1", "moved/models--me--net/snapshots/c1/config.json"):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(name)
        """
    )
    assert {file["path"].partition("/")[2] for file in document["files"]} == {
        "local/.cache/huggingface/download/sub/a.json.metadata",
        "local/sub/a.json",
        "moved/models--me--net/snapshots/c1/config.json",
    }
    assert {file["kind"] for file in document["files"]} == {"hub"}


@pytest.mark.slow
def test_what_a_recording_cannot_answer_is_listed(session: Session) -> None:
    """Hosts of which nothing was recorded, with their cell, the names of secrets without values, packages of the system."""
    session.variables = {"HF_TOKEN": "word-of-mine"}
    document = session.record(
        "import socket",
        """
        for host in ("first.invalid", "localhost"):
            try:
                socket.create_connection((host, 9))
            except OSError:
                pass
        """,
        """
        from kaggle_secrets import UserSecretsClient
        assert UserSecretsClient().get_secret("HF_TOKEN") == "word-of-mine"
        """,
        "!apt-get install --simulate -y no-such-package-1",
    )
    assert document["unrecorded"] == [{"host": "first.invalid", "cell": 2}]
    assert document["secrets"] == ["HF_TOKEN"]
    assert "word-of-mine" not in json.dumps(document)
    assert document["system_packages"] == (["no-such-package-1"] if shutil.which("apt-get") else [])
