"""Build and rehearse a kit: run the stages in order and skip those whose inputs did not change."""

import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from offline_kit.adopt import adopted_notebook
from offline_kit.checkpoints import code_downloads
from offline_kit.checkpoints import discovery as checkpoints
from offline_kit.core import files, processes
from offline_kit.core.cache import Cache
from offline_kit.core.errors import OfflineKitError, ProjectError, UsageError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.init import data_contract
from offline_kit.kit import assemble, install_plan, manifest
from offline_kit.kit import layout as kit_layout
from offline_kit.notebook import rendering as notebook
from offline_kit.notebook import scripts
from offline_kit.notebook.rendering import RenderedNotebook
from offline_kit.packages import cuda_abi, pip_settings, wheelhouse
from offline_kit.packages.builds import sdist_builds
from offline_kit.packages.freeze import freeze as freezing
from offline_kit.packages.index import PackageIndex
from offline_kit.packages.own import loose_modules, own_code, package_bounds
from offline_kit.packages.pip_settings import IndexSettings
from offline_kit.project import images as image
from offline_kit.project import references
from offline_kit.project.config import Config
from offline_kit.project.images import Image
from offline_kit.project.kaggle_names import SLUG_LENGTH
from offline_kit.project.types import Checkpoint, Finding, Freeze, Kit, OwnCode, Severity, Wheel
from offline_kit.rehearsal import rehearse as rehearsing
from offline_kit.rehearsal.rehearse import Rehearsal
from offline_kit.rehearsal.request import RehearsalRequest
from offline_kit.workflow import freeze_request, model_files, part_locations, upload_secrets
from offline_kit.workflow.model_files import ModelFiles
from offline_kit.workflow.remote_build import build_request as asked
from offline_kit.workflow.remote_build import remote_wheelhouse as house
from offline_kit.workflow.remote_build.build_request import RemoteRequest
from offline_kit.workflow.remote_build.remote_wheelhouse import RemoteWheelhouse

SPLIT_ABOVE = 100_000_000
"""Bytes of checkpoints above which a new kit is split, unless configured."""


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """The image, index settings and cache that every stage uses."""

    image: Image
    """The image that the kit is for."""
    settings: IndexSettings
    """Where packages come from."""
    cache: Path
    """Where downloads and built things are kept."""
    chained: RemoteWheelhouse | None = None
    """The packages as they were made on Kaggle, for its image; None if they are made here."""


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """A kit on disk, its contents and the findings of its build."""

    context: BuildContext
    """What it was made on."""
    contents: assemble.KitContents
    """What went into it."""
    kit: Kit
    changed: bool
    """Whether its id is another one than that of the kit that lay there before."""
    advice: tuple[str, ...]
    """What to do about checkpoints that would not load."""
    findings: tuple[Finding, ...]
    """What was seen in the trained files."""
    seconds: float
    """How long the build took."""


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """What a build would put into the kit."""

    image: Image
    """The image that the kit would be for."""
    freeze: Freeze
    """Every pin with its fate."""
    checkpoints: tuple[Checkpoint, ...]
    """The trained files."""
    config: Config
    """Whose plan it is."""


@dataclass(frozen=True, kw_only=True)
class RehearsalOptions:
    """How a rehearsal should run; see the options of `offline-kit rehearse`."""

    env: str = "matching"
    """"matching" or "current"."""
    installer: str = "auto"
    """"auto", "uv" or "pip"."""
    layout: str = "new"
    """"new" or "old"."""
    timeout: int | None = None
    """Wall-clock limit in seconds; None is the competition's."""
    yes: bool = False
    """Large downloads were agreed to."""
    confirm: Callable[[str], bool] | None = None
    """Asks a person about them."""


@dataclass(frozen=True, kw_only=True)
class LocalStatus:
    """The kit on this disk and its last rehearsal."""

    config: Config
    """Whose status it is."""
    kit: Kit | None
    problems: tuple[str, ...]
    """What is wrong with its files."""
    rehearsal: dict[str, Any] | None
    """The report of the last rehearsal of this very kit."""


