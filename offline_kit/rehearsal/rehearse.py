"""Rehearse a kit: run its notebook offline in a sandbox that looks like Kaggle, and check its submission."""

import json
from collections.abc import Mapping
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
from offline_kit.rehearsal.hidden_run import JudgedRun
from offline_kit.rehearsal.report import page
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
    kit_facts.read_notebook(request.kit)
    if request.env == "image":
        # --yes does not agree to a pull.
        confirm_pull = None if request.yes else report.confirm
        runner = sandbox.find_container(request.container, confirm_pull=confirm_pull)
    else:
        runner = sandbox.find_sandbox(request.sandboxes, report=report)
    options = EnvironmentOptions(index=settings, cache=cache, yes=request.yes, report=report)
    evidence = request.kit.folder / "rehearsal"
    files.sweep_stages(evidence)  # the results of the previous rehearsal stay until this one has ended
    with files.stage_folder(evidence) as folder:
        runs = _RehearsalRuns(request, runner, options, folder / "run")
        judgement = runs.run_all()
        outcome = runs.summarize_run(judgement)
        if judgement.problem is None:
            outcome = runs.add_forecast(outcome, judgement)
        runs.keep_evidence(folder, outcome, judgement)
    if problem := judgement.problem:
        raise problem
    for warning in outcome.warnings:
        report.warn(warning)
    return outcome


