"""The receipt of a rehearsal in one line."""

from typing import Any

import pytest

from offline_kit.rehearsal.receipt import summarize_receipt

PASSED = {"passed": True, "at": "2026-11-29T21:00:00+00:00", "fidelity": "matching", "image": "kaggle-now"}


@pytest.mark.parametrize(
    ("report", "summary"),
    [
        (None, "not rehearsed"),
        ({"passed": False, "problem": {"code": "cell-failed"}}, "rehearsal failed: cell-failed"),
        (PASSED, "rehearsed 2026-11-29, fidelity matching"),
        (
            PASSED | {"packages_hash": "0123456789abcdef", "rows_wanted": 40, "hidden": {"rare_problem": ""}},
            "rehearsed 2026-11-29, fidelity matching, kaggle-now 0123456789ab, 40 rows, hidden run passed",
        ),
        (
            PASSED | {"hidden": {"rare_problem": "cell-failed"}},
            "rehearsed 2026-11-29, fidelity matching, hidden run with a warning",
        ),
    ],
)
def test_a_receipt_is_one_line(report: dict[str, Any] | None, summary: str) -> None:
    """Version notes and the question before a submission say what was proved, or that nothing was."""
    assert summarize_receipt(report) == summary
