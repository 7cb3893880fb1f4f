"""Find calls in the project's own code that would download weights or data when a model is created.

The notebook has no internet. Weights that the checkpoint replaces can be disabled; others are shipped in the
kit as caches of their libraries (see `kit_runtime.use_caches`). The code is parsed, never imported.
"""

import ast
import re
from collections import ChainMap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from offline_kit.checkpoints import download_calls
from offline_kit.checkpoints.download_calls import UNKNOWN, DownloadCall, DownloadKind, Switch
from offline_kit.checkpoints.file_downloads import is_hub_id
from offline_kit.core.errors import OfflineKitError
from offline_kit.packages import code_files
from offline_kit.project import references
from offline_kit.project.types import Finding, OwnCode, Severity

_REPLACED = "the checkpoint replaces these weights"
_SPACY = re.compile(r"[a-z]{2,3}_\w+_(?:sm|md|lg|trf)")
# Functions that read data which NLTK downloads separately
_CORPUS = re.compile(r"nltk\.(corpus\.\w+\.\w+|(\w+\.)*(word_tokenize|sent_tokenize|pos_tag|ne_chunk))")
# Folders of a package that its models do not come from
_ASIDE = frozenset({"tests", "test", "docs", "examples", "scripts", "notebooks"})
# The names that an expression can use: defaults of the functions around it, then the module's constants.
# Constants are those of the module and of its settings classes: "NAME" and "CFG.name".
_Scope = ChainMap[str, ast.expr]


def find_downloads(
    project: Path, files: Iterable[Path], params: Mapping[str, object], bundled: Collection[str] = ()
) -> tuple[Finding, ...]:
    """Return a finding for each call in these Python files that would download something; nothing is imported.

    `params` are those of the notebook: calls that they disable are no findings. `bundled` are normalized names of packages
    in the kit.
    """
    results: list[Finding] = []
    for path in dict.fromkeys(files):
        tree = references.parse_module(path) if path.suffix == ".py" else None
        if tree is not None:
            reader = _DownloadFinder(project, path, references.map_imported_names(tree), params, bundled)
            numbered = [
                (call.lineno, finding)
                for call, scope in _find_calls(tree, ChainMap(_read_constants(tree)))
                for finding in reader.read_call(call, scope)
            ]
            results += [finding for _, finding in sorted(numbered, key=lambda pair: pair[0])]
    return tuple(results)


def find_code_downloads(
    project: Path,
    packages: Sequence[Path],
    own: OwnCode,
    params: Mapping[str, object],
    bundled: Collection[str] = (),
    entries: Sequence[str] = (),
) -> tuple[Finding, ...]:
    """Return the findings of the code that travels: loose modules, and what own packages are built from.

    `entries` are the references that the notebook starts from; code that they do not import is left out. Without
    entries, or if what they import cannot be known, all code counts.
    """
    files = [source.path for source in own.sources]
    files += [root / name for root in packages for name in code_files.read_source_tree(root).names]
    # Tests and examples beside the models download what they like
    files = [path for path in files if not _ASIDE & {part.lower() for part in path.parts[-4:-1]}]
    folders = [*(package / "src" for package in packages), *packages, *(project / root for root in own.roots)]
    roots = [*folders, project / "src", project]
    try:
        resolved = references.resolve_references(project, entries, roots)
    except OfflineKitError:  # the build reports it
        resolved = {}
    starts = [file for file in resolved.values() if file]
    used = references.find_reached_files(starts, roots) if starts else None
    if used is not None:
        files = [path for path in files if path.resolve() in used]
    return find_downloads(project, files, params, bundled)


