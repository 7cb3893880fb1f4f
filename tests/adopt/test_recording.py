"""The record of a recorded notebook: written, read again, compared with the notebook and the part."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from offline_kit.adopt import recording
from offline_kit.core.errors import ProjectError
from offline_kit.kit import manifest
from offline_kit.project.images import load_image
from offline_kit.project.types import FileEntry, Role
from tests.support.adopting import notebook_of

CACHE = "{scratch}/caches/huggingface/hub/models--a--b/snapshots/1"


def write_part(project: Path, **changes: Any) -> None:
    """Write the part of a recording of `inference.ipynb` as a recorder does; `changes` go into its document."""
    file = {"sha256": "0" * 64, "size": 3, "kind": "cache"}
    document = {
        "format": 1,
        "source": recording.describe_source(project, "inference.ipynb"),
        "packages": [],
        "commands": [
            {"words": ["wget", "x"], "changed": [{"path": "a", "size": 2}, {"path": "b", "size": 3}]}
        ],
        "files": [{"path": f"{CACHE}/{name}", **file} for name in ("config.json", "sub/model.bin")],
        **changes,
    }
    folder = recording.recording_folder(project)
    (folder / "recording").mkdir(parents=True, exist_ok=True)
    entries = []
    for name, text in (("recording.json", json.dumps(document)), ("small.objects", "objects")):
        (folder / "recording" / name).write_text(text)
        path, digest = f"recording/{name}", hashlib.sha256(text.encode()).hexdigest()
        entry = FileEntry(role=Role.RECORDING, original=path, stored=path, size=len(text), sha256=digest)
        entries.append(entry)
    manifest.write_manifest(folder, manifest.make_part(recording.PART, entries))


def code_of(raised: "pytest.ExceptionInfo[ProjectError]") -> str:
    """Return the code of an error."""
    return raised.value.code


def test_the_record_sums_files_up_and_leads_to_the_part(tmp_path: Path) -> None:
    """It has one line for each folder and command, and belongs to the notebook that was recorded."""
    notebook_of(tmp_path, "1 + 1", "2 + 2")
    write_part(tmp_path)
    written = recording.write_record(tmp_path, notebook="me/plants-recorder", version=3, local=True)
    recorded = recording.find_recorded(tmp_path, "inference.ipynb")
    assert recorded == written
    assert (recorded.part.id, recorded.count) == (recorded.id, 2)
    assert recorded.document["source"]["cells"] == [1, 2]
    folder = "{scratch}/caches/huggingface/hub/models--a--b"
    assert recorded.document["files"] == [{"kind": "cache", "folder": folder, "files": 2, "size": 6}]
    assert recorded.document["commands"] == [{"words": ["wget", "x"], "files": 2, "size": 5}]
    assert recording.find_recorded(tmp_path, "another.ipynb") is None
    assert recording.find_recorded(tmp_path, "") is None
    assert (tmp_path / ".offline-kit/recording/.gitignore").read_text() == "*\n"


def test_only_other_cells_outdate_a_recording(tmp_path: Path) -> None:
    """Outputs of a run in Jupyter change nothing."""
    notebook = notebook_of(tmp_path, "1 + 1")
    write_part(tmp_path)
    recorded = recording.write_record(tmp_path)
    document = json.loads(notebook.read_text())
    document["cells"][0]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "2"}]
    notebook.write_text(json.dumps(document))
    assert not recorded.has_changed()
    notebook_of(tmp_path, "1 + 2")
    assert recorded.has_changed()


def test_a_part_that_is_gone_or_damaged_is_an_error(tmp_path: Path) -> None:
    """Of a recording on Kaggle only the manifest has to be here."""
    notebook_of(tmp_path, "1 + 1")
    write_part(tmp_path)
    recorded, remote = recording.write_record(tmp_path), recording.write_record(tmp_path, notebook="me/r")
    folder = recording.recording_folder(tmp_path)
    (folder / "recording" / "small.objects").unlink()
    assert remote.part.id == remote.id  # its objects are on Kaggle
    with pytest.raises(ProjectError) as raised:
        _ = recorded.part
    assert (code_of(raised), len(raised.value.details)) == ("recording-damaged", 1)
    write_part(tmp_path, finished=False)
    with pytest.raises(ProjectError) as raised:
        _ = recorded.part
    assert code_of(raised) == "recording-not-here"
    (folder / "offline-kit.json").unlink()
    with pytest.raises(ProjectError) as raised:
        _ = recorded.part
    assert code_of(raised) == "recording-not-here"
    assert "--record here" in raised.value.hint


def test_cells_that_do_not_run_have_no_number(tmp_path: Path) -> None:
    """nbclient skips blank cells and tagged ones; a script has no cells."""
    notebook = notebook_of(tmp_path, "1 + 1", "  ", "!false", "2 + 2")
    document = json.loads(notebook.read_text())
    for cell, tag in ((2, "raises-exception"), (3, "skip-execution")):
        document["cells"][cell]["metadata"]["tags"] = [tag]
    notebook.write_text(json.dumps(document))
    described = recording.describe_source(tmp_path, "inference.ipynb")
    assert (described["cells"], described["may_fail"]) == ([1, 3], [3])
    (tmp_path / "inference.py").write_text("1 + 1")
    assert recording.describe_source(tmp_path, "inference.py")["cells"] == []


@pytest.mark.parametrize("text", ["", "{}", '{"format": 2, "source": {"name": "x"}}', "[]"])
def test_a_record_that_cannot_be_read_is_an_error(tmp_path: Path, text: str) -> None:
    """Damaged, of another format, or of something else."""
    (tmp_path / recording.RECORD).write_text(text)
    with pytest.raises(ProjectError) as raised:
        recording.read_record(tmp_path)
    assert code_of(raised) == "recording-invalid"


def test_what_a_recording_here_replaces_is_the_images(tmp_path: Path) -> None:
    """Not what this machine had: of that the image knows nothing."""
    notebook_of(tmp_path, "1 + 1")
    image = load_image("kaggle-2026-10-cpu", accelerator="none", project=tmp_path)
    versions = {"numpy": "1.0", "scipy": image.packages["scipy"], "unheard-of": "2.0"}
    packages = [{"name": n, "version": v, "cell": 1, "replaces": "0.5"} for n, v in versions.items()]
    for where, replaced in (("here", [image.packages["numpy"], "", ""]), ("kaggle", ["0.5"] * 3)):
        write_part(tmp_path, packages=packages, where=where)
        freeze = recording.write_record(tmp_path).make_freeze(image)
        assert [pin.replaces for pin in freeze.pins] == replaced
