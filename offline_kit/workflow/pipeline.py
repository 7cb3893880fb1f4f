"""Build and rehearse a kit: run the stages in order; each skips what did not change since the last build."""

import re
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from offline_kit.adopt import recording
from offline_kit.adopt.recording import RecordedRun
from offline_kit.checkpoints import discovery as checkpoints
from offline_kit.checkpoints import downloads as checkpoint_downloads
from offline_kit.core import files
from offline_kit.core.errors import OfflineKitError, ProjectError, UsageError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.init import config_toml, project_code
from offline_kit.init.config_toml import Setting
from offline_kit.kit import assemble, manifest
from offline_kit.kit import layout as kit_layout
from offline_kit.notebook import rendering as notebook
from offline_kit.notebook import scripts
from offline_kit.packages import cuda_abi, wheelhouse
from offline_kit.packages.builds import sdist_builds
from offline_kit.packages.freeze import freeze as freezing
from offline_kit.packages.index import PackageIndex
from offline_kit.project import references
from offline_kit.project.config import Config
from offline_kit.project.images import Image
from offline_kit.project.kaggle_names import SLUG_LENGTH
from offline_kit.project.types import Checkpoint, Finding, Freeze, Kit, OwnCode, Role, SettledSdist, Severity
from offline_kit.rehearsal import hidden_data
from offline_kit.rehearsal import rehearse as rehearsing
from offline_kit.rehearsal.request import RehearsalRequest
from offline_kit.workflow import (
    model_files,
    part_locations,
    rehearsal_report,
    remote_wheelhouse,
    resolved_project,
    upload_secrets,
)
from offline_kit.workflow.resolved_project import ResolvedProject, resolve_project

