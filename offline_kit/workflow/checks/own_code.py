"""The project's own code: what of it would fail in the notebook."""

from offline_kit.core.errors import OfflineKitError
from offline_kit.workflow import pipeline
from offline_kit.workflow.checks.check_types import Ground, Said, State, warning


def run(ground: Ground) -> Said:
    """Read the code that travels, as a build does; nothing is imported or built."""
    try:
        found = pipeline.static_findings(ground.settings)
    except OfflineKitError:
        return Said(what="not before its references are in order", state=State.SKIPPED)  # K205 says why
    if not found:
        return Said(what="nothing in it needs the internet, and the data class keeps the template's contract")
    lines = tuple(f"'{each.about}' {each.what}" for each in found)
    remedies = "; ".join(dict.fromkeys(each.remedy for each in found if each.remedy))
    return warning(
        lines[0] if len(lines) == 1 else f"{len(lines)} problems", remedies, *lines[1 - (len(lines) > 1) :]
    )
