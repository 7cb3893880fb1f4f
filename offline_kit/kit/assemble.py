"""Write a kit to disk, completely or not at all, with every file under a name that Kaggle does not change."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from offline_kit.core import files
from offline_kit.core.errors import ProjectError, UsageError
from offline_kit.core.report import SILENT, Advance, Reporter
from offline_kit.kit import manifest
from offline_kit.kit.layout import KitContents as KitContents
from offline_kit.kit.layout import KitLayout, Source, arrange_files
from offline_kit.project.kaggle_names import check_dataset_limits
from offline_kit.project.types import FileEntry, Kit


class ChangedFileError(ProjectError):
    """A file changed after it was hashed."""

    default_code = "file-changed"


_KIT_FILES = frozenset({"dataset", "notebook", "rehearsal", "requirements.txt"})


def assemble_kit(
    contents: KitContents,
    folder: Path,
    *,
    also: Callable[[Kit], Mapping[str, str]] = lambda _kit: {},
    by_function: bool = False,
    report: Reporter = SILENT,
) -> Kit:
    """Write the kit: `folder`/dataset, the freeze as requirements.txt, and the texts that `also` returns for it.

    Ids depend on content and names only. The old kit stays until the new one is complete, then is replaced with
    everything in its folder; an unchanged kit is left untouched. Files are hashed while they are copied. With
    `by_function` the notebook calls a function of the user, and a kit without checkpoints is normal. The caller
    ensures that no other build writes to `folder` at the same time.

    Raises ProjectError for files that must not be shipped or have changed, UsageError for a folder that holds
    other files, OutsideError if the disk is full or not writable.
    """
    _check_kit_folder(folder)
    # Delete what killed runs left beside the kit and in it.
    for final in (folder, *(folder / name for name in sorted(_KIT_FILES))):
        files.sweep_stages(final)
    # Texts before anything is written: wrong settings of the notebook must not cost the old kit.
    layout, kit, texts = _plan_kit(contents, folder, also)
    if not contents.checkpoints and not by_function and not contents.recorded:
        report.note("the kit holds no checkpoints; add yours with 'checkpoints' or -c")
    for part in (part for part in kit.parts if part.name not in manifest.OUTPUT_PARTS):
        size = sum(entry.size for entry in part.entries)
        for warning in check_dataset_limits(len(part.entries) + 1, size):
            report.warn(f"the dataset '{part.name}': {warning}")
    old = None
    with suppress(ProjectError):  # no kit, or a damaged one that is replaced
        old = manifest.read_kit(folder)
    if old and _is_unchanged(old, kit):
        _update_texts(texts, folder)
    else:
        report.step(f"Packing {len(layout.sources) - len(layout.remote)} files into '{folder}'")
        _write_kit(kit, layout, texts, old, report)
    return kit


def write_outline(
    contents: KitContents, folder: Path, *, also: Callable[[Kit], Mapping[str, str]] = lambda _kit: {}
) -> Kit:
    """Write manifests, freeze and notebook of a kit without its files, which is enough to plan a push."""
    _, kit, texts = _plan_kit(contents, folder, also)
    for part in kit.parts:
        kit.part_folder(part).mkdir(parents=True, exist_ok=True)
        manifest.write_manifest(kit.part_folder(part), part)
    _update_texts(texts, folder)
    return kit


def _plan_kit(
    contents: KitContents, folder: Path, also: Callable[[Kit], Mapping[str, str]]
) -> tuple[KitLayout, Kit, dict[str, str]]:
    layout = arrange_files(contents)
    kit = Kit(folder=folder, id=manifest.compute_kit_id(part.id for part in layout.parts), parts=layout.parts)
    return layout, kit, {"requirements.txt": contents.freeze.text, **also(kit)}


def _check_kit_folder(folder: Path) -> None:
    for path in (folder, folder / "dataset"):
        if path.exists() and not path.is_dir():
            raise UsageError(
                f"'{path}' is a file, but the kit needs a folder of that name",
                code="out-not-a-folder",
                hint="remove it, or choose another --out",
            )
    # The folder is replaced as a whole, so it must not hold files of the user.
    expected = _KIT_FILES | {stage.name for name in _KIT_FILES for stage in files.list_stages(folder / name)}
    other_files = sorted({child.name for child in folder.iterdir()} - expected) if folder.exists() else []
    if other_files:
        raise UsageError(
            f"'{folder}' holds files that are not of a kit: {', '.join(map(repr, other_files[:3]))}",
            code="out-not-empty",
            hint="choose a new or empty folder with --out",
        )


def _is_unchanged(old: Kit, new: Kit) -> bool:
    """Whether the kit on disk is the new one, with untouched files and no others."""
    if (old.id, old.parts) != (new.id, new.parts):
        return False
    for part in old.parts:
        part_folder = old.part_folder(part)
        local_part = manifest.select_local_files(part_folder, part)
        if manifest.verify_part(part_folder, local_part, hashes=False):
            return False
        if not all(_is_file_sealed(part_folder / entry.stored, entry) for entry in local_part.entries):
            return False
    return True


def _write_kit(
    kit: Kit, layout: KitLayout, texts: Mapping[str, str], old: Kit | None, report: Reporter
) -> None:
    if files.is_in_work(kit.folder / "rehearsal"):
        raise UsageError(
            f"the kit in '{kit.folder}' is being rehearsed by another run and cannot be replaced",
            code="kit-in-use",
            hint="wait until the rehearsal has ended, or choose another folder with --out",
        )
    # Files of the old kit that are untouched since we wrote them, by digest.
    reusable: dict[str, Path] = {}
    if old:
        entries = [(old.part_folder(part), entry) for part in old.parts for entry in part.entries]
        paths = ((folder / entry.stored, entry) for folder, entry in entries)
        reusable = {entry.sha256: path for path, entry in paths if _is_file_sealed(path, entry)}
    all_entries = [entry for part in kit.parts for entry in part.entries]
    total = sum(entry.size for entry in all_entries if entry.original not in layout.remote)
    # Renamed into place at the end: a killed build, or a full disk, leaves the old kit whole.
    with files.stage_folder(kit.folder) as stage, report.progress("Packing", total) as advance:
        for part in kit.parts:
            # The same folders as in the finished kit
            part_folder = stage / kit.part_folder(part).relative_to(kit.folder)
            part_folder.mkdir(parents=True, exist_ok=True)
            for entry in part.entries:
                is_remote = entry.original in layout.remote
                # What stays on Kaggle is here only if an earlier rehearsal fetched it.
                if not is_remote or entry.sha256 in reusable:
                    progress = (lambda _bytes: None) if is_remote else advance
                    source = layout.sources[entry.original]
                    _place_file(entry, source, part_folder / entry.stored, reusable, progress)
            _seal_file(manifest.write_manifest(part_folder, part), part.id)
        _update_texts(texts, stage)
        for path in (stage, *(child for child in stage.rglob("*") if child.is_dir())):
            path.chmod(0o755)  # regardless of the umask


def _place_file(
    entry: FileEntry, source: Source, destination: Path, reusable: Mapping[str, Path], advance: Advance
) -> None:
    """Link or copy one file to its stored name, and check its digest."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    digest = entry.sha256
    if entry.sha256 in reusable:
        # A file of the old kit is never written in place, so a link is safe and saves a copy of gigabytes.
        files.link_or_copy(reusable[entry.sha256], destination)
        advance(entry.size)
    elif isinstance(source, bytes):
        destination.write_bytes(source)
        advance(entry.size)
    elif _is_cache_blob(entry, source):
        files.link_or_copy(source, destination)
        digest = files.sha256_of(destination, advance)
        if digest != entry.sha256:
            source.unlink(missing_ok=True)  # the next build fetches it again
    else:
        digest = _copy_file(source, destination, advance)
    if digest != entry.sha256:
        raise ChangedFileError(
            f"'{source!s}' has changed since it was hashed, or is damaged",
            hint="build again when no program writes to it",
            details=(f"expected sha256 {entry.sha256}", f"found           {digest}"),
        )
    destination.chmod(0o644)
    _seal_file(destination, entry.sha256)


