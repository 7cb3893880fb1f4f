"""Calls in a notebook's Python that want something from the internet, found in its syntax: nothing is run."""

import ast
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from offline_kit.adopting import cells, literals, shell
from offline_kit.adopting.cells import Read
from offline_kit.adopting.nouns import Kind, Wish

SHELLS = {
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
"""Calls that run a command, and what may stand for them."""
_DOWNLOADS = {
    "urllib.request.urlretrieve": (("url", 0), ("filename", 1)),
    "wget.download": (("url", 0), ("out", 1)),
    "gdown.download": (("url", 0), ("output", 1)),
    "torch.hub.download_url_to_file": (("url", 0), ("dst", 1)),
    "torch.hub.load_state_dict_from_url": (("url", 0), ("model_dir", 9)),
    "requests.get": (("url", 0), ("", 9)),
    "urllib.request.urlopen": (("url", 0), ("", 9)),
    "huggingface_hub.hf_hub_download": (("repo_id", 0), ("local_dir", 9)),
    "huggingface_hub.snapshot_download": (("repo_id", 0), ("local_dir", 9)),
    "datasets.load_dataset": (("path", 0), ("", 9)),
}
"""Calls that fetch a file: where the address and the place stand."""
_OF_HUB = ("huggingface_hub.", "datasets.")
_MODELS = {
    "sentence_transformers.SentenceTransformer": ("model_name_or_path", 0),
    "sentence_transformers.CrossEncoder": ("model_name", 0),
    "transformers.pipeline": ("model", 1),
}
"""Calls that load from a hub by an id, and where it stands."""
_READERS = frozenset(
    {"read_csv", "read_json", "read_parquet", "read_table", "read_excel", "imread", "open_url"}
)
"""Calls that take an address for a path."""
_KAGGLE = {
    "kagglehub.dataset_download": "dataset",
    "kagglehub.model_download": "model",
    "kagglehub.notebook_output_download": "notebook",
    "kagglehub.competition_download": "competition",
}
_CORPORA = {"nltk.download": "nltk", "spacy.cli.download": "spacy"}
_ACCOUNTS = frozenset(
    {"wandb.login", "kagglehub.login", "comet_ml.login"}
    | {f"huggingface_hub.{name}" for name in ("login", "notebook_login", "interpreter_login")}
)
_LOGINS = frozenset({"wandb", "huggingface-cli", "hf", "comet", "neptune", "kaggle"})
"""Programs whose `login` wants an account."""
_COLAB = ("google.colab.drive.mount", "google.colab.files.upload")
_WEIGHTS = {"weights": ("torchvision.", "tensorflow.keras.applications.", "keras.applications.")}


@dataclass(frozen=True, kw_only=True)
class Code:
    """The Python of a whole notebook, as far as it can be read."""

    trees: Mapping[int, ast.Module]
    """By number of the cell."""
    reads: Mapping[int, Read]
    """By number of the cell; all code cells."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """What imported names stand for: "AutoModel" for "transformers.AutoModel"."""
    known: Mapping[str, str] = field(default_factory=dict)
    """Strings that are assigned to a name once and for all."""
    flags: Mapping[str, tuple[int, ast.expr]] = field(default_factory=dict)
    """Names, of variables and class attributes, that are set to True once and for all, and where."""
    loaded: frozenset[str] = frozenset()
    """Names whose `load_state_dict` is called, strictly."""
    loosely: frozenset[str] = frozenset()
    """The same with `strict=False`: what the checkpoint lacks stays as it was built."""


def code_of(sources: Iterable[tuple[int, str]]) -> Code:
    """Read the code cells (number, text) of a notebook."""
    reads = {number: cells.read(source) for number, source in sources}
    trees = {number: tree for number, read in reads.items() if (tree := read.tree()) is not None}
    loads = [call for tree in trees.values() for call in _named_calls(tree, "load_state_dict")]
    loose = {_owner(call) for call in loads if _is(_argument(call, "strict", 1), False)}
    return Code(
        trees=trees,
        reads=reads,
        aliases=_aliases(trees.values()),
        known=literals.constants(trees.values()),
        flags=literals.flags(trees),
        loaded=frozenset(_owner(call) for call in loads) - loose,
        loosely=frozenset(loose),
    )


def wishes(code: Code) -> Iterator[Wish]:
    """Yield what the calls of a notebook want from outside, cell by cell."""
    for number, tree in code.trees.items():
        yield from _Look(code, number, code.reads[number]).all(tree)


def _aliases(trees: Iterable[ast.Module]) -> dict[str, str]:
    found: dict[str, str] = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for one in node.names:
                    found[one.asname or one.name.partition(".")[0]] = (
                        one.name if one.asname else one.name.partition(".")[0]
                    )
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    return found


def _named_calls(tree: ast.Module, name: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == name
    ]


def _owner(call: ast.Call) -> str:
    """Return the name whose method is called: "model" for `model.module.load_state_dict(...)`."""
    node: ast.expr = call.func
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _argument(call: ast.Call, name: str, place: int) -> ast.expr | None:
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    plain = [each for each in call.args if not isinstance(each, ast.Starred)]
    return plain[place] if place < len(plain) else None


def _is(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


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

    def _call(self, call: ast.Call, name: str) -> Iterator[Wish]:
        if name in SHELLS or name == "get_ipython().run_line_magic":
            yield from self._shell(call, name)
        elif name in _DOWNLOADS:
            (first, at), (second, into_at) = _DOWNLOADS[name]
            address, into = self._text(call, first, at), self._text(call, second, into_at)
            kind = Kind.HUB if name.startswith(_OF_HUB) else Kind.DOWNLOAD
            detail = "snapshot" if name.endswith("snapshot_download") else ""
            yield self._wish(kind, call, target=address or "?", into=into, detail=detail)
        elif name in _KAGGLE:
            target, path = self._text(call, "handle", 0), self._text(call, "path", 1)
            yield self._wish(Kind.KAGGLE, call, target=target, into=path, detail=_KAGGLE[name])
        elif name in _CORPORA:
            target = self._text(call, "info_or_id" if name == "nltk.download" else "model", 0)
            yield self._wish(Kind.CORPUS, call, target=target, detail=_CORPORA[name], stand_in="True")
        elif name in _COLAB:
            yield self._wish(Kind.ACCOUNT, call, target=name, detail="colab")
        elif name in _ACCOUNTS:
            yield self._wish(Kind.ACCOUNT, call, target=name, stand_in="None")
        elif name == "torch.hub.load":
            local = self._text(call, "source", 9) == "local"
            if not local:
                yield self._wish(
                    Kind.HUB, call, target=self._text(call, "repo_or_dir", 0), detail="torch.hub"
                )
        else:
            yield from self._model(call, name)

    def _model(self, call: ast.Call, name: str) -> Iterator[Wish]:
        if name.endswith(".from_pretrained") or name in _MODELS:
            argument, at = _MODELS.get(name, ("pretrained_model_name_or_path", 0))
            node = _argument(call, argument, at)
            if target := literals.text(node, self.code.known):
                yield self._wish(
                    Kind.HUB, call, target=target, detail="from_pretrained", span=self._span(node)
                )
        elif name.rpartition(".")[2] in _READERS and call.args:
            address = literals.text(call.args[0], self.code.known)
            if address.startswith(("http://", "https://")):
                place = self._span(call.args[0])
                yield self._wish(Kind.DOWNLOAD, call, target=address, detail="read", span=place)
        elif not name.rpartition(".")[2].startswith(("list_", "is_")):  # timm.list_models(pretrained=True)
            for keyword in call.keywords:
                yield from self._weights(call, name, keyword)

    def _weights(self, call: ast.Call, name: str, keyword: ast.keyword) -> Iterator[Wish]:
        """Yield an argument that fetches weights; one that is a setting, where that is made."""
        look, value = self, keyword.value
        flag = value.attr if isinstance(value, ast.Attribute) else getattr(value, "id", "")
        if keyword.arg == "pretrained" and flag in self.code.flags:
            number, value = self.code.flags[flag]
            look = _Look(self.code, number, self.code.reads[number])
        if keyword.arg and (stand_in := _switched_off(keyword.arg, value, name)):
            yield look._wish(
                Kind.PRETRAINED,
                value if look is not self else call,
                target=self._text(call, "model_name", 0) or name,
                detail=self._built(call),
                stand_in=stand_in,
                span=look._span(value),
                into=flag if look is not self else keyword.arg,
            )

    def _defaults(self, node: ast.FunctionDef) -> Iterator[Wish]:
        """Yield `def __init__(self, pretrained=True)`."""
        arguments = [*node.args.posonlyargs, *node.args.args]
        pairs: list[tuple[ast.arg, ast.expr | None]] = [
            *zip(arguments[len(arguments) - len(node.args.defaults) :], node.args.defaults, strict=True),
            *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True),
        ]
        for argument, default in pairs:
            if argument.arg == "pretrained" and _is(default, True):
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
        stand_in = SHELLS.get(name, "None").format(before=before)
        if "CompletedProcess" in stand_in and not before:
            stand_in = ""
        found = [self._of_command(call, words, stand_in) for words in line]
        wished = [wish for wishes in found for wish in wishes]
        if all(found):
            yield from wished
        else:  # of a line that does something else as well nothing can be taken out
            yield from (_untouchable(wish) for wish in wished)

    def _of_command(self, call: ast.Call, words: tuple[str, ...], stand_in: str) -> list[Wish]:
        made = list(of_command(words))
        return [self._wish(stand_in=stand_in, node=call, **each) for each in made]

    def _command(self, call: ast.Call, name: str) -> list[tuple[str, ...]]:
        if name == "get_ipython().run_line_magic":
            word, rest = self._text(call, "magic_name", 0), self._text(call, "line", 1)
            return [each.words for each in shell.commands(f"{word} {rest}")] if word == "pip" else []
        node = _argument(call, "args", 0) or _argument(call, "command", 0)
        if isinstance(node, ast.List | ast.Tuple):
            words = [
                literals.text(each, {**self.code.known, "sys.executable": "python"}) for each in node.elts
            ]
            words = ["pip", *words] if name.startswith("pip.") else words
            return [(words[0].rpartition("/")[2], *words[1:])] if all(words) and words else []
        line = literals.text(node, self.code.known) if node is not None else ""
        return [each.words for each in shell.commands(line, self.code.known)]

    def _dotted(self, node: ast.expr) -> str:
        if isinstance(node, ast.Attribute):
            before = self._dotted(node.value)
            return f"{before}.{node.attr}" if before else ""
        if isinstance(node, ast.Call):
            inner = self._dotted(node.func)
            return "get_ipython()" if inner == "get_ipython" else ""
        return self.code.aliases.get(node.id, node.id) if isinstance(node, ast.Name) else ""

    def _text(self, call: ast.Call, name: str, place: int) -> str:
        node = _argument(call, name, place)
        return literals.text(node, self.code.known) if node is not None else ""

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
        if start < 0 or not isinstance(self.parents.get(node), ast.Expr):
            return False
        source = self.read.source
        before = source[source.rfind("\n", 0, start) + 1 : start]
        behind = source[end:].partition("\n")[0].strip()
        return not before.strip() and (not behind or behind.startswith("#"))


def _untouchable(wish: Wish) -> Wish:
    return replace(wish, start=-1, end=-1, whole=False)


def _switched_off(argument: str, value: ast.expr, name: str) -> str:
    """Return what to write instead of an argument that fetches weights; "" for one that does not."""
    if argument == "pretrained" and _is(value, True):
        return "False"
    if argument == "encoder_weights" and isinstance(value, ast.Constant) and isinstance(value.value, str):
        return "None"
    if argument in _WEIGHTS and name.startswith(_WEIGHTS[argument]) and not _is(value, None):
        return "None"
    return ""


def of_command(words: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Yield what one command wants, as fields of wishes; nothing for a command that needs no internet."""
    own = shell.pip_words(words)
    if own is not None and (not own or own[0] in ("install", "uninstall", "download", "wheel")):
        yield {"kind": Kind.INSTALL, "target": shlex.join(words), "detail": own[0] if own else ""}
    elif repository := shell.cloned(words):
        yield {
            "kind": Kind.CLONE,
            "target": repository.address,
            "into": repository.into,
            "detail": repository.ref,
        }
    elif files := shell.downloaded(words):
        yield from ({"kind": Kind.DOWNLOAD, "target": each.address, "into": each.into} for each in files)
    elif source := shell.of_kaggle(words):
        yield {"kind": Kind.KAGGLE, "target": source[1], "detail": source[0]}
    elif hub := shell.of_hub(words):
        yield {"kind": Kind.HUB, "target": hub.address, "into": hub.into}
    elif corpus := shell.of_corpus(words):
        yield {"kind": Kind.CORPUS, "target": corpus[1], "detail": corpus[0]}
    elif "login" in words[1:3] and words[0] in _LOGINS:
        yield {"kind": Kind.ACCOUNT, "target": f"{words[0]} login"}
    elif shell.is_system(words):
        yield {"kind": Kind.SYSTEM, "target": shlex.join(words)}
