"""Direct references to wheels: given ones, downloaded ones, and those built from folders, archives and git."""

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
from offline_kit.packages.builds.build_environment import WITH_FRAMEWORK, compiled_against
from offline_kit.packages.freeze.requirement_lines import Direct, Wanted
from offline_kit.packages.pip_settings import IndexSettings, redact
from offline_kit.project.images import Image

UNHASHED = frozenset(
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
"""Folders that are no part of a project's source."""
_SCM = re.compile(rb"setuptools[-_]scm|hatch-vcs|versioningit|versioneer|pbr|dunamai|vcs")


@dataclass(frozen=True, kw_only=True)
class Settled:
    """A direct reference with the wheel that stands for it."""

    name: str
    """Normalized name of the distribution."""
    version: str
    """Its version, as the wheel's name says it."""
    wheel: Path
    """The wheel on this disk."""
    sha256: str
    """Hex digest of the wheel."""
    reference: str
    """As it is written: a path relative to the project, or a url without credentials, git ones with the commit."""
    wanted: Wanted
    """The line that asked for it."""


@dataclass(frozen=True, kw_only=True)
class Yard:
    """Where and how direct references are turned into wheels."""

    project: Path
    """The project's folder; paths are written relative to it."""
    image: Image
    """The image that the wheels must fit."""
    settings: IndexSettings
    """Where build requirements come from."""
    cache: Path
    """Where wheels are kept, by content or commit."""
    known: Mapping[str, str] = field(default_factory=dict)
    """Commits of an earlier freeze by git url and ref, so that branches stay where they were."""


def bare_url(url: str) -> str:
    """Return a url without credentials: its user, its password, and its query, which may be a signature."""
    parts = urlsplit(redact(url))
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))


def address(direct: Direct, project: Path) -> str:
    """Return a repository's address without credentials; one on this disk relative to the project."""
    parts = urlsplit(direct.place)
    if parts.scheme != "file":
        return bare_url(direct.place)
    return f"file:{Path(os.path.relpath(unquote(parts.path), project)).as_posix()}"


def reference(direct: Direct, project: Path, commit: str = "") -> str:
    """Return how a direct reference is written down: no credentials, no path of this machine."""
    if direct.kind == "git":
        facts = [f"subdirectory={direct.subdirectory}"] if direct.subdirectory else []
        # Which branch or tag a commit was found for: another one asked for later is looked up anew.
        facts += [f"ref={direct.ref}"] if direct.ref and commit not in ("", direct.ref) else []
        tail = f"#{'&'.join(facts)}" if facts else ""
        at = commit or direct.ref
        return f"git+{address(direct, project)}{'@' + at if at else ''}{tail}"
    if direct.kind == "url":
        return bare_url(direct.place)
    return Path(os.path.relpath(direct.place, project)).as_posix()


def fingerprint(direct: Direct, project: Path) -> str:
    """Return what a direct reference depends on, as text: its content where that lies on this disk."""
    said = f"{direct.name} {','.join(direct.extras)} {direct.marker} {direct.subdirectory}"
    return f"{reference(direct, project)} {said} {_content(direct)}{_query(direct)}"


def _query(direct: Direct) -> str:
    """Return what stands behind the "?" of an address: for digests alone, since it may be a key."""
    return urlsplit(direct.place).query if direct.kind == "url" else ""


def _content(direct: Direct) -> str:
    path = Path(direct.place)
    if direct.kind == "folder":
        return _folder_hash(path)
    return files.sha256_of(path) if direct.kind in ("wheel", "archive") else ""


def _folder_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_left_out(name))
        for name in sorted(names):
            path = Path(where) / name
            if path.is_file() and not name.endswith((".pyc", ".pyo")):
                digest.update(f"{path.relative_to(folder).as_posix()}\0{files.sha256_of(path)}\n".encode())
    return digest.hexdigest()


def _is_left_out(name: str) -> bool:
    return name in UNHASHED or name.endswith(".egg-info")


def settle(wanted: Iterable[Wanted], yard: Yard, *, report: Reporter = SILENT) -> tuple[Settled, ...]:
    """Turn every direct reference into a wheel; those built before come from the cache.

    Raises one ProjectError with all that cannot be built or do not fit the image, OutsideError where a
    download or a clone fails.
    """
    found, refused = [], []
    for one in wanted:
        try:
            found.append(_settle_one(one, yard, report))
        except (ProjectError, OutsideError) as error:
            refused.append((one, error))
    if len(refused) == 1 and isinstance(refused[0][1], OutsideError):
        raise refused[0][1]
    if refused:
        kind = ProjectError if any(isinstance(error, ProjectError) for _, error in refused) else OutsideError
        hints = dict.fromkeys(error.hint for _, error in refused if error.hint)
        raise kind(
            "a direct reference cannot become a wheel for the image"
            if len(refused) == 1
            else "direct references cannot become wheels for the image",
            hint="; ".join(hints),
            details=[
                line
                for one, error in refused
                for line in (f"{one.where}: {error.what}", *(f"    {detail}" for detail in error.details))
            ],
        )
    return tuple(found)


