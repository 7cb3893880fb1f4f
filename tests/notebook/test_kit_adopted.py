"""What the setup of an adopted notebook shows its cells."""

import os
import sys
from pathlib import Path

import pytest

from offline_kit.notebook.runtime.kit_runtime import OpenKit, SessionFolders
from offline_kit.notebook.runtime.kit_sources import empty_secrets, lay_out_files, show_sources

ATTACHED = {
    "competitions": ["plants"],
    "datasets": ["me/maps"],
    "notebooks": ["me/train"],
    "models": ["o/net/PyTorch/small/1"],
}
NEW = ("competitions/plants", "datasets/me/maps", "notebooks/me/train", "models/o/net/pytorch/small/1")
OLD = ("plants", "maps", "train", "net/pytorch/small/1")


def shown(folder: Path, mounts: tuple[str, ...], served: dict[str, str] | None = None) -> Path:
    """Mount these sources, each with one file, and return what is shown of them."""
    for place in mounts:
        (folder / "mounts" / place).mkdir(parents=True)
        (folder / "mounts" / place / "file").write_text(place)
    for name in (served or {}).values():
        (folder / "kit" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "kit" / name).write_text("of the kit")
    files = {path: folder / "kit" / name for path, name in (served or {}).items()}
    return show_sources(folder / "mounts", ATTACHED, files, root=folder / "shown")


@pytest.mark.parametrize("layout", [NEW, OLD])
def test_both_layouts_are_shown_under_both_paths(tmp_path: Path, layout: tuple[str, ...]) -> None:
    """However a source is mounted, its old and its new path lead to it."""
    root = shown(tmp_path, layout)
    for place in (*NEW[:3], *OLD[:3], "models/o/net/PyTorch/small/1", "net/PyTorch/small/1"):
        assert (root / "input" / place / "file").is_file(), place


def test_what_nobody_named_is_shown_too(tmp_path: Path) -> None:
    """A source that was attached later is there as well."""
    root = shown(tmp_path, ("datasets/you/other",))
    assert (root / "input/other/file").is_file()
    assert (root / "input/datasets/you/other/file").is_file()


def test_files_of_the_kit_lie_among_them(tmp_path: Path) -> None:
    """A file of the kit is found under its path, in a folder of a source as well, and hides nothing else."""
    served = {
        "input/maps/net.pth": "checkpoints/a",
        "input/maps/file": "checkpoints/b",
        "working/w/x": "checkpoints/c",
    }
    root = shown(tmp_path, NEW, served)
    assert (root / "input/maps/net.pth").read_text() == "of the kit"
    assert (root / "input/maps/file").read_text() == "of the kit"
    assert (root / "input/datasets/me/maps/file").read_text() == "datasets/me/maps"
    assert (root / "working/w/x").read_text() == "of the kit"
    assert sorted(path.name for path in (tmp_path / "mounts/datasets/me/maps").iterdir()) == ["file"]


def test_it_can_be_shown_again(tmp_path: Path) -> None:
    """A second run of the cell finds everything anew."""
    shown(tmp_path, NEW)
    root = show_sources(tmp_path / "mounts", ATTACHED, {}, root=tmp_path / "shown")
    assert (root / "input/plants/file").is_file()


def test_a_missing_source_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What is attached and not mounted is said at once, with what to do; the notebook goes on."""
    show_sources(tmp_path, {"datasets": ["me/maps"]}, {}, root=tmp_path / "shown")
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("note: dataset 'me/maps' is not mounted: attach it")


def test_what_lines_would_have_fetched_lies_where_they_put_it(tmp_path: Path) -> None:
    """A clone is a folder of files that can be written to, a large file a link, an installed clone a place to go to."""
    for name, text in (
        ("code/aug/run.sh", "#!/bin/sh\n"),
        ("code/aug/deep/a.py", "A"),
        ("checkpoints/w/a.pth", "W"),
    ):
        (tmp_path / "kit" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "kit" / name).write_text(text)
    os.truncate(tmp_path / "kit/checkpoints/w/a.pth", 65 << 20)
    (tmp_path / "kit/checkpoints/b.json").write_text("B")
    working = tmp_path / "working"
    kit = OpenKit(tmp_path / "kit", SessionFolders(inputs=tmp_path, working=working))
    made = [
        ("aug", "code/aug"),
        ("aug/w", "checkpoints/w"),
        ("far/b.json", "checkpoints/b.json"),
        ("installed", ""),
    ]
    for _again in range(2):
        lay_out_files(kit, made)
        assert (working / "aug/deep/a.py").read_text() == "A"
        assert os.access(working / "aug/run.sh", os.X_OK)
        assert (working / "aug/w/a.pth").is_symlink()
        assert (working / "far/b.json").read_text() == "B"
        assert not (working / "far/b.json").is_symlink()
        assert not any((working / "installed").iterdir())
    assert not any(path.is_symlink() for path in working.iterdir()), "`cd aug` and `cd ..` lead back"
    (working / "aug/deep/a.py").write_text("mine")
    lay_out_files(kit, made)
    assert (working / "aug/deep/a.py").read_text() == "mine"
    assert (tmp_path / "kit/code/aug/deep/a.py").read_text() == "A"


def test_a_place_that_cannot_be_made_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The notebook goes on: its own line will say what it misses."""
    (tmp_path / "working").write_text("no folder")
    lay_out_files(OpenKit(tmp_path, SessionFolders(working=tmp_path / "working")), [("aug", "")])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("note: cannot make")


@pytest.mark.parametrize(
    "cell",
    [
        "from kaggle_secrets import UserSecretsClient, BackendError\nkey = UserSecretsClient().get_secret('HF')",
        "import kaggle_secrets as s\nc = s.UserSecretsClient()\nc.set_gcloud_credentials(project='p')\nkey = c.get_secret('a')",
    ],
)
def test_secrets_are_empty(monkeypatch: pytest.MonkeyPatch, cell: str) -> None:
    """They come over the internet, and their module lies on Kaggle alone."""
    monkeypatch.setitem(sys.modules, "kaggle_secrets", None)  # which is undone
    empty_secrets()
    names: dict[str, str] = {}
    exec(cell, names)
    assert names["key"] == ""
    assert not hasattr(sys.modules["kaggle_secrets"], "__file__")  # a module of no file, for `inspect`
