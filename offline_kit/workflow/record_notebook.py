"""Adopt a notebook by recording: run it once with the internet on, here or on Kaggle, and keep what it fetched.

The cells run unchanged, below one that starts the recorder (`notebook.runtime.kit_recorder`). Recorded here, the part of
the kit lies in the project; recorded on Kaggle, it stays there as the output of the recorder's notebook, which the
offline notebook attaches, and only its manifest, its document and the submission are fetched.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from offline_kit import __version__
from offline_kit.adopt import adopted_notebook, adoption_plan, recording, script_setup
from offline_kit.adopt.adoption_plan import AdoptionPlan
from offline_kit.adopt.recording import RecordedRun
from offline_kit.core import files, interpreters, processes, sandbox
from offline_kit.core.errors import OfflineKitError, ProjectError, UsageError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.core.sandboxes.box import Mount
from offline_kit.kaggle.client.api_types import NewNotebook, NotebookSources
from offline_kit.kaggle.push import notebook_runs, push_notebook
from offline_kit.kaggle.push.push_notebook import NotebookPlan
from offline_kit.kit.layout import RUNTIME_PACKAGE
from offline_kit.notebook import scripts
from offline_kit.notebook.runtime import kit_recording
from offline_kit.notebook.runtime.kit_runtime import GROUPS
from offline_kit.packages import pip_settings
from offline_kit.project import config as project_config
from offline_kit.project.accelerators import find_machine_shape
from offline_kit.project.config import Config
from offline_kit.project.config_keys import KAGGLES
from offline_kit.project.kaggle_names import MARKER, METADATA_KEYS, TITLE_LENGTH, make_slug
from offline_kit.project.types import Kit
from offline_kit.rehearsal import environments, execution, gateway, kernel, mounts, verdict
from offline_kit.rehearsal.environments import EnvironmentOptions
from offline_kit.rehearsal.execution import KernelRun, KernelSetup, RehearsalEnvironment
from offline_kit.rehearsal.gateway import GatewayService
from offline_kit.rehearsal.request import RehearsalRequest
from offline_kit.workflow import upload_secrets
from offline_kit.workflow.kaggle_session import KaggleSession
from offline_kit.workflow.pipeline import RehearsalOptions

PLACES = ("here", *KAGGLES)
SUFFIX = " recorder"
DOCUMENT = f"{recording.PART}/{kit_recording.DOCUMENT}"
_LIMITS = ("time-limit-reached", "memory-limit-reached", "kernel-died")
_PROGRESS = "recording: "  # begins the lines that the recorder prints after each cell
_BESIDE = "/rehearsal/project"
_TIMEOUT = 12 * 3600.0  # of a session on Kaggle: https://www.kaggle.com/docs/notebooks
_MAX_RUNS = 3  # each with the packages of the image that pip had to bring to the one before
_INSTALLS = re.compile(r"\bpip3?\b.{0,40}\binstall\b|\buv\b.{0,20}\b(?:pip|add)\b", re.DOTALL)
_COMMON = (
    "filelock fsspec huggingface-hub joblib matplotlib numpy packaging pandas pillow pyyaml regex requests safetensors"
    " scikit-learn scipy torch torchvision tqdm typing-extensions"
)
"""What the packages that notebooks install mostly depend on: without the image's, pip would download its own."""
_KINDS = {
    "cache": "downloads of hubs",
    "hub": "hub folders",
    "beside": "files of the project",
    "input": "local inputs",
    "url": "addresses",
}
_SECRET_NAME = re.compile(r"(?i)token|secret|passw(?:or)?d|key|credential")
_NO_NETWORK = re.compile(
    r"[Nn]ame resolution|NameResolutionError|Could not resolve host|Name or service not known|Network is unreachable"
    r"|ENETUNREACH|Tunnel connection failed|ProxyError"
)


