"""Read how the run of a script ended: plain Python leaves its traceback in the log, and no executed copy."""

import re
from dataclasses import dataclass

from offline_kit.notebook.runtime.kit_runtime import KitError, find_failure

SCRIPT_FOLDER = "/kaggle/src"
"""Read-only on Kaggle, and without the files that were next to the script; the run starts in /kaggle/working."""
SCRIPT = f"{SCRIPT_FOLDER}/script.py"  # Kaggle gives every script this name
_TRACEBACK = "Traceback (most recent call last):"
# Of all tracebacks in a log, only that of the error which ended the script begins in its module: those of threads,
# processes and loggers begin elsewhere. A SyntaxError has none. A progress bar may be on the same line.
_BEGINNING = re.compile(
    rf'{re.escape(_TRACEBACK)}\n  File "[^"\n]*{SCRIPT}", line \d+, in <module>$'
    rf'|^  File "[^"\n]*{SCRIPT}", line \d+$',
    re.MULTILINE,
)
_LINE = re.compile(rf'^  File "[^"\n]*{SCRIPT}", line (\d+)', re.MULTILINE)
# https://docs.python.org/3/library/traceback.html
_CAUSE = "The above exception was the direct cause of the following exception:"
_CONTEXT = "During handling of the above exception, another exception occurred:"
_RAISED = re.compile(r"(?<=\n)[^\W\d].*", re.DOTALL)  # frames are indented
_AT_EXIT = re.compile(r"\nException ignored in")


@dataclass(frozen=True, kw_only=True)
class ScriptFailure:
    """The error that ended a script."""

    line: int  # of the script, from 1: the innermost that the traceback names
    error: tuple[str, ...]  # the lines of its traceback, after those of its causes
    message: str  # the error, then its causes, without frames
    failure: KitError | None  # what the runtime reported
    start: int  # where the error begins in the log; before it is what the script and its processes printed


def find_script_failure(log: str) -> ScriptFailure | None:
    """Return the error in a script's log; None if it ended without one, as `sys.exit` and a killed process do."""
    beginnings = list(_BEGINNING.finditer(log))
    if not beginnings:
        return None
    start = beginnings[-1].start()
    last = _AT_EXIT.split(log[start:])[0].rstrip()
    tracebacks = [last]
    while log[:start].rstrip().endswith((_CAUSE, _CONTEXT)):
        earlier = log.rfind(_TRACEBACK, 0, start)
        if earlier < 0:
            break
        tracebacks.append(log[earlier:start].rstrip().removesuffix(_CAUSE).removesuffix(_CONTEXT).rstrip())
        start = earlier
    raised = [matched[0] for text in tracebacks if (matched := _RAISED.search(text))]
    return ScriptFailure(
        line=int(_LINE.findall(last)[-1]),
        error=tuple(line for text in reversed(tracebacks) for line in text.splitlines()),
        message="\n".join(raised),
        failure=find_failure(log),
        start=start,
    )
