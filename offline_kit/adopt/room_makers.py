"""What makes room for a clone or a download, or takes it away: the first cell lays it out, so that this must not."""

import ast
import re
from collections.abc import Iterator, Mapping

from offline_kit.adopt import file_places, literals, shell
from offline_kit.adopt.calls import Code
from offline_kit.adopt.findings import Became, Edit, Found, Kind, Wish
from offline_kit.adopt.outcomes import found_of
from offline_kit.adopt.working_folders import Folders, moved
from offline_kit.notebook.cells import Magic

WHY = "what it is about is laid out by the first cell"
MOUNTED = "what is attached stays mounted"
_OF_MOUNTS = frozenset({"umount", "mount", "ln", "rm", "mkdir", "chmod", "chown"}) | {
    "shutil.rmtree", "os.remove", "os.unlink", "os.symlink", "os.makedirs", "os.mkdir", "os.chmod", "os.link", "os.rmdir",
}  # fmt: skip
"""Commands and calls that would change the mounts themselves, as importers of Colab do."""
_MAPPING = re.compile(r"^\s*DATA_SOURCE_MAPPING\s*=", re.MULTILINE)
"""What Kaggle's own cell for Colab begins its download with."""
_TAKES = frozenset({"rm", "shutil.rmtree", "os.remove", "os.unlink"})
"""Calls and commands that take away what they name."""
_OPENS = frozenset({"mkdir", "os.mkdir", "os.makedirs"})
"""Those that fail where a folder is already."""


def look(code: Code, made: Mapping[str, str], folders: Folders) -> Iterator[tuple[Found, Edit]]:
    """Yield the commands and calls that remove something laid out, or that make a folder which is there by then."""
    for number, read in code.reads.items():
        if _MAPPING.search(read.source):
            yield _importer(code, number)
            continue
        for magic in read.magics:
            line = read.line(magic.start)
            for start, end in _commands(code, number, magic, folders.at(number, line), made):
                yield _off(code, number, (start, end), "true")
        for call, name in _calls(code, number):
            path = _path(call, code)
            if path and _is_mounts([path]) and name in _OF_MOUNTS:
                start = read.offset(call.lineno, call.col_offset)
                end = read.offset(call.end_lineno or call.lineno, call.end_col_offset or 0)
                yield _off(code, number, (start, end), "None", MOUNTED)
            elif path and _is_about(name, [file_places.joined(folders.at(number, call.lineno), path)], made):
                start = read.offset(call.lineno, call.col_offset)
                end = read.offset(call.end_lineno or call.lineno, call.end_col_offset or 0)
                yield _off(code, number, (start, end), "None")


def _is_mounts(paths: list[str]) -> bool:
    """Whether paths lead to the mounts' folder itself."""
    return bool(paths) and file_places.joined("", paths[-1]).rstrip("/") in (file_places.INPUT, "/kaggle")


def _importer(code: Code, number: int) -> tuple[Found, Edit]:
    """Switch off the cell that Kaggle writes for Colab; its imports stay, since other cells may use them."""
    read, tree = code.reads[number], code.trees.get(number)
    kept = [
        ast.unparse(node)
        for node in (tree.body if tree else ())
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    text = "\n".join([*kept, "pass  # offline-kit: a download of data sources to Colab stood here"])
    wish = Wish(kind=Kind.KAGGLE, cell=number, line=1, text="DATA_SOURCE_MAPPING = ...")
    edit = Edit(cell=number, start=0, end=len(read.source), text=text)
    return found_of(wish, Became.SWITCHED_OFF, MOUNTED), edit


def _off(
    code: Code, number: int, place: tuple[int, int], stand_in: str, why: str = WHY
) -> tuple[Found, Edit]:
    read, (start, end) = code.reads[number], place
    wish = Wish(kind=Kind.FILE, cell=number, line=read.line(start), text=read.source[start:end])
    edit = Edit(cell=number, start=start, end=end, text=stand_in)
    return found_of(wish, Became.SWITCHED_OFF, why), edit


def _commands(
    code: Code, number: int, magic: Magic, folder: str, made: Mapping[str, str]
) -> Iterator[tuple[int, int]]:
    """Yield where such commands of a shell line or script stand."""
    read = code.reads[number]
    start, end = (magic.end - len(magic.shell), magic.end) if magic.shell else (read.script or (0, 0))
    for command in shell.commands(read.source[start:end], code.known):
        program, *words = command.words
        if program == "cd" and words:
            folder = moved(folder, words[0])
        named = [file_places.joined(folder, word) for word in words if not word.startswith("-")]
        if _is_about(program, named, made) or (program in _OF_MOUNTS and _is_mounts(named)):
            yield start + command.start, start + command.end


def _is_about(what: str, named: list[str], made: Mapping[str, str]) -> bool:
    """Whether a command or call is about nothing but what is laid out."""
    if what in _TAKES:
        return bool(named) and all(path in made for path in named)
    return (
        what in _OPENS
        and bool(named)
        and all(any(f"{each}/".startswith(f"{path}/") for each in made) for path in named)
    )


def _calls(code: Code, number: int) -> Iterator[tuple[ast.Call, str]]:
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
        if name in _OF_MOUNTS or (
            name in _TAKES | _OPENS and not any(each.arg == "exist_ok" for each in node.keywords)
        ):
            yield node, name


def _path(call: ast.Call, code: Code) -> str:
    own = call.func.value if isinstance(call.func, ast.Attribute) else None
    places_of = call.args[1:2] if ast.unparse(call.func) in ("os.symlink", "os.link") else call.args[:1]
    text = literals.text(own, code.known) or "".join(literals.text(each, code.known) for each in places_of)
    return "" if "*" in text else text
