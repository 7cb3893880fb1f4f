"""Plan what a push does to each part's dataset or model, send the changed parts, and wait until they are ready.

Before each call with an effect, the journal stores what will happen and which version was current. If
the answer is lost or the process is killed, this or the next run looks for the effect; nothing is sent twice.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from offline_kit.core.errors import OfflineKitError, OutsideError, ProjectError, UsageError, describe_problems
from offline_kit.core.files import format_size, hold_lock
from offline_kit.kaggle.client.api_types import Account
from offline_kit.kaggle.push.journal import Phase, PushContext
from offline_kit.kaggle.push.kit_parts import (
    RemotePartState,
    build_incomplete_error,
    find_damage,
    map_listed_files,
)
from offline_kit.kaggle.push.part_targets import PartPlan, PushAction, PushTarget
from offline_kit.project.kaggle_names import (
    MARKER,
    check_dataset_limits,
    check_slug,
    check_title,
)
from offline_kit.project.types import Kit, KitPart, Role
from offline_kit.rehearsal import receipt, rehearse

_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """What the user allows a push to do."""

    drop_foreign: bool = False  # allow deleting files that offline-kit did not upload
    public: bool = False  # allow new versions of a public dataset or model
    title: str = ""  # title of a new dataset; by default its slug
    resend: bool = False  # upload unchanged parts again, because their files on Kaggle are damaged
    resend_part: tuple[str, ...] = ()  # names of the parts to upload again, if not all

    def is_kept(self, part: KitPart, held_part: KitPart | None) -> bool:
        """Tell whether a part is not uploaded, because Kaggle holds it."""
        is_same = held_part is not None and held_part.id == part.id
        return is_same and not self.resend and part.name not in self.resend_part


DEFAULT_OPTIONS = PushOptions()


def resolve_locations(locations: Mapping[str, str], account: Account) -> dict[str, str]:
    """Return each part's location with an owner: a dataset's "slug" is the account's.

    The others are "owner/slug", "model:owner/slug/framework/variation/version" and "notebook:owner/slug". Raises
    UsageError if the account is not the owner of what it would write to, or a slug is invalid.
    """
    resolved, problems, is_model = {}, list[str](), False
    for part, location in locations.items():
        kind, _, name = location.rpartition(":")
        owner, slug = name.split("/")[:2] if "/" in name else (account.username, name)
        resolved[part] = location if "/" in name else f"{owner}/{slug}"
        if kind == "notebook":  # made by its own push
            continue
        wrong = check_slug(slug)
        if owner.lower() != account.username.lower():
            wrong = (
                f"'{owner}/{slug}' belongs to '{owner}', and these credentials to '{account.username}'",
                *wrong,
            )
        is_model = bool(kind and wrong) if not problems else is_model
        problems += wrong
    if problems:
        raise UsageError(
            f"{len(problems)} problems with the names of what is pushed to"
            if len(problems) > 1
            else problems[0],
            code="model-name-invalid" if is_model else "dataset-name-invalid",
            hint=f"change '{'publish_model' if is_model else 'dataset'}' in [tool.offline-kit], or log in as its owner",
            details=problems if len(problems) > 1 else (),
        )
    return resolved


def plan_push(
    kit: Kit, locations: Mapping[str, str], context: PushContext, options: PushOptions = DEFAULT_OPTIONS
) -> tuple[PartPlan, ...]:
    """Return what a push would do, after recovering what an earlier run left open.

    `locations` are those of `resolve_locations`, by part name; "notebook:...", the output of a run, is not pushed.
    Raises as `plan_parts` and `inspect_settled`.
    """
    account = context.kaggle.fetch_account()
    if account.ignored_token_source:
        context.report.warn(
            f"the token from {account.ignored_token_source} has expired; the key of '{account.username}' is used"
        )
    context.report.step(f"Looking at {account.server_name} as '{account.username}'")
    remotes = {
        name: PushTarget(location, context).inspect_recovered()
        for name, location in locations.items()
        if not location.startswith("notebook:")
    }
    return plan_parts(kit, remotes, options)


def plan_parts(
    kit: Kit, remotes: Mapping[str, RemotePartState], options: PushOptions
) -> tuple[PartPlan, ...]:
    """Plan each part that `remotes` has the dataset or model of, by the part's name.

    Raises UsageError for an invalid title, ProjectError for files that would be deleted and for what is public (unless
    `options` allow it), OutsideError for a part whose files are incomplete; several problems are one ProjectError.
    """
    problems: list[OfflineKitError] = []
    proof = receipt.summarize_receipt(rehearse.read_last_report(kit))
    plans = []
    for part in kit.parts:
        if part.name not in remotes:
            continue
        remote = remotes[part.name]
        title = options.title or remote.ref.partition("/")[2]
        problems += _find_problems(part, remote, title, options)
        plan = PartPlan(
            part=part,
            folder=kit.part_folder(part),
            ref=remote.ref,
            kind=remote.kind,
            action=PushAction.NOTHING,
            reason=f"version {remote.version} holds exactly this part",
            version=remote.version,
            held_part_id=remote.part.id if remote.part else "",
            url=remote.url,
        )
        if not options.is_kept(part, remote.part):
            plan = _plan_upload(plan, kit.id, title, remote)
            plan = replace(plan, notes=f"{plan.notes}; {proof}")
        plans.append(plan)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ProjectError(
            f"{len(problems)} problems prevent this push",
            code="push-blocked",
            hint="fix each as described above",
            details=describe_problems(problems),
        )
    return tuple(plans)


def find_foreign_files(part: KitPart, remote: RemotePartState) -> tuple[str, ...]:
    """Return the files on Kaggle that a new version would delete and that offline-kit did not upload."""
    known_paths = {entry.stored for entry in (*part.entries, *(remote.part.entries if remote.part else ()))}
    return tuple(sorted(map_listed_files(remote.files, known_paths).keys() - known_paths - {MARKER}))


def _find_problems(
    part: KitPart, remote: RemotePartState, title: str, options: PushOptions
) -> list[OfflineKitError]:
    is_kept, is_model = options.is_kept(part, remote.part), remote.kind == "model"
    problems: list[OfflineKitError] = []
    if is_kept and (wrong := find_damage(part, remote.files)):
        problems.append(build_incomplete_error(remote.ref, remote.version, wrong))
    if not remote.exists and not is_model:
        problems += [
            UsageError(
                f"for '{remote.ref}': {problem}",
                code="dataset-title-invalid",
                hint="set a title of 6 to 50 characters",
            )
            for problem in check_title(title)
        ]
    if not remote.private and not options.public:
        problems.append(
            ProjectError(
                f"'{remote.ref}' is public: everyone would see the kit",
                code="model-public" if is_model else "dataset-public",
                hint=f"make it private in the settings of {remote.url or 'its page'}, set another"
                f" `{'publish_model' if is_model else 'dataset'}`, or allow it with --public",
            )
        )
    # Earlier versions of a model stay as they are for the notebooks that pin them.
    may_lose = not (is_kept or is_model or options.drop_foreign)
    lost = find_foreign_files(part, remote) if may_lose else ()
    if lost:
        omitted = [f"and {len(lost) - _SHOWN} more"] if len(lost) > _SHOWN else []
        problems.append(
            ProjectError(
                f"'{remote.ref}' has files that offline-kit did not upload; a new version would delete them",
                code="dataset-has-foreign-files",
                hint="set another `dataset`, or delete them with --drop-foreign",
                details=[*lost[:_SHOWN], *omitted],
            )
        )
    return problems


def _plan_upload(plan: PartPlan, kit_id: str, title: str, remote: RemotePartState) -> PartPlan:
    part, old = plan.part, remote.part
    changes = f"{len(part.entries)} files"
    if old:
        before = {entry.original: entry.sha256 for entry in old.entries}
        after = {entry.original: entry.sha256 for entry in part.entries}
        changed = sum(before[name] != after[name] for name in after.keys() & before.keys())
        added, removed = len(after.keys() - before.keys()), len(before.keys() - after.keys())
        changes = f"{added} files added, {changed} changed, {removed} removed"
    if not remote.exists:
        reason = f"the {remote.kind} does not exist yet"
    elif remote.state == "failed":
        reason = (
            f"version {remote.version} failed on Kaggle" if remote.version else "its first version failed"
        )
    elif not remote.version:
        reason = "it has no version"
    else:
        reason = changes if old else f"version {remote.version} holds no part of a kit"
    stored = {entry.stored for entry in part.entries} | {MARKER}
    size = sum(entry.size for entry in part.entries)
    return replace(
        plan,
        action=PushAction.VERSION if remote.exists else PushAction.CREATE,
        reason=reason,
        title=title,
        notes=f"offline-kit {kit_id[:12]}; {part.name} {part.id}; {changes}",
        upload_size=size,
        file_count=len(part.entries) + 1,
        dropped_files=tuple(sorted(map_listed_files(remote.files, stored).keys() - stored)),
        warnings=(
            *check_dataset_limits(len(part.entries) + 1, size),
            *_explain_runtime_cost(part, old, size),
        ),
    )


def _explain_runtime_cost(part: KitPart, old: KitPart | None, size: int) -> tuple[str, ...]:
    """Return what an update of this tool alone costs: Kaggle has no way to send a part of a dataset."""
    old_files, new_files = (
        {(entry.original, entry.sha256) for entry in side.entries if entry.role is not Role.RUNTIME}
        for side in (old or part, part)
    )
    is_update = old is not None and old_files == new_files
    if not is_update or not any(entry.role is Role.CHECKPOINT for entry in part.entries):
        return ()
    cost = f"Kaggle takes a dataset whole: {format_size(size)} are sent again"
    hint = '`parts = "split"` gives the checkpoints a dataset of their own'
    return (f"the update of offline-kit changed only the notebook's runtime, and {cost}; {hint}",)


def push_kit(
    kit: Kit,
    locations: Mapping[str, str],
    context: PushContext,
    options: PushOptions = DEFAULT_OPTIONS,
    approve: Callable[[tuple[PartPlan, ...]], None] = lambda _plans: None,
) -> tuple[PartPlan, ...]:
    """Push a kit's parts to their datasets and models, and return what was done and where each one is.

    Returns when every part is the current version, ready, private and has its marker. `approve` gets the plans and
    may raise before anything is sent. Raises as `plan_push`, and OutsideError if Kaggle refuses or is not ready
    in time; the same call later continues.
    """
    with hold_lock(context.state_folder / "push.lock"):
        plans = plan_push(kit, locations, context, options)
        approve(plans)
        # All parts are sent before waiting, so that Kaggle processes them in parallel.
        effects = {}
        for plan in plans:
            if plan.action is not PushAction.NOTHING:
                target = PushTarget(locations[plan.part.name], context)
                effects[plan.ref] = (target, target.upload_part(plan))
        pushed = []
        for plan in plans:
            if plan.ref not in effects:
                context.report.note(f"'{plan.ref}': nothing to upload, {plan.reason}")
                pushed.append(plan)
                continue
            target, effect = effects[plan.ref]
            remote = target.wait_until_ready(effect)
            context.journal.append_entry(effect, Phase.DONE)
            if not remote.private and not options.public:
                raise OutsideError(
                    f"'{plan.ref}' is PUBLIC on Kaggle, although it was created as private",
                    code="dataset-public",
                    hint=f"make it private at once in the settings of {remote.url or 'its page'}",
                )
            context.report.note(f"'{plan.ref}' version {remote.version} is ready and holds this kit")
            pushed.append(replace(plan, version=remote.version, url=remote.url))
        return tuple(pushed)
