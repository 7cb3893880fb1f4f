"""Package indexes: all of them merged, none skipped silently, metadata by the cheapest honest way."""

import math
import random
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from offline_kit.core.errors import OutsideError, ProjectError
from offline_kit.core.retry import RetryPolicy
from offline_kit.packages.index import IndexFile, PackageIndex
from offline_kit.packages.pip_settings import IndexSettings
from tests.support.local_index import JSON, LocalIndex, folder_index, make_sdist, make_wheel, unreachable

QUICK = RetryPolicy(attempts=2, sleep=lambda _: None)


@pytest.fixture
def served() -> Iterator[LocalIndex]:
    with LocalIndex() as index:
        yield index


def index_of(
    cache: Path, url: str, *extra: str, links: tuple[str, ...] = (), no_index: bool = False
) -> PackageIndex:
    settings = IndexSettings(
        index_url=url, extra_index_urls=extra, find_links=links, no_index=no_index, timeout=5
    )
    return PackageIndex(settings, cache=cache / "cache", patience=QUICK)


def names_of(found: tuple[IndexFile, ...]) -> list[str]:
    return [file.filename for file in found]


@pytest.mark.parametrize("html_only", [True, False])
def test_a_page_tells_what_it_tells(tmp_path: Path, html_only: bool) -> None:
    """Both kinds of pages give name, version, hash, Python, yanked and metadata; JSON also size and time."""
    wheel = make_wheel(tmp_path, "Some.Thing", "1.0+cu1", requires_python=">=3.9")
    with LocalIndex(html_only=html_only) as served:
        entry = served.add(wheel, requires_python=">=3.9", yanked="broken")
        served.add(make_sdist(tmp_path, "Some.Thing", "1.0"))
        found = index_of(tmp_path, served.url).list_files("some_thing")
        assert found[0] == IndexFile(
            project="some-thing",
            version="1.0+cu1",
            filename="some_thing-1.0+cu1-py3-none-any.whl",
            url=f"{served.root}/files/some_thing-1.0%2Bcu1-py3-none-any.whl",
            sha256=entry.sha256,
            size=0 if html_only else wheel.stat().st_size,
            requires_python=">=3.9",
            yanked=True,
            has_metadata=True,
            metadata_sha256=found[0].metadata_sha256,
            upload_time="" if html_only else "2026-01-01T00:00:00.000000Z",
        )
        assert JSON in served.requests[0][1]["Accept"]
    assert (found[1].filename, found[1].version, found[1].yanked) == ("some_thing-1.0.tar.gz", "1.0", False)


def test_all_indexes_are_merged(served: LocalIndex, tmp_path: Path) -> None:
    """Index, extra index, file:// index and find-links all count; a project that one lacks is just not there."""
    served.add(make_wheel(tmp_path / "a", "thing", "1.0"))
    local = folder_index(tmp_path / "local", [make_wheel(tmp_path / "b", "thing", "3.0")])
    make_wheel(tmp_path / "links", "thing", "4.0")
    make_wheel(tmp_path / "links", "other", "1.0")
    with LocalIndex() as extra:
        extra.add(make_wheel(tmp_path / "c", "thing", "2.0"))
        extra.add(make_wheel(tmp_path / "a", "thing", "1.0"))
        index = index_of(tmp_path, served.url, extra.url, local, links=(str(tmp_path / "links"),))
        versions = [file.version for file in index.list_files("Thing")]
        assert versions == ["4.0", "1.0", "2.0", "3.0"]
        assert names_of(index.list_files("other")) == ["other-1.0-py3-none-any.whl"]
        assert index.list_files("nobody-has-this") == ()


@pytest.mark.parametrize("kind", ["folder", "url", "page", "file"])
def test_find_links_are_folders_pages_or_files(served: LocalIndex, tmp_path: Path, kind: str) -> None:
    """Every kind of place that pip takes is read; what is no distribution is passed over."""
    wheel = make_wheel(tmp_path / "wheels", "thing", "4.0")
    (tmp_path / "wheels" / "notes.txt").write_text("no distribution")
    (tmp_path / "links.html").write_text(f'<a href="{wheel.as_uri()}">thing</a><a href="x.exe">x</a>')
    place = {
        "folder": str(tmp_path / "wheels"),
        "url": (tmp_path / "wheels").as_uri(),
        "page": str(tmp_path / "links.html"),
        "file": str(wheel),
    }[kind]
    index = index_of(tmp_path, served.url, links=(place,), no_index=True)
    (found,) = index.list_files("thing")
    assert (found.filename, found.size) == (wheel.name, wheel.stat().st_size)
    assert len(found.sha256) == 64
    assert index.fetch_file(found) == wheel
    assert served.requests == []


