"""The one set of patterns for secrets: found in files before an upload, hidden in whatever is shown or written.

detect-secrets 1.5.0 has no pattern for tokens of Kaggle, Hugging Face, W&B, Anthropic or Google, no `kaggle_key` among
its keywords, and cannot hide a value in a line of a diff; it would be a dependency beside these patterns, not for them.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

CREDENTIALS = re.compile(
    r"(?<![a-z0-9+.-])(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<user>[^/\s'\"]*|[^/\s'\":@\[]*:(?!\d*/)(?:(?!://)[^\s'\"])*)@",
    re.IGNORECASE,
)
"""User and password of an address; a "/" in a password differs from the one behind a port."""
_FROM_ENVIRONMENT = re.compile(r"\$\{\w+\}(?::\$\{\w+\})?")
# urllib3 and requests name the address in their errors like this.
_LINK = re.compile(r"(?P<lead>\burl: )(?P<path>[^\s?'\")]+)(?P<query>\?[^\s'\")]*)?", re.IGNORECASE)
# An unguessable step of a path, as in the address of an upload.
_WORD = re.compile(r"(?<=/)(?=[^/]*\d)[\w-]{20,}(?=/|$)")
# Query parameters that grant access.
_KEYED = re.compile(
    r"(?i)([?&][\w-]*(?:token(?!iz)|secret|passw(?:or)?d|api[-_]?key|(?<![a-z0-9])key|signature|credential"
    r"|(?<![a-z0-9])sig)=)[^\s&'\"#)]+"
)

# Secrets that are recognized by their shape.
_TOKENS = {
    "Kaggle token": r"KGAT_\w{8,}",
    "Hugging Face token": r"(?:hf|api_org)_[A-Za-z0-9]{20,}",
    # ghs_ tokens may be JSON Web Tokens with dots
    "GitHub token": r"(?:gh[opsur]_[A-Za-z0-9]{20,}[\w.-]*|github_pat_\w{20,})",
    "GitLab token": r"gl(?:pat|dt|rt|ptt|cbt)-[\w.-]{16,}",
    "AWS access key id": r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Za-z0-9])",
    "Google key": r"(?:AIza[\w-]{35}(?![\w-])|GOCSPX-[\w-]{24,}|ya29\.[\w.-]{20,})",
    "W&B key": r"wandb_v\d_\w{40,}|local-[0-9a-f]{40}(?![\w-])",
    "Anthropic key": r"sk-ant-[\w-]{20,}",
    "OpenAI key": r"sk-(?:proj|svcacct|admin|None|or-v\d)-[\w-]{20,}|sk-(?:\w{2,8}-)?(?=[A-Za-z]*\d)[A-Za-z0-9]{20,}",
    "Slack token": r"xox[a-z]-(?=[\w-]*\d)[\w-]{16,}|xapp-\d-[\w-]{20,}|hooks\.slack\.com/services/T\w+/B\w+/\w{16,}",
    "Stripe key": r"[rs]k_live_[A-Za-z0-9]{20,}",
    "PyPI token": r"pypi-AgE[\w-]{40,}",
    "npm token": r"npm_[A-Za-z0-9]{36}(?![A-Za-z0-9])",
    "key of a model service": r"(?:gsk_|r8_|nvapi-|pplx-|tvly-)(?=[\w-]*\d)[\w-]{30,}",
    "Discord webhook": r"discord(?:app)?\.com/api/webhooks/\d+/[\w-]{40,}",
    "Telegram token": r"\d{8,10}:AA[\w-]{33}(?![\w-])",
    "Azure storage key": r"AccountKey=[A-Za-z0-9+/=]{80,}",
    # Neptune's tokens are one part of such a token
    "JSON Web Token": r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}|eyJhcGlfYWRkcmVzcyI6[\w+/=-]{20,}",
}
_SHAPE = re.compile(
    # "_" is a letter to \b: a token behind "x_" or "=" is seen all the same
    "(?<![A-Za-z0-9])(?:" + "|".join(f"(?P<t{n}>{shape})" for n, shape in enumerate(_TOKENS.values())) + ")"
)
_PREFIX = re.compile(
    r"KGAT_|hf_|api_org_|gh[opsur]_|github_pat_|gl[a-z]+-|A[A-Z]{3}|AIza|GOCSPX-|ya29\.|wandb_v\d_|local-|sk-ant-|sk-|xox[a-z]-"
)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r"(?P<body>(?:\s|\\n|\\r|[\"'+,#>]|[\w-]+: [^\n]*\n)*[A-Za-z0-9+/=]{24}(?:[A-Za-z0-9+/=\s]|\\n|\\r|[\"'+,#>])*)"
)
_NAMED = "value of a name that says so"
_SUFFIX = r"(?:_?\d+|_(?:value|str|string|dev|prod|rw|ro|read|write))?"
# Names whose value is a secret, unless it reads as a word or as a blank to fill in.
_SURE_NAME = re.compile(
    r"(?i)(?:passw(?:or)?d|passphrase|pwd|secret|credentials?"
    r"|(?:api|auth|access|private|secret|client|account|storage|service)[-_]?key"
    r"|(?:access|auth|api|bearer|refresh|bot)[-_]?token"
    r"|(?:kaggle|openai|aws|wandb|hf|hub|hugging_?face|github|gh|gitlab|google|gcp|gemini|anthropic|claude|slack|azure"
    r"|neptune|comet|telegram|discord|cohere|groq|mistral|replicate|pypi|twine)(?:[-_]\w+)?[-_]?(?:key|token))"
    rf"{_SUFFIX}$"
)
# Names whose value is a secret only if it looks random: keys of columns and tokens of words are called so too.
_MAYBE_NAME = re.compile(r"(?i:(?:^|[^a-z0-9])(?:key|token|auth|pass)" + _SUFFIX + r"$)|[a-z](?:Key|Token)$")
_HARMLESS_NAME = re.compile(
    r"(?i)(?:cache|hash|image|public|primary|sort|group|foreign|dict|model|file|object|row|item|data|commit|content|unique"
    r"|lookup|index|state|s3|blob|part|idempotency|checksum|pad|eos|bos|unk|sep|cls|mask|next|special)[-_]?(?:key|token)$"
)
# A name and its quoted value: variable, entry, argument or default, in Python, JSON, TOML and YAML.
_ASSIGNED = re.compile(
    r"(?<![\w.-])(?P<name>[A-Za-z_][\w.-]{0,80}+)['\"\\]*\]?\s*(?::\s*[\w.\[\]| ]{1,60}?\s*=|:?=|:|,)\s*(?:\(\s*)?"
    r"[rbufRBUF]{0,2}\\?(?P<quote>\"\"\"|'{3}|['\"])(?P<value>[^'\"\n]+?)\\?(?P=quote)"
)
# The same without quotes: shell, .env, INI, YAML.
_PLAIN = re.compile(
    r"(?<![\w.-])(?P<name>[A-Za-z_][\w.-]{0,80}+)(?P<sign>\s*[=:][ \t]*)(?P<value>[^\s'\"&;,(){}\[\]<>]+)(?=$|[\s'\"&;,)}])",
    re.MULTILINE,
)
# An option of a command, `%env NAME value`, and a line of .netrc.
_SET = re.compile(
    r"(?:(?P<option>(?<!\S)--)|\b(?:set_)?env\s+|\bexport\s+|\bmachine\s+\S+\s+login\s+\S+\s+)(?P<name>[A-Za-z_][\w-]*)"
    r"[ \t=]\s*['\"]?(?P<value>(?!-)[^\s'\"]+)"
)
_LOGIN_CALL = re.compile(r"\blogin\s*\(")
_LOGIN_COMMAND = re.compile(r"(?:[!%\s]|^)[\w.-]+(?:[ \t]+auth)?[ \t]+login[ \t]+(?P<value>[^\n;&|]+)")
_HEADER = re.compile(
    r"(?i)\b(?:bearer|basic)\s+(?P<bearer>[\w.~+/=-]{6,})"
    r"|\b(?:authorization|cookie|[\w-]*-token)\s*:\s*(?P<header>[^'\"\n]+)"
)
_QUOTED = re.compile(r"(?P<quote>['\"])(?!(?P=quote))(?P<value>[^'\"\n]+)(?P=quote)")
# The annotation of a parameter, and what `pwd` mostly has.
_CLASS_OR_PATH = re.compile(r"(?:[A-Z]+[a-z]+)+\d?[A-Z]?|\.{1,2}/.*|/.*\.\w{2,5}")
# Placeholders for a secret; the name of a variable is one.
_BLANK = re.compile(
    r"[A-Z_]+|(?i:[^a-z0-9]*|(.)\1*|[<{\[$%].*|none|null|true|false|changeme"
    r"|.*(?:^|[^a-z])(?:your|my|example|dummy|placeholder|change|insert|replace|enter|fill|fake|redacted|not?)(?![a-z]).*"
    r"|.*(?:x{4,}|\*{3,}|\.{3,}).*)",
    re.DOTALL,
)
_RANDOM = re.compile(r"(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9+=]{16,}")
_CALLED_SECRET = re.compile(r"(?i)key|token|secret|passw|credential")
_WORD_LIKE = re.compile(r"(?i)[a-z]{1,14}(?:[-_. /][a-z]{1,14})*[-_]?\d{0,2}")
_MIXED = re.compile(r"[a-z][A-Z]|[^\w\s.:/-]|\d(?=.*[A-Za-z])|[A-Za-z](?=.*\d)")
# Shorter values are not secret.
_SHORTEST = 6
# A token with fewer different characters is a placeholder.
_KINDS = 5


@dataclass(frozen=True, kw_only=True)
class Secret:
    """The position of a secret in a text, never the secret itself."""

    kind: str  # what it is: "GitHub token", "private key", "password in an address"
    name: str  # the variable, entry or argument that holds it; empty if none does
    start: int
    end: int


def find_secrets(text: str) -> list[Secret]:
    """Return the secrets of a text in order: those known by their shape, and literals whose name says so.

    Words, placeholders ("YOUR_TOKEN"), variables and calls are not secrets.
    """
    return _merge_overlaps(
        [*_find_shaped(text), *_find_named(text), *_find_in_addresses(text), *_find_in_logins(text)]
    )


def redact_secrets(text: str) -> str:
    """Return a text without anything that may be a token, a key or a password.

    Everything that is quoted in a call of `login`, or passed to a login command, is hidden. Names of variables and line
    ends stay.
    """
    text = redact_urls(text)
    secrets = [
        *_find_shaped(text, shown=True),
        *_find_named(text, shown=True),
        *_find_in_logins(text, shown=True),
    ]
    for secret in reversed(_merge_overlaps(secrets)):
        value = text[secret.start : secret.end]
        prefix = _PREFIX.match(value) if secret.kind in _TOKENS else None
        hidden = f"{prefix[0] if prefix else ''}***" + "\n" * value.count("\n")
        text = text[: secret.start] + hidden + text[secret.end :]
    return text


def _merge_overlaps(secrets: Iterable[Secret]) -> list[Secret]:
    """Return the secrets in order; of those that overlap, all of what they cover as one, by the first name."""
    merged: list[Secret] = []
    for secret in sorted(secrets, key=lambda one: (one.start, -one.end)):
        if not merged or secret.start >= merged[-1].end:
            merged.append(secret)
            continue
        last = merged[-1]
        kind = secret.kind if last.kind == _NAMED else last.kind
        merged[-1] = replace(last, kind=kind, name=last.name or secret.name, end=max(last.end, secret.end))
    return merged


def _find_shaped(text: str, *, shown: bool = False) -> Iterator[Secret]:
    """Yield tokens and private keys."""
    for match in _SHAPE.finditer(text):
        kind = tuple(_TOKENS)[int(str(match.lastgroup)[1:])]
        filled = len(set(match[0])) >= _KINDS and not re.search(r"(?i)your|x{5}|placeholder", match[0])
        if shown or filled:
            yield Secret(kind=kind, name="", start=match.start(), end=match.end())
    for match in _PRIVATE_KEY.finditer(text):
        yield Secret(kind="private key", name="", start=match.start("body"), end=match.end("body"))


def _find_named(text: str, *, shown: bool = False) -> Iterator[Secret]:
    """Yield values of names that call them secrets."""
    for pattern in (_ASSIGNED, _SET):
        for match in pattern.finditer(text):
            if _is_secret(match["name"], match["value"], shown=shown):
                yield _make_secret(match, match["name"])
    for match in _PLAIN.finditer(text):
        # `password = conf.pass1` is Python: without quotes only what is written as a shell or YAML does is a literal
        literal = match["sign"] in ("=", ": ") and (match["name"].isupper() or match["sign"] == ": ")
        if (shown or literal or _RANDOM.search(match["value"])) and _is_secret(
            match["name"], match["value"], shown=shown
        ):
            yield _make_secret(match, match["name"])
    for match in _HEADER.finditer(text):
        group = str(match.lastgroup)
        if shown or (not _BLANK.fullmatch(match[group]) and _RANDOM.search(match[group])):
            yield _make_secret(match, "", group)


def _find_in_addresses(text: str) -> Iterator[Secret]:
    """Yield passwords in addresses."""
    for match in CREDENTIALS.finditer(text) if "://" in text else ():
        user, _, password = match["user"].partition(":")
        if not re.fullmatch(r"[\w.%+~-]*", user):
            continue
        value = password or user
        if _FROM_ENVIRONMENT.fullmatch(match["user"]) or _BLANK.fullmatch(value) or "{" in value:
            continue
        if _RANDOM.search(value) or (password and _is_secret("password", password)):
            end = match.end("user")
            yield Secret(kind="password in an address", name="", start=end - len(value), end=end)


def _find_in_logins(text: str, *, shown: bool = False) -> Iterator[Secret]:
    """Yield what is quoted in a call of `login`, and what a command of that name is given."""
    for call in _LOGIN_CALL.finditer(text):
        end, depth = call.end(), 1
        for parenthesis in re.compile(r"[()]").finditer(text, end):
            depth += 1 if parenthesis[0] == "(" else -1
            end = parenthesis.start()
            if not depth:
                break
        for match in _QUOTED.finditer(text, call.end(), end if not depth else len(text)):
            if shown or _RANDOM.fullmatch(match["value"]):
                yield _make_secret(match, "")
    for match in _LOGIN_COMMAND.finditer(text):
        if shown or (_RANDOM.search(match["value"]) and not _BLANK.fullmatch(match["value"])):
            yield _make_secret(match, "")


def _make_secret(match: re.Match[str], name: str, group: str = "value") -> Secret:
    return Secret(kind=_NAMED, name=name.rpartition(".")[2], start=match.start(group), end=match.end(group))


def _is_secret(name: str, value: str, *, shown: bool = False) -> bool:
    sure = _SURE_NAME.search(name)
    if not sure and (not _MAYBE_NAME.search(name) or _HARMLESS_NAME.search(name)):
        return False
    if _BLANK.fullmatch(value) or (_CLASS_OR_PATH.fullmatch(value) and not shown):
        return False
    called = bool(_CALLED_SECRET.search(value)) and not _RANDOM.search(value)
    if shown:
        return not (called and not re.search(r"\d", value)) if sure else not _WORD_LIKE.fullmatch(value)
    if re.search(r"\s", value) or (not sure and not _RANDOM.search(value)):
        return False
    return bool(_RANDOM.search(value)) or (
        not called and len(value) >= _SHORTEST and bool(_MIXED.search(value))
    )


def redact_urls(text: str) -> str:
    """Return the text with user and password of every URL removed, and tokens and signatures of its query.

    Query and unguessable steps of a link that an error names are removed as well. What is no secret stays: the bare
    user of ssh ("ssh://git@host") and names of environment variables.
    """

    def redact_user(match: re.Match[str]) -> str:
        user, scheme = match["user"], match["scheme"]
        harmless = ":" not in user and scheme.lower().endswith("ssh")
        return match[0] if harmless or _FROM_ENVIRONMENT.fullmatch(user) else f"{scheme}://"

    def redact_link(match: re.Match[str]) -> str:
        return match["lead"] + _WORD.sub("***", match["path"]) + ("?***" if match["query"] else "")

    return _LINK.sub(redact_link, _KEYED.sub(r"\1***", CREDENTIALS.sub(redact_user, text)))


# ECMA-48: control sequences, commands to the terminal's window, and single ones.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])?")
_UNPRINTABLE = re.compile(r"[^\S\n\t ]|[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def make_printable(text: str) -> str:
    """Return foreign text without what a terminal would obey: escape sequences, control characters, turned directions."""
    return _UNPRINTABLE.sub(" ", _ESCAPES.sub("", text))
