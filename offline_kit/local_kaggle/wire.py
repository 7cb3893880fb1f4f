"""Kaggle's conventions on the wire: JSON in lowerCamelCase, absent means default, errors are nested."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

_STATUS_WORDS = {
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
# Values of a filter that let everything pass.
_PASSES_ALL = re.compile(r"|all|[A-Z_]+_(?:ALL|UNSPECIFIED)")
_T = TypeVar("_T")
_Method = TypeVar("_Method", bound=Callable[..., Any])


class ServiceRefusal(Exception):  # noqa: N818 - a word of the service, not of ours
    """The service says no: a status and a sentence; the server makes the answer of it."""

    def __init__(self, status: int, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


@dataclass(frozen=True, kw_only=True)
class RpcCall:
    """One remote call, authenticated and parsed; a field that is absent has its default."""

    user: str  # who calls; empty for nobody
    body: Mapping[str, Any]
    base: str  # how the caller reaches this server: "http://127.0.0.1:PORT"
    stuck: str = ""  # A state at which a version made by this call stays, by an injected fault

    def text(self, name: str) -> str:
        """Return a string field."""
        value = self.body.get(name)
        return "" if value is None else str(value)

    def integer(self, name: str) -> int:
        """Return an integer field (int64 may come as a string). Refuses anything else."""
        try:
            # JSON of protocol buffers writes int64 as a string: https://protobuf.dev/programming-guides/json/
            return int(self.body.get(name) or 0)
        except (TypeError, ValueError):
            raise ServiceRefusal(400, f"Invalid value for {name}") from None

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return a boolean field."""
        return bool(self.body.get(name, default))

    def items(self, name: str) -> list[Any]:
        """Return a list field. Refuses anything else."""
        value = self.body.get(name) or []
        if not isinstance(value, list):
            raise ServiceRefusal(400, f"Invalid value for {name}")
        return value

    def texts(self, name: str) -> list[str]:
        """Return a list of strings."""
        return [str(item) for item in self.items(name)]

    def inner(self, body: Mapping[str, Any] | None) -> "RpcCall":
        """Return the same call for a message inside of its own."""
        return replace(self, body=body or {})


@dataclass(frozen=True, kw_only=True)
class HttpAnswer:
    """An answer: a body, or a file, of which ranges can be asked for."""

    status: int = 200
    body: bytes = b""
    file: Path | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


Rpc = Callable[[RpcCall], Mapping[str, Any] | HttpAnswer]  # one remote procedure; raises ServiceRefusal


def rpc(name: str) -> Callable[[_Method], _Method]:
    """Mark a method as the answer to a remote call, "package.Service/Method"."""

    def mark(method: _Method) -> _Method:
        method.__dict__["rpc_name"] = name
        return method

    return mark


def list_rpcs(service: object) -> dict[str, Rpc]:
    """Return the methods of a service that `rpc` has marked, by the names of their calls."""
    methods = [getattr(service, name) for name in dir(type(service))]
    return {method.rpc_name: method for method in methods if hasattr(method, "rpc_name")}


def json_answer(value: Mapping[str, Any], status: int = 200) -> HttpAnswer:
    """Return an answer with a JSON body."""
    headers = {"Content-Type": "application/json; charset=utf-8"}
    return HttpAnswer(status=status, body=json.dumps(value).encode(), headers=headers)


def reword_status(answer: HttpAnswer, form: str) -> HttpAnswer:
    """Return a JSON answer in which every "status" is written in this form, with {} for its own word."""

    def reword(item: dict[str, Any]) -> dict[str, Any]:
        return item | ({"status": form.format(item["status"])} if "status" in item else {})

    return json_answer(json.loads(answer.body, object_hook=reword), answer.status)


def refusal_answer(refusal: ServiceRefusal, shape: str = "nested") -> HttpAnswer:
    """Return an error in one of the shapes of `LocalKaggleSettings.error_shape`."""
    code = refusal.status
    # A proxy or a load balancer in front of the service answers like this.
    if shape in ("html", "empty"):
        page = f"<html><body><h1>{code}</h1></body></html>" if shape == "html" else ""
        return HttpAnswer(
            status=code, body=page.encode(), headers={"Content-Type": "text/html", **refusal.headers}
        )
    error = {"code": code, "message": refusal.message, "status": _STATUS_WORDS.get(code, "UNKNOWN")}
    answer = json_answer({"error": error} if shape == "nested" else error, code)
    return replace(answer, headers={**answer.headers, **refusal.headers})


def format_time(seconds: float) -> str:
    """Return a time (seconds since 1970) as the service writes it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def slice_page(call: RpcCall, listing: Iterable[_T]) -> tuple[list[_T], str]:
    """Return the page that `pageSize`, `pageToken` and `page` ask for, and the token of the next one."""
    things, size, token = list(listing), call.integer("pageSize") or 20, call.text("pageToken")
    if token and not token.isdecimal():
        raise ServiceRefusal(400, "Invalid page token")
    start = int(token) if token else size * max(0, call.integer("page") - 1)
    return things[start : start + size], str(start + size) if start + size < len(things) else ""


def list_page(
    call: RpcCall,
    name: str,
    listing: Iterable[_T],
    describe: Callable[[_T], object] | None = None,
    *,
    filters: Mapping[str, Callable[[_T, str], bool]] | None = None,
    orders: Mapping[str, Callable[[_T], Any]] | None = None,
) -> dict[str, Any]:
    """Return the page of things that a request asks for, under `name`, with the token of the next one.

    `filters` tell by the request's field whether a thing passes its value (of an enumeration the whole name). `orders`
    give by the last words of `sortBy` the key, smallest first; any other word keeps the given order.
    """
    given = [(passes, call.text(field_name)) for field_name, passes in (filters or {}).items()]
    active = [(passes, value) for passes, value in given if not _PASSES_ALL.fullmatch(value)]
    things = [thing for thing in listing if all(passes(thing, value) for passes, value in active)]
    order = call.text("sortBy").upper()
    key = next((key for word, key in (orders or {}).items() if order.endswith(word)), None)
    page, following = slice_page(call, sorted(things, key=key) if key else things)
    return {name: [describe(thing) for thing in page] if describe else page, "nextPageToken": following}


def matches_search(record: Mapping[str, Any], search: str) -> bool:
    """Tell whether the texts of a record hold all words of a search, in any case."""
    searched = ("title", "slug", "owner", "subtitle", "description")
    joined = " ".join(str(record.get(name) or "") for name in searched).lower()
    return all(word in joined for word in search.lower().split())
