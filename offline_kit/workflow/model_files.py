"""The trained files of a project, looked at before anything is downloaded, and the notebook that follows from them."""

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
from offline_kit.notebook import member_params, predict_settings, scripts
from offline_kit.notebook import rendering as notebook
from offline_kit.notebook.runtime import kit_sources
from offline_kit.notebook.runtime.kit_runtime import MARKER, KitError
from offline_kit.project import kaggle_sources
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
    """What was found of them."""

    config: Config
    """The configuration, with the template that follows from them."""
    checkpoints: tuple[Checkpoint, ...]
    preprocessing: tuple[Checkpoint, ...]
    """What is loaded by name beside them."""
    members: tuple[Member, ...] = ()
    """The models that the notebook predicts with; empty if it does not go by models."""
    findings: tuple[Finding, ...] = ()
    """What was seen in them; none that stops a build."""
    packages: tuple[str, ...] = ()
    """Distributions that the notebook imports to predict with them."""
    lent: MainAliases = NO_ALIASES
    """The names of `__main__` that their pickles look up."""


def inspect_model_files(
    config: Config, image: Image, *, cache: Path, report: Reporter = SILENT
) -> ModelFiles:
    """Find the trained files, resolve the models of the notebook, and ask the frameworks what they see in them.

    Raises UsageError and ProjectError for all that would make a kit useless: settings, files, findings that stop.
    """
    adopted_notebook.check_notebook(
        config.notebook, image, notebook_target(config), weights=bool(config.checkpoints)
    )
    weights = checkpoints.collect_checkpoints(config.project, config.checkpoints, cache=cache, report=report)
    preprocessing = checkpoints.collect_checkpoints(
        config.project, config.preprocessing, cache=cache, report=report
    )
    # What is named as preprocessing is none of the models, though a glob of checkpoints takes it in.
    preprocessing_paths = {checkpoint.path for checkpoint in preprocessing}
    weights = tuple(checkpoint for checkpoint in weights if checkpoint.path not in preprocessing_paths)
    ready = weighing.prepare_weights(config, weights, preprocessing, cache=cache, report=report)
    config, weights, preprocessing = ready.config, ready.checkpoints, ready.preprocessing
    config = replace(config, notebook=members.choose_template(config.notebook, weights))
    by_models = _goes_by_models(config.notebook)
    config = replace(config, notebook=_attach_sources(config.notebook))
    no_models = members.find_non_models(config.notebook, weights) if by_models else {}
    preprocessing += tuple(checkpoint for checkpoint in weights if checkpoint.original in no_models)
    weights = tuple(checkpoint for checkpoint in weights if checkpoint.original not in no_models)
    resolved = _resolve_members(config, weights, cache) if by_models else ()
    if resolved and not config.notebook.function:
        roots = (
            search_path
            for package in (*config.packages, config.project)
            for search_path in (package / "src", package)
        )
        code = member_params.CodeLookup(project=config.project, roots=tuple(dict.fromkeys(roots)))
        task = predict_settings.choose_task(config.notebook, resolved)
        member_params.check_params(config.notebook, resolved, task, code)
    inspected = ModelFiles(
        config=config,
        checkpoints=weights,
        preprocessing=preprocessing,
        members=resolved,
        findings=(
            *ready.findings,
            *_rename_preprocessing(no_models, layout.name_preprocessing_files(preprocessing)),
            *members.check_members(resolved),
            *members.check_column_order(config.notebook, resolved),
            *predict_settings.warn_of_unused(config.notebook, resolved, preprocessing),
            *predict_settings.warn_of_unnamed(config.notebook, resolved, weights),
            *members.check_undecided(config.notebook, weights),
            *predict_settings.warn_of_ranks(config.notebook, resolved),
        ),
        lent=ready.main_aliases,
        # Code of the person's own loads them where no models do, and names no library for a pickle.
        packages=members.list_member_packages(
            resolved, preprocessing if by_models else (*weights, *preprocessing)
        ),
    )
    _raise_for_problems(inspected.findings)
    if by_models:
        adopted_notebook.check_notebook(
            config.notebook, image, notebook_target(config, inspected), weights=bool(weights)
        )
    return inspected


def _goes_by_models(settings: NotebookSettings) -> bool:
    """Whether the notebook predicts with members; a template of the user's may extend ours, and then says the task."""
    own = settings.template not in scripts.built_in_templates()
    return settings.template == "predict" or bool(settings.models) or (own and bool(settings.task))


