"""Turn direct references into wheels: given, downloaded, or built from folders, archives and git."""

import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import InvalidVersion

from offline_kit.core import files, http, interpreters, processes
from offline_kit.core.errors import OfflineKitError, OutsideError, ProjectError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.core.sandboxes import leftovers
from offline_kit.packages import wheel_files
from offline_kit.packages.builds import confined_build, uv_tool
from offline_kit.packages.builds.build_environment import WITH_FRAMEWORK, find_framework
from offline_kit.packages.freeze.requirement_files import DirectReference, RequirementLine
from offline_kit.packages.pip_settings import IndexSettings, redact_urls
from offline_kit.project.images import Image

EXCLUDED_FOLDERS = frozenset(
    [
        ".git",
        ".hg",
        ".svn",
        ".venv",
        "venv",
        "__pycache__",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        ".tox",
        ".nox",
        ".eggs",
        "node_modules",
        ".ipynb_checkpoints",
        "dist",
        "build",
        ".idea",
        ".vscode",
    ]
)
"""Folders that are not part of a project's source."""
_VERSIONED_BY_SCM = re.compile(rb"setuptools[-_]scm|hatch-vcs|versioningit|versioneer|pbr|dunamai|vcs")


@dataclass(frozen=True, kw_only=True)
class ResolvedReference:
    """A direct reference and its wheel."""

    name: str
    version: str
    wheel: Path
    sha256: str
    reference: str
    """A path relative to the project, or a URL without credentials; of git with the commit."""
    line: RequirementLine


@dataclass(frozen=True, kw_only=True)
class ReferenceContext:
    """How to turn direct references into wheels."""

    project: Path
    """References are written relative to it."""
    image: Image
    settings: IndexSettings
    """For build requirements."""
    cache: Path
    known_commits: Mapping[str, str] = field(default_factory=dict)
    """Commits of an earlier freeze by git URL and ref, so that branches keep their commit."""


def strip_credentials(url: str) -> str:
    """Return a URL without user, password and query, which may be a signature."""
    parts = urlsplit(redact_urls(url))
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))


def format_repository_url(direct: DirectReference, project: Path) -> str:
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
        return f"git+{format_repository_url(direct, project)}{'@' + revision if revision else ''}{fragment}"
    if direct.kind == "url":
        return strip_credentials(direct.location)
    return Path(os.path.relpath(direct.location, project)).as_posix()


def fingerprint_reference(direct: DirectReference, project: Path) -> str:
    """Return everything that a direct reference depends on as text, with its content if it is on this disk."""
    fields = f"{direct.name} {','.join(direct.extras)} {direct.marker} {direct.subdirectory}"
    return f"{format_reference(direct, project)} {fields} {_hash_content(direct)}{_get_url_query(direct)}"


def _get_url_query(direct: DirectReference) -> str:
    """Return the query of a URL, for digests only: it may be a key."""
    return urlsplit(direct.location).query if direct.kind == "url" else ""


def _hash_content(direct: DirectReference) -> str:
    path = Path(direct.location)
    if direct.kind == "folder":
        return _hash_folder(path)
    return files.sha256_of(path) if direct.kind in ("wheel", "archive") else ""


def _hash_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_excluded_name(name))
        for name in sorted(names):
            path = Path(parent) / name
            if path.is_file() and not name.endswith((".pyc", ".pyo")):
                digest.update(f"{path.relative_to(folder).as_posix()}\0{files.sha256_of(path)}\n".encode())
    return digest.hexdigest()


def _is_excluded_name(name: str) -> bool:
    return name in EXCLUDED_FOLDERS or name.endswith(".egg-info")


