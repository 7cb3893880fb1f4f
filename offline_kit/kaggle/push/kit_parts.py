"""Which kit parts a notebook needs, and which datasets, models and notebook outputs hold them.

Kaggle mounts the newest version of a dataset even for an older notebook version, which can therefore
be submitted only while its datasets hold the parts that it needs.
"""

import ast
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from offline_kit.core.errors import ProjectError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.kaggle.client.api_types import NotebookSources, RefusedError
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.push import push_datasets
from offline_kit.kaggle.push.poll_policy import DEFAULT_POLL, PollPolicy
from offline_kit.kit import manifest
from offline_kit.project.kaggle_names import MARKER
from offline_kit.project.types import KitPart

_NAME = "PARTS"
_ID = re.compile(r"[0-9a-f]{64}")


def parse_part_ids(text: str) -> dict[str, str]:
    """Return the part ids that a notebook needs, by part name; empty if the notebook is not ours."""
    for cell in _iterate_code_cells(text):
        if _NAME not in cell:
            continue
        try:
            statements = ast.parse(cell).body
        except (SyntaxError, ValueError, RecursionError):
            continue
        for statement in statements:
            if part_ids := _parse_part_assignment(statement):
                return part_ids
    return {}


def find_missing_in_datasets(
    parts: Mapping[str, str],
    datasets: Iterable[str],
    kaggle: KaggleClient,
    poll_policy: PollPolicy = DEFAULT_POLL,
    report: Reporter = SILENT,
) -> dict[str, str]:
    """Return the parts that none of a notebook's datasets ("owner/slug") holds.

    Waits for own datasets that are being processed; raises OutsideError if that takes too long.
    """
    missing_ids = dict(parts)
    username = kaggle.fetch_account().username.lower()
    for ref in datasets:
        if not missing_ids:
            break
        held_id = (
            _own_part_id(kaggle, ref, poll_policy, report)
            if _owner_of(ref) == username
            else _foreign_part_id(kaggle, ref)
        )
        missing_ids = {name: part_id for name, part_id in missing_ids.items() if part_id != held_id}
    return missing_ids


def _own_part_id(kaggle: KaggleClient, ref: str, poll_policy: PollPolicy, report: Reporter) -> str:
    part = push_datasets.inspect_dataset(kaggle, ref, poll_policy, report).part
    return part.id if part else ""


def _foreign_part_id(kaggle: KaggleClient, ref: str) -> str:
    """Return the part in someone else's dataset, such as a teammate's, without waiting for it."""
    try:
        if not any(file.name == MARKER for file in kaggle.list_dataset_files(ref)):
            return ""
        part = push_datasets.read_marker(kaggle, ref)
    except RefusedError as refusal:
        if refusal.is_temporary:
            raise
        return ""
    return part.id if part else ""


def _owner_of(ref: str) -> str:
    return ref.partition("/")[0].lower()


def _iterate_code_cells(text: str) -> Iterator[str]:
    try:
        cells = json.loads(text)["cells"]
        for cell in cells:
            if cell.get("cell_type") == "code":
                source = cell.get("source", "")
                yield source if isinstance(source, str) else "".join(source)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return


def _parse_part_assignment(statement: ast.stmt) -> dict[str, str]:
    if not isinstance(statement, ast.Assign):
        return {}
    if not any(isinstance(target, ast.Name) and target.id == _NAME for target in statement.targets):
        return {}
    try:
        value: Any = ast.literal_eval(statement.value)
    except (ValueError, TypeError, RecursionError):
        return {}
    is_part_table = isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(part_id, str) and _ID.fullmatch(part_id)
        for name, part_id in value.items()
    )
    return value if is_part_table else {}


_MAX_MARKER = 64 << 20
_WORDS = 5  # segments of an attached model: owner/model/framework/variation/version
_BACK = 20  # maximum number of versions without output to skip


def read_model_part(kaggle: KaggleClient, ref: str, version: int) -> KitPart | None:
    """Return the part in a version of "owner/model/framework/variation", None if it holds none."""
    if not any(file.name == MARKER for file in kaggle.list_model_files(ref, version)):
        return None
    return _read_marker(
        ref, lambda target_path: kaggle.download_model_file(ref, version, MARKER, target_path)
    )


def read_notebook_part(kaggle: KaggleClient, ref: str) -> KitPart | None:
    """Return the part in the output of "owner/slug" that is attached, None if it holds none."""
    notebook = kaggle.get_notebook(ref)
    version = find_attached_version(kaggle, ref, notebook.newest_version) if notebook else 0
    return read_output_part(kaggle, ref, version) if version else None


def read_output_part(kaggle: KaggleClient, ref: str, version: int) -> KitPart | None:
    """Return the part in the output of a version of "owner/slug", None if it holds none."""
    if MARKER not in kaggle.list_run_outputs(ref, version):
        return None
    return _read_marker(
        ref, lambda target_path: kaggle.download_run_output(ref, version, MARKER, target_path)
    )


def find_attached_version(kaggle: KaggleClient, ref: str, newest: int) -> int:
    """Return the version of "owner/slug" whose output is mounted: the newest with a complete run; 0 for none."""
    for version in range(newest, max(0, newest - _BACK), -1):
        run = kaggle.get_notebook_run(ref, version)
        if run and run.state == "complete":
            return version
    return 0


def find_missing_elsewhere(
    part_ids: Mapping[str, str], sources: NotebookSources, kaggle: KaggleClient
) -> dict[str, str]:
    """Return the parts (id by name) that neither models nor notebooks among the sources hold."""
    missing_ids = dict(part_ids)
    readers: list[Callable[[], KitPart | None]] = []
    for source in sources.models:
        *words, version = source.split("/")
        if len(words) == _WORDS - 1 and version.isdecimal():
            readers.append(partial(read_model_part, kaggle, "/".join(words), int(version)))
    for source in sources.notebooks:
        readers.append(partial(read_notebook_part, kaggle, "/".join(source.split("/")[:2])))
    for read_part in readers:
        part = read_part() if missing_ids else None
        if part and missing_ids.get(part.name) == part.id:
            del missing_ids[part.name]
    return missing_ids


def _read_marker(ref: str, fetch: Callable[[Path], int]) -> KitPart | None:
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as folder:
        path = Path(folder) / MARKER
        try:
            if fetch(path) > _MAX_MARKER:
                return None
            return manifest.parse_manifest(path.read_text(encoding="utf-8"), f"{ref}/{MARKER}")
        except (ProjectError, UnicodeDecodeError):
            return None
        except RefusedError as refusal:
            if refusal.status != 404:
                raise
            return None  # listed, but not downloadable yet
