"""The schema of the configuration. A field made by `_key` is a key of the file.

docs/configuration.md is generated from these fields: its texts are their comments, "#: ...", beside or above them.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from offline_kit.core.errors import suggest_name
from offline_kit.project.kaggle_names import (
    METADATA_KEYS,
    SOURCE_FORMS,
    is_source_reference,
    split_model_name,
)

ENGINES = ("auto", "uv", "pip-tools")  # resolvers
SDISTS = ("both", "rename", "wheel")
"""How the kit includes a package without a wheel: its renamed sdist, a wheel built from it, or both."""
ENVIRONMENTS = ("matching", "current")
"""Package versions of a rehearsal: the image's, or those of the running environment."""
REHEARSAL_ENVIRONMENTS = (*ENVIRONMENTS, "image")  # a rehearsal runs in containers, too
INSTALLERS = ("auto", "uv", "pip")  # what the notebook of a rehearsal installs with
LAYOUTS = ("new", "old")
"""New since 2026: /kaggle/input/datasets/<owner>/<slug>; old, still used in some sessions: /kaggle/input/<slug>."""
KAGGLES = ("kaggle", "local")  # the real one, and one on this machine
DEFAULT_OUT = Path("dist") / "offline-kit"
LOCK_NAME = "offline-kit.lock.txt"
Check = Callable[[Any], str]  # return what is wrong with a value, or an empty string


def _require(condition: Callable[[Any], bool], problem: str) -> Check:
    return lambda value: "" if condition(value) else problem


