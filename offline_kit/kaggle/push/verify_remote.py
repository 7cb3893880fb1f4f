"""Compare the kit on this disk with Kaggle, file by file, and report all differences."""

import itertools
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from offline_kit.core.errors import OutsideError, ProjectError, UsageError
from offline_kit.core.files import copy_and_hash, format_size, hold_lock, sha256_of, translate_disk_errors
from offline_kit.core.report import Advance, Reporter
from offline_kit.core.thread_pool import run_transfers
from offline_kit.kaggle.client.api_types import (
    NoResponseError,
    NotLoggedInError,
    RemoteFile,
    UnreachableError,
)
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.push import push_notebook, run_reports
from offline_kit.kaggle.push.journal import PushContext
from offline_kit.kaggle.push.kit_parts import (
    RESEND,
    RemotePartState,
    find_differences,
    inspect_dataset,
    inspect_part,
    map_listed_files,
)
from offline_kit.kaggle.push.notebook_equality import find_all_differences
from offline_kit.kit import manifest
from offline_kit.project.kaggle_names import MARKER
from offline_kit.project.types import Kit, KitPart

_PUSH = "run 'offline-kit push', which uploads this kit as a new version"
_BUILD = "run 'offline-kit build'"
_REMEDIES = {
    "dataset": _PUSH,
    "model": "run 'offline-kit push', which uploads a new version and attaches it to the notebook",
    "wheelhouse": "run 'offline-kit build --upgrade' with the same --on, which builds the packages there again",
    "recording": "record again with 'offline-kit adopt NOTEBOOK --record kaggle', or local, where it was recorded",
}
# Parallel downloads; each file is on disk until it is hashed.
THREADS = 4
_UNREACHABLE = (NoResponseError, UnreachableError, NotLoggedInError)


@dataclass(frozen=True, kw_only=True)
class VerifyProblem:
    """A difference from the kit."""

    what: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class PartCheck:
    """The comparison of one part."""

    part: KitPart
    remote: RemotePartState  # its state on Kaggle
    problems: tuple[VerifyProblem, ...]
    hashed: int = 0  # number of files that were downloaded and hashed
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class NotebookCheck:
    """The comparison of the notebook."""

    ref: str
    version: int  # the newest version; 0 if there is none
    problems: tuple[VerifyProblem, ...]
    notes: tuple[str, ...] = ()  # how its run on Kaggle differs from the rehearsal


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The comparison of a kit."""

    kit: str
    place: str  # "Kaggle" or "the local Kaggle"
    parts: tuple[PartCheck, ...]
    notebook: NotebookCheck | None = None
    deep: bool = False  # whether digests were compared, not only names and sizes

    @property
    def problems(self) -> tuple[VerifyProblem, ...]:
        """All differences."""
        own = self.notebook.problems if self.notebook else ()
        return (*(problem for part in self.parts for problem in part.problems), *own)


def verify_kit(
    kit: Kit,
    locations: Mapping[str, str],
    context: PushContext,
    *,
    deep: bool = False,
    with_notebook: bool = True,
) -> Verification:
    """Compare a kit with what is at its parts' locations (see `inspect_part`), and its notebook with the newest version.

    `deep` downloads and hashes every file. Raises OutsideError if something could not be read, with the differences
    found so far as details.
    """
    account, report = context.kaggle.fetch_account(), context.report
    local: dict[str, list[VerifyProblem]] = {}
    for part in kit.parts:
        folder = kit.part_folder(part)
        wrong = manifest.verify_part(folder, manifest.select_local_files(folder, part), report=report)
        local[part.name] = [VerifyProblem(what=f"on this disk, {line}", remedy=_BUILD) for line in wrong]
    report.step(f"Looking at {account.server_name} as '{account.username}'")
    remotes: dict[str, RemotePartState] = {}
    troubles: list[OutsideError] = []
    for part in kit.parts:
        location = locations[part.name]
        try:
            is_dataset = ":" not in location
            remotes[part.name] = (
                inspect_dataset(location, context)
                if is_dataset
                else inspect_part(part, location, context.kaggle)
            )
        except OutsideError as error:
            troubles.append(error)
            if isinstance(error, _UNREACHABLE):
                break
    digests: dict[tuple[str, str], str] = {}
    notebook = None
    try:
        if deep and not troubles:
            # Kaggle may rename files: whatever has the size of one of the part's may be it.
            files = [
                (remotes[part.name], file)
                for part in kit.parts
                for file in remotes[part.name].files
                if file.name != MARKER and file.size in {entry.size for entry in part.entries}
            ]
            digests = _download_digests(files, context.kaggle, kit.folder, report)
        if with_notebook and not troubles and (kit.folder / "notebook").is_dir():
            notebook = _check_notebook(kit, account.username, context.kaggle)
    except OutsideError as error:
        troubles.append(error)
    checks = [
        _check_part(part, remotes[part.name], locations[part.name], digests)
        for part in kit.parts
        if part.name in remotes
    ]
    if troubles:
        raise _build_unreadable_error(
            troubles, (*itertools.chain(*local.values()), *(p for check in checks for p in check.problems))
        )
    parts = tuple(replace(check, problems=(*local[check.part.name], *check.problems)) for check in checks)
    return Verification(kit=kit.id, place=account.server_name, parts=parts, notebook=notebook, deep=deep)


def _build_unreadable_error(
    troubles: Sequence[OutsideError], problems: Sequence[VerifyProblem]
) -> OutsideError:
    """Return the first trouble, with the others and the differences found so far as details."""
    first, details = troubles[0], list(troubles[0].details)
    for trouble in troubles[1:]:
        details += [trouble.what, *trouble.details]
    if problems:
        details += ["differences found so far:", *(problem.what for problem in problems)]
    return OutsideError(first.what, code=first.code, hint=first.hint, details=details)


def _check_notebook(kit: Kit, username: str, kaggle: KaggleClient) -> NotebookCheck:
    """Compare the kit's notebook with its newest version."""
    try:
        notebook = push_notebook.read_notebook(kit, username)
    except (ProjectError, UsageError) as error:
        problem = VerifyProblem(what="; ".join((error.what, *error.details)), remedy=error.hint)
        return NotebookCheck(ref="", version=0, problems=(problem,))
    remote = kaggle.get_notebook(notebook.ref)
    if remote is None:
        problem = VerifyProblem(what=f"there is no notebook '{notebook.ref}'", remedy=_PUSH)
        return NotebookCheck(ref=notebook.ref, version=0, problems=(problem,))
    version = remote.newest_version
    problems = tuple(
        VerifyProblem(
            what=f"'{notebook.ref}' version {version}: {difference.summary}", remedy=difference.remedy
        )
        for difference in find_all_differences(notebook, remote)
    )
    notes = run_reports.compare_run(kit, run_reports.fetch_run_report(notebook.ref, version, kaggle))
    return NotebookCheck(ref=notebook.ref, version=version, problems=problems, notes=notes)


