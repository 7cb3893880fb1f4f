"""Upload the changed parts of a kit as dataset versions and wait until they are ready.

Before each call with an effect, the journal stores what will happen and which version was current. If
the answer is lost or the process is killed, this or the next run looks for the effect; nothing is sent twice.
"""

import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from offline_kit.core.errors import OutsideError, ProjectError
from offline_kit.core.files import format_size, hold_lock
from offline_kit.core.report import SILENT, Reporter, Say
from offline_kit.core.retry import TransientError
from offline_kit.kaggle.client.api_types import (
    NewDatasetVersion,
    RefusedError,
    RemoteDataset,
    RemoteFile,
)
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.push import send_files
from offline_kit.kaggle.push.dataset_plan import (
    DEFAULT_OPTIONS,
    PartPlan,
    PushAction,
    PushOptions,
    PushPlan,
    RemotePartState,
    build_exposed_error,
    build_incomplete_error,
    find_damage,
    find_differences,
    plan_push,
    resolve_datasets,
)
from offline_kit.kaggle.push.journal import Effect, Phase, PushSettings, recover_interrupted, run_once
from offline_kit.kaggle.push.poll_policy import (
    DEFAULT_POLL,
    PollPolicy,
    find_cause,
    ignore_transient,
    poll_until,
    wait_until_shown,
)
from offline_kit.kit import manifest
from offline_kit.project.kaggle_names import MARKER
from offline_kit.project.types import Kit, KitPart


@dataclass(frozen=True, kw_only=True)
class PushedPart:
    """Where a pushed part is."""

    part: str
    ref: str
    version: int
    action: PushAction
    url: str


def push_kit(
    kit: Kit,
    datasets: Mapping[str, str],
    kaggle: KaggleClient,
    settings: PushSettings,
    options: PushOptions = DEFAULT_OPTIONS,
    report: Reporter = SILENT,
    approve: Callable[[PushPlan], None] = lambda _plan: None,
) -> tuple[PushedPart, ...]:
    """Push a kit's parts to their datasets (by part name) and return where each one is.

    Returns when every part is the current version, ready, private and has its marker. `approve` gets the plan and
    may raise before anything is sent. Raises as `plan_datasets`, and OutsideError if Kaggle refuses or is not ready in time; the same call later continues.
    """
    with hold_lock(settings.state_folder / "push.lock"):
        plan = plan_datasets(kit, datasets, kaggle, settings, options, report)
        approve(plan)
        return apply_plan(plan, kaggle, settings, options, report)


def plan_datasets(
    kit: Kit,
    datasets: Mapping[str, str],
    kaggle: KaggleClient,
    settings: PushSettings,
    options: PushOptions = DEFAULT_OPTIONS,
    report: Reporter = SILENT,
) -> PushPlan:
    """Return what a push would do, after recovering what an earlier run left open.

    Raises as `resolve_datasets`, `plan_push` and `inspect_dataset`.
    """
    account = kaggle.fetch_account()
    if account.ignored_token_source:
        report.warn(
            f"the token from {account.ignored_token_source} has expired; the key of '{account.username}' is used"
        )
    report.step(f"Looking at {account.server_name} as '{account.username}'")
    refs = resolve_datasets(datasets, account)
    recovered = {ref for ref in refs.values() if _recover_interrupted(ref, kaggle, settings, report)}
    remotes = {
        part: inspect_dataset(kaggle, ref, settings.poll_policy, report, expected=ref in recovered)
        for part, ref in refs.items()
    }
    return plan_push(kit, remotes, options)


def apply_plan(
    plan: PushPlan,
    kaggle: KaggleClient,
    settings: PushSettings,
    options: PushOptions,
    report: Reporter = SILENT,
) -> tuple[PushedPart, ...]:
    """Carry out a plan; all parts are sent before waiting, so that Kaggle processes them in parallel."""
    effects = {
        part.part.name: _upload_part(part, kaggle, settings, report)
        for part in plan.parts
        if part.action is not PushAction.NOTHING
    }
    return tuple(
        _finish_part(part, effects[part.part.name], kaggle, settings, options, report)
        if part.part.name in effects
        else _report_unchanged(part, report)
        for part in plan.parts
    )


