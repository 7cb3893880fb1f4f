"""Push the kit's notebook once, and only if the newest version differs.

A push starts a run immediately, so a needless one costs hours. The journal stores it beforehand; if the
answer is lost or the process is killed, the next run looks for the version.
"""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from offline_kit.core import files
from offline_kit.core.errors import OutsideError, UsageError
from offline_kit.core.files import hold_lock
from offline_kit.core.retry import retry_call
from offline_kit.kaggle.client.api_types import (
    NewNotebook,
    NotebookSources,
    RefusedError,
    RemoteNotebook,
    SavedNotebook,
)
from offline_kit.kaggle.push.journal import Effect, Phase, PushContext
from offline_kit.kaggle.push.notebook_equality import (
    NotebookDifference,
    find_all_differences,
    find_mismatches,
    hash_content,
    suggest_source_fix,
)
from offline_kit.kaggle.push.poll_policy import StatusLine, wait_until_shown
from offline_kit.project.kaggle_names import make_slug
from offline_kit.project.types import Kit
from offline_kit.rehearsal import kit_facts

_ACTION = "notebook"
_LOOK_BACK = 5  # versions that others may have saved on top of ours


@dataclass(frozen=True, kw_only=True)
class NotebookPlan:
    """What a push does, or has done, to a notebook; its run may still be queued."""

    notebook: NewNotebook
    action: str  # "new" (there is no such notebook), "version" or "nothing"
    reason: str
    version_before: int = 0  # the newest version; 0 for none
    version: int = 0  # the version that matches, after a push the new one; 0 if one has to be pushed
    url: str = ""


def read_notebook(kit: Kit, username: str) -> NewNotebook:
    """Return the kit's rendered notebook, with this owner.

    Raises ProjectError if the kit has none, UsageError if its metadata asks for a public notebook, for
    internet, or for another owner.
    """
    path, metadata = kit_facts.read_notebook(kit)
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

    def list_sources(kind: str) -> tuple[str, ...]:
        return tuple(map(str, metadata.get(f"{kind}_sources") or ()))

    datasets = (name if "/" in name else f"{username}/{name}" for name in list_sources("dataset"))
    return NewNotebook(
        ref=f"{owner or username}/{slug}",
        title=str(metadata.get("title") or slug),
        text=path.read_text(encoding="utf-8"),
        kernel_type=str(metadata.get("kernel_type") or "notebook"),
        sources=NotebookSources(
            datasets=tuple(datasets),
            competitions=list_sources("competition"),
            notebooks=list_sources("kernel"),
            models=list_sources("model"),
        ),
        gpu=bool(metadata.get("enable_gpu")),
        machine_shape=str(metadata.get("machine_shape") or ""),
        image=str(metadata.get("docker_image") or ""),
        image_pinning=str(metadata.get("docker_image_pinning_type") or ""),
    )


def pin_model(kit: Kit, source: str) -> None:
    """Make the kit's notebook attach exactly this version of a model.

    `source` is "owner/model/framework/variation/version". Raises ProjectError if the kit has no notebook.
    """

    def variation_key(source_ref: str) -> list[str]:
        # The owner in the metadata may be a placeholder, and the version changes.
        return source_ref.casefold().split("/")[1:-1]

    metadata: Mapping[str, Any] = kit_facts.read_notebook(kit)[1]
    others = [
        ref for ref in metadata.get("model_sources") or () if variation_key(ref) != variation_key(source)
    ]
    pinned = {**metadata, "model_sources": [*others, source]}
    if pinned != metadata:
        path = kit.folder / "notebook" / "kernel-metadata.json"
        files.write_atomic(path, json.dumps(pinned, indent=2) + "\n")


def push_notebook(notebook: NewNotebook, context: PushContext) -> NotebookPlan:
    """Push a notebook, which starts its run, and return its version as Kaggle shows it.

    Nothing is pushed if the newest version is the same and its run is complete, queued or running.
    Raises UsageError for a title that leads to another slug; OutsideError if Kaggle refuses the notebook or
    a source, has no free session in time, or shows something else. The same call later continues.
    """
    with hold_lock(context.state_folder / "notebook.lock"):
        plan = plan_notebook(notebook, context)
        if plan.action == "nothing":
            context.report.note(f"'{notebook.ref}': nothing to push, {plan.reason}")
            return plan
        context.report.step(f"Pushing the notebook '{notebook.ref}': {plan.reason}")
        effect, journal = _build_effect(notebook, plan.version_before), context.journal
        saved = _save_when_free(effect, notebook, context)
        problem = _find_save_problem(saved, notebook)
        differences = () if problem else _read_back(notebook, saved, context)
        if firm := [difference for difference in differences if not difference.is_rewritten_text]:
            problem = OutsideError(
                f"version {saved.version} of '{saved.ref}' differs from what was pushed: {firm[0].summary}",
                code="notebook-changed-by-kaggle",
                hint=firm[0].remedy,
                details=[difference.summary for difference in firm[1:]],
            )
        if problem:
            journal.append_entry(effect, Phase.VOID)
            raise problem
        if differences:
            context.report.warn(f"Kaggle shows version {saved.version} with changed cells; check {saved.url}")
        journal.append_entry(effect, Phase.DONE)
        internet = "has internet access, as configured," if notebook.internet else "has no internet,"
        context.report.note(
            f"'{notebook.ref}' version {saved.version} is private, {internet} and all of its sources"
        )
        return replace(plan, version=saved.version, url=saved.url)


