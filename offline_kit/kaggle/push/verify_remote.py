"""Compare the kit on this disk with Kaggle, file by file, and report all differences."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from offline_kit.core.errors import OutsideError, ProjectError, UsageError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.kaggle.client.api_types import (
    Account,
    NoResponseError,
    NotLoggedInError,
    RemoteFile,
    UnreachableError,
)
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.push import kit_parts, push_datasets, push_notebook, verify_bytes
from offline_kit.kaggle.push.dataset_plan import (
    RESEND,
    RemotePartState,
    find_differences,
    map_listed_files,
    resolve_datasets,
)
from offline_kit.kaggle.push.notebook_equality import find_extra_sources, find_mismatches
from offline_kit.kaggle.push.poll_policy import DEFAULT_POLL, PollPolicy
from offline_kit.kaggle.push.verify_bytes import IncompleteDownloadError, RemoteFileVersion
from offline_kit.kit import manifest
from offline_kit.project.kaggle_names import MARKER
from offline_kit.project.types import Kit, KitPart

PUSH = "run 'offline-kit push', which uploads this kit as a new version"
BUILD = "run 'offline-kit build'"


@dataclass(frozen=True, kw_only=True)
class VerifyProblem:
    """A difference from the kit."""

    what: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class PartCheck:
    """The comparison of one part."""

    part: KitPart
    remote: RemotePartState
    """Its state on Kaggle; the default one if it could not be read."""
    problems: tuple[VerifyProblem, ...]
    hashed: int = 0
    """Number of files that were downloaded and hashed."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class NotebookCheck:
    """The comparison of the notebook."""

    ref: str
    """"owner/slug"."""
    version: int
    """The newest version; 0 if there is none."""
    problems: tuple[VerifyProblem, ...]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The comparison of a kit."""

    kit: str
    place: str
    """"Kaggle" or "the local Kaggle"."""
    parts: tuple[PartCheck, ...]
    notebook: NotebookCheck | None = None
    deep: bool = False
    """Whether digests were compared, not only names and sizes."""

    @property
    def problems(self) -> tuple[VerifyProblem, ...]:
        """All differences."""
        own = self.notebook.problems if self.notebook else ()
        return (*(problem for part in self.parts for problem in part.problems), *own)


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """What to compare."""

    deep: bool = False
    """Download every file and compare its SHA-256."""
    notebook: bool = True
    waiting: PollPolicy = DEFAULT_POLL


def verify_kit(
    kit: Kit,
    datasets: Mapping[str, str],
    kaggle: KaggleClient,
    scope: VerifyOptions,
    report: Reporter = SILENT,
    homes: Mapping[str, str] = MappingProxyType({}),
) -> Verification:
    """Compare a kit with its datasets (by part name), and its notebook with the newest version.

    `homes` tells where the parts are that are in no dataset, as `look` takes it.

    Raises UsageError as `resolve_datasets`; OutsideError if something could not be read, with the
    differences found so far as details.
    """
    account = kaggle.fetch_account()
    refs = {**resolve_datasets(datasets, account), **homes}
    local = {part.name: _verify_local(kit, part, report) for part in kit.parts}
    report.step(f"Looking at {account.server_name} as '{account.username}'")
    looked = _RemoteInspection()
    for part in kit.parts:
        looked.inspect_part(part, refs[part.name], kaggle, scope, report)
    if scope.deep and not looked.is_unreachable:
        looked.download_digests(kit, kaggle, report)
    parts = tuple(_check_part(part, local[part.name], looked, refs[part.name]) for part in kit.parts)
    notebook = (
        looked.check_notebook(kit, account, kaggle) if scope.notebook and not looked.is_unreachable else None
    )
    verification = Verification(
        kit=kit.id, place=account.server_name, parts=parts, notebook=notebook, deep=scope.deep
    )
    if looked.troubles:
        raise _build_unreachable_error(looked.troubles, verification)
    return verification


class _RemoteInspection:
    """The state on Kaggle, and the errors while reading it."""

    def __init__(self) -> None:
        self.remotes: dict[str, RemotePartState] = {}
        self.digests: dict[RemoteFileVersion, str] = {}
        self.troubles: list[OutsideError] = []

    @property
    def is_unreachable(self) -> bool:
        """Whether Kaggle cannot be reached at all."""
        unreachable_errors = (NoResponseError, UnreachableError, NotLoggedInError)
        return any(isinstance(trouble, unreachable_errors) for trouble in self.troubles)

    def inspect_part(
        self, part: KitPart, ref: str, kaggle: KaggleClient, scope: VerifyOptions, report: Reporter
    ) -> None:
        """Read the state of a part's dataset, model or notebook."""
        if self.is_unreachable:
            return
        try:
            if ":" in ref:
                self.remotes[part.name] = inspect_part(part, ref, kaggle)
            else:
                self.remotes[part.name] = push_datasets.inspect_dataset(kaggle, ref, scope.waiting, report)
        except OutsideError as error:
            self.troubles.append(error)

    def download_digests(self, kit: Kit, kaggle: KaggleClient, report: Reporter) -> None:
        """Download the digests of all files that may belong to the kit."""
        files = [
            file
            for part in kit.parts
            if part.name in self.remotes
            for file in _list_hashable(part, self.remotes[part.name])
        ]
        try:
            self.digests = verify_bytes.download_digests(tuple(files), kaggle, kit.folder, report)
        except IncompleteDownloadError as error:
            self.digests = error.known_digests
            self.troubles.append(error)

    def check_notebook(self, kit: Kit, account: Account, kaggle: KaggleClient) -> NotebookCheck | None:
        """Compare the kit's notebook with its newest version; None if the kit has none, or it could not be read."""
        if not (kit.folder / "notebook").is_dir():
            return None
        try:
            notebook = push_notebook.read_notebook(kit, account.username)
            remote = kaggle.get_notebook(notebook.ref)
        except OutsideError as error:
            self.troubles.append(error)
            return None
        except (ProjectError, UsageError) as error:
            summary = "; ".join((error.what, *error.details))
            return NotebookCheck(
                ref="", version=0, problems=(VerifyProblem(what=summary, remedy=error.hint),)
            )
        if remote is None:
            missing = VerifyProblem(what=f"there is no notebook '{notebook.ref}'", remedy=PUSH)
            return NotebookCheck(ref=notebook.ref, version=0, problems=(missing,))
        different = (*find_mismatches(notebook, remote), *find_extra_sources(notebook, remote))
        problems = (
            VerifyProblem(
                what=f"'{notebook.ref}' version {remote.newest_version}: {difference.summary}",
                remedy=difference.remedy,
            )
            for difference in different
        )
        return NotebookCheck(ref=notebook.ref, version=remote.newest_version, problems=tuple(problems))


