"""The way to Kaggle and back: from a built kit to what is there, at the real Kaggle or a local one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from offline_kit import files, notebook, pip_settings, proc
from offline_kit.config import Config
from offline_kit.errors import ProjectError, UsageError
from offline_kit.kaggle_gateway.client import Client
from offline_kit.kaggle_gateway.nouns import Kaggle
from offline_kit.kaggle_gateway.where import Where
from offline_kit.local_kaggle import start
from offline_kit.local_kaggle.sandbox_runner import SandboxRunner
from offline_kit.manifest import verify
from offline_kit.model import Kit
from offline_kit.push import datasets
from offline_kit.push.dataset_plan import MODEST, PushPlan, Wishes
from offline_kit.push.datasets import Pushed
from offline_kit.push.ways import Ways
from offline_kit.rehearsal.environments import Workshop
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


@contextmanager
def where(to: str, address: str = "", report: Reporter = SILENT) -> Iterator[Where]:
    """Give the Kaggle that `--to` means, while the block lasts.

    A local one that listens at `address`, or where the variable says, is used; without an address one is
    served here, on the state that `offline-kit local` has too. Raises UsageError for an address that is
    not on this machine, OutsideError where another server has that state.
    """
    address = address or (proc.environment().get(LOCAL_ADDRESS, "") if to == "local" else "")
    if to == "kaggle":
        if address:
            raise UsageError(f"--at {address} is of a local Kaggle", hint="add --to local, or leave it out")
        yield Where()
    elif address:
        if not address.startswith("http://127.0.0.1:"):
            raise UsageError(
                f"'{address}' is no local Kaggle: it would not be on this machine",
                hint="name what 'offline-kit local' tells, like http://127.0.0.1:8642",
            )
        yield Where(local=address.rstrip("/"))
    else:
        with _served() as url:
            report.note(
                f"a local Kaggle is served at {url}, as long as this command runs; all it says is LOCAL"
            )
            yield Where(local=url)


@contextmanager
def _served() -> Iterator[str]:
    cache = files.cache_dir()
    workshop = Workshop(settings=pip_settings.read(proc.environment()), cache=cache, yes=True)
    wanted = start.Wanted(folder=cache / "local-kaggle", port=0)
    with start.running(wanted, SandboxRunner(workshop)) as server:
        yield server.url


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
    """Return what a push would do, having looked at Kaggle; raises as `datasets.plan`."""
    return datasets.plan(ship.kit, ship.datasets, ship.kaggle, ship.ways, wishes, report)


def push_data(ship: Shipment, wishes: Wishes = MODEST, report: Reporter = SILENT) -> tuple[Pushed, ...]:
    """Bring the kit's parts to their datasets; raises as `datasets.push`."""
    return datasets.push(ship.kit, ship.datasets, ship.kaggle, ship.ways, wishes, report)
