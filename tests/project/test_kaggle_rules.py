"""Names that Kaggle leaves alone, and what it makes of the others."""

import gzip
import io
import re
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from offline_kit.core.errors import ProjectError
from offline_kit.project import kaggle_names as names
from offline_kit.project.kaggle_names import find_archive_suffix, make_safe_name
from offline_kit.project.kaggle_rules import (
    UploadChange,
    apply_upload_rules,
    drop_characters,
    find_change,
)


def packed(**members: bytes) -> bytes:
    """Return a zip with these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def rolled(how: str = "w:gz", /, **members: bytes) -> bytes:
    """Return a tar with these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=how) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def files(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder with their bytes."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def mounted(tmp_path: Path, uploaded: dict[str, bytes], **options: bool) -> dict[str, bytes]:
    """Upload files and return what is mounted."""
    for name, data in uploaded.items():
        path = tmp_path / "up" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    apply_upload_rules(tmp_path / "up", tmp_path / "down", **options)
    return files(tmp_path / "down")


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("model.ckpt", "model.ckpt"),
        ("epoch=4-step=119.ckpt", "epoch_4-step_119.ckpt"),
        ("antlr4-python3-runtime-4.9.3.tar.gz", "antlr4-python3-runtime-4.9.3.tar.gz.xyz"),
        ("pkg-1.0.zip", "pkg-1.0.zip.xyz"),
        ("best.pt", "best.pt.xyz"),
        ("best.PTH", "best.PTH.xyz"),
        ("best.pth.tar", "best.pth.tar.xyz"),
        ("volume.nii.gz", "volume.nii.gz.xyz"),
        ("torch-2.13.0+cu126-cp313-cp313-manylinux_2_28_x86_64.whl",
         "torch-2.13.0_cu126-cp313-cp313-manylinux_2_28_x86_64.whl"),
        ("modèle.ckpt", "modele.ckpt"),
        ("模型.ckpt", "__.ckpt"),
        (".hidden", "_hidden"),
        ("-r", "_r"),
        ("..", "_"),
        ("dataset-metadata.json", "_dataset-metadata.json"),
        ("Kernel-Metadata.json", "_Kernel-Metadata.json"),
        ("offline-kit.json", "_offline-kit.json"),
        ("aux.py", "_aux.py"),
        ("model-00001-of-00015.safetensors", "model_00001_of_00015.safetensors"),
        ("a b(1).txt", "a_b_1_.txt"),
    ],
)  # fmt: skip
def test_stored_names(name: str, safe: str) -> None:
    """A name that Kaggle would change is stored under one that it leaves alone."""
    assert make_safe_name(name, set()) == safe


def test_a_taken_name_gets_a_number_before_its_suffix() -> None:
    """Two names that fall together stay two, whatever their case."""
    assert make_safe_name("Best.ckpt", {"best.ckpt"}) == "Best-2.ckpt"
    assert make_safe_name("x.tar.gz", {"x.tar.gz.xyz", "x-2.tar.gz.xyz"}) == "x-3.tar.gz.xyz"


@settings(deadline=None)
@given(st.sets(st.text(min_size=1, max_size=300).filter(lambda name: "/" not in name), max_size=8))
def test_any_set_of_names_becomes_safe_and_distinct(originals: set[str]) -> None:
    """Whatever the names: stored ones are safe, distinct after lower-casing, and made alike again."""
    stored = names.map_safe_paths(originals - {".", ".."})
    assert all(names.is_safe_name(name) for name in stored.values())
    assert len({name.lower() for name in stored.values()}) == len(stored)
    assert stored == names.map_safe_paths(sorted(originals - {".", ".."}, reverse=True))


@settings(deadline=None)
@given(st.text(alphabet="abcXYZ0189._-+=~&@é .targzpth", min_size=1, max_size=40))
def test_a_safe_name_is_what_kaggle_leaves_alone(name: str) -> None:
    """Kaggle's own treatment keeps every stored name."""
    stored = make_safe_name(name, set())
    assert find_change(drop_characters(stored), zipped=True) == (UploadChange.KEPT, stored)
    assert make_safe_name(stored, set()) == stored


def test_folders_that_differ_in_case_stay_apart() -> None:
    """A stored path is unique after lower-casing in each folder of it."""
    stored = names.map_safe_paths(["Data/a.py", "data/a.py", "data/b=.py", "top.py"])
    assert stored == {
        "Data/a.py": "Data/a.py",
        "data/a.py": "data-2/a.py",
        "data/b=.py": "data-2/b_.py",
        "top.py": "top.py",
    }


@pytest.mark.parametrize(
    "name", ["a.7z", "a.tgz", "a.tar.bz2", "a.csv.gz", "a.xz", "a.rar", "m.keras", "m.jar"]
)
def test_archives_are_known_by_their_suffix(name: str) -> None:
    """Whatever Kaggle may unpack counts as an archive."""
    assert find_archive_suffix(name)