def build_context(config: Config, *, chained: bool = True) -> BuildContext:
    """Find the image, the index and the cache that the configuration means.

    Where the project's packages were made on Kaggle, the image is the one that was captured there; not so
    without `chained`.
    """
    settings, cache = (
        pip_settings.read_pip_settings(processes.copy_environment()),
        files.make_folder(files.cache_dir()),
    )
    record = house.read_record(config.project) if chained else None
    wheelhouse = house.load_wheelhouse(record, cache) if record else None
    if wheelhouse:
        return BuildContext(image=wheelhouse.image, settings=settings, cache=cache, chained=wheelhouse)
    target_image = image.load_image(config.image, accelerator=config.accelerator, project=config.project)
    return BuildContext(image=target_image, settings=settings, cache=cache)


def freeze_request_of(config: Config, base: BuildContext, report: Reporter = SILENT) -> RemoteRequest:
    """Return what a build on Kaggle would be asked for; raises as `asked.asked`."""
    assumed = image.load_image(config.image, accelerator=config.accelerator, project=config.project)
    inspected = model_files.inspect_model_files(config, assumed, cache=base.cache, report=report)
    return _freeze_request(inspected, replace(base, image=assumed), _own_code(config, base, report))


def _freeze_request(inspected: ModelFiles, base: BuildContext, own: OwnCode) -> RemoteRequest:
    names = tuple(wheel.name for wheel in own.wheels)
    return asked.build_request(freeze_request.build_freeze_request(inspected, own), base.image, names)


def plan_build(config: Config, *, upgrade: bool = False, report: Reporter = SILENT) -> BuildPlan:
    """Freeze and look at the checkpoints, writing nothing; raises what a build would up to there."""
    check_project(config)
    base = build_context(config)
    inspected = model_files.inspect_model_files(config, base.image, cache=base.cache, report=report)
    config, checkpoints = inspected.config, inspected.checkpoints
    own = _own_code(config, base, report)
    frozen = _current_freeze(inspected, base, own, upgrade=upgrade, keep=False, report=report)
    return BuildPlan(image=base.image, freeze=frozen, checkpoints=checkpoints, config=config)


def build_kit(config: Config, *, upgrade: bool = False, report: Reporter = SILENT) -> BuildResult:
    """Make the kit and its notebook; what did not change since the last build is not done again.

    Raises UsageError for a folder without a project, before anything is written, and what the stages raise.
    """
    began = time.monotonic()
    check_project(config)
    files.sweep_temporary_folders()
    base = build_context(config)
    inspected = model_files.inspect_model_files(config, base.image, cache=base.cache, report=report)
    config = inspected.config
    with files.hold_lock(files.make_ignored_folder(config.out.parent) / f".{config.out.name}.lock"):
        contents = _kit_contents(inspected, base, upgrade=upgrade, keep=True, report=report)
        texts = _notebook_texts(inspected, base, report)
        before = _kit_id(config.out)
        by_function = config.notebook.template in ("server", "function")
        try:
            kit = assemble.assemble_kit(
                contents, config.out, also=texts, by_function=by_function, report=report
            )
        except assemble.ChangedFileError:
            checkpoints.forget_hashes((*contents.checkpoints, *contents.preprocessing), base.cache)
            raise
    return BuildResult(
        context=base,
        contents=contents,
        kit=kit,
        changed=kit.id != before,
        advice=model_files.advise_on_checkpoints(inspected),
        findings=(
            *inspected.findings,
            *install_plan.find_shadowed_packages(contents),
            *model_files.check_trained_versions(inspected, contents.freeze),
            *cuda_abi.check_cuda_abi(_wheels_of(contents), base.image, config.accelerator),
            *code_findings(
                config, contents.own, inspected.checkpoints, {wheel.name for wheel in _wheels_of(contents)}
            ),
        ),
        seconds=time.monotonic() - began,
    )


def code_findings(
    config: Config, own: OwnCode, saved: Iterable[Checkpoint], bundled: Collection[str] = ()
) -> tuple[Finding, ...]:
    """Return what the project's code would do wrong in the notebook, as far as its source and `saved` tell."""
    settings = config.notebook
    contract: tuple[Finding, ...] = ()
    if settings.data:
        contract = data_contract.check_data_class(config.project, settings.data, settings.params)
    if settings.data and settings.model:
        contract += data_contract.check_model_class(config.project, settings.model, settings.params, saved)
    if config.main_from and (names := references.find_undefined_names(config.main_from)):
        contract += (
            Finding(
                severity=Severity.WARN,
                about=config.main_from.name,
                what=f"uses {', '.join(names)} and neither defines nor imports {'it' if len(names) == 1 else 'them'}",
                remedy="add what is missing to that file: the notebook runs it (`main_from`) to load pickles",
            ),
        )
    # Cells of the user's own may import anything; a built-in template imports what the configuration names.
    fixed = (
        not settings.source
        and settings.template in scripts.built_in_templates()
        and settings.template != "plain"
    )
    entries = freeze_request.configured_references(config) if fixed else ()
    fetched = code_downloads.find_code_downloads(
        config.project, config.packages, own, settings.params, bundled, entries
    )
    return (*contract, *fetched)


