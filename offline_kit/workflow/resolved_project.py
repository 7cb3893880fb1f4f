"""A project as all stages see it: configuration, image, index settings, trained files and own code, each found once."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from offline_kit.adopt import adopted_notebook, recording
from offline_kit.adopt.recording import RecordedRun
from offline_kit.checkpoints import main_aliases
from offline_kit.core import files, processes
from offline_kit.core.report import SILENT, Reporter
from offline_kit.notebook import imports, predict_settings
from offline_kit.notebook.rendering import RenderedNotebook
from offline_kit.packages import own_code, pip_settings
from offline_kit.packages.freeze.freeze import FreezeRequest
from offline_kit.packages.freeze.requirement_files import read_project_dependencies
from offline_kit.packages.index import PackageIndex
from offline_kit.project import images
from offline_kit.project.config import Config
from offline_kit.project.types import Finding, Kit, OwnCode
from offline_kit.workflow import model_files, part_locations, remote_wheelhouse

CONTENT_KEYS: tuple[str, ...] = (
    *("requirements", "locks", "extras", "groups", "packages", "modules", "checkpoints", "preprocessing"),
)
"""Keys of the configuration that say what goes into a kit; a recording takes their place."""


@dataclass(frozen=True, kw_only=True)
class ResolvedProject:
    """A project and what every stage starts from; what takes long is found when it is first needed, and kept."""

    given: Config  # the configuration as it was loaded; see also `config`
    image: images.Image  # the kit's image: the captured one if the packages were made on Kaggle
    settings: pip_settings.IndexSettings
    cache: Path
    wheelhouse: remote_wheelhouse.RemoteWheelhouse | None  # if the packages were made on Kaggle
    recorded: RecordedRun | None  # if the notebook was recorded: then nothing else goes into the kit
    report: Reporter

    @cached_property
    def models(self) -> model_files.ModelFiles:
        """The trained files; raises as `inspect_model_files`."""
        return model_files.inspect_model_files(self.given, self.image, cache=self.cache, report=self.report)

    @property
    def config(self) -> Config:
        """The configuration with the template that follows from the trained files."""
        return self.models.config

    @cached_property
    def own(self) -> OwnCode:
        """The project's own code, its packages built as wheels."""
        return self.collect_own_code(build=True)[0]

    def collect_own_code(self, *, build: bool) -> tuple[OwnCode, tuple[str, ...]]:
        """Return the own code, and without `build` the names of the packages that need one."""
        if self.recorded:
            return OwnCode(), ()
        return own_code.collect_own_code(
            self.given.project,
            self.given.packages,
            self.find_modules(),
            self.image,
            PackageIndex(self.settings, cache=self.cache),
            build=build,
            report=self.report,
        )

    def find_modules(self) -> tuple[Path, ...]:
        """Return the loose modules that travel; raises UsageError for references that cannot be found."""
        config = self.given
        return own_code.find_needed_modules(
            config.project, config.packages, config.modules, list_references(config)
        )

    def check_notebook(self) -> None:
        """Raise what a build would raise about the notebook's settings and references, without the trained files."""
        config, target = self.given, model_files.notebook_target(self.given)
        adopted_notebook.check_notebook(config.notebook, self.image, target, weights=bool(config.checkpoints))
        self.find_modules()

    def check_bounds(self, own: OwnCode) -> tuple[Finding, ...]:
        """Compare the version bounds of the own packages with the image."""
        config = self.given
        return own_code.check_package_bounds(
            config.packages, own_code.list_requirements(own), self.image, (*config.replace, *config.exclude)
        )

    def freeze_request(self, own: OwnCode, *, upgrade: bool = False, keep: bool = False) -> FreezeRequest:
        """Return the request for a freeze of all that the project, its packages and its trained files require.

        `keep` writes the freeze beside the project.
        """
        config, packages = self.config, self.models.packages
        project_lines, own_lines = list_project_requirements(config), own_code.list_requirements(own)
        origins = dict.fromkeys(packages, "the trained files")
        origins |= dict.fromkeys(own_lines, "the project's packages")
        return FreezeRequest(
            config=config,
            inline=tuple(dict.fromkeys((*project_lines, *own_lines, *packages))),
            origins={line: origin for line, origin in origins.items() if line not in project_lines},
            own=tuple(wheel.name for wheel in own.wheels),
            imported=list_imports(config, own),
            upgrade=upgrade,
            keep=keep,
        )

    def remote_request(self) -> remote_wheelhouse.RemoteRequest:
        """Return what a build on Kaggle is asked for; the image is the configured one, as the run knows no other."""
        return remote_wheelhouse.build_request(self.freeze_request(self.own), configured_image(self.given))

    def render_notebook(self, kit: Kit, report: Reporter = SILENT) -> RenderedNotebook:
        """Render a kit's notebook, attached to where its parts are."""
        config = self.config
        locations = part_locations.part_locations(config)
        target = replace(model_files.notebook_target(config, self.models), part_locations=locations)
        rendered = adopted_notebook.render_notebook(kit, config.notebook, self.image, target, report=report)
        models = [*rendered.metadata["model_sources"], *part_locations.pinned_model_version(config, kit)]
        return replace(rendered, metadata={**rendered.metadata, "model_sources": models})


