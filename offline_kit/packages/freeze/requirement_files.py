"""Requirements files as pip reads them, with direct references and included files, and those of a pyproject.toml.

https://pip.pypa.io/en/stable/reference/requirements-file-format/
"""

import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from offline_kit.core.errors import ProjectError
from offline_kit.packages.pip_settings import IndexSettings, redact_urls

_ARCHIVES = (".tar.gz", ".tgz", ".zip", ".tar.bz2", ".tar.xz", ".tar")
_VCS = ("git+", "hg+", "svn+", "bzr+")
# Options that have no meaning for a kit.
_IGNORED_OPTIONS = "--prefer-binary --no-binary --only-binary --require-hashes --use-feature --pre"
_INDEX_OPTIONS = ("--index-url", "--extra-index-url", "--find-links", "--no-index", "--trusted-host")
_OPTIONS_WITH_VALUE = ("--requirement", "--constraint", "--editable", *_INDEX_OPTIONS[:3])
_LONG_OPTIONS = {
    "-r": "--requirement",
    "-c": "--constraint",
    "-e": "--editable",
    "-i": "--index-url",
    "--pypi-url": "--index-url",
    "-f": "--find-links",
}
_COMMENT = re.compile(r"(^|\s+)#.*$")
# pip fills in POSIX-style names of capitals only: ${TOKEN}, neither $TOKEN nor %TOKEN%.
_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")
_OPTION = re.compile(r"\s--?[A-Za-z]")
_NAMED_REFERENCE = re.compile(r"^[A-Za-z0-9][\w.-]*\s*(\[[^\]]*\])?\s*@")
_EXTRAS = re.compile(r"^(?P<target>.+?)(?P<extras>\[[^\[\]]*\])?$")
_HASH = re.compile(r"(md5|sha1|sha224|sha256|sha384|sha512):[0-9a-fA-F]+")


@dataclass(frozen=True, kw_only=True)
class DirectReference:
    """A requirement that names where to get the package instead of a version."""

    kind: str = ""  # "wheel", "archive" or "folder" on this disk; "url" of a wheel or archive; "git"
    location: str = ""  # the path, or the URL with its credentials: never written anywhere
    name: str = ""  # normalized, if the line gives one
    extras: tuple[str, ...] = ()
    marker: str = ""
    ref: str = ""  # branch, tag or commit of a git reference
    subdirectory: str = ""  # of the project inside the archive or checkout


@dataclass(frozen=True, kw_only=True)
class RequirementLine:
    """One requirement or constraint of the user's files."""

    requirement: str  # as PEP 508, without hashes; empty for a direct reference
    origin: str  # its file, as written after "# via": "-r requirements.in"
    position: str  # file and line, for messages: "requirements.in:3"
    hashes: tuple[str, ...] = ()  # that the line allows, as "sha256:<hex>"
    direct: DirectReference | None = None

    @property
    def name(self) -> str:
        """Normalized name; empty for a direct reference that does not give it."""
        return self.direct.name if self.direct else canonicalize_name(Requirement(self.requirement).name)


class InvalidLineError(ValueError):
    """A line that pip would refuse or a kit cannot follow; the message says why."""


