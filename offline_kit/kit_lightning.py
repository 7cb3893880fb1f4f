"""Rebuild a LightningModule and its data without a Trainer, and check what they must offer.

This file is part of offline-kit and is pasted into the notebooks that it renders. The contract:

* Model: constructed from the checkpoint's hyper-parameters (`save_hyperparameters()`), with the
  notebook's params laid over them, as far as its constructor takes them. `predict_step(batch, index)`
  if the class defines one, else `forward` on the batch (on its first item when it is a list or tuple).
  One tensor for each batch.
* Data: constructed with the competition's folder and, by name, the notebook's params. `setup("predict")`
  if it is there; `predict_dataloader()`, else `test_dataloader()`, in a fixed order;
  `submission(predictions)` returns a data frame or a list of dictionaries. `prepare_data` is not called.
"""

import importlib
import inspect
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from offline_kit.kit_runtime import KitError, Say

OURS = frozenset({"weights_only"})
"""Params that the template itself reads."""
LIBRARIES = ("lightning", "pytorch_lightning", "torch")


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
                hint="save it again with this version of torch, and build the kit again",
            ) from error
        refused = _refused(torch, path)
        if not refused and "unsupported operand" in str(error).lower():
            with path.open("rb") as stream:
                begins = stream.read(20)
            raise KitError(
                f"'{path.name}' is no checkpoint that PyTorch wrote",
                [f"it begins with {begins!r}"],
                hint="check what was saved or downloaded there; a file of another kind is for the template `function`",
            ) from error
        raise KitError(
            f"'{path.name}' holds more than weights, and a safe load refuses it",
            refused or str(error).splitlines()[-3:],
            hint="if you made this file yourself, set `weights_only = false` in [tool.offline-kit.notebook.params]; "
            "else save plain types only (numbers, strings, lists, dicts) as hyper-parameters",
        ) from error
    if not isinstance(loaded, Mapping):
        raise KitError(
            f"'{path.name}' holds a {type(loaded).__name__}, not a checkpoint",
            hint="save `model.state_dict()`, or let Lightning save it",
        )
    return dict(loaded)


def _load_safetensors(path: Path) -> dict[str, Any]:
    try:
        safetensors = importlib.import_module("safetensors.torch")
    except ImportError as error:
        raise KitError(
            f"'{path.name}' is a safetensors file, and safetensors cannot be imported: {error}",
            hint="add safetensors to the requirements, and build the kit again",
        ) from error
    weights = dict(safetensors.load_file(path, device="cpu"))
    with path.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    # Beside the tensors such a file holds texts alone; a checkpoint made light has its hyper-parameters there.
    rest = json.loads(header.get("__metadata__", {}).get("checkpoint", "{}"))
    return {**rest, "state_dict": weights} if rest else weights


def _refused(torch: Any, path: Path) -> list[str]:
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (AttributeError, ValueError, OSError):  # torch before 2.6, and the file format before 1.6
        return []


def names_of(call: Any) -> set[str]:
    """Return the names of a constructor's parameters."""
    stars = (
        inspect.Parameter.VAR_POSITIONAL,
        inspect.Parameter.VAR_KEYWORD,
        inspect.Parameter.POSITIONAL_ONLY,
    )
    return {each.name for each in inspect.signature(call).parameters.values() if each.kind not in stars}


