"""Hooks in every Python process and command of a run that is recorded or replayed.

`install_hooks` writes a folder that child processes find by PYTHONPATH and PATH; `activate_hooks` arms one process.
The variables OFFLINE_KIT_RECORDER and OFFLINE_KIT_REPLAY say which of the two it is. A process that is recorded logs
what audit hooks show (https://docs.python.org/3/library/audit_events.html): files opened, folders listed, processes
started, hosts contacted. Files that libraries open in C (cv2, pyarrow) they do not see. Modules of libraries are
changed when they are imported: requests, secrets, logins, questions.
"""

import functools
import importlib.util
import os
import re
import shutil
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any, NoReturn
from urllib.parse import urlsplit

from . import kit_recording
from .kit_runtime import KitError

_SITECUSTOMIZE = '''"""Activates offline-kit's hooks in this process, then runs the environment's own sitecustomize."""
import sys

_hooks = __file__.rpartition("sitecustomize")[0].rstrip("/\\\\")
try:
    from offline_kit_runtime.MODULE import FUNCTION

    FUNCTION()
except Exception:  # a Python older than 3.10, or not the one that these files are for: its program runs without hooks
    pass
_all, sys.path[:] = list(sys.path), [folder for folder in sys.path if folder.rstrip("/\\\\") != _hooks]
_own = sys.modules.pop("sitecustomize", None)
try:
    import sitecustomize
except ImportError:
    sys.modules["sitecustomize"] = _own
finally:
    sys.path[:] = _all
'''
_PROXY_VARIABLES = [
    case(f"{kind}_proxy") for kind in ("http", "https", "all") for case in (str.lower, str.upper)
]
_NOT_THE_USERS = re.compile(
    r"[\\/](site-packages|dist-packages|\.ipython|\.jupyter|ipykernel_\w+|\.local[\\/]share[\\/]jupyter)[\\/]"
)
_handlers: dict[str, Callable[..., None]] = {}
"""What is called for which audit event, with the event's arguments."""
_logged: set[tuple[str, ...]] = set()
_ports_of_names: set[int] = set()
_running = threading.local()


def install_hooks(scratch: Path) -> None:
    """Write the hooks below `scratch` and let child processes find them; does not activate this process."""
    hooks = scratch / "hooks"
    package = hooks / "offline_kit_runtime"
    package.mkdir(parents=True, exist_ok=True)
    for path in Path(__file__).parent.glob("kit_*.py"):
        shutil.copyfile(path, package / path.name)
    (package / "__init__.py").write_text("")  # the real one imports what most processes do not need
    write_sitecustomize(hooks, "kit_hooking", "activate_hooks")
    if os.name == "posix":
        from . import kit_commands

        kit_commands.write_stand_ins(hooks)
    if kit_recording.REPLAY in os.environ:
        for name in _PROXY_VARIABLES:
            os.environ.pop(name, None)
    for name, folder in (("PYTHONPATH", hooks), ("PATH", hooks / "bin")):
        # An empty entry is the current folder. Kaggle's PYTHONPATH begins with one
        # (https://github.com/Kaggle/docker-python/blob/main/Dockerfile.tmpl).
        entries = os.environ[name].split(os.pathsep) if os.environ.get(name) else []
        os.environ[name] = os.pathsep.join(
            [str(folder), *(entry for entry in entries if entry != str(folder))]
        )


def write_sitecustomize(hooks: Path, module: str, function: str) -> None:
    """Let each Python process that finds `hooks` first call a function of the runtime in there."""
    text = _SITECUSTOMIZE.replace("MODULE", module).replace("FUNCTION", function)
    (hooks / "sitecustomize.py").write_text(text)


