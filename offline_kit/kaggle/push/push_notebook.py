"""Push the kit's notebook once, and only if the newest version differs.

A push starts a run immediately, so a needless one costs hours. The journal stores it beforehand; if the
answer is lost or the process is killed, the next run looks for the version.
"""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from offline_kit.core import files
from offline_kit.core.errors import OutsideError, UsageError
from offline_kit.core.files import hold_lock
from offline_kit.core.report import SILENT, Reporter
from offline_kit.core.retry import TransientError
from offline_kit.kaggle.client.api_types import (
    NewNotebook,
    NotebookSources,
    RefusedError,
    RemoteNotebook,
    SavedNotebook,
)
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.push.journal import Effect, Phase, PushSettings, run_once
from offline_kit.kaggle.push.notebook_equality import (
    NotebookDifference,
    find_extra_sources,
    find_mismatches,
    hash_content,
    suggest_source_fix,
)
from offline_kit.kaggle.push.poll_policy import PollPolicy, poll_until, wait_until_shown
from offline_kit.project.kaggle_names import make_slug
from offline_kit.project.types import Kit
from offline_kit.rehearsal import kit_facts as kit_plan

ACTION = "notebook"
"""The journal's action for a push of a notebook."""


@dataclass(frozen=True, kw_only=True)
class NotebookPlan:
    """What a push does to a notebook."""

    notebook: NewNotebook
    action: str
    """"new" (there is no such notebook), "version" or "nothing"."""
    reason: str
    version_before: int = 0
    """The newest version; 0 for none."""
    version: int = 0
    """The version that matches; 0 if one has to be pushed."""
    url: str = ""


@dataclass(frozen=True, kw_only=True)
class PushedNotebook:
    """Where a pushed notebook is."""

    ref: str
    """"owner/slug"."""
    version: int
    """Its run may still be queued."""
    url: str
    action: str
    """What was done: "new", "version" or "nothing"."""


def read_notebook(kit: Kit, username: str) -> NewNotebook:
    """Return the kit's rendered notebook, with this owner.

    Raises ProjectError if the kit has none, UsageError if its metadata asks for a public notebook, for
    internet, or for another owner.
    """
    path, metadata = kit_plan.read_notebook(kit)
    owner, _, slug = str(metadata.get("id", "")).rpartition("/")
    problems = []
    if metadata.get("enable_internet") is not False:
        problems.append(
            "`enable_internet` is not false: submissions have no internet, and Kaggle's default is true"
        )
    if metadata.get("is_private") is not True:
        problems.append("`is_private` is not true: everyone could read the notebook")
    if owner and owner.casefold() != username.casefold():
        problems.append(f"`id` belongs to '{owner}', and these credentials to '{username}'")
    if problems:
        raise UsageError(
            f"the notebook of the kit in '{kit.folder}' has an invalid kernel-metadata.json",
            code="notebook-metadata-invalid",
            hint="run 'offline-kit build', which writes this file again",
            details=problems,
        )
    return NewNotebook(
        ref=f"{owner or username}/{slug}",
        title=str(metadata.get("title") or slug),
        text=path.read_text(encoding="utf-8"),
        sources=_parse_sources(metadata, username),
        gpu=bool(metadata.get("enable_gpu")),
        machine_shape=str(metadata.get("machine_shape") or ""),
        image=str(metadata.get("docker_image") or ""),
        image_pinning=str(metadata.get("docker_image_pinning_type") or ""),
    )


def pin_model(kit: Kit, source: str) -> None:
    """Make the kit's notebook attach exactly this version of a model.

    `source` is "owner/model/framework/variation/version". Raises ProjectError if the kit has no notebook.
    """
    _, metadata = kit_plan.read_notebook(kit)
    variation = source.rpartition("/")[0]
    other_sources = [
        source_ref
        for source_ref in metadata.get("model_sources") or ()
        if _without_owner(source_ref.rpartition("/")[0]) != _without_owner(variation)
    ]
    pinned = {**metadata, "model_sources": [*other_sources, source]}
    if pinned != metadata:
        path = kit.folder / "notebook" / "kernel-metadata.json"
        files.write_atomic(path, json.dumps(pinned, indent=2) + "\n")


def _without_owner(ref: str) -> str:
    return ref.partition("/")[2].casefold()


def _parse_sources(metadata: Mapping[str, Any], username: str) -> NotebookSources:
    datasets = (str(dataset) for dataset in metadata.get("dataset_sources") or ())
    return NotebookSources(
        datasets=tuple(dataset if "/" in dataset else f"{username}/{dataset}" for dataset in datasets),
        competitions=tuple(map(str, metadata.get("competition_sources") or ())),
        notebooks=tuple(map(str, metadata.get("kernel_sources") or ())),
        models=tuple(map(str, metadata.get("model_sources") or ())),
    )


