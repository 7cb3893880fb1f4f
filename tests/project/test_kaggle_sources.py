"""Weights that lie outside of the kit: named, mounted in the rehearsal, found and checked in the notebook."""

import re
from pathlib import Path

import pytest

from offline_kit.core import files
from offline_kit.core.errors import ProjectError, UsageError
from offline_kit.notebook.runtime import kit_sources
from offline_kit.notebook.runtime.kit_runtime import KitError, find_parts
from offline_kit.project import kaggle_names
from tests.support.mounted_kits import lay_out, make_kit

DATASET, NOTEBOOK = "dataset:ann/plants", "notebook:bob/train-folds"
MODEL = "model:ann/resnet/pyTorch/base/3"


@pytest.mark.parametrize(
    ("text", "new", "old"),
    [
        (DATASET, "datasets/ann/plants", "plants"),
        (NOTEBOOK, "notebooks/bob/train-folds", "train-folds"),
        (MODEL, "models/ann/resnet/pytorch/base/3", "resnet/pytorch/base/3"),
    ],
)
def test_the_place_of_a_source(text: str, new: str, old: str) -> None:
    """Each kind lies where Kaggle mounts it, in both layouts."""
    source = kaggle_names.parse_source(text)
    assert (str(source), source.mount_path("new"), source.mount_path("old")) == (text, new, old)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("plants", "write 'dataset:owner/slug'"),
        ("dataset:plants", "write 'dataset:owner/slug'"),
        ("dataset:https://www.kaggle.com/datasets/ann/plants", "URL"),
        ("kernel:bob/train-folds", "'notebook:owner/slug'"),
        ("model:ann/resnet/pyTorch/base", "'model:ann/resnet/pyTorch/base/1'"),
        ("model:ann/resnet/pyTorch/base/latest", "version"),
    ],
)
def test_what_is_no_source(text: str, says: str) -> None:
    """A source without owner, kind or pinned version is refused with the form that is right."""
    with pytest.raises(UsageError) as caught:
        kaggle_names.parse_source(text)
    assert text in caught.value.what
    assert says in caught.value.hint


def test_sources_stand_under_their_keys() -> None:
    """What is attached goes where kernel-metadata has it, and is read from there."""
    wanted = [kaggle_names.parse_source(each) for each in (MODEL, NOTEBOOK, DATASET, NOTEBOOK)]
    keys = kaggle_names.group_by_metadata_key(wanted)
    assert keys == {
        "dataset_sources": ("ann/plants",),
        "kernel_sources": ("bob/train-folds",),
        "model_sources": ("ann/resnet/pyTorch/base/3",),
    }
    assert {str(each) for each in kaggle_names.list_attached_sources(keys)} == {DATASET, NOTEBOOK, MODEL}


# ------------------------------------------------------------------ in the notebook


def mounted(
    inputs: Path, text: str, layout: str, names: tuple[str, ...] = ("fold0.ckpt", "fold1.ckpt")
) -> Path:
    """Make what a source looks like below the inputs."""
    folder = inputs / kaggle_names.parse_source(text).mount_path(layout)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def recorded(copy: Path, pattern: str) -> dict[str, list[int | str]]:
    """Return what a build writes down about the files of a local copy."""
    found = [file for path in copy.glob(pattern) for file in (path.rglob("*") if path.is_dir() else [path])]
    return {
        file.relative_to(copy).as_posix(): [file.stat().st_size, files.sha256_of(file)]
        for file in sorted(found)
    }


@pytest.mark.parametrize("layout", ["new", "old"])
@pytest.mark.parametrize("text", [DATASET, NOTEBOOK, MODEL])
def test_weights_are_found_in_both_layouts(tmp_path: Path, text: str, layout: str) -> None:
    """The notebook finds the files of a source wherever Kaggle mounts it."""
    folder = mounted(tmp_path, text, layout)
    (folder / "log.txt").write_text("no weights")
    found = kit_sources.find_source_files(text, "fold*.ckpt", tmp_path)
    assert found == [folder / "fold0.ckpt", folder / "fold1.ckpt"]


def test_a_name_with_brackets_means_itself(tmp_path: Path) -> None:
    """A file that is called like a pattern is found under its name."""
    folder = mounted(tmp_path, DATASET, "new", ("fold[1].ckpt", "fold1.ckpt", "fold2.ckpt"))
    assert kit_sources.find_source_files(DATASET, "fold[1].ckpt", tmp_path) == [folder / "fold[1].ckpt"]
    assert len(kit_sources.find_source_files(DATASET, "fold[12].ckpt", tmp_path)) == 2


@pytest.mark.parametrize("text", [DATASET, NOTEBOOK, MODEL])
def test_a_source_that_is_not_attached(tmp_path: Path, text: str) -> None:
    """It is named, with what is mounted instead and how to attach it."""
    mounted(tmp_path, "dataset:ann/other", "new")
    with pytest.raises(KitError) as caught:
        kit_sources.find_source_files(text, "*.ckpt", tmp_path)
    said = str(caught.value)
    assert f"'{text}' is not attached" in said
    assert f"mounted: {tmp_path / 'datasets/ann/other'}" in said
    assert caught.value.hint.startswith("attach")


@pytest.mark.parametrize("layout", ["new", "old"])
def test_another_version_of_a_model_is_told(tmp_path: Path, layout: str) -> None:
    """Whoever attached version 2 reads that version 3 is wanted."""
    mounted(tmp_path, MODEL.replace("/3", "/2"), layout)
    with pytest.raises(KitError, match="version 2 is mounted, and version 3 is wanted"):
        kit_sources.find_source_files(MODEL, "*.ckpt", tmp_path)