def resolve_references(
    lines: Iterable[RequirementLine], context: ReferenceContext, *, report: Reporter = SILENT
) -> tuple[ResolvedReference, ...]:
    """Turn every direct reference into a wheel; wheels that were built before come from the cache.

    Raises one ProjectError with all references that cannot be built or do not fit the image, OutsideError if
    downloads or clones fail.
    """
    references, refused = [], []
    for entry in lines:
        try:
            references.append(_resolve_reference(entry, context, report))
        except (ProjectError, OutsideError) as error:
            refused.append((entry, error))
    if len(refused) == 1 and isinstance(refused[0][1], OutsideError):
        raise refused[0][1]
    if refused:
        kind = ProjectError if any(isinstance(error, ProjectError) for _, error in refused) else OutsideError
        hints = dict.fromkeys(error.hint for _, error in refused if error.hint)
        raise kind(
            "a direct reference gives no wheel for the image"
            if len(refused) == 1
            else f"{len(refused)} direct references give no wheel for the image",
            hint="; ".join(hints),
            code=refused[0][1].code if len(refused) == 1 else "direct-references-unusable",
            details=[
                line
                for entry, error in refused
                for line in (
                    f"{entry.position}: {error.what}",
                    *(f"    {detail}" for detail in error.details),
                )
            ],
        )
    return tuple(references)


def _resolve_reference(
    line: RequirementLine, context: ReferenceContext, report: Reporter
) -> ResolvedReference:
    direct = line.direct
    assert direct is not None  # noqa: S101 - the caller passes direct references only
    commit = ""
    if direct.kind == "git":
        commit = _find_commit(direct, context)
    if direct.kind == "wheel":
        wheel = Path(direct.location)
    else:
        cache_source = f"{format_reference(direct, Path('/'), commit)}{_get_url_query(direct)}"
        key = f"{cache_source} {_hash_content(direct)} {context.image.python_minor}"
        cache_folder = context.cache / "freeze" / "direct" / hashlib.sha256(key.encode()).hexdigest()[:32]
        wheel = _build_cached_wheel(direct, commit, cache_folder, context, report)
    resolved = ResolvedReference(
        **_parse_wheel_name(wheel),
        wheel=wheel,
        sha256=files.sha256_of(wheel),
        reference=format_reference(direct, context.project, commit),
        line=line,
    )
    _check_wheel(resolved, direct, context.image)
    return resolved


def _build_cached_wheel(
    direct: DirectReference, commit: str, cache_folder: Path, context: ReferenceContext, report: Reporter
) -> Path:
    if wheel := next(iter(sorted(cache_folder.glob("*.whl"))), None):
        return wheel
    with files.hold_lock(cache_folder.with_suffix(".lock")):
        if wheel := next(iter(sorted(cache_folder.glob("*.whl"))), None):
            return wheel
        with (
            files.stage_folder(cache_folder) as fresh,
            tempfile.TemporaryDirectory(prefix="offline-kit-") as scratch,
        ):
            description = format_reference(direct, context.project, commit)
            report.step(f"{'Downloading' if direct.kind == 'url' else 'Building'} {description}")
            source = _fetch_sources(direct, commit, Path(scratch), context)
            if source.suffix == ".whl":
                shutil.copyfile(source, fresh / source.name)
            else:
                build_folder = source / direct.subdirectory if source.is_dir() else source
                build_wheel(build_folder, fresh, context, description, tree=source)
    return next(iter(sorted(cache_folder.glob("*.whl"))))


def _parse_wheel_name(wheel: Path) -> dict[str, str]:
    try:
        name, version, _, _ = parse_wheel_filename(wheel.name)
    except (InvalidWheelFilename, InvalidVersion) as error:
        raise ProjectError(
            f"'{wheel.name}' is not the name of a wheel: {error}",
            hint="restore its original name",
            code="wheel-name-invalid",
        ) from error
    return {"name": str(name), "version": str(version)}


def _check_wheel(resolved: ResolvedReference, direct: DirectReference, image: Image) -> None:
    if direct.name and direct.name != resolved.name:
        raise ProjectError(
            f"'{resolved.reference}' is '{resolved.name}', not '{direct.name}'",
            hint="fix the name",
            code="reference-name-mismatch",
        )
    tags = parse_wheel_filename(resolved.wheel.name)[3]
    if not tags & set(image.list_wheel_tags()):
        tag_list = ", ".join(sorted(str(tag) for tag in tags)[:3])
        raise ProjectError(
            f"'{resolved.wheel.name}' does not fit the image: it is for {tag_list}, the image is Python {image.python_minor}",
            hint=f"use a wheel for Python {image.python_minor} and {image.machine} Linux, or a pure Python one",
            code="wheel-does-not-fit",
        )
    allowed = resolved.line.hashes
    if allowed and direct.kind in ("wheel", "url") and f"sha256:{resolved.sha256}" not in allowed:
        raise ProjectError(
            f"'{resolved.reference}' has another hash than its line allows",
            hint="fix the hash, or find out why the file changed",
            code="hash-mismatch",
            details=(f"has sha256:{resolved.sha256}",),
        )


