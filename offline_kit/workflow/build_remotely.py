"""The build on Kaggle: its own machine makes the packages, for its own image, and keeps them for the notebook.

A notebook with the internet on is pushed and run; what it made is remembered beside the project. From then on
a build takes its packages to be there, and the offline notebook attaches them there. The wheels themselves come
here only for a rehearsal here.
"""

import os
import shutil
import tempfile
import tomllib
from concurrent.futures import wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from offline_kit.core import files
from offline_kit.core.cache import Cache
from offline_kit.core.errors import OutsideError, ProjectError, UsageError
from offline_kit.core.report import SILENT, Advance, Reporter
from offline_kit.core.thread_pool import WaitFor, cancelling_pool
from offline_kit.kaggle.client.api_types import NewNotebook
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.push import notebook_runs, push_notebook
from offline_kit.kaggle.push import notebook_runs as runs
from offline_kit.kaggle.push.notebook_runs import FinishedRun
from offline_kit.kaggle.push.push_notebook import NotebookPlan
from offline_kit.kit import manifest
from offline_kit.notebook import rendering as notebook
from offline_kit.notebook.runtime import kit_capture, kit_wheelhouse
from offline_kit.project import images
from offline_kit.project.config import Config
from offline_kit.project.images import Image
from offline_kit.project.kaggle_names import MARKER
from offline_kit.project.types import FileEntry, Kit
from offline_kit.workflow import model_files, part_locations, pipeline
from offline_kit.workflow.kaggle_session import LOCAL_ADDRESS, KaggleSession
from offline_kit.workflow.pipeline import BuildResult
from offline_kit.workflow.remote_build import build_job, remote_wheelhouse
from offline_kit.workflow.remote_build import build_request as asked
from offline_kit.workflow.remote_build.build_job import RemoteJob
from offline_kit.workflow.remote_build.build_request import RemoteRequest
from offline_kit.workflow.remote_build.remote_wheelhouse import WheelhouseRecord

FACTS = "image.json"
"""Output file of a run with the facts of its image."""


@dataclass(frozen=True, kw_only=True)
class RemoteBuild:
    """A kit with packages built on Kaggle."""

    built: BuildResult
    """The kit."""
    record: WheelhouseRecord
    """Where its packages are."""
    ran: bool
    """Whether a run was made for it, or one from before serves."""
    seconds: float
    """How long the run took."""

    @property
    def wheels_size(self) -> int:
        """Bytes of the wheels, which stay there."""
        away = [part for part in self.built.kit.parts if part.name == manifest.REMOTE_PART]
        return sum(entry.size for part in away for entry in part.entries)


@dataclass(frozen=True, kw_only=True)
class RemoteBuildPlan:
    """What a build on Kaggle would do."""

    notebook: NotebookPlan
    """The notebook that makes the packages, and whether it would be pushed and run."""
    asked: RemoteRequest
    """What it is asked for; which wheels that comes to, the image's own pip decides there."""
    offline: str
    """"owner/slug" of the kit's notebook, which attaches its output."""
    upgrade: bool
    """Whether it would run again although nothing changed."""

    @property
    def needs_run(self) -> bool:
        """Whether a run would be made."""
        return self.notebook.action != "nothing" or self.upgrade


def plan_build(
    config: Config, session: KaggleSession, *, upgrade: bool = False, report: Reporter = SILENT
) -> RemoteBuildPlan:
    """Look at Kaggle and return what `build` would do; pushes, fetches and writes nothing, raises as `build`."""
    request, new = _prepare_job(config, session, report)
    _, slug = notebook.title_and_slug(config.notebook, model_files.notebook_target(config))
    return RemoteBuildPlan(
        notebook=push_notebook.plan_notebook(new, session.kaggle, session.settings, report),
        asked=request,
        offline=f"{session.account.username}/{slug}",
        upgrade=upgrade,
    )


def build_remotely(
    config: Config, session: KaggleSession, *, upgrade: bool = False, report: Reporter = SILENT
) -> RemoteBuild:
    """Have Kaggle make what its image lacks, and build the kit around it.

    With the same requirements as last time nothing runs again, unless `upgrade` is wanted. Raises
    ProjectError for requirements that cannot travel as text and for a run that failed, else what pushes,
    runs and builds raise.
    """
    request, new = _prepare_job(config, session, report)
    pushed_now, finished = run_job(session, new, upgrade=upgrade, report=report)
    record = _cache_outputs(
        session, finished, request.request_digest, files.make_folder(files.cache_dir()), report
    )
    remote_wheelhouse.write_record(record, config.project)
    return RemoteBuild(
        built=pipeline.build_kit(config, report=report),
        record=record,
        ran=pushed_now,
        seconds=finished.seconds,
    )


