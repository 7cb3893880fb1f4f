"""Hooks in every Python process and command of a run that is recorded or replayed.

`install_hooks` writes a folder that child processes find by PYTHONPATH and PATH; `activate_hooks` arms one process.
The variables OFFLINE_KIT_RECORDER and OFFLINE_KIT_REPLAY say which of the two it is.
"""

import os
import shutil
import stat
import sys
import time
from pathlib import Path
from typing import Any

from . import kit_auditing, kit_patches
from .kit_recording import CELL, RECORDER, REPLAY

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
    if not {RECORDER, REPLAY} & set(os.environ) or not kit_patches.patch_modules():
        return None
    if REPLAY in os.environ:
        return kit_auditing.report_hosts()
    kit_auditing.start_audit()
    kit_auditing.listen("builtins.input", _refuse_input)
    # The kernel puts its own methods into `builtins.input` and `getpass.getpass` for each cell
    # (IPythonKernel._forward_input, https://github.com/ipython/ipykernel/blob/main/ipykernel/ipkernel.py).
    if (ipython := sys.modules.get("IPython")) and hasattr(ipython.get_ipython(), "kernel"):
        for name in ("raw_input", "getpass"):
            setattr(type(ipython.get_ipython().kernel), name, kit_patches.refuse_prompt)
    if kit_auditing.is_pip():
        # What it installs, with addresses and hashes (https://pip.pypa.io/en/stable/reference/installation-report/).
        report = f"{os.environ.get(CELL, 0)}-{os.getpid()}-{time.time_ns()}.json"
        os.environ["PIP_REPORT"] = str(Path(os.environ[RECORDER], "pip", report))
    return None


def _refuse_input(*_prompt: Any) -> None:
    # A terminal or /dev/null; `yes | python x.py` has its answers.
    if stat.S_ISCHR(os.fstat(0).st_mode):
        kit_patches.refuse_prompt()