class _DownloadFinder:
    """Judges the calls of one module."""

    def __init__(
        self,
        project: Path,
        path: Path,
        names: Mapping[str, str],
        params: Mapping[str, object],
        bundled: Collection[str],
    ) -> None:
        self.project, self.names, self.params, self.bundled = project, names, params, bundled
        self.shown_path = path.relative_to(project).as_posix() if path.is_relative_to(project) else path.name

    def read_call(self, call: ast.Call, scope: _Scope) -> Iterator[Finding]:
        """Yield what a call would download."""
        name = download_calls.resolve_name(call.func, self.names)
        active = [switch for switch in download_calls.find_switches(call, name) if self.is_on(switch, scope)]
        first = _constant_value(call.args[0], scope) if call.args else UNKNOWN
        if active and not self.is_cached(name, first):
            yield self.report_switches(call, scope, name, active)
        download = download_calls.find_download(name, first if isinstance(first, str) else "")
        if download and download.kind is DownloadKind.MODEL_ID and download.remedy:
            yield from self.read_hub_call(call, scope, name, download)
        elif download and download.remedy:
            if not self.is_available(call, name, first, download):
                remedy = f"{download.remedy}{': ' * bool(download.instead)}{download.instead}"
                yield self.make_finding(call, f"calls {name}(), which downloads from the internet", remedy)
        elif name == "spacy.load" and isinstance(first, str) and _SPACY.fullmatch(first):
            if not (self.project / first).exists() and first.replace("_", "-") not in self.bundled:
                message = f"calls spacy.load('{first}'), which is a separate package"
                yield self.make_finding(call, message, download_calls.REMEDIES["add_wheel"])
        elif _CORPUS.fullmatch(name) and not (self.project / "caches/nltk_data").exists():
            message = f"calls {name}(), which reads data that NLTK downloads separately"
            yield self.make_finding(call, message, download_calls.REMEDIES["nltk_cache"])

    def is_available(self, call: ast.Call, name: str, target: object, download: DownloadCall) -> bool:
        """Whether the target of a call is in the project, in a shipped cache, or a local folder (source="local")."""
        if download.kind is DownloadKind.OTHER and (self.project / str(target)).exists():
            return True
        if download.remedy == download_calls.REMEDIES["torch_cache"] and self.is_cached(name, target):
            return True
        words = [
            (word.arg, word.value.value) for word in call.keywords if isinstance(word.value, ast.Constant)
        ]
        return ("source", "local") in words

    def is_cached(self, name: str, target: object) -> bool:
        """Whether a shipped copy of the library's cache contains the target of a call."""
        text = target if isinstance(target, str) else ""
        hub, torch = self.project / "caches/huggingface/hub", self.project / "caches/torch/hub"
        # Layouts of the caches: https://docs.pytorch.org/docs/stable/hub.html and
        # https://huggingface.co/docs/huggingface_hub/guides/manage-cache
        if name.startswith("torchvision."):
            return any(torch.glob(f"checkpoints/{name.rpartition('.')[2]}-*.pth"))
        if not text:
            return False
        if name.startswith("torch.hub.load") and name != "torch.hub.load_state_dict_from_url":
            return any(torch.glob(f"{text.partition(':')[0].replace('/', '_')}_*"))
        if name.startswith(("torch.hub", "torch.utils.model_zoo")):
            return (torch / "checkpoints" / text.rpartition("/")[2]).is_file()
        if name.startswith("timm."):
            return any(hub.glob(f"models--timm--{text.partition('.')[0]}.*"))
        return (hub / f"models--{text.replace('/', '--')}").is_dir()

    def is_on(self, switch: Switch, scope: _Scope) -> bool:
        """Whether an argument downloads: by its value, by a parameter's default, or by its own default."""
        node = switch.expression
        if isinstance(node, ast.Name) and not self.params.get(node.id, True):
            return False
        return switch.fetches(_constant_value(node, scope) if node is not None else UNKNOWN)

    def report_switches(self, call: ast.Call, scope: _Scope, name: str, active: Sequence[Switch]) -> Finding:
        """Return the finding of a call with arguments that fetch weights."""
        first = active[0]
        remedy = f"write {' and '.join(f'{switch.argument}={switch.off}' for switch in active)}"
        if first.expression is None:
            message = (
                f"calls {name}() without {first.argument}, so it is {first.default}, which is downloaded"
            )
            return self.make_finding(call, message, f"{remedy}: {_REPLACED}")
        text = ast.unparse(first.expression)
        by_parameter = any(text in defaults for defaults in scope.maps[:-1])
        if by_parameter and first.off == "False" and len(active) == 1:
            remedy = f"set {text} = false in [tool.offline-kit.notebook.params]"
        shown_argument = text if first.is_positional else f"{first.argument}={text}"
        message = f"calls {name}({shown_argument}), whose weights are downloaded from the internet"
        return self.make_finding(call, message, f"{remedy}: {_REPLACED}")

    def read_hub_call(
        self, call: ast.Call, scope: _Scope, name: str, download: DownloadCall
    ) -> Iterator[Finding]:
        """Find models that are loaded by a hub's id; a pipeline without one downloads a model for its task."""
        argument, position = download.source
        expression = next((keyword.value for keyword in call.keywords if keyword.arg == argument), None)
        expression = expression or (call.args[position] if position < len(call.args) else None)
        value = _constant_value(expression, scope) if expression is not None else UNKNOWN
        has_stars = any(keyword.arg is None for keyword in call.keywords)
        if expression is None and name == "transformers.pipeline" and not has_stars:
            message = "calls pipeline() without a model, which downloads one for its task"
            yield self.make_finding(call, message, download.remedy)
        if is_hub_id(value) and not (self.project / str(value)).exists() and not self.is_cached(name, value):
            message = f"calls {name.partition('.')[2]}('{value}'), which downloads it from the hub"
            remedy = download.remedy
            if name.startswith("efficientnet_pytorch."):
                remedy = f"write EfficientNet.from_name('{value}'): {_REPLACED}"
            yield self.make_finding(call, message, remedy)

    def make_finding(self, call: ast.Call, message: str, remedy: str) -> Finding:
        position = f"{self.shown_path}:{call.lineno}"
        return Finding(severity=Severity.WARN, about=position, what=message, remedy=remedy)


