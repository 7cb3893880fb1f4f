"""From pins to verified files: chosen for the image, downloaded side by side, kept in the cache."""

import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from offline_kit.core import http
from offline_kit.core.cache import Cache, key_of
from offline_kit.core.errors import ProjectError
from offline_kit.core.files import human_size
from offline_kit.core.redaction import redact
from offline_kit.core.report import Advance, Reporter
from offline_kit.core.retry import PATIENT, Patience
from offline_kit.packages.file_choice import Outlook, Target, choose, outlook
from offline_kit.packages.index import Index, IndexFile
from offline_kit.project.types import Artifact, Pin, Sdist, Wheel

T = TypeVar("T")
THREADS = 8
"""Downloads at a time: more gain nothing from one host."""


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A pin of which no file can be had for the image."""

    pin: Pin
    """The pin."""
    files: tuple[IndexFile, ...]
    """All that the indexes have of the project."""
    outlook: Outlook
    """What there is instead."""


def fetch_files(
    pins: Sequence[Pin], target: Target, index: Index, cache: Cache, report: Reporter
) -> tuple[tuple[Artifact, ...], tuple[Missing, ...]]:
    """Return a Wheel or an Sdist for each pin, in their order, and the pins that have neither.

    What is in the cache is used without asking an index. Where anything is missing, nothing is downloaded.
    Raises OutsideError for an index that does not answer and for bytes that are not the promised ones.
    """
    known = {pin: found for pin in pins if (found := _recalled(pin, target, cache))}
    asked = [pin for pin in pins if pin not in known]
    chosen, missing = _choose_all(asked, target, index, report)
    if not missing:
        known |= _download_all(chosen, target, index, cache, report)
    return tuple(known[pin] for pin in pins if pin in known), missing


def _key(pin: Pin, target: Target) -> str:
    return key_of(pin.name, pin.version, sorted(pin.hashes), target.key)


def _recalled(pin: Pin, target: Target, cache: Cache) -> Artifact | None:
    # Without hashes another index could mean other bytes by the same version: ask again.
    record = cache.recall("choices", _key(pin, target)) if pin.hashes else None
    if record is None:
        return None
    filename, sha256 = str(record.get("filename", "")), str(record.get("sha256", ""))
    path = cache.find(sha256) if filename and len(sha256) == 64 else None
    return _artifact(pin, filename, sha256, path) if path else None


def _artifact(pin: Pin, filename: str, sha256: str, path: Path) -> Artifact:
    kind = Wheel if filename.endswith(".whl") else Sdist
    size = path.stat().st_size
    return kind(name=pin.name, version=pin.version, filename=filename, path=path, sha256=sha256, size=size)


def _choose_all(
    pins: Sequence[Pin], target: Target, index: Index, report: Reporter
) -> tuple[dict[Pin, IndexFile], tuple[Missing, ...]]:
    listed = dict(zip(pins, _at_once([partial(index.files, pin.name) for pin in pins]), strict=True))
    chosen: dict[Pin, IndexFile] = {}
    missing: list[Missing] = []
    for pin, files in listed.items():
        file = choose(files, pin.version, pin.hashes, target)
        if file is None:
            seen = outlook(files, pin.version, pin.hashes, target)
            missing.append(Missing(pin=pin, files=files, outlook=seen))
            continue
        chosen[pin] = file
        if file.yanked:
            report.warn(
                f"{pin.name} {pin.version} was withdrawn by its authors ('{file.filename}' is yanked)"
            )
    return chosen, tuple(missing)


def _download_all(
    chosen: dict[Pin, IndexFile], target: Target, index: Index, cache: Cache, report: Reporter
) -> dict[Pin, Artifact]:
    here = {pin: path for pin, file in chosen.items() if (path := _cached(file, cache))}
    wanted = {pin: file for pin, file in chosen.items() if pin not in here}
    found = {
        pin: _artifact(pin, chosen[pin].filename, chosen[pin].sha256, path) for pin, path in here.items()
    }
    if wanted:
        total = sum(file.size for file in wanted.values())
        text = f"Downloading {len(wanted)} {'file' if len(wanted) == 1 else 'files'}"
        report.step(f"{text} ({human_size(total)})" if total else text)
        with report.progress(text, total) as advance:
            stop = threading.Event()
            way = _Way(index=index, cache=cache, advance=_stoppable(advance, stop), patience=_patience(stop))
            jobs = [partial(_download, pin, file, way) for pin, file in wanted.items()]
            found |= dict(zip(wanted, _at_once(jobs, stop), strict=True))
    for pin, artifact in found.items():
        cache.remember(
            "choices", _key(pin, target), {"filename": artifact.filename, "sha256": artifact.sha256}
        )
    return found


def _cached(file: IndexFile, cache: Cache) -> Path | None:
    return cache.find(file.sha256, size=file.size) if file.sha256 else None


@dataclass(frozen=True, kw_only=True)
class _Way:
    """What every download of one batch shares."""

    index: Index
    cache: Cache
    advance: Advance
    patience: Patience


def _download(pin: Pin, file: IndexFile, way: _Way) -> Artifact:
    key = file.sha256 or key_of(redact(file.url))
    with way.cache.lock(key):
        path = _cached(file, way.cache)
        if path:
            # Another run was quicker.
            way.advance(file.size)
            return _artifact(pin, file.filename, file.sha256, path)
        part = way.cache.part(key)
        digest = http.download(
            file.url,
            part,
            settings=way.index.settings,
            sha256=file.sha256,
            size=file.size,
            advance=way.advance,
            patience=way.patience,
        )
        if pin.hashes and f"sha256:{digest}" not in pin.hashes:
            part.unlink(missing_ok=True)
            raise ProjectError(
                f"'{file.filename}' is not the file that was frozen",
                hint="build with --upgrade to freeze what the index has now, if you trust it",
                details=[f"got      sha256:{digest}", *(f"expected {one}" for one in pin.hashes)],
            )
        path, _ = way.cache.adopt(part, digest)
    return _artifact(pin, file.filename, digest, path)


class _Stopped(Exception):  # noqa: N818 (ends a thread whose work nobody wants any more)
    pass


def _stoppable(advance: Advance, stop: threading.Event) -> Advance:
    def forward(amount: int) -> None:
        if stop.is_set():
            raise _Stopped
        advance(amount)

    return forward


def _patience(stop: threading.Event) -> Patience:
    def sleep(seconds: float) -> None:
        if stop.wait(seconds):
            raise _Stopped

    return replace(PATIENT, sleep=sleep)


def _at_once(jobs: Sequence[Callable[[], T]], stop: threading.Event | None = None) -> list[T]:
    """Do all jobs in threads and return their results; the first error or an interrupt ends the rest."""
    if not jobs:
        return []
    pool = ThreadPoolExecutor(max_workers=min(THREADS, len(jobs)), thread_name_prefix="offline-kit")
    try:
        futures: list[Future[T]] = [pool.submit(job) for job in jobs]
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            if future.done() and (error := future.exception()):
                raise error
        return [future.result() for future in futures]
    finally:
        if stop:
            stop.set()
        # A thread that reads from a silent server cannot be woken: after ^C nobody waits for it, and what it
        # has of its file is kept for resuming.
        pool.shutdown(wait=not isinstance(sys.exception(), KeyboardInterrupt), cancel_futures=True)
