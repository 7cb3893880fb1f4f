"""The kit's notebook to Kaggle: a version is pushed once, and only where the newest one is not it already.

A push runs the notebook at once, so one too many costs hours. The journal says before it what is about to
happen; an answer that is lost, or a run of ours that is killed, is settled by looking.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from offline_kit.errors import OutsideError, UsageError
from offline_kit.files import locked
from offline_kit.kaggle_gateway.nouns import (
    Kaggle,
    NewNotebook,
    RefusedError,
    RemoteNotebook,
    Saved,
    Sources,
    UnansweredError,
)
from offline_kit.kaggle_names import slug_of
from offline_kit.model import Kit
from offline_kit.patience import PassingError
from offline_kit.push.journal import Effect, Phase
from offline_kit.push.notebook_same import content_id, extra, lacks, remedy_for
from offline_kit.push.waiting import poll
from offline_kit.push.ways import Ways
from offline_kit.rehearsal import plan as kit_plan
from offline_kit.report import SILENT, Reporter

ACTION = "notebook"
"""What the journal calls the push of a notebook."""
GOOD = frozenset({"complete", "queued", "running", "newscript"})
"""States of a run that need no other run."""
_LOOK_BACK = 5  # versions that others may have saved on top of ours
_AGAIN = "run the same command again: it goes on, and nothing is pushed twice"


@dataclass(frozen=True, kw_only=True)
class NotebookPlan:
    """What becomes of a notebook."""

    new: NewNotebook
    """What is wanted."""
    action: str
    """"new" (there is no such notebook), "version" or "nothing"."""
    why: str
    """Why so, for a person."""
    before: int = 0
    """Number of the newest version; 0 for none."""
    version: int = 0
    """The version that is it already; 0 where one has to be pushed."""
    url: str = ""
    """The notebook's page, where there is one."""


@dataclass(frozen=True, kw_only=True)
class PushedNotebook:
    """Where a notebook is now."""

    ref: str
    """"owner/slug"."""
    version: int
    """The version that is it; its run may still be queued."""
    url: str
    """Its page."""
    action: str
    """What was done: "new", "version" or "nothing"."""


def of_kit(kit: Kit, username: str) -> NewNotebook:
    """Return the kit's notebook as it was rendered, of this owner.

    Raises ProjectError where the kit has none, UsageError where its metadata would have it public or with
    internet, or of somebody else.
    """
    path, metadata = kit_plan.notebook_of(kit)
    owner, _, slug = str(metadata.get("id", "")).rpartition("/")
    problems = []
    if metadata.get("enable_internet") is not False:
        problems.append(
            "`enable_internet` is not false: a submission has none, and Kaggle's own default is true"
        )
    if metadata.get("is_private") is not True:
        problems.append("`is_private` is not true: everybody could read the notebook")
    if owner and owner.casefold() != username.casefold():
        problems.append(f"`id` belongs to '{owner}', and these credentials to '{username}'")
    if problems:
        raise UsageError(
            f"the notebook of the kit in '{kit.folder}' cannot be pushed as its kernel-metadata.json says",
            hint="build the kit again with 'offline-kit build', which writes this file anew",
            details=problems,
        )
    return NewNotebook(
        ref=f"{owner or username}/{slug}",
        title=str(metadata.get("title") or slug),
        text=path.read_text(encoding="utf-8"),
        sources=_sources(metadata, username),
        gpu=bool(metadata.get("enable_gpu")),
        machine=str(metadata.get("machine_shape") or ""),
        image=str(metadata.get("docker_image") or ""),
        pinning=str(metadata.get("docker_image_pinning_type") or ""),
    )


def _sources(metadata: Mapping[str, Any], username: str) -> Sources:
    datasets = (str(each) for each in metadata.get("dataset_sources") or ())
    return Sources(
        datasets=tuple(each if "/" in each else f"{username}/{each}" for each in datasets),
        competitions=tuple(map(str, metadata.get("competition_sources") or ())),
        notebooks=tuple(map(str, metadata.get("kernel_sources") or ())),
        models=tuple(map(str, metadata.get("model_sources") or ())),
    )


def push(new: NewNotebook, kaggle: Kaggle, ways: Ways, report: Reporter = SILENT) -> PushedNotebook:
    """Bring a notebook to Kaggle, where its run begins, and return its version as it was read back.

    Nothing is pushed where the newest version is the same and its run is complete, queued or running.
    Raises UsageError for a title that leads elsewhere; OutsideError where Kaggle refuses it or a source of
    it, has no free session in time, or shows something else than was pushed. The same call later goes on.
    """
    with locked(ways.state / "notebook.lock"):
        found = plan(new, kaggle, ways, report)
        if found.action == "nothing":
            report.note(f"'{new.ref}': nothing to push, {found.why}")
            return PushedNotebook(ref=new.ref, version=found.version, url=found.url, action="nothing")
        return _send(found, kaggle, ways, report)


