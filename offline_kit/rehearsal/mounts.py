"""Lay out /kaggle/input for a rehearsal: the kit as Kaggle changes it, and the competition's data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offline_kit.core import files
from offline_kit.core.errors import ProjectError, UsageError
from offline_kit.core.sandboxes.box import Mount
from offline_kit.notebook.runtime import kit_rows
from offline_kit.notebook.runtime.kit_runtime import REHEARSED_COMPETITION, KitError
from offline_kit.project import kaggle_rules, kaggle_sources
from offline_kit.project.config_keys import LAYOUTS
from offline_kit.project.kaggle_sources import KaggleSource
from offline_kit.project.types import Kit, KitPart


@dataclass(frozen=True, kw_only=True)
class MountedInputs:
    """The mounts of a rehearsal."""

    mounts: tuple[Mount, ...]
    """In the order to mount them: /kaggle/input itself, its folders, then what covers files of those."""
    sample: Path | None
    """The sample submission, cut to the requested number of rows."""
    notes: tuple[str, ...]
    data: str = ""
    """Where the competition's data is mounted; empty if it is not."""


@dataclass(frozen=True, kw_only=True)
class MountRequest:
    """What to mount, and how."""

    kit: Kit
    metadata: Mapping[str, Any]
    """kernel-metadata.json of the notebook: its sources give the names of the mounts."""
    dataset: str
    """"slug" or "owner/slug" of the kit's dataset; a split kit appends the part's name. Empty: any."""
    competition: str
    """Slug; empty: the first competition of the metadata."""
    data: Path | None
    sample: Path | None
    """The user's sample submission; None: look for one in the data."""
    layout: str = "new"
    rows: int | None = None
    """Rows of the test set, repeated under new ids if there are fewer; None: all of them."""
    copies: Mapping[str, Path] = field(default_factory=dict)
    """Local copies of other sources, by "dataset:owner/slug", "notebook:owner/slug" or "model:..."."""
    part_sources: Mapping[str, str] = field(default_factory=dict)
    """Sources of the parts that are not datasets, by part: "notebook:owner/slug" or "model:..."."""
    added_folders: Mapping[str, Path] = field(default_factory=dict)
    """Folders to add to the competition's mount, by name."""


def lay_out_inputs(request: MountRequest, folder: Path) -> MountedInputs:
    """Create /kaggle/input in `folder` and return its mounts; the data itself is never copied.

    Raises:
        ProjectError: Kaggle would refuse the kit's files, or the data is not a folder.

    """
    if request.layout not in LAYOUTS:
        raise UsageError(
            f"unknown layout '{request.layout}'",
            hint=f"use one of {', '.join(LAYOUTS)}",
            code="unknown-layout",
        )
    folder.mkdir(parents=True)
    parts = _mount_kit(request, folder)
    other_mounts, notes = _mount_attached(request, folder)
    mounts = [Mount(inside="/kaggle/input", source=folder), *parts, *other_mounts]
    sample = request.sample
    if request.data is None:
        notes.append(
            "no competition data is mounted: set `competition_data` to a local copy of it, or of a part"
        )
        return MountedInputs(mounts=tuple(mounts), sample=sample, notes=tuple(notes))
    if not request.data.is_dir():
        raise ProjectError(
            f"the competition's data '{request.data}' is not a folder",
            hint="set `competition_data` to a folder",
            code="competition-data-not-found",
        )
    slug = request.competition or next(iter(request.metadata.get("competition_sources") or ()), "")
    if not slug:
        slug = REHEARSED_COMPETITION
        notes.append(f"no competition is configured: its data is mounted as '{slug}'")
    mount_path = f"competitions/{slug}" if request.layout == "new" else slug
    (folder / mount_path).mkdir(parents=True, exist_ok=True)
    inside = f"/kaggle/input/{mount_path}"
    mounts += (
        _mount_entries(request.data, request.added_folders, folder / mount_path, inside)
        if request.added_folders
        else [Mount(inside=inside, source=request.data.resolve())]
    )
    mounts += _mount_link_targets(request.data)
    sample = sample or find_sample(request.data)
    if request.rows is not None:
        covers, sample = _cut_test_rows(request.data, sample, request.rows, folder.with_name("cut"))
        mounts += [Mount(inside=f"{inside}/{path.name}", source=path) for path in covers]
        cut = (
            ", ".join(path.name for path in covers)
            or "nothing, because there is no test*.csv, test* folder or sample"
        )
        notes.append(f"test set of {request.rows} rows: {cut}")
    return MountedInputs(mounts=tuple(mounts), sample=sample, notes=tuple(notes), data=inside)


