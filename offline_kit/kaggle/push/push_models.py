"""Push a part of the kit as a private Kaggle Model, whose version the notebook pins.

Unlike a dataset, a model is attached at a fixed version, and Kaggle unpacks nothing in it. The version is
known only after the push, so the notebook's sources are updated afterwards.
"""

from dataclasses import dataclass

from offline_kit.core.errors import OutsideError, ProjectError, UsageError
from offline_kit.core.files import hold_lock
from offline_kit.core.retry import TransientError
from offline_kit.kaggle.client.api_types import Account, NewVersion, RemoteModel
from offline_kit.kaggle.push import kit_parts
from offline_kit.kaggle.push.journal import Effect, Phase, PushContext
from offline_kit.kaggle.push.kit_parts import RemotePartState
from offline_kit.kaggle.push.poll_policy import StatusLine, wait_until_shown
from offline_kit.kaggle.push.push_datasets import (
    DEFAULT_OPTIONS,
    PushAction,
    PushedPart,
    PushOptions,
    build_exposed_error,
)
from offline_kit.kaggle.push.send_files import PushTarget
from offline_kit.project.kaggle_names import check_slug, split_model_name
from offline_kit.project.types import Kit, KitPart

_RETRY_HINT = "run the same command again: it continues, and nothing is sent twice"


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """What a push does to a part that is a model."""

    action: PushAction
    reason: str
    version_before: int  # the newest version; 0 for none
    model: RemoteModel | None


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


class _ModelTarget(PushTarget):
    kind = "MODEL"

    def __init__(self, ref: str, context: PushContext) -> None:
        super().__init__(ref, context)
        self.name = "/".join(ref.split("/")[:2])

    def find_newer(self, effect: Effect) -> bool:
        return self.kaggle.get_model_version(self.ref) > effect.before

    def read_new_version(self, effect: Effect, line: StatusLine) -> RemotePartState:
        version = self.kaggle.get_model_version(self.ref)
        if version <= effect.before:
            line.update_status("the new version is not visible yet")
            raise TransientError("the new version is not visible yet")
        line.update_status(f"version {version}")
        files = self.kaggle.list_model_files(self.ref, version)
        part = kit_parts.read_model_part(self.kaggle, self.ref, version, files)
        remote = RemotePartState(kind="model", ref=self.ref, version=version, part=part, files=files)
        return self.check_content(remote, effect)

    def build_not_ready_error(self, trouble: Exception) -> OutsideError:
        return OutsideError(
            f"the model '{self.ref}' was not ready in time: {trouble}",
            code="model-not-ready",
            hint=_RETRY_HINT,
        )

    def create_model(self) -> None:
        """Create the model once; if the answer is lost, check whether it exists."""
        name, context = self.name, self.context
        effect = Effect(action="model", target=f"model:{name}", before=0, content="")

        def wait_for_model() -> str | None:
            return wait_until_shown(
                lambda: "" if self.kaggle.get_model(name) else None, context.poll.until_visible
            )

        def send_request() -> str:
            return self.kaggle.create_model(
                name, name.partition("/")[2], "Checkpoints of a kit of offline-kit."
            )

        context.run_once(effect, send_request, wait_for_model, f"the model '{name}'")
        if wait_for_model() is None:
            raise OutsideError(
                f"the model '{name}' is not visible yet", code="model-not-visible", hint=_RETRY_HINT
            )
        context.journal.append_entry(effect, Phase.DONE)


def plan_model(
    part: KitPart, ref: str, context: PushContext, options: PushOptions = DEFAULT_OPTIONS
) -> ModelPlan:
    """Return what a push to "owner/model/framework/variation" would do, after recovering what an earlier run left open.

    Raises ProjectError for a public model, unless `options` allow it.
    """
    target = _ModelTarget(ref, context)
    context.report.step(f"Looking at the model '{target.name}' on {context.server_name}")
    target.recover_interrupted(context.poll.processing_timeout)
    model = context.kaggle.get_model(target.name)
    if model and not model.private and not options.public:
        raise ProjectError(
            f"the model '{target.name}' is public: everyone would see the checkpoints",
            code="model-public",
            hint=f"make it private in the settings of {model.url or 'its page'}, choose another `publish_model`,"
            " or allow it with --public",
        )
    before = context.kaggle.get_model_version(ref) if model else 0
    action, reason = PushAction.CREATE, "the model does not exist yet"
    if before:
        files = context.kaggle.list_model_files(ref, before)
        action, reason = PushAction.VERSION, f"version {before} holds something else"
        if options.is_kept(part, kit_parts.read_model_part(context.kaggle, ref, before, files)):
            action, reason = PushAction.NOTHING, f"version {before} holds exactly this part"
            if wrong := kit_parts.find_damage(part, files):
                raise kit_parts.build_incomplete_error(ref, before, wrong)
    return ModelPlan(action=action, reason=reason, version_before=before, model=model)


def push_model(
    kit: Kit, part: KitPart, ref: str, context: PushContext, options: PushOptions = DEFAULT_OPTIONS
) -> PushedPart:
    """Push a part to its model and return the version that holds it; raises as `plan_model` and `push_kit`."""
    with hold_lock(context.settings.state_folder / "model.lock"):
        plan = plan_model(part, ref, context, options)
        version, model = plan.version_before, plan.model
        if plan.action is PushAction.NOTHING:
            context.report.note(f"'{ref}': nothing to upload, {plan.reason}")
        else:
            target = _ModelTarget(ref, context)
            tokens = target.upload_part(part, kit.part_folder(part), plan.reason)
            if model is None:
                target.create_model()
            notes = f"offline-kit; {part.name} {part.id}"
            new = NewVersion(ref=ref, version_notes=notes, blob_tokens=tokens)
            action = "model-version" if version else "variation"
            effect = Effect(action=action, target=target.journal_target, before=version, content=part.id)
            send = context.kaggle.add_model_version if version else context.kaggle.create_variation
            target.create_version(effect, lambda: send(new))
            version = target.wait_until_ready(effect).version
            context.journal.append_entry(effect, Phase.DONE)
            model = context.kaggle.get_model(target.name)
            if model and not model.private and not options.public:
                raise build_exposed_error(f"the model '{target.name}'", model.url)
            context.report.note(f"'{ref}' version {version} is ready, private, and holds this kit")
    url = model.url if model else ""
    return PushedPart(part=part.name, ref=ref, version=version, action=plan.action, url=url)
