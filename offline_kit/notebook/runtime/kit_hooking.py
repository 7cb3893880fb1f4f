"""Hooks in every Python process and command of a run that is recorded or replayed.

`install_hooks` writes a folder that child processes find by PYTHONPATH and PATH; `activate_hooks` arms one process.
The variables OFFLINE_KIT_RECORDER and OFFLINE_KIT_REPLAY say which of the two it is.
"""

import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Callable
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, NoReturn

from . import kit_auditing
from .kit_recording import CELL, RECORDER, REPLAY, log_event
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
    if REPLAY in os.environ:
        for name in kit_auditing.PROXY_VARIABLES:
            os.environ.pop(name, None)
    for name, folder in (("PYTHONPATH", hooks), ("PATH", hooks / "bin")):
        others = os.environ.get(name, "").split(os.pathsep)
        os.environ[name] = os.pathsep.join(
            [str(folder), *(entry for entry in others if entry not in ("", str(folder)))]
        )
    if str(hooks) not in sys.path:
        sys.path.insert(0, str(hooks))


def write_sitecustomize(hooks: Path, module: str, function: str) -> None:
    """Let each Python process that finds `hooks` first call a function of the runtime in there."""
    text = _SITECUSTOMIZE.replace("MODULE", module).replace("FUNCTION", function)
    (hooks / "sitecustomize.py").write_text(text)


def activate_hooks() -> None:
    """Record or replay what this process does, as the variables say; nothing without them; safe to call again."""
    is_active = any(type(finder).__name__ == _PatchingFinder.__name__ for finder in sys.meta_path)
    if is_active or not {RECORDER, REPLAY} & set(os.environ):
        return
    sys.meta_path.insert(0, _PatchingFinder())
    for name in set(_PATCHES) & set(sys.modules):
        _PATCHES[name](sys.modules[name])
    if RECORDER in os.environ:
        kit_auditing.start_audit()
        if kit_auditing.is_pip():
            # What it installs, with addresses and hashes (https://pip.pypa.io/en/stable/reference/installation-report/).
            report = f"{os.environ.get(CELL, 0)}-{os.getpid()}-{time.time_ns()}.json"
            os.environ["PIP_REPORT"] = str(Path(os.environ[RECORDER], "pip", report))
        kit_auditing.listen("builtins.input", _refuse_input)
        _refuse_kernel_input()
    else:
        kit_auditing.report_hosts()


class _PatchingFinder:
    """Patches the modules of `_PATCHES` when they are imported: most processes import none of them."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return what the other finders return, with a loader that patches."""
        if name not in _PATCHES:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        specs = (finder.find_spec(name, path, target) for finder in others)
        spec = next(filter(None, specs), None)
        if spec is None and name == "kaggle_secrets":  # outside Kaggle
            spec = ModuleSpec(name, _SecretsLoader())
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_patch(module: Any) -> None:
                execute(module)
                _PATCHES[name](module)

            spec.loader.exec_module = execute_and_patch  # type: ignore[method-assign]
        return spec


class _SecretsLoader(Loader):
    """Loads a stand-in for kaggle_secrets, with the variables of the environment as secrets."""

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave the creation to Python."""

    def exec_module(self, module: Any) -> None:
        """Fill the module."""
        methods = {"get_secret": lambda _self, label: os.environ.get(label, "")}
        module.UserSecretsClient = type("UserSecretsClient", (), methods)


def _patch_secrets(module: Any) -> None:
    client = module.UserSecretsClient
    read_secret = client.get_secret

    def get_secret(self: Any, label: str) -> Any:
        log_event("secret", name=label)
        if REPLAY in os.environ:
            return ""
        value = read_secret(self, label)
        # By this name `redact` knows it, in child processes too.
        os.environ["OFFLINE_KIT_SECRET_" + re.sub(r"\W", "_", label)] = str(value)
        return value

    client.get_secret = get_secret
    if REPLAY in os.environ:
        client.__init__ = lambda _self: None  # the real one wants a token of the session


def _patch_http(module: Any) -> None:
    # Imported here, because most processes ask no server.
    from . import kit_urls

    if RECORDER in os.environ:
        kit_auditing.listen("http.client.send", kit_urls.note_sent)
        kit_urls.record_http(module)
    else:
        kit_urls.replay_http(module)


def _skip_logins(module: Any) -> None:
    if REPLAY in os.environ:
        for name in ("login", "notebook_login", "interpreter_login"):
            setattr(module, name, lambda *_args, **_kwargs: True)


def _restore_at_download(module: Any) -> None:
    if REPLAY in os.environ:
        from . import kit_replay

        kit_replay.restore_at_download(module)


def _patch_getpass(module: Any) -> None:
    if RECORDER in os.environ:
        module.getpass = _refuse_prompt


def _refuse_prompt(*_args: Any, **_kwargs: Any) -> NoReturn:
    raise KitError(
        "this run asks a person for input, which a recording cannot answer", code="recording-prompted"
    )


def _refuse_input(*_args: Any) -> None:
    # A terminal or /dev/null; `yes | python x.py` has its answers.
    if stat.S_ISCHR(os.fstat(0).st_mode):
        _refuse_prompt()


def _refuse_kernel_input() -> None:
    # The kernel puts its own methods into `builtins.input` and `getpass.getpass` for each cell
    # (IPythonKernel._forward_input, https://github.com/ipython/ipykernel/blob/main/ipykernel/ipkernel.py).
    if (ipython := sys.modules.get("IPython")) and hasattr(ipython.get_ipython(), "kernel"):
        for name in ("raw_input", "getpass"):
            setattr(type(ipython.get_ipython().kernel), name, _refuse_prompt)


_PATCHES: dict[str, Callable[[Any], None]] = {
    "http.client": _patch_http,
    "kaggle_secrets": _patch_secrets,
    "getpass": _patch_getpass,
    "huggingface_hub": _skip_logins,
    "huggingface_hub.file_download": _restore_at_download,
    "huggingface_hub._snapshot_download": _restore_at_download,
    "kagglehub": _skip_logins,
    "wandb": _skip_logins,
}
