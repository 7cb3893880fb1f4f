"""Where the Kaggle server is, and the environment that makes its client use only that one."""

from collections.abc import Mapping
from dataclasses import dataclass

from offline_kit.core.errors import UsageError

# If this variable is set, calls to the real Kaggle are blocked: for test suites.
GUARD = "OFFLINE_KIT_NO_PRODUCTION"

_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_NEVER = ("KAGGLE_TOKEN", "VERBOSE", "VERBOSE_OUTPUT")
"""The client reads every KAGGLE_* variable as configuration (kaggle_api_extended.py), so the first is sent as a token;
the others make it print secrets."""
_CREDENTIALS = ("KAGGLE_API_TOKEN", "KAGGLE_API_V1_TOKEN", "KAGGLE_KERNEL_RUN_TYPE", "XDG_CONFIG_HOME")


@dataclass(frozen=True, kw_only=True)
class KaggleEndpoint:
    """The real Kaggle, or a server on this machine."""

    local: str = ""  # address such as "http://127.0.0.1:8642"; empty for the real Kaggle
    username: str = "local"
    key: str = "local-kaggle"  # not a secret

    def upload_proxies(self) -> dict[str, str] | None:
        """Return the proxies that lead every upload to the local Kaggle; None for the real one."""
        return {"http": self.local, "https": self.local} if self.local else None

    def build_environment(self, env: Mapping[str, str], home: str) -> dict[str, str]:
        """Return `env` changed so that the client uses this server; `home` is an empty folder.

        For a local server, all proxy variables (https too) point to it, and the user's credentials are
        removed. Raises UsageError if the client would ignore what the environment asks for.
        """
        clean = {name: value for name, value in env.items() if name not in _NEVER}
        return self._build_local_environment(clean, home) if self.local else _check_real_environment(clean)

    def _build_local_environment(self, env: dict[str, str], home: str) -> dict[str, str]:
        removed = {*_CREDENTIALS, *(name.upper() for name in _PROXIES)}
        return {name: value for name, value in env.items() if name not in removed} | {
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "KAGGLE_USERNAME": self.username,
            "KAGGLE_KEY": self.key,
            "KAGGLE_CONFIG_DIR": home,
            "HOME": home,
            **dict.fromkeys(_PROXIES, self.local),
            "no_proxy": "",
            "NO_PROXY": "",
        }


def _check_real_environment(env: dict[str, str]) -> dict[str, str]:
    api_environment = env.get("KAGGLE_API_ENVIRONMENT", "PROD")
    if api_environment not in ("PROD", "LOCALHOST"):
        raise UsageError(
            f"KAGGLE_API_ENVIRONMENT is '{api_environment}', which Kaggle's client treats as the real Kaggle",
            code="kaggle-environment-unknown",
            hint="unset it, or use --to local for a Kaggle on this machine",
        )
    if api_environment == "PROD" and env.get(GUARD):
        raise UsageError(
            f"{GUARD} is set, which blocks the real Kaggle",
            code="kaggle-blocked",
            hint=f"use --to local, or unset {GUARD}",
        )
    return env
