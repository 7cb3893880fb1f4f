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
    seen = model_files.inspect_model_files(
        ground.config_without_slimming,
        ground.loaded_image,
        cache=files.make_folder(ground.cache),
        report=ground.report,
    )
    told = [
        *model_files.advise_on_checkpoints(seen),
        *(_describe_file(each) for each in seen.findings if each.severity is not Severity.NOTE),
    ]
    kinds = ", ".join(sorted({str(one.kind) for one in seen.checkpoints}))
    size = format_size(sum(one.size for one in seen.checkpoints))
    said = f"{len(seen.checkpoints)} of kind {kinds}, {size}"
    return (
        warn_result(said, "see each line: it may not load as it is", *told)
        if told
        else CheckResult(what=said)
    )


def _describe_file(found: Finding) -> str:
    return f"'{found.about}' {found.what}" + (f": {found.remedy}" if found.remedy else "")
