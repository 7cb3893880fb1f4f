"""The door to the network: patience with trouble that passes, proof of what came, no secret shown."""

import hashlib
import math
from pathlib import Path

import pytest

from offline_kit.core import http
from offline_kit.core.errors import OutsideError, ProjectError, UsageError
from offline_kit.core.retry import RetryPolicy
from offline_kit.packages.pip_settings import IndexSettings
from tests.support.local_index import LocalIndex, make_wheel, unreachable

PLAIN = IndexSettings(timeout=5)
NAME = "big-1.0-py3-none-any.whl"


class Clock:
    """Waits without waiting."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def patience(self, attempts: int = 4) -> RetryPolicy:
        return RetryPolicy(attempts=attempts, sleep=self.waits.append)


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """A wheel of some 300 kB."""
    noise = b"".join(hashlib.sha256(bytes([n % 256, n // 256])).digest() for n in range(10_000))
    return make_wheel(tmp_path / "built", "big", "1.0", files={"big.bin": noise})


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_download_is_hashed_on_the_way(big: Path, tmp_path: Path) -> None:
    """The digest of what came is returned, and the progress adds up to the size."""
    seen: list[int] = []
    with LocalIndex() as index:
        index.add(big)
        got = http.download_file(
            f"{index.root}/files/{NAME}", tmp_path / "new/part", settings=PLAIN, advance=seen.append
        )
    assert got == digest_of(big) == digest_of(tmp_path / "new/part")
    assert sum(seen) == big.stat().st_size


def test_trouble_that_passes_is_waited_out(big: Path, tmp_path: Path) -> None:
    """A busy server is asked again after the time that it names; other trouble after growing times."""
    clock = Clock()
    with LocalIndex() as index:
        index.add(big)
        index.fail(NAME, 503, times=2, headers={"Retry-After": "7"})
        http.download_file(
            f"{index.root}/files/{NAME}", tmp_path / "a", settings=PLAIN, patience=clock.patience()
        )
        assert clock.waits == [7, 7]
        index.fail("simple/big", 502, times=3)
        assert http.fetch_answer(f"{index.url}/big/", settings=PLAIN, patience=clock.patience())
    first, second, third = clock.waits[2:]
    assert first < second < third < 5


def test_a_broken_download_goes_on_where_it_stopped(big: Path, tmp_path: Path) -> None:
    """Each attempt asks for the rest alone, and progress counts as progress however often it breaks."""
    clock = Clock()
    with LocalIndex() as index:
        index.add(big)
        index.cut(NAME, after=50_000, times=5)
        got = http.download_file(
            f"{index.root}/files/{NAME}",
            tmp_path / "part",
            settings=PLAIN,
            sha256=digest_of(big),
            size=big.stat().st_size,
            patience=clock.patience(attempts=2),
        )
        ranges = [headers.get("Range", "") for path, headers in index.requests if path.endswith(NAME)]
    assert got == digest_of(tmp_path / "part")
    assert ranges == ["", *(f"bytes={n * 50_000}-" for n in range(1, 6))]


def test_a_half_file_of_an_earlier_run_is_continued(big: Path, tmp_path: Path) -> None:
    """What an interrupted run left is not fetched again."""
    part = tmp_path / "part"
    part.write_bytes(big.read_bytes()[:200_000])
    with LocalIndex() as index:
        index.add(big)
        got = http.download_file(f"{index.root}/files/{NAME}", part, settings=PLAIN, sha256=digest_of(big))
        assert index.requests[0][1]["Range"] == "bytes=200000-"
    assert got == digest_of(big) == digest_of(part)


@pytest.mark.parametrize("known_size", [True, False])
def test_a_whole_part_needs_no_body(big: Path, tmp_path: Path, known_size: bool) -> None:
    """A part that is already whole is taken as it is."""
    part = tmp_path / "part"
    part.write_bytes(big.read_bytes())
    size = big.stat().st_size if known_size else 0
    with LocalIndex() as index:
        index.add(big)
        http.download_file(
            f"{index.root}/files/{NAME}", part, settings=PLAIN, sha256=digest_of(big), size=size
        )
        assert len(index.requests) == (0 if known_size else 1)
    assert part.read_bytes() == big.read_bytes()


@pytest.mark.parametrize("left", [b"of another file", b"x" * 900_000])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_part_of_something_else_is_begun_anew(big: Path, tmp_path: Path, left: bytes, ranges: bool) -> None:
    """A part whose bytes do not lead to the hash, or a server without ranges, costs a whole download, no more."""
    part = tmp_path / "part"
    part.write_bytes(left)
    seen: list[int] = []
    with LocalIndex(ranges=ranges) as index:
        index.add(big)
        got = http.download_file(
            f"{index.root}/files/{NAME}",
            part,
            settings=PLAIN,
            sha256=digest_of(big),
            advance=seen.append,
            patience=Clock().patience(),
        )
    assert got == digest_of(big) == digest_of(part)
    assert sum(seen) == big.stat().st_size


def test_a_part_without_a_hash_is_not_trusted(big: Path, tmp_path: Path) -> None:
    """Where no hash would show a mix-up, a download always begins at the start."""
    (tmp_path / "part").write_bytes(b"whatever")
    with LocalIndex() as index:
        index.add(big)
        http.download_file(f"{index.root}/files/{NAME}", tmp_path / "part", settings=PLAIN)
    assert (tmp_path / "part").read_bytes() == big.read_bytes()


def test_another_hash_is_an_error_that_tells_both(big: Path, tmp_path: Path) -> None:
    """File, expected and actual hash are named, and the bytes do not stay."""
    with LocalIndex() as index:
        index.add(big)
        wrong = index.lie_about_hash(NAME)
        address = f"{index.root}/files/{NAME}"
        with pytest.raises(ProjectError, match=NAME) as caught:
            http.download_file(address, tmp_path / "part", settings=PLAIN, sha256=wrong)
        with pytest.raises(ProjectError, match=NAME):
            http.download_file(address, tmp_path / "part", settings=PLAIN, size=17)
    told = "\n".join(caught.value.details)
    assert wrong in told
    assert digest_of(big) in told
    assert not (tmp_path / "part").exists()


def test_an_unreachable_host_ends_in_an_error_without_the_password(tmp_path: Path) -> None:
    """When patience ends, the host is named and the password is not; the next command may work."""
    clock = Clock()
    address = unreachable().replace("://", "://me:secret@")
    for asking in (
        lambda: http.fetch_answer(f"{address}/x/", settings=PLAIN, patience=clock.patience()),
        lambda: http.download_file(f"{address}/x", tmp_path / "x", settings=PLAIN, patience=clock.patience()),
    ):
        with pytest.raises(OutsideError, match="cannot reach") as caught:
            asking()
        assert "secret" not in caught.value.what + " ".join(caught.value.details)
    assert len(clock.waits) == 6


def test_patience_ends_though_the_server_asks_for_more(tmp_path: Path) -> None:
    """No single wait is longer than ours, and refusals for ever end."""
    clock = Clock()
    with LocalIndex() as index:
        index.fail("/x", 429, times=math.inf, headers={"Retry-After": "86400"})
        with pytest.raises(OutsideError, match="cannot reach"):
            http.fetch_answer(f"{index.root}/x", settings=PLAIN, patience=clock.patience())
    assert clock.waits == [60, 60, 60]


def test_what_is_not_there_is_told_apart_from_trouble(tmp_path: Path) -> None:
    """A page that is missing is an answer; a file that is missing and a refusal are errors."""
    with LocalIndex() as index:
        assert http.fetch_answer(f"{index.url}/none/", settings=PLAIN) is None
        with pytest.raises(OutsideError, match="nothing at"):
            http.download_file(f"{index.root}/files/none-1.tar.gz", tmp_path / "x", settings=PLAIN)
        index.fail("simple/teapot", 418)
        with pytest.raises(OutsideError, match="418"):
            http.fetch_answer(f"{index.url}/teapot/", settings=PLAIN)
    assert not (tmp_path / "x").exists()


def test_credentials_come_from_the_url_or_netrc(
    big: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """User and password in the address or in ~/.netrc open the door; without them the remedy is told."""
    with LocalIndex() as index:
        index.add(big)
        inside = index.with_credentials("me", "se@cret")
        assert http.fetch_answer(f"{inside}/big/", settings=PLAIN)
        with pytest.raises(OutsideError, match="401") as caught:
            http.fetch_answer(f"{index.url}/big/", settings=PLAIN)
        assert "netrc" in caught.value.hint
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password se@cret\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        assert http.fetch_answer(f"{index.url}/big/", settings=PLAIN)


def test_silence_counts_as_dead(tmp_path: Path) -> None:
    """A server that says nothing is asked again after the configured time."""
    with LocalIndex() as index:
        index.stall("/x", seconds=1.5)
        answer = http.fetch_answer(
            f"{index.root}/x", settings=IndexSettings(timeout=0.2), patience=RetryPolicy(sleep=lambda _: None)
        )
    assert answer is None
    assert len(index.requests) == 2


def test_the_proxy_of_the_settings_is_used(big: Path) -> None:
    """With a proxy configured, that is where the request goes."""
    with LocalIndex() as index:
        index.add(big)
        settings = IndexSettings(proxy=index.root)
        assert http.fetch_answer("http://somewhere.invalid/simple/big/", settings=settings)


def test_files_and_folders_answer_too(big: Path, tmp_path: Path) -> None:
    """file:// URLs give files, folders give their index.html, and nothing there is nothing."""
    folder = tmp_path / "an index"
    folder.mkdir()
    (folder / "index.html").write_text("<a href='x'>x</a>")
    answer = http.fetch_answer(folder.as_uri(), settings=PLAIN)
    assert answer
    assert answer.url.endswith("an%20index/index.html")
    assert http.fetch_answer((folder / "none").as_uri() + "/", settings=PLAIN) is None
    assert http.download_file(
        big.as_uri(), tmp_path / "copy", settings=PLAIN, sha256=digest_of(big)
    ) == digest_of(big)
    with pytest.raises(OutsideError, match="nothing at"):
        http.download_file((tmp_path / "none.whl").as_uri(), tmp_path / "copy2", settings=PLAIN)


def test_other_schemes_are_refused() -> None:
    """An address of another kind is the user's mistake, not the network's."""
    with pytest.raises(UsageError, match="no address"):
        http.fetch_answer("sftp://me:secret@host/x", settings=PLAIN)
