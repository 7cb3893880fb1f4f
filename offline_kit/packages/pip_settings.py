"""pip's configuration, read once and passed to every program that uses a package index.

uv ignores pip.conf and PIP_* (https://docs.astral.sh/uv/pip/compatibility/), pip-compile obeys them: without this the two
would resolve different things. Settings are passed in the environment, since command lines and logs show passwords.
"""

import configparser
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from offline_kit.core.errors import UsageError
from offline_kit.core.http import ConnectionSettings
from offline_kit.core.redaction import redact_urls as redact_urls

PYPI = "https://pypi.org/simple"
"""pip's default index."""
_TRUE, _FALSE = (
    frozenset({"y", "yes", "t", "true", "on", "1"}),
    frozenset({"n", "no", "f", "false", "off", "0"}),
)
# Set by a user for other runs of pip, these would change the result of ours.
_PIP_OTHERS = (
    "PIP_BREAK_SYSTEM_PACKAGES PIP_CONSTRAINT PIP_DEFAULT_TIMEOUT PIP_DRY_RUN PIP_NO_BINARY PIP_NO_BUILD_ISOLATION "
    "PIP_NO_DEPS PIP_ONLY_BINARY PIP_PREFER_BINARY PIP_PRE PIP_PREFIX PIP_PYTHON PIP_REQUIREMENT PIP_REQUIRE_HASHES "
    "PIP_REQUIRE_VIRTUALENV PIP_ROOT PIP_TARGET PIP_UPGRADE PIP_USER PIP_BUILD_CONSTRAINT PIP_UPLOADED_PRIOR_TO"
)


@dataclass(frozen=True, kw_only=True)
class IndexSettings(ConnectionSettings):
    """Where packages come from. URLs may hold credentials: never show them without `redact_urls`."""

    index_url: str = field(default=PYPI, repr=False)
    extra_index_urls: tuple[str, ...] = field(default=(), repr=False)
    """pip merges the files of all indexes."""
    find_links: tuple[str, ...] = field(default=(), repr=False)
    """Absolute folders, pages or single files with distributions."""
    no_index: bool = False
    """Use only `find_links`."""

    def list_index_urls(self) -> tuple[str, ...]:
        """Return all indexes, the main one first, without repeats; none under `no_index`."""
        if self.no_index:
            return ()
        return tuple(dict.fromkeys(url.rstrip("/") for url in (self.index_url, *self.extra_index_urls)))

    def make_uv_environment(self) -> dict[str, str | None]:
        """Return environment changes that give uv exactly these settings; None removes a variable.

        `make_uv_arguments` has the one setting that uv takes only on the command line.
        """
        indexes = self.list_index_urls()
        return {
            "UV_DEFAULT_INDEX": indexes[0] if indexes else None,
            "UV_INDEX": " ".join(indexes[1:]) or None,
            "UV_INDEX_URL": None,
            "UV_EXTRA_INDEX_URL": None,
            "UV_FIND_LINKS": ",".join(_escape_separator(location, ",") for location in self.find_links)
            or None,
            # pip uses the best version of all indexes; uv by default only the first index that has the name:
            # https://docs.astral.sh/uv/concepts/indexes/#searching-across-multiple-indexes
            "UV_INDEX_STRATEGY": "unsafe-best-match",
            "UV_INSECURE_HOST": " ".join(self.trusted_hosts) or None,
            "UV_HTTP_TIMEOUT": f"{self.timeout:.0f}",
            "UV_NO_CONFIG": "1",
            # OpenSSL and rustls take a folder and a bundle from different variables.
            **(
                {"SSL_CERT_DIR" if Path(self.cert).is_dir() else "SSL_CERT_FILE": self.cert}
                if self.cert
                else {}
            ),
            **({"SSL_CLIENT_CERT": self.client_cert} if self.client_cert else {}),
            **self._list_proxy_variables(),
        }

    def make_uv_arguments(self) -> tuple[str, ...]:
        """Return the arguments that uv needs besides `make_uv_environment`."""
        return ("--no-index",) if self.no_index else ()

    def make_pip_environment(self) -> dict[str, str | None]:
        """Return environment changes that give pip and pip-compile exactly these settings."""
        return {
            **dict.fromkeys(_PIP_OTHERS.split()),
            # pip then reads no configuration file at all: https://pip.pypa.io/en/stable/topics/configuration/
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": self.index_url,
            "PIP_EXTRA_INDEX_URL": " ".join(self.extra_index_urls) or None,
            "PIP_FIND_LINKS": " ".join(_escape_separator(location, " ") for location in self.find_links)
            or None,
            "PIP_NO_INDEX": "1" if self.no_index else None,
            "PIP_CERT": self.cert or None,
            "PIP_CLIENT_CERT": self.client_cert or None,
            "PIP_TRUSTED_HOST": " ".join(self.trusted_hosts) or None,
            "PIP_PROXY": self.proxy or None,
            "PIP_TIMEOUT": f"{self.timeout:.0f}",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            # No prompt for a password: nobody would see it.
            "PIP_NO_INPUT": "1",
        }

    def _list_proxy_variables(self) -> dict[str, str | None]:
        if not self.proxy:
            return {}
        # curl and Python read the lower-case names first, other programs only the upper-case ones.
        return dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), self.proxy)