def activate_hooks() -> None:
    """Record or replay what this process does, as the variables say; nothing without them; safe to call again."""
    is_active = any(type(finder).__name__ == _PatchingFinder.__name__ for finder in sys.meta_path)
    if is_active or not {kit_recording.RECORDER, kit_recording.REPLAY} & set(os.environ):
        return
    if "kaggle_secrets" not in sys.modules and not importlib.util.find_spec("kaggle_secrets"):
        # Outside Kaggle, secrets are variables.
        methods = {"get_secret": lambda _self, label: os.environ.get(label, "")}
        sys.modules["kaggle_secrets"] = secrets = ModuleType("kaggle_secrets")
        vars(secrets)["UserSecretsClient"] = type("UserSecretsClient", (), methods)
    patches = _REPLAY_PATCHES if kit_recording.REPLAY in os.environ else _RECORD_PATCHES
    sys.meta_path.insert(0, _PatchingFinder(patches))
    for name in set(patches) & set(sys.modules):
        patches[name](sys.modules[name])
    if kit_recording.REPLAY in os.environ:
        _report_hosts()
        return
    start_audit()
    _listen("builtins.input", _refuse_input)
    # The kernel puts its own methods into `builtins.input` and `getpass.getpass` for each cell
    # (IPythonKernel._forward_input, https://github.com/ipython/ipykernel/blob/main/ipykernel/ipkernel.py).
    if (ipython := sys.modules.get("IPython")) and hasattr(ipython.get_ipython(), "kernel"):
        for name in ("raw_input", "getpass"):
            setattr(type(ipython.get_ipython().kernel), name, _refuse_prompt)
    if _is_pip():
        # What it installs, with addresses and hashes (https://pip.pypa.io/en/stable/reference/installation-report/).
        report = f"{os.environ.get(kit_recording.CELL, 0)}-{os.getpid()}-{time.time_ns()}.json"
        os.environ["PIP_REPORT"] = str(Path(os.environ[kit_recording.RECORDER], "pip", report))


def _is_pip() -> bool:
    programs = [PurePath(word).name for word in sys.orig_argv[:4]]
    return any(re.fullmatch(r"pip[\d.]*|__pip-runner__\.py", program) for program in programs)


def start_audit() -> None:
    """Log files, folders, processes and hosts of this process from now on."""
    _listen("subprocess.Popen", lambda program, words, *_: _log_process(words or [program]))
    _listen("os.exec", lambda program, words, *_: _log_process(words or [program]))
    _listen("os.system", lambda line: _log_process(["/bin/sh", "-c", line]))
    if not _is_pip():  # its files and hosts are those of packages
        _listen("open", _log_open)
        _listen("os.listdir", lambda path: _log_path("list", path or "."))
        _listen("os.scandir", lambda path: _log_path("list", path or "."))
        _listen("socket.getaddrinfo", _log_look_up)
        _listen("socket.connect", _log_connection)


def _listen(event: str, handler: Callable[..., None]) -> None:
    if not _handlers:
        sys.addaudithook(_dispatch)
    _handlers[event] = handler


def _dispatch(event: str, arguments: tuple[Any, ...]) -> None:
    handler = _handlers.get(event)
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
    folders = {
        str(folder): name for name, folder in kit_recording.root_folders().items() if name != "scratch"
    }
    ignored = dict.fromkeys((str(kit_recording.root_folders()["scratch"]), sys.prefix, sys.base_prefix), "")
    return {folder + os.sep: name for folder, name in (ignored | folders).items()}


def _log_path(event: str, path: Any, mode: str = "r") -> None:
    if isinstance(path, int):
        return
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
        kit_recording.log_event(event, path=named, **({"mode": mode} if event == "open" else {}))


