"""Which calls of known libraries download weights or data, by their names and arguments alone.

Shared by the checks of a project's code and by `adopt`; both evaluate the expressions of arguments themselves.
"""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
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
    TORCH_HUB = "torch.hub"
    KAGGLE = "kaggle"
    KAGGLE_CLIENT = "kaggle client"
    CORPUS = "corpus"
    OTHER = "other"


@dataclass(frozen=True)
class DownloadCall:
    """Calls that download, whatever their switches say."""

    calls: str
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
_BY_ID_OR_PATH = "transformers|sentence_transformers|diffusers|peft|efficientnet_pytorch|segmentation_models_pytorch|tokenizers"
"""Packages whose `from_pretrained` takes an id of a hub or a folder."""
_READS = "read_(csv|json|parquet|table|excel)"
_URL = r"https?://.*"

_file = partial(DownloadCall, kind=DownloadKind.FILE, source=("url", 0))
_repository = partial(
    DownloadCall, kind=DownloadKind.REPOSITORY, target=("local_dir", 99), remedy=SAVE_PRETRAINED
)
_model = partial(DownloadCall, kind=DownloadKind.MODEL_ID, remedy=SAVE_PRETRAINED)
_kaggle = partial(
    DownloadCall, kind=DownloadKind.KAGGLE, source=("handle", 0), target=("path", 1), remedy=_ATTACH
)
_kaggle_client = partial(DownloadCall, kind=DownloadKind.KAGGLE_CLIENT)
_corpus = partial(DownloadCall, kind=DownloadKind.CORPUS)
_other = partial(DownloadCall, remedy=SHIP_FILE)

