"""What is on Kaggle against the kit on this disk, file by file; everything is looked at before it ends."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from offline_kit.core.errors import OutsideError, ProjectError, UsageError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.kaggle.client.api_types import (
    Account,
    Kaggle,
    NotLoggedInError,
    RemoteFile,
    UnansweredError,
    UnsentError,
)
from offline_kit.kaggle.push import dataset_remote, push_notebook, verify_bytes, verify_elsewhere
from offline_kit.kaggle.push.dataset_plan import RESEND, Remote, differences, placed, targets
from offline_kit.kaggle.push.notebook_equality import extra, lacks
from offline_kit.kaggle.push.poll_policy import WAITING, Waiting
from offline_kit.kaggle.push.verify_bytes import CutShortError, Wanted
from offline_kit.kit import manifest
from offline_kit.project.kaggle_names import MARKER
from offline_kit.project.types import Kit, Part

PUSH = "run 'offline-kit push': it makes a version that holds this kit"
BUILD = "build the kit again with 'offline-kit build'"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that is not as the kit has it."""

    what: str
    """What it is, naming the file or the dataset."""
    remedy: str
    """What to do about it."""


@dataclass(frozen=True, kw_only=True)
class PartCheck:
    """One part here and on Kaggle."""

    part: Part
    """The part, as its manifest on this disk says."""
    remote: Remote
    """Its dataset as it was seen; a default one where Kaggle would not tell."""
    problems: tuple[Problem, ...]
    """All that differs, on this disk first."""
    hashed: int = 0
    """Files whose bytes were downloaded and compared."""
    notes: tuple[str, ...] = ()
    """What differs and does no harm."""


@dataclass(frozen=True, kw_only=True)
class NotebookCheck:
    """The notebook here and on Kaggle."""

    ref: str
    """"owner/slug"."""
    version: int
    """Number of the newest version; 0 where there is none."""
    problems: tuple[Problem, ...]
    """All that differs."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What a comparison found."""

    kit: str
    """The kit's id."""
    place: str
    """"Kaggle" or "the local Kaggle"."""
    parts: tuple[PartCheck, ...]
    """One for each part, in the kit's order."""
    notebook: NotebookCheck | None = None
    """The notebook; None where it was not asked for."""
    deep: bool = False
    """Whether bytes were compared, not only names and sizes."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All that differs."""
        own = self.notebook.problems if self.notebook else ()
        return (*(problem for part in self.parts for problem in part.problems), *own)


@dataclass(frozen=True, kw_only=True)
class Scope:
    """How far a comparison goes."""

    deep: bool = False
    """Download every file and compare its sha256."""
    notebook: bool = True
    """Compare the notebook, too."""
    waiting: Waiting = WAITING
    """How long to wait for what Kaggle is still working on."""


def verify(
    kit: Kit,
    datasets: Mapping[str, str],
    kaggle: Kaggle,
    scope: Scope,
    report: Reporter = SILENT,
    homes: Mapping[str, str] = MappingProxyType({}),
) -> Verification:
    """Compare a kit with its datasets (by part name), and its notebook, where it has one, with the newest version.

    `homes` tells where the parts are that are in no dataset, as `verify_elsewhere.look` takes it.

    Raises UsageError as `targets`; OutsideError where Kaggle cannot be asked about something, with all the
    differences that were found so far as details.
    """
    account = kaggle.account()
    refs = {**targets(datasets, account), **homes}
    local = {part.name: _local(kit, part, report) for part in kit.parts}
    report.step(f"Looking at {account.place} as '{account.username}'")
    looked = _Looked()
    for part in kit.parts:
        looked.at(part, refs[part.name], kaggle, scope, report)
    if scope.deep and not looked.gone:
        looked.bytes_of(kit, kaggle, report)
    parts = tuple(_check(part, local[part.name], looked, refs[part.name]) for part in kit.parts)
    notebook = looked.notebook(kit, account, kaggle) if scope.notebook and not looked.gone else None
    found = Verification(kit=kit.id, place=account.place, parts=parts, notebook=notebook, deep=scope.deep)
    if looked.troubles:
        raise _unasked(looked.troubles, found)
    return found


