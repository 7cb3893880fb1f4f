"""uv: it resolves and makes environments."""

from offline_kit import interpreters, proc
from offline_kit.checks.nouns import Ground, Said, failed
from offline_kit.errors import OutsideError


def run(ground: Ground) -> Said:
    """Run uv and tell its version."""
    try:
        program = interpreters.uv()
    except OutsideError as error:
        return failed(error.what, error.hint)
    done = proc.run([program, "--version"], env=ground.env, check=False, timeout=30)
    if not done.ok:
        return failed(f"'{program}' does not run", "pip install --force-reinstall uv", *done.tail(3))
    return Said(what=done.out.strip())
