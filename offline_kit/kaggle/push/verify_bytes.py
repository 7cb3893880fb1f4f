"""Download files from Kaggle and compute their digests."""

import hashlib
import shutil
import threading
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from offline_kit.core.errors import OfflineKitError, OutsideError
from offline_kit.core.files import CHUNK, format_size, hold_lock, sha256_of, translate_disk_errors
from offline_kit.core.report import SILENT, Reporter
from offline_kit.core.thread_pool import WaitFor, cancelling_pool
from offline_kit.kaggle.client.client import KaggleClient

THREADS = 4
"""Parallel downloads; each one is on disk until it is hashed."""
_LOOK = 0.2  # seconds between updates of the progress bar
_SPARE = 100_000_000  # bytes to keep free on the disk


@dataclass(frozen=True, kw_only=True)
class RemoteFileVersion:
    """A file of a version."""

    ref: str
    version: int
    listed_name: str
    size: int
    kind: str = "dataset"
    """\"dataset", "model" or "notebook"."""


class IncompleteDownloadError(OutsideError):
    """A download failed; the digests of the other files are kept."""

    def __init__(
        self, trouble: OutsideError, file: RemoteFileVersion, known_digests: Mapping[RemoteFileVersion, str]
    ) -> None:
        summary = f"'{file.listed_name}' of '{file.ref}' cannot be downloaded: {trouble.what}"
        super().__init__(summary, hint=trouble.hint, code=trouble.code, details=trouble.details)
        self.known_digests = dict(known_digests)
        """Digests by file."""


def download_digests(
    files: tuple[RemoteFileVersion, ...], kaggle: KaggleClient, kit_folder: Path, report: Reporter = SILENT
) -> dict[RemoteFileVersion, str]:
    """Return the SHA-256 of each file, downloaded to a temporary folder beside `kit_folder`.

    Raises IncompleteDownloadError if a download fails, OutsideError if the disk is full.
    """
    digests_by_file: dict[RemoteFileVersion, str] = {}
    total = sum(file.size for file in files)
    text = f"Downloading {len(files)} files, {format_size(total)}"
    with _scratch_folder(kit_folder, files) as folder, report.progress(text, total) as bar:
        stop = threading.Event()

        def digest_one(number: int, file: RemoteFileVersion) -> str:
            if stop.is_set():
                raise DownloadStoppedError("stopped", hint="run the same command again")
            try:
                return _digest_file(file, folder / str(number), kaggle)
            except BaseException:
                stop.set()
                raise

        # Not waited for: a silent server would hold up Ctrl-C, and without the folder a download comes to nothing.
        with cancelling_pool(THREADS, stop, wait_for=WaitFor.NEVER) as pool:
            # The largest first, so that no large file is uploaded alone at the end.
            order = sorted(files, key=lambda file: -file.size)
            running = {pool.submit(digest_one, number, file): file for number, file in enumerate(order)}
            reported = 0
            for finished_bytes in _collect_digests(running, digests_by_file):
                arrived = min(total, max(reported, finished_bytes + _count_downloaded(folder)))
                bar(arrived - reported)
                reported = arrived
    return digests_by_file


def _collect_digests(
    running: Mapping["Future[str]", RemoteFileVersion], digests_by_file: dict[RemoteFileVersion, str]
) -> Iterator[int]:
    """Fill `digests_by_file`, yielding the bytes of the files that are done every now and then."""
    waiting, troubles, finished_bytes = set(running), list[tuple[OutsideError, RemoteFileVersion]](), 0
    while waiting:
        ended, waiting = wait(waiting, timeout=_LOOK, return_when=FIRST_COMPLETED)
        for future in ended:
            try:
                digests_by_file[running[future]] = future.result()
                finished_bytes += running[future].size
            except DownloadStoppedError:
                continue
            except OutsideError as error:
                troubles.append((error, running[future]))
        yield finished_bytes
    if troubles:
        raise IncompleteDownloadError(*troubles[0], digests_by_file)


class DownloadStoppedError(OfflineKitError):
    """Another download failed, or the user interrupted."""

    default_code = "download-stopped"


def _digest_file(file: RemoteFileVersion, target_path: Path, kaggle: KaggleClient) -> str:
    """Return the digest of one file; if Kaggle zipped it, of its content."""
    with translate_disk_errors(target_path.parent):
        try:
            _download_file(file, target_path, kaggle)
            inner = None if target_path.stat().st_size == file.size else _digest_wrapped(target_path, file)
            return inner or sha256_of(target_path)
        finally:
            target_path.unlink(missing_ok=True)


def _download_file(file: RemoteFileVersion, target_path: Path, kaggle: KaggleClient) -> None:
    if file.kind == "model":
        kaggle.download_model_file(file.ref, file.version, file.listed_name, target_path)
    elif file.kind == "notebook":
        kaggle.download_run_output(file.ref, file.version, file.listed_name, target_path)
    else:
        kaggle.download_dataset_file(file.ref, file.listed_name, target_path, file.version)


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
def _scratch_folder(kit_folder: Path, files: tuple[RemoteFileVersion, ...]) -> Iterator[Path]:
    """Yield a temporary folder; the one of a killed run is removed first."""
    folder = kit_folder.with_name(f".{kit_folder.name}.verify")
    with hold_lock(folder.with_suffix(".verify.lock")):
        _remove_folder(folder)
        _check_space(kit_folder.parent, files)
        with translate_disk_errors(kit_folder.parent):
            folder.mkdir()
        try:
            yield folder
        finally:
            _remove_folder(folder)


def _remove_folder(folder: Path) -> None:
    renamed = folder.with_name(f"{folder.name}.gone")
    shutil.rmtree(renamed, ignore_errors=True)
    # Rename first, so that a running download cannot create new files in it.
    with suppress(FileNotFoundError):
        folder.rename(renamed)
    shutil.rmtree(renamed, ignore_errors=True)


def _check_space(folder: Path, files: tuple[RemoteFileVersion, ...]) -> None:
    needed = sum(sorted((file.size for file in files), reverse=True)[:THREADS])
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE:
        raise OutsideError(
            f"comparing the files needs {format_size(needed)} of free space in '{folder}',"
            f" which has {format_size(free)}",
            code="disk-full",
            hint="free some space, or verify without --deep",
        )


def _count_downloaded(folder: Path) -> int:
    total = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
