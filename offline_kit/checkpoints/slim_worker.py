"""Rewrite a checkpoint without what predictions do not need, and check that the weights are the same.

This file runs by itself in an interpreter that has torch, with the standard library and torch alone, on Python 3.9 or
newer. It reads a request (JSON) and writes an answer beside it; the original is only read. The same request gives the
same bytes.
"""

import ctypes
import importlib
import json
import re
import struct
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
_CODES = (
    "float64=F64 float32=F32 float16=F16 bfloat16=BF16 int64=I64 int32=I32 int16=I16 int8=I8 uint8=U8 bool=BOOL "
    "float8_e4m3fn=F8_E4M3 float8_e5m2=F8_E5M2"
)
DTYPE_CODES = dict(pair.split("=") for pair in _CODES.split())  # safetensors' names of torch's types


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
    dropped = [key for key in loaded if request["slim"] and _is_training(torch, key, loaded[key])]
    kept_items = _copy_like(loaded, {key: value for key, value in loaded.items() if key not in dropped})
    if not any(_is_weights(torch, value) for value in [kept_items, *kept_items.values()]):
        raise LeftUnchangedError("no weights were found in it")
    copier = TensorCopier(torch, half=request["half"])
    slimmed = copier.copy_tree(kept_items, weights=_is_weights(torch, kept_items))
    lost = []
    if request["safetensors"]:
        lost = _write_safetensors(torch, slimmed, target)
        reloaded = _read_safetensors(torch, target)
        pairs = [(tensor, reloaded[name]) for name, tensor in _single_state_dict(torch, kept_items).items()]
    else:
        torch.save(slimmed, target)
        reloaded = _load_checkpoint(torch, target, request)
        pairs = list(_pair_tensors(torch, kept_items, reloaded))
    for original, copy in pairs:
        _check_tensor(torch, original, copy, half=request["half"])
    return {
        "dropped": sorted(map(str, dropped)),
        "lost": lost,
        "tensors": len(pairs),
        "halved": copier.halved,
        "size": target.stat().st_size,
    }


def _load_checkpoint(torch: Any, path: Path, request: dict[str, Any]) -> Any:
    if path.suffix == ".safetensors":
        return _read_safetensors(torch, path)
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


class TensorCopier:
    """Copy tensors without the rest of their storages; shared tensors stay shared."""

    def __init__(self, torch: Any, *, half: bool) -> None:
        self.torch = torch
        self.half = half
        self.halved = 0
        self.copies: dict[Any, Any] = {}

    def copy_tree(self, value: Any, *, weights: bool = False) -> Any:
        """Return a value with its tensors copied, and weights in half precision if configured."""
        if self.torch.is_tensor(value):
            return self.copy_tensor(value, half=self.half and weights)
        if isinstance(value, dict):
            is_weights = weights or _is_weights(self.torch, value)
            return _copy_like(
                value, {key: self.copy_tree(value, weights=is_weights) for key, value in value.items()}
            )
        return value

    def copy_tensor(self, tensor: Any, *, half: bool) -> Any:
        """Return the single copy of a view of a storage: in half precision, or cut out of a larger storage."""
        if tensor.layout != self.torch.strided or tensor.is_quantized:
            return tensor
        key = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype, half)
        if key in self.copies and tensor.numel():
            return self.copies[key][0]
        copy = tensor.detach()
        if half and copy.dtype in (self.torch.float32, self.torch.float64):
            self.halved += 1
            copy = copy.to(self.torch.float16)
        elif copy.untyped_storage().nbytes() != copy.numel() * copy.element_size():
            # torch.save writes the whole storage of a view:
            # https://docs.pytorch.org/docs/stable/notes/serialization.html#preserve-storage-sharing
            copy = copy.clone()
        # The original is kept too, so that no other tensor gets its address.
        self.copies[key] = (copy, tensor)
        return copy


def _pair_tensors(torch: Any, old: Any, new: Any) -> Any:
    if torch.is_tensor(old):
        yield old, new
    elif isinstance(old, dict):
        if list(old) != list(new):
            raise LeftUnchangedError("it would not read back as it was written")
        for key, value in old.items():
            yield from _pair_tensors(torch, value, new[key])