_DOWNLOADS = (
    _file(r"urllib\.request\.urlretrieve", target=("filename", 1), remedy=SHIP_FILE),
    _file(r"urllib\.request\.urlopen|requests\.get"),
    _file(r"wget\.download", target=("out", 1), remedy=SHIP_FILE),
    _file(r"gdown\.download", target=("output", 1), remedy=SHIP_FILE),
    _file(r"torch\.hub\.download_url_to_file", target=("dst", 1)),
    # their second argument is a folder, and the file's name in it comes from the address
    _file(r"torch\.hub\.load_state_dict_from_url|torch\.utils\.model_zoo\.load_url", remedy=TORCH_CACHE),
    _file(rf"(.*\.)?({_READS}|imread|open_url)", source=("", 0), first=_URL, detail="read"),
    # https://docs.pytorch.org/docs/stable/hub.html
    DownloadCall(
        r"torch\.hub\.load", kind=DownloadKind.TORCH_HUB, source=("repo_or_dir", 0), remedy=TORCH_CACHE
    ),
    # https://huggingface.co/docs/huggingface_hub/package_reference/file_download
    _repository(r"huggingface_hub\.hf_hub_download", source=("repo_id", 0), detail="file"),
    _repository(
        r"huggingface_hub\.snapshot_download",
        source=("repo_id", 0),
        detail="snapshot",
        remedy=SAVE_PRETRAINED,
    ),
    _repository(r"datasets\.load_dataset", source=("path", 0), detail="dataset folder", remedy=SHIP_FILE),
    # https://github.com/Kaggle/kagglehub#usage
    _kaggle(r"kagglehub\.dataset_download", detail="dataset"),
    _kaggle(r"kagglehub\.model_download", detail="model"),
    _kaggle(r"kagglehub\.(notebook_output_download|utility_script_install)", detail="notebook"),
    _kaggle(r"kagglehub\.competition_download", detail="competition"),
    DownloadCall(r"kagglehub\.(dataset_load|load_dataset)", remedy=_ATTACH),
    # methods of KaggleApi: https://github.com/Kaggle/kaggle-api
    _kaggle_client(r"(.*\.)?dataset_download_(files?|cli)", source=("dataset", 0), detail="dataset"),
    _kaggle_client(
        r"(.*\.)?competition_download_(files?|cli)", source=("competition", 0), detail="competition"
    ),
    _kaggle_client(r"(.*\.)?kernels_output(_cli)?", source=("kernel", 0), detail="notebook"),
    _kaggle_client(r"(.*\.)?model_instance_version_download", source=("model", 0), detail="model"),
    # https://www.nltk.org/data.html and https://spacy.io/api/cli#download
    _corpus(r"nltk\.download", source=("info_or_id", 0), detail="nltk", remedy=NLTK_CACHE),
    _corpus(r"spacy\.cli\.download", source=("model", 0), detail="spacy", remedy=ADD_WHEEL),
    _corpus(r"spacy\.load", source=("name", 0), detail="spacy.load"),
    # the argument differs by library; all of them accept the path of a folder as well
    _model(r"transformers\.pipeline", source=("model", 1)),
    _model(r"sentence_transformers\.SentenceTransformer", source=("model_name_or_path", 0)),
    _model(r"sentence_transformers\.CrossEncoder", source=("model_name", 0)),
    _model(r"vllm\.(LLM|EngineArgs|AsyncEngineArgs)", source=("model", 0)),
    _model(r"(sglang\.Engine|lmdeploy\.pipeline|ctranslate2\.Translator)", source=("model_path", 0)),
    _model(r"faster_whisper\.WhisperModel", source=("model_size_or_path", 0)),
    _model(r"FlagEmbedding\.(FlagModel|FlagReranker)", source=("model_name_or_path", 0)),
    _model(r"unsloth\.Fast(Language|Vision|)Model\.from_pretrained", source=("model_name", 0)),
    _model(r"peft\.PeftModel\.from_pretrained", source=("model_id", 1)),
    _model(r"llama_cpp\.Llama\.from_pretrained", source=("repo_id", 0)),
    _model(r"gliner\.GLiNER\.from_pretrained", source=("model_id", 0)),
    _model(rf"({_BY_ID_OR_PATH})\.(.*\.)?from_pretrained", source=("pretrained_model_name_or_path", 0)),
    _model(r".*\.from_pretrained", source=("pretrained_model_name_or_path", 0), remedy=""),
    # https://keras.io/keras_hub/api/base_classes/backbone/
    DownloadCall(r".*\.from_preset", kind=DownloadKind.PRESET, source=("preset", 0)),
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
    _other(r"(tensorflow\.keras|tf_keras|keras)\.(utils\.get_file|datasets\.\w+\.load_data)"),
    _other(r"(seaborn|tensorflow_datasets|evaluate)\.load(_dataset)?", first=r"[\w.+-]+"),
    _other(
        r"(whisper|clip)\.(load_model|load)", first=r"(?!.*\.pt$)[\w.+/@-]+", instead="a path loads as well"
    ),
    _other(r"gensim\.downloader\.load|stanza\.(download|Pipeline)|torchaudio\.pipelines\..*\.get_model"),
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


@dataclass(frozen=True)
class _Rule:
    """An argument of some calls that decides whether weights are downloaded."""

    calls: str
    argument: str
    off: str
    """Its value that downloads nothing."""
    positions: tuple[int, ...] = ()
    """Its possible positions; the first argument there that is not a number counts."""
    default: str = ""
    """Its value if it is left out, if that downloads."""
    unless: tuple[str, ...] = ()
    """Arguments that decide instead of it."""

    def applies(self, name: str) -> bool:
        """Whether it is about the call of this full name."""
        return not name.endswith("from_pretrained") and bool(re.fullmatch(self.calls, name))


_VISION = r"torchvision\.models\."
_SEGMENTATION = r"segmentation_models_pytorch\."
_BACKBONES = "fasterrcnn|maskrcnn|keypointrcnn|retinanet|fcos|ssd|ssdlite|deeplabv3|fcn|lraspp"
_RULES = (
    # https://huggingface.co/docs/timm/reference/models
    _Rule(r"timm\.(\w+\.)*create_model", "pretrained", "False", (1,)),
    _Rule(r"timm\.models\.(\w+\.)*(?!create_model)[a-z]\w*", "pretrained", "False", (0,)),
    # since torchvision 0.13 `weights` replaces `pretrained`, and detection models download their backbone unless
    # `weights_backbone=None`: https://docs.pytorch.org/vision/stable/models.html
    _Rule(rf"{_VISION}.*", "pretrained", "False"),
    _Rule(rf"{_VISION}.*", "pretrained_backbone", "False"),
    _Rule(rf"{_VISION}(\w+\.)*(?:[a-z]\w*|\?)", "weights", "None", (0,), unless=("pretrained",)),
    _Rule(
        rf"{_VISION}(\w+\.)*({_BACKBONES})\w*_\w+",
        "weights_backbone",
        "None",
        default="IMAGENET1K_V1",
        unless=("pretrained_backbone",),
    ),
    _Rule(rf"{_VISION}.*", "weights_backbone", "None"),
    _Rule(rf"{_SEGMENTATION}create_model", "encoder_weights", "None", (2,), "'imagenet'"),
    _Rule(rf"{_SEGMENTATION}(\w+\.)*({_SMP})", "encoder_weights", "None", (1, 2), "'imagenet'"),
    _Rule(rf"{_SEGMENTATION}.*", "encoder_weights", "None"),
    _Rule(r"segmentation_models\.(Unet|FPN|Linknet|PSPNet)", "encoder_weights", "None", (5,), "'imagenet'"),
    _Rule(r"pretrainedmodels\.(\w+\.)*([a-z]\w*|\?)", "pretrained", "None", (1,), "'imagenet'"),
    _Rule(r"open_clip\.create_model\w*", "pretrained", "None", (1,)),
    _Rule(rf"({_KERAS})\.(\w+\.)*[A-Z]\w*", "weights", "None", (1,), "'imagenet'"),
)


@dataclass(frozen=True, kw_only=True)
class Switch:
    """An argument of one call that decides whether weights are downloaded."""

    argument: str
    off: str
    expression: ast.expr | None
    """The argument's value in the call; None if it is left out and its default downloads."""
    is_positional: bool = False
    default: str = ""

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
        if rule.argument in decided or not rule.applies(name):
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
    return {rule.argument: rule.off for rule in reversed(_RULES) if rule.applies(name)}


def _find_positional(call: ast.Call, positions: Sequence[int]) -> ast.expr | None:
    for position in positions:
        if position >= len(call.args):
            break
        node = call.args[position]
        value = node.value if isinstance(node, ast.Constant) else UNKNOWN
        # If the next position can hold it too, this one holds it only with a text or None.
        has_next = position + 1 in positions and position + 1 < len(call.args)
        if type(value) in (int, float) or (has_next and not (value is None or isinstance(value, str))):
            continue
        return node
    return None


def resolve_name(node: ast.expr, names: Mapping[str, str]) -> str:
    """Return the full name of a call, such as "torch.hub.load"; "torchvision.models.?" for one of its functions.

    Empty for names that are not imported.
    """
    if isinstance(node, ast.Attribute):
        prefix = resolve_name(node.value, names)
        return f"{prefix}.{node.attr}" if prefix else ""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and node.args:
        prefix = resolve_name(node.args[0], names)
        return f"{prefix}.?" if prefix else ""
    if isinstance(node, ast.Subscript):
        prefix = resolve_name(node.value, names)
        return f"{prefix.removesuffix('.__dict__')}.?" if prefix.endswith(".__dict__") else ""
    return names.get(node.id, "") if isinstance(node, ast.Name) else ""
