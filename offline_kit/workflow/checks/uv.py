"""uv: it resolves and makes environments."""

from offline_kit.core import interpreters, processes
from offline_kit.core.errors import OutsideError
from offline_kit.workflow.checks.check_types import Ground, Said, failed


def run(ground: Ground) -> Said:
    """Run uv and tell its version."""
    try:
        program = interpreters.uv_program()
    except OutsideError as error:
        return failed(error.what, error.hint)
    done = processes.run_command([program, "--version"], env=ground.env, check=False, timeout=30)
    if not done.succeeded:
        return failed(f"'{program}' does not run", "pip install --force-reinstall uv", *done.last_lines(3))
    return Said(what=done.out.strip())
