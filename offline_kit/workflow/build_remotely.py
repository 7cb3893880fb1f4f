"""Build the packages on Kaggle's own machine, for its own image, and keep them there for the notebook.

A private notebook with internet resolves, downloads and builds; its output is a part of the kit, which the offline
notebook attaches there. Only its manifest comes here; the wheels themselves only for a rehearsal on this machine.
"""

import hashlib
import json
import tempfile
import tomllib
from pathlib import Path

from offline_kit import __version__
from offline_kit.core import files, sandbox
from offline_kit.core.errors import UsageError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.kaggle.client.api_types import Account, NewNotebook
from offline_kit.kaggle.push import notebook_runs, push_notebook
from offline_kit.kit import manifest
from offline_kit.notebook import rendering as notebook
from offline_kit.notebook import scripts
from offline_kit.notebook.runtime import kit_capture
from offline_kit.project import images
from offline_kit.project.accelerators import find_machine_shape
from offline_kit.project.config import Config
from offline_kit.project.kaggle_names import MARKER, TITLE_LENGTH, make_slug
from offline_kit.rehearsal import container_python
from offline_kit.workflow import model_files, pipeline, remote_wheelhouse
from offline_kit.workflow.kaggle_session import KaggleSession
from offline_kit.workflow.remote_wheelhouse import RemoteRequest, WheelhouseRecord
from offline_kit.workflow.resolved_project import resolve_project

FACTS = "image.json"  # output file of a run with the facts of its image


def plan_build(session: KaggleSession) -> tuple[push_notebook.NotebookPlan, RemoteRequest, str]:
    """Look at Kaggle and return what a build would do; pushes, fetches and writes nothing.

    That is: the notebook that builds the packages, what it is asked for, and "owner/slug" of the kit's notebook,
    which attaches its output.
    """
    config, (request, new) = session.config, _prepare_job(session)
    _, slug = notebook.title_and_slug(config.notebook, model_files.notebook_target(config))
    plan = push_notebook.plan_notebook(new, session)
    return plan, request, f"{session.account.username}/{slug}"


def build_remotely(session: KaggleSession, *, upgrade: bool = False) -> pipeline.BuildResult:
    """Have Kaggle build what its image lacks, and build the kit around it.

    With the same requirements as last time nothing runs again, unless `upgrade` is set.
    """
    request, new = _prepare_job(session)
    finished = _run_job(session, new, upgrade=upgrade)
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as scratch:
        folder = Path(scratch)
        marker, facts = session.fetch_outputs(finished, folder, [MARKER, kit_capture.FACTS])
        part = manifest.parse_manifest(marker.read_text(encoding="utf-8"), f"{finished.ref}/{MARKER}")
        image_text = _fetch_image(session, finished, folder)
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
    # From now on each build takes its packages to be there.
    remote_wheelhouse.write_record(record, session.config.project)
    return pipeline.build_kit(session.config, report=session.report)


def _prepare_job(session: KaggleSession) -> tuple[RemoteRequest, NewNotebook]:
    """Return what Kaggle is to build, and the notebook that does it."""
    project = resolve_project(session.config, session.report, chained=False)
    request = project.remote_request()
    if not request.requirements:
        raise UsageError(
            "the project requires no packages: there is nothing to build on Kaggle",
            code="no-packages-requested",
            hint="build without --on, or capture only the image with 'offline-kit image capture'",
        )
    if note := remote_wheelhouse.index_note(project.settings):
        session.report.note(note)
    return request, render_job(session.config, session.account, request)


def render_job(config: Config, account: Account, request: RemoteRequest | None = None) -> NewNotebook:
    """Render the notebook that builds what the request asks for; without one, it only captures the image.

    It is private, and has the internet on only if packages are to be downloaded.
    """
    suffix = " wheelhouse" if request else " image"
    title = config.name[: TITLE_LENGTH[1] - len(suffix)].strip() + suffix
    shape = find_machine_shape(config.accelerator)
    server = "kaggle" if account.server_name == "Kaggle" else "local-kaggle"
    facts = {
        "title": title,
        "project": config.name,
        "tool_version": __version__,
        "image_name": f"{server}-captured-{'gpu' if shape else 'cpu'}",
        "where": account.server_name,
        "runtime": scripts.pack_runtime(),
        **{name: list(lines) for name, lines in vars(request or RemoteRequest()).items()},
        "preferred": dict(request.preferred) if request else {},
    }
    return NewNotebook(
        ref=f"{account.username}/{make_slug(title)}",
        title=title,
        text=scripts.to_notebook(scripts.fill_template("wheelhouse", config.project, facts)),
        gpu=bool(shape),
        machine_shape=shape,
        internet=request is not None,  # Kaggle's client turns it on unless told otherwise
    )


def _run_job(session: KaggleSession, new: NewNotebook, *, upgrade: bool) -> notebook_runs.FinishedRun:
    """Push a job's notebook and wait for its run; `upgrade` runs it again even if it has not changed."""
    # The same cells are no new version: forget that the last one exists, so that it is pushed again.
    if upgrade:
        plan = push_notebook.plan_notebook(new, session)
        if plan.version:
            push_notebook.void_version(new, plan.version, session)
    return notebook_runs.push_and_follow(new, session)[1]


def _fetch_image(session: KaggleSession, finished: notebook_runs.FinishedRun, folder: Path) -> str:
    """Return the image file of a finished job; ProjectError if what the run wrote about it is invalid."""
    (path,) = session.fetch_outputs(finished, folder, [FACTS])
    # The digest is not known inside a run: only Kaggle says it, of that version.
    remote_notebook = session.kaggle.get_notebook(finished.ref, finished.version)
    digest = remote_notebook.image if remote_notebook else ""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return kit_capture.format_image_file(facts, digest, session.account.server_name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise remote_wheelhouse.invalid_output_error("image", error) from error


def capture_container(reference: str, report: Reporter = SILENT) -> str:
    """Return the image file of a container image on this machine; a person is asked whether to pull it."""
    runner = sandbox.find_container(reference, confirm_pull=report.confirm)
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as folder:
        facts = container_python.inspect_container(runner, Path(folder))
    # Without a GPU the container has no nvidia-smi; the CPU image has none of these packages.
    if any(name.startswith("nvidia-cuda") for name in facts["packages"]):
        facts["accelerator"] = "gpu"
    return kit_capture.format_image_file(facts, runner.find_digest(), f"container {reference}")


def capture_here() -> str:
    """Return the image file of the running environment, for whoever runs offline-kit in the image itself."""
    return kit_capture.format_image_file(
        kit_capture.capture_image("captured-here"), platform_name="this machine"
    )


def capture_on_kaggle(session: KaggleSession) -> str:
    """Return the image file of the machine that the configuration's accelerator gets today, from a run of its own."""
    new = render_job(session.config, session.account)
    finished = _run_job(session, new, upgrade=True)
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as scratch:
        return _fetch_image(session, finished, Path(scratch))


def write_image(text: str, path: Path | None = None) -> tuple[Path, images.Image]:
    """Write an image file, by default under the image's name, and return its path and image as `--image` reads it."""
    path = path or Path(f"{tomllib.loads(text)['name']}.toml")
    files.write_atomic(path, text)
    return path, images.load_image(str(path.absolute()), accelerator="none", project=path.parent)
