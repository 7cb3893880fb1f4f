"""Run the notebook once more as Kaggle's scoring run does: its variable is set, and the data is not the public data."""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from offline_kit.core import files
from offline_kit.core.errors import ProjectError
from offline_kit.core.report import Reporter
from offline_kit.core.sandboxes.box import Mount
from offline_kit.notebook.runtime import kit_rows, kit_submission
from offline_kit.notebook.runtime.kit_rows import split_id
from offline_kit.notebook.runtime.kit_runtime import KitError
from offline_kit.rehearsal import hidden_data, submission_check
from offline_kit.rehearsal.execution import KernelRun, RehearsalEnvironment
from offline_kit.rehearsal.forecast import SessionFacts, measure_session
from offline_kit.rehearsal.gateway_driver import RERUN
from offline_kit.rehearsal.hidden_data import HiddenData
from offline_kit.rehearsal.mounts import MountedInputs
from offline_kit.rehearsal.request import RehearsalRequest
from offline_kit.rehearsal.verdict import RunVerdict

RunSession = Callable[[RehearsalEnvironment, Path | None, Path], tuple[KernelRun, RunVerdict]]
"""Run an environment in a folder, judged by a sample submission."""
_TOLERANCE = 1e-3  # of predictions: batches of other sizes sum in another order
_MIN_ROWS = 3  # fewer may have the same prediction by chance
_NUMBER = re.compile(r"[\d.,]+")
_SHORTER = 10  # times, for a forecast: the fixed part is what costs then


@dataclass(frozen=True, kw_only=True)
class HiddenRun:
    """How the notebook ran on hidden data."""

    data: str  # as requested: "auto..." or a folder
    sessions: tuple[SessionFacts, SessionFacts]  # on the public data, then on the hidden
    changes: tuple[str, ...]  # how the data of the last run differs from the public data
    problem: str = ""  # code of the error that it failed with
    rare_problem: str = ""  # of the run that lacked a file or had a long cell, if only that one failed
    difference: str = ""  # of the predictions for the same rows


@dataclass(frozen=True, kw_only=True)
class PublicRun:
    """The run on the public data, and how to run the notebook again."""

    request: RehearsalRequest
    environment: RehearsalEnvironment
    inputs: MountedInputs
    result: KernelRun
    judgement: RunVerdict
    run_session: RunSession
    report: Reporter


def judge_hidden_run(public: PublicRun) -> tuple[KernelRun, RunVerdict]:
    """Run the notebook again on hidden data; return the run that counts and its verdict.

    The second run counts if it failed. What failed only for a missing file or a long cell is a warning, and so is what
    the second run warned of and the first did not.
    """
    request, environment, inputs, run_session = (
        public.request,
        public.environment,
        public.inputs,
        public.run_session,
    )
    result, judgement = public.result, public.judgement
    folder, warnings = result.log.parents[1], list[str]()
    data = _prepare_data(request, inputs, folder / "hidden-data", rare=True)
    public.report.step(
        f"running again as in the scoring run; its data: {'; '.join((*data.changes, *data.rare_changes))}"
    )
    second, verdict = run_session(_cover_data(environment, inputs, data), data.sample, folder / "hidden")
    rare_problem = ""
    if verdict.problem and data.rare_changes:
        rare_changes, failed = " and ".join(data.rare_changes), verdict.problem
        plain = _prepare_data(request, inputs, folder / "plain-data", rare=False)
        public.report.step(f"running again without this: {rare_changes}")
        second, verdict = run_session(_cover_data(environment, inputs, plain), plain.sample, folder / "plain")
        if verdict.problem is None:
            rare_problem, data = failed.code, plain
            last_line = next((f": {line}" for line in reversed(failed.details) if line.strip()), "")
            warnings.append(f"the hidden run fails if {rare_changes}: {failed.what}{last_line}")
    changes = (*data.changes, *data.rare_changes)
    difference, is_constant = _compare_predictions(result, second, data, request.submission)
    problem = verdict.problem
    if problem is None and is_constant:
        problem = ProjectError(
            "all predictions are the same, and they were not for the same rows of the public data",
            hint="compute the predictions from the mounted test set, and let errors stop the notebook",
            code="predictions-constant",
            details=(difference,),
        )
    elif problem is None and difference:
        warnings.append(
            f"the same rows have other predictions in the hidden run ({difference}): they depend on the order or the"
            " number of rows, or on chance"
        )
    # Another number of rows makes other numbers.
    known = {_NUMBER.sub("", line) for line in judgement.warnings}
    new_warnings = [line for line in verdict.warnings if _NUMBER.sub("", line) not in known]
    warnings += [f"in the hidden run: {line}" for line in new_warnings]
    hidden = HiddenRun(
        data=request.hidden,
        sessions=(
            measure_session(result, judgement.rows),
            measure_session(second, verdict.rows or data.rows),
        ),
        changes=changes,
        problem=problem.code if problem else "",
        rare_problem=rare_problem,
        difference=difference,
    )
    if problem:
        failed_hidden = _describe_failure(problem, changes)
        return second, replace(verdict, problem=failed_hidden, hidden=asdict(hidden))
    return result, replace(judgement, warnings=(*judgement.warnings, *warnings), hidden=asdict(hidden))