def push_notebook(
    notebook: NewNotebook, kaggle: KaggleClient, settings: PushSettings, report: Reporter = SILENT
) -> PushedNotebook:
    """Push a notebook, which starts its run, and return its version as Kaggle shows it.

    Nothing is pushed if the newest version is the same and its run is complete, queued or running.
    Raises UsageError for a title that leads to another slug; OutsideError if Kaggle refuses the notebook or
    a source, has no free session in time, or shows something else. The same call later continues.
    """
    with hold_lock(settings.state_folder / "notebook.lock"):
        plan = plan_notebook(notebook, kaggle, settings, report)
        if plan.action == "nothing":
            report.note(f"'{notebook.ref}': nothing to push, {plan.reason}")
            return PushedNotebook(ref=notebook.ref, version=plan.version, url=plan.url, action="nothing")
        return _push_version(plan, kaggle, settings, report)


def plan_notebook(
    notebook: NewNotebook, kaggle: KaggleClient, settings: PushSettings, report: Reporter = SILENT
) -> NotebookPlan:
    """Return what a push would do, after recovering what an earlier run left open."""
    report.step(f"Looking at the notebook '{notebook.ref}' on {kaggle.fetch_account().server_name}")
    recovered = _recover_interrupted(notebook, kaggle, settings, report)
    newest = kaggle.get_notebook(notebook.ref)
    if newest is None:
        _check_title(notebook)
        return NotebookPlan(notebook=notebook, action="new", reason="the notebook does not exist yet")
    remote = newest
    if recovered not in (0, newest.newest_version):
        remote = kaggle.get_notebook(notebook.ref, recovered) or newest
    number = recovered or newest.newest_version
    reason = _find_push_reason(notebook, remote, number, kaggle, settings)
    return NotebookPlan(
        notebook=notebook,
        action="version" if reason else "nothing",
        reason=reason or f"version {number} is this notebook",
        version_before=newest.newest_version,
        version=0 if reason else number,
        url=newest.url,
    )


def is_same(notebook: NewNotebook, remote: RemoteNotebook) -> bool:
    """Tell whether a version on Kaggle matches, whatever the state of its run."""
    return not (*find_mismatches(notebook, remote), *find_extra_sources(notebook, remote))


def void_version(notebook: NewNotebook, version: int, settings: PushSettings) -> None:
    """Mark a version as void, so that the next push creates another one with the same content."""
    settings.effect_journal.append_entry(_build_effect(notebook, version - 1), Phase.VOID)


def _build_effect(notebook: NewNotebook, before: int) -> Effect:
    return Effect(action=ACTION, target=notebook.ref, before=before, content=hash_content(notebook))


def _find_push_reason(
    notebook: NewNotebook, remote: RemoteNotebook, number: int, kaggle: KaggleClient, settings: PushSettings
) -> str:
    """Return why a version has to be replaced, "" if it matches."""
    entries = [
        entry for entry in settings.effect_journal.read_entries() if entry.effect.target == notebook.ref
    ]
    last = entries[-1] if entries and entries[-1].effect.content == hash_content(notebook) else None
    # The newest version is our last push, even if Kaggle has rewritten its cells.
    is_ours = last and last.phase is Phase.DONE and number == last.effect.before + 1
    different = [
        difference
        for difference in (*find_mismatches(notebook, remote), *find_extra_sources(notebook, remote))
        if not (is_ours and difference.is_rewritten_text)
    ]
    if different:
        others_note = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
        return f"in version {number}, {different[0].summary}{others_note}"
    if last and last.phase is Phase.VOID and number > last.effect.before:
        return f"version {number} does not count: it ran without its inputs"
    run = kaggle.get_notebook_run(notebook.ref, number)
    fresh = (
        last
        and number > last.effect.before
        and time.time() - last.at < settings.poll_policy.visibility_timeout
    )
    if run is None and fresh:
        return ""  # pushed a moment ago: its run is not visible yet
    if run is None:
        return f"version {number} was saved without a run"
    return f"the run of version {number} ended with '{run.state}'" if run.has_failed else ""


def _check_title(notebook: NewNotebook) -> None:
    slug = notebook.ref.partition("/")[2]
    if make_slug(notebook.title) != slug:
        raise UsageError(
            f"Kaggle would derive the slug '{make_slug(notebook.title)}' of the title '{notebook.title}', not '{slug}'",
            code="notebook-title-invalid",
            hint="set `title` in [tool.offline-kit.notebook] and remove `slug`, which follows from it",
        )


