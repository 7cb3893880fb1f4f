"""The kit on disk: its names, ids and plan; whole or not at all, and never written twice."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from offline_kit.core.cache import Cache
from offline_kit.core.errors import ProjectError, UsageError
from offline_kit.core.files import list_tree, sha256_of
from offline_kit.core.resources import runtime_files
from offline_kit.kit import assemble, manifest
from offline_kit.kit.assemble import KitContents
from offline_kit.kit.layout import RUNTIME_PACKAGE
from offline_kit.notebook.runtime.kit_runtime import SessionFolders, open_kit
from offline_kit.project.images import Image
from offline_kit.project.kaggle_rules import apply_upload_rules
from offline_kit.project.types import (
    Checkpoint,
    CheckpointKind,
    Fate,
    Freeze,
    Kit,
    OwnCode,
    Pin,
    Role,
    Sdist,
    SettledSdist,
    SourceFile,
    Wheel,
    Wheelhouse,
)
from tests.support.listener import Listener

IMAGE = Image(
    name="kaggle-2026-10-cpu", title="", accelerator="none", python="3.13.7", packages={"numpy": "2.1.3"}
)
_DATE = (1980, 1, 2, 0, 0, 0)


def write_wheel(folder: Path, filename: str, *members: str) -> Path:
    """Write a wheel with empty members, the same bytes everywhere."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / filename, "w") as archive:
        for name in (*members, f"{filename.split('-')[0]}.dist-info/METADATA"):
            archive.writestr(zipfile.ZipInfo(name, _DATE), filename)
    return folder / filename


def wheel(folder: Path, filename: str, *members: str) -> Wheel:
    """Return a wheel that lies under its own name."""
    path = write_wheel(folder, filename, *members)
    name, version = filename.split("-")[:2]
    return Wheel(
        name=name.replace("_", "-").lower(),
        version=version,
        filename=filename,
        path=path,
        sha256=sha256_of(path),
        size=path.stat().st_size,
    )


def in_cache(file: Wheel) -> Wheel:
    """Return the same wheel as the cache keeps it: named by its digest."""
    path = file.path.with_name(file.sha256)
    file.path.rename(path)
    path.chmod(0o644)
    return replace(file, path=path)


def checkpoint(folder: Path, original: str, data: bytes) -> Checkpoint:
    """Write a trained file."""
    path = folder / original
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return Checkpoint(
        original=original, path=path, size=len(data), sha256=sha256_of(path), kind=CheckpointKind.OTHER
    )


def source(folder: Path, original: str, text: str = "x = 1\n") -> SourceFile:
    """Write a loose module."""
    path = folder / original
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return SourceFile(original=original, path=path)


def freeze(*pins: Pin) -> Freeze:
    """Return a freeze of these pins."""
    return Freeze(
        image=IMAGE.name, python="3.13.7", engine="uv", cutoff="", input_hash="", pins=pins, text="# pins\n"
    )


def pin(name: str, version: str, fate: Fate = Fate.BUNDLED, **more: Any) -> Pin:
    """Return a pin."""
    return Pin(name=name, version=version, fate=fate, **more)


@pytest.fixture
def contents(tmp_path: Path) -> KitContents:
    """Give one of everything."""
    return everything(tmp_path / "home")


