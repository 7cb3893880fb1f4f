"""pip's configuration, read once and passed to every program that uses a package index.

uv ignores pip.conf and PIP_* (https://docs.astral.sh/uv/pip/compatibility/), pip-compile obeys them: without this the two
would resolve different things. Command lines and logs show passwords: settings are passed in the environment or in a file.
"""

import configparser
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from offline_kit.core import processes
from offline_kit.core.errors import UsageError
from offline_kit.core.http import ConnectionSettings
from offline_kit.core.redaction import redact_urls as redact_urls

_UV_VARIABLES = (
    "UV_CACHE_DIR UV_PYTHON_INSTALL_DIR UV_CONCURRENT_BUILDS UV_CONCURRENT_DOWNLOADS"  # are passed on
)
PYPI = "https://pypi.org/simple"  # pip's default index
# pip's words for booleans are those of distutils.util.strtobool.
_BOOLEANS = dict.fromkeys(("y", "yes", "t", "true", "on", "1"), True) | dict.fromkeys(
    ("n", "no", "f", "false", "off", "0"), False
)


@dataclass(frozen=True, kw_only=True)
class IndexSettings(ConnectionSettings):
    """Where packages come from. URLs may hold credentials: never show them without `redact_urls`."""

    index_url: str = field(default=PYPI, repr=False)
    extra_index_urls: tuple[str, ...] = field(default=(), repr=False)  # pip merges the files of all indexes
    find_links: tuple[str, ...] = field(default=(), repr=False)  # absolute folders, pages or single files
    no_index: bool = False  # use only find_links

    def list_index_urls(self) -> tuple[str, ...]:
        """Return all indexes, the main one first, without repeats; none under `no_index`."""
        if self.no_index:
            return ()
        return tuple(dict.fromkeys(url.rstrip("/") for url in (self.index_url, *self.extra_index_urls)))

    def override(self, options: "IndexSettings") -> "IndexSettings":
        """Return these settings with the options of requirements files.

        As in pip, their --index-url replaces the configured one, and the other options add to theirs.
        """
        return replace(
            self,
            index_url=options.index_url or self.index_url,
            extra_index_urls=tuple(dict.fromkeys((*self.extra_index_urls, *options.extra_index_urls))),
            find_links=tuple(dict.fromkeys((*self.find_links, *options.find_links))),
            no_index=options.no_index or self.no_index,
            trusted_hosts=tuple(dict.fromkeys((*self.trusted_hosts, *options.trusted_hosts))),
        )

    def make_uv_environment(self, **more: str) -> dict[str, str]:
        """Return the environment of uv: ours without UV_* and PIP_*, with certificates, proxy and `more`.

        The indexes are in the file of `write_uv_config`.
        """
        env = {
            name: value
            for name, value in processes.copy_environment().items()
            if not name.startswith(("UV_", "PIP_")) or name in _UV_VARIABLES.split()
        }
        # uv pip would use that environment instead of the one that --python names.
        env.pop("VIRTUAL_ENV", None)
        env |= {"UV_NO_PROGRESS": "1", "NO_COLOR": "1", "UV_PYTHON_DOWNLOADS": "never"}
        env |= {"UV_HTTP_TIMEOUT": f"{self.timeout:.0f}"}
        if self.trusted_hosts:
            env["UV_INSECURE_HOST"] = " ".join(self.trusted_hosts)
        if self.cert:
            # OpenSSL and rustls take a folder and a bundle from different variables.
            env["SSL_CERT_DIR" if Path(self.cert).is_dir() else "SSL_CERT_FILE"] = self.cert
        if self.client_cert:
            env["SSL_CLIENT_CERT"] = self.client_cert
        if self.proxy:
            # curl and Python read the lower-case names first, other programs only the upper-case ones.
            env |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), self.proxy)
        return env | more

    def write_uv_config(self, path: Path) -> Path:
        """Write uv's configuration for these indexes and return its path.

        URLs may hold credentials, and every user of the machine can read command lines.
        """
        lines = [
            # pip uses the best version of all indexes; uv by default only the first index that has the name:
            # https://docs.astral.sh/uv/concepts/indexes/#searching-across-multiple-indexes
            'index-strategy = "unsafe-best-match"',
            'keyring-provider = "disabled"',
            f"no-index = {json.dumps(self.no_index)}",
            f"find-links = {json.dumps(list(self.find_links))}",
        ]
        urls = self.list_index_urls()
        for url in urls:
            lines += ["", "[[index]]", f"url = {json.dumps(url)}"]
            # uv searches the default index last (https://docs.astral.sh/uv/concepts/indexes/), and of a version that
            # two indexes have it sees only the first one's files: the main index, which has more of them, comes first.
            lines += ["default = true"] if url == urls[-1] else []
        # Created with this mode before anything is written: the URLs may hold passwords.
        path.touch(mode=0o600)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def make_pip_environment(self) -> dict[str, str]:
        """Return the variables that give pip and pip-compile exactly these settings."""
        variables = {
            # pip then reads no configuration file at all: https://pip.pypa.io/en/stable/topics/configuration/
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": self.index_url,
            "PIP_EXTRA_INDEX_URL": " ".join(self.extra_index_urls),
            "PIP_FIND_LINKS": _join_locations(self.find_links),
            "PIP_NO_INDEX": "1" if self.no_index else "",
            "PIP_CERT": self.cert,
            "PIP_CLIENT_CERT": self.client_cert,
            "PIP_TRUSTED_HOST": " ".join(self.trusted_hosts),
            "PIP_PROXY": self.proxy,
            "PIP_TIMEOUT": f"{self.timeout:.0f}",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",  # no prompt for a password: nobody would see it
        }
        return {name: value for name, value in variables.items() if value}

    def make_box_environment(self) -> dict[str, str]:
        """Return pip's variables for a notebook with the internet on, in a box that shows no folder of this machine."""
        url = "" if self.index_url.startswith("file:") else self.index_url
        extra_urls = tuple(extra for extra in self.extra_index_urls if not extra.startswith("file:"))
        reachable = replace(self, index_url=url, extra_index_urls=extra_urls, find_links=(), no_index=False)
        return reachable.make_pip_environment()


