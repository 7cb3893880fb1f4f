"""Run uv with our index settings, and without the user's uv configuration."""

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

_BUILD_REQUIRES_FAILED = re.compile(
    r"Failed to (?:resolve|install) requirements from"
    # The wording of pip before 25.3, and since.
    r"|pip subprocess to install (?:build|backend) dependencies|installing (?:build|backend) dependencies"
)
"""Output of uv and pip if build requirements cannot be installed."""
_BUILD_PREFIXES = ("UV_", "SSL_CERT_")
_CONFIGURED_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS", "UV_INDEX_STRATEGY", "UV_NO_CONFIG")


def write_uv_config(settings: IndexSettings, path: Path, *, undated: Collection[str] = ()) -> Path:
    """Write uv's configuration for these settings and return its path.

    URLs may hold credentials, and every user of the machine can read command lines. `undated` are the indexes
    without upload times (PEP 700): a cut-off would empty them.
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
        # uv searches the default index last (https://docs.astral.sh/uv/concepts/indexes/), and of a version that two
        # indexes have it sees only the first one's files: the main index, which has more of them, must come first.
        lines += ["default = true"] if url == urls[-1] else []
        lines += ["exclude-newer = false"] if url in undated else []
    # Created with these modes before anything is written: the URLs may hold passwords.
    path.touch(mode=0o600)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def make_environment(settings: IndexSettings) -> dict[str, str]:
    """Return the variables of uv: ours without UV_* and PIP_*, with the settings' certificates and proxy."""
    env = {
        name: value
        for name, value in processes.copy_environment().items()
        if not name.startswith(("UV_", "PIP_")) or name in PASSED_VARIABLES
    }
    # uv pip would use that environment instead of the one that --python names.
    env.pop("VIRTUAL_ENV", None)
    env |= {"UV_NO_PROGRESS": "1", "NO_COLOR": "1", "UV_PYTHON_DOWNLOADS": "never"}
    # exclude-newer of a single index is a preview feature of uv.
    env["UV_PREVIEW_FEATURES"] = "index-exclude-newer"
    # The indexes are in the configuration file: only there can one be exempted from the cut-off.
    for name, value in settings.make_uv_environment().items():
        if value is not None and name not in _CONFIGURED_VARIABLES:
            env[name] = value
    return env


def make_build_environment(settings: IndexSettings, home: Path) -> dict[str, str]:
    """Return the variables of a program that runs builds: tools and certificates, an empty home, no secrets."""
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
    """Run a uv command that may build third-party sdists, in a sandbox that reaches only the indexes.

    It may write to `cwd`, `writable` and a separate uv cache in `cache`, and sees `shown` besides the system.
    `undated` is that of `write_uv_config`. See `confined_build.run_confined`.
    """
    home, uv_cache = files.make_folder(cwd / ".home"), files.make_folder(cache / "uv")
    # A cache of its own: what a third-party build writes there must not reach the user's.
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
    """Return the settings for a program that runs builds, and the indexes whose logins they leave out."""
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
    """Return the confinement of a program that runs builds and reaches the indexes of these settings."""
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
    """Yield files of build constraints: the image's versions, then, if a build refuses those, any version.

    Frameworks are excluded: a build from an index is another one than the image's, and gigabytes large.
    """
    excluded = [f"{name}<0" for name in FRAMEWORKS]
    image_pins = []
    for name, version in sorted(versions.items()):
        try:
            public = Version(version).public
        except InvalidVersion:
            continue
        image_pins += [] if name in FRAMEWORKS else [f"{name}=={public}"]
    for name, lines in (("of-image.txt", [*excluded, *image_pins]), ("any.txt", excluded)):
        path = folder / f"build-{name}"
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        yield path


def refuses_versions(result: processes.CompletedCommand) -> bool:
    """Whether the build constraints made a build impossible."""
    return (
        not result.succeeded
        and bool(_BUILD_REQUIRES_FAILED.search(result.err))
        and not find_framework(result.err)
    )


def list_local_folders(settings: IndexSettings) -> tuple[Path, ...]:
    """Return the folders of this machine that serve as indexes, and the certificates."""
    locations = (*settings.list_index_urls(), *settings.find_links)
    paths = [
        Path(url2pathname(urlsplit(location).path)) for location in locations if location.startswith("file:")
    ]
    # Pages of an index on this disk link to files beside its folder: ../files/x.whl.
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
    """Run uv and return its result, whatever its exit code; `timeout` is in seconds."""
    argv = [interpreters.uv_program(), *words, "--config-file", config]
    return processes.run_command(
        argv, cwd=cwd, env={**make_environment(settings), **(extra or {})}, timeout=timeout, check=False
    )
