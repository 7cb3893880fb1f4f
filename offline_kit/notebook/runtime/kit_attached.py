"""Ensemble members whose files are in other sources than the kit.

This file is part of offline-kit and is pasted into the notebooks that it renders.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from offline_kit.notebook.runtime.kit_ensemble import EnsembleMember
from offline_kit.notebook.runtime.kit_runtime import OpenKit
from offline_kit.notebook.runtime.kit_sources import find_source_files


def attach_members(
    members: Sequence[Mapping[str, Any]], kit: OpenKit, params: Mapping[str, Any] | None = None
) -> list[EnsembleMember]:
    """Return the members with their files found: in the kit, or in the dataset, notebook or model that is named.

    A pattern that names several files of a source makes as many members. Raises KitError for a source that
    is not attached, and for files that are not what they were when the kit was built.
    """
    attached_members = []
    for entry in members:
        fields = dict(entry) | {"shared": params or {}}
        source, path, known_files = fields.pop("source", ""), fields.pop("path"), fields.pop("known", {})
        if not source:
            attached_members.append(EnsembleMember(**fields, path=kit.folder / path))
            continue
        files = find_source_files(source, path, kit.places.inputs, known_files, scratch=kit.places.scratch)
        for file in files:
            name = fields["name"] if len(files) == 1 else file.name
            attached_members.append(EnsembleMember(**{**fields, "name": name}, path=file))
    return attached_members
