"""What the configuration's tables may hold, key by key."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from offline_kit.errors import close_to
from offline_kit.kaggle_names import SOURCES, is_source, split_model

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


KEYS: dict[str, Check] = {
    "competition": _text,
    "competition_data": _text,
    "dataset": _text,
    "image": _text,
    "accelerator": _text,
    "requirements": _texts,
    "extras": _names,
    "groups": _names,
    "locks": _texts,
    "packages": _texts,
    "modules": _texts,
    "checkpoints": _texts,
    "main_from": _text,
    "preprocessing": _texts,
    "trust": _texts,
    "copies": _copies,
    "slim": _flag,
    "precision": _one_of("keep", "half"),
    "weights_format": _one_of("keep", "safetensors"),
    "publish_model": _model,
    "exclude": _names,
    "include": _names,
    "replace": _names,
    "pins": _one_of("image", "lock"),
    "engine": _one_of(*ENGINES),
    "sdists": _one_of(*SDISTS),
    "allow_unbuilt": _names,
    "parts": _one_of("one", "split"),
    "out": _text,
    "sample_submission": _text,
    "rows": _count,
    "time_limit": _count,
    "notebook": _table,
}
"""What [tool.offline-kit] may hold."""

NOTEBOOK_KEYS: dict[str, Check] = {
    "template": _text,
    "model": _text,
    "data": _text,
    "function": _text,
    "title": _text,
    "slug": _text,
    "submission": _text,
    "competition_sources": _texts,
    "dataset_sources": _texts,
    "kernel_sources": _texts,
    "model_sources": _texts,
    "pin_image": _flag,
    "params": _table,
    "task": _one_of("tabular", "images", "text"),
    "ensemble": _one_of("mean", "weighted", "rank", "vote"),
    "postprocess": _text,
    "tta": _text,
    "transform": _text,
    "batch_size": _count,
    "columns": _text,
    "source": _text,
    "models": _models,
}
"""What [tool.offline-kit.notebook] may hold."""

MODEL_KEYS: dict[str, Check] = {
    "files": _text,
    "framework": _text,
    "model": _text,
    "weight": _share,
    "params": _table,
    "from": _origin,
    "transform": _text,
    "batch_size": _count,
}
"""What an entry of [[tool.offline-kit.notebook.models]] may hold."""

PARAMS: dict[str, Check] = {
    "activation": _one_of("", "softmax", "sigmoid"),
    "labels": _labels,
    "text": _text,
    "weights_only": _flag,
    "weights": _text,
    "architecture": _text,
    "trust_remote_code": _flag,
    "tokenizer": _text,
    "max_length": _count,
    "trusted": _texts,
    "safe_mode": _flag,
    "test": _text,
    "backend": _one_of("tensorflow", "jax", "torch"),
    "server": _text,
    "data_paths": _texts,
    "gateway": _table,
}
"""Params that the templates `predict` and `server` and the frameworks read themselves, wherever they are set."""


def problems_of(table: Mapping[str, Any], keys: Mapping[str, Check], where: str) -> Iterable[str]:
    """Yield every unknown key of a table, with a guess, and every value that its key does not take."""
    for key, value in table.items():
        if key not in keys and keys is MODEL_KEYS and key in {*PARAMS, *NOTEBOOK_KEYS}:
            right = "in its `params`" if key in PARAMS else "in [tool.offline-kit.notebook], for all models"
            yield f"{where} unknown key '{key}': set it {right}"
        elif key not in keys:
            yield f"{where} unknown key '{key}'{close_to(key.replace('-', '_'), keys)}"
        elif wrong := keys[key](value):
            yield f"{where} {key} {wrong}, not {value!r}"
