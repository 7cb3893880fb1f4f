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
_NAMED = re.compile(r"^[A-Za-z0-9][\w.-]*\s*(\[[^\]]*\])?\s*@")
_EXTRAS = re.compile(r"^(?P<place>.+?)(?P<extras>\[[^\[\]]*\])?$")


@dataclass(frozen=True, kw_only=True)
class Direct:
    """A requirement that says where to take the package from, instead of what version."""

    kind: str
    """"wheel", "archive" or "folder" on this disk; "url" of a wheel or archive; "git"."""
    place: str
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
class Wanted:
    """One thing that the user's files ask for."""

    requirement: str
    """As PEP 508, without hashes; empty for a direct reference."""
    origin: str
    """Where it stands, as written after "# via": "-r requirements.in"."""
    where: str
    """File and line, for messages: "requirements.in:3"."""
    hashes: tuple[str, ...] = ()
    """Hashes that the line allows, as "sha256:<hex>"."""
    direct: Direct | None = None
    """Where to take it from, for direct references."""

    @property
    def name(self) -> str:
        """Normalized name; empty for a direct reference that does not say it."""
        if self.direct:
            return self.direct.name
        return canonicalize_name(Requirement(self.requirement).name)


class BadLineError(ValueError):
    """A line that nobody can follow; the message says why."""


def logical_lines(text: str, env: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """Yield (number of the first line, text) of every line that says something.

    Continuations are joined, comments cut, ${VARIABLES} filled in from `env` as pip does.
    """
    pending, start = "", 0
    for number, line in enumerate(text.lstrip("\ufeff").splitlines(), 1):
        start = start if pending else number
        comment = line.lstrip().startswith("#")
        if line.endswith("\\") and not comment:
            pending += line[:-1].strip() + " "
            continue
        whole = _COMMENT.sub("", pending if comment else pending + line).strip()
        pending = ""
        if whole:
            yield start, _VARIABLE.sub(lambda found: env.get(found[1], found[0]), whole)
    if pending.strip():
        yield start, _COMMENT.sub("", pending).strip()


def split_options(line: str) -> tuple[str, tuple[str, ...]]:
    """Return a requirement line without its own options, and the hashes among those."""
    found = _OPTION.search(line)
    if not found:
        return line, ()
    words = _words(line[found.start() :])
    hashes, rest = [], iter(words)
    for word in rest:
        if word == "--hash":
            hashes.append(next(rest, ""))
        elif word.startswith("--hash="):
            hashes.append(word.removeprefix("--hash="))
        elif not word.startswith(("--config-setting", "--global-option", "--install-option")):
            raise BadLineError(f"unknown option '{word}'")
    for value in hashes:
        if not re.fullmatch(r"(md5|sha1|sha224|sha256|sha384|sha512):[0-9a-fA-F]+", value):
            raise BadLineError(f"'{value}' is no hash; it reads sha256:<hex digits>")
    return line[: found.start()].strip(), tuple(value.lower() for value in hashes)


def option(line: str) -> tuple[str, str] | None:
    """Return (long name, value) of a line that is an option, None for a requirement."""
    if not line.startswith("-"):
        return None
    words = _words(line)
    name, _, value = words[0].partition("=")
    if not name.startswith("--") and len(name) > 2:
        name, value = name[:2], name[2:] + (f"={value}" if value else "")
    return _LONG.get(name, name), value or " ".join(words[1:])


_LONG = {
    "-r": "--requirement",
    "-c": "--constraint",
    "-e": "--editable",
    "-i": "--index-url",
    "--pypi-url": "--index-url",
    "-f": "--find-links",
}


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise BadLineError(f"quotes do not match ({error})") from error


def parse(line: str, base: Path) -> tuple[str, Direct | None]:
    """Return (PEP 508 text, None) or ("", direct reference); `base` is what paths are relative to.

    Raises BadLineError.
    """
    if direct := _bare_direct(line, base):
        return "", direct
    try:
        wanted = Requirement(line)
    except InvalidRequirement as error:
        raise BadLineError(str(error).splitlines()[0]) from error
    if wanted.url:
        place = wanted.url if "://" in wanted.url else str(base / wanted.url)
        return "", _direct(
            place,
            name=canonicalize_name(wanted.name),
            extras=tuple(sorted(wanted.extras)),
            marker=str(wanted.marker or ""),
        )
    return str(wanted), None


def _bare_direct(line: str, base: Path) -> Direct | None:
    if _NAMED.match(line):
        return None
    place, _, marker = (part.strip() for part in line.partition(" ;" if " ;" in line else "; "))
    found = _EXTRAS.match(place)
    extras: tuple[str, ...] = ()
    if found and found["extras"]:
        place = found["place"].strip()
        extras = tuple(sorted(word.strip() for word in found["extras"][1:-1].split(",") if word.strip()))
    if "://" in place.split("@", 1)[0] or place.startswith(VCS) or place.startswith("file:"):
        return _direct(place, extras=extras, marker=marker)
    looks = place.startswith((".", "/", "~")) or re.match(r"^[A-Za-z]:[\\/]", place)
    if looks or place.endswith((".whl", *ARCHIVES)) or (("/" in place or "\\" in place) and "@" not in place):
        path = base / Path(place).expanduser()
        return _on_disk(path, extras=extras, marker=marker)
    return None


def _direct(place: str, *, name: str = "", extras: tuple[str, ...] = (), marker: str = "") -> Direct:
    address, _, fragment = place.partition("#")
    facts = dict(part.partition("=")[::2] for part in fragment.split("&") if part)
    egg = _EXTRAS.match(facts.get("egg", ""))
    if egg and not name:
        name = canonicalize_name(egg["place"])
        extras = extras or tuple(sorted((egg["extras"] or "[]")[1:-1].split(",")))
    extras = tuple(extra for extra in extras if extra)
    subdirectory = facts.get("subdirectory", "")
    if address.startswith("file:"):
        return _on_disk(Path(unquote(urlsplit(address).path)), name=name, extras=extras, marker=marker)
    if address.startswith("git+"):
        url, ref = address.removeprefix("git+"), ""
        if "@" in url.rsplit("/", 1)[-1]:
            url, _, ref = url.rpartition("@")
        return Direct(
            kind="git", place=url, ref=ref, name=name, extras=extras, marker=marker, subdirectory=subdirectory
        )
    if address.startswith(VCS):
        raise BadLineError(
            f"'{address.split('+')[0]}' references are not supported; git ones and archives are"
        )
    return Direct(kind="url", place=place, name=name, extras=extras, marker=marker, subdirectory=subdirectory)


def _on_disk(path: Path, *, name: str = "", extras: tuple[str, ...] = (), marker: str = "") -> Direct:
    path = path.absolute()
    if not path.exists():
        raise BadLineError(f"there is no '{path}'")
    kind = "folder" if path.is_dir() else "wheel" if path.suffix == ".whl" else "archive"
    if kind == "folder" and not any((path / file).is_file() for file in ("pyproject.toml", "setup.py")):
        raise BadLineError(f"'{path}' is no Python project: it has neither pyproject.toml nor setup.py")
    if kind == "archive" and not path.name.endswith(ARCHIVES):
        raise BadLineError(f"'{path}' is neither a wheel, an archive nor a folder")
    return Direct(kind=kind, place=str(path), name=name, extras=extras, marker=marker)