def arguments_of(call: Any, saved: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constructor's arguments: what was saved, the params laid over it.

    A constructor with **kwargs gets all that was saved, as Lightning would give it, but no other param:
    `batch_size` may be the data's.
    """
    kinds = {each.kind for each in inspect.signature(call).parameters.values()}
    named = names_of(call)
    known = named | set(saved) if inspect.Parameter.VAR_KEYWORD in kinds else named
    return {name: value for name, value in {**saved, **params}.items() if name in known}


def check_params(params: Mapping[str, Any], checkpoint: Mapping[str, Any], takers: Sequence[Any]) -> None:
    """Raise KitError for a param that neither the template nor a constructor takes: it is a typing error."""
    saved = (_plain(checkpoint, key) for key in ("hyper_parameters", "datamodule_hyper_parameters"))
    known = set(OURS).union(*saved, *(names_of(taker) for taker in takers))
    unknown = [name for name in params if name not in known]
    if unknown:
        raise KitError(
            f"nothing takes the param {', '.join(map(repr, unknown))}",
            [f"known: {', '.join(sorted(known))}"],
            hint="correct [tool.offline-kit.notebook.params]",
        )


def _construct(call: Any, arguments: Mapping[str, Any], *first: Any, advice: str) -> Any:
    try:
        inspect.signature(call).bind(*first, **arguments)
    except TypeError as error:
        raise KitError(f"'{call.__name__}' cannot be made: {error}", hint=advice) from None
    return call(*first, **arguments)


def build_model(
    model_class: Any, checkpoint: Mapping[str, Any], params: Mapping[str, Any], device: str
) -> Any:
    """Construct the model, load its weights strictly, move it to the device, ready to predict."""
    weights = checkpoint.get("state_dict", checkpoint)
    model = _construct(
        model_class,
        arguments_of(model_class, _plain(checkpoint, "hyper_parameters"), params),
        advice="call save_hyperparameters() in the model, or give the values in [tool.offline-kit.notebook.params]",
    )
    have, want = set(weights), set(model.state_dict())
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        details = [f"in the model only: {_few(want - have)}"] * bool(want - have)
        details += [f"in the checkpoint only: {_few(have - want)}"] * bool(have - want)
        raise KitError(
            f"the checkpoint does not fit '{model_class.__name__}'",
            details or [line.strip() for line in str(error).splitlines()[1:6]],
            hint="take the code that the checkpoint was trained with, or the hyper-parameters that it was made from",
        ) from None
    return model.to(device).eval()


def _plain(checkpoint: Mapping[str, Any], key: str) -> dict[str, Any]:
    values = checkpoint.get(key) or {}
    return {str(name): value for name, value in dict(values).items()}


def _few(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def build_data(
    data_class: Any, root: Path | None, checkpoint: Mapping[str, Any], params: Mapping[str, Any]
) -> Any:
    """Construct the data class over the competition's folder, set it up, and check that it keeps the contract."""
    arguments = arguments_of(data_class, _plain(checkpoint, "datamodule_hyper_parameters"), params)
    first = next(iter(inspect.signature(data_class).parameters.values()), None)
    positional = first is not None and first.kind in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD)
    if first is not None and positional and first.name not in params:
        if root is None:
            raise KitError(
                f"'{data_class.__name__}' wants the competition's folder as '{first.name}', and none is attached",
                hint="set `competition` in the configuration, or give the value in [tool.offline-kit.notebook.params]",
            )
        arguments[first.name] = str(root) if first.annotation in (str, "str") else root
    data = _construct(
        data_class,
        arguments,
        advice="its first parameter gets the competition's folder; the others need a default, "
        "or a value in [tool.offline-kit.notebook.params]",
    )
    if not callable(getattr(data, "submission", None)):
        raise KitError(
            f"'{data_class.__name__}' has no method submission(predictions)",
            hint="add it: it gets one tensor with all predictions in the loader's order, "
            "and returns a pandas.DataFrame or a list of dictionaries",
        )
    if defines(data, "setup"):
        data.setup(*["predict"][: len(inspect.signature(data.setup).parameters)])
    return data


def defines(thing: Any, name: str) -> bool:
    """Tell whether a class of yours defines a method, rather than Lightning's base class."""
    owner = next((kind for kind in type(thing).__mro__ if name in vars(kind)), None)
    return owner is not None and owner.__module__.split(".")[0] not in LIBRARIES


def loader_of(data: Any) -> Any:
    """Return the loader of the test data."""
    for name in ("predict_dataloader", "test_dataloader"):
        if defines(data, name):
            loader = getattr(data, name)()
            if isinstance(loader, list | tuple | Mapping) and len(loader) == 1:
                loader = next(iter(loader.values() if isinstance(loader, Mapping) else loader))
            if isinstance(loader, list | tuple | Mapping):
                raise KitError(
                    f"{name}() returns {len(loader)} loaders", hint="return the one of the test data"
                )
            return loader
    raise KitError(
        f"'{type(data).__name__}' defines neither predict_dataloader nor test_dataloader",
        hint="define one that yields the test data's batches in a fixed order",
    )


def to_device(batch: Any, device: str) -> Any:
    """Move the tensors of a batch, however they are nested; the rest stays as it is."""
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(to_device(value, device) for value in batch)
    return batch.to(device) if hasattr(batch, "to") else batch


def predict_batch(model: Any, batch: Any, index: int) -> Any:
    """Return the model's answer to one batch as a tensor on the CPU, in single precision."""
    torch = importlib.import_module("torch")
    if defines(model, "predict_step"):
        answer = model.predict_step(batch, index)
    else:
        answer = model(batch[0] if isinstance(batch, list | tuple) else batch)
    if not isinstance(answer, torch.Tensor):
        raise KitError(
            f"the model answers with a {type(answer).__name__}, not a tensor",
            hint="define predict_step(batch, batch_idx) that returns one tensor, one row for each item of the batch",
        )
    answer = answer.detach().cpu()
    answer = answer.float() if answer.is_floating_point() else answer
    return answer.unsqueeze(0) if answer.dim() == 0 else answer


def progress(batches: Any, title: str, say: Say = print) -> Iterator[tuple[int, Any]]:
    """Yield numbered batches, and tell now and then how far it is."""
    total = len(batches) if hasattr(batches, "__len__") else None
    started = told = time.perf_counter()
    count = 0
    for index, batch in enumerate(batches):
        yield index, batch
        count = index + 1
        now = time.perf_counter()
        if now - told > 30:
            told = now
            say(f"{title}: batch {count}{f' of {total}' if total else ''}, {now - started:.0f} s")
    say(f"{title}: {count} {'batch' if count == 1 else 'batches'} in {time.perf_counter() - started:.1f} s")


def predict(model: Any, loader: Any, device: str, title: str, say: Say = print) -> Any:
    """Return the model's predictions for all batches of the loader as one tensor on the CPU."""
    torch = importlib.import_module("torch")
    with torch.inference_mode():
        answers = [
            predict_batch(model, to_device(batch, device), index)
            for index, batch in progress(loader, title, say)
        ]
    if not answers:
        raise KitError(
            "the loader of the test data yields no batch", hint="check where the data class looks for it"
        )
    return torch.cat(answers)
