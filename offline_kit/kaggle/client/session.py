"""Where the Kaggle server is, and the connection to the worker process.

Every request has a timeout, and every failure becomes one of our errors.
"""

import itertools
import json
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from offline_kit.core import processes
from offline_kit.core.errors import OutsideError, UsageError
from offline_kit.core.redaction import make_printable, redact_urls
from offline_kit.core.report import Advance
from offline_kit.core.retry import ignore_progress
from offline_kit.kaggle.client.api_types import (
    Account,
    NoResponseError,
    NotLoggedInError,
    RefusedError,
    UnreachableError,
)

# Characters of an error message that are read, and shown.
_MAX_READ, _MAX_SHOWN = 100_000, 500
LOGIN_SECONDS = 60.0  # importing the client takes half a second, plus a request if a token is configured

_WORKER = Path(__file__).with_name("worker.py")
_LOG_IN = (
    "set credentials in one of: KAGGLE_API_TOKEN, ~/.kaggle/access_token, KAGGLE_USERNAME and KAGGLE_KEY, kaggle.json,"
    " or 'kaggle auth login'; or use --to local, which needs none"
)
_RETRY_HINT = "check the network and run the same command again; nothing is done twice"

# If this variable is set, calls to the real Kaggle are blocked: for test suites.
GUARD = "OFFLINE_KIT_NO_PRODUCTION"

_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
# The client reads every KAGGLE_* variable as configuration (kaggle_api_extended.py), so the first is sent as a token;
# the others make it print secrets.
_NEVER = ("KAGGLE_TOKEN", "VERBOSE", "VERBOSE_OUTPUT")
_CREDENTIALS = ("KAGGLE_API_TOKEN", "KAGGLE_API_V1_TOKEN", "KAGGLE_KERNEL_RUN_TYPE", "XDG_CONFIG_HOME")


@dataclass(frozen=True, kw_only=True)
class KaggleEndpoint:
    """The real Kaggle, or a server on this machine."""

    local: str = ""  # address such as "http://127.0.0.1:8642"; empty for the real Kaggle
    username: str = "local"
    key: str = "local-kaggle"  # not a secret

    def build_environment(self, env: Mapping[str, str], home: str) -> dict[str, str]:
        """Return `env` changed so that the client uses this server; `home` is an empty folder.

        For a local server, all proxy variables (https too) point to it, and the user's credentials are
        removed. Raises UsageError if the client would ignore what the environment asks for.
        """
        env = {name: value for name, value in env.items() if name not in _NEVER}
        if self.local:
            removed = {*_CREDENTIALS, *(name.upper() for name in _PROXIES)}
            return {name: value for name, value in env.items() if name not in removed} | {
                "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
                "KAGGLE_USERNAME": self.username,
                "KAGGLE_KEY": self.key,
                "KAGGLE_CONFIG_DIR": home,
                "HOME": home,
                **dict.fromkeys(_PROXIES, self.local),
                "no_proxy": "",
                "NO_PROXY": "",
            }
        api_environment = env.get("KAGGLE_API_ENVIRONMENT", "PROD")
        if api_environment not in ("PROD", "LOCALHOST"):
            raise UsageError(
                f"KAGGLE_API_ENVIRONMENT is '{api_environment}', which Kaggle's client treats as the real Kaggle",
                code="kaggle-environment-unknown",
                hint="unset it, or use --to local for a Kaggle on this machine",
            )
        if api_environment == "PROD" and env.get(GUARD):
            raise UsageError(
                f"{GUARD} is set, which blocks the real Kaggle",
                code="kaggle-blocked",
                hint=f"use --to local, or unset {GUARD}",
            )
        return env


