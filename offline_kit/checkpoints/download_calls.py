"""Which calls of known libraries download weights or data, by their names and arguments alone.

Shared by the checks of a project's code and by `adopt`; both evaluate the expressions of arguments themselves.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

UNKNOWN: Any = object()
"""The value of an expression that is not known."""


class DownloadKind(StrEnum):
    """What a call downloads, which decides how its arguments are read."""

    FILE = "file"
    REPOSITORY = "repository"
    """A file, a snapshot or a dataset of a hub, by its repository."""
    MODEL_ID = "model id"
    """A model or tokenizer that a hub knows by an id; a folder's path loads as well."""
    PRESET = "preset"
    """A preset of KerasHub."""
    TORCH_HUB = "torch.hub"
    KAGGLE = "kaggle"
    KAGGLE_CLIENT = "kaggle client"
    """The same by a method of Kaggle's own client."""
    CORPUS = "corpus"
    """Data of NLTK, a model of spaCy."""
    OTHER = "other"


@dataclass(frozen=True, kw_only=True)
class DownloadCall:
    """Calls that download, whatever their switches say."""

    calls: str
    """Pattern of their full names."""
    kind: DownloadKind = DownloadKind.OTHER
    source: tuple[str, int] = ("", 0)
    """Name and position of the argument that says what is downloaded."""
    target: tuple[str, int] = ("", 99)
    """Name and position of the argument that says where it is stored."""
    detail: str = ""
    """The kind more closely: the source on Kaggle ("dataset", ...), the library of a corpus."""
    first: str = ""
    """Pattern of their first argument; empty for any."""
    instead: str = ""
    """How a file or folder is read in its place."""
    remedy: str = ""
    """What to do about such a call in a project's own code; empty if it is not reported there."""


_CACHED = (
    "fetch it once, copy its cache into 'caches/{0}' of the project, and set preprocessing = [\"caches\"]"
)
TORCH_CACHE = _CACHED.format("torch") + " (a copy of ~/.cache/torch)"
NLTK_CACHE = _CACHED.format("nltk_data") + " (a copy of ~/nltk_data)"
SAVE_PRETRAINED = (
    "save it with save_pretrained(...) into a folder of the project, name that in `checkpoints` or "
    "`preprocessing`, and load it from there; what a checkpoint replaces is made from its config alone (from_config)"
)
ADD_WHEEL = "add the model's own wheel to the requirements, by its address, and load it by its name"
SHIP_FILE = "fetch it once, name the file in `preprocessing`, and read it from there"
_ATTACH = "attach it to the notebook: dataset_sources, kernel_sources or model_sources"


def _file(calls: str, source: str, target: str = "", *, remedy: str = "") -> DownloadCall:
    target_argument = (target, 1) if target else ("", 99)
    return DownloadCall(
        calls=calls, kind=DownloadKind.FILE, source=(source, 0), target=target_argument, remedy=remedy
    )


def _repository(calls: str, source: str, detail: str, remedy: str) -> DownloadCall:
    return DownloadCall(
        calls=calls,
        kind=DownloadKind.REPOSITORY,
        source=(source, 0),
        target=("local_dir", 99),
        detail=detail,
        remedy=remedy,
    )


def _model(calls: str, source: str, position: int = 0, *, remedy: str = SAVE_PRETRAINED) -> DownloadCall:
    return DownloadCall(calls=calls, kind=DownloadKind.MODEL_ID, source=(source, position), remedy=remedy)


def _kaggle(functions: str, detail: str) -> DownloadCall:
    return DownloadCall(
        calls=rf"kagglehub\.({functions})",
        kind=DownloadKind.KAGGLE,
        source=("handle", 0),
        target=("path", 1),
        detail=detail,
        remedy=_ATTACH,
    )


def _kaggle_client(methods: str, detail: str, source: str = "") -> DownloadCall:
    return DownloadCall(
        calls=rf"(.*\.)?({methods})",
        kind=DownloadKind.KAGGLE_CLIENT,
        source=(source or detail, 0),
        detail=detail,
    )


def _corpus(calls: str, source: str, detail: str, remedy: str = "") -> DownloadCall:
    return DownloadCall(
        calls=calls, kind=DownloadKind.CORPUS, source=(source, 0), detail=detail, remedy=remedy
    )