def test_a_pattern_that_matches_nothing(tmp_path: Path) -> None:
    """What the source holds is listed."""
    mounted(tmp_path, NOTEBOOK, "new")
    with pytest.raises(KitError, match=re.escape("it has: fold0.ckpt")):
        kit_sources.find_source_files(NOTEBOOK, "*.pt", tmp_path)


def test_what_was_recorded_is_checked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Sizes and hashes of the build hold; a file that is gone and one of other bytes are both named."""
    copy = mounted(tmp_path / "copies", NOTEBOOK, "old")
    known = recorded(copy, "fold*.ckpt")
    inputs = tmp_path / "input"
    folder = mounted(inputs, NOTEBOOK, "new")
    said: list[str] = []
    assert len(kit_sources.find_source_files(NOTEBOOK, "*.ckpt", inputs, known)) == 2
    said += capsys.readouterr().out.splitlines()
    assert said == [f"{NOTEBOOK}: 2 files, every hash as expected"]
    (folder / "fold0.ckpt").write_bytes(b"FOLD0.ckpt")
    (folder / "fold1.ckpt").unlink()
    (folder / "fold2.ckpt").write_bytes(b"new")
    with pytest.raises(KitError) as caught:
        kit_sources.find_source_files(NOTEBOOK, "*.ckpt", inputs, known)
        said += capsys.readouterr().out.splitlines()
    assert "'fold0.ckpt' has the right size but other bytes" in str(caught.value)
    assert "'fold1.ckpt' is missing" in str(caught.value)


def test_files_that_are_new_are_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A fold that was not there at the build takes part, and that is said."""
    folder = mounted(tmp_path, NOTEBOOK, "new")
    known = recorded(folder, "*.ckpt")
    (folder / "fold2.ckpt").write_bytes(b"new")
    assert len(kit_sources.find_source_files(NOTEBOOK, "*.ckpt", tmp_path, known)) == 3
    said = capsys.readouterr().out.splitlines()
    assert "fold2.ckpt" in said[0]


def test_a_folder_of_a_source_is_recorded_with_all_in_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A model that is a folder is checked file by file."""
    folder = mounted(tmp_path, MODEL, "new", ("bert/config.json", "bert/model.safetensors", "other.txt"))
    known = recorded(folder, "bert")
    assert sorted(known) == ["bert/config.json", "bert/model.safetensors"]
    assert kit_sources.find_source_files(MODEL, "bert", tmp_path, known) == [folder / "bert"]
    said = capsys.readouterr().out.splitlines()
    assert said == [f"{MODEL}: 2 files, every hash as expected"]


# ------------------------------------------------------------------ in the rehearsal


@pytest.mark.parametrize("layout", ["new", "old"])
def test_local_copies_are_mounted_in_their_places(tmp_path: Path, layout: str) -> None:
    """What is attached is there in the rehearsal, under the name that Kaggle will give it."""
    wanted = [kaggle_names.parse_source(each) for each in (DATASET, NOTEBOOK, MODEL)]
    copies = {str(each): mounted(tmp_path / "copies", str(each), "new") for each in wanted}
    metadata = {"dataset_sources": ["me/kit", *kaggle_names.group_by_metadata_key(wanted)["dataset_sources"]]}
    metadata |= {
        key: list(kaggle_names.group_by_metadata_key(wanted)[key])
        for key in ("kernel_sources", "model_sources")
    }
    found = lay_out(
        tmp_path, make_kit(tmp_path / "kit", "kit"), metadata=metadata, copies=copies, layout=layout
    )
    there = {mount.inside: mount.source for mount in found.mounts[1:]}
    assert there == {f"/kaggle/input/{each.mount_path(layout)}": copies[str(each)] for each in wanted}
    assert not any("`copies`" in note for note in found.notes)


def test_a_source_without_a_copy_is_told(tmp_path: Path) -> None:
    """The note names the key that a copy goes under."""
    whole = make_kit(tmp_path / "kit", "kit")
    found = lay_out(tmp_path, whole, metadata={"kernel_sources": ["bob/train-folds"]})
    assert any(f"'{NOTEBOOK}'" in note and "`copies`" in note for note in found.notes)
    with pytest.raises(ProjectError, match="is not a folder"):
        lay_out(
            tmp_path / "again",
            whole,
            metadata={"kernel_sources": ["bob/train-folds"]},
            copies={NOTEBOOK: tmp_path / "nowhere"},
        )


@pytest.mark.parametrize("layout", ["new", "old"])
def test_parts_that_are_no_datasets_lie_at_their_homes(tmp_path: Path, layout: str) -> None:
    """Packages from a notebook's output and checkpoints from a model are found by their markers all the same."""
    whole = make_kit(tmp_path / "kit", "checkpoints", "code", "packages")
    homes = {"packages": NOTEBOOK, "checkpoints": MODEL}
    metadata = {"kernel_sources": ["bob/train-folds"], "model_sources": [MODEL.partition(":")[2]]}
    found = lay_out(tmp_path, whole, metadata=metadata, part_sources=homes, layout=layout)
    inputs = tmp_path / "run" / "input"
    for mount in found.mounts[1:]:
        place = inputs / mount.inside.removeprefix("/kaggle/input/")
        place.rmdir()
        place.symlink_to(mount.source)
    assert set(find_parts({part.name: part.id for part in whole.parts}, inputs)) == set(homes) | {"code"}
    assert not any("`copies`" in note for note in found.notes)
