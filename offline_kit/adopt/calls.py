"""Find calls in a notebook's Python that need something from outside, in its syntax alone."""

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from offline_kit.adopt import shell
from offline_kit.adopt.findings import ARGUMENT, ExternalNeed, NeedKind
from offline_kit.adopt.notebook_code import (
    KnownStrings,
    NotebookCode,
    find_argument,
    is_constant,
    node_span,
    owner_name,
)
from offline_kit.adopt.notebook_files import InspectedNotebook, place_destination
from offline_kit.checkpoints import download_calls
from offline_kit.checkpoints.download_calls import UNKNOWN, DownloadCall, DownloadKind, Switch
from offline_kit.notebook import cells
from offline_kit.notebook.cells import ParsedCell
from offline_kit.project import references

_CLOSING = re.compile(r"(?:\s|#[^\n]*+|\))*\)")

SHELL_CALLS = {
    "subprocess.run": "{before}CompletedProcess([], 0, '', '')",
    "subprocess.call": "0",
    "subprocess.check_call": "0",
    "subprocess.check_output": "''",
    "subprocess.getoutput": "''",
    "subprocess.Popen": "",
    "os.system": "0",
    "get_ipython().system": "None",
    "get_ipython().getoutput": "[]",
    "get_ipython().run_line_magic": "None",
    "pip.main": "0",
    "pip._internal.main": "0",
}
"""Calls that run a command, and their replacements."""
FILE_FORMATS = frozenset(
    {"csv", "json", "parquet", "arrow", "text", "pandas", "xml", "webdataset"}
    | {f"{kind}folder" for kind in ("image", "audio", "video", "pdf")}
)
"""File formats that `load_dataset` accepts in place of an id."""
LOGIN_CALLS = frozenset(
    {"wandb.login", "kagglehub.login", "comet_ml.login", "kaggle.api.authenticate", "kaggle.authenticate"}
    | {f"huggingface_hub.{name}" for name in ("login", "notebook_login", "interpreter_login")}
)
# https://www.kaggle.com/docs/notebooks#secrets: they are read over the network, so an offline notebook has none
SECRETS_MODULE = "kaggle_secrets"  # Kaggle's module for the secrets of an account, which needs the internet
SECRET_METHODS = {
    "get_secret": "''",
    "get_gcloud_credential": "''",
    "set_gcloud_credentials": "None",
    "set_tensorflow_credential": "None",
}
"""Its methods, and their replacements."""
COLAB_CALLS = ("google.colab.drive.mount", "google.colab.files.upload")


def find_needs(notebook: InspectedNotebook) -> Iterator[ExternalNeed]:
    """Yield the needs of a notebook's calls, cell by cell; last the pretrained weights of modules that cells write."""
    code = notebook.code
    for number, tree in code.trees.items():
        for need in _CallReader(code, number, code.reads[number], tree).read_tree():
            folder = notebook.folder_at(number, need.line)
            yield replace(need, destination=place_destination(need.kind, need.destination, folder))
    for number, read in code.reads.items():
        line, _, body = read.source.lstrip("\n").partition("\n")
        if read.foreign != "writefile" or not line.rstrip().endswith(".py"):
            continue
        module = cells.parse_cell(body)
        module_tree = module.parse_tree()
        if module_tree is None or module.magics:
            continue
        before = len(read.source) - len(body)
        reader = _CallReader(code, number, module, module_tree)
        reader.aliases = {**code.aliases, **references.map_imported_names(module_tree)}
        for need in reader.read_tree():
            if need.kind is NeedKind.PRETRAINED:
                span = (need.span[0] + before, need.span[1] + before) if need.span else None
                first_line = read.line_number(before)
                yield replace(need, line=need.line + first_line - 1, span=span, detail="")


