"""Collect what the report shows of a run while its files are here, as JSON; later the page is drawn from that alone."""

import json
from dataclasses import asdict
from pathlib import Path

from offline_kit.core import files
from offline_kit.rehearsal import kernel, machine_limits, submission_check
from offline_kit.rehearsal.hidden_run import JudgedRun
from offline_kit.rehearsal.report import column_facts, history, image_grid, kit_contents
from offline_kit.rehearsal.submission_check import SubmissionTable

FACTS = "report-facts.json"
_MAX_SUBMISSION = 2_000_000_000  # bytes; of a larger one only the size is shown
# Read for the report: more change no picture, and a report costs about a second.
_MAX_CELLS = 200_000


def write_facts(folder: Path, judged: JudgedRun) -> None:
    """Write what the page shows besides the evidence in `folder` beside that."""
    request, inputs, run = judged.request, judged.inputs, judged.judgement.run
    submission = folder / Path(request.submission).name
    table = _read_table(submission)
    _, differences = kernel.measure_fidelity(request.image, judged.environment.kernel)
    facts = {
        "at": files.utc_timestamp(),
        "project": request.context.project,
        "competition": request.competition,
        "kind": run.kind,
        "image": request.image.name,
        "started": run.outcome.started,
        "curve": [[round(sample.seconds, 2), sample.memory] for sample in run.outcome.memory_curve],
        "limits": {
            **asdict(machine_limits.choose_machine(request)),
            "seconds": request.context.time_limit or request.timeout,
        },
        "differences": [asdict(difference) for difference in differences],
        "accelerator": request.image.accelerator,
        "kit": kit_contents.describe_kit(request.kit),
        "has_sample": inputs.sample is not None and inputs.sample.suffix.lower() == ".csv",
        "submission": None,
        "pictures": [],
    }
    if submission.is_file():
        columns = {}
        if table and table.rows:
            previous = _read_table(history.find_previous_submission(request.context.records))
            columns = column_facts.describe_table(table, previous=previous, sample=_read_table(inputs.sample))
            # The folders of the competition's data, those that cover parts of others last.
            data = inputs.data
            mounts = [mount for mount in inputs.mounts if data and mount.inside.startswith(data)]
            folders = [mount.source for mount in mounts if mount.source.is_dir()]
            facts["pictures"] = image_grid.draw_pictures(table, folders)
        facts["submission"] = {"name": submission.name, "size": submission.stat().st_size, **columns}
    files.write_atomic(folder / FACTS, json.dumps(facts, ensure_ascii=False, allow_nan=False) + "\n")


def _read_table(path: Path | None) -> SubmissionTable | None:
    if path is None or path.suffix.lower() != ".csv" or not path.is_file():
        return None
    is_readable = path.stat().st_size <= _MAX_SUBMISSION
    return submission_check.read_table(path, max_cells=_MAX_CELLS) if is_readable else None