def plan_notebook(notebook: NewNotebook, context: PushContext) -> NotebookPlan:
    """Return what a push would do, after recovering what an earlier run left open."""
    context.report.step(f"Looking at the notebook '{notebook.ref}' on {context.server_name}")
    entry = context.journal.find_open_entry(notebook.ref)
    is_same = entry is not None and entry.effect.content == hash_content(notebook)
    recovered = context.recover_interrupted(
        notebook.ref, lambda effect: _find_pushed_version(effect, notebook if is_same else None, context)
    )
    newest = context.kaggle.get_notebook(notebook.ref)
    if newest is None:
        slug = make_slug(notebook.title)
        if slug != notebook.ref.partition("/")[2]:
            raise UsageError(
                f"Kaggle would derive the slug '{slug}' of the title '{notebook.title}',"
                f" not '{notebook.ref.partition('/')[2]}'",
                code="notebook-title-invalid",
                hint="set `title` in [tool.offline-kit.notebook] and remove `slug`, which follows from it",
            )
        return NotebookPlan(notebook=notebook, action="new", reason="the notebook does not exist yet")
    remote, number = newest, (recovered if is_same else None) or newest.newest_version
    if number != newest.newest_version:
        remote = context.kaggle.get_notebook(notebook.ref, number) or newest
    reason = _find_push_reason(notebook, remote, number, context)
    return NotebookPlan(
        notebook=notebook,
        action="version" if reason else "nothing",
        reason=reason or f"version {number} is this notebook",
        version_before=newest.newest_version,
        version=0 if reason else number,
        url=newest.url,
    )


def void_version(notebook: NewNotebook, version: int, context: PushContext) -> None:
    """Mark a version as void, so that the next push creates another one with the same content."""
    context.journal.append_entry(_build_effect(notebook, version - 1), Phase.VOID)


def _build_effect(notebook: NewNotebook, before: int) -> Effect:
    return Effect(action=_ACTION, target=notebook.ref, before=before, content=hash_content(notebook))


def _find_push_reason(
    notebook: NewNotebook, remote: RemoteNotebook, number: int, context: PushContext
) -> str:
    """Return why a version has to be replaced, "" if it matches."""
    entries = [entry for entry in context.journal.read_entries() if entry.effect.target == notebook.ref]
    last = entries[-1] if entries and entries[-1].effect.content == hash_content(notebook) else None
    # The newest version is our last push, even if Kaggle has rewritten its cells.
    is_ours = last and last.phase is Phase.DONE and number == last.effect.before + 1
    different = [
        difference
        for difference in find_all_differences(notebook, remote)
        if not (is_ours and difference.is_rewritten_text)
    ]
    if different:
        others_note = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
        return f"in version {number}, {different[0].summary}{others_note}"
    if last and last.phase is Phase.VOID and number > last.effect.before:
        return f"version {number} does not count: it ran without its inputs"
    run = context.kaggle.get_notebook_run(notebook.ref, number)
    if run:
        return f"the run of version {number} ended with '{run.state}'" if run.has_failed else ""
    # The run of a version that was pushed a moment ago is not visible yet.
    timeout = context.poll.visibility_timeout
    is_fresh = last and number > last.effect.before and time.time() - last.at < timeout
    return "" if is_fresh else f"version {number} was saved without a run"


def _save_when_free(effect: Effect, notebook: NewNotebook, context: PushContext) -> SavedNotebook:
    """Save once; if all sessions of the account are in use, wait for a free one."""

    def find_saved() -> SavedNotebook | None:
        version = _find_pushed_version(effect, notebook, context)
        if not version:
            return None
        remote = context.kaggle.get_notebook(notebook.ref, version)
        return SavedNotebook(ref=notebook.ref, version=version, url=remote.url if remote else "")

    def may_pass(error: Exception) -> bool:
        # "Maximum batch GPU session count of 2 reached" and the like.
        is_full = isinstance(error, RefusedError) and re.search(
            r"maximum .*session count", error.what, re.IGNORECASE
        )
        if is_full:
            line.update_status(str(error))
        return bool(is_full)

    send = partial(context.kaggle.save_notebook, notebook)
    description = f"the new version of '{notebook.ref}'"
    with StatusLine(context.report, "waiting for a free session") as line:
        try:
            return retry_call(
                lambda: context.run_once(effect, send, find_saved, description),
                context.poll.until_processed,
                may_pass=may_pass,
                give_up=lambda trouble: OutsideError(
                    "Kaggle has no free session for this notebook",
                    code="kaggle-session-limit",
                    hint="stop a running notebook (kaggle.com, 'View Active Events'), or run the same command again later",
                    details=(str(trouble),),
                ),
            )
        except RefusedError as refusal:
            raise _build_refusal(refusal, notebook) from refusal


