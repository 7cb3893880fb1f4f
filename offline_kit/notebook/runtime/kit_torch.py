"""Load what PyTorch and Lightning saved, rebuild models and data, and predict without a Trainer.

What the template `lightning` asks of the classes:

* Model: constructed from the checkpoint's hyper-parameters (`save_hyperparameters()`), overridden by the
  notebook's params that its constructor takes. `predict_step(batch, index)` if the class defines one, else
  `forward` on the batch (on its first item if it is a list or tuple). One tensor per batch.
* Data: constructed with the competition's folder and, by name, the notebook's params. `setup("predict")`
  if defined; `predict_dataloader()`, else `test_dataloader()`, in a fixed order;
  `submission(predictions)` returns a data frame or a list of dictionaries. `prepare_data` is not called.
"""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .kit_deadline import Deadline
from .kit_runtime import KitError, shorten_list, track_progress

WEIGHTS_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "module")
"""Where a checkpoint of a training has its weights, the likeliest first."""
OTHER_WEIGHTS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
"""Keys that may contain averaged weights as well."""
WRAPPERS = ("module.", "_orig_mod.", "_forward_module.", "model.", "net.", "ema_model.")
"""What DataParallel, compile, Lightning and averaging put before the names of weights."""
NOT_ARGUMENTS = frozenset({"weights_only", "weights", "activation", "labels", "text", "test"})
"""Params of the notebook that control loading and predicting; the others go to constructors that take them by name."""
LIBRARIES = ("lightning", "pytorch_lightning", "torch")


def load_checkpoint(path: Path, *, weights_only: bool = True) -> dict[str, Any]:
    """Load a checkpoint on the CPU; raises KitError that names the classes that a safe load refuses."""
    if path.suffix == ".safetensors":
        return dict(importlib.import_module("safetensors.torch").load_file(path, device="cpu"))
    torch = importlib.import_module("torch")
    try:
        # torch 2.6 made weights_only the default (https://github.com/pytorch/pytorch/releases/tag/v2.6.0).
        loaded = torch.load(path, map_location="cpu", weights_only=weights_only)
    except Exception as error:
        raise _explain_load_error(torch, path, error, weights_only=weights_only) from error
    if not isinstance(loaded, Mapping):
        raise KitError(
            f"'{path.name}' holds a {type(loaded).__name__}, not a checkpoint", code="not-a-checkpoint"
        )
    return dict(loaded)


def _explain_load_error(torch: Any, path: Path, error: Exception, *, weights_only: bool) -> KitError:
    lines = str(error).splitlines()
    if not weights_only or "weights_only" not in str(error).lower().replace(" ", "_"):
        return KitError(
            f"'{path.name}' cannot be loaded: {type(error).__name__}", lines[:3], code="checkpoint-unreadable"
        )
    try:
        refused = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (AttributeError, ValueError, OSError):  # torch before 2.6, and the file format before 1.6
        refused = []
    if not refused and "unsupported operand" in str(error).lower():
        # torch reads any file as the opcodes of a pickle.
        with path.open("rb") as stream:
            begins = f"it begins with {stream.read(20)!r}"
        return KitError(
            f"'{path.name}' is no checkpoint that PyTorch wrote", [begins], code="not-a-torch-checkpoint"
        )
    return KitError(
        f"'{path.name}' contains more than weights, and a safe load refuses it",
        refused or lines[-3:],
        code="unsafe-checkpoint",
    )


