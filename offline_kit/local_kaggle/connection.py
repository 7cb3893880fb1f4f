"""How the unmodified client reaches a local Kaggle: everything it sends goes to that server as its proxy."""

from pathlib import Path

from offline_kit.core import processes


def client_environment(
    url: str, home: Path, *, username: str = "", key: str = "", token: str = ""
) -> dict[str, str]:
    """Return the whole environment of a process whose Kaggle client talks to the server at `url`.

    Nothing of the user's credentials is in it, and requests to any other host, kaggle.com too, end at the
    server, which refuses them. `home` should be an empty folder: the client reads and writes there.
    """
    env = {
        "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
        "http_proxy": url,
        "https_proxy": url,
        "no_proxy": "",
        "HOME": str(home),
        "TMPDIR": str(home),
        "KAGGLE_CONFIG_DIR": str(home / ".kaggle"),
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
    }
    inherited = processes.copy_environment()
    env |= {name: inherited[name] for name in ("PATH", "LANG", "SYSTEMROOT") if name in inherited}
    client_settings = {"KAGGLE_USERNAME": username, "KAGGLE_KEY": key, "KAGGLE_API_TOKEN": token}
    return env | {name: value for name, value in client_settings.items() if value}
