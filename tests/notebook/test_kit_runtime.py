"""What the notebook does first: find the kit, check it, bring the names back."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from offline_kit.notebook.runtime.kit_hooks import load_object
from offline_kit.notebook.runtime.kit_runtime import (
    REHEARSED_COMPETITION,
    KitError,
    OpenKit,
    SessionFolders,
    find_competition,
    find_failure,
    find_parts,
    go_offline,
    mounted_sources,
    open_kit,
    pick_device,
)
from tests.support.kits import Workshop

LAYOUTS = {
    "new": "datasets/me/plants",
    "old": "plants",
    "model": "models/me/plants/other/default/3",
}


def places(tmp_path: Path) -> SessionFolders:
    return SessionFolders(
        inputs=tmp_path / "input", working=tmp_path / "working", scratch=tmp_path / "scratch"
    )


def some_kit() -> Workshop:
    workshop = Workshop()
    workshop.add("checkpoints/epoch=4-step=9.ckpt", b"weights" * 50, "checkpoint")
    workshop.add("checkpoints/fold1.ckpt", b"other weights", "checkpoint")
    workshop.add("code/src/model.py", b"class Net:\n    size = 3\n", "source")
    return workshop


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_kit_is_found_in_every_mount_layout(tmp_path: Path, layout: str) -> None:
    """Wherever Kaggle mounts the dataset, its files come back under their original names."""
    identity = some_kit().mount(tmp_path / "input" / LAYOUTS[layout])
    kit = open_kit({"kit": identity}, places(tmp_path))
    assert [path.name for path in kit.checkpoints] == ["epoch=4-step=9.ckpt", "fold1.ckpt"]
    assert kit.checkpoints[0].read_bytes() == b"weights" * 50
    assert kit.folder == tmp_path / "scratch" / "kit"
    assert not (tmp_path / "working").exists()


def test_opening_twice_gives_the_same(tmp_path: Path) -> None:
    """After a restart of the kernel the cell may simply run again."""
    identity = some_kit().mount(tmp_path / "input" / "plants")
    assert open_kit({"kit": identity}, places(tmp_path)) == open_kit({"kit": identity}, places(tmp_path))


def test_of_several_kits_the_one_of_this_notebook_is_taken(tmp_path: Path) -> None:
    """Two attached kits are told apart by their ids."""
    other = some_kit()
    other.add("checkpoints/more.ckpt", b"!", "checkpoint")
    other.mount(tmp_path / "input" / "datasets" / "me" / "a-kit")
    identity = some_kit().mount(tmp_path / "input" / "datasets" / "me" / "b-kit")
    assert find_parts({"kit": identity}, tmp_path / "input")["kit"].name == "b-kit"


def test_parts_of_a_split_kit_come_together(tmp_path: Path) -> None:
    """Each part may lie in a dataset of its own."""
    weights, code = Workshop(), some_kit()
    weights.files["checkpoints/x.ckpt"] = ("checkpoint", b"x")
    ids = {
        "checkpoints": weights.mount(tmp_path / "input/datasets/me/plants-checkpoints", "checkpoints"),
        "packages": code.mount(tmp_path / "input/plants-packages", "packages"),
    }
    kit = open_kit(ids, places(tmp_path))
    assert {path.name for path in kit.checkpoints} == {"x.ckpt", "epoch=4-step=9.ckpt", "fold1.ckpt"}


def test_an_old_version_of_the_kit_is_told(tmp_path: Path) -> None:
    """A notebook that ran before the new dataset version was ready says so, and names both ids."""
    identity = some_kit().mount(tmp_path / "input" / "datasets" / "me" / "plants")
    with pytest.raises(KitError) as caught:
        open_kit({"kit": "0" * 64}, places(tmp_path))
    assert identity[:12] in str(caught.value)
    assert "000000000000" in str(caught.value)
    assert "wait until Kaggle has processed it" in str(caught.value)


def test_a_missing_kit_shows_what_is_mounted(tmp_path: Path) -> None:
    """Without any kit the error lists the mounted sources and says what to attach."""
    (tmp_path / "input/competitions/leaves/images").mkdir(parents=True)
    with pytest.raises(KitError, match="attach the kit's dataset") as caught:
        open_kit({"kit": "1" * 64}, places(tmp_path))
    assert str(tmp_path / "input/competitions/leaves") in str(caught.value)


def test_a_broken_marker_is_no_kit(tmp_path: Path) -> None:
    """A marker that cannot be read is reported, not raised as a JSON error."""
    (tmp_path / "input/plants").mkdir(parents=True)
    (tmp_path / "input/plants/offline-kit.json").write_text("{half")
    with pytest.raises(KitError, match="unreadable"):
        open_kit({"kit": "1" * 64}, places(tmp_path))


def test_renamed_files_are_found_by_their_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file whose stored name Kaggle changed is used from where it is, with a note."""
    folder = tmp_path / "input/plants"
    identity = some_kit().mount(folder)
    (folder / "checkpoints/fold1.ckpt").rename(folder / "checkpoints/fold1-001.ckpt")
    kit = open_kit({"kit": identity}, places(tmp_path))
    assert (kit.folder / "checkpoints/fold1.ckpt").read_bytes() == b"other weights"
    note = "'checkpoints/fold1.ckpt' is stored as 'checkpoints/fold1-001.ckpt' and is used from there"
    assert capsys.readouterr().out.startswith(f"note: {note}\n")


