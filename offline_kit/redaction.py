"""Addresses shown to a person: without user and password."""

import re

_CREDENTIALS = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<user>[^/\s'\"]*)@", re.IGNORECASE)
_FROM_ENVIRONMENT = re.compile(r"\$\{\w+\}(?::\$\{\w+\})?")


def redact(text: str) -> str:
    """Return the text with user and password of every URL removed.

    What is no secret stays: the bare user of ssh ("ssh://git@host") and names of environment variables.
    """
    return _CREDENTIALS.sub(_bare, text)


def _bare(found: re.Match[str]) -> str:
    user, scheme = found["user"], found["scheme"]
    harmless = ":" not in user and scheme.lower().endswith("ssh")
    return found[0] if harmless or _FROM_ENVIRONMENT.fullmatch(user) else f"{scheme}://"