class _RehearsalRuns:
    """The runs of one rehearsal, in a folder that is deleted afterwards."""

    def __init__(
        self, request: RehearsalRequest, runner: Sandbox, options: EnvironmentOptions, folder: Path
    ) -> None:
        self.request, self.runner, self.options, self.folder = request, runner, options, folder
        self.report = options.report
        self.notebook, metadata = kit_facts.read_notebook(request.kit)
        self.kit_files = kit_facts.list_kit_files(request.kit)
        self.recording = kit_facts.find_recording(self.kit_files)
        self.service: GatewayService | None = None
        if gateway.uses_gateway(self.notebook):
            name, data = Path(request.submission).name, request.competition_data
            self.service = gateway.prepare_gateway(data, request.params, name, folder / "gateway")
        setup = self._prepare_kernel()
        level, _ = kernel.measure_fidelity(request.image, setup)
        self.report.step(f"rehearsing in {runner.kind}, fidelity {level}, Python {setup.python.version}")
        added_folders = self.service.added_folders() if self.service else {}
        self.inputs = mounts.lay_out_inputs(request, metadata, folder / "input", added_folders=added_folders)
        self.environment = RehearsalEnvironment(
            notebook=self.notebook,
            inputs=self.inputs.mounts,
            kernel=setup,
            papermill=setup.python if runner.image else environments.make_papermill_environment(options),
            uv=None if runner.image or request.installer == "pip" else interpreters.uv_program(),
            installer=request.installer,
            timeout=request.timeout,
            machine=machine_limits.choose_machine(request),
            current=request.env == "current",
            recorded=self.recording is not None,
            own_packages=kit_facts.read_install_plan(self.kit_files).own_packages(),
            python_path=gateway.find_python_path(self.service, self.notebook, self.inputs.data),
        )

    def _prepare_kernel(self) -> KernelSetup:
        request, kit_files, image, needs = self.request, self.kit_files, self.request.image, set[str]()
        code = (self.notebook, *(self.service.code if self.service else ()))
        if self.runner.image:
            used, hide_uv = kernel.find_used_packages(kit_files, code, image), request.installer == "pip"
            folder = self.folder / "container"
            return container_python.prepare_container_kernel(self.runner, used, folder, hide_uv=hide_uv)
        if self.recording:
            scratch = self.folder / "recording"
            code = (*code, *recorded_kits.unpack_modules(self.recording, scratch))
            needs = recorded_kits.find_pip_needs(self.recording, code, image, scratch)
        current = request.env == "current"
        return kernel.prepare_kernel(kit_files, code, image, self.options, current=current, more=needs)

    def run_all(self) -> RunVerdict:
        """Run the notebook, and what passed also as in the scoring run; return the verdict of the run that counts."""

        def run_in_box(environment: RehearsalEnvironment) -> KernelRun:
            box = self.folder / "box"
            files.remove_path(box)  # left by a run that lacked a package
            return execution.run_notebook(environment, self.runner, box, report=self.report)

        self.environment, result = kernel.run_until_complete(
            self.environment, self.request.image, self.options, run_in_box
        )
        if self.service:
            # The gateway decides on the format, whatever is configured.
            name = gateway.find_submission(result.working, self.service.submission)
            self.request = replace(self.request, submission=name)
            self.service = replace(self.service, submission=name)
        judgement = verdict.judge_run(result, self.environment, self.request.submission, self.inputs.sample)
        if self.service and judgement.problem is None:
            judgement = self._run_scoring(self.service, judgement)
        judgement = replay_check.judge_replay(judgement, self.request, self.kit_files)
        if self.request.hidden and judgement.problem is None:
            return hidden_run.judge_hidden_run(self._describe_run(judgement))
        return judgement

    def run_session(
        self, environment: RehearsalEnvironment, sample: Path | None, folder: Path, first: Path | None = None
    ) -> RunVerdict:
        """Run the notebook in `folder` as it is scored, with its gateway in a process of its own; judge it by a sample.

        `first` is the submission of the first run.
        """
        service, submission, table = self.service, self.request.submission, None
        if service:
            driver = folder.with_name(f"{folder.name}-driver")
            environment = gateway.make_scoring_run(environment, service, self.inputs.data, first, driver)
        run = execution.run_notebook(environment, self.runner, folder, report=self.report)
        if service:
            table = gateway.collect_submission(run, submission)
        trusted = service is not None and service.package is None
        judgement = verdict.judge_run(run, environment, submission, sample, table=table, trusted=trusted)
        problem = (gateway.find_gateway_problem(run) if service else None) or judgement.problem
        return replace(judgement, problem=problem)

    def _describe_run(self, judgement: RunVerdict) -> JudgedRun:
        """Return a run with its facts and what runs the notebook again."""
        return JudgedRun(
            request=self.request,
            environment=self.environment,
            inputs=self.inputs,
            judgement=judgement,
            run_session=self.run_session,
            report=self.report,
        )

    def _run_scoring(self, service: GatewayService, judgement: RunVerdict) -> RunVerdict:
        """Run a server's notebook again as in Kaggle's scoring run; return the verdict of the run that counts."""
        # Kaggle runs the notebook and its gateway in two containers and sets KAGGLE_IS_COMPETITION_RERUN.
        self.report.step("running again with the gateway in its own process, as in the scoring run")
        first, folder = judgement.run, self.folder / "scoring"
        submission = first.working / service.submission
        scored = self.run_session(self.environment, self.inputs.sample, folder, submission)
        if scored.problem:
            return scored
        second = scored.run
        return replace(
            judgement,
            rows=scored.rows or int(gateway.read_gateway_result(second).get("Rows", 0)),
            notes=(*scored.notes, *gateway.describe_second_run(second, service)),
            notebook_notes=(*judgement.notebook_notes, *scored.notebook_notes),
            warnings=(*scored.warnings, *gateway.warn_of_differences(first, second, service)),
        )

    def add_forecast(self, outcome: Rehearsal, judgement: RunVerdict) -> Rehearsal:
        """Forecast the hidden test set, with a further run if its rows are known and no run of another size tells more."""
        project = partial(
            make_forecast,
            rows=self.request.hidden_rows,
            seconds_limit=self.request.context.time_limit or self.request.timeout,
            memory_limit=self.environment.machine.memory,
        )
        sessions = (judgement.hidden or {}).get("sessions", ())
        forecast = project([SessionFacts(**session) for session in sessions])
        if forecast is None and self.request.hidden_rows:
            forecast = project(hidden_run.run_fewer_rows(self._describe_run(judgement)))
        if forecast is None:
            return outcome
        warnings = (*outcome.warnings, *([forecast.warning] if forecast.warning else []))
        return replace(outcome, forecast=asdict(forecast), warnings=warnings)

    def summarize_run(self, judgement: RunVerdict) -> Rehearsal:
        """Return what is known of the rehearsal; it passed if the verdict has no problem."""
        request, image, setup, run = self.request, self.request.image, self.environment.kernel, judgement.run
        level, differences = kernel.measure_fidelity(image, setup)
        machine, is_container = self.environment.machine, bool(self.runner.image)
        shortfalls = machine_limits.describe_shortfalls(machine)
        notes = (*setup.notes, *self.inputs.notes, *judgement.notebook_notes, *judgement.notes, *shortfalls)
        folder = request.kit.folder / "rehearsal"
        return Rehearsal(
            kit=request.kit.id,
            notebook=files.sha256_of(self.notebook),
            rows_wanted=request.rows,
            hidden_rows=request.hidden_rows,
            fidelity=level,
            differences=tuple(map(str, differences)),
            notes=tuple(dict.fromkeys(notes)),
            sandbox=self.runner.kind,
            env=request.env,
            python=setup.python.version,
            installer=request.installer,
            layout=request.layout,
            seconds=round(run.outcome.seconds, 2),
            cell_seconds=tuple(round(cell.seconds or 0.0, 3) for cell in run.cells),
            peak_memory=run.outcome.peak_memory,
            memory_by=run.outcome.memory_by,
            submission=folder / Path(request.submission).name,
            rows=judgement.rows,
            replay=judgement.replay,
            hidden=judgement.hidden,
            folder=folder,
            report=folder / page.PAGE,
            image=self.runner.image or image.name,
            image_digest=self.runner.find_digest() if is_container else image.digest,
            packages_hash=hash_packages(setup.python.packages if is_container else image.packages),
            limits=asdict(machine) | {"seconds": request.timeout},
            at=files.utc_timestamp(),
            warnings=(*judgement.warnings, *self._warn_of_stored_answer(run)),
        )

    def _warn_of_stored_answer(self, result: KernelRun) -> tuple[str, ...]:
        """Warn if the submission equals a table of the inputs: the hidden test set has other ids."""
        submission = result.working / self.request.submission
        if submission.suffix.lower() != ".csv" or not submission.is_file():
            return ()
        # A submission made for the public ids fails in scoring:
        # https://www.kaggle.com/competitions/biohub-cell-tracking-during-development/discussion/732674
        data = self.request.competition_data
        folders = [*self.request.copies.values(), *([data] if data else [])]
        tables = [path for folder in folders if folder.is_dir() for path in sorted(folder.rglob("*.csv"))]
        tables += [path for _, path in self.kit_files if path.suffix.lower() == ".csv"]
        other_tables = [path for path in tables if path != self.inputs.sample and path.is_file()]
        if table := submission_check.find_stored_answer(submission, other_tables):
            return (f"all predictions equal those in '{table.name}': it has no rows for the hidden test set",)
        return ()

    def keep_evidence(self, folder: Path, outcome: Rehearsal, judgement: RunVerdict) -> None:
        """Move notebook, log and submission to `folder`, write its reports, and delete the run's other files."""
        result, problem = judgement.run, judgement.problem
        for source, name in (
            (result.script or result.executed, "script.py" if result.script else "executed.ipynb"),
            (result.log, "log.txt"),
            (result.working / self.request.submission, outcome.submission.name),
        ):
            if source.is_file():
                source.replace(folder / name)  # moved: copying a sparse file would fill its holes
        report_data: dict[str, Any] = {"passed": problem is None, "problem": None, **asdict(outcome)}
        if problem:
            problem.details = (*problem.details, f"full log: {outcome.folder / 'log.txt'}")
            keys = ("code", "what", "hint", "details")
            report_data["problem"] = {key: getattr(problem, key) for key in keys}
        write_report_data(folder, report_data)
        if page.write_report(folder, self._describe_run(judgement)) and problem:
            problem.details = (*problem.details, f"report: {outcome.report}")
        files.remove_path(self.folder)


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