def _report_unchanged(part: PartPlan, report: Reporter) -> PushedPart:
    report.note(f"'{part.ref}': nothing to upload, {part.reason}")
    return PushedPart(
        part=part.part.name, ref=part.ref, version=part.version_before, action=part.action, url=part.url
    )


def _upload_part(part: PartPlan, kaggle: KaggleClient, settings: PushSettings, report: Reporter) -> Effect:
    """Upload a part and create a version; return the effect, which may not be visible yet."""
    for warning in part.warnings:
        report.warn(f"'{part.ref}': {warning}")
    uploads = send_files.list_uploads(part.part, part.folder)
    uploader = settings.create_uploader(kaggle, part.ref)
    report.step(
        f"Uploading {len(uploads)} files, {format_size(part.upload_size)}, to '{part.ref}': {part.reason}"
    )
    tokens = send_files.upload_all(uploads, uploader, f"Uploading {part.part.name}", report)
    new = NewDatasetVersion(ref=part.ref, title=part.title, version_notes=part.notes, blob_tokens=tokens)
    effect = Effect(
        action=part.action.value, target=part.ref, before=part.version_before, content=part.part.id
    )
    send = kaggle.create_dataset if part.action is PushAction.CREATE else kaggle.add_dataset_version
    with send_files.consume_uploads(uploader):
        run_once(
            settings.effect_journal,
            effect,
            lambda: send(new),
            lambda: "" if wait_until_visible(kaggle, effect, settings.poll_policy) else None,
            f"the new version of '{part.ref}'",
            report,
        )
    return effect


def _recover_interrupted(ref: str, kaggle: KaggleClient, settings: PushSettings, report: Reporter) -> bool:
    """Recover what an earlier run sent without seeing it arrive; return whether it has appeared."""

    def wait_for_effect(effect: Effect) -> bool | None:
        if not wait_until_visible(kaggle, effect, settings.poll_policy):
            return None
        # The version has consumed these uploads.
        settings.create_uploader(kaggle, ref).forget_uploads()
        return True

    # A failed version may never become visible.
    failed = (
        settings.effect_journal.find_open_entry(ref) is not None
        and kaggle.get_dataset_status(ref) in FAILED_STATES
    )
    patience = 0.0 if failed else settings.poll_policy.processing_timeout
    return (
        recover_interrupted(settings.effect_journal, ref, wait_for_effect, report, processing=patience)
        is not None
    )


def _finish_part(
    part: PartPlan,
    effect: Effect,
    kaggle: KaggleClient,
    settings: PushSettings,
    options: PushOptions,
    report: Reporter,
) -> PushedPart:
    """Wait until a part is ready, and check that it is private."""
    remote = wait_until_ready(kaggle, effect, settings.poll_policy, report)
    settings.effect_journal.append_entry(effect, Phase.DONE)
    if not remote.private and not options.public:
        raise build_exposed_error(f"'{part.ref}'", remote.url)
    report.note(f"'{part.ref}' version {remote.version} is ready and holds this kit")
    return PushedPart(
        part=part.part.name, ref=part.ref, version=remote.version, action=part.action, url=remote.url
    )


FAILED_STATES = frozenset({"failed", "deleted"})
FINAL_STATES = FAILED_STATES | {"ready"}
"""States that do not change without another push."""
_MAX_MARKER = 64 << 20