def _verify_local(kit: Kit, part: KitPart, report: Reporter) -> list[VerifyProblem]:
    folder = kit.part_folder(part)
    wrong = manifest.verify_part(folder, manifest.select_local_files(folder, part), report=report)
    return [VerifyProblem(what=f"on this disk, {line}", remedy=BUILD) for line in wrong]


def _list_hashable(part: KitPart, remote: RemotePartState) -> Iterable[RemoteFileVersion]:
    """Yield the files with the name and size of one of the part's, or with the size of a missing one."""
    sizes = {entry.stored: entry.size for entry in part.entries}
    missing = {sizes[name] for name in sizes.keys() - map_listed_files(remote.files, sizes).keys()}
    for file, path in _map_paths(part, remote):
        if sizes.get(path) == file.size or (path not in sizes and path != MARKER and file.size in missing):
            yield _file_version(file, remote)


def _file_version(file: RemoteFile, remote: RemotePartState) -> RemoteFileVersion:
    return RemoteFileVersion(
        kind=remote.kind, ref=remote.ref, version=remote.version, listed_name=file.name, size=file.size
    )


def _map_paths(part: KitPart, remote: RemotePartState) -> Iterable[tuple[RemoteFile, str]]:
    """Yield each listed file with the kit path that it matches."""
    known_paths = {entry.stored for entry in part.entries}
    for file in remote.files:
        (path,) = map_listed_files([file], known_paths)
        yield file, path