def _other(calls: str, *, first: str = "", instead: str = "") -> DownloadCall:
    remedy = f"{SHIP_FILE}: {instead}" if instead else SHIP_FILE
    return DownloadCall(calls=calls, first=first, instead=instead, remedy=remedy)


_ID_OR_PATH = "pretrained_model_name_or_path"
_BY_ID_OR_PATH = "transformers|sentence_transformers|diffusers|peft|efficientnet_pytorch|segmentation_models_pytorch|tokenizers"
"""Packages whose `from_pretrained` takes an id of a hub or a folder."""
_URL = r"https?://.*"

_DOWNLOADS = (
    _file(r"urllib\.request\.urlretrieve", "url", "filename", remedy=SHIP_FILE),
    _file(r"urllib\.request\.urlopen", "url"),
    _file(r"requests\.get", "url"),
    _file(r"wget\.download", "url", "out", remedy=SHIP_FILE),
    _file(r"gdown\.download", "url", "output", remedy=SHIP_FILE),
    _file(r"torch\.hub\.download_url_to_file", "url", "dst"),
    # their second argument is a folder, and the file's name in it comes from the address
    _file(r"torch\.hub\.load_state_dict_from_url", "url", remedy=TORCH_CACHE),
    _file(r"torch\.utils\.model_zoo\.load_url", "url", remedy=TORCH_CACHE),
    DownloadCall(
        calls=r"(.*\.)?(read_(csv|json|parquet|table|excel)|imread|open_url)",
        kind=DownloadKind.FILE,
        first=_URL,
        detail="read",
    ),
    # https://docs.pytorch.org/docs/stable/hub.html
    DownloadCall(
        calls=r"torch\.hub\.load",
        kind=DownloadKind.TORCH_HUB,
        source=("repo_or_dir", 0),
        remedy=TORCH_CACHE,
    ),
    # https://huggingface.co/docs/huggingface_hub/package_reference/file_download
    _repository(r"huggingface_hub\.hf_hub_download", "repo_id", "file", SAVE_PRETRAINED),
    _repository(r"huggingface_hub\.snapshot_download", "repo_id", "snapshot", SAVE_PRETRAINED),
    _repository(r"datasets\.load_dataset", "path", "dataset folder", SHIP_FILE),
    # https://github.com/Kaggle/kagglehub#usage
    _kaggle("dataset_download", "dataset"),
    _kaggle("model_download", "model"),
    _kaggle("notebook_output_download|utility_script_install", "notebook"),
    _kaggle("competition_download", "competition"),
    DownloadCall(calls=r"kagglehub\.(dataset_load|load_dataset)", remedy=_ATTACH),
    # methods of KaggleApi: https://github.com/Kaggle/kaggle-api
    _kaggle_client("dataset_download_(files?|cli)", "dataset"),
    _kaggle_client("competition_download_(files?|cli)", "competition"),
    _kaggle_client("kernels_output(_cli)?", "notebook", source="kernel"),
    _kaggle_client("model_instance_version_download", "model"),
    # https://www.nltk.org/data.html and https://spacy.io/api/cli#download
    _corpus(r"nltk\.download", "info_or_id", "nltk", NLTK_CACHE),
    _corpus(r"spacy\.cli\.download", "model", "spacy", ADD_WHEEL),
    _corpus(r"spacy\.load", "name", "spacy.load"),
    # the argument differs by library; all of them accept the path of a folder as well
    _model(r"transformers\.pipeline", "model", 1),
    _model(r"sentence_transformers\.SentenceTransformer", "model_name_or_path"),
    _model(r"sentence_transformers\.CrossEncoder", "model_name"),
    _model(r"vllm\.(LLM|EngineArgs|AsyncEngineArgs)", "model"),
    _model(r"(sglang\.Engine|lmdeploy\.pipeline|ctranslate2\.Translator)", "model_path"),
    _model(r"faster_whisper\.WhisperModel", "model_size_or_path"),
    _model(r"FlagEmbedding\.(FlagModel|FlagReranker)", "model_name_or_path"),
    _model(r"unsloth\.Fast(Language|Vision|)Model\.from_pretrained", "model_name"),
    _model(r"peft\.PeftModel\.from_pretrained", "model_id", 1),
    _model(r"llama_cpp\.Llama\.from_pretrained", "repo_id"),
    _model(r"gliner\.GLiNER\.from_pretrained", "model_id"),
    _model(rf"({_BY_ID_OR_PATH})\.(.*\.)?from_pretrained", _ID_OR_PATH),
    _model(r".*\.from_pretrained", _ID_OR_PATH, remedy=""),
    # https://keras.io/keras_hub/api/base_classes/backbone/
    DownloadCall(calls=r".*\.from_preset", kind=DownloadKind.PRESET, source=("preset", 0)),
    _other(r"tensorflow_hub\.(load|KerasLayer|resolve)", first=_URL, instead="its folder loads as well"),
    _other(r"ultralytics\.(\w+\.)*[A-Z]\w*", first=r"(yolo|rtdetr|sam|mobile_sam|FastSAM)[\w.-]*\.pt"),
    _other(
        r"easyocr\.Reader",
        instead="`model_storage_directory` names the folder, and `download_enabled=False` asks for nothing",
    ),
    _other(
        r"sklearn\.datasets\.fetch_\w+",
        instead="save what it returns with joblib.dump, or the rows as a file",
    ),
    _other(r"(tensorflow\.keras|tf_keras|keras)\.utils\.get_file"),
    _other(r"(tensorflow\.keras|tf_keras|keras)\.datasets\.\w+\.load_data"),
    _other(r"(seaborn|tensorflow_datasets|evaluate)\.load(_dataset)?", first=r"[\w.+-]+"),
    _other(r"gensim\.downloader\.load"),
    _other(
        r"(whisper|clip)\.(load_model|load)", first=r"(?!.*\.pt$)[\w.+/@-]+", instead="a path loads as well"
    ),
    _other(r"stanza\.(download|Pipeline)"),
    _other(r"torchaudio\.pipelines\..*\.get_model"),
)
"""The calls that download; the first whose patterns match counts."""


