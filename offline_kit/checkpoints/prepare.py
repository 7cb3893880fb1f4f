"""Prepare weights for the kit: scan them, drop training files, slim them, check what they would download."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from offline_kit.checkpoints import (
    file_downloads,
    main_aliases,
    pickle_scan,
    slim,
    training_leftovers,
)
from offline_kit.checkpoints.main_aliases import NO_ALIASES, MainAliases
from offline_kit.core import files
from offline_kit.core.report import SILENT, Reporter
from offline_kit.project import references
from offline_kit.project.config import Config
from offline_kit.project.types import Checkpoint, Finding, ModelSpec, Severity


@dataclass(frozen=True, kw_only=True)
class PreparedWeights:
    """Weights as they go into the kit."""

    config: Config
    """With the models' files under their names in the kit."""
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
    kept_files = training_leftovers.drop_training_files(checkpoints, config.checkpoints, report=report)
    other_files = training_leftovers.drop_cache_blobs(preprocessing)
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
    options = slim.SlimOptions(
        slim=config.slim, precision=config.precision, weights_format=config.weights_format
    )
    download_findings = [
        *file_downloads.check_hub_folders(kept_files, other_files),
        *file_downloads.check_hyper_parameters(kept_files, config.notebook.params),
    ]
    script_findings = main_aliases.check_main_script(config.project, aliases)
    # A script that would train when it is imported stops the build: do not import it for slimming.
    slim_aliases = (
        NO_ALIASES if any(finding.severity is Severity.STOP for finding in script_findings) else aliases
    )
    slimmed = slim.slim_checkpoints(
        kept_files, options, _make_slim_context(config, slim_aliases, cache), report=report
    )
    return PreparedWeights(
        config=_rename_entries(config, slimmed),
        checkpoints=slimmed.checkpoints,
        preprocessing=other_files,
        main_aliases=aliases,
        findings=(*script_findings, *download_findings, *slimmed.findings),
    )


def list_own_modules(config: Config) -> frozenset[str]:
    """Return the top-level modules of the project's own code, which the kit holds if a pickle needs them."""
    packages = (
        folder for package in (*config.packages, config.project) for folder in (package / "src", package)
    )
    loose_folders = (
        folder for module in config.modules for folder in (module, module.parent) if folder.is_dir()
    )
    return frozenset(
        name
        for root in dict.fromkeys((*packages, *loose_folders))
        for name in references.list_top_level_names(root)
    )


def _make_slim_context(config: Config, aliases: MainAliases, cache: Path) -> slim.SlimContext:
    trust_all = config.notebook.params.get("weights_only") is False
    return slim.SlimContext(
        project=config.project,
        cache=cache,
        is_trusted=lambda original: trust_all or pickle_scan.is_trusted(original, config.trust),
        main=config.project / aliases.path if aliases.path else None,
        main_names=aliases.names,
    )


def _rename_entries(config: Config, slimmed: slim.SlimmedCheckpoints) -> Config:
    """Rename files in the entries of `models`, which use the names in the project."""
    if not slimmed.renamed or not config.notebook.models:
        return config
    old_names = {new: old for old, new in slimmed.renamed}
    names = {
        checkpoint.original: old_names.get(checkpoint.original, checkpoint.original)
        for checkpoint in slimmed.checkpoints
    }
    models = tuple(followed for spec in config.notebook.models for followed in _follow_entry(spec, names))
    return replace(config, notebook=replace(config.notebook, models=models))


def _follow_entry(spec: ModelSpec, names: Mapping[str, str]) -> tuple[ModelSpec, ...]:
    """Return an entry for each file that was renamed, or the entry itself if it still matches them."""
    pattern = spec.files.removeprefix("./")
    new_names = [new for new, old in names.items() if old == pattern or files.matches_glob(old, pattern)]
    if spec.origin or all(new == pattern or files.matches_glob(new, pattern) for new in new_names):
        return (spec,)
    return tuple(replace(spec, files=new) for new in new_names)
