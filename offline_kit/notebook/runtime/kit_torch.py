"""Load what PyTorch saved: checkpoints of every kind, weights into models, batches into tensors.

This file is part of offline-kit and is pasted into the notebooks that it renders.
"""

import importlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offline_kit.notebook.runtime.kit_runtime import KitError, Say, shorten_list

WEIGHTS_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "module")
"""Where a checkpoint of a training has its weights, the likeliest first."""
OTHER_WEIGHTS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
"""Keys that may contain averaged weights as well."""
WRAPPERS = ("module.", "_orig_mod.", "_forward_module.", "model.", "net.", "ema_model.")
"""What DataParallel, compile, Lightning and averaging put before the names of weights."""
NOT_ARGUMENTS = frozenset({"weights_only", "weights", "activation", "labels", "text", "test"})
"""Params of the notebook that control loading and predicting; the others go to constructors that take them by name."""


def load_checkpoint(path: Path, *, weights_only: bool = True) -> dict[str, Any]:
    """Load a checkpoint on the CPU; raises KitError that names the classes that a safe load refuses."""
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    torch = importlib.import_module("torch")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=weights_only)
    except Exception as error:
        if not weights_only or "weights_only" not in str(error).lower().replace(" ", "_"):
            raise KitError(
                f"'{path.name}' cannot be loaded: {type(error).__name__}",
                str(error).splitlines()[:3],
                code="checkpoint-unreadable",
                hint="save it again with this version of torch, and build the kit again",
            ) from error
        refused = _list_refused(torch, path)
        if not refused and "unsupported operand" in str(error).lower():
            with path.open("rb") as stream:
                begins = stream.read(20)
            raise KitError(
                f"'{path.name}' is no checkpoint that PyTorch wrote",
                [f"it begins with {begins!r}"],
                code="not-a-torch-checkpoint",
                hint="check what was saved or downloaded there; a file of another kind is for the template `function`",
            ) from error
        raise KitError(
            f"'{path.name}' contains more than weights, and a safe load refuses it",
            refused or str(error).splitlines()[-3:],
            code="unsafe-checkpoint",
            hint="if you trust this file, set `weights_only = false` in [tool.offline-kit.notebook.params]; "
            "else save plain types only (numbers, strings, lists, dicts) as hyper-parameters",
        ) from error
    if not isinstance(loaded, Mapping):
        raise KitError(
            f"'{path.name}' holds a {type(loaded).__name__}, not a checkpoint",
            code="not-a-checkpoint",
            hint="save `model.state_dict()`, or let Lightning save it",
        )
    return dict(loaded)


def _load_safetensors(path: Path) -> dict[str, Any]:
    try:
        safetensors = importlib.import_module("safetensors.torch")
    except ImportError as error:
        raise KitError(
            f"'{path.name}' is a safetensors file, and safetensors cannot be imported: {error}",
            code="module-not-found",
            hint="add safetensors to the requirements, and build the kit again",
        ) from error
    weights = dict(safetensors.load_file(path, device="cpu"))
    with path.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    # Beside the tensors such a file holds texts alone; a checkpoint made light has its hyper-parameters there.
    saved = json.loads(header.get("__metadata__", {}).get("checkpoint", "{}"))
    return {**saved, "state_dict": weights} if saved else weights


def _list_refused(torch: Any, path: Path) -> list[str]:
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (AttributeError, ValueError, OSError):  # torch before 2.6, and the file format before 1.6
        return []


def parameter_names(call: Any) -> set[str]:
    """Return the names of a constructor's parameters."""
    stars = (
        inspect.Parameter.VAR_POSITIONAL,
        inspect.Parameter.VAR_KEYWORD,
        inspect.Parameter.POSITIONAL_ONLY,
    )
    return {
        parameter.name
        for parameter in inspect.signature(call).parameters.values()
        if parameter.kind not in stars
    }


