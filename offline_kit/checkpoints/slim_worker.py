"""Rewrite a checkpoint without what predictions do not need, and check that the weights are the same.

This file runs by itself in an interpreter that has torch, with the standard library and torch alone, on Python 3.9 or
newer. It reads a request (JSON) and writes an answer beside it; the original is only read. The same request gives the
same bytes.
"""

import ctypes
import importlib
import json
import re
import sys
import warnings
from pathlib import Path
from typing import Any

TRAINING = re.compile(
    r"optim(izers?)?(_states?|_state_dicts?)?|(lr_)?schedulers?(_states?|_state_dicts?)?|lr_sched\w*|scalers?(_states?|_state_dicts?)?|grad_scaler\w*"
    r"|amp(_scaler|_state)?|callbacks|loops|rng\w*|random_states?|\w*_rng_state\w*|trainer_state|sampler\w*|NativeMixed\w+"
    r"|MixedPrecision\w*",
    re.IGNORECASE,
)
"""Keys of a checkpoint that only resuming the training needs."""
SCALER_KEYS = frozenset({"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"})
"""Keys in the state of torch.amp.GradScaler."""


class LeftUnchangedError(Exception):
    """The checkpoint stays unchanged, for this reason."""


def run_request(request: dict[str, Any]) -> dict[str, Any]:
    """Slim a file and return the answer: what was dropped, or why the file is unchanged."""
    torch = importlib.import_module("torch")
    warnings.simplefilter("ignore")
    try:
        return _slim_file(torch, request)
    except LeftUnchangedError as reason:
        return {"left": str(reason)}


def _slim_file(torch: Any, request: dict[str, Any]) -> dict[str, Any]:
    source, target = Path(request["source"]), Path(request["target"])
    loaded = _load_checkpoint(torch, source, request)
    if not isinstance(loaded, dict):
        raise LeftUnchangedError(f"it holds a {type(loaded).__name__}, not weights by name")
    dropped = [key for key, value in loaded.items() if _is_training(torch, key, value)]
    kept_items = _copy_like(loaded, {key: value for key, value in loaded.items() if key not in dropped})
    if not any(_is_weights(torch, value) for value in [kept_items, *kept_items.values()]):
        raise LeftUnchangedError("no weights were found in it")
    torch.save(_copy_tree(torch, kept_items, {}), target)
    pairs = list(_pair_tensors(torch, kept_items, _load_checkpoint(torch, target, request)))
    for original, copy in pairs:
        _check_tensor(torch, original, copy)
    return {"dropped": sorted(map(str, dropped)), "tensors": len(pairs), "size": target.stat().st_size}


def _load_checkpoint(torch: Any, path: Path, request: dict[str, Any]) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its pickles raise
        if not request["trusted"]:
            raise LeftUnchangedError(f"torch's weights_only load refuses it: {_first_line(error)}") from error
    sys.path[:0] = [root for root in request["roots"] if root not in sys.path]
    main = sys.modules["__main__"]
    while True:
        try:
            return torch.load(path, map_location="cpu", weights_only=False)
        except (Exception, SystemExit) as error:
            missing = re.search(r"attribute '(\w+)' on <module '__main__'", str(error))
            if not missing or hasattr(main, missing[1]):
                reason = f"it cannot be loaded: {type(error).__name__}: {_first_line(error)}"
                raise LeftUnchangedError(reason) from error
            # The training script is not run for its names: an empty class keeps an object's attributes, and is
            # pickled again under the same name.
            setattr(main, missing[1], type(missing[1], (), {"__module__": "__main__"}))


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    refused = [line for line in lines if "Unsupported" in line]
    return (refused or lines or [type(error).__name__])[0][:300]


def _is_training(torch: Any, key: Any, value: Any) -> bool:
    if not isinstance(key, str) or TRAINING.fullmatch(key) is None or torch.is_tensor(value):
        return False
    return not key.lower().startswith("scaler") or _is_grad_scaler(value)


def _is_grad_scaler(value: Any) -> bool:
    """Whether a value is the state of a gradient scaler: people also call data scalers "scaler"."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_grad_scaler, value))
    return set(value) <= SCALER_KEYS if isinstance(value, dict) else value is None


def _is_weights(torch: Any, value: Any) -> bool:
    """Whether a value is a state dict: most of its values are tensors."""
    if not isinstance(value, dict) or not value:
        return False
    return 2 * sum(1 for value in value.values() if torch.is_tensor(value)) > len(value)


def _copy_like(old: Any, items: dict[Any, Any]) -> Any:
    """Return these items in a dict of the same type, with its attributes (`_metadata`)."""
    try:
        fresh = type(old)()
        fresh.update(items)
        fresh.__dict__.update(old.__dict__)
    except (AttributeError, TypeError):
        return items
    return fresh


def _copy_tree(torch: Any, value: Any, copies: dict[Any, Any]) -> Any:
    """Return a value with its tensors cut out of larger storages; views of one storage stay one copy."""
    if isinstance(value, dict):
        return _copy_like(value, {key: _copy_tree(torch, item, copies) for key, item in value.items()})
    if not torch.is_tensor(value) or value.layout != torch.strided or value.is_quantized:
        return value
    key = (value.data_ptr(), tuple(value.shape), tuple(value.stride()), value.dtype)
    if key in copies and value.numel():
        return copies[key][0]
    copy = value.detach()
    if copy.untyped_storage().nbytes() != copy.numel() * copy.element_size():
        # torch.save writes the whole storage of a view:
        # https://docs.pytorch.org/docs/stable/notes/serialization.html#preserve-storage-sharing
        copy = copy.clone()
    # The original is kept too, so that no other tensor gets its address.
    copies[key] = (copy, value)
    return copy


def _pair_tensors(torch: Any, old: Any, new: Any) -> Any:
    if torch.is_tensor(old):
        yield old, new
    elif isinstance(old, dict):
        if list(old) != list(new):
            raise LeftUnchangedError("it would not read back as it was written")
        for key, value in old.items():
            yield from _pair_tensors(torch, value, new[key])


def _check_tensor(torch: Any, old: Any, new: Any) -> None:
    """Raise unless a tensor equals the old one bit for bit."""
    if old.layout != torch.strided or old.is_quantized:
        return
    is_equal = old.dtype == new.dtype and old.shape == new.shape and _tensor_bytes(old) == _tensor_bytes(new)
    if not is_equal:
        raise LeftUnchangedError("a tensor did not come back as it was written")


def _tensor_bytes(tensor: Any) -> bytes:
    plain = tensor.detach().contiguous()
    return ctypes.string_at(plain.data_ptr(), plain.numel() * plain.element_size()) if plain.numel() else b""


if __name__ == "__main__":
    request_path = Path(sys.argv[1])
    answer = run_request(json.loads(request_path.read_text(encoding="utf-8")))
    request_path.with_suffix(".answer").write_text(json.dumps(answer), encoding="utf-8")
