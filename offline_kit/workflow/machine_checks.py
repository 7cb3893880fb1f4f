"""Checks of the doctor that look at this machine: uv, the image's Python, the sandbox, disks, indexes, credentials."""

import json
import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from offline_kit.core import interpreters, processes, sandbox
from offline_kit.core.errors import OutsideError
from offline_kit.core.files import format_size
from offline_kit.core.redaction import redact_urls
from offline_kit.core.retry import RetryPolicy
from offline_kit.kaggle.client.endpoint import KaggleEndpoint
from offline_kit.kaggle.client.session import ClientSession
from offline_kit.packages.freeze.freeze import read_index_settings
from offline_kit.packages.index import PackageIndex
from offline_kit.packages.pip_settings import read_pip_settings
from offline_kit.workflow.check_types import CheckContext, CheckResult, fail_result, warn_result


def check_uv(context: CheckContext) -> CheckResult:
    """Run uv and tell its version."""
    try:
        program = interpreters.uv_program()
    except OutsideError as error:
        return fail_result(error.what, error.hint)
    answer = processes.run_command([program, "--version"], env=context.env, check=False, timeout=30)
    if not answer.succeeded:
        return fail_result(
            f"'{program}' does not run", "pip install --force-reinstall uv", *answer.last_lines(3)
        )
    return CheckResult(what=answer.out.strip())


def check_python(context: CheckContext) -> CheckResult:
    """Look for the image's Python on this machine."""
    image = context.loaded_image
    if image.local:
        return CheckResult(what=f"the running Python {image.python} is the image's")
    interpreter = interpreters.find_interpreter(image.python_minor, context.env)
    if interpreter is None:
        return warn_result(
            f"'{image.name}' runs Python {image.python_minor}, and this machine has none",
            f"uv python install {image.python_minor}, or rehearse in the running environment with --env current",
        )
    return CheckResult(what=f"Python {image.python_minor} of '{image.name}': {interpreter}")


_INSTALL_SANDBOX = (
    "on Linux install bubblewrap (`apt install bubblewrap`), or allow user namespaces"
    " (`sysctl kernel.apparmor_restrict_unprivileged_userns=0`); elsewhere use docker or WSL2"
)


def check_sandbox(context: CheckContext) -> CheckResult:  # noqa: ARG001 - a property of the machine
    """Try the sandboxes of this machine, the best first; raises if none works."""
    working_sandbox = sandbox.find_sandbox()
    if working_sandbox.is_weak:
        return warn_result(
            "no real sandbox works here: a rehearsal would prove little",
            _INSTALL_SANDBOX,
            *working_sandbox.refused,
        )
    return CheckResult(what=f"{working_sandbox.kind} works", details=working_sandbox.refused)


LEAST = 500_000_000
"""Bytes below which hardly any build gets through."""
COMFORTABLE = 5_000_000_000
"""Bytes that downloads, an environment of the image's versions, and a kit take together."""


def check_disk(context: CheckContext) -> CheckResult:
    """Look at the places of the kit and of the cache: whether they can be written to, and what is free there."""
    out = context.config.out if context.config else context.project
    folders = {_existing_parent(context.cache), _existing_parent(out)}
    closed = [
        str(folder) for folder in sorted(folders) if not folder.is_dir() or not os.access(folder, os.W_OK)
    ]
    if closed:
        return fail_result(
            f"cannot write below {', '.join(map(repr, closed))}",
            "make it writable, or choose another place with --out or OFFLINE_KIT_CACHE",
        )
    free = {folder: shutil.disk_usage(folder).free for folder in folders}
    tightest = min(free, key=lambda folder: (free[folder], str(folder)))
    message = f"{format_size(free[tightest])} free below '{tightest}'"
    remedy = "free some space ('offline-kit cache prune' may help), or set OFFLINE_KIT_CACHE to another disk"
    if free[tightest] < LEAST:
        return fail_result(message, remedy)
    return (
        warn_result(f"only {message}", remedy) if free[tightest] < COMFORTABLE else CheckResult(what=message)
    )


def _existing_parent(path: Path) -> Path:
    """Return the nearest thing above a place that is there."""
    return next(above for above in (path, *path.parents) if above.exists())


