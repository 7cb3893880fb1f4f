"""The process that runs Kaggle's client; the only file that imports it.

It runs as `python -P worker.py` without offline_kit: what the client prints, reads from
the environment, or ends with `exit()` stays in this process, and the parent kills it if it hangs. Requests
are JSON lines on stdin, answers are JSON lines, in any order, on the original stdout.

    {"id": 1, "op": "login"}
    {"id": 2, "op": "call", "service": "datasets.DatasetApiService", "method": "GetDataset", "body": {...}}
    {"id": 3, "op": "download", ... as call, "into": "/path/of/a/new/file"}
    -> {"id": 3, "so_far": 123456}  again and again during a download
    -> {"id": 2, "answer": {...}}  or  {"id": 2, "kind": "http", "status": 403, "message": "...", "after": null}

With "silence", a request fails after this many seconds without data; other requests continue.

Login, address and transport are the client's; requests and answers are plain JSON, because the client's
typed ones fail on values that were added after its release.
"""

import base64
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

# Kaggle's client is not thread-safe, so each thread has its own session.
THREADS = 16
_CHUNK = 1 << 16
_LOGIN_TIMEOUT = 30.0
_PROGRESS_SECONDS = 0.25
# How a file store answers for an expired link.
_DEAD_LINK = frozenset({400, 401, 403, 404, 410})
# Names of urllib3's errors if no connection was made: refused, unknown host, bad certificate.
_UNSENT = ("NewConnectionError", "NameResolutionError", "CERTIFICATE_VERIFY_FAILED")


