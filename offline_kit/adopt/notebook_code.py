"""Parse the Python of a notebook's cells once; helpers for its syntax trees."""

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from offline_kit.adopt import literals
from offline_kit.notebook import cells
from offline_kit.notebook.cells import ParsedCell
from offline_kit.project import references


@dataclass(frozen=True, kw_only=True)
class NotebookCode:
    """The Python of a whole notebook, as far as it can be parsed."""

    trees: Mapping[int, ast.Module]
    """By number of the cell."""
    reads: Mapping[int, ParsedCell]
    """All code cells, by number."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Full names of imported names: "AutoModel" for "transformers.AutoModel"."""
    strings: literals.KnownStrings = field(default_factory=lambda: literals.KnownStrings({}))
    """Names with a known string value."""
    flags: Mapping[str, tuple[int, ast.expr]] = field(default_factory=dict)
    """Names that are always True, with the cell and the node of the value."""
    strictly_loaded: frozenset[str] = frozenset()
    """Names of models that load a checkpoint strictly, by `load_state_dict` or Keras' `load_weights`."""
    loosely_loaded: frozenset[str] = frozenset()
    """The same with `strict=False`: weights missing in the checkpoint stay as they were."""

    def imports_package(self, name: str) -> bool:
        """Whether the notebook imports a package or something from it."""
        return any(full.partition(".")[0] == name for full in self.aliases.values())

    def line_text(self, cell: int, line: int) -> str:
        """Return a line of a cell, from 1, without indentation."""
        return self.reads[cell].source.split("\n")[line - 1].strip()


def read_code(sources: Iterable[tuple[int, str]]) -> NotebookCode:
    """Parse the code cells (number, text) of a notebook."""
    reads = {number: cells.parse_cell(source) for number, source in sources}
    trees = {number: tree for number, read in reads.items() if (tree := read.parse_tree()) is not None}
    loads = [
        call for tree in trees.values() for call in find_method_calls(tree, "load_state_dict", "load_weights")
    ]
    loose = {owner_name(call) for call in loads if is_loose_load(call)}
    return NotebookCode(
        trees=trees,
        reads=reads,
        aliases=_collect_aliases(trees.values()),
        strings=literals.known_strings(trees.values()),
        flags=literals.find_true_names(trees),
        strictly_loaded=frozenset(owner_name(call) for call in loads) - loose,
        loosely_loaded=frozenset(loose),
    )


def _collect_aliases(trees: Iterable[ast.Module]) -> dict[str, str]:
    return {name: full for tree in trees for name, full in references.map_imported_names(tree).items()}


def find_method_calls(tree: ast.Module, *names: str) -> list[ast.Call]:
    """Return the calls of methods with these names."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names
    ]


def is_loose_load(call: ast.Call) -> bool:
    """Whether a call that loads a checkpoint tolerates missing weights."""
    if isinstance(call.func, ast.Attribute) and call.func.attr == "load_weights":
        return any(is_constant(find_argument(call, name, 9), True) for name in ("by_name", "skip_mismatch"))
    return is_constant(find_argument(call, "strict", 1), False)


def owner_name(call: ast.Call) -> str:
    """Return the variable whose method is called: "model" for `model.module.load_state_dict(...)`."""
    node: ast.expr = call.func
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def find_argument(call: ast.Call, name: str, place: int) -> ast.expr | None:
    """Return an argument of a call by its name or position."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    plain = [positional for positional in call.args if not isinstance(positional, ast.Starred)]
    return plain[place] if place < len(plain) else None


def setting_name(node: ast.expr | None) -> str:
    """Return the name of a setting: "pretrained" for `CFG.pretrained`, `CFG["pretrained"]` and `pretrained`."""
    if isinstance(node, ast.Subscript):
        return (
            node.slice.value
            if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str)
            else ""
        )
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def is_constant(node: ast.expr | None, value: object) -> bool:
    """Whether an expression is this constant."""
    return isinstance(node, ast.Constant) and node.value is value