def static_findings(config: Config) -> tuple[Finding, ...]:
    """Return the same without building anything."""
    base = build_context(config)
    modules = loose_modules.find_needed_modules(
        config.project, config.packages, config.modules, freeze_request.configured_references(config)
    )
    own, _ = own_code.recall_own_code(
        config.project, config.packages, modules, base.image, base.settings, cache=base.cache
    )
    saved: tuple[Checkpoint, ...] = ()
    with suppress(OfflineKitError):  # what is wrong with the trained files is another check's to say
        saved = model_files.inspect_model_files(config, base.image, cache=base.cache).checkpoints
    return (*_bound_findings(config, base.image, own), *code_findings(config, own, saved))


def _bound_findings(config: Config, target_image: Image, own: OwnCode) -> tuple[Finding, ...]:
    own_requirements, free = own_code.list_requirements(own), (*config.replace, *config.exclude)
    return package_bounds.check_package_bounds(config.packages, own_requirements, target_image, free)


@contextmanager
def outline_build(
    config: Config, *, upgrade: bool = False, report: Reporter = SILENT
) -> Iterator[tuple[BuildPlan, Kit]]:
    """Give the plan of a build, and its kit: manifests and notebook, in a folder that goes with the block.

    Writes nothing into the project; packages are fetched into the cache, since only then their bytes are known.
    """
    check_project(config)
    base = build_context(config)
    inspected = model_files.inspect_model_files(config, base.image, cache=base.cache, report=report)
    contents = _kit_contents(inspected, base, upgrade=upgrade, keep=False, report=report)
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as folder:
        kit = assemble.write_outline(contents, Path(folder), also=_notebook_texts(inspected, base, report))
        checkpoints_found = inspected.checkpoints
        yield (
            BuildPlan(
                image=base.image,
                freeze=contents.freeze,
                checkpoints=checkpoints_found,
                config=inspected.config,
            ),
            kit,
        )


def _notebook_texts(
    inspected: ModelFiles, base: BuildContext, report: Reporter
) -> Callable[[Kit], dict[str, str]]:
    """Return what renders a kit's notebook, by the names of the files in the kit's folder."""
    config = inspected.config

    def render_texts(kit: Kit) -> dict[str, str]:
        target = replace(
            model_files.notebook_target(config, inspected),
            part_locations=part_locations.part_locations(config),
        )
        rendered = adopted_notebook.render_notebook(kit, config.notebook, base.image, target, report=report)
        models = [*rendered.metadata["model_sources"], *part_locations.pinned_model_version(config, kit)]
        rendered = replace(rendered, metadata={**rendered.metadata, "model_sources": models})
        texts = rendered.file_texts()
        upload_secrets.check_notebook(config, texts, report)
        texts |= notebook.keep_edited(config.out / "notebook", rendered, report)
        return {f"notebook/{name}": text for name, text in texts.items()}

    return render_texts


def check_project(config: Config) -> None:
    """Raise UsageError for a folder that holds nothing to build: mostly it is the wrong one."""
    settings = config.notebook
    packed = (config.requirements, config.project_dependencies, config.locks, config.packages, config.modules)
    anything_given = (
        config.checkpoints,
        config.preprocessing,
        settings.model,
        settings.data,
        settings.function,
        settings.models,
    )
    if not (config.source or any(packed) or any(anything_given)):
        raise UsageError(
            f"there is no project in '{config.project}': no configuration, requirements or checkpoints",
            code="project-not-found",
            hint="change to the project's folder or name it, or start one with 'offline-kit init'",
        )