def everything(home: Path) -> KitContents:
    """Make one of everything below `home`."""
    sdist = home / "cache" / "antlr4-4.9.3.tar.gz"
    sdist.parent.mkdir(parents=True)
    sdist.write_bytes(b"an sdist")
    settled = SettledSdist(
        name="antlr4",
        version="4.9.3",
        sdist=Sdist(
            name="antlr4",
            version="4.9.3",
            filename=sdist.name,
            path=sdist,
            sha256=sha256_of(sdist),
            size=8,
        ),
        wheel=wheel(home / "built", "antlr4-4.9.3-py3-none-any.whl", "antlr4/__init__.py"),
        closure=(wheel(home / "cache", "setuptools-80.0-py3-none-any.whl", "setuptools/__init__.py"),),
    )
    timm = wheel(home / "cache", "timm-1.0+cu1-py3-none-any.whl", "timm/__init__.py", "tests/__init__.py")
    spare = wheel(home / "cache", "tabulate-0.9-py3-none-any.whl", "tabulate.py")
    own = OwnCode(
        wheels=(wheel(home / "built", "plants-0.1-py3-none-any.whl", "plants/__init__.py"),),
        sources=(source(home / "project", "src/modèle.py"), source(home / "project", "train.py")),
        roots=("src", "."),
    )
    return KitContents(
        freeze=freeze(
            pin("timm", "1.0+cu1"),
            pin("antlr4", "4.9.3"),
            pin(
                "numpy",
                "2.1.3",
                Fate.PROVIDED,
                requires=("numpy>=1.20",),
                asked_by=("timm", "-r /home/x/a.txt"),
            ),
            pin("tabulate", "0.9", Fate.PROVIDED, spare=True),
            pin("nvidia-nccl", "2", Fate.SKIPPED),
        ),
        image=IMAGE,
        wheelhouse=Wheelhouse(wheels=(in_cache(timm), spare)),
        prepared_sdists=(settled,),
        own=own,
        checkpoints=(
            checkpoint(home / "project", "runs/f0/best.ckpt", b"0"),
            checkpoint(home / "project", "runs/f1/epoch=4-step=119.ckpt", b"1" * 100),
            checkpoint(home / "project", "runs/f1/best.pt", b"2"),
        ),
    )


def stored(kit: Kit) -> dict[str, str]:
    """Return stored names by original names."""
    return {entry.original: entry.stored for part in kit.parts for entry in part.entries}


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return bytes and inode of every file below a folder."""
    return {
        str(path): ((folder / path).read_bytes(), (folder / path).stat().st_ino) for path in list_tree(folder)
    }


def test_everything_has_its_place(contents: KitContents, tmp_path: Path) -> None:
    """Wheels, sdists, code and checkpoints lie under names that Kaggle leaves alone."""
    kit = assemble.assemble_kit(contents, tmp_path / "out")
    runtime = {f"{RUNTIME_PACKAGE}/{name}" for name in runtime_files()}
    assert stored(kit) == {name: name for name in runtime} | {
        "checkpoints/runs/f0/best.ckpt": "checkpoints/runs/f0/best.ckpt",
        "checkpoints/runs/f1/best.pt": "checkpoints/runs/f1/best.pt.xyz",
        "checkpoints/runs/f1/epoch=4-step=119.ckpt": "checkpoints/runs/f1/epoch_4-step_119.ckpt",
        "code/src/modèle.py": "code/src/modele.py",
        "code/train.py": "code/train.py",
        "packages/antlr4-4.9.3-py3-none-any.whl": "packages/antlr4-4.9.3-py3-none-any.whl",
        "packages/antlr4-4.9.3.tar.gz": "packages/antlr4-4.9.3.tar.gz.xyz",
        "packages/install.json": "packages/install.json",
        "packages/plants-0.1-py3-none-any.whl": "packages/plants-0.1-py3-none-any.whl",
        "packages/setuptools-80.0-py3-none-any.whl": "packages/setuptools-80.0-py3-none-any.whl",
        "packages/tabulate-0.9-py3-none-any.whl": "packages/tabulate-0.9-py3-none-any.whl",
        "packages/timm-1.0+cu1-py3-none-any.whl": "packages/timm-1.0_cu1-py3-none-any.whl",
    }
    assert manifest.read_kit(tmp_path / "out") == kit
    assert manifest.verify_part(tmp_path / "out" / "dataset", kit.parts[0]) == ()
    assert (tmp_path / "out" / "requirements.txt").read_text() == "# pins\n"


def test_kaggle_changes_nothing_of_it(contents: KitContents, tmp_path: Path) -> None:
    """After Kaggle's treatment the mounted kit is byte for byte the uploaded one."""
    kit = assemble.assemble_kit(contents, tmp_path / "out")
    apply_upload_rules(tmp_path / "out" / "dataset", tmp_path / "mounted")
    assert manifest.verify_part(tmp_path / "mounted", kit.parts[0]) == ()


