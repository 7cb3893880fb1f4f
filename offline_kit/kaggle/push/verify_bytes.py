"""Download files from Kaggle and compute their digests."""

import hashlib
import shutil
import threading
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from offline_kit.core.errors import OutsideError
from offline_kit.core.files import CHUNK, format_size, hold_lock, sha256_of, translate_disk_errors
from offline_kit.core.report import SILENT, Reporter
from offline_kit.core.thread_pool import WaitFor, cancelling_pool
from offline_kit.kaggle.client.client import KaggleClient

# Parallel downloads; each file is on disk until it is hashed.
THREADS = 4
_PROGRESS_SECONDS = 0.2
_SPARE_BYTES = 100_000_000


@dataclass(frozen=True, kw_only=True)
class RemoteFileVersion:
    """A file of a version."""

    kind: str
    """"dataset", "model" or "notebook"."""
    ref: str
    version: int
    listed_name: str
    size: int


def download_digests(
    files: Sequence[RemoteFileVersion], kaggle: KaggleClient, kit_folder: Path, report: Reporter = SILENT
) -> tuple[dict[RemoteFileVersion, str], OutsideError | None]:
    """Return the SHA-256 of each file, and the first failed download, which stops the others.

    The files are in a temporary folder beside `kit_folder` meanwhile. Raises OutsideError if the disk is full.
    """
    digests: dict[RemoteFileVersion, str] = {}
    failure: OutsideError | None = None
    total = sum(file.size for file in files)
    text = f"Downloading {len(files)} files, {format_size(total)}"
    with _scratch_folder(kit_folder, files) as folder, report.progress(text, total) as advance:
        stop = threading.Event()

        def digest_one(number: int, file: RemoteFileVersion) -> str:
            if stop.is_set():
                return ""
            try:
                return _digest_file(file, folder / str(number), kaggle)
            except BaseException:
                stop.set()
                raise

        # Not waited for: a silent server would hold up Ctrl-C, and without the folder a download comes to nothing.
        with cancelling_pool(THREADS, stop, wait_for=WaitFor.NEVER) as pool:
            # The largest first, so that no large file is downloaded alone at the end.
            order = sorted(files, key=lambda file: -file.size)
            running = {pool.submit(digest_one, number, file): file for number, file in enumerate(order)}
            waiting, finished_bytes, reported = set(running), 0, 0
            while waiting:
                ended, waiting = wait(waiting, timeout=_PROGRESS_SECONDS, return_when=FIRST_COMPLETED)
                for future in ended:
                    file = running[future]
                    try:
                        digests[file] = future.result()
                        finished_bytes += file.size
                    except OutsideError as error:
                        failure = failure or OutsideError(
                            f"'{file.listed_name}' of '{file.ref}' cannot be downloaded: {error.what}",
                            hint=error.hint,
                            code=error.code,
                            details=error.details,
                        )
                arrived = min(total, max(reported, finished_bytes + _count_downloaded(folder)))
                advance(arrived - reported)
                reported = arrived
    return digests, failure


def _digest_file(file: RemoteFileVersion, target_path: Path, kaggle: KaggleClient) -> str:
    """Return the digest of one file; if Kaggle zipped it, of its content."""
    with translate_disk_errors(target_path.parent):
        try:
            if file.kind == "model":
                kaggle.download_model_file(file.ref, file.version, file.listed_name, target_path)
            elif file.kind == "notebook":
                kaggle.download_run_output(file.ref, file.version, file.listed_name, target_path)
            else:
                kaggle.download_dataset_file(file.ref, file.listed_name, target_path, file.version)
            is_as_listed = target_path.stat().st_size == file.size
            return (not is_as_listed and _digest_wrapped(target_path, file)) or sha256_of(target_path)
        finally:
            target_path.unlink(missing_ok=True)


def _digest_wrapped(path: Path, file: RemoteFileVersion) -> str:
    """Return the digest of a file in the zip archive that Kaggle made of it, "" if it is no such archive."""
    name = file.listed_name.rpartition("/")[2]
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) == 1 and members[0].filename.rpartition("/")[2] == name:
            with archive.open(members[0]) as stream:
                digest = hashlib.sha256()
                while chunk := stream.read(CHUNK):
                    digest.update(chunk)
            return digest.hexdigest()
    return ""


@contextmanager
def _scratch_folder(kit_folder: Path, files: Sequence[RemoteFileVersion]) -> Iterator[Path]:
    """Yield a temporary folder; the one of a killed run is removed first."""
    folder = kit_folder.with_name(f".{kit_folder.name}.verify")
    with hold_lock(folder.with_suffix(".verify.lock")):
        _remove_folder(folder)
        needed = sum(sorted((file.size for file in files), reverse=True)[:THREADS])
        free = shutil.disk_usage(kit_folder.parent).free
        if free < needed + _SPARE_BYTES:
            raise OutsideError(
                f"comparing the files needs {format_size(needed)} of free space in '{kit_folder.parent}',"
                f" which has {format_size(free)}",
                code="disk-full",
                hint="free some space, or verify without --deep",
            )
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


def _count_downloaded(folder: Path) -> int:
    total = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
