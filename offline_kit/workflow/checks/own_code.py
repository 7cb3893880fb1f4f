"""The project's own code: what of it would fail in the notebook."""

from offline_kit.core.errors import OfflineKitError
from offline_kit.workflow import pipeline
from offline_kit.workflow.checks.check_types import CheckContext, CheckResult, CheckState, warn_result


def run_check(ground: CheckContext) -> CheckResult:
    """Read the code that travels, as a build does; nothing is imported or built."""
    try:
        findings = pipeline.static_findings(ground.loaded_config)
    except OfflineKitError:
        return CheckResult(
            what="not before its references are in order", state=CheckState.SKIPPED
        )  # K205 says why
    if not findings:
        return CheckResult(
            what="nothing in it needs the internet, and the data class keeps the template's contract"
        )
    lines = tuple(f"'{finding.about}' {finding.what}" for finding in findings)
    remedies = "; ".join(dict.fromkeys(finding.remedy for finding in findings if finding.remedy))
    return warn_result(
        lines[0] if len(lines) == 1 else f"{len(lines)} problems", remedies, *lines[1 - (len(lines) > 1) :]
    )
