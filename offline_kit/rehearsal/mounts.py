"""/kaggle/input as the notebook will find it: the treated kit and the competition's data, in either layout."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offline_kit.core import files
from offline_kit.core.errors import ProjectError, UsageError
from offline_kit.core.sandboxes.box import Mount
from offline_kit.notebook.runtime import kit_rows
from offline_kit.notebook.runtime.kit_runtime import MADE_UP, KitError
from offline_kit.project import kaggle_rules, kaggle_sources
from offline_kit.project.config_keys import LAYOUTS
from offline_kit.project.kaggle_sources import Source
from offline_kit.project.types import Kit, Part


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a rehearsal mounts below /kaggle/input."""

    mounts: tuple[Mount, ...]
    """The folder itself, then what lies in it, then what covers parts of that."""
    sample: Path | None
    """The sample to compare the submission with, cut where rows were asked for."""
    notes: tuple[str, ...]
    """What differs from Kaggle, or is worth knowing."""
    data: str = ""
    """Where the competition's data is mounted; empty: nowhere."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be mounted, and how."""

    kit: Kit
    """The kit; passes through Kaggle's treatment first."""
    metadata: Mapping[str, Any]
    """The notebook's kernel-metadata: its sources give the names of the mounts."""
    dataset: str
    """The kit's dataset, "slug" or "owner/slug"; a part's name is put behind it in a split kit. Empty: any."""
    competition: str
    """Slug of the competition; empty: the metadata's first."""
    data: Path | None
    """A local copy of the competition's data; None: none is mounted."""
    sample: Path | None
    """The user's sample submission; None: found in the data."""
    layout: str = "new"
    """One of LAYOUTS."""
    rows: int | None = None
    """Rows of the test set, repeated under new ids where there are fewer; None: all of them."""
    copies: Mapping[str, Path] = field(default_factory=dict)
    """Local copies of other sources by "dataset:owner/slug", "notebook:owner/slug", "model:..."; mounted as they are."""
    homes: Mapping[str, str] = field(default_factory=dict)
    """Where parts of the kit are that are no datasets, by the part's name: "notebook:owner/slug", "model:..."."""
    laid: Mapping[str, Path] = field(default_factory=dict)
    """Folders that the competition's mount has besides the copy's, by name."""


def lay_out(wanted: Wanted, folder: Path) -> Inputs:
    """Make /kaggle/input in `folder` and say what is mounted where; the data itself is never copied.

    Raises ProjectError where Kaggle would refuse the kit's files, or the data is no folder.
    """
    if wanted.layout not in LAYOUTS:
        raise UsageError(f"unknown layout '{wanted.layout}'", hint=f"one of {', '.join(LAYOUTS)}")
    folder.mkdir(parents=True)
    parts = _mount_kit(wanted, folder)
    others, notes = _mount_others(wanted, folder)
    mounts = [Mount(inside="/kaggle/input", source=folder), *parts, *others]
    sample = wanted.sample
    if wanted.data is None:
        notes.append("no competition data is mounted: set competition_data to a local copy, or a part of it")
        return Inputs(mounts=tuple(mounts), sample=sample, notes=tuple(notes))
    if not wanted.data.is_dir():
        raise ProjectError(
            f"the competition's data '{wanted.data}' is no folder", hint="set competition_data"
        )
    slug = wanted.competition or next(iter(wanted.metadata.get("competition_sources") or ()), "")
    if not slug:
        slug = MADE_UP
        notes.append(f"no competition is configured: its data is mounted under the made-up slug '{slug}'")
    place = f"competitions/{slug}" if wanted.layout == "new" else slug
    (folder / place).mkdir(parents=True, exist_ok=True)
    inside = f"/kaggle/input/{place}"
    mounts += (
        _among(wanted.data, wanted.laid, folder / place, inside)
        if wanted.laid
        else [Mount(inside=inside, source=wanted.data.resolve())]
    )
    mounts += _behind_links(wanted.data)
    sample = sample or find_sample(wanted.data)
    if wanted.rows is not None:
        covers, sample = _cut(wanted.data, sample, wanted.rows, folder.with_name("cut"))
        mounts += [Mount(inside=f"{inside}/{path.name}", source=path) for path in covers]
        cut = (
            ", ".join(path.name for path in covers)
            or "nothing: no test*.csv, test* folder or sample was found"
        )
        notes.append(f"test set of {wanted.rows} rows: {cut}")
    return Inputs(mounts=tuple(mounts), sample=sample, notes=tuple(notes), data=inside)