def _named_parameters(call: Any) -> set[str]:
    """Return the names by which a constructor takes arguments."""
    parameters = inspect.signature(call).parameters.values()
    return {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _saved_arguments(checkpoint: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {str(name): value for name, value in dict(checkpoint.get(key) or {}).items()}


def _choose_arguments(call: Any, saved: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constructor's arguments: what was saved, the params laid over it."""
    # With **kwargs it gets all that was saved, as from Lightning, but no other param: `batch_size` may be the data's.
    accepted = _named_parameters(call)
    if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(call).parameters.values()):
        accepted |= set(saved)
    return {name: value for name, value in {**saved, **params}.items() if name in accepted}


def _construct(call: Any, arguments: Mapping[str, Any], advice: str) -> Any:
    """Call a class or function; raises KitError, with the advice, if the arguments do not match its signature."""
    try:
        inspect.signature(call).bind(**arguments)
    except TypeError as error:
        raise KitError(
            f"'{call.__name__}' cannot be made: {error}", code="arguments-do-not-fit", hint=advice
        ) from None
    return call(**arguments)


def build_from_checkpoint(
    build: Any, checkpoint: Mapping[str, Any], own: Mapping[str, Any], shared: Mapping[str, Any] | None = None
) -> Any:
    """Call the class or function that builds a model, with the hyper-parameters of the checkpoint and the params.

    `own` are the arguments of this very model, all of which it has to take; of `shared`, the notebook's params, it
    gets those that it takes by name.
    """
    params = {name: value for name, value in (shared or {}).items() if name not in NOT_ARGUMENTS}
    arguments = _choose_arguments(build, _saved_arguments(checkpoint, "hyper_parameters"), params)
    return _construct(build, arguments | dict(own), "correct `params` of its entry in `models`")


def find_weights(checkpoint: Mapping[str, Any], key: str = "") -> Mapping[str, Any]:
    """Return the weights of a checkpoint: itself, or what is under `key`, or under one of the usual keys."""
    if key and key not in checkpoint:
        raise _weights_key_error(f"the checkpoint has no '{key}'", checkpoint, "correct `weights`")
    path: list[str] = []
    weights: Any = checkpoint
    while not _is_state_dict(weights):
        names = [key] if key and not path else WEIGHTS_KEYS
        inner = {name: _as_state_dict(weights[name]) for name in names if name in weights}
        name = next((name for name, value in inner.items() if isinstance(value, Mapping)), "")
        if not name:
            problem = "the checkpoint has no weights under any usual name"
            raise _weights_key_error(problem, weights, 'name the key: `weights = "key"`')
        for other in [name for name in OTHER_WEIGHTS if name in weights and not key][:1]:
            print(f"the checkpoint has '{other}' too: `weights = \"{other}\"` in `params` takes that")
        path.append(name)
        weights = inner[name]
    if path:
        print(f"weights: under '{'.'.join(path)}' of the checkpoint")
    return dict(weights)


def _weights_key_error(problem: str, values: Mapping[str, Any], advice: str) -> KitError:
    details = [f"it has: {', '.join(map(str, values))}"]
    hint = f"{advice} in the `params` of its entry in `models`"
    return KitError(problem, details, code="weights-key-not-found", hint=hint)


def _as_state_dict(value: Any) -> Any:
    return value.state_dict() if hasattr(value, "state_dict") else value


def _is_state_dict(values: Mapping[str, Any]) -> bool:
    return bool(values) and all(hasattr(values[name], "dtype") or "_extra_state" in name for name in values)


def load_weights(model: Any, weights: Mapping[str, Any], name: str = "") -> Any:
    """Load all weights into a model, and return it; prefixes of wrappers are removed with a note."""
    model_names = set(model.state_dict())
    fitting = strip_wrappers(weights, model_names)
    try:
        model.load_state_dict(fitting, strict=True)
    except RuntimeError as error:
        missing, unexpected = model_names - set(fitting), set(fitting) - model_names
        details = [f"in the model only: {shorten_list(sorted(missing))}"] * bool(missing)
        details += [f"in the checkpoint only: {shorten_list(sorted(unexpected))}"] * bool(unexpected)
        raise KitError(
            f"{f'{name!r}' if name else 'the checkpoint'} does not fit '{type(model).__name__}'",
            details or [line.strip() for line in str(error).splitlines()[1:6]],
            code="weights-do-not-fit",
        ) from None
    return model


def strip_wrappers(weights: Mapping[str, Any], model_names: set[str]) -> dict[str, Any]:
    """Return weights under the model's names, if only wrappers make the difference."""
    stripped = dict(weights)
    if "n_averaged" not in model_names:
        stripped.pop("n_averaged", None)  # the count of an averaged model
    for _ in range(4):  # wrappers may be nested
        step = None if set(stripped) == model_names else _strip_wrapper(stripped, model_names)
        if step is None:
            break
        prefix, fewer = step
        left = len(stripped) - len(fewer)
        print(f"weights: removed the prefix '{prefix}'{f'; {left} without it are left out' if left else ''}")
        stripped = fewer
    return stripped


def _strip_wrapper(weights: dict[str, Any], model_names: set[str]) -> tuple[str, dict[str, Any]] | None:
    for wrapper in WRAPPERS:
        if any(name.startswith(wrapper) for name in model_names):
            continue
        inner = {
            name.removeprefix(wrapper): value for name, value in weights.items() if name.startswith(wrapper)
        }
        if inner and (len(inner) == len(weights) or set(inner) == model_names):
            return wrapper, inner
    compiled = "_orig_mod."  # of a part of the model
    if any(compiled in name for name in weights) and not any(compiled in name for name in model_names):
        return compiled, {name.replace(compiled, ""): value for name, value in weights.items()}
    return None


def find_module(saved: Any, key: str, name: str) -> Any:
    """Return the module that a file holds: itself, or in a checkpoint the one under the key, by default the first."""
    if not isinstance(saved, Mapping):
        return saved
    module_class = importlib.import_module("torch").nn.Module
    modules = {word: value for word, value in saved.items() if isinstance(value, module_class)}
    if not modules or (key and key not in modules):
        raise KitError(
            f"'{name}' has no model under '{key}'",
            code="weights-key-not-found",
            hint=f"it has models under: {shorten_list(modules) or 'no key'}",
        )
    return modules[key or next(iter(modules))]


def find_max_tokens(model: Any, limit: int) -> int:
    """Return how many tokens of a text a model of transformers takes, at most `limit`."""
    positions = getattr(model.config, "max_position_embeddings", None) or 512
    return min(int(model.kit_processor.model_max_length), int(positions), limit)


def find_transformers_class(path: Path, *, trust_remote_code: bool, **options: Any) -> Any:
    """Return the class of transformers that a saved model's configuration names, or the one that its own code maps."""
    transformers = importlib.import_module("transformers")
    config = transformers.AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, **options)
    name = (config.architectures or ["AutoModel"])[0]
    mapped = (getattr(config, "auto_map", None) or {}) if trust_remote_code else {}
    mapped_names = [key for key, value in mapped.items() if str(value).endswith(f".{name}")]
    model_class = getattr(transformers, (mapped_names or [name])[0], None)
    if model_class is None:
        raise KitError(f"transformers has no '{name}'", code="model-class-not-found")
    return model_class


def prepare_model(model: Any, device: str) -> Any:
    """Return a model on the device, ready to predict; half precision becomes single on the CPU."""
    torch = importlib.import_module("torch")
    model = model.to(device).eval()
    halves = (torch.float16, torch.bfloat16)
    # Many layers have no kernel of half precision on a CPU.
    if device == "cpu" and any(weight.dtype in halves for weight in model.parameters()):
        model = model.float()
    return model


def as_tensors(batch: Any, device: str) -> Any:
    """Return a batch as the model takes it: a table as one array of single precision, arrays as tensors."""
    torch = importlib.import_module("torch")
    if hasattr(batch, "columns"):
        words = [str(name) for name in batch.columns if batch[name].dtype.kind not in "biuf"]
        if words:
            raise KitError(
                f"the model takes numbers, and these columns hold none: {shorten_list(words)}",
                code="columns-not-numeric",
            )
        batch = batch.to_numpy("float32")
    if isinstance(batch, Mapping):
        return {name: as_tensors(value, device) for name, value in batch.items()}
    if isinstance(batch, tuple):
        return tuple(as_tensors(value, device) for value in batch)
    if isinstance(batch, list):
        raise KitError(
            f"the model takes tensors, and the rows are of type {type(batch[0]).__name__}",
            code="batch-not-tensor",
        )
    tensor = batch if hasattr(batch, "detach") else torch.from_numpy(batch)
    return (tensor.float() if tensor.dtype == torch.float64 else tensor).to(device)


def compute_answer(model: Any, batch: Any) -> Any:
    """Return the model's output for a batch of tensors: its only or first output, its logits."""
    # A LightningModule's predict_step defaults to forward.
    if hasattr(model, "predict_step"):
        answer = model.predict_step(batch, 0)
    elif isinstance(batch, dict):
        answer = model(**batch)
    else:
        answer = model(*batch) if isinstance(batch, tuple) else model(batch)
    if isinstance(answer, Mapping):
        answer = answer.get("logits", answer)
    answer = getattr(answer, "logits", answer)
    answer = answer[0] if isinstance(answer, list | tuple) else answer
    _check_tensor(answer, "let `model` name a function that builds one whose forward returns a tensor")
    return answer.float()


def _check_tensor(answer: Any, advice: str) -> None:
    if not hasattr(answer, "detach"):
        raise KitError(
            f"the model answers with a {type(answer).__name__}, not a tensor",
            code="model-output-not-tensor",
            hint=f"{advice}, one row for each row",
        )


def check_params(params: Mapping[str, Any], checkpoint: Mapping[str, Any], takers: Sequence[Any]) -> None:
    """Raise KitError for a param that neither the template nor a constructor takes: it is a typing error."""
    known_names = {"weights_only"}.union(*map(_named_parameters, takers))
    for key in ("hyper_parameters", "datamodule_hyper_parameters"):
        known_names |= set(_saved_arguments(checkpoint, key))
    unknown = [name for name in params if name not in known_names]
    if unknown:
        raise KitError(
            f"there is no param {', '.join(map(repr, unknown))}",
            [f"known: {', '.join(sorted(known_names))}"],
            code="unknown-param",
        )


def build_model(
    model_class: Any, checkpoint: Mapping[str, Any], params: Mapping[str, Any], device: str
) -> Any:
    """Construct the model, load its weights strictly, move it to the device, ready to predict."""
    arguments = _choose_arguments(model_class, _saved_arguments(checkpoint, "hyper_parameters"), params)
    advice = (
        "call save_hyperparameters() in the model, or give the values in [tool.offline-kit.notebook.params]"
    )
    model = _construct(model_class, arguments, advice)
    return prepare_model(load_weights(model, checkpoint.get("state_dict", checkpoint)), device)


def build_data(
    data_class: Any, root: Path | None, checkpoint: Mapping[str, Any], params: Mapping[str, Any]
) -> Any:
    """Construct the data class over the competition's folder, set it up, and check that it keeps the contract."""
    saved = _saved_arguments(checkpoint, "datamodule_hyper_parameters")
    arguments = _choose_arguments(data_class, saved, params)
    first = next(iter(inspect.signature(data_class).parameters.values()), None)
    if first is not None and first.kind is first.POSITIONAL_OR_KEYWORD and first.name not in params:
        if root is None:
            raise KitError(
                f"'{data_class.__name__}' needs the competition's folder as '{first.name}', and none is attached",
                code="competition-not-attached",
                hint="set `competition` in the configuration, or give the value in [tool.offline-kit.notebook.params]",
            )
        arguments[first.name] = str(root) if first.annotation in (str, "str") else root
    advice = (
        "its first parameter gets the competition's folder; the others need a default, "
        "or a value in [tool.offline-kit.notebook.params]"
    )
    data = _construct(data_class, arguments, advice)
    if not callable(getattr(data, "submission", None)):
        raise KitError(
            f"'{data_class.__name__}' has no method submission(predictions)", code="submission-method-missing"
        )
    if _defines_method(data, "setup"):
        # Lightning passes the stage; older classes take no argument.
        data.setup(*["predict"][: len(inspect.signature(data.setup).parameters)])
    return data


def _defines_method(instance: Any, name: str) -> bool:
    """Whether the user's class defines a method, rather than Lightning's base class."""
    owner = next((kind for kind in type(instance).__mro__ if name in vars(kind)), None)
    return owner is not None and owner.__module__.split(".")[0] not in LIBRARIES


def find_loader(data: Any) -> Any:
    """Return the loader of the test data."""
    names = [name for name in ("predict_dataloader", "test_dataloader") if _defines_method(data, name)]
    if not names:
        raise KitError(
            f"'{type(data).__name__}' defines neither predict_dataloader nor test_dataloader",
            code="predict-loader-missing",
        )
    # Lightning allows lists and dictionaries of loaders.
    loaders = getattr(data, names[0])()
    loaders = list(loaders.values()) if isinstance(loaders, Mapping) else loaders
    if not isinstance(loaders, list | tuple):
        return loaders
    if len(loaders) != 1:
        raise KitError(f"{names[0]}() returns {len(loaders)} loaders", code="several-loaders")
    return loaders[0]


def to_device(batch: Any, device: str) -> Any:
    """Move the tensors of a batch, however they are nested; the rest stays as it is."""
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(to_device(value, device) for value in batch)
    return batch.to(device) if hasattr(batch, "to") else batch


def predict_loader(model: Any, loader: Any, device: str, title: str, deadline: Deadline | None = None) -> Any:
    """Return the model's predictions for all batches of the loader as one tensor on the CPU, in single precision.

    None if a `deadline` is over before its end.
    """
    torch = importlib.import_module("torch")
    total = len(loader) if hasattr(loader, "__len__") else 0
    has_step = _defines_method(model, "predict_step")
    answers = []
    with torch.inference_mode():
        for index, batch in enumerate(track_progress(loader, title, total, "batches")):
            if deadline and deadline.is_over():
                return None
            moved = to_device(batch, device)
            if has_step:
                answer = model.predict_step(moved, index)
            else:
                answer = model(moved[0] if isinstance(moved, list | tuple) else moved)
            _check_tensor(answer, "define predict_step(batch, batch_idx) that returns one tensor")
            answer = answer.detach().cpu()
            answer = answer.float() if answer.is_floating_point() else answer
            answers.append(answer.unsqueeze(0) if answer.dim() == 0 else answer)
    if not answers:
        raise KitError("the loader of the test data yields no batch", code="loader-empty")
    return torch.cat(answers)
