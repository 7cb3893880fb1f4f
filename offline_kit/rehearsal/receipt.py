"""The receipt of a rehearsal: the part of its report that says what was proved, to go with a push and a submission."""

from collections.abc import Mapping
from typing import Any

RECEIPT = "receipt.json"
_KEYS = (
    "kit notebook passed at tool fidelity image image_digest packages_hash python sandbox env installer layout differences"
    " rows rows_wanted seconds peak_memory memory_by limits hidden forecast replay warnings"
)


def make_receipt(report_data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the receipt in a rehearsal's report: a part of it, without the pages of a problem's details."""
    problem = report_data.get("problem") or {}
    short_problem = {key: problem[key] for key in ("code", "what") if key in problem}
    return {key: report_data[key] for key in _KEYS.split() if key in report_data} | {
        "problem": short_problem or None
    }


def summarize_receipt(report_data: Mapping[str, Any] | None) -> str:
    """Return a receipt, or the report that has it, in one line; None is the one of no rehearsal."""
    if not report_data:
        return "not rehearsed"
    if not report_data.get("passed"):
        return f"rehearsal failed: {(report_data.get('problem') or {}).get('code')}"
    words = [
        f"rehearsed {str(report_data.get('at', ''))[:10]}".strip(),
        f"fidelity {report_data['fidelity']}",
    ]
    if identity := report_data.get("image_digest") or report_data.get("packages_hash"):
        words.append(f"{report_data['image']} {str(identity).rpartition(':')[2][:12]}")
    words += [f"{report_data['rows_wanted']} rows"] if report_data.get("rows_wanted") else []
    if hidden := report_data.get("hidden"):
        words.append(f"hidden run {'with a warning' if hidden.get('rare_problem') else 'passed'}")
    if forecast := report_data.get("forecast"):
        words.append(str(forecast.get("summary")))
    return ", ".join(words)
