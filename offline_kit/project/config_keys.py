"""The schema of the configuration: check, default and meaning of each key; docs/configuration.md is generated from it."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from offline_kit.core.errors import suggest_name
from offline_kit.project.kaggle_names import SOURCES, is_source_reference, split_model_name

_ORIGINS = ("dataset", "notebook", "model")
"""Kinds of sources for trained files."""
ENGINES = ("auto", "uv", "pip-tools")
"""Resolvers."""
SDISTS = ("both", "rename", "wheel")
"""How the kit includes a package without a wheel: its renamed sdist, a wheel built from it, or both."""
ENVIRONMENTS = ("matching", "current")
"""Package versions of a rehearsal: the image's, or those of the running environment."""
INSTALLERS = ("auto", "uv", "pip")
"""What the notebook of a rehearsal installs with."""
LAYOUTS = ("new", "old")
"""New since 2026: /kaggle/input/datasets/<owner>/<slug>; old, still used in some sessions: /kaggle/input/<slug>."""
KAGGLES = ("kaggle", "local")
"""The real one, and one on this machine."""
Check = Callable[[Any], str]
"""Return what is wrong with a value, or an empty string."""


def _check_text(value: Any) -> str:
    return "" if isinstance(value, str) else "must be a string"


def _check_model_name(value: Any) -> str:
    if not isinstance(value, str):
        return "must be a string"
    try:
        split_model_name(value or "none")
    except ValueError as error:
        return f"is invalid: {error}"
    return ""


def _check_texts(value: Any) -> str:
    good = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return "" if good else "must be a list of strings"