def test_every_damaged_file_is_named_with_its_damage(tmp_path: Path) -> None:
    """Changed bytes, cut files, missing files and unpacked archives are told at once, each by its cause."""
    folder = tmp_path / "input/plants"
    workshop = some_kit()
    workshop.add("packages/lib-1.0.tar.gz", b"archive" * 9, "sdist")
    identity = workshop.mount(folder)
    (folder / "checkpoints/fold1.ckpt").write_bytes(b"OTHER weights")
    (folder / "checkpoints/epoch_4-step_9.ckpt").write_bytes(b"")
    (folder / "code/src/model.py").unlink()
    (folder / "packages/lib-1.0.tar.gz.xyz").unlink()
    (folder / "packages/lib-1.0.tar").mkdir()
    with pytest.raises(KitError, match="4 of 5 files") as caught:
        open_kit({"kit": identity}, places(tmp_path))
    text = str(caught.value)
    assert "'checkpoints/fold1.ckpt' has the right size but other bytes" in text
    assert "'checkpoints/epoch_4-step_9.ckpt' has 0 bytes instead of 350" in text
    assert "'code/src/model.py' is missing" in text
    assert "was unpacked by Kaggle into the folder 'packages/lib-1.0.tar'" in text


@pytest.mark.parametrize("name", ["../evil", "/etc/evil"])
def test_names_that_leave_the_kit_are_refused(tmp_path: Path, name: str) -> None:
    """A manifest cannot make the notebook write outside its own folder."""
    identity = some_kit().mount(tmp_path / "input/plants")
    marker = tmp_path / "input/plants/offline-kit.json"
    manifest = json.loads(marker.read_text())
    manifest["files"][0]["original"] = name
    marker.write_text(json.dumps(manifest))
    with pytest.raises(KitError, match="outside the kit"):
        open_kit({"kit": identity}, places(tmp_path))


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    """A kit of another format asks for a new rendering."""
    identity = some_kit().mount(tmp_path / "input/plants")
    marker = tmp_path / "input/plants/offline-kit.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"format": 2}))
    with pytest.raises(KitError, match="format 2"):
        open_kit({"kit": identity}, places(tmp_path))