def _recover_interrupted(
    notebook: NewNotebook, kaggle: KaggleClient, settings: PushSettings, report: Reporter
) -> int:
    """Recover what an earlier run sent without seeing it arrive; return its version if it is this notebook."""
    entry = settings.effect_journal.find_open_entry(notebook.ref)
    if entry is None or entry.effect.action != ACTION:
        return 0
    report.note(f"an earlier push of '{notebook.ref}' was interrupted; checking its state")
    is_same_content = entry.effect.content == hash_content(notebook)
    version = find_pushed_version(
        entry.effect, notebook if is_same_content else None, kaggle, settings.poll_policy
    )
    settings.effect_journal.append_entry(entry.effect, Phase.DONE if version else Phase.LOST)
    return version if is_same_content else 0


def _push_version(
    plan: NotebookPlan, kaggle: KaggleClient, settings: PushSettings, report: Reporter
) -> PushedNotebook:
    """Push a version and verify it."""
    notebook, effect = plan.notebook, _build_effect(plan.notebook, plan.version_before)
    report.step(f"Pushing the notebook '{notebook.ref}': {plan.reason}")
    saved = _save_when_free(effect, notebook, kaggle, settings, report)
    problem = build_sources_error(saved, notebook) or build_moved_error(saved, notebook)
    if problem:
        settings.effect_journal.append_entry(effect, Phase.VOID)
        raise problem
    differences = read_back(notebook, saved, kaggle, settings.poll_policy)
    if firm := [difference for difference in differences if not difference.is_rewritten_text]:
        settings.effect_journal.append_entry(effect, Phase.VOID)
        raise build_mismatch_error(saved, firm)
    if differences:
        report.warn(f"Kaggle shows version {saved.version} with changed cells; check {saved.url}")
    settings.effect_journal.append_entry(effect, Phase.DONE)
    internet = "has internet access, as configured," if notebook.internet else "has no internet,"
    report.note(f"'{notebook.ref}' version {saved.version} is private, {internet} and all of its sources")
    return PushedNotebook(ref=notebook.ref, version=saved.version, url=saved.url, action=plan.action)


def _save_when_free(
    effect: Effect, notebook: NewNotebook, kaggle: KaggleClient, settings: PushSettings, report: Reporter
) -> SavedNotebook:
    """Save once; if all sessions of the account are in use, wait for a free one."""
    with ExitStack() as line:
        status_lines: list[Callable[[str], None]] = []

        def save_once() -> SavedNotebook:
            try:
                return _save_version(effect, notebook, kaggle, settings, report)
            except RefusedError as refusal:
                if not re.search(r"maximum .*session count", refusal.what, re.IGNORECASE):
                    raise build_refusal(refusal, notebook) from refusal
                if not status_lines:
                    status_lines.append(line.enter_context(report.waiting("waiting for a free session")))
                status_lines[0](refusal.what)
                raise TransientError(refusal.what) from refusal

        return poll_until(
            save_once,
            settings.poll_policy.retry_policy(settings.poll_policy.processing_timeout),
            build_busy_error,
        )


def _save_version(
    effect: Effect, notebook: NewNotebook, kaggle: KaggleClient, settings: PushSettings, report: Reporter
) -> SavedNotebook:
    def find_saved() -> SavedNotebook | None:
        version = find_pushed_version(effect, notebook, kaggle, settings.poll_policy)
        remote = kaggle.get_notebook(notebook.ref, version) if version else None
        return (
            SavedNotebook(ref=notebook.ref, version=version, url=remote.url if remote else "")
            if version
            else None
        )

    description = f"the new version of '{notebook.ref}'"
    return run_once(
        settings.effect_journal,
        effect,
        lambda: kaggle.save_notebook(notebook),
        find_saved,
        description,
        report,
    )


RETRY_HINT = "run the same command again: it continues, and nothing is pushed twice"
_LOOK_BACK = 5  # versions that others may have saved on top of ours


def find_pushed_version(
    effect: Effect, notebook: NewNotebook | None, kaggle: KaggleClient, poll_policy: PollPolicy
) -> int:
    """Return the version that an effect created, 0 if none is visible in time; without `notebook`, any newer one."""

    def find_newer() -> int | None:
        newest = kaggle.get_notebook(effect.target)
        current = newest.newest_version if newest else 0
        for number in range(current, max(effect.before, current - _LOOK_BACK), -1):
            remote = newest if number == current else kaggle.get_notebook(effect.target, number)
            # Kaggle may rewrite cells, so the text of the very next version is not compared.
            next_one = number == effect.before + 1
            if notebook is None or (
                remote
                and all(
                    next_one and mismatch.is_rewritten_text for mismatch in find_mismatches(notebook, remote)
                )
            ):
                return number
        return None

    return wait_until_shown(find_newer, poll_policy.retry_policy(poll_policy.visibility_timeout)) or 0


