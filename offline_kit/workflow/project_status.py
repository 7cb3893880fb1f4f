"""What of a kit is on this disk and on Kaggle, and what changed in the project since it was built."""

from collections.abc import Iterator, Mapping
from typing import Any

from offline_kit.adopt.recording import RecordedRun
from offline_kit.core import files
from offline_kit.core.errors import OfflineKitError, ProjectError
from offline_kit.kaggle.push import kit_parts
from offline_kit.kaggle.push.notebook_equality import find_all_differences
from offline_kit.kit import layout, manifest
from offline_kit.notebook import rendering as notebook
from offline_kit.packages.freeze import freeze as freezing
from offline_kit.project.config import Config
from offline_kit.project.kaggle_names import split_model_name
from offline_kit.project.types import Freeze, Kit, OwnCode, Role
from offline_kit.workflow import part_locations, pipeline, resolved_project
from offline_kit.workflow.kaggle_session import KaggleSession
from offline_kit.workflow.part_locations import RemotePart, RemoteStatus, list_last_submissions


def read_local_kit(config: Config) -> tuple[Kit | None, tuple[str, ...]]:
    """Return the kit on disk, if there is one, and what is wrong with its files."""
    try:
        kit = pipeline.read_kit(config)
    except ProjectError as error:
        return None, (error.what, *error.details) if config.out.exists() else ()
    return kit, pipeline.find_damage(kit)


def read_remote_status(session: KaggleSession, kit: Kit | None) -> RemoteStatus:
    """Ask Kaggle now; without a kit only for the submissions. Waits for nothing."""
    competition = session.config.competition
    # Scores come hours after a submission: each look updates the ledger.
    if competition and any(entry.competition == competition for entry in session.ledger.read_entries()):
        for submission in session.kaggle.list_submissions(competition):
            session.ledger.update_entry(submission)
    return RemoteStatus(
        place=session.account.server_name,
        account=session.account.username,
        looked=True,
        at=str(session.load_facts(part_locations.LAST_PUSH).get("at", "")),
        pieces=tuple(_inspect_parts(session, kit)) if kit else (),
        run=session.load_facts(part_locations.LAST_RUN) or None,
        submissions=list_last_submissions(session.ledger),
    )


def _inspect_parts(session: KaggleSession, kit: Kit) -> Iterator[RemotePart]:
    locations = session.locate_parts(kit)
    for part in kit.parts:
        remote = kit_parts.inspect_part(locations[part.name], session.kaggle)
        holds = "" if remote.exists else "nothing"
        if remote.state == "ready":
            is_same = remote.part is not None and remote.part.id == part.id
            holds = "this kit" if is_same else "another kit" if remote.part else "no kit"
        yield RemotePart(
            name=part.name, ref=remote.ref, version=remote.version, state=remote.state, holds=holds
        )
    try:
        new = session.read_notebook(kit)
    except OfflineKitError:
        return  # a kit without a notebook, or one that is not ours to push
    notebook = session.kaggle.get_notebook(new.ref)
    if notebook is None:
        yield RemotePart(name="notebook", ref=new.ref)
        return
    run = session.kaggle.get_notebook_run(new.ref, notebook.newest_version)
    yield RemotePart(
        name="notebook",
        ref=new.ref,
        version=notebook.newest_version,
        state=run.state if run else "",
        holds="another kit" if find_all_differences(new, notebook) else "this kit",
    )


_STOPPED = "a build would fail now: "
_EDITED = "the notebook was edited after it was rendered"
_SHOWN = 5


def list_changes(config: Config, kit: Kit, plan: pipeline.BuildPlan | None = None) -> tuple[str, ...]:
    """Return a clause for each difference between a build and the kit: "'a.pkl' changed".

    `plan` is that of the build, if there is one; else the written freeze is compared. If a build would fail,
    the clause says why.
    """
    try:
        project = plan.project if plan else resolved_project.resolve_project(config)
        return tuple(_list_changes(project, kit, plan.freeze if plan else None))
    except OfflineKitError as error:
        return (f"{_STOPPED}{error.what}",)


def describe_changes(config: Config, kit: Kit) -> tuple[str, ...]:
    """Return the same for a person who works with the existing kit, with the command that includes the changes.

    Nothing if neither a file nor a flag says how the kit is made: then it was made with flags, which are not known.
    """
    if config.source is None and not config.from_flags - {"dataset", "competition", "out"}:
        return ()
    changes = list_changes(config, kit)
    if changes and changes[0].startswith(_STOPPED):
        return changes
    more = [f"{len(changes) - _SHOWN} more changes"] if len(changes) > _SHOWN else []
    return tuple(
        f"{clause}: --no-build uses it as it is, a build puts it aside"
        if clause == _EDITED
        else f"{clause} after this kit was built: run 'offline-kit ship' to include it"
        for clause in (*changes[:_SHOWN], *more)
    )