@pytest.mark.parametrize("name", ["a.whl", "a.npz", "a.ckpt", "a.safetensors", "a.tar.gz.xyz", "zip"])
def test_other_files_are_none(name: str) -> None:
    """What stays a file on Kaggle is no archive."""
    assert not find_archive_suffix(name)


@pytest.mark.parametrize(
    ("title", "slug"),
    [("Plant Kit v2.0", "plant-kit-v2-0"), ("  Été — 2026!", "ete-2026"), ("x" * 70, "x" * 50), ("日本", "")],
)
def test_slugs(title: str, slug: str) -> None:
    """A slug holds lower-case letters, digits and single dashes, 50 at most."""
    assert names.make_slug(title) == slug


def test_short_titles_and_slugs_are_named() -> None:
    """Kaggle's six to fifty characters are checked before an upload."""
    assert names.check_title("Plant kit") == ()
    assert "5 characters" in names.check_title("short")[0]
    assert names.check_slug("plant-kit") == ()
    assert len(names.check_slug("A_b")) == 2


def test_many_loose_files_warn() -> None:
    """From 901 loose files on there is a warning, and for what no account can hold."""
    assert names.check_dataset_limits(900, 10**9) == ()
    assert "901 loose files" in names.check_dataset_limits(901, 0)[0]
    assert "300 GB" in names.check_dataset_limits(1, 300 * 10**9)[0]


def test_archives_become_folders(tmp_path: Path) -> None:
    """Zips and tars lie as folders of their name, nested ones too; single .gz files lose the suffix."""
    inner = rolled(**{"forge/a.txt": b"a"})
    found = mounted(
        tmp_path,
        {
            "events.zip": packed(**{"events.txt": b"e", "in.tar.gz": inner}),
            "sub/x.csv.gz": gzip.compress(b"1,2"),
            "b.tar": rolled("w", **{"./c": b"c"}),
            "d.tar.bz2": rolled("w:bz2", d=b"d"),
        },
    )
    assert found == {
        "events/events.txt": b"e",
        "events/in/forge/a.txt": b"a",
        "sub/x.csv": b"1,2",
        "b/c": b"c",
        "d/d": b"d",
    }


def test_torch_zips_are_unpacked_unless_told_otherwise(tmp_path: Path) -> None:
    """A .pt becomes the folder that breaks torch.load; without the option it stays, a .ckpt always does."""
    torch_zip = packed(**{"best/data.pkl": b"p", "best/version": b"3"})
    uploaded = {"best.pt": torch_zip, "old.pth": b"\x80\x02pickle", "last.ckpt": torch_zip}
    broken = mounted(tmp_path / "a", uploaded)
    assert set(broken) == {"best/best/data.pkl", "best/best/version", "old.pth", "last.ckpt"}
    assert mounted(tmp_path / "b", uploaded, unpack_pt=False) == uploaded


def test_letters_are_dropped_from_names(tmp_path: Path) -> None:
    """`+`, `~`, `=` and non-ASCII letters vanish, in folders as in files."""
    found = mounted(tmp_path, {"dé/torch-2.0+cu1~=.whl": b"w", "日本": b"j"})
    assert found == {"d/torch-2.0cu1.whl": b"w", "unnamed": b"j"}


def test_colliding_names_get_a_number(tmp_path: Path) -> None:
    """A name that collides with an earlier one without regard to case gets -001."""
    found = mounted(tmp_path, {"A.txt": b"1", "a.txt": b"2", "a+.txt": b"3"})
    assert sorted(found) == ["A.txt", "a-001.txt", "a-002.txt"]


def test_an_archive_does_not_fall_into_a_folder_of_its_name(tmp_path: Path) -> None:
    """The folder keeps its files when an archive of the same name lies beside it."""
    found = mounted(tmp_path, {"x/y": b"1", "x.zip": packed(y=b"2")})
    assert found == {"x/y": b"1", "x-001/y": b"2"}


@pytest.mark.parametrize("member", ["bad&name.ini", "pkg/@PaxHeader", "../out", "/etc/passwd"])
def test_a_bad_member_refuses_the_upload(tmp_path: Path, member: str) -> None:
    """One `&`, `@` or path that leads outside, inside any archive, refuses everything; nothing is left."""
    up = tmp_path / "up"
    up.mkdir()
    (up / "lit-1.0.tar.gz").write_bytes(rolled(**{member: b"x"}))
    (up / "bad&.txt").write_bytes(b"")
    with pytest.raises(ProjectError) as caught:
        apply_upload_rules(up, tmp_path / "down")
    assert any(member in line and "lit-1.0.tar.gz" in line for line in caught.value.details)
    assert any("bad&.txt" in line for line in caught.value.details)
    assert not (tmp_path / "down").exists()
    assert not (tmp_path / "out").exists()