@pytest.mark.parametrize("split", [False, True])
def test_the_notebook_gets_the_original_names_back(
    contents: KitContents, tmp_path: Path, capsys: pytest.CaptureFixture[str], split: bool
) -> None:
    """What the notebook restores from the treated mount is what was shipped, name by name and byte by byte."""
    kit = assemble.assemble_kit(replace(contents, split=split), tmp_path / "out")
    for part in kit.parts:
        apply_upload_rules(kit.part_folder(part), tmp_path / "input" / "datasets" / "me" / f"my-{part.name}")
    places = SessionFolders(inputs=tmp_path / "input", scratch=tmp_path / "scratch")
    opened = open_kit({part.name: part.id for part in kit.parts}, places)
    assert "note:" not in capsys.readouterr().out
    entries = {entry.original: entry for part in kit.parts for entry in part.entries}
    assert {name: sha256_of(opened.folder / name) for name in entries} == {
        name: entry.sha256 for name, entry in entries.items()
    }
    assert [path.name for path in opened.checkpoints] == ["best.ckpt", "best.pt", "epoch=4-step=119.ckpt"]


def test_the_plan_names_exact_files(contents: KitContents, tmp_path: Path) -> None:
    """The install plan says what is installed from which file, and what the image must have."""
    assemble.assemble_kit(contents, tmp_path / "out")
    plan = json.loads((tmp_path / "out/dataset/packages/install.json").read_text())
    assert plan == {
        "format": 1,
        "image": "kaggle-2026-10-cpu",
        "python": "3.13",
        "install": [
            {
                "name": "antlr4",
                "version": "4.9.3",
                "wheel": "antlr4-4.9.3-py3-none-any.whl",
                "sdist": "antlr4-4.9.3.tar.gz",
                "build": ["setuptools-80.0-py3-none-any.whl"],
                "imports": ["antlr4"],
                "role": "bundled",
            },
            {
                "name": "plants",
                "version": "0.1",
                "wheel": "plants-0.1-py3-none-any.whl",
                "sdist": None,
                "build": [],
                "imports": ["plants"],
                "role": "own",
            },
            {
                "name": "timm",
                "version": "1.0+cu1",
                "wheel": "timm-1.0+cu1-py3-none-any.whl",
                "sdist": None,
                "build": [],
                "imports": ["timm"],
                "role": "bundled",
            },
        ],
        "provided": [
            {
                "name": "numpy",
                "version": "2.1.3",
                "requires": ["numpy>=1.20"],
                "asked_by": ["the project", "timm"],
                "spare": None,
            },
            {
                "name": "tabulate",
                "version": "0.9",
                "requires": [],
                "asked_by": [],
                "spare": "tabulate-0.9-py3-none-any.whl",
            },
        ],
        "roots": ["src", "."],
        "imported": [],
    }


def test_the_plan_counts_on_what_code_imports(contents: KitContents, tmp_path: Path) -> None:
    """A package of the image that code imports and no requirement reaches has its version in the plan."""
    image = replace(IMAGE, packages={"numpy": "2.1.3", "pillow": "11.0", "pandas": "2.2", "timm": "0.9"})
    imported = frozenset({"numpy", "PIL", "timm", "nowhere"})
    assemble.assemble_kit(replace(contents, image=image, imported=imported), tmp_path / "out")
    plan = json.loads((tmp_path / "out/dataset/packages/install.json").read_text())
    assert plan["counted"] == {"pillow": "11.0"}


