"""Rehearse a kit: run its notebook offline in a sandbox that looks like Kaggle, and check its submission."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from offline_kit import __version__
from offline_kit.core import files, interpreters, sandbox
from offline_kit.core.errors import ProjectError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.core.sandbox import Sandbox
from offline_kit.notebook.runtime.kit_capture import hash_packages
from offline_kit.packages.pip_settings import IndexSettings
from offline_kit.project.types import Kit
from offline_kit.rehearsal import (
    container_python,
    environments,
    execution,
    gateway,
    hidden_run,
    kernel,
    kit_facts,
    machine_limits,
    mounts,
    receipt,
    recorded_kits,
    replay_check,
    submission_check,
    verdict,
)
from offline_kit.rehearsal.environments import EnvironmentOptions
from offline_kit.rehearsal.execution import KernelRun, KernelSetup, RehearsalEnvironment
from offline_kit.rehearsal.forecast import SessionFacts, make_forecast
from offline_kit.rehearsal.gateway import GatewayService
from offline_kit.rehearsal.hidden_run import PublicRun
from offline_kit.rehearsal.kit_facts import KitFile
from offline_kit.rehearsal.mounts import MountedInputs
from offline_kit.rehearsal.report import page
from offline_kit.rehearsal.report.run_facts import RunEvidence
from offline_kit.rehearsal.request import RehearsalRequest
from offline_kit.rehearsal.verdict import RunVerdict


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """A rehearsal that passed."""

    kit: str
    notebook: str  # hex SHA-256
    rows_wanted: int | None
    hidden_rows: int | None
    fidelity: str  # "image", "matching" or "stand-in"
    differences: tuple[str, ...]
    notes: tuple[str, ...]
    sandbox: str
    env: str
    python: str
    installer: str
    layout: str
    seconds: float  # wall-clock time of the notebook, the start of its kernel included
    cell_seconds: tuple[float, ...]
    peak_memory: int  # bytes of the whole process tree; 0 if it cannot be measured
    memory_by: str
    submission: Path
    rows: int  # rows of the submission; 0 if neither a CSV nor our gateway gives their number
    folder: Path
    report: Path  # the page that shows all this to a person
    image: str = ""  # the container that it ran in, else the image that its versions are of
    image_digest: str = ""
    packages_hash: str = ""  # see `Image.packages_hash`
    limits: Mapping[str, Any] = field(
        default_factory=dict
    )  # those of `Machine`, with the time limit of this run
    at: str = ""
    tool: str = __version__
    warnings: tuple[str, ...] = ()
    replay: Mapping[str, Any] | None = None
    """For a recorded kit the fields of `replay_check.ReplayComparison`."""
    hidden: Mapping[str, Any] | None = None
    """If there was a hidden run, the fields of `hidden_run.HiddenRun`."""
    forecast: Mapping[str, Any] | None = None
    """If there were runs of two sizes, the fields of `forecast.Forecast`."""


def rehearse_kit(
    request: RehearsalRequest, settings: IndexSettings, *, cache: Path, report: Reporter = SILENT
) -> Rehearsal:
    """Run the kit's notebook offline, check its submission, and keep log and report in <kit>/rehearsal/.

    The results of the previous rehearsal are replaced once this one has run, whether it passed or failed.

    Raises ProjectError if the kit cannot run here, a cell failed, a limit was reached, or the submission is
    wrong; UsageError if a large download was not confirmed; OutsideError if no sandbox works, or the package
    index refused.
    """
    notebook, metadata = kit_facts.read_notebook(request.kit)
    runner = _find_runner(request, report)
    options = EnvironmentOptions(index=settings, cache=cache, yes=request.yes, report=report)
    evidence = request.kit.folder / "rehearsal"
    files.sweep_stages(evidence)  # the results of the previous rehearsal stay until this one has ended
    with files.stage_folder(evidence) as folder:
        run_folder, service = folder / "run", None
        if gateway.uses_gateway(notebook):
            name, data = Path(request.submission).name, request.competition_data
            service = gateway.prepare_gateway(data, request.params, name, run_folder / "gateway")
        kit_files = kit_facts.list_kit_files(request.kit)
        code = (notebook, *(service.code if service else ()))
        current, recording = request.env == "current", kit_facts.find_recording(kit_files)
        setup = _prepare_kernel(request, kit_files, code, options, run_folder, runner)
        level, _ = kernel.measure_fidelity(request.image, setup)
        report.step(f"rehearsing in {runner.kind}, fidelity {level}, Python {setup.python.version}")
        added_folders = service.added_folders() if service else {}
        inputs = mounts.lay_out_inputs(request, metadata, run_folder / "input", added_folders=added_folders)
        environment = RehearsalEnvironment(
            notebook=notebook,
            inputs=inputs.mounts,
            kernel=setup,
            papermill=setup.python if runner.image else environments.make_papermill_environment(options),
            uv=None if runner.image or request.installer == "pip" else interpreters.uv_program(),
            installer=request.installer,
            timeout=request.timeout,
            machine=machine_limits.choose_machine(request),
            current=current,
            recorded=recording is not None,
            own_packages=kit_facts.read_install_plan(kit_files).own_packages(),
            python_path=gateway.find_python_path(service, notebook, inputs.data),
        )

        def run_with_kernel(chosen: KernelSetup) -> KernelRun:
            box = run_folder / "box"
            files.remove_path(box)  # left by a run that lacked a package
            return execution.run_notebook(replace(environment, kernel=chosen), runner, box, report=report)

        setup, result = kernel.run_until_complete(setup, request.image, options, run_with_kernel)
        environment = replace(environment, kernel=setup)
        if service:
            # The gateway decides on the format, whatever is configured.
            name = gateway.find_submission(result.working, service.submission)
            request, service = replace(request, submission=name), replace(service, submission=name)
        judgement = verdict.judge_run(result, environment, request.submission, inputs.sample)
        sessions = ScoringSessions(service, runner, inputs.data, request.submission, report)
        first = result, judgement
        result, judgement = _judge_further(request, kit_files, environment, inputs, first, sessions)
        outcome = _summarize_run(request, runner, notebook, setup, inputs, result, judgement)
        if judgement.problem is None:
            outcome = _add_forecast(outcome, request, environment, inputs, (result, judgement), sessions)
        run = RunEvidence(request=request, inputs=inputs, result=result, kernel=setup, sandbox=runner.kind)
        _keep_evidence(folder, outcome, judgement.problem, run, report)
    if problem := judgement.problem:
        raise problem
    for warning in outcome.warnings:
        report.warn(warning)
    return outcome


def _find_runner(request: RehearsalRequest, report: Reporter) -> Sandbox:
    if request.env == "image":
        # --yes does not agree to a pull.
        return sandbox.find_container(request.container, confirm_pull=None if request.yes else report.confirm)
    return sandbox.find_sandbox(request.sandboxes, report=report)


def _prepare_kernel(
    request: RehearsalRequest,
    kit_files: Sequence[KitFile],
    code: Sequence[Path],
    options: EnvironmentOptions,
    run_folder: Path,
    runner: Sandbox,
) -> KernelSetup:
    image, needs = request.image, set[str]()
    if runner.image:
        used, hide_uv = kernel.find_used_packages(kit_files, code, image), request.installer == "pip"
        folder = run_folder / "container"
        return container_python.prepare_container_kernel(runner, used, folder, hide_uv=hide_uv)
    if recording := kit_facts.find_recording(kit_files):
        scratch = run_folder / "recording"
        code = (*code, *recorded_kits.unpack_modules(recording, scratch))
        needs = recorded_kits.find_pip_needs(recording, code, image, scratch)
    current = request.env == "current"
    return kernel.prepare_kernel(kit_files, code, image, options, current=current, more=needs)


@dataclass(frozen=True)
class ScoringSessions:
    """Runs in which a notebook is scored: with its gateway in a process of its own, if it has one."""

    service: GatewayService | None
    runner: Sandbox
    data: str  # mount of the competition's data
    submission: str
    report: Reporter

    def run_session(
        self, environment: RehearsalEnvironment, sample: Path | None, folder: Path, first: Path | None = None
    ) -> tuple[KernelRun, RunVerdict]:
        """Run the notebook in `folder` and judge it by a sample; `first` is the submission of the first run."""
        service, table = self.service, None
        if service:
            driver = folder.with_name(f"{folder.name}-driver")
            environment = gateway.make_scoring_run(environment, service, self.data, first, driver)
        run = execution.run_notebook(environment, self.runner, folder, report=self.report)
        if service:
            table = gateway.collect_submission(run, self.submission)
        trusted = service is not None and service.package is None
        judgement = verdict.judge_run(run, environment, self.submission, sample, table=table, trusted=trusted)
        problem = (gateway.find_gateway_problem(run) if service else None) or judgement.problem
        return run, replace(judgement, problem=problem)

    def describe_run(
        self,
        request: RehearsalRequest,
        environment: RehearsalEnvironment,
        inputs: MountedInputs,
        run: tuple[KernelRun, RunVerdict],
    ) -> PublicRun:
        """Return a run on the public data with what runs it again."""
        return PublicRun(
            request=request,
            environment=environment,
            inputs=inputs,
            result=run[0],
            judgement=run[1],
            run_session=self.run_session,
            report=self.report,
        )


def _judge_further(
    request: RehearsalRequest,
    kit_files: Sequence[KitFile],
    environment: RehearsalEnvironment,
    inputs: MountedInputs,
    first: tuple[KernelRun, RunVerdict],
    sessions: ScoringSessions,
) -> tuple[KernelRun, RunVerdict]:
    """Run the further sessions of a notebook that passed the first; return the run that counts and its verdict."""
    result, judgement = first
    if sessions.service and judgement.problem is None:
        result, judgement = _run_scoring(sessions.service, environment, inputs, first, sessions)
    judgement = replay_check.judge_replay(judgement, request, kit_files, result)
    if request.hidden and judgement.problem is None:
        return hidden_run.judge_hidden_run(
            sessions.describe_run(request, environment, inputs, (result, judgement))
        )
    return result, judgement


def _add_forecast(
    outcome: Rehearsal,
    request: RehearsalRequest,
    environment: RehearsalEnvironment,
    inputs: MountedInputs,
    run: tuple[KernelRun, RunVerdict],
    sessions: ScoringSessions,
) -> Rehearsal:
    """Forecast the hidden test set, with a further run if its rows are known and no run of another size tells more."""
    project = partial(
        make_forecast,
        rows=request.hidden_rows,
        seconds_limit=request.context.time_limit or request.timeout,
        memory_limit=environment.machine.memory,
    )
    forecast = project([SessionFacts(**session) for session in (run[1].hidden or {}).get("sessions", ())])
    if forecast is None and request.hidden_rows:
        public = sessions.describe_run(request, environment, inputs, run)
        forecast = project(hidden_run.run_fewer_rows(public))
    if forecast is None:
        return outcome
    warnings = (*outcome.warnings, *([forecast.warning] if forecast.warning else []))
    return replace(outcome, forecast=asdict(forecast), warnings=warnings)


def _run_scoring(
    service: GatewayService,
    environment: RehearsalEnvironment,
    inputs: MountedInputs,
    first: tuple[KernelRun, RunVerdict],
    sessions: ScoringSessions,
) -> tuple[KernelRun, RunVerdict]:
    """Run a server's notebook again as in Kaggle's scoring run; return the run that counts and its verdict."""
    # Kaggle runs the notebook and its gateway in two containers and sets KAGGLE_IS_COMPETITION_RERUN.
    sessions.report.step("running again with the gateway in its own process, as in the scoring run")
    result, judgement = first
    submission, folder = result.working / service.submission, result.log.parents[1] / "scoring"
    second, scoring_judgement = sessions.run_session(environment, inputs.sample, folder, submission)
    if scoring_judgement.problem:
        return second, scoring_judgement
    return result, replace(
        judgement,
        rows=scoring_judgement.rows or int(gateway.read_gateway_result(second).get("Rows", 0)),
        notes=(*scoring_judgement.notes, *gateway.describe_second_run(second, service)),
        notebook_notes=(*judgement.notebook_notes, *scoring_judgement.notebook_notes),
        warnings=(*scoring_judgement.warnings, *gateway.warn_of_differences(result, second, service)),
    )


def _summarize_run(
    request: RehearsalRequest,
    runner: Sandbox,
    notebook: Path,
    setup: KernelSetup,
    inputs: MountedInputs,
    result: KernelRun,
    judgement: RunVerdict,
) -> Rehearsal:
    level, differences = kernel.measure_fidelity(request.image, setup)
    machine = machine_limits.choose_machine(request)
    shortfalls = machine_limits.describe_shortfalls(machine)
    notes = (*setup.notes, *inputs.notes, *judgement.notebook_notes, *judgement.notes, *shortfalls)
    return Rehearsal(
        kit=request.kit.id,
        notebook=files.sha256_of(notebook),
        rows_wanted=request.rows,
        hidden_rows=request.hidden_rows,
        fidelity=level,
        differences=tuple(map(str, differences)),
        notes=tuple(dict.fromkeys(notes)),
        sandbox=runner.kind,
        env=request.env,
        python=setup.python.version,
        installer=request.installer,
        layout=request.layout,
        seconds=round(result.outcome.seconds, 2),
        cell_seconds=tuple(round(cell.seconds or 0.0, 3) for cell in judgement.cells),
        peak_memory=result.outcome.peak_memory,
        memory_by=result.outcome.memory_by,
        submission=request.kit.folder / "rehearsal" / Path(request.submission).name,
        rows=judgement.rows,
        replay=judgement.replay,
        hidden=judgement.hidden,
        folder=request.kit.folder / "rehearsal",
        report=request.kit.folder / "rehearsal" / page.PAGE,
        image=runner.image or request.image.name,
        image_digest=runner.find_digest() if runner.image else request.image.digest,
        packages_hash=hash_packages(setup.python.packages if runner.image else request.image.packages),
        limits=asdict(machine) | {"seconds": request.timeout},
        at=files.utc_timestamp(),
        warnings=(*judgement.warnings, *_warn_of_stored_answer(request, result, inputs)),
    )


def _warn_of_stored_answer(
    request: RehearsalRequest, result: KernelRun, inputs: MountedInputs
) -> tuple[str, ...]:
    """Warn if the submission equals a table of the inputs: the hidden test set has other ids."""
    submission_file = result.working / request.submission
    if submission_file.suffix.lower() != ".csv" or not submission_file.is_file():
        return ()
    # A submission made for the public ids fails in scoring:
    # https://www.kaggle.com/competitions/biohub-cell-tracking-during-development/discussion/732674
    folders = [*request.copies.values(), *([request.competition_data] if request.competition_data else [])]
    tables = [path for folder in folders if folder.is_dir() for path in sorted(folder.rglob("*.csv"))]
    tables += [path for _, path in kit_facts.list_kit_files(request.kit) if path.suffix.lower() == ".csv"]
    other_tables = [path for path in tables if path != inputs.sample and path.is_file()]
    if table := submission_check.find_stored_answer(submission_file, other_tables):
        return (f"all predictions equal those in '{table.name}': it has no rows for the hidden test set",)
    return ()


def _keep_evidence(
    folder: Path,
    outcome: Rehearsal,
    problem: ProjectError | None,
    run: RunEvidence,
    report: Reporter,
) -> None:
    """Move notebook, log and submission to `folder`, write its reports, and delete the run's other files."""
    result = run.result
    for source, name in (
        (result.script or result.executed, "script.py" if result.script else "executed.ipynb"),
        (result.log, "log.txt"),
        (result.working / run.request.submission, outcome.submission.name),
    ):
        if source.is_file():
            source.replace(folder / name)  # moved: copying a sparse file would fill its holes
    report_data: dict[str, Any] = {"passed": problem is None, "problem": None, **asdict(outcome)}
    if problem:
        problem.details = (*problem.details, f"full log: {outcome.folder / 'log.txt'}")
        report_data["problem"] = {
            "code": problem.code,
            "what": problem.what,
            "hint": problem.hint,
            "details": list(problem.details),
        }
    write_report_data(folder, report_data)
    if page.write_report(folder, run, report=report) and problem:
        problem.details = (*problem.details, f"report: {outcome.report}")
    files.remove_path(folder / "run")


def write_report_data(folder: Path, report_data: Mapping[str, Any]) -> None:
    """Write report.json, and the receipt that is a part of it."""
    for name, content in (("report.json", report_data), (receipt.RECEIPT, receipt.make_receipt(report_data))):
        text = json.dumps(content, indent=2, default=str, ensure_ascii=False)
        files.write_atomic(folder / name, text + "\n")


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
