"""What was seen last on each Kaggle, as this disk remembers it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_kit.core import files
from offline_kit.kaggle.push.submission_ledger import LedgerEntry, SubmissionLedger
from offline_kit.project.config import Config
from offline_kit.workflow import part_locations

SHOWN = 5  # submissions that are shown, the latest ones


@dataclass(frozen=True, kw_only=True)
class RemotePart:
    """A dataset, a model or a notebook on Kaggle."""

    name: str  # the part's name, or "notebook"
    ref: str  # "owner/slug", of a model "owner/model/framework/variation"
    version: int = 0  # the newest version, of a model the pinned one; 0 if there is none
    state: str = ""  # the processing state of a dataset or the state of a run; empty if it was not looked at
    holds: str = "nothing"
    """"this kit", "another kit", "no kit", "nothing" or, if it was not looked at, an id: a part's, for the notebook the kit's."""


@dataclass(frozen=True, kw_only=True)
class RemoteStatus:
    """What is at one Kaggle, for one account."""

    place: str  # "Kaggle", or "the local Kaggle"
    account: str
    looked: bool  # whether Kaggle was asked; else it is what was seen last
    at: str  # when the data was pushed last from here: ISO 8601 in UTC; empty for never
    pieces: tuple[RemotePart, ...]  # datasets, other parts, then the notebook
    run: dict[str, Any] | None
    """The last run of the notebook that we followed, or the problem that it ended with."""
    submissions: tuple[LedgerEntry, ...]  # the last submissions that we made, the latest first


def read_remembered_status(config: Config, *, shown: int = SHOWN) -> tuple[RemoteStatus, ...]:
    """Return what was seen last, at every Kaggle and for every account, with `shown` submissions; asks nobody."""
    return tuple(_read_remembered(config, folder, shown) for folder in part_locations.state_folders(config))


def _read_remembered(config: Config, folder: Path, shown: int) -> RemoteStatus:
    local = folder.parent.name == "local"
    pushed, run = (
        files.read_json(folder / name) for name in (part_locations.LAST_PUSH, part_locations.LAST_RUN)
    )
    pieces = [
        RemotePart(
            name=str(part.get("part")),
            ref=str(part.get("dataset")),
            version=int(part.get("version") or 0),
            holds=str(part.get("id", "")),
        )
        for part in pushed.get("parts") or ()
    ]
    output = part_locations.find_output_part(config)
    if pushed and output and output.local is local:
        pieces.append(
            RemotePart(name=output.name, ref=output.notebook, version=output.version, holds=output.id)
        )
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
        submissions=list_last_submissions(part_locations.open_ledger(config, folder, local=local), shown),
    )


def list_last_submissions(ledger: SubmissionLedger, shown: int = SHOWN) -> tuple[LedgerEntry, ...]:
    """Return the last submissions, the latest first."""
    return tuple(reversed(ledger.read_entries()[-shown:]))
