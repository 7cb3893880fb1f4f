"""Let pickles find classes that the training script defined in `__main__`: `__main__.Cleaner`.

This file is part of offline-kit and is pasted into the notebooks whose pickles need it. A pickle refers to a
script's own classes as `__main__`, which here is the notebook (https://docs.python.org/3/library/pickle.html).
The script is imported under its own name, so that its `if __name__ == "__main__"` block does not run, and its
classes are added to `__main__`. The notebook's own names stay.
"""

import sys
import traceback
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from offline_kit.notebook.runtime.kit_runtime import KitError, OpenKit, Say, load_object


class AliasedMain(ModuleType):
    """A stand-in for `__main__` with the aliases first and the notebook's names after them."""

    def __init__(self, notebook: ModuleType, aliases: Mapping[str, Any]) -> None:
        super().__init__("__main__", notebook.__doc__)
        self.__dict__.update(aliases)
        self.notebook = notebook

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["notebook"], name)


def alias_main(path: str, names: Sequence[str], kit: OpenKit, say: Say = print) -> None:
    """Import a file of the kit's code and make its names available in `__main__`; safe to call again.

    Raises KitError with the failing line if the file cannot be imported.
    """
    try:
        aliases = {name: load_object(f"{path}:{name}", kit) for name in names}
    except (KitError, ImportError):
        raise
    except (Exception, SystemExit) as error:
        raise KitError(
            f"'{path}' (`main_from`) was run to find {', '.join(map(repr, names))}, and its own top level fails"
            f"{_locate_failure(error, path)}: {type(error).__name__}: {error}",
            code="main-module-failed",
            hint='put the training below `if __name__ == "__main__":`, or move what the pickles need into a module of'
            " its own and name that in `main_from`; then build again",
        ) from error
    main = sys.modules["__main__"]
    notebook = main.notebook if isinstance(main, AliasedMain) else main
    sys.modules["__main__"] = sys.modules["__mp_main__"] = AliasedMain(notebook, aliases)
    say(f"available in __main__, from {path}: {', '.join(names)}")


def _locate_failure(error: BaseException, path: str) -> str:
    """Return the line of the file that an error came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(path)]
    return f" in line {frames[-1].lineno}, `{frames[-1].line}`" if frames else ""
