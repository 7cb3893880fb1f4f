"""The sandbox: whether a rehearsal can be kept off the network here."""

from offline_kit.core import sandbox
from offline_kit.workflow.checks.check_types import CheckContext, CheckResult, warn_result

_INSTALL = (
    "on Linux install bubblewrap (`apt install bubblewrap`), or allow user namespaces"
    " (`sysctl kernel.apparmor_restrict_unprivileged_userns=0`); elsewhere use docker or WSL2"
)


def run_check(ground: CheckContext) -> CheckResult:  # noqa: ARG001 - a property of the machine
    """Try the sandboxes of this machine, the best first; raises where none works."""
    found = sandbox.find_sandbox()
    if found.is_weak:
        return warn_result(
            "no real sandbox works here: a rehearsal would prove little", _INSTALL, *found.refused
        )
    return CheckResult(what=f"{found.kind} works", details=found.refused)
