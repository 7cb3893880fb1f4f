"""What a check looks at, and what it says."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from offline_kit.core.report import SILENT, Reporter
from offline_kit.project.config import Config
from offline_kit.project.images import Image


class CheckState(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    """Something will not work, which not everybody needs."""
    FAILED = "failed"
    """A build or a rehearsal will not work."""
    SKIPPED = "skipped"
    """Not looked at, with the reason."""


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What a check says."""

    what: str
    """What was found, in one line."""
    state: CheckState = CheckState.OK
    """How it ended."""
    remedy: str = ""
    """What to do about it; empty if it is good."""
    details: tuple[str, ...] = ()
    """Further lines."""


@dataclass(frozen=True, kw_only=True)
class CheckContext:
    """What the checks look at, gathered once."""

    project: Path
    """The project's folder."""
    config: Config | None
    """Its configuration; None if it does not load."""
    image: Image | None
    """The image that it means; None if that is not known."""
    env: Mapping[str, str]
    """The environment."""
    cache: Path
    """Where downloads are kept; may not be there yet."""
    online: bool = False
    """Whether the network may be asked."""
    report: Reporter = SILENT
    """Hears what takes long."""

    @property
    def loaded_config(self) -> Config:
        """The configuration, for checks that are run only if there is one."""
        if self.config is None:
            raise AssertionError("a check that needs the configuration was run without one")
        return self.config

    @property
    def config_without_slimming(self) -> Config:
        """The configuration without what makes checkpoints lighter: that takes minutes and a torch, too long here."""
        return replace(self.loaded_config, slim=False, precision="keep", weights_format="keep")

    @property
    def notebook_table(self) -> str:
        """How the notebook's table is headed in the file that the project has."""
        nested = not (self.project / "offline-kit.toml").is_file()
        return "[tool.offline-kit.notebook]" if nested else "[notebook]"

    @property
    def loaded_image(self) -> Image:
        """The image, for checks that are run only if it is known."""
        if self.image is None:
            raise AssertionError("a check that needs the image was run without one")
        return self.image


def warn_result(what: str, remedy: str, *details: str) -> CheckResult:
    """Say that something will not work, which not everybody needs."""
    return CheckResult(what=what, state=CheckState.WARNING, remedy=remedy, details=details)


def fail_result(what: str, remedy: str, *details: str) -> CheckResult:
    """Say that a build or a rehearsal will not work."""
    return CheckResult(what=what, state=CheckState.FAILED, remedy=remedy, details=details)
