"""`adopt --record`: the notebook that records, what it is given, where it runs, and what stops it."""

import ast
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from offline_kit.adopt import recording
from offline_kit.cli.main import main
from offline_kit.core.errors import Exit, UsageError
from offline_kit.kit import manifest
from offline_kit.local_kaggle.kernel_runs import RunJob
from offline_kit.notebook import scripts
from offline_kit.workflow import record_notebook
from tests.support.adopting import notebook_of
from tests.support.command_line import Done
from tests.support.kits import wheel
from tests.support.shipping import CONTEST, Yard, in_places, make_project, yard

READS = f"""import csv
rows = list(csv.DictReader(open(f"{{__import__('os').environ.get('OFFLINE_KIT_INPUT', '/kaggle/input')}}/competitions/{CONTEST}/test.csv")))"""
WRITES = """with open("submission.csv", "w") as stream:
    stream.write("id,label\\n" + "".join(f"{row['id']},0\\n" for row in rows))"""
CONFIG = f'competition = "{CONTEST}"\n\n[notebook]\nsource = "predict.ipynb"\n'
RECORDER = "local/project-recorder"


def put(folder: Path, *names: str) -> None:
    """Write small files."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x = 1\n")


def plan(folder: Path, name: str = "predict.ipynb") -> record_notebook.RecordingPlan:
    """Return the plan for a notebook."""
    return record_notebook.plan_recording(folder / name, folder)


def sources_of(text: str) -> list[str]:
    """Return the sources of a notebook's cells."""
    return ["".join(cell["source"]) for cell in json.loads(text)["cells"]]


# ------------------------------------------------------------------ the notebook that records


def test_cells_are_recorded_as_they_are(tmp_path: Path) -> None:
    """The user's cells are the same text, between the recorder's two cells and a last one that ends the recording."""
    cells = ("!pip install einops\n", "open('/kaggle/input/x/a.pt')", "%%writefile a.py\n{{ jinja }}")
    notebook_of(tmp_path, *cells, name="predict.ipynb")
    recorder = sources_of(record_notebook.render_recorder(plan(tmp_path), "here"))
    assert recorder[3:-1] == list(cells)
    for code in (*recorder[1:3], recorder[-1]):
        ast.parse(code)
    assert scripts.pack_runtime() in recorder[1]
    assert max(map(len, recorder[2].splitlines())) < 1000, "a traceback shows this cell"


def test_a_script_stays_a_script(tmp_path: Path) -> None:
    """Its docstring and imports from __future__ come first, then the recorder, then its own lines."""
    lines = '"""Predict."""\nfrom __future__ import annotations\nprint(1)\n'
    (tmp_path / "predict.py").write_text(lines)
    text = record_notebook.render_recorder(plan(tmp_path, "predict.py"), "here")
    assert text.startswith(lines.partition("print")[0])
    assert text.endswith("print(1)\n")
    assert ".start_recording(" in text
    ast.parse(text)


def test_inputs_without_an_owner_go_into_the_kit(tmp_path: Path) -> None:
    """Folders below input/ are local inputs, but for copies of sources and the competition's data."""
    put(
        tmp_path, "input/mine/a.bin", "input/plants/test.csv", "input/maps/b.bin", "input/datasets/me/c/c.bin"
    )
    (tmp_path / "kernel-metadata.json").write_text(
        '{"dataset_sources": ["me/maps"], "competition_sources": ["plants"]}'
    )
    notebook_of(tmp_path, "print(1)", name="predict.ipynb")
    assert list(plan(tmp_path).list_local_inputs()) == ["mine"]


def test_files_beside_the_notebook(tmp_path: Path) -> None:
    """What a cell may read is there: nothing hidden, no environment, no kit, no input."""
    put(
        tmp_path,
        "src/net.py",
        "helper.py",
        ".env",
        "venv/pyvenv.cfg",
        "dist/offline-kit/a",
        "input/x/a",
        "nb/a.py",
    )
    notebook_of(tmp_path / "nb", "print(1)", name="predict.ipynb")
    made = record_notebook.plan_recording(tmp_path / "nb" / "predict.ipynb", tmp_path)
    assert set(made.list_beside()) == {"a.py", "helper.py", "src", "nb"}


@pytest.mark.slow
def test_a_folder_of_data_is_not_shown_beside(tmp_path: Path) -> None:
    """A run gets copies of the files beside it, so a folder with very many is told and left out."""
    put(tmp_path, "few/a.py", "many/a/a.txt")
    for number in range(20_000):
        (tmp_path / "many" / str(number)).symlink_to("a/a.txt")
    notebook_of(tmp_path, "print(1)", name="predict.ipynb")
    made = plan(tmp_path)
    assert made.find_crowded(made.list_beside()) == ["many"]