@pytest.mark.parametrize("layout", ["competitions/leaves", "leaves"])
def test_the_competition_is_found_in_both_layouts(tmp_path: Path, layout: str) -> None:
    """The data lies where Kaggle mounts it, today or before 2026."""
    (tmp_path / layout).mkdir(parents=True)
    assert find_competition("leaves", tmp_path) == tmp_path / layout
    assert mounted_sources(tmp_path)["leaves"] == tmp_path / layout
    assert find_competition("", tmp_path) is None
    (tmp_path / layout).with_name(REHEARSED_COMPETITION).mkdir()
    assert find_competition("", tmp_path), "the made-up slug of a rehearsal"
    with pytest.raises(KitError, match=r"'roots' is not mounted[\s\S]*set `competition_data`"):
        find_competition("roots", tmp_path)


def kit_with_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenKit:
    identity = some_kit().mount(tmp_path / "input/plants")
    kit = open_kit({"kit": identity}, places(tmp_path))
    monkeypatch.syspath_prepend(str(kit.folder / "code/src"))
    return kit


def test_objects_are_found_by_module_and_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`src/model.py:Net` and `model:Net` are the same class, so that pickles and imports agree."""
    kit = kit_with_code(tmp_path, monkeypatch)
    assert load_object("src/model.py:Net", kit) is load_object("model:Net", kit)
    assert load_object("model:Net.size", kit) == 3
    del sys.modules["model"]


def test_a_file_whose_name_is_taken_is_loaded_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file called like a module that is there already is not mistaken for it."""
    kit = kit_with_code(tmp_path, monkeypatch)
    (kit.folder / "code/src/json.py").write_text("WHOSE = 'mine'\n")
    assert load_object("src/json.py:WHOSE", kit) == "mine"
    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model:Nett", "has no 'Nett'"),
        ("nowhere.model:Net", "no module 'nowhere'"),
        ("src/gone.py:Net", "the kit has no file"),
    ],
)
def test_what_cannot_be_found_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    """A wrong name in the configuration is an error with that name."""
    with pytest.raises(KitError, match=words):
        load_object(name, kit_with_code(tmp_path, monkeypatch))
    sys.modules.pop("model", None)


def test_offline_switches_are_set() -> None:
    """Libraries that would wait for a network that is not there are told."""
    environ: dict[str, str] = {}
    go_offline(environ)
    assert environ["HF_HUB_OFFLINE"] == environ["NO_ALBUMENTATIONS_UPDATE"] == "1"


def test_an_accelerator_needs_no_torch(tmp_path: Path) -> None:
    """A kit of gradient boosters asks for a GPU too: without torch the driver's own tool tells whether there is one."""
    assert pick_device("none") == "cpu"
    code = "import sys; sys.modules['torch'] = None; from offline_kit.notebook.runtime.kit_runtime import pick_device; print('answer', pick_device('T4'))"
    for path, answer in ((tmp_path, "cpu"), (tmp_path / "bin", "cuda")):
        path.mkdir(exist_ok=True)
        if answer == "cuda":
            (path / "nvidia-smi").write_text("#!/bin/sh\n")
            (path / "nvidia-smi").chmod(0o755)
        said = subprocess.run(
            [sys.executable, "-c", code],
            env={"PATH": str(path), "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"answer {answer}" in said.stdout


def test_copies_do_where_links_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without symbolic links the files are copied."""

    def refuse(*_: object) -> None:
        raise OSError("no links here")

    identity = some_kit().mount(tmp_path / "input/plants")
    monkeypatch.setattr(Path, "symlink_to", refuse)
    kit = open_kit({"kit": identity}, places(tmp_path))
    shutil.rmtree(tmp_path / "input")
    assert kit.checkpoints[1].read_bytes() == b"other weights"


def test_a_script_prints_the_failure_that_ends_it() -> None:
    """Plain Python gets the line of JSON that a notebook prints by IPython, once, before the traceback."""
    code = (
        "from offline_kit.notebook.runtime.kit_runtime import KitError, report_failures\n"
        "report_failures(), report_failures()\n"
        "raise KitError('no kit', ['a detail'], code='kit-not-mounted')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    failure = find_failure(done.stdout)
    assert failure
    assert (failure.code, failure.what, failure.details) == ("kit-not-mounted", "no kit", ("a detail",))
    assert done.stdout.count("\n") == 1
    assert "Traceback" in done.stderr