def _check_package_names(value: Any) -> str:
    if wrong := _check_texts(value):
        return wrong
    bad = [item for item in value if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", item)]
    return "must be a list of package names without versions" if bad else ""


def _check_count(value: Any) -> str:
    good = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return "" if good else "must be a whole number above 0"


def _check_flag(value: Any) -> str:
    return "" if isinstance(value, bool) else "must be true or false"


def _check_weight(value: Any) -> str:
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
    return "" if good else "must be a number above 0"


def _check_models(value: Any) -> str:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        return "must be an array of tables: [[tool.offline-kit.notebook.models]]"
    problems = [line for item in value for line in find_key_problems(item, MODEL_KEYS, "")]
    problems += ["files is missing" for item in value if "files" not in item]
    return f"is invalid: {'; '.join(map(str.strip, dict.fromkeys(problems)))}" if problems else ""


def _check_origin(value: Any) -> str:
    kind, _, ref = value.partition(":") if isinstance(value, str) else ("?", "", "")
    if not kind or (kind in _ORIGINS and is_source_reference(kind, ref)):
        return ""
    *first_forms, last = (f"'{origin}:{SOURCES[origin][1]}'" for origin in _ORIGINS)
    return f"must be {', '.join(first_forms)} or {last}"


def _check_copies(value: Any) -> str:
    if not isinstance(value, dict) or not all(isinstance(path, str) for path in value.values()):
        return 'must be a table of folders: "dataset:owner/slug" = "folder"'
    problems = [
        f"'{source}' {wrong}"
        for source in value
        if (wrong := _check_origin(source) or _require_source(source))
    ]
    return f"is invalid: {'; '.join(problems)}" if problems else ""


def _require_source(value: str) -> str:
    return "" if value else "is not a source"


def _check_table(value: Any) -> str:
    return "" if isinstance(value, dict) else "must be a table"


def _check_gateway(value: Any) -> str:
    return (
        ""
        if isinstance(value, str | dict)
        else "must be the name of a class, or a table of options of the stand-in"
    )


def _check_labels(value: Any) -> str:
    return (
        ""
        if isinstance(value, str | list | dict)
        else "must be a list of names, or the name of a preprocessing file"
    )


def _allow_choices(*choices: str) -> Check:
    def check(value: Any) -> str:
        return "" if value in choices else f"must be one of {', '.join(map(repr, choices))}"

    return check


@dataclass(frozen=True, kw_only=True)
class ConfigKey:
    """One key of a table: its check and its documentation."""

    check: Check
    default: str
    """The value if the key is not set, as Markdown."""
    meaning: str
    """One or two sentences, as Markdown."""
    usual: bool = False
    """Whether most projects set it; the documentation lists these first."""


def _define_key(check: Check, default: str, meaning: str) -> ConfigKey:
    return ConfigKey(check=check, default=default, meaning=meaning)


def _define_usual_key(check: Check, default: str, meaning: str) -> ConfigKey:
    return ConfigKey(check=check, default=default, meaning=meaning, usual=True)


KEYS: dict[str, ConfigKey] = {
    "competition": _define_usual_key(_check_text, "none", "Slug of the competition."),
    "competition_data": _define_usual_key(
        _check_text, "none", "Local copy of its data, or part of it, for rehearsals."
    ),
    "dataset": _define_usual_key(
        _check_text, "`<project>-kit`", 'Slug of the private dataset on Kaggle; `"owner/slug"` works too.'
    ),
    "image": _define_usual_key(
        _check_text,
        "follows the accelerator",
        "A built-in image (`offline-kit image list`), the file of a package list, or `local` (the running Python).",
    ),
    "accelerator": _define_usual_key(
        _check_text,
        '`"none"`',
        'Machine shape on Kaggle, such as `"NvidiaTeslaT4"`; `"none"` is a CPU. '
        "There is no TPU: no template and no image supports one.",
    ),
    "requirements": _define_usual_key(
        _check_texts,
        "`[project].dependencies`, else `requirements.in` or `requirements.txt`",
        "Requirements files.",
    ),
    "extras": _define_key(_check_package_names, "none", "Extras of the project to include."),
    "groups": _define_key(_check_package_names, "none", "Dependency groups of the project to include."),
    "locks": _define_key(
        _check_texts,
        "none",
        "`uv.lock`, `pylock.toml`, `poetry.lock`, `Pipfile.lock`, `pdm.lock`, `requirements.lock`, conda's "
        "`environment.yml` or pip freeze files: preferred pins. A pin that does not fit the image moves to the "
        "nearest version that does.",
    ),
    "packages": _define_usual_key(
        _check_texts,
        '`["."]` if the project is a package',
        "Folders of your own packages; each is built to a wheel.",
    ),
    "modules": _define_usual_key(
        _check_texts,
        "none",
        "Folders of modules and `.py` files, shipped as they are. If it is set, scripts at the top of the project "
        "are shipped only if a reference or an import names them.",
    ),
    "checkpoints": _define_usual_key(_check_texts, "none", "Files, folders or globs of trained models."),
    "main_from": _define_key(
        _check_text, "none", "The training script whose classes a pickle knows as `__main__`."
    ),
    "preprocessing": _define_usual_key(
        _check_texts,
        "none",
        "Scalers, encoders, label maps: files that are shipped beside the checkpoints and loaded by name.",
    ),
    "trust": _define_key(
        _check_texts,
        "none",
        "Globs of files to ship although they are pickles that could run code, or contain what looks like a secret.",
    ),
    "copies": _define_key(
        _check_copies,
        "none",
        'Table of local copies of other sources, for rehearsals and a local Kaggle: `"dataset:owner/slug" = "folder"`.',
    ),
    "slim": _define_key(
        _check_flag, "`false`", "Leave the state of optimizer and trainer out of the checkpoints."
    ),
    "precision": _define_key(
        _allow_choices("keep", "half"), '`"keep"`', '`"half"` stores weights in half precision.'
    ),
    "weights_format": _define_key(
        _allow_choices("keep", "safetensors"), '`"keep"`', '`"safetensors"` stores weights in that format.'
    ),
    "publish_model": _define_key(
        _check_model_name,
        "none",
        "A private Kaggle Model for the checkpoints, instead of a dataset: "
        '`"slug"` or `"slug/framework/variation"`, such as `"my-model/pyTorch/folds"`. '
        "The default framework and variation are `other/checkpoints`.",
    ),
    "exclude": _define_key(
        _check_package_names, "none", "Packages that are taken out before anything is resolved."
    ),
    "include": _define_key(_check_package_names, "none", "Packages to bundle although the image has them."),
    "replace": _define_key(
        _check_package_names,
        "none",
        "Protected packages that the kit may replace by another version than the image's.",
    ),
    "pins": _define_key(
        _allow_choices("image", "lock"),
        '`"image"`',
        'Which version wins if a lock file and the image differ: `"image"` or `"lock"`.',
    ),
    "engine": _define_key(_allow_choices(*ENGINES), '`"auto"`', 'Resolver: `"uv"` or `"pip-tools"`.'),
    "sdists": _define_key(
        _allow_choices(*SDISTS),
        '`"both"`',
        'How packages without wheels are shipped: as sdist and built wheel (`"both"`), '
        'sdist alone (`"rename"`) or wheel alone (`"wheel"`).',
    ),
    "allow_unbuilt": _define_key(
        _check_package_names,
        "none",
        "Packages whose sdist may be shipped although no wheel could be built from it.",
    ),
    "parts": _define_key(
        _allow_choices("one", "split"),
        'as the existing kit; for a new one `"split"` if its checkpoints have over 100 MB',
        '`"one"` dataset, or `"split"` into packages, code and checkpoints, with each checkpoint of 50 MB or more apart.',
    ),
    "out": _define_key(_check_text, "`dist/offline-kit`", "Folder of the kit."),
    "sample_submission": _define_key(
        _check_text, "found in the competition's data", "The sample that submissions are checked against."
    ),
    "rows": _define_key(_check_count, "all", "Number of rows of the test set to rehearse on."),
    "time_limit": _define_key(_check_count, "`32400`", "The competition's limit for a run, in seconds."),
    "notebook": _define_key(_check_table, "", "The table below."),
}
"""Keys of [tool.offline-kit]."""

NOTEBOOK_KEYS: dict[str, ConfigKey] = {
    "template": _define_usual_key(
        _check_text,
        "follows from the keys below and the checkpoints",
        "`lightning`, `predict`, `function`, `server`, `plain` (restores the kit, predicts nothing), or a file of your own.",
    ),
    "model": _define_usual_key(
        _check_text, "none", "Model class: `package.module:Class` or `file.py:Class`."
    ),
    "data": _define_usual_key(_check_text, "none", "Data class, written likewise."),
    "function": _define_usual_key(
        _check_text,
        "none",
        "For the templates `function` and `server`: `package.module:function` or `file.py:function`.",
    ),
    "title": _define_key(_check_text, "from the project", "Title of the notebook on Kaggle."),
    "slug": _define_key(_check_text, "from the project", "Slug of the notebook on Kaggle."),
    "submission": _define_key(
        _check_text,
        '`"submission.csv"`; `"submission.parquet"` for the template `server`',
        "The file that the notebook writes.",
    ),
    "competition_sources": _define_key(_check_texts, "none", "Further competitions to attach."),
    "dataset_sources": _define_key(_check_texts, "none", "Further datasets to attach."),
    "kernel_sources": _define_key(_check_texts, "none", "Notebooks whose output to attach."),
    "model_sources": _define_key(_check_texts, "none", "Kaggle Models to attach."),
    "pin_image": _define_key(_check_flag, "`false`", "Pin Kaggle's image by its digest, if it is known."),
    "params": _define_usual_key(
        _check_table, "none", "Table of free values, given by name to your model, data class or function."
    ),
    "task": _define_usual_key(
        _allow_choices("tabular", "images", "text"),
        "the framework's usual one",
        'For the template `predict`: `"tabular"`, `"images"` or `"text"`.',
    ),
    "ensemble": _define_usual_key(
        _allow_choices("mean", "weighted", "rank", "vote"),
        '`"mean"`; `"weighted"` if a model has a weight',
        'How several models are combined: also `"rank"` (mean of ranks) and `"vote"`. Weights count in all but `"mean"`.',
    ),
    "postprocess": _define_usual_key(
        _check_text,
        "none",
        '`"argmax"`, `"threshold:0.5"`, `"labels:0.5"`, `"clip:0:1"` (`"clip:0:"`: one limit), `"round"`, '
        "or a function of (predictions, ids).",
    ),
    "tta": _define_key(
        _check_text, "none", "Function that returns, for a batch, the batches whose predictions are averaged."
    ),
    "transform": _define_key(
        _check_text, "none", "Function that turns a path, texts or a table into the model's input."
    ),
    "batch_size": _define_key(_check_count, "by task", "Rows, images or texts at once."),
    "columns": _define_key(
        _check_text,
        "none",
        "JSON file with training's columns and dtypes; they are compared with the test set's.",
    ),
    "source": _define_key(
        _check_text, "none", "A notebook of yours that was adopted; `offline-kit adopt` sets it."
    ),
    "models": _define_usual_key(
        _check_models,
        "each checkpoint is a model",
        "Array of tables, one for each model or group of models: see below.",
    ),
}
"""Keys of [tool.offline-kit.notebook]."""

MODEL_KEYS: dict[str, ConfigKey] = {
    "files": _define_usual_key(_check_text, "required", "File or glob among the checkpoints."),
    "framework": _define_usual_key(
        _check_text, "recognized from the file's bytes", "Name of the framework, from the table below."
    ),
    "model": _define_usual_key(
        _check_text,
        "none",
        'For weights alone: your class, or a function that returns the model, or `"timm:NAME"`.',
    ),
    "weight": _define_usual_key(_check_weight, "`1`", "Weight of the model in the ensemble."),
    "params": _define_usual_key(
        _check_table, "none", "Arguments of the constructor of `model`, and the params listed below."
    ),
    "from": _define_key(
        _check_origin,
        "the kit",
        'Where the files are, if not in the kit: `"dataset:owner/slug"`, `"notebook:owner/slug"` '
        'or `"model:owner/slug/framework/variation/version"`.',
    ),
    "transform": _define_key(
        _check_text, "the notebook's", "As in the notebook's table, for this model alone."
    ),
    "batch_size": _define_key(
        _check_count, "the notebook's", "As in the notebook's table, for this model alone."
    ),
}
"""Keys of an entry of [[tool.offline-kit.notebook.models]]."""

PARAMS: dict[str, ConfigKey] = {
    "activation": _define_usual_key(
        _allow_choices("", "softmax", "sigmoid"),
        "none",
        '`"softmax"` or `"sigmoid"`: turn scores into probabilities.',
    ),
    "labels": _define_usual_key(
        _check_labels,
        "none",
        "Names of the classes in the model's order: a list, or the name of a preprocessing file.",
    ),
    "text": _define_key(_check_text, "the one text column", "Column of the texts."),
    "weights_only": _define_key(
        _check_flag,
        "`true`",
        "`false` loads pickles that `torch.load(weights_only=True)` refuses: only for your own files.",
    ),
    "weights": _define_key(
        _check_text,
        "the usual names",
        "Key of the state dict inside the checkpoint, if it has several or an unusual one.",
    ),
    "architecture": _define_key(_check_text, "from `model`", "Name of the timm architecture."),
    "trust_remote_code": _define_key(
        _check_flag, "`false`", "Run the code that a Hugging Face folder contains."
    ),
    "tokenizer": _define_key(_check_text, "the model's folder", "Preprocessing folder with the tokenizer."),
    "max_length": _define_key(_check_count, "the tokenizer's, at most `512`", "Tokens of a text."),
    "trusted": _define_key(_check_texts, "none", "Types that skops may load besides those that it trusts."),
    "safe_mode": _define_key(
        _check_flag, "`true`", "`false` lets Keras load lambda layers: only for your own files."
    ),
    "test": _define_key(
        _check_text, "found in the data", "Test table or folder below the competition's data."
    ),
    "backend": _define_key(
        _allow_choices("tensorflow", "jax", "torch"), '`"tensorflow"`', "What Keras computes with."
    ),
    "server": _define_key(
        _check_text, "found in the competition's package", "Class of the inference server."
    ),
    "data_paths": _define_key(
        _check_texts, "read from the competition's package", "Files of the gateway, below the data."
    ),
    "gateway": _define_key(
        _check_gateway,
        "found in the competition's package, else a stand-in",
        "Class of the gateway, or a table of options of the stand-in (`batches`, `rows`, `by`, `sends`, `ids`, `submission`, `seed`).",
    ),
}
"""Params that the templates `predict` and `server` and the frameworks read."""


def find_key_problems(
    table: Mapping[str, Any], keys: Mapping[str, ConfigKey], table_name: str
) -> Iterable[str]:
    """Yield the problems of a table: unknown keys and invalid values."""
    for key, value in table.items():
        if key not in keys and keys is MODEL_KEYS and key in {*PARAMS, *NOTEBOOK_KEYS}:
            right = "in its `params`" if key in PARAMS else "in [tool.offline-kit.notebook], for all models"
            yield f"{table_name} unknown key '{key}': set it {right}"
        elif key not in keys:
            yield f"{table_name} unknown key '{key}'{suggest_name(key.replace('-', '_'), keys)}"
        elif wrong := keys[key].check(value):
            yield f"{table_name} {key} {wrong}, not {value!r}"