def _list_changes(
    project: resolved_project.ResolvedProject, kit: Kit, freeze: Freeze | None
) -> Iterator[str]:
    models = project.models
    names = layout.name_checkpoints(models.checkpoints)
    current = {names[weight.original]: (weight.original, weight.sha256) for weight in models.checkpoints}
    for file in models.preprocessing:
        current[f"checkpoints/preprocessing/{file.original}"] = (file.original, file.sha256)
    own, packages = project.collect_own_code(build=False)
    for source in own.sources:
        current[f"code/{source.original}"] = (source.original, files.sha256_of(source.path))
    yield from _compare_files(kit, current)
    if project.recorded and not _is_same_recording(project.recorded, kit):
        yield "the recording changed"
    kit_hashes = {entry.sha256 for part in kit.parts for entry in part.entries}
    packages += tuple(wheel.name for wheel in own.wheels if wheel.sha256 not in kit_hashes)
    yield from (f"the package '{name}' changed" for name in packages)
    if not packages and not _is_same_freeze(project, own, kit, freeze):
        yield "what the requirements ask for changed"
    if pipeline.is_split(project.config, models.checkpoints) == any(part.name == "kit" for part in kit.parts):
        yield "the division into `parts` changed"
    if notebook.is_edited(kit.folder / "notebook"):
        yield _EDITED
    if not _is_same_notebook(project, kit):
        yield "the notebook's configuration, template or code changed"


def _compare_files(kit: Kit, current: dict[str, tuple[str, str]]) -> Iterator[str]:
    """Compare files by their names in the kit; `current` has their names for a person, and their digests."""
    roles = (Role.CHECKPOINT, Role.PREPROCESSING, Role.SOURCE)
    entries = [entry for part in kit.parts for entry in part.entries if entry.role in roles]
    before = {entry.original: entry.sha256 for entry in entries}
    for name in sorted(before.keys() | current.keys()):
        if name not in current:
            yield f"'{name}' was deleted"
        elif name not in before:
            yield f"'{current[name][0]}' was added"
        elif before[name] != current[name][1]:
            yield f"'{current[name][0]}' changed"


def _is_same_recording(recorded: RecordedRun, kit: Kit) -> bool:
    kit_entries = [entry for part in kit.parts for entry in part.entries]
    before, now = (
        {(entry.original, entry.sha256) for entry in entries if entry.role is Role.RECORDING}
        for entries in (kit_entries, recorded.part.entries)
    )
    return before == now and [part.name in manifest.OUTPUT_PARTS for part in kit.parts] == [
        bool(recorded.notebook)
    ]


def _is_same_freeze(
    project: resolved_project.ResolvedProject, own: OwnCode, kit: Kit, freeze: Freeze | None
) -> bool:
    if project.wheelhouse or project.recorded:
        return True  # frozen on Kaggle: a build compares the requests; a recording is compared as a whole
    try:
        text = (kit.folder / "requirements.txt").read_text(encoding="utf-8")
        if freeze:
            return freeze.text == text
        written = project.config.lock.read_text(encoding="utf-8")
    except OSError:
        return False
    return written == text and freezing.is_freeze_current(project.freeze_request(own), project.image)


def _is_same_notebook(project: resolved_project.ResolvedProject, kit: Kit) -> bool:
    """Compare with what was rendered; what a person edited since does not count."""
    rendered = project.render_notebook(kit)
    folder = kit.folder / "notebook"
    name = notebook.RENDERED_FILE if notebook.is_edited(folder) else rendered.code_file
    try:
        text = (folder / name).read_text(encoding="utf-8")
    except OSError:
        return False
    written = files.read_json(folder / notebook.METADATA_FILE)
    before, now = (_without_own_model(metadata, project.config) for metadata in (written, rendered.metadata))
    return (rendered.file_texts()[name], now) == (text, before)


def _without_own_model(metadata: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Leave out the version of our own model: a push writes it there."""
    models = [str(source) for source in metadata.get("model_sources") or ()]
    if config.publish_model:
        _, slug, variation = split_model_name(config.publish_model)
        models = [source for source in models if f"/{slug}/{variation}/" not in source]
    return {**metadata, "model_sources": models}