def find_download(name: str, first: str) -> DownloadCall | None:
    """Return what a call downloads, by its full name and the text of its first argument ("" if it is unknown)."""
    for download in _DOWNLOADS:
        if re.fullmatch(download.calls, name) and (not download.first or re.fullmatch(download.first, first)):
            return download
    return None


_SMP = "Unet|UnetPlusPlus|MAnet|Linknet|FPN|PSPNet|DeepLabV3|DeepLabV3Plus|PAN|UPerNet|Segformer|DPT"
_KERAS = r"(tensorflow\.keras|tf_keras|keras)\.applications|efficientnet"
_WEIGHTS = re.compile(r"(?:^|\.)(?:DEFAULT|\w*_V\d)$|Weights")
_FILE = re.compile(r"[\\/]|\.(?:h5|hdf5|keras|pt|pth|bin|ckpt|safetensors|npz|weights)$")


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """An argument of some calls that decides whether weights are downloaded."""

    calls: str
    """Pattern of the calls' full names."""
    argument: str
    """The argument's name."""
    off: str
    """Its value that downloads nothing."""
    positions: tuple[int, ...] = ()
    """Its possible positions; the first argument there that is not a number counts."""
    default: str = ""
    """Its value if it is left out, if that downloads."""
    unless: tuple[str, ...] = ()
    """Arguments that decide instead of it."""


