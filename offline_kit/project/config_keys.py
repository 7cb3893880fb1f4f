"""The schema of the configuration: for each key its check, default and meaning; docs/configuration.md is made from it."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from offline_kit.core.errors import suggest_name
from offline_kit.project.kaggle_names import SOURCES, is_source, split_model

_ORIGINS = ("dataset", "notebook", "model")
"""Kinds of sources that trained files come from."""
ENGINES = ("auto", "uv", "pip-tools")
"""Resolvers of a freeze."""
SDISTS = ("both", "rename", "wheel")
"""What of a package without a wheel goes into the kit: its renamed source, a wheel built here, or both."""
ENVIRONMENTS = ("matching", "current")
"""Versions that a notebook runs in here: the image's, or those of the running environment."""
INSTALLERS = ("auto", "uv", "pip")
"""What a rehearsed notebook installs with."""
LAYOUTS = ("new", "old")
"""Of 2026: /kaggle/input/datasets/<owner>/<slug>; before, and in some sessions still: /kaggle/input/<slug>."""
KAGGLES = ("kaggle", "local")
"""The real one, and one on this machine."""
Check = Callable[[Any], str]
"""Returns what is wrong with a value, or an empty string."""


def _text(value: Any) -> str:
    return "" if isinstance(value, str) else "must be a string"


def _model(value: Any) -> str:
    if not isinstance(value, str):
        return "must be a text"
    try:
        split_model(value or "none")
    except ValueError as error:
        return f"is not understood: {error}"
    return ""


def _texts(value: Any) -> str:
    good = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return "" if good else "must be a list of strings"