def read_pip_settings(env: Mapping[str, str], *, python: str = sys.executable) -> IndexSettings:
    """Read pip's configuration as `python -m pip install` would: its files, then PIP_* of `env`.

    Raises UsageError, naming the file, for what pip would refuse as well.
    """
    values: dict[str, str] = {}
    sources: dict[str, str] = {}
    for source, pairs in _read_layers(env, python):
        for key, value in pairs.items():
            if value.strip():
                values[key], sources[key] = value, source
    return IndexSettings(
        index_url=values.get("index-url", values.get("pypi-url", PYPI)).strip(),
        extra_index_urls=tuple(values.get("extra-index-url", "").split()),
        find_links=tuple(
            _resolve_location(location, env) for location in values.get("find-links", "").split()
        ),
        no_index=_parse_boolean(values.get("no-index", "0"), sources.get("no-index", "")),
        cert=values.get("cert", "").strip() or _find_cert_bundle(env),
        client_cert=values.get("client-cert", "").strip(),
        trusted_hosts=tuple(values.get("trusted-host", "").split()),
        proxy=values.get("proxy", "").strip(),
        timeout=_parse_seconds(values.get("timeout", "15"), sources.get("timeout", "")),
    )


def list_config_files(env: Mapping[str, str], *, python: str = sys.executable) -> tuple[Path, ...]:
    """Return the configuration files that pip would read, later ones overriding; they need not exist.

    https://pip.pypa.io/en/stable/topics/configuration/
    """
    explicit_file = env.get("PIP_CONFIG_FILE")
    if explicit_file == os.devnull:
        return ()
    home = Path(env.get("HOME") or env.get("USERPROFILE") or Path.home())
    # The "site" file of pip is in the environment that pip runs in.
    prefix = Path(sys.prefix) if python == sys.executable else Path(python).parent.parent
    shared, own = _find_config_folders(env, home)
    files = [*shared]
    if not (explicit_file and Path(explicit_file).exists()):
        files += own
    name = "pip.ini" if os.name == "nt" else "pip.conf"
    return tuple(folder / name for folder in (*files, prefix)) + (
        (Path(explicit_file),) if explicit_file else ()
    )


def _find_config_folders(env: Mapping[str, str], home: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders of the machine's and of the user's configuration."""
    if os.name == "nt":
        everyone = Path(env.get("PROGRAMDATA", r"C:\ProgramData"))
        return [everyone / "pip"], [home / "pip", Path(env.get("APPDATA", home / "AppData/Roaming")) / "pip"]
    if sys.platform == "darwin":
        library = Path("Library/Application Support/pip")
        # pip uses ~/Library only if the folder exists.
        modern = home / library if (home / library).is_dir() else home / ".config" / "pip"
        return [Path("/") / library], [home / ".pip", modern]
    shared = [Path(folder) / "pip" for folder in (env.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep)]
    return [*shared, Path("/etc")], [
        home / ".pip",
        Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "pip",
    ]


def _read_layers(env: Mapping[str, str], python: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield sources and their settings, weakest first: [global], [install], PIP_*."""
    parsed = [(path, _parse_config(path)) for path in list_config_files(env, python=python) if path.is_file()]
    for section in ("global", "install"):
        for path, parser in parsed:
            if parser.has_section(section):
                yield str(path), {_normalize_key(key): value for key, value in parser.items(section)}
    variables = {_normalize_key(name[4:]): value for name, value in env.items() if name.startswith("PIP_")}
    yield "the environment (PIP_*)", variables


def _parse_config(path: Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text(encoding="utf-8"), source=str(path))
    except PermissionError:
        # pip, too, skips files that it may not read.
        return configparser.RawConfigParser()
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise UsageError(
            f"pip's configuration file '{path}' cannot be read: {redact_urls(str(error))}",
            code="pip-configuration-invalid",
            hint="fix it ('python -m pip config debug' lists all such files)",
        ) from error
    return parser


def _normalize_key(name: str) -> str:
    key = name.lower().replace("_", "-").removeprefix("--")
    # pip has both --timeout and --default-timeout.
    return "timeout" if key == "default-timeout" else key


def _find_cert_bundle(env: Mapping[str, str]) -> str:
    """Return the certificate bundle that pip takes from the environment; uv reads only the last variable."""
    return env.get("REQUESTS_CA_BUNDLE") or env.get("CURL_CA_BUNDLE") or env.get("SSL_CERT_FILE") or ""


def _parse_boolean(value: str, source: str) -> bool:
    word = value.strip().lower()
    # pip's words are those of distutils.util.strtobool.
    if word not in _TRUE | _FALSE:
        raise UsageError(
            f"no-index is '{value}' in {source}", code="pip-setting-invalid", hint="write yes or no"
        )
    return word in _TRUE


def _parse_seconds(value: str, source: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise UsageError(
            f"timeout is '{value}' in {source}", code="pip-setting-invalid", hint="write a number of seconds"
        ) from error


def _resolve_location(location: str, env: Mapping[str, str]) -> str:
    """Return a location of find-links independent of the working folder."""
    if "://" in location or location.startswith("file:"):
        return location
    home = env.get("HOME")
    path = Path(home) / location[2:] if home and location.startswith("~/") else Path(location).expanduser()
    return str(path.absolute())


def _escape_separator(location: str, separator: str) -> str:
    """Return a location without the separator of the list that it is written into."""
    if separator not in location:
        return location
    from urllib.parse import quote

    if "://" in location:
        return location.replace(separator, quote(separator, safe=""))
    return Path(location).as_uri().replace(separator, quote(separator, safe=""))