@dataclass(frozen=True, kw_only=True)
class RecordingPlan:
    """A notebook to record, and the configuration that it gets."""

    adoption: AdoptionPlan
    config: Config  # with the settings that are not written yet

    @property
    def source(self) -> str:
        """The notebook or script, relative to the project."""
        return self.config.notebook.source

    @property
    def path(self) -> Path:
        """The notebook or script."""
        return self.config.project / self.source

    def list_local_inputs(self) -> dict[str, Path]:
        """Return the folders below input/ that are no copy of a source: the kit has to bring them."""
        folder, config = self.config.project / "input", self.config
        own = (config.competition_data, config.sample_submission, *config.copies.values())
        covered = {path.resolve() for path in own if path}
        if not folder.is_dir() or folder.resolve() in covered:
            return {}
        names = {config.competition, *config.notebook.competition_sources, *GROUPS}
        return {
            path.name: path
            for path in sorted(folder.iterdir())
            if path.is_dir() and path.name not in names and path.resolve() not in covered
        }

    def list_beside(self) -> dict[str, Path]:
        """Return what lies beside the notebook, or at the project's top, that a run may read, by name."""
        entries: dict[str, Path] = {}
        for path in (
            path for folder in (self.path.parent, self.config.project) for path in sorted(folder.iterdir())
        ):
            is_tool = path.name.startswith((".", "offline-kit.")) or path.name in (
                "input",
                "dist",
                "__pycache__",
            )
            is_left_out = (
                path == self.path or (path / "pyvenv.cfg").exists() or self.config.out.is_relative_to(path)
            )
            if not (is_tool or is_left_out):
                entries.setdefault(path.name, path)
        return entries


def plan_recording(notebook: Path, project: Path, report: Reporter = SILENT) -> RecordingPlan:
    """Read the notebook's sources and settings; write, run and send nothing. Raises as `plan_adoption`."""
    adoption = adoption_plan.plan_adoption(notebook, project, report, recorded=True)
    root, flags, own = project.expanduser().absolute(), dict[str, Any](), dict[str, Any]()
    for setting in adoption.settings:
        (own if setting.notebook else flags)[setting.key] = setting.value
    own = {key: tuple(value) if isinstance(value, list) else value for key, value in own.items()}
    if data := flags.get("competition_data"):
        flags["competition_data"] = root / data
    flags["copies"] = {name: root / folder for name, folder in (flags.get("copies") or {}).items()}
    plan = RecordingPlan(
        adoption=adoption, config=project_config.load_config(root, flags | {"notebook": own})
    )
    if plan.path.resolve() != notebook.expanduser().resolve():
        raise UsageError(
            f"the configuration adopts '{plan.source}', not '{notebook.name}'",
            code="recording-other-source",
            hint="change `source` in [tool.offline-kit.notebook], or use a folder for each notebook",
        )
    return plan


def render_recorder(
    plan: RecordingPlan, where: str, *, title: str = "", pack_inputs: tuple[str, ...] = (), beside: str = ""
) -> str:
    """Return the notebook or script that records: the user's cells as they are, below the recorder's."""
    adoption = plan.adoption.adoption
    facts = {
        "title": title or plan.config.name + SUFFIX,
        "source": recording.describe_source(plan.config.project, plan.source),
        "is_script": adoption.is_script,
        "where": where,
        "pack_inputs": list(pack_inputs),
        "beside": beside,
        "tool_version": __version__,
        "runtime": scripts.pack_runtime(),
    }
    script = scripts.fill_template("record", plan.config.project, facts)
    if adoption.is_script:
        return script_setup.insert_setup(
            adoption.cells[0].source.replace("\r\n", "\n"), script, plan.path.name
        )
    document = json.loads(adopted_notebook.render_text(adoption, script))
    finish = f"from {RUNTIME_PACKAGE} import finish_recording\n\nfinish_recording()"
    cell = {"cell_type": "code", "id": "offline-kit-finish-recording", "metadata": {}, "source": finish}
    document["cells"].append({**cell, "outputs": [], "execution_count": None})
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


# ------------------------------------------------------------------ here


def record_here(plan: RecordingPlan, options: RehearsalOptions, report: Reporter = SILENT) -> RecordedRun:
    """Run the notebook in a sandbox with the network on; keep log and executed notebook in .offline-kit/recorder.

    Raises ProjectError if a cell failed or a limit was reached; what was recorded until then is kept there, too, and an
    older recording stays as it is.
    """
    config = plan.config
    index = pip_settings.read_pip_settings(processes.copy_environment())
    shop = EnvironmentOptions(
        index=index,
        cache=files.make_folder(files.cache_dir()),
        yes=options.yes,
        confirm=options.confirm,
        report=report,
    )
    final = recording.recording_folder(config.project).with_name("recorder")
    files.ignore_in_git(files.make_folder(final.parent))
    files.sweep_stages(final)
    with files.stage_folder(final) as folder:
        result, problem = _run_here(plan, options, shop, folder / "run")
        document = _read_document(result.working)
        if problem is None and not (document and document["finished"]):
            problem = _missing_error(plan, document)
        _keep_files(result, document, folder)
        files.remove_path(folder / "run")
    part = final / "part"
    if problem:
        problem.details = (*problem.details, *_describe_kept(document, final))
        raise problem
    files.remove_path(recording.recording_folder(config.project))
    part.replace(recording.recording_folder(config.project))
    return recording.write_record(config.project)


