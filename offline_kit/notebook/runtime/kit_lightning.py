"""Rebuild a LightningModule and its data without a Trainer, and check their interface.

This file is part of offline-kit and is pasted into the notebooks that it renders. The interface:

* Model: constructed from the checkpoint's hyper-parameters (`save_hyperparameters()`), overridden by the
  notebook's params that its constructor takes. `predict_step(batch, index)` if the class defines one, else
  `forward` on the batch (on its first item if it is a list or tuple). One tensor per batch.
* Data: constructed with the competition's folder and, by name, the notebook's params. `setup("predict")`
  if defined; `predict_dataloader()`, else `test_dataloader()`, in a fixed order;
  `submission(predictions)` returns a data frame or a list of dictionaries. `prepare_data` is not called.
"""

import importlib
import inspect
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from offline_kit.notebook.runtime.kit_runtime import KitError, Say
from offline_kit.notebook.runtime.kit_torch import (
    call_constructor,
    choose_arguments,
    load_weights,
    parameter_names,
)
from offline_kit.notebook.runtime.kit_torch import load_checkpoint as load_checkpoint

TEMPLATE_PARAMS = frozenset({"weights_only"})
"""Params that the template itself reads."""
LIBRARIES = ("lightning", "pytorch_lightning", "torch")


def check_params(params: Mapping[str, Any], checkpoint: Mapping[str, Any], takers: Sequence[Any]) -> None:
    """Raise KitError for a param that neither the template nor a constructor takes: it is a typing error."""
    saved = (_saved_arguments(checkpoint, key) for key in ("hyper_parameters", "datamodule_hyper_parameters"))
    known_names = set(TEMPLATE_PARAMS).union(*saved, *(parameter_names(taker) for taker in takers))
    unknown = [name for name in params if name not in known_names]
    if unknown:
        raise KitError(
            f"there is no param {', '.join(map(repr, unknown))}",
            [f"known: {', '.join(sorted(known_names))}"],
            code="unknown-param",
            hint="correct [tool.offline-kit.notebook.params]",
        )


def build_model(
    model_class: Any, checkpoint: Mapping[str, Any], params: Mapping[str, Any], device: str
) -> Any:
    """Construct the model, load its weights strictly, move it to the device, ready to predict."""
    weights = checkpoint.get("state_dict", checkpoint)
    model = call_constructor(
        model_class,
        choose_arguments(model_class, _saved_arguments(checkpoint, "hyper_parameters"), params),
        advice="call save_hyperparameters() in the model, or give the values in [tool.offline-kit.notebook.params]",
    )
    load_weights(model, weights)
    return model.to(device).eval()


def _saved_arguments(checkpoint: Mapping[str, Any], key: str) -> dict[str, Any]:
    values = checkpoint.get(key) or {}
    return {str(name): value for name, value in dict(values).items()}


def build_data(
    data_class: Any, root: Path | None, checkpoint: Mapping[str, Any], params: Mapping[str, Any]
) -> Any:
    """Construct the data class over the competition's folder, set it up, and check that it keeps the contract."""
    arguments = choose_arguments(
        data_class, _saved_arguments(checkpoint, "datamodule_hyper_parameters"), params
    )
    first = next(iter(inspect.signature(data_class).parameters.values()), None)
    positional = first is not None and first.kind in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD)
    if first is not None and positional and first.name not in params:
        if root is None:
            raise KitError(
                f"'{data_class.__name__}' needs the competition's folder as '{first.name}', and none is attached",
                code="competition-not-attached",
                hint="set `competition` in the configuration, or give the value in [tool.offline-kit.notebook.params]",
            )
        arguments[first.name] = str(root) if first.annotation in (str, "str") else root
    data = call_constructor(
        data_class,
        arguments,
        advice="its first parameter gets the competition's folder; the others need a default, "
        "or a value in [tool.offline-kit.notebook.params]",
    )
    if not callable(getattr(data, "submission", None)):
        raise KitError(
            f"'{data_class.__name__}' has no method submission(predictions)",
            code="submission-method-missing",
            hint="add it: it gets one tensor with all predictions in the loader's order, "
            "and returns a pandas.DataFrame or a list of dictionaries",
        )
    if defines_method(data, "setup"):
        data.setup(*["predict"][: len(inspect.signature(data.setup).parameters)])
    return data


def defines_method(instance: Any, name: str) -> bool:
    """Whether the user's class defines a method, rather than Lightning's base class."""
    owner = next((kind for kind in type(instance).__mro__ if name in vars(kind)), None)
    return owner is not None and owner.__module__.split(".")[0] not in LIBRARIES


def find_loader(data: Any) -> Any:
    """Return the loader of the test data."""
    for name in ("predict_dataloader", "test_dataloader"):
        if defines_method(data, name):
            loader = getattr(data, name)()
            if isinstance(loader, list | tuple | Mapping) and len(loader) == 1:
                loader = next(iter(loader.values() if isinstance(loader, Mapping) else loader))
            if isinstance(loader, list | tuple | Mapping):
                raise KitError(
                    f"{name}() returns {len(loader)} loaders",
                    code="several-loaders",
                    hint="return the one of the test data",
                )
            return loader
    raise KitError(
        f"'{type(data).__name__}' defines neither predict_dataloader nor test_dataloader",
        code="predict-loader-missing",
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
    if defines_method(model, "predict_step"):
        answer = model.predict_step(batch, index)
    else:
        answer = model(batch[0] if isinstance(batch, list | tuple) else batch)
    if not isinstance(answer, torch.Tensor):
        raise KitError(
            f"the model answers with a {type(answer).__name__}, not a tensor",
            code="model-output-not-tensor",
            hint="define predict_step(batch, batch_idx) that returns one tensor, one row for each item of the batch",
        )
    answer = answer.detach().cpu()
    answer = answer.float() if answer.is_floating_point() else answer
    return answer.unsqueeze(0) if answer.dim() == 0 else answer


def report_batches(batches: Any, title: str, say: Say = print) -> Iterator[tuple[int, Any]]:
    """Yield numbered batches, and report the progress every 30 s."""
    total = len(batches) if hasattr(batches, "__len__") else None
    started = reported_at = time.perf_counter()
    count = 0
    for index, batch in enumerate(batches):
        yield index, batch
        count = index + 1
        current_time = time.perf_counter()
        if current_time - reported_at > 30:
            reported_at = current_time
            say(f"{title}: batch {count}{f' of {total}' if total else ''}, {current_time - started:.0f} s")
    say(f"{title}: {count} {'batch' if count == 1 else 'batches'} in {time.perf_counter() - started:.1f} s")


def predict_loader(model: Any, loader: Any, device: str, title: str, say: Say = print) -> Any:
    """Return the model's predictions for all batches of the loader as one tensor on the CPU."""
    torch = importlib.import_module("torch")
    with torch.inference_mode():
        answers = [
            predict_batch(model, to_device(batch, device), index)
            for index, batch in report_batches(loader, title, say)
        ]
    if not answers:
        raise KitError(
            "the loader of the test data yields no batch",
            code="loader-empty",
            hint="check where the data class looks for it",
        )
    return torch.cat(answers)