_RULES = (
    # https://huggingface.co/docs/timm/reference/models
    _Rule(calls=r"timm\.(\w+\.)*create_model", argument="pretrained", off="False", positions=(1,)),
    _Rule(
        calls=r"timm\.models\.(\w+\.)*(?!create_model)[a-z]\w*",
        argument="pretrained",
        off="False",
        positions=(0,),
    ),
    # since torchvision 0.13 `weights` replaces `pretrained`, and detection models download their backbone unless
    # `weights_backbone=None`: https://docs.pytorch.org/vision/stable/models.html
    _Rule(calls=r"torchvision\.models\..*", argument="pretrained", off="False"),
    _Rule(calls=r"torchvision\.models\..*", argument="pretrained_backbone", off="False"),
    _Rule(
        calls=r"torchvision\.models\.(\w+\.)*(?:[a-z]\w*|\?)",
        argument="weights",
        off="None",
        positions=(0,),
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
        positions=(2,),
        default="'imagenet'",
    ),
    _Rule(
        calls=rf"segmentation_models_pytorch\.(\w+\.)*({_SMP})",
        argument="encoder_weights",
        off="None",
        positions=(1, 2),
        default="'imagenet'",
    ),
    _Rule(calls=r"segmentation_models_pytorch\..*", argument="encoder_weights", off="None"),
    _Rule(
        calls=r"segmentation_models\.(Unet|FPN|Linknet|PSPNet)",
        argument="encoder_weights",
        off="None",
        positions=(5,),
        default="'imagenet'",
    ),
    _Rule(
        calls=r"pretrainedmodels\.(\w+\.)*([a-z]\w*|\?)",
        argument="pretrained",
        off="None",
        positions=(1,),
        default="'imagenet'",
    ),
    _Rule(calls=r"open_clip\.create_model\w*", argument="pretrained", off="None", positions=(1,)),
    _Rule(
        calls=rf"({_KERAS})\.(\w+\.)*[A-Z]\w*",
        argument="weights",
        off="None",
        positions=(1,),
        default="'imagenet'",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Switch:
    """An argument of one call that decides whether weights are downloaded."""

    argument: str
    off: str
    """Its value that downloads nothing."""
    expression: ast.expr | None
    """The argument's value in the call; None if it is left out and its default downloads."""
    is_positional: bool = False
    """Whether it is passed by position."""
    default: str = ""
    """The value that it has if it is left out."""

    def fetches(self, value: Any) -> bool:
        """Whether weights are downloaded; `value` is the value of the expression, or UNKNOWN."""
        if self.expression is None:
            return True
        if value is UNKNOWN:
            return bool(_WEIGHTS.search(ast.unparse(self.expression)))
        if isinstance(value, str):
            names_weights = (
                not self.is_positional or self.argument != "weights" or re.match(r"[A-Z]{3}|imagenet", value)
            )
            return value not in ("", "None") and not _FILE.search(value) and bool(names_weights)
        return value is True


def find_switches(call: ast.Call, name: str) -> Iterator[Switch]:
    """Yield the arguments of a call, by its full name, that decide whether weights are downloaded."""
    keywords = {argument.arg: argument.value for argument in call.keywords if argument.arg}
    has_stars = len(keywords) < len(call.keywords) or any(
        isinstance(argument, ast.Starred) for argument in call.args
    )
    decided: set[str] = set()
    for rule in _RULES:
        if rule.argument in decided or not _rule_applies(rule, name):
            continue
        decided.add(rule.argument)
        if rule.argument in keywords:
            yield Switch(argument=rule.argument, off=rule.off, expression=keywords[rule.argument])
        elif not has_stars and not any(argument in keywords for argument in rule.unless):
            positional = _find_positional(call, rule.positions)
            if positional is not None or rule.default:
                yield Switch(
                    argument=rule.argument,
                    off=rule.off,
                    expression=positional,
                    is_positional=positional is not None,
                    default=rule.default,
                )


def deciding_arguments(name: str) -> dict[str, str]:
    """Return the arguments of a call that decide whether weights are downloaded, each with its value for no download."""
    return {rule.argument: rule.off for rule in reversed(_RULES) if _rule_applies(rule, name)}


def _rule_applies(rule: _Rule, name: str) -> bool:
    return not name.endswith("from_pretrained") and bool(re.fullmatch(rule.calls, name))


def _find_positional(call: ast.Call, positions: Iterable[int]) -> ast.expr | None:
    for position in positions:
        if position < len(call.args):
            node = call.args[position]
            if len(call.args) - 1 > position and position + 1 in positions and not _is_text(node):
                continue
            is_number = isinstance(node, ast.Constant) and type(node.value) in (int, float)
            if not is_number:
                return node
    return None


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, str))


def resolve_name(node: ast.expr, names: Mapping[str, str]) -> str:
    """Return the full name of a call, such as "torch.hub.load"; "torchvision.models.?" for one of its functions.

    Empty for names that are not imported.
    """
    if isinstance(node, ast.Attribute):
        prefix = resolve_name(node.value, names)
        return f"{prefix}.{node.attr}" if prefix else ""
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "getattr"
        and node.args
    ):
        prefix = resolve_name(node.args[0], names)
        return f"{prefix}.?" if prefix else ""
    if isinstance(node, ast.Subscript):
        prefix = resolve_name(node.value, names)
        return f"{prefix.removesuffix('.__dict__')}.?" if prefix.endswith(".__dict__") else ""
    return names.get(node.id, "") if isinstance(node, ast.Name) else ""