_BRISK = RetryPolicy(attempts=2, deadline=30.0)
"""A person waits for the answer."""


def check_index(context: CheckContext) -> CheckResult:
    """Ask every index and find-links folder for one small project; raises if one does not answer."""
    config = context.config
    settings = read_pip_settings(context.env)
    if config:
        settings = read_index_settings(config.requirements, config.project, settings)
    PackageIndex(settings, cache=context.cache, patience=_BRISK).list_files("pip")
    indexes = [redact_urls(index) for index in (*settings.list_index_urls(), *settings.find_links)]
    return CheckResult(what=f"answers: {', '.join(indexes) or 'none is configured'}")


_REMEDY = (
    "make a token in Kaggle's settings and set KAGGLE_API_TOKEN, put kaggle.json into ~/.kaggle, or run"
    " 'kaggle auth login'; --to local needs none"
)


@dataclass(frozen=True, kw_only=True)
class _CredentialSource:
    """Where credentials were found."""

    name: str
    """For a person."""
    file: Path | None = None
    """The file that holds them, or a part of them."""


def check_credentials(context: CheckContext) -> CheckResult:
    """Name the sources that Kaggle's client would find, in its order; online, log in and name the account."""
    sources = _find_sources(context.env)
    if not sources:
        return warn_result("no credentials for Kaggle were found", _REMEDY)
    variables = f"found in {', then '.join(source.name for source in sources)}"
    if readable := [source.file for source in sources if source.file and _is_open(source.file)]:
        return warn_result(
            f"{variables}; others on this machine can read {', '.join(map(repr, map(str, readable)))}",
            f"chmod 600 {readable[0]}",
        )
    if not context.online:
        return CheckResult(what=f"{variables}; whether Kaggle takes them is asked with --online")
    with ClientSession(KaggleEndpoint(), env=context.env) as session:
        account = session.fetch_account()
    if account.ignored_token_source:
        return warn_result(
            f"logged in as '{account.username}' ({account.auth_method}); Kaggle refused what is in {account.ignored_token_source}",
            f"renew or remove {account.ignored_token_source}",
        )
    return CheckResult(what=f"logged in as '{account.username}' ({account.auth_method}); {variables}")


def _find_sources(env: Mapping[str, str]) -> list[_CredentialSource]:
    home = Path(env.get("HOME") or Path.home())
    sources = [_CredentialSource(name="KAGGLE_API_TOKEN")] if env.get("KAGGLE_API_TOKEN") else []
    tokens = [home / ".kaggle" / name for name in ("access_token", "access_token.txt")]
    sources += [_CredentialSource(name=str(path), file=path) for path in tokens if path.is_file()][:1]
    sources += _find_legacy_key(env, home)
    oauth = home / ".kaggle" / "credentials.json"
    return [*sources, *([_CredentialSource(name=str(oauth), file=oauth)] if oauth.is_file() else [])]


def _find_legacy_key(env: Mapping[str, str], home: Path) -> list[_CredentialSource]:
    """Return where a username and a key come from: variables win over the file, each for itself."""
    path = _kaggle_folder(env, home) / "kaggle.json"
    needed = ("username", "key")
    by_env = [name for name in needed if env.get(f"KAGGLE_{name.upper()}")]
    if not {*needed} <= {*by_env, *_filled_entries(path)}:
        return []
    variables = " and ".join(f"KAGGLE_{name.upper()}" for name in by_env)
    if len(by_env) == len(needed):
        return [_CredentialSource(name=variables)]
    return [_CredentialSource(name=f"{variables} with {path}" if variables else str(path), file=path)]


def _kaggle_folder(env: Mapping[str, str], home: Path) -> Path:
    if configured := env.get("KAGGLE_CONFIG_DIR"):
        return Path(configured)
    if (home / ".kaggle").is_dir():
        return home / ".kaggle"
    return Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "kaggle"


def _filled_entries(path: Path) -> set[str]:
    """Return which entries of a credentials file hold something."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    return {name for name, value in entries.items() if value} if isinstance(entries, dict) else set()


def _is_open(path: Path) -> bool:
    """Whether a file can be read by others than its owner."""
    return os.name != "nt" and bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
