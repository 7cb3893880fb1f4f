"""The page of a rehearsal: one file that shows what is known, requests nothing, and trusts nothing."""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from offline_kit.core import files
from offline_kit.project.images import load_image
from offline_kit.project.types import Kit
from offline_kit.rehearsal.forecast import SessionFacts, make_forecast
from offline_kit.rehearsal.hidden_run import JudgedRun
from offline_kit.rehearsal.mounts import MountedInputs
from offline_kit.rehearsal.report import history, page
from offline_kit.rehearsal.report.column_facts import describe_table
from offline_kit.rehearsal.report.notebook_cells import NotebookReader
from offline_kit.rehearsal.request import RehearsalRequest, ReportContext
from offline_kit.rehearsal.script_runs import SCRIPT
from offline_kit.rehearsal.submission_check import SubmissionTable
from tests.support.listener import Listener
from tests.support.report_pages import FACTS, KIT, Page, make_cell, write_evidence
from tests.support.verdicts import BENCH, judge, ran

EVIL = "<script>alert(1)</script><img src=http://evil.test/x onerror=alert(2)>\"'{{7*7}}$x$"
CODE = f"a `{EVIL}` b"
LINKS = """
![x](http://evil.test/a.png) [y](javascript:alert(1)) <http://evil.test> [z]

[z]: http://evil.test/z 'title'
| a | <b onclick=x>b</b> |
|---|---|
| c | ![w][z] |

<iframe src=http://evil.test></iframe>
"""
PROBLEM = {"code": "cell-failed", "what": "cell 3 failed", "hint": "fix it", "details": ["KeyError: 'x'"]}


def draw_page(folder: Path, *cells: Any, context: ReportContext | None = None, **changes: Any) -> Page:
    drawn = page.write_page(write_evidence(folder, *cells, **changes), context or ReportContext())
    return Page(drawn.read_text(encoding="utf-8"))


