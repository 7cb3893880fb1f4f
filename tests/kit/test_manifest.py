"""The manifest of a part: its ids, its writing, and its distrust of what comes back."""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offline_kit.core.errors import ProjectError
from offline_kit.kit import manifest
from offline_kit.project.types import FileEntry, KitPart, Role


def entry(
    original: str = "packages/a+1.whl", stored: str = "packages/a_1.whl", data: bytes = b"a"
) -> FileEntry:
    """Return the entry of a file with these bytes."""
    return FileEntry(
        role=Role.WHEEL,
        original=original,
        stored=stored,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a part's folder with two files and their manifest."""
    part = manifest.make_part("kit", [entry(), entry("checkpoints/b=1.ckpt", "checkpoints/b_1.ckpt", b"bb")])
    for each, data in (("packages/a_1.whl", b"a"), ("checkpoints/b_1.ckpt", b"bb")):
        (tmp_path / each).parent.mkdir()
        (tmp_path / each).write_bytes(data)
    manifest.write_manifest(tmp_path, part)
    return tmp_path


def test_written_and_read_is_the_same(folder: Path) -> None:
    """A manifest comes back as it was written, sorted by original name."""
    part = manifest.read_manifest(folder)
    assert [e.original for e in part.entries] == ["checkpoints/b=1.ckpt", "packages/a+1.whl"]
    text = (folder / "offline-kit.json").read_text()
    assert manifest.write_manifest(folder, part).read_text() == text


def test_the_part_id_is_fixed() -> None:
    """The id's recipe never changes unnoticed: the notebook and the server's side compute it too."""
    sha = hashlib.sha256(b"a").hexdigest()
    line = f"packages/a+1.whl\0packages/a_1.whl\x001\0{sha}\n"
    assert manifest.compute_part_id([entry()]) == hashlib.sha256(line.encode()).hexdigest()
    assert manifest.compute_kit_id(["b", "a"]) == hashlib.sha256(b"a\nb\n").hexdigest()


@pytest.mark.parametrize(
    "other",
    [entry(data=b"b"), entry(stored="packages/a_2.whl"), entry(original="packages/a.whl"), entry(data=b"aa")],
)
def test_the_part_id_follows_content_and_names(other: FileEntry) -> None:
    """Other bytes, names or sizes give another id; order and role do not."""
    assert manifest.compute_part_id([other]) != manifest.compute_part_id([entry()])
    assert manifest.compute_part_id([other, entry()]) == manifest.compute_part_id([entry(), other])


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(format="1"), "'format'"),
        (lambda d: d.update(format=True), "'format'"),
        (lambda d: d.update(part="../kit"), "'part'"),
        (lambda d: d.update(id="abc"), "'id'"),
        (lambda d: d.update(files={}), "is not a list"),
        (lambda d: d["files"].append(3), "file 2: it is not an object"),
        (lambda d: d["files"][0].update(role="virus"), "unknown role"),
        (lambda d: d["files"][0].update(original="../../root/.ssh/x"), "leads out"),
        (lambda d: d["files"][0].update(original="/etc/passwd"), "leads out"),
        (lambda d: d["files"][0].update(original="C:/x"), "characters"),
        (lambda d: d["files"][0].update(original="a\\..\\b"), "characters"),
        (lambda d: d["files"][0].update(original="a\ud800"), "characters"),
        (lambda d: d["files"][0].update(original=""), "is not a path"),
        (lambda d: d["files"][0].update(stored="a/../b"), "leads out"),
        (lambda d: d["files"][0].update(stored="a//b"), "leads out"),
        (lambda d: d["files"][0].update(stored="a=1"), "Kaggle would change"),
        (lambda d: d["files"][0].update(stored="offline-kit.json"), "Kaggle would change"),
        (lambda d: d["files"][0].update(size=-1), "size"),
        (lambda d: d["files"][0].update(size=True), "size"),
        (lambda d: d["files"][0].update(sha256="A" * 64), "SHA-256"),
        (lambda d: d["files"][0].update(original=d["files"][1]["original"]), "twice"),
        (lambda d: d["files"][0].update(stored=d["files"][1]["stored"].upper()), "twice"),
    ],
)
def test_a_bad_manifest_is_refused(folder: Path, change: Change, says: str) -> None:
    """Every value of a manifest is checked before it is used, paths first of all."""
    document = json.loads((folder / "offline-kit.json").read_text())
    change(document)
    with pytest.raises(ProjectError) as caught:
        manifest.parse_manifest(json.dumps(document), "m.json")
    assert any(says in line for line in caught.value.details)