def test_another_notebook_than_the_adopted_one(tmp_path: Path) -> None:
    """A project adopts one notebook; recording a second one would be recorded for nothing."""
    notebook_of(tmp_path, "print(1)", name="predict.ipynb")
    notebook_of(tmp_path, "print(1)", name="other.ipynb")
    (tmp_path / "offline-kit.toml").write_text('[notebook]\nsource = "predict.ipynb"\n')
    with pytest.raises(UsageError) as caught:
        plan(tmp_path, "other.ipynb")
    assert caught.value.code == "recording-other-source"
    assert "`source`" in caught.value.hint


@pytest.mark.parametrize(
    "words",
    [
        ("--env", "current"),
        ("--record", "kaggle", "--env", "current"),
        ("--record", "--at", "http://x"),
        ("--record", "--import", "cv2=opencv-python-headless"),
    ],
)
def test_options_that_would_be_ignored(
    tmp_path: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """They are refused."""
    notebook_of(tmp_path, "print(1)", name="predict.ipynb")
    with pytest.raises(SystemExit):
        main(["adopt", str(tmp_path / "predict.ipynb"), str(tmp_path), *words])
    assert "error[options-conflict]" in capsys.readouterr().err


def test_a_notebook_in_the_wrong_position_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """`--record` may have a value: the notebook behind it is taken for that, and the hint is what to type."""
    with pytest.raises(SystemExit) as ended:
        main(["adopt", "--record", "predict.ipynb"])
    assert ended.value.code == Exit.USAGE
    assert "offline-kit adopt predict.ipynb --record" in capsys.readouterr().err


def test_a_plan_of_a_recording_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--dry-run names what the run is given, and neither runs nor writes anything."""
    put(tmp_path, "input/mine/a.bin", "helper.py")
    notebook_of(tmp_path, "print(1)", name="predict.ipynb")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        main(["adopt", str(tmp_path / "predict.ipynb"), str(tmp_path), "--record", "--dry-run", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (ended.value.code, told["where"], told["beside"]) == (0, "here", ["helper.py"])
    assert set(told["inputs"]) == {"mine"}
    assert sorted(tmp_path.rglob("*")) == before


# ------------------------------------------------------------------ at a local Kaggle


def at_home(job: RunJob) -> str:
    """Run as `in_places`, with a home and temporary files of its own: a recorder looks for downloads there."""
    folders = {name: job.folder / name.lower() for name in ("HOME", "TMPDIR")}
    for folder in folders.values():
        folder.mkdir()
    return in_places(job, {name: str(folder) for name, folder in folders.items()})


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Yard]:
    """A project with a notebook, and a local Kaggle that runs it in a bare process."""
    project = make_project(tmp_path / "one" / "project")
    (project / "offline-kit.toml").write_text(CONFIG)
    notebook_of(project, READS, WRITES, name="predict.ipynb")
    (tmp_path / "yard").mkdir()
    with yard(tmp_path / "yard", project, runner=at_home) as made:
        yield made


def record(here: Yard, *words: str) -> Done:
    """Record at the local Kaggle."""
    at = ("--record", "local", "--at", here.bench.server.url)
    return here.run("adopt", *at, *words, str(here.project / "predict.ipynb"))


def test_a_plan_of_a_recording_there(here: Yard) -> None:
    """One private notebook with the internet on and the notebook's own sources; nothing else would be sent."""
    told = record(here, "--dry-run", "--json").good().facts
    facts = {"notebook": RECORDER, "private": True, "internet": True, "machine": None}
    assert {key: told[key] for key in facts} == facts
    assert told["sources"] == {"competitions": [CONTEST], "datasets": [], "notebooks": [], "models": []}
    assert here.calls("SaveKernel") == 0


def test_a_secret_in_a_cell_is_never_pushed(here: Yard) -> None:
    """A token in the notebook is refused, as for a push; here, too, before a run whose kit could not be pushed."""
    notebook_of(here.project, 'token = "hf_' + "abcdefghij" * 3 + '"', name="predict.ipynb")
    record(here).failed(1, "error[secret-in-upload]")
    here.run("adopt", str(here.project / "predict.ipynb"), "--record", "here").failed(
        1, "error[secret-in-upload]"
    )
    assert here.calls("SaveKernel") == 0


@pytest.mark.slow
def test_a_recording_there_stays_there(here: Yard) -> None:
    """Nothing is uploaded but the notebook, and three files are fetched; the record says where the rest is."""
    told = record(here, "--json").good().facts
    recorded = recording.find_recorded(here.project, "predict.ipynb")
    assert recorded
    assert (recorded.notebook, recorded.version, recorded.local) == (RECORDER, 1, True)
    assert (told["id"], told["questions"]) == (recorded.id, [])
    part = manifest.read_manifest(recorded.folder)
    assert {path.name for path in recorded.folder.rglob("*") if path.is_file()} == {
        *("offline-kit.json", "recording.json", "submission.csv", ".gitignore")
    }
    assert len(part.entries) == recorded.count > 3
    assert (here.calls("DownloadKernelOutput"), here.uploaded()) == (3, 0)
    # What was fetched already is recorded again, but not what a clone of the project has the record of.
    again = record(here, "--json").good()
    assert again.facts["version"] == 2
    assert f"OFFLINE_KIT_LOCAL_KAGGLE={here.bench.server.url} offline-kit rehearse" in again.err
    shutil.rmtree(recorded.folder)
    here.run("build").failed(1, "error[recording-not-here]", "--record local")
    assert record(here, "--json").good().facts["version"] == 2
    assert here.calls("SaveKernel") == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "code", "hint"),
    [
        (
            "raise RuntimeError('Found no NVIDIA driver on your system')",
            "recording-needs-gpu",
            "--record kaggle",
        ),
        ("raise OSError('Could not resolve host: example.org')", "recording-no-network", "proxy"),
        ("raise OSError(28, 'No space left on device')", "disk-full", "make space"),
        ("input('key? ')", "recording-prompted", "secret"),
        ("import predict", "recording-lacks-files", "dataset"),
        ("1 / 0", "recording-failed", "record again"),
    ],
)
def test_what_stops_a_recording(here: Yard, cell: str, code: str, hint: str) -> None:
    """It has a code and a hint; what was recorded until then is fetched, and is no recording."""
    notebook_of(here.project, READS, cell, name="predict.ipynb")
    record(here).failed(1, f"error[{code}]", hint, "kept in: ")
    assert recording.read_record(here.project) is None


