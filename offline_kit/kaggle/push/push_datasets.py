"""Upload the changed parts of a kit as dataset versions and wait until they are ready.

Before each call with an effect, the journal stores what will happen and which version was current. If
the answer is lost or the process is killed, this or the next run looks for the effect; nothing is sent twice.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from offline_kit.core.errors import OutsideError
from offline_kit.core.files import hold_lock
from offline_kit.core.retry import TransientError
from offline_kit.kaggle.client.api_types import NewVersion, RemoteDataset
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
from offline_kit.kaggle.push.journal import Effect, Phase, PushContext
from offline_kit.kaggle.push.kit_parts import (
    FAILED_STATES,
    FINAL_STATES,
    RemotePartState,
    build_not_ready_error,
    inspect_dataset,
    read_dataset,
)
from offline_kit.kaggle.push.poll_policy import GracePeriod, StatusLine
from offline_kit.kaggle.push.send_files import PushTarget
from offline_kit.project.types import Kit


@dataclass(frozen=True, kw_only=True)
class PushedPart:
    """Where a pushed part is."""

    part: str
    ref: str
    version: int
    action: PushAction
    url: str

    @property
    def source(self) -> str:
        """A model's version as a notebook attaches it."""
        return f"{self.ref}/{self.version}"


def push_kit(
    kit: Kit,
    datasets: Mapping[str, str],
    context: PushContext,
    options: PushOptions = DEFAULT_OPTIONS,
    approve: Callable[[PushPlan], None] = lambda _plan: None,
) -> tuple[PushedPart, ...]:
    """Push a kit's parts to their datasets (by part name) and return where each one is.

    Returns when every part is the current version, ready, private and has its marker. `approve` gets the plan and
    may raise before anything is sent. Raises as `plan_datasets`, and OutsideError if Kaggle refuses or is not ready
    in time; the same call later continues.
    """
    with hold_lock(context.settings.state_folder / "push.lock"):
        plan = plan_datasets(kit, datasets, context, options)
        approve(plan)
        # All parts are sent before waiting, so that Kaggle processes them in parallel.
        effects: dict[str, Effect] = {}
        for part in plan.parts:
            if part.action is not PushAction.NOTHING:
                target = _DatasetTarget(part.ref, context)
                effects[part.ref] = _upload_part(part, target)
        pushed = []
        for part in plan.parts:
            version, url = part.version_before, part.url
            if part.ref not in effects:
                context.report.note(f"'{part.ref}': nothing to upload, {part.reason}")
            else:
                effect = effects[part.ref]
                remote = _DatasetTarget(part.ref, context).wait_until_ready(effect)
                context.journal.append_entry(effect, Phase.DONE)
                version, url = remote.version, remote.url
                if not remote.private and not options.public:
                    raise build_exposed_error(f"'{part.ref}'", url)
                context.report.note(f"'{part.ref}' version {version} is ready and holds this kit")
            pushed.append(
                PushedPart(part=part.part.name, ref=part.ref, version=version, action=part.action, url=url)
            )
        return tuple(pushed)


def _upload_part(part: PartPlan, target: PushTarget) -> Effect:
    """Upload a part and create a version; return the effect, which may not be visible yet."""
    for warning in part.warnings:
        target.context.report.warn(f"'{part.ref}': {warning}")
    tokens = target.upload_part(part.part, part.folder, part.reason)
    new = NewVersion(ref=part.ref, title=part.title, version_notes=part.notes, blob_tokens=tokens)
    effect = Effect(
        action=part.action.value, target=part.ref, before=part.version_before, content=part.part.id
    )
    is_new = part.action is PushAction.CREATE
    send = target.kaggle.create_dataset if is_new else target.kaggle.add_dataset_version
    target.create_version(effect, lambda: send(new))
    return effect


