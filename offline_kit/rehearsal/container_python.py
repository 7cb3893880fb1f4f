"""Look into a container image: its Python, its packages and its installers, which a rehearsal in it uses as they are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from offline_kit.core import files, sandbox
from offline_kit.core.errors import ProjectError
from offline_kit.core.sandbox import Sandbox
from offline_kit.core.sandboxes.box import Box, Mount
from offline_kit.notebook.runtime import kit_capture
from offline_kit.rehearsal.environments import Interpreter
from offline_kit.rehearsal.execution import KernelSetup

_FOLDER = "/rehearsal/look"
_LOOK = f"""
import json, os, shutil, sys
sys.path.insert(0, "{_FOLDER}/code")
import kit_capture
facts = kit_capture.capture_image("captured-from-container")
beside = os.path.join(os.path.dirname(sys.executable), "uv")
facts["uv"] = sorted({{shutil.which("uv") or "", beside if os.path.exists(beside) else ""}} - {{""}})
facts |= {{"executable": sys.executable, "path": os.environ["PATH"]}}
with open("{_FOLDER}/facts.json", "w") as stream:
    json.dump(facts, stream)
"""
_SECONDS = 600.0  # a file system that was just unpacked is cold


def inspect_container(runner: Sandbox, folder: Path) -> dict[str, Any]:
    """Run the container's Python, with `folder` for its files; raise ProjectError if it has none that runs.

    Returns what `kit_capture.capture_image` does, with "executable", "path" (its PATH) and "uv" (the runtime's choices).
    """
    for name in ("code", "scratch"):
        files.make_folder(folder / name)
    (folder / "code" / "kit_capture.py").write_bytes(Path(kit_capture.__file__).read_bytes())
    box = Box(
        argv=("python3", "-c", _LOOK),
        mounts=(Mount(inside=_FOLDER, source=folder, writable=True),),
        env={},
        cwd="/",
        log=folder / "log",
        scratch=folder / "scratch",
        timeout=_SECONDS,
    )
    outcome, facts = sandbox.run_box(runner, box), files.read_json(folder / "facts.json")
    if not outcome.succeeded or not facts:
        log = box.log.read_text(errors="replace").splitlines()
        raise _unusable_error(runner, "has no Python that runs", log[-5:])
    return facts


def prepare_container_kernel(
    runner: Sandbox, used: tuple[str, ...], folder: Path, *, hide_uv: bool
) -> KernelSetup:
    """Return the kernel of a container, with `folder` for its files; raise ProjectError if notebooks cannot run in it.

    `used` names the packages to compare with the image that the kit was built for: a container may differ from it.
    """
    facts = inspect_container(runner, folder)
    packages, executable = facts["packages"], facts["executable"]
    if missing := sorted({"papermill", "ipykernel"} - {*packages}):
        raise _unusable_error(runner, f"has no {' and no '.join(missing)}: Kaggle runs notebooks with it")
    hidden = folder / "hidden-uv"
    hidden.touch(0o444)
    return KernelSetup(
        python=Interpreter(
            path=Path(executable), version=facts["python"], packages=packages, mounts=(), links={}
        ),
        launch=(executable, "-m", "ipykernel_launcher"),
        # Nobody can run an empty file.
        mounts=tuple(Mount(inside=path, source=hidden) for path in facts["uv"]) if hide_uv else (),
        used=used,
        notes=(f"ran in the container image '{runner.image}'",),
        container_path=facts["path"],
        derived=used,
    )


def _unusable_error(runner: Sandbox, problem: str, details: Sequence[str] = ()) -> ProjectError:
    return ProjectError(
        f"the container image '{runner.image}' {problem}",
        hint="use an image of Kaggle's, or one made from it",
        code="container-not-usable",
        details=details,
    )