@dataclass(kw_only=True)
class RequirementInputs:
    """What requirements files contain, in the order of the files; it grows while files include each other."""

    root: Path  # the project
    env: Mapping[str, str]  # fills in ${VARIABLES}
    requirements: list[RequirementLine] = field(default_factory=list)
    constraints: list[RequirementLine] = field(default_factory=list)  # bind what something else requires
    compiled_files: list[Path] = field(default_factory=list)  # by a tool: exact pins are preferences
    ignored_options: list[str] = field(default_factory=list)  # as "file:line --pre"
    problems: list[str] = field(default_factory=list)  # lines that cannot be read
    _options: dict[str, list[str]] = field(default_factory=dict)
    _visited_files: set[tuple[Path, bool]] = field(default_factory=set)

    @property
    def index_options(self) -> IndexSettings:
        """Index options of the files, which override pip's configuration; `index_url` is "" if none is given."""
        return IndexSettings(
            index_url=self._options.get("--index-url", [""])[-1],
            extra_index_urls=tuple(self._options.get("--extra-index-url", ())),
            find_links=tuple(self._options.get("--find-links", ())),
            no_index="--no-index" in self._options,
            trusted_hosts=tuple(self._options.get("--trusted-host", ())),
        )

    @property
    def error(self) -> ProjectError | None:
        """The error that names every line that cannot be read; None if there is none."""
        count = len(self.problems)
        if not count:
            return None
        return ProjectError(
            f"{count} lines of the requirements cannot be read"
            if count > 1
            else "a line of the requirements cannot be read",
            hint="fix the lines listed above",
            code="requirement-line-invalid",
            details=self.problems,
        )

    def read_file(self, path: Path, *, constraint: bool = False, includer: str = "the configuration") -> None:
        """Add the lines of a file and of all files that it includes."""
        if (path, constraint) in self._visited_files:
            return
        self._visited_files.add((path, constraint))
        name = display_path(path, self.root)
        try:
            text = decode_text(path.read_bytes())
        except (OSError, UnicodeDecodeError) as error:
            cause = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            self.problems.append(f"{includer}: cannot read '{name}': {cause}")
            return
        if is_compiled_output(text):
            self.compiled_files.append(path)
        for number, line in iter_logical_lines(text, self.env):
            position = f"{name}:{number}"
            try:
                option = parse_option(line)
            except InvalidLineError as error:
                self.problems.append(f"{position}: {error}")
                continue
            if option is None:
                self.add_requirement(line, position, f"-r {name}", path.parent, constraint=constraint)
            else:
                self._apply_option(*option, position, path, constraint=constraint)

    def _apply_option(self, name: str, value: str, position: str, path: Path, *, constraint: bool) -> None:
        if name in _OPTIONS_WITH_VALUE and not value:
            self.problems.append(f"{position}: '{name}' has no value")
        elif name in ("--requirement", "--constraint"):
            included = (path.parent / Path(value).expanduser()).absolute()
            self.read_file(included, constraint=constraint or name == "--constraint", includer=position)
        elif name == "--editable":
            # A kit has no editable installs: the folder or checkout is built to a wheel like any other.
            line = value if "://" in value or value.startswith((".", "/", "~")) else f"./{value}"
            origin = f"-r {display_path(path, self.root)}"
            self.add_requirement(line, position, origin, path.parent, constraint=constraint)
        elif name in _INDEX_OPTIONS:
            if name == "--find-links" and "://" not in value:
                value = str((path.parent / Path(value).expanduser()).absolute())
            self._options.setdefault(name, []).append(value)
        elif name in _IGNORED_OPTIONS.split():
            self.ignored_options.append(f"{position} {name}")
        else:
            self.problems.append(f"{position}: unknown option '{name}'")

    def add_requirement(
        self, line: str, position: str, origin: str, base: Path, *, constraint: bool = False
    ) -> None:
        """Add one line; paths in it are relative to `base`."""
        try:
            text, hashes = split_options(line)
            requirement, direct = parse_requirement(text, base)
        except InvalidLineError as error:
            self.problems.append(f"{position}: {redact_urls(str(error))}")
            return
        # pip refuses extras in constraints, too: https://github.com/pypa/pip/issues/8210
        if constraint and (direct or Requirement(requirement).extras):
            self.problems.append(f"{position}: a constraint is a name with versions, without extras or URL")
            return
        (self.constraints if constraint else self.requirements).append(
            RequirementLine(
                requirement=requirement, origin=origin, position=position, hashes=hashes, direct=direct
            )
        )


