"""The way to Kaggle and back: from a built kit to what is there, at the real Kaggle or a local one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from offline_kit import files, notebook, pip_settings, proc
from offline_kit.config import Config
from offline_kit.errors import ProjectError, UsageError
from offline_kit.kaggle_gateway.client import Client
from offline_kit.kaggle_gateway.nouns import Account, Kaggle
from offline_kit.kaggle_gateway.where import Where
from offline_kit.local_kaggle import start
from offline_kit.local_kaggle.sandbox_runner import SandboxRunner
from offline_kit.manifest import verify
from offline_kit.model import Kit
from offline_kit.push import datasets
from offline_kit.push.dataset_plan import MODEST, PushPlan, Wishes
from offline_kit.push.datasets import Pushed
from offline_kit.push.ledger import Ledger
from offline_kit.push.memory import Memory
from offline_kit.push.ways import Ways
from offline_kit.rehearsal.environments import Workshop
from offline_kit.report import SILENT, Reporter

LOCAL_ADDRESS = "OFFLINE_KIT_LOCAL_KAGGLE"
"""Variable that holds the address of a running local Kaggle."""


LEDGER = "submissions.jsonl"
LAST_PUSH = "last-push"
"""What the memory calls the newest push of data."""


@dataclass(frozen=True, kw_only=True)
class Port:
    """A Kaggle that we are logged in to, and what we remember of it."""

    config: Config
    """Whose things go there."""
    kaggle: Kaggle
    """Who takes them."""
    account: Account
    """Who we are there."""
    local: bool
    """Whether it is a local one."""
    ways: Ways
    """How a push goes about it."""
    ledger: Ledger
    """What was submitted; beside the project for the real Kaggle."""
    memory: Memory
    """What was seen last."""

    def datasets(self, kit: Kit) -> dict[str, str]:
        """Return the configured dataset of each part of a kit, by the part's name."""
        return {part.name: notebook.dataset_of(part, kit, self.config.dataset) for part in kit.parts}


@contextmanager
def where(
    to: str,
    address: str = "",
    report: Reporter = SILENT,
    *,
    competition: Path | None = None,
    current: bool = False,
) -> Iterator[Where]:
    """Give the Kaggle that `--to` means, while the block lasts.

    A local one that listens at `address`, or where the variable says, is used; without an address one is
    served here, on the state that `offline-kit local` has too, with the `competition` in that folder, its
    notebooks run in the `current` environment or in that of their image. Raises UsageError for an address
    that is not on this machine, OutsideError where another server has that state.
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
        with _served(competition, current=current) as url:
            report.note(
                f"a local Kaggle is served at {url}, as long as this command runs; all it says is LOCAL"
            )
            yield Where(local=url)


@contextmanager
def _served(competition: Path | None, *, current: bool) -> Iterator[str]:
    cache = files.cache_dir()
    workshop = Workshop(settings=pip_settings.read(proc.environment()), cache=cache, yes=True)
    wanted = start.Wanted(
        folder=cache / "local-kaggle", port=0, competitions=(competition,) if competition else ()
    )
    with start.running(wanted, SandboxRunner(workshop, current=current)) as server:
        yield server.url


@contextmanager
def port(config: Config, there: Where) -> Iterator[Port]:
    """Log in; raises NotLoggedInError with the accepted sources of credentials."""
    with Client(there) as kaggle:
        account = kaggle.account()
        state = _state(config, there, account.username)
        ledger = state / LEDGER if there.local else config.project / ".offline-kit" / LEDGER
        yield Port(
            config=config,
            kaggle=kaggle,
            account=account,
            local=bool(there.local),
            ways=Ways(state=state),
            ledger=Ledger(ledger),
            memory=Memory(state),
        )


def _state(config: Config, there: Where, username: str) -> Path:
    """Return the folder that remembers what was sent: beside the kit, which is replaced as a whole."""
    name = "local" if there.local else "kaggle"
    return config.out.parent / f".{config.out.name}.push" / name / username


def checked(kit: Kit) -> Kit:
    """Return a kit that is whole; ProjectError where its files on disk are damaged."""
    problems = [line for part in kit.parts for line in verify(kit.part_folder(part), part, hashes=False)]
    if problems:
        raise ProjectError(
            f"the kit in '{kit.folder}' is damaged",
            hint="build it again with 'offline-kit build'",
            details=problems,
        )
    return kit


def plan_data(port: Port, kit: Kit, wishes: Wishes = MODEST, report: Reporter = SILENT) -> PushPlan:
    """Return what a push would do, having looked at Kaggle; raises as `datasets.plan`."""
    return datasets.plan(checked(kit), port.datasets(kit), port.kaggle, port.ways, wishes, report)


def push_data(port: Port, kit: Kit, wishes: Wishes = MODEST, report: Reporter = SILENT) -> tuple[Pushed, ...]:
    """Bring the kit's parts to their datasets; raises as `datasets.push`."""
    done = datasets.push(checked(kit), port.datasets(kit), port.kaggle, port.ways, wishes, report)
    parts = [
        {"part": each.part, "dataset": each.ref, "version": each.version, "url": each.url} for each in done
    ]
    port.memory.keep(LAST_PUSH, {"kit": kit.id, "parts": parts, "at": _now()})
    return done


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
