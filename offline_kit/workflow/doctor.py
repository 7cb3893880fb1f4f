"""The checks in their order: gather what they look at, run them, and keep what each says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from offline_kit.core import files, processes
from offline_kit.core.errors import OfflineKitError, UsageError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.project import config, images
from offline_kit.project.config import Config
from offline_kit.project.images import Image
from offline_kit.workflow import machine_checks, project_checks
from offline_kit.workflow.check_types import CheckContext, CheckResult, CheckState


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the table."""

    code: str
    """Stays the same from version to version: K1.. this machine, K2.. the project, K3.. outside."""
    title: str
    """What it looks at."""
    run: Callable[[CheckContext], CheckResult]
    """Looks; what it raises is a failure."""
    needs: str = ""
    """"config" or "image", where it makes no sense without; skipped then."""
    online: bool = False
    """Whether it is of use only if the network may be asked."""


CHECKS = (
    Check(code="K101", title="uv", run=machine_checks.check_uv),
    Check(code="K102", title="Python of the image", run=machine_checks.check_python, needs="image"),
    Check(code="K103", title="sandbox", run=machine_checks.check_sandbox),
    Check(code="K104", title="disk", run=machine_checks.check_disk),
    Check(code="K201", title="configuration", run=project_checks.check_configuration),
    Check(code="K202", title="image", run=project_checks.check_image, needs="config"),
    Check(code="K203", title="requirements", run=project_checks.check_requirements, needs="image"),
    Check(code="K204", title="checkpoints", run=project_checks.check_checkpoints, needs="image"),
    Check(code="K205", title="notebook", run=project_checks.check_notebook, needs="image"),
    Check(code="K206", title="freeze", run=project_checks.check_freeze, needs="image"),
    Check(code="K207", title="own code", run=project_checks.check_own_code, needs="image"),
    Check(code="K301", title="package index", run=machine_checks.check_index, online=True),
    Check(code="K302", title="Kaggle's credentials", run=machine_checks.check_credentials),
)
"""Every check. A new one is a function of machine_checks or project_checks, a line here with the next free code, and a test."""


@dataclass(frozen=True, kw_only=True)
class CheckFinding:
    """A check and what it said."""

    code: str
    title: str
    result: CheckResult


def run_checks(
    project: Path, *, online: bool = False, ignore: Sequence[str] = (), report: Reporter = SILENT
) -> tuple[CheckFinding, ...]:
    """Run every check that no code of `ignore` begins, and return what each said, in their order.

    Nothing is written but what a build would keep in the cache too, and without `online` nothing leaves
    the machine. A check that raises one of our errors has failed with its words. Raises UsageError if
    there is no such folder, or an ignored code is that of no check.
    """
    root = project.expanduser().absolute()
    if not root.is_dir():
        raise UsageError(
            f"there is no folder '{project}'",
            code="project-not-found",
            hint="name the project's folder, or leave it out for this one",
        )
    unknown = [code for code in ignore if not any(check.code.startswith(code) for check in CHECKS)]
    if unknown:
        known_codes = ", ".join(check.code for check in CHECKS)
        raise UsageError(
            f"no check begins with '{unknown[0]}'", code="check-unknown", hint=f"the codes are {known_codes}"
        )
    context = _build_context(root, online=online, report=report)
    selected = [check for check in CHECKS if not any(check.code.startswith(code) for code in ignore)]
    return tuple(
        CheckFinding(code=check.code, title=check.title, result=_run_check(check, context))
        for check in selected
    )


def _build_context(root: Path, *, online: bool, report: Reporter) -> CheckContext:
    loaded = _load_config(root)
    return CheckContext(
        project=root,
        config=loaded,
        image=_load_image(loaded),
        env=processes.copy_environment(),
        cache=files.cache_dir(),
        online=online,
        report=report,
    )


def _load_config(root: Path) -> Config | None:
    try:
        return config.load_config(root, {})
    except OfflineKitError:
        return None  # K201 says why


def _load_image(loaded: Config | None) -> Image | None:
    try:
        return (
            images.load_image(loaded.image, accelerator=loaded.accelerator, project=loaded.project)
            if loaded
            else None
        )
    except OfflineKitError:
        return None  # K202 says why


def _run_check(check: Check, context: CheckContext) -> CheckResult:
    if check.needs and context.config is None:
        return CheckResult(what="not without a configuration that loads", state=CheckState.SKIPPED)
    if check.needs == "image" and context.image is None:
        return CheckResult(what="not without a known image", state=CheckState.SKIPPED)
    if check.online and not context.online:
        return CheckResult(what="asked with --online", state=CheckState.SKIPPED)
    try:
        return check.run(context)
    except OfflineKitError as error:
        return CheckResult(what=error.what, state=CheckState.FAILED, remedy=error.hint, details=error.details)