def _rename_preprocessing(no_models: Mapping[str, str], names: Mapping[str, str]) -> tuple[Finding, ...]:
    """Return what is no model, with the name that a notebook asks for it by; `names` leads to those in the kit."""
    requested_names = {
        inside.removeprefix("checkpoints/preprocessing/"): name for name, inside in names.items()
    }
    return tuple(
        Finding(
            severity=Severity.NOTE,
            about=name,
            what=f'{checkpoint}: it travels as preprocessing["{requested_names.get(name, name)}"]',
        )
        for name, checkpoint in no_models.items()
    )


def _attach_sources(settings: NotebookSettings) -> NotebookSettings:
    """Return the settings with the sources of the models among those that the notebook attaches."""
    sources_by_key = kaggle_sources.group_by_metadata_key(
        kaggle_sources.parse_source(model.origin) for model in settings.models if model.origin
    )
    updates: dict[str, Any] = {
        key: tuple(dict.fromkeys((*getattr(settings, key), *refs))) for key, refs in sources_by_key.items()
    }
    return replace(settings, **updates)


def _resolve_members(config: Config, weights: tuple[Checkpoint, ...], cache: Path) -> tuple[Member, ...]:
    """Resolve the models, those of other sources in the local copies of these, under original names if there are some."""
    copies = dict(config.copies)
    models = list(config.notebook.models)
    for origin in {model.origin for model in models} & set(copies):
        originals = _restore_names(copies[origin], cache)
        spelled = {
            index: kit_sources.match_original(model.files, originals) if originals else ""
            for index, model in enumerate(models)
            if model.origin == origin
        }
        if originals and all(spelled.values()):
            copies[origin] = originals
            for index, files_named in spelled.items():
                models[index] = replace(models[index], files=files_named)
    settings = replace(config.notebook, models=tuple(models))
    return members.resolve_members(settings, weights, _copied_files(settings, copies, config, cache))


def _restore_names(copy: Path, cache: Path) -> Path | None:
    """Lay out what offline-kit has published in a local copy under its original names; None: nothing is."""
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
    folder = cache / "sources" / hashlib.sha256(str(copy.resolve()).encode()).hexdigest()[:12]
    files.remove_path(folder)
    for original, path in published.items():
        files.link_or_copy(path, folder / original)
    return folder


def _copied_files(
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
        [model for names in files_by_source.values() for model in names],
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
        accelerator=config.accelerator,
        members=model_files.members if model_files else (),
        lent=model_files.lent if model_files else NO_ALIASES,
        preprocessing=layout.name_preprocessing_files(model_files.preprocessing) if model_files else {},
    )


def advise_on_checkpoints(model_files: ModelFiles) -> tuple[str, ...]:
    """Return what to do about checkpoints that would not load, as far as no framework has looked at them."""
    trusted = model_files.config.notebook.params.get("weights_only") is False
    pickles = (CheckpointKind.PICKLE, CheckpointKind.JOBLIB)
    loaded_whole = [member for member in model_files.members if _loads_whole(member)]
    known_files = {
        file.original for member in model_files.members for file in member.files if file.kind in pickles
    }
    known_files |= {file.original for member in loaded_whole for file in member.files}
    return tuple(
        line
        for checkpoint in model_files.checkpoints
        if checkpoint.original not in known_files
        for line in checkpoints.advise_loading(
            checkpoint, trusted=trusted, distributions=list_pickle_packages((checkpoint,))
        )
    )


def _loads_whole(member: Member) -> bool:
    """Whether a member's framework loads what torch.load with weights_only would refuse, and has said what that takes."""
    return member.framework in ("torch_module", "torchscript") or member.params.get("weights_only") is False


def check_trained_versions(model_files: ModelFiles, frozen: Freeze) -> tuple[Finding, ...]:
    """Return what the notebook's versions of the training libraries mean for the models and the pickles beside them."""
    pinned_versions = {pin.name: pin.version for pin in frozen.pins if pin.fate is not Fate.SKIPPED}
    return compare_versions(
        model_files.members,
        pinned_versions,
        frozen.image,
        (*model_files.checkpoints, *model_files.preprocessing),
    )


def _raise_for_problems(findings: tuple[Finding, ...]) -> None:
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
