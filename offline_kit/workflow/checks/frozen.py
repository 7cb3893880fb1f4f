"""The committed freeze: whether it is there, and of what the project asks for now."""

from offline_kit.packages.freeze import freeze_file
from offline_kit.workflow import pipeline
from offline_kit.workflow.checks.check_types import CheckContext, CheckResult, CheckState, warn_result


def run_check(ground: CheckContext) -> CheckResult:
    """Compare the freeze with the requirements and the image.

    Where own packages have to be built to know what they ask for, only the image is compared, unless the
    network may be asked.
    """
    config = ground.loaded_config
    name = config.lock.name
    if not config.lock.is_file():
        return warn_result(f"there is no '{name}' yet", "run 'offline-kit build' and commit it")
    head = freeze_file.read_header(config.lock.read_text(encoding="utf-8", errors="replace"))
    made_for = (head.get("image", ""), head.get("python", ""))
    stale = "the next build makes it anew: run 'offline-kit build' and commit it"
    if ground.loaded_image.name not in made_for[0]:
        return warn_result(
            f"'{name}' was made for {made_for[0] or 'another image'}, not '{ground.loaded_image.name}'", stale
        )
    if config.packages and not ground.online:
        what = f"'{name}' is for '{ground.loaded_image.name}'; what the own packages ask for is compared with --online"
        return CheckResult(what=what, state=CheckState.SKIPPED)
    if not pipeline.freeze_is_current(config, ground.report):
        return warn_result(
            f"'{name}' is of other requirements or another image list than there are now", stale
        )
    return CheckResult(what=f"'{name}' is current")