def plan(new: NewNotebook, kaggle: Kaggle, ways: Ways, report: Reporter = SILENT) -> NotebookPlan:
    """Look at Kaggle and return what a push would do; settles first what an earlier run left open."""
    report.step(f"Looking at the notebook '{new.ref}' on {kaggle.account().place}")
    settled = _settle(new, kaggle, ways, report)
    newest = kaggle.notebook(new.ref)
    if newest is None:
        _check_title(new)
        return NotebookPlan(new=new, action="new", why="there is no such notebook yet")
    seen = newest
    if settled not in (0, newest.current):
        seen = kaggle.notebook(new.ref, settled) or newest
    number = settled or newest.current
    why = _why_not(new, seen, number, kaggle, ways)
    return NotebookPlan(
        new=new,
        action="version" if why else "nothing",
        why=why or f"version {number} is this notebook already",
        before=newest.current,
        version=0 if why else number,
        url=newest.url,
    )


def void(new: NewNotebook, version: int, ways: Ways) -> None:
    """Have a version not count any more, so that the next push makes another one of the same content."""
    ways.journal.write(_effect(new, version - 1), Phase.VOID)


def _effect(new: NewNotebook, before: int) -> Effect:
    return Effect(action=ACTION, target=new.ref, before=before, content=content_id(new))


def _why_not(new: NewNotebook, seen: RemoteNotebook, number: int, kaggle: Kaggle, ways: Ways) -> str:
    """Return why a version is not what is wanted, "" where it is."""
    if different := (*lacks(new, seen), *extra(new, seen)):
        more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
        return f"in version {number}, {different[0].what}{more}"
    entries = [entry for entry in ways.journal.entries() if entry.effect.target == new.ref]
    last = entries[-1] if entries and entries[-1].effect.content == content_id(new) else None
    if last and last.phase is Phase.VOID and number > last.effect.before:
        return f"version {number} does not count: it ran without what it needs"
    run = kaggle.run(new.ref, number)
    if run is None and last and number > last.effect.before:
        return ""  # it was pushed by us a moment ago, and its run does not show yet
    if run is None:
        return f"version {number} was saved without a run"
    return "" if run.state in GOOD else f"the run of version {number} ended with '{run.state}'"


def _check_title(new: NewNotebook) -> None:
    slug = new.ref.partition("/")[2]
    if slug_of(new.title) != slug:
        raise UsageError(
            f"Kaggle would make '{slug_of(new.title)}' of the title '{new.title}', not '{slug}'",
            hint="set `title` in [tool.offline-kit.notebook] and leave `slug` out: it follows",
        )


def _settle(new: NewNotebook, kaggle: Kaggle, ways: Ways, report: Reporter) -> int:
    """Wait for what an earlier run sent without seeing it arrive; return its version where it is this notebook."""
    entry = ways.journal.open(new.ref)
    if entry is None or entry.effect.action != ACTION:
        return 0
    report.note(f"an earlier push of '{new.ref}' was interrupted; looking what became of it")
    mine = entry.effect.content == content_id(new)
    version = _appeared(entry.effect, new if mine else None, kaggle, ways)
    ways.journal.write(entry.effect, Phase.DONE if version else Phase.LOST)
    return version if mine else 0


def _appeared(effect: Effect, new: NewNotebook | None, kaggle: Kaggle, ways: Ways) -> int:
    """Return the version that came of an effect, 0 where none shows within the grace; without `new` any newer one."""

    def newer() -> int:
        newest = kaggle.notebook(effect.target)
        current = newest.current if newest else 0
        for number in range(current, max(effect.before, current - _LOOK_BACK), -1):
            seen = newest if number == current else kaggle.notebook(effect.target, number)
            if new is None or (seen and not lacks(new, seen)):
                return number
        raise PassingError("nothing newer shows yet")

    try:
        return poll(
            newer, ways.waiting.until(ways.waiting.grace), lambda e: _NothingError(str(e), hint=_AGAIN)
        )
    except _NothingError:
        return 0


class _NothingError(OutsideError):
    """What was looked for did not show."""


def _send(found: NotebookPlan, kaggle: Kaggle, ways: Ways, report: Reporter) -> PushedNotebook:
    """Push a version and see that it is what was meant."""
    new, effect = found.new, _effect(found.new, found.before)
    report.step(f"Pushing the notebook '{new.ref}': {found.why}")
    saved = _saved(effect, new, kaggle, ways, report)
    ways.journal.write(effect, Phase.ANSWERED)
    problem = _rejected(saved, new) or _elsewhere(saved, new)
    if problem:
        ways.journal.write(effect, Phase.VOID)
        raise problem
    _read_back(effect, new, saved, kaggle, ways)
    ways.journal.write(effect, Phase.DONE)
    report.note(f"'{new.ref}' version {saved.version} is private, has no internet, and all of its sources")
    return PushedNotebook(ref=new.ref, version=saved.version, url=saved.url, action=found.action)