def _names(value: Any) -> str:
    if wrong := _texts(value):
        return wrong
    bad = [item for item in value if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", item)]
    return f"takes names of packages alone (no versions), and {bad[0]!r} is none" if bad else ""


def _count(value: Any) -> str:
    good = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return "" if good else "must be a whole number above 0"


def _flag(value: Any) -> str:
    return "" if isinstance(value, bool) else "must be true or false"


def _share(value: Any) -> str:
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
    return "" if good else "must be a number above 0"


def _models(value: Any) -> str:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        return "must be an array of tables: [[tool.offline-kit.notebook.models]]"
    problems = [line for item in value for line in problems_of(item, MODEL_KEYS, "")]
    problems += ["files is missing" for item in value if "files" not in item]
    return f"is wrong: {'; '.join(map(str.strip, dict.fromkeys(problems)))}" if problems else ""


def _origin(value: Any) -> str:
    kind, _, ref = value.partition(":") if isinstance(value, str) else ("?", "", "")
    if not kind or (kind in _ORIGINS and is_source(kind, ref)):
        return ""
    *others, last = (f"'{each}:{SOURCES[each][1]}'" for each in _ORIGINS)
    return f"must be {', '.join(others)} or {last}"


def _copies(value: Any) -> str:
    if not isinstance(value, dict) or not all(isinstance(path, str) for path in value.values()):
        return 'must be a table of folders: "dataset:owner/slug" = "folder"'
    problems = [f"'{source}' {wrong}" for source in value if (wrong := _origin(source) or _none(source))]
    return f"is wrong: {'; '.join(problems)}" if problems else ""


def _none(value: str) -> str:
    return "" if value else "is no source"


def _table(value: Any) -> str:
    return "" if isinstance(value, dict) else "must be a table"


def _gateway(value: Any) -> str:
    return "" if isinstance(value, str | dict) else "must be a class, or a table of options of the stand-in"


def _labels(value: Any) -> str:
    return (
        ""
        if isinstance(value, str | list | dict)
        else "must be a list of names, or the name of a preprocessing file"
    )


def _one_of(*choices: str) -> Check:
    def check(value: Any) -> str:
        return "" if value in choices else f"must be one of {', '.join(map(repr, choices))}"

    return check


@dataclass(frozen=True, kw_only=True)
class Key:
    """What one key of a table takes, and what it means to its reader."""

    check: Check
    default: str
    """The value if the key is not set, as Markdown."""
    meaning: str
    """One or two sentences, as Markdown."""
    usual: bool = False
    """Whether most projects set it; the documentation lists these first."""


def _key(check: Check, default: str, meaning: str) -> Key:
    return Key(check=check, default=default, meaning=meaning)


def _usual(check: Check, default: str, meaning: str) -> Key:
    return Key(check=check, default=default, meaning=meaning, usual=True)


KEYS: dict[str, Key] = {
    "competition": _usual(_text, "none", "Slug of the competition."),
    "competition_data": _usual(_text, "none", "Local copy of its data, or part of it, for rehearsals."),
    "dataset": _usual(
        _text, "`<project>-kit`", 'Slug of the private dataset on Kaggle; `"owner/slug"` works too.'
    ),
    "image": _usual(
        _text,
        "follows the accelerator",
        "A built-in image (`offline-kit image list`), the file of a package list, or `local` (the running Python).",
    ),
    "accelerator": _usual(
        _text,
        '`"none"`',
        'Machine shape on Kaggle, such as `"NvidiaTeslaT4"`; `"none"` is a CPU. '
        "There is no TPU: no template and no image supports one.",
    ),
    "requirements": _usual(
        _texts,
        "`[project].dependencies`, else `requirements.in` or `requirements.txt`",
        "Requirements files.",
    ),
    "extras": _key(_names, "none", "Extras of the project to include."),
    "groups": _key(_names, "none", "Dependency groups of the project to include."),
    "locks": _key(
        _texts,
        "none",
        "`uv.lock`, `pylock.toml`, `poetry.lock`, `Pipfile.lock`, `pdm.lock`, `requirements.lock`, conda's "
        "`environment.yml` or pip freeze files: preferred pins. A pin that does not fit the image moves to the "
        "nearest version that does.",
    ),
    "packages": _usual(
        _texts,
        '`["."]` if the project is a package',
        "Folders of your own packages; each is built to a wheel.",
    ),
    "modules": _usual(
        _texts,
        "none",
        "Folders of modules and `.py` files, shipped as they are. If it is set, scripts at the top of the project "
        "are shipped only if a reference or an import names them.",
    ),
    "checkpoints": _usual(_texts, "none", "Files, folders or globs of trained models."),
    "main_from": _key(_text, "none", "The training script whose classes a pickle knows as `__main__`."),
    "preprocessing": _usual(
        _texts,
        "none",
        "Scalers, encoders, label maps: files that are shipped beside the checkpoints and loaded by name.",
    ),
    "trust": _key(
        _texts,
        "none",
        "Globs of files to ship although they are pickles that could run code, or contain what looks like a secret.",
    ),
    "copies": _key(
        _copies,
        "none",
        'Table of local copies of other sources, for rehearsals and a local Kaggle: `"dataset:owner/slug" = "folder"`.',
    ),
    "slim": _key(_flag, "`false`", "Leave the state of optimizer and trainer out of the checkpoints."),
    "precision": _key(_one_of("keep", "half"), '`"keep"`', '`"half"` stores weights in half precision.'),
    "weights_format": _key(
        _one_of("keep", "safetensors"), '`"keep"`', '`"safetensors"` stores weights in that format.'
    ),
    "publish_model": _key(
        _model,
        "none",
        "A private Kaggle Model for the checkpoints, instead of a dataset: "
        '`"slug"` or `"slug/framework/variation"`, such as `"my-model/pyTorch/folds"`. '
        "The default framework and variation are `other/checkpoints`.",
    ),
    "exclude": _key(_names, "none", "Packages that are taken out before anything is resolved."),
    "include": _key(_names, "none", "Packages to bundle although the image has them."),
    "replace": _key(
        _names, "none", "Protected packages that the kit may replace by another version than the image's."
    ),
    "pins": _key(
        _one_of("image", "lock"),
        '`"image"`',
        'Which version wins if a lock file and the image differ: `"image"` or `"lock"`.',
    ),
    "engine": _key(_one_of(*ENGINES), '`"auto"`', 'Resolver: `"uv"` or `"pip-tools"`.'),
    "sdists": _key(
        _one_of(*SDISTS),
        '`"both"`',
        'How packages without wheels are shipped: as sdist and built wheel (`"both"`), '
        'sdist alone (`"rename"`) or wheel alone (`"wheel"`).',
    ),
    "allow_unbuilt": _key(
        _names, "none", "Packages whose sdist may be shipped although no wheel could be built from it."
    ),
    "parts": _key(
        _one_of("one", "split"),
        'as the existing kit; for a new one `"split"` if its checkpoints have over 100 MB',
        '`"one"` dataset, or `"split"` into packages, code and checkpoints, with each checkpoint of 50 MB or more apart.',
    ),
    "out": _key(_text, "`dist/offline-kit`", "Folder of the kit."),
    "sample_submission": _key(
        _text, "found in the competition's data", "The sample that submissions are checked against."
    ),
    "rows": _key(_count, "all", "Number of rows of the test set to rehearse on."),
    "time_limit": _key(_count, "`32400`", "The competition's limit for a run, in seconds."),
    "notebook": _key(_table, "", "The table below."),
}
"""What [tool.offline-kit] may hold."""

NOTEBOOK_KEYS: dict[str, Key] = {
    "template": _usual(
        _text,
        "follows from the keys below and the checkpoints",
        "`lightning`, `predict`, `function`, `server`, `plain` (restores the kit, predicts nothing), or a file of your own.",
    ),
    "model": _usual(_text, "none", "Model class: `package.module:Class` or `file.py:Class`."),
    "data": _usual(_text, "none", "Data class, written likewise."),
    "function": _usual(
        _text,
        "none",
        "For the templates `function` and `server`: `package.module:function` or `file.py:function`.",
    ),
    "title": _key(_text, "from the project", "Title of the notebook on Kaggle."),
    "slug": _key(_text, "from the project", "Slug of the notebook on Kaggle."),
    "submission": _key(
        _text,
        '`"submission.csv"`; `"submission.parquet"` for the template `server`',
        "The file that the notebook writes.",
    ),
    "competition_sources": _key(_texts, "none", "Further competitions to attach."),
    "dataset_sources": _key(_texts, "none", "Further datasets to attach."),
    "kernel_sources": _key(_texts, "none", "Notebooks whose output to attach."),
    "model_sources": _key(_texts, "none", "Kaggle Models to attach."),
    "pin_image": _key(_flag, "`false`", "Pin Kaggle's image by its digest, if it is known."),
    "params": _usual(
        _table, "none", "Table of free values, given by name to your model, data class or function."
    ),
    "task": _usual(
        _one_of("tabular", "images", "text"),
        "the framework's usual one",
        'For the template `predict`: `"tabular"`, `"images"` or `"text"`.',
    ),
    "ensemble": _usual(
        _one_of("mean", "weighted", "rank", "vote"),
        '`"mean"`; `"weighted"` if a model has a weight',
        'How several models are combined: also `"rank"` (mean of ranks) and `"vote"`. Weights count in all but `"mean"`.',
    ),
    "postprocess": _usual(
        _text,
        "none",
        '`"argmax"`, `"threshold:0.5"`, `"labels:0.5"`, `"clip:0:1"` (`"clip:0:"`: one limit), `"round"`, '
        "or a function of (predictions, ids).",
    ),
    "tta": _key(
        _text, "none", "Function that returns, for a batch, the batches whose predictions are averaged."
    ),
    "transform": _key(_text, "none", "Function that turns a path, texts or a table into the model's input."),
    "batch_size": _key(_count, "by task", "Rows, images or texts at once."),
    "columns": _key(
        _text, "none", "JSON file with training's columns and dtypes; they are compared with the test set's."
    ),
    "source": _key(_text, "none", "A notebook of yours that was adopted; `offline-kit adopt` sets it."),
    "models": _usual(
        _models,
        "each checkpoint is a model",
        "Array of tables, one for each model or group of models: see below.",
    ),
}
"""What [tool.offline-kit.notebook] may hold."""

MODEL_KEYS: dict[str, Key] = {
    "files": _usual(_text, "required", "File or glob among the checkpoints."),
    "framework": _usual(
        _text, "recognized from the file's bytes", "Name of the framework, from the table below."
    ),
    "model": _usual(
        _text,
        "none",
        'For weights alone: your class, or a function that returns the model, or `"timm:NAME"`.',
    ),
    "weight": _usual(_share, "`1`", "Weight of the model in the ensemble."),
    "params": _usual(_table, "none", "Arguments of the constructor of `model`, and the params listed below."),
    "from": _key(
        _origin,
        "the kit",
        'Where the files are, if not in the kit: `"dataset:owner/slug"`, `"notebook:owner/slug"` '
        'or `"model:owner/slug/framework/variation/version"`.',
    ),
    "transform": _key(_text, "the notebook's", "As in the notebook's table, for this model alone."),
    "batch_size": _key(_count, "the notebook's", "As in the notebook's table, for this model alone."),
}
"""What an entry of [[tool.offline-kit.notebook.models]] may hold."""

PARAMS: dict[str, Key] = {
    "activation": _usual(
        _one_of("", "softmax", "sigmoid"),
        "none",
        '`"softmax"` or `"sigmoid"`: turn scores into probabilities.',
    ),
    "labels": _usual(
        _labels,
        "none",
        "Names of the classes in the model's order: a list, or the name of a preprocessing file.",
    ),
    "text": _key(_text, "the one text column", "Column of the texts."),
    "weights_only": _key(
        _flag,
        "`true`",
        "`false` loads pickles that `torch.load(weights_only=True)` refuses: only for your own files.",
    ),
    "weights": _key(
        _text,
        "the usual names",
        "Key of the state dict inside the checkpoint, if it has several or an unusual one.",
    ),
    "architecture": _key(_text, "from `model`", "Name of the timm architecture."),
    "trust_remote_code": _key(_flag, "`false`", "Run the code that a Hugging Face folder contains."),
    "tokenizer": _key(_text, "the model's folder", "Preprocessing folder with the tokenizer."),
    "max_length": _key(_count, "the tokenizer's, at most `512`", "Tokens of a text."),
    "trusted": _key(_texts, "none", "Types that skops may load besides those that it trusts."),
    "safe_mode": _key(_flag, "`true`", "`false` lets Keras load lambda layers: only for your own files."),
    "test": _key(_text, "found in the data", "Test table or folder below the competition's data."),
    "backend": _key(_one_of("tensorflow", "jax", "torch"), '`"tensorflow"`', "What Keras computes with."),
    "server": _key(_text, "found in the competition's package", "Class of the inference server."),
    "data_paths": _key(
        _texts, "read from the competition's package", "Files of the gateway, below the data."
    ),
    "gateway": _key(
        _gateway,
        "found in the competition's package, else a stand-in",
        "Class of the gateway, or a table of options of the stand-in (`batches`, `rows`, `by`, `sends`, `ids`, `submission`, `seed`).",
    ),
}
"""Params that the templates `predict` and `server` and the frameworks read themselves, wherever they are set."""


def problems_of(table: Mapping[str, Any], keys: Mapping[str, Key], where: str) -> Iterable[str]:
    """Yield every unknown key of a table, with a guess, and every value that its key does not take."""
    for key, value in table.items():
        if key not in keys and keys is MODEL_KEYS and key in {*PARAMS, *NOTEBOOK_KEYS}:
            right = "in its `params`" if key in PARAMS else "in [tool.offline-kit.notebook], for all models"
            yield f"{where} unknown key '{key}': set it {right}"
        elif key not in keys:
            yield f"{where} unknown key '{key}'{suggest_name(key.replace('-', '_'), keys)}"
        elif wrong := keys[key].check(value):
            yield f"{where} {key} {wrong}, not {value!r}"