class ClientSession:
    """Kaggle's client in its own process, started on first use and again after a failure."""

    def __init__(
        self, endpoint: KaggleEndpoint, *, env: Mapping[str, str] | None = None, python: str = sys.executable
    ) -> None:
        self._endpoint = endpoint
        self._env = dict(env) if env is not None else processes.copy_environment()
        self._python = python
        self._home = tempfile.TemporaryDirectory(prefix="offline-kit-")
        self._lock = threading.Lock()
        self._connection: _WorkerConnection | None = None
        self._closed = False

    def close_session(self) -> None:
        """End the process for good: calls of other threads fail, and no new process is started."""
        with self._lock:
            connection, self._connection, self._closed = self._connection, None, True
        if connection:
            connection.end_process()
        self._home.cleanup()

    def fetch_account(self) -> Account:
        """Log in, if necessary, and return the account."""
        return self._ensure_login().account

    @property
    def site_url(self) -> str:
        """The address of this server's pages."""
        return self._endpoint.local or "https://www.kaggle.com"

    def send_request(
        self, op: str, request: Mapping[str, Any], *, deadline: float, show_size: Advance = ignore_progress
    ) -> Any:
        """Return the answer to a request; time out after `deadline` seconds without a sign of life.

        `show_size` gets the bytes of a download so far.

        Raises RefusedError with Kaggle's own words, NoResponseError, UnreachableError or NotLoggedInError. An expired
        login is renewed once.
        """
        for is_renewed in (False, True):
            connection = self._ensure_login()
            try:
                # The worker has its own timeout; it is killed only if that does not work.
                answer = connection.send_request(
                    {"op": op, "silence": deadline, **request}, 1 + 1.2 * deadline, show_size
                )
            except NoResponseError:
                self._discard_worker(connection)
                raise
            try:
                return _unwrap_answer(answer, str(request.get("method", op)))
            except RefusedError as refusal:
                if refusal.status != 401:
                    raise
                if is_renewed:
                    raise NotLoggedInError(
                        "Kaggle rejected the credentials", hint=_LOG_IN, details=(refusal.what,)
                    ) from refusal
                self._discard_worker(connection)
        raise AssertionError("unreachable")

    def _ensure_login(self) -> "_WorkerConnection":
        with self._lock:
            if self._closed:
                raise OutsideError(
                    "the connection to Kaggle was closed", code="kaggle-session-closed", hint=_RETRY_HINT
                )
            if self._connection is None:
                env = self._endpoint.build_environment(self._env, self._home.name)
                connection = _WorkerConnection([self._python, "-P", str(_WORKER)], env)
                try:
                    connection.account = self._log_in(connection)
                except BaseException:
                    connection.end_process()
                    raise
                self._connection = connection
            return self._connection

    def _log_in(self, connection: "_WorkerConnection") -> Account:
        answer = _unwrap_answer(connection.send_request({"op": "login"}, LOGIN_SECONDS), "the login")
        if self._endpoint.local and not answer["endpoint"].startswith("http://localhost"):
            raise OutsideError(
                f"Kaggle's client {answer['version']} would use {answer['endpoint']} instead of the local Kaggle",
                code="kaggle-client-incompatible",
                hint="pip install 'kaggle==2.2.5'",
            )
        if not answer["username"]:
            raise NotLoggedInError(
                "Kaggle's client does not report an account for the credentials", hint=_LOG_IN
            )
        return Account(
            username=answer["username"],
            auth_method=answer["method"],
            ignored_token_source=answer["dropped"],
            server_name="the local Kaggle" if self._endpoint.local else "Kaggle",
        )

    def _discard_worker(self, connection: "_WorkerConnection") -> None:
        """End this process; another thread may have replaced it already."""
        with self._lock:
            if self._connection is connection:
                self._connection = None
        connection.end_process()


