"""What makes room for a clone or a download, or takes it away: the first cell lays it out, so that this must not."""

import ast
import re
from collections.abc import Iterator, Mapping

from offline_kit.adopt import file_places, literals, shell
from offline_kit.adopt.calls import NotebookCode
from offline_kit.adopt.findings import CellEdit, ExternalNeed, NeedKind, Resolution, ResolvedNeed
from offline_kit.adopt.outcomes import resolve_need
from offline_kit.adopt.working_folders import WorkingFolders, change_folder
from offline_kit.notebook.cells import Magic

_LAID_OUT = "what it is about is laid out by the first cell"
_STAYS_MOUNTED = "what is attached stays mounted"
_MOUNT_COMMANDS = frozenset({"umount", "mount", "ln", "rm", "mkdir", "chmod", "chown"}) | {
    "shutil.rmtree", "os.remove", "os.unlink", "os.symlink", "os.makedirs", "os.mkdir", "os.chmod", "os.link", "os.rmdir",
}  # fmt: skip
"""Commands and calls that would change the mounts themselves, as importers of Colab do."""
_MAPPING = re.compile(r"^\s*DATA_SOURCE_MAPPING\s*=", re.MULTILINE)
"""What Kaggle's own cell for Colab begins its download with."""
_DELETING = frozenset({"rm", "shutil.rmtree", "os.remove", "os.unlink"})
"""Calls and commands that take away what they name."""
_MAKING = frozenset({"mkdir", "os.mkdir", "os.makedirs"})
"""Those that fail where a folder is already."""


def disable_folder_changes(
    code: NotebookCode, made: Mapping[str, str], folders: WorkingFolders
) -> Iterator[tuple[ResolvedNeed, CellEdit]]:
    """Yield the commands and calls that remove something laid out, or that make a folder which is there by then."""
    for number, read in code.reads.items():
        if _MAPPING.search(read.source):
            yield _disable_importer(code, number)
            continue
        for magic in read.magics:
            line = read.line_number(magic.start)
            for start, end in _find_commands(code, number, magic, folders.folder_at(number, line), made):
                yield _switch_off(code, number, (start, end), "true")
        for call, name in _find_calls(code, number):
            path = _call_path(call, code)
            if path and _is_mounts_folder([path]) and name in _MOUNT_COMMANDS:
                start = read.text_offset(call.lineno, call.col_offset)
                end = read.text_offset(call.end_lineno or call.lineno, call.end_col_offset or 0)
                yield _switch_off(code, number, (start, end), "None", _STAYS_MOUNTED)
            elif path and _only_touches(
                name, [file_places.join_run_path(folders.folder_at(number, call.lineno), path)], made
            ):
                start = read.text_offset(call.lineno, call.col_offset)
                end = read.text_offset(call.end_lineno or call.lineno, call.end_col_offset or 0)
                yield _switch_off(code, number, (start, end), "None")


def _is_mounts_folder(paths: list[str]) -> bool:
    """Whether paths lead to the mounts' folder itself."""
    return bool(paths) and file_places.join_run_path("", paths[-1]).rstrip("/") in (
        file_places.INPUT,
        "/kaggle",
    )


def _disable_importer(code: NotebookCode, number: int) -> tuple[ResolvedNeed, CellEdit]:
    """Switch off the cell that Kaggle writes for Colab; its imports stay, since other cells may use them."""
    read, tree = code.reads[number], code.trees.get(number)
    imports = [
        ast.unparse(node)
        for node in (tree.body if tree else ())
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    text = "\n".join([*imports, "pass  # offline-kit: a download of data sources to Colab stood here"])
    wish = ExternalNeed(kind=NeedKind.KAGGLE, cell=number, line=1, text="DATA_SOURCE_MAPPING = ...")
    edit = CellEdit(cell=number, start=0, end=len(read.source), text=text)
    return resolve_need(wish, Resolution.SWITCHED_OFF, _STAYS_MOUNTED), edit


def _switch_off(
    code: NotebookCode, number: int, place: tuple[int, int], stand_in: str, why: str = _LAID_OUT
) -> tuple[ResolvedNeed, CellEdit]:
    read, (start, end) = code.reads[number], place
    wish = ExternalNeed(
        kind=NeedKind.FILE, cell=number, line=read.line_number(start), text=read.source[start:end]
    )
    edit = CellEdit(cell=number, start=start, end=end, text=stand_in)
    return resolve_need(wish, Resolution.SWITCHED_OFF, why), edit


def _find_commands(
    code: NotebookCode, number: int, magic: Magic, folder: str, made: Mapping[str, str]
) -> Iterator[tuple[int, int]]:
    """Yield where such commands of a shell line or script stand."""
    read = code.reads[number]
    start, end = (
        (magic.end - len(magic.shell_command), magic.end) if magic.shell_command else (read.script or (0, 0))
    )
    for command in shell.split_commands(read.source[start:end], code.strings):
        program, *words = command.words
        if program == "cd" and words:
            folder = change_folder(folder, words[0])
        paths = [file_places.join_run_path(folder, word) for word in words if not word.startswith("-")]
        if _only_touches(program, paths, made) or (program in _MOUNT_COMMANDS and _is_mounts_folder(paths)):
            yield start + command.start, start + command.end


def _only_touches(what: str, named: list[str], made: Mapping[str, str]) -> bool:
    """Whether a command or call is about nothing but what is laid out."""
    if what in _DELETING:
        return bool(named) and all(path in made for path in named)
    return (
        what in _MAKING
        and bool(named)
        and all(any(f"{laid_out_path}/".startswith(f"{path}/") for laid_out_path in made) for path in named)
    )


def _find_calls(code: NotebookCode, number: int) -> Iterator[tuple[ast.Call, str]]:
    """Yield the calls of a cell that may be such ones, as `os` and `shutil` name them."""
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
