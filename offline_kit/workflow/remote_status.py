"""What of a kit is on Kaggle: as it was seen last, from this disk, or looked at now."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_kit.core.errors import OfflineKitError
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.push import push_datasets, push_notebook, verify_remote
from offline_kit.kaggle.push.journal import LastSeenStore
from offline_kit.kaggle.push.submission_ledger import LedgerEntry, SubmissionLedger
from offline_kit.project.config import Config
from offline_kit.project.types import Kit, KitPart
from offline_kit.workflow import kaggle_session
from offline_kit.workflow import part_locations as homes
from offline_kit.workflow.kaggle_session import KaggleSession
from offline_kit.workflow.remote_build import remote_wheelhouse

SHOWN = 5
"""Submissions that are shown, the latest ones."""


@dataclass(frozen=True, kw_only=True)
class RemotePart:
    """A dataset, a model or a notebook on Kaggle."""

    name: str
    """The part's name, or "notebook"."""
    ref: str
    """"owner/slug", of a model "owner/model/framework/variation"."""
    version: int
    """The newest version, of a model the pinned one; 0 if there is none."""
    state: str
    """The processing state of a dataset or the state of a run; empty if it was not looked at."""
    holds: str
    """"this kit", "another kit", "no kit", "nothing" or, where it was not looked at, an id: a part's, for the notebook the kit's."""


@dataclass(frozen=True, kw_only=True)
class RemoteStatus:
    """What is at one Kaggle, for one account."""

    place: str
    """"Kaggle", or "the local Kaggle"."""
    account: str
    """Whose."""
    looked: bool
    """Whether Kaggle was asked; else it is what was seen last."""
    at: str
    """When the data was pushed last from here: ISO 8601 in UTC; empty for never."""
    pieces: tuple[RemotePart, ...]
    """Datasets, what lies elsewhere, then the notebook."""
    run: dict[str, Any] | None
    """The last run of the notebook that we followed, or the problem that it ended with."""
    submissions: tuple[LedgerEntry, ...]
    """The last submissions that we made, the latest first."""


def remembered_status(config: Config) -> tuple[RemoteStatus, ...]:
    """Return what was seen last, at every Kaggle and for every account; asks nobody."""
    return tuple(_read_remembered(config, folder) for folder in homes.state_folders(config))


def _read_remembered(config: Config, folder: Path) -> RemoteStatus:
    memory, local = LastSeenStore(folder), folder.parent.name == "local"
    pushed = memory.load_facts(homes.LAST_PUSH) or {}
    run = memory.load_facts(kaggle_session.LAST_RUN)
    pieces = [
        RemotePart(
            name=str(part.get("part")),
            ref=str(part.get("dataset")),
            version=int(part.get("version") or 0),
            state="",
            holds=str(part.get("id", "")),
        )
        for part in pushed.get("parts") or ()
    ]
    record = remote_wheelhouse.read_record(config.project)
    if pushed and record and record.files and record.local is local:
        pieces.append(
            RemotePart(
                name=remote_wheelhouse.PART,
                ref=record.notebook,
                version=record.version,
                state="",
                holds=record.part,
            )
        )
    if run and run.get("version"):
        pieces.append(
            RemotePart(
                name="notebook",
                ref=str(run.get("notebook")),
                version=int(run.get("version") or 0),
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
        run=run,
        submissions=_last_submission(SubmissionLedger(homes.ledger_path(config, folder, local=local))),
    )


def read_remote_status(session: KaggleSession, kit: Kit | None) -> RemoteStatus:
    """Ask Kaggle now; without a kit only for the submissions. Waits for nothing."""
    _refresh_ledger(session)
    pieces = tuple(_remote_parts(session, kit)) if kit else ()
    return RemoteStatus(
        place=session.account.server_name,
        account=session.account.username,
        looked=True,
        at=str((session.memory.load_facts(homes.LAST_PUSH) or {}).get("at", "")),
        pieces=pieces,
        run=session.memory.load_facts(kaggle_session.LAST_RUN),
        submissions=_last_submission(session.ledger),
    )


def _refresh_ledger(session: KaggleSession) -> None:
    """Lay what Kaggle tells of our submissions over the ledger."""
    competition = session.config.competition
    if competition and session.ledger.find_latest(competition):
        for submission in session.kaggle.list_submissions(competition):
            session.ledger.update_entry(submission)


def _remote_parts(session: KaggleSession, kit: Kit) -> Iterator[RemotePart]:
    owner = session.account.username
    for part in session.without_other_parts(kit).parts:
        dataset = session.part_datasets(kit)[part.name]
        yield _dataset_part(session.kaggle, dataset if "/" in dataset else f"{owner}/{dataset}", part)
    homes = session.other_locations(kit)
    for part in kit.parts:
        if part.name in homes:
            yield _other_part(session.kaggle, homes[part.name], part)
    try:
        new = push_notebook.read_notebook(kit, owner)
    except OfflineKitError:
        return  # a kit without a notebook, or one that is not ours to push
    notebook = session.kaggle.get_notebook(new.ref)
    run = session.kaggle.get_notebook_run(new.ref, notebook.newest_version) if notebook else None
    is_current = notebook is not None and push_notebook.is_same(new, notebook)
    yield RemotePart(
        name="notebook",
        ref=new.ref,
        version=notebook.newest_version if notebook else 0,
        state=run.state if run else "",
        holds="nothing" if notebook is None else "this kit" if is_current else "another kit",
    )


def _dataset_part(kaggle: KaggleClient, ref: str, part: KitPart) -> RemotePart:
    dataset = kaggle.get_dataset(ref)
    if dataset is None:
        return RemotePart(name=part.name, ref=ref, version=0, state="", holds="nothing")
    state = kaggle.get_dataset_status(ref)
    held_part = push_datasets.read_part(kaggle, ref, dataset.version) if state == "ready" else None
    holds = "no kit" if held_part is None else "this kit" if held_part.id == part.id else "another kit"
    return RemotePart(
        name=part.name, ref=ref, version=dataset.version, state=state, holds=holds if state == "ready" else ""
    )


def _other_part(kaggle: KaggleClient, home: str, part: KitPart) -> RemotePart:
    remote = verify_remote.inspect_part(part, home, kaggle)
    holds = "no kit" if remote.part is None else "this kit" if remote.part.id == part.id else "another kit"
    return RemotePart(
        name=part.name,
        ref=remote.ref,
        version=remote.version,
        state=remote.state,
        holds=holds if remote.version else "nothing",
    )


def _last_submission(ledger: SubmissionLedger) -> tuple[LedgerEntry, ...]:
    return tuple(reversed(ledger.read_entries()[-SHOWN:]))
