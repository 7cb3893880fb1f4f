"""Compare the kit on this disk with Kaggle, file by file, and report all differences."""

import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from offline_kit.core import files
from offline_kit.core.errors import OutsideError, ProjectError, UsageError
from offline_kit.core.files import format_size
from offline_kit.core.report import Reporter
from offline_kit.kaggle.client.api_types import NoResponseError, NotLoggedInError, UnreachableError
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.push import notebook_runs, push_notebook
from offline_kit.kaggle.push.journal import PushContext
from offline_kit.kaggle.push.kit_parts import RESEND, RemotePartState, find_differences, inspect_settled
from offline_kit.kaggle.push.notebook_equality import find_all_differences
from offline_kit.kit import manifest
from offline_kit.notebook.runtime.kit_deadline import LEFT_OUT
from offline_kit.notebook.runtime.kit_report import REPORT
from offline_kit.project.types import Kit, KitPart
from offline_kit.rehearsal import rehearse

_PUSH = "run 'offline-kit push', which uploads this kit as a new version"
_BUILD = "run 'offline-kit build'"
_REMEDIES = {
    "dataset": _PUSH,
    "model": "run 'offline-kit push', which uploads a new version and attaches it to the notebook",
    "wheelhouse": "run 'offline-kit build --upgrade' with the same --on, which builds the packages there again",
    "recording": "record again with 'offline-kit adopt NOTEBOOK --record kaggle', or local, where it was recorded",
}


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
    problems: tuple[VerifyProblem, ...]


@dataclass(frozen=True, kw_only=True)
class NotebookCheck:
    """The comparison of the notebook."""

    ref: str = ""
    version: int = 0  # the newest version; 0 if there is none
    problems: tuple[VerifyProblem, ...]
    notes: tuple[str, ...] = ()  # how its run on Kaggle differs from the rehearsal


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The comparison of a kit."""

    kit: str
    place: str  # "Kaggle" or "the local Kaggle"
    parts: tuple[PartCheck, ...]
    notebook: NotebookCheck | None = None

    @property
    def problems(self) -> tuple[VerifyProblem, ...]:
        """All differences."""
        own = self.notebook.problems if self.notebook else ()
        return (*(problem for part in self.parts for problem in part.problems), *own)


def verify_kit(
    kit: Kit, locations: Mapping[str, str], context: PushContext, *, with_notebook: bool = True
) -> Verification:
    """Compare a kit with what is at its parts' locations (see `inspect_part`), and its notebook with the newest version.

    Raises OutsideError if something could not be read, with the differences found so far as details.
    """
    account = context.kaggle.fetch_account()
    local = {part.name: _find_local_problems(kit, part, context.report) for part in kit.parts}
    context.report.step(f"Looking at {account.server_name} as '{account.username}'")
    checks: list[PartCheck] = []
    troubles: list[OutsideError] = []
    notebook = None
    for part in kit.parts:
        location = locations[part.name]
        try:
            remote = inspect_settled(location, context)
        except OutsideError as error:
            troubles.append(error)
            if isinstance(error, NoResponseError | UnreachableError | NotLoggedInError):
                break
        else:
            problems = (*_find_version_problems(part, remote, location), *_find_file_problems(part, remote))
            checks.append(PartCheck(part=part, remote=remote, problems=problems))
    if with_notebook and not troubles and (kit.folder / "notebook").is_dir():
        try:
            notebook = _check_notebook(kit, account.username, context.kaggle)
        except OutsideError as error:
            troubles.append(error)
    if troubles:
        remote_problems = (problem for check in checks for problem in check.problems)
        raise _build_unreadable_error(troubles, (*itertools.chain(*local.values()), *remote_problems))
    parts = tuple(replace(check, problems=(*local[check.part.name], *check.problems)) for check in checks)
    return Verification(kit=kit.id, place=account.server_name, parts=parts, notebook=notebook)


def _find_local_problems(kit: Kit, part: KitPart, report: Reporter) -> list[VerifyProblem]:
    folder = kit.part_folder(part)
    wrong = manifest.verify_part(folder, manifest.select_local_files(folder, part), report=report)
    return [VerifyProblem(what=f"on this disk, {line}", remedy=_BUILD) for line in wrong]


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
        return NotebookCheck(problems=(problem,))
    remote = kaggle.get_notebook(notebook.ref)
    if remote is None:
        problem = VerifyProblem(what=f"there is no notebook '{notebook.ref}'", remedy=_PUSH)
        return NotebookCheck(ref=notebook.ref, problems=(problem,))
    version = remote.newest_version
    problems = tuple(
        VerifyProblem(
            what=f"'{notebook.ref}' version {version}: {difference.summary}", remedy=difference.remedy
        )
        for difference in find_all_differences(notebook, remote)
    )
    run_report = _fetch_run_report(notebook.ref, version, kaggle)
    notes = tuple(_compare_run(kit, run_report)) if run_report else ()
    return NotebookCheck(ref=notebook.ref, version=version, problems=problems, notes=notes)


def _find_version_problems(part: KitPart, remote: RemotePartState, location: str) -> Iterator[VerifyProblem]:
    """Yield the problems of a dataset, model or notebook as a whole."""
    ref, number, remedy = f"'{remote.ref}'", remote.version, _find_remedy(part, remote)
    pinned = int(location.rpartition("/")[2]) if remote.kind == "model" else 0
    if not remote.exists:
        noun = "version of the model" if remote.kind == "model" else remote.kind
        pin = f" {pinned}" if pinned else ""
        what = f"the {noun} {ref}{pin} does not exist or is not visible to this account"
        yield VerifyProblem(what=what, remedy=remedy)
        return
    if not remote.private:
        yield VerifyProblem(
            what=f"the {remote.kind} {ref} is PUBLIC: everyone can see this part of the kit",
            remedy=f"make it private at once in the settings of {remote.url or 'its page'}",
        )
    if remote.kind == "model" and not pinned:
        what = f"the kit's notebook does not pin a version of the model {ref}"
        yield VerifyProblem(what=what, remedy=remedy)
    problem = ""
    if remote.state != "ready":
        problem = {
            "dataset": f"is not ready on Kaggle: '{remote.state}'",
            "model": "shows no files",
            "notebook": f"has no output: its run is '{remote.state}'",
        }[remote.kind]
    elif remote.part is None:
        problem = "holds no part of a kit"
    elif remote.part.id != part.id:
        problem = f"holds the part {remote.part.id[:12]}, not {part.id[:12]}"
    if problem:
        version = f"version {number}" if number else "its first version"
        yield VerifyProblem(what=f"{ref}: {version} {problem}", remedy=remedy)


def _find_remedy(part: KitPart, remote: RemotePartState) -> str:
    return _REMEDIES[part.name if remote.kind == "notebook" else remote.kind]


def _find_file_problems(part: KitPart, remote: RemotePartState) -> Iterator[VerifyProblem]:
    """Yield the problems of a version's files, by its listing and its marker."""
    if remote.state != "ready":
        return
    remedy = RESEND if remote.part is not None and remote.part.id == part.id else _PUSH
    if remote.kind == "notebook":
        remedy = _find_remedy(part, remote)
    lines = list(find_differences(part, remote.files))
    digests = {entry.stored: entry.sha256 for entry in remote.part.entries} if remote.part else {}
    for entry in part.entries:
        digest = digests.get(entry.stored, entry.sha256)
        if digest != entry.sha256 and remote.files.get(entry.stored) == entry.size:
            lines.append(
                f"'{entry.stored}' has different content (sha256 {digest[:12]}, not {entry.sha256[:12]})"
            )
    for line in lines:
        yield VerifyProblem(what=f"'{remote.ref}': {line}", remedy=remedy)