def _run_here(
    plan: RecordingPlan, options: RehearsalOptions, shop: EnvironmentOptions, folder: Path
) -> tuple[KernelRun, ProjectError | None]:
    config, image, report = plan.config, plan.adoption.image, shop.report
    runner, box = sandbox.find_sandbox(report=report), files.make_folder(folder) / "box"
    local_inputs, beside = plan.list_local_inputs(), plan.list_beside()
    if find_machine_shape(config.accelerator):
        report.warn("no GPU is used here: a cell that needs one fails; --record kaggle has it")
    service = None
    if gateway.uses_gateway(plan.path):
        params, name = config.notebook.params, Path(config.notebook.submission).name
        service = gateway.prepare_gateway(config.competition_data, params, name, folder / "gateway")
    inputs = _lay_out_inputs(plan, folder / "input", local_inputs, service)
    for note in inputs.notes:
        report.note(note)
    modules = [path for path in beside.values() if path.suffix == ".py"]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in modules]
    text = "\n".join([*(cell.source for cell in plan.adoption.adoption.cells), *texts])
    code = [plan.path, *modules, *(service.code if service else ())]
    project_folder = f"{runner.path_prefix(box / 'scratch')}{_BESIDE}" if beside else ""
    notebook = folder / f"recorder{plan.path.suffix}"
    notebook.write_text(
        render_recorder(plan, "here", pack_inputs=tuple(local_inputs), beside=project_folder),
        encoding="utf-8",
    )
    environment = RehearsalEnvironment(
        notebook=notebook,
        inputs=(
            *inputs.mounts,
            *(Mount(inside=f"{_BESIDE}/{name}", source=path.resolve()) for name, path in beside.items()),
        ),
        kernel=_prepare_kernel(plan, code, shop, options, _COMMON.split() if _INSTALLS.search(text) else ()),
        papermill=environments.make_papermill_environment(shop),
        uv=interpreters.uv_program(),
        installer="auto",
        timeout=options.timeout or _TIMEOUT,
        env={**shop.index.make_box_environment(), **_find_secrets(text)},
        network=True,
        recorded=True,
        current=options.env == "current",
        python_path=gateway.find_python_path(service, plan.path, inputs.data) if service else (),
    )

    def say_progress(line: str) -> None:
        if line.startswith(_PROGRESS):
            report.step(line.strip())

    def run_with_kernel(setup: KernelSetup) -> KernelRun:
        files.remove_path(box)
        return execution.run_notebook(
            replace(environment, kernel=setup), runner, box, say=say_progress, report=report
        )

    report.step(f"recording '{plan.source}' in {runner.kind}: it runs with the internet on")
    setup, more = environment.kernel, set[str]()
    for _ in range(_MAX_RUNS):
        setup, result = kernel.run_until_complete(setup, image, shop, run_with_kernel)
        provided = _find_provided(_read_document(result.working), setup, image.packages)
        if not provided:
            break
        more |= {*_COMMON.split(), *provided}
        report.note(
            f"the image has {', '.join(provided)}, which pip had to install here; recording again with it"
        )
        setup = _prepare_kernel(plan, code, shop, options, more)
    problem = verdict.find_run_problem(result, environment, result.cells)
    return result, _explain_failure(problem, plan) if problem else None


def _prepare_kernel(
    plan: RecordingPlan, code: list[Path], shop: EnvironmentOptions, options: RehearsalOptions, more: Any
) -> KernelSetup:
    image = plan.adoption.image
    names = {name for name in more if name in image.packages}
    return kernel.prepare_kernel((), code, image, shop, current=options.env == "current", more=names)


