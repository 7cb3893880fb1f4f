"""The build on Kaggle's machine: a notebook with the internet on, and what is captured there."""

import ast
import dataclasses
import io
import json
import platform
import socket
import sys
import zipfile
from pathlib import Path

import pytest

from offline_kit.core import processes, resources, sandbox
from offline_kit.core.errors import ProjectError
from offline_kit.core.sandboxes.box import Box
from offline_kit.kaggle.client.api_types import Account, NewNotebook, NotebookSources
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.push import push_notebook
from offline_kit.kaggle.push.notebook_equality import find_mismatches, hash_content
from offline_kit.kit import manifest
from offline_kit.notebook.runtime import kit_capture
from offline_kit.notebook.runtime.kit_runtime import find_parts, read_part, verify_files
from offline_kit.packages import cuda_abi, distribution_metadata
from offline_kit.packages.freeze.freeze_inputs import FreezeRequest
from offline_kit.packages.pip_settings import IndexSettings
from offline_kit.project import config, images, import_names
from offline_kit.project.types import Fate
from offline_kit.workflow import build_remotely, remote_wheelhouse
from offline_kit.workflow.remote_wheelhouse import RemoteRequest, WheelhouseRecord
from tests.support.kits import wheel
from tests.support.local_kaggle import Bench
from tests.support.notebooks import REF, new
from tests.support.pushing import access, ways

# ------------------------------------------------------------------ the internet


def test_switching_the_internet_is_another_version(bench: Bench, alice: KaggleClient) -> None:
    """The same cells with the internet on are not the same notebook, in either direction."""
    offline = new("1")
    online = dataclasses.replace(offline, internet=True)
    assert hash_content(online) != hash_content(offline)
    push_notebook.push_notebook(online, access(alice, ways(bench)))
    there = alice.get_notebook(REF)
    assert there
    assert [each.is_exposed for each in find_mismatches(offline, there)] == [True]
    assert find_mismatches(online, there) == ()
    off = dataclasses.replace(there, internet=False)
    assert "phone" in find_mismatches(online, off)[0].remedy


TALK = "import socket; socket.create_connection(('127.0.0.1', {port}), 3); print('reached')"


@pytest.mark.sandbox
@pytest.mark.parametrize("network", [True, False])
def test_a_box_has_the_network_only_where_it_may(tmp_path: Path, *, network: bool) -> None:
    """The same command reaches this machine's network with `network`, and not without."""
    chosen = sandbox.find_sandbox(["bubblewrap"])
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
        assert sandbox.run_box(chosen, box).succeeded is network, (tmp_path / "log").read_text()


# ------------------------------------------------------------------ what is asked for


def ask(folder: Path, text: str, **more: object) -> RemoteRequest:
    """Return what these requirements ask for."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "requirements.in").write_text(text)
    said = {"requirements": (folder / "requirements.in",), **more}
    chosen = images.load_image("", accelerator="none", project=folder)
    project = config.Config(project=folder, name="", version="", **said)  # type: ignore[arg-type]
    return remote_wheelhouse.build_request(FreezeRequest(config=project, own=("mine",)), chosen)


def test_requirements_go_as_text(tmp_path: Path) -> None:
    """Lines, public indexes and git references travel; own packages and those that are excluded do not."""
    text = "docopt>=0.6\n--extra-index-url https://example.org/simple\nthing @ git+https://example.org/t.git@v1\nmine\n"
    found = ask(tmp_path, text, exclude=("Idna",))
    assert found.requirements == (
        "--extra-index-url https://example.org/simple",
        "docopt>=0.6",
        "thing @ git+https://example.org/t.git@v1",
    )
    assert set(found.exclude) == {"idna", "mine"}
    assert "numpy" in found.protected
    assert "numpy" not in ask(tmp_path, text, replace=("numpy",)).protected


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--index-url https://me:hunter2@example.org/simple", "password"),
        ("thing @ git+https://me:hunter2@example.org/t.git", "password"),
        ("--extra-index-url https://me:hun/ter2@example.org/simple", "password"),
        ("--index-url https://example.org/simple?token=hunter2", "query"),
        ("thing @ https://example.org/thing-1.0-py3-none-any.whl?X-Amz-Signature=hunter2", "query"),
        ("thing @ https://example.org/thing-1.0-py3-none-any.whl?raw=hunter2", "query"),
        ("thing @ git+https://${NOT_SET}@example.org/t.git", "the variable ${NOT_SET}, which is not set"),
        ("--index-url https://me:${NOT_SET}@example.org/simple", "the variable ${NOT_SET}"),
        ("./folder", "on this machine"),
        ("--find-links ./wheels", "folder of this machine"),
    ],
)
def test_secrets_and_paths_never_go(tmp_path: Path, line: str, says: str) -> None:
    """They are refused before anything is rendered, and the password is not in the words."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "pyproject.toml").write_text("[project]\nname = 'x'\nversion = '1'\n")
    with pytest.raises(ProjectError) as caught:
        ask(tmp_path, f"{line}\n")
    assert any(says in each for each in caught.value.details), caught.value.details
    words = str([caught.value.what, *caught.value.details, caught.value.hint])
    assert "hunter2" not in words
    assert "ter2" not in words


