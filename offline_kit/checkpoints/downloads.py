"""Find what the project's code and its trained files would still download: the notebook has no internet.

Code is parsed, never imported. Weights that the checkpoint replaces can be disabled; others are shipped in the kit as
caches of their libraries (see `kit_runtime.use_caches`). Of model folders only the JSON is read: `_name_or_path` is
harmless history; code, tokenizers and base models on a hub are not. Of Lightning's checkpoints the saved
hyper-parameters are read from the pickle, without loading it.
"""

import ast
import json
import re
from collections import ChainMap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from offline_kit.checkpoints import download_calls
from offline_kit.checkpoints.download_calls import UNKNOWN, DownloadCall, DownloadKind, Switch
from offline_kit.checkpoints.pickle_opcodes import walk_dicts
from offline_kit.checkpoints.pickle_streams import read_torch_object
from offline_kit.core.errors import OfflineKitError
from offline_kit.packages import code_files
from offline_kit.project import references
from offline_kit.project.config import Config
from offline_kit.project.types import Checkpoint, CheckpointKind, Finding, OwnCode, Severity

_REPLACED = "the checkpoint replaces these weights"
_SPACY = re.compile(r"[a-z]{2,3}_\w+_(?:sm|md|lg|trf)")
# Functions that read data which NLTK downloads separately
_CORPUS = re.compile(r"nltk\.(corpus\.\w+\.\w+|(\w+\.)*(word_tokenize|sent_tokenize|pos_tag|ne_chunk))")
# Folders of a package that its models do not come from
_ASIDE = frozenset({"tests", "test", "docs", "examples", "scripts", "notebooks"})
# The names that an expression can use: defaults of the functions around it, then the module's constants.
# Constants are those of the module and of its settings classes: "NAME" and "CFG.name".
_Scope = ChainMap[str, ast.expr]
_WEIGHTS = frozenset({"model.safetensors", "pytorch_model.bin", "tf_model.h5", "model.ckpt.index"})
_TOKENIZER = frozenset(
    {"tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model", "merges.txt"}
    | {"sentencepiece.bpe.model", "tokenizer.model", "source.spm"}
)
_PROCESSOR = frozenset({"preprocessor_config.json", "processor_config.json"})
# Model types that take no text: they need an image processor instead of a tokenizer
_TEXT_FREE = (
    *("vit", "swin", "convnext", "beit", "deit", "resnet"),
    *("segformer", "detr", "dinov2", "timm", "wav2vec2"),
)
# Settings are small; an index of sharded weights can have some megabytes
_MAX_JSON_BYTES = 16 << 20
# Hyper-parameters that download weights if they are true
_SWITCHES = frozenset({"pretrained", "use_pretrained", "pretrained_backbone", "backbone_pretrained"})
# Hyper-parameters that name the weights to download
_WEIGHT_NAMES = frozenset({"encoder_weights", "backbone_weights", "pretrained_weights"})


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
    config: Config, own: OwnCode, bundled: Collection[str] = (), entries: Sequence[str] = ()
) -> tuple[Finding, ...]:
    """Return the findings of the code that travels: loose modules, and what own packages are built from.

    `entries` are the references that the notebook starts from; code that they do not import is left out. Without
    entries, or if what they import cannot be known, all code counts.
    """
    files = [source.path for source in own.sources]
    files += [root / name for root in config.packages for name in code_files.read_source_tree(root).names]
    # Tests and examples beside the models download what they like
    files = [path for path in files if not _ASIDE & {part.lower() for part in path.parts[-4:-1]}]
    roots = [*config.code_roots, *(config.project / root for root in own.roots)]
    try:
        resolved = references.resolve_references(config.project, entries, roots)
    except OfflineKitError:  # the build reports it
        resolved = {}
    starts = [file for file in resolved.values() if file]
    used = references.find_reached_files(starts, roots) if starts else None
    if used is not None:
        files = [path for path in files if path.resolve() in used]
    return find_downloads(config.project, files, config.notebook.params, bundled)


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


def check_hub_folders(
    checkpoints: Sequence[Checkpoint], other_files: Sequence[Checkpoint] = ()
) -> tuple[Finding, ...]:
    """Return what the folders among the checkpoints would download; `other_files` are the preprocessing files."""
    folders: dict[PurePosixPath, dict[str, Path]] = {}
    for file in (*checkpoints, *other_files):
        path = PurePosixPath(file.original)
        folders.setdefault(path.parent, {})[path.name] = file.path
    all_names = {name for files in folders.values() for name in files}
    findings: list[Finding] = []
    for folder, files in sorted(folders.items()):
        for name in ("config.json", "adapter_config.json", "tokenizer_config.json"):
            findings += _check_settings(folder / name, read_settings(files.get(name)), files)
        findings += _check_model_folder(folder, read_settings(files.get("config.json")), files, all_names)
    return tuple(findings)


