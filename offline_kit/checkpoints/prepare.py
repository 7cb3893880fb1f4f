"""Prepare weights for the kit: scan them, drop training files, slim them, check what they would download.

Slimming leaves out what only resuming the training needs. `slim_worker` does this in an interpreter that has torch, and
compares every tensor with the original's. Results are cached by content, so that the same checkpoint gives the same
bytes without being loaded again.
"""

import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

from offline_kit.checkpoints import downloads, main_aliases, pickle_scan
from offline_kit.checkpoints.file_kinds import classify_file
from offline_kit.checkpoints.main_aliases import MainAliases
from offline_kit.core import files, processes, resources
from offline_kit.core.cache import Cache, cache_key
from offline_kit.core.errors import OfflineKitError, OutsideError, ProjectError
from offline_kit.core.files import format_size
from offline_kit.core.report import SILENT, Reporter
from offline_kit.project import references
from offline_kit.project.config import Config
from offline_kit.project.types import Checkpoint, CheckpointKind, Finding, Severity

# https://github.com/huggingface/transformers/blob/main/src/transformers/trainer.py
# What transformers' Trainer and DeepSpeed save beside a model for resuming the training
_TRAINING_FILES = re.compile(
    r"optimizer\.(pt|bin)|scheduler\.pt|scaler\.pt|rng_state(_\d+)?\.pth|training_args\.bin|trainer_state\.json"
    r"|global_step\d+|zero_to_fp32\.py|events\.out\.tfevents\..+"
)
# Increased when the worker writes other bytes
_CACHE_VERSION = 4
_TORCH_KINDS = frozenset({CheckpointKind.LIGHTNING, CheckpointKind.TORCH_ZIP, CheckpointKind.TORCH_LEGACY})


def prepare_weights(
    config: Config,
    checkpoints: Sequence[Checkpoint],
    preprocessing: Sequence[Checkpoint],
    *,
    cache: Path,
    report: Reporter = SILENT,
) -> tuple[tuple[Checkpoint, ...], tuple[Checkpoint, ...], MainAliases, tuple[Finding, ...]]:
    """Scan all files, drop training files and slim the checkpoints.

    Returns the checkpoints and the preprocessing files as they go into the kit, the names of `__main__` that their pickles
    look up, and findings.

    Raises ProjectError for unsafe pickles, for names of `__main__` that no file defines, and if slimming is configured
    and no interpreter has torch.
    """
    kept_files = _drop_training_files(checkpoints, config.checkpoints, report)
    other_files = drop_cache_blobs(preprocessing)
    main_names = pickle_scan.scan_checkpoints(
        [*kept_files, *other_files],
        trust=config.trust,
        own_modules=list_own_modules(config),
        cache=cache,
        report=report,
    )
    source = config.notebook.source
    notebook_names = main_aliases.list_notebook_names(config.project / source) if source else set()
    aliases = main_aliases.resolve_main_aliases(config.project, config.main_from, main_names, notebook_names)
    # After the scan: slimming loads what is trusted
    slimmed, slim_findings = slim_checkpoints(kept_files, config, cache=cache, report=report)
    findings = (
        *downloads.check_hub_folders(kept_files, other_files),
        *downloads.check_hyper_parameters(kept_files, config.notebook.params),
        *slim_findings,
    )
    return slimmed, other_files, aliases, findings


def list_own_modules(config: Config) -> frozenset[str]:
    """Return the top-level modules of the project's own code, which the kit holds if a pickle needs them."""
    modules = (folder for module in config.modules for folder in (module, module.parent))
    roots = dict.fromkeys((*config.code_roots, *(folder for folder in modules if folder.is_dir())))
    return frozenset(name for root in roots for name in references.list_top_level_names(root))


def _drop_training_files(
    checkpoints: Sequence[Checkpoint], explicit: Sequence[str], report: Reporter
) -> tuple[Checkpoint, ...]:
    """Return the checkpoints without training files in model folders (those with a config.json).

    `explicit` are the patterns of the configuration: what one of them names outright stays.
    """
    folders = _list_model_folders(checkpoints)
    outright = {pattern.removeprefix("./") for pattern in explicit}
    dropped = []
    for checkpoint in checkpoints:
        path = PurePosixPath(checkpoint.original)
        # DeepSpeed's states lie in a folder of their own.
        is_deepspeed = any(
            parent.parent in folders and re.fullmatch(r"global_step\d+", parent.name)
            for parent in path.parents
        )
        is_beside = path.parent in folders and _TRAINING_FILES.fullmatch(path.name)
        if (is_beside or is_deepspeed) and checkpoint.original not in outright:
            dropped.append(checkpoint)
    if dropped:
        names = ", ".join(f"'{checkpoint.original}'" for checkpoint in dropped[:4])
        total = format_size(sum(checkpoint.size for checkpoint in dropped))
        more = " …" * (len(dropped) > 4)
        report.note(f"dropped, because only the training needs it ({total}): {names}{more}")
    return tuple(checkpoint for checkpoint in checkpoints if checkpoint not in dropped)


def _list_model_folders(checkpoints: Sequence[Checkpoint]) -> set[PurePosixPath]:
    paths = (PurePosixPath(checkpoint.original) for checkpoint in checkpoints)
    return {path.parent for path in paths if path.name == "config.json"}


def drop_cache_blobs(files: Sequence[Checkpoint]) -> tuple[Checkpoint, ...]:
    """Return files without the blobs of the hub's cache, to which its snapshots link."""
    blobs = [
        file
        for file in files
        if file.original.startswith("caches/") and "blobs" in PurePosixPath(file.original).parts[:-1]
    ]
    return tuple(file for file in files if file not in blobs)


def slim_checkpoints(
    checkpoints: Sequence[Checkpoint], config: Config, *, cache: Path, report: Reporter = SILENT
) -> tuple[tuple[Checkpoint, ...], tuple[Finding, ...]]:
    """Return the checkpoints as configured, in their order, with findings; the originals are only read.

    Those that cannot be slimmed are unchanged. Unsafe ones were refused before. Raises ProjectError if no interpreter
    has torch, OutsideError if the worker fails.
    """
    slimmed, findings = list[Checkpoint](), list[Finding]()
    # What lies in the folder of a library (transformers) has no training in it, and is loaded with the whole folder.
    folders = _list_model_folders(checkpoints)
    for checkpoint in checkpoints:
        is_script = any("TorchScript" in line for line in checkpoint.refused)
        is_beside = PurePosixPath(checkpoint.original).parent in folders
        new, finding = checkpoint, None
        if config.slim and checkpoint.kind in _TORCH_KINDS and not is_script and not is_beside:
            new, finding = _slim_one(checkpoint, config, Cache(cache), report)
        slimmed.append(new)
        findings += [finding] if finding else []
    return tuple(slimmed), tuple(findings)


def _slim_one(
    checkpoint: Checkpoint, config: Config, store: Cache, report: Reporter
) -> tuple[Checkpoint, Finding | None]:
    """Return the new checkpoint, or the old one, and a finding on it."""
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
        return checkpoint, Finding(
            severity=Severity.WARN,
            about=checkpoint.original,
            what=f"is included unchanged: {reason}",
            remedy=f'if you saved it yourself, set trust = ["{checkpoint.original}"]' if is_refused else "",
        )
    size = int(str(record["size"]))
    if size >= checkpoint.size:
        return checkpoint, None  # nothing to drop: torch wrote it smaller than we would
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