def test_a_package_without_a_wheel_is_built_from_its_sdist(contents: KitContents, tmp_path: Path) -> None:
    """Under `sdists = "rename"` the plan names sdist and build wheels, and what the sdist says it imports as."""
    path = tmp_path / "hydra.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("hydra-1/hydra/__init__.py"))
    sdist = Sdist(
        name="hydra",
        version="1",
        filename="hydra-1.tar.gz",
        path=path,
        sha256=sha256_of(path),
        size=path.stat().st_size,
    )
    settled = replace(contents.prepared_sdists[0], name="hydra", version="1", sdist=sdist, wheel=None)
    alone = KitContents(freeze=freeze(pin("hydra", "1")), image=IMAGE, prepared_sdists=(settled,))
    assemble.assemble_kit(alone, tmp_path / "out")
    (item,) = json.loads((tmp_path / "out/dataset/packages/install.json").read_text())["install"]
    assert (item["wheel"], item["sdist"], item["imports"]) == (None, "hydra-1.tar.gz", ["hydra"])
    assert item["build"] == ["setuptools-80.0-py3-none-any.whl"]


def test_every_file_has_its_role(contents: KitContents, tmp_path: Path) -> None:
    """What a file is for stands beside it: the notebook and the rehearsal go by that."""
    kit = assemble.assemble_kit(contents, tmp_path / "out")
    assert Counter(entry.role for part in kit.parts for entry in part.entries) == {
        Role.WHEEL: 4,
        Role.SDIST: 1,
        Role.BUILD: 1,
        Role.SOURCE: 2,
        Role.CHECKPOINT: 3,
        Role.LOCK: 1,
        Role.RUNTIME: len(runtime_files()),
    }


def test_split_parts_have_their_own_ids(contents: KitContents, tmp_path: Path) -> None:
    """Changed code changes the code's id alone, so that the weights need no second upload."""
    first = assemble.assemble_kit(replace(contents, split=True), tmp_path / "out")
    assert [part.name for part in first.parts] == ["checkpoints", "code", "packages"]
    for part in first.parts:
        assert (
            manifest.verify_part(first.part_folder(part), manifest.read_manifest(first.part_folder(part)))
            == ()
        )
    (tmp_path / "home/project/train.py").write_text("x = 2\n")
    second = assemble.assemble_kit(replace(contents, split=True), tmp_path / "out")
    same = [a.id == b.id for a, b in zip(first.parts, second.parts, strict=True)]
    assert same == [True, False, True]
    assert manifest.read_kit(tmp_path / "out") == second


def test_a_changed_own_package_leaves_the_other_packages_alone(contents: KitContents, tmp_path: Path) -> None:
    """The project's own wheel, and the plan that names it, travel with the code: others' wheels are not sent again."""
    first = assemble.assemble_kit(replace(contents, split=True), tmp_path / "out")
    rebuilt = wheel(
        tmp_path / "home/built", "plants-0.2-py3-none-any.whl", "plants/__init__.py", "plants/new.py"
    )
    own = replace(contents.own, wheels=(rebuilt,))
    second = assemble.assemble_kit(replace(contents, split=True, own=own), tmp_path / "out")
    changed = [a.name for a, b in zip(first.parts, second.parts, strict=True) if a.id != b.id]
    assert changed == ["code"]


def test_split_and_whole_replace_each_other(contents: KitContents, tmp_path: Path) -> None:
    """A kit that becomes split, or whole again, leaves nothing of the other form behind."""
    whole = assemble.assemble_kit(contents, tmp_path / "out")
    split = assemble.assemble_kit(replace(contents, split=True), tmp_path / "out")
    assert not (tmp_path / "out/dataset/offline-kit.json").exists()
    assert whole.id != split.id
    assert assemble.assemble_kit(contents, tmp_path / "out").id == whole.id
    assert len(manifest.read_kit(tmp_path / "out").parts) == 1


def test_a_kit_of_nothing_but_a_plan(tmp_path: Path) -> None:
    """No packages, no code, no checkpoints is legal, in one part or split."""
    empty = KitContents(freeze=freeze(), image=IMAGE)
    for split in (False, True):
        kit = assemble.assemble_kit(replace(empty, split=split), tmp_path / "out")
        assert [name for name in stored(kit) if not name.startswith(RUNTIME_PACKAGE)] == [
            "packages/install.json"
        ]
        assert len(kit.parts) == 1, "both belong to the code"
        assert manifest.read_kit(tmp_path / "out") == kit


