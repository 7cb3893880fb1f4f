"""uv: it resolves and makes environments."""

from offline_kit.core import interpreters, processes
from offline_kit.core.errors import OutsideError
from offline_kit.workflow.checks.check_types import CheckContext, CheckResult, fail_result


def run_check(ground: CheckContext) -> CheckResult:
    """Run uv and tell its version."""
    try:
        program = interpreters.uv_program()
    except OutsideError as error:
        return fail_result(error.what, error.hint)
    answer = processes.run_command([program, "--version"], env=ground.env, check=False, timeout=30)
    if not answer.succeeded:
        return fail_result(
            f"'{program}' does not run", "pip install --force-reinstall uv", *answer.last_lines(3)
        )
    return CheckResult(what=answer.out.strip())
