"""Disable commands and calls that fail in the image or would undo what the setup cell does."""

import ast
import re
from collections.abc import Iterator

from offline_kit.adopt import cell_edits, shell
from offline_kit.adopt.findings import CellEdit, ExternalNeed, NeedKind, Outcome
from offline_kit.adopt.notebook_files import (
    INPUT,
    MOUNT,
    SHOWN_INPUT,
    InspectedNotebook,
    join_run_path,
)

_LAID_OUT = "what it is about is laid out by the first cell"
_STAYS_MOUNTED = "what is attached stays mounted"
_DELETING = frozenset({"rm", "shutil.rmtree", "os.remove", "os.unlink"})
"""Commands and calls that delete their paths."""
_MAKING = frozenset({"mkdir", "os.mkdir", "os.makedirs"})
"""Commands and calls that fail if the folder exists."""
_MOUNT_COMMANDS = _DELETING | _MAKING | {"umount", "mount", "ln", "chmod", "chown"}
_MOUNT_COMMANDS |= {"os.symlink", "os.chmod", "os.link", "os.rmdir"}
"""Commands and calls that change the mount points, as Colab importers do."""
_MAPPING = re.compile(r"^\s*DATA_SOURCE_MAPPING\s*=", re.MULTILINE)
"""Begins the download in the cell that Kaggle exports for Colab."""
_Disabled = tuple[ExternalNeed, CellEdit]


def disable_folder_changes(notebook: InspectedNotebook) -> Iterator[_Disabled]:
    """Yield the commands and calls that would delete placed files, or make a folder that exists by then."""
    for number, read in notebook.code.reads.items():
        if _MAPPING.search(read.source):
            # Kaggle's cell for Colab goes; its imports remain, since other cells may use them
            tree = notebook.code.trees.get(number)
            statements = tree.body if tree else []
            imports = [
                ast.unparse(node) for node in statements if isinstance(node, ast.Import | ast.ImportFrom)
            ]
            text = "\n".join(
                [*imports, "pass  # offline-kit: a download of data sources to Colab stood here"]
            )
            need = ExternalNeed(kind=NeedKind.KAGGLE, cell=number, line=1, text="DATA_SOURCE_MAPPING = ...")
            edit = CellEdit(cell=number, span=(0, len(read.source)), text=text)
            yield need.resolve(Outcome.SWITCHED_OFF, _STAYS_MOUNTED), edit
            continue
        for action in shell.list_actions(notebook, number):
            if reason := _find_reason(action, notebook):
                text, line = read.source[slice(*action.span)], read.line_number(action.span[0])
                need = ExternalNeed(kind=NeedKind.FILE, cell=number, line=line, text=text)
                edit = CellEdit(cell=number, span=action.span, text=action.stand_in)
                yield need.resolve(Outcome.SWITCHED_OFF, reason), edit


def _find_reason(action: shell.Action, notebook: InspectedNotebook) -> str:
    """Return why a command or call is disabled: it changes the mounts, or touches only placed files; else ""."""
    name, words, is_call = action.name, action.words, action.stand_in == "None"
    if is_call:
        if name.endswith((".mkdir", ".unlink")):  # of a pathlib.Path
            name = f"os.{name.rpartition('.')[2]}"
        words = words[1:2] if name in ("os.symlink", "os.link") else words[:1]
        words = () if "*" in "".join(words) else words
    paths = [join_run_path(action.folder, word) for word in words if word]
    if not paths or name not in _MOUNT_COMMANDS:
        return ""
    if paths[-1].rstrip("/") in (INPUT, "/kaggle"):
        return _STAYS_MOUNTED if is_call else _LAID_OUT
    laid_out = notebook.laid_out
    if name in _DELETING and all(path in laid_out for path in paths):
        return _LAID_OUT
    is_made = [any(f"{placed}/".startswith(f"{path}/") for placed in laid_out) for path in paths]
    return _LAID_OUT if name in _MAKING and all(is_made) else ""


def disable_magics(notebook: InspectedNotebook) -> Iterator[_Disabled]:
    """Yield the magics that IPython 7 cannot run on Python 3.12 or later; Kaggle's images have both.

    `name = !command` becomes a SyntaxError: IPython 7 looks for an ERRORTOKEN, which Python 3.12 no longer emits
    (https://docs.python.org/3/whatsnew/3.12.html#tokenize). It is replaced by the Python that IPython makes of it.
    `%autoreload` imports `imp`, which 3.12 removed, and has no use in a run from top to bottom.
    """
    image = notebook.image
    ipython = image.public_version("ipython")
    if not ipython.startswith("7.") or tuple(map(int, image.python_minor.split("."))) < (3, 12):
        return
    reason = f"IPython {ipython} cannot run it on Python {image.python_minor}"
    for number, read in notebook.code.reads.items():
        for magic in read.magics:
            original, line = read.source[magic.start : magic.end], read.line_number(magic.start)
            need = ExternalNeed(kind=NeedKind.MAGIC, cell=number, line=line, text=original)
            if magic.before and magic.sign == "!":
                command = MOUNT.sub(SHOWN_INPUT, magic.text.replace("\\\n", " "))
                text = f"{magic.before}get_ipython().getoutput({command!r})"
                need = need.resolve(Outcome.REWRITTEN, reason)
            elif magic.sign == "%" and "autoreload" in magic.text.split()[:2]:
                text = cell_edits.comment_out(original, magic.indent)
                need = need.resolve(Outcome.SWITCHED_OFF, reason)
            else:
                continue
            yield need, CellEdit(cell=number, span=(magic.start, magic.end), text=text)
