"""Disable commands and calls that fail in the image or would undo what the setup cell does."""

import ast
import re
from collections.abc import Iterator

from offline_kit.adopt import cell_edits, shell
from offline_kit.adopt.findings import CellEdit, ExternalNeed, NeedKind, Outcome
from offline_kit.adopt.notebook_code import node_span
from offline_kit.adopt.notebook_files import (
    INPUT,
    MOUNT,
    SHOWN_INPUT,
    InspectedNotebook,
    change_folder,
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
        for span, stand_in, reason in (*_find_commands(notebook, number), *_find_calls(notebook, number)):
            text, line = read.source[slice(*span)], read.line_number(span[0])
            need = ExternalNeed(kind=NeedKind.FILE, cell=number, line=line, text=text)
            edit = CellEdit(cell=number, span=span, text=stand_in)
            yield need.resolve(Outcome.SWITCHED_OFF, reason), edit


def _find_commands(notebook: InspectedNotebook, number: int) -> Iterator[tuple[tuple[int, int], str, str]]:
    """Yield the spans of such commands in shell lines and scripts, with replacement and reason."""
    read = notebook.code.reads[number]
    for magic in read.magics:
        folder = notebook.folder_at(number, read.line_number(magic.start))
        for offset, text in shell.shell_texts(read, magic):
            for command in shell.split_commands(text, notebook.code.strings):
                program, *words = command.words
                if program == "cd" and words:
                    folder = change_folder(folder, words[0])
                paths = [join_run_path(folder, word) for word in words if not word.startswith("-")]
                if _undoes_setup(program, paths, notebook):
                    yield (offset + command.start, offset + command.end), "true", _LAID_OUT


def _find_calls(notebook: InspectedNotebook, number: int) -> Iterator[tuple[tuple[int, int], str, str]]:
    """Yield the same for calls in Python."""
    code = notebook.code
    for node in code.walk(number):
        if not isinstance(node, ast.Call):
            continue
        name, owner = ast.unparse(node.func), None
        if isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if node.func.attr in ("mkdir", "unlink") and not name.startswith("os."):
                name = f"os.{node.func.attr}"  # of a pathlib.Path
        if name not in _MOUNT_COMMANDS:
            continue
        arguments = node.args[1:2] if name in ("os.symlink", "os.link") else node.args[:1]
        path = code.strings.value(owner) or "".join(map(code.strings.value, arguments))
        if not path or "*" in path:
            continue
        is_mount = _is_mounts_folder(join_run_path("", path))
        paths = [join_run_path(notebook.folder_at(number, node.lineno), path)]
        if is_mount or _undoes_setup(name, paths, notebook):
            reason = _STAYS_MOUNTED if is_mount else _LAID_OUT
            yield node_span(code.reads[number], node), "None", reason


def _is_mounts_folder(path: str) -> bool:
    return path.rstrip("/") in (INPUT, "/kaggle")


def _undoes_setup(action: str, paths: list[str], notebook: InspectedNotebook) -> bool:
    """Whether a command or call changes the mounts, or touches nothing but placed files."""
    if not paths:
        return False
    if action in _MOUNT_COMMANDS and _is_mounts_folder(paths[-1]):
        return True
    if action in _DELETING:
        return all(path in notebook.laid_out for path in paths)
    return action in _MAKING and all(
        any(f"{placed}/".startswith(f"{path}/") for placed in notebook.laid_out) for path in paths
    )


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