def _prepare_job(
    config: Config, session: KaggleSession, report: Reporter
) -> tuple[RemoteRequest, NewNotebook]:
    """Return what Kaggle is to make, and the notebook that does."""
    base = pipeline.build_context(config, chained=False)
    request = pipeline.freeze_request_of(config, base, report)
    if not request.requirements:
        raise UsageError(
            "the project requires no packages: there is nothing to build on Kaggle",
            code="no-packages-requested",
            hint="build without --on, or capture only the image with 'offline-kit image capture'",
        )
    if note := asked.index_note(base.settings):
        report.note(note)
    job = RemoteJob(
        config=config, username=session.account.username, where=_kaggle_words(session), asked=request
    )
    return request, build_job.new_notebook(job)


def run_job(
    session: KaggleSession, new: NewNotebook, *, upgrade: bool = False, report: Reporter = SILENT
) -> tuple[bool, FinishedRun]:
    """Push a job's notebook and wait for its run; return whether it was pushed now, and its end. `upgrade` runs it again."""
    if upgrade:
        plan = push_notebook.plan_notebook(new, session.kaggle, session.settings, report)
        if plan.version:
            push_notebook.void_version(new, plan.version, session.settings)
    logs = session.settings.state_folder / "runs" / new.ref.partition("/")[2]
    pushed, finished = runs.push_and_follow(new, session.kaggle, session.settings, report, log_folder=logs)
    return pushed.action != "nothing", finished


def image_text(session: KaggleSession, finished: FinishedRun, folder: Path, report: Reporter = SILENT) -> str:
    """Return the image file of a finished job; its digest is what Kaggle says of that version."""
    (path,) = runs.fetch_outputs(finished, session.kaggle, folder, [FACTS], report)
    remote_notebook = session.kaggle.get_notebook(finished.ref, finished.version)
    return remote_wheelhouse.captured_image(
        path.read_text(encoding="utf-8"),
        remote_notebook.image if remote_notebook else "",
        _kaggle_words(session),
    )


def _cache_outputs(
    session: KaggleSession, finished: FinishedRun, digest: str, cache: Path, report: Reporter
) -> WheelhouseRecord:
    """Bring what a kit is built from into the cache: manifest, outlines and image, and none of the wheels."""
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as name:
        folder = Path(name)
        marker, facts = runs.fetch_outputs(
            finished, session.kaggle, folder, [MARKER, kit_wheelhouse.FACTS], report
        )
        part = manifest.parse_manifest(marker.read_text(encoding="utf-8"), f"{finished.ref}/{MARKER}")
        text = image_text(session, finished, folder, report)
        record = WheelhouseRecord(
            notebook=finished.ref,
            version=finished.version,
            asked=digest,
            part=part.id,
            image=_text_digest(text),
            files=len(part.entries),
            local=session.local,
        )
        with files.stage_folder(remote_wheelhouse.cache_folder(record, cache)) as stage:
            remote_wheelhouse.store_outputs(stage, part, facts.read_text(encoding="utf-8"), text)
    return record


def missing_wheels(kit: Kit) -> tuple[FileEntry, ...]:
    """Return the wheels of a kit that are on Kaggle alone; those that were fetched once are laid into the kit."""
    cache, missing = Cache(files.cache_dir()), []
    for part in (part for part in kit.parts if part.name == manifest.REMOTE_PART):
        for entry in part.entries:
            target = kit.part_folder(part) / entry.stored
            if target.exists():
                continue
            if blob := cache.find_blob(entry.sha256, size=entry.size):
                files.link_or_copy(blob, target)
                os.utime(target, ns=(target.stat().st_atime_ns, blob.stat().st_mtime_ns))
            else:
                missing.append(entry)
    return tuple(missing)


def remote_address(config: Config) -> str:
    """Return where the project's packages were made, as --to means it; ProjectError if nothing tells."""
    return "local" if _read_record(config).local else "kaggle"


