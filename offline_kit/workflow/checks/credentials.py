"""Kaggle's credentials: where they are, never what they are."""

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from offline_kit.kaggle.client.endpoint import KaggleEndpoint
from offline_kit.kaggle.client.session import ClientSession
from offline_kit.workflow.checks.check_types import Ground, Said, warning

_REMEDY = (
    "make a token in Kaggle's settings and set KAGGLE_API_TOKEN, put kaggle.json into ~/.kaggle, or run"
    " 'kaggle auth login'; --to local needs none"
)


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Where credentials were found."""

    name: str
    """For a person."""
    file: Path | None = None
    """The file that holds them, or a part of them."""


def run(ground: Ground) -> Said:
    """Name the sources that Kaggle's client would find, in its order; online, log in and name the account."""
    sources = _sources(ground.env)
    if not sources:
        return warning("no credentials for Kaggle were found", _REMEDY)
    named = f"found in {', then '.join(source.name for source in sources)}"
    if readable := [source.file for source in sources if source.file and _is_open(source.file)]:
        return warning(
            f"{named}; others on this machine can read {', '.join(map(repr, map(str, readable)))}",
            f"chmod 600 {readable[0]}",
        )
    if not ground.online:
        return Said(what=f"{named}; whether Kaggle takes them is asked with --online")
    with ClientSession(KaggleEndpoint(), env=ground.env) as session:
        account = session.fetch_account()
    if account.ignored_token_source:
        return warning(
            f"logged in as '{account.username}' ({account.auth_method}); Kaggle refused what is in {account.ignored_token_source}",
            f"renew or remove {account.ignored_token_source}",
        )
    return Said(what=f"logged in as '{account.username}' ({account.auth_method}); {named}")


def _sources(env: Mapping[str, str]) -> list[_Source]:
    home = Path(env.get("HOME") or Path.home())
    found = [_Source(name="KAGGLE_API_TOKEN")] if env.get("KAGGLE_API_TOKEN") else []
    tokens = [home / ".kaggle" / name for name in ("access_token", "access_token.txt")]
    found += [_Source(name=str(path), file=path) for path in tokens if path.is_file()][:1]
    found += _legacy(env, home)
    oauth = home / ".kaggle" / "credentials.json"
    return [*found, *([_Source(name=str(oauth), file=oauth)] if oauth.is_file() else [])]


def _legacy(env: Mapping[str, str], home: Path) -> list[_Source]:
    """Return where a username and a key come from: variables win over the file, each for itself."""
    path = _folder(env, home) / "kaggle.json"
    needed = ("username", "key")
    by_env = [name for name in needed if env.get(f"KAGGLE_{name.upper()}")]
    if not {*needed} <= {*by_env, *_keys(path)}:
        return []
    variables = " and ".join(f"KAGGLE_{name.upper()}" for name in by_env)
    if len(by_env) == len(needed):
        return [_Source(name=variables)]
    return [_Source(name=f"{variables} with {path}" if variables else str(path), file=path)]


def _folder(env: Mapping[str, str], home: Path) -> Path:
    if chosen := env.get("KAGGLE_CONFIG_DIR"):
        return Path(chosen)
    if (home / ".kaggle").is_dir():
        return home / ".kaggle"
    return Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "kaggle"


def _keys(path: Path) -> set[str]:
    """Return which entries of a credentials file hold something."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    return {name for name, value in told.items() if value} if isinstance(told, dict) else set()


def _is_open(path: Path) -> bool:
    """Whether a file can be read by others than its owner."""
    return os.name != "nt" and bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
