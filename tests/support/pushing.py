"""Kits by hand and a push of them to a local Kaggle, in this process or in one that can be killed."""

import hashlib
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_kit.core.report import SILENT, Reporter
from offline_kit.core.retry import RetryPolicy
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.client.session import KaggleEndpoint
from offline_kit.kaggle.push import push_parts as pushing
from offline_kit.kaggle.push.journal import Journal, PushContext
from offline_kit.kaggle.push.part_targets import PartPlan
from offline_kit.kaggle.push.poll_policy import ClientSettings, PollPolicy
from offline_kit.kaggle.push.push_parts import DEFAULT_OPTIONS, PushOptions
from offline_kit.kit import manifest
from offline_kit.project.types import FileEntry, Kit, Role
from tests.support.local_kaggle import Bench
from tests.support.warm_python import client_python

BRISK = RetryPolicy(attempts=4, backoff=0.02, longest=0.2)
EAGER = PollPolicy(visibility_timeout=1.5, processing_timeout=20.0, first_interval=0.02, max_interval=0.1)
FILES = {
    "packages/a.whl": b"a wheel",
    "packages/install.json": b"{}",
    "checkpoints/model.ckpt": b"w" * 300_000,
}


@dataclass(frozen=True, kw_only=True)
class PushSettings:
    """Where pushes of several clients keep their state, and how patient they are."""

    state_folder: Path
    poll_policy: PollPolicy = EAGER
    retry_policy: RetryPolicy = BRISK

    @property
    def effect_journal(self) -> Journal:
        """The journal in the state folder."""
        return Journal(self.state_folder / "journal.jsonl")


def make_kit(folder: Path, files: Mapping[str, bytes] = FILES, *, split: bool = False) -> Kit:
    """Write a kit of these files; split, one part for each top folder."""
    groups: dict[str, dict[str, bytes]] = {}
    for name, data in files.items():
        groups.setdefault(name.partition("/")[0] if split else "kit", {})[name] = data
    parts = []
    for name, content in sorted(groups.items()):
        place = folder / "dataset" / name if len(groups) > 1 else folder / "dataset"
        for path, data in content.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_bytes(data)
        entries = [
            FileEntry(
                role=Role.CHECKPOINT if path.startswith("ch") else Role.BUILD,
                original=path,
                stored=path,
                size=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
            )
            for path, data in content.items()
        ]
        parts.append(manifest.make_part(name, entries))
        manifest.write_manifest(place, parts[-1])
    return manifest.read_kit(folder)


def datasets(kit: Kit, owner: str = "alice") -> dict[str, str]:
    """Return the dataset of each part."""
    names = {part.name: "" if len(kit.parts) == 1 else f"-{part.name}" for part in kit.parts}
    return {name: f"{owner}/plant-kit{suffix}" for name, suffix in names.items()}


def client(bench: Bench, user: str = "alice", **manners: Any) -> KaggleClient:
    """Return a user's client; `manners` are more of its arguments."""
    where = KaggleEndpoint(local=bench.server.url, username=user, key=f"key-of-{user}")
    return KaggleClient(where, **{"patience": BRISK, "python": client_python(), **manners})


def ways(bench: Bench, waiting: PollPolicy = EAGER) -> PushSettings:
    """Return ways with a state that outlives the run."""
    return PushSettings(state_folder=bench.folder / "push-state", poll_policy=waiting, retry_policy=BRISK)


def access(kaggle: KaggleClient, settings: PushSettings, report: Reporter = SILENT) -> PushContext:
    """Return what every step of a push needs."""
    client = ClientSettings(poll=settings.poll_policy, retry=settings.retry_policy)
    return PushContext(kaggle=kaggle, state_folder=settings.state_folder, client=client, report=report)


def pushed(
    bench: Bench,
    kit: Kit,
    kaggle: KaggleClient,
    wishes: PushOptions = DEFAULT_OPTIONS,
    report: Reporter = SILENT,
) -> tuple[PartPlan, ...]:
    """Push a kit."""
    locations = datasets(kit, kaggle.fetch_account().username)
    return pushing.push_kit(kit, locations, access(kaggle, ways(bench), report), wishes)


def planned(bench: Bench, kit: Kit, kaggle: KaggleClient) -> tuple[PartPlan, ...]:
    """Plan the push of a kit."""
    return pushing.plan_push(kit, datasets(kit), access(kaggle, ways(bench)))


def content(bench: Bench, ref: str = "alice/plant-kit") -> dict[str, bytes]:
    """Return what a notebook would find of the READY version."""
    found = bench.kaggle.datasets.mounted_version(ref, "alice")
    assert found is not None
    folder = found[-1]
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def push_elsewhere(bench: Bench, kit: Kit) -> "subprocess.Popen[bytes]":
    """Start a push in a process of its own."""
    code = (
        "import sys; from pathlib import Path\n"
        "from offline_kit.kit import manifest\n"
        "from offline_kit.kaggle.push import push_parts as pushing\n"
        "from offline_kit.kaggle.client.client import KaggleClient\n"
        "from offline_kit.kaggle.client.session import KaggleEndpoint\n"
        "from tests.support.pushing import EAGER, BRISK, PushSettings, access, datasets\n"
        "kit = manifest.read_kit(Path(sys.argv[2]))\n"
        "ways = PushSettings(state_folder=Path(sys.argv[3]), poll_policy=EAGER, retry_policy=BRISK)\n"
        "where = KaggleEndpoint(local=sys.argv[1], username='alice', key='key-of-alice')\n"
        "with KaggleClient(where, patience=BRISK, python=sys.argv[4]) as kaggle:\n"
        "    pushing.push_kit(kit, datasets(kit), access(kaggle, ways))\n"
    )
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            code,
            bench.server.url,
            str(kit.folder),
            str(ways(bench).state_folder),
            client_python(),
        ],
        cwd=Path(__file__).parents[2],
    )
