"""How uv is called: our one reading of the index settings, nothing of the user's own uv configuration."""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from packaging.version import InvalidVersion, Version

from offline_kit.core import files, interpreters, processes
from offline_kit.packages.builds import confined_build, index_credentials
from offline_kit.packages.builds.build_environment import FRAMEWORKS, clean_environment, find_framework
from offline_kit.packages.builds.confined_build import Confinement
from offline_kit.packages.builds.index_credentials import HiddenIndex
from offline_kit.packages.pip_settings import IndexSettings

PASSED_VARIABLES = (
    "UV_CACHE_DIR",
    "UV_PYTHON_INSTALL_DIR",
    "UV_CONCURRENT_BUILDS",
    "UV_CONCURRENT_DOWNLOADS",
)

_REFUSED = re.compile(
    r"Failed to (?:resolve|install) requirements from"
    # pip before 25.3, and since
    r"|pip subprocess to install (?:build|backend) dependencies|installing (?:build|backend) dependencies"
)
"""How uv and pip say that what a build asks for cannot be installed."""
_BUILD_PREFIXES = ("UV_", "SSL_CERT_")
_IN_CONFIG = (
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_FIND_LINKS",
    "UV_INDEX_STRATEGY",
    "UV_NO_CONFIG",
)


def write_uv_config(settings: IndexSettings, path: Path, *, undated: Collection[str] = ()) -> Path:
    """Write uv's configuration for these settings and return its path.

    A file, because urls may carry credentials and command lines can be read by everybody on the machine.
    `undated` are the indexes that do not tell upload times, so that a cut-off must not empty them.
    """
    lines = [
        'index-strategy = "unsafe-best-match"',  # as pip: the best version of all indexes
        'keyring-provider = "disabled"',
        f"no-index = {json.dumps(settings.no_index)}",
        f"find-links = {json.dumps(list(settings.find_links))}",
    ]
    urls = settings.list_index_urls()
    for url in urls:
        lines += ["", "[[index]]", f"url = {json.dumps(url)}"]
        # The default one is uv's last resort, and where two have a version, uv looks at the first one's files
        # alone: the main index has the fuller choice, so it is not the default here.
        lines += ["default = true"] if url == urls[-1] else []
        lines += ["exclude-newer = false"] if url in undated else []
    path.touch(mode=0o600)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def make_environment(settings: IndexSettings) -> dict[str, str]:
    """Return the environment that uv runs in: ours without UV_* and PIP_*, certificates and proxy laid over it."""
    env = {
        name: value
        for name, value in processes.copy_environment().items()
        if not name.startswith(("UV_", "PIP_")) or name in PASSED_VARIABLES
    }
    env.pop("VIRTUAL_ENV", None)
    env |= {"UV_NO_PROGRESS": "1", "NO_COLOR": "1", "UV_PYTHON_DOWNLOADS": "never"}
    env["UV_PREVIEW_FEATURES"] = "index-exclude-newer"
    # The indexes stand in the configuration file, which alone can say which of them know upload times.
    for name, value in settings.make_uv_environment().items():
        if value is not None and name not in _IN_CONFIG:
            env[name] = value
    return env


def make_build_environment(settings: IndexSettings, home: Path) -> dict[str, str]:
    """Return the environment for programs that run builds: tools and certificates, an empty home, no secret of ours."""
    uv_environment = make_environment(settings)
    env = clean_environment(home, uv_environment)
    env |= {name: value for name, value in uv_environment.items() if name.upper().startswith(_BUILD_PREFIXES)}
    if not confined_build.is_confined():
        env |= {name: value for name, value in uv_environment.items() if name.upper().endswith("_PROXY")}
    return env


