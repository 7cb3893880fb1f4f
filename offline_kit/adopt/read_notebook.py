"""The notebook that is adopted, and what lies beside it: its cells and its kernel-metadata.json."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offline_kit.adopt.findings import Cell, Sources
from offline_kit.core.errors import ProjectError, UsageError

METADATA = "kernel-metadata.json"


@dataclass(frozen=True, kw_only=True)
class Said:
    """What the kernel-metadata.json beside a notebook says; all empty where there is none."""

    sources: Sources = field(default_factory=Sources)
    """What is attached."""
    accelerator: str = ""
    """The machine shape, or "gpu", or "tpu"; empty for the CPU."""
    internet: bool = False
    """Whether the internet was on."""
    unnamed: tuple[str, ...] = ()
    """Kinds of what is attached by number alone: "competition", "datasetVersion", ..."""
    where: str = METADATA
    """What says it, for a person."""


def cells(path: Path) -> tuple[Cell, ...]:
    """Return the cells of a notebook of any version, their text to the letter.

    Raises UsageError where there is no such file, ProjectError for what is no notebook, or not one in Python.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(
            f"cannot read the notebook '{path}': {error.strerror}", hint="name the .ipynb file to adopt"
        ) from error
    except UnicodeDecodeError as error:
        raise _no_notebook(path, "it is not in UTF-8") from error
    notebook = _parsed(path, text)
    about = notebook.get("metadata")
    for key, name in (("kernelspec", "language"), ("language_info", "name")):
        said = about.get(key) if isinstance(about, dict) else None
        language = said.get(name) if isinstance(said, dict) else None
        if isinstance(language, str) and language.lower() not in ("", "python", "python3", "ipython"):
            raise ProjectError(
                f"'{path}' is a notebook in {language}", hint="only notebooks in Python can be adopted"
            )
    cells = notebook.get("cells")
    if not isinstance(cells, list):
        raise _no_notebook(path, "it has no list of cells")
    return tuple(_cell(number, node) for number, node in enumerate(cells, 1))


def _parsed(path: Path, text: str) -> dict[str, Any]:
    """Return a notebook of format 4; older ones are converted. What is wrong in single cells is no matter here."""
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _no_notebook(path, str(error).partition("\n")[0][:200]) from error
    if not isinstance(notebook, dict):
        raise _no_notebook(path, "its JSON is no object")
    if "cells" in notebook or "worksheets" not in notebook:
        return notebook
    import nbformat as untyped

    nbformat: Any = untyped
    try:
        return dict(nbformat.reads(text, as_version=4))
    except Exception as error:
        raise _no_notebook(path, str(error).partition("\n")[0][:200]) from error


def _no_notebook(path: Path, why: str) -> ProjectError:
    return ProjectError(
        f"'{path}' is no notebook: {why}", hint="open it in Jupyter and save it again, or name another file"
    )


def _cell(number: int, node: Any) -> Cell:
    """Return a cell; one of an unknown type, or that is none, is kept as text that nothing runs."""
    told = node if isinstance(node, dict) else {}
    source = told.get("source", "")
    lines = source if isinstance(source, list) else [source]
    kind = told.get("cell_type")
    metadata = told.get("metadata")
    kept: dict[str, Any] = {"metadata": _metadata(metadata if isinstance(metadata, dict) else {})}
    if isinstance(told.get("id"), str):
        kept["id"] = told["id"]
    attachments = told.get("attachments")
    if isinstance(attachments, dict) and kind in ("markdown", "raw"):
        kept["attachments"] = {name: each for name, each in attachments.items() if isinstance(each, dict)}
    return Cell(
        number=number,
        kind=kind if kind in ("code", "markdown") else "raw",
        source="".join(line for line in lines if isinstance(line, str)),
        node=kept,
    )


def _metadata(said: dict[str, Any]) -> dict[str, Any]:
    """Return a cell's metadata without what earlier runs left in it."""
    return {name: value for name, value in said.items() if name not in ("execution", "papermill", "trusted")}


def beside(notebook: Path) -> Said:
    """Read the kernel-metadata.json in the notebook's folder; ProjectError for one that is none.

    Without one, what Kaggle's editor wrote into the notebook itself: it names sources by numbers alone, so
    that only the machine and the internet are told.
    """
    path = notebook.parent / METADATA
    if not path.is_file():
        return _inside(notebook)
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        lists = {
            name: tuple(map(str, said.get(f"{name}_sources") or ()))
            for name in ("competition", "dataset", "kernel", "model")
        }
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ProjectError(
            f"'{path}' is no metadata of a notebook: {error}", hint="mend it, or move it away"
        ) from error
    return Said(
        sources=Sources(
            competitions=lists["competition"],
            datasets=lists["dataset"],
            notebooks=lists["kernel"],
            models=lists["model"],
        ),
        accelerator=_accelerator(said),
        internet=_is_on(said.get("enable_internet")),
    )


def _inside(notebook: Path) -> Said:
    try:
        said = json.loads(notebook.read_text(encoding="utf-8-sig"))["metadata"]["kaggle"]
        machine = str(said.get("accelerator") or "none")
        attached = [each for each in said.get("dataSources") or () if isinstance(each, dict)]
        return Said(
            accelerator="" if machine.lower() in ("none", "cpu") else machine,
            internet=_is_on(said.get("isInternetEnabled")),
            unnamed=tuple(str(each.get("sourceType")) for each in attached),
            where="the notebook's own metadata",
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Said()


def _accelerator(said: dict[str, Any]) -> str:
    if _is_on(said.get("enable_tpu")):
        return "tpu"
    shape = str(said.get("machine_shape") or "")
    if shape.lower() in ("", "none", "cpu"):
        return "gpu" if _is_on(said.get("enable_gpu")) else ""
    return shape


def _is_on(value: object) -> bool:
    return value is True or str(value).lower() == "true"  # Kaggle's client writes both
