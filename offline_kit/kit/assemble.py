"""Write a kit to disk, completely or not at all, with every file under a name that Kaggle does not change."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from offline_kit.core import files
from offline_kit.core.errors import OutsideError, ProjectError, UsageError
from offline_kit.core.report import SILENT, Advance, Reporter
from offline_kit.kit import manifest
from offline_kit.kit.install_plan import KitContents as KitContents
from offline_kit.kit.layout import KitFile, KitLayout, arrange_files
from offline_kit.project.kaggle_names import check_dataset_limits
from offline_kit.project.types import FileEntry, Kit


class ChangedFileError(ProjectError):
    """A file changed after it was hashed."""

    default_code = "file-changed"


_SPARE_SPACE = 16_000_000
"""Bytes for manifests, folders and the notebook."""


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
    _sweep_leftovers(folder)
    layout = arrange_files(contents)
    kit = Kit(folder=folder, id=manifest.compute_kit_id(part.id for part in layout.parts), parts=layout.parts)
    # Before anything is written: wrong settings of the notebook must not cost the old kit.
    texts = {"requirements.txt": contents.freeze.text, **also(kit)}
    _report_limits(contents, kit, report, by_function=by_function)
    old = _read_old_kit(folder)
    if old and _is_unchanged(old, kit):
        _update_texts(texts, folder)
    else:
        report.step(f"Packing {len(layout.files) - len(layout.remote)} files into '{folder}'")
        _write_kit(kit, layout, texts, old, report)
    return kit


def write_outline(
    contents: KitContents, folder: Path, *, also: Callable[[Kit], Mapping[str, str]] = lambda _kit: {}
) -> Kit:
    """Write manifests, freeze and notebook of a kit without its files, which is enough to plan a push."""
    layout = arrange_files(contents)
    kit = Kit(folder=folder, id=manifest.compute_kit_id(part.id for part in layout.parts), parts=layout.parts)
    texts = {"requirements.txt": contents.freeze.text, **also(kit)}
    for part in kit.parts:
        kit.part_folder(part).mkdir(parents=True, exist_ok=True)
        manifest.write_manifest(kit.part_folder(part), part)
    _update_texts(texts, folder)
    return kit


KIT_FILES = frozenset({"dataset", "notebook", "rehearsal", "requirements.txt"})
"""The contents of a kit's folder."""


def _check_kit_folder(folder: Path) -> None:
    for path in (folder, folder / "dataset"):
        if path.exists() and not path.is_dir():
            raise UsageError(
                f"'{path}' is a file, but the kit needs a folder of that name",
                code="out-not-a-folder",
                hint="remove it, or choose another --out",
            )
    # The folder is replaced as a whole, so it must not hold files of the user.
    expected = KIT_FILES | {stage.name for name in KIT_FILES for stage in files.list_stages(folder / name)}
    other_files = sorted({child.name for child in folder.iterdir()} - expected) if folder.exists() else []
    if other_files:
        raise UsageError(
            f"'{folder}' holds files that are not of a kit: {', '.join(map(repr, other_files[:3]))}",
            code="out-not-empty",
            hint="choose a new or empty folder with --out",
        )


def _report_limits(contents: KitContents, kit: Kit, report: Reporter, *, by_function: bool) -> None:
    if not contents.checkpoints and not by_function:
        report.note("the kit holds no checkpoints; add yours with 'checkpoints' or -c")
    for part in kit.parts:
        size = sum(entry.size for entry in part.entries)
        for warning in check_dataset_limits(len(part.entries) + 1, size):
            report.warn(f"the dataset '{part.name}': {warning}")


def _sweep_leftovers(folder: Path) -> None:
    """Delete what killed runs left beside the kit and in it."""
    for final in (folder, *(folder / name for name in sorted(KIT_FILES))):
        files.sweep_stages(final)


def _read_old_kit(folder: Path) -> Kit | None:
    try:
        return manifest.read_kit(folder)
    except ProjectError:
        return None  # no kit, or a damaged one that is replaced


def _is_unchanged(old: Kit, new: Kit) -> bool:
    """Whether the kit on disk is the new one, with untouched files and no others."""
    if (old.id, [p.name for p in old.parts]) != (new.id, [p.name for p in new.parts]):
        return False
    if [part.entries for part in old.parts] != [part.entries for part in new.parts]:
        return False
    local_parts = [
        (part_folder := old.part_folder(part), manifest.select_local_files(part_folder, part))
        for part in old.parts
    ]
    if any(manifest.verify_part(part_folder, part, hashes=False) for part_folder, part in local_parts):
        return False
    return all(
        _is_file_sealed(part_folder / entry.stored, entry)
        for part_folder, part in local_parts
        for entry in part.entries
    )


