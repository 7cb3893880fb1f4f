"""Upload the files of a part in parallel; the first failure stops all."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from offline_kit.core.errors import ProjectError
from offline_kit.core.files import sha256_of
from offline_kit.core.report import SILENT, Advance, Reporter
from offline_kit.core.retry import StoppedError, stop_waits_on
from offline_kit.core.thread_pool import cancelling_pool
from offline_kit.kaggle.client.api_types import RefusedError
from offline_kit.kaggle.client.uploads import Uploader, UploadFile
from offline_kit.kit import manifest
from offline_kit.project.kaggle_names import MARKER
from offline_kit.project.types import KitPart

THREADS = 16
"""Parallel uploads: the latency of each request dominates for small files."""

_UPLOAD_WORDS = re.compile(r"\b(token|blob)", re.IGNORECASE)
_CREDENTIAL_STATUSES = frozenset({401, 403})
"""Refusals that speak of a token and mean the credentials, not the upload."""


@contextmanager
def consume_uploads(uploader: Uploader) -> Iterator[None]:
    """Delete the stored uploads once the block has consumed them.

    They are also deleted if Kaggle rejects their tokens, so that the next run uploads the files again.
    """
    try:
        yield
    except RefusedError as refusal:
        if (
            refusal.is_temporary
            or refusal.status in _CREDENTIAL_STATUSES
            or not _UPLOAD_WORDS.search(refusal.what)
        ):
            raise
        uploader.forget_uploads()
        hint = "run the same command again: it uploads the files again"
        raise RefusedError(
            refusal.what, hint=hint, code="upload-expired", status=refusal.status, after=refusal.retry_after
        ) from refusal
    uploader.forget_uploads()


def list_uploads(part: KitPart, folder: Path) -> tuple[UploadFile, ...]:
    """Return the files of a part and its marker; raises ProjectError if the kit has changed."""
    if manifest.read_manifest(folder).id != part.id:
        raise ProjectError(
            f"'{folder}' has changed since the command started",
            code="kit-changed",
            hint="run the same command again",
        )
    marker = folder / MARKER
    files = [
        UploadFile(path=folder / entry.stored, name=entry.stored, size=entry.size, sha256=entry.sha256)
        for entry in part.entries
    ]
    missing = [f"'{file.path}' is missing" for file in files if not file.path.is_file()]
    if missing:
        raise ProjectError(
            f"the kit in '{folder}' is incomplete",
            code="kit-damaged",
            hint="run 'offline-kit build'",
            details=missing,
        )
    size = marker.stat().st_size
    return (*files, UploadFile(path=marker, name=MARKER, size=size, sha256=sha256_of(marker)))


def upload_all(
    uploads: tuple[UploadFile, ...], uploader: Uploader, text: str, report: Reporter = SILENT
) -> dict[str, str]:
    """Upload files in parallel, the largest first, and return their tokens by name; raises as `Uploader`."""
    stop = threading.Event()

    def upload_one(file: UploadFile, advance: Advance) -> str:
        def report_progress(count: int) -> None:
            if stop.is_set():
                raise StoppedError
            advance(count)

        try:
            report_progress(0)
            with stop_waits_on(stop):
                return uploader.upload_file(file, report_progress)
        except BaseException:
            stop.set()
            raise

    total = sum(file.size for file in uploads)
    with report.progress(text, total) as advance, cancelling_pool(THREADS, stop) as pool:
        # The largest first, so that no large file is uploaded alone at the end.
        order = sorted(uploads, key=lambda file: -file.size)
        futures = {file.name: pool.submit(upload_one, file, advance) for file in order}
        try:
            return {name: future.result() for name, future in futures.items()}
        except StoppedError:
            # Another upload failed first: raise its error instead.
            errors = (future.exception() for future in futures.values())
            raise next(e for e in errors if e and not isinstance(e, StoppedError)) from None
