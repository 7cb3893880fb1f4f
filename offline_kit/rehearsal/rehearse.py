"""Rehearse a kit: its notebook, run offline in a sandbox laid out as Kaggle's, and its submission checked."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from offline_kit.core import files, interpreters, sandbox
from offline_kit.core.errors import ProjectError, UsageError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.core.sandbox import Sandbox
from offline_kit.packages.pip_settings import IndexSettings
from offline_kit.project.config_keys import ENVIRONMENTS, INSTALLERS, LAYOUTS
from offline_kit.project.images import Image
from offline_kit.project.types import Kit
from offline_kit.rehearsal import (
    environments,
    execution,
    fidelity,
    gateway,
    kernel,
    kit_facts,
    mounts,
    pythons,
    verdict,
)
from offline_kit.rehearsal import (
    submission_check as submission,
)
from offline_kit.rehearsal.environments import Workshop
from offline_kit.rehearsal.execution import Bench, Ran
from offline_kit.rehearsal.gateway import Service
from offline_kit.rehearsal.kernel import Ready
from offline_kit.rehearsal.pythons import Python
from offline_kit.rehearsal.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class RehearsalRequest:
    """What is rehearsed, and how."""

    kit: Kit
    """The kit; nothing but its folder is looked at."""
    image: Image
    """The image that it was made for."""
    dataset: str = ""
    """The kit's dataset as configured: it names the mount."""
    competition: str = ""
    """Slug of the competition; empty: as the notebook's metadata says."""
    competition_data: Path | None = None
    """A local copy of its data, or a part of it; mounted, never copied."""
    sample_submission: Path | None = None
    """The sample to compare with; None: found in the data."""
    submission: str = "submission.csv"
    """What the notebook must write to /kaggle/working."""
    env: str = "matching"
    """"matching": made for the image; "current": the running environment."""
    installer: str = "auto"
    """What the notebook installs with: "uv", "pip" (then no uv is there), or "auto"."""
    layout: str = "new"
    """The mount layout, "new" or "old"."""
    rows: int | None = None
    """Rows of the test set to rehearse on; None: all."""
    timeout: float = 9 * 3600
    """Seconds of wall-clock time for the notebook."""
    memory: int | None = None
    """Bytes that the run may hold; None: no limit."""
    sandboxes: tuple[str, ...] = sandbox.KINDS
    """Kinds of sandbox that may serve, best first."""
    yes: bool = False
    """Large downloads were agreed to."""
    confirm: Callable[[str], bool] | None = None
    """Asks a person about them."""
    copies: Mapping[str, Path] = field(default_factory=dict)
    """Local copies of what is attached besides the kit; see `mounts.Wanted`."""
    homes: Mapping[str, str] = field(default_factory=dict)
    """Where parts of the kit are that are no datasets; see `mounts.Wanted`."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """The notebook's params: those of an inference server say how its gateway is."""


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """A rehearsal that passed."""

    kit: str
    """Id of the kit."""
    notebook: str
    """Hex SHA-256 of the notebook."""
    rows_wanted: int | None
    """As asked for."""
    fidelity: str
    """"matching" or "stand-in" ("image" is for runs in Kaggle's own image)."""
    differences: tuple[str, ...]
    """How the run differed from the image."""
    notes: tuple[str, ...]
    """What else is worth knowing about it."""
    sandbox: str
    """Kind of the sandbox."""
    env: str
    """"matching" or "current"."""
    python: str
    """Full version of the kernel's Python."""
    installer: str
    """As asked for."""
    layout: str
    """As asked for."""
    seconds: float
    """Wall-clock time of the notebook, its kernel's start included."""
    cell_seconds: tuple[float, ...]
    """Of each code cell."""
    peak_memory: int
    """Bytes held by the whole process tree at its peak; 0 where it cannot be measured."""
    memory_by: str
    """"PSS", "RSS" or "not measured"."""
    submission: Path
    """The submission, kept."""
    rows: int
    """Its rows; 0 where neither a CSV nor a gateway of ours tells."""
    folder: Path
    """Executed notebook, log, submission and report."""
    warnings: tuple[str, ...] = ()
    """What may spoil the score all the same; told when it passed."""


