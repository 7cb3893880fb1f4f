"""Calls of the project's own code that would fetch weights or data when a model is made: found in the syntax.

The notebook has no internet. Weights that the checkpoint replaces are switched off; others travel in the
kit and are found through their caches (see `kit_caches`).
"""

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_kit import references
from offline_kit.model import Finding, OwnCode, Severity
from offline_kit.own import sources as own_sources
from offline_kit.weights.hub_folders import is_hub_id

_UNKNOWN = object()
_REPLACED = "the checkpoint replaces these weights"
_CACHED = (
    "fetch it once, copy its cache into 'caches/{0}' of the project, and set preprocessing = [\"caches\"]"
)
_TORCH_CACHE = _CACHED.format("torch") + " (a copy of ~/.cache/torch)"
_NLTK_CACHE = _CACHED.format("nltk_data") + " (a copy of ~/nltk_data)"
_HUB = (
    "save it with save_pretrained(...) into a folder of the project, name that in `checkpoints` or "
    "`preprocessing`, and load it from there; what a checkpoint replaces is made from its config alone (from_config)"
)
_SHIP = "fetch it once, name the file in `preprocessing`, and read it from there"

_SWITCHES: tuple[tuple[str, str, str], ...] = (
    ("timm.create_model", "pretrained", "False"),
    ("timm.models.", "pretrained", "False"),
    ("torchvision.models.", "pretrained", "False"),
    ("torchvision.models.", "weights", "None"),
    ("torchvision.models.", "weights_backbone", "None"),
    ("segmentation_models_pytorch.", "encoder_weights", "None"),
    ("pretrainedmodels.", "pretrained", "None"),
    ("open_clip.create_model", "pretrained", "None"),
    ("keras.applications.", "weights", "None"),
    ("tensorflow.keras.applications.", "weights", "None"),
)
"""Prefix of the call's full name, its keyword that fetches, and the value that does not."""
_ON_BY_DEFAULT = {
    **dict.fromkeys(("keras.applications.", "tensorflow.keras.applications."), "'imagenet'"),
    "segmentation_models_pytorch.": "'imagenet'",
}
"""Prefixes whose keyword fetches when it is not said, and what it stands for then."""
_ALWAYS: tuple[tuple[str, str], ...] = (
    ("torch.hub.load_state_dict_from_url", _TORCH_CACHE),
    ("torch.hub.load", _TORCH_CACHE),
    ("torch.utils.model_zoo.load_url", _TORCH_CACHE),
    ("nltk.download", _NLTK_CACHE),
    (
        "spacy.cli.download",
        "add the model's own wheel to the requirements, by its address, and load it by its name",
    ),
    ("huggingface_hub.hf_hub_download", _HUB),
    ("huggingface_hub.snapshot_download", _HUB),
    ("datasets.load_dataset", _SHIP),
    ("kagglehub.", "attach it to the notebook: dataset_sources, kernel_sources or model_sources"),
    ("gdown.download", _SHIP),
    ("wget.download", _SHIP),
    ("urllib.request.urlretrieve", _SHIP),
    ("tensorflow_hub.load", _SHIP),
    ("gensim.downloader.load", _SHIP),
    ("whisper.load_model", _SHIP),
)
"""Prefix of calls that always fetch, and the remedy."""
_BY_NAME = (
    "transformers.",
    "sentence_transformers.",
    "diffusers.",
    "peft.",
    "efficientnet_pytorch.",
    "tokenizers.",
)
"""Packages whose from_pretrained takes a hub's name or a folder."""
_ASIDE = frozenset({"tests", "test", "docs", "examples", "scripts", "notebooks"})
"""Folders of a package that its models do not come from."""


@dataclass(frozen=True)
class _Place:
    """What an expression may refer to where it stands."""

    defaults: Mapping[str, ast.expr]
    """Defaults of the parameters of the functions around it."""
    constants: Mapping[str, ast.expr]
    """What the module and its classes of settings bind: "NAME" and "CFG.name"."""


def findings(project: Path, files: Iterable[Path], params: Mapping[str, object]) -> tuple[Finding, ...]:
    """Return a finding for each call in these Python files that would fetch something; nothing is imported.

    `params` are those of the notebook: what they switch off is no finding.
    """
    found: list[Finding] = []
    for path in dict.fromkeys(files):
        tree = references.parse(path) if path.suffix == ".py" else None
        if tree is not None:
            shown = path.relative_to(project).as_posix() if path.is_relative_to(project) else path.name
            found += _Reader(project, shown, tree, params).findings()
    return tuple(found)


def of_code(
    project: Path, packages: Iterable[Path], own: OwnCode, params: Mapping[str, object]
) -> tuple[Finding, ...]:
    """Return the findings of all code that travels: loose modules, and what own packages are built from."""
    loose = [source.path for source in own.sources]
    built = [root / name for root in packages for name in own_sources.package_tree(root).names]
    aside = (path for path in (*loose, *built) if not _ASIDE & {part.lower() for part in path.parts[-4:-1]})
    return findings(project, aside, params)


