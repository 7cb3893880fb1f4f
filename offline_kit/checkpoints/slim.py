"""Checkpoints without what only the training needs, in half precision or as safetensors where that is wished.

The work is done by `slim_worker` in an interpreter that has torch; every tensor is compared with the
original's. What comes out is kept by content, so that the same checkpoint gives the same bytes without being
loaded again.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from offline_kit.checkpoints import torch_python
from offline_kit.checkpoints.file_kinds import sniff
from offline_kit.core import files, processes, resources
from offline_kit.core.cache import Cache, cache_key
from offline_kit.core.errors import OfflineKitError, OutsideError
from offline_kit.core.files import format_size
from offline_kit.core.report import SILENT, Reporter
from offline_kit.project.types import Checkpoint, CheckpointKind, Finding, Severity

_RULES = 2
"""Counted up when the worker writes other bytes."""
_TORCHS = frozenset({CheckpointKind.LIGHTNING, CheckpointKind.TORCH_ZIP, CheckpointKind.TORCH_LEGACY})


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is asked of the checkpoints."""

    slim: bool = False
    """Leave the states of optimizers, schedulers, callbacks and loops out."""
    precision: str = "keep"
    """"keep" or "half"."""
    weights_format: str = "keep"
    """"keep" or "safetensors"."""

    def __bool__(self) -> bool:
        """Whether anything is asked."""
        return self.slim or self.precision == "half" or self.weights_format == "safetensors"

    @property
    def words(self) -> str:
        """The first key of the configuration that asks."""
        return "slim" if self.slim else "precision" if self.precision == "half" else "weights_format"


@dataclass(frozen=True, kw_only=True)
class Yard:
    """Where the work is done."""

    project: Path
    """The project, whose environment is tried first and whose classes a trusted checkpoint may need."""
    cache: Path
    """Where the results are kept."""
    trusted: Callable[[str], bool] = lambda _original: False
    """Whether a checkpoint (by its original name) may be loaded with all that its pickle holds."""
    main: Path | None = None
    """The script whose names a trusted checkpoint may look up in `__main__`; None for no script."""
    main_names: tuple[str, ...] = ()
    """These names."""


@dataclass(frozen=True, kw_only=True)
class Slimmed:
    """The checkpoints as they travel."""

    checkpoints: tuple[Checkpoint, ...]
    """In the order of the original ones; those that could not be made lighter are the original ones."""
    findings: tuple[Finding, ...] = ()
    """What was saved on each, and why others were left as they are."""
    renamed: tuple[tuple[str, str], ...] = ()
    """Old and new original names, where the format changed."""


def slimmed(
    checkpoints: Sequence[Checkpoint], wish: Wish, yard: Yard, *, report: Reporter = SILENT
) -> Slimmed:
    """Return the checkpoints as wished; the originals are only read.

    Raises ProjectError where no interpreter has torch, OutsideError where the work itself breaks off.
    """
    fitting = [each for each in checkpoints if _fits(each, wish)] if wish else []
    made = {each.original: _made(each, wish, yard, report) for each in fitting}
    changed = {old: new for old, (new, _) in made.items() if new}
    placed = _placed(checkpoints, changed, yard)
    return Slimmed(
        checkpoints=placed,
        findings=tuple(finding for _, finding in made.values() if finding),
        renamed=tuple((old, new.original) for old, new in changed.items() if old != new.original),
    )


def _fits(checkpoint: Checkpoint, wish: Wish) -> bool:
    if checkpoint.kind is CheckpointKind.SAFETENSORS:
        return wish.precision == "half"
    script = any("TorchScript" in line or "oldest format" in line for line in checkpoint.refused)
    return checkpoint.kind in _TORCHS and not script


def _made(
    checkpoint: Checkpoint, wish: Wish, yard: Yard, report: Reporter
) -> tuple[Checkpoint | None, Finding | None]:
    """Return the new checkpoint (None: it stays as it is), and what is to be said about it."""
    memory = Cache(yard.cache)
    trusted = yard.trusted(checkpoint.original)
    key = cache_key(_RULES, checkpoint.sha256, wish.slim, wish.precision, wish.weights_format, trusted)
    record = memory.read_record("slim", key)
    blob = memory.find_blob(str(record["sha256"])) if record and record.get("sha256") else None
    if record is None or (record.get("sha256") and blob is None):
        report.step(f"Making '{checkpoint.original}' light ({format_size(checkpoint.size)})")
        record, blob = _worked(checkpoint, wish, yard, memory, trusted=trusted)
        if blob or not trusted:  # what hinders the load of a trusted one may be mended in the project's code
            memory.write_record("slim", key, record)
    if blob is None:
        return None, _left(checkpoint, str(record["left"]), trusted=trusted)
    if record["size"] == checkpoint.size and not record["halved"] and not _renames(checkpoint, wish):
        return None, None
    if int(str(record["size"])) >= checkpoint.size and not _renames(checkpoint, wish):
        return None, None  # nothing to leave out: torch wrote it tighter than we would
    seen = sniff(blob)
    new = replace(
        checkpoint,
        original=_new_name(checkpoint, wish),
        path=blob,
        size=int(str(record["size"])),
        sha256=str(record["sha256"]),
        kind=seen.kind,
        refused=seen.refused,
    )
    return new, _saved(checkpoint, new, record)


