"""The trained files: whether they are there, whole and harmless, and load in the notebook."""

from offline_kit import files, trained
from offline_kit.checks.nouns import Ground, Said, warning
from offline_kit.files import human_size
from offline_kit.model import Finding, Severity


def run(ground: Ground) -> Said:
    """Look into every trained file as a build does, executing nothing; raises for those that would stop it."""
    config = ground.settings
    if not config.checkpoints:
        return warning(
            "no checkpoint is named", 'name what was trained, like checkpoints = ["checkpoints/*.ckpt"]'
        )
    seen = trained.look(ground.light, ground.target, cache=files.made(ground.cache), report=ground.report)
    told = [
        *trained.advice(seen),
        *(_line(each) for each in seen.findings if each.severity is not Severity.NOTE),
    ]
    kinds = ", ".join(sorted({str(one.kind) for one in seen.checkpoints}))
    size = human_size(sum(one.size for one in seen.checkpoints))
    said = f"{len(seen.checkpoints)} of kind {kinds}, {size}"
    return warning(said, "see each line: it may not load as it is", *told) if told else Said(what=said)


def _line(found: Finding) -> str:
    return f"'{found.about}' {found.what}" + (f": {found.remedy}" if found.remedy else "")