def render_notebook(config: Config, *, report: Reporter = SILENT) -> tuple[Kit, RenderedNotebook]:
    """Render the notebook of the existing kit, and write nothing; raises as a build's rendering does."""
    base = build_context(config)
    inspected = model_files.inspect_model_files(config, base.image, cache=base.cache, report=report)
    config, kit = inspected.config, kit_of(config)
    target = replace(
        model_files.notebook_target(config, inspected), part_locations=part_locations.part_locations(config)
    )
    rendered = adopted_notebook.render_notebook(kit, config.notebook, base.image, target, report=report)
    upload_secrets.check_notebook(config, rendered.file_texts(), report)
    return kit, rendered


def check_notebook(config: Config) -> None:
    """Raise what a build would raise about the notebook's settings and references, without building anything."""
    _check_notebook(config, build_context(config))
    loose_modules.find_needed_modules(
        config.project, config.packages, config.modules, freeze_request.configured_references(config)
    )


def freeze_is_current(config: Config, report: Reporter = SILENT) -> bool:
    """Whether the committed freeze is of what the project asks for now.

    No index is asked, unless own packages have to be built to know what they ask for.
    """
    base = build_context(config)
    inspected = model_files.inspect_model_files(config, base.image, cache=base.cache, report=report)
    own = _own_code(config, base, report)
    names = tuple(wheel.name for wheel in own.wheels)
    return freezing.is_freeze_current(freeze_request.build_freeze_request(inspected, own), base.image, names)


def _check_notebook(config: Config, base: BuildContext) -> None:
    adopted_notebook.check_notebook(
        config.notebook, base.image, model_files.notebook_target(config), weights=bool(config.checkpoints)
    )


def _kit_contents(
    inspected: ModelFiles, base: BuildContext, *, upgrade: bool, keep: bool, report: Reporter
) -> assemble.KitContents:
    config = inspected.config
    own = _own_code(config, base, report)
    upload_secrets.check_own_files(config, own, (*inspected.checkpoints, *inspected.preprocessing), report)
    if base.chained:
        return _remote_contents(inspected, base, base.chained, own)
    frozen = _current_freeze(inspected, base, own, upgrade=upgrade, keep=keep, report=report)
    upload_secrets.check_given(config, frozen, report)
    # requirements files may name indexes of their own
    settings = freezing.read_index_settings(config.requirements, config.project, base.settings)
    index = PackageIndex(settings, cache=base.cache)
    house = wheelhouse.fetch_wheelhouse(frozen.pins, base.image, index, report=report)
    settled_sdists = sdist_builds.settle_sdists(
        house.sdists,
        base.image,
        index,
        policy=config.sdists,
        allow_unbuilt=config.allow_unbuilt,
        cutoff=frozen.cutoff,
        report=report,
    )
    return assemble.KitContents(
        freeze=frozen,
        image=base.image,
        wheelhouse=house,
        prepared_sdists=settled_sdists,
        own=own,
        imported=freeze_request.imported_names(inspected.config, own),
        checkpoints=inspected.checkpoints,
        preprocessing=inspected.preprocessing,
        members=inspected.members,
        split=is_split(inspected),
        grouped=not config.publish_model,
    )


def _remote_contents(
    inspected: ModelFiles, base: BuildContext, remote: RemoteWheelhouse, own: OwnCode
) -> assemble.KitContents:
    """Return a kit's contents around packages that were made on Kaggle; ProjectError if they are outdated."""
    config = inspected.config
    assumed = image.load_image(config.image, accelerator=config.accelerator, project=config.project)
    request = _freeze_request(inspected, replace(base, image=assumed), own)
    house.check_request(remote.record, request.request_digest)
    return assemble.KitContents(
        freeze=remote.freeze_of(request.requirements),
        image=base.image,
        wheelhouse=remote.list_wheels,
        own=own,
        imported=freeze_request.imported_names(inspected.config, own),
        checkpoints=inspected.checkpoints,
        preprocessing=inspected.preprocessing,
        members=inspected.members,
        split=is_split(inspected),
        grouped=not config.publish_model,
        remote_parts=(remote.part,) if remote.part.entries else (),
    )


def _wheels_of(contents: assemble.KitContents) -> list[Wheel]:
    return [
        *contents.wheelhouse.wheels,
        *(prepared.wheel for prepared in contents.prepared_sdists if prepared.wheel),
    ]


