"""Rehearse a kit: run its notebook offline in a sandbox that looks like Kaggle, and check its submission."""

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
    submission_check,
    verdict,
)
from offline_kit.rehearsal.environments import EnvironmentOptions
from offline_kit.rehearsal.execution import KernelRun, RehearsalEnvironment
from offline_kit.rehearsal.gateway import GatewayService
from offline_kit.rehearsal.kernel import KernelSetup
from offline_kit.rehearsal.pythons import Interpreter
from offline_kit.rehearsal.verdict import RunVerdict


@dataclass(frozen=True, kw_only=True)
class RehearsalRequest:
    """What to rehearse, and how."""

    kit: Kit
    image: Image
    dataset: str = ""
    """The kit's dataset as configured; it names the mount."""
    competition: str = ""
    """Slug; empty: the competition of the notebook's metadata."""
    competition_data: Path | None = None
    """Local copy of the data, or a part of it; mounted, never copied."""
    sample_submission: Path | None = None
    """None: look for one in the data."""
    submission: str = "submission.csv"
    env: str = "matching"
    """"matching": the image's versions; "current": the running environment."""
    installer: str = "auto"
    """What the notebook installs with: "uv", "pip" (then uv is hidden) or "auto"."""
    layout: str = "new"
    rows: int | None = None
    """Rows of the test set to rehearse on; None: all."""
    timeout: float = 9 * 3600
    """Seconds of wall-clock time for the notebook."""
    memory: int | None = None
    """Bytes; None: no limit."""
    sandboxes: tuple[str, ...] = sandbox.KINDS
    """Kinds of sandbox to try, best first."""
    yes: bool = False
    """Large downloads are confirmed."""
    confirm: Callable[[str], bool] | None = None
    copies: Mapping[str, Path] = field(default_factory=dict)
    """See `mounts.MountRequest`."""
    part_sources: Mapping[str, str] = field(default_factory=dict)
    """See `mounts.MountRequest`."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """The notebook's params; an inference server's also describe its gateway."""


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """A rehearsal that passed."""

    kit: str
    notebook: str
    """Hex SHA-256."""
    rows_wanted: int | None
    fidelity: str
    """"matching" or "stand-in"."""
    differences: tuple[str, ...]
    """How the run differed from the image."""
    notes: tuple[str, ...]
    sandbox: str
    env: str
    python: str
    installer: str
    layout: str
    seconds: float
    """Wall-clock time of the notebook, the start of its kernel included."""
    cell_seconds: tuple[float, ...]
    peak_memory: int
    """Bytes of the whole process tree; 0 if it cannot be measured."""
    memory_by: str
    """"PSS", "RSS" or "not measured"."""
    submission: Path
    rows: int
    """Rows of the submission; 0 if neither a CSV nor our gateway gives their number."""
    folder: Path
    warnings: tuple[str, ...] = ()
    """What may still spoil the score of a run that passed."""


def rehearse_kit(
    request: RehearsalRequest, settings: IndexSettings, *, cache: Path, report: Reporter = SILENT
) -> Rehearsal:
    """Run the kit's notebook offline, check its submission, and keep log and report in <kit>/rehearsal/.

    The results of the previous rehearsal are replaced once this one has run, whether it passed or failed.

    Raises:
        ProjectError: the kit cannot run here, a cell failed, a limit was reached, or the submission is wrong.
        UsageError: the request is invalid, or a large download was not confirmed.
        OutsideError: no sandbox works, or the package index refused.

    """
    _check_request(request)
    notebook, metadata = kit_facts.read_notebook(request.kit)
    runner = sandbox.find_sandbox(request.sandboxes, report=report)
    options = EnvironmentOptions(
        index=settings, cache=cache, yes=request.yes, confirm=request.confirm, report=report
    )
    files.sweep_stages(request.kit.folder / "rehearsal")
    with files.stage_folder(request.kit.folder / "rehearsal") as folder:
        service = _prepare_service(request, notebook, folder / "run" / "gateway")
        code = (notebook, *(service.code if service else ()))
        kit_files, current = kit_facts.list_kit_files(request.kit), request.env == "current"
        prepared = kernel.prepare_kernel(kit_files, code, request.image, options, current=current)
        papermill = pythons.inspect_interpreter(environments.make_papermill_environment(options))
        level, _ = fidelity.measure_fidelity(request.image, prepared.python, prepared.used)
        report.step(f"rehearsing in {runner.kind}, fidelity {level}, Python {prepared.python.version}")
        inputs, base_environment = _lay_out_run(
            request, metadata, notebook, service, folder / "run" / "input", papermill
        )
        box = folder / "run" / "box"

        def run_with_kernel(chosen_kernel: KernelSetup) -> KernelRun:
            files.remove_path(box)  # left by a run that lacked a package
            return execution.run_notebook(
                kernel.set_kernel(base_environment, chosen_kernel), runner, box, report=report
            )

        prepared, result = kernel.run_until_complete(prepared, request.image, options, run_with_kernel)
        environment = kernel.set_kernel(base_environment, prepared)
        if service and service.submission != (
            name := gateway.find_submission(result.working, service.submission)
        ):
            request, service = replace(request, submission=name), replace(service, submission=name)
        judgement = verdict.judge_run(result, environment, request.submission, inputs.sample)
        if service and judgement.problem is None:
            result, judgement = _run_scoring(service, environment, runner, inputs, result, judgement, report)
        outcome = _summarize_run(request, runner, environment, prepared, inputs, result, judgement)
        problem = _add_log_path(judgement.problem, outcome.folder) if judgement.problem else None
        _keep_evidence(folder, outcome, result, problem, written=request.submission)
    if problem:
        raise problem
    for warning in outcome.warnings:
        report.warn(warning)
    return outcome


def _summarize_run(
    request: RehearsalRequest,
    runner: Sandbox,
    environment: RehearsalEnvironment,
    prepared: KernelSetup,
    inputs: mounts.MountedInputs,
    result: KernelRun,
    judgement: RunVerdict,
) -> Rehearsal:
    level, differences = fidelity.measure_fidelity(request.image, prepared.python, prepared.used)
    return Rehearsal(
        kit=request.kit.id,
        notebook=files.sha256_of(environment.notebook),
        rows_wanted=request.rows,
        fidelity=level,
        differences=differences,
        notes=tuple(
            dict.fromkeys((*prepared.notes, *inputs.notes, *judgement.notebook_notes, *judgement.notes))
        ),
        sandbox=runner.kind,
        env=request.env,
        python=prepared.python.version,
        installer=request.installer,
        layout=request.layout,
        seconds=round(result.outcome.seconds, 2),
        cell_seconds=tuple(round(cell.seconds or 0.0, 3) for cell in judgement.cells),
        peak_memory=result.outcome.peak_memory,
        memory_by=result.outcome.memory_by,
        submission=request.kit.folder / "rehearsal" / Path(request.submission).name,
        rows=judgement.rows,
        folder=request.kit.folder / "rehearsal",
        warnings=(*judgement.warnings, *_warn_of_stored_answer(request, result, inputs)),
    )


def _lay_out_run(
    request: RehearsalRequest,
    metadata: Mapping[str, Any],
    notebook: Path,
    service: GatewayService | None,
    folder: Path,
    papermill: Interpreter,
) -> tuple[mounts.MountedInputs, RehearsalEnvironment]:
    """Lay out /kaggle/input in `folder`; return it with the run's environment, which has no kernel yet."""
    inputs = mounts.lay_out_inputs(_make_mount_request(request, metadata, service), folder)
    environment = _describe_environment(request, notebook, inputs, papermill)
    python_path = gateway.find_python_path(service, notebook, inputs.data)
    return inputs, replace(environment, python_path=python_path)


