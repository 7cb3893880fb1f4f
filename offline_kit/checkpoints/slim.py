"""Slim checkpoints: leave out what only resuming the training needs.

`slim_worker` does this in an interpreter that has torch, and compares every tensor with the original's. Results are
cached by content, so that the same checkpoint gives the same bytes without being loaded again.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

from offline_kit.checkpoints import pickle_scan
from offline_kit.checkpoints.file_kinds import classify_file
from offline_kit.core import files, processes, resources
from offline_kit.core.cache import Cache, cache_key
from offline_kit.core.errors import OfflineKitError, OutsideError, ProjectError
from offline_kit.core.files import format_size
from offline_kit.core.report import SILENT, Reporter
from offline_kit.project.config import Config
from offline_kit.project.types import Checkpoint, CheckpointKind, Finding, Severity

# Increased when the worker writes other bytes
_CACHE_VERSION = 4
_TORCH_KINDS = frozenset({CheckpointKind.LIGHTNING, CheckpointKind.TORCH_ZIP, CheckpointKind.TORCH_LEGACY})


def slim_checkpoints(
    checkpoints: Sequence[Checkpoint], config: Config, *, cache: Path, report: Reporter = SILENT
) -> tuple[tuple[Checkpoint, ...], tuple[Finding, ...]]:
    """Return the checkpoints as configured, in their order, with findings; the originals are only read.

    Those that cannot be slimmed are unchanged. Unsafe ones were refused before. Raises ProjectError if no interpreter
    has torch, OutsideError if the worker fails.
    """
    changed: dict[str, Checkpoint] = {}
    findings = []
    for checkpoint in checkpoints if config.slim else ():
        is_script = any("TorchScript" in line for line in checkpoint.refused)
        if checkpoint.kind in _TORCH_KINDS and not is_script:
            slimmed, finding = _slim_one(checkpoint, config, Cache(cache), report)
            findings += [finding] if finding else []
            if slimmed:
                changed[checkpoint.original] = slimmed
    return _place_files(checkpoints, changed, cache), tuple(findings)


def _slim_one(
    checkpoint: Checkpoint, config: Config, store: Cache, report: Reporter
) -> tuple[Checkpoint | None, Finding | None]:
    """Return the new checkpoint (None if it is unchanged) and a finding on it."""
    trusts_all = config.notebook.params.get("weights_only") is False
    trusted = trusts_all or pickle_scan.is_trusted(checkpoint.original, config.trust)
    key = cache_key(_CACHE_VERSION, checkpoint.sha256, trusted)
    # Loading torch takes seconds: what is known of the same content is not asked again
    record = store.read_record("slim", key)
    blob = store.find_blob(str(record["sha256"])) if record and record.get("sha256") else None
    if record is None or (record.get("sha256") and blob is None):
        report.step(f"Slimming '{checkpoint.original}' ({format_size(checkpoint.size)})")
        record, blob = _run_worker(checkpoint, config, store, trusted=trusted)
        # The project's code may be why a trusted one does not load: do not cache that.
        if blob or not trusted:
            store.write_record("slim", key, record)
    if blob is None:
        reason = str(record["left"])
        is_refused = "weights_only" in reason and not trusted
        return None, Finding(
            severity=Severity.WARN,
            about=checkpoint.original,
            what=f"is included unchanged: {reason}",
            remedy=f'if you saved it yourself, set trust = ["{checkpoint.original}"]' if is_refused else "",
        )
    size = int(str(record["size"]))
    if size >= checkpoint.size:
        return None, None  # nothing to drop: torch wrote it smaller than we would
    classified = classify_file(blob)
    slimmed = replace(
        checkpoint,
        path=blob,
        size=size,
        sha256=str(record["sha256"]),
        kind=classified.kind,
        refused=classified.refused,
    )
    dropped = record["dropped"] if isinstance(record["dropped"], list) else []
    without = f": without {', '.join(map(str, dropped))}" if dropped else ""
    before, after = format_size(checkpoint.size), format_size(size)
    sizes = f"takes {after} instead of {before}" if before != after else "is rewritten"
    what = f"{sizes}{without}; its {record['tensors']} tensors are bit for bit the same"
    return slimmed, Finding(severity=Severity.NOTE, about=checkpoint.original, what=what)


def _run_worker(
    checkpoint: Checkpoint, config: Config, store: Cache, *, trusted: bool
) -> tuple[dict[str, object], Path | None]:
    """Return the worker's answer, and the blob of what it wrote if it wrote something."""
    python = _find_torch_python(config.project, processes.copy_environment())
    parts_folder = files.make_folder(store.root / "parts")
    with (
        tempfile.TemporaryDirectory(prefix="slim-", dir=parts_folder) as name,
        files.translate_disk_errors(parts_folder),
    ):
        scratch = Path(name)
        # That interpreter has no offline-kit, and may be a Python 3.9
        (scratch / "worker.py").write_text(resources.read_source("checkpoints/slim_worker"), encoding="utf-8")
        request = {
            "source": str(checkpoint.path.absolute()),
            # torch.save writes this name's stem into the archive, so the user's name would change the bytes
            "target": str(scratch / "weights.pt"),
            "trusted": trusted,
            "roots": [str(config.project), str(config.project / "src")],
        }
        (scratch / "request.json").write_text(json.dumps(request), encoding="utf-8")
        try:
            processes.run_command([python, scratch / "worker.py", scratch / "request.json"], cwd=scratch)
            answer = dict(json.loads((scratch / "request.answer").read_text(encoding="utf-8")))
        except (OfflineKitError, OSError, ValueError) as error:
            raise OutsideError(
                f"'{checkpoint.original}' could not be slimmed: the worker in '{python}' failed",
                hint="free memory or disk if the lines below say so, or remove `slim`",
                code="slim-failed",
                details=getattr(error, "details", ()) or (str(error),),
            ) from error
        if "left" in answer:
            return {"left": str(answer["left"])}, None
        blob, digest = store.store_file(scratch / "weights.pt")
    return {**answer, "sha256": digest}, blob


