"""The configuration: whether there is one, and whether it loads."""

from offline_kit.project import config, images
from offline_kit.workflow.checks.check_types import Ground, Said, warning


def run(ground: Ground) -> Said:
    """Tell where the configuration comes from; raises what loading it raises."""
    loaded = ground.config or config.load_config(ground.project, {})
    if loaded.source is None:
        return warning("there is no configuration, only what is found", "write one with 'offline-kit init'")
    return Said(what=f"'{loaded.source}' loads: project '{loaded.name}', dataset '{loaded.dataset}'")


def run_image(ground: Ground) -> Said:
    """Tell the image and how far to trust its list; raises for one that is not known."""
    chosen = ground.image or images.load_image(
        ground.settings.image, accelerator=ground.settings.accelerator, project=ground.project
    )
    said = f"'{chosen.name}': Python {chosen.python}, {len(chosen.packages)} packages"
    return Said(what=said, details=(chosen.confidence,) if chosen.confidence else ())
