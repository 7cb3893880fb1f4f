"""Which calls of known libraries fetch weights or data, told from their names and arguments alone.

The code of a project and the cells of a notebook are both looked through with this; what an argument's
expression stands for is theirs to find out.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

UNKNOWN: Any = object()
"""The value of an expression that cannot be told."""

BY_HUB_ID = {
    "transformers.pipeline": ("model", 1),
    "sentence_transformers.SentenceTransformer": ("model_name_or_path", 0),
    "sentence_transformers.CrossEncoder": ("model_name", 0),
    "vllm.LLM": ("model", 0),
    "vllm.EngineArgs": ("model", 0),
    "vllm.AsyncEngineArgs": ("model", 0),
    "sglang.Engine": ("model_path", 0),
    "lmdeploy.pipeline": ("model_path", 0),
    "ctranslate2.Translator": ("model_path", 0),
    "faster_whisper.WhisperModel": ("model_size_or_path", 0),
    "FlagEmbedding.FlagModel": ("model_name_or_path", 0),
    "FlagEmbedding.FlagReranker": ("model_name_or_path", 0),
    "unsloth.FastLanguageModel.from_pretrained": ("model_name", 0),
    "unsloth.FastVisionModel.from_pretrained": ("model_name", 0),
    "unsloth.FastModel.from_pretrained": ("model_name", 0),
    "peft.PeftModel.from_pretrained": ("model_id", 1),
    "llama_cpp.Llama.from_pretrained": ("repo_id", 0),
    "gliner.GLiNER.from_pretrained": ("model_id", 0),
}
"""Calls, besides from_pretrained, that load what a hub calls by an id: which argument that is, and where it stands."""

_SMP = "Unet|UnetPlusPlus|MAnet|Linknet|FPN|PSPNet|DeepLabV3|DeepLabV3Plus|PAN|UPerNet|Segformer|DPT"
_KERAS = r"(tensorflow\.keras|tf_keras|keras)\.applications|efficientnet"
_WEIGHTS = re.compile(r"(?:^|\.)(?:DEFAULT|\w*_V\d)$|Weights")
_FILE = re.compile(r"[\\/]|\.(?:h5|hdf5|keras|pt|pth|bin|ckpt|safetensors|npz|weights)$")


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """An argument of some calls that decides whether weights are fetched."""

    calls: str
    """Pattern of the calls' full names."""
    argument: str
    """The argument's name."""
    off: str
    """Its value that fetches nothing."""
    places: tuple[int, ...] = ()
    """Where it may stand without its name; the first that is no number counts."""
    default: str = ""
    """What it stands for where nobody says it, if that fetches."""
    unless: tuple[str, ...] = ()
    """Arguments that settle the matter in its place."""


_RULES = (
    _Rule(calls=r"timm\.(\w+\.)*create_model", argument="pretrained", off="False", places=(1,)),
    _Rule(
        calls=r"timm\.models\.(\w+\.)*(?!create_model)[a-z]\w*",
        argument="pretrained",
        off="False",
        places=(0,),
    ),
    _Rule(calls=r"torchvision\.models\..*", argument="pretrained", off="False"),
    _Rule(calls=r"torchvision\.models\..*", argument="pretrained_backbone", off="False"),
    _Rule(
        calls=r"torchvision\.models\.(\w+\.)*(?:[a-z]\w*|\?)",
        argument="weights",
        off="None",
        places=(0,),
        unless=("pretrained",),
    ),
    _Rule(
        calls=r"torchvision\.models\.(\w+\.)*(fasterrcnn|maskrcnn|keypointrcnn|retinanet|fcos|ssd|ssdlite|deeplabv3|fcn"
        r"|lraspp)\w*_\w+",
        argument="weights_backbone",
        off="None",
        default="IMAGENET1K_V1",
        unless=("pretrained_backbone",),
    ),
    _Rule(calls=r"torchvision\.models\..*", argument="weights_backbone", off="None"),
    _Rule(
        calls=r"segmentation_models_pytorch\.create_model",
        argument="encoder_weights",
        off="None",
        places=(2,),
        default="'imagenet'",
    ),
    _Rule(
        calls=rf"segmentation_models_pytorch\.(\w+\.)*({_SMP})",
        argument="encoder_weights",
        off="None",
        places=(1, 2),
        default="'imagenet'",
    ),
    _Rule(calls=r"segmentation_models_pytorch\..*", argument="encoder_weights", off="None"),
    _Rule(
        calls=r"segmentation_models\.(Unet|FPN|Linknet|PSPNet)",
        argument="encoder_weights",
        off="None",
        places=(5,),
        default="'imagenet'",
    ),
    _Rule(
        calls=r"pretrainedmodels\.(\w+\.)*([a-z]\w*|\?)",
        argument="pretrained",
        off="None",
        places=(1,),
        default="'imagenet'",
    ),
    _Rule(calls=r"open_clip\.create_model\w*", argument="pretrained", off="None", places=(1,)),
    _Rule(
        calls=rf"({_KERAS})\.(\w+\.)*[A-Z]\w*",
        argument="weights",
        off="None",
        places=(1,),
        default="'imagenet'",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Switch:
    """An argument of one call that decides whether weights are fetched."""

    argument: str
    """Its name."""
    off: str
    """Its value that fetches nothing."""
    said: ast.expr | None
    """What is said; None where its default fetches."""
    placed: bool = False
    """Whether it is said by its place, without its name."""
    default: str = ""
    """What it stands for where nothing is said."""

    def fetches(self, value: Any) -> bool:
        """Whether weights are fetched; `value` is what the expression stands for, or UNKNOWN."""
        if self.said is None:
            return True
        if value is UNKNOWN:
            return bool(_WEIGHTS.search(ast.unparse(self.said)))
        if isinstance(value, str):
            told = not self.placed or self.argument != "weights" or re.match(r"[A-Z]{3}|imagenet", value)
            return value not in ("", "None") and not _FILE.search(value) and bool(told)
        return value is True


def switches(call: ast.Call, name: str) -> Iterator[Switch]:
    """Yield the arguments of a call, by its full name, that decide whether weights are fetched."""
    said = {each.arg: each.value for each in call.keywords if each.arg}
    stars = len(said) < len(call.keywords) or any(isinstance(each, ast.Starred) for each in call.args)
    done: set[str] = set()
    for rule in _RULES:
        if rule.argument in done or not _is_meant(rule, name):
            continue
        done.add(rule.argument)
        if rule.argument in said:
            yield Switch(argument=rule.argument, off=rule.off, said=said[rule.argument])
        elif not stars and not any(each in said for each in rule.unless):
            placed = _placed(call, rule.places)
            if placed is not None or rule.default:
                yield Switch(
                    argument=rule.argument,
                    off=rule.off,
                    said=placed,
                    placed=placed is not None,
                    default=rule.default,
                )


def deciding(name: str) -> dict[str, str]:
    """Return the arguments of a call that decide whether weights are fetched, each with its value that is off."""
    return {rule.argument: rule.off for rule in reversed(_RULES) if _is_meant(rule, name)}


def _is_meant(rule: _Rule, name: str) -> bool:
    return not name.endswith("from_pretrained") and bool(re.fullmatch(rule.calls, name))


def _placed(call: ast.Call, places: Iterable[int]) -> ast.expr | None:
    for place in places:
        if place < len(call.args):
            node = call.args[place]
            if len(call.args) - 1 > place and place + 1 in places and not _is_text(node):
                continue
            number = isinstance(node, ast.Constant) and type(node.value) in (int, float)
            if not number:
                return node
    return None


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, str))


