"""The members of an ensemble whose files lie in other sources than the kit.

This file is part of offline-kit and is pasted into the notebooks that it renders.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from offline_kit.notebook.runtime.kit_ensemble import Member
from offline_kit.notebook.runtime.kit_runtime import OpenKit
from offline_kit.notebook.runtime.kit_sources import source_files


def attached(
    members: Sequence[Mapping[str, Any]], kit: OpenKit, params: Mapping[str, Any] | None = None
) -> list[Member]:
    """Return the members with their files found: in the kit, or in the dataset, notebook or model that is named.

    A pattern that names several files of a source makes as many members. Raises KitError for a source that
    is not attached, and for files that are not what they were when the kit was built.
    """
    found = []
    for each in members:
        said = dict(each) | {"shared": params or {}}
        source, path, known = said.pop("source", ""), said.pop("path"), said.pop("known", {})
        if not source:
            found.append(Member(**said, path=kit.folder / path))
            continue
        files = source_files(source, path, kit.places.inputs, known, scratch=kit.places.scratch)
        for file in files:
            name = said["name"] if len(files) == 1 else file.name
            found.append(Member(**{**said, "name": name}, path=file))
    return found
