"""Plan what a push does to each dataset, before anything is sent."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from offline_kit.core.errors import OfflineKitError, OutsideError, ProjectError, UsageError
from offline_kit.kaggle.client.api_types import Account, RemoteFile
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
class RemotePartState:
    """The state of a part's dataset, model or notebook on Kaggle; by default it does not exist."""

    ref: str
    """"owner/slug"."""
    version: int = 0
    """0 if there is none, for example because the first one failed."""
    state: str = ""
    """Processing state in lower case: "ready", "failed", ...; empty if there is no dataset."""
    private: bool = True
    part: KitPart | None = None
    """The part that its marker file describes; None without a marker, or while not ready."""
    files: tuple[RemoteFile, ...] = ()
    url: str = ""
    kind: str = "dataset"
    """"dataset"; "model" or "notebook" for a part that lies there."""

    @property
    def exists(self) -> bool:
        """Whether the dataset exists, with or without a version."""
        return bool(self.version or self.state)


@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """What the user allows a push to do."""

    drop_foreign: bool = False
    """Allow deleting files that offline-kit did not upload."""
    public: bool = False
    """Allow new versions of a public dataset."""
    title: str = ""
    """Title of a new dataset; by default its slug."""
    resend: bool = False
    """Upload unchanged parts again, because their files on Kaggle are damaged."""
    resend_part: tuple[str, ...] = ()
    """Names of the parts to upload again, if not all."""

    def should_resend(self, part: KitPart) -> bool:
        """Tell whether a part is uploaded although Kaggle has it."""
        return self.resend or part.name in self.resend_part


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
    held_part_id: str = ""
    """Id of the part in the current version; empty if it holds none."""
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
    problems = [
        problem for part in kit.parts for problem in _find_problems(part, remotes[part.name], options)
    ]
    if problems:
        raise _combine_problems(problems)
    return PushPlan(
        kit_id=kit.id, parts=tuple(_plan_part(kit, part, remotes[part.name], options) for part in kit.parts)
    )


def find_foreign_files(part: KitPart, remote: RemotePartState) -> tuple[str, ...]:
    """Return the files on Kaggle that a new version would delete and that offline-kit did not upload."""
    known_paths = {entry.stored for entry in (*part.entries, *(remote.part.entries if remote.part else ()))}
    return tuple(sorted(map_listed_files(remote.files, known_paths).keys() - known_paths - {MARKER}))


def map_listed_files(files: Iterable[RemoteFile], known_paths: Collection[str]) -> dict[str, int]:
    """Return sizes by path; a bare name counts as the only known path that ends with it.

    Kaggle does not document whether listings contain paths or bare names.
    """
    below: dict[str, list[str]] = {}
    for path in known_paths:
        below.setdefault(path.rpartition("/")[2], []).append(path)
    sizes = {}
    for file in files:
        paths = below.get(file.name, [])
        sizes[paths[0] if file.name not in known_paths and len(paths) == 1 else file.name] = file.size
    return sizes


def find_damage(part: KitPart, remote: RemotePartState) -> tuple[str, ...]:
    """Describe each file of the part that is missing on Kaggle or has another size."""
    kit_sizes = {entry.stored: entry.size for entry in part.entries}
    listed_sizes = map_listed_files(remote.files, kit_sizes)
    return (
        *(f"'{name}' is missing" for name in sorted(kit_sizes.keys() - listed_sizes.keys())),
        *(
            f"'{name}' has {listed_sizes[name]} bytes, not {kit_sizes[name]}"
            for name in sorted(kit_sizes.keys() & listed_sizes.keys())
            if listed_sizes[name] != kit_sizes[name]
        ),
    )


def find_differences(part: KitPart, remote: RemotePartState) -> tuple[str, ...]:
    """Describe the damage, and each file on Kaggle that is not part of the kit."""
    kit_files = {entry.stored for entry in part.entries} | {MARKER}
    foreign_files = sorted(map_listed_files(remote.files, kit_files).keys() - kit_files)
    return (*find_damage(part, remote), *(f"'{name}' is not part of the kit" for name in foreign_files))


def build_incomplete_error(ref: str, version: int, wrong: Sequence[str]) -> OutsideError:
    """Return the error for a version that has a part's marker but not all of its files."""
    return OutsideError(
        f"version {version} of '{ref}' has this kit's marker, but not all of its files",
        code="dataset-incomplete",
        hint=f"check its page, then {RESEND}",
        details=wrong[:_SHOWN],
    )


