"""Write a checkpoint anew without what predicting does not need, and prove that the weights are the same.

This file runs by itself in an interpreter that has torch, which need not be ours: the standard library and
torch alone, Python 3.9 or newer. It reads a request (JSON) and writes an answer beside it; the original is
only read. The same request gives the same bytes.
"""

import ctypes
import importlib
import importlib.util
import json
import re
import struct
import sys
import warnings
from pathlib import Path
from typing import Any, Optional

TRAINING = re.compile(
    r"optim(izers?)?(_states?|_state_dicts?)?|(lr_)?schedulers?(_states?|_state_dicts?)?|lr_sched\w*|scalers?(_states?|_state_dicts?)?|grad_scaler\w*"
    r"|amp(_scaler|_state)?|callbacks|loops|rng\w*|random_states?|\w*_rng_state\w*|trainer_state|sampler\w*|NativeMixed\w+"
    r"|MixedPrecision\w*",
    re.IGNORECASE,
)
"""Keys of a checkpoint that only going on with the training needs."""
SCALES = frozenset({"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"})
"""What the state of torch's GradScaler holds."""
CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
"""What safetensors calls torch's types."""


class Left(Exception):  # noqa: N818 - it is no error: the file stays as it is
    """Why a checkpoint is left as it is."""


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Do what the request says and return the answer: what was dropped, or why the file was left alone."""
    torch = importlib.import_module("torch")
    warnings.simplefilter("ignore")
    try:
        return _slim(torch, request)
    except Left as reason:
        return {"left": str(reason)}


def _slim(torch: Any, request: dict[str, Any]) -> dict[str, Any]:
    source, target = Path(request["source"]), Path(request["target"])
    loaded = _load(torch, source, request)
    if not isinstance(loaded, dict):
        raise Left(f"it holds a {type(loaded).__name__}, not weights by name")
    dropped = [key for key in loaded if request["slim"] and _is_training(torch, key, loaded[key])]
    kept = _like(loaded, {key: value for key, value in loaded.items() if key not in dropped})
    if not any(_is_weights(torch, value) for value in [kept, *kept.values()]):
        raise Left("no weights were found in it")
    tidy = Tidy(torch, half=request["half"])
    new = tidy.of(kept, weights=_is_weights(torch, kept))
    lost = []
    if request["safetensors"]:
        lost = _write_safetensors(torch, new, target)
        again = _read_safetensors(torch, target)
        pairs = [(tensor, again[name]) for name, tensor in _only_weights(torch, kept).items()]
    else:
        torch.save(new, target)
        again = _load(torch, target, request)
        pairs = list(_pairs(torch, kept, again))
    for old, fresh in pairs:
        _prove(torch, old, fresh, half=request["half"])
    return {
        "dropped": sorted(map(str, dropped)),
        "lost": lost,
        "tensors": len(pairs),
        "halved": tidy.halved,
        "size": target.stat().st_size,
    }


def _load(torch: Any, path: Path, request: dict[str, Any]) -> Any:
    if path.suffix == ".safetensors":
        return _read_safetensors(torch, path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its pickles raise
        if not request["trusted"]:
            raise Left(f"torch's weights_only load refuses it: {_first_line(error)}") from error
    sys.path[:0] = [root for root in request["roots"] if root not in sys.path]
    try:
        _lend(request.get("main", ""), request.get("names", []))
        return torch.load(path, map_location="cpu", weights_only=False)
    except (Exception, SystemExit) as error:
        lacking = re.search(r"attribute '(\w+)' on <module '__main__'", str(error))
        if lacking:
            raise Left(f"it looks up '{lacking[1]}' of the script that saved it (`main_from`)") from error
        raise Left(f"it cannot be loaded: {type(error).__name__}: {_first_line(error)}") from error


def _lend(script: str, names: list[str]) -> None:
    """Give `__main__` these names of a script, which is imported by its own name, so that its guard holds."""
    main = sys.modules["__main__"]
    lacking = [name for name in names if not hasattr(main, name)]
    if not script or not lacking:
        return
    spec = importlib.util.spec_from_file_location(Path(script).stem, script)
    if spec is None or spec.loader is None:
        return
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in lacking:
        thing = getattr(module, name)
        if getattr(thing, "__module__", "") == spec.name:
            thing.__module__ = "__main__"  # it is written again under the name that the notebook lends it by
        setattr(main, name, thing)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    refused = [line for line in lines if "Unsupported" in line]
    return (refused or lines or [type(error).__name__])[0][:300]


def _is_training(torch: Any, key: Any, value: Any) -> bool:
    if not isinstance(key, str) or TRAINING.fullmatch(key) is None or torch.is_tensor(value):
        return False
    return _is_grad_scaler(value) if key.lower().startswith("scaler") else True


def _is_grad_scaler(value: Any) -> bool:
    """Whether it scales gradients: "scaler" is also what people call the mean and deviation of their data."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_grad_scaler, value))
    return set(value) <= SCALES if isinstance(value, dict) else value is None


def _is_weights(torch: Any, thing: Any) -> bool:
    """Whether it is tensors by name, as a state dict is: most of its values are tensors."""
    if not isinstance(thing, dict) or not thing:
        return False
    return 2 * sum(1 for value in thing.values() if torch.is_tensor(value)) > len(thing)


def _like(old: Any, items: dict[Any, Any]) -> Any:
    """Return these items in a dict of the same kind, with what hangs on it (`_metadata`)."""
    try:
        fresh = type(old)()
        fresh.update(items)
        fresh.__dict__.update(old.__dict__)
    except (AttributeError, TypeError):
        return items
    return fresh


