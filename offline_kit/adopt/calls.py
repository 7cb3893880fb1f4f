"""Find calls in a notebook's Python that need something from outside, in its syntax alone."""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from offline_kit.adopt import literals, notebook_code, shell
from offline_kit.adopt.findings import ARGUMENT, ExternalNeed, NeedKind
from offline_kit.adopt.notebook_code import NotebookCode
from offline_kit.checkpoints import download_calls
from offline_kit.checkpoints.download_calls import UNKNOWN, DownloadCall, DownloadKind, Switch
from offline_kit.notebook import cells
from offline_kit.notebook.cells import ParsedCell
from offline_kit.project import references

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
SECRETS_MODULE = "kaggle_secrets"
"""Kaggle's module for the secrets of an account, which needs the internet."""
SECRET_METHODS = {"get_secret": "''", "get_gcloud_credential": "''"} | dict.fromkeys(
    ("set_gcloud_credentials", "set_tensorflow_credential"), "None"
)
"""Its methods, and their replacements."""
COLAB_CALLS = ("google.colab.drive.mount", "google.colab.files.upload")


def find_needs(code: NotebookCode) -> Iterator[ExternalNeed]:
    """Yield the needs of a notebook's calls, cell by cell."""
    for number, tree in code.trees.items():
        yield from _CallReader(code, number, code.reads[number]).read_tree(tree)
    for number, read in code.reads.items():
        if read.foreign == "writefile":
            yield from _find_written(code, number, read)


def _find_written(code: NotebookCode, number: int, read: ParsedCell) -> Iterator[ExternalNeed]:
    """Yield the pretrained weights of a module that a cell writes."""
    line, _, body = read.source.lstrip("\n").partition("\n")
    module_read = cells.parse_cell(body)
    tree = module_read.parse_tree() if line.rstrip().endswith(".py") else None
    if tree is None or module_read.magics:
        return
    before = len(read.source) - len(body)
    module_code = replace(code, aliases={**code.aliases, **references.map_imported_names(tree)})
    for need in _CallReader(module_code, number, module_read).read_tree(tree):
        if need.kind is NeedKind.PRETRAINED:
            span = (need.start + before, need.end + before) if need.start >= 0 else (-1, -1)
            yield replace(
                need, line=need.line + read.line_number(before) - 1, start=span[0], end=span[1], detail=""
            )