def plan_datasets(
    kit: Kit, datasets: Mapping[str, str], context: PushContext, options: PushOptions = DEFAULT_OPTIONS
) -> PushPlan:
    """Return what a push would do, after recovering what an earlier run left open.

    Raises as `resolve_datasets`, `plan_push` and `inspect_dataset`.
    """
    account = context.kaggle.fetch_account()
    if account.ignored_token_source:
        context.report.warn(
            f"the token from {account.ignored_token_source} has expired; the key of '{account.username}' is used"
        )
    context.report.step(f"Looking at {account.server_name} as '{account.username}'")
    refs = resolve_datasets(datasets, account)
    recovered = set()
    for ref in refs.values():
        if context.journal.find_open_entry(ref):
            # A failed version may never become visible.
            has_failed = context.kaggle.get_dataset_status(ref) in FAILED_STATES
            timeout = 0.0 if has_failed else context.poll.processing_timeout
            if _DatasetTarget(ref, context).recover_interrupted(timeout):
                recovered.add(ref)
    remotes = {part: inspect_dataset(ref, context, expected=ref in recovered) for part, ref in refs.items()}
    return plan_push(kit, remotes, options)


class _DatasetTarget(PushTarget):
    def __init__(self, ref: str, context: PushContext) -> None:
        super().__init__(ref, context)
        self._failed = GracePeriod(context.poll.visibility_timeout)

    def find_newer(self, effect: Effect) -> bool:
        dataset = self.kaggle.get_dataset(self.ref)
        if dataset is None:
            return False
        if dataset.version > effect.before or effect.action == PushAction.CREATE.value:
            return True
        # A failed version may never get a number.
        return not effect.before and self.kaggle.get_dataset_status(self.ref) not in FINAL_STATES

    def read_new_version(self, effect: Effect, line: StatusLine) -> RemotePartState:
        """Return the new version if it is current and ready and its marker has the pushed content.

        State and listing may still be those of the old version: number, state, marker and sizes must
        all match. Raises OutsideError if processing failed.
        """
        is_first = effect.action == PushAction.CREATE.value
        dataset = self.kaggle.get_dataset(self.ref)
        state = self.kaggle.get_dataset_status(self.ref) if dataset else ""
        if dataset is None or dataset.version <= effect.before:
            # A failed version may never get a number, a first one has none while it is processed;
            # the state may still be that of the previous version.
            if dataset and state in FAILED_STATES and (is_first or self._failed.is_over()):
                raise _build_processing_error(self.ref, effect.before + 1, "failed", dataset.url)
            is_known = is_first and state
            words = f"it is in the state '{state}'" if is_known else "the new version is not visible yet"
            line.update_status(words)
            raise TransientError(words)
        _check_not_overtaken(dataset, effect)
        line.update_status(f"version {dataset.version}, {state or 'hidden'}")
        if state in FAILED_STATES:
            raise _build_processing_error(self.ref, dataset.version, state, dataset.url)
        if state != "ready":
            raise TransientError(f"it is in the state '{state}'")
        return self.check_content(read_dataset(self.kaggle, dataset, state), effect)

    def build_not_ready_error(self, trouble: Exception) -> OutsideError:
        return build_not_ready_error(self.ref, trouble)


class OvertakenError(OutsideError):
    """Someone else pushed a newer version: ours never becomes the current one."""

    default_code = "dataset-overtaken"


def _check_not_overtaken(dataset: RemoteDataset, effect: Effect) -> None:
    """Raise OvertakenError if someone else created the current version after ours.

    Our version notes contain the content's id, except for a first version. Without notes, the number decides.
    """
    our_numbers = [number for number, notes in dataset.version_notes.items() if effect.content in notes]
    if effect.action == PushAction.CREATE.value:
        our_numbers.append(1)
    our_version = max(our_numbers) if our_numbers and max(our_numbers) > effect.before else 0
    if not our_version and not any(dataset.version_notes.values()):
        our_version = effect.before + 1
    if our_version and dataset.version > our_version:
        raise OvertakenError(
            f"another push of '{effect.target}' came after this one: version {dataset.version} is the current one",
            hint="push this dataset from one machine only, and run the same command again there",
        )


def _build_processing_error(ref: str, version: int, state: str, url: str) -> OutsideError:
    return OutsideError(
        f"Kaggle could not process version {version} of '{ref}' ({state})",
        code="dataset-processing-failed",
        hint=f"see the reason on its page, {url or 'on kaggle.com'}; then run the same command again",
        details=(
            "usual causes: the account's quota for private data is used up, or an archive that Kaggle unpacks",
            "contains a file name with '&' or '@'",
        ),
    )
