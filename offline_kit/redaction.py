"""Addresses shown to a person: without user and password, and without what makes a link one for its bearer."""

import re

_CREDENTIALS = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<user>[^/\s'\"]*)@", re.IGNORECASE)
_FROM_ENVIRONMENT = re.compile(r"\$\{\w+\}(?::\$\{\w+\})?")
_LINK = re.compile(r"(?P<lead>\burl: )(?P<path>[^\s?'\")]+)(?P<query>\?[^\s'\")]*)?", re.IGNORECASE)
"""As urllib3 and requests name what they asked for in their errors."""
_WORD = re.compile(r"(?<=/)(?=[^/]*\d)[\w-]{20,}(?=/|$)")
"""A step of a path that nobody can guess: the place of an upload."""


def redact(text: str) -> str:
    """Return the text with user and password of every URL removed, and links of errors without their key.

    What is no secret stays: the bare user of ssh ("ssh://git@host") and names of environment variables.
    """
    return unsigned(_CREDENTIALS.sub(_bare, text))


def unsigned(text: str) -> str:
    """Return the text of an error with query and unguessable steps taken out of the link that it names."""
    return _LINK.sub(_without_key, text)


def _without_key(found: re.Match[str]) -> str:
    return found["lead"] + _WORD.sub("***", found["path"]) + ("?***" if found["query"] else "")


def _bare(found: re.Match[str]) -> str:
    user, scheme = found["user"], found["scheme"]
    harmless = ":" not in user and scheme.lower().endswith("ssh")
    return found[0] if harmless or _FROM_ENVIRONMENT.fullmatch(user) else f"{scheme}://"