def _copy_file(source: Path, target: Path, advance: Advance) -> str:
    """Copy a file and return its digest: it is hashed while it is copied, as it may change between two reads."""
    try:
        stream = source.open("rb")
    except OSError as error:
        raise ProjectError(
            f"'{source}' cannot be read any more: {error.strerror}",
            code="file-unreadable",
            hint="restore the file, or build again without it; the previous kit is unchanged",
        ) from error
    with stream, target.open("wb") as destination:
        return files.copy_and_hash(stream, destination, advance)[0]


def _is_cache_blob(entry: FileEntry, source: Source) -> bool:
    """Whether the file is a blob of the content-addressed cache, so that a link to it is safe."""
    return isinstance(source, Path) and source.name == entry.sha256


def _compute_seal_time(digest: str) -> int:
    # Even whole seconds, as FAT and zip store no finer ones, and as the cache has it, whose blobs may be linked. By
    # content: Kaggle's client resumes an upload of a file with the same name, size and time.
    return (1_000_000_000 + 2 * int(digest[:7], 16)) * 1_000_000_000


def _seal_file(path: Path, digest: str) -> None:
    os.utime(path, ns=(path.stat().st_atime_ns, _compute_seal_time(digest)))


def _is_file_sealed(path: Path, entry: FileEntry) -> bool:
    try:
        # Not the target of a link, which somebody else could change.
        stat = path.lstat()
    except OSError:
        return False
    return stat.st_size == entry.size and stat.st_mtime_ns == _compute_seal_time(entry.sha256)


def _update_texts(texts: Mapping[str, str], folder: Path) -> None:
    for name, text in texts.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
            files.write_atomic(path, text)