def _check_part(
    part: KitPart, remote: RemotePartState, home: str, digests: Mapping[tuple[str, str], str]
) -> PartCheck:
    known_paths = {entry.stored for entry in part.entries}
    listed = map_listed_files(remote.files, known_paths)
    by_path = {path: digests.get((remote.ref, file.name), "") for path, file in listed.items()}
    # A file that Kaggle renamed has the digest of one that is missing.
    missing = {entry.sha256: entry.stored for entry in part.entries if entry.stored not in listed}
    renamed = {
        path: missing[digest]
        for path, digest in by_path.items()
        if path not in known_paths and digest in missing
    }
    files = tuple(replace(file, name=renamed.get(path, path)) for path, file in listed.items())
    differences = [
        *_find_version_problems(part, remote, home),
        *_find_file_problems(part, replace(remote, files=files), by_path),
    ]
    return PartCheck(
        part=part,
        remote=remote,
        problems=tuple(VerifyProblem(what=summary, remedy=remedy) for summary, remedy in differences),
        hashed=sum(map(bool, by_path.values())),
        notes=tuple(
            f"'{remote.ref}': '{stored}' is named '{path}' there; the notebook finds it by its digest"
            for path, stored in renamed.items()
        ),
    )


def _find_remedy(part: KitPart, remote: RemotePartState) -> str:
    return _REMEDIES[part.name if remote.kind == "notebook" else remote.kind]


def _find_version_problems(part: KitPart, remote: RemotePartState, home: str) -> Iterator[tuple[str, str]]:
    """Yield the problems of a dataset, model or notebook as a whole, each with a fix."""
    ref, number, remedy = f"'{remote.ref}'", remote.version, _find_remedy(part, remote)
    pinned = int(home.rpartition("/")[2]) if remote.kind == "model" else 0
    if not remote.exists:
        noun = "version of the model" if remote.kind == "model" else remote.kind
        pin = f" {pinned}" if pinned else ""
        yield f"the {noun} {ref}{pin} does not exist or is not visible to this account", remedy
        return
    if not remote.private:
        page = remote.url or "its page"
        yield (
            f"the {remote.kind} {ref} is PUBLIC: everyone can see this part of the kit",
            f"make it private at once in the settings of {page}",
        )
    if remote.kind == "model" and not pinned:
        yield f"the kit's notebook does not pin a version of the model {ref}", remedy
    version = f"version {number}" if number else "its first version"
    if remote.state != "ready":
        reasons = {
            "dataset": f"is not ready on Kaggle: '{remote.state}'",
            "model": "shows no files",
            "notebook": f"has no output: its run is '{remote.state}'",
        }
        yield f"{ref}: {version} {reasons[remote.kind]}", remedy
    elif remote.part is None:
        yield f"{ref}: {version} holds no part of a kit", remedy
    elif remote.part.id != part.id:
        yield f"{ref}: {version} holds the part {remote.part.id[:12]}, not {part.id[:12]}", remedy