def choose_arguments(call: Any, saved: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constructor's arguments: what was saved, the params laid over it.

    A constructor with **kwargs gets all that was saved, as Lightning would give it, but no other param:
    `batch_size` may be the data's.
    """
    kinds = {parameter.kind for parameter in inspect.signature(call).parameters.values()}
    names = parameter_names(call)
    accepted = names | set(saved) if inspect.Parameter.VAR_KEYWORD in kinds else names
    return {name: value for name, value in {**saved, **params}.items() if name in accepted}


def call_constructor(call: Any, arguments: Mapping[str, Any], *first: Any, advice: str) -> Any:
    """Call a class or function; raises KitError, with the advice, if the arguments do not match its signature."""
    try:
        inspect.signature(call).bind(*first, **arguments)
    except TypeError as error:
        raise KitError(
            f"'{call.__name__}' cannot be made: {error}", code="arguments-do-not-fit", hint=advice
        ) from None
    return call(*first, **arguments)


def build_from_checkpoint(
    build: Any, checkpoint: Mapping[str, Any], own: Mapping[str, Any], shared: Mapping[str, Any] | None = None
) -> Any:
    """Call the class or function that builds a model, with the hyper-parameters of the checkpoint and the params.

    `own` are the arguments of this very model, all of which it has to take; of `shared`, the notebook's params, it
    gets those that it takes by name.
    """
    saved = {str(name): value for name, value in dict(checkpoint.get("hyper_parameters") or {}).items()}
    shared_params = {name: value for name, value in (shared or {}).items() if name not in NOT_ARGUMENTS}
    arguments = choose_arguments(build, saved, shared_params) | dict(own)
    return call_constructor(build, arguments, advice="correct `params` of its entry in `models`")


def find_weights(checkpoint: Mapping[str, Any], key: str = "", say: Say = print) -> Mapping[str, Any]:
    """Return the weights of a checkpoint: itself, or what is under `key`, or under one of the usual keys."""
    if key and key not in checkpoint:
        raise KitError(
            f"the checkpoint has no '{key}'",
            [f"it has: {', '.join(map(str, checkpoint))}"],
            code="weights-key-not-found",
            hint="correct `weights` in the `params` of its entry in `models`",
        )
    path: list[str] = []
    weights: Any = checkpoint
    while not _is_weights(weights):
        names = [key] if key and not path else [name for name in WEIGHTS_KEYS if name in weights]
        inside = next((name for name in names if isinstance(_as_state_dict(weights[name]), Mapping)), "")
        if not inside:
            raise KitError(
                "the checkpoint has no weights under any usual name",
                [f"it has: {', '.join(map(str, weights))}"],
                code="weights-key-not-found",
                hint='name the key: `weights = "key"` in the `params` of its entry in `models`',
            )
        averaged = [name for name in OTHER_WEIGHTS if name in weights and not key]
        path.append(inside)
        weights = _as_state_dict(weights[inside])
        if averaged:
            say(
                f"the checkpoint has '{averaged[0]}' too: `weights = \"{averaged[0]}\"` in `params` takes that"
            )
    if path:
        say(f"weights: under '{'.'.join(path)}' of the checkpoint")
    return dict(weights)


def _as_state_dict(value: Any) -> Any:
    return value.state_dict() if hasattr(value, "state_dict") else value


def _is_weights(values: Mapping[str, Any]) -> bool:
    return bool(values) and all(
        hasattr(value, "dtype") or "_extra_state" in str(name) for name, value in values.items()
    )


def load_weights(model: Any, weights: Mapping[str, Any], name: str = "", say: Say = print) -> Any:
    """Load all weights into a model, and return it.

    Prefixes of wrappers are removed with a note. Raises KitError with missing, unexpected and differently
    shaped weights.
    """
    model_weights = model.state_dict()
    fitting = strip_wrappers(weights, set(model_weights), say)
    try:
        model.load_state_dict(fitting, strict=True)
    except RuntimeError as error:
        missing, unexpected = set(model_weights) - set(fitting), set(fitting) - set(model_weights)
        details = [f"in the model only: {shorten_list(sorted(missing))}"] * bool(missing)
        details += [f"in the checkpoint only: {shorten_list(sorted(unexpected))}"] * bool(unexpected)
        raise KitError(
            f"{f'{name!r}' if name else 'the checkpoint'} does not fit '{type(model).__name__}'",
            details or [line.strip() for line in str(error).splitlines()[1:6]],
            code="weights-do-not-fit",
            hint="use the code and the hyper-parameters that the checkpoint was trained with",
        ) from None
    return model


def strip_wrappers(weights: Mapping[str, Any], model_names: set[str], say: Say = print) -> dict[str, Any]:
    """Return weights under the model's names, if only wrappers make the difference."""
    stripped = dict(weights)
    if "n_averaged" not in model_names:
        stripped.pop("n_averaged", None)  # the count of an averaged model
    for _ in range(4):
        step = None if set(stripped) == model_names else _strip_wrapper(stripped, model_names)
        if step is None:
            break
        prefix, fewer = step
        left = len(stripped) - len(fewer)
        say(f"weights: removed the prefix '{prefix}'{f'; {left} without it are left out' if left else ''}")
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


def prepare_model(model: Any, device: str) -> Any:
    """Return a model on the device, ready to predict; half precision becomes single on the CPU."""
    torch = importlib.import_module("torch")
    model = model.to(device).eval()
    halves = (torch.float16, torch.bfloat16)
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
                hint="encode them as in training in your own `transform`: transform(batch) -> table or tensor",
            )
        batch = batch.to_numpy("float32")
    if isinstance(batch, Mapping):
        return {name: as_tensors(value, device) for name, value in batch.items()}
    if isinstance(batch, tuple):
        return tuple(as_tensors(value, device) for value in batch)
    if isinstance(batch, list):
        raise KitError(
            f"the model takes tensors, and gets a {type(batch[0]).__name__} for each row",
            code="batch-not-tensor",
            hint="convert them to tensors in your own `transform`, as in training",
        )
    tensor = batch if hasattr(batch, "detach") else torch.from_numpy(batch)
    return (tensor.float() if tensor.dtype == torch.float64 else tensor).to(device)


def compute_answer(model: Any, batch: Any) -> Any:
    """Return the model's output for a batch of tensors: its only or first output, its logits.

    A LightningModule answers with its predict_step, which defaults to forward.
    """
    answer = _call_model(model, batch)
    if isinstance(answer, Mapping):
        answer = answer.get("logits", answer)
    answer = getattr(answer, "logits", answer)
    answer = answer[0] if isinstance(answer, list | tuple) else answer
    if not hasattr(answer, "detach"):
        raise KitError(
            f"the model answers with a {type(answer).__name__}, not a tensor",
            code="model-output-not-tensor",
            hint="let `model` name a function that builds one whose forward returns a tensor, one row for each row",
        )
    return answer.float()


def _call_model(model: Any, batch: Any) -> Any:
    if hasattr(model, "predict_step"):
        return model.predict_step(batch, 0)
    if isinstance(batch, dict):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple) else model(batch)
