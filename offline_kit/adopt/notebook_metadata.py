"""Read a notebook or script to adopt: its cells, and its kernel-metadata.json or own metadata."""

import ast
import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offline_kit.adopt.findings import AttachedSources, NotebookCell
from offline_kit.core.errors import OfflineKitError, ProjectError, UsageError
from offline_kit.notebook import cells as magics
from offline_kit.project.accelerators import find_machine_shape

METADATA = "kernel-metadata.json"
_RUN_TRACES = frozenset({"execution", "papermill", "trusted"})
"""Keys of a cell's metadata that earlier runs leave."""
_R_SUFFIXES = (".r", ".rmd", ".irnb")
_MAX_SHOWN = 5  # lines in a message


@dataclass(frozen=True, kw_only=True)
class NotebookMetadata:
    """What a notebook's kernel-metadata.json says; empty if there is none."""

    sources: AttachedSources = field(default_factory=AttachedSources)
    accelerator: str = ""  # a machine shape, "gpu" or "tpu"; empty for the CPU
    internet: bool = False
    unnamed: tuple[str, ...] = ()
    """Kinds of sources attached by number, without a name: "competition", "datasetVersion", ..."""
    source: str = METADATA

    @property
    def known_accelerator(self) -> str:
        """The accelerator as it is stated, if Kaggle has a machine for it; else empty, as for the CPU."""
        try:
            return self.accelerator if find_machine_shape(self.accelerator) else ""
        except OfflineKitError:
            return ""


def read_cells(path: Path) -> tuple[NotebookCell, ...]:
    """Return the cells of a notebook of any format version; a script, with percent cells or without, is one cell.

    Raises:
        UsageError: There is no such file.
        ProjectError: The file is not a notebook or script, or not one in Python.
    """
    if path.suffix.lower() in _R_SUFFIXES:
        raise _foreign_language(path, "R")
    text = _read_source(path)
    if path.suffix == ".py":
        _check_script(path, text)
        return (NotebookCell(number=1, kind="code", source=text),)
    try:
        notebook = _as_table(json.loads(text))
        if "worksheets" in notebook and "cells" not in notebook:
            import nbformat as untyped

            nbformat: Any = untyped
            notebook = dict(nbformat.reads(text, as_version=4))
    except Exception as error:  # of nbformat's conversion, which fails in its own ways
        raise _invalid_notebook(path, str(error)) from error
    metadata = _as_table(notebook.get("metadata"))
    for key, name in (("kernelspec", "language"), ("language_info", "name")):
        language = _as_table(metadata.get(key)).get(name)
        if isinstance(language, str) and language.lower() not in ("", "python", "python3", "ipython"):
            raise _foreign_language(path, language)
    cells = notebook.get("cells")
    if not isinstance(cells, list):
        raise _invalid_notebook(path, "it has no list of cells")
    return tuple(_read_cell(number, _as_table(node)) for number, node in enumerate(cells, 1))


def _read_source(path: Path) -> str:
    """Return the text of a file with its own ends of lines."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(
            f"cannot read the notebook '{path}': {error.strerror}",
            hint="name the .ipynb or .py file to adopt",
            code="notebook-not-found",
        ) from error
    except ValueError as error:
        raise _invalid_notebook(path, str(error)) from error


def _check_script(path: Path, text: str) -> None:
    """Raise ProjectError for a script that Python cannot run, such as one with magics."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in the user's strings
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        cell = magics.parse_cell(text)
        numbers = [cell.line_number(magic.start) for magic in cell.magics]
        is_magic = bool(numbers) and (cell.parse_tree() is not None or getattr(error, "lineno", 0) in numbers)
        if not is_magic:
            line = f"line {error.lineno}: " if isinstance(error, SyntaxError) and error.lineno else ""
            raise ProjectError(
                f"'{path}' is not valid Python: {line}{getattr(error, 'msg', error)}",
                hint="fix it; syntax that is newer than the Python of offline-kit needs offline-kit on a newer Python",
                code="script-invalid",
            ) from error
        lines = [f"line {cell.line_number(magic.start)}: {magic.sign}{magic.text}" for magic in cell.magics]
        raise ProjectError(
            f"'{path}' has magics or shell lines, which are no Python: as a script it fails on Kaggle",
            hint=f"adopt it as a notebook (jupytext --to ipynb {path.name}), or call subprocess.run instead",
            code="script-has-magics",
            details=lines[:_MAX_SHOWN] + [f"and {len(lines) - _MAX_SHOWN} more"] * (len(lines) > _MAX_SHOWN),
        ) from error


