"""The configuration: whether there is one, and whether it loads."""

from offline_kit.project import config, images
from offline_kit.workflow.checks.check_types import CheckContext, CheckResult, warn_result


def run_check(ground: CheckContext) -> CheckResult:
    """Tell where the configuration comes from; raises what loading it raises."""
    loaded = ground.config or config.load_config(ground.project, {})
    if loaded.source is None:
        return warn_result(
            "there is no configuration, only what is found", "write one with 'offline-kit init'"
        )
    return CheckResult(what=f"'{loaded.source}' loads: project '{loaded.name}', dataset '{loaded.dataset}'")


def run_image_check(ground: CheckContext) -> CheckResult:
    """Tell the image and how far to trust its list; raises for one that is not known."""
    chosen = ground.image or images.load_image(
        ground.loaded_config.image, accelerator=ground.loaded_config.accelerator, project=ground.project
    )
    said = f"'{chosen.name}': Python {chosen.python}, {len(chosen.packages)} packages"
    return CheckResult(what=said, details=(chosen.confidence,) if chosen.confidence else ())
