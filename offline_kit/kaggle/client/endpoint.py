"""Which Kaggle is meant, and the environment in which its client finds it and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass

from offline_kit.core.errors import UsageError

GUARD = "OFFLINE_KIT_NO_PRODUCTION"
"""With this variable set, the real Kaggle is out of reach: for test suites."""

_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_NEVER = ("KAGGLE_TOKEN", "VERBOSE", "VERBOSE_OUTPUT")
"""By accident the first is sent as a token; the others make the client print secrets."""
_CREDENTIALS = ("KAGGLE_API_TOKEN", "KAGGLE_API_V1_TOKEN", "KAGGLE_KERNEL_RUN_TYPE", "XDG_CONFIG_HOME")


@dataclass(frozen=True, kw_only=True)
class KaggleEndpoint:
    """The real Kaggle, or one on this machine."""

    local: str = ""
    """Address of a local Kaggle, "http://127.0.0.1:8642"; empty means the real one."""
    username: str = "local"
    """Who we are at the local Kaggle."""
    key: str = "local-kaggle"
    """The key there; no secret."""

    def upload_proxies(self) -> dict[str, str] | None:
        """Return proxies by scheme for whatever the local Kaggle names as address; None for the real one."""
        return {"http": self.local, "https": self.local} if self.local else None

    def build_environment(self, env: Mapping[str, str], home: str) -> dict[str, str]:
        """Return `env` changed so that the client reaches this Kaggle; `home` is an empty folder.

        For a local one every proxy variable leads there, https too, and the user's credentials stay
        outside. Raises UsageError where the client would not do what the environment seems to say.
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
            f"KAGGLE_API_ENVIRONMENT is '{api_environment}', which Kaggle's client takes for the real Kaggle",
            hint="unset it, or use --to local for a Kaggle on this machine",
        )
    if api_environment == "PROD" and env.get(GUARD):
        raise UsageError(
            f"the real Kaggle is out of reach while {GUARD} is set",
            hint=f"use --to local, or unset {GUARD}",
        )
    return env