def _settle_one(wanted: Wanted, yard: Yard, report: Reporter) -> Settled:
    direct = wanted.direct
    assert direct is not None  # noqa: S101 - the caller passes direct references only
    commit = ""
    if direct.kind == "git":
        commit = _commit(direct, yard)
    if direct.kind == "wheel":
        wheel = Path(direct.place)
    else:
        asked = f"{reference(direct, Path('/'), commit)}{_query(direct)}"
        key = f"{asked} {_content(direct)} {yard.image.python_minor}"
        shelf = yard.cache / "freeze" / "direct" / hashlib.sha256(key.encode()).hexdigest()[:32]
        wheel = _shelved(direct, commit, shelf, yard, report)
    settled = Settled(
        **_identity(wheel),
        wheel=wheel,
        sha256=files.sha256_of(wheel),
        reference=reference(direct, yard.project, commit),
        wanted=wanted,
    )
    _check(settled, direct, yard.image)
    return settled


def _shelved(direct: Direct, commit: str, shelf: Path, yard: Yard, report: Reporter) -> Path:
    if wheel := next(iter(sorted(shelf.glob("*.whl"))), None):
        return wheel
    with files.locked(shelf.with_suffix(".lock")):
        if wheel := next(iter(sorted(shelf.glob("*.whl"))), None):
            return wheel
        with files.staged(shelf) as fresh, tempfile.TemporaryDirectory(prefix="offline-kit-") as scratch:
            shown = reference(direct, yard.project, commit)
            report.step(f"{'Downloading' if direct.kind == 'url' else 'Building'} {shown}")
            source = _fetch(direct, commit, Path(scratch), yard)
            if source.suffix == ".whl":
                shutil.copyfile(source, fresh / source.name)
            else:
                place = source / direct.subdirectory if source.is_dir() else source
                build_wheel(place, fresh, yard, shown, tree=source)
    return next(iter(sorted(shelf.glob("*.whl"))))


def _identity(wheel: Path) -> dict[str, str]:
    try:
        name, version, _, _ = parse_wheel_filename(wheel.name)
    except (InvalidWheelFilename, InvalidVersion) as error:
        raise ProjectError(f"'{wheel.name}' is no wheel's name: {error}", hint="restore its name") from error
    return {"name": str(name), "version": str(version)}


def _check(settled: Settled, direct: Direct, image: Image) -> None:
    if direct.name and direct.name != settled.name:
        raise ProjectError(
            f"'{settled.reference}' is '{settled.name}', not '{direct.name}'", hint="correct the name"
        )
    tags = parse_wheel_filename(settled.wheel.name)[3]
    if not tags & set(image.tags()):
        shown = ", ".join(sorted(str(tag) for tag in tags)[:3])
        raise ProjectError(
            f"'{settled.wheel.name}' does not fit the image: it is for {shown}, the image is Python {image.python_minor}",
            hint=f"give a wheel for Python {image.python_minor} and {image.machine} Linux, or a pure one",
        )
    allowed = settled.wanted.hashes
    if allowed and direct.kind in ("wheel", "url") and f"sha256:{settled.sha256}" not in allowed:
        raise ProjectError(
            f"'{settled.reference}' has another hash than its line allows",
            hint="correct the hash, or find out why the file changed",
            details=(f"has sha256:{settled.sha256}",),
        )


def _fetch(direct: Direct, commit: str, scratch: Path, yard: Yard) -> Path:
    """Return the wheel, archive or folder of sources below `scratch`."""
    if direct.kind == "url":
        return _download(direct, scratch, yard)
    if direct.kind == "git":
        return _checkout(direct, commit, scratch / "checkout")
    source = Path(direct.place)
    if direct.kind == "archive":
        return source
    return _copy(source, scratch / source.name)


def _copy(source: Path, target: Path) -> Path:
    # A copy, because setuptools leaves build/ and *.egg-info in the folder that it builds.
    about = b"".join(
        (source / name).read_bytes()
        for name in ("pyproject.toml", "setup.py", "setup.cfg")
        if (source / name).is_file()
    )
    kept = {".git"} if _SCM.search(about) else set()

    def left_out(_folder: str, names: list[str]) -> set[str]:
        return {name for name in names if _is_left_out(name) and name not in kept}

    shutil.copytree(source, target, ignore=left_out, ignore_dangling_symlinks=True)
    return target


