"""Disable commands and calls that fail in the image or would undo what the setup cell does."""

import ast
import re
from collections.abc import Iterator, Mapping

from offline_kit.adopt import cell_edits, literals, notebook_files, shell
from offline_kit.adopt.findings import (
    CellEdit,
    ExternalNeed,
    FindingResolution,
    NeedKind,
    ResolvedNeed,
    resolve_need,
)
from offline_kit.adopt.notebook_code import NotebookCode
from offline_kit.adopt.notebook_files import WorkingFolders, change_folder
from offline_kit.notebook.cells import Magic, ParsedCell
from offline_kit.project.images import Image

_LAID_OUT = "what it is about is laid out by the first cell"
_STAYS_MOUNTED = "what is attached stays mounted"
_MOUNT_COMMANDS = frozenset({"umount", "mount", "ln", "rm", "mkdir", "chmod", "chown"}) | {
    "shutil.rmtree", "os.remove", "os.unlink", "os.symlink", "os.makedirs", "os.mkdir", "os.chmod", "os.link", "os.rmdir",
}  # fmt: skip
"""Commands and calls that change the mount points, as Colab importers do."""
_MAPPING = re.compile(r"^\s*DATA_SOURCE_MAPPING\s*=", re.MULTILINE)
"""Begins the download in the cell that Kaggle exports for Colab."""
_DELETING = frozenset({"rm", "shutil.rmtree", "os.remove", "os.unlink"})
"""Calls and commands that delete their paths."""
_MAKING = frozenset({"mkdir", "os.mkdir", "os.makedirs"})
"""Calls and commands that fail if the folder exists."""


def disable_folder_changes(
    code: NotebookCode, laid_out: Mapping[str, str], folders: WorkingFolders
) -> Iterator[tuple[ResolvedNeed, CellEdit]]:
    """Yield the commands and calls that would delete placed files, or make a folder that exists by then."""
    for number, read in code.reads.items():
        if _MAPPING.search(read.source):
            yield _disable_importer(code, number)
            continue
        for magic in read.magics:
            line = read.line_number(magic.start)
            for start, end in _find_commands(code, number, magic, folders.folder_at(number, line), laid_out):
                yield _switch_off(code, number, (start, end), "true")
        for call, name in _find_calls(code, number):
            path = _call_path(call, code)
            if path and _is_mounts_folder([path]) and name in _MOUNT_COMMANDS:
                yield _switch_off(code, number, _call_span(read, call), "None", _STAYS_MOUNTED)
            elif path and _only_touches(
                name, [notebook_files.join_run_path(folders.folder_at(number, call.lineno), path)], laid_out
            ):
                yield _switch_off(code, number, _call_span(read, call), "None")


def _call_span(read: ParsedCell, call: ast.Call) -> tuple[int, int]:
    end = read.text_offset(call.end_lineno or call.lineno, call.end_col_offset or 0)
    return read.text_offset(call.lineno, call.col_offset), end


def _is_mounts_folder(paths: list[str]) -> bool:
    """Whether the last path is the folder of the mounts."""
    return bool(paths) and notebook_files.join_run_path("", paths[-1]).rstrip("/") in (
        notebook_files.INPUT,
        "/kaggle",
    )