def _check_part(part: KitPart, local: list[VerifyProblem], looked: _RemoteInspection, ref: str) -> PartCheck:
    remote = looked.remotes.get(part.name)
    if remote is None:
        return PartCheck(
            part=part, remote=RemotePartState(ref=ref.partition(":")[2] or ref), problems=tuple(local)
        )
    digests = {
        path: looked.digests.get(_file_version(file, remote), "") for file, path in _map_paths(part, remote)
    }
    renamed = _find_renamed(part, digests)
    corrected = dataclasses.replace(
        remote,
        files=tuple(
            dataclasses.replace(file, name=renamed.get(path, path)) for file, path in _map_paths(part, remote)
        ),
    )
    return PartCheck(
        part=part,
        remote=remote,
        problems=(*local, *_check_remote(part, remote, ref), *_check_files(part, corrected, digests)),
        hashed=sum(map(bool, digests.values())),
        notes=tuple(
            f"'{remote.ref}': '{stored}' is named '{path}' there; the notebook finds it by its digest"
            for path, stored in renamed.items()
        ),
    )


def _find_renamed(part: KitPart, digests: Mapping[str, str]) -> dict[str, str]:
    """Return the stored names of renamed files by their path on Kaggle, matched by digest."""
    missing_names = {entry.sha256: entry.stored for entry in part.entries if entry.stored not in digests}
    known_paths = {entry.stored for entry in part.entries}
    return {
        path: missing_names[digest]
        for path, digest in digests.items()
        if path not in known_paths and digest in missing_names
    }


def _check_remote(part: KitPart, remote: RemotePartState, home: str) -> list[VerifyProblem]:
    """Return the problems of a dataset, model or notebook as a whole."""
    if remote.kind != "dataset":
        remote_problems = find_remote_problems(part, home, remote)
        return [VerifyProblem(what=summary, remedy=remedy) for summary, remedy in remote_problems]
    ref, number = f"'{remote.ref}'", remote.version
    if not remote.exists:
        return [
            VerifyProblem(
                what=f"the dataset {ref} does not exist or is not visible to this account", remedy=PUSH
            )
        ]
    problems = []
    if not remote.private:
        remedy = f"make it private at once in the settings of {remote.url or 'its page'}"
        problems.append(VerifyProblem(what=f"{ref} is PUBLIC: everyone can see the kit", remedy=remedy))
    if remote.state != "ready":
        version = f"version {number}" if number else "its first version"
        summary = f"{ref}: {version} is not ready on Kaggle: '{remote.state}'"
        return [*problems, VerifyProblem(what=summary, remedy=PUSH)]
    if remote.part is None:
        problems.append(VerifyProblem(what=f"{ref}: version {number} holds no part of a kit", remedy=PUSH))
    elif remote.part.id != part.id:
        summary = f"{ref}: version {number} holds the part {remote.part.id[:12]}, not {part.id[:12]}"
        problems.append(VerifyProblem(what=summary, remedy=PUSH))
    return problems


def _check_files(part: KitPart, remote: RemotePartState, digests: Mapping[str, str]) -> list[VerifyProblem]:
    """Return the problems of a version's files; `digests` has those of the downloaded files."""
    if remote.state != "ready":
        return []
    is_same_part = remote.part is not None and remote.part.id == part.id
    marker_digests = {entry.stored: entry.sha256 for entry in remote.part.entries} if remote.part else {}
    lines = list(find_differences(part, remote))
    sizes = {file.name: file.size for file in remote.files}
    for entry in part.entries:
        digest = digests.get(entry.stored) or marker_digests.get(entry.stored, entry.sha256)
        if digest != entry.sha256 and sizes.get(entry.stored) == entry.size:
            lines.append(
                f"'{entry.stored}' has different content (sha256 {digest[:12]}, not {entry.sha256[:12]})"
            )
    remedy = RESEND if is_same_part else PUSH
    if remote.kind == "notebook":
        remedy = REBUILD_REMOTELY
    return [VerifyProblem(what=f"'{remote.ref}': {line}", remedy=remedy) for line in lines]


def _build_unreachable_error(troubles: list[OutsideError], verification: Verification) -> OutsideError:
    first = troubles[0]
    details = [line for trouble in troubles[1:] for line in (trouble.what, *trouble.details)]
    differing = [problem.what for problem in verification.problems]
    head = ["differences found so far:"] if differing else []
    return OutsideError(
        first.what, code=first.code, hint=first.hint, details=[*first.details, *details, *head, *differing]
    )


