"""The files of a part on their way: all at once, and stopped all at once."""

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from offline_kit.core.errors import ProjectError
from offline_kit.core.files import sha256_of
from offline_kit.core.report import SILENT, Advance, Reporter
from offline_kit.core.retry import StoppedError, stop_waits_on
from offline_kit.kaggle.client.api_types import RefusedError
from offline_kit.kaggle.client.uploads import Uploader, UploadFile
from offline_kit.kit import manifest
from offline_kit.project.kaggle_names import MARKER
from offline_kit.project.types import KitPart

THREADS = 16
"""Uploads at once: small files are slow one after the other, by the way of each request."""

_ITS_TOKENS = re.compile(r"\b(token|blob)", re.IGNORECASE)
_NOT_THEM = frozenset({401, 403, 429})
"""Statuses of credentials, which are tokens too, and of haste."""


@contextmanager
def consume_uploads(uploader: Uploader) -> Iterator[None]:
    """Make something of uploads in the block: they are forgotten where it succeeds.

    So they are where Kaggle refuses them: the next run sends the files again, instead of being refused again.
    """
    try:
        yield
    except RefusedError as no:
        if no.status >= 500 or no.status in _NOT_THEM or not _ITS_TOKENS.search(no.what):
            raise
        uploader.forget_uploads()
        hint = "run the same command again: it sends the files once more"
        raise RefusedError(no.what, hint=hint, status=no.status, after=no.retry_after) from no
    uploader.forget_uploads()


def list_uploads(part: KitPart, folder: Path) -> tuple[UploadFile, ...]:
    """Return the files of a part and its marker; ProjectError where the kit is another one by now."""
    if manifest.read_manifest(folder).id != part.id:
        raise ProjectError(f"'{folder}' was built anew meanwhile", hint="run the same command again")
    marker = folder / MARKER
    files = [
        UploadFile(path=folder / entry.stored, name=entry.stored, size=entry.size, sha256=entry.sha256)
        for entry in part.entries
    ]
    missing = [f"'{file.path}' is missing" for file in files if not file.path.is_file()]
    if missing:
        raise ProjectError(
            f"the kit in '{folder}' is not whole",
            hint="build it again with 'offline-kit build'",
            details=missing,
        )
    size = marker.stat().st_size
    return (*files, UploadFile(path=marker, name=MARKER, size=size, sha256=sha256_of(marker)))


def upload_all(
    uploads: tuple[UploadFile, ...], uploader: Uploader, text: str, report: Reporter = SILENT
) -> dict[str, str]:
    """Upload files at once, the largest first, and return the token of each by its name; raises as the uploader."""
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

    with report.progress(text, sum(file.size for file in uploads)) as advance:
        pool = ThreadPoolExecutor(THREADS)
        try:
            # The largest first, so that none is left alone at the end.
            order = sorted(uploads, key=lambda file: -file.size)
            waiting = {file.name: pool.submit(upload_one, file, advance) for file in order}
            return {name: future.result() for name, future in waiting.items()}
        except StoppedError:
            # Met before its cause: the cause is among the others.
            raise next(
                error
                for future in waiting.values()
                if (error := future.exception()) and not isinstance(error, StoppedError)
            ) from None
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
