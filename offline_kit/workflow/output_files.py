"""Fetch the files of a part that stays on Kaggle, which only a rehearsal on this machine needs."""

import os
import shutil

from offline_kit.core import files
from offline_kit.core.cache import Cache
from offline_kit.core.errors import OutsideError, ProjectError
from offline_kit.kaggle.push import notebook_runs
from offline_kit.kit import manifest
from offline_kit.project.config import Config
from offline_kit.project.types import FileEntry, Kit, OutputPart
from offline_kit.workflow import part_locations
from offline_kit.workflow.kaggle_session import LOCAL_ADDRESS, KaggleSession


def link_cached(kit: Kit) -> tuple[FileEntry, ...]:
    """Link the files that the cache has into the kit, and return those that are on Kaggle alone."""
    cache, missing = Cache(files.cache_dir()), []
    for part in (part for part in kit.parts if part.name in manifest.OUTPUT_PARTS):
        for entry in part.entries:
            target = kit.part_folder(part) / entry.stored
            if target.exists():
                continue
            if blob := cache.find_blob(entry.sha256, size=entry.size):
                files.link_or_copy(blob, target)
                # A copy gets the blob's time, too, as a link has it: caches of hashes go by it.
                os.utime(target, ns=(target.stat().st_atime_ns, blob.stat().st_mtime_ns))
            else:
                missing.append(entry)
    return tuple(missing)


def require_output_part(config: Config, kit: Kit) -> OutputPart:
    """Return the part of the kit that is on Kaggle; ProjectError if no record says which notebook has it."""
    part = part_locations.find_output_part(config)
    names = [part.name for part in kit.parts]
    if part is None or part.name not in names:
        (name,) = {*names} & {*manifest.OUTPUT_PARTS}
        raise ProjectError(
            f"the kit's {name} is on Kaggle, but the record beside the project that names its notebook is missing",
            code="part-record-missing",
            hint=f"restore 'offline-kit.{name}.json', or build the kit again with 'offline-kit build'",
        )
    return part


def fetch_missing(kit: Kit, session: KaggleSession) -> None:
    """Download the files that a rehearsal here lacks, check and keep each."""
    missing, cache = link_cached(kit), Cache(files.cache_dir())
    if not missing:
        return
    part = require_output_part(session.config, kit)
    part_locations.check_locations(session.config, session.account.username, local=session.local)
    if session.kaggle.get_notebook(part.notebook) is None:
        raise OutsideError(
            f"'{part.notebook}', which made the kit's {part.name}, is not on {session.account.server_name}",
            code="part-notebook-missing",
            hint=f"set {LOCAL_ADDRESS} to the address of the local Kaggle that has it, or make it again with"
            f" {part.rebuild_command}"
            if session.local
            else f"make it again with {part.rebuild_command}",
        )
    total = sum(entry.size for entry in missing)
    text = f"Fetching {len(missing)} files, {files.format_size(total)}, from '{part.notebook}'"
    scratch = cache.partial_path(f"outputs-{os.getpid()}").with_suffix("")
    with session.report.progress(text, total) as advance:
        try:
            for entry in missing:
                run = (part.notebook, part.version)
                path = notebook_runs.fetch_output(run, entry.stored, session.kaggle, scratch, advance)
                if (digest := files.sha256_of(path)) != entry.sha256:
                    raise OutsideError(
                        f"'{entry.stored}' of '{part.notebook}' is not what its run wrote",
                        code="remote-output-changed",
                        hint="run the same command again",
                        details=[f"expected sha256 {entry.sha256}", f"it has       {digest}"],
                    )
                cache.store_file(path, digest)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    link_cached(kit)