def _fetch_run_report(ref: str, version: int, kaggle: KaggleClient) -> dict[str, Any]:
    """Return what the run of a version wrote of itself; empty if it wrote nothing, or has not ended."""
    run = kaggle.get_notebook_run(ref, version)
    if not run or run.state != "complete" or REPORT not in kaggle.list_run_outputs(ref, version):
        return {}
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as folder:
        run_report = files.read_json(notebook_runs.fetch_output((ref, version), REPORT, kaggle, Path(folder)))
    return run_report if run_report.get("format") == 1 else {}


def _compare_run(kit: Kit, run: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each difference between a run on Kaggle and the kit's last rehearsal, and one for its figures."""
    receipt = rehearse.read_last_report(kit) or {}
    kit_id = manifest.compute_kit_id(map(str, run.get("parts", {}).values()))
    if kit_id != kit.id:
        yield f"the run was of kit {kit_id[:12]}"
    if moved := run.get("moved"):
        yield f"the image of the run has other versions than the kit was built for: {', '.join(map(str, moved))}"
    for line in run.get(LEFT_OUT, ()):
        yield f"the time was up in the run: {line}"
    python, rehearsed_python = run.get("python"), receipt.get("python")
    if rehearsed_python and python != rehearsed_python:
        yield f"the run had Python {python}, the rehearsal {rehearsed_python}"
    if run.get("packages_hash", "unknown") == receipt.get("packages_hash"):
        yield f"the image of the run has exactly the packages of '{receipt['image']}'"
    rehearsed = f"; the rehearsal {_describe_cost(receipt)}" if receipt else "; it was not rehearsed here"
    yield f"the run took {_describe_cost(run)}{rehearsed}"


def _describe_cost(side: Mapping[str, Any]) -> str:
    memory = (
        f" and {format_size(side['peak_memory'])} ({side['memory_by']})" if side.get("peak_memory") else ""
    )
    return f"{side.get('seconds')} s{memory}"
