"""Find calls in the project's own code that would download weights or data when a model is created.

The notebook has no internet. Weights that the checkpoint replaces can be disabled; others are shipped in the
kit as caches of their libraries (see `kit_caches`). The code is parsed, never imported.
"""

import ast
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_kit.checkpoints import download_calls
from offline_kit.checkpoints.download_calls import UNKNOWN, DownloadCall, DownloadKind, Switch
from offline_kit.checkpoints.file_downloads import is_hub_id
from offline_kit.core.errors import OfflineKitError
from offline_kit.packages.own import code_files
from offline_kit.project import references
from offline_kit.project.types import Finding, OwnCode, Severity

_REPLACED = "the checkpoint replaces these weights"
_SPACY = re.compile(r"[a-z]{2,3}_\w+_(?:sm|md|lg|trf)")
"""The name of a model of spaCy's, which is a package."""
_CORPUS = re.compile(r"nltk\.(corpus\.\w+\.\w+|(\w+\.)*(word_tokenize|sent_tokenize|pos_tag|ne_chunk))")
"""Functions that read data which NLTK downloads separately."""
_ASIDE = frozenset({"tests", "test", "docs", "examples", "scripts", "notebooks"})
"""Folders of a package that its models do not come from."""


@dataclass(frozen=True)
class _Scope:
    """The names that an expression can use."""

    defaults: Mapping[str, ast.expr]
    """Defaults of the parameters of the functions around it."""
    constants: Mapping[str, ast.expr]
    """Constants of the module and of its settings classes: "NAME" and "CFG.name"."""


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
            shown_path = path.relative_to(project).as_posix() if path.is_relative_to(project) else path.name
            results += _ModuleReader((project, shown_path), tree, params, bundled).find_all()
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
    entries all code counts.
    """
    loose = [source.path for source in own.sources]
    built = [root / name for root in packages for name in code_files.read_source_tree(root).names]
    aside = (path for path in (*loose, *built) if not _ASIDE & {part.lower() for part in path.parts[-4:-1]})
    used = _imported_files(project, packages, own, entries)
    return find_downloads(
        project, (path for path in aside if used is None or path.resolve() in used), params, bundled
    )


def _imported_files(
    project: Path, packages: Sequence[Path], own: OwnCode, entries: Sequence[str]
) -> frozenset[Path] | None:
    """Return the files that the notebook imports; None if that cannot be known."""
    folders = [*(package / "src" for package in packages), *packages, *(project / root for root in own.roots)]
    roots = [*folders, project / "src", project]
    try:
        starts = [
            reference.file
            for reference in references.resolve_references(project, entries, roots)
            if reference.file
        ]
    except OfflineKitError:  # the build reports it
        return None
    return references.find_reached_files(starts, roots) if starts else None


class _ModuleReader:
    """The calls of one module, with the full names that its imports give them."""

    def __init__(
        self,
        place: tuple[Path, str],
        tree: ast.Module,
        params: Mapping[str, object],
        bundled: Collection[str],
    ) -> None:
        self.project, self.shown_path = place
        self.tree, self.params, self.bundled = tree, params, bundled
        self.names = references.map_imported_names(tree)
        self.constants = _module_constants(tree)

    def find_all(self) -> Iterator[Finding]:
        """Yield the findings in the order of the lines."""
        numbered = [(call.lineno, finding) for call, scope in _find_calls(self.tree, _Scope({}, self.constants))
                 for finding in self.find_in_call(call, scope)]  # fmt: skip
        yield from (finding for _, finding in sorted(numbered, key=lambda pair: pair[0]))

    def find_in_call(self, call: ast.Call, scope: _Scope) -> Iterator[Finding]:
        name = download_calls.resolve_name(call.func, self.names)
        active = [switch for switch in download_calls.find_switches(call, name) if self.is_on(switch, scope)]
        first = _constant_value(call.args[0], scope) if call.args else UNKNOWN
        if active and not self.is_cached(name, first):
            yield self.report_switches(call, scope, name, active)
        download = download_calls.find_download(name, first if isinstance(first, str) else "")
        if download and download.kind is DownloadKind.MODEL_ID and download.remedy:
            yield from self.find_in_hub_call(call, scope, name, download)
        elif download and download.remedy:
            if not self.is_available(call, name, first, download):
                yield self.make_finding(
                    call, f"calls {name}(), which downloads from the internet", download.remedy
                )
        elif name == "spacy.load" and isinstance(first, str) and _SPACY.fullmatch(first):
            if not (self.project / first).exists() and first.replace("_", "-") not in self.bundled:
                yield self.make_finding(
                    call,
                    f"calls spacy.load('{first}'), which is a separate package",
                    download_calls.ADD_WHEEL,
                )
        elif _CORPUS.fullmatch(name) and not (self.project / "caches/nltk_data").exists():
            yield self.make_finding(
                call,
                f"calls {name}(), which reads data that NLTK downloads separately",
                download_calls.NLTK_CACHE,
            )

    def is_available(self, call: ast.Call, name: str, target: object, download: DownloadCall) -> bool:
        """Whether the target of a call is in the project, in a shipped cache, or a local folder."""
        if download.kind is DownloadKind.OTHER and (self.project / str(target)).exists():
            return True
        cached = download.remedy == download_calls.TORCH_CACHE and self.is_cached(name, target)
        return cached or _is_local(call)

    def is_cached(self, name: str, target: object) -> bool:
        """Whether a shipped copy of the library's cache contains the target of a call."""
        text = str(target) if isinstance(target, str) else ""
        hub, torch = self.project / "caches/huggingface/hub", self.project / "caches/torch/hub"
        if name.startswith("torch.hub.load") and name != "torch.hub.load_state_dict_from_url":
            return any(torch.glob(f"{text.partition(':')[0].replace('/', '_')}_*")) if text else False
        if name.startswith(("torch.hub", "torch.utils.model_zoo")):
            return bool(text) and (torch / "checkpoints" / text.rpartition("/")[2]).is_file()
        if name.startswith("torchvision."):
            return any(torch.glob(f"checkpoints/{name.rpartition('.')[2]}-*.pth"))
        if name.startswith("timm."):
            return bool(text) and any(hub.glob(f"models--timm--{text.partition('.')[0]}.*"))
        return bool(text) and (hub / f"models--{text.replace('/', '--')}").is_dir()

    def is_on(self, switch: Switch, scope: _Scope) -> bool:
        """Whether an argument downloads: by its value, by a parameter's default, or by its own default."""
        expression = switch.expression
        if (
            isinstance(expression, ast.Name)
            and expression.id in self.params
            and not self.params[expression.id]
        ):
            return False
        return switch.fetches(_constant_value(expression, scope) if expression is not None else UNKNOWN)

    def report_switches(self, call: ast.Call, scope: _Scope, name: str, active: Sequence[Switch]) -> Finding:
        """Return the finding of a call with arguments that fetch weights."""
        first = active[0]
        off = " and ".join(f"{switch.argument}={switch.off}" for switch in active)
        if first.expression is None:
            message = (
                f"calls {name}() without {first.argument}, so it is {first.default}, which is downloaded"
            )
            return self.make_finding(call, message, f"write {off}: {_REPLACED}")
        text = ast.unparse(first.expression)
        by_parameter = isinstance(first.expression, ast.Name) and first.expression.id in scope.defaults
        remedy = f"write {off}"
        if by_parameter and first.off == "False" and len(active) == 1:
            remedy = f"set {text} = false in [tool.offline-kit.notebook.params]"
        shown_argument = text if first.is_positional else f"{first.argument}={text}"
        message = f"calls {name}({shown_argument}), whose weights are downloaded from the internet"
        return self.make_finding(call, message, f"{remedy}: {_REPLACED}")

    def find_in_hub_call(
        self, call: ast.Call, scope: _Scope, name: str, download: DownloadCall
    ) -> Iterator[Finding]:
        """Find models that are loaded by a hub's id; a pipeline without one downloads a model for its task."""
        argument, position = download.source
        expression = next((keyword.value for keyword in call.keywords if keyword.arg == argument), None)
        expression = expression or (call.args[position] if position < len(call.args) else None)
        value = _constant_value(expression, scope) if expression is not None else UNKNOWN
        if expression is None and name == "transformers.pipeline" and not _has_stars(call):
            yield self.make_finding(
                call, "calls pipeline() without a model, which downloads one for its task", download.remedy
            )
        if not is_hub_id(value) or (self.project / str(value)).exists() or self.is_cached(name, value):
            return
        message = f"calls {name.partition('.')[2]}('{value}'), which downloads it from the hub"
        by_name = f"write EfficientNet.from_name('{value}'): {_REPLACED}"
        yield self.make_finding(
            call, message, by_name if name.startswith("efficientnet_pytorch.") else download.remedy
        )

    def make_finding(self, call: ast.Call, message: str, remedy: str) -> Finding:
        position = f"{self.shown_path}:{call.lineno}"
        return Finding(severity=Severity.WARN, about=position, what=message, remedy=remedy)


