"""Write a crash report of a bug in offline-kit: versions, command and traceback, without secrets."""

import platform
import re
import tempfile
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from offline_kit import __version__
from offline_kit.core.redaction import CREDENTIALS, redact_secrets

NAME = "offline-kit-crash.log"

_NAMED = re.compile(r"(?i)token|secret|passw|key|credential")
_SHORT = 5
"""Longest value that is not redacted: replacing short ones would make a report unreadable."""


def environment_secrets(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values of variables that are secrets by their names, and passwords in the addresses of others."""
    values = [value for name, value in environment.items() if _NAMED.search(name)]
    logins = (match["user"] for value in environment.values() for match in CREDENTIALS.finditer(value))
    values += [login.partition(":")[2] for login in logins]
    return tuple(sorted({value for value in values if len(value) > _SHORT}, key=len, reverse=True))


def redact_report(text: str, secrets: Iterable[str] = ()) -> str:
    """Return the text without these secrets and without credentials in URLs, headers, tokens and keys."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return redact_secrets(text)


def write_report(
    error: BaseException, words: Sequence[str], folder: Path, secrets: Iterable[str] = ()
) -> Path:
    """Write the crash report, without these secrets, into `folder`, or the temporary folder if that is not writable."""
    lines = [
        f"offline-kit {__version__}, Python {platform.python_version()}, {platform.platform()}",
        "command: offline-kit " + " ".join(words),
        "",
        *traceback.format_exception(error),
    ]
    text = redact_report("\n".join(lines), secrets) + "\n"
    for own in (True, False):
        with suppress(OSError):  # no folder for temporary files is one, too
            path = (folder if own else Path(tempfile.gettempdir())) / NAME
            # Paths may hold bytes that are no UTF-8.
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
            return path
    return Path("(nowhere: no folder was writable)")