def inspect_dataset(
    kaggle: KaggleClient,
    ref: str,
    poll_policy: PollPolicy = DEFAULT_POLL,
    report: Reporter = SILENT,
    *,
    expected: bool = False,
) -> RemotePartState:
    """Return a dataset's state, after waiting while it is being processed.

    If a new version is `expected`, wait until its files are listed. Raises OutsideError if any
    of it times out.
    """
    if kaggle.get_dataset(ref) is None:
        return RemotePartState(ref=ref)
    with _LazyStatusLine(kaggle, ref, report) as line:

        def read_state() -> str:
            state = kaggle.get_dataset_status(ref)
            if state not in FINAL_STATES:
                line.update_status(state or "hidden")
                raise TransientError(f"it is in the state '{state or 'hidden'}'")
            return state

        patience = poll_policy.retry_policy(poll_policy.processing_timeout)
        state = poll_until(
            ignore_transient(read_state, line.update_status),
            patience,
            lambda e: _build_not_ready_error(ref, str(e)),
        )
        dataset = kaggle.get_dataset(ref)
        if dataset is None:
            return RemotePartState(ref=ref)
        until = time.monotonic() + poll_policy.visibility_timeout if expected else 0.0

        def read_files() -> RemotePartState:
            remote = _read_remote(kaggle, dataset, state)
            if remote.part and find_damage(remote.part, remote) and time.monotonic() < until:
                line.update_status("not all of its files are visible yet")
                raise TransientError("not all of its files are visible yet")
            return remote

        return poll_until(
            ignore_transient(read_files, line.update_status),
            poll_policy.retry_policy(2 * poll_policy.visibility_timeout),
            find_cause,
        )


def _read_remote(kaggle: KaggleClient, dataset: RemoteDataset, state: str) -> RemotePartState:
    """Return the state of a processed dataset, with its files and the part of its marker."""
    remote = RemotePartState(
        ref=dataset.ref, version=dataset.version, state=state, private=dataset.private, url=dataset.url
    )
    if state != "ready":
        return remote
    remote = replace(remote, files=kaggle.list_dataset_files(dataset.ref, dataset.version))
    if not any(file.name == MARKER for file in remote.files):
        return remote
    part = read_marker(kaggle, dataset.ref)
    return replace(remote, part=part, files=_list_all_files(kaggle, part, remote) if part else remote.files)


def _list_all_files(kaggle: KaggleClient, part: KitPart, remote: RemotePartState) -> tuple[RemoteFile, ...]:
    """Return the files of a version; if the listing is incomplete, list each folder."""
    damage = find_damage(part, remote)
    if not damage:
        return remote.files
    try:
        deeper = kaggle.list_dataset_files(remote.ref, remote.version, by_folder=True)
    except RefusedError as refusal:
        if refusal.is_temporary:
            raise
        return remote.files
    return deeper if len(find_damage(part, replace(remote, files=deeper))) < len(damage) else remote.files


def read_marker(kaggle: KaggleClient, ref: str) -> KitPart | None:
    """Return the part that the marker of the current version describes, None if the marker is invalid.

    A notebook mounts the current version, so no version number is requested.
    """
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as folder:
        path = Path(folder) / MARKER
        if kaggle.download_dataset_file(ref, MARKER, path) > _MAX_MARKER:
            return None
        try:
            return manifest.parse_manifest(_read_text(path), f"{ref}/{MARKER}")
        except (ProjectError, UnicodeDecodeError, zipfile.BadZipFile):
            return None


def read_part(kaggle: KaggleClient, ref: str, version: int) -> KitPart | None:
    """Return the part that a ready dataset holds, None if it has no marker."""
    marked = any(file.name == MARKER for file in kaggle.list_dataset_files(ref, version))
    return read_marker(kaggle, ref) if marked else None


def _read_text(path: Path) -> str:
    # Kaggle zips some downloads, such as large text files.
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as wrapped:
            return wrapped.read(wrapped.namelist()[0]).decode("utf-8")
    return path.read_text(encoding="utf-8")


def wait_until_visible(kaggle: KaggleClient, effect: Effect, poll_policy: PollPolicy = DEFAULT_POLL) -> bool:
    """Wait until a newer version is visible; False if none is within the visibility timeout."""

    def find_newer() -> bool | None:
        dataset = kaggle.get_dataset(effect.target)
        if dataset is None or dataset.version > effect.before:
            return True if dataset else None
        # A failed version may never get a number.
        is_new_dataset = effect.action == PushAction.CREATE.value
        return (
            True
            if is_new_dataset
            or (not effect.before and kaggle.get_dataset_status(effect.target) not in FINAL_STATES)
            else None
        )

    return wait_until_shown(find_newer, poll_policy.retry_policy(poll_policy.visibility_timeout)) is not None


