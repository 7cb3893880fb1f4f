"""Turn direct references into wheels: given, downloaded, or built from folders, archives and git."""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import InvalidVersion

from offline_kit.core import files, http, processes
from offline_kit.core.cache import cache_key
from offline_kit.core.errors import OfflineKitError, OutsideError, ProjectError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.packages import code_files, distribution_metadata
from offline_kit.packages.builds.build_environment import (
    WITH_FRAMEWORK,
    BuildFailedError,
    find_framework,
    unpack_sdist,
)
from offline_kit.packages.builds.sdist_builds import BuildSources, IsolatedBuild
from offline_kit.packages.freeze.requirement_files import DirectReference, RequirementLine
from offline_kit.packages.pip_settings import redact_urls
from offline_kit.project.types import Pin, Wheel


@dataclass(frozen=True, kw_only=True)
class ResolvedReference:
    """A direct reference and its wheel."""

    name: str
    version: str
    wheel: Path
    sha256: str
    reference: str  # a path relative to the project, or a URL without credentials; of git with the commit
    line: RequirementLine


def strip_credentials(url: str) -> str:
    """Return a URL without user, password and query, which may be a signature."""
    parts = urlsplit(redact_urls(url))
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))


def _format_repository_url(direct: DirectReference, project: Path) -> str:
    """Return a repository's URL without credentials, or its path relative to the project."""
    parts = urlsplit(direct.location)
    if parts.scheme != "file":
        return strip_credentials(direct.location)
    return f"file:{Path(os.path.relpath(unquote(parts.path), project)).as_posix()}"


def format_reference(direct: DirectReference, project: Path, commit: str = "") -> str:
    """Return a direct reference as text, without credentials and paths of this machine."""
    if direct.kind == "git":
        fragment_fields = [f"subdirectory={direct.subdirectory}"] if direct.subdirectory else []
        # The ref that the commit was found for: a change of branch or tag is looked up again.
        fragment_fields += [f"ref={direct.ref}"] if direct.ref and commit not in ("", direct.ref) else []
        fragment = f"#{'&'.join(fragment_fields)}" if fragment_fields else ""
        revision = commit or direct.ref
        return f"git+{_format_repository_url(direct, project)}{'@' + revision if revision else ''}{fragment}"
    if direct.kind == "url":
        return strip_credentials(direct.location)
    return Path(os.path.relpath(direct.location, project)).as_posix()


def fingerprint_reference(direct: DirectReference, project: Path) -> str:
    """Return everything that a direct reference depends on as text, with its content if it is on this disk."""
    fields = f"{direct.name} {','.join(direct.extras)} {direct.marker} {direct.subdirectory}"
    return f"{format_reference(direct, project)} {fields} {_identify_content(direct)}"


def _identify_content(direct: DirectReference) -> str:
    """Return a hash of what is on this disk, or the query of a URL; for digests only, as that may be a key."""
    if direct.kind == "folder":
        return code_files.read_source_tree(Path(direct.location)).digest
    if direct.kind in ("wheel", "archive"):
        return files.sha256_of(Path(direct.location))
    return urlsplit(direct.location).query if direct.kind == "url" else ""


def resolve_references(
    lines: Iterable[RequirementLine],
    project: Path,
    sources: BuildSources,
    *,
    old_pins: Sequence[Pin] = (),
    report: Reporter = SILENT,
) -> tuple[ResolvedReference, ...]:
    """Turn every direct reference into a wheel; wheels that were built before come from the cache.

    References keep the commits of `old_pins`, an earlier freeze. Raises one ProjectError with all references that
    cannot be built or do not fit the image, OutsideError if downloads or clones fail.
    """
    references, errors, details = [], [], []
    for line in lines:
        try:
            if direct := line.direct:
                commit = _find_commit(direct, project, old_pins) if direct.kind == "git" else ""
                wheel = Path(direct.location)
                if direct.kind != "wheel":
                    wheel = _build_cached_wheel(direct, commit, project, sources, report)
                references.append(
                    _check_wheel(line, wheel, format_reference(direct, project, commit), sources, report)
                )
        except (ProjectError, OutsideError) as error:
            errors.append(error)
            details += [f"{line.position}: {error.what}", *(f"    {detail}" for detail in error.details)]
    if not errors:
        return tuple(references)
    alone = len(errors) == 1
    if alone and isinstance(errors[0], OutsideError):
        raise errors[0]
    kind = ProjectError if any(isinstance(error, ProjectError) for error in errors) else OutsideError
    raise kind(
        "a direct reference gives no wheel for the image"
        if alone
        else f"{len(errors)} direct references give no wheel for the image",
        hint="; ".join(dict.fromkeys(error.hint for error in errors if error.hint)),
        code=errors[0].code if alone else "direct-references-unusable",
        details=details,
    )