def _allow_choices(*choices: str) -> Check:
    return _require(lambda value: value in choices, f"must be one of {', '.join(map(repr, choices))}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_check_text = _require(lambda value: isinstance(value, str), "must be a string")
_check_texts = _require(
    lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    "must be a list of strings",
)
_check_count = _require(
    lambda value: _is_number(value) and isinstance(value, int) and value > 0, "must be a whole number above 0"
)
_check_number = _require(lambda value: type(value) is int and value >= 0, "must be a whole number")
_check_flag = _require(lambda value: isinstance(value, bool), "must be true or false")
_check_table = _require(lambda value: isinstance(value, dict), "must be a table")
_check_weight = _require(
    lambda value: _is_number(value) and 0 < value < float("inf"), "must be a number above 0"
)
_check_gateway = _require(
    lambda value: isinstance(value, str | dict),
    "must be the name of a class, or a table of options of the stand-in",
)
_check_labels = _require(
    lambda value: isinstance(value, str | list | dict),
    "must be a list of names, or the name of a preprocessing file",
)


def _check_model_name(value: Any) -> str:
    if not isinstance(value, str):
        return "must be a string"
    try:
        split_model_name(value or "none")
    except ValueError as error:
        return f"is invalid: {error}"
    return ""


def _check_package_names(value: Any) -> str:
    if wrong := _check_texts(value):
        return wrong
    bad = [item for item in value if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", item)]
    return "must be a list of package names without versions" if bad else ""


def _check_models(value: Any) -> str:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        return "must be an array of tables: [[tool.offline-kit.notebook.models]]"
    problems = [line.strip() for item in value for line in find_key_problems(item, MODEL_KEYS, "")]
    problems += ["files is missing" for item in value if "files" not in item]
    return f"is invalid: {'; '.join(dict.fromkeys(problems))}" if problems else ""


def _check_origin(value: Any) -> str:
    kind, _, ref = value.partition(":") if isinstance(value, str) else ("?", "", "")
    good = not kind or (kind in METADATA_KEYS and is_source_reference(kind, ref))
    return "" if good else f"must be one of {SOURCE_FORMS}"


def _check_copies(value: Any) -> str:
    if not isinstance(value, dict) or not all(isinstance(path, str) for path in value.values()):
        return 'must be a table of folders: "dataset:owner/slug" = "folder"'
    wrong = {source: _check_origin(source) if source else "is not a source" for source in value}
    problems = [f"'{source}' {problem}" for source, problem in wrong.items() if problem]
    return f"is invalid: {'; '.join(problems)}" if problems else ""


@dataclass(frozen=True, kw_only=True)
class ConfigKey:
    """One key of a table: its check, and its default as Markdown."""

    field: str  # the field that it sets
    check: Check
    default: str
    usual: bool  # whether most projects set it; the documentation lists these first


def _key(
    default: Any, *, check: Check | None = None, shown: str | None = None, usual: bool = False, name: str = ""
) -> Any:
    """Declare a field that a key sets.

    `check` follows from the field's type, `shown` (the default in the documentation) from `default`, and the key's
    `name` from the field's, unless they are given.
    """
    if shown is None:
        quoted = f'"{default}"' if isinstance(default, str) else str(default)
        shown = f"`{quoted.lower() if isinstance(default, bool) else quoted}`"
        shown = "none" if default is dict or default in ("", (), None) else shown
    metadata = {"check": check, "shown": shown, "usual": usual, "name": name}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """An entry of [[tool.offline-kit.notebook.models]]: the files of a model, and how to load it."""

    files: str = _key("", shown="required", usual=True)  #: File or glob among the checkpoints.
    #: Name of the framework, from the table below.
    framework: str = _key("", shown="recognized from the file's bytes", usual=True)
    #: For weights alone: your class, or a function that returns the model, or `"timm:NAME"`.
    model: str = _key("", usual=True)
    weight: float = _key(1.0, shown="`1`", usual=True)  #: Weight of the model in the ensemble.
    #: Arguments of the constructor of `model`, and the params listed below.
    params: dict[str, object] = _key(dict, usual=True)
    #: Where the files are, if not in the kit: `"dataset:owner/slug"`, `"notebook:owner/slug"` or
    #: `"model:owner/slug/framework/variation/version"`.
    origin: str = _key("", check=_check_origin, shown="the kit", name="from")
    transform: str = _key("", shown="the notebook's")  #: As in the notebook's table, for this model alone.
    batch_size: int = _key(0, shown="the notebook's")  #: As in the notebook's table, for this model alone.


@dataclass(frozen=True, kw_only=True)
class NotebookSettings:
    """The settings of [tool.offline-kit.notebook]."""

    #: `lightning`, `predict`, `function`, `server`, `plain` (restores the kit, predicts nothing), or a file
    #: of your own.
    template: str = _key("lightning", shown="follows from the keys below and the checkpoints", usual=True)
    model: str = _key("", usual=True)  #: Model class: `package.module:Class` or `file.py:Class`.
    data: str = _key("", usual=True)  #: Data class, written likewise.
    #: For the templates `function` and `server`: `package.module:function` or `file.py:function`.
    function: str = _key("", usual=True)
    title: str = _key("", shown="from the project")  #: Title of the notebook on Kaggle.
    slug: str = _key("", shown="from the project")  #: Slug of the notebook on Kaggle.
    #: The file that the notebook writes.
    submission: str = _key(
        "submission.csv", shown='`"submission.csv"`; `"submission.parquet"` for the template `server`'
    )
    competition_sources: tuple[str, ...] = _key(())  #: Further competitions to attach.
    dataset_sources: tuple[str, ...] = _key(())  #: Further datasets to attach.
    kernel_sources: tuple[str, ...] = _key(())  #: Notebooks whose output to attach.
    model_sources: tuple[str, ...] = _key(())  #: Kaggle Models to attach.
    pin_image: bool = _key(False)  #: Pin Kaggle's image by its digest, if it is known.
    #: Table of free values, given by name to your model, data class or function.
    params: dict[str, object] = _key(dict, usual=True)
    automatic: bool = False  #: The template was not set: it may still follow from the checkpoints.
    #: `"script"` pushes a `.py` file, which Kaggle runs with plain Python, instead of a notebook.
    kernel_type: str = _key(
        "notebook", check=_allow_choices("notebook", "script"), shown='`"notebook"`; follows from `source`'
    )
    #: For the template `predict`: `"tabular"`, `"images"` or `"text"`.
    task: str = _key(
        "", check=_allow_choices("tabular", "images", "text"), shown="the framework's usual one", usual=True
    )
    #: How several models are combined: also `"rank"` (mean of ranks) and `"vote"`. Weights count in all but
    #: `"mean"`.
    ensemble: str = _key(
        "",
        check=_allow_choices("mean", "weighted", "rank", "vote"),
        shown='`"mean"`; `"weighted"` if a model has a weight',
        usual=True,
    )
    #: `"argmax"`, `"threshold:0.5"`, `"labels:0.5"`, `"clip:0:1"` (`"clip:0:"`: one limit), `"round"`, or a
    #: function of (predictions, ids).
    postprocess: str = _key("", usual=True)
    tta: str = _key("")  #: Function that returns, for a batch, the batches whose predictions are averaged.
    transform: str = _key("")  #: Function that turns a path, texts or a table into the model's input.
    batch_size: int = _key(0, shown="by task")  #: Rows, images or texts at once.
    #: JSON file with training's columns and dtypes; they are compared with the test set's.
    columns: str = _key("")
    #: Seconds before `time_limit` at which the notebook stops predicting and writes what it has: whole models, in
    #: the template `predict` also the rows of a first one. Functions and servers read `context.seconds_left`.
    time_reserve: int = _key(0, shown="none")
    source: str = _key("")  #: A notebook or script of yours that was adopted; `offline-kit adopt` sets it.
    #: Array of tables, one for each model or group of models: see below.
    models: tuple[ModelSpec, ...] = _key(
        (), check=_check_models, shown="each checkpoint is a model", usual=True
    )

    @property
    def is_script(self) -> bool:
        """Whether a script is pushed; the suffix of an adopted file decides."""
        return self.source.endswith(".py") if self.source else self.kernel_type == "script"


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of a project. Paths are absolute."""

    project: Path  #: The project's folder.
    name: str  #: [project].name, else the folder's name.
    version: str  #: [project].version, or empty.
    competition: str = _key("", usual=True)  #: Slug of the competition.
    #: Local copy of its data, or part of it, for rehearsals.
    competition_data: Path | None = _key(None, usual=True)
    #: Slug of the private dataset on Kaggle; `"owner/slug"` works too.
    dataset: str = _key("", shown="`<project>-kit`", usual=True)
    #: A built-in image (`offline-kit image list`), the file of a package list, or `local` (the running
    #: Python).
    image: str = _key("", shown="follows the accelerator", usual=True)
    #: Container image for `rehearse --env image`: a reference, best with its digest.
    container: str = _key("", shown="the digest of `image`, else Kaggle's newest")
    #: Machine shape on Kaggle, such as `"NvidiaTeslaT4"`; `"none"` is a CPU. There is no TPU: no template and
    #: no image supports one.
    accelerator: str = _key("none", usual=True)
    #: Requirements files.
    requirements: tuple[Path, ...] = _key(
        (), shown="`[project].dependencies`, else `requirements.in` or `requirements.txt`", usual=True
    )
    project_dependencies: bool = False  #: Whether [project].dependencies are among the requirements.
    extras: tuple[str, ...] = _key((), check=_check_package_names)  #: Extras of the project to include.
    #: Dependency groups of the project to include.
    groups: tuple[str, ...] = _key((), check=_check_package_names)
    #: `uv.lock`, `pylock.toml`, `poetry.lock`, `Pipfile.lock`, `pdm.lock`, `requirements.lock`, conda's
    #: `environment.yml` or pip freeze files: preferred pins. A pin that does not fit the image moves to the
    #: nearest version that does.
    locks: tuple[Path, ...] = _key(())
    #: Folders of your own packages; each is built to a wheel.
    packages: tuple[Path, ...] = _key((), shown='`["."]` if the project is a package', usual=True)
    #: Folders of modules and `.py` files, shipped as they are. If it is set, scripts at the top of the
    #: project are shipped only if a reference or an import names them.
    modules: tuple[Path, ...] = _key((), usual=True)
    checkpoints: tuple[str, ...] = _key((), usual=True)  #: Files, folders or globs of trained models.
    main_from: Path | None = _key(None)  #: The training script whose classes a pickle knows as `__main__`.
    #: Scalers, encoders, label maps: files that are shipped beside the checkpoints and loaded by name.
    preprocessing: tuple[str, ...] = _key((), usual=True)
    #: Globs of files to ship although they are pickles that could run code, or contain what looks like a
    #: secret.
    trust: tuple[str, ...] = _key(())
    #: Table of local copies of other sources, for rehearsals and a local Kaggle: `"dataset:owner/slug" =
    #: "folder"`.
    copies: Mapping[str, Path] = _key(dict, check=_check_copies)
    slim: bool = _key(False)  #: Leave the state of optimizer and trainer out of the checkpoints.
    #: A private Kaggle Model for the checkpoints, instead of a dataset: `"slug"` or
    #: `"slug/framework/variation"`, such as `"my-model/pyTorch/folds"`. The default framework and variation
    #: are `other/checkpoints`.
    publish_model: str = _key("", check=_check_model_name)
    #: Packages that are taken out before anything is resolved.
    exclude: tuple[str, ...] = _key((), check=_check_package_names)
    #: Packages to bundle although the image has them.
    include: tuple[str, ...] = _key((), check=_check_package_names)
    #: Protected packages that the kit may replace by another version than the image's.
    replace: tuple[str, ...] = _key((), check=_check_package_names)
    #: Which version wins if a lock file and the image differ: `"image"` or `"lock"`.
    pins: str = _key("image", check=_allow_choices("image", "lock"))
    engine: str = _key("auto", check=_allow_choices(*ENGINES))  #: Resolver: `"uv"` or `"pip-tools"`.
    #: How packages without wheels are shipped: as sdist and built wheel (`"both"`), sdist alone (`"rename"`)
    #: or wheel alone (`"wheel"`).
    sdists: str = _key("both", check=_allow_choices(*SDISTS))
    #: Packages whose sdist may be shipped although no wheel could be built from it.
    allow_unbuilt: tuple[str, ...] = _key((), check=_check_package_names)
    #: `"one"` dataset, or `"split"` into packages, code and checkpoints, with each checkpoint of 50 MB or
    #: more apart.
    parts: str = _key(
        "",
        check=_allow_choices("one", "split"),
        shown='as the existing kit; for a new one `"split"` if its checkpoints have over 100 MB',
    )
    out: Path = _key(DEFAULT_OUT)  #: Folder of the kit.
    #: The sample that submissions are checked against.
    sample_submission: Path | None = _key(None, shown="found in the competition's data")
    rows: int | None = _key(None, shown="all")  #: Number of rows of the test set to rehearse on.
    #: Data of a second run, as in scoring: `"auto"` makes it from the public data (`"auto:2"`: with that seed,
    #: `"auto:unreadable"`: with a damaged file), a folder has it, `"none"` leaves that run out.
    hidden: str = _key("", shown='none; `"auto"` in `ship` for a code competition')
    #: Number of rows of the hidden test set, if you know it: rehearsals forecast its time and memory, from a hidden run with at
    #: most ten times the public rows or from a run on fewer. `0`: unknown, and not to be asked for.
    hidden_rows: int | None = _key(
        None, check=_check_number, shown="asked once on a terminal, by a hidden run"
    )
    time_limit: int = _key(9 * 3600)  #: The competition's limit for a run, in seconds.
    notebook: NotebookSettings = _key(NotebookSettings, shown="")  #: The table below.
    source: Path | None = None  #: The file that was read; None if only flags were given.
    from_flags: frozenset[str] = frozenset()  #: Keys set on the command line.

    @property
    def code_roots(self) -> tuple[Path, ...]:
        """The folders that modules of the own packages and of the project are imported from."""
        packages = dict.fromkeys((*self.packages, self.project))
        return tuple(root for package in packages for root in (package / "src", package))

    @property
    def lock(self) -> Path:
        """The lock file in the project's folder."""
        return self.project / LOCK_NAME

    def describe_origin(self, key: str) -> str:
        """Return what set a key: a flag, or the key and its file."""
        if self.source is None or key in self.from_flags:
            return f"--{key.replace('_', '-')}"
        return f"`{key}` in '{self.source}'"


@dataclass(frozen=True, kw_only=True)
class KnownParams:
    """The params that the templates `predict` and `server` and the frameworks read; they stay a free table."""

    #: `"softmax"` or `"sigmoid"`: turn scores into probabilities.
    activation: str = _key("", check=_allow_choices("", "softmax", "sigmoid"), usual=True)
    #: Names of the classes in the model's order: a list, or the name of a preprocessing file.
    labels: object = _key(None, check=_check_labels, usual=True)
    text: str = _key("", shown="the one text column")  #: Column of the texts.
    #: `false` loads pickles that `torch.load(weights_only=True)` refuses: only for your own files.
    weights_only: bool = _key(True)
    #: Key of the state dict inside the checkpoint, if it has several or an unusual one.
    weights: str = _key("", shown="the usual names")
    architecture: str = _key("", shown="from `model`")  #: Name of the timm architecture.
    trust_remote_code: bool = _key(False)  #: Run the code that a Hugging Face folder contains.
    tokenizer: str = _key("", shown="the model's folder")  #: Preprocessing folder with the tokenizer.
    max_length: int = _key(0, shown="the tokenizer's, at most `512`")  #: Tokens of a text.
    trusted: tuple[str, ...] = _key(())  #: Types that skops may load besides those that it trusts.
    safe_mode: bool = _key(True)  #: `false` lets Keras load lambda layers: only for your own files.
    test: str = _key("", shown="found in the data")  #: Test table or folder below the competition's data.
    #: What Keras computes with.
    backend: str = _key("tensorflow", check=_allow_choices("tensorflow", "jax", "torch"))
    server: str = _key("", shown="found in the competition's package")  #: Class of the inference server.
    #: Files of the gateway, below the data.
    data_paths: tuple[str, ...] = _key((), shown="read from the competition's package")
    #: Class of the gateway, or a table of options of the stand-in (`batches`, `rows`, `by`, `sends`, `ids`,
    #: `submission`, `seed`).
    gateway: object = _key(
        None, check=_check_gateway, shown="found in the competition's package, else a stand-in"
    )


_CHECKS_BY_TYPE: dict[Any, Check] = {
    **dict.fromkeys((str, Path, Path | None), _check_text),
    **dict.fromkeys((tuple[str, ...], tuple[Path, ...]), _check_texts),
    **dict.fromkeys((int, int | None), _check_count),
    **dict.fromkeys((dict[str, object], NotebookSettings), _check_table),
    bool: _check_flag,
    float: _check_weight,
}


def _list_keys(settings: Any) -> dict[str, ConfigKey]:
    keys = {}
    for item in fields(settings):
        if declared := item.metadata:
            check = declared["check"] or _CHECKS_BY_TYPE[item.type]
            keys[declared["name"] or item.name] = ConfigKey(
                field=item.name, check=check, default=declared["shown"], usual=declared["usual"]
            )
    return keys


KEYS = _list_keys(Config)  # keys of [tool.offline-kit]
NOTEBOOK_KEYS = _list_keys(NotebookSettings)  # keys of [tool.offline-kit.notebook]
MODEL_KEYS = _list_keys(ModelSpec)  # keys of an entry of [[tool.offline-kit.notebook.models]]
PARAMS = _list_keys(KnownParams)


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