MAKE_ONE = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
os.umask(int(sys.argv[2], 8))
real = time.time
time.time = lambda: real() + int(sys.argv[3])
from tests.kit.test_assemble import assemble, everything
print(assemble.assemble_kit(everything(Path(sys.argv[1]) / "home"), Path(sys.argv[1]) / "out").id)
"""


def test_the_id_is_the_same_everywhere(tmp_path: Path) -> None:
    """Another folder, umask, day and hash seed give the same kit id, bytes and modes."""
    results = []
    for number, (umask, days) in enumerate([("022", 0), ("077", 86_400 * 400), ("000", -86_400)]):
        place = tmp_path / ("x" * (number + 1))
        place.mkdir()
        code = MAKE_ONE.format(tests=str(Path(__file__).parents[2]))
        env = {
            **os.environ,
            "PYTHONHASHSEED": str(number),
            "PYTHONPATH": str(Path.cwd()),
            "TZ": f"XXX{number * 5}",
        }
        done = subprocess.run(
            [sys.executable, "-c", code, str(place), umask, str(days)],
            capture_output=True,
            text=True,
            env=env,
            check=True,
        )
        dataset = place / "out" / "dataset"
        found = {p.relative_to(dataset): oct(p.stat().st_mode & 0o777) for p in dataset.rglob("*")}
        times = {p.relative_to(dataset): p.stat().st_mtime_ns for p in dataset.rglob("*") if p.is_file()}
        bytes_of = {path: (dataset / path).read_bytes() for path in list_tree(dataset)}
        results.append((done.stdout, found, times, bytes_of))
    assert results[0] == results[1] == results[2]
    assert set(results[0][1].values()) == {"0o755", "0o644"}


@pytest.mark.parametrize(
    "change",
    [
        lambda c: replace(c, checkpoints=c.checkpoints[1:]),
        lambda c: replace(c, own=replace(c.own, roots=("src",))),
        lambda c: replace(c, image=replace(IMAGE, python="3.12.1")),
        lambda c: replace(c, prepared_sdists=(replace(c.prepared_sdists[0], sdist=None, closure=()),)),
    ],
)
def test_other_content_is_another_kit(
    contents: KitContents, tmp_path: Path, change: Callable[[KitContents], KitContents]
) -> None:
    """Whatever the notebook would do differently is in the id."""
    first = assemble.assemble_kit(contents, tmp_path / "out")
    assert assemble.assemble_kit(change(contents), tmp_path / "out").id != first.id


def test_nothing_changed_nothing_written(contents: KitContents, tmp_path: Path) -> None:
    """A second build of the same contents touches no file."""
    assemble.assemble_kit(contents, tmp_path / "out")
    before = state(tmp_path / "out")
    listener = Listener()
    assemble.assemble_kit(contents, tmp_path / "out", report=listener)
    assert state(tmp_path / "out") == before
    assert not any("Packing" in said for said in listener.said)


@pytest.mark.parametrize(
    "harm",
    [
        lambda d: (d / "code/train.py").unlink(),
        lambda d: (d / "code/train.py").write_text("x = 9\n"),
        lambda d: (d / "extra").touch(),
        lambda d: (d / "offline-kit.json").write_text("{}"),
        shutil.rmtree,
    ],
)
def test_a_harmed_kit_is_made_again(
    contents: KitContents, tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    """Missing, edited and additional files bring the kit back to what its manifest says."""
    kit = assemble.assemble_kit(contents, tmp_path / "out")
    harm(tmp_path / "out/dataset")
    assert assemble.assemble_kit(contents, tmp_path / "out") == kit
    assert manifest.verify_part(tmp_path / "out/dataset", kit.parts[0]) == ()


def test_weights_are_copied_once(contents: KitContents, tmp_path: Path) -> None:
    """A rebuild for changed code takes the old kit's weights over without writing them again."""
    weights = tmp_path / "out/dataset/checkpoints/runs/f0/best.ckpt"
    assemble.assemble_kit(contents, tmp_path / "out")
    inode = weights.stat().st_ino
    (tmp_path / "home/project/train.py").write_text("x = 2\n")
    assemble.assemble_kit(contents, tmp_path / "out")
    assert weights.stat().st_ino == inode


