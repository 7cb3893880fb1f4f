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
from offline_kit.workflow.checks import (
    box,
    configuration,
    credentials,
    disk,
    frozen,
    index,
    notebook,
    own_code,
    python,
    requirements,
    uv,
    weights,
)
from offline_kit.workflow.checks.check_types import Ground, Said, State


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the table."""

    code: str
    """Stays the same from version to version: K1.. this machine, K2.. the project, K3.. outside."""
    title: str
    """What it looks at."""
    run: Callable[[Ground], Said]
    """Looks; what it raises is a failure."""
    needs: str = ""
    """"config" or "image", where it makes no sense without; skipped then."""
    online: bool = False
    """Whether it is of use only where the network may be asked."""


CHECKS = (
    Check(code="K101", title="uv", run=uv.run),
    Check(code="K102", title="Python of the image", run=python.run, needs="image"),
    Check(code="K103", title="sandbox", run=box.run),
    Check(code="K104", title="disk", run=disk.run),
    Check(code="K201", title="configuration", run=configuration.run),
    Check(code="K202", title="image", run=configuration.run_image, needs="config"),
    Check(code="K203", title="requirements", run=requirements.run, needs="image"),
    Check(code="K204", title="checkpoints", run=weights.run, needs="image"),
    Check(code="K205", title="notebook", run=notebook.run, needs="image"),
    Check(code="K206", title="freeze", run=frozen.run, needs="image"),
    Check(code="K207", title="own code", run=own_code.run, needs="image"),
    Check(code="K301", title="package index", run=index.run, online=True),
    Check(code="K302", title="Kaggle's credentials", run=credentials.run),
)
"""Every check. A new one is a module in checks/ with `run(ground)`, which returns what it says or raises our errors,
a line here with the next free code, and a test."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A check and what it said."""

    code: str
    """Of the check."""
    title: str
    """Of the check."""
    said: Said
    """What it said."""


def examine(
    project: Path, *, online: bool = False, ignore: Sequence[str] = (), report: Reporter = SILENT
) -> tuple[Finding, ...]:
    """Run every check that no code of `ignore` begins, and return what each said, in their order.

    Nothing is written but what a build would keep in the cache too, and without `online` nothing leaves
    the machine. A check that raises one of our errors has failed with its words. Raises UsageError where
    there is no such folder, or an ignored code is that of no check.
    """
    root = project.expanduser().absolute()
    if not root.is_dir():
        raise UsageError(
            f"there is no folder '{project}'", hint="name the project's folder, or leave it out for this one"
        )
    unknown = [code for code in ignore if not any(one.code.startswith(code) for one in CHECKS)]
    if unknown:
        known = ", ".join(one.code for one in CHECKS)
        raise UsageError(f"no check begins with '{unknown[0]}'", hint=f"the codes are {known}")
    ground = _ground(root, online=online, report=report)
    wanted = [one for one in CHECKS if not any(one.code.startswith(code) for code in ignore)]
    return tuple(Finding(code=one.code, title=one.title, said=_run(one, ground)) for one in wanted)


def _ground(root: Path, *, online: bool, report: Reporter) -> Ground:
    loaded = _loaded(root)
    return Ground(
        project=root,
        config=loaded,
        image=_image(loaded),
        env=processes.copy_environment(),
        cache=files.cache_dir(),
        online=online,
        report=report,
    )


def _loaded(root: Path) -> Config | None:
    try:
        return config.load_config(root, {})
    except OfflineKitError:
        return None  # K201 says why


def _image(loaded: Config | None) -> Image | None:
    try:
        return (
            images.load_image(loaded.image, accelerator=loaded.accelerator, project=loaded.project)
            if loaded
            else None
        )
    except OfflineKitError:
        return None  # K202 says why


def _run(check: Check, ground: Ground) -> Said:
    if check.needs and ground.config is None:
        return Said(what="not without a configuration that loads", state=State.SKIPPED)
    if check.needs == "image" and ground.image is None:
        return Said(what="not without a known image", state=State.SKIPPED)
    if check.online and not ground.online:
        return Said(what="asked with --online", state=State.SKIPPED)
    try:
        return check.run(ground)
    except OfflineKitError as error:
        return Said(what=error.what, state=State.FAILED, remedy=error.hint, details=error.details)
