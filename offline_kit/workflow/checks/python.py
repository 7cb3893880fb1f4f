"""The image's Python: rehearsals run in it, and source distributions are built with it."""

from offline_kit.core import interpreters
from offline_kit.workflow.checks.check_types import Ground, Said, warning


def run(ground: Ground) -> Said:
    """Look for the image's Python on this machine."""
    image = ground.target
    if image.local:
        return Said(what=f"the running Python {image.python} is the image's")
    found = interpreters.find_interpreter(image.python_minor, ground.env)
    if found is None:
        return warning(
            f"'{image.name}' runs Python {image.python_minor}, and this machine has none",
            f"uv python install {image.python_minor}, or rehearse in the running environment with --env current",
        )
    return Said(what=f"Python {image.python_minor} of '{image.name}': {found}")