class Tidy:
    """Copies of tensors without the rest of their storages; what was one tensor stays one."""

    def __init__(self, torch: Any, *, half: bool) -> None:
        self.torch = torch
        self.half = half
        self.halved = 0
        self.made: dict[Any, Any] = {}

    def of(self, thing: Any, *, weights: bool = False) -> Any:
        """Return the thing with its tensors tidied, and halved where they are weights."""
        if self.torch.is_tensor(thing):
            return self.tensor(thing, half=self.half and weights)
        if isinstance(thing, dict):
            inner = weights or _is_weights(self.torch, thing)
            return _like(thing, {key: self.of(value, weights=inner) for key, value in thing.items()})
        return thing

    def tensor(self, tensor: Any, *, half: bool) -> Any:
        """Return the one copy of this view of a storage."""
        if tensor.layout != self.torch.strided or tensor.is_quantized:
            return tensor
        key = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype, half)
        if key not in self.made or not tensor.numel():
            self.made[key] = (self.fresh(tensor.detach(), half=half), tensor)
        return self.made[key][0]

    def fresh(self, tensor: Any, *, half: bool) -> Any:
        """Return a tensor of the same values, halved, or cut out of a larger storage."""
        if half and tensor.dtype in (self.torch.float32, self.torch.float64):
            self.halved += 1
            return tensor.to(self.torch.float16)
        storage = tensor.untyped_storage()
        whole = storage.nbytes() == tensor.numel() * tensor.element_size()
        return tensor if whole else tensor.clone()


def _pairs(torch: Any, old: Any, new: Any) -> Any:
    if torch.is_tensor(old):
        yield old, new
    elif isinstance(old, dict):
        if list(old) != list(new):
            raise Left("it would not read back as it was written")
        for key, value in old.items():
            yield from _pairs(torch, value, new[key])


def _prove(torch: Any, old: Any, new: Any, *, half: bool) -> None:
    """Raise unless a tensor is the old one bit for bit, or the old one rounded to half precision."""
    if old.layout != torch.strided or old.is_quantized:
        return
    if half and new.dtype == torch.float16 and old.dtype in (torch.float32, torch.float64):
        if bool((torch.isinf(new) & ~torch.isinf(old)).any()):
            raise Left("half precision cannot hold its largest weights (above 65504)")
        old = old.to(torch.float16)
    same = old.dtype == new.dtype and old.shape == new.shape and _bytes(old) == _bytes(new)
    if not same:
        raise Left("a tensor did not come back as it was written")


def _bytes(tensor: Any) -> bytes:
    plain = tensor.detach().contiguous()
    return ctypes.string_at(plain.data_ptr(), plain.numel() * plain.element_size()) if plain.numel() else b""


def _only_weights(torch: Any, kept: Any) -> dict[str, Any]:
    """Return the one state dict of a checkpoint; raises where there is none or more than one."""
    if _is_weights(torch, kept):
        found = {"": kept}
    else:
        found = {key: value for key, value in kept.items() if _is_weights(torch, value)}
    if len(found) != 1:
        raise Left(
            f"it holds several sets of weights ({', '.join(map(str, found))}), and safetensors takes one"
        )
    weights = dict(next(iter(found.values())))
    odd = [name for name, value in weights.items() if not torch.is_tensor(value) or _code(value) is None]
    if odd:
        raise Left(f"safetensors cannot hold '{odd[0]}' of it")
    return weights


def _code(tensor: Any) -> Optional[str]:  # noqa: UP045 - Python 3.9
    return CODES.get(str(tensor.dtype).rpartition(".")[2]) if str(tensor.layout) == "torch.strided" else None


def _write_safetensors(torch: Any, new: Any, target: Path) -> list[str]:
    """Write weights and what JSON can hold of the rest; returns the keys that are lost.

    Tensors that share their memory are written each for itself: a strict load wants every name.
    """
    weights = _only_weights(torch, new)
    rest, lost = {}, []
    for key, value in {} if _is_weights(torch, new) else new.items():
        if _is_weights(torch, value):
            continue
        if _is_json(value):
            rest[key] = value
        else:
            lost.append(str(key))
    metadata = {"format": "pt", **({"checkpoint": json.dumps(rest, sort_keys=True)} if rest else {})}
    header: dict[str, Any] = {"__metadata__": metadata}
    place = 0
    names = sorted(weights, key=lambda name: (-weights[name].element_size(), name))
    for name in names:
        end = place + weights[name].numel() * weights[name].element_size()
        header[name] = {
            "dtype": _code(weights[name]),
            "shape": list(weights[name].shape),
            "data_offsets": [place, end],
        }
        place = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with target.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            stream.write(_bytes(weights[name]))
    return lost


def _is_json(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError, RecursionError):
        return False


def _read_safetensors(torch: Any, path: Path) -> dict[str, Any]:
    types = {code: getattr(torch, name) for name, code in CODES.items() if hasattr(torch, name)}
    found = {}
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            stream.seek(8 + length + first)
            raw = bytearray(stream.read(last - first))
            if entry["dtype"] not in types:
                raise Left(f"this torch does not know the type {entry['dtype']} of '{name}'")
            kind = types[entry["dtype"]]
            flat = torch.frombuffer(raw, dtype=kind) if raw else torch.empty(0, dtype=kind)
            found[name] = flat.reshape(entry["shape"])
    return found


if __name__ == "__main__":
    place = Path(sys.argv[1])
    answer = run(json.loads(place.read_text(encoding="utf-8")))
    place.with_suffix(".answer").write_text(json.dumps(answer), encoding="utf-8")