def test_indexes_of_this_machine_are_told(tmp_path: Path) -> None:
    """Whoever builds from an index of their own reads that Kaggle does not know it."""
    assert remote_wheelhouse.index_note(IndexSettings()) == ""
    assert "pypi.org" in remote_wheelhouse.index_note(
        IndexSettings(index_url="https://me:hunter2@example.org/simple")
    )
    assert "hunter2" not in remote_wheelhouse.index_note(
        IndexSettings(index_url="https://me:hunter2@example.org/simple")
    )


# ------------------------------------------------------------------ the notebook


def rendered(folder: Path, wanted: RemoteRequest | None) -> NewNotebook:
    """Return the notebook of a job."""
    folder.mkdir(exist_ok=True)
    settings = config.load_config(folder, {"accelerator": "none"})
    return build_remotely.render_job(settings, Account(username="alice", auth_method=""), wanted)


def test_only_the_wheelhouse_gets_the_internet(tmp_path: Path) -> None:
    """The notebook that captures an image is offline; both are private, bring their code, and attach nothing."""
    makes = rendered(tmp_path / "plants", ask(tmp_path / "plants", "docopt\n"))
    looks = rendered(tmp_path / "plants", None)
    assert (makes.internet, looks.internet) == (True, False)
    assert (makes.ref, looks.ref) == ("alice/plants-wheelhouse", "alice/plants-image")
    for each in (makes, looks):
        assert each.private
        assert each.sources == NotebookSources()
        code = [cell["source"] for cell in json.loads(each.text)["cells"] if cell["cell_type"] == "code"]
        ast.parse("\n".join("".join(source) for source in code))
        assert sum(map(len, code)) <= 80, "lines; they were 310 with the runtime pasted into them"
    assert "pip" not in "".join("".join(c["source"]) for c in json.loads(looks.text)["cells"][-1:])


def test_a_notebook_before_any_kit_brings_the_runtime(tmp_path: Path) -> None:
    """Its cell unpacks every file of the runtime, byte for byte, and imports them from there."""
    code = [
        "".join(cell["source"])
        for cell in json.loads(rendered(tmp_path / "plants", None).text)["cells"]
        if cell["cell_type"] == "code"
    ]
    program = tmp_path / "cells.py"
    program.write_text("\n".join([*code[:3], "print(offline_kit_runtime.__file__)"]))
    env = processes.copy_environment(OFFLINE_KIT_SCRATCH=str(tmp_path / "scratch"))
    printed = processes.run_command([sys.executable, program], env=env).out.strip()
    folder = Path(printed).parent
    assert folder == tmp_path / "scratch" / "runtime" / "offline_kit_runtime"
    assert {path.name: path.read_bytes() for path in folder.glob("*.py")} == resources.runtime_files()


