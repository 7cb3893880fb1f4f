"""The trained files: whether they are there, whole and harmless, and load in the notebook."""

from offline_kit.core import files
from offline_kit.core.files import format_size
from offline_kit.project.types import Finding, Severity
from offline_kit.workflow import model_files
from offline_kit.workflow.checks.check_types import CheckContext, CheckResult, warn_result


def run_check(ground: CheckContext) -> CheckResult:
    """Look into every trained file as a build does, executing nothing; raises for those that would stop it."""
    config = ground.loaded_config
    if not config.checkpoints:
        return warn_result(
            "no checkpoint is named", 'name what was trained, like checkpoints = ["checkpoints/*.ckpt"]'
        )
    inspected = model_files.inspect_model_files(
        ground.config_without_slimming,
        ground.loaded_image,
        cache=files.make_folder(ground.cache),
        report=ground.report,
    )
    details = [
        *model_files.advise_on_checkpoints(inspected),
        *(_describe_file(finding) for finding in inspected.findings if finding.severity is not Severity.NOTE),
    ]
    kinds = ", ".join(sorted({str(checkpoint.kind) for checkpoint in inspected.checkpoints}))
    size = format_size(sum(checkpoint.size for checkpoint in inspected.checkpoints))
    message = f"{len(inspected.checkpoints)} of kind {kinds}, {size}"
    return (
        warn_result(message, "see each line: it may not load as it is", *details)
        if details
        else CheckResult(what=message)
    )


def _describe_file(found: Finding) -> str:
    return f"'{found.about}' {found.what}" + (f": {found.remedy}" if found.remedy else "")
