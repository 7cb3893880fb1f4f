"""The image's Python: rehearsals run in it, and source distributions are built with it."""

from offline_kit.core import interpreters
from offline_kit.workflow.checks.check_types import CheckContext, CheckResult, warn_result


def run_check(ground: CheckContext) -> CheckResult:
    """Look for the image's Python on this machine."""
    image = ground.loaded_image
    if image.local:
        return CheckResult(what=f"the running Python {image.python} is the image's")
    interpreter = interpreters.find_interpreter(image.python_minor, ground.env)
    if interpreter is None:
        return warn_result(
            f"'{image.name}' runs Python {image.python_minor}, and this machine has none",
            f"uv python install {image.python_minor}, or rehearse in the running environment with --env current",
        )
    return CheckResult(what=f"Python {image.python_minor} of '{image.name}': {interpreter}")