def _write_kit(
    kit: Kit, layout: KitLayout, texts: Mapping[str, str], old: Kit | None, report: Reporter
) -> None:
    if files.is_in_work(kit.folder / "rehearsal"):
        raise UsageError(
            f"the kit in '{kit.folder}' is being rehearsed by another run and cannot be replaced",
            code="kit-in-use",
            hint="wait until the rehearsal has ended, or choose another folder with --out",
        )
    reusable = _find_reusable_files(old) if old else {}
    _check_disk_space(kit, layout, reusable)
    total = sum(item.size for name, item in layout.files.items() if name not in layout.remote)
    # Renamed into place at the end: a killed build leaves the old kit whole.
    with files.stage_folder(kit.folder) as stage, report.progress("Packing", total) as advance:
        for part in kit.parts:
            part_folder = stage / kit.part_folder(part).relative_to(kit.folder)
            part_folder.mkdir(parents=True, exist_ok=True)
            for entry in part.entries:
                if entry.original not in layout.remote:
                    _place_file(layout.files[entry.original], part_folder / entry.stored, reusable, advance)
                elif entry.sha256 in reusable:  # fetched for an earlier rehearsal
                    _place_file(
                        layout.files[entry.original],
                        part_folder / entry.stored,
                        reusable,
                        lambda _bytes: None,
                    )
            _seal_file(manifest.write_manifest(part_folder, part), part.id)
        _update_texts(texts, stage)
        for path in (stage, *(child for child in stage.rglob("*") if child.is_dir())):
            path.chmod(0o755)  # regardless of the umask


def _find_reusable_files(old: Kit) -> dict[str, Path]:
    """Return the files of the old kit that are untouched since we wrote them, by digest."""
    paths = {}
    for part in old.parts:
        for entry in part.entries:
            path = old.part_folder(part) / entry.stored
            if _is_file_sealed(path, entry):
                paths[entry.sha256] = path
    return paths


def _check_disk_space(kit: Kit, layout: KitLayout, reusable: dict[str, Path]) -> None:
    items = [item for name, item in layout.files.items() if name not in layout.remote]
    # Links to the cache or the old kit need no space.
    needed = sum(i.size for i in items if i.sha256 not in reusable and not _is_cache_blob(i))
    existing_folder = next(
        parent for parent in (kit.folder, *kit.folder.absolute().parents) if parent.exists()
    )
    free = shutil.disk_usage(existing_folder).free
    if free < needed + _SPARE_SPACE:
        raise OutsideError(
            f"the kit needs {files.format_size(needed)} below '{kit.folder}', and "
            f"{files.format_size(_SPARE_SPACE)} to spare; {files.format_size(free)} are free",
            code="disk-full",
            hint="free some space, or choose another folder with --out",
        )


def _place_file(item: KitFile, destination: Path, reusable: dict[str, Path], advance: Advance) -> None:
    """Link or copy one file to its stored name, and check its digest."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    if item.sha256 in reusable:
        # A file of the old kit is never written in place, so a link is safe and saves a copy of gigabytes.
        files.link_or_copy(reusable[item.sha256], destination)
        advance(item.size)
    elif item.path is None:
        destination.write_bytes(item.data)
        advance(item.size)
    elif _is_cache_blob(item):
        files.link_or_copy(item.path, destination)
        _check_digest(item, files.sha256_of(destination, advance))
    else:
        _copy_file(item, item.path, destination, advance)
    destination.chmod(0o644)
    _seal_file(destination, item.sha256)


def _copy_file(item: KitFile, source: Path, target: Path, advance: Advance) -> None:
    try:
        stream = source.open("rb")
    except OSError as error:
        raise ProjectError(
            f"'{source}' cannot be read any more: {error.strerror}",
            code="file-unreadable",
            hint="restore the file, or build again without it; the previous kit is unchanged",
        ) from error
    # Hashed while it is copied: the file may change between two reads.
    with stream, target.open("wb") as destination:
        digest, _ = files.copy_and_hash(stream, destination, advance)
    _check_digest(item, digest)


def _check_digest(item: KitFile, digest: str) -> None:
    if digest != item.sha256:
        if _is_cache_blob(item) and item.path:
            item.path.unlink(missing_ok=True)  # the next build fetches it again
        raise ChangedFileError(
            f"'{item.path}' has changed since it was hashed, or is damaged",
            hint="build again when no program writes to it",
            details=(f"expected sha256 {item.sha256}", f"found           {digest}"),
        )


def _is_cache_blob(item: KitFile) -> bool:
    """Whether the file is a blob of the content-addressed cache, so that a link to it is safe."""
    return item.path is not None and item.path.name == item.sha256


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