# ------------------------------------------------------------------ here


@pytest.mark.slow
@pytest.mark.sandbox
def test_a_recording_here_is_rehearsed_offline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files beside the notebook and local inputs are found in both; a run that fails later is kept beside the good one."""
    monkeypatch.setenv("MY_TOKEN", "a-value-that-no-file-may-have")
    put(tmp_path, "input/mine/a.bin", "helper.py")
    name, data = wheel("plain")
    (tmp_path / "input" / "mine" / name).write_bytes(data)
    cells = (
        "import helper\nassert helper.x == 1",
        f"!uv pip install --system /kaggle/input/mine/{name}\nimport plain",
    )
    writes = (
        "import os\nprint(os.environ.get('MY_TOKEN'))\nopen('submission.csv', 'w').write('id,label\\n1,0\\n')"
    )
    notebook = notebook_of(tmp_path, *cells, writes, name="predict.ipynb")
    document = json.loads(notebook.read_text())
    printed = {"output_type": "stream", "name": "stdout", "text": "hf_" + "abcdefghij" * 3}
    document["cells"][0]["outputs"] = [printed]  # an output goes nowhere, so its token stops nothing
    notebook.write_text(json.dumps(document))
    words = ["adopt", str(notebook), str(tmp_path), "--record", "--env", "current"]
    for command in (words, ["rehearse", str(tmp_path), "--env", "current"]):
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 0, capsys.readouterr().err
    told = capsys.readouterr().err
    assert "recording: cell 2 took" in told, "each cell is told while it runs"
    assert "submission is identical" in told
    recorder = tmp_path / ".offline-kit" / "recorder"
    assert "***" in (recorder / "log.txt").read_text()
    files = (path for path in tmp_path.rglob("*") if path.is_file())
    assert not [path for path in files if b"a-value-that-no-file-may-have" in path.read_bytes()]

    before = recording.read_record(tmp_path)
    notebook_of(tmp_path, *cells, "1 / 0", name="predict.ipynb")
    with pytest.raises(SystemExit):
        main(words)
    assert "error[recording-failed]: cell 3" in capsys.readouterr().err
    kept = recorder / "part" / "recording" / "recording.json"
    document = json.loads(kept.read_text())
    assert (document["finished"], document["error"]["cell"]) == (False, 3)
    assert {file["kind"] for file in document["files"]} == {"beside", "input"}
    assert recording.read_record(tmp_path) == before
