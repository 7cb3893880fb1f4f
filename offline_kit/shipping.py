"""The way to Kaggle and back: from a built kit to what is there, at the real Kaggle or a local one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from offline_kit import notebook, proc, push
from offline_kit.config import Config
from offline_kit.errors import ProjectError, UsageError
from offline_kit.kaggle_gateway.client import Client
from offline_kit.kaggle_gateway.nouns import Kaggle
from offline_kit.kaggle_gateway.where import Where
from offline_kit.manifest import verify
from offline_kit.model import Kit
from offline_kit.push import Pushed, Ways
from offline_kit.push_plan import MODEST, PushPlan, Wishes
from offline_kit.report import SILENT, Reporter

LOCAL_ADDRESS = "OFFLINE_KIT_LOCAL_KAGGLE"
"""Variable that holds the address of a running local Kaggle."""


@dataclass(frozen=True, kw_only=True)
class Shipment:
    """A kit and where it goes."""

    kit: Kit
    """The kit."""
    datasets: Mapping[str, str]
    """The configured dataset of each part, by the part's name."""
    kaggle: Kaggle
    """Who takes it."""
    ways: Ways
    """How a push goes about it."""


def where(to: str, address: str = "") -> Where:
    """Return which Kaggle `--to` means; a local one listens at `address`, or where the variable says.

    Raises UsageError where no local Kaggle is named: "local" is never taken for the real one.
    """
    if to == "kaggle":
        return Where()
    address = address or proc.environment().get(LOCAL_ADDRESS, "")
    if not address.startswith("http://127.0.0.1:"):
        raise UsageError(
            f"there is no local Kaggle at '{address}'" if address else "no local Kaggle is named",
            hint=f"start one with 'offline-kit local', and name its address with --at or {LOCAL_ADDRESS}",
        )
    return Where(local=address.rstrip("/"))


@contextmanager
def shipment(config: Config, kit: Kit, there: Where) -> Iterator[Shipment]:
    """Give a logged-in shipment of a kit; ProjectError where the kit on disk is damaged."""
    problems = [line for part in kit.parts for line in verify(kit.part_folder(part), part, hashes=False)]
    if problems:
        raise ProjectError(
            f"the kit in '{kit.folder}' is damaged",
            hint="build it again with 'offline-kit build'",
            details=problems,
        )
    with Client(there) as kaggle:
        yield Shipment(
            kit=kit,
            datasets={part.name: notebook.dataset_of(part, kit, config.dataset) for part in kit.parts},
            kaggle=kaggle,
            ways=Ways(state=_state(config, there, kaggle.account().username)),
        )


def _state(config: Config, there: Where, username: str) -> Path:
    """Return the folder that remembers what was sent: beside the kit, which is replaced as a whole."""
    name = "local" if there.local else "kaggle"
    return config.out.parent / f".{config.out.name}.push" / name / username


def plan_data(ship: Shipment, wishes: Wishes = MODEST, report: Reporter = SILENT) -> PushPlan:
    """Return what a push would do, having looked at Kaggle; raises as `push.plan`."""
    return push.plan(ship.kit, ship.datasets, ship.kaggle, ship.ways, wishes, report)


def push_data(ship: Shipment, wishes: Wishes = MODEST, report: Reporter = SILENT) -> tuple[Pushed, ...]:
    """Bring the kit's parts to their datasets; raises as `push.push`."""
    return push.push(ship.kit, ship.datasets, ship.kaggle, ship.ways, wishes, report)