class WorkerError(Exception):
    """A failure as it is sent to the parent process."""

    def __init__(self, kind: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.answer = {"kind": kind, "message": message, **details}


class _RequestBody:
    """A request in the form that the client's transport expects."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields

    @staticmethod
    def to_dict(body: "_RequestBody") -> dict[str, Any]:
        return body.fields


class _RawResponse:
    """An unparsed answer."""

    @staticmethod
    def prepare_from(response: Any) -> Any:
        return response.json()


class ClientWorker:
    """The client, logged in once, with one session per thread."""

    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        """`tell` sends messages before the answer to a request."""
        self._tell = tell
        self._api: Any = None
        self._thread_local = threading.local()
        self._secrets: tuple[str, ...] = ()

    def handle_request(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request; failures are answers too."""
        self._thread_local.silence = request.get("silence")
        try:
            if request["op"] == "login":
                return {"answer": self._log_in()}
            if request["op"] == "download":
                return {"answer": self._download_file(request)}
            return {"answer": self._call_method(request, _RawResponse)}
        except WorkerError as failure:
            answer = failure.answer
        except SystemExit:
            # The client ends the program that imports it.
            answer = {"kind": "login", "message": "Kaggle's client found no credentials that are valid"}
        except Exception as error:  # noqa: BLE001 - foreign code may raise anything; the other side decides
            answer = _describe_error(error)
        message = str(answer["message"])
        for secret in self._secrets:
            message = message.replace(secret, "***")
        return {**answer, "message": message}

    def _log_in(self) -> dict[str, Any]:
        self._limit_requests()
        try:
            import kaggle
        except ModuleNotFoundError as error:
            raise WorkerError("missing", str(error)) from error
        self._api = api = kaggle.api
        # `import kaggle` authenticates and hides errors; authenticate() raises them.
        if not getattr(api, "_authenticated", False):
            api.authenticate()
        values = api.config_values
        dropped = _drop_stale_token(str(values.get("auth_method")))
        key, token, user = (str(values.get(name) or "") for name in ("key", "token", "username"))
        pair = base64.b64encode(f"{user}:{key}".encode()).decode() if key else ""
        self._secrets = tuple(
            secret for secret in (key, token, pair, _configured_token()[0]) if len(secret) > 3
        )
        return {
            "username": user,
            "method": str(values.get("auth_method") or "").rpartition(".")[2],
            "dropped": dropped,
            "endpoint": self._get_transport()._endpoint,
            "version": getattr(kaggle, "__version__", ""),
        }

    def _get_transport(self) -> Any:
        if getattr(self._thread_local, "http", None) is None:
            self._thread_local.client = self._api.build_kaggle_client()
            self._thread_local.http = _keep_json_files(self._thread_local.client.http_client())
        return self._thread_local.http

    def _limit_requests(self) -> None:
        """Give every request of this process a timeout, those of `import kaggle` too, which checks the token."""
        from requests.adapters import HTTPAdapter

        thread_local, original_send = self._thread_local, HTTPAdapter.send

        def send_limited(
            adapter: Any, request: Any, stream: bool = False, timeout: Any = None, *rest: Any, **options: Any
        ) -> Any:
            silence = getattr(thread_local, "silence", None) or _LOGIN_TIMEOUT
            return original_send(adapter, request, stream, timeout or silence, *rest, **options)

        HTTPAdapter.send = send_limited  # type: ignore[method-assign, assignment]

    def _call_method(self, request: dict[str, Any], response_kind: Any) -> Any:
        body = _RequestBody(request["body"])
        return self._get_transport().call(request["service"], request["method"], body, response_kind)

    def _download_file(self, request: dict[str, Any]) -> dict[str, Any]:
        from kagglesdk.common.types.file_download import FileDownload

        try:
            download = self._call_method(request, FileDownload)
        except Exception as error:
            refused = getattr(error, "response", None)
            if refused is None or not refused.history or refused.status_code not in _DEAD_LINK:
                raise
            # Kaggle redirected to a signed link of its storage, which expired: a retry gets a new link.
            raise WorkerError(
                "link", f"the link to the file was refused with {refused.status_code}"
            ) from error
        with download as response, Path(request["into"]).open("wb") as stream:
            length = response.headers.get("Content-Length") or ""
            is_known = length.isdecimal() and not response.headers.get("Content-Encoding")
            free = shutil.disk_usage(request["into"]).free
            if is_known and int(length) > free:
                raise WorkerError("huge", f"{length} bytes are needed, and the disk has {free} free")
            size, last_sign = 0, time.monotonic()
            for chunk in response.iter_content(_CHUNK):
                size += stream.write(chunk)
                if time.monotonic() - last_sign > _PROGRESS_SECONDS:
                    last_sign = time.monotonic()
                    self._tell({"id": request["id"], "so_far": size})
        if is_known and size != int(length):
            raise WorkerError("connection", f"the download ended after {size} of {length} bytes")
        return {"size": size}


def _keep_json_files(http: Any) -> Any:
    """Stop the client from treating a downloaded JSON file with a "code" key as an error of the service."""
    usual = http._prepare_response

    def prepare_response(kind: Any, response: Any) -> Any:
        # After a redirect, the body is the file itself, from the storage.
        if kind is _RawResponse or not response.history:
            return usual(kind, response)
        response.raise_for_status()
        return kind.prepare_from(response)

    http._prepare_response = prepare_response
    return http


def _configured_token() -> tuple[str, str]:
    """Return the token that the client would send, and where it comes from."""
    from kagglesdk import kaggle_env

    token, source = kaggle_env.get_access_token_from_env()
    return token or "", source or ""


def _drop_stale_token(method: str) -> str:
    """Remove a token that Kaggle rejected and return where it came from; "" if there is none."""
    # The client falls back to the API key, but still sends the rejected token.
    token, source = _configured_token()
    if "LEGACY" not in method or not token:
        return ""
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_API_V1_TOKEN"):
        os.environ.pop(name, None)
    token, file = _configured_token()
    if token:
        raise WorkerError("stale", f"the token from '{file}' has expired", source=file)
    return source


def _describe_error(error: Exception) -> dict[str, Any]:
    response = getattr(error, "response", None)
    if response is not None:
        status, message = _read_refusal(response, error)
        after = _parse_retry_after(response.headers.get("Retry-After"))
        return {"kind": "http", "status": status, "message": message, "after": after}
    # By name: the same errors of requests and urllib3 come wrapped in each other.
    names = {error_class.__name__ for error_class in type(error).__mro__}
    if names & {"ConnectionError", "Timeout", "ChunkedEncodingError", "ProtocolError"}:
        if "ConnectTimeout" not in names and ("Timeout" in names or "Read timed out" in str(error)):
            return {"kind": "silent", "message": str(error)}
        unsent = "ConnectTimeout" in names or any(word in str(error) for word in _UNSENT)
        return {"kind": "unsent" if unsent else "connection", "message": str(error)}
    if isinstance(error, ValueError):
        return {"kind": "garbled", "message": f"the answer is no JSON: {error}"}
    return {"kind": "other", "message": f"{type(error).__name__}: {error}"}


def _read_refusal(response: Any, error: Exception) -> tuple[int, str]:
    """Return status and message of the service; the client knows only flat messages."""
    status = int(response.status_code)
    try:
        body = response.json()
    except ValueError:
        return status, str(error)
    if not isinstance(body, dict):
        return status, str(error)
    if status < 400:
        # An error that came with status 200 has its own in the body.
        with suppress(ValueError, TypeError, LookupError):
            status = int(body["code"])
    # The message is nested, {"error": {"message": ...}}, or flat.
    nested = body.get("error")
    message = nested.get("message") if isinstance(nested, dict) else nested
    if isinstance(message, str) and message:
        return status, message
    return status, str(body.get("message") or error)


def _parse_retry_after(value: str | None) -> float | None:
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    with suppress(ValueError):
        return max(0.0, float(value or ""))
    with suppress(InvalidHeader):  # a date
        return float(Retry().parse_retry_after(value or ""))
    return None


def run_worker() -> None:
    """Answer requests until stdin is closed."""
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # the client prints to stdout, which carries our answers
    writing = threading.Lock()

    def write_line(words: dict[str, Any]) -> None:
        line = json.dumps(words) + "\n"
        with writing:
            out.write(line.encode())

    worker = ClientWorker(write_line)

    def answer_request(request: dict[str, Any]) -> None:
        write_line({"id": request["id"], **worker.handle_request(request)})

    pool = ThreadPoolExecutor(THREADS)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if request["op"] == "login":
            answer_request(request)  # alone and first: it changes the environment
        else:
            pool.submit(answer_request, request)
    os._exit(0)  # stdin was closed: do not wait for running requests


if __name__ == "__main__":
    run_worker()
