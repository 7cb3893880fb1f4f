"""The checkpoints: whether they are there, whole, and load in the notebook."""

from offline_kit import checkpoints, files
from offline_kit.checks.nouns import Ground, Said, warning
from offline_kit.files import human_size


def run(ground: Ground) -> Said:
    """Look into every checkpoint, executing nothing; raises for those that are missing or damaged."""
    config = ground.settings
    if not config.checkpoints:
        return warning(
            "no checkpoint is named", 'name what was trained, like checkpoints = ["checkpoints/*.ckpt"]'
        )
    found = checkpoints.collect(
        config.project, config.checkpoints, cache=files.made(ground.cache), report=ground.report
    )
    trusted = config.notebook.params.get("weights_only") is False
    advice = [line for one in found for line in checkpoints.advice(one, trusted=trusted)]
    kinds = ", ".join(sorted({str(one.kind) for one in found}))
    said = f"{len(found)} of kind {kinds}, {human_size(sum(one.size for one in found))}"
    return warning(said, "see each line: it may not load as it is", *advice) if advice else Said(what=said)