def _foreign_language(path: Path, language: str) -> ProjectError:
    return ProjectError(
        f"'{path}' is in {language}",
        hint="only notebooks and scripts in Python can be adopted",
        code="notebook-not-python",
    )


def _as_table(value: Any) -> dict[str, Any]:
    """Return a value of untrusted JSON if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def _invalid_notebook(path: Path, reason: str) -> ProjectError:
    return ProjectError(
        f"'{path}' is not a notebook: {reason.partition(chr(10))[0][:200]}",
        hint="open it in Jupyter and save it again, or name another file",
        code="notebook-invalid",
    )


def _read_cell(number: int, fields: dict[str, Any]) -> NotebookCell:
    """Return a cell; unknown types become raw cells."""
    source, kind = fields.get("source", ""), fields.get("cell_type")
    lines = source if isinstance(source, list) else [source]
    metadata = _as_table(fields.get("metadata")).items()
    extras: dict[str, Any] = {"metadata": {key: value for key, value in metadata if key not in _RUN_TRACES}}
    if isinstance(fields.get("id"), str):
        extras["id"] = fields["id"]
    attachments = fields.get("attachments")
    if isinstance(attachments, dict) and kind in ("markdown", "raw"):
        extras["attachments"] = {name: data for name, data in attachments.items() if isinstance(data, dict)}
    kind = kind if kind in ("code", "markdown") else "raw"
    text = "".join(line for line in lines if isinstance(line, str))
    return NotebookCell(number=number, kind=kind, source=text, node=extras)


def read_metadata(notebook: Path) -> NotebookMetadata:
    """Read the kernel-metadata.json in the notebook's folder, else the metadata in the notebook itself.

    Kaggle's editor writes sources into the notebook by number only, so they have no names there.

    Raises:
        ProjectError: The kernel-metadata.json is invalid.
    """
    # https://github.com/Kaggle/kaggle-api/blob/main/docs/kernels_metadata.md
    path = notebook.parent / METADATA
    if not path.is_file():
        return _read_own_metadata(notebook)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        sources = AttachedSources()
        for kind, name in (("competition",) * 2, ("dataset",) * 2, ("notebook", "kernel"), ("model",) * 2):
            sources = sources.add(kind, *map(str, document.get(f"{name}_sources") or ()))
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ProjectError(
            f"'{path}' is not valid kernel metadata: {error}",
            hint="fix it, or move it away",
            code="kernel-metadata-invalid",
        ) from error
    shape = str(document.get("machine_shape") or "none")
    if _is_true(document.get("enable_tpu")):
        shape = "tpu"
    elif shape.lower() in ("none", "cpu"):
        shape = "gpu" if _is_true(document.get("enable_gpu")) else ""
    internet = _is_true(document.get("enable_internet"))
    return NotebookMetadata(sources=sources, accelerator=shape, internet=internet)


def _read_own_metadata(notebook: Path) -> NotebookMetadata:
    try:
        document = json.loads(notebook.read_text(encoding="utf-8-sig"))["metadata"]["kaggle"]
        machine = str(document.get("accelerator") or "none")
        attached = [source for source in document.get("dataSources") or () if isinstance(source, dict)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return NotebookMetadata()
    return NotebookMetadata(
        accelerator="" if machine.lower() in ("none", "cpu") else machine,
        internet=_is_true(document.get("isInternetEnabled")),
        unnamed=tuple(str(source.get("sourceType")) for source in attached),
        source="the notebook's own metadata",
    )


def _is_true(value: object) -> bool:
    return value is True or str(value).lower() == "true"  # Kaggle's client writes booleans and strings
