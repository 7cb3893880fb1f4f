"""The freeze: requirements to pins for the image, kept in a committed file beside the project."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from offline_kit.core import files, processes
from offline_kit.core.errors import OutsideError, ProjectError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.packages.builds import confined_build
from offline_kit.packages.freeze import direct_references, freeze_file, lock_files, requirement_inputs
from offline_kit.packages.freeze.direct_references import Settled, Yard
from offline_kit.packages.freeze.input_digest import FreezeRequest as FreezeRequest
from offline_kit.packages.freeze.input_digest import digest, gather
from offline_kit.packages.freeze.make_freeze import make
from offline_kit.packages.freeze.requirement_lines import Wanted
from offline_kit.packages.pip_settings import IndexSettings
from offline_kit.project.images import Image
from offline_kit.project.types import Fate, Freeze


def freeze(
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
    read = gather(request, image, own, strict=False)
    hashed = digest(read, request, image)
    old = _old(request)
    merged = _merged(settings, read.options)
    yard = Yard(
        project=request.project.absolute(),
        image=image,
        settings=merged,
        cache=cache,
        known=_commits(read.directs, old, request.project.absolute()) if old and not request.upgrade else {},
    )
    if old and not request.upgrade and old.input_hash == hashed and not read.refused:
        found = _restored(old, direct_references.settle(read.directs, yard, report=report))
        if found:
            return found
    for line in read.ignored:
        report.note(f"{line}: this option has no meaning for a kit")
    report.step(f"Resolving the requirements for '{image.name}' (Python {image.python})")
    if not confined_build.is_confined():  # metadata of a package without a wheel is a build, too
        report.warn(confined_build.WEAK)
    made = make(read, request, yard, replace(old, pins=()) if old and request.upgrade else old, report)
    made = replace(made, input_hash=hashed)
    made = replace(made, text=freeze_file.render(made))
    if request.keep:
        _keep(request.written, made.text)
    return made


def _keep(place: Path, text: str) -> None:
    try:
        files.write_atomic(place, text)
    except OutsideError as error:
        if getattr(error.__cause__, "errno", None) not in files.REFUSED:
            raise
        # Neither --out nor the cache has to do with it.
        raise OutsideError(
            f"'{place.name}' is written beside the project, and '{place.parent}' takes no files",
            hint="build once in a copy of the project that can be written to, then put the file that it"
            " makes there beside this one: while the requirements stay, a build only reads it",
        ) from error


def is_current(request: FreezeRequest, image: Image, own: tuple[str, ...] = ()) -> bool:
    """Whether the written freeze is of these very inputs; asks no index. Raises as `freeze` does for what it reads."""
    old = _old(request)
    return old is not None and old.input_hash == digest(gather(request, image, own), request, image)


def _old(request: FreezeRequest) -> Freeze | None:
    if not request.written.is_file():
        return None
    text = request.written.read_text(encoding="utf-8", errors="replace")
    if request.upgrade and freeze_file.is_ours(text):
        # Whatever became of it, it is about to be replaced.
        try:
            return freeze_file.parse(text, name=request.written.name)
        except ProjectError:
            return None
    return freeze_file.parse(text, name=request.written.name)


def _commits(directs: Iterable[Wanted], old: Freeze, project: Path) -> dict[str, str]:
    """Return the commits that the old freeze found for git references without one."""
    known = {}
    for one in directs:
        if one.direct and one.direct.kind == "git":
            asked = direct_references.reference(one.direct, project)
            start = f"git+{direct_references.address(one.direct, project)}@"
            for pin in old.pins:
                commit = pin.url.removeprefix(start).partition("#")[0]
                if pin.url.startswith(start) and pin.url == direct_references.reference(
                    one.direct, project, commit
                ):
                    known[asked] = commit
    return known


def _restored(old: Freeze, settled: tuple[Settled, ...]) -> Freeze | None:
    """Give the pins of direct references their wheels; None where a rebuilt wheel is another one."""
    wheels = {one.name: one for one in settled}
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


def index_settings(requirements: Iterable[Path], project: Path, settings: IndexSettings) -> IndexSettings:
    """Return pip's configuration with the index lines of requirements files laid over it.

    That is where the frozen files are to be fetched from. Raises ProjectError for lines that cannot be read.
    """
    plain = [path for path in requirements if not lock_files.is_lock(path)]
    return _merged(
        settings, requirement_inputs.read(plain, (), project=project, env=processes.environment()).options
    )


def _merged(settings: IndexSettings, options: requirement_inputs.IndexOptions) -> IndexSettings:
    """Lay the index lines of requirements files over pip's configuration, as pip does."""
    return replace(
        settings,
        index_url=options.index_url or settings.index_url,
        extra_index_urls=tuple(dict.fromkeys((*settings.extra_index_urls, *options.extra_index_urls))),
        find_links=tuple(dict.fromkeys((*settings.find_links, *options.find_links))),
        no_index=options.no_index or settings.no_index,
        trusted_hosts=tuple(dict.fromkeys((*settings.trusted_hosts, *options.trusted_hosts))),
    )