def test_a_renamed_sdist_with_bad_members_passes(tmp_path: Path) -> None:
    """This is what the harmless suffix is for."""
    sdist = rolled(**{"lit/bad&name.ini": b""})
    assert mounted(tmp_path, {"lit-1.0.tar.gz.xyz": sdist}) == {"lit-1.0.tar.gz.xyz": sdist}


def test_symlinks_arrive_empty_and_are_not_followed(tmp_path: Path) -> None:
    """Links to files, to folders and to nothing are files of 0 bytes."""
    (tmp_path / "up").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_bytes(b"k")
    for name, goal in {"file": "secret/key", "folder": "secret", "nothing": "gone"}.items():
        (tmp_path / "up" / name).symlink_to(tmp_path / goal)
    apply_upload_rules(tmp_path / "up", tmp_path / "down")
    assert files(tmp_path / "down") == {"file": b"", "folder": b"", "nothing": b""}


def test_links_inside_archives_lead_nowhere(tmp_path: Path) -> None:
    """A link member is an empty file, and nothing is written through it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        link = tarfile.TarInfo("way")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
    assert mounted(tmp_path, {"x.tar": buffer.getvalue()}) == {"x/way": b""}


def test_modes_are_lost_and_the_source_keeps_its_own(tmp_path: Path) -> None:
    """Mounted files are not executable; the uploaded folder is as it was."""
    up = tmp_path / "up"
    up.mkdir()
    (up / "tool").write_bytes(b"#!")
    (up / "tool").chmod(0o755)
    apply_upload_rules(up, tmp_path / "down")
    assert (tmp_path / "down" / "tool").stat().st_mode & 0o777 == 0o644
    assert (up / "tool").stat().st_mode & 0o777 == 0o755


def test_large_files_are_linked_not_copied(tmp_path: Path) -> None:
    """An unchanged file of the kit costs no second copy, unless asked for."""
    assert mounted(tmp_path, {"w.ckpt": b"1"})
    (tmp_path / "up" / "w.ckpt").chmod(0o644)
    apply_upload_rules(tmp_path / "up", tmp_path / "again")
    apply_upload_rules(tmp_path / "up", tmp_path / "copied", link=False)
    source = (tmp_path / "up" / "w.ckpt").stat().st_ino
    assert (tmp_path / "again" / "w.ckpt").stat().st_ino == source
    assert (tmp_path / "copied" / "w.ckpt").stat().st_ino != source


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.gz", "x.xz", "x.tar"])
def test_what_only_looks_like_an_archive_stays(tmp_path: Path, name: str) -> None:
    """A file with an archive's name and other bytes stays whole."""
    assert mounted(tmp_path, {name: b"no archive"}) == {name: b"no archive"}


def test_a_zip_in_itself_ends(tmp_path: Path) -> None:
    """Archives in archives are opened to a depth, not for ever."""
    data = b"core"
    for _ in range(12):
        data = packed(**{"x.zip": data})
    found = mounted(tmp_path, {"x.zip": data})
    assert list(found) == ["/".join(["x"] * 8) + "/x.zip"]


def test_client_files_are_not_uploaded(tmp_path: Path) -> None:
    """The client's own files at the top stay at home; deeper ones travel."""
    found = mounted(tmp_path, {"dataset-metadata.json": b"{}", "a/dataset-metadata.json": b"{}"})
    assert set(found) == {"a/dataset-metadata.json"}


def test_a_used_target_is_refused(tmp_path: Path) -> None:
    """Nothing is mounted over existing files, and a missing folder is named."""
    (tmp_path / "up").mkdir()
    (tmp_path / "down").mkdir()
    (tmp_path / "down" / "mine").touch()
    with pytest.raises(ProjectError, match="is not empty"):
        apply_upload_rules(tmp_path / "up", tmp_path / "down")
    assert (tmp_path / "down" / "mine").exists()
    with pytest.raises(ProjectError, match=re.escape(str(tmp_path / "gone"))):
        apply_upload_rules(tmp_path / "gone", tmp_path / "new")


@settings(deadline=None)
@example({"..+/out": b"x"})
@given(
    st.dictionaries(
        st.text(alphabet="aA./\\&@+é0~:", min_size=1, max_size=12), st.binary(max_size=9), max_size=6
    )
)
def test_no_archive_writes_outside(
    tmp_path_factory: pytest.TempPathFactory, members: dict[str, bytes]
) -> None:
    """Whatever the members are called, all that is made lies in the target."""
    base = tmp_path_factory.mktemp("slip")
    up = base / "up"
    up.mkdir()
    (up / "x.zip").write_bytes(packed(**{"keep": b"", **members}))
    try:
        apply_upload_rules(up, base / "down")
    except ProjectError:
        assert not (base / "down").exists()
    assert {entry.name for entry in base.iterdir()} <= {"up", "down"}
    assert [entry.name for entry in up.iterdir()] == ["x.zip"]
