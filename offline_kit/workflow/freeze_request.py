"""What a project asks of the indexes, and which of its own code its notebook names."""

from offline_kit.checkpoints import main_aliases
from offline_kit.notebook import imports, predict_settings
from offline_kit.packages.freeze.freeze import FreezeRequest
from offline_kit.packages.freeze.pyproject_dependencies import read_project_dependencies
from offline_kit.packages.own import own_code
from offline_kit.project.config import Config
from offline_kit.project.types import OwnCode
from offline_kit.workflow.model_files import ModelFiles


def build_freeze_request(
    model_files: ModelFiles, own: OwnCode, *, upgrade: bool = False, keep: bool = False
) -> FreezeRequest:
    """Return the request for a freeze; `keep` writes it beside the project."""
    config = model_files.config
    theirs, own_ask = of_project(config), own_code.list_requirements(own)
    origins = dict.fromkeys(model_files.packages, "the trained files") | dict.fromkeys(
        own_ask, "the project's packages"
    )
    return FreezeRequest(
        project=config.project,
        requirements=config.requirements,
        inline=tuple(dict.fromkeys((*theirs, *own_ask, *model_files.packages))),
        origins={line: origin for line, origin in origins.items() if line not in theirs},
        locks=config.locks,
        exclude=config.exclude,
        include=config.include,
        imported=imported_names(config, own),
        replace=config.replace,
        pins=config.pins,
        engine=config.engine,
        upgrade=upgrade,
        freeze_path=config.lock,
        keep=keep,
    )


def imported_names(config: Config, own: OwnCode) -> frozenset[str]:
    """Return the top-level names that the project's own code imports, and its notebook where it has one."""
    paths = [*(wheel.path for wheel in own.wheels), *(source.path for source in own.sources)]
    if config.notebook.source:
        paths.append(config.project / config.notebook.source)
    return imports.find_file_imports([path for path in paths if path.is_file()])


def of_project(config: Config) -> tuple[str, ...]:
    """Return what the project's own pyproject.toml asks for, as far as the configuration takes it from there."""
    if not (config.project_dependencies or config.extras or config.groups):
        return ()
    return read_project_dependencies(
        config.project / "pyproject.toml",
        extras=config.extras,
        groups=config.groups,
        dependencies=config.project_dependencies,
    )


def configured_references(config: Config) -> tuple[str, ...]:
    """Return the references of the configuration."""
    settings = config.notebook
    hooks = [
        settings.transform,
        settings.tta,
        settings.postprocess if predict_settings.is_reference(settings.postprocess) else "",
    ]
    models = [ref for model in settings.models for ref in (model.model, model.transform)]
    lending = main_aliases.reference_main_script(config.project, config.main_from)
    references = (settings.model, settings.data, settings.function, *hooks, *models, *lending)
    return tuple(dict.fromkeys(ref for ref in references if ref))