def _find_pushed_version(effect: Effect, notebook: NewNotebook | None, context: PushContext) -> int | None:
    """Return the version that an effect created, None if none is visible in time; without `notebook`, any newer one."""

    def is_ours(number: int, remote: RemoteNotebook | None) -> bool:
        if notebook is None or remote is None:
            return notebook is None
        # Kaggle may rewrite cells, so the text of the very next version is not compared.
        is_next = number == effect.before + 1
        mismatches = find_mismatches(notebook, remote)
        return all(is_next and mismatch.is_rewritten_text for mismatch in mismatches)

    def find_newer() -> int | None:
        newest = context.kaggle.get_notebook(effect.target)
        current = newest.newest_version if newest else 0
        for number in range(current, max(effect.before, current - _LOOK_BACK), -1):
            remote = newest if number == current else context.kaggle.get_notebook(effect.target, number)
            if is_ours(number, remote):
                return number
        return None

    return wait_until_shown(find_newer, context.poll.until_visible)


def _read_back(
    notebook: NewNotebook, saved: SavedNotebook, context: PushContext
) -> tuple[NotebookDifference, ...]:
    """Return how a version on Kaggle differs from what was pushed, after the visibility timeout."""
    # Raises OutsideError if it is not visible at all: Kaggle hides new notebooks for a while.
    last: tuple[NotebookDifference, ...] | None = None

    def is_settled() -> bool | None:
        nonlocal last
        remote = context.kaggle.get_notebook(notebook.ref, saved.version)
        if remote is None:
            return None
        last = find_mismatches(notebook, remote)
        return True if not last or any(difference.is_exposed for difference in last) else None

    wait_until_shown(is_settled, context.poll.until_visible)
    if last is None:
        raise OutsideError(
            f"version {saved.version} of '{notebook.ref}' cannot be read back yet",
            code="notebook-not-visible",
            hint="run the same command again: it continues, and nothing is pushed twice",
        )
    return last


def _find_save_problem(saved: SavedNotebook, notebook: NewNotebook) -> OutsideError | None:
    """Return the error for sources that were not attached, or a title that led to another slug."""
    if saved.rejected_sources:
        site = saved.url.partition("/code/")[0]
        remedies = [suggest_source_fix(kind, ref, site) for kind, ref in saved.rejected_sources]
        return OutsideError(
            f"Kaggle did not attach {len(remedies)} of the sources of '{notebook.ref}':"
            f" version {saved.version} runs without them and does not count",
            code="notebook-source-rejected",
            hint=f"{remedies[0]}; then run the same command again: it pushes a new version",
            details=[
                f"{kind} '{ref}': {remedy}"
                for (kind, ref), remedy in zip(saved.rejected_sources, remedies, strict=True)
            ],
        )
    if saved.ref.casefold() != notebook.ref.casefold():
        return OutsideError(
            f"Kaggle saved the notebook as '{saved.ref}', not as '{notebook.ref}':"
            f" the title '{notebook.title}' determines the slug",
            code="notebook-moved",
            hint="set a `title` in [tool.offline-kit.notebook] that gives this slug, and delete the other notebook",
            details=(saved.url,) if saved.url else (),
        )
    return None


def _build_refusal(refusal: RefusedError, notebook: NewNotebook) -> OutsideError:
    """Return the error for a refused push, with a fix."""
    message = refusal.what.lower()
    if refusal.status == 409:
        return OutsideError(
            f"Kaggle rejected '{notebook.ref}': a dataset or another notebook has this title or slug",
            code="notebook-title-taken",
            hint="set another `title` in [tool.offline-kit.notebook]",
            details=(refusal.what,),
        )
    if "quota" in message:
        return OutsideError(
            f"'{notebook.ref}' was not pushed: the quota is used up",
            code="kaggle-quota-exhausted",
            hint="wait for the weekly quota renewal ('kaggle quota' shows when), or remove `accelerator`",
            details=(refusal.what,),
        )
    if "not found" in message:
        return OutsideError(
            f"Kaggle cannot find '{notebook.ref}' to update it",
            code="notebook-not-found",
            hint="if it is an unsaved draft on kaggle.com, save it there once; or set another `title`",
            details=(refusal.what,),
        )
    return refusal
