"""The datasets and models that parts are pushed to: upload a part's files, create a version of them at most once."""

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from offline_kit.core.errors import OutsideError, ProjectError
from offline_kit.core.files import format_size, sha256_of
from offline_kit.core.retry import TransientError, retry_call
from offline_kit.core.thread_pool import run_transfers
from offline_kit.kaggle.client.api_types import NewVersion, RefusedError
from offline_kit.kaggle.client.uploads import Uploader, UploadFile
from offline_kit.kaggle.push import kit_parts
from offline_kit.kaggle.push.journal import Effect, Phase, PushContext
from offline_kit.kaggle.push.kit_parts import FAILED_STATES, RemotePartState
from offline_kit.kaggle.push.poll_policy import GracePeriod, StatusLine, may_appear, wait_until_shown
from offline_kit.kit import manifest
from offline_kit.project.kaggle_names import MARKER, MAX_LOOSE_FILES
from offline_kit.project.types import KitPart

# The latency of each request dominates for small files.
THREADS = 16


class PushAction(StrEnum):
    """What a push does to a dataset or a model."""

    CREATE = "create"
    VERSION = "version"
    NOTHING = "nothing"


@dataclass(frozen=True, kw_only=True)
class PartPlan:
    """What a push does, or has done, to one part."""

    part: KitPart
    folder: Path
    ref: str
    kind: str  # "dataset" or "model"
    action: PushAction
    reason: str
    version: int = 0  # the current version, 0 for none; after the push, the one that holds the part
    held_part_id: str = ""  # id of the part in the current version; empty if it holds none
    title: str = ""
    notes: str = ""
    upload_size: int = 0
    file_count: int = 0
    dropped_files: tuple[str, ...] = ()
    """Files of the previous version that the new one does not have, sorted."""
    warnings: tuple[str, ...] = ()
    url: str = ""

    @property
    def file_count_warning(self) -> str:
        """Question to confirm before uploading very many files; "" if Kaggle accepts the number."""
        if self.file_count <= MAX_LOOSE_FILES:
            return ""
        return f"'{self.ref}' would get {self.file_count} files, and Kaggle may refuse more than {MAX_LOOSE_FILES}"