def _check_wheel(
    line: RequirementLine, wheel: Path, reference: str, sources: BuildSources, report: Reporter
) -> ResolvedReference:
    """Return the reference with its wheel; ProjectError if its name, platform or hash is not right."""
    try:
        name, version, _, tags = parse_wheel_filename(wheel.name)
    except (InvalidWheelFilename, InvalidVersion) as error:
        raise ProjectError(
            f"'{wheel.name}' is not the name of a wheel: {error}",
            hint="restore its original name",
            code="wheel-name-invalid",
        ) from error
    if line.name not in ("", name):
        raise ProjectError(
            f"'{reference}' is '{name}', not '{line.name}'",
            hint="fix the name",
            code="reference-name-mismatch",
        )
    image = sources.image
    metadata = distribution_metadata.read_metadata(wheel, wheel.name) or b""
    requires_python = distribution_metadata.list_metadata_values(metadata, "Requires-Python")
    purpose = ""
    if image.find_tag_position(wheel.name) is None:
        purpose = f"is for {', '.join(sorted(str(tag) for tag in tags)[:3])}"
    elif not all(map(image.accepts_python, requires_python)):
        purpose = f"requires Python {requires_python[0]}"
    if purpose:
        raise ProjectError(
            f"'{wheel.name}' does not fit the image: it {purpose}, the image is Python {image.python}",
            hint=f"use a wheel for Python {image.python_minor} and {image.machine} Linux, or a pure Python one",
            code="wheel-does-not-fit",
        )
    # PEP 600: only manylinux tags promise a glibc version; "linux_x86_64" promises nothing.
    if wheel.stem.split("-")[-1].startswith("linux_"):
        report.warn(f"'{wheel.name}' does not state which glibc it needs; the rehearsal cannot check it")
    sha256 = files.sha256_of(wheel)
    # What is built here has other bytes than what the line allows.
    is_given = line.direct is not None and line.direct.kind in ("wheel", "url")
    if line.hashes and is_given and f"sha256:{sha256}" not in line.hashes:
        raise ProjectError(
            f"'{reference}' has another hash than its line allows",
            hint="fix the hash, or find out why the file changed",
            code="hash-mismatch",
            details=(f"has sha256:{sha256}",),
        )
    return ResolvedReference(
        name=name, version=str(version), wheel=wheel, sha256=sha256, reference=reference, line=line
    )


def _build_cached_wheel(
    direct: DirectReference, commit: str, project: Path, sources: BuildSources, report: Reporter
) -> Path:
    reference = format_reference(direct, Path("/"), commit)
    key = cache_key(reference, _identify_content(direct), sources.image.python_minor)
    cache_folder = sources.index.cache.root / "freeze" / "direct" / key[:32]
    # Two runs must not build the same reference at once.
    with files.hold_lock(cache_folder.with_suffix(".lock")):
        if not list(cache_folder.glob("*.whl")):
            with (
                files.stage_folder(cache_folder) as fresh,
                tempfile.TemporaryDirectory(prefix="offline-kit-") as scratch,
            ):
                description = format_reference(direct, project, commit)
                report.step(f"{'Downloading' if direct.kind == 'url' else 'Building'} {description}")
                source = _fetch_sources(direct, commit, Path(scratch), sources)
                if source.suffix == ".whl":
                    shutil.copyfile(source, fresh / source.name)
                else:
                    wheel = build_wheel(
                        lambda folder: _place_sources(direct, source, folder), sources, description
                    )
                    shutil.copyfile(wheel.path, fresh / wheel.filename)
    return min(cache_folder.glob("*.whl"))


def _fetch_sources(direct: DirectReference, commit: str, scratch: Path, sources: BuildSources) -> Path:
    """Return the path of a reference; what lies elsewhere is fetched into `scratch`."""
    if direct.kind == "git":
        return _clone_commit(direct, commit, scratch / "checkout")
    if direct.kind != "url":
        return Path(direct.location)
    address, _, fragment = direct.location.partition("#")
    target = scratch / http.url_file_name(address)
    sha256 = dict(parse_qsl(fragment)).get("sha256", "")
    http.download_file(address, target, settings=sources.index.settings, sha256=sha256)
    return target


