"""Run the notebook once more as Kaggle's scoring run does: its variable is set, and the data is not the public data."""

import re
from collections.abc import Callable
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

RunSession = Callable[[RehearsalEnvironment, Path | None, Path], RunVerdict]
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
class JudgedRun:
    """A run that was judged, with its facts, and how to run the notebook again."""

    request: RehearsalRequest
    environment: RehearsalEnvironment
    inputs: MountedInputs
    judgement: RunVerdict
    run_session: RunSession
    report: Reporter

    @property
    def folder(self) -> Path:
        """The folder of the rehearsal's runs."""
        return self.judgement.run.log.parents[1]

    def find_sample(self, data: Path) -> Path | None:
        """Return the sample submission of the public data."""
        return self.request.sample_submission or kit_submission.find_sample(data)

    def prepare_data(self, name: str, *, rare: bool) -> HiddenData:
        """Make the data of a hidden run in a folder of this name."""
        request, data = self.request, self.request.competition_data
        if data is None:
            changes = ("nothing but the variable: no competition data is mounted",)
            return HiddenData(sample=self.inputs.sample, changes=changes)
        sample, choice = self.find_sample(data), hidden_data.parse_auto(request.hidden)
        if choice is None:
            return hidden_data.overlay_folder(data, Path(request.hidden), sample)
        folder, rows = self.folder / name, request.hidden_rows
        varied = hidden_data.make_hidden_data(
            data, sample, folder, choice=choice, limit=request.rows, rows=rows, rare=rare
        )
        return varied if varied.covers else replace(varied, sample=self.inputs.sample)

    def run_again(self, data: HiddenData, name: str) -> RunVerdict:
        """Run the notebook as it is scored, with other data over the public data."""
        covers = {f"{self.inputs.data}/{path.name}": path for path in data.covers}
        input_mounts = [mount for mount in self.environment.inputs if mount.inside not in covers]
        input_mounts += [Mount(inside=inside, source=path.resolve()) for inside, path in covers.items()]
        env = {**self.environment.env, RERUN: "1"}
        environment = replace(self.environment, inputs=tuple(input_mounts), env=env)
        return self.run_session(environment, data.sample, self.folder / name)


def judge_hidden_run(public: JudgedRun) -> RunVerdict:
    """Run the notebook again on hidden data; return the verdict of the run that counts.

    The second run counts if it failed. What failed only for a missing file or a long cell is a warning, and so is what
    the second run warned of and the first did not.
    """
    judgement, warnings, rare_problem = public.judgement, list[str](), ""
    data = public.prepare_data("hidden-data", rare=True)
    described = "; ".join((*data.changes, *data.rare_changes))
    public.report.step(f"running again as in the scoring run; its data: {described}")
    verdict = public.run_again(data, "hidden")
    if (failed := verdict.problem) and data.rare_changes:
        rare_changes = " and ".join(data.rare_changes)
        public.report.step(f"running again without this: {rare_changes}")
        data = public.prepare_data("plain-data", rare=False)
        verdict = public.run_again(data, "plain")
        if verdict.problem is None:
            rare_problem = failed.code
            last_line = next((f": {line}" for line in reversed(failed.details) if line.strip()), "")
            warnings.append(f"the hidden run fails if {rare_changes}: {failed.what}{last_line}")
    problem = verdict.problem
    difference, is_constant = _compare_predictions(public, verdict.run, data)
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
    sessions = (
        measure_session(judgement.run, judgement.rows),
        measure_session(verdict.run, verdict.rows or data.rows),
    )
    hidden = HiddenRun(
        data=public.request.hidden,
        sessions=sessions,
        changes=(*data.changes, *data.rare_changes),
        problem=problem.code if problem else "",
        rare_problem=rare_problem,
        difference=difference,
    )
    if problem is None:
        warnings = [*judgement.warnings, *warnings]
        return replace(judgement, warnings=tuple(warnings), hidden=asdict(hidden))
    changes = ("", "its data differs from the public data:", *(f"- {line}" for line in hidden.changes))
    failed_hidden = ProjectError(
        f"in the hidden run, {problem.what}",
        hint=problem.hint,
        code="hidden-run-failed",
        details=(*problem.details, *changes),
    )
    return replace(verdict, problem=failed_hidden, hidden=asdict(hidden))


def run_fewer_rows(public: JudgedRun) -> tuple[SessionFacts, ...]:
    """Run the notebook again on a tenth of the rows; return what a forecast needs of both, () if that is not possible."""
    data, all_rows = public.request.competition_data, public.judgement.rows
    if data is None or all_rows < _MIN_ROWS:
        return ()
    rows, folder = max(1, all_rows // _SHORTER), files.make_folder(public.folder / "fewer-data")
    try:
        covers, sample = kit_rows.cut_rows(data, public.find_sample(data), rows, folder, files.link_or_copy)
    except KitError:
        return ()
    public.report.step(f"running again on {rows} rows, for the forecast")
    verdict = public.run_again(HiddenData(covers=tuple(covers), sample=sample), "fewer")
    if verdict.problem:
        public.report.note(f"there is no forecast: on {rows} rows, {verdict.problem.what}")
        return ()
    return measure_session(public.judgement.run, all_rows), measure_session(verdict.run, verdict.rows)


def _compare_predictions(public: JudgedRun, second: KernelRun, data: HiddenData) -> tuple[str, bool]:
    """Describe how predictions for the same rows differ, "" if they do not; and whether they became constant."""
    paths = [run.working / public.request.submission for run in (public.judgement.run, second)]
    if not data.originals or paths[0].suffix.lower() != ".csv" or not all(path.is_file() for path in paths):
        return "", False
    tables = [submission_check.read_table(path) for path in paths]
    if any(len(set(table.ids())) < len(table.rows) for table in tables):
        return "", False
    hidden_rows: dict[str, tuple[str, ...]] = {}
    for row in tables[1].rows:
        new = split_id(row[0], data.originals)
        if new and new not in data.altered_ids:
            old = data.originals[new] + row[0][len(new) :]
            hidden_rows.setdefault(old, (old, *row[1:]))
    public_rows = [row for row in tables[0].rows if row[0] in hidden_rows]
    rows = public_rows, [hidden_rows[row[0]] for row in public_rows]
    common = [replace(table, rows=own) for table, own in zip(tables, rows, strict=True)]
    distinct = [len({row[1:] for row in own}) for own in rows]
    is_constant = len(public_rows) >= _MIN_ROWS and distinct[0] > 1 and distinct[1] == 1
    return submission_check.compare_tables(common[0], common[1], _TOLERANCE), is_constant
