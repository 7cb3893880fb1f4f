"""The trained files: whether they are there, whole and harmless, and load in the notebook."""

from offline_kit.core import files
from offline_kit.core.files import format_size
from offline_kit.project.types import Finding, Severity
from offline_kit.workflow import model_files
from offline_kit.workflow.checks.check_types import Ground, Said, warning


def run(ground: Ground) -> Said:
    """Look into every trained file as a build does, executing nothing; raises for those that would stop it."""
    config = ground.settings
    if not config.checkpoints:
        return warning(
            "no checkpoint is named", 'name what was trained, like checkpoints = ["checkpoints/*.ckpt"]'
        )
    seen = model_files.look(
        ground.light, ground.target, cache=files.make_folder(ground.cache), report=ground.report
    )
    told = [
        *model_files.advice(seen),
        *(_line(each) for each in seen.findings if each.severity is not Severity.NOTE),
    ]
    kinds = ", ".join(sorted({str(one.kind) for one in seen.checkpoints}))
    size = format_size(sum(one.size for one in seen.checkpoints))
    said = f"{len(seen.checkpoints)} of kind {kinds}, {size}"
    return warning(said, "see each line: it may not load as it is", *told) if told else Said(what=said)


def _line(found: Finding) -> str:
    return f"'{found.about}' {found.what}" + (f": {found.remedy}" if found.remedy else "")