def _find_problems(part: KitPart, remote: RemotePartState, options: PushOptions) -> list[OfflineKitError]:
    if _holds_part(part, remote) and not options.should_resend(part):
        wrong = find_damage(part, remote)
        return [
            *([build_incomplete_error(remote.ref, remote.version, wrong)] if wrong else []),
            *([] if remote.private or options.public else [_build_public_error(remote)]),
        ]
    if not remote.exists:
        return [
            UsageError(
                f"for '{remote.ref}': {problem}",
                code="dataset-title-invalid",
                hint="set a title of 6 to 50 characters",
            )
            for problem in check_title(_dataset_title(remote, options))
        ]
    problems: list[OfflineKitError] = []
    if not remote.private and not options.public:
        problems.append(_build_public_error(remote))
    lost = find_foreign_files(part, remote)
    if lost and not options.drop_foreign:
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


def _build_public_error(remote: RemotePartState) -> ProjectError:
    return ProjectError(
        f"'{remote.ref}' is public: everyone would see the kit",
        code="dataset-public",
        hint=f"make it private in the settings of {remote.url or 'its page'}, set another one, or allow it with --public",
    )


def build_exposed_error(name: str, url: str) -> OutsideError:
    """Return the error for something that is public although it was created as private."""
    return OutsideError(
        f"{name} is PUBLIC on Kaggle, although it was created as private",
        code="dataset-public",
        hint=f"make it private at once in the settings of {url or 'its page'}",
    )


def _combine_problems(problems: list[OfflineKitError]) -> OfflineKitError:
    if len(problems) == 1:
        return problems[0]
    details = [
        line
        for problem in problems
        for line in (problem.what, *(f"  {detail}" for detail in problem.details))
    ]
    return ProjectError(
        f"{len(problems)} problems prevent this push",
        code="push-blocked",
        hint=problems[0].hint,
        details=details,
    )


def _holds_part(part: KitPart, remote: RemotePartState) -> bool:
    return remote.part is not None and remote.part.id == part.id


def _dataset_title(remote: RemotePartState, options: PushOptions) -> str:
    return options.title or remote.ref.partition("/")[2]


def _plan_part(kit: Kit, part: KitPart, remote: RemotePartState, options: PushOptions) -> PartPlan:
    base = PartPlan(
        part=part,
        folder=kit.part_folder(part),
        ref=remote.ref,
        action=PushAction.NOTHING,
        reason=f"version {remote.version} holds exactly this part",
        version_before=remote.version,
        held_part_id=remote.part.id if remote.part else "",
        url=remote.url,
    )
    if _holds_part(part, remote) and not options.should_resend(part):
        return base
    new = not remote.exists
    size = sum(entry.size for entry in part.entries)
    stored = {entry.stored for entry in part.entries} | {MARKER}
    changes = _describe_changes(part, remote.part)
    return PartPlan(
        part=part,
        folder=base.folder,
        ref=remote.ref,
        action=PushAction.CREATE if new else PushAction.VERSION,
        reason="the dataset does not exist yet" if new else _describe_reason(remote, changes),
        version_before=base.version_before,
        held_part_id=base.held_part_id,
        title=_dataset_title(remote, options),
        notes=f"offline-kit {kit.id[:12]}; {part.name} {part.id}; {changes}",
        upload_size=size,
        file_count=len(part.entries) + 1,
        dropped_files=tuple(sorted(map_listed_files(remote.files, stored).keys() - stored)),
        warnings=check_dataset_limits(len(part.entries) + 1, size),
        url=remote.url,
    )


def _describe_reason(remote: RemotePartState, changes: str) -> str:
    if remote.state == "failed":
        return f"version {remote.version} failed on Kaggle" if remote.version else "its first version failed"
    if not remote.version:
        return "it has no version"
    return changes if remote.part else f"version {remote.version} holds no part of a kit"


def _describe_changes(part: KitPart, old: KitPart | None) -> str:
    """Describe briefly how a part differs from the previous one."""
    if old is None:
        return f"{len(part.entries)} files"
    before = {entry.original: entry.sha256 for entry in old.entries}
    after = {entry.original: entry.sha256 for entry in part.entries}
    added_count, removed_count = len(after.keys() - before.keys()), len(before.keys() - after.keys())
    changed = sum(before[name] != after[name] for name in after.keys() & before.keys())
    return f"{added_count} files added, {changed} changed, {removed_count} removed"