class _CallReader:
    """Find the needs of one cell."""

    def __init__(self, code: NotebookCode, number: int, read: ParsedCell) -> None:
        self.code = code
        self.number = number
        self.read = read
        self.parents: dict[ast.AST, ast.AST] = {}

    def read_tree(self, tree: ast.Module) -> Iterator[ExternalNeed]:
        for node in ast.walk(tree):
            for child in ast.iter_child_nodes(node):
                self.parents[child] = node
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield from self._read_call(node, self._dotted_name(node.func))
            elif isinstance(node, ast.FunctionDef):
                yield from self._read_defaults(node)
            elif isinstance(node, ast.Import | ast.ImportFrom) and self._is_secrets_import(node):
                yield self._make_need(NeedKind.ACCOUNT, node, target=SECRETS_MODULE, detail="import")

    def _read_call(self, call: ast.Call, name: str) -> Iterator[ExternalNeed]:
        if name in SHELL_CALLS or name == "get_ipython().run_line_magic":
            yield from self._read_shell(call, name)
        elif name in (*COLAB_CALLS, *LOGIN_CALLS):
            detail = "colab" if name in COLAB_CALLS else ""
            yield self._make_need(NeedKind.ACCOUNT, call, target=name, detail=detail, stand_in="None")
        elif (stand_in := self._secret_stand_in(call, name)) is not None:
            yield self._make_need(NeedKind.ACCOUNT, call, target=name, detail="secret", stand_in=stand_in)
        elif download := download_calls.find_download(name, self._argument_text(call, "", 0)):
            yield from self._read_download(call, name, download)
        elif not name.rpartition(".")[2].startswith(("list_", "is_")):  # timm.list_models(pretrained=True)
            name = name or download_calls.resolve_name(call.func, self.code.aliases)
            switches = [*download_calls.find_switches(call, name), *self._unpacked_switches(call, name)]
            for switch in switches or self._likely_switches(call, name):
                yield from self._read_switch(call, name, switch)

    def _read_download(self, call: ast.Call, name: str, download: DownloadCall) -> Iterator[ExternalNeed]:
        """Yield what a call in the table of downloads needs."""
        source, detail = self._argument_text(call, *download.source), download.detail
        match download.kind:
            case DownloadKind.FILE:
                target = self._argument_text(call, *download.target)
                span = self._source_span(call.args[0]) if detail == "read" else None
                yield self._make_need(
                    NeedKind.DOWNLOAD,
                    call,
                    target=source or "?",
                    destination=target,
                    detail=detail,
                    span=span,
                )
            case DownloadKind.REPOSITORY:
                yield from self._read_repository(call, name, download)
            case DownloadKind.MODEL_ID | DownloadKind.PRESET:
                yield from self._read_model_id(call, name, download)
            case DownloadKind.KAGGLE:
                target = self._argument_text(call, *download.target)
                yield self._make_need(NeedKind.KAGGLE, call, target=source, destination=target, detail=detail)
            case DownloadKind.KAGGLE_CLIENT:
                if self.code.imports_package("kaggle"):
                    yield self._make_need(
                        NeedKind.KAGGLE,
                        call,
                        target=source or "*",
                        destination="api",
                        detail=detail,
                        stand_in="None",
                    )
            case DownloadKind.CORPUS:
                source = self._argument_texts(call, download.source[0])
                stand_in = "" if detail == "spacy.load" else "True"
                yield self._make_need(NeedKind.CORPUS, call, target=source, detail=detail, stand_in=stand_in)
            case DownloadKind.TORCH_HUB:
                if self._argument_text(call, "source", 9) != "local":
                    yield self._make_need(NeedKind.HUB, call, target=source, detail="torch.hub")
            case _:
                yield self._make_need(
                    NeedKind.HUB, call, target=source, detail="call", destination=download.instead
                )

    def _read_repository(self, call: ast.Call, name: str, download: DownloadCall) -> Iterator[ExternalNeed]:
        """Yield a file, snapshot or dataset that is downloaded from a hub."""
        detail, target = download.detail, self._argument_text(call, *download.source) or "*"
        if detail == "file":
            folder = self._argument_text(call, "subfolder", 2)
            file = self._argument_text(call, "filename", 1) or "*"
            detail = f"file {folder}{'/' if folder else ''}{file}"
        if name != "datasets.load_dataset":
            data = "dataset " if self._argument_text(call, "repo_type", 99) == "dataset" else ""
            target_folder = self._argument_text(call, *download.target)
            yield self._make_need(
                NeedKind.HUB, call, target=target, destination=target_folder, detail=data + detail
            )
        elif target not in FILE_FORMATS:
            span = self._source_span(notebook_code.find_argument(call, *download.source))
            yield self._make_need(NeedKind.HUB, call, target=target, detail=detail, span=span)

    def _secret_stand_in(self, call: ast.Call, name: str) -> str | None:
        """Return the replacement of a call that reads a secret; None for other calls."""
        if name.startswith(f"{SECRETS_MODULE}.") and "()" not in name:
            return "None" if not isinstance(self.parents.get(call), ast.Attribute) else None
        is_used = self.code.imports_package(SECRETS_MODULE)
        return SECRET_METHODS.get(name.rpartition(".")[2]) if is_used else None

    def _is_secrets_import(self, node: ast.Import | ast.ImportFrom) -> bool:
        """Whether an import is only used by calls that are replaced."""
        names = {item.asname or item.name for item in node.names}
        module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        if module != SECRETS_MODULE or len(names) > 1:
            return False
        nodes = [item for tree in self.code.trees.values() for item in ast.walk(tree)]
        calls = [
            item for item in nodes if isinstance(item, ast.Call) and notebook_code.owner_name(item) in names
        ]
        clients = [item for item in calls if self._dotted_name(item.func).startswith(f"{SECRETS_MODULE}.U")]
        return len(clients) == sum(isinstance(item, ast.Name) and item.id in names for item in nodes)

    def _read_model_id(self, call: ast.Call, name: str, download: DownloadCall) -> Iterator[ExternalNeed]:
        """Yield the models that a call loads by their id on a hub."""
        node = notebook_code.find_argument(call, *download.source)
        is_unpacked = any(keyword.arg is None for keyword in call.keywords)
        if node is None and name == "transformers.pipeline" and not is_unpacked:
            yield self._make_need(
                NeedKind.HUB, call, target="", detail="call", destination="`model=` names its folder"
            )
        detail = "sentence" if name.endswith(".SentenceTransformer") else "from_pretrained"
        detail = "preset" if download.kind is DownloadKind.PRESET else detail
        targets = literals.possible_strings(node, self.code.strings)
        span = self._source_span(node) if len(targets) == 1 else (-1, -1)
        for target in filter(None, targets):
            yield self._make_need(NeedKind.HUB, call, target=target, detail=detail, span=span)

    def _unpacked_switches(self, call: ast.Call, name: str) -> Iterator[Switch]:
        """Yield switches that `**CFG` may contain, if a setting of that name is on."""
        if any(keyword.arg is None for keyword in call.keywords):
            stated = {keyword.arg for keyword in call.keywords}
            for argument, off in download_calls.deciding_arguments(name).items():
                if argument in self.code.flags and argument not in stated:
                    yield Switch(argument=argument, off=off, expression=ast.Name(id=argument, ctx=ast.Load()))

    def _likely_switches(self, call: ast.Call, name: str) -> Iterator[Switch]:
        """Yield switches of the notebook's own functions, named as in libraries."""
        for keyword in call.keywords if name != "dict" else ():
            if off := {"pretrained": "False", "encoder_weights": "None"}.get(keyword.arg or ""):
                yield Switch(argument=keyword.arg or "", off=off, expression=keyword.value)

    def _read_switch(self, call: ast.Call, name: str, switch: Switch) -> Iterator[ExternalNeed]:
        """Yield a switch that downloads weights, at the setting that it comes from."""
        reader, value, flag = self, switch.expression, notebook_code.setting_name(switch.expression)
        text = literals.string_value(value, self.code.strings)
        known_value = (
            value.value if isinstance(value, ast.Constant) else text if text and "*" not in text else UNKNOWN
        )
        if value is not None and switch.off == "False" and flag in self.code.flags:
            number, value = self.code.flags[flag]
            reader, known_value = _CallReader(self.code, number, self.code.reads[number]), True
        if not switch.fetches(known_value):
            return
        missing = value is None
        yield reader._make_need(
            NeedKind.PRETRAINED,
            value if reader is not self else call,
            target=self._argument_text(call, "model_name", 0) or name,
            detail=self._assigned_name(call),
            stand_in=self._added_argument(call, switch) if missing else switch.off,
            span=self._argument_place(call) if missing else reader._source_span(value),
            destination=flag if reader is not self else switch.argument,
        )

    def _argument_place(self, call: ast.Call) -> tuple[int, int]:
        """Return the offset at which another argument can be added."""
        nodes: list[Any] = [*call.args, *(keyword.value for keyword in call.keywords)] or [call.func]
        _, end = self._source_span(call)
        offset = self.read.text_offset(*max((node.end_lineno, node.end_col_offset) for node in nodes))
        if not 0 <= offset < end:
            return -1, -1
        tail = re.sub(r"#[^\n]*", lambda match: " " * len(match[0]), self.read.source[offset : end - 1])
        offset += max(tail.rfind(sign) for sign in "(),") + 1
        return offset, offset

    def _added_argument(self, call: ast.Call, switch: Switch) -> str:
        offset, _ = self._argument_place(call)
        sign = self.read.source[offset - 1 : offset]
        return f"{ {'(': '', ',': ' '}.get(sign, ', ') }{switch.argument}={switch.off}"

    def _read_defaults(self, node: ast.FunctionDef) -> Iterator[ExternalNeed]:
        """Yield `def __init__(self, pretrained=True)`."""
        arguments = [*node.args.posonlyargs, *node.args.args]
        pairs: list[tuple[ast.arg, ast.expr | None]] = [
            *zip(arguments[len(arguments) - len(node.args.defaults) :], node.args.defaults, strict=True),
            *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True),
        ]
        for argument, default in pairs:
            if argument.arg == "pretrained" and notebook_code.is_constant(default, True):
                yield self._make_need(
                    NeedKind.PRETRAINED,
                    node,
                    target=node.name,
                    stand_in="False",
                    span=self._source_span(default),
                    destination="pretrained",
                )

    def _read_shell(self, call: ast.Call, name: str) -> Iterator[ExternalNeed]:
        command_lines = self._command_words(call, name)
        if not command_lines:
            return
        before = f"{ast.unparse(call.func.value)}." if isinstance(call.func, ast.Attribute) else ""
        stand_in = SHELL_CALLS.get(name, "None").format(before=before)
        if "CompletedProcess" in stand_in and not before:
            stand_in = ""
        by_command = [self._command_needs(call, words, stand_in) for words in command_lines]
        needs = [need for needs in by_command for need in needs]
        if any(need.detail == ARGUMENT for need in needs):  # the command stays; only its argument is replaced
            yield from (need if need.detail == ARGUMENT else _without_span(need) for need in needs)
        elif all(by_command):
            yield from needs
        else:  # the line also does something else, so nothing can be removed
            yield from (_without_span(need) for need in needs)

    def _command_needs(self, call: ast.Call, words: tuple[str, ...], stand_in: str) -> list[ExternalNeed]:
        fields = list(shell.command_needs(words))
        return [
            self._make_need(stand_in=stand_in, node=call, span=self._word_span(call, field_set), **field_set)
            for field_set in fields
        ]

    def _word_span(self, call: ast.Call, fields: Mapping[str, Any]) -> tuple[int, int] | None:
        """Return the span of a need that is one argument of a command; None for a whole command."""
        if fields.get("detail") != ARGUMENT:
            return None
        start, end = self._source_span(call)
        first, last = shell.find_word(fields["target"], self.read.source[start:end], {})
        return (start + first, start + last) if start >= 0 and first >= 0 else (-1, -1)

    def _command_words(self, call: ast.Call, name: str) -> list[tuple[str, ...]]:
        if name == "get_ipython().run_line_magic":
            word, arguments = self._argument_text(call, "magic_name", 0), self._argument_text(call, "line", 1)
            return (
                [command.words for command in shell.split_commands(f"{word} {arguments}")]
                if word == "pip"
                else []
            )
        node = notebook_code.find_argument(call, "args", 0) or notebook_code.find_argument(call, "command", 0)
        strings = literals.KnownStrings(
            {**self.code.strings, "sys.executable": "python"}, self.code.strings.several
        )
        listed = (
            literals.list_strings(node, strings)
            if not isinstance(node, ast.Name) or node.id not in strings
            else None
        )
        if listed:
            listed = ("pip", *listed) if name.startswith("pip.") else listed
            return [(listed[0].rpartition("/")[2], *listed[1:])]
        lines = literals.possible_strings(node, strings) if node is not None else ()
        return [command.words for line in lines for command in shell.split_commands(line, strings)]

    def _dotted_name(self, node: ast.expr) -> str:
        if isinstance(node, ast.Attribute):
            before = self._dotted_name(node.value)
            return f"{before}.{node.attr}" if before else ""
        if isinstance(node, ast.Call):
            inner = self._dotted_name(node.func)
            return f"{inner}()" if inner == "get_ipython" or inner.startswith(SECRETS_MODULE) else ""
        return self.code.aliases.get(node.id, node.id) if isinstance(node, ast.Name) else ""

    def _argument_text(self, call: ast.Call, name: str, place: int) -> str:
        node = notebook_code.find_argument(call, name, place)
        return literals.string_value(node, self.code.strings) if node is not None else ""

    def _argument_texts(self, call: ast.Call, name: str) -> str:
        """Return a first argument, a string or a list of strings, separated by spaces."""
        node = notebook_code.find_argument(call, name, 0)
        several = node.elts if isinstance(node, ast.List | ast.Tuple | ast.Set) else [node]
        return " ".join(literals.string_value(element, self.code.strings) for element in several)

    def _assigned_name(self, call: ast.Call) -> str:
        """Return the variable that a call's result is assigned to, "" if it is part of a larger expression."""
        parent = self.parents.get(call)
        if (
            isinstance(parent, ast.Assign)
            and len(parent.targets) == 1
            and isinstance(parent.targets[0], ast.Name)
        ):
            inside = any(
                isinstance(ancestor, ast.FunctionDef | ast.ClassDef) for ancestor in self._ancestors_of(call)
            )
            return "" if inside else parent.targets[0].id
        return ""

    def _ancestors_of(self, node: ast.AST) -> Iterator[ast.AST]:
        while node in self.parents:
            node = self.parents[node]
            yield node

    def _source_span(self, node: Any) -> tuple[int, int]:
        """Return the span of a node in the cell's text, (-1, -1) inside f-strings."""
        if node is None or any(isinstance(ancestor, ast.JoinedStr) for ancestor in self._ancestors_of(node)):
            return -1, -1  # Python 3.11 has no positions inside f-strings (PEP 701 came with 3.12)
        start = self.read.text_offset(node.lineno, node.col_offset)
        return start, self.read.text_offset(node.end_lineno, node.end_col_offset)

    def _make_need(
        self, kind: NeedKind, node: Any, *, span: tuple[int, int] | None = None, **more: str
    ) -> ExternalNeed:
        start, end = self._source_span(node) if span is None else span
        is_whole = span is None and self._is_whole(node, start, end)
        text = self.read.source.split("\n")[node.lineno - 1].strip()
        return ExternalNeed(
            kind=kind,
            cell=self.number,
            line=node.lineno,
            text=text,
            start=start,
            end=end,
            is_statement=is_whole,
            **more,
        )

    def _is_whole(self, node: ast.AST, start: int, end: int) -> bool:
        if start < 0 or not (isinstance(node, ast.stmt) or isinstance(self.parents.get(node), ast.Expr)):
            return False
        source = self.read.source
        before = source[source.rfind("\n", 0, start) + 1 : start]
        behind = source[end:].partition("\n")[0].strip()
        return not before.strip() and (not behind or behind.startswith("#"))


def _without_span(need: ExternalNeed) -> ExternalNeed:
    return replace(need, start=-1, end=-1, is_statement=False)
