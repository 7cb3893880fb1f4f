"""The notebook that is adopted, and what lies beside it: its cells and its kernel-metadata.json."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offline_kit.adopt.findings import AttachedSources, NotebookCell
from offline_kit.core.errors import ProjectError, UsageError

METADATA = "kernel-metadata.json"


@dataclass(frozen=True, kw_only=True)
class NotebookMetadata:
    """What the kernel-metadata.json beside a notebook says; all empty where there is none."""

    sources: AttachedSources = field(default_factory=AttachedSources)
    """What is attached."""
    accelerator: str = ""
    """The machine shape, or "gpu", or "tpu"; empty for the CPU."""
    internet: bool = False
    """Whether the internet was on."""
    unnamed: tuple[str, ...] = ()
    """Kinds of what is attached by number alone: "competition", "datasetVersion", ..."""
    source: str = METADATA
    """What says it, for a person."""


def read_cells(path: Path) -> tuple[NotebookCell, ...]:
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
        raise _invalid_notebook(path, "it is not in UTF-8") from error
    notebook = _parse_notebook(path, text)
    metadata = notebook.get("metadata")
    for key, name in (("kernelspec", "language"), ("language_info", "name")):
        section = metadata.get(key) if isinstance(metadata, dict) else None
        language = section.get(name) if isinstance(section, dict) else None
        if isinstance(language, str) and language.lower() not in ("", "python", "python3", "ipython"):
            raise ProjectError(
                f"'{path}' is a notebook in {language}", hint="only notebooks in Python can be adopted"
            )
    cells = notebook.get("cells")
    if not isinstance(cells, list):
        raise _invalid_notebook(path, "it has no list of cells")
    return tuple(_read_cell(number, node) for number, node in enumerate(cells, 1))


def _parse_notebook(path: Path, text: str) -> dict[str, Any]:
    """Return a notebook of format 4; older ones are converted. What is wrong in single cells is no matter here."""
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _invalid_notebook(path, str(error).partition("\n")[0][:200]) from error
    if not isinstance(notebook, dict):
        raise _invalid_notebook(path, "its JSON is no object")
    if "cells" in notebook or "worksheets" not in notebook:
        return notebook
    import nbformat as untyped

    nbformat: Any = untyped
    try:
        return dict(nbformat.reads(text, as_version=4))
    except Exception as error:
        raise _invalid_notebook(path, str(error).partition("\n")[0][:200]) from error


def _invalid_notebook(path: Path, why: str) -> ProjectError:
    return ProjectError(
        f"'{path}' is no notebook: {why}", hint="open it in Jupyter and save it again, or name another file"
    )


def _read_cell(number: int, node: Any) -> NotebookCell:
    """Return a cell; one of an unknown type, or that is none, is kept as text that nothing runs."""
    fields = node if isinstance(node, dict) else {}
    source = fields.get("source", "")
    lines = source if isinstance(source, list) else [source]
    kind = fields.get("cell_type")
    metadata = fields.get("metadata")
    extras: dict[str, Any] = {"metadata": _clean_metadata(metadata if isinstance(metadata, dict) else {})}
    if isinstance(fields.get("id"), str):
        extras["id"] = fields["id"]
    attachments = fields.get("attachments")
    if isinstance(attachments, dict) and kind in ("markdown", "raw"):
        extras["attachments"] = {name: data for name, data in attachments.items() if isinstance(data, dict)}
    return NotebookCell(
        number=number,
        kind=kind if kind in ("code", "markdown") else "raw",
        source="".join(line for line in lines if isinstance(line, str)),
        node=extras,
    )


def _clean_metadata(said: dict[str, Any]) -> dict[str, Any]:
    """Return a cell's metadata without what earlier runs left in it."""
    return {name: value for name, value in said.items() if name not in ("execution", "papermill", "trusted")}


def read_metadata(notebook: Path) -> NotebookMetadata:
    """Read the kernel-metadata.json in the notebook's folder; ProjectError for one that is none.

    Without one, what Kaggle's editor wrote into the notebook itself: it names sources by numbers alone, so
    that only the machine and the internet are told.
    """
    path = notebook.parent / METADATA
    if not path.is_file():
        return _read_own_metadata(notebook)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        lists = {
            name: tuple(map(str, document.get(f"{name}_sources") or ()))
            for name in ("competition", "dataset", "kernel", "model")
        }
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ProjectError(
            f"'{path}' is no metadata of a notebook: {error}", hint="mend it, or move it away"
        ) from error
    return NotebookMetadata(
        sources=AttachedSources(
            competitions=lists["competition"],
            datasets=lists["dataset"],
            notebooks=lists["kernel"],
            models=lists["model"],
        ),
        accelerator=_read_accelerator(document),
        internet=_is_true(document.get("enable_internet")),
    )


def _read_own_metadata(notebook: Path) -> NotebookMetadata:
    try:
        document = json.loads(notebook.read_text(encoding="utf-8-sig"))["metadata"]["kaggle"]
        machine = str(document.get("accelerator") or "none")
        attached = [source for source in document.get("dataSources") or () if isinstance(source, dict)]
        return NotebookMetadata(
            accelerator="" if machine.lower() in ("none", "cpu") else machine,
            internet=_is_true(document.get("isInternetEnabled")),
            unnamed=tuple(str(source.get("sourceType")) for source in attached),
            source="the notebook's own metadata",
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return NotebookMetadata()


def _read_accelerator(said: dict[str, Any]) -> str:
    if _is_true(said.get("enable_tpu")):
        return "tpu"
    shape = str(said.get("machine_shape") or "")
    if shape.lower() in ("", "none", "cpu"):
        return "gpu" if _is_true(said.get("enable_gpu")) else ""
    return shape


def _is_true(value: object) -> bool:
    return value is True or str(value).lower() == "true"  # Kaggle's client writes both
