"""Requirements files as pip reads them: logical lines, options, what each line asks for."""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

ARCHIVES = (".tar.gz", ".tgz", ".zip", ".tar.bz2", ".tar.xz", ".tar")
VCS = ("git+", "hg+", "svn+", "bzr+")

_COMMENT = re.compile(r"(^|\s+)#.*$")
_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")
_OPTION = re.compile(r"\s--?[A-Za-z]")
_NAMED_REFERENCE = re.compile(r"^[A-Za-z0-9][\w.-]*\s*(\[[^\]]*\])?\s*@")
_EXTRAS = re.compile(r"^(?P<place>.+?)(?P<extras>\[[^\[\]]*\])?$")


@dataclass(frozen=True, kw_only=True)
class DirectReference:
    """A requirement that says where to take the package from, instead of what version."""

    kind: str
    """"wheel", "archive" or "folder" on this disk; "url" of a wheel or archive; "git"."""
    location: str
    """The path, or the url with its credentials; never written anywhere."""
    name: str = ""
    """Normalized name where the line gives it."""
    extras: tuple[str, ...] = ()
    """Extras asked of it."""
    marker: str = ""
    """Its environment marker."""
    ref: str = ""
    """Branch, tag or commit of a git reference."""
    subdirectory: str = ""
    """Where in the archive or checkout the project lies."""


@dataclass(frozen=True, kw_only=True)
class RequirementLine:
    """One thing that the user's files ask for."""

    requirement: str
    """As PEP 508, without hashes; empty for a direct reference."""
    origin: str
    """Where it stands, as written after "# via": "-r requirements.in"."""
    position: str
    """File and line, for messages: "requirements.in:3"."""
    hashes: tuple[str, ...] = ()
    """Hashes that the line allows, as "sha256:<hex>"."""
    direct: DirectReference | None = None
    """Where to take it from, for direct references."""

    @property
    def name(self) -> str:
        """Normalized name; empty for a direct reference that does not say it."""
        if self.direct:
            return self.direct.name
        return canonicalize_name(Requirement(self.requirement).name)


class InvalidLineError(ValueError):
    """A line that nobody can follow; the message says why."""


