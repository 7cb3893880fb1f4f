"""uv: it resolves and makes environments."""

from offline_kit import proc
from offline_kit.checks.nouns import Ground, Said, failed


def run(ground: Ground) -> Said:
    """Run uv and tell its version."""
    import uv

    remedy = "pip install --force-reinstall uv"
    try:
        program = uv.find_uv_bin()
    except FileNotFoundError:
        return failed("uv is not there, though it belongs to offline-kit", remedy)
    done = proc.run([program, "--version"], env=ground.env, check=False, timeout=30)
    if not done.ok:
        return failed(f"'{program}' does not run", remedy, *done.tail(3))
    return Said(what=done.out.strip())
