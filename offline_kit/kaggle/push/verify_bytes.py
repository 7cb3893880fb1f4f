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
from offline_kit.core.files import CHUNK, format_size, hold_lock, sha256_of, translate_disk_errors
from offline_kit.core.report import SILENT, Reporter
from offline_kit.kaggle.client.api_types import KaggleApi

THREADS = 4
"""Downloads at once; each lies on the disk for a moment."""
_LOOK = 0.2  # seconds between two looks at what has arrived
_SPARE = 100_000_000  # bytes that stay free on the disk


@dataclass(frozen=True, kw_only=True)
class RemoteFileVersion:
    """A file of a version."""

    ref: str
    """Its dataset, model or notebook."""
    version: int
    """The version of it."""
    listed_name: str
    """Its name in Kaggle's listing."""
    size: int
    """Bytes, as listed."""
    kind: str = "dataset"
    """What it is a file of: "dataset", "model" or "notebook"."""


class IncompleteDownloadError(OutsideError):
    """Kaggle stopped giving files; what was hashed until then is known."""

    def __init__(
        self, trouble: OutsideError, file: RemoteFileVersion, known: Mapping[RemoteFileVersion, str]
    ) -> None:
        what = f"'{file.listed_name}' of '{file.ref}' cannot be downloaded: {trouble.what}"
        super().__init__(what, hint=trouble.hint, details=trouble.details)
        self.known_digests = dict(known)
        """Digests by file."""


def download_digests(
    wanted: tuple[RemoteFileVersion, ...], kaggle: KaggleApi, beside: Path, report: Reporter = SILENT
) -> dict[RemoteFileVersion, str]:
    """Return the hex digest of each file, downloaded into a folder beside `beside` that is gone afterwards.

    Raises CutShortError where a file cannot be had, OutsideError where the disk has no room.
    """
    found: dict[RemoteFileVersion, str] = {}
    total = sum(each.size for each in wanted)
    text = f"Downloading {len(wanted)} files, {format_size(total)}"
    with _scratch_folder(beside, wanted) as folder, report.progress(text, total) as bar:
        pool, stop = ThreadPoolExecutor(THREADS), threading.Event()

        def digest_one(number: int, file: RemoteFileVersion) -> str:
            if stop.is_set():
                raise DownloadStoppedError("stopped", hint="run the same command again")
            try:
                return _digest_file(file, folder / str(number), kaggle)
            except BaseException:
                stop.set()
                raise

        try:
            # The largest first, so that none is left alone at the end.
            order = sorted(wanted, key=lambda file: -file.size)
            running = {pool.submit(digest_one, number, file): file for number, file in enumerate(order)}
            shown = 0
            for done in _collect_digests(running, found):
                now = min(total, max(shown, done + _count_downloaded(folder)))
                bar(now - shown)
                shown = now
        finally:
            # Not waited for: on ^C a silent server would hold us; without their folder they come to nothing.
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
    return found


def _collect_digests(
    running: Mapping["Future[str]", RemoteFileVersion], found: dict[RemoteFileVersion, str]
) -> Iterator[int]:
    """Fill `found`, yielding the bytes of the files that are done every now and then."""
    waiting, troubles, done = set(running), list[tuple[OutsideError, RemoteFileVersion]](), 0
    while waiting:
        ended, waiting = wait(waiting, timeout=_LOOK, return_when=FIRST_COMPLETED)
        for future in ended:
            try:
                found[running[future]] = future.result()
                done += running[future].size
            except DownloadStoppedError:
                continue
            except OutsideError as error:
                troubles.append((error, running[future]))
        yield done
    if troubles:
        raise IncompleteDownloadError(*troubles[0], found)


class DownloadStoppedError(OfflineKitError):
    """Another download failed, or we were interrupted."""


def _digest_file(file: RemoteFileVersion, into: Path, kaggle: KaggleApi) -> str:
    """Return the digest of one file; where Kaggle wrapped it into a zip of its own, of what is inside."""
    with translate_disk_errors(into.parent):
        try:
            _download_file(file, into, kaggle)
            inner = None if into.stat().st_size == file.size else _digest_wrapped(into, file)
            return inner or sha256_of(into)
        finally:
            into.unlink(missing_ok=True)


def _download_file(file: RemoteFileVersion, into: Path, kaggle: KaggleApi) -> None:
    if file.kind == "model":
        kaggle.download_model_file(file.ref, file.version, file.listed_name, into)
    elif file.kind == "notebook":
        kaggle.download_run_output(file.ref, file.version, file.listed_name, into)
    else:
        kaggle.download_dataset_file(file.ref, file.listed_name, into, file.version)


def _digest_wrapped(path: Path, file: RemoteFileVersion) -> str | None:
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if (
            len(members) == 1
            and members[0].filename.rpartition("/")[2] == file.listed_name.rpartition("/")[2]
        ):
            digest = hashlib.sha256()
            with archive.open(members[0]) as stream:
                while chunk := stream.read(CHUNK):
                    digest.update(chunk)
            return digest.hexdigest()
    return None


@contextmanager
def _scratch_folder(beside: Path, wanted: tuple[RemoteFileVersion, ...]) -> Iterator[Path]:
    """Give a folder of ours for as long as the block lasts; what a killed run left there is removed first."""
    folder = beside.with_name(f".{beside.name}.verify")
    with hold_lock(folder.with_suffix(".verify.lock")):
        _remove_folder(folder)
        _check_space(beside.parent, wanted)
        with translate_disk_errors(beside.parent):
            folder.mkdir()
        try:
            yield folder
        finally:
            _remove_folder(folder)


def _remove_folder(folder: Path) -> None:
    gone = folder.with_name(f"{folder.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    # First another name: a download that is still under way cannot put a new file into it.
    with suppress(FileNotFoundError):
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _check_space(place: Path, wanted: tuple[RemoteFileVersion, ...]) -> None:
    needed = sum(sorted((each.size for each in wanted), reverse=True)[:THREADS])
    free = shutil.disk_usage(place).free
    if free < needed + _SPARE:
        raise OutsideError(
            f"comparing the bytes needs {format_size(needed)} below '{place}' for a moment,"
            f" where {format_size(free)} are free",
            hint="free some space, or verify without --deep",
        )


def _count_downloaded(folder: Path) -> int:
    total = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