def _log_open(path: Any, mode: str | None, flags: int) -> None:
    writes = set(mode or "") & set("wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR)
    _log_path("open", path, mode="w" if writes else "r")


def _log_process(words: Any) -> None:
    words = [words] if isinstance(words, (str, bytes)) else words
    kit_recording.log_event("process", words=[kit_recording.redact(os.fsdecode(word)) for word in words])


def _log_look_up(host: Any, port: Any, *_: Any) -> None:
    _ports_of_names.add(port)
    if name := _is_new_host(host):
        kit_recording.log_event("connect", host=name, port=port)


def _log_connection(_socket: Any, address: Any) -> None:
    # Where a name was looked up for this port, that name has been logged.
    if isinstance(address, tuple) and address[1] not in _ports_of_names and _is_new_host(address[0]):
        kit_recording.log_event("connect", host=address[0], port=address[1])


def _report_hosts() -> None:
    """Report every host that this process of a replay looks up: nothing of it was recorded."""
    look_up = socket.getaddrinfo

    @functools.wraps(look_up)
    def report_and_look_up(host: Any, *arguments: Any, **options: Any) -> Any:
        if name := _is_new_host(host):
            kit_recording.report_miss("host", name)
        return look_up(host, *arguments, **options)

    # No audit hook, which slows every call of `id`, as `copy.deepcopy` has many.
    socket.getaddrinfo = report_and_look_up


@functools.cache
def _proxy_hosts() -> set[str]:
    proxies = {os.environ.get(name, "") for name in _PROXY_VARIABLES}
    return {urlsplit(proxy).hostname or "" for proxy in proxies}


def _is_new_host(host: Any) -> str:
    """Return the name of a host, or "" if it is this machine, a proxy, or was returned before."""
    name = host.decode() if isinstance(host, bytes) else host or "localhost"
    if kit_recording.is_loopback(name) or name in _proxy_hosts() or ("connect", name) in _logged:
        return ""
    _logged.add(("connect", name))
    return str(name)


class _PatchingFinder:
    """Patches modules when they are imported: most processes import none of them."""

    def __init__(self, patches: Mapping[str, Callable[[Any], None]]) -> None:
        self.patches = patches

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return what the other finders return, with a loader that patches."""
        patch = self.patches.get(name)
        if patch is None:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_patch(module: Any) -> None:
                execute(module)
                patch(module)

            spec.loader.exec_module = execute_and_patch  # type: ignore[method-assign]
        return spec


def _record_http(module: Any) -> None:
    # Imported here, because most processes ask no server.
    from . import kit_urls

    _listen("http.client.send", kit_urls.note_sent)
    kit_urls.record_http(module)


def _replay_http(module: Any) -> None:
    from . import kit_urls

    kit_urls.replay_http(module)


def _record_secrets(module: Any) -> None:
    client = module.UserSecretsClient
    read_secret = client.get_secret

    def get_secret(self: Any, label: str) -> Any:
        kit_recording.log_event("secret", name=label)
        value = read_secret(self, label)
        # By this name `redact` knows it, in child processes too.
        os.environ["OFFLINE_KIT_SECRET_" + re.sub(r"\W", "_", label)] = str(value)
        return value

    client.get_secret = get_secret


def _empty_secrets(module: Any) -> None:
    client = module.UserSecretsClient
    client.__init__ = lambda _self: None  # the real one wants a token of the session
    client.get_secret = lambda _self, _label: ""


def _skip_logins(module: Any) -> None:
    for name in ("login", "notebook_login", "interpreter_login"):
        setattr(module, name, lambda *_args, **_kwargs: True)


def _restore_at_download(module: Any) -> None:
    for name in ("hf_hub_download", "snapshot_download"):
        download = vars(module).get(name)
        if getattr(download, "__module__", "") == module.__name__:
            setattr(module, name, _restore_before(download))


def _restore_before(download: Callable[..., Any]) -> Callable[..., Any]:
    """Let huggingface_hub find what it downloaded to a `local_dir`, from when it is called on.

    Before, the folder may not exist: a cell that makes it, or clones a repository there, would fail.
    """

    @functools.wraps(download)
    def restore_and_download(*arguments: Any, **options: Any) -> Any:
        if options.get("local_dir"):
            kit_recording.restore_files(options["local_dir"])
        return download(*arguments, **options)

    return restore_and_download


def _report_missing_packages(module: Any) -> None:
    error = module.DistributionNotFound
    initialize = error.__init__

    def report_and_initialize(self: Any, message: str, *others: Any) -> None:
        initialize(self, message, *others)
        _, is_missing, requirement = message.partition("No matching distribution found for ")
        if is_missing:
            kit_recording.report_miss("package", f"package {requirement}")

    error.__init__ = report_and_initialize


def _refuse_getpass(module: Any) -> None:
    module.getpass = _refuse_prompt


def _refuse_input(*_prompt: Any) -> None:
    # A terminal or /dev/null; `yes | python x.py` has its answers.
    if stat.S_ISCHR(os.fstat(0).st_mode):
        _refuse_prompt()


def _refuse_prompt(*_args: Any, **_kwargs: Any) -> NoReturn:
    what = "this run asks a person for input, which a recording cannot answer"
    raise KitError(what, code="recording-prompted")


_RECORD_PATCHES: Mapping[str, Callable[[Any], None]] = {
    "http.client": _record_http,
    "kaggle_secrets": _record_secrets,
    "getpass": _refuse_getpass,
}
_REPLAY_PATCHES: Mapping[str, Callable[[Any], None]] = {
    "http.client": _replay_http,
    "kaggle_secrets": _empty_secrets,
    "huggingface_hub": _skip_logins,
    "huggingface_hub.file_download": _restore_at_download,
    "huggingface_hub._snapshot_download": _restore_at_download,
    "kagglehub": _skip_logins,
    "pip._internal.exceptions": _report_missing_packages,
    "wandb": _skip_logins,
}
