"""From pins to verified files: chosen for the image, downloaded side by side, kept in the cache."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from offline_kit.core import http
from offline_kit.core.cache import Cache, cache_key
from offline_kit.core.errors import ProjectError
from offline_kit.core.files import format_size
from offline_kit.core.redaction import redact_urls
from offline_kit.core.report import Advance, Reporter
from offline_kit.core.retry import PATIENT, RetryPolicy
from offline_kit.core.thread_pool import WaitFor, cancelling_pool
from offline_kit.packages.file_choice import Alternatives, ImageTarget, choose_file, find_alternatives
from offline_kit.packages.index import IndexFile, PackageIndex
from offline_kit.project.types import Artifact, Pin, Sdist, Wheel

T = TypeVar("T")
THREADS = 8
"""Downloads at a time: more gain nothing from one host."""


@dataclass(frozen=True, kw_only=True)
class MissingPin:
    """A pin of which no file can be had for the image."""

    pin: Pin
    """The pin."""
    files: tuple[IndexFile, ...]
    """All that the indexes have of the project."""
    alternatives: Alternatives
    """What there is instead."""


def fetch_files(
    pins: Sequence[Pin], target: ImageTarget, index: PackageIndex, cache: Cache, report: Reporter
) -> tuple[tuple[Artifact, ...], tuple[MissingPin, ...]]:
    """Return a Wheel or an Sdist for each pin, in their order, and the pins that have neither.

    What is in the cache is used without asking an index. Where anything is missing, nothing is downloaded.
    Raises OutsideError for an index that does not answer and for bytes that are not the promised ones.
    """
    artifacts = {pin: artifact for pin in pins if (artifact := _recall_artifact(pin, target, cache))}
    uncached = [pin for pin in pins if pin not in artifacts]
    files, missing = _choose_files(uncached, target, index, report)
    if not missing:
        artifacts |= _download_files(files, target, index, cache, report)
    return tuple(artifacts[pin] for pin in pins if pin in artifacts), missing


def _make_choice_key(pin: Pin, target: ImageTarget) -> str:
    return cache_key(pin.name, pin.version, sorted(pin.hashes), target.key)


def _recall_artifact(pin: Pin, target: ImageTarget, cache: Cache) -> Artifact | None:
    # Without hashes another index could mean other bytes by the same version: ask again.
    record = cache.read_record("choices", _make_choice_key(pin, target)) if pin.hashes else None
    if record is None:
        return None
    filename, sha256 = str(record.get("filename", "")), str(record.get("sha256", ""))
    path = cache.find_blob(sha256) if filename and len(sha256) == 64 else None
    return _make_artifact(pin, filename, sha256, path) if path else None


def _make_artifact(pin: Pin, filename: str, sha256: str, path: Path) -> Artifact:
    kind = Wheel if filename.endswith(".whl") else Sdist
    size = path.stat().st_size
    return kind(name=pin.name, version=pin.version, filename=filename, path=path, sha256=sha256, size=size)


def _choose_files(
    pins: Sequence[Pin], target: ImageTarget, index: PackageIndex, report: Reporter
) -> tuple[dict[Pin, IndexFile], tuple[MissingPin, ...]]:
    listed = dict(
        zip(pins, _run_parallel([partial(index.list_files, pin.name) for pin in pins]), strict=True)
    )
    files_by_pin: dict[Pin, IndexFile] = {}
    missing: list[MissingPin] = []
    for pin, files in listed.items():
        file = choose_file(files, pin.version, pin.hashes, target)
        if file is None:
            alternatives = find_alternatives(files, pin.version, pin.hashes, target)
            missing.append(MissingPin(pin=pin, files=files, alternatives=alternatives))
            continue
        files_by_pin[pin] = file
        if file.yanked:
            report.warn(
                f"{pin.name} {pin.version} was withdrawn by its authors ('{file.filename}' is yanked)"
            )
    return files_by_pin, tuple(missing)


def _download_files(
    files: dict[Pin, IndexFile], target: ImageTarget, index: PackageIndex, cache: Cache, report: Reporter
) -> dict[Pin, Artifact]:
    cached = {pin: path for pin, file in files.items() if (path := _find_cached(file, cache))}
    uncached = {pin: file for pin, file in files.items() if pin not in cached}
    artifacts = {
        pin: _make_artifact(pin, files[pin].filename, files[pin].sha256, path) for pin, path in cached.items()
    }
    if uncached:
        total = sum(file.size for file in uncached.values())
        text = f"Downloading {len(uncached)} {'file' if len(uncached) == 1 else 'files'}"
        report.step(f"{text} ({format_size(total)})" if total else text)
        with report.progress(text, total) as advance:
            stop = threading.Event()
            batch = _DownloadBatch(
                index=index,
                cache=cache,
                advance=_make_cancellable(advance, stop),
                retries=_make_retries(stop),
            )
            jobs = [partial(_download_file, pin, file, batch) for pin, file in uncached.items()]
            artifacts |= dict(zip(uncached, _run_parallel(jobs, stop), strict=True))
    for pin, artifact in artifacts.items():
        cache.write_record(
            "choices",
            _make_choice_key(pin, target),
            {"filename": artifact.filename, "sha256": artifact.sha256},
        )
    return artifacts


def _find_cached(file: IndexFile, cache: Cache) -> Path | None:
    return cache.find_blob(file.sha256, size=file.size) if file.sha256 else None


@dataclass(frozen=True, kw_only=True)
class _DownloadBatch:
    """What every download of one batch shares."""

    index: PackageIndex
    cache: Cache
    advance: Advance
    retries: RetryPolicy


def _download_file(pin: Pin, file: IndexFile, batch: _DownloadBatch) -> Artifact:
    key = file.sha256 or cache_key(redact_urls(file.url))
    with batch.cache.hold_lock(key):
        path = _find_cached(file, batch.cache)
        if path:
            # Another run was quicker.
            batch.advance(file.size)
            return _make_artifact(pin, file.filename, file.sha256, path)
        part = batch.cache.partial_path(key)
        digest = http.download_file(
            file.url,
            part,
            settings=batch.index.settings,
            sha256=file.sha256,
            size=file.size,
            advance=batch.advance,
            patience=batch.retries,
        )
        if pin.hashes and f"sha256:{digest}" not in pin.hashes:
            part.unlink(missing_ok=True)
            raise ProjectError(
                f"'{file.filename}' is not the file that was frozen",
                hint="build with --upgrade to freeze what the index has now, if you trust it",
                details=[
                    f"got      sha256:{digest}",
                    *(f"expected {digest_line}" for digest_line in pin.hashes),
                ],
            )
        path, _ = batch.cache.store_file(part, digest)
    return _make_artifact(pin, file.filename, digest, path)


class _CancelledError(Exception):
    pass


def _make_cancellable(advance: Advance, stop: threading.Event) -> Advance:
    def forward(amount: int) -> None:
        if stop.is_set():
            raise _CancelledError
        advance(amount)

    return forward


def _make_retries(stop: threading.Event) -> RetryPolicy:
    def sleep(seconds: float) -> None:
        if stop.wait(seconds):
            raise _CancelledError

    return replace(PATIENT, sleep=sleep)


def _run_parallel(jobs: Sequence[Callable[[], T]], stop: threading.Event | None = None) -> list[T]:
    """Do all jobs in threads and return their results; the first error or an interrupt ends the rest."""
    if not jobs:
        return []
    threads = min(THREADS, len(jobs))
    # After Ctrl-C nobody waits for a silent server; what has arrived of its file is kept for resuming.
    with cancelling_pool(threads, stop, wait_for=WaitFor.UNLESS_INTERRUPTED) as pool:
        futures: list[Future[T]] = [pool.submit(job) for job in jobs]
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            if future.done() and (error := future.exception()):
                raise error
        return [future.result() for future in futures]
