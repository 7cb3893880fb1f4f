"""Plan what a push does to each dataset, upload the changed parts and wait until their versions are ready.

Before each call with an effect, the journal stores what will happen and which version was current. If
the answer is lost or the process is killed, this or the next run looks for the effect; nothing is sent twice.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from offline_kit.core.errors import OfflineKitError, OutsideError, ProjectError, UsageError
from offline_kit.core.files import hold_lock
from offline_kit.core.retry import TransientError
from offline_kit.kaggle.client.api_types import Account, NewVersion, RemoteDataset
from offline_kit.kaggle.push.journal import Effect, Phase, PushContext
from offline_kit.kaggle.push.kit_parts import (
    FAILED_STATES,
    FINAL_STATES,
    RemotePartState,
    build_incomplete_error,
    build_not_ready_error,
    find_damage,
    inspect_dataset,
    map_listed_files,
    read_dataset,
)
from offline_kit.kaggle.push.poll_policy import GracePeriod, StatusLine
from offline_kit.kaggle.push.send_files import PushTarget
from offline_kit.project.kaggle_names import (
    MARKER,
    MAX_LOOSE_FILES,
    check_dataset_limits,
    check_slug,
    check_title,
)
from offline_kit.project.types import Kit, KitPart

_SHOWN = 10


class PushAction(StrEnum):
    """What a push does to a dataset."""

    CREATE = "create"
    VERSION = "version"
    NOTHING = "nothing"


@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """What the user allows a push to do."""

    drop_foreign: bool = False  # allow deleting files that offline-kit did not upload
    public: bool = False  # allow new versions of a public dataset
    title: str = ""  # title of a new dataset; by default its slug
    resend: bool = False  # upload unchanged parts again, because their files on Kaggle are damaged
    resend_part: tuple[str, ...] = ()  # names of the parts to upload again, if not all

    def is_kept(self, part: KitPart, held_part: KitPart | None) -> bool:
        """Tell whether a part is not uploaded, because Kaggle holds it."""
        is_same = held_part is not None and held_part.id == part.id
        return is_same and not self.resend and part.name not in self.resend_part


DEFAULT_OPTIONS = PushOptions()


@dataclass(frozen=True, kw_only=True)
class PartPlan:
    """What a push does to one part."""

    part: KitPart
    folder: Path
    ref: str
    action: PushAction
    reason: str
    version_before: int = 0
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


@dataclass(frozen=True, kw_only=True)
class PushPlan:
    """What a push does to a kit."""

    kit_id: str
    parts: tuple[PartPlan, ...]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return all(part.action is PushAction.NOTHING for part in self.parts)

    @property
    def upload_size(self) -> int:
        """Bytes to send."""
        return sum(part.upload_size for part in self.parts)


def resolve_datasets(datasets: Mapping[str, str], account: Account) -> dict[str, str]:
    """Return "owner/slug" for each part's configured dataset, "slug" or "owner/slug".

    Raises UsageError if the account is not the owner, or a slug is invalid.
    """
    problems = []
    refs = {}
    for part, dataset in datasets.items():
        owner, _, slug = dataset.rpartition("/")
        if owner and owner.lower() != account.username.lower():
            problems.append(
                f"'{dataset}' belongs to '{owner}', and these credentials to '{account.username}'"
            )
        problems += check_slug(slug)
        refs[part] = f"{owner or account.username}/{slug}"
    if problems:
        raise UsageError(
            problems[0] if len(problems) == 1 else f"{len(problems)} problems with the datasets' names",
            code="dataset-name-invalid",
            hint="change 'dataset' in [tool.offline-kit], or log in as its owner",
            details=problems if len(problems) > 1 else (),
        )
    return refs


def plan_push(kit: Kit, remotes: Mapping[str, RemotePartState], options: PushOptions) -> PushPlan:
    """Plan each part; `remotes` has the dataset of each part, by the part's name.

    Raises UsageError for an invalid title, ProjectError for files that would be deleted and
    for a public dataset (unless `options` allow it), OutsideError for a part whose files are incomplete.
    """
    problems: list[OfflineKitError] = []
    plans = []
    for part in kit.parts:
        remote = remotes[part.name]
        title = options.title or remote.ref.partition("/")[2]
        problems += _find_problems(part, remote, title, options)
        plan = PartPlan(
            part=part,
            folder=kit.part_folder(part),
            ref=remote.ref,
            action=PushAction.NOTHING,
            reason=f"version {remote.version} holds exactly this part",
            version_before=remote.version,
            held_part_id=remote.part.id if remote.part else "",
            url=remote.url,
        )
        if not options.is_kept(part, remote.part):
            plan = _plan_upload(plan, kit.id, title, remote)
        plans.append(plan)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        details: list[str] = []
        for problem in problems:
            details += [problem.what, *(f"  {detail}" for detail in problem.details)]
        raise ProjectError(
            f"{len(problems)} problems prevent this push",
            code="push-blocked",
            hint=problems[0].hint,
            details=details,
        )
    return PushPlan(kit_id=kit.id, parts=tuple(plans))


def find_foreign_files(part: KitPart, remote: RemotePartState) -> tuple[str, ...]:
    """Return the files on Kaggle that a new version would delete and that offline-kit did not upload."""
    known_paths = {entry.stored for entry in (*part.entries, *(remote.part.entries if remote.part else ()))}
    return tuple(sorted(map_listed_files(remote.files, known_paths).keys() - known_paths - {MARKER}))


def build_exposed_error(name: str, url: str) -> OutsideError:
    """Return the error for something that is public although it was created as private."""
    return OutsideError(
        f"{name} is PUBLIC on Kaggle, although it was created as private",
        code="dataset-public",
        hint=f"make it private at once in the settings of {url or 'its page'}",
    )


def _find_problems(
    part: KitPart, remote: RemotePartState, title: str, options: PushOptions
) -> list[OfflineKitError]:
    is_kept = options.is_kept(part, remote.part)
    problems: list[OfflineKitError] = []
    if is_kept and (wrong := find_damage(part, remote.files)):
        problems.append(build_incomplete_error(remote.ref, remote.version, wrong))
    if not remote.exists:
        problems += [
            UsageError(
                f"for '{remote.ref}': {problem}",
                code="dataset-title-invalid",
                hint="set a title of 6 to 50 characters",
            )
            for problem in check_title(title)
        ]
    if not remote.private and not options.public:
        page = remote.url or "its page"
        problems.append(
            ProjectError(
                f"'{remote.ref}' is public: everyone would see the kit",
                code="dataset-public",
                hint=f"make it private in the settings of {page}, set another one, or allow it with --public",
            )
        )
    lost = () if is_kept or options.drop_foreign else find_foreign_files(part, remote)
    if lost:
        omitted = [f"and {len(lost) - _SHOWN} more"] if len(lost) > _SHOWN else []
        problems.append(
            ProjectError(
                f"'{remote.ref}' has files that offline-kit did not upload; a new version would delete them",
                code="dataset-has-foreign-files",
                hint="set another `dataset`, or delete them with --drop-foreign",
                details=[*lost[:_SHOWN], *omitted],
            )
        )
    return problems


def _plan_upload(plan: PartPlan, kit_id: str, title: str, remote: RemotePartState) -> PartPlan:
    part, old = plan.part, remote.part
    changes = f"{len(part.entries)} files"
    if old:
        before = {entry.original: entry.sha256 for entry in old.entries}
        after = {entry.original: entry.sha256 for entry in part.entries}
        changed = sum(before[name] != after[name] for name in after.keys() & before.keys())
        added, removed = len(after.keys() - before.keys()), len(before.keys() - after.keys())
        changes = f"{added} files added, {changed} changed, {removed} removed"
    if not remote.exists:
        reason = "the dataset does not exist yet"
    elif remote.state == "failed":
        reason = (
            f"version {remote.version} failed on Kaggle" if remote.version else "its first version failed"
        )
    elif not remote.version:
        reason = "it has no version"
    else:
        reason = changes if old else f"version {remote.version} holds no part of a kit"
    stored = {entry.stored for entry in part.entries} | {MARKER}
    size = sum(entry.size for entry in part.entries)
    return replace(
        plan,
        action=PushAction.VERSION if remote.exists else PushAction.CREATE,
        reason=reason,
        title=title,
        notes=f"offline-kit {kit_id[:12]}; {part.name} {part.id}; {changes}",
        upload_size=size,
        file_count=len(part.entries) + 1,
        dropped_files=tuple(sorted(map_listed_files(remote.files, stored).keys() - stored)),
        warnings=check_dataset_limits(len(part.entries) + 1, size),
    )


@dataclass(frozen=True, kw_only=True)
class PushedPart:
    """Where a pushed part is."""

    part: str
    ref: str
    version: int
    action: PushAction
    url: str

    @property
    def source(self) -> str:
        """A model's version as a notebook attaches it."""
        return f"{self.ref}/{self.version}"


