"""Build the packages on Kaggle's own machine, for its own image, and keep them there for the notebook.

A private notebook with internet resolves, downloads and builds; its output is a part of the kit, which the offline
notebook attaches there. Only its manifest comes here; the wheels themselves only for a rehearsal on this machine.
"""

import hashlib
import json
import os
import shutil
import tempfile
import tomllib
from concurrent.futures import wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from offline_kit import __version__
from offline_kit.core import files
from offline_kit.core.cache import Cache
from offline_kit.core.errors import OutsideError, ProjectError, UsageError
from offline_kit.core.report import SILENT, Advance, Reporter
from offline_kit.core.thread_pool import WaitFor, cancelling_pool
from offline_kit.kaggle.client.api_types import NewNotebook
from offline_kit.kaggle.push import notebook_runs, push_notebook
from offline_kit.kaggle.push.notebook_runs import FinishedRun
from offline_kit.kaggle.push.push_notebook import NotebookPlan
from offline_kit.kit import manifest
from offline_kit.notebook import rendering as notebook
from offline_kit.notebook import scripts
from offline_kit.notebook.runtime import kit_capture
from offline_kit.project import images
from offline_kit.project.accelerators import find_machine_shape
from offline_kit.project.config import Config
from offline_kit.project.images import Image
from offline_kit.project.kaggle_names import MARKER, TITLE_LENGTH, make_slug
from offline_kit.project.types import FileEntry, Kit
from offline_kit.workflow import model_files, part_locations, pipeline, remote_request, remote_wheelhouse
from offline_kit.workflow.kaggle_session import LOCAL_ADDRESS, KaggleSession
from offline_kit.workflow.pipeline import BuildResult
from offline_kit.workflow.remote_request import RemoteRequest
from offline_kit.workflow.remote_wheelhouse import WheelhouseRecord
from offline_kit.workflow.resolved_project import resolve_project

FACTS = "image.json"
"""Output file of a run with the facts of its image."""


@dataclass(frozen=True, kw_only=True)
class RemoteBuildPlan:
    """What a build on Kaggle would do."""

    notebook: NotebookPlan
    """The notebook that builds the packages, and whether it would be pushed and run."""
    request: RemoteRequest
    offline: str
    """"owner/slug" of the kit's notebook, which attaches its output."""
    upgrade: bool
    """Whether it would run again although nothing changed."""


def plan_build(
    config: Config, session: KaggleSession, *, upgrade: bool = False, report: Reporter = SILENT
) -> RemoteBuildPlan:
    """Look at Kaggle and return what a build would do; pushes, fetches and writes nothing."""
    request, new = _prepare_job(config, session, report)
    _, slug = notebook.title_and_slug(config.notebook, model_files.notebook_target(config))
    return RemoteBuildPlan(
        notebook=push_notebook.plan_notebook(new, session.kaggle, session.settings, report),
        request=request,
        offline=f"{session.account.username}/{slug}",
        upgrade=upgrade,
    )


def build_remotely(
    config: Config, session: KaggleSession, *, upgrade: bool = False, report: Reporter = SILENT
) -> tuple[BuildResult, WheelhouseRecord]:
    """Have Kaggle build what its image lacks, and build the kit around it.

    With the same requirements as last time nothing runs again, unless `upgrade` is set. Raises
    ProjectError for requirements that cannot travel as text and for a run that failed, else what pushes,
    runs and builds raise.
    """
    request, new = _prepare_job(config, session, report)
    finished = _run_job(session, new, upgrade=upgrade, report=report)
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as scratch:
        folder = Path(scratch)
        marker, facts = notebook_runs.fetch_outputs(
            finished, session.kaggle, folder, [MARKER, kit_capture.FACTS], report
        )
        part = manifest.parse_manifest(marker.read_text(encoding="utf-8"), f"{finished.ref}/{MARKER}")
        image_text = _fetch_image(session, finished, folder, report)
        record = WheelhouseRecord(
            notebook=finished.ref,
            version=finished.version,
            asked=request.request_digest,
            part=part.id,
            image=hashlib.sha256(image_text.encode()).hexdigest(),
            files=len(part.entries),
            local=session.local,
        )
        # What a kit is built from goes into the cache: manifest, outlines and image, and none of the wheels.
        with files.stage_folder(record.cache_folder(files.make_folder(files.cache_dir()))) as stage:
            remote_wheelhouse.store_outputs(stage, part, facts.read_text(encoding="utf-8"), image_text)
    remote_wheelhouse.write_record(record, config.project)
    return pipeline.build_kit(config, report=report), record