def test_an_unreachable_index_is_never_skipped(served: LocalIndex, tmp_path: Path) -> None:
    """One index that does not answer is an error that names it without its password."""
    served.add(make_wheel(tmp_path, "thing", "1.0"))
    dead = unreachable().replace("://", "://me:secret@")
    with pytest.raises(OutsideError, match="cannot reach") as caught:
        index_of(tmp_path, served.url, dead).list_files("thing")
    assert dead.rpartition("@")[2] in caught.value.what
    assert "secret" not in caught.value.what
    for gone in ((tmp_path / "gone").as_uri(), str(tmp_path / "gone")):
        links = () if gone.startswith("file") else (gone,)
        extra = (gone,) if gone.startswith("file") else ()
        with pytest.raises(OutsideError) as caught:
            index_of(tmp_path, served.url, *extra, links=links).list_files("thing")
        assert caught.value.code == "package-folder-not-found"


def test_an_index_that_recovers_is_asked_again(served: LocalIndex, tmp_path: Path) -> None:
    """A failure is not remembered: the next question may be answered."""
    served.add(make_wheel(tmp_path, "thing", "1.0"))
    served.fail("simple/thing", 500, times=2)
    index = index_of(tmp_path, served.url)
    with pytest.raises(OutsideError, match="cannot reach"):
        index.list_files("thing")
    assert names_of(index.list_files("thing")) == ["thing-1.0-py3-none-any.whl"]


def test_what_is_no_index_is_told(served: LocalIndex, tmp_path: Path) -> None:
    """A page that claims to be JSON and is not ends in an error that names the address."""
    folder = tmp_path / "bad" / "thing"
    folder.mkdir(parents=True)
    (folder / "index.html").write_text('<meta name="pypi:repository-version" content="7.0">')
    with pytest.raises(OutsideError) as caught:
        index_of(tmp_path, (tmp_path / "bad").as_uri()).list_files("thing")
    assert caught.value.code == "index-page-invalid"


def test_credentials_of_the_index_open_its_files(served: LocalIndex, tmp_path: Path) -> None:
    """Links to the index's own host are followed with the password of its address."""
    served.add(make_wheel(tmp_path, "thing", "1.0"))
    index = index_of(tmp_path, served.with_credentials("me", "se@cret"))
    (file,) = index.list_files("thing")
    assert index.read_metadata(file)
    assert index.fetch_file(file).read_bytes() == (tmp_path / "thing-1.0-py3-none-any.whl").read_bytes()


