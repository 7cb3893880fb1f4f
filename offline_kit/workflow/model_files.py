"""The trained files of a project, inspected before anything is downloaded, and the notebook that follows from them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from offline_kit.adopt import adopted_notebook
from offline_kit.checkpoints import discovery as checkpoints
from offline_kit.checkpoints import members, pickle_scan
from offline_kit.checkpoints import prepare as weighing
from offline_kit.checkpoints.frameworks.framework_table import compare_versions
from offline_kit.checkpoints.main_aliases import NO_ALIASES, MainAliases
from offline_kit.checkpoints.pickle_streams import list_pickle_packages
from offline_kit.core import files
from offline_kit.core.errors import ProjectError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.kit import layout
from offline_kit.notebook import predict_settings, scripts
from offline_kit.notebook import rendering as notebook
from offline_kit.notebook.runtime import kit_sources
from offline_kit.notebook.runtime.kit_runtime import MARKER, KitError
from offline_kit.project import kaggle_names
from offline_kit.project.config import Config
from offline_kit.project.images import Image
from offline_kit.project.types import (
    Checkpoint,
    CheckpointKind,
    Fate,
    Finding,
    Freeze,
    Member,
    NotebookSettings,
    Severity,
)


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """The trained files, and what they tell about the notebook."""

    config: Config  # the configuration, with the template that follows from the files
    checkpoints: tuple[Checkpoint, ...]
    preprocessing: tuple[Checkpoint, ...]  # files that the notebook loads by name
    members: tuple[Member, ...] = ()
    """The models that the notebook predicts with; empty if it does not go by models."""
    findings: tuple[Finding, ...] = ()  # none of these stops a build
    packages: tuple[str, ...] = ()  # distributions that the notebook imports to predict with the files
    lent: MainAliases = NO_ALIASES  # the names of `__main__` that their pickles look up


def inspect_model_files(
    config: Config, image: Image, *, cache: Path, report: Reporter = SILENT
) -> ModelFiles:
    """Find the trained files and the notebook's models, and inspect them; raises what would make a kit useless."""
    # Wrong settings are told before files are read, which takes minutes for large ones.
    _check_notebook(config, image, None, config.checkpoints)
    weights, preprocessing = (
        checkpoints.collect_checkpoints(config.project, patterns, cache=cache, report=report)
        for patterns in (config.checkpoints, config.preprocessing)
    )
    # What is named as preprocessing is no model, though a glob of checkpoints matches it too.
    preprocessing_paths = {checkpoint.path for checkpoint in preprocessing}
    weights = tuple(checkpoint for checkpoint in weights if checkpoint.path not in preprocessing_paths)
    weights, preprocessing, aliases, findings = weighing.prepare_weights(
        config, weights, preprocessing, cache=cache, report=report
    )
    settings = _attach_sources(members.choose_template(config.notebook, weights))
    config = replace(config, notebook=settings)
    # A template of the user's may extend ours; it then says the task.
    extends_ours = settings.template not in scripts.built_in_templates() and bool(settings.task)
    by_models = settings.template == "predict" or bool(settings.models) or extends_ours
    no_models = members.find_non_models(settings, weights) if by_models else {}
    preprocessing += tuple(checkpoint for checkpoint in weights if checkpoint.original in no_models)
    weights = tuple(checkpoint for checkpoint in weights if checkpoint.original not in no_models)
    resolved = _resolve_members(config, weights, cache) if by_models else ()
    inspected = ModelFiles(
        config=config,
        checkpoints=weights,
        preprocessing=preprocessing,
        members=resolved,
        findings=(
            *findings,
            *_announce_preprocessing(no_models, preprocessing),
            *members.check_members(resolved),
            *members.check_column_order(settings, resolved),
            *predict_settings.warn_of_unused(settings, resolved, preprocessing),
            *members.check_undecided(settings, weights),
        ),
        lent=aliases,
        # Without models, the user's own code loads the files, and no framework tells what a pickle needs.
        packages=members.list_member_packages(
            resolved, preprocessing if by_models else (*weights, *preprocessing)
        ),
    )
    _raise_problems(inspected.findings)
    if by_models:
        _check_notebook(config, image, inspected, weights)
    return inspected


def _check_notebook(config: Config, image: Image, inspected: ModelFiles | None, weights: object) -> None:
    target = notebook_target(config, inspected)
    adopted_notebook.check_notebook(config.notebook, image, target, weights=bool(weights))


def _raise_problems(findings: tuple[Finding, ...]) -> None:
    problems = [finding for finding in findings if finding.severity is Severity.STOP]
    if problems:
        raise ProjectError(
            f"{len(problems)} problem{'s' * (len(problems) > 1)} with the trained files",
            code="checkpoints-invalid",
            hint=problems[0].remedy or "see each line",
            details=[
                f"'{finding.about}' {finding.what}{': ' * bool(finding.remedy)}{finding.remedy}"
                for finding in problems
            ],
        )


def _announce_preprocessing(
    no_models: Mapping[str, str], preprocessing: tuple[Checkpoint, ...]
) -> tuple[Finding, ...]:
    """Tell the name that a notebook finds each checkpoint by that is no model."""
    paths = layout.name_preprocessing_files(preprocessing)
    names = {path.removeprefix("checkpoints/preprocessing/"): name for name, path in paths.items()}
    return tuple(
        Finding(
            severity=Severity.NOTE,
            about=original,
            what=f'{reason}: it travels as preprocessing["{names.get(original, original)}"]',
        )
        for original, reason in no_models.items()
    )