def read_requirement_files(
    files: Iterable[Path],
    inline: Iterable[str],
    *,
    project: Path,
    env: Mapping[str, str],
    origins: Mapping[str, str] = MappingProxyType({}),
    strict: bool = True,
) -> RequirementInputs:
    """Read requirements files with all files that they include, and `inline` requirements.

    Inline requirements come from pyproject.toml, unless `origins` names another origin of a line. Raises one
    ProjectError with the position of every line that cannot be read; without `strict` it is among the result.
    """
    inputs = RequirementInputs(root=project.absolute(), env=env)
    for path in files:
        inputs.read_file(path.absolute())
    for number, line in enumerate(inline, 1):
        origin = origins.get(line, "pyproject.toml")
        position = origin if line in origins else f"{origin} (requirement {number})"
        inputs.add_requirement(line, position, origin, inputs.root)
    if inputs.error and strict:
        raise inputs.error
    return inputs


def is_compiled_output(text: str) -> bool:
    """Whether a requirements file is the output of pip-compile, uv, or this tool."""
    head = text[:600].lower()
    return "autogenerated by" in head or "made by offline-kit" in head


def display_path(path: Path, root: Path) -> str:
    """Return a path for messages: relative to the project if it is inside or beside it."""
    if path.is_relative_to(root):
        return path.relative_to(root).as_posix()
    if path.is_relative_to(root.parent):
        return f"../{path.relative_to(root.parent).as_posix()}"
    return path.name


def decode_text(raw: bytes) -> str:
    """Return the text of a UTF-8 or UTF-16 file. Raises UnicodeDecodeError."""
    # `pip freeze > requirements.txt` in Windows PowerShell 5 writes UTF-16, with or without a byte order mark.
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16")
    if b"\0" in raw[:64]:
        return raw.decode("utf-16-le" if raw[1:2] == b"\0" else "utf-16-be")
    return raw.decode("utf-8-sig")


