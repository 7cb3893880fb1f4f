"""Prepare weights for the kit: scan them, drop training files, slim them, check what they would download."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from offline_kit.checkpoints import file_downloads, main_aliases, pickle_scan, slim
from offline_kit.checkpoints.main_aliases import MainAliases
from offline_kit.core.files import format_size
from offline_kit.core.report import SILENT, Reporter
from offline_kit.project import references
from offline_kit.project.config import Config
from offline_kit.project.types import Checkpoint, Finding

# https://github.com/huggingface/transformers/blob/main/src/transformers/trainer.py
# What transformers' Trainer and DeepSpeed save beside a model for resuming the training
_TRAINING_FILES = re.compile(
    r"optimizer\.(pt|bin)|scheduler\.pt|scaler\.pt|rng_state(_\d+)?\.pth|training_args\.bin|trainer_state\.json"
    r"|global_step\d+|zero_to_fp32\.py|events\.out\.tfevents\..+"
)


@dataclass(frozen=True, kw_only=True)
class PreparedWeights:
    """Weights as they go into the kit."""

    checkpoints: tuple[Checkpoint, ...]
    preprocessing: tuple[Checkpoint, ...]
    main_aliases: MainAliases
    findings: tuple[Finding, ...]


def prepare_weights(
    config: Config,
    checkpoints: Sequence[Checkpoint],
    preprocessing: Sequence[Checkpoint],
    *,
    cache: Path,
    report: Reporter = SILENT,
) -> PreparedWeights:
    """Scan all files, drop training files and slim the checkpoints.

    Raises ProjectError for unsafe pickles, for names of `__main__` that no file defines, and if slimming is configured
    and no interpreter has torch.
    """
    kept_files = _drop_training_files(checkpoints, config.checkpoints, report)
    other_files = drop_cache_blobs(preprocessing)
    scan_results = pickle_scan.scan_checkpoints(
        [*kept_files, *other_files],
        trust=config.trust,
        own_modules=list_own_modules(config),
        cache=cache,
        report=report,
    )
    source = config.notebook.source
    notebook_names = main_aliases.list_notebook_names(config.project / source) if source else set()
    aliases = main_aliases.resolve_main_aliases(
        config.project, config.main_from, scan_results, notebook_names
    )
    # After the scan: slimming loads what is trusted
    slimmed, slim_findings = slim.slim_checkpoints(kept_files, config, cache=cache, report=report)
    return PreparedWeights(
        checkpoints=slimmed,
        preprocessing=other_files,
        main_aliases=aliases,
        findings=(
            *file_downloads.check_hub_folders(kept_files, other_files),
            *file_downloads.check_hyper_parameters(kept_files, config.notebook.params),
            *slim_findings,
        ),
    )


def list_own_modules(config: Config) -> frozenset[str]:
    """Return the top-level modules of the project's own code, which the kit holds if a pickle needs them."""
    folders = [
        folder for package in (*config.packages, config.project) for folder in (package / "src", package)
    ]
    modules = (folder for module in config.modules for folder in (module, module.parent))
    folders += [folder for folder in modules if folder.is_dir()]
    return frozenset(
        name for root in dict.fromkeys(folders) for name in references.list_top_level_names(root)
    )


def _drop_training_files(
    checkpoints: Sequence[Checkpoint], explicit: Sequence[str], report: Reporter
) -> tuple[Checkpoint, ...]:
    """Return the checkpoints without training files in model folders (those with a config.json).

    `explicit` are the patterns of the configuration: what one of them names outright stays.
    """
    paths = {checkpoint.original: PurePosixPath(checkpoint.original) for checkpoint in checkpoints}
    folders = {path.parent for path in paths.values() if path.name == "config.json"}
    outright = {pattern.removeprefix("./") for pattern in explicit}
    dropped = []
    for checkpoint in checkpoints:
        path = paths[checkpoint.original]
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


def drop_cache_blobs(files: Sequence[Checkpoint]) -> tuple[Checkpoint, ...]:
    """Return files without the blobs of the hub's cache, to which its snapshots link."""
    blobs = [
        file
        for file in files
        if file.original.startswith("caches/") and "blobs" in PurePosixPath(file.original).parts[:-1]
    ]
    return tuple(file for file in files if file not in blobs)