def _read_constants(tree: ast.Module) -> dict[str, ast.expr]:
    """Return what the module assigns to names ("NAME") and its classes to theirs ("CFG.name")."""
    classes = {f"{node.name}.": node.body for node in tree.body if isinstance(node, ast.ClassDef)}
    constants: dict[str, ast.expr] = {}
    for prefix, body in {"": tree.body, **classes}.items():
        for node in body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            if isinstance(node, ast.AnnAssign):
                targets = [node.target]
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
                constants |= {
                    f"{prefix}{name.id}": node.value for name in targets if isinstance(name, ast.Name)
                }
    return constants


def _find_calls(node: ast.AST, scope: _Scope) -> Iterator[tuple[ast.Call, _Scope]]:
    """Yield every call with its scope; code below `if __name__ == "__main__"` is left out."""
    if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
        return
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        scope = scope.new_child(_parameter_defaults(node.args))
    if isinstance(node, ast.Call):
        yield node, scope
    for child in ast.iter_child_nodes(node):
        yield from _find_calls(child, scope)


def _parameter_defaults(arguments: ast.arguments) -> dict[str, ast.expr]:
    """Return each parameter with its default, or with a name that nothing defines."""
    plain = [*arguments.posonlyargs, *arguments.args]
    names = [parameter.arg for parameter in (*plain, *arguments.kwonlyargs)]
    required = [None] * (len(plain) - len(arguments.defaults))
    defaults = [*required, *arguments.defaults, *arguments.kw_defaults]
    return {name: default or ast.Name(id="?") for name, default in zip(names, defaults, strict=True)}


def _constant_value(node: ast.expr, scope: _Scope, depth: int = 0) -> Any:
    """Return the value of an expression if the module defines it, else UNKNOWN."""
    if isinstance(node, ast.Constant):
        return node.value
    name = ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""
    bound = scope.get(name)
    return _constant_value(bound, scope, depth + 1) if bound is not None and depth < 5 else UNKNOWN