def test_each_project_is_asked_once(served: LocalIndex, tmp_path: Path) -> None:
    """Many threads and repeated questions cost one request per project."""
    for name in ("one", "two", "three"):
        served.add(make_wheel(tmp_path, name, "1.0"))
    index = index_of(tmp_path, served.url)
    names = ("one", "two", "Three", "one")
    threads = [threading.Thread(target=index.list_files, args=(name,)) for name in names * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(served.asked()) == ["/simple/one/", "/simple/three/", "/simple/two/"]


def test_metadata_comes_from_beside_the_file(served: LocalIndex, tmp_path: Path) -> None:
    """Where the index serves METADATA the wheel is not fetched, and the second run asks nothing."""
    served.add(make_wheel(tmp_path, "thing", "1.0", requires=["numpy>=2"]))
    (file,) = index_of(tmp_path, served.url).list_files("thing")
    assert b"Requires-Dist: numpy>=2" in (index_of(tmp_path, served.url).read_metadata(file) or b"")
    assert served.asked(".whl") == []
    before = len(served.requests)
    assert b"Requires-Dist: numpy>=2" in (index_of(tmp_path, served.url).read_metadata(file) or b"")
    assert len(served.requests) == before


def test_metadata_with_another_hash_is_refused(served: LocalIndex, tmp_path: Path) -> None:
    """What is served beside the file must have the hash that the page promises."""
    entry = served.add(make_wheel(tmp_path, "thing", "1.0"))
    index = index_of(tmp_path, served.url)
    (file,) = index.list_files("thing")
    entry.metadata = b"Metadata-Version: 2.1\nName: thing\nVersion: 1.0\nRequires-Dist: malware\n"
    with pytest.raises(ProjectError, match=r"thing-1\.0-py3-none-any\.whl\.metadata"):
        index.read_metadata(file)


@pytest.mark.parametrize("promised", [True, False])
def test_metadata_comes_from_the_wheel_else(served: LocalIndex, tmp_path: Path, promised: bool) -> None:
    """Without METADATA beside it (or with a broken promise) the wheel itself is read."""
    entry = served.add(make_wheel(tmp_path, "thing", "1.0", requires=["numpy>=2"]), pep658=promised)
    index = index_of(tmp_path, served.url)
    (file,) = index.list_files("thing")
    entry.metadata = None
    assert b"Requires-Dist: numpy>=2" in (index.read_metadata(file) or b"")


@pytest.mark.parametrize("ranges", [True, False])
def test_of_a_large_wheel_only_the_metadata_is_fetched(tmp_path: Path, ranges: bool) -> None:
    """If the server sends ranges: a resolver reads the metadata of many versions."""
    wheel = make_wheel(tmp_path, "thing", "1.0", requires=["numpy>=2"])
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("thing/weights.bin", random.Random(0).randbytes(1_000_000))
    with LocalIndex(ranges=ranges) as served:
        served.add(wheel, pep658=False)
        index = index_of(tmp_path, served.url)
        (file,) = index.list_files("thing")
        assert b"Requires-Dist: numpy>=2" in (index.read_metadata(file) or b"")
        assert (index.find_cached(file) is None) == ranges
        requests = len(served.requests)
        assert index.read_metadata(file)
        assert len(served.requests) == requests


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize(
    ("version", "dynamic", "known"),
    [
        ("2.2", "", True),
        ("2.4", "Dynamic: License-File", True),
        ("2.2", "Dynamic: Requires-Dist", False),
        ("2.1", "", False),
    ],
)
def test_an_sdist_speaks_for_itself_only_when_static(
    served: LocalIndex, tmp_path: Path, as_zip: bool, version: str, dynamic: str, known: bool
) -> None:
    """PKG-INFO counts from Metadata-Version 2.2 on, unless it calls its dependencies dynamic."""
    info = f"Metadata-Version: {version}\nName: thing\nVersion: 1.0\n{dynamic}\nRequires-Dist: numpy\n"
    info = info.replace("\n\n", "\n")
    served.add(make_sdist(tmp_path, "thing", "1.0", files={"PKG-INFO": info}, as_zip=as_zip))
    index = index_of(tmp_path, served.url)
    (file,) = index.list_files("thing")
    assert index.read_metadata(file) == (info.encode() if known else None)
    served.fail("", 500, times=math.inf)
    assert index.read_metadata(file) == (info.encode() if known else None)


def test_a_file_that_is_no_archive_is_named(served: LocalIndex, tmp_path: Path) -> None:
    """A damaged file on the index ends in an error with its name."""
    (tmp_path / "thing-1.0.tar.gz").write_bytes(b"not a tar file")
    served.add(tmp_path / "thing-1.0.tar.gz")
    index = index_of(tmp_path, served.url)
    with pytest.raises(ProjectError, match=r"thing-1\.0\.tar\.gz"):
        index.read_metadata(index.list_files("thing")[0])


def test_a_fetched_file_is_verified_and_kept(served: LocalIndex, tmp_path: Path) -> None:
    """A file comes once, into the cache, and never with another hash than the listed one."""
    wheel = make_wheel(tmp_path, "thing", "1.0")
    served.add(wheel)
    served.add(make_wheel(tmp_path, "bad", "1.0"))
    served.lie_about_hash("bad-1.0-py3-none-any.whl")
    served.cut(wheel.name, after=100)
    index = index_of(tmp_path, served.url)
    (file,) = index.list_files("thing")
    assert index.fetch_file(file).read_bytes() == wheel.read_bytes()
    before = len(served.requests)
    assert index.fetch_file(file) == index_of(tmp_path, served.url).fetch_file(file)
    assert len(served.requests) == before
    with pytest.raises(ProjectError, match=r"bad-1\.0"):
        index.fetch_file(index.list_files("bad")[0])