def test_the_same_requirements_make_the_same_notebook(tmp_path: Path) -> None:
    """So that nothing is pushed where nothing changed."""
    texts = {rendered(tmp_path / "plants", ask(tmp_path / "plants", "docopt\n")).text for _ in range(2)}
    assert len(texts) == 1
    assert rendered(tmp_path / "plants", ask(tmp_path / "plants", "cowsay\n")).text not in texts


# ------------------------------------------------------------------ what comes back


def test_a_captured_image_is_an_image(tmp_path: Path) -> None:
    """What is written down is read by --image, with every package, and nothing of the environment but names."""
    facts = kit_capture.capture_image("mine")
    text = kit_capture.format_image_file(facts, "gcr.io/kaggle-images/python@sha256:1", "Kaggle")
    (tmp_path / "image.toml").write_text(text)
    found = images.load_image("image.toml", accelerator="none", project=tmp_path)
    assert (found.name, found.python) == ("mine", platform.python_version())
    assert found.packages == facts["packages"]
    assert found.packages["pytest"]
    assert found.digest == "gcr.io/kaggle-images/python@sha256:1"
    assert "numpy" in found.protected
    path, here = build_remotely.write_image(build_remotely.capture_here(), tmp_path / "here.toml")
    assert (path.name, here.name) == ("here.toml", "captured-here")


def made(folder: Path, *wheels: tuple[str, bytes]) -> str:
    """Make the output of a wheelhouse notebook; return its part's id."""
    (folder / "packages").mkdir(parents=True)
    for name, data in wheels:
        (folder / "packages" / name).write_bytes(data)
    return kit_capture.write_part(folder, [])


def test_the_output_is_a_part_of_a_kit(tmp_path: Path) -> None:
    """The notebook's own manifest is one that the kit's search finds, checks, and restores names by."""
    folder = tmp_path / "notebooks" / "alice" / "plants-wheelhouse"
    ident = made(folder, wheel("torchy", "1.0+cu1"), wheel("plain"))
    part = manifest.read_manifest(folder)
    assert (part.name, part.id) == (remote_wheelhouse.PART, ident)
    names = {entry.original: entry.stored for entry in part.entries}
    assert names["packages/torchy-1.0+cu1-py3-none-any.whl"] == "packages/torchy-1.0_cu1-py3-none-any.whl"
    found = find_parts({"wheelhouse": ident}, tmp_path)
    assert set(verify_files(read_part(found["wheelhouse"]))[0]) == set(names)


def record(**more: object) -> WheelhouseRecord:
    """Return a record of a wheelhouse."""
    base: dict[str, object] = {
        "notebook": "alice/plants-wheelhouse",
        "version": 2,
        "asked": "a",
        "part": "p" * 64,
    }
    return WheelhouseRecord(**base | {"image": "i" * 64, "files": 1, "local": False} | more)  # type: ignore[arg-type]


def test_the_record_beside_the_project(tmp_path: Path) -> None:
    """It is read back as it was written, and a damaged one is told instead of taken."""
    assert remote_wheelhouse.read_record(tmp_path) is None
    remote_wheelhouse.write_record(record(), tmp_path)
    assert remote_wheelhouse.read_record(tmp_path) == record()
    (tmp_path / remote_wheelhouse.RECORD).write_text("{}")
    with pytest.raises(ProjectError, match="cannot be read"):
        remote_wheelhouse.read_record(tmp_path)