class PushTarget:
    """The dataset, or the variation of a model, that a part is pushed to.

    Notebooks mount the newest version of a dataset. They attach a model at a fixed version, and Kaggle unpacks nothing in it.
    """

    def __init__(self, location: str, context: PushContext) -> None:
        """`location` is as `inspect_part` takes it, whichever version of the model it names."""
        kind, _, name = location.rpartition(":")
        self.ref = "/".join(name.split("/")[:4])
        self._kind = kind or "dataset"
        self._location = f"model:{self.ref}/0" if kind else self.ref
        self._journal_target = f"model:{self.ref}" if kind else self.ref
        self._context, self._kaggle = context, context.kaggle
        self._failed, self._incomplete = (GracePeriod(context.poll.visibility_timeout) for _ in range(2))

    @property
    def _uploader(self) -> Uploader:
        """The stored uploads to this target."""
        state = self._context.state_folder / "uploads" / self.ref.lower().replace("/", "--")
        return Uploader(self._kaggle, state, patience=self._context.client.retry, kind=self._kind.upper())

    def inspect_recovered(self) -> RemotePartState:
        """Return what is there now, after recovering what an earlier run sent without seeing it arrive."""
        is_expected = False
        if self._context.journal.find_open_entry(self._journal_target):
            # A version that failed may never become visible.
            has_failed = kit_parts.inspect_part(self._location, self._kaggle).state in FAILED_STATES
            timeout = 0.0 if has_failed else self._context.poll.processing_timeout
            is_expected = bool(
                self._context.recover_interrupted(
                    self._journal_target, self._wait_until_visible, processing=timeout
                )
            )
        if is_expected:
            self._uploader.forget_uploads()  # the version has consumed them
        return kit_parts.inspect_settled(self._location, self._context, expected=is_expected)

    def _wait_until_visible(self, effect: Effect) -> bool | None:
        """Wait until a newer version than before the effect is visible; None if none is in time."""

        def find_newer() -> bool | None:
            remote = kit_parts.inspect_part(self._location, self._kaggle)
            # A failed version may never get a number, nor a first one while it is processed.
            is_first = effect.action == "create" or (
                not effect.before and remote.state not in kit_parts.FINAL_STATES
            )
            return remote.version > effect.before or (remote.exists and is_first) or None

        return wait_until_shown(find_newer, self._context.poll.until_visible)

    def upload_part(self, plan: PartPlan) -> Effect:
        """Upload a part and create a version from it at most once; return the effect, which may not be visible yet.

        Raises ProjectError if the kit has changed, and as `Uploader`.
        """
        is_new, report = plan.action is PushAction.CREATE, self._context.report
        if self._kind == "model" and is_new:
            self._create_model()
        for warning in plan.warnings:
            report.warn(f"'{plan.ref}': {warning}")
        # The largest first, so that no large file is uploaded alone at the end.
        files = sorted(_list_files(plan.part, plan.folder), key=lambda file: -file.size)
        total = sum(file.size for file in files)
        to = f"to the {self._kind} '{self.ref}'"
        report.step(f"Uploading {len(files)} files, {format_size(total)}, {to}: {plan.reason}")
        with report.progress(f"Uploading {plan.part.name}", total) as advance:
            sent = run_transfers(self._uploader.upload_file, files, THREADS, advance)
        tokens = {file.name: token for file, token in zip(files, sent, strict=True)}
        new = NewVersion(ref=self.ref, title=plan.title, version_notes=plan.notes, blob_tokens=tokens)
        kaggle = self._kaggle
        calls = {
            ("dataset", True): ("create", kaggle.create_dataset),
            ("dataset", False): ("version", kaggle.add_dataset_version),
            ("model", True): ("variation", kaggle.create_variation),
            ("model", False): ("model-version", kaggle.add_model_version),
        }
        action, send = calls[self._kind, is_new]
        effect = Effect(action=action, target=self._journal_target, before=plan.version, content=plan.part.id)
        try:
            self._context.run_once(
                effect,
                lambda: send(new),
                lambda: self._wait_until_visible(effect),
                f"the new version of '{self.ref}'",
            )
        except RefusedError as refusal:
            # A 401 or 403 that speaks of a token means the credentials, not the upload.
            rejects_upload = re.search(r"\b(token|blob)", refusal.what, re.IGNORECASE)
            if refusal.is_temporary or refusal.status in (401, 403) or not rejects_upload:
                raise
            self._uploader.forget_uploads()
            raise RefusedError(
                refusal.what,
                hint="run the same command again: it uploads the files again",
                code="upload-expired",
                status=refusal.status,
                after=refusal.after,
            ) from refusal
        self._uploader.forget_uploads()  # a token can be used only once
        return effect

    def _create_model(self) -> None:
        """Create the model of a variation once, unless it exists; if the answer is lost, check whether it does."""
        name, context = "/".join(self.ref.split("/")[:2]), self._context
        if self._kaggle.get_model(name):
            return
        effect = Effect(action="model", target=f"model:{name}", before=0, content="")

        def wait_for_model() -> object:
            return wait_until_shown(lambda: self._kaggle.get_model(name), context.poll.until_visible)

        title, notes = name.partition("/")[2], "Checkpoints of a kit of offline-kit."
        context.run_once(
            effect,
            lambda: self._kaggle.create_model(name, title, notes),
            wait_for_model,
            f"the model '{name}'",
        )
        if wait_for_model() is None:
            raise OutsideError(
                f"the model '{name}' is not visible yet",
                code="model-not-visible",
                hint="run the same command again: it continues, and nothing is sent twice",
            )
        context.journal.append_entry(effect, Phase.DONE)

    def wait_until_ready(self, effect: Effect) -> RemotePartState:
        """Wait until the version that an effect created is ready and return it."""
        text = f"{self._context.server_name} processes '{self.ref}'"
        with StatusLine(self._context.report, text) as line:
            return retry_call(
                lambda: self._read_new_version(effect, line),
                self._context.poll.until_processed,
                may_pass=lambda error: may_appear(error, line.update_status),
                give_up=lambda trouble: kit_parts.build_not_ready_error(self.ref, trouble),
            )

    def _read_new_version(self, effect: Effect, line: StatusLine) -> RemotePartState:
        # State and listing may still be those of the old version: number, state, marker and sizes must all match.
        remote, is_first = kit_parts.inspect_part(self._location, self._kaggle), effect.action == "create"
        if remote.version <= effect.before:
            # A failed version may never get a number, a first one has none while it is processed;
            # the state may still be that of the previous version.
            if remote.state in FAILED_STATES and (is_first or self._failed.is_over()):
                raise _build_processing_error(self.ref, effect.before + 1, "failed", remote.url)
            is_known = is_first and remote.state
            words = (
                f"it is in the state '{remote.state}'" if is_known else "the new version is not visible yet"
            )
            line.update_status(words)
            raise TransientError(words)
        _check_not_overtaken(remote, effect)
        line.update_status(f"version {remote.version}, {remote.state or 'hidden'}")
        if remote.state in FAILED_STATES:
            raise _build_processing_error(self.ref, remote.version, remote.state, remote.url)
        if remote.state != "ready":
            raise TransientError(f"it is in the state '{remote.state}'")
        part = remote.part
        if part is None or part.id != effect.content:
            raise TransientError(f"it does not hold this kit: {part.id[:12] if part else 'no marker'}")
        if wrong := kit_parts.find_differences(part, remote.files):
            if self._incomplete.is_over():
                raise kit_parts.build_incomplete_error(self.ref, remote.version, wrong)
            raise TransientError(f"its files are incomplete: {wrong[0]}")
        return remote


class OvertakenError(OutsideError):
    """Someone else pushed a newer version: ours never becomes the current one."""

    default_code = "dataset-overtaken"


def _check_not_overtaken(remote: RemotePartState, effect: Effect) -> None:
    """Raise OvertakenError if someone else created the current version after ours."""
    # Our version notes contain the content's id, except for a first version. Without notes, the number
    # decides.
    our_numbers = [number for number, notes in remote.version_notes.items() if effect.content in notes]
    if effect.action == "create":
        our_numbers.append(1)
    our_version = max(our_numbers) if our_numbers and max(our_numbers) > effect.before else 0
    if not our_version and not any(remote.version_notes.values()):
        our_version = effect.before + 1
    if our_version and remote.version > our_version:
        raise OvertakenError(
            f"another push of '{effect.target}' came after this one: version {remote.version} is the current one",
            hint=f"push this {remote.kind} from one machine only, and run the same command again there",
        )


def _build_processing_error(ref: str, version: int, state: str, url: str) -> OutsideError:
    return OutsideError(
        f"Kaggle could not process version {version} of '{ref}' ({state})",
        code="dataset-processing-failed",
        hint=f"see the reason on its page, {url or 'on kaggle.com'}; then run the same command again",
        details=(
            "usual causes: the account's quota for private data is used up, or an archive that Kaggle unpacks",
            "contains a file name with '&' or '@'",
        ),
    )


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