def test_all_problems_come_at_once(folder: Path) -> None:
    """Two bad paths are two lines of one error."""
    document = json.loads((folder / "offline-kit.json").read_text())
    for raw in document["files"]:
        raw["original"] = "/x"
    with pytest.raises(ProjectError) as caught:
        manifest.parse_manifest(json.dumps(document), "m.json")
    assert len(caught.value.details) == 2


def test_a_changed_entry_breaks_the_id(folder: Path) -> None:
    """A size that was edited by hand is found before any file is read."""
    text = (folder / "offline-kit.json").read_text().replace('"size": 2', '"size": 3')
    with pytest.raises(ProjectError, match="changed after it was written"):
        manifest.parse_manifest(text, "m.json")


@pytest.mark.parametrize("text", ["", "[", "[]", "null", '"x"', "[" * 100_000, '{"format": 2}'])
def test_other_json_is_refused(text: str) -> None:
    """What is no manifest is an error that names the file, never a crash."""
    with pytest.raises(ProjectError, match="some-file"):
        manifest.parse_manifest(text, "some-file")


@settings(deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(
    st.sampled_from(["format", "part", "id", "files", "role", "original", "stored", "size", "sha256"]), s)))  # fmt: skip
def test_any_json_is_read_or_refused(document: object) -> None:
    """No document makes the reader crash."""
    with suppress(ProjectError):
        assert isinstance(manifest.parse_manifest(json.dumps(document), "x"), KitPart)


def test_a_missing_manifest_names_the_folder(tmp_path: Path) -> None:
    """The error says where no kit is, and what to do."""
    with pytest.raises(ProjectError, match=str(tmp_path)) as caught:
        manifest.read_manifest(tmp_path)
    assert "offline-kit build" in caught.value.hint


def test_a_whole_part_verifies(folder: Path) -> None:
    """A part as it was written has no problems."""
    assert manifest.verify_part(folder, manifest.read_manifest(folder)) == ()


def test_every_wrong_file_is_named(folder: Path) -> None:
    """Missing, cut, changed and additional files are told apart, all in one go."""
    part = manifest.read_manifest(folder)
    (folder / "packages/a_1.whl").write_bytes(b"b")
    (folder / "checkpoints/b_1.ckpt").unlink()
    (folder / "extra").touch()
    problems = manifest.verify_part(folder, part)
    assert problems == (
        "'checkpoints/b_1.ckpt' is missing",
        "'packages/a_1.whl' has another SHA-256 than in the manifest",
        "'extra' is not in the manifest",
    )
    assert len(manifest.verify_part(folder, part, hashes=False)) == 2


def test_the_clients_own_files_do_not_count(folder: Path) -> None:
    """dataset-metadata.json at the top is never uploaded, so it is no surplus file; deeper it is."""
    (folder / "dataset-metadata.json").touch()
    (folder / "packages" / "dataset-metadata.json").touch()
    assert manifest.verify_part(folder, manifest.read_manifest(folder)) == (
        "'packages/dataset-metadata.json' is not in the manifest",
    )


def test_a_link_is_no_file_of_a_part(folder: Path) -> None:
    """A symbolic link is a problem even where its target has the right bytes."""
    path = folder / "packages/a_1.whl"
    path.rename(folder / "elsewhere")
    path.symlink_to(folder / "elsewhere")
    assert "'packages/a_1.whl' is not a regular file" in manifest.verify_part(
        folder, manifest.read_manifest(folder)
    )


def test_a_cut_file_tells_both_sizes(folder: Path) -> None:
    """A file of another size is found without reading it, and sizes that differ never look the same."""
    (folder / "checkpoints/b_1.ckpt").write_bytes(b"b" * 6_401)
    part = manifest.read_manifest(folder)
    entries = (
        replace(entry, size=6_400) if entry.stored == "checkpoints/b_1.ckpt" else entry
        for entry in part.entries
    )
    (line,) = manifest.verify_part(folder, replace(part, entries=tuple(entries)), hashes=False)
    assert "6,401 B" in line
    assert "6,400 B" in line
