"""What of a kit is on this disk, and on Kaggle: as it was seen last, or looked at now."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_kit.core.errors import OfflineKitError, ProjectError
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.push import kit_parts
from offline_kit.kaggle.push.journal import LastSeenStore
from offline_kit.kaggle.push.notebook_equality import find_all_differences
from offline_kit.kaggle.push.submission_ledger import LedgerEntry, SubmissionLedger
from offline_kit.project.config import Config
from offline_kit.project.types import Kit, KitPart
from offline_kit.rehearsal import rehearse as rehearsing
from offline_kit.workflow import part_locations, pipeline, remote_wheelhouse
from offline_kit.workflow.kaggle_session import KaggleSession
from offline_kit.workflow.push_steps import LAST_RUN

SHOWN = 5
"""Submissions that are shown, the latest ones."""


@dataclass(frozen=True, kw_only=True)
class LocalStatus:
    """The kit on this disk and its last rehearsal."""

    config: Config
    kit: Kit | None
    problems: tuple[str, ...]
    """What is wrong with its files."""
    rehearsal: dict[str, Any] | None
    """The report of the last rehearsal of this very kit."""


@dataclass(frozen=True, kw_only=True)
class RemotePart:
    """A dataset, a model or a notebook on Kaggle."""

    name: str
    """The part's name, or "notebook"."""
    ref: str
    """"owner/slug", of a model "owner/model/framework/variation"."""
    version: int = 0
    """The newest version, of a model the pinned one; 0 if there is none."""
    state: str = ""
    """The processing state of a dataset or the state of a run; empty if it was not looked at."""
    holds: str = "nothing"
    """"this kit", "another kit", "no kit", "nothing" or, if it was not looked at, an id: a part's, for the notebook the kit's."""


@dataclass(frozen=True, kw_only=True)
class RemoteStatus:
    """What is at one Kaggle, for one account."""

    place: str
    """"Kaggle", or "the local Kaggle"."""
    account: str
    looked: bool
    """Whether Kaggle was asked; else it is what was seen last."""
    at: str
    """When the data was pushed last from here: ISO 8601 in UTC; empty for never."""
    pieces: tuple[RemotePart, ...]
    """Datasets, other parts, then the notebook."""
    run: dict[str, Any] | None
    """The last run of the notebook that we followed, or the problem that it ended with."""
    submissions: tuple[LedgerEntry, ...]
    """The last submissions that we made, the latest first."""


def read_local_status(config: Config) -> LocalStatus:
    """Look at the kit on disk and at the last rehearsal, without building anything."""
    try:
        kit = pipeline.read_kit(config)
    except ProjectError as error:
        problems = (error.what, *error.details) if config.out.exists() else ()
        return LocalStatus(config=config, kit=None, problems=problems, rehearsal=None)
    rehearsal = rehearsing.read_last_report(kit)
    return LocalStatus(config=config, kit=kit, problems=pipeline.find_damage(kit), rehearsal=rehearsal)


def read_remembered_status(config: Config) -> tuple[RemoteStatus, ...]:
    """Return what was seen last, at every Kaggle and for every account; asks nobody."""
    return tuple(_read_remembered(config, folder) for folder in part_locations.state_folders(config))


def _read_remembered(config: Config, folder: Path) -> RemoteStatus:
    memory, local = LastSeenStore(folder), folder.parent.name == "local"
    pushed = memory.load_facts(part_locations.LAST_PUSH) or {}
    run = memory.load_facts(LAST_RUN) or {}
    pieces = [
        RemotePart(
            name=str(part.get("part")),
            ref=str(part.get("dataset")),
            version=int(part.get("version") or 0),
            holds=str(part.get("id", "")),
        )
        for part in pushed.get("parts") or ()
    ]
    record = remote_wheelhouse.read_record(config.project)
    if pushed and record and record.files and record.local is local:
        name = remote_wheelhouse.PART
        pieces.append(RemotePart(name=name, ref=record.notebook, version=record.version, holds=record.part))
    if run.get("version"):
        pieces.append(
            RemotePart(
                name="notebook",
                ref=str(run.get("notebook")),
                version=int(run["version"]),
                state="complete",
                holds=str(run.get("kit", "")),
            )
        )
    return RemoteStatus(
        place="the local Kaggle" if local else "Kaggle",
        account=folder.name,
        looked=False,
        at=str(pushed.get("at", "")),
        pieces=tuple(pieces),
        run=run or None,
        submissions=_last_submissions(part_locations.open_ledger(config, folder, local=local)),
    )


def read_remote_status(session: KaggleSession, kit: Kit | None) -> RemoteStatus:
    """Ask Kaggle now; without a kit only for the submissions. Waits for nothing."""
    competition = session.config.competition
    if competition and session.ledger.find_latest(competition):
        for submission in session.kaggle.list_submissions(competition):
            session.ledger.update_entry(submission)
    return RemoteStatus(
        place=session.account.server_name,
        account=session.account.username,
        looked=True,
        at=str((session.memory.load_facts(part_locations.LAST_PUSH) or {}).get("at", "")),
        pieces=tuple(_inspect_parts(session, kit)) if kit else (),
        run=session.memory.load_facts(LAST_RUN),
        submissions=_last_submissions(session.ledger),
    )


def _inspect_parts(session: KaggleSession, kit: Kit) -> Iterator[RemotePart]:
    owner, datasets = session.account.username, session.part_datasets(kit)
    locations = session.other_locations(kit)
    for part in kit.parts:
        if part.name in datasets:
            ref = datasets[part.name]
            yield _inspect_dataset(session.kaggle, ref if "/" in ref else f"{owner}/{ref}", part)
    for part in kit.parts:
        if part.name in locations:
            remote = kit_parts.inspect_part(part, locations[part.name], session.kaggle)
            holds = _describe_content(remote.part, part) if remote.version else "nothing"
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


def _inspect_dataset(kaggle: KaggleClient, ref: str, part: KitPart) -> RemotePart:
    dataset = kaggle.get_dataset(ref)
    if dataset is None:
        return RemotePart(name=part.name, ref=ref)
    state, holds = kaggle.get_dataset_status(ref), ""
    if state == "ready":
        holds = _describe_content(kit_parts.read_dataset(kaggle, dataset, state).part, part)
    return RemotePart(name=part.name, ref=ref, version=dataset.version, state=state, holds=holds)


def _describe_content(remote_part: KitPart | None, part: KitPart) -> str:
    if remote_part is None:
        return "no kit"
    return "this kit" if remote_part.id == part.id else "another kit"


def _last_submissions(ledger: SubmissionLedger) -> tuple[LedgerEntry, ...]:
    return tuple(reversed(ledger.read_entries()[-SHOWN:]))