def test_the_caches_seal_is_kept(contents: KitContents, tmp_path: Path) -> None:
    """A blob that the kit links stays a known one of the cache, by the same time."""
    cache = Cache(tmp_path / "sealed")
    blob, digest = cache.store_file(Path(shutil.copy(contents.wheelhouse.wheels[0].path, tmp_path / "copy")))
    sealed = blob.stat().st_mtime_ns
    wheels = (replace(contents.wheelhouse.wheels[0], path=blob), contents.wheelhouse.wheels[1])
    assemble.assemble_kit(replace(contents, wheelhouse=Wheelhouse(wheels=wheels)), tmp_path / "out")
    assert blob.samefile(tmp_path / "out/dataset/packages/timm-1.0_cu1-py3-none-any.whl")
    assert blob.stat().st_mtime_ns == sealed
    assert cache.find_blob(digest) == blob


def test_the_kit_shares_nothing_with_the_project(contents: KitContents, tmp_path: Path) -> None:
    """Training over a checkpoint in place does not reach into the kit; the cache's blobs are shared."""
    assemble.assemble_kit(contents, tmp_path / "out")
    weights = contents.checkpoints[0].path
    weights.write_bytes(b"9")
    assert (tmp_path / "out/dataset/checkpoints/runs/f0/best.ckpt").read_bytes() == b"0"
    blob = contents.wheelhouse.wheels[0].path
    assert blob.samefile(tmp_path / "out/dataset/packages/timm-1.0_cu1-py3-none-any.whl")


def vanish(contents: KitContents) -> None:
    """Remove a checkpoint."""
    contents.checkpoints[2].path.unlink()


def overwrite(contents: KitContents) -> None:
    """Train on."""
    contents.checkpoints[2].path.write_bytes(b"3")


def damage(contents: KitContents) -> None:
    """Harm the cache."""
    contents.wheelhouse.wheels[0].path.write_bytes(b"3")


def interrupt(contents: KitContents) -> None:
    """Press ^C."""
    raise KeyboardInterrupt


@pytest.mark.parametrize("event", [vanish, overwrite, damage, interrupt])
def test_a_failed_build_leaves_the_old_kit(
    contents: KitContents, tmp_path: Path, event: Callable[[KitContents], None]
) -> None:
    """Whatever happens while files are copied: the previous kit stands as it was, and no orphan stays."""
    small = replace(
        contents,
        checkpoints=contents.checkpoints[:1],
        wheelhouse=Wheelhouse(),
        freeze=freeze(),
        prepared_sdists=(),
    )
    assemble.assemble_kit(small, tmp_path / "out")
    before = state(tmp_path / "out")
    listener = Listener(lambda: event(contents))
    with pytest.raises(KeyboardInterrupt if event is interrupt else ProjectError):
        assemble.assemble_kit(contents, tmp_path / "out", report=listener)
    assert state(tmp_path / "out") == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dataset", "requirements.txt"]


def test_a_killed_build_leaves_nothing_for_long(contents: KitContents, tmp_path: Path) -> None:
    """Half a kit of a killed build goes with the next build, and a kit without its name gets it back."""
    assemble.assemble_kit(contents, tmp_path / "out")
    before = state(tmp_path / "out" / "dataset")
    (tmp_path / ".out.abcdefgh.part/packages").mkdir(parents=True)
    (tmp_path / ".out.ijklmnop.old").mkdir()
    (tmp_path / "out").rename(tmp_path / ".out.ijklmnop.old/out")
    assemble.assemble_kit(contents, tmp_path / "out")
    assert state(tmp_path / "out" / "dataset") == before
    assert sorted(path.name for path in tmp_path.glob(".out*")) == []