def dotted(node: ast.expr, names: Mapping[str, str]) -> str:
    """Return "torch.hub.load" for what the imports call so, "torchvision.models.?" for one of its functions.

    Empty for what no import brings.
    """
    if isinstance(node, ast.Attribute):
        before = dotted(node.value, names)
        return f"{before}.{node.attr}" if before else ""
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "getattr"
        and node.args
    ):
        before = dotted(node.args[0], names)
        return f"{before}.?" if before else ""
    if isinstance(node, ast.Subscript):
        before = dotted(node.value, names)
        return f"{before.removesuffix('.__dict__')}.?" if before.endswith(".__dict__") else ""
    return names.get(node.id, "") if isinstance(node, ast.Name) else ""


@dataclass(frozen=True, kw_only=True)
class _Fetch:
    """Calls that fetch whatever their switches say."""

    calls: str
    """Pattern of their full names."""
    how: str = ""
    """How a file or folder is read in its place."""
    first: str = ""
    """Pattern of their first argument; empty for any."""


_NAME = r"[\w.+-]+"
_URL = r"https?://.*"
_FETCHES = (
    _Fetch(calls=r"tensorflow_hub\.(load|KerasLayer|resolve)", first=_URL, how="its folder loads as well"),
    _Fetch(calls=r"ultralytics\.(\w+\.)*[A-Z]\w*", first=r"(yolo|rtdetr|sam|mobile_sam|FastSAM)[\w.-]*\.pt"),
    _Fetch(
        calls=r"easyocr\.Reader",
        how="`model_storage_directory` names the folder, and `download_enabled=False` asks for nothing",
    ),
    _Fetch(
        calls=r"sklearn\.datasets\.fetch_\w+",
        how="save what it returns with joblib.dump, or the rows as a file",
    ),
    _Fetch(calls=r"(tensorflow\.keras|tf_keras|keras)\.utils\.get_file"),
    _Fetch(calls=r"(tensorflow\.keras|tf_keras|keras)\.datasets\.\w+\.load_data"),
    _Fetch(calls=r"(seaborn|tensorflow_datasets|evaluate)\.load(_dataset)?", first=_NAME),
    _Fetch(calls=r"gensim\.downloader\.load"),
    _Fetch(
        calls=r"(whisper|clip)\.(load_model|load)", first=r"(?!.*\.pt$)[\w.+/@-]+", how="a path loads as well"
    ),
    _Fetch(calls=r"stanza\.(download|Pipeline)"),
    _Fetch(calls=r"torchaudio\.pipelines\..*\.get_model"),
)


def fetches(name: str, first: str) -> str | None:
    """Return how else a call reads what it fetches, "" where that goes without saying; None where it fetches nothing.

    `first` is the text of its first argument, "" where that is not known.
    """
    for each in _FETCHES:
        if re.fullmatch(each.calls, name) and (not each.first or re.fullmatch(each.first, first)):
            return each.how
    return None