def _module_constants(tree: ast.Module) -> dict[str, ast.expr]:
    constants: dict[str, ast.expr] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            constants |= {f"{node.name}.{name}": value for name, value in _assigned_names(node.body)}
        else:
            constants |= dict(_assigned_names([node]))
    return constants


def _assigned_names(body: Sequence[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    for node in body:
        if isinstance(node, ast.Assign):
            yield from ((name.id, node.value) for name in node.targets if isinstance(name, ast.Name))
        elif isinstance(node, ast.AnnAssign) and node.value and isinstance(node.target, ast.Name):
            yield node.target.id, node.value


def _find_calls(node: ast.AST, scope: _Scope) -> Iterator[tuple[ast.Call, _Scope]]:
    """Yield every call with its scope; code below `if __name__ == "__main__"` is left out."""
    if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
        return
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        scope = _Scope({**scope.defaults, **_parameter_defaults(node.args)}, scope.constants)
    if isinstance(node, ast.Call):
        yield node, scope
    for child in ast.iter_child_nodes(node):
        yield from _find_calls(child, scope)


def _parameter_defaults(arguments: ast.arguments) -> dict[str, ast.expr]:
    plain = [*arguments.posonlyargs, *arguments.args]
    unknown = ast.Name(id="?")
    defaults: dict[str, ast.expr] = {parameter.arg: unknown for parameter in (*plain, *arguments.kwonlyargs)}
    backwards = zip(reversed(plain), reversed(arguments.defaults), strict=False)
    defaults |= {parameter.arg: default for parameter, default in backwards}
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return defaults | {parameter.arg: default for parameter, default in pairs if default is not None}


def _constant_value(node: ast.expr, scope: _Scope, depth: int = 0) -> Any:
    """Return the value of an expression if the module defines it, else UNKNOWN."""
    if isinstance(node, ast.Constant):
        return node.value
    name = ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""
    bound = scope.defaults.get(name) or scope.constants.get(name)
    return _constant_value(bound, scope, depth + 1) if bound is not None and depth < 5 else UNKNOWN


def _has_stars(call: ast.Call) -> bool:
    return any(keyword.arg is None for keyword in call.keywords)


def _is_local(call: ast.Call) -> bool:
    """Whether a torch.hub.load reads a folder: source="local"."""
    return any(
        keyword.arg == "source" and isinstance(keyword.value, ast.Constant) and keyword.value.value == "local"
        for keyword in call.keywords
    )
