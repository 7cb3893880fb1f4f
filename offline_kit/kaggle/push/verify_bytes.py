"""The bytes of a dataset against a part: every file is downloaded, hashed and removed again."""

import hashlib
import shutil
import threading
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from offline_kit.core.errors import OfflineKitError, OutsideError
from offline_kit.core.files import CHUNK, disk_errors, human_size, locked, sha256_of
from offline_kit.core.report import SILENT, Reporter
from offline_kit.kaggle.client.api_types import Kaggle

THREADS = 4
"""Downloads at once; each lies on the disk for a moment."""
_LOOK = 0.2  # seconds between two looks at what has arrived
_SPARE = 100_000_000  # bytes that stay free on the disk


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A file of a version."""

    ref: str
    """Its dataset, model or notebook."""
    version: int
    """The version of it."""
    listed: str
    """Its name in Kaggle's listing."""
    size: int
    """Bytes, as listed."""
    kind: str = "dataset"
    """What it is a file of: "dataset", "model" or "notebook"."""


class CutShortError(OutsideError):
    """Kaggle stopped giving files; what was hashed until then is known."""

    def __init__(self, trouble: OutsideError, file: Wanted, known: Mapping[Wanted, str]) -> None:
        what = f"'{file.listed}' of '{file.ref}' cannot be downloaded: {trouble.what}"
        super().__init__(what, hint=trouble.hint, details=trouble.details)
        self.known = dict(known)
        """Digests by file."""


def digests(
    wanted: tuple[Wanted, ...], kaggle: Kaggle, beside: Path, report: Reporter = SILENT
) -> dict[Wanted, str]:
    """Return the hex digest of each file, downloaded into a folder beside `beside` that is gone afterwards.

    Raises CutShortError where a file cannot be had, OutsideError where the disk has no room.
    """
    found: dict[Wanted, str] = {}
    total = sum(each.size for each in wanted)
    text = f"Downloading {len(wanted)} files, {human_size(total)}"
    with _nearby(beside, wanted) as folder, report.progress(text, total) as bar:
        pool, stop = ThreadPoolExecutor(THREADS), threading.Event()

        def one(number: int, file: Wanted) -> str:
            if stop.is_set():
                raise _StoppedError("stopped", hint="run the same command again")
            try:
                return _digest(file, folder / str(number), kaggle)
            except BaseException:
                stop.set()
                raise

        try:
            # The largest first, so that none is left alone at the end.
            order = sorted(wanted, key=lambda file: -file.size)
            running = {pool.submit(one, number, file): file for number, file in enumerate(order)}
            shown = 0
            for done in _arriving(running, found):
                now = min(total, max(shown, done + _landed(folder)))
                bar(now - shown)
                shown = now
        finally:
            # Not waited for: on ^C a silent server would hold us; without their folder they come to nothing.
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
    return found


def _arriving(running: Mapping["Future[str]", Wanted], found: dict[Wanted, str]) -> Iterator[int]:
    """Fill `found`, yielding the bytes of the files that are done every now and then."""
    waiting, troubles, done = set(running), list[tuple[OutsideError, Wanted]](), 0
    while waiting:
        ended, waiting = wait(waiting, timeout=_LOOK, return_when=FIRST_COMPLETED)
        for future in ended:
            try:
                found[running[future]] = future.result()
                done += running[future].size
            except _StoppedError:
                continue
            except OutsideError as error:
                troubles.append((error, running[future]))
        yield done
    if troubles:
        raise CutShortError(*troubles[0], found)


class _StoppedError(OfflineKitError):
    """Another download failed, or we were interrupted."""


def _digest(file: Wanted, into: Path, kaggle: Kaggle) -> str:
    """Return the digest of one file; where Kaggle wrapped it into a zip of its own, of what is inside."""
    with disk_errors(into.parent):
        try:
            _fetch(file, into, kaggle)
            inner = None if into.stat().st_size == file.size else _wrapped(into, file)
            return inner or sha256_of(into)
        finally:
            into.unlink(missing_ok=True)


def _fetch(file: Wanted, into: Path, kaggle: Kaggle) -> None:
    if file.kind == "model":
        kaggle.fetch_model_file(file.ref, file.version, file.listed, into)
    elif file.kind == "notebook":
        kaggle.fetch_output(file.ref, file.version, file.listed, into)
    else:
        kaggle.download(file.ref, file.listed, into, file.version)


def _wrapped(path: Path, file: Wanted) -> str | None:
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) == 1 and members[0].filename.rpartition("/")[2] == file.listed.rpartition("/")[2]:
            digest = hashlib.sha256()
            with archive.open(members[0]) as stream:
                while chunk := stream.read(CHUNK):
                    digest.update(chunk)
            return digest.hexdigest()
    return None


@contextmanager
def _nearby(beside: Path, wanted: tuple[Wanted, ...]) -> Iterator[Path]:
    """Give a folder of ours for as long as the block lasts; what a killed run left there is removed first."""
    folder = beside.with_name(f".{beside.name}.verify")
    with locked(folder.with_suffix(".verify.lock")):
        _remove(folder)
        _check_space(beside.parent, wanted)
        with disk_errors(beside.parent):
            folder.mkdir()
        try:
            yield folder
        finally:
            _remove(folder)


def _remove(folder: Path) -> None:
    gone = folder.with_name(f"{folder.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    # First another name: a download that is still under way cannot put a new file into it.
    with suppress(FileNotFoundError):
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _check_space(place: Path, wanted: tuple[Wanted, ...]) -> None:
    needed = sum(sorted((each.size for each in wanted), reverse=True)[:THREADS])
    free = shutil.disk_usage(place).free
    if free < needed + _SPARE:
        raise OutsideError(
            f"comparing the bytes needs {human_size(needed)} below '{place}' for a moment,"
            f" where {human_size(free)} are free",
            hint="free some space, or verify without --deep",
        )


def _landed(folder: Path) -> int:
    total = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