def _disable_importer(code: NotebookCode, number: int) -> tuple[ResolvedNeed, CellEdit]:
    """Disable the cell that Kaggle exports for Colab; its imports remain, since other cells may use them."""
    read, tree = code.reads[number], code.trees.get(number)
    imports = [
        ast.unparse(node)
        for node in (tree.body if tree else ())
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    text = "\n".join([*imports, "pass  # offline-kit: a download of data sources to Colab stood here"])
    need = ExternalNeed(kind=NeedKind.KAGGLE, cell=number, line=1, text="DATA_SOURCE_MAPPING = ...")
    edit = CellEdit(cell=number, start=0, end=len(read.source), text=text)
    return resolve_need(need, FindingResolution.SWITCHED_OFF, _STAYS_MOUNTED), edit


def _switch_off(
    code: NotebookCode, number: int, span: tuple[int, int], stand_in: str, reason: str = _LAID_OUT
) -> tuple[ResolvedNeed, CellEdit]:
    read, (start, end) = code.reads[number], span
    need = ExternalNeed(
        kind=NeedKind.FILE, cell=number, line=read.line_number(start), text=read.source[start:end]
    )
    edit = CellEdit(cell=number, start=start, end=end, text=stand_in)
    return resolve_need(need, FindingResolution.SWITCHED_OFF, reason), edit


def _find_commands(
    code: NotebookCode, number: int, magic: Magic, folder: str, laid_out: Mapping[str, str]
) -> Iterator[tuple[int, int]]:
    """Yield the spans of such commands in a shell line or script."""
    read = code.reads[number]
    start, end = (
        (magic.end - len(magic.shell_command), magic.end) if magic.shell_command else (read.script or (0, 0))
    )
    for command in shell.split_commands(read.source[start:end], code.strings):
        program, *words = command.words
        if program == "cd" and words:
            folder = change_folder(folder, words[0])
        paths = [notebook_files.join_run_path(folder, word) for word in words if not word.startswith("-")]
        if _only_touches(program, paths, laid_out) or (
            program in _MOUNT_COMMANDS and _is_mounts_folder(paths)
        ):
            yield start + command.start, start + command.end


def _only_touches(action: str, paths: list[str], laid_out: Mapping[str, str]) -> bool:
    """Whether a command or call touches nothing but placed files."""
    if not paths or action not in _DELETING | _MAKING:
        return False
    if action in _DELETING:
        return all(path in laid_out for path in paths)
    return all(any(f"{placed}/".startswith(f"{path}/") for placed in laid_out) for path in paths)


def _find_calls(code: NotebookCode, number: int) -> Iterator[tuple[ast.Call, str]]:
    """Yield calls that may delete or make folders, by their name in `os` or `shutil`."""
    tree = code.trees.get(number)
    for node in ast.walk(tree) if tree else ():
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if (
            isinstance(node.func, ast.Attribute)
            and node.func.attr in ("mkdir", "unlink")
            and name[:3] != "os."
        ):
            name = {"mkdir": "os.mkdir", "unlink": "os.unlink"}[node.func.attr]
        if name in _MOUNT_COMMANDS or (
            name in _DELETING | _MAKING and not any(keyword.arg == "exist_ok" for keyword in node.keywords)
        ):
            yield node, name


def _call_path(call: ast.Call, code: NotebookCode) -> str:
    own = call.func.value if isinstance(call.func, ast.Attribute) else None
    places_of = call.args[1:2] if ast.unparse(call.func) in ("os.symlink", "os.link") else call.args[:1]
    text = literals.string_value(own, code.strings) or "".join(
        literals.string_value(argument, code.strings) for argument in places_of
    )
    return "" if "*" in text else text


def disable_magics(code: NotebookCode, image: Image) -> Iterator[tuple[ResolvedNeed, CellEdit]]:
    """Yield the magics that IPython 7 cannot run on Python 3.12 or later; Kaggle's images have both.

    `name = !command` becomes a SyntaxError: IPython 7 looks for an ERRORTOKEN, which Python 3.12 no longer emits
    (https://docs.python.org/3/whatsnew/3.12.html#tokenize). It is replaced by the Python that IPython makes of it.
    `%autoreload` imports `imp`, which 3.12 removed, and has no use in a run from top to bottom.
    """
    ipython = image.public_version("ipython")
    if not ipython.startswith("7.") or tuple(map(int, image.python_minor.split("."))) < (3, 12):
        return
    reason = f"IPython {ipython} cannot run it on Python {image.python_minor}"
    for number, read in code.reads.items():
        for magic in read.magics:
            if magic.before and magic.sign == "!":
                command = notebook_files.MOUNT.sub(
                    notebook_files.SHOWN_INPUT, magic.text.replace("\\\n", " ")
                )
                text = f"{magic.before}get_ipython().getoutput({command!r})"
                yield _replace_magic(number, read, magic, text, FindingResolution.REWRITTEN, reason)
            elif magic.sign == "%" and "autoreload" in magic.text.split()[:2]:
                text = cell_edits.comment_out(read.source[magic.start : magic.end], magic.indent)
                yield _replace_magic(number, read, magic, text, FindingResolution.SWITCHED_OFF, reason)


def _replace_magic(
    number: int, read: ParsedCell, magic: Magic, text: str, resolution: FindingResolution, reason: str
) -> tuple[ResolvedNeed, CellEdit]:
    original = read.source[magic.start : magic.end]
    need = ExternalNeed(kind=NeedKind.MAGIC, cell=number, line=read.line_number(magic.start), text=original)
    return (
        resolve_need(need, resolution, reason),
        CellEdit(cell=number, start=magic.start, end=magic.end, text=text),
    )