def rehearse(
    request: RehearsalRequest, settings: IndexSettings, *, cache: Path, report: Reporter = SILENT
) -> Rehearsal:
    """Run the kit's notebook offline and check what it wrote; the evidence lies in <kit>/rehearsal/.

    Raises ProjectError for a kit that cannot run here, a failing cell (quoted, with cause and remedy), a
    time or memory limit, a missing or wrong submission; UsageError for a request that cannot be;
    OutsideError where no sandbox works or the index says no. The last rehearsal's evidence stays until
    there is some of this one, failed or not.
    """
    _check(request)
    notebook, metadata = kit_facts.notebook_of(request.kit)
    chosen = sandbox.find_sandbox(request.sandboxes, report=report)
    shop = Workshop(settings=settings, cache=cache, yes=request.yes, confirm=request.confirm, report=report)
    files.sweep_stages(request.kit.folder / "rehearsal")
    with files.stage_folder(request.kit.folder / "rehearsal") as folder:
        service = _service(request, notebook, folder / "run" / "gateway")
        code = (notebook, *(service.code if service else ()))
        kit_files, current = kit_facts.files_of(request.kit), request.env == "current"
        ready = kernel.make_ready(kit_files, code, request.image, shop, current=current)
        papermill = pythons.look(environments.papermill(shop))
        level, _ = fidelity.compare(request.image, ready.python, ready.used)
        report.step(f"rehearsing in {chosen.kind}, fidelity {level}, Python {ready.python.version}")
        inputs = mounts.lay_out(_wanted(request, metadata, service), folder / "run" / "input")
        plain = _bench(request, notebook, inputs, papermill)
        plain = replace(plain, python_path=gateway.python_path(service, notebook, inputs.data))
        box = folder / "run" / "box"

        def run(chosen_kernel: Ready) -> Ran:
            files.remove_path(box)  # of a run that lacked a package
            return execution.run(kernel.with_kernel(plain, chosen_kernel), chosen, box, report=report)

        ready, ran = kernel.run_complete(ready, request.image, shop, run)
        bench = kernel.with_kernel(plain, ready)
        level, differences = fidelity.compare(request.image, ready.python, ready.used)
        if service and service.submission != (name := gateway.written(ran.working, service.submission)):
            request, service = replace(request, submission=name), replace(service, submission=name)
        judged = verdict.judge(ran, bench, request.submission, inputs.sample)
        if service and judged.problem is None:
            ran, judged = _scored(service, bench, chosen, inputs, ran, judged, report)
        outcome = Rehearsal(
            kit=request.kit.id,
            notebook=files.sha256_of(notebook),
            rows_wanted=request.rows,
            fidelity=level,
            differences=differences,
            notes=tuple(dict.fromkeys((*ready.notes, *inputs.notes, *judged.said, *judged.notes))),
            sandbox=chosen.kind,
            env=request.env,
            python=ready.python.version,
            installer=request.installer,
            layout=request.layout,
            seconds=round(ran.outcome.seconds, 2),
            cell_seconds=tuple(round(cell.seconds or 0.0, 3) for cell in judged.cells),
            peak_memory=ran.outcome.peak_memory,
            memory_by=ran.outcome.memory_by,
            submission=request.kit.folder / "rehearsal" / Path(request.submission).name,
            rows=judged.rows,
            folder=request.kit.folder / "rehearsal",
            warnings=(*judged.warnings, *_stored(request, ran, inputs)),
        )
        problem = _with_log(judged.problem, outcome.folder) if judged.problem else None
        _keep(folder, outcome, ran, problem, written=request.submission)
    if problem:
        raise problem
    for warning in outcome.warnings:
        report.warn(warning)
    return outcome


def _bench(request: RehearsalRequest, notebook: Path, inputs: mounts.Inputs, papermill: Python) -> Bench:
    """Return all that the run stands on but its kernel."""
    return Bench(
        notebook=notebook,
        inputs=inputs.mounts,
        kernel=(),
        papermill=papermill.path,
        shown=papermill.mounts,
        links=papermill.links,
        uv=None if request.installer == "pip" else interpreters.uv_program(),
        installer=request.installer,
        timeout=request.timeout,
        memory=request.memory,
        current=request.env == "current",
        own=kit_facts.read(kit_facts.files_of(request.kit)).own(),
    )