def _download(direct: Direct, scratch: Path, yard: Yard) -> Path:
    address, _, fragment = direct.place.partition("#")
    facts = dict(part.partition("=")[::2] for part in fragment.split("&") if part)
    target = scratch / Path(urlsplit(address).path).name
    http.download(address, target, settings=yard.settings, sha256=facts.get("sha256", ""))
    return target


def build_wheel(source: Path, into: Path, yard: Yard, shown: str, *, tree: Path | None = None) -> Path:
    """Build one wheel from a folder or an sdist in an isolated environment, the same bytes every time.

    The target's Python builds where this machine has one. `tree` is the whole copy that the sources lie in; a build
    may write there. Raises ProjectError with the build's last words.
    """
    python = interpreters.find(yard.image.python_minor, processes.environment())
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as scratch:
        out = files.made(Path(scratch) / "out")
        words: list[str | Path] = ["build", "--wheel", source, "--out-dir", out, "--no-create-gitignore"]
        words += ["--python", python or sys.executable]
        for bound in uv_tool.build_constraints(yard.image.packages, Path(scratch)):
            done = uv_tool.run_builds(
                [*words, "--build-constraints", bound],
                yard.settings,
                cwd=Path(scratch),
                cache=yard.cache,
                shown=(*confined_build.python_folders(python or Path(sys.executable)), source),
                writable=(tree or source,) if source.is_dir() else (),
            )
            if not uv_tool.refuses_versions(done):
                break
        built = [
            Path(shutil.copyfile(path, into / path.name))
            for path in sorted(out.glob("*.whl"))
            if leftovers.is_regular(path)
        ]
    if not done.ok and (framework := compiled_against(done.err)):
        raise ProjectError(
            f"the build of '{shown}' asks for {framework}, which only the image has as it must be: {WITH_FRAMEWORK}",
            hint=WITH_FRAMEWORK,
        )
    if not done.ok or not built:
        raise ProjectError(
            f"'{shown}' cannot be built to a wheel",
            hint="build it by hand to see why, or give a wheel",
            details=[redact(line) for line in done.tail(8)],
        )
    wheel_files.normalise_wheel(built[0])
    return built[0]


def _commit(direct: Direct, yard: Yard) -> str:
    if re.fullmatch(r"[0-9a-f]{40}", direct.ref):
        return direct.ref
    asked = reference(direct, yard.project)
    if asked in yard.known:
        return yard.known[asked]
    ref = direct.ref or "HEAD"
    done = _git(["ls-remote", bare_url(direct.place), ref, f"{ref}^{{}}"], direct)
    lines = [line.split("\t") for line in done.out.splitlines() if "\t" in line]
    # An annotated tag is listed twice; the peeled line names the commit.
    lines.sort(key=lambda line: not line[1].endswith("^{}"))
    if lines:
        return lines[0][0]
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as scratch:
        folder = _checkout(direct, direct.ref, Path(scratch) / "checkout")
        return _git(["-C", str(folder), "rev-parse", "HEAD"], direct).out.strip()


def _checkout(direct: Direct, commit: str, folder: Path) -> Path:
    _git(["clone", "--quiet", "--recurse-submodules", bare_url(direct.place), str(folder)], direct)
    done = _git(["-C", str(folder), "checkout", "--quiet", commit], direct, check=False)
    if not done.ok:
        raise ProjectError(
            f"'{bare_url(direct.place)}' has no branch, tag or commit '{commit}'",
            hint="correct it after the '@'",
        )
    return folder


def _git(words: list[str], direct: Direct, *, check: bool = True) -> processes.Done:
    parts = urlsplit(direct.place)
    env = processes.environment(GIT_TERMINAL_PROMPT="0")
    if "@" in parts.netloc and parts.scheme != "ssh":
        # Credentials go through the environment: command lines can be read by everybody here.
        host = parts.netloc.rpartition("@")[2]
        env |= {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{parts.scheme}://{parts.netloc}/.insteadOf",
            "GIT_CONFIG_VALUE_0": f"{parts.scheme}://{host}/",
        }
    try:
        done = processes.run(["git", *words], env=env, timeout=900, check=False)
    except OfflineKitError as error:
        raise OutsideError("git is needed for git references", hint="install git") from error
    if check and not done.ok:
        raise OutsideError(
            f"git cannot read '{bare_url(direct.place)}'",
            hint="check the address, the network and your access",
            details=[redact(line) for line in done.tail(4)],
        )
    return done
