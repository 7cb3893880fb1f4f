"""Let pickles find the names that the training script defined itself: `__main__.Cleaner`.

This file is part of offline-kit and is pasted into the notebooks whose pickles need it. What a script defines
is pickled under the name `__main__`, which here is the notebook. The script is imported by its own name, so
that its `if __name__ == "__main__"` block does not run, and whoever looks into `__main__` finds its names
first. The notebook's own names stay as they are.
"""

import sys
import traceback
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from offline_kit.notebook.runtime.kit_runtime import KitError, OpenKit, Say, load_object


class AliasedMain(ModuleType):
    """What stands for `__main__`: the lent names, and behind them the notebook."""

    def __init__(self, notebook: ModuleType, aliases: Mapping[str, Any]) -> None:
        super().__init__("__main__", notebook.__doc__)
        self.__dict__.update(aliases)
        self.notebook = notebook

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["notebook"], name)


def alias_main(path: str, names: Sequence[str], kit: OpenKit, say: Say = print) -> None:
    """Import a file of the kit's code and lend these names of it to `__main__`; call it again at any time.

    Raises KitError where the file, when it is imported, does what fails here, with its line.
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
    say(f"lent to pickles, from {path}: {', '.join(names)}")


def _locate_failure(error: BaseException, path: str) -> str:
    """Return the line of the file that an error came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(path)]
    return f" in line {frames[-1].lineno}, `{frames[-1].line}`" if frames else ""