def fetch_wheels(kit: Kit, session: KaggleSession, report: Reporter = SILENT, *, look: float = 0.2) -> None:
    """Bring the wheels that a rehearsal here lacks, each checked and kept; an interrupted one goes on.

    Every `look` seconds the bar is told how much has come.

    Raises ProjectError if they are at another Kaggle or of another account, OutsideError if what comes
    is not what the run wrote.
    """
    missing, cache = missing_wheels(kit), Cache(files.cache_dir())
    if not missing:
        return
    record = _read_record(session.config)
    part_locations.check_locations(session.config, session.account.username, local=session.local)
    if session.kaggle.get_notebook(record.notebook) is None:
        raise _missing_output_error(record, session)
    run = (record.notebook, record.version)
    total = sum(entry.size for entry in missing)
    text = f"Fetching {len(missing)} wheels, {files.format_size(total)}, from '{record.notebook}'"
    scratch = cache.partial_path(f"wheels-{os.getpid()}").with_suffix("")
    with report.progress(text, total) as advance:
        try:
            for entry in missing:
                came = _fetch_wheel(run, entry, session.kaggle, scratch, advance, look)
                if (digest := files.sha256_of(came)) != entry.sha256:
                    raise OutsideError(
                        f"'{entry.stored}' of '{record.notebook}' is not what its run wrote",
                        code="remote-output-changed",
                        hint="run the same command again; 'offline-kit verify --deep' checks all files",
                        details=[f"expected sha256 {entry.sha256}", f"it has       {digest}"],
                    )
                cache.store_file(came, digest)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    missing_wheels(kit)  # lays them into the kit


def _fetch_wheel(
    run: tuple[str, int], entry: FileEntry, kaggle: KaggleClient, scratch: Path, advance: Advance, look: float
) -> Path:
    """Bring one wheel, telling how far it is: on a slow line a large one takes its time."""
    reported = 0
    with cancelling_pool(1, wait_for=WaitFor.NEVER) as pool:  # a silent server would hold up Ctrl-C
        coming = pool.submit(notebook_runs.fetch_output, run, entry.stored, kaggle, scratch)
        while wait((coming,), timeout=look).not_done:
            landed = min(entry.size, max(reported, _landed_wheels(scratch)))
            advance(landed - reported)
            reported = landed
        came = coming.result()
        advance(entry.size - reported)
        return came


def _landed_wheels(folder: Path) -> int:
    total = 0
    for name in files.list_tree(folder) if folder.is_dir() else ():
        with suppress(FileNotFoundError):
            total += (folder / name).stat().st_size
    return total


def _missing_output_error(record: WheelhouseRecord, session: KaggleSession) -> OutsideError:
    another = f"set {LOCAL_ADDRESS} to the address of the local Kaggle that has them, or make them again with"
    return OutsideError(
        f"'{record.notebook}', which made the kit's packages, is not on {session.account.server_name}",
        code="remote-wheelhouse-missing",
        hint=f"{another} 'offline-kit build --on local'"
        if session.local
        else "make them again with 'offline-kit build --on kaggle'",
    )


def _read_record(config: Config) -> WheelhouseRecord:
    record = remote_wheelhouse.read_record(config.project)
    if record is None:
        raise ProjectError(
            f"the kit's packages are on Kaggle, but '{remote_wheelhouse.RECORD}', which names their notebook, is missing",
            code="wheelhouse-record-missing",
            hint="restore it, or run 'offline-kit build' to make the packages here",
        )
    return record


def _text_digest(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def _kaggle_words(session: KaggleSession) -> str:
    return "the local Kaggle" if session.local else "Kaggle"


def capture_here() -> str:
    """Return the image file of the running environment, for whoever runs offline-kit in the image itself."""
    return kit_capture.format_image_file(
        kit_capture.capture_image("captured-here"), platform_name="this machine"
    )


def capture_on_kaggle(config: Config, session: KaggleSession, report: Reporter = SILENT) -> str:
    """Return the image file of the machine that the configuration's accelerator gets today.

    A private notebook without internet and without any input is run for it, each time. Raises what
    pushes and runs raise.
    """
    server_name = "the local Kaggle" if session.local else "Kaggle"
    new = build_job.new_notebook(
        RemoteJob(config=config, username=session.account.username, where=server_name)
    )
    _, finished = run_job(session, new, upgrade=True, report=report)
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as name:
        return image_text(session, finished, Path(name), report)


def write_image(text: str, path: Path) -> Image:
    """Write an image file and return the image, as `--image` will read it."""
    files.write_atomic(path, text)
    return images.load_image(str(path.absolute()), accelerator="none", project=path.parent)


def name_of(text: str) -> str:
    """Return the name of the image that an image file describes."""
    return str(tomllib.loads(text)["name"])
