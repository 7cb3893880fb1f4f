"""Adopt a notebook by recording: run it once with the internet on, here or on Kaggle, and keep what it fetched.

The cells run unchanged, below one that starts the recorder (`notebook.runtime.kit_recorder`). Recorded here, the part of
the kit lies in the project; recorded on Kaggle, it stays there as the output of the recorder's notebook, which the
offline notebook attaches, and only its manifest, its document and the submission are fetched.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from offline_kit import __version__
from offline_kit.adopt import adopted_notebook, adoption_plan, recording, script_setup
from offline_kit.adopt.adoption_plan import AdoptionPlan
from offline_kit.adopt.recording import RecordedRun
from offline_kit.core import files
from offline_kit.core.errors import OfflineKitError, ProjectError, UsageError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.kaggle.client.api_types import NewNotebook, NotebookSources
from offline_kit.kaggle.push import notebook_runs, push_notebook
from offline_kit.kaggle.push.push_notebook import NotebookPlan
from offline_kit.kit.layout import RUNTIME_PACKAGE
from offline_kit.notebook import scripts
from offline_kit.notebook.runtime import kit_recording
from offline_kit.notebook.runtime.kit_runtime import GROUPS
from offline_kit.project import config as project_config
from offline_kit.project.accelerators import find_machine_shape
from offline_kit.project.config import Config
from offline_kit.project.kaggle_names import MARKER, TITLE_LENGTH, make_slug
from offline_kit.workflow import upload_secrets
from offline_kit.workflow.kaggle_session import KaggleSession

SUFFIX = " recorder"
DOCUMENT = f"{recording.PART}/{kit_recording.DOCUMENT}"
_CROWDED = 20_000  # files
_LIMITS = ("time-limit-reached", "memory-limit-reached", "disk-limit-reached", "kernel-died")
_KINDS = {
    "cache": "downloads of hubs",
    "hub": "hub folders",
    "beside": "files of the project",
    "input": "local inputs",
    "url": "addresses",
}
_NO_NETWORK = re.compile(
    r"[Nn]ame resolution|NameResolutionError|Could not resolve host|Name or service not known|Network is unreachable"
    r"|ENETUNREACH|Tunnel connection failed|ProxyError"
)
_DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded")


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

    def _list_copies(self) -> set[Path]:
        own = (self.config.competition_data, self.config.sample_submission, *self.config.copies.values())
        return {path.resolve() for path in own if path}

    def list_local_inputs(self) -> dict[str, Path]:
        """Return the folders below input/ that are no copy of a source: the kit has to bring them."""
        folder, config, copies = self.config.project / "input", self.config, self._list_copies()
        if not folder.is_dir() or folder.resolve() in copies:
            return {}
        names = {config.competition, *config.notebook.competition_sources, *GROUPS}
        folders = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name not in names]
        return {path.name: path for path in folders if path.resolve() not in copies}

    def list_beside(self) -> dict[str, Path]:
        """Return what lies beside the notebook, or at the project's top, that a run may read, by name."""
        config, copies = self.config, self._list_copies()
        entries: dict[str, Path] = {}
        for folder in (self.path.parent, config.project):
            for path in sorted(folder.iterdir()):
                is_input = path.name in ("input", "dist", "__pycache__") or path.resolve() in copies
                is_hidden = path.name.startswith((".", "offline-kit.")) or (path / "pyvenv.cfg").exists()
                is_own = path == self.path or config.out.is_relative_to(path)
                if not (is_input or is_hidden or is_own):
                    entries.setdefault(path.name, path)
        return entries

    def find_crowded(self, entries: Mapping[str, Path]) -> list[str]:
        """Return which of these hold so many files that they are data: a run has a copy of each file beside it."""
        counts = {name: sum(1 for _ in islice(path.rglob("*"), _CROWDED)) for name, path in entries.items()}
        return [name for name, count in counts.items() if count == _CROWDED]


def plan_recording(notebook: Path, project: Path, report: Reporter = SILENT) -> RecordingPlan:
    """Read the notebook's sources and settings; write, run and send nothing. Raises as `plan_adoption`."""
    adoption = adoption_plan.plan_adoption(notebook, project, report, recorded=True)
    root, flags, own = project.expanduser().absolute(), dict[str, Any](), dict[str, Any]()
    for setting in adoption.settings:
        value = tuple(setting.value) if isinstance(setting.value, list) else setting.value
        (own if setting.notebook else flags)[setting.key] = value
    if data := flags.get("competition_data"):
        flags["competition_data"] = root / data
    flags["copies"] = {name: root / folder for name, folder in (flags.get("copies") or {}).items()}
    config = project_config.load_config(root, flags | {"notebook": own})
    plan = RecordingPlan(adoption=adoption, config=config)
    if plan.path.resolve() != notebook.expanduser().resolve():
        raise UsageError(
            f"the configuration adopts '{plan.source}', not '{notebook.name}'",
            code="recording-other-source",
            hint="change `source` in [tool.offline-kit.notebook], or use a folder for each notebook",
        )
    return plan


