"""The build on Kaggle: its own machine makes the packages, for its own image, and keeps them for the notebook.

A notebook with the internet on is pushed and run; what it wrote is fetched and checked, and remembered beside
the project. From then on a build takes the packages from there, and the offline notebook attaches them there.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from offline_kit import files, manifest, pipeline
from offline_kit.chained import asked, house, job
from offline_kit.chained.house import Record
from offline_kit.chained.job import Job
from offline_kit.config import Config
from offline_kit.errors import OutsideError, UsageError
from offline_kit.kaggle_gateway.nouns import NewNotebook
from offline_kit.kaggle_names import MARKER
from offline_kit.pipeline import Built
from offline_kit.push import notebooks, runs
from offline_kit.push.runs import Finished
from offline_kit.report import SILENT, Reporter
from offline_kit.shipping import Port

FACTS = "image.json"
"""What a run tells about its image."""


@dataclass(frozen=True, kw_only=True)
class Chained:
    """A kit whose packages were made on Kaggle."""

    built: Built
    """The kit."""
    record: Record
    """Where its packages are."""
    ran: bool
    """Whether a run was made for it, or one from before serves."""
    seconds: float
    """How long the run took."""


def build(config: Config, port: Port, *, upgrade: bool = False, report: Reporter = SILENT) -> Chained:
    """Have Kaggle make what its image lacks, fetch it, and build the kit around it.

    With the same requirements as last time nothing runs again, unless `upgrade` is wanted. Raises
    ProjectError for requirements that cannot travel as text and for a run that failed, else what pushes,
    runs and builds raise.
    """
    base = pipeline.ground(config, chained=False)
    wanted = pipeline.asked_of(config, base, report)
    if not wanted.requirements:
        raise UsageError(
            "the project asks for no packages: there is nothing to make on Kaggle",
            hint="build here, without --on; or capture the image alone with 'offline-kit image capture'",
        )
    if note := asked.index_note(base.settings):
        report.note(note)
    new = job.new_notebook(
        Job(config=config, username=port.account.username, where=_where(port), asked=wanted)
    )
    pushed_now, finished = run(port, new, upgrade=upgrade, report=report)
    record = _fetched(port, finished, wanted.digest, base.cache, report)
    house.write(record, config.project)
    return Chained(
        built=pipeline.build(config, report=report),
        record=record,
        ran=pushed_now,
        seconds=finished.seconds,
    )


def run(
    port: Port, new: NewNotebook, *, upgrade: bool = False, report: Reporter = SILENT
) -> tuple[bool, Finished]:
    """Push a job's notebook and wait for its run; tell whether it was pushed now. `upgrade` runs it again."""
    if upgrade:
        same = notebooks.plan(new, port.kaggle, port.ways, report)
        if same.version:
            notebooks.void(new, same.version, port.ways)
    logs = port.ways.state / "runs" / new.ref.partition("/")[2]
    pushed, finished = runs.push_and_follow(new, port.kaggle, port.ways, report, logs=logs)
    return pushed.action != "nothing", finished


def image_text(port: Port, finished: Finished, folder: Path, report: Reporter = SILENT) -> str:
    """Return the image file of a finished job; its digest is what Kaggle says of that version."""
    (path,) = runs.fetch(finished, port.kaggle, folder, [FACTS], report)
    there = port.kaggle.notebook(finished.ref, finished.version)
    return house.image_of(path.read_text(encoding="utf-8"), there.image if there else "", _where(port))


def _fetched(port: Port, finished: Finished, digest: str, cache: Path, report: Reporter) -> Record:
    """Bring what a run made into the cache, checked against its manifest; what is there is not fetched again."""
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as name:
        folder = Path(name)
        (marker,) = runs.fetch(finished, port.kaggle, folder, [MARKER], report)
        part = manifest.parse(marker.read_text(encoding="utf-8"), f"{finished.ref}/{MARKER}")
        text = image_text(port, finished, folder, report)
        record = Record(
            notebook=finished.ref,
            version=finished.version,
            asked=digest,
            part=part.id,
            image=_digest(text),
            files=len(part.entries),
            local=port.local,
        )
        place = house.place(record, cache)
        if not place.is_dir() or manifest.verify(place / house.PART, part):
            names = [entry.stored for entry in part.entries]
            runs.fetch(finished, port.kaggle, folder, names, report)
            with files.staged(place) as stage:
                manifest.write(stage / house.PART, part)
                for entry in part.entries:
                    target = stage / house.PART / entry.stored
                    files.made(target.parent)
                    shutil.move(folder / entry.stored, target)
                (stage / "image.toml").write_text(text, encoding="utf-8")
                if wrong := manifest.verify(stage / house.PART, part, report=report):
                    raise OutsideError(
                        f"what came of '{finished.ref}' is not what its run wrote",
                        hint="run the same command again",
                        details=wrong,
                    )
    return record


def _digest(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def _where(port: Port) -> str:
    return "the local Kaggle" if port.local else "Kaggle"
