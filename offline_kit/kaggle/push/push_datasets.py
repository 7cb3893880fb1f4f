"""The kit's parts to Kaggle: what changed is uploaded, made a version once, and waited for until it is there.

Before each effect the journal says what is about to happen and which version was current. An answer that is
lost, or a run that is killed, is settled by looking, at once or by the next run; nothing is sent twice.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from offline_kit.core.files import format_size, hold_lock
from offline_kit.core.report import SILENT, Reporter
from offline_kit.kaggle.client.api_types import KaggleApi, NewDatasetVersion
from offline_kit.kaggle.push import dataset_remote, send_files
from offline_kit.kaggle.push.dataset_plan import (
    DEFAULT_OPTIONS,
    PartPlan,
    PushAction,
    PushOptions,
    PushPlan,
    build_exposed_error,
    plan_push,
    resolve_datasets,
)
from offline_kit.kaggle.push.journal import Effect, Phase
from offline_kit.kaggle.push.push_settings import PushSettings
from offline_kit.kaggle.push.run_once import recover_interrupted, run_once
from offline_kit.project.types import Kit


@dataclass(frozen=True, kw_only=True)
class PushedPart:
    """Where a part is now."""

    part: str
    """The part's name."""
    ref: str
    """Its dataset."""
    version: int
    """The version that holds it."""
    action: PushAction
    """What was done for it."""
    url: str
    """The dataset's page."""


def push_kit(
    kit: Kit,
    datasets: Mapping[str, str],
    kaggle: KaggleApi,
    settings: PushSettings,
    options: PushOptions = DEFAULT_OPTIONS,
    report: Reporter = SILENT,
    approve: Callable[[PushPlan], None] = lambda _plan: None,
) -> tuple[PushedPart, ...]:
    """Bring a kit's parts to their datasets (by part name) and return where each is.

    Returns when every part is current, READY, private and shows its own marker. `approve` sees the plan and
    may raise before anything is sent. Raises as `plan`, and OutsideError where Kaggle refuses or does not get ready; the same call later goes on.
    """
    with hold_lock(settings.state_folder / "push.lock"):
        plan = plan_datasets(kit, datasets, kaggle, settings, options, report)
        approve(plan)
        return apply_plan(plan, kaggle, settings, options, report)


def plan_datasets(
    kit: Kit,
    datasets: Mapping[str, str],
    kaggle: KaggleApi,
    settings: PushSettings,
    options: PushOptions = DEFAULT_OPTIONS,
    report: Reporter = SILENT,
) -> PushPlan:
    """Look at Kaggle and return what a push would do; settles first what an earlier run left open.

    Raises UsageError, ProjectError and OutsideError as `targets`, `plan_push` and `look` do.
    """
    account = kaggle.fetch_account()
    if account.ignored_token_source:
        report.warn(
            f"the token from {account.ignored_token_source} is not valid any more; the key of '{account.username}' is used"
        )
    report.step(f"Looking at {account.server_name} as '{account.username}'")
    refs = resolve_datasets(datasets, account)
    recovered = {ref for ref in refs.values() if _recover_interrupted(ref, kaggle, settings, report)}
    remotes = {
        part: dataset_remote.inspect_dataset(
            kaggle, ref, settings.poll_policy, report, expected=ref in recovered
        )
        for part, ref in refs.items()
    }
    return plan_push(kit, remotes, options)


def apply_plan(
    plan: PushPlan, kaggle: KaggleApi, settings: PushSettings, options: PushOptions, report: Reporter = SILENT
) -> tuple[PushedPart, ...]:
    """Do what a plan says; all parts are sent before any is waited for, so that Kaggle works on them together."""
    effects = {
        part.part.name: _upload_part(part, kaggle, settings, report)
        for part in plan.parts
        if part.action is not PushAction.NOTHING
    }
    return tuple(
        _wait_until_ready(part, effects[part.part.name], kaggle, settings, options, report)
        if part.part.name in effects
        else _report_unchanged(part, report)
        for part in plan.parts
    )


def _report_unchanged(part: PartPlan, report: Reporter) -> PushedPart:
    report.note(f"'{part.ref}': nothing to upload, {part.reason}")
    return PushedPart(
        part=part.part.name, ref=part.ref, version=part.version_before, action=part.action, url=part.url
    )


def _upload_part(part: PartPlan, kaggle: KaggleApi, settings: PushSettings, report: Reporter) -> Effect:
    """Upload a part and make a version of it; return the effect, which may not show yet."""
    for warning in part.warnings:
        report.warn(f"'{part.ref}': {warning}")
    uploads = send_files.list_uploads(part.part, part.folder)
    uploader = settings.create_uploader(kaggle, part.ref)
    report.step(
        f"Uploading {len(uploads)} files, {format_size(part.upload_size)}, to '{part.ref}': {part.reason}"
    )
    tokens = send_files.upload_all(uploads, uploader, f"Uploading {part.part.name}", report)
    new = NewDatasetVersion(ref=part.ref, title=part.title, version_notes=part.notes, blob_tokens=tokens)
    effect = Effect(
        action=part.action.value, target=part.ref, before=part.version_before, content=part.part.id
    )
    send = kaggle.create_dataset if part.action is PushAction.CREATE else kaggle.add_dataset_version
    with send_files.consume_uploads(uploader):
        run_once(
            settings.effect_journal,
            effect,
            lambda: send(new),
            lambda: "" if dataset_remote.wait_until_visible(kaggle, effect, settings.poll_policy) else None,
            f"the new version of '{part.ref}'",
            report,
        )
    return effect


def _recover_interrupted(ref: str, kaggle: KaggleApi, settings: PushSettings, report: Reporter) -> bool:
    """Wait for what an earlier run sent without seeing it arrive; return whether it has appeared."""

    def wait_for_effect(effect: Effect) -> bool | None:
        if not dataset_remote.wait_until_visible(kaggle, effect, settings.poll_policy):
            return None
        # Its uploads are in the version that appeared.
        settings.create_uploader(kaggle, ref).forget_uploads()
        return True

    # A version that failed may never show.
    failed = (
        settings.effect_journal.find_open_entry(ref) is not None
        and kaggle.get_dataset_status(ref) in dataset_remote.FAILED_STATES
    )
    patience = 0.0 if failed else settings.poll_policy.processing_timeout
    return (
        recover_interrupted(settings.effect_journal, ref, wait_for_effect, report, processing=patience)
        is not None
    )


def _wait_until_ready(
    part: PartPlan,
    effect: Effect,
    kaggle: KaggleApi,
    settings: PushSettings,
    options: PushOptions,
    report: Reporter,
) -> PushedPart:
    """Wait until a part is there, and check that nobody else sees it."""
    remote = dataset_remote.wait_until_ready(kaggle, effect, settings.poll_policy, report)
    settings.effect_journal.append_entry(effect, Phase.DONE)
    if not remote.private and not options.public:
        raise build_exposed_error(f"'{part.ref}'", remote.url)
    report.note(f"'{part.ref}' version {remote.version} is ready and shows this kit")
    return PushedPart(
        part=part.part.name, ref=part.ref, version=remote.version, action=part.action, url=remote.url
    )