def check_hyper_parameters(
    checkpoints: Sequence[Checkpoint], params: Mapping[str, object]
) -> tuple[Finding, ...]:
    """Return a finding for each hyper-parameter of Lightning's checkpoints that downloads weights.

    The notebook's `params` override saved ones: what they switch off is no finding.
    """
    findings: dict[str, Finding] = {}
    for checkpoint in checkpoints:
        is_lightning = checkpoint.kind is CheckpointKind.LIGHTNING
        saved = _read_dicts(checkpoint) if is_lightning else ()
        items = [item for settings in saved for item in settings.items()]
        for key, value in items:
            if key and _fetches_weights(key, value) and params.get(key, True):
                remedy = f"set {key} = false in [tool.offline-kit.notebook.params]"
                if key in _WEIGHT_NAMES:
                    remedy = f'pass `{key} or None` in the model, and set {key} = "" in [tool.offline-kit.notebook.params]'
                what = f"was saved with the hyper-parameter {key} = {value!r}: creating the model would download weights"
                remedy = f"{remedy}; the checkpoint replaces them"
                # One finding for five folds of one training.
                findings.setdefault(f"{key}={value}", _warn(checkpoint.original, what, remedy))
    return tuple(findings.values())


def read_saved_names(checkpoint: Checkpoint) -> frozenset[str]:
    """Return all keys in a torch file, names of saved hyper-parameters included; none for other files."""
    return frozenset(key for settings in _read_dicts(checkpoint) for key in settings if key)


def _read_dicts(checkpoint: Checkpoint) -> list[dict[str | None, Any]]:
    is_torch = checkpoint.kind in (CheckpointKind.LIGHTNING, CheckpointKind.TORCH_ZIP)
    return list(walk_dicts(read_torch_object(checkpoint.path))) if is_torch else []


def is_hub_id(text: object) -> bool:
    """Whether a text can be a repository on a hub ("bert-base-uncased", "org/name") and is no path."""
    if not isinstance(text, str) or not text or text.startswith(("/", ".", "~", "\\")) or text.count("/") > 1:
        return False
    return not text.endswith("/") and all(sign.isalnum() or sign in "-_./" for sign in text)


def read_settings(path: Path | None) -> dict[str, Any]:
    """Return the JSON object in a file; empty if there is none."""
    try:
        if path is None or path.stat().st_size > _MAX_JSON_BYTES:
            return {}
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _warn(about: str, what: str, remedy: str) -> Finding:
    return Finding(severity=Severity.WARN, about=about, what=what, remedy=remedy)


def _check_settings(
    path: PurePosixPath, content: Mapping[str, Any], files: Mapping[str, Path]
) -> Iterator[Finding]:
    """Find code and base models on a hub that a settings file names."""
    mapped = content.get("auto_map")
    values = mapped.values() if isinstance(mapped, dict) else ()
    entries = [entry for value in values for entry in (value if isinstance(value, list) else [value])]
    # "org/name--modeling.Net" is code on the hub, "modeling.Net" code in the folder itself.
    texts = [entry.rpartition("--") for entry in entries if isinstance(entry, str) and "." in entry]
    for module, repository in sorted({(name.partition(".")[0], hub) for hub, _, name in texts}):
        if repository or f"{module}.py" not in files:
            origin = f"in '{module}.py', which is not in the folder"
            if repository:
                origin = f"on the hub, at '{repository}'"
            remedy = (
                f"copy '{module}.py' into the folder, write \"{module}.…\" without the hub's name into "
                "`auto_map`, and set trust_remote_code = true in the `params` of its `models` entry (code of yours: "
                f'from_pretrained(..., trust_remote_code=True)); or name your copy: model = "src/{module}.py:Class"'
            )
            yield _warn(path.as_posix(), f"uses code {origin} (`auto_map`)", remedy)
    base = content.get("base_model_name_or_path")
    if path.name == "adapter_config.json" and is_hub_id(base):
        remedy = (
            "merge it (model.merge_and_unload().save_pretrained(...)) and ship that folder, or ship the base "
            "model's folder too and load the adapter onto it"
        )
        what = f"is an adapter of '{base}', which would be downloaded from the hub"
        yield _warn(path.as_posix(), what, remedy)


def _check_model_folder(
    folder: PurePosixPath, config: Mapping[str, Any], files: Mapping[str, Path], anywhere: set[str]
) -> Iterator[Finding]:
    """Find what a model folder lacks and from_pretrained would download."""
    kind, location = str(config.get("model_type", "")), (folder / "config.json").as_posix()
    if not kind or not any(name in _WEIGHTS or ".safetensors" in name or ".bin" in name for name in files):
        return
    needed, title, saver = (_PROCESSOR, "processor", "image processor")
    if not kind.startswith(_TEXT_FREE):
        needed, title, saver = (_TOKENIZER, "tokenizer", "tokenizer")
    if not needed & anywhere:
        source = config.get("_name_or_path")
        what = f"has no {title} beside it; downloading one needs the internet"
        if is_hub_id(source):
            what = f"has no {title} beside it, which would be downloaded from the hub's '{source}'"
        remedy = f"save the {saver} into the same folder: {title}.save_pretrained('{folder}')"
        yield _warn(location, what, remedy)
    backbone = config.get("backbone")
    if config.get("use_pretrained_backbone") and is_hub_id(backbone):
        what = (
            f"downloads the weights of its backbone '{backbone}' when it is created (use_pretrained_backbone)"
        )
        remedy = "set use_pretrained_backbone to false in it: the folder's own weights replace them"
        yield _warn(location, what, remedy)


def _fetches_weights(key: str, value: Any) -> bool:
    if isinstance(value, str):
        names_weights = value.lower().startswith(("imagenet", "default"))
        return bool(value) and (key in _WEIGHT_NAMES or (key in _SWITCHES and names_weights))
    return value is True and key in _SWITCHES
