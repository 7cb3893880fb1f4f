"""Notebooks to adopt."""

import json
import subprocess
from pathlib import Path

from offline_kit.adopt import inspection
from offline_kit.adopt.findings import Adoption, AttachedSources, Outcome
from offline_kit.project import images
from tests.support import command_line


def notebook_of(folder: Path, *sources: str, name: str = "inference.ipynb") -> Path:
    """Write a notebook with these code cells."""
    cells = [
        {
            "cell_type": "code",
            "source": source,
            "metadata": {},
            "outputs": [],
            "execution_count": 7,
            "id": f"c{number}",
        }
        for number, source in enumerate(sources, 1)
    ]
    about = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    whole = {"cells": cells, "metadata": about, "nbformat": 4, "nbformat_minor": 5}
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole), encoding="utf-8")
    return path


def put(folder: Path, *names: str, text: str = "x\n") -> None:
    """Write small files."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def run(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run offline-kit in a folder, as a person does; it has to end well."""
    done = command_line.offline_kit(*words, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done


def looked(folder: Path, *sources: str, attached: AttachedSources | None = None) -> Adoption:
    """Write a notebook and look it through against Kaggle's CPU image."""
    chosen = images.load_image("", accelerator="none", project=folder)
    return inspection.inspect_notebook(notebook_of(folder, *sources), folder, chosen, attached)


def became(adoption: Adoption) -> list[tuple[Outcome, str]]:
    """Return what each found thing became."""
    return [(one.resolution, one.value) for one in adoption.resolved]