def read_pip_settings(env: Mapping[str, str]) -> IndexSettings:
    """Read pip's configuration as `python -m pip install` would: its files, then PIP_* of `env`.

    Raises UsageError, naming the file, for what pip would refuse as well.
    """
    values: dict[str, str] = {}
    sources: dict[str, str] = {}
    for source, pairs in _read_layers(env):
        for name, value in pairs.items():
            key = name.lower().replace("_", "-").removeprefix("--")
            # pip has both --timeout and --default-timeout.
            key = "timeout" if key == "default-timeout" else key
            if value.strip():
                values[key], sources[key] = value, source

    no_index = _BOOLEANS.get(values.get("no-index", "0").strip().lower())
    if no_index is None:
        raise UsageError(
            f"no-index is '{values['no-index']}' in {sources['no-index']}",
            code="pip-setting-invalid",
            hint="write yes or no",
        )
    try:
        timeout = float(values.get("timeout", "15"))
    except ValueError as error:
        raise UsageError(
            f"timeout is '{values['timeout']}' in {sources['timeout']}",
            code="pip-setting-invalid",
            hint="write a number of seconds",
        ) from error
    # pip takes a certificate bundle from these variables; uv reads only the last one.
    bundle = env.get("REQUESTS_CA_BUNDLE") or env.get("CURL_CA_BUNDLE") or env.get("SSL_CERT_FILE") or ""
    return IndexSettings(
        index_url=values.get("index-url", values.get("pypi-url", PYPI)).strip(),
        extra_index_urls=tuple(values.get("extra-index-url", "").split()),
        find_links=tuple(
            _resolve_location(location, env) for location in values.get("find-links", "").split()
        ),
        no_index=no_index,
        cert=values.get("cert", "").strip() or bundle,
        client_cert=values.get("client-cert", "").strip(),
        trusted_hosts=tuple(values.get("trusted-host", "").split()),
        proxy=values.get("proxy", "").strip(),
        timeout=timeout,
    )


def list_config_files(env: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the configuration files that pip would read, later ones overriding; they need not exist.

    https://pip.pypa.io/en/stable/topics/configuration/
    """
    explicit_file = env.get("PIP_CONFIG_FILE")
    if explicit_file == os.devnull:
        return ()
    home = Path(env.get("HOME") or env.get("USERPROFILE") or Path.home())
    if os.name == "nt":
        shared = [Path(env.get("PROGRAMDATA", r"C:\ProgramData")) / "pip"]
        own = [home / "pip", Path(env.get("APPDATA", home / "AppData/Roaming")) / "pip"]
    elif sys.platform == "darwin":
        library = Path("Library/Application Support/pip")
        shared = [Path("/") / library]
        # pip uses ~/Library only if the folder exists.
        modern = home / library if (home / library).is_dir() else home / ".config" / "pip"
        own = [home / ".pip", modern]
    else:
        folders = (env.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep)
        shared = [*(Path(folder) / "pip" for folder in folders), Path("/etc")]
        own = [home / ".pip", Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "pip"]
    if explicit_file and Path(explicit_file).exists():
        own = []
    # The "site" file of pip is in the environment that pip runs in.
    name = "pip.ini" if os.name == "nt" else "pip.conf"
    files = tuple(folder / name for folder in (*shared, *own, Path(sys.prefix)))
    return (*files, Path(explicit_file)) if explicit_file else files


def _read_layers(env: Mapping[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield sources and their settings, weakest first: [global], [install], PIP_*."""
    parsed = []
    for path in list_config_files(env):
        if not path.is_file():
            continue
        parser = configparser.RawConfigParser()
        try:
            parser.read_string(path.read_text(encoding="utf-8"), source=str(path))
        except PermissionError:
            continue  # pip, too, skips files that it may not read
        except (OSError, UnicodeDecodeError, configparser.Error) as error:
            raise UsageError(
                f"pip's configuration file '{path}' cannot be read: {redact_urls(str(error))}",
                code="pip-configuration-invalid",
                hint="fix it ('python -m pip config debug' lists all such files)",
            ) from error
        parsed.append((path, parser))
    for section in ("global", "install"):
        yield from (
            (str(path), dict(parser.items(section))) for path, parser in parsed if parser.has_section(section)
        )
    yield (
        "the environment (PIP_*)",
        {name[4:]: value for name, value in env.items() if name.startswith("PIP_")},
    )


def _resolve_location(location: str, env: Mapping[str, str]) -> str:
    """Return a location of find-links independent of the working folder."""
    if "://" in location or location.startswith("file:"):
        return location
    home = env.get("HOME")
    path = Path(home) / location[2:] if home and location.startswith("~/") else Path(location).expanduser()
    return str(path.absolute())


def _join_locations(locations: tuple[str, ...]) -> str:
    """Return a list for pip, a blank in a location quoted."""
    return " ".join(
        (location if "://" in location else Path(location).as_uri()).replace(" ", "%20")
        if " " in location
        else location
        for location in locations
    )