def read_back(
    notebook: NewNotebook, saved: SavedNotebook, kaggle: KaggleClient, poll_policy: PollPolicy
) -> tuple[NotebookDifference, ...]:
    """Return how a version on Kaggle differs from what was pushed, after the visibility timeout.

    Raises OutsideError if it is not visible at all: Kaggle hides new notebooks for a while.
    """
    last: list[tuple[NotebookDifference, ...]] = []

    def read_differences() -> tuple[NotebookDifference, ...] | None:
        remote = kaggle.get_notebook(notebook.ref, saved.version)
        if remote is None:
            return None
        last[:] = [find_mismatches(notebook, remote)]
        return last[0] if not last[0] or any(difference.is_exposed for difference in last[0]) else None

    wait_until_shown(read_differences, poll_policy.retry_policy(poll_policy.visibility_timeout))
    if not last:
        raise OutsideError(
            f"version {saved.version} of '{notebook.ref}' cannot be read back yet",
            code="notebook-not-visible",
            hint=RETRY_HINT,
        )
    return last[0]


def build_mismatch_error(saved: SavedNotebook, differences: Sequence[NotebookDifference]) -> OutsideError:
    """Return the error for a version that differs from what was pushed."""
    return OutsideError(
        f"version {saved.version} of '{saved.ref}' differs from what was pushed: {differences[0].summary}",
        code="notebook-changed-by-kaggle",
        hint=differences[0].remedy,
        details=[difference.summary for difference in differences[1:]],
    )


def build_busy_error(trouble: Exception) -> OutsideError:
    """Return the error for a session limit that lasted too long."""
    return OutsideError(
        "Kaggle has no free session for this notebook",
        code="kaggle-session-limit",
        hint="stop a running notebook (kaggle.com, 'View Active Events'), or run the same command again later",
        details=(str(trouble),),
    )


def build_refusal(refusal: RefusedError, notebook: NewNotebook) -> OutsideError:
    """Return the error for a refused push, with a fix."""
    message = refusal.what.lower()
    if refusal.status == 409:
        summary = f"Kaggle rejected '{notebook.ref}': a dataset or another notebook has this title or slug"
        return OutsideError(
            summary,
            code="notebook-title-taken",
            hint="set another `title` in [tool.offline-kit.notebook]",
            details=(refusal.what,),
        )
    if "quota" in message:
        hint = "wait for the weekly quota renewal, or remove `accelerator`"
        return OutsideError(
            f"'{notebook.ref}' was not pushed: the quota is used up",
            code="kaggle-quota-exhausted",
            hint=hint,
            details=(refusal.what,),
        )
    if "not found" in message:
        hint = "if it is an unsaved draft on kaggle.com, save it there once; or set another `title`"
        return OutsideError(
            f"Kaggle cannot find '{notebook.ref}' to update it",
            code="notebook-not-found",
            hint=hint,
            details=(refusal.what,),
        )
    return refusal


def build_sources_error(saved: SavedNotebook, notebook: NewNotebook) -> OutsideError | None:
    """Return the error for sources that were not attached, each with a fix; None if all were."""
    if not saved.rejected_sources:
        return None
    remedies = {}
    site = saved.url.partition("/code/")[0]
    for source in saved.rejected_sources:
        kind, _, ref = source.partition(" ")
        remedies[source] = suggest_source_fix(kind, ref.strip("'"), site)
    first = next(iter(remedies.values()))
    return OutsideError(
        f"Kaggle did not attach {len(remedies)} of the sources of '{notebook.ref}':"
        f" version {saved.version} runs without them and does not count",
        code="notebook-source-rejected",
        hint=f"{first}; then run the same command again: it pushes a new version",
        details=[f"{source}: {remedy}" for source, remedy in remedies.items()],
    )


def build_moved_error(saved: SavedNotebook, notebook: NewNotebook) -> OutsideError | None:
    """Return the error for a notebook whose title led to another slug; None if it did not."""
    if saved.ref.casefold() == notebook.ref.casefold():
        return None
    return OutsideError(
        f"Kaggle saved the notebook as '{saved.ref}', not as '{notebook.ref}': the title '{notebook.title}' determines the slug",
        code="notebook-moved",
        hint="set a `title` in [tool.offline-kit.notebook] that gives this slug, and delete the other notebook",
        details=(saved.url,) if saved.url else (),
    )
