"""Slim checkpoints: without training state or as safetensors, as configured.

`slim_worker` does this in an interpreter that has torch, and compares every tensor with the original's. Results are
cached by content, so that the same checkpoint gives the same bytes without being loaded again.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
_CACHE_VERSION = 3
_TORCH_KINDS = frozenset({CheckpointKind.LIGHTNING, CheckpointKind.TORCH_ZIP, CheckpointKind.TORCH_LEGACY})


@dataclass(frozen=True, kw_only=True)
class SlimmedCheckpoints:
    """The checkpoints as they go into the kit."""

    checkpoints: tuple[Checkpoint, ...]
    """In the original order; those that could not be slimmed are unchanged."""
    findings: tuple[Finding, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()  # old and new original names of those whose format changed


def slim_checkpoints(
    checkpoints: Sequence[Checkpoint], config: Config, *, cache: Path, report: Reporter = SILENT
) -> SlimmedCheckpoints:
    """Return the checkpoints as configured; the originals are only read. Unsafe ones were refused before.

    Raises ProjectError if no interpreter has torch, OutsideError if the worker fails.
    """
    changed: dict[str, Checkpoint] = {}
    findings = []
    for checkpoint in checkpoints if config.slim or config.weights_format != "keep" else ():
        is_script = any("TorchScript" in line for line in checkpoint.refused)
        if checkpoint.kind in _TORCH_KINDS and not is_script:
            slimmed, finding = _slim_one(checkpoint, config, Cache(cache), report)
            findings += [finding] if finding else []
            if slimmed:
                changed[checkpoint.original] = slimmed
    return SlimmedCheckpoints(
        checkpoints=_place_files(checkpoints, changed, cache),
        findings=tuple(findings),
        renamed=tuple((old, new.original) for old, new in changed.items() if old != new.original),
    )


def _slim_one(
    checkpoint: Checkpoint, config: Config, store: Cache, report: Reporter
) -> tuple[Checkpoint | None, Finding | None]:
    """Return the new checkpoint (None if it is unchanged) and a finding on it."""
    trusts_all = config.notebook.params.get("weights_only") is False
    trusted = trusts_all or pickle_scan.is_trusted(checkpoint.original, config.trust)
    key = cache_key(_CACHE_VERSION, checkpoint.sha256, config.slim, config.weights_format, trusted)
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
        return None, _describe_unchanged(checkpoint, str(record["left"]), trusted=trusted)
    original, size = _rename_checkpoint(checkpoint, config), int(str(record["size"]))
    if original == checkpoint.original and size >= checkpoint.size:
        return None, None  # nothing to drop: torch wrote it smaller than we would
    classified = classify_file(blob)
    slimmed = replace(
        checkpoint,
        original=original,
        path=blob,
        size=size,
        sha256=str(record["sha256"]),
        kind=classified.kind,
        refused=classified.refused,
    )
    return slimmed, _describe_savings(checkpoint, slimmed, record)


def _run_worker(
    checkpoint: Checkpoint, config: Config, store: Cache, *, trusted: bool
) -> tuple[dict[str, object], Path | None]:
    """Return the worker's answer, and the blob of what it wrote if it wrote something."""
    first_key = "slim" if config.slim else "weights_format"
    python = _find_torch_python(config.project, processes.copy_environment(), first_key)
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
            "slim": config.slim,
            "safetensors": config.weights_format == "safetensors",
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
                hint="free memory or disk if the lines below say so, or remove `slim` and `weights_format`",
                code="slim-failed",
                details=getattr(error, "details", ()) or (str(error),),
            ) from error
        if "left" in answer:
            return {"left": str(answer["left"])}, None
        blob, digest = store.store_file(scratch / "weights.pt")
    return {**answer, "sha256": digest}, blob


def _find_torch_python(project: Path, env: Mapping[str, str], key: str) -> Path:
    """Return the first interpreter that can import torch, on which this tool itself does not depend.

    The order is: the project's `.venv` or `venv`, the active environment (VIRTUAL_ENV, CONDA_PREFIX), the one that runs
    this tool, `python3` and `python` on PATH. `env` holds these variables. Raises ProjectError, naming the
    configuration's `key`, if none can.
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
        f"`{key}` needs an interpreter with torch, and none was found",
        hint="activate the environment of the training (or put it in the project's .venv) and build again, "
        f"or remove `{key}` from [tool.offline-kit]",
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


def _rename_checkpoint(checkpoint: Checkpoint, config: Config) -> str:
    if config.weights_format != "safetensors" or checkpoint.original.endswith(".safetensors"):
        return checkpoint.original
    old = PurePosixPath(checkpoint.original)
    # from_pretrained looks for this one name: https://huggingface.co/docs/transformers/main_classes/model
    stem = "model" if old.name == "pytorch_model.bin" else old.name if old.suffix == "" else old.stem
    return (old.parent / f"{stem}.safetensors").as_posix()


def _describe_savings(old: Checkpoint, new: Checkpoint, record: dict[str, object]) -> Finding:
    dropped = record["dropped"] if isinstance(record["dropped"], list) else []
    lost = record["lost"] if isinstance(record["lost"], list) else []
    parts = [f"without {', '.join(map(str, dropped))}"] * bool(dropped)
    parts += ["as safetensors"] * (old.original != new.original)
    parts += [f"without {', '.join(map(str, lost))}, which safetensors cannot hold"] * bool(lost)
    before, after = format_size(old.size), format_size(new.size)
    sizes = f"takes {after} instead of {before}" if before != after else "is rewritten"
    changes = f"{sizes}{': ' * bool(parts)}{', '.join(parts)}"
    return Finding(
        severity=Severity.WARN if lost else Severity.NOTE,
        about=old.original,
        what=f"{changes}; its {record['tensors']} tensors are bit for bit the same",
        remedy="set the model's arguments in [tool.offline-kit.notebook.params]" if lost else "",
    )


def _describe_unchanged(checkpoint: Checkpoint, reason: str, *, trusted: bool) -> Finding:
    is_refused = "weights_only" in reason and not trusted
    remedy = f'if you saved it yourself, set trust = ["{checkpoint.original}"]' if is_refused else ""
    return Finding(
        severity=Severity.WARN,
        about=checkpoint.original,
        what=f"is included unchanged: {reason}",
        remedy=remedy,
    )


def _place_files(
    checkpoints: Sequence[Checkpoint], changed: dict[str, Checkpoint], cache: Path
) -> tuple[Checkpoint, ...]:
    """Put slimmed files, and all others of their folders, into one folder under their original names.

    Libraries that load a whole folder (transformers) find it complete.
    """
    folders = {PurePosixPath(name).parent for name in changed}
    updated = {
        file.original: changed.get(file.original, file)
        for file in checkpoints
        if PurePosixPath(file.original).parent in folders
    }
    key = cache_key(*((file.original, file.sha256, str(file.path)) for file in updated.values()))
    stage = cache / "slim" / key[:32]
    for old_name, file in updated.items():
        target = stage / file.original
        if target.exists():
            continue
        with files.translate_disk_errors(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)  # a link to nothing
            if old_name in changed:
                files.link_or_copy(file.path, target)
                continue
            try:
                target.symlink_to(file.path.absolute())
            except OSError:  # Windows without the right to make links
                shutil.copyfile(file.path, target)
    placed = {old_name: replace(file, path=stage / file.original) for old_name, file in updated.items()}
    return tuple(placed.get(checkpoint.original, checkpoint) for checkpoint in checkpoints)
