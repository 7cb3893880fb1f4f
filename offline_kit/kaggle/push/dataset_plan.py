"""Plan what a push does to each dataset, before anything is sent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from offline_kit.core.errors import OfflineKitError, OutsideError, ProjectError, UsageError
from offline_kit.kaggle.client.api_types import Account
from offline_kit.kaggle.push.kit_parts import RemotePartState, find_damage, map_listed_files
from offline_kit.project.kaggle_names import (
    MARKER,
    MAX_LOOSE_FILES,
    check_dataset_limits,
    check_slug,
    check_title,
)
from offline_kit.project.types import Kit, KitPart

RESEND = "run 'offline-kit push --resend' to upload the same files as a new version (--resend-part NAME for one part)"
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


def build_incomplete_error(ref: str, version: int, wrong: Sequence[str]) -> OutsideError:
    """Return the error for a version that has a part's marker but not all of its files."""
    return OutsideError(
        f"version {version} of '{ref}' has this kit's marker, but not all of its files",
        code="dataset-incomplete",
        hint=f"check its page, then {RESEND}",
        details=wrong[:_SHOWN],
    )


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