def _mount_kit(wanted: Wanted, folder: Path) -> list[Mount]:
    """Put every part of the kit into its place: through Kaggle's treatment, where it is a dataset."""
    mounts = []
    for part in wanted.kit.parts:
        if home := wanted.homes.get(part.name):
            # Outputs of notebooks and models are mounted as they are.
            mounts.append(
                _mount(wanted.kit.part_folder(part), kaggle_sources.parse(home), wanted.layout, folder)
            )
            continue
        owner, _, slug = _dataset(wanted, part).rpartition("/")
        place = Path("datasets", owner or "you", slug) if wanted.layout == "new" else Path(slug)
        kaggle_rules.treat(wanted.kit.part_folder(part), folder / place)
    return mounts


def _dataset(wanted: Wanted, part: Part) -> str:
    dataset = wanted.dataset or "offline-kit"
    return dataset if len(wanted.kit.parts) == 1 or part.name == "kit" else f"{dataset}-{part.name}"


def _mount(copy: Path, source: Source, layout: str, folder: Path) -> Mount:
    place = source.place(layout)
    (folder / place).mkdir(parents=True, exist_ok=True)
    return Mount(inside=f"/kaggle/input/{place}", source=copy.resolve())


def _mount_others(wanted: Wanted, folder: Path) -> tuple[list[Mount], list[str]]:
    """Return mounts of the local copies of what else is attached, and a note for each source without one."""
    own = {f"dataset:{_dataset(wanted, part)}" for part in wanted.kit.parts} | set(wanted.homes.values())
    ours = {_unversioned(home) for home in wanted.homes.values() if home.startswith("model:")}
    mounts, notes = [], []
    for source in kaggle_sources.of_metadata(wanted.metadata):
        if str(source) in own or _unversioned(str(source)) in ours:
            continue
        copy = wanted.copies.get(str(source))
        if copy is None:
            notes.append(
                f"'{source.ref}' is attached to the notebook, but not mounted in the rehearsal:"
                f" name a local copy of '{source}' under `copies`"
            )
            continue
        if not copy.is_dir():
            raise ProjectError(
                f"the local copy of '{source}', '{copy}', is no folder", hint="correct `copies`"
            )
        mounts.append(_mount(copy, source, wanted.layout, folder))
    return mounts, notes


def _unversioned(model: str) -> str:
    """Return what is the same of a model of ours before and after its push, which gives owner and version."""
    return model.partition("/")[2].rpartition("/")[0]


def _among(data: Path, laid: Mapping[str, Path], place: Path, inside: str) -> list[Mount]:
    """Return the entries of the data one by one, and what is laid among them, with a place to mount each at."""
    entries = {path.name: path for path in sorted(data.iterdir()) if path.exists()} | dict(laid)
    for name, path in entries.items():
        (place / name).mkdir() if path.is_dir() else (place / name).touch()
    return [Mount(inside=f"{inside}/{name}", source=path.resolve()) for name, path in entries.items()]


def _behind_links(data: Path) -> list[Mount]:
    """Return what links at the top of the data lead to, at its own path, so that they lead there in the box too."""
    links = [path for path in data.iterdir() if path.is_symlink() and path.readlink().is_absolute()]
    targets = {path.readlink() for path in links if path.exists()}
    return [Mount(inside=str(target), source=target.resolve()) for target in sorted(targets)]


def find_sample(data: Path) -> Path | None:
    """Return the sample submission of the competition's data, or None where none is recognised."""
    exact = data / "sample_submission.csv"
    if exact.is_file():
        return exact
    likely = sorted(path for path in data.glob("*.csv") if {"sample", "sub"} <= _words(path.stem))
    return likely[0] if likely else None


def _words(stem: str) -> set[str]:
    return {
        word[:6] if word.startswith("sample") else word[:3]
        for word in stem.lower().replace("-", "_").split("_")
    }


def _cut(data: Path, sample: Path | None, rows: int, into: Path) -> tuple[list[Path], Path | None]:
    into.mkdir()
    try:
        return kit_rows.cut_rows(data, sample, rows, into, files.link_or_copy)
    except KitError as error:
        raise ProjectError(error.what, hint=error.hint, code=error.code, details=error.details) from error
