"""What to rehearse, and how."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offline_kit.core import sandbox
from offline_kit.project.accelerators import Machine
from offline_kit.project.images import Image
from offline_kit.project.types import Kit


@dataclass(frozen=True, kw_only=True)
class ReportContext:
    """What a report shows besides the run itself."""

    project: str = ""  # its name
    time_limit: float = 0.0  # seconds, the competition's; 0 if it is not known
    records: Path | None = None  # folder of the project's earlier rehearsals; None: none are kept
    remote: tuple[Mapping[str, Any], ...] = ()
    """What was sent to each Kaggle: "place", "account", "pieces", "run", "scores"; see `workflow.rehearsal_report`."""


@dataclass(frozen=True, kw_only=True)
class RehearsalRequest:
    """A kit and the options of its rehearsal (times in seconds, sizes in bytes)."""

    kit: Kit
    image: Image
    dataset: str = ""
    """"slug" or "owner/slug" of the kit's dataset; it names the mount. A split kit appends the part's name."""
    competition: str = ""  # slug; empty: the first competition of the notebook's metadata
    competition_data: Path | None = None  # local copy of the data, or a part of it; mounted, never copied
    sample_submission: Path | None = None  # none: look for one in the data
    submission: str = "submission.csv"
    env: str = "matching"  # "matching": the image's versions; "current": the running environment; "image": `container`
    container: str = ""  # reference of a container image that is on this machine
    installer: str = "auto"  # what the notebook installs with: "uv", "pip" (then uv is hidden) or "auto"
    layout: str = "new"
    hidden: str = (
        ""  # data of a hidden run: as `hidden_data.parse_auto` reads it, or a folder; empty: there is none
    )
    hidden_rows: int | None = None  # rows of the hidden test set, if they are known
    rows: int | None = None  # rows of the test set, repeated under new ids if there are fewer; None: all
    timeout: float = 9 * 3600
    machine: Machine | None = None  # its limits; None: those of the notebook's accelerator
    sandboxes: tuple[str, ...] = sandbox.KINDS
    yes: bool = False
    copies: Mapping[str, Path] = field(default_factory=dict)
    """Local copies of other sources, by "dataset:owner/slug", "notebook:owner/slug" or "model:..."."""
    part_sources: Mapping[str, str] = field(default_factory=dict)
    """Sources of the kit's parts that are not datasets, by part: "notebook:owner/slug" or "model:..."."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """The notebook's params; an inference server's also describe its gateway."""
    context: ReportContext = field(default_factory=ReportContext)