def run_uv_builds(
    words: Sequence[str | Path],
    settings: IndexSettings,
    *,
    undated: Collection[str] = (),
    cwd: Path,
    cache: Path,
    shown: Sequence[Path] = (),
    writable: Sequence[Path] = (),
) -> processes.CompletedCommand:
    """Run uv where it may build foreign sdists: in a box that reaches the indexes alone; see `confined.run`.

    It may write to `cwd`, `writable` and to a uv cache of its own below `cache`; it sees `shown` besides the system.
    `undated` is that of `write_uv_config`.
    """
    home, uv_cache = files.make_folder(cwd / ".home"), files.make_folder(cache / "uv")
    within, hidden = make_build_settings(settings)
    aliases = {index.url.rstrip("/"): index.alias.rstrip("/") for index in hidden}
    config = write_uv_config(within, cwd / "uv.toml", undated={aliases.get(url, url) for url in undated})
    env = {**make_build_environment(within, home), "UV_CACHE_DIR": str(uv_cache)}
    limits = make_confinement(
        settings, hidden, env=env, cwd=cwd, writable=(cwd, uv_cache, *writable), shown=shown
    )
    return confined_build.run_confined(
        [interpreters.uv_program(), *words, "--config-file", config], limits, timeout=1800
    )


def make_build_settings(settings: IndexSettings) -> tuple[IndexSettings, tuple[HiddenIndex, ...]]:
    """Return the settings that a program which runs builds is told, and the indexes whose logins they leave out."""
    return index_credentials.hide_credentials(settings) if confined_build.is_confined() else (settings, ())


def make_confinement(
    settings: IndexSettings,
    hidden: Sequence[HiddenIndex],
    *,
    env: Mapping[str, str],
    cwd: Path,
    writable: Sequence[Path],
    shown: Sequence[Path],
) -> Confinement:
    """Return the limits of a program that runs builds and reaches the indexes of these settings."""
    behind = {index.url for index in hidden}
    return Confinement(
        env=env,
        cwd=cwd,
        writable=writable,
        shown=(*shown, *list_local_folders(settings)),
        indexes=[url for url in (*settings.list_index_urls(), *settings.find_links) if url not in behind],
        upstream=settings.proxy,
        answering={index.alias_host: (index.true_origin, index.answer_request) for index in hidden},
    )


def write_build_constraints(versions: Mapping[str, str], folder: Path) -> Iterator[Path]:
    """Yield files that bind what builds ask for: to the image's versions, then, where a build refuses those, to any.

    Never to a framework: one from an index is another build than the image's, gigabytes, and of no use.
    """
    never = [f"{name}<0" for name in FRAMEWORKS]
    of_image = []
    for name, version in sorted(versions.items()):
        try:
            public = Version(version).public
        except InvalidVersion:
            continue
        of_image += [] if name in FRAMEWORKS else [f"{name}=={public}"]
    for name, lines in (("of-image.txt", [*never, *of_image]), ("any.txt", never)):
        path = folder / f"build-{name}"
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        yield path


def refuses_versions(result: processes.CompletedCommand) -> bool:
    """Whether a build cannot be had with the versions that it was bound to."""
    return not result.succeeded and bool(_REFUSED.search(result.err)) and not find_framework(result.err)


def list_local_folders(settings: IndexSettings) -> tuple[Path, ...]:
    """Return the folders of this machine that stand in for indexes, and the certificates."""
    locations = (*settings.list_index_urls(), *settings.find_links)
    paths = [
        Path(url2pathname(urlsplit(location).path)) for location in locations if location.startswith("file:")
    ]
    # The pages of an index on this disk lead to files beside its folder: ../files/x.whl.
    parents = [path.parent for path in paths if path.name == "simple"]
    paths += [path for path in parents if not Path.home().is_relative_to(path)]
    paths += [
        Path(location) for location in locations if "://" not in location and not location.startswith("file:")
    ]
    paths += [Path(settings.cert)] if settings.cert else []
    return tuple(path for path in paths if path.exists())


def run_uv(
    words: Sequence[str | Path],
    settings: IndexSettings,
    *,
    config: Path,
    cwd: Path,
    extra: Mapping[str, str] | None = None,
    timeout: float = 1800,
) -> processes.CompletedCommand:
    """Run uv with `words`; returns what it said, whatever its exit code. `timeout` is in seconds."""
    argv = [interpreters.uv_program(), *words, "--config-file", config]
    return processes.run_command(
        argv, cwd=cwd, env={**make_environment(settings), **(extra or {})}, timeout=timeout, check=False
    )