def _worked(
    checkpoint: Checkpoint, wish: Wish, yard: Yard, memory: Cache, *, trusted: bool
) -> tuple[dict[str, object], Path | None]:
    python = torch_python.find(yard.project, processes.copy_environment(), asked_by=f"`{wish.words}`")
    room = files.make_folder(yard.cache / "parts")
    with tempfile.TemporaryDirectory(prefix="slim-", dir=room) as name, files.translate_disk_errors(room):
        scratch = Path(name)
        (scratch / "worker.py").write_text(resources.read_source("checkpoints/slim_worker"), encoding="utf-8")
        request = {
            "source": str(checkpoint.path.absolute()),
            # torch writes this name's stem into the archive: it must not follow the user's
            "target": str(scratch / "weights.pt"),
            "slim": wish.slim,
            "half": wish.precision == "half",
            "safetensors": _as_safetensors(checkpoint, wish),
            "trusted": trusted,
            "roots": list(
                map(str, (*([yard.main.parent] if yard.main else []), yard.project, yard.project / "src"))
            ),
            "main": str(yard.main or ""),
            "names": yard.main_names,
        }
        (scratch / "request.json").write_text(json.dumps(request), encoding="utf-8")
        answer = _answer(python, scratch, checkpoint)
        if "left" in answer:
            return {"left": str(answer["left"])}, None
        blob, digest = memory.store_file(scratch / "weights.pt")
    return {**answer, "sha256": digest}, blob


def _answer(python: Path, scratch: Path, checkpoint: Checkpoint) -> dict[str, object]:
    try:
        processes.run_command([python, scratch / "worker.py", scratch / "request.json"], cwd=scratch)
        answer = json.loads((scratch / "request.answer").read_text(encoding="utf-8"))
    except (OfflineKitError, OSError, ValueError) as error:
        raise OutsideError(
            f"'{checkpoint.original}' could not be made light: the work in '{python}' broke off",
            hint="free memory or disk where its words say so, or take `slim`, `precision` and `weights_format` out",
            details=getattr(error, "details", ()) or (str(error),),
        ) from error
    return dict(answer)


def _as_safetensors(checkpoint: Checkpoint, wish: Wish) -> bool:
    return wish.weights_format == "safetensors" or checkpoint.kind is CheckpointKind.SAFETENSORS


def _renames(checkpoint: Checkpoint, wish: Wish) -> bool:
    return _new_name(checkpoint, wish) != checkpoint.original


def _new_name(checkpoint: Checkpoint, wish: Wish) -> str:
    if not _as_safetensors(checkpoint, wish) or checkpoint.original.endswith(".safetensors"):
        return checkpoint.original
    old = PurePosixPath(checkpoint.original)
    # transformers looks for its weights under this one name
    stem = "model" if old.name == "pytorch_model.bin" else old.name if old.suffix == "" else old.stem
    return (old.parent / f"{stem}.safetensors").as_posix()


def _saved(old: Checkpoint, new: Checkpoint, record: dict[str, object]) -> Finding:
    dropped = record["dropped"] if isinstance(record["dropped"], list) else []
    lost = record["lost"] if isinstance(record["lost"], list) else []
    parts = [f"without {', '.join(map(str, dropped))}"] * bool(dropped)
    parts += [f"{record['halved']} tensors in half precision"] * bool(record["halved"])
    parts += ["as safetensors"] * (old.original != new.original)
    parts += [f"without {', '.join(map(str, lost))}, which safetensors cannot hold"] * bool(lost)
    rounded = "the old ones rounded, so predictions change by that much, and none was compared"
    proven = rounded if record["halved"] else "bit for bit the same"
    before, after = format_size(old.size), format_size(new.size)
    sizes = f"with {after} instead of {before}{': ' * bool(parts)}" if before != after else ""
    how = f"{sizes}{', '.join(parts)}" or "written anew"
    return Finding(
        severity=Severity.WARN if lost else Severity.NOTE,
        about=old.original,
        what=f"travels {how}; its {record['tensors']} tensors are {proven}",
        remedy="give what the model is made from in [tool.offline-kit.notebook.params]" if lost else "",
    )


def _left(checkpoint: Checkpoint, reason: str, *, trusted: bool) -> Finding:
    remedy = ""
    if "weights_only" in reason and not trusted:
        remedy = f'if you saved it yourself, set trust = ["{checkpoint.original}"]'
    elif "main_from" in reason:
        remedy = 'name that script in [tool.offline-kit]: main_from = "train.py"'
    return Finding(
        severity=Severity.WARN,
        about=checkpoint.original,
        what=f"travels as it is: {reason}",
        remedy=remedy,
    )


def _placed(
    checkpoints: Sequence[Checkpoint], changed: dict[str, Checkpoint], yard: Yard
) -> tuple[Checkpoint, ...]:
    """Give the new files their names, and those beside them a place in the same folder.

    Whoever looks at a folder of files (transformers') sees it whole, with the light file in it.
    """
    folders = {PurePosixPath(name).parent for name in changed}
    touched = [each for each in checkpoints if PurePosixPath(each.original).parent in folders]
    new = [changed.get(each.original, each) for each in touched]
    stage = (
        yard.cache / "slim" / cache_key(*((each.original, each.sha256, str(each.path)) for each in new))[:32]
    )
    for old, each in zip(touched, new, strict=True):
        if not (stage / each.original).exists():
            _put(each.path, stage / each.original, ours=old.original in changed)
    found = {
        old.original: replace(each, path=stage / each.original)
        for old, each in zip(touched, new, strict=True)
    }
    return tuple(found.get(each.original, each) for each in checkpoints)


def _put(source: Path, target: Path, *, ours: bool) -> None:
    with files.translate_disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        if ours:
            files.link_or_copy(source, target)
            return
        try:
            target.symlink_to(source.absolute())
        except OSError:
            shutil.copyfile(source, target)