def _lay_out_inputs(
    plan: RecordingPlan, folder: Path, local_inputs: Mapping[str, Path], service: GatewayService | None
) -> mounts.MountedInputs:
    config, settings = plan.config, plan.config.notebook
    request = RehearsalRequest(
        kit=Kit(folder=config.project, id="", parts=()),
        image=plan.adoption.image,
        competition=config.competition,
        competition_data=config.competition_data,
        copies=config.copies,
    )
    keys = ("competition_sources", *METADATA_KEYS.values())
    inputs = mounts.lay_out_inputs(
        request,
        {key: getattr(settings, key) for key in keys},
        folder,
        added_folders=service.added_folders() if service else {},
    )
    own = tuple(mounts.mount_input(folder, name, path) for name, path in local_inputs.items())
    return replace(inputs, mounts=(*inputs.mounts, *own))


def _find_secrets(text: str) -> dict[str, str]:
    """Return the secrets of this machine's environment that the code names: on Kaggle they are the account's."""
    env = processes.copy_environment()
    names = [name for name in env if _SECRET_NAME.search(name)]
    return {name: env[name] for name in names if f'"{name}"' in text or f"'{name}'" in text}


def _find_provided(
    document: Mapping[str, Any] | None, setup: KernelSetup, image: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the image's packages that the run installed only because the kernel here lacks them."""
    packages = (document or {}).get("packages", ()) if setup.of_image else ()
    names = (package["name"] for package in packages if not package["replaces"])
    return tuple(sorted(name for name in names if name in image and name not in setup.python.packages))


def _read_document(folder: Path) -> dict[str, Any] | None:
    return files.read_json(folder / DOCUMENT) or None


def _keep_files(result: KernelRun, document: Mapping[str, Any] | None, folder: Path) -> None:
    """Move the part, the submission, the executed notebook and the log out of the run's folder."""
    part = files.make_folder(folder / "part")
    for name in (MARKER, recording.PART, RUNTIME_PACKAGE):
        if (result.working / name).exists():
            (result.working / name).replace(part / name)
    submission = ((document or {}).get("submission") or {}).get("path", "")
    name = PurePosixPath(submission).name
    kept = {result.executed: "executed.ipynb", result.log: "log.txt"}
    kept |= {result.script: "script.py"} if result.script else {}
    kept |= (
        {result.working / submission.removeprefix("{working}/"): name}
        if submission.startswith("{working}/")
        else {}
    )
    for source, kept_name in kept.items():
        if source.is_file():
            source.replace(folder / kept_name)


def _explain_failure(problem: ProjectError, plan: RecordingPlan) -> ProjectError:
    """Return a run's failure as that of a recording, which more often lacks a GPU or the network."""
    code, hint = problem.code, problem.hint
    if code == "gpu-not-available":
        code, hint = (
            "recording-needs-gpu",
            f"record where a GPU is: offline-kit adopt {plan.source} --record kaggle",
        )
    elif _NO_NETWORK.search("\n".join(problem.details)):
        code, hint = (
            "recording-no-network",
            "check the network, and the variables of a proxy; then record again",
        )
    elif not code.startswith("recording-") and code not in _LIMITS:
        code, hint = "recording-failed", "fix it, then record again with the same command"
    # A cause is told as that of a run without the internet.
    details = [line for line in problem.details if not line.startswith("cause: ")]
    return ProjectError(problem.what, code=code, hint=hint, details=details)


def _describe_kept(document: Mapping[str, Any] | None, folder: Path) -> tuple[str, ...]:
    lines = (f"recorded until then: {kind}: {text}" for kind, text in summarize_document(document or {}))
    return (*lines, f"all of it is kept in: {folder}")


def _missing_error(plan: RecordingPlan, document: Mapping[str, Any] | None) -> ProjectError:
    error = (document or {}).get("error") or {}
    return ProjectError(
        f"'{plan.source}' ran, and its recording is {'not finished' if document else 'missing'}",
        code="recording-failed",
        hint="keep /kaggle/working/recording and offline-kit.json, and record again with the same command",
        details=[str(error["message"])] if error.get("message") else (),
    )


# ------------------------------------------------------------------ on Kaggle


def make_recorder(session: KaggleSession, plan: RecordingPlan) -> NewNotebook:
    """Return the private notebook that records on Kaggle, with the notebook's sources and accelerator.

    Raises ProjectError for a secret in the notebook's cells.
    """
    config, settings = plan.config, plan.config.notebook
    title = config.name[: TITLE_LENGTH[1] - len(SUFFIX)].strip() + SUFFIX
    shape = find_machine_shape(config.accelerator)
    text = render_recorder(plan, "local" if session.local else "kaggle", title=title)
    upload_secrets.check_notebook(config, {plan.path.name: text}, session.report)
    competitions = filter(None, (config.competition, *settings.competition_sources))
    return NewNotebook(
        ref=f"{session.account.username}/{make_slug(title)}",
        title=title,
        text=text,
        kernel_type="script" if plan.adoption.adoption.is_script else "notebook",
        gpu=bool(shape),
        machine_shape=shape,
        internet=True,
        sources=NotebookSources(
            datasets=settings.dataset_sources,
            competitions=tuple(dict.fromkeys(competitions)),
            notebooks=settings.kernel_sources,
            models=settings.model_sources,
        ),
    )


def record_remotely(session: KaggleSession, plan: RecordingPlan) -> RecordedRun:
    """Run the recorder's notebook on Kaggle and fetch what names its output; raises as `notebook_runs.follow_run`.

    A run of the same notebook is taken if its output is not on this machine, as after a clone of the project; else the
    notebook runs again.
    """
    new = make_recorder(session, plan)
    project, final = plan.config.project, recording.recording_folder(plan.config.project)
    before = recording.read_record(project)
    if before and before.notebook == new.ref and (final / MARKER).is_file():
        planned = push_notebook.plan_notebook(new, session)
        if planned.version == before.version:
            push_notebook.void_version(new, planned.version, session)
    pushed = push_notebook.push_notebook(new, session)
    try:
        finished = notebook_runs.follow_run(new.ref, pushed.version, session)
    except ProjectError as error:
        problem = _explain_failure(error, plan)
        problem.details = (*problem.details, *_fetch_failed(session, pushed, final.with_name("recorder")))
        raise problem from error
    files.ignore_in_git(files.make_folder(final.parent))
    files.sweep_stages(final)
    with files.stage_folder(final) as folder:
        session.fetch_outputs(finished, folder, [MARKER, DOCUMENT])
        document = _read_document(folder)
        if not (document and document["finished"]):
            raise _missing_error(plan, document)
        submission = str((document["submission"] or {}).get("path", "")).removeprefix("{working}/")
        if submission in finished.outputs:
            session.fetch_outputs(finished, folder, [submission])
    return recording.write_record(project, notebook=new.ref, version=pushed.version, local=session.local)


def _fetch_failed(session: KaggleSession, pushed: NotebookPlan, folder: Path) -> tuple[str, ...]:
    """Fetch the document of a run that failed, if Kaggle kept its output; return what was recorded until then."""
    run = (pushed.notebook.ref, pushed.version)
    with suppress(OfflineKitError):  # the failure itself is told in any case
        if DOCUMENT in session.kaggle.list_run_outputs(*run):
            files.remove_path(folder)
            notebook_runs.fetch_output(run, DOCUMENT, session.kaggle, folder)
            return _describe_kept(_read_document(folder), folder)
    return ()


# ------------------------------------------------------------------ what was recorded


def summarize_document(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a recording, or the record of one, holds: a kind and a text each."""
    packages = [f"{package['name']} {package['version']}" for package in document.get("packages", ())]
    commands = {str(command["words"][0]) for command in document.get("commands", ())}
    lines = [("packages", ", ".join(packages)), ("commands", ", ".join(sorted(commands)))]
    for repository in document.get("repositories", ()):
        lines.append(("repository", f"{repository['url']} at {str(repository['commit'])[:12]}"))
    totals: dict[str, list[int]] = {}
    for entry in (*document.get("files", ()), *({**url, "kind": "url"} for url in document.get("urls", ()))):
        total = totals.setdefault(entry["kind"], [0, 0])
        total[0] += entry.get("files", 1)  # a record has the files of a folder summed up
        total[1] += entry["size"]
    for kind, (count, size) in totals.items():
        lines.append((_KINDS.get(kind, kind), f"{count}, {files.format_size(size)}"))
    return [(kind, text) for kind, text in lines if text]


def list_questions(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a recording cannot bring along."""
    yield from (f"the secret '{name}' is empty offline" for name in document["secrets"])
    for item in document["unrecorded"]:
        where = f"cell {item['cell']}" if item["cell"] else "the run"
        yield f"{where} contacted {item['host']}, of which nothing was recorded"
    if names := ", ".join(document["system_packages"]):
        yield f"system packages are not in the kit: {names}"
    yield from map(str, document.get("notes", ()))
    if document["submission"] is None:
        yield "no submission was written to /kaggle/working"
