"""Addresses shown to a person: without user and password, and without what makes a link one for its bearer.

Lines of code and of a shell: without the tokens and passwords that are written into them.
"""

import re

CREDENTIALS = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<user>[^/\s'\"]*|[^/\s'\":@\[]*:(?!\d*/)(?:(?!://)[^\s'\"])*)@",
    re.IGNORECASE,
)
"""User and password of an address; a "/" in a password is told from the one behind a port."""
_FROM_ENVIRONMENT = re.compile(r"\$\{\w+\}(?::\$\{\w+\})?")
_LINK = re.compile(r"(?P<lead>\burl: )(?P<path>[^\s?'\")]+)(?P<query>\?[^\s'\")]*)?", re.IGNORECASE)
"""As urllib3 and requests name what they asked for in their errors."""
_WORD = re.compile(r"(?<=/)(?=[^/]*\d)[\w-]{20,}(?=/|$)")
"""A step of a path that nobody can guess: the place of an upload."""
_SAID = r"(?:token(?!iz)|secret|passw(?:or)?d|api[-_]?key|\bkey|signature|credential)"
_KEYED = re.compile(rf"(?i)([?&][\w-]*(?:{_SAID}|\bsig)=)[^\s&'\"#)]+")
"""What in the query of an address lets its bearer in."""
_TOLD = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}"), r"\1 ***"),
    (re.compile(r"(?i)\b(authorization|cookie|[\w-]*-token)(\s*:\s*)[^'\"\n]+"), r"\1\2***"),
    (
        re.compile(r"\b(hf_|gh[opsur]_|github_pat_|glpat-|KGAT_|sk-|xox[abp]-|AKIA|ya29\.)[\w.-]{8,}"),
        r"\1***",
    ),
    (re.compile(rf"(?i)({_SAID}\w*['\"]?\]?\s*[=:,]\s*[rbuf]*)(['\"])(?!\2)[^'\"\n]+\2"), r"\1\2***\2"),
    (re.compile(rf"(?i)((?:^|[\s?&;])[\w-]*{_SAID}=)(?![\s'\"{{$])[^\s&'\",)]+(?=$|[\s&'\";])"), r"\1***"),
    (re.compile(rf"(?i)(--[\w-]*{_SAID}\s+)(?![\s{{$-])\S+"), r"\1***"),
)
"""What a secret looks like in a line of Python or of a shell, and what stands in its place."""
_LOGIN_CALL = re.compile(r"\blogin\s*\(")
_LOGIN_COMMAND = re.compile(r"(?P<lead>[!%\s]|^)(?P<program>[\w.-]+(?:\s+auth)?\s+login)[ \t]+[^\n;&|]+")
_QUOTED = re.compile(r"(?P<quote>['\"])(?!(?P=quote))[^'\"\n]+(?P=quote)")


def without_secrets(text: str) -> str:
    """Return a line of code or of a shell, or several, without what looks like a token, a key or a password.

    Of a login all that is quoted goes, or all that its command is given; names of variables stay. No end of a
    line is lost.
    """
    text = redact(text)
    for pattern, instead in _TOLD:
        text = pattern.sub(instead, text)
    if found := _LOGIN_CALL.search(text):
        return text[: found.end()] + _QUOTED.sub(r"\g<quote>***\g<quote>", text[found.end() :])
    return _LOGIN_COMMAND.sub(r"\g<lead>\g<program> ***", text)


def redact(text: str) -> str:
    """Return the text with user and password of every URL removed, and tokens and signatures of its query.

    What is no secret stays: the bare user of ssh ("ssh://git@host") and names of environment variables.
    """
    return unsigned(_KEYED.sub(r"\1***", CREDENTIALS.sub(_bare, text)))


def unsigned(text: str) -> str:
    """Return the text of an error with query and unguessable steps taken out of the link that it names."""
    return _LINK.sub(_without_key, text)


def _without_key(found: re.Match[str]) -> str:
    return found["lead"] + _WORD.sub("***", found["path"]) + ("?***" if found["query"] else "")


def _bare(found: re.Match[str]) -> str:
    user, scheme = found["user"], found["scheme"]
    harmless = ":" not in user and scheme.lower().endswith("ssh")
    return found[0] if harmless or _FROM_ENVIRONMENT.fullmatch(user) else f"{scheme}://"
