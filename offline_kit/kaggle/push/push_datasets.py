"""The kit's parts to Kaggle: what changed is uploaded, made a version once, and waited for until it is there.

Before each effect the journal says what is about to happen and which version was current. An answer that is
lost, or a run that is killed, is settled by looking, at once or by the next run; nothing is sent twice.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from offline_kit.core.files import human_size, locked
from offline_kit.core.report import SILENT, Reporter
from offline_kit.kaggle.client.api_types import Kaggle, NewVersion
from offline_kit.kaggle.push import dataset_remote, send_files
from offline_kit.kaggle.push.dataset_plan import (
    MODEST,
    Action,
    PartPlan,
    PushPlan,
    Wishes,
    exposed,
    plan_push,
    targets,
)
from offline_kit.kaggle.push.journal import Effect, Phase
from offline_kit.kaggle.push.push_settings import Ways
from offline_kit.kaggle.push.run_once import once, settled
from offline_kit.project.types import Kit


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """Where a part is now."""

    part: str
    """The part's name."""
    ref: str
    """Its dataset."""
    version: int
    """The version that holds it."""
    action: Action
    """What was done for it."""
    url: str
    """The dataset's page."""


def push(
    kit: Kit,
    datasets: Mapping[str, str],
    kaggle: Kaggle,
    ways: Ways,
    wishes: Wishes = MODEST,
    report: Reporter = SILENT,
    approve: Callable[[PushPlan], None] = lambda _plan: None,
) -> tuple[Pushed, ...]:
    """Bring a kit's parts to their datasets (by part name) and return where each is.

    Returns when every part is current, READY, private and shows its own marker. `approve` sees the plan and
    may raise before anything is sent. Raises as `plan`, and OutsideError where Kaggle refuses or does not get ready; the same call later goes on.
    """
    with locked(ways.state / "push.lock"):
        found = plan(kit, datasets, kaggle, ways, wishes, report)
        approve(found)
        return apply(found, kaggle, ways, wishes, report)


def plan(
    kit: Kit,
    datasets: Mapping[str, str],
    kaggle: Kaggle,
    ways: Ways,
    wishes: Wishes = MODEST,
    report: Reporter = SILENT,
) -> PushPlan:
    """Look at Kaggle and return what a push would do; settles first what an earlier run left open.

    Raises UsageError, ProjectError and OutsideError as `targets`, `plan_push` and `look` do.
    """
    account = kaggle.account()
    if account.dropped:
        report.warn(
            f"the token from {account.dropped} is not valid any more; the key of '{account.username}' is used"
        )
    report.step(f"Looking at {account.place} as '{account.username}'")
    refs = targets(datasets, account)
    settled = {ref for ref in refs.values() if _settle(ref, kaggle, ways, report)}
    remotes = {
        part: dataset_remote.look(kaggle, ref, ways.waiting, report, expected=ref in settled)
        for part, ref in refs.items()
    }
    return plan_push(kit, remotes, wishes)


def apply(
    plan: PushPlan, kaggle: Kaggle, ways: Ways, wishes: Wishes, report: Reporter = SILENT
) -> tuple[Pushed, ...]:
    """Do what a plan says; all parts are sent before any is waited for, so that Kaggle works on them together."""
    effects = {
        part.part.name: _send(part, kaggle, ways, report)
        for part in plan.parts
        if part.action is not Action.NOTHING
    }
    return tuple(
        _arrived(part, effects[part.part.name], kaggle, ways, wishes, report)
        if part.part.name in effects
        else _unchanged(part, report)
        for part in plan.parts
    )


def _unchanged(part: PartPlan, report: Reporter) -> Pushed:
    report.note(f"'{part.ref}': nothing to upload, {part.why}")
    return Pushed(part=part.part.name, ref=part.ref, version=part.before, action=part.action, url=part.url)


def _send(part: PartPlan, kaggle: Kaggle, ways: Ways, report: Reporter) -> Effect:
    """Upload a part and make a version of it; return the effect, which may not show yet."""
    for warning in part.warnings:
        report.warn(f"'{part.ref}': {warning}")
    uploads = send_files.uploads(part.part, part.folder)
    uploader = ways.uploader(kaggle, part.ref)
    report.step(f"Uploading {len(uploads)} files, {human_size(part.size)}, to '{part.ref}': {part.why}")
    tokens = send_files.upload_all(uploads, uploader, f"Uploading {part.part.name}", report)
    new = NewVersion(ref=part.ref, title=part.title, notes=part.notes, tokens=tokens)
    effect = Effect(action=part.action.value, target=part.ref, before=part.before, content=part.part.id)
    send = kaggle.create if part.action is Action.CREATE else kaggle.add_version
    with send_files.spending(uploader):
        once(
            ways.journal,
            effect,
            lambda: send(new),
            lambda: "" if dataset_remote.appeared(kaggle, effect, ways.waiting) else None,
            f"the new version of '{part.ref}'",
            report,
        )
    return effect


def _settle(ref: str, kaggle: Kaggle, ways: Ways, report: Reporter) -> bool:
    """Wait for what an earlier run sent without seeing it arrive; return whether it has appeared."""

    def appeared(effect: Effect) -> bool | None:
        if not dataset_remote.appeared(kaggle, effect, ways.waiting):
            return None
        # Its uploads are in the version that appeared.
        ways.uploader(kaggle, ref).forget()
        return True

    # A version that failed may never show.
    failed = ways.journal.open(ref) is not None and kaggle.status(ref) in dataset_remote.BAD
    patience = 0.0 if failed else ways.waiting.processing
    return settled(ways.journal, ref, appeared, report, processing=patience) is not None


def _arrived(
    part: PartPlan, effect: Effect, kaggle: Kaggle, ways: Ways, wishes: Wishes, report: Reporter
) -> Pushed:
    """Wait until a part is there, and check that nobody else sees it."""
    found = dataset_remote.until_there(kaggle, effect, ways.waiting, report)
    ways.journal.write(effect, Phase.DONE)
    if not found.private and not wishes.public:
        raise exposed(f"'{part.ref}'", found.url)
    report.note(f"'{part.ref}' version {found.version} is ready and shows this kit")
    return Pushed(part=part.part.name, ref=part.ref, version=found.version, action=part.action, url=found.url)