KILLED = """
import sys, time
from pathlib import Path
from offline_kit.core import files
with files.stage_folder(Path(sys.argv[1])) as stage:
    (stage / "run").mkdir(mode=0o500)
    print("in it", flush=True)
    time.sleep(60)
"""


def begun(final: Path) -> "subprocess.Popen[str]":
    """Start a process that makes this folder, and wait until it is in the middle of that."""
    words = [sys.executable, "-c", KILLED, str(final)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    process.stdout.readline()
    return process


def test_a_killed_rehearsal_is_no_foreign_thing(contents: KitContents, tmp_path: Path) -> None:
    """What `kill -9` leaves of a rehearsal in the kit goes with the next build, which is not refused for it."""
    kit = assemble.assemble_kit(contents, tmp_path / "out")
    killed = begun(tmp_path / "out" / "rehearsal")
    killed.kill()
    killed.wait()
    assert [path for path in (tmp_path / "out").iterdir() if path.suffix == ".part"]
    assert assemble.assemble_kit(contents, tmp_path / "out").id == kit.id
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dataset", "requirements.txt"]


def test_a_kit_is_not_replaced_below_a_rehearsal(contents: KitContents, tmp_path: Path) -> None:
    """A build that changes nothing goes on beside another run's rehearsal; one that would replace the kit waits."""
    assemble.assemble_kit(contents, tmp_path / "out")
    living = begun(tmp_path / "out" / "rehearsal")
    try:
        assemble.assemble_kit(contents, tmp_path / "out")
        with pytest.raises(UsageError, match="is being rehearsed by another run"):
            assemble.assemble_kit(replace(contents, checkpoints=()), tmp_path / "out")
        assert [path for path in (tmp_path / "out").iterdir() if path.suffix == ".part"]
    finally:
        living.kill()
        living.wait()
    assemble.assemble_kit(replace(contents, checkpoints=()), tmp_path / "out")


def test_what_is_made_of_the_kit_comes_and_goes_with_it(contents: KitContents, tmp_path: Path) -> None:
    """The notebook changes its place together with the kit that it was rendered for; old evidence goes."""
    assemble.assemble_kit(contents, tmp_path / "out", also=lambda kit: {"notebook/a": kit.id})
    (tmp_path / "out" / "rehearsal").mkdir()
    kit = assemble.assemble_kit(
        replace(contents, checkpoints=()), tmp_path / "out", also=lambda kit: {"notebook/a": kit.id}
    )
    assert (tmp_path / "out/notebook/a").read_text() == kit.id
    assert not (tmp_path / "out" / "rehearsal").exists()


def test_settings_that_cannot_be_rendered_cost_no_kit(contents: KitContents, tmp_path: Path) -> None:
    """An error while the notebook is made leaves the old kit as it was."""
    assemble.assemble_kit(contents, tmp_path / "out")
    before = state(tmp_path / "out")

    def broken(_kit: Kit) -> dict[str, str]:
        raise UsageError("no model", hint="name one")

    with pytest.raises(UsageError, match="no model"):
        assemble.assemble_kit(replace(contents, checkpoints=()), tmp_path / "out", also=broken)
    assert state(tmp_path / "out") == before


def test_a_folder_with_other_things_is_not_ours_to_replace(contents: KitContents, tmp_path: Path) -> None:
    """`--out` at a folder with the user's files is refused before anything is touched."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"thesis\.txt"):
        assemble.assemble_kit(contents, tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_a_bundled_pin_without_a_file_is_named(contents: KitContents, tmp_path: Path) -> None:
    """A hole in the wheelhouse is found before anything is written."""
    with pytest.raises(ProjectError) as caught:
        assemble.assemble_kit(
            replace(contents, wheelhouse=Wheelhouse(), prepared_sdists=()), tmp_path / "out"
        )
    assert caught.value.details == ("timm==1.0+cu1", "antlr4==4.9.3")


def test_a_package_over_an_own_package_is_refused(tmp_path: Path) -> None:
    """A package of the index with the import name of an own one would be installed over it: both are named."""
    (tmp_path / "own").mkdir()
    twin = wheel(tmp_path, "twin-1.0-py3-none-any.whl", "mine/__init__.py")
    mine = wheel(tmp_path / "own", "mine-1.0-py3-none-any.whl", "mine/__init__.py")
    both = replace(
        KitContents(freeze=freeze(pin("twin", "1.0")), image=everything(tmp_path / "x").image),
        wheelhouse=Wheelhouse(wheels=(twin,)),
        own=OwnCode(wheels=(mine,)),
    )
    with pytest.raises(ProjectError, match="import name") as caught:
        assemble.assemble_kit(both, tmp_path / "out")
    assert 'exclude = ["twin"]' in caught.value.hint


def test_two_contents_under_one_name_are_refused(contents: KitContents, tmp_path: Path) -> None:
    """A build wheel that differs from the bundled one of the same name is an error, an equal one is not."""
    same = wheel(tmp_path / "other", "antlr4-4.9.3-py3-none-any.whl", "antlr4/__init__.py")
    other = wheel(tmp_path / "third", "antlr4-4.9.3-py3-none-any.whl", "antlr4/other.py")
    settled = contents.prepared_sdists[0]
    assemble.assemble_kit(
        replace(contents, prepared_sdists=(replace(settled, closure=(same,)),)), tmp_path / "out"
    )
    with pytest.raises(ProjectError, match="the same name"):
        assemble.assemble_kit(
            replace(contents, prepared_sdists=(replace(settled, closure=(other,)),)), tmp_path / "out"
        )


def test_a_name_that_no_manifest_can_hold_is_told(contents: KitContents, tmp_path: Path) -> None:
    """A file name in another encoding is an error that names it, not a crash."""
    own = replace(
        contents.own, sources=(SourceFile(original="bad\udcff.py", path=contents.own.sources[0].path),)
    )
    with pytest.raises(ProjectError) as caught:
        assemble.assemble_kit(replace(contents, own=own), tmp_path / "out")
    assert "udcff" in caught.value.details[0]


def test_checkpoints_of_the_folder_checkpoints_are_not_nested_twice(tmp_path: Path) -> None:
    """checkpoints/best.ckpt of the project is checkpoints/best.ckpt of the kit."""
    one = checkpoint(tmp_path / "p", "checkpoints/best.ckpt", b"1")
    kit = assemble.assemble_kit(
        KitContents(freeze=freeze(), image=IMAGE, checkpoints=(one,)), tmp_path / "out"
    )
    assert "checkpoints/best.ckpt" in stored(kit)


def test_what_a_user_should_know_is_said(tmp_path: Path) -> None:
    """No checkpoints is a notice, more than 900 loose files a warning."""
    listener = Listener()
    sources = tuple(source(tmp_path / "p", f"m{number}.py") for number in range(901))
    many = KitContents(freeze=freeze(), image=IMAGE, own=OwnCode(sources=sources))
    assemble.assemble_kit(many, tmp_path / "out", report=listener)
    assert any("no checkpoints" in said for said in listener.said)
    assert any(f"{903 + len(runtime_files())} loose files" in said for said in listener.said)


def test_a_function_needs_no_checkpoints(tmp_path: Path) -> None:
    """Where the notebook calls a function, a kit without trained files is no news."""
    listener = Listener()
    none = KitContents(freeze=freeze(), image=IMAGE)
    assemble.assemble_kit(none, tmp_path / "out", by_function=True, report=listener)
    assert not any("no checkpoints" in said for said in listener.said)


@pytest.mark.parametrize("name", ["out", "out/dataset"])
def test_a_file_in_the_way_is_named(contents: KitContents, tmp_path: Path, name: str) -> None:
    """A file where the folder should be is left alone and told."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match=name):
        assemble.assemble_kit(contents, tmp_path / "out")
    assert (tmp_path / name).read_text() == "mine"
