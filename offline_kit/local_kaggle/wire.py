"""Kaggle's conventions on the wire: JSON in lowerCamelCase, absent means default, errors are nested."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

_WORDS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
}


HERE = "here:"
"""How the address of a page begins in what is told about a thing; `placed` puts the server's own there."""
_PLACED = frozenset({"url", "ref"})
PAGES = frozenset({"datasets", "models", "code", "competitions", "submissions"})
"""How the paths of pages begin."""
_NO_PAGES = (
    "A local Kaggle has no pages. `offline-kit status --to local` tells what it holds, as Kaggle's own client does;"
    " the rules of a competition are accepted in its competition.toml (entered = true).\n"
)


_T = TypeVar("_T")
_ANY = re.compile(r"|all|[A-Z_]+_(?:ALL|UNSPECIFIED)")
"""Values of a filter that let everything pass."""


class ServiceRefusal(Exception):  # noqa: N818 - a word of the service, not of ours
    """The service says no: a status and a sentence; the server makes the answer of it."""

    def __init__(self, status: int, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


@dataclass(frozen=True, kw_only=True)
class RpcCall:
    """One remote call, authenticated and parsed."""

    user: str
    """Who calls; empty for nobody."""
    body: Mapping[str, Any]
    """The request; fields that are not there have their default."""
    base: str
    """How the caller reaches this server: "http://127.0.0.1:PORT"."""
    stuck: str = ""
    """A state at which a version made by this call stays, by an injected fault."""

    def text_field(self, name: str) -> str:
        """Return a string field; absent is ""."""
        return text_field(self.body, name)

    def int_field(self, name: str) -> int:
        """Return an integer field; absent is 0."""
        return int_field(self.body, name)

    def bool_field(self, name: str, *, default: bool = False) -> bool:
        """Return a boolean field; absent is `default`."""
        return bool(self.body.get(name, default))

    def text_list(self, name: str) -> list[str]:
        """Return a list of strings; absent is empty."""
        return [str(item) for item in list_field(self.body, name)]


@dataclass(frozen=True, kw_only=True)
class HttpAnswer:
    """What goes back."""

    status: int = 200
    body: bytes = b""
    """The body, unless a file is sent."""
    file: Path | None = None
    """A file to send instead of a body; ranges of it can be asked for."""
    stream: Iterator[bytes] | None = None
    """Pieces to send instead of a body, each as soon as it is there."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers besides the length."""


Rpc = Callable[[RpcCall], Mapping[str, Any] | HttpAnswer]
"""One remote procedure; raises Refusal."""


def text_field(body: Mapping[str, Any], name: str) -> str:
    """Return a string field; absent is ""."""
    value = body.get(name)
    return "" if value is None else str(value)


def int_field(body: Mapping[str, Any], name: str) -> int:
    """Return an integer field (int64 may come as a string); absent is 0. Refuses anything else."""
    value = body.get(name) or 0
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ServiceRefusal(400, f"Invalid value for {name}") from None


def list_field(body: Mapping[str, Any], name: str) -> list[Any]:
    """Return a list field; absent is empty. Refuses anything else."""
    value = body.get(name) or []
    if not isinstance(value, list):
        raise ServiceRefusal(400, f"Invalid value for {name}")
    return value


def localize_urls(value: Any, base: str) -> Any:
    """Return what is told with the server's own address in it: nothing of it is on kaggle.com."""
    if isinstance(value, list):
        return [localize_urls(item, base) for item in value]
    if not isinstance(value, Mapping):
        return value
    return {
        name: base + item.removeprefix(HERE)
        if name in _PLACED and isinstance(item, str) and item.startswith(HERE)
        else localize_urls(item, base)
        for name, item in value.items()
    }


def placeholder_page() -> HttpAnswer:
    """Return what stands at the address of any page."""
    return HttpAnswer(body=_NO_PAGES.encode(), headers={"Content-Type": "text/plain; charset=utf-8"})


def json_answer(value: Mapping[str, Any], status: int = 200) -> HttpAnswer:
    """Return an answer with a JSON body."""
    headers = {"Content-Type": "application/json; charset=utf-8"}
    return HttpAnswer(status=status, body=json.dumps(value).encode(), headers=headers)


def reword_status(answer: HttpAnswer, form: str) -> HttpAnswer:
    """Return a JSON answer in which every "status" is written in this form, with {} for its own word."""

    def reword_value(value: Any) -> Any:
        if isinstance(value, list):
            return [reword_value(item) for item in value]
        if not isinstance(value, dict):
            return value
        return {
            name: form.format(item) if name == "status" else reword_value(item)
            for name, item in value.items()
        }

    return json_answer(reword_value(json.loads(answer.body)), answer.status)


def refusal_answer(refusal: ServiceRefusal, shape: str = "nested") -> HttpAnswer:
    """Return an error in one of the shapes of `Settings.error_shape`."""
    code, message = refusal.status, refusal.message
    word = _WORDS.get(code, "UNKNOWN")
    if shape in ("html", "empty"):
        page = f"<html><body><h1>{code}</h1></body></html>" if shape == "html" else ""
        return HttpAnswer(
            status=code, body=page.encode(), headers={"Content-Type": "text/html", **refusal.headers}
        )
    inner = {"code": code, "message": message, "status": word}
    answer = json_answer({"error": inner} if shape == "nested" else inner, code)
    return HttpAnswer(status=code, body=answer.body, headers={**answer.headers, **refusal.headers})


def redirect_answer(url: str) -> HttpAnswer:
    """Return a 302 to a link."""
    return HttpAnswer(status=302, headers={"Location": url})


def format_time(seconds: float) -> str:
    """Return a time (seconds since 1970) as the service writes it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def slice_page(found: Sequence[Any], body: Mapping[str, Any]) -> tuple[list[Any], str]:
    """Return the page that `pageSize`, `pageToken` and `page` ask for, and the token of the next one."""
    size = int_field(body, "pageSize") or 20
    token = text_field(body, "pageToken")
    if token:
        if not token.isdecimal():
            raise ServiceRefusal(400, "Invalid page token")
        start = int(token)
    else:
        start = size * max(0, int_field(body, "page") - 1)
    next_token = str(start + size) if start + size < len(found) else ""
    return list(found[start : start + size]), next_token


@dataclass(frozen=True, kw_only=True)
class ListingRules(Generic[_T]):
    """How things of one kind are listed: which fields of a request filter them, and what they are sorted by."""

    filters: Mapping[str, Callable[[_T, str], bool]]
    """By the request's field: whether a thing passes its value (of an enumeration the whole name)."""
    orders: Mapping[str, Callable[[_T], Any]] = field(default_factory=dict)
    """By the last words of `sortBy`: the key, smallest first. Any other word keeps the given order."""

    def page_of_things(self, things: Iterable[_T], body: Mapping[str, Any]) -> tuple[list[_T], str]:
        """Return the page of the things that a request asks for, and the token of the next one."""
        given_filters = {name: text_field(body, name) for name in self.filters}
        filters = {name: value for name, value in given_filters.items() if not _ANY.fullmatch(value)}
        matching = [
            thing
            for thing in things
            if all(self.filters[name](thing, value) for name, value in filters.items())
        ]
        order = text_field(body, "sortBy").upper()
        key = next((key for word, key in self.orders.items() if order.endswith(word)), None)
        return slice_page(sorted(matching, key=key) if key else matching, body)


def matches_search(search: str, *texts: object) -> bool:
    """Tell whether a search finds one of the texts: all of its words stand in them, in any case."""
    joined = " ".join(str(text or "") for text in texts).lower()
    return all(word in joined for word in search.lower().split())