class _Looked:
    """What was seen on Kaggle, and what could not be."""

    def __init__(self) -> None:
        self.remotes: dict[str, Remote] = {}
        self.digests: dict[Wanted, str] = {}
        self.troubles: list[OutsideError] = []

    @property
    def gone(self) -> bool:
        """Whether nobody answers at all, so that further questions are in vain."""
        nobody = (UnansweredError, UnsentError, NotLoggedInError)
        return any(isinstance(each, nobody) for each in self.troubles)

    def at(self, part: Part, ref: str, kaggle: Kaggle, scope: Scope, report: Reporter) -> None:
        """Look at the dataset of a part, or at its home."""
        if self.gone:
            return
        try:
            if ":" in ref:
                self.remotes[part.name] = verify_elsewhere.look(part, ref, kaggle)
            else:
                self.remotes[part.name] = dataset_remote.look(kaggle, ref, scope.waiting, report)
        except OutsideError as error:
            self.troubles.append(error)

    def bytes_of(self, kit: Kit, kaggle: Kaggle, report: Reporter) -> None:
        """Get the digests of all files that may be the kit's."""
        wanted = [
            file
            for part in kit.parts
            if part.name in self.remotes
            for file in _worth_hashing(part, self.remotes[part.name])
        ]
        try:
            self.digests = verify_bytes.digests(tuple(wanted), kaggle, kit.folder, report)
        except CutShortError as error:
            self.digests = error.known
            self.troubles.append(error)

    def notebook(self, kit: Kit, account: Account, kaggle: Kaggle) -> NotebookCheck | None:
        """Compare the kit's notebook with its newest version; None where the kit has none, or Kaggle does not tell."""
        if not (kit.folder / "notebook").is_dir():
            return None
        try:
            new = push_notebook.of_kit(kit, account.username)
            there = kaggle.notebook(new.ref)
        except OutsideError as error:
            self.troubles.append(error)
            return None
        except (ProjectError, UsageError) as error:
            said = "; ".join((error.what, *error.details))
            return NotebookCheck(ref="", version=0, problems=(Problem(what=said, remedy=error.hint),))
        if there is None:
            missing = Problem(what=f"there is no notebook '{new.ref}'", remedy=PUSH)
            return NotebookCheck(ref=new.ref, version=0, problems=(missing,))
        different = (*lacks(new, there), *extra(new, there))
        problems = (
            Problem(what=f"'{new.ref}' version {there.current}: {each.what}", remedy=each.remedy)
            for each in different
        )
        return NotebookCheck(ref=new.ref, version=there.current, problems=tuple(problems))


def _local(kit: Kit, part: Part, report: Reporter) -> list[Problem]:
    folder = kit.part_folder(part)
    wrong = manifest.verify_part(folder, manifest.select_local_files(folder, part), report=report)
    return [Problem(what=f"on this disk, {line}", remedy=BUILD) for line in wrong]


def _worth_hashing(part: Part, remote: Remote) -> Iterable[Wanted]:
    """Yield the files that have the name and size of one of the part's, or the size of one that is missing."""
    sizes = {entry.stored: entry.size for entry in part.entries}
    missing = {sizes[name] for name in sizes.keys() - placed(remote.files, sizes).keys()}
    for file, path in _by_path(part, remote):
        if sizes.get(path) == file.size or (path not in sizes and path != MARKER and file.size in missing):
            yield _wanted(file, remote)


def _wanted(file: RemoteFile, remote: Remote) -> Wanted:
    return Wanted(kind=remote.kind, ref=remote.ref, version=remote.version, listed=file.name, size=file.size)


def _by_path(part: Part, remote: Remote) -> Iterable[tuple[RemoteFile, str]]:
    """Yield each listed file with the path that it counts as."""
    known = {entry.stored for entry in part.entries}
    for file in remote.files:
        (path,) = placed([file], known)
        yield file, path


