"""Calls in a notebook's Python that want something from the internet, found in its syntax: nothing is run."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from offline_kit.adopt import known_calls, literals, shell, shell_commands, syntax
from offline_kit.adopt.findings import ARGUMENT, Kind, Wish
from offline_kit.checkpoints import download_calls
from offline_kit.checkpoints.download_calls import UNKNOWN, DownloadCall, DownloadKind, Switch
from offline_kit.notebook import cells
from offline_kit.notebook.cells import Read
from offline_kit.project import references


@dataclass(frozen=True, kw_only=True)
class Code:
    """The Python of a whole notebook, as far as it can be read."""

    trees: Mapping[int, ast.Module]
    """By number of the cell."""
    reads: Mapping[int, Read]
    """By number of the cell; all code cells."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """What imported names stand for: "AutoModel" for "transformers.AutoModel"."""
    known: literals.Names = field(default_factory=lambda: literals.Names({}))
    """Strings that are assigned to a name once and for all."""
    flags: Mapping[str, tuple[int, ast.expr]] = field(default_factory=dict)
    """Names, of variables and class attributes, that are set to True once and for all, and where."""
    loaded: frozenset[str] = frozenset()
    """Names whose `load_state_dict` or Keras' `load_weights` is called, strictly."""
    loosely: frozenset[str] = frozenset()
    """The same with `strict=False`: what the checkpoint lacks stays as it was built."""


def code_of(sources: Iterable[tuple[int, str]]) -> Code:
    """Read the code cells (number, text) of a notebook."""
    reads = {number: cells.read(source) for number, source in sources}
    trees = {number: tree for number, read in reads.items() if (tree := read.tree()) is not None}
    loads = [
        call
        for tree in trees.values()
        for call in syntax.named_calls(tree, "load_state_dict", "load_weights")
    ]
    loose = {syntax.owner(call) for call in loads if syntax.is_loose(call)}
    return Code(
        trees=trees,
        reads=reads,
        aliases=_imported(trees.values()),
        known=literals.constants(trees.values()),
        flags=literals.flags(trees),
        loaded=frozenset(syntax.owner(call) for call in loads) - loose,
        loosely=frozenset(loose),
    )


def wishes(code: Code) -> Iterator[Wish]:
    """Yield what the calls of a notebook want from outside, cell by cell."""
    for number, tree in code.trees.items():
        yield from _Look(code, number, code.reads[number]).all(tree)
    for number, read in code.reads.items():
        if read.foreign == "writefile":
            yield from _written(code, number, read)


def _written(code: Code, number: int, read: Read) -> Iterator[Wish]:
    """Yield the same of a module that a cell writes; its lines may be changed as those of other cells."""
    line, _, body = read.source.lstrip("\n").partition("\n")
    own = cells.read(body)
    tree = own.tree() if line.rstrip().endswith(".py") else None
    if tree is None or own.magics:
        return
    before = len(read.source) - len(body)
    there = replace(code, aliases={**code.aliases, **references.imported_names(tree)})
    for wish in _Look(there, number, own).all(tree):
        if wish.kind is Kind.PRETRAINED:
            place = (wish.start + before, wish.end + before) if wish.start >= 0 else (-1, -1)
            yield replace(
                wish, line=wish.line + read.line(before) - 1, start=place[0], end=place[1], detail=""
            )


def _imported(trees: Iterable[ast.Module]) -> dict[str, str]:
    return {name: full for tree in trees for name, full in references.imported_names(tree).items()}