def _fetch_sources(direct: DirectReference, commit: str, scratch: Path, context: ReferenceContext) -> Path:
    """Return the wheel, archive or folder of sources below `scratch`."""
    if direct.kind == "url":
        return _download_archive(direct, scratch, context)
    if direct.kind == "git":
        return _clone_commit(direct, commit, scratch / "checkout")
    source = Path(direct.location)
    if direct.kind == "archive":
        return source
    return _copy_sources(source, scratch / source.name)


def _copy_sources(source: Path, target: Path) -> Path:
    # setuptools writes build/ and *.egg-info into the folder that it builds.
    build_files = b"".join(
        (source / name).read_bytes()
        for name in ("pyproject.toml", "setup.py", "setup.cfg")
        if (source / name).is_file()
    )
    needed_names = {".git"} if _VERSIONED_BY_SCM.search(build_files) else set()

    def list_excluded(_folder: str, names: list[str]) -> set[str]:
        return {name for name in names if _is_excluded_name(name) and name not in needed_names}

    shutil.copytree(source, target, ignore=list_excluded, ignore_dangling_symlinks=True)
    return target


def _download_archive(direct: DirectReference, scratch: Path, context: ReferenceContext) -> Path:
    address, _, fragment = direct.location.partition("#")
    fragment_fields = dict(part.partition("=")[::2] for part in fragment.split("&") if part)
    target = scratch / Path(urlsplit(address).path).name
    http.download_file(address, target, settings=context.settings, sha256=fragment_fields.get("sha256", ""))
    return target


def build_wheel(
    source: Path,
    output_folder: Path,
    context: ReferenceContext,
    description: str,
    *,
    tree: Path | None = None,
) -> Path:
    """Build one wheel from a folder or an sdist in an isolated environment, reproducibly.

    It is built by the target's Python if this machine has one. `tree` is the copy of the whole repository, which
    the build may write to. Raises ProjectError with the last lines of the build.
    """
    python = interpreters.find_interpreter(context.image.python_minor, processes.copy_environment())
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as scratch:
        build_output = files.make_folder(Path(scratch) / "out")
        arguments: list[str | Path] = [
            "build",
            "--wheel",
            source,
            "--out-dir",
            build_output,
            "--no-create-gitignore",
        ]
        arguments += ["--python", python or sys.executable]
        for constraint_file in uv_tool.write_build_constraints(context.image.packages, Path(scratch)):
            process = uv_tool.run_uv_builds(
                [*arguments, "--build-constraints", constraint_file],
                context.settings,
                cwd=Path(scratch),
                cache=context.cache,
                shown=(*confined_build.list_python_folders(python or Path(sys.executable)), source),
                writable=(tree or source,) if source.is_dir() else (),
            )
            if not uv_tool.refuses_versions(process):
                break
        built = [
            Path(shutil.copyfile(path, output_folder / path.name))
            for path in sorted(build_output.glob("*.whl"))
            if leftovers.is_regular(path)
        ]
    if not process.succeeded and (framework := find_framework(process.err)):
        raise ProjectError(
            f"the build of '{description}' asks for {framework}, which only the image has as it must be: {WITH_FRAMEWORK}",
            hint=WITH_FRAMEWORK,
            code="build-needs-framework",
        )
    if not process.succeeded or not built:
        raise ProjectError(
            f"the wheel of '{description}' cannot be built",
            hint="run 'uv build --wheel' on it to see why, or add a wheel instead",
            code="wheel-build-failed",
            details=[redact_urls(line) for line in process.last_lines(8)],
        )
    wheel_files.normalize_wheel(built[0])
    return built[0]


def _find_commit(direct: DirectReference, context: ReferenceContext) -> str:
    if re.fullmatch(r"[0-9a-f]{40}", direct.ref):
        return direct.ref
    reference_text = format_reference(direct, context.project)
    if reference_text in context.known_commits:
        return context.known_commits[reference_text]
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