def _describe_environment(
    request: RehearsalRequest, notebook: Path, inputs: mounts.MountedInputs, papermill: Interpreter
) -> RehearsalEnvironment:
    """Return the environment of the run, still without its kernel."""
    return RehearsalEnvironment(
        notebook=notebook,
        inputs=inputs.mounts,
        kernel=(),
        papermill=papermill.path,
        python_mounts=papermill.mounts,
        links=papermill.links,
        uv=None if request.installer == "pip" else interpreters.uv_program(),
        installer=request.installer,
        timeout=request.timeout,
        memory=request.memory,
        current=request.env == "current",
        own_packages=kit_facts.read_install_plan(kit_facts.list_kit_files(request.kit)).own_packages(),
    )


def _warn_of_stored_answer(
    request: RehearsalRequest, result: KernelRun, inputs: mounts.MountedInputs
) -> tuple[str, ...]:
    """Warn if the submission equals a table of the inputs: the hidden test set has other ids."""
    submission_file = result.working / request.submission
    if submission_file.suffix.lower() != ".csv" or not submission_file.is_file():
        return ()
    folders = [*request.copies.values(), *([request.competition_data] if request.competition_data else [])]
    tables = [path for folder in folders if folder.is_dir() for path in sorted(folder.rglob("*.csv"))]
    tables += [path for _, path in kit_facts.list_kit_files(request.kit) if path.suffix.lower() == ".csv"]
    other_tables = [path for path in tables if path != inputs.sample and path.is_file()]
    if table := submission_check.find_stored_answer(submission_file, other_tables):
        return (f"all predictions equal those in '{table.name}': it has no rows for the hidden test set",)
    return ()