class _CallReader:
    """Find the needs of one cell."""

    def __init__(self, code: NotebookCode, number: int, read: ParsedCell, tree: ast.Module) -> None:
        self.code = code
        self.aliases, self.strings = code.aliases, code.strings
        self.number = number
        self.read = read
        self.tree = tree
        self.parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}

    def read_tree(self) -> Iterator[ExternalNeed]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield from self._read_call(node, self._dotted_name(node.func))
            elif isinstance(node, ast.FunctionDef):
                yield from self._read_defaults(node)
            elif isinstance(node, ast.Import | ast.ImportFrom) and self._is_secrets_import(node):
                yield self._make_need(NeedKind.ACCOUNT, node, target=SECRETS_MODULE, detail="import")

    def _read_call(self, call: ast.Call, name: str) -> Iterator[ExternalNeed]:
        last = name.rpartition(".")[2]
        secrets_used = self.code.imports_package(SECRETS_MODULE)
        if name in SHELL_CALLS:
            yield from self._read_shell(call, name)
        elif name in (*COLAB_CALLS, *LOGIN_CALLS):
            detail = "colab" if name in COLAB_CALLS else ""
            yield self._make_need(NeedKind.ACCOUNT, call, target=name, detail=detail, stand_in="None")
        elif name.startswith(f"{SECRETS_MODULE}.") and "()" not in name:
            if not isinstance(self.parents.get(call), ast.Attribute):  # else a method of the client is called
                yield self._make_need(NeedKind.ACCOUNT, call, target=name, detail="secret", stand_in="None")
        elif secrets_used and last in SECRET_METHODS:
            empty = SECRET_METHODS[last]
            yield self._make_need(NeedKind.ACCOUNT, call, target=name, detail="secret", stand_in=empty)
        elif download := download_calls.find_download(name, self._text(call, "", 0)):
            yield from self._read_download(call, name, download)
        elif not last.startswith(("list_", "is_")):  # timm.list_models(pretrained=True)
            name = name or download_calls.resolve_name(call.func, self.aliases)
            for switch in self._find_switches(call, name):
                yield from self._read_switch(call, name, switch)

    def _read_download(self, call: ast.Call, name: str, download: DownloadCall) -> Iterator[ExternalNeed]:
        source, detail = self._text(call, *download.source), download.detail
        target = self._text(call, *download.target)
        match download.kind:
            case DownloadKind.FILE:
                fields = {"target": source or "?", "destination": target, "detail": detail}
                need = self._make_need(NeedKind.DOWNLOAD, call, **fields)
                # of a function that reads, only the address is replaced
                yield _limit_span(need, self._span(call.args[0])) if detail == "read" else need
            case DownloadKind.REPOSITORY:
                yield from self._read_repository(call, name, download)
            case DownloadKind.MODEL_ID | DownloadKind.PRESET:
                yield from self._read_model_id(call, name, download)
            case DownloadKind.KAGGLE:
                yield self._make_need(NeedKind.KAGGLE, call, target=source, destination=target, detail=detail)
            case DownloadKind.KAGGLE_CLIENT:
                fields = {"target": source or "*", "destination": "api", "detail": detail}
                if self.code.imports_package("kaggle"):
                    yield self._make_need(NeedKind.KAGGLE, call, stand_in="None", **fields)
            case DownloadKind.CORPUS:
                node = find_argument(call, download.source[0], 0)
                names = node.elts if isinstance(node, ast.List | ast.Tuple | ast.Set) else [node]
                fields = {"target": " ".join(map(self.strings.value, names)), "detail": detail}
                stand_in = "" if detail == "spacy.load" else "True"
                yield self._make_need(NeedKind.CORPUS, call, stand_in=stand_in, **fields)
            case DownloadKind.TORCH_HUB:
                # in torch.hub.load(..., source="local") the repository is a folder
                needs = [self._make_need(NeedKind.HUB, call, target=source, detail="torch.hub")]
                yield from needs if self._text(call, "source", 9) != "local" else []
            case _:
                how = download.instead
                yield self._make_need(NeedKind.HUB, call, target=source, detail="call", destination=how)

    def _read_repository(self, call: ast.Call, name: str, download: DownloadCall) -> Iterator[ExternalNeed]:
        detail, target = download.detail, self._text(call, *download.source) or "*"
        if name == "datasets.load_dataset":
            if target not in FILE_FORMATS:
                need = self._make_need(NeedKind.HUB, call, target=target, detail=detail)
                yield _limit_span(need, self._span(find_argument(call, *download.source)))
            return
        if detail == "file":
            folder = self._text(call, "subfolder", 2)
            file = self._text(call, "filename", 1) or "*"
            detail = f"file {folder}{'/' if folder else ''}{file}"
        detail = f"dataset {detail}" if self._text(call, "repo_type", 99) == "dataset" else detail
        into = self._text(call, *download.target)
        yield self._make_need(NeedKind.HUB, call, target=target, destination=into, detail=detail)

    def _is_secrets_import(self, node: ast.Import | ast.ImportFrom) -> bool:
        """Whether an import is only used by calls that are replaced."""
        names = {item.asname or item.name for item in node.names}
        module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        if module != SECRETS_MODULE or len(names) > 1:
            return False
        nodes = self.code.nodes
        calls = [item for item in nodes if isinstance(item, ast.Call) and owner_name(item) in names]
        clients = [item for item in calls if self._dotted_name(item.func).startswith(f"{SECRETS_MODULE}.U")]
        return len(clients) == sum(isinstance(item, ast.Name) and item.id in names for item in nodes)

    def _read_model_id(self, call: ast.Call, name: str, download: DownloadCall) -> Iterator[ExternalNeed]:
        node = find_argument(call, *download.source)
        is_unpacked = any(keyword.arg is None for keyword in call.keywords)
        if node is None and name == "transformers.pipeline" and not is_unpacked:
            yield self._make_need(NeedKind.HUB, call, detail="call", destination="`model=` names its folder")
        detail = "sentence" if name.endswith(".SentenceTransformer") else "from_pretrained"
        detail = "preset" if download.kind is DownloadKind.PRESET else detail
        targets = self.strings.possible(node)
        span = self._span(node) if len(targets) == 1 else None
        for target in filter(None, targets):
            yield _limit_span(self._make_need(NeedKind.HUB, call, target=target, detail=detail), span)

    def _find_switches(self, call: ast.Call, name: str) -> list[Switch]:
        switches = list(download_calls.find_switches(call, name))
        stated = {keyword.arg for keyword in call.keywords}
        if None in stated:  # **CFG may contain a setting that is on
            for argument, off in download_calls.deciding_arguments(name).items():
                if argument in self.code.true_names and argument not in stated:
                    setting = ast.Name(id=argument, ctx=ast.Load())
                    switches.append(Switch(argument=argument, off=off, expression=setting))
        if switches or name == "dict":
            return switches
        # the notebook's own functions, with arguments named as in libraries
        usual = {"pretrained": "False", "encoder_weights": "None"}
        named = [(keyword.arg, keyword.value) for keyword in call.keywords if keyword.arg in usual]
        return [Switch(argument=name, off=usual[name], expression=value) for name, value in named]

    def _read_switch(self, call: ast.Call, name: str, switch: Switch) -> Iterator[ExternalNeed]:
        known, value = UNKNOWN, switch.expression
        match value:
            case ast.Constant(value=known):
                pass
            # CFG["pretrained"], CFG.pretrained, pretrained
            case (
                ast.Subscript(slice=ast.Constant(value=setting))
                | ast.Attribute(attr=setting)
                | ast.Name(id=setting)
            ) if switch.off == "False" and setting in self.code.true_names:
                known = True
            case _:
                text = self.strings.value(value)
                known = text if text and "*" not in text else UNKNOWN
        if not switch.fetches(known):
            return
        span, stand_in = self._span(value), switch.off
        if value is None and (call_span := self._span(call)):  # the default downloads: state the argument
            arguments = [node_span(self.read, node)[1] for node in (*call.args, *call.keywords)]
            at = max(arguments, default=call_span[1] - 1)
            # The span of a positional argument is without the parentheses around it.
            if closing := _CLOSING.match(self.read.source, at, call_span[1] - 1):
                at = closing.end()
            span = (at, at)
            stand_in = f"{', ' if arguments else ''}{switch.argument}={switch.off}"
        fields = {"target": self._text(call, "model_name", 0) or name, "detail": self._assigned_name(call)}
        fields |= {"stand_in": stand_in, "destination": switch.argument}
        yield _limit_span(self._make_need(NeedKind.PRETRAINED, call, **fields), span)

    def _read_defaults(self, node: ast.FunctionDef) -> Iterator[ExternalNeed]:
        """Yield `def __init__(self, pretrained=True)`."""
        arguments = [*node.args.posonlyargs, *node.args.args]
        defaults = dict(zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True))
        defaults |= dict(zip(reversed(arguments), reversed(node.args.defaults), strict=False))
        for argument, default in defaults.items():
            if argument.arg == "pretrained" and is_constant(default, True):
                fields = {"target": node.name, "stand_in": "False", "destination": "pretrained"}
                yield _limit_span(self._make_need(NeedKind.PRETRAINED, node, **fields), self._span(default))

    def _read_shell(self, call: ast.Call, name: str) -> Iterator[ExternalNeed]:
        before = f"{ast.unparse(call.func.value)}." if isinstance(call.func, ast.Attribute) else ""
        stand_in = SHELL_CALLS[name].format(before=before)
        if "CompletedProcess" in stand_in and not before:
            stand_in = ""
        by_command = [list(shell.command_needs(words)) for words in self._command_words(call, name)]
        fields = [fields for own in by_command for fields in own]
        needs = [self._make_need(node=call, stand_in=stand_in, **item) for item in fields]
        is_argument = any(need.detail == ARGUMENT for need in needs)
        does_more = is_argument or not all(by_command)  # the line stays; only an argument can be replaced
        for need in needs:
            span = None
            if need.detail == ARGUMENT and need.span:
                text = self.read.source[slice(*need.span)]
                span = KnownStrings().find_word(need.target, text, need.span[0])
            yield _limit_span(need, span) if does_more else need

    def _command_words(self, call: ast.Call, name: str) -> list[tuple[str, ...]]:
        if name == "get_ipython().run_line_magic":
            line = f"{self._text(call, 'magic_name', 0)} {self._text(call, 'line', 1)}"
            commands = shell.split_commands(line if line.startswith("pip ") else "")
            return [command.words for command in commands]
        node = find_argument(call, "args", 0) or find_argument(call, "command", 0)
        if node is None:
            return []
        strings = KnownStrings({**self.strings, "sys.executable": "python"}, self.strings.several)
        listed = None if isinstance(node, ast.Name) and node.id in strings else strings.listed(node)
        if listed:
            listed = ("pip", *listed) if name.startswith("pip.") else listed
            return [(listed[0].rpartition("/")[2], *listed[1:])]
        lines = strings.possible(node)
        return [command.words for line in lines for command in shell.split_commands(line, strings)]

    def _dotted_name(self, node: ast.expr) -> str:
        if isinstance(node, ast.Attribute):
            before = self._dotted_name(node.value)
            return f"{before}.{node.attr}" if before else ""
        if isinstance(node, ast.Call):
            inner = self._dotted_name(node.func)
            return f"{inner}()" if inner == "get_ipython" or inner.startswith(SECRETS_MODULE) else ""
        return self.aliases.get(node.id, node.id) if isinstance(node, ast.Name) else ""

    def _text(self, call: ast.Call, name: str, place: int) -> str:
        """Return an argument's string, by its name or position."""
        return self.strings.value(find_argument(call, name, place))

    def _assigned_name(self, call: ast.Call) -> str:
        """Return the variable that a call's result is assigned to, "" in a function or a larger expression."""
        match self.parents.get(call):
            case ast.Assign(targets=[ast.Name(id=name)]):
                scopes = (ast.FunctionDef, ast.ClassDef)
                return "" if any(isinstance(node, scopes) for node in self._ancestors(call)) else name
        return ""

    def _ancestors(self, node: ast.AST) -> Iterator[ast.AST]:
        while node in self.parents:
            node = self.parents[node]
            yield node

    def _span(self, node: Any) -> tuple[int, int] | None:
        """Return the span of a node in the cell's text, None if it has none there."""
        # Python 3.11 has no positions inside f-strings (PEP 701 came with 3.12)
        inside = any(isinstance(ancestor, ast.JoinedStr) for ancestor in self._ancestors(node))
        return None if inside or not hasattr(node, "lineno") else node_span(self.read, node)

    def _make_need(self, kind: NeedKind, node: Any, **fields: Any) -> ExternalNeed:
        """Return a need whose whole node is replaced."""
        span, source, is_statement = self._span(node), self.read.source, False
        if span and (isinstance(node, ast.stmt) or isinstance(self.parents.get(node), ast.Expr)):
            before = source[source.rfind("\n", 0, span[0]) + 1 : span[0]]
            behind = source[span[1] :].partition("\n")[0].strip()
            is_statement = not before.strip() and (not behind or behind.startswith("#"))
        return ExternalNeed(
            kind=kind,
            cell=self.number,
            line=node.lineno,
            text=source.split("\n")[node.lineno - 1].strip(),
            span=span,
            is_statement=is_statement,
            **fields,
        )


def _limit_span(need: ExternalNeed, span: tuple[int, int] | None) -> ExternalNeed:
    """Return a need of which only a part can be replaced, or nothing."""
    return replace(need, span=span, is_statement=False)