PUSH_MODEL = "run 'offline-kit push', which uploads a new version and attaches it to the notebook"
REBUILD_REMOTELY = (
    "run 'offline-kit build --upgrade' with the same --on, which builds the packages there again"
)


def inspect_part(part: KitPart, home: str, kaggle: KaggleClient) -> RemotePartState:
    """Return the state of a part as a notebook would mount it, without waiting.

    `home` is "model:owner/model/framework/variation/version", with version 0 if none is pinned (then the
    newest counts), or "notebook:owner/slug", whose newest output counts.
    """
    kind, _, ref = home.partition(":")
    return _inspect_model(ref, kaggle) if kind == "model" else _inspect_notebook(part, ref, kaggle)


def _inspect_model(source: str, kaggle: KaggleClient) -> RemotePartState:
    ref, _, pinned = source.rpartition("/")
    missing = RemotePartState(kind="model", ref=ref)
    model = kaggle.get_model("/".join(ref.split("/")[:2]))
    if model is None:
        return missing
    newest = kaggle.get_model_version(ref)
    version = int(pinned) or newest
    remote = replace(missing, private=model.private, url=model.url)
    if not version or version > newest:
        return remote
    files = kaggle.list_model_files(ref, version)
    part = kit_parts.read_model_part(kaggle, ref, version)
    state = "ready" if files else "empty"
    return replace(remote, version=version, state=state, part=part, files=files)


def _inspect_notebook(part: KitPart, ref: str, kaggle: KaggleClient) -> RemotePartState:
    missing = RemotePartState(kind="notebook", ref=ref)
    notebook = kaggle.get_notebook(ref)
    if notebook is None:
        return missing
    remote = replace(missing, private=notebook.private, url=notebook.url)
    version = kit_parts.find_attached_version(kaggle, ref, notebook.newest_version)
    if not version:
        run = kaggle.get_notebook_run(ref, notebook.newest_version)
        return replace(remote, version=notebook.newest_version, state=run.state if run else "hidden")
    held_part = kit_parts.read_output_part(kaggle, ref, version)
    # The output may contain other files besides the part, such as the log.
    # Kaggle does not list the sizes of outputs: those of the marker are used; `deep` compares digests.
    sizes = {
        entry.stored: entry.size
        for known_part in (part, held_part)
        if known_part
        for entry in known_part.entries
    } | {MARKER: 0}
    names = [name for name in kaggle.list_run_outputs(ref, version) if name in sizes]
    files = tuple(RemoteFile(name=name, size=sizes[name]) for name in names)
    return replace(remote, version=version, state="ready", part=held_part, files=files)


def find_remote_problems(part: KitPart, home: str, remote: RemotePartState) -> Iterator[tuple[str, str]]:
    """Yield the problems of a version as a whole, each with a fix."""
    ref, number, remedy = f"'{remote.ref}'", remote.version, suggest_fix(remote)
    noun = "version of the model" if remote.kind == "model" else "notebook"
    pinned = int(home.rpartition("/")[2]) if remote.kind == "model" else 0
    if not number:
        yield (
            f"the {noun} {ref}{f' {pinned}' * bool(pinned)} does not exist or is not visible to this account",
            remedy,
        )
        return
    if not remote.private:
        page = f"make it private at once in the settings of {remote.url or 'its page'}"
        yield f"the {remote.kind} {ref} is PUBLIC: everyone can see this part of the kit", page
    if remote.kind == "model" and not pinned:
        yield f"the kit's notebook does not pin a version of the model {ref}", remedy
    if remote.state != "ready":
        state = "shows no files" if remote.kind == "model" else f"has no output: its run is '{remote.state}'"
        yield f"{ref}: version {number} {state}", remedy
    elif remote.part is None:
        yield f"{ref}: version {number} holds no part of a kit", remedy
    elif remote.part.id != part.id:
        yield f"{ref}: version {number} holds the part {remote.part.id[:12]}, not {part.id[:12]}", remedy


def suggest_fix(remote: RemotePartState) -> str:
    """Return the fix for a part that is not as it should be."""
    return PUSH_MODEL if remote.kind == "model" else REBUILD_REMOTELY
