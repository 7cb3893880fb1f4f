"""Which calls of known libraries download weights or data, by their names and arguments alone.

Shared by the checks of a project's code and by `adopt`; both evaluate the expressions of arguments themselves.
"""

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from offline_kit.core import resources

UNKNOWN: Any = object()  # the value of an expression that is not known


class DownloadKind(StrEnum):
    """What a call downloads, which decides how its arguments are read."""

    FILE = "file"
    REPOSITORY = "repository"  # A file, a snapshot or a dataset of a hub, by its repository
    MODEL_ID = "model id"  # A model or tokenizer that a hub knows by an id; a folder's path loads as well
    PRESET = "preset"
    TORCH_HUB = "torch.hub"
    KAGGLE = "kaggle"
    KAGGLE_CLIENT = "kaggle client"
    CORPUS = "corpus"
    OTHER = "other"


@dataclass(frozen=True)
class DownloadCall:
    """Calls that download, whatever their switches say."""

    calls: str
    kind: DownloadKind = DownloadKind.OTHER
    source: tuple[str, int] = ("", 0)  # name and position of the argument that says what is downloaded
    target: tuple[str, int] = ("", 99)  # name and position of the argument that says where it is stored
    detail: str = ""  # the kind more closely: the source on Kaggle ("dataset", ...), the library of a corpus.
    first: str = ""  # pattern of their first argument; empty for any
    instead: str = ""  # how a file or folder is read in its place
    remedy: str = ""
    """What to do about such a call in a project's own code; empty if it is not reported there."""


_WEIGHTS = re.compile(r"(?:^|\.)(?:DEFAULT|\w*_V\d)$|Weights")
_FILE = re.compile(r"[\\/]|\.(?:h5|hdf5|keras|pt|pth|bin|ckpt|safetensors|npz|weights)$")


@dataclass(frozen=True, kw_only=True)
class Switch:
    """An argument of some calls that decides whether weights are downloaded, and its value in one of them."""

    calls: str = ""
    argument: str
    off: str  # its value that downloads nothing
    positions: tuple[int, ...] = ()
    """Its possible positions; the first argument there that is not a number counts."""
    default: str = ""  # its value if it is left out, if that downloads
    unless: tuple[str, ...] = ()  # arguments that decide instead of it
    expression: ast.expr | None = None
    """The argument's value in the call; None if it is left out and its default downloads."""
    is_positional: bool = False

    def applies(self, name: str) -> bool:
        """Whether it is about the call of this full name."""
        return not name.endswith("from_pretrained") and bool(re.fullmatch(self.calls, name))

    def fetches(self, value: Any) -> bool:
        """Whether weights are downloaded; `value` is the value of the expression, or UNKNOWN."""
        if self.expression is None:
            return True
        if value is UNKNOWN:
            return bool(_WEIGHTS.search(ast.unparse(self.expression)))
        if isinstance(value, str):
            names_weights = (
                not self.is_positional or self.argument != "weights" or re.match(r"[A-Z]{3}|imagenet", value)
            )
            return value not in ("", "None") and not _FILE.search(value) and bool(names_weights)
        return value is True


_TABLES = tomllib.loads(resources.data_file("download_calls.toml").read_text(encoding="utf-8"))
REMEDIES: dict[str, str] = {"": "", **_TABLES["remedies"]}


def _read_rows(groups: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the rows of tables, lists as tuples; a group's keys are its rows' defaults."""
    for group in groups:
        for row in group["rows"]:
            values = {key: value for key, value in (group | row).items() if key != "rows"}
            yield {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


_DOWNLOADS = [
    DownloadCall(**{**row, "kind": DownloadKind(row["kind"]), "remedy": REMEDIES[row.get("remedy", "")]})
    for row in _read_rows(_TABLES["downloads"])
]
_SWITCHES = [Switch(**row) for row in _read_rows(_TABLES["switches"])]


def find_download(name: str, first: str) -> DownloadCall | None:
    """Return what a call downloads, by its full name and the text of its first argument ("" if it is unknown)."""
    for download in _DOWNLOADS:
        if re.fullmatch(download.calls, name) and (not download.first or re.fullmatch(download.first, first)):
            return download
    return None


def find_switches(call: ast.Call, name: str) -> Iterator[Switch]:
    """Yield the arguments of a call, by its full name, that decide whether weights are downloaded."""
    keywords = {argument.arg: argument.value for argument in call.keywords if argument.arg}
    has_stars = len(keywords) < len(call.keywords) or any(
        isinstance(argument, ast.Starred) for argument in call.args
    )
    decided: set[str] = set()
    for switch in _SWITCHES:
        if switch.argument in decided or not switch.applies(name):
            continue
        decided.add(switch.argument)
        if switch.argument in keywords:
            yield replace(switch, expression=keywords[switch.argument])
        elif not has_stars and not any(argument in keywords for argument in switch.unless):
            positional = _find_positional(call, switch.positions)
            if positional is not None or switch.default:
                yield replace(switch, expression=positional, is_positional=positional is not None)


def deciding_arguments(name: str) -> dict[str, str]:
    """Return the arguments of a call that decide whether weights are downloaded, each with its value for no download."""
    return {switch.argument: switch.off for switch in reversed(_SWITCHES) if switch.applies(name)}


def _find_positional(call: ast.Call, positions: Sequence[int]) -> ast.expr | None:
    for position in positions:
        if position >= len(call.args):
            break
        node = call.args[position]
        value = node.value if isinstance(node, ast.Constant) else UNKNOWN
        # If the next position can hold it too, this one holds it only with a text or None.
        has_next = position + 1 in positions and position + 1 < len(call.args)
        if type(value) in (int, float) or (has_next and not (value is None or isinstance(value, str))):
            continue
        return node
    return None


def resolve_name(node: ast.expr, names: Mapping[str, str]) -> str:
    """Return the full name of a call, such as "torch.hub.load"; "torchvision.models.?" for one of its functions.

    Empty for names that are not imported.
    """
    if isinstance(node, ast.Attribute):
        prefix = resolve_name(node.value, names)
        return f"{prefix}.{node.attr}" if prefix else ""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and node.args:
        prefix = resolve_name(node.args[0], names)
        return f"{prefix}.?" if prefix else ""
    if isinstance(node, ast.Subscript):
        prefix = resolve_name(node.value, names)
        return f"{prefix.removesuffix('.__dict__')}.?" if prefix.endswith(".__dict__") else ""
    return names.get(node.id, "") if isinstance(node, ast.Name) else ""