class _Look:
    """Looks through one cell."""

    def __init__(self, code: Code, number: int, read: Read) -> None:
        self.code = code
        self.number = number
        self.read = read
        self.parents: dict[ast.AST, ast.AST] = {}

    def all(self, tree: ast.Module) -> Iterator[Wish]:
        for node in ast.walk(tree):
            for child in ast.iter_child_nodes(node):
                self.parents[child] = node
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield from self._call(node, self._dotted(node.func))
            elif isinstance(node, ast.FunctionDef):
                yield from self._defaults(node)
            elif isinstance(node, ast.Import | ast.ImportFrom) and self._is_for_secrets(node):
                yield self._wish(Kind.ACCOUNT, node, target=known_calls.SECRETS, detail="import")

    def _call(self, call: ast.Call, name: str) -> Iterator[Wish]:
        if name in known_calls.SHELLS or name == "get_ipython().run_line_magic":
            yield from self._shell(call, name)
        elif name in (*known_calls.COLAB, *known_calls.ACCOUNTS):
            detail = "colab" if name in known_calls.COLAB else ""
            yield self._wish(Kind.ACCOUNT, call, target=name, detail=detail, stand_in="None")
        elif (stand_in := self._secret(call, name)) is not None:
            yield self._wish(Kind.ACCOUNT, call, target=name, detail="secret", stand_in=stand_in)
        elif download := download_calls.find_download(name, self._text(call, "", 0)):
            yield from self._download(call, name, download)
        elif not name.rpartition(".")[2].startswith(("list_", "is_")):  # timm.list_models(pretrained=True)
            name = name or download_calls.dotted(call.func, self.code.aliases)
            known = [*download_calls.switches(call, name), *self._unpacked(call, name)]
            for switch in known or self._likely(call, name):
                yield from self._weights(call, name, switch)

    def _download(self, call: ast.Call, name: str, download: DownloadCall) -> Iterator[Wish]:
        """Yield what a call of the table downloads."""
        source, detail = self._text(call, *download.source), download.detail
        match download.kind:
            case DownloadKind.FILE:
                into = self._text(call, *download.target)
                span = self._span(call.args[0]) if detail == "read" else None
                yield self._wish(
                    Kind.DOWNLOAD, call, target=source or "?", into=into, detail=detail, span=span
                )
            case DownloadKind.REPOSITORY:
                yield from self._repository(call, name, download)
            case DownloadKind.MODEL_ID | DownloadKind.PRESET:
                yield from self._by_id(call, name, download)
            case DownloadKind.KAGGLE:
                into = self._text(call, *download.target)
                yield self._wish(Kind.KAGGLE, call, target=source, into=into, detail=detail)
            case DownloadKind.KAGGLE_CLIENT:
                if any(module.partition(".")[0] == "kaggle" for module in self.code.aliases.values()):
                    yield self._wish(
                        Kind.KAGGLE, call, target=source or "*", into="api", detail=detail, stand_in="None"
                    )
            case DownloadKind.CORPUS:
                source = self._texts(call, download.source[0])
                stand_in = "" if detail == "spacy.load" else "True"
                yield self._wish(Kind.CORPUS, call, target=source, detail=detail, stand_in=stand_in)
            case DownloadKind.TORCH_HUB:
                if self._text(call, "source", 9) != "local":
                    yield self._wish(Kind.HUB, call, target=source, detail="torch.hub")
            case _:
                yield self._wish(Kind.HUB, call, target=source, detail="call", into=download.instead)

    def _repository(self, call: ast.Call, name: str, download: DownloadCall) -> Iterator[Wish]:
        """Yield a file, a snapshot or a data set of a hub that is downloaded by its id."""
        detail, target = download.detail, self._text(call, *download.source) or "*"
        if detail == "file":
            folder, file = self._text(call, "subfolder", 2), self._text(call, "filename", 1) or "*"
            detail = f"file {folder}{'/' if folder else ''}{file}"
        if name != "datasets.load_dataset":
            data = "dataset " if self._text(call, "repo_type", 99) == "dataset" else ""
            into = self._text(call, *download.target)
            yield self._wish(Kind.HUB, call, target=target, into=into, detail=data + detail)
        elif target not in known_calls.BUILDERS:
            place = self._span(syntax.argument(call, *download.source))
            yield self._wish(Kind.HUB, call, target=target, detail=detail, span=place)

    def _secret(self, call: ast.Call, name: str) -> str | None:
        """Return what stands for a call that asks for a secret of the account; None for others."""
        if name.startswith(f"{known_calls.SECRETS}.") and "()" not in name:
            return "None" if not isinstance(self.parents.get(call), ast.Attribute) else None
        used = any(each.startswith(known_calls.SECRETS) for each in self.code.aliases.values())
        return known_calls.ASKS.get(name.rpartition(".")[2]) if used else None

    def _is_for_secrets(self, node: ast.Import | ast.ImportFrom) -> bool:
        """Whether an import is needed by nothing but calls that are stood in for."""
        names = {each.asname or each.name for each in node.names}
        module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        if module != known_calls.SECRETS or len(names) > 1:
            return False
        nodes = [each for tree in self.code.trees.values() for each in ast.walk(tree)]
        calls = [each for each in nodes if isinstance(each, ast.Call) and syntax.owner(each) in names]
        made = [each for each in calls if self._dotted(each.func).startswith(f"{known_calls.SECRETS}.U")]
        return len(made) == sum(isinstance(each, ast.Name) and each.id in names for each in nodes)

    def _by_id(self, call: ast.Call, name: str, download: DownloadCall) -> Iterator[Wish]:
        """Yield what a call loads by its id on a hub."""
        node = syntax.argument(call, *download.source)
        if (
            node is None
            and name == "transformers.pipeline"
            and not any(each.arg is None for each in call.keywords)
        ):
            yield self._wish(Kind.HUB, call, target="", detail="call", into="`model=` names its folder")
        detail = "sentence" if name.endswith(".SentenceTransformer") else "from_pretrained"
        detail = "preset" if download.kind is DownloadKind.PRESET else detail
        targets = literals.texts(node, self.code.known)
        span = self._span(node) if len(targets) == 1 else (-1, -1)
        for target in filter(None, targets):
            yield self._wish(Kind.HUB, call, target=target, detail=detail, span=span)

    def _unpacked(self, call: ast.Call, name: str) -> Iterator[Switch]:
        """Yield arguments that `**CFG` brings, where a setting is called so and is on."""
        if any(each.arg is None for each in call.keywords):
            said = {each.arg for each in call.keywords}
            for argument, off in download_calls.deciding(name).items():
                if argument in self.code.flags and argument not in said:
                    yield Switch(argument=argument, off=off, said=ast.Name(id=argument, ctx=ast.Load()))

    def _likely(self, call: ast.Call, name: str) -> Iterator[Switch]:
        """Yield arguments that mean in calls of one's own what they mean in those of libraries."""
        for each in call.keywords if name != "dict" else ():
            if off := {"pretrained": "False", "encoder_weights": "None"}.get(each.arg or ""):
                yield Switch(argument=each.arg or "", off=off, said=each.value)

    def _weights(self, call: ast.Call, name: str, switch: Switch) -> Iterator[Wish]:
        """Yield an argument that fetches weights; one that is a setting, where that is made."""
        look, value, flag = self, switch.said, syntax.setting(switch.said)
        text = literals.text(value, self.code.known)
        told = (
            value.value if isinstance(value, ast.Constant) else text if text and "*" not in text else UNKNOWN
        )
        if value is not None and switch.off == "False" and flag in self.code.flags:
            number, value = self.code.flags[flag]
            look, told = _Look(self.code, number, self.code.reads[number]), True
        if not switch.fetches(told):
            return
        missing = value is None
        yield look._wish(
            Kind.PRETRAINED,
            value if look is not self else call,
            target=self._text(call, "model_name", 0) or name,
            detail=self._built(call),
            stand_in=self._added(call, switch) if missing else switch.off,
            span=self._behind(call) if missing else look._span(value),
            into=flag if look is not self else switch.argument,
        )

    def _behind(self, call: ast.Call) -> tuple[int, int]:
        """Return the place where one more argument can be written."""
        nodes: list[Any] = [*call.args, *(each.value for each in call.keywords)] or [call.func]
        _, end = self._span(call)
        place = self.read.offset(*max((node.end_lineno, node.end_col_offset) for node in nodes))
        if not 0 <= place < end:
            return -1, -1
        tail = re.sub(r"#[^\n]*", lambda found: " " * len(found[0]), self.read.source[place : end - 1])
        place += max(tail.rfind(sign) for sign in "(),") + 1
        return place, place

    def _added(self, call: ast.Call, switch: Switch) -> str:
        place, _ = self._behind(call)
        sign = self.read.source[place - 1 : place]
        return f"{ {'(': '', ',': ' '}.get(sign, ', ') }{switch.argument}={switch.off}"

    def _defaults(self, node: ast.FunctionDef) -> Iterator[Wish]:
        """Yield `def __init__(self, pretrained=True)`."""
        arguments = [*node.args.posonlyargs, *node.args.args]
        pairs: list[tuple[ast.arg, ast.expr | None]] = [
            *zip(arguments[len(arguments) - len(node.args.defaults) :], node.args.defaults, strict=True),
            *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True),
        ]
        for argument, default in pairs:
            if argument.arg == "pretrained" and syntax.is_said(default, True):
                yield self._wish(
                    Kind.PRETRAINED,
                    node,
                    target=node.name,
                    stand_in="False",
                    span=self._span(default),
                    into="pretrained",
                )

    def _shell(self, call: ast.Call, name: str) -> Iterator[Wish]:
        line = self._command(call, name)
        if not line:
            return
        before = f"{ast.unparse(call.func.value)}." if isinstance(call.func, ast.Attribute) else ""
        stand_in = known_calls.SHELLS.get(name, "None").format(before=before)
        if "CompletedProcess" in stand_in and not before:
            stand_in = ""
        found = [self._of_command(call, words, stand_in) for words in line]
        wished = [wish for wishes in found for wish in wishes]
        if any(wish.detail == ARGUMENT for wish in wished):  # the command stays: one of its words may change
            yield from (wish if wish.detail == ARGUMENT else _untouchable(wish) for wish in wished)
        elif all(found):
            yield from wished
        else:  # of a line that does something else as well nothing can be taken out
            yield from (_untouchable(wish) for wish in wished)

    def _of_command(self, call: ast.Call, words: tuple[str, ...], stand_in: str) -> list[Wish]:
        made = list(shell_commands.of_command(words))
        return [
            self._wish(stand_in=stand_in, node=call, span=self._word(call, each), **each) for each in made
        ]

    def _word(self, call: ast.Call, fields: Mapping[str, Any]) -> tuple[int, int] | None:
        """Return the place of what is one word of a command; None for what is all of it."""
        if fields.get("detail") != ARGUMENT:
            return None
        start, end = self._span(call)
        first, last = shell.place_of(fields["target"], self.read.source[start:end], {})
        return (start + first, start + last) if start >= 0 and first >= 0 else (-1, -1)

    def _command(self, call: ast.Call, name: str) -> list[tuple[str, ...]]:
        if name == "get_ipython().run_line_magic":
            word, rest = self._text(call, "magic_name", 0), self._text(call, "line", 1)
            return [each.words for each in shell.commands(f"{word} {rest}")] if word == "pip" else []
        node = syntax.argument(call, "args", 0) or syntax.argument(call, "command", 0)
        known = literals.Names({**self.code.known, "sys.executable": "python"}, self.code.known.several)
        listed = (
            literals.words(node, known) if not isinstance(node, ast.Name) or node.id not in known else None
        )
        if listed:
            listed = ("pip", *listed) if name.startswith("pip.") else listed
            return [(listed[0].rpartition("/")[2], *listed[1:])]
        lines = literals.texts(node, known) if node is not None else ()
        return [each.words for line in lines for each in shell.commands(line, known)]

    def _dotted(self, node: ast.expr) -> str:
        if isinstance(node, ast.Attribute):
            before = self._dotted(node.value)
            return f"{before}.{node.attr}" if before else ""
        if isinstance(node, ast.Call):
            inner = self._dotted(node.func)
            return f"{inner}()" if inner == "get_ipython" or inner.startswith(known_calls.SECRETS) else ""
        return self.code.aliases.get(node.id, node.id) if isinstance(node, ast.Name) else ""

    def _text(self, call: ast.Call, name: str, place: int) -> str:
        node = syntax.argument(call, name, place)
        return literals.text(node, self.code.known) if node is not None else ""

    def _texts(self, call: ast.Call, name: str) -> str:
        """Return a first argument that is one string or a list of them, with blanks between."""
        node = syntax.argument(call, name, 0)
        several = node.elts if isinstance(node, ast.List | ast.Tuple | ast.Set) else [node]
        return " ".join(literals.text(each, self.code.known) for each in several)

    def _built(self, call: ast.Call) -> str:
        """Return what a call's result is assigned to, "" where it is part of something larger."""
        above = self.parents.get(call)
        if (
            isinstance(above, ast.Assign)
            and len(above.targets) == 1
            and isinstance(above.targets[0], ast.Name)
        ):
            inside = any(isinstance(each, ast.FunctionDef | ast.ClassDef) for each in self._above(call))
            return "" if inside else above.targets[0].id
        return ""

    def _above(self, node: ast.AST) -> Iterator[ast.AST]:
        while node in self.parents:
            node = self.parents[node]
            yield node

    def _span(self, node: Any) -> tuple[int, int]:
        """Return the place of a node in the cell's text; inside f-strings older Pythons do not tell it."""
        if node is None or any(isinstance(each, ast.JoinedStr) for each in self._above(node)):
            return -1, -1
        start = self.read.offset(node.lineno, node.col_offset)
        return start, self.read.offset(node.end_lineno, node.end_col_offset)

    def _wish(self, kind: Kind, node: Any, *, span: tuple[int, int] | None = None, **more: str) -> Wish:
        start, end = self._span(node) if span is None else span
        whole = span is None and self._is_whole(node, start, end)
        text = self.read.source.split("\n")[node.lineno - 1].strip()
        return Wish(
            kind=kind,
            cell=self.number,
            line=node.lineno,
            text=text,
            start=start,
            end=end,
            whole=whole,
            **more,
        )

    def _is_whole(self, node: ast.AST, start: int, end: int) -> bool:
        if start < 0 or not (isinstance(node, ast.stmt) or isinstance(self.parents.get(node), ast.Expr)):
            return False
        source = self.read.source
        before = source[source.rfind("\n", 0, start) + 1 : start]
        behind = source[end:].partition("\n")[0].strip()
        return not before.strip() and (not behind or behind.startswith("#"))


def _untouchable(wish: Wish) -> Wish:
    return replace(wish, start=-1, end=-1, whole=False)
