"""A part of the kit as a private Kaggle Model: a version is made once, and pinned by the notebook.

Unlike a dataset, a model is attached at one version, and nothing in it is unpacked. A version is known only
after its push: whoever renders the notebook's sources asks here.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from offline_kit.core.errors import OutsideError, ProjectError, UsageError
from offline_kit.core.files import human_size, locked
from offline_kit.core.report import SILENT, Reporter
from offline_kit.core.retry import PassingError
from offline_kit.kaggle.client.api_types import Account, Kaggle, NewModelVersion, RemoteModel
from offline_kit.kaggle.push import parts_elsewhere, send_files
from offline_kit.kaggle.push.dataset_plan import (
    MODEST,
    Action,
    Remote,
    Wishes,
    damage,
    differences,
    exposed,
    not_whole,
)
from offline_kit.kaggle.push.journal import Effect, Phase
from offline_kit.kaggle.push.poll_policy import poll, shown, tolerant
from offline_kit.kaggle.push.push_settings import Ways
from offline_kit.kaggle.push.run_once import once, settled
from offline_kit.project.kaggle_names import slug_problems, split_model
from offline_kit.project.types import Kit, Part

MODEL, VARIATION, VERSION = "model", "variation", "model-version"
"""What the journal calls the effects."""
_AGAIN = "run the same command again: it goes on, and nothing is sent twice"


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """What becomes of a part that is a model."""

    part: Part
    """The part."""
    folder: Path
    """Where its files lie."""
    ref: str
    """"owner/model/framework/variation"."""
    action: Action
    """Create the variation, a new version, or nothing."""
    why: str
    """Why so, for a person."""
    before: int
    """Its newest version now; 0 for none."""
    model: RemoteModel | None
    """The model, where there is one."""

    @property
    def source(self) -> str:
        """The version that holds the part already, as a notebook attaches it; "" where it is yet to come."""
        return f"{self.ref}/{self.before}" if self.action is Action.NOTHING else ""


@dataclass(frozen=True, kw_only=True)
class PushedModel:
    """Where a part is now."""

    part: str
    """The part's name."""
    source: str
    """"owner/model/framework/variation/version", as a notebook attaches it."""
    action: Action
    """What was done for it."""
    url: str
    """The model's page."""


def target(wanted: str, account: Account) -> str:
    """Return "owner/model/framework/variation" of a model as `publish_model` names it.

    Raises UsageError where the account is not the owner, or Kaggle would not take the slug.
    """
    owner, slug, variation = split_model(wanted)
    problems = list(slug_problems(slug))
    if owner and owner.lower() != account.username.lower():
        problems.append(f"it belongs to '{owner}', and these credentials to '{account.username}'")
    if problems:
        raise UsageError(
            f"the model '{wanted}' cannot be published",
            hint="change `publish_model` in [tool.offline-kit]",
            details=problems,
        )
    return f"{owner or account.username}/{slug}/{variation}"


def plan(
    kit: Kit,
    part: Part,
    ref: str,
    kaggle: Kaggle,
    ways: Ways,
    wishes: Wishes = MODEST,
    report: Reporter = SILENT,
) -> ModelPlan:
    """Look at the model and return what a push would do; settles first what an earlier run left open.

    Raises ProjectError for a model that everybody sees, unless `wishes` allow it.
    """
    report.step(f"Looking at the model '{_model(ref)}' on {kaggle.account().place}")
    _settle(ref, kaggle, ways, report)
    model = kaggle.model(_model(ref))
    if model and not model.private and not wishes.public:
        raise _public(model)
    before = kaggle.model_version(ref) if model else 0
    held = parts_elsewhere.of_model(kaggle, ref, before) if before else None
    same = held is not None and held.id == part.id and not wishes.again(part)
    there = Remote(ref=ref, files=kaggle.model_files(ref, before)) if same else Remote(ref=ref)
    if same and (wrong := damage(part, there)):
        raise not_whole(ref, before, wrong)
    why = f"version {before} holds exactly this part" if same else f"version {before} holds something else"
    return ModelPlan(
        part=part,
        folder=kit.part_folder(part),
        ref=ref,
        action=Action.NOTHING if same else Action.VERSION if before else Action.CREATE,
        why=why if before else "there is no such model yet",
        before=before,
        model=model,
    )


def push(
    kit: Kit,
    part: Part,
    ref: str,
    kaggle: Kaggle,
    ways: Ways,
    wishes: Wishes = MODEST,
    report: Reporter = SILENT,
) -> PushedModel:
    """Bring a part to its model and return the version that holds it; raises as `plan`, and as a push of data."""
    with locked(ways.state / "model.lock"):
        found = plan(kit, part, ref, kaggle, ways, wishes, report)
        if found.action is Action.NOTHING:
            report.note(f"'{ref}': nothing to upload, {found.why}")
            url = found.model.url if found.model else ""
            return PushedModel(part=part.name, source=found.source, action=found.action, url=url)
        return _send(found, kaggle, ways, wishes, report)