def _place_sources(direct: DirectReference, source: Path, folder: Path) -> Path:
    """Copy or unpack sources into a folder, and return the project's; setuptools writes into what it builds."""
    if direct.kind == "git":
        return Path(shutil.copytree(source, folder / source.name, symlinks=True), direct.subdirectory)
    if source.is_file():
        return unpack_sdist(source, folder)
    tree = code_files.read_source_tree(source)
    copy = code_files.copy_tree(tree, folder / source.name)
    if tree.wants_git and (source / ".git").is_dir():
        # The version comes from the repository, which the sandbox of the build does not show.
        (copy / ".git").unlink()
        shutil.copytree(source / ".git", copy / ".git")
    return copy


def build_wheel(place_sources: Callable[[Path], Path], sources: BuildSources, description: str) -> Wheel:
    """Build one wheel in an isolated environment, reproducibly; it is in the cache.

    `place_sources` puts the sources into a folder and returns theirs. Raises ProjectError with the last lines of
    the build.
    """
    build = IsolatedBuild(sources, SILENT, log=f"reference-{cache_key(description)[:12]}")
    try:
        # Whether it fits the image is told by its name: a reference is shipped as its author builds it.
        return build.build_wheel(place_sources, fit=False)
    except BuildFailedError as error:
        if WITH_FRAMEWORK in error.tail or find_framework("\n".join(error.tail)):
            raise ProjectError(
                f"'{description}' cannot be built here: {error.reason}",
                hint=WITH_FRAMEWORK,
                code="build-needs-framework",
            ) from error
        raise ProjectError(
            f"the wheel of '{description}' cannot be built: {error.reason}",
            hint="run 'uv build --wheel' on it to see why, or add a wheel instead",
            code="wheel-build-failed",
            details=[redact_urls(line) for line in error.tail[-8:]],
        ) from error


def _find_commit(direct: DirectReference, project: Path, old_pins: Sequence[Pin]) -> str:
    if re.fullmatch(r"[0-9a-f]{40}", direct.ref):
        return direct.ref
    start = f"git+{_format_repository_url(direct, project)}@"
    for url in [pin.url for pin in old_pins if pin.url.startswith(start)]:
        commit = url.removeprefix(start).partition("#")[0]
        if url == format_reference(direct, project, commit):  # of the same branch or tag
            return commit
    ref = direct.ref or "HEAD"
    process = _run_git(["ls-remote", strip_credentials(direct.location), ref, f"{ref}^{{}}"], direct)
    lines = [line.split("\t") for line in process.out.splitlines() if "\t" in line]
    # An annotated tag is listed twice; the line with ^{} has its commit (git help ls-remote).
    lines.sort(key=lambda line: not line[1].endswith("^{}"))
    if lines:
        return lines[0][0]
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as scratch:
        folder = _clone_commit(direct, direct.ref, Path(scratch) / "checkout")
        return _run_git(["-C", str(folder), "rev-parse", "HEAD"], direct).out.strip()


def _clone_commit(direct: DirectReference, commit: str, folder: Path) -> Path:
    _run_git(
        ["clone", "--quiet", "--recurse-submodules", strip_credentials(direct.location), str(folder)], direct
    )
    process = _run_git(["-C", str(folder), "checkout", "--quiet", commit], direct, check=False)
    if not process.succeeded:
        raise ProjectError(
            f"'{strip_credentials(direct.location)}' has no branch, tag or commit '{commit}'",
            hint="fix the name after the '@'",
            code="git-ref-not-found",
        )
    return folder


def _run_git(
    arguments: list[str], direct: DirectReference, *, check: bool = True
) -> processes.CompletedCommand:
    parts = urlsplit(direct.location)
    env = processes.copy_environment(GIT_TERMINAL_PROMPT="0")
    if "@" in parts.netloc and parts.scheme != "ssh":
        # Credentials go through the environment, because `ps` shows command lines to every user of a machine.
        host = parts.netloc.rpartition("@")[2]
        env |= {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{parts.scheme}://{parts.netloc}/.insteadOf",
            "GIT_CONFIG_VALUE_0": f"{parts.scheme}://{host}/",
        }
    try:
        process = processes.run_command(["git", *arguments], env=env, timeout=900, check=False)
    except OfflineKitError as error:
        raise OutsideError("git references need git", hint="install git", code="git-not-found") from error
    if check and not process.succeeded:
        raise OutsideError(
            f"git cannot read '{strip_credentials(direct.location)}'",
            hint="check the address, the network and your access",
            code="git-clone-failed",
            details=[redact_urls(line) for line in process.last_lines(4)],
        )
    return process
