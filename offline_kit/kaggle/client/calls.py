"""Call Kaggle's services: retry reads, send calls with an effect at most once.

A call with an effect is retried only if Kaggle did nothing (429) or was not reached. After a
NoResponseError, the caller checks what became of it before sending it again.
"""

import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import UnionType
from typing import Any, Self, TypeVar

from offline_kit.core.report import Advance
from offline_kit.core.retry import PATIENT, RetryPolicy, ignore_progress, retry_call
from offline_kit.kaggle.client.api_types import (
    RATE_LIMITED,
    Account,
    InvalidResponseError,
    NoResponseError,
    RefusedError,
    UnreachableError,
)
from offline_kit.kaggle.client.session import ClientSession, KaggleEndpoint, build_refusal

READ_SECONDS = 60.0
# Creating a dataset of many files is slow.
EFFECT_SECONDS = 300.0
# A download has no time limit; it fails after a silence of this many read timeouts.
_SILENCE = 5
PAGE = 200
_LONGEST_WORD = 60

# Kaggle answers 403 for missing things too, because it hides whether private ones exist.
NOT_VISIBLE = frozenset({403, 404})
_T = TypeVar("_T")


class Answer:
    """An answer of Kaggle's API: an absent or null field counts as empty, one of another type is an error."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = fields

    def text(self, name: str) -> str:
        """Return a string, or a number as one."""
        value = self._get_field(name, str | int | float, "a text")
        return "" if value is None else str(value)

    def number(self, name: str) -> int:
        """Return an integer, which may be a string."""
        value = self.fields.get(name)
        if isinstance(value, str) and re.fullmatch(r"-?\d{1,18}", value):
            return int(value)
        return int(self._get_field(name, int, "a number") or 0)

    def flag(self, name: str) -> bool:
        """Return a boolean."""
        return bool(self._get_field(name, bool, "true or false"))

    def object(self, name: str) -> "Answer":
        """Return an object."""
        return Answer(self._get_field(name, dict, "an object") or {})

    def objects(self, name: str) -> list["Answer"]:
        """Return a list of objects."""
        return [Answer(item) for item in self._get_items(name, dict, "a list of objects")]

    def texts(self, name: str) -> list[str]:
        """Return a list of strings."""
        return self._get_items(name, str, "a list of texts")

    def _get_items(self, name: str, kind: type, expected: str) -> list[Any]:
        items: list[Any] = self._get_field(name, list, expected) or []
        if not all(isinstance(item, kind) for item in items):
            raise self._build_type_error(name, expected)
        return items

    def _get_field(self, name: str, kind: type | UnionType, expected: str) -> Any:
        value = self.fields.get(name)
        # A bool is an int for Python, not for us.
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool) != (kind is bool)):
            raise self._build_type_error(name, expected)
        return value

    def _build_type_error(self, name: str, expected: str) -> InvalidResponseError:
        value = json.dumps(self.fields[name])[:_LONGEST_WORD]
        return InvalidResponseError(
            f"Kaggle sent an unexpected answer: '{name}' should be {expected}, but is {value}",
            hint="check that no proxy or --at address answers instead of Kaggle, or run the same command again later",
        )


class ApiService:
    """Calls to Kaggle's services, retried if that is safe."""

    def __init__(
        self,
        endpoint: KaggleEndpoint,
        *,
        env: Mapping[str, str] | None = None,
        python: str = sys.executable,
        patience: RetryPolicy = PATIENT,
        seconds: float = READ_SECONDS,
        page: int = PAGE,
    ) -> None:
        """`python` must have the kaggle package; `seconds` is the timeout of a read, `page` the items per page of a listing.

        `patience` reports only the waits of rate limits (429): they may take minutes.
        """
        self.endpoint = endpoint
        self._session = ClientSession(endpoint, env=env, python=python)
        self._patience = replace(patience, tell=ignore_progress)
        self._slower = patience.when_rate_limited()
        self._turn = threading.Lock()
        self._seconds = seconds
        self._page = page

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close_session()

    def fetch_account(self) -> Account:
        """Return the account of the credentials; raises NotLoggedInError."""
        return self._session.fetch_account()

    def _read(self, method: str, body: Mapping[str, Any]) -> Answer:
        """Return the answer of a "package.Service/Method" without effect; raises as `ClientSession.send_request`."""
        return self._call(method, body, self._seconds, is_transient)

    def _read_or_none(
        self, method: str, body: Mapping[str, Any], *, absent: frozenset[int] = NOT_VISIBLE
    ) -> Answer | None:
        """Return the answer, or None if Kaggle refuses with one of these statuses."""
        try:
            return self._read(method, body)
        except RefusedError as refusal:
            if refusal.status in absent:
                return None
            raise

    def _list_items(self, method: str, body: Mapping[str, Any], field: str) -> Iterator[Answer]:
        """Yield the items of a listing."""
        for page in self._list_pages(method, body):
            yield from page.objects(field)

    def _list_pages(self, method: str, body: Mapping[str, Any]) -> Iterator[Answer]:
        token = ""
        while True:
            page_fields = {"pageSize": self._page, **({"pageToken": token} if token else {})}
            page = self._read(method, {**body, **page_fields})
            if trouble := page.text("errorMessage"):
                raise build_refusal(trouble, 200)
            yield page
            before, token = token, page.text("nextPageToken")
            if not token or token == before:  # a server that repeats a token would be asked forever
                return

    def _send(self, method: str, body: Mapping[str, Any]) -> Answer:
        """Return the answer of a call that changes something; raise refusals that came with status 200."""

        def had_no_effect(error: Exception) -> bool:
            return isinstance(error, UnreachableError) or _is_rate_limited(error)

        answer = self._call(method, body, EFFECT_SECONDS, had_no_effect)
        # A refusal may come with status 200, and the client would call it a success.
        ended = answer.text("status") or "ok"
        if answer.fields.get("error") or ended.lower() != "ok":
            raise build_refusal(answer.text("error") or f"the request ended as '{ended}'", 200)
        return answer

    def _download(
        self, method: str, body: Mapping[str, Any], target_path: Path, advance: Advance = ignore_progress
    ) -> int:
        """Download the file that a call links to, and return its size in bytes."""
        reached = 0

        def show_size(size: int) -> None:
            # An attempt that starts again reports no byte twice.
            nonlocal reached
            if size > reached:
                advance(size - reached)
                reached = size

        # Every attempt requests a new link, because links expire.
        request = {**_build_request(method, body), "into": str(target_path)}
        target_path.unlink(missing_ok=True)
        try:
            answer = self._retry_rate_limited(
                lambda: self._session.send_request(
                    "download", request, deadline=_SILENCE * self._seconds, show_size=show_size
                ),
                is_transient,
            )
            show_size(int(answer["size"]))
            return int(answer["size"])
        except BaseException:
            target_path.unlink(missing_ok=True)
            raise

    def _call(
        self, method: str, body: Mapping[str, Any], seconds: float, may_pass: Callable[[Exception], bool]
    ) -> Answer:
        request = _build_request(method, body)

        def send_request() -> Answer:
            answer = self._session.send_request("call", request, deadline=seconds)
            if not isinstance(answer, dict):
                raise NoResponseError(
                    f"Kaggle's answer to '{request['method']}' is not an object",
                    hint="run the same command again later",
                )
            return Answer(answer)

        return self._retry_rate_limited(send_request, may_pass)

    def _retry_rate_limited(self, act: Callable[[], _T], may_pass: Callable[[Exception], bool]) -> _T:
        """Retry transient errors; calls that got a 429 are sent one at a time, with a longer policy."""

        def retry_others() -> _T:
            return retry_call(
                act, self._patience, may_pass=lambda error: may_pass(error) and not _is_rate_limited(error)
            )

        try:
            return retry_others()
        except RefusedError as refusal:
            if not _is_rate_limited(refusal) or not may_pass(refusal):
                raise
            until = time.monotonic() + self._slower.wait_time(refusal.after, 1)
        with self._turn:
            self._slower.wait(max(0.0, until - time.monotonic()))
            return retry_call(
                retry_others, self._slower, may_pass=lambda error: _is_rate_limited(error) and may_pass(error)
            )


def _build_request(method: str, body: Mapping[str, Any]) -> dict[str, Any]:
    service, _, name = method.partition("/")
    return {"service": service, "method": name, "body": dict(body)}


def is_transient(error: Exception) -> bool:
    """Tell whether a call that failed so may succeed later."""
    if isinstance(error, RefusedError):
        return error.is_temporary
    return isinstance(error, NoResponseError | UnreachableError)


def _is_rate_limited(error: Exception) -> bool:
    return isinstance(error, RefusedError) and error.status == RATE_LIMITED


def parse_time(text_value: str) -> datetime | None:
    """Parse a timestamp of Kaggle's, which is in UTC with or without an offset; None if it cannot be parsed."""
    try:
        moment = datetime.fromisoformat(text_value)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def parse_state(raw_state: str, default: str) -> str:
    """Return Kaggle's word for a state in lower case; an absent one is the `default`."""
    # Kaggle writes it in any case, with underscores, and sometimes with a prefix (KERNEL_WORKER_STATUS_COMPLETE).
    return re.sub(r"[^a-z]", "", raw_state[:_LONGEST_WORD].lower()).rpartition("status")[2] or default