def push_kit(
    kit: Kit,
    datasets: Mapping[str, str],
    context: PushContext,
    options: PushOptions = DEFAULT_OPTIONS,
    approve: Callable[[PushPlan], None] = lambda _plan: None,
) -> tuple[PushedPart, ...]:
    """Push a kit's parts to their datasets (by part name) and return where each one is.

    Returns when every part is the current version, ready, private and has its marker. `approve` gets the plan and
    may raise before anything is sent. Raises as `plan_datasets`, and OutsideError if Kaggle refuses or is not ready
    in time; the same call later continues.
    """
    with hold_lock(context.settings.state_folder / "push.lock"):
        plan = plan_datasets(kit, datasets, context, options)
        approve(plan)
        # All parts are sent before waiting, so that Kaggle processes them in parallel.
        effects: dict[str, Effect] = {}
        for part in plan.parts:
            if part.action is not PushAction.NOTHING:
                target = _DatasetTarget(part.ref, context)
                effects[part.part.name] = _upload_part(part, target)
        pushed = []
        for part in plan.parts:
            version, url = part.version_before, part.url
            if part.part.name not in effects:
                context.report.note(f"'{part.ref}': nothing to upload, {part.reason}")
            else:
                effect = effects[part.part.name]
                remote = _DatasetTarget(part.ref, context).wait_until_ready(effect)
                context.journal.append_entry(effect, Phase.DONE)
                version, url = remote.version, remote.url
                if not remote.private and not options.public:
                    raise build_exposed_error(f"'{part.ref}'", url)
                context.report.note(f"'{part.ref}' version {version} is ready and holds this kit")
            pushed.append(
                PushedPart(part=part.part.name, ref=part.ref, version=version, action=part.action, url=url)
            )
        return tuple(pushed)