def _mount_kit(request: MountRequest, folder: Path) -> list[Mount]:
    """Mount every part of the kit; datasets are changed as Kaggle changes them."""
    mounts = []
    for part in request.kit.parts:
        if part_source := request.part_sources.get(part.name):
            # Kaggle mounts outputs of notebooks and models unchanged, unlike datasets.
            mounts.append(
                _mount_source(
                    request.kit.part_folder(part),
                    kaggle_sources.parse_source(part_source),
                    request.layout,
                    folder,
                )
            )
            continue
        owner, _, slug = _name_dataset(request, part).rpartition("/")
        mount_path = Path("datasets", owner or "you", slug) if request.layout == "new" else Path(slug)
        kaggle_rules.apply_upload_rules(request.kit.part_folder(part), folder / mount_path)
    return mounts


def _name_dataset(request: MountRequest, part: KitPart) -> str:
    dataset = request.dataset or "offline-kit"
    return dataset if len(request.kit.parts) == 1 or part.name == "kit" else f"{dataset}-{part.name}"


def _mount_source(copy: Path, source: KaggleSource, layout: str, folder: Path) -> Mount:
    mount_path = source.mount_path(layout)
    (folder / mount_path).mkdir(parents=True, exist_ok=True)
    return Mount(inside=f"/kaggle/input/{mount_path}", source=copy.resolve())


def _mount_attached(request: MountRequest, folder: Path) -> tuple[list[Mount], list[str]]:
    """Return mounts of local copies of the other attached sources, and a note for each source without a copy."""
    own_sources = {f"dataset:{_name_dataset(request, part)}" for part in request.kit.parts} | set(
        request.part_sources.values()
    )
    own_models = {_strip_version(home) for home in request.part_sources.values() if home.startswith("model:")}
    mounts, notes = [], []
    for source in kaggle_sources.list_attached_sources(request.metadata):
        if str(source) in own_sources or _strip_version(str(source)) in own_models:
            continue
        copy = request.copies.get(str(source))
        if copy is None:
            notes.append(
                f"'{source.ref}' is attached to the notebook, but has no local copy to mount:"
                f" set one for '{source}' in `copies`"
            )
            continue
        if not copy.is_dir():
            raise ProjectError(
                f"the local copy of '{source}', '{copy}', is not a folder",
                hint="fix its path in `copies`",
                code="source-copy-not-found",
            )
        mounts.append(_mount_source(copy, source, request.layout, folder))
    return mounts, notes


def _strip_version(model: str) -> str:
    """Return a model's reference without owner and version, which only the push adds."""
    return model.partition("/")[2].rpartition("/")[0]


def _mount_entries(
    data: Path, added_folders: Mapping[str, Path], mount_folder: Path, inside: str
) -> list[Mount]:
    """Return one mount for each entry of the data and each added folder."""
    entries = {path.name: path for path in sorted(data.iterdir()) if path.exists()} | dict(added_folders)
    for name, path in entries.items():
        (mount_folder / name).mkdir() if path.is_dir() else (mount_folder / name).touch()
    return [Mount(inside=f"{inside}/{name}", source=path.resolve()) for name, path in entries.items()]


def _mount_link_targets(data: Path) -> list[Mount]:
    """Mount the targets of absolute links in the data at their own paths, so that the links work in the sandbox."""
    links = [path for path in data.iterdir() if path.is_symlink() and path.readlink().is_absolute()]
    targets = {path.readlink() for path in links if path.exists()}
    return [Mount(inside=str(target), source=target.resolve()) for target in sorted(targets)]


def find_sample(data: Path) -> Path | None:
    """Return the sample submission in the competition's data, or None."""
    exact = data / "sample_submission.csv"
    if exact.is_file():
        return exact
    likely = sorted(path for path in data.glob("*.csv") if {"sample", "sub"} <= _split_words(path.stem))
    return likely[0] if likely else None


def _split_words(stem: str) -> set[str]:
    return {
        word[:6] if word.startswith("sample") else word[:3]
        for word in stem.lower().replace("-", "_").split("_")
    }


def _cut_test_rows(data: Path, sample: Path | None, rows: int, into: Path) -> tuple[list[Path], Path | None]:
    into.mkdir()
    try:
        return kit_rows.cut_rows(data, sample, rows, into, files.link_or_copy)
    except KitError as error:
        raise ProjectError(error.what, hint=error.hint, code=error.code, details=error.details) from error
