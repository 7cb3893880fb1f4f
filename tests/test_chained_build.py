"""The build on Kaggle's machine: a notebook with the internet on, and what is captured there."""

import dataclasses
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_kaggle_case import Bench, serving
from notebook_case import REF, new
from push_case import client, ways

from offline_kit import sandbox
from offline_kit.kaggle_gateway.client import Client
from offline_kit.local_kaggle.running import Job, Result
from offline_kit.push import notebooks
from offline_kit.push.notebook_same import content_id, lacks
from offline_kit.sandboxes.box import Box


def tells_internet(job: Job) -> Result:
    """Run nothing, and say whether the internet was to be on."""
    job.say(f"internet: {job.internet}\n")
    (job.folder / "output").mkdir()
    return Result(failure="")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A local Kaggle whose runs say whether they have the internet."""
    with serving(tmp_path, runner=tells_internet) as running:
        yield running


@pytest.fixture
def alice(bench: Bench) -> Iterator[Client]:
    """Alice's client."""
    with client(bench) as mine:
        yield mine


# ------------------------------------------------------------------ the internet


@pytest.mark.parametrize("internet", [True, False])
def test_the_internet_is_on_where_it_was_asked_for(bench: Bench, alice: Client, *, internet: bool) -> None:
    """A notebook is saved and run with the internet exactly where it asks for it, and read back so."""
    wanted = dataclasses.replace(new("1"), internet=internet)
    done = notebooks.push(wanted, alice, ways(bench))
    there = alice.notebook(REF, done.version)
    assert there
    assert there.internet is internet
    bench.until(lambda: (found := alice.run(REF, 1)) is not None and found.state == "complete")
    assert [line.text for line in alice.log(REF, 1)] == [f"internet: {internet}\n"]


def test_switching_the_internet_is_another_version(bench: Bench, alice: Client) -> None:
    """The same cells with the internet on are not the same notebook, in either direction."""
    offline = new("1")
    online = dataclasses.replace(offline, internet=True)
    assert content_id(online) != content_id(offline)
    notebooks.push(online, alice, ways(bench))
    there = alice.notebook(REF)
    assert there
    assert [each.grave for each in lacks(offline, there)] == [True]
    assert lacks(online, there) == ()
    off = dataclasses.replace(there, internet=False)
    assert "phone" in lacks(online, off)[0].remedy


TALK = "import socket; socket.create_connection(('127.0.0.1', {port}), 3); print('reached')"


@pytest.mark.sandbox
@pytest.mark.parametrize("kind", ["bubblewrap", "unshare"])
@pytest.mark.parametrize("network", [True, False])
def test_a_box_has_the_network_only_where_it_may(tmp_path: Path, kind: str, *, network: bool) -> None:
    """The same command reaches this machine's network with `network`, and not without."""
    from offline_kit.errors import OutsideError

    try:
        chosen = sandbox.find([kind])
    except OutsideError:
        pytest.skip(f"no {kind} here")
    (tmp_path / "scratch").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        box = Box(
            argv=("/usr/bin/env", "python3", "-c", TALK.format(port=server.getsockname()[1])),
            mounts=(),
            env={"PATH": "/usr/bin:/bin"},
            cwd="/",
            log=tmp_path / "log",
            scratch=tmp_path / "scratch",
            timeout=30,
            network=network,
        )
        assert sandbox.run(chosen, box).ok is network, (tmp_path / "log").read_text()
