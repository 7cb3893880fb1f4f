"""Find calls in a notebook's Python that need something from outside, in its syntax alone."""

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from offline_kit.adopt import shell
from offline_kit.adopt.findings import ExternalNeed, NeedKind
from offline_kit.adopt.notebook_code import (
    CodeModule,
    KnownStrings,
    NotebookCode,
    find_argument,
    node_span,
)
from offline_kit.adopt.notebook_files import InspectedNotebook
from offline_kit.checkpoints import download_calls
from offline_kit.checkpoints.download_calls import UNKNOWN, DownloadCall, DownloadKind, Switch
from offline_kit.project import references

_SHELL_CALLS = {
    "subprocess.run": "{before}CompletedProcess([], 0, '', '')",
    "subprocess.Popen": "",
    "get_ipython().getoutput": "[]",
    **dict.fromkeys(("subprocess.check_output", "subprocess.getoutput"), "''"),
    **dict.fromkeys(("get_ipython().system", "get_ipython().run_line_magic"), "None"),
    **dict.fromkeys(("subprocess.call", "subprocess.check_call", "os.system"), "0"),
    **dict.fromkeys(("pip.main", "pip._internal.main"), "0"),
}
"""Calls that run a command, and their replacements."""
_FILE_FORMATS = frozenset({
    "csv", "json", "parquet", "arrow", "text", "pandas", "xml", "webdataset", "imagefolder", "audiofolder",
    "videofolder", "pdffolder",
})  # fmt: skip
"""File formats that `load_dataset` accepts in place of an id."""
_COLAB_CALLS = ("google.colab.drive.mount", "google.colab.files.upload")
_LOGIN_CALLS = (
    *("wandb.login", "kagglehub.login", "comet_ml.login", "kaggle.api.authenticate", "kaggle.authenticate"),
    *(f"huggingface_hub.{name}" for name in ("login", "notebook_login", "interpreter_login")),
)
_PRETRAINED = re.compile(r"\bpretrained(: bool)?\s*=\s*True\b")  # a default of the notebook's own functions
_FETCHING = (NeedKind.DOWNLOAD, NeedKind.HUB, NeedKind.PRETRAINED, NeedKind.CORPUS)


def find_needs(notebook: InspectedNotebook) -> Iterator[ExternalNeed]:
    """Yield the needs of a notebook's calls, cell by cell, and what the modules that a cell writes would fetch."""
    for module in notebook.code.list_modules():
        for need in _CallReader(notebook.code, module).read_tree():
            if not module.is_written:
                yield replace(need, folder=notebook.folder_at(module.cell, need.line))
            elif need.kind in _FETCHING:
                yield replace(_limit_span(need, None), line=module.line_in_cell(need.line))


