"""What a joblib file would import: its pickle is interleaved with raw arrays, which opcodes alone cannot skip.

The machine of the standard library runs here with every name that it asks for replaced by an inert class, so
that nothing of the file is imported or called; an array's bytes are skipped by the shape and the type that
its wrapper states.
"""

import math
import pickle
from typing import IO, Any, ClassVar

from offline_kit.checkpoints.pickle_opcodes import (
    CALLED,
    COMPUTED,
    LOADER,
    PickleSurvey,
    encoded,
    nested_bytes,
    python3_name,
    survey_pickle,
)

WRAPPER = "joblib.numpy_pickle.NumpyArrayWrapper"
"""The class before whose bytes a plain reading has to stop."""
_CHUNK = 1 << 20


def read(stream: IO[bytes]) -> PickleSurvey:
    """Return what a joblib stream imports, from its place on; never raises on bad bytes.

    `whole` says that it was read to its end, arrays included.
    """
    machine = _Machine(stream)
    said = PickleSurvey(globals=machine.seen)
    try:
        machine.load()
        said.whole = True
        said.blind, said.reached = machine.blind, machine.reached
        said.nested = machine.inner
    except Exception:  # noqa: BLE001 - bad bytes make the machine fail in any way; what was seen counts
        said.whole, said.blind = False, True
    return said


class _Inert:
    """Stands for anything that a pickle names; takes all that the machine does to objects, does nothing."""

    _name = ""

    def __new__(cls, *args: Any, **_named: Any) -> "_Inert":
        made = object.__new__(cls)
        made.__dict__["_arguments"] = args
        return made

    def __init__(self, *_args: Any, **_named: Any) -> None:
        pass

    def __call__(self, *_args: Any, **_named: Any) -> "_Inert":
        return self

    def __setstate__(self, state: Any) -> None:
        self.__dict__["_state"] = state

    def __setitem__(self, _key: Any, _value: Any) -> None:
        pass

    def append(self, _item: Any) -> None:
        """Take an item of a list."""

    def extend(self, _items: Any) -> None:
        """Take items of a list."""

    def add(self, _item: Any) -> None:
        """Take an item of a set."""


def _named(full: str) -> Any:
    return type("Inert", (_Inert,), {"_name": full})


class _Machine(pickle._Unpickler):
    dispatch: ClassVar[Any] = dict(pickle._Unpickler.dispatch)

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream)
        self.source = stream
        self.seen: set[str] = set()
        self.reached: set[str] = set()
        self.blind = False
        self.inner: list[bytes] = []

    def find_class(self, module: str, name: str) -> Any:
        full = python3_name(module, name)
        self.seen.add(full)
        return self.attribute if full == "builtins.getattr" else _named(full)

    def attribute(self, thing: Any, name: str) -> Any:
        """Stand for getattr: note what it gets at."""
        self.blind |= not isinstance(name, str) or name.startswith("__")
        if isinstance(thing, type) and issubclass(thing, _Inert):
            self.reached.add(f"{thing._name}.{name}")
            return _named(f"{thing._name}.{name}")
        if isinstance(thing, _Inert) and thing._name:
            self.reached.add(f"{thing._name}.{name}")
            return _named(f"{thing._name}.{name}")
        self.blind = True
        return _Inert()

    def get_extension(self, code: int) -> None:
        self.seen.add(COMPUTED)
        self.stack.append(_named(str(code)))  # type: ignore[attr-defined]

    def persistent_load(self, _pid: Any) -> None:
        return None

    def load_build(self) -> None:
        super().load_build()  # type: ignore[misc]  # the stubs leave the opcodes' methods out
        top = self.stack[-1]  # type: ignore[attr-defined]
        if getattr(top, "_name", "") == WRAPPER:
            self.skip_array(top._state)

    dispatch[pickle.BUILD[0]] = load_build

    def load_reduce(self) -> None:
        function, arguments = self.stack[-2:]  # type: ignore[attr-defined]
        if not isinstance(function, type) and function != self.attribute:
            self.seen.add(CALLED)
        super().load_reduce()  # type: ignore[misc]
        name = getattr(function, "_name", "")
        if name == "_codecs.encode" and len(arguments) == 2 and (made := encoded(*arguments)) is not None:
            self.stack[-1] = made  # type: ignore[attr-defined]
        if name == LOADER and not (len(arguments) == 1 and isinstance(arguments[0], bytes)):
            self.seen.add(COMPUTED)
        self.inner += [raw for each in arguments if (raw := nested_bytes(each))]

    dispatch[pickle.REDUCE[0]] = load_reduce

    def skip_array(self, state: dict[str, Any]) -> None:
        """Leave the array behind a wrapper out; one of objects is a pickle of its own, which counts."""
        code = str(state["dtype"]._arguments[0])
        if code.lstrip("<>|=").startswith("O"):
            self.nested()
            return
        if state.get("numpy_array_alignment_bytes") is not None:
            self.skip(self.source.read(1)[0])
        self.skip(math.prod(int(length) for length in state["shape"]) * _itemsize(code))

    def nested(self) -> None:
        inner = survey_pickle(self.source)
        self.seen |= inner.globals
        self.reached |= inner.reached
        self.blind |= inner.blind
        self.inner += inner.nested
        if not inner.whole:
            raise EOFError("the pickle of an object array ends early")

    def skip(self, count: int) -> None:
        while count > 0:
            got = len(self.source.read(min(count, _CHUNK)))
            if not got:
                raise EOFError("an array ends early")
            count -= got


def _itemsize(code: str) -> int:
    """Return the bytes of one item of a numpy type code: "f8", "<U12", "V16", "b1"."""
    code = code.lstrip("<>|=")
    return int(code[1:]) * (4 if code[0] == "U" else 1)
