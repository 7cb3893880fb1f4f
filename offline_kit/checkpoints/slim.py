"""Slim checkpoints: without training state, in half precision or as safetensors, as configured.

`slim_worker` does this in an interpreter that has torch, and compares every tensor with the original's. Results are
cached by content, so that the same checkpoint gives the same bytes without being loaded again.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from offline_kit.checkpoints import torch_python
from offline_kit.checkpoints.file_kinds import classify_file
from offline_kit.core import files, processes, resources
from offline_kit.core.cache import Cache, cache_key
from offline_kit.core.errors import OfflineKitError, OutsideError
from offline_kit.core.files import format_size
from offline_kit.core.report import SILENT, Reporter
from offline_kit.project.types import Checkpoint, CheckpointKind, Finding, Severity

_CACHE_VERSION = 2
"""Increased when the worker writes other bytes."""
_TORCH_KINDS = frozenset({CheckpointKind.LIGHTNING, CheckpointKind.TORCH_ZIP, CheckpointKind.TORCH_LEGACY})


@dataclass(frozen=True, kw_only=True)
class SlimOptions:
    """How to change checkpoints."""

    slim: bool = False
    """Drop the states of optimizers, schedulers, callbacks and loops."""
    precision: str = "keep"
    """"keep" or "half"."""
    weights_format: str = "keep"
    """"keep" or "safetensors"."""

    def __bool__(self) -> bool:
        return self.slim or self.precision == "half" or self.weights_format == "safetensors"

    @property
    def first_key(self) -> str:
        """The first configured key."""
        return "slim" if self.slim else "precision" if self.precision == "half" else "weights_format"


@dataclass(frozen=True, kw_only=True)
class SlimContext:
    """What slimming needs of the project."""

    project: Path
    """Its environment is tried first, and a trusted checkpoint may need its classes."""
    cache: Path
    is_trusted: Callable[[str], bool] = lambda _original: False
    """Whether a checkpoint (by original name) may be loaded with weights_only=False."""
    main: Path | None = None
    """Script that defines `main_names`, which trusted checkpoints look up in `__main__`."""
    main_names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SlimmedCheckpoints:
    """The checkpoints as they go into the kit."""

    checkpoints: tuple[Checkpoint, ...]
    """In the original order; those that could not be slimmed are unchanged."""
    findings: tuple[Finding, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    """Old and new original names of those whose format changed."""


def slim_checkpoints(
    checkpoints: Sequence[Checkpoint],
    options: SlimOptions,
    context: SlimContext,
    *,
    report: Reporter = SILENT,
) -> SlimmedCheckpoints:
    """Return the checkpoints as configured; the originals are only read.

    Raises ProjectError if no interpreter has torch, OutsideError if the worker fails.
    """
    eligible = [checkpoint for checkpoint in checkpoints if _can_slim(checkpoint, options)] if options else []
    results = {
        checkpoint.original: _slim_one(checkpoint, options, context, report) for checkpoint in eligible
    }
    changed = {old: new for old, (new, _) in results.items() if new}
    placed = _place_files(checkpoints, changed, context)
    return SlimmedCheckpoints(
        checkpoints=placed,
        findings=tuple(finding for _, finding in results.values() if finding),
        renamed=tuple((old, new.original) for old, new in changed.items() if old != new.original),
    )


def _can_slim(checkpoint: Checkpoint, options: SlimOptions) -> bool:
    if checkpoint.kind is CheckpointKind.SAFETENSORS:
        return options.precision == "half"
    script = any("TorchScript" in line or "oldest format" in line for line in checkpoint.refused)
    return checkpoint.kind in _TORCH_KINDS and not script


def _slim_one(
    checkpoint: Checkpoint, options: SlimOptions, context: SlimContext, report: Reporter
) -> tuple[Checkpoint | None, Finding | None]:
    """Return the new checkpoint (None if it is unchanged) and a finding on it."""
    store = Cache(context.cache)
    trusted = context.is_trusted(checkpoint.original)
    key = cache_key(
        _CACHE_VERSION, checkpoint.sha256, options.slim, options.precision, options.weights_format, trusted
    )
    record = store.read_record("slim", key)
    blob = store.find_blob(str(record["sha256"])) if record and record.get("sha256") else None
    if record is None or (record.get("sha256") and blob is None):
        report.step(f"Slimming '{checkpoint.original}' ({format_size(checkpoint.size)})")
        record, blob = _run_worker(checkpoint, options, context, store, trusted=trusted)
        if (
            blob or not trusted
        ):  # the project's code may be why a trusted one does not load: do not cache that
            store.write_record("slim", key, record)
    if blob is None:
        return None, _describe_unchanged(checkpoint, str(record["left"]), trusted=trusted)
    if record["size"] == checkpoint.size and not record["halved"] and not _changes_name(checkpoint, options):
        return None, None
    if int(str(record["size"])) >= checkpoint.size and not _changes_name(checkpoint, options):
        return None, None  # nothing to drop: torch wrote it smaller than we would
    classified = classify_file(blob)
    slimmed = replace(
        checkpoint,
        original=_rename_checkpoint(checkpoint, options),
        path=blob,
        size=int(str(record["size"])),
        sha256=str(record["sha256"]),
        kind=classified.kind,
        refused=classified.refused,
    )
    return slimmed, _describe_savings(checkpoint, slimmed, record)


def _run_worker(
    checkpoint: Checkpoint, options: SlimOptions, context: SlimContext, store: Cache, *, trusted: bool
) -> tuple[dict[str, object], Path | None]:
    python = torch_python.find_torch_python(
        context.project, processes.copy_environment(), requested_by=f"`{options.first_key}`"
    )
    roots = [context.main.parent] if context.main else []
    roots += [context.project, context.project / "src"]
    parts_folder = files.make_folder(context.cache / "parts")
    with (
        tempfile.TemporaryDirectory(prefix="slim-", dir=parts_folder) as name,
        files.translate_disk_errors(parts_folder),
    ):
        scratch = Path(name)
        (scratch / "worker.py").write_text(resources.read_source("checkpoints/slim_worker"), encoding="utf-8")
        request = {
            "source": str(checkpoint.path.absolute()),
            # torch.save writes this name's stem into the archive, so the user's name would change the bytes
            "target": str(scratch / "weights.pt"),
            "slim": options.slim,
            "half": options.precision == "half",
            "safetensors": _becomes_safetensors(checkpoint, options),
            "trusted": trusted,
            "roots": [str(root) for root in roots],
            "main": str(context.main or ""),
            "names": context.main_names,
        }
        (scratch / "request.json").write_text(json.dumps(request), encoding="utf-8")
        answer = _read_answer(python, scratch, checkpoint)
        if "left" in answer:
            return {"left": str(answer["left"])}, None
        blob, digest = store.store_file(scratch / "weights.pt")
    return {**answer, "sha256": digest}, blob


def _read_answer(python: Path, scratch: Path, checkpoint: Checkpoint) -> dict[str, object]:
    try:
        processes.run_command([python, scratch / "worker.py", scratch / "request.json"], cwd=scratch)
        answer = json.loads((scratch / "request.answer").read_text(encoding="utf-8"))
    except (OfflineKitError, OSError, ValueError) as error:
        raise OutsideError(
            f"'{checkpoint.original}' could not be slimmed: the worker in '{python}' failed",
            hint="free memory or disk if the lines below say so, or remove `slim`, `precision` and `weights_format`",
            code="slim-failed",
            details=getattr(error, "details", ()) or (str(error),),
        ) from error
    return dict(answer)


def _becomes_safetensors(checkpoint: Checkpoint, options: SlimOptions) -> bool:
    return options.weights_format == "safetensors" or checkpoint.kind is CheckpointKind.SAFETENSORS


def _changes_name(checkpoint: Checkpoint, options: SlimOptions) -> bool:
    return _rename_checkpoint(checkpoint, options) != checkpoint.original


def _rename_checkpoint(checkpoint: Checkpoint, options: SlimOptions) -> str:
    if not _becomes_safetensors(checkpoint, options) or checkpoint.original.endswith(".safetensors"):
        return checkpoint.original
    old = PurePosixPath(checkpoint.original)
    # from_pretrained looks for this one name: https://huggingface.co/docs/transformers/main_classes/model
    stem = "model" if old.name == "pytorch_model.bin" else old.name if old.suffix == "" else old.stem
    return (old.parent / f"{stem}.safetensors").as_posix()


def _describe_savings(old: Checkpoint, new: Checkpoint, record: dict[str, object]) -> Finding:
    dropped = record["dropped"] if isinstance(record["dropped"], list) else []
    lost = record["lost"] if isinstance(record["lost"], list) else []
    parts = [f"without {', '.join(map(str, dropped))}"] * bool(dropped)
    parts += [f"{record['halved']} tensors in half precision"] * bool(record["halved"])
    parts += ["as safetensors"] * (old.original != new.original)
    parts += [f"without {', '.join(map(str, lost))}, which safetensors cannot hold"] * bool(lost)
    rounded = "the old ones rounded, so predictions change slightly and were not compared"
    proven = rounded if record["halved"] else "bit for bit the same"
    before, after = format_size(old.size), format_size(new.size)
    sizes = f"takes {after} instead of {before}" if before != after else "is rewritten"
    changes = f"{sizes}{': ' * bool(parts)}{', '.join(parts)}"
    return Finding(
        severity=Severity.WARN if lost else Severity.NOTE,
        about=old.original,
        what=f"{changes}; its {record['tensors']} tensors are {proven}",
        remedy="set the model's arguments in [tool.offline-kit.notebook.params]" if lost else "",
    )


def _describe_unchanged(checkpoint: Checkpoint, reason: str, *, trusted: bool) -> Finding:
    remedy = ""
    if "weights_only" in reason and not trusted:
        remedy = f'if you saved it yourself, set trust = ["{checkpoint.original}"]'
    elif "main_from" in reason:
        remedy = 'set that script in [tool.offline-kit]: main_from = "train.py"'
    return Finding(
        severity=Severity.WARN,
        about=checkpoint.original,
        what=f"is included unchanged: {reason}",
        remedy=remedy,
    )


def _place_files(
    checkpoints: Sequence[Checkpoint], changed: dict[str, Checkpoint], context: SlimContext
) -> tuple[Checkpoint, ...]:
    """Put slimmed files, and all others of their folders, into one folder under their original names.

    Libraries that load a whole folder (transformers) find it complete.
    """
    folders = {PurePosixPath(name).parent for name in changed}
    touched = [file for file in checkpoints if PurePosixPath(file.original).parent in folders]
    updated = [changed.get(file.original, file) for file in touched]
    key = cache_key(*((file.original, file.sha256, str(file.path)) for file in updated))
    stage = context.cache / "slim" / key[:32]
    for old, checkpoint in zip(touched, updated, strict=True):
        if not (stage / checkpoint.original).exists():
            _put_file(checkpoint.path, stage / checkpoint.original, is_ours=old.original in changed)
    placed = {
        old.original: replace(checkpoint, path=stage / checkpoint.original)
        for old, checkpoint in zip(touched, updated, strict=True)
    }
    return tuple(placed.get(checkpoint.original, checkpoint) for checkpoint in checkpoints)


def _put_file(source: Path, target: Path, *, is_ours: bool) -> None:
    with files.translate_disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        if is_ours:
            files.link_or_copy(source, target)
            return
        try:
            target.symlink_to(source.absolute())
        except OSError:
            shutil.copyfile(source, target)