def _prepare_job(
    config: Config, session: KaggleSession, report: Reporter
) -> tuple[RemoteRequest, NewNotebook]:
    """Return what Kaggle is to build, and the notebook that does it."""
    project = resolve_project(config, report, chained=False)
    request = project.remote_request()
    if not request.requirements:
        raise UsageError(
            "the project requires no packages: there is nothing to build on Kaggle",
            code="no-packages-requested",
            hint="build without --on, or capture only the image with 'offline-kit image capture'",
        )
    if note := remote_request.index_note(project.settings):
        report.note(note)
    return request, render_job(config, session.account.username, session.account.server_name, request)


def render_job(
    config: Config, username: str, server_name: str, request: RemoteRequest | None = None
) -> NewNotebook:
    """Render the notebook that builds what the request asks for; without one, it only captures the image.

    It is private, and has the internet on only if packages are to be downloaded.
    """
    suffix = " wheelhouse" if request else " image"
    title = config.name[: TITLE_LENGTH[1] - len(suffix)].strip() + suffix
    shape = find_machine_shape(config.accelerator)
    place = "kaggle" if server_name == "Kaggle" else "local-kaggle"
    lists = ("requirements", "constraints", "protected", "include", "exclude")
    facts = {
        "title": title,
        "project": config.name,
        "tool_version": __version__,
        "image_name": f"{place}-captured-{'gpu' if shape else 'cpu'}",
        "where": server_name,
        "runtime": [{"name": "kit_capture", "source": notebook.paste_module("kit_capture")}],
        "preferred": dict(request.preferred) if request else {},
        **{name: list(getattr(request, name)) if request else [] for name in lists},
    }
    return NewNotebook(
        ref=f"{username}/{make_slug(title)}",
        title=title,
        text=scripts.to_notebook(scripts.fill_template("wheelhouse", config.project, facts)),
        gpu=bool(shape),
        machine_shape=shape,
        internet=request is not None,
    )


def _run_job(
    session: KaggleSession, new: NewNotebook, *, upgrade: bool, report: Reporter = SILENT
) -> FinishedRun:
    """Push a job's notebook and wait for its run; `upgrade` runs it again even if it has not changed."""
    if upgrade:
        plan = push_notebook.plan_notebook(new, session.kaggle, session.settings, report)
        if plan.version:
            push_notebook.void_version(new, plan.version, session.settings)
    logs = session.runs_folder(new.ref)
    _, finished = notebook_runs.push_and_follow(
        new, session.kaggle, session.settings, report, log_folder=logs
    )
    return finished


def _fetch_image(session: KaggleSession, finished: FinishedRun, folder: Path, report: Reporter) -> str:
    """Return the image file of a finished job; its digest is what Kaggle says of that version."""
    (path,) = notebook_runs.fetch_outputs(finished, session.kaggle, folder, [FACTS], report)
    remote_notebook = session.kaggle.get_notebook(finished.ref, finished.version)
    digest = remote_notebook.image if remote_notebook else ""
    return read_image_facts(path.read_text(encoding="utf-8"), digest, session.account.server_name)