class _WorkerConnection:
    """One worker process; what it answers to a request comes through a queue of its own."""

    account: Account

    def __init__(self, argv: list[str], env: Mapping[str, str]) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = processes.start_conversation(argv, env=env, errors=self._stderr)
        self._numbers = itertools.count()
        self._queues: dict[int, SimpleQueue[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self._has_ended = False
        threading.Thread(target=self._read_messages, daemon=True).start()

    def send_request(
        self, request: Mapping[str, Any], deadline: float, show_size: Advance = ignore_progress
    ) -> dict[str, Any]:
        """Return what the worker answers to a request; raises NoResponseError after so long a silence."""
        messages: SimpleQueue[dict[str, Any]] = SimpleQueue()
        with self._lock:
            number = next(self._numbers)
            self._queues[number] = messages
            if self._has_ended:
                messages.put({})
            with suppress(OSError, ValueError):  # `_read_messages` reports a process that has ended
                if self._process.stdin:
                    self._process.stdin.write(json.dumps({"id": number, **request}).encode() + b"\n")
                    self._process.stdin.flush()
        try:
            while message := messages.get(timeout=deadline):
                if "so_far" not in message:
                    return message
                show_size(message["so_far"])
        except Empty as error:
            method = request.get("method", request["op"])
            raise NoResponseError(
                f"Kaggle did not answer '{method}' within {deadline:.0f} s", hint=_RETRY_HINT
            ) from error
        finally:
            with self._lock:
                del self._queues[number]
        raise NoResponseError("Kaggle's client exited during a request", hint=_RETRY_HINT)

    def end_process(self) -> None:
        """End the process; pending requests fail."""
        processes.end_process(self._process, grace=0.0)
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                if stream:
                    stream.close()

    def _read_messages(self) -> None:
        with suppress(OSError, ValueError):
            for line in self._process.stdout or ():
                message = json.loads(line)
                if messages := self._queues.get(message.pop("id")):
                    messages.put(message)
        with self._lock:
            self._has_ended = True
            for messages in self._queues.values():
                messages.put({})


def _unwrap_answer(answer: dict[str, Any], method: str) -> Any:
    if "answer" in answer:
        return answer["answer"]
    kind, message = answer["kind"], _clean_message(str(answer["message"]))
    if kind == "http":
        raise build_refusal(message, answer["status"], answer["after"])
    if kind == "login":
        raise NotLoggedInError("there are no valid credentials for Kaggle", hint=_LOG_IN, details=(message,))
    if kind == "stale":
        hint = f"renew or remove it ('{answer['source']}'): Kaggle's client prefers it to a valid key"
        raise NotLoggedInError(message, hint=hint)
    if kind == "unsent":
        raise UnreachableError("Kaggle cannot be reached", hint=_RETRY_HINT, details=(message,))
    if kind == "missing":
        raise OutsideError(
            f"Kaggle's client cannot be imported: {message}",
            code="kaggle-client-missing",
            hint="pip install --upgrade 'kaggle>=2.2.4' six",
        )
    if kind == "huge":
        raise OutsideError(
            f"the answer to '{method}' is too large: {message}",
            code="kaggle-answer-too-large",
            hint=_RETRY_HINT,
        )
    if kind == "other":
        raise OutsideError(
            f"Kaggle's client failed at '{method}'",
            code="kaggle-client-failed",
            hint="pip install --upgrade kaggle",
            details=(message,),
        )
    problems = {
        "silent": f"Kaggle did not answer '{method}' in time",
        "link": f"the download link of '{method}' does not work",
    }
    problem = problems.get(kind, f"the answer to '{method}' was lost or damaged")
    raise NoResponseError(problem, hint=_RETRY_HINT, details=(message,))


def _clean_message(raw_message: str) -> str:
    """Return a message as one short line, without secrets and terminal control characters."""
    words = " ".join(make_printable(redact_urls(raw_message[:_MAX_READ])).split())
    return words if len(words) <= _MAX_SHOWN else f"{words[:_MAX_SHOWN]} ..."


def build_refusal(message: str, status: int, after: float | None = None) -> RefusedError:
    """Return the error for a refusal, in Kaggle's words; callers that know what it is about give it another hint."""
    hints = {
        400: "fix what Kaggle names and run the same command again",
        401: _LOG_IN,
        403: "check the account's permissions, and that earlier uploads are ready; then run the same command again",
        404: "check the name in the configuration",
        409: "choose another slug or title in the configuration",
        429: "rate-limited by Kaggle: run the same command again later",
    }
    hint = _RETRY_HINT if status >= 500 else hints.get(status, "see Kaggle's message above")
    return RefusedError(f"Kaggle says: {_clean_message(message)}", hint=hint, status=status, after=after)