def _check_tensor(torch: Any, old: Any, new: Any, *, half: bool) -> None:
    """Raise unless a tensor equals the old one bit for bit, or is the old one rounded to half precision."""
    if old.layout != torch.strided or old.is_quantized:
        return
    if half and new.dtype == torch.float16 and old.dtype in (torch.float32, torch.float64):
        if bool((torch.isinf(new) & ~torch.isinf(old)).any()):
            raise LeftUnchangedError("half precision cannot hold its largest weights (above 65504)")
        old = old.to(torch.float16)
    is_equal = old.dtype == new.dtype and old.shape == new.shape and _tensor_bytes(old) == _tensor_bytes(new)
    if not is_equal:
        raise LeftUnchangedError("a tensor did not come back as it was written")


def _tensor_bytes(tensor: Any) -> bytes:
    plain = tensor.detach().contiguous()
    return ctypes.string_at(plain.data_ptr(), plain.numel() * plain.element_size()) if plain.numel() else b""


def _single_state_dict(torch: Any, items: Any) -> dict[str, Any]:
    """Return the only state dict of a checkpoint; raise if there is none or more than one."""
    if _is_weights(torch, items):
        state_dicts = {"": items}
    else:
        state_dicts = {key: value for key, value in items.items() if _is_weights(torch, value)}
    if len(state_dicts) != 1:
        raise LeftUnchangedError(
            f"it holds several sets of weights ({', '.join(map(str, state_dicts))}), and safetensors takes one"
        )
    weights = dict(next(iter(state_dicts.values())))
    for name, value in weights.items():
        if not torch.is_tensor(value) or not _dtype_code(value):
            raise LeftUnchangedError(f"safetensors cannot hold '{name}' of it")
    return weights


def _dtype_code(tensor: Any) -> str:
    name = str(tensor.dtype).rpartition(".")[2] if str(tensor.layout) == "torch.strided" else ""
    return DTYPE_CODES.get(name, "")


def _write_safetensors(torch: Any, new: Any, target: Path) -> list[str]:
    """Write weights, and the rest as far as JSON can hold it; return the keys that are lost.

    Tensors that share memory are written separately: a strict load needs every name.
    """
    weights = _single_state_dict(torch, new)
    others = {} if _is_weights(torch, new) else new
    others = {key: value for key, value in others.items() if not _is_weights(torch, value)}
    extra = {key: value for key, value in others.items() if _is_json(value)}
    lost = [str(key) for key in others if key not in extra]
    metadata = {"format": "pt", **({"checkpoint": json.dumps(extra, sort_keys=True)} if extra else {})}
    header: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    names = sorted(weights, key=lambda name: (-weights[name].element_size(), name))
    for name in names:
        end = offset + weights[name].numel() * weights[name].element_size()
        header[name] = {
            "dtype": _dtype_code(weights[name]),
            "shape": list(weights[name].shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    # Aligned as in the reference: https://github.com/huggingface/safetensors#format
    text += b" " * (-len(text) % 8)
    with target.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            stream.write(_tensor_bytes(weights[name]))
    return lost


def _is_json(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError, RecursionError):
        return False


def _read_safetensors(torch: Any, path: Path) -> dict[str, Any]:
    types = {code: getattr(torch, name) for name, code in DTYPE_CODES.items() if hasattr(torch, name)}
    tensors = {}
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            stream.seek(8 + length + first)
            raw = bytearray(stream.read(last - first))
            if entry["dtype"] not in types:
                raise LeftUnchangedError(f"this torch does not know the type {entry['dtype']} of '{name}'")
            kind = types[entry["dtype"]]
            flat = torch.frombuffer(raw, dtype=kind) if raw else torch.empty(0, dtype=kind)
            tensors[name] = flat.reshape(entry["shape"])
    return tensors


if __name__ == "__main__":
    request_path = Path(sys.argv[1])
    answer = run_request(json.loads(request_path.read_text(encoding="utf-8")))
    request_path.with_suffix(".answer").write_text(json.dumps(answer), encoding="utf-8")