def wait_until_ready(
    kaggle: KaggleClient, effect: Effect, poll_policy: PollPolicy = DEFAULT_POLL, report: Reporter = SILENT
) -> RemotePartState:
    """Wait until the new version is current and ready and its marker has the pushed content; return its state.

    State and listing may still be those of the old version: number, state, marker and sizes must
    all match. Raises OutsideError if processing fails or times out.
    """
    ref = effect.target
    incomplete_since: list[float] = []  # when the marker was there and the files were not
    failed_since: list[float] = []  # when it had failed and no newer version was there

    def read_version() -> RemotePartState:
        dataset = kaggle.get_dataset(ref)
        if dataset is None or dataset.version <= effect.before:
            # A failed version may never get a number, a first one has none while it is processed;
            # the state may still be that of the previous version.
            first, state = (
                effect.action == PushAction.CREATE.value,
                kaggle.get_dataset_status(ref) if dataset else "",
            )
            if dataset and state in FAILED_STATES:
                failed_since.append(time.monotonic())
                if first or failed_since[-1] - failed_since[0] > poll_policy.visibility_timeout:
                    raise _build_processing_error(ref, effect.before + 1, "failed", dataset.url)
            missing = (
                f"it is in the state '{state}'" if first and state else "the new version is not visible yet"
            )
            line.update_status(missing)
            raise TransientError(missing)
        _check_not_overtaken(dataset, effect)
        state = kaggle.get_dataset_status(ref)
        line.update_status(f"version {dataset.version}, {state or 'hidden'}")
        if state in FAILED_STATES:
            raise _build_processing_error(ref, dataset.version, state, dataset.url)
        if state != "ready":
            raise TransientError(f"it is in the state '{state}'")
        remote = _read_remote(kaggle, dataset, state)
        part = remote.part
        if part is None or part.id != effect.content:
            raise TransientError(f"it does not hold this kit: {part.id[:12] if part else 'no marker'}")
        if wrong := find_differences(part, remote):
            incomplete_since.append(time.monotonic())
            if incomplete_since[-1] - incomplete_since[0] > poll_policy.visibility_timeout:
                raise build_incomplete_error(ref, dataset.version, wrong)
            raise TransientError(f"its files are incomplete: {wrong[0]}")
        return remote

    with _LazyStatusLine(kaggle, ref, report) as line:
        patience = poll_policy.retry_policy(poll_policy.processing_timeout)
        return poll_until(
            ignore_transient(read_version, line.update_status),
            patience,
            lambda e: _build_not_ready_error(ref, str(e)),
        )


class OvertakenError(OutsideError):
    """Someone else pushed a newer version: ours never becomes the current one."""

    default_code = "dataset-overtaken"


def _check_not_overtaken(dataset: RemoteDataset, effect: Effect) -> None:
    """Raise OvertakenError if someone else created the current version after ours.

    Our version notes contain the content's id, except for a first version. Without notes, the number decides.
    """
    our_numbers = [number for number, notes in dataset.version_notes.items() if effect.content in notes]
    if effect.action == PushAction.CREATE.value:
        our_numbers.append(1)
    our_version = max(our_numbers) if our_numbers and max(our_numbers) > effect.before else 0
    if not our_version and not any(dataset.version_notes.values()):
        our_version = effect.before + 1
    if our_version and dataset.version > our_version:
        raise OvertakenError(
            f"another push of '{effect.target}' came after this one: version {dataset.version} is the current one",
            hint="push this dataset from one machine only, and run the same command again there",
        )


class _LazyStatusLine(ExitStack):
    """A status line about a dataset that appears with its first update."""

    def __init__(self, kaggle: KaggleClient, ref: str, report: Reporter) -> None:
        super().__init__()
        self._text = f"{kaggle.fetch_account().server_name} processes '{ref}'"
        self._report = report
        self._say: Say | None = None

    def update_status(self, state: str) -> None:
        if self._say is None:
            self._say = self.enter_context(self._report.waiting(self._text))
        self._say(state)


def _build_not_ready_error(ref: str, detail: str) -> OutsideError:
    return OutsideError(
        f"'{ref}' was not ready in time: {detail}",
        code="dataset-not-ready",
        hint="run the same command again later: it continues to wait, and nothing is sent twice",
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
