"""Lay out /kaggle/input for a rehearsal: the kit as Kaggle changes it, and the competition's data."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_kit.core import files
from offline_kit.core.errors import ProjectError
from offline_kit.core.sandboxes.box import Mount
from offline_kit.notebook.runtime import kit_rows, kit_submission
from offline_kit.notebook.runtime.kit_runtime import REHEARSED_COMPETITION, KitError
from offline_kit.project import kaggle_names, kaggle_rules
from offline_kit.project.types import KitPart
from offline_kit.rehearsal.request import RehearsalRequest


@dataclass(frozen=True, kw_only=True)
class MountedInputs:
    """The mounts of a rehearsal."""

    mounts: tuple[Mount, ...]
    """In the order to mount them: /kaggle/input itself, its folders, then what covers files of those."""
    sample: Path | None  # the sample submission, cut to the requested number of rows
    notes: tuple[str, ...]
    data: str = ""  # path of the competition's data in the sandbox; empty if it is not mounted


def lay_out_inputs(
    request: RehearsalRequest,
    metadata: Mapping[str, Any],
    folder: Path,
    *,
    added_folders: Mapping[str, Path] | None = None,
) -> MountedInputs:
    """Create /kaggle/input in `folder` and return its mounts; the data itself is never copied.

    The sources in `metadata`, the notebook's kernel-metadata.json, give the names of the mounts. `added_folders` are
    added to the competition's mount, by name. Raises ProjectError if Kaggle would refuse the kit's files, or if the data
    is not a folder.
    """
    folder.mkdir(parents=True)
    mounts = [Mount(inside="/kaggle/input", source=folder), *_mount_kit(request, folder)]
    notes = _mount_attached(request, metadata, folder, mounts)
    data, sample = request.competition_data, request.sample_submission
    if data is None:
        notes.append(
            "no competition data is mounted: set `competition_data` to a local copy of it, or of a part"
        )
        return MountedInputs(mounts=tuple(mounts), sample=sample, notes=tuple(notes))
    if not data.is_dir():
        raise ProjectError(
            f"the competition's data '{data}' is not a folder",
            hint="set `competition_data` to a folder",
            code="competition-data-not-found",
        )
    slug = request.competition or next(iter(metadata.get("competition_sources") or ()), "")
    if not slug:
        slug = REHEARSED_COMPETITION
        notes.append(f"no competition is configured: its data is mounted as '{slug}'")
    mount_path = f"competitions/{slug}" if request.layout == "new" else slug
    inside = f"/kaggle/input/{mount_path}"
    if added_folders:
        # A read-only mount takes no new entries, so each entry of the data is mounted by itself.
        entries = {path.name: path for path in sorted(data.iterdir()) if path.exists()} | dict(added_folders)
        mounts += [mount_input(folder, f"{mount_path}/{name}", path) for name, path in entries.items()]
    else:
        mounts.append(mount_input(folder, mount_path, data))
    # Absolute links in the data work in the sandbox only if their targets are at the same path there.
    links = [path for path in data.iterdir() if path.is_symlink() and path.readlink().is_absolute()]
    targets = {path.readlink() for path in links if path.exists()}
    mounts += [Mount(inside=str(target), source=target.resolve()) for target in sorted(targets)]
    sample = sample or kit_submission.find_sample(data)
    if request.rows is not None:
        cut_folder = files.make_folder(folder.with_name("cut"))
        try:
            covers, sample = kit_rows.cut_rows(data, sample, request.rows, cut_folder, files.link_or_copy)
        except KitError as error:
            raise ProjectError(error.what, hint=error.hint, code=error.code, details=error.details) from error
        mounts += [Mount(inside=f"{inside}/{path.name}", source=path) for path in covers]
        names = ", ".join(path.name for path in covers)
        nothing = "nothing, because there is no test*.csv, test* folder or sample"
        notes.append(f"test set of {request.rows} rows: {names or nothing}")
    return MountedInputs(mounts=tuple(mounts), sample=sample, notes=tuple(notes), data=inside)


def mount_input(folder: Path, path: str, source: Path) -> Mount:
    """Return the mount of a file or folder at `path` below /kaggle/input, and create its mount point in `folder`."""
    point = folder / path
    point.parent.mkdir(parents=True, exist_ok=True)
    point.mkdir(exist_ok=True) if source.is_dir() else point.touch()
    return Mount(inside=f"/kaggle/input/{path}", source=source.resolve())


def _mount_kit(request: RehearsalRequest, folder: Path) -> list[Mount]:
    """Mount every part of the kit."""
    mounts = []
    for part in request.kit.parts:
        part_folder = request.kit.part_folder(part)
        if part_source := request.part_sources.get(part.name):
            # Kaggle mounts outputs of notebooks and models unchanged.
            source = kaggle_names.parse_source(part_source)
            mounts.append(mount_input(folder, source.mount_path(request.layout), part_folder))
            continue
        owner, _, slug = _name_dataset(request, part).rpartition("/")
        mount_path = Path("datasets", owner or "you", slug) if request.layout == "new" else Path(slug)
        # Kaggle unpacks and renames files of datasets.
        kaggle_rules.apply_upload_rules(part_folder, folder / mount_path)
    return mounts


def _name_dataset(request: RehearsalRequest, part: KitPart) -> str:
    dataset = request.dataset or "offline-kit"
    return dataset if len(request.kit.parts) == 1 or part.name == "kit" else f"{dataset}-{part.name}"


def _mount_attached(
    request: RehearsalRequest, metadata: Mapping[str, Any], folder: Path, mounts: list[Mount]
) -> list[str]:
    """Mount local copies of the other attached sources; return a note for each source without a copy."""
    part_sources = set(request.part_sources.values())
    own_sources = {f"dataset:{_name_dataset(request, part)}" for part in request.kit.parts} | part_sources
    own_models = {_strip_version(source) for source in part_sources if source.startswith("model:")}
    notes = []
    for source in kaggle_names.list_attached_sources(metadata):
        if str(source) in own_sources or _strip_version(str(source)) in own_models:
            continue
        copy = request.copies.get(str(source))
        if copy is None:
            notes.append(
                f"'{source.ref}' is attached to the notebook, but has no local copy to mount:"
                f" set one for '{source}' in `copies`"
            )
        elif copy.is_dir():
            mounts.append(mount_input(folder, source.mount_path(request.layout), copy))
        else:
            raise ProjectError(
                f"the local copy of '{source}', '{copy}', is not a folder",
                hint="fix its path in `copies`",
                code="source-copy-not-found",
            )
    return notes


def _strip_version(model: str) -> str:
    """Return a model's reference without owner and version, which only the push adds."""
    return model.partition("/")[2].rpartition("/")[0]