def test_an_outline_tells_what_the_wheel_would(tmp_path: Path) -> None:
    """Requirements, and what it can be imported as, out of a few bytes."""
    code = {f"flash_attn/m{number}.py": "#" * 9999 for number in range(9)}
    library = {"flash_attn/core.cpython-311-x86_64-linux-gnu.so": "..libcudart.so.12.."}
    code["flash_attn/__init__.py"] = ""
    data = {**code, **library, "flash_attn-1.0.data/purelib/beside.py": "", "flash_attn/weights.bin": "w"}
    name, content = wheel("flash_attn", files=data)
    (tmp_path / name).write_bytes(content)
    output = tmp_path / "output"
    ident = made(output, (name, content))
    known = record(part=ident)
    text = kit_capture.format_image_file(kit_capture.capture_image("mine"))
    place = known.cache_folder(tmp_path / "cache")
    remote_wheelhouse.store_outputs(
        place, manifest.read_manifest(output), (output / kit_capture.FACTS).read_text(), text
    )
    (outlined,) = remote_wheelhouse.load_wheelhouse(known, tmp_path / "cache").list_wheels().wheels
    whole = dataclasses.replace(outlined, path=tmp_path / name)
    assert outlined.path.stat().st_size < len(content) / 10
    assert (
        import_names.read_wheel_imports(outlined.path)
        == import_names.read_wheel_imports(whole.path)
        == ("beside", "flash_attn")
    )
    assert cuda_abi.read_wheel_abi(outlined) == cuda_abi.read_wheel_abi(whole)
    told = distribution_metadata.read_metadata(outlined.path, name)
    assert told
    assert told.strip() == (distribution_metadata.read_metadata(whole.path, name) or b"").strip()


def test_a_wheelhouse_that_is_not_here_or_outdated(tmp_path: Path) -> None:
    """Both name the command that helps, for the Kaggle of the record."""
    for local, name in ((False, "build --on kaggle"), (True, "build --on local")):
        with pytest.raises(ProjectError, match="not on this machine") as caught:
            remote_wheelhouse.load_wheelhouse(record(local=local), tmp_path)
        assert name in (caught.value.hint or "")
        with pytest.raises(ProjectError, match="requirements changed") as caught:
            remote_wheelhouse.check_request(record(local=local), "another")
        assert name in (caught.value.hint or "")
    remote_wheelhouse.check_request(record(), "a")


def needing(*requirements: str) -> tuple[str, bytes]:
    """Return a wheel with requirements."""
    name, data = wheel("needy")
    told = "".join(f"Requires-Dist: {line}\n" for line in requirements)
    into = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(into, "w") as fresh:
        for each in old.namelist():
            more = told.encode() if each.endswith("/METADATA") else b""
            fresh.writestr(each, old.read(each) + more)
    return name, into.getvalue()


def test_pins_of_a_wheelhouse(tmp_path: Path) -> None:
    """Its wheels are bundled; what they and the project ask of the image is provided, markers minded."""
    name, data = needing("pytest>=1", "nothing; python_version < '3'")
    output = tmp_path / "output"
    ident = made(output, (name, data))
    text = kit_capture.format_image_file(kit_capture.capture_image("mine"))
    whole = record(part=ident, image="0" * 64)
    place = whole.cache_folder(tmp_path / "cache")
    facts = (output / kit_capture.FACTS).read_text()
    remote_wheelhouse.store_outputs(place, manifest.read_manifest(output), facts, text)
    found = remote_wheelhouse.load_wheelhouse(whole, tmp_path / "cache")
    frozen = found.freeze_of(("needy", "packaging>=20", "--index-url https://example.org"))
    fates = {pin.name: (pin.fate, pin.requires) for pin in frozen.pins}
    assert fates == {
        "needy": (Fate.BUNDLED, ("needy",)),
        "packaging": (Fate.PROVIDED, ("packaging>=20",)),
        "pytest": (Fate.PROVIDED, ("pytest>=1",)),
    }
    assert frozen.text.splitlines()[1:] == ["needy==1.0"]
    with pytest.raises(ProjectError, match="makes no sense"):
        remote_wheelhouse.store_outputs(place, manifest.read_manifest(output), '{"wheels": []}', text)
    (place / remote_wheelhouse.OUTLINES / name).unlink()
    with pytest.raises(ProjectError, match="damaged"):
        remote_wheelhouse.load_wheelhouse(whole, tmp_path / "cache")