def _find_file_problems(
    part: KitPart, remote: RemotePartState, digests: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield the problems of a version's files; `digests` has those of the downloaded files, by path."""
    if remote.state != "ready":
        return
    remedy = RESEND if remote.part is not None and remote.part.id == part.id else _PUSH
    if remote.kind == "notebook":
        remedy = _find_remedy(part, remote)
    lines = list(find_differences(part, remote.files))
    marker_digests = {entry.stored: entry.sha256 for entry in remote.part.entries} if remote.part else {}
    sizes = {file.name: file.size for file in remote.files}
    for entry in part.entries:
        digest = digests.get(entry.stored) or marker_digests.get(entry.stored, entry.sha256)
        if digest != entry.sha256 and sizes.get(entry.stored) == entry.size:
            lines.append(
                f"'{entry.stored}' has different content (sha256 {digest[:12]}, not {entry.sha256[:12]})"
            )
    for line in lines:
        yield f"'{remote.ref}': {line}", remedy


def _download_digests(
    files: Sequence[tuple[RemotePartState, RemoteFile]],
    kaggle: KaggleClient,
    kit_folder: Path,
    report: Reporter,
) -> dict[tuple[str, str], str]:
    """Return the SHA-256 of each file by ref and name; raises OutsideError for the first failed download."""
    downloads = {
        "dataset": kaggle.download_dataset_file,
        "model": kaggle.download_model_file,
        "notebook": kaggle.download_run_output,
    }

    def digest_file(number: int, advance: Advance) -> str:
        (remote, file), path = order[number], folder / str(number)
        try:
            with translate_disk_errors(folder):
                downloads[remote.kind](remote.ref, remote.version, file.name, path, advance)
                # Kaggle zips some files: then the content counts.
                is_as_listed = path.stat().st_size == file.size
                return (not is_as_listed and _digest_wrapped(path, file)) or sha256_of(path)
        except OutsideError as error:
            raise OutsideError(
                f"'{file.name}' of '{remote.ref}' cannot be downloaded: {error.what}",
                hint=error.hint,
                code=error.code,
                details=error.details,
            ) from error
        finally:
            path.unlink(missing_ok=True)

    # The largest first, so that no large file is downloaded alone at the end.
    order = sorted(files, key=lambda pair: -pair[1].size)
    total = sum(file.size for _, file in files)
    text = f"Downloading {len(files)} files, {format_size(total)}"
    with _scratch_folder(kit_folder) as folder, report.progress(text, total) as advance:
        # Not waited for: a silent server would hold up Ctrl-C, and without the folder a download comes to nothing.
        digests = run_transfers(digest_file, range(len(order)), THREADS, advance, wait=False)
    names = [(remote.ref, file.name) for remote, file in order]
    return dict(zip(names, digests, strict=True))


def _digest_wrapped(path: Path, file: RemoteFile) -> str:
    """Return the digest of a file in the zip archive that Kaggle made of it, "" if it is no such archive."""
    name = file.name.rpartition("/")[2]
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) == 1 and members[0].filename.rpartition("/")[2] == name:
            with archive.open(members[0]) as stream:
                return copy_and_hash(stream, None)[0]
    return ""


@contextmanager
def _scratch_folder(kit_folder: Path) -> Iterator[Path]:
    """Yield a folder on the kit's disk, which is removed afterwards; the one of a killed run is removed first."""
    folder = kit_folder.with_name(f".{kit_folder.name}.verify")
    renamed = folder.with_name(f"{folder.name}.gone")

    def remove_folder() -> None:
        # Rename first, so that a running download cannot create new files in it.
        with suppress(FileNotFoundError):
            folder.rename(renamed)
        shutil.rmtree(renamed, ignore_errors=True)

    with hold_lock(folder.with_suffix(".verify.lock")):
        shutil.rmtree(renamed, ignore_errors=True)
        remove_folder()
        with translate_disk_errors(kit_folder.parent):
            folder.mkdir()
        try:
            yield folder
        finally:
            remove_folder()