def _check(part: Part, local: list[Problem], looked: _Looked, ref: str) -> PartCheck:
    remote = looked.remotes.get(part.name)
    if remote is None:
        return PartCheck(part=part, remote=Remote(ref=ref.partition(":")[2] or ref), problems=tuple(local))
    shown = {path: looked.digests.get(_wanted(file, remote), "") for file, path in _by_path(part, remote)}
    renamed = _renamed(part, shown)
    mended = dataclasses.replace(
        remote,
        files=tuple(
            dataclasses.replace(file, name=renamed.get(path, path)) for file, path in _by_path(part, remote)
        ),
    )
    return PartCheck(
        part=part,
        remote=remote,
        problems=(*local, *_whole(part, remote, ref), *_files(part, mended, shown)),
        hashed=sum(map(bool, shown.values())),
        notes=tuple(
            f"'{remote.ref}': '{stored}' is there as '{path}', and the notebook finds it by its bytes"
            for path, stored in renamed.items()
        ),
    )


def _renamed(part: Part, shown: Mapping[str, str]) -> dict[str, str]:
    """Return stored names by the path that Kaggle made of them, told by their bytes."""
    lacking = {entry.sha256: entry.stored for entry in part.entries if entry.stored not in shown}
    known = {entry.stored for entry in part.entries}
    return {
        path: lacking[digest] for path, digest in shown.items() if path not in known and digest in lacking
    }


def _whole(part: Part, remote: Remote, home: str) -> list[Problem]:
    """Return what is wrong with a dataset, or another home, as a whole."""
    if remote.kind != "dataset":
        seen = verify_elsewhere.problems(part, home, remote)
        return [Problem(what=what, remedy=remedy) for what, remedy in seen]
    ref, number = f"'{remote.ref}'", remote.version
    if not remote.there:
        return [Problem(what=f"there is no dataset {ref} that this account may see", remedy=PUSH)]
    found = []
    if not remote.private:
        remedy = f"make it private at once in the settings of {remote.url or 'its page'}"
        found.append(Problem(what=f"{ref} is PUBLIC: everybody sees the kit", remedy=remedy))
    if remote.state != "ready":
        version = f"version {number}" if number else "its first version"
        what = f"{ref}: {version} is not ready on Kaggle, but '{remote.state}'"
        return [*found, Problem(what=what, remedy=PUSH)]
    if remote.part is None:
        found.append(Problem(what=f"{ref}: version {number} holds no part of a kit", remedy=PUSH))
    elif remote.part.id != part.id:
        what = f"{ref}: version {number} holds the part {remote.part.id[:12]}, not {part.id[:12]}"
        found.append(Problem(what=what, remedy=PUSH))
    return found


def _files(part: Part, remote: Remote, shown: Mapping[str, str]) -> list[Problem]:
    """Return what is wrong with a version's files; `shown` has the digests of those that were downloaded."""
    if remote.state != "ready":
        return []
    same = remote.part is not None and remote.part.id == part.id
    told = {entry.stored: entry.sha256 for entry in remote.part.entries} if remote.part else {}
    lines = list(differences(part, remote))
    sizes = {file.name: file.size for file in remote.files}
    for entry in part.entries:
        digest = shown.get(entry.stored) or told.get(entry.stored, entry.sha256)
        if digest != entry.sha256 and sizes.get(entry.stored) == entry.size:
            lines.append(f"'{entry.stored}' has other bytes (sha256 {digest[:12]}, not {entry.sha256[:12]})")
    remedy = RESEND if same else PUSH
    if remote.kind == "notebook":
        remedy = verify_elsewhere.MAKE
    return [Problem(what=f"'{remote.ref}': {line}", remedy=remedy) for line in lines]


def _unasked(troubles: list[OutsideError], found: Verification) -> OutsideError:
    first = troubles[0]
    more = [line for each in troubles[1:] for line in (each.what, *each.details)]
    differing = [problem.what for problem in found.problems]
    head = ["what was compared until then differs:"] if differing else []
    return OutsideError(first.what, hint=first.hint, details=[*first.details, *more, *head, *differing])
