"""Of the corpus of notebooks, how many are green with no question answered: by reading alone, and by recording.

python bench/recorded_corpus.py [NAME ...]

Green is a rehearsal that passes and writes the submission that the notebook wrote with the internet on.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support.recorded_corpus import CASES, CorpusWorld, RecordedCase, make_case_project, serve_corpus
from tests.support.workbench import run

ADOPT = ("adopt", "inference.ipynb", "--write", "--json")


def rehearse(project: Path, env: Mapping[str, str | None]) -> list[str]:
    """Return the rows of the submission of a rehearsal that passed, else nothing; a gateway asks for them in any order."""
    passed = run("rehearse", project, "--env", "current", "--yes", env=env).code == 0
    submission = project / "dist" / "offline-kit" / "rehearsal" / "submission.csv"
    return sorted(submission.read_text().splitlines()) if passed else []


def judge_recording(world: CorpusWorld, case: RecordedCase, project: Path) -> tuple[list[str], str]:
    """Return the submission of the recorded run, and what came of its replay."""
    words = (*ADOPT, "--record", "--env", "current", "--yes")
    env = world.environment(case)
    recorded = run(*words, cwd=project, env=env)
    if recorded.code:
        return [], "recording failed"
    truth = (project / ".offline-kit" / "recorder" / "submission.csv").read_text()
    rows = sorted(truth.splitlines())
    return rows, "green" if rehearse(project, env) == rows else "failed"


def judge_reading(world: CorpusWorld, case: RecordedCase, project: Path, truth: list[str]) -> str:
    """Return what comes of a notebook that is read alone."""
    env = world.environment(case)
    adopted = run(*ADOPT, cwd=project, env=env)
    questions = adopted.facts["asked"]
    if questions:
        return f"{questions} questions"
    return "green" if rehearse(project, env) == truth else "failed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", metavar="NAME")
    names = parser.parse_args().names
    cases = [case for case in CASES if not names or case.name in names]
    green = {"reading": 0, "recording": 0}
    with tempfile.TemporaryDirectory() as folder, serve_corpus(Path(folder) / "world") as world:
        for case in cases:
            projects = [
                make_case_project(case, Path(folder, kind, case.name), world.trained) for kind in green
            ]
            start = time.monotonic()
            truth, recording = judge_recording(world, case, projects[1])
            seconds = time.monotonic() - start
            reading = judge_reading(world, case, projects[0], truth)
            green["reading"] += reading == "green"
            green["recording"] += recording == "green"
            print(
                f"{case.name:20} reading: {reading:14} recording: {recording:18} {seconds:5.1f} s", flush=True
            )
    print(json.dumps({"notebooks": len(cases), **green}))


if __name__ == "__main__":
    main()