class _Reader:
    """The calls of one module, with the full names that its imports give them."""

    def __init__(self, project: Path, shown: str, tree: ast.Module, params: Mapping[str, object]) -> None:
        self.project, self.shown, self.tree, self.params = project, shown, tree, params
        self.names = _imported_names(tree)
        self.constants = _constants(tree)

    def findings(self) -> Iterator[Finding]:
        """Yield the findings in the order of the lines."""
        found = [(call.lineno, finding) for call, place in _calls(self.tree, _Place({}, self.constants))
                 for finding in self.of(call, place)]  # fmt: skip
        yield from (finding for _, finding in sorted(found, key=lambda pair: pair[0]))

    def of(self, call: ast.Call, place: _Place) -> Iterator[Finding]:
        name = self.full_name(call.func)
        for prefix, keyword, off in _SWITCHES:
            if name.startswith(prefix) and not name.endswith("from_pretrained"):
                yield from self.switch(call, place, name, (prefix, keyword, off))
        remedy = next((remedy for prefix, remedy in _ALWAYS if name.startswith(prefix)), "")
        if remedy and not _is_local(call):
            yield self.told(call, f"calls {name}(), which fetches from the internet", remedy)
        elif name.startswith(_BY_NAME) and name.endswith((".from_pretrained", ".SentenceTransformer")):
            yield from self.from_pretrained(call, place, name)

    def switch(
        self, call: ast.Call, place: _Place, name: str, rule: tuple[str, str, str]
    ) -> Iterator[Finding]:
        """Find a keyword that fetches weights, said outright, by a parameter's default, or by its own default."""
        prefix, keyword, off = rule
        said = next((one.value for one in call.keywords if one.arg == keyword), None)
        if said is None:
            default = _ON_BY_DEFAULT.get(prefix, "")
            if default and name.rpartition(".")[2][:1].isupper() and not _has_stars(call):
                what = f"calls {name}() without {keyword}, which then is {default} and is fetched"
                yield self.told(call, what, f"write {keyword}={off}: {_REPLACED}")
            return
        text = ast.unparse(said)
        if isinstance(said, ast.Name) and said.id in self.params and not self.params[said.id]:
            return
        value = _value(said, place)
        if value in (False, None, "", "None"):
            return
        if value is _UNKNOWN and not text.endswith(("DEFAULT", "_V1", "_V2")) and "Weights" not in text:
            return
        parameter = isinstance(said, ast.Name) and said.id in place.defaults
        remedy = (
            f"set {text} = {off.lower()} in [tool.offline-kit.notebook.params]"
            if parameter and off == "False"
            else f"write {keyword}={off}"
        )
        yield self.told(
            call,
            f"calls {name}({keyword}={text}), whose weights are fetched from the internet",
            f"{remedy}: {_REPLACED}",
        )

    def from_pretrained(self, call: ast.Call, place: _Place, name: str) -> Iterator[Finding]:
        said = call.args[0] if call.args else next(
            (one.value for one in call.keywords if one.arg == "pretrained_model_name_or_path"), None
        )  # fmt: skip
        value = _value(said, place) if said is not None else _UNKNOWN
        if not is_hub_id(value) or (self.project / str(value)).exists():
            return
        what = f"calls {name.partition('.')[2]}('{value}'), which fetches it from the hub"
        yield self.told(call, what, _HUB)

    def told(self, call: ast.Call, what: str, remedy: str) -> Finding:
        where = f"{self.shown}:{call.lineno}"
        return Finding(severity=Severity.WARN, about=where, what=what, remedy=remedy)

    def full_name(self, node: ast.expr) -> str:
        """Return "torch.hub.load" for what the module's imports call so; empty for anything else."""
        steps: list[str] = []
        while isinstance(node, ast.Attribute):
            steps.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id not in self.names:
            return ""
        return ".".join([self.names[node.id], *reversed(steps)])


def _imported_names(tree: ast.Module) -> dict[str, str]:
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                found[one.asname or one.name.partition(".")[0]] = (
                    one.name if one.asname else one.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for one in node.names:
                found[one.asname or one.name] = f"{node.module}.{one.name}"
    return found


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    found: dict[str, ast.expr] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}": value for name, value in _assigned(node.body)}
        else:
            found |= dict(_assigned([node]))
    return found


def _assigned(body: Sequence[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    for node in body:
        if isinstance(node, ast.Assign):
            yield from ((one.id, node.value) for one in node.targets if isinstance(one, ast.Name))
        elif isinstance(node, ast.AnnAssign) and node.value and isinstance(node.target, ast.Name):
            yield node.target.id, node.value


def _calls(node: ast.AST, place: _Place) -> Iterator[tuple[ast.Call, _Place]]:
    """Yield every call with what its names may mean; what stands below the guard of a script is left out."""
    if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
        return
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        place = _Place({**place.defaults, **_defaults(node.args)}, place.constants)
    if isinstance(node, ast.Call):
        yield node, place
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, place)


def _defaults(arguments: ast.arguments) -> dict[str, ast.expr]:
    plain = [*arguments.posonlyargs, *arguments.args]
    unknown = ast.Name(id="?")
    found: dict[str, ast.expr] = {one.arg: unknown for one in (*plain, *arguments.kwonlyargs)}
    backwards = zip(reversed(plain), reversed(arguments.defaults), strict=False)
    found |= {one.arg: default for one, default in backwards}
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return found | {one.arg: default for one, default in pairs if default is not None}


def _value(node: ast.expr, place: _Place, depth: int = 0) -> Any:
    """Return what an expression stands for, as far as the module tells; _UNKNOWN otherwise."""
    if isinstance(node, ast.Constant):
        return node.value
    name = ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""
    known = place.defaults.get(name) or place.constants.get(name)
    return _value(known, place, depth + 1) if known is not None and depth < 5 else _UNKNOWN


def _has_stars(call: ast.Call) -> bool:
    return any(one.arg is None for one in call.keywords)


def _is_local(call: ast.Call) -> bool:
    """Whether a torch.hub.load reads a folder: source="local"."""
    return any(
        one.arg == "source" and isinstance(one.value, ast.Constant) and one.value.value == "local"
        for one in call.keywords
    )
