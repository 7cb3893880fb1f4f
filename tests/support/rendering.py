"""Shared by tests: the rendered notebook: valid, the same twice, free of this machine, and it runs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from offline_kit.notebook.rendering import NotebookTarget, RenderedNotebook
from offline_kit.project.images import Image
from offline_kit.project.types import FileEntry, Kit, KitPart, Role
from tests.support.kits import Workshop
from tests.support.warm_python import notebook_python

IMAGE = Image(name="tests", title="An image", accelerator="none", python="3.13.5", packages={})


def kit_of(workshop: Workshop, folder: Path, parts: tuple[str, ...] = ("kit",)) -> Kit:
    """Mount the workshop's kit below folder/input and return it as a build would."""
    workshop.has_runtime = True
    workshop.plan["python"] = f"{sys.version_info.major}.{sys.version_info.minor}"
    made = []
    for name in parts:
        place = folder / "input/datasets/me" / name
        identity = workshop.mount(place, name)
        manifest = json.loads((place / "offline-kit.json").read_text())
        entries = tuple(FileEntry(**(line | {"role": Role(line["role"])})) for line in manifest["files"])
        made.append(KitPart(name=name, id=identity, entries=entries))
    return Kit(folder=folder, id="0" * 64, parts=tuple(made))


def target(tmp_path: Path, **more: Any) -> NotebookTarget:
    return NotebookTarget(
        project=tmp_path, **({"name": "plants", "version": "1.2", "dataset": "plants-kit"} | more)
    )


def code_cells(rendered: RenderedNotebook) -> list[Any]:
    return [cell for cell in json.loads(rendered.text)["cells"] if cell["cell_type"] == "code"]


def run_cells(rendered: RenderedNotebook, folder: Path) -> str:
    """Run the notebook's code as Kaggle would lay it out, and return what it printed."""
    source = "\n\n".join("".join(cell["source"]) for cell in code_cells(rendered))
    (folder / "notebook.py").write_text(source)
    names = {"INPUT": "input", "WORKING": "working", "SCRATCH": "scratch", "INSTALLER": ""}
    env = os.environ | {f"OFFLINE_KIT_{key}": str(folder / name) for key, name in names.items() if name}
    done = subprocess.run(
        [notebook_python(), "notebook.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        env=env | {"PYTHONPATH": ""},
    )
    return done.stdout + done.stderr