def read_image_facts(text: str, digest: str, server_name: str) -> str:
    """Return the image file of what a run wrote about its image; ProjectError if that is invalid."""
    try:
        return kit_capture.format_image_file(json.loads(text), digest, server_name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise remote_wheelhouse.invalid_output_error("image", error) from error


def missing_wheels(kit: Kit) -> tuple[FileEntry, ...]:
    """Return the wheels of a kit that are on Kaggle alone; those that the cache has are linked into the kit."""
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
    """Return where the project's packages were made, as --to means it; ProjectError if the record is missing."""
    return "local" if _require_record(config).local else "kaggle"


def fetch_wheels(kit: Kit, session: KaggleSession, report: Reporter = SILENT, *, poll: float = 0.2) -> None:
    """Download the wheels that a rehearsal here lacks, each checked and kept; an interrupted download resumes.

    The progress bar advances every `poll` seconds. Raises ProjectError if they are at another Kaggle or of another
    account, OutsideError if what comes is not what the run wrote.
    """
    missing, cache = missing_wheels(kit), Cache(files.cache_dir())
    if not missing:
        return
    record = _require_record(session.config)
    part_locations.check_locations(session.config, session.account.username, local=session.local)
    if session.kaggle.get_notebook(record.notebook) is None:
        raise OutsideError(
            f"'{record.notebook}', which made the kit's packages, is not on {session.account.server_name}",
            code="remote-wheelhouse-missing",
            hint=f"set {LOCAL_ADDRESS} to the address of the local Kaggle that has them, or make them again with"
            " 'offline-kit build --on local'"
            if session.local
            else "make them again with 'offline-kit build --on kaggle'",
        )
    total = sum(entry.size for entry in missing)
    text = f"Fetching {len(missing)} wheels, {files.format_size(total)}, from '{record.notebook}'"
    scratch = cache.partial_path(f"wheels-{os.getpid()}").with_suffix("")
    with report.progress(text, total) as advance:
        try:
            for entry in missing:
                path = _fetch_wheel(record, entry, session, scratch, advance, poll)
                if (digest := files.sha256_of(path)) != entry.sha256:
                    raise OutsideError(
                        f"'{entry.stored}' of '{record.notebook}' is not what its run wrote",
                        code="remote-output-changed",
                        hint="run the same command again; 'offline-kit verify --deep' checks all files",
                        details=[f"expected sha256 {entry.sha256}", f"it has       {digest}"],
                    )
                cache.store_file(path, digest)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    missing_wheels(kit)  # links them into the kit


def _fetch_wheel(
    record: WheelhouseRecord,
    entry: FileEntry,
    session: KaggleSession,
    scratch: Path,
    advance: Advance,
    poll: float,
) -> Path:
    """Download one wheel and report its progress from the size of the file that grows in `scratch`."""
    reported = 0
    run = (record.notebook, record.version)
    # Not waited for if interrupted: a silent server would hold up Ctrl-C.
    with cancelling_pool(1, wait_for=WaitFor.NEVER) as pool:
        download = pool.submit(notebook_runs.fetch_output, run, entry.stored, session.kaggle, scratch)
        while wait((download,), timeout=poll).not_done:
            written = 0
            for name in files.list_tree(scratch) if scratch.is_dir() else ():
                with suppress(FileNotFoundError):  # renamed between listing and looking
                    written += (scratch / name).stat().st_size
            written = min(entry.size, max(reported, written))
            advance(written - reported)
            reported = written
        path = download.result()
        advance(entry.size - reported)
        return path


def _require_record(config: Config) -> WheelhouseRecord:
    record = remote_wheelhouse.read_record(config.project)
    if record is None:
        raise ProjectError(
            f"the kit's packages are on Kaggle, but '{remote_wheelhouse.RECORD}', which names their notebook, is missing",
            code="wheelhouse-record-missing",
            hint="restore it, or run 'offline-kit build' to make the packages here",
        )
    return record


def capture_here() -> str:
    """Return the image file of the running environment, for whoever runs offline-kit in the image itself."""
    return kit_capture.format_image_file(
        kit_capture.capture_image("captured-here"), platform_name="this machine"
    )


def capture_on_kaggle(config: Config, session: KaggleSession, report: Reporter = SILENT) -> str:
    """Return the image file of the machine that the configuration's accelerator gets today.

    Each time, a private notebook without internet and without any input is run for it. Raises what
    pushes and runs raise.
    """
    new = render_job(config, session.account.username, session.account.server_name)
    finished = _run_job(session, new, upgrade=True, report=report)
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as scratch:
        return _fetch_image(session, finished, Path(scratch), report)


def write_image(text: str, path: Path | None = None) -> tuple[Path, Image]:
    """Write an image file, by default under the image's name, and return its path and image as `--image` reads it."""
    path = path or Path(f"{tomllib.loads(text)['name']}.toml")
    files.write_atomic(path, text)
    return path, images.load_image(str(path.absolute()), accelerator="none", project=path.parent)