def submission_of(*columns: str, rows: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    table = SubmissionTable(header=columns, rows=tuple(rows), is_whole=True)
    return {"name": "submission.csv", "size": 100, **describe_table(table)}


def test_a_page_of_hostile_names_runs_nothing_and_requests_nothing(tmp_path: Path) -> None:
    """Whatever a column, a label, a file, a cell, its output or an error is called, it is shown as text."""
    rows = [(f"{EVIL}{n}", EVIL, str(n / 7), f"{n} {EVIL * n}") for n in range(30)]
    item = {"name": EVIL, "version": EVIL, "kind": "packages", "fate": "bundled", "why": EVIL, "size": 5}
    facts = {
        "project": EVIL,
        "submission": submission_of("id", EVIL, EVIL + "2", EVIL + "3", rows=rows),
        "pictures": [{"id": EVIL, "uri": "data:image/jpeg;base64,AA==", "values": [[EVIL, EVIL]]}],
        "differences": [{"subject": EVIL, "here": EVIL, "image": EVIL, "is_grave": True, "text": ""}],
        "kit": KIT | {"size": 5, "files": 1, "kinds": [{"name": "packages", "size": 5}], "items": [item]},
    }
    outcome = {"passed": False, "problem": dict.fromkeys(PROBLEM, EVIL) | {"details": [EVIL]}}
    html = {"output_type": "display_data", "data": {"text/html": EVIL, "image/svg+xml": "<svg onload='x'/>"}}
    script = {"output_type": "display_data", "data": {"application/javascript": "alert(1)"}}
    forged = {"output_type": "display_data", "data": {"image/png": "AA=='><script>alert(3)</script>"}}
    cell = make_cell(f"print('''{EVIL}''')", {"output_type": "stream", "text": EVIL}, html, script, forged)
    failed = make_cell(EVIL, {"output_type": "error", "ename": EVIL, "evalue": EVIL, "traceback": []})
    remote: dict[str, Any] = {"place": EVIL, "account": EVIL, "pieces": [], "run": None, "scores": []}
    drawn = draw_page(
        tmp_path,
        {"cell_type": "markdown", "source": f"# {EVIL}\n{LINKS}", "metadata": {}},
        cell,
        failed,
        outcome=outcome | {"warnings": [EVIL, CODE, f"{EVIL}`"], "notes": [EVIL, CODE]},
        facts=facts,
        context=ReportContext(remote=(remote,)),
    )
    assert drawn.problems() == []
    assert drawn.words.count("<script>alert(1)</script>") > 15
    assert "{{7*7}}" in drawn.words
    assert ("meta", "http-equiv", "Content-Security-Policy") in drawn.attributes


def test_the_check_of_pages_finds_what_it_looks_for() -> None:
    """A page that requests or runs something does not pass for one that does not."""
    for bad in (EVIL, "<link href=x>", "<p style='background: url(http://x)'>", "<style>@import 'x'</style>"):
        assert Page(bad).problems()


def test_a_passed_rehearsal_is_shown_with_its_figures(tmp_path: Path) -> None:
    """Verdict, limits, cells, columns and the picture of a cell are on the page, below 3 MB."""
    png = base64.b64encode(b"\x89PNG" + bytes(900)).decode()
    rows = [(str(n), str(n / 10), "cat" if n % 3 else "dog") for n in range(30)]
    drawn = draw_page(
        tmp_path,
        {"cell_type": "markdown", "source": "## Predict\nwith care", "metadata": {}},
        make_cell(
            "predict()", {"output_type": "display_data", "data": {"image/png": png, "text/plain": "<Figure>"}}
        ),
        facts={"submission": submission_of("id", "target", "kind", rows=rows)},
    )
    words = " ".join(drawn.words.split())
    assert "The notebook ran offline in 12 s" in words
    assert "less than 1 % of 9 h" in words
    assert "Predict" in words
    assert "dog" in words
    assert "min 0mean 1.45max 2.9" in words
    assert f"data:image/png;base64,{png}" in drawn.values("src")
    assert drawn.tags["svg"] >= 3  # the run at two widths, one histogram
    assert drawn.tags["details"] >= 2
    assert len(drawn.source.encode()) < 300_000


def test_a_failed_rehearsal_shows_code_cause_and_remedy(tmp_path: Path) -> None:
    """The problem stands on the page with its code, and the failed cell is marked."""
    error = {
        "output_type": "error",
        "ename": "KeyError",
        "evalue": "'x'",
        "traceback": ["\x1b[31mKeyError\x1b[0m: 'x'"],
    }
    outcome = {"passed": False, "rows": 0, "problem": PROBLEM}
    drawn = draw_page(tmp_path, make_cell("work()", error), outcome=outcome)
    for text in ("Cell 3 failed", "cell-failed", "Fix it", "KeyError: 'x'", "Next step", "not written"):
        assert text in drawn.words
    assert "cell failed" in drawn.values("class")


def test_a_recorded_kit_is_compared_with_its_recording(tmp_path: Path) -> None:
    """The page has the state of the submission, other versions, and what was not in the recording; text alone."""
    replay = {
        "submission": "within tolerance",
        "difference": f"by 1e-05 at most, in column '{EVIL}'",
        "packages": ["timm 1.1 (recorded: 1.0)"],
        "misses": [[2, f"GET https://hub.test/{EVIL}"]],
    }
    drawn = draw_page(tmp_path, make_cell("1"), outcome={"replay": replay})
    for words in (
        "within tolerance",
        "1e-05",
        "timm 1.1 (recorded: 1.0)",
        f"GET https://hub.test/{EVIL} (cell 2)",
    ):
        assert words in drawn.words
    assert not drawn.tags["script"]


def test_a_failed_script_shows_its_error_apart_from_what_it_printed(tmp_path: Path) -> None:
    """As a failed cell does, so that the page names the error at its top."""
    script, log = tmp_path / "script.py", tmp_path / "log.txt"
    script.write_text("print(1)\n1 / 0\n")
    frame = f'  File "{SCRIPT}", line 2, in <module>\n    1 / 0\n'
    log.write_text(f"1\nTraceback (most recent call last):\n{frame}ZeroDivisionError: division by zero\n")
    printed, error = (
        NotebookReader("log.txt", 0.0).read_script(script, log, passed=False, seconds=1.0).outputs
    )
    assert (printed["kind"], printed["text"]) == ("text", "1")
    assert (error["kind"], error["summary"]) == ("error", "ZeroDivisionError: division by zero")
    (whole,) = NotebookReader("log.txt", 0.0).read_script(script, log, passed=True, seconds=1.0).outputs
    assert whole["kind"] == "text"


def test_a_forecast_is_shown_only_if_there_is_one(tmp_path: Path) -> None:
    """The page of a rehearsal without a forecast has no word of it."""
    sessions = [
        SessionFacts(
            rows=n, seconds=60 + 2 * n, peak_memory=peak, cell_seconds=(2 * n,), cell_memory=(peak, 0)
        )
        for n, peak in ((40, 1_400_000_000), (400, 5_000_000_000))
    ]
    forecast = make_forecast(sessions, 3600, seconds_limit=32_400, memory_limit=30 * 10**9)
    assert forecast
    assert "Forecast" not in draw_page(tmp_path / "without").words
    drawn = draw_page(tmp_path / "with", outcome={"forecast": asdict(forecast)})
    assert f"{forecast.summary}." in drawn.words
    assert "high" in " ".join(drawn.values("class"))  # memory


def test_a_notebook_of_huge_outputs_does_not_make_a_huge_page(tmp_path: Path) -> None:
    """Texts and pictures are cut, with a pointer to the notebook itself, and the end of a text is kept."""
    png = base64.b64encode(b"\x89PNG" + bytes(900_000)).decode()
    text = {"output_type": "stream", "text": "x" * 400_000 + "THE END"}
    figure = {"output_type": "display_data", "data": {"image/png": png}}
    cells = [make_cell("# " + "y" * 300_000, text, figure) for _ in range(6)]
    drawn = draw_page(tmp_path, *cells)
    assert len(drawn.source.encode()) < 3_000_000
    assert drawn.words.count("THE END") == 6
    assert "a picture of 900,0" in drawn.words


def test_a_system_without_proc_and_a_kit_without_packages_have_a_page(tmp_path: Path) -> None:
    """No curve, no times, no memory, no submission: what is not known is left out."""
    facts = {"curve": [], "limits": {"seconds": 60, "memory": None}}
    drawn = draw_page(
        tmp_path, outcome={"peak_memory": 0, "memory_by": "not measured", "sandbox": "weak"}, facts=facts
    )
    assert "not measured on this system" in drawn.words
    assert "only Python's sockets were refused" in drawn.words
    assert drawn.tags["svg"] == 0


def test_the_history_of_a_project_outlives_its_kits(tmp_path: Path) -> None:
    """Each rehearsal adds a line; a page shows them with scores, damaged lines aside; a passed one leaves its submission."""
    records, submission = tmp_path / "records", tmp_path / "submission.csv"
    submission.write_text("id,x\n1,0.5\n")
    outcome = {"kit": "ab" * 32, "seconds": 3.0, "fidelity": "matching", "peak_memory": 5, "rows": 1}
    history.add_rehearsal(records, outcome | {"passed": False, "problem": PROBLEM}, submission)
    assert history.find_previous_submission(records) is None
    with (records / "history.jsonl").open("a") as stream:
        stream.write('{"torn\n[]\n')
    history.add_rehearsal(records, outcome | {"passed": True, "problem": None}, submission)
    previous = history.find_previous_submission(records)
    assert previous
    assert previous.read_text() == "id,x\n1,0.5\n"
    past = history.read_history(records)
    assert [(entry["passed"], entry["code"]) for entry in past] == [(False, "cell-failed"), (True, "")]
    score = {
        "at": "2026-11-28T10:00:00+00:00",
        "version": 4,
        "state": "complete",
        "score": "0.871",
        "private_score": "",
    }
    piece = {"name": "kit", "ref": "me/leaves-kit", "version": 3, "is_current": True}
    run = {"at": "2026-11-28T09:00:00+00:00", "seconds": 41.0, "problem": ""}
    remote = {
        "place": "Kaggle",
        "account": "me",
        "pieces": [piece],
        "run": run,
        "scores": [score, score | {"score": "0.85 (LOCAL)"}],
    }
    drawn = draw_page(tmp_path / "evidence", context=ReportContext(records=records, remote=(remote,)))
    for text in ("me/leaves-kit", "version 3", "0.871", "cell-failed", "version 4"):
        assert text in drawn.words
    assert drawn.tags["svg"] == 6  # run, history and scores, each at two widths


def test_a_report_that_fails_is_a_note(tmp_path: Path) -> None:
    """Damaged facts do not stop whoever redraws a page; without facts there is nothing to redraw."""
    listener = Listener()
    assert page.redraw_report(tmp_path, ReportContext(), report=listener) is None
    assert listener.notes == []
    write_evidence(tmp_path, facts={"curve": 7})
    assert page.redraw_report(tmp_path, ReportContext(), report=listener) is None
    assert len(listener.notes) == 1
    (tmp_path / "report-facts.json").write_text(json.dumps(FACTS))
    assert page.redraw_report(tmp_path, ReportContext()) == tmp_path / "report.html"


def test_a_picture_has_its_prediction(tmp_path: Path) -> None:
    """Test images are found by the ids, with or without suffix, made small, and spread over the test set."""
    from PIL import Image

    from offline_kit.rehearsal.report.image_grid import draw_pictures

    for n in range(40):
        (tmp_path / "test_images").mkdir(exist_ok=True)
        Image.new("RGB", (640, 480), (n, 90, 200)).save(tmp_path / "test_images" / f"leaf{n:02}.png")
    (tmp_path / "test_images" / "leaf05.png").write_bytes(b"\x89PNG broken")
    rows = tuple((f"leaf{n:02}", "rust") for n in range(40))
    table = SubmissionTable(header=("image", "label"), rows=rows, is_whole=True)
    pictures = draw_pictures(table, [tmp_path])
    assert len(pictures) == 16
    assert {value for picture in pictures for _, value in picture["values"]} == {"rust"}
    assert pictures[-1]["id"] > "leaf25"
    encoded = pictures[0]["uri"].partition(",")[2]
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).size == (144, 108)
    assert draw_pictures(table, []) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.02, "0.0 s"), (9.96, "10 s"), (725, "12 min 5 s"), (7800, "2 h 10 min"), (32400, "9 h")],
)
def test_durations_have_units(seconds: float, text: str) -> None:
    """Seconds, minutes and hours, never more than two of them."""
    assert files.format_duration(seconds) == text


def test_a_rehearsal_without_a_report_keeps_its_verdict(tmp_path: Path) -> None:
    """What fails while facts are collected is a note, and nothing half written stays."""
    request = RehearsalRequest(
        kit=Kit(folder=tmp_path, id="k", parts=()),
        image=load_image("kaggle-2026-10-cpu", accelerator="none", project=tmp_path),
    )
    (tmp_path / "run").mkdir()
    judgement, listener = judge(ran(tmp_path / "run")), Listener()
    judged = JudgedRun(
        request=request,
        environment=BENCH,
        inputs=MountedInputs(mounts=(), sample=None, notes=()),
        judgement=judgement,
        run_session=lambda *_: judgement,
        report=listener,
    )
    (tmp_path / "evidence").mkdir()
    assert page.write_report(tmp_path / "evidence", judged) is False
    assert len(listener.notes) == 1
    assert [*(tmp_path / "evidence").iterdir()] == []