def _saved(effect: Effect, new: NewNotebook, kaggle: Kaggle, ways: Ways, report: Reporter) -> Saved:
    """Save once; where all sessions of the account are taken, wait for one."""
    with ExitStack() as line:
        say: list[Callable[[str], None]] = []

        def once() -> Saved:
            try:
                return _save(effect, new, kaggle, ways, report)
            except RefusedError as no:
                if not re.search(r"maximum .*session count", no.what, re.IGNORECASE):
                    raise _refused(no, new) from no
                if not say:
                    say.append(line.enter_context(report.waiting("waiting for a free session")))
                say[0](no.what)
                raise PassingError(no.what) from no

        return poll(once, ways.waiting.until(ways.waiting.processing), _busy)


def _save(effect: Effect, new: NewNotebook, kaggle: Kaggle, ways: Ways, report: Reporter) -> Saved:
    ways.journal.write(effect, Phase.BEGUN)
    trouble: OutsideError
    try:
        return kaggle.save_notebook(new)
    except RefusedError as no:
        if no.status < 500:
            ways.journal.write(effect, Phase.REFUSED)
            raise
        trouble = no
    except UnansweredError as lost:
        trouble = lost
    report.warn(f"no answer about '{new.ref}': looking whether the new version is there all the same")
    version = _appeared(effect, new, kaggle, ways)
    if not version:
        ways.journal.write(effect, Phase.LOST)
        raise OutsideError(trouble.what, hint=_AGAIN, details=trouble.details) from trouble
    seen = kaggle.notebook(new.ref, version)
    return Saved(ref=new.ref, version=version, url=seen.url if seen else "")


def _busy(trouble: Exception) -> OutsideError:
    return OutsideError(
        "Kaggle has no free session for this notebook",
        hint="end a run that is not needed (kaggle.com, 'View Active Events'), or run the same command again later",
        details=(str(trouble),),
    )


def _refused(no: RefusedError, new: NewNotebook) -> OutsideError:
    """Return a refusal with what to do about it."""
    said = no.what.lower()
    if no.status == 409:
        what = f"Kaggle does not take '{new.ref}': a dataset or another notebook has this title or slug"
        return OutsideError(
            what, hint="choose another `title` in [tool.offline-kit.notebook]", details=(no.what,)
        )
    if "quota" in said:
        hint = "wait until the quota is renewed (each week), or leave `accelerator` out"
        return OutsideError(
            f"'{new.ref}' was not pushed: the quota is used up", hint=hint, details=(no.what,)
        )
    if "not found" in said:
        hint = "if it was made on the web and never saved, save it once there; or choose another `title`"
        return OutsideError(f"Kaggle cannot find '{new.ref}' to update it", hint=hint, details=(no.what,))
    return no


def _rejected(saved: Saved, new: NewNotebook) -> OutsideError | None:
    if not saved.rejected:
        return None
    remedies = {}
    for source in saved.rejected:
        kind, _, ref = source.partition(" ")
        remedies[source] = remedy_for(kind, ref.strip("'"))
    first = next(iter(remedies.values()))
    return OutsideError(
        f"Kaggle did not attach {len(remedies)} of the sources of '{new.ref}':"
        f" version {saved.version} runs without and does not count",
        hint=f"{first}; then run the same command again: it pushes another version",
        details=[f"{source}: {remedy}" for source, remedy in remedies.items()],
    )


def _elsewhere(saved: Saved, new: NewNotebook) -> OutsideError | None:
    if saved.ref.casefold() == new.ref.casefold():
        return None
    return OutsideError(
        f"Kaggle put the notebook to '{saved.ref}', not to '{new.ref}': the title '{new.title}' decides",
        hint="set `title` in [tool.offline-kit.notebook] to one that makes this slug, and delete the other notebook",
        details=(saved.url,) if saved.url else (),
    )


def _read_back(effect: Effect, new: NewNotebook, saved: Saved, kaggle: Kaggle, ways: Ways) -> None:
    """See that Kaggle shows the version as it was pushed; a fresh one may be hidden for a while."""
    wrong: list[OutsideError] = []

    def seen() -> None:
        there = kaggle.notebook(new.ref, saved.version)
        wrong.clear()
        if there is None:
            raise PassingError("it does not show yet")
        differences = lacks(new, there)
        if not differences:
            return
        wrong.append(
            OutsideError(
                f"version {saved.version} of '{new.ref}' is not as it was pushed: {differences[0].what}",
                hint=differences[0].remedy,
                details=[each.what for each in differences[1:]],
            )
        )
        if any(each.grave for each in differences):
            raise wrong[0]
        raise PassingError(differences[0].what)

    def give_up(_trouble: Exception) -> OutsideError:
        return wrong[0] if wrong else _hidden(new, saved)

    try:
        poll(seen, ways.waiting.until(ways.waiting.grace), give_up)
    except OutsideError:
        if wrong:
            ways.journal.write(effect, Phase.VOID)
        raise


def _hidden(new: NewNotebook, saved: Saved) -> OutsideError:
    return OutsideError(f"version {saved.version} of '{new.ref}' cannot be read back yet", hint=_AGAIN)