def _find_torch_python(project: Path, env: Mapping[str, str]) -> Path:
    """Return the first interpreter that can import torch, on which this tool itself does not depend.

    The order is: the project's `.venv` or `venv`, the active environment (VIRTUAL_ENV, CONDA_PREFIX), the one that runs
    this tool, `python3` and `python` on PATH. `env` holds these variables. Raises ProjectError if none can.
    """
    # https://docs.python.org/3/library/venv.html#how-venvs-work
    inside = Path("Scripts/python.exe" if os.name == "nt" else "bin/python")
    environments = [project / ".venv", project / "venv"]
    environments += [Path(env[name]) for name in ("VIRTUAL_ENV", "CONDA_PREFIX") if env.get(name)]
    candidates = [folder / inside for folder in environments if (folder / inside).is_file()]
    # Under pipx or uvx this is an environment of its own, which usually has no torch.
    candidates.append(Path(sys.executable))
    folders = [Path(folder) for folder in env.get("PATH", "").split(os.pathsep) if folder]
    on_path = [folder / name for folder in folders for name in ("python3", "python")]
    candidates += [python for python in on_path if os.access(python, os.X_OK)]
    for candidate in candidates:
        if _has_torch(candidate):
            return candidate
    raise ProjectError(
        "`slim` needs an interpreter with torch, and none was found",
        hint="activate the environment of the training (or put it in the project's .venv) and build again, "
        "or remove `slim` from [tool.offline-kit]",
        code="torch-not-found",
        details=[f"'{candidate}' has no torch" for candidate in dict.fromkeys(candidates)],
    )


@lru_cache(maxsize=64)
def _has_torch(python: Path) -> bool:
    probe = "import importlib.util, sys; sys.exit(0 if importlib.util.find_spec('torch') else 3)"
    try:
        return processes.run_command(
            [python, "-c", probe], cwd=python.parent, check=False, timeout=60
        ).succeeded
    except OfflineKitError:
        return False


def _place_files(
    checkpoints: Sequence[Checkpoint], changed: dict[str, Checkpoint], cache: Path
) -> tuple[Checkpoint, ...]:
    """Put slimmed files, and all others of their folders, into one folder under their original names.

    Libraries that load a whole folder (transformers) find it complete.
    """
    folders = {PurePosixPath(name).parent for name in changed}
    updated = [changed.get(file.original, file) for file in checkpoints]
    moved = [file for file in updated if PurePosixPath(file.original).parent in folders]
    key = cache_key(*((file.original, file.sha256, str(file.path)) for file in moved))
    stage = cache / "slim" / key[:32]
    for file in moved:
        target = stage / file.original
        if target.exists():
            continue
        with files.translate_disk_errors(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)  # a link to nothing
            if file.original in changed:
                files.link_or_copy(file.path, target)
                continue
            try:
                target.symlink_to(file.path.absolute())
            except OSError:  # Windows without the right to make links
                shutil.copyfile(file.path, target)
    return tuple(replace(file, path=stage / file.original) if file in moved else file for file in updated)
