"""For which kit a notebook on Kaggle was rendered, and whether its datasets still hold that kit.

Kaggle mounts the newest version of a dataset, in the run of an older notebook version too: such a version
can be submitted only while its datasets hold the parts that it asks for.
"""

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from offline_kit.core.report import SILENT, Reporter
from offline_kit.kaggle.client.api_types import KaggleApi, RefusedError
from offline_kit.kaggle.push import dataset_remote
from offline_kit.kaggle.push.poll_policy import DEFAULT_POLL, PollPolicy
from offline_kit.project.kaggle_names import MARKER

_NAME = "PARTS"
_ID = re.compile(r"[0-9a-f]{64}")


def parse_part_ids(text: str) -> dict[str, str]:
    """Return the part ids, by the parts' names, that a notebook's settings ask for; empty where it is none of ours."""
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


def find_missing_parts(
    parts: Mapping[str, str],
    datasets: Iterable[str],
    kaggle: KaggleApi,
    poll_policy: PollPolicy = DEFAULT_POLL,
    report: Reporter = SILENT,
) -> dict[str, str]:
    """Return those of the parts that none of a notebook's datasets ("owner/slug") holds now.

    A dataset of ours that is still being processed is waited for; OutsideError where that takes too long.
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


def _own_part_id(kaggle: KaggleApi, ref: str, poll_policy: PollPolicy, report: Reporter) -> str:
    part = dataset_remote.inspect_dataset(kaggle, ref, poll_policy, report).part
    return part.id if part else ""


def _foreign_part_id(kaggle: KaggleApi, ref: str) -> str:
    """Return the part in a dataset of somebody else, as of a team mate; its state is not ours to wait for."""
    try:
        if not any(file.name == MARKER for file in kaggle.list_dataset_files(ref)):
            return ""
        part = dataset_remote.read_marker(kaggle, ref)
    except RefusedError as no:
        if no.status >= 500 or no.status == 429:
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