def _upload_part(part: PartPlan, target: PushTarget) -> Effect:
    """Upload a part and create a version; return the effect, which may not be visible yet."""
    for warning in part.warnings:
        target.context.report.warn(f"'{part.ref}': {warning}")
    tokens = target.upload_part(part.part, part.folder, part.reason)
    new = NewVersion(ref=part.ref, title=part.title, version_notes=part.notes, blob_tokens=tokens)
    effect = Effect(
        action=part.action.value, target=part.ref, before=part.version_before, content=part.part.id
    )
    is_new = part.action is PushAction.CREATE
    send = target.kaggle.create_dataset if is_new else target.kaggle.add_dataset_version
    target.create_version(effect, lambda: send(new))
    return effect


def plan_datasets(
    kit: Kit, datasets: Mapping[str, str], context: PushContext, options: PushOptions = DEFAULT_OPTIONS
) -> PushPlan:
    """Return what a push would do, after recovering what an earlier run left open.

    Raises as `resolve_datasets`, `plan_push` and `inspect_dataset`.
    """
    account = context.kaggle.fetch_account()
    if account.ignored_token_source:
        context.report.warn(
            f"the token from {account.ignored_token_source} has expired; the key of '{account.username}' is used"
        )
    context.report.step(f"Looking at {account.server_name} as '{account.username}'")
    refs = resolve_datasets(datasets, account)
    recovered = set()
    for ref in refs.values():
        if context.journal.find_open_entry(ref):
            # A failed version may never become visible.
            has_failed = context.kaggle.get_dataset_status(ref) in FAILED_STATES
            timeout = 0.0 if has_failed else context.poll.processing_timeout
            if _DatasetTarget(ref, context).recover_interrupted(timeout):
                recovered.add(ref)
    remotes = {part: inspect_dataset(ref, context, expected=ref in recovered) for part, ref in refs.items()}
    return plan_push(kit, remotes, options)


class _DatasetTarget(PushTarget):
    def __init__(self, ref: str, context: PushContext) -> None:
        super().__init__(ref, context)
        self._failed = GracePeriod(context.poll.visibility_timeout)

    def find_newer(self, effect: Effect) -> bool:
        dataset = self.kaggle.get_dataset(self.ref)
        if dataset is None:
            return False
        if dataset.version > effect.before or effect.action == PushAction.CREATE.value:
            return True
        # A failed version may never get a number.
        return not effect.before and self.kaggle.get_dataset_status(self.ref) not in FINAL_STATES

    def read_new_version(self, effect: Effect, line: StatusLine) -> RemotePartState:
        """Return the new version if it is current and ready and its marker has the pushed content.

        State and listing may still be those of the old version: number, state, marker and sizes must
        all match. Raises OutsideError if processing failed.
        """
        is_first = effect.action == PushAction.CREATE.value
        dataset = self.kaggle.get_dataset(self.ref)
        state = self.kaggle.get_dataset_status(self.ref) if dataset else ""
        if dataset is None or dataset.version <= effect.before:
            # A failed version may never get a number, a first one has none while it is processed;
            # the state may still be that of the previous version.
            if dataset and state in FAILED_STATES and (is_first or self._failed.is_over()):
                raise _build_processing_error(self.ref, effect.before + 1, "failed", dataset.url)
            is_known = is_first and state
            words = f"it is in the state '{state}'" if is_known else "the new version is not visible yet"
            line.update_status(words)
            raise TransientError(words)
        _check_not_overtaken(dataset, effect)
        line.update_status(f"version {dataset.version}, {state or 'hidden'}")
        if state in FAILED_STATES:
            raise _build_processing_error(self.ref, dataset.version, state, dataset.url)
        if state != "ready":
            raise TransientError(f"it is in the state '{state}'")
        return self.check_content(read_dataset(self.kaggle, dataset, state), effect)

    def build_not_ready_error(self, trouble: Exception) -> OutsideError:
        return build_not_ready_error(self.ref, trouble)


class OvertakenError(OutsideError):
    """Someone else pushed a newer version: ours never becomes the current one."""

    default_code = "dataset-overtaken"


def _check_not_overtaken(dataset: RemoteDataset, effect: Effect) -> None:
    """Raise OvertakenError if someone else created the current version after ours."""
    # Our version notes contain the content's id, except for a first version. Without notes, the number
    # decides.
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