def is_split(inspected: ModelFiles) -> bool:
    """Whether packages, code and checkpoints go into a dataset each.

    Unless configured, a kit that was built or pushed keeps its form, and a new one is split if its checkpoints
    are large.
    """
    config = inspected.config
    if config.publish_model or config.parts:
        return config.parts == "split" or bool(config.publish_model)
    with suppress(ProjectError):
        return all(part.name != "kit" for part in manifest.read_kit(config.out).parts)
    if pushed := part_locations.pushed_parts(config):
        return "kit" not in pushed
    slug = config.dataset.rpartition("/")[2]
    fits = len(slug) + kit_layout.SPLIT_SUFFIX_LENGTH <= SLUG_LENGTH[1]
    return fits and sum(checkpoint.size for checkpoint in inspected.checkpoints) > SPLIT_ABOVE


def _current_freeze(
    inspected: ModelFiles, base: BuildContext, own: OwnCode, *, upgrade: bool, keep: bool, report: Reporter
) -> Freeze:
    names = tuple(wheel.name for wheel in own.wheels)
    for finding in _bound_findings(inspected.config, base.image, own):
        report.warn(f"'{finding.about}' {finding.what}; {finding.remedy}")
    request = freeze_request.build_freeze_request(inspected, own, upgrade=upgrade, keep=keep)
    return freezing.freeze_requirements(
        request, base.image, base.settings, cache=base.cache, own=names, report=report
    )


def _own_code(config: Config, base: BuildContext, report: Reporter) -> OwnCode:
    modules = loose_modules.find_needed_modules(
        config.project, config.packages, config.modules, freeze_request.configured_references(config)
    )
    return own_code.build_own_code(
        config.project, config.packages, modules, base.image, base.settings, cache=base.cache, report=report
    )


def _kit_id(folder: Path) -> str:
    try:
        return manifest.read_kit(folder).id
    except ProjectError:
        return ""


def kit_of(config: Config) -> Kit:
    """Return the kit on disk; ProjectError if there is none."""
    try:
        return manifest.read_kit(config.out)
    except ProjectError as error:
        if config.out.exists():
            raise
        raise ProjectError(
            f"there is no kit in '{config.out}'",
            code="kit-not-found",
            hint="make one with 'offline-kit build'",
        ) from error


def rehearse_kit(
    config: Config, kit: Kit, options: RehearsalOptions, *, report: Reporter = SILENT
) -> Rehearsal:
    """Run the kit's notebook offline and check its submission; raises as the stage does."""
    base = build_context(config)
    request = RehearsalRequest(
        kit=kit,
        image=base.image,
        dataset=config.dataset,
        competition=config.competition,
        competition_data=config.competition_data,
        sample_submission=config.sample_submission,
        submission=config.notebook.submission,
        env=options.env,
        installer=options.installer,
        layout=options.layout,
        rows=config.rows,
        timeout=options.timeout or config.time_limit,
        yes=options.yes,
        confirm=options.confirm,
        copies=config.copies,
        part_sources=part_locations.part_locations(config),
        params=config.notebook.params,
    )
    return rehearsing.rehearse_kit(request, base.settings, cache=base.cache, report=report)


def passed_rehearsal(config: Config, kit: Kit, options: RehearsalOptions) -> dict[str, Any] | None:
    """Return the report of a rehearsal of this kit and notebook that passed as it is wished; None for none."""
    last = rehearsing.read_last_report(kit)
    requested = {
        "env": options.env,
        "installer": options.installer,
        "layout": options.layout,
        "rows_wanted": config.rows,
    }
    passed = last is not None and last.get("passed") and all(last.get(k) == v for k, v in requested.items())
    return last if passed else None


def read_status(config: Config) -> LocalStatus:
    """Look at the kit on disk and at the last rehearsal, without building anything."""
    try:
        kit = kit_of(config)
    except ProjectError as error:
        problem_lines = (error.what, *error.details) if config.out.exists() else ()
        return LocalStatus(config=config, kit=None, problems=problem_lines, rehearsal=None)
    folders = [(kit.part_folder(part), part) for part in kit.parts]
    problems = tuple(
        line
        for folder, part in folders
        for line in manifest.verify_part(folder, manifest.select_local_files(folder, part), hashes=False)
    )
    return LocalStatus(config=config, kit=kit, problems=problems, rehearsal=rehearsing.read_last_report(kit))


def prune_cache(days: int) -> int:
    """Remove what the cache did not use for so many days; returns the bytes freed."""
    return Cache(files.cache_dir()).prune_unused(unused_days=days)