def _stored(request: RehearsalRequest, ran: Ran, inputs: mounts.Inputs) -> tuple[str, ...]:
    """Warn of a submission that is a table of the inputs: on the hidden test set it has no answers."""
    written = ran.working / request.submission
    if written.suffix.lower() != ".csv" or not written.is_file():
        return ()
    folders = [*request.copies.values(), *([request.competition_data] if request.competition_data else [])]
    tables = [path for folder in folders if folder.is_dir() for path in sorted(folder.rglob("*.csv"))]
    tables += [path for _, path in kit_facts.files_of(request.kit) if path.suffix.lower() == ".csv"]
    others = [path for path in tables if path != inputs.sample and path.is_file()]
    if table := submission.stored_answer(written, others):
        return (f"all predictions are those of '{table.name}': a stored answer covers the public ids alone",)
    return ()


def _check(request: RehearsalRequest) -> None:
    for what, said, known in (
        ("environment", request.env, ENVIRONMENTS),
        ("installer", request.installer, INSTALLERS),
        ("layout", request.layout, LAYOUTS),
    ):
        if said not in known:
            raise UsageError(f"unknown {what} '{said}' for a rehearsal", hint=f"one of {', '.join(known)}")


def _service(request: RehearsalRequest, notebook: Path, folder: Path) -> Service | None:
    """Return the gateway's side where the notebook serves one."""
    if not gateway.serves(notebook):
        return None
    data = request.competition_data
    return gateway.prepare(data, request.params, Path(request.submission).name, folder)


def _scored(
    service: Service,
    bench: Bench,
    chosen: Sandbox,
    inputs: mounts.Inputs,
    ran: Ran,
    judged: Verdict,
    report: Reporter,
) -> tuple[Ran, Verdict]:
    """Run a server's notebook once more, as when Kaggle scores; returns the run that counts, and its verdict."""
    report.step("once more with the gateway in a process of its own, as in the scoring run")
    place = ran.log.parents[1]
    again = gateway.scoring(bench, service, inputs.data, ran.working / service.submission, place / "driver")
    second = execution.run(again, chosen, place / "scoring", report=report)
    table = gateway.collect(second, service.submission)
    own = service.package is None
    verdict_of_it = verdict.judge(second, again, service.submission, inputs.sample, table=table, trusted=own)
    if problem := gateway.problem_of(second) or verdict_of_it.problem:
        return second, replace(verdict_of_it, problem=problem)
    rows = verdict_of_it.rows or gateway.rows_of(second)
    return ran, replace(
        judged,
        rows=rows,
        notes=(*verdict_of_it.notes, *gateway.notes_of(second, service)),
        said=(*judged.said, *verdict_of_it.said),
        warnings=(*verdict_of_it.warnings, *gateway.warnings_of(ran, second, service)),
    )


def _wanted(request: RehearsalRequest, metadata: Mapping[str, Any], service: Service | None) -> mounts.Wanted:
    return mounts.Wanted(
        kit=request.kit,
        metadata=metadata,
        dataset=request.dataset,
        competition=request.competition,
        data=request.competition_data,
        sample=request.sample_submission,
        layout=request.layout,
        rows=request.rows,
        copies=request.copies,
        homes=request.homes,
        laid=service.laid() if service else {},
    )


def _with_log(problem: ProjectError, folder: Path) -> ProjectError:
    """Return the problem with where the whole log is."""
    details = (*problem.details, f"the whole log: {folder / 'log.txt'}")
    return ProjectError(problem.what, hint=problem.hint, details=details)


def _keep(folder: Path, outcome: Rehearsal, ran: Ran, problem: ProjectError | None, *, written: str) -> None:
    """Keep the evidence in `folder` and remove the run's own files."""
    for source, name in (
        (ran.executed, "executed.ipynb"),
        (ran.log, "log.txt"),
        (ran.working / written, outcome.submission.name),
    ):
        if source.is_file():
            source.replace(folder / name)  # moved: a copy would fill the holes of a sparse file
    said = {"what": problem.what, "hint": problem.hint, "details": list(problem.details)} if problem else None
    told = {"passed": problem is None, "problem": said, **asdict(outcome)}
    text = json.dumps(told, indent=2, default=str, ensure_ascii=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    files.remove_path(folder / "run")


def last(kit: Kit) -> dict[str, Any] | None:
    """Return the report of the last rehearsal of this very kit and notebook, or None.

    It has "passed", "problem" ("what", "hint", "details") and Rehearsal's fields.
    """
    try:
        found = json.loads((kit.folder / "rehearsal" / "report.json").read_text(encoding="utf-8"))
        mine = (found["kit"], found["notebook"])
        return dict(found) if mine == (kit.id, files.sha256_of(kit_facts.notebook_of(kit)[0])) else None
    except (OSError, ValueError, KeyError, TypeError, ProjectError):
        return None