def _check_request(request: RehearsalRequest) -> None:
    for option, value, choices in (
        ("environment", request.env, ENVIRONMENTS),
        ("installer", request.installer, INSTALLERS),
        ("layout", request.layout, LAYOUTS),
    ):
        if value not in choices:
            raise UsageError(
                f"unknown {option} '{value}' for a rehearsal",
                hint=f"use one of {', '.join(choices)}",
                code=f"unknown-{option}",
            )


def _prepare_service(request: RehearsalRequest, notebook: Path, folder: Path) -> GatewayService | None:
    """Return the gateway to test the notebook with; None if the notebook runs no inference server."""
    if not gateway.uses_gateway(notebook):
        return None
    data = request.competition_data
    return gateway.prepare_gateway(data, request.params, Path(request.submission).name, folder)


def _run_scoring(
    service: GatewayService,
    environment: RehearsalEnvironment,
    runner: Sandbox,
    inputs: mounts.MountedInputs,
    result: KernelRun,
    judgement: RunVerdict,
    report: Reporter,
) -> tuple[KernelRun, RunVerdict]:
    """Run a server's notebook again as in Kaggle's scoring run; return the run that counts and its verdict."""
    report.step("running again with the gateway in its own process, as in the scoring run")
    folder = result.log.parents[1]
    scoring_environment = gateway.make_scoring_run(
        environment, service, inputs.data, result.working / service.submission, folder / "driver"
    )
    second = execution.run_notebook(scoring_environment, runner, folder / "scoring", report=report)
    table = gateway.collect_submission(second, service.submission)
    scoring_judgement = verdict.judge_run(
        second,
        scoring_environment,
        service.submission,
        inputs.sample,
        table=table,
        trusted=service.package is None,
    )
    if problem := gateway.find_gateway_problem(second) or scoring_judgement.problem:
        return second, replace(scoring_judgement, problem=problem)
    rows = scoring_judgement.rows or gateway.count_answered_rows(second)
    return result, replace(
        judgement,
        rows=rows,
        notes=(*scoring_judgement.notes, *gateway.describe_second_run(second, service)),
        notebook_notes=(*judgement.notebook_notes, *scoring_judgement.notebook_notes),
        warnings=(*scoring_judgement.warnings, *gateway.warn_of_differences(result, second, service)),
    )


def _make_mount_request(
    request: RehearsalRequest, metadata: Mapping[str, Any], service: GatewayService | None
) -> mounts.MountRequest:
    return mounts.MountRequest(
        kit=request.kit,
        metadata=metadata,
        dataset=request.dataset,
        competition=request.competition,
        data=request.competition_data,
        sample=request.sample_submission,
        layout=request.layout,
        rows=request.rows,
        copies=request.copies,
        part_sources=request.part_sources,
        added_folders=service.added_folders() if service else {},
    )


def _add_log_path(problem: ProjectError, folder: Path) -> ProjectError:
    details = (*problem.details, f"full log: {folder / 'log.txt'}")
    return ProjectError(problem.what, hint=problem.hint, code=problem.code, details=details)


def _keep_evidence(
    folder: Path, outcome: Rehearsal, result: KernelRun, problem: ProjectError | None, *, written: str
) -> None:
    """Move notebook, log and submission to `folder`, write report.json, and delete the run's other files."""
    for source, name in (
        (result.executed, "executed.ipynb"),
        (result.log, "log.txt"),
        (result.working / written, outcome.submission.name),
    ):
        if source.is_file():
            source.replace(folder / name)  # moved: copying a sparse file would fill its holes
    problem_data = None
    if problem:
        problem_data = {
            "code": problem.code,
            "what": problem.what,
            "hint": problem.hint,
            "details": list(problem.details),
        }
    report_data = {"passed": problem is None, "problem": problem_data, **asdict(outcome)}
    text = json.dumps(report_data, indent=2, default=str, ensure_ascii=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    files.remove_path(folder / "run")


def read_last_report(kit: Kit) -> dict[str, Any] | None:
    """Return the report of the last rehearsal of this kit and notebook, or None.

    It has "passed", "problem" ("code", "what", "hint", "details") and the fields of `Rehearsal`.
    """
    try:
        report_data = json.loads((kit.folder / "rehearsal" / "report.json").read_text(encoding="utf-8"))
        identity = (report_data["kit"], report_data["notebook"])
        notebook, _ = kit_facts.read_notebook(kit)
        return dict(report_data) if identity == (kit.id, files.sha256_of(notebook)) else None
    except (OSError, ValueError, KeyError, TypeError, ProjectError):
        return None
