"""Upload a part and create a version of its dataset or model from it, at most once."""

import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

from offline_kit.core.errors import OutsideError, ProjectError
from offline_kit.core.files import format_size, sha256_of
from offline_kit.core.report import Advance, Reporter
from offline_kit.core.retry import StoppedError, TransientError, retry_call, stop_waits_on
from offline_kit.core.thread_pool import cancelling_pool
from offline_kit.kaggle.client.api_types import RefusedError
from offline_kit.kaggle.client.uploads import Uploader, UploadFile
from offline_kit.kaggle.push.journal import Effect, PushContext
from offline_kit.kaggle.push.kit_parts import RemotePartState, build_incomplete_error, find_differences
from offline_kit.kaggle.push.poll_policy import GracePeriod, StatusLine, ignore_transient, wait_until_shown
from offline_kit.kit import manifest
from offline_kit.project.kaggle_names import MARKER
from offline_kit.project.types import KitPart

# The latency of each request dominates for small files.
THREADS = 16


class PushTarget(ABC):
    """The dataset or the variation of a model that a part is pushed to."""

    kind = "DATASET"

    def __init__(self, ref: str, context: PushContext) -> None:
        self.ref = ref
        self.context = context
        self.kaggle = context.kaggle
        self.journal_target = ref if self.kind == "DATASET" else f"model:{ref}"
        self._incomplete = GracePeriod(context.poll.visibility_timeout)

    @abstractmethod
    def find_newer(self, effect: Effect) -> bool:
        """Tell whether a newer version than before the effect is visible."""

    @abstractmethod
    def read_new_version(self, effect: Effect, line: StatusLine) -> RemotePartState:
        """Return the version that an effect created once it is ready; raises TransientError until then."""

    @abstractmethod
    def build_not_ready_error(self, trouble: Exception) -> OutsideError:
        """Return the error for a version that is not ready in time."""

    @property
    def uploader(self) -> Uploader:
        """The stored uploads to this target."""
        return self.context.settings.create_uploader(self.kaggle, self.ref, kind=self.kind)

    def wait_until_visible(self, effect: Effect) -> bool | None:
        """Wait until a newer version is visible; None if none is within the visibility timeout."""
        return wait_until_shown(lambda: self.find_newer(effect) or None, self.context.poll.until_visible)

    def recover_interrupted(self, timeout: float) -> bool:
        """Recover what an earlier run sent without seeing it arrive; return whether it has appeared."""

        def wait_for_effect(effect: Effect) -> bool | None:
            visible = self.wait_until_visible(effect)
            if visible:
                # The version has consumed these uploads.
                self.uploader.forget_uploads()
            return visible

        recovered = self.context.recover_interrupted(self.journal_target, wait_for_effect, processing=timeout)
        return recovered is not None

    def upload_part(self, part: KitPart, folder: Path, reason: str) -> dict[str, str]:
        """Upload a part's files and marker and return their tokens by name.

        Raises ProjectError if the kit has changed, and as `Uploader`.
        """
        files = _list_files(part, folder)
        size, noun = format_size(sum(file.size for file in files)), "the model " * (self.kind == "MODEL")
        self.context.report.step(f"Uploading {len(files)} files, {size}, to {noun}'{self.ref}': {reason}")
        return _upload_files(files, self.uploader, f"Uploading {part.name}", self.context.report)

    def create_version(self, effect: Effect, send: Callable[[], str]) -> None:
        """Send the call that creates a version, at most once, and delete the stored uploads that it consumed."""
        # They are also deleted if Kaggle rejects their tokens, so that the next run uploads the files again.

        def find_effect() -> str | None:
            return "" if self.wait_until_visible(effect) else None

        description = f"the new version of '{self.ref}'"
        try:
            self.context.run_once(effect, send, find_effect, description)
        except RefusedError as refusal:
            # A 401 or 403 that speaks of a token means the credentials, not the upload.
            rejects_upload = re.search(r"\b(token|blob)", refusal.what, re.IGNORECASE)
            if refusal.is_temporary or refusal.status in (401, 403) or not rejects_upload:
                raise
            self.uploader.forget_uploads()
            raise RefusedError(
                refusal.what,
                hint="run the same command again: it uploads the files again",
                code="upload-expired",
                status=refusal.status,
                after=refusal.retry_after,
            ) from refusal
        self.uploader.forget_uploads()

    def check_content(self, remote: RemotePartState, effect: Effect) -> RemotePartState:
        """Return a new version if it has the pushed marker and all of its files.

        Raises TransientError until then; OutsideError if files are missing for longer than the visibility timeout.
        """
        part = remote.part
        if part is None or part.id != effect.content:
            raise TransientError(f"it does not hold this kit: {part.id[:12] if part else 'no marker'}")
        if wrong := find_differences(part, remote.files):
            if self._incomplete.is_over():
                raise build_incomplete_error(self.ref, remote.version, wrong)
            raise TransientError(f"its files are incomplete: {wrong[0]}")
        return remote

    def wait_until_ready(self, effect: Effect) -> RemotePartState:
        """Wait until the version that an effect created is ready and return it."""
        text = f"{self.context.server_name} processes '{self.ref}'"
        with StatusLine(self.context.report, text) as line:
            return retry_call(
                ignore_transient(lambda: self.read_new_version(effect, line), line.update_status),
                self.context.poll.until_processed,
                give_up=self.build_not_ready_error,
            )


def _upload_files(
    files: Sequence[UploadFile], uploader: Uploader, text: str, report: Reporter
) -> dict[str, str]:
    """Upload files in parallel, the largest first; the first failure stops all."""
    total = sum(file.size for file in files)
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

    with (
        report.progress(text, total) as advance,
        cancelling_pool(THREADS, stop) as pool,
    ):
        # The largest first, so that no large file is uploaded alone at the end.
        order = sorted(files, key=lambda file: -file.size)
        futures = {file.name: pool.submit(upload_one, file, advance) for file in order}
        try:
            return {name: future.result() for name, future in futures.items()}
        except StoppedError:
            # Another upload failed first: raise its error instead.
            errors = (future.exception() for future in futures.values())
            raise next(e for e in errors if e and not isinstance(e, StoppedError)) from None


def _list_files(part: KitPart, folder: Path) -> list[UploadFile]:
    if manifest.read_manifest(folder).id != part.id:
        raise ProjectError(
            f"'{folder}' has changed since the command started",
            code="kit-changed",
            hint="run the same command again",
        )
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
    marker = folder / MARKER
    size = marker.stat().st_size
    return [*files, UploadFile(path=marker, name=MARKER, size=size, sha256=sha256_of(marker))]
