"""Kaggle's credentials: where they are, never what they are."""

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from offline_kit.kaggle.client.endpoint import KaggleEndpoint
from offline_kit.kaggle.client.session import ClientSession
from offline_kit.workflow.checks.check_types import CheckContext, CheckResult, warn_result

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


def run_check(ground: CheckContext) -> CheckResult:
    """Name the sources that Kaggle's client would find, in its order; online, log in and name the account."""
    sources = _find_sources(ground.env)
    if not sources:
        return warn_result("no credentials for Kaggle were found", _REMEDY)
    named = f"found in {', then '.join(source.name for source in sources)}"
    if readable := [source.file for source in sources if source.file and _is_open(source.file)]:
        return warn_result(
            f"{named}; others on this machine can read {', '.join(map(repr, map(str, readable)))}",
            f"chmod 600 {readable[0]}",
        )
    if not ground.online:
        return CheckResult(what=f"{named}; whether Kaggle takes them is asked with --online")
    with ClientSession(KaggleEndpoint(), env=ground.env) as session:
        account = session.fetch_account()
    if account.ignored_token_source:
        return warn_result(
            f"logged in as '{account.username}' ({account.auth_method}); Kaggle refused what is in {account.ignored_token_source}",
            f"renew or remove {account.ignored_token_source}",
        )
    return CheckResult(what=f"logged in as '{account.username}' ({account.auth_method}); {named}")


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
    if chosen := env.get("KAGGLE_CONFIG_DIR"):
        return Path(chosen)
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