class _CallReader:
    """Find the needs of one cell, or of a module that it writes."""

    def __init__(self, code: NotebookCode, module: CodeModule) -> None:
        self.code, self.number, self.read, self.tree = code, module.cell, module.read, module.tree
        self.strings = code.strings
        self.aliases = {**code.aliases, **references.map_imported_names(module.tree)}
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}

    def read_tree(self) -> Iterator[ExternalNeed]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield from self._read_call(node, self._dotted_name(node.func))
            elif isinstance(node, ast.FunctionDef) and _PRETRAINED.search(ast.unparse(node.args)):
                yield self._make_need(NeedKind.PRETRAINED, node, target=node.name)

    def _read_call(self, call: ast.Call, name: str) -> Iterator[ExternalNeed]:
        last = name.rpartition(".")[2]
        if name in _SHELL_CALLS:
            yield from self._read_shell(call, name)
        elif name in (*_COLAB_CALLS, *_LOGIN_CALLS):
            detail = "colab" if name in _COLAB_CALLS else ""
            yield self._make_need(NeedKind.ACCOUNT, call, target=name, detail=detail, stand_in="None")
        elif getattr(call.func, "attr", "") == "get_secret" and self.code.imports_package("kaggle_secrets"):
            yield self._make_need(NeedKind.ACCOUNT, call, target=name, detail="secret")
        elif download := download_calls.find_download(name, self._text(call, "", 0)):
            yield from self._read_download(call, name, download)
        elif not last.startswith(("list_", "is_")):  # timm.list_models(pretrained=True)
            name = name or download_calls.resolve_name(call.func, self.aliases)
            if self._fetches_weights(call, name):
                target = self._text(call, "model_name", 0) or name
                yield self._make_need(NeedKind.PRETRAINED, call, target=target)

    def _read_download(self, call: ast.Call, name: str, download: DownloadCall) -> Iterator[ExternalNeed]:
        source, detail = self._text(call, *download.source), download.detail
        node = find_argument(call, *download.source)
        match download.kind:
            case DownloadKind.FILE:
                yield self._make_need(NeedKind.DOWNLOAD, call, target=source or "?")
            case DownloadKind.KAGGLE:
                fields = {"target": source, "destination": self._text(call, *download.target)}
                yield self._make_need(NeedKind.KAGGLE, call, detail=detail, **fields)
            case DownloadKind.KAGGLE_CLIENT:
                if self.code.imports_package("kaggle"):
                    fields = {"target": source or "*", "destination": "api", "detail": detail}
                    yield self._make_need(NeedKind.KAGGLE, call, stand_in="None", **fields)
            case DownloadKind.CORPUS:
                names = node.elts if isinstance(node, ast.List | ast.Tuple | ast.Set) else [node]
                target = " ".join(map(self.strings.value, names))
                yield self._make_need(NeedKind.CORPUS, call, target=target, detail=detail)
            case DownloadKind.MODEL_ID | DownloadKind.PRESET:
                is_unpacked = any(keyword.arg is None for keyword in call.keywords)
                is_default = node is None and name == "transformers.pipeline" and not is_unpacked
                for target in ("",) if is_default else filter(None, self.strings.possible(node)):
                    need = self._make_need(NeedKind.HUB, call, target=target, detail="path")
                    if target.startswith("kaggle://"):
                        handle = target.removeprefix("kaggle://")
                        need = replace(need, kind=NeedKind.KAGGLE, target=handle, detail="model")
                    yield _limit_span(need, self._span(node))
            case _:
                is_file = name == "datasets.load_dataset" and source in _FILE_FORMATS
                # in torch.hub.load(..., source="local") the repository is a folder
                if not is_file and self._text(call, "source", 9) != "local":
                    detail = "" if name.startswith(("huggingface_hub.", "torch.hub.")) else "path"
                    yield self._make_need(NeedKind.HUB, call, target=source, detail=detail)

    def _fetches_weights(self, call: ast.Call, name: str) -> bool:
        """Whether an argument of a call, or what is named like it in settings, downloads weights."""
        stated = {keyword.arg: keyword.value for keyword in call.keywords}
        switches = list(download_calls.find_switches(call, name))
        if None in stated:  # **CFG may contain a setting that is on
            deciding = download_calls.deciding_arguments(name)
            if any(argument not in stated and self.code.is_set_true(argument) for argument in deciding):
                return True
        if (
            not switches and name != "dict"
        ):  # the notebook's own functions, with arguments named as in libraries
            usual = (("pretrained", "False"), ("encoder_weights", "None"))
            switches = [
                Switch(argument=argument, off=off, expression=stated[argument])
                for argument, off in usual
                if argument in stated
            ]
        return any(map(self._fetches, switches))

    def _fetches(self, switch: Switch) -> bool:
        match switch.expression:
            case ast.Constant(value=value):
                return switch.fetches(value)
            # CFG["pretrained"], CFG.pretrained, pretrained
            case (
                ast.Subscript(slice=ast.Constant(value=str(setting)))
                | ast.Attribute(attr=setting)
                | ast.Name(id=setting)
            ) if switch.off == "False" and self.code.is_set_true(setting):
                return True
        text = self.strings.value(switch.expression)
        return switch.fetches(text if text and "*" not in text else UNKNOWN)

    def _read_shell(self, call: ast.Call, name: str) -> Iterator[ExternalNeed]:
        before = f"{ast.unparse(call.func.value)}." if isinstance(call.func, ast.Attribute) else ""
        stand_in = _SHELL_CALLS[name].format(before=before)
        if "CompletedProcess" in stand_in and not before:
            stand_in = ""
        by_command = [list(shell.command_needs(words)) for words in self._command_words(call, name)]
        for fields in (fields for own in by_command for fields in own):
            need = self._make_need(node=call, stand_in=stand_in, **fields)
            yield need if all(by_command) else _limit_span(need, None)  # a call that does more stays

    def _command_words(self, call: ast.Call, name: str) -> list[tuple[str, ...]]:
        if name == "get_ipython().run_line_magic":
            line = f"{self._text(call, 'magic_name', 0)} {self._text(call, 'line', 1)}"
            return [words for words, _ in shell.split_commands(line if line.startswith("pip ") else "")]
        node = find_argument(call, "args", 0) or find_argument(call, "command", 0)
        if node is None:
            return []
        strings = KnownStrings({**self.strings, "sys.executable": "python"}, self.strings.several)
        listed = None if isinstance(node, ast.Name) and node.id in strings else strings.listed(node)
        if listed:
            listed = ("pip", *listed) if name.startswith("pip.") else listed
            return [(listed[0].rpartition("/")[2], *listed[1:])]
        lines = strings.possible(node)
        return [words for line in lines for words, _ in shell.split_commands(line, strings)]

    def _dotted_name(self, node: ast.expr) -> str:
        if isinstance(node, ast.Attribute):
            before = self._dotted_name(node.value)
            return f"{before}.{node.attr}" if before else ""
        if isinstance(node, ast.Call):
            return "get_ipython()" if self._dotted_name(node.func) == "get_ipython" else ""
        return self.aliases.get(node.id, node.id) if isinstance(node, ast.Name) else ""

    def _text(self, call: ast.Call, name: str, place: int) -> str:
        """Return an argument's string, by its name or position."""
        return self.strings.value(find_argument(call, name, place))

    def _span(self, node: Any) -> tuple[int, int] | None:
        """Return the span of a node in the cell's text; None inside an f-string."""
        # Python 3.11 has no positions there (PEP 701 came with 3.12)
        above = self.parents.get(node)
        while above and not isinstance(above, ast.JoinedStr):
            above = self.parents.get(above)
        return None if above or node is None else node_span(self.read, node)

    def _make_need(self, kind: NeedKind, node: Any, **fields: Any) -> ExternalNeed:
        """Return a need whose whole node is replaced."""
        span, source = self._span(node), self.read.source
        if span and (isinstance(node, ast.stmt) or isinstance(self.parents.get(node), ast.Expr)):
            before = source[source.rfind("\n", 0, span[0]) + 1 : span[0]]
            behind = source[span[1] :].partition("\n")[0].strip()
            fields["statement"] = None if before.strip() or behind.partition("#")[0] else span
        text = source.split("\n")[node.lineno - 1].strip()
        return ExternalNeed(kind=kind, cell=self.number, line=node.lineno, text=text, span=span, **fields)


def _limit_span(need: ExternalNeed, span: tuple[int, int] | None) -> ExternalNeed:
    """Return a need of which only a part can be replaced, or nothing."""
    return replace(need, span=span, statement=None)
