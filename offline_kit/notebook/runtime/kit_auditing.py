"""Events of Python itself in a recorded run: files opened, folders listed, processes started, hosts contacted.

Audit hooks see what no variable and no patched function shows (https://docs.python.org/3/library/audit_events.html).
Files that libraries open in C (cv2, pyarrow) they do not see.
"""

import functools
import os
import re
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

from .kit_recording import log_event, redact, report_miss, root_folders
from .kit_runtime import KitError

_LOOPBACK = re.compile(r"localhost|.*\.localhost|127\.[\d.]+|::1?|0\.0\.0\.0")
_NOT_THE_USERS = re.compile(
    r"[\\/](site-packages|dist-packages|\.ipython|\.jupyter|ipykernel_\w+|\.local[\\/]share[\\/]jupyter)[\\/]"
)
PROXY_VARIABLES = [
    case(f"{kind}_proxy") for kind in ("http", "https", "all") for case in (str.lower, str.upper)
]
handlers: dict[str, Callable[..., None]] = {}
"""What is called for which event, with the event's arguments."""
_logged: set[tuple[str, ...]] = set()
_ports_of_names: set[int] = set()
_running = threading.local()


def is_loopback(host: str) -> bool:
    """Whether a host, maybe with a port, is this machine."""
    name = urlsplit(f"//{host}").hostname or ""
    return bool(_LOOPBACK.fullmatch(name)) or name == socket.gethostname().lower()


def is_pip() -> bool:
    """Whether this process is pip."""
    programs = [PurePath(word).name for word in sys.orig_argv[:4]]
    return any(re.fullmatch(r"pip[\d.]*|__pip-runner__\.py", program) for program in programs)


def start_audit() -> None:
    """Log files, folders, processes and hosts of this process from now on."""
    listen("subprocess.Popen", lambda program, words, *_: _log_process(words or [program]))
    listen("os.exec", lambda program, words, *_: _log_process(words or [program]))
    listen("os.system", lambda line: _log_process(["/bin/sh", "-c", line]))
    if not is_pip():  # its files and hosts are those of packages
        listen("open", _log_open)
        listen("os.listdir", _log_listing)
        listen("os.scandir", _log_listing)
        listen("socket.getaddrinfo", _log_look_up)
        listen("socket.connect", _log_connection)


def report_hosts() -> None:
    """Report every host that this process of a replay looks up: nothing of it was recorded."""
    look_up = socket.getaddrinfo

    @functools.wraps(look_up)
    def report_and_look_up(host: Any, *arguments: Any, **options: Any) -> Any:
        if name := _is_new_host(host):
            report_miss("host", name)
        return look_up(host, *arguments, **options)

    # No audit hook, which slows every call of `id`, as `copy.deepcopy` has many.
    socket.getaddrinfo = report_and_look_up


def listen(event: str, handler: Callable[..., None]) -> None:
    """Call `handler` for an audit event."""
    if not handlers:
        sys.addaudithook(_dispatch)
    handlers[event] = handler


def _dispatch(event: str, arguments: tuple[Any, ...]) -> None:
    handler = handlers.get(event)
    if handler is None or getattr(_running, "handler", None):  # what a handler itself opens is not the user's
        return
    _running.handler = handler
    try:
        handler(*arguments)
    except KitError:
        raise
    except Exception:  # noqa: BLE001, S110 - an error raised here would end what the program does
        pass
    finally:
        _running.handler = None


@functools.cache
def _named_folders() -> dict[str, str]:
    """Return the folders whose files are logged, with their names, after those within them that are not ("")."""
    folders = {str(folder): name for name, folder in root_folders().items() if name != "scratch"}
    ignored = dict.fromkeys((str(root_folders()["scratch"]), sys.prefix, sys.base_prefix), "")
    return {folder + os.sep: name for folder, name in (ignored | folders).items()}


def _log_path(event: str, path: Any, mode: str = "r") -> None:
    path = os.fsdecode(path)
    path = path if os.path.isabs(path) else os.path.abspath(path)  # noqa: PTH100, PTH117 - called very often
    if (event, path, mode) in _logged:
        return
    _logged.add((event, path, mode))
    normal = os.path.normpath(path) + os.sep
    folder = next(filter(normal.startswith, _named_folders()), "")
    if not _named_folders().get(folder) or _NOT_THE_USERS.search(path):
        return
    source, in_cache = re.subn(r"__pycache__[\\/](\w+)\.[^\\/]*$", r"\1.py", path)
    if in_cache:  # Python reads a module's source only if its bytecode is outdated
        _log_path(event, source)
    elif os.path.exists(path) or mode == "w":  # noqa: PTH110
        named = f"{{{_named_folders()[folder]}}}/{normal[len(folder) :]}".replace(os.sep, "/").rstrip("/")
        log_event(event, path=named, **({"mode": mode} if event == "open" else {}))


def _log_open(path: Any, mode: str | None, flags: int) -> None:
    if not isinstance(path, int):
        writes = set(mode or "") & set("wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR)
        _log_path("open", path, mode="w" if writes else "r")


def _log_listing(path: Any) -> None:
    if not isinstance(path, int):
        _log_path("list", path or ".")


def _log_process(words: Any) -> None:
    words = [words] if isinstance(words, (str, bytes)) else words
    log_event("process", words=[redact(os.fsdecode(word)) for word in words])


def _log_look_up(host: Any, port: Any, *_: Any) -> None:
    _ports_of_names.add(port)
    if name := _is_new_host(host):
        log_event("connect", host=name, port=port)


def _log_connection(_socket: Any, address: Any) -> None:
    # Where a name was looked up for this port, that name has been logged.
    if isinstance(address, tuple) and address[1] not in _ports_of_names and _is_new_host(address[0]):
        log_event("connect", host=address[0], port=address[1])


@functools.cache
def _proxy_hosts() -> set[str]:
    proxies = {os.environ.get(name, "") for name in PROXY_VARIABLES}
    return {urlsplit(proxy).hostname or "" for proxy in proxies}


def _is_new_host(host: Any) -> str:
    """Return the name of a host, or "" if it is this machine, a proxy, or was returned before."""
    name = host.decode() if isinstance(host, bytes) else host or "localhost"
    if is_loopback(name) or name in _proxy_hosts() or ("connect", name) in _logged:
        return ""
    _logged.add(("connect", name))
    return str(name)
