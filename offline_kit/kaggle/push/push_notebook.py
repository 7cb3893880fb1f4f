"""The kit's notebook to Kaggle: a version is pushed once, and only where the newest one is not it already.

A push runs the notebook at once, so one too many costs hours. The journal says before it what is about to
happen; an answer that is lost, or a run of ours that is killed, is settled by looking.
"""

import json
import re
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from offline_kit.core import files
from offline_kit.core.errors import UsageError
from offline_kit.core.files import locked
from offline_kit.core.report import SILENT, Reporter
from offline_kit.core.retry import PassingError
from offline_kit.kaggle.client.api_types import (
    Kaggle,
    NewNotebook,
    RefusedError,
    RemoteNotebook,
    Saved,
    Sources,
)
from offline_kit.kaggle.push import notebook_remote
from offline_kit.kaggle.push.journal import Effect, Phase
from offline_kit.kaggle.push.notebook_equality import content_id, extra, lacks
from offline_kit.kaggle.push.poll_policy import poll
from offline_kit.kaggle.push.push_settings import Ways
from offline_kit.kaggle.push.run_once import once
from offline_kit.project.kaggle_names import slug_of
from offline_kit.project.types import Kit
from offline_kit.rehearsal import kit_facts as kit_plan

ACTION = "notebook"
"""What the journal calls the push of a notebook."""


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


def pin(kit: Kit, source: str) -> None:
    """Have the kit's notebook attach a model at exactly this version, and no other version of it.

    `source` is "owner/model/framework/variation/version". Raises ProjectError where the kit has no notebook.
    """
    _, metadata = kit_plan.notebook_of(kit)
    variation = source.rpartition("/")[0]
    others = [
        each
        for each in metadata.get("model_sources") or ()
        if _unowned(each.rpartition("/")[0]) != _unowned(variation)
    ]
    pinned = {**metadata, "model_sources": [*others, source]}
    if pinned != metadata:
        path = kit.folder / "notebook" / "kernel-metadata.json"
        files.write_atomic(path, json.dumps(pinned, indent=2) + "\n")


def _unowned(ref: str) -> str:
    return ref.partition("/")[2].casefold()


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


def is_same(new: NewNotebook, there: RemoteNotebook) -> bool:
    """Tell whether a version on Kaggle is what is wanted, whatever became of its run."""
    return not (*lacks(new, there), *extra(new, there))


def void(new: NewNotebook, version: int, ways: Ways) -> None:
    """Have a version not count any more, so that the next push makes another one of the same content."""
    ways.journal.write(_effect(new, version - 1), Phase.VOID)


def _effect(new: NewNotebook, before: int) -> Effect:
    return Effect(action=ACTION, target=new.ref, before=before, content=content_id(new))


def _why_not(new: NewNotebook, seen: RemoteNotebook, number: int, kaggle: Kaggle, ways: Ways) -> str:
    """Return why a version is not what is wanted, "" where it is."""
    entries = [entry for entry in ways.journal.entries() if entry.effect.target == new.ref]
    last = entries[-1] if entries and entries[-1].effect.content == content_id(new) else None
    # What we pushed last, and nobody has pushed over since, is ours however Kaggle writes it.
    ours = last and last.phase is Phase.DONE and number == last.effect.before + 1
    different = [each for each in (*lacks(new, seen), *extra(new, seen)) if not (ours and each.soft)]
    if different:
        more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
        return f"in version {number}, {different[0].what}{more}"
    if last and last.phase is Phase.VOID and number > last.effect.before:
        return f"version {number} does not count: it ran without what it needs"
    run = kaggle.run(new.ref, number)
    fresh = last and number > last.effect.before and time.time() - last.at < ways.waiting.grace
    if run is None and fresh:
        return ""  # it was pushed by us a moment ago, and its run does not show yet
    if run is None:
        return f"version {number} was saved without a run"
    return f"the run of version {number} ended with '{run.state}'" if run.lost else ""


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
    version = notebook_remote.appeared(entry.effect, new if mine else None, kaggle, ways.waiting)
    ways.journal.write(entry.effect, Phase.DONE if version else Phase.LOST)
    return version if mine else 0


def _send(found: NotebookPlan, kaggle: Kaggle, ways: Ways, report: Reporter) -> PushedNotebook:
    """Push a version and see that it is what was meant."""
    new, effect = found.new, _effect(found.new, found.before)
    report.step(f"Pushing the notebook '{new.ref}': {found.why}")
    saved = _saved(effect, new, kaggle, ways, report)
    problem = notebook_remote.rejected(saved, new) or notebook_remote.elsewhere(saved, new)
    if problem:
        ways.journal.write(effect, Phase.VOID)
        raise problem
    differences = notebook_remote.read_back(new, saved, kaggle, ways.waiting)
    if firm := [each for each in differences if not each.soft]:
        ways.journal.write(effect, Phase.VOID)
        raise notebook_remote.not_as_pushed(saved, firm)
    if differences:
        report.warn(
            f"Kaggle shows version {saved.version} with other cells than were pushed; look at {saved.url}"
        )
    ways.journal.write(effect, Phase.DONE)
    internet = "has the internet on, as it was asked for," if new.internet else "has no internet,"
    report.note(f"'{new.ref}' version {saved.version} is private, {internet} and all of its sources")
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
                    raise notebook_remote.refused(no, new) from no
                if not say:
                    say.append(line.enter_context(report.waiting("waiting for a free session")))
                say[0](no.what)
                raise PassingError(no.what) from no

        return poll(once, ways.waiting.until(ways.waiting.processing), notebook_remote.busy)


def _save(effect: Effect, new: NewNotebook, kaggle: Kaggle, ways: Ways, report: Reporter) -> Saved:
    def appeared() -> Saved | None:
        version = notebook_remote.appeared(effect, new, kaggle, ways.waiting)
        seen = kaggle.notebook(new.ref, version) if version else None
        return Saved(ref=new.ref, version=version, url=seen.url if seen else "") if version else None

    about = f"the new version of '{new.ref}'"
    return once(ways.journal, effect, lambda: kaggle.save_notebook(new), appeared, about, report)