def resolve_project(config: Config, report: Reporter = SILENT, *, chained: bool = True) -> ResolvedProject:
    """Find image, index settings and cache of a project; not `chained`: never the image that was captured."""
    cache = files.make_folder(files.cache_dir())
    recorded = recording.find_recorded(config.project, config.notebook.source) if chained else None
    if recorded:
        # None of it is read: what a build would do with it could not be told from what the recording does.
        emptied: dict[str, Any] = dict.fromkeys(CONTENT_KEYS, ())
        config = replace(
            config, project_dependencies=False, main_from=None, publish_model="", parts="", **emptied
        )
    # A record without its wheelhouse is an error: a build here could be of other versions.
    record = remote_wheelhouse.read_record(config.project) if chained and not recorded else None
    wheelhouse = remote_wheelhouse.load_wheelhouse(record, cache) if record else None
    return ResolvedProject(
        given=config,
        image=wheelhouse.image if wheelhouse else configured_image(config),
        settings=pip_settings.read_pip_settings(processes.copy_environment()),
        cache=cache,
        wheelhouse=wheelhouse,
        recorded=recorded,
        report=report,
    )


def configured_image(config: Config) -> images.Image:
    """Return the image that the configuration names."""
    return images.load_image(config.image, accelerator=config.accelerator, project=config.project)


def find_container_reference(config: Config, image: images.Image) -> str:
    """Return the container image of a project: the configured one, else that of its image, else Kaggle's newest."""
    return config.container or image.digest or images.KAGGLE_CONTAINERS[image.accelerator]


def list_imports(config: Config, own: OwnCode) -> frozenset[str]:
    """Return the top-level names that the project's own code and its adopted notebook import."""
    paths = [*(wheel.path for wheel in own.wheels), *(source.path for source in own.sources)]
    if config.notebook.source:
        paths.append(config.project / config.notebook.source)
    return imports.find_file_imports([path for path in paths if path.is_file()])


def list_project_requirements(config: Config) -> tuple[str, ...]:
    """Return the requirements of the project's own pyproject.toml that the configuration takes from there."""
    if not (config.project_dependencies or config.extras or config.groups):
        return ()
    return read_project_dependencies(
        config.project / "pyproject.toml",
        extras=config.extras,
        groups=config.groups,
        dependencies=config.project_dependencies,
    )


def list_references(config: Config) -> tuple[str, ...]:
    """Return the references to code ("module:Name") in the configuration."""
    settings = config.notebook
    is_code = predict_settings.is_reference(settings.postprocess)
    references = [
        *(settings.model, settings.data, settings.function, settings.transform, settings.tta),
        *([settings.postprocess] if is_code else []),
        *(reference for model in settings.models for reference in (model.model, model.transform)),
        *main_aliases.reference_main_script(config.project, config.main_from),
    ]
    return tuple(dict.fromkeys(reference for reference in references if reference))
