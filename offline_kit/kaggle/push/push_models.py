"""Push a part of the kit as a private Kaggle Model, whose version the notebook pins.

Unlike a dataset, a model is attached at a fixed version, and Kaggle unpacks nothing in it. The version is
known only after the push, so the notebook's sources are updated afterwards.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from offline_kit.core.errors import OutsideError, ProjectError, UsageError
from offline_kit.core.files import format_size, hold_lock
from offline_kit.core.report import SILENT, Reporter
from offline_kit.core.retry import TransientError
from offline_kit.kaggle.client.api_types import Account, NewModelVersion, RemoteModel
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.push import kit_parts, send_files
from offline_kit.kaggle.push.dataset_plan import (
    DEFAULT_OPTIONS,
    PushAction,
    PushOptions,
    RemotePartState,
    build_exposed_error,
    build_incomplete_error,
    find_damage,
    find_differences,
)
from offline_kit.kaggle.push.journal import Effect, Phase, PushSettings, recover_interrupted, run_once
from offline_kit.kaggle.push.poll_policy import ignore_transient, poll_until, wait_until_shown
from offline_kit.project.kaggle_names import check_slug, split_model_name
from offline_kit.project.types import Kit, KitPart

MODEL, VARIATION, VERSION = "model", "variation", "model-version"
"""Actions in the journal."""
_RETRY_HINT = "run the same command again: it continues, and nothing is sent twice"


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """What a push does to a part that is a model."""

    part: KitPart
    folder: Path
    ref: str
    """"owner/model/framework/variation"."""
    action: PushAction
    reason: str
    version_before: int
    """The newest version; 0 for none."""
    model: RemoteModel | None

    @property
    def pinned_source(self) -> str:
        """The version that holds the part, as a notebook attaches it; "" if it has to be pushed."""
        return f"{self.ref}/{self.version_before}" if self.action is PushAction.NOTHING else ""


@dataclass(frozen=True, kw_only=True)
class PushedModel:
    """Where a pushed part is."""

    part: str
    source: str
    """"owner/model/framework/variation/version", as a notebook attaches it."""
    action: PushAction
    url: str


def resolve_model(configured: str, account: Account) -> str:
    """Return "owner/model/framework/variation" of a `publish_model` value.

    Raises UsageError if the account is not the owner, or the slug is invalid.
    """
    owner, slug, variation = split_model_name(configured)
    problems = list(check_slug(slug))
    if owner and owner.lower() != account.username.lower():
        problems.append(f"it belongs to '{owner}', and these credentials to '{account.username}'")
    if problems:
        raise UsageError(
            f"the model '{configured}' cannot be published",
            code="model-name-invalid",
            hint="change `publish_model` in [tool.offline-kit]",
            details=problems,
        )
    return f"{owner or account.username}/{slug}/{variation}"


def plan_model(
    kit: Kit,
    part: KitPart,
    ref: str,
    kaggle: KaggleClient,
    settings: PushSettings,
    options: PushOptions = DEFAULT_OPTIONS,
    report: Reporter = SILENT,
) -> ModelPlan:
    """Return what a push would do, after recovering what an earlier run left open.

    Raises ProjectError for a public model, unless `options` allow it.
    """
    report.step(f"Looking at the model '{_model_ref(ref)}' on {kaggle.fetch_account().server_name}")
    _recover_interrupted(ref, kaggle, settings, report)
    model = kaggle.get_model(_model_ref(ref))
    if model and not model.private and not options.public:
        raise _build_public_error(model)
    before = kaggle.get_model_version(ref) if model else 0
    held_part = kit_parts.read_model_part(kaggle, ref, before) if before else None
    is_same = held_part is not None and held_part.id == part.id and not options.should_resend(part)
    remote = (
        RemotePartState(ref=ref, files=kaggle.list_model_files(ref, before))
        if is_same
        else RemotePartState(ref=ref)
    )
    if is_same and (wrong := find_damage(part, remote)):
        raise build_incomplete_error(ref, before, wrong)
    reason = (
        f"version {before} holds exactly this part" if is_same else f"version {before} holds something else"
    )
    return ModelPlan(
        part=part,
        folder=kit.part_folder(part),
        ref=ref,
        action=PushAction.NOTHING if is_same else PushAction.VERSION if before else PushAction.CREATE,
        reason=reason if before else "the model does not exist yet",
        version_before=before,
        model=model,
    )


def push_model(
    kit: Kit,
    part: KitPart,
    ref: str,
    kaggle: KaggleClient,
    settings: PushSettings,
    options: PushOptions = DEFAULT_OPTIONS,
    report: Reporter = SILENT,
) -> PushedModel:
    """Push a part to its model and return the version that holds it; raises as `plan_model` and `push_kit`."""
    with hold_lock(settings.state_folder / "model.lock"):
        plan = plan_model(kit, part, ref, kaggle, settings, options, report)
        if plan.action is PushAction.NOTHING:
            report.note(f"'{ref}': nothing to upload, {plan.reason}")
            url = plan.model.url if plan.model else ""
            return PushedModel(part=part.name, source=plan.pinned_source, action=plan.action, url=url)
        return _upload_model(plan, kaggle, settings, options, report)


def _upload_model(
    plan: ModelPlan, kaggle: KaggleClient, settings: PushSettings, options: PushOptions, report: Reporter
) -> PushedModel:
    ref, part = plan.ref, plan.part
    uploads = send_files.list_uploads(part, plan.folder)
    uploader = settings.create_uploader(kaggle, ref, kind="MODEL")
    size = format_size(sum(file.size for file in uploads))
    report.step(f"Uploading {len(uploads)} files, {size}, to the model '{ref}': {plan.reason}")
    tokens = send_files.upload_all(uploads, uploader, f"Uploading {part.name}", report)
    if plan.model is None:
        _create_model(ref, kaggle, settings, report)
    new = NewModelVersion(ref=ref, version_notes=f"offline-kit; {part.name} {part.id}", blob_tokens=tokens)
    action = VERSION if plan.version_before else VARIATION
    effect = Effect(action=action, target=_journal_target(ref), before=plan.version_before, content=part.id)
    send = kaggle.add_model_version if plan.version_before else kaggle.create_variation
    with send_files.consume_uploads(uploader):
        run_once(
            settings.effect_journal,
            effect,
            lambda: send(new),
            lambda: "" if _has_appeared(effect, ref, kaggle, settings) else None,
            f"the new version of '{ref}'",
            report,
        )
    version = _wait_until_ready(plan, kaggle, settings, report)
    settings.effect_journal.append_entry(effect, Phase.DONE)
    model = kaggle.get_model(_model_ref(ref))
    if model and not model.private and not options.public:
        raise build_exposed_error(f"the model '{_model_ref(ref)}'", model.url)
    report.note(f"'{ref}' version {version} is ready, private, and holds this kit")
    url = model.url if model else ""
    return PushedModel(part=part.name, source=f"{ref}/{version}", action=plan.action, url=url)


def _create_model(ref: str, kaggle: KaggleClient, settings: PushSettings, report: Reporter) -> None:
    """Create the model once; if the answer is lost, check whether it exists."""
    name = _model_ref(ref)
    effect = Effect(action=MODEL, target=f"model:{name}", before=0, content="")

    def wait_for_model() -> str | None:
        return "" if _becomes_true(lambda: kaggle.get_model(name) is not None, settings) else None

    def send_request() -> str:
        return kaggle.create_model(name, name.partition("/")[2], "Checkpoints of a kit of offline-kit.")

    run_once(settings.effect_journal, effect, send_request, wait_for_model, f"the model '{name}'", report)
    if wait_for_model() is None:
        raise OutsideError(
            f"the model '{name}' is not visible yet", code="model-not-visible", hint=_RETRY_HINT
        )
    settings.effect_journal.append_entry(effect, Phase.DONE)


def _recover_interrupted(ref: str, kaggle: KaggleClient, settings: PushSettings, report: Reporter) -> None:
    """Recover what an earlier run sent without seeing it arrive."""

    def wait_for_effect(effect: Effect) -> bool | None:
        if not _has_appeared(effect, ref, kaggle, settings):
            return None
        settings.create_uploader(kaggle, ref, kind="MODEL").forget_uploads()
        return True

    recover_interrupted(
        settings.effect_journal,
        _journal_target(ref),
        wait_for_effect,
        report,
        processing=settings.poll_policy.processing_timeout,
    )


def _has_appeared(effect: Effect, ref: str, kaggle: KaggleClient, settings: PushSettings) -> bool:
    return _becomes_true(lambda: kaggle.get_model_version(ref) > effect.before, settings)


def _becomes_true(true: Callable[[], bool], settings: PushSettings) -> bool:
    """Tell whether a check becomes true within the visibility timeout."""
    return (
        wait_until_shown(
            lambda: true() or None, settings.poll_policy.retry_policy(settings.poll_policy.visibility_timeout)
        )
        is not None
    )


def _wait_until_ready(plan: ModelPlan, kaggle: KaggleClient, settings: PushSettings, report: Reporter) -> int:
    """Wait until a newer version has the part's marker and all of its files; return its number."""
    incomplete_since: list[float] = []

    def read_version() -> int:
        version = kaggle.get_model_version(plan.ref)
        if version <= plan.version_before:
            raise TransientError("the new version is not visible yet")
        show_status(f"version {version}")
        part = kit_parts.read_model_part(kaggle, plan.ref, version)
        if part is None or part.id != plan.part.id:
            raise TransientError("its files are not visible yet")
        remote = RemotePartState(ref=plan.ref, files=kaggle.list_model_files(plan.ref, version))
        if wrong := find_differences(part, remote):
            incomplete_since.append(time.monotonic())
            if incomplete_since[-1] - incomplete_since[0] > settings.poll_policy.visibility_timeout:
                raise build_incomplete_error(plan.ref, version, wrong)
            raise TransientError(wrong[0])
        return version

    with report.waiting(f"{kaggle.fetch_account().server_name} processes '{plan.ref}'") as show_status:
        return poll_until(
            ignore_transient(read_version, show_status),
            settings.poll_policy.retry_policy(settings.poll_policy.processing_timeout),
            lambda e: OutsideError(
                f"the model '{plan.ref}' was not ready in time: {e}", code="model-not-ready", hint=_RETRY_HINT
            ),
        )


def _model_ref(ref: str) -> str:
    return "/".join(ref.split("/")[:2])


def _journal_target(ref: str) -> str:
    return f"model:{ref}"


def _build_public_error(model: RemoteModel) -> ProjectError:
    return ProjectError(
        f"the model '{model.ref}' is public: everyone would see the checkpoints",
        code="model-public",
        hint=f"make it private in the settings of {model.url or 'its page'}, choose another `publish_model`,"
        " or allow it with --public",
    )
