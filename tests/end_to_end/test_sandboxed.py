"""What a notebook can and cannot do while it is rehearsed, told by a notebook that tries."""

from pathlib import Path

import pytest

from tests.support.workbench import evidence, project, run

pytestmark = [pytest.mark.slow, pytest.mark.index, pytest.mark.sandbox]

TRIES = """
import os, pathlib, socket, sys

def fails(action):
    try:
        action()
    except OSError as error:
        return type(error).__name__ + ": " + str(error)
    return ""

def evidence(context):
    data, kit = context.input, context.kit
    sample = data / "sample_submission.csv"
    mount = next(pathlib.Path("/kaggle/input").rglob("offline-kit.json"))
    return {
        "network": {
            "address": fails(lambda: socket.create_connection(("1.1.1.1", 53), timeout=3)),
            "name": fails(lambda: socket.create_connection(("pypi.org", 443), timeout=3)),
            "host": fails(lambda: socket.create_connection(("127.0.0.1", context.params["port"]), timeout=3)),
            "interfaces": [name for _, name in socket.if_nameindex()],
        },
        "input": {
            "new file": fails(lambda: pathlib.Path("/kaggle/input/new").write_text("x")),
            "in the data": fails(lambda: (data / "new").write_text("x")),
            "over the data": fails(lambda: sample.write_text("x")),
            "remove": fails(sample.unlink),
            "rename": fails(lambda: sample.rename(data / "other.csv")),
            "rights": fails(lambda: sample.chmod(0o777)),
            "over the kit": fails(lambda: mount.write_text("x")),
            "environment": fails(lambda: pathlib.Path(sys.prefix, "new").write_text("x")),
        },
        "read": sample.read_text(),
        "project": [str(place) for place in (pathlib.Path(context.params["project"]),) if place.exists()],
        "secret": os.environ.get("SOME_SECRET", ""),
        "home": sorted(path.name for path in pathlib.Path.home().glob("*")),
        "working": [path.name for path in pathlib.Path("/kaggle/working").glob("*.csv")],
    }
"""


def test_no_network_and_nothing_to_change(tmp_path: Path) -> None:
    """No address is reached, not even this machine's own; what is mounted can be read and not be changed."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        params = (
            f'\n[notebook.params]\nport = {server.getsockname()[1]}\nproject = "{tmp_path / "project"}"\n'
        )
        folder = project(tmp_path / "project", [], TRIES)
        config = folder / "offline-kit.toml"
        config.write_text(config.read_text() + params)
        before = {path: path.read_bytes() for path in (folder / "input").rglob("*") if path.is_file()}
        words = ("rehearse", folder, "--env", "current", "--json")
        done = run(*words, env={"SOME_SECRET": "hunter2"}).good()
    assert done.facts["rehearsal"]["sandbox"] == "bubblewrap"
    seen = evidence(folder)
    interfaces = seen["network"].pop("interfaces")
    assert interfaces == ["lo"]
    assert all(seen["network"].values()), seen["network"]
    assert all(seen["input"].values()), seen["input"]
    assert seen["read"].startswith("id,target")
    assert (seen["secret"], seen["project"], seen["home"], seen["working"]) == ("", [], [], [])
    assert {path: path.read_bytes() for path in before} == before