def iter_logical_lines(text: str, env: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """Yield the first line number and the text of every line that is not empty.

    Join continuations, cut comments and fill in ${VARIABLES} from `env`, as pip does.
    """
    pending, first_number = "", 0
    for number, line in enumerate(text.lstrip("\ufeff").splitlines(), 1):
        first_number = first_number if pending else number
        # pip ends a continuation at a comment line, and keeps unset variables as they are written.
        comment = line.lstrip().startswith("#")
        if line.endswith("\\") and not comment:
            pending += line[:-1].strip() + " "
            continue
        logical_line = _COMMENT.sub("", pending if comment else pending + line).strip()
        pending = ""
        if logical_line:
            yield first_number, _VARIABLE.sub(lambda match: env.get(match[1], match[0]), logical_line)
    if pending.strip():
        yield first_number, _COMMENT.sub("", pending).strip()


def split_options(line: str) -> tuple[str, tuple[str, ...]]:
    """Return a requirement line without its own options, and the hashes among those."""
    option_match = _OPTION.search(line)
    if not option_match:
        return line, ()
    hashes, words = [], iter(_split_words(line[option_match.start() :]))
    for word in words:
        if word == "--hash":
            hashes.append(next(words, ""))
        elif word.startswith("--hash="):
            hashes.append(word.removeprefix("--hash="))
        elif not word.startswith(("--config-setting", "--global-option", "--install-option")):
            raise InvalidLineError(f"unknown option '{word}'")
    for value in hashes:
        if not _HASH.fullmatch(value):
            raise InvalidLineError(f"'{value}' is no hash; write sha256:<hex digits>")
    return line[: option_match.start()].strip(), tuple(value.lower() for value in hashes)


def parse_option(line: str) -> tuple[str, str] | None:
    """Return (long name, value) of a line that is an option, None for a requirement."""
    if not line.startswith("-"):
        return None
    words = _split_words(line)
    name, _, value = words[0].partition("=")
    if not name.startswith("--") and len(name) > 2:
        name, value = name[:2], name[2:] + (f"={value}" if value else "")
    return _LONG_OPTIONS.get(name, name), value or " ".join(words[1:])


def _split_words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InvalidLineError(f"quotes do not match ({error})") from error


def get_exact_version(requirement: Requirement) -> str:
    """Return the version of an exact pin ("==1.2" or "===1.2"), else an empty string."""
    for clause in requirement.specifier:
        if clause.operator in ("==", "===") and not clause.version.endswith(".*"):
            try:
                return str(Version(clause.version))
            except InvalidVersion:
                return ""
    return ""


def parse_requirement(line: str, base: Path) -> tuple[str, DirectReference | None]:
    """Return (PEP 508 text, None) or ("", direct reference); paths are relative to `base`.

    Raises InvalidLineError.
    """
    if not _NAMED_REFERENCE.match(line) and (direct := _parse_bare_reference(line, base)):
        return "", direct
    try:
        requirement = Requirement(line)
    except InvalidRequirement as error:
        raise InvalidLineError(str(error).splitlines()[0]) from error
    if not requirement.url:
        return str(requirement), None
    known = DirectReference(
        name=canonicalize_name(requirement.name),
        extras=tuple(sorted(requirement.extras)),
        marker=str(requirement.marker or ""),
    )
    url = requirement.url if "://" in requirement.url else str(base / requirement.url)
    return "", _parse_url_reference(url, known)


def _parse_bare_reference(line: str, base: Path) -> DirectReference | None:
    """Return the reference of a line that is a path or URL without a name, which pip takes beyond PEP 508."""
    target, _, marker = (part.strip() for part in line.partition(" ;" if " ;" in line else "; "))
    match = _EXTRAS.match(target)
    extras: tuple[str, ...] = ()
    if match and match["extras"]:
        target = match["target"].strip()
        extras = tuple(sorted(word.strip() for word in match["extras"][1:-1].split(",") if word.strip()))
    known = DirectReference(extras=extras, marker=marker)
    if "://" in target.split("@", 1)[0] or target.startswith((*_VCS, "file:")):
        return _parse_url_reference(target, known)
    looks_like_path = (
        target.startswith((".", "/", "~"))
        or re.match(r"^[A-Za-z]:[\\/]", target)  # a drive of Windows
        or target.endswith((".whl", *_ARCHIVES))
        or (("/" in target or "\\" in target) and "@" not in target)
    )
    return _parse_local_path(base / Path(target).expanduser(), known) if looks_like_path else None


def _parse_url_reference(url: str, known: DirectReference) -> DirectReference:
    """Return a reference with what its line says besides the URL."""
    address, _, fragment = url.partition("#")
    fragment_fields = dict(part.partition("=")[::2] for part in fragment.split("&") if part)
    # "#egg=name[extra]" is how a name was given before PEP 508: https://pip.pypa.io/en/stable/topics/vcs-support/
    egg_match = _EXTRAS.match(fragment_fields.get("egg", ""))
    if egg_match and not known.name:
        egg_extras = sorted((egg_match["extras"] or "[]")[1:-1].split(","))
        extras = known.extras or tuple(filter(None, egg_extras))
        known = replace(known, name=canonicalize_name(egg_match["target"]), extras=extras)
    if address.startswith("file:"):
        return _parse_local_path(Path(unquote(urlsplit(address).path)), known)
    known = replace(known, subdirectory=fragment_fields.get("subdirectory", ""))
    if not address.startswith(_VCS):
        return replace(known, kind="url", location=url)
    scheme, _, location = address.partition("+")
    if scheme != "git":
        raise InvalidLineError(f"'{scheme}' references are not supported; use git or an archive")
    ref = ""
    if "@" in location.rsplit("/", 1)[-1]:
        location, _, ref = location.rpartition("@")
    return replace(known, kind="git", location=location, ref=ref)


def _parse_local_path(path: Path, known: DirectReference) -> DirectReference:
    path = path.absolute()
    if not path.exists():
        raise InvalidLineError(f"'{path}' does not exist")
    kind = "folder" if path.is_dir() else "wheel" if path.suffix == ".whl" else "archive"
    if kind == "folder" and not any((path / file).is_file() for file in ("pyproject.toml", "setup.py")):
        raise InvalidLineError(f"'{path}' is no Python project: it has neither pyproject.toml nor setup.py")
    if kind == "archive" and not path.name.endswith(_ARCHIVES):
        raise InvalidLineError(f"'{path}' is neither a wheel, an archive nor a folder")
    return replace(known, kind=kind, location=str(path))


def read_project_dependencies(
    pyproject: Path, *, extras: Iterable[str] = (), groups: Iterable[str] = (), dependencies: bool = True
) -> tuple[str, ...]:
    """Return [project].dependencies, these optional dependencies and these dependency groups.

    Groups may include groups (PEP 735); extras may refer to the project itself. Raises one ProjectError that
    lists every missing extra and group and every line that is no requirement.
    """
    try:
        data = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ProjectError(
            f"cannot read '{pyproject}': {error}", hint="fix the file", code="pyproject-invalid"
        ) from error
    project = data.get("project", {})
    problems: list[str] = []
    lines: list[str] = []
    if dependencies:
        if "dependencies" in project.get("dynamic", []):
            # https://packaging.python.org/en/latest/specifications/pyproject-toml/#dynamic
            problems.append("[project].dependencies is dynamic: only its build backend knows it")
        lines += _check_string_list(project.get("dependencies", []), "[project].dependencies", problems)
    for extra in extras:
        lines += _expand_extra(project, extra, problems, ())
    for group in groups:
        lines += _expand_group(data.get("dependency-groups", {}), group, problems)
    for line in lines:
        try:
            Requirement(line)
        except InvalidRequirement as error:
            problems.append(f"'{line}': {str(error).splitlines()[0]}")
    if problems:
        raise ProjectError(
            f"the dependencies in '{pyproject.name}' cannot be read",
            hint="fix them, or set `requirements` to requirements files",
            code="project-dependencies-invalid",
            details=problems,
        )
    return tuple(dict.fromkeys(lines))


def _expand_group(table: dict[str, Any], group: str, problems: list[str]) -> list[str]:
    from packaging.dependency_groups import resolve_dependency_groups

    try:
        return list(resolve_dependency_groups(table, group))
    except Exception as error:  # noqa: BLE001 - an ExceptionGroup of several kinds, all about the table
        for inner in getattr(error, "exceptions", (error,)):
            problems.append(f"dependency group '{group}': {inner.args[0] if inner.args else inner}")
        return []


def _check_string_list(value: Any, table_name: str, problems: list[str]) -> list[str]:
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return value
    problems.append(f"{table_name} must be a list of strings, not {value!r}")
    return []


def _expand_extra(
    project: dict[str, Any], extra: str, problems: list[str], outer_extras: tuple[str, ...]
) -> list[str]:
    table = {
        canonicalize_name(name): value for name, value in project.get("optional-dependencies", {}).items()
    }
    if canonicalize_name(extra) not in table:
        problems.append(f"there is no extra '{extra}'; there are: {', '.join(sorted(table)) or 'none'}")
        return []
    requirements: list[str] = []
    table_name = f"[project.optional-dependencies].{extra}"
    for line in _check_string_list(table[canonicalize_name(extra)], table_name, problems):
        try:
            inner = Requirement(line)
        except InvalidRequirement:
            requirements.append(line)  # the caller reports it
            continue
        # "name[a,b]" of the project itself stands for these extras.
        if canonicalize_name(inner.name) == canonicalize_name(project.get("name", "")) and not inner.url:
            for inner_extra in sorted(inner.extras - {extra, *outer_extras}):
                requirements += _expand_extra(project, inner_extra, problems, (*outer_extras, extra))
        else:
            requirements.append(line)
    return requirements
