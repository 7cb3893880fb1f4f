"""Where the parts of a kit are on Kaggle, where this disk remembers what was sent, and what was seen last."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_kit.adopt import recording
from offline_kit.core import files
from offline_kit.core.errors import ProjectError
from offline_kit.kaggle.push.submission_ledger import LedgerEntry, SubmissionLedger
from offline_kit.kit import manifest
from offline_kit.project.config import Config
from offline_kit.project.kaggle_names import split_model_name
from offline_kit.project.types import Kit, OutputPart
from offline_kit.workflow import remote_wheelhouse

SHOWN = 5  # submissions that are shown, the latest ones
LAST_PUSH = "last-push.json"  # file of the newest push of data, in the folder of a Kaggle and account
LAST_RUN = "last-run.json"  # file of the newest run of the kit's notebook
MODEL_PART = "checkpoints"  # the part that may be a model
_OURS = ".offline-kit"  # the folder in the project that a build never replaces
_LEDGER = "submissions.jsonl"


def find_output_part(config: Config) -> OutputPart | None:
    """Return the part of the project's kit that stays on Kaggle; None if there is none."""
    if recorded := recording.find_recorded(config.project, config.notebook.source):
        return recorded.output
    record = remote_wheelhouse.read_record(config.project)
    return record.output if record and record.files else None


def check_locations(config: Config, username: str, *, local: bool) -> None:
    """Raise ProjectError if a part stays at another Kaggle, or with another account, than the kit goes to."""
    part = find_output_part(config)
    if part is None:
        return
    owner = part.notebook.partition("/")[0]
    # A name in another case is the same account.
    if part.local is local and owner.casefold() == username.casefold():
        return
    made_at, goes_to = (("the local Kaggle" if is_local else "Kaggle") for is_local in (part.local, local))
    raise ProjectError(
        f"the kit's {part.name} was made on {made_at} by '{owner}', and this kit goes to {goes_to} as '{username}'",
        code="part-of-other-account",
        hint=f"'{part.command} {'local' if local else 'kaggle'}' makes it there; or remove '{part.record}'",
    )


def find_kit(config: Config) -> Kit | None:
    """Return the kit on disk; None if there is none, or its manifests are damaged."""
    with suppress(ProjectError):
        return manifest.read_kit(config.out)
    return None


def pinned_model_version(config: Config, kit: Kit) -> tuple[str, ...]:
    """Return the version of our model that the last push pinned, while this kit has the same checkpoints."""
    if not config.publish_model:
        return ()
    if (before := find_kit(config)) is None:
        return ()
    old, new = ([part.id for part in side.parts if part.name == MODEL_PART] for side in (before, kit))
    if old != new:
        return ()
    _, slug, variation = split_model_name(config.publish_model)
    # A source of a model ends with its version: owner/model/framework/variation/version.
    metadata = files.read_json(config.out / "notebook" / "kernel-metadata.json")
    sources = map(str, metadata.get("model_sources") or ())
    return tuple(source for source in sources if f"/{slug}/{variation}/" in source)


def part_locations(config: Config, account: str = "you", version: str = "1") -> dict[str, str]:
    """Return the location of each part that is no dataset, by the part's name: "notebook:owner/slug", "model:...".

    Only who is logged in knows whose a model is, and only a push its version.
    """
    output = find_output_part(config)
    locations = {output.name: f"notebook:{output.notebook}"} if output else {}
    if config.publish_model:
        owner, slug, variation = split_model_name(config.publish_model)
        locations[MODEL_PART] = f"model:{owner or account}/{slug}/{variation}/{version}"
    return locations


def memory_folder(config: Config) -> Path:
    """Return the folder that remembers what was sent: in the project, since people delete `dist` to start over."""
    return config.project / _OURS / f"{config.out.name}.push"


def records_folder(config: Config) -> Path:
    """Return the folder that remembers the rehearsals of the kits in this output folder."""
    return config.project / _OURS / f"{config.out.name}.rehearsals"


def state_folders(config: Config) -> tuple[Path, ...]:
    """Return the folders of all Kaggles and accounts that this project was pushed to, as <place>/<account>."""
    return tuple(sorted(path for path in memory_folder(config).glob("*/*") if path.is_dir()))


def open_ledger(config: Config, state: Path, *, local: bool) -> SubmissionLedger:
    """Return the record of submissions: for the real Kaggle beside the project, to be kept."""
    return SubmissionLedger((state if local else config.project / _OURS) / _LEDGER)


def pushed_parts(config: Config) -> tuple[str, ...]:
    """Return the names of the parts that were sent last to the configured dataset; empty if none is known.

    In a fresh clone, only the ledger tells them, if it is kept in git.
    """
    slug = config.dataset.rpartition("/")[2]
    pushes = [files.read_json(state / LAST_PUSH) for state in state_folders(config)]
    for push in sorted(pushes, key=lambda push: str(push.get("at", "")), reverse=True):
        sent = {str(part.get("part")): str(part.get("dataset")) for part in push.get("parts") or ()}
        slugs = {name: ref.rpartition("/")[2] for name, ref in sent.items()}
        if any(ref in (slug, f"{slug}-{name}") for name, ref in slugs.items()):
            return tuple(slugs)
    submissions = open_ledger(config, Path(), local=False).read_entries()
    return tuple(next((entry.parts for entry in reversed(submissions) if entry.parts), ()))


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
    return tuple(_read_remembered(config, folder, shown) for folder in state_folders(config))


def _read_remembered(config: Config, folder: Path, shown: int) -> RemoteStatus:
    local = folder.parent.name == "local"
    pushed, run = (files.read_json(folder / name) for name in (LAST_PUSH, LAST_RUN))
    pieces = [
        RemotePart(
            name=str(part.get("part")),
            ref=str(part.get("dataset")),
            version=int(part.get("version") or 0),
            holds=str(part.get("id", "")),
        )
        for part in pushed.get("parts") or ()
    ]
    output = find_output_part(config)
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
        submissions=list_last_submissions(open_ledger(config, folder, local=local), shown),
    )


def list_last_submissions(ledger: SubmissionLedger, shown: int = SHOWN) -> tuple[LedgerEntry, ...]:
    """Return the last submissions, the latest first."""
    return tuple(reversed(ledger.read_entries()[-shown:]))
