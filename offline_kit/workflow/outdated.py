"""Find what changed in a project since its kit was built, without building and without an index."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from offline_kit.adopt import adopted_notebook
from offline_kit.core.errors import OfflineKitError
from offline_kit.core.files import sha256_of
from offline_kit.kit import layout
from offline_kit.notebook import rendering as notebook
from offline_kit.packages.freeze import freeze as freezing
from offline_kit.packages.own import loose_modules, own_code
from offline_kit.project.config import Config
from offline_kit.project.kaggle_names import split_model_name
from offline_kit.project.types import Freeze, Kit, OwnCode, Role
from offline_kit.workflow import freeze_request, model_files, part_locations, pipeline
from offline_kit.workflow.model_files import ModelFiles
from offline_kit.workflow.pipeline import BuildContext

_TAKEN = "run 'offline-kit ship' to include it"
_STOPPED = "a build would fail now: "
_SHOWN = 5


def list_changes(config: Config, kit: Kit, freeze: Freeze | None = None) -> tuple[str, ...]:
    """Return a clause for each thing that a build would take otherwise than the kit has it: "'a.pkl' changed".

    `freeze` is what a build would freeze, where that is known; else the written one is looked at. Where a build
    would stop, the clause says why. Raises nothing of ours.
    """
    try:
        return tuple(_list_changes(config, kit, freeze))
    except OfflineKitError as error:
        return (f"{_STOPPED}{error.what}",)


def describe_changes(config: Config, kit: Kit) -> tuple[str, ...]:
    """Return the same for a person who works with the existing kit: what changed, and the way to take it along.

    Nothing where neither a file nor a flag says how the kit is made: then it was made with flags, which are not known.
    """
    if config.source is None and not config.from_flags - {"dataset", "competition", "out"}:
        return ()
    changes = list_changes(config, kit)
    if changes and changes[0].startswith(_STOPPED):
        return changes
    more_words = [f"{len(changes) - _SHOWN} more changes"] if len(changes) > _SHOWN else []
    return tuple(
        f"{clause} after this kit was built: {_TAKEN}" for clause in (*changes[:_SHOWN], *more_words)
    )


def _list_changes(config: Config, kit: Kit, freeze: Freeze | None) -> Iterator[str]:
    base = pipeline.build_context(config)
    inspected = model_files.inspect_model_files(config, base.image, cache=base.cache)
    yield from _compare_files(kit, _changed_weights(inspected), (Role.CHECKPOINT, Role.PREPROCESSING))
    modules = loose_modules.find_needed_modules(
        config.project,
        config.packages,
        config.modules,
        freeze_request.configured_references(inspected.config),
    )
    own, packages = own_code.recall_own_code(
        config.project, inspected.config.packages, modules, base.image, base.settings, cache=base.cache
    )
    loose = {f"code/{file.original}": (file.original, sha256_of(file.path)) for file in own.sources}
    yield from _compare_files(kit, loose, (Role.SOURCE,))
    kit_hashes = {entry.sha256 for part in kit.parts for entry in part.entries}
    packages += tuple(wheel.name for wheel in own.wheels if wheel.sha256 not in kit_hashes)
    yield from (f"the package '{name}' changed" for name in packages)
    if not packages and not _is_same_freeze(inspected, base, own, kit, freeze):
        yield "what the requirements ask for changed"
    if pipeline.is_split(inspected) == any(part.name == "kit" for part in kit.parts):
        yield "the division into `parts` changed"
    if not _is_same_notebook(inspected, base, kit):
        yield "the notebook's configuration, template or code changed"


def _changed_weights(inspected: ModelFiles) -> dict[str, tuple[str, str]]:
    names = layout.name_checkpoints(inspected.checkpoints)
    files = {
        names[checkpoint.original]: (checkpoint.original, checkpoint.sha256)
        for checkpoint in inspected.checkpoints
    }
    return files | {
        f"checkpoints/preprocessing/{checkpoint.original}": (checkpoint.original, checkpoint.sha256)
        for checkpoint in inspected.preprocessing
    }


def _compare_files(kit: Kit, current: dict[str, tuple[str, str]], roles: Sequence[Role]) -> Iterator[str]:
    """Compare files by their names in the kit; `current` gives what a person calls them, and their digests."""
    entries = (entry for part in kit.parts for entry in part.entries if entry.role in roles)
    before = {entry.original: entry.sha256 for entry in entries}
    for name in sorted(before.keys() | current.keys()):
        if name not in current:
            yield f"'{name}' was deleted"
        elif name not in before:
            yield f"'{current[name][0]}' was added"
        elif before[name] != current[name][1]:
            yield f"'{current[name][0]}' changed"


def _is_same_freeze(
    inspected: ModelFiles, base: BuildContext, own: OwnCode, kit: Kit, freeze: Freeze | None
) -> bool:
    if base.chained:
        return True  # frozen on Kaggle: a build looks after that
    try:
        text = (kit.folder / "requirements.txt").read_text(encoding="utf-8")
        if freeze:
            return freeze.text == text
        written = inspected.config.lock.read_text(encoding="utf-8")
    except OSError:
        return False
    names = tuple(wheel.name for wheel in own.wheels)
    return written == text and freezing.is_freeze_current(
        freeze_request.build_freeze_request(inspected, own), base.image, names
    )


def _is_same_notebook(inspected: ModelFiles, base: BuildContext, kit: Kit) -> bool:
    config = inspected.config
    target = replace(
        model_files.notebook_target(config, inspected), part_locations=part_locations.part_locations(config)
    )
    rendered = adopted_notebook.render_notebook(kit, config.notebook, base.image, target)
    folder = kit.folder / "notebook"
    try:
        text = (folder / notebook.CODE_FILE).read_text(encoding="utf-8")
        metadata = json.loads((folder / notebook.METADATA_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return (rendered.text, _without_model_version(rendered.metadata, config)) == (
        text,
        _without_model_version(metadata, config),
    )


def _without_model_version(metadata: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Leave out the version of our own model: a push writes it there."""
    _, slug, variation = split_model_name(config.publish_model) if config.publish_model else ("", "", "")
    own_model = f"/{slug}/{variation}/"
    models = (str(source) for source in metadata.get("model_sources") or ())
    return {**metadata, "model_sources": [source for source in models if not (slug and own_model in source)]}
