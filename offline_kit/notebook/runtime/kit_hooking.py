"""Hooks in every Python process and command of a run that is recorded or replayed.

`install_hooks` writes a folder that child processes find by PYTHONPATH and PATH; `activate_hooks` arms one process.
The variables OFFLINE_KIT_RECORDER and OFFLINE_KIT_REPLAY say which of the two it is.
"""

import os
import shutil
import sys
from pathlib import Path

_SITECUSTOMIZE = '''"""Activates offline-kit's hooks in this process, then runs the environment's own sitecustomize."""
import sys

_hooks = __file__.rpartition("sitecustomize")[0].rstrip("/\\\\")
try:
    from offline_kit_runtime.kit_hooking import activate_hooks

    activate_hooks()
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
    (hooks / "sitecustomize.py").write_text(_SITECUSTOMIZE)
    for name, folder in (("PYTHONPATH", hooks), ("PATH", hooks / "bin")):
        others = [
            entry for entry in os.environ.get(name, "").split(os.pathsep) if entry not in ("", str(folder))
        ]
        os.environ[name] = os.pathsep.join([str(folder), *others])
    if str(hooks) not in sys.path:
        sys.path.insert(0, str(hooks))


def activate_hooks() -> None:
    """Record or replay what this process does, as the variables say; nothing without them; safe to call again."""