def _describe_failure(problem: ProjectError, changes: tuple[str, ...]) -> ProjectError:
    details = (
        *problem.details,
        "",
        "its data differs from the public data:",
        *(f"- {line}" for line in changes),
    )
    return ProjectError(
        f"in the hidden run, {problem.what}", hint=problem.hint, code="hidden-run-failed", details=details
    )


def run_fewer_rows(public: PublicRun) -> tuple[SessionFacts, ...]:
    """Run the notebook again on a tenth of the rows; return what a forecast needs of both, () if that is not possible."""
    request, result, judgement = public.request, public.result, public.judgement
    data, folder = request.competition_data, files.make_folder(result.log.parents[1] / "fewer-data")
    if data is None or judgement.rows < _MIN_ROWS:
        return ()
    rows = max(1, judgement.rows // _SHORTER)
    sample = request.sample_submission or kit_submission.find_sample(data)
    try:
        covers, sample = kit_rows.cut_rows(data, sample, rows, folder, files.link_or_copy)
    except KitError:
        return ()
    public.report.step(f"running again on {rows} rows, for the forecast")
    fewer = HiddenData(covers=tuple(covers), sample=sample)
    second, verdict = public.run_session(
        _cover_data(public.environment, public.inputs, fewer), sample, folder.with_name("fewer")
    )
    if verdict.problem:
        public.report.note(f"there is no forecast: on {rows} rows, {verdict.problem.what}")
        return ()
    return measure_session(result, judgement.rows), measure_session(second, verdict.rows)


def _prepare_data(
    request: RehearsalRequest, inputs: MountedInputs, folder: Path, *, rare: bool
) -> HiddenData:
    data = request.competition_data
    if data is None:
        return HiddenData(
            sample=inputs.sample, changes=("nothing but the variable: no competition data is mounted",)
        )
    sample = request.sample_submission or kit_submission.find_sample(data)
    choice = hidden_data.parse_auto(request.hidden)
    if choice is None:
        return hidden_data.overlay_folder(data, Path(request.hidden), sample)
    varied = hidden_data.make_hidden_data(
        data, sample, folder, choice=choice, limit=request.rows, rows=request.hidden_rows, rare=rare
    )
    return varied if varied.covers else replace(varied, sample=inputs.sample)


def _cover_data(
    environment: RehearsalEnvironment, inputs: MountedInputs, data: HiddenData
) -> RehearsalEnvironment:
    """Return the environment of a scoring run, with the hidden data over the public data."""
    covers = {f"{inputs.data}/{path.name}": path for path in data.covers}
    input_mounts = [mount for mount in environment.inputs if mount.inside not in covers]
    input_mounts += [Mount(inside=inside, source=path.resolve()) for inside, path in covers.items()]
    return replace(environment, inputs=tuple(input_mounts), env={**environment.env, RERUN: "1"})


def _compare_predictions(
    first: KernelRun, second: KernelRun, data: HiddenData, submission: str
) -> tuple[str, bool]:
    """Describe how predictions for the same rows differ, "" if they do not; and whether they became constant."""
    paths = [run.working / submission for run in (first, second)]
    originals = data.originals
    if not originals or paths[0].suffix.lower() != ".csv" or not all(path.is_file() for path in paths):
        return "", False
    tables = [submission_check.read_table(path) for path in paths]
    if any(len(set(table.ids())) < len(table.rows) for table in tables):
        return "", False
    hidden_rows: dict[str, Sequence[str]] = {}
    for row in tables[1].rows:
        new = split_id(row[0], originals)
        if new and new not in data.altered_ids:
            hidden_rows.setdefault(originals[new] + row[0][len(new) :], row[1:])
    public_rows: dict[str, Sequence[str]] = {
        row[0]: row[1:] for row in tables[0].rows if row[0] in hidden_rows
    }
    hidden_rows = {name: hidden_rows[name] for name in public_rows}
    for path, table, rows in zip(paths, tables, (public_rows, hidden_rows), strict=True):
        _write_common(path.parents[1] / "common.csv", table.header, rows)
    difference = submission_check.describe_difference(
        *(path.parents[1] / "common.csv" for path in paths), tolerance=_TOLERANCE
    )
    counts = [len({*map(tuple, rows.values())}) for rows in (public_rows, hidden_rows)]
    return difference, len(public_rows) >= _MIN_ROWS and counts[0] > 1 and counts[1] == 1


def _write_common(path: Path, header: tuple[str, ...], rows: Mapping[str, Sequence[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *([name, *row] for name, row in rows.items())])