def _send(found: ModelPlan, kaggle: Kaggle, ways: Ways, wishes: Wishes, report: Reporter) -> PushedModel:
    ref, part = found.ref, found.part
    uploads = send_files.uploads(part, found.folder)
    uploader = ways.uploader(kaggle, ref, kind="MODEL")
    size = human_size(sum(file.size for file in uploads))
    report.step(f"Uploading {len(uploads)} files, {size}, to the model '{ref}': {found.why}")
    tokens = send_files.upload_all(uploads, uploader, f"Uploading {part.name}", report)
    if found.model is None:
        _create_model(ref, kaggle, ways, report)
    new = NewModelVersion(ref=ref, notes=f"offline-kit; {part.name} {part.id}", tokens=tokens)
    action = VERSION if found.before else VARIATION
    effect = Effect(action=action, target=_target(ref), before=found.before, content=part.id)
    send = kaggle.add_model_version if found.before else kaggle.create_variation
    with send_files.spending(uploader):
        once(
            ways.journal,
            effect,
            lambda: send(new),
            lambda: "" if _appeared(effect, ref, kaggle, ways) else None,
            f"the new version of '{ref}'",
            report,
        )
    version = _until_there(found, kaggle, ways, report)
    ways.journal.write(effect, Phase.DONE)
    model = kaggle.model(_model(ref))
    if model and not model.private and not wishes.public:
        raise exposed(f"the model '{_model(ref)}'", model.url)
    report.note(f"'{ref}' version {version} is ready, private, and shows this kit")
    url = model.url if model else ""
    return PushedModel(part=part.name, source=f"{ref}/{version}", action=found.action, url=url)


def _create_model(ref: str, kaggle: Kaggle, ways: Ways, report: Reporter) -> None:
    """Create the model, once; where the answer is lost, look whether it is there."""
    name = _model(ref)
    effect = Effect(action=MODEL, target=f"model:{name}", before=0, content="")

    def shows() -> str | None:
        return "" if _shows(lambda: kaggle.model(name) is not None, ways) else None

    def send() -> str:
        return kaggle.create_model(name, name.partition("/")[2], "Checkpoints of a kit of offline-kit.")

    once(ways.journal, effect, send, shows, f"the model '{name}'", report)
    if shows() is None:
        raise OutsideError(f"the model '{name}' does not show yet", hint=_AGAIN)
    ways.journal.write(effect, Phase.DONE)


def _settle(ref: str, kaggle: Kaggle, ways: Ways, report: Reporter) -> None:
    """Wait for what an earlier run sent without seeing it arrive."""

    def appeared(effect: Effect) -> bool | None:
        if not _appeared(effect, ref, kaggle, ways):
            return None
        ways.uploader(kaggle, ref, kind="MODEL").forget()
        return True

    settled(ways.journal, _target(ref), appeared, report, processing=ways.waiting.processing)


def _appeared(effect: Effect, ref: str, kaggle: Kaggle, ways: Ways) -> bool:
    return _shows(lambda: kaggle.model_version(ref) > effect.before, ways)


def _shows(true: Callable[[], bool], ways: Ways) -> bool:
    """Tell whether something comes true within the grace."""
    return shown(lambda: true() or None, ways.waiting.until(ways.waiting.grace)) is not None


def _until_there(found: ModelPlan, kaggle: Kaggle, ways: Ways, report: Reporter) -> int:
    """Wait until a newer version shows the part's marker and all of its files; return its number."""
    seen: list[float] = []

    def there() -> int:
        version = kaggle.model_version(found.ref)
        if version <= found.before:
            raise PassingError("the new version does not show yet")
        say(f"version {version}")
        part = parts_elsewhere.of_model(kaggle, found.ref, version)
        if part is None or part.id != found.part.id:
            raise PassingError("its files do not show yet")
        remote = Remote(ref=found.ref, files=kaggle.model_files(found.ref, version))
        if wrong := differences(part, remote):
            seen.append(time.monotonic())
            if seen[-1] - seen[0] > ways.waiting.grace:
                raise not_whole(found.ref, version, wrong)
            raise PassingError(wrong[0])
        return version

    with report.waiting(f"{kaggle.account().place} processes '{found.ref}'") as say:
        return poll(
            tolerant(there, say),
            ways.waiting.until(ways.waiting.processing),
            lambda e: OutsideError(f"the model '{found.ref}' is not ready in time: {e}", hint=_AGAIN),
        )


def _model(ref: str) -> str:
    return "/".join(ref.split("/")[:2])


def _target(ref: str) -> str:
    return f"model:{ref}"


def _public(model: RemoteModel) -> ProjectError:
    return ProjectError(
        f"the model '{model.ref}' is public: everybody would see the checkpoints",
        hint=f"make it private in the settings of {model.url or 'its page'}, choose another `publish_model`,"
        " or allow it with --public",
    )