def _attach_sources(settings: NotebookSettings) -> NotebookSettings:
    """Add the sources of the models to those that the notebook attaches."""
    sources_by_key = kaggle_names.group_by_metadata_key(
        kaggle_names.parse_source(model.origin) for model in settings.models if model.origin
    )
    updates: dict[str, Any] = {
        key: tuple(dict.fromkeys((*getattr(settings, key), *refs))) for key, refs in sources_by_key.items()
    }
    return replace(settings, **updates)


def _resolve_members(config: Config, weights: tuple[Checkpoint, ...], cache: Path) -> tuple[Member, ...]:
    """Resolve the models; those of other Kaggle sources in local copies, by original names if a kit published them."""
    copies = dict(config.copies)
    models = list(config.notebook.models)
    for origin in {model.origin for model in models} & set(copies):
        originals = _restore_names(copies[origin], cache)
        if not originals:
            continue
        spelled = {
            index: kit_sources.match_original(model.files, originals)
            for index, model in enumerate(models)
            if model.origin == origin
        }
        if all(spelled.values()):
            copies[origin] = originals
            for index, files_named in spelled.items():
                models[index] = replace(models[index], files=files_named)
    settings = replace(config.notebook, models=tuple(models))
    resolved = members.resolve_members(settings, weights, _collect_copies(settings, copies, config, cache))
    if resolved and not settings.function:
        predict_settings.ParamCheck(
            settings=config.notebook,
            members=resolved,
            task=predict_settings.choose_task(config.notebook, resolved),
            project=config.project,
            roots=config.code_roots,
        ).raise_problems()
    return resolved


def _restore_names(copy: Path, cache: Path) -> Path | None:
    """Link the files that a kit published in a local copy under their original names; None if it is of no kit."""
    try:
        published = kit_sources.find_published(copy)
    except KitError as error:
        raise ProjectError(
            f"the local copy '{copy}' is damaged: {error.what}",
            hint="download it again",
            code="source-copy-damaged",
            details=error.details,
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProjectError(
            f"'{copy / MARKER}' cannot be read: {error}",
            code="published-files-not-readable",
            hint="download it again",
        ) from error
    if not published:
        return None
    # A copy may be on another disk, or read-only: links are made in the cache.
    folder = cache / "sources" / hashlib.sha256(str(copy.resolve()).encode()).hexdigest()[:12]
    files.remove_path(folder)
    for original, path in published.items():
        files.link_or_copy(path, folder / original)
    return folder


def _collect_copies(
    settings: NotebookSettings, copies: Mapping[str, Path], config: Config, cache: Path
) -> dict[str, tuple[Checkpoint, ...]]:
    """Return the models' files in the local copies of other sources, by source."""
    patterns: dict[str, list[str]] = {}
    for model in settings.models:
        if model.origin in copies:
            patterns.setdefault(model.origin, []).append(model.files)
    files_by_source = {
        origin: checkpoints.collect_checkpoints(copies[origin], names, cache=cache)
        for origin, names in patterns.items()
    }
    # They do not travel, but the notebook loads them all the same.
    pickle_scan.scan_checkpoints(
        [checkpoint for collected in files_by_source.values() for checkpoint in collected],
        trust=config.trust,
        own_modules=weighing.list_own_modules(config),
        cache=cache,
    )
    return files_by_source


def notebook_target(config: Config, model_files: ModelFiles | None = None) -> notebook.NotebookTarget:
    """Return what the notebook is of, as far as the configuration and the trained files tell."""
    return notebook.NotebookTarget(
        project=config.project,
        name=config.name,
        version=config.version,
        competition=config.competition,
        dataset=config.dataset,
        time_limit=config.time_limit,
        accelerator=config.accelerator,
        members=model_files.members if model_files else (),
        lent=model_files.lent if model_files else NO_ALIASES,
        preprocessing=layout.name_preprocessing_files(model_files.preprocessing) if model_files else {},
    )


def advise_on_checkpoints(model_files: ModelFiles) -> tuple[str, ...]:
    """Return what to do about checkpoints that would not load, unless their framework has said it."""
    pickles = (CheckpointKind.PICKLE, CheckpointKind.JOBLIB)
    known_files = set()
    for member in model_files.members:
        # These load what torch.load with weights_only refuses.
        whole = (
            member.framework in ("torch_module", "torchscript") or member.params.get("weights_only") is False
        )
        known_files |= {file.original for file in member.files if whole or file.kind in pickles}
    trusted = model_files.config.notebook.params.get("weights_only") is False
    return tuple(
        line
        for checkpoint in model_files.checkpoints
        if checkpoint.original not in known_files
        for line in checkpoints.advise_loading(
            checkpoint, trusted=trusted, distributions=list_pickle_packages((checkpoint,))
        )
    )


def check_trained_versions(model_files: ModelFiles, frozen: Freeze) -> tuple[Finding, ...]:
    """Compare the training libraries' versions in the trained files with those that the notebook will have."""
    pinned_versions = {pin.name: pin.version for pin in frozen.pins if pin.fate is not Fate.SKIPPED}
    trained = (*model_files.checkpoints, *model_files.preprocessing)
    return compare_versions(model_files.members, pinned_versions, frozen.image, trained)