SPLIT_ABOVE = 100_000_000  # bytes of checkpoints above which a new kit is split, unless configured


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """A kit on disk, its contents and the findings of its build."""

    contents: assemble.KitContents
    kit: Kit
    changed: bool  # whether its id differs from that of the kit that it replaced
    advice: tuple[str, ...]  # what to do about checkpoints that would not load
    findings: tuple[Finding, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """What a build would put into the kit."""

    project: ResolvedProject
    freeze: Freeze


@dataclass(frozen=True, kw_only=True)
class RehearsalOptions:
    """How a rehearsal should run; see the options of `offline-kit rehearse`."""

    env: str = "matching"
    installer: str = "auto"
    layout: str = "new"
    timeout: int | None = None  # wall-clock limit in seconds; None is the competition's
    yes: bool = False  # large downloads were agreed to


def plan_build(config: Config, *, upgrade: bool = False, report: Reporter = SILENT) -> BuildPlan:
    """Freeze and inspect the checkpoints, writing nothing; raises what a build would up to there."""
    check_project(config)
    project = resolve_project(config, report)
    if project.recorded:
        return BuildPlan(project=project, freeze=project.recorded.make_freeze(project.image))
    freeze, _ = _freeze(project, upgrade=upgrade, keep=False)
    return BuildPlan(project=project, freeze=freeze)


def build_kit(config: Config, *, upgrade: bool = False, report: Reporter = SILENT) -> BuildResult:
    """Make the kit and its notebook; what did not change since the last build is not done again."""
    began = time.monotonic()
    check_project(config)
    files.sweep_temporary_folders()  # what killed builds left behind
    project, given = resolve_project(config, report), config
    config = project.config
    with files.hold_lock(files.make_ignored_folder(config.out.parent) / f".{config.out.name}.lock"):
        contents = _gather_contents(project, upgrade=upgrade, keep=True)
        texts = partial(_render_texts, project)
        before = part_locations.find_kit(config)
        by_function = config.notebook.template in ("server", "function")
        try:
            kit = assemble.assemble_kit(
                contents, config.out, also=texts, by_function=by_function, report=report
            )
        except assemble.ChangedFileError:  # the remembered hash was wrong: `cp -p` keeps size and time
            checkpoints.forget_hashes((*contents.checkpoints, *contents.preprocessing), project.cache)
            raise
        notebook.remove_stale_code(config.out / "notebook", config.notebook)
    prepared = [sdist.wheel for sdist in contents.prepared_sdists if sdist.wheel]
    wheels = [*contents.wheelhouse.wheels, *prepared]
    bundled = {wheel.name for wheel in wheels}
    return BuildResult(
        contents=contents,
        kit=kit,
        changed=before is None or kit.id != before.id,
        advice=model_files.advise_on_checkpoints(project.models),
        findings=(
            *project.models.findings,
            *kit_layout.find_shadowed_packages(contents),
            *model_files.check_trained_versions(project.models, contents.freeze),
            *cuda_abi.check_cuda_abi(wheels, project.image, config.accelerator),
            *check_code(config, contents.own, contents.checkpoints, bundled),
            *(_check_recorded(given, project.recorded, project.image) if project.recorded else ()),
        ),
        seconds=time.monotonic() - began,
    )


@contextmanager
def outline_build(
    config: Config, *, upgrade: bool = False, report: Reporter = SILENT
) -> Iterator[tuple[BuildPlan, Kit]]:
    """Yield the plan of a build, and its kit: manifests and notebook, in a folder that is deleted afterwards.

    Writes nothing into the project; packages are fetched into the cache, since only then their bytes are known.
    """
    check_project(config)
    project = resolve_project(config, report)
    contents = _gather_contents(project, upgrade=upgrade, keep=False)
    # Manifests have hashes and sizes, which is all that a plan of a push compares.
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as folder:
        kit = assemble.write_outline(contents, Path(folder), also=partial(_render_texts, project))
        yield BuildPlan(project=project, freeze=contents.freeze), kit


def check_project(config: Config) -> None:
    """Raise UsageError for a folder that holds nothing to build: mostly it is the wrong one."""
    settings = config.notebook
    given = [
        config.source,
        *(config.requirements, config.project_dependencies, config.locks, config.packages, config.modules),
        *(config.checkpoints, config.preprocessing),
        *(settings.model, settings.data, settings.function, settings.models),
    ]
    if not any(given):
        raise UsageError(
            f"there is no project in '{config.project}': no configuration, requirements or checkpoints",
            code="project-not-found",
            hint="change to the project's folder or name it, or start one with 'offline-kit init'",
        )


def _check_recorded(config: Config, recorded: RecordedRun, image: Image) -> Iterator[Finding]:
    """Yield what of the project the recording does not know, and what of it the image cannot install."""
    warn = partial(Finding, severity=Severity.WARN)
    for wheel in recorded.find_unfit_wheels(image):
        what = f"was recorded with Python {recorded.document['python']} and does not fit '{image.name}'"
        yield warn(about=wheel, what=what, remedy="record again with --env matching, or with --record kaggle")
    if recorded.has_changed():
        what = "changed after it was recorded: what its new lines fetch is missing offline"
        yield warn(about=recorded.source, what=what, remedy=f"record it again: {recorded.rebuild_command}")
    detected = {config.project / name for name in ("requirements.in", "requirements.txt")}
    unused = [
        key for key in resolved_project.CONTENT_KEYS if {*getattr(config, key)} - detected - {config.project}
    ]
    if unused:
        names = ", ".join(map(repr, unused))
        what = f"is recorded: {names} of the configuration {'is' if len(unused) == 1 else 'are'} not used"
        yield warn(about=recorded.source, what=what, remedy=f"remove it, or '{recording.RECORD}'")


def check_code(
    config: Config, own: OwnCode, saved: Iterable[Checkpoint], bundled: Collection[str] = ()
) -> tuple[Finding, ...]:
    """Return what the project's code would do wrong in the notebook, as far as its source and `saved` tell."""
    settings = config.notebook
    findings: list[Finding] = []
    if settings.data:
        findings += project_code.check_data_class(config)
    if settings.data and settings.model:
        findings += project_code.check_model_class(config, saved)
    if config.main_from and (names := references.find_undefined_names(config.main_from)):
        them = "it" if len(names) == 1 else "them"
        undefined = Finding(
            severity=Severity.WARN,
            about=config.main_from.name,
            what=f"uses {', '.join(names)} and neither defines nor imports {them}",
            remedy="add what is missing to that file: the notebook runs it (`main_from`) to load pickles",
        )
        findings.append(undefined)
    # Cells of the user's own may import anything; a built-in template imports what the configuration names.
    fixed = not settings.source and settings.template in {*scripts.built_in_templates()} - {"plain"}
    entries = resolved_project.list_references(config) if fixed else ()
    return (*findings, *checkpoint_downloads.find_code_downloads(config, own, bundled, entries))


def _render_texts(project: ResolvedProject, kit: Kit) -> dict[str, str]:
    """Return a kit's notebook as texts by the names of the files in the kit's folder."""
    rendered = project.render_notebook(kit, project.report)
    texts = rendered.file_texts()
    upload_secrets.check_notebook(project.config, texts, project.report)
    texts |= notebook.keep_edited(project.config.out / "notebook", rendered, project.report)
    return {f"notebook/{name}": text for name, text in texts.items()}


def render_notebook(config: Config, *, report: Reporter = SILENT) -> tuple[Kit, notebook.RenderedNotebook]:
    """Render the notebook of the existing kit, and write nothing; raises as a build's rendering does."""
    project = resolve_project(config, report)
    kit = read_kit(project.config)
    _check_runtime(kit)
    rendered = project.render_notebook(kit, report)
    upload_secrets.check_notebook(project.config, rendered.file_texts(), report)
    return kit, rendered


def _check_runtime(kit: Kit) -> None:
    """Raise ProjectError for a kit of another version: its runtime may lack what a notebook of this one imports."""
    entries = [entry for part in kit.parts for entry in part.entries if entry.role is Role.RUNTIME]
    kit_files = {(entry.original, entry.sha256) for entry in entries}
    own_files = {(entry.original, entry.sha256) for entry, _ in kit_layout.list_runtime_files()}
    # A recording that stays on Kaggle keeps the runtime that recorded it.
    is_output = all(part.name in manifest.OUTPUT_PARTS for part in kit.parts)
    if kit_files != own_files and not is_output:
        raise ProjectError(
            f"the kit in '{kit.folder}' was built by another version of offline-kit",
            hint="build it again with 'offline-kit build', which renders the notebook too",
            code="kit-of-another-version",
        )


def _gather_contents(project: ResolvedProject, *, upgrade: bool, keep: bool) -> assemble.KitContents:
    """Return what goes into the kit; packages are downloaded, or built, or only listed if Kaggle has them."""
    if project.recorded:
        return _gather_recorded(project, project.recorded)
    config, models, report = project.config, project.models, project.report
    upload_secrets.check_own_files(config, project.own, (*models.checkpoints, *models.preprocessing), report)
    if remote := project.wheelhouse:
        request = project.remote_request()
        remote_wheelhouse.check_request(remote.record, request.request_digest)
        frozen, house = remote.freeze_of(request.requirements), remote.list_wheels()
        settled_sdists: tuple[SettledSdist, ...] = ()
    else:
        frozen, index = _freeze(project, upgrade=upgrade, keep=keep)
        upload_secrets.check_given(config, frozen, report)
        house = wheelhouse.fetch_wheelhouse(frozen.pins, project.image, index, report=report)
        settled_sdists = sdist_builds.settle_sdists(
            house.sdists,
            project.image,
            index,
            policy=config.sdists,
            allow_unbuilt=config.allow_unbuilt,
            cutoff=frozen.cutoff,
            report=report,
        )
    return assemble.KitContents(
        freeze=frozen,
        image=project.image,
        wheelhouse=house,
        prepared_sdists=settled_sdists,
        own=project.own,
        imported=resolved_project.list_imports(config, project.own),
        checkpoints=models.checkpoints,
        preprocessing=models.preprocessing,
        members=models.members,
        split=is_split(config, models.checkpoints),
        grouped=not config.publish_model,
        remote_parts=(remote.part,) if remote and remote.part.entries else (),
    )


def _gather_recorded(project: ResolvedProject, recorded: RecordedRun) -> assemble.KitContents:
    """Return the recording as the contents of a kit; raises ProjectError if it is damaged, or has a secret in it."""
    part = recorded.part
    if not recorded.notebook:
        upload_secrets.check_recorded(project.config, recorded, project.report)
    return assemble.KitContents(
        freeze=recorded.make_freeze(project.image),
        image=project.image,
        recorded=tuple((entry, recorded.folder / entry.stored) for entry in part.entries),
        remote_parts=(part,) if recorded.notebook else (),
    )


def is_split(config: Config, saved: Iterable[Checkpoint]) -> bool:
    """Whether packages, code and checkpoints go into a dataset each.

    Unless configured, a kit that was built or pushed keeps its form, and a new one is split if its checkpoints
    are large.
    """
    if config.publish_model or config.parts:
        return config.parts == "split" or bool(config.publish_model)
    if existing := part_locations.find_kit(config):
        return all(part.name != "kit" for part in existing.parts)
    if pushed := part_locations.pushed_parts(config):
        return "kit" not in pushed
    # A slug has at most 50 characters, and each part adds its name to it.
    slug = config.dataset.rpartition("/")[2]
    fits = len(slug) + kit_layout.SPLIT_SUFFIX_LENGTH <= SLUG_LENGTH[1]
    return fits and sum(checkpoint.size for checkpoint in saved) > SPLIT_ABOVE


def _freeze(project: ResolvedProject, *, upgrade: bool, keep: bool) -> tuple[Freeze, PackageIndex]:
    for finding in project.check_bounds(project.own):
        project.report.warn(f"'{finding.about}' {finding.what}; {finding.remedy}")
    return freezing.freeze_requirements(
        project.freeze_request(project.own, upgrade=upgrade, keep=keep),
        project.image,
        project.settings,
        cache=project.cache,
        report=project.report,
    )


def read_kit(config: Config) -> Kit:
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


def find_damage(kit: Kit) -> tuple[str, ...]:
    """Return a line for each file of a kit that is missing or has another size."""
    lines: list[str] = []
    for part in kit.parts:
        folder = kit.part_folder(part)
        lines += manifest.verify_part(folder, manifest.select_local_files(folder, part), hashes=False)
    return tuple(lines)


def read_sound_kit(config: Config) -> Kit:
    """Return the kit on disk; ProjectError if there is none, or its files are damaged."""
    kit = read_kit(config)
    if problems := find_damage(kit):
        raise ProjectError(
            f"the kit in '{kit.folder}' is damaged",
            code="kit-damaged",
            hint="build it again with 'offline-kit build'",
            details=problems,
        )
    return kit


def rehearse_kit(
    config: Config, kit: Kit, options: RehearsalOptions, *, report: Reporter = SILENT
) -> rehearsing.Rehearsal:
    """Run the kit's notebook offline and check its submission; raises as the stage does."""
    project = resolve_project(config)
    copied = ["dataset", "competition", "competition_data", "sample_submission", "rows", "copies"]
    request = RehearsalRequest(
        kit=kit,
        image=project.image,
        container=resolved_project.find_container_reference(config, project.image),
        submission=config.notebook.submission,
        part_sources=part_locations.part_locations(config),
        params=config.notebook.params,
        context=rehearsal_report.read_context(config),
        hidden=find_hidden_data(config),
        hidden_rows=config.hidden_rows or None,
        **{name: getattr(config, name) for name in copied},
        **{**vars(options), "timeout": options.timeout or config.time_limit},
    )
    return rehearsing.rehearse_kit(request, project.settings, cache=project.cache, report=report)


def passed_rehearsal(config: Config, kit: Kit, options: RehearsalOptions) -> dict[str, Any] | None:
    """Return the report of a rehearsal of this kit and notebook that passed under the same options; None for none."""
    last = rehearsing.read_last_report(kit) or {}
    requested: dict[str, Any] = {name: getattr(options, name) for name in ("env", "installer", "layout")}
    requested |= {"passed": True, "rows_wanted": config.rows, "hidden_rows": config.hidden_rows or None}
    if options.env == "image":
        image = resolved_project.configured_image(config)
        requested["image"] = resolved_project.find_container_reference(config, image)
    hidden = find_hidden_data(config)
    if hidden and (last.get("hidden") or {}).get("data") != hidden:
        return None
    return last if all(last.get(name) == value for name, value in requested.items()) else None


def find_hidden_data(config: Config) -> str:
    """Return the data of the hidden run: "auto...", an absolute folder, or "" for no such run.

    Raises UsageError if a folder does not exist.
    """
    if config.hidden in ("", "none") or hidden_data.parse_auto(config.hidden):
        return config.hidden.removeprefix("none")
    folder = config.project / config.hidden
    if not folder.is_dir():
        raise UsageError(
            f"the data of the hidden run, '{config.hidden}', is not a folder",
            hint="set `hidden` (--hidden) to a folder, to `auto` or to `none`",
            code="hidden-data-not-found",
        )
    return str(folder)


def ask_hidden_rows(config: Config, report: Reporter = SILENT, *, yes: bool = False) -> Config:
    """Ask a person for the rows of the hidden test set if a hidden run is wanted and the configuration is silent.

    The answer goes into the project's configuration, 0 for unknown, so that it is asked once.
    """
    if yes or config.hidden_rows is not None or not find_hidden_data(config) or not report.can_ask():
        return config
    answer = "?"
    while not re.fullmatch(r"\d*", answer):
        answer = re.sub(
            r"[\s,_']", "", report.ask("How many rows does the hidden test set have? [Enter: unknown]")
        )
    rows = int(answer or 0)
    reason = "rows of the hidden test set" + ("" if rows else "; 0: unknown")
    try:
        file = config_toml.locate_config(config.project)
        files.write_atomic(file.path, file.add([Setting(key="hidden_rows", value=rows, reason=reason)]))
    except OfflineKitError as error:  # its tables are written in an unusual form, or nobody may write there
        report.warn(f"{error.what}: add `hidden_rows = {rows}` by hand")
    else:
        report.note(f"kept as `hidden_rows = {rows}` in '{file.path.name}'")
    return replace(config, hidden_rows=rows)