def iter_logical_lines(text: str, env: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """Yield (number of the first line, text) of every line that says something.

    Continuations are joined, comments cut, ${VARIABLES} filled in from `env` as pip does.
    """
    pending, first_number = "", 0
    for number, line in enumerate(text.lstrip("\ufeff").splitlines(), 1):
        first_number = first_number if pending else number
        comment = line.lstrip().startswith("#")
        if line.endswith("\\") and not comment:
            pending += line[:-1].strip() + " "
            continue
        logical_line = _COMMENT.sub("", pending if comment else pending + line).strip()
        pending = ""
        if logical_line:
            yield first_number, _VARIABLE.sub(lambda found: env.get(found[1], found[0]), logical_line)
    if pending.strip():
        yield first_number, _COMMENT.sub("", pending).strip()


def split_options(line: str) -> tuple[str, tuple[str, ...]]:
    """Return a requirement line without its own options, and the hashes among those."""
    option_match = _OPTION.search(line)
    if not option_match:
        return line, ()
    words = _split_words(line[option_match.start() :])
    hashes, remaining_words = [], iter(words)
    for word in remaining_words:
        if word == "--hash":
            hashes.append(next(remaining_words, ""))
        elif word.startswith("--hash="):
            hashes.append(word.removeprefix("--hash="))
        elif not word.startswith(("--config-setting", "--global-option", "--install-option")):
            raise InvalidLineError(f"unknown option '{word}'")
    for value in hashes:
        if not re.fullmatch(r"(md5|sha1|sha224|sha256|sha384|sha512):[0-9a-fA-F]+", value):
            raise InvalidLineError(f"'{value}' is no hash; it reads sha256:<hex digits>")
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


_LONG_OPTIONS = {
    "-r": "--requirement",
    "-c": "--constraint",
    "-e": "--editable",
    "-i": "--index-url",
    "--pypi-url": "--index-url",
    "-f": "--find-links",
}


def _split_words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InvalidLineError(f"quotes do not match ({error})") from error


def parse_requirement(line: str, base: Path) -> tuple[str, DirectReference | None]:
    """Return (PEP 508 text, None) or ("", direct reference); `base` is what paths are relative to.

    Raises BadLineError.
    """
    if direct := _parse_bare_reference(line, base):
        return "", direct
    try:
        requirement = Requirement(line)
    except InvalidRequirement as error:
        raise InvalidLineError(str(error).splitlines()[0]) from error
    if requirement.url:
        location = requirement.url if "://" in requirement.url else str(base / requirement.url)
        return "", _parse_url_reference(
            location,
            name=canonicalize_name(requirement.name),
            extras=tuple(sorted(requirement.extras)),
            marker=str(requirement.marker or ""),
        )
    return str(requirement), None


def _parse_bare_reference(line: str, base: Path) -> DirectReference | None:
    if _NAMED_REFERENCE.match(line):
        return None
    location, _, marker = (part.strip() for part in line.partition(" ;" if " ;" in line else "; "))
    extras_match = _EXTRAS.match(location)
    extras: tuple[str, ...] = ()
    if extras_match and extras_match["extras"]:
        location = extras_match["place"].strip()
        extras = tuple(
            sorted(word.strip() for word in extras_match["extras"][1:-1].split(",") if word.strip())
        )
    if "://" in location.split("@", 1)[0] or location.startswith(VCS) or location.startswith("file:"):
        return _parse_url_reference(location, extras=extras, marker=marker)
    looks_like_path = location.startswith((".", "/", "~")) or re.match(r"^[A-Za-z]:[\\/]", location)
    if (
        looks_like_path
        or location.endswith((".whl", *ARCHIVES))
        or (("/" in location or "\\" in location) and "@" not in location)
    ):
        path = base / Path(location).expanduser()
        return _parse_local_path(path, extras=extras, marker=marker)
    return None


def _parse_url_reference(
    location: str, *, name: str = "", extras: tuple[str, ...] = (), marker: str = ""
) -> DirectReference:
    address, _, fragment = location.partition("#")
    fragment_fields = dict(part.partition("=")[::2] for part in fragment.split("&") if part)
    egg_match = _EXTRAS.match(fragment_fields.get("egg", ""))
    if egg_match and not name:
        name = canonicalize_name(egg_match["place"])
        extras = extras or tuple(sorted((egg_match["extras"] or "[]")[1:-1].split(",")))
    extras = tuple(extra for extra in extras if extra)
    subdirectory = fragment_fields.get("subdirectory", "")
    if address.startswith("file:"):
        return _parse_local_path(
            Path(unquote(urlsplit(address).path)), name=name, extras=extras, marker=marker
        )
    if address.startswith("git+"):
        url, ref = address.removeprefix("git+"), ""
        if "@" in url.rsplit("/", 1)[-1]:
            url, _, ref = url.rpartition("@")
        return DirectReference(
            kind="git",
            location=url,
            ref=ref,
            name=name,
            extras=extras,
            marker=marker,
            subdirectory=subdirectory,
        )
    if address.startswith(VCS):
        raise InvalidLineError(
            f"'{address.split('+')[0]}' references are not supported; git ones and archives are"
        )
    return DirectReference(
        kind="url", location=location, name=name, extras=extras, marker=marker, subdirectory=subdirectory
    )


def _parse_local_path(
    path: Path, *, name: str = "", extras: tuple[str, ...] = (), marker: str = ""
) -> DirectReference:
    path = path.absolute()
    if not path.exists():
        raise InvalidLineError(f"there is no '{path}'")
    kind = "folder" if path.is_dir() else "wheel" if path.suffix == ".whl" else "archive"
    if kind == "folder" and not any((path / file).is_file() for file in ("pyproject.toml", "setup.py")):
        raise InvalidLineError(f"'{path}' is no Python project: it has neither pyproject.toml nor setup.py")
    if kind == "archive" and not path.name.endswith(ARCHIVES):
        raise InvalidLineError(f"'{path}' is neither a wheel, an archive nor a folder")
    return DirectReference(kind=kind, location=str(path), name=name, extras=extras, marker=marker)
