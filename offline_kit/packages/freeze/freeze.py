"""The freeze: requirements to pins for the image, kept in a committed file beside the project."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from offline_kit.core import files, processes
from offline_kit.core.errors import OutsideError, ProjectError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.packages.builds import confined_build
from offline_kit.packages.freeze import direct_references, freeze_file, lock_files, requirement_inputs
from offline_kit.packages.freeze.direct_references import ReferenceContext, ResolvedReference
from offline_kit.packages.freeze.input_digest import FreezeRequest as FreezeRequest
from offline_kit.packages.freeze.input_digest import gather_inputs, hash_inputs
from offline_kit.packages.freeze.make_freeze import make_freeze
from offline_kit.packages.freeze.requirement_lines import RequirementLine
from offline_kit.packages.pip_settings import IndexSettings
from offline_kit.project.images import Image
from offline_kit.project.types import Fate, Freeze


def freeze_requirements(
    request: FreezeRequest,
    image: Image,
    settings: IndexSettings,
    *,
    cache: Path,
    own: tuple[str, ...] = (),
    report: Reporter = SILENT,
) -> Freeze:
    """Freeze the project's requirements against the image and keep the result at `request.written`.

    With the same inputs as last time the written freeze is read back, without network; changed inputs or
    `upgrade` make it anew, the former with its pins as preferences. `own` names the project's packages,
    which never come from an index. Raises ProjectError for requirements that cannot be read or met,
    UsageError for an impossible engine, OutsideError where an index cannot be reached.
    """
    inputs = gather_inputs(request, image, own, strict=False)
    input_hash = hash_inputs(inputs, request, image)
    old = _read_old_freeze(request)
    settings_of_files = _merge_index_options(settings, inputs.index_options)
    context = ReferenceContext(
        project=request.project.absolute(),
        image=image,
        settings=settings_of_files,
        cache=cache,
        known_commits=_find_known_commits(inputs.direct_references, old, request.project.absolute())
        if old and not request.upgrade
        else {},
    )
    if old and not request.upgrade and old.input_hash == input_hash and not inputs.error:
        restored = _restore_wheels(
            old, direct_references.resolve_references(inputs.direct_references, context, report=report)
        )
        if restored:
            return restored
    for option_line in inputs.ignored_options:
        report.note(f"{option_line}: this option has no meaning for a kit")
    report.step(f"Resolving the requirements for '{image.name}' (Python {image.python})")
    if not confined_build.is_confined():  # metadata of a package without a wheel is a build, too
        report.warn(confined_build.UNCONFINED_WARNING)
    new_freeze = make_freeze(
        inputs, request, context, replace(old, pins=()) if old and request.upgrade else old, report
    )
    new_freeze = replace(new_freeze, input_hash=input_hash)
    new_freeze = replace(new_freeze, text=freeze_file.render_freeze(new_freeze))
    if request.keep:
        _write_freeze(request.freeze_path, new_freeze.text)
    return new_freeze


def _write_freeze(path: Path, text: str) -> None:
    try:
        files.write_atomic(path, text)
    except OutsideError as error:
        if getattr(error.__cause__, "errno", None) not in files.REFUSED:
            raise
        # Neither --out nor the cache has to do with it.
        raise OutsideError(
            f"'{path.name}' is written beside the project, and '{path.parent}' takes no files",
            hint="build once in a copy of the project that can be written to, then put the file that it"
            " makes there beside this one: while the requirements stay, a build only reads it",
        ) from error


def is_freeze_current(request: FreezeRequest, image: Image, own: tuple[str, ...] = ()) -> bool:
    """Whether the written freeze is of these very inputs; asks no index. Raises as `freeze` does for what it reads."""
    old = _read_old_freeze(request)
    return old is not None and old.input_hash == hash_inputs(
        gather_inputs(request, image, own), request, image
    )


def _read_old_freeze(request: FreezeRequest) -> Freeze | None:
    if not request.freeze_path.is_file():
        return None
    text = request.freeze_path.read_text(encoding="utf-8", errors="replace")
    if request.upgrade and freeze_file.is_freeze_text(text):
        # Whatever became of it, it is about to be replaced.
        try:
            return freeze_file.parse_freeze(text, name=request.freeze_path.name)
        except ProjectError:
            return None
    return freeze_file.parse_freeze(text, name=request.freeze_path.name)


def _find_known_commits(directs: Iterable[RequirementLine], old: Freeze, project: Path) -> dict[str, str]:
    """Return the commits that the old freeze found for git references without one."""
    known_commits = {}
    for line in directs:
        if line.direct and line.direct.kind == "git":
            reference = direct_references.format_reference(line.direct, project)
            address_start = f"git+{direct_references.format_repository_url(line.direct, project)}@"
            for pin in old.pins:
                commit = pin.url.removeprefix(address_start).partition("#")[0]
                if pin.url.startswith(address_start) and pin.url == direct_references.format_reference(
                    line.direct, project, commit
                ):
                    known_commits[reference] = commit
    return known_commits


def _restore_wheels(old: Freeze, references: tuple[ResolvedReference, ...]) -> Freeze | None:
    """Give the pins of direct references their wheels; None where a rebuilt wheel is another one."""
    wheels = {reference.name: reference for reference in references}
    pins = []
    for pin in old.pins:
        if pin.url and pin.fate is Fate.BUNDLED:
            wheel = wheels.get(pin.name)
            if wheel is None or f"sha256:{wheel.sha256}" not in pin.hashes:
                return None
            pins.append(replace(pin, local=wheel.wheel))
        else:
            pins.append(pin)
    return replace(old, pins=tuple(pins))


def read_index_settings(
    requirements: Iterable[Path], project: Path, settings: IndexSettings
) -> IndexSettings:
    """Return pip's configuration with the index lines of requirements files laid over it.

    That is where the frozen files are to be fetched from. Raises ProjectError for lines that cannot be read.
    """
    plain = [path for path in requirements if not lock_files.is_lock_file(path)]
    return _merge_index_options(
        settings,
        requirement_inputs.read_requirement_files(
            plain, (), project=project, env=processes.copy_environment()
        ).index_options,
    )


def _merge_index_options(settings: IndexSettings, options: requirement_inputs.IndexOptions) -> IndexSettings:
    """Lay the index lines of requirements files over pip's configuration, as pip does."""
    return replace(
        settings,
        index_url=options.index_url or settings.index_url,
        extra_index_urls=tuple(dict.fromkeys((*settings.extra_index_urls, *options.extra_index_urls))),
        find_links=tuple(dict.fromkeys((*settings.find_links, *options.find_links))),
        no_index=options.no_index or settings.no_index,
        trusted_hosts=tuple(dict.fromkeys((*settings.trusted_hosts, *options.trusted_hosts))),
    )
