"""Our own bug leaves a report: versions, command and traceback, with secrets taken out."""

import platform
import re
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from offline_kit import __version__

NAME = "offline-kit-crash.log"

SECRETS = (
    (re.compile(r"(\w+://)[^/\s:@]*(?::[^/\s@]*)?@"), r"\1***@"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}"), r"\1 ***"),
    (re.compile(r"\bKGAT_\w+"), "KGAT_***"),
    (
        re.compile(
            r"(?i)([\"']?\b\w*(?:token|secret|password|passwd|api_?key|kaggle_key|\bkey)[\"']?\s*[=:]\s*)[\"']?[^\s\"',}]+[\"']?"
        ),
        r"\1***",
    ),
)
"""What a secret looks like, and what stands in its place."""


def redact(text: str) -> str:
    """Return the text with credentials of URLs, headers, tokens and keys taken out."""
    for pattern, instead in SECRETS:
        text = pattern.sub(instead, text)
    return text


def write_report(error: BaseException, words: Sequence[str], folder: Path) -> Path:
    """Write the crash report into `folder`, or the temporary folder where that is not writable."""
    lines = [
        f"offline-kit {__version__}, Python {platform.python_version()}, {platform.platform()}",
        "command: offline-kit " + " ".join(words),
        "",
        *traceback.format_exception(error),
    ]
    text = redact("\n".join(lines)) + "\n"
    for place in (folder / NAME, Path(tempfile.gettempdir()) / NAME):
        try:
            place.write_text(text, encoding="utf-8")
        except OSError:
            continue
        return place
    return Path("(nowhere: no folder was writable)")