def render_recorder(
    plan: RecordingPlan,
    where: str,
    *,
    title: str = "",
    pack_inputs: Sequence[str] = (),
    beside: str = "",
    lacking: Sequence[str] = (),
) -> str:
    """Return the notebook or script that records: the user's cells as they are, below the recorder's.

    `pack_inputs`, `beside` and `lacking` are those of `start_recording`.
    """
    adoption = plan.adoption.adoption
    facts = {
        "title": title or plan.config.name + SUFFIX,
        "source": recording.describe_source(plan.config.project, plan.source),
        "is_script": adoption.is_script,
        "where": where,
        "pack_inputs": list(pack_inputs),
        "beside": beside,
        "lacking": list(lacking),
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


def explain_failure(problem: ProjectError, plan: RecordingPlan, lacking: Iterable[str] = ()) -> ProjectError:
    """Return a run's failure as that of a recording, which more often lacks a GPU or the network.

    `lacking` are names of the project's files that the run could not see.
    """
    code, hint, text = problem.code, problem.hint, "\n".join(problem.details)
    stems = "|".join(re.escape(Path(name).stem) for name in lacking)
    if code == "gpu-not-available":
        code = "recording-needs-gpu"
        hint = f"record where a GPU is: offline-kit adopt {plan.source} --record kaggle"
    elif stems and (
        missing := re.search(rf"(?:No module named|No such file or directory:) '(?:\./)?({stems})\b", text)
    ):
        code = "recording-lacks-files"
        hint = f"put '{missing[1]}' into a dataset that the notebook attaches, or record on this machine (--record here)"
    elif _NO_NETWORK.search(text):
        code = "recording-no-network"
        hint = "check the network, and the variables of a proxy; then record again"
    elif _DISK_FULL.search(text):
        code, hint = (
            "disk-full",
            "make space where the notebook runs, then record again with the same command",
        )
    elif not code.startswith("recording-") and code not in _LIMITS:
        code, hint = "recording-failed", "fix it, then record again with the same command"
    # A cause is told as that of a run without the internet.
    details = [line for line in problem.details if not line.startswith("cause: ")]
    return ProjectError(problem.what, code=code, hint=hint, details=details)


def describe_kept(document: Mapping[str, Any] | None, folder: Path) -> tuple[str, ...]:
    """Return the lines of an error about what was recorded before it, and where that is."""
    lines = (f"recorded until then: {kind}: {text}" for kind, text in summarize_document(document or {}))
    return (*lines, f"kept in: {folder}")


def check_finished(document: Mapping[str, Any] | None, plan: RecordingPlan) -> ProjectError | None:
    """Return the error of a run that ended well without a finished recording; None for a finished one."""
    if document and document.get("finished"):
        return None
    error = (document or {}).get("error") or {}
    return ProjectError(
        f"'{plan.source}' ran, and its recording is {'not finished' if document else 'missing'}",
        code="recording-failed",
        hint="let the cells keep offline-kit.json and recording/ in /kaggle/working, and record again",
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
    if before and before.notebook == new.ref and before.is_here:
        planned = push_notebook.plan_notebook(new, session)
        if planned.version == before.version:
            push_notebook.void_version(new, planned.version, session)
    pushed = push_notebook.push_notebook(new, session)
    try:
        finished = notebook_runs.follow_run(new.ref, pushed.version, session)
    except ProjectError as error:
        failure = explain_failure(error, plan, plan.list_beside())
        failure.details = (*failure.details, *_fetch_failed(session, pushed, final.with_name("recorder")))
        raise failure from error
    files.ignore_in_git(files.make_folder(final.parent))
    files.sweep_stages(final)
    with files.stage_folder(final) as folder:
        session.fetch_outputs(finished, folder, [MARKER, DOCUMENT])
        document = read_document(folder)
        if problem := check_finished(document, plan):
            raise problem
        submission = name_submission(document)
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
            return describe_kept(read_document(folder), folder)
    return ()


# ------------------------------------------------------------------ what was recorded


def read_document(folder: Path) -> dict[str, Any] | None:
    """Return the document of a recorded part; None if there is none."""
    return files.read_json(folder / DOCUMENT) or None


def name_submission(document: Mapping[str, Any] | None) -> str:
    """Return the recorded submission's path below /kaggle/working; "" for none."""
    path = PurePosixPath(str(((document or {}).get("submission") or {}).get("path", "")))
    is_inside = path.parts[:1] == ("{working}",) and ".." not in path.parts
    return str(path.relative_to("{working}")) if is_inside else ""


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
